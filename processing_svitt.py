# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""SViTT processing: a video file becomes a clip of normalised frames, a caption becomes token ids. No torchvision."""

import io
import math
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain, dropwhile, islice
from types import SimpleNamespace
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import PictureType
from av.video.reformatter import ColorTrc, VideoReformatter
from av.video.stream import VideoStream
from huggingface_hub.dataclasses import validate_typed_dict
from PIL import Image, ImageOps
from torch.nn import functional as F
from transformers import AutoTokenizer
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import PILImageResampling, validate_kwargs
from transformers.processing_utils import ProcessorMixin, Unpack, VideosKwargs
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_metadata

# ---- Decoding -------------------------------------------------------------------------------------------------------

MAX_FRAME_PIXELS = 2**25  # a little above 8K UHD: one RGB frame takes at most 100 MB, whatever a file claims
MAX_FRAMES = 2**20  # nearly ten hours at 30 frames per second
MAX_CLIP_BYTES = 2**32  # of the frames returned, as RGB
ROUNDING = 1e-6  # in times, of seconds or of strides
# Of the frames of a clip. FFmpeg reads each as one picture; of HEIC, it would read a corner.
IMAGE_EXTENSIONS = (".avif", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Packets of files up to this size stay in memory, still compressed. Those of larger files are read again: that is
# faster from some 4 MB on, but only formats with an index are sure to land where they should.
MAX_HELD_BYTES, MAX_HELD_BYTES_OF_INDEXED = 2**26, 2**22
FORMATS_WITH_INDEX = ("mov", "matroska")
# Where each packet is one frame, and decoding may start at every packet marked as a keyframe.
SEEKABLE_CODECS = {"av1", "gif", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "prores", "vp8", "vp9"}
# Where the decoder knows of frames that no other frame refers to. (HEVC's "non-reference" is relative to a layer.)
CODECS_WITH_NONREF = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}
# Tags may be no UTF-8. PyAV 19 lets that pass and has no such argument, PyAV 18 has to be told.
ANY_TAGS = {"metadata_errors": "ignore"} if av.__version__.startswith("18.") else {}
NO_FRAME = "no frame can be decoded, it is cut off or holds no picture"
# How a file says that it is encrypted: the description of a video in MP4, ContentEncryption with AES in Matroska, the
# Content Encryption Object in WMV.
ENCRYPTED = [rb"stsd.{12}encv", rb"\x50\x35.\x47\xe1\x81\x05", rb"\xfb\xb3\x11\x22\x23\xbd\xd2\x11"]
BT2020_TO_BT709 = np.array(
    [[1.66049, -0.58764, -0.07285], [-0.12455, 1.1329, -0.00835], [-0.01815, -0.10058, 1.11873]], np.float32
)


class VideoDecodeError(ValueError):
    """A video that cannot be read. The message is one sentence that names the file and what is wrong with it."""


def read_video(
    source,
    pick: Callable[[VideoMetadata], list[int]] | None = None,
    *,
    short_side: int | None = None,
    shrink: Callable[[np.ndarray], np.ndarray] | None = None,
    square_pixels: bool = False,
    damaged: Literal["refuse", "use"] = "refuse",
) -> tuple[np.ndarray, VideoMetadata]:
    """
    Decode the frames of a video that `pick` asks for: exactly those that decoding everything would give.

    Reading all packets counts the frames and finds the keyframes; then decoding starts at the keyframe before each
    wanted frame, or at the first where keyframes or times cannot be trusted. Rotation metadata is applied, HDR (PQ and
    HLG) is tone-mapped to SDR, frames of another size than the first are scaled to that. Of several videos in a file
    the default one is taken. A still image or a GIF is a video too, and a folder of numbered images; the cover picture
    of a song is not.

    Args:
        source: path, URL that fsspec can open, `bytes`, binary file object, or the dict `{"bytes": ..., "path": ...}`
            of `datasets.Video(decode=False)`. The dict may have `start` and `end`, in seconds after the first frame:
            the video is then what is shown between them; `None` is the beginning, or the end. It may have the `fps` of
            a folder of images.
        pick: gets the `VideoMetadata` (`total_num_frames`, `fps`, `duration` in seconds) and returns the indices of
            the wanted frames, in any order and with repetitions. All frames when omitted.
        short_side: scale frames whose shorter side has more pixels down to that, while they become RGB.
        shrink: returns what to keep of a frame (H, W, 3) uint8, so that many frames of a long video fit into memory.
        square_pixels: make frames as wide as a player shows them, where pixels are not square (DV, DVDs, AVCHD).
        damaged: `"use"` takes the frames that are left of a file that is damaged or cut off, and counts only these.

    Returns:
        frames (T, H, W, 3) uint8 in the order of the indices, and the metadata with `frames_indices`. Their attribute
        `frame_times` (total_num_frames,) holds seconds after the first frame of the file, `None` if they are unknown;
        `damage` is a sentence about a file that was used all the same: what is wrong, and how much is left.

    Raises:
        [`VideoDecodeError`] if the file is missing, empty, no video, larger than the limits of this module, encrypted,
        or has no frame; and unless it is to be used, if it is damaged or shorter than its index (MP4, MOV, AVI) or
        header (MKV, WebM) says: a clip sampled from what is left would be another clip.
    """
    if short_side is not None and short_side < 1:
        raise ValueError(f"`short_side` must be at least 1, got {short_side}.")
    if damaged not in ("refuse", "use"):
        raise ValueError(f"`damaged` must be 'refuse' or 'use', got {damaged!r}.")
    name, data = _name_and_data(source)
    said = source if isinstance(source, dict) else {}
    choose = partial(_choose, pick=pick, start=said.get("start"), end=said.get("end"))
    to_rgb = partial(_to_rgb, VideoReformatter(), short_side, shrink)
    if isinstance(data, str) and os.path.isdir(data) and os.access(data, os.R_OK):
        return _index_frames(name, _images_in(data), choose, said.get("fps"), to_rgb=to_rgb)
    damage: list[str] | None = None if damaged == "refuse" else []
    with _errors_about(name), _open_stream(data, damage) as (container, stream):
        index, aspect = _PacketIndex(container, stream, damage), float(stream.sample_aspect_ratio or 1)
        if square_pixels and 1 / 4 <= aspect <= 4:  # beyond that a file is wrong about itself
            to_rgb = partial(to_rgb, aspect=aspect)
        num_frames, frames = index.num_frames, None
        metadata, wanted = _describe(index, num_frames, choose)
        if index.can_seek:
            frames = _decode_from_keyframes(index, wanted, to_rgb)
        while frames is None:
            frames, times = _decode_everything(data, wanted, to_rgb, damage)
            if len(times) != num_frames:  # where a packet is half a frame, or a joint or damage costs frames
                num_frames, frames = len(times), None
                metadata, wanted = _describe(index, num_frames, choose, times if damage else [None])
        if damage:
            whole = max(stream.frames, index.num_frames)
            left = f"{num_frames} of {whole}" if num_frames < whole else f"{num_frames}"
            metadata.damage = f"{name}: used as far as it goes; {damage[0]}: {left} frames can be decoded."
        return _stack_frames([frames[number] for number in wanted], metadata), metadata


