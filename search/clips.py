# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""From files to clips: which videos there are, where long ones are cut, and the frames of each clip."""

import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.check import files_below, is_video
from ..data.shards import read_member
from ..errors import InputError
from ..processing_svitt import SViTTVideoProcessor, VideoDecodeError, read_video, sample_frame_indices

# Clips of one video that are read at once: its index of frames is read once for all of them.
CLIPS_AT_ONCE = 4
ROUNDING = 1e-6  # in times, of seconds or of strides


@dataclass(frozen=True)
class Video:
    """A video file, or one within a tar shard.

    Args:
        name: absolute path; `<shard>::<member>` in a shard.
        version: differs when the file has been replaced: its size and time of change.
        shard, offset, size: where the bytes of a shard's member are.
    """

    name: str
    version: str
    shard: str | None = None
    offset: int = 0
    size: int = 0

    def source(self) -> str | dict:
        """What [`read_video`] takes."""
        if self.shard is None:
            return self.name
        return {"path": self.name, "bytes": read_member(self.shard, self.offset, self.size)}

    def is_unchanged(self) -> bool:
        """Whether the file is there, as it was."""
        try:
            changed = os.stat(self.shard or self.name)
        except OSError:
            return False
        size = changed.st_size if self.shard is None else self.size
        return self.version == f"{size} {changed.st_mtime_ns}"


def find_videos(paths: Iterable[str | Path], indexed: Iterable[str] = ()) -> tuple[list[Video], dict[str, str]]:
    """All videos among files, below folders, and in tar shards, in order, each once; and what cannot be read, and why.

    Args:
        indexed: names of the videos that an index has; the error says how to take out those of an empty folder.

    Raises:
        InputError: for a path that is empty or does not exist, or a folder or shard without videos.
    """
    videos, bad = {}, {}
    for path in map(absolute, paths):
        found, unread = videos_in(path)
        if not found and not unread:
            what = "holds no video" if os.path.exists(path) else "there is no such file or folder"
            has_some = any(is_below(name, path) for name in indexed)
            hint = f"; svitt-search remove INDEX {path} takes out what the index has of it" if has_some else ""
            raise InputError(f"{path}: {what}{hint}.")
        videos |= {video.name: video for video in found}
        bad |= unread
    return list(videos.values()), bad


def absolute(path: str | Path) -> str:
    if not str(path):
        raise InputError("A path is empty; name a video, a folder or a tar shard.")
    return os.path.abspath(path)


def videos_in(path: str) -> tuple[list[Video], dict[str, str]]:
    """The videos of a file, folder or shard, and what of it cannot be read, and why."""
    videos: list[Video] = []
    bad: dict[str, str] = {}

    def note(name: str, reason: str):
        bad[utf8(name)] = f"{utf8(name)}: {reason}."

    files = [path] if os.path.isfile(path) else []
    if os.path.isdir(path):
        below = files_below(path, lambda error: note(error.filename, f"cannot be listed ({error.strerror})"))
        files = sorted(file for file in below if is_video(os.path.basename(file)) or is_shard(file))
    for file in files:
        try:
            videos += members_of(file) if is_shard(file) else [video_at(file)]
        except OSError as error:
            note(file, f"cannot be opened ({error.strerror or error})")
        except tarfile.TarError as error:
            note(file, f"cannot be read as a tar shard ({error})")
    for video in videos:
        if utf8(video.name) != video.name:
            note(video.name, "its name is no UTF-8; rename it")
    return [video for video in videos if utf8(video.name) not in bad], bad


