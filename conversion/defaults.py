# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Models for use: those that are named, and where none is, public BLIPs, brought and converted once."""

from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import PartialState
from filelock import FileLock
from huggingface_hub import HfApi, constants
from transformers import PreTrainedModel

from ..distributed import whole_files
from ..errors import InputError, OutputError, writing
from ..processing_svitt import SViTTProcessor
from . import converted, load_model_and_processor
from .loading import FRAME_WISE, reason_of

DEFAULTS = {"search": "Salesforce/blip-itm-base-coco", "ask": "Salesforce/blip-vqa-base"}
# Part of the folders' names: to be raised when `converted` makes others, lest an old one pass for a new one.
LAYOUT = 1


def load_for_use(
    name: str, num_frames: int | None = None, architectures: Iterable[str] | None = None
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """Return what [`load_model_and_processor`] does, the model in evaluation mode on the device of this process."""
    model, processor = load_model_and_processor(name, num_frames=num_frames, architectures=architectures)
    return model.eval().to(this_process().device), processor


def this_process() -> PartialState:
    return PartialState(cpu=not torch.accelerator.is_available())  # else processes on CPUs would work alone


def default_model(task: str) -> str:
    """Return the folder of the converted model for a task, `"search"` or `"ask"`; the first call makes it.

    It is in the cache, below HF_HOME. Of several processes, one makes it, and the others wait.

    Raises:
        InputError: if the weights cannot be downloaded, or are not those that the Hub states.
        OutputError: if the disk is full or cannot be written.
    """
    name = DEFAULTS[task]
    place = Path(constants.HF_HOME, "svitt", name.rpartition("/")[2])
    folder = place / f"{FRAME_WISE['num_frames']}_frames_layout_{LAYOUT}"
    try:
        with writing(constants.HF_HOME):
            place.mkdir(parents=True, exist_ok=True)
            with FileLock(place / "lock"):
                if not folder.is_dir():
                    model, processor = converted(download(name))
                    with whole_files(place) as new:  # moves the folder as one
                        model.save_pretrained(new / folder.name)
                        processor.save_pretrained(new / folder.name)
    except OutputError as error:
        raise OutputError(f"{str(error).rstrip('.')}; HF_HOME can name a folder on another disk.") from error
    return str(folder)


def download(name: str) -> str:
    """Return the folder, in the cache of the Hub, of a model whose files are those that the Hub states."""
    api = HfApi()
    try:
        commit = api.model_info(name).sha
        files = api.list_repo_files(name, revision=commit)
        weights = "model.safetensors" if "model.safetensors" in files else "pytorch_model.bin"
        folder = api.snapshot_download(name, revision=commit, allow_patterns=["*.json", "*.txt", weights])
        wrong = [one["path"] for one in api.verify_repo_checksums(name, revision=commit).mismatches]
    except Exception as error:  # of the network, its libraries have many
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        raise InputError(
            f"{name}: cannot be downloaded ({reason_of(error).partition('. ')[0]}); try again, or where there is "
            f"network, call `svitt convert {name} FOLDER`, and name that folder with --model."
        ) from error
    for path in wrong:  # lest anybody use them
        Path(folder, path).resolve().unlink(missing_ok=True)
        Path(folder, path).unlink(missing_ok=True)
    if wrong:
        raise InputError(f"{name}: {', '.join(wrong)} came damaged, with another hash than the Hub states; try again.")
    return folder
