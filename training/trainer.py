# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Training: `transformers.Trainer` with the batches, parameter groups, learning rates and evaluations of SViTT.

The loop, launch, precision, accumulation and trackers are Trainer's. A run that was killed, or saved itself at SIGTERM,
and is resumed ends with the weights of one that was left alone, to the bit: what a batch holds is a function of the
seed, the epoch and its place; evaluation leaves the random states of training as they are; and only a checkpoint that
all processes have finished is resumed.
"""

import copy
import math
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from huggingface_hub import HfApi
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.utils import SAFE_WEIGHTS_NAME

from ..data.loaders import BadVideoReport
from ..distributed import BAD_INPUT, fail_together
from ..errors import InputError, check_number, writing
from .checkpoints import check_num_processes, complete, read_state, remove_after, step_of
from .optimization import cosine_schedule, parameter_groups

# So many updates in a row whose loss or gradient is not finite are no accident.
MAX_SKIPPED_IN_A_ROW = 10
# Of a run's folder, what is published: other files tell about the data and the machine.
PUBLISHED = ["README.md", "*.py", "*config.json", "tokenizer*", "*.txt", "model*.safetensors", "answer_list.json"]
NOT_NEGATIVE = ("learning_rate", "larger_lr", "warmup_epochs", "min_lr_multi", "weight_decay", "max_grad_norm")
COUNTS = (
    "num_train_epochs",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "save_total_limit",
)


def option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class SViTTTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the original's settings as defaults, and with those it lacks."""

    output_dir: str = field(metadata={"help": "Folder for results, checkpoints and, after training, the model."})
    learning_rate: float = option(1e-5, "Peak learning rate.")
    larger_lr: float | None = option(None, "Peak learning rate of the parameters named by --larger_lr_names.")
    larger_lr_names: list[str] = field(
        default_factory=list, metadata={"help": "Parts of parameter names, such as relative_position_bias_table."}
    )
    warmup_epochs: float = option(0.0, "Length of the linear warm-up in epochs; where 0, --warmup_steps counts.")
    min_lr_multi: float = option(0.1, "The learning rate never falls below this share of its peak.")
    lr_scheduler_type: str = option("cosine", "Half a cosine, cut off at the floor; all others are Transformers'.")
    weight_decay: float = option(0.02, "Of all but biases and 1-D parameters.")
    max_grad_norm: float = option(0.0, "Clip gradients to this norm; 0 is off.")
    num_train_epochs: float = option(10.0, "Passes over the training data.")
    per_device_train_batch_size: int = option(32, "Rows in a batch of one process.")
    per_device_eval_batch_size: int = option(32, "Videos encoded at once by one process.")
    logging_steps: float = option(50, "A line of the log every so many updates, besides those after each epoch.")
    eval_strategy: str = option("epoch", "Evaluate after each `epoch`, every --eval_steps (`steps`), or `no`.")
    eval_steps: float | None = option(None, "Evaluate every so many updates.")
    save_strategy: str = option("epoch", "A checkpoint after each `epoch`, every --save_steps (`steps`), or `no`.")
    save_steps: float | None = option(None, "A checkpoint every so many updates, besides those with evaluations.")
    save_total_limit: int | None = option(1, "Checkpoints kept, the latest, besides the best.")
    resume_from_checkpoint: str | None = option(
        None, "`latest` of --output_dir (the beginning if there is none), or the folder of a checkpoint."
    )
    report_to: None | str | list[str] = option("none", "Trackers: tensorboard, trackio, wandb, ...")
    hub_strategy: str = option("end", "When to publish the model.")
    remove_unused_columns: bool = option(False, "Of no use: batches are made by the loader.")
    ddp_find_unused_parameters: bool | None = option(False, "Every parameter has a part in the loss.")

    def __post_init__(self):
        # For settings.yaml; what follows fills in more.
        self.given = {one.name: getattr(self, one.name) for one in fields(self) if one.init}
        for name in (*NOT_NEGATIVE, *COUNTS):
            check_number(name, getattr(self, name), 1 if name in COUNTS else 0)
        if (self.larger_lr is None) != (not self.larger_lr_names):
            raise InputError("--larger_lr and --larger_lr_names go together.")
        for kind in ("eval", "save"):
            if getattr(self, f"{kind}_steps") and getattr(self, f"{kind}_strategy") == "epoch":
                setattr(self, f"{kind}_strategy", "steps")
        self.save_steps = self.save_steps or 500  # Trainer's, of no effect with `epoch`
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()  # else CPU processes would not find others
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()
        try:
            super().__post_init__()
        except ValueError as error:
            raise InputError(" ".join(str(error).split())) from error
        installed = get_available_reporting_integrations()
        for name in self.report_to:
            if name not in installed:
                known = ", ".join(sorted(installed)) or "none"
                raise InputError(f"--report_to {name}: is not among the trackers that are installed: {known}.")


