# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The package loads nothing before it must, the Auto classes know it, and `svitt` converts models."""

import os
import subprocess
import sys

import pytest
import torch

import svitt
from svitt import SViTTProcessor
from svitt.cli import main

COMMANDS = ["convert", "check", "pack", "index", "search", "serve", "remove", "ask", "explain"]


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
    [
        "import svitt",
        "import svitt; from transformers import BertModel",
        "from transformers import AutoModel",
        "from svitt import SViTTConfig\nfrom transformers import AutoModel\n"
        "AutoModel.from_config(SViTTConfig.from_pretrained(sys.argv[1]))",
    ],
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


# ---- Commands


def run(capsys, *words) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    return end.value.code or 0, capsys.readouterr().err


def test_a_converted_processor_keeps_the_statistics_of_the_tower_and_its_settings(folders, tmp_path, capsys):
    fresh, longer = tmp_path / "fresh", tmp_path / "longer"
    assert run(capsys, "convert", folders / "beit", folders / "bert", fresh)[0] == 0
    SViTTProcessor.from_pretrained(fresh, max_answer_length=7).save_pretrained(fresh)
    assert run(capsys, "convert", "expand", fresh, longer, "--num_frames", 4)[0] == 0
    processor = SViTTProcessor.from_pretrained(longer)
    assert processor.max_answer_length == 7
    assert (*processor.video_processor.image_mean, *processor.video_processor.image_std) == (0.1, 0.2, 0.3, *[0.5] * 3)


# Of commands: the words, in which names of files are of the folder of the test, and what must occur in the sentence.
FAULTS = {
    "no checkpoint": ("convert none.pth out --tokenizer bert", "none.pth: there is no such file"),
    "not a checkpoint": ("convert text.pth out --tokenizer bert", "text.pth: is refused, it is no readable checkpoint"),
    "no weights": ("convert empty.pth out --tokenizer bert", "not names of weights of an original"),
    "output in use": ("convert empty.pth full --tokenizer bert", "full: is in use"),
    "no tokenizer": ("convert beit bert out --tokenizer nowhere", "No BERT tokenizer was found at"),
    "no frames": ("convert expand svitt out --num_frames 0", "--num_frames must be at least 1, got 0"),
    "another option": ("convert expand svitt out --frames 4", "--num_frames"),
    "nothing to pack": ("pack --video_dir full", "required: --output_dir"),
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
    files = {"none.pth", "text.pth", "empty.pth", "out", "full", "nowhere", "svitt", "beit", "bert"}
    code, err = run(capsys, *(tmp_path / word if word in files else word for word in words.split()))
    assert code == 2 and "Traceback" not in err
    assert sentence in err.splitlines()[-1] and err.splitlines()[-1].startswith(f"svitt {words.split()[0]}")
    assert sorted(tmp_path.rglob("*")) == before
