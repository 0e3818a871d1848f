# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Models where none is named: downloaded from a Hub on this machine, checked, converted once; and what may go wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import BertTokenizer, BlipConfig, BlipForImageTextRetrieval, BlipForQuestionAnswering

from svitt import SViTTAnswerer, SViTTForVideoQuestionAnswering
from svitt.conversion.defaults import DEFAULTS, default_model
from svitt.errors import InputError, OutputError
from svitt.search import SViTTIndex

from ..hub_server import serve

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue green circle square hops moves what color is it ?".split()
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SIZE |= {"initializer_range": 0.5}  # else a video makes no difference to the last digit
TEXT = {"vocab_size": len(WORDS) + 2, "bos_token_id": len(WORDS), "sep_token_id": 3, "eos_token_id": 3}
QUESTION = "what color is it?"


@pytest.fixture(scope="module")
def blips(tmp_path_factory):
    """Folders of tiny random BLIPs, by the names of the default models."""
    config = BlipConfig(
        text_config=SIZE | TEXT | {"encoder_hidden_size": 32, "max_position_embeddings": 40},
        vision_config=SIZE | {"image_size": 32, "patch_size": 8},
        image_text_hidden_size=16,
    )
    torch.manual_seed(0)
    folders = {}
    for task, model_class in (("search", BlipForImageTextRetrieval), ("ask", BlipForQuestionAnswering)):
        folder = folders[DEFAULTS[task]] = tmp_path_factory.mktemp(task)
        model_class(config).save_pretrained(folder)
        BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
        statistics = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
        (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
        (folder / "tf_model.h5").write_text("not to be downloaded")
    return folders


@pytest.fixture
def hub(blips):
    with serve(blips) as (address, faults):
        yield address, faults


@pytest.fixture
def home(hub, tmp_path, monkeypatch):
    """An empty cache of this process, which asks the local Hub."""
    use_home(tmp_path / "home", monkeypatch)
    monkeypatch.setattr(constants, "ENDPOINT", hub[0])
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub[0] + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "home"


def use_home(folder: Path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))


def in_a_fresh_process(*words, folder: Path, **environment) -> str:
    command = [sys.executable, "-m", "svitt.cli", *map(str, words)]
    environment = os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights_in(folder: Path) -> list[str]:
    """Files that a second call could take for whole."""
    return sorted(str(path) for path in folder.rglob("*.safetensors"))


# ---- In one command


@pytest.mark.slow
def test_search_and_ask_without_naming_a_model(demo, hub, tmp_path):
    videos, home = demo / "data/videos", tmp_path / "home"
    online = {"folder": tmp_path, "HF_HOME": str(home), "HF_ENDPOINT": hub[0], "HF_HUB_OFFLINE": "0"}
    offline = online | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    video = videos / "val_00000.mp4"
    assert "1 added" in in_a_fresh_process("index", video, **online)
    assert (tmp_path / "svitt_index/index.json").is_file()
    assert str(video) in in_a_fresh_process("search", "a red circle hops", **offline)
    assert not list(home.rglob("*.h5"))

    asked = ["ask", video, QUESTION, "--json"]
    [free] = json.loads(in_a_fresh_process(*asked, **online))
    assert free["probability"] is None
    answers = json.loads(in_a_fresh_process(*asked, "--options", "red", "blue", "green", "--top_k", "2", **offline))
    assert len(answers) == 2 and answers[0]["probability"] >= answers[1]["probability"] > 0


def test_a_model_is_converted_once_and_needs_no_network_then(home, hub, blips):
    folder = default_model("ask")
    before = Path(folder, "model.safetensors").stat()
    shutil.rmtree(home / "hub")
    hub[1].add("cut")
    assert default_model("ask") == folder and Path(folder, "model.safetensors").stat() == before
    assert SViTTForVideoQuestionAnswering.from_pretrained(folder).config.vision_config.num_frames == 8
    assert sorted(path.name for path in (home / "svitt/blip-vqa-base").iterdir()) == [Path(folder).name, "lock"]


def test_weights_may_be_an_older_file(home, blips, tmp_path, monkeypatch):
    name = DEFAULTS["search"]
    shutil.copytree(blips[name], tmp_path / "older")
    torch.save(load_file(tmp_path / "older/model.safetensors"), tmp_path / "older/pytorch_model.bin")
    (tmp_path / "older/model.safetensors").unlink()
    expected = load_file(Path(default_model("search"), "model.safetensors"))
    monkeypatch.setitem(blips, name, tmp_path / "older")
    use_home(tmp_path / "other", monkeypatch)
    found = load_file(Path(default_model("search"), "model.safetensors"))
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


