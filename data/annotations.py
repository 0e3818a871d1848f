# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""From annotations to rows: captions, questions or choices of videos, in files, tar shards, or datasets of the Hub.

All rows have `video`, a `{"path": str | None, "bytes": bytes | None}` that the processor decodes (an image is a video
of one frame), and `row`, the number of the annotation that names it. Rows about a span of their video have `start` and
`end`, in seconds, and `where`, their file and row; rows of shards `shard`, `offset` and `size`, the place of the bytes.
Whatever is wrong in a file or a row is an `InputError` that names it.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Video, concatenate_datasets, load_dataset
from transformers.utils import cached_file

from ..errors import InputError, not_found
from ..processing_svitt import IMAGE_EXTENSIONS
from .files import VIDEO_EXTENSIONS, files_below, is_video
from .formats import Layout, names_of, read_annotations

VIDEO = Video(decode=False)

# Names of fields in rows that lack ours, unless `columns` maps them.
ALIASES = {"video": ("file_name", "image"), "caption": ("text", "txt")}
WEBVID_FIELDS = {"video": "{page_dir}/{videoid}.mp4", "caption": "name"}
ANSWER_LIST = "answer_list.json"  # beside a model that was trained with it
FIELDS = {
    "captions": ("video", "caption", "start", "end"),
    "questions": ("video", "question", "answer", "question_id", "question_type", "options", "start", "end"),
    "multiple_choice": ("video", "caption", "answer", "start", "end"),
}
UNITS = {"s": 1.0, "ms": 0.001}  # of times, in seconds
MAX_TIME = 1e12  # of what is no mistake, in milliseconds
NO_SPAN: dict[str, float | None] = {"start": None, "end": None}
CLOCK = re.compile(r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]?\d(?:[.,]\d*)?)")  # hours, minutes, seconds

Kind = Literal["captions", "questions", "multiple_choice"]


# ---- Rows


class Member(NamedTuple):
    """The place of a video within a tar shard."""

    path: str
    shard: str
    offset: int
    size: int


@dataclass
class Reading(Layout):
    """What the fields of rows are, beside how they lie in their file."""

    # By our field: the name of theirs, a template such as "{id}.mp4" that is filled in with theirs, or a list of these.
    # Of a video, a template may begin with `*/`, for any folder, and end with `.*`, for any extension.
    columns: dict[str, str | list[str]] = field(default_factory=dict)
    unit: Literal["s", "ms"] = "s"  # of `start` and `end`
    remove: str = ""  # characters that captions lose, such as "[]"
    group_by_video: bool = False  # rows about one video, or span of it, are one row with all their captions
    num_options: int | None = None  # that rows of multiple choice must have: any number from 2
    allow_outside: bool = False  # take names of videos that lead out of their folder: they are often somebody else's


@dataclass
class Row:
    """A row of an annotation. Its methods return fields by our names, or raise an `InputError` that names the row."""

    file: str | Path
    number: int | str  # in its file
    fields: Any  # as they were read
    reading: Reading
    seen: dict = field(default_factory=dict)  # by field and value, which row has used it

    @property
    def where(self) -> str:
        return f"{self.file}, row {self.number}"

    def error(self, name: str, problem: str) -> InputError:
        return InputError(f"{self.where}: `{self.name_of(name)}` {problem}.")

    def name_of(self, name: str) -> str | list[str]:
        if name in self.reading.columns:
            return self.reading.columns[name]
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
        if isinstance(theirs, list):
            found = [self.filled(name, one) for one in theirs]
            return None if found == [None] * len(found) else found
        return self.filled(name, theirs)

    def filled(self, name: str, theirs: str) -> Any:
        if "{" not in theirs:
            return self.fields.get(theirs)
        try:
            return theirs.format(**{field: value for field, value in self.fields.items() if value is not None})
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"cannot be filled in ({error!r}), what the row has is: {names_of(self.fields)}"
            raise self.error(name, problem) from error

    def strings(self, name: str) -> list[str]:
        """Return the strings of a field that holds one string or a list of them, none blank."""
        value = self.get(name)
        values = value if isinstance(value, list) else [value]
        if value is None:
            raise self.error(name, f"is missing or null, what the row has is: {names_of(self.fields)}")
        if self.reading.remove and name == "caption":
            removed = str.maketrans("", "", self.reading.remove)
            values = [value.translate(removed) if isinstance(value, str) else value for value in values]
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

    def seconds(self, name: str) -> float | None:
        """Return a time in seconds: a number of the unit, or a time of a clock, such as `1:02.5` or `00:01:02,500`."""
        value = self.get(name)
        if value is None:
            return None
        text = value.strip().replace(",", ".") if isinstance(value, str) else ""
        if match := CLOCK.fullmatch(text):
            hours, minutes, seconds = match.groups()
            return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)
        value = float(text) if re.fullmatch(r"\d+\.?\d*", text) else value
        if type(value) not in (int, float) or not 0 <= value < MAX_TIME:
            raise self.error(name, f"must be a time, such as 62.5 or 00:01:02.500, got {value!r:.200}")
        return value * UNITS[self.reading.unit]

    def span(self) -> dict[str, float | None]:
        """Return `start` and `end` in seconds, both `None` for a whole video."""
        start, end = self.seconds("start") or 0.0, self.seconds("end")
        if end is not None and end <= start:
            raise self.error("end", f"must be after the start, {start:g} s, got {end:g} s")
        return {"start": start, "end": end} if start or end else NO_SPAN

    def check_new(self, name: str, value, key=None):
        """Raise an `InputError` for a value, or `key`, that an earlier row has."""
        key = name, value if key is None else key
        if key in self.seen:
            raise self.error(name, f"{value!r:.200} was already used in row {self.seen[key]}")
        self.seen[key] = self.number


