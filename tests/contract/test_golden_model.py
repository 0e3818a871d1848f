# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The model against the original's numbers: every vision, text, pre-training, retrieval-loss and QA case."""

import zlib

import numpy as np
import pytest
import torch

from .surface import (
    SViTTForPreTraining,
    SViTTForVideoQuestionAnswering,
    SViTTForVideoTextRetrieval,
    SViTTTextModel,
    SViTTVisionConfig,
    SViTTVisionModel,
    fixed_block_pattern,
    token_order,
)

IMPLEMENTATIONS = ("eager", "sdpa")

VISION_CASES = [
    "case01_vision_dense",
    "case01b_vision_image_T1",
    "case02_vision_edge",
    "case02b_vision_edge_pad",
    "case02d_vision_edge_local0",
    "case02e_vision_edge_random0",
    "case02f_vision_edge_fewblocks",
    "case03_vision_edge_node",
    "case03b_vision_edge_node_keep70",
    "case03c_vision_node",
    "case04a_zcurve_edge_node",
    "case04b_hilbert_edge_node",
    "case04c_zcurve_dense",
]
TEXT_CASES = [
    "case05_text_noprune",
    "case05b_text_prune_cls",
    "case05c_text_prune_avg",
    "case05d_text_prune_cls_vmask",
    "case05f_text_noprune_vmask",
]
PRETRAIN_CASES = ["case06_pretrain", "case06b_pretrain_randneg", "case06c_pretrain_noidx_tempclamp"]
RANKING_CASES = [
    "case07c_vqa_rank_concat",
    "case07d_vqa_ens_lse_contig",
    "case07d_vqa_ens_max_contig",
    "case07d_vqa_ens_mean_contig",
    "case07e_vqa_ens_lse_sparse",
    "case07e_vqa_ens_max_sparse",
    "case07e_vqa_ens_mean_sparse",
    "case07f_vqa_ens_lse_1clip",
]


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    return request.param


def check_vision(case, outputs, assert_close):
    hidden_states, attentions, token_idx = (
        case.series(name) for name in ("hidden_states", "cls_attn_probs", "token_idx")
    )
    assert len(outputs.hidden_states) == len(hidden_states)
    for actual, expected in zip(outputs.hidden_states, hidden_states, strict=True):
        assert_close(actual, expected)
    for actual, expected in zip(outputs.token_idx or (), token_idx, strict=True):
        assert torch.equal(actual, expected)
    if len(outputs.attentions) == len(attentions):  # sdpa reports only the CLS rows that it needs
        for actual, expected in zip(outputs.attentions, attentions, strict=True):
            assert_close(actual[:, :, :1], expected)
    assert_close(outputs.last_hidden_state, case.outputs["last_hidden_state"])
    assert_close(outputs.pooler_output, case.outputs["pooler_output"])


@pytest.mark.parametrize("name", VISION_CASES)
def test_vision(name, implementation, golden, assert_close):
    case = golden(name)
    model = case.load(SViTTVisionModel, case.vision_config()).eval()
    model.set_attn_implementation(implementation)
    with torch.no_grad(), fixed_block_pattern(case.series("attn_idx")):
        outputs = model(case.inputs["video"], output_hidden_states=True, output_attentions=True)
    check_vision(case, outputs, assert_close)


@pytest.mark.parametrize("name", ["case02_vision_edge", "case02b_vision_edge_pad", "case03_vision_edge_node"])
def test_training_draws_like_the_original(name, golden, assert_close, monkeypatch):
    """With the original's uniform draws in place of torch's, training draws its patterns."""
    case = golden(name)
    draws = iter(case.series("rand", case.inputs))
    monkeypatch.setattr(torch, "rand", lambda *shape, **kwargs: next(draws))
    model = case.load(SViTTVisionModel, case.vision_config()).train()
    assert_close(model(case.inputs["video"]).last_hidden_state, case.outputs["last_hidden_state"])


