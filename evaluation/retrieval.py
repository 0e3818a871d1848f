# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Two-stage retrieval: rank all pairs by their embeddings, re-rank the best by fusing them; R@1, ranks, chance.
Multiple choice is retrieval among a few texts for each video.

V videos of C clips of N tokens, T texts of L words, width D. A process encodes its share of the videos and keeps their
tokens, as these are large; embeddings, texts and scores are gathered. Results are the same for any number of processes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.hf_argparser import HfArg

from ..configuration_svitt import SViTTConfig
from ..data.annotations import ChoiceSet, RetrievalSet, choice_set, retrieval_set, video_names
from ..data.loaders import ProcessingArguments, count_cut, text_batches
from ..data.presets import Split
from ..distributed import fail_together, gather_shares, progress_bar, share_of
from ..modeling_svitt import join_clips, pool_clips
from ..processing_svitt import SViTTProcessor
from .clips import ClipArguments, VideoReader, in_words, metrics_table
from .metrics.retrieval_recall.retrieval_recall import TOP_K, rank_of_best, recalls, with_means

# Texts that share a video's keys and values: more are padded more, fewer let the video be projected more often.
TEXTS_AT_ONCE = 32
KIND_NAMES = {"itm": "re-ranked (ITM)", "itc": "embeddings (ITC)", "ensemble": "both (ensemble)", "chance": "chance"}
DIRECTIONS = {"txt_": "video to text", "img_": "text to video"}
COLUMN_NAMES = {"accuracy": "accuracy", "r1": "R@1", "r5": "R@5", "r10": "R@10", "r_mean": "mean"}
COLUMN_NAMES |= {"median_rank": "MdR", "mean_rank": "MnR"}

Metrics = dict[str, dict[str, float]]  # in percent, but for ranks, by kind (see KIND_NAMES) and name


@dataclass
class RetrievalArguments(ClipArguments):
    """How to evaluate: clips of a video, ensemble, shortlist."""

    _argument_group_name = "evaluation"
    at_least = ClipArguments.at_least | {"k_test": 1, "feature_memory": 0}

    k_test: int = HfArg(default=128, help="Length of the shortlists that are re-ranked.")
    eval_x_only: bool = HfArg(default=False, help="Re-rank all pairs: no shortlist.")
    feature_memory: float = HfArg(
        default=4.0, help="GB of video features that a process keeps on its GPU; the rest waits in main memory."
    )


@dataclass
class RetrievalScores:
    """Scores of all pairs, float32 on the CPU."""

    itc: Tensor  # (V, T) cosines
    video_to_text: Tensor  # (V, T) matching scores, -inf outside the shortlist of the video
    text_to_video: Tensor  # (T, V) the same, of the shortlists of the texts


@dataclass
class ChoiceScores:
    """Scores (V, T) of the options of each video, float32 on the CPU; -inf for texts that are none of them."""

    itm: Tensor  # matching scores
    itc: Tensor  # cosines
    ensemble: Tensor  # sum of both after a softmax over the options, of cosines over the temperature, as in VindLU


# ---- Scores


def encode_videos(
    model: PreTrainedModel, batches: Iterable[dict], num_frames: int, args: RetrievalArguments
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return of each video the tokens (C, N, D), normalised embeddings (C, embed_dim), float32, and `is_missing` ()."""
    device, memory_left = model.device.type, args.feature_memory * 1e9
    # The type that matching computes in: tokens kept in it give the same scores.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
    tokens, embeds, is_missing = [], [], []
    for batch in batches:
        clips = args.split(batch["pixel_values"].to(device), num_frames)
        features, num_videos = model.get_video_features(clips), len(batch["is_missing"])
        of_batch = features.last_hidden_state.to(dtype).unflatten(0, (num_videos, -1))
        of_batch = join_clips(of_batch, args.eval_frame_ensemble)
        memory_left -= of_batch.nbytes
        tokens += of_batch if memory_left >= 0 else of_batch.cpu()
        embeds += model.video_embeds(features.pooler_output.float()).unflatten(0, (num_videos, -1))
        is_missing += batch["is_missing"]
    return tokens, embeds, is_missing


def encode_texts(
    model: PreTrainedModel, batches: Iterable[dict[str, Tensor]]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return of each text the states (L, D), the mask (L,) and the normalised embedding (embed_dim,) in float32."""
    states, masks, embeds = [], [], []
    for batch in batches:
        input_ids, attention_mask = batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device)
        features = model.get_text_features(input_ids, attention_mask)
        states += features.last_hidden_state
        masks += attention_mask
        embeds += F.normalize(features.pooler_output.float(), dim=-1)
    return states, masks, embeds


