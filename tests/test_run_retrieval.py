# Copyright 2026 The SViTT for Transformers authors. Licensed under the Apache License, Version 2.0.
"""run_retrieval.py on real clips: evaluation, fine-tuning, one and two processes, bad input."""

import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from svitt import SViTTForVideoTextRetrieval
from svitt.processing_svitt import SViTTProcessor, sample_frame_indices
from svitt.training.processes import gather_shares, share_of, write_whole

ROOT = Path(__file__).parent.parent
SCRIPT = str(ROOT / "run_retrieval.py")


def arguments(demo, output_dir, **options):
    """A command line; an option `True` is a switch, and `None` leaves one out."""
    options = {
        "model_name_or_path": demo / "model",
        "video_dir": demo / "data/videos",
        "output_dir": output_dir,
        "num_frames_test": 8,
        "k_test": 5,
        "eval_batch_size": 4,
    } | options
    pairs = ((f"--{name}", value) for name, value in options.items() if value is not None)
    return [str(part) for pair in pairs for part in pair if part is not True]


def run(monkeypatch, *args):
    """Run the script in this process; a process of its own takes seconds to import all."""
    AcceleratorState._reset_state(True)
    monkeypatch.setattr(sys, "argv", [SCRIPT, *args])
    runpy.run_path(SCRIPT, run_name="__main__")


def launch(command, *args):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [*command, SCRIPT, *args]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


