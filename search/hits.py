# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What a search finds: spans, best first, without repetitions."""

from collections import defaultdict
from dataclasses import dataclass, field

SAME = 1e-4  # similarities of what a model sees twice, in batches of other sizes, differ by less


@dataclass
class Hit:
    """A span that was found: `video` is a path or URL, or `<shard>::<member>`; `start` and `end` are seconds.

    Hits are ranked by `score`, the logit of matching, or where they were not re-ranked, by `similarity`, the cosine of
    embeddings, or of a model that encodes frames one by one, the mean of its frames'. `best_time` is when, in seconds,
    the frame is shown that the sentence fits best, if that was asked. `copies` are other files of the same content.
    `note` says that the video has gone or changed since it was indexed, or why it cannot be read.
    """

    video: str
    start: float
    end: float
    similarity: float
    score: float | None = None
    note: str | None = None
    copies: list[str] = field(default_factory=list)
    best_time: float | None = None


def distinct(rows: list[dict]) -> list[dict]:
    """Return rows of the table, best first, without spans that overlap a better one of the same video.

    Copies of a file are one video; `copies` of a row are the names of the others.
    """
    original, kept, of_video = originals(rows), [], defaultdict(list)
    for row in rows:
        near = of_video[original[row["video"]]]
        better = next((one for one in near if overlap(one, row)), None)
        if better is None:
            kept.append(row | {"copies": []})
            near.append(kept[-1])
        elif row["video"] != better["video"] and row["start"] == better["start"]:
            better["copies"].append(row["video"])
    return kept


def overlap(one: dict, other: dict) -> bool:
    is_same = one["start"] == other["start"]  # also of photos, which last no time
    return is_same or (one["start"] < other["end"] and other["start"] < one["end"])


def shows(row: dict, hit: Hit) -> bool:
    """Return whether a row of the table is the span of a hit or overlaps it, also in a copy of its video."""
    return overlap(row, {"start": hit.start, "end": hit.end}) and hit.video in (row["video"], *row["copies"])


def originals(rows: list[dict]) -> dict[str, str]:
    """Return for each video the first of those that are copies of it: files of one size, whose spans look the same."""
    original: dict[str, str] = {}
    first: dict[tuple, dict] = {}
    for row in rows:
        size = row["size"] or row["version"].partition(" ")[0]
        one = first.setdefault((size, row["start"], row["end"]), row)
        is_copy = abs(one["similarity"] - row["similarity"]) < SAME
        original.setdefault(row["video"], original[one["video"]] if is_copy and one is not row else row["video"])
    return original


def hits_table(hits: list[Hit]) -> str:
    """Return hits as lines of text."""
    lines = [f"{'':>3}{'score':>8}{'similarity':>12}{'from':>11}{'to':>11}  video"]
    for rank, hit in enumerate(hits, start=1):
        score = "" if hit.score is None else f"{hit.score:.2f}"
        notes = [f"best at {clock(hit.best_time)}"] if hit.best_time is not None else []
        notes += [f"and {len(hit.copies)} {'copies' if len(hit.copies) > 1 else 'copy'}"] if hit.copies else []
        notes += [hit.note] if hit.note else []
        name = hit.video + (f"  ({'; '.join(notes)})" if notes else "")
        lines.append(f"{rank:>3}{score:>8}{hit.similarity:>12.3f}{clock(hit.start):>11}{clock(hit.end):>11}  {name}")
    return "\n".join(lines)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds, 1), 60)
    return f"{int(minutes) // 60}:{int(minutes) % 60:02}:{seconds:04.1f}"
