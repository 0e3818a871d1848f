# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Question answering: answers as training takes them, ranking in any chunks, options, results and their files."""

import io
import json
import tarfile

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from svitt import SViTTForVideoQuestionAnswering
from svitt.data.annotations import load_questions
from svitt.data.loaders import BadVideoReport, ProcessingArguments
from svitt.data.presets import Split
from svitt.errors import InputError
from svitt.evaluation.answering import (
    AnsweringArguments,
    EncodedAnswers,
    Prediction,
    answer_metrics,
    answer_questions,
    answer_split,
    answer_table,
    check_answers,
    coverage_metrics,
    find_answer_list,
    most_frequent_answers,
    options_of,
    question_set,
    save_answer_list,
    to_training_inputs,
    warn_of_new_decoder,
    what_was_ranked,
    write_predictions,
)
from svitt.evaluation.clips import VideoReader
from svitt.processing_svitt import SViTTProcessor
from svitt.training.start import ConfigArguments, StartArguments, start_training

# Of the demo's words, so that none is [UNK].
ANSWERS = ["red", "a red circle", "blue", "left and then up", "up", "green square", "moves"]


@pytest.fixture(scope="module")
def model_and_processor(demo):
    """The demo's model, with a decoder whose answers are not all as likely."""
    torch.manual_seed(0)
    start = StartArguments(model_name_or_path=str(demo / "model"))
    model, processor = start_training(SViTTForVideoQuestionAnswering, start, ConfigArguments(), ProcessingArguments())
    for name, parameter in model.text_decoder.named_parameters():
        if "predictions" in name or "crossattention" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, processor


@pytest.fixture(scope="module")
def questions(demo):
    """Sixteen questions about four videos, as many about one as the place in this list says."""
    numbers = [0] * 9 + [1] + [2] * 4 + [3] * 2
    texts = ["moves a red circle up", "left", "a triangle and then a blue square hops"]
    rows = [
        {"video": f"test_{video:05d}.mp4", "question": f"{texts[i % 3]} {'up ' * (i % 4)}", "answer": "red"}
        for i, video in enumerate(numbers)
    ]
    file = demo / "sixteen.json"
    file.write_text(json.dumps(rows[5:] + rows[:5]))  # those about the first video do not stand together
    return load_questions(file, demo / "data/videos")


def arguments(**options):
    return AnsweringArguments(**{"num_frames_test": 8, "k_test": 5} | options)


def answer(model_and_processor, questions, args, answers=ANSWERS, is_missing=(), videos_at_once=2, batch_size=3):
    model, processor = model_and_processor
    _, videos, questions_of_video = question_set(questions)
    clips = processor(videos=[video["path"] for video in videos["video"]], num_frames=8, return_tensors="pt")
    missing = torch.isin(torch.arange(len(videos)), torch.tensor(is_missing, dtype=torch.long))
    batches = zip(clips["pixel_values"].split(videos_at_once), missing.split(videos_at_once), strict=True)
    batches = [{"pixel_values": pixel_values, "is_missing": is_missing} for pixel_values, is_missing in batches]
    encoded = EncodedAnswers(answers, options_of(questions), processor)
    return answer_questions(model, batches, questions_of_video, questions, encoded, processor, args, batch_size)


def assert_same(predictions, expected):
    assert predictions.keys() == expected.keys()
    for row, (answers, probabilities) in predictions.items():
        assert answers == expected[row].answers
        assert probabilities == pytest.approx(expected[row].probabilities, abs=1e-5)


# ---- Ranking


@pytest.mark.parametrize("ensemble", ["lse", "mean", "max", "concat"])
@pytest.mark.parametrize("scoring", ["published", "likelihood"])
def test_each_question_is_answered_as_if_asked_alone(model_and_processor, questions, ensemble, scoring):
    args = arguments(eval_frame_ensemble=ensemble, answer_scoring=scoring, strided_clips=ensemble == "mean")
    predictions = answer(model_and_processor, questions, args)
    assert sorted(predictions) == list(range(16))
    assert len({tuple(prediction.probabilities) for prediction in predictions.values()}) > 12
    model, processor = model_and_processor
    answer_ids = processor.encode_answers(ANSWERS)["input_ids"]
    for row in range(0, 16, 5):
        inputs = processor([questions[row]["video"]["path"]], [questions[row]["question"]], num_frames=8)
        inputs = inputs.convert_to_tensors("pt")
        ranked, probs = model.rank_answers(
            **inputs,
            answer_ids=answer_ids,
            k=5,
            ensemble=ensemble,
            answer_scoring=scoring,
            strided_clips=args.strided_clips,
            num_frames=4,
        )
        assert predictions[row].answers == [ANSWERS[place] for place in ranked[0]]
        assert predictions[row].probabilities == pytest.approx(probs[0].tolist(), abs=1e-5)


