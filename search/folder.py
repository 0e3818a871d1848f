# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The folder of an index, beside its table: settings, the list of bad videos, and the lock of the one that writes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from filelock import FileLock, Timeout

from ..data.check import write_bad_videos
from ..distributed import fail_together, write_whole_file
from ..errors import InputError, writing
from .table import ClipTable

SETTINGS = ("model", "fingerprint", "embed_dim", "num_frames", "clip_seconds", "stride_seconds")


def make_folder(folder: Path, settings: dict):
    """A folder with an empty table, and then its settings, unless it has them."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--index {folder}: is a file; name a folder.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "create.lock"):
            if not (folder / "index.json").is_file():
                ClipTable.create(folder, settings["embed_dim"])
                write_whole_file(folder / "index.json", json.dumps(settings, indent=2))


def read_settings(folder: Path) -> dict:
    """Raises an `InputError` for a folder without settings, or with such that are damaged."""
    try:
        settings = json.loads((folder / "index.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: is no index, it has no index.json that can be read; svitt-search index makes one."
        ) from error
    if not isinstance(settings, dict) or not settings.keys() >= set(SETTINGS):
        raise InputError(
            f"{folder / 'index.json'}: is damaged, it must have {', '.join(SETTINGS)}; make the index anew."
        )
    return settings


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One indexer at a time; the lock of one that was killed is open."""
    lock = FileLock(folder / "index.lock")

    def acquire():
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(f"{folder}: another process is indexing into it; wait for its end.") from error
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror or error}).") from error

    fail_together(acquire if PartialState().is_main_process else lambda: None)
    try:
        yield
    finally:
        lock.release()


class BadVideos:
    """`bad_videos.jsonl`: a line for each video that cannot be read, and why."""

    def __init__(self, folder: Path):
        self.path = folder / "bad_videos.jsonl"

    def read(self) -> dict[str, str]:
        """Why, by name. A line that is broken, as of a process that was killed, counts as none."""
        errors = {}
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n") if self.path.is_file() else []
        for line in lines:
            try:
                found = json.loads(line)
                errors[found["video"]] = found["error"]
            except (ValueError, TypeError, KeyError):
                continue
        return errors

    def add(self, video: str, error: str):
        write_bad_videos(self.path, [{"video": video, "error": error, "where": "index"}], append=True)

    def write(self, errors: dict[str, str]):
        """In place of all that was there."""
        lines = (
            json.dumps({"video": video, "error": errors[video], "where": "index"}, ensure_ascii=False)
            for video in sorted(errors)
        )
        with writing(self.path):
            write_whole_file(self.path, "".join(f"{line}\n" for line in lines))
