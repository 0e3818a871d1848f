# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Damaged video files in any number, and what becomes of them."""

import faulthandler
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np

from svitt.processing_svitt import VideoDecodeError, read_video, sample_frame_indices

SENTENCES = re.compile(
    r"cannot be opened|the file is empty|without its index|not a video file|has no video stream|cut off|above the limit"
    r"|more frames than the limit|is encrypted|damaged|no frame can be decoded|must have one size|take .* GB, the limit"
)


def cut(content, rng):
    return content[: rng.integers(1, len(content))]


def cut_last_bytes(content, rng):
    return content[: -rng.integers(1, min(len(content), 100))]


def flip_bits(content, rng):
    damaged = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(0, len(damaged), rng.choice([1, 5, 50, 500]))
    damaged[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    return damaged.tobytes()


def flip_bits_of_header_or_index(content, rng):
    start = max(content.find(b"moov"), content.find(b"idx1"), 0) * int(rng.integers(2))
    return content[:start] + flip_bits(content[start : start + 1500], rng) + content[start + 1500 :]


def replace_middle(content, rng):
    start, end = sorted(rng.integers(0, len(content), 2))
    middle = [bytes(end - start), rng.bytes(end - start), b"", 2 * content[start:end]][rng.integers(4)]
    return content[:start] + middle + content[end:]


def edit_field(content, rng):
    """A size, a time, a place or a count near the name of a table of MP4, Matroska, AVI or GIF becomes another."""
    names = rb"st[a-z]{2}|ctts|[mt]fhd|tfdt|trun|elst|hdlr|[mt]khd|mdhd|avc1|avcC|\x18\x53\x80\x67|\x1f\x43\xb6\x75"
    names += rb"|\x1c\x53\xbb\x6b|\xe7|\xa3|LIST|00dc|idx1|str[hf]|avih|\x21\xf9|\x2c"
    places = [match.end() for match in re.finditer(names, content)] or [0]
    place, size = int(rng.choice(places)) + 4 * int(rng.integers(-2, 8)), int(rng.choice([1, 2, 4]))
    place = max(0, min(place, len(content) - size))
    old = int.from_bytes(content[place : place + size], "big")
    values = [0, 1, old + 1, old - 1, 2 * old, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, int(rng.integers(2**32))]
    new = int(values[rng.integers(len(values))]) % 2 ** (8 * size)
    return content[:place] + new.to_bytes(size, "big") + content[place + size :]


DAMAGES = [cut, cut_last_bytes, flip_bits, flip_bits_of_header_or_index, replace_middle, replace_middle]
DAMAGES += 4 * [edit_field]


def read_damaged_files(folder: Path, videos: dict[str, Path], count: int, seed: int) -> Counter:
    """Read `count` files with one to three damages each; returns how often each kind of sentence, or frames, came.

    A crash or a minute without an end stops the process; a file that stays open, and a growth of memory, is an error.
    """
    rng, names, outcomes, sizes = np.random.default_rng(seed), sorted(videos), Counter(), []
    contents = {name: path.read_bytes() for name, path in videos.items()}
    for number in range(count):
        name = names[number % len(names)]
        content = contents[name]
        for _ in range(rng.integers(1, 4)):
            damaged = DAMAGES[rng.integers(len(DAMAGES))](content, rng)
            content = damaged if len(damaged) > 200 else content
        path = folder / f"{number}{Path(names[rng.integers(len(names))]).suffix}"  # a wrong extension at times
        path.write_bytes(content)
        faulthandler.dump_traceback_later(60, exit=True)
        outcomes[outcome_of(path)] += 1
        faulthandler.cancel_dump_traceback_later()
        path.unlink()
        sizes.append((len(os.listdir("/proc/self/fd")), int(Path("/proc/self/statm").read_text().split()[1]) * 4096))
    descriptors, memory = np.array(sizes[count // 5 :]).T
    assert len(set(descriptors)) == 1, "a file stayed open"
    assert memory[-1] - memory[0] < 50 * 2**20, "memory grew"
    return outcomes


def outcome_of(path: Path) -> str:
    try:
        frames, metadata = read_video(path, lambda metadata: sample_frame_indices(4, metadata.total_num_frames))
    except VideoDecodeError as error:
        sentence = str(error)
        assert sentence.startswith(f"{path}: ") and sentence.endswith(".") and "\n" not in sentence, sentence
        return SENTENCES.search(sentence.removeprefix(f"{path}: ")).group()
    assert frames.dtype == np.uint8 and frames.shape == (4, metadata.height, metadata.width, 3)
    return "frames"
