# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Annotations: all formats load to the same rows, faults are sentences that name file, row and field."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svitt.data.annotations import (
    Member,
    Reading,
    is_text,
    join_pairs,
    load_answer_list,
    load_captions,
    load_choices,
    load_questions,
    open_hub,
    retrieval_set,
    training_pairs,
)
from svitt.data.loaders import shard_numbers
from svitt.errors import InputError
from svitt.processing_svitt import read_video


@pytest.fixture
def video_dir(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4", "sub/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write(folder, content, name="annotation.json"):
    """Rows as JSON, JSON lines or CSV, as the name says; a string as it is."""
    path = folder / name
    if isinstance(content, str):
        path.write_text(content, newline="", encoding="utf-8")
    elif name.endswith(".csv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in content for key in row)))
            writer.writeheader()
            writer.writerows(
                {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()}
                for row in content
            )
    elif name.endswith(".jsonl"):
        path.write_text("".join(f"{json.dumps(row)}\n" for row in content))
    else:
        path.write_text(json.dumps(content))
    return path


def names(dataset, folder):
    """Videos by their paths below a folder; none of them embedded."""
    assert dataset.features["video"] == Video(decode=False)
    assert all(video["bytes"] is None for video in dataset["video"])
    return [video["path"].removeprefix(f"{folder}/") for video in dataset["video"]]


FORMATS = ["annotation.json", "annotation.jsonl", "annotation.csv"]


# ---- Captions


@pytest.mark.parametrize("name", FORMATS)
def test_several_captions_of_a_video_and_several_videos_of_a_caption(video_dir, name):
    rows = [{"video": ["a.mp4", "b.mp4"], "caption": ["x y", "z"]}, {"video": "sub/d.mp4", "caption": "w"}]
    file = write(video_dir, rows, name)
    videos, texts, texts_of_video = retrieval_set(load_captions(file, video_dir, unique_videos=True))
    assert names(videos, video_dir) == ["a.mp4", "b.mp4", "sub/d.mp4"]
    assert (texts, texts_of_video) == (["x y", "z", "w"], [[0, 1], [0, 1], [2]])
    joined = retrieval_set(load_captions(file, video_dir, join_captions=True))
    assert (joined.texts, joined.texts_of_video) == (["x y z", "w"], [[0], [0], [1]])


def test_training_pairs_share_an_id_by_video_or_by_caption(video_dir):
    rows = [
        {"video": "a.mp4", "caption": "x"},
        {"video": "b.mp4", "caption": ["x", "y"]},
        {"video": "a.mp4", "caption": "z"},
    ]
    captions = load_captions(write(video_dir, rows), video_dir)
    pairs = training_pairs(captions)
    assert names(pairs, video_dir) == ["a.mp4", "b.mp4", "b.mp4", "a.mp4"]
    assert (pairs["caption"][:], pairs["video_id"][:]) == (["x", "x", "y", "z"], [0, 1, 1, 0])
    assert training_pairs(captions, match_by="caption")["video_id"][:] == [0, 0, 1, 2]


def test_joined_corpora_share_no_ids(video_dir):
    pairs = training_pairs(load_captions(write(video_dir, [{"video": "a.mp4", "caption": ["x", "y"]}]), video_dir))
    others = training_pairs(load_captions([("s.tar", 1, {"caption": "z", "video": Member("s/1", "s.tar", 512, 9)})]))
    joined = join_pairs([pairs, others, pairs])
    assert joined["video_id"][:] == [0, 0, 1, 2, 2] and joined["caption"][:] == ["x", "y", "z", "x", "y"]
    assert joined["shard"][:] == [None, None, "s.tar", None, None] and shard_numbers(joined) is None
    assert shard_numbers(others).tolist() == [0] and shard_numbers(pairs) is None


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(is_text)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=5))
def test_any_text_comes_through_any_format(video_dir, lists):
    rows = [{"video": f"{number}.mp4", "caption": captions} for number, captions in enumerate(lists)]
    for number in range(len(lists)):
        (video_dir / f"{number}.mp4").touch()
    flat = [(f"{number}.mp4", text, number) for number, captions in enumerate(lists) for text in captions]
    for name in FORMATS:
        pairs = training_pairs(load_captions(write(video_dir, rows, name), video_dir))
        assert list(zip(names(pairs, video_dir), pairs["caption"], pairs["video_id"], strict=True)) == flat


