#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Training samples per second of one worker, beside those of a naive one that decodes every frame.

    python benchmarks/loading.py --model_name_or_path demo/model --annotation_file demo/data/train.json \
        --video_dir demo/data/videos

"naive" decodes every frame of a video, and resizes and normalises each clip in the worker, which sends float32.
"loader" is `training_loader`. Both read the same rows; their clips are compared first, without augmentation. The main
process finishes batches as for a step of training. Rounds are interleaved and medians are printed.
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

from svitt import SViTTProcessor, sample_frame_indices
from svitt.data import annotations, loaders


def read_naively(video: dict, num_frames: int, sampling: str) -> np.ndarray:
    with av.open(video["path"]) as container:
        num_packets = sum(packet.size > 0 for packet in container.demux(video=0))
    wanted = sample_frame_indices(num_frames, num_packets, sampling)
    with av.open(video["path"]) as container:
        container.streams.video[0].thread_type = "NONE"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([frames[index] for index in wanted])


def collate_naively(rows: list[dict], processor, sampling: str, do_augment: bool) -> dict:
    clips = [read_naively(row["video"], processor.video_processor.num_frames, sampling) for row in rows]
    text = [row["caption"] for row in rows]
    return processor(videos=clips, text=text, return_tensors="pt", do_sample_frames=False, do_augment=do_augment)


def naive_loader(pairs, processor, batch_size: int) -> DataLoader:
    collate = partial(collate_naively, processor=processor, sampling="rand", do_augment=True)
    return DataLoader(pairs, batch_size, shuffle=True, drop_last=True, collate_fn=collate, num_workers=1)


def our_loader(pairs, processor, batch_size: int) -> DataLoader:
    args = loaders.ProcessingArguments()
    return loaders.training_loader({"video": pairs}, processor, batch_size, args, loaders.collate_pairs, num_workers=1)


def check_equal(pairs, processor):
    """Stop unless the evaluation clips of the first rows are equal to the bit."""
    rows = [pairs[index] for index in range(min(8, len(pairs)))]
    naive = collate_naively(rows, processor, "middle", do_augment=False)["pixel_values"]
    clips = torch.stack([processor.video_processor.read_clip(row["video"]) for row in rows])
    if not torch.equal(processor.video_processor.to_pixel_values(clips), naive):
        raise SystemExit("The clips differ.")


def samples_per_second(loader: DataLoader, processor, num_batches: int) -> float:
    start = num_samples = 0
    while True:
        for batch in loader:
            inputs = loaders.to_model_inputs(batch, processor) if "clips" in batch else batch
            if start:
                num_samples += len(inputs["pixel_values"])
            start = start or time.perf_counter()  # the workers have started
            if num_samples >= num_batches * loader.batch_sampler.batch_size:
                return num_samples / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True, help="folder with a processor")
    parser.add_argument("--annotation_file", required=True)
    parser.add_argument("--video_dir", required=True)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_batches", type=int, default=12, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    processor = SViTTProcessor.from_pretrained(args.model_name_or_path)
    pairs = annotations.training_pairs(annotations.load_captions(args.annotation_file, args.video_dir))
    check_equal(pairs, processor)
    speeds: dict[str, list[float]] = {"naive": [], "loader": []}
    for _ in range(args.rounds):
        for name, make_loader in (("naive", naive_loader), ("loader", our_loader)):
            loader = make_loader(pairs, processor, args.batch_size)
            speeds[name].append(samples_per_second(loader, processor, args.num_batches))
    figures = {name: statistics.median(values) for name, values in speeds.items()}
    for name, speed in figures.items():
        print(f"{name:8}{speed:8.1f} samples/s of a worker")
    print(f"{'ratio':8}{figures['loader'] / figures['naive']:8.1f}x")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
