# Copyright 2026 The SViTT for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
"""Two-stage retrieval: rank all pairs by their embeddings, re-rank the best by fusing them.

V videos of C clips of N tokens, T texts of L words, width D. A process encodes its share of the videos and keeps
their tokens, as these are large; embeddings, texts and scores are gathered. So work is shared and results are the same
for any number of processes.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import comb
from pathlib import Path

import evaluate
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..modeling_svitt import CLIP_ENSEMBLES, pool_clips, split_clips
from .processes import InputError, fail_together, gather_shares, progress_bar, share_of

TOP_K = (1, 5, 10)
METRICS = Path(__file__).parent.parent / "metrics"


@dataclass
class RetrievalArguments:
    """How to evaluate: clips of a video, shortlist, ensemble."""

    _argument_group_name = "evaluation"

    num_frames_test: int | None = field(
        default=None, metadata={"help": "Frames of a video, in clips of --num_frames; defaults to one clip."}
    )
    eval_frame_ensemble: str = field(
        default="lse",
        metadata={
            "choices": list(CLIP_ENSEMBLES),
            "help": "How to combine the clips' matching scores, or `concat`: all frames as one clip.",
        },
    )
    strided_clips: bool = field(
        default=False, metadata={"help": "A clip of C takes every C-th frame, not consecutive ones."}
    )
    k_test: int = field(default=128, metadata={"help": "Length of the shortlists that are re-ranked."})
    eval_x_only: bool = field(default=False, metadata={"help": "Re-rank all pairs: no shortlist."})
    eval_batch_size: int = field(default=32, metadata={"help": "Videos encoded at once by one process."})

    def set_frames(self, num_frames: int):
        """Fill in `num_frames_test`, given the frames of a clip; raise an `InputError` where no whole clips fit."""
        self.num_frames_test = self.num_frames_test or num_frames
        if self.eval_frame_ensemble != "concat" and self.num_frames_test % num_frames:
            raise InputError(
                f"--num_frames_test {self.num_frames_test} must be a multiple of --num_frames, which is {num_frames}."
            )


@dataclass
class RetrievalScores:
    """Scores of all pairs, float32 on the CPU.

    `itc` (V, T): cosines. `video_to_text` (V, T) and `text_to_video` (T, V): matching scores, -inf outside the
    shortlist of the video or of the text.
    """

    itc: torch.Tensor
    video_to_text: torch.Tensor
    text_to_video: torch.Tensor


def encode_videos(
    model: PreTrainedModel, batches: Iterable[dict], num_frames: int, strided_clips: bool = False
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Encode batches of `pixel_values` (B, C * num_frames, channels, height, width), all clips of a batch together.

    Returns:
        For each video, the tokens (C, N, D) of its clips, their normalised embeddings (C, embed_dim) in float32, and
        `is_missing` () from the batch, false if that has none.
    """
    tokens, embeds, is_missing = [], [], []
    for batch in batches:
        pixel_values = batch["pixel_values"]
        clips = split_clips(pixel_values.to(model.device), num_frames, strided_clips)
        features = model.get_video_features(clips)
        tokens += features.last_hidden_state.unflatten(0, (len(pixel_values), -1))
        embeds += F.normalize(features.pooler_output.float(), dim=-1).unflatten(0, (len(pixel_values), -1))
        is_missing += batch.get("is_missing", torch.zeros(len(pixel_values), dtype=torch.bool))
    return tokens, embeds, is_missing


