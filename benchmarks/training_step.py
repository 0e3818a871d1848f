#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""A whole training step, sparse and dense: forward, backward and AdamW, and its share of what the device can do.

    python benchmarks/training_step.py --batch_size 2 --frames 4
    python benchmarks/training_step.py --device cuda --dtype bfloat16 --batch_size 32 --frames 8 \
        --gradient_checkpointing --task pretraining

BEiT-base and BERT-base with random weights in float32; `--dtype bfloat16` is autocast. The share is of the FLOPs that
a step needs, without what checkpointing computes again.
"""

import argparse
import math
import sys

import measure
import torch
from encoder import DENSE, add_model_arguments, make_model, vision_settings
from measure import DTYPES, Call

from svitt import SViTTConfig, SViTTForPreTraining, SViTTForVideoTextRetrieval

MODELS = {"retrieval": SViTTForVideoTextRetrieval, "pretraining": SViTTForPreTraining}
# name -> what differs from the published settings of the video and of the text encoder
CONTESTANTS = {"dense": (DENSE, {"token_keep_rate": 1.0}), "sparse": ({}, {})}


def model_config(args: argparse.Namespace, vision_overrides: dict, text_overrides: dict) -> SViTTConfig:
    """Text like video, cross-attention in the last quarter of its layers, as published."""
    vision = vision_settings(args, args.frames)
    text = {name: vision[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    text |= {"intermediate_size": vision["intermediate_size"], "encoder_width": args.hidden_size}
    text |= {"fusion_layer": 3 * args.num_hidden_layers // 4}
    return SViTTConfig(vision_config=vision | vision_overrides, text_config=text | text_overrides)


def make_texts(args: argparse.Namespace, num_texts: int, device: str) -> torch.Tensor:
    """Ids (B, text_length) of words, `[CLS]` first."""
    ids = torch.randint(1000, 30000, (num_texts, args.text_length), device=device)
    ids[:, 0] = 101
    return ids


def make_step(args: argparse.Namespace, name: str, device: str, only_counts: bool = False) -> Call:
    """A step that returns its loss; where FLOPs are counted, without what changes how it runs but not what it needs."""
    config = model_config(args, *CONTESTANTS[name])
    implementation = "eager" if only_counts else args.attn_implementation if name == "sparse" else "sdpa"
    model = make_model(MODELS[args.task], config, device, "float32", implementation).train()
    if args.gradient_checkpointing and not only_counts:
        model.activation_checkpointing_enable()
    if args.compile and not only_counts:
        model.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device == "cuda")
    if not only_counts:
        make_state(optimizer, model)
    clips = torch.randn(args.batch_size, args.frames, 3, args.image_size, args.image_size, device=device)
    inputs = {"pixel_values": clips, "input_ids": make_texts(args, args.batch_size, device)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])

    def step() -> torch.Tensor:
        with torch.autocast(device, DTYPES[args.dtype], enabled=args.dtype != "float32"):
            loss = model(**inputs).loss
        loss.backward()
        if not only_counts:
            optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def make_state(optimizer: torch.optim.Optimizer, model: torch.nn.Module):
    """An optimizer makes its state in its first step, which would count as memory that the step measured takes."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def check_loss(steps: dict[str, Call]):
    """Sparse and dense models are different models: all that can be asked is that each has a loss."""
    for name, step in steps.items():
        if not math.isfinite(loss := step().item()):
            sys.exit(f"The loss of the {name} model is {loss}.")


def compete(args: argparse.Namespace) -> list[dict]:
    """One row per contestant."""
    num_tokens = args.batch_size * (1 + args.frames * (args.image_size // 16) ** 2)
    matmul, matmul_flops = measure.matmul_ceiling(num_tokens, args.hidden_size, args.device, DTYPES[args.dtype])
    steps = {name: make_step(args, name, args.device) for name in CONTESTANTS}
    check_loss(steps)
    seconds = measure.median_seconds({"matmul": matmul, **steps}, args.rounds, args.device)
    ceiling = args.peak_tflops * 1e12 if args.peak_tflops else matmul_flops / seconds["matmul"]
    rows = []
    for name in CONTESTANTS:
        flops = measure.count_flops(make_step, args, name, "cpu", True)
        row = {
            "contestant": name,
            "clips": f"{args.batch_size} x {args.frames}",
            "seconds": seconds[name],
            "time_ratio": seconds[name] / seconds["dense"],
            "flops": flops,
            "mfu_share": flops / seconds[name] / ceiling,
        }
        if args.memory:
            row["peak_bytes"] = measure.peak_memory(make_step, args, name, args.device, device=args.device)
        rows.append(row)
    return rows


def main():
    parser = measure.make_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--text_length", type=int, default=32)
    parser.add_argument("--task", choices=MODELS, default="retrieval")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--memory", action="store_true", help="peak memory too, beyond weights and optimizer state")
    parser.add_argument(
        "--peak_tflops", type=float, help="of the device's data sheet, to take the share of; measured if not given"
    )
    args = parser.parse_args()
    measure.report(args, compete(args))


if __name__ == "__main__":
    main()
