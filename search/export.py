# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""A hit as a file that plays everywhere: its span alone, in H.264, whatever the video is."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, dropwhile, takewhile
from pathlib import Path

import av
from av.error import FFmpegError

from ..data.mp4 import SOUND_RATE, TIME_BASE, timed, write_mp4
from ..distributed import whole_files
from ..errors import InputError
from ..processing_svitt import NO_FRAME, ROUNDING, VideoDecodeError, _errors_about, _open_stream, _packets
from .hits import Hit
from .places import is_url
from .spans import find_sources

STEPS_BACK = (0.0, 4.0, 30.0, math.inf)  # seconds before a span from where a keyframe is looked for
LAG = 1.0  # seconds that sound may lie behind its picture in a file
STILL_SECONDS = 1.0  # that a photo is shown
MAX_SIDE = 16384  # pixels, of x264


def export(hit: Hit, folder: str | Path, rank: int | None = None, short_side: int | None = None) -> Path:
    """Write what a hit shows as an MP4 in H.264, with its sound in AAC, and return its path.

    It looks as in a player: upright, with square pixels, not interlaced, and of a damaged file, what is left. A photo
    is shown for a second.

    Args:
        folder: to be made.
        rank: number that the name begins with, as in `01_name_0m05s.mp4`.
        short_side: scale larger pictures down to so many pixels.

    Raises:
        VideoDecodeError: if the video has gone, or nothing of it can be decoded.
        InputError: if the folder cannot be written.
    """
    minutes, seconds = divmod(int(hit.start), 60)
    name = f"{Path(hit.video.rpartition('::')[2]).stem[:50]}_{minutes}m{seconds:02}s.mp4"
    name = name if rank is None else f"{rank:02}_{name}"
    with whole_files(folder) as new:
        write_mp4(new / name, frames_of(hit, short_side), threads=0, has_sound=True)
    return Path(folder) / name


