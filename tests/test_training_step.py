# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""One update of pre-training changes every parameter as AdamW's formulas say."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from svitt import SViTTForPreTraining
from svitt.modeling_svitt import fixed_block_pattern
from svitt.training.checkpoints import CheckpointArguments, Checkpoints
from svitt.training.loop import OptimizationArguments, Training

LR, WEIGHT_DECAY, EPS = 1e-3, 0.02, 1e-8


class OneBatch(list):
    def set_epoch(self, epoch):
        pass

    def state_dict(self):
        return {}


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


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_update_equals_the_formulas(golden, tmp_path, max_grad_norm):
    case = golden("case06_pretrain")
    model, reference = (case.load(SViTTForPreTraining, case.config()).train() for _ in range(2))
    with fixed_block_pattern(case.series("attn_idx")):
        outputs = reference(**inputs_of(case))
    outputs.loss.backward()
    AcceleratorState._reset_state(True)
    with fixed_block_pattern(case.series("attn_idx")):
        Training(
            Accelerator(cpu=True),
            model,
            OneBatch([inputs_of(case)]),
            OptimizationArguments(
                learning_rate=LR,
                weight_decay=WEIGHT_DECAY,
                max_steps=1,
                warmup_steps=4,
                min_lr_multi=0.25,
                max_grad_norm=max_grad_norm,
            ),
            Checkpoints(tmp_path, CheckpointArguments()),
            save=lambda bare, weights: None,
        ).run()
    assert outputs.loss.item() == pytest.approx(sum(case.expected["losses"].values()), rel=1e-5)
    norm = torch.stack([p.grad.double().norm() for p in reference.parameters() if p.grad is not None]).norm()
    clip = 1.0 if max_grad_norm is None else min(1.0, max_grad_norm / (norm.item() + 1e-6))
    lr = 0.25 * LR  # the first step of the warm-up, at its floor
    for (name, before), after in zip(reference.named_parameters(), model.parameters(), strict=True):
        if before.grad is None:
            assert torch.equal(before, after)
            continue
        gradient, decay = (
            clip * before.grad.double(),
            0 if name.endswith(".bias") or before.dim() == 1 else WEIGHT_DECAY,
        )
        # In the first update, the corrected means of the gradient and of its square are these themselves.
        expected = before.double() * (1 - lr * decay) - lr * gradient / (gradient.abs() + EPS)
        torch.testing.assert_close(
            after.double(), expected, rtol=3e-7, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )
