#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Time, FLOPs and memory of the video encoder by number of frames, sparse and dense; and of re-ranking captions.

    python benchmarks/encoder.py --frames 4 8 16 32
    python benchmarks/encoder.py --backward --memory --frames 4 8 16
    python benchmarks/encoder.py --rerank 128

BEiT-base (and BERT-base) with random weights and bias tables, of the published sparsity, on a CPU. What contestants
return is compared before anything is timed. They take turns, and only ratios within one run mean something.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from svitt import SViTTConfig, SViTTForVideoTextRetrieval, SViTTVisionConfig, SViTTVisionModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# How far implementations may lie apart, relative to 1 + the largest value.
TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2}
CONTESTANTS = {  # what differs from the published sparsity, and the attention implementation
    "dense": ({"sparse_random_attn": None, "token_keep_rate": 1.0}, "sdpa"),
    "dense eager": ({"sparse_random_attn": None, "token_keep_rate": 1.0}, "eager"),
    "edges": ({"token_keep_rate": 1.0}, "sdpa"),
    "edges eager": ({"token_keep_rate": 1.0}, "eager"),
    "nodes": ({"sparse_random_attn": None}, "sdpa"),
    "sparse": ({}, "sdpa"),
}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "image_size": 224, "attn_block_size": 56}
TINY = {"hidden_size": 64, "num_hidden_layers": 4, "image_size": 64, "attn_block_size": 8}

Call = Callable[[], torch.Tensor]


# ---- What is measured


def with_settings(args: argparse.Namespace, **settings) -> argparse.Namespace:
    return argparse.Namespace(**vars(args) | settings)


def vision_settings(args: argparse.Namespace, num_frames: int) -> dict:
    """Return settings of `SViTTVisionConfig` for a width of 64 a head, sparse as published."""
    heads, wide = args.hidden_size // 64, 4 * args.hidden_size
    settings = {"num_frames": num_frames, "num_attention_heads": heads, "intermediate_size": wide}
    settings |= {"token_keep_rate": 0.7 if num_frames <= 4 else 0.6}
    return settings | {name: getattr(args, name) for name in BASE}


def make_encoder(args: argparse.Namespace, name: str, num_frames: int, device: str) -> SViTTVisionModel:
    """Return a model on `device`; all contestants of one length have the same weights."""
    sparsity, implementation = CONTESTANTS[name]
    config = SViTTVisionConfig(**vision_settings(args, num_frames) | sparsity)
    return make_model(args, SViTTVisionModel, config, device, implementation)


def make_whole(args: argparse.Namespace, model_class: type, num_frames: int, device: str, **settings):
    """Return a model with a BERT of the encoder's size, whose last quarter of layers fuses; settings are of both."""
    vision = vision_settings(args, num_frames) | settings
    same = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", *settings)
    text = {name: vision[name] for name in same} | {"encoder_width": args.hidden_size}
    text["fusion_layer"] = 3 * args.num_hidden_layers // 4
    return make_model(args, model_class, SViTTConfig(vision_config=vision, text_config=text), device)


def make_model(args: argparse.Namespace, model_class: type, config, device: str, implementation: str = "sdpa"):
    torch.manual_seed(0)
    with torch.device(device):
        model = model_class._from_config(config, dtype=DTYPES[args.dtype], attn_implementation=implementation)
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):  # zero at first, which would hide mistakes
            nn.init.normal_(parameter)
    return model


def make_clips(args: argparse.Namespace, batch_size: int, num_frames: int, device: str) -> torch.Tensor:
    torch.manual_seed(1)
    shape = (batch_size, num_frames, 3, args.image_size, args.image_size)
    return torch.randn(shape, device=device, dtype=DTYPES[args.dtype])


def make_texts(number: int, device: str) -> dict[str, torch.Tensor]:
    """Return 6 to 18 words each, padded to 32."""
    lengths = torch.randint(6, 19, (number, 1), device=device)
    ids = torch.randint(1000, 30000, (number, 32), device=device)
    return {"input_ids": ids, "attention_mask": (torch.arange(32, device=device) < lengths).long()}


def make_call(args: argparse.Namespace, name: str, num_frames: int, device: str) -> Call:
    """Return a forward pass, with `--backward` a training pass; it returns pooled features (B, D)."""
    model = make_encoder(args, name, num_frames, device).train(args.backward)
    clips = make_clips(args, args.batch_size, num_frames, device)
    if args.compile and device != "meta":
        model.compile(backend=args.compile, dynamic=False)

    def call() -> torch.Tensor:
        with torch.set_grad_enabled(args.backward):
            pooled = model(clips).pooler_output
        if args.backward:
            pooled.sum().backward()
            model.zero_grad()
        return pooled.detach()

    return call


def make_matching(args: argparse.Namespace) -> dict[str, Call]:
    """Return ways to score `--rerank` captions for a video: each pair by itself, or sharing its keys and values."""
    from svitt.evaluation.retrieval import itm_scores  # brings data sets along, which the encoder needs none of

    model = make_whole(args, SViTTForVideoTextRetrieval, args.frames[0], args.device).eval()
    words = make_texts(args.rerank, args.device)
    mask, clip = words["attention_mask"], make_clips(args, 1, args.frames[0], args.device)
    with torch.no_grad():
        video = model.get_video_features(clip).last_hidden_state
        texts = model.get_text_features(**words).last_hidden_state

    match = partial(model.match, text_hidden_states=texts, attention_mask=mask)
    pairs = torch.ones(1, args.rerank, dtype=torch.bool)
    calls = {
        "naive": lambda: match(video_hidden_states=video.repeat(args.rerank, 1, 1)),
        "match": lambda: match(video_hidden_states=video),
        "itm_scores": lambda: itm_scores(model, [video], texts, mask, pairs, "mean")[0].to(args.device),
    }
    return {name: torch.no_grad()(call) for name, call in calls.items()}


