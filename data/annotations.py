# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""From annotations to rows: captions, questions or choices beside a folder of videos, or a dataset of the Hub.

All rows have a column `video` of `{"path": str | None, "bytes": bytes | None}`, which the processor decodes; an image
is a video of one frame. Faults are told before any work, by file, row, field and value. Shards: see `streaming`.
"""

import csv
import json
import os
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Formatter
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value, Video, concatenate_datasets, load_dataset
from datasets.table import InMemoryTable

from ..errors import InputError
from ..processing_svitt import clean_text

VIDEO, STRING, INTEGER = Video(decode=False), Value("string"), Value("int64")

# What fields are called in rows that lack ours, where nobody says what they are called.
ALIASES = {"video": ("file_name", "image"), "caption": ("text", "txt")}
LISTS = ("question_type", "options")  # optional, of a question
WEBVID_FIELDS = {"video": "{page_dir}/{videoid}.mp4", "caption": "name"}
METADATA_FILES = ("metadata.jsonl", "metadata.csv")  # of a folder made for `load_dataset("videofolder")`


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def read_annotations(path: str | Path) -> Iterator[tuple[Path, int, dict]]:
    """Rows of an annotation, each with its file and its number, from 1; without CSV's header and blank lines.

    Args:
        path: a JSON list of objects; JSON lines (`.jsonl`); CSV with a header (`.csv`), where a cell that holds a JSON
            list is one, and an empty cell a missing field; or a folder with `metadata.jsonl` or `metadata.csv` in it
            or in its subfolders.

    Raises:
        InputError: if a file is missing, cannot be read as such, has no rows, or uses an `id` twice.
    """
    first_rows = {}
    for file, number, row in read_unchecked_rows(path):
        if not isinstance(row, dict):
            raise InputError(f'{file}, row {number}: must be an object such as {{"video": …}}, got {row!r:.200}.')
        if "id" in row:
            check_first_use(file, number, "id", row["id"], first_rows.setdefault(file, {}))
        yield file, number, row


def read_unchecked_rows(path: str | Path) -> Iterator[tuple[Path, int, object]]:
    """As [`read_annotations`], with whatever the rows are."""
    files = [Path(path)]
    if files[0].is_dir():
        files = sorted(file for name in METADATA_FILES for file in files[0].rglob(name))
        if not files:
            raise InputError(f"{path}: this folder holds no {' or '.join(METADATA_FILES)}.")
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: there is no such annotation file.")
        read_rows = {".csv": read_csv, ".jsonl": read_json_lines}.get(file.suffix.lower(), read_json)
        number = 0
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                for number, row in enumerate(read_rows(file, lines), start=1):
                    yield file, number, row
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read as text in UTF-8 ({error}).") from error
        if number == 0:
            raise InputError(f"{file}: is empty, it must hold at least one annotation.")


def read_json(file: Path, lines) -> list:
    text = lines.read()
    rows = parse_json(file, text) if text.strip() else []
    if not isinstance(rows, list):
        raise InputError(f"{file}: must hold a JSON list; if it has one object a line, name it .jsonl.")
    return rows


def read_json_lines(file: Path, lines) -> Iterator:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield parse_json(f"{file}, line {number}", line)


def parse_json(where, text: str | bytes):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a JSON file ({error}).") from error


def read_csv(file: Path, lines) -> Iterator[dict]:
    reader = csv.DictReader(lines, strict=True)
    try:
        header = reader.fieldnames or []
        if len(set(header)) < len(header):
            raise InputError(f"{file}: two columns have one name in the header, which is {', '.join(header)}.")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{file}, line {reader.line_num}: must have {len(header)} cells, as the header has.")
            yield {name: parse_cell(cell) for name, cell in row.items() if cell}
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: not a CSV file ({error}).") from error


def parse_cell(cell: str) -> str | list:
    try:
        return json.loads(cell) if cell[0] == "[" and cell[-1] == "]" else cell
    except ValueError:  # a sentence in brackets
        return cell


# ---------------------------------------------------------------------------------------------------------------------
# Fields of a row
# ---------------------------------------------------------------------------------------------------------------------


def field_name(row: dict, field: str, columns: dict[str, str] | None = None) -> str:
    """What a row calls a column of ours, or a template such as `"{page_dir}/{videoid}.mp4"` that makes it."""
    if columns and field in columns:
        return columns[field]
    if field in row or field not in ALIASES:
        return field
    if "videoid" in row and "page_dir" in row:
        return WEBVID_FIELDS[field]
    return next((alias for alias in ALIASES[field] if alias in row), field)


def strings_of(annotation_file, row_number: int, row: dict, field: str) -> list[str]:
    """The strings of a field that holds one string or a list of them, none blank; or the one made by a template."""
    if "{" in field:
        values = {part: string_of(annotation_file, row_number, row, part) for part in parts_of(field)}
        return [field.format(**values)]
    value = value_of(annotation_file, row_number, row, field)
    values = value if isinstance(value, list) else [value]
    if not values or not all(map(is_text, values)):
        raise InputError(
            f"{annotation_file}, row {row_number}: `{field}` must be a string or a list of strings, none blank, got "
            f"{value!r:.200}."
        )
    return values


@cache
def parts_of(template: str) -> list[str]:
    """The fields that a template names; raises a `ValueError` for one with a brace too many."""
    return [part for _, part, _, _ in Formatter().parse(template) if part is not None]


def string_of(annotation_file, row_number: int, row: dict, field: str) -> str:
    if "{" in field:
        return strings_of(annotation_file, row_number, row, field)[0]
    value = value_of(annotation_file, row_number, row, field)
    if not is_text(value):
        raise InputError(
            f"{annotation_file}, row {row_number}: `{field}` must be a string that is not blank, got {value!r:.200}."
        )
    return value


def value_of(annotation_file, row_number: int, row: dict, field: str):
    if row.get(field) is None:
        raise InputError(f"{annotation_file}, row {row_number}: `{field}` is missing.")
    return row[field]


def is_int64(value) -> bool:
    return -(2**63) <= value < 2**63


def is_seen(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNPS"  # letters, numbers, punctuation, symbols


def is_text(value) -> bool:
    """Whether it is a string of more than spaces, accents and what is not seen, of which tokenizers leave nothing."""
    try:
        return isinstance(value, str) and any(map(is_seen, value)) and bool(value.encode())
    except UnicodeEncodeError:  # half of a character, which JSON can write: "\ud83d"
        return False


def check_first_use(annotation_file, row_number: int, field: str, value, first_row_of: dict, key: str | None = None):
    """Raise an `InputError` for a value, or `key`, that an earlier row has; `first_row_of` collects those seen."""
    key = key or (value if isinstance(value, str) else json.dumps([value]))
    if key in first_row_of:
        first = first_row_of[key]
        raise InputError(
            f"{annotation_file}, row {row_number}: `{field}` {value!r:.200} was already used in row {first}."
        )
    first_row_of[key] = row_number


class VideoColumn:
    """The videos that rows name, looked up in a folder, or those that a dataset of the Hub holds itself.

    Args:
        source: an annotation, or a dataset of [`open_hub`].
        video_dir: folder that names are relative to; by default where the annotation lies.
        columns: see [`field_name`].
        missing_videos: `"error"`: each must exist; `"allow"`: one must, and a loader will deal with the others.
        allow_outside: take names and links that lead out of the folder. Annotations are often somebody else's.

    Raises:
        InputError: if there is no such folder or video, or a name leads out of the folder.
    """

    def __init__(
        self,
        source,
        video_dir: str | Path | None = None,
        columns: dict[str, str] | None = None,
        missing_videos: str = "error",
        allow_outside: bool = False,
    ):
        if video_dir is not None and not Path(video_dir).is_dir():
            raise InputError(f"{video_dir}: there is no such folder of videos.")
        self.source, self.video_dir, self.columns = source, video_dir, columns
        self.must_exist, self.allow_outside, self.paths = missing_videos == "error", allow_outside, []
        self.links_of = {}  # of each folder of videos, by the name of a link: where it leads

    def add(self, file: Path, number: int, row: dict, first_row_of: dict | None = None) -> int:
        """Add the videos of a row and say how many; with `first_row_of`, none may be added twice."""
        if isinstance(self.source, Dataset):
            return 1
        field = field_name(row, "video", self.columns)
        folder = os.fspath(file.parent if self.video_dir is None else self.video_dir)
        names = strings_of(file, number, row, field)
        for name in names:
            path = os.path.join(folder, name)
            if not self.allow_outside and (fault := self.way_out(folder, name)):
                raise InputError(f"{file}, row {number}: `{field}` {name!r:.200} {fault}; --allow_outside takes it.")
            if self.must_exist and not os.path.isfile(path):
                raise InputError(f"{file}, row {number}: `{field}` {name!r:.200} is not in {folder}.")
            if first_row_of is not None:
                check_first_use(file, number, field, name, first_row_of, key=os.path.normpath(path))
            self.paths.append(path)
        return len(names)

    def way_out(self, folder: str, name: str) -> str | None:
        """How a name leads out of the folder, if it does. Folders are listed once: no call for each of their files."""
        if os.path.isabs(name) or (".." in name and ".." in Path(name).parts):
            return f"must be a path below {folder}"
        parent, base = os.path.split(os.path.join(folder, name))
        if parent not in self.links_of:
            self.links_of[parent] = links_out_of(parent, os.path.realpath(folder))
        links = self.links_of[parent]
        target = links.get("", links.get(base))
        return target and f"is a link out of {folder}, to {target}"

    def dataset(self) -> Dataset:
        """One row per video."""
        if isinstance(self.source, Dataset):
            return self.source.select_columns("video")
        if not any(map(os.path.isfile, self.paths)):
            raise InputError(f"{self.source}: none of its videos exists; the first would be {self.paths[0]}.")
        return as_dataset(Features(video=VIDEO), video=video_array(self.paths))


def links_out_of(parent: str, top: str) -> dict[str, str]:
    """Where the symbolic links in a folder lead that leave `top`, by name; `""` if the folder itself is elsewhere."""
    if is_elsewhere(os.path.realpath(parent), top):
        return {"": os.path.realpath(parent)}
    try:
        with os.scandir(parent) as entries:
            links = {entry.name: os.path.realpath(entry.path) for entry in entries if entry.is_symlink()}
    except OSError:  # no such folder
        return {}
    return {name: target for name, target in links.items() if is_elsewhere(target, top)}


def is_elsewhere(path: str, top: str) -> bool:
    return os.path.commonpath([top, path]) != top


def video_array(paths: list[str]) -> pa.StructArray:
    """Paths as Arrow stores videos; a dictionary for each would take a hundred times longer."""
    arrays = {"bytes": pa.nulls(len(paths), pa.binary()), "path": pa.array(paths, pa.string())}
    return pa.StructArray.from_arrays(list(arrays.values()), names=list(arrays))


def as_dataset(features: Features, **columns) -> Dataset:
    return Dataset(InMemoryTable(pa.table(columns, schema=features.arrow_schema)))


# ---------------------------------------------------------------------------------------------------------------------
# Captions
# ---------------------------------------------------------------------------------------------------------------------


def load_captions(
    source: str | Path | Dataset,
    video_dir: str | Path | None = None,
    join_captions: bool = False,
    unique_videos: bool = False,
    columns: dict[str, str] | None = None,
    missing_videos: str = "error",
    allow_outside: bool = False,
) -> Dataset:
    """Load annotations such as `{"video": "a.mp4", "caption": "a cat plays"}`; each may also be a list of strings.

    Args:
        source: annotation as in [`read_annotations`], or dataset of [`open_hub`].
        video_dir: folder that the names of videos are relative to; by default where the annotation lies.
        join_captions: paragraph retrieval: a row's captions are joined with spaces into one.
        unique_videos: whether a video must not occur twice, as for evaluation, where it would be its own rival.
        columns: what the annotation calls them, where it is not our names: see [`field_name`].
        missing_videos: `"error"` or `"allow"`, where a loader deals with them; at least one must exist.
        allow_outside: take names and links that lead out of the folder.

    Returns:
        A dataset with one row per video: `video`; `caption`, the list of its captions; `row`, which is equal for videos
        that share their captions, as they were annotated in one row.

    Raises:
        InputError: if the annotation cannot be read as such, or a video is missing or occurs twice.
    """
    videos = VideoColumn(source, video_dir, columns, missing_videos, allow_outside)
    captions, rows, first_row_of = [], [], {}
    for index, (file, number, row) in enumerate(rows_of(source)):
        num_videos = videos.add(file, number, row, first_row_of if unique_videos else None)
        texts = strings_of(file, number, row, field_name(row, "caption", columns))
        captions += [[" ".join(texts)] if join_captions else texts] * num_videos
        rows += [index] * num_videos
    features = Features(caption=List(STRING), row=INTEGER)
    return concatenate_datasets([videos.dataset(), as_dataset(features, caption=captions, row=rows)], axis=1)


def training_pairs(captions: Dataset, match_by: str = "video") -> Dataset:
    """All pairs of a video and one of its captions.

    Args:
        captions: of [`load_captions`].
        match_by: `"video"` or `"caption"` (SSv2, where many videos share one): pairs in which it is the same are
            positives of each other.

    Returns:
        A dataset with columns `video`, `caption` and `video_id`, equal for positives.
    """
    lists, videos = captions.data.column("caption").combine_chunks(), captions.data.column("video")
    parents, texts = pc.list_parent_indices(lists), pc.list_flatten(lists)
    if pc.struct_field(videos, "bytes").null_count == len(videos):
        keys = pc.struct_field(videos, "path").take(parents).combine_chunks()
        videos = as_dataset(Features(video=VIDEO), video=videos.take(parents))
    else:  # embedded files, of which Arrow could not take as many; their names may repeat
        keys, videos = parents, captions.select_columns("video")
        videos = videos if len(texts) == len(videos) else videos.select(parents.to_numpy())
    video_ids = pc.dictionary_encode(texts if match_by == "caption" else keys).indices.cast(pa.int64())
    pairs = as_dataset(Features(caption=STRING, video_id=INTEGER), caption=texts, video_id=video_ids)
    return concatenate_datasets([videos, pairs], axis=1)


def join_pairs(corpora: list[Dataset]) -> Dataset:
    """The pairs of several corpora, no videos of two of which are the same."""
    joined, num_ids = [], 0
    for pairs in corpora:
        video_ids = pairs.data.column("video_id")
        shifted = as_dataset(Features(video_id=INTEGER), video_id=pc.add(video_ids, num_ids))
        joined.append(concatenate_datasets([pairs.remove_columns("video_id"), shifted], axis=1))
        num_ids += pc.max(video_ids).as_py() + 1
    return concatenate_datasets(joined)


class RetrievalSet(NamedTuple):
    """V videos to be matched with T texts; `texts_of_video[v]` are the indices of the texts of video v."""

    videos: Dataset
    texts: list[str]
    texts_of_video: list[list[int]]


def retrieval_set(captions: Dataset) -> RetrievalSet:
    """Videos and texts of [`load_captions`] with `unique_videos`, in their order."""
    texts, texts_of_row = [], {}
    for row, captions_of_row in zip(captions["row"], captions["caption"], strict=True):
        if row not in texts_of_row:
            texts_of_row[row] = list(range(len(texts), len(texts) + len(captions_of_row)))
            texts += captions_of_row
    return RetrievalSet(captions.select_columns("video"), texts, [texts_of_row[row] for row in captions["row"]])


# ---------------------------------------------------------------------------------------------------------------------
# Questions and choices
# ---------------------------------------------------------------------------------------------------------------------


def load_questions(
    source: str | Path | Dataset,
    video_dir: str | Path | None = None,
    columns: dict[str, str] | None = None,
    missing_videos: str = "error",
    allow_outside: bool = False,
) -> Dataset:
    """Load annotations `{"video": "a.mp4", "question": "what …?", "answer": "cat", "question_id": 7}`.

    `answer` may be a list: an answer that several annotators gave is repeated in it. Where the first row has no
    `question_id`, rows are numbered from 0; `question_type` is optional, and may be a list of types. A row may have
    `options`, a list of answers to choose from, of which each `answer` is one, or its index from 0.

    Returns:
        A dataset with columns `video`, `question`, `answer` (list), `question_id` (integer or string, as annotated)
        and, if any row has it, `question_type` (list) and `options` (list), empty for the other rows.

    Raises:
        InputError: as [`load_captions`], and if a `question_id` is used twice or is not of the type of the first, or
            options are not at least two different ones with the answer among them.
    """
    names = {field: field_name({}, field, columns) for field in ("question", "answer", "question_id", *LISTS)}
    videos, places = VideoColumn(source, video_dir, columns, missing_videos, allow_outside), []
    values = {field: [] for field in names}
    for file, number, row in rows_of(source):
        if videos.add(file, number, row) != 1:
            raise InputError(f"{file}, row {number}: `video` must name one video, which the question is about.")
        places.append((file, number))
        values["question"].append(question_of(file, number, row, names["question"]))
        values["question_id"].append(row.get(names["question_id"]))
        for field in LISTS:
            has_it = row.get(names[field]) is not None
            values[field].append(strings_of(file, number, row, names[field]) if has_it else [])
        values["answer"].append(answers_of(file, number, row, names["answer"], names["options"]))
    values["question_id"] = check_ids(places, names["question_id"], values["question_id"])
    id_type = STRING if isinstance(values["question_id"][0], str) else INTEGER
    features = Features(question=STRING, answer=List(STRING), question_id=id_type)
    for field in LISTS:
        if any(values[field]):
            features[field] = List(STRING)
        else:
            del values[field]
    return concatenate_datasets([videos.dataset(), as_dataset(features, **values)], axis=1)


def question_of(file: str | Path, number: int, row: dict, field: str) -> str:
    """A question, of which cleaning must leave something."""
    question = string_of(file, number, row, field)
    if not is_text(clean_text(question)):
        raise InputError(f"{file}, row {number}: `{field}` must be a string that is not blank, got {question!r:.200}.")
    return question


def answers_of(file: Path, number: int, row: dict, field: str = "answer", options_field: str = "options") -> list[str]:
    """The annotators' answers to a question, or those of its options that are right."""
    if row.get(options_field) is None:
        return strings_of(file, number, row, field)
    options = strings_of(file, number, row, options_field)
    if len(options) < 2 or len(set(options)) < len(options):
        raise InputError(
            f"{file}, row {number}: `{options_field}` must be at least 2 answers, none twice, got {options!r:.200}."
        )
    answers = value_of(file, number, row, field)
    answers = answers if isinstance(answers, list) and answers else [answers]
    return [option_of(file, number, field, answer, options) for answer in answers]


def option_of(file: Path, number: int, field: str, answer, options: list[str]) -> str:
    """The option that an annotation names, or numbers from 0."""
    if answer in options:
        return answer
    index = int(answer) if file.suffix.lower() == ".csv" and str(answer).isdecimal() else answer
    if type(index) is not int or not 0 <= index < len(options):
        wanted = f"one of the options or its index from 0 to {len(options) - 1}"
        raise InputError(f"{file}, row {number}: `{field}` must be {wanted}, got {answer!r:.200}.")
    return options[index]


def check_ids(places: list[tuple[Path, int]], field: str, ids: list) -> list[int] | list[str]:
    """Ids, which must all be integers or all be strings, and differ; where no row has one, the numbers from 0."""
    if all(value is None for value in ids):
        return list(range(len(ids)))
    kind = str if isinstance(ids[0], str) else int
    first_row_of = {}
    for (file, number), value in zip(places, ids, strict=True):
        is_valid = is_text if kind is str else is_int64
        if type(value) is not kind or not is_valid(value):
            what = "a string, as the first one is" if kind is str else "an integer or, in all rows, a string"
            raise InputError(f"{file}, row {number}: `{field}` must be {what}, got {value!r:.200}.")
        check_first_use(file, number, field, value, first_row_of)
    return ids


def load_choices(
    source: str | Path | Dataset,
    video_dir: str | Path | None = None,
    num_options: int | None = None,
    columns: dict[str, str] | None = None,
    missing_videos: str = "error",
    allow_outside: bool = False,
) -> Dataset:
    """Load annotations `{"video": "a.mp4", "caption": ["a cat", "a dog", …], "answer": 1}` with one caption right.

    Args:
        source, video_dir, columns, missing_videos, allow_outside: as of [`load_captions`].
        num_options: captions that a row must have, 5 in MSRVTT-MC; any number from 2 by default.

    Returns:
        A dataset with columns `video`, `caption` (list of the options) and `answer`, the index of the right one.

    Raises:
        InputError: as [`load_captions`], and for another number of options, or an answer that is none of them.
    """
    videos, captions, answers = VideoColumn(source, video_dir, columns, missing_videos, allow_outside), [], []
    for file, number, row in rows_of(source):
        if videos.add(file, number, row) != 1:
            raise InputError(f"{file}, row {number}: `video` must name one video, which the options are for.")
        name = field_name(row, "caption", columns)
        options = strings_of(file, number, row, name)
        if len(options) < 2 or len(options) != (num_options or len(options)):
            wanted = num_options or "at least 2"
            raise InputError(f"{file}, row {number}: `{name}` must have {wanted} options, got {len(options)}.")
        name = field_name(row, "answer", columns)
        answer = value_of(file, number, row, name)
        if file.suffix.lower() == ".csv" and str(answer).isdecimal():
            answer = int(answer)
        if type(answer) is not int or not 0 <= answer < len(options):
            wanted = f"an integer from 0 to {len(options) - 1}"
            raise InputError(f"{file}, row {number}: `{name}` must be {wanted}, got {answer!r:.200}.")
        captions.append(options)
        answers.append(answer)
    features = Features(caption=List(STRING), answer=INTEGER)
    return concatenate_datasets([videos.dataset(), as_dataset(features, caption=captions, answer=answers)], axis=1)


class ChoiceSet(NamedTuple):
    """V videos and T texts; `options_of_video[v]` are the indices of the texts to choose from for video v, and
    `answers[v]` that of the right one."""

    videos: Dataset
    texts: list[str]
    options_of_video: list[list[int]]
    answers: list[int]


def choice_set(choices: Dataset) -> ChoiceSet:
    """Videos and options of [`load_choices`], in their order."""
    texts, options_of_video, answers = [], [], []
    for options, answer in zip(choices["caption"], choices["answer"], strict=True):
        options_of_video.append(list(range(len(texts), len(texts) + len(options))))
        answers.append(len(texts) + answer)
        texts += options
    return ChoiceSet(choices.select_columns("video"), texts, options_of_video, answers)


def load_answer_list(file: str | Path) -> list[str]:
    """The answers to choose from: a JSON list of strings, none blank, none twice."""
    file, first_row_of = Path(file), {}
    if not file.is_file():
        raise InputError(f"{file}: there is no such answer list.")
    answers = parse_json(file, file.read_bytes())
    if not isinstance(answers, list) or not answers:
        raise InputError(f"{file}: must hold a JSON list of at least one answer.")
    for number, answer in enumerate(answers, start=1):
        if not is_text(answer):
            raise InputError(f"{file}, answer {number}: must be a string that is not blank, got {answer!r:.200}.")
        if first_row_of.setdefault(answer, number) != number:
            raise InputError(f"{file}, answer {number}: {answer!r:.200} was already answer {first_row_of[answer]}.")
    return answers


