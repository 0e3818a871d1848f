# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Remote code: what `save_pretrained` writes loads through every Auto class where this package is unknown."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from .surface import (
    SViTTConfig,
    SViTTForPreTraining,
    SViTTForVideoClassification,
    SViTTForVideoQuestionAnswering,
    SViTTForVideoTextRetrieval,
    SViTTModel,
    SViTTProcessor,
    SViTTVideoProcessor,
)

CODE = {"configuration_svitt.py", "modeling_svitt.py", "processing_svitt.py"}
ENTRY_POINTS = {
    SViTTModel: "AutoModel",
    SViTTForPreTraining: "AutoModelForPreTraining",
    SViTTForVideoQuestionAnswering: "AutoModelForVisualQuestionAnswering",
    SViTTForVideoClassification: "AutoModelForVideoClassification",
}
FRESH_PROCESS = """
import json, sys
import numpy as np
import torch, transformers
# `transformers.AutoVideoProcessor` is a dummy object where torchvision is absent; the class itself needs none.
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
video = np.arange(5 * 20 * 24 * 3, dtype=np.uint8).reshape(5, 20, 24, 3)
found = {}
for auto_class in sys.argv[2:]:
    folder = f"{sys.argv[1]}/{auto_class}.v1"
    for folder in (folder, folder + "-again"):  # a fine-tuning run of somebody else saves again what it loaded
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
        model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
        processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        video_processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)
        for loaded in (config, model, processor, video_processor):
            assert type(loaded).__module__.startswith("transformers_modules."), type(loaded)
        model.save_pretrained(folder + "-again")
        processor.save_pretrained(folder + "-again")
    inputs = processor(videos=[video], text=["A red dog."], return_tensors="pt")
    if auto_class == "AutoModelForVideoClassification":
        inputs = {"pixel_values": inputs["pixel_values"]}
    with torch.no_grad():
        outputs = model(**inputs)
    first = next(value for value in outputs.to_tuple() if torch.is_tensor(value))
    found[auto_class] = [type(model).__name__, inputs["pixel_values"].sum().item(), first.sum().item()]
assert "svitt" not in sys.modules
print(json.dumps(found))
"""


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


def test_models_load_in_a_process_that_knows_nothing_of_us(processor, tmp_path):
    for model_class, auto_class in ENTRY_POINTS.items():
        folder = tmp_path / f"{auto_class}.v1"
        make_model(model_class).save_pretrained(folder)
        processor.save_pretrained(folder)
        assert CODE <= set(os.listdir(folder))
        auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
        assert auto_map["AutoConfig"] == "configuration_svitt.SViTTConfig"
        for entry_class, name in ENTRY_POINTS.items():
            assert auto_map[name] == f"modeling_svitt.{entry_class.__name__}"

    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ""}
    command = [sys.executable, "-c", FRESH_PROCESS, str(tmp_path), *ENTRY_POINTS.values()]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])

    video = np.arange(5 * 20 * 24 * 3, dtype=np.uint8).reshape(5, 20, 24, 3)
    for model_class, auto_class in ENTRY_POINTS.items():
        inputs = processor(videos=[video], text=["A red dog."], return_tensors="pt")
        if model_class is SViTTForVideoClassification:
            inputs = {"pixel_values": inputs["pixel_values"]}
        with torch.no_grad():
            outputs = make_model(model_class)(**inputs)
        first = next(value for value in outputs.to_tuple() if torch.is_tensor(value))
        name, pixel_sum, output_sum = found[auto_class]
        assert name == model_class.__name__
        assert pixel_sum == pytest.approx(inputs["pixel_values"].sum().item(), rel=1e-6)
        assert output_sum == pytest.approx(first.sum().item(), abs=1e-4)


def test_where_the_package_is_installed_its_own_classes_load(processor, tmp_path):
    make_model(SViTTForVideoQuestionAnswering).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    code = (
        "import sys, svitt; from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor\n"
        "model = AutoModelForVisualQuestionAnswering.from_pretrained(sys.argv[1])\n"
        "assert type(model) is svitt.SViTTForVideoQuestionAnswering\n"
        "assert type(AutoProcessor.from_pretrained(sys.argv[1])) is svitt.SViTTProcessor"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_retrieval_models_load_as_models(tmp_path):
    make_model(SViTTForVideoTextRetrieval).save_pretrained(tmp_path)
    assert SViTTModel.from_pretrained(tmp_path).config.vision_config.num_frames == 2
