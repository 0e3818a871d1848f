# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Video tokens in the table: which are kept, what re-ranking makes of them, and where a sentence fits best."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from svitt import (
    SViTTConfig,
    SViTTForVideoTextRetrieval,
    SViTTModel,
    SViTTProcessor,
    SViTTVisionConfig,
    SViTTVisionModel,
)
from svitt.errors import InputError
from svitt.modeling_svitt import split_clips
from svitt.search import SViTTIndex
from svitt.search.tokens import OF_ALL_FRAMES, most_attended, packed, unpacked

SENTENCE = "a red circle hops and then a blue square hops"
SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
SMALL |= {"image_size": 64, "num_frames": 3, "attn_block_size": 8}


def index_of(demo, folder, val_videos, **options):
    index = SViTTIndex.create(folder, str(demo / "model"), **options)
    index.add([val_videos])
    return index


# ---- Which tokens are kept


@pytest.mark.parametrize("sparsity", [{"sparse_random_attn": None}, {}])
@pytest.mark.parametrize("drops", [{"token_keep_rate": 1.0}, {"token_keep_rate": 0.6}, {"token_drop_loc": [3]}])
def test_cls_attention_is_that_of_the_last_layer_on_what_is_left(sparsity, drops):
    torch.manual_seed(0)
    config = SViTTVisionConfig(**SMALL | sparsity | drops, attn_implementation="eager")
    model = SViTTVisionModel(config).eval()
    clips = torch.randn(2, 3, 3, 64, 64)
    outputs = model(clips, output_cls_attention=True, output_attentions=True)
    expected = outputs.attentions[-1][:, :, 0, 1:].mean(dim=1)
    if 3 in config.token_drop_loc and config.token_keep_rate < 1:  # seen before the drop: its best are left
        expected = expected.topk(outputs.last_hidden_state.shape[1] - 1).values.sort().values
        torch.testing.assert_close(outputs.cls_attention.sort().values, expected)
    else:
        torch.testing.assert_close(outputs.cls_attention, expected)
    assert model(clips).cls_attention is None
    fast = SViTTVisionModel(SViTTVisionConfig(**SMALL | sparsity | drops)).eval()
    fast.load_state_dict(model.state_dict())
    torch.testing.assert_close(fast(clips, output_cls_attention=True).cls_attention, outputs.cls_attention)


