# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The table of clips: a row for each, with its embedding, in LanceDB."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import IvfFlat

from ..errors import WRITER_ERRORS, InputError
from .clips import Clip, Video

P = ParamSpec("P")
T = TypeVar("T")

# With fewer rows, looking at every one of them is fast enough, and exact.
MIN_ROWS_OF_ANN = 50_000
# Clusters of the ANN index that a search looks into, of a thousand for a million clips; see benchmarks/README.md.
NUM_PROBES = 50
# What a row holds besides `embedding`: a `Video` and a `Clip`, field by field.
FIELDS = {
    Video: ("video", "version", "shard", "offset", "size"),
    Clip: ("number", "num_clips", "start", "end", "first", "last"),
}
TYPES = {"video": pa.string(), "version": pa.string(), "shard": pa.string(), "start": pa.float64(), "end": pa.float64()}


def tells_damage(
    method: Callable[Concatenate["ClipTable", P], T],
) -> Callable[Concatenate["ClipTable", P], T]:
    """Let a method raise an `InputError` for what LanceDB raises at files that are missing or damaged."""

    @wraps(method)
    def call(self: "ClipTable", *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except (OSError, RuntimeError, ValueError) as error:
            if any(words in str(error) for words in WRITER_ERRORS):  # a full disk, which is told by `writing`
                raise
            reason = str(error).partition(", /")[0]  # without lines of the source
            raise InputError(
                f"{self.folder}: its table clips.lance cannot be read or written ({reason}); if it is damaged, index "
                "the videos anew in another folder."
            ) from error

    return call


class ClipTable:
    """Rows are added and removed in transactions: readers see a consistent state at any time, and half a batch never.

    Args:
        folder: where [`ClipTable.create`] has made `clips.lance`.
    """

    def __init__(self, folder: str | Path):
        self.folder = folder
        self.table = self._open()

    @tells_damage
    def _open(self) -> lancedb.table.Table:
        return lancedb.connect(self.folder).open_table("clips")

    @classmethod
    def create(cls, folder: str | Path, embed_dim: int) -> "ClipTable":
        """Make an empty table for embeddings of length 1, in place of one that may be there."""
        database = lancedb.connect(folder)
        database.drop_table("clips", ignore_missing=True)  # mode="overwrite" would warn where there is none
        database.create_table("clips", schema=cls.schema(embed_dim))
        return cls(folder)

    @staticmethod
    def schema(embed_dim: int) -> pa.Schema:
        fields = [(name, TYPES.get(name, pa.int64())) for names in FIELDS.values() for name in names]
        return pa.schema([*fields, ("embedding", pa.list_(pa.float32(), embed_dim))])

    @tells_damage
    def __len__(self) -> int:
        self.table.checkout_latest()
        return self.table.count_rows()

    def add_clips(self, clips: Iterable[tuple[Video, Clip]], embeddings: np.ndarray):
        """Commit a batch: embeddings (B, D) float32."""
        rows = [
            values_of(video, clip) | {"embedding": row} for (video, clip), row in zip(clips, embeddings, strict=True)
        ]
        self.add(pa.Table.from_pylist(rows, schema=self.table.schema))

    @tells_damage
    def add(self, rows: pa.Table):
        self.table.add(rows)

    @tells_damage
    def remove(self, videos: list[str]):
        """Remove all clips of videos, by name."""
        for start in range(0, len(videos), 500):
            quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in videos[start : start + 500])
            self.table.delete(f"video IN ({quoted})")

    @tells_damage
    def clips(self) -> dict[tuple[str, str, int], set[int]]:
        """The numbers of the clips that are there, by video, its version, and how many clips it has."""
        self.table.checkout_latest()
        columns = ["video", "version", "num_clips", "number"]
        rows = self.table.search().select(columns).to_arrow()
        groups = rows.group_by(columns[:3]).aggregate([("number", "list")]).to_pylist()
        return {tuple(group[name] for name in columns[:3]): set(group["number_list"]) for group in groups}

    @tells_damage
    def nearest(self, query: np.ndarray, k: int) -> list[dict]:
        """The rows of the k clips with the largest cosine, `similarity`, to a query (D,) of length 1, best first.

        Exact without an ANN index.
        """
        self.table.checkout_latest()
        search = self.table.search(query, vector_column_name="embedding").distance_type("dot")
        rows = search.nprobes(NUM_PROBES).limit(k).to_list()
        for row in rows:
            row["similarity"] = float(np.dot(query, row["embedding"]))
        return sorted(rows, key=lambda row: -row["similarity"])

    @tells_damage
    def compact(self):
        """Merge the files of many small commits, and take rows that are new into the ANN index."""
        self.table.optimize(cleanup_older_than=timedelta(hours=1))

    def finish(self):
        """After changes: compact, with an ANN index once there are many rows."""
        if len(self) >= MIN_ROWS_OF_ANN and not self.table.list_indices():
            self.build_ann_index()
        self.compact()

    @tells_damage
    def build_ann_index(self):
        """Cluster the embeddings, so that a search looks at some clusters only; embeddings are kept as they are."""
        self.table.create_index("embedding", config=IvfFlat(distance_type="dot"))


def values_of(video: Video, clip: Clip) -> dict:
    """The columns of a row."""
    parts = {Video: (video.name, video.version, video.shard, video.offset, video.size), Clip: clip}
    return {name: value for kind, names in FIELDS.items() for name, value in zip(names, parts[kind], strict=True)}


def clip_of(row: dict) -> tuple[Video, Clip]:
    """What [`values_of`] made a row of."""
    video, clip = (kind(*(row[name] for name in names)) for kind, names in FIELDS.items())
    return video, clip