def test_lines_of_csv_and_what_spreadsheets_do_to_them(video_dir):
    content = '\ufeffvideo,caption\r\na.mp4,"one, with ""marks""\r\nand a second line"\r\n\r\nb.mp4,[applause]\r\n'
    captions = load_captions(write(video_dir, content, "a.csv"), video_dir)
    assert captions["caption"][:] == [['one, with "marks"\r\nand a second line'], ["[applause]"]]


def test_webvid_csv_and_its_folders(video_dir):
    (video_dir / "011_050").mkdir()
    (video_dir / "011_050/21179416.mp4").touch()
    content = "videoid,contentUrl,duration,page_dir,name\n21179416,https://x/y.mp4,PT00H00M11S,011_050,Aerial shot\n"
    file = write(video_dir, content, "results_2M_val.csv")
    pairs = training_pairs(load_captions(file, video_dir))
    assert (names(pairs, video_dir), pairs["caption"][:]) == (["011_050/21179416.mp4"], ["Aerial shot"])
    reading = Reading(columns={"video": "{page_dir}/{videoid}.mp4", "caption": "{duration}: {name}"})
    assert load_captions(file, video_dir, reading=reading)["caption"][:] == [["PT00H00M11S: Aerial shot"]]
    with pytest.raises(InputError, match="row 1: `{page}/{videoid}.mp4` cannot be filled in .KeyError"):
        load_captions(file, video_dir, reading=Reading(columns={"video": "{page}/{videoid}.mp4"}))


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (Reading(columns={"caption": "{id}"}), "row 1: `{id}` cannot be filled in .KeyError.'id'.., what"),
        (Reading(remove="[]"), "row 1: `caption` must be a string or a list of strings, none blank, got"),
    ],
)
def test_what_is_made_of_fields_must_be_there(video_dir, reading, words):
    file = write(video_dir, [{"video": "a.mp4", "id": None, "caption": "[]"}])
    with pytest.raises(InputError, match=words):
        load_captions(file, video_dir, reading=reading)


@pytest.mark.parametrize("extension", ["jsonl", "csv"])
def test_videofolder_with_metadata_in_subfolders(video_dir, extension):
    (video_dir / "d.mp4").touch()
    write(video_dir, [{"file_name": "d.mp4", "text": "x"}], f"metadata.{extension}")
    write(video_dir / "sub", [{"file_name": "d.mp4", "text": "y"}], f"metadata.{extension}")
    captions = load_captions(video_dir, unique_videos=True)
    assert names(captions, video_dir) == ["d.mp4", "sub/d.mp4"]
    assert (captions["caption"][:], captions["row"][:]) == ([["x"], ["y"]], [0, 1])
    assert names(load_captions(video_dir / "sub"), video_dir) == ["sub/d.mp4"]


def test_images_and_columns_of_other_names(video_dir):
    file = write(video_dir, [{"image": "a.mp4", "caption": "x", "title": "y"}])
    assert names(load_captions(file, video_dir), video_dir) == ["a.mp4"]
    assert load_captions(file, video_dir, reading=Reading(columns={"caption": "title"}))["caption"][:] == [["y"]]


