# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Losses in half precision beside those in float32, and inputs at which arithmetic goes wrong first."""

from contextlib import nullcontext

import pytest
import torch

from svitt import (
    SViTTForPreTraining,
    SViTTForVideoClassification,
    SViTTForVideoQuestionAnswering,
    SViTTForVideoTextRetrieval,
)

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


MODELS = (SViTTForPreTraining, SViTTForVideoQuestionAnswering)


def make_model(model_class, implementation, layout, precision="float32", scale=1.0):
    model = task_model(model_class, LAYOUTS[layout])
    for name, parameter in model.named_parameters():
        if name != "temp" and "norm" not in name.lower():
            parameter.data *= scale
    for encoder in {"vision_model", "text_model"} & dict(model.named_children()).keys():
        getattr(model, encoder).set_attn_implementation(implementation)
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


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("layout", ["sparse edges", "dense"])  # rounding may change which tokens are dropped
@pytest.mark.parametrize("model_class", MODELS)
@torch.no_grad()
def test_losses_in_half_precision_are_those_in_float32_but_for_rounding(model_class, layout, implementation):
    ids, mask = texts()
    inputs = words_to_complete(ids) | {"return_loss": True} if model_class is SViTTForPreTraining else {}
    losses = {}
    for precision in PRECISIONS:
        model = make_model(model_class, implementation, layout, precision)
        losses[precision] = losses_of(model, precision, clips(), ids, mask, **inputs)
    expected = losses.pop("float32")
    assert len(expected) == (4 if inputs else 1)
    for precision, found in losses.items():
        bound = NUM_ROUNDINGS * PRECISIONS[precision][2]
        for name, loss in expected.items():
            assert found[name].dtype == torch.float32, (precision, name)
            assert found[name].item() == pytest.approx(loss.item(), rel=bound, abs=bound), (precision, name)
            assert found[name].item() != loss.item(), (precision, name)  # it was computed in another precision


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


def assert_finite(model, precision, name, inputs):
    model.zero_grad()
    losses = losses_of(model, precision, *inputs)
    losses["loss"].backward()
    for loss, value in losses.items():
        assert value.isfinite(), (precision, name, loss)
    for parameter, value in model.named_parameters():
        assert value.grad is None or value.grad.isfinite().all(), (precision, name, parameter)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("implementation", "layout"),
    [
        ("sdpa", "sparse"),
        ("eager", "dense"),
        pytest.param("eager", "sparse", marks=pytest.mark.long),
        pytest.param("sdpa", "dense", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("model_class", MODELS)
def test_losses_and_gradients_are_finite_whatever_comes(model_class, implementation, layout):
    for precision in PRECISIONS:
        # Weights of 0.03, about as large as those of trained models: of larger ones, float16 cannot hold the products.
        model = make_model(model_class, implementation, layout, precision, scale=0.1).train()
        for name, inputs in adversarial_inputs():
            assert_finite(model, precision, name, inputs)
        if model_class is SViTTForPreTraining:
            for end, temperature in zip(("low", "high"), model.temp_range, strict=True):
                model.temp.data.fill_(temperature)
                assert_finite(model, precision, f"{end} temperature", (clips(), *texts()))


def test_what_overflows_is_told_by_the_loss():
    """And not by an error in drawing negatives: the training loop leaves the update out."""
    model = make_model(SViTTForPreTraining, "sdpa", "sparse", "fp16 autocast").train()
    losses = losses_of(model, "fp16 autocast", torch.full_like(clips(), 1e5), *texts())
    assert not losses["loss"].isfinite()
    losses["loss"].backward()


# ---- What evaluation computes


def scores_of(model, precision, pixels, ids, mask) -> dict[str, torch.Tensor]:
    """All that a model tells of clips and texts, by name."""
    autocast, dtype, _ = PRECISIONS[precision]
    pixels = pixels.to(dtype)
    answers = torch.tensor([[2, 10, 3], [2, 11, 3], [2, 12, 13]])
    with nullcontext() if autocast is None else torch.autocast("cpu", dtype=autocast):
        if isinstance(model, SViTTForVideoClassification):
            return {"classes": model(pixels).logits}
        if isinstance(model, SViTTForVideoQuestionAnswering):
            places, probabilities = model.rank_answers(pixels, ids, mask, answers, k=3)
            settings = {"max_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
            generated = model.generate(pixels, ids, mask, **settings)
            return {"probabilities": probabilities.gather(1, places.argsort()), "first word": generated.logits[0]}
        outputs = model(pixels, ids, mask)
        return {
            "video to text": outputs.logits_per_video,
            "text to video": outputs.logits_per_text,
            "match": model.match(pixels, ids, mask),
        }


SCORING = (SViTTForVideoTextRetrieval, SViTTForVideoClassification, SViTTForVideoQuestionAnswering)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("layout", ["sparse edges", "dense"])
@pytest.mark.parametrize("model_class", SCORING)
@torch.no_grad()
def test_scores_in_half_precision_are_those_in_float32_but_for_rounding(model_class, layout, implementation):
    scores = {}
    for precision in PRECISIONS:
        model = make_model(model_class, implementation, layout, precision).eval()
        torch.manual_seed(0)
        scores[precision] = scores_of(model, precision, clips(), *texts())
    expected = scores.pop("float32")
    for precision, found in scores.items():
        for name, values in expected.items():
            bound = NUM_ROUNDINGS * PRECISIONS[precision][2] * max(1, values.abs().max().item())
            assert (found[name].float() - values).abs().max() < bound, (precision, name)


@pytest.mark.parametrize(("implementation", "layout"), [("sdpa", "sparse"), ("eager", "dense")])
@pytest.mark.parametrize("model_class", SCORING)
@torch.no_grad()
def test_scores_are_finite_whatever_comes(model_class, implementation, layout):
    for precision in PRECISIONS:
        model = make_model(model_class, implementation, layout, precision, scale=0.1).eval()
        for name, inputs in adversarial_inputs():
            for score, values in scores_of(model, precision, *inputs).items():
                assert values.isfinite().all(), (precision, name, score)
