# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The training loop of all tasks: a model that returns `loss`, batches of its arguments, a score to pick the best."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object, send_to_device, tqdm
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ..data.loaders import BadVideoReport, TrainingLoader
from ..distributed import BAD_INPUT
from ..errors import ArgumentGroup, InputError, sentence_of, writing
from .checkpoints import Checkpoints, StopRequest, TrainingState
from .optimization import cosine_schedule, parameter_groups
from .sharding import full_state_dict, shard, whole

# So many updates in a row whose loss is not finite are no accident.
MAX_SKIPPED_IN_A_ROW = 10


@dataclass
class OptimizationArguments(ArgumentGroup):
    """How to train: AdamW, linear warm-up, half a cosine down."""

    _argument_group_name = "optimization"
    at_least = {
        "learning_rate": 0,
        "num_train_epochs": 1,
        "max_steps": 1,
        "warmup_epochs": 0,
        "warmup_steps": 0,
        "min_lr_multi": 0,
        "weight_decay": 0,
        "larger_lr": 0,
        "train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_grad_norm": 0,
    }

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate."})
    num_train_epochs: int = field(default=10, metadata={"help": "Passes over the training pairs."})
    max_steps: int | None = field(
        default=None,
        metadata={"help": "Updates, instead of epochs; streams need it, as they do not know their length."},
    )
    warmup_epochs: float = field(default=0.0, metadata={"help": "Length of the linear warm-up, in epochs."})
    warmup_steps: int | None = field(default=None, metadata={"help": "The same in updates, instead."})
    min_lr_multi: float = field(
        default=0.1, metadata={"help": "The learning rate never falls below this share of its peak."}
    )
    weight_decay: float = field(default=0.02, metadata={"help": "Of all but biases and 1-D parameters."})
    larger_lr: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the parameters named by --larger_lr_names."}
    )
    larger_lr_names: list[str] = field(
        default_factory=list, metadata={"help": "Parts of parameter names, such as relative_position_bias_table."}
    )
    train_batch_size: int = field(default=32, metadata={"help": "Pairs in a batch of one process."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches added up to one update."})
    max_grad_norm: float | None = field(default=None, metadata={"help": "Clip gradients to this norm; off by default."})
    mixed_precision: str | None = field(
        default=None,
        metadata={"choices": ["no", "bf16", "fp16"], "help": "Of the model; by default what accelerate is set to."},
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations in the backward pass: less memory, more time."}
    )
    torch_compile: bool = field(default=False, metadata={"help": "Compile the model for training."})
    seed: int = field(default=42, metadata={"help": "Of order, augmentation, negatives, masks and dropout."})


@dataclass
class LoggingArguments(ArgumentGroup):
    """What to tell while training."""

    _argument_group_name = "logging"
    at_least = {"logging_steps": 1, "eval_steps": 1}

    logging_steps: int = field(
        default=50, metadata={"help": "A line of log.jsonl and to trackers every so many updates."}
    )
    eval_steps: int | None = field(
        default=None, metadata={"help": "Evaluate every so many updates; by default after each epoch."}
    )
    report_to: list[str] = field(
        default_factory=list,
        metadata={"help": "Trackers of Accelerate: tensorboard, trackio, wandb, ...; none by default."},
    )


def make_accelerator(optimization: OptimizationArguments, logging: LoggingArguments, output_dir: str) -> Accelerator:
    """An accelerator for [`Training`], its trackers not yet begun; an `InputError` for a tracker that is not there."""
    available = {str(name) for name in get_available_trackers()}
    trackers = [name for name in logging.report_to if name != "none"]
    for name in trackers:
        if name not in available:
            installed = ", ".join(sorted(available)) or "none"
            raise InputError(f"--report_to {name}: is not among the trackers that are installed: {installed}.")
    return Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=optimization.mixed_precision,
        log_with=trackers or None,
        project_dir=output_dir,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Training:
    """Trains a model, from a checkpoint on if there is one, and saves it where it is best, or else after each epoch.

    Args:
        accelerator: of [`make_accelerator`].
        model: returns `loss`, and other losses whose names begin with `loss_`, for a batch given as keyword arguments.
        loader: batches of this process, and where they are.
        args: see [`OptimizationArguments`].
        checkpoints: where to go on from, and where to write to.
        save: is called on all processes with the bare model and its whole state dict (which other processes than the
            main one may lack).
        validate: gives a score of the bare model, higher is better (`None`: the latest is the best), and metrics.
        logging: see [`LoggingArguments`].
        to_model_inputs: what is still to be done to a batch on the device, as [`loaders.to_model_inputs`].
        bad_videos: takes the videos that batches report as bad.
        steps_before: what trackers have seen of earlier stages.
    """

    accelerator: Accelerator
    model: PreTrainedModel
    loader: TrainingLoader
    args: OptimizationArguments
    checkpoints: Checkpoints
    save: Callable[[PreTrainedModel, dict], None]
    validate: Callable[[PreTrainedModel], tuple[float | None, dict[str, float]]] | None = None
    logging: LoggingArguments = field(default_factory=LoggingArguments)
    to_model_inputs: Callable[[dict], dict] = dict
    bad_videos: BadVideoReport | None = None
    steps_before: int = 0

    def __post_init__(self):
        args = self.args
        if args.gradient_checkpointing:
            self.model.activation_checkpointing_enable()
        if args.torch_compile:
            self.model.compile()
        shard(self.accelerator, self.model)
        self.model, self.optimizer = self.accelerator.prepare(self.model, make_optimizer(self.model, args))
        self.num_steps, num_warmup_steps = count_steps(self.loader, args)
        # Not prepared: a prepared scheduler steps once per process at each update.
        optimizer = self.optimizer.optimizer
        self.scheduler = cosine_schedule(optimizer, num_warmup_steps, self.num_steps, args.min_lr_multi)
        self.state = self.checkpoints.load(self.accelerator, self.loader)
        self.scheduler.last_epoch = self.state.step  # on which alone the learning rate depends
        self.log = Log(self.accelerator, self.checkpoints.folder / "log.jsonl", self.state, self.steps_before)
        self.num_skipped_in_a_row, self.must_stop = 0, False

    def run(self) -> TrainingState:
        """Train to the end.

        Returns:
            How it ended; `best_epoch` and `best_step` are those saved last.

        Raises:
            InputError: on all processes, when one of them cannot read a batch, or no loss is finite any more.
            SystemExit: with 0, after a checkpoint, when SIGTERM comes.
        """
        state = self.state
        with StopRequest() as self.stop, self.progress_bar() as self.progress:
            if state.evaluation_is_due:
                self.evaluate()
            while not self.is_done:
                if state.epoch_is_done:
                    state.epoch, state.epoch_is_done = state.epoch + 1, False
                    state.epoch_meter, state.num_bad_videos = {}, 0
                self.train_one_epoch()
        return state

    @property
    def bare_model(self) -> PreTrainedModel:
        return self.accelerator.unwrap_model(self.model)

    @property
    def is_done(self) -> bool:
        state = self.state
        if state.step >= self.num_steps:
            return True
        return self.args.max_steps is None and state.epoch_is_done and state.epoch >= self.args.num_train_epochs

    def progress_bar(self) -> tqdm:
        is_watched = sys.stderr.isatty()
        return tqdm(desc="training", total=self.num_steps, initial=self.state.step, unit="step", disable=not is_watched)

    def train_one_epoch(self):
        """The epoch, or what is left of it."""
        state, accelerator = self.state, self.accelerator
        self.loader.set_epoch(state.epoch)
        self.batches = TimedBatches(self.loader, self.bad_videos)
        self.model.train()
        while group := list(islice(self.batches, self.args.gradient_accumulation_steps)):
            self.update(group)
            state.step += 1
            self.progress.update()
            if is_multiple(state.step, self.logging.logging_steps):
                self.log_losses()
            if state.step == self.num_steps:
                break
            state.evaluation_is_due = is_multiple(state.step, self.logging.eval_steps)
            if self.must_stop or state.evaluation_is_due or is_multiple(state.step, self.checkpoints.args.save_steps):
                self.checkpoint()
            if self.must_stop:
                accelerator.print(
                    f"SIGTERM: stopped after update {state.step}; --resume_from_checkpoint latest goes on."
                )
                sys.exit(0)
            if state.evaluation_is_due:
                self.evaluate()
        if not state.epoch_meter and not state.num_skipped:
            raise InputError("There is nothing to train on: an epoch has no batch.")
        state.epoch_is_done = True
        self.report_epoch()
        state.evaluation_is_due = self.logging.eval_steps is None or self.is_done
        self.checkpoint()  # before evaluation, so that an end within it loses nothing
        if state.evaluation_is_due:
            self.evaluate()

    def update(self, batches: list[dict]):
        """One step of the optimizer, by the mean gradient of some batches."""
        accelerator, state = self.accelerator, self.state
        losses = {}
        names = [name for batch in batches for name in batch.pop("videos", ["unknown"])]
        for batch in batches:
            inputs = self.to_model_inputs(send_to_device(batch, accelerator.device, non_blocking=True))
            # Gradients of processes are averaged once, with the last batch.
            with nullcontext() if batch is batches[-1] else accelerator.no_sync(self.model):
                outputs = self.model(**inputs)
                accelerator.backward(outputs.loss / len(batches))
            for name, value in outputs.items():
                if name.startswith("loss") and value is not None:
                    losses[name] = losses.get(name, 0) + value.detach().float() / len(batches)
        grad_norm = accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm or math.inf)
        grad_norm = grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else grad_norm
        losses = self.mean_of_processes(losses, grad_norm.item())
        if losses is None:
            self.skip(", ".join(names))
        else:
            for meter in (state.meter, state.epoch_meter):
                for name, value in (losses | {"updates": 1.0}).items():
                    meter[name] = meter.get(name, 0.0) + value
        if losses is not None or accelerator.scaler is not None:  # a scaler finds out by itself, and must
            self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()

    def mean_of_processes(self, losses: dict[str, torch.Tensor], grad_norm: float) -> dict[str, float] | None:
        """Losses and norm as floats, averaged; None where one is not finite. Processes also agree on stopping."""
        # Under a gradient scaler, gradients that overflow belong to finding its scale: it leaves out such updates.
        is_bad = self.accelerator.scaler is None and not math.isfinite(grad_norm)
        own = torch.stack(
            [*losses.values(), losses["loss"].new_tensor(is_bad), losses["loss"].new_tensor(self.stop.came)]
        )
        *means, is_bad, must_stop = self.accelerator.reduce(own, "mean").tolist()
        self.must_stop = must_stop > 0
        if is_bad or not all(map(math.isfinite, means)):
            return None
        self.num_skipped_in_a_row = 0
        return dict(zip(losses, means, strict=True)) | ({"grad_norm": grad_norm} if math.isfinite(grad_norm) else {})

    def skip(self, names: str):
        """Leave an update out whose loss or gradient is not finite; give up after too many in a row."""
        self.state.num_skipped += 1
        self.num_skipped_in_a_row += 1
        message = f"update {self.state.step + 1} of epoch {self.state.epoch}: the loss or its gradient is not finite"
        if self.num_skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"{message}, as in the {MAX_SKIPPED_IN_A_ROW - 1} before it; a lower --learning_rate, --max_grad_norm "
                f"or --mixed_precision no may help. The last clips: {names:.2000}."
            )
        self.accelerator.print(f"{message}; skipped. Its clips: {names:.2000}.", flush=True)

    def checkpoint(self):
        self.write_bad_videos()  # those found so far would be forgotten
        self.checkpoints.save(self.accelerator, self.loader, self.state)

    def evaluate(self):
        """Score the model, and save it if there is none better; without a score, the latest is the best."""
        state, report = self.state, [f"step {self.state.step}"]
        score = None
        if self.validate is not None:
            # Evaluating must not change what training draws next.
            with self.stop.anywhere(), torch.random.fork_rng(), whole(self.accelerator, self.bare_model):
                score, metrics = self.validate(self.bare_model)
            self.model.train()
            self.log.write(state, metrics)
            if score is not None:
                report.append(f"validation {score:.2f}")
        if score is None or state.best_score is None or score > state.best_score:
            state.best_score, state.best_epoch, state.best_step = score, state.epoch, state.step
            self.save(self.bare_model, full_state_dict(self.accelerator, self.model))
            report.append("saved")
        if self.validate is not None:
            self.accelerator.print(", ".join(report), flush=True)
        state.evaluation_is_due = False
        self.checkpoint()

    def log_losses(self):
        """A line of the log: means since the last one, and how it stands."""
        state = self.state
        entry = means(state.meter) | {"learning_rate": self.scheduler.get_last_lr()[0]} | self.batches.rates()
        if (temperature := getattr(self.bare_model, "temp", None)) is not None:
            entry["temperature"] = temperature.item()
        entry |= {"skipped_updates": state.num_skipped, "bad_videos": self.write_bad_videos()}
        self.log.write(state, entry)
        state.meter = {}
        self.progress.set_postfix({name: f"{value:.3f}" for name, value in entry.items() if name.startswith("loss")})

    def report_epoch(self):
        state = self.state
        losses = means(state.epoch_meter)
        losses = {name: losses[name] for name in sorted(losses) if name.startswith("loss")}
        state.history.append({"epoch": state.epoch} | losses)
        report = [f"{name} {loss:.4f}" for name, loss in losses.items()] + [self.batches.report()]
        if num_bad := self.write_bad_videos():
            report.append(f"bad videos skipped: {num_bad} (see {self.bad_videos.path})")
        self.accelerator.print(f"epoch {state.epoch}, step {state.step}: {', '.join(report)}", flush=True)

    def write_bad_videos(self) -> int:
        """Write down those found since the last time; how many there were in this epoch."""
        if self.bad_videos is not None:
            self.state.num_bad_videos += self.bad_videos.write("train", self.state.epoch)
        return self.state.num_bad_videos


