#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Does a sparse model learn time, and at what cost? Dense and sparse SViTTs, from scratch, on clips made on the spot.

    python examples/temporal_benchmark.py temporal_results          # 3 seeds; 40 minutes on two cores
    python examples/temporal_benchmark.py temporal_results --full   # larger clips and models, on a GPU

Every clip (of make_demo_dataset.py) has a twin that shows the same frames backwards and has another caption. Order
accuracy is the share of clips whose own caption comes before that of the twin: 50 % for a model blind to time.

Dense attention, sparse edges, sparse nodes and both learn by contrast from the same batches at a constant rate, with 4
frames; with 8 frames; and with 8 frames from the model of 4, half as many steps (the paper's temporal sparse expansion,
section 3.4). As the rate is constant, a run may be cut at any time, so that one run compares them at equal steps and at
equal time. Writes table.md, curves.png (needs matplotlib) and runs.jsonl, with which an interrupted call continues.
"""

import argparse
import importlib.util
import json
import multiprocessing
import random
import statistics
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import make_demo_dataset as demo
import torch
from make_tiny_model import make_config, make_tokenizer, prefer_moments
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import BertTokenizer

from svitt import SViTTConfig, SViTTForVideoTextRetrieval
from svitt.conversion import expand_num_frames
from svitt.data.loaders import reorder_frames
from svitt.errors import InputError, exit_on_bad_input
from svitt.processing_svitt import SViTTVideoProcessor
from svitt.training.optimization import parameter_groups

SPARSITIES = {
    "dense": {"sparse_random_attn": None, "token_keep_rate": 1.0},
    "edges": {"token_keep_rate": 1.0},
    "nodes": {"sparse_random_attn": None},
    "both": {},
}
KEEP_RATES = {4: 0.7, 8: 0.6}  # as published
FRAME_ORDERS = {"reverse": "reversed", "shuffle": "shuffled", "freeze": "frozen"}
NUM_EVALUATIONS = 10  # of a run
WARMUP_STEPS = 50


@dataclass(frozen=True)
class Scale:
    """How much there is to learn, and with what."""

    num_steps: int
    num_train: int
    num_test: int
    image_size: int
    hidden_size: int
    batch_size: int = 32
    device: str = "cpu"


SMALL = Scale(num_steps=500, num_train=1600, num_test=200, image_size=32, hidden_size=64)
FULL = Scale(
    num_steps=6000, num_train=16000, num_test=400, image_size=64, hidden_size=192, batch_size=64, device="cuda"
)


# ---- Clips


@dataclass
class Clips:
    """Clips and twins in turn: (N, NUM_STATES, 3, height, width) in half precision, and their captions."""

    states: torch.Tensor
    captions: list[str]

    def sample(self, rows: torch.Tensor, num_frames: int, moment: torch.Tensor | float) -> torch.Tensor:
        """Frames (B, T, 3, height, width), each from where `moment` in [0, 1) points to in its interval."""
        times = (torch.arange(num_frames) + moment) * (demo.NUM_STATES / num_frames)
        return self.states[rows[:, None], times.long().expand(len(rows), -1)].float()


def make_clips(num_clips: int, image_size: int, seed: str, unique: bool) -> Clips:
    """Half of them twins; `unique` captions where there is to be one right answer."""
    rng, videos, captions = random.Random(seed), [], []
    processor = SViTTVideoProcessor(num_frames=demo.NUM_STATES, size={"height": image_size, "width": image_size})
    while len(captions) < num_clips:
        event = rng.choice(demo.EVENTS)(rng)
        if unique and event.caption in captions:
            continue
        states = demo.draw_states(event, rng)
        videos += [states, states[::-1]]
        captions += [event.caption, event.caption_backwards]
    pixel_values = [
        processor(videos[i : i + 100], return_tensors="pt").pixel_values.half() for i in range(0, num_clips, 100)
    ]
    return Clips(torch.cat(pixel_values), captions)


# ---- Training


@dataclass
class Job:
    """A sparsity and a seed: three runs, the third of which begins where the first ended."""

    sparsity: str
    seed: int
    scale: Scale


def run(job: Job) -> list[dict]:
    """Train with 4 frames, with 8, and from 4 to 8; a row for each."""
    torch.set_num_threads(1)
    scale = job.scale
    train = make_clips(scale.num_train, scale.image_size, f"{job.seed} train", unique=False)
    test = make_clips(scale.num_test, scale.image_size, f"{job.seed} test", unique=True)
    tokenizer = make_tokenizer(train.captions + test.captions)

    def learn(model: SViTTForVideoTextRetrieval, num_steps: int, start: float = 0.0) -> list[dict]:
        return train_and_evaluate(model.to(scale.device), tokenizer, train, test, num_steps, job, start)

    rows, short = [], make_model(job, 4, tokenizer)
    rows.append({"frames": 4, "start": "scratch", **costs(short), "curve": learn(short, scale.num_steps)})
    long = make_model(job, 8, tokenizer)
    rows.append({"frames": 8, "start": "scratch", **costs(long), "curve": learn(long, scale.num_steps)})
    expanded, spent = expand(short, 8), rows[0]["curve"][-1]["seconds"]
    curve = learn(expanded, scale.num_steps // 2, start=spent)
    rows.append({"frames": 8, "start": "4 frames", **costs(expanded), "curve": curve})
    return [{"sparsity": job.sparsity, "seed": job.seed, **row} for row in rows]


def make_model(job: Job, num_frames: int, tokenizer: BertTokenizer) -> SViTTForVideoTextRetrieval:
    """The same weights for all sparsities of a seed."""
    config = make_config(len(tokenizer), job.scale.hidden_size).to_dict()
    vision = {"num_frames": num_frames, "image_size": job.scale.image_size, "token_keep_rate": KEEP_RATES[num_frames]}
    config["vision_config"] |= vision | SPARSITIES[job.sparsity]
    config["loss_weight"] = {"itc": 1.0, "itm": 0.0, "mlm": 0.0}
    torch.manual_seed(job.seed)
    model = SViTTForVideoTextRetrieval(SViTTConfig.from_dict(config))
    prefer_moments(model, strength=4.0)
    return model


def expand(model: SViTTForVideoTextRetrieval, num_frames: int) -> SViTTForVideoTextRetrieval:
    """Inflated in time; a model with sparse nodes drops more of them now."""
    weights, config = expand_num_frames(model.cpu().state_dict(), model.config, num_frames)
    if config.vision_config.token_keep_rate < 1:
        config.vision_config.token_keep_rate = KEEP_RATES[num_frames]
    expanded = SViTTForVideoTextRetrieval(config)
    expanded.load_state_dict(weights)
    return expanded


def train_and_evaluate(
    model: SViTTForVideoTextRetrieval,
    tokenizer: BertTokenizer,
    train: Clips,
    test: Clips,
    num_steps: int,
    job: Job,
    start: float,
) -> list[dict]:
    """Learn by contrast; scores on the test clips after each tenth of the steps, and at which second that was.

    Args:
        start: seconds already spent on the model.
    """
    generator = torch.Generator().manual_seed(job.seed)
    groups = parameter_groups(
        model.named_parameters(), 1e-3, 0.02, larger_lr=1e-2, larger_lr_names=["relative_position_bias_table"]
    )
    optimizer = torch.optim.AdamW(groups)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / WARMUP_STEPS))
    texts = tokenizer(train.captions, padding=True, return_tensors="pt")
    known = {caption: number for number, caption in enumerate(dict.fromkeys(train.captions))}
    video_ids = torch.tensor([known[caption] for caption in train.captions])
    curve, seconds = [], start
    for step in range(1, num_steps + 1):
        began = now(job.scale.device)
        pairs = torch.randperm(len(train.captions) // 2, generator=generator)[: job.scale.batch_size // 2]
        rows = torch.stack([2 * pairs, 2 * pairs + 1], dim=1).flatten()  # a clip and its twin in one batch
        num_frames = model.config.vision_config.num_frames
        clips = train.sample(rows, num_frames, torch.rand(len(rows), num_frames, generator=generator))
        batch = [clips, texts.input_ids[rows], texts.attention_mask[rows], video_ids[rows]]
        loss = model.train()(*(tensor.to(job.scale.device) for tensor in batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        warmup.step()
        optimizer.zero_grad()
        seconds += now(job.scale.device) - began
        if step * NUM_EVALUATIONS // num_steps > (step - 1) * NUM_EVALUATIONS // num_steps:
            orders = ("normal", *FRAME_ORDERS) if step == num_steps else ("normal",)
            scores = {order: evaluate(model, tokenizer, test, order) for order in orders}
            curve.append({"step": step, "seconds": seconds, "loss": loss.item(), **scores})
    return curve


def now(device: str) -> float:
    """Seconds of a GPU, or of the one core that a run takes: other runs beside it do not count."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


