# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""run_videoqa.py on real clips: training, evaluation, two processes, options, bad input; the demo's questions."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from accelerate.state import AcceleratorState

from svitt import SViTTForVideoQuestionAnswering, SViTTForVideoTextRetrieval
from svitt.data.presets import load_preset, preset_names
from svitt.processing_svitt import SViTTProcessor

ROOT = Path(__file__).parent.parent
SCRIPT = str(ROOT / "run_videoqa.py")
TWO_PROCESSES = ["accelerate", "launch", "--config_file", str(ROOT / "configs/cpu_2_processes.yaml")]


def arguments(demo, output_dir, **options):
    """A command line; an option `True` is a switch, and `None` leaves one out."""
    options = {
        "model_name_or_path": demo / "model",
        "video_dir": demo / "data/videos",
        "output_dir": output_dir,
        "eval_batch_size": 4,
        "train_batch_size": 8,
        "learning_rate": 1e-3,
    } | options
    pairs = ((f"--{name}", value) for name, value in options.items() if value is not None)
    return [str(part) for pair in pairs for part in pair if part is not True]


def run(monkeypatch, *args):
    """Run the script in this process; a process of its own takes seconds to import all."""
    AcceleratorState._reset_state(True)
    monkeypatch.setattr(sys, "argv", [SCRIPT, *args])
    runpy.run_path(SCRIPT, run_name="__main__")