def is_text(value) -> bool:
    """Return whether a value is a string that is not blank, and has no half a character, which JSON can write."""
    return isinstance(value, str) and bool(value.strip()) and value.encode(errors="replace").decode() == value


@dataclass
class Rows:
    """The rows of a source, and the videos that they name."""

    source: str | Path | Dataset | Iterable[tuple[str, int, dict]]  # annotation, of `open_hub`, or of `open_shards`
    video_dir: str | Path | None = None  # folder or URL that the names in an annotation are relative to; or its own
    reading: Reading = field(default_factory=Reading)
    allow_missing: bool = False  # one must exist, and a loader will deal with the others; else each must

    def __post_init__(self):
        if self.video_dir is not None and "://" not in str(self.video_dir) and not os.path.isdir(self.video_dir):
            raise not_found(self.video_dir, "folder of videos")
        self.is_there = cache(is_there)  # rows may name the same videos
        self.left_out: list[int] = []  # rows of the file, by `join` and `where`
        self.unused = set(self.reading.columns)  # as long as no row has had the field that one of ours is mapped to
        self.found_below: dict[str, dict[str, list[str]]] = {}

    def __iter__(self) -> Iterator[Row]:
        rows, seen = self.source, {}
        if isinstance(rows, (str, Path)):
            rows = read_annotations(rows, self.reading, self.left_out)
        elif isinstance(rows, Dataset):
            texts = [name for name, kind in rows.features.items() if not hasattr(kind, "decode_example")]
            name = rows.info.dataset_name or "dataset"
            rows = ((name, number, fields) for number, fields in enumerate(rows.select_columns(texts), start=1))
        if not isinstance(self.source, (str, Path)):
            self.unused -= {"video"}  # the extension of a shard's videos, or a column that was renamed
        for file, number, fields in rows:
            row = Row(file, number, fields, self.reading, seen)
            if self.unused:
                self.unused -= {name for name in self.unused if row.get(name) is not None}
            yield row
        for name in sorted(self.unused):
            had = f"which no row has; the last one has: {names_of(row.fields)}"
            raise InputError(f"{file}: `{name}` is to be `{row.name_of(name)}`, {had}.")

    def videos_of(self, row: Row, only_one: bool = False) -> list:
        """Return the videos of a row: paths; a [`Member`] of a shard; None for that of a dataset, which holds it.

        Raises an `InputError` if a name leads out of the folder, or there is no such file, or folder of frames.
        """
        if not isinstance(self.source, (str, Path)):
            return [None if isinstance(self.source, Dataset) else row.fields["video"]]
        folder = os.fspath(Path(row.file).parent if self.video_dir is None else self.video_dir)
        names = [row.string("video")] if only_one else row.strings("video")
        return [self.path_of(row, folder, name) for name in names]

    def path_of(self, row: Row, folder: str, name: str) -> str:
        leads_out = os.path.isabs(name) or "://" in name or (".." in name and ".." in Path(name).parts)
        if leads_out and not self.reading.allow_outside:
            raise row.error("video", f"{name!r:.200} must be a path below {folder}; --allow_outside takes it")
        if "*" in name and "*" in self.reading.columns.get("video", ""):
            name = self.match(row, folder, name)
        path = name if "://" in name else os.path.join(folder, name)
        if not self.allow_missing and not self.is_there(path):
            raise row.error("video", f"{name!r:.200} is not in {folder}")
        return path

    def match(self, row: Row, folder: str, name: str) -> str:
        """Return the only file below a folder that fits `*/NAME.*`, or the pattern itself where there is none."""
        files = self.found_below.setdefault(folder, defaultdict(list))
        if not files:
            for path in files_below(folder):
                path = os.path.relpath(path, folder)
                for place in {path, f"*/{os.path.basename(path)}"}:
                    for pattern in (place, f"{os.path.splitext(place)[0]}.*"):
                        files[pattern].append(path)
        stem, extension = os.path.splitext(name.removesuffix(".*"))
        is_renamed = name.endswith(".*") and extension in VIDEO_EXTENSIONS  # a.mov may be there as a.mp4
        found = files.get(name) or (files.get(f"{stem}.*") if is_renamed else None) or [name]
        if len(found) > 1:
            raise row.error("video", f"{name!r:.200} may be {' or '.join(sorted(found)[:5])} in {folder}")
        return found[0]

    def load(self, read_fields: Callable[[Row], dict], only_one: bool = False, unique: bool = False) -> Dataset:
        """Return `video`, what `read_fields` makes of a row, its span, and its number `row`: a row for each video.

        Columns that no row has are left out.

        Args:
            only_one: whether a row must have one video.
            unique: whether no two rows may be about the same video, or span of it.
        """
        videos, columns = [], defaultdict(list)
        for number, row in enumerate(self):
            found, span = self.videos_of(row, only_one), row.span()
            if unique and isinstance(self.source, (str, Path)):
                for name, video in zip(row.strings("video"), found, strict=True):
                    row.check_new("video", name, (os.path.normpath(video), *span.values()))
            videos += found
            where = None if span == NO_SPAN else row.where  # for errors, which a reader of the file alone can mend
            for name, value in (read_fields(row) | span | {"where": where, "row": number}).items():
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
        elif not any(map(self.is_there, videos)):
            raise InputError(f"{self.source}: none of its videos exists; the first would be {videos[0]}.")
        paths = pa.array(videos, pa.string())
        # As Arrow stores videos; a dictionary for each would take a hundred times longer.
        videos = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], names=["bytes", "path"])
        return beside(Dataset.from_dict({"video": videos}, Features(video=VIDEO)), columns)