ROW, OTHER = {"video": "a.mp4", "caption": "x"}, {"video": "b.mp4", "caption": "y"}
JSON_FAULTS = [  # content, words
    ("[{", "not a JSON file"),
    ("[" * 100_000, "not a JSON file"),
    ({"video": "a.mp4"}, "must hold a JSON list"),
    ([], "at least one row"),
    ("\n", "is empty, it must hold at least one row"),
    (["a.mp4"], "row 1: must be an object"),
    ([OTHER, {"video": "a.mp4"}], "row 2: `caption` is missing"),
    ([ROW | {"video": None}], "row 1: `video` is missing"),
    *(([ROW | {"caption": text}], "`caption` must be a string or a list of str.*none blank")
      for text in (5, ["x", 5], [], " ", "\u3000", "half a \ud83d")),
    ([ROW | {"video": "d.mp4"}], "row 1: `video` 'd.mp4' is not in"),
    ([ROW | {"video": "a\0.mp4"}], "row 1: `video` .* is not in"),
    ([ROW | {"video": "sub"}], "row 1: `video` 'sub' is not in"),
    ([ROW | {"video": "../a.mp4"}], "row 1: `video` '../a.mp4' must be a path below"),
    ([ROW | {"video": "sub/../a.mp4"}], "must be a path below"),
    ([ROW | {"video": "/etc/passwd"}], "row 1: `video` '/etc/passwd' must be .*--allow_outside takes it"),
    ([ROW] * 2, "row 2: `video` 'a.mp4' was already used in row 1"),
    ([ROW | {"video": ["a.mp4", "./a.mp4"]}], "row 1: `video` './a.mp4' was already used in row 1"),
]  # fmt: skip
LINE_FAULTS = [  # file, content, words
    ("a.json", '{"video": "a.mp4"}\n{"video": "b.mp4"}\n', "not a JSON file"),
    ("a.jsonl", '{"video": "a.mp4", "caption": "x"}\n{"video"\n', "line 2: not a JSON file"),
    ("a.jsonl", '{"video": "a.mp4", "caption": "x"}\n[]\n', "row 2: must be an object"),
    ("a.jsonl", "\n", "at least one row"),
    ("a.csv", "video,caption\n", "at least one row"),
    ("a.csv", "", "at least one row"),
    ("a.csv", "video,caption\na.mp4,x\nb.mp4\n", "row 2: must have 2 cells"),
    ("a.csv", "video,caption\na.mp4,x,y\n", "row 1: must have 2 cells"),
    ("a.csv", 'video,caption\na.mp4,"x\n', "cannot be read after row 0 .unexpected end of data"),
    ("a.csv", "video,caption\na.mp4,\n", "row 1: `caption` is missing"),
]


@pytest.mark.parametrize(("name", "content", "words"), [*(("a.json", *fault) for fault in JSON_FAULTS), *LINE_FAULTS])
def test_faults_of_annotations(video_dir, name, content, words):
    file = write(video_dir, content, name)
    with pytest.raises(InputError, match=words) as raised:
        load_captions(file, video_dir, unique_videos=True)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


def test_missing_files_and_folders(video_dir):
    (video_dir / "latin.csv").write_bytes("video,caption\na.mp4,caf\xe9\n".encode("latin-1"))
    for name, folder, words in [
        ("none.json", "", "none.json: there is no such file"),
        ("latin.csv", "", "latin.csv: cannot be read"),
        ("latin.csv", "none", "none: there is no such folder of videos"),
        ("", "", "holds no metadata.jsonl or metadata.csv"),
    ]:
        with pytest.raises(InputError, match=words):
            load_captions(video_dir / name, video_dir / folder)


def test_names_may_lead_outside_if_that_is_allowed_and_links_are_followed(video_dir):
    (video_dir / "sub/link.mp4").symlink_to("../a.mp4")
    for name in ("../a.mp4", str(video_dir / "a.mp4")):
        file = write(video_dir, [ROW | {"video": name}])
        captions = load_captions(file, video_dir / "sub", reading=Reading(allow_outside=True))
        assert captions["video"][0]["path"] == str(video_dir / "sub" / name)
    assert len(load_captions(write(video_dir, [ROW | {"video": "link.mp4"}]), video_dir / "sub")) == 1


def test_missing_videos_are_left_to_the_loader_unless_all_are_missing(video_dir):
    file = write(video_dir, [{"video": "none.mp4", "caption": "x"}, {"video": "a.mp4", "caption": "y"}])
    assert names(load_captions(file, video_dir, allow_missing=True), video_dir) == ["none.mp4", "a.mp4"]
    file = write(video_dir, [{"video": "none.mp4", "caption": "x"}, {"video": "nor.mp4", "caption": "y"}])
    with pytest.raises(InputError, match="none of its videos exists; the first would be .*none.mp4"):
        load_captions(file, video_dir, allow_missing=True)


