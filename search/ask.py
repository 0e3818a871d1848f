# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Questions about one's own videos: an answer in the model's own words, or the best of some."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..conversion.defaults import default_model, load_for_use
from ..data.annotations import saved_answer_list
from ..errors import ArgumentError, InputError, check_number
from .words import check_words

logger = logging.getLogger(__name__)

# As BLIP's authors have answers written.
GENERATION = {"num_beams": 3, "max_new_tokens": 10}
WHOLE = 32  # tokens of an answer to choose from, which would else be cut as in training


class Answer(NamedTuple):
    """An answer, and its probability among those to choose from; `None` if it is in the model's own words."""

    answer: str
    probability: float | None


class SViTTAnswerer:
    """A model that answers questions about videos.

    answerer = SViTTAnswerer()
    [answer, *others] = answerer.answer("video.mp4", "what is the dog doing?", ["running", "sleeping"])

    Args:
        model_name_or_path: folder or Hub name of a `SViTTForVideoQuestionAnswering`, by default that of
            [`default_model`].
        num_frames: that it sees of a video, by default the model's own.

    Raises:
        InputError: if there is no such model, or it is of another kind.
    """

    def __init__(self, model_name_or_path: str | None = None, num_frames: int | None = None):
        name = default_model("ask") if model_name_or_path is None else model_name_or_path
        self.model, self.processor = load_for_use(name, num_frames, ["SViTTForVideoQuestionAnswering"])
        self.answers = saved_answer_list(name)

    @torch.no_grad()
    def answer(
        self,
        video: str | Path,
        question: str,
        options: Sequence[str] = (),
        top_k: int = 3,
        start: float = 0.0,
        end: float | None = None,
    ) -> list[Answer]:
        """Return the best answers, best first, or one in the model's own words where there are none to choose from.

        Args:
            options: two answers or more to choose from, by default those that the model was trained on, if any.
            top_k: answers to return.
            start, end: the part of the video that the question is about, in seconds.

        Raises:
            InputError: if there is no question, the model knows no word of it or of an answer, or a number is out of
                bounds.
            VideoDecodeError: if the video cannot be read, or ends before `start`.
        """
        if not question.strip():
            raise InputError("There is no question.")
        if isinstance(options, str) or len(options) == 1:  # perhaps several with commas between
            raise ArgumentError("options", f"must be two answers or more, got only {''.join(options)!r:.100}")
        unknown = check_words(self.processor.tokenizer, question)
        for option in options:
            unknown += check_words(self.processor.tokenizer, option, is_answer=True)
        if unknown:
            words = ", ".join(dict.fromkeys(unknown))
            logger.warning("The model does not know some words of the question or its answers: %s", words)
        check_number("top_k", top_k, 1)
        check_number("start", start, 0)
        check_number("end", end, start)
        span = {"path": video, "start": start, "end": end}
        inputs = self.processor(videos=[span], text=[question], return_tensors="pt").to(self.model.device)
        choices = list(dict.fromkeys(options)) or self.answers
        if not choices:
            ids = self.model.generate(**inputs, **GENERATION)
            return [Answer(self.processor.batch_decode(ids, skip_special_tokens=True)[0], None)]
        answer_ids = self.processor.encode_answers(choices, WHOLE if options else None)["input_ids"]
        how = {"num_frames": inputs["pixel_values"].shape[1], "answer_scoring": "likelihood"}
        ranked, probabilities = self.model.rank_answers(**inputs, answer_ids=answer_ids.to(self.model.device), **how)
        pairs = zip(ranked[0, :top_k].tolist(), probabilities[0, :top_k].tolist(), strict=True)
        return [Answer(choices[index], probability) for index, probability in pairs]


def answers_table(answers: list[Answer]) -> str:
    """Return answers as lines of text, with their probabilities in front."""
    numbers = ["" if one.probability is None else f"{one.probability:.3f}  " for one in answers]
    return "\n".join(number + one.answer for number, one in zip(numbers, answers, strict=True))
