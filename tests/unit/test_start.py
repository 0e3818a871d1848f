# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The door to saved models, and what training starts from: a SViTT, also for other clips, towers, random weights."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BeitConfig, BeitModel, BertModel, set_seed

from svitt import (
    SViTTForPreTraining,
    SViTTForVideoQuestionAnswering,
    SViTTForVideoTextRetrieval,
    SViTTModel,
    SViTTProcessor,
)
from svitt.conversion import load_model_and_processor
from svitt.conversion.positions import fitted
from svitt.conversion.towers import init_from_towers
from svitt.data.loaders import ProcessingArguments
from svitt.errors import InputError
from svitt.training.start import ConfigArguments, StartArguments, start_training

from .conftest import SIZE

TOWERS = {"vision_name_or_path": "beit", "text_name_or_path": "bert"}


def start(folders, options=None, config=None, processing=None, model_class=SViTTForPreTraining):
    paths = {name: str(folders / value) for name, value in (options or {}).items() if "_name" in name}
    groups = StartArguments(**{**(options or {}), **paths}), ConfigArguments(**config or {})
    return start_training(model_class, *groups, ProcessingArguments(**processing or {}))


def assert_equal_weights(model, expected):
    weights = model.state_dict()
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)


def test_expansion_inflates_biases_and_drops_more(folders):
    model, processor = start(
        folders,
        {"model_name_or_path": "svitt"},
        {
            "model_config": ["itc_all_gather=true"],
            "vision_config": ["drop_path_rate=0"],
            "token_keep_rate": 0.6,
            "fusion_token_keep_rate": 0.2,
        },
        {"num_frames": 4},
    )
    source = SViTTForPreTraining.from_pretrained(folders / "svitt")
    expected, _ = fitted(source.state_dict(), source.config, num_frames=4)
    assert_equal_weights(model, expected)
    vision, text = model.config.vision_config, model.config.text_config
    assert (vision.num_frames, vision.token_keep_rate, text.token_keep_rate, vision.drop_path_rate) == (4, 0.6, 0.2, 0)
    assert model.config.itc_all_gather and processor.video_processor.num_frames == 4
    assert not processor.video_processor.square_pixels  # as the weights were trained


def test_towers(folders):
    set_seed(1)
    model, processor = start(folders, TOWERS, {"token_keep_rate": 0.5}, {"num_frames": 3, "max_text_length": 5})
    set_seed(1)
    expected = init_from_towers(folders / "beit", folders / "bert", num_frames=3)
    assert_equal_weights(model, expected.state_dict())
    text = model.config.text_config
    assert (text.mask_token_id, text.eos_token_id, model.config.vision_config.token_keep_rate) == (4, 3, 0.5)
    assert processor.video_processor.num_frames == 3 and processor.video_processor.square_pixels
    assert processor(text=["a cat plays the piano"], return_tensors="pt")["input_ids"].shape == (1, 5)
    retrieval, _ = start(folders, TOWERS, model_class=SViTTForVideoTextRetrieval)
    assert type(retrieval) is SViTTForVideoTextRetrieval


def test_random_weights_from_a_configuration(folders):
    options = {"config_name": "svitt"}, {"vision_config": ["sparse_random_attn=1"], "text_config": ["fusion_layer=2"]}
    set_seed(1)
    model, processor = start(folders, *options, processing={"num_frames": 3})
    assert (model.config.vision_config.sparse_random_attn, model.config.text_config.fusion_layer) == (1, 2)
    assert model.config.vision_config.num_frames == processor.video_processor.num_frames == 3
    other, _ = start(folders, *options)
    assert not torch.equal(model.vision_proj.weight, other.vision_proj.weight)


ONE = "Give one of model_name_or_path"
FAULTY_STARTS = [
    ({}, ONE),
    ({"model_name_or_path": "svitt", "config_name": "svitt"}, ONE),
    ({"vision_name_or_path": "beit"}, ONE),
    ({"model_name_or_path": "nothing"}, "nothing: there is no such folder"),
    ({"config_name": "."}, "is no folder of a model, it has no config.json"),
]


@pytest.mark.parametrize(("options", "words"), FAULTY_STARTS)
def test_wrong_starts(folders, options, words):
    with pytest.raises(InputError, match=words):
        start(folders, options)