def shortlist(scores: Tensor, k: int) -> Tensor:
    """Return which candidates (queries, candidates) are among the k best of their query, or tied with the k-th."""
    return scores >= scores.topk(min(k, scores.shape[1]), dim=1).values[:, -1:]


def plan_matching(pairs: Tensor, lengths: Tensor, words_at_once: int) -> list[tuple[list[int], Tensor, int]]:
    """Cut pairs (V, T) into batches with little padding: of each video, a few texts of like lengths (T,) at a time.

    A batch is V' videos, which may repeat, (V', c) texts of each, and the words of the longest text. It has
    `words_at_once` at most, padding included, unless it is a single pair.
    """
    most = max(1, min(TEXTS_AT_ONCE, words_at_once // int(lengths.max())))
    by_length = lengths.argsort(descending=True, stable=True)
    runs = [
        (len(texts), int(lengths[texts[0]]), video, texts)
        for video, is_candidate in enumerate(pairs)
        if is_candidate.any()
        for texts in by_length[is_candidate[by_length]].split(most)
    ]
    batches = []
    for num_texts, same in groupby(sorted(runs, key=lambda run: run[:2], reverse=True), key=lambda run: run[0]):
        waiting = list(same)
        while waiting:
            length = waiting[0][1]
            _, _, videos, texts = zip(*waiting[: max(1, words_at_once // (num_texts * length))], strict=True)
            waiting = waiting[len(videos) :]
            batches.append((list(videos), torch.stack(texts), length))
    return batches


def text_lengths(model: PreTrainedModel, text_mask: Tensor) -> Tensor:
    """Return how many words of (T, L) each text (T,) may be cut to without changing its scores."""
    config, length = model.config.text_config, text_mask.shape[1]
    if config.token_keep_strategy == "avg_attn" and not config.attn_mask_padding:  # padding decides which tokens stay
        return torch.full(text_mask.shape[:1], length)
    return (text_mask.cpu() * torch.arange(1, length + 1)).amax(dim=1).clamp(min=1)


def itm_scores(
    model: PreTrainedModel,
    video_tokens: Sequence[Tensor],
    text_states: Tensor,
    text_mask: Tensor,
    pairs: Tensor,
    ensemble: str,
    words_at_once: int | None = None,
) -> Tensor:
    """Return the matching scores (V, T), float32 on the CPU, of `pairs` (V, T) bool; -inf for what is none.

    Args:
        video_tokens: (C, N, D) of each video, on any device.
        text_states, text_mask: (T, L, D) and (T, L).
        ensemble: of the clips, `"mean"`, `"max"`, `"lse"`; or `"concat"` or `"late_concat"`, where a video is one.
        words_at_once: of all pairs of a clip and a text that are matched in one call; bounds memory.
    """
    scores = torch.full(pairs.shape, float("-inf"), device=model.device)
    if not pairs.any():
        return scores.cpu()
    if words_at_once is None:  # more than fit its caches make a CPU slower, fewer leave a GPU idle
        words_at_once = 2048 if model.device.type == "cpu" else 16384
    num_clips = len(video_tokens[0])
    batches = plan_matching(pairs, text_lengths(model, text_mask), words_at_once // num_clips)
    for videos, texts, length in progress_bar(batches, "matching"):
        texts = texts.to(model.device)
        texts_of_clips = texts.repeat_interleave(num_clips, dim=0).flatten()
        per_clip = model.match(
            video_hidden_states=torch.cat([video_tokens[video].to(model.device) for video in videos]),
            text_hidden_states=text_states[:, :length][texts_of_clips],
            attention_mask=text_mask[:, :length][texts_of_clips],
        ).view(len(videos), num_clips, -1)
        scores[torch.tensor(videos, device=model.device)[:, None], texts] = pool_clips(per_clip, ensemble).float()
    return scores.cpu()


@torch.inference_mode()
def score_retrieval(
    model: PreTrainedModel,
    video_batches: Iterable[dict],
    text_batches: Iterable[dict[str, Tensor]],
    num_frames: int,
    args: RetrievalArguments,
    candidates: Tensor | None = None,
) -> RetrievalScores:
    """Score all videos with all texts in two stages; every process does a share, and all get the whole result.

    Args:
        model: bare (not wrapped for training); used in evaluation mode.
        video_batches: this process's `share_of` the videos, in batches of `pixel_values` (B, frames, channels, height,
            width) and `is_missing` (B,): such videos get -inf for all texts.
        text_batches: this process's `share_of` the texts, in batches of `input_ids` and `attention_mask` (B, L).
        num_frames: frames of a clip.
        candidates: (V, T) bool, the only pairs that count, all of which are matched; by default any may.

    Raises:
        InputError: on all processes, when one of them cannot read a video.
    """
    model.eval()
    video_tokens, video_embeds, is_missing = fail_together(encode_videos, model, video_batches, num_frames, args)
    video_embeds, is_missing = gather_tensors(video_embeds), gather_tensors(is_missing)
    text_states, text_mask, text_embeds = map(gather_tensors, encode_texts(model, text_batches))

    allowed = ~is_missing[:, None] if candidates is None else candidates & ~is_missing[:, None]
    with torch.autocast("cpu", enabled=False):  # which would make cosines half precision
        itc = torch.einsum("vce,te->vct", video_embeds, text_embeds).mean(dim=1)
    itc = itc.masked_fill(~allowed, float("-inf"))
    k = max(itc.shape) if args.eval_x_only or candidates is not None else args.k_test
    for_video, for_text = shortlist(itc, k) & allowed, shortlist(itc.t(), k).t() & allowed
    text_states, text_mask = text_states.to(model.device), text_mask.to(model.device)
    pairs = share_of(for_video | for_text)
    itm = gather_tensors(list(itm_scores(model, video_tokens, text_states, text_mask, pairs, args.eval_frame_ensemble)))
    return RetrievalScores(
        itc=itc,
        video_to_text=itm.masked_fill(~for_video, float("-inf")),
        text_to_video=itm.masked_fill(~for_text, float("-inf")).t().contiguous(),
    )


def gather_tensors(share: list[Tensor]) -> Tensor:
    """Stack the tensors of all processes in their original order, on the CPU."""
    return torch.stack(gather_shares([tensor.cpu() for tensor in share]))


def choice_scores(scores: RetrievalScores, temperature: float) -> ChoiceScores:
    """Return the scores of options from those of [`score_retrieval`] with the options as `candidates`."""
    itm, itc = scores.video_to_text, scores.itc
    ensemble = itm.softmax(dim=1) + (itc / temperature).softmax(dim=1)
    return ChoiceScores(itm, itc, ensemble.masked_fill(itc.isneginf(), float("-inf")))


# ---- Splits


def load_retrieval_sets(
    splits: dict[str, Split], args: ProcessingArguments, join_captions: bool = False
) -> dict[str, RetrievalSet | ChoiceSet]:
    """Return the sets of all splits that are not to train on."""
    allow_missing = args.bad_eval_videos != "error"
    return {
        name: choice_set(split.load(allow_missing))
        if split.rows == "multiple_choice"
        else retrieval_set(split.load(allow_missing, unique_videos=True, join_captions=join_captions))
        for name, split in splits.items()
        if not name.startswith("train")
    }


def score_split(
    model: PreTrainedModel, videos_and_texts: RetrievalSet | ChoiceSet, reader: VideoReader, args: RetrievalArguments
) -> RetrievalScores | ChoiceScores:
    """Score all videos and texts of a split, on all processes, which share the work."""
    videos, texts, *_ = videos_and_texts
    is_choice = isinstance(videos_and_texts, ChoiceSet)
    candidates = pair_matrix(videos_and_texts.options_of_video, len(texts)) if is_choice else None
    num_frames = reader.processor.video_processor.num_frames
    batches = reader.read(videos, model.device), text_batches(texts, reader.processor)
    scores = score_retrieval(model, *batches, num_frames, args, candidates)
    return choice_scores(scores, model.temp.float().clamp(*model.temp_range).item()) if is_choice else scores


def pair_matrix(texts_of_video: list[list[int]], num_texts: int) -> Tensor:
    """Return (V, T) bool, true for the texts of each video."""
    pairs = torch.zeros(len(texts_of_video), num_texts, dtype=torch.bool)
    for row, texts in zip(pairs, texts_of_video, strict=True):
        row[texts] = True
    return pairs


# ---- Metrics


def metrics_of(scores: RetrievalScores | ChoiceScores, videos_and_texts: RetrievalSet | ChoiceSet) -> Metrics:
    """Return [`retrieval_metrics`]; or, of choices, the accuracy by each kind of scores, and by `chance`. A video that
    is missing is wrong."""
    if not isinstance(scores, ChoiceScores):
        return retrieval_metrics(scores, videos_and_texts.texts_of_video)
    is_right = {kind: choice_ranks(score, videos_and_texts.answers) == 0 for kind, score in vars(scores).items()}
    is_right["chance"] = torch.tensor([1 / len(options) for options in videos_and_texts.options_of_video])
    return {kind: {"accuracy": round(100 * shares.double().mean().item(), 2)} for kind, shares in is_right.items()}


def retrieval_metrics(scores: RetrievalScores, texts_of_video: list[list[int]]) -> Metrics:
    """Return [`recalls`] by matching scores (`itm`), by cosines (`itc`), and by random ranking (`chance`).

    What is outside a shortlist is a miss at every k; its rank, behind the shortlist, is that by cosines.
    """
    return {
        "itm": recalls(scores.video_to_text, texts_of_video, scores.text_to_video, behind=scores.itc),
        "itc": recalls(scores.itc, texts_of_video),
        "chance": chance_recall(texts_of_video),
    }


def choose_lists(config: SViTTConfig, metrics: Metrics | None) -> str:
    """Set which lists a model is used by, the better of those of [`retrieval_metrics`] in validation; say which."""
    if metrics is not None and "itm" in metrics and "r_mean" in metrics["itm"]:
        config.rerank = metrics["itm"]["r_mean"] >= metrics["itc"]["r_mean"]
    return f"Searches with this model {'re-rank' if config.rerank else 'rank by embeddings alone'} (config.rerank)."


def chance_recall(texts_of_video: list[list[int]]) -> dict[str, float]:
    """Return the expected recalls and ranks of a random ranking, under the names of [`recalls`].

    Of n candidates in random order, the first k hold none of r right ones with probability
    (1 - r / n) (1 - r / (n - 1)) ... (1 - r / (n - k + 1)); the sum of these over k is the expected rank of the first.
    """
    of_videos, found = list(map(len, texts_of_video)), {}
    of_texts = Counter(text for texts in texts_of_video for text in texts).values()
    for prefix, rights, n in (("txt", of_videos, len(of_texts)), ("img", of_texts, len(of_videos))):
        misses = np.zeros(n + 1)  # for k from 0 to n
        for right, count in Counter(rights).items():
            misses += count / len(rights) * np.cumprod([1, *(1 - right / np.arange(n, 0, -1)).clip(0)])
        found |= {f"{prefix}_r{k}": 100 * (1 - misses[min(k, n)]) for k in TOP_K}
        halves = [np.searchsorted(-misses.round(9), -0.5, side) for side in ("left", "right")]
        found |= {f"{prefix}_median_rank": np.mean(halves), f"{prefix}_mean_rank": misses[:-1].sum()}
    return with_means(found)


def choice_ranks(scores: Tensor, answers: list[int]) -> Tensor:
    """Return the rank (V,) from 0 of each video's answer among scores (V, T), ties in their order; inf if missing."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = (order == torch.tensor(answers)[:, None]).int().argmax(dim=1).float()
    return ranks.masked_fill(scores.isneginf().all(dim=1), float("inf"))


def what_was_ranked(
    split: str,
    scores: RetrievalScores | ChoiceScores,
    videos_and_texts: RetrievalSet | ChoiceSet,
    processor: SViTTProcessor,
    join_captions: bool = False,
) -> dict[str, int]:
    """Return what figures of a split depend on: numbers of its videos and texts, and what became of them."""
    texts, is_choice = videos_and_texts.texts, isinstance(scores, ChoiceScores)
    kind = "options" if is_choice else "texts"
    return {
        "videos": len(videos_and_texts.videos),
        "videos_missing": int(scores.itc.isneginf().all(dim=1).sum()),
        kind: len(texts),
        f"{kind}_cut": count_cut(split, kind, texts, processor),
        "captions_joined": join_captions and not is_choice,
    }


def results_table(split: str, metrics: Metrics, ranked: dict[str, int]) -> str:
    """Return the metrics of a split, see [`metrics_of`], and what was ranked as lines of text."""
    rows = []
    for prefix, direction in (("", ""),) if "ensemble" in metrics else DIRECTIONS.items():
        rows += [(direction, {})] if direction else []
        for kind, values in metrics.items():
            found = {name: values[prefix + key] for key, name in COLUMN_NAMES.items() if prefix + key in values}
            rows.append((f"  {KIND_NAMES[kind]}", found))
    return metrics_table(split, rows, in_words(ranked))


# ---- Ranks


def rank_table(scores: RetrievalScores | ChoiceScores, videos_and_texts: RetrievalSet | ChoiceSet) -> pa.Table:
    """Return a row for each query, the videos that look for their texts and the texts that look for their videos.

    Columns:
        direction: `"video_to_text"`, or for captions also `"text_to_video"`.
        query_index, query: number of the video or text, and its path or words.
        rank_itm, rank_itc and, for multiple choice, rank_ensemble: rank from 1 of the best right answer; null where it
            is outside the shortlist or the video is missing.
        top_index, top, top_score: the candidate with the best matching score; null for a missing video.
    """
    texts = pa.chunked_array([videos_and_texts.texts], pa.string())
    videos = video_names(videos_and_texts.videos)
    if isinstance(scores, ChoiceScores):
        ranks = {kind: choice_ranks(score, videos_and_texts.answers).numpy() for kind, score in vars(scores).items()}
        return rank_rows("video_to_text", videos, texts, ranks, scores.itm)
    is_right, tables = pair_matrix(videos_and_texts.texts_of_video, len(texts)).numpy(), []
    for direction, queries, candidates, itm, itc, right in (
        ("video_to_text", videos, texts, scores.video_to_text, scores.itc, is_right),
        ("text_to_video", texts, videos, scores.text_to_video, scores.itc.t(), is_right.T),
    ):
        ranks = {"itm": rank_of_best(itm.numpy(), right), "itc": rank_of_best(itc.numpy(), right)}
        tables.append(rank_rows(direction, queries, candidates, ranks, itm))
    return pa.concat_tables(tables)


def rank_rows(
    direction: str, queries: pa.Array, candidates: pa.Array, ranks: dict[str, np.ndarray], scores: Tensor
) -> pa.Table:
    """Return rows of [`rank_table`] from ranks (queries,) from 0 by kind, and scores (queries, candidates)."""
    top_scores, top = scores.max(dim=1)
    has_none = top_scores.isneginf().numpy()
    top = pa.array(top.numpy(), mask=has_none)
    columns = {"direction": [direction] * len(queries), "query_index": range(len(queries)), "query": queries}
    for kind, rank in ranks.items():
        columns[f"rank_{kind}"] = pa.array(np.nan_to_num(rank + 1, posinf=0).astype(int), mask=np.isinf(rank))
    top_scores = pa.array(top_scores.numpy(), mask=has_none)
    return pa.table(columns | {"top_index": top, "top": candidates.take(top), "top_score": top_scores})
