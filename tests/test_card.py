# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Model cards: metadata that the Hub reads, a snippet that runs, and nothing about the machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from huggingface_hub import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from transformers import BertTokenizer

from svitt import (
    SViTTForPreTraining,
    SViTTForVideoClassification,
    SViTTForVideoQuestionAnswering,
    SViTTProcessor,
    SViTTVideoProcessor,
)
from svitt.training.card import without_machine_paths, write_card

from .unit.test_modeling import task_model

PRINTED = {  # how what the snippet prints begins
    SViTTForPreTraining: "tensor([[",
    SViTTForVideoQuestionAnswering: "[",
    SViTTForVideoClassification: "LABEL_",
}
RESULTS = {"msrvtt test, zero-shot": {"txt_r1": 12.5, "r_mean": 33.333333}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory of a run, with the folder of a model."""
    monkeypatch.chdir(tmp_path)
    task_model(SViTTForPreTraining).save_pretrained(tmp_path / "out")
    return tmp_path / "out"


def write(folder, **arguments):
    arguments = {
        "title": "SViTT small",
        "summary": "Trained.",
        "settings": {},
        "results": {},
        "command": ["run.py"],
    } | arguments
    return write_card(folder, **arguments).read_text()


def test_metadata_is_what_the_hub_reads(folder):
    chance = {"chance": {"txt_r1": 0.1}}
    names = ["friedrichor/MSR-VTT", str(folder / "mine.json")]
    text = write(
        folder, results=RESULTS, baselines=chance, datasets=names, base_model="user/towers", model_id="user/svitt"
    )
    metadata = metadata_load(folder / "README.md")
    assert metadata["library_name"] == "transformers" and metadata["license"] == "mit" and metadata["language"] == "en"
    assert metadata["pipeline_tag"] == "feature-extraction" and metadata["metrics"] == ["recall"]
    assert metadata["datasets"] == ["friedrichor/MSR-VTT"] and metadata["base_model"] == "user/towers"
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "user/svitt" and {result.dataset_name for result in results} == set(RESULTS)
    assert {result.metric_type: result.metric_value for result in results} == {"txt_r1": 12.5, "r_mean": 33.3333}
    assert (
        "| msrvtt test, zero-shot | 12.50 | 33.33 |" in text and "| chance | 0.10 |  |\n\nIn percent. `txt_r1`" in text
    )
    assert "Data: friedrichor/MSR-VTT, out/mine.json" in text


def test_settings_losses_and_versions_can_be_read_back(folder):
    settings = {
        "learning_rate": 1e-4,
        "num_frames": 4,
        "video_dir": folder.parent / "videos",
        "stages": [{"epochs": 1}],
    }
    losses = [{"epoch": 1, "loss": 9.12345678, "loss_itm": 0.6}, {"epoch": 2, "loss": 8.0, "loss_itm": 0.5}]
    text = write(folder, settings=settings, losses=losses)
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]
    assert yaml.safe_load(block) == settings | {"video_dir": "videos"}
    assert "| epoch | loss | loss_itm |\n| --- | ---: | ---: |\n| 1 | 9.12346 | 0.6 |\n| 2 | 8 | 0.5 |" in text
    assert "1 process on CPU" in text and re.search(r"svitt \d.*, torch 2.*, transformers 5.*, datasets 5", text)
    assert "## Results" not in text and "model-index" not in metadata_load(folder / "README.md")


def test_nothing_tells_about_the_machine(folder):
    home = str(Path.home() / "projects/data set")
    command = [f"{home}/run_pretraining.py", "--data_dir", home, f"--cache={folder}/cache", "--x", "a:/mnt/b", "../c/d"]
    settings = {
        "data_dir": Path(home),
        "shards": "file:///mnt/disk/{0..9}.tar",
        "note": f"see {folder}/x and https://a.b/c/d",
    }
    text = write(folder, settings=settings, command=command, base_model=str(folder), datasets=[home])
    for private in (str(folder.parent), str(Path.home()) + "/", "/mnt", "projects", "../"):
        assert private not in text.replace("https://", ""), private
    assert "run_pretraining.py --data_dir 'data set' --cache=out/cache" in text
    assert "see out/x and https://a.b/c/d" in text and "Started from: out" in text
    assert "base_model" not in metadata_load(folder / "README.md")


def test_paths_that_stay():
    values = ["user/name", "video/mp4", "https://hf.co/a/b", "1/2", "configs/ddp.yaml", "a - b", "hf://datasets/a", ""]
    assert without_machine_paths(values) == values
    assert without_machine_paths({"a": (1, None, True, 0.5)}) == {"a": [1, None, True, 0.5]}


@pytest.mark.slow
@pytest.mark.parametrize("model_class", PRINTED)
def test_snippet_runs_where_only_transformers_is_known(model_class, tmp_path, monkeypatch):
    folder, words = tmp_path / "out", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "moves", *"bcdefghijk"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate([*words, *map(str, range(60 - len(words)))])})
    task_model(model_class, decoder_config={"num_hidden_layers": 1}).save_pretrained(folder)
    processor = SViTTVideoProcessor(num_frames=3, size={"height": 32, "width": 32})
    SViTTProcessor(processor, tokenizer).save_pretrained(folder)
    with av.open(str(tmp_path / "video.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 32
        for i in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    snippet = re.search(r"```python\n(.*?)```", write(folder), re.DOTALL)[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ""}
    command = [sys.executable, "-c", snippet]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(PRINTED[model_class])
