# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Parameter groups and learning rates of the original."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from svitt.training.optimization import cosine_schedule, parameter_groups

GOLDEN = Path(__file__).parent / "fixtures/golden"
EXPECTED = json.loads((GOLDEN / "case11_optim/config.json").read_text())["expected"]


@pytest.mark.parametrize("schedule", EXPECTED["schedules"], ids=lambda schedule: str(schedule["num_warmup_steps"]))
def test_learning_rates_equal_the_original(schedule):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=schedule["base_lr"])
    scheduler = cosine_schedule(
        optimizer, schedule["num_warmup_steps"], schedule["num_training_steps"], schedule["min_lr_multi"]
    )
    lrs = []
    for _ in schedule["lrs"]:
        lrs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert lrs == pytest.approx(schedule["lrs"], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("model", ["pretrain", "retrieval", "vqa"])
@pytest.mark.parametrize("different_lr", [False, True])
def test_parameter_groups_equal_the_original(model, different_lr):
    name = f"{model}_different_lr" if different_lr else model
    expected = EXPECTED[f"param_groups_{name}"]
    with safe_open(GOLDEN / f"_weights/{model}_tiny.safetensors", "pt") as weights:
        parameters = {key: nn.Parameter(weights.get_tensor(key)) for key in expected}
    module = "text_decoder" if model == "vqa" else "vision_proj"
    larger = {"larger_lr": 1e-3, "larger_lr_names": [module]} if different_lr else {}
    groups = parameter_groups(parameters.items(), lr=1e-5, **larger)

    key_of = {id(parameter): key for key, parameter in parameters.items()}
    got = {
        key_of[id(parameter)]: [group["weight_decay"], group["lr"]] for group in groups for parameter in group["params"]
    }
    assert got == expected
    for group, want in zip(groups, EXPECTED[f"optimizer_groups_{name}"], strict=True):
        assert (group["weight_decay"], group["lr"]) == (want["weight_decay"], want["lr"])
        assert (len(group["params"]), key_of[id(group["params"][0])]) == (want["n"], want["first"])
    optimizer = torch.optim.AdamW(groups)
    assert optimizer.defaults["betas"] == (0.9, 0.999) and optimizer.defaults["eps"] == 1e-8


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = parameter_groups(model.named_parameters(), lr=1.0)
    assert [[tuple(p.shape) for p in group["params"]] for group in groups] == [[(2, 2)], [(2,)]]


def test_larger_lr_for_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="'bias_tabel'"):
        parameter_groups(nn.Linear(2, 2).named_parameters(), lr=1.0, larger_lr=2.0, larger_lr_names=["bias_tabel"])
