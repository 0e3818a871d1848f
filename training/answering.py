# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Question answering: lists of answers, what training takes of them, ranking them for all questions of a split.

V videos of C clips of N tokens, B questions, a list of A answers, width D. A process answers the questions about its
share of the videos, each of which is read and encoded once for all that is asked about it.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import evaluate
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.utils import cached_file

from ..modeling_svitt import split_clips
from ..processing_svitt import SViTTProcessor
from .data import load_answer_list
from .evaluation import ClipArguments
from .loaders import BadVideoReport, ProcessingArguments, model_batches, to_model_inputs, video_loader
from .presets import Preset, Split
from .processes import InputError, fail_together, share_of

METRICS = Path(__file__).parent.parent / "metrics"
ANSWER_LIST = "answer_list.json"  # beside a model that was trained with it
NO_ERRORS = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")}
NUM_PREDICTED = 10  # answers of a question that are written down


@dataclass
class AnsweringArguments(ClipArguments):
    """Which answers to choose from, and how."""

    _argument_group_name = "answering"
    at_least = ClipArguments.at_least | {
        "num_answers": 1,
        "k_test": 1,
        "answers_at_once": 1,
        "max_answer_length": 2,
        "max_question_length": 2,
    }

    answer_list: str | None = field(
        default=None,
        metadata={
            "help": "JSON list of the answers to choose from. By default that of the dataset, or the most frequent "
            "answers of the split `train`, or where nothing is trained, those of the model."
        },
    )
    eval_batch_size: int = field(
        default=32, metadata={"help": "Videos encoded, and questions answered, at once by one process."}
    )
    num_answers: int = field(default=1500, metadata={"help": "Length of a list made of the split `train`, at most."})
    max_question_length: int | None = field(
        default=None, metadata={"help": "Tokens of a question; for questions, the same as --max_text_length."}
    )
    max_answer_length: int = field(default=5, metadata={"help": "Tokens of an answer, with those of begin and end."})
    k_test: int = field(default=128, metadata={"help": "Answers, the best by their first word, that are ranked."})
    answer_scoring: str = field(
        default="published",
        metadata={
            "choices": ["published", "likelihood"],
            "help": "Score of an answer: the published one counts its first word twice, `likelihood` once.",
        },
    )
    answers_at_once: int = field(
        default=256, metadata={"help": "Answers decoded at once, of all clips and questions; bounds memory."}
    )


# ---------------------------------------------------------------------------------------------------------------------
# Questions and answers
# ---------------------------------------------------------------------------------------------------------------------


class QuestionSet(NamedTuple):
    """Questions about V videos; `questions_of_video[v]` are the indices of those about video v."""

    questions: Dataset
    videos: Dataset
    questions_of_video: list[list[int]]


def question_set(questions: Dataset) -> QuestionSet:
    """Rows of [`load_questions`], those about one file together; embedded videos are taken to be different ones."""
    are_files = video_field(questions, "bytes").null_count == len(questions)
    keys = video_field(questions, "path").to_pylist() if are_files else range(len(questions))
    places = defaultdict(list)
    for index, key in enumerate(keys):
        places[key].append(index)
    first = [indices[0] for indices in places.values()]
    return QuestionSet(questions, questions.select_columns("video").select(first), list(places.values()))


def video_field(questions: Dataset, field: str) -> pa.ChunkedArray:
    """`path` or `bytes` of all videos, without making a dictionary of each."""
    return pc.struct_field(questions.select_columns("video").with_format("arrow")[:]["video"], field)


def load_question_sets(splits: dict[str, Split], args: ProcessingArguments) -> dict[str, QuestionSet]:
    """The sets of all splits that are not to train on."""
    return {
        name: question_set(split.load(missing_videos=args.missing_videos(is_training=False)))
        for name, split in splits.items()
        if not name.startswith("train")
    }


def most_frequent_answers(questions: Dataset, num_answers: int) -> list[str]:
    """The answers that most annotators gave, the most frequent first; at equal numbers, in the order of the rows."""
    counts = Counter(answer for answers in questions["answer"] for answer in answers)
    return [answer for answer, _ in counts.most_common(num_answers)]


