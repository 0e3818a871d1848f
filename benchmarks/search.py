#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Searching many clips: build time, size, latency and recall@10 of svitt-search's table, and of FAISS beside it.

    python benchmarks/search.py --rows 1000000 --faiss IVF1024,Flat HNSW32

The embeddings are drawn from many Gaussians on the sphere, twenty clips or so round each center, as clips of an archive
resemble others of it. Recall is measured against exact search. FAISS (`pip install faiss-cpu`) keeps all in memory.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from svitt.search.table import NUM_PROBES, ClipTable

DIM, TOP_K, BATCH = 256, 10, 50_000


def draw(rows: int, centers: np.ndarray, spread: float, generator: np.random.Generator) -> np.ndarray:
    """(rows, DIM) float32 of length 1."""
    parts = []
    for start in range(0, rows, BATCH):
        size = min(BATCH, rows - start)
        part = centers[generator.integers(len(centers), size=size)]
        part = part + spread / DIM**0.5 * generator.normal(size=(size, DIM)).astype(np.float32)
        parts.append(part / np.linalg.norm(part, axis=1, keepdims=True))
    return np.concatenate(parts)


def as_rows(vectors: np.ndarray) -> Iterator[pa.Table]:
    """Rows of a table of clips; the name of a video is its number."""
    clip = {"version": "", "shard": None, "offset": 0, "size": 0, "number": 0, "num_clips": 1}
    clip |= {"start": 0.0, "end": 10.0, "first": 0, "last": 250}
    for start in range(0, len(vectors), BATCH):
        part = vectors[start : start + BATCH]
        columns = {name: [value] * len(part) for name, value in clip.items()}
        columns["video"] = [str(start + i) for i in range(len(part))]
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), DIM)
        yield pa.table({name: columns[name] for name in ClipTable.schema(DIM).names}, schema=ClipTable.schema(DIM))


def measure(search: Callable[[np.ndarray], list[int]], queries: np.ndarray, exact: list[set[int]]) -> dict:
    """Latency of queries one by one, after a few that warm up, and recall."""
    for query in queries[:5]:
        search(query)
    seconds, right = [], 0
    for query, wanted in zip(queries, exact, strict=True):
        start = time.perf_counter()
        found = search(query)
        seconds.append(time.perf_counter() - start)
        right += len(wanted & set(found))
    quantiles = statistics.quantiles(seconds, n=100)
    return {"p50_ms": 1e3 * quantiles[49], "p99_ms": 1e3 * quantiles[98], "recall": right / TOP_K / len(queries)}


def size_of(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def table_row(vectors: np.ndarray, queries: np.ndarray, exact: list[set[int]], with_ann: bool) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        table = ClipTable.create(folder, DIM)
        start = time.perf_counter()
        for rows in as_rows(vectors):
            table.add(rows)
        if with_ann:
            table.build_ann_index()
        row = {"build_s": time.perf_counter() - start}
        row |= measure(lambda query: [int(row["video"]) for row in table.nearest(query, TOP_K)], queries, exact)
        return row | {"size_mib": size_of(Path(folder))}


def faiss_row(factory: str, vectors: np.ndarray, queries: np.ndarray, exact: list[set[int]]) -> dict:
    import faiss

    start = time.perf_counter()
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:200_000])
    index.add(vectors)
    row = {"build_s": time.perf_counter() - start}
    for name, value in (("nprobe", NUM_PROBES), ("hnsw.efSearch", NUM_PROBES)):
        if name.split(".")[0] in dir(index):
            faiss.ParameterSpace().set_index_parameter(index, name.split(".")[-1], value)
    row |= measure(lambda query: index.search(query[None], TOP_K)[1][0].tolist(), queries, exact)
    return row | {"size_mib": faiss.serialize_index(index).nbytes / 2**20}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--spread", type=float, default=0.5, help="length of the noise round a center of length 1")
    parser.add_argument("--faiss", nargs="*", default=[], help="index factories of FAISS, to be measured as well")
    parser.add_argument("--output", type=Path, help="write the rows here as JSON")
    args = parser.parse_args()

    generator = np.random.default_rng(0)
    centers = generator.normal(size=(max(args.rows // 20, 1), DIM)).astype(np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    vectors = draw(args.rows, centers, args.spread, generator)
    queries = draw(args.queries, centers, args.spread, generator)
    exact = [set(np.argpartition(-(vectors @ query), TOP_K)[:TOP_K].tolist()) for query in queries]

    rows = {"table, exact": table_row(vectors, queries, exact, with_ann=False)}
    rows["table, ANN"] = table_row(vectors, queries, exact, with_ann=True)
    rows |= {f"FAISS {factory}": faiss_row(factory, vectors, queries, exact) for factory in args.faiss}
    print(
        f"| {args.rows:,} rows | build, s | size, MiB | p50, ms | p99, ms | recall@{TOP_K} |\n|---|--:|--:|--:|--:|--:|"
    )
    for name, row in rows.items():
        numbers = (f"{row[key]:.1f}" for key in ("build_s", "size_mib", "p50_ms", "p99_ms"))
        print(f"| {name} | {' | '.join(numbers)} | {row['recall']:.3f} |")
    print(f"Peak memory of all: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
