#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""How much faster `read_video` takes n frames of a video than decoding it whole, and than other libraries.

    python benchmarks/decoding.py            # all clips, some ten minutes
    python benchmarks/decoding.py --quick    # short clips only

Times are CPU seconds of the process, medians of interleaved rounds, one decoder thread each. "decode-all" is PyAV
decoding and converting every frame and keeping n. torchcodec (exact mode) and decord take part where they can be
imported. Frames are compared before anything is timed; "≠" marks a reader that returns other frames than decode-all.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from tqdm import tqdm

from svitt import read_video, sample_frame_indices


class Clip(NamedTuple):
    """A clip to be made, and by which factor reading n frames of it must beat decode-all."""

    name: str
    num_frames: int
    keyframe_interval: int
    required: dict[int, float]  # n → factor
    codec: str = "libx264"
    size: tuple[int, int] = (640, 360)
    options: dict[str, str] = {"preset": "veryfast", "sc_threshold": "0"}


# Nowhere may it be slower than decode-all by more than a tenth.
NEVER_SLOWER = {4: 1 / 1.1, 8: 1 / 1.1}
LONG = [
    Clip("60s_key12.mp4", 1500, 12, {4: 35, 8: 20, 16: 1}),
    Clip("60s_key250.mp4", 1500, 250, {4: 5, 8: 3, 16: 1}),
    Clip("300s_key12.mp4", 7500, 12, {4: 150, 8: 1}),
]
SHORT = [
    Clip("10s_key12.mp4", 250, 12, {4: 1, 8: 1, 16: 1}),
    Clip("10s_key250.mp4", 250, 250, {4: 2, 8: 1, 16: 1}),
    Clip("1s.mkv", 24, 12, NEVER_SLOWER),
    Clip("8_frames.mp4", 8, 250, NEVER_SLOWER),
    Clip("tiny.mp4", 8, 12, NEVER_SLOWER, size=(64, 64)),
    Clip("hevc.mp4", 100, 50, NEVER_SLOWER, "libx265", options={"preset": "veryfast", "x265-params": "log-level=none"}),
    Clip("vp9.webm", 100, 50, NEVER_SLOWER, "libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
    Clip("av1.mp4", 100, 50, NEVER_SLOWER, "libsvtav1", options={"preset": "12"}),
    Clip("mpeg4.avi", 100, 12, NEVER_SLOWER, "mpeg4", options={"b": "2M"}),
    Clip("animation.gif", 24, 1, NEVER_SLOWER, "gif", size=(160, 90), options={}),
]


def make_clip(path: Path, clip: Clip):
    """Moving gradients under noise, so that frames differ and take as many bytes as a camera's."""
    width, height = clip.size
    rng = np.random.default_rng(0)
    noises = rng.integers(0, 24, (8, height, width, 3))
    y, x = np.mgrid[:height, :width]
    incomplete = path.with_name(f"incomplete_{path.name}")
    with av.open(str(incomplete), "w") as container:
        stream = container.add_stream(clip.codec, rate=25, options=clip.options)
        stream.width, stream.height = clip.size
        stream.pix_fmt = "rgb8" if clip.codec == "gif" else "yuv420p"
        stream.gop_size = clip.keyframe_interval
        for i in tqdm(range(clip.num_frames), desc=path.name, leave=False, disable=None):
            gradients = np.stack([x + 4 * i, y + 2 * i, x + y + i], axis=-1) % 256 * 0.85
            pixels = (gradients + noises[i % 8]).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    incomplete.rename(path)


def read_with_decode_all(path: str, indices: list[int]) -> np.ndarray:
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        wanted = {}
        for i, frame in enumerate(container.decode(video=0)):
            pixels = frame.to_ndarray(format="rgb24")
            if i in indices:
                wanted[i] = pixels
    return np.stack([wanted[i] for i in indices])


def read_with_svitt(path: str, indices: list[int]) -> np.ndarray:
    return read_video(path, lambda metadata: sample_frame_indices(len(indices), metadata.total_num_frames))[0]


def other_readers() -> dict[str, Callable[[str, list[int]], np.ndarray]]:
    readers = {}
    try:
        from torchcodec.decoders import VideoDecoder

        def read_with_torchcodec(path, indices):
            decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
            return decoder.get_frames_at(indices).data.numpy()

        readers["torchcodec"] = read_with_torchcodec
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec takes no part: {str(error).splitlines()[0]}")
    try:
        import decord

        def read_with_decord(path, indices):
            return decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()

        readers["decord"] = read_with_decord
    except (ImportError, OSError) as error:
        print(f"decord takes no part: {error}")
    return readers


def same_frames(reader: Callable, path: str, indices: list[int], expected: np.ndarray) -> bool:
    try:
        return np.array_equal(reader(path, indices), expected)
    except Exception:  # whatever another library raises for a format that it cannot read
        return False


def measure(readers: dict[str, Callable], path: str, indices: list[int], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each reader."""
    times = {name: [] for name in readers}
    for _ in range(rounds):
        for name, reader in readers.items():
            start = time.process_time()
            reader(path, indices)
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(path: Path, clip: Clip, others: dict[str, Callable], rounds: int) -> list[dict]:
    """One row per n: seconds of each reader, and whether the requirement is met."""
    rows = []
    for n, required in clip.required.items():
        indices = sample_frame_indices(n, clip.num_frames)
        expected = read_with_decode_all(str(path), indices)
        if not same_frames(read_with_svitt, str(path), indices, expected):
            sys.exit(f"{path}: read_video returns other frames than decode-all for n = {n}.")
        right = {name for name, reader in others.items() if same_frames(reader, str(path), indices, expected)}
        readers = {"decode-all": read_with_decode_all, "svitt": read_with_svitt}
        readers |= {name: others[name] for name in others if name in right}
        seconds = measure(readers, str(path), indices, rounds)
        factor = seconds["decode-all"] / seconds["svitt"]
        fastest_other = min((seconds[name] for name in right), default=float("inf"))
        met = factor >= required and seconds["svitt"] <= 1.1 * fastest_other
        rows.append({"clip": path.name, "n": n, "seconds": seconds, "factor": factor, "required": required, "met": met})
        cells = [
            f"{seconds['decode-all'] / seconds[name]:10.1f}x" if name in right else f"{'≠':>11}" for name in others
        ]
        print(
            f"{path.name:<16}{n:>4}{1000 * seconds['decode-all']:>12.0f} ms{1000 * seconds['svitt']:>8.1f} ms"
            f"{factor:>9.1f}x{required:>9.1f}x" + "".join(cells) + ("" if met else "   MISSED"),
            flush=True,
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the clips of a minute and more")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved measurements of each reader")
    parser.add_argument("--clips_dir", type=Path, default="benchmark_clips", help="where the clips are kept")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    args = parser.parse_args()

    args.clips_dir.mkdir(parents=True, exist_ok=True)
    others = other_readers()
    print(f"{'clip':<16}{'n':>4}{'decode-all':>15}{'svitt':>11}{'faster':>10}{'required':>10}", end="")
    print("".join(f"{name:>11}" for name in others))
    rows = []
    for clip in SHORT if args.quick else SHORT + LONG:
        path = args.clips_dir / clip.name
        if not path.is_file():
            make_clip(path, clip)
        rows += compare(path, clip, others, args.rounds)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))
    if not all(row["met"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
