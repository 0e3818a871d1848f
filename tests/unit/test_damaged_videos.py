# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""One sentence for every video that cannot be read, which names the file."""

import faulthandler
import json
import os
import re
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from svitt import processing_svitt
from svitt.data.annotations import load_captions
from svitt.data.loaders import ClipDataset
from svitt.processing_svitt import SViTTVideoProcessor, VideoDecodeError, read_video, sample_frame_indices

from ..streams import remux, write_huge_picture


def write_song(path, cover=False):
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=44100)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 16, 16, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 44100), np.int16), format="s16", layout="stereo")
        frame.rate = 44100
        container.mux([*stream.encode(frame), *stream.encode()])
        if cover:
            black = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            container.mux([*picture.encode(black), *picture.encode()])


def write_playlist(path, videos):
    (path.parent / "end.mp4").write_bytes(videos["end.mp4"].read_bytes())
    path.write_text("ffconcat version 1.0\nfile end.mp4\n")  # FFmpeg would read the other file


def cut(name, share):
    def write(path, videos):
        content = videos[name].read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


def zero(path, videos):
    content = bytearray(videos["start.mp4"].read_bytes())
    content[-600:-300] = bytes(300)
    path.write_bytes(content)


def encrypt(path, videos):
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "1" * 32, "encryption_kid": "2" * 32}
    remux(videos["end.mp4"], path, options=options)


def encrypt_quietly(path, videos):
    """Packets do not say that they are encrypted, the description of the video does."""
    encrypt(path, videos)
    content = path.read_bytes()
    for box in (b"senc", b"saiz", b"saio", b"tenc"):
        content = content.replace(box, b"free")
    path.write_bytes(content)


def encrypt_matroska(path, videos):
    """The name of a track becomes what encoding is done to it: of type 1, encryption, with algorithm 5, AES."""
    remux(videos["clip.mkv"], path, change=lambda stream: stream.metadata.update(title="x" * 14), container="matroska")
    encoding = b"\x6d\x80\x8e" + b"\x62\x40\x8b" + b"\x50\x33\x81\x01" + b"\x50\x35\x84" + b"\x47\xe1\x81\x05"
    path.write_bytes(path.read_bytes().replace(b"\x53\x6e\x8e" + b"x" * 14, encoding))


