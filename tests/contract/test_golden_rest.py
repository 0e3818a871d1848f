# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Retrieval scores, metrics, inflation, optimiser, sampling and words against the original's numbers."""

import json
import math
import random

import evaluate
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import BertTokenizer

from ..conftest import GOLDEN
from . import surface
from .surface import SViTTForVideoTextRetrieval, fixed_block_pattern


def expected_of(case):
    return json.loads((GOLDEN / case / "config.json").read_text())["expected"]


# ---- Retrieval

RETRIEVAL_CASES = [
    "case09_ret_concat",
    "case09b_ret_concat_prune",
    "case09c_ret_lse_contig",
    "case09c_ret_max_contig",
    "case09c_ret_mean_contig",
    "case09d_ret_lse_sparse",
]


def score(case, order=None, patterns=None, batch_size=3, **overrides):
    config = case.json["config"]
    settings = {
        "num_frames_test": config["video_input"]["num_frames_test"],
        "eval_frame_ensemble": config["eval_frame_ensemble"],
        "strided_clips": config["eval_sparse_sampling"],
        "k_test": config["k_test"],
    }
    model = case.load(SViTTForVideoTextRetrieval, case.config())
    videos = case.inputs["video"] if order is None else case.inputs["video"][order]
    texts = [{name: case.inputs[name] for name in ("input_ids", "attention_mask")}]
    with fixed_block_pattern(patterns) if patterns else torch.no_grad():
        return surface.retrieval_scores(model, videos.split(batch_size), texts, 3, **settings | overrides)


@pytest.mark.parametrize("name", RETRIEVAL_CASES)
def test_retrieval_scores_and_recalls(golden, assert_close, name):
    case = golden(name)
    scores = score(case, patterns=case.series("attn_idx"))
    # The original marks pairs outside the shortlist by -100, we by -inf.
    assert_close(scores.itc, case.outputs["i2t_scores_emb"])
    assert_close(scores.video_to_text.clamp(min=-100), case.outputs["i2t_scores_x"])
    assert_close(scores.text_to_video.clamp(min=-100), case.outputs["t2i_scores_x"])
    metrics = surface.recalls(scores, list(case.json["img2txt"].values()))
    assert metrics["itc"] == case.expected["metrics_emb"]
    # A right answer outside the shortlist of 5 is a miss at 10 too; the original's ranks it behind the few inside.
    for key in ("txt_r1", "txt_r5", "img_r1", "img_r5"):
        assert metrics["itm"][key] == case.expected["metrics_x"][key]
    assert (metrics["itm"]["txt_r10"], metrics["itm"]["img_r10"]) == (
        metrics["itm"]["txt_r5"],
        metrics["itm"]["img_r5"],
    )


def test_scores_do_not_depend_on_batches_or_order(golden, assert_close):
    case, order = golden("case09c_ret_lse_contig"), [4, 1, 5, 0, 2, 3]
    whole, parts = (score(case, eval_x_only=True, **other) for other in ({}, {"order": order, "batch_size": 4}))
    assert_close(parts.itc, whole.itc[order])
    assert_close(parts.video_to_text, whole.video_to_text[order])


@pytest.mark.parametrize("name", ["one_to_one", "multi_caption", "multi_video"])
def test_recall_through_evaluate(golden, name):
    case = golden("case09e_itm_eval")
    right = case.json["gt"][name]
    texts_of_video = range(50) if name == "one_to_one" else right["img2txt"].values()
    metrics = evaluate.load(str(surface.METRICS / "retrieval_recall")).compute(
        predictions=case.inputs[f"{name}_i2t"],
        references=[texts if isinstance(texts, list) else [texts] for texts in texts_of_video],
        text_to_video=case.inputs[f"{name}_t2i"],
    )
    assert metrics == case.expected[name]


def test_ties_are_hits_and_what_is_outside_the_shortlist_is_a_miss():
    recall = evaluate.load(str(surface.METRICS / "retrieval_recall"))
    tied = recall.compute(predictions=np.zeros((3, 3)), references=[[0], [1], [2]])
    assert tied["txt_r1"] == tied["img_r1"] == 100.0
    outside = np.array([[-5.0, -np.inf], [-np.inf, -7.0]])
    assert recall.compute(predictions=outside, references=[[0], [1]])["r_mean"] == 100.0
    missed = recall.compute(predictions=outside, references=[[1], [0]])
    assert missed["txt_r10"] == missed["img_r10"] == 0.0
    # Video 0 has texts 0 and 2, of which 2 comes first; text 1 belongs to videos 1 and 2, of which 2 comes first.
    several = recall.compute(
        predictions=np.array([[0.1, 0.5, 0.9], [0.6, 0.2, 0.3], [0.0, 0.8, 0.7]]), references=[[0, 2], [1], [1]]
    )
    assert several["txt_r1"] == several["img_r1"] == pytest.approx(200 / 3, abs=0.01)


def test_accuracy_through_evaluate(golden):
    accuracy = evaluate.load(str(surface.METRICS / "qa_accuracy"))
    annotations, predictions, expected = golden("case10_data_helpers").expected["qa_acc"]
    answers = {one["question_id"]: one["answer"] for one in predictions}
    assert len(answers) < len(annotations)  # one question has no answer, which is wrong
    metrics = accuracy.compute(
        predictions=[answers.get(row["question_id"], "") for row in annotations],
        references=[[row["answer"]] for row in annotations],
    )
    assert metrics == expected
    by_type = accuracy.compute(
        predictions=["", "cat", "dog", "two"],
        references=[["cat"], ["dog", "cat"], ["cat"], ["two"]],
        question_types=[["what"], ["what", "hard"], ["hard"], []],
    )
    assert by_type == {"overall": 50.0, "by_type": {"hard": 50.0, "what": 50.0}}
    of_ten = [["cat"] * 2 + ["dog"] * 8, ["cat"] * 1 + ["dog"] * 9, ["cat"] * 3 + ["dog"] * 7, ["dog"] * 10]
    soft = accuracy.compute(predictions=["cat"] * 4, references=of_ten)
    assert soft == {"overall": 75.0, "soft": 50.0}  # (2/3 + 1/3 + 1 + 0) / 4


