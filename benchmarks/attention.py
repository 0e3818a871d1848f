#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""One attention module of the video encoder, sparse and dense, in each implementation: time over clip length.

    python benchmarks/attention.py --output benchmark_results/attention.json
    python benchmarks/attention.py --device cuda --dtype bfloat16 --batch_size 8 --frames 8 16 32

Projections, bias lookup, attention and output projection, before any token is dropped; without what the layers of a
model share (which blocks see which, rows of the bias table). Implementations of the same attention are compared before
anything is timed.
"""

import argparse
from collections.abc import Callable

import measure
import torch
from encoder import add_layer_arguments, make_clips, make_encoder
from measure import DTYPES, TOLERANCES, Call
from tqdm import tqdm

CONTESTANTS = {  # name -> sparsity of encoder.py, implementation
    "dense sdpa": ("dense", "sdpa"),
    "dense eager": ("dense", "eager"),
    "sparse eager": ("edges", "eager"),
    "sparse sdpa": ("edges", "sdpa"),
    "sparse flex_attention": ("edges", "flex_attention"),
    "dense sdpa, no bias": ("dense, no bias", "sdpa"),  # the floor of dense attention
}
BASELINE = "dense sdpa"
OPTIONAL = "sparse flex_attention"


def make_attention(args: argparse.Namespace, name: str, num_frames: int, device: str) -> tuple[Callable, torch.Tensor]:
    """The attention of an encoder's first layer, as that calls it: takes (B, 1 + N, D), returns (B, 1 + N, D).

    Also returns what the layer was called with.
    """
    sparsity, implementation = CONTESTANTS[name]
    model = make_encoder(args, num_frames, sparsity, implementation, device).eval()
    layer, calls = model.encoder.layer[0].attention, []
    hook = layer.attention.register_forward_pre_hook(
        lambda _, inputs, kwargs: calls.append((inputs, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        model(make_clips(args, num_frames, device))
    hook.remove()
    (hidden_states, *others), kwargs = calls[0]
    return lambda states: layer.output(layer.attention(states, *others, **kwargs)[0]), hidden_states


def make_call(args: argparse.Namespace, name: str, num_frames: int, backward: bool, device: str) -> Call:
    attention, hidden_states = make_attention(args, name, num_frames, device)
    gradient = torch.randn_like(hidden_states)

    def forward_pass() -> torch.Tensor:
        with torch.no_grad():
            return attention(hidden_states)

    def training_pass():
        states = hidden_states.detach().requires_grad_()
        attention(states).backward(gradient)  # the parameters' gradients add up in place

    return training_pass if backward else forward_pass


def reason_to_skip(args: argparse.Namespace, name: str, num_frames: int, backward: bool) -> str | None:
    """Why a contestant cannot run here, `None` if it can."""
    if args.device == "cpu":
        return "on a CPU it is only a slow reference of its kernels"
    try:
        make_call(args, name, num_frames, backward, args.device)()
    except Exception as error:  # whatever a model without this implementation, or torch on this device, raises
        return str(error).strip().splitlines()[0].split(". ")[0]
    return None


def compare(args: argparse.Namespace, names: list[str], num_frames: int):
    """Exit unless all implementations of the same attention agree."""
    for sparsity in ("dense", "edges"):
        same = [name for name in names if CONTESTANTS[name][0] == sparsity]
        outputs = {name: make_call(args, name, num_frames, False, args.device)() for name in same}
        measure.check_equal(outputs, TOLERANCES[args.dtype])


def compete(args: argparse.Namespace, names: list[str], num_frames: int, backward: bool) -> list[dict]:
    """One row per contestant."""
    num_tokens = args.batch_size * (1 + num_frames * (args.image_size // 16) ** 2)
    matmul, matmul_flops = measure.matmul_ceiling(num_tokens, args.hidden_size, args.device, DTYPES[args.dtype])
    contestants = {name: make_call(args, name, num_frames, backward, args.device) for name in names}
    seconds = measure.median_seconds({"matmul": matmul, **contestants}, args.rounds, args.device)
    rows = []
    for name in names:
        # The others may pad, or be kernels that the counter does not know.
        counted = "sparse eager" if name.startswith("sparse") else name
        flops = measure.count_flops(make_call, args, counted, num_frames, backward, "cpu")
        row = {
            "contestant": name,
            "pass": "forward + backward" if backward else "forward",
            "frames": num_frames,
            "seconds": seconds[name],
            "time_ratio": seconds[name] / seconds[BASELINE],
            "flops": flops,
            "ceiling_share": flops / seconds[name] / (matmul_flops / seconds["matmul"]),
        }
        if args.memory:
            row["peak_bytes"] = measure.peak_memory(
                make_call, args, name, num_frames, backward, args.device, device=args.device
            )
        rows.append(row)
    return rows


def main():
    parser = measure.make_parser(__doc__)
    add_layer_arguments(parser)
    parser.set_defaults(num_hidden_layers=1)
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--memory", action="store_true", help="peak memory too; on a CPU in one more process each")
    args = parser.parse_args()

    rows = []
    for backward in (False, True):
        names = list(CONTESTANTS)
        if reason := reason_to_skip(args, OPTIONAL, min(args.frames), backward):
            print(f"{OPTIONAL} takes no part {'with' if backward else 'without'} backward: {reason}")
            names.remove(OPTIONAL)
        compare(args, names, min(args.frames))
        for num_frames in tqdm(args.frames, desc="lengths", disable=None):
            rows += compete(args, names, num_frames, backward)
            measure.write(args, rows)
    measure.report(args, rows)


if __name__ == "__main__":
    main()
