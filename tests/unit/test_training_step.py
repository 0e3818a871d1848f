# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""A training step in Transformers' Trainer as it is follows AdamW's formulas, and leaves no tensor behind."""

import gc
import warnings

import pytest
import torch
from transformers import Trainer, TrainingArguments

from svitt import SViTTForPreTraining, fixed_block_pattern

LR, WEIGHT_DECAY, EPS = 1e-3, 0.02, 1e-8


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


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5])
def test_update_equals_the_formulas(golden, tmp_path, max_grad_norm):
    case = golden("case06_pretrain")
    model, reference = (case.load(SViTTForPreTraining, case.config()).train() for _ in range(2))
    with fixed_block_pattern(case.series("attn_idx")):
        outputs = reference(**inputs_of(case))
    outputs.loss.backward()
    settings = {"max_steps": 1, "per_device_train_batch_size": 1, "use_cpu": True, "report_to": "none"}
    settings |= {"learning_rate": LR, "lr_scheduler_type": "constant", "optim": "adamw_torch"}
    args = TrainingArguments(tmp_path, weight_decay=WEIGHT_DECAY, max_grad_norm=max_grad_norm, **settings)
    trainer = Trainer(model, args, train_dataset=[inputs_of(case)], data_collator=lambda batches: batches[0])
    decayed = set(trainer.get_decay_parameter_names(model))
    with fixed_block_pattern(case.series("attn_idx")):
        trainer.train()
    assert outputs.loss.item() == pytest.approx(sum(case.expected["losses"].values()), rel=1e-5)
    norm = torch.stack([p.grad.double().norm() for p in reference.parameters() if p.grad is not None]).norm()
    clip = min(1.0, max_grad_norm / (norm.item() + 1e-6)) if max_grad_norm else 1.0
    for (name, before), after in zip(reference.named_parameters(), model.parameters(), strict=True):
        if before.grad is None:
            assert torch.equal(before, after)
            continue
        gradient, decay = clip * before.grad.double(), WEIGHT_DECAY if name in decayed else 0
        # In the first update, the corrected means of the gradient and of its square are these themselves.
        expected = before.double() * (1 - LR * decay) - LR * gradient / (gradient.abs() + EPS)
        torch.testing.assert_close(
            after.double(), expected, rtol=3e-7, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )


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
