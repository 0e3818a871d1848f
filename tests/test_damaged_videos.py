# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Files damaged in every way give frames or one sentence: no crash, no hang, no leak. `make test-long` has more."""

import gc
import os
import re
import struct
import time
import wave
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from svitt.processing_svitt import MAX_FRAME_PIXELS, VideoDecodeError, read_video, sample_frame_indices

SENTENCES = re.compile(
    r"cannot be opened|the file is empty|without its index|not a video file|has no video stream|cut off|above the limit"
    r"|more frames than the limit|damaged|no frame can be decoded|must have one size|take .* GB, the limit"
)


def cut(content, rng, others):
    return content[: rng.integers(1, len(content))]


def cut_off_last_bytes(content, rng, others):
    return content[: -rng.integers(1, min(len(content), 100))]


def flip_bits(content, rng, others):
    damaged = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(0, len(damaged), rng.choice([1, 5, 50, 500]))
    damaged[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    return damaged.tobytes()


def flip_bits_of_header(content, rng, others):
    return flip_bits(content[:1024], rng, others) + content[1024:]


def flip_bits_of_index(content, rng, others):
    start = max(content.find(b"moov"), content.find(b"idx1"), 0)
    return content[:start] + flip_bits(content[start : start + 1500], rng, others) + content[start + 1500 :]


def overwrite(content, rng, others):
    start = rng.integers(0, len(content))
    length = rng.integers(1, len(content) - start + 1)
    filler = bytes(length) if rng.random() < 0.5 else rng.bytes(length)
    return content[:start] + filler + content[start + length :]


def remove_middle(content, rng, others):
    start, end = sorted(rng.integers(0, len(content), 2))
    return content[:start] + content[end:]


def header_only(content, rng, others):
    return content[: rng.integers(8, 200)]


def header_of_another(content, rng, others):
    other = others[rng.integers(len(others))]
    size = rng.integers(16, 600)
    return other[:size] + content[size:]


def joined(content, rng, others):
    return content[: rng.integers(1, len(content))] + others[rng.integers(len(others))]


def noise(content, rng, others):
    return rng.bytes(rng.integers(1, 5000))


def claim_large_sizes(content, rng, others):
    """The frame size in an MP4's sample description becomes another, and so does that in the header of a GIF."""
    width, height = rng.integers(1, 65536, 2).tolist()
    if content.startswith(b"GIF"):
        return content[:6] + struct.pack("<HH", width, height) + content[10:]
    start = max(content.find(b"avc1", content.find(b"stsd")), 0) + 28
    return content[:start] + struct.pack(">HH", width, height) + content[start + 4 :]


DAMAGES = [
    cut, cut_off_last_bytes, flip_bits, flip_bits_of_header, flip_bits_of_index, overwrite, remove_middle, header_only,
    header_of_another, joined, noise, claim_large_sizes,
]  # fmt: skip


def read(path: Path):
    """What happened, and for how many seconds."""
    start = time.monotonic()
    try:
        frames, metadata = read_video(path, lambda metadata: sample_frame_indices(4, metadata.total_num_frames))
        assert frames.dtype == np.uint8 and frames.shape == (4, metadata.height, metadata.width, 3)
        outcome = "frames"
    except VideoDecodeError as error:
        outcome = str(error)
        assert outcome.startswith(f"{path}: ") and outcome.endswith(".") and "\n" not in outcome
        outcome = SENTENCES.search(outcome.removeprefix(f"{path}: ")).group()
    return outcome, time.monotonic() - start


def read_damaged_files(folder, contents, count) -> Counter:
    rng, names, outcomes = np.random.default_rng(0), sorted(contents), Counter()
    for number in range(count):
        damage, name = DAMAGES[number % len(DAMAGES)], names[number // len(DAMAGES) % len(names)]
        suffix = Path(names[rng.integers(len(names))] if rng.random() < 0.2 else name).suffix  # a wrong one at times
        path = folder / f"{number}_{damage.__name__}{suffix}"
        path.write_bytes(damage(contents[name], rng, list(contents.values())))
        outcome, seconds = read(path)
        assert seconds < 10, path.name
        outcomes[outcome] += 1
        path.unlink()
    return outcomes


@pytest.fixture(scope="module")
def contents(videos):
    return {name: path.read_bytes() for name, path in videos.items()}


def test_damaged_files(tmp_path, contents):
    outcomes = read_damaged_files(tmp_path, contents, 420)
    assert {"frames", "cut off", "without its index", "not a video file", "damaged"} <= set(outcomes)


@pytest.mark.long
def test_thousands_of_damaged_files(tmp_path, contents):
    print(read_damaged_files(tmp_path, contents, 4200).most_common())


def open_many(folder, contents, count) -> tuple[list[int], list[int]]:
    """Numbers of open descriptors and of resident bytes, ten times while files of all kinds are read."""
    rng, names, descriptors, memory = np.random.default_rng(1), sorted(contents), [], []
    path = folder / "video"
    for number in range(count):
        content = contents[names[number % len(names)]]
        path.write_bytes(content if number % 2 else DAMAGES[number % len(DAMAGES)](content, rng, [content]))
        read(path)
        if number % (count // 10) == count // 10 - 1:
            gc.collect()
            descriptors.append(len(os.listdir("/proc/self/fd")))
            memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return descriptors, memory


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.long)])
def test_nothing_leaks(tmp_path, contents, count):
    descriptors, memory = open_many(tmp_path, contents, count)
    print(descriptors, [size // 2**20 for size in memory])
    assert len(set(descriptors)) == 1
    assert memory[-1] - memory[2] < 20 * 2**20


def png(width, height):
    """A picture of nothing but zeros, which takes a thousandth of its size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + width) * height) if width * height < 2**28 else zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "width, height", [(5793, 5793), (16384, 16384), (65535, 65535), (2**31 - 1, 1), (2**30, 2**30)]
)
def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, width, height):
    path = tmp_path / "huge.png"
    path.write_bytes(png(width, height))
    assert width * height > MAX_FRAME_PIXELS
    with pytest.raises(VideoDecodeError, match=r"huge.png: .* above the limit of 33554432 pixels"):
        read_video(path)


def test_huge_video_frames_are_refused(tmp_path, write_video):
    path = write_video(
        tmp_path / "large.mp4", "libx264", options={"preset": "ultrafast"}, num_frames=1, size=(6000, 6000)
    )
    with pytest.raises(VideoDecodeError, match="large.mp4: frames of 6000x6000 are above the limit of 33554432 pixels"):
        read_video(path)


def test_audio_is_no_video(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(8000), sound.writeframes(bytes(16000))
    with pytest.raises(VideoDecodeError, match="sound.wav: has no video stream, what it holds is: audio"):
        read_video(tmp_path / "sound.wav")


def test_container_under_another_name_is_read_as_what_it_is(tmp_path, videos, decode_all):
    (tmp_path / "clip.avi").write_bytes(videos["clip.webm"].read_bytes())
    np.testing.assert_array_equal(read_video(tmp_path / "clip.avi")[0], decode_all(videos["clip.webm"]))
