# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Pages, run: commands and Python on tiny data, but for those whose comments say that they need or take something."""

import ast
import contextlib
import importlib
import io
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from svitt import SViTTForVideoQuestionAnswering, SViTTForVideoTextRetrieval, SViTTProcessor
from svitt.processing_svitt import SViTTVideoProcessor

from ..conftest import ROOT
from ..contract.surface import run_script
from ..contract.test_scripts import captions_of, options_of
from .test_docs import COMMANDS, MAINS, PAGES

TINY = ROOT / "examples/tiny"
SLOW = ("python", "check", "pack")  # train, or start processes
RUN = [
    pytest.param(words, id="-".join(words[:2]), marks=[pytest.mark.slow] if {*words[:2]} & {*SLOW} else [])
    for words, is_run in (line.values for line in COMMANDS)
    if is_run
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory, folders):
    """A folder with what the pages name: models that know their words, videos, annotations and indexes."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "examples").symlink_to(ROOT / "examples")
    shutil.copytree(TINY / "videos", folder / "videos")
    for name in ("train", "test", "train_questions", "test_questions"):
        rows = json.loads((TINY / f"{name}.json").read_text())
        for split in {name, name.replace("test", "val")}:
            (folder / f"{split}.json").write_text(json.dumps(rows))
    clips = sorted((folder / "videos").iterdir())
    for copy in ("videos/a.mp4", "videos/b.mp4", "video.mp4"):
        shutil.copy(clips[0], folder / copy)
    Image.new("RGB", (64, 48), "red").save(folder / "photo.jpg")
    (folder / "my.yaml").write_text("splits: {train: {annotation: train_questions.json, videos: videos}}\n")
    tools = runpy.run_path(str(ROOT / "examples/make_tiny_model.py"))
    tokenizer = tools["make_tokenizer"]([page.read_text() for page in PAGES])
    config = tools["make_config"](len(tokenizer))
    config.text_config.max_position_embeddings = 64
    processor = SViTTProcessor(SViTTVideoProcessor(num_frames=4, size={"height": 32, "width": 32}), tokenizer)
    torch.manual_seed(0)
    for name in ("svitt-base", "answerer"):
        model_class = SViTTForVideoQuestionAnswering if name == "answerer" else SViTTForVideoTextRetrieval
        model_class(config).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    for copy in ("blip", "blip-search", "blip-large", "out"):
        shutil.copytree(folder / "svitt-base", folder / copy)
    for name in ("beit", "bert"):
        shutil.copytree(folders / name, folder / f"{name}-folder")
    return folder


@pytest.fixture(scope="module")
def indexed(clone):
    with pytest.MonkeyPatch.context() as patch:
        for index in ("my_index", "svitt_index", "blip_index"):
            run(["svitt", "index", "videos", "--model", "svitt-base", "--index", index], clone, patch)
    return clone


def run(words, folder, monkeypatch):
    """Run a command of a page in this process."""
    AcceleratorState._reset_state(True)  # private, but nothing else lets a process begin a second run
    words = words[words[0] == "python" :]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", words)
    code = 0
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module(MAINS[words[0]]).main()
        except SystemExit as end:
            code = end.code
    assert not code


@pytest.mark.parametrize("words", RUN)
def test_commands_run(words, indexed, monkeypatch):
    run(words, indexed, monkeypatch)


# Those of the tutorial run in test_commands.py.
PYTHON = {
    page: re.findall(r"```python\n(.*?)```(?:\s+```text\n(.*?)```)?", page.read_text(), re.DOTALL)
    for page in PAGES
    if page.stem not in ("tutorial", "ecosystem")
}
# What data.md trains on, a command that starts processes has packed.
PYTHON_OF = [
    pytest.param(blocks, id=page.stem, marks=[pytest.mark.slow] if page.stem == "data" else [])
    for page, blocks in PYTHON.items()
    if blocks
]


@pytest.mark.parametrize("blocks", PYTHON_OF)
def test_python_runs_and_prints_what_the_page_shows(blocks, indexed, monkeypatch, capsys):
    monkeypatch.chdir(indexed)
    names = {"processor": SViTTProcessor.from_pretrained("svitt-base")}
    for code, shown in blocks:
        if "s3://" not in code:  # test_search.py runs that
            exec(code, names)
            printed = capsys.readouterr().out
            assert not shown or printed == shown


def test_the_readme_has_the_tiny_models_results():
    results = json.loads((TINY / "search/results.json").read_text())["test"]
    model, chance = results["itm"], results["chance"]
    line = f"R@1 {model['img_r1']:.1f} %, R@5 {model['img_r5']:.1f} %; by chance {chance['img_r1']:.1f} %"
    assert line in (ROOT / "README.md").read_text()


def test_the_notebook_shows_what_its_cells_print(monkeypatch, capsys):
    """Cell by cell, as a kernel does: what a last line is worth is shown."""
    monkeypatch.chdir(ROOT / "examples")
    names: dict = {}
    for cell in json.loads(Path("notebook.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            body = ast.parse("".join(cell["source"])).body
            last = body.pop() if isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), "cell", "exec"), names)
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
            printed = capsys.readouterr().out + ("" if value is None else repr(value))
            outputs = [output.get("text") or output["data"]["text/plain"] for output in cell["outputs"]]
            assert printed == "".join(line for output in outputs for line in output)


@pytest.mark.slow
def test_make_tiny_takes_what_make_demo_wrote(demo, tmp_path, monkeypatch):
    shutil.copytree(demo / "data", tmp_path / "demo/data")
    options = options_of(demo, tmp_path / "demo/out", num_train_epochs=1) | captions_of(demo, "train", "test")
    assert run_script("retrieval", **options).code == 0
    monkeypatch.setattr(sys, "argv", ["make_tiny_folder.py", str(tmp_path / "demo"), str(tmp_path / "tiny")])
    runpy.run_path(str(ROOT / "examples/make_tiny_folder.py"), run_name="__main__")
    model = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "tiny/search")
    trained = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "demo/out")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, trained.state_dict()[name].half().float(), rtol=0, atol=0)
    rows = json.loads((tmp_path / "tiny/test.json").read_text())
    assert len(rows) == 12 and all((tmp_path / "tiny/videos" / row["video"]).exists() for row in rows)
    assert not list((tmp_path / "tiny/search").glob("*.py"))