@given(st.integers(1, 80), st.integers(1, 20), st.integers(1, 5), st.integers(1, 9))
@settings(deadline=None, max_examples=12)
def test_chunks_and_batches_of_any_size_give_the_same_answers(
    model_and_processor, questions, answers_at_once, batch_size, videos_at_once, k
):
    expected = answer(model_and_processor, questions, arguments(k_test=k))
    args, sizes = arguments(k_test=k, answers_at_once=answers_at_once), (videos_at_once, batch_size)
    assert_same(answer(model_and_processor, questions, args, ANSWERS, (), *sizes), expected)


def test_questions_about_missing_videos_have_no_prediction(model_and_processor, questions):
    expected = answer(model_and_processor, questions, arguments())
    predictions = answer(model_and_processor, questions, arguments(), is_missing=[0, 3])
    _, _, rows = question_set(questions)
    assert_same(predictions, {row: expected[row] for row in [*rows[1], *rows[2]]})


def test_questions_about_videos_in_shards_are_answered_as_about_files(model_and_processor, questions, demo, tmp_path):
    model, processor = model_and_processor
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, row in enumerate(questions.select(range(11))):
            tar.add(row["video"]["path"], f"{number}.mp4")
            words = json.dumps({name: row[name] for name in ("question", "answer")}).encode()
            (member := tarfile.TarInfo(f"{number}.json")).size = len(words)
            tar.addfile(member, io.BytesIO(words))
    packed = Split(shards=[str(tmp_path / "a.tar")], rows="questions").load()
    reader = VideoReader(processor, 8, ProcessingArguments(), BadVideoReport(tmp_path / "bad.jsonl"))
    predictions = answer_split(model, question_set(packed), ANSWERS, reader, arguments())
    expected = answer(model_and_processor, questions.select(range(11)), arguments())
    assert_same(dict(enumerate(predictions)), expected)


# ---- Options


def test_only_the_options_of_a_question_are_ranked(model_and_processor, demo, questions):
    rows = [
        {"video": "test_00000.mp4", "question": "moves", "answer": "up", "options": ["up", "a yellow triangle", "red"]},
        {"video": "test_00000.mp4", "question": "moves", "answer": "red"},
        {"video": "test_00001.mp4", "question": "left", "answer": 1, "options": ["blue", "green square"]},
    ]
    (demo / "options.json").write_text(json.dumps(rows))
    chosen = load_questions(demo / "options.json", demo / "data/videos")
    assert chosen["answer"][:] == [["up"], ["red"], ["green square"]]
    args = arguments(k_test=7, answer_scoring="likelihood")
    predictions = answer(model_and_processor, chosen, args)
    of_options, whole, others = (dict(zip(*predictions[row], strict=True)) for row in range(3))
    assert of_options.keys() == set(rows[0]["options"]) and others.keys() == set(rows[2]["options"])
    assert whole.keys() == set(ANSWERS)  # an option that only others have is no answer to it
    assert [sum(one.values()) for one in (of_options, whole, others)] == pytest.approx([1, 1, 1], abs=1e-5)
    # By likelihood, what an option is compared with does not change how it compares.
    assert of_options["up"] / of_options["red"] == pytest.approx(whole["up"] / whole["red"], rel=1e-4)
    # With options everywhere, no list is needed.
    only = chosen.select([0, 2])
    check_answers("test", only, [])
    assert coverage_metrics(only, []) == {"coverage": 100.0, "num_questions": 2}
    assert_same(answer(model_and_processor, only, args, answers=[]), {0: predictions[0], 1: predictions[2]})


# ---- Answers


def table(answers, **columns):
    return Dataset.from_dict({"answer": answers, "question_id": list(range(len(answers)))} | columns)


