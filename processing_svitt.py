# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""SViTT processing: a video file becomes a clip of normalised frames, a caption becomes token ids. No torchvision."""

import io
import math
import os
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from huggingface_hub.dataclasses import validate_typed_dict
from PIL import Image
from torch.nn import functional as F
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict, validate_kwargs
from transformers.processing_utils import ProcessorMixin, Unpack, VideosKwargs
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_metadata

from .picture_order import PictureCounter, counts_follow_times

# ---------------------------------------------------------------------------------------------------------------------
# Decoding
# ---------------------------------------------------------------------------------------------------------------------

# A little above 8K UHD (7680 x 4320): one RGB frame takes at most 100 MB, whatever a file claims.
MAX_FRAME_PIXELS = 2**25
# Nearly ten hours at 30 frames per second.
MAX_FRAMES = 2**20
# Of the frames returned, as RGB: 4 GB.
MAX_CLIP_BYTES = 2**32
# Of files up to this size, packets are kept in memory, still compressed; of larger ones, they are read again. That is
# faster from some 4 MB on, but only formats with a list of keyframes are sure to land where they should.
MAX_HELD_BYTES = 2**26
MAX_HELD_BYTES_OF_INDEXED = 2**22
# Of files that are decoded whole, which may hold another number of frames than of packets: 100 to 200 MB.
MAX_HELD_PIXELS = 2**26
FORMATS_WITH_INDEX = ("mov", "matroska")
# Where each packet is one frame, and decoding may start at every packet marked as a keyframe.
SEEKABLE_CODECS = {"av1", "gif", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "prores", "vp8", "vp9"}
# Where the decoder knows of frames that no other frame refers to. (HEVC's "non-reference" is relative to a layer.)
CODECS_WITH_NONREF = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}


class VideoDecodeError(ValueError):
    """A video that cannot be read. The message is one sentence that names the file and what is wrong with it."""


class TimedVideoMetadata(VideoMetadata):
    """
    A `VideoMetadata` that also knows when each frame is shown.

    Attributes:
        frame_times: (total_num_frames,) float64, seconds after the first frame; `None` where a file does not say.
    """

    frame_times: np.ndarray | None = None  # no field, so that the metadata stay the mapping that Transformers knows


def read_video(
    source,
    pick: Callable[[VideoMetadata], list[int]] | None = None,
    *,
    short_side: int | None = None,
    num_threads: int = 1,
    max_frame_pixels: int = MAX_FRAME_PIXELS,
    max_frames: int = MAX_FRAMES,
) -> tuple[np.ndarray, "TimedVideoMetadata"]:
    """
    Decodes the frames of a video file that `pick` asks for: exactly those that decoding everything would give.

    The file is demuxed once, which counts its frames and finds its keyframes. Then decoding starts at the keyframe
    before each wanted frame, or goes on where it is when there is none in between, and only wanted frames are
    converted to RGB. Files whose index cannot be trusted, and those joined in a way that makes decoders drop frames,
    are decoded from first to last. Rotation metadata is
    applied. A still image or a GIF is a video too; the cover picture of a song is not.

    Args:
        source: path (`str` or `os.PathLike`), `bytes`, file object opened for binary reading, or the dict
            `{"bytes": ..., "path": ...}` of `datasets.Video(decode=False)`.
        pick: gets the `VideoMetadata` (`total_num_frames`, `fps`, `duration` in seconds) and returns the indices of
            the wanted frames, in any order and with repetitions. All frames when omitted.
        short_side: frames whose shorter side has more pixels are scaled down to that, aspect ratio kept, while they
            are converted to RGB: faster and smaller than full frames, but other pixels.
        num_threads: of the decoder, 0 for as many as FFmpeg sees fit. More than one takes more CPU time in total, so
            one suits worker processes.
        max_frame_pixels: larger frames are refused before they are decoded.
        max_frames: longer videos are refused.

    Returns:
        frames (T, H, W, 3) uint8 in the order of the indices, and the `VideoMetadata` with `frames_indices` set, and
        with `frame_times`.

    Raises:
        [`VideoDecodeError`] if the file is missing, empty, no video, above a limit, damaged, or cut off. A file that
        ends before its index (MP4, MOV, AVI) or header (MKV, WebM) says is refused even if its first frames can be
        decoded, since a clip sampled from those would be another clip; GIF and the streams of broadcasting (TS, PS)
        do not say where they end.
    """
    if (short_side is not None and short_side < 1) or num_threads < 0:
        raise ValueError(f"`short_side` must be at least 1 and `num_threads` 0, got {short_side} and {num_threads}.")
    name, data = _name_and_data(source)
    with _open_video(name, data, num_threads, max_frame_pixels) as (container, stream):
        index = _read_table(name, container, stream, max_frames) or _index_packets(name, container, stream, max_frames)
        decoder = _FrameDecoder(name, data, container, stream, index, short_side, max_frame_pixels)
        num_frames = index.num_frames
        while True:
            metadata = _describe_video(name, num_frames, index.fps)
            metadata.frame_times = decoder.index.frame_times() if num_frames == decoder.index.num_frames else None
            metadata.frames_indices = _pick_frames(pick, metadata)
            _check_clip_size(name, stream.codec_context, len(metadata.frames_indices), short_side)
            frames, num_decoded = decoder.decode(set(metadata.frames_indices))
            if num_decoded == num_frames:
                break
            # Rare streams hold more or fewer packets than frames (interlaced fields, say): the frames are right.
            num_frames = num_decoded
    frames = _stack_frames(name, [frames[index] for index in metadata.frames_indices])
    metadata.height, metadata.width = frames.shape[1:3]
    return frames, metadata


def _pick_frames(pick: Callable[[VideoMetadata], list[int]] | None, metadata: VideoMetadata) -> list[int]:
    num_frames = metadata.total_num_frames
    indices = list(range(num_frames)) if pick is None else list(pick(metadata))
    if indices and not 0 <= min(indices) <= max(indices) < num_frames:
        raise ValueError(f"`pick` must return indices from 0 to {num_frames - 1}, got {indices}.")
    return indices


def _name_and_data(source) -> tuple[str, str | bytes]:
    """What to call the video in an error message, and its path or content."""
    if isinstance(source, dict):
        path, content = source.get("path"), source.get("bytes")
        if path is None and content is None:
            raise VideoDecodeError(f"A video given as a dict needs `path` or `bytes`, this one has {sorted(source)}.")
        return str(path or "<bytes>"), os.fspath(path) if content is None else content
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>", bytes(source)
    if hasattr(source, "read"):
        return str(getattr(source, "name", "<file object>")), source.read()
    return os.fspath(source), os.fspath(source)