class SViTTTrainer(Trainer):
    """Trains a SViTT.

    Args:
        model: returns `loss`, and others whose names begin with `loss_`, as means over a batch.
        args: settings of the run; `save_total_limit` counts complete checkpoints.
        train_loader: batches of `loaders.training_loader`.
        to_model_inputs: finishes a batch on the device, such as `loaders.to_model_inputs`.
        validate: returns metrics of the bare model on a split, logged as `eval_<split>_<metric>`.
        eval_splits: names of the splits to evaluate while training.
        stop_metric: `<split>_<metric>` that is highest for the model to keep; by default the last model is kept.
        bad_videos: collects the videos that batches report as bad.
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
        validate: Callable[[PreTrainedModel, str], Mapping[str, float]] | None = None,
        *,
        eval_splits: Sequence[str] = (),
        stop_metric: str | None = None,
        bad_videos: BadVideoReport | None = None,
        **kwargs,
    ):
        args = copy.copy(args)
        # Trainer would remove old checkpoints before other processes have written theirs, and by their dates.
        self.num_checkpoints, args.save_total_limit = args.save_total_limit or sys.maxsize, None
        if not eval_splits:
            args.eval_strategy = "no"
        elif stop_metric is not None and args.save_strategy != "no":
            args.metric_for_best_model, args.greater_is_better = f"eval_{stop_metric}", True
            args.load_best_model_at_end = True
        super().__init__(model, args, eval_dataset=list(eval_splits), **kwargs)
        if hasattr(model, "config"):
            vars(model.config).pop("use_cache", None)  # which Trainer sets, but SViTT's configuration has not
        self.train_loader, self.to_model_inputs, self.validate = train_loader, to_model_inputs, validate
        self.bad_videos, self.meter = bad_videos, Meter()
        self.sigterm_came = self.must_stop = False
        self.add_callback(RunCallback(self))

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train_loader) / self.args.gradient_accumulation_steps)

    @property
    def best_step(self) -> int:
        """The step of the model that the run ends with."""
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        return step_of(Path(best)) if best else self.state.global_step

    @property
    def best_epoch(self) -> int:
        return math.ceil(self.best_step / self.steps_per_epoch)

    # ---- What Trainer lacks

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            args, model = self.args, model or self.model
            larger = args.larger_lr, args.larger_lr_names
            try:
                groups = parameter_groups(model.named_parameters(), args.learning_rate, args.weight_decay, *larger)
            except ValueError as error:
                raise InputError(f"--larger_lr_names: {error}") from error
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, model)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        args = self.args
        if args.lr_scheduler_type != "cosine":
            return super().create_scheduler(num_training_steps, optimizer)
        num_warmup_steps = args.warmup_epochs * self.steps_per_epoch or args.get_warmup_steps(num_training_steps)
        optimizer = optimizer or self.optimizer
        self.lr_scheduler = cosine_schedule(optimizer, num_warmup_steps, num_training_steps, args.min_lr_multi)
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by Accelerate, which would share the batches out again and draw from the global random state.
        return self.train_loader

    def get_batch_samples(self, epoch_iterator, num_batches: int, device) -> tuple[list[dict], None]:
        """Return the batches of an update; raise the error of one process on all, and agree on SIGTERM."""
        start, batches, problem = time.perf_counter(), [], None
        try:
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        except BAD_INPUT as error:
            problem = error
        flags = torch.tensor([problem is not None, self.sigterm_came], device=device).float()
        has_failed, self.must_stop = self.accelerator.reduce(flags).bool().tolist()
        if has_failed:
            fail_together(raise_if, problem)
        self.meter.begin_update(batches, time.perf_counter() - start)
        for batch in batches:
            if self.bad_videos is not None:
                self.bad_videos.take_from(batch)
        return batches, None  # no items are counted: losses are means over a batch

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**self.to_model_inputs(inputs))
        for name, value in outputs.items():
            if name.startswith("loss"):
                self.meter.add(name, value.detach().float() / self.current_gradient_accumulation_steps)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Return the metrics of all splits to evaluate, by `eval_<split>_<metric>`; what training draws next stays."""
        start, device, metrics = time.perf_counter(), self.args.device, {}
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            for split in eval_dataset or self.eval_dataset:
                for name, value in self.validate(self.model, split).items():
                    metrics[f"{metric_key_prefix}_{split}_{name}"] = value
        self.meter.start += time.perf_counter() - start
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None):
        if "loss" in logs:
            logs |= self.meter.read(self.accelerator)
            if (temperature := getattr(self.model, "temp", None)) is not None:
                logs["temperature"] = temperature.item()
            logs["bad_videos"] = self.write_bad_videos()
        super().log(logs, start_time)

    def write_bad_videos(self) -> int:
        """Write down those found since the last time; return how many batches of this run have reported."""
        if self.bad_videos is not None:
            self.meter.num_bad_videos += self.bad_videos.write("train")
        return self.meter.num_bad_videos

    # ---- Runs

    def train(self, resume_from_checkpoint: Path | None = None, **kwargs):
        """Train, from a checkpoint of `checkpoints.find_checkpoint` on if there is one.

        Raises:
            InputError: on all processes, when one cannot read a batch, or no loss is finite any more.
            OutputError: when the disk does not take a checkpoint; those before it stay.
            SystemExit: with 0, after a checkpoint, when SIGTERM has come.
        """
        output_dir = Path(self.args.output_dir)
        set_seed(self.args.seed, device_specific=True)
        with writing(output_dir), self.noticing_sigterm():
            state = read_state(resume_from_checkpoint) if resume_from_checkpoint else TrainerState()
            if resume_from_checkpoint:
                check_num_processes(resume_from_checkpoint, self.args.world_size)
            if self.is_world_process_zero():
                remove_after(state.global_step, output_dir)
            self.accelerator.wait_for_everyone()
            if not 0 < self.args.max_steps <= state.global_step:
                return super().train(resume_from_checkpoint and str(resume_from_checkpoint), **kwargs)
            # The run has ended: Trainer would make one more update, as this may be within an epoch.
            self.state = state
            weights = load_file(output_dir / f"checkpoint-{self.best_step}" / SAFE_WEIGHTS_NAME)
            self.model.load_state_dict(weights, strict=False)  # tied weights are saved once

    @contextmanager
    def noticing_sigterm(self) -> Iterator[None]:
        # `enable_jit_checkpoint` saves in the middle of an update, whose draws would then be others, and without
        # asking other processes.
        def notice(*signal_and_frame):
            self.sigterm_came = True

        handler = signal.signal(signal.SIGTERM, notice)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, handler)

    # ---- Publishing

    def init_hf_repo(self, token: str | None = None, private: bool | None = None):
        try:
            super().init_hf_repo(token, private)
        except (OSError, ValueError) as error:  # all errors of huggingface_hub are one or the other
            raise InputError(f"--push_to_hub: {' '.join(str(error).split())}") from error

    def push_to_hub(self, commit_message: str = "Upload model", **kwargs) -> str | None:
        """Publish the model, processor, code and card in `output_dir`; return the address of the commit."""
        if not self.is_world_process_zero():
            return None
        return HfApi(token=self.args.hub_token).upload_folder(
            repo_id=self.hub_model_id,
            folder_path=self.args.output_dir,
            allow_patterns=PUBLISHED,
            ignore_patterns=["*/*"],
            commit_message=commit_message,
            revision=self.args.hub_revision,
        )


