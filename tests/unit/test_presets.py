# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Presets: each loads from files laid out as the original's users have them; faults are sentences."""

import json
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from transformers import HfArgumentParser

from svitt.data.annotations import load_answer_list, retrieval_set, training_pairs
from svitt.data.presets import DatasetArguments, load_preset, parse_with_preset, preset_names
from svitt.errors import InputError
from svitt.processing_svitt import SViTTVideoProcessor

# What the paper's settings are, for all presets of a task and for each.
OPTIMIZATION = {"weight_decay": 0.02, "per_device_train_batch_size": 32}
RETRIEVAL = {"num_frames": 4, "num_frames_test": 12, "token_keep_rate": 0.7, "fusion_token_keep_rate": 0.1}
RETRIEVAL |= {"per_device_eval_batch_size": 32, "k_test": 128, "eval_frame_ensemble": "lse"}
TUNING = RETRIEVAL | OPTIMIZATION
TUNING |= {"learning_rate": 1e-5, "num_train_epochs": 10, "warmup_epochs": 0, "min_lr_multi": 0.1}
PRETRAINING = OPTIMIZATION | {"learning_rate": 3e-5, "num_train_epochs": 10, "warmup_epochs": 1, "min_lr_multi": 0.01}
PRETRAINING |= {"per_device_eval_batch_size": 20, "max_text_length": 32, "mlm_prob": 0.5, "save_total_limit": 2}
PRETRAINING |= {"fusion_token_keep_rate": 0.1, "k_test": 128, "eval_frame_ensemble": "lse"}
QA = OPTIMIZATION | {"num_frames": 8, "num_frames_test": 24, "token_keep_rate": 0.6, "fusion_token_keep_rate": 0.5}
QA |= {
    "learning_rate": 1e-5,
    "num_train_epochs": 10,
    "warmup_epochs": 0.5,
    "min_lr_multi": 0.1,
    "per_device_eval_batch_size": 8,
}
QA |= {"max_question_length": 25, "max_answer_length": 5, "k_test": 128, "eval_frame_ensemble": "lse"}
SETTINGS = {
    "pretraining": {
        "webvid": PRETRAINING | {"num_frames": 4, "num_frames_test": 4, "token_keep_rate": 0.7},
        "webvid_expansion": PRETRAINING | {"num_frames": 8, "num_frames_test": 8, "token_keep_rate": 0.6},
    },
    "retrieval": {
        "msrvtt": TUNING | {"max_text_length": 64},
        "didemo": TUNING | {"max_text_length": 64, "join_captions": True, "stop_key": "val"},
        "charades": TUNING | {"max_text_length": 48},
        "ssv2_label": TUNING | {"max_text_length": 25, "match_by": "caption", "feature_memory": 0},
        "ssv2_template": TUNING | {"max_text_length": 25, "match_by": "caption", "feature_memory": 0},
        "anet": TUNING | {"max_text_length": 64, "join_captions": True},
        "msrvtt_mc": RETRIEVAL | {"max_text_length": 64},
    },
    "videoqa": {
        "msrvtt_qa": QA | {"stop_key": "val"},
        "anet_qa": QA | {"stop_key": "val"},
        "agqa": QA | {"num_train_epochs": 5, "warmup_epochs": 0.25},
    },
}

ONE, SENTENCES = {"caption": "a cat plays"}, {"caption": ["a cat sits.", "then it plays."]}
SEVERAL_VIDEOS = {"video": ["1.mp4", "2.mp4"], "caption": "pushing a cup"}
CHOICE = {"caption": ["a", "b", "c", "d", "e"], "answer": 4}
QUESTION = {"question": "what plays?", "answer": "cat", "question_id": 3}
SEVERAL_ANSWERS = QUESTION | {"answer": ["cat", "cat", "kitten"]}
BALANCED = {"question": "what plays?", "answer": "cat", "question_id": "V1-1", "question_type": "object"}