FAULTS = {  # what writes it, words that must occur
    "missing": (lambda path, videos: None, "cannot be opened (No such file or directory)"),
    "folder": (
        lambda path, videos: path.mkdir(),
        "only of images whose names differ in numbers; this one holds no images",
    ),
    "pipe": (lambda path, videos: os.mkfifo(path), "cannot be opened (not a regular file)"),
    "empty": (lambda path, videos: path.touch(), "the file is empty"),
    "text": (lambda path, videos: path.write_text("this is not a video\n" * 100), "not a video file"),
    "playlist": (write_playlist, "not a video file"),
    "song": (lambda path, videos: write_song(path), "has no video stream, what it holds is: audio"),
    "song with a cover": (lambda path, videos: write_song(path, cover=True), "has no video stream"),
    "MP4 cut before its index": (cut("end.mp4", 0.5), "without its index, it was cut off"),
    "MP4 cut in its index": (cut("end.mp4", 0.95), "cut off"),
    "MP4 cut behind its index": (cut("start.mp4", 0.5), "cut off, it has"),
    "fragments cut": (cut("fragments.mp4", 0.7), "cut off"),
    "MKV cut": (cut("clip.mkv", 0.6), "cut off, it has"),
    "WebM cut": (cut("clip.webm", 0.9), "cut off, it has"),
    "AVI cut": (cut("clip.avi", 0.7), "cut off"),
    "encrypted": (encrypt, "is encrypted"),
    "encrypted MP4 of few words": (encrypt_quietly, "is encrypted"),
    "encrypted MKV": (encrypt_matroska, "is encrypted"),
    "bytes of zero": (zero, "damaged or cut off, FFmpeg says"),
    "picture of 4 gigapixels": (lambda path, videos: write_huge_picture(path), "above the limit of 33554432"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_cannot_be_read_is_one_sentence_that_names_it(tmp_path, videos, fault):
    write, words = FAULTS[fault]
    path = tmp_path / "clip.mp4"
    write(path, videos)
    with pytest.raises(VideoDecodeError) as error:
        SViTTVideoProcessor(size=32)([str(videos["clip.mkv"]), str(path)], return_tensors="pt")
    message = str(error.value)
    assert message.startswith(f"{path}: ") and words in message
    assert message.endswith(".") and "\n" not in message


def test_bytes_that_cannot_be_read_are_told_by_their_name():
    with pytest.raises(VideoDecodeError, match="^dataset/7.mp4: not a video file"):
        read_video({"bytes": b"no video" * 50, "path": "dataset/7.mp4"})


def test_limits(videos, monkeypatch):
    assert len(read_video(videos["end.mp4"])[0]) == 24
    with pytest.raises(VideoDecodeError, match="end.mp4: 1000000 frames of 64x48 take 9.2 GB, the limit is 4.3 GB"):
        read_video(videos["end.mp4"], lambda metadata: [0] * 1_000_000)
    for name, limit, words in [
        ("MAX_FRAME_PIXELS", 64 * 48, "frames of 64x48 are above the limit of 3071 pixels"),
        ("MAX_FRAMES", 24, "has more frames than the limit of 23"),
    ]:
        monkeypatch.setattr(processing_svitt, name, limit)
        assert len(read_video(videos["end.mp4"])[0]) == 24
        monkeypatch.setattr(processing_svitt, name, limit - 1)
        with pytest.raises(VideoDecodeError, match=f"end.mp4: {words}"):
            read_video(videos["end.mp4"])
        monkeypatch.undo()


# ---- Damaged at random


def cut_anywhere(content, rng):
    return content[: rng.integers(1, len(content))]


def flip_bits(content, rng):
    damaged = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(0, len(damaged), rng.choice([1, 5, 50, 500]))
    damaged[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    return damaged.tobytes()


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


DAMAGES = [cut_anywhere, *2 * [flip_bits], *2 * [replace_middle], *4 * [edit_field]]


def is_read_or_one_sentence(path):
    """Whether frames come; if not, one sentence that names the file."""
    try:
        frames, metadata = read_video(path, lambda metadata: sample_frame_indices(4, metadata.total_num_frames))
    except VideoDecodeError as error:
        sentence = str(error)
        assert sentence.startswith(f"{path}: ") and sentence.endswith(".") and "\n" not in sentence, sentence
        return False
    assert frames.dtype == np.uint8 and frames.shape == (4, metadata.height, metadata.width, 3)
    return True


@pytest.mark.slow
def test_files_damaged_at_random_give_frames_or_one_sentence(tmp_path, videos):
    """And no crash, no hang, no file that stays open, no growth of memory."""
    rng, names, was_read, sizes = np.random.default_rng(0), sorted(videos), [], []
    contents = {name: path.read_bytes() for name, path in videos.items()}
    for number in range(2000):
        content = contents[names[number % len(names)]]
        for _ in range(rng.integers(1, 4)):
            damaged = DAMAGES[rng.integers(len(DAMAGES))](content, rng)
            content = damaged if len(damaged) > 200 else content
        path = tmp_path / f"{number}{Path(names[rng.integers(len(names))]).suffix}"  # a wrong extension at times
        path.write_bytes(content)
        faulthandler.dump_traceback_later(60, exit=True)
        was_read.append(is_read_or_one_sentence(path))
        faulthandler.cancel_dump_traceback_later()
        path.unlink()
        sizes.append((len(os.listdir("/proc/self/fd")), int(Path("/proc/self/statm").read_text().split()[1]) * 4096))
    descriptors, memory = np.array(sizes[400:]).T
    assert len(set(descriptors)) == 1 and memory[-1] - memory[0] < 50 * 2**20
    assert 0.1 < np.mean(was_read) < 0.9


def test_damaged_files_are_used_and_reported_if_that_is_wanted(tmp_path, write_video):
    whole = write_video(tmp_path / "whole.mkv", "libx264", options={"g": "4", "bf": "0"})
    content = whole.read_bytes()
    whole.with_name("cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    (tmp_path / "rows.json").write_text(json.dumps([{"video": "cut.mkv", "caption": "x"}]))
    rows = load_captions(tmp_path / "rows.json", tmp_path)
    processor = SViTTVideoProcessor(num_frames=3, size=16)
    args = {"read_clip": partial(processor.read_clip, return_metadata=True, damaged="use")}
    item = ClipDataset(rows, **args)[0]
    [line] = item["bad_videos"]
    assert item["clip"].shape == (3, 3, 16, 16) and line["video"] == item["video"]
    assert re.search("cut.mkv: used as far as it goes; cut off, it has .* frames can be decoded", line["error"])
    with pytest.raises(VideoDecodeError, match="cut off"):
        ClipDataset(rows, partial(processor.read_clip, return_metadata=True))[0]


def test_frames_of_damaged_files_keep_their_times(tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4", "libx264", options={"g": "4", "bf": "0"}, num_frames=48)
    with av.open(path) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    with path.open("r+b") as file:
        for position, size in places[8:20]:
            file.seek(position)
            file.write(bytes(size))
    frames, metadata = read_video(path, damaged="use")
    np.testing.assert_allclose(metadata.frame_times * metadata.fps, [*range(8), *range(20, 48)], atol=0.01)
    for start, end, first, last in ((0.0, 1.92, 0, 36), (1.0, 1.6, 13, 28), (0.72, 1.0, 7, 13)):
        of_span, _ = read_video({"path": path, "start": start, "end": end}, damaged="use")
        np.testing.assert_array_equal(of_span, frames[first:last])