def find_answer_list(
    args: AnsweringArguments, preset: Preset, training: Dataset | None, model_name_or_path: str | None
) -> list[str]:
    """The answers to choose from, see `--answer_list`; none where nothing says what they are."""
    file = args.answer_list or preset.answer_list
    if file is not None:
        return load_answer_list(file)
    if training is not None:
        return most_frequent_answers(training, args.num_answers)
    own = model_name_or_path and cached_file(model_name_or_path, ANSWER_LIST, **NO_ERRORS)
    return load_answer_list(own) if own else []


def save_answer_list(answers: Sequence[str], folder: Path):
    (folder / ANSWER_LIST).write_text(json.dumps(list(answers), ensure_ascii=False), encoding="utf-8")


def options_of(questions: Dataset) -> list[list[str]]:
    """The options of each question, empty where there are none."""
    return questions["options"][:] if "options" in questions.column_names else [[]] * len(questions)


def answer_coverage(questions: Dataset, answers: Sequence[str]) -> float:
    """Share of the questions, in percent, that have a right answer in the list or among their options."""
    listed = set(answers)
    covered = [
        bool(options) or not listed.isdisjoint(right)
        for options, right in zip(options_of(questions), questions["answer"], strict=True)
    ]
    return round(100 * sum(covered) / len(covered), 2)


def check_answers(split: str, questions: Dataset, answers: Sequence[str]):
    """Raise an `InputError` where no question could be answered rightly."""
    if not answers and not all(options_of(questions)):
        raise InputError(
            f"split {split}: there is no list of answers to choose from, neither with the dataset nor with the model; "
            "give --answer_list, or `options` in each row."
        )
    if answer_coverage(questions, answers) == 0:
        raise InputError(
            f"split {split}: none of its answers, such as {questions[0]['answer'][0]!r:.100}, is in the answer list, "
            f"which has {len(answers)}, such as {answers[0]!r:.100}."
        )


def to_training_inputs(batch: dict, processor: SViTTProcessor, max_answer_length: int) -> dict:
    """[`to_model_inputs`] of a batch of [`question_loader`], with its answers as the model takes them.

    Each different answer of a question comes once, with the share of the annotators who gave it as its weight.
    """
    batch = to_model_inputs(batch, processor)
    device = batch["input_ids"].device
    counts = [Counter(answers) for answers in batch.pop("answers")]
    tokens = processor.encode_answers(list(chain(*counts)), max_length=max_answer_length).to(device)
    weights = [count / answers.total() for answers in counts for count in answers.values()]
    return batch | {
        "labels": tokens["input_ids"],
        "decoder_attention_mask": tokens["attention_mask"],
        "answer_weights": torch.tensor(weights, device=device),
        "answers_per_question": torch.tensor([len(answers) for answers in counts], device=device),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Ranking
# ---------------------------------------------------------------------------------------------------------------------


class Prediction(NamedTuple):
    """The best answers to a question, and their probabilities among those that were ranked."""

    answers: list[str]
    probabilities: list[float]


class EncodedAnswers:
    """A list of answers and the options of all questions, encoded.

    Args:
        answers: to choose from where a question has no options.
        options: of each question, empty where it has none.
    """

    def __init__(
        self, answers: Sequence[str], options: Iterable[list[str]], processor: SViTTProcessor, max_length: int
    ):
        self.answers = list(dict.fromkeys(chain(answers, *options)))
        self.places = {answer: place for place, answer in enumerate(self.answers)}
        self.listed = list(range(len(answers)))
        self.tokens = processor.encode_answers(self.answers, max_length=max_length)

    def candidates(self, options: list[list[str]]) -> torch.Tensor:
        """Indices (B, n) of what each of B questions may be answered by, -1 where there are fewer than n."""
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
) -> dict[int, Prediction]:
    """Answer the questions about videos that come in batches.

    Args:
        model: bare (not wrapped for training); used in evaluation mode.
        video_batches: batches of `pixel_values` (V, frames, channels, height, width) and `is_missing` (V,): questions
            about such videos get no prediction.
        questions_of_video: for each video, the rows of its questions.
        questions: of [`load_questions`].

    Returns:
        Predictions by row.
    """
    model.eval()
    is_whole = args.eval_frame_ensemble == "concat"
    clip_length = args.num_frames_test if is_whole else processor.video_processor.num_frames
    options, texts = options_of(questions), questions["question"][:]
    remaining, predictions = iter(questions_of_video), {}
    for batch in video_batches:
        num_videos = len(batch["pixel_values"])
        clips = split_clips(batch["pixel_values"].to(model.device), clip_length, args.strided_clips)
        tokens = model.encode_video(clips).unflatten(0, (num_videos, -1))
        rows_of_videos = zip(islice(remaining, num_videos), batch["is_missing"].tolist(), strict=True)
        asked = [(v, row) for v, (rows, is_missing) in enumerate(rows_of_videos) if not is_missing for row in rows]
        for start in range(0, len(asked), args.eval_batch_size):
            videos, rows = zip(*asked[start : start + args.eval_batch_size], strict=True)
            text = processor(text=[texts[row] for row in rows], return_tensors="pt").to(model.device)
            candidates = answers.candidates([options[row] for row in rows])
            best = rank(model, tokens[list(videos)], text, answers, candidates, args)
            predictions |= dict(zip(rows, best, strict=True))
    return predictions


