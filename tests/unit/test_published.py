# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Files of annotations as their authors published them load by preset: their forms, with made-up words in them."""

import gzip
import json
import shutil

import pytest

from svitt.data.annotations import video_names
from svitt.data.presets import PRESETS, ROWS_OF_TASK, load_preset, preset_names
from svitt.errors import InputError

from ..contract.surface import run_script


def lines(*rows):
    return "".join(f"{row}\n" for row in rows)


def table(*rows, separator="\t"):
    return lines(*(separator.join(map(str, row)) for row in rows))


def objects(*rows):
    return lines(*map(json.dumps, rows))


MSRVTT = {
    "info": {"year": "2016"},
    "videos": [
        {"video_id": f"video{n}", "id": n, "split": split, "start time": 137.72, "end time": 149.44, "category": 9}
        for n, split in enumerate(("train", "validate", "test"))
    ],
    "sentences": [
        {"caption": f"a {word} runs", "video_id": f"video{n // 2}", "sen_id": n}
        for n, word in enumerate(("cat", "dog", "fox", "hen", "cow", "pig"))
    ],
}
SSV2 = [
    {"id": "78687", "label": "holding a potato", "template": "Holding [something]", "placeholders": ["a potato"]},
    {"id": "42326", "label": "moving a cup", "template": "Moving [something]", "placeholders": ["a cup"]},
]
DIDEMO = [
    {"video": video, "description": text, "annotation_id": n, "times": [[0, 0], [1, 1]], "num_segments": 6}
    for n, (video, text) in enumerate((("a@N0_1.mov", "a cat"), ("b@N0_2.avi", "a dog"), ("a@N0_1.mov", "it sleeps")))
]
ANET = {
    "v_one": {"duration": 82.73, "timestamps": [[0.0, 0.5], [0.4, 0.9]], "sentences": ["A cat runs. ", " It sleeps."]},
    "v_two": {"duration": 3, "timestamps": [[0.2, 0.8]], "sentences": ["A dog barks."]},
}
YOUCOOK2 = {
    "database": {
        f"GLd3aX16z{n}g": {
            "duration": 241.6, "subset": subset, "recipe_type": "113", "video_url": "https://...",
            "annotations": [{"segment": [0, 1], "id": 0, "sentence": "spread butter"},
                            {"segment": [1, 2], "id": 1, "sentence": "add salt"}],
        }
        for n, subset in enumerate(("training", "validation"))
    }
}  # fmt: skip
LSMDC = table(
    (
        "0001_A_Film_00.00.51.926-00.00.54.129",
        "00.00.51.926",
        "00.00.54.129",
        "00.00.51",
        "00.00.54",
        'SOMEONE, "here".',
    ),
    ("0001_A_Film_00.01.00.000-00.01.02.000", "00.01.00.000", "00.01.02.000", "00.01.00", "00.01.02", '"No," he says.'),
)
QVHIGHLIGHTS = objects(
    {"qid": 2579, "query": "a cat runs", "duration": 150, "vid": "x_60.0_210.0", "relevant_clip_ids": [0, 1],
     "saliency_scores": [[4, 1, 2]], "relevant_windows": [[0, 2], [4, 6]]},
    {"qid": 2580, "query": "a dog barks", "duration": 150, "vid": "y_0.0_150.0", "relevant_windows": [[0.5, 1]]},
)  # fmt: skip
NEXTQA = table(
    "video frame_count width height question answer qid type a0 a1 a2 a3 a4".split(),
    (4010069381, 369, 640, 480, "how do the two move", 4, 6, "CH", "roll", "jump", "float", "run", "turn"),
    (2435100235, 369, 640, 480, "why is he here", 4, 6, "CW", "play", "play", "eat", "sleep", "work"),
    separator=",",
)
TGIF = table(
    "gif_name question a1 a2 a3 a4 a5 answer vid_id key".split(),
    ("tumblr_a1_250", "What does he do 3 times ?", "jump", "run", "eat", "sleep", "swim", 4, "ACTION4", 26),
    ("tumblr_b2_400", "What does she do 2 times ?", "jump", "run", "eat", "sleep", "swim", 0, "ACTION5", 26),
)
FRAMEQA = table(
    "gif_name question answer type vid_id description".split(),
    ("tumblr_a1_250", "how many dogs are there ?", "two", 1, "FRAMEQA3", "two dogs run ."),
    ("tumblr_b2_400", "what color is it ?", "red", 2, "FRAMEQA4", "it is red ."),
)
QA = [
    {"answer": "cat", "category_id": 1, "id": 0, "question": "what runs?", "video_id": 1},
    {"answer": "dog", "category_id": 2, "id": 1, "question": "what barks?", "video_id": 2},
]
AGQA = {
    "TTGUO-19991": {"question": "Was it red?", "answer": "yes", "video_id": "TTGUO", "ans_type": "binary"},
    "AO8RW-7": {"question": "What was it?", "answer": "dish", "video_id": "AO8RW", "global": [], "ans_type": "open"},
}  # fmt: skip

