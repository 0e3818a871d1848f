# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The three scripts beyond what the contract suite runs: presets, settings, cards, publishing, faults."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from huggingface_hub import HfApi, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image
from safetensors.torch import load_file

from svitt import SViTTForPreTraining, SViTTForVideoQuestionAnswering, SViTTForVideoTextRetrieval, SViTTProcessor
from svitt.data import presets
from svitt.data.packing import pack
from svitt.data.presets import load_preset, preset_names

from ..conftest import ROOT
from ..contract.surface import run_script
from ..contract.test_scripts import assert_same_weights, captions_of, options_of, questions_of


def run(demo, output_dir, task="retrieval", **options):
    """Run a script to its end; an option `None` is left out."""
    ended = run_script(task, **options_of(demo, output_dir, num_train_epochs=1) | options)
    assert ended.code == 0, ended.err
    return ended


def read(folder, name):
    return json.loads((folder / name).read_text())


# ---- What a run leaves


def test_training_leaves_a_card_and_settings_that_run_again(demo, tmp_path):
    options = {"max_text_length": 16, "flip_prob": 0.0, "join_captions": True}
    ended = run(demo, tmp_path / "out", **captions_of(demo, "train", "test"), **options)
    metadata, results = metadata_load(tmp_path / "out/README.md"), read(tmp_path / "out", "results.json")
    [told] = [line for line in ended.out.splitlines() if "captions joined" in line]
    ranked = {"videos": 14, "videos_missing": 0, "texts": 14, "texts_cut": 0, "captions_joined": True}
    assert results["ranked"] == {"test": ranked} and told == "  14 videos, 14 texts, captions joined"
    results = results["test"]
    _, evaluations = model_index_to_eval_results(metadata["model-index"])
    found = {(result.dataset_name, result.metric_type): result.metric_value for result in evaluations}
    assert found == {(f"test, {kind}", name): results[kind][name] for kind in ("itm", "itc") for name in results[kind]}
    card = (tmp_path / "out/README.md").read_text()
    assert "test: 14 videos, 14 texts, captions joined." in card
    assert "| test, chance |" in card and "train.json" in card and str(demo) not in card
    assert SViTTProcessor.from_pretrained(tmp_path / "out")(text="a", padding="max_length")["input_ids"][15:] == [0]

    again = {"video_dir": None, "per_device_train_batch_size": None, "learning_rate": None, "num_train_epochs": None}
    # The same run, also where activations are computed again.
    run(demo, tmp_path / "again", config=tmp_path / "out/settings.yaml", activation_checkpointing=True, **again)
    assert_same_weights(tmp_path / "again", tmp_path / "out")


def test_a_dataset_file_gives_splits_and_settings_that_the_command_line_overrides(demo, tmp_path):
    (tmp_path / "demo.yaml").write_text(
        "splits:\n"
        "  train: {annotation: train.json, videos: videos}\n"
        "  val_small: {annotation: val.json, videos: videos}\n"
        "settings: {num_train_epochs: 2, per_device_train_batch_size: 8, learning_rate: 1e-3, token_keep_rate: 0.9,\n"
        "           fusion_token_keep_rate: 0.5, match_by: caption, k_test: 3, stop_key: val_small}\n"
    )
    options = {"dataset_file": tmp_path / "demo.yaml", "data_dir": demo / "data", "video_dir": None}
    run(demo, tmp_path / "out", **options, num_train_epochs=1, model_config="itm_list_size=3")
    results = read(tmp_path / "out", "results.json")
    assert results["epoch"] == 1 and set(results) == {"num_processes", "ranked", "epoch", "step", "val_small"}
    assert results["val_small"]["itm"]["txt_r5"] == results["val_small"]["itm"]["txt_r10"]  # k_test is 3
    config = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "out").config
    assert (config.vision_config.token_keep_rate, config.text_config.token_keep_rate) == (0.9, 0.5)
    assert config.itm_list_size == 3
    means = {kind: results["val_small"][kind]["r_mean"] for kind in ("itm", "itc")}
    assert config.rerank is (means["itm"] >= means["itc"])
    [checkpoint] = (tmp_path / "out").glob("checkpoint-*")
    assert read(checkpoint, "trainer_state.json")["best_metric"] == max(means.values())
    # What overrides the dataset is kept for the next run, also where it is the script's own default.
    assert yaml.safe_load((tmp_path / "out/settings.yaml").read_text())["num_train_epochs"] == 1


def test_pretraining_notes_which_lists_were_better_in_validation(demo, tmp_path):
    options = captions_of(demo, "train", "validation") | {"max_steps": 1, "k_test": 1}  # re-ranks one, misses the rest
    run(demo, tmp_path / "out", "pretraining", **options)
    assert not SViTTForPreTraining.from_pretrained(tmp_path / "out").config.rerank


