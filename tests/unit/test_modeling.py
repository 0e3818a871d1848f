# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Where the port decides for itself (decisions 1-23), and what Transformers users expect of a model."""

import math
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging import version
from torch.nn import functional as F

from svitt import (
    SViTTConfig,
    SViTTForPreTraining,
    SViTTForVideoClassification,
    SViTTForVideoQuestionAnswering,
    SViTTForVideoTextRetrieval,
    SViTTModel,
    SViTTTextConfig,
    SViTTTextModel,
    SViTTVisionConfig,
    SViTTVisionModel,
    fixed_block_pattern,
)
from svitt.conversion.positions import resize_relative_position_bias
from svitt.modeling_svitt import (
    RelativePositions,
    contrastive_loss,
    draw_block_pattern,
    draw_negatives,
    evaluation_block_scores,
    lookup_bias,
    mask_tokens,
    select_tokens,
    split_clips,
    with_masked_row,
)

ROOT = Path(__file__).parents[2]
SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 32}
VISION = SIZES | {
    "num_frames": 3,
    "image_size": 32,
    "patch_size": 8,
    "sparse_random_attn": 2,
    "attn_block_size": 7,
    "token_drop_loc": [0, 2],
    "drop_path_rate": 0.0,
}
TEXT = SIZES | {
    "vocab_size": 60,
    "max_position_embeddings": 32,
    "fusion_layer": 2,
    "encoder_width": 24,
    "token_keep_rate": 0.5,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "mask_token_id": 4,
}


def randomise(model):
    """Weights large enough, bias tables and layer scales included, for every path to show in the outputs."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name != "temp" and "norm" not in name.lower():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def vision_model(**settings):
    return randomise(SViTTVisionModel(SViTTVisionConfig(**{**VISION, **settings})))


def text_model(**settings):
    return randomise(SViTTTextModel(SViTTTextConfig(**{**TEXT, **settings})))


def task_model(model_class, vision=None, text=None, **settings):
    towers = {"vision_config": {**VISION, **(vision or {})}, "text_config": {**TEXT, **(text or {})}}
    return randomise(model_class(SViTTConfig(**towers, embed_dim=8, **settings)))


def clips(batch_size=2, num_frames=3, seed=1):
    return torch.randn(batch_size, num_frames, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def texts(batch_size=2, length=6, seed=2):
    ids = torch.randint(5, 60, (batch_size, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    ids[:, 0] = 2
    ids[0, length - 2 :], mask[0, length - 2 :] = 0, 0
    return ids, mask


# ---- Edge sparsity: decisions 1-4


def rows_by_hand(positions, num_frames, height, width):
    """Rows (P, 1 + n, 1 + n) of a bias table for patches at positions (P, n); the last three are the CLS token's."""
    t, y, x = (p[:, :, None] - p[:, None] for p in torch.unravel_index(positions, (num_frames, height, width)))
    rows = ((t + num_frames - 1) * (2 * height - 1) + y + height - 1) * (2 * width - 1) + x + width - 1
    rows, num_offsets = F.pad(rows, (1, 0, 1, 0)), (2 * num_frames - 1) * (2 * height - 1) * (2 * width - 1)
    rows[:, 0], rows[:, 1:, 0], rows[:, 0, 0] = num_offsets, num_offsets + 1, num_offsets + 2
    return rows


def attention_by_hand(layer, hidden_states, positions, pattern, block_size):
    """One layer's attention, of all to all: who sees whom by a mask, biases by original positions."""
    attention, normed = layer.attention.attention, layer.layernorm_before(hidden_states)
    query, key, value = (
        projection(normed).unflatten(-1, (3, -1)) for projection in (attention.query, attention.key, attention.value)
    )
    block = torch.arange(positions.shape[1]) // block_size
    is_seen = torch.ones(1 + len(block), 1 + len(block), dtype=torch.bool)
    if pattern is not None:
        is_seen[1:, 1:] = (pattern[block][:, :, None] == block).any(dim=1)
    bias = attention.relative_position_bias.relative_position_bias_table[rows_by_hand(positions, 3, 4, 4)]
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1]) + bias.permute(0, 3, 1, 2)
    probs = scores.masked_fill(~is_seen, float("-inf")).softmax(dim=-1)
    return layer.attention.output(torch.einsum("bhqk,bkhd->bqhd", probs, value).flatten(2))


