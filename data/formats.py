# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""From files of annotations, as they were published, to rows: JSON, JSON lines, tables, and texts of one row a line.

A [`Layout`] says what the file does not: which of its fields holds the rows, which rows are wanted, which fields are
lists with an element for each row. Rows are counted from 1, without headers and blank lines.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import fsspec
from huggingface_hub.dataclasses import strict

from ..errors import InputError, not_found

METADATA_FILES = ("metadata.jsonl", "metadata.csv")  # of a folder made for `load_dataset("videofolder")`
KEY = "key"  # field for the name that a row has in an object of rows
QUOTED = re.compile(r'"(?:[^"]|"")*"')

Place = tuple[Path, int | str, Any]  # file, number of a row, and what it holds


@dataclass
class Form:
    """Where the rows of a file are. The words are of `datasets` and pandas, but for `line`."""

    field: str | None = None  # of a JSON object: which of its fields holds the rows
    column_names: list[str] | None = None  # of a table without a header
    line: str | None = None  # of a text with a row a line, such as "{video} {start} {end}##{caption}"


@strict
@dataclass(kw_only=True)
class Join(Form):
    """Another file: each row gets the fields of the one with the same value in the field `by`, or is left out."""

    annotation: str | Path
    by: str


@dataclass
class Layout(Form):
    """How the rows of a file become annotations: they are joined, then chosen, then taken apart."""

    join: Join | None = None
    where: dict[str, Any] | None = None  # what fields must hold: a value, or one of a list
    explode: list[str] | None = None  # fields that are lists of equal length: a row for each of their elements


# ---- Rows


def read_annotations(path: str | Path, layout: Layout | None = None, left_out: list | None = None) -> Iterator[Place]:
    """Yield the rows of an annotation, each with its file and its number, as `3, item 2` where row 3 is taken apart.

    Args:
        path: a JSON list of objects, or an object of objects, each of which gets its name as the field `key`; JSON
            lines (`.jsonl`); a table with a header (`.csv`, `.tsv`), where a cell that holds a JSON list is one, and an
            empty cell a missing field; any of them compressed, as `.json.gz`; or a folder with `metadata.jsonl` or
            `metadata.csv` in it or in its subfolders.
        left_out: gets the numbers of rows that `join` and `where` leave out.

    Raises:
        InputError: if a file is missing, cannot be read as such, has no rows, or does not fit the layout.
    """
    layout = layout or Layout()
    others = index_rows(layout.join) if layout.join else {}
    wanted = {
        name: {text_of(one) for one in (value if isinstance(value, list) else [value])}
        for name, value in (layout.where or {}).items()
    }
    num_found, left_out = 0, [] if left_out is None else left_out
    for file, number, row in read_files(path, layout):
        if isinstance(row, dict):
            other = others.get(str(row.get(layout.join.by))) if layout.join else {}
            row = other | row if other else row
            if other is None or any(text_of(row.get(name)) not in values for name, values in wanted.items()):
                left_out.append(number)
                continue
        has_items = layout.explode and isinstance(row, dict)
        for place in exploded(file, number, row, layout.explode) if has_items else [(file, number, row)]:
            num_found += 1
            yield place
    if not num_found:
        steps = " and ".join(f"`{name}`" for name in ("join", "where", "explode") if getattr(layout, name))
        raise InputError(f"{path}: no row is left by {steps}; the last one has: {names_of(row)}.")


def names_of(fields: Iterable) -> str:
    """Return the names of fields, as an error lists them: not more than a person reads."""
    return ", ".join(map(str, list(fields)[:20]))


def text_of(value) -> str:
    """Return a value as a table writes it, to be compared with those of YAML and JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def index_rows(join: Join) -> dict[str, dict]:
    """Return the rows of the other file by their values in `by`; raise an `InputError` where two are equal."""
    rows = {}
    for file, number, row in read_files(join.annotation, join):
        if not isinstance(row, dict) or row.get(join.by) is None:
            raise InputError(f"{file}, row {number}: `{join.by}` is missing, on which it is to be joined.")
        if rows.setdefault(str(row[join.by]), row) is not row:
            raise InputError(f"{file}, row {number}: `{join.by}` {row[join.by]!r:.200} was in an earlier row already.")
    return rows


def exploded(file: Path, number: int | str, row: dict, names: list[str]) -> Iterator[Place]:
    """Yield a row for each element of some of its fields; where it is an object, the row gets the object's fields."""
    lists = [row.get(name) for name in names]
    if not all(isinstance(one, list) for one in lists) or len(set(map(len, lists))) > 1:
        wanted = "lists of equal length" if names[1:] else "a list"
        raise InputError(f"{file}, row {number}: {', '.join(f'`{name}`' for name in names)} must be {wanted}.")
    for item, elements in enumerate(zip(*lists, strict=True), start=1):
        fields = row | dict(zip(names, elements, strict=True))
        for element in elements:
            fields |= element if isinstance(element, dict) else {}
        yield file, f"{number}, item {item}", fields


# ---- Files


