# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What becomes of a damaged video, in a process of its own; importable there, as test modules are not."""

import hashlib
import os
import time
from pathlib import Path

import av
import numpy as np

from svitt.processing_svitt import ANY_TAGS, VideoDecodeError, read_video, sample_frame_indices

NUM_FRAMES = 5


def decode_in_order(path: str) -> tuple[list[np.ndarray], str]:
    """All frames, by PyAV alone, from the first packet to the last; and a digest of what the decoder was given."""
    with open(path, "rb") as file, av.open(file, **ANY_TAGS) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        digest, frames = hashlib.sha256(stream.codec_context.extradata or b""), []
        for packet in container.demux(stream):
            digest.update(bytes(packet))
            frames += packet.decode()
        pixels = [np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90) % 4) for frame in frames]
        return pixels, digest.hexdigest()


def check(case: tuple[str, str]) -> dict:
    """Reads a few frames of a damaged file, and compares them with all of its frames decoded in order.

    Args:
        case: path, and the digest of the undamaged stream.

    Returns:
        `error` (the sentence) or `equal`: whether the frames were those of decoding in order, None where that fails;
        `is_intact`: whether the damage left the packets as they were; `seconds` of reading; `rss` in bytes and
        `descriptors` of this process.
    """
    path, digest = case
    start, found = time.monotonic(), {"is_intact": False}
    try:
        frames, metadata = read_video(path, pick)
        found["seconds"] = time.monotonic() - start
        assert frames.dtype == np.uint8 and frames.shape[1:] == (metadata.height, metadata.width, 3)
        assert len(frames) == len(metadata.frames_indices) > 0
        found |= compare(path, frames, metadata, digest)
    except VideoDecodeError as error:
        found |= {"error": str(error), "seconds": time.monotonic() - start}
    found["rss"] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return found | {"descriptors": len(os.listdir("/proc/self/fd"))}


def pick(metadata) -> list[int]:
    """Frames from all over a video, out of order, the last among them."""
    indices = sample_frame_indices(NUM_FRAMES, metadata.total_num_frames)
    return [metadata.total_num_frames - 1, *indices[::-1]]


def compare(path: str, frames: np.ndarray, metadata, digest: str) -> dict:
    try:
        expected, digest_now = decode_in_order(path)
    except (av.error.FFmpegError, OSError, ValueError):
        return {"equal": None}
    is_equal = len(expected) == metadata.total_num_frames and all(
        np.array_equal(frame, expected[index]) for frame, index in zip(frames, metadata.frames_indices, strict=True)
    )
    return {"equal": is_equal, "is_intact": digest_now == digest}
