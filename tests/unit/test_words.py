# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Words that a model does not know are named; what says nothing to it is refused."""

import logging

import pytest
import torch

from svitt import SViTTForVideoQuestionAnswering, SViTTModel, SViTTProcessor
from svitt.errors import InputError
from svitt.search import SViTTAnswerer
from svitt.search.words import check_words, unknown_words, vocabulary


@pytest.fixture(scope="module")
def tokenizer(demo):
    return SViTTProcessor.from_pretrained(demo / "model").tokenizer


@pytest.fixture(scope="module")
def answerer(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qa")
    torch.manual_seed(0)
    SViTTForVideoQuestionAnswering(SViTTModel.from_pretrained(demo / "model").config).save_pretrained(folder)
    SViTTProcessor.from_pretrained(demo / "model").save_pretrained(folder)
    return SViTTAnswerer(str(folder))


def test_unknown_words_are_named_in_order(tokenizer):
    assert unknown_words(tokenizer, "A red DOG, then a dog's ball!") == ["dog", "dog's", "ball"]
    assert unknown_words(tokenizer, "a red circle moves right") == []
    assert check_words(tokenizer, "a red dog") == ["dog"]


@pytest.mark.parametrize("text", ["zzz", "", " ?!", "собака"])
def test_what_holds_no_known_word_is_refused(tokenizer, text):
    with pytest.raises(InputError, match="The model knows no word of"):
        check_words(tokenizer, text)


@pytest.mark.parametrize("text", ["a dog catches a frisbee", "and then a", "to the"])
def test_words_that_describe_nothing_are_refused(tokenizer, text):
    with pytest.raises(InputError, match="words that describe nothing"):
        check_words(tokenizer, text)
    assert check_words(tokenizer, "to a", is_answer=True) == []


def test_a_small_vocabulary_is_a_list(tokenizer):
    assert {"red", "circle", "moves"} <= set(vocabulary(tokenizer)) and "[UNK]" not in vocabulary(tokenizer)


def test_questions_and_answers_are_checked(answerer, demo, caplog):
    video = demo / "data/videos/test_00000.mp4"
    with caplog.at_level(logging.WARNING, "svitt"):
        assert answerer.answer(video, "a red dog", ["red", "blue cat"])
    assert "does not know some words of the question or its answers: dog, cat" in caplog.text
    for question, options in (("who jumped", []), ("red", ["zebra", "blue"])):
        with pytest.raises(InputError, match="The model knows no word of"):
            answerer.answer(video, question, options)