def test_questions_are_grouped_by_video(questions):
    _, videos, rows = question_set(questions)
    assert [video["path"][-9:] for video in videos["video"]] == [f"0000{i}.mp4" for i in range(4)]
    assert [len(of_one) for of_one in rows] == [9, 1, 4, 2]
    assert sorted(row for of_one in rows for row in of_one) == list(range(16))
    for video, of_one in zip(videos["video"], rows, strict=True):
        assert {questions[row]["video"]["path"] for row in of_one} == {video["path"]}
    embedded = Dataset.from_dict({"video": [{"path": "a", "bytes": b"1"}, {"path": "a", "bytes": b"2"}]})
    assert question_set(embedded).questions_of_video == [[0], [1]]


def test_most_frequent_answers_and_coverage():
    questions = table([["b"], ["a", "a", "c"], ["b", "d"], ["e"]])
    assert most_frequent_answers(questions, 10) == ["b", "a", "c", "d", "e"]
    assert most_frequent_answers(questions, 2) == ["b", "a"]
    assert coverage_metrics(questions, ["b", "a"])["coverage"] == 75.0
    check_answers("test", questions, ["e"])
    with pytest.raises(InputError, match="split test: none of its answers, such as 'b', is in the answer list, .* 'x'"):
        check_answers("test", questions, ["x", "y"])
    with pytest.raises(InputError, match="split test: there is no list of answers to choose from.*--answer_list"):
        check_answers("test", questions, [])
    # One of very many counts, though it is 0.00 % of them.
    many = table([["e"]] + [["b"]] * 30000)
    assert coverage_metrics(many, ["e"])["coverage"] == 0.0
    check_answers("test", many, ["e"])


def test_length_of_answers(model_and_processor, demo):
    processor, config = SViTTProcessor.from_pretrained(demo / "model"), model_and_processor[0].config
    for length, expected in ((None, 5), (7, 7)):
        AnsweringArguments(max_answer_length=length).set_answer_length(processor, config)
        assert processor.encode_answers("a red circle moves up")["input_ids"].shape == (1, expected)
    with pytest.raises(InputError, match="`max_answer_length` must be from 2 to 32, got 33"):
        AnsweringArguments(max_answer_length=33).set_answer_length(processor, config)


def test_a_decoder_that_is_new_is_warned_of(model_and_processor, tmp_path, recwarn):
    model = model_and_processor[0]
    with pytest.warns(UserWarning, match="The answers mean nothing yet: this model was never"):
        warn_of_new_decoder(model, None)
    model.save_pretrained(tmp_path)
    recwarn.clear()
    warn_of_new_decoder(SViTTForVideoQuestionAnswering.from_pretrained(tmp_path), str(tmp_path))
    assert not recwarn.list


def test_where_the_answer_list_comes_from(tmp_path):
    training, model = table([["b"], ["a"], ["b"]]), str(tmp_path)
    (tmp_path / "given.json").write_text('["given"]')
    (tmp_path / "dataset.json").write_text('["dataset"]')
    (tmp_path / "empty").mkdir()
    save_answer_list(["saved", "é"], tmp_path)
    given, args = AnsweringArguments(answer_list=str(tmp_path / "given.json")), AnsweringArguments(num_answers=1)
    assert find_answer_list(given, tmp_path / "dataset.json", training, model) == ["given"]
    assert find_answer_list(args, tmp_path / "dataset.json", training, model) == ["dataset"]
    assert find_answer_list(args, None, training, model) == ["b"]
    # Where nothing is trained:
    assert find_answer_list(args, None, None, model) == ["saved", "é"]
    assert find_answer_list(args, None, None, str(tmp_path / "empty")) == []
    assert find_answer_list(args, None, None, None) == []


def test_weights_of_answers_equal_the_original(golden, demo):
    processor = SViTTProcessor.from_pretrained(demo / "model")
    clips = {"clips": torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)}
    for raw, (answers, weights) in golden("case10_data_helpers").expected["answers_with_weights"]:
        batch = {**clips, "input_ids": torch.ones(1, 1), "answers": [raw if isinstance(raw, list) else [raw]]}
        inputs = to_training_inputs(batch, processor)
        assert inputs["answer_weights"].tolist() == pytest.approx(weights)
        assert inputs["answers_per_question"].tolist() == [len(answers)]
        expected = processor.encode_answers([one.removesuffix(" [SEP]") for one in answers])
        assert torch.equal(inputs["labels"], expected["input_ids"])
        assert torch.equal(inputs["decoder_attention_mask"], expected["attention_mask"])
        assert inputs["pixel_values"].shape == (1, 4, 3, 32, 32) and "answers" not in inputs