def rank(
    model: PreTrainedModel,
    video_tokens: torch.Tensor,
    text: Mapping[str, torch.Tensor],
    answers: EncodedAnswers,
    candidates: torch.Tensor,
    args: AnsweringArguments,
) -> list[Prediction]:
    """Answer B questions about tokens (B, C, N, D) of their videos, each by one of its candidates (B, n)."""
    ranked, probs = model.rank_answers(
        None,
        text["input_ids"],
        text["attention_mask"],
        answers.tokens["input_ids"].to(model.device),
        answers.tokens["attention_mask"].to(model.device),
        candidates=candidates.to(model.device),
        k=args.k_test,
        ensemble=args.eval_frame_ensemble,
        answer_scoring=args.answer_scoring,
        chunk_size=args.answers_at_once,
        video_hidden_states=video_tokens,
    )
    predictions = []
    best = (tensor[:, :NUM_PREDICTED].tolist() for tensor in (ranked, probs))
    for places, probabilities in zip(*best, strict=True):
        names = [answers.answers[place] for place in places if place >= 0]
        predictions.append(Prediction(names, probabilities[: len(names)]))
    return predictions


def answer_split(
    accelerator: Accelerator,
    model: PreTrainedModel,
    split: str,
    question_set: QuestionSet,
    answers: Sequence[str],
    processor: SViTTProcessor,
    args: AnsweringArguments,
    processing: ProcessingArguments,
    bad_videos: BadVideoReport,
) -> list[Prediction | None]:
    """Predictions for all questions of a split, on all processes, which share the videos; None where one is bad.

    Raises:
        InputError: on all processes, when one of them cannot read a video.
    """
    questions, videos, questions_of_video = question_set
    encoded = EncodedAnswers(answers, options_of(questions), processor, args.max_answer_length)
    loader = video_loader(share_of(videos), processor, args.num_frames_test, args.eval_batch_size, processing)
    batches = model_batches(loader, processor, accelerator.device, bad_videos)
    with accelerator.autocast():
        share = fail_together(
            answer_questions, model, batches, share_of(questions_of_video), questions, encoded, processor, args
        )
    predictions = {}
    for part in gather_object([share]):
        predictions |= part
    num_bad = bad_videos.write(split)
    if num_bad:
        num_missed = len(questions) - len(predictions)
        accelerator.print(
            f"{split}: bad videos: {num_bad}, whose {num_missed} questions count as wrong (see {bad_videos.path})"
        )
    return [predictions.get(row) for row in range(len(questions))]


# ---------------------------------------------------------------------------------------------------------------------
# Results
# ---------------------------------------------------------------------------------------------------------------------


