# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What surrounds a run fails: full and read-only disks, processes that are killed, clocks that jump."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from svitt.conversion import main as convert_main
from svitt.data.check import main as check_main
from svitt.data.loaders import RowLoader
from svitt.data.shards import main as pack_main
from svitt.distributed import check_output
from svitt.errors import InputError
from svitt.search import SViTTIndex

from . import test_run_pretraining as pretraining
from . import test_run_retrieval as retrieval
from . import test_run_videoqa as videoqa

ROOT = Path(__file__).parent.parent


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many kB, or mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes, options="rw"):
        remount = "remount," if folder.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{remount}{options},size={kilobytes}k", "tmpfs", folder]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


def assert_one_sentence(errors, *parts):
    [sentence] = [line for line in errors.splitlines() if line.startswith("run_") or "cannot be written" in line]
    assert "Traceback" not in errors and all(part in sentence for part in parts), errors


# ---- Disks


@pytest.mark.parametrize("room", [1.5, 2.5])  # in checkpoints: the disk is full in the second, or in the third
def test_a_disk_that_is_full_leaves_the_checkpoint_before(demo, small_disk, tmp_path, monkeypatch, capfd, room):
    options = {"save_steps": 1, "save_total_limit": 9, "resume_from_checkpoint": "latest"}
    pretraining.run(monkeypatch, *pretraining.arguments(demo, tmp_path / "whole", **options))
    kilobytes = sum(path.stat().st_size for path in (tmp_path / "whole/checkpoint-1").iterdir()) / 1000
    out = small_disk(round(room * kilobytes)) / "out"
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        pretraining.run(monkeypatch, *pretraining.arguments(demo, out, **options))
    step = int(room) + 1
    assert ended.value.code == 2
    assert_one_sentence(capfd.readouterr().err, f"{out}/checkpoint-{step}: cannot be written")
    assert sorted(path.name for path in out.glob("checkpoint-*")) == [
        f"checkpoint-{number}" for number in range(1, step)
    ]

    small_disk(100_000)
    pretraining.run(monkeypatch, *pretraining.arguments(demo, out, **options))
    pretraining.assert_same_weights(out, tmp_path / "whole")
    assert pretraining.log_of(out) == pretraining.log_of(tmp_path / "whole")


def test_a_disk_too_full_for_results_leaves_none(demo, small_disk, monkeypatch, capfd):
    out = small_disk(4) / "out"
    test = {"test_file": demo / "data/test.json", "save_scores": True}
    with pytest.raises(SystemExit) as ended:
        retrieval.run(monkeypatch, *retrieval.arguments(demo, out, **test))
    assert ended.value.code == 2 and [path for path in out.rglob("*") if path.is_file()] == []
    assert_one_sentence(capfd.readouterr().err, f"{out}: cannot be written")


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_a_disk_too_full_for_shards(demo, small_disk, monkeypatch, capfd, format):
    disk = small_disk(40)
    source = ["--annotation_file", demo / "data/train.json", "--video_dir", demo / "data/videos", "--num_workers", 1]
    command = ["svitt-pack", *source, "--output_dir", disk / "out", "--samples_per_shard", 2, "--format", format]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    with pytest.raises(SystemExit) as ended:
        pack_main()
    assert ended.value.code == 2
    assert_one_sentence(capfd.readouterr().err, f"{disk}/out: cannot be written", "No space left on device")
    small_disk(10_000)
    pack_main()
    assert len(list((disk / "out").glob("train-*"))) == 8


def commands(demo, disk) -> dict:
    """Of programs that write: the entry point, its arguments, and what stands for the output in its sentence."""
    videos = ["--video_dir", demo / "data/videos", "--num_workers", 1]
    source = ["--annotation_file", demo / "data/train.json", *videos]
    return {
        "pack": (pack_main, ["--output_dir", disk / "out", *source], f"{disk}/out"),
        "check-videos": (check_main, ["--report", disk / "report.jsonl", *videos], f"{disk}/report.jsonl"),
        "convert": (convert_main, ["expand", demo / "model", disk / "out", "--num_frames", 8], str(disk)),
    }


