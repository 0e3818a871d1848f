# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Presets: each loads from files laid out as the original's users have them; faults are sentences."""

import json
import re
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path

import pytest

from svitt.data.presets import PRESETS, DatasetArguments, load_preset, preset_names
from svitt.errors import InputError
from svitt.training.options import parse_options

# Frames in training and evaluation, shares of tokens kept in videos and in fusion, learning rate.
PAPER_NAMES = ("num_frames", "num_frames_test", "token_keep_rate", "fusion_token_keep_rate", "learning_rate")
PAPER = {
    "pretraining": (4, 4, 0.7, 0.1, 3e-5),
    "webvid_expansion": (8, 8, 0.6, 0.1, 3e-5),
    "retrieval": (4, 12, 0.7, 0.1, 1e-5),
    "msrvtt_mc": (4, 12, 0.7, 0.1, None),
    "videoqa": (8, 24, 0.6, 0.5, 1e-5),
}
SPLITS = {
    ("pretraining", "webvid"): {"train": "webvid_train", "msrvtt_test1k": "msrvtt_test1k"},
    ("pretraining", "webvid_expansion"): {"train": "webvid_train", "msrvtt_test1k": "msrvtt_test1k"},
    ("retrieval", "msrvtt"): {"train": "msrvtt_ret_train9k", "test": "msrvtt_ret_test1k"},
    ("retrieval", "didemo"): {"train": "didemo_ret_train", "val": "didemo_ret_val", "test": "didemo_ret_test"},
    ("retrieval", "charades"): {"train": "charades-script_train", "test": "charades-script_test"},
    ("retrieval", "ssv2_label"): {"train": "ssv2_ret_label_train", "val_small": "ssv2_ret_label_val_small"},
    ("retrieval", "ssv2_template"): {"train": "ssv2_ret_template_train", "val_small": "ssv2_ret_template_val_small"},
    ("retrieval", "anet"): {"train": "anet_ret_train", "val_1": "anet_ret_val_1", "test": "anet_ret_test"},
    ("retrieval", "msrvtt_mc"): {"test": "msrvtt_mc_test"},
    ("videoqa", "msrvtt_qa"): {"train": "msrvtt_qa_train", "val": "msrvtt_qa_val", "test": "msrvtt_qa_test"},
    ("videoqa", "anet_qa"): {"train": "anet_qa_train", "val": "anet_qa_val", "test": "anet_qa_test"},
    ("videoqa", "agqa"): {"train": "agqa_train_balanced", "test": "agqa_test_balanced"},
}


@pytest.mark.parametrize(("task", "name"), SPLITS)
def test_a_preset_has_the_papers_settings_and_the_originals_files(tmp_path, task, name):
    preset = load_preset(task, name, tmp_path)
    assert tuple(map(preset.settings.get, PAPER_NAMES)) == PAPER.get(name, PAPER[task])
    assert list(preset.splits) == list(SPLITS[task, name])
    for file, split in zip(SPLITS[task, name].values(), preset.splits.values(), strict=True):
        dataset = re.match("[a-z0-9]+", file)[0].replace("agqa", "charades")
        folder = tmp_path / ("anno_pretrain" if file == "webvid_train" else "anno_downstream")
        assert (split.annotation, split.videos) == (folder / f"{file}.json", tmp_path / f"{dataset}_videos")
    answers = tmp_path / f"anno_downstream/{name}_answer_list.json"
    assert preset.answer_list == (answers if task == "videoqa" else None)


def test_every_preset_is_tested():
    tasks = ("pretraining", "retrieval", "videoqa")
    files = {(task, name): PRESETS / task / f"{name}.yaml" for task in tasks for name in preset_names(task)}
    others = {key for key, file in files.items() if "settings_of" in file.read_text() or key[1] == "nextqa"}
    assert files.keys() - others == set(SPLITS) | set(LAYOUTS)  # the others are those of `test_published.py`


# ---- One's own files