@pytest.mark.parametrize(
    ("options", "config", "processing"),
    [
        ({"image_size": 48}, {}, {"num_frames": 3}),
        ({}, {"vision_config": ["image_size=48", "num_frames=3"]}, {}),
        ({}, {"model_config": ['vision_config={"image_size": 48, "num_frames": 3}']}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("source", [{"model_name_or_path": "svitt"}, {"config_name": "svitt"}, TOWERS], ids=list)
def test_clips_are_of_the_size_that_was_given_in_whichever_way(folders, source, options, config, processing):
    model, processor = start(folders, source | options, config, processing)
    clips = processor(videos=np.zeros((5, 40, 60, 3), np.uint8), return_tensors="pt")["pixel_values"]
    assert clips.shape == (1, 3, 3, 48, 48) and model.config.num_frames == 3
    assert model.get_video_features(clips).pooler_output.isfinite().all()


FAULTY_FIELDS = [
    ({"model_config": ["vision_config=3"]}, "--model_config, --vision_config or --text_config does not fit"),
    ({"vision_config": ["wings=2"]}, "SViTTVisionConfig has no field wings"),
    ({"model_config": ["wings=2"]}, "SViTTConfig has no field wings"),
    ({"vision_config": ["wings"]}, "'wings' must look like FIELD=VALUE"),
    ({"vision_config": ["sparse_local_attn=2"]}, "sparse_local_attn"),
    ({"fusion_token_keep_rate": 1.5}, r"`token_keep_rate` must be in \(0, 1\], got 1\.5"),
]


@pytest.mark.parametrize(("config", "words"), FAULTY_FIELDS)
def test_wrong_fields(folders, config, words):
    with pytest.raises(InputError, match=words):
        start(folders, {"model_name_or_path": "svitt"}, config)


# ---- The door to saved models


def test_a_saved_model_is_of_the_class_that_it_was_saved_from(folders):
    model, processor = load_model_and_processor(folders / "svitt")
    assert type(model) is SViTTForPreTraining and model.dtype == torch.float32
    assert_equal_weights(model, SViTTForPreTraining.from_pretrained(folders / "svitt").state_dict())
    assert processor.video_processor.num_frames == 2
    with pytest.raises(InputError, match="is a SViTTForPreTraining, but a SViTTModel is needed"):
        load_model_and_processor(folders / "svitt", architectures=["SViTTModel"])


def test_evaluation_keeps_the_model_for_other_clips(folders):
    model, processor = load_model_and_processor(
        folders / "svitt",
        SViTTForVideoTextRetrieval,
        num_frames=4,
        max_text_length=4,
    )
    assert model.config.vision_config.num_frames == 2
    assert processor.video_processor.num_frames == 4
    assert processor(text=["a cat plays the piano"], return_tensors="pt")["input_ids"].tolist() == [[2, 5, 6, 7]]
    with pytest.raises(InputError, match="`max_text_length` must be from 2 to 512, got 600"):
        load_model_and_processor(folders / "svitt", max_text_length=600)


def with_fields(file="config.json", **values):
    def damage(folder):
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))

    return damage


def with_text(file, text):
    return lambda folder: (folder / file).write_text(text)


def with_weights(change):
    def damage(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def with_code(folder):
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(folder / 'marker')!r}).touch()\n")
    auto_map = {"AutoTokenizer": ["evil.X", "evil.X"]}
    with_fields("tokenizer_config.json", auto_map=auto_map, tokenizer_class="X")(folder)


