# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Commands on small real files: convert, check, pack, index, search, explain; hostile checkpoints; the tutorial."""

import builtins
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, BeitConfig, BeitModel, BertConfig, BertModel, BertTokenizer

from ..conftest import GOLDEN
from . import surface
from .surface import ROOT, svitt

CONFIG = json.loads((GOLDEN / "case06_pretrain/config.json").read_text())["config"]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    BertTokenizer(vocab=str(GOLDEN / "case10b_tokenizer/vocab.txt")).save_pretrained(folder)
    return folder


def save_original(path, weights, **kwargs):
    """As the original saves, with its configuration in objects of OmegaConf: sizes of BERT are in a file elsewhere."""
    config = {field: value for field, value in CONFIG.items() if field not in ("vit_config", "bert_config")}
    config = OmegaConf.create({**config, "bert_config": "configs/config_bert.json"})
    torch.save({"model": weights, "config": config, "optimizer": {}, "epoch": 9}, path, **kwargs)


def convert(path, output, tokenizer):
    return svitt("convert", "checkpoint", path, output, tokenizer=tokenizer, text_config="num_attention_heads=4")


# ---- Weights

FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
TASKS = {
    "pretrain": surface.SViTTForPreTraining,
    "retrieval": surface.SViTTForVideoTextRetrieval,
    "vqa": surface.SViTTForVideoQuestionAnswering,
}


@pytest.mark.parametrize(("task", "kind"), [("pretrain", "zip"), ("retrieval", "legacy"), ("vqa", "zip")])
def test_an_original_checkpoint_is_converted(task, kind, tmp_path, tokenizer_folder):
    original = load_file(GOLDEN / f"_weights/{task}_tiny.safetensors")
    save_original(tmp_path / "x.pth", original, **FORMATS[kind])
    ended = convert(tmp_path / "x.pth", tmp_path / "model", tokenizer_folder)
    assert ended.code == 0, ended.err
    model, report = TASKS[task].from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    parameters = model.state_dict()
    for name, tensor in surface.convert_state_dict(original).items():
        assert torch.equal(parameters[name], tensor), name
    vision, text = model.config.vision_config, model.config.text_config
    assert (vision.num_frames, vision.attn_block_size, vision.token_keep_rate, vision.token_drop_loc) == (
        3, 8, 0.72, [1, 3]
    )  # fmt: skip
    assert (text.fusion_layer, text.vocab_size, text.bos_token_id, text.mask_token_id) == (2, 200, 2, 4)
    processor = AutoProcessor.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert processor.video_processor.num_frames == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "x.pth"]


def test_towers_are_joined_and_expanded(tmp_path, tokenizer_folder):
    size = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    beit = BeitConfig(**size, hidden_size=32, image_size=32, patch_size=8, use_relative_position_bias=True)
    BeitModel(beit).save_pretrained(tmp_path / "beit")
    BertModel(BertConfig(**size, hidden_size=24, vocab_size=200)).save_pretrained(tmp_path / "bert")
    BertTokenizer.from_pretrained(tokenizer_folder).save_pretrained(tmp_path / "bert")
    settings = {"num_frames": 2, "vision_config": "token_keep_rate=0.8"}
    ended = svitt("convert", "towers", tmp_path / "beit", tmp_path / "bert", tmp_path / "fresh", **settings)
    assert ended.code == 0, ended.err
    model = surface.SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "fresh")
    assert (model.config.vision_config.num_frames, model.config.vision_config.token_keep_rate) == (2, 0.8)
    ended = svitt("convert", "expand", tmp_path / "fresh", tmp_path / "longer", num_frames=4, token_keep_rate=0.6)
    assert ended.code == 0, ended.err
    model = surface.SViTTForPreTraining.from_pretrained(tmp_path / "longer")
    assert (model.config.vision_config.num_frames, model.config.vision_config.token_keep_rate) == (4, 0.6)
    assert surface.SViTTProcessor.from_pretrained(tmp_path / "longer").video_processor.num_frames == 4


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def calls(marker):
    return {
        "os.system": Call(os.system, f"touch {marker}"),
        "eval": Call(eval, f"__import__('pathlib').Path({str(marker)!r}).touch()"),
        "open": Call(builtins.open, str(marker), "w"),
        "subprocess": Call(subprocess.call, ["touch", str(marker)]),
    }


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("call", calls("/nowhere"))
def test_a_hostile_checkpoint_is_refused(call, kind, tmp_path, tokenizer_folder):
    marker, path = tmp_path / "marker", tmp_path / "x.pth"
    torch.save({"model": {"temp": torch.zeros(1)}, "epoch": calls(marker)[call]}, path, **FORMATS[kind])
    ended = convert(path, tmp_path / "model", tokenizer_folder)
    assert ended.code == 2 and "x.pth" in ended.err and "Traceback" not in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]
    torch.load(path, weights_only=False)  # others execute it
    assert marker.exists()


# ---- Data