def test_training_can_stop_by_multiple_choice(demo, tmp_path):
    rows = read(demo, "data/val.json")
    choices = [{"video": row["video"], "caption": [row["caption"], "up", "down"], "answer": 0} for row in rows]
    (tmp_path / "choices.json").write_text(json.dumps(choices))
    split = "splits: {choices: {annotation: choices.json, rows: multiple_choice}}"
    (tmp_path / "data.yaml").write_text(split)
    options = captions_of(demo, "train") | {"dataset_file": tmp_path / "data.yaml", "stop_key": "choices"}
    run(demo, tmp_path / "out", **options)
    [checkpoint] = (tmp_path / "out").glob("checkpoint-*")
    best = read(checkpoint, "trainer_state.json")["best_metric"]
    assert best == read(tmp_path / "out", "results.json")["choices"]["ensemble"]["accuracy"]


def test_the_trained_model_is_published_without_the_data(demo, tmp_path, monkeypatch):
    published = []
    address = type("Address", (), {"repo_id": "ada/out"})
    monkeypatch.setattr(
        "transformers.trainer.hf_api", lambda: type("Api", (), {"create_repo": lambda *_, **__: address})
    )
    monkeypatch.setattr(HfApi, "upload_folder", lambda api, **options: published.append(options) or "the address")
    ended = run(demo, tmp_path / "out", **captions_of(demo, "train"), push_to_hub=True)
    [options] = published
    assert options["repo_id"] == "ada/out" and "results.json" not in options["allow_patterns"]
    assert ended.out.endswith("the address\n")
    assert 'AutoModel.from_pretrained("ada/out"' in (tmp_path / "out/README.md").read_text()