# ---- Questions and choices

QUESTION = {"video": "a.mp4", "question": "what?", "answer": "cat", "question_id": 7}
CHOICE = {"video": "a.mp4", "caption": list("xyz"), "answer": 1}


def test_questions(video_dir):
    rows = [QUESTION, QUESTION | {"answer": ["cat", "cat", "dog"], "question_id": 8, "question_type": "action"}]
    questions = load_questions(write(video_dir, rows), video_dir)
    assert names(questions, video_dir) == ["a.mp4", "a.mp4"]
    assert questions.remove_columns(["video", "row"])[:] == {
        "question": ["what?", "what?"],
        "answer": [["cat"], ["cat", "cat", "dog"]],
        "question_id": [7, 8],
        "question_type": [[], ["action"]],
    }
    text_ids = load_questions(write(video_dir, [QUESTION | {"question_id": "C-1"}], "q.csv"), video_dir)
    assert (text_ids["question_id"][:], text_ids["answer"][:]) == (["C-1"], [["cat"]])
    assert "question_type" not in text_ids.column_names
    rows = [{key: value for key, value in row.items() if key != "question_id"} for row in rows]
    assert load_questions(write(video_dir, rows), video_dir)["question_id"][:] == [0, 1]
    options = {"options": ["dog", "cat"], "answer": ["cat", 0]}
    questions = load_questions(write(video_dir, [QUESTION | options]), video_dir)
    assert (questions["answer"][:], questions["options"][:]) == ([["cat", "dog"]], [["dog", "cat"]])


@pytest.mark.parametrize("name", FORMATS)
def test_choices(video_dir, name):
    rows = [CHOICE, CHOICE | {"caption": list("zyx"), "answer": 0}]
    choices = load_choices(write(video_dir, rows, name), video_dir, reading=Reading(num_options=3))
    assert names(choices, video_dir) == ["a.mp4", "a.mp4"]
    assert choices.remove_columns(["video", "row"])[:] == {"caption": [list("xyz"), list("zyx")], "answer": [1, 0]}


QUESTION_FAULTS = [  # change of the second row, words
    ({"question_id": 7}, "`question_id` 7 was already used in row 1"),
    ({"question_id": "8"}, "`question_id` must be an integer in all rows, or a string in all, got '8'"),
    ({"question_id": None}, "`question_id` must be an integer in all rows, or a string in all, got None"),
    ({"question_id": True}, "`question_id` must be an integer"),
    ({"answer": {"cat": 3}}, "`answer` must be a string or a list of strings"),
    ({"answer": 3}, "`answer` must be a string or a list of strings"),
    ({"answer": None}, "`answer` is missing"),
    ({"question": ["a?", "b?"]}, "`question` must be one string"),
    ({"question": ""}, "`question` must be a string"),
    ({"video": ["a.mp4", "b.mp4"]}, "`video` must be one string"),
    ({"options": ["cat"]}, "`options` must be at least 2 different answers"),
    ({"options": ["cat", "cat"]}, "`options` must be at least 2 different answers"),
    ({"options": ["ape", "dog"]}, "`answer` must be the number of an option, from 0 to 1, got 'cat'"),
    ({"options": ["cat", "dog"], "answer": 2}, "`answer` must be the number of an option, from 0 to 1"),
]
CHOICE_FAULTS = [
    ({"answer": 3}, "`answer` must be the number of an option, from 0 to 2, got 3"),
    ({"answer": -1}, "from 0 to 2, got -1"),
    ({"answer": True}, "from 0 to 2, got True"),
    ({"answer": None}, "`answer` must be the number of an option, from 0 to 2, got None"),
    ({"caption": ["x", "y"]}, "`caption` must have 3 options, got 2"),
    ({"video": ["a.mp4", "b.mp4"]}, "`video` must be one string"),
]


