# Copyright 2026 The SViTT for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
"""SViTT processing: a video file becomes a clip of normalised frames, a caption becomes token ids. No torchvision."""

import io
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import av
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict, validate_kwargs
from transformers.processing_utils import ProcessorMixin, Unpack, VideosKwargs
from transformers.utils import logging
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_metadata

logger = logging.get_logger(__name__)

# A little above 8K UHD (7680 x 4320): an RGB frame stays within 100 MB, and a "decompression bomb" is refused.
MAX_FRAME_PIXELS = 2**25


# ---------------------------------------------------------------------------------------------------------------------
# Decoding
# ---------------------------------------------------------------------------------------------------------------------


class VideoDecodeError(ValueError):
    """A video that cannot be read. The message is one sentence that names the file and what is wrong with it."""


def read_video(
    source, pick: Callable[[VideoMetadata], list[int]] | None = None
) -> tuple[np.ndarray, VideoMetadata]:
    """
    Decodes the frames of a video file that `pick` asks for: exactly those that decoding everything would give.

    The file is demuxed once to count its frames and decoded once; only the wanted frames are converted to RGB and
    held. Rotation metadata is applied. A still image or a GIF is a video too; the cover picture of a song is not.

    Args:
        source: path (`str` or `os.PathLike`), `bytes`, file object opened for binary reading, or the dict
            `{"bytes": ..., "path": ...}` of `datasets.Video(decode=False)`.
        pick: gets the `VideoMetadata` (`total_num_frames`, `fps`, `duration` in seconds) and returns the indices of
            the wanted frames, in any order and with repetitions. All frames when omitted.

    Returns:
        frames (T, H, W, 3) uint8 in the order of the indices, and the `VideoMetadata` with `frames_indices` set.

    Raises:
        [`VideoDecodeError`] if the file is missing, empty, no video, larger than `MAX_FRAME_PIXELS` pixels per frame,
        damaged anywhere, or cut off: a file whose container promises more than it holds is refused even if its first
        frames can be decoded, because a clip sampled from the rest would be another clip.
    """
    name, data = _name_and_data(source)
    try:
        num_frames = _count_frames(name, data)
        # Packets and frames differ in number in rare streams (field pairs, edit lists): then the frames are right.
        while True:
            metadata, wanted = _pick_frames(name, data, num_frames, pick)
            frames, num_decoded = _decode_frames(name, data, set(wanted))
            if num_decoded == num_frames:
                break
            num_frames = num_decoded
    except av.error.FFmpegError as error:
        reason = (error.strerror or str(error)).lower()
        raise VideoDecodeError(f"{name}: damaged or cut off, it cannot be decoded to its end ({reason}).") from error
    frames = np.stack([frames[index] for index in wanted])
    metadata.height, metadata.width = frames.shape[1:3]
    return frames, metadata


def _name_and_data(source) -> tuple[str, str | bytes]:
    """What to call the video in an error message, and its path or content."""
    if isinstance(source, dict):
        path, content = source.get("path"), source.get("bytes")
        if content is None and path is None:
            raise VideoDecodeError(f"A video dict needs `bytes` or `path`, got the keys {sorted(source)}.")
        return (str(path or "<bytes>"), path if content is None else content)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>", bytes(source)
    if hasattr(source, "read"):
        return str(getattr(source, "name", "<file object>")), source.read()
    return os.fspath(source), os.fspath(source)


@contextmanager
def _open_video(name: str, data: str | bytes) -> Iterator[tuple]:
    """Yields (container, video stream, size of the file in bytes)."""
    try:
        # FFmpeg gets an open file, not a name that it might take for a URL, a playlist or a numbered sequence.
        file = io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb")
    except OSError as error:
        raise VideoDecodeError(f"{name}: cannot be opened ({(error.strerror or str(error)).lower()}).") from error
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size == 0:
            raise VideoDecodeError(f"{name}: the file is empty (0 bytes).")
        try:
            container = av.open(file, metadata_errors="ignore")
        except (av.error.FFmpegError, OSError) as error:
            file.seek(0)
            hint = "its index is missing, it was cut off" if file.read(12)[4:8] == b"ftyp" else "FFmpeg knows no such format"
            raise VideoDecodeError(f"{name}: not a readable video file ({hint}).") from error
        with container:
            attached_picture = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & attached_picture]
            if not streams:
                kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
                raise VideoDecodeError(f"{name}: has no video stream, it holds {' and '.join(kinds)} only.")
            _check_frame_size(name, streams[0].codec_context)
            yield container, streams[0], size


def _check_frame_size(name: str, frame):
    if frame.width * frame.height > MAX_FRAME_PIXELS:
        raise VideoDecodeError(
            f"{name}: frames of {frame.width}x{frame.height} exceed the limit of {MAX_FRAME_PIXELS} pixels."
        )


def _count_frames(name: str, data: str | bytes) -> int:
    """The number of frames, one per packet, read without decoding. Refuses a file that ends before it should."""
    with _open_video(name, data) as (container, stream, size):
        indexed = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
        promised = max(indexed, _matroska_size(container))
        if promised > size:
            raise VideoDecodeError(f"{name}: cut off, it has {size} bytes of at least {promised}.")
        num_frames, last = 0, None
        for packet in container.demux(stream):
            if packet.size:
                num_frames, last = num_frames + (not packet.is_discard), packet
    if last is not None and last.is_corrupt:
        raise VideoDecodeError(f"{name}: cut off in the middle of its last frame.")
    return num_frames
