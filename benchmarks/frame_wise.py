#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What dropping tokens saves in a model of the shape of BLIP, and what it changes in the order of real clips.

    python benchmarks/frame_wise.py --videos demo/videos
    python benchmarks/frame_wise.py --videos demo/videos --vision beit_small_dinov2 --text bert

Frames are encoded one by one, and their tokens joined. Time and memory are of one clip: the encoder's, and those of
matching captions with it. Agreement is of the clips nearest to each clip, and of the captions that match it best, with
those of the first rates, which drop nothing by default. Weights are random unless towers are named.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from encoder import bytes_of_call, in_fresh_process, markdown, median_seconds

from svitt import SViTTConfig, SViTTForPreTraining, SViTTVideoProcessor
from svitt.conversion.towers import init_from_towers

BLIP = {
    "vision_config": {
        "frame_wise": True,
        "image_size": 384,
        "layer_norm_eps": 1e-5,
        "use_absolute_position_embeddings": True,
        "use_relative_position_bias": False,
        "use_mean_pooling": False,
        "layer_scale_init_value": 1.0,
    },
    "text_config": {"vocab_size": 30524, "fusion_layer": 0, "text_layers": 12, "fusion_token_id": 30523},
    "vision_layernorm": False,
}


def make_model(args: argparse.Namespace, token_keep_rate: float, fusion_keep_rate: float) -> SViTTForPreTraining:
    vision = {"num_frames": args.frames, "sparse_random_attn": None, "token_keep_rate": token_keep_rate}
    text = {"token_keep_rate": fusion_keep_rate}
    torch.manual_seed(0)
    if args.vision:
        vision["frame_wise"] = True
        return init_from_towers(args.vision, args.text, args.frames, vision_config=vision, text_config=text).eval()
    parts = {"vision_config": BLIP["vision_config"] | vision, "text_config": BLIP["text_config"] | text}
    return SViTTForPreTraining(SViTTConfig(**BLIP | parts)).eval()


def read_clips(args: argparse.Namespace, model: SViTTForPreTraining) -> torch.Tensor:
    side = model.config.vision_config.image_size
    processor = SViTTVideoProcessor(num_frames=args.frames, size={"height": side, "width": side})
    files = sorted(args.videos.rglob("*.mp4"))[: args.clips]
    return processor.to_pixel_values(torch.stack([processor.read_clip(str(path)) for path in files]))


def captions(args: argparse.Namespace, model: SViTTForPreTraining) -> torch.Tensor:
    vocab_size, generator = model.config.text_config.vocab_size, torch.Generator().manual_seed(0)
    return torch.randint(vocab_size // 2, vocab_size, (args.captions, 12), generator=generator)


def agreement(scores: torch.Tensor, expected: torch.Tensor) -> str:
    """Return how often the first is the same, and the share of the first ten that are."""
    k = min(10, scores.shape[1])
    ours, theirs = (one.topk(k, dim=1).indices for one in (scores, expected))
    overlap = (ours[:, :, None] == theirs[:, None]).any(dim=2).float().mean()
    return f"{(ours[:, 0] == theirs[:, 0]).float().mean():.0%} / {overlap:.0%}"


def encode(args: argparse.Namespace, rate: float):
    """Return a call that encodes a clip."""
    model = make_model(args, rate, 1.0)
    side = model.config.vision_config.image_size
    clip = torch.randn(1, args.frames, 3, side, side)
    return torch.no_grad()(lambda: model.get_video_features(clip))


def peak_mib(args: argparse.Namespace, rate: float) -> float:
    return bytes_of_call(encode(args, rate), "cpu") / 2**20


@torch.no_grad()
def rows_of(args: argparse.Namespace) -> list[dict]:
    rows, expected = [], None
    for rate in args.token_keep_rates:
        model = make_model(args, rate, 1.0)
        features = [model.get_video_features(clip[None]) for clip in read_clips(args, model)]
        embeds = model.video_embeds(torch.cat([one.pooler_output for one in features]))
        similar = (embeds @ embeds.t()).fill_diagonal_(-1)
        encoding = {
            "encode ms": 1e3 * median_seconds({"encode": encode(args, rate)}, args.rounds)["encode"],
            "encode MiB": in_fresh_process(peak_mib, args, rate),
        }
        for fusion_rate in args.fusion_keep_rates:
            model = make_model(args, rate, fusion_rate)
            matching = partial(model.match, input_ids=captions(args, model))
            matches = torch.stack([matching(video_hidden_states=one.last_hidden_state) for one in features])
            call = torch.no_grad()(partial(matching, video_hidden_states=features[0].last_hidden_state))
            expected = expected or (similar, matches)
            row = {"keep": rate, "fusion keep": fusion_rate} | encoding
            row["match ms"] = 1e3 * median_seconds({"match": call}, args.rounds)["match"]
            nearest, best = (agreement(*pair) for pair in zip((similar, matches), expected, strict=True))
            rows.append(row | {"nearest clips": nearest, "best captions": best})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True, help="folder of mp4 files")
    parser.add_argument("--vision", help="folder of a BEiT, instead of random weights")
    parser.add_argument("--text", help="folder of a BERT")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--captions", type=int, default=20)
    parser.add_argument("--token_keep_rates", type=float, nargs="+", default=[1.0, 0.7, 0.5])
    parser.add_argument("--fusion_keep_rates", type=float, nargs="+", default=[1.0, 0.5, 0.1])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    rows = rows_of(args)
    print(f"torch {torch.__version__}, threads {torch.get_num_threads()}", markdown(rows), sep="\n\n")


if __name__ == "__main__":
    main()