def test_random_token_strategy(implementation, golden, assert_close, monkeypatch):
    case = golden("case03d_vision_node_random")
    draws = iter(case.series("draw.token_rand", case.inputs))
    monkeypatch.setattr(torch, "rand_like", lambda tensor: next(draws))
    model = case.load(SViTTVisionModel, case.vision_config()).train()
    model.set_attn_implementation(implementation)
    outputs = model(case.inputs["video"], output_hidden_states=True, output_attentions=True)
    check_vision(case, outputs, assert_close)


def test_image_embeds(golden, assert_close):
    """What fusion reads: `vision_layernorm` of the last hidden state."""
    case = golden("case03_vision_edge_node")
    pretrain = golden("case06_pretrain")
    model = pretrain.load(SViTTForPreTraining, pretrain.config()).eval()
    with torch.no_grad(), fixed_block_pattern(case.series("attn_idx")):
        features = model.get_video_features(case.inputs["video"])
    assert_close(features.last_hidden_state, case.outputs["image_embeds"])


def test_token_orders(golden):
    for name, expected in golden("case04d_token_orders").outputs.items():
        order, shape = name.split("_")
        grid = [int(side) for side in shape.split("x")]
        assert torch.equal(token_order(order, tuple(grid)), expected), name


@pytest.mark.parametrize("name", TEXT_CASES)
def test_text_and_fusion(name, implementation, golden, assert_close):
    case = golden(name)
    model = case.load(SViTTTextModel, case.text_config()).eval()
    model.set_attn_implementation(implementation)
    mask = case.inputs["attention_mask"]
    with torch.no_grad():
        text = model(case.inputs["input_ids"], mask, mode="text", output_hidden_states=True, output_attentions=True)
        fusion = model(
            text_embeds=text.last_hidden_state,
            attention_mask=mask,
            encoder_hidden_states=case.inputs["encoder_hidden_states"],
            encoder_attention_mask=case.inputs["encoder_attention_mask"],
            mode="fusion",
            output_hidden_states=True,
            output_attentions=True,
        )
    check_text(case, text, fusion, implementation, assert_close)


def check_text(case, text, fusion, implementation, assert_close):
    for outputs, prefix in ((text, "text"), (fusion, "fusion")):
        for actual, expected in zip(outputs.hidden_states, case.series(f"{prefix}_hidden_states"), strict=True):
            assert_close(actual, expected)
        assert_close(outputs.last_hidden_state, case.outputs[f"{prefix}_embeds"])
    for actual, expected in zip(fusion.token_idx or (), case.series("token_idx"), strict=True):
        assert torch.equal(actual, expected)
    if implementation == "eager":
        for actual, expected in zip(text.attentions, case.series("text_self_attn"), strict=True):
            assert_close(actual, expected)
        for actual, expected in zip(fusion.cross_attentions, case.series("cross_attn"), strict=True):
            assert_close(actual, expected)


def test_multimodal_mode(implementation, golden, assert_close):
    """The original loses its drops in multimodal mode: without drops, the port equals it."""
    case = golden("case05e_text_multimodal_prune")
    model = case.load(SViTTTextModel, case.text_config(token_keep_rate=1.0)).eval()
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        outputs = model(**case.inputs, mode="multimodal", output_hidden_states=True, output_attentions=True)
    for actual, expected in zip(outputs.hidden_states, case.series("fusion_hidden_states"), strict=True):
        assert_close(actual, expected)
    assert_close(outputs.last_hidden_state, case.outputs["fusion_embeds"])


def check_gradients(case, model, to_ours, assert_close):
    parameters = {name: parameter for name, parameter in model.named_parameters(remove_duplicate=False)}
    for name, expected in case.outputs.items():
        if name.startswith("grad."):
            assert_close(parameters[to_ours(name.removeprefix("grad."))].grad, expected)
    checked = 0
    for name, norm in case.expected["grad_norms"].items():
        if norm >= 1e-5:
            assert parameters[to_ours(name)].grad.norm().item() == pytest.approx(norm, rel=1e-3), name
            checked += 1
    assert checked > 100


def to_our_name(name: str) -> str:
    name = name.replace("text_encoder.cls.", "cls.").replace("text_encoder.bert.", "text_model.")
    return name.replace("text_encoder.", "text_model.").replace("vision_encoder.", "vision_model.")