@torch.no_grad()
def test_hits_are_ranked_as_by_the_classes_of_transformers(home, blips, demo, tmp_path):
    """Frames encoded one by one, their embeddings averaged, all of their tokens joined for the score."""
    videos = [str(path) for path in sorted((demo / "data/videos").glob("val_*"))]
    index, stored = SViTTIndex.create(tmp_path / "index", tokens="none"), SViTTIndex.create(tmp_path / "stored")
    index.add(videos)
    stored.add(videos)
    hits = {hit.video: hit for hit in index.search("a red circle hops", top_k=8)}
    kept = {hit.video: hit.score for hit in stored.search("a red circle hops", top_k=8)}
    blip = BlipForImageTextRetrieval.from_pretrained(blips[DEFAULTS["search"]]).eval()
    words = index.processor(text=["a red circle hops"], return_tensors="pt")
    pixels = index.processor(videos=videos, return_tensors="pt")["pixel_values"]
    frames = blip.vision_model(pixels.flatten(0, 1)).last_hidden_state
    video_embeds = normalize(blip.vision_proj(frames[:, 0]), dim=-1).unflatten(0, (len(videos), 8)).mean(dim=1)
    text_embeds = normalize(blip.text_proj(blip.text_encoder(**words).last_hidden_state[:, 0]), dim=-1)
    ids = words["input_ids"].repeat(len(videos), 1)
    ids[:, 0] = TEXT["bos_token_id"] + 1  # [ENC]
    tokens = frames.unflatten(0, (len(videos), 8)).flatten(1, 2)
    scores = blip.itm_head(blip.text_encoder(ids, encoder_hidden_states=tokens).last_hidden_state[:, 0])[:, 1]
    similarities = (video_embeds @ text_embeds.T)[:, 0]
    assert [hits[video].similarity for video in videos] == pytest.approx(similarities.tolist(), abs=1e-5)
    assert [hits[video].score for video in videos] == pytest.approx(scores.tolist(), abs=1e-5)
    assert [kept[video] for video in videos] == pytest.approx(scores.tolist(), abs=1e-2)
    assert list(hits) == [videos[i] for i in scores.argsort(descending=True)]
    assert scores.max() - scores.min() > 0.01  # else order would mean nothing


ALONE = [
    ({"options": options}, "`options` must be two answers or more, got only") for options in ("red,blue", ["red,blue"])
]


def test_answers(home, demo, tmp_path):
    answerer, video = SViTTAnswerer(), demo / "data/videos/val_00000.mp4"
    [free] = answerer.answer(video, QUESTION)
    assert free.probability is None
    answers = answerer.answer(video, QUESTION, ["red", "blue", "red", "green circle"], top_k=9)
    assert sorted(one.answer for one in answers) == ["blue", "green circle", "red"]
    assert sum(one.probability for one in answers) == pytest.approx(1, abs=1e-5)
    [best, _] = answerer.answer(video, QUESTION, ["red", "blue", "green circle"], top_k=2)
    assert best == answers[0]
    part = answerer.answer(video, QUESTION, ["red", "blue"], start=0.5, end=1)
    assert dict(part) != pytest.approx(dict(answerer.answer(video, QUESTION, ["red", "blue"])), abs=1e-6)
    shutil.copytree(default_model("ask"), tmp_path / "listed")
    (tmp_path / "listed/answer_list.json").write_text('["red", "blue"]')
    [one, other] = SViTTAnswerer(str(tmp_path / "listed"), num_frames=2).answer(video, QUESTION)
    assert {one.answer, other.answer} == {"red", "blue"}
    for options, words in (
        ({"question": " "}, "no question"),
        ({"top_k": 0}, "`top_k`"),
        ({"end": -1}, "`end`"),
        *ALONE,
    ):
        with pytest.raises(InputError, match=words):
            answerer.answer(**{"video": video, "question": QUESTION} | options)


def test_a_model_of_the_other_kind_is_a_sentence(home, tmp_path):
    with pytest.raises(
        InputError, match="is a SViTTForVideoTextRetrieval, but a SViTTForVideoQuestionAnswering is needed"
    ):
        SViTTAnswerer(default_model("search"))
    with pytest.raises(
        InputError, match="but a SViTTForVideoTextRetrieval or SViTTForPreTraining or SViTTModel is needed"
    ):
        SViTTIndex.create(tmp_path / "index", default_model("ask"))


# ---- What goes wrong


@pytest.mark.parametrize("fault", ["cut", "damaged", "offline", "no network"])
def test_a_failed_download_is_a_sentence_and_the_next_one_works(home, hub, monkeypatch, fault):
    with monkeypatch.context() as patches:
        hub[1].add(fault)
        if fault == "offline":
            patches.setattr(constants, "HF_HUB_OFFLINE", True)
        if fault == "no network":
            patches.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        words = "hash" if fault == "damaged" else "call `svitt convert Salesforce/blip-itm-base-coco FOLDER`"
        with pytest.raises(InputError, match=words) as error:
            default_model("search")
    assert "\n" not in str(error.value) and str(error.value).count(". ") == 0, error.value
    assert weights_in(home) == []
    hub[1].clear()
    folder = default_model("search")
    assert "model.safetensors" in os.listdir(folder)


def test_a_full_disk_is_a_sentence_and_leaves_no_half_of_a_model(home, hub, blips, small_disk, monkeypatch):
    needed = sum(path.stat().st_size for path in blips[DEFAULTS["search"]].iterdir()) // 1024
    for kilobytes in (needed // 2, needed * 3 // 2):  # full when downloading, when converting
        disk = small_disk(kilobytes)
        use_home(disk, monkeypatch)
        with pytest.raises(OutputError, match="HF_HOME can name a folder on another disk") as error:
            default_model("search")
        assert "\n" not in str(error.value)
        assert weights_in(disk / "svitt") == []
    small_disk(needed * 5)
    assert Path(default_model("search"), "config.json").is_file()


@pytest.mark.slow
def test_of_two_processes_one_makes_the_model(home, hub):
    """The second waits for the lock, and then finds the folder."""
    place = home / "svitt/blip-vqa-base"
    place.mkdir(parents=True)
    code = "from svitt.conversion.defaults import default_model; print(default_model('ask'))"
    environment = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": hub[0]}
    with FileLock(place / "lock"):
        two = [
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
            for _ in range(2)
        ]
    folders = {process.communicate(timeout=600)[0].strip() for process in two}
    assert [process.returncode for process in two] == [0, 0] and len(folders) == 1
    assert sorted(os.listdir(place)) == [Path(folders.pop()).name, "lock"]
