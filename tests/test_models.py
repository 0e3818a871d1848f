# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What training starts from: a SViTT, also for other clips, towers, and random weights."""

import json
import math
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BeitConfig, BeitModel, BertConfig, BertModel, BertTokenizer, set_seed

from svitt import (
    SViTTConfig,
    SViTTForPreTraining,
    SViTTForVideoQuestionAnswering,
    SViTTForVideoTextRetrieval,
    SViTTModel,
    SViTTProcessor,
)
from svitt.conversion import expand_num_frames, init_from_towers, make_processor
from svitt.conversion import main as convert
from svitt.data.loaders import ProcessingArguments
from svitt.errors import InputError
from svitt.training.start import (
    DroppingArguments,
    StartArguments,
    load_as_saved,
    load_model_and_processor,
    start_training,
)

SIZE = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "plays", "the", "piano"]


@pytest.fixture(scope="module")
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
    set_seed(0)
    model = SViTTForPreTraining(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder / "svitt")
    make_processor(config, tokenizer).save_pretrained(folder / "svitt")
    BeitModel(BeitConfig(**SIZE, image_size=32, patch_size=8)).save_pretrained(folder / "beit")
    BertModel(BertConfig(**SIZE, vocab_size=len(WORDS))).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    return folder


def start(folders, start=None, dropping=None, processing=None, model_class=SViTTForPreTraining):
    start = {
        name: str(folders / value) if name.endswith("_name") or "_name_or" in name else value
        for name, value in (start or {}).items()
    }
    return start_training(
        model_class,
        StartArguments(**start),
        DroppingArguments(**dropping or {}),
        ProcessingArguments(**processing or {}),
    )


def assert_equal_weights(model, expected):
    weights = model.state_dict()
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)


def test_a_svitt_as_it_is(folders):
    model, processor = start(folders, {"model_name_or_path": "svitt"}, processing={"max_text_length": 4})
    assert_equal_weights(model, SViTTForPreTraining.from_pretrained(folders / "svitt").state_dict())
    assert processor.video_processor.num_frames == 2
    assert processor(text=["a cat plays the piano"], return_tensors="pt")["input_ids"].tolist() == [[2, 5, 6, 7]]


def test_expansion_inflates_biases_and_drops_more(folders, tmp_path):
    model, processor = start(
        folders,
        {"model_name_or_path": "svitt", "model_config": ["itc_all_gather=true"], "vision_config": ["drop_path_rate=0"]},
        {"token_keep_rate": 0.6, "fusion_token_keep_rate": 0.2},
        {"num_frames": 4},
    )
    source = SViTTForPreTraining.from_pretrained(folders / "svitt")
    expected, _ = expand_num_frames(source.state_dict(), source.config, 4)
    assert_equal_weights(model, expected)
    vision, text = model.config.vision_config, model.config.text_config
    assert (vision.num_frames, vision.token_keep_rate, text.token_keep_rate, vision.drop_path_rate) == (4, 0.6, 0.2, 0)
    assert model.config.itc_all_gather and processor.video_processor.num_frames == 4
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = SViTTForPreTraining.from_pretrained(tmp_path).eval()
    clips = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.get_video_features(clips), model.eval().get_video_features(clips))
    assert SViTTProcessor.from_pretrained(tmp_path).video_processor.num_frames == 4


def test_towers(folders):
    towers = {"vision_name_or_path": "beit", "text_name_or_path": "bert"}
    set_seed(1)
    model, processor = start(folders, towers, {"token_keep_rate": 0.5}, {"num_frames": 3, "max_text_length": 5})
    set_seed(1)
    expected = init_from_towers(folders / "beit", folders / "bert", num_frames=3)
    assert_equal_weights(model, expected.state_dict())
    text = model.config.text_config
    assert (text.mask_token_id, text.eos_token_id, model.config.vision_config.token_keep_rate) == (4, 3, 0.5)
    assert processor.video_processor.num_frames == 3
    assert processor(text=["a cat plays the piano"], return_tensors="pt")["input_ids"].shape == (1, 5)
    retrieval, _ = start(folders, towers, model_class=SViTTForVideoTextRetrieval)
    assert type(retrieval) is SViTTForVideoTextRetrieval


