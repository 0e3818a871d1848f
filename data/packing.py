# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Pack videos and what is annotated of them into tar shards, `train-00000-of-00012.tar` and so on.

A sample is a video with all its captions in a list, `caption`, or with all questions about it, in lists of equal
length; multiple choices are a sample each. `manifest.jsonl` has a line for each finished shard: packing that was
stopped, or killed, continues with the others when it is run again, and all shards are the same, byte for byte.
"""

import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..distributed import whole_files
from ..errors import ArgumentError, InputError, check_number, writing
from ..processing_svitt import VideoDecodeError, read_video, sample_frame_indices
from .annotations import FIELDS_OF
from .check import in_workers
from .files import write_bad_videos
from .formats import read_annotations
from .mp4 import timed, write_mp4
from .presets import Split, splits_of

CHUNK_BYTES = 2**28  # of frames that are decoded at once


def pack(
    video_dir: str | None = None,
    annotation_file: Sequence[str] | None = None,
    output_dir: str = "packed",
    split: str = "train",
    samples_per_shard: int = 1000,
    short_side: int | None = None,
    crf: int = 23,
    bad_videos: str = "error",
    num_workers: int | None = None,
    timeout: float = 600.0,
    **dataset,
):
    """Write the shards of a split that are not finished yet, and print what there is.

    Arguments are the options of `svitt pack`; `dataset` are the others of [`splits_of`]: `split` of it is packed. All
    annotations are of one kind.

    Raises:
        InputError: if an argument or an annotation is wrong, or the folder has other shards of the split.
        VideoDecodeError: for a bad video, if these are not to be skipped.
    """
    check_number("samples_per_shard", samples_per_shard, 1)
    check_number("short_side", short_side, 2)
    check_number("crf", crf, 0, 51)
    if not re.fullmatch(r"\w+", split):
        raise ArgumentError("split", f"must be letters, digits and underscores, such as train, got {split!r}")
    folder, may_skip = Path(output_dir), bad_videos == "skip"
    splits = splits_of(annotation_file or (), video_dir=video_dir, **dataset)
    if not annotation_file:
        if split not in splits:
            known = ", ".join(splits) or "none; give `annotation_file` or `dataset_file`"
            raise ArgumentError("split", f"must be one with an annotation, got {split}; there is {known}")
        splits = {split: splits[split]}
    samples = read_samples(splits.values(), allow_missing=may_skip)
    parts = [samples[start : start + samples_per_shard] for start in range(0, len(samples), samples_per_shard)]
    shards = {f"{split}-{number:05d}-of-{len(parts):05d}.tar": part for number, part in enumerate(parts)}
    for path in folder.glob(f"{split}-*-of-*.tar"):
        if path.name not in shards:
            raise InputError(f"{path}: is in the way, the shards of {split} will be {next(iter(shards))} and so on.")
    lines, plans, todo = read_manifest(folder), {}, []
    for name, part in shards.items():
        plans[name] = sha256(json.dumps([short_side, short_side and crf, part]).encode()).hexdigest()
        # A shard is finished if it has been made of the same samples with the same settings.
        line = lines.get(name, {"plan": None})
        is_whole = line["plan"] == plans[name] and line["size"] == size_of(folder / name)
        if not is_whole or line["bad_videos"] and not may_skip:
            todo.append(name)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(".encoded*"):  # of a process that was killed
            shutil.rmtree(path)
        with tempfile.TemporaryDirectory(prefix=".encoded", dir=folder) as encoded:
            prepare = partial(prepare_video, folder=encoded, short_side=short_side, crf=crf)
            sources = [sample["path"] for name in todo for sample in shards[name]]
            videos = in_workers(prepare, sources, "packing", num_workers, timeout)
            for name in todo:
                with whole_files(folder) as new:
                    bad = write_shard(new / name, shards[name], videos, may_skip)
                size, sha = size_of(folder / name), hash_of(folder / name)
                line = {"shard": name, "samples": len(shards[name]) - len(bad), "size": size, "sha256": sha}
                lines[name] = line | {"plan": plans[name], "bad_videos": bad}
                with whole_files(folder) as new:
                    manifest = "".join(f"{json.dumps(lines[name])}\n" for name in sorted(lines))
                    (new / "manifest.jsonl").write_text(manifest)
    bad = [bad for line in lines.values() for bad in line["bad_videos"]]
    if bad or (folder / "bad_videos.jsonl").exists():
        write_bad_videos(folder / "bad_videos.jsonl", bad)
    kept = [lines[name] for name in shards]
    size, num_bad = sum(line["size"] for line in kept) / 1e9, sum(len(line["bad_videos"]) for line in kept)
    skipped = f"; {num_bad} videos were skipped, see bad_videos.jsonl" if num_bad else ""
    print(f"{folder}: {len(kept)} shards with {sum(line['samples'] for line in kept)} samples, {size:.3f} GB{skipped}.")


def read_samples(splits: Iterable[Split], allow_missing: bool) -> list[dict]:
    """Return the videos of splits in their order, each with its path, its size and all that is said of it.

    Where a row is about a span of its video, each caption or question has its `start` and `end`.
    """
    samples = {}
    for split in splits:
        rows, kind = split.annotations(allow_missing), split.rows
        for row in rows:
            fields: dict[str, Any] = FIELDS_OF[kind](row)
            if kind == "questions":
                fields = {name: [value] for name, value in fields.items()}
            num_texts = len(next(iter(fields.values())))
            for name, time in row.span().items():
                fields[name] = time if kind == "multiple_choice" else [time] * num_texts
            for path in map(os.path.normpath, rows.videos_of(row, only_one=kind != "captions")):
                key = len(samples) if kind == "multiple_choice" else path
                if key in samples:
                    known = samples[key]["fields"]
                    known |= {name: known[name] + values for name, values in fields.items()}
                    continue
                sample = {"key": f"{len(samples):08d}", "path": path, "size": size_of(Path(path)), "where": row.where}
                video = os.path.relpath(path, split.videos or Path(split.annotation).parent)
                samples[key] = sample | {"fields": {"video": video} | fields}
    for sample in samples.values():
        fields = sample["fields"]
        if not any(time is not None for time in np.ravel([fields["start"], fields["end"]])):
            del fields["start"], fields["end"]
    return list(samples.values())


def write_shard(path: Path, samples: list[dict], videos: Iterator, may_skip: bool) -> list[dict]:
    """Write a shard of samples and of what [`prepare_video`] returned for them; return which are bad."""
    bad = []
    with tarfile.open(path, "w") as tar:
        for sample, video in zip(samples, videos, strict=False):
            name = sample["fields"]["video"]
            if isinstance(video, VideoDecodeError) and may_skip:
                bad.append({"video": name, "error": str(video), "where": sample["where"]})
                continue
            if isinstance(video, Exception):
                raise video
            text = json.dumps(sample["fields"], ensure_ascii=False).encode()
            with open(video, "rb") as content:
                for extension, part in {"json": io.BytesIO(text), "mp4": content}.items():
                    member = tarfile.TarInfo(f"{sample['key']}.{extension}")  # of nobody, at the beginning of time
                    member.size = part.seek(0, os.SEEK_END)
                    part.seek(0)
                    tar.addfile(member, part)
            if video != sample["path"]:
                os.unlink(video)
    return bad


def prepare_video(source: str, folder: str, short_side: int | None, crf: int) -> str:
    """Read some of a video, or all of it to encode it anew; return the file where it is now."""
    if short_side is None:
        read_video(source, lambda metadata: sample_frame_indices(4, metadata.total_num_frames))
        return source
    target = os.path.join(folder, f"{sha256(source.encode()).hexdigest()}.mp4")
    encode_video(source, target, short_side, crf)
    return target


def encode_video(source: str, target: str, short_side: int, crf: int):
    """Write an MP4 in H.264 of all frames of a video, upright, at their times since the first.

    Raises:
        VideoDecodeError: if not all of the video can be decoded.
    """

    def frames() -> Iterator[av.VideoFrame]:
        start, num_frames, count = 0, 1, 64
        while start < num_frames:
            chunk = slice(start, start + count)
            pick = lambda metadata: list(range(metadata.total_num_frames)[chunk])  # noqa: B023, E731
            images, metadata = read_video(source, pick, short_side=short_side)
            num_frames, fps = metadata.total_num_frames, metadata.fps or 25
            times = np.arange(num_frames) / fps if metadata.frame_times is None else metadata.frame_times
            times = [*times.tolist(), float(times[-1]) + 1 / fps]
            for number, image in enumerate(images, start):
                yield timed(av.VideoFrame.from_ndarray(image, format="rgb24"), times[number], times[number + 1])
            start, count = start + count, max(1, CHUNK_BYTES // images[0].nbytes)

    write_mp4(target, frames(), crf)


def read_manifest(folder: Path) -> dict[str, dict]:
    """Return the lines of a manifest, by shard."""
    path = folder / "manifest.jsonl"
    return {line["shard"]: line for _, _, line in read_annotations(path)} if path.is_file() else {}


def size_of(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def hash_of(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()
