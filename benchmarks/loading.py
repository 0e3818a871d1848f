#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Training batches per second of one worker, and how long training waits for them, before and after.

    python benchmarks/loading.py --model_name_or_path demo/model --annotation_file demo/data/train.json \
        --video_dir demo/data/videos

"before" decodes every frame of a video, and crops, resizes, flips and normalises each clip in the worker, which sends
float32. "after" are the loaders of `svitt.training`. Both read the same rows; their clips are compared first, without
augmentation. Rounds are interleaved and medians are printed.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from torch.utils.data import DataLoader

from svitt import SViTTForVideoTextRetrieval, sample_frame_indices
from svitt.data import annotations, loaders
from svitt.training import start
from svitt.training.loop import TimedBatches


def read_before(video: dict, num_frames: int, sampling: str) -> np.ndarray:
    with av.open(video["path"]) as container:
        num_packets = sum(packet.size > 0 for packet in container.demux(video=0))
    wanted = sample_frame_indices(num_frames, num_packets, sampling)
    with av.open(video["path"]) as container:
        container.streams.video[0].thread_type = "NONE"
        frames = {}
        for i, frame in enumerate(container.decode(video=0)):
            if i in wanted:
                frames[i] = frame.to_ndarray(format="rgb24")
    return np.stack([frames[i] for i in wanted])


def collate_before(rows: list[dict], processor, sampling: str, do_augment: bool) -> dict:
    clips = [read_before(row["video"], processor.video_processor.num_frames, sampling) for row in rows]
    text = [row["caption"] for row in rows]
    augmentation = {"do_sample_frames": False, "do_augment": do_augment}
    batch = processor(videos=clips, text=text, return_tensors="pt", **augmentation)
    return {**batch, "video_ids": torch.tensor([row["video_id"] for row in rows])}


def loader_before(pairs, processor, batch_size: int, num_workers: int) -> DataLoader:
    collate = partial(collate_before, processor=processor, sampling="rand", do_augment=True)
    return DataLoader(pairs, batch_size, shuffle=True, drop_last=True, collate_fn=collate, num_workers=num_workers)


def loader_after(pairs, processor, batch_size: int, num_workers: int) -> DataLoader:
    args = loaders.ProcessingArguments(num_workers=num_workers)
    return loaders.pair_loader(pairs, processor, batch_size, args)


def check_equal(pairs, processor):
    """Evaluation clips of the first rows, bit by bit."""
    rows = [pairs[i] for i in range(min(8, len(pairs)))]
    before = collate_before(rows, processor, "middle", do_augment=False)["pixel_values"]
    clips = torch.stack([processor.video_processor.read_clip(row["video"]) for row in rows])
    assert torch.equal(processor.video_processor.to_pixel_values(clips), before), "before and after differ"


def samples_per_second(loader: DataLoader, num_batches: int) -> float:
    batches = iter(loader)
    next(batches)  # the workers have started
    start, num_samples = time.perf_counter(), 0
    for _ in range(num_batches):
        num_samples += len(next(batches)["input_ids"])
    return num_samples / (time.perf_counter() - start)


def share_of_waiting(loader: DataLoader, model, processor, num_batches: int) -> float:
    """Of the time of training steps, with gradients and an update."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    batches = TimedBatches(loader)
    model.train()
    for step, batch in enumerate(batches):
        for name in ("bad_videos", "videos"):
            batch.pop(name, None)
        model(**(loaders.to_model_inputs(batch, processor) if "clips" in batch else batch)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:  # the workers have started
            waited, elapsed = batches.waited, time.perf_counter()
        if step == num_batches:
            return (batches.waited - waited) / (time.perf_counter() - elapsed)
    raise SystemExit(f"--num_batches {num_batches}: there are not more than {step + 1} in the data.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--annotation_file", required=True)
    parser.add_argument("--video_dir", required=True)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_batches", type=int, default=12, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()

    processing = loaders.ProcessingArguments()
    model, processor = start.load_model_and_processor(
        SViTTForVideoTextRetrieval, args.model_name_or_path, processing, start.DroppingArguments()
    )
    pairs = annotations.training_pairs(annotations.load_captions(args.annotation_file, args.video_dir))
    check_equal(pairs, processor)

    contestants, rows = {"before": loader_before, "after": loader_after}, {"before": [], "after": []}
    for _ in range(args.rounds):
        for name, make_loader in contestants.items():
            speed = samples_per_second(make_loader(pairs, processor, args.batch_size, 1), args.num_batches)
            loader = make_loader(pairs, processor, args.batch_size, 1)
            rows[name].append((speed, share_of_waiting(loader, model, processor, args.num_batches)))
    figures = {
        name: [statistics.median(column) for column in zip(*values, strict=True)] for name, values in rows.items()
    }
    print(f"{'':8}{'samples/s of a worker':>24}{'share of a step spent waiting':>32}")
    for name, (speed, waiting) in figures.items():
        print(f"{name:8}{speed:24.1f}{waiting:32.0%}")
    print(f"{'ratio':8}{figures['after'][0] / figures['before'][0]:23.1f}x")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
