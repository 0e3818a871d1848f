#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Do sparse edges and nodes learn which of two events was first, in clips of 1,024 tokens, and at what cost?

    python benchmarks/temporal.py --output results          # two cores, half an hour
    python benchmarks/temporal.py --output results --full   # a GPU, 15 minutes
    python benchmarks/temporal.py --output results --tiny   # half a minute, at a size that tells nothing

In a clip of 16 frames of 8x8 patches of noise, two squares flash up, at least 12 frames apart. The caption says which
was first; the clip's twin shows them the other way around. Order accuracy is the share of clips that come closer to
their own caption than to their twin's: 50 % for a model blind to time.

All variants of a seed learn from the same batches by contrast, in a `SViTTTrainer` at a constant rate. They start with
random weights, or from a model of 4 frames that learned the task, whose updates count. First the CPU time of an update
is measured, in turn; then each variant gets as many updates as take the time of `updates` dense ones. So curves tell of
equal updates and of equal time, whatever else the machine does meanwhile. runs.jsonl (full.jsonl, tiny.jsonl) gets a
line as a run ends, and an interrupted call goes on from there.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, permutations, product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from encoder import markdown
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from svitt import SViTTConfig, SViTTForVideoTextRetrieval
from svitt.conversion.positions import fitted
from svitt.data.loaders import ShuffledBatches
from svitt.training.trainer import SViTTTrainer, SViTTTrainingArguments

VARIANTS = {  # what differs from the paper's sparsity; edges are drawn anew at each update, or stay
    "dense": {"sparse_random_attn": None, "token_keep_rate": 1.0},
    "edges": {"token_keep_rate": 1.0},
    "edges, fixed": {"token_keep_rate": 1.0},
    "nodes": {"sparse_random_attn": None},
    "both": {},
}
STARTS = ("random weights", "4 frames")
CONTROLS = {  # clips (B, T, ...) that their captions are wrong about, or not more right than their twins'
    "reversed": lambda clips: clips.flip(1),
    "shuffled": lambda clips: clips[:, torch.randperm(clips.shape[1])],
}
COLOURS = {"red": (1, -1, -1), "blue": (-1, -1, 1), "green": (-1, 1, -1), "yellow": (1, 1, -1), "white": (1, 1, 1)}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "square", "and", "then", *COLOURS]
MANY = 10**5  # updates, which no run has


@dataclass(frozen=True)
class Scale:
    """How much there is to learn, with what, and for how long; by default on a CPU."""

    updates: int = 120  # of a dense model from random weights; half of the time from 4 frames
    short_updates: int = 250  # of the model of 4 frames
    eval_every: int = 20  # updates
    num_frames: int = 16
    num_colours: int = 3
    batch_size: int = 8
    num_test: int = 100  # clips while training; twice as many in the end
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    block_size: int = 64
    learning_rate: float = 1e-3  # ten times as much for position biases, through which alone a SViTT sees time
    seeds: int = 3
    cost_frames: tuple[int, ...] = (4, 16, 32)
    workers: int = 0


FULL = Scale(800, 200, 50, 16, 5, 32, 200, 256, 4, 4, 64, 5e-4, 3, (4, 16, 32, 64), workers=8)
TINY = Scale(4, 2, 2, 8, 3, 4, 8, 16, 2, 1, 64, 1e-3, 1, (4, 8))


class Events(Dataset):
    """Pairs of twin clips (2, T, 3, 64, 64) and their captions, each a function of the seed, its row and the epoch."""

    def __init__(self, num_frames: int, num_colours: int, seed: int):
        self.num_frames, self.seed = num_frames, seed
        self.orders = list(permutations(list(COLOURS)[:num_colours], 2))
        captions = (f"[CLS] a {first} square and then a {second} square [SEP]" for first, second in self.orders)
        self.input_ids = torch.tensor([[*map(WORDS.index, caption.split())] for caption in captions])

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

    def collate(self, pairs: list[tuple[torch.Tensor, list[int]]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([number for _, numbers in pairs for number in numbers])
        return {
            "pixel_values": torch.cat([clips for clips, _ in pairs]),
            "input_ids": self.input_ids[ids],
            "video_ids": ids,
        }


class FixedEdges(SViTTForVideoTextRetrieval):
    """Has the edges of evaluation in training too."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.vision_model.encoder.training = False  # this module draws edges, and its layers still train
        return self


def make_model(scale: Scale, variant: str, num_frames: int, seed: int = 0) -> SViTTForVideoTextRetrieval:
    """Return a model; all variants of a seed have the same weights."""
    size = {"hidden_size": scale.hidden_size, "intermediate_size": 2 * scale.hidden_size, "initializer_range": 0.1}
    size |= {"num_hidden_layers": scale.num_layers, "num_attention_heads": scale.num_heads, "hidden_dropout_prob": 0.0}
    vision = {"num_frames": num_frames, "image_size": 64, "patch_size": 8, "attn_block_size": scale.block_size}
    vision |= {"token_keep_rate": 0.7 if num_frames <= 4 else 0.6}  # as published
    vision |= {"layer_scale_init_value": 1.0, "drop_path_rate": 0.0} | VARIANTS[variant]
    text = {"fusion_layer": 1, "vocab_size": len(WORDS), "encoder_width": scale.hidden_size}
    text |= {"attention_probs_dropout_prob": 0.0, "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 1}
    torch.manual_seed(seed)
    weights = {"itc": 1.0, "itm": 0.0, "mlm": 0.0}
    config = SViTTConfig(vision_config=size | vision, text_config=size | text, embed_dim=64, loss_weight=weights)
    return (FixedEdges if "fixed" in variant else SViTTForVideoTextRetrieval)(config)


def run(scale: Scale, seconds: dict, seed: int, start: str, variant: str) -> dict:
    """Train a model, and one of 4 frames before it if asked for; return its scores and how they came about.

    Args:
        seconds: of an update, by number of frames and variant.
    """
    torch.set_num_threads(1)
    model, spent = make_model(scale, variant, scale.num_frames, seed), 0.0
    time_limit = scale.updates * seconds[scale.num_frames, "dense"]
    if start == "4 frames":
        short, time_limit = make_model(scale, variant, 4, seed), time_limit / 2
        train(scale, short, seed, scale.short_updates)
        spent = scale.short_updates * seconds[4, variant]
        model.load_state_dict(fitted(short.cpu().state_dict(), short.config, num_frames=scale.num_frames)[0])
    each, every = seconds[scale.num_frames, variant], scale.eval_every
    updates = max(1, round((time_limit - spent) / each / every)) * every
    curve = [{"update": 0, "order": score(model, scale)}] if spent else []
    curve += train(scale, model, seed, updates)
    curve = [{"seconds": spent + point["update"] * each} | point for point in curve]
    row = {"key": [seed, start, variant], "start": start, "variant": variant}
    controls = {name: score(model, scale, 2, change) for name, change in CONTROLS.items()}
    return row | controls | {"curve": curve, "scale": asdict(scale)}


def train(scale: Scale, model, seed: int, updates: int) -> list[dict]:
    """Train for so many updates; return order accuracies."""
    curve: list[dict] = []

    def evaluate(model, split: str) -> tuple[None, dict]:
        curve.append({"update": trainer.state.global_step, "order": score(model, scale)})
        return None, curve[-1]

    events, pairs = Events(model.config.vision_config.num_frames, scale.num_colours, seed), scale.batch_size // 2
    batches = ShuffledBatches(MANY * pairs, pairs, seed)
    loader = DataLoader(events, batch_sampler=batches, collate_fn=events.collate, num_workers=scale.workers)
    options = {"seed": seed, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    options |= {"learning_rate": scale.learning_rate, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 20}
    options |= {"larger_lr": 10 * scale.learning_rate, "larger_lr_names": ["relative_position_bias_table"]}
    options |= {"max_steps": updates, "logging_steps": MANY, "eval_steps": scale.eval_every, "max_grad_norm": 1.0}
    with tempfile.TemporaryDirectory() as folder:
        args = SViTTTrainingArguments(output_dir=folder, bf16=torch.cuda.is_available(), **options)
        trainer = SViTTTrainer(model, args, loader, dict, evaluate, eval_splits=["test"])
        trainer.train()
    return curve


@torch.no_grad()
def score(model, scale: Scale, times: int = 1, change=lambda clips: clips) -> float:
    """Return the order accuracy in percent, on `times` as many test clips as usual."""
    was_training, right = model.training, []
    model.eval()
    events = Events(model.config.vision_config.num_frames, scale.num_colours, seed=10**6)
    texts = model.get_text_features(events.input_ids.to(model.device)).pooler_output
    for first in range(0, times * scale.num_test // 2, 4):
        batch = events.collate([events[row, 0] for row in range(first, first + 4)])
        videos = model.get_video_features(change(batch["pixel_values"]).to(model.device)).pooler_output
        similarity, own = model.similarity(videos, texts).cpu(), batch["video_ids"]
        twins = own.view(-1, 2).flip(1).flatten()
        right.append(similarity.gather(1, own[:, None]) > similarity.gather(1, twins[:, None]))
    model.train(was_training)
    return 100 * torch.cat(right).double().mean().item()


def costs(scale: Scale, num_frames: int, rounds: int = 4) -> list[dict]:
    """Return each variant's seconds an update, the fastest of some in turn, and the FLOPs of encoding a clip."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    events, times = Events(num_frames, scale.num_colours, 0), {variant: [] for variant in VARIANTS}
    batch = events.collate([events[row, 0] for row in range(scale.batch_size // 2)])
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    models = {variant: make_model(scale, variant, num_frames).to(device).train() for variant in VARIANTS}
    for _, (variant, model) in product(range(rounds), models.items()):
        optimizer, began = torch.optim.AdamW(model.parameters()), now(device)
        with torch.autocast(device, enabled=device == "cuda", dtype=torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times[variant].append(now(device) - began)
    rows = []
    for variant in VARIANTS:
        with torch.device("meta"):
            model, clip = make_model(scale, variant, num_frames), torch.zeros(1, num_frames, 3, 64, 64)
        model.vision_model.set_attn_implementation("eager")  # the counter does not know all kernels of the other
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval().get_video_features(clip)
        row = {"frames": num_frames, "tokens": num_frames * 64, "variant": variant}
        rows.append(row | {"MFLOP": counter.get_total_flops() / 1e6, "s an update": min(times[variant])})
    return rows


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


# ---- Reports


def summarise(rows: list[dict]) -> list[dict]:
    """Return a line for each variant of runs with the same start: means ± standard deviations over seeds."""
    lines, common = [], min(row["curve"][-1]["update"] for row in rows)
    for variant in VARIANTS:
        runs = [row for row in rows if row["variant"] == variant]
        line = {"variant": variant, "seeds": len(runs)}
        at = [[point["order"] for point in row["curve"] if point["update"] <= common] for row in runs]
        line[f"after {common} updates"] = spread([orders[-1] for orders in at])
        line["in equal time"] = spread([row["curve"][-1]["order"] for row in runs])  # to half an evaluation
        line["updates"] = spread([row["curve"][-1]["update"] for row in runs])
        firsts = [[point for point in row["curve"] if point["order"] >= 90][:1] for row in runs]
        reached = [point for first in firsts for point in first]
        line |= {"reach 90 %": len(reached), "at update": spread([point["update"] for point in reached])}
        line["at second"] = spread([point["seconds"] for point in reached])
        lines.append(line | {name: spread([row[name] for row in runs]) for name in CONTROLS})
    return lines


def spread(values: list[float]) -> str | None:
    if len(values) < 2:
        return f"{values[0]:.0f}" if values else None
    return f"{mean(values):.0f}" + (f" ± {stdev(values):.0f}" if stdev(values) else "")


def plot(rows: list[dict], path: Path):
    """Draw order accuracy over seconds: thin lines are runs, thick ones their means."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = dict(zip(STARTS, figure.subplots(1, 2, sharey=True), strict=True))
    for (start, panel), (number, variant) in product(panels.items(), enumerate(VARIANTS)):
        curves = [row["curve"] for row in rows if (row["start"], row["variant"]) == (start, variant)]
        lines = [([at["seconds"] for at in curve], [at["order"] for at in curve]) for curve in curves]
        for line in lines:
            panel.plot(*line, color=f"C{number}", alpha=0.25, linewidth=0.8)
        grid = np.linspace(max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines), 100)
        means = np.mean([np.interp(grid, *line) for line in lines], axis=0)
        panel.plot(grid, means, color=f"C{number}", linewidth=2, label=variant)
        panel.set(title=f"from {start}", xlabel="seconds of training", ylabel="order accuracy, %", ylim=(40, 102))
    panels[STARTS[0]].legend(frameon=False)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of runs.jsonl and runs.png")
    parser.add_argument("--full", action="store_true", help="a larger model, for a GPU")
    parser.add_argument("--tiny", action="store_true", help="a size that tells nothing, to try this out")
    parser.add_argument("--seeds", type=int, help="(default: 3)")
    parser.add_argument("--jobs", type=int, help="runs at a time, of a thread each (default: 2, on a GPU 1)")
    args = parser.parse_args()
    name, scale = ("full", FULL) if args.full else ("tiny", TINY) if args.tiny else ("runs", Scale())
    log = args.output / f"{name}.jsonl"
    args.output.mkdir(parents=True, exist_ok=True)

    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def note(row: dict):
        rows.append(row)
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")

    with ProcessPoolExecutor(args.jobs or (1 if args.full else 2), get_context("spawn")) as pool:
        if not any("frames" in row for row in rows):
            for row in chain(*map(partial(costs, scale), scale.cost_frames)):
                note(row)
        seconds = {(row["frames"], row["variant"]): row["s an update"] for row in rows if "frames" in row}
        plan = product(STARTS, range(args.seeds or scale.seeds), VARIANTS)
        done = [row.get("key") for row in rows]
        keys = [(seed, start, variant) for start, seed, variant in plan if [seed, start, variant] not in done]
        for future in as_completed([pool.submit(run, scale, seconds, *key) for key in keys]):
            note(future.result())

    runs = [row for row in rows if "key" in row]
    for start in STARTS:
        print(f"From {start}:", markdown(summarise([row for row in runs if row["start"] == start])), sep="\n\n")
    print(markdown([row for row in rows if "frames" in row]), sep="\n\n")
    try:
        plot(runs, log.with_suffix(".png"))
    except ImportError:
        print("\nNo figure, as matplotlib is not installed.")


if __name__ == "__main__":
    main()
