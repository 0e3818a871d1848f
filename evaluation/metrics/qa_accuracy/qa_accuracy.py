# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Accuracy: the share of questions, in percent, whose answer is exactly one that an annotator gave. A question without
an answer counts as wrong. Where all questions have ten annotators' answers, soft accuracy (VQA) as well: an answer that
n of them gave counts min(n / 3, 1).

Also an `evaluate` module, loaded by the path of its folder.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import datasets
import evaluate

ARGUMENTS = """
Args:
    predictions: the answer to each question, empty where there is none.
    references: for each question, the annotators' answers.
    question_types: for each question, its type, or a list of several, or none (`None`, or an empty list).

Returns:
    `overall`; `soft` if there are ten answers to each question; with `question_types`, `by_type`, the accuracy of each.
    In percent, rounded to 2 decimals.

Raises:
    ValueError: if there are no questions, or one has no reference or no place in the other lists.

Examples:
    >>> accuracy = evaluate.load("evaluation/metrics/qa_accuracy")
    >>> accuracy.compute(predictions=["cat", ""], references=[["cat"], ["dog"]])
    {'overall': 50.0}
"""


def accuracies(predictions, references, question_types=None) -> dict:
    if not references or not all(references):
        raise ValueError("`references` must give every question an answer, and hold at least one.")
    # No answer is never right, whatever the annotators wrote.
    counts = [right.count(answer) if answer else 0 for answer, right in zip(predictions, references, strict=True)]
    results = by_type(percent, [count > 0 for count in counts], question_types)
    if all(len(right) == 10 for right in references):
        results["soft"] = round(percent([min(count / 3, 1) for count in counts]), 2)
    return results


def percent(shares: Sequence[float]) -> float:
    return 100 * sum(shares) / len(shares)


def by_type(measure: Callable, rows: Sequence, question_types: Sequence | None) -> dict:
    """Return a measure of all rows (`overall`), and of those of each type (`by_type`), rounded to 2 decimals."""
    results: dict = {"overall": round(measure(rows), 2)}
    if question_types is not None:
        rows_of = defaultdict(list)
        for row, types in zip(rows, question_types, strict=True):
            for name in [types] if isinstance(types, str) else types or []:
                rows_of[name].append(row)
        results["by_type"] = {name: round(measure(some), 2) for name, some in sorted(rows_of.items())}
    return results


class QAAccuracy(evaluate.Metric):
    def _info(self):
        features = {
            "predictions": datasets.Value("string"),
            "references": datasets.List(datasets.Value("string")),
        }
        return evaluate.MetricInfo(__doc__, "", datasets.Features(features), inputs_description=ARGUMENTS)

    def _compute(self, predictions, references, question_types=None):
        return accuracies(predictions, references, question_types)
