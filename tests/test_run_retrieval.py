# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""run_retrieval.py on real clips: evaluation, fine-tuning, one and two processes, bad input."""

import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from huggingface_hub import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from safetensors.torch import load_file

from svitt import SViTTForVideoTextRetrieval
from svitt.data.presets import load_preset, preset_names
from svitt.distributed import gather_shares, share_of, write_whole
from svitt.processing_svitt import SViTTProcessor, sample_frame_indices

from .test_presets import FILES, SPLITS

ROOT = Path(__file__).parent.parent
SCRIPT = str(ROOT / "run_retrieval.py")


def arguments(demo, output_dir, **options):
    """A command line; an option `True` is a switch, and `None` leaves one out."""
    options = {
        "model_name_or_path": demo / "model",
        "video_dir": demo / "data/videos",
        "output_dir": output_dir,
        "num_frames_test": 8,
        "k_test": 5,
        "eval_batch_size": 4,
    } | options
    pairs = ((f"--{name}", value) for name, value in options.items() if value is not None)
    return [str(part) for pair in pairs for part in pair if part is not True]


def run(monkeypatch, *args):
    """Run the script in this process; a process of its own takes seconds to import all."""
    AcceleratorState._reset_state(True)
    monkeypatch.setattr(sys, "argv", [SCRIPT, *args])
    runpy.run_path(SCRIPT, run_name="__main__")


def launch(command, *args):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [*command, SCRIPT, *args]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


