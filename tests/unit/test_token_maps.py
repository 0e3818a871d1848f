# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Token maps: masks are those of the model's own positions, pictures show exactly them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer

from svitt import (
    SViTTForVideoClassification,
    SViTTForVideoQuestionAnswering,
    SViTTModel,
    SViTTProcessor,
    SViTTVideoProcessor,
)
from svitt.errors import InputError
from svitt.modeling_svitt import token_order
from svitt.search.maps import LINE_HEIGHT, MARGIN, contact_sheet, explain, token_maps

from .test_modeling import task_model, vision_model

TEXT = "a red b"
DENSE = {"token_keep_rate": 1.0}


@pytest.fixture(scope="module")
def processor():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "b", *map(str, range(52))]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    return SViTTProcessor(SViTTVideoProcessor(num_frames=3, size={"height": 32, "width": 32}), tokenizer)


def video(num_frames=12, seed=0):
    """Noise, brighter than anything that is darkened."""
    return np.random.default_rng(seed).integers(160, 256, (num_frames, 40, 50, 3), dtype=np.uint8)


def mask_by_hand(positions, grid):
    mask = np.zeros(grid, dtype=bool)
    for position in positions:
        frame, place = divmod(position, grid[1] * grid[2])
        mask[frame][divmod(place, grid[2])] = True
    return mask


def maps_by_hand(model, processor, clip, order="none"):
    """Masks of one clip, position by position."""
    inputs = processor(videos=clip, text=[TEXT], return_tensors="pt", num_frames=len(clip))
    grid = (len(clip), 4, 4)
    features = model.get_video_features(inputs["pixel_values"])
    text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    fusion = model.text_model(
        text_embeds=text, encoder_hidden_states=features.last_hidden_state, mode="fusion"
    ).token_idx
    vision = [kept[0].tolist() for kept in features.token_idx or ()]
    positions, fused = vision[-1] if vision else token_order(order, grid).tolist(), []
    for kept in fusion or ():
        positions = [positions[index] for index in kept[0].tolist()]
        fused.append(positions)
    return [mask_by_hand(kept, grid) for kept in vision], [mask_by_hand(kept, grid) for kept in fused]


@pytest.mark.parametrize("order", ["none", "zcurve", "hilbert"])
@pytest.mark.parametrize("num_frames", [1, 5])
@pytest.mark.parametrize("vision", [{}, DENSE], ids=["drops", "dense"])
def test_masks_are_those_of_the_positions(processor, order, num_frames, vision):
    model = task_model(SViTTModel, vision={"token_3d_order": order, **vision}, text={"token_drop_loc": [2, 3]})
    clip = video(num_frames)
    maps = token_maps(model, processor, clip, TEXT, num_frames=num_frames)
    want_vision, want_fusion = maps_by_hand(model, processor, clip, order)
    assert len(maps.vision) == len(want_vision) == (0 if vision else 2)
    assert np.array_equal(maps.vision, np.array(want_vision).reshape(-1, num_frames, 4, 4))
    assert np.array_equal(maps.fusion, np.array(want_fusion))
    assert (maps.vision_layers, maps.fusion_layers) == ([] if vision else [0, 2], [2, 3])

    masks, num_left = [*maps.vision, *maps.fusion], 16 * num_frames
    for i, (mask, rate) in enumerate(zip(masks, [0.7] * len(maps.vision) + [0.5, 0.5], strict=True)):
        num_left = math.ceil(rate * num_left)
        assert mask.sum() == num_left
        assert i == 0 or not (mask & ~masks[i - 1]).any()


def test_frames_are_those_that_the_model_sees(processor):
    maps = token_maps(task_model(SViTTModel), processor, video())
    pixels = processor(videos=video(), return_tensors="pt")["pixel_values"][0].permute(0, 2, 3, 1)
    assert maps.frames.dtype == np.uint8 and maps.frames.shape == (3, 32, 32, 3)
    torch.testing.assert_close(torch.from_numpy(maps.frames) / 127.5 - 1, pixels)
    assert maps.text is None and len(maps.fusion) == 0 and maps.fusion_layers == []


