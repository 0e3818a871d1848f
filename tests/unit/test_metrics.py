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


def test_ranks_are_counted_from_1_and_the_best_right_candidate_counts(recall):
    """Video 0 has texts 0 and 3, which are third and second; video 1 has text 1, the first; 2 is the last."""
    scores = np.array([[0.2, 0.9, 0.1, 0.3], [0.0, 0.5, 0.1, 0.2], [0.9, 0.8, -np.inf, 0.7]])
    references = [[0, 3], [1], [2]]
    found = recall.compute(predictions=scores, references=references, with_ranks=True)
    assert (found["txt_median_rank"], found["txt_mean_rank"]) == (2.0, round((2 + 1 + 4) / 3, 2))
    # Of the texts, 0 and 3 find video 0 behind video 2; 1 finds video 1 last; 2, of a video that is missing, is last.
    assert (found["img_median_rank"], found["img_mean_rank"]) == (2.5, (2 + 3 + 3 + 2) / 4)
    without = recall.compute(predictions=scores, references=references)
    assert without == {name: figure for name, figure in found.items() if not name.endswith("_rank")}


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
