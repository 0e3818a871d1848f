# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Episodes of BabyAI as clips: what is asked about them, and files that the scripts read."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from minigrid.core.constants import COLOR_NAMES, COLORS

from svitt.data.annotations import load_captions, load_questions
from svitt.data.presets import load_preset
from svitt.processing_svitt import read_video

SCRIPT = str(Path(__file__).parent.parent / "examples/make_babyai_dataset.py")


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(SCRIPT).parent)
        return runpy.run_path(SCRIPT)


@pytest.mark.parametrize(
    ("caption", "other", "doors"),
    [
        ("open the red door", None, ["red"]),
        ("open the red door, then open the blue door", "open the blue door, then open the red door", ["red", "blue"]),
        (
            "open the red door after you open the blue door",
            "open the blue door after you open the red door",
            ["blue", "red"],
        ),
        ("go to a key and go to the box, then go to a door", "go to a door, then go to a key and go to the box", []),
        ("go to a key, then go to a key", None, []),
        ("go to the red door, then go to the ball", "go to the ball, then go to the red door", ["red"]),
        ("pick up the ball", None, []),
    ],
)
def test_order_of_an_instruction(example, caption, other, doors):
    assert example["other_order"](caption) == other
    assert example["doors_in_order"](caption) == doors


def test_questions_about_an_instruction(example):
    def asked(caption):
        return [
            (row["question"], row["answer"], row["question_type"]) for row in example["questions_about"]("a", caption)
        ]

    assert asked("open a blue door") == [("which door is opened?", "blue", "look")]
    assert asked("go to the red door after you go to the grey door") == [
        ("which door is reached first?", "grey", "order"),
        ("which door is reached last?", "red", "order"),
    ]
    assert asked("go to the red door and go to a door") == asked("pick up the ball") == []


@pytest.mark.parametrize("seed", range(4))
def test_doors_in_turn_are_open_one_after_the_other(example, seed):
    caption, frames = example["play"]("OpenDoorsInTurn", seed, crop=True)
    cells = frames.reshape(-1, 6, 12, 6, 12, 3).swapaxes(2, 3)  # (T, rows, columns, height, width, 3)
    is_wall = np.pad(np.zeros((4, 4), bool), 1, constant_values=True)
    walls = cells[:, is_wall]
    has_changed = (walls != walls[0]).any(axis=(2, 3, 4))
    doors = has_changed.any(axis=0)
    switch = has_changed.any(axis=1).argmax()
    assert doors.sum() == 2 and 2 <= switch <= len(frames) - 2
    assert not has_changed[:switch].any() and has_changed[switch:, doors].all()

    def colors_of_closed_doors(frame):  # of an open door, the brightest pixel is that of the floor, or darker
        pixels = walls[frame, doors].reshape(2, -1, 3)
        brightest = [door[door.sum(axis=1).argmax()] for door in pixels]
        return [name for name in COLOR_NAMES for pixel in brightest if (pixel == COLORS[name] * 2 // 3).all()]

    first, second = example["doors_in_order"](caption)
    assert (colors_of_closed_doors(0), colors_of_closed_doors(-1)) == ([second], [first])


def test_files_are_read_by_the_scripts(tmp_path, monkeypatch):
    options = ["--train", "4", "--test", "4", "--levels", "OpenTwoDoors", "PickupLoc", "--crop"]
    monkeypatch.syspath_prepend(Path(SCRIPT).parent)
    monkeypatch.setattr(sys, "argv", [SCRIPT, str(tmp_path), *options])
    runpy.run_path(SCRIPT, run_name="__main__")
    captions = load_captions(tmp_path / "test.json", tmp_path / "videos")
    assert captions["caption"][:2] == [["open the purple door, then open the red door"], ["pick up the grey key"]]
    questions = load_questions(tmp_path / "test_questions.json", tmp_path / "videos")
    assert (questions["question"][0], questions["answer"][0]) == ("which door is opened first?", ["purple"])
    assert (questions["question"][1], questions["answer"][1]) == ("which door is opened last?", ["red"])
    [choices] = load_preset("retrieval", tmp_path / "order.yaml").splits.values()
    choices = choices.load()
    for row, annotation in zip(choices, json.loads((tmp_path / "test_order.json").read_text()), strict=True):
        assert row["caption"][row["answer"]] == next(
            caption["caption"][0] for caption in captions if caption["video"]["path"].endswith(annotation["video"])
        )
    frames, metadata = read_video(str(tmp_path / "videos/test_OpenTwoDoors_00000.mp4"), lambda metadata: [0, 13])
    assert (metadata.total_num_frames, frames.shape) == (14, (2, 72, 72, 3))  # a room of 6 cells along a side
    assert (frames[0] != frames[1]).any()