def test_random_weights_from_a_configuration(folders):
    options = {"config_name": "svitt", "vision_config": ["sparse_random_attn=1"], "text_config": ["fusion_layer=2"]}
    set_seed(1)
    model, processor = start(folders, options, processing={"num_frames": 3})
    assert (model.config.vision_config.sparse_random_attn, model.config.text_config.fusion_layer) == (1, 2)
    assert model.config.vision_config.num_frames == processor.video_processor.num_frames == 3
    other, _ = start(folders, options)
    assert not torch.equal(model.vision_proj.weight, other.vision_proj.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give one of --model_name_or_path"),
        ({"model_name_or_path": "svitt", "config_name": "svitt"}, "Give one of --model_name_or_path"),
        ({"vision_name_or_path": "beit"}, "Give one of --model_name_or_path"),
        ({"model_name_or_path": "nothing"}, "nothing: there is no such folder"),
        ({"config_name": "."}, "is no folder of a model, it has no config.json"),
        ({"vision_name_or_path": "bert", "text_name_or_path": "bert"}, "bert, .*bert: cannot be started from"),
        ({"model_name_or_path": "svitt", "vision_config": ["wings=2"]}, "`vision_config` has no field wings"),
        ({"model_name_or_path": "svitt", "model_config": ["wings=2"]}, "no field 'wings'"),
        ({"model_name_or_path": "svitt", "vision_config": ["wings"]}, "'wings' must look like FIELD=VALUE"),
        ({"model_name_or_path": "svitt", "vision_config": ["sparse_local_attn=2"]}, "sparse_local_attn"),
    ],
)
def test_wrong_starts(folders, options, message):
    with pytest.raises(InputError, match=message):
        start(folders, options)


def test_wrong_rates():
    with pytest.raises(InputError, match=r"--fusion_token_keep_rate 1\.5: must be above 0 and at most 1"):
        DroppingArguments(fusion_token_keep_rate=1.5)


def test_evaluation_keeps_the_model_for_other_clips(folders):
    model, processor = load_model_and_processor(
        SViTTForVideoTextRetrieval,
        str(folders / "svitt"),
        ProcessingArguments(num_frames=4),
        DroppingArguments(token_keep_rate=0.9),
    )
    assert (
        model.config.vision_config.num_frames
        == json.loads((folders / "svitt/config.json").read_text())["vision_config"]["num_frames"]
    )
    assert (model.config.vision_config.token_keep_rate, processor.video_processor.num_frames) == (0.9, 4)


# ---- Weights that are not what they should be


def damage_of(kind: str, weights: dict, file):
    name = "vision_model.encoder.layer.2.output.dense.weight"
    if kind == "missing":
        del weights[name]
    elif kind == "extra":
        weights["vision_model.wings.weight"] = torch.zeros(2)
    elif kind == "shape":
        weights[name] = torch.zeros(16, 31)
    save_file(weights, file, metadata={"format": "pt"})
    if kind == "cut off":
        os.truncate(file, file.stat().st_size - 100)
    elif kind == "huge header":
        file.write_bytes((2**60).to_bytes(8, "little") + file.read_bytes()[8:])
    elif kind == "text":
        file.write_text("version https://git-lfs.github.com/spec/v1")


