# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Two-stage retrieval: rank all pairs by their embeddings, re-rank the best by fusing them. Multiple choice is
retrieval among a few texts for each video.

V videos of C clips of N tokens, T texts of L words, width D. A process encodes its share of the videos and keeps
their tokens, as these are large; embeddings, texts and scores are gathered. So work is shared and results are the same
for any number of processes. Pairs are matched in batches over many videos, each with as many texts of like lengths.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from math import ceil, comb
from pathlib import Path
from typing import Any, NamedTuple

import evaluate
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..data.annotations import ChoiceSet, RetrievalSet, choice_set, retrieval_set
from ..data.loaders import BadVideoReport, ProcessingArguments, model_batches, text_batches, video_loader
from ..data.presets import Split
from ..distributed import fail_together, gather_shares, progress_bar, share_of
from ..errors import InputError
from ..modeling_svitt import pool_clips, split_clips
from ..processing_svitt import SViTTProcessor
from .clips import ClipArguments

TOP_K = (1, 5, 10)
FEATURE_DTYPES = {"exact": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
METRICS = Path(__file__).parent / "metrics"


@dataclass
class RetrievalArguments(ClipArguments):
    """How to evaluate: clips of a video, ensemble, shortlist."""

    _argument_group_name = "evaluation"
    at_least = ClipArguments.at_least | {"k_test": 1, "words_at_once": 1, "feature_memory": 0}

    k_test: int = field(default=128, metadata={"help": "Length of the shortlists that are re-ranked."})
    eval_x_only: bool = field(default=False, metadata={"help": "Re-rank all pairs: no shortlist."})
    words_at_once: int | None = field(
        default=None,
        metadata={
            "help": "Words that a process matches at once, those of all pairs of a clip and a text; bounds memory. "
            "By default 2048 on a CPU, 16384 on a GPU."
        },
    )
    feature_memory: float = field(
        default=4.0,
        metadata={"help": "GB of video features that a process keeps on its GPU; the rest waits in main memory."},
    )
    feature_dtype: str = field(
        default="exact",
        metadata={
            "choices": list(FEATURE_DTYPES),
            "help": "Type of the video features kept: `exact` is the one that matching computes in, so that scores "
            "are as if nothing was kept; in float32, the others take half the memory and change scores a little.",
        },
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


@dataclass
class ChoiceScores:
    """Scores (V, T) of the options of each video, float32 on the CPU; -inf for texts that are none of them.

    `itm`: matching scores. `itc`: cosines. `ensemble`: sum of both after a softmax over the options, cosines being
    divided by the model's temperature, as in VindLU's `retrieval_mc.py`.
    """

    itm: torch.Tensor
    itc: torch.Tensor
    ensemble: torch.Tensor


class VideoTokens:
    """The tokens (C, N, D) of many videos, kept until they are matched.

    Args:
        device: where they are matched.
        compute_dtype: in which they are matched.
        dtype: in which they are kept, by default the same.
        memory: bytes that may be kept on the device; further videos wait in main memory.
    """

    def __init__(
        self,
        device: torch.device,
        compute_dtype: torch.dtype,
        dtype: torch.dtype | None = None,
        memory: float = float("inf"),
    ):
        self.device, self.compute_dtype, self.dtype = device, compute_dtype, dtype or compute_dtype
        self.memory_left = memory
        self.videos = []

    def add(self, tokens: torch.Tensor):
        """Keep the videos of a batch (B, C, N, D)."""
        tokens = tokens.to(self.dtype)
        self.memory_left -= tokens.nbytes
        if self.memory_left < 0 and tokens.device.type != "cpu":
            # Pinned memory is copied to a GPU without a detour.
            tokens = torch.empty_like(tokens, device="cpu", pin_memory=tokens.is_cuda).copy_(tokens)
        self.videos += tokens

    def __getitem__(self, videos: Iterable[int]) -> torch.Tensor:
        """(V', C, N, D) on the device, to be matched."""
        tokens = [self.videos[video].to(self.device, non_blocking=True) for video in videos]
        return torch.stack(tokens).to(self.compute_dtype)


def matching_dtype(model: PreTrainedModel) -> torch.dtype:
    """The type that the projections of video tokens to keys and values compute in."""
    device = model.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype


def encode_videos(
    model: PreTrainedModel, batches: Iterable[dict], num_frames: int, args: RetrievalArguments
) -> tuple[VideoTokens, list[torch.Tensor], list[torch.Tensor]]:
    """Encode batches of `pixel_values` (B, C * num_frames, channels, height, width), all clips of a batch together.

    Returns:
        The tokens (C, N, D) of each video, the normalised embeddings (C, embed_dim) of its clips in float32, and its
        `is_missing` () from the batch, false if that has none.
    """
    dtype, memory = FEATURE_DTYPES[args.feature_dtype], args.feature_memory * 1e9
    tokens, embeds, is_missing = VideoTokens(model.device, matching_dtype(model), dtype, memory), [], []
    for batch in batches:
        pixel_values = batch["pixel_values"]
        clips = split_clips(pixel_values.to(model.device), num_frames, args.strided_clips)
        features = model.get_video_features(clips)
        tokens.add(features.last_hidden_state.unflatten(0, (len(pixel_values), -1)))
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


class MatchBatch(NamedTuple):
    """Pairs matched in one call."""

    videos: torch.Tensor  # (V',); a video may come more than once
    texts: torch.Tensor  # (V', c) texts of each; where there are fewer, the last is repeated, to the same score
    length: int  # words of the longest text


class Run(NamedTuple):
    """Texts of like lengths to match with a video."""

    video: int
    texts: torch.Tensor  # (n,)
    length: int  # words of the longest text


# Of a batch. To have less would take many small batches.
MAX_PADDING = 0.15


def plan_matching(
    pairs: torch.Tensor, lengths: torch.Tensor, words_at_once: int, words_per_video: float
) -> list[MatchBatch]:
    """Cut pairs into batches with little padding: rectangles of runs of equal numbers of texts of equal lengths.

    Args:
        pairs: (V, T) bool.
        lengths: (T,) words of each text.
        words_at_once: of a batch, padding included; a single pair may have more.
        words_per_video: how many words of texts are as much work as projecting a video for one more run.
    """
    runs = []
    by_length = lengths.argsort(descending=True, stable=True)
    for video, is_candidate in enumerate(pairs):
        texts = by_length[is_candidate[by_length]]
        runs += cut_into_runs(video, texts, lengths[texts].tolist(), words_at_once, words_per_video)
    runs.sort(key=lambda run: (len(run.texts), run.length), reverse=True)

    batches, batch = [], []
    num_texts = length = num_words = 0
    for run in runs:
        num_texts, length = max(num_texts, len(run.texts)), max(length, run.length)
        num_words += run.length * len(run.texts)
        rectangle = (len(batch) + 1) * num_texts * length
        if batch and (rectangle > words_at_once or num_words < (1 - MAX_PADDING) * rectangle):
            batches.append(make_rectangle(batch))
            batch, num_texts, length = [], len(run.texts), run.length
            num_words = length * num_texts
        batch.append(run)
    return [*batches, make_rectangle(batch)] if batch else []


def cut_into_runs(
    video: int, texts: torch.Tensor, lengths: list[int], words_at_once: int, words_per_video: float
) -> list[Run]:
    """Cut the texts (n,) of a video, the longest first, wherever that saves more padding than the new run costs."""
    runs, start, num_texts = [], 0, len(texts)
    for end in range(1, num_texts + 1):
        if end < num_texts and (lengths[start] - lengths[end]) * (num_texts - end) <= words_per_video:
            continue
        num_parts = ceil((end - start) / max(words_at_once // lengths[start], 1))
        for part in texts[start:end].tensor_split(num_parts):
            runs.append(Run(video, part, lengths[start]))
            start += len(part)
    return runs


def make_rectangle(runs: list[Run]) -> MatchBatch:
    num_texts = max(len(run.texts) for run in runs)
    texts = [torch.cat([run.texts, run.texts[-1:].expand(num_texts - len(run.texts))]) for run in runs]
    return MatchBatch(torch.tensor([run.video for run in runs]), torch.stack(texts), max(run.length for run in runs))


def text_lengths(model: PreTrainedModel, text_mask: torch.Tensor) -> torch.Tensor:
    """(T, L) -> (T,) words that a text may be cut to without changing its scores."""
    config, length = model.config.text_config, text_mask.shape[1]
    if config.token_keep_strategy == "avg_attn" and not config.attn_mask_padding:  # padding decides which tokens stay
        return torch.full(text_mask.shape[:1], length)
    return (text_mask.cpu() * torch.arange(1, length + 1)).amax(dim=1).clamp(min=1)


def itm_scores(
    model: PreTrainedModel,
    video_tokens: VideoTokens,
    text_states: torch.Tensor,
    text_mask: torch.Tensor,
    pairs: torch.Tensor,
    ensemble: str,
    words_at_once: int | None = None,
) -> torch.Tensor:
    """Matching scores of pairs, each fused once, its clips combined by `ensemble`.

    Args:
        model: with `match`.
        video_tokens: (C, N, D) of each video.
        text_states: (T, L, D).
        text_mask: (T, L).
        pairs: (V, T) bool: the texts to score each video with.
        ensemble: `"mean"`, `"max"`, `"lse"`; or `"concat"`, where a video is one clip.
        words_at_once: see [`RetrievalArguments`].

    Returns:
        (V, T) float32 on the CPU; -inf where `pairs` is false.
    """
    scores = torch.full(pairs.shape, float("-inf"), device=model.device)
    if not pairs.any():
        return scores.cpu()
    if words_at_once is None:  # more than fit its caches make a CPU slower, fewer leave a GPU idle
        words_at_once = 2048 if model.device.type == "cpu" else 16384
    num_clips, num_tokens, _ = video_tokens.videos[0].shape
    # In FLOPs a run costs a fifth of its video's tokens: they pass 2 projections a layer, a word 14 (in the last, 4).
    # Small runs are slow besides: on a CPU, half of the tokens was fastest.
    batches = plan_matching(pairs, text_lengths(model, text_mask), words_at_once // num_clips, num_tokens / 2)
    for videos, texts, length in progress_bar(batches, "matching"):
        clips = video_tokens[videos.tolist()].flatten(0, 1)
        videos, texts = videos.to(model.device), texts.to(model.device)
        texts_of_clips = texts.repeat_interleave(num_clips, dim=0).flatten()
        per_clip = model.match(
            video_hidden_states=clips,
            text_hidden_states=text_states[:, :length][texts_of_clips],
            attention_mask=text_mask[:, :length][texts_of_clips],
        ).view(len(videos), num_clips, -1)
        pooled = per_clip[:, 0] if ensemble == "concat" else pool_clips(per_clip, ensemble)
        scores[videos[:, None], texts] = pooled.float()
    return scores.cpu()


@torch.inference_mode()
def score_retrieval(
    model: PreTrainedModel,
    video_batches: Iterable[dict],
    text_batches: Iterable[dict[str, torch.Tensor]],
    num_frames: int,
    args: RetrievalArguments,
    candidates: torch.Tensor | None = None,
) -> RetrievalScores:
    """Score all videos with all texts in two stages; every process does a share, and all get the whole result.

    Args:
        model: bare (not wrapped for training); used in evaluation mode.
        video_batches: this process's `share_of` the videos, in batches of `pixel_values` (B, frames, channels, height,
            width) and perhaps `is_missing` (B,): such videos get -inf for all texts.
        text_batches: this process's `share_of` the texts, in batches of `input_ids` and `attention_mask` (B, L).
        num_frames: frames of a clip.
        args: see [`RetrievalArguments`].
        candidates: (V, T) bool, the only pairs that count, all of which are matched; by default any may.

    Raises:
        InputError: on all processes, when one of them cannot read a video.
    """
    model.eval()
    clip_length = args.num_frames_test if args.eval_frame_ensemble == "concat" else num_frames
    video_tokens, video_embeds, is_missing = fail_together(encode_videos, model, video_batches, clip_length, args)
    video_embeds, is_missing = gather_tensors(video_embeds), gather_tensors(is_missing)
    text_states, text_mask, text_embeds = map(gather_tensors, encode_texts(model, text_batches))

    allowed = ~is_missing[:, None] if candidates is None else candidates & ~is_missing[:, None]
    itc = itc_scores(video_embeds, text_embeds).masked_fill(~allowed, float("-inf"))
    k = None if args.eval_x_only or candidates is not None else args.k_test
    for_video, for_text = (pairs & allowed for pairs in (shortlist(itc, k), shortlist(itc.t(), k).t()))
    itm = itm_scores(
        model,
        video_tokens,
        text_states.to(model.device),
        text_mask.to(model.device),
        share_of(for_video | for_text),
        args.eval_frame_ensemble,
        args.words_at_once,
    )
    itm = gather_tensors(list(itm))
    return RetrievalScores(
        itc=itc,
        video_to_text=itm.masked_fill(~for_video, float("-inf")),
        text_to_video=itm.masked_fill(~for_text, float("-inf")).t().contiguous(),
    )


def gather_tensors(share: list[torch.Tensor]) -> torch.Tensor:
    """The tensors of all processes, stacked in their original order, on the CPU."""
    return torch.stack(gather_shares([tensor.cpu() for tensor in share]))


def choice_scores(scores: RetrievalScores, temperature: float) -> ChoiceScores:
    """Of scores of [`score_retrieval`] with the options as `candidates`."""
    itm, itc = scores.video_to_text, scores.itc
    ensemble = itm.softmax(dim=1) + (itc / temperature).softmax(dim=1)
    return ChoiceScores(itm, itc, ensemble.masked_fill(itc.isneginf(), float("-inf")))


# ---------------------------------------------------------------------------------------------------------------------
# Splits
# ---------------------------------------------------------------------------------------------------------------------


def load_retrieval_sets(
    splits: dict[str, Split], args: ProcessingArguments, join_captions: bool = False
) -> dict[str, RetrievalSet | ChoiceSet]:
    """The sets of all splits that are not to train on."""
    missing_videos = args.missing_videos(is_training=False)
    sets: dict[str, RetrievalSet | ChoiceSet] = {}
    for name, split in splits.items():
        if name.startswith("train"):
            continue
        if split.rows == "multiple_choice":
            sets[name] = choice_set(split.load(missing_videos))
        else:
            sets[name] = retrieval_set(split.load(missing_videos, unique_videos=True, join_captions=join_captions))
    return sets


def check_stop_key(stop_key: str | None, splits: Collection[str]):
    if stop_key is not None and stop_key not in splits:
        raise InputError(f"--stop_key {stop_key}: there is no such split, but: {', '.join(splits) or 'none'}.")


def score_split(
    accelerator: Accelerator,
    model: PreTrainedModel,
    split: str,
    videos_and_texts: RetrievalSet | ChoiceSet,
    processor: SViTTProcessor,
    args: RetrievalArguments,
    processing: ProcessingArguments,
    bad_videos: BadVideoReport,
) -> RetrievalScores | ChoiceScores:
    """Scores of all videos and texts of a split, on all processes, which share the work."""
    videos, texts, *_ = videos_and_texts
    is_choice = isinstance(videos_and_texts, ChoiceSet)
    candidates = pair_matrix(videos_and_texts.options_of_video, len(texts)) if is_choice else None
    loader = video_loader(share_of(videos), processor, args.num_frames_test, args.eval_batch_size, processing)
    clips = model_batches(loader, processor, accelerator.device, bad_videos)
    with accelerator.autocast():
        tokens = text_batches(texts, processor)
        scores = score_retrieval(model, clips, tokens, processor.video_processor.num_frames, args, candidates)
    num_bad = bad_videos.write(split)
    if num_bad:
        accelerator.print(f"{split}: bad videos that count as missed: {num_bad} (see {bad_videos.path})")
    return choice_scores(scores, model.temp.float().clamp(*model.temp_range).item()) if is_choice else scores


def pair_matrix(texts_of_video: list[list[int]], num_texts: int) -> torch.Tensor:
    """(V, T) bool, true for the texts of each video."""
    pairs = torch.zeros(len(texts_of_video), num_texts, dtype=torch.bool)
    for row, texts in zip(pairs, texts_of_video, strict=True):
        row[texts] = True
    return pairs


# ---------------------------------------------------------------------------------------------------------------------
# Metrics
# ---------------------------------------------------------------------------------------------------------------------


def load_recall() -> evaluate.Metric:
    return evaluate.load(str(METRICS / "retrieval_recall"), keep_in_memory=True)


def metrics_of(
    scores: RetrievalScores | ChoiceScores, videos_and_texts: RetrievalSet | ChoiceSet
) -> dict[str, dict[str, float]]:
    """[`retrieval_metrics`] or [`choice_metrics`] of the scores of a split."""
    if isinstance(scores, ChoiceScores):
        return choice_metrics(scores, videos_and_texts)  # type: ignore[arg-type]
    return retrieval_metrics(scores, videos_and_texts.texts_of_video)


def stopping_score(metrics: dict[str, dict[str, float]]) -> float:
    """What the best epoch is kept by: `r_mean` of re-ranking, or accuracy of the ensemble for multiple choice."""
    return metrics["ensemble"]["accuracy"] if "ensemble" in metrics else metrics["itm"]["r_mean"]


def choice_metrics(scores: ChoiceScores, choices: ChoiceSet) -> dict[str, dict[str, float]]:
    """Accuracy by the matching scores (`itm`), the cosines (`itc`), both (`ensemble`) and by chance, in percent.

    A video that is missing has no score, and so is wrong.
    """
    metrics = {
        kind: {"accuracy": percent(choice_ranks(score, choices.answers) == 0)} for kind, score in vars(scores).items()
    }
    chances = torch.tensor([1 / len(options) for options in choices.options_of_video])
    return metrics | {"chance": {"accuracy": percent(chances)}}


def choice_ranks(scores: torch.Tensor, answers: list[int]) -> torch.Tensor:
    """Rank (V,) from 0 of each video's answer among scores (V, T), equal ones in their order; inf where missing."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = (order == torch.tensor(answers)[:, None]).int().argmax(dim=1).float()
    return ranks.masked_fill(scores.isneginf().all(dim=1), float("inf"))


def percent(shares: torch.Tensor) -> float:
    return round(100 * shares.double().mean().item(), 2)


def retrieval_metrics(scores: RetrievalScores, texts_of_video: list[list[int]]) -> dict[str, dict[str, float]]:
    """Recalls of the matching scores (`itm`), of the cosines (`itc`), and of random ranking (`chance`), in percent."""
    recall = load_recall()
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


def flat_metrics(split: str, metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Metrics as trackers take them: `test/itm_r_mean`."""
    return {f"{split}/{kind}_{name}": value for kind in metrics for name, value in metrics[kind].items()}


def rank_table(scores: RetrievalScores | ChoiceScores, videos_and_texts: RetrievalSet | ChoiceSet) -> pa.Table:
    """A row for each query, the videos that look for their texts and the texts that look for their videos.

    Columns:
        direction: `"video_to_text"`, or for captions also `"text_to_video"`.
        query_index, query: number of the video or text, and its path or words.
        rank_itm, rank_itc and, for multiple choice, rank_ensemble: rank from 1 of the best right answer among the
            candidates; null where none was a candidate, as it is outside the shortlist or the video is missing.
        top_index, top, top_score: the candidate with the best matching score; null for a missing video.
        is_hit: whether `rank_itm` is 1.
    """
    texts = videos_and_texts.texts
    videos = pc.struct_field(videos_and_texts.videos.data.column("video"), "path").to_pylist()
    if isinstance(scores, ChoiceScores):
        ranks = {kind: choice_ranks(score, videos_and_texts.answers).numpy() for kind, score in vars(scores).items()}
        return rank_rows("video_to_text", videos, texts, ranks, scores.itm)
    is_right, itc = pair_matrix(videos_and_texts.texts_of_video, len(texts)).numpy(), scores.itc.numpy()
    rank_of_best = load_recall().rank_of_best
    of_videos = {"itm": rank_of_best(scores.video_to_text.numpy(), is_right), "itc": rank_of_best(itc, is_right)}
    of_texts = {"itm": rank_of_best(scores.text_to_video.numpy(), is_right.T), "itc": rank_of_best(itc.T, is_right.T)}
    return pa.concat_tables(
        [
            rank_rows("video_to_text", videos, texts, of_videos, scores.video_to_text),
            rank_rows("text_to_video", texts, videos, of_texts, scores.text_to_video),
        ]
    )


def rank_rows(
    direction: str, queries: list[str], candidates: list[str], ranks: dict[str, np.ndarray], scores: torch.Tensor
) -> pa.Table:
    """Rows of [`rank_table`], of ranks (queries,) from 0 by their kind, and matching scores (queries, candidates)."""
    top_scores, top = scores.max(dim=1)
    has_none = top_scores.isneginf().numpy()
    top = pa.array(top.numpy(), mask=has_none)
    return pa.table(
        {
            "direction": pa.array([direction] * len(queries)),
            "query_index": pa.array(range(len(queries)), pa.int64()),
            "query": pa.array(queries, pa.string()),
            **{
                f"rank_{kind}": pa.array(np.nan_to_num(rank + 1, posinf=0).astype(int), mask=np.isinf(rank))
                for kind, rank in ranks.items()
            },
            "top_index": top,
            "top": pa.array(candidates, pa.string()).take(top),
            "top_score": pa.array(top_scores.numpy(), mask=has_none),
            "is_hit": pa.array(ranks["itm"] == 0),
        }
    )


def results_table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Metrics of each split of [`metrics_of`] as lines of text."""
    tables = []
    for split, metrics in results.items():
        table = accuracy_table if "ensemble" in metrics else recall_table
        tables.append(table(split, metrics))
    return "\n\n".join(tables)


def card_rows(results: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Metrics of each split as `results` and `baselines` of [`write_card`]."""
    rows = {"results": {}, "baselines": {}}
    for split, metrics in results.items():
        for kind, values in metrics.items():
            name, group = (kind, "baselines") if kind == "chance" else (kind.upper(), "results")
            rows[group][f"{split}, {name}"] = values
    return rows


KIND_NAMES = {"itm": "re-ranked (ITM)", "itc": "embeddings (ITC)", "ensemble": "both (ensemble)", "chance": "chance"}


def accuracy_table(split: str, metrics: dict[str, dict[str, float]]) -> str:
    """Accuracies of [`choice_metrics`] as lines of text."""
    lines = [f"{split:<24}accuracy"]
    return "\n".join(lines + [f"  {KIND_NAMES[kind]:<22}{metrics[kind]['accuracy']:8.2f}" for kind in metrics])


def recall_table(split: str, metrics: dict[str, dict[str, float]]) -> str:
    """Recalls of [`retrieval_metrics`] as lines of text, one block per direction."""
    lines = [f"{split:<24}" + "".join(f"{heading:>8}" for heading in ("R@1", "R@5", "R@10", "mean"))]
    for prefix, direction in (("txt", "video to text"), ("img", "text to video")):
        lines.append(direction)
        for kind in ("itm", "itc", "chance"):
            columns = [metrics[kind][f"{prefix}_r{k}"] for k in (*TOP_K, "_mean")]
            lines.append(f"  {KIND_NAMES[kind]:<22}" + "".join(f"{recall:8.2f}" for recall in columns))
    return "\n".join(lines)