def retrieval_inputs(case):
    inputs = case.inputs
    idx = case.json["idx"]
    arguments = {
        "pixel_values": inputs["video"],
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "video_ids": torch.tensor(idx) if idx is not None else None,
    }
    if "draw.img_neg_indices" in inputs:
        arguments["negative_video_idx"] = inputs["draw.img_neg_indices"]
        arguments["negative_text_idx"] = inputs["draw.txt_neg_indices"]
    else:
        is_same = torch.tensor(idx)[:, None] == torch.tensor(idx)
        for ours, theirs in (("negative_video_idx", "draw.img_neg_randn"), ("negative_text_idx", "draw.txt_neg_randn")):
            arguments[ours] = (inputs[theirs] - 9999 * is_same).argmax(dim=1)
    return arguments


@pytest.mark.parametrize("name", PRETRAIN_CASES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_pretraining_losses_and_gradients(name, implementation, checkpointing, golden, assert_close):
    case = golden(name)
    model = case.load(SViTTForPreTraining, case.config()).train()
    model.set_attn_implementation(implementation)
    if checkpointing:
        model.activation_checkpointing_enable()
    if case.json["temp_override"] is not None:
        model.temp.data.fill_(case.json["temp_override"])
    with fixed_block_pattern(case.series("attn_idx")):
        outputs = model(
            **retrieval_inputs(case), mlm_input_ids=case.outputs["mlm_input_ids"], mlm_labels=case.outputs["mlm_labels"]
        )
    outputs.loss.backward()
    check_retrieval(case, model, outputs, assert_close)
    assert_close(outputs.prediction_logits, case.outputs["mlm_logits"])
    assert outputs.loss_mlm.item() == pytest.approx(case.expected["losses"]["loss_mlm"], rel=1e-5)
    check_gradients(case, model, to_our_name, assert_close)


def test_retrieval_loss_and_gradients(implementation, golden, assert_close):
    case = golden("case06d_retrieval_loss")
    model = case.load(SViTTForVideoTextRetrieval, case.config()).train()
    model.set_attn_implementation(implementation)
    with fixed_block_pattern(case.series("attn_idx")):
        outputs = model(**retrieval_inputs(case))
    outputs.loss.backward()
    check_retrieval(case, model, outputs, assert_close)
    check_gradients(case, model, to_our_name, assert_close)


def check_retrieval(case, model, outputs, assert_close):
    assert_close(outputs.video_model_output.last_hidden_state, case.outputs["image_embeds"])
    assert_close(outputs.text_model_output.last_hidden_state, case.outputs["text_embeds"])
    assert_close(outputs.logits_per_video, case.outputs["sim_i2t"])
    assert_close(outputs.itm_logits, case.outputs["itm_logits"])
    losses = case.expected["losses"]
    assert outputs.loss_itc.item() == pytest.approx(losses["loss_ita"], rel=1e-5)
    assert outputs.loss_itm.item() == pytest.approx(losses["loss_itm"], rel=1e-5)
    assert outputs.loss.item() == pytest.approx(case.expected["loss_total"], rel=1e-5)
    assert model.temp.item() == pytest.approx(case.expected["temp_after"], rel=1e-6)


@pytest.mark.parametrize("name", ["case07_vqa_train", "case07b_vqa_train_prunecfg"])
def test_question_answering_loss_and_gradients(name, implementation, golden, assert_close):
    case = golden(name)
    # The original loses its configured drops in multimodal mode (decision 5).
    config = case.config(text_overrides={"token_keep_rate": 1.0})
    model = case.load(SViTTForVideoQuestionAnswering, config).train()
    model.set_attn_implementation(implementation)
    inputs = case.inputs
    with fixed_block_pattern(case.series("attn_idx")):
        outputs = model(
            pixel_values=inputs["video"],
            input_ids=inputs["question_ids"],
            attention_mask=inputs["question_mask"],
            labels=inputs["answer_ids"],
            decoder_attention_mask=inputs["answer_mask"],
            answer_weights=inputs["weights"],
            answers_per_question=torch.tensor(case.json["k"]),
        )
    outputs.loss.backward()
    assert outputs.loss.item() == pytest.approx(case.expected["loss"], rel=1e-5)
    assert_close(outputs.answer_loss, case.outputs["answer_loss"])
    assert_close(outputs.logits, case.outputs["logits"])
    check_gradients(case, model, to_our_name, assert_close)


@pytest.mark.parametrize("name", RANKING_CASES)
@pytest.mark.parametrize("chunk_size", [1, 3, 128])
def test_answer_ranking(name, implementation, chunk_size, golden, assert_close):
    case = golden(name)
    model = case.load(SViTTForVideoQuestionAnswering, case.config(text_overrides={"token_keep_rate": 1.0})).eval()
    model.set_attn_implementation(implementation)
    inputs = case.inputs
    with fixed_block_pattern(case.series("attn_idx")):
        answers, probs = model.rank_answers(
            inputs["video"],
            inputs["question_ids"],
            inputs["question_mask"],
            inputs["answer_ids"],
            inputs["answer_mask"],
            k=case.json["k"],
            ensemble=case.json["config"]["eval_frame_ensemble"],
            strided_clips=case.json["config"].get("eval_sparse_sampling", False),
            chunk_size=chunk_size,
        )
    assert torch.equal(answers, case.outputs["topk_ids"])
    assert_close(probs, case.outputs["topk_probs"])


def full_size_weights(shapes: dict, seed: int) -> dict[str, torch.Tensor]:
    """The recipe of fixtures/golden/README.md section 8."""
    weights = {}
    for name, shape in shapes.items():
        generator = np.random.RandomState(zlib.crc32(name.encode()) ^ seed)
        value = generator.standard_normal(shape)
        if name.endswith("relative_position_bias_table"):
            value = 0.5 * value
        elif "lambda_" in name:
            value = 0.3 + 0.05 * value
        elif "layernorm" in name.lower():
            value = 1 + 0.2 * value if name.endswith("weight") else 0.1 * value
        elif name.endswith("bias"):
            value = 0.05 * value
        elif name.endswith("cls_token"):
            value = 0.3 * value
        else:
            value = 0.04 * value
        weights[name] = torch.from_numpy(value.astype(np.float32))
    return weights


@pytest.mark.parametrize(
    "name",
    [
        "case12_full_base_T4_both",
        pytest.param("case12b_full_base_T4_dense", marks=pytest.mark.slow),
        pytest.param("case12c_full_base_T8_both_keep60", marks=pytest.mark.slow),
    ],
)
def test_full_size(name, golden, assert_close):
    case = golden(name)
    model = SViTTVisionModel(case.vision_config()).eval()
    model.load_state_dict(full_size_weights(case.json["parameter_shapes"], case.json["recipe"]["weights_seed"]))
    clip = np.random.RandomState(1234).standard_normal((1, case.json["num_frames"], 3, 224, 224))
    for implementation in IMPLEMENTATIONS:
        model.set_attn_implementation(implementation)
        with torch.no_grad(), fixed_block_pattern(case.series("attn_idx")):
            outputs = model(torch.from_numpy(clip.astype(np.float32)), output_hidden_states=True)
        want, last = case.outputs, outputs.last_hidden_state[0]
        assert_close(outputs.pooler_output, want["pooler_output"])
        assert_close(last[:1], want["last_hidden_cls"])
        assert_close(last.flatten()[:64], want["last_hidden_first64"])
        assert_close(last[:64, :8], want["last_hidden_tokens_first8"])
        cls_tokens = torch.stack([states[0, 0, :8] for states in outputs.hidden_states])
        assert_close(cls_tokens, want["cls_token_first8_per_layer"])
        mean_abs = torch.stack([states[0].abs().mean() for states in outputs.hidden_states])
        assert_close(mean_abs, want["mean_abs_per_layer"])
        for actual, expected in zip(outputs.token_idx or (), case.series("token_idx"), strict=True):
            assert torch.equal(actual[0], expected)


def test_drop_path_rates(golden):
    expected = golden("case11_optim").expected["drop_path_rates_0.1_6layers"]
    model = SViTTVisionModel(
        SViTTVisionConfig(num_hidden_layers=6, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    )
    assert [layer.drop_path.drop_prob for layer in model.encoder.layer] == pytest.approx(expected, rel=1e-6)
