# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Training in two processes that are told to stop, or of which one meets a bad video; the contract suite kills them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from ..conftest import ROOT

pytestmark = pytest.mark.slow

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# The order in which threads add up is part of what must not differ.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


def words(demo, output_dir, **options):
    options = {
        "model_name_or_path": demo / "model",
        "train_file": demo / "data/train.json",
        "video_dir": demo / "data/videos",
        "output_dir": output_dir,
        "per_device_train_batch_size": 4,
        "dataloader_num_workers": 1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
    } | options
    return [str(ROOT / "run_pretraining.py"), *(f"--{name}={value}" for name, value in options.items())]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_processes_that_are_told_to_stop_save_and_are_resumed(demo, tmp_path, number):
    log, options = tmp_path / "out.txt", {"max_steps": 400, "resume_from_checkpoint": "latest"}
    with log.open("w") as output:
        command = [*TWO, *words(demo, tmp_path / "out", **options)]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=output, process_group=0)
        while log.read_text().count(": loss ") < 2:
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does; the launcher passes it on once more
        else:
            process.terminate()  # the launcher passes the signal on to its processes
        process.wait(timeout=60)
    step = int(log.read_text().partition("saved after update ")[2].partition(";")[0])
    assert (tmp_path / f"out/checkpoint-{step}/complete").is_file()
    options["max_steps"] = step + 2  # the rates of the cosine are those of the run that resumes
    subprocess.run([*TWO, *words(demo, tmp_path / "out", **options)], env=ENVIRONMENT, check=True, timeout=400)
    state = json.loads((tmp_path / f"out/checkpoint-{step + 2}/trainer_state.json").read_text())
    assert sorted({line["step"] for line in state["log_history"]}) == list(range(1, step + 3))


def run_in_two_processes(args):
    """Start them as torchrun does, but so that the exit code and the words of each can be seen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = []
    for rank in ("0", "1"):
        environment = ENVIRONMENT | address | {"RANK": rank, "LOCAL_RANK": rank}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([sys.executable, *args], env=environment, **pipes))
    errors = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], errors


@pytest.mark.parametrize("number", [3, 7])
def test_a_bad_video_ends_all_processes_with_one_sentence(demo, tmp_path, number):
    shutil.copytree(demo / "data/videos", tmp_path / "videos")
    (tmp_path / f"videos/train_{number:05d}.mp4").write_bytes(b"no video")
    options = {"num_train_epochs": 1, "video_dir": tmp_path / "videos", "bad_videos": "error"}
    codes, errors = run_in_two_processes(words(demo, tmp_path / "out", **options))
    assert codes == [2, 2] and not any("Traceback" in error for error in errors), errors
    sentences = [re.findall(r"^run_pretraining.py: .*$", error, re.MULTILINE) for error in errors]
    assert len(sentences[0]) == 1 and f"train_{number:05d}.mp4" in sentences[0][0] and sentences[1] == []