def own(folder, content):
    path = folder / "own.yaml"
    path.write_text(content)
    return path


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/metadata.jsonl").write_text('{"file_name": "a.mp4", "text": "x"}\n')
    (tmp_path / "clips/a.mp4").touch()
    (tmp_path / "images.json").write_text('[{"image": "a.mp4", "title": "y"}]')
    content = """
    splits:
      train: {annotation: clips}
      train_images: {annotation: images.json, videos: clips, medium: image, columns: {caption: title}}
      train_shards: {shards: ["a-*.tar", "s3://b/*.tar"]}
      test: {annotation: clips, rows: captions}
    settings: {num_frames: 2}
    """
    preset = load_preset("pretraining", own(tmp_path, content))
    train, images, shards, _ = preset.splits.values()
    assert train.load()["caption"][:] == [["x"]] and train.medium == "video"
    assert images.load()["caption"][:] == [["y"]] and images.medium == "image"
    assert images.load()["video"][0]["path"] == str(tmp_path / "clips/a.mp4")
    assert shards.shards == [str(tmp_path / "a-*.tar"), "s3://b/*.tar"]
    elsewhere = load_preset("pretraining", own(tmp_path, content), "elsewhere")
    assert elsewhere.splits["train"].annotation == Path("elsewhere/clips")


TEST = "splits: {test: {annotation: a.json, videos: v}}"


@dataclass
class ScriptArguments:
    """Options as scripts have them."""

    output_dir: str
    k_test: int = 128
    num_epochs: float = 1.0
    evaluate_only: bool = False
    eval_x_only: bool = False
    larger_lr: float | None = None
    larger_lr_names: list[str] = field(default_factory=list)
    fusion_token_keep_rate: float | None = None
    ensemble: str = field(default="lse", metadata={"choices": ["lse", "mean"]})


def parse(*args, task="retrieval"):
    """The dataset, its options and those of the script."""
    preset, groups = parse_options((DatasetArguments, ScriptArguments), task, args=[*map(str, args)])
    return preset, *groups


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("splits: [", "own.yaml: cannot be read as YAML"),
        ("", "own.yaml: must be a mapping, got None"),
        ("splits: [a.json]", "own.yaml, splits: must be a mapping"),
        ("split: {}", "own.yaml: there is no `split`, but: splits, settings, settings_of, answer_list"),
        ("splits: {test: {anotation: a.json}}", "split test: there is no `anotation`, but: .*annotation, videos"),
        ("splits: {test: {annotation: a.json, allow_outside: true}}", "split test: there is no `allow_outside`"),
        ("splits: {test: a.json}", "split test: must be a mapping"),
        ("splits: {test: {annotation: [a, b]}}", "split test: .*'annotation' expected str, got list"),
        ("splits: {test: {videos: v}}", "split test: .*must have one of annotation, hub and shards"),
        ("splits: {test: {annotation: a.json, hub: b/c}}", "must have one of annotation, hub and shards"),
        ("splits: {test: {annotation: a.json, medium: film}}", "'medium' expected .*video.*image.*, got film"),
        ("splits: {test: {annotation: a.json, columns: {caption: 5}}}", "split test: .*'columns'"),
        (f"{TEST}\nsettings: {{k_tests: 4}}", "own.yaml: there is no `k_tests`, but: .*k_test"),
        (f"{TEST}\nsettings: {{k_tes: 4}}", "own.yaml: there is no `k_tes`"),
        (f"{TEST}\nsettings: {{allow_outside: true}}", "own.yaml: there is no `allow_outside`"),
    ],
)
def test_faults_of_ones_own_file(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as raised:
        parse("--dataset_file", own(tmp_path, content), "--output_dir", "o")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("k_test: 4.5", "k_test.*: invalid int value: '4.5'"),
        ("k_test: [4, 5]", "unrecognized arguments: 5"),
        ("eval_x_only: maybe", "eval_x_only.*maybe"),
        ("ensemble: sum", "ensemble.*: invalid choice: 'sum'"),
    ],
)
def test_settings_of_a_wrong_type_are_options_of_a_wrong_type(tmp_path, capsys, setting, message):
    with pytest.raises(SystemExit, match="2"):
        parse("--dataset_file", own(tmp_path, f"{TEST}\nsettings: {{{setting}}}"), "--output_dir", "o")
    assert re.search(message, capsys.readouterr().err)


def test_evaluation_leaves_dropping_in_fusion_to_the_model():
    """A converted checkpoint, which the original evaluates with all tokens in fusion, is evaluated so here."""
    options = [(name, str, None) for name in load_preset("retrieval", "didemo").settings]
    settings = make_dataclass("Settings", [*options, ("evaluate_only", bool, False)])

    def rate(*args, name="didemo"):
        groups = DatasetArguments, settings
        return parse_options(groups, "retrieval", args=["--dataset", name, *args])[1][1].fusion_token_keep_rate

    assert rate() == rate("--evaluate_only", "False") == "0.1"
    assert rate("--evaluate_only") is rate(name="msrvtt_mc") is None
    assert rate("--evaluate_only", "--fusion_token_keep_rate", "0.2") == "0.2"


