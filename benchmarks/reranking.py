#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Re-ranking the candidate texts of videos: pair by pair, and with the texts of a video sharing its keys and values.

    python benchmarks/reranking.py --output benchmark_results/reranking.json

"naive" repeats a video's tokens for each of its candidates, "match" hands them over once, "itm_scores" is what
evaluation calls. All fuse the same pairs; scores are compared first. Random weights, tokens of the size that the sparse
encoder of a clip leaves.
"""

import argparse
import math

import measure
import torch
from encoder import add_model_arguments, make_model
from measure import DTYPES, TOLERANCES, Call
from training_step import make_texts, model_config

from svitt import SViTTConfig, SViTTForVideoTextRetrieval
from svitt.evaluation.retrieval import itm_scores

BASELINE = "naive"


def num_video_tokens(config: SViTTConfig, num_frames: int) -> int:
    """CLS and the patch tokens that are left after all drops."""
    vision = config.vision_config
    num_patches = num_frames * vision.grid_size**2
    for _ in vision.token_drop_loc:
        num_patches = math.ceil(vision.token_keep_rate * num_patches)
    return 1 + num_patches


@torch.no_grad()
def make_inputs(args: argparse.Namespace, model: SViTTForVideoTextRetrieval) -> dict[str, torch.Tensor]:
    """Tokens (V, N, D) of videos; states (T, L, D) and mask (T, L) of all videos' T candidates."""
    torch.manual_seed(1)
    num_texts = args.videos * args.candidates
    ids = make_texts(args, num_texts, args.device)
    fewest, most = args.words
    lengths = torch.randint(fewest, most + 1, (num_texts, 1), device=args.device)
    mask = (torch.arange(args.text_length, device=args.device) < lengths).long()
    shape = (args.videos, num_video_tokens(model.config, args.frames), args.hidden_size)
    return {
        "videos": torch.randn(shape, device=args.device, dtype=DTYPES[args.dtype]),
        "texts": model.get_text_features(ids, mask).last_hidden_state,
        "mask": mask,
    }


def make_contestants(args: argparse.Namespace) -> dict[str, Call]:
    """Calls that return scores (V, candidates)."""
    model = make_model(
        SViTTForVideoTextRetrieval, model_config(args, {}, {}), args.device, args.dtype, args.attn_implementation
    ).eval()
    inputs = make_inputs(args, model)
    texts, mask = (inputs[name].unflatten(0, (args.videos, -1)) for name in ("texts", "mask"))
    text = torch.arange(args.videos * args.candidates)
    pairs = text // args.candidates == torch.arange(args.videos)[:, None]

    def naive() -> torch.Tensor:
        repeated = (tokens.repeat(args.candidates, 1, 1) for tokens in inputs["videos"])
        return match_each(repeated)

    def match_shared() -> torch.Tensor:
        return match_each(inputs["videos"][:, None])

    @torch.inference_mode()
    def match_each(videos) -> torch.Tensor:
        scores = [
            model.match(video_hidden_states=tokens, text_hidden_states=states, attention_mask=is_word)
            for tokens, states, is_word in zip(videos, texts, mask, strict=True)
        ]
        return torch.stack(scores).cpu()

    @torch.inference_mode()
    def score_all() -> torch.Tensor:
        scores = itm_scores(model, inputs["videos"][:, None], inputs["texts"], inputs["mask"], pairs, "mean")
        return scores[pairs].view(args.videos, -1)

    return {BASELINE: naive, "match": match_shared, "itm_scores": score_all}


def main():
    parser = measure.make_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--frames", type=int, default=4, help="of the clips that the tokens come from")
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=128, help="texts of each video")
    parser.add_argument("--text_length", type=int, default=32, help="words that texts are padded to, [CLS] included")
    parser.add_argument("--words", type=int, nargs=2, default=(6, 18), help="of texts: the fewest and the most")
    args = parser.parse_args()
    if not 0 < args.words[0] <= args.words[1] <= args.text_length:
        parser.error(f"--words {args.words[0]} {args.words[1]} must rise, from 1 to --text_length {args.text_length}.")

    contestants = make_contestants(args)
    measure.check_equal({name: call() for name, call in contestants.items()}, TOLERANCES[args.dtype])
    seconds = measure.median_seconds(contestants, args.rounds, args.device)
    rows = [
        {
            "contestant": name,
            "frames": args.frames,
            "candidates": args.candidates,
            "words": "{} to {}".format(*args.words),
            "per_video_seconds": seconds[name] / args.videos,
            "time_ratio": seconds[name] / seconds[BASELINE],
        }
        for name in contestants
    ]
    measure.report(args, rows)


if __name__ == "__main__":
    main()
