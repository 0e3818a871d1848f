# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Rows about spans of videos: loaded, matched, read, packed and checked as if each span were a video."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from svitt import SViTTVideoProcessor
from svitt.data.annotations import Reading, load_captions, load_questions, retrieval_set, training_pairs, video_names
from svitt.data.check import check_videos
from svitt.data.loaders import ClipDataset
from svitt.data.packing import pack
from svitt.data.shards import open_shards
from svitt.errors import InputError
from svitt.evaluation.answering import question_set
from svitt.processing_svitt import VideoDecodeError, read_video

ROWS = [
    {"video": "a.mp4", "caption": "first", "start": 0, "end": 0.4},
    {"video": "a.mp4", "caption": ["second", "again"], "start": "0:00.48", "end": "00:00:00,960"},
    {"video": "a.mp4", "caption": "to the end", "start": 0.5},
    {"video": "a.mp4", "caption": "from the beginning", "end": "0.4"},
    {"video": "b.mp4", "caption": "whole"},
]
SPANS = [(0, 10), (12, 24), (12, 24), (0, 10), (0, 24)]  # of 24 frames, 25 per second
NAMES = ["a.mp4#t=0,0.4", "a.mp4#t=0.48,0.96", "a.mp4#t=0.5", "a.mp4#t=0,0.4", "b.mp4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("spans")
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / name, "libx264", options={"g": "12", "bf": "2"})
    return folder


@pytest.fixture
def file(folder, tmp_path):
    file = tmp_path / "spans.json"
    file.write_text(json.dumps(ROWS))
    return file


def clips_of(rows):
    processor = SViTTVideoProcessor(do_resize=False, do_sample_frames=False)
    return [item["clip"] for item in ClipDataset(rows, partial(processor.read_clip, return_metadata=True))]


def test_a_span_is_read_as_if_it_were_a_video(folder, file):
    captions = load_captions(file, folder)
    assert captions["start"][:] == [0, 0.48, 0.5, 0, None] and captions["end"][:] == [0.4, 0.96, None, 0.4, None]
    for row, clip, (first, last) in zip(ROWS, clips_of(captions), SPANS, strict=True):
        whole = torch.from_numpy(read_video(folder / row["video"])[0]).permute(0, 3, 1, 2)
        assert torch.equal(clip, whole[first:last])
    assert [name.removeprefix(f"{folder}/") for name in video_names(captions).to_pylist()] == NAMES


def test_spans_are_matched_by_video_start_and_end(folder, file, tmp_path):
    pairs = training_pairs(load_captions(file, folder))
    assert pairs["video_id"][:] == [0, 1, 1, 2, 0, 3]  # a span named in two ways is one
    assert all(torch.equal(clip, one) for clip, one in zip(clips_of(pairs)[1:3], clips_of(pairs)[2:3] * 2, strict=True))
    with pytest.raises(InputError, match="row 4: `video` 'a.mp4' was already used in row 1"):
        load_captions(file, folder, unique_videos=True)
    grouped = retrieval_set(load_captions(file, folder, unique_videos=True, reading=Reading(group_by_video=True)))
    assert grouped.texts_of_video == [[0, 1], [2, 3], [4], [5]] and grouped.texts[1] == "from the beginning"
    rows = [{"video": "a.mp4", "question": f"{n}?", "answer": "x", "start": n // 2 / 4} for n in range(4)]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, rows)))
    asked = question_set(load_questions(questions, folder))
    assert asked.questions_of_video == [[0, 1], [2, 3]] and asked.videos["start"][:] == [None, 0.25]


def test_times_have_a_unit_and_faults_name_file_and_row(folder, tmp_path):
    file = tmp_path / "times.jsonl"
    row = {"video": "a.mp4", "caption": "x", "start": 120, "end": 480}
    file.write_text(json.dumps(row))
    assert load_captions(file, folder, reading=Reading(unit="ms"))["start"][:] == [0.12]
    for change, words in {
        "end before start": ({"start": 2, "end": 1}, "row 1: `end` must be after the start, 2 s, got 1 s"),
        "nothing": ({"start": 0, "end": 0}, "row 1: `end` must be after the start"),
        "no time": ({"start": "1m2s"}, "row 1: `start` must be a time, such as 62.5 or 00:01:02.500, got '1m2s'"),
        "negative": ({"start": -1}, "row 1: `start` must be a time"),
        "infinite": ({"end": float("inf")}, "row 1: `end` must be a time"),
        "a list": ({"end": [1, 2]}, "row 1: `end` must be a time"),
        "true": ({"start": True}, "row 1: `start` must be a time"),
    }.values():
        file.write_text(json.dumps(row | change))
        with pytest.raises(InputError, match=words):
            load_captions(file, folder)
    file.write_text(json.dumps(row))
    with pytest.raises(VideoDecodeError, match="a.mp4: its span from 120 to 480 s begins after .* `unit`; see .*row 1"):
        clips_of(load_captions(file, folder))


def test_packed_spans_come_back(folder, file, tmp_path):
    pack(str(folder), [str(file)], str(tmp_path / "packed"), num_workers=1)
    packed = load_captions(open_shards([f"{tmp_path}/packed/train-*.tar"]))
    assert len(set(packed["offset"])) == 2  # each video once
    expected = training_pairs(load_captions(file, folder))
    assert packed["caption"][:] == [[caption] for caption in expected["caption"]]
    for one, other in zip(clips_of(packed), clips_of(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_svitt_check_says_about_rows(folder, tmp_path, capsys):
    (tmp_path / "sentences.json").write_text(json.dumps({
        "videos": [{"id": 1, "file": "a", "split": "train"}, {"id": 2, "file": "gone", "split": "train"},
                   {"id": 3, "file": "b", "split": "test"}],
        "sentences": [
            {"id": 1, "text": "whole", "times": [0, 900]}, {"id": 1, "text": "whole", "times": [0, 900]},
            {"id": 1, "text": "a bit late", "times": [500, 1100]}, {"id": 1, "text": "beyond", "times": [5000, 9000]},
            {"id": 1, "text": "turned round", "times": [900, 0]}, {"id": 2, "text": "missing", "times": [0, 900]},
            {"id": 3, "text": "another split", "times": [0, 900]}, {"id": 9, "text": "unknown", "times": [0, 900]},
        ],
    }))  # fmt: skip
    (tmp_path / "own.yaml").write_text(f"""
splits:
  train:
    annotation: sentences.json
    field: sentences
    join: {{annotation: sentences.json, field: videos, by: id}}
    where: {{split: train}}
    columns: {{video: "{{file}}.mp4", caption: text, start: "{{times[0]}}", end: "{{times[1]}}"}}
    unit: ms
    videos: {folder}
""")
    report = tmp_path / "bad.jsonl"
    assert check_videos(dataset_file=str(tmp_path / "own.yaml"), report=str(report), num_workers=1) == 3
    lines = {line["where"].rpartition(", ")[2]: line for line in map(json.loads, report.read_text().splitlines())}
    assert "must be after the start" in lines["row 5"]["error"] and lines["row 5"]["video"] is None
    assert "gone.mp4" in lines["row 6"]["error"]
    assert "begins after the end of the video" in lines["row 4"]["error"]
    out = capsys.readouterr().out
    assert (
        "train, 6 rows: 1 are wrong, 1 repeat an earlier one (row 2), 2 more are left out by `join` or `where`." in out
    )
    found = (
        "1 have spans after their ends, 1 have spans that are cut at their ends, 1 are missing, 1 more are in no row"
    )
    assert f"2 videos: {found}." in out
    assert out.endswith(f"2 videos checked, 3 problems found, see {report}.\n")