def make_optimizer(model: PreTrainedModel, args: OptimizationArguments) -> torch.optim.AdamW:
    if (args.larger_lr is None) != (not args.larger_lr_names):
        raise InputError("--larger_lr and --larger_lr_names go together.")
    try:
        names, parameters = args.larger_lr_names, model.named_parameters()
        return torch.optim.AdamW(
            parameter_groups(parameters, args.learning_rate, args.weight_decay, args.larger_lr, names)
        )
    except ValueError as error:
        raise InputError(f"--larger_lr_names: {error}") from error


def count_steps(loader: TrainingLoader, args: OptimizationArguments) -> tuple[int, float]:
    """Updates in all, and of the warm-up; an `InputError` where a stream cannot tell."""
    try:
        per_epoch = math.ceil(len(loader) / args.gradient_accumulation_steps)  # type: ignore[arg-type]
    except TypeError as error:
        if args.max_steps is None or (args.warmup_epochs and args.warmup_steps is None):
            raise InputError(
                "A stream does not know its length: give --max_steps instead of epochs, and --warmup_steps instead of "
                "--warmup_epochs."
            ) from error
        per_epoch = 0
    num_steps = args.num_train_epochs * per_epoch if args.max_steps is None else args.max_steps
    return num_steps, args.warmup_epochs * per_epoch if args.warmup_steps is None else args.warmup_steps