WEIGHT = "vision_model.encoder.layer.2.output.dense.weight"
# Of a folder that is damaged or hostile: what is done to it, and the words that must occur.
FAULTS = {
    "a weight is missing": (
        with_weights(lambda weights: weights.pop(WEIGHT)),
        "lacks weights that the model needs: vision_model.encoder.layer.*.output.dense.weight",
    ),
    "a weight of another shape": (
        with_weights(lambda weights: weights.update({WEIGHT: torch.zeros(16, 31)})),
        f"{WEIGHT} has the shape (16, 31), its configuration needs (16, 32)",
    ),
    "weights cut off": (lambda folder: os.truncate(folder / "model.safetensors", 10**4), "cannot be loaded"),
    "a pickle": (pickled, "model.safetensors"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
    "a configuration that is a list": (with_text("config.json", "[]"), "cannot be loaded"),
    "no tokenizer": (with_text("tokenizer.json", "{}"), "cannot be loaded"),
    "a field of a wrong type": (with_fields(embed_dim="16"), "embed_dim"),
    "another architecture": (with_fields(architectures=["../x"]), "holds a ../x, which is no SViTT"),
    "code": (with_code, "contains custom code"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_or_hostile_folder_is_one_sentence_and_no_weight_is_random(folders, tmp_path, fault, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("it asks whether to run code"))
    folder = tmp_path / "svitt"
    shutil.copytree(folders / "svitt", folder)
    damage, words = FAULTS[fault]
    damage(folder)
    for load in (
        lambda: load_model_and_processor(folder, SViTTForVideoTextRetrieval),
        lambda: start(tmp_path, {"model_name_or_path": "svitt"}, processing={"num_frames": 4}),
    ):
        with pytest.raises(InputError) as error:
            load()
        sentence = str(error.value)
        assert words in sentence and str(folder) in sentence and "\n" not in sentence and len(sentence) < 1000
    assert not (folder / "marker").exists()


def test_a_head_that_the_source_never_had_may_be_new(folders, tmp_path):
    source = SViTTModel.from_pretrained(folders / "svitt")
    source.save_pretrained(tmp_path)
    SViTTProcessor.from_pretrained(folders / "svitt").save_pretrained(tmp_path)
    model, _ = start(tmp_path, {"model_name_or_path": "."})
    assert type(model) is SViTTForPreTraining and torch.equal(model.vision_proj.weight, source.vision_proj.weight)


# ---- The decoder of answers


@pytest.mark.parametrize("num_frames", [None, 4])
def test_question_answering_starts_its_decoder_from_the_fusion_layers(folders, tmp_path, num_frames):
    processing = {"num_frames": num_frames}
    model, _ = start(
        folders, {"model_name_or_path": "svitt"}, processing=processing, model_class=SViTTForVideoQuestionAnswering
    )
    source = SViTTForPreTraining.from_pretrained(folders / "svitt")
    assert model.config.vision_config.num_frames == (num_frames or 2)
    decoder = model.text_decoder
    assert_equal_weights(decoder.bert.encoder.layer[0], source.text_model.encoder.layer[3].state_dict())
    assert_equal_weights(decoder.bert.embeddings, source.text_model.embeddings.state_dict())
    assert_equal_weights(decoder.cls, source.cls.state_dict())
    assert_equal_weights(model.text_model, source.text_model.state_dict())
    assert decoder.cls.predictions.decoder.weight is decoder.bert.embeddings.word_embeddings.weight

    # A model that has a decoder keeps it.
    torch.nn.init.normal_(decoder.bert.encoder.layer[0].output.dense.weight)
    model.save_pretrained(tmp_path)
    SViTTProcessor.from_pretrained(folders / "svitt").save_pretrained(tmp_path)
    again, _ = start(tmp_path, {"model_name_or_path": "."}, model_class=SViTTForVideoQuestionAnswering)
    assert_equal_weights(again, model.state_dict())


def test_question_answering_starts_from_towers(folders, tmp_path):
    model, _ = start(folders, TOWERS, model_class=SViTTForVideoQuestionAnswering)
    assert len({parameter.data_ptr() for parameter in model.parameters()}) == len(list(model.parameters()))
    assert_equal_weights(model.text_decoder.bert.encoder.layer[0], model.text_model.encoder.layer[3].state_dict())
    expected = BertModel.from_pretrained(folders / "bert").embeddings.word_embeddings.weight
    assert torch.equal(model.text_decoder.bert.embeddings.word_embeddings.weight, expected)

    # A wider video tower: the decoder looks at texts, so that its keys and values cannot be those of fusion.
    wide = BeitConfig(**SIZE | {"hidden_size": 24}, image_size=32, patch_size=8)
    BeitModel(wide).save_pretrained(tmp_path / "beit")
    towers = TOWERS | {"vision_name_or_path": str(tmp_path / "beit")}
    model, _ = start(folders, towers, model_class=SViTTForVideoQuestionAnswering)
    decoder, fusion = model.text_decoder.bert.encoder.layer[0], model.text_model.encoder.layer[3]
    assert torch.equal(decoder.crossattention.self.query.weight, fusion.crossattention.self.query.weight)
    assert (decoder.crossattention.self.key.in_features, fusion.crossattention.self.key.in_features) == (16, 24)
