# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Folders of saved models where this package is installed, and in sentence-transformers."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from svitt import (
    SViTTConfig,
    SViTTForPreTraining,
    SViTTForVideoQuestionAnswering,
    SViTTForVideoTextRetrieval,
    SViTTModel,
    SViTTProcessor,
    SViTTVideoProcessor,
)


@pytest.fixture
def processor():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "cat"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    return SViTTProcessor(SViTTVideoProcessor(num_frames=2, size={"height": 16, "width": 16}), tokenizer)


def make_model(model_class):
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    special_ids = {"bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4}
    torch.manual_seed(0)
    config = SViTTConfig(
        vision_config={**tower, "num_frames": 2, "image_size": 16, "patch_size": 4, "attn_block_size": 4},
        text_config={**tower, **special_ids, "vocab_size": 9, "fusion_layer": 1, "encoder_width": 16},
    )
    return model_class(config).eval()


def test_retrieval_models_load_as_models(processor, tmp_path):
    make_model(SViTTForVideoTextRetrieval).save_pretrained(tmp_path)
    assert SViTTModel.from_pretrained(tmp_path).config.vision_config.num_frames == 2


def test_auto_classes_need_no_remote_code_where_the_package_is_installed(processor, tmp_path):
    make_model(SViTTForVideoQuestionAnswering).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    code = (
        "import sys, svitt; from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor\n"
        "model = AutoModelForVisualQuestionAnswering.from_pretrained(sys.argv[1])\n"
        "assert type(model) is svitt.SViTTForVideoQuestionAnswering\n"
        "assert type(AutoProcessor.from_pretrained(sys.argv[1])) is svitt.SViTTProcessor"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_sentence_transformers_encode_texts_and_videos(processor, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = make_model(SViTTForPreTraining)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    encoder = sentence_transformers.SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    texts = ["a red dog", "a cat"]
    video = np.random.default_rng(0).integers(0, 255, (5, 3, 20, 24), dtype=np.uint8)
    with torch.no_grad():
        text_features = model.get_text_features(**processor(text=texts, return_tensors="pt")).pooler_output
        video_features = model.get_video_features(**processor(videos=[video], return_tensors="pt")).pooler_output
    torch.testing.assert_close(torch.from_numpy(encoder.encode(texts)), text_features)
    torch.testing.assert_close(torch.from_numpy(encoder.encode([video])), video_features)