DAMAGES = {
    "missing": "lacks weights of its SViTTForPreTraining: vision_model.encoder.layer.*.output.dense.weight",
    "extra": "has weights that no SViTTForPreTraining has: vision_model.wings.weight",
    "shape": "vision_model.encoder.layer.2.output.dense.weight is of 16 x 31 values, its configuration needs 16 x 32",
    "cut off": "model.safetensors: damaged or cut off",
    "huge header": "model.safetensors: damaged or cut off",
    "text": "model.safetensors: damaged or cut off",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_weights_are_never_random_where_a_folder_is_damaged(folders, tmp_path, kind, capsys):
    folder = tmp_path / "svitt"
    shutil.copytree(folders / "svitt", folder)
    damage_of(kind, load_file(folder / "model.safetensors"), folder / "model.safetensors")
    message = re.escape(DAMAGES[kind])
    with pytest.raises(InputError, match=message) as error:
        load_model_and_processor(
            SViTTForVideoTextRetrieval, str(folder), ProcessingArguments(), DroppingArguments()
        )  # of `run_retrieval.py`
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match=message):
        load_as_saved(str(folder), ProcessingArguments())  # of `svitt-search`
    for num_frames in (None, 4):
        with pytest.raises(InputError, match=message):
            start(tmp_path, {"model_name_or_path": "svitt"}, processing={"num_frames": num_frames})
    with pytest.raises(SystemExit) as end:
        convert(["expand", str(folder), str(tmp_path / "longer"), "--num_frames", "4"])
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2 and sentence.startswith("svitt-convert: ") and DAMAGES[kind] in sentence
    assert not (tmp_path / "longer").exists()


def change(file, **values):
    """Change values of a JSON file, of its parts by `part__name`."""
    content = json.loads(file.read_text())
    for name, value in values.items():
        *part, name = name.split("__")
        (content[part[0]] if part else content)[name] = value
    file.write_text(json.dumps(content))


def shards(folder, **values):
    """The weights as a sharded model, with other values in its index."""
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    change(folder / "model.safetensors.index.json", **values)


def with_weight(folder, change):
    weights = load_file(folder / "model.safetensors")
    weights["itm_head.weight"] = change(weights["itm_head.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def with_code(folder):
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(folder / 'marker')!r}).touch()\n")
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.X", "evil.X"]}, tokenizer_class="X")


JSON_FILES = ("config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json")
SETTINGS = {
    "activation": ({"text_config__hidden_act": "__import__"}, "`hidden_act` must be one of"),
    "range": ({"vision_config__initializer_range": math.nan}, "`initializer_range` must be a finite number"),
    "type": ({"vision_config__hidden_size": "16"}, "hidden_size"),
    "list for a part": ({"vision_config": []}, "vision_config"),
    "number as a class": ({"architectures": 5}, "holds a 5, which is no SViTT"),
    "path as a class": ({"architectures": ["../x"]}, "holds a ../x, which is no SViTT"),
    "no model as a class": ({"architectures": ["SViTTConfig"]}, "holds a SViTTConfig, which is no SViTT"),
    "layers": ({"vision_config__num_hidden_layers": 10**5}, "`num_hidden_layers` of its vision_config is 100000"),
    "words": ({"text_config__vocab_size": 10**10}, "is of 10 values, its configuration needs 10000000000"),
    "another file": ({"transformers_weights": "x.safetensors"}, "`transformers_weights`"),
}
HOSTILE_FOLDERS = {
    **{
        f"{name} {content:.5}": (lambda folder, name=name, content=content: (folder / name).write_text(content), name)
        for name in JSON_FILES
        for content in ("", "[]", "null", '"x"', "[" * 10**5)
    },
    "tokenizer without words": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "processor or tokenizer"),
    **{
        f"setting: {kind}": (lambda folder, values=values: change(folder / "config.json", **values), message)
        for kind, (values, message) in SETTINGS.items()
    },
    "index of nothing": (lambda folder: shards(folder, weight_map=None), "`weight_map` must be an object of file"),
    "index of a list": (lambda folder: shards(folder, weight_map=[1]), "`weight_map` must be an object of file names"),
    "index of numbers": (lambda folder: shards(folder, weight_map={"x": 1}), "must be an object of file names"),
    "index that leads outside": (
        lambda folder: shards(folder, weight_map__x="../x.safetensors"),
        "names '../x.safetensors', which is no file of the folder",
    ),
    "index of what is not there": (lambda folder: shards(folder, weight_map__x="x.safetensors"), "no file of the"),
    "whole numbers": (lambda folder: with_weight(folder, torch.Tensor.long), "itm_head.weight is of type I64, not"),
    "complex numbers": (lambda folder: with_weight(folder, lambda weight: weight + 0j), "is of type C64, not F16"),
    "pickle": (pickled, "pytorch_model.bin: is a pickle, which may run code; only .safetensors files are read"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
    "code": (with_code, "contains custom code"),
}


