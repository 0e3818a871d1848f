# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""All names that the contract suite takes from the package: where one is renamed, this file alone changes."""

import contextlib
import importlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from svitt import (  # noqa: F401 (classes for the tests)
    SViTTConfig,
    SViTTForPreTraining,
    SViTTForVideoClassification,
    SViTTForVideoQuestionAnswering,
    SViTTForVideoTextRetrieval,
    SViTTModel,
    SViTTProcessor,
    SViTTTextModel,
    SViTTVideoProcessor,
    SViTTVisionConfig,
    SViTTVisionModel,
    fixed_block_pattern,
)
from svitt.conversion.original import convert_state_dict  # noqa: F401
from svitt.conversion.positions import (  # noqa: F401
    fitted,
    resize_position_embeddings,
    resize_relative_position_bias,
)
from svitt.evaluation.retrieval import RetrievalArguments, retrieval_metrics, score_retrieval
from svitt.modeling_svitt import token_order  # noqa: F401
from svitt.processing_svitt import clean_text, read_video, sample_frame_indices  # noqa: F401
from svitt.search import SViTTIndex  # noqa: F401
from svitt.training.optimization import cosine_schedule, parameter_groups

ROOT = Path(__file__).parents[2]
METRICS = ROOT / "evaluation/metrics"

# Option of the scripts → its name in this edition.
OPTIONS = {"max_question_length": "max_text_length"}
LATEST = "latest"  # value of --resume_from_checkpoint
# Sub-command of `svitt` → its function in this edition, and the words before its arguments.
COMMANDS = {name: ("svitt.cli:main", [name]) for name in ("convert", "check", "pack", "index", "search", "explain")}


# ---- Scripts and commands


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def words_of(options: dict) -> list[str]:
    """Options as words of a command line; `True` is a switch, and `None` leaves an option out."""
    words = []
    for name, value in options.items():
        if value is not None:
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{OPTIONS.get(name, name)}", *map(str, values)]
    return words


def script_words(task: str, **options) -> list[str]:
    return [str(ROOT / f"run_{task}.py"), *words_of(options)]


def run_script(task: str, **options) -> Ended:
    """Run run_<task>.py in this process; a process of its own takes seconds to import all."""
    AcceleratorState._reset_state(True)  # private, but nothing else lets a process begin a second run
    words = script_words(task, **options)
    return _ended(words, lambda: runpy.run_path(words[0], run_name="__main__"))


def svitt(command: str, *words, **options) -> Ended:
    """Run a sub-command of `svitt` in this process."""
    AcceleratorState._reset_state(True)
    place, first = COMMANDS[command]
    module, function = place.split(":")
    kinds = ("checkpoint", "towers")  # of sources, which `svitt convert` finds out by itself
    words = ["svitt", *first, *(str(word) for word in words if word not in kinds), *words_of(options)]
    return _ended(words, getattr(importlib.import_module(module), function))


def _ended(words: list[str], function) -> Ended:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                function()
            except SystemExit as end:
                code = end.code or 0
    return Ended(code, out.getvalue(), err.getvalue())


def environment() -> dict:
    # The order in which threads add up is part of what must not differ.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "PATH": path}


def launched(num_processes: int) -> list[str]:
    """What starts a script in so many processes on the CPU."""
    if num_processes == 1:
        return [sys.executable]
    return ["accelerate", "launch", "--config_file", str(ROOT / "configs/cpu_2_processes.yaml")]


def launch(num_processes: int, words: list[str]):
    command = [*launched(num_processes), *words]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-5000:]


def end_after_checkpoint(how: int, num_processes: int, words: list[str], output_dir: Path, step: int, pause: float):
    """Start a script and send a signal to it, and to all that it started, a while after a checkpoint was begun."""
    with (output_dir.parent / "ended.txt").open("a") as log:
        command = [*launched(num_processes), *words]
        run = subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 300
        while run.poll() is None and time.monotonic() < end and last_checkpoint(output_dir) < step:
            time.sleep(0.01)
        time.sleep(pause)
        assert run.poll() is None, Path(log.name).read_text()[-5000:]  # else nothing was interrupted
        os.killpg(run.pid, how)
        code = run.wait(timeout=120)
        assert code == (0 if how == signal.SIGTERM else -how), Path(log.name).read_text()[-5000:]


def last_checkpoint(output_dir: Path) -> int:
    steps = [path.name.partition("-")[2] for path in output_dir.glob("checkpoint-*")]
    return max((int(step) for step in steps if step.isdigit()), default=-1)


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


# ---- Functions


def optimizer_groups(named_parameters, lr: float, larger_lr: float | None = None, larger_lr_names=()) -> list[dict]:
    """The groups of parameters that training gives AdamW."""
    larger = {"larger_lr": larger_lr, "larger_lr_names": larger_lr_names} if larger_lr_names else {}
    return parameter_groups(named_parameters, lr=lr, **larger)


def learning_rates(
    peak: float, num_warmup_steps: float, num_steps: int, min_lr_multi: float, count: int
) -> list[float]:
    """The learning rates of the first updates."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler, lrs = cosine_schedule(optimizer, num_warmup_steps, num_steps, min_lr_multi), []
    for _ in range(count):
        lrs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return lrs


def expand_num_frames(weights, config: SViTTConfig, num_frames: int):
    """Weights and configuration of a model for clips of more frames."""
    return fitted(weights, config, num_frames=num_frames)


def retrieval_scores(model, video_batches, text_batches, num_frames: int, **settings):
    """An object with `itc`, `video_to_text` and `text_to_video`."""
    clips = [
        {"pixel_values": batch, "is_missing": torch.zeros(len(batch), dtype=torch.bool)} for batch in video_batches
    ]
    return score_retrieval(model, clips, text_batches, num_frames, RetrievalArguments(**settings))


def recalls(scores, texts_of_video: list[list[int]]) -> dict:
    """The recalls by `itm` and by `itc`, without the ranks beside them."""
    metrics = retrieval_metrics(scores, texts_of_video)
    return {
        kind: {name: figure for name, figure in figures.items() if not name.endswith("_rank")}
        for kind, figures in metrics.items()
    }


def frames_at(video, wanted: list[int]):
    """Frames of a file by number, (n, H, W, 3) uint8, and how many the file has."""
    frames, metadata = read_video(video, lambda metadata: wanted)
    return frames, metadata.total_num_frames


def open_index(folder) -> SViTTIndex:
    return SViTTIndex.open(folder)
