# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Running as one or several processes: shares of the work, errors that stop all of them, progress, whole files."""

import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object, tqdm
from datasets import Dataset
from safetensors import SafetensorError
from transformers.utils import logging

from ..processing_svitt import VideoDecodeError


class InputError(ValueError):
    """Something that the user can mend; the message is one sentence that names the file and the field."""


class OutputError(InputError):
    """A disk that is full or cannot be written, perhaps in one process only."""


BAD_INPUT = (InputError, VideoDecodeError)
# In what torch.save and LanceDB raise, which are plain `RuntimeError`s.
WRITER_ERRORS = ("inline_container", "PytorchStreamWriter", "No space left on device")


def check_launch():
    """Warn where the launcher was asked for more processes than take part.

    `accelerate launch --cpu --num_processes 2` starts one: it leaves starting CPU processes to MPI, and only sets the
    address where they should meet.
    """
    num_asked = int(os.environ.get("WORLD_SIZE", 2 if "MASTER_ADDR" in os.environ else 1))
    if num_asked > PartialState().num_processes:
        warnings.warn(
            "The launcher was asked for several processes, but this one works alone. To have two on CPU, use "
            "accelerate launch --config_file configs/cpu_2_processes.yaml, or torchrun --nproc_per_node 2.",
            stacklevel=2,
        )


def check_output(output_dir: str):
    """Raise an `InputError` where no file can be written into a folder, which need not exist yet: not after hours."""
    place = Path(output_dir).absolute()
    while not place.exists():
        place = place.parent
    if place.is_file():
        what = "is a file" if place == Path(output_dir).absolute() else f"{place} is a file"
        raise InputError(f"--output_dir {output_dir}: must be a folder, but {what}.")
    with writing(f"--output_dir {output_dir}"), tempfile.TemporaryFile(dir=place):
        pass


@contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Raise an `OutputError` that names the file or folder for what writers raise on a full or read-only disk."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{place}: cannot be written ({error.strerror or error}).") from error
    except SafetensorError as error:
        raise OutputError(f"{place}: cannot be written ({error}).") from error
    except RuntimeError as error:
        if not any(words in str(error) for words in WRITER_ERRORS):
            raise
        raise OutputError(f"{place}: cannot be written to its end; is the disk full?") from error


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """End a script with exit code 2 and one sentence on stderr for an error in its input, a full disk, a lost worker.

    What all processes know is told by the main one.
    """
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    except BAD_INPUT as error:
        if PartialState().is_main_process or isinstance(error, OutputError):
            print(f"{Path(sys.argv[0]).name}: {sentence_of(error)}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # is killed, or exited unexpectedly
            raise
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else torch's handler raises again as the loader is taken down
        print(
            f"{Path(sys.argv[0]).name}: {str(error).strip().rstrip('.')}. It decodes videos; systems that run out of "
            "memory kill such processes, then fewer --num_workers or a smaller batch helps.",
            file=sys.stderr,
        )
        sys.exit(2)


def sentence_of(error: Exception) -> str:
    """The message, without the traceback that a DataLoader worker writes in front of it."""
    return str(error).rpartition(f"{type(error).__name__}: ")[2].strip()


def fail_together(function: Callable, *args, **kwargs) -> Any:
    """Call a function in every process; where its input is bad in one, all raise that process's `InputError`.

    Otherwise the others would wait for ever at their next exchange.
    """
    result, sentences = None, []
    try:
        result = function(*args, **kwargs)
    except BAD_INPUT as error:
        sentences = [sentence_of(error)]
    for sentence in gather_object(sentences):
        raise InputError(sentence)
    return result


def next_of_all(batches: Iterator) -> Any:
    """The next batch of every process; None for all when one has no more, and for all the error of one."""
    batch, outcome = None, "end"
    try:
        batch = next(batches)
        outcome = "batch"
    except StopIteration:
        pass
    except BAD_INPUT as error:
        outcome = InputError(sentence_of(error))
    outcomes = gather_object([outcome])
    for outcome in outcomes:
        if isinstance(outcome, InputError):
            raise outcome
    return None if "end" in outcomes else batch


def share_of(items: list | Dataset) -> list | Dataset:
    """This process's items: every `num_processes`-th, from its index on."""
    share = slice(PartialState().process_index, None, PartialState().num_processes)
    return items.select(range(len(items))[share]) if isinstance(items, Dataset) else items[share]


def numbers_of_share(length: int) -> range:
    """Of the items of a share of this length, their places among all."""
    state = PartialState()
    return range(state.process_index, state.process_index + length * state.num_processes, state.num_processes)


def gather_shares(share: list) -> list:
    """The items of all processes in the order they had before `share_of`, on every process; no padding, no repeats."""
    shares = gather_object([share])
    return [shares[i % len(shares)][i // len(shares)] for i in range(sum(map(len, shares)))]


def progress_bar(iterable: Iterable, description: str, total: int | None = None) -> Iterable:
    """`tqdm` on the main process, and only where somebody looks at a terminal."""
    return tqdm(iterable, desc=description, total=total, leave=False, disable=not sys.stderr.isatty())


def write_whole(folder: str | Path, *writers: Callable[[Path], Any]):
    """Let the main process write files into a folder, and the others wait for it.

    Each writer gets a temporary folder, whose files are moved when all are done: an interrupt leaves no half file.
    """
    state = PartialState()
    if state.is_main_process:
        folder = Path(folder)
        incomplete = folder / ".incomplete"
        shutil.rmtree(incomplete, ignore_errors=True)
        try:
            with writing(folder):
                incomplete.mkdir(parents=True)
                for write in writers:
                    write(incomplete)
                for path in incomplete.iterdir():
                    os.replace(path, folder / path.name)
        finally:
            shutil.rmtree(incomplete, ignore_errors=True)
    state.wait_for_everyone()


def write_whole_file(path: Path, text: str):
    """In one step: a process that is killed, or a machine that crashes, leaves the file as it was."""
    new = path.with_name(f".{path.name}")
    new.write_text(text, encoding="utf-8")
    flush(new)
    new.replace(path)


def flush(path: Path):
    """Let a file, or the names in a folder, reach the disk, lest a crash of the machine leave it empty."""
    if path.is_dir() and os.name == "nt":  # where folders cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