# ---- Measures


def check_equal(calls: dict[str, Call], dtype: str):
    """Exit unless all calls return what the first does."""
    first, *others = calls
    expected = calls[first]().double()
    for name in others:
        difference = (calls[name]().double() - expected).abs().max().item()
        if not difference <= TOLERANCES[dtype] * (1 + expected.abs().max().item()):  # so that NaN fails
            sys.exit(f"{name} returns other values than {first}: off by {difference:.1e}.")


def median_seconds(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Time calls in turn, so that what slows the machine down slows all of them."""
    threads = torch.get_num_threads()
    timers = {name: Timer("call()", globals={"call": call}, num_threads=threads) for name, call in calls.items()}
    turns = [{name: timer.timeit(1).median for name, timer in timers.items()} for _ in range(1 + rounds)]
    return {name: median(turn[name] for turn in turns[1:]) for name in timers}  # after one that warms up


def count_flops(args: argparse.Namespace, name: str, num_frames: int) -> int:
    """Count 2 per multiply-add of the matrix products that are needed, on tensors without data.

    Of `eager` attention, as the counter does not know all the kernels of the other.
    """
    eager = {"dense": "dense eager", "edges": "edges eager"}.get(name, name)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        call = make_call(args, eager, num_frames, "meta")
        with FlopCounterMode(display=False) as counter:
            call()
    return counter.get_total_flops()


def in_fresh_process(function: Callable, *args):
    """Return `function(*args)`, computed by a new Python, which inherits nothing."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def bytes_of_call(call: Call, device: str) -> int:
    """Return the memory that a call takes beyond what was there before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which `getrusage` cannot
    before = _bytes_in_status("VmRSS")
    call()
    return _bytes_in_status("VmHWM") - before


def _bytes_in_status(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def peak_bytes(args: argparse.Namespace, name: str, num_frames: int) -> int:
    return bytes_of_call(make_call(args, name, num_frames, "cpu"), "cpu")


# ---- Tables


def encoder_rows(args: argparse.Namespace, num_frames: int) -> list[dict]:
    """Compare contestants with the first of them, of those that fit the memory."""
    base, calls, rows = args.contestants[0], {}, {}
    flops = {name: count_flops(args, name, num_frames) for name in args.contestants}
    for name in args.contestants:
        rows[name] = {"contestant": name, "frames": num_frames, "ms": None, "time ratio": None}
        rows[name] |= {"GFLOP": flops[name] / 1e9, "FLOP ratio": flops[name] / flops[base]}
        try:
            call = make_call(args, name, num_frames, args.device)
            call()  # which may compile it
            if args.memory:
                fresh = partial(in_fresh_process, peak_bytes, args, name, num_frames)
                peak = fresh() if args.device == "cpu" else bytes_of_call(call, args.device)
                rows[name]["peak MiB"] = peak / 2**20
            calls[name] = call
        except torch.OutOfMemoryError:
            rows[name]["note"] = "out of memory"
    seconds = median_seconds(calls, args.rounds)
    for name, value in seconds.items():
        rows[name] |= {"ms": 1e3 * value, "time ratio": value / seconds[base] if base in seconds else None}
    return list(rows.values())


def matching_rows(args: argparse.Namespace) -> list[dict]:
    calls = make_matching(args)
    check_equal(calls, args.dtype)
    seconds = median_seconds(calls, args.rounds)
    return [
        {"contestant": name, "captions": args.rerank, "ms": 1e3 * value, "time ratio": value / seconds["naive"]}
        for name, value in seconds.items()
    ]


def markdown(rows: list[dict]) -> str:
    def cell(value) -> str:
        if not isinstance(value, float):
            return "" if value is None else str(value)
        return f"{value:.1e}" if 0 < value < 0.01 else f"{value:,.{2 if value < 10 else 0}f}"

    lines = [list(rows[0]), ["---"] * len(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def versions() -> dict:
    packages = ("svitt", "torch", "transformers")
    return {name: version(name) for name in packages} | {"threads": torch.get_num_threads()}


def write(path: Path, **parts):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(parts, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=["dense", "edges", "nodes", "sparse"])
    parser.add_argument("--backward", action="store_true", help="forward and backward, in training mode")
    parser.add_argument("--memory", action="store_true", help="peak memory too")
    parser.add_argument("--rerank", type=int, metavar="N", help="score N captions for a video, instead")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=1, help="clips")
    parser.add_argument("--tiny", action="store_true", help="a model of a size that tells nothing, to try this out")
    parser.add_argument("--output", type=Path, help="write the rows here as JSON")
    parser.set_defaults(device="cpu", compile=None)
    args = parser.parse_args()
    args = with_settings(args, **TINY if args.tiny else BASE)

    if args.rerank:
        rows = matching_rows(args)
    else:
        check = with_settings(args, backward=False)
        for pair in (("dense eager", "dense"), ("edges eager", "edges")):
            check_equal({name: make_call(check, name, min(args.frames), args.device) for name in pair}, args.dtype)
        rows = [row for num_frames in args.frames for row in encoder_rows(args, num_frames)]
    environment = versions() | {"dtype": args.dtype}
    if args.output:
        write(args.output, environment=environment, rows=rows)
    print(", ".join(f"{name} {value}" for name, value in environment.items()), markdown(rows), sep="\n\n")


if __name__ == "__main__":
    main()
