# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Losses and scores in half precision beside float32, and inputs at which arithmetic goes wrong first."""

from contextlib import nullcontext

import pytest
import torch

from svitt import SViTTForPreTraining, SViTTForVideoClassification, SViTTForVideoQuestionAnswering

from .test_modeling import clips, task_model, texts

PRECISIONS = {  # name → type of autocast, type of the weights, unit roundoff
    "float32": (None, torch.float32, 2**-24),
    "bf16 autocast": (torch.bfloat16, torch.float32, 2**-9),
    "fp16 autocast": (torch.float16, torch.float32, 2**-12),
    "bf16": (None, torch.bfloat16, 2**-9),
}
LAYOUTS = {
    "sparse": {},
    "sparse edges": {"token_keep_rate": 1.0},
    "dense": {"token_keep_rate": 1.0, "sparse_random_attn": None},
}
# A token passes eight layers, in each of which about four sums are rounded to half precision: 32 times the unit
# roundoff at worst, and 6 times if the errors are independent, which is what is seen.
NUM_ROUNDINGS = 32
TRAINED = (SViTTForPreTraining, SViTTForVideoQuestionAnswering)
MODELS = (*TRAINED, SViTTForVideoClassification)


def make_model(model_class, implementation, layout, precision="float32", scale=1.0):
    model = task_model(model_class, LAYOUTS[layout])
    for name, parameter in model.named_parameters():
        if name != "temp" and "norm" not in name.lower():
            parameter.data *= scale
    for encoder in {"vision_model", "text_model"} & dict(model.named_children()).keys():
        getattr(model, encoder).set_attn_implementation(implementation)
    return model.to(PRECISIONS[precision][1])


def autocast(precision):
    dtype = PRECISIONS[precision][0]
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)


def losses_of(model, precision, pixels, ids, mask, **inputs):
    """All losses, by name."""
    if isinstance(model, SViTTForVideoQuestionAnswering):
        inputs = {"labels": torch.tensor([[2, 10, 3, 0], [2, 11, 12, 3]])[: len(ids)]}
    else:
        inputs = {"return_loss": True} | inputs
    with autocast(precision):
        outputs = model(pixels.to(PRECISIONS[precision][1]), ids, mask, **inputs)
    return {name: value for name, value in outputs.items() if name.startswith("loss")}


def scores_of(model, precision, pixels, ids, mask):
    """All that a model tells of clips and texts, by name."""
    pixels, answers = pixels.to(PRECISIONS[precision][1]), torch.tensor([[2, 10, 3], [2, 11, 3], [2, 12, 13]])
    with autocast(precision):
        if isinstance(model, SViTTForVideoClassification):
            return {"classes": model(pixels).logits}
        if isinstance(model, SViTTForVideoQuestionAnswering):
            places, probabilities = model.rank_answers(pixels, ids, mask, answers, k=3)
            settings = {"max_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
            generated = model.generate(pixels, ids, mask, **settings)
            return {"probabilities": probabilities.gather(1, places.argsort()), "first word": generated.logits[0]}
        outputs = model(pixels, ids, mask)
        return {"similarity": outputs.logits_per_video, "match": model.match(pixels, ids, mask)}


def draws(ids):
    """The same negatives and masked words in all precisions."""
    masked, labels = ids.clone(), torch.full_like(ids, -100)
    masked[:, 2], labels[:, 2] = 4, ids[:, 2]
    others = torch.tensor([1, 0])
    return {"mlm_input_ids": masked, "mlm_labels": labels, "negative_video_idx": others, "negative_text_idx": others}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("layout", ["sparse edges", "dense"])  # rounding may change which tokens are dropped
@pytest.mark.parametrize("model_class", MODELS)
@torch.no_grad()
def test_half_precision_is_float32_but_for_rounding(model_class, layout, implementation):
    (ids, mask), found = texts(), {}
    for precision in PRECISIONS:
        model = make_model(model_class, implementation, layout, precision)
        found[precision] = scores_of(model, precision, clips(), ids, mask)
        if model_class in TRAINED:
            losses = losses_of(model, precision, clips(), ids, mask, **draws(ids))
            assert all(loss.dtype == torch.float32 for loss in losses.values())
            found[precision] |= losses
    expected = found.pop("float32")
    assert len(expected) == dict(zip(MODELS, (6, 3, 1), strict=True))[model_class]
    for precision, values in found.items():
        for name, value in expected.items():
            bound = NUM_ROUNDINGS * PRECISIONS[precision][2] * max(1, value.abs().max().item())
            assert (values[name].float() - value).abs().max() < bound, (precision, name)
            assert not torch.equal(values[name].float(), value), (precision, name)  # it was another precision


def adversarial_inputs():
    (ids, mask), pixels = texts(), clips()
    one_word = torch.tensor([[2, 0, 0], [2, 3, 0]])
    yield "all black", (torch.full_like(pixels, -1.0), ids, mask)
    yield "constant", (torch.full_like(pixels, 0.3), ids, mask)
    yield "zero", (torch.zeros_like(pixels), ids, mask)
    yield "extreme", (1e4 * pixels.sign(), ids, mask)
    yield "extreme and constant", (torch.full_like(pixels, 1e4), ids, mask)
    yield "one token", (pixels, one_word, torch.tensor([[1, 0, 0], [1, 0, 0]]))
    yield "one token alone", (pixels, one_word[:, :1], torch.ones(2, 1, dtype=torch.long))
    yield "all padding", (pixels, torch.zeros_like(ids), torch.zeros_like(mask))
    yield "one text all padding", (pixels, ids, mask * torch.tensor([[1], [0]]))
    yield "identical", (pixels[:1].repeat(2, 1, 1, 1, 1), ids[:1].repeat(2, 1), mask[:1].repeat(2, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("implementation", "layout"), [("sdpa", "sparse"), ("eager", "dense")])
@pytest.mark.parametrize("model_class", TRAINED)
def test_losses_and_gradients_are_finite_whatever_comes(model_class, implementation, layout):
    for precision in PRECISIONS:
        # Weights of 0.03, about as large as those of trained models: of larger ones, float16 cannot hold the products.
        model = make_model(model_class, implementation, layout, precision, scale=0.1).train()
        if model_class is SViTTForPreTraining:
            model.temp.data.fill_(model.temp_range[0])
        for name, inputs in adversarial_inputs():
            model.zero_grad()
            losses = losses_of(model, precision, *inputs)
            losses["loss"].backward()
            gradients = {parameter: value.grad for parameter, value in model.named_parameters()}
            for value_name, value in (losses | gradients).items():
                assert value is None or value.isfinite().all(), (precision, name, value_name)


def test_what_overflows_is_told_by_the_loss():
    """And not by an error in drawing negatives: the training loop leaves the update out."""
    model = make_model(SViTTForPreTraining, "sdpa", "sparse", "fp16 autocast").train()
    losses = losses_of(model, "fp16 autocast", torch.full_like(clips(), 1e5), *texts())
    assert not losses["loss"].isfinite()
    losses["loss"].backward()


@pytest.mark.parametrize(("implementation", "layout"), [("sdpa", "sparse"), ("eager", "dense")])
@pytest.mark.parametrize("model_class", MODELS)
@torch.no_grad()
def test_scores_are_finite_whatever_comes(model_class, implementation, layout):
    for precision in PRECISIONS:
        model = make_model(model_class, implementation, layout, precision, scale=0.1).eval()
        for name, inputs in adversarial_inputs():
            for score, values in scores_of(model, precision, *inputs).items():
                assert values.isfinite().all(), (precision, name, score)