@pytest.mark.parametrize("frame_wise", [False, True])
@pytest.mark.parametrize("keep_rate", [0.6, 1.0])
def test_the_most_attended_tokens_of_each_part_are_kept_with_their_frames(frame_wise, keep_rate):
    torch.manual_seed(0)
    fields = {"frame_wise": frame_wise, "token_keep_rate": keep_rate, "sparse_random_attn": None}
    model = SViTTVisionModel(SViTTVisionConfig(**SMALL | fields)).eval()
    spans = torch.randn(2, 6, 3, 64, 64)  # of two clips of three frames
    features = model(split_clips(spans, 3), output_cls_attention=True)
    tokens = most_attended(features, model.config, 3, num_clips=2, tokens_per_span=24)
    num_parts = 6 if frame_wise else 2
    size = 24 // num_parts
    assert tokens.values.shape == (2, 24, 32) and tokens.frames.shape == (2, 24)
    parts = features.last_hidden_state.reshape(2, num_parts, -1, 32)
    attention = features.cls_attention.reshape(2, num_parts, -1)
    for span in range(2):
        for part in range(num_parts):
            kept, frames = (values[span, part * size : (part + 1) * size] for values in tokens)
            best = attention[span, part].topk(size - 1).indices.sort().values
            assert torch.equal(kept[0], parts[span, part, 0]) and torch.equal(kept[1:], parts[span, part, 1 + best])
            if frame_wise:
                assert frames.tolist() == [part] * size
            else:
                assert frames[0] == OF_ALL_FRAMES and set(frames[1:].tolist()) <= {3 * part + i for i in range(3)}
    every = most_attended(features, model.config, 3, num_clips=2)
    assert torch.equal(every.values, features.last_hidden_state.unflatten(0, (2, -1)).flatten(1, 2))
    if not frame_wise:  # of three frames of 16 patches, as many are left of each as their positions say
        positions = features.token_idx[-1] if features.token_idx else None
        counts = [(every.frames == frame).sum().item() for frame in range(6)]
        whole = (
            [16 * 2] * 6
            if positions is None
            else [((positions[i::2] // 16) == t).sum() for i in (0, 1) for t in range(3)]
        )
        assert counts == [int(count) for count in whole]


@pytest.mark.parametrize(("dtype", "error"), [("float16", 1e-3), ("int8", 1 / 127)])
def test_stored_tokens_come_back_within_their_precision(dtype, error):
    values = torch.randn(3, 7, 16) * torch.tensor([1e-3, 1.0, 100.0])[:, None, None]
    frames = torch.randint(-1, 4, (3, 7))
    rows = packed(SimpleNamespace(values=values, frames=frames), dtype)
    again = unpacked(rows, 16)
    assert torch.equal(again.frames, frames)
    assert ((again.values - values).abs() <= error * values.abs().amax(dim=2, keepdim=True)).all()
    assert len(rows[0]["tokens"]) == 7 * 16 * np.dtype(dtype).itemsize


# ---- Re-ranking


def test_re_ranking_opens_no_video(demo, val_videos, tmp_path):
    kept, none = (index_of(demo, tmp_path / tokens, val_videos, tokens=tokens) for tokens in ("int8", "none"))
    before = [(hit.video, hit.score) for hit in kept.search(SENTENCE)]
    for video in val_videos.iterdir():  # of the same size and time, but no video any more
        state = video.stat()
        video.write_bytes(bytes(state.st_size))
        os.utime(video, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert [(hit.video, hit.score) for hit in kept.search(SENTENCE)] == before
    assert all(hit.note and hit.score is None for hit in none.search(SENTENCE))


def test_fewer_tokens_make_a_smaller_table(demo, val_videos, tmp_path):
    sizes = {}
    for tokens_per_span in (4, 16):
        index = index_of(demo, tmp_path / str(tokens_per_span), val_videos, tokens_per_span=tokens_per_span)
        rows = index.table.table.search().limit(100).to_list()
        [sizes[tokens_per_span]] = {len(row["tokens"]) for row in rows}
        assert None not in {hit.score for hit in index.search(SENTENCE, top_k=8)}
    assert sizes == {4: 4 * 64, 16: 16 * 64}


def test_a_span_of_several_clips_is_their_mean_and_all_their_tokens(demo, val_videos, tmp_path):
    options = {"num_frames": 4, "frames_per_span": 8, "tokens": "float16", "tokens_per_span": 10_000}
    index = index_of(demo, tmp_path / "index", val_videos, **options)
    model, processor = SViTTModel.from_pretrained(demo / "model").eval(), SViTTProcessor.from_pretrained(demo / "model")
    words = processor(text=[SENTENCE], return_tensors="pt")
    for hit in index.search(SENTENCE, top_k=8):
        pixels = processor(videos=[hit.video], num_frames=8, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            features = [model.get_video_features(clip) for clip in pixels.split(4, dim=1)]
            text = torch.nn.functional.normalize(model.get_text_features(**words).pooler_output, dim=-1)
            cosines = [(model.video_embeds(one.pooler_output) @ text.T).item() for one in features]
            tokens = torch.cat([one.last_hidden_state for one in features], dim=1)
            score = model.match(video_hidden_states=tokens, **words).item()
        assert hit.similarity == pytest.approx(sum(cosines) / 2, abs=1e-5)
        assert hit.score == pytest.approx(score, abs=1e-3)


def test_a_video_that_one_text_looks_at_need_not_be_projected():
    """What gradients need is computed through keys and values, what nobody needs gradients of without."""
    torch.manual_seed(0)
    small = {
        name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
    text = small | {"encoder_width": 32, "fusion_layer": 1, "token_keep_rate": 0.3, "vocab_size": 50, "pad_token_id": 0}
    model = SViTTForVideoTextRetrieval(SViTTConfig(vision_config=SMALL, text_config=text)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokens, ids = torch.randn(3, 40, 32), torch.randint(1, 50, (6, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).repeat(3, 1)
    seen = (torch.rand(3, 40) < 0.7).long().index_fill(1, torch.tensor([0]), 1)
    for video_mask in (None, seen, "adapted"):
        if video_mask == "adapted":  # as LoRA does: the layer's own weight is not all
            attention, video_mask = model.text_model.encoder.layer[1].crossattention.self, None
            attention.key = torch.nn.Sequential(attention.key, torch.nn.Linear(32, 32))
            attention.value = Doubled(attention.value)
        inputs = {"video_hidden_states": tokens, "attention_mask": mask, "video_mask": video_mask}
        projected = model.match(input_ids=ids, **inputs)
        with torch.no_grad():
            torch.testing.assert_close(model.match(input_ids=ids, **inputs), projected)


class Doubled(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, states):
        return 2 * self.layer(states)


# ---- Where in a span


def test_the_frame_that_fits_best_is_found(demo, val_videos, tmp_path):
    index = index_of(demo, tmp_path / "index", val_videos, tokens="float16", tokens_per_span=10_000)
    model, processor = SViTTModel.from_pretrained(demo / "model").eval(), SViTTProcessor.from_pretrained(demo / "model")
    words = processor(text=[SENTENCE], return_tensors="pt")
    for hit in index.search(SENTENCE, top_k=3, locate=True):
        pixels = processor(videos=[hit.video], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            features = model.get_video_features(pixels)
        tokens, frames = (
            features.last_hidden_state,
            features.token_idx[-1][0] // model.config.vision_config.grid_size**2,
        )
        scores = {}
        for frame in set(frames.tolist()):
            seen = torch.cat([torch.tensor([True]), frames == frame])[None]
            with torch.no_grad():
                scores[frame] = model.match(video_hidden_states=tokens, video_mask=seen, **words).item()
        best = max(scores, key=scores.get)  # frame t of T is the middle of the t-th part of the video
        assert best * hit.end / 4 <= hit.best_time < (best + 1) * hit.end / 4


def test_what_cannot_be_located_is_a_sentence(demo, val_videos, tmp_path):
    index = index_of(demo, tmp_path / "index", val_videos, tokens="none")
    with pytest.raises(InputError, match="tokens"):
        index.search(SENTENCE, locate=True)