def ended_by(monkeypatch, capfd, main, args) -> str:
    """What a program says on stderr that ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["svitt", *map(str, args)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capfd.readouterr().err


@pytest.mark.parametrize("program", ["check-videos", "convert"])  # packing has a test of its own
def test_a_disk_too_full_for_other_outputs(demo, small_disk, monkeypatch, capfd, program):
    disk = small_disk(4)
    main, args, place = commands(demo, disk)[program]
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
    errors = ended_by(monkeypatch, capfd, main, args)
    assert "Traceback" not in errors and "No space left on device" in errors and place in errors, errors
    assert [path.name for path in disk.rglob("*") if path.is_file() and path.stat().st_size] == ["filler"]


@pytest.mark.parametrize("program", ["pack", "check-videos", "convert"])
def test_other_outputs_that_cannot_be_written(demo, small_disk, monkeypatch, capfd, program):
    disk = small_disk(1000)
    small_disk(1000, "ro")
    main, args, place = commands(demo, disk)[program]
    errors = ended_by(monkeypatch, capfd, main, args)
    assert "Traceback" not in errors and "Read-only file system" in errors and place in errors, errors


@pytest.mark.parametrize("options", ["rw", "ro"])
def test_answers_that_cannot_be_written(demo, small_disk, monkeypatch, capfd, options):
    small_disk(4)
    out = small_disk(4, options) / "out"
    with pytest.raises(SystemExit) as ended:
        videoqa.run(
            monkeypatch,
            *videoqa.arguments(demo, out, k_test=3, **videoqa.files_of(demo, "train", "test"), evaluate_only=True),
        )
    assert ended.value.code == 2 and [path for path in out.rglob("*") if path.is_file()] == []
    assert_one_sentence(capfd.readouterr().err, f"{out}: cannot be written")


def test_a_disk_too_full_for_an_index(demo, small_disk):
    disk = small_disk(200)
    index = SViTTIndex.create(disk / "index", str(demo / "model"))
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 8192))
    with pytest.raises(InputError, match="index: cannot be written"):
        index.add([demo / "data/videos"], batch_size=4)
    small_disk(10_000)
    assert set(SViTTIndex.open(disk / "index").add([demo / "data/videos"]).bad) == set()
    assert len(index) == len(list((demo / "data/videos").iterdir()))


def test_an_output_that_cannot_be_written_ends_the_run_at_its_start(demo, small_disk, tmp_path, monkeypatch, capfd):
    disk = small_disk(100)
    small_disk(100, "ro")
    monkeypatch.setattr(RowLoader, "__iter__", lambda loader: pytest.fail("training has begun"))
    with pytest.raises(SystemExit) as ended:
        pretraining.run(monkeypatch, *pretraining.arguments(demo, disk / "new/out"))
    assert ended.value.code == 2
    assert_one_sentence(
        capfd.readouterr().err, f"--output_dir {disk}/new/out: cannot be written (Read-only file system)."
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=f"^--output_dir {tmp_path}/file/out: must be a folder, but {tmp_path}/file is a"
    ):
        check_output(str(tmp_path / "file/out"))
    check_output(str(tmp_path / "new/out"))
    assert not (tmp_path / "new").exists()


# ---- Processes


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


@pytest.mark.parametrize("is_training", [True, False])
def test_a_worker_that_the_system_kills_is_told(demo, tmp_path, is_training):
    """In a process of its own: torch's handler of signals goes on raising errors after the first."""
    if is_training:
        command = pretraining.arguments(demo, tmp_path / "out", num_workers=1, num_train_epochs=9)
    else:
        files = {"train_file": None, "test_file": demo / "data/test.json"}
        command = retrieval.arguments(demo, tmp_path / "out", num_workers=1, eval_batch_size=1, **files)
    script = pretraining.SCRIPT if is_training else retrieval.SCRIPT
    process = subprocess.run(
        [sys.executable, "-c", KILLING, script, *map(str, command)],
        capture_output=True,
        text=True,
        env=pretraining.environment(),
        timeout=300,
    )
    assert process.returncode == 2, process.stderr
    assert_one_sentence(process.stderr, "DataLoader worker", "memory", "--num_workers")
    assert not list((tmp_path / "out").glob("results*"))