def launch_as_processes(count, *args):
    """Start processes as torchrun does, so that the exit code of each can be seen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(count):
        environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, SCRIPT, *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, env=environment, text=True, **pipes))
    outputs = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.fixture(scope="session")
def evaluated(demo, tmp_path_factory):
    """Results and scores of one process."""
    output_dir = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, *arguments(demo, output_dir, test_file=demo / "data/test.json", save_scores=True))
    return json.loads((output_dir / "results.json").read_text()), load_file(output_dir / "scores_test.safetensors")


def test_evaluation_writes_results_and_prints_chance_beside_them(demo, tmp_path, monkeypatch, capsys):
    run(monkeypatch, *arguments(demo, tmp_path / "out", test_file=demo / "data/test.json", evaluate_only=True))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["num_processes"] == 1 and "epoch" not in results
    assert results["test"]["chance"]["txt_r1"] == pytest.approx(100 / 14, abs=0.01)
    assert set(results["test"]) == {"itm", "itc", "chance"}
    assert results["test"]["itm"]["txt_r10"] == results["test"]["itm"]["txt_r5"]  # k_test is 5
    printed = capsys.readouterr().out
    assert "R@10" in printed and f"{results['test']['itc']['img_r5']:8.2f}" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["accelerate", "launch", "--config_file", str(ROOT / "configs/cpu_2_processes.yaml")],
        ["torchrun", "--standalone", "--nproc_per_node", "2"],
    ],
    ids=["accelerate", "torchrun"],
)
def test_two_processes_give_the_same_scores(demo, evaluated, tmp_path, command):
    launched = launch(command, *arguments(demo, tmp_path, test_file=demo / "data/test.json", save_scores=True))
    assert launched.returncode == 0, launched.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["num_processes"] == 2
    expected_results, expected_scores = evaluated
    assert results["test"] == expected_results["test"]
    scores = load_file(tmp_path / "scores_test.safetensors")
    for name, expected in expected_scores.items():
        assert torch.equal(scores[name].isinf(), expected.isinf())
        torch.testing.assert_close(scores[name], expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_launcher_that_starts_one_process_of_two_is_called_out(demo, evaluated, tmp_path):
    command = ["accelerate", "launch", "--cpu", "--num_processes", "2"]
    launched = launch(command, *arguments(demo, tmp_path, test_file=demo / "data/test.json"))
    assert launched.returncode == 0, launched.stderr
    assert "asked for several processes, but this one works alone" in launched.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["num_processes"], results["test"]) == (1, evaluated[0]["test"])


def test_fine_tuning_keeps_the_best_epoch_and_saves_a_model(demo, tmp_path, monkeypatch, capsys):
    files = {f"{split}_file": demo / f"data/{file}.json" for split, file in (("train", "train"), ("validation", "val"))}
    options = {"learning_rate": 1e-3, "num_train_epochs": 2, "train_batch_size": 8, "num_frames_test": None}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **files, **options, max_text_length=16, flip_prob=0.0))
    results = json.loads((tmp_path / "out/results.json").read_text())
    printed = capsys.readouterr().out
    scores = [
        float(score) for score in re.findall(r"^step \d+, validation (\S+?),?(?: saved)?$", printed, re.MULTILINE)
    ]
    assert results["epoch"] == 1 + scores.index(max(scores))
    assert results["validation"]["itm"]["r_mean"] == max(scores)

    trained = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "out")
    untrained = SViTTForVideoTextRetrieval.from_pretrained(demo / "model")
    assert (trained.vision_proj.weight - untrained.vision_proj.weight).abs().max() > 1e-4
    assert SViTTProcessor.from_pretrained(tmp_path / "out")(text="a", padding="max_length")["input_ids"][15:] == [0]
    assert not (tmp_path / "out/.incomplete").exists()

    # The saved folder is a model to start from.
    again = arguments(demo, tmp_path / "again", **{**files, "train_file": None}, num_frames_test=None)
    run(monkeypatch, *again, "--model_name_or_path", str(tmp_path / "out"))
    assert json.loads((tmp_path / "again/results.json").read_text())["validation"] == results["validation"]


def test_dataset_file_gives_splits_and_settings_that_the_command_line_overrides(demo, tmp_path, monkeypatch):
    (tmp_path / "demo.yaml").write_text(
        "splits:\n"
        "  train: {annotation: train.json, videos: videos}\n"
        "  val_small: {annotation: val.json, videos: videos}\n"
        "settings: {num_train_epochs: 2, train_batch_size: 8, learning_rate: 1e-3, token_keep_rate: 0.9,\n"
        "           fusion_token_keep_rate: 0.5, match_by: caption, k_test: 3, stop_key: val_small}\n"
    )
    options = {"dataset_file": tmp_path / "demo.yaml", "data_dir": demo / "data", "video_dir": None}
    options |= {"num_train_epochs": 1, "num_frames_test": None, "k_test": None}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **options))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["epoch"] == 1 and set(results) == {"num_processes", "epoch", "val_small"}
    assert results["val_small"]["itm"]["txt_r5"] == results["val_small"]["itm"]["txt_r10"]  # k_test is 3
    config = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "out").config
    assert (config.vision_config.token_keep_rate, config.text_config.token_keep_rate) == (0.9, 0.5)


@pytest.mark.slow
def test_two_processes_fine_tune_one_model(demo, tmp_path):
    options = {"train_file": demo / "data/train.json", "num_train_epochs": 1, "train_batch_size": 4}
    outcomes = launch_as_processes(2, *arguments(demo, tmp_path, **options, test_file=demo / "data/test.json"))
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert json.loads((tmp_path / "results.json").read_text())["num_processes"] == 2
    assert "epoch 1, step 2" in outcomes[0][1] and outcomes[1][1] == ""


def song(path):
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=44100)
        samples = np.zeros((1, 44100), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


BAD_VIDEOS = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:2000]),
    "text": lambda path: path.write_text("not a video"),
    "mp3": song,
}


@pytest.fixture
def bad_video(demo, tmp_path, request):
    """A copy of the clips, one of which is bad; returns their folder."""
    shutil.copytree(demo / "data/videos", tmp_path / "videos")
    bad = tmp_path / "videos/test_00003.mp4"
    if bad.is_file():
        BAD_VIDEOS[request.param](bad)
    return tmp_path / "videos"


def assert_one_sentence(stderr, *parts):
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("run_retrieval.py: ") and lines[0].endswith("."), lines
    assert all(part in lines[0] for part in parts), lines


@pytest.mark.parametrize("bad_video", BAD_VIDEOS, indirect=True)
def test_bad_video_is_one_sentence_and_exit_code_2(demo, bad_video, tmp_path, monkeypatch, capfd):
    args = arguments(demo, tmp_path / "out", test_file=demo / "data/test.json", video_dir=bad_video)
    with pytest.raises(SystemExit) as exited:
        run(monkeypatch, *args)
    assert exited.value.code == 2
    assert_one_sentence(capfd.readouterr().err, "test_00003.mp4")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad_video", ["missing", "truncated"], indirect=True)
def test_bad_videos_are_skipped_or_missed_and_reported(demo, bad_video, tmp_path, monkeypatch, capfd):
    (bad_video / "train_00003.mp4").unlink()
    files = {"train_file": demo / "data/train.json", "test_file": demo / "data/test.json", "video_dir": bad_video}
    options = {"num_train_epochs": 1, "train_batch_size": 8, "bad_eval_videos": "score_as_missed"}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **files, **options))
    lines = [json.loads(line) for line in (tmp_path / "out/bad_videos.jsonl").read_text().splitlines()]
    assert [(line["split"], line["epoch"], Path(line["video"]).name) for line in lines] == [
        ("train", 1, "train_00003.mp4"),
        ("test", None, "test_00003.mp4"),
    ]
    printed = capfd.readouterr().out
    assert "bad videos skipped: 1 (see" in printed and "test: bad videos that count as missed: 1" in printed


@pytest.mark.slow
@pytest.mark.parametrize("bad_video", ["truncated"], indirect=True)
@pytest.mark.parametrize("split", ["train", "test"])
def test_bad_video_ends_all_processes(demo, bad_video, tmp_path, split):
    (bad_video / "train_00003.mp4").write_bytes(b"")
    options = {f"{split}_file": demo / f"data/{split}.json", "video_dir": bad_video, "train_batch_size": 4}
    options |= {"num_workers": 1, "bad_videos": "error"}
    outcomes = launch_as_processes(2, *arguments(demo, tmp_path / "out", **options))
    assert [code for code, _, _ in outcomes] == [2, 2], outcomes
    assert_one_sentence(outcomes[0][2], f"{split}_00003.mp4")
    assert outcomes[1][2] == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"test_file": "none.json"}, ["none.json", "no such annotation file"]),
        ({"stop_key": "tset"}, ["--stop_key tset", "validation, test"]),
        ({"num_frames_test": 6}, ["--num_frames_test 6", "multiple of --num_frames"]),
        ({"model_name_or_path": "no/such/model/anywhere"}, ["no/such/model/anywhere"]),
        ({"validation_file": None, "test_file": None}, ["--train_file", "--test_file"]),
        ({"output_dir": SCRIPT}, ["--output_dir"]),
        ({"train_file": "missing_key.json"}, ["missing_key.json", "row 2", "`caption`"]),
        ({"test_file": "duplicate.json"}, ["duplicate.json", "row 2", "`video`"]),
        ({"dataset": "msrvt"}, ["msrvt", "retrieval, but: anet, charades"]),
        ({"dataset": "didemo", "evaluate_only": True}, ["preset didemo, split val: data", "no such annotation file"]),
        ({"dataset": "msrvtt_mc", "test_file": None}, ["preset msrvtt_mc, split test", "multiple_choice"]),
        ({"token_keep_rate": 0.0}, ["--token_keep_rate 0.0", "above 0"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_one_sentence_and_exit_code_2(demo, tmp_path, monkeypatch, capfd, options, parts):
    monkeypatch.chdir(tmp_path)
    row = {"video": "train_00000.mp4", "caption": "x"}
    Path("missing_key.json").write_text(json.dumps([row, {"video": "train_00001.mp4"}]))
    Path("duplicate.json").write_text(json.dumps([row, row]))
    files = {"validation_file": demo / "data/val.json", "test_file": demo / "data/test.json"}
    with pytest.raises(SystemExit) as exited:
        run(monkeypatch, *arguments(demo, **({"output_dir": tmp_path / "out"} | files | options)))
    assert exited.value.code == 2
    assert_one_sentence(capfd.readouterr().err, *parts)
    assert not (tmp_path / "out").exists()


def test_interrupted_writing_leaves_the_old_files_whole(tmp_path):
    write_whole(tmp_path, lambda folder: (folder / "weights").write_text("old"))

    def interrupted(folder):
        (folder / "weights").write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path, interrupted)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"weights": "old"}


def test_shares_are_put_together_in_order():
    assert gather_shares(share_of(list(range(5)))) == list(range(5))


def test_demo_clips_come_with_their_reversals(demo):
    annotations = json.loads((demo / "data/test.json").read_text())
    captions = {row["video"]: row["caption"] for row in annotations}
    assert len(set(captions.values())) == len(annotations) == 14

    def frames(name):
        with av.open(str(demo / "data/videos" / name)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)

    for row in annotations:
        clip, twin = frames(row["video"]), frames(row["twin"])
        assert len(clip) == 24 and captions[row["twin"]] != row["caption"]
        assert np.abs(clip - twin[::-1]).mean() < 3
        assert sorted(captions[row["twin"]].split())[:3] == sorted(row["caption"].split())[:3]
        # Frames sampled for evaluation show the same moments, forwards and backwards.
        for count in (4, 8, 12):
            picks = sample_frame_indices(count, 24)
            assert np.abs(clip[picks] - twin[picks][::-1]).mean() < 3
