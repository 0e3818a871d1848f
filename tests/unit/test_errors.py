# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Errors: arguments are named, commands end on one sentence, files are whole or not there."""

import errno
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from svitt.distributed import write_whole
from svitt.errors import ArgumentError, ArgumentGroup, InputError, OutputError, check_number, exit_on_bad_input, writing
from svitt.processing_svitt import VideoDecodeError
from svitt.search.library import GoneError


@dataclass
class Group(ArgumentGroup):
    at_least = {"top_k": 1}

    top_k: float = 10


def test_numbers_have_bounds():
    assert Group(top_k=1).top_k == 1
    for value in (0, -0.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"`top_k` must be at least 1, got {value}"):
            Group(top_k=value)
    check_number("crf", None, 0, 51)
    with pytest.raises(ArgumentError, match="`crf` must be from 0 to 51, got 52"):
        check_number("crf", 52, 0, 51)


def ended(error: BaseException, capsys, command: str | None = "svitt search") -> tuple[int, str]:
    with pytest.raises(SystemExit) as end, exit_on_bad_input(command):
        raise error
    return end.value.code, capsys.readouterr().err


IN_WORKER = "Caught InputError in DataLoader worker process 0.\nTraceback:\nInputError: a.json: is damaged."
ENDS = {
    InputError("a.json: is damaged."): (2, "svitt search: a.json: is damaged.\n"),
    ArgumentError("top_k", "must be at least 1, got 0"): (2, "svitt search: --top_k must be at least 1, got 0.\n"),
    InputError(IN_WORKER): (2, "svitt search: a.json: is damaged.\n"),
    VideoDecodeError("a.mp4: is cut off."): (2, "svitt search: a.mp4: is cut off.\n"),
    KeyboardInterrupt(): (130, "svitt search: interrupted.\n"),
}


@pytest.mark.parametrize(
    "error", [*ENDS, OutputError("a: is full."), GoneError()], ids=lambda error: type(error).__name__
)
def test_errors_come_from_other_processes_as_they_are(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
def test_a_command_ends_with_one_sentence(error, capsys):
    assert ended(error, capsys) == ENDS[error]


def test_a_script_speaks_under_its_own_name(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/run_retrieval.py"])
    assert ended(InputError("x."), capsys, None) == (2, "run_retrieval.py: x.\n")


def test_of_several_processes_the_main_one_speaks_and_each_of_its_own_disk(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert ended(InputError("x."), capsys) == (2, "")
    assert ended(OutputError("disk: is full."), capsys) == (2, "svitt search: disk: is full.\n")


def test_mistakes_of_ours_keep_their_traceback():
    with pytest.raises(RuntimeError), exit_on_bad_input():
        raise RuntimeError("x")


def test_a_killed_loader_worker_is_reported():
    """In a process of its own: torch's handler of signals keeps raising errors after the first."""
    code = """
import os, signal
from torch.utils.data import DataLoader
from svitt.errors import exit_on_bad_input

class Rows:
    def __len__(self):
        return 8
    def __getitem__(self, row):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    with exit_on_bad_input("svitt"):
        list(DataLoader(Rows(), num_workers=1))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "DataLoader worker" in done.stderr and "fewer workers" in done.stderr


# ---- Files


def test_files_are_whole_or_not_there(tmp_path):
    def write(folder):
        (folder / "a.txt").write_text("new")

    def fail(folder):
        (folder / "b.txt").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").write_text("old")
    for folder in ("out", "new/folder"):
        with pytest.raises(OutputError, match=f"{folder}: cannot be written .No space left on device"):
            write_whole(tmp_path / folder, write, fail)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]
    assert (tmp_path / "out/a.txt").read_text() == "old" and list((tmp_path / "new/folder").iterdir()) == []
    write_whole(tmp_path / "out", write)
    assert (tmp_path / "out/a.txt").read_text() == "new"


@pytest.mark.slow
def test_a_kill_leaves_the_files_before(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    code = f"""
import time
from svitt.distributed import whole_files
with whole_files({str(tmp_path)!r}) as new:
    (new / "a.txt").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "a.txt").read_text() == "old"
    write_whole(tmp_path, lambda folder: (folder / "a.txt").write_text("new"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_a_full_or_read_only_disk_is_named(small_disk, tmp_path):
    disk = small_disk(40)
    with pytest.raises(OutputError, match=f"{disk}/out: cannot be written"):
        write_whole(disk / "out", lambda folder: (folder / "x").write_bytes(bytes(10**6)))
    assert list((disk / "out").iterdir()) == []
    with pytest.raises(OutputError, match="disk"), writing(disk):
        torch.save(torch.zeros(10**6), disk / "x.pt")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    (tmp_path / "file").touch()
    for folder, reason in (
        (disk / "new/out", "Read-only file system"),
        (tmp_path / "file/out", "Not a directory"),
    ):
        with pytest.raises(OutputError, match=f"{folder}: cannot be written .{reason}"):
            write_whole(folder, lambda folder: None)
    assert sorted(os.listdir(tmp_path)) == ["disk", "file"]