def answer_metrics(questions: Dataset, predictions: Sequence[Prediction | None], answers: Sequence[str]) -> dict:
    """Accuracies (`accuracy`, by `metrics/qa_accuracy`) and those of answering all questions of the split, or of a
    type, by its most frequent answer (`most_frequent`); `coverage`, the share of the questions that have a right answer
    in the list; in percent. `num_questions`, and `num_missed`, those without a prediction.
    """
    types = questions["question_type"][:] if "question_type" in questions.column_names else None
    references = questions["answer"][:]
    accuracy = evaluate.load(str(METRICS / "qa_accuracy"), keep_in_memory=True)
    return {
        "accuracy": accuracy.compute(
            predictions=[prediction.answers[0] if prediction else "" for prediction in predictions],
            references=references,
            question_types=types,
        ),
        "most_frequent": accuracy_of_most_frequent(references, types),
        "coverage": answer_coverage(questions, answers),
        "num_questions": len(questions),
        "num_missed": sum(prediction is None for prediction in predictions),
    }


def accuracy_of_most_frequent(references: list[list[str]], types: list[list[str]] | None) -> dict:
    """What a model reaches that knows no more than the most frequent answer, overall and `by_type`, in percent."""

    def share(questions: list[list[str]]) -> float:
        counts = Counter(answer for answers in questions for answer in set(answers))
        return round(100 * max(counts.values()) / len(questions), 2)

    by_type = defaultdict(list)
    for answers, names in zip(references, types or [[]] * len(references), strict=True):
        for name in names:
            by_type[name].append(answers)
    shares = {"overall": share(references)}
    return shares | ({"by_type": {name: share(by_type[name]) for name in sorted(by_type)}} if types else {})


def flat_metrics(accuracies: dict) -> dict[str, float]:
    """Accuracies in one level, as tables and trackers take them: `accuracy`, `soft_accuracy`, `accuracy_<type>`."""
    flat = {"accuracy": accuracies["overall"]}
    if "soft" in accuracies:
        flat["soft_accuracy"] = accuracies["soft"]
    return flat | {f"accuracy_{name}": value for name, value in accuracies.get("by_type", {}).items()}


def answer_table(split: str, metrics: dict) -> str:
    """Accuracies of [`answer_metrics`] as lines of text."""
    model, frequent = flat_metrics(metrics["accuracy"]), flat_metrics(metrics["most_frequent"])
    lines = [f"{split:<32}{'model':>10}{'most frequent answer':>24}"]
    for name, value in model.items():
        baseline = f"{frequent[name]:24.2f}" if name in frequent else ""
        lines.append(f"  {name:<30}{value:10.2f}{baseline}")
    lines.append(f"  {metrics['num_questions']} questions, {metrics['coverage']:.2f} % with a right answer to choose")
    return "\n".join(lines)


def write_predictions(folder: Path, split: str, questions: Dataset, predictions: Sequence[Prediction | None]):
    """Write `predictions_<split>.json`, in the original's format, and `.parquet`, with the best answers of each
    question and their probabilities. Questions without a prediction are left out of the former, null in the latter.
    """
    ids = questions["question_id"][:]
    answered = [
        {"question_id": id, "answer": prediction.answers[0]}
        for id, prediction in zip(ids, predictions, strict=True)
        if prediction is not None
    ]
    (folder / f"predictions_{split}.json").write_text(json.dumps(answered, ensure_ascii=False), encoding="utf-8")
    table = pa.table(
        {
            "question_id": ids,
            "video": video_field(questions, "path").to_pylist(),
            "question": questions["question"][:],
            "references": questions["answer"][:],
            "answer": [prediction and prediction.answers[0] for prediction in predictions],
            "probability": [prediction and prediction.probabilities[0] for prediction in predictions],
            "best_answers": [prediction and prediction.answers for prediction in predictions],
            "best_probabilities": [prediction and prediction.probabilities for prediction in predictions],
        }
    )
    pq.write_table(table, folder / f"predictions_{split}.parquet")