def is_multiple(step: int, interval: int | None) -> bool:
    return interval is not None and step % interval == 0


def means(meter: dict[str, float]) -> dict[str, float]:
    """Sums over updates, divided by their number."""
    return {name: total / meter["updates"] for name, total in meter.items() if name != "updates"}


# ---------------------------------------------------------------------------------------------------------------------
# What is told
# ---------------------------------------------------------------------------------------------------------------------


class Log:
    """Lines of `log.jsonl`, {"step", "epoch", ...}, which also go to trackers.

    Args:
        path: of the file; lines of an earlier run after `state` are removed.
        state: where this run begins.
        steps_before: added to the steps that trackers see.
    """

    def __init__(self, accelerator: Accelerator, path: Path, state: TrainingState, steps_before: int = 0):
        self.accelerator, self.path, self.steps_before = accelerator, path, steps_before
        if accelerator.is_main_process and path.is_file():
            lines = path.read_text().splitlines() if state.step else []
            # Half a line may be left by a crash; an evaluation that is due will be told again.
            kept = [line for line in lines if line.endswith("}") and not is_to_come(json.loads(line), state)]
            path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, state: TrainingState, metrics: dict[str, float]):
        if self.accelerator.is_main_process:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a") as file:
                    file.write(json.dumps({"step": state.step, "epoch": state.epoch} | metrics) + "\n")
        self.accelerator.log({"epoch": state.epoch} | metrics, step=self.steps_before + state.step)


