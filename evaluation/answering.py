# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Question answering: lists of answers, what training takes of them, ranking them for all questions of a split.

V videos of C clips of N tokens, B questions, a list of A answers, width D. A process answers the questions about its
share of the videos, each of which is read and encoded once for all that is asked about it.
"""

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from statistics import fmean
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

from ..configuration_svitt import SViTTConfig
from ..data.annotations import load_answer_list
from ..data.loaders import BadVideoReport, ProcessingArguments, model_batches, to_model_inputs, video_loader
from ..data.presets import Preset, Split
from ..distributed import fail_together, share_of
from ..errors import InputError
from ..modeling_svitt import split_clips
from ..processing_svitt import SViTTProcessor
from .clips import ClipArguments, check_length

METRICS = Path(__file__).parent / "metrics"
ANSWER_LIST = "answer_list.json"  # beside a model that was trained with it
NO_ERRORS = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")}
NUM_PREDICTED = 10  # answers of a question that are written down
BASELINES = {"most_frequent": "most frequent answer", "chance": "chance"}  # as [`answer_metrics`] and people call them


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
            "help": "JSON list of the answers to choose from. By default that of the dataset, or where nothing is "
            "trained, those of the model, or the most frequent answers of the split `train`."
        },
    )
    eval_batch_size: int = field(
        default=32, metadata={"help": "Videos encoded, and questions answered, at once by one process."}
    )
    num_answers: int = field(default=1500, metadata={"help": "Length of a list made of the split `train`, at most."})
    max_question_length: int | None = field(
        default=None, metadata={"help": "Tokens of a question; for questions, the same as --max_text_length."}
    )
    max_answer_length: int | None = field(
        default=None,
        metadata={"help": "Tokens of an answer, with those of begin and end; by default the model's own, 5 if new."},
    )
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

    def question_processing(self, args: ProcessingArguments) -> ProcessingArguments:
        """`args` with the length of questions; an `InputError` where their two options differ."""
        length, other = self.max_question_length, args.max_text_length
        if None not in (length, other) and length != other:
            raise InputError(
                f"--max_text_length {other}: is the same for questions as --max_question_length, which is {length}; "
                "give one of them."
            )
        return args if length is None else replace(args, max_text_length=length)

    def set_lengths(self, args: ProcessingArguments, processor: SViTTProcessor, config: SViTTConfig):
        """Cut answers as asked; raise an `InputError` for a length that the model has no positions for."""
        check_length("max_text_length", args.max_text_length, config.text_config)
        check_length("max_question_length", self.max_question_length, config.text_config)
        check_length("max_answer_length", self.max_answer_length, config.decoder_config)
        if self.max_answer_length is not None:
            processor.max_answer_length = self.max_answer_length


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
    args: AnsweringArguments,
    preset: Preset,
    training: Dataset | None,
    train_split: Split | None,
    model_name_or_path: str | None,
) -> list[str]:
    """The answers to choose from, see `--answer_list`; none where nothing says what they are.

    Args:
        training: the rows of `train_split`, where it is trained on.
    """
    file = args.answer_list or preset.answer_list
    if file is None and training is None and model_name_or_path:
        file = cached_file(model_name_or_path, ANSWER_LIST, **NO_ERRORS)
    if file is not None:
        return load_answer_list(file)
    if training is None and train_split is not None:
        training = train_split.load(missing_videos="allow")
    return [] if training is None else most_frequent_answers(training, args.num_answers)


def save_answer_list(answers: Sequence[str], folder: Path):
    (folder / ANSWER_LIST).write_text(json.dumps(list(answers), ensure_ascii=False), encoding="utf-8")


def check_resumed_answers(folder: Path, answers: Sequence[str]):
    """Raise an `InputError` where the run in a folder had other answers: the model kept there may be its own."""
    file = folder / ANSWER_LIST
    if file.is_file() and load_answer_list(file) != answers:
        raise InputError(
            f"{file}: the run to resume chose from other answers than these {len(answers)}; give it the same "
            "--answer_list, or --train_file and --num_answers."
        )


def options_of(questions: Dataset) -> list[list[str]]:
    """The options of each question, empty where there are none."""
    return questions["options"][:] if "options" in questions.column_names else [[]] * len(questions)


def are_covered(questions: Dataset, answers: Sequence[str]) -> list[bool]:
    """Whether each question has a right answer in the list or among its options."""
    listed = set(answers)
    rows = zip(options_of(questions), questions["answer"], strict=True)
    return [bool(options) or not listed.isdisjoint(right) for options, right in rows]


def answer_coverage(questions: Dataset, answers: Sequence[str]) -> float:
    """Share of the questions, in percent, that have a right answer to choose."""
    return round(100 * sum(are_covered(questions, answers)) / len(questions), 2)


def coverage_line(metrics: dict) -> str:
    return f"{metrics['num_questions']} questions, {metrics['coverage']:.2f} % with a right answer to choose"


def check_answers(split: str, questions: Dataset, answers: Sequence[str], processor: SViTTProcessor):
    """Raise an `InputError` where no question could be answered rightly, or a question has two options that are one."""
    if not answers and not all(options_of(questions)):
        raise InputError(
            f"split {split}: there is no list of answers to choose from, neither with the dataset nor with the model; "
            "give --answer_list, or `options` in each row."
        )
    if not any(are_covered(questions, answers)):
        raise InputError(
            f"split {split}: none of its answers, such as {questions[0]['answer'][0]!r:.100}, is in the answer list, "
            f"which has {len(answers)}, such as {answers[0]!r:.100}."
        )
    first = first_alike(chain(*options_of(questions)), processor)
    for number, options in enumerate(options_of(questions), start=1):
        seen = {}
        for option in options:
            other = seen.setdefault(first[option], option)
            if other != option:
                raise InputError(
                    f"split {split}, row {number}: the options {other!r:.200} and {option!r:.200} are the same in "
                    f"--max_answer_length {processor.max_answer_length} tokens; give more, or options that differ."
                )


def first_alike(answers: Iterable[str], processor: SViTTProcessor) -> dict[str, str]:
    """For each answer, the first that is encoded as it is: a model cannot tell them apart."""
    answers = list(dict.fromkeys(answers))
    if not answers:
        return {}
    rows = map(tuple, processor.encode_answers(answers)["input_ids"].tolist())
    first_of_row = {}
    return {answer: first_of_row.setdefault(row, answer) for answer, row in zip(answers, rows, strict=True)}


def alike_line(answers: Sequence[str], processor: SViTTProcessor) -> str | None:
    """How many answers of a list are encoded as another one, if any."""
    first = first_alike(answers, processor)
    counts = Counter(first.values())
    alike = [answer for answer in answers if counts[first[answer]] > 1]
    if not alike:
        return None
    pair = [answer for answer in alike if first[answer] == first[alike[0]]][:2]
    return (
        f"answer list: {len(alike)} of {len(answers)} answers cannot be told apart in {processor.max_answer_length} "
        f"tokens (--max_answer_length), such as {pair[0]!r:.100} and {pair[1]!r:.100}"
    )


def warn_of_new_decoder(model: PreTrainedModel, model_name_or_path: str | None):
    """Warn where a model to evaluate was not saved as one that answers questions."""
    name = type(model).__name__
    if model_name_or_path is None or name not in (model.config.architectures or [name]):
        which = model_name_or_path or "this model"
        warnings.warn(f"The answers mean nothing yet: {which} was never trained to answer questions.", stacklevel=2)


def to_training_inputs(batch: dict, processor: SViTTProcessor) -> dict:
    """[`to_model_inputs`] of a batch of [`question_loader`], with its answers as the model takes them.

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

    def __init__(self, answers: Sequence[str], options: Iterable[list[str]], processor: SViTTProcessor):
        self.answers = list(dict.fromkeys(chain(answers, *options)))
        self.places = {answer: place for place, answer in enumerate(self.answers)}
        self.listed = list(range(len(answers)))
        self.tokens = processor.encode_answers(self.answers)

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
    encoded = EncodedAnswers(answers, options_of(questions), processor)
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
    type, by its most frequent answer (`most_frequent`), or if all have options, by one of these at random (`chance`);
    `coverage`, the share of the questions that have a right answer in the list; in percent. `num_questions`, and
    `num_missed`, those without a prediction.
    """
    types = questions["question_type"][:] if "question_type" in questions.column_names else None
    references, options = questions["answer"][:], options_of(questions)
    accuracy = evaluate.load(str(METRICS / "qa_accuracy"), keep_in_memory=True)
    metrics = {
        "accuracy": accuracy.compute(
            predictions=[prediction.answers[0] if prediction else "" for prediction in predictions],
            references=references,
            question_types=types,
        ),
        "most_frequent": accuracy_of_most_frequent(references, types),
    }
    if all(options):
        metrics["chance"] = accuracy_of_chance(options, references, types)
    return metrics | {
        "coverage": answer_coverage(questions, answers),
        "num_questions": len(questions),
        "num_missed": sum(prediction is None for prediction in predictions),
    }


def accuracy_of_most_frequent(references: list[list[str]], types: list[list[str]] | None) -> dict:
    """What a model reaches that knows no more than the most frequent answer, overall and `by_type`, in percent."""

    def share(questions: list[list[str]]) -> float:
        counts = Counter(answer for answers in questions for answer in set(answers))
        return 100 * max(counts.values()) / len(questions)

    return overall_and_by_type(share, references, types)


def accuracy_of_chance(options: list[list[str]], references: list[list[str]], types: list[list[str]] | None) -> dict:
    """What one of a question's options at random reaches, overall and `by_type`, in percent."""
    shares = [100 * len(set(right)) / len(choices) for right, choices in zip(references, options, strict=True)]
    return overall_and_by_type(fmean, shares, types)