def encode_texts(
    model: PreTrainedModel, batches: Iterable[dict[str, torch.Tensor]]
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Encode batches of `input_ids` and `attention_mask` (B, L), L being the same in all.

    Returns:
        For each text, its states (L, D), its mask (L,), and its normalised embedding (embed_dim,) in float32.
    """
    states, masks, embeds = [], [], []
    for batch in batches:
        input_ids, attention_mask = batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device)
        features = model.get_text_features(input_ids, attention_mask)
        states += features.last_hidden_state
        masks += attention_mask
        embeds += F.normalize(features.pooler_output.float(), dim=-1)
    return states, masks, embeds


def itc_scores(video_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Cosines (V, T) of embeddings (V, C, embed_dim) and (T, embed_dim), averaged over clips; no temperature."""
    with torch.autocast(video_embeds.device.type, enabled=False):  # which would make them half precision
        return torch.einsum("vce,te->vct", video_embeds, text_embeds).mean(dim=1)


def shortlist(scores: torch.Tensor, k: int | None) -> torch.Tensor:
    """Which of the candidates (queries, candidates) are among the k best of their query, or tied with the k-th.

    All are where there are no more than k, or with `k=None`.
    """
    if k is None or k >= scores.shape[1]:
        return torch.ones_like(scores, dtype=torch.bool)
    return scores >= scores.topk(k, dim=1).values[:, -1:]


def itm_scores(
    model: PreTrainedModel,
    video_tokens: list[torch.Tensor],
    text_states: torch.Tensor,
    text_mask: torch.Tensor,
    pairs: list[torch.Tensor],
    ensemble: str,
    texts_at_once: int = 128,
) -> list[torch.Tensor]:
    """Matching scores of pairs, each fused once, its clips combined by `ensemble`.

    Args:
        model: with `match`.
        video_tokens: for each video, (C, N, D).
        text_states: (T, L, D).
        text_mask: (T, L).
        pairs: for each video, (T,) bool: the texts to score it with.
        ensemble: `"mean"`, `"max"`, `"lse"`; or `"concat"`, where a video is one clip.
        texts_at_once: fused with a video in one call; bounds memory.

    Returns:
        For each video, (T,) float32 scores; -inf where `pairs` is false.
    """
    rows = []
    for clips, is_candidate in zip(progress_bar(video_tokens, "matching"), pairs, strict=True):
        row = torch.full(is_candidate.shape, float("-inf"))
        for texts in is_candidate.nonzero()[:, 0].split(texts_at_once):
            if len(texts) == 0:  # of a missing video
                break
            per_clip = model.match(
                video_hidden_states=clips,
                text_hidden_states=text_states[texts].repeat(len(clips), 1, 1),
                attention_mask=text_mask[texts].repeat(len(clips), 1),
            ).view(1, len(clips), -1)
            row[texts] = (per_clip[:, 0] if ensemble == "concat" else pool_clips(per_clip, ensemble))[0].float().cpu()
        rows.append(row)
    return rows


@torch.inference_mode()
def score_retrieval(
    model: PreTrainedModel,
    video_batches: Iterable[dict],
    text_batches: Iterable[dict[str, torch.Tensor]],
    num_frames: int,
    args: RetrievalArguments,
) -> RetrievalScores:
    """Score all videos with all texts in two stages; every process does a share, and all get the whole result.

    Args:
        model: bare (not wrapped for training); used in evaluation mode.
        video_batches: this process's `share_of` the videos, in batches of `pixel_values` (B, frames, channels, height,
            width) and perhaps `is_missing` (B,): such videos get -inf for all texts.
        text_batches: this process's `share_of` the texts, in batches of `input_ids` and `attention_mask` (B, L).
        num_frames: frames of a clip.
        args: see [`RetrievalArguments`].

    Raises:
        InputError: on all processes, when one of them cannot read a video.
    """
    model.eval()
    clip_length = args.num_frames_test if args.eval_frame_ensemble == "concat" else num_frames
    video_tokens, video_embeds, is_missing = fail_together(
        encode_videos, model, video_batches, clip_length, args.strided_clips
    )
    video_embeds, is_missing = gather_tensors(video_embeds), gather_tensors(is_missing)
    text_states, text_mask, text_embeds = map(gather_tensors, encode_texts(model, text_batches))

    itc = itc_scores(video_embeds, text_embeds).masked_fill(is_missing[:, None], float("-inf"))
    k = None if args.eval_x_only else args.k_test
    for_video, for_text = (pairs & ~is_missing[:, None] for pairs in (shortlist(itc, k), shortlist(itc.t(), k).t()))
    pairs = share_of(list(for_video | for_text))
    itm = itm_scores(
        model, video_tokens, text_states.to(model.device), text_mask.to(model.device), pairs, args.eval_frame_ensemble
    )
    itm = gather_tensors(itm)
    return RetrievalScores(
        itc=itc,
        video_to_text=itm.masked_fill(~for_video, float("-inf")),
        text_to_video=itm.masked_fill(~for_text, float("-inf")).t().contiguous(),
    )


def gather_tensors(share: list[torch.Tensor]) -> torch.Tensor:
    """The tensors of all processes, stacked in their original order, on the CPU."""
    return torch.stack(gather_shares([tensor.cpu() for tensor in share]))


def retrieval_metrics(scores: RetrievalScores, texts_of_video: list[list[int]]) -> dict[str, dict[str, float]]:
    """Recalls of the matching scores (`itm`), of the cosines (`itc`), and of random ranking (`chance`), in percent."""
    recall = evaluate.load(str(METRICS / "retrieval_recall"), keep_in_memory=True)
    return {
        "itm": recall.compute(
            predictions=scores.video_to_text, references=texts_of_video, text_to_video=scores.text_to_video
        ),
        "itc": recall.compute(predictions=scores.itc, references=texts_of_video),
        "chance": chance_recall(texts_of_video),
    }


def chance_recall(texts_of_video: list[list[int]]) -> dict[str, float]:
    """Expected recalls of a random ranking, under the names of `metrics/retrieval_recall`.

    The first k of n candidates in random order hold none of r right ones with probability C(n - r, k) / C(n, k).
    """
    videos_per_text = Counter(text for texts in texts_of_video for text in texts)
    num_videos, num_texts = len(texts_of_video), len(videos_per_text)
    right_counts = {"txt": [len(texts) for texts in texts_of_video], "img": list(videos_per_text.values())}
    recalls = {}
    for (prefix, counts), n in zip(right_counts.items(), (num_texts, num_videos), strict=True):
        for k in TOP_K:
            hits = [1 - comb(n - right, min(k, n)) / comb(n, min(k, n)) for right in counts]
            recalls[f"{prefix}_r{k}"] = 100 * sum(hits) / len(hits)
        recalls[f"{prefix}_r_mean"] = sum(recalls[f"{prefix}_r{k}"] for k in TOP_K) / len(TOP_K)
    recalls["r_mean"] = (recalls["txt_r_mean"] + recalls["img_r_mean"]) / 2
    return {name: round(recall, 2) for name, recall in recalls.items()}


def recall_table(split: str, metrics: dict[str, dict[str, float]]) -> str:
    """Recalls of [`retrieval_metrics`] as lines of text, one block per direction."""
    lines = [f"{split:<24}" + "".join(f"{heading:>8}" for heading in ("R@1", "R@5", "R@10", "mean"))]
    names = {"itm": "re-ranked (ITM)", "itc": "embeddings (ITC)", "chance": "chance"}
    for prefix, direction in (("txt", "video to text"), ("img", "text to video")):
        lines.append(direction)
        for kind, name in names.items():
            columns = [metrics[kind][f"{prefix}_r{k}"] for k in (*TOP_K, "_mean")]
            lines.append(f"  {name:<22}" + "".join(f"{recall:8.2f}" for recall in columns))
    return "\n".join(lines)
