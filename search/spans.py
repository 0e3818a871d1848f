# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What is indexed: videos and photos, also those in tar shards, the spans that they are cut into, and reading these."""

import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..data.files import VIDEO_EXTENSIONS, files_below, files_in_tar, is_video
from ..errors import InputError, not_found
from ..processing_svitt import (
    IMAGE_EXTENSIONS,
    ROUNDING,
    SViTTVideoProcessor,
    VideoDecodeError,
    frames_during,
    read_video,
    sample_frame_indices,
    times_of,
)
from .places import asking, canonical, is_url, open_store, read_bytes, versions_below

BYTES_AT_ONCE = 2**29  # of frames of one video, as small as the model sees them, that are read at once


# ---- Videos


class Source(NamedTuple):
    """A file of a video or photo, or one within a tar shard."""

    video: str  # absolute path, or URL; `<shard>::<member>` in a shard
    version: str  # differs when the file has been replaced
    shard: str = ""
    offset: int = 0
    size: int = 0

    def is_unchanged(self) -> bool:
        """Return whether the file is as it was; in a store, [`read`] finds out: a search would ask for each hit."""
        place = self.shard or self.video
        with suppress(OSError):
            return is_url(place) or self.version == version_of(place)
        return False

    def read(self) -> str | dict:
        """Return what [`read_video`] takes: a path, or where this is not a file on its own, its name and bytes.

        Raises:
            OSError: if it cannot be read, or has changed in its store.
        """
        if not self.shard and not is_url(self.video):
            return self.video
        part = (self.offset, self.offset + self.size) if self.shard else ()
        return {"path": self.video, "bytes": read_bytes(self.shard or self.video, self.version, *part)}


def version_of(path: str) -> str:
    state = os.stat(path)
    return f"{state.st_size} {state.st_mtime_ns}"


def absolute(path: str | os.PathLike) -> str:
    if not str(path):
        raise InputError("A path is empty; name a video, a folder or a tar shard.")
    return canonical(str(path)) if is_url(path) else os.path.abspath(path)