def times_of(metadata: VideoMetadata) -> np.ndarray:
    """Return when each frame is shown, in seconds; without a frame rate, all of them within one."""
    num_frames, times = metadata.total_num_frames, metadata.frame_times
    return np.arange(num_frames) / (metadata.fps or num_frames) if times is None else times


def frames_during(times: np.ndarray, starts, ends) -> tuple[np.ndarray, np.ndarray]:
    """Return the first frames that are shown during stretches of time, from -1, and those behind their last ones."""
    return np.searchsorted(times, starts + ROUNDING, side="right") - 1, np.searchsorted(times, ends - ROUNDING)


def end_of(metadata: VideoMetadata) -> float | None:
    """Return when the last frame has been shown, in seconds after the first; `None` without a frame rate."""
    return float(times_of(metadata)[-1]) + 1 / metadata.fps if metadata.fps else None


def check_span(start, end, video_end: float | None) -> tuple[float, float]:
    """Return the beginning and the end of a span in seconds, `None` being those of the video.

    Raises:
        [`VideoDecodeError`] if the span is none, or less than half of it is in the video.
    """
    try:
        start, end = float(start or 0), math.inf if end is None else float(end)
    except (TypeError, ValueError, OverflowError):
        raise VideoDecodeError(f"`start` and `end` must be seconds, got {start!r} and {end!r}") from None
    name = f"its span from {start:.10g} {'s on' if end == math.inf else f'to {end:.10g} s'}"
    if not 0 <= start < end:
        raise VideoDecodeError(f"{name} is none: it must begin at 0 or later, and end after that")
    if video_end is None:
        advice = "a folder of images has one if `fps` is given beside its `path`"
        raise VideoDecodeError(f"{name} cannot be found without a frame rate; {advice}")
    begins_after = start >= video_end - ROUNDING
    if begins_after or 2 * video_end - start < end < math.inf:
        where = "begins" if begins_after else "lies for the most part"
        advice = "annotations in milliseconds say so with `unit`"
        raise VideoDecodeError(f"{name} {where} after the end of the video, at {video_end:.5g} s; {advice}")
    return start, end


def _choose(metadata: VideoMetadata, pick: Callable | None, start=None, end=None) -> list[int]:
    """The numbers of the wanted frames; the metadata become those of the span, whose first frame `pick` counts as 0."""
    first, num_frames = 0, metadata.total_num_frames
    if start or end is not None:
        video_end, times = end_of(metadata), times_of(metadata)
        start, end = check_span(start, end, video_end)
        first, last = (int(number) for number in frames_during(times, start, end))
        num_frames = max(1, last - first)  # if no frame begins during the span
        metadata.total_num_frames, metadata.duration = num_frames, min(end, video_end) - start
        metadata.frame_times = times[first : first + num_frames]
    metadata.frames_indices = indices = list(range(num_frames)) if pick is None else list(pick(metadata))
    if indices and not 0 <= min(indices) <= max(indices) < num_frames:
        raise ValueError(f"`pick` must return indices from 0 to {num_frames - 1}, got {indices}.")
    return [first + index for index in indices]


@contextmanager
def _errors_about(name: str) -> Iterator[None]:
    """Name the video in the errors raised here, which say only what is wrong with it, and in those of FFmpeg."""
    try:
        yield
    except VideoDecodeError as error:
        raise VideoDecodeError(f"{name}: {str(error).rstrip('.')}.") from error.__cause__
    except (FFmpegError, OSError, MemoryError, OverflowError) as error:
        raise VideoDecodeError(f"{name}: {_words_of(error)}.") from error


def _words_of(error: BaseException) -> str:
    return f"damaged or cut off, FFmpeg says '{getattr(error, 'strerror', None) or error}'"


def _refuse(damage: list[str] | None, reason: str) -> None:
    """Raise an error, or where damaged files are to be used, note what is wrong."""
    if damage is None:
        raise VideoDecodeError(reason)
    damage.append(reason)


def _name_and_data(source) -> tuple[str, str | bytes]:
    """What to call the video in an error message, and its path or content."""
    if isinstance(source, dict):
        path, content = source.get("path"), source.get("bytes")
        if path is None and content is None:
            raise VideoDecodeError(f"A video given as a dict needs `path` or `bytes`, this one has {sorted(source)}.")
        return str(path or "<bytes>"), _name_and_data(path if content is None else content)[1]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>", bytes(source)
    if hasattr(source, "read"):
        return str(getattr(source, "name", "<file object>")), source.read()
    path = os.fspath(source)
    if path.startswith("file://"):
        return path, url2pathname(path.removeprefix("file://"))
    return path, _download(path) if "://" in path else path


def _download(url: str) -> bytes:
    import fsspec  # comes with huggingface_hub; here, as few need it

    try:
        files, path = fsspec.url_to_fs(url)
        return files.cat_file(path)
    except Exception as error:  # each store has its own kinds
        problem = "needs one more package" if isinstance(error, ImportError) else "cannot be downloaded"
        reason = "it is not there" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__
        raise VideoDecodeError(f"{url}: {problem} ({' '.join(reason.split())[:300]}).") from error


def _images_in(folder: str) -> list[str]:
    """The images in a folder by their numbers: 2 before 10."""
    names = [name for name in os.listdir(folder) if _is_image_path(name) and not name.startswith(".")]
    kinds = sorted({re.sub(r"\d+", "1", os.path.splitext(name)[0]) for name in names})
    if len(kinds) != 1:  # but two or three where there is optical flow beside the frames
        holds = "images as " + " and ".join(kinds[:3]) if kinds else "no images"
        wanted = "a folder is a video only of images whose names differ in numbers"
        raise VideoDecodeError(f"{folder}: {wanted}; this one holds {holds}.")
    names.sort(key=lambda name: ([int(number) for number in re.findall(r"\d+", name)], name))
    return [os.path.join(folder, name) for name in names]


