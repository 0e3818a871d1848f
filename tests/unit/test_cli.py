# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The package loads nothing before it must, the Auto classes know it, and `svitt` converts models."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch

import svitt
from svitt import SViTTIndex, SViTTProcessor, SViTTVisionModel
from svitt.cli import main

COMMANDS = "convert check pack index search serve remove ask explain completion".split()


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
        pytest.param("import svitt; from transformers import BertModel", marks=pytest.mark.slow),
        pytest.param("from transformers import AutoModel", marks=pytest.mark.slow),
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
    larger = "--vision_config", "image_size=48"
    assert run(capsys, "convert", "expand", fresh, longer, "--num_frames", 6, *larger)[0] == 0
    processor = SViTTProcessor.from_pretrained(longer)
    assert processor.max_answer_length == 7
    clips = processor(videos=np.zeros((9, 64, 64, 3), np.uint8), return_tensors="pt")
    assert clips["pixel_values"].shape == (1, 6, 3, 48, 48) and SViTTVisionModel.from_pretrained(longer)(**clips)
    assert (*processor.video_processor.image_mean, *processor.video_processor.image_std) == (0.1, 0.2, 0.3, *[0.5] * 3)


# Of commands: the words, in which names of files are of the folder of the test, and what must occur in the sentence.
FAULTS = {
    "no checkpoint": ("convert none.pth out --tokenizer bert", "none.pth: there is no such file"),
    "not a checkpoint": ("convert text.pth out --tokenizer bert", "text.pth: is refused, it is no readable checkpoint"),
    "no weights": ("convert empty.pth out --tokenizer bert", "not names of weights of an original"),
    "output in use": ("convert empty.pth full --tokenizer bert", "full: is in use"),
    "no tokenizer": ("convert beit bert out --tokenizer nowhere", "No BERT tokenizer was found at"),
    "no frames": ("convert expand svitt out --num_frames 0", "--num_frames must be at least 1, got 0"),
    "another option": ("convert expand svitt out --frames 4", "required: --num_frames"),
    "nothing to pack": ("pack --video_dir full", "required: --output_dir"),
    "no such command": ("serch index dog", "invalid choice: 'serch'", "Did you mean search?"),
    "no command": ("", "required: COMMAND"),
    "a mistyped option": ("index full --modle svitt", "unrecognized arguments: --modle", "Did you mean --model?"),
    "with hyphens": ("search --top-kk 3 dog", "unrecognized arguments: --top_kk", "Did you mean --top_k?"),
    "an option of another": ("check --output_dir out", "svitt check: unrecognized arguments: --output_dir out"),
    "no number": ("search dog --top_k many", "argument --top_k: invalid int value: 'many'"),
    "no choice": ("index full --tokens int4", "invalid choice: 'int4'", "Did you mean int8?"),
    "no shell": ("completion basch", "Did you mean bash?"),
    "no videos": ("index ful", "ful: there is no such file or folder. Did you mean full?"),
    "no video to ask about": ("ask text.mp what is it", "text.mp: there is no such file. Did you mean text.pth?"),
    "no photo to search by": ("search full --image text.mp", "text.mp: there is no such file. Did you mean text.pth?"),
    "no index": ("search dogs", "svitt_index: there is no such index; `svitt index VIDEOS` makes one."),
    "no index of that name": (
        "search out --video text.pth",
        "out: there is no such index; `svitt index VIDEOS` makes one.",
    ),
    "a folder of others": ("index full --index full --model svitt", "full: holds other things, such as file"),
    "no index there": ("search full --video text.pth", "full: is no index"),
    "no folder of videos": ("check --video_dir ful", "ful: there is no such folder. Did you mean full?"),
    "no annotations": ("check --annotation_file text.pt", "text.pt: there is no such file. Did you mean text.pth?"),
    "no dataset": ("check --dataset msrvt", "msrvt: there is no such dataset", "Did you mean msrvtt?"),
    "two models": ("convert beit bert svitt out", "is one source too many"),
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
    words, *parts = FAULTS[fault]
    monkeypatch.chdir(tmp_path)
    code, err = run(capsys, *words.split())
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith("svitt"), err
    assert all(part in err for part in parts), err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sentence_needs_no_quotes(folders, tmp_path, capsys, monkeypatch):
    """The first word is an index where there is one."""
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("svitt.search.console.answer", lambda index, text, **query: asked.append((index, text)))
    monkeypatch.setattr(SViTTIndex, "open", lambda folder, model: [folder])
    for folder in ("mine", "svitt_index", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mine/index.json").touch()
    for words in ("mine a dog", "a dog", "dogs", "mine dog", "mine --top_k 3 a dog", "--top_k 3 dogs"):
        assert run(capsys, "search", *words.split())[0] == 0
    assert run(capsys, "search", "other", "a dog")[0] == 0
    mine, default = ["mine"], ["svitt_index"]
    assert asked[:3] == [(mine, "a dog"), (default, "a dog"), (default, "dogs")]
    assert asked[3:] == [(mine, "dog"), (mine, "a dog"), (default, "dogs"), (["other"], "a dog")]
    for words in ("mine --top_k 3 -- a dog", "--top-k 3 -- --my-dog", "-- mine --a"):
        assert run(capsys, "search", *words.split())[0] == 0
    assert asked[7:] == [(mine, "a dog"), (default, "--my-dog"), (mine, "--a")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell, capsys):
    with pytest.raises(SystemExit):
        main(["completion", shell])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("svitt", "search", "top_k"))


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == svitt.__version__ == version("svitt")


@pytest.mark.parametrize("is_buffered", [True, False])
@pytest.mark.parametrize("words", ["completion bash", "--version"])
def test_a_reader_who_has_gone_ends_a_command_without_a_word(words, is_buffered):
    """As with `| head`, which has what it wanted."""
    theirs, ours = os.pipe()
    os.close(theirs)
    environment = os.environ | {"PYTHONUNBUFFERED": "" if is_buffered else "1"}
    command = [sys.executable, "-m", "svitt.cli", *words.split()]
    done = subprocess.run(command, stdout=ours, stderr=subprocess.PIPE, text=True, timeout=300, env=environment)
    os.close(ours)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
def test_names_that_are_no_text_are_printed(folders, tmp_path):
    (tmp_path / os.fsdecode(b"bad\xff.mp4")).write_bytes(b"no video")
    words = ["index", tmp_path, "--index", tmp_path / "index", "--model", folders / "svitt", "--json"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}  # as in most terminals, whatever runs the tests
    done = subprocess.run([sys.executable, "-m", "svitt.cli", *words], capture_output=True, env=environment)
    assert done.returncode == 1 and [name[-8:] for name in json.loads(done.stdout)["bad"]] == ["bad\udcff.mp4"[-8:]]
