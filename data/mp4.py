# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The one writer of videos: MP4 in H.264, which all players know."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import PictureType

TIME_BASE = Fraction(1, 90000)  # of seconds
SOUND_RATE = 48000  # samples per second, in stereo


def timed(frame: av.VideoFrame | av.AudioFrame, start: float, end: float):
    """Return the same frame, to be shown or heard from `start` until `end`, in seconds."""
    frame.time_base, frame.pts = TIME_BASE, round(start / TIME_BASE)
    frame.duration = max(1, round(end / TIME_BASE) - frame.pts)
    return frame


def write_mp4(
    path: str | Path,
    frames: Iterable[av.VideoFrame | av.AudioFrame],
    crf: int = 23,
    threads: int = 1,
    has_sound: bool = False,
):
    """Write an MP4 in H.264 of frames at their times, see [`timed`], with a keyframe a second, and sound in AAC.

    Args:
        frames: pictures and sounds, each in order. Pictures get the size of the first, or a pixel less where it is odd.
        crf: quality, x264's 0 to 51.
        threads: 0 for one a core; one alone gives the same bytes each time.
        has_sound: whether there may be frames of sound.
    """
    # Without macroblock trees x264 gives the same bytes each time; with them, not always. Without B-frames all readers
    # agree on which frame is which.
    options = {"preset": "veryfast", "crf": str(crf), "mbtree": "0", "bf": "0", "sc_threshold": "0"}
    last, next_key, early = -1, 0.0, []
    with av.open(str(path), "w", "mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as output:
        video = output.add_stream("libx264", 25, options)
        video.time_base = video.codec_context.time_base = TIME_BASE
        video.codec_context.gop_size, video.codec_context.thread_count = 1000, threads
        video.codec_context.flags |= av.codec.context.Flags.frame_duration.value
        sound = output.add_stream("aac", SOUND_RATE, layout="stereo") if has_sound else None
        for frame in frames:
            if isinstance(frame, av.AudioFrame):
                early.append(frame)
            else:
                if last < 0:
                    video.height, video.width = (side // 2 * 2 for side in (frame.height, frame.width))
                    for tag in ("colorspace", "color_primaries", "color_trc"):
                        setattr(video.codec_context, tag, getattr(frame, tag))
                start, duration = frame.time, float(frame.duration * frame.time_base)
                frame = frame.reformat(video.width, video.height, "yuv420p")
                timed(frame, start, start + duration)
                frame.pts = last = max(last + 1, frame.pts)
                frame.pict_type = PictureType.I if start >= next_key else PictureType.NONE
                next_key = start + 1 if start >= next_key else next_key
                output.mux(video.encode(frame))
            if last >= 0:  # the header of the file, which comes first, says how pictures are coded
                output.mux([packet for one in early for packet in sound.encode(one)])
                early.clear()
        for stream in (video, sound) if has_sound else (video,):
            output.mux(stream.encode())
