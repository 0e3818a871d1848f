# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Tar shards: rows by number with the right bytes; nothing is lost or changed on the way in, wherever packing ends."""

import io
import json
import multiprocessing
import os
import random
import shutil
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from svitt.data.annotations import Reading, load_captions, load_choices, load_questions, training_pairs
from svitt.data.loaders import ClipDataset
from svitt.data.packing import encode_video, pack
from svitt.data.shards import open_shards, read_member
from svitt.errors import InputError
from svitt.processing_svitt import VideoDecodeError, read_video


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


# ---- Reading


def video_bytes(number):
    generator = random.Random(number)
    return generator.randbytes(generator.randrange(1, 2000))


def write_tar(path, files):
    """A tar of files by name, as the tools of WebDataset write it; dictionaries become JSON."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_shards(folder):
    """Three shards of 5, 6 and 7 samples; sample n has the caption "n"."""
    for shard, numbers in enumerate((range(5), range(5, 11), range(11, 18))):
        files = {}
        for number in numbers:
            files |= {f"{number:05d}.json": {"caption": str(number)}, f"{number:05d}.mp4": video_bytes(number)}
        write_tar(folder / f"train-{shard:05d}-of-00003.tar", files)


def bytes_of(row):
    return read_member(row["shard"], row["offset"], row["size"])


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_every_row_has_the_bytes_of_its_video(tmp_path, scheme):
    write_shards(tmp_path)
    for _ in range(2):  # the second time from the cache
        pairs = training_pairs(load_captions(open_shards([f"{scheme}{tmp_path}/*.tar"])))
        assert pairs["caption"][:] == list(map(str, range(18)))
        assert [bytes_of(row) for row in pairs] == list(map(video_bytes, range(18)))
        assert pairs["video_id"][:] == list(range(18))
        assert len({row["video"]["path"] for row in pairs}) == 18
    clips = ClipDataset(pairs, lambda video, seed: (video["bytes"], SimpleNamespace(damage=None)))
    assert clips[7, 1]["clip"] == video_bytes(7) and clips[7, 1]["video"].endswith(".tar/00007.mp4")


def test_a_shard_that_has_changed_is_read_again_and_one_that_has_gone_is_named(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.txt": b"old", "1.mp4": b"o"})
    assert load_captions(open_shards([f"{tmp_path}/a.tar"]))["caption"][:] == [["old"]]
    write_tar(tmp_path / "a.tar", {"0.txt": b"first", "0.mp4": b"f", "1.txt": b"new", "1.mp4": b"n"})
    captions = load_captions(open_shards([f"{tmp_path}/a.tar"]))
    assert captions["caption"][:] == [["first"], ["new"]] and list(map(bytes_of, captions)) == [b"f", b"n"]
    (tmp_path / "a.tar").unlink()
    with pytest.raises(InputError, match="a.tar: cannot be read any more"):
        ClipDataset(captions, lambda video, seed: None)[0]


def test_captions_texts_and_names_of_fields(tmp_path):
    files = {"a/1.jpg": b"jpg", "a/1.txt": b"caf\xc3\xa9", "README": b"no sample"}
    files |= {"a/2.json": {"title": ["x", "y"], "video": "/etc/passwd"}, "a/2.jpg": b"2", "a/2.wav": b"sound"}
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(InputError, match="sample a/2: must have one video.*got 2.jpg, 2.wav"):
        open_shards([f"{tmp_path}/a.tar"])
    rows = open_shards([f"{tmp_path}/a.tar"], video="jpg")
    captions = load_captions(rows[:1])
    assert (captions["caption"][:], bytes_of(captions[0])) == ([["café"]], b"jpg")
    pairs = training_pairs(load_captions(rows[1:], reading=Reading(columns={"caption": "title", "video": "jpg"})))
    assert (pairs["caption"][:], pairs["video_id"][:]) == (["x", "y"], [0, 0])
    assert list(map(bytes_of, pairs)) == [b"2", b"2"]


def test_questions_of_a_sample(tmp_path):
    one = {"question": "what?", "answer": ["cat", "cat"], "question_id": "q1", "question_type": "object"}
    several = {"question": ["who?", "why?"], "answer": [["man"], ["fun", "joy"]], "question_id": ["q2", "q3"]}
    several["question_type"] = [["man"], []]
    write_tar(tmp_path / "a.tar", {"1.json": one, "1.mp4": b"1", "2.json": several, "2.mp4": b"2"})
    questions = load_questions(open_shards([f"{tmp_path}/a.tar"]))
    assert list(map(bytes_of, questions)) == [b"1", b"2", b"2"]
    assert questions["question"][:] == ["what?", "who?", "why?"] and questions["question_id"][:] == ["q1", "q2", "q3"]
    assert questions["answer"][:] == [["cat", "cat"], ["man"], ["fun", "joy"]]
    assert questions["question_type"][:] == [["object"], ["man"], []]


def test_damaged_shards_are_named_not_cut_short(tmp_path):
    write_shards(tmp_path)
    damaged = tmp_path / "train-00001-of-00003.tar"
    whole = damaged.read_bytes()
    end = len(whole.rstrip(b"\0"))
    with tarfile.open(damaged) as tar:
        headers = [member.offset + 20 for member in tar]
    contents = [whole[:size] for size in (0, 100, end // 3, end // 2, end * 9 // 10, end - 1)]
    contents += [whole[:offset] + bytes([whole[offset] ^ 255]) + whole[offset + 1 :] for offset in headers]
    contents += [whole.rstrip(b"\0"), whole + whole]  # without its end; two archives, of which one would be lost
    for content in contents:
        damaged.write_bytes(content)
        with pytest.raises(InputError, match="damaged or cut off") as raised:
            open_shards([f"{tmp_path}/*.tar"])
        assert str(damaged) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("files", "pattern", "message"),
    [
        ({"1.json": {"caption": " "}, "1.mp4": b""}, "a.tar", "a.tar, row 1: `caption` must be a string or a list"),
        ({"1.json": {}, "1.mp4": b""}, "a.tar", "a.tar, row 1: `caption` is missing"),
        ({"1.json": [1], "1.mp4": b""}, "a.tar", "a.tar: damaged"),
        ({"1.json": b"{", "1.mp4": b""}, "a.tar", "1.json: not a JSON file"),
        ({"1.json": {}}, "a.tar", "a.tar, sample 1: must have one video"),
        ({}, "c*.tar", r"c\*.tar: there are no such shards"),
        ({}, "*.parquet", "a folder of Parquet files is named as `hub`"),
    ],
)
def test_faults_of_shards(tmp_path, files, pattern, message):
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(InputError, match=message):
        load_captions(open_shards([f"{tmp_path}/{pattern}"]))


# ---- Packing

CAPTIONS = [
    {"video": "a.mp4", "caption": ["a cat", "ein Kätzchen"]},
    {"video": "sub/a.mp4", "caption": "a dog"},
    {"video": "a.mp4", "caption": "a cat again"},
    {"video": "a.webm", "caption": "a fox"},
]
QUESTIONS = [
    {"video": "a.mp4", "question": "what?", "answer": "cat", "question_id": "q1"},
    {"video": "a.webm", "question": "who?", "answer": ["me", "me", "you"], "question_id": "q2"},
    {"video": "a.mp4", "question": "where?", "answer": ["here"], "question_id": "q3", "options": ["here", "there"]},
]
CHOICES = [
    {"video": "a.mp4", "caption": ["a", "b", "c"], "answer": 2},
    {"video": "a.mp4", "caption": ["d", "e", "f"], "answer": 0},
]


@pytest.fixture(scope="module")
def source(tmp_path_factory, write_video):
    """A folder with videos of different content, and annotations."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "videos/sub").mkdir(parents=True)
    write_video(folder / "videos/a.mp4", "libx264", options={"g": "12"})
    write_video(folder / "videos/sub/a.mp4", "libx264", num_frames=60, size=(320, 240))
    write_video(folder / "videos/a.webm", "libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
    for name, rows in (("captions", CAPTIONS), ("questions", QUESTIONS), ("choices", CHOICES)):
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def pack_some(folder, output_dir, annotation="captions", **options):
    files = {"video_dir": str(folder / "videos"), "annotation_file": [str(folder / f"{annotation}.json")]}
    pack(**files, output_dir=str(output_dir), **{"num_workers": 1} | options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_captions_questions_and_choices_come_back_as_they_went_in(source, tmp_path):
    pack_some(source, tmp_path, samples_per_shard=2)
    pack_some(source, tmp_path, "questions", split="val")
    pack_some(source, tmp_path, "choices", split="test")
    names = [path.name.removesuffix(".tar") for path in sorted(tmp_path.iterdir())]
    shards = ["test-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002", "val-00000-of-00001"]
    assert names == ["manifest.jsonl", *shards]

    captions = load_captions(open_shards([f"{tmp_path}/train-*.tar"]), unique_videos=True)
    assert captions["caption"][:] == [["a cat", "ein Kätzchen", "a cat again"], ["a dog"], ["a fox"]]
    for row, name in zip(captions, ("a.mp4", "sub/a.mp4", "a.webm"), strict=True):
        assert bytes_of(row) == (source / "videos" / name).read_bytes()
    choices = load_choices(open_shards([f"{tmp_path}/test-*.tar"]))
    assert choices["caption"][:] == [list("abc"), list("def")] and choices["answer"][:] == [2, 0]
    packed = load_questions(open_shards([f"{tmp_path}/val-*.tar"]))
    assert len({(row["shard"], row["offset"]) for row in packed}) == 2  # each video once
    expected = {row["question_id"]: row for row in load_questions(source / "questions.json", source / "videos")}
    assert len(packed) == len(expected)
    for row in packed:
        same = expected[row["question_id"]]
        assert all(row[name] == same[name] for name in ("question", "answer", "options"))
        assert bytes_of(row) == Path(same["video"]["path"]).read_bytes()


LUMA = (0.299, 0.587, 0.114)  # H.264 keeps less of the colours
IRREGULAR = np.cumsum([0, 40, 80, 20, 500, 33, 7, 1200, 40, 40, *[35] * 60]).tolist()
ORIGINALS = {  # arguments of `write_video`
    "b_frames.mp4": {"options": {"bf": "3", "g": "100"}, "num_frames": 80},
    "irregular.mkv": {"times": IRREGULAR, "num_frames": 70},
    "odd.mp4": {"pixel_format": "yuv444p", "size": (67, 51)},
    "upright.mp4": {"rotation": 90},
    "one.mp4": {"num_frames": 1},
    "animation.gif": {"codec": "gif", "pixel_format": "rgb8"},
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_encoding_keeps_frames_and_times(tmp_path, write_video, name):
    original = write_video(tmp_path / name, **{"codec": "libx264"} | ORIGINALS[name])
    encode_video(str(original), str(tmp_path / "x.mp4"), short_side=500, crf=10)
    before, metadata = read_video(original)
    after, metadata_after = read_video(tmp_path / "x.mp4")
    assert metadata_after.total_num_frames == metadata.total_num_frames
    np.testing.assert_allclose(metadata_after.frame_times, metadata.frame_times, atol=2e-5)
    assert metadata_after.fps == pytest.approx(metadata.fps, rel=0.06)
    assert after.shape == (len(before), *(side // 2 * 2 for side in before.shape[1:3]), 3)
    if name != "odd.mp4":  # which is scaled by a little
        before, luma = before @ LUMA, after @ LUMA
        neighbours = np.abs(before[1:] - before[:-1]).mean(axis=(1, 2))
        assert np.abs(luma - before).mean(axis=(1, 2)).max() < min([6, *neighbours / 2])


def test_encoded_copies_are_small_with_a_keyframe_a_second(source, tmp_path):
    pack_some(source, tmp_path, short_side=32)
    captions = load_captions(open_shards([f"{tmp_path}/*.tar"]))
    for row, (count, width) in zip(captions, ((24, 42), (60, 42), (24, 42)), strict=True):
        content = bytes_of(row)
        assert read_video(content)[0].shape == (count, 32, width, 3)
        with av.open(io.BytesIO(content)) as container:
            assert container.streams.video[0].codec_context.name == "h264" and not container.streams.audio
            packets = [packet for packet in container.demux(video=0) if packet.size]
        keyframes = [packet.pts * packet.time_base for packet in packets if packet.is_keyframe]
        assert keyframes == list(range(1 + (count - 1) // 25))


def test_the_same_video_gives_the_same_bytes(source, tmp_path):
    copies = set()
    for seed in range(10):
        garbage = [np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8) for size in (999, 10**5, 10**6)]
        encode_video(str(source / "videos/sub/a.mp4"), str(tmp_path / "x.mp4"), 42, 23)
        copies.add((tmp_path / "x.mp4").read_bytes())
        del garbage  # memory that is used again is not all zeros
    assert len(copies) == 1


@pytest.fixture(scope="module")
def many(tmp_path_factory, write_video):
    """Twelve videos that take a while to encode, and their shards when nothing interrupts."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "videos").mkdir()
    rows = [{"video": f"{number}.mp4", "caption": f"video {number}"} for number in range(12)]
    for number, row in enumerate(rows):
        path = folder / "videos" / row["video"]
        write_video(path, "libx264", options={"preset": "ultrafast"}, num_frames=40 + number, size=(320, 240))
    (folder / "captions.json").write_text(json.dumps(rows))
    pack_some(folder, folder / "whole", samples_per_shard=2, short_side=200)
    return folder


def shards_of(folder):
    return {name: content for name, content in contents(folder).items() if name.endswith(".tar")}


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(many, tmp_path):
    output = tmp_path / "out"
    options = {"samples_per_shard": 2, "short_side": 200}
    process = multiprocessing.get_context("spawn").Process(target=pack_some, args=(many, output), kwargs=options)
    process.start()
    while len(list(output.glob("*.tar"))) < 2:
        assert process.is_alive()
        time.sleep(0.002)
    process.kill()
    process.join()
    whole, finished = shards_of(many / "whole"), shards_of(output)
    assert 2 <= len(finished) < 6 and finished.items() <= whole.items()  # what has its name is whole
    times = {name: (output / name).stat().st_mtime_ns for name in sorted(finished)[:-1]}  # the last may not be noted
    pack_some(many, output, **options)
    assert shards_of(output) == whole
    assert all((output / name).stat().st_mtime_ns == time for name, time in times.items())
    assert not list(output.glob(".[ie]*"))


def test_what_is_cut_off_or_missing_is_packed_again(many, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(many / "whole", output)
    names = sorted(shards_of(output))
    (output / names[3]).write_bytes((output / names[3]).read_bytes()[:-512])
    (output / names[5]).unlink()
    pack_some(many, output, samples_per_shard=2, short_side=200)
    assert shards_of(output) == shards_of(many / "whole")


def test_other_settings_pack_again_what_they_change(source, tmp_path):
    pack_some(source, tmp_path)
    before = shards_of(tmp_path)
    pack_some(source, tmp_path, short_side=32)
    assert shards_of(tmp_path).keys() == before.keys() and shards_of(tmp_path) != before
    pack_some(source, tmp_path)
    assert shards_of(tmp_path) == before
    pack_some(source, tmp_path, "questions", split="test")  # splits share a folder
    assert shards_of(tmp_path).keys() == {*before, "test-00000-of-00001.tar"}
    with pytest.raises(InputError, match="train-00000-of-00001.tar: is in the way"):
        pack_some(source, tmp_path, samples_per_shard=1)


def test_bad_videos_end_packing_or_are_left_out(source, tmp_path, capsys):
    shutil.copytree(source, tmp_path / "damaged")
    video, output = tmp_path / "damaged/videos/a.mp4", tmp_path / "out"
    video.write_bytes(video.read_bytes()[:-2000])
    with pytest.raises(VideoDecodeError, match="a.mp4: .*cut off"):
        pack_some(tmp_path / "damaged", output)
    (tmp_path / "damaged/videos/a.webm").unlink()
    with pytest.raises(InputError, match="a.webm' is not in"):
        pack_some(tmp_path / "damaged", output)
    pack_some(tmp_path / "damaged", output, bad_videos="skip")
    assert "with 1 samples" in (printed := capsys.readouterr().out) and "2 videos were skipped" in printed
    assert load_captions(open_shards([f"{output}/train-*.tar"]))["caption"][:] == [["a dog"]]
    lines = [json.loads(line) for line in (output / "bad_videos.jsonl").read_text().splitlines()]
    assert [(line["video"], line["where"]) for line in lines] == [
        ("a.mp4", f"{tmp_path}/damaged/captions.json, row 1"),
        ("a.webm", f"{tmp_path}/damaged/captions.json, row 4"),
    ]
    assert "cut off" in lines[0]["error"]
    shutil.copy(source / "videos/a.webm", tmp_path / "damaged/videos/a.webm")
    with pytest.raises(VideoDecodeError):  # a shard that lacks a video is not good enough when none may be left out
        pack_some(tmp_path / "damaged", output)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "a-b"}, "`split` must be letters"),
        ({"samples_per_shard": 0}, "`samples_per_shard` must be at least 1"),
        ({"crf": 52}, "`crf` must be from 0 to 51"),
        ({"short_side": 1}, "`short_side` must be at least 2"),
        ({"annotation": "none"}, "none.json: there is no such file"),
        ({"output_dir": __file__}, f"{os.path.basename(__file__)}: cannot be written"),
    ],
)
def test_wrong_arguments(source, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        pack_some(source, **{"output_dir": tmp_path} | options)
