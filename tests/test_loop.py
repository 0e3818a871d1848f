# Copyright 2026 The SViTT for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The training loop: updates, learning rates and the choice of the best epoch, on a model of one number."""

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch import nn
from torch.utils.data import DataLoader

from svitt.training.loop import OptimizationArguments, train


class Scalar(nn.Module):
    """Loss (weight - x)^2, averaged over a batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.seen = []

    def forward(self, x):
        self.seen.append(x.flatten().tolist())
        loss = (self.weight - x).square().mean()
        return SimpleNamespace(loss=loss, items=lambda: [("loss", loss), ("logits", x)])


def run(scores=None, batch_size=2, **settings):
    args = OptimizationArguments(
        **{"learning_rate": 0.1, "weight_decay": 0.0, "train_batch_size": batch_size} | settings
    )
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed),
    )
    rows = [{"x": torch.tensor([float(i)])} for i in range(8)]
    model, saved, scores = Scalar(), [], scores and iter(scores)
    best = train(
        accelerator,
        model,
        DataLoader(rows, batch_size, shuffle=True),
        args,
        save=lambda bare: saved.append(copy.deepcopy(bare.weight.item())),
        validate=scores and (lambda bare: next(scores)),
    )
    return model, saved, best


def test_best_epoch_is_saved():
    _, saved, best = run(scores=[10.0, 30.0, 20.0, 30.0], num_train_epochs=4)
    assert (len(saved), best) == (2, 2)


def test_last_epoch_is_saved_without_a_score():
    model, saved, best = run(num_train_epochs=3)
    assert (len(saved), best) == (3, 3)
    assert saved[-1] == model.weight.item() != saved[0]


def test_each_epoch_has_its_own_order_and_the_seed_fixes_it():
    first, second, other = (run(num_train_epochs=2, seed=seed)[0].seen for seed in (1, 1, 2))
    assert first == second != other
    epochs = [sum(first[:4], []), sum(first[4:], [])]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(8))


def test_accumulated_batches_make_one_update():
    large, *_ = run(batch_size=4, num_train_epochs=3, warmup_epochs=1)
    small, *_ = run(batch_size=2, num_train_epochs=3, warmup_epochs=1, gradient_accumulation_steps=2)
    assert small.weight.item() == pytest.approx(large.weight.item(), rel=1e-6)


def test_learning_rate_follows_the_schedule_per_update(monkeypatch):
    lrs, step = [], torch.optim.AdamW.step

    def recording_step(self, *args, **kwargs):
        lrs.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording_step)
    run(num_train_epochs=2, warmup_epochs=0.5, min_lr_multi=0.1)
    # 8 updates, 2 of warm-up; half a cosine over the other 6.
    expected = [0.01, 0.05, 0.1, 0.0933013, 0.075, 0.05, 0.025, 0.01]
    assert lrs == pytest.approx(expected, abs=1e-6)


def test_gradients_are_clipped(monkeypatch):
    norms, clip = [], torch.nn.utils.clip_grad_norm_

    def recording_clip(parameters, *args, **kwargs):
        parameters = list(parameters)
        clip(parameters, *args, **kwargs)
        norms.append(parameters[0].grad.norm().item())

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", recording_clip)
    run(num_train_epochs=1, max_grad_norm=0.25)
    assert norms == pytest.approx([0.25] * 4, rel=1e-4)