# ---- Evaluation


@torch.no_grad()
def evaluate(model: SViTTForVideoTextRetrieval, tokenizer: BertTokenizer, clips: Clips, order: str) -> dict[str, float]:
    """Recall from text to video, and order accuracy, in percent."""
    model.eval()
    num_frames, rows = model.config.vision_config.num_frames, torch.arange(len(clips.captions))
    generator = torch.Generator().manual_seed(0)
    frames = clips.sample(rows, num_frames, 0.5)
    if order != "normal":
        frames = torch.stack([reorder_frames(clip, order, generator) for clip in frames])
    texts = tokenizer(clips.captions, padding=True, return_tensors="pt").to(model.device)
    videos = torch.cat([model.get_video_features(part.to(model.device)).pooler_output for part in frames.split(50)])
    similarity = model.similarity(videos, model.get_text_features(**texts).pooler_output).cpu()
    own, twin = similarity[rows, rows], similarity[rows, rows ^ 1]
    rank = (similarity > own).sum(dim=0)  # of the right video, for each text
    scores = {"r1": rank < 1, "r5": rank < 5, "order": own > twin}
    return {name: 100 * right.float().mean().item() for name, right in scores.items()}


def costs(model: SViTTForVideoTextRetrieval) -> dict[str, float]:
    """Of the video encoder, for one clip: FLOPs of a forward pass, and bytes kept for the backward pass in training."""
    vision = model.config.vision_config
    clip = torch.zeros(1, vision.num_frames, 3, vision.image_size, vision.image_size, device=model.device)
    # torch counts nothing for the fused attention of CPUs, hence the backend made of matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval().get_video_features(clip)
    kept = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = model.train().get_video_features(clip).pooler_output  # noqa: F841 (alive, so that no storage is reused)
    return {"flops": counter.get_total_flops(), "bytes": sum(kept.values())}