# ---- Inflation


@pytest.mark.parametrize("name", json.loads((GOLDEN / "case08_relpos_interpolation/config.json").read_text())["tables"])
def test_tables_of_relative_positions_are_inflated(name, golden, assert_close):
    case = golden("case08_relpos_interpolation")
    table = case.json["tables"][name]
    side = (math.isqrt((table["src_rows"] - 3) // table["src_t_size"]) + 1) // 2
    source_grid = ((table["src_t_size"] + 1) // 2, side, side)
    actual = surface.resize_relative_position_bias(case.inputs[name], source_grid, tuple(table["dst_window"]))
    assert_close(actual, case.outputs[name])


def test_positions_of_images_are_resized(golden, assert_close):
    case = golden("case08b_relpos_interpolation_2d")
    assert_close(
        surface.resize_relative_position_bias(case.inputs["table"], (1, 4, 4), (1, 5, 5)), case.outputs["table"]
    )
    case = golden("case08c_abs_pos_interpolation")
    assert_close(surface.resize_position_embeddings(case.inputs["pos"], 6), case.outputs["pos"])


def test_a_model_for_longer_clips_has_the_golden_table(golden, assert_close):
    case = golden("case08_relpos_interpolation")
    config = surface.SViTTConfig(
        vision_config=dict(
            num_frames=4, image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2
        )
        | dict(intermediate_size=32, token_drop_loc=[0], token_keep_rate=1.0, sparse_random_attn=None),
        text_config=dict(vocab_size=200, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
        | dict(intermediate_size=32, fusion_layer=1, encoder_width=16, mask_token_id=4),
    )
    model = surface.SViTTModel(config)
    tables = [name for name in model.state_dict() if name.endswith("bias_table")]
    model.load_state_dict({name: case.inputs["f_T4_to_T8"] for name in tables}, strict=False)
    weights, longer = surface.expand_num_frames(model.state_dict(), config, 8)
    assert (config.vision_config.num_frames, longer.vision_config.num_frames) == (4, 8)
    for name in tables:
        assert_close(weights[name], case.outputs["f_T4_to_T8"])


# ---- Optimiser

OPTIMISER = expected_of("case11_optim")


@pytest.mark.parametrize("schedule", OPTIMISER["schedules"], ids=lambda schedule: str(schedule["num_warmup_steps"]))
def test_learning_rates(schedule):
    names = ("base_lr", "num_warmup_steps", "num_training_steps", "min_lr_multi")
    lrs = surface.learning_rates(*(schedule[name] for name in names), count=len(schedule["lrs"]))
    assert lrs == pytest.approx(schedule["lrs"], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("model", ["pretrain", "retrieval", "vqa"])
@pytest.mark.parametrize("different_lr", [False, True])
def test_parameter_groups(model, different_lr):
    name = f"{model}_different_lr" if different_lr else model
    expected = OPTIMISER[f"param_groups_{name}"]
    with safe_open(GOLDEN / f"_weights/{model}_tiny.safetensors", "pt") as weights:
        parameters = {key: nn.Parameter(weights.get_tensor(key)) for key in expected}
    module = "text_decoder" if model == "vqa" else "vision_proj"
    larger = {"larger_lr": 1e-3, "larger_lr_names": [module]} if different_lr else {}
    groups = surface.optimizer_groups(parameters.items(), lr=1e-5, **larger)
    key_of = {id(parameter): key for key, parameter in parameters.items()}
    assert expected == {
        key_of[id(parameter)]: [group["weight_decay"], group["lr"]] for group in groups for parameter in group["params"]
    }


# ---- Frames and words

HELPERS = expected_of("case10_data_helpers")


def test_sampled_frames():
    sample = surface.sample_frame_indices
    for num_frames, vlen, expected in HELPERS["frames_middle"]:
        assert sample(num_frames, vlen) == expected
    for num_frames, vlen, seed, expected in HELPERS["frames_rand"]:
        random.seed(seed)
        np.random.seed(seed)
        assert sample(num_frames, vlen, "rand") == expected
    for sampling, vlen, fps, limit, expected in HELPERS["frames_fps"]:
        assert sample(4, vlen, sampling, fps=fps, max_num_frames=limit) == expected
    for num_frames, vlen, start, expected in HELPERS["frames_fix_start"]:
        assert sample(num_frames, vlen, fix_start=start) == expected


def test_words():
    for text, expected in HELPERS["pre_text"]:
        assert surface.clean_text(text) == expected
    for text, expected in HELPERS["pre_text_max3"]:
        assert surface.clean_text(text, max_words=3) == expected
    tokenizer = BertTokenizer(vocab=str(GOLDEN / "case10b_tokenizer/vocab.txt"))
    processor = surface.SViTTProcessor(surface.SViTTVideoProcessor(size=32), tokenizer)
    for text, ids, mask in expected_of("case10b_tokenizer")["rows"]:
        encoded = processor(text=[text], clean_text=False, padding="max_length", max_length=8, return_tensors="pt")
        assert encoded["input_ids"].tolist() == [ids] and encoded["attention_mask"].tolist() == [mask]
        if text.endswith(" [SEP]"):
            answer = processor.encode_answers([text.removesuffix(" [SEP]")], max_length=8, padding="max_length")
            assert answer["input_ids"].tolist() == [ids] and answer["attention_mask"].tolist() == [mask]