# Of each preset: its files; the videos that there are; of each split, its rows, by the names of videos without folders.

FILES = {
    "msrvtt_published": (
        {
            "MSRVTT_data.json": MSRVTT,
            "MSRVTT_train.9k.csv": lines("video_id", "video0", "video1"),
            "MSRVTT_JSFUSION_test.csv": lines("key,vid_key,video_id,sentence", "ret0,msr2,video2,a cow, walks"[:-7]),
        },
        ["videos/video0.mp4", "videos/video1.mp4", "videos/video2.mp4"],
        {
            "train": {"video0.mp4": ["a cat runs", "a dog runs"], "video1.mp4": ["a fox runs", "a hen runs"]},
            "test": {"video2.mp4": ["a cow"]},
        },
    ),
    "msrvtt_full": (
        {"MSRVTT_data.json": MSRVTT},
        ["videos/video0.mp4", "videos/video1.mp4", "videos/video2.webm"],
        {
            "train": {"video0.mp4": ["a cat runs", "a dog runs"]},
            "val": {"video1.mp4": ["a fox runs", "a hen runs"]},
            "test": {"video2.webm": ["a cow runs", "a pig runs"]},
        },
    ),
    "msvd_published": (
        {
            "AllVideoDescriptions.txt": lines("#Made-up", "a_1_5 a cat runs", "b_2_6 a dog barks", "a_1_5 it runs"),
            "train_list.txt": "a_1_5\n", "val_list.txt": "b_2_6\n", "test_list.txt": "a_1_5\nb_2_6\n",
        },
        ["YouTubeClips/a_1_5.avi", "YouTubeClips/b_2_6.avi"],
        {
            "train": {"a_1_5.avi": ["a cat runs", "it runs"]},
            "val": {"b_2_6.avi": ["a dog barks"]},
            "test": {"a_1_5.avi": ["a cat runs", "it runs"], "b_2_6.avi": ["a dog barks"]},
        },
    ),
    "didemo_published": (
        {"train_data.json": DIDEMO, "val_data.json": DIDEMO[1:2], "test_data.json": DIDEMO[:1]},
        ["videos/a@N0_1.mov.mp4", "videos/b@N0_2.mp4"],
        {
            "train": {"a@N0_1.mov.mp4": ["a cat", "it sleeps"], "b@N0_2.mp4": ["a dog"]},
            "val": {"b@N0_2.mp4": ["a dog"]},
            "test": {"a@N0_1.mov.mp4": ["a cat"]},
        },
    ),
    "anet_published": (
        {"train.json": ANET, "val_1.json": ANET},
        ["videos/v_one.mkv", "videos/v_two.mp4"],
        dict.fromkeys(
            ("train", "val_1"), {"v_one.mkv": ["A cat runs. ", " It sleeps."], "v_two.mp4": ["A dog barks."]}
        ),
    ),
    "anet_spans": (
        {"train.json": ANET, "val_1.json": ANET},
        ["videos/v_one.mkv", "videos/v_two.mp4"],
        dict.fromkeys(
            ("train", "val_1"),
            {
                "v_one.mkv#t=0,0.5": ["A cat runs. "],
                "v_one.mkv#t=0.4,0.9": [" It sleeps."],
                "v_two.mp4#t=0.2,0.8": ["A dog barks."],
            },
        ),
    ),
    "charades_sta": (
        {
            "charades_sta_train.txt": lines("AO8RW 0.0 0.9##he puts it down.", "3MSZA 0.4 0.8##they sit, then run."),
            "charades_sta_test.txt": lines("AO8RW 0.0 0.9##a person reads.", "AO8RW 0.0 0.9##they read."),
        },
        ["Charades_v1/AO8RW.mp4", "Charades_v1/3MSZA.mp4"],
        {
            "train": {"AO8RW.mp4#t=0,0.9": ["he puts it down."], "3MSZA.mp4#t=0.4,0.8": ["they sit, then run."]},
            "test": {"AO8RW.mp4#t=0,0.9": ["a person reads.", "they read."]},
        },
    ),
    "qvhighlights": (
        {"highlight_train_release.jsonl": QVHIGHLIGHTS, "highlight_val_release.jsonl": QVHIGHLIGHTS},
        ["videos/x_60.0_210.0.mp4", "videos/y_0.0_150.0.mp4"],
        dict.fromkeys(
            ("train", "val"),
            {
                "x_60.0_210.0.mp4#t=0,2": ["a cat runs"],
                "x_60.0_210.0.mp4#t=4,6": ["a cat runs"],
                "y_0.0_150.0.mp4#t=0.5,1": ["a dog barks"],
            },
        ),
    ),
    "youcook2": (
        {"youcookii_annotations_trainval.json": YOUCOOK2},
        ["videos/training/113/GLd3aX16z0g.mp4", "videos/validation/113/GLd3aX16z1g.mkv"],
        {
            "train": {"GLd3aX16z0g.mp4#t=0,1": ["spread butter"], "GLd3aX16z0g.mp4#t=1,2": ["add salt"]},
            "val": {"GLd3aX16z1g.mkv#t=0,1": ["spread butter"], "GLd3aX16z1g.mkv#t=1,2": ["add salt"]},
        },
    ),
    "lsmdc_published": (
        {f"LSMDC16_{name}.csv": LSMDC for name in ("annos_training", "annos_val", "challenge_1000_publictect")},
        ["videos/0001_A_Film/0001_A_Film_00.00.51.926-00.00.54.129.avi",
         "videos/0001_A_Film/0001_A_Film_00.01.00.000-00.01.02.000.avi"],
        dict.fromkeys(
            ("train", "val", "test"),
            {
                "0001_A_Film_00.00.51.926-00.00.54.129.avi": ['SOMEONE, "here".'],
                "0001_A_Film_00.01.00.000-00.01.02.000.avi": ['"No," he says.'],
            },
        ),
    ),
    "ssv2_label_published": (
        {"something-something-v2-train.json": SSV2, "something-something-v2-validation.json": SSV2},
        ["videos/78687.webm", "videos/42326.webm"],
        dict.fromkeys(("train", "val"), {"78687.webm": ["holding a potato"], "42326.webm": ["moving a cup"]}),
    ),
    "ssv2_template_published": (
        {"something-something-v2-train.json": SSV2, "something-something-v2-validation.json": SSV2},
        ["videos/78687.webm", "videos/42326.webm"],
        dict.fromkeys(("train", "val"), {"78687.webm": ["Holding something"], "42326.webm": ["Moving something"]}),
    ),
    "internvid": (
        {"InternVid-10M-flt.jsonl": objects(
            {"YoutubeID": "aB-_1", "Start_timestamp": "00:00:07.007", "End_timestamp": "00:01:08.5",
             "Caption": "a cat runs", "UMT_Score": 0.4, "Aesthetic_Score": 4.2})},
        ["videos/aB-_1.mp4"],
        {"train": {"aB-_1.mp4#t=7.007,68.5": ["a cat runs"]}},
    ),
    "howto100m": (
        {"caption.json": {"nVbIUDjzWY4": {"start": [3.13, 6.0], "end": [6.0, 8.5], "text": ["hello there", "cut it"]}}},
        ["videos/nVbIUDjzWY4.webm"],
        {"train": {"nVbIUDjzWY4.webm#t=3.13,6": ["hello there"], "nVbIUDjzWY4.webm#t=6,8.5": ["cut it"]}},
    ),
    "egoclip": (
        {"egoclip.csv": table(
            "video_uid video_dur narration_source narration_time clip_start clip_end clip_text tag_verb".split(),
            ("001e3e4e", 120.5, "pass_1", 3.2, 0.5, 4.25, '#C C opens a "door"', "[93]"))},
        ["videos/001e3e4e.mp4"],
        {"train": {"001e3e4e.mp4#t=0.5,4.25": ['#C C opens a "door"']}},
    ),
    "nextqa": (
        dict.fromkeys(("train.csv", "val.csv", "test.csv"), NEXTQA),
        ["nextqa_videos/1164/4010069381.mp4", "nextqa_videos/0001/2435100235.mp4"],
        dict.fromkeys(
            ("train", "val", "test"),
            {"4010069381.mp4": ["how do the two move", "4010069381_6", ["turn"]],
             "2435100235.mp4": ["why is he here", "2435100235_6", ["work"]]},
        ),
    ),
    **{
        f"tgif_{kind}_published": (
            {f"Train_{kind}_question.csv": TGIF, f"Test_{kind}_question.csv": TGIF},
            ["gifs/tumblr_a1_250.gif", "gifs/tumblr_b2_400.gif"],
            dict.fromkeys(
                ("train", "test"),
                {"tumblr_a1_250.gif": ["What does he do 3 times ?", "ACTION4", ["swim"]],
                 "tumblr_b2_400.gif": ["What does she do 2 times ?", "ACTION5", ["jump"]]},
            ),
        )
        for kind in ("action", "transition")
    },
    "tgif_frameqa_published": (
        {"Train_frameqa_question.csv": FRAMEQA, "Test_frameqa_question.csv": FRAMEQA},
        ["gifs/tumblr_a1_250.gif", "gifs/tumblr_b2_400.gif"],
        dict.fromkeys(
            ("train", "test"),
            {"tumblr_a1_250.gif": ["how many dogs are there ?", "FRAMEQA3", ["two"]],
             "tumblr_b2_400.gif": ["what color is it ?", "FRAMEQA4", ["red"]]},
        ),
    ),
    **{
        f"{name}_qa_published": (
            dict.fromkeys(("train_qa.json", "val_qa.json", "test_qa.json"), QA),
            [f"videos/{stem}1.avi", f"videos/{stem}2.mp4"],
            dict.fromkeys(
                ("train", "val", "test"),
                {f"{stem}1.avi": ["what runs?", 0, ["cat"]], f"{stem}2.mp4": ["what barks?", 1, ["dog"]]},
            ),
        )
        for name, stem in (("msrvtt", "video"), ("msvd", "vid"))
    },
    "anet_qa_published": (
        {
            f"{split}_{part}.json": rows
            for split in ("train", "val", "test")
            for part, rows in {
                "q": [{"video_name": "1QIUV7WYKXg", "question": "is it red", "question_id": "v_1QIUV7WYKXg_1"}],
                "a": [{"answer": "yes", "type": 3, "question_id": "v_1QIUV7WYKXg_1"}],
            }.items()
        },
        ["videos/v_1QIUV7WYKXg.mkv"],
        dict.fromkeys(
            ("train", "val", "test"), {"v_1QIUV7WYKXg.mkv": ["is it red", "v_1QIUV7WYKXg_1", ["yes"]]}
        ),
    ),
    "agqa_published": (
        {"train_balanced.txt": AGQA, "test_balanced.txt": AGQA},
        ["charades_videos/TTGUO.mp4", "charades_videos/AO8RW.mp4"],
        dict.fromkeys(
            ("train", "test"),
            {"TTGUO.mp4": ["Was it red?", "TTGUO-19991", ["yes"]], "AO8RW.mp4": ["What was it?", "AO8RW-7", ["dish"]]},
        ),
    ),
}  # fmt: skip


