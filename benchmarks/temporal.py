#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Do sparse edges and nodes learn which of two events was first, in clips of 1,024 tokens, and at what cost?

    python benchmarks/temporal.py --output results          # two cores, an hour
    python benchmarks/temporal.py --output results --full   # a GPU, 15 minutes
    python benchmarks/temporal.py --output results --tiny   # seconds, at a size that tells nothing

A clip has 16 frames of 8x8 patches of noise. Two squares flash up in it, at least 12 frames apart. The caption says
which was first; the clip's twin shows them the other way around. Order accuracy is the share of clips that come closer
to their own caption than to their twin's: 50 % for a model blind to time.

All variants learn from the same batches by contrast, in a `SViTTTrainer` at a constant rate. Each goes on for the same
seconds, so that its curve tells of equal updates and of equal time. They start with random weights, or from a model of
4 frames that learned the same task, whose seconds count. Seconds leave evaluation out; on a CPU, they are those of the
process. runs.jsonl has a line for each run that has ended, and an interrupted call goes on from there.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import permutations, product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev

import encoder
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from svitt import SViTTConfig, SViTTForVideoTextRetrieval, fixed_block_pattern
from svitt.conversion.positions import fitted
from svitt.data.loaders import ShuffledBatches
from svitt.modeling_svitt import draw_block_pattern, evaluation_block_scores
from svitt.training.trainer import SViTTTrainer, SViTTTrainingArguments

VARIANTS = {  # what differs from the sparsity of the paper; edges are drawn anew at each update, or stay
    "dense": {"sparse_random_attn": None, "token_keep_rate": 1.0},
    "edges": {"token_keep_rate": 1.0},
    "edges, fixed": {"token_keep_rate": 1.0},
    "nodes": {"sparse_random_attn": None},
    "both": {},
}
COSTS = ("dense", "edges", "nodes", "both")  # the edges' being fixed costs nothing
STARTS = ("random weights", "4 frames")
CONTROLS = {  # frames of clips (B, T, ...) as a model should not take them for the caption's
    "reversed": lambda clips: clips.flip(1),
    "shuffled": lambda clips: clips[:, torch.randperm(clips.shape[1])],
}
COLOURS = {"red": (1, -1, -1), "blue": (-1, -1, 1), "green": (-1, 1, -1), "yellow": (1, 1, -1), "white": (1, 1, 1)}
MANY = 10**5  # updates: a run is ended by its seconds


@dataclass(frozen=True)
class Scale:
    """How much there is to learn, with what, and for how long; the default is for a CPU."""

    seconds: float = 150  # of a run from random weights; half of it for one from 4 frames
    short_updates: int = 100  # of the model of 4 frames
    eval_every: int = 20  # updates
    num_frames: int = 16
    num_colours: int = 3
    batch_size: int = 8
    num_test: int = 100  # clips while training; four times as many in the end
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    block_size: int = 64
    learning_rate: float = 1e-3
    seeds: int = 3
    cost_frames: tuple[int, ...] = (4, 16, 32)


FULL = Scale(30, 200, 50, 16, 5, 32, 200, 256, 4, 4, 64, 5e-4, 3, (4, 16, 32, 64))
TINY = Scale(0, 2, 2, 16, 3, 4, 8, 16, 2, 1, 64, 1e-3, 1, (4,))


# ---- Clips


