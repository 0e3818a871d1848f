# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Whether the pictures of H.264 and HEVC come out in the order of their times, from their headers.

Decoders put pictures in order by the count that each carries, not by the times of their packets. Where files were
joined without encoding them anew, at a keyframe that does not restart the count, it jumps: decoders drop or exchange
pictures there, and every later frame has another number than its packet. Where a container is damaged, its times may be
out of order.

Syntax: ITU-T H.264 (7.3.2.1, 7.3.3) and H.265 (7.3.2.2, 7.3.2.3, 7.3.6).
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

# Profiles of H.264 whose parameters hold a chroma format and perhaps scaling matrices.
H264_HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}


class PictureCount(NamedTuple):
    """The lowest bits of the count of a picture, and whether counting starts anew there."""

    low_bits: int
    num_bits: int
    restarts: bool


def counts_follow_times(packets: np.ndarray, counts: list[PictureCount | None], ranks: np.ndarray) -> bool:
    """Whether counts rise from packet to packet by one or two for each picture shown in between, and fall so.

    Args:
        packets: (K,) positions of packets, such as all keyframes or all of a group of pictures.
        counts: of these packets, `None` where one cannot be read.
        ranks: for each position, that of its time among all.
    """
    if any(count is None for count in counts):
        return False
    steps = {1, 2}
    for last, packet, before, count in zip(packets, packets[1:], counts, counts[1:], strict=False):
        if not count.restarts:
            rise, num_pictures = count.low_bits - before.low_bits, int(ranks[packet] - ranks[last])
            steps = {step for step in steps if (rise - step * num_pictures) % 2**count.num_bits == 0}
    return bool(steps)


class PictureCounter:
    """Reads the counts of pictures; remembers the parameter sets it comes across."""

    def __init__(self, codec_name: str, extradata: bytes | None):
        self.parse = {"h264": self._parse_h264, "hevc": self._parse_hevc}.get(codec_name)
        self.sequence: tuple | None = None
        self.picture: tuple[int, int] | None = None
        self.length_size: int | None = None
        extradata = extradata or b""
        if extradata[:1] == b"\1" and self.parse:  # lengths before each unit, instead of start codes
            at = 21 if codec_name == "hevc" else 4
            self.length_size = (int.from_bytes(extradata[at : at + 1], "big") & 3) + 1
            units = _units_of_hvcc(extradata) if codec_name == "hevc" else _units_of_avcc(extradata)
        else:
            units = _units_after_start_codes(extradata)
        self._count(units)

    def __call__(self, packet) -> PictureCount | None:
        """The count of a packet's picture, `None` where it cannot be read; 0 for codecs whose keyframes all restart."""
        if self.parse is None:
            return PictureCount(0, 0, True)
        data = memoryview(packet)  # of which few bytes are needed
        return self._count(
            _units_after_start_codes(data) if self.length_size is None else _units_by_length(data, self.length_size)
        )

    def _count(self, units: Iterator[bytes]) -> PictureCount | None:
        try:
            for unit in units:
                count = self.parse(unit) if self.parse and unit else None
                if count is not None:
                    return count
        except (ValueError, TypeError, IndexError):  # damaged, or without its parameters
            pass
        return None

    def _parse_h264(self, unit: bytes) -> PictureCount | None:
        kind = unit[0] & 31
        if kind == 7:
            self.sequence = _h264_sequence(_Bits(unit[1:512]))
        elif kind in (1, 2, 5):
            bits, (count_bits, frame_bits, only_frames, has_planes) = _Bits(unit[1:32]), self.sequence
            bits.skip_golomb(3)
            bits.read(2 * has_planes + frame_bits)
            is_field = not only_frames and bits.read(1)
            if kind == 5:
                bits.golomb()
            if count_bits is None or is_field:
                # Without B-frames pictures come out as they go in, but for a joint.
                return PictureCount(0, 0, True) if kind == 5 and not is_field else None
            return PictureCount(bits.read(count_bits), count_bits, kind == 5)
        return None

    def _parse_hevc(self, unit: bytes) -> PictureCount | None:
        kind, layer = unit[0] >> 1 & 63, (unit[0] & 1) << 5 | unit[1] >> 3
        if layer > 0:
            return None
        if kind == 33:
            self.sequence = _hevc_sequence(_Bits(unit[2:512]))
        elif kind == 34:
            bits = _Bits(unit[2:64])
            bits.skip_golomb(2)
            bits.read(1)
            self.picture = bits.read(1), bits.read(3)  # has_output_flag, number of extra bits in the slice header
        elif kind in (19, 20):
            return PictureCount(0, 0, True)
        elif kind < 32:
            bits, (count_bits, has_planes), (has_output_flag, extra) = _Bits(unit[2:32]), self.sequence, self.picture
            bits.read(2 if kind >= 16 else 1)
            bits.golomb()
            bits.read(extra)
            bits.golomb()
            bits.read(has_output_flag + 2 * has_planes)
            return PictureCount(bits.read(count_bits), count_bits, 16 <= kind <= 18)
        return None


