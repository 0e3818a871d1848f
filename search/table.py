# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The table of spans: a row for each, with its embedding and perhaps its video tokens, in LanceDB."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import IvfFlat, IvfRq

from ..errors import ArgumentError, InputError, store_reason
from . import tokens
from .places import asking, is_url
from .spans import Source, Span

# With fewer rows, looking at every one of them is fast enough, and exact.
MIN_ROWS_OF_ANN = 50_000
# Clusters of the ANN index that a search looks into, of some 250 for a million spans, and how many times more spans
# than wanted it compares by their full embeddings; see benchmarks/README.md.
NUM_PROBES, REFINE_FACTOR = 50, 10
MAX_ROWS = 2**24  # of an answer; LanceDB counts them, times that factor, in 32 bits
TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
COLUMNS = {name: TYPES[kind] for name, kind in (Source.__annotations__ | Span.__annotations__).items()}
# Each costs a read for each span that is found.
COLUMNS_OF_HITS = ["video", "version", "shard", "size", "start", "end"]
# How long states of the table are kept: a search, or a commit of another process, needs the one it began with.
KEPT = timedelta(minutes=10)
COLUMNS_OF_TOKENS = {**tokens.COLUMNS, "times": pa.list_(pa.float64())}


class SpanTable:
    """`spans.lance` in a folder, see [`SpanTable.create`]; an `InputError` says that it is missing or damaged.

    Rows are added and removed in transactions: readers see a consistent state at any time, and half a batch never.
    """

    def __init__(self, folder: str | Path):
        self.folder = folder
        try:
            self.table = connect(folder).open_table("spans")
            self.table.search().select(["video"]).limit(1).to_list()  # data are read no sooner
        except (OSError, RuntimeError, ValueError) as error:
            damage = f"its table spans.lance is damaged ({store_reason(error)})"
            raise InputError(f"{folder}: {damage}; index the videos anew in another folder.") from error

    @classmethod
    def create(cls, folder: str | Path, embed_dim: int, has_tokens: bool = False) -> "SpanTable":
        """Make an empty table for embeddings, and for tokens, in place of one that may be there."""
        with asking(folder):
            database = connect(folder)
            database.drop_table("spans", ignore_missing=True)  # mode="overwrite" would warn where there is none
            database.create_table("spans", schema=cls.schema(embed_dim, has_tokens))
        return cls(folder)

    @staticmethod
    def schema(embed_dim: int, has_tokens: bool = False) -> pa.Schema:
        more = COLUMNS_OF_TOKENS if has_tokens else {}
        return pa.schema([*COLUMNS.items(), ("embedding", pa.list_(pa.float32(), embed_dim)), *more.items()])

    def renew(self):
        """See what others have written since."""
        try:
            self.table.checkout_latest()
        except RuntimeError as error:
            raise InputError(f"{self.folder}: its table spans.lance cannot be read ({store_reason(error)}).") from error

    def __len__(self) -> int:
        self.renew()
        return self.table.count_rows()

    def add(self, rows: list[dict] | pa.Table):
        """Commit a batch of rows with all `COLUMNS`, `embedding` (D,) float32, and perhaps `COLUMNS_OF_TOKENS`."""
        self.renew()  # another process may have removed the states since the last one that is known
        self.table.add(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=self.table.schema))

    def remove(self, videos: list[str]):
        """Remove all spans of videos, by name."""
        for start in range(0, len(videos), 500):
            self.table.delete(f"video IN ({', '.join(map(quoted, videos[start : start + 500]))})")

    def spans(self) -> dict[tuple[str, str, int], set[int]]:
        """Return the numbers of the spans that are there, by video, its version, and how many spans it has."""
        self.renew()
        columns = ["video", "version", "num_spans", "number"]
        rows = self.table.search().select(columns).to_arrow()
        groups = rows.group_by(columns[:3]).aggregate([("number", "list")]).to_pylist()
        return {tuple(group[name] for name in columns[:3]): set(group["number_list"]) for group in groups}

    def nearest(self, query: np.ndarray, k: int, where: str | None = None) -> list[dict]:
        """Return `COLUMNS_OF_HITS` of the k spans with the largest product, `similarity`, with a query (D,), in order.

        Products are exact, also where the ANN index has chosen the spans.

        Args:
            where: condition in SQL on the `COLUMNS`, such as "start < 60".

        Raises:
            ArgumentError: if it is none.
        """
        self.renew()
        search = self.table.search(query, vector_column_name="embedding").distance_type("dot").limit(min(k, MAX_ROWS))
        search = search.nprobes(NUM_PROBES).refine_factor(REFINE_FACTOR)
        search = search.select([*COLUMNS_OF_HITS, "_distance"]).with_row_id(True)
        if where is not None:  # the nearest clusters may hold few of these rows: search as many as needed
            search = search.where(where).maximum_nprobes(0)
        try:
            rows = search.to_list()
        except (ValueError, RuntimeError) as error:  # it may also fail on a value, as `cast` does
            if where is None:
                raise
            problem = "must be a condition on video, start, end, such as \"video LIKE '%holiday%' AND end - start > 5\""
            raise ArgumentError("where", f"{problem}, got {where!r} ({store_reason(error)})") from error
        for row in rows:
            row["similarity"] = 1 - row.pop("_distance")
        return rows

    def take(self, rows: list[dict], columns: Iterable[str]) -> list[dict]:
        """Return more columns of rows that [`nearest`] found last."""
        if not rows:
            return []
        numbers = [row["_rowid"] for row in rows]
        found = self.table.take_row_ids(numbers).with_row_id().select(list(columns)).to_arrow().to_pylist()
        of_number = {row["_rowid"]: row for row in found}
        return [of_number[number] for number in numbers]

    def sources(self, rows: list[dict]) -> list[tuple[Source, Span]]:
        """Return of which file, and which of its spans, rows are that [`nearest`] found last."""
        return [
            (Source(*(row[name] for name in Source._fields)), Span(*(row[name] for name in Span._fields)))
            for row in self.take(rows, COLUMNS)
        ]

    def embedding(self, video: str, start: float) -> np.ndarray | None:
        """Return the embedding (D,) of the span of a video that starts at a time, in seconds, if there is one."""
        self.renew()
        condition = f"video = {quoted(video)} AND abs(start - {start}) < 0.05"
        rows = self.table.search().where(condition).select(["embedding"]).limit(1).to_list()
        return np.array(rows[0]["embedding"], dtype=np.float32) if rows else None

    def times(self, videos: list[str]) -> dict[str, list[tuple[float, float]]]:
        """Return when spans of some videos start and end, in seconds, in order; a video that has none is left out."""
        self.renew()
        found: dict[str, list[tuple[float, float]]] = {}
        for start in range(0, len(videos), 500):
            condition = f"video IN ({', '.join(map(quoted, videos[start : start + 500]))})"
            for row in self.table.search().where(condition).select(["video", "start", "end"]).to_list():
                found.setdefault(row["video"], []).append((row["start"], row["end"]))
        return {video: sorted(times) for video, times in found.items()}

    def finish(self):
        """After changes, merge the files of many small commits; with an ANN index once there are many rows."""
        if len(self) >= MIN_ROWS_OF_ANN and not self.table.list_indices():
            self.build_ann_index()
        self.table.optimize(cleanup_older_than=KEPT)

    def build_ann_index(self):
        """Cluster the embeddings, with 4 bits for each number, so that a search looks at few and reads little."""
        is_packed = self.table.schema.field("embedding").type.list_size % 8 == 0  # else LanceDB cannot
        kind = IvfRq(distance_type="dot", num_bits=4) if is_packed else IvfFlat(distance_type="dot")
        self.table.create_index("embedding", config=kind)


def connect(folder: str | Path):
    """Open a folder, or the URL of one; endpoint and keys come from the environment, as for fsspec."""
    options = {"allow_http": "true"} if is_url(folder) else None  # for a store of one's own, as fsspec allows it
    return lancedb.connect(folder, storage_options=options)


def quoted(text: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