# File of annotations, its folder of videos, and a row of it; the second row is another video with the same fields.
FILES = {
    "anno_pretrain/webvid_train": ("webvid_videos", ONE),
    "anno_downstream/msrvtt_test1k": ("msrvtt_videos", ONE),
    "anno_downstream/msrvtt_ret_train9k": ("msrvtt_videos", SENTENCES),
    "anno_downstream/msrvtt_ret_test1k": ("msrvtt_videos", ONE),
    "anno_downstream/didemo_ret_train": ("didemo_videos", SENTENCES),
    "anno_downstream/didemo_ret_val": ("didemo_videos", SENTENCES),
    "anno_downstream/didemo_ret_test": ("didemo_videos", SENTENCES),
    "anno_downstream/charades-script_train": ("charades_videos", ONE),
    "anno_downstream/charades-script_test": ("charades_videos", ONE),
    "anno_downstream/ssv2_ret_label_train": ("ssv2_videos", SEVERAL_VIDEOS),
    "anno_downstream/ssv2_ret_label_val_small": ("ssv2_videos", SEVERAL_VIDEOS),
    "anno_downstream/ssv2_ret_template_train": ("ssv2_videos", SEVERAL_VIDEOS),
    "anno_downstream/ssv2_ret_template_val_small": ("ssv2_videos", SEVERAL_VIDEOS),
    "anno_downstream/anet_ret_train": ("anet_videos", SENTENCES),
    "anno_downstream/anet_ret_val_1": ("anet_videos", SENTENCES),
    "anno_downstream/anet_ret_test": ("anet_videos", SENTENCES),
    "anno_downstream/msrvtt_mc_test": ("msrvtt_videos", CHOICE),
    "anno_downstream/msrvtt_qa_train": ("msrvtt_videos", QUESTION),
    "anno_downstream/msrvtt_qa_val": ("msrvtt_videos", QUESTION),
    "anno_downstream/msrvtt_qa_test": ("msrvtt_videos", SEVERAL_ANSWERS),
    "anno_downstream/anet_qa_train": ("anet_videos", SEVERAL_ANSWERS),
    "anno_downstream/anet_qa_val": ("anet_videos", QUESTION),
    "anno_downstream/anet_qa_test": ("anet_videos", QUESTION),
    "anno_downstream/agqa_train_balanced": ("charades_videos", BALANCED),
    "anno_downstream/agqa_test_balanced": ("charades_videos", BALANCED),
}
SPLITS = {
    ("pretraining", "webvid"): {"train": "anno_pretrain/webvid_train", "msrvtt_test1k": "msrvtt_test1k"},
    ("pretraining", "webvid_expansion"): {"train": "anno_pretrain/webvid_train", "msrvtt_test1k": "msrvtt_test1k"},
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


def rows_of(row):
    """Two rows of a file: this one, and one that differs in its videos and in what must differ."""
    second = {"video": ["3.mp4"] if isinstance(row.get("video"), list) else "3.mp4"}
    if "question_id" in row:
        second["question_id"] = row["question_id"] * 2
    return [{"video": "1.mp4"} | row, row | second]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """The tree of files that the original's users have; each video's frames are gray, as bright as its number says."""
    folder = tmp_path_factory.mktemp("presets") / "data"
    for file, (videos, row) in FILES.items():
        path = folder / f"{file}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows_of(row)))
        (folder / videos).mkdir(exist_ok=True)
    for name in ("msrvtt_qa", "anet_qa", "agqa"):
        (folder / f"anno_downstream/{name}_answer_list.json").write_text('["cat", "dog"]')
    for videos in {videos for videos, _ in FILES.values()}:
        for number in (1, 2, 3):
            write_video(folder / videos / f"{number}.mp4", brightness=40 * number)
    return folder


def write_video(path, brightness):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 32
        for _ in range(4):
            image = np.full((32, 32, 3), brightness, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())


@pytest.mark.parametrize(("task", "name"), SPLITS)
def test_preset_loads_from_the_original_layout(data_dir, task, name):
    preset = load_preset(task, name, data_dir)
    assert preset.settings == SETTINGS[task][name]
    assert list(preset.splits) == list(SPLITS[task, name])
    for split, file in SPLITS[task, name].items():
        videos, row = FILES[file if "/" in file else f"anno_downstream/{file}"]
        folder = data_dir / videos
        if "question" in row:
            check_questions(preset.splits[split].load(), folder, row)
        elif "answer" in row:
            check_choices(preset.splits[split].load(), folder)
        else:
            options = {"join_captions": preset.settings.get("join_captions", False)}
            captions = preset.splits[split].load(unique_videos=split != "train", **options)
            check_captions(captions, folder, row, preset.settings)
    if task == "videoqa":
        assert load_answer_list(preset.answer_list) == ["cat", "dog"]


def numbers(dataset, folder):
    return [int(video["path"].removeprefix(f"{folder}/").removesuffix(".mp4")) for video in dataset["video"]]


def check_captions(captions, folder, row, settings):
    videos, texts, texts_of_video = retrieval_set(captions)
    pairs = training_pairs(captions, settings.get("match_by", "video"))
    if isinstance(row.get("video"), list):
        assert numbers(videos, folder) == numbers(pairs, folder) == [1, 2, 3]
        assert (texts, texts_of_video) == (["pushing a cup", "pushing a cup"], [[0], [0], [1]])
        assert pairs["video_id"][:] == [0, 0, 0]  # SSv2 matches by caption
    elif settings.get("join_captions"):
        assert numbers(videos, folder) == numbers(pairs, folder) == [1, 3]
        assert (texts, texts_of_video) == (["a cat sits. then it plays."] * 2, [[0], [1]])
        assert pairs["video_id"][:] == [0, 1]
    elif isinstance(row["caption"], list):
        assert numbers(videos, folder) == [1, 3] and numbers(pairs, folder) == [1, 1, 3, 3]
        assert (texts, texts_of_video) == (["a cat sits.", "then it plays."] * 2, [[0, 1], [2, 3]])
        assert (pairs["caption"][:], pairs["video_id"][:]) == (texts, [0, 0, 1, 1])
    else:
        assert numbers(videos, folder) == numbers(pairs, folder) == [1, 3]
        assert (texts, texts_of_video) == (["a cat plays"] * 2, [[0], [1]])


def check_questions(questions, folder, row):
    assert numbers(questions, folder) == [1, 3]
    answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    assert questions["question"][:] == ["what plays?"] * 2 and questions["answer"][:] == [answers] * 2
    assert questions["question_id"][:] == [row["question_id"], row["question_id"] * 2]
    assert ("question_type" in questions.column_names) == ("question_type" in row)


def check_choices(choices, folder):
    assert numbers(choices, folder) == [1, 3]
    assert choices["caption"][:] == [["a", "b", "c", "d", "e"]] * 2 and choices["answer"][:] == [4, 4]


def test_every_preset_is_tested():
    assert {(task, name) for task in SETTINGS for name in preset_names(task)} == set(SPLITS)


def test_videos_of_a_preset_decode(data_dir):
    videos = load_preset("retrieval", "ssv2_label", data_dir).splits["train"].load()["video"][:]
    processor = SViTTVideoProcessor(num_frames=4, size={"height": 8, "width": 8})
    pixels = processor(videos, return_tensors="pt")["pixel_values"]
    expected = (torch.tensor([40, 80, 120]) / 255 - 0.5) / 0.5
    torch.testing.assert_close(pixels.mean(dim=(1, 2, 3, 4)), expected, atol=0.03, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# One's own files
# ---------------------------------------------------------------------------------------------------------------------


def own(folder, content):
    path = folder / "own.yaml"
    path.write_text(content)
    return path


def test_a_file_of_ones_own(data_dir, tmp_path):
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
    elsewhere = load_preset("pretraining", own(tmp_path, content), data_dir)
    assert elsewhere.splits["train"].annotation == data_dir / "clips"


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
    parser = HfArgumentParser((DatasetArguments, ScriptArguments))
    preset, groups = parse_with_preset(parser, task, [*map(str, args)])
    return preset, *groups


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("splits: [", "own.yaml: not a YAML file"),
        ("", "own.yaml: must be a mapping, got None"),
        ("splits: [a.json]", "own.yaml, splits: must be a mapping"),
        ("settings: {num_frames: 4}", "`splits` is missing"),
        ("split: {}", "own.yaml: there is no `split`, but: splits, settings, answer_list"),
        ("splits: {test: {anotation: a.json}}", "split test: there is no `anotation`, but: annotation, videos"),
        ("splits: {test: {annotation: a.json, allow_outside: true}}", "split test: there is no `allow_outside`"),
        ("splits: {test: a.json}", "split test: must be a mapping"),
        ("splits: {test: {annotation: [a, b]}}", "split test: `annotation` must not be a list"),
        ("splits: {test: {videos: v}}", "split test: must have one of annotation, hub and shards, got none"),
        ("splits: {test: {annotation: a.json, hub: b/c}}", "got annotation, hub"),
        ("splits: {test: {hub: b/c, videos: v}}", "`videos` goes with `annotation`"),
        ("splits: {test: {annotation: a.json, medium: film}}", "`medium` cannot be 'film' .*video.*image"),
        ("splits: {test: {annotation: a.json, rows: words}}", "`rows` cannot be 'words' .*captions.*questions"),
        ("splits: {test: {annotation: a.json, num_options: many}}", "`num_options` cannot be 'many' .*int"),
        (
            "splits: {test: {annotation: a.json, columns: {captions: text}}}",
            "columns: there is no `captions`",
        ),
        ("splits: {test: {annotation: a.json, columns: {caption: '{a'}}}", "columns: `caption` must be .*, got '{a'"),
        ("splits: {test: {annotation: a.json, columns: {caption: 'a{}'}}}", "`caption` must be .*, got 'a{}'"),
        ("splits: {test: {annotation: a.json, columns: {caption: 5}}}", "`caption` must be a field .*, got 5"),
        (f"{TEST}\nsettings: {{k_tests: 4}}", "own.yaml: there is no `k_tests`, but: .*k_test"),
        (f"{TEST}\nsettings: {{k_tes: 4}}", "own.yaml: there is no `k_tes`"),
        (f"{TEST}\nsettings: {{allow_outside: true}}", "own.yaml: there is no `allow_outside`"),
        (f"{TEST}\nsettings: {{k_test: 4.5}}", "own.yaml: `k_test` cannot be 4.5"),
        (f"{TEST}\nsettings: {{k_test: [4, 5]}}", "own.yaml: `k_test` must not be a list"),
        (f"{TEST}\nsettings: {{eval_x_only: maybe}}", "own.yaml: `eval_x_only` cannot be 'maybe'"),
        (f"{TEST}\nsettings: {{ensemble: sum}}", "own.yaml: `ensemble` cannot be 'sum'"),
    ],
)
def test_faults_of_ones_own_file(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as raised:
        parse("--dataset_file", own(tmp_path, content), "--output_dir", "o")
    assert "\n" not in str(raised.value)


def test_evaluation_leaves_dropping_in_fusion_to_the_model():
    """A converted checkpoint, which the original evaluates with all tokens in fusion, is evaluated so here."""
    options = [(name, str, None) for name in SETTINGS["retrieval"]["didemo"]]
    settings = make_dataclass("Settings", [*options, ("evaluate_only", bool, False)])

    def rate(*args, name="didemo"):
        parser = HfArgumentParser((DatasetArguments, settings))
        return parse_with_preset(parser, "retrieval", ["--dataset", name, *args])[1][1].fusion_token_keep_rate

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
    (tmp_path / "run.yaml").write_text("k_test: many")
    with pytest.raises(InputError, match="run.yaml: `k_test` cannot be 'many'"):
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
    preset, dataset, _ = parse(*options, "--video_dir", "there")
    assert {split.videos for split in dataset.splits(preset, "captions", "multiple_choice").values()} == {Path("there")}


def test_what_is_not_there(data_dir, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="msrvt: there is no such dataset for retrieval, but: anet, charades, didemo"):
        load_preset("retrieval", "msrvt", data_dir)
    with pytest.raises(InputError, match="none.yaml: cannot be read"):
        load_preset("retrieval", tmp_path / "none.yaml")
    monkeypatch.chdir(tmp_path)  # where data are by default
    empty = load_preset("retrieval", "anet").splits["val_1"]
    with pytest.raises(InputError, match="preset anet, split val_1: anet_videos: there is no such folder of videos"):
        empty.load()
    Path("anet_videos").mkdir()
    with pytest.raises(InputError, match="preset anet, split val_1: anno.*/anet_ret_val_1.json: there is no such"):
        empty.load()
    with pytest.raises(InputError, match="Give one of --dataset and --dataset_file"):
        parse("--dataset", "anet", "--dataset_file", "a.yaml", "--output_dir", "o")