# ---- Reports


def summarise(rows: list[dict]) -> list[dict[str, str]]:
    """A line for each length, start and sparsity, of means ± standard deviations over seeds."""
    found = defaultdict(list)
    for row in rows:
        found[row["frames"], row["start"], row["sparsity"]].append(figures(row, rows))
    return [
        {"frames": str(frames), "from": start, "sparsity": sparsity}
        | {name: spread([values[name] for values in seeds]) for name in seeds[0]}
        for (frames, start, sparsity), seeds in sorted(
            found.items(), key=lambda item: (item[0][0], item[0][1] == "4 frames")
        )
    ]


def figures(row: dict, rows: list[dict]) -> dict[str, float | None]:
    """What a run came to: at its end, and when the fastest run of as many frames and the same seed had ended."""
    end = row["curve"][-1]
    rivals = [other for other in rows if (other["frames"], other["seed"]) == (row["frames"], row["seed"])]
    time_limit = min(rival["curve"][-1]["seconds"] for rival in rivals)
    in_time = [point["normal"] for point in row["curve"] if point["seconds"] <= time_limit]
    return {
        "MFLOP": row["flops"] / 1e6,
        "MiB": row["bytes"] / 2**20,
        "seconds": end["seconds"],
        "R@1": end["normal"]["r1"],
        "order": end["normal"]["order"],
        "R@1 in time": in_time[-1]["r1"] if in_time else None,
        "order in time": in_time[-1]["order"] if in_time else None,
        **{name: end[order]["order"] for order, name in FRAME_ORDERS.items()},
    }


