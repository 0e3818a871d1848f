# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Retrieval recall and accuracy of answers, as `evaluate` loads them; the contract suite has the original's figures."""

from pathlib import Path

import evaluate
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recall():
    return evaluate.load(str(ROOT / "evaluation/metrics/retrieval_recall"))


@pytest.fixture(scope="module")
def accuracy():
    return evaluate.load(str(ROOT / "evaluation/metrics/qa_accuracy"))


@pytest.mark.parametrize(
    ("scores", "references", "kwargs", "message"),
    [
        ([[np.nan, 0.0]], [[0, 1]], {}, "NaN"),
        ([[0.0, 1.0]], [[0]], {}, "every text"),
        ([[0.0, 1.0]], [[0, 1]], {"text_to_video": [[0.0, 1.0]]}, r"must be \(2, 1\)"),
    ],
)
def test_bad_input(recall, scores, references, kwargs, message):
    with pytest.raises(ValueError, match=message):
        recall.compute(predictions=scores, references=references, **kwargs)


# ---- Answers


def test_a_type_may_be_a_string_or_none(accuracy):
    metrics = accuracy.compute(
        predictions=["cat", "cat", "cat"],
        references=[["cat"], ["dog"], ["cat"]],
        question_types=["what", ["what"], None],
    )
    assert metrics == {"overall": 66.67, "by_type": {"what": 50.0}}


def test_no_answer_is_wrong_even_if_an_annotator_gave_none(accuracy):
    assert accuracy.compute(predictions=["", "cat"], references=[[""], ["", "cat"]]) == {"overall": 50.0}
    assert accuracy.compute(predictions=[""], references=[[""] * 10]) == {"overall": 0.0, "soft": 0.0}


def test_bad_input_of_accuracy(accuracy):
    for predictions, references, types in ((["cat"], [[]], None), ([], [], None), (["cat"], [["cat"]], ["a", "b"])):
        with pytest.raises(ValueError):
            accuracy.compute(predictions=predictions, references=references, question_types=types)