def is_there(path: str) -> bool:
    """Return whether a path is a file, or a folder of frames; a URL is asked for when it is read."""
    if "://" in path or os.path.isfile(path):
        return True
    return os.path.isdir(path) and any(is_video(name, IMAGE_EXTENSIONS) for name in os.listdir(path))


def beside(dataset: Dataset, columns: dict[str, pa.Array]) -> Dataset:
    """Return a dataset with more columns, in Arrow."""
    return concatenate_datasets([dataset, Dataset.from_dict(columns)], axis=1)


def caption_fields(row: Row) -> dict[str, Any]:
    """Return the captions of a row; raise an `InputError` for a fault."""
    return {"caption": row.strings("caption")}


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
    if len(set(options)) < 2:
        raise row.error("options", f"must be at least 2 different answers, got {options!r:.200}")
    answers = row.get("answer")
    answers = answers if isinstance(answers, list) and answers else [answers]
    right = [one if one in options else options[row.index("answer", one, len(options))] for one in answers]
    return fields | {"answer": right, "options": list(dict.fromkeys(options))}  # NExT-QA has some twice


def choice_fields(row: Row) -> dict[str, Any]:
    """Return the options of a row and the number of the right one; raise an `InputError` for a fault."""
    options, num_options = row.strings("caption"), row.reading.num_options
    if len(options) < 2 or len(options) != (num_options or len(options)):
        raise row.error("caption", f"must have {num_options or 'at least 2'} options, got {len(options)}")
    return {"caption": options, "answer": row.index("answer", row.get("answer"), len(options))}


FIELDS_OF = {"captions": caption_fields, "questions": question_fields, "multiple_choice": choice_fields}


def kind_of(source: str | Path) -> Kind:
    """Return which of `FIELDS_OF` the first row of an annotation has."""
    _, _, row = next(read_annotations(source))
    row = row if isinstance(row, dict) else {}
    return "questions" if "question" in row else "multiple_choice" if "answer" in row else "captions"


# ---- Datasets