def is_to_come(entry: dict, state: TrainingState) -> bool:
    """Whether a run that goes on from a state will write this line of a log."""
    is_evaluation = "learning_rate" not in entry
    return entry["step"] > state.step or (entry["step"] == state.step and is_evaluation and state.evaluation_is_due)


class TimedBatches:
    """The batches of an epoch, as many on all processes, and how much of the time was spent waiting for them."""

    def __init__(self, loader: TrainingLoader, bad_videos: BadVideoReport | None = None):
        self.batches, self.bad_videos = iter(loader), bad_videos
        self.start = self.start_of_window = time.perf_counter()
        self.waited = self.waited_before_window = 0.0
        self.num_clips = self.num_clips_before_window = 0

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict:
        before = time.perf_counter()
        batch = next_of_all(self.batches)
        self.waited += time.perf_counter() - before
        if batch is None:
            raise StopIteration
        if self.bad_videos is not None:
            self.bad_videos.take_from(batch)
        self.num_clips += len(next(iter(batch.values())))
        batch.pop("medium", None)
        return batch

    def rates(self) -> dict[str, float]:
        """Since the last call: clips per second of all processes, and the share of time that this one waited."""
        now = time.perf_counter()
        elapsed = now - self.start_of_window
        rates = {
            "clips_per_second": self.all_clips(self.num_clips - self.num_clips_before_window) / elapsed,
            "data_wait": (self.waited - self.waited_before_window) / elapsed,
        }
        self.start_of_window = now
        self.waited_before_window, self.num_clips_before_window = self.waited, self.num_clips
        return rates

    def report(self) -> str:
        """Of the epoch: clips per second, and which share of the time went by waiting for data."""
        elapsed = time.perf_counter() - self.start
        speed = self.all_clips(self.num_clips) / elapsed
        return f"{speed:.1f} clips/s, {self.waited / elapsed:.0%} of the time waiting for data"

    @staticmethod
    def all_clips(own: int) -> int:
        """Of all processes, whose batches have the same size."""
        return own * PartialState().num_processes


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
