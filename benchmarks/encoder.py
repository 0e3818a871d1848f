#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The whole video encoder, sparse and dense, and BEiT frame by frame: time and FLOPs over clip length.

    python benchmarks/encoder.py --output benchmark_results/encoder.json
    python benchmarks/encoder.py --backward --frames 4 8 16
    python benchmarks/encoder.py --device cuda --dtype bfloat16 --batch_size 8

BEiT-base with random weights and bias tables, of the published sparsity: blocks of 56 tokens, each seeing itself and 3
others, and after layers 3, 6 and 9 (from 0) a share of 0.7 (4 frames) or 0.6 (more) of the tokens. Pooled features of
different implementations are compared before anything is timed.
"""

import argparse
from functools import partial

import measure
import torch
from measure import DTYPES, TOLERANCES, Call
from torch import nn
from tqdm import tqdm
from transformers import BeitConfig, BeitModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from svitt import SViTTVisionConfig, SViTTVisionModel

DENSE = {"sparse_random_attn": None, "token_keep_rate": 1.0}
SPARSITIES = {
    "dense": DENSE,
    "edges": {"token_keep_rate": 1.0},
    "nodes": {"sparse_random_attn": None},
    "sparse": {},  # both
    "dense, no bias": {**DENSE, "use_relative_position_bias": False},  # attention without what makes it slow
}
BASELINE = "dense"
CONTESTANTS = ("dense", "dense eager", "edges", "nodes", "sparse", "frame by frame", "dense, no bias")
# Time of "sparse" over that of "dense" by number of frames, for one clip of the published size on a CPU in float32.
FORWARD_TARGETS = {4: 0.64, 8: 0.44, 16: 0.35, 32: 0.26}
BACKWARD_TARGETS = {4: 0.53, 8: 0.43, 16: 0.34}


# ---- Models


def add_layer_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--batch_size", type=int, default=1, help="clips")
    parser.add_argument("--hidden_size", type=int, default=768, help="64 for each head")
    parser.add_argument("--image_size", type=int, default=224, help="pixels; patches have 16")
    parser.add_argument("--attn_block_size", type=int, default=56, help="tokens")


def add_model_arguments(parser: argparse.ArgumentParser):
    add_layer_arguments(parser)
    parser.add_argument("--num_hidden_layers", type=int, default=12)
    parser.add_argument("--attn_implementation", default="sdpa", help="of the sparse contestants")


def vision_settings(args: argparse.Namespace, num_frames: int) -> dict:
    """Settings of `SViTTVisionConfig`, sparse as published."""
    return {
        "num_frames": num_frames,
        "max_num_frames": max(256, num_frames),
        "image_size": args.image_size,
        "hidden_size": args.hidden_size,
        "num_hidden_layers": args.num_hidden_layers,
        "num_attention_heads": args.hidden_size // 64,
        "intermediate_size": 4 * args.hidden_size,
        "attn_block_size": args.attn_block_size,
        "token_keep_rate": 0.7 if num_frames <= 4 else 0.6,
    }


def make_model(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, device: str, dtype: str, implementation: str
):
    """The same weights for all models of the same parameters; made in place, as models without data cannot be moved."""
    torch.manual_seed(0)
    with torch.device(device):
        return model_class._from_config(config, dtype=DTYPES[dtype], attn_implementation=implementation)


def make_encoder(
    args: argparse.Namespace, num_frames: int, sparsity: str, implementation: str, device: str
) -> SViTTVisionModel:
    config = SViTTVisionConfig(**{**vision_settings(args, num_frames), **SPARSITIES[sparsity]})
    model = make_model(SViTTVisionModel, config, device, args.dtype, implementation)
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):  # zero from the start, which would hide mistakes
            nn.init.normal_(parameter)
    return model


def make_beit(args: argparse.Namespace, device: str) -> BeitModel:
    vision = vision_settings(args, num_frames=1)
    names = ("image_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = BeitConfig(**{name: vision[name] for name in names}, use_relative_position_bias=True)
    return make_model(BeitModel, config, device, args.dtype, "sdpa")


class FrameByFrame(nn.Module):
    """What there is without SViTT: an image model on each frame, and the mean of its pooled outputs."""

    def __init__(self, image_model: BeitModel):
        super().__init__()
        self.image_model = image_model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, T, 3, height, width) -> (B, D)"""
        pooled = self.image_model(pixel_values.flatten(0, 1)).pooler_output
        return pooled.unflatten(0, pixel_values.shape[:2]).mean(dim=1)