def utf8(name: str) -> str:
    """The name of a file, with a backslash for each byte that is no UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_shard(path: str) -> bool:
    return path.endswith(".tar") and not os.path.basename(path).startswith(".")


def video_at(path: str) -> Video:
    status = os.stat(path)
    return Video(path, f"{status.st_size} {status.st_mtime_ns}")


def members_of(shard: str) -> list[Video]:
    status = os.stat(shard)
    if not stat.S_ISREG(status.st_mode):  # reading from a pipe may never end
        raise OSError("not a regular file")
    with tarfile.open(shard, "r:") as tar:  # not compressed, else members have no place in the file
        return [
            Video(f"{shard}::{one.name}", f"{one.size} {status.st_mtime_ns}", shard, one.offset_data, one.size)
            for one in tar
            if one.isfile() and is_video(os.path.basename(one.name))
        ]


def is_below(name: str, path: str) -> bool:
    """Whether the video of this name is, or lies in, this file, folder or shard."""
    path = os.path.abspath(path)
    return name == path or name.startswith((path.rstrip(os.sep) + os.sep, f"{path}::"))


class Clip(NamedTuple):
    """A part of a video: frames `first` up to `last`, exclusive; `number` `number` of `num_clips`."""

    number: int
    num_clips: int
    start: float  # seconds
    end: float
    first: int
    last: int


def cut(
    num_frames: int, fps: float | None, clip_seconds: float, stride_seconds: float, times: np.ndarray | None = None
) -> list[Clip]:
    """The clips of a video: every `stride_seconds` one of `clip_seconds`, the last one up to the end.

    A clip has the frames that are shown during it; one that would show no new frame is left out, so that there are no
    more clips than frames. A video that is shorter, or whose frame rate is not known, is one clip.

    Args:
        times: (num_frames,) seconds, from 0 on, when each frame is shown; by default at equal distances.
    """
    if not fps:
        return [Clip(0, 1, 0.0, 0.0, 0, num_frames)]
    times = times_or_equal(times, num_frames, fps)
    duration = float(times[-1]) + 1 / fps
    if duration <= clip_seconds + ROUNDING:
        return [Clip(0, 1, 0.0, duration, 0, num_frames)]
    last_start = duration - clip_seconds
    starts = np.unique(np.floor(times / stride_seconds + ROUNDING)) * stride_seconds
    starts = np.unique(np.where(starts < last_start - ROUNDING, starts, last_start))
    ends = np.minimum(starts + clip_seconds, duration)
    firsts, lasts = frames_shown(times, starts, ends)
    rows = zip(starts.tolist(), ends.tolist(), firsts.tolist(), lasts.tolist(), strict=True)
    return [Clip(number, len(starts), *row) for number, row in enumerate(rows)]


def times_or_equal(times: np.ndarray | None, num_frames: int, fps: float) -> np.ndarray:
    """When each frame is shown, in seconds: as the file says, or else at equal distances."""
    return np.arange(num_frames) / fps if times is None else times


def frames_shown(times: np.ndarray, start, end):
    """The frames shown from `start` to `end`, seconds or arrays of them: the first, and the last, exclusive."""
    return np.searchsorted(times, start + ROUNDING, side="right") - 1, np.searchsorted(times, end - ROUNDING)


class ClipPlans(Dataset):
    """Of each video its clips, or a sentence about why it cannot be read."""

    def __init__(self, videos: list[Video], clip_seconds: float, stride_seconds: float):
        self.videos, self.lengths = videos, (clip_seconds, stride_seconds)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> list[Clip] | str:
        try:
            _, metadata = read_video(self.videos[index].source(), lambda metadata: [0])
        except (VideoDecodeError, InputError) as error:
            return str(error)
        return cut(metadata.total_num_frames, metadata.fps, *self.lengths, metadata.frame_times)


class ClipFrames(Dataset):
    """Groups of clips of one video with their frames (clips, T, 3, H, W) uint8, or a sentence about why not.

    Args:
        groups: `(video, clips)`, at most `CLIPS_AT_ONCE` of them, see [`in_groups`].
    """

    def __init__(self, groups: list[tuple[Video, list[Clip]]], processor: SViTTVideoProcessor):
        self.groups, self.processor = groups, processor

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> tuple[Video, list[Clip], torch.Tensor | str]:
        video, clips = self.groups[index]
        try:
            return video, clips, read_clips(video, clips, self.processor)
        except (VideoDecodeError, InputError) as error:
            return video, clips, str(error)


def read_clips(video: Video, clips: list[Clip], processor: SViTTVideoProcessor) -> torch.Tensor:
    """(clips, T, 3, H, W) uint8; raises a `VideoDecodeError`, or an `InputError` for a shard."""
    num_frames = processor.num_frames
    indices = [
        clip.first + index for clip in clips for index in sample_frame_indices(num_frames, clip.last - clip.first)
    ]
    frames, _ = read_video(video.source(), lambda metadata: [min(i, metadata.total_num_frames - 1) for i in indices])
    parts = [frames[start : start + num_frames] for start in range(0, len(frames), num_frames)]
    return torch.stack([processor.read_clip(part, do_sample_frames=False) for part in parts])


def in_groups(clips: list[tuple[Video, Clip]]) -> Iterator[tuple[Video, list[Clip]]]:
    """Successive clips of one video, up to `CLIPS_AT_ONCE`."""
    group = []
    for video, clip in clips:
        if group and (group[0][0] != video or len(group) == CLIPS_AT_ONCE):
            yield group[0][0], [clip for _, clip in group]
            group = []
        group.append((video, clip))
    if group:
        yield group[0][0], [clip for _, clip in group]
