#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Searching many clips: build time, size, memory, latency and recall@10 of svitt-search's table, and of FAISS.

    python benchmarks/search.py --rows 1000000 --faiss IVF1024,Flat IVF1024,SQ8

The embeddings are drawn from many Gaussians on the sphere, twenty clips or so round each center, as clips of an archive
resemble others of it. Recall is measured against exact search. FAISS (`pip install faiss-cpu`) is that of `datasets`:
rows in an Arrow file, their index in memory. Each contestant builds in one process and is searched in another, whose
memory is their peak beyond what the imports take; pages of files that the system may drop count.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from encoder import bytes_of_call, in_fresh_process

from svitt.search.table import NUM_PROBES, ClipTable

DIM, TOP_K, BATCH = 256, 10, 50_000
Search = Callable[[np.ndarray], list[int]]  # the numbers of the clips next to a query (D,)


def draw(rows: int, centers: np.ndarray, spread: float, generator: np.random.Generator) -> np.ndarray:
    """(rows, DIM) float32 of length 1."""
    parts = []
    for start in range(0, rows, BATCH):
        size = min(BATCH, rows - start)
        part = centers[generator.integers(len(centers), size=size)]
        part = part + spread / DIM**0.5 * generator.normal(size=(size, DIM)).astype(np.float32)
        parts.append(part / np.linalg.norm(part, axis=1, keepdims=True))
    return np.concatenate(parts)


def rows_of(vectors: Path) -> Iterator[pa.Table]:
    """Rows of a table of clips, read part by part; the name of a video is its number."""
    clip = {"version": "", "shard": None, "offset": 0, "size": 0, "number": 0, "num_clips": 1}
    clip |= {"start": 0.0, "end": 10.0, "first": 0, "last": 250}
    for start in range(0, len(np.load(vectors, mmap_mode="r")), BATCH):
        part = np.array(np.load(vectors, mmap_mode="r")[start : start + BATCH])
        columns = {name: [value] * len(part) for name, value in clip.items()}
        columns["video"] = [str(start + i) for i in range(len(part))]
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), DIM)
        yield pa.table({name: columns[name] for name in ClipTable.schema(DIM).names}, schema=ClipTable.schema(DIM))


def build_table(name: str, folder: Path, vectors: Path):
    table = ClipTable.create(folder, DIM)
    for rows in rows_of(vectors):
        table.add(rows)
    if name.endswith("ANN"):
        table.build_ann_index()


def open_table(folder: Path) -> Search:
    table = ClipTable(folder)
    return lambda query: [int(row["video"]) for row in table.nearest(query, TOP_K)]


def build_faiss(name: str, folder: Path, vectors: Path):
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, ClipTable.schema(DIM)) as writer:
        for rows in rows_of(vectors):
            writer.write_table(rows)
    dataset = Dataset.from_file(str(folder / "rows.arrow")).with_format("numpy")
    kind = {"string_factory": name.removeprefix("FAISS "), "metric_type": 0}  # the inner product
    dataset.add_faiss_index("embedding", **kind, batch_size=BATCH, train_size=200_000)
    dataset.save_faiss_index("embedding", str(folder / "rows.faiss"))


def open_faiss(folder: Path) -> Search:
    import faiss

    dataset = Dataset.from_file(str(folder / "rows.arrow"))
    dataset.load_faiss_index("embedding", str(folder / "rows.faiss"))
    index = dataset.get_index("embedding").faiss_index
    for name, value in (("nprobe", NUM_PROBES), ("hnsw.efSearch", NUM_PROBES)):
        if name.split(".")[0] in dir(index):
            faiss.ParameterSpace().set_index_parameter(index, name.split(".")[-1], value)
    return lambda query: [int(video) for video in dataset.get_nearest_examples("embedding", query, TOP_K)[1]["video"]]


def build(name: str, folder: Path, vectors: Path) -> dict:
    start = time.perf_counter()
    (build_faiss if name.startswith("FAISS") else build_table)(name, folder, vectors)
    return {"build_s": time.perf_counter() - start}


def ask(name: str, folder: Path, queries: np.ndarray, exact: list[set[int]]) -> dict:
    """Latency of queries one by one, after a few that warm up, and recall."""
    search = open_faiss(folder) if name.startswith("FAISS") else open_table(folder)
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


def with_memory(field: str, function: Callable[..., dict], *args) -> dict:
    """What a function returns, and the GiB that it takes at its peak."""
    rows: list[dict] = []
    num_bytes = bytes_of_call(lambda: rows.append(function(*args)), "cpu")
    return rows[0] | {field: num_bytes / 2**30}


def measure(name: str, vectors: Path, queries: np.ndarray, exact: list[set[int]]) -> dict:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        row = in_fresh_process(with_memory, "build_gib", build, name, folder, vectors)
        row |= in_fresh_process(with_memory, "search_gib", ask, name, folder, queries, exact)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return row | {"size_mib": size / 2**20}


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

    names = ["table, exact", "table, ANN", *(f"FAISS {factory}" for factory in args.faiss)]
    columns = {
        "build_s": "build, s", "build_gib": "build, GiB", "size_mib": "size, MiB", "search_gib": "search, GiB",
        "p50_ms": "p50, ms", "p99_ms": "p99, ms",
    }  # fmt: skip
    print(f"| {args.rows:,} rows | {' | '.join(columns.values())} | recall@{TOP_K} |\n|---{'|--:' * 7}|", flush=True)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors.npy")
        np.save(path, vectors)
        for name in names:
            row = rows[name] = measure(name, path, queries, exact)
            numbers = (f"{row[column]:.1f}" for column in columns)
            print(f"| {name} | {' | '.join(numbers)} | {row['recall']:.3f} |", flush=True)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