def make_call(
    args: argparse.Namespace,
    name: str,
    num_frames: int,
    backward: bool,
    device: str,
    gradient_checkpointing: bool = False,
) -> Call:
    """A contestant on clips (B, T, 3, height, width); the call returns pooled features (B, D)."""
    if name == "frame by frame":
        model = FrameByFrame(make_beit(args, device))
    else:
        is_eager = name.endswith(" eager")
        implementation = "eager" if is_eager else "sdpa" if name.startswith("dense") else args.attn_implementation
        model = make_encoder(args, num_frames, name.removesuffix(" eager"), implementation, device)
    model.train(backward)
    if gradient_checkpointing:
        model.activation_checkpointing_enable()
    clips = make_clips(args, num_frames, device)
    gradient = torch.randn(args.batch_size, args.hidden_size, device=device, dtype=DTYPES[args.dtype])

    def forward_pass() -> torch.Tensor:
        with torch.no_grad():
            return pooled_features(model(clips))

    def training_pass() -> torch.Tensor:
        pooled = pooled_features(model(clips))
        pooled.backward(gradient)
        model.zero_grad()
        return pooled.detach()

    return training_pass if backward else forward_pass


def make_clips(args: argparse.Namespace, num_frames: int, device: str) -> torch.Tensor:
    torch.manual_seed(1)
    shape = (args.batch_size, num_frames, 3, args.image_size, args.image_size)
    return torch.randn(shape, device=device, dtype=DTYPES[args.dtype])


def pooled_features(outputs) -> torch.Tensor:
    return outputs if torch.is_tensor(outputs) else outputs.pooler_output


# ---- Comparison


def compare(args: argparse.Namespace, num_frames: int):
    """Exit unless implementations agree, and BEiT is our dense encoder of one frame."""
    tolerance = TOLERANCES[args.dtype]
    features = partial(make_call, args, num_frames=num_frames, backward=False, device=args.device)
    measure.check_equal({name: features(name)() for name in ("dense eager", "dense")}, tolerance)
    measure.check_equal({name: features(name)() for name in ("edges eager", "edges")}, tolerance)

    ours = make_encoder(args, 1, "dense", "sdpa", args.device).eval()
    beit = make_beit(args, args.device)
    beit = BeitModel.from_pretrained(None, config=beit.config, state_dict=ours.state_dict(), dtype=beit.dtype)
    frames = make_clips(args, num_frames, args.device)
    with torch.no_grad():
        per_frame = ours(frames.flatten(0, 1)).pooler_output.unflatten(0, frames.shape[:2])
        outputs = {"BEiT": FrameByFrame(beit.to(frames).eval())(frames), "ours, frame by frame": per_frame.mean(dim=1)}
    measure.check_equal(outputs, tolerance)


# ---- Measurement


def is_published_size(args: argparse.Namespace) -> bool:
    size = (args.batch_size, args.hidden_size, args.num_hidden_layers, args.image_size, args.attn_block_size)
    return size == (1, 768, 12, 224, 56) and args.device == "cpu" and args.dtype == "float32"


def needed_flops(args: argparse.Namespace, name: str, num_frames: int) -> int:
    """By the definition, `eager`: other implementations may pad, or be kernels that the counter does not know."""
    by_definition = argparse.Namespace(**{**vars(args), "attn_implementation": "eager"})
    return measure.count_flops(make_call, by_definition, name, num_frames, args.backward, "cpu")


def compete(args: argparse.Namespace, num_frames: int) -> list[dict]:
    """One row per contestant."""
    num_tokens = args.batch_size * (1 + num_frames * (args.image_size // 16) ** 2)
    matmul, matmul_flops = measure.matmul_ceiling(num_tokens, args.hidden_size, args.device, DTYPES[args.dtype])
    contestants = {
        name: make_call(args, name, num_frames, args.backward, args.device) for name in (BASELINE, *args.contestants)
    }
    seconds = measure.median_seconds({"matmul": matmul, **contestants}, args.rounds, args.device)
    flops = {name: needed_flops(args, name, num_frames) for name in contestants}
    ceiling = matmul_flops / seconds["matmul"]
    targets = (BACKWARD_TARGETS if args.backward else FORWARD_TARGETS) if is_published_size(args) else {}
    rows = []
    for name in contestants:
        row = {
            "contestant": name,
            "frames": num_frames,
            "seconds": seconds[name],
            "time_ratio": seconds[name] / seconds[BASELINE],
            "target": targets.get(num_frames) if name == "sparse" else None,
            "flops": flops[name],
            "flop_ratio": flops[name] / flops[BASELINE],
            "ceiling_share": flops[name] / seconds[name] / ceiling,
        }
        if args.memory:
            row["peak_bytes"] = measure.peak_memory(
                make_call, args, name, num_frames, args.backward, args.device, device=args.device
            )
        rows.append(row)
    return rows


def main():
    parser = measure.make_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--backward", action="store_true", help="forward and backward, in training mode")
    parser.add_argument("--memory", action="store_true", help="peak memory too; on a CPU in one more process each")
    args = parser.parse_args()

    logging.disable_progress_bar()
    compare(args, min(args.frames))
    rows = []
    for num_frames in tqdm(args.frames, desc="lengths", disable=None):
        rows += compete(args, num_frames)
        measure.write(args, rows)
    measure.report(args, rows)


if __name__ == "__main__":
    main()