def _h264_sequence(bits: "_Bits") -> tuple[int | None, int, bool, bool]:
    """Bits of the count (`None` if it is implied) and of the frame number, whether all are frames, separate planes."""
    profile, has_planes = bits.read(8), False
    bits.read(16)
    bits.golomb()
    if profile in H264_HIGH_PROFILES:
        chroma = bits.golomb()
        has_planes = chroma == 3 and bool(bits.read(1))
        bits.skip_golomb(2)
        bits.read(1)
        if bits.read(1):
            for i in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    bits.skip_scaling_list(16 if i < 6 else 64)
    frame_bits, count_type, count_bits = bits.golomb() + 4, bits.golomb(), None
    if count_type == 0:
        count_bits = bits.golomb() + 4
    elif count_type == 1:
        raise ValueError("counts as differences, which no common encoder writes")
    bits.golomb()
    bits.read(1)
    bits.skip_golomb(2)
    return count_bits, frame_bits, bool(bits.read(1)), has_planes


def _hevc_sequence(bits: "_Bits") -> tuple[int, bool]:
    """Bits of the count, and whether colour planes are separate."""
    bits.read(4)
    num_sublayers = bits.read(3)
    bits.read(1 + 96)
    if num_sublayers:
        has_profile_and_level = [(bits.read(1), bits.read(1)) for _ in range(8)][:num_sublayers]
        for has_profile, has_level in has_profile_and_level:
            bits.read(88 * has_profile + 8 * has_level)
    bits.golomb()
    has_planes = bits.golomb() == 3 and bool(bits.read(1))
    bits.skip_golomb(2)
    if bits.read(1):
        bits.skip_golomb(4)
    bits.skip_golomb(2)
    return bits.golomb() + 4, has_planes


class _Bits:
    def __init__(self, data: bytes):
        data = data.replace(b"\0\0\3", b"\0\0")  # undo what keeps start codes from showing up by chance
        self.bits, self.position = bin(int.from_bytes(b"\1" + data, "big"))[3:], 0

    def read(self, count: int) -> int:
        start, self.position = self.position, self.position + count
        return int(self.bits[start : self.position] or "0", 2)

    def golomb(self) -> int:
        """Unsigned exponential Golomb code."""
        num_zeros = self.bits.index("1", self.position) - self.position
        self.position += num_zeros
        return self.read(num_zeros + 1) - 1

    def skip_golomb(self, count: int):
        for _ in range(count):
            self.golomb()

    def skip_scaling_list(self, size: int):
        last = following = 8
        for _ in range(size):
            if following:
                code = self.golomb()
                following = (last + (code + 1 >> 1) * (1 if code & 1 else -1)) % 256
            last = following or last


def _units_after_start_codes(data: bytes | memoryview) -> Iterator[bytes]:
    for start_code in re.finditer(b"\0\0\1", data):
        yield bytes(data[start_code.end() : start_code.end() + 512])


def _units_by_length(data: bytes | memoryview, length_size: int) -> Iterator[bytes]:
    start = 0
    while start + length_size < len(data):
        length, start = int.from_bytes(data[start : start + length_size], "big"), start + length_size
        yield bytes(data[start : start + min(length, 512)])
        start += length


def _units_of_avcc(extradata: bytes) -> Iterator[bytes]:
    num_sequences = extradata[5] & 31  # the parameters of pictures, behind, are not needed
    yield from islice(_units_by_length(extradata[6:], 2), num_sequences)


def _units_of_hvcc(extradata: bytes) -> Iterator[bytes]:
    start = 23
    for _ in range(extradata[22]):
        count, start = int.from_bytes(extradata[start + 1 : start + 3], "big"), start + 3
        for _ in range(count):
            end = start + 2 + int.from_bytes(extradata[start : start + 2], "big")
            yield extradata[start + 2 : end]
            start = end