def overall_and_by_type(measure: Callable, rows: list, types: list[list[str]] | None) -> dict:
    """A measure of all rows, and of those of each type, rounded to 2 decimals."""
    by_type = defaultdict(list)
    for row, names in zip(rows, types or [[]] * len(rows), strict=True):
        for name in names:
            by_type[name].append(row)
    overall = {"overall": round(measure(rows), 2)}
    return overall | (
        {"by_type": {name: round(measure(by_type[name]), 2) for name in sorted(by_type)}} if types else {}
    )


def flat_metrics(accuracies: dict) -> dict[str, float]:
    """Accuracies in one level, as tables and trackers take them: `accuracy`, `soft_accuracy`, `accuracy_<type>`."""
    flat = {"accuracy": accuracies["overall"]}
    if "soft" in accuracies:
        flat["soft_accuracy"] = accuracies["soft"]
    return flat | {f"accuracy_{name}": value for name, value in accuracies.get("by_type", {}).items()}


def flat_baselines(metrics: dict) -> dict[str, dict[str, float]]:
    """Those of [`answer_metrics`] by name, each in one level."""
    return {name: flat_metrics(metrics[key]) for key, name in BASELINES.items() if key in metrics}


def answer_table(split: str, metrics: dict) -> str:
    """Accuracies of [`answer_metrics`] as lines of text."""
    baselines = flat_baselines(metrics)
    lines = [f"{split:<32}{'model':>10}" + "".join(f"{name:>{len(name) + 4}}" for name in baselines)]
    for name, value in flat_metrics(metrics["accuracy"]).items():
        line = f"  {name:<30}{value:10.2f}"
        for title, baseline in baselines.items():
            line += f"{baseline[name]:{len(title) + 4}.2f}" if name in baseline else ""
        lines.append(line)
    return "\n".join([*lines, f"  {coverage_line(metrics)}"])


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