@contextmanager
def _open_video(name: str, data: str | bytes, num_threads: int, max_frame_pixels: int) -> Iterator[tuple]:
    """Yields the PyAV container and its video stream."""
    try:
        if isinstance(data, str) and os.path.exists(data) and not (os.path.isfile(data) or os.path.isdir(data)):
            raise OSError("not a regular file")  # reading from a pipe or a device may never end
        file = open(data, "rb", buffering=0) if isinstance(data, str) else io.BytesIO(data)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoDecodeError(f"{name}: cannot be opened ({reason}).") from error
    with file:
        head = file.read(64)
        if not head:
            raise VideoDecodeError(f"{name}: the file is empty.")
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        # FFmpeg gets no name: it would believe its extension, and read a text as ANSI art; and it may open no other
        # file: a "video" can be a playlist of paths.
        nameless = SimpleNamespace(read=file.read, seek=partial(_seek, file), tell=file.tell)
        options = {"protocol_whitelist": "none", "max_pixels": str(max_frame_pixels)}
        try:
            container = av.open(nameless, options=options, metadata_errors="ignore", buffer_size=2**17)
        except (av.error.FFmpegError, OSError) as error:
            if head[4:8] == b"ftyp":
                raise VideoDecodeError(f"{name}: an MP4 or MOV without its index, it was cut off.") from error
            raise VideoDecodeError(f"{name}: not a video file, such as MP4, WebM, MKV, MOV, AVI or GIF.") from error
        with container:
            stream = _video_stream(name, container)
            _check_complete(name, stream, head, size)
            _check_frame_size(name, stream.codec_context, max_frame_pixels)
            stream.codec_context.options = {"max_pixels": str(max_frame_pixels)}
            stream.codec_context.thread_type = "AUTO" if num_threads != 1 else "NONE"
            stream.codec_context.thread_count = num_threads
            try:
                yield container, stream
            except (av.error.FFmpegError, OSError, MemoryError, OverflowError) as error:
                raise VideoDecodeError(f"{name}: {_what_is_wrong(error, stream, max_frame_pixels)}") from error


def _seek(file, offset: int, whence: int = os.SEEK_SET) -> int:
    try:
        return file.seek(offset, whence)
    except ValueError as error:  # of BytesIO, where a damaged file points before its beginning; others raise OSError
        raise OSError(str(error)) from error


def _what_is_wrong(error: Exception, stream, max_frame_pixels: int) -> str:
    if stream.codec_context.width == 0:  # the probe of the container has not got that far
        return f"no frame can be decoded, it is damaged or its frames are above the limit of {max_frame_pixels} pixels."
    return f"damaged or cut off, FFmpeg says '{getattr(error, 'strerror', None) or error}'."


def _video_stream(name: str, container):
    is_picture = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & is_picture]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams}))
        raise VideoDecodeError(f"{name}: has no video stream, what it holds is: {kinds or 'nothing'}.")
    if streams[0].codec_context is None:
        raise VideoDecodeError(f"{name}: cut off, or coded in a way that this build of FFmpeg cannot decode.")
    return streams[0]


def _check_complete(name: str, stream, head: bytes, size: int):
    """Refuses a file that is shorter than its index (MP4, MOV) or its first bytes (MKV, WebM) say."""
    entries = stream.index_entries
    indexed = entries[len(entries) - 1].pos + entries[len(entries) - 1].size if len(entries) else 0
    promised = max(indexed, _matroska_size(head))
    if size < promised:
        raise VideoDecodeError(f"{name}: cut off, it has {size} bytes of at least {promised}.")


def _matroska_size(head: bytes) -> int:
    """The size in bytes of a Matroska or WebM file according to its first `head` bytes, 0 if they do not say."""
    end = 0
    for identifier in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # EBML header, then the segment: all the rest
        start = end + len(identifier)
        if head[end:start] != identifier or len(head) < start + 8:
            return 0
        width = 9 - head[start].bit_length()  # a variable-length integer begins with one zero bit per further byte
        length = int.from_bytes(head[start : start + width], "big") & (2 ** (7 * width) - 1)
        end = start + width + length
    return 0 if length == 2 ** (7 * width) - 1 else end  # all ones: a live recording of unknown length


def _check_frame_size(name: str, frame, max_frame_pixels: int):
    if frame.width * frame.height > max_frame_pixels:
        raise VideoDecodeError(
            f"{name}: frames of {frame.width}x{frame.height} are above the limit of {max_frame_pixels} pixels."
        )


def _check_clip_size(name: str, frame, num_frames: int, short_side: int | None):
    scale = min(1, (short_side or math.inf) / max(1, min(frame.width, frame.height)))
    num_bytes = 3 * num_frames * frame.width * frame.height * scale**2
    if num_bytes > MAX_CLIP_BYTES:
        raise VideoDecodeError(
            f"{name}: {num_frames} frames of {frame.width}x{frame.height} take {num_bytes / 1e9:.1f} GB, the limit is "
            f"{MAX_CLIP_BYTES / 1e9:.1f} GB: take fewer, or scale them down with `short_side`."
        )


@dataclass
class _PacketIndex:
    """The packets of a video stream in the order of the file, which is that of decoding."""

    times: np.ndarray  # when the frame of a packet is shown, in units of `time_base` seconds; None where unknown
    time_base: Fraction
    is_key: np.ndarray
    is_shown: np.ndarray  # some packets only serve the decoding of others
    packets: dict | None  # those kept in memory, by position; None where they are too large
    fps: float | None
    can_seek: bool
    decode_times: np.ndarray | None = None  # from the table of a file; `times` are right only where packets were read

    @property
    def num_frames(self) -> int:
        return int(self.is_shown.sum())

    def frame_times(self) -> np.ndarray | None:
        """(num_frames,) seconds after the first frame, if all are known."""
        if self.times.dtype == object:  # with a None
            return None
        if self.decode_times is None:
            times = np.sort(self.times[self.is_shown])
        else:
            # A frame is shown when the one that comes so many later is decoded as decoding goes ahead of the first.
            ahead = int(np.searchsorted(self.decode_times, self.times[0]))
            step = (self.decode_times[-1] - self.decode_times[0]) / (len(self.decode_times) - 1)
            last = self.decode_times[-1] + step * np.arange(1, ahead + 1)
            times = np.append(self.decode_times[ahead:], last)[self.is_shown]
        return (times - times[0]) * float(self.time_base)


def _check_num_frames(name: str, num_frames: int, max_frames: int):
    if num_frames > max_frames:
        raise VideoDecodeError(f"{name}: has more frames than the limit of {max_frames}.")


def _read_table(name: str, container, stream, max_frames: int) -> _PacketIndex | None:
    """The index that a large MP4 or MOV has itself, so that little of it need be read; None for other files."""
    entries = stream.index_entries
    if (
        not container.format.name.startswith("mov")
        or container.size <= MAX_HELD_BYTES_OF_INDEXED
        or len(entries) != stream.frames  # as with fragments, which have tables of their own
    ):
        return None
    _check_num_frames(name, len(entries), max_frames)
    rows = [(entry.timestamp, entry.is_keyframe, not entry.is_discard, entry.size) for entry in entries]
    times, is_key, is_shown, sizes = (np.array(column) for column in zip(*rows, strict=True))
    steps = np.diff(times)
    is_regular = len(steps) > 0 and 2 * steps.min() >= np.median(steps)  # where files were joined, some are tiny
    if not (is_regular and is_key[0] and _is_one_frame_a_packet(stream.codec_context, sizes.min())):
        return None
    fps = _frame_rate(stream, times)  # hidden ones too: which frames they are, times of decoding do not say
    return _PacketIndex(times.copy(), stream.time_base, is_key, is_shown, {}, fps, True, decode_times=times)