@contextmanager
def _open_stream(data: str | bytes, damage: list[str] | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    with _open_file(data) as file:
        head = file.read(2**15)
        if not head:
            raise VideoDecodeError("the file is empty")
        if any(re.search(pattern, head, re.DOTALL) for pattern in ENCRYPTED):
            raise VideoDecodeError("is encrypted")
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        # FFmpeg gets no name: it would believe its extension, and read a text as ANSI art; and it may open no other
        # file: a "video" can be a playlist of paths.
        nameless = SimpleNamespace(read=file.read, seek=partial(_seek, file), tell=file.tell)
        limit = {"max_pixels": str(MAX_FRAME_PIXELS)}
        try:
            container = av.open(nameless, options=limit | {"protocol_whitelist": "none"}, **ANY_TAGS)  # type: ignore[call-overload]
        except (FFmpegError, OSError) as error:
            if head[4:8] == b"ftyp":
                if re.search(b"moov|meta", head):
                    raise VideoDecodeError("an MP4, MOV or HEIF with an index cut off or unknown to FFmpeg") from error
                raise VideoDecodeError("an MP4 or MOV without its index, it was cut off") from error
            raise VideoDecodeError("not a video file, such as MP4, WebM, MKV, MOV, AVI or GIF") from error
        with container:
            stream = _video_stream(container)
            is_photo = head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"mif", b"avi")
            if is_photo and len(container.streams.video) > 1 and not stream.disposition & av.stream.Disposition.default:
                raise VideoDecodeError("a photo in tiles, which cannot be joined: convert it to JPEG")
            for other in container.streams:  # such as sound, which need not be read
                other.discard = av.stream.Discard.default if other is stream else av.stream.Discard.all
            entries, codec = stream.index_entries, stream.codec_context
            indexed = entries[len(entries) - 1].pos + entries[len(entries) - 1].size if len(entries) else 0
            promised = max(indexed, _matroska_size(head))
            if size < promised:
                _refuse(damage, f"cut off, it has {size} bytes of at least {promised}")
            if codec.width * codec.height > MAX_FRAME_PIXELS:
                found = f"frames of {codec.width}x{codec.height}"
                raise VideoDecodeError(f"{found} are above the limit of {MAX_FRAME_PIXELS} pixels")
            codec.options, codec.thread_type = limit, "NONE"
            try:
                yield container, stream
            except FFmpegError as error:
                if codec.width > 0:
                    raise
                reasons = f"coded in a way that FFmpeg cannot decode, or above the limit of {MAX_FRAME_PIXELS} pixels"
                raise VideoDecodeError(f"no frame can be decoded, they are damaged, {reasons}") from error


def _open_file(data: str | bytes):
    try:
        if isinstance(data, bytes):
            return io.BytesIO(data)
        if os.path.exists(data) and not (os.path.isfile(data) or os.path.isdir(data)):
            raise OSError("not a regular file")  # reading from a pipe or a device may never end
        return open(data, "rb", buffering=0)
    except (OSError, ValueError) as error:
        raise VideoDecodeError(f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error


def _seek(file, offset: int, whence: int = os.SEEK_SET) -> int:
    try:
        return file.seek(offset, whence)
    except ValueError as error:  # of BytesIO, where a damaged file points before its beginning; others raise OSError
        raise OSError(str(error)) from error


def _video_stream(container: InputContainer) -> VideoStream:
    kind = av.stream.Disposition
    streams = [stream for stream in container.streams.video if not stream.disposition & kind.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams}))
        raise VideoDecodeError(f"has no video stream, what it holds is: {kinds or 'nothing'}")
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        raise VideoDecodeError("cut off, or coded in a way that this build of FFmpeg cannot decode")
    return next((stream for stream in streams if stream.disposition & kind.default), streams[0])