@dataclass(frozen=True)
class Events(Dataset):
    """Pairs of twin clips (2, T, 3, 64, 64) and their captions, each a function of the seed, its row and the epoch."""

    num_frames: int
    num_colours: int
    seed: int

    @property
    def orders(self) -> list[tuple[str, str]]:
        return list(permutations(list(COLOURS)[: self.num_colours], 2))

    def captions(self) -> torch.Tensor:
        """Return the words of a caption for each order: [CLS] a red square and then a blue square [SEP]."""
        words = [["", "", "[CLS]", "[SEP]", "a", "square", "and", "then", *COLOURS].index]
        sentences = (f"[CLS] a {first} square and then a {second} square [SEP]" for first, second in self.orders)
        return torch.tensor([[words[0](word) for word in sentence.split()] for sentence in sentences])

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, list[int]]:
        rng, length = np.random.default_rng((self.seed, *key)), max(1, self.num_frames // 8)
        distance = rng.integers(3 * self.num_frames // 4, self.num_frames - length + 1)
        start = rng.integers(0, self.num_frames - length - distance + 1)
        order = self.orders[rng.integers(len(self.orders))]
        clips = torch.from_numpy(rng.standard_normal((2, self.num_frames, 3, 64, 64), dtype=np.float32)) * 0.2
        for event, begin in enumerate((start, start + distance)):
            y, x = rng.integers(0, 41, 2)
            for clip, colour in zip(clips, (order[event], order[1 - event]), strict=True):
                clip[begin : begin + length, :, y : y + 24, x : x + 24] += torch.tensor(COLOURS[colour])[:, None, None]
        return clips, [self.orders.index(order), self.orders.index(order[::-1])]

    def collate(self, pairs: list) -> dict[str, torch.Tensor]:
        clips, ids = (
            torch.cat([clips for clips, _ in pairs]),
            torch.tensor([number for _, ids in pairs for number in ids]),
        )
        return {"pixel_values": clips, "input_ids": self.captions()[ids], "video_ids": ids}


# ---- Models


class FixedEdges(SViTTForVideoTextRetrieval):
    """Has the edges of evaluation in training too."""

    def forward(self, *args, **kwargs):
        config = self.config.vision_config
        num_tokens, patterns = config.num_frames * config.grid_size**2, []
        num_blocks = -(-num_tokens // config.attn_block_size)
        num_random = min(config.sparse_random_attn, num_blocks - config.sparse_local_attn)
        for layer in range(config.num_hidden_layers):
            scores = evaluation_block_scores(config.random_attn_seed, layer, num_blocks, self.device)
            patterns.append(draw_block_pattern(scores, config.sparse_local_attn, num_random))
        with fixed_block_pattern(patterns):
            return super().forward(*args, **kwargs)


def make_model(scale: Scale, variant: str, num_frames: int, seed: int = 0) -> SViTTForVideoTextRetrieval:
    """Return a model; all variants of a seed have the same weights."""
    size = {"hidden_size": scale.hidden_size, "num_attention_heads": scale.num_heads, "initializer_range": 0.1}
    size |= {
        "intermediate_size": 2 * scale.hidden_size,
        "hidden_dropout_prob": 0.0,
        "num_hidden_layers": scale.num_layers,
    }
    vision = size | {"num_frames": num_frames, "image_size": 64, "patch_size": 8, "attn_block_size": scale.block_size}
    vision |= {"layer_scale_init_value": 1.0, "drop_path_rate": 0.0, "token_keep_rate": keep_rate(num_frames)}
    text = size | {"fusion_layer": 1, "vocab_size": 8 + len(COLOURS), "encoder_width": scale.hidden_size}
    text |= {"attention_probs_dropout_prob": 0.0}
    config = {"vision_config": vision | VARIANTS[variant], "text_config": text, "embed_dim": 64}
    torch.manual_seed(seed)
    model_class = FixedEdges if "fixed" in variant else SViTTForVideoTextRetrieval
    return model_class(SViTTConfig(**config, loss_weight={"itc": 1.0, "itm": 0.0, "mlm": 0.0}))


def keep_rate(num_frames: int) -> float:
    return 0.7 if num_frames <= 4 else 0.6  # as published


# ---- Runs


def run(scale: Scale, seed: int, start: str, variant: str) -> dict:
    torch.set_num_threads(1)
    model, spent, seconds = make_model(scale, variant, scale.num_frames, seed), 0.0, scale.seconds
    if start == "4 frames":
        short = make_model(scale, variant, 4, seed)
        spent, seconds = train(scale, short, seed, updates=scale.short_updates)[-1]["seconds"], scale.seconds / 2
        weights, _ = fitted(short.cpu().state_dict(), short.config, num_frames=scale.num_frames)
        model.load_state_dict(weights)
    curve = train(scale, model, seed, seconds=seconds, spent=spent)
    scores = {name: score(model, scale, 4, change) for name, change in CONTROLS.items()}
    row = {"key": [seed, start, variant], "order": score(model, scale, 4), **scores, "curve": curve}
    return row | {"start": start, "variant": variant, "scale": asdict(scale)}


def train(scale: Scale, model, seed: int, seconds: float = 0, updates: int = 1, spent: float = 0) -> list[dict]:
    """Train for so many seconds, of which some may be spent, and at least so many updates; return order accuracies."""
    on_gpu, curve = torch.cuda.is_available(), []
    if spent:
        curve.append({"update": 0, "seconds": spent, "order": score(model.cuda() if on_gpu else model, scale)})

    def now() -> float:
        if not on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def evaluate(model, split):
        nonlocal began
        point = {"update": trainer.state.global_step, "seconds": now() - began, "order": score(model, scale)}
        trainer.control.should_training_stop = point["seconds"] >= seconds and point["update"] >= updates
        began = now() - point["seconds"]
        curve.append(point)
        return None, point

    events = Events(model.config.vision_config.num_frames, scale.num_colours, seed)
    pairs = scale.batch_size // 2
    loader = DataLoader(events, batch_sampler=ShuffledBatches(MANY * pairs, pairs, seed), collate_fn=events.collate)
    with tempfile.TemporaryDirectory() as folder:
        args = {"output_dir": folder, "seed": seed, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        args |= {"learning_rate": scale.learning_rate, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 20}
        args |= {"larger_lr": 10 * scale.learning_rate, "larger_lr_names": ["relative_position_bias_table"]}
        args |= {"max_steps": MANY, "eval_steps": scale.eval_every, "max_grad_norm": 1.0, "bf16": on_gpu}
        args = SViTTTrainingArguments(**args, logging_steps=MANY)
        trainer = SViTTTrainer(model, args, loader, dict, evaluate, eval_splits=["test"])
        began = now() - spent
        trainer.train()
    return curve


@torch.no_grad()
def score(model, scale: Scale, times: int = 1, change=lambda clips: clips) -> float:
    """Return the order accuracy in percent, on `times` as many test clips as usual."""
    was_training, right = model.training, []
    model.eval()
    events = Events(model.config.vision_config.num_frames, scale.num_colours, seed=10**6)
    texts = model.get_text_features(events.captions().to(model.device)).pooler_output
    for first in range(0, times * scale.num_test // 2, 4):
        batch = events.collate([events[row, 0] for row in range(first, first + 4)])
        videos = model.get_video_features(change(batch["pixel_values"]).to(model.device)).pooler_output
        similarity, own = model.similarity(videos, texts).cpu(), batch["video_ids"]
        twins = own.view(-1, 2).flip(1).flatten()
        right.append(similarity.gather(1, own[:, None]) > similarity.gather(1, twins[:, None]))
    model.train(was_training)
    return 100 * torch.cat(right).double().mean().item()


def cost(scale: Scale, num_frames: int, variant: str) -> dict:
    """Return the seconds of an update, and for the video encoder and a clip: FLOPs, and bytes kept for backward."""
    torch.set_num_threads(1)
    with torch.device("meta"):  # eager, as the counter does not know all kernels of the other
        model, clip = make_model(scale, variant, num_frames), torch.zeros(1, num_frames, 3, 64, 64)
        model.set_attn_implementation("eager")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval().get_video_features(clip)
    model = make_model(scale, variant, num_frames)
    kept = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = model.train().get_video_features(torch.zeros(clip.shape)).pooler_output  # noqa: F841 (keeps storages)
    first, *_, last = train(replace(scale, eval_every=2, num_test=8), model, 0, updates=6)
    seconds = (last["seconds"] - first["seconds"]) / 4
    row = {"key": [num_frames, variant], "tokens": num_frames * 64, "variant": variant}
    return row | {"GFLOP": counter.get_total_flops() / 1e9, "MiB": sum(kept.values()) / 2**20, "s": seconds}


# ---- Reports


def summarise(rows: list[dict]) -> list[dict]:
    """Return a line for each start and variant, of means ± standard deviations over seeds."""
    found, lines = defaultdict(list), []
    for row in sorted(rows, key=lambda row: (STARTS.index(row["start"]), list(VARIANTS).index(row["variant"]))):
        found[row["start"], row["variant"]].append(row)
    for (start, variant), runs in found.items():
        line = {"start": start, "variant": variant, "seeds": str(len(runs))}
        for axis in ("update", "seconds"):  # as many of these as all runs have had
            common = min(row["curve"][-1][axis] for row in rows if row["start"] == start)
            orders = [
                [point["order"] for point in row["curve"] if point[axis] <= common or point is row["curve"][0]][-1]
                for row in runs
            ]
            line[f"order, equal {axis}s".replace("ss", "s")] = f"{spread(orders)} ({common:.0f})"
        learned = [[point for point in row["curve"] if point["order"] >= 90] for row in runs]
        line["reach 90 %"] = f"{sum(map(bool, learned))} of {len(runs)}"
        for axis in ("update", "seconds"):
            line[f"{axis}s to 90 %".replace("ss", "s")] = spread([points[0][axis] for points in learned if points])
        line["updates"] = spread([row["curve"][-1]["update"] for row in runs])
        lines.append(line | {name: spread([row[name] for row in runs]) for name in ("order", *CONTROLS)})
    return lines


def spread(values: list[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.0f}" + (f" ± {stdev(values):.0f}" if len(values) > 1 else "")


def plot(rows: list[dict], path: Path):
    """Draw order accuracy over seconds: thin lines are runs, thick ones their means."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = dict(zip(STARTS, figure.subplots(1, 2, sharey=True), strict=True))
    for start, panel in panels.items():
        for number, variant in enumerate(VARIANTS):
            curves = [row["curve"] for row in rows if (row["start"], row["variant"]) == (start, variant)]
            lines = [([at["seconds"] for at in curve], [at["order"] for at in curve]) for curve in curves]
            for line in lines:
                panel.plot(*line, color=f"C{number}", alpha=0.25, linewidth=0.8)
            if lines:
                grid = np.linspace(max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines), 100)
                means = np.mean([np.interp(grid, *line) for line in lines], axis=0)
                panel.plot(grid, means, color=f"C{number}", linewidth=2, label=variant)
        panel.set(title=f"from {start}", xlabel="seconds of training", ylim=(40, 102))
        panel.grid(alpha=0.3)
    panels[STARTS[0]].set_ylabel("order accuracy, %")
    figure.legend(*panels[STARTS[0]].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of runs.jsonl, costs.jsonl and curves.png")
    parser.add_argument("--full", action="store_true", help="a larger model, for a GPU")
    parser.add_argument("--tiny", action="store_true", help="a size that tells nothing, to try this out")
    parser.add_argument("--seeds", type=int, help="default: 3")
    parser.add_argument("--jobs", type=int, help="runs at a time, of a thread each (default: 2, on a GPU 1)")
    args = parser.parse_args()
    scale = FULL if args.full else TINY if args.tiny else Scale()
    args.output.mkdir(parents=True, exist_ok=True)

    jobs = [(run, *key) for key in product(range(args.seeds or scale.seeds), STARTS, VARIANTS)]
    jobs += [(cost, *key) for key in product(scale.cost_frames, COSTS)]
    log = args.output / "runs.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = [row["key"] for row in rows]
    with ProcessPoolExecutor(args.jobs or (1 if args.full else 2), get_context("spawn")) as pool:
        jobs = [pool.submit(job, scale, *key) for job, *key in jobs if key not in done]
        for future in as_completed(jobs):
            rows.append(future.result())
            with log.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")

    runs = [row for row in rows if "curve" in row]
    costs = sorted(
        (row for row in rows if "tokens" in row), key=lambda row: (row["tokens"], COSTS.index(row["variant"]))
    )
    print(encoder.markdown(summarise(runs)), encoder.markdown([{**row, "key": None} for row in costs]), sep="\n\n")
    try:
        plot(runs, args.output / "curves.png")
    except ImportError:
        print("\nNo curves.png: matplotlib is not installed.")


if __name__ == "__main__":
    main()
