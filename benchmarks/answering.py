#!/usr/bin/env python
# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Ranking answers to a question about several clips: as a whole and repeated, and in chunks with what they share.

    python benchmarks/answering.py --memory --output benchmark_results/answering.json

"naive" does what the original does: it repeats the states of the question for each answer of the shortlist, and
decodes all words of all of them at once, padding included. "rank_answers" is what evaluation calls. Both rank the same
list; probabilities are compared first. Random weights, tokens of the size that the sparse encoder leaves.
"""

import argparse

import measure
import torch
from encoder import add_model_arguments, make_model
from measure import DTYPES, TOLERANCES, Call
from reranking import num_video_tokens
from training_step import make_texts, model_config

from svitt import SViTTConfig, SViTTForVideoQuestionAnswering
from svitt.modeling_svitt import answer_nll, pool_clips

CONTESTANTS = ("naive", "rank_answers")


def make_inputs(args: argparse.Namespace, config: SViTTConfig, device: str) -> dict[str, torch.Tensor]:
    """Tokens (B, C, N, D) of the clips, questions (B, L), and answers `[CLS] words [SEP]` (A, 5) with their mask."""
    torch.manual_seed(1)
    shape = (args.questions, args.clips, num_video_tokens(config, args.frames), args.hidden_size)
    fewest, most = args.words
    num_words = torch.randint(fewest, most + 1, (args.answers, 1), device=device)
    place = torch.arange(2 + most, device=device)
    answer_ids = torch.randint(1000, 30000, (args.answers, 2 + most), device=device).where(place > 0, 101)
    answer_ids = answer_ids.where(place != 1 + num_words, 102).where(place <= 1 + num_words, 0)
    return {
        "video_hidden_states": torch.randn(shape, device=device, dtype=DTYPES[args.dtype]),
        "input_ids": make_texts(args, args.questions, device),
        "answer_ids": answer_ids,
        "answer_mask": (place <= 1 + num_words).long(),
    }


def rank_naively(
    model: SViTTForVideoQuestionAnswering, k: int, *, video_hidden_states, input_ids, answer_ids, answer_mask
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranked answers (B, k) and their probabilities, as `model.rank_answers`."""
    num_clips = video_hidden_states.shape[1]
    question_ids = input_ids.repeat_interleave(num_clips, dim=0)
    question = model.encode_question(None, question_ids, None, video_hidden_states.flatten(0, 1))
    first_logits = model.text_decoder(
        answer_ids[:1, :1].expand(len(question), 1), encoder_hidden_states=question
    ).logits
    probs = first_logits[:, 0].float().softmax(dim=-1).unflatten(0, (-1, num_clips))
    probs = pool_clips(probs, "lse").softmax(dim=-1)
    probs, shortlist = probs[:, answer_ids[:, 1]].topk(k, dim=1)
    answers = shortlist.repeat_interleave(num_clips, dim=0).flatten()
    logits = model.text_decoder(
        answer_ids[answers], answer_mask[answers], encoder_hidden_states=question.repeat_interleave(k, dim=0)
    ).logits
    nll = answer_nll(logits, answer_ids[answers], answer_mask[answers]).view(-1, num_clips, k)
    probs, order = pool_clips(probs.log()[:, None] - nll, "lse").softmax(dim=-1).sort(dim=1, descending=True)
    return shortlist.gather(1, order), probs


def make_call(args: argparse.Namespace, name: str, device: str) -> Call:
    """Returns probabilities (B, A), zero outside the shortlists."""
    config = model_config(args, {}, {})
    model = make_model(SViTTForVideoQuestionAnswering, config, device, args.dtype, args.attn_implementation).eval()
    inputs = make_inputs(args, config, device)

    @torch.inference_mode()
    def call() -> torch.Tensor:
        if name == "naive":
            ranked, probs = rank_naively(model, args.k, **inputs)
        else:
            ranked, probs = model.rank_answers(
                None, attention_mask=None, k=args.k, chunk_size=args.chunk_size, **inputs
            )
        return probs.new_zeros(args.questions, args.answers).scatter(1, ranked, probs).cpu()

    return call


def main():
    parser = measure.make_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--frames", type=int, default=8, help="of a clip")
    parser.add_argument("--clips", type=int, default=3, help="of a video")
    parser.add_argument("--questions", type=int, default=1, help="ranked at once, each about a video of its own")
    parser.add_argument("--text_length", type=int, default=12, help="tokens of a question")
    parser.add_argument("--answers", type=int, default=1500, help="length of the list")
    parser.add_argument("--k", type=int, default=128, help="length of the shortlist")
    parser.add_argument("--words", type=int, nargs=2, default=(1, 3), help="of answers: the fewest and the most tokens")
    parser.add_argument("--chunk_size", type=int, default=256, help="of rank_answers")
    parser.add_argument("--memory", action="store_true", help="peak memory besides")
    args = parser.parse_args()
    if not 0 < args.words[0] <= args.words[1]:
        parser.error(f"--words {args.words[0]} {args.words[1]} must rise, from 1.")

    calls = {name: make_call(args, name, args.device) for name in CONTESTANTS}
    measure.check_equal({name: call() for name, call in calls.items()}, TOLERANCES[args.dtype])
    seconds = measure.median_seconds(calls, args.rounds, args.device)
    peak = {}
    if args.memory:
        peak = {
            name: measure.peak_memory(make_call, args, name, args.device, device=args.device) for name in CONTESTANTS
        }
    rows = [
        {
            "contestant": name,
            "answers": f"{args.k} of {args.answers}",
            "words": "{} to {}".format(*args.words),
            "clips": args.clips,
            "per_question_seconds": seconds[name] / args.questions,
            "time_ratio": seconds[name] / seconds[CONTESTANTS[0]],
        }
        | ({"peak_bytes": peak[name], "memory_ratio": peak[name] / peak[CONTESTANTS[0]]} if peak else {})
        for name in CONTESTANTS
    ]
    measure.report(args, rows)


if __name__ == "__main__":
    main()
