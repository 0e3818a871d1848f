# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""svitt-pack: nothing is lost or changed on the way into shards, wherever packing is cut off."""

import io
import json
import multiprocessing
import shutil
import sys
import tarfile
import time
from fractions import Fraction

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Video, load_dataset
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from svitt.data import shards as packing
from svitt.data.shards import PackArguments, encode_video, pack, plan_shards, unique_keys, verify
from svitt.data.streaming import load_stream
from svitt.data.workers import WorkerFailure
from svitt.errors import InputError
from svitt.processing_svitt import VideoDecodeError, read_video, sample_frame_indices

CAPTIONS = [
    {"video": "a.mp4", "caption": ["a cat", "ein Kätzchen"]},
    {"video": "sub/a.b.mp4", "caption": "a dog"},
    {"video": "__c d.mkv", "caption": "a fox"},
    {"video": "a.mp4", "caption": "a cat again"},
    {"video": "a.webm", "caption": "another a"},
]
QUESTIONS = [
    {"video": "a.mp4", "question": "what?", "answer": "cat", "question_id": "q1"},
    {"video": "a.webm", "question": "who?", "answer": ["me", "me", "you"], "question_id": "q2"},
    {"video": "a.mp4", "question": "where?", "answer": ["here"], "question_id": "q3"},
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
    x264 = ("libx264", "yuv420p", {}, {"g": "12"})
    write_video(folder / "videos/a.mp4", *x264)
    write_video(folder / "videos/sub/a.b.mp4", *x264, num_frames=30)
    write_video(folder / "videos/__c d.mkv", *x264, num_frames=20)
    write_video(folder / "videos/a.webm", "libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
    for name, rows in (("captions", CAPTIONS), ("questions", QUESTIONS), ("choices", CHOICES)):
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def arguments(source, output_dir, annotation="captions", **options):
    options = {"num_workers": 2, "output_dir": str(output_dir), "video_dir": str(source / "videos")} | options
    return PackArguments(annotation_file=[str(source / f"{annotation}.json")], **options)


def members(folder):
    """The files in all tars of a folder, in order."""
    content = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            content |= {member.name: tar.extractfile(member).read() for member in tar}
    return content


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Round trips ---------------------------------------------------------------------------------------------------------


def test_captions_as_webdataset(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack(arguments(source, tmp_path / "out", samples_per_shard=2))
    assert sorted(files(tmp_path / "out")) == [
        "manifest.jsonl",
        "train-00000-of-00002.tar",
        "train-00001-of-00002.tar",
    ]
    videos = source / "videos"
    expected = {  # keys that tars, file systems and `datasets` can take; captions of a video in one list
        "a": ("a.mp4", ["a cat", "ein Kätzchen", "a cat again"]),
        "sub_a_b": ("sub/a.b.mp4", ["a dog"]),
        "v__c_d": ("__c d.mkv", ["a fox"]),
        "a-2": ("a.webm", ["another a"]),
    }
    content = members(tmp_path / "out")
    assert list(content) == [f"{key}.{part}" for key in expected for part in ("json", "mp4")]
    stream = load_dataset("webdataset", data_files=str(tmp_path / "out/*.tar"), streaming=True)["train"]
    samples = list(stream.cast_column("mp4", Video(decode=False)))
    assert [sample["__key__"] for sample in samples] == list(expected)
    for sample, (name, captions) in zip(samples, expected.values(), strict=True):
        assert sample["json"] == {"video": name, "caption": captions}
        assert sample["mp4"]["bytes"] == (videos / name).read_bytes()
    assert load_dataset(str(tmp_path / "out"), streaming=True)["train"].num_shards == 2  # by the folder alone

    rows = list(load_stream(str(tmp_path / "out/train-*.tar"), buffer_size=3))
    assert sorted(row["caption"] for row in rows) == sorted(text for _, texts in expected.values() for text in texts)
    assert len({row["video_id"] for row in rows}) == 4
    for row in rows:
        name = next(name for name, captions in expected.values() if row["caption"] in captions)
        assert row["video"]["bytes"] == (videos / name).read_bytes()


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_questions(source, tmp_path, format):
    pack(arguments(source, tmp_path / "out", "questions", format=format, split="val"))
    extension = {"webdataset": "tar", "parquet": "parquet"}[format]
    rows = list(load_stream(str(tmp_path / f"out/val-*.{extension}"), kind="questions"))
    assert len(rows) == 3
    for row in rows:
        expected = next(question for question in QUESTIONS if question["question_id"] == row["question_id"])
        assert row["question"] == expected["question"]
        assert row["answer"] == ([expected["answer"]] if expected["answer"] == "cat" else expected["answer"])
        assert row["video"]["bytes"] == (source / "videos" / expected["video"]).read_bytes()
    manifest = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert manifest[1]["keys"] == ["a", "a-2"]  # each video once


def test_choices_are_a_sample_each(source, tmp_path):
    pack(arguments(source, tmp_path, "choices"))
    content = members(tmp_path)
    assert json.loads(content["a.json"]) == {"video": "a.mp4", "caption": ["a", "b", "c"], "answer": 2}
    assert json.loads(content["a-2.json"]) == {"video": "a.mp4", "caption": ["d", "e", "f"], "answer": 0}
    assert content["a.mp4"] == content["a-2.mp4"] == (source / "videos/a.mp4").read_bytes()


def test_captions_as_parquet(source, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "ROW_GROUP_BYTES", 10000)
    pack(arguments(source, tmp_path / "out", format="parquet"))
    path = tmp_path / "out/train-00000-of-00001.parquet"
    assert pq.ParquetFile(path).num_row_groups > 1
    dataset = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    assert isinstance(dataset.features["video"], Video)
    rows = list(dataset.cast_column("video", Video(decode=False)))
    assert [(row["key"], row["video"]["path"]) for row in rows] == [
        ("a", "a.mp4"),
        ("sub_a_b", "sub/a.b.mp4"),
        ("v__c_d", "__c d.mkv"),
        ("a-2", "a.webm"),
    ]
    assert rows[0]["caption"] == ["a cat", "ein Kätzchen", "a cat again"]
    for row in rows:
        assert row["video"]["bytes"] == (source / "videos" / row["video"]["path"]).read_bytes()
    assert sorted(row["caption"] for row in load_stream(str(path))) == sorted(sum((r["caption"] for r in rows), []))


# Keys and shards -----------------------------------------------------------------------------------------------------


@given(st.lists(st.text(min_size=1), unique=True))
def test_keys_are_unique_and_safe(names):
    keys = unique_keys(names)
    assert len({key.lower() for key in keys}) == len(names)
    for key in keys:
        assert key and set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
        assert not key.startswith("__") and len(key) <= 120
    assert unique_keys(names) == keys


@given(st.lists(st.integers(0, 30), min_size=1), st.integers(1, 50))
def test_shards_hold_all_samples_and_at_most_their_size(sizes, most):
    shards = plan_shards([size * 1000 for size in sizes], PackArguments(shard_size=f"{most}KB"))
    ranges = list(shards.values())
    assert [index for indices in ranges for index in indices] == list(range(len(sizes)))
    for number, (name, indices) in enumerate(shards.items()):
        assert name == f"train-{number:05d}-of-{len(shards):05d}.tar"
        assert len(indices) == 1 or sum(sizes[index] for index in indices) <= most
    for before, after in zip(ranges, ranges[1:], strict=False):  # none could have taken one more
        assert sum(sizes[index] for index in before) + sizes[after[0]] > most


# Encoding anew -------------------------------------------------------------------------------------------------------

IRREGULAR = np.cumsum([0, 40, 80, 20, 500, 33, 7, 1200, 40, 40, *[35] * 30]).tolist()
ORIGINALS = {  # arguments of `write_video`
    "b_frames.mp4": {"options": {"bf": "3", "g": "100"}, "num_frames": 60},
    "irregular.mkv": {"times": IRREGULAR, "num_frames": 40},
    "irregular.mp4": {"times": IRREGULAR, "num_frames": 40},
    "odd.mp4": {"pixel_format": "yuv444p", "size": (67, 51)},
    "upright.mp4": {"rotation": 90},
    "one.mp4": {"num_frames": 1},
    "times_from_later.ts": {"num_frames": 30},
    "no_times.avi": {"options": {"bf": "3"}, "num_frames": 30},
    "10_bit.mkv": {"pixel_format": "yuv420p10le", "num_frames": 30},
    "animation.gif": {"codec": "gif", "pixel_format": "rgb8"},
    "large.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}, "size": (128, 96)},
}


LUMA = (0.299, 0.587, 0.114)  # H.264 keeps less of the colours


@pytest.fixture(scope="module")
def originals(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("originals")
    defaults = {"codec": "libx264"}
    return {name: write_video(folder / name, **(defaults | settings)) for name, settings in ORIGINALS.items()}


def times_of(source) -> list[Fraction]:
    """Seconds from the first frame on at which frames are shown."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        times = [frame.pts and frame.pts * frame.time_base for frame in container.decode(video=0)]
    return [time - times[0] for time in times]


@pytest.mark.parametrize("name", ORIGINALS)
def test_encoding_keeps_frames_and_times(originals, name):
    content = encode_video(str(originals[name]), short_side=None, keyframe_seconds=1.0, crf=10)
    if name == "no_times.avi":
        assert times_of(content) == [Fraction(number, 25) for number in range(30)]
    else:
        assert times_of(content) == times_of(originals[name])
    before, metadata = read_video(originals[name])
    after, metadata_after = read_video(content)
    assert metadata_after.total_num_frames == metadata.total_num_frames
    assert metadata_after.fps == pytest.approx(metadata.fps, rel=1e-3)
    assert after.shape == (len(before), *(side // 2 * 2 for side in before.shape[1:3]), 3)
    if name != "odd.mp4":  # which is scaled by a little
        before, luma = before @ LUMA, after @ LUMA
        neighbours = np.abs(before[1:] - before[:-1]).mean(axis=(1, 2))
        assert np.abs(luma - before).mean(axis=(1, 2)).max() < min([6, *neighbours / 2])
    for count in (1, 4, 8):
        indices = sample_frame_indices(count, len(before))
        picked, _ = read_video(content, lambda metadata: sample_frame_indices(count, metadata.total_num_frames))  # noqa: B023
        assert np.array_equal(picked, after[indices])


def test_keyframes_are_as_often_as_asked(originals):
    def keyframes(seconds):
        content = encode_video(str(originals["b_frames.mp4"]), short_side=None, keyframe_seconds=seconds, crf=23)
        with av.open(io.BytesIO(content)) as container:
            assert not container.streams.audio and container.streams.video[0].codec_context.name == "h264"
            packets = [packet for packet in container.demux(video=0) if packet.size]
            assert all(packet.pts == packet.dts for packet in packets)
            return [round(float(packet.pts * packet.time_base), 2) for packet in packets if packet.is_keyframe]

    assert keyframes(1.0) == [0.0, 1.0, 2.0]
    assert keyframes(0.5) == [0.0, 0.52, 1.04, 1.56, 2.08]


@pytest.mark.parametrize(
    ("name", "short_side", "size"),
    [
        ("large.webm", 48, (48, 64)),
        ("large.webm", 96, (96, 128)),
        ("large.webm", 500, (96, 128)),
        ("odd.mp4", 50, (50, 66)),
        ("odd.mp4", 500, (50, 66)),
        ("upright.mp4", 24, (32, 24)),
    ],
)
def test_short_side_never_enlarges(originals, name, short_side, size):
    content = encode_video(str(originals[name]), short_side=short_side, keyframe_seconds=1.0, crf=15)
    after, _ = read_video(content)
    assert after.shape[1:3] == size
    before, _ = read_video(originals[name], short_side=short_side)
    if before.shape == after.shape:
        assert np.abs(after.astype(int) - before).mean() < 6


@pytest.mark.parametrize("short_side", [22, 42])  # not in whole macroblocks of 16 pixels
def test_the_same_video_gives_the_same_bytes(originals, short_side):
    contents = set()
    for seed in range(20):
        garbage = [np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8) for size in (999, 10**5, 10**6)]
        contents.add(encode_video(str(originals["b_frames.mp4"]), short_side, keyframe_seconds=1.0, crf=23))
        del garbage  # memory that is used again is not all zeros
    assert len(contents) == 1


def test_encoded_copies_are_packed(source, tmp_path):
    pack(arguments(source, tmp_path, short_side=32))
    videos = {name: content for name, content in members(tmp_path).items() if name.endswith(".mp4")}
    assert list(videos) == ["a.mp4", "sub_a_b.mp4", "v__c_d.mp4", "a-2.mp4"]
    for video, count in zip(videos.values(), (24, 30, 20, 24), strict=True):
        assert read_video(video)[0].shape == (count, 32, 42, 3)


# Interruptions and damage --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory, write_video):
    """Sixteen videos that take a while to encode, and their shards when nothing interrupts."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "videos").mkdir()
    rows = [{"video": f"{number}.mp4", "caption": f"video {number}"} for number in range(16)]
    for number, row in enumerate(rows):
        path = folder / "videos" / row["video"]
        write_video(path, "libx264", options={"preset": "ultrafast"}, num_frames=40 + number, size=(320, 240))
    (folder / "captions.json").write_text(json.dumps(rows))
    pack(arguments(folder, folder / "whole", samples_per_shard=2, short_side=200))
    return folder


def test_killed_in_the_middle_and_run_again(many, tmp_path):
    output = tmp_path / "out"
    args = arguments(many, output, samples_per_shard=2, short_side=200, num_workers=1)
    process = multiprocessing.get_context("forkserver").Process(target=pack, args=(args,))
    process.start()
    while len(list(output.glob("*.tar"))) < 2:
        assert process.is_alive()
        time.sleep(0.002)
    process.kill()
    process.join()
    finished = {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    assert 2 <= len(finished) < 8
    whole = files(many / "whole")
    assert all((output / name).read_bytes() == whole[name] for name in finished)  # what has its name is whole
    assert verify(str(output)) == 1  # not packed to its end

    pack(arguments(many, output, samples_per_shard=2, short_side=200))
    assert files(output) == whole
    recorded = sorted(finished)[:-1]  # the last may have been killed before it was in the manifest
    assert all((output / name).stat().st_mtime_ns == finished[name] for name in recorded)
    assert verify(str(output)) == 0


def test_ctrl_c_and_run_again(many, tmp_path, monkeypatch, capsys):
    class Keyboard:
        def __init__(self, results):
            self.results = results

        def __iter__(self):
            for number, result in enumerate(self.results):
                if number == 5:
                    raise KeyboardInterrupt
                yield result

    args = arguments(many, tmp_path / "out", samples_per_shard=2, short_side=200)
    command = ["svitt-pack", "--video_dir", args.video_dir, "--annotation_file", *args.annotation_file]
    command += ["--output_dir", args.output_dir, "--samples_per_shard", "2", "--short_side", "200"]
    monkeypatch.setattr(sys, "argv", command)
    with monkeypatch.context() as patched:
        patched.setattr(packing, "progress_bar", lambda results, *_: Keyboard(results))
        with pytest.raises(SystemExit) as exited:
            packing.main()
    assert exited.value.code == 130
    assert capsys.readouterr().err == "Interrupted: the same command goes on with the shards that are left.\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.jsonl",
        "train-00000-of-00008.tar",
        "train-00001-of-00008.tar",
    ]
    packing.main()
    assert files(tmp_path / "out") == files(many / "whole")


def test_half_a_line_of_the_manifest_is_mended(many, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(many / "whole", output)
    manifest = output / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-30])
    (output / ".incomplete").mkdir()
    (output / ".incomplete/train-00007-of-00008.tar").write_text("half a shard")
    pack(arguments(many, output, samples_per_shard=2, short_side=200))
    assert files(output) == files(many / "whole")


def test_verify_names_what_is_wrong(many, tmp_path, capsys):
    output = tmp_path / "out"
    shutil.copytree(many / "whole", output)
    assert verify(str(output)) == 0
    assert "8 shards with 16 samples" in capsys.readouterr().out
    names = sorted(path.name for path in output.glob("*.tar"))
    content = bytearray((output / names[1]).read_bytes())
    content[len(content) // 2] ^= 1
    (output / names[1]).write_bytes(content)
    (output / names[3]).write_bytes((output / names[3]).read_bytes()[:-512])
    (output / names[5]).unlink()
    assert verify(str(output)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.removeprefix(f"{output}/").partition(",")[0] for line in lines] == [
        f"{names[1]}: damaged",
        f"{names[3]}: damaged",
        f"{names[5]}: missing.",
    ]
    with pytest.raises(InputError, match="there is no such manifest"):
        verify(str(tmp_path))


def test_damaged_and_missing_shards_are_packed_again(many, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(many / "whole", output)
    (output / "train-00003-of-00008.tar").write_bytes(b"half")
    (output / "train-00005-of-00008.tar").unlink()
    pack(arguments(many, output, samples_per_shard=2, short_side=200))
    assert files(output) == files(many / "whole")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"short_side": 100}, ["--short_side", '"short_side": 200', '"short_side": 100']),
        ({"crf": 30}, ["--crf", '"crf": 30']),
        ({"samples_per_shard": 4}, ["--samples_per_shard", "2 instead of 4"]),
        ({"format": "parquet"}, ["--format", '"webdataset" instead of "parquet"']),
    ],
)
def test_other_settings_are_refused(many, options, words):
    before = files(many / "whole")
    with pytest.raises(InputError) as raised:
        pack(arguments(many, many / "whole", **({"samples_per_shard": 2, "short_side": 200} | options)))
    assert all(word in str(raised.value) for word in ["split train was packed with other settings", *words])
    assert files(many / "whole") == before


def test_other_annotations_and_strange_shards_are_refused(many, source, tmp_path):
    (many / "others.json").write_text((many / "captions.json").read_text().replace("video 3", "another"))
    with pytest.raises(InputError, match=r"other settings \(annotations\)"):
        pack(arguments(many, many / "whole", "others", samples_per_shard=2, short_side=200))
    (tmp_path / "train-00000-of-00099.tar").touch()
    with pytest.raises(InputError, match="train-00000-of-00099.tar: is in the way"):
        pack(arguments(source, tmp_path))


def test_splits_share_a_folder(source, tmp_path):
    pack(arguments(source, tmp_path, split="train"))
    pack(arguments(source, tmp_path, "questions", split="test", format="parquet"))
    assert verify(str(tmp_path)) == 0
    assert sorted(files(tmp_path)) == ["manifest.jsonl", "test-00000-of-00001.parquet", "train-00000-of-00001.tar"]


def test_two_at_once_are_refused(source, tmp_path):
    with FileLock(tmp_path / ".lock"):
        with pytest.raises(InputError, match="another svitt-pack is writing to it"):
            pack(arguments(source, tmp_path))


# Bad videos and arguments --------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(source, tmp_path):
    """A copy with a video cut off and another one missing."""
    shutil.copytree(source, tmp_path / "damaged")
    video = tmp_path / "damaged/videos/a.mp4"
    video.write_bytes(video.read_bytes()[:-2000])
    (tmp_path / "damaged/videos/a.webm").unlink()
    return tmp_path / "damaged"


@pytest.mark.parametrize(("short_side", "format"), [(None, "webdataset"), (32, "webdataset"), (None, "parquet")])
def test_bad_videos_are_skipped_if_asked(damaged, tmp_path, short_side, format):
    output, options = tmp_path / "out", {"samples_per_shard": 3, "short_side": short_side, "format": format}
    with pytest.raises(InputError, match="a.webm' is not in"):
        pack(arguments(damaged, output, **options))
    pack(arguments(damaged, output, bad_videos="skip", **options))
    rows = list(load_stream(str(output / "train-*")))  # the second shard is empty
    assert {row["caption"] for row in rows} == {"a dog", "a fox"}
    lines = [json.loads(line) for line in (output / "bad_videos.jsonl").read_text().splitlines()]
    assert [line["video"] for line in lines] == ["a.mp4", "a.webm"]


def test_bad_video_ends_packing_unless_skipped(damaged, source, tmp_path, capsys):
    shutil.copy(source / "videos/a.webm", damaged / "videos/a.webm")
    output = tmp_path / "out"
    with pytest.raises(VideoDecodeError, match="a.mp4: .*cut off"):
        pack(arguments(damaged, output, samples_per_shard=2))
    assert sorted(files(output)) == ["manifest.jsonl"]
    pack(arguments(damaged, output, samples_per_shard=2, bad_videos="skip"))
    assert "1 videos were skipped, see bad_videos.jsonl" in capsys.readouterr().out
    [line] = [json.loads(line) for line in (output / "bad_videos.jsonl").read_text().splitlines()]
    assert (line["split"], line["video"]) == ("train", "a.mp4") and "cut off" in line["error"]
    assert "a.mp4" not in members(output) and len(members(output)) == 6

    with pytest.raises(VideoDecodeError):  # a shard that lacks a video is not good enough when none may be skipped
        pack(arguments(damaged, output, samples_per_shard=2))


def test_failures_of_workers(source, tmp_path, monkeypatch, capsys):
    def fail_with(failure):
        def map_some(function, items, num_workers, timeout):
            for number, item in enumerate(items):
                yield item, failure if number == 1 else function(item)

        monkeypatch.setattr(packing, "map_in_workers", map_some)

    fail_with(OSError(28, "No space left on device"))
    with pytest.raises(InputError, match="cannot be written .*No space left on device"):
        pack(arguments(source, tmp_path / "out", bad_videos="skip"))
    fail_with(WorkerFailure("crashed (Segmentation fault)"))
    with pytest.raises(VideoDecodeError, match=r"a.b.mp4: the decoder crashed \(Segmentation fault\)\."):
        pack(arguments(source, tmp_path / "out"))
    pack(arguments(source, tmp_path / "out", bad_videos="skip"))
    assert "sub/a.b.mp4" in (tmp_path / "out/bad_videos.jsonl").read_text() and len(members(tmp_path / "out")) == 6


def test_a_first_shard_without_any_good_video_is_an_error(damaged, tmp_path):
    with pytest.raises(InputError, match="train-00000-of-00004.tar: none of its videos can be read"):
        pack(arguments(damaged, tmp_path / "out", samples_per_shard=1, bad_videos="skip"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"video_dir": None}, "--video_dir is missing"),
        ({"output_dir": None}, "--output_dir is missing"),
        ({"split": "a-b"}, "--split a-b: must be letters"),
        ({"shard_size": "big"}, "--shard_size big: must be a size such as 500MB"),
        ({"samples_per_shard": 0}, "--samples_per_shard 0: must be from 1"),
        ({"crf": 52}, "--crf 52: must be from 0 to 51"),
        ({"short_side": 1}, "--short_side 1: must be from 2"),
        ({"keyframe_seconds": 0.0}, "--keyframe_seconds 0: must be from 0.001"),
        ({"annotation_file": ["none.json"]}, "none.json: there is no such annotation file"),
        ({"output_dir": __file__}, f"--output_dir {__file__}: cannot be made"),
    ],
)
def test_wrong_arguments(source, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    options = vars(arguments(source, tmp_path / "out")) | options
    command = ["svitt-pack"]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as exited:
        packing.main()
    assert exited.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"svitt-pack: {message}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_annotations_of_different_kinds_are_refused(source, tmp_path):
    args = arguments(source, tmp_path)
    args.annotation_file.append(str(source / "questions.json"))
    with pytest.raises(InputError, match="questions.json, row 1: `caption` is missing"):
        pack(args)
