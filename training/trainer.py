# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Training: `transformers.Trainer` with the batches, parameter groups, learning rates and evaluations of SViTT.

The loop, launch, precision, accumulation and trackers are Trainer's. A run that was killed, or saved itself at SIGTERM,
and is resumed ends with the weights of one that was left alone, to the bit: what a batch holds is a function of the
seed, the epoch and its place; evaluation leaves the random states of training as they are; and only a checkpoint that
all processes have finished is resumed.
"""

import copy
import math
import re
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, set_seed
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import (
    DefaultFlowCallback,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.hf_argparser import HfArg
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_NAME, flatten_dict
from transformers.utils.logging import disable_progress_bar

from ..data.loaders import BadVideoReport
from ..distributed import fail_together
from ..errors import ArgumentError, InputError, check_number, writing
from . import profiling
from .checkpoints import complete, find_checkpoint, remove_after
from .optimization import cosine_schedule, parameter_groups

# So many updates in a row whose loss or gradient is not finite are no accident.
MAX_SKIPPED_IN_A_ROW = 10
# What is printed of neither the log nor evaluations; trackers and trainer_state.json have it.
NOT_PRINTED = re.compile("total_flos|_chance_|_most_frequent_|_num_|_coverage|_txt_|_img_")
NOT_NEGATIVE = ("learning_rate", "larger_lr", "warmup_epochs", "min_lr_multi", "weight_decay", "max_grad_norm")
COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
COUNTS += ("num_train_epochs", "save_total_limit")


def default(name: str, value: Any) -> Any:
    """Return a field of `TrainingArguments` with another default."""
    return field(default=value, metadata=TrainingArguments.__dataclass_fields__[name].metadata)


@dataclass
class SViTTTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the original's settings as defaults, and with those it lacks."""

    output_dir: str = HfArg(help="Folder for results, checkpoints and, after training, the model.")
    larger_lr: float | None = HfArg(default=None, help="Peak learning rate of the parameters of --larger_lr_names.")
    larger_lr_names: list[str] = HfArg(default_factory=list, help="Parts of names, such as relative_position_bias.")
    warmup_epochs: float = HfArg(default=0.0, help="Linear warm-up in epochs; where 0, --warmup_steps counts.")
    min_lr_multi: float = HfArg(default=0.1, help="The learning rate never falls below this share of its peak.")
    lr_scheduler_type: str = HfArg(default="cosine", help="Half a cosine, cut off at the floor, or Transformers'.")
    eval_steps: float | None = HfArg(default=None, help="Evaluate every so many updates instead of after each epoch.")
    save_steps: float | None = HfArg(default=None, help="A checkpoint every so many updates instead of each epoch.")
    resume_from_checkpoint: str | None = HfArg(default=None, help="`latest` of --output_dir, if any, or a folder.")
    learning_rate: float = default("learning_rate", 1e-5)
    weight_decay: float = default("weight_decay", 0.02)
    max_grad_norm: float = default("max_grad_norm", 0.0)
    num_train_epochs: float = default("num_train_epochs", 10.0)
    per_device_train_batch_size: int = default("per_device_train_batch_size", 32)
    per_device_eval_batch_size: int = default("per_device_eval_batch_size", 32)
    logging_steps: float = default("logging_steps", 50)
    eval_strategy: str = default("eval_strategy", "epoch")
    save_strategy: str = default("save_strategy", "epoch")
    save_total_limit: int | None = default("save_total_limit", 1)
    hub_strategy: str = default("hub_strategy", "end")
    ddp_find_unused_parameters: bool | None = default("ddp_find_unused_parameters", False)
    disable_tqdm: bool | None = default("disable_tqdm", not sys.stderr.isatty())

    def __post_init__(self):
        for name in (*NOT_NEGATIVE, *COUNTS):
            check_number(name, getattr(self, name), 1 if name in COUNTS else 0)
        if (self.larger_lr is None) != (not self.larger_lr_names):
            raise InputError("--larger_lr and --larger_lr_names go together.")
        for kind in ("eval", "save"):
            if getattr(self, f"{kind}_steps") and getattr(self, f"{kind}_strategy") == "epoch":
                setattr(self, f"{kind}_strategy", "steps")
        self.save_steps = self.save_steps or 500  # Trainer's, of no effect with `epoch`
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()  # else CPU processes would not find others
        try:
            super().__post_init__()
        except ValueError as error:
            raise InputError(" ".join(str(error).split())) from error
        installed = get_available_reporting_integrations()
        if unknown := sorted(set(self.report_to) - set(installed)):
            known = ", ".join(sorted(installed)) or "none"
            raise ArgumentError("report_to", f"{unknown[0]} is not among the trackers that are installed: {known}")
        if not sys.stderr.isatty():
            disable_progress_bar()
        if (num_gpus := super().n_gpu) > 1:
            warnings.warn(f"One of {num_gpus} GPUs is used; `accelerate launch` uses all.", stacklevel=3)

    @property
    def n_gpu(self) -> int:
        """At most one for a process: `DataParallel`, which Trainer would take for more, cuts batches apart anywhere."""
        return min(super().n_gpu, 1)


