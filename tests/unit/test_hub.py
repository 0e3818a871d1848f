# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Folders of saved models in sentence-transformers."""

import numpy as np
import pytest
import torch

from svitt import SViTTForPreTraining, SViTTProcessor


def test_sentence_transformers_encode_texts_and_videos(folders):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder, texts = folders / "svitt", ["a cat plays", "the piano"]
    model, processor = SViTTForPreTraining.from_pretrained(folder), SViTTProcessor.from_pretrained(folder)
    encoder = sentence_transformers.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    video = np.random.default_rng(0).integers(0, 255, (5, 3, 20, 24), dtype=np.uint8)
    with torch.no_grad():
        text_features = model.get_text_features(**processor(text=texts, return_tensors="pt")).pooler_output
        video_features = model.get_video_features(**processor(videos=[video], return_tensors="pt")).pooler_output
    torch.testing.assert_close(torch.from_numpy(encoder.encode(texts)), text_features)
    torch.testing.assert_close(torch.from_numpy(encoder.encode([video])), video_features)