def launch_as_processes(count, *args):
    """Start processes as torchrun does, so that the exit code of each can be seen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(count):
        environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, SCRIPT, *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, env=environment, text=True, **pipes))
    outputs = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def choices_of(rows):
    """Each row with the captions of its neighbours to choose from."""
    captions, choices = [row["caption"] for row in rows], []
    for place, row in enumerate(rows):
        options = [captions[(place + step) % len(rows)] for step in range(5)]
        answer = place % 5
        choices.append(
            {"video": row["video"], "caption": options[5 - answer :] + options[: 5 - answer], "answer": answer}
        )
    return choices


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def scores_of(folder, split):
    return load_file(folder / f"scores_{split}.safetensors")


@pytest.fixture(scope="session")
def mixed(demo, tmp_path_factory):
    """Options to evaluate the test clips, in shuffled frames, by captions and by multiple choice."""
    folder = tmp_path_factory.mktemp("mixed")
    rows = json.loads((demo / "data/test.json").read_text())
    (folder / "choices.json").write_text(json.dumps(choices_of(rows)))
    (folder / "mixed.yaml").write_text(
        "splits:\n"
        f"  test: {{annotation: {demo}/data/test.json}}\n"
        "  choices: {annotation: choices.json, rows: multiple_choice, num_options: 5}\n"
    )
    return {"dataset_file": folder / "mixed.yaml", "save_scores": True, "frame_order": "shuffle"}


@pytest.fixture(scope="session")
def evaluated(demo, mixed, tmp_path_factory):
    """What one process writes."""
    output_dir = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, *arguments(demo, output_dir, **mixed))
    return output_dir


def test_evaluation_writes_results_and_prints_chance_beside_them(demo, tmp_path, monkeypatch, capsys):
    run(monkeypatch, *arguments(demo, tmp_path / "out", test_file=demo / "data/test.json", evaluate_only=True))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["num_processes"] == 1 and "epoch" not in results
    assert results["test"]["chance"]["txt_r1"] == pytest.approx(100 / 14, abs=0.01)
    assert set(results["test"]) == {"itm", "itc", "chance"}
    assert results["test"]["itm"]["txt_r10"] == results["test"]["itm"]["txt_r5"]  # k_test is 5
    printed = capsys.readouterr().out
    assert "R@10" in printed and f"{results['test']['itc']['img_r5']:8.2f}" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "ranks_test.parquet",
        "results.json",
        "settings.yaml",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["accelerate", "launch", "--config_file", str(ROOT / "configs/cpu_2_processes.yaml")],
        ["torchrun", "--standalone", "--nproc_per_node", "2"],
    ],
    ids=["accelerate", "torchrun"],
)
def test_two_processes_give_the_same_scores(demo, mixed, evaluated, tmp_path, command):
    launched = launch(command, *arguments(demo, tmp_path, **mixed))
    assert launched.returncode == 0, launched.stderr
    assert results_of(tmp_path) == results_of(evaluated) | {"num_processes": 2}
    for split in ("test", "choices"):
        scores = scores_of(tmp_path, split)
        for name, expected in scores_of(evaluated, split).items():
            assert torch.equal(scores[name].isinf(), expected.isinf())
            torch.testing.assert_close(scores[name], expected, atol=1e-5, rtol=0)
        ranks, expected = (pq.read_table(path / f"ranks_{split}.parquet") for path in (tmp_path, evaluated))
        assert ranks.drop("top_score") == expected.drop("top_score")


@pytest.mark.slow
def test_a_launcher_that_starts_one_process_of_two_is_called_out(demo, mixed, evaluated, tmp_path):
    command = ["accelerate", "launch", "--cpu", "--num_processes", "2"]
    launched = launch(command, *arguments(demo, tmp_path, **mixed))
    assert launched.returncode == 0, launched.stderr
    assert "asked for several processes, but this one works alone" in launched.stderr
    assert results_of(tmp_path) == results_of(evaluated)


def test_multiple_choice_is_scored_as_the_pairs_of_captions(demo, evaluated):
    rows = json.loads((demo / "data/test.json").read_text())
    captions, num_right = [row["caption"] for row in rows], {"itc": 0, "itm": 0}
    of_captions, of_choices = (scores_of(evaluated, split) for split in ("test", "choices"))
    matching = of_captions["video_to_text"].maximum(of_captions["text_to_video"].t())
    assert of_choices["itm"].isfinite().sum(dim=1).tolist() == [5] * 14
    for video, choice in enumerate(choices_of(rows)):
        places = [captions.index(caption) for caption in choice["caption"]]
        for kind, of_pairs in (("itc", of_captions["itc"]), ("itm", matching)):
            scores, expected = of_choices[kind][video, 5 * video : 5 * video + 5], of_pairs[video, places]
            is_known = expected.isfinite()  # the shortlists of captions have 5 of 14
            torch.testing.assert_close(scores[is_known], expected[is_known], atol=1e-5, rtol=0)
            num_right[kind] += scores.argmax().item() == choice["answer"]
    results = results_of(evaluated)["choices"]
    assert set(results) == {"itm", "itc", "ensemble", "chance"} and results["chance"] == {"accuracy": 20.0}
    for kind, count in num_right.items():
        assert results[kind] == {"accuracy": round(100 * count / 14, 2)}


def test_ranks_are_those_of_the_recalls(demo, evaluated):
    rows = json.loads((demo / "data/test.json").read_text())
    table, recalls = pq.read_table(evaluated / "ranks_test.parquet").to_pylist(), results_of(evaluated)["test"]
    for direction, prefix, field in (("video_to_text", "txt", "video"), ("text_to_video", "img", "caption")):
        part = [row for row in table if row["direction"] == direction]
        assert [row["query_index"] for row in part] == list(range(14))
        assert [os.path.basename(row["query"]) for row in part] == [row[field] for row in rows]
        for kind in ("itm", "itc"):
            for k in (1, 5, 10):
                hits = [row[f"rank_{kind}"] is not None and row[f"rank_{kind}"] <= k for row in part]
                assert recalls[kind][f"{prefix}_r{k}"] == round(100 * sum(hits) / 14, 2)
        assert [row["is_hit"] for row in part] == [row["rank_itm"] == 1 for row in part]
    choices = pq.read_table(evaluated / "ranks_choices.parquet").to_pylist()
    for row, choice in zip(choices, choices_of(rows), strict=True):
        assert row["is_hit"] == (row["top"] == choice["caption"][choice["answer"]])
        assert 1 <= row["rank_ensemble"] <= 5


def test_frames_in_reverse_score_as_clips_that_run_backwards(demo, tmp_path, monkeypatch, decode_all):
    rows = json.loads((demo / "data/test.json").read_text())[:6]
    for row in rows:
        frames = decode_all(demo / "data/videos" / row["video"])[::-1]
        with av.open(str(tmp_path / row["video"]), "w", format="matroska") as container:
            stream = container.add_stream("ffv1", rate=8)  # loses nothing
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode())
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    options = {"test_file": tmp_path / "rows.json", "save_scores": True}
    run(monkeypatch, *arguments(demo, tmp_path / "reverse", **options, frame_order="reverse"))
    run(monkeypatch, *arguments(demo, tmp_path / "backwards", **options, video_dir=tmp_path))
    run(monkeypatch, *arguments(demo, tmp_path / "normal", **options))
    reverse, backwards, normal = (scores_of(tmp_path / name, "test") for name in ("reverse", "backwards", "normal"))
    assert all(torch.equal(reverse[name], backwards[name]) for name in reverse)
    assert not torch.allclose(reverse["itc"], normal["itc"], rtol=0, atol=1e-4)


def test_fine_tuning_keeps_the_best_epoch_and_saves_a_model(demo, tmp_path, monkeypatch, capsys):
    files = {f"{split}_file": demo / f"data/{file}.json" for split, file in (("train", "train"), ("validation", "val"))}
    options = {"learning_rate": 1e-3, "num_train_epochs": 2, "train_batch_size": 8, "num_frames_test": None}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **files, **options, max_text_length=16, flip_prob=0.0))
    results = json.loads((tmp_path / "out/results.json").read_text())
    printed = capsys.readouterr().out
    scores = [
        float(score) for score in re.findall(r"^step \d+, validation (\S+?),?(?: saved)?$", printed, re.MULTILINE)
    ]
    assert results["epoch"] == 1 + scores.index(max(scores))
    assert results["validation"]["itm"]["r_mean"] == max(scores)

    trained = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "out")
    untrained = SViTTForVideoTextRetrieval.from_pretrained(demo / "model")
    assert (trained.vision_proj.weight - untrained.vision_proj.weight).abs().max() > 1e-4
    assert SViTTProcessor.from_pretrained(tmp_path / "out")(text="a", padding="max_length")["input_ids"][15:] == [0]
    assert not (tmp_path / "out/.incomplete").exists()

    # The saved folder is a model to start from.
    again = arguments(demo, tmp_path / "again", **{**files, "train_file": None}, num_frames_test=None)
    run(monkeypatch, *again, "--model_name_or_path", str(tmp_path / "out"))
    assert json.loads((tmp_path / "again/results.json").read_text())["validation"] == results["validation"]


def test_dataset_file_gives_splits_and_settings_that_the_command_line_overrides(demo, tmp_path, monkeypatch):
    (tmp_path / "demo.yaml").write_text(
        "splits:\n"
        "  train: {annotation: train.json, videos: videos}\n"
        "  val_small: {annotation: val.json, videos: videos}\n"
        "settings: {num_train_epochs: 2, train_batch_size: 8, learning_rate: 1e-3, token_keep_rate: 0.9,\n"
        "           fusion_token_keep_rate: 0.5, match_by: caption, k_test: 3, stop_key: val_small}\n"
    )
    options = {"dataset_file": tmp_path / "demo.yaml", "data_dir": demo / "data", "video_dir": None}
    options |= {"num_train_epochs": 1, "num_frames_test": None, "k_test": None}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **options))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["epoch"] == 1 and set(results) == {"num_processes", "epoch", "val_small"}
    assert results["val_small"]["itm"]["txt_r5"] == results["val_small"]["itm"]["txt_r10"]  # k_test is 3
    config = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "out").config
    assert (config.vision_config.token_keep_rate, config.text_config.token_keep_rate) == (0.9, 0.5)


def test_training_leaves_a_card_and_settings_that_run_again(demo, tmp_path, monkeypatch):
    files = {f"{split}_file": demo / f"data/{file}.json" for split, file in (("train", "train"), ("test", "val"))}
    options = {"learning_rate": 1e-3, "num_train_epochs": 1, "train_batch_size": 8}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **files, **options))
    metadata, results = metadata_load(tmp_path / "out/README.md"), results_of(tmp_path / "out")["test"]
    _, evaluations = model_index_to_eval_results(metadata["model-index"])
    found = {(result.dataset_name, result.metric_type): result.metric_value for result in evaluations}
    assert found == {
        (f"test, {kind.upper()}", name): results[kind][name] for kind in ("itm", "itc") for name in results[kind]
    }
    card = (tmp_path / "out/README.md").read_text()
    assert "| test, chance |" in card and str(demo) not in card and "| 1 | " in card
    settings = yaml.safe_load((tmp_path / "out/settings.yaml").read_text())
    assert (settings["k_test"], settings["train_batch_size"], settings["push_to_hub"]) == (5, 8, False)

    run(monkeypatch, "--config", str(tmp_path / "out/settings.yaml"), "--output_dir", str(tmp_path / "again"))
    weights, again = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_the_trained_model_is_published(demo, tmp_path, monkeypatch, capsys):
    published = []

    def push_to_hub(folder, name, private):
        published.append((folder, name, private))
        return "the address"

    monkeypatch.setattr("svitt.training.publish.check_hub_login", lambda name: f"ada/{name}")
    monkeypatch.setattr("svitt.training.publish.push_to_hub", push_to_hub)
    options = {"train_file": demo / "data/train.json", "num_train_epochs": 1, "train_batch_size": 8}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **options, push_to_hub=True))
    assert published == [(str(tmp_path / "out"), "ada/out", False)]
    assert capsys.readouterr().out.endswith("the address\n")
    assert 'AutoModel.from_pretrained("ada/out"' in (tmp_path / "out/README.md").read_text()


def test_training_can_stop_by_multiple_choice(demo, mixed, tmp_path, monkeypatch):
    options = {"train_file": demo / "data/train.json", "num_train_epochs": 1, "train_batch_size": 8}
    run(monkeypatch, *arguments(demo, tmp_path, **mixed | options, stop_key="choices"))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    [accuracy] = [line["choices/ensemble_accuracy"] for line in lines if "choices/ensemble_accuracy" in line]
    assert accuracy == results_of(tmp_path)["choices"]["ensemble"]["accuracy"]


def layout(demo, folder, name):
    """The files of a preset as the original's users have them, with the demo's clips."""
    clips = {split: json.loads((demo / f"data/{split}.json").read_text())[:6] for split in ("train", "val", "test")}
    for split, file in SPLITS["retrieval", name].items():
        videos, example = FILES[f"anno_downstream/{file}"]
        rows = [
            {"video": row["video"], "caption": row["caption"]} for row in clips["train" if split == "train" else "test"]
        ]
        if "answer" in example:
            rows = choices_of(rows)
        elif isinstance(example.get("video"), list):
            pairs = zip(rows[::2], rows[1::2], strict=True)
            rows = [first | {"video": [first["video"], second["video"]]} for first, second in pairs]
        elif isinstance(example["caption"], list):
            rows = [row | {"caption": [row["caption"], "then it ends"]} for row in rows]
        path = folder / f"anno_downstream/{file}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
        if not (folder / videos).exists():
            (folder / videos).symlink_to(demo / "data/videos")


@pytest.mark.parametrize("name", preset_names("retrieval"))
def test_presets_run_end_to_end(demo, tmp_path, monkeypatch, capsys, name):
    layout(demo, tmp_path / "data", name)
    options = {"dataset": name, "data_dir": tmp_path / "data", "num_train_epochs": 1, "max_text_length": 24}
    defaults = dict.fromkeys(("video_dir", "num_frames_test", "k_test", "eval_batch_size"))
    memory = {"feature_memory": 0} if name.startswith("ssv2") else {}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **options | defaults | memory))
    settings = load_preset("retrieval", name).settings | {"num_train_epochs": 1, "max_text_length": 24}
    if name == "msrvtt_mc":  # nothing is trained
        settings["fusion_token_keep_rate"] = None
    written = yaml.safe_load((tmp_path / "out/settings.yaml").read_text())
    assert {setting: written[setting] for setting in settings} == settings

    results, printed = results_of(tmp_path / "out"), capsys.readouterr().out
    is_choice = name == "msrvtt_mc"
    assert ("epoch" in results) == (tmp_path / "out/model.safetensors").is_file() == (not is_choice)
    for split in SPLITS["retrieval", name]:
        if split != "train":
            assert ("accuracy" if is_choice else "r_mean") in results[split][
                "itm"
            ] and f"\n{split:<24}" in f"\n{printed}"
            ranks = pq.read_table(tmp_path / f"out/ranks_{split}.parquet")
            assert len(ranks) == (6 if is_choice else 9 if name.startswith("ssv2") else 12)


@pytest.mark.slow
def test_two_processes_fine_tune_one_model(demo, tmp_path):
    options = {"train_file": demo / "data/train.json", "num_train_epochs": 1, "train_batch_size": 4}
    outcomes = launch_as_processes(2, *arguments(demo, tmp_path, **options, test_file=demo / "data/test.json"))
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert json.loads((tmp_path / "results.json").read_text())["num_processes"] == 2
    assert "epoch 1, step 2" in outcomes[0][1] and outcomes[1][1] == ""


def song(path):
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=44100)
        samples = np.zeros((1, 44100), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


BAD_VIDEOS = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:2000]),
    "text": lambda path: path.write_text("not a video"),
    "mp3": song,
}


@pytest.fixture
def bad_video(demo, tmp_path, request):
    """A copy of the clips, one of which is bad; returns their folder."""
    shutil.copytree(demo / "data/videos", tmp_path / "videos")
    bad = tmp_path / "videos/test_00003.mp4"
    if bad.is_file():
        BAD_VIDEOS[request.param](bad)
    return tmp_path / "videos"


def assert_one_sentence(stderr, *parts):
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("run_retrieval.py: ") and lines[0].endswith("."), lines
    assert all(part in lines[0] for part in parts), lines


@pytest.mark.parametrize("bad_video", BAD_VIDEOS, indirect=True)
def test_bad_video_is_one_sentence_and_exit_code_2(demo, bad_video, tmp_path, monkeypatch, capfd):
    args = arguments(demo, tmp_path / "out", test_file=demo / "data/test.json", video_dir=bad_video)
    with pytest.raises(SystemExit) as exited:
        run(monkeypatch, *args)
    assert exited.value.code == 2
    assert_one_sentence(capfd.readouterr().err, "test_00003.mp4")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad_video", ["missing", "truncated"], indirect=True)
def test_bad_videos_are_skipped_or_missed_and_reported(demo, bad_video, tmp_path, monkeypatch, capfd):
    (bad_video / "train_00003.mp4").unlink()
    files = {"train_file": demo / "data/train.json", "test_file": demo / "data/test.json", "video_dir": bad_video}
    options = {"num_train_epochs": 1, "train_batch_size": 8, "bad_eval_videos": "score_as_missed"}
    run(monkeypatch, *arguments(demo, tmp_path / "out", **files, **options))
    lines = [json.loads(line) for line in (tmp_path / "out/bad_videos.jsonl").read_text().splitlines()]
    assert [(line["split"], line["epoch"], Path(line["video"]).name) for line in lines] == [
        ("train", 1, "train_00003.mp4"),
        ("test", None, "test_00003.mp4"),
    ]
    printed = capfd.readouterr().out
    assert "bad videos skipped: 1 (see" in printed and "test: bad videos that count as missed: 1" in printed


@pytest.mark.slow
@pytest.mark.parametrize("bad_video", ["truncated"], indirect=True)
@pytest.mark.parametrize("split", ["train", "test"])
def test_bad_video_ends_all_processes(demo, bad_video, tmp_path, split):
    (bad_video / "train_00003.mp4").write_bytes(b"")
    options = {f"{split}_file": demo / f"data/{split}.json", "video_dir": bad_video, "train_batch_size": 4}
    options |= {"num_workers": 1, "bad_videos": "error"}
    outcomes = launch_as_processes(2, *arguments(demo, tmp_path / "out", **options))
    assert [code for code, _, _ in outcomes] == [2, 2], outcomes
    assert_one_sentence(outcomes[0][2], f"{split}_00003.mp4")
    assert outcomes[1][2] == ""
    written = [path.name for path in tmp_path.glob("out/*")]
    assert written == (["settings.yaml"] if split == "train" else [])


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"test_file": "none.json"}, ["none.json", "no such annotation file"]),
        ({"stop_key": "tset"}, ["--stop_key tset", "validation, test"]),
        ({"num_frames_test": 6}, ["--num_frames_test 6", "multiple of --num_frames"]),
        ({"max_text_length": 600}, ["--max_text_length 600", "at most 32, the model's positions"]),
        ({"model_name_or_path": "no/such/model/anywhere"}, ["no/such/model/anywhere"]),
        ({"validation_file": None, "test_file": None}, ["--train_file", "--test_file"]),
        ({"output_dir": SCRIPT}, ["--output_dir"]),
        ({"train_file": "missing_key.json"}, ["missing_key.json", "row 2", "`caption`"]),
        ({"test_file": "duplicate.json"}, ["duplicate.json", "row 2", "`video`"]),
        ({"dataset": "msrvt"}, ["msrvt", "retrieval, but: anet, charades"]),
        ({"dataset": "didemo", "evaluate_only": True}, ["preset didemo, split val: data", "no such annotation file"]),
        ({"dataset_file": "choices.yaml"}, ["split train", "multiple_choice, but this takes captions"]),
        ({"push_to_hub": True}, ["--push_to_hub", "nothing is trained"]),
        ({"token_keep_rate": 0.0}, ["--token_keep_rate 0.0", "above 0"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_one_sentence_and_exit_code_2(demo, tmp_path, monkeypatch, capfd, options, parts):
    monkeypatch.chdir(tmp_path)
    row = {"video": "train_00000.mp4", "caption": "x"}
    Path("missing_key.json").write_text(json.dumps([row, {"video": "train_00001.mp4"}]))
    Path("duplicate.json").write_text(json.dumps([row, row]))
    Path("choices.yaml").write_text("splits: {train: {annotation: a.json, rows: multiple_choice}}")
    files = {"validation_file": demo / "data/val.json", "test_file": demo / "data/test.json"}
    with pytest.raises(SystemExit) as exited:
        run(monkeypatch, *arguments(demo, **({"output_dir": tmp_path / "out"} | files | options)))
    assert exited.value.code == 2
    assert_one_sentence(capfd.readouterr().err, *parts)
    assert not (tmp_path / "out").exists()


def test_interrupted_writing_leaves_the_old_files_whole(tmp_path):
    write_whole(tmp_path, lambda folder: (folder / "weights").write_text("old"))

    def interrupted(folder):
        (folder / "weights").write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path, interrupted)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"weights": "old"}


def test_shares_are_put_together_in_order():
    assert gather_shares(share_of(list(range(5)))) == list(range(5))


def test_demo_clips_come_with_their_reversals(demo):
    annotations = json.loads((demo / "data/test.json").read_text())
    captions = {row["video"]: row["caption"] for row in annotations}
    assert len(set(captions.values())) == len(annotations) == 14

    def frames(name):
        with av.open(str(demo / "data/videos" / name)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)

    for row in annotations:
        clip, twin = frames(row["video"]), frames(row["twin"])
        assert len(clip) == 24 and captions[row["twin"]] != row["caption"]
        assert np.abs(clip - twin[::-1]).mean() < 3
        assert sorted(captions[row["twin"]].split())[:3] == sorted(row["caption"].split())[:3]
        # Frames sampled for evaluation show the same moments, forwards and backwards.
        for count in (4, 8, 12):
            picks = sample_frame_indices(count, 24)
            assert np.abs(clip[picks] - twin[picks][::-1]).mean() < 3