@settings(max_examples=25, deadline=None)
@given(
    local=st.sampled_from([0, 1, 3, 5]),
    random=st.integers(0, 4),
    block_size=st.integers(3, 20),
    implementation=st.sampled_from(["eager", "sdpa"]),
    num_tokens=st.integers(5, 48),
    training=st.booleans(),
)
def test_block_attention_equals_attention_by_hand(local, random, block_size, implementation, num_tokens, training):
    """Padding is masked, local blocks meet their own values, blocks are distinct, few blocks mean dense attention."""
    random = random or int(local == 0)
    model = vision_model(sparse_local_attn=local, sparse_random_attn=random, attn_block_size=block_size)
    model.set_attn_implementation(implementation)
    encoder, layer = model.encoder.train(training), model.encoder.layer[0]
    hidden_states = torch.randn(2, 1 + num_tokens, 24)
    positions = torch.stack([torch.randperm(48)[:num_tokens].sort().values for _ in range(2)])
    relative_positions = RelativePositions(3, 4, 4)
    coordinates = relative_positions.coordinates(positions)
    num_blocks = math.ceil(num_tokens / block_size)
    pattern, is_sparse = None, num_blocks > local + random
    if is_sparse:
        pattern = draw_block_pattern(torch.rand(num_blocks, num_blocks), local, random)
        assert all(len(set(row)) == local + random for row in pattern.tolist())
    with fixed_block_pattern([pattern]) if is_sparse else nullcontext():
        blocks = encoder.draw_blocks(0, coordinates, relative_positions)
    assert (blocks is not None) == is_sparse

    with torch.no_grad():
        context, _, _ = layer.attention.attention(
            layer.layernorm_before(hidden_states),
            blocks=blocks,
            dense_rows=relative_positions.dense_rows(coordinates) if blocks is None else None,
            cls_rows=relative_positions.cls_rows(coordinates),
            table_rows=None,
            needs_cls_probs=False,
        )
        actual = layer.attention.output(context)
        expected = attention_by_hand(layer, hidden_states, positions, pattern, block_size)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)


def test_local_blocks_go_around_the_ring():
    pattern = draw_block_pattern(torch.rand(6, 6), num_local=3, num_random=0)
    assert pattern[0].tolist() == [1, 0, 5] and pattern[5].tolist() == [0, 5, 4]


@pytest.mark.parametrize(("num_blocks", "num_local", "num_random"), [(2, 1, 1), (7, 0, 7), (14, 1, 3), (60, 3, 5)])
def test_evaluation_patterns(num_blocks, num_local, num_random):
    scores = [evaluation_block_scores(5, layer, num_blocks, torch.device("cpu")) for layer in (3, 3, 4)]
    assert torch.equal(scores[0], scores[1]) and not torch.equal(scores[0], scores[2])
    assert all(len(row.unique()) == num_blocks for row in scores[0])
    pattern = draw_block_pattern(scores[0], num_local, num_random)
    assert pattern.min() >= 0 and pattern.max() < num_blocks
    assert all(len(set(row)) == num_local + num_random for row in pattern.tolist())
    assert torch.equal(pattern[:, num_local:], pattern[:, num_local:].sort(dim=1).values)


def test_evaluation_patterns_are_uniform():
    counts = torch.zeros(20, 20)
    for layer in range(600):
        pattern = draw_block_pattern(evaluation_block_scores(0, layer, 20, torch.device("cpu")), 1, 3)[:, 1:]
        counts.scatter_add_(1, pattern, torch.ones(20, 3))
    assert torch.equal(counts.diagonal(), torch.zeros(20))
    expected = 600 * 3 / 19
    chi_squared = ((counts - expected) ** 2 / expected).sum() - 20 * expected
    assert abs(chi_squared / (20 * 18 * (1 - 3 / 19)) - 1) < 0.3


def test_same_features_alone_in_a_batch_in_another_order_and_process(tmp_path):
    for strategy in ("cls_attn", "random"):
        model = vision_model(token_keep_strategy=strategy)
        together = model(clips(3))
        for i in range(3):
            alone = model(clips(3)[i : i + 1])
            torch.testing.assert_close(alone.last_hidden_state[0], together.last_hidden_state[i], rtol=0, atol=1e-6)
        backwards = model(clips(3).flip(0)).pooler_output.flip(0)
        torch.testing.assert_close(backwards, together.pooler_output, rtol=0, atol=1e-6)

    path = tmp_path / "features.pt"
    code = f"import sys, torch; sys.path.insert(0, {str(ROOT)!r})\nfrom tests.unit.test_modeling import *"
    code += f"\ntorch.save(vision_model()(clips(3)).pooler_output.detach(), {str(path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    torch.testing.assert_close(torch.load(path), vision_model()(clips(3)).pooler_output, rtol=0, atol=1e-6)