def test_settings_are_defaults_that_a_configuration_and_the_command_line_override(tmp_path):
    settings = "{k_test: 7, num_epochs: 1e-4, eval_x_only: true, larger_lr: null, larger_lr_names: [bias, cls]}"
    file = own(tmp_path, f"{TEST}\nsettings: {settings}")
    preset, _, script = parse("--dataset_file", file, "--output_dir", "o", "--num_epochs", "3")
    assert preset.splits["test"].videos == tmp_path / "v"
    assert (script.k_test, script.eval_x_only, script.num_epochs, script.larger_lr) == (7, True, 3, None)
    assert script.larger_lr_names == ["bias", "cls"]
    _, _, script = parse("--dataset_file", file, "--output_dir", "o", "--k_test", "5", "--eval_x_only", "False")
    assert (script.k_test, script.eval_x_only) == (5, False)

    (tmp_path / "run.yaml").write_text(f"dataset_file: {file}\nk_test: 8\noutput_dir: here\nlarger_lr_names: [x]\n")
    preset, dataset, script = parse("--config", tmp_path / "run.yaml", "--ensemble", "mean")
    assert preset.origin == dataset.dataset_file == str(file)
    assert (script.output_dir, script.k_test, script.num_epochs, script.ensemble) == ("here", 8, 1e-4, "mean")
    assert script.larger_lr_names == ["x"] and script.eval_x_only
    (tmp_path / "run.yaml").write_text("k_tests: 4")
    with pytest.raises(InputError, match="run.yaml: there is no `k_tests`"):
        parse("--config", tmp_path / "run.yaml", "--output_dir", "o")
    preset, _, script = parse("--output_dir", "o", "--k_test", "5")
    assert (preset.splits, script.eval_x_only) == ({}, False)


def test_files_of_the_command_line_beside_those_of_the_dataset(tmp_path):
    file = own(tmp_path, "splits: {train: {annotation: a}, test: {annotation: b, videos: v, rows: multiple_choice}}")
    options = ["--dataset_file", file, "--train_file", "mine.json", "--allow_outside", "--output_dir", "o"]
    preset, dataset, _ = parse(*options)
    splits = dataset.splits(preset, "captions", "multiple_choice")
    assert splits["train"].annotation == Path("mine.json") and splits["test"].videos == tmp_path / "v"
    assert all(split.allow_outside for split in splits.values())
    with pytest.raises(InputError, match="split test: it has multiple_choice, but this takes captions"):
        dataset.splits(preset, "captions")
    for folder in ("there", "s3://bucket/videos"):
        preset, dataset, _ = parse(*options, "--video_dir", folder)
        assert {split.videos for split in dataset.splits(preset, "captions", "multiple_choice").values()} == {folder}


def test_what_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="msrvt: there is no such dataset for retrieval, but: anet, anet_published"):
        load_preset("retrieval", "msrvt")
    with pytest.raises(InputError, match="none.yaml: cannot be read"):
        load_preset("retrieval", tmp_path / "none.yaml")
    monkeypatch.chdir(tmp_path)  # where data are by default
    empty = load_preset("retrieval", "anet").splits["val_1"]
    with pytest.raises(InputError, match="anet_videos: there is no such folder of videos"):
        empty.load()
    Path("anet_videos").mkdir()
    with pytest.raises(InputError, match="anno.*/anet_ret_val_1.json: there is no such"):
        empty.load()
    with pytest.raises(InputError, match="Give one of --dataset and --dataset_file"):
        parse("--dataset", "anet", "--dataset_file", "a.yaml", "--output_dir", "o")


# ---- Files of others, beside the original's


