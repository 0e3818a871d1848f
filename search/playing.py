# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What a browser shows of videos: files that it plays as they are, clips of the others, and posters."""

import io
import os
from functools import lru_cache
from pathlib import Path
from threading import Lock

import av
from av.error import FFmpegError

from .export import export, frames_of
from .hits import Hit

# What browsers play: names of files end so, and hold these pictures and sounds.
CONTAINERS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}
CODECS, SOUNDS = {"h264", "vp8", "vp9", "av1"}, {"aac", "mp3", "opus", "vorbis", "flac"}
PIXELS = {"yuv420p", "yuvj420p"}
SHORT_SIDE, POSTER_SIDE = 720, 240  # pixels of larger clips as they are played, and of posters
MAX_BYTES, MIN_CLIPS = 2**30, 8  # of clips that are kept


def media_type(video: str) -> str | None:
    """Return the type of a file that browsers play as it is, or `None`."""
    kind = CONTAINERS.get(os.path.splitext(video)[1].lower())
    if kind is None or not os.path.isfile(video):
        return None
    try:
        with av.open(video) as container:
            [picture, *others], sounds = container.streams.video, container.streams.audio
            names = {one.codec_context.codec.canonical_name for one in sounds}
            codec = picture.codec_context
            plays = codec.codec.canonical_name in CODECS and codec.pix_fmt in PIXELS and not others
            return kind if plays and names <= SOUNDS else None
    except (FFmpegError, OSError, ValueError, AttributeError):  # or it has no picture, or none that FFmpeg knows
        return None


@lru_cache(512)
def poster(video: str, time: float, id: str) -> bytes:
    """Return a picture of a video, as JPEG; its `id` changes with its file."""
    frames = frames_of(Hit(video, time, time + 1, 0.0), POSTER_SIDE)
    image = next(frame for frame in frames if isinstance(frame, av.VideoFrame)).to_image()
    file = io.BytesIO()
    image.save(file, "jpeg", quality=80)
    return file.getvalue()


class Clips:
    """Hits as files that browsers play, in a folder, where the oldest make room for new ones."""

    def __init__(self, folder: Path):
        self.folder, self.lock = folder, Lock()

    def get(self, name: str, hit: Hit) -> Path:
        """Return the path of a hit, which is written if there is none of this name.

        Raises:
            VideoDecodeError: if the video has gone, or nothing of it can be decoded.
        """
        folder = self.folder / name
        with self.lock:
            if found := [*folder.glob("*.mp4")]:
                os.utime(folder)
                return found[0]
            path = export(hit, folder, short_side=SHORT_SIDE)
            clips = sorted(self.folder.glob("*/*.mp4"), key=lambda clip: clip.parent.stat().st_mtime)
            num_bytes = sum(clip.stat().st_size for clip in clips)
            for clip in clips[:-MIN_CLIPS]:
                if num_bytes > MAX_BYTES:
                    num_bytes -= clip.stat().st_size
                    clip.unlink()
        return path
