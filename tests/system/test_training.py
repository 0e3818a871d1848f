# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Training in processes of its own: killed, told to stop, and ended by what fails in one of them."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ONE, TWO = [sys.executable], [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
ACCELERATE += ["--config_file", str(ROOT / "configs/cpu_2_processes.yaml")]
# The order in which threads add up is part of what must not differ.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


def words(demo, output_dir, script="pretraining", **options):
    """A script and its options; an option `True` is a switch, and `None` leaves one out."""
    options = {
        "model_name_or_path": demo / "model",
        "train_file": demo / "data/train.json",
        "video_dir": demo / "data/videos",
        "output_dir": output_dir,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
    } | options
    pairs = ((f"--{name}", value) for name, value in options.items() if value is not None)
    return [str(ROOT / f"run_{script}.py"), *(str(part) for pair in pairs for part in pair if part is not True)]


def start(command, log):
    output = log.open("w")
    return subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)


def finish(command):
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


def wait_for_step(process, log, step):
    """Until the log tells of an update; whether the process still runs."""
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        if log.read_text().count(": loss ") >= step:
            return True
        time.sleep(0.02)
    return process.poll() is None


# ---- Killed, and told to stop


def test_two_processes_that_are_killed_and_resumed_end_with_the_same_best(demo, tmp_path):
    options = {"validation_file": demo / "data/val.json", "stop_key": "validation", "k_test": 2}
    options |= {"num_train_epochs": 4, "per_device_train_batch_size": 2, "save_steps": 1}
    options |= {"resume_from_checkpoint": "latest"}
    finish([*TWO, *words(demo, tmp_path / "whole", **options)])
    killed, rng = words(demo, tmp_path / "killed", **options), random.Random(0)
    for _ in range(3):
        process = start([*TWO, *killed], tmp_path / "killed.txt")
        assert wait_for_step(process, tmp_path / "killed.txt", rng.randint(1, 4))
        time.sleep(rng.uniform(0, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finish([*TWO, *killed])
    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert weights.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("killed", "whole")]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("command", "whole_group"), [(ONE, False), (ONE, True), (TWO, False)], ids=["process", "group", "two processes"]
)
def test_sigterm_saves_and_exits_with_0(demo, tmp_path, command, whole_group):
    options = {"max_steps": 400, "dataloader_num_workers": 1, "resume_from_checkpoint": "latest"}
    process = start([*command, *words(demo, tmp_path / "out", **options)], tmp_path / "out.txt")
    assert wait_for_step(process, tmp_path / "out.txt", 2), (tmp_path / "out.txt").read_text()
    # Schedulers signal the workers of loaders, too. A launcher passes the signal on to its processes.
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    code = process.wait(timeout=60)
    printed = (tmp_path / "out.txt").read_text()
    assert command == TWO or code == 0, printed  # torchrun itself ends with the signal
    step = int(printed.partition("stopped after update ")[2].partition(";")[0])
    assert (tmp_path / f"out/checkpoint-{step}/complete").is_file()
    options["max_steps"] = step + 2  # the rates of the cosine are those of the run that resumes
    finish([*command, *words(demo, tmp_path / "out", **options)])
    state = json.loads((tmp_path / f"out/checkpoint-{step + 2}/trainer_state.json").read_text())
    assert sorted({line["step"] for line in state["log_history"]}) == list(range(1, step + 3))


# ---- What fails in one process


@pytest.mark.parametrize("launcher", [TWO, ACCELERATE], ids=["torchrun", "accelerate"])
def test_a_process_that_dies_ends_its_launcher_within_a_minute(demo, tmp_path, launcher):
    run = start([*launcher, *words(demo, tmp_path / "out", num_train_epochs=500)], tmp_path / "out.txt")
    assert wait_for_step(run, tmp_path / "out.txt", 2), (tmp_path / "out.txt").read_text()
    family = psutil.Process(run.pid).children(recursive=True)
    [victim] = [one for one in family if one.environ().get("RANK") == "1" and "--output_dir" in one.cmdline()]
    victim.kill()
    assert run.wait(timeout=60) not in (0, None)
    assert not psutil.wait_procs(family, timeout=10)[1]  # none goes on alone


def launch_as_processes(args):
    """Start two processes as torchrun does, so that the exit code of each can be seen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in ("0", "1"):
        environment = ENVIRONMENT | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([sys.executable, *args], env=environment, **pipes))
    outputs = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.mark.parametrize("number", [3, 7])
def test_a_bad_video_ends_all_processes_with_one_sentence(demo, tmp_path, number):
    shutil.copytree(demo / "data/videos", tmp_path / "videos")
    (tmp_path / f"videos/train_{number:05d}.mp4").write_bytes(b"no video")
    options = {"video_dir": tmp_path / "videos", "dataloader_num_workers": 1, "bad_videos": "error"}
    outcomes = launch_as_processes(words(demo, tmp_path / "out", num_train_epochs=1, **options))
    assert [code for code, _, _ in outcomes] == [2, 2], outcomes
    sentences = [re.findall(r"^run_pretraining.py: .*$", errors, re.MULTILINE) for _, _, errors in outcomes]
    assert len(sentences[0]) == 1 and f"train_{number:05d}.mp4" in sentences[0][0] and sentences[1] == []
    assert not any("Traceback" in errors for _, _, errors in outcomes)


# Kills the processes that decode videos, as systems do that run out of memory, when it first looks at clips.
KILLING = """
import runpy, signal, sys, psutil
from svitt import SViTTVisionModel
encode = SViTTVisionModel.forward

def killing(self, *args, **kwargs):
    for worker in psutil.Process().children():
        worker.send_signal(signal.SIGKILL)
    return encode(self, *args, **kwargs)

SViTTVisionModel.forward = killing
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_worker_that_the_system_kills_is_told(demo, tmp_path):
    args = words(demo, tmp_path / "out", dataloader_num_workers=1, num_train_epochs=9)
    command = [sys.executable, "-c", KILLING, *args]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 2, done.stderr
    [sentence] = [line for line in done.stderr.splitlines() if line.startswith("run_")]
    assert "DataLoader worker" in sentence and "memory" in sentence and "Traceback" not in done.stderr