# ---- Results


def test_metrics_and_table():
    answers = [["red"], ["red"], ["up"], ["left", "up"]]
    questions = table(answers, question_type=[["color"], ["color"], ["way"], ["way", "hard"]])
    predictions = [Prediction(["red"], [0.9]), Prediction(["up"], [0.9]), None, Prediction(["left"], [0.6])]
    metrics = answer_metrics(questions, predictions, ["red", "up"])
    assert metrics == {
        "accuracy": {"overall": 50.0, "by_type": {"color": 50.0, "hard": 100.0, "way": 50.0}},
        "most_frequent": {"overall": 50.0, "by_type": {"color": 100.0, "hard": 100.0, "way": 100.0}},
        "coverage": 100.0,
        "num_questions": 4,
        "num_missed": 1,
    }
    lines = answer_table("test", metrics, {"questions": 4, "videos": 2, "answers": 1500, "options": 0}).splitlines()
    assert lines[2].split() == ["accuracy_color", "50.00", "100.00"]
    assert lines[-1] == "  4 questions, 2 videos, 1,500 answers; 100.00 % of 4 questions have a right answer to choose"


def test_chance_among_options():
    columns = {"options": [["a", "b"], ["a", "b", "c", "d"]], "question_type": [["x"], ["x", "y"]]}
    questions = table([["a"], ["a", "a", "b"]], **columns)
    metrics = answer_metrics(questions, [Prediction(["a"], [0.9]), Prediction(["c"], [0.9])], [])
    assert metrics["chance"] == {"overall": 50.0, "by_type": {"x": 50.0, "y": 50.0}}
    lines = answer_table("test", metrics, {}).splitlines()
    assert lines[0].split() == ["test", "model", "most", "frequent", "answer", "chance"]
    assert lines[1].split() == ["accuracy", "50.00", "100.00", "50.00"]


def test_what_was_ranked(questions, demo, capsys):
    processor, split = SViTTProcessor.from_pretrained(demo / "model"), question_set(questions)
    ranked = what_was_ranked("test", split, ["up " * 5, *ANSWERS], processor)
    expected = {"questions": 16, "questions_cut": 0, "videos": 4, "answers": 8, "options": 0, "answers_cut": 2}
    assert ranked == expected  # five words and four, with those of begin and end
    assert capsys.readouterr().out == "test: 2 of 8 answers are longer than 5 tokens and were cut\n"
    with_options = questions.add_column("options", [["up", "red"]] * 16)
    ranked = what_was_ranked("test", question_set(with_options), ANSWERS, processor)
    assert (ranked["answers"], ranked["options"], ranked["answers_cut"]) == (0, 32, 0)


def test_answers_that_may_be_numbers_of_options_are_warned_of(recwarn):
    with pytest.warns(UserWarning, match="split train: every answer is a number below 10: .* map `options` in `col"):
        check_answers("train", table([["2"], ["0", "9"]]), ["2"])
    recwarn.clear()
    check_answers("train", table([["2"], ["10"]]), ["2"])
    check_answers("train", table([["2"]], options=[["2", "3"]]), [])
    assert not recwarn.list


def test_files_of_predictions(tmp_path):
    videos = [{"path": "a.mp4", "bytes": None}, {"path": "b.mp4", "bytes": None}]
    questions = table([["cat"], ["é", "dog"]], video=videos, question=["p?", "q?"])
    write_predictions(tmp_path, "test", questions, [None, Prediction(["é", "cat"], [0.75, 0.25])])
    assert json.loads((tmp_path / "predictions_test.json").read_text()) == [{"question_id": 1, "answer": "é"}]
    missed, answered = pq.read_table(tmp_path / "predictions_test.parquet").to_pylist()
    assert answered == {
        "question_id": 1,
        "video": "b.mp4",
        "question": "q?",
        "references": ["é", "dog"],
        "answer": "é",
        "probability": 0.75,
        "best_answers": ["é", "cat"],
        "best_probabilities": [0.75, 0.25],
    }
    assert (missed["question_id"], missed["answer"], missed["best_answers"]) == (0, None, None)
