# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The package loads nothing before it must, the Auto classes know it, and `svitt` converts models."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoProcessor, BeitConfig, BeitModel, BertConfig, BertModel, BertTokenizer

import svitt
from svitt import SViTTConfig, SViTTForPreTraining, SViTTForVideoTextRetrieval, SViTTProcessor
from svitt.cli import main
from svitt.conversion import make_processor

SIZE = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "plays", "the", "piano"]
COMMANDS = ["convert", "check", "pack", "index", "search", "remove", "explain"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`svitt` for 2 frames, `beit` and `bert`."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4}
    config = SViTTConfig(
        vision_config=SIZE | {"num_frames": 2, "image_size": 32, "patch_size": 8, "attn_block_size": 4},
        text_config=SIZE | special | {"fusion_layer": 3, "encoder_width": 16, "vocab_size": len(WORDS)},
    )
    SViTTForPreTraining(config).save_pretrained(folder / "svitt")
    make_processor(config, tokenizer).save_pretrained(folder / "svitt")
    BeitModel(BeitConfig(**SIZE, image_size=32, patch_size=8)).save_pretrained(folder / "beit")
    (folder / "beit/preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3]}')
    BertModel(BertConfig(**SIZE, vocab_size=len(WORDS))).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    return folder


# ---- The package


def in_a_fresh_process(code: str, *arguments) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_are_those_of_the_modules():
    """Those of configuration, model and processing; and all exist."""
    from svitt import configuration_svitt, modeling_svitt, processing_svitt

    of_modules = {*configuration_svitt.__all__, *modeling_svitt.__all__, *processing_svitt.__all__}
    assert of_modules <= set(svitt.__all__) and set(svitt.__all__) <= set(dir(svitt))
    assert all(getattr(svitt, name).__name__ == name for name in svitt.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'SViTTNothing'"):
        svitt.SViTTNothing  # noqa: B018


def test_nothing_slow_is_imported_before_it_is_used():
    slow = "[name for name in ('torch', 'transformers', 'numpy', 'av', 'lancedb') if name in sys.modules]"
    code = f"""
import sys, svitt, svitt.cli
for words in ([], ["--nonsense"], *([command, "--help"] for command in {COMMANDS}), ["convert", "expand", "--help"]):
    try:
        svitt.cli.main(words)
    except SystemExit as end:
        assert end.code == (2 if words in ([], ["--nonsense"]) else 0), words
assert not {slow}, {slow}
"""
    shown = in_a_fresh_process(code)
    assert all(f"usage: svitt {command}" in shown for command in COMMANDS)


@pytest.mark.parametrize(
    "imports",
    ["import svitt", "import svitt; from transformers import BertModel", "from transformers import AutoModel"],
)
def test_auto_classes_load_our_folders_without_remote_code(folders, imports):
    code = f"""
import sys
{imports}
import svitt, transformers
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
folder = sys.argv[1]
for auto_class, name in (
    (transformers.AutoProcessor, "SViTTProcessor"),
    (AutoVideoProcessor, "SViTTVideoProcessor"),
    (transformers.AutoConfig, "SViTTConfig"),
    (transformers.AutoModel, "SViTTModel"),
    (transformers.AutoModelForPreTraining, "SViTTForPreTraining"),
    (transformers.AutoModelForVisualQuestionAnswering, "SViTTForVideoQuestionAnswering"),
    (transformers.AutoModelForVideoClassification, "SViTTForVideoClassification"),
):
    loaded = auto_class.from_pretrained(folder)
    assert type(loaded) is getattr(svitt, name), (type(loaded), name)
assert type(transformers.AutoModel.from_config(transformers.AutoConfig.for_model("svitt"))) is svitt.SViTTModel
"""
    in_a_fresh_process(code, folders / "svitt")


def test_a_configuration_alone_is_known_to_the_auto_classes(folders):
    code = (
        "import sys; from svitt import SViTTConfig; from transformers import AutoModel\n"
        "print(type(AutoModel.from_config(SViTTConfig.from_pretrained(sys.argv[1]))).__name__)"
    )
    assert in_a_fresh_process(code, folders / "svitt").strip() == "SViTTModel"


# ---- Commands


def run(capsys, *words) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    return end.value.code or 0, capsys.readouterr().err


def test_towers_become_a_model_and_the_model_one_for_longer_clips(folders, tmp_path, capsys):
    fresh, longer = tmp_path / "fresh", tmp_path / "longer"
    options = ["--num_frames", 2, "--vision_config", "token_keep_rate=0.8", "sparse_random_attn=1"]
    assert run(capsys, "convert", "towers", folders / "beit", folders / "bert", fresh, *options)[0] == 0
    model = SViTTForVideoTextRetrieval.from_pretrained(fresh)
    vision = model.config.vision_config
    assert (vision.num_frames, vision.token_keep_rate, vision.sparse_random_attn) == (2, 0.8, 1)
    assert model.config.text_config.mask_token_id == 4

    SViTTProcessor.from_pretrained(fresh, max_answer_length=7).save_pretrained(fresh)
    options = ["--num_frames", 4, "--token_keep_rate", 0.6]
    assert run(capsys, "convert", "expand", fresh, longer, *options)[0] == 0
    expanded = SViTTForPreTraining.from_pretrained(longer)
    vision = expanded.config.vision_config
    assert (vision.num_frames, vision.token_keep_rate) == (4, 0.6)
    assert torch.equal(expanded.text_proj.weight, SViTTForPreTraining.from_pretrained(fresh).text_proj.weight)
    processor = AutoProcessor.from_pretrained(longer)
    video_processor = processor.video_processor
    assert (video_processor.num_frames, video_processor.size["height"], processor.max_answer_length) == (4, 32, 7)
    assert (*video_processor.image_mean, *video_processor.image_std) == (0.1, 0.2, 0.3, 0.5, 0.5, 0.5)


# Of commands: the words, in which names of files are of the folder of the test, and what must occur in the sentence.
FAULTS = {
    "no checkpoint": ("convert original none.pth out", "none.pth: there is no such file"),
    "not a checkpoint": ("convert original text.pth out", "text.pth: is no readable checkpoint"),
    "no weights": ("convert original empty.pth out", "not names of weights of an original"),
    "output in use": ("convert original empty.pth full", "full: is in use"),
    "the wrong tower": ("convert towers bert bert out", "a 'beit' one is needed"),
    "no tokenizer": ("convert towers beit bert out --tokenizer nowhere", "No BERT tokenizer was found at"),
    "no value": ("convert towers beit bert out --vision_config wings", "'wings' must look like FIELD=VALUE"),
    "no such field": ("convert towers beit bert out --vision_config wings=2", "SViTTVisionConfig has no field wings"),
    "a rate above 1": ("convert towers beit bert out --text_config token_keep_rate=2", "must be in (0, 1]"),
    "no model": ("convert expand nowhere/there out --num_frames 4", "there is no such folder"),
    "no frames": ("convert expand svitt out --num_frames 0", "--num_frames must be at least 1, got 0"),
    "another option": ("convert expand svitt out --frames 4", "--num_frames"),
    "nothing to pack": ("pack --video_dir full", "--annotation_file is missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_one_sentence_and_writes_nothing(folders, tmp_path, capsys, fault, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.save({"model": {}}, tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for name in ("svitt", "beit", "bert"):
        (tmp_path / name).symlink_to(folders / name)
    before = sorted(tmp_path.rglob("*"))
    words, sentence = FAULTS[fault]
    is_file = {"none.pth", "text.pth", "empty.pth", "out", "full", "nowhere", "nowhere/there", "svitt", "beit", "bert"}
    code, err = run(capsys, *(tmp_path / word if word in is_file else word for word in words.split()))
    assert code == 2 and "Traceback" not in err
    assert sentence in err.splitlines()[-1] and err.splitlines()[-1].startswith(f"svitt {words.split()[0]}")
    assert sorted(tmp_path.rglob("*")) == before