IMAGE = {"image": "val2014/1.jpg", "caption": ["a cat.", "a red cat."]}
FILM = {"video": "0001_Film/0001_Film_1-2.avi", "caption": "a cat plays."}
CLIP = {"video": "x_1_9.avi", "caption": ["a cat plays", "it runs"]}
GIF = {"gif_name": "tumblr_1", "question": "what plays ?", "answer": "cat", "answer_type": "object"}
OPTIONS = ["run", "play", "sit", "sleep", "eat"]
DO = {"gif_name": "tumblr_1", "question": "what does it do ?", "options": OPTIONS, "answer": 1}
VATEX = {"videoID": "x_000001_000011", "enCap": ["a cat plays.", "it runs."], "chCap": ["\u732b\u3002"]}
DONE = {"question": "what does it do ?", "options": OPTIONS, "answer": ["play"]}
# Annotation (of the splits train, val, test), folder of videos, a row as published; its video, and what is read of it.
LAYOUTS = {
    ("retrieval", "coco"): ("coco_{}.json", "coco_images", IMAGE, "val2014/1.jpg", {"caption": IMAGE["caption"]}),
    ("retrieval", "flickr30k"): (
        "flickr30k_{}.json",
        "flickr30k_images",
        {"image": "flickr30k-images/1.jpg", "caption": "a cat.", "image_id": 0},
        "flickr30k-images/1.jpg",
        {"caption": ["a cat."]},
    ),
    ("retrieval", "msvd"): ("msvd_ret_{}.json", "msvd_videos", CLIP, "x_1_9.avi", {"caption": CLIP["caption"]}),
    ("retrieval", "lsmdc"): ("lsmdc_ret_{}.json", "lsmdc_videos", FILM, FILM["video"], {"caption": ["a cat plays."]}),
    ("retrieval", "vatex"): (
        "vatex_{}.json",
        "vatex_videos",
        VATEX,
        "x_000001_000011.mp4",
        {"caption": VATEX["enCap"]},
    ),
    ("videoqa", "msvd_qa"): (
        "msvd_qa_{}.json",
        "msvd_videos",
        {"video": "x_1_9.avi", "question": "who plays?", "answer": "cat", "question_id": 3},
        "x_1_9.avi",
        {"question": "who plays?", "answer": ["cat"], "question_id": 3},
    ),
    ("videoqa", "tgif_frameqa"): (
        "tgif_qa/frameqa_{}.jsonl",
        "tgif_videos",
        GIF,
        "tumblr_1.gif",
        {"question": "what plays ?", "answer": ["cat"], "question_type": ["object"], "question_id": 0},
    ),
    ("videoqa", "tgif_action"): ("tgif_qa/action_{}.jsonl", "tgif_videos", DO, "tumblr_1.gif", DONE),
    ("videoqa", "tgif_transition"): ("tgif_qa/transition_{}.jsonl", "tgif_videos", DO, "tumblr_1.gif", DONE),
}
OTHER_NAMES = {
    ("lsmdc", "test"): "test_1000",
    ("vatex", "train"): "training_v1.0",
    ("vatex", "val"): "validation_v1.0",
    ("vatex", "test"): "public_test_english_v1.1",
}


@pytest.mark.parametrize(("task", "name"), LAYOUTS)
def test_a_preset_loads_from_the_layout_of_others(tmp_path, task, name):
    file, folder, row, video, expected = LAYOUTS[task, name]
    preset = load_preset(task, name, tmp_path)
    assert list(preset.splits) == ["train", "val", "test"] and preset.settings["stop_key"] == "val"
    assert (preset.answer_list is not None) == (name == "msvd_qa")
    (tmp_path / folder / video).parent.mkdir(parents=True)
    (tmp_path / folder / video).touch()
    for split_name, split in preset.splits.items():
        name_of_split = OTHER_NAMES.get((name, split_name), split_name)
        assert split.annotation == tmp_path / "anno_downstream" / file.format(name_of_split)
        split.annotation.parent.mkdir(parents=True, exist_ok=True)
        split.annotation.write_text(json.dumps(row) if file.endswith("l") else json.dumps([row]))
        [read] = split.load()
        assert read["video"]["path"] == str(tmp_path / folder / video)
        assert {key: read[key] for key in expected} == expected


def test_settings_of_others_are_some_of_the_papers():
    """So that scripts take them; none says how sparse a model is, which may be one of images."""
    for task, name in LAYOUTS:
        known = load_preset(task, {"retrieval": "didemo", "videoqa": "msrvtt_qa"}[task]).settings
        assert load_preset(task, name).settings.keys() <= known.keys() - {"token_keep_rate", "fusion_token_keep_rate"}