def frames_of(hit: Hit, short_side: int | None = None) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Yield the pictures of a hit, as they are shown, and its sounds, at their times after its start."""
    start, end = hit.start, hit.end if hit.end > hit.start else math.inf  # of a photo, or where times are not known
    with _errors_about(hit.video):
        content = content_of(hit.video)
        with _open_stream(content, []) as (container, stream):
            packets = chain(_packets(container, stream, []), [None])
            if (first := next((frame for packet in packets for frame in decoded(stream, packet)), None)) is None:
                raise VideoDecodeError(NO_FRAME)
            origin, fps = first.time, float(stream.average_rate or stream.guessed_rate or 25)
        with opened_before(start, content, origin) as (stream, packets):
            frames = pictures_and_sounds(stream, packets, origin or 0.0, fps, start, end)
            yield from as_shown(frames, stream.sample_aspect_ratio or 1, short_side)


def content_of(video: str) -> str | bytes:
    """Return the path of a video, or the content of one in a shard or a store."""
    shard, _, member = video.partition(".tar::")
    place = f"{shard}.tar" if member and not os.path.exists(video) else video
    if place == video and not is_url(video):
        return video
    try:
        sources, _, _ = find_sources([place])
        if video not in sources:
            raise OSError("its shard is damaged, or has no such member")
        content = sources[video].read()
    except (InputError, OSError) as error:
        raise VideoDecodeError(f"cannot be opened ({str(error).removeprefix(f'{place}: ').rstrip('.')})") from error
    return content if isinstance(content, str) else content["bytes"]


@contextmanager
def opened_before(start: float, content: str | bytes, origin: float | None) -> Iterator[tuple]:
    """Open a video, and give its picture, and its packets of picture and sound from a keyframe before `start` on.

    They are all packets where no keyframe is found so, or times are not known, and `origin`, the first, is `None`.
    """
    for back in STEPS_BACK[-1:] if origin is None else STEPS_BACK:
        with _open_stream(content, []) as (container, stream):
            stream.thread_type = "AUTO"
            streams = [stream, *[one for one in container.streams.audio if one.codec_context is not None][:1]]
            streams[-1].discard = av.stream.Discard.default
            packets = _packets(container, streams, [])
            if back < start:
                packets = dropwhile(lambda packet: packet.stream.type != "video" or not packet.is_keyframe, packets)
                tried, shown = [], []
                with suppress(FFmpegError):  # of a format that cannot seek, or a keyframe that is none
                    container.seek(int((origin + start - back) / stream.time_base), stream=stream)
                    while not shown and (packet := next(packets, None)):
                        tried.append(packet)
                        shown = packet.decode() if packet.stream.type == "video" else []
                stream.codec_context.flush_buffers()
                if not shown or shown[0].pts is None or shown[0].pts * stream.time_base - origin > start + ROUNDING:
                    continue
                packets = chain(tried, packets)
            yield stream, packets
            return


def decoded(stream, packet: av.Packet | None) -> list:
    """Return the frames of a packet; what is damaged is left out, as players do."""
    with suppress(FFmpegError):
        return stream.decode(packet)
    return []


def pictures_and_sounds(
    stream, packets: Iterator[av.Packet], origin: float, fps: float, start: float, end: float
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Yield pictures and sounds from `start` until `end`, in seconds after `origin`, at their times after `start`."""

    def is_near(packet: av.Packet) -> bool:
        return packet.stream is not stream or (packet.dts or 0) * packet.time_base - origin < end + LAG

    held, held_time, is_alone, resamplers = None, -1 / fps, True, {}
    for packet in chain(takewhile(is_near, packets), [None]):
        if packet is not None and packet.stream is not stream:
            with suppress(FFmpegError):
                for sound in packet.decode():
                    if not isinstance(sound, av.AudioFrame) or sound.time is None:
                        continue
                    if start <= (time := sound.time - origin) < end:
                        kind = sound.format.name, sound.layout.name, sound.sample_rate  # may change
                        resampler = resamplers.setdefault(kind, av.AudioResampler("fltp", "stereo", SOUND_RATE))
                        yield from (timed(one, time - start, time - start) for one in resampler.resample(sound))
            continue
        for frame in decoded(stream, packet) if held_time < end - ROUNDING else ():
            time = math.nan if frame.pts is None else float(frame.pts * stream.time_base) - origin
            if not time > held_time:  # there is none, or as in AVI, it is that of decoding
                time = held_time + 1 / fps
            if held is not None and time > start + ROUNDING and held_time < end - ROUNDING:
                yield timed(held, max(held_time - start, 0), min(time, end) - start)
            is_alone = held is None
            held, held_time = frame, time
    if held is None:
        raise VideoDecodeError(NO_FRAME)
    if held_time < end - ROUNDING:  # the last of the video
        last = held_time + (STILL_SECONDS if is_alone else 1 / fps)
        if end < math.inf:
            last = max(last, end) if is_alone else end
        yield timed(held, max(held_time - start, 0), last - start)


def as_shown(
    frames: Iterator[av.VideoFrame | av.AudioFrame], aspect: float, short_side: int | None
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Yield pictures upright, with square pixels instead of those of `aspect`, not interlaced; sounds as they are."""
    graph = None
    for frame in chain(frames, [None]):
        if isinstance(frame, av.AudioFrame):
            yield frame
            continue
        graph = graph or player(frame, aspect, short_side)
        graph.vpush(frame)
        with suppress(BlockingIOError, EOFError):
            while True:
                yield graph.vpull()


def player(frame: av.VideoFrame, aspect: float, short_side: int | None) -> av.filter.Graph:
    """Return filters for frames like this one."""
    width, height = frame.width * float(aspect), frame.height
    scale = min(1, (short_side or math.inf) / min(width, height), MAX_SIDE / max(width, height))
    width, height = (max(2, round(side * scale / 2) * 2) for side in (width, height))
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=TIME_BASE)]
    nodes += [graph.add("yadif")] if frame.interlaced_frame else []
    nodes += [graph.add("scale", f"{width}:{height}:out_range=tv"), graph.add("format", "yuv420p")]
    nodes += [graph.add("transpose", "cclock") for _ in range(round(frame.rotation / 90) % 4)]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph
