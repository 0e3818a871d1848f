# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The table of spans: a row for each, with its embedding, in LanceDB."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import IvfFlat, IvfRq

from ..errors import InputError
from .spans import Source, Span

# With fewer rows, looking at every one of them is fast enough, and exact.
MIN_ROWS_OF_ANN = 50_000
# Clusters of the ANN index that a search looks into, of some 250 for a million spans, and how many times more spans
# than wanted it compares by their full embeddings; see benchmarks/README.md.
NUM_PROBES, REFINE_FACTOR = 50, 10
TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
COLUMNS = {name: TYPES[kind] for name, kind in (Source.__annotations__ | Span.__annotations__).items()}


class SpanTable:
    """`spans.lance` in a folder, see [`SpanTable.create`]; an `InputError` says that it is missing or damaged.

    Rows are added and removed in transactions: readers see a consistent state at any time, and half a batch never.
    """

    def __init__(self, folder: str | Path):
        try:
            self.table = lancedb.connect(folder).open_table("spans")
            self.table.search().limit(1).to_list()  # data are read no sooner
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).partition(", /")[0]  # without lines of LanceDB's source
            raise InputError(
                f"{folder}: its table spans.lance is damaged ({reason}); index the videos anew in another folder."
            ) from error

    @classmethod
    def create(cls, folder: str | Path, embed_dim: int) -> "SpanTable":
        """Make an empty table for embeddings, in place of one that may be there."""
        database = lancedb.connect(folder)
        database.drop_table("spans", ignore_missing=True)  # mode="overwrite" would warn where there is none
        database.create_table("spans", schema=cls.schema(embed_dim))
        return cls(folder)

    @staticmethod
    def schema(embed_dim: int) -> pa.Schema:
        return pa.schema([*COLUMNS.items(), ("embedding", pa.list_(pa.float32(), embed_dim))])

    def __len__(self) -> int:
        self.table.checkout_latest()
        return self.table.count_rows()

    def add(self, rows: list[dict] | pa.Table):
        """Commit a batch of rows with all `COLUMNS` and `embedding` (D,) float32."""
        self.table.add(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=self.table.schema))

    def remove(self, videos: list[str]):
        """Remove all spans of videos, by name."""
        for start in range(0, len(videos), 500):
            quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in videos[start : start + 500])
            self.table.delete(f"video IN ({quoted})")

    def spans(self) -> dict[tuple[str, str, int], set[int]]:
        """Return the numbers of the spans that are there, by video, its version, and how many spans it has."""
        self.table.checkout_latest()
        columns = ["video", "version", "num_spans", "number"]
        rows = self.table.search().select(columns).to_arrow()
        groups = rows.group_by(columns[:3]).aggregate([("number", "list")]).to_pylist()
        return {tuple(group[name] for name in columns[:3]): set(group["number_list"]) for group in groups}

    def nearest(
        self, query: np.ndarray, k: int, columns: Iterable[str] = tuple(COLUMNS), where: str | None = None
    ) -> list[dict]:
        """Return some columns of the k spans with the largest product, `similarity`, with a query (D,), in order.

        Only rows take part for which `where`, SQL, is true. Each column costs a read for each row, so ask for few.
        Products are exact, also where the ANN index has chosen the spans.
        """
        self.table.checkout_latest()
        search = self.table.search(query, vector_column_name="embedding").distance_type("dot").limit(k)
        search = search.nprobes(NUM_PROBES).refine_factor(REFINE_FACTOR).select([*columns, "_distance"])
        if where:  # the nearest clusters may hold few of these rows: search as many as needed
            search = search.where(where).maximum_nprobes(0)
        rows = search.to_list()
        for row in rows:
            row["similarity"] = 1 - row.pop("_distance")
        return rows

    def finish(self):
        """After changes, merge the files of many small commits; with an ANN index once there are many rows."""
        if len(self) >= MIN_ROWS_OF_ANN and not self.table.list_indices():
            self.build_ann_index()
        self.table.optimize(cleanup_older_than=timedelta(hours=1))

    def build_ann_index(self):
        """Cluster the embeddings, with 4 bits for each number, so that a search looks at few and reads little."""
        is_packed = self.table.schema.field("embedding").type.list_size % 8 == 0  # else LanceDB cannot
        kind = IvfRq(distance_type="dot", num_bits=4) if is_packed else IvfFlat(distance_type="dot")
        self.table.create_index("embedding", config=kind)