def absolutes(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[str]:
    """Return the absolute names of paths, or of a single one, which is no list of letters."""
    return [absolute(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]


def is_below(name: str, path: str) -> bool:
    """Return whether the video of this name is, or lies in, this file, folder or shard."""
    folder = path.rstrip("/" + os.sep)
    return name == path or name.startswith((f"{folder}{os.sep}", f"{folder}/", f"{path}::"))


def find_sources(paths: list[str], own: str = "") -> tuple[dict[str, Source], dict[str, str], dict[str, int]]:
    """Return the videos and photos among files, below folders, and in tar shards.

    A file that a path names is one whatever its extension.

    Args:
        paths: as [`absolute`] returns them.
        own: folder whose files are not worth mentioning when they are passed over.

    Returns:
        sources by name; what cannot be read, and why; how many files were passed over, by extension.

    Raises:
        InputError: for a path that does not exist, or a folder or shard without videos.
    """
    sources, bad, skipped = {}, {}, Counter()

    def refuse(path: str, error: Exception):
        bad[path] = f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})."

    def is_wanted(file: str) -> bool:
        name = os.path.basename(file).rpartition("::")[2]
        wanted = is_video(name, VIDEO_EXTENSIONS + IMAGE_EXTENSIONS)
        if not wanted and not (own and is_below(file, own)):
            skipped["hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() or "without extension"] += 1
        return wanted

    for path in paths:
        num_before = len(sources) + len(bad)
        for file, version in files_of(path, lambda error: refuse(error.filename, error)).items():
            try:
                file.encode()  # no other name can be written into the table
                if file.endswith(".tar"):
                    sources |= {member.video: member for member in members_of(file, version) if is_wanted(member.video)}
                elif file == path or is_wanted(file):
                    sources[file] = Source(file, version or version_of(file))
            except (OSError, UnicodeError, tarfile.TarError) as error:
                refuse(file, error)
        if len(sources) + len(bad) == num_before and path not in sources:
            raise InputError(f"{path}: holds no video{passed_over(skipped)}.")
    return sources, bad, skipped


def files_of(path: str, on_error: Callable[[OSError], None]) -> Mapping[str, str | None]:
    """Return the file, or all files below a folder, in order; in a store, with their versions."""
    if os.path.isdir(path):
        return dict.fromkeys(sorted(files_below(path, on_error)))
    if is_url(path) and (versions := versions_below(path)):
        return versions
    if os.path.exists(path):
        return {path: None}
    raise not_found(path, "file or folder")


def passed_over(skipped: dict[str, int]) -> str:
    """Return how many files were passed over, the most frequent extensions first, to be put behind a sentence."""
    most = Counter(skipped).most_common(10)
    others = sum(skipped.values()) - sum(count for _, count in most)
    parts = [f"{count} {extension}" for extension, count in (*most, ("others", others)) if count]
    return f"; passed over: {', '.join(parts)}" if parts else ""


def members_of(shard: str, version: str | None) -> list[Source]:
    """Return all files in a shard, which is read but for their contents."""
    files, path = open_store(shard)
    version = version or version_of(shard)
    with asking(shard, OSError), files.open(path, block_size=2**16) as file:
        members = [member for _, member in files_in_tar(file)]
    return [Source(f"{shard}::{one.name}", version, shard, one.offset_data, one.size) for one in members]


# ---- Spans


class Span(NamedTuple):
    """A stretch of a video: frames `first` up to `last`, exclusive; `number` `number` of `num_spans`."""

    number: int
    num_spans: int
    start: float  # seconds
    end: float
    first: int
    last: int


def cut(metadata, clip_seconds: float, stride_seconds: float) -> list[Span]:
    """Return the spans of a video: every `stride_seconds` one of `clip_seconds`, the last one up to the end.

    A span has the frames that are shown during it; one that would show no new frame is left out, so that there are no
    more spans than frames. A video that is shorter, or whose frame rate is not known, is one span; a photo lasts from
    0 to 0.

    Args:
        metadata: `total_num_frames`, `fps` and `frame_times` of [`read_video`].
    """
    num_frames, fps = metadata.total_num_frames, metadata.fps
    if not fps or num_frames == 1:
        return [Span(0, 1, 0.0, 0.0, 0, num_frames)]
    times = times_of(metadata)
    duration = float(times[-1]) + 1 / fps
    if duration <= clip_seconds + ROUNDING:
        return [Span(0, 1, 0.0, duration, 0, num_frames)]
    last_start = duration - clip_seconds
    starts = np.unique(np.floor(times / stride_seconds + ROUNDING)) * stride_seconds
    starts = np.unique(np.where(starts < last_start - ROUNDING, starts, last_start))
    ends = np.minimum(starts + clip_seconds, duration)
    firsts, lasts = frames_during(times, starts, ends)
    rows = zip(starts.tolist(), ends.tolist(), firsts.tolist(), lasts.tolist(), strict=True)
    return [Span(number, len(starts), *row) for number, row in enumerate(rows)]


class Clip(NamedTuple):
    """What the model sees of a span: frames (T, 3, H, W) uint8, and when they are shown (T,), in seconds."""

    frames: torch.Tensor
    times: np.ndarray
    damage: str | None = None  # of a file that is used all the same


def read_spans(
    source: Source, choose: Callable[..., list[Span]], processor: SViTTVideoProcessor, num_frames: int
) -> Iterator[tuple[Span, Clip]]:
    """Yield the spans that `choose` picks, given the metadata, with clips of `num_frames`; the file is read once.

    Raises:
        VideoDecodeError, OSError: if the video, or the shard, cannot be read.
    """
    spans: list[Span] = []
    numbers: list[list[int]] = []  # of the frames of each span

    def pick(metadata) -> list[int]:
        last = metadata.total_num_frames - 1
        spans[:] = choose(metadata)
        numbers[:] = [
            [min(span.first + i, last) for i in sample_frame_indices(num_frames, span.last - span.first)]
            for span in spans
        ]
        return sorted({number for of_span in numbers for number in of_span})  # spans that overlap share frames

    def shrink(frame: np.ndarray) -> np.ndarray:
        return processor.read_clip(np.ascontiguousarray(frame)[None], do_sample_frames=False)[0].numpy()

    settings: dict[str, Any] = {"square_pixels": processor.square_pixels, "damaged": processor.damaged}
    frames, metadata = read_video(source.read(), pick, shrink=shrink, **settings)
    row_of, times = {number: row for row, number in enumerate(metadata.frames_indices)}, times_of(metadata)
    for span, of_span in zip(spans, numbers, strict=True):
        seen = torch.from_numpy(frames[[row_of[number] for number in of_span]])
        yield span, Clip(seen, times[of_span], metadata.damage)


class SpanReader(IterableDataset):
    """`(source, span, clip)` for each span; for a video that cannot be read, `(source, None, error)`.

    Args:
        todo: videos, and the numbers of their spans that are not wanted.
        num_frames: of a clip.
    """

    def __init__(
        self,
        todo: list[tuple[Source, set[int]]],
        clip_seconds: float,
        stride_seconds: float,
        processor: SViTTVideoProcessor,
        num_frames: int,
    ):
        self.todo, self.lengths = todo, (clip_seconds, stride_seconds)
        self.processor, self.num_frames = processor, num_frames
        num_bytes = 3 * num_frames * processor.size["height"] * processor.size["width"]
        self.spans_at_once = max(1, BYTES_AT_ONCE // num_bytes)

    def __iter__(self) -> Iterator[tuple[Source, Span | None, Clip | str]]:
        worker = get_worker_info()
        for source, done in self.todo if worker is None else self.todo[worker.id :: worker.num_workers]:
            done, num_spans = set(done), None

            def choose(metadata, done=done) -> list[Span]:
                spans = cut(metadata, *self.lengths)
                return [span for span in spans if span.number not in done][: self.spans_at_once]

            try:
                while len(done) != num_spans:
                    for span, clip in read_spans(source, choose, self.processor, self.num_frames):
                        yield source, span, clip
                        num_spans = span.num_spans
                        done |= {span.number}
            except (VideoDecodeError, OSError) as error:
                yield source, None, str(error)
