# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Work that processes share: errors that stop all of them, progress, whole files."""

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object, tqdm
from datasets import Dataset

from .errors import InputError, sentence_of, writing
from .processing_svitt import VideoDecodeError

BAD_INPUT = (InputError, VideoDecodeError)


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
