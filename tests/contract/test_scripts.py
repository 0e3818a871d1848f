# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The three scripts on real clips: train, evaluate, resume; killed runs; two processes; a bad video."""

import json
import random
import shutil
import signal

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from . import surface
from .surface import results_of, run_script


def options_of(demo, output_dir, **options):
    return {
        "model_name_or_path": demo / "model",
        "video_dir": demo / "data/videos",
        "output_dir": output_dir,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-3,
    } | options


def captions_of(demo, *splits):
    files = {"train": "train", "validation": "val", "test": "test"}
    return {f"{split}_file": demo / f"data/{files[split]}.json" for split in splits}


def questions_of(demo, *splits):
    files = {"train": "train", "validation": "val", "test": "test"}
    return {f"{split}_file": demo / f"data/{files[split]}_questions.json" for split in splits}


def assert_same_weights(folder, expected):
    weights, expected = (load_file(path / "model.safetensors") for path in (folder, expected))
    assert weights.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []


# ---- Retrieval


@pytest.fixture(scope="module")
def fine_tuned(demo, tmp_path_factory):
    """The folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("fine_tuned") / "out"
    files = captions_of(demo, "train", "validation", "test")
    options = {"num_train_epochs": 2, "save_scores": True, "num_frames_test": 8, "k_test": 5}
    ended = run_script("retrieval", **options_of(demo, folder, **files, **options))
    assert ended.code == 0, ended.err
    return folder


def test_retrieval_trains_and_evaluates(demo, fine_tuned):
    results = results_of(fine_tuned)
    assert results["epoch"] in (1, 2) and set(results["test"]) == {"itm", "itc", "chance"}
    assert results["test"]["chance"]["txt_r1"] == pytest.approx(100 / 14, abs=0.01)
    assert results["test"]["itm"]["txt_r10"] == results["test"]["itm"]["txt_r5"]  # k_test is 5
    before, after = (
        surface.SViTTForVideoTextRetrieval.from_pretrained(folder) for folder in (demo / "model", fine_tuned)
    )
    assert (after.vision_proj.weight - before.vision_proj.weight).abs().max() > 1e-4

    scores = load_file(fine_tuned / "scores_test.safetensors")
    assert scores["video_to_text"].isfinite().sum(dim=1).tolist() == [5] * 14
    ranks = pq.read_table(fine_tuned / "ranks_test.parquet").to_pylist()
    for direction, prefix in (("video_to_text", "txt"), ("text_to_video", "img")):
        found = [row["rank_itm"] for row in ranks if row["direction"] == direction]
        hits = sum(rank is not None and rank <= 5 for rank in found)
        assert len(found) == 14 and results["test"]["itm"][f"{prefix}_r5"] == round(100 * hits / 14, 2)


def test_a_saved_model_evaluates_as_it_did(demo, fine_tuned, tmp_path):
    options = captions_of(demo, "test") | {"model_name_or_path": fine_tuned, "num_frames_test": 8, "k_test": 5}
    ended = run_script("retrieval", **options_of(demo, tmp_path / "out", **options))
    assert ended.code == 0 and "R@10" in ended.out, ended.err
    assert results_of(tmp_path / "out")["test"] == results_of(fine_tuned)["test"]
    assert not (tmp_path / "out/model.safetensors").exists()


def test_the_order_of_frames_can_be_taken_away(demo, tmp_path):
    scores = {}
    for order in ("normal", "reverse", "shuffle", "freeze"):
        options = captions_of(demo, "validation") | {"save_scores": True, "frame_order": order}
        ended = run_script("retrieval", **options_of(demo, tmp_path / order, **options))
        assert ended.code == 0, ended.err
        scores[order] = load_file(tmp_path / order / "scores_validation.safetensors")["itc"]
    for order in ("reverse", "shuffle", "freeze"):
        assert not torch.allclose(scores[order], scores["normal"], rtol=0, atol=1e-4)


def test_multiple_choice_is_evaluated(demo, tmp_path):
    captions = [row["caption"] for row in json.loads((demo / "data/test.json").read_text())]
    rows = [
        {"video": f"test_{i:05d}.mp4", "caption": [captions[(i + step) % 14] for step in range(5)], "answer": 0}
        for i in range(14)
    ]
    (tmp_path / "choices.json").write_text(json.dumps(rows))
    (tmp_path / "choices.yaml").write_text(
        "splits: {choices: {annotation: choices.json, rows: multiple_choice, num_options: 5}}\n"
    )
    ended = run_script("retrieval", **options_of(demo, tmp_path / "out", dataset_file=tmp_path / "choices.yaml"))
    assert ended.code == 0, ended.err
    results = results_of(tmp_path / "out")["choices"]
    assert set(results) == {"itm", "itc", "ensemble", "chance"} and results["chance"] == {"accuracy": 20.0}


def test_a_bad_video_is_one_sentence_or_skipped_and_missed(demo, tmp_path):
    shutil.copytree(demo / "data/videos", tmp_path / "videos")
    (tmp_path / "videos/test_00003.mp4").write_bytes(b"no video")
    files = captions_of(demo, "test") | {"video_dir": tmp_path / "videos"}
    ended = run_script("retrieval", **options_of(demo, tmp_path / "out", **files))
    assert ended.code == 2 and "test_00003.mp4" in ended.err and "Traceback" not in ended.err
    assert not (tmp_path / "out/results.json").exists()

    (tmp_path / "videos/train_00003.mp4").unlink()
    files |= captions_of(demo, "train") | {"bad_eval_videos": "score_as_missed", "num_train_epochs": 1}
    ended = run_script("retrieval", **options_of(demo, tmp_path / "out", **files))
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in (tmp_path / "out/bad_videos.jsonl").read_text().splitlines()]
    assert {line["video"].rpartition("/")[2] for line in lines} == {"test_00003.mp4", "train_00003.mp4"}
    assert all(line["video"] in line["error"] for line in lines)


# ---- Questions


@pytest.fixture(scope="module")
def answering(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("answering") / "out"
    options = questions_of(demo, "train", "validation", "test") | {"num_train_epochs": 2, "max_question_length": 12}
    ended = run_script("videoqa", **options_of(demo, folder, **options))
    assert ended.code == 0, ended.err
    return folder


def test_questions_are_learned_and_answered(demo, answering):
    rows = json.loads((demo / "data/test_questions.json").read_text())
    predictions = json.loads((answering / "predictions_test.json").read_text())
    assert [one["question_id"] for one in predictions] == list(range(len(rows)))
    right = sum(one["answer"] == row["answer"] for one, row in zip(predictions, rows, strict=True))
    accuracy = results_of(answering)["test"]["accuracy"]
    assert accuracy["overall"] == round(100 * right / len(rows), 2) and set(accuracy["by_type"]) == {"look", "order"}
    answers = json.loads((answering / "answer_list.json").read_text())
    train = json.loads((demo / "data/train_questions.json").read_text())
    assert sorted(answers) == sorted({row["answer"] for row in train})
    # The decoder begins as the fusion layers of the model that it starts from.
    fusion = surface.SViTTForVideoTextRetrieval.from_pretrained(demo / "model").text_model.encoder.layer[2:]
    decoder = surface.SViTTForVideoQuestionAnswering.from_pretrained(answering).text_decoder.bert.encoder.layer
    for layer, start in zip(decoder, fusion, strict=True):
        difference = (layer.crossattention.self.key.weight - start.crossattention.self.key.weight).abs().max()
        assert 1e-4 < difference < 0.05


def test_a_saved_model_answers_as_it_did(demo, answering, tmp_path):
    options = questions_of(demo, "test") | {"model_name_or_path": answering, "max_question_length": 12}
    ended = run_script("videoqa", **options_of(demo, tmp_path / "out", **options))
    assert ended.code == 0, ended.err
    assert results_of(tmp_path / "out")["test"] == results_of(answering)["test"]
    name = "predictions_test.json"
    assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((answering / name).read_text())


# ---- Pre-training, and runs that end early


def test_pretraining_resumes_and_settings_run_again(demo, tmp_path):
    options = captions_of(demo, "train", "validation") | {"num_train_epochs": 2, "k_test": 3, "save_steps": 1}
    ended = run_script("pretraining", **options_of(demo, tmp_path / "out", **options))
    assert ended.code == 0, ended.err
    assert 0 <= results_of(tmp_path / "out")["validation"]["itm"]["r_mean"] <= 100
    settings = {"config": tmp_path / "out/settings.yaml"}
    ended = run_script("pretraining", **settings, output_dir=tmp_path / "again")
    assert ended.code == 0, ended.err
    assert_same_weights(tmp_path / "again", tmp_path / "out")

    # A run that ended is resumed: nothing is left to train, and its results are the same.
    before = results_of(tmp_path / "out")
    (tmp_path / "out/results.json").unlink()
    resumed = {"output_dir": tmp_path / "out", "resume_from_checkpoint": surface.LATEST}
    ended = run_script("pretraining", **settings, **resumed)
    assert ended.code == 0, ended.err
    assert results_of(tmp_path / "out") == before
    assert_same_weights(tmp_path / "again", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_processes", "kind", "num_workers", "signals"),
    [
        (1, "files", 0, ["SIGKILL", "SIGKILL"]),
        (1, "files", 1, ["SIGTERM", "SIGKILL"]),
        (1, "shards", 0, ["SIGKILL"]),
        (2, "files", 0, ["SIGKILL"]),
    ],
)
def test_ended_and_resumed_weights_are_equal_to_the_bit(demo, tmp_path, num_processes, kind, num_workers, signals):
    """SIGTERM saves and exits with 0."""
    options = captions_of(demo, "train") | {"dataloader_num_workers": num_workers}
    if kind == "shards":
        files = {"annotation_file": options["train_file"], "video_dir": demo / "data/videos"}
        packed = surface.svitt("pack", **files, output_dir=tmp_path / "shards", samples_per_shard=4, num_workers=1)
        assert packed.code == 0, packed.err
        (tmp_path / "shards.yaml").write_text(f"splits: {{train: {{shards: '{tmp_path}/shards/train-*.tar'}}}}\n")
        options |= {"train_file": None, "video_dir": None, "dataset_file": tmp_path / "shards.yaml"}
    options |= {"per_device_train_batch_size": 2, "max_steps": 24, "warmup_steps": 2, "save_steps": 2}
    options |= {"resume_from_checkpoint": surface.LATEST}

    def words(name):
        return surface.script_words("pretraining", **options_of(demo, tmp_path / name, **options))

    surface.launch(num_processes, words("whole"))
    rng, step = random.Random(num_processes + num_workers), 0
    for name in signals:
        step, how = step + rng.choice([4, 6]), getattr(signal, name)
        surface.end_after_checkpoint(how, num_processes, words("out"), tmp_path / "out", step, rng.uniform(0, 0.2))
    surface.launch(num_processes, words("out"))
    assert_same_weights(tmp_path / "out", tmp_path / "whole")


# ---- Two processes


@pytest.mark.slow
def test_two_processes_evaluate_as_one(demo, fine_tuned, answering, tmp_path):
    options = captions_of(demo, "validation", "test") | {"model_name_or_path": fine_tuned, "save_scores": True}
    options |= {"num_frames_test": 8, "k_test": 5}
    surface.launch(2, surface.script_words("retrieval", **options_of(demo, tmp_path / "retrieval", **options)))
    results, expected = results_of(tmp_path / "retrieval"), results_of(fine_tuned)
    assert results["num_processes"] == 2
    for split in ("validation", "test"):
        assert results[split] == expected[split]
        scores = load_file(tmp_path / f"retrieval/scores_{split}.safetensors")
        for name, of_one in load_file(fine_tuned / f"scores_{split}.safetensors").items():
            torch.testing.assert_close(scores[name], of_one, atol=1e-5, rtol=0)

    options = questions_of(demo, "validation", "test") | {"model_name_or_path": answering, "max_question_length": 12}
    surface.launch(2, surface.script_words("videoqa", **options_of(demo, tmp_path / "videoqa", **options)))
    for split in ("validation", "test"):
        assert results_of(tmp_path / "videoqa")[split] == results_of(answering)[split]
        name = f"predictions_{split}.json"
        assert json.loads((tmp_path / "videoqa" / name).read_text()) == json.loads((answering / name).read_text())


@pytest.fixture(scope="module")
def dense(demo, tmp_path_factory):
    """The demo's model without random attention: nothing is drawn while it learns to answer."""
    folder = tmp_path_factory.mktemp("dense")
    model = surface.SViTTForVideoTextRetrieval.from_pretrained(demo / "model")
    model.config.vision_config.sparse_random_attn = None
    model.save_pretrained(folder)
    surface.SViTTProcessor.from_pretrained(demo / "model").save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_two_processes_train_as_one_with_their_batches(demo, dense, tmp_path):
    options = questions_of(demo, "train", "test") | {"model_name_or_path": dense, "max_steps": 6, "warmup_steps": 0}
    options |= {"augment": "false", "dataloader_num_workers": 0}
    for num_processes, batch_size in ((1, 8), (2, 4)):
        folder = tmp_path / str(num_processes)
        sized = options | {"per_device_train_batch_size": batch_size}
        surface.launch(num_processes, surface.script_words("videoqa", **options_of(demo, folder, **sized)))
    start, one, two = (load_file(folder / "model.safetensors") for folder in (dense, tmp_path / "1", tmp_path / "2"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        if not name.endswith("key.bias"):  # their gradient is zero but for rounding, by which AdamW steps
            torch.testing.assert_close(two[name], weight, rtol=0, atol=2e-5, msg=lambda text, name=name: name + text)
    moved = [(one[name] - start[name]).abs().max() for name in start if name in one]
    assert max(moved) > 1e-3