@pytest.fixture
def captions(demo, tmp_path):
    """Annotations of four clips, one of them cut off, and their folder."""
    rows = json.loads((demo / "data/train.json").read_text())[:4]
    (tmp_path / "videos").mkdir()
    for row in rows:
        shutil.copy(demo / "data/videos" / row["video"], tmp_path / "videos")
    bad = tmp_path / "videos" / rows[2]["video"]
    bad.write_bytes(bad.read_bytes()[:1000])
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    return tmp_path / "captions.json"


def test_check_names_damaged_videos(captions, tmp_path):
    files = {"annotation_file": captions, "video_dir": tmp_path / "videos", "report": tmp_path / "bad.jsonl"}
    ended = svitt("check", **files, num_workers=1)
    assert ended.code == 1, ended.err
    [line] = (tmp_path / "bad.jsonl").read_text().splitlines()
    bad = json.loads(captions.read_text())[2]["video"]
    assert json.loads(line)["video"].endswith(bad) and bad in json.loads(line)["error"]


def test_packed_clips_are_whole_and_trained_on(captions, demo, tmp_path):
    files = {"annotation_file": captions, "video_dir": tmp_path / "videos", "output_dir": tmp_path / "shards"}
    ended = svitt("pack", **files, samples_per_shard=2, num_workers=1, bad_videos="skip")
    assert ended.code == 0, ended.err
    rows, contents = json.loads(captions.read_text()), []
    for path in sorted((tmp_path / "shards").glob("train-*.tar")):
        with tarfile.open(path) as tar:
            contents += [tar.extractfile(one).read() for one in tar if one.name.endswith(".mp4")]
    good = [(tmp_path / "videos" / row["video"]).read_bytes() for row in rows[:2] + rows[3:]]
    assert sorted(contents) == sorted(good)

    (tmp_path / "shards.yaml").write_text(f"splits: {{train: {{shards: '{tmp_path}/shards/train-*.tar'}}}}\n")
    options = {"model_name_or_path": demo / "model", "dataset_file": tmp_path / "shards.yaml", "max_steps": 2}
    trained = surface.run_script(
        "pretraining", **options, output_dir=tmp_path / "out", per_device_train_batch_size=2, warmup_steps=0
    )
    assert trained.code == 0, trained.err
    assert surface.SViTTForPreTraining.from_pretrained(tmp_path / "out").config.vision_config.num_frames == 4


# ---- Search


def test_index_search_and_explain(demo, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in sorted((demo / "data/videos").glob("val_*"))[:4]:
        shutil.copy2(path, videos)
    (videos / "broken.mp4").write_bytes(b"no video")
    words = {"model": demo / "model", "index": tmp_path / "index"}
    ended = svitt("index", videos, **words)
    assert ended.code == 0 and "broken.mp4" in ended.err, ended.err
    ended = svitt("search", tmp_path / "index", "a red circle hops", top_k=2, json=True)
    assert ended.code == 0, ended.err
    hits = json.loads(ended.out)
    assert len(hits) == 2 and all(os.path.isfile(hit["video"]) for hit in hits)
    assert hits[0]["score"] >= hits[1]["score"] and hits[0]["end"] > hits[0]["start"] >= 0
    found = svitt("search", tmp_path / "index", video=hits[1]["video"], top_k=1, json=True)
    assert os.path.samefile(json.loads(found.out)[0]["video"], hits[1]["video"])

    # A second time, what has vanished is forgotten and what is new is found.
    os.rename(hits[0]["video"], videos / "renamed.mp4")
    assert svitt("index", videos, **words).code == 0
    index = surface.open_index(tmp_path / "index")
    names = {os.path.basename(hit.video) for hit in index.search("a red circle hops", top_k=10)}
    assert len(names) == 4 and "renamed.mp4" in names and os.path.basename(hits[0]["video"]) not in names

    output = tmp_path / "maps.png"
    ended = svitt("explain", hits[1]["video"], model=demo / "model", text="a red circle hops", output=output)
    assert ended.code == 0 and Image.open(output).width > 100, ended.err


def test_what_is_wrong_is_one_sentence(demo, tmp_path):
    for ended, word in (
        (svitt("search", tmp_path / "nowhere", "a dog"), "nowhere"),
        (svitt("convert", "checkpoint", tmp_path / "none.pth", tmp_path / "out"), "none.pth"),
        (svitt("check", video_dir=tmp_path / "absent", report=tmp_path / "bad.jsonl"), "absent"),
        (svitt("explain", tmp_path / "none.mp4", model=demo / "model", output=tmp_path / "x.png"), "none.mp4"),
    ):
        assert ended.code == 2 and word in ended.err and "Traceback" not in ended.err, ended


# ---- The tutorial


def test_the_tutorial_prints_what_it_shows(tmp_path):
    """Top to bottom in one process, as a notebook would be."""
    page = (ROOT / "docs/tutorial.md").read_text()
    (tmp_path / "tutorial.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    environment = surface.environment() | {"EXAMPLES": str(ROOT / "examples")}
    command = [sys.executable, "tutorial.py"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=500)
    assert result.returncode == 0, result.stderr
    shown = "".join(re.findall(r"```text\n(.*?)```", page, re.DOTALL)).splitlines()
    assert len(shown) > 3 and [line for line in shown if line not in result.stdout.splitlines()] == []
