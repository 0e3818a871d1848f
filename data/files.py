# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Files of videos below a folder, and the file that lists bad ones; nothing slow is imported for them."""

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import InputError, not_found, writing

# FFmpeg itself names few of its formats' extensions, and a .txt as a film of letters.
VIDEO_EXTENSIONS = tuple(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .m1v .m2t .m2ts .m2v .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpe .mpeg "
    ".mpg .mts .mxf .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .y4m".split()
)


def is_url(place: str | os.PathLike) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", str(place)) is not None


def files_below(folder: str, on_error: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """Yield the paths of all files in a folder and the folders in it, through links as well, each folder once.

    `on_error` gets the error of each folder that cannot be listed; by default it is raised as an `InputError`.
    """

    def refuse(error: OSError):
        if isinstance(error, FileNotFoundError):
            raise not_found(error.filename, "folder")
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror}).")

    seen = set()
    for parent, folders, names in os.walk(folder, onerror=on_error or refuse, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:  # two links to one folder, or a link to one that holds it
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))  # noqa: B023
        yield from (os.path.join(parent, name) for name in names)


def is_video(path: str, extensions: tuple[str, ...] = VIDEO_EXTENSIONS) -> bool:
    return path.lower().endswith(extensions) and not os.path.basename(path).startswith(".")


def files_in_tar(file) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the files in an archive, each with the archive; raise a `tarfile.TarError` if it is not whole."""
    # Compressed, it has no place for each file. What is no UTF-8 in names could not be written into tables.
    with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar:
        yield from ((tar, member) for member in tar if member.isfile())
        # Where a header is damaged, `tarfile` believes that the archive ends there: it must end in zeros only.
        file.seek(tar.offset)
        end = file.read(2**20)
        if not end or any(end):
            raise tarfile.ReadError("there is no end of the archive where it should be")


def write_bad_videos(path: str | Path, bad: Iterable[dict], append: bool = False):
    """Write a line of JSON for each bad video: `video`; `error`, a sentence; `where`, the split, or file and row."""
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # JSON can write a name that is no UTF-8 with a backslash.
        with open(path, "a" if append else "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in bad)
