#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""How much faster `read_video` takes n frames of a video than decoding it whole, and than other libraries.

    python benchmarks/decoding.py            # all clips, some ten minutes
    python benchmarks/decoding.py --quick    # short clips only

Times are CPU seconds of the process, the least of interleaved rounds, one decoder thread each. "decode-all" is PyAV
decoding and converting every frame and keeping n. torchcodec (exact mode) and decord take part where they can be
imported. Frames are compared before anything is timed; "≠" marks a reader that is not there or returns other frames.
"""

import argparse
import sys
import time
from pathlib import Path

import av
import numpy as np

from svitt import read_video, sample_frame_indices

X264, NEVER_SLOWER = {"preset": "veryfast", "sc_threshold": "0"}, {4: 1 / 1.1, 8: 1 / 1.1}
CLIPS = {  # name → frames, keyframe interval, codec, its options, size, by which factor n frames must beat decode-all
    "10s_key12.mp4": (250, 12, "libx264", X264, (640, 360), {4: 1, 8: 1, 16: 1}),
    "10s_key250.mp4": (250, 250, "libx264", X264, (640, 360), {4: 2, 8: 1, 16: 1}),
    "1s.mkv": (24, 12, "libx264", X264, (640, 360), NEVER_SLOWER),
    "8_frames.mp4": (8, 250, "libx264", X264, (640, 360), NEVER_SLOWER),
    "tiny.mp4": (8, 12, "libx264", X264, (64, 64), NEVER_SLOWER),
    "hevc.mp4": (100, 50, "libx265", {"preset": "veryfast", "x265-params": "log-level=none"}, (640, 360), NEVER_SLOWER),
    "vp9.webm": (100, 50, "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, (640, 360), NEVER_SLOWER),
    "av1.mp4": (100, 50, "libsvtav1", {"preset": "12"}, (640, 360), NEVER_SLOWER),
    "mpeg4.avi": (100, 12, "mpeg4", {"b": "2M"}, (640, 360), NEVER_SLOWER),
    "animation.gif": (24, 1, "gif", {}, (160, 90), NEVER_SLOWER),
    "60s_key12.mp4": (1500, 12, "libx264", X264, (640, 360), {4: 35, 8: 20, 16: 1}),
    "60s_key250.mp4": (1500, 250, "libx264", X264, (640, 360), {4: 5, 8: 3, 16: 1}),
    "300s_key12.mp4": (7500, 12, "libx264", X264, (640, 360), {4: 150, 8: 1}),
}


def make_clip(path: str, num_frames: int, keyframe_interval: int, codec: str, options: dict, size: tuple[int, int]):
    """Moving gradients under noise, so that frames differ and take as many bytes as a camera's."""
    noises = np.random.default_rng(0).integers(0, 24, (8, size[1], size[0], 3))
    y, x = np.mgrid[: size[1], : size[0]]
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.gop_size = *size, keyframe_interval
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for i in range(num_frames):
            gradients = np.stack([x + 4 * i, y + 2 * i, x + y + i], axis=-1) % 256 * 0.85
            pixels = (gradients + noises[i % 8]).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def decode_all(path: str, indices: list[int]) -> np.ndarray:
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        frames = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
        wanted = {i: pixels for i, pixels in enumerate(frames) if i in indices}
    return np.stack([wanted[i] for i in indices])


def svitt(path: str, indices: list[int]) -> np.ndarray:
    return read_video(path, lambda metadata: sample_frame_indices(len(indices), metadata.total_num_frames))[0]


def torchcodec(path: str, indices: list[int]) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    return decoder.get_frames_at(indices).data.numpy()


def decord(path: str, indices: list[int]) -> np.ndarray:
    from decord import VideoReader

    return VideoReader(path, num_threads=1).get_batch(indices).asnumpy()


def is_right(reader, path: str, indices: list[int], expected: np.ndarray) -> bool:
    try:
        return np.array_equal(reader(path, indices), expected)
    except Exception:  # it is not installed, or whatever it raises for a format that it cannot read
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the clips of a minute and more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips_dir", type=Path, default="benchmark_clips", help="where the clips are kept")
    args = parser.parse_args()
    args.clips_dir.mkdir(parents=True, exist_ok=True)
    print(f"{'clip':<16}{'n':>4}{'decode-all':>15}{'required':>10}{'svitt':>12}{'torchcodec':>12}{'decord':>12}")
    all_met = True
    for name, (num_frames, *how, required) in CLIPS.items():
        if args.quick and num_frames > 250:
            continue
        path = str(args.clips_dir / name)
        if not Path(path).is_file():
            make_clip(path, num_frames, *how)
        for n, factor in required.items():
            indices = sample_frame_indices(n, num_frames)
            expected = decode_all(path, indices)
            readers = [reader for reader in (svitt, torchcodec, decord) if is_right(reader, path, indices, expected)]
            times = {reader: [] for reader in (decode_all, *readers)}
            for reader in list(times) * args.rounds:
                start = time.process_time()
                reader(path, indices)
                times[reader].append(time.process_time() - start)
            faster = {reader: min(times[decode_all]) / min(times[reader]) for reader in readers}
            is_met = faster.get(svitt, 0) >= max(factor, *(faster[reader] / 1.1 for reader in readers))
            print(f"{name:<16}{n:>4}{1000 * min(times[decode_all]):>12.0f} ms{factor:>9.1f}x", end="")
            cells = [f"{faster[reader]:.1f}x" if reader in faster else "≠" for reader in (svitt, torchcodec, decord)]
            print("".join(f"{cell:>12}" for cell in cells), "" if is_met else "MISSED", flush=True)
            all_met &= is_met
    sys.exit(not all_met)


if __name__ == "__main__":
    main()
