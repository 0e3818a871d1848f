# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Folders of saved models where this package is installed, and in sentence-transformers."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from svitt import SViTTForPreTraining, SViTTForVideoQuestionAnswering, SViTTProcessor, SViTTVideoProcessor

from .test_modeling import task_model


@pytest.fixture
def processor():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "cat"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    return SViTTProcessor(SViTTVideoProcessor(num_frames=3, size={"height": 32, "width": 32}), tokenizer)


def test_auto_classes_need_no_remote_code_where_the_package_is_installed(processor, tmp_path):
    task_model(SViTTForVideoQuestionAnswering).save_pretrained(tmp_path)
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
    model = task_model(SViTTForPreTraining)
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