# Kills itself, as rank 1, with its second batch of videos.
DYING = """
import os, runpy
from svitt import SViTTModel
encode, calls = SViTTModel.get_video_features, []

def dying(self, *args, **kwargs):
    calls.append(1)
    if len(calls) == 2 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), 9)
    return encode(self, *args, **kwargs)

SViTTModel.get_video_features = dying
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_a_process_that_dies_in_evaluation_ends_the_other_within_a_minute(demo, tmp_path):
    script = tmp_path / "dying.py"
    script.write_text(DYING.format(script=retrieval.SCRIPT))
    args = retrieval.arguments(demo, tmp_path / "out", test_file=demo / "data/test.json", eval_batch_size=1)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launcher, script, *args], env=pretraining.environment(), capture_output=True, timeout=120)
    assert done.returncode not in (0, None) and b"Signal 9" in done.stderr
    assert not list((tmp_path / "out").glob("results*"))


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other_within_a_minute(demo, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    args = pretraining.arguments(demo, tmp_path / "out", num_train_epochs=500)
    processes = []
    with (tmp_path / "output.txt").open("w") as log:
        for rank in ("0", "1"):
            environment = pretraining.environment() | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            command = [sys.executable, pretraining.SCRIPT, *args]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    assert pretraining.wait_for_step(processes[0], tmp_path / "out", 2), (tmp_path / "output.txt").read_text()
    before = time.monotonic()
    processes[1].kill()
    assert processes[0].wait(timeout=60) not in (0, None)
    print(f"ended after {time.monotonic() - before:.1f} s")
    processes[1].wait()
    assert "RuntimeError" in (tmp_path / "output.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["accelerate.commands.accelerate_cli", "launch", "--config_file", str(ROOT / "configs/cpu_2_processes.yaml")],
        ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    ],
    ids=["accelerate", "torchrun"],
)
def test_a_process_that_dies_ends_its_launcher_within_a_minute(demo, tmp_path, launcher):
    args = pretraining.arguments(demo, tmp_path / "out", num_train_epochs=500)
    with (tmp_path / "output.txt").open("w") as log:
        command = [sys.executable, "-m", *launcher, pretraining.SCRIPT, *args]
        started = subprocess.Popen(command, env=pretraining.environment(), stdout=log, stderr=log)
    assert pretraining.wait_for_step(started, tmp_path / "out", 2), (tmp_path / "output.txt").read_text()
    family = psutil.Process(started.pid).children(recursive=True)
    [victim] = [
        process for process in family if process.environ().get("RANK") == "1" and "--output_dir" in process.cmdline()
    ]
    before = time.monotonic()
    victim.kill()
    assert started.wait(timeout=60) not in (0, None)
    print(f"ended after {time.monotonic() - before:.1f} s")
    assert not psutil.wait_procs(family, timeout=10)[1]  # none goes on alone


@pytest.mark.parametrize("moment", ["pyarrow.parquet.write_table", "os.replace"])
def test_an_evaluation_that_is_killed_leaves_nothing_half_written(demo, tmp_path, moment):
    args = retrieval.arguments(demo, tmp_path / "out", test_file=demo / "data/test.json")
    module, _, function = moment.rpartition(".")
    kill = f"import {module}, os, runpy; {moment} = lambda *args, **options: os.kill(os.getpid(), 9); "
    run = f"runpy.run_path({retrieval.SCRIPT!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", kill + run, *args], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".incomplete"]


# ---- Clocks


@pytest.mark.parametrize("jump", [-3600, 10**6])
def test_a_clock_that_jumps_changes_nothing(demo, tmp_path, monkeypatch, jump):
    options = {"save_steps": 1, "save_total_limit": 2, "resume_from_checkpoint": "latest"}
    pretraining.run(monkeypatch, *pretraining.arguments(demo, tmp_path / "whole", **options))
    with monkeypatch.context() as patch, pytest.raises(pretraining.Killed):
        patch.setattr(pretraining.SViTTForPreTraining, "forward", pretraining.killed_forward(4))
        pretraining.run(patch, *pretraining.arguments(demo, tmp_path / "out", **options))
    os.utime(tmp_path / "out/checkpoint-2", (2e9, 2e9))  # the older one has the later date
    now = itertools.count(10**9, jump)
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    pretraining.run(monkeypatch, *pretraining.arguments(demo, tmp_path / "out", **options))
    pretraining.assert_same_weights(tmp_path / "out", tmp_path / "whole")
    assert pretraining.log_of(tmp_path / "out") == pretraining.log_of(tmp_path / "whole")
    for line in (tmp_path / "out/log.jsonl").read_text().splitlines():
        assert json.loads(line)["clips_per_second"] > 0
