# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""`svitt search`: the answer to one query, or to one after another in the same process."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict

from ..errors import ArgumentError, InputError, sentence_of
from ..processing_svitt import VideoDecodeError
from .export import export
from .hits import Hit, hits_table
from .index import SViTTIndex


def answer(index: SViTTIndex, as_json: bool, output_dir: str | None, indent: int | None = None, **query) -> list[Hit]:
    """Print the hits of a query, and if there is a folder, write what they show into it; return them."""
    if query.get("text") is not None and query.get("rerank") is None and not index.model.config.rerank:
        print("ranked by embeddings, which were better in this model's validation; --rerank fuses", file=sys.stderr)
    hits, files = index.search(**query), []
    if not as_json:
        print(hits_table(hits) if hits else "nothing found", flush=True)
    for rank, hit in enumerate(hits if output_dir else [], start=1):
        try:
            files.append(str(export(hit, output_dir, rank)))
        except VideoDecodeError as error:
            files.append(None)
            print(f"not exported: {error}", file=sys.stderr)
    if as_json:
        rows = [asdict(hit) | ({"file": files[number]} if output_dir else {}) for number, hit in enumerate(hits)]
        print(json.dumps(rows, indent=indent, ensure_ascii=False), flush=True)
    elif output_dir:
        print(*filter(None, files), sep="\n", flush=True)
    return hits


def answer_lines(index: SViTTIndex, as_json: bool, output_dir: str | None, **settings):
    """Answer each line of the input, a sentence or `like N`, more like the N-th hit of the last answer.

    One that fails is told, with an empty list in JSON, so that there is one for each line that is not blank.
    """
    hits: list[Hit] = []
    for line in filter(None, map(str.strip, lines())):
        try:
            asked = re.fullmatch(r"like (\d+)", line)
            query = {"like": numbered(hits, int(asked[1])), "locate": False} if asked else {"text": line}
            hits = answer(index, as_json, output_dir, **settings | query)
        except ArgumentError:  # of the options, which are the same for all lines
            raise
        except (InputError, VideoDecodeError) as error:
            print(sentence_of(error), file=sys.stderr, flush=True)
            if as_json:
                print("[]", flush=True)


def numbered(hits: list[Hit], number: int) -> Hit:
    if not 1 <= number <= len(hits):
        raise InputError(f"There is no hit {number}; the last answer has {len(hits)}.")
    return hits[number - 1]


def lines() -> Iterator[str]:
    """Yield lines of the standard input, and where it is a terminal, ask for them."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        sys.stdin.reconfigure(errors="replace")
        yield from sys.stdin
        return
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - `input` then edits lines, and brings earlier ones back
    print('Describe what to find; "like 2" finds more like the second hit; Ctrl-D ends.')
    with suppress(EOFError):
        while True:
            yield input("> ")