@pytest.mark.parametrize("kind", HOSTILE_FOLDERS)
def test_hostile_and_damaged_folders_are_told_in_one_sentence(folders, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("it asks whether to run code"))
    folder = tmp_path / "svitt"
    shutil.copytree(folders / "svitt", folder)
    edit, message = HOSTILE_FOLDERS[kind]
    edit(folder)
    for load in (
        lambda: load_as_saved(str(folder), ProcessingArguments()),
        lambda: load_model_and_processor(
            SViTTForVideoTextRetrieval, str(folder), ProcessingArguments(), DroppingArguments()
        ),
        lambda: start(tmp_path, {"model_name_or_path": "svitt"}),
    ):
        with pytest.raises(InputError) as error:
            load()
        sentence = str(error.value)
        assert message in sentence and str(folder) in sentence and "\n" not in sentence and len(sentence) < 1000
    assert not (folder / "marker").exists()


def test_a_model_in_several_files_is_read(folders, tmp_path):
    shutil.copytree(folders / "svitt", tmp_path / "svitt")
    shards(tmp_path / "svitt")
    model, _ = load_as_saved(str(tmp_path / "svitt"), ProcessingArguments())
    assert_equal_weights(model, SViTTForPreTraining.from_pretrained(folders / "svitt").state_dict())


def test_a_head_that_the_source_never_had_may_be_new(folders, tmp_path):
    SViTTModel.from_pretrained(folders / "svitt").save_pretrained(tmp_path)
    SViTTProcessor.from_pretrained(folders / "svitt").save_pretrained(tmp_path)
    model, _ = start(tmp_path, {"model_name_or_path": "."})
    assert type(model) is SViTTForPreTraining
    expected = load_file(folders / "svitt" / "model.safetensors")
    assert torch.equal(model.vision_proj.weight, expected["vision_proj.weight"])


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
    towers = {"vision_name_or_path": "beit", "text_name_or_path": "bert"}
    model, _ = start(folders, towers, model_class=SViTTForVideoQuestionAnswering)
    assert_equal_weights(model.text_decoder.bert.encoder.layer[0], model.text_model.encoder.layer[3].state_dict())
    expected = BertModel.from_pretrained(folders / "bert").embeddings.word_embeddings.weight
    assert torch.equal(model.text_decoder.bert.embeddings.word_embeddings.weight, expected)

    # A wider video tower: the decoder looks at texts, so that its keys and values cannot be those of fusion.
    wide = BeitConfig(**SIZE | {"hidden_size": 24}, image_size=32, patch_size=8)
    BeitModel(wide).save_pretrained(tmp_path / "beit")
    towers = {"vision_name_or_path": str(tmp_path / "beit"), "text_name_or_path": "bert"}
    model, _ = start(folders, towers, model_class=SViTTForVideoQuestionAnswering)
    decoder, fusion = model.text_decoder.bert.encoder.layer[0], model.text_model.encoder.layer[3]
    assert torch.equal(decoder.crossattention.self.query.weight, fusion.crossattention.self.query.weight)
    assert (decoder.crossattention.self.key.in_features, fusion.crossattention.self.key.in_features) == (16, 24)