class SViTTTrainer(Trainer):
    """Trains a SViTT.

    Args:
        model: returns `loss`, and others whose names begin with `loss_`, as means over a batch.
        args: settings of the run; `save_total_limit` counts complete checkpoints.
        train_loader: batches of `loaders.training_loader`.
        to_model_inputs: finishes a batch on the device, such as `loaders.to_model_inputs`.
        evaluate_split: returns predictions of the bare model on a split, and metrics, as dictionaries of dictionaries,
            whose names are joined for the log: `eval_<split>_<name>_<name>`.
        eval_splits: names of the splits to evaluate while training.
        stop_metrics: `<split>_<name>_<name>`, the best of which, logged as `eval_stop_metric`, is highest for the model
            to keep; by default the last model is kept.
        bad_videos: collects the videos that batches report as bad, by default in `output_dir`.
        kwargs: further arguments of `Trainer`.

    Raises:
        InputError: when training cannot be published as asked.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: SViTTTrainingArguments,
        train_loader: DataLoader | None = None,
        to_model_inputs: Callable[[dict], dict] = dict,
        evaluate_split: Callable[[PreTrainedModel, str], tuple[Any, Mapping]] | None = None,
        *,
        eval_splits: Sequence[str] = (),
        stop_metrics: Sequence[str] = (),
        bad_videos: BadVideoReport | None = None,
        **kwargs,
    ):
        args = copy.copy(args)
        # Trainer would remove old checkpoints before other processes have written theirs, and by their dates.
        self.num_checkpoints, args.save_total_limit = args.save_total_limit or sys.maxsize, None
        args.eval_strategy = args.eval_strategy if eval_splits else "no"
        weights = getattr(getattr(model, "config", None), "loss_weight", {})
        if 0 in (weights.get("itm"), weights.get("mlm")):  # what serves such a loss alone gets no gradient
            args.ddp_find_unused_parameters = True
        self.stop_metrics = [f"eval_{name}" for name in stop_metrics]
        if stop_metrics:
            args.metric_for_best_model, args.greater_is_better = "eval_stop_metric", True
        super().__init__(model, args, eval_dataset=list(eval_splits), **kwargs)
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback):
            self.add_callback(Bar)
        if isinstance(model, PreTrainedModel):
            vars(model.config).pop("use_cache", None)  # which Trainer sets, but SViTT's configuration has not
            # With these left out of a checkpoint, Trainer ties them when it resumes; it would warn of any others.
            model._keys_to_ignore_on_save = list(model.all_tied_weights_keys)
        self.train_loader, self.to_model_inputs, self.evaluate_split = train_loader, to_model_inputs, evaluate_split
        self.bad_videos = bad_videos or BadVideoReport(Path(args.output_dir) / "bad_videos.jsonl", resume=True)
        self.signal_number, self.signal_time, self.must_stop = 0, 0.0, False
        self.run = RunCallback(self)
        self.add_callback(self.run)
        if profiling.is_asked_for():
            self.add_callback(profiling.ProfileCallback())

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train_loader) / self.args.gradient_accumulation_steps)

    @property
    def best_step(self) -> int:
        """The step of the model that the run ends with."""
        return self.state.best_global_step or self.state.global_step

    @property
    def best_epoch(self) -> int:
        return math.ceil(self.best_step / self.steps_per_epoch)

    # ---- What Trainer lacks

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:  # type: ignore[has-type]
            args, model = self.args, model or self.model
            larger = args.larger_lr, args.larger_lr_names
            groups = parameter_groups(model.named_parameters(), args.learning_rate, args.weight_decay, *larger)
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, model)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        args, optimizer = self.args, optimizer or self.optimizer
        if args.lr_scheduler_type != "cosine":
            return super().create_scheduler(num_training_steps, optimizer)
        num_warmup_steps = args.warmup_epochs * self.steps_per_epoch or args.get_warmup_steps(num_training_steps)
        self.lr_scheduler = cosine_schedule(optimizer, num_warmup_steps, num_training_steps, args.min_lr_multi)
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by Accelerate, which would share the batches out again and draw from the global random state.
        return self.train_loader

    def get_batch_samples(self, epoch_iterator, num_batches: int, device) -> tuple[list[dict], None]:
        """Return the batches of an update; raise the error of one process on all."""
        start = time.perf_counter()
        batches, _ = fail_together(super().get_batch_samples, epoch_iterator, num_batches, device)
        self.run.begin_update(batches, time.perf_counter() - start)
        return batches, None  # no items are counted: losses are means over a batch

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**self.to_model_inputs(inputs))
        for name, value in outputs.items():
            if name.startswith("loss"):
                self.run.losses[name] += value.detach().float() / self.current_gradient_accumulation_steps
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Return metrics of the splits named, or of all, by `eval_<split>_<name>_<name>`.

        What training draws next is the same as without.
        """
        start, device = time.perf_counter(), self.args.device
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            splits = [eval_dataset] if isinstance(eval_dataset, str) else eval_dataset or self.eval_dataset
            metrics = {split: self.score(split)[1] for split in splits}
        metrics = flatten_dict(metrics, metric_key_prefix, "_")
        if found := [metrics[name] for name in self.stop_metrics if name in metrics]:
            metrics["eval_stop_metric"] = max(found)
        self.run.start += time.perf_counter() - start
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)  # type: ignore[has-type]
        return metrics

    def score(self, split: str) -> tuple[Any, Mapping]:
        """Return predictions and metrics of a split, in the precision of training; tell of its bad videos."""
        with self.accelerator.autocast():
            found = self.evaluate_split(self.model, split)
        if num_bad := self.bad_videos.write(split):
            which = f"{num_bad} videos are damaged or count as missed, see {self.bad_videos.path}"
            self.accelerator.print(f"{split}: {which}")
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None):
        super().log(logs | self.run.read() if "loss" in logs else logs, start_time)

    # ---- Runs

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs) -> TrainOutput:
        """Train, from a checkpoint on if one is given; `True` is the last, if there is one.

        Raises:
            InputError: on all processes, when one cannot read a batch, or no loss is finite any more.
            OutputError: when the disk does not take a checkpoint; those before it stay.
            SystemExit: after a checkpoint, with 0 when SIGTERM has come, with 130 after Ctrl-C.
        """
        output_dir = Path(self.args.output_dir)
        which = "latest" if resume_from_checkpoint is True else resume_from_checkpoint or None
        checkpoint = find_checkpoint(self.args.output_dir, which)
        set_seed(self.args.seed, device_specific=True)
        with writing(output_dir), self.noticing_signals():
            state = TrainerState()
            if checkpoint is not None:
                state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            if self.is_world_process_zero():
                remove_after(state.global_step, output_dir)
            self.accelerator.wait_for_everyone()
            if 0 < self.args.max_steps <= state.global_step:
                self.state = state  # Trainer would make one more update, where a run has ended within an epoch
                output = TrainOutput(state.global_step, 0.0, {})
            else:
                output = super().train(checkpoint and str(checkpoint), **kwargs)
            best = output_dir / f"checkpoint-{self.best_step}"
            if (weights := best / SAFE_WEIGHTS_NAME).is_file():
                self.model.load_state_dict(load_file(weights), strict=False)  # tied weights are saved once
            elif isinstance(name := getattr(self.model, "active_adapter", None), str):  # of a `PeftModel`
                adapter = best if name == "default" else best / name
                if (adapter / ADAPTER_SAFE_WEIGHTS_NAME).is_file():
                    self.model.load_adapter(adapter, name, is_trainable=True)
        return output

    @contextmanager
    def noticing_signals(self) -> Iterator[None]:
        """Notice SIGTERM and Ctrl-C, which the end of an update answers: `enable_jit_checkpoint` saves in the middle of
        one, whose draws would then be others, and without asking other processes."""

        def notice(number, frame):
            # A launcher passes Ctrl-C on, at once, to processes that have it from the terminal.
            if number == signal.SIGINT and 0 < self.signal_time < time.monotonic() - 3:
                raise KeyboardInterrupt
            self.signal_number, self.signal_time = number, self.signal_time or time.monotonic()

        handlers = {number: signal.signal(number, notice) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    # ---- Publishing

    def init_hf_repo(self, token: str | None = None, private: bool | None = None):
        try:
            super().init_hf_repo(token, private)
        except (OSError, ValueError) as error:  # all errors of huggingface_hub are one or the other
            raise InputError(f"--push_to_hub: {' '.join(str(error).split())}") from error


class Bar(ProgressCallback):
    """A bar with rate and time left, for a terminal; the lines of the log are those of [`RunCallback`]."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


class RunCallback(TrainerCallback):
    """Decides when to log and to save, leaves out updates that are not finite, completes checkpoints, and counts."""

    def __init__(self, trainer: SViTTTrainer):
        self.trainer = trainer
        self.num_skipped = self.num_skipped_in_a_row = self.num_bad_videos = 0
        self.restart()

    def restart(self):
        """Count from here on for the next line of the log."""
        self.start, self.waited, self.num_clips, self.num_updates = time.perf_counter(), 0.0, 0, 0
        self.sums = defaultdict(float)

    def begin_update(self, batches: list[dict], seconds: float):
        """Count the clips of its batches, for which the process waited so long, and take their names."""
        self.waited += seconds
        self.num_clips += sum(len(next(iter(batch.values()))) for batch in batches)
        self.names = [name for batch in batches for name in batch.pop("videos", ["unknown"])]
        self.losses = defaultdict(float)
        for batch in batches:
            self.trainer.bad_videos.take_from(batch)

    def read(self) -> dict[str, float]:
        """Return what was counted since the last line of the log, but for `loss`, which is Trainer's."""
        accelerator, seconds = self.trainer.accelerator, time.perf_counter() - self.start
        means = {name: total / self.num_updates for name, total in self.sums.items() if name != "loss"}
        found = {name: accelerator.reduce(mean, "mean").item() for name, mean in means.items()}
        found["clips_per_second"] = accelerator.num_processes * self.num_clips / seconds
        found |= {"data_wait": self.waited / seconds, "skipped_updates": self.num_skipped}
        left = self.trainer.state.max_steps - self.trainer.state.global_step
        found["minutes_left"] = left * seconds / max(1, self.num_updates) / 60
        if (temperature := getattr(self.trainer.model, "temp", None)) is not None:
            found["temperature"] = temperature.item()
        self.write_bad_videos()
        self.restart()
        return found | {"bad_videos": self.num_bad_videos}

    def write_bad_videos(self):
        self.num_bad_videos += self.trainer.bad_videos.write("train")

    def on_epoch_begin(self, args, state, control, **kwargs):
        # From 0, as Trainer does for an epoch within which it resumes.
        self.trainer.train_loader.batch_sampler.set_epoch(state.global_step // self.trainer.steps_per_epoch)
        self.restart()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        accelerator, value = self.trainer.accelerator, self.losses["loss"]
        parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        if accelerator.scaler is None:  # which leaves out by itself what overflows, to find its scale
            value = value + torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        own = torch.stack([value, value.new_tensor(float(self.trainer.signal_number > 0))])
        total, num_signalled = accelerator.reduce(own).tolist()
        self.trainer.must_stop = num_signalled > 0
        if math.isfinite(total):
            self.num_updates, self.num_skipped_in_a_row = self.num_updates + 1, 0
            for name, loss in self.losses.items():
                self.sums[name] += loss
            return
        self.num_skipped, self.num_skipped_in_a_row = self.num_skipped + 1, self.num_skipped_in_a_row + 1
        message = f"update {state.global_step + 1}: the loss or its gradient is not finite"
        names = f"{', '.join(gather_object(self.names)):.2000}"
        if self.num_skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"{message}, as in the {MAX_SKIPPED_IN_A_ROW - 1} before it; a lower --learning_rate, --max_grad_norm "
                f"or float32 may help. The last clips: {names}."
            )
        accelerator.print(f"{message}; skipped. Its clips: {names}.", flush=True)
        for parameter in parameters if accelerator.scaler is None else ():
            parameter.grad = None  # which the optimizer leaves out

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer.must_stop:
            control.should_save = control.should_training_stop = True
        # What Trainer does after an epoch is done now, so that there is one checkpoint, with the scores.
        if state.global_step % self.trainer.steps_per_epoch == 0 or state.global_step == state.max_steps:
            DefaultFlowCallback().on_epoch_end(args, state, control)
            control.should_log = True

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_evaluate = control.should_save = False

    def on_evaluate(self, args, state, control, **kwargs):
        control.should_save = control.should_save or args.save_strategy != "no"  # scores are part of the state

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            shown = (f"{name} {value:.4g}" for name, value in logs.items() if not NOT_PRINTED.search(name))
            tqdm.write(f"update {state.global_step}/{state.max_steps}: {', '.join(shown)}")
            sys.stdout.flush()

    def on_save(self, args, state, control, **kwargs):
        trainer = self.trainer
        self.write_bad_videos()  # those found so far would be forgotten
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            complete(Path(args.output_dir), state, trainer.num_checkpoints)
        trainer.accelerator.wait_for_everyone()
        if trainer.must_stop:
            text = f"stopped and saved after update {state.global_step}; --resume_from_checkpoint latest continues."
            trainer.accelerator.print(text, flush=True)
            sys.exit(130 if trainer.signal_number == signal.SIGINT else 0)
