# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""run_pretraining.py on real clips: corpora, curricula, and runs that are killed, stopped and resumed."""

import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from svitt import SViTTForPreTraining, SViTTProcessor
from svitt.data.presets import load_preset, preset_names

ROOT = Path(__file__).parent.parent
SCRIPT = str(ROOT / "run_pretraining.py")
TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def arguments(demo, output_dir, **options):
    """A command line; an option `True` is a switch, and `None` leaves one out."""
    options = {
        "model_name_or_path": demo / "model",
        "train_file": demo / "data/train.json",
        "video_dir": demo / "data/videos",
        "output_dir": output_dir,
        "train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
    } | options
    pairs = ((f"--{name}", value) for name, value in options.items() if value is not None)
    return [str(part) for pair in pairs for part in pair if part is not True]


def run(monkeypatch, *args):
    """Run the script in this process; a process of its own takes seconds to import all."""
    AcceleratorState._reset_state(True)
    monkeypatch.setattr(sys, "argv", [SCRIPT, *args])
    runpy.run_path(SCRIPT, run_name="__main__")


def log_of(folder):
    """The lines of a log but for times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in ("clips_per_second", "data_wait")} for line in lines]


def assert_same_weights(folder, expected):
    weights, expected = (load_file(path / "model.safetensors") for path in (folder, expected))
    assert weights.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []


def packed(demo, folder):
    """Four shards of the training clips, described by a dataset file."""
    command = [sys.executable, "-c", "from svitt.data.shards import main; main()", "--output_dir", str(folder)]
    source = ["--annotation_file", str(demo / "data/train.json"), "--video_dir", str(demo / "data/videos")]
    subprocess.run([*command, *source, "--samples_per_shard", "4", "--num_workers", "1"], check=True)
    file = folder / "dataset.yaml"
    file.write_text("splits: {train: {shards: 'train-*.tar'}}\n")
    return file


# ---- What a run does


def test_a_run_writes_model_log_results_and_settings(demo, tmp_path, monkeypatch, capsys):
    options = {"validation_file": demo / "data/val.json", "k_test": 3}
    run(monkeypatch, *arguments(demo, tmp_path / "out", num_train_epochs=2, save_total_limit=2, **options))
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "log.jsonl", "results.json", "settings.yaml", "checkpoint-4", "checkpoint-8"} <= names
    training = [line for line in log_of(out) if "loss" in line]
    assert [line["step"] for line in training] == list(range(1, 9))
    for line in training:
        assert line["loss"] == pytest.approx(line["loss_itc"] + line["loss_itm"] + line["loss_mlm"], rel=1e-5)
        assert {"grad_norm", "learning_rate", "temperature", "skipped_updates", "bad_videos"} <= line.keys()
    evaluations = [line for line in log_of(out) if "validation/itm_r_mean" in line]
    assert [(line["step"], line["epoch"]) for line in evaluations] == [(4, 1), (8, 2)]
    results = json.loads((out / "results.json").read_text())
    assert results["validation"]["itm"]["r_mean"] == evaluations[-1]["validation/itm_r_mean"]
    assert "R@10" in capsys.readouterr().out
    settings = yaml.safe_load((out / "settings.yaml").read_text())
    assert (settings["train_batch_size"], settings["k_test"], settings["seed"]) == (4, 3, 42)

    run(monkeypatch, "--config", str(out / "settings.yaml"), "--output_dir", str(tmp_path / "again"))
    assert_same_weights(tmp_path / "again", out)


def test_corpora_of_videos_images_and_shards_are_mixed(demo, tmp_path, monkeypatch):
    shards = packed(demo, tmp_path / "shards").parent
    images = tmp_path / "images"
    images.mkdir()
    from PIL import Image

    rows = []
    for number, color in enumerate(["red", "green", "blue", "yellow"] * 2):
        Image.new("RGB", (40, 40), color).save(images / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": f"a {color} square"})
    (tmp_path / "images.json").write_text(json.dumps(rows))
    dataset = tmp_path / "dataset.yaml"
    dataset.write_text(
        "splits:\n"
        f"  train: {{annotation: {demo}/data/train.json, videos: {demo}/data/videos}}\n"
        f"  train_images: {{annotation: images.json, videos: images, medium: image}}\n"
        f"  train_shards: {{shards: '{shards}/train-*.tar', weight: 3}}\n"
        "settings: {train_batch_size: 4, learning_rate: 1.0e-3}\n"
    )
    frames, forward = [], SViTTForPreTraining.forward

    def recording_forward(self, pixel_values, *args, **kwargs):
        frames.append(pixel_values.shape[1])
        return forward(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(SViTTForPreTraining, "forward", recording_forward)
    options = {"train_file": None, "video_dir": None, "train_batch_size": None, "dataset_file": dataset}
    run(monkeypatch, *arguments(demo, tmp_path / "out", max_steps=12, **options))
    assert len(frames) == 12 and set(frames) == {1, 4}


@pytest.mark.parametrize("name", preset_names("pretraining"))
def test_presets_are_settings_of_the_script(demo, tmp_path, monkeypatch, name):
    """One step of each, from the command line to the model; the sizes are those of the demo."""
    options = {"train_batch_size": 2, "max_steps": 1, "warmup_steps": 0, "learning_rate": None, "dataset": name}
    data = tmp_path / "data"
    for file, videos in (("anno_pretrain/webvid_train", "webvid"), ("anno_downstream/msrvtt_test1k", "msrvtt")):
        (data / file).parent.mkdir(parents=True)
        shutil.copy(demo / "data/val.json", data / f"{file}.json")
        (data / f"{videos}_videos").symlink_to(demo / "data/videos")
    options |= {"train_file": None, "video_dir": None, "data_dir": data, "max_text_length": 16, "k_test": 2}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **options))
    settings = load_preset("pretraining", name).settings
    config = SViTTForPreTraining.from_pretrained(tmp_path / "out").config
    assert config.mlm_prob == settings["mlm_prob"]
    assert config.vision_config.num_frames == settings["num_frames"]
    assert config.vision_config.token_keep_rate == settings["token_keep_rate"]
    assert "msrvtt_test1k" in json.loads((tmp_path / "out/results.json").read_text())


def test_curriculum_expands_and_is_resumed_by_stage(demo, tmp_path, monkeypatch, capsys):
    stages = tmp_path / "stages.yaml"
    stages.write_text(
        "- {num_frames: 2, num_train_epochs: 1}\n- {num_frames: 4, token_keep_rate: 0.6, learning_rate: 5.0e-4}\n"
    )
    options = {"curriculum": stages, "save_steps": 1, "resume_from_checkpoint": "latest"}
    run(monkeypatch, *arguments(demo, tmp_path / "whole", **options))
    first = SViTTForPreTraining.from_pretrained(tmp_path / "whole/stage_1").config.vision_config
    second = SViTTForPreTraining.from_pretrained(tmp_path / "whole").config.vision_config
    assert (first.num_frames, second.num_frames, second.token_keep_rate) == (2, 4, 0.6)
    assert SViTTProcessor.from_pretrained(tmp_path / "whole").video_processor.num_frames == 4
    assert "stage 2 of 2" in capsys.readouterr().out

    for killed_at in (2, 5):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(SViTTForPreTraining, "forward", killed_forward(killed_at))
            run(monkeypatch, *arguments(demo, tmp_path / "killed", **options))
    run(monkeypatch, *arguments(demo, tmp_path / "killed", **options))
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")
    for stage in ("", "stage_1"):
        assert log_of(tmp_path / "killed" / stage) == log_of(tmp_path / "whole" / stage)


class Killed(BaseException):
    pass


def killed_forward(number):
    calls, forward = [], SViTTForPreTraining.forward

    def killing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return forward(self, *args, **kwargs)

    return killing


def test_a_batch_that_is_not_finite_is_skipped_and_named(demo, tmp_path, monkeypatch, capsys):
    forward = SViTTForPreTraining.forward
    calls = []

    def forward_to_nan(self, *args, **kwargs):
        outputs = forward(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            outputs.loss = outputs.loss * float("nan")
        return outputs

    monkeypatch.setattr(SViTTForPreTraining, "forward", forward_to_nan)
    run(monkeypatch, *arguments(demo, tmp_path))
    assert log_of(tmp_path)[-1]["skipped_updates"] == 1
    printed = capsys.readouterr().out
    assert "update 2 of epoch 1: the loss or its gradient is not finite; skipped. Its clips: " in printed
    assert ".mp4" in printed.partition("Its clips: ")[2].splitlines()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_file": None, "video_dir": None}, "There is nothing to train on"),
        ({"stop_key": "nosuch"}, "--stop_key nosuch: there is no such split"),
        ({"report_to": "nosuch"}, "--report_to nosuch"),
        ({"model_name_or_path": None}, "Give one of --model_name_or_path"),
        ({"larger_lr": 1.0, "larger_lr_names": "wings"}, "--larger_lr_names: 'wings' is part of no trainable"),
        ({"larger_lr": 1.0}, "--larger_lr and --larger_lr_names go together"),
        ({"config": "nosuch.yaml"}, "nosuch.yaml: cannot be read"),
        ({"dataset_file": "weights.yaml"}, "`weight` is for mixes with streams"),
        ({"curriculum": "stages.yaml"}, "stage 1: there is no option `wings`"),
    ],
)
def test_wrong_options_are_named(demo, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    Path("stages.yaml").write_text("- {wings: 2}\n")
    Path("weights.yaml").write_text(f"splits: {{train_more: {{annotation: {demo}/data/train.json, weight: 2}}}}\n")
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments(demo, tmp_path / "out", **options))
    assert ended.value.code == 2 and message in capsys.readouterr().err


# ---- Processes that end


def environment():
    # The order in which threads add up is part of what must not differ.
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(command, args, log):
    return subprocess.Popen(
        [*command, SCRIPT, *args], env=environment(), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
    )


def finish(command, args):
    done = subprocess.run(
        [*command, SCRIPT, *args], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for_step(process, folder, step):
    """Until the log tells of an update; returns whether the process still runs."""
    end = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < end:
        if (folder / "log.jsonl").is_file() and any(line["step"] >= step for line in whole_lines(folder)):
            return True
        time.sleep(0.02)
    return process.poll() is None


def whole_lines(folder):
    text = (folder / "log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def kill_and_resume(demo, folder, command, options, num_kills, seed):
    """Kill a run at random updates and moments, resume it, and compare it with one that was left alone."""
    options = options | {"num_train_epochs": 3, "save_steps": 2, "resume_from_checkpoint": "latest"}
    finish(command, arguments(demo, folder / "whole", **options))
    num_updates = max(line["step"] for line in whole_lines(folder / "whole"))
    rng = random.Random(seed)
    with (folder / "killed.txt").open("w") as log:
        for step in sorted(rng.randint(0, num_updates - 1) for _ in range(num_kills)):
            process = start(command, arguments(demo, folder / "killed", **options), log)
            if wait_for_step(process, folder / "killed", step):
                time.sleep(rng.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    finish(command, arguments(demo, folder / "killed", **options))
    assert_same_weights(folder / "killed", folder / "whole")
    assert log_of(folder / "killed") == log_of(folder / "whole")


def corpus(demo, folder, kind):
    if kind == "annotations":
        return {}
    return {"train_file": None, "video_dir": None, "num_train_epochs": None, "dataset_file": packed(demo, folder)}


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_killed_twice_and_resumed(demo, tmp_path, num_workers):
    options = {"num_workers": num_workers, "validation_file": demo / "data/val.json"}
    kill_and_resume(demo, tmp_path, [sys.executable], options, 2, seed=num_workers)


@pytest.mark.long
@pytest.mark.parametrize("command", [[sys.executable], TWO_PROCESSES], ids=["one", "two"])
@pytest.mark.parametrize("kind", ["annotations", "shards"])
def test_killed_ten_times_and_resumed(demo, tmp_path, kind, command):
    options = corpus(demo, tmp_path / "shards", kind) | ({"max_steps": 12} if kind == "shards" else {})
    kill_and_resume(demo, tmp_path, command, options, 10, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True], ids=["process", "group"])
def test_sigterm_saves_and_exits_with_0_in_time(demo, tmp_path, whole_group):
    options = {"num_train_epochs": 200, "num_workers": 1, "resume_from_checkpoint": "latest"}
    with (tmp_path / "output.txt").open("w") as log:
        process = start([sys.executable], arguments(demo, tmp_path / "out", **options), log)
        assert wait_for_step(process, tmp_path / "out", 2), (tmp_path / "output.txt").read_text()
        before = time.monotonic()
        # Schedulers signal the workers of loaders, too.
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
        assert process.wait(timeout=30) == 0, (tmp_path / "output.txt").read_text()
    assert time.monotonic() - before < 30
    printed = (tmp_path / "output.txt").read_text()
    step = int(printed.partition("stopped after update ")[2].partition(";")[0])
    assert (tmp_path / f"out/checkpoint-{step}").is_dir()
    options["num_train_epochs"] = step // 4 + 1
    finish([sys.executable], arguments(demo, tmp_path / "out", **options))
    assert [line["step"] for line in log_of(tmp_path / "out")] == list(range(1, 4 * (step // 4 + 1) + 1))
