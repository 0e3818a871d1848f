# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""A training step in Transformers' Trainer as it is follows the gradient, and leaves no tensor behind."""

import gc
import warnings

import pytest
import torch
from transformers import Trainer, TrainingArguments

from svitt import SViTTForPreTraining, fixed_block_pattern


def inputs_of(case):
    return {
        "pixel_values": case.inputs["video"],
        "input_ids": case.inputs["input_ids"],
        "attention_mask": case.inputs["attention_mask"],
        "video_ids": torch.tensor(case.json["idx"]),
        "negative_video_idx": case.inputs["draw.img_neg_indices"],
        "negative_text_idx": case.inputs["draw.txt_neg_indices"],
        "mlm_input_ids": case.outputs["mlm_input_ids"],
        "mlm_labels": case.outputs["mlm_labels"],
    }


def test_an_update_follows_the_gradient(golden, tmp_path):
    case = golden("case06_pretrain")
    model, reference = (case.load(SViTTForPreTraining, case.config()).train() for _ in range(2))
    settings = {"max_steps": 1, "per_device_train_batch_size": 1, "use_cpu": True, "report_to": "none"}
    settings |= {"learning_rate": 0.1, "lr_scheduler_type": "constant", "optim": "sgd", "max_grad_norm": 0.0}
    args = TrainingArguments(tmp_path, **settings)
    trainer = Trainer(model, args, train_dataset=[inputs_of(case)], data_collator=lambda batches: batches[0])
    with fixed_block_pattern(case.series("attn_idx")):
        trainer.train()
    with fixed_block_pattern(case.series("attn_idx")):
        reference(**inputs_of(case)).loss.backward()
    for (name, before), after in zip(reference.named_parameters(), model.parameters(), strict=True):
        expected = before if before.grad is None else before - 0.1 * before.grad
        torch.testing.assert_close(after, expected, msg=lambda text, name=name: f"{name}: {text}")


def num_tensors():
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of objects that warn when they are looked at
        return sum(isinstance(found, torch.Tensor) for found in gc.get_objects())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_no_tensor_outlives_its_step(golden, checkpointed):
    case = golden("case06_pretrain")
    model = case.load(SViTTForPreTraining, case.config()).train()
    if checkpointed:
        model.activation_checkpointing_enable()
    optimizer, counts = torch.optim.AdamW(model.parameters()), []
    for _ in range(3):
        model(case.inputs["video"], case.inputs["input_ids"], case.inputs["attention_mask"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        counts.append(num_tensors())
    assert counts == counts[:1] * 3