@pytest.mark.parametrize(("change", "words"), QUESTION_FAULTS)
def test_faults_of_questions(video_dir, change, words):
    file = write(video_dir, [QUESTION, QUESTION | {"question_id": 8} | change])
    with pytest.raises(InputError, match=f"{file}, row 2: {words}"):
        load_questions(file, video_dir)


@pytest.mark.parametrize(("change", "words"), CHOICE_FAULTS)
def test_faults_of_choices(video_dir, change, words):
    with pytest.raises(InputError, match=words):
        load_choices(write(video_dir, [CHOICE | change]), video_dir, reading=Reading(num_options=3))
    with pytest.raises(InputError, match="`caption` must have at least 2 options, got 1"):
        load_choices(write(video_dir, [CHOICE | {"caption": "x"}]), video_dir)


def test_answer_list(tmp_path):
    assert load_answer_list(write(tmp_path, ["cat", "dog"])) == ["cat", "dog"]
    for content, words in [
        (["cat", "dog", "cat"], "answer 3: must come once, got 'cat'"),
        (["cat", " "], "answer 2: must be a string"),
        (["cat", 2], "answer 2: must be a string"),
        ({"cat": 0}, "must hold a JSON list"),
    ]:
        with pytest.raises(InputError, match=words):
            load_answer_list(write(tmp_path, content))


# ---- Hub


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A folder as one would push it: Parquet with embedded files, in splits."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    videos = [{"bytes": b"first", "path": "clip.mp4"}, {"bytes": b"second", "path": "clip.mp4"}]
    folder = tmp_path / "dataset/data"
    folder.mkdir(parents=True)
    columns = {"clip": videos, "text": [["x", "y"], ["z"]], "question": ["p?", "q?"], "answer": ["r", "s"]}
    pq.write_table(pa.table(columns), folder / "train-00000-of-00001.parquet")
    return str(folder.parent)


def test_dataset_of_the_hub(hub_folder):
    reading = Reading(columns={"video": "clip", "caption": "text"})
    dataset = open_hub(hub_folder, "train", reading)
    captions = load_captions(dataset, reading=reading)
    pairs = training_pairs(captions)
    assert [video["bytes"] for video in pairs["video"]] == [b"first", b"first", b"second"]
    # One name in all rows, as uploads have it, does not make them one video.
    assert (pairs["caption"][:], pairs["video_id"][:]) == (["x", "y", "z"], [0, 0, 1])
    assert retrieval_set(captions).texts_of_video == [[0, 1], [2]]
    questions = load_questions(dataset, reading=reading)
    assert (questions["question"][:], questions["answer"][:]) == (["p?", "q?"], [["r"], ["s"]])
    assert questions[1]["video"]["bytes"] == b"second"


def test_folder_of_images_as_datasets_takes_it(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "images/train").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images/train/a.png")
    write(tmp_path / "images/train", [{"file_name": "a.png", "text": "red"}], "metadata.jsonl")
    captions = load_captions(open_hub(str(tmp_path / "images"), "train"))
    assert captions["caption"][:] == [["red"]] and captions.features["video"] == Video(decode=False)
    frames, _ = read_video(training_pairs(captions)[0]["video"])
    assert frames.shape == (1, 8, 8, 3) and frames[0, 0, 0].tolist() == [255, 0, 0]


def test_faults_of_the_hub(hub_folder):
    for name, split, columns, message in [
        (hub_folder, "test", {"video": "clip"}, "split test: cannot be loaded"),
        (hub_folder, "train", {}, "has no column `video`, but: clip, text"),
        (f"{hub_folder}/none", "train", {}, "none, split train: cannot be loaded"),
    ]:
        with pytest.raises(InputError, match=message) as raised:
            open_hub(name, split, Reading(columns=columns))
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="row 1: `caption` is missing"):
        reading = Reading(columns={"video": "clip", "caption": "caption"})
        load_captions(open_hub(hub_folder, "train", reading), reading=reading)
