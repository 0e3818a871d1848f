# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Tiny saved models, with a vocabulary of ten words."""

import shutil

import pytest
import torch
from transformers import BeitConfig, BeitModel, BertConfig, BertModel, BertTokenizer

from svitt import SViTTConfig, SViTTForPreTraining
from svitt.conversion.loading import make_processor

SIZE = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "plays", "the", "piano"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """`svitt` for 2 frames of 4 x 4 patches, `beit` and `bert`."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4}
    config = SViTTConfig(
        vision_config=SIZE | {"num_frames": 2, "image_size": 32, "patch_size": 8, "attn_block_size": 4},
        text_config=SIZE | special | {"fusion_layer": 3, "encoder_width": 16, "vocab_size": len(WORDS)},
        embed_dim=8,
    )
    torch.manual_seed(0)
    model = SViTTForPreTraining(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder / "svitt")
    make_processor(config, tokenizer).save_pretrained(folder / "svitt")
    BeitModel(BeitConfig(**SIZE, image_size=32, patch_size=8)).save_pretrained(folder / "beit")
    (folder / "beit/preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3]}')
    BertModel(BertConfig(**SIZE, vocab_size=len(WORDS))).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    return folder


@pytest.fixture
def val_videos(demo, tmp_path):
    """A folder with the eight clips of the split `val`."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in sorted((demo / "data/videos").glob("val_*")):
        shutil.copy2(path, folder)
    return folder