def _packets(container: InputContainer, stream: VideoStream | list, damage: list[str] | None = None) -> Iterator:
    """The packets of a stream, or of some, but for empty ones, which would end decoding."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.error.PermissionError:  # -1, with which old demuxers, such as that of NSV, say that this is the end
        return
    except FFmpegError as error:
        if damage is None:
            raise
        damage.append(_words_of(error))


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


class _PacketIndex:
    """
    Read all packets of a video stream without decoding them.

    Attributes:
        times: when the frame of each packet is shown, in units of the stream's time base, in the order of decoding;
            `None` where unknown.
        is_key, is_shown: whether decoding may start at a packet; whether its frame is shown or only helps decoding.
        shown: (num_frames,) positions of the packets whose frames are shown, in the order of their times.
        packets: all of them, or `None` if they are too large.
        size: width and height of the frames, if there is only one.
        can_seek: whether the times of packets tell which frame is which.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, damage: list[str] | None):
        self.container, self.stream, codec = container, stream, stream.codec_context
        self.size = codec.width, codec.height
        is_indexed = container.format.name.startswith(FORMATS_WITH_INDEX)
        is_held = container.size <= (MAX_HELD_BYTES_OF_INDEXED if is_indexed else MAX_HELD_BYTES)
        entries = stream.index_entries
        is_known = 0 < len(entries) == stream.frames and entries[0].is_keyframe
        if not is_held and container.format.name.startswith("mov") and is_known:
            # Such a file says all about its packets: not looking into them again takes a quarter less time.
            container.flags = container.flags | av.container.Flags.no_parse.value  # type: ignore[operator]
            container.seek(entries[0].timestamp, stream=stream)  # which also ends the parser that there is
        rows, packets, is_vp8, has_new_parameters = [], [], codec.name == "vp8", False
        for packet in islice(_packets(container, stream, damage), MAX_FRAMES + 1):
            is_key, last = packet.is_keyframe, packet
            is_hidden = packet.is_discard or (is_vp8 and not memoryview(packet)[0] & 0x10)  # RFC 6386: `show_frame`
            rows.append((packet.pts, is_key, is_hidden, packet.size))
            if is_key and packet.has_sidedata("new_extradata"):
                has_new_parameters = True
            if is_key and packet.has_sidedata("encryption_info"):
                raise VideoDecodeError("is encrypted")
            if is_held:
                packets.append(packet)
        if not rows:
            raise VideoDecodeError(NO_FRAME)
        if len(rows) > MAX_FRAMES:
            raise VideoDecodeError(f"has more frames than the limit of {MAX_FRAMES}")
        if last.is_corrupt:
            _refuse(damage, f"cut off in the middle of a frame, after {len(rows) - 1} whole ones")
        self.times, self.is_key, is_hidden, sizes = (np.array(column) for column in zip(*rows, strict=True))
        if codec.name == "gif":  # which marks every packet, though frames build on the last
            self.is_key[1:] = False
        self.packets, self.is_shown = packets if is_held else None, ~is_hidden
        self.is_timed = self.times.dtype != object  # which it is with a None
        order = np.argsort(self.times) if self.is_timed else np.arange(len(rows))
        self.shown = order[self.is_shown[order]]
        self.num_frames = len(self.shown)
        # In AVI and raw MPEG, where FFmpeg guesses, and in what was made of them, times are those of decoding.
        is_guessed = container.format.name in ("avi", "mpegvideo")
        is_order_of_decoding = is_guessed or bool(self.is_timed and np.all(np.diff(self.times) > 0))
        self.can_seek = bool(
            not damage
            and (is_held or is_indexed)
            and codec.codec.canonical_name in SEEKABLE_CODECS
            and not has_new_parameters
            and codec.field_order <= 1  # else two packets may be the fields of one frame
            # Such a packet of MPEG-4 holds no picture: the packet before has two, or nothing has moved.
            and not (codec.name == "mpeg4" and sizes.min() <= 10)
            and codec.has_b_frames != is_order_of_decoding
            and self.is_timed
            and np.all(np.diff(self.times[order]) > 0)
            and np.all(np.diff(self.times[self.is_key]) > 0)
            and self.is_key[0]
            and order[0] == 0
        )

    def spans(self, packets: list[int]) -> Iterable[tuple[int, int]]:
        """Return ranges (first, last) to be decoded for the frames of `packets`, each from a keyframe on."""
        keys, spans = np.flatnonzero(self.is_key), {}
        for packet in sorted(packets):
            key = int(np.searchsorted(keys, packet, side="right")) - 1
            while self.times[keys[key]] > self.times[packet]:  # shown before its keyframe, it needs the one before
                key -= 1
            spans[int(keys[key])] = packet
        return spans.items()

    def read(self, first: int, last: int) -> Iterable:
        """Return the packets from `first`, a keyframe, to `last`."""
        if self.packets is not None:
            return self.packets[first : last + 1]
        self.container.seek(int(self.times[first]), stream=self.stream)
        packets = dropwhile(lambda packet: packet.pts != self.times[first], _packets(self.container, self.stream))
        return islice(packets, last - first + 1)


def _describe(index: _PacketIndex, num_frames: int, choose: Callable, times=(None,)) -> tuple[VideoMetadata, list[int]]:
    """The metadata of a video of `num_frames`, at `times` if not all packets become one, and which ones are wanted."""
    if num_frames == 0:
        raise VideoDecodeError(NO_FRAME)
    stream, seconds = index.stream, None
    fps = float(stream.average_rate or stream.guessed_rate or 0) or None
    if index.is_timed and index.num_frames:
        seconds = index.times[index.shown]
        seconds = (seconds - seconds[0]) * float(stream.time_base)
        if seconds[-1] > 0:
            measured = (len(seconds) - 1) / float(seconds[-1])
            fps = fps if fps and math.isclose(fps, measured, rel_tol=0.02) else measured
    if num_frames != index.num_frames:
        is_known = seconds is not None and None not in times and np.all(np.diff(times) > 0)
        seconds = (np.array(times) - times[0]) * float(stream.time_base) if is_known else None
    metadata = VideoMetadata(num_frames, fps, duration=num_frames / fps if fps else None, video_backend="pyav")
    # No field, so that the metadata stay the mapping that Transformers knows.
    metadata.frame_times, metadata.damage = seconds, None
    return metadata, choose(metadata)


def _decode_from_keyframes(index: _PacketIndex, wanted: list[int], to_rgb: Callable) -> dict[int, np.ndarray] | None:
    """The `wanted` frames by number; `None` if all must be decoded, as a keyframe turns out to be none."""
    codec, frames = index.stream.codec_context, {}
    numbers = {int(index.times[index.shown[number]]): number for number in wanted}
    can_skip = codec.codec.canonical_name in CODECS_WITH_NONREF

    def decode(first: int, last: int) -> Iterator:
        for packet in index.read(first, last):
            if can_skip:
                codec.skip_frame = "DEFAULT" if packet.pts in numbers else "NONREF"
            yield from codec.decode(packet)
        yield from codec.decode(None)
        codec.flush_buffers()

    try:
        for first, last in index.spans([int(index.shown[number]) for number in numbers.values()]):
            last_time, starts_with_picture = -math.inf, not index.is_shown[first]  # an edit list may hide it
            for frame in decode(first, last):
                if frame.pts is None or frame.pts <= last_time or (frame.width, frame.height) != index.size:
                    return None
                if frame.is_corrupt:  # what is missing is made up from the frames before
                    return None
                last_time = frame.pts
                if frame.pts == index.times[first]:  # else rows of blocks may refresh the picture little by little
                    starts_with_picture = frame.pict_type == PictureType.I
                if frame.pts in numbers:
                    frames[numbers[frame.pts]] = _limited(to_rgb(frame), len(wanted))
            if not starts_with_picture:
                return None
    except FFmpegError:
        return None
    return frames if len(frames) == len(numbers) else None


def _decode_everything(data, wanted: list[int], to_rgb: Callable, damage) -> tuple[dict[int, np.ndarray], list]:
    """The `wanted` frames by their number, and the times of all frames, in units of the stream's time base."""
    frames, times, size, numbers = {}, [], None, set(wanted)
    with _open_stream(data, damage) as (container, stream):
        for packet in chain(_packets(container, stream, damage), [None]):
            if packet and packet.is_corrupt and damage:
                continue
            try:
                decoded = stream.codec_context.decode(packet)
            except FFmpegError as error:
                if damage is None:
                    raise
                decoded = damage.append(_words_of(error)) or []
            for frame in decoded:
                size = size or (frame.width, frame.height)
                if len(times) in numbers:
                    frames[len(times)] = _limited(to_rgb(frame, size), len(wanted))
                times.append(frame.pts)
    return frames, times


