# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Numbers that make no sense are refused before anything is done, by the option's name."""

import pytest

from svitt.data.loaders import ProcessingArguments
from svitt.errors import InputError
from svitt.evaluation.answering import AnsweringArguments
from svitt.evaluation.retrieval import RetrievalArguments
from svitt.training.checkpoints import CheckpointArguments
from svitt.training.loop import LoggingArguments, OptimizationArguments

GROUPS = [
    AnsweringArguments,
    CheckpointArguments,
    LoggingArguments,
    OptimizationArguments,
    ProcessingArguments,
    RetrievalArguments,
]


@pytest.mark.parametrize("group", GROUPS)
def test_numbers_have_bounds(group):
    group()
    for name, bound in group.at_least.items():
        assert getattr(group(**{name: bound}), name) == bound
        for value in (bound - 1, float("nan")):
            with pytest.raises(InputError, match=f"--{name} {value}: must be at least {bound}."):
                group(**{name: value})


def test_bounds_of_evaluation_hold_for_all_tasks():
    for group in (AnsweringArguments, RetrievalArguments):
        for name in ("num_frames_test", "eval_batch_size", "k_test"):
            with pytest.raises(InputError, match=f"--{name} -4: must be at least 1."):
                group(**{name: -4})