def test_questions_and_bare_encoders_and_training_mode(processor):
    model = task_model(SViTTForVideoQuestionAnswering, decoder_config={"num_hidden_layers": 1})
    maps = token_maps(model.train(), processor, video(), TEXT)
    assert [mask.sum() for mask in (*maps.vision, *maps.fusion)] == [34, 24, 12]
    assert np.array_equal(maps.fusion, token_maps(model, processor, video(), TEXT).fusion)
    encoder = vision_model(token_keep_strategy="random")
    assert token_maps(encoder, processor, video()).vision.sum(axis=(1, 2, 3)).tolist() == [34, 24]
    with pytest.raises(InputError, match="SViTTForVideoClassification looks at videos only"):
        token_maps(task_model(SViTTForVideoClassification), processor, video(), TEXT)


# ---- Pictures


def cells(sheet, num_rows, num_frames, top, side=128):
    """Frames of a contact sheet: (rows, frames, side, side, 3)."""
    pixels = np.asarray(sheet.convert("RGB"))
    rows = [top + LINE_HEIGHT + row * (LINE_HEIGHT + side + MARGIN) for row in range(num_rows)]
    columns = [MARGIN + column * (side + MARGIN) for column in range(num_frames)]
    return np.array([[pixels[y : y + side, x : x + side] for x in columns] for y in rows])


def test_the_pixels_darkened_are_those_of_patches_dropped(processor, tmp_path):
    maps = token_maps(task_model(SViTTModel), processor, video(), TEXT)
    contact_sheet(maps).save(tmp_path / "sheet.png")
    rows = cells(Image.open(tmp_path / "sheet.png"), 4, 3, MARGIN + LINE_HEIGHT)
    assert np.array_equal(rows[0], maps.frames.repeat(4, axis=1).repeat(4, axis=2))
    for row, kept in zip(rows[1:], [*maps.vision, *maps.fusion], strict=True):
        kept = kept.repeat(32, axis=1).repeat(32, axis=2)
        assert np.array_equal((row != rows[0]).any(axis=-1), ~kept)
        assert np.array_equal(row[~kept], rows[0][~kept] // 4 + np.array([0, 0, 48]))


# ---- Explain


def test_explain_writes_a_picture_and_returns_shares(demo, tmp_path):
    clip, output = demo / "data/videos/test_00000.mp4", tmp_path / "sheet.png"
    labels = explain(str(clip), str(demo / "model"), "a red circle hops", output, num_frames=8)
    assert "video encoder, layer 1: 90 of 128 patches, 70%" in labels and labels[-1].startswith("fusion, layer ")
    assert Image.open(output).width > 8 * 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output": "maps.txt"}, "`output` must end in one of .png"),
        ({"output": "nosuch/maps.png"}, "in a folder that exists, got nosuch/maps.png"),
        ({"output": "folder.png"}, "folder.png: cannot be written"),
        ({"num_frames": 0}, "`num_frames` must be from 1 to 256, got 0"),
        ({"model": "./nosuch"}, "nosuch: there is no such folder"),
    ],
)
def test_wrong_options_are_one_sentence(demo, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    settings = {"video": str(demo / "data/videos/test_00000.mp4"), "model": str(demo / "model")} | options
    with pytest.raises(InputError, match=words):
        explain(**settings)
    assert {path.name for path in tmp_path.iterdir()} == {"folder.png"}


@pytest.mark.parametrize("order", ["none", "hilbert"])
@pytest.mark.parametrize("keep_rate", [1.0, 0.7])
def test_frames_that_are_encoded_alone(processor, order, keep_rate):
    alone = {"frame_wise": True, "token_3d_order": order, "token_keep_rate": keep_rate}
    model = task_model(SViTTModel, vision=alone)
    maps = token_maps(model, processor, video(), TEXT)
    for frame, kept in zip(maps.frames, maps.vision.swapaxes(0, 1), strict=True):
        one = token_maps(model, processor, [frame], num_frames=1)
        np.testing.assert_array_equal(kept, one.vision[:, 0])
    # Of all tokens but the first, fusion keeps half: patches, and CLS tokens of frames, which no map shows.
    left = maps.stages()[-2][1]
    num_kept = math.ceil(0.5 * (left.sum() + 2))
    assert num_kept - 2 <= maps.fusion[-1].sum() <= num_kept
    assert not (maps.fusion[-1] & ~left).any()
