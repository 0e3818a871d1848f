# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Tar shards (WebDataset: `key.mp4` beside `key.json` or `key.txt`) as rows that are read by their numbers."""

import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator

import fsspec
from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError

from ..errors import InputError
from .annotations import Member
from .files import files_in_tar
from .formats import parse_json

SAMPLE_NAME = re.compile(r"((?:.*/)?[^/.][^/.]*)\.([^/]+)")  # of a member: key and extension


def open_shards(patterns: Iterable[str], video: str | None = None) -> list[tuple[str, int, dict]]:
    """Return the rows of shards, for the loading functions of `annotations`.

    Each shard is read once, but for its videos; what is where is remembered in the cache of `datasets`.

    Args:
        patterns: paths or URLs that `fsspec` can open, with or without `*`.
        video: extension of the videos, where samples have other files as well.

    Raises:
        InputError: if there are no such shards, one is damaged, or a sample has no video.
    """
    shards = [shard for pattern in patterns for shard in expand(pattern)]
    text, number = Value("string"), Value("int64")
    features = Features(path=text, shard=text, offset=number, size=number, fields=text)
    places = map(fsspec.url_to_fs, shards)
    stamps = [files.ukey(path) for files, path in places]  # differ where a file has changed
    arguments = {"shards": shards, "stamps": stamps, "video": [video] * len(shards)}
    try:
        index = Dataset.from_generator(index_shards, features, gen_kwargs=arguments)
    except DatasetGenerationError as error:
        raise error.__cause__ if isinstance(error.__cause__, InputError) else error from None
    rows = []
    for number, sample in enumerate(index.with_format("arrow")[:].to_pylist(), start=1):
        fields = json.loads(sample.pop("fields"))
        lists = {name: values for name, values in fields.items() if isinstance(values, list)}
        asked = [fields]
        if isinstance(fields.get("question"), list) or isinstance(fields.get("start"), list):
            if len({len(values) for values in lists.values()}) > 1:
                raise InputError(f"{sample['path']}: {', '.join(lists)} must be lists of equal length.")
            asked = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        rows += [(sample["shard"], number, row | {"video": Member(**sample)}) for row in asked]
    return rows


def expand(pattern: str) -> list[str]:
    files, path = fsspec.url_to_fs(pattern)
    found = sorted(files.glob(path)) if "*" in path else [path] * files.exists(path)
    if not found or not pattern.endswith(".tar"):
        hint = "shards are .tar files; a folder of Parquet files is named as `hub`"
        raise InputError(f"{pattern}: there are no such shards; {hint}.")
    return [files.unstrip_protocol(file) if "://" in pattern else file for file in found]


def index_shards(shards: list[str], stamps: list[str], video: list[str | None]) -> Iterator[dict]:
    """Yield the samples of shards: where each video is, and the other fields as JSON."""
    for shard, extension in zip(shards, video, strict=True):
        samples: dict[str, dict] = {}
        try:
            for key, name, member, text in read_headers(shard):
                sample = samples.setdefault(key, {"fields": {}, "videos": []})
                if name == "json":
                    sample["fields"] |= parse_json(member.path, text)
                elif name == "txt":
                    sample["fields"]["txt"] = text.decode()
                elif name == (extension or name):
                    sample["videos"].append(member)
        except (OSError, EOFError, TypeError, UnicodeDecodeError, tarfile.TarError) as error:
            raise InputError(f"{shard}: damaged or cut off ({error}).") from error
        for key, sample in samples.items():
            if len(sample["videos"]) != 1:
                names = ", ".join(os.path.basename(member.path) for member in sample["videos"]) or "none"
                raise InputError(
                    f"{shard}, sample {key}: must have one video, name its extension in `columns`; got {names}."
                )
            yield sample["videos"][0]._asdict() | {"fields": json.dumps(sample["fields"])}


def read_headers(shard: str) -> Iterator[tuple[str, str, Member, bytes]]:
    """Yield the key and extension of each file in a shard, its place, and its content if it is text."""
    with fsspec.open(shard, "rb") as file:
        for tar, member in files_in_tar(file):
            if match := SAMPLE_NAME.fullmatch(member.name):
                text = tar.extractfile(member).read() if match[2] in ("json", "txt") else b""
                place = Member(f"{shard}/{member.name}", shard, member.offset_data, member.size)
                yield match[1], match[2], place, text


def read_member(shard: str, offset: int, size: int) -> bytes:
    """Return the bytes of a video in a shard; raise an `InputError` if they are there no more."""
    try:
        files, path = fsspec.url_to_fs(shard)
        return files.cat_file(path, start=offset, end=offset + size)  # s3fs has them in another order
    except OSError as error:
        raise InputError(f"{shard}: cannot be read any more ({error}).") from error
