# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Where videos and indexes lie: in folders, or in object stores (`s3://bucket/folder`) that fsspec can read."""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ..data.files import is_url
from ..distributed import whole_files
from ..errors import InputError, store_reason

# By which stores tell a file from the one that it replaces, in the order that we trust them.
MARKS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified", "created")


def place_of(name: str | Path) -> Path | str:
    """Return a folder as a path, but one in a store as its URL."""
    return str(name).rstrip("/") if is_url(name) else Path(name)


@contextmanager
def asking(place: str | Path, kind: type[Exception] = InputError) -> Iterator[None]:
    """Raise the errors of a store, of which each has its own kinds, as one that names the place.

    A `FileNotFoundError` remains one, and the errors of a place that is no URL remain as they are.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (InputError, tarfile.TarError)) or not is_url(place):
            raise
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"{place}: is not there, or not as it was.") from error
        if isinstance(error, ImportError):
            raise InputError(f"{place}: needs one more package ({error}); for s3:// it is in svitt[s3].") from error
        raise kind(f"{place}: the store cannot be reached, or refuses ({store_reason(error)}).") from error


def open_store(place: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the store of a URL, or this machine's disks for a path, and the name that the place has there."""
    if not is_url(place):
        return LocalFileSystem(), str(place)
    with asking(place):
        return fsspec.url_to_fs(place, use_listings_cache=False)  # another process may have written since


def canonical(url: str) -> str:
    """Return a URL as [`versions_below`] writes it."""
    files, path = open_store(url)
    return files.unstrip_protocol(path)


def versions_below(url: str) -> dict[str, str]:
    """Return the versions of all files below a URL, or of the file that it is, by their URLs."""
    files, path = open_store(url)
    with asking(url), suppress(FileNotFoundError):
        found = sorted(files.find(path, detail=True).items())
        return {files.unstrip_protocol(name): mark_of(info) for name, info in found if info["type"] == "file"}
    return {}


def mark_of(info: dict) -> str:
    """Return what differs when a file has been replaced, of what a store says about it."""
    mark = next((info[name] for name in MARKS if info.get(name)), "")
    mark = mark.timestamp() if isinstance(mark, datetime) else mark  # which some stores write in two ways
    return f"{info['size']} {mark}".replace('"', "")


def read_bytes(place: str, version: str, start: int | None = None, end: int | None = None) -> bytes:
    """Return the bytes of a file, or a part of them.

    Raises:
        OSError: if it cannot be read, or in a store, has another version.
    """
    files, path = open_store(place)
    with asking(place, OSError):
        if is_url(place) and mark_of(files.info(path)) != version:
            raise FileNotFoundError
        return files.cat_file(path, start=start, end=end)


# ---- Small files of a folder


def has_file(folder: str | Path, name: str) -> bool:
    files, path = open_store(folder)
    with asking(folder), suppress(FileNotFoundError):  # of a bucket
        return files.exists(f"{path}/{name}")
    return False


def read_file(folder: str | Path, name: str) -> str:
    files, path = open_store(folder)
    with asking(folder):
        return files.cat_file(f"{path}/{name}").decode()


def remove_file(folder: str | Path, name: str):
    files, path = open_store(folder)
    with asking(folder), suppress(FileNotFoundError):
        files.rm_file(f"{path}/{name}")


@contextmanager
def new_files(folder: str | Path) -> Iterator[Path]:
    """Give a temporary folder, whose files are moved or copied into `folder` when all are written, each as a whole."""
    if not is_url(folder):
        with whole_files(folder) as new:
            yield new
        return
    with tempfile.TemporaryDirectory() as new:
        yield Path(new)
        files, path = open_store(folder)
        with asking(folder):
            for file in Path(new).iterdir():
                files.put_file(file, f"{path}/{file.name}")
