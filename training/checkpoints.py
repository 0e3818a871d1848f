# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Checkpoints to go on from, exactly: whole or not there at all, the last few kept."""

import json
import logging
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import RNG_STATE_NAME, load
from safetensors import safe_open

from ..conversion import printable
from ..distributed import fail_together, flush, whole_files
from ..errors import ArgumentGroup, InputError, writing

STATE_FILE = "training_state.json"
FILES_OF_TENSORS = (".safetensors", ".bin", ".pt", ".pkl")
# It warns of each checkpoint that tied weights are saved once.
logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)


@dataclass
class CheckpointArguments(ArgumentGroup):
    """What to keep to go on from."""

    _argument_group_name = "checkpoints"
    at_least = {"save_steps": 1, "save_total_limit": 1}

    save_steps: int | None = field(
        default=None, metadata={"help": "A checkpoint every so many updates, besides that after each epoch."}
    )
    save_total_limit: int = field(
        default=1, metadata={"help": "Checkpoints kept, the latest; the best model is in --output_dir besides."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "`latest` of --output_dir (the beginning if there is none), or the folder of a checkpoint."},
    )


@dataclass
class TrainingState:
    """How far a training is; the same on all processes."""

    step: int = 0  # updates tried
    epoch: int = 1  # the current one, from 1
    epoch_is_done: bool = False
    evaluation_is_due: bool = False
    best_score: float | None = None
    best_epoch: int = 0
    best_step: int = 0
    num_processes: int = 1
    num_skipped: int = 0  # updates skipped, as their loss was not finite
    num_bad_videos: int = 0  # in this epoch
    meter: dict[str, float] = field(default_factory=dict)  # sums since the last line of the log
    epoch_meter: dict[str, float] = field(default_factory=dict)  # sums since the epoch's start
    history: list[dict[str, float]] = field(default_factory=list)  # mean losses of each epoch


class Checkpoints:
    """The checkpoints of one training, in the folders `checkpoint-<step>` of `folder`.

    Args:
        folder: of the run, on a disk that all processes see.
        args: see [`CheckpointArguments`].

    Raises:
        InputError: if an earlier run has left checkpoints and none is to be resumed, or there is no such checkpoint.
    """

    def __init__(self, folder: str | Path, args: CheckpointArguments):
        self.folder, self.args = Path(folder), args
        self.resumed = None
        if args.resume_from_checkpoint is None:
            if found := self.found():
                raise InputError(
                    f"{found[-1]}: is of an earlier run; give --resume_from_checkpoint latest to go on with it, or "
                    "another --output_dir."
                )
        elif args.resume_from_checkpoint == "latest":
            self.resumed = (self.found() or [None])[-1]
        else:
            self.resumed = Path(args.resume_from_checkpoint)
            if not (self.resumed / STATE_FILE).is_file():
                raise InputError(f"--resume_from_checkpoint {self.resumed}: is no checkpoint, it has no {STATE_FILE}.")

    def found(self) -> list[Path]:
        """Complete checkpoints, by step."""
        folders = [file.parent for file in self.folder.glob(f"checkpoint-*/{STATE_FILE}")]
        return sorted(folders, key=step_of)

    def load(self, accelerator: Accelerator, loader) -> TrainingState:
        """Put model, optimizer, random states and loader back to where the checkpoint to resume was, running no code
        that it holds; a new state if there is none.

        Raises:
            InputError: if it is damaged, or of another training.
        """
        if accelerator.is_main_process:
            for incomplete in self.folder.glob(".checkpoint-*"):
                shutil.rmtree(incomplete)
        if self.resumed is None:
            return TrainingState(num_processes=accelerator.num_processes)
        state = read_state(self.resumed)
        if state.num_processes != accelerator.num_processes:
            raise InputError(
                f"{self.resumed}: was written by {state.num_processes} processes and can only be resumed by as many, "
                f"not by {accelerator.num_processes}; to start anew from its model, give it to --model_name_or_path."
            )
        random_states, position = fail_together(self._read, accelerator)
        try:
            accelerator.load_state(str(self.resumed))
            check_loaded(accelerator, random_states)
        except (ValueError, RuntimeError, LookupError, TypeError, AttributeError, OSError) as error:
            raise InputError(
                f"{self.resumed}: is of another model, or of other options such as --larger_lr_names, or damaged "
                f"({printable(str(error)).rstrip('.')})."
            ) from error
        if not state.epoch_is_done:
            loader.set_epoch(state.epoch)
            fail_together(self._go_on, loader, position)
        if accelerator.is_main_process:
            for later in self.found():  # of a run that went on from here before
                if later.parent == self.resumed.parent and step_of(later) > state.step:
                    remove(later)
        accelerator.wait_for_everyone()
        return state

    def _read(self, accelerator: Accelerator) -> tuple[dict, dict]:
        """Random states and the loader's state of this process, after a look at all files of the checkpoint."""
        for file in self.resumed.iterdir():
            if file.name.startswith("custom_checkpoint_"):
                raise InputError(f"{file}: may run code, and is not needed any more; remove it to go on.")
            if file.is_file() and file.suffix in FILES_OF_TENSORS:
                read(file)
        random_states = self.resumed / f"{RNG_STATE_NAME}_{accelerator.process_index}.pkl"
        return read(random_states), read(self.loader_file(self.resumed, accelerator))

    def _go_on(self, loader, position: dict):
        try:
            loader.load_state_dict(position)
        except (LookupError, TypeError, AttributeError) as error:
            raise damaged(self.resumed) from error

    def save(self, accelerator: Accelerator, loader, state: TrainingState):
        """Write a checkpoint; where there is one of this step, only its state has changed since.

        Raises:
            OutputError: where the disk does not take it; the checkpoints before it stay.
        """
        folder = self.folder / f"checkpoint-{state.step}"
        with writing(folder):
            self._write(accelerator, loader, state, folder)
        accelerator.wait_for_everyone()

    def _write(self, accelerator: Accelerator, loader, state: TrainingState, folder: Path):
        if not (folder / STATE_FILE).is_file():
            incomplete = folder.with_name(f".{folder.name}")  # not found as a checkpoint until it is renamed
            if accelerator.is_main_process:
                shutil.rmtree(incomplete, ignore_errors=True)
                incomplete.mkdir(parents=True)
            accelerator.wait_for_everyone()
            accelerator.save_state(str(incomplete))
            torch.save(loader.state_dict(), self.loader_file(incomplete, accelerator))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                write_state(incomplete, state)
                for file in incomplete.iterdir():
                    flush(file)
                incomplete.rename(folder)
                flush(self.folder)
                for old in self.found()[: -self.args.save_total_limit]:
                    remove(old)
        elif accelerator.is_main_process:
            write_state(folder, state)

    @staticmethod
    def loader_file(folder: Path, accelerator: Accelerator) -> Path:
        return folder / f"loader_{accelerator.process_index}.pt"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def remove(checkpoint: Path):
    """Remove a checkpoint so that none that is half removed is found."""
    gone = checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}"))
    shutil.rmtree(gone)