def test_draws_follow_the_seed():
    evaluation = [vision_model(random_attn_seed=seed)(clips()).pooler_output for seed in (0, 1)]
    assert not torch.allclose(*evaluation)
    model = vision_model().train()
    torch.manual_seed(5)
    first, second = model(clips()).pooler_output, model(clips()).pooler_output
    torch.manual_seed(5)
    assert not torch.equal(first, second) and torch.equal(first, model(clips()).pooler_output)


def test_faults_of_fixed_patterns():
    model, short, far = vision_model(), torch.zeros(3, 2, dtype=torch.long), torch.full((7, 3), 9)
    for patterns, words in ([], "ran out"), ([short], r"shape \(3, 2\) .* 7 blocks"), ([far], "blocks up to 9"):
        with pytest.raises(ValueError, match=words), fixed_block_pattern(patterns):
            model(clips())
        model(clips())  # and nothing is left behind


# ---- Node sparsity: decisions 5, 22, 23


@settings(max_examples=100, deadline=None)
@given(num_tokens=st.integers(1, 300), keep_rate=st.floats(0.01, 1))
def test_select_tokens(num_tokens, keep_rate):
    scores = torch.rand(2, num_tokens)
    kept = select_tokens(scores, keep_rate)
    assert kept.shape == (2, math.ceil(keep_rate * num_tokens))
    for row, chosen in zip(scores, kept, strict=True):
        assert torch.equal(chosen, chosen.sort().values)
        assert set(chosen.tolist()) == set(row.argsort(descending=True)[: len(chosen)].tolist())


def test_fusion_drops_tokens_in_fusion_and_multimodal_mode():
    ids, mask = texts()
    video = torch.randn(2, 21, 24)
    model, dense = text_model(), text_model(token_keep_rate=1.0)
    text = model(ids, mask, mode="text").last_hidden_state
    fusion = model(text_embeds=text, attention_mask=mask, encoder_hidden_states=video, mode="fusion")
    multimodal = model(ids, mask, encoder_hidden_states=video, mode="multimodal")
    torch.testing.assert_close(fusion.last_hidden_state, multimodal.last_hidden_state)
    assert torch.equal(fusion.token_idx[0], multimodal.token_idx[0]) and fusion.token_idx[0].shape == (2, 10)
    without = dense(ids, mask, encoder_hidden_states=video).last_hidden_state
    assert not torch.allclose(multimodal.last_hidden_state, without, atol=1e-4)


def test_average_attention_leaves_padding_out():
    ids, mask = texts()
    video = torch.randn(2, 41, 24)
    masked, original = (text_model(token_keep_strategy="avg_attn", attn_mask_padding=mask) for mask in (True, False))
    short = masked(ids[:1, :4], encoder_hidden_states=video[:1]).token_idx[0]
    assert torch.equal(masked(ids, mask, encoder_hidden_states=video).token_idx[0][0], short[0])
    assert not torch.equal(original(ids, mask, encoder_hidden_states=video).token_idx[0][0], short[0])


# ---- Any number of frames, nothing quadratic: decisions 6, 7


@pytest.mark.parametrize("num_frames", [1, 2, 4, 7])
def test_any_number_of_frames(num_frames):
    model = vision_model()
    other = vision_model(num_frames=num_frames)
    state = model.state_dict()
    for key in state:
        if key.endswith("bias_table"):
            state[key] = resize_relative_position_bias(state[key], (3, 4, 4), (num_frames, 4, 4))
    other.load_state_dict(state)
    video = clips(num_frames=num_frames)
    torch.testing.assert_close(model(video).last_hidden_state, other(video).last_hidden_state)
    if num_frames == 1:
        torch.testing.assert_close(model(video[:, 0]).pooler_output, model(video).pooler_output)


def test_wrong_clips_are_refused():
    with pytest.raises(ValueError, match="1 to 8 frames"):
        vision_model(max_num_frames=8)(clips(num_frames=9))
    with pytest.raises(ValueError, match=r"has shape \(2, 3, 3, 30, 32\)"):
        vision_model()(torch.zeros(2, 3, 3, 30, 32))