def _index_packets(name: str, container, stream, max_frames: int) -> _PacketIndex:
    """Reads the whole stream without decoding it."""
    is_indexed = container.format.name.startswith(FORMATS_WITH_INDEX)
    is_vp8 = stream.codec_context.name == "vp8"
    times, is_key, is_shown, sizes = [], [], [], []
    count_of, counts = PictureCounter(stream.codec_context.name, stream.codec_context.extradata), []
    has_new_parameters = False  # for all packets from here on: a decoder must have seen them
    packets = {} if container.size <= (MAX_HELD_BYTES_OF_INDEXED if is_indexed else MAX_HELD_BYTES) else None
    for packet in container.demux(stream):
        size = packet.size
        if size == 0:
            continue
        times.append(packet.pts)
        sizes.append(size)
        is_key.append(packet.is_keyframe)
        if packet.is_keyframe:
            counts.append(count_of(packet))
        is_hidden = is_vp8 and not memoryview(packet)[0] & 0x10  # the `show_frame` bit of RFC 6386
        is_shown.append(not (packet.is_discard or is_hidden))
        has_new_parameters = has_new_parameters or packet.has_sidedata("new_extradata")
        if packets is not None:
            packets[len(packets)] = packet
        _check_num_frames(name, len(times), max_frames)
        last = packet
    if times and last.is_corrupt:
        raise VideoDecodeError(f"{name}: cut off in the middle of a frame, after {sum(is_shown) - 1} whole ones.")
    times, is_key, is_shown = np.array(times), np.array(is_key, dtype=bool), np.array(is_shown, dtype=bool)
    if stream.codec_context.name == "gif":  # which marks every packet, though frames build on the last
        is_key[1:] = False
    fps = _frame_rate(stream, times[is_shown])
    packets = None if has_new_parameters else packets
    can_seek = (
        (packets is not None or is_indexed)
        and not has_new_parameters
        and _are_times_known(stream, times, is_key)
        and _is_one_frame_a_packet(stream.codec_context, min(sizes))
        and counts_follow_times(np.flatnonzero(is_key), counts, times.argsort().argsort())
    )
    return _PacketIndex(times, stream.time_base, is_key, is_shown, packets, fps, can_seek)


def _is_one_frame_a_packet(codec, smallest: int) -> bool:
    return (
        codec.codec.canonical_name in SEEKABLE_CODECS
        and codec.field_order <= 1  # else two packets may be the fields of one frame
        # Such a packet of MPEG-4 holds no picture: the packet before has two, or nothing has moved.
        and not (codec.name == "mpeg4" and smallest <= 10)
    )


def _are_times_known(stream, times: np.ndarray, is_key: np.ndarray) -> bool:
    return (
        len(times) > 0
        and times.dtype != object  # with a None
        and len(np.unique(times)) == len(times)
        and bool(is_key[0] and times[0] == times.min())
        and bool(np.all(np.diff(times[is_key]) > 0))  # else decoders give groups in another order than that of times
        and not _are_times_of_decoding(stream, times)
    )


def _are_times_of_decoding(stream, times: np.ndarray) -> bool:
    """As in AVI and what was made of it: packets of B-frames come after those of frames that are shown later."""
    is_avi = stream.container.format.name == "avi"  # FFmpeg guesses
    return bool(stream.codec_context.has_b_frames and (is_avi or np.all(np.diff(times) > 0)))


def _frame_rate(stream, times: np.ndarray) -> float | None:
    """Frames per second: the container's word, unless the times of its frames say otherwise."""
    told = float(stream.average_rate or stream.guessed_rate or 0)
    if len(times) < 2 or times.dtype == object or times.max() == times.min():
        return told or None
    measured = (len(times) - 1) / float((int(times.max()) - int(times.min())) * stream.time_base)
    return told if math.isclose(told, measured, rel_tol=0.02) else measured


def _describe_video(name: str, num_frames: int, fps: float | None) -> VideoMetadata:
    if num_frames == 0:
        raise VideoDecodeError(f"{name}: no frame can be decoded, it is cut off or holds no picture.")
    duration = num_frames / fps if fps else None
    return VideoMetadata(total_num_frames=num_frames, fps=fps, duration=duration, video_backend="pyav")


