#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Searching many spans: build time, size, memory, latency and recall@10 of the table of `svitt.search`.

    python benchmarks/search.py --rows 1000000

The embeddings are drawn from many Gaussians on the sphere, twenty spans or so round each center, as spans of an archive
resemble others of it. Recall is measured against exact search.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from svitt.search.table import SpanTable

DIM, TOP_K, BATCH = 256, 10, 50_000


def draw(rows: int, centers: np.ndarray, spread: float, generator: np.random.Generator) -> np.ndarray:
    """Return (rows, DIM) float32 of length 1."""
    parts = []
    for start in range(0, rows, BATCH):
        size = min(BATCH, rows - start)
        part = centers[generator.integers(len(centers), size=size)]
        part = part + spread / DIM**0.5 * generator.normal(size=(size, DIM)).astype(np.float32)
        parts.append(part / np.linalg.norm(part, axis=1, keepdims=True))
    return np.concatenate(parts)


def build(folder: Path, vectors: np.ndarray, with_ann: bool) -> dict:
    """Make a table, part by part, of videos of twenty spans; the name of a video is its number."""
    begin, table = time.perf_counter(), SpanTable.create(folder, DIM)
    for start in range(0, len(vectors), BATCH):
        part = vectors[start : start + BATCH]
        videos, numbers = np.divmod(np.arange(start, start + len(part)), 20)
        zeros, starts = np.zeros_like(numbers), numbers * 5.0
        columns = {"video": list(map(str, videos)), "version": [f"{video}-{7919 * video}" for video in videos]}
        columns |= {"shard": [""] * len(part), "offset": zeros, "size": zeros, "number": numbers}
        columns |= {"num_spans": zeros + 20, "start": starts, "end": starts + 10}
        columns |= {"first": numbers * 125, "last": numbers * 125 + 250}
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), DIM)
        table.add(pa.table(columns, schema=SpanTable.schema(DIM)))
    if with_ann:
        table.build_ann_index()
    table.table.optimize()
    return {"build_s": time.perf_counter() - begin}


def ask(folder: Path, queries: np.ndarray, exact: list[set[int]]) -> dict:
    """Return the latency of queries one by one, after a few that warm up, and recall."""
    table, seconds, right = SpanTable(folder), [], 0
    for query in queries[:5]:
        table.nearest(query, TOP_K)
    for query, wanted in zip(queries, exact, strict=True):
        start = time.perf_counter()
        found = table.nearest(query, TOP_K)
        seconds.append(time.perf_counter() - start)
        right += len(wanted & {20 * int(row["video"]) + int(row["start"] / 5) for row in found})
    quantiles = statistics.quantiles(seconds, n=100)
    return {"p50_ms": 1e3 * quantiles[49], "p99_ms": 1e3 * quantiles[98], "recall": right / TOP_K / len(queries)}


def measure(with_ann: bool, vectors: np.ndarray, queries: np.ndarray, exact: list[set[int]]) -> dict:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        row = build(folder, vectors, with_ann) | ask(folder, queries, exact)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return row | {"size_mib": size / 2**20}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--spread", type=float, default=0.5, help="length of the noise round a center of length 1")
    parser.add_argument("--output", type=Path, help="write the rows here as JSON")
    args = parser.parse_args()

    generator = np.random.default_rng(0)
    centers = generator.normal(size=(max(args.rows // 20, 1), DIM)).astype(np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    vectors = draw(args.rows, centers, args.spread, generator)
    queries = draw(args.queries, centers, args.spread, generator)
    exact = [set(np.argpartition(-(vectors @ query), TOP_K)[:TOP_K].tolist()) for query in queries]
    rows, units = {}, ("build_s", "size_mib", "p50_ms", "p99_ms")
    print(f"| {args.rows:,} rows | {' | '.join(units)} | recall@{TOP_K} |\n|---{'|--:' * 5}|", flush=True)
    for name, with_ann in (("table, exact", False), ("table, ANN", True)):
        row = rows[name] = measure(with_ann, vectors, queries, exact)
        print(f"| {name} | {' | '.join(f'{row[unit]:.1f}' for unit in units)} | {row['recall']:.3f} |", flush=True)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