def load_captions(source, video_dir=None, join_captions=False, unique_videos=False, **options) -> Dataset:
    """Load annotations such as `{"video": "a.mp4", "caption": "a cat plays"}`; each may also be a list of strings.

    Args:
        source, video_dir, options: see [`Rows`].
        join_captions: paragraph retrieval: a row's captions are joined with spaces into one.
        unique_videos: whether a video must not occur twice, as for evaluation, where it would be its own rival.

    Returns:
        A dataset with one row per video: `video`; `caption`, the list of its captions; `row`, which is equal for videos
        that share their captions, as they were annotated in one row; `start` and `end` where any row has them.

    """
    rows = Rows(source, video_dir, **options)
    is_grouped = rows.reading.group_by_video
    captions = rows.load(caption_fields, unique=unique_videos and not is_grouped)
    texts = captions["caption"][:]
    if is_grouped:
        groups = defaultdict(list)
        for number, key in enumerate(video_keys(captions).to_pylist()):
            groups[key].append(number)
        texts = [[text for number in numbers for text in texts[number]] for numbers in groups.values()]
        if len(groups) < len(captions):
            captions = take(captions, pa.array([numbers[0] for numbers in groups.values()]))
    if join_captions:
        texts = [[" ".join(captions_of_row)] for captions_of_row in texts]
    if is_grouped or join_captions:
        captions = beside(captions.remove_columns("caption"), {"caption": pa.array(texts)})
    return captions


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


def load_choices(source, video_dir=None, **options) -> Dataset:
    """Load annotations `{"video": "a.mp4", "caption": ["a cat", "a dog", …], "answer": 1}` with one caption right.

    Args:
        source, video_dir, options: see [`Rows`].

    Returns:
        A dataset with columns `video`, `row`, `caption` (list of options) and `answer`, the number of the right one.
    """
    return Rows(source, video_dir, **options).load(choice_fields, only_one=True)


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
    lists = table["caption"].combine_chunks()
    parents, texts = pc.list_parent_indices(lists), pc.list_flatten(lists)
    keys = video_keys(captions).take(parents)
    others = captions.remove_columns("caption")
    if len(texts) > len(captions):
        is_embedded = pc.struct_field(table["video"], "bytes").null_count < len(captions)
        # Arrow could not take as many embedded files.
        others = others.select(parents.to_numpy()) if is_embedded else take(others, parents)
    video_ids = pc.dictionary_encode(texts if match_by == "caption" else keys).indices.cast(pa.int64())
    return beside(others, {"caption": texts, "video_id": video_ids})


def take(rows: Dataset, numbers: pa.Array) -> Dataset:
    """Return rows by their numbers, in Arrow."""
    table = rows.with_format("arrow")[:].take(numbers)
    return Dataset.from_dict(dict(zip(table.column_names, table.columns, strict=True)), rows.features)


def video_names(rows: Dataset) -> pa.Array:
    """Return the paths of videos; of spans, as media fragments name them: `a.mp4#t=3.5,10`."""
    table = rows.select_columns([*({"video", "start", "end"} & set(rows.column_names))]).with_format("arrow")[:]
    names = pc.struct_field(table["video"], "path").combine_chunks()
    if "start" not in table.column_names:
        return names
    start, end = table["start"].combine_chunks().cast(pa.string()), pa.nulls(len(rows), pa.string())
    if "end" in table.column_names:
        end = table["end"].combine_chunks().cast(pa.string())
    times = pc.coalesce(pc.binary_join_element_wise(start, end, ","), start)
    return pc.coalesce(pc.binary_join_element_wise(names, times, "#t="), names)


def video_keys(rows: Dataset) -> pa.Array:
    """Return strings that are equal for rows about one video or span; embedded videos are taken to be different."""
    videos = rows.select_columns("video").with_format("arrow")[:]["video"]
    if pc.struct_field(videos, "bytes").null_count < len(rows):
        return pa.array(range(len(rows))).cast(pa.string())
    return video_names(rows)


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
    videos = captions.remove_columns("caption")
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


def open_hub(name: str, split: str, reading: Reading | None = None) -> Dataset:
    """Return a dataset of the Hub, or of a folder that `load_dataset` takes, with its videos undecoded in `video`.

    Raises:
        InputError: if it cannot be loaded, in one sentence, or has no column of videos.
    """
    try:
        dataset = load_dataset(name, split=split)
    except Exception as error:  # of the network, of the Hub, of any of many file formats
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{name}, split {split}: cannot be loaded ({reason}).") from error
    video = Row("", 0, dict.fromkeys(dataset.column_names), reading or Reading()).name_of("video")
    if video not in dataset.column_names:
        raise InputError(f"{name}, split {split}: has no column `{video}`, but: {', '.join(dataset.column_names)}.")
    return dataset.cast_column(video, VIDEO).rename_columns({} if video == "video" else {video: "video"})
