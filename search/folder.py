# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The folder of an index but for its table: settings, the lock, bad videos, and which model it belongs to."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import try_to_load_from_cache

from ..data.files import write_bad_videos
from ..errors import ArgumentError, InputError, check_number, writing
from ..processing_svitt import ROUNDING
from .places import has_file, is_url, new_files, place_of, read_file, remove_file
from .spans import absolutes, is_below
from .table import SpanTable
from .tokens import DTYPES

# What embeddings depend on, of the files of a model.
MODEL_FILES = ("model*.safetensors", "config.json", "*processor_config.json", "tokenizer*.json", "vocab.txt")
# What an index is made with: what may be chosen, and its defaults.
CHOICES: dict = {
    "clip_seconds": 10.0,
    "stride_seconds": None,  # half of `clip_seconds`
    "num_frames": None,
    "frames_per_span": None,
    "tokens": "int8",
    "tokens_per_span": 512,
    "damaged": "refuse",
}
SETTINGS = ("model", "fingerprint", "files", *CHOICES)


def check_choices(settings: dict):
    """Raise an `ArgumentError` for a choice out of bounds."""
    check_number("clip_seconds", settings["clip_seconds"], ROUNDING)
    check_number("stride_seconds", settings["stride_seconds"], ROUNDING, settings["clip_seconds"])
    check_number("frames_per_span", settings["frames_per_span"], 1)
    check_number("tokens_per_span", settings["tokens_per_span"], 2)
    if settings["damaged"] not in ("refuse", "use"):
        raise ArgumentError("damaged", f"must be refuse or use, got {settings['damaged']!r}")
    if settings["tokens"] not in (*DTYPES, "none"):
        raise ArgumentError("tokens", f"must be one of {', '.join(DTYPES)}, none, got {settings['tokens']!r}")


def is_index(folder: Path | str) -> bool:
    """Return whether there is an index; raise an `InputError` for a folder that holds other things."""
    is_there = has_file(folder, "index.json")
    if not is_there and not is_url(folder) and folder.is_dir():
        left = {"index.lock", "spans.lance", ".incomplete"}  # by one that makes it, or was killed
        names = {path.name for path in folder.iterdir()} - left
        if names:
            raise InputError(f"{folder}: holds other things, such as {min(names)}; name a new folder for the index.")
    return is_there


def read_settings(folder: Path | str) -> dict:
    try:
        settings = json.loads(read_file(folder, "index.json"))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        advice = "`svitt index` makes one of videos in a folder of its own"
        raise InputError(f"{folder}: is no index, it has no index.json that can be read; {advice}.") from error
    if not isinstance(settings, dict) or not settings.keys() >= set(SETTINGS):
        raise InputError(f"{folder}: its index.json is damaged or of an older version; index the videos anew.")
    return settings


@contextmanager
def locked(folder: Path | str, timeout: float = 0) -> Iterator[None]:
    """Make a folder, and let one process at a time write into it; the lock of one that was killed is open.

    In a store there are no locks: LanceDB's transactions keep the table whole, but two that index the same videos at
    once encode them twice.
    """
    with writing(folder), ExitStack() as stack:
        if not is_url(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(f"{folder}/index.lock", timeout))
            except Timeout as error:
                raise InputError(f"{folder}: another process is indexing into it; wait for its end.") from error
        yield


def remove_videos(folder: str | Path, paths: str | Path | Iterable[str | Path]) -> list[str]:
    """Take videos out of an index, without its model, and return their names.

    Args:
        paths: names of videos, which need not exist any more, folders that they lie in, and shards.

    Raises:
        InputError: if the index has none of a path, or cannot be written.
    """
    folder, names = place_of(folder), set()
    read_settings(folder)
    with locked(folder):
        table = SpanTable(folder)
        known = {video for video, _, _ in table.spans()}
        for path in absolutes(paths):
            if not (below := {name for name in known if is_below(name, path)}):
                raise InputError(f"{path}: is no video of the index {folder}, and no folder or shard of some.")
            names |= below
        table.remove(sorted(names))
        table.finish()
    return sorted(names)


def write_settings(folder: Path | str, settings: dict):
    with new_files(folder) as new:
        (new / "index.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def write_bad_report(folder: Path | str, bad: dict[str, str]):
    """Write `bad_videos.jsonl`, or remove that of the last time where all could be read."""
    remove_file(folder, "bad_videos.jsonl")
    if bad:
        with new_files(folder) as new:
            lines = [{"video": video, "error": error, "where": "index"} for video, error in sorted(bad.items())]
            write_bad_videos(new / "bad_videos.jsonl", lines)


def fingerprint_of(name: str, known: dict | None = None) -> dict:
    """Return `fingerprint`, a hash of the files of a model that was loaded, and `files`, their sizes and times.

    Files of the sizes and times that are `known` are not read again.
    """
    folder = Path(name) if os.path.isdir(name) else Path(try_to_load_from_cache(name, "config.json")).parent
    paths = sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern))
    files = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
    if known is not None and known["files"] == files:
        return {"fingerprint": known["fingerprint"], "files": files}
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return {"fingerprint": digest.hexdigest(), "files": files}