@dataclass
class _FrameDecoder:
    """Decodes wanted frames of an indexed stream."""

    name: str
    data: str | bytes
    container: InputContainer
    stream: VideoStream
    index: _PacketIndex
    short_side: int | None
    max_frame_pixels: int
    reformatter: VideoReformatter = field(default_factory=VideoReformatter)
    num_held_bytes: int = 0
    decoded: dict = field(default_factory=dict)  # all frames of the file by their number, or none

    def decode(self, wanted: set[int]) -> tuple[dict[int, np.ndarray], int]:
        """The `wanted` frames by their index, each (H, W, 3) uint8, and the number of frames in the file."""
        num_frames = self.index.num_frames
        if self.index.decode_times is not None and not self._read_groups(wanted):
            with _open_video(self.name, self.data, 1, self.max_frame_pixels) as (container, stream):
                self.index = _index_packets(self.name, container, stream, max_frames=len(self.index.times))
            if self.index.num_frames != num_frames:
                return {}, self.index.num_frames
        if self.index.can_seek and len(wanted) < num_frames:
            frames = self._decode_spans(wanted)
            if len(frames) == len(wanted):
                return frames, num_frames
        return self._decode_everything(wanted)

    def _read_groups(self, wanted: set[int]) -> bool:
        """
        Reads the packets round the wanted frames, whose times the table lacks: their groups of pictures (a keyframe
        and what follows) and the groups beside these. False if the table or the order of groups cannot be trusted,
        as with keyframes that do not restart the count of pictures: files may have been joined there.
        """
        index = self.index
        starts = np.append(np.flatnonzero(index.is_key), len(index.is_key))
        # As groups are shown one after the other, a frame is in the group where the packet of its number is.
        packets = np.flatnonzero(index.is_shown)[sorted(wanted)]
        groups = np.unique(np.searchsorted(starts, packets, side="right") - 1)
        near = np.unique(np.clip([[0, group - 1, group, group + 1] for group in groups], 0, len(starts) - 2))
        for run in np.split(near, np.flatnonzero(np.diff(near) > 1) + 1):
            first, following, end = starts[[run[0], run[0] + 1, run[-1] + 1]].tolist()
            if not self._read_packets(first, following, end):
                return False
        spans = {group: index.times[starts[group] : starts[group + 1]] for group in near.tolist()}
        if _are_times_of_decoding(self.stream, np.concatenate(list(spans.values()))):
            return False
        for group, times in spans.items():
            following = spans.get(group + 1, [math.inf])
            if len(np.unique(times)) < len(times) or times.max() >= min(following):
                return False
        return bool(index.times[0] == spans[0].min())

    def _read_packets(self, first: int, following: int, end: int) -> bool:
        """
        Learns the times of packets from `first` up to `end`; false if they do not match the table. `first` and
        `following` are keyframes, one after the other.
        """
        index, expected, position = self.index, self.index.decode_times, first
        count_of = PictureCounter(self.stream.codec_context.name, self.stream.codec_context.extradata)
        # Seeking goes by the time of showing, a little after that of decoding: aimed at the middle it hits the group.
        middle = (expected[first] + expected[min(following, len(expected) - 1)]) // 2
        self.container.seek(int(middle), stream=self.stream)
        for packet in self.container.demux(self.stream):
            if packet.size == 0 or packet.dts is None or packet.pts is None or packet.has_sidedata("new_extradata"):
                return False
            if position == first and packet.dts < expected[first]:
                continue
            if packet.dts != expected[position] or packet.is_keyframe != index.is_key[position]:
                return False
            if packet.is_keyframe:
                count = count_of(packet)
                if count is None or not count.restarts:
                    return False
            index.times[position] = packet.pts
            self.num_held_bytes += packet.size
            if index.packets is not None:
                index.packets[position] = packet
                index.packets = index.packets if self.num_held_bytes <= MAX_HELD_BYTES else None
            position += 1
            if position == end:
                return True
        return False

    def _decode_spans(self, wanted: set[int]) -> dict[int, np.ndarray]:
        """Decodes from keyframes on. Frames are missing if they do not come out or a keyframe is none."""
        times = self.index.times
        # A table's times are right in the groups that were read, and put no frame into another group.
        by_time = (times,) if self.index.decode_times is None else (times, np.cumsum(self.index.is_key))
        order = np.lexsort(by_time)
        shown = order[self.index.is_shown[order]]  # the packet of each frame
        if not self._is_order_of_decoder([int(shown[frame]) for frame in wanted], order.argsort()):
            return {}
        frame_at = {int(times[shown[frame]]): frame for frame in wanted}
        frames, codec = {}, self.stream.codec_context
        try:
            for first, last in self._spans([int(shown[frame]) for frame in wanted]):
                starts_with_picture, last_pts = not self.index.is_shown[first], -math.inf  # an edit list may hide it
                for frame in self._decode_span(first, last, frame_at):
                    if frame.pts is None or frame.pts <= last_pts:
                        return {}
                    last_pts = frame.pts
                    if frame.pts == times[first]:
                        starts_with_picture = frame.pict_type == PictureType.I
                    if frame.pts in frame_at:
                        frames[frame_at[frame.pts]] = self._to_rgb(frame)
                codec.flush_buffers()
                if not starts_with_picture:  # but with a row of intra blocks, which refresh it little by little
                    return {}
        except av.error.FFmpegError:  # perhaps what is marked as a keyframe is none
            pass
        return frames

    def _is_order_of_decoder(self, packets: list[int], ranks: np.ndarray) -> bool:
        """Whether all groups of pictures that hold one of `packets` come out of a decoder by their `ranks`."""
        codec = self.stream.codec_context
        starts = np.append(np.flatnonzero(self.index.is_key), len(ranks))
        for group in np.unique(np.searchsorted(starts, packets, side="right") - 1).tolist():
            positions = np.arange(starts[group], starts[group + 1])
            if np.ptp(ranks[positions]) >= len(positions):  # one of another group in between
                return False
            if codec.has_b_frames or np.any(np.diff(ranks[positions]) < 0):
                count_of = PictureCounter(codec.name, codec.extradata)
                counts = [count_of(packet) for packet in self._packets(int(positions[0]), int(positions[-1]))]
                if len(counts) < len(positions) or not counts_follow_times(positions, counts, ranks):
                    return False
        return True

    def _spans(self, packets: list[int]) -> list[tuple[int, int]]:
        """Ranges of packets (first, last) to decode for the frames of `packets`; each begins with a keyframe."""
        times = self.index.times
        keys = np.flatnonzero(self.index.is_key).tolist()
        spans = []
        for packet in packets:
            # Frames shown before their keyframe, as open groups of pictures have them, need the keyframe before.
            first = bisect_right(keys, packet) - 1
            while times[keys[first]] > times[packet]:
                first -= 1
            spans.append((keys[first], packet))
        merged = []
        for first, last in sorted(spans):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return merged

    def _decode_span(self, first: int, last: int, wanted_times) -> Iterator:
        codec = self.stream.codec_context
        can_skip = codec.codec.canonical_name in CODECS_WITH_NONREF
        for packet in self._packets(first, last):
            if can_skip:
                codec.skip_frame = "DEFAULT" if packet.pts in wanted_times else "NONREF"
            yield from codec.decode(packet)
        yield from codec.decode(None)

    def _packets(self, first: int, last: int) -> Iterator:
        if self.index.packets is not None:
            yield from (self.index.packets[position] for position in range(first, last + 1))
            return
        self.container.seek(int(self.index.times[first]), stream=self.stream)
        position = None
        for packet in self.container.demux(self.stream):
            if position is None and packet.pts == self.index.times[first]:
                position = first
            if position is not None and packet.size:
                yield packet
                position += 1
                if position > last:
                    break

    def _decode_everything(self, wanted: set[int]) -> tuple[dict[int, np.ndarray], int]:
        if self.decoded and wanted <= self.decoded.keys():  # asked again, as the number of frames was a surprise
            return {number: self._to_rgb(self.decoded[number]) for number in wanted}, len(self.decoded)
        frames, num_frames, num_pixels = {}, 0, 0
        for frame in self._decode_all_packets():
            if num_frames in wanted:
                frames[num_frames] = self._to_rgb(frame)
            num_frames += 1
            num_pixels += frame.width * frame.height
            if num_pixels <= MAX_HELD_PIXELS:
                self.decoded[num_frames - 1] = frame
            else:
                self.decoded.clear()
        return frames, num_frames

    def _decode_all_packets(self) -> Iterator:
        codec = self.stream.codec_context
        codec.skip_frame = "DEFAULT"
        codec.flush_buffers()
        if self.index.packets is not None and len(self.index.packets) == len(self.index.times):
            for position in range(len(self.index.times)):
                yield from codec.decode(self.index.packets[position])
        else:
            with _open_video(self.name, self.data, codec.thread_count, self.max_frame_pixels) as (container, stream):
                for packet in container.demux(stream):
                    if packet.size:
                        yield from codec.decode(packet)
        yield from codec.decode(None)

    def _to_rgb(self, frame) -> np.ndarray:
        _check_frame_size(self.name, frame, self.max_frame_pixels)
        settings = {}
        if self.short_side is not None and self.short_side < min(frame.width, frame.height):
            scale = self.short_side / min(frame.width, frame.height)
            # Of swscale's filters, "area" averages all pixels that become one: no aliasing.
            settings = {
                "width": round(frame.width * scale),
                "height": round(frame.height * scale),
                "interpolation": "AREA",
            }
        # One reformatter and one thread: setting up either for every frame costs more than small frames themselves.
        pixels = self.reformatter.reformat(frame, format="rgb24", threads=1, **settings).to_ndarray()
        return np.rot90(pixels, k=round(frame.rotation / 90) % 4)  # quarter turns against the clock


def _stack_frames(name: str, frames: list[np.ndarray]) -> np.ndarray:
    if not frames:
        raise VideoDecodeError(f"{name}: too short, the sampling takes no frame of it.")
    shapes = sorted({frame.shape[:2] for frame in frames})
    if len(shapes) > 1:
        sizes = ", ".join(f"{width}x{height}" for height, width in shapes)
        raise VideoDecodeError(f"{name}: its frames must have one size, they have {sizes}.")
    return np.stack(frames)


# ---------------------------------------------------------------------------------------------------------------------
# Sampling
# ---------------------------------------------------------------------------------------------------------------------