def read_files(path: str | Path, form: Form) -> Iterator[Place]:
    """Yield the rows of a file, or of the metadata files below a folder, as they are."""
    files = [Path(path)]
    if files[0].is_dir():
        files = sorted(file for name in METADATA_FILES for file in files[0].rglob(name))
        if not files:
            raise InputError(f"{path}: this folder holds no {' or '.join(METADATA_FILES)}.")
    for file in files:
        number, read = 0, reader_of(file, form)
        try:
            with fsspec.open(str(file), "rt", compression="infer", encoding="utf-8-sig", newline="") as lines:
                for number, row in enumerate(read(file, lines, form), start=1):
                    yield file, number, row
        except FileNotFoundError as error:
            raise not_found(file) from error
        except InputError:
            raise
        except Exception as error:  # each compression has its own kinds
            raise InputError(f"{file}: cannot be read after row {number} ({error}).") from error
        if number == 0:
            raise InputError(f"{file}: is empty, it must hold at least one row.")


def reader_of(file: Path, form: Form) -> Callable[[Path, Iterator[str], Form], Iterable]:
    """Return the function that reads a file; raise an `InputError` where `form` says what such files have not."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    read = read_lines if form.line else next((READERS[one] for one in reversed(suffixes) if one in READERS), read_json)
    for name, reader in {"field": read_json, "column_names": read_table}.items():
        if getattr(form, name) and read is not reader:
            raise InputError(f"{file}: is no file that can have `{name}`.")
    return read


def read_json(file: Path, lines, form: Form) -> list:
    text = lines.read()
    rows = parse_json(file, text) if text.strip() else []
    fields = rows if isinstance(rows, dict) else {}
    if form.field:
        if form.field not in fields:
            raise InputError(f"{file}: has no field `{form.field}`, what it has is: {names_of(fields)}.")
        rows = fields[form.field]
    if isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values()):
        if taken := next((name for name, row in rows.items() if KEY in row), None):
            raise InputError(f"{file}: {taken!r:.200} has a field `{KEY}` of its own, which its name is to be.")
        return [{KEY: name} | row for name, row in rows.items()]
    if not isinstance(rows, list):
        lists = [name for name, value in fields.items() if isinstance(value, list)]
        advice = f"say which `field` holds it: {names_of(lists)}" if lists else "one object a line is .jsonl"
        raise InputError(f"{file}: must hold a JSON list, or an object of objects; {advice}.")
    return rows


def read_json_lines(file: Path, lines: Iterator[str], form: Form) -> Iterator:
    return (parse_json(f"{file}, line {n}", line) for n, line in enumerate(lines, start=1) if line.strip())


def parse_json(where, text: str | bytes):
    try:
        return json.loads(text, object_pairs_hook=unique_fields)
    except (ValueError, RecursionError) as error:
        advice = "; if it has one object a line, name it .jsonl" if "Extra data: line 2" in str(error) else ""
        raise InputError(f"{where}: not a JSON file ({error}){advice}.") from error


def unique_fields(pairs: list[tuple[str, Any]]) -> dict:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two fields of an object are called {max(names, key=names.count)!r:.200}")
    return fields


def read_table(file: Path, lines: Iterator[str], form: Form) -> Iterator[dict]:
    first = next(lines, "")
    lines = chain([first], lines)
    tabbed = (list(map(unquoted, line.rstrip("\r\n").split("\t"))) for line in lines)
    rows = filter(any, tabbed if "\t" in first else csv.reader(lines, strict=True))
    names = form.column_names or next(rows, [])
    if len(set(names)) < len(names):
        raise InputError(f"{file}: two columns are called {max(names, key=names.count)!r:.200}.")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise InputError(f"{file}, row {number}: must have {len(names)} cells, as the header has, not {len(row)}.")
        yield {name: parse_cell(cell) for name, cell in zip(names, row, strict=True) if cell}


def unquoted(cell: str) -> str:
    """Return a cell without the quotes around it; of those in a sentence, people who write tabs double none."""
    return cell[1:-1].replace('""', '"') if cell[:1] == '"' and QUOTED.fullmatch(cell) else cell


def parse_cell(cell: str) -> str | list:
    try:
        return json.loads(cell) if cell[0] == "[" and cell[-1] == "]" else cell
    except ValueError:  # a sentence in brackets
        return cell


def read_lines(file: Path, lines: Iterator[str], form: Form) -> Iterator[dict]:
    parts = re.split(r"\{(\w+)\}", form.line)
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = [f"(?P<{name}>.+?)" for name in parts[1::2]]
    try:
        pattern = re.compile("".join(parts))
    except re.error as error:
        raise InputError(f"{file}: `line` {form.line} cannot be used ({error}).") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            match = pattern.fullmatch(line.strip())
            if match is None and line.startswith("#"):  # a comment, such as MSVD's
                continue
            if match is None:
                raise InputError(f"{file}, line {number}: must be {form.line}, got {line.strip()!r:.200}.")
            yield match.groupdict()


READERS = {".csv": read_table, ".jsonl": read_json_lines, ".ndjson": read_json_lines, ".tsv": read_table}
