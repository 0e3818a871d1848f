# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""No tensor outlives its training step."""

import gc
import warnings

import pytest
import torch

from svitt import SViTTForPreTraining


def num_tensors():
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of objects that warn when they are looked at
        return sum(isinstance(found, torch.Tensor) for found in gc.get_objects())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_no_tensor_outlives_its_step(golden, implementation, checkpointed):
    case = golden("case06_pretrain")
    model = case.load(SViTTForPreTraining, case.config()).train()
    model.set_attn_implementation(implementation)
    if checkpointed:
        model.activation_checkpointing_enable()
    optimizer, counts = torch.optim.AdamW(model.parameters()), []
    for _ in range(3):
        model(case.inputs["video"], case.inputs["input_ids"], case.inputs["attention_mask"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        counts.append(num_tensors())
    assert counts == counts[:1] * 3
