#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Time and peak memory of the video encoder over clip length, sparse and dense, each in a process of its own.

    python benchmarks/scaling.py --output benchmark_results/scaling.json --plot scaling.png
    python benchmarks/scaling.py --backward --gradient_checkpointing --frames 4 8 16 32

Time is the median of a process's rounds; memory is what its first call took beyond the model. A clip too long for the
memory there is makes a row without figures. `--plot` needs matplotlib, which `make` installs.
"""

import argparse
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import measure
import torch
from encoder import add_model_arguments, make_call
from tqdm import tqdm

CONTESTANTS = ("dense", "sparse")
# How many times longer 32 frames may take than 8, sparse: four times the tokens, and a little.
GROWTH_TARGET = 4.4


def measure_point(args: argparse.Namespace, name: str, num_frames: int) -> dict[str, float]:
    """Time and memory of one contestant at one length; runs in a fresh process."""
    call = make_call(args, name, num_frames, args.backward, args.device, args.gradient_checkpointing)
    peak_bytes = measure.bytes_of_call(call, args.device)
    seconds = measure.median_seconds({name: call}, args.rounds, args.device)[name]
    return {"seconds": seconds, "peak_bytes": peak_bytes}


def measure_all(args: argparse.Namespace) -> list[dict]:
    """One row per contestant and length."""
    rows = []
    for num_frames in tqdm(sorted(args.frames), desc="lengths", disable=None):
        for name in CONTESTANTS:
            if name == "dense" and num_frames > args.max_dense_frames:
                continue
            row = {"contestant": name, "frames": num_frames}
            try:
                row |= measure.in_fresh_process(measure_point, args, name, num_frames)
            except (BrokenProcessPool, torch.OutOfMemoryError):
                print(f"{name}, {num_frames} frames: out of memory.", flush=True)
            rows.append(row)
            measure.write(args, rows)
    return rows


def growth(rows: list[dict], name: str, shorter: int = 8, longer: int = 32) -> float | None:
    """Time of clips of `longer` frames over that of `shorter` ones, `None` where one is missing."""
    seconds = {row["frames"]: row.get("seconds") for row in rows if row["contestant"] == name}
    if not seconds.get(shorter) or not seconds.get(longer):
        return None
    return seconds[longer] / seconds[shorter]


def print_growth(rows: list[dict]):
    for name in CONTESTANTS:
        if (factor := growth(rows, name)) is not None:
            target = f", target at most {GROWTH_TARGET}" if name == "sparse" else ""
            print(f"{name}: 32 frames take {factor:.2f} times as long as 8{target}")


def plot(rows: list[dict], path: Path):
    """Time and memory over clip length, both axes logarithmic, a line for each contestant."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    labels = {"seconds": ("seconds", 1), "peak_bytes": ("peak memory, GiB", 2**-30)}
    for panel, (column, (label, unit)) in zip(panels, labels.items(), strict=True):
        for name in CONTESTANTS:
            points = [
                (row["frames"], row[column] * unit) for row in rows if row["contestant"] == name and column in row
            ]
            if points:
                panel.loglog(*zip(*points, strict=True), marker="o", label=name)
        frames = sorted({row["frames"] for row in rows})
        panel.set_xticks(frames, map(str, frames), minor=False)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_xlabel("frames")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main():
    parser = measure.make_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--max_dense_frames", type=int, default=32, help="longer clips are measured sparse only")
    parser.add_argument("--backward", action="store_true", help="forward and backward, in training mode")
    parser.add_argument("--gradient_checkpointing", action="store_true", help="with --backward")
    parser.add_argument("--plot", type=Path, help="draw time and memory over clip length here")
    args = parser.parse_args()
    if args.gradient_checkpointing and not args.backward:
        parser.error("--gradient_checkpointing changes nothing without --backward.")

    rows = measure_all(args)
    measure.report(args, rows)
    print_growth(rows)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
