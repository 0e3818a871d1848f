#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Training samples per second of one worker, which the main process finishes as for a step of training.

    python benchmarks/loading.py --model_name_or_path demo/model --annotation_file demo/data/train.json \
        --video_dir demo/data/videos
"""

import argparse
import statistics
import time

from torch.utils.data import DataLoader

from svitt import SViTTProcessor
from svitt.data import annotations, loaders


def samples_per_second(loader: DataLoader, processor, num_batches: int) -> float:
    start = num_samples = 0
    while True:
        for batch in loader:
            inputs = loaders.to_model_inputs(batch, processor)
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
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    processor = SViTTProcessor.from_pretrained(args.model_name_or_path)
    pairs = annotations.training_pairs(annotations.load_captions(args.annotation_file, args.video_dir))
    how = (processor, args.batch_size, loaders.ProcessingArguments(), loaders.collate_pairs)
    fresh = (loaders.training_loader({"video": pairs}, *how, num_workers=1) for _ in range(args.rounds))
    speeds = [samples_per_second(loader, processor, args.num_batches) for loader in fresh]
    print(f"{statistics.median(speeds):.1f} samples/s of a worker, {min(speeds):.1f} to {max(speeds):.1f}")


if __name__ == "__main__":
    main()