def write_published(folder, name, video=None):
    """Write the files of a preset into a folder, and copies of a video by the names that they want."""
    files, videos, _ = FILES[name]
    for file, content in files.items():
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    for path in videos:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / path) if video else (folder / path).touch()


def task_of(name):
    return next(task for task in ROWS_OF_TASK if name in preset_names(task))


@pytest.mark.parametrize("name", FILES)
def test_published_files_load_by_preset(tmp_path, name):
    write_published(tmp_path, name)
    preset = load_preset(task_of(name), name, tmp_path)
    assert preset.settings and preset.splits.keys() == FILES[name][2].keys()
    for split, expected in FILES[name][2].items():
        is_search = preset.splits[split].rows == "captions" and not split.startswith("train")
        rows = preset.splits[split].load(**{"unique_videos": True} if is_search and "qv" not in name else {})
        found = {}
        for video, row in zip(video_names(rows).to_pylist(), rows, strict=True):
            told = row["caption"] if "caption" in row else [row["question"], row["question_id"], row["answer"]]
            found[video.rpartition("/")[2]] = found.get(video.rpartition("/")[2], []) + told
        assert found == expected


def test_every_preset_of_published_files_is_tried():
    presets = [file for task in ROWS_OF_TASK for file in (PRESETS / task).glob("*.yaml")]
    assert FILES.keys() == {file.stem for file in presets if "settings_of" in file.read_text()} | {"nextqa"}