def _to_rgb(reformatter: VideoReformatter, short_side, shrink, frame, size=None, aspect: float = 1) -> np.ndarray:
    """A frame as (H, W, 3) uint8, as if of that size, scaled and upright, or what `shrink` keeps of it."""
    width, height = size or (frame.width, frame.height)
    width, settings = max(1, round(width * aspect)), {}
    scale = min(1, (short_side or math.inf) / min(width, height))
    width, height = round(width * scale), round(height * scale)
    if (width, height) != (frame.width, frame.height):
        # Of swscale's filters, "area" averages all pixels that become one: no aliasing.
        interpolation = "AREA" if width * height < frame.width * frame.height else "BICUBIC"
        settings = {"width": width, "height": height, "interpolation": interpolation}
    is_hdr = frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
    # One reformatter and one thread: setting up either for every frame costs more than small frames themselves.
    frame_rgb = reformatter.reformat(frame, format="rgb48le" if is_hdr else "rgb24", threads=1, **settings)
    pixels = frame_rgb.to_ndarray()
    if is_hdr:
        pixels = np.concatenate([_tone_map(rows, frame.color_trc) for rows in np.array_split(pixels, 16)])
    upright = np.rot90(pixels, k=round(frame.rotation / 90) % 4)  # quarter turns against the clock
    return upright if shrink is None else shrink(upright)


def _tone_map(pixels: np.ndarray, transfer: int) -> np.ndarray:
    """
    HDR pixels (H, W, 3) uint16 as SDR in uint8, as FFmpeg's `tonemap=hable:desat=0` on light from and to `zscale`.

    A curve bends the brightest of the three colours of a pixel, from 1,000 cd/m² down to the white of 100 cd/m².
    """
    light = _light_of(transfer)[pixels] @ BT2020_TO_BT709.T
    brightest = np.maximum(light.max(-1, keepdims=True), 1e-6)
    light *= _bend(brightest) / (brightest * _bend(10))
    return np.rint(255 * light.clip(0, 1) ** (1 / 2.4)).astype(np.uint8)


def _bend(light):
    """Hable's curve of film, with the constants that all use."""
    return (light * (0.15 * light + 0.05) + 0.004) / (light * (0.15 * light + 0.5) + 0.06) - 0.02 / 0.3


