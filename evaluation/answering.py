# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Question answering: lists of answers, what training takes of them, ranking them for all questions of a split.

A process answers the questions about its share of the videos, each of which is read and encoded once for all that is
asked about it.
"""

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.hf_argparser import HfArg

from ..configuration_svitt import SViTTConfig
from ..data.annotations import ANSWER_LIST, Member, load_answer_list, saved_answer_list, video_keys, video_names
from ..data.loaders import count_cut, to_model_inputs
from ..distributed import fail_together, share_of
from ..errors import InputError, check_number
from ..processing_svitt import SViTTProcessor
from .clips import ClipArguments, VideoReader, in_words, metrics_table
from .metrics.qa_accuracy.qa_accuracy import accuracies, by_type, percent

NUM_PREDICTED = 10  # answers of a question that are written down
DIGITS = frozenset("0123456789")


@dataclass
class AnsweringArguments(ClipArguments):
    """Which answers to choose from, and how."""

    _argument_group_name = "answering"
    at_least = ClipArguments.at_least | {"num_answers": 1, "k_test": 1, "answers_at_once": 1, "max_answer_length": 2}

    answer_list: str | None = HfArg(
        default=None,
        help="JSON list of the answers to choose from. By default that of the dataset, or the most frequent answers of "
        "the split `train`, which a model keeps that was trained with them.",
    )
    num_answers: int = HfArg(default=1500, help="Length of a list made of the split `train`, at most.")
    max_answer_length: int | None = HfArg(
        default=None, help="Tokens of an answer, with those of begin and end; by default the model's own, 5 if new."
    )
    k_test: int = HfArg(default=128, help="Answers, the best by their first word, that are ranked.")
    answer_scoring: Literal["published", "likelihood"] = HfArg(
        default="published",
        help="Score of an answer: the published one counts its first word twice, `likelihood` once.",
    )
    answers_at_once: int = HfArg(
        default=256, help="Answers decoded at once, of all clips and questions; bounds memory."
    )

    def set_answer_length(self, processor: SViTTProcessor, config: SViTTConfig):
        """Cut answers as asked; raise an `InputError` for a length that the decoder has no positions for."""
        if self.max_answer_length is not None:
            check_number("max_answer_length", self.max_answer_length, 2, config.decoder_config.max_position_embeddings)
            processor.max_answer_length = self.max_answer_length


# ---- Questions and answers


class QuestionSet(NamedTuple):
    """Questions about V videos; `questions_of_video[v]` are the indices of those about video v."""

    questions: Dataset
    videos: Dataset
    questions_of_video: list[list[int]]


def question_set(questions: Dataset) -> QuestionSet:
    """Put rows of [`load_questions`] about one video, or span of it, together."""
    places = defaultdict(list)
    for index, key in enumerate(video_keys(questions).to_pylist()):
        places[key].append(index)
    first = [indices[0] for indices in places.values()]
    of_video = {"video", "start", "end", "where", *Member._fields[1:]}
    columns = [name for name in questions.column_names if name in of_video]
    return QuestionSet(questions, questions.select_columns(columns).select(first), list(places.values()))


def find_answer_list(
    args: AnsweringArguments, of_dataset: Path | None, training: Dataset | None, model_name_or_path: str | None
) -> list[str]:
    """Return the answers to choose from, see `--answer_list`; none where nothing says what they are."""
    file = args.answer_list or of_dataset
    if file is None and training is not None:
        return most_frequent_answers(training, args.num_answers)
    if file is not None:
        return load_answer_list(file)
    return saved_answer_list(model_name_or_path) if model_name_or_path else []


def most_frequent_answers(questions: Dataset, num_answers: int) -> list[str]:
    """Return the answers that most annotators gave, the most frequent first; at equal numbers, in the order of rows."""
    counts = Counter(answer for answers in questions["answer"] for answer in answers)
    return [answer for answer, _ in counts.most_common(num_answers)]


def save_answer_list(answers: Sequence[str], folder: Path):
    (folder / ANSWER_LIST).write_text(json.dumps(list(answers), ensure_ascii=False), encoding="utf-8")


def options_of(questions: Dataset) -> list[list[str]]:
    """Return the options of each question, empty where there are none."""
    return questions["options"][:] if "options" in questions.column_names else [[]] * len(questions)


def are_covered(questions: Dataset, answers: Sequence[str]) -> list[bool]:
    """Return which questions have a right answer in the list or among their options."""
    listed = set(answers)
    rows = zip(options_of(questions), questions["answer"], strict=True)
    return [bool(options) or not listed.isdisjoint(right) for options, right in rows]


def coverage_metrics(questions: Dataset, answers: Sequence[str]) -> dict[str, float]:
    """Return how many questions there are, and the share of them, in percent, that have a right answer to choose."""
    return {"coverage": round(percent(are_covered(questions, answers)), 2), "num_questions": len(questions)}


def check_answers(split: str, questions: Dataset, answers: Sequence[str]):
    """Raise an `InputError` where no question could be answered rightly, which no figure would tell apart; warn where
    answers look like numbers of options that nobody has named."""
    options, given = options_of(questions), chain.from_iterable(questions["answer"])
    if not any(options) and DIGITS.issuperset(given) and PartialState().is_main_process:
        which = "if these are numbers of options, map `options` in `columns`"
        warnings.warn(f"split {split}: every answer is a number below 10: {which}.", stacklevel=2)
    if not answers and not all(options):
        raise InputError(
            f"split {split}: there is no list of answers to choose from, neither with the dataset nor with the model; "
            "give --answer_list, or `options` in each row."
        )
    if not any(are_covered(questions, answers)):
        raise InputError(
            f"split {split}: none of its answers, such as {questions[0]['answer'][0]!r:.100}, is in the answer list, "
            f"which has {len(answers)}, such as {answers[0]!r:.100}."
        )


def warn_of_new_decoder(model: PreTrainedModel, model_name_or_path: str | None):
    """Warn where a model to evaluate was not saved as one that answers questions."""
    name = type(model).__name__
    if model_name_or_path is None or name not in (model.config.architectures or [name]):
        which = model_name_or_path or "this model"
        warnings.warn(f"The answers mean nothing yet: {which} was never trained to answer questions.", stacklevel=2)


def to_training_inputs(batch: dict, processor: SViTTProcessor) -> dict:
    """Return [`to_model_inputs`] of a batch of questions, with its answers as the model takes them.

    Each different answer of a question comes once, with the share of the annotators who gave it as its weight.
    """
    batch = to_model_inputs(batch, processor)
    device = batch["input_ids"].device
    counts = [Counter(answers) for answers in batch.pop("answers")]
    tokens = processor.encode_answers(list(chain(*counts))).to(device)
    weights = [count / answers.total() for answers in counts for count in answers.values()]
    return batch | {
        "labels": tokens["input_ids"],
        "decoder_attention_mask": tokens["attention_mask"],
        "answer_weights": torch.tensor(weights, device=device),
        "answers_per_question": torch.tensor([len(answers) for answers in counts], device=device),
    }


# ---- Ranking


class Prediction(NamedTuple):
    """The best answers to a question, and their probabilities among those that were ranked."""

    answers: list[str]
    probabilities: list[float]


class EncodedAnswers:
    """A list of answers, and the options of questions that have some, encoded."""

    def __init__(self, answers: Sequence[str], options: Iterable[list[str]], processor: SViTTProcessor):
        self.answers = list(dict.fromkeys(chain(answers, *options)))
        self.places = {answer: place for place, answer in enumerate(self.answers)}
        self.listed = list(range(len(answers)))
        self.tokens = processor.encode_answers(self.answers)

    def candidates(self, options: list[list[str]]) -> torch.Tensor:
        """Return indices (B, n) of what each of B questions may be answered by, -1 where there are fewer than n."""
        rows = [torch.tensor([self.places[option] for option in one] or self.listed) for one in options]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


@torch.inference_mode()
def answer_questions(
    model: PreTrainedModel,
    video_batches: Iterable[dict],
    questions_of_video: Iterable[list[int]],
    questions: Dataset,
    answers: EncodedAnswers,
    processor: SViTTProcessor,
    args: AnsweringArguments,
    batch_size: int,
) -> dict[int, Prediction]:
    """Answer the questions about videos, `batch_size` questions at once, and return the predictions by row.

    Args:
        model: bare (not wrapped for training); used in evaluation mode.
        video_batches: batches of `pixel_values` (V, frames, channels, height, width) and `is_missing` (V,): questions
            about such videos get no prediction.
        questions_of_video: for each video, the rows of its questions among `questions`, of [`load_questions`].
    """
    model.eval()
    num_frames = processor.video_processor.num_frames
    options, texts = options_of(questions), questions["question"][:]
    remaining, predictions = iter(questions_of_video), {}
    for batch in video_batches:
        num_videos = len(batch["pixel_values"])
        clips = args.split(batch["pixel_values"].to(model.device), num_frames)
        tokens = model.encode_video(clips).unflatten(0, (num_videos, -1))
        rows_of_videos = zip(islice(remaining, num_videos), batch["is_missing"].tolist(), strict=True)
        asked = [(v, row) for v, (rows, is_missing) in enumerate(rows_of_videos) if not is_missing for row in rows]
        for start in range(0, len(asked), batch_size):
            videos, rows = zip(*asked[start : start + batch_size], strict=True)
            text = processor(text=[texts[row] for row in rows], return_tensors="pt").to(model.device)
            ranked, probs = model.rank_answers(
                None,
                text["input_ids"],
                text["attention_mask"],
                answers.tokens["input_ids"].to(model.device),
                answers.tokens["attention_mask"].to(model.device),
                candidates=answers.candidates([options[row] for row in rows]).to(model.device),
                k=args.k_test,
                ensemble=args.eval_frame_ensemble,
                answer_scoring=args.answer_scoring,
                chunk_size=args.answers_at_once,
                video_hidden_states=tokens[list(videos)],
            )
            best = (tensor[:, :NUM_PREDICTED].tolist() for tensor in (ranked, probs))
            for row, places, probabilities in zip(rows, *best, strict=True):
                names = [answers.answers[place] for place in places if place >= 0]
                predictions[row] = Prediction(names, probabilities[: len(names)])
    return predictions


def answer_split(
    model: PreTrainedModel,
    question_set: QuestionSet,
    answers: Sequence[str],
    reader: VideoReader,
    args: AnsweringArguments,
) -> list[Prediction | None]:
    """Return predictions for all questions of a split, on all processes, which share the videos; None for bad ones.

    Raises:
        InputError: on all processes, when one of them cannot read a video.
    """
    questions, videos, questions_of_video = question_set
    encoded = EncodedAnswers(answers, options_of(questions), reader.processor)
    asked = share_of(questions_of_video), questions, encoded, reader.processor, args, reader.batch_size
    share = fail_together(answer_questions, model, reader.read(videos, model.device), *asked)
    predictions = dict(chain(*(part.items() for part in gather_object([share]))))
    return [predictions.get(row) for row in range(len(questions))]


# ---- Results


def answer_metrics(questions: Dataset, predictions: Sequence[Prediction | None], answers: Sequence[str]) -> dict:
    """Return accuracies, overall and by type, and what they are to be compared with, in percent.

    Returns:
        `accuracy`, see [`accuracies`]; `most_frequent`, of answering all questions of the split, or of a type, by its
        most frequent answer; if all have options, `chance`, of one of these at random; `coverage`, the share of the
        questions with a right answer in the list; `num_questions`; and `num_missed`, without a prediction.
    """
    types = questions["question_type"][:] if "question_type" in questions.column_names else None
    references, options = questions["answer"][:], options_of(questions)
    given = [prediction.answers[0] if prediction else "" for prediction in predictions]
    metrics = {
        "accuracy": accuracies(given, references, types),
        "most_frequent": by_type(share_of_most_frequent, references, types),
    }
    if all(options):
        shares = [len(set(right)) / len(choices) for right, choices in zip(references, options, strict=True)]
        metrics["chance"] = by_type(percent, shares, types)
    num_missed = sum(prediction is None for prediction in predictions)
    return metrics | coverage_metrics(questions, answers) | {"num_missed": num_missed}


def share_of_most_frequent(references: list[list[str]]) -> float:
    counts = Counter(answer for answers in references for answer in set(answers))
    return 100 * max(counts.values()) / len(references)


def flat_metrics(accuracies: dict) -> dict[str, float]:
    """Return accuracies in one level, for tables and cards: `accuracy`, `soft_accuracy`, `accuracy_<type>`."""
    flat = {"accuracy": accuracies["overall"]}
    if "soft" in accuracies:
        flat["soft_accuracy"] = accuracies["soft"]
    return flat | {f"accuracy_{name}": value for name, value in accuracies.get("by_type", {}).items()}


def compared(metrics: dict) -> dict[str, dict[str, float]]:
    """Return [`flat_metrics`] of the model and of what it is compared with, by name."""
    names = {"accuracy": "model", "most_frequent": "most frequent answer", "chance": "chance"}
    return {name: flat_metrics(metrics[key]) for key, name in names.items() if key in metrics}


def what_was_ranked(split: str, asked: QuestionSet, answers: Sequence[str], processor: SViTTProcessor) -> dict:
    """Return what figures of a split depend on: numbers of its questions and videos, and of what is chosen from."""
    questions, videos, _ = asked
    options = options_of(questions)
    answers = [] if all(options) else answers
    return {
        "questions": len(questions),
        "questions_cut": count_cut(split, "questions", questions["question"][:], processor),
        "videos": len(videos),
        "answers": len(answers),
        "options": sum(map(len, options)),
        "answers_cut": count_cut(split, "answers", list(dict.fromkeys(chain(answers, *options))), processor),
    }


def answer_table(split: str, metrics: dict, ranked: dict[str, int]) -> str:
    """Return accuracies of [`answer_metrics`], and what was ranked, as lines of text."""
    columns = compared(metrics)
    rows = [
        (f"  {row}", {name: figures[row] for name, figures in columns.items() if row in figures})
        for row in columns["model"]
    ]
    return metrics_table(split, rows, f"{in_words(ranked)}; {coverage_line(metrics)}")


def coverage_line(metrics: dict) -> str:
    return f"{metrics['coverage']:.2f} % of {metrics['num_questions']:,} questions have a right answer to choose"


def write_predictions(folder: Path, split: str, questions: Dataset, predictions: Sequence[Prediction | None]):
    """Write `predictions_<split>.json`, in the original's format, and `.parquet`, with the best answers of each
    question and their probabilities. Questions without a prediction are left out of the former, null in the latter.
    """
    table = {
        "question_id": questions["question_id"][:],
        "video": video_names(questions),
        "question": questions["question"][:],
        "references": questions["answer"][:],
        "answer": [one and one.answers[0] for one in predictions],
        "probability": [one and one.probabilities[0] for one in predictions],
        "best_answers": [one and one.answers for one in predictions],
        "best_probabilities": [one and one.probabilities for one in predictions],
    }
    pq.write_table(pa.table(table), folder / f"predictions_{split}.parquet")
    answers = zip(table["question_id"], table["answer"], strict=True)
    answered = [{"question_id": id, "answer": answer} for id, answer in answers if answer is not None]
    (folder / f"predictions_{split}.json").write_text(json.dumps(answered, ensure_ascii=False), encoding="utf-8")