# ---------------------------------------------------------------------------------------------------------------------
# Hub
# ---------------------------------------------------------------------------------------------------------------------


def open_hub(name: str, split: str, columns: dict[str, str] | None = None, streaming: bool = False):
    """A dataset of the Hub, or of a folder that `load_dataset` takes, with its videos (or images) undecoded in `video`.

    Returns:
        A `Dataset`, or with `streaming` an `IterableDataset`, for the loading functions here or for `streaming`.

    Raises:
        InputError: if it cannot be loaded, in one sentence, or has no column of videos.
    """
    try:
        dataset = load_dataset(name, split=split, streaming=streaming)
    except Exception as error:  # of the network, of the Hub, of any of many file formats
        raise InputError(f"{name}, split {split}: cannot be loaded ({reason_of(error)}).") from error
    present = dict.fromkeys(dataset.column_names)
    video = field_name(present, "video", columns)
    if video not in present:
        raise InputError(f"{name}, split {split}: has no column `{video}`, but: {', '.join(present)}.")
    return dataset.cast_column(video, VIDEO).rename_columns({} if video == "video" else {video: "video"})


def reason_of(error: Exception) -> str:
    """The first line of what another library says, to be put into a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def rows_of(source: str | Path | Dataset) -> Iterator[tuple[Path, int, dict]]:
    """Rows with file and number: of an annotation, or of a dataset of the Hub, without its videos and the like."""
    if not isinstance(source, Dataset):
        yield from read_annotations(source)
        return
    texts = [name for name, feature in source.features.items() if not hasattr(feature, "decode_example")]
    for number, row in enumerate(source.select_columns(texts), start=1):
        yield Path(source.info.dataset_name or "dataset"), number, row