def files_of(demo, *splits):
    """Options that name the files of questions of splits."""
    names = {"train": "train", "validation": "val", "test": "test"}
    return {f"{split}_file": demo / f"data/{names[split]}_questions.json" for split in splits}


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory):
    """The folder of a run of two epochs, and what it printed."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    files = files_of(demo, "train", "validation", "test")
    options = {"num_train_epochs": 2, "num_frames_test": 8, "max_question_length": 12, "no_augment": True}
    options["max_answer_length"] = 6
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, *arguments(demo, folder, **files, **options))
    return folder


# ---- Runs


def test_a_run_writes_model_predictions_results_and_a_card(demo, trained):
    results, log = read(trained, "results.json"), (trained / "log.jsonl").read_text().splitlines()
    scores = [line["validation/accuracy"] for line in map(json.loads, log) if "validation/accuracy" in line]
    assert len(scores) == 2 and results["epoch"] == 1 + scores.index(max(scores))
    assert results["validation"]["accuracy"]["overall"] == max(scores)

    annotations = read(demo, "data/test_questions.json")
    predictions = read(trained, "predictions_test.json")
    assert [prediction["question_id"] for prediction in predictions] == list(range(len(annotations)))
    right = [p["answer"] == row["answer"] for p, row in zip(predictions, annotations, strict=True)]
    assert results["test"]["accuracy"]["overall"] == round(100 * sum(right) / len(right), 2)
    assert set(results["test"]["accuracy"]["by_type"]) == {"look", "order"}
    answers = read(trained, "answer_list.json")
    assert sorted(answers) == sorted({row["answer"] for row in read(demo, "data/train_questions.json")})
    listed = [row["answer"] in answers for row in annotations]
    assert results["test"]["coverage"] == round(100 * sum(listed) / len(listed), 2)
    num_questions = len(read(demo, "data/train_questions.json"))
    assert results["train"] == {"coverage": 100.0, "num_questions": num_questions}

    rows = pq.read_table(trained / "predictions_test.parquet").to_pylist()
    assert [(row["question_id"], row["answer"]) for row in rows] == [tuple(p.values()) for p in predictions]
    assert all(row["best_probabilities"] == sorted(row["best_probabilities"], reverse=True) for row in rows)
    assert all(0.9 < sum(row["best_probabilities"]) < 1 and len(row["best_answers"]) == 10 for row in rows)  # of 11

    assert yaml.safe_load((trained / "settings.yaml").read_text())["max_question_length"] == 12
    card = (trained / "README.md").read_text()
    assert "| test, most frequent answer |" in card and "visual-question-answering" in card
    processor = SViTTProcessor.from_pretrained(trained)
    assert processor(text="up " * 20)["attention_mask"] == [1] * 12
    assert processor.encode_answers("up " * 20)["attention_mask"].tolist() == [[1] * 6]


def test_the_decoder_begins_as_the_fusion_layers_and_learns(demo, trained):
    source = SViTTForVideoTextRetrieval.from_pretrained(demo / "model").text_model.encoder.layer[2:]
    decoder = SViTTForVideoQuestionAnswering.from_pretrained(trained).text_decoder.bert.encoder.layer
    assert len(decoder) == len(source) == 2
    for layer, start in zip(decoder, source, strict=True):
        difference = (layer.crossattention.self.key.weight - start.crossattention.self.key.weight).abs().max()
        assert 1e-4 < difference < 0.05


def test_a_trained_model_is_evaluated_with_its_own_answers(demo, trained, tmp_path, monkeypatch, capsys):
    options = files_of(demo, "test") | {"model_name_or_path": trained, "num_frames_test": 8}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **options))
    assert read(tmp_path / "out", "results.json")["test"] == read(trained, "results.json")["test"]
    assert read(tmp_path / "out", "predictions_test.json") == read(trained, "predictions_test.json")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json",
        "predictions_test.json",
        "predictions_test.parquet",
    }
    printed = capsys.readouterr().out
    assert "most frequent answer" in printed and "accuracy_order" in printed


def test_an_untrained_model_takes_the_answers_of_the_split_train(demo, tmp_path, monkeypatch, capsys):
    answers = ["a red circle moves left", "up", "a red circle moves right"]
    (tmp_path / "train.json").write_text(json.dumps([ROW | {"answer": answer} for answer in answers]))
    (tmp_path / "test.json").write_text(json.dumps([ROW | {"answer": "up"}]))
    files = {"train_file": tmp_path / "train.json", "test_file": tmp_path / "test.json"}
    with pytest.warns(UserWarning, match="The answers mean nothing yet"):
        run(monkeypatch, *arguments(demo, tmp_path / "out", **files, evaluate_only=True))
    [row] = pq.read_table(tmp_path / "out/predictions_test.parquet").to_pylist()
    assert sorted(row["best_answers"]) == sorted(answers)
    assert capsys.readouterr().out.startswith("answer list: 2 of 3 answers cannot be told apart in 5 tokens")


def test_a_run_that_ended_is_resumed_with_the_answers_it_had(demo, trained, tmp_path, monkeypatch, capfd):
    shutil.copytree(trained, tmp_path / "out")
    (tmp_path / "out/results.json").unlink()
    settings = ["--config", str(trained / "settings.yaml"), "--output_dir", str(tmp_path / "out")]
    run(monkeypatch, *settings, "--resume_from_checkpoint", "latest")
    assert read(tmp_path / "out", "results.json") == read(trained, "results.json")

    capfd.readouterr()
    with pytest.raises(SystemExit):
        run(monkeypatch, *settings, "--resume_from_checkpoint", "latest", "--num_answers", "3")
    assert_one_sentence(capfd.readouterr().err, "answer_list.json: the run to resume chose from other answers", " 3;")


@pytest.mark.slow
def test_two_processes_give_the_answers_of_one(demo, trained, tmp_path):
    """Also for a split of fewer videos than processes."""
    rows = [row for row in read(demo, "data/val_questions.json") if row["video"] == "val_00000.mp4"]
    (tmp_path / "one_video.json").write_text(json.dumps(rows))
    options = files_of(demo, "test") | {"validation_file": tmp_path / "one_video.json", "num_frames_test": 8}
    args = arguments(demo, tmp_path / "out", **options, model_name_or_path=trained)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [*TWO_PROCESSES, SCRIPT, *args]
    launched = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert launched.returncode == 0, launched.stderr
    results = read(tmp_path / "out", "results.json")
    assert results["num_processes"] == 2
    assert results["test"] == read(trained, "results.json")["test"]
    assert read(tmp_path / "out", "predictions_test.json") == read(trained, "predictions_test.json")
    assert len(read(tmp_path / "out", "predictions_validation.json")) == len(rows) == 2


@pytest.mark.slow
def test_two_processes_train_one_model(demo, tmp_path):
    options = files_of(demo, "train", "validation") | {"num_train_epochs": 1, "train_batch_size": 4}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", SCRIPT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += arguments(demo, tmp_path / "out", **options)
    launched = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert launched.returncode == 0, launched.stderr
    results, rows = read(tmp_path / "out", "results.json"), read(demo, "data/val_questions.json")
    assert (results["num_processes"], results["epoch"]) == (2, 1)
    assert len(read(tmp_path / "out", "predictions_validation.json")) == len(rows)


@pytest.mark.parametrize("name", preset_names("videoqa"))
def test_presets_are_settings_of_the_script(demo, tmp_path, monkeypatch, name):
    """One step of each, from the command line to the model; the sizes are those of the demo."""
    preset, data = load_preset("videoqa", name, tmp_path / "data"), tmp_path / "data"
    for split in preset.splits.values():
        split.annotation.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo / "data/val_questions.json", split.annotation)
        if not split.videos.exists():
            split.videos.symlink_to(demo / "data/videos")
    preset.answer_list.write_text('["red", "up", "left", "blue", "green"]')
    options = {"dataset": name, "data_dir": data, "video_dir": None, "learning_rate": None, "max_steps": 1}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **options, warmup_steps=0, train_batch_size=2))
    settings = yaml.safe_load((tmp_path / "out/settings.yaml").read_text())
    assert {key: settings[key] for key in preset.settings if key not in ("eval_batch_size", "train_batch_size")} == {
        key: preset.settings[key] for key in preset.settings if key not in ("eval_batch_size", "train_batch_size")
    }
    config = SViTTForVideoQuestionAnswering.from_pretrained(tmp_path / "out").config
    assert (config.vision_config.num_frames, config.vision_config.token_keep_rate) == (8, 0.6)
    assert config.text_config.token_keep_rate == 0.5
    assert set(read(tmp_path / "out", "results.json")) == {"num_processes", "epoch", *preset.splits}


def test_options_of_a_question_are_all_that_it_may_be_answered_by(demo, tmp_path, monkeypatch):
    options = [["up", "down"], ["a", "red circle", "blue"], ["left", "right"]]
    rows = [
        {"video": f"test_{i:05d}.mp4", "question": "what?", "answer": 0, "options": one}
        for i, one in enumerate(options)
    ]
    (tmp_path / "options.json").write_text(json.dumps(rows))
    with pytest.warns(UserWarning, match="The answers mean nothing yet: .*was never trained to answer questions"):
        run(monkeypatch, *arguments(demo, tmp_path / "out", test_file=tmp_path / "options.json"))
    for prediction, one in zip(read(tmp_path / "out", "predictions_test.json"), options, strict=True):
        assert prediction["answer"] in one
    results = read(tmp_path / "out", "results.json")["test"]
    assert (results["coverage"], results["chance"]) == (100.0, {"overall": 44.44})  # (1/2 + 1/3 + 1/2) / 3


# ---- Bad input


def assert_one_sentence(stderr, *parts):
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("run_videoqa.py: ") and lines[0].endswith("."), lines
    assert all(part in lines[0] for part in parts), lines


def test_bad_videos_are_one_sentence_or_wrong_answers(demo, trained, tmp_path, monkeypatch, capfd):
    shutil.copytree(demo / "data/videos", tmp_path / "videos")
    (tmp_path / "videos/test_00000.mp4").write_bytes(b"no video")
    options = files_of(demo, "test") | {"model_name_or_path": trained, "video_dir": tmp_path / "videos"}
    with pytest.raises(SystemExit) as exited:
        run(monkeypatch, *arguments(demo, tmp_path / "out", **options))
    assert exited.value.code == 2
    assert_one_sentence(capfd.readouterr().err, "test_00000.mp4")
    assert not (tmp_path / "out").exists()

    run(monkeypatch, *arguments(demo, tmp_path / "out", **options, bad_eval_videos="score_as_missed"))
    rows = read(demo, "data/test_questions.json")
    missed = [number for number, row in enumerate(rows) if row["video"] == "test_00000.mp4"]
    predictions = read(tmp_path / "out", "predictions_test.json")
    assert {one["question_id"] for one in predictions} == set(range(len(rows))) - set(missed)
    results = read(tmp_path / "out", "results.json")["test"]
    assert results["num_missed"] == len(missed) > 0
    right = sum(one["answer"] == rows[one["question_id"]]["answer"] for one in predictions)
    assert results["accuracy"]["overall"] == round(100 * right / len(rows), 2)
    report = [json.loads(line) for line in (tmp_path / "out/bad_videos.jsonl").read_text().splitlines()]
    assert [(line["split"], Path(line["video"]).name) for line in report] == [("test", "test_00000.mp4")]
    assert f"test: bad videos: 1, whose {len(missed)} questions count as wrong" in capfd.readouterr().out


ROW = {"video": "test_00000.mp4", "question": "what?", "answer": "red"}


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, ["split test: there is no list of answers", "--answer_list"]),
        ({"answer_list": "none.json"}, ["none.json: there is no such answer list"]),
        ({"answer_list": "numbers.json"}, ["numbers.json, answer 2: must be a string"]),
        ({"answer_list": "other.json"}, ["split test: none of its answers, such as 'red', is in the answer list"]),
        ({"test_file": "empty_question.json"}, ["empty_question.json, row 2: `question` must be a string"]),
        ({"test_file": "number.json"}, ["number.json, row 1: `answer` must be a string or a list", "got 3"]),
        ({"train_file": "good.json", "answer_list": "other.json"}, ["split train: none of its answers, such as 'red'"]),
        ({"test_file": "option.json"}, ["option.json, row 1: `answer` must be one of the options", "got 'red'"]),
        ({"test_file": "captions.json"}, ["captions.json, row 1: `question` is missing"]),
        ({"train_file": "number.json"}, ["number.json, row 1: `answer`"]),
        ({"test_file": "alike.json"}, ["split test, row 1: the options 'up' and 'Up' are the same"]),
        ({"test_file": None}, ["--train_file", "--test_file"]),
        ({"stop_key": "tset"}, ["--stop_key tset", "test"]),
        ({"answer_list": "list.json", "num_frames_test": 6}, ["--num_frames_test 6", "multiple of --num_frames"]),
        ({"answer_list": "list.json", "max_text_length": 33}, ["--max_text_length 33: must be at most 32"]),
        (
            {"max_text_length": 8, "max_question_length": 9},
            ["--max_text_length 8", "which is 9"],
        ),
        ({"answer_list": "list.json", "model_name_or_path": None}, ["--model_name_or_path"]),
        ({"model_name_or_path": "no/such/model/anywhere"}, ["no/such/model/anywhere"]),
        ({"k_test": 0}, ["--k_test 0: must be at least 1"]),
        ({"dataset": "msrvtt"}, ["msrvtt: there is no such dataset for videoqa, but: agqa, anet_qa, msrvtt_qa"]),
        ({"dataset": "agqa", "test_file": None}, ["preset agqa, split test: data/anno_downstream/agqa_test"]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_one_sentence_and_exit_code_2(demo, tmp_path, monkeypatch, capfd, options, parts):
    monkeypatch.chdir(tmp_path)
    rows = {
        "good": [ROW],
        "empty_question": [ROW, ROW | {"question": " "}],
        "number": [ROW | {"answer": 3}],
        "option": [ROW | {"options": ["blue", "green"]}],
        "alike": [ROW | {"answer": 0, "options": ["up", "Up"]}],
        "captions": [{"video": "test_00000.mp4", "caption": "x"}],
        "list": ["red"],
        "numbers": ["red", 3],
        "other": ["yes", "no"],
    }
    for name, content in rows.items():
        Path(f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as exited:
        run(monkeypatch, *arguments(demo, **({"output_dir": tmp_path / "out", "test_file": "good.json"} | options)))
    assert exited.value.code == 2
    assert_one_sentence(capfd.readouterr().err, *parts)
    assert not (tmp_path / "out").exists()


# ---- Around the script


def test_answer_helper_of_the_page(demo, trained):
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    [snippet] = [one for one in snippets if "def answer(" in one]
    definition = snippet.split("\n\nprint(")[0].replace("demo/qa_out", str(trained))
    names = {}
    exec(definition, names)
    answer, video = names["answer"], str(demo / "data/videos/test_00000.mp4")
    assert isinstance(answer(video, "which way does it move first?"), str)
    ranked = answer(video, "which way does it move first?", ["up", "down", "left"])
    assert sorted(ranked) == ["down", "left", "up"] and sum(ranked.values()) == pytest.approx(1, abs=1e-5)
    assert list(ranked.values()) == sorted(ranked.values(), reverse=True)
    longer = [f"a red circle moves {way}" for way in ("left", "right", "left")]
    ranked = answer(video, "what happens?", longer)
    assert sorted(ranked) == longer[:2] and len(set(ranked.values())) == 2


COLORS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (60, 90, 230), "yellow": (235, 215, 50)}
FILLS = {"triangle": 0.5, "circle": 0.785, "square": 1.0}  # the share of its box that a shape fills


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def places_of(frames, color):
    """Of the pixels nearly of a colour, (T, 2) mean x and y; NaN where there are none."""
    is_it = np.abs(frames - COLORS[color]).max(axis=-1) < 40
    columns, rows = np.arange(frames.shape[2]), np.arange(frames.shape[1])[:, None]
    counts = np.where(is_it.sum(axis=(1, 2)) > 20, is_it.sum(axis=(1, 2)), np.nan)
    return np.stack([(is_it * axis).sum(axis=(1, 2)) / counts for axis in (columns, rows)], axis=1)


def shown(question, frames):
    """The answer, as the pixels tell it."""
    half = len(frames) // 2 - 2
    places = {color: places_of(frames, color) for color in COLORS}
    seen = [color for color in COLORS if np.isfinite(places[color][0]).all()]
    if question == "which way does it move first?":
        x, y = places[seen[0]][half] - places[seen[0]][0]
        return ("right" if x > 0 else "left") if abs(x) > abs(y) else ("down" if y > 0 else "up")
    if question == "what color hops first?":
        return max(seen, key=lambda color: np.ptp(places[color][:half, 1]))
    if question == "what color is it first?":
        return seen[0]
    fills = {}
    for color in seen:
        is_it = np.abs(frames[0] - COLORS[color]).max(axis=-1) < 40
        (top, bottom), (left, right) = (np.flatnonzero(is_it.any(axis=axis))[[0, -1]] for axis in (1, 0))
        share = is_it.sum() / ((bottom - top + 1) * (right - left + 1))
        fills[color] = min(FILLS, key=lambda kind: abs(FILLS[kind] - share))
    if question == "what shape is it?":
        return fills[seen[0]]
    [asked] = re.fullmatch(r"what color is the (\w+)\?", question).groups()
    return next(color for color in seen if fills[color] == asked)


def test_the_demos_questions_are_answered_by_what_the_clips_show(demo):
    kinds = set()
    for split in ("train", "test"):
        twins = {row["video"]: row["twin"] for row in read(demo, f"data/{split}.json")}
        rows = read(demo, f"data/{split}_questions.json")
        answers = {(row["video"], row["question"]): row["answer"] for row in rows}
        for row in rows:
            kinds.add(row["question"])
            assert shown(row["question"], frames_of(demo / "data/videos" / row["video"])) == row["answer"], row
            of_twin = answers[twins[row["video"]], row["question"]]
            assert (of_twin != row["answer"]) == (row["question_type"] == "order")
    assert len(kinds) == 7