class Meter:
    """What has happened since the last line of the log."""

    def __init__(self):
        self.num_skipped = self.num_skipped_in_a_row = self.num_bad_videos = 0
        self.restart()

    def restart(self):
        self.start, self.waited, self.num_clips, self.num_updates = time.perf_counter(), 0.0, 0, 0
        self.sums = defaultdict(float)

    def begin_update(self, batches: list[dict], seconds: float):
        """Count its clips, and take their names from its batches, for which the process waited so long."""
        self.waited += seconds
        self.num_clips += sum(len(next(iter(batch.values()))) for batch in batches)
        self.names = [name for batch in batches for name in batch.pop("videos", ["unknown"])]
        self.losses: dict[str, torch.Tensor] = {}

    def add(self, name: str, loss: torch.Tensor):
        self.losses[name] = self.losses.get(name, 0) + loss

    def end_update(self):
        self.num_updates, self.num_skipped_in_a_row = self.num_updates + 1, 0
        for name, loss in self.losses.items():
            if name != "loss":  # which is Trainer's
                self.sums[name] += loss

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Return mean losses of all processes, clips per second, and the share of the time that this one waited."""
        seconds, num_updates = time.perf_counter() - self.start, self.num_updates
        found = {name: accelerator.reduce(total / num_updates, "mean").item() for name, total in self.sums.items()}
        found["clips_per_second"] = accelerator.num_processes * self.num_clips / seconds
        found |= {"data_wait": self.waited / seconds, "skipped_updates": self.num_skipped}
        self.restart()
        return found


class RunCallback(TrainerCallback):
    """Decides when to log and to save, leaves out updates that are not finite, and completes checkpoints."""

    def __init__(self, trainer: SViTTTrainer):
        self.trainer, self.is_save_due, self.saved_step = trainer, False, -1

    def on_epoch_begin(self, args, state, control, **kwargs):
        # From 0, as Trainer does for an epoch within which it resumes.
        self.trainer.train_loader.batch_sampler.set_epoch(state.global_step // self.trainer.steps_per_epoch)
        self.trainer.meter.restart()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        meter, accelerator = self.trainer.meter, self.trainer.accelerator
        parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        value = meter.losses["loss"]
        if accelerator.scaler is None:  # which leaves out by itself what overflows, to find its scale
            value = value + torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        if accelerator.reduce(value).isfinite().item():
            meter.end_update()
            return
        meter.num_skipped += 1
        meter.num_skipped_in_a_row += 1
        names = ", ".join(gather_object(meter.names))
        message = f"update {state.global_step + 1}: the loss or its gradient is not finite"
        if meter.num_skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"{message}, as in the {MAX_SKIPPED_IN_A_ROW - 1} before it; a lower --learning_rate, --max_grad_norm "
                f"or float32 may help. The last clips: {names:.2000}."
            )
        accelerator.print(f"{message}; skipped. Its clips: {names:.2000}.", flush=True)
        if accelerator.scaler is None:
            for parameter in parameters:
                parameter.grad = None  # which the optimizer leaves out

    def on_step_end(self, args, state, control, **kwargs):
        # At the end of an epoch, a checkpoint is written once, after what is evaluated there.
        ends_epoch = state.global_step % self.trainer.steps_per_epoch == 0 or control.should_training_stop
        if self.trainer.must_stop:
            control.should_save = control.should_training_stop = True
        self.is_save_due = control.should_save and ends_epoch
        control.should_save = control.should_save and not ends_epoch

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log = True
        control.should_save = (control.should_save or self.is_save_due) and self.saved_step != state.global_step

    def on_evaluate(self, args, state, control, **kwargs):
        if self.trainer.is_in_train and args.save_strategy != "no":
            control.should_save = True  # scores are part of the state

    def on_save(self, args, state, control, **kwargs):
        trainer, self.saved_step = self.trainer, state.global_step
        trainer.write_bad_videos()  # those found so far would be forgotten
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            complete(Path(args.output_dir), state, trainer.num_checkpoints)
        trainer.accelerator.wait_for_everyone()
        if trainer.must_stop:
            text = f"SIGTERM: stopped after update {state.global_step}; --resume_from_checkpoint latest goes on."
            trainer.accelerator.print(text, flush=True)
            sys.exit(0)


def check_task(is_trained: bool, eval_splits: Collection[str], args: SViTTTrainingArguments):
    """Raise an `InputError` where there is nothing to train or to evaluate, or nothing to publish."""
    if not is_trained and not eval_splits:
        raise InputError("There is nothing to do: give --dataset, or --train_file to train, --test_file to evaluate.")
    if not is_trained and args.push_to_hub:
        raise InputError("--push_to_hub: publishes a model that was trained, but nothing is trained here.")


def raise_if(problem: Exception | None):
    if problem is not None:
        raise problem