def sample_frame_indices(
    num_frames: int,
    vlen: int,
    sampling: str = "middle",
    *,
    fps: float | None = None,
    max_num_frames: int | None = None,
    fix_start: int | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """
    Chooses frames of a video of `vlen` frames, as the original does.

    `"middle"` and `"rand"` cut the video into min(num_frames, vlen) intervals of equal length and take one frame of
    each; if `vlen` is smaller than `num_frames`, the last index repeats. `"fpsX"` takes X frames per second.

    Args:
        num_frames: length of the clip; `"fpsX"` does not look at it.
        sampling: `"middle"` (evaluation), `"rand"` (training), or `"fps"` followed by a positive number.
        fps: frame rate of the video, for `"fpsX"`.
        max_num_frames: upper limit for `"fpsX"`; `None` or -1 means none.
        fix_start: with `"middle"`, take the frame this many after the beginning of each interval instead.
        generator: source of the draws of `"rand"`. Without one they come from the global states of `random` and
            `numpy.random`, call by call as in the original.

    Returns:
        ascending indices below `vlen`; `num_frames` of them, or with `"fpsX"` as many as there are (perhaps none).
    """
    if num_frames < 1 or vlen < 1:
        raise ValueError(f"`num_frames` and `vlen` must be at least 1, got {num_frames} and {vlen}.")
    if sampling.startswith("fps"):
        return _indices_at_rate(sampling, vlen, fps, max_num_frames)
    edges = np.linspace(0, vlen, min(num_frames, vlen) + 1).astype(int).tolist()
    intervals = [(low, high - 1) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    if sampling == "rand":
        indices = _random_indices(intervals, vlen, generator)
    elif sampling != "middle":
        raise ValueError(f"`sampling` must be 'middle', 'rand' or 'fps' followed by a number, got {sampling!r}.")
    elif fix_start is not None:
        indices = [min(first + fix_start, last) for first, last in intervals]
    else:
        indices = [(first + last) // 2 for first, last in intervals]
    return indices + indices[-1:] * (num_frames - len(indices))


def _random_indices(intervals: list[tuple[int, int]], vlen: int, generator: torch.Generator | None) -> list[int]:
    # As in the original, the last frame of an interval is never drawn; intervals of one frame leave nothing to draw.
    if all(first < last for first, last in intervals):
        if generator is None:
            return [random.choice(range(first, last)) for first, last in intervals]
        return [torch.randint(first, last, (), generator=generator).item() for first, last in intervals]
    if generator is None:
        order = np.random.permutation(vlen)
    else:
        order = torch.randperm(vlen, generator=generator)
    return sorted(order[: len(intervals)].tolist())


def _indices_at_rate(sampling: str, vlen: int, fps: float | None, max_num_frames: int | None) -> list[int]:
    try:
        period = 1 / float(sampling.removeprefix("fps"))
    except (ValueError, ZeroDivisionError):
        period = -1
    if not 0 < period < math.inf:
        raise ValueError(f"`sampling` must name a positive rate after 'fps', as in 'fps0.5', got {sampling!r}.")
    if not fps:
        raise ValueError(f"`sampling={sampling!r}` needs the video's own frame rate; pass it in `video_metadata`.")
    times = np.arange(period / 2, vlen / fps + period / 2, period)
    indices = np.around(times * fps).astype(int)
    indices = indices[indices < vlen].tolist()
    return indices if max_num_frames is None or max_num_frames < 0 else indices[:max_num_frames]


# ---------------------------------------------------------------------------------------------------------------------
# Pixels
# ---------------------------------------------------------------------------------------------------------------------


def random_crop_box(
    height: int,
    width: int,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: torch.Generator | None = None,
) -> tuple[int, int, int, int]:
    """
    Draws (top, left, height, width) in pixels as torchvision's `RandomResizedCrop` does: the same seed, the same box.

    The area is uniform in `scale` (share of the frame), the aspect ratio log-uniform in `ratio` (width / height).
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * torch.empty(1).uniform_(*scale, generator=generator).item()
        aspect = torch.exp(torch.empty(1).uniform_(low, high, generator=generator)).item()
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = torch.randint(0, height - crop_height + 1, (1,), generator=generator).item()
            left = torch.randint(0, width - crop_width + 1, (1,), generator=generator).item()
            return top, left, crop_height, crop_width
    # Ten draws did not fit: the largest central box whose aspect ratio is allowed.
    crop_width, crop_height = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def resize_matrices(
    old: torch.Tensor, new: int, length: int, resample: int = PILImageResampling.BICUBIC, antialias: bool = False
) -> torch.Tensor:
    """
    Resizing as a product: what `torch.nn.functional.interpolate` (`align_corners=False`) does to lines of pixels.

    Args:
        old: (B,) lengths of the lines, at most `length`; behind them there may be padding, which gets no weight.
        new: length of the resized lines.
        resample: bilinear (2) or bicubic (3).

    Returns:
        (B, new, length) float32 weights of the old pixels.
    """
    old = old[:, None, None]
    stretch = (old / new).clamp(min=1) if antialias else torch.ones_like(old, dtype=torch.float32)
    centers = (torch.arange(new, device=old.device)[:, None] + 0.5) * (old / new) - 0.5
    if antialias:
        pixels = torch.arange(length, device=old.device)
        weights = _resize_kernel((pixels - centers) / stretch, resample, a=-0.5) * (pixels < old)
        return weights / weights.sum(-1, keepdim=True)
    taps = centers.floor() + torch.arange(-1, 3, device=old.device)
    weights = _resize_kernel(taps - centers, resample, a=-0.75)
    taps = taps.minimum(old - 1).clamp(min=0).long()  # beyond the edges its pixels repeat
    return weights.new_zeros(len(old), new, length).scatter_add_(2, taps, weights)


def _resize_kernel(distance: torch.Tensor, resample: int, a: float) -> torch.Tensor:
    """Linear, or Keys' cubic, whose parameter `a` is -0.75 in torch, but with antialiasing -0.5, as in Pillow."""
    x = distance.abs()
    if resample == PILImageResampling.BILINEAR:
        return (1 - x).clamp(min=0)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0))


def _rgb_frame(name: str, frame, input_data_format: str | None) -> np.ndarray:
    """A PIL image, array or tensor with 1, 3 or 4 channels as (H, W, 3) uint8. An alpha channel is dropped."""
    if isinstance(frame, Image.Image):
        return np.asarray(frame.convert("RGB"))
    is_tensor = isinstance(frame, torch.Tensor)
    frame = frame.numpy(force=True) if is_tensor else frame
    if frame.dtype != np.uint8:
        raise ValueError(f"{name}: frames must be uint8 with values from 0 to 255, got {frame.dtype}.")
    frame = frame[..., None] if frame.ndim == 2 else frame
    shape = frame.shape
    first, last = shape[0], shape[-1]
    if input_data_format is not None:
        channels_first = input_data_format == "channels_first"
    elif 3 in (first, last):  # both: tensors are (C, H, W), arrays (H, W, C)
        channels_first = last != 3 or (is_tensor and first == 3)
    else:
        channels_first = last not in (1, 4) or (is_tensor and first in (1, 4))
    frame = frame.transpose(1, 2, 0) if channels_first else frame
    if frame.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{name}: frames must have 1, 3 or 4 channels, got a frame of shape {shape}.")
    return np.broadcast_to(frame[..., :3], (*frame.shape[:2], 3))


class SViTTVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    r"""
    sampling (`str`, *optional*, defaults to `"middle"`):
        `"middle"` (evaluation), `"rand"` (training) or `"fpsX"` (X frames per second); see [`sample_frame_indices`].
    max_num_frames (`int`, *optional*):
        Upper limit of the number of frames that `"fpsX"` takes.
    antialias (`bool`, *optional*, defaults to `False`):
        Whether resizing low-passes first. The published weights were trained without.
    do_augment (`bool`, *optional*, defaults to `False`):
        Training: a random crop instead of the whole frame, then perhaps a horizontal flip, the same for all frames
        of a clip and drawn anew for each clip of a batch.
    decode_short_side (`int`, *optional*):
        Scale larger frames down to this shorter side while decoding: faster and smaller, but other pixels than those
        of whole frames. For training on large videos; evaluation as published takes whole frames.
    decode_threads (`int`, *optional*, defaults to 1):
        Threads of the decoder, 0 for as many as FFmpeg sees fit.
    crop_scale (`tuple[float, float]`, *optional*, defaults to `(0.5, 1.0)`):
        Range of the crop's share of the frame's area.
    crop_ratio (`tuple[float, float]`, *optional*, defaults to `(3 / 4, 4 / 3)`):
        Range of the crop's width over its height.
    flip_prob (`float`, *optional*, defaults to 0.5):
        Probability of the flip. A flip swaps "left" and "right": 0 switches it off.
    seed (`int` or `list[int]`, *optional*):
        Seeds what is drawn for frames and augmentation: an `int` for the whole call, or a list with one per clip,
        which makes a clip's draws independent of the rest of the batch. Without it they come from the global states.
    """

    sampling: str | None
    max_num_frames: int | None
    antialias: bool | None
    do_augment: bool | None
    decode_short_side: int | None
    decode_threads: int | None
    crop_scale: list[float | int] | tuple[float | int, ...] | None
    crop_ratio: list[float | int] | tuple[float | int, ...] | None
    flip_prob: float | int | None
    seed: int | list[int] | None


class SViTTVideoProcessor(VideoProcessorMixin):
    r"""
    Turns videos into `pixel_values` (B, T, 3, H, W) float32: decode, sample, resize, rescale, normalise.

    One video is a path, `bytes`, a file object, a `datasets` dict (see [`read_video`]), an array (T, H, W, C) or
    tensor (T, C, H, W) or (T, H, W, C) of uint8, or a list of frames (PIL images, arrays, tensors). An image file, PIL
    image or array (H, W, C) is a clip of one frame. A list of these, or a 5-D array, is a batch. Sampling applies to
    every kind of input; `do_sample_frames=False` takes all frames.

    The defaults are the original's evaluation: the middle frames of `num_frames` intervals, each resized to `size`
    without keeping the aspect ratio, bicubic without antialiasing and rounded to uint8 again, then / 255, then
    mean 0.5 and standard deviation 0.5. For training: `sampling="rand", do_augment=True`.

    Errors are sentences: [`VideoDecodeError`] (a `ValueError`) for what cannot be read, `ValueError` for the rest.
    """

    valid_kwargs = SViTTVideoProcessorKwargs
    model_input_names = ["pixel_values"]

    do_sample_frames = True
    num_frames = 4
    sampling = "middle"
    do_augment = False
    decode_short_side = None
    decode_threads = 1
    crop_scale = [0.5, 1.0]
    crop_ratio = [3 / 4, 4 / 3]
    flip_prob = 0.5
    do_convert_rgb = True
    do_resize = True
    size = {"height": 224, "width": 224}
    resample = PILImageResampling.BICUBIC
    antialias = False
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]

    def __init__(self, **kwargs: Unpack[SViTTVideoProcessorKwargs]):
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)

    def _validate_preprocess_kwargs(self, **settings):
        super()._validate_preprocess_kwargs(**settings)
        fixed = {"do_center_crop": False, "do_pad": False, "do_convert_rgb": True, "data_format": "channels_first"}
        for name, value in fixed.items():
            if settings.get(name) not in (None, value):
                raise ValueError(f"`{name}` can only be {value!r} in SViTT, got {settings[name]!r}.")
        if settings["do_resize"] and not (settings["size"].height and settings["size"].width):
            raise ValueError(f"`size` must give `height` and `width`, got {dict(settings['size'])}.")
        if settings["do_resize"] and settings["resample"] not in (2, 3):
            raise ValueError(f"`resample` must be bilinear (2) or bicubic (3), got {settings['resample']}.")
        if settings["decode_short_side"] is not None and settings["decode_short_side"] < 1:
            raise ValueError(f"`decode_short_side` must be at least 1, got {settings['decode_short_side']}.")

    def preprocess(self, videos, **kwargs: Unpack[SViTTVideoProcessorKwargs]) -> BatchFeature:
        """
        Args:
            videos: one video or a batch of them, of the kinds listed above.
            kwargs: any attribute of the processor, for this call; `seed`; `return_tensors` ("pt", "np" or `None` for
                a list with one tensor per video); `return_metadata` for the `VideoMetadata` of each video.

        Returns:
            `BatchFeature` with `pixel_values` (B, T, 3, H, W) float32; uint8 if neither rescaled nor normalised.
        """
        settings = self._settings(kwargs)
        videos = _list_videos(videos)
        known = settings.pop("video_metadata")
        known = [None] * len(videos) if known is None else make_batched_metadata(videos, known)
        generators = _seed_generators(settings.pop("seed"), len(videos))
        clips, metadata = [], []
        for index, video in enumerate(videos):
            frames, video_metadata = self._take_frames(
                f"`videos[{index}]`", video, known[index], generators[index], settings
            )
            clips.append(self.transform_frames(frames, generator=generators[index], **settings))
            metadata.append(video_metadata)

        data = {"pixel_values": clips if settings["return_tensors"] is None else _stack_clips(clips)}
        if settings["return_metadata"]:
            data["video_metadata"] = metadata
        return BatchFeature(data, settings["return_tensors"], skip_tensor_conversion=["video_metadata"])

    def _settings(self, kwargs: dict) -> dict:
        """The attributes of the processor, but for this call's."""
        validate_kwargs(valid_processor_keys=list(self.valid_kwargs.__annotations__), captured_kwargs=list(kwargs))
        validate_typed_dict(self.valid_kwargs, kwargs)
        settings = {name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__} | kwargs
        settings = self._standardize_kwargs(**settings)
        self._validate_preprocess_kwargs(**settings)
        return settings

    def _take_frames(
        self, name, video, known: VideoMetadata | None, generator, settings
    ) -> tuple[np.ndarray, VideoMetadata]:
        """The sampled frames (T, H, W, 3) uint8 of a video of any kind; `name` is for errors."""
        pick = partial(self.sample_frames, generator=generator, **settings) if settings["do_sample_frames"] else None
        if _is_file(video):
            limits = {"short_side": settings["decode_short_side"], "num_threads": settings["decode_threads"]}
            return read_video(video, pick, **limits)
        return _index_frames(name, video, pick, known, settings["input_data_format"])

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        sampling: str | None = None,
        max_num_frames: int | None = None,
        generator: torch.Generator | None = None,
        **kwargs,
    ) -> list[int]:
        """The frames to take of a video, see [`sample_frame_indices`]; `fps=X` is short for `sampling="fpsX"`."""
        return sample_frame_indices(
            num_frames or self.num_frames,
            metadata.total_num_frames,
            f"fps{fps}" if fps is not None else sampling or self.sampling,
            fps=metadata.fps,
            max_num_frames=max_num_frames,
            generator=generator,
        )

    def transform_frames(
        self,
        frames: np.ndarray,
        do_resize: bool,
        generator: torch.Generator | None = None,
        device: "str | torch.device | None" = None,
        **settings,
    ) -> torch.Tensor:
        """One clip (T, H, W, 3) uint8 → (T, 3, `height`, `width`); `settings` are the attributes of the processor."""
        frames, flip = self.augment(frames, generator=generator, **settings)
        frames = frames.to(device)
        if do_resize:
            frames = self.resize(frames, settings["size"], settings["resample"], settings["antialias"])
        return self.normalize(frames.flip(-1) if flip else frames, **settings)

    def augment(
        self, frames: np.ndarray, do_augment: bool, generator: torch.Generator | None = None, **settings
    ) -> tuple[torch.Tensor, bool]:
        """One clip (T, H, W, 3) uint8 → a random box of it (T, 3, h, w), and whether to flip it."""
        frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
        if not do_augment:
            return frames.contiguous(), False
        size = frames.shape[-2], frames.shape[-1]
        top, left, height, width = random_crop_box(*size, settings["crop_scale"], settings["crop_ratio"], generator)
        flip = torch.rand(1, generator=generator).item() < settings["flip_prob"]
        return frames[..., top : top + height, left : left + width].contiguous(), flip

    def normalize(self, frames: torch.Tensor, do_rescale: bool, do_normalize: bool, **settings) -> torch.Tensor:
        """Frames (..., 3, H, W) with values from 0 to 255 → float32, or as they are if nothing is to be done."""
        if do_rescale:
            frames = frames * settings["rescale_factor"]
        if do_normalize:
            mean = torch.tensor(settings["image_mean"], dtype=torch.float32, device=frames.device).view(-1, 1, 1)
            std = torch.tensor(settings["image_std"], dtype=torch.float32, device=frames.device).view(-1, 1, 1)
            frames = (frames - mean) / std
        return frames

    def resize(self, frames: torch.Tensor, size: SizeDict, resample: int, antialias: bool = False) -> torch.Tensor:
        """(T, 3, H, W) uint8 → (T, 3, `size.height`, `size.width`) uint8, as torchvision resizes uint8 tensors."""
        modes = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}
        size, mode = (size.height, size.width), modes[resample]
        resized = F.interpolate(frames.float(), size, mode=mode, align_corners=False, antialias=bool(antialias))
        return resized.round().clamp(0, 255).to(torch.uint8)  # bicubic overshoots

    # `preprocess` in two halves, so that worker processes send bytes and the device does the arithmetic. ------------

    def read_clip(self, video, **kwargs: Unpack[SViTTVideoProcessorKwargs]) -> tuple[torch.Tensor, bool]:
        """
        What a worker process does of [`preprocess`]: one clip (T, 3, h, w) uint8, and whether it is to be flipped.

        With `do_augment` the clip is the random crop as it is, to be resized by [`to_pixel_values`]; else it has been
        resized to `size` already, to the same bytes that `preprocess` normalises.
        """
        settings = self._settings(kwargs)
        [generator] = _seed_generators(settings.pop("seed"), 1)
        frames, _ = self._take_frames("the video", video, None, generator, settings)
        clip, flip = self.augment(frames, generator=generator, **settings)
        if settings["do_resize"] and not settings["do_augment"]:
            clip = self.resize(clip, settings["size"], settings["resample"], settings["antialias"])
        return clip, flip

    def collate_clips(self, clips: list[tuple[torch.Tensor, bool]]) -> dict[str, torch.Tensor]:
        """
        Results of [`read_clip`] as one batch, the arguments of [`to_pixel_values`].

        Returns:
            `clips` (B, T, 3, H, W) uint8, padded to the right and below where they differ in size; `clip_sizes`
            (B, 2), their heights and widths; `flips` (B,) bool.
        """
        sizes = torch.tensor([clip.shape[-2:] for clip, _ in clips])
        height, width = sizes.amax(dim=0).tolist()
        padded = [F.pad(clip, (0, width - clip.shape[-1], 0, height - clip.shape[-2])) for clip, _ in clips]
        return {
            "clips": _stack_clips(padded),
            "clip_sizes": sizes,
            "flips": torch.tensor([flip for _, flip in clips]),
        }

    def to_pixel_values(
        self, clips: torch.Tensor, clip_sizes: torch.Tensor | None = None, flips: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        What the device does of [`preprocess`], for a whole batch of [`collate_clips`] in one step.

        Resizing is a product with one matrix for the rows and one for the columns of each clip; flipping reverses the
        latter. The result equals that of clip after clip but for the order of sums, which now and then puts a value
        on the other side of a rounding, 1 / 255 away. Needs eight times the memory of `clips`.

        Args:
            clips: (B, T, 3, H, W) uint8. The other arguments are left out if they have been resized already.

        Returns:
            (B, T, 3, `height`, `width`) float32 on the device of `clips`.
        """
        settings = self._settings({})
        frames = clips
        if clip_sizes is not None and settings["do_resize"]:
            filters = settings["resample"], settings["antialias"]
            rows = resize_matrices(clip_sizes[:, 0], settings["size"].height, clips.shape[-2], *filters)
            columns = resize_matrices(clip_sizes[:, 1], settings["size"].width, clips.shape[-1], *filters)
            columns = torch.where(flips[:, None, None], columns.flip(1), columns)
            with torch.autocast(clips.device.type, enabled=False):
                frames = torch.bmm(clips.float().flatten(1, 3), columns.mT).view(*clips.shape[:-1], -1)
                frames = rows[:, None, None] @ frames
            frames = frames.round().clamp(0, 255)
        return self.normalize(frames, **settings)


def _is_file(video) -> bool:
    return isinstance(video, (str, os.PathLike, bytes, bytearray, memoryview, dict)) or hasattr(video, "read")


def _is_frame(video) -> bool:
    return isinstance(video, Image.Image) or (isinstance(video, (np.ndarray, torch.Tensor)) and video.ndim in (2, 3))


def _list_videos(videos) -> list:
    """Each entry is a file, an array (T, ...) or a list of frames."""
    if _is_file(videos):
        return [videos]
    if _is_frame(videos):
        return [[videos]]
    if isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim in (4, 5):
        return [videos] if videos.ndim == 4 else list(videos)
    if not isinstance(videos, (list, tuple)) or len(videos) == 0:
        shape = f" of shape {tuple(videos.shape)}" if hasattr(videos, "shape") else ""
        raise ValueError(f"`videos` must hold files, frames or clips of frames, got {type(videos).__name__}{shape}.")
    if all(_is_frame(frame) for frame in videos):
        return [videos]
    return [video for entry in videos for video in _list_videos(entry)]


def _index_frames(name, video, pick, known: VideoMetadata | None, data_format) -> tuple[np.ndarray, VideoMetadata]:
    """What [`read_video`] does, for a video that is an array or a list of frames already."""
    metadata = VideoMetadata(total_num_frames=len(video), fps=known and known.fps)
    metadata.duration = len(video) / metadata.fps if metadata.fps else None
    metadata.frames_indices = list(range(len(video))) if pick is None else pick(metadata)
    frames = [_rgb_frame(name, video[index], data_format) for index in metadata.frames_indices]
    frames = _stack_frames(name, frames)
    metadata.height, metadata.width = frames.shape[1:3]
    return frames, metadata


def _seed_generators(seed: int | list[int] | None, count: int) -> list[torch.Generator | None]:
    if seed is None:
        return [None] * count
    if isinstance(seed, int):
        return [torch.Generator().manual_seed(seed)] * count
    if len(seed) != count:
        raise ValueError(f"`seed` must be an int or hold one per video, got {len(seed)} seeds for {count} videos.")
    return [torch.Generator().manual_seed(one) for one in seed]


def _stack_clips(clips: list[torch.Tensor]) -> torch.Tensor:
    shapes = sorted({tuple(clip.shape) for clip in clips})
    if len(shapes) > 1:
        raise ValueError(
            f"The clips of a batch must have one shape (T, 3, H, W) to become a tensor, got {shapes}: sample the same "
            "number of frames of each and resize them, or pass `return_tensors=None` for a list."
        )
    return torch.stack(clips)


# ---------------------------------------------------------------------------------------------------------------------
# Text
# ---------------------------------------------------------------------------------------------------------------------


def clean_text(text: str, max_words: int | None = None) -> str:
    """The original's form of a caption or question: lower case, without punctuation, at most `max_words` words."""
    text = re.sub(r"[,.'!?\"()*#:;~]", "", text.lower())
    text = re.sub(r"[-/]", " ", text).replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


class SViTTProcessor(ProcessorMixin):
    r"""
    A [`SViTTVideoProcessor`] and a BERT tokenizer in one: `processor(videos=..., text=..., return_tensors="pt")`.

    Captions and questions become `[CLS] w1 ... wn` without a final [SEP], the form the published weights were trained
    with, padded to the longest of the batch and truncated to 32 tokens (`padding` and `max_length` change that per
    call, `from_pretrained(..., max_length=64)` for good). Both switches are saved with the processor, since they
    belong to the weights, and can be passed to a call as well. So is the length of answers.

    Args:
        video_processor ([`SViTTVideoProcessor`]): makes the `pixel_values`.
        tokenizer ([`BertTokenizer`]): makes `input_ids` and `attention_mask`.
        clean_text (`bool`, *optional*, defaults to `True`): apply [`clean_text`] first.
        add_sep (`bool`, *optional*, defaults to `False`): encode as `[CLS] w1 ... wn [SEP]`, as BERT users expect.
        max_answer_length (`int`, *optional*, defaults to 5): tokens of an answer, see `encode_answers`.
    """

    text_kwargs = {"padding": True, "truncation": True, "max_length": 32}

    def __init__(self, video_processor=None, tokenizer=None, clean_text=True, add_sep=False, max_answer_length=5):
        super().__init__(video_processor, tokenizer)
        self.clean_text = clean_text
        self.add_sep = add_sep
        self.max_answer_length = max_answer_length
        # Saving writes this into the folder, loading does not read it back: set, a processor equals its reloaded self.
        self.auto_map = {"AutoProcessor": "processing_svitt.SViTTProcessor"}

    def __call__(self, videos=None, text: str | list[str] | None = None, **kwargs) -> BatchFeature:
        """
        Args:
            videos: one video or a batch, of the kinds that [`SViTTVideoProcessor`] takes; an image is a video too.
            text: one caption or question or a batch; as many as videos or not, they are not paired here.
            kwargs: `clean_text` and `add_sep`, and whatever the video processor or tokenizer takes. `add_sep` alone
                decides about special tokens.

        Returns:
            `BatchFeature` with `pixel_values` (B, T, 3, H, W), `input_ids` and `attention_mask` (B, L), as far as the
            input goes.
        """
        if kwargs.get("images") is not None or kwargs.get("audio") is not None:
            raise ValueError("SViTT takes `videos` and `text`: pass an image in `videos`, as a clip of one frame.")
        self.validate_inputs(videos=videos, text=text)
        clean = kwargs.pop("clean_text", self.clean_text)
        add_sep = kwargs.pop("add_sep", self.add_sep)
        kwargs = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        data = {}
        if videos is not None:
            data.update(self.video_processor(videos, **kwargs["videos_kwargs"]))
        if text is not None:
            data.update(self._encode_text(text, clean, add_sep, **kwargs["text_kwargs"]))
        return_tensors = kwargs["text_kwargs"].get("return_tensors")
        return BatchFeature(data, return_tensors, skip_tensor_conversion=self.skip_tensor_conversion)

    def _encode_text(self, text: str | list[str], clean: bool, add_sep: bool, **kwargs) -> dict:
        if isinstance(text, list):
            text = [self._write_tokens(one, clean, add_sep) for one in text]
        else:
            text = self._write_tokens(text, clean, add_sep)
        tokens = self.tokenizer(text, **{**kwargs, "add_special_tokens": add_sep})
        return {name: value for name, value in tokens.items() if name not in self.unused_input_names}

    def _write_tokens(self, text: str, clean: bool, add_sep: bool) -> str:
        text = clean_text(text) if clean else text
        # Written out, the tokenizer parses [CLS] as the special token and counts it when it truncates.
        return text if add_sep else f"{self.tokenizer.cls_token} {text}"

    def encode_answers(self, answers: str | list[str], max_length: int | None = None, **kwargs) -> BatchFeature:
        """
        Encodes answers as `[CLS] answer [SEP]`, uncleaned, for the decoder of question answering.

        They are cut to `max_length` tokens, by default the processor's `max_answer_length`: answers that begin alike
        may become equal. The [SEP] is written behind the answer before that, as in the original: an answer of more than
        `max_length - 2` tokens loses it. `kwargs` go to the tokenizer.
        """
        max_length = self.max_answer_length if max_length is None else max_length
        answers = [answers] if isinstance(answers, str) else answers
        answers = [f"{answer} {self.tokenizer.sep_token}" for answer in answers]
        settings = {"padding": True, "truncation": True, "max_length": max_length, "return_tensors": "pt", **kwargs}
        return BatchFeature(self._encode_text(answers, clean=False, add_sep=False, **settings))

    @property
    def unused_input_names(self) -> list[str]:
        return ["token_type_ids"]  # the text encoder has one token type

    def check_argument_for_proper_class(self, argument_name, argument):
        # The base class looks the mixin up at the top level of transformers, where it needs torchvision to exist.
        if argument_name == "video_processor" and isinstance(argument, VideoProcessorMixin):
            return VideoProcessorMixin
        return super().check_argument_for_proper_class(argument_name, argument)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        # Through AutoVideoProcessor, loading would ask for `trust_remote_code` although this very module is the code.
        return [
            SViTTVideoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs),
        ]


SViTTVideoProcessor.register_for_auto_class("AutoVideoProcessor")
SViTTProcessor.register_for_auto_class("AutoProcessor")


__all__ = [
    "SViTTProcessor",
    "SViTTVideoProcessor",
    "VideoDecodeError",
    "clean_text",
    "read_video",
    "sample_frame_indices",
]