def test_nothing_quadratic_is_stored():
    model = vision_model(num_frames=8, image_size=64)
    num_tokens = 8 * 8 * 8
    assert max(tensor.numel() for tensor in model.state_dict().values()) < num_tokens**2 / 20
    assert all(buffer.numel() < num_tokens**2 / 20 for buffer in model.buffers())


@settings(max_examples=30, deadline=None)
@given(num_frames=st.integers(1, 5), height=st.integers(1, 5), width=st.integers(1, 5))
def test_relative_rows(num_frames, height, width):
    relative = RelativePositions(num_frames, height, width)
    positions = torch.arange(num_frames * height * width)[None]
    rows = relative.dense_rows(relative.coordinates(positions))
    assert torch.equal(rows.long(), rows_by_hand(positions, num_frames, height, width))
    assert rows.min() >= 0 and rows.max() == relative.num_rows - 1
    table = torch.randn(relative.num_rows, 2)
    torch.testing.assert_close(lookup_bias(with_masked_row(table), rows), table[rows.long()].permute(0, 3, 1, 2))


# ---- Fusion of many texts with one video: decision 8


@pytest.mark.parametrize("keep_rate", [1.0, 0.3])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_texts_of_a_video_share_its_keys_and_values(keep_rate, implementation):
    model = task_model(SViTTModel, text={"token_keep_rate": keep_rate, "token_drop_loc": [2, 3]})
    model.set_attn_implementation(implementation)
    ids, mask = texts(6)
    video = model.get_video_features(clips(2)).last_hidden_state
    text = model.get_text_features(ids, mask).last_hidden_state
    shared = model.match(video_hidden_states=video, text_hidden_states=text, attention_mask=mask)
    one_by_one = [
        model.match(None, None, mask[[i]], video_hidden_states=video[[i // 3]], text_hidden_states=text[[i]])
        for i in range(6)
    ]
    torch.testing.assert_close(shared, torch.cat(one_by_one), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared, model.match(clips(2), ids, mask), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="5 texts for 2 videos"):
        model.match(video_hidden_states=video, text_hidden_states=text[:5], attention_mask=mask[:5])


@pytest.mark.parametrize("strategy", ["cls_attn", "avg_attn"])
@pytest.mark.parametrize("drop_loc", [[2], [2, 3], [3]])
def test_cls_alone_is_as_with_the_other_words(strategy, drop_loc):
    text_settings = {"token_keep_rate": 0.3, "token_drop_loc": drop_loc, "token_keep_strategy": strategy}
    model = task_model(SViTTModel, text=text_settings)
    ids, mask = texts(6)
    video = model.get_video_features(clips(2)).last_hidden_state.detach().requires_grad_()
    text = model.get_text_features(ids, mask).last_hidden_state.detach().requires_grad_()
    all_words = model.fuse(video, text, mask)
    cls = model.fuse(video, text, mask, cls_only=True)
    assert cls.shape == (6, 1, all_words.shape[2])
    torch.testing.assert_close(cls[:, 0], all_words[:, 0])
    direction = torch.randn_like(cls[:, 0])
    expected = torch.autograd.grad((all_words[:, 0] * direction).sum(), (video, text))
    torch.testing.assert_close(torch.autograd.grad((cls[:, 0] * direction).sum(), (video, text)), expected)


# ---- Precision: decisions 10, 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_scores_are_float32_under_autocast(dtype):
    ids, mask = texts()
    model = task_model(SViTTForPreTraining)
    with torch.autocast("cpu", dtype=dtype):
        scores = model(clips(), ids, mask).logits_per_video, model.match(clips(), ids, mask)
    for values in scores:  # and not merely half-precision values in a float32 tensor
        assert values.dtype == torch.float32 and not torch.equal(values, values.to(dtype).float())


def test_padded_words_do_not_matter_in_half_precision():
    model = task_model(SViTTModel).to(torch.bfloat16)
    ids, mask = texts()
    other = ids.clone()
    other[mask == 0] = 7
    assert torch.equal(
        model.get_text_features(ids, mask).pooler_output, model.get_text_features(other, mask).pooler_output
    )


# ---- Losses: decisions 11, 13, 20


def test_a_batch_of_one_and_a_batch_of_equal_ids():
    model = task_model(SViTTForPreTraining).train()
    ids, mask = texts(2)
    alone = model(clips(1), ids[1:], mask[1:])
    same = model(clips(2), ids, mask, video_ids=torch.tensor([7, 7]))
    for outputs, size in ((alone, 1), (same, 2)):
        assert outputs.loss.isfinite() and outputs.itm_logits.shape == (3 * size, 2)
        positives = F.cross_entropy(outputs.itm_logits[:size], torch.ones(size, dtype=torch.long))
        torch.testing.assert_close(outputs.loss_itm, positives)
    assert same.loss_itc.item() == pytest.approx(
        -same.logits_per_video.log_softmax(1).mean().item() / 2 - same.logits_per_text.log_softmax(1).mean().item() / 2,
        rel=1e-5,
    )


@pytest.mark.parametrize("size", [2, 3, 8])
def test_matching_lists_are_those_of_the_parts_of_a_batch(size):
    model = task_model(SViTTForVideoTextRetrieval).eval()  # without dropout
    model.config.itm_list_size = size
    (ids, mask), pixels, video_ids = texts(5), clips(5), torch.tensor([0, 1, 2, 2, 4])
    outputs = model(pixels, ids, mask, video_ids=video_ids, return_loss=True)

    model.config.itm_list_size = None
    logits = torch.stack([model(clip.expand(5, -1, -1, -1, -1), ids, mask).itm_logits for clip in pixels])
    torch.testing.assert_close(outputs.itm_logits, logits.diagonal().t(), atol=1e-5, rtol=1e-4)
    scores, losses = logits[..., 1] - logits[..., 0], []
    for part in torch.arange(5).tensor_split(math.ceil(5 / size)):
        is_same = (video_ids[part, None] == video_ids[part]).float()
        share, of_part = is_same / is_same.sum(dim=1), scores[part][:, part]
        losses += [F.cross_entropy(one, share, reduction="sum") / 2 for one in (of_part, of_part.t())]
        weights = torch.where(is_same > 0, 1, 2 / max(len(part) - 1, 1))
        nll = torch.where(is_same > 0, F.softplus(-of_part), F.softplus(of_part))
        losses.append(len(part) * (weights * nll).sum() / weights.sum())
    torch.testing.assert_close(outputs.loss_itm, sum(losses) / 5, atol=1e-5, rtol=1e-4)
    outputs.loss_itm.backward()  # reaches fusion alone
    layers = model.text_model.encoder.layer
    assert layers[1].output.dense.weight.grad is None and layers[2].output.dense.weight.grad.any()
    assert all(parameter.grad is None for parameter in model.vision_model.parameters())


def test_a_single_clip_has_no_list():
    model = task_model(SViTTForVideoTextRetrieval).train()
    model.config.itm_list_size = 16
    ids, mask = texts(1)
    outputs = model(clips(1), ids, mask)
    assert outputs.itm_logits.shape == (1, 2)
    torch.testing.assert_close(outputs.loss_itm, F.cross_entropy(outputs.itm_logits, torch.tensor([1])))


def test_hard_negatives_follow_the_softmax():
    torch.manual_seed(0)
    logits = torch.tensor([[9.0, 1.0, 2.0, 500.0]]).expand(20000, -1)
    is_same = torch.tensor([[True, False, False, True]]).expand(20000, -1)
    drawn, has_negative = draw_negatives(logits, is_same)
    assert has_negative.all() and set(drawn.tolist()) == {1, 2}
    assert (drawn == 2).float().mean().item() == pytest.approx(1 / (1 + math.exp(-1)), abs=0.02)


def test_mask_tokens():
    torch.manual_seed(0)
    config = SViTTTextConfig(**TEXT)
    ids = torch.tensor([2, *range(5, 60), 3, 0, 0]).repeat(400, 1)
    masked, labels = mask_tokens(ids, config, mlm_prob=0.5)
    chosen = labels != -100
    assert not chosen[:, [0, -3, -2, -1]].any() and torch.equal(masked[~chosen], ids[~chosen])
    assert chosen[:, 1:-3].float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert (masked[chosen] == 4).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (masked[chosen] == ids[chosen]).float().mean().item() == pytest.approx(0.1, abs=0.02)
    _, labels = mask_tokens(ids[:2], config, mlm_prob=1e-9)
    assert (labels != -100).sum() == 1
    masked, labels = mask_tokens(torch.tensor([[2, 3, 0]]), config, mlm_prob=1.0)
    assert (labels == -100).all() and masked.tolist() == [[2, 3, 0]]


def test_loss_of_texts_without_words():
    model = task_model(SViTTForPreTraining).train()
    outputs = model(clips(), torch.tensor([[2, 0], [2, 0]]), torch.tensor([[1, 0], [1, 0]]))
    assert outputs.loss_mlm.item() == 0 and outputs.loss.isfinite()


def test_temperature_is_kept_in_range():
    model = task_model(SViTTForVideoTextRetrieval)
    model.temp.data.fill_(0.9)
    ids, mask = texts()
    loss = model(clips(), ids, mask, return_loss=True).loss_itc
    assert model.temp.item() == pytest.approx(0.9) and loss.isfinite()  # evaluation does not change weights
    model.train()(clips(), ids, mask)
    assert model.temp.item() == 0.5


ALL_GATHER = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {root!r})
from tests.unit.test_modeling import clips, task_model, texts
from svitt import SViTTForPreTraining, SViTTForVideoTextRetrieval
from svitt.data.loaders import ShuffledBatches
from svitt.training.trainer import SViTTTrainer, SViTTTrainingArguments
dist.init_process_group("gloo")
assert dist.get_world_size() == 2
rank = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
model = task_model(SViTTForVideoTextRetrieval, itc_all_gather=True)
ids, mask = texts(4)
outputs = model(clips(4)[rank], ids[rank], mask[rank], video_ids=torch.tensor([0, 1, 1, 2])[rank], return_loss=True)
outputs.loss_itc.backward()
for p in model.parameters():
    if p.grad is not None:
        dist.all_reduce(p.grad); p.grad /= 2
if dist.get_rank() == 0:
    torch.save((outputs.loss_itc.detach(), model.vision_proj.weight.grad, model.temp.grad), {path!r})
# A loss that weighs nothing leaves parameters without a gradient.
rows = {{(i, 0): dict(pixel_values=clip, input_ids=ids) for i, (clip, ids) in enumerate(zip(clips(8), texts(8)[0]))}}
loader = torch.utils.data.DataLoader(rows, batch_sampler=ShuffledBatches(8, 2, 0, dist.get_rank(), 2))
args = SViTTTrainingArguments({path!r} + "s", max_steps=2, use_cpu=True, activation_checkpointing=True)
SViTTTrainer(task_model(SViTTForPreTraining, loss_weight={{"itm": 0, "mlm": 0}}), args, loader).train()
"""


@pytest.mark.slow
def test_contrast_over_all_processes(tmp_path):
    """Two processes that gather have the loss and gradient of one with the whole batch, and train by one loss alone."""
    path, script = tmp_path / "loss.pt", tmp_path / "script.py"
    script.write_text(ALL_GATHER.format(root=str(ROOT), path=str(path)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    subprocess.run(launcher, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    model = task_model(SViTTForVideoTextRetrieval)
    ids, mask = texts(4)
    outputs = model(clips(4), ids, mask, video_ids=torch.tensor([0, 1, 1, 2]), return_loss=True)
    outputs.loss_itc.backward()
    expected = (outputs.loss_itc.detach(), model.vision_proj.weight.grad, model.temp.grad)
    for actual, whole_batch in zip(torch.load(path), expected, strict=True):
        torch.testing.assert_close(actual, whole_batch, rtol=1e-4, atol=1e-6)


# ---- Question answering: decisions 14, 17


def answers():
    return torch.tensor([[2, 10 + i, 3, 0] if i % 2 else [2, 10 + i // 2, 40 + i, 3] for i in range(9)])


def test_likelihood_scoring_ranks_by_the_whole_answer_once():
    model = task_model(SViTTForVideoQuestionAnswering)
    ids, mask = texts()
    arguments = (clips(), ids, mask, answers())
    ranked, probs = model.rank_answers(*arguments, k=9, ensemble="concat", answer_scoring="likelihood")
    losses = [model(clips(), ids, mask, labels=answer.expand(2, -1)).answer_loss for answer in answers()]
    expected = (-torch.stack(losses, dim=1)).softmax(dim=1).sort(descending=True)
    assert torch.equal(ranked, expected.indices)
    torch.testing.assert_close(probs, expected.values, rtol=1e-4, atol=1e-6)
    published, _ = model.rank_answers(*arguments, k=9, ensemble="concat")
    assert not torch.equal(ranked, published)


def test_late_concat_asks_about_the_tokens_of_all_clips_at_once():
    model = task_model(SViTTForVideoQuestionAnswering)
    videos = torch.cat([clips(), clips().flip(1)], dim=1)
    ranked, probs = model.rank_answers(videos, *texts(), answers(), k=9, ensemble="late_concat")
    tokens = torch.cat([model.encode_video(clip) for clip in videos.chunk(2, dim=1)], dim=1)[:, None]
    expected = model.rank_answers(None, *texts(), answers(), k=9, ensemble="concat", video_hidden_states=tokens)
    assert torch.equal(ranked, expected[0])
    torch.testing.assert_close(probs, expected[1])


def test_more_answers_asked_for_than_there_are():
    model = task_model(SViTTForVideoQuestionAnswering)
    ranked, probs = model.rank_answers(clips(), *texts(), answers(), k=128)
    assert ranked.shape == (2, 9) and torch.equal(ranked.sort().values, torch.arange(9).expand(2, -1))
    torch.testing.assert_close(probs.sum(1), torch.ones(2))
    for bad in ({"ensemble": "median"}, {"answer_scoring": "luck"}, {"k": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            model.rank_answers(clips(), *texts(), answers(), **bad)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_cached_generation_equals_uncached(settings):
    model = task_model(SViTTForVideoQuestionAnswering)
    cached, uncached = (
        model.generate(clips(), *texts(), max_new_tokens=6, use_cache=use_cache, **settings)
        for use_cache in (True, False)
    )
    assert torch.equal(cached, uncached) and (cached[:, 0] == 2).all()


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_decoder_goes_on_from_its_cache_by_either_name(name):
    decoder = task_model(SViTTForVideoQuestionAnswering).text_decoder
    ids, question = texts()[0], torch.randn(2, 5, 24)
    expected = decoder(ids, encoder_hidden_states=question, use_cache=False).logits
    _, cache, *_ = decoder(ids[:, :4], encoder_hidden_states=question, use_cache=True).to_tuple()
    actual = decoder(ids[:, 4:], encoder_hidden_states=question, use_cache=True, **{name: cache}).logits
    torch.testing.assert_close(actual, expected[:, 4:], rtol=1e-4, atol=1e-5)


def test_labels_are_what_is_asked_for_whatever_the_decoder_reads():
    model = task_model(SViTTForVideoQuestionAnswering)
    labels = answers()[:2]
    expected = model(clips(), *texts(), labels=labels).answer_loss
    inputs = {"decoder_input_ids": labels, "decoder_attention_mask": (labels != 0).long()}
    torch.testing.assert_close(model(clips(), *texts(), labels=labels, **inputs).answer_loss, expected)
    first_word = labels.clone()
    first_word[:, 2:] = -100
    outputs = model(clips(), *texts(), labels=first_word, **inputs)
    nll = F.cross_entropy(outputs.logits[:, 0], labels[:, 1], reduction="none")
    torch.testing.assert_close(outputs.answer_loss, nll)


def test_a_question_without_candidates_has_no_answer():
    model = task_model(SViTTForVideoQuestionAnswering)
    candidates = torch.tensor([[0, 1], [-1, -1]])
    ranked, probs = model.rank_answers(clips(), *texts(), answers(), candidates=candidates)
    torch.testing.assert_close(probs.sum(1), torch.tensor([1.0, 0.0]))
    assert ranked[1].tolist() == [-1, -1] and probs[1].tolist() == [0, 0]


def test_dropout_without_gradients():
    model = task_model(SViTTModel, text={"attention_probs_dropout_prob": 0.5}).train()
    tokens, states = torch.randn(1, 200, 24), torch.randn(2, 6, 24)
    with torch.no_grad():
        assert not torch.equal(model.fuse(tokens, states), model.fuse(tokens, states))


# ---- Gradient checkpointing: decision 15


def test_decoder_checkpoints_without_a_cache():
    decoder = task_model(SViTTForVideoQuestionAnswering).text_decoder.train()
    decoder.activation_checkpointing_enable()
    outputs = decoder(texts()[0], encoder_hidden_states=torch.randn(2, 5, 24))
    outputs.logits.sum().backward()


@pytest.mark.parametrize(("strategy", "order"), [("cls_attn", "none"), ("random", "hilbert")])
def test_gradient_checkpointing_is_exact_and_saves_memory(strategy, order):
    saved, gradients = [], []
    for checkpointing in (False, True):
        settings = {"num_hidden_layers": 8, "token_drop_loc": [0, 2, 4], "drop_path_rate": 0.2}
        model = vision_model(token_keep_strategy=strategy, token_3d_order=order, **settings).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        num_bytes = {}

        def save(tensor, num_bytes=num_bytes):
            storage = tensor.untyped_storage()  # may be saved as several views
            num_bytes[storage.data_ptr()] = storage.nbytes()
            return tensor

        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            outputs = model(clips())
        (outputs.pooler_output.square().sum() + outputs.last_hidden_state.square().sum()).backward()
        saved.append(sum(num_bytes.values()) - sum(p.nbytes for p in model.parameters() if p.data_ptr() in num_bytes))
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert saved[1] < 0.2 * saved[0]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


# ---- Contrastive loss


@pytest.mark.parametrize("logits_at_once", [1, 22, 33, 120, 121])
def test_contrastive_loss_in_parts_is_exact(monkeypatch, logits_at_once):
    torch.manual_seed(0)
    leaves = [torch.randn(11, 5), torch.randn(11, 5), torch.tensor(0.07)]
    ids = torch.tensor([0, 1, 1, 2, 3, 4, 2, 5, 2, 6, 7])
    results = []
    monkeypatch.setattr("svitt.modeling_svitt.ITC_LOGITS_AT_ONCE", logits_at_once)
    for in_parts in (True, False):
        video, text, temp = (leaf.clone().requires_grad_() for leaf in leaves)

        def similarity(a, b, temp=temp):
            return F.normalize(a) @ F.normalize(b).t() / temp

        if in_parts:
            loss = contrastive_loss(similarity, video, text, ids)
        else:
            logits, is_same = similarity(video, text), ids[:, None] == ids
            targets = is_same / is_same.sum(dim=1, keepdim=True)
            loss = sum(F.cross_entropy(scores, targets) for scores in (logits, logits.t())) / 2
        results.append([loss.detach(), *torch.autograd.grad(loss, (video, text, temp))])
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_contrastive_loss_holds_no_whole_matrix_of_a_large_batch():
    size, saved = 4096, []
    video = torch.randn(size, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        contrastive_loss(lambda a, b: a @ b.t(), video, video.detach(), torch.arange(size)).backward()
    assert max(saved) <= 2**22 < size**2


# ---- Clips


def test_only_whole_clips_are_cut():
    with pytest.raises(ValueError, match="6 frames cannot be cut into clips of 4"):
        split_clips(torch.zeros(2, 6), 4)


# ---- A Transformers model


def test_tasks_start_from_pretraining(tmp_path):
    """Every task model and both encoders take their part of a pre-trained folder."""
    model = task_model(SViTTForPreTraining)
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    for model_class in (SViTTModel, SViTTForVideoTextRetrieval, SViTTVisionModel, SViTTTextModel):
        loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"], model_class
        prefix = loaded.base_model_prefix + "." if model_class in (SViTTVisionModel, SViTTTextModel) else ""
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, state[prefix + name]), name
    loaded, report = SViTTForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}


@pytest.mark.slow
@pytest.mark.xfail(
    version.parse(torch.__version__).release < (2, 13), reason="torch 2.8 breaks it at Transformers' hooks"
)
def test_vision_model_compiles_without_graph_breaks():
    curve = {"token_3d_order": "hilbert", "token_keep_strategy": "random"}
    for sparsity in ({}, {"sparse_random_attn": None}, curve):
        model = vision_model(**sparsity)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            torch.testing.assert_close(compiled(clips()).last_hidden_state, model(clips()).last_hidden_state)
        torch._dynamo.reset()


def test_dense_layers_report_attention_of_all_to_all():
    model = vision_model(sparse_random_attn=None)
    model.set_attn_implementation("eager")
    attentions = model(clips(), output_attentions=True).attentions
    assert [attention.shape for attention in attentions] == [(2, 3, n, n) for n in (49, 35, 35, 25)]


def test_sparse_attention_without_biases_is_that_of_zero_biases():
    without, biased = vision_model(use_relative_position_bias=False), vision_model()
    tables = {name: torch.zeros_like(p) for name, p in biased.state_dict().items() if name.endswith("bias_table")}
    biased.load_state_dict(without.state_dict() | tables, strict=False)
    torch.testing.assert_close(without(clips()).last_hidden_state, biased(clips()).last_hidden_state)


def test_modes_name_the_inputs_that_they_need():
    faults = {"both": "got 'both'", "fusion": "takes `text_embeds`", "multimodal": "takes `encoder_hidden_states`"}
    for mode, words in faults.items():
        with pytest.raises(ValueError, match=words):
            text_model()(*texts(), mode=mode)


def test_classification_loss():
    model = task_model(SViTTForVideoClassification, num_labels=5)
    labels = torch.tensor([4, 1])
    outputs = model(clips(), labels=labels)
    assert outputs.logits.shape == (2, 5)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits, labels))
