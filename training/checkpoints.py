# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Checkpoints to resume: those that all processes have finished, by step. What is in them is Trainer's."""

import shutil
from pathlib import Path

from accelerate import PartialState
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from ..distributed import flush
from ..errors import InputError

COMPLETE = "complete"  # an empty file, which a checkpoint gets when all processes have written their parts


def find_checkpoint(output_dir: str, resume_from_checkpoint: str | Path | None) -> Path | None:
    """Return the checkpoint to resume, `latest` or a folder; None to start anew.

    Raises:
        InputError: where there is no such checkpoint, more or fewer processes wrote it, or an earlier run has left some
            and none is to be resumed.
    """
    found, folder = checkpoints(Path(output_dir)), None
    if resume_from_checkpoint == "latest":
        folder = found[-1] if found else None
    elif resume_from_checkpoint is not None:
        folder = Path(resume_from_checkpoint)
        if not (folder / TRAINER_STATE_NAME).is_file():
            raise InputError(f"--resume_from_checkpoint {folder}: is no checkpoint, it has no {TRAINER_STATE_NAME}.")
    if found and (folder is None or folder.parent.resolve() != Path(output_dir).resolve()):
        raise InputError(
            f"{found[-1]}: is of an earlier run; give --resume_from_checkpoint latest to go on with it, or another "
            "--output_dir."
        )
    num_states, num_processes = len(list(folder.glob("rng_state*.pth"))) if folder else 0, PartialState().num_processes
    if folder is not None and num_states != num_processes:
        raise InputError(
            f"{folder}: was written by {num_states} processes and can only be resumed by as many, not by "
            f"{num_processes}; to start anew from its model, give it to --model_name_or_path."
        )
    return folder


def checkpoints(output_dir: Path) -> list[Path]:
    """Return those that are complete, by step."""
    return sorted((file.parent for file in output_dir.glob(f"checkpoint-*/{COMPLETE}")), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def complete(output_dir: Path, state: TrainerState, num_kept: int):
    """Mark the checkpoint of this step as complete; remove old ones, but for the last few and the best."""
    folder = output_dir / f"checkpoint-{state.global_step}"
    (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nobody reads
    for file in folder.iterdir():
        flush(file)
    (folder / COMPLETE).touch()
    flush(folder)
    for old in checkpoints(output_dir)[:-num_kept]:
        if step_of(old) != state.best_global_step:
            remove(old)


def remove_after(step: int, output_dir: Path):
    """Remove what was never completed, and what a run that went on from this step before has left."""
    for folder in output_dir.glob("checkpoint-*"):
        if not (folder / COMPLETE).is_file() or step_of(folder) > step:
            remove(folder)


def remove(checkpoint: Path):
    (checkpoint / COMPLETE).unlink(missing_ok=True)  # first: what is half removed is not complete
    shutil.rmtree(checkpoint)
