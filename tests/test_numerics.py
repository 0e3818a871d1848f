# Copyright 2026 The SViTT for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Losses in half precision beside those in float32, and inputs at which arithmetic goes wrong first."""

from contextlib import nullcontext

import pytest
import torch

from svitt import SViTTForPreTraining, SViTTForVideoQuestionAnswering

from .test_modeling import clips, task_model, texts

PRECISIONS = {  # name → type of autocast, type of the weights, unit roundoff
    "float32": (None, torch.float32, 2**-24),
    "bf16 autocast": (torch.bfloat16, torch.float32, 2**-9),
    "fp16 autocast": (torch.float16, torch.float32, 2**-12),
    "bf16": (None, torch.bfloat16, 2**-9),
}
LAYOUTS = {"sparse": {}, "dense": {"sparse_random_attn": None, "token_keep_rate": 1.0}}


MODELS = (SViTTForPreTraining, SViTTForVideoQuestionAnswering)


def make_model(model_class, implementation, layout, precision="float32", scale=1.0):
    model = task_model(model_class, LAYOUTS[layout])
    for name, parameter in model.named_parameters():
        if name != "temp" and "norm" not in name.lower():
            parameter.data *= scale
    model.vision_model.set_attn_implementation(implementation)
    model.text_model.set_attn_implementation(implementation)
    return model.to(PRECISIONS[precision][1])


def losses_of(model, precision, pixels, ids, mask, **inputs):
    """All losses; that of answers for question answering."""
    autocast, dtype, _ = PRECISIONS[precision]
    if isinstance(model, SViTTForVideoQuestionAnswering):
        inputs = {"labels": torch.tensor([[2, 10, 3, 0], [2, 11, 12, 3]])[: len(ids)]}
    with nullcontext() if autocast is None else torch.autocast("cpu", dtype=autocast):
        outputs = model(pixels.to(dtype), ids, mask, **inputs)
    return {name: value for name, value in outputs.items() if name.startswith("loss")}


def words_to_complete(ids):
    """The same negatives and masked words in all precisions."""
    masked, labels = ids.clone(), torch.full_like(ids, -100)
    masked[:, 2], labels[:, 2] = 4, ids[:, 2]
    others = torch.tensor([1, 0])
    return {"mlm_input_ids": masked, "mlm_labels": labels, "negative_video_idx": others, "negative_text_idx": others}


def adversarial_inputs():
    (ids, mask), pixels = texts(), clips()
    largest, one_word = 1e4 * pixels.sign(), torch.tensor([[2, 0, 0], [2, 3, 0]])
    yield "all black", (torch.full_like(pixels, -1.0), ids, mask)
    yield "constant", (torch.full_like(pixels, 0.3), ids, mask)
    yield "zero", (torch.zeros_like(pixels), ids, mask)
    yield "extreme", (largest, ids, mask)
    yield "extreme and constant", (torch.full_like(pixels, 1e4), ids, mask)
    yield "one token", (pixels, one_word, torch.tensor([[1, 0, 0], [1, 0, 0]]))
    yield "one token alone", (pixels, one_word[:, :1], torch.ones(2, 1, dtype=torch.long))
    yield "all padding", (pixels, torch.zeros_like(ids), torch.zeros_like(mask))
    yield "one text all padding", (pixels, ids, mask * torch.tensor([[1], [0]]))
    yield "identical", (pixels[:1].repeat(2, 1, 1, 1, 1), ids[:1].repeat(2, 1), mask[:1].repeat(2, 1))
    yield "batch of one", (pixels[:1], ids[:1], mask[:1])