def test_annotations_may_be_compressed(tmp_path):
    write_published(tmp_path, "anet_published")
    (tmp_path / "train.json.gz").write_bytes(gzip.compress((tmp_path / "train.json").read_bytes()))
    file = tmp_path / "own.yaml"
    file.write_text(
        'splits: {train: {annotation: train.json.gz, videos: videos, columns: {video: "{key}.*", caption: sentences}}}'
    )
    assert len(load_preset("retrieval", file).splits["train"].load()) == 2
    content = (tmp_path / "train.json.gz").read_bytes()
    for name in ("rows.json.xz", "rows.json.zip"):
        (tmp_path / name).write_bytes(b"neither")
        (tmp_path / "broken.yaml").write_text(f"splits: {{train: {{annotation: {name}}}}}")
        with pytest.raises(InputError, match=f"{name}: cannot be read after row 0"):
            load_preset("retrieval", tmp_path / "broken.yaml").splits["train"].load()
    for broken in (content[:40], content[:20] + b"?" * 20, b"no gzip"):
        (tmp_path / "train.json.gz").write_bytes(broken)
        with pytest.raises(InputError, match="train.json.gz: cannot be read after row 0"):
            load_preset("retrieval", file).splits["train"].load()


FAULTS = {
    "explode: [times, texts]": ({"v": {"times": [[0, 1]], "texts": []}}, "row 1: `times`, `texts` .* equal length"),
    "field: rows": ({"lists": []}, "has no field `rows`, what it has is: lists"),
    "{}": ({"videos": [], "sentences": []}, "must hold a JSON list, .*; say which `field` holds it: videos, sentences"),
    "where: {a: 1}": ([{"a": 2, "video": "x"}], "no row is left by `where`; the last one has: a, video"),
    "join: {annotation: rows.json, by: id}": ([{"id": 1}, {"id": "1"}], "row 2: `id` '1' was in an earlier row"),
    "join: {annotation: rows.json, by: name}": ([{"id": 1}], "row 1: `name` is missing, on which it is to be joined"),
    "explode: [texts]": ([{"texts": []}], "no row is left by `explode`"),
    "explode: [text]": ([{"text": "x"}], "row 1: `text` must be a list[.]"),
    "join: {annotation: rows.json, on: name}": ([{"id": 1}], "join: there is no `True`, but: .*by"),
    "join: {annotation: rows.json}": ([{"id": 1}], "split train: .* missing 1 required .* argument: 'by'"),
    "column_names: [a, b]": ([{"id": 1}], "is no file that can have `column_names`"),
    'line: "{a} {a}"': ("x y", "`line` {a} {a} cannot be used"),
    'line: "{a}:{b}"': ("x y", "line 1: must be {a}:{b}, got 'x y'"),
    "columns: {captoin: x}": ([{"video": "x"}], "columns: there is no captoin, but: video, caption, start, end"),
    "columns: {caption: x, start: from}": (
        [{"video": "a.mp4", "x": "y"}], "`start` is to be `from`, which no row has; the last one has: video, x"),
    "{} ": ('{"a": {"video": "x"}, "a": {"video": "y"}}', "two fields of an object are called 'a'"),
    "{}  ": ({"a": {"key": "x"}}, "'a' has a field `key` of its own"),
}  # fmt: skip