@cache
def _light_of(transfer: int) -> np.ndarray:
    """The light in 100 cd/m² of each level of PQ or HLG (ITU-R BT.2100, its display with a peak of 1,000 cd/m²)."""
    signal = np.linspace(0, 1, 65536)
    if transfer == ColorTrc.SMPTE2084:
        root = signal ** (32 / 2523)
        light = 100 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (8192 / 1305)
    else:
        scene = np.where(signal < 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        light = 10 * scene**1.2
    return light.astype(np.float32)


def _limited(frame: np.ndarray, count: int) -> np.ndarray:
    """The same frame, if so many of its size may be held."""
    if count * frame.nbytes > MAX_CLIP_BYTES:
        found = f"{count} frames of {frame.shape[1]}x{frame.shape[0]} take {count * frame.nbytes / 1e9:.1f} GB"
        advice = "take fewer, or scale them down with `short_side`"
        raise VideoDecodeError(f"{found}, the limit is {MAX_CLIP_BYTES / 1e9:.1f} GB: {advice}")
    return frame


def _stack_frames(frames: list[np.ndarray], metadata: VideoMetadata) -> np.ndarray:
    if not frames:
        raise VideoDecodeError("too short, the sampling takes no frame of it")
    shapes = sorted({frame.shape[:2] for frame in frames})
    if len(shapes) > 1:
        sizes = ", ".join(f"{width}x{height}" for height, width in shapes)
        raise VideoDecodeError(f"its frames must have one size, they have {sizes}")
    if frames[0].shape[2:] == (3,):  # else they are what `shrink` makes of them
        metadata.height, metadata.width = shapes[0]
    return np.stack(frames)


# ---- Sampling -------------------------------------------------------------------------------------------------------


def sample_frame_indices(
    num_frames: int | None,
    vlen: int,
    sampling: str = "middle",
    *,
    fps: float | None = None,
    max_num_frames: int | None = None,
    fix_start: int | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """
    Choose frames of a video of `vlen` frames, as the original does.

    `"middle"` and `"rand"` cut the video into min(num_frames, vlen) intervals of equal length and take one frame of
    each; if `vlen` is smaller than `num_frames`, the last index repeats. `"fpsX"` takes X frames per second.

    Args:
        num_frames: length of the clip, but for `"fpsX"`.
        sampling: `"middle"` (evaluation), `"rand"` (training), or `"fps"` followed by a positive number.
        fps, max_num_frames: for `"fpsX"`, frame rate of the video, and limit of the number of frames if not -1.
        fix_start: with `"middle"`, take the frame this many after the beginning of each interval instead.
        generator: of the draws of `"rand"`; without one they come from the global states of `random` and
            `numpy.random`, call by call as in the original.

    Returns:
        ascending indices below `vlen`; `num_frames` of them, or with `"fpsX"` as many as there are (perhaps none).
    """
    if vlen < 1 or not sampling.startswith("fps") and (num_frames or 0) < 1:
        raise ValueError(f"`num_frames` and `vlen` must be at least 1, got {num_frames} and {vlen}.")
    if sampling.startswith("fps"):
        return _indices_at_rate(sampling, vlen, fps, max_num_frames)
    edges = np.linspace(0, vlen, min(num_frames, vlen) + 1).astype(int)
    first, last = edges[:-1], edges[1:] - 1
    if sampling == "rand":
        indices = _random_indices(first.tolist(), last.tolist(), vlen, generator)
    elif sampling == "middle":
        indices = ((first + last) // 2 if fix_start is None else np.minimum(first + fix_start, last)).tolist()
    else:
        raise ValueError(f"`sampling` must be 'middle', 'rand' or 'fps' followed by a number, got {sampling!r}.")
    return indices + indices[-1:] * (num_frames - len(indices))


def _random_indices(first: list[int], last: list[int], vlen: int, generator: torch.Generator | None) -> list[int]:
    intervals = list(zip(first, last, strict=True))
    # As in the original, the last frame of an interval is never drawn; intervals of one frame leave nothing to draw.
    if any(low == high for low, high in intervals):
        order = np.random.permutation(vlen) if generator is None else torch.randperm(vlen, generator=generator)
        return sorted(order[: len(intervals)].tolist())
    if generator is None:
        return [random.choice(range(low, high)) for low, high in intervals]
    return [torch.randint(low, high, (), generator=generator).item() for low, high in intervals]


def _indices_at_rate(sampling: str, vlen: int, fps: float | None, max_num_frames: int | None) -> list[int]:
    try:
        period = 1 / float(sampling.removeprefix("fps"))
    except (ValueError, ZeroDivisionError):
        period = -1
    if not 0 < period < math.inf:
        raise ValueError(f"`sampling` must name a positive rate after 'fps', as in 'fps0.5', got {sampling!r}.")
    if not fps:
        raise ValueError(f"`sampling={sampling!r}` needs the video's own frame rate; pass it in `video_metadata`.")
    indices = np.around(np.arange(period / 2, vlen / fps + period / 2, period) * fps).astype(int)
    indices = indices[indices < vlen].tolist()
    return indices if max_num_frames is None or max_num_frames < 0 else indices[:max_num_frames]


# ---- Pixels ---------------------------------------------------------------------------------------------------------


def random_crop_box(
    height: int, width: int, scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), generator: torch.Generator | None = None
) -> tuple[int, int, int, int]:
    """
    Draw (top, left, height, width) in pixels as torchvision's `RandomResizedCrop` does: the same seed, the same box.

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


class SViTTVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    r"""
    sampling (`str`, defaults to `"middle"`): how to choose frames, see [`sample_frame_indices`].
    max_num_frames (`int`, *optional*): limit of the number of frames of `"fpsX"`.
    antialias (`bool`, defaults to `False`): low-pass when resizing. The published weights were trained without.
    do_augment (`bool`, defaults to `False`): for training, a random crop, then perhaps a flip, both drawn once a clip.
    decode_short_side (`int`, *optional*): scale larger frames down to that while decoding: faster, but other pixels.
    square_pixels (`bool`, defaults to `False`): make frames as wide as a player shows them. The published weights were
        trained on frames as they are stored.
    damaged (`str`, defaults to `"refuse"`): `"use"` takes what is left of damaged files, see [`read_video`].
    crop_scale, crop_ratio (pairs of `float`): range of the crop's share of the area, and of its width over its height.
    flip_prob (`float`, defaults to 0.5): probability of the flip, which swaps "left" and "right": 0 switches it off.
    seed (`int` or `list[int]`, *optional*): of all draws of a call, or one per clip, which makes a clip independent of
        the rest of its batch. Without it they come from the global states.
    """

    sampling: str | None
    max_num_frames: int | None
    antialias: bool | None
    do_augment: bool | None
    decode_short_side: int | None
    square_pixels: bool | None
    damaged: str | None
    crop_scale: list[float | int] | tuple[float | int, ...] | None
    crop_ratio: list[float | int] | tuple[float | int, ...] | None
    flip_prob: float | int | None
    seed: int | list[int] | None


class SViTTVideoProcessor(VideoProcessorMixin):
    r"""
    Turn videos into `pixel_values` (B, T, 3, H, W) float32: decode, sample, crop, resize, flip, rescale, normalise.

    One video is what [`read_video`] takes, an array or tensor (T, H, W, C) or (T, C, H, W), or a list of frames (PIL
    images, paths or URLs of image files, arrays, tensors). Values go from 0 to 255, or if all floats of a clip do, from
    0 to 1. An image file on its own, PIL image or array (H, W, C) is a clip of one frame. A list of videos, or a 5-D
    array, is a batch. Sampling applies to all; `do_sample_frames=False` takes all frames.

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
    square_pixels = False
    damaged = "refuse"
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
        self._set_attributes(**kwargs)  # private, but each processor without a backend of Transformers has to call it

    def preprocess(self, videos, **kwargs: Unpack[SViTTVideoProcessorKwargs]) -> BatchFeature:
        """
        Return the `pixel_values` (B, T, 3, H, W) float32 of one video or a batch; uint8 if nothing is to be normalised.

        `kwargs` are attributes of the processor, for this call; `seed`; `return_tensors` ("pt", "np" or `None` for a
        list with one tensor per video); `return_metadata` for a list `video_metadata` of `VideoMetadata`.
        """
        validate_typed_dict(self.valid_kwargs, kwargs)
        settings = self._settings(kwargs)
        videos = _list_videos(videos)
        known = settings["video_metadata"]
        known = [None] * len(videos) if known is None else make_batched_metadata(videos, known)
        generators = _seed_generators(settings["seed"], len(videos))
        clips, metadata = [], []
        for index, video in enumerate(videos):
            clip, found = self._read(f"`videos[{index}]`", video, known[index], generators[index], settings)
            clips.append(self._normalize(clip, settings))
            metadata.append(found)
        shapes = sorted({tuple(clip.shape) for clip in clips})
        if settings["return_tensors"] is not None and len(shapes) > 1:
            advice = "sample as many frames of each and resize them, or pass `return_tensors=None` for a list"
            raise ValueError(f"The clips of a batch must have one shape (T, 3, H, W), got {shapes}: {advice}.")
        data = {"pixel_values": clips if settings["return_tensors"] is None else torch.stack(clips)}
        if settings["return_metadata"]:
            data["video_metadata"] = metadata
        return BatchFeature(data, settings["return_tensors"], skip_tensor_conversion=["video_metadata"])

    def read_clip(self, video, **kwargs: Unpack[SViTTVideoProcessorKwargs]):
        """Return a clip (T, 3, H, W) uint8 of one video, which lacks [`to_pixel_values`] only: the part of a worker.

        With `return_metadata`, it returns the `VideoMetadata` as well.

        The types of `kwargs` are not checked, which would take a tenth of the time of a small clip.
        """
        settings = self._settings(kwargs)
        [generator] = _seed_generators(settings["seed"], 1)
        clip, metadata = self._read("the video", video, None, generator, settings)
        return (clip, metadata) if settings["return_metadata"] else clip

    def to_pixel_values(self, clips: torch.Tensor) -> torch.Tensor:
        """Return clips (B, T, 3, H, W) uint8 rescaled and normalised, float32 on their device."""
        return self._normalize(clips, self._settings({}))

    def _settings(self, kwargs: dict) -> dict:
        """The attributes of the processor, but for this call's."""
        names = list(self.valid_kwargs.__annotations__)
        validate_kwargs(names, list(kwargs))
        settings = {name: getattr(self, name, None) for name in names} | kwargs
        settings = self._standardize_kwargs(**settings)  # private, but all of Transformers' processors accept sizes so
        fixed = {"do_center_crop": False, "do_pad": False, "do_convert_rgb": True, "data_format": "channels_first"}
        for name, value in fixed.items():
            if settings[name] not in (None, value):
                raise ValueError(f"`{name}` can only be {value!r} in SViTT, got {settings[name]!r}.")
        if settings["do_resize"] and not (settings["size"].height and settings["size"].width):
            raise ValueError(f"`size` must give `height` and `width`, got {dict(settings['size'])}.")
        if settings["do_resize"] and settings["resample"] not in (2, 3):
            raise ValueError(f"`resample` must be bilinear (2) or bicubic (3), got {settings['resample']}.")
        return settings

    def _read(self, name: str, video, known: VideoMetadata | None, generator, settings: dict):
        """The clip (T, 3, H, W) uint8 of a video of any kind, and its metadata; `name` is for errors."""

        def sample(metadata: VideoMetadata) -> list[int]:
            sampling = settings["sampling"] if settings["fps"] is None else f"fps{settings['fps']}"
            fps = metadata.fps or (known and known.fps)
            how = {"fps": fps, "max_num_frames": settings["max_num_frames"], "generator": generator}
            return sample_frame_indices(settings["num_frames"], metadata.total_num_frames, sampling, **how)

        pick = sample if settings["do_sample_frames"] else None
        if _is_file(video):
            how = {name: settings[name] for name in ("square_pixels", "damaged")}
            frames, metadata = read_video(video, pick, short_side=settings["decode_short_side"], **how)
        else:
            choose, fps = partial(_choose, pick=pick), known and known.fps
            frames, metadata = _index_frames(name, video, choose, fps, settings["input_data_format"])
        clip, flip = torch.from_numpy(frames).permute(0, 3, 1, 2), False
        if settings["do_augment"]:
            height, width = clip.shape[-2:]
            ranges = settings["crop_scale"], settings["crop_ratio"]
            top, left, height, width = random_crop_box(height, width, *ranges, generator)
            clip = clip[..., top : top + height, left : left + width]
            flip = torch.rand(1, generator=generator).item() < settings["flip_prob"]
        clip = clip.to(settings["device"])
        if settings["do_resize"]:
            clip = self._resize(clip, settings)
        return (clip.flip(-1) if flip else clip).contiguous(), metadata

    def _resize(self, frames: torch.Tensor, settings: dict) -> torch.Tensor:
        """Frames (T, 3, H, W) uint8 in another size, as torchvision resizes uint8 tensors."""
        size, mode = settings["size"], {2: "bilinear", 3: "bicubic"}[settings["resample"]]
        # Contiguous: the order of sums, and with it the last bit, depends on the layout.
        frames = frames.to(torch.float32, memory_format=torch.contiguous_format)
        frames = F.interpolate(frames, (size.height, size.width), mode=mode, antialias=bool(settings["antialias"]))
        return frames.round_().clamp_(0, 255).to(torch.uint8)  # bicubic overshoots

    def _normalize(self, frames: torch.Tensor, settings: dict) -> torch.Tensor:
        if settings["do_rescale"]:
            frames = frames * settings["rescale_factor"]
        if settings["do_normalize"]:
            mean, std = (frames.new_tensor(settings[name], dtype=torch.float32) for name in ("image_mean", "image_std"))
            frames = (frames - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        return frames


def _is_file(video) -> bool:
    return isinstance(video, (str, os.PathLike, bytes, bytearray, memoryview, dict)) or hasattr(video, "read")


def _is_image_path(video) -> bool:
    path = os.fsdecode(video) if isinstance(video, (str, os.PathLike)) else ""
    return (urlsplit(path).path if "://" in path else path).lower().endswith(IMAGE_EXTENSIONS)


def _is_frame(video) -> bool:
    is_picture = isinstance(video, Image.Image) or _is_image_path(video)
    return is_picture or (isinstance(video, (np.ndarray, torch.Tensor)) and video.ndim in (2, 3))


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
    return [videos] if all(map(_is_frame, videos)) else [video for entry in videos for video in _list_videos(entry)]


def _index_frames(name, video, choose, fps, data_format=None, to_rgb=None) -> tuple[np.ndarray, VideoMetadata]:
    """What [`read_video`] does, for an array or a list of frames."""
    if fps is not None and not (isinstance(fps, (int, float, np.number)) and 0 < fps < math.inf):
        raise VideoDecodeError(f"{name}: `fps` must be a positive number, got {fps!r}.")
    metadata = VideoMetadata(len(video), fps, duration=len(video) / fps if fps else None)
    metadata.frame_times = metadata.damage = None
    with _errors_about(name):
        white, frames, size = _white_of(name, video), [], None
        for index in choose(metadata):
            frame = _rgb_frame(name, video[index], data_format, white)
            size = size or frame.shape[1::-1]
            frames.append(to_rgb(av.VideoFrame.from_ndarray(frame), size) if to_rgb else frame)
        return _stack_frames(frames, metadata), metadata


def _as_array(frame: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(frame, np.ndarray):
        return frame
    return (frame.float() if frame.is_floating_point() else frame).numpy(force=True)  # NumPy has no bfloat16


def _white_of(name: str, video) -> int:
    """The value of white where it is not 255 anyway: 1 or 255 for floats, as all frames together say."""
    numbers = [frame for frame in video if isinstance(frame, (np.ndarray, torch.Tensor)) and 0 not in frame.shape]
    arrays = [_as_array(frame) for frame in numbers if frame.dtype not in (np.uint8, torch.uint8)]
    if not arrays:
        return 255
    kind, is_real = arrays[0].dtype, all(array.dtype.kind in "fiub" for array in arrays)
    low, high = (float(of([of(array) for array in arrays])) if is_real else math.nan for of in (np.min, np.max))
    white = 1 if high < 2 and kind.kind in "fb" else 255  # 1.1 is a little too bright, and not black
    if not -0.5 < low * 255 / white <= high * 255 / white < 255.5:
        found = f"{kind} from {low:g} to {high:g}"
        raise ValueError(f"{name}: frames must be numbers from 0 to 255, or floats from 0 to 1, got {found}.")
    return white


def _open_image(source) -> Image.Image:
    """An image file, upright."""
    name, data = _name_and_data(source)
    with _errors_about(name), _open_file(data) as file:
        try:
            image = Image.open(file)
            if image.width * image.height > MAX_FRAME_PIXELS:
                raise ValueError(f"it is above the limit of {MAX_FRAME_PIXELS} pixels")
            return ImageOps.exif_transpose(image)
        except Exception as error:  # Pillow's decoders have many kinds
            raise VideoDecodeError(f"cannot be read as an image ({str(error).partition(' <')[0]})") from error


def _rgb_frame(name: str, frame, data_format: str | None, white: int) -> np.ndarray:
    """An image or its file, array or tensor with 1, 3 or 4 channels as (H, W, 3) uint8. An alpha channel is dropped."""
    frame = _open_image(frame) if _is_image_path(frame) else frame
    if isinstance(frame, Image.Image):
        if frame.mode[0] in "IF" and np.max(frame.getextrema()) > 255:
            raise VideoDecodeError(f"holds an image of more than 8 bits (Pillow's mode {frame.mode})")
        return np.asarray(frame.convert("RGB"))
    frame = _as_array(frame)
    if frame.dtype != np.uint8:
        frame = np.rint(frame.astype(np.float32) * (255 / white)).astype(np.uint8)
    frame = frame[..., None] if frame.ndim == 2 else frame
    shape, channels = frame.shape, (3,) if 3 in (frame.shape[0], frame.shape[-1]) else (1, 4)
    if data_format == "channels_first" or (data_format is None and shape[-1] not in channels):
        frame = frame.transpose(1, 2, 0)
    if frame.shape[-1] not in (1, 3, 4) or not frame.size:
        raise ValueError(f"{name}: frames must have 1, 3 or 4 channels and pixels, got a frame of shape {shape}.")
    return np.broadcast_to(frame[..., :3], (*frame.shape[:2], 3))


def _seed_generators(seed: int | list[int] | None, count: int) -> list[torch.Generator | None]:
    if seed is None or isinstance(seed, int):
        return [None if seed is None else torch.Generator().manual_seed(seed)] * count
    if len(seed) != count:
        raise ValueError(f"`seed` must be an int or hold one per video, got {len(seed)} seeds for {count} videos.")
    return [torch.Generator().manual_seed(one) for one in seed]


# ---- Text -----------------------------------------------------------------------------------------------------------


def clean_text(text: str, max_words: int | None = None) -> str:
    """Return the original's form of a text: lower case, without punctuation, at most `max_words` words."""
    text = re.sub(r"[,.'!?\"()*#:;~]", "", text.lower())
    text = re.sub(r"[-/]", " ", text).replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


class SViTTProcessor(ProcessorMixin):
    r"""
    A [`SViTTVideoProcessor`] and a BERT tokenizer in one: `processor(videos=..., text=..., return_tensors="pt")`.

    Captions and questions become `[CLS] w1 ... wn` without a final [SEP], the form the published weights were trained
    with, padded to the longest of the batch and truncated to 32 tokens (`padding` and `max_length` change that per
    call, `from_pretrained(..., max_length=64)` for good). `clean_text`, `add_sep` and `max_answer_length` belong to the
    weights: they are saved with the processor, and can be passed to a call as well.

    Args:
        video_processor, tokenizer: a [`SViTTVideoProcessor`] and a [`BertTokenizer`].
        clean_text (`bool`, defaults to `True`): apply [`clean_text`] first.
        add_sep (`bool`, defaults to `False`): encode as `[CLS] w1 ... wn [SEP]`, as BERT users expect.
        max_answer_length (`int`, defaults to 5): tokens of an answer, see `encode_answers`.
    """

    text_kwargs = {"padding": True, "truncation": True, "max_length": 32}

    def __init__(self, video_processor=None, tokenizer=None, clean_text=True, add_sep=False, max_answer_length=5):
        super().__init__(video_processor, tokenizer)
        self.clean_text, self.add_sep, self.max_answer_length = clean_text, add_sep, max_answer_length
        # Saving writes this into the folder, loading does not read it back: set, a processor equals its reloaded self.
        self.auto_map = {"AutoProcessor": "processing_svitt.SViTTProcessor"}

    def __call__(self, videos=None, text: str | list[str] | None = None, **kwargs) -> BatchFeature:
        """
        Return `pixel_values` (B, T, 3, H, W), `input_ids` and `attention_mask` (B, L), as far as the input goes.

        Args:
            videos: one video or a batch, of the kinds that [`SViTTVideoProcessor`] takes; an image is a video too.
            text: one caption or question or a batch; as many as videos or not, they are not paired here.
            kwargs: `clean_text` and `add_sep`, which alone decides about special tokens, and whatever the video
                processor or tokenizer takes.
        """
        if kwargs.get("images") is not None or kwargs.get("audio") is not None:
            raise ValueError("SViTT takes `videos` and `text`: pass an image in `videos`, as a clip of one frame.")
        self.validate_inputs(videos=videos, text=text)
        clean, add_sep = kwargs.pop("clean_text", self.clean_text), kwargs.pop("add_sep", self.add_sep)

        def write(one: str) -> str:
            one = clean_text(one) if clean else one
            # Written out, the tokenizer parses [CLS] as the special token and counts it when it truncates.
            return one if add_sep else f"{self.tokenizer.cls_token} {one}"

        if text is not None:
            text = [write(one) for one in text] if isinstance(text, list) else write(text)
        return super().__call__(videos=videos, text=text, **kwargs | {"add_special_tokens": add_sep})

    def encode_answers(self, answers: str | list[str], max_length: int | None = None, **kwargs) -> BatchFeature:
        """
        Encode answers as `[CLS] answer [SEP]`, uncleaned, for the decoder of question answering.

        They are cut to `max_length` tokens, by default the processor's `max_answer_length`: answers that begin alike
        may become equal. The [SEP] is written behind the answer before that, as in the original: an answer of more than
        `max_length - 2` tokens loses it. `kwargs` go to the tokenizer.
        """
        answers = [answers] if isinstance(answers, str) else answers
        text = [f"{answer} {self.tokenizer.sep_token}" for answer in answers]
        how = {"max_length": max_length or self.max_answer_length, "return_tensors": "pt"} | kwargs
        return self(text=text, clean_text=False, add_sep=False, **how)

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
        # Private, but else AutoVideoProcessor asks for `trust_remote_code` although this very module is the code.
        video_processor = SViTTVideoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return [video_processor, AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)]


SViTTVideoProcessor.register_for_auto_class("AutoVideoProcessor")
SViTTProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "SViTTProcessor", "SViTTVideoProcessor", "VideoDecodeError", "clean_text", "read_video", "sample_frame_indices",
]  # fmt: skip
