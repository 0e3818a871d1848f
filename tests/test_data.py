# Copyright 2026 The SViTT for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Annotations: the original's formats load, faults are sentences that name file and field."""

import json

import pytest

from svitt.training.data import load_captions, retrieval_set, training_pairs
from svitt.training.processes import InputError


@pytest.fixture
def video_dir(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder, content):
    path = folder / "captions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_several_captions_of_a_video(video_dir):
    file = write(video_dir, [{"video": "a.mp4", "caption": ["x y", "z"]}, {"video": "b.mp4", "caption": "w"}])
    videos, texts, texts_of_video = retrieval_set(load_captions(file, video_dir, unique_videos=True))
    assert videos == [str(video_dir / "a.mp4"), str(video_dir / "b.mp4")]
    assert (texts, texts_of_video) == (["x y", "z", "w"], [[0, 1], [2]])
    joined = retrieval_set(load_captions(file, video_dir, join_captions=True))
    assert (joined.texts, joined.texts_of_video) == (["x y z", "w"], [[0], [1]])


def test_several_videos_of_a_caption(video_dir):
    rows = [{"video": ["a.mp4", "b.mp4"], "caption": "x"}, {"video": "c.mp4", "caption": "y"}]
    videos, texts, texts_of_video = retrieval_set(load_captions(write(video_dir, rows), video_dir))
    assert (len(videos), texts, texts_of_video) == (3, ["x", "y"], [[0], [0], [1]])


def test_training_pairs_share_an_id_by_video_or_by_caption(video_dir):
    rows = [
        {"video": "a.mp4", "caption": "x"},
        {"video": "b.mp4", "caption": ["x", "y"]},
        {"video": "a.mp4", "caption": "z"},
    ]
    captions = load_captions(write(video_dir, rows), video_dir)
    pairs = training_pairs(captions)
    assert pairs["caption"][:] == ["x", "x", "y", "z"]
    assert pairs["video_id"][:] == [0, 1, 1, 0]
    assert training_pairs(captions, match_by="caption")["video_id"][:] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "not a JSON file"),
        ({"video": "a.mp4"}, "must hold a JSON list"),
        ([], "at least one annotation"),
        (["a.mp4"], "row 1: must be an object"),
        ([{"video": "a.mp4", "caption": "x"}, {"video": "b.mp4"}], "row 2: `caption` is missing"),
        ([{"caption": "x"}], "row 1: `video` is missing"),
        ([{"video": "a.mp4", "caption": 5}], "row 1: `caption` must be a string or a list of strings"),
        ([{"video": "a.mp4", "caption": " "}], "none blank"),
        ([{"video": "d.mp4", "caption": "x"}], "row 1: `video` 'd.mp4' is not in"),
        ([{"video": "a.mp4", "caption": "x"}] * 2, "row 2: `video` 'a.mp4' was already used in row 1"),
        (
            [{"id": 7, "video": "a.mp4", "caption": "x"}, {"id": 7, "video": "b.mp4", "caption": "y"}],
            "row 2: `id` 7 was already used in row 1",
        ),
    ],
)
def test_faults_of_annotations(video_dir, content, message):
    file = write(video_dir, content)
    with pytest.raises(InputError, match=message) as raised:
        load_captions(file, video_dir, unique_videos=True)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


def test_missing_file_and_folder(video_dir):
    with pytest.raises(InputError, match="no such annotation file"):
        load_captions(video_dir / "none.json", video_dir)
    with pytest.raises(InputError, match="no such folder of videos"):
        load_captions(write(video_dir, [{"video": "a.mp4", "caption": "x"}]), video_dir / "none")