@pytest.mark.parametrize("how", FAULTS)
def test_faults_are_one_sentence(tmp_path, how):
    content, words = FAULTS[how]
    (tmp_path / "a.mp4").touch()
    (tmp_path / "rows.json").write_text(content if isinstance(content, str) else json.dumps(content))
    keys = "" if how.startswith("{}") else f", {how}"
    (tmp_path / "own.yaml").write_text(f"splits: {{train: {{annotation: rows.json{keys}}}}}")
    with pytest.raises(InputError, match=words) as raised:
        load_preset("retrieval", tmp_path / "own.yaml").splits["train"].load()
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_published_files_train_and_evaluate(demo, tmp_path, write_video, name):
    video = write_video(tmp_path / "long.mp4", "libx264", num_frames=100, times=range(0, 100000, 1000))
    write_published(tmp_path, name, video)
    task = task_of(name)
    small = {"num_frames": 2, "num_frames_test": 2, "num_train_epochs": 1, "max_text_length": 16}
    options = {"dataset": name, "data_dir": tmp_path, "output_dir": tmp_path / "out", "max_steps": 1}
    start = {"model_name_or_path": demo / "model", "per_device_train_batch_size": 2}
    ended = run_script(task, **small, **options, **start)
    assert ended.code == 0, ended.err
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert {split for split in FILES[name][2] if not split.startswith("train")} <= results.keys()
    assert not (tmp_path / "out/bad_videos.jsonl").exists()


def test_rows_are_chosen_and_joined_by_values_of_yaml_json_and_tables(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "rows.json").write_text(json.dumps([{"id": 7, "good": True, "caption": "x"}, {"id": 8, "good": False}]))
    (tmp_path / "names.csv").write_text("id,video,good\n7,a.mp4,true\n")
    how = "join: {annotation: names.csv, by: id}, where: {good: true}"
    (tmp_path / "own.yaml").write_text(f"splits: {{train: {{annotation: rows.json, {how}}}}}")
    assert load_preset("retrieval", tmp_path / "own.yaml").splits["train"].load()["caption"][:] == [["x"]]
    how = "where: {good: true}, columns: {caption: id}"
    (tmp_path / "own.yaml").write_text(f"splits: {{train: {{annotation: names.csv, {how}}}}}")
    assert load_preset("retrieval", tmp_path / "own.yaml").splits["train"].load()["caption"][:] == [["7"]]
