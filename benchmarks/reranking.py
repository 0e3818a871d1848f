#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Searching with a model: what a query costs, and what keeping fewer, coarser tokens changes.

    python benchmarks/reranking.py --model demo/out --videos demo/data/videos --annotation_file demo/data/test.json

Queries are captions. "read again" is `svitt index --tokens none`: the videos of the shortlist are decoded and encoded
for each query. Agreement is that of re-ranked shortlists with those of all tokens in float32: the same first hit, and
the share of the same ten.
"""

import argparse
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from datasets import load_dataset

from svitt.search import SViTTIndex
from svitt.search.index import summary
from svitt.search.tokens import DTYPES, SpanTokens, most_attended, packed, unpacked


def cost(function, *args) -> tuple[float, float]:
    """Return the seconds, and those of CPU time, that a call takes."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    function(*args)
    return time.perf_counter() - begin, time.process_time() - begin_cpu


def cost_of_queries(index: SViTTIndex, queries: list[str], **options) -> dict[str, float]:
    """Return medians of queries one by one, after one that warms up."""
    index.search(queries[0], **options)
    wall, cpu = zip(*(cost(lambda query=query: index.search(query, **options)) for query in queries), strict=True)
    return {"p50 s": statistics.median(wall), "CPU s": statistics.median(cpu)}


def orders(index: SViTTIndex, queries: list[str], shortlists: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the order (queries, k) of shortlists (queries, k), indices of tokens (B, n, D), by matching scores."""
    states = (index.processor(text=[query], return_tensors="pt") for query in queries)
    with torch.no_grad():
        scores = [
            index.model.match(
                video_hidden_states=tokens[shortlist],
                input_ids=words["input_ids"].expand(len(shortlist), -1),
                attention_mask=words["attention_mask"].expand(len(shortlist), -1),
            )
            for words, shortlist in zip(states, shortlists, strict=True)
        ]
    return torch.stack(scores).argsort(dim=1, descending=True)


def agreement(args: argparse.Namespace, index: SViTTIndex, videos: list[Path], queries: list[str]):
    """Print what is the same in re-ranked shortlists of fewer tokens, of each type."""
    reader, model, length = index.processor.video_processor, index.model, index.settings["num_frames"]
    features, embeds = [], []
    with torch.no_grad():
        for video in videos:
            pixels = reader.to_pixel_values(reader.read_clip(str(video))[None])
            features.append(model.get_video_features(pixels, output_cls_attention=True))
            embeds.append(model.video_embeds(features[-1].pooler_output)[0])

    def kept(limit: int | None) -> SpanTokens:
        parts = [most_attended(one, model.config.vision_config, length, 1, limit) for one in features]
        return SpanTokens(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    texts = torch.stack([torch.from_numpy(index.embed_text(query)) for query in queries])
    shortlists = (texts @ torch.stack(embeds).t()).topk(min(args.shortlist, len(videos)), dim=1).indices
    exact = orders(index, queries, shortlists, kept(None).values)
    print("\n| tokens a span | type | bytes a span | same first | same ten |\n|--:|---|--:|--:|--:|", flush=True)
    for limit in (None, *args.tokens_per_span):
        tokens = kept(limit)
        for dtype in DTYPES:
            rows = packed(tokens, dtype)
            order = orders(index, queries, shortlists, unpacked(rows, tokens.values.shape[2]).values)
            first = (order[:, 0] == exact[:, 0]).float().mean()
            pairs = zip(order[:, :10].tolist(), exact[:, :10].tolist(), strict=True)
            ten = statistics.mean(len(set(one) & set(other)) / len(one) for one, other in pairs)
            num_bytes = sum(len(column) for column in rows[0].values())
            print(f"| {tokens.values.shape[1]} | {dtype} | {num_bytes:,} | {first:.1%} | {ten:.1%} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--videos", type=Path, required=True, help="folder of mp4 files")
    parser.add_argument("--annotation_file", required=True, help="JSON, a list of objects with a caption")
    parser.add_argument("--num_videos", type=int, default=60)
    parser.add_argument("--num_queries", type=int, default=20)
    parser.add_argument("--shortlist", type=int, default=50)
    parser.add_argument("--tokens_per_span", type=int, nargs="+", default=[128, 96, 64, 48, 32])
    args = parser.parse_args()

    videos = list(islice(sorted(args.videos.rglob("*.mp4")), args.num_videos))
    captions = load_dataset("json", data_files=args.annotation_file, split="train")["caption"]
    queries = list(islice(dict.fromkeys(captions), args.num_queries))
    with tempfile.TemporaryDirectory() as folder:
        kept = SViTTIndex.create(Path(folder, "kept"), args.model)
        report = kept.add(videos)
        num_bytes = sum(path.stat().st_size for path in Path(kept.folder).rglob("*") if path.is_file())
        print(f"{summary(report, len(kept))}; {num_bytes / len(kept):,.0f} bytes a span", flush=True)
        rows = {"tokens kept": cost_of_queries(kept, queries, shortlist=args.shortlist, rerank=True)}
        rows["no re-ranking"] = cost_of_queries(kept, queries, rerank=False)
        again = SViTTIndex.create(Path(folder, "again"), args.model, tokens="none")
        again.add(videos)
        rows["read again"] = cost_of_queries(again, queries[:2], shortlist=args.shortlist, rerank=True)
        for name, row in rows.items():
            print(f"{name}: {', '.join(f'{unit} {value:.3f}' for unit, value in row.items())}", flush=True)
        agreement(args, kept, videos, queries)


if __name__ == "__main__":
    main()
