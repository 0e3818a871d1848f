# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""From files to clips: which videos there are, where long ones are cut, and the frames of each clip."""

import math
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from ..processing_svitt import SViTTVideoProcessor, VideoDecodeError, read_video, sample_frame_indices
from ..training.check_videos import is_video, videos_below
from ..training.processes import InputError
from ..training.streaming import read_member

# Clips of one video that are read at once: its index of frames is read once for all of them.
CLIPS_AT_ONCE = 4


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
        member = {"shard": self.shard, "offset": self.offset, "size": self.size, "path": self.name}
        return read_member({"video": member})["video"]

    def is_unchanged(self) -> bool:
        """Whether the file is there, as it was."""
        try:
            changed = os.stat(self.shard or self.name)
        except OSError:
            return False
        size = changed.st_size if self.shard is None else self.size
        return self.version == f"{size} {changed.st_mtime_ns}"


def find_videos(paths: Iterable[str | Path]) -> list[Video]:
    """All videos among files, below folders, and in tar shards, in order, each once.

    Raises:
        InputError: for a path that does not exist, or a folder or shard without videos.
    """
    videos = {}
    for path in map(os.path.abspath, paths):
        if path.endswith(".tar"):
            found = members_of(path)
        elif os.path.isdir(path):
            found = [video_at(file) for file in videos_below([path])]
        elif os.path.isfile(path):
            found = [video_at(path)]
        else:
            raise InputError(f"{path}: there is no such file or folder.")
        if not found:
            raise InputError(f"{path}: holds no video.")
        videos |= {video.name: video for video in found}
    return list(videos.values())


def video_at(path: str) -> Video:
    status = os.stat(path)
    return Video(path, f"{status.st_size} {status.st_mtime_ns}")


def members_of(shard: str) -> list[Video]:
    try:
        changed = os.stat(shard).st_mtime_ns
        with tarfile.open(shard) as tar:
            return [
                Video(f"{shard}::{member.name}", f"{member.size} {changed}", shard, member.offset_data, member.size)
                for member in tar
                if member.isfile() and is_video(os.path.basename(member.name))
            ]
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{shard}: cannot be read as a tar shard ({error}).") from error


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


def cut(num_frames: int, fps: float | None, clip_seconds: float, stride_seconds: float) -> list[Clip]:
    """The clips of a video: every `stride_seconds` one of `clip_seconds`, the last one up to the end.

    A video that is shorter, or whose frame rate is not known, is one clip. There are no more than frames.
    """
    duration = num_frames / fps if fps else 0.0
    stride = max(stride_seconds, duration / num_frames)  # else a container that claims an hour a frame makes millions
    last_start = max(0.0, duration - clip_seconds)
    num_clips = min(num_frames, 1 + math.ceil(last_start / stride - 1e-6))  # what rounding leaves is no clip of its own
    starts = [min(number * stride, last_start) for number in range(num_clips)]
    clips = []
    for number, start in enumerate(starts):
        end = min(start + clip_seconds, duration)
        first, last = (round(start * fps), round(end * fps)) if len(starts) > 1 else (0, num_frames)
        first = min(first, num_frames - 1)
        clips.append(Clip(number, len(starts), start, end, first, min(max(last, first + 1), num_frames)))
    return clips


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
        return cut(metadata.total_num_frames, metadata.fps, *self.lengths)


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
    return processor.collate_clips([processor.read_clip(part, do_sample_frames=False) for part in parts])["clips"]


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
