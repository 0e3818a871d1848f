# Copyright 2026 The SViTT for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
"""The training loop of all tasks: a model that returns `loss`, batches of its arguments, a score to pick the best."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from .loaders import BadVideoReport, MixedLoader
from .optimization import cosine_schedule, parameter_groups
from .processes import next_of_all, progress_bar


@dataclass
class OptimizationArguments:
    """How to train: AdamW, linear warm-up, half a cosine down."""

    _argument_group_name = "optimization"

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate."})
    num_train_epochs: int = field(default=10, metadata={"help": "Passes over the training pairs."})
    warmup_epochs: float = field(default=0.0, metadata={"help": "Length of the linear warm-up, in epochs."})
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
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations in the backward pass: less memory, more time."}
    )
    seed: int = field(default=42, metadata={"help": "Of order, augmentation, negatives and dropout."})


def train(
    accelerator: Accelerator,
    model: PreTrainedModel,
    loader: DataLoader | MixedLoader,
    args: OptimizationArguments,
    save: Callable[[PreTrainedModel], None],
    validate: Callable[[PreTrainedModel], float] | None = None,
    to_model_inputs: Callable[[dict], dict] = dict,
    bad_videos: BadVideoReport | None = None,
) -> int:
    """Train a model and save it after its best epoch, or after each where there is no score to compare by.

    Args:
        accelerator: made with `args.gradient_accumulation_steps`.
        model: returns `loss`, and other losses whose names begin with `loss_`, for a batch given as keyword arguments.
        loader: batches of one process; they are shared out and shuffled by `args.seed` here.
        args: see [`OptimizationArguments`].
        save: is called on all processes with the bare model.
        validate: gives the score of the bare model, higher is better; is called after each epoch.
        to_model_inputs: what is still to be done to a batch on the device, as [`loaders.to_model_inputs`].
        bad_videos: takes the videos that batches report as bad.

    Returns:
        The epoch saved last, from 1.

    Raises:
        InputError: on all processes, when one of them cannot read a batch.
    """
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    groups = parameter_groups(
        model.named_parameters(), args.learning_rate, args.weight_decay, args.larger_lr, args.larger_lr_names
    )
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(groups))
    loader = loader.prepare(accelerator) if isinstance(loader, MixedLoader) else accelerator.prepare(loader)
    # Not prepared: a prepared scheduler steps once per process at each update.
    updates_per_epoch = math.ceil(len(loader) / args.gradient_accumulation_steps)
    scheduler = cosine_schedule(
        optimizer.optimizer,
        args.warmup_epochs * updates_per_epoch,
        args.num_train_epochs * updates_per_epoch,
        args.min_lr_multi,
    )

    best_score, best_epoch = -math.inf, 0
    for epoch in range(1, args.num_train_epochs + 1):
        loader.set_epoch(epoch)
        batches = TimedBatches(loader, bad_videos, to_model_inputs)
        progress = progress_bar(batches, f"epoch {epoch}", total=len(loader))
        losses = train_one_epoch(accelerator, model, optimizer, scheduler, progress, args)
        bare_model = accelerator.unwrap_model(model)
        report = [f"{name} {losses[name]:.4f}" for name in sorted(losses)] + [batches.report()]
        num_bad = bad_videos.write("train", epoch) if bad_videos is not None else 0
        if num_bad:
            report.append(f"bad videos skipped: {num_bad} (see {bad_videos.path})")
        score = epoch  # without a score, the latest is the best
        if validate is not None:
            score = validate(bare_model)
            report.append(f"validation {score:.2f}")
        accelerator.print(f"epoch {epoch}/{args.num_train_epochs}: {', '.join(report)}", flush=True)
        if score > best_score:
            best_score, best_epoch = score, epoch
            save(bare_model)
    return best_epoch


def train_one_epoch(accelerator, model, optimizer, scheduler, batches: Iterable[dict], args) -> dict[str, float]:
    """One pass over the data; returns the losses, averaged over batches and processes."""
    model.train()
    sums, num_batches = {}, 0
    for batch in batches:
        with accelerator.accumulate(model):
            outputs = model(**batch)
            accelerator.backward(outputs.loss)
            if accelerator.sync_gradients and args.max_grad_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                scheduler.step()
            optimizer.zero_grad()
        num_batches += 1
        for name, value in outputs.items():
            if name.startswith("loss") and value is not None:
                sums[name] = sums.get(name, 0) + value.detach().float()
    return {name: accelerator.reduce(total, "mean").item() / num_batches for name, total in sums.items()}


class TimedBatches:
    """The batches of an epoch, ready for the model, and how long it waited for them.

    The epoch ends for all processes when one has no more batches; an error in one is raised in all.
    """

    def __init__(self, loader, bad_videos: BadVideoReport | None, to_model_inputs: Callable[[dict], dict]):
        self.loader, self.bad_videos, self.to_model_inputs = loader, bad_videos, to_model_inputs
        self.waited = self.elapsed = 0.0
        self.num_clips = 0

    def __iter__(self) -> Iterator[dict]:
        start = before = time.perf_counter()
        batches = iter(self.loader)
        while (batch := next_of_all(batches)) is not None:
            self.waited += time.perf_counter() - before
            if self.bad_videos is not None:
                self.bad_videos.take_from(batch)
            self.num_clips += len(next(iter(batch.values())))
            batch.pop("medium", None)
            yield self.to_model_inputs(batch)
            before = time.perf_counter()
            self.elapsed = before - start

    def report(self) -> str:
        """Of this process: clips per second, and which share of the time went by waiting for data."""
        elapsed = max(self.elapsed, 1e-9)
        return f"{self.num_clips / elapsed:.1f} clips/s per process, {self.waited / elapsed:.0%} of it waiting for data"