@pytest.mark.slow
def test_corpora_of_videos_images_and_shards_are_mixed(demo, tmp_path, monkeypatch):
    pack(str(demo / "data/videos"), [str(demo / "data/train.json")], str(tmp_path), samples_per_shard=4, num_workers=1)
    rows = []
    for number, color in enumerate(["red", "green", "blue", "yellow"] * 2):
        Image.new("RGB", (40, 40), color).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": f"a {color} square"})
    (tmp_path / "images.json").write_text(json.dumps(rows))
    (tmp_path / "dataset.yaml").write_text(
        "splits:\n"
        f"  train: {{annotation: {demo}/data/train.json, videos: {demo}/data/videos}}\n"
        "  train_images: {annotation: images.json, medium: image}\n"
        "  train_shards: {shards: 'train-*.tar'}\n"
    )
    frames, forward = [], SViTTForPreTraining.forward

    def recording_forward(self, pixel_values, *args, **kwargs):
        frames.append(pixel_values.shape[1])
        return forward(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(SViTTForPreTraining, "forward", recording_forward)
    options = {"dataset_file": tmp_path / "dataset.yaml", "video_dir": None, "per_device_train_batch_size": 4}
    run(demo, tmp_path / "out", "pretraining", **options)
    assert sorted(frames) == [1, 1] + [4] * 8  # every row once: 8 images, 16 videos twice


# ---- Questions


def test_answers_of_an_untrained_model_are_warned_of(demo, tmp_path):
    answers = ["left", "up", "right"]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    (tmp_path / "test.json").write_text(json.dumps([{"video": "test_00000.mp4", "question": "what?", "answer": "up"}]))
    files = {"answer_list": tmp_path / "answers.json", "test_file": tmp_path / "test.json"}
    with pytest.warns(UserWarning, match="The answers mean nothing yet: .*was never trained to answer questions"):
        run(demo, tmp_path / "out", "videoqa", **files)
    [row] = pq.read_table(tmp_path / "out/predictions_test.parquet").to_pylist()
    assert sorted(row["best_answers"]) == sorted(answers)


def test_a_trained_model_has_its_answers_lengths_and_card(demo, tmp_path):
    options = {"max_text_length": 6, "max_answer_length": 6, "no_augment": True, "num_train_epochs": 2}
    ended = run(demo, tmp_path / "out", "videoqa", **questions_of(demo, "train", "validation"), **options)
    [state] = [read(path, "trainer_state.json") for path in (tmp_path / "out").glob("checkpoint-8")]
    name = "eval_validation_accuracy_overall"
    scores = [line[name] for line in state["log_history"] if name in line]
    results = read(tmp_path / "out", "results.json")
    assert len(scores) == 2 and results["epoch"] == 1 + scores.index(max(scores))
    assert results["validation"]["accuracy"]["overall"] == max(scores)
    assert results["train"] == {"coverage": 100.0, "num_questions": 32}
    assert results["ranked"]["validation"]["questions_cut"] == 2
    assert "train: 4 of 32 questions are longer than 6 tokens and were cut" in ended.out
    processor = SViTTProcessor.from_pretrained(tmp_path / "out")
    assert processor(text="up " * 20)["attention_mask"] == [1] * 6
    assert processor.encode_answers("up " * 20)["attention_mask"].tolist() == [[1] * 6]
    card = (tmp_path / "out/README.md").read_text()
    assert "| validation, most frequent answer |" in card and "visual-question-answering" in card


# ---- Presets


def layout(demo, preset):
    """The files of a preset, with the demo's clips; its rows of any kind."""
    for split in preset.splits.values():
        rows = read(demo, "data/val_questions.json" if split.rows == "questions" else "data/val.json")[:6]
        if split.rows == "captions":
            rows = [{"video": row["video"], "caption": [row["caption"], "then it ends"]} for row in rows]
        if split.rows == "multiple_choice":
            rows = [{"video": row["video"], "caption": ["a", "up", "down", "left", "red"], "answer": 0} for row in rows]
        split.annotation.parent.mkdir(parents=True, exist_ok=True)
        split.annotation.write_text(json.dumps(rows))
        if not split.videos.exists():
            split.videos.symlink_to(demo / "data/videos")
    if preset.answer_list is not None:
        preset.answer_list.write_text('["red", "up", "left", "blue", "green"]')


def has_files_of_the_paper(task, name):
    return "settings_of" not in (presets.PRESETS / task / f"{name}.yaml").read_text()


PRESETS = [(task, name) for task in ("pretraining", "retrieval", "videoqa") for name in preset_names(task)]
PRESETS = [
    (task, name)
    for task, name in PRESETS
    if "token_keep_rate" in load_preset(task, name).settings and has_files_of_the_paper(task, name)
]


@pytest.mark.parametrize(("task", "name"), PRESETS)
def test_presets_run_from_the_command_line_to_results(demo, tmp_path, task, name):
    preset = load_preset(task, name, tmp_path / "data")
    layout(demo, preset)
    options = {"dataset": name, "data_dir": tmp_path / "data", "max_steps": 1, "video_dir": None}
    options |= {"learning_rate": None, "num_train_epochs": None, "per_device_train_batch_size": 2, "k_test": 2}
    if task != "videoqa":
        options["max_text_length"] = 24  # positions of the demo's model
    run(demo, tmp_path / "out", task, **options)
    written = yaml.safe_load((tmp_path / "out/settings.yaml").read_text())
    given = {name for name, value in options.items() if value is not None} | {"per_device_eval_batch_size"}
    assert {key: written.get(key) for key in preset.settings if key not in given} == {
        key: None if key == "fusion_token_keep_rate" and name == "msrvtt_mc" else value
        for key, value in preset.settings.items()
        if key not in given
    }
    results = read(tmp_path / "out", "results.json")
    assert {split for split in preset.splits if split != "train"} <= set(results)
    if "train" in preset.splits:
        classes = {"videoqa": SViTTForVideoQuestionAnswering, "pretraining": SViTTForPreTraining}
        model = classes.get(task, SViTTForVideoTextRetrieval).from_pretrained(tmp_path / "out")
        assert model.config.vision_config.token_keep_rate == preset.settings["token_keep_rate"]


def test_images_are_clips_of_one_frame(folders, tmp_path, assert_close):
    """In training and evaluation, from JPEGs, which are read as Pillow reads them."""
    images, data = tmp_path / "coco_images/val2014", tmp_path / "anno_downstream"
    images.mkdir(parents=True)
    data.mkdir()
    ramp, texts = np.linspace(0, 255, 40 * 40).reshape(40, 40), ["a cat plays", "the piano", "the cat", "a piano plays"]
    for number in range(4):
        pixels = np.stack([ramp, np.rot90(ramp, number), ramp * number / 3], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.jpg", quality=95, subsampling=0)
    rows = [{"image": f"val2014/{number}.jpg", "caption": text} for number, text in enumerate(texts)]
    (data / "coco_train.json").write_text(json.dumps(rows + rows))  # as in ALBEF's, where an image has several rows
    for split in ("val", "test"):
        (data / f"coco_{split}.json").write_text(json.dumps([row | {"caption": [row["caption"]]} for row in rows]))
    options = {"model_name_or_path": folders / "svitt", "dataset": "coco", "data_dir": tmp_path, "video_dir": None}
    options |= {"learning_rate": None, "max_text_length": 6, "per_device_train_batch_size": 4, "save_scores": True}
    run(folders, tmp_path / "out", **options)

    model = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "out").eval()
    processor = SViTTProcessor.from_pretrained(tmp_path / "out")
    files = [images / f"{number}.jpg" for number in range(4)]
    inputs = processor(text=texts, return_tensors="pt")
    inputs["pixel_values"] = torch.cat([processor(videos=file, return_tensors="pt")["pixel_values"] for file in files])
    pictures = processor(videos=[[Image.open(file)] for file in files], return_tensors="pt")
    assert inputs["pixel_values"].shape == (4, 1, 3, 32, 32)
    assert (inputs["pixel_values"] - pictures["pixel_values"]).abs().max() < 6 / 255  # FFmpeg and libjpeg round apart
    with torch.no_grad():
        cosines = model(**inputs).logits_per_video * model.temp
    assert cosines.std(dim=0).min() > 1e-2  # pictures differ
    assert_close(load_file(tmp_path / "out/scores_test.safetensors")["itc"], cosines)


# ---- Faults


FAULTS = [
    ("retrieval", {"stop_key": "tset"}, ["--stop_key", "validation, test", "tset"]),
    ("retrieval", {"num_frames_test": 6}, ["--num_frames_test", "multiple", "6"]),
    ("retrieval", {"num_frames_test": 512, "eval_frame_ensemble": "concat"}, ["--num_frames_test", "from 1 to 256"]),
    ("retrieval", {"max_text_length": 600}, ["--max_text_length", "32", "600"]),
    ("retrieval", {"model_name_or_path": "no/such/model/anywhere"}, ["no/such/model/anywhere"]),
    ("retrieval", {"model_name_or_path": "qa"}, ["qa: is a SViTTForVideoQuestionAnswering, but a SViTTForVideoText"]),
    ("retrieval", {"validation_file": None, "test_file": None}, ["--train_file", "--test_file"]),
    ("retrieval", {"output_dir": ROOT / "setup.cfg"}, ["setup.cfg: cannot be written"]),
    ("retrieval", {"test_file": "duplicate.json"}, ["duplicate.json", "row 2", "`video`"]),
    ("retrieval", {"dataset_file": "choices.yaml"}, ["split train", "multiple_choice, but this takes captions"]),
    ("retrieval", {"push_to_hub": True}, ["--push_to_hub", "nothing is trained"]),
    ("pretraining", {}, ["There is nothing to train on"]),
    ("pretraining", {"train_file": "good.json", "model_name_or_path": None}, ["Give one of", "model_name_or_path"]),
    ("pretraining", {"config": "nosuch.yaml"}, ["nosuch.yaml: cannot be read"]),
    ("videoqa", {"test_file": "question.json"}, ["split test: there is no list of answers", "--answer_list"]),
    ("videoqa", {"test_file": "question.json", "answer_list": "other.json"}, ["split test: none of its answers, such"]),
]


@pytest.mark.parametrize(("task", "options", "words"), FAULTS, ids=str)
def test_a_fault_is_one_sentence_and_exit_code_2(demo, tmp_path, monkeypatch, task, options, words):
    monkeypatch.chdir(tmp_path)
    row = {"video": "train_00000.mp4", "caption": "x"}
    files = {"good": [row], "duplicate": [row, row], "other": ["yes", "no"]}
    files["question"] = [{"video": "train_00000.mp4", "question": "what?", "answer": "red"}]
    for name, content in files.items():
        Path(f"{name}.json").write_text(json.dumps(content))
    Path("choices.yaml").write_text("splits: {train: {annotation: a.json, rows: multiple_choice}}")
    if options.get("model_name_or_path") == "qa":  # scores of its new heads would mean nothing
        SViTTForVideoQuestionAnswering(SViTTForPreTraining.from_pretrained(demo / "model").config).save_pretrained("qa")
    given = captions_of(demo, "validation", "test") if task == "retrieval" else {}
    ended = run_script(task, **options_of(demo, tmp_path / "out") | given | options)
    [sentence] = [line for line in ended.err.splitlines() if line.startswith(f"run_{task}.py: ")]
    assert ended.code == 2 and "Traceback" not in ended.err and sentence.endswith("."), ended.err
    assert all(word in sentence for word in words), sentence
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_leaves_the_checkpoint_before(demo, small_disk, tmp_path):
    options = captions_of(demo, "train") | {"save_steps": 1, "save_total_limit": 9, "resume_from_checkpoint": "latest"}
    options |= {"per_device_train_batch_size": 4, "num_train_epochs": 1}
    run(demo, tmp_path / "whole", "pretraining", **options)
    kilobytes = sum(path.stat().st_size for path in (tmp_path / "whole/checkpoint-1").iterdir()) / 1000
    out = small_disk(round(2.5 * kilobytes)) / "out"
    ended = run_script("pretraining", **options_of(demo, out, **options))
    assert ended.code == 2 and f"{out}: cannot be written" in ended.err and "Traceback" not in ended.err
    assert {path.parent.name for path in out.glob("*/complete")} == {"checkpoint-1", "checkpoint-2"}
    small_disk(100_000)
    run(demo, out, "pretraining", **options)
    assert_same_weights(out, tmp_path / "whole")