def spread(values: list[float | None]) -> str:
    """Mean ± standard deviation; nothing where a run had no figure."""
    if None in values:
        return ""
    deviation = statistics.stdev(values) if len(values) > 1 else 0
    return f"{statistics.mean(values):.1f}" + (f" ± {deviation:.1f}" if deviation >= 0.05 else "")


def as_markdown(lines: list[dict[str, str]]) -> str:
    rule = ["--:" if i > 2 else "---" for i in range(len(lines[0]))]
    return (
        "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *(line.values() for line in lines))) + "\n"
    )


def plot(rows: list[dict], path: Path):
    """Order accuracy over time, means over seeds within the range of all: a panel for each length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = dict(zip(KEEP_RATES, figure.subplots(1, 2, sharey=True), strict=True))
    runs = defaultdict(list)
    for row in rows:
        runs[row["frames"], row["start"], row["sparsity"]].append(row["curve"])
    for (frames, start, sparsity), curves in runs.items():
        points = list(zip(*curves, strict=True))
        seconds = [statistics.mean(at["seconds"] for at in point) for point in points]
        orders = [[at["normal"]["order"] for at in point] for point in points]
        style = {"color": f"C{list(SPARSITIES).index(sparsity)}", "linestyle": "-" if start == "scratch" else "--"}
        label = sparsity if start == "scratch" else f"{sparsity}, from 4 frames"
        panels[frames].plot(seconds, list(map(statistics.mean, orders)), label=label, **style)
        panels[frames].fill_between(
            seconds, list(map(min, orders)), list(map(max, orders)), color=style["color"], alpha=0.1
        )
    for frames, panel in panels.items():
        panel.set(title=f"{frames} frames", xlabel="seconds of training", ylim=(45, 101))
        panel.grid(alpha=0.3)
    panels[4].set_ylabel("order accuracy, %")
    figure.legend(*panels[8].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=150)


def check_plotting():
    """An `InputError` where the plot could not be drawn: before the runs, not after them."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("matplotlib: is not installed; pip install matplotlib, or run `make` to have it.")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write runs.jsonl, table.md and curves.png")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--sparsities", nargs="+", choices=SPARSITIES, default=list(SPARSITIES))
    parser.add_argument("--steps", type=int, help="of a run from scratch (default: 500; --full: 6000)")
    parser.add_argument(
        "--processes", type=int, default=2, help="runs at a time, of a thread each (default: %(default)s)"
    )
    parser.add_argument("--full", action="store_true", help="larger clips and models, on a GPU; one run at a time")
    return parser.parse_args()


def main():
    args = parse_args()
    with exit_on_bad_input():
        check_plotting()
    scale = FULL if args.full else SMALL
    scale = replace(scale, num_steps=args.steps or scale.num_steps)
    args.folder.mkdir(parents=True, exist_ok=True)
    log = args.folder / "runs.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["sparsity"], row["seed"]) for row in rows}
    jobs = [Job(sparsity, seed, scale) for seed in range(args.seeds) for sparsity in args.sparsities]
    jobs = [job for job in jobs if (job.sparsity, job.seed) not in done]
    with ProcessPoolExecutor(1 if args.full else args.processes, multiprocessing.get_context("spawn")) as pool:
        for future in tqdm(as_completed([pool.submit(run, job) for job in jobs]), total=len(jobs), desc="runs"):
            rows += future.result()
            log.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    table = as_markdown(summarise(rows))
    (args.folder / "table.md").write_text(table)
    print(table, end="")
    plot(rows, args.folder / "curves.png")


if __name__ == "__main__":
    main()
