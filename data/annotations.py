# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""From annotations to rows: captions, questions or choices of videos, in files, tar shards, or datasets of the Hub.

All rows have `video`, a `{"path": str | None, "bytes": bytes | None}` that the processor decodes (an image is a video
of one frame), and `row`, the number of the annotation that names it. Rows of shards have `shard`, `offset` and `size`
besides: where the bytes of the video are.
"""

import csv
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Video, concatenate_datasets, load_dataset
from transformers.utils import cached_file

from ..errors import InputError

VIDEO = Video(decode=False)

# Names of fields in rows that lack ours, unless `columns` maps them.
ALIASES = {"video": ("file_name", "image"), "caption": ("text", "txt")}
WEBVID_FIELDS = {"video": "{page_dir}/{videoid}.mp4", "caption": "name"}
ANSWER_LIST = "answer_list.json"  # beside a model that was trained with it
METADATA_FILES = ("metadata.jsonl", "metadata.csv")  # of a folder made for `load_dataset("videofolder")`


# ---- Files


def read_annotations(path: str | Path) -> Iterator[tuple[Path, int, Any]]:
    """Yield the rows of an annotation, each with its file and its number, from 1; no header, no blank lines.

    Args:
        path: a JSON list of objects; JSON lines (`.jsonl`); CSV with a header (`.csv`), where a cell that holds a JSON
            list is one, and an empty cell a missing field; or a folder with `metadata.jsonl` or `metadata.csv` in it
            or in its subfolders.

    Raises:
        InputError: if a file is missing, cannot be read as such, or has no rows.
    """
    files = [Path(path)]
    if files[0].is_dir():
        files = sorted(file for name in METADATA_FILES for file in files[0].rglob(name))
        if not files:
            raise InputError(f"{path}: this folder holds no {' or '.join(METADATA_FILES)}.")
    for file in files:
        number = 0
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                for number, row in enumerate(READERS.get(file.suffix.lower(), read_json)(file, lines), start=1):
                    yield file, number, row
        except FileNotFoundError as error:
            raise InputError(f"{file}: there is no such file.") from error
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{file}: cannot be read after row {number} ({error}).") from error
        if number == 0:
            raise InputError(f"{file}: is empty, it must hold at least one row.")


def read_json(file: Path, lines) -> list:
    text = lines.read()
    rows = parse_json(file, text) if text.strip() else []
    if not isinstance(rows, list):
        raise InputError(f"{file}: must hold a JSON list; if it has one object a line, name it .jsonl.")
    return rows


def read_json_lines(file: Path, lines) -> Iterator:
    return (parse_json(f"{file}, line {n}", line) for n, line in enumerate(lines, start=1) if line.strip())


def parse_json(where, text: str | bytes):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a JSON file ({error}).") from error


def read_csv(file: Path, lines) -> Iterator[dict]:
    reader = csv.DictReader(lines, strict=True)
    for row in reader:
        if None in row or None in row.values():
            num_cells = len(reader.fieldnames)
            raise InputError(f"{file}, line {reader.line_num}: must have {num_cells} cells, as the header has.")
        yield {name: parse_cell(cell) for name, cell in row.items() if cell}


def parse_cell(cell: str) -> str | list:
    try:
        return json.loads(cell) if cell[0] == "[" and cell[-1] == "]" else cell
    except ValueError:  # a sentence in brackets
        return cell


READERS = {".csv": read_csv, ".jsonl": read_json_lines}


# ---- Rows


class Member(NamedTuple):
    """The place of a video within a tar shard."""

    path: str
    shard: str
    offset: int
    size: int


@dataclass
class Row:
    """A row of an annotation. Its methods return fields by our names, or raise an `InputError` that names the row."""

    where: str  # file and number
    fields: Any  # as they were read
    columns: dict[str, str] = field(default_factory=dict)  # their names for our fields, or templates that make these
    folder: str = ""  # of the videos
    seen: dict = field(default_factory=dict)  # by field and value, which row has used it

    def error(self, name: str, problem: str) -> InputError:
        return InputError(f"{self.where}: `{self.name_of(name)}` {problem}.")

    def name_of(self, name: str) -> str:
        if name in self.columns:
            return self.columns[name]
        if name in self.fields or name not in ALIASES:
            return name
        if "videoid" in self.fields and "page_dir" in self.fields:
            return WEBVID_FIELDS[name]
        return next((alias for alias in ALIASES[name] if alias in self.fields), name)

    def get(self, name: str) -> Any:
        """Return a field, or None where the row has none."""
        if not isinstance(self.fields, dict):
            raise InputError(f'{self.where}: must be an object such as {{"video": …}}, got {self.fields!r:.200}.')
        theirs = self.name_of(name)
        if "{" not in theirs:
            return self.fields.get(theirs)
        try:
            return theirs.format(**self.fields)
        except (AttributeError, LookupError, ValueError) as error:
            raise self.error(name, f"cannot be filled in ({error!r})") from error

    def strings(self, name: str) -> list[str]:
        """Return the strings of a field that holds one string or a list of them, none blank."""
        value = self.get(name)
        values = value if isinstance(value, list) else [value]
        if value is None:
            raise self.error(name, "is missing")
        if not values or not all(map(is_text, values)):
            raise self.error(name, f"must be a string or a list of strings, none blank, got {value!r:.200}")
        return values

    def string(self, name: str) -> str:
        values = self.strings(name)
        if len(values) > 1:
            raise self.error(name, f"must be one string, got {values!r:.200}")
        return values[0]

    def index(self, name: str, value, count: int) -> int:
        """Return the number of an option, from 0, which is a string in CSV."""
        index = int(value) if isinstance(value, str) and value.isdecimal() else value
        if type(index) is not int or not 0 <= index < count:
            raise self.error(name, f"must be the number of an option, from 0 to {count - 1}, got {value!r:.200}")
        return index

    def check_new(self, name: str, value, key=None):
        """Raise an `InputError` for a value, or `key`, that an earlier row has."""
        key = name, value if key is None else key
        if key in self.seen:
            raise self.error(name, f"{value!r:.200} was already used in {self.seen[key]}")
        self.seen[key] = self.where.rpartition(", ")[2]


def is_text(value) -> bool:
    """Return whether a value is a string that is not blank, and has no half a character, which JSON can write."""
    return isinstance(value, str) and bool(value.strip()) and value.encode(errors="replace").decode() == value


@dataclass
class Rows:
    """The rows of a source, and the videos that they name.

    Raises:
        InputError: if there is no such folder; when rows are read, for a fault of one.
    """

    source: str | Path | Dataset | Iterable[tuple[str, int, dict]]  # annotation, of `open_hub`, or of `open_shards`
    video_dir: str | Path | None = None  # folder that the names in an annotation are relative to; or where it lies
    columns: dict[str, str] = field(default_factory=dict)  # what the rows call our fields: see [`Row`]
    allow_missing: bool = False  # one must exist, and a loader will deal with the others; else each must
    allow_outside: bool = False  # take names that lead out of the folder: annotations are often somebody else's

    def __post_init__(self):
        if self.video_dir is not None and not os.path.isdir(self.video_dir):
            raise InputError(f"{self.video_dir}: there is no such folder of videos.")

    def __iter__(self) -> Iterator[Row]:
        rows, seen = self.source, {}
        if isinstance(rows, (str, Path)):
            rows = read_annotations(rows)
        elif isinstance(rows, Dataset):
            texts = [name for name, kind in rows.features.items() if not hasattr(kind, "decode_example")]
            name = rows.info.dataset_name or "dataset"
            rows = ((name, number, fields) for number, fields in enumerate(rows.select_columns(texts), start=1))
        for file, number, fields in rows:
            folder = os.fspath(Path(file).parent if self.video_dir is None else self.video_dir)
            yield Row(f"{file}, row {number}", fields, self.columns, folder, seen)

    def videos_of(self, row: Row, only_one: bool = False, unique: bool = False) -> list:
        """Return the videos of a row: paths; a [`Member`] of a shard; None for that of a dataset, which holds it.

        Raises an `InputError` if a name leads out of the folder, or there is no such file.
        """
        if not isinstance(self.source, (str, Path)):
            return [None if isinstance(self.source, Dataset) else row.fields["video"]]
        paths = []
        for name in [row.string("video")] if only_one else row.strings("video"):
            path = os.path.join(row.folder, name)
            if not self.allow_outside and (os.path.isabs(name) or (".." in name and ".." in Path(name).parts)):
                problem = f"{name!r:.200} must be a path below {row.folder}; --allow_outside takes it"
                raise row.error("video", problem)
            if not self.allow_missing and not os.path.isfile(path):
                raise row.error("video", f"{name!r:.200} is not in {row.folder}")
            if unique:
                row.check_new("video", name, os.path.normpath(path))
            paths.append(path)
        return paths

    def load(self, read_fields: Callable[[Row], dict], **options) -> Dataset:
        """Return `video`, what `read_fields` makes of a row, and its number `row`: a row for each video.

        Columns that no row has are left out. `options` are those of [`videos_of`].
        """
        videos, columns = [], defaultdict(list)
        for number, row in enumerate(self):
            found = self.videos_of(row, **options)
            videos += found
            for name, value in (read_fields(row) | {"row": number}).items():
                columns[name] += [value] * len(found)
        if not videos:
            raise InputError(f"{self.source}: has no rows.")
        used = (name for name in columns if any(value not in (None, []) for value in columns[name]))
        columns = {name: pa.array(columns[name]) for name in used}
        if isinstance(self.source, Dataset):
            return beside(self.source.select_columns("video"), columns)
        if isinstance(videos[0], Member):
            videos, *places = zip(*videos, strict=True)
            columns |= dict(zip(Member._fields[1:], map(pa.array, places), strict=True))
        elif not any(map(os.path.isfile, videos)):
            raise InputError(f"{self.source}: none of its videos exists; the first would be {videos[0]}.")
        paths = pa.array(videos, pa.string())
        # As Arrow stores videos; a dictionary for each would take a hundred times longer.
        videos = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], names=["bytes", "path"])
        return beside(Dataset.from_dict({"video": videos}, Features(video=VIDEO)), columns)


def beside(dataset: Dataset, columns: dict[str, pa.Array]) -> Dataset:
    """Return a dataset with more columns, in Arrow."""
    return concatenate_datasets([dataset, Dataset.from_dict(columns)], axis=1)


def caption_fields(row: Row, join: bool = False) -> dict[str, Any]:
    """Return the captions of a row, perhaps joined into one; raise an `InputError` for a fault."""
    captions = row.strings("caption")
    return {"caption": [" ".join(captions)] if join else captions}


def question_fields(row: Row) -> dict[str, Any]:
    """Return what a row asks, and its answers; raise an `InputError` for a fault."""
    question_id = row.get("question_id")
    kind = type(question_id)
    if kind not in (int, str, type(None)) or row.seen.setdefault("question_id", kind) is not kind:
        raise row.error("question_id", f"must be an integer in all rows, or a string in all, got {question_id!r:.200}")
    if question_id is not None:
        row.check_new("question_id", question_id)
    fields = {"question": row.string("question"), "question_id": question_id}
    for name in ("question_type", "options"):
        fields[name] = [] if row.get(name) in (None, []) else row.strings(name)
    options = fields["options"]
    if not options:
        return fields | {"answer": row.strings("answer")}
    if len(options) < 2 or len(set(options)) < len(options):
        raise row.error("options", f"must be at least 2 answers, none twice, got {options!r:.200}")
    answers = row.get("answer")
    answers = answers if isinstance(answers, list) and answers else [answers]
    right = [one if one in options else options[row.index("answer", one, len(options))] for one in answers]
    return fields | {"answer": right}


def choice_fields(row: Row, num_options: int | None = None) -> dict[str, Any]:
    """Return the options of a row and the number of the right one; raise an `InputError` for a fault."""
    options = row.strings("caption")
    if len(options) < 2 or len(options) != (num_options or len(options)):
        raise row.error("caption", f"must have {num_options or 'at least 2'} options, got {len(options)}")
    return {"caption": options, "answer": row.index("answer", row.get("answer"), len(options))}


FIELDS_OF = {"captions": caption_fields, "questions": question_fields, "multiple_choice": choice_fields}


def kind_of(source: str | Path) -> str:
    """Return which of `FIELDS_OF` the first row of an annotation has."""
    _, _, row = next(read_annotations(source))
    row = row if isinstance(row, dict) else {}
    return "questions" if "question" in row else "multiple_choice" if "answer" in row else "captions"


# ---- Datasets


def load_captions(
    source, video_dir=None, join_captions: bool = False, unique_videos: bool = False, **options
) -> Dataset:
    """Load annotations such as `{"video": "a.mp4", "caption": "a cat plays"}`; each may also be a list of strings.

    Args:
        source, video_dir, options: see [`Rows`].
        join_captions: paragraph retrieval: a row's captions are joined with spaces into one.
        unique_videos: whether a video must not occur twice, as for evaluation, where it would be its own rival.

    Returns:
        A dataset with one row per video: `video`; `caption`, the list of its captions; `row`, which is equal for videos
        that share their captions, as they were annotated in one row.

    Raises:
        InputError: for a fault of a file or a row, which it names.
    """
    return Rows(source, video_dir, **options).load(partial(caption_fields, join=join_captions), unique=unique_videos)


def load_questions(source, video_dir=None, **options) -> Dataset:
    """Load annotations `{"video": "a.mp4", "question": "what …?", "answer": "cat", "question_id": 7}`.

    `answer` may be a list: an answer that several annotators gave is repeated in it. Where rows have no `question_id`,
    they are numbered from 0; `question_type` is optional, and may be a list of types. A row may have `options`, a list
    of answers to choose from, of which each `answer` is one, or its number from 0.

    Args:
        source, video_dir, options: see [`Rows`].

    Returns:
        A dataset with columns `video`, `row`, `question`, `answer` (list), `question_id` (integer or string, as
        annotated) and, if any row has it, `question_type` (list) and `options` (list), empty for the other rows.
    """
    questions = Rows(source, video_dir, **options).load(question_fields, only_one=True)
    if "question_id" in questions.column_names:
        return questions
    return beside(questions, {"question_id": pa.array(range(len(questions)))})


def load_choices(source, video_dir=None, num_options: int | None = None, **options) -> Dataset:
    """Load annotations `{"video": "a.mp4", "caption": ["a cat", "a dog", …], "answer": 1}` with one caption right.

    Args:
        source, video_dir, options: see [`Rows`].
        num_options: captions that a row must have, 5 in MSRVTT-MC; any number from 2 by default.

    Returns:
        A dataset with columns `video`, `row`, `caption` (list of options) and `answer`, the number of the right one.
    """
    return Rows(source, video_dir, **options).load(partial(choice_fields, num_options=num_options), only_one=True)


LOADERS = {"captions": load_captions, "questions": load_questions, "multiple_choice": load_choices}


def training_pairs(captions: Dataset, match_by: str = "video") -> Dataset:
    """Return all pairs of a video of [`load_captions`] and one of its captions.

    Args:
        match_by: `"video"` or `"caption"` (SSv2, where many videos share one): pairs in which it is the same are
            positives of each other.

    Returns:
        A dataset with `video` (and its place in a shard), `caption` and `video_id`, which is equal for positives.
    """
    table = captions.with_format("arrow")[:]
    lists, videos = table["caption"].combine_chunks(), table["video"]
    parents, texts = pc.list_parent_indices(lists), pc.list_flatten(lists)
    others = captions.remove_columns(["caption", "row"])
    if pc.struct_field(videos, "bytes").null_count == len(videos):
        keys = pc.struct_field(videos, "path").take(parents).combine_chunks()
        taken = table.select(others.column_names).take(parents)
        others = Dataset.from_dict(dict(zip(taken.column_names, taken.columns, strict=True)), others.features)
    else:  # embedded files, of which Arrow could not take as many; their names may repeat
        keys = parents
        others = others if len(texts) == len(videos) else others.select(parents.to_numpy())
    video_ids = pc.dictionary_encode(texts if match_by == "caption" else keys).indices.cast(pa.int64())
    return beside(others, {"caption": texts, "video_id": video_ids})


def join_pairs(corpora: list[Dataset]) -> Dataset:
    """Return the pairs of several corpora, no videos of two of which are the same."""
    joined, num_ids = [], 0
    for pairs in corpora:
        video_ids = pc.add(pairs.with_format("arrow")[:]["video_id"], num_ids)
        joined.append(beside(pairs.remove_columns("video_id"), {"video_id": video_ids}))
        num_ids = pc.max(video_ids).as_py() + 1
    return concatenate_datasets(joined)


class RetrievalSet(NamedTuple):
    """V videos to be matched with T texts; `texts_of_video[v]` are the indices of the texts of video v."""

    videos: Dataset
    texts: list[str]
    texts_of_video: list[list[int]]


def retrieval_set(captions: Dataset) -> RetrievalSet:
    """Return the videos and texts of [`load_captions`] with `unique_videos`, in their order."""
    texts, texts_of_row = [], {}
    for row, captions_of_row in zip(captions["row"], captions["caption"], strict=True):
        if row not in texts_of_row:
            texts_of_row[row] = list(range(len(texts), len(texts) + len(captions_of_row)))
            texts += captions_of_row
    videos = captions.remove_columns(["caption", "row"])
    return RetrievalSet(videos, texts, [texts_of_row[row] for row in captions["row"]])


class ChoiceSet(NamedTuple):
    """V videos and T texts; `options_of_video[v]` are the indices of the texts to choose from for video v, and
    `answers[v]` that of the right one."""

    videos: Dataset
    texts: list[str]
    options_of_video: list[list[int]]
    answers: list[int]


def choice_set(choices: Dataset) -> ChoiceSet:
    """Return the videos and options of [`load_choices`], in their order."""
    videos, texts, options_of_video = retrieval_set(choices.remove_columns("answer"))
    answers = [options[answer] for options, answer in zip(options_of_video, choices["answer"], strict=True)]
    return ChoiceSet(videos, texts, options_of_video, answers)


def load_answer_list(file: str | Path) -> list[str]:
    """Return the answers to choose from: a JSON list of strings, none blank, none twice."""
    answers = {}
    for _, number, answer in read_annotations(file):
        if not is_text(answer) or answer in answers:
            wanted = "come once" if is_text(answer) else "be a string that is not blank"
            raise InputError(f"{file}, answer {number}: must {wanted}, got {answer!r:.200}.")
        answers[answer] = number
    return list(answers)


def saved_answer_list(model_name_or_path: str) -> list[str]:
    """Return the answers that a model was trained to choose from, which lie beside it; none where there is no list."""
    try:
        file = cached_file(model_name_or_path, ANSWER_LIST)
    except OSError:
        return []
    return load_answer_list(file)


def open_hub(name: str, split: str, columns: dict[str, str] | None = None) -> Dataset:
    """Return a dataset of the Hub, or of a folder that `load_dataset` takes, with its videos undecoded in `video`.

    Raises:
        InputError: if it cannot be loaded, in one sentence, or has no column of videos.
    """
    try:
        dataset = load_dataset(name, split=split)
    except Exception as error:  # of the network, of the Hub, of any of many file formats
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{name}, split {split}: cannot be loaded ({reason}).") from error
    video = Row("", dict.fromkeys(dataset.column_names), columns or {}).name_of("video")
    if video not in dataset.column_names:
        raise InputError(f"{name}, split {split}: has no column `{video}`, but: {', '.join(dataset.column_names)}.")
    return dataset.cast_column(video, VIDEO).rename_columns({} if video == "video" else {video: "video"})
