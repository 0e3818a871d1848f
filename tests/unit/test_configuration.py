# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Configurations: what they refuse, what an answer decoder takes from the text encoder, and files of before."""

import json

import pytest

from svitt import SViTTConfig, SViTTTextConfig, SViTTTextDecoderConfig, SViTTVisionConfig


@pytest.mark.parametrize(
    ("config_class", "settings", "words"),
    [
        (SViTTVisionConfig, {"hidden_size": 100}, "`hidden_size` (100) must be divisible"),
        (SViTTVisionConfig, {"image_size": 225}, "`image_size` (225) must be divisible"),
        (SViTTVisionConfig, {"attn_block_size": 0}, "`attn_block_size` must be at least 1"),
        (SViTTVisionConfig, {"sparse_local_attn": 2}, "`sparse_local_attn` must be odd or 0"),
        (SViTTVisionConfig, {"sparse_random_attn": -1}, "`sparse_random_attn` must be None"),
        (SViTTVisionConfig, {"sparse_local_attn": 0, "sparse_random_attn": 0}, "at least 1, got 0"),
        (SViTTVisionConfig, {"token_keep_rate": 0.0}, "`token_keep_rate`"),
        (SViTTVisionConfig, {"token_drop_loc": [12]}, "`token_drop_loc` names layer 12"),
        (SViTTVisionConfig, {"token_keep_strategy": "avg_attn"}, "`token_keep_strategy`"),
        (SViTTVisionConfig, {"token_3d_order": "spiral"}, "`token_3d_order`"),
        (SViTTTextConfig, {"fusion_layer": 13}, "`fusion_layer`"),
        (SViTTTextConfig, {"token_drop_loc": [8]}, "`token_drop_loc` names layer 8"),
        (SViTTTextConfig, {"hidden_act": "__import__"}, "`hidden_act`"),
        (SViTTConfig, {"text_config": {"encoder_width": 24}}, "`text_config.encoder_width` (24) must equal"),
        (SViTTConfig, {"decoder_config": {"encoder_width": 24}}, "`decoder_config.encoder_width` (24) must equal"),
        (SViTTConfig, {"text_config": {"fusion_layer": 12}}, "`text_config.fusion_layer` (12) must be below"),
        (SViTTConfig, {"loss_weight": {"itx": 1.0}}, "'itx'"),
        (SViTTVisionConfig, {"num_frames": "4"}, "num_frames"),
    ],
)
def test_faults(config_class, settings, words):
    with pytest.raises(Exception) as error:
        config_class(**settings)
    assert words in str(error.value) + str(error.value.__cause__)


def test_defaults_follow_the_depth():
    assert SViTTVisionConfig().token_drop_loc == [3, 6, 9]
    assert SViTTVisionConfig(num_hidden_layers=4).token_drop_loc == [1, 2, 3]
    assert SViTTTextConfig().token_drop_loc == [9]


def test_an_answer_decoder_is_like_the_fusion_layers():
    text = {"hidden_size": 96, "intermediate_size": 64, "fusion_layer": 10, "pad_token_id": 7, "token_keep_rate": 0.5}
    config = SViTTConfig(text_config=text, decoder_config={"hidden_dropout_prob": 0.3})
    decoder = config.decoder_config
    assert (decoder.hidden_size, decoder.intermediate_size, decoder.pad_token_id) == (96, 64, 7)
    assert (decoder.encoder_width, decoder.num_hidden_layers, decoder.fusion_layer) == (96, 2, 0)
    assert decoder.hidden_dropout_prob == 0.3 and decoder.token_keep_rate == 1 and decoder.is_decoder
    own = SViTTTextDecoderConfig().to_dict()
    assert own.keys() == SViTTTextConfig().to_dict().keys()


def test_files_come_back_as_they_were_saved(tmp_path):
    config = SViTTConfig(vision_config={"num_frames": 8, "token_drop_loc": [1]}, loss_weight={"mlm": 0.0})
    config.save_pretrained(tmp_path)
    assert SViTTConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["decoder_config"]["token_keep_strategy"] == "cls_attn"  # readers of before ask for it