def read_state(checkpoint: Path) -> TrainingState:
    """How far the training was; an `InputError` for what [`write_state`] did not write."""
    file, defaults = checkpoint / STATE_FILE, asdict(TrainingState())
    try:
        values = json.loads(file.read_text())
        state = TrainingState(**values)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise damaged(file) from error
    if values.keys() != defaults.keys() or any(
        not isinstance(values[name], type(default)) for name, default in defaults.items() if default is not None
    ):
        raise damaged(file)
    return state


def read(file: Path):
    """What is in a file of a checkpoint; of weights, which are large, their names. Nothing in it is run.

    Raises:
        InputError: if it is cut off, or holds more than tensors and plain values.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                return weights.keys()
        return load(file, map_location="cpu", weights_only=True, mmap=True)  # large tensors stay on the disk
    except Exception as error:  # damaged and hostile files raise anything
        raise damaged(file) from error


def damaged(place: Path) -> InputError:
    return InputError(
        f"{place}: is damaged, or holds what no checkpoint does; give an earlier one to --resume_from_checkpoint, or "
        "start anew in another --output_dir."
    )


def check_loaded(accelerator: Accelerator, random_states: dict):
    """An error where Accelerate has left out something, or taken what is not AdamW's."""
    if not torch.equal(torch.get_rng_state(), random_states["torch_manual_seed"]):
        raise ValueError("its random states cannot be restored")
    for optimizer in accelerator._optimizers:
        if any(optimizer.defaults.keys() - group.keys() for group in optimizer.param_groups):
            raise ValueError("its optimizer is another")
        for parameter, values in optimizer.state.items():
            if any(values[name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq")):
                raise ValueError("its optimizer is of other parameters")


def write_state(folder: Path, state: TrainingState):
    """Replace the state of a checkpoint as a whole."""
    with whole_files(folder) as new:
        (new / STATE_FILE).write_text(json.dumps(asdict(state), indent=2))


class StopRequest:
    """Notices SIGTERM, by which schedulers announce the end, for as long as the context lasts.

    `came` tells whether it has come. Within [`anywhere`], it ends the process at once, with exit code 0.
    """

    def __init__(self):
        self.came = self.may_exit = False

    def __enter__(self) -> "StopRequest":
        self.before = signal.signal(signal.SIGTERM, self.notice)
        return self

    def __exit__(self, *exception):
        signal.signal(signal.SIGTERM, self.before)

    def notice(self, *signal_and_frame):
        self.came = True
        if self.may_exit:
            sys.exit(0)

    @contextmanager
    def anywhere(self) -> Iterator[None]:
        """Work that a resumed run does again from the checkpoint before it."""
        self.may_exit = True
        if self.came:
            sys.exit(0)
        try:
            yield
        finally:
            self.may_exit = False
