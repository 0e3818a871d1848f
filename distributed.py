# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Work that processes share: errors that stop all of them, progress, whole files."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce, tqdm

from .errors import InputError, sentence_of, writing
from .processing_svitt import VideoDecodeError

BAD_INPUT = (InputError, VideoDecodeError)


def fail_together(function: Callable, *args, **kwargs) -> Any:
    """Call a function in every process; where its input is bad in one, all raise that process's `InputError`.

    Otherwise the others would wait for ever at their next exchange.
    """
    result, sentences = None, []
    try:
        result = function(*args, **kwargs)
    except BAD_INPUT as error:
        sentences = [sentence_of(error)]
    has_failed = torch.tensor(float(bool(sentences)), device=PartialState().device)
    if reduce(has_failed, "sum"):  # a number is cheaper than objects, and this is asked at each update
        raise InputError(gather_object(sentences)[0])
    return result


def share_of(items):
    """Return this process's items of a list, range, tensor or Dataset: every `num_processes`-th, from its index on."""
    state = PartialState()
    share = slice(state.process_index, None, state.num_processes)
    return items.select(range(len(items))[share]) if hasattr(items, "column_names") else items[share]


def gather_shares(share: list) -> list:
    """Return the items of all processes in the order they had before `share_of`; no padding, no repeats."""
    shares = gather_object([share])
    return [shares[i % len(shares)][i // len(shares)] for i in range(sum(map(len, shares)))]


def progress_bar(iterable: Iterable, description: str) -> tqdm:
    """Return `tqdm` on the main process: a bar for a terminal; for a file, after a minute, a line each minute."""
    seldom = {} if sys.stderr.isatty() else {"mininterval": 60, "delay": 60, "ncols": 80, "ascii": True}
    return tqdm(iterable, desc=description, leave=False, disable=False, **seldom)


@contextmanager
def whole_files(folder: str | Path) -> Iterator[Path]:
    """Give a temporary folder, whose files and folders are moved into `folder` when all are written, each as a whole.

    Raises:
        OutputError: where the disk is full or cannot be written; no file is left then.
    """
    folder = Path(folder)
    incomplete = folder / ".incomplete"
    shutil.rmtree(incomplete, ignore_errors=True)
    try:
        with writing(folder):
            incomplete.mkdir(parents=True)
            yield incomplete
            for path in sorted(incomplete.iterdir()):
                for file in (*path.rglob("*"), path):
                    flush(file)
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)


def write_whole(folder: str | Path, *writers: Callable[[Path], Any]):
    """Let the main process write files as in [`whole_files`], each writer some of them, and the others wait for it."""
    if PartialState().is_main_process:
        with whole_files(folder) as new:
            for write in writers:
                write(new)
    PartialState().wait_for_everyone()


def flush(path: Path):
    """Let a file, or the names in a folder, reach the disk, lest a crash of the machine leave it empty."""
    if path.is_file() or os.name != "nt":  # where folders cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
