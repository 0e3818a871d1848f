# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Recall at 1, 5 and 10 of video-text retrieval, both ways: the share of queries, in percent, whose best-ranked right
candidate is among the first k. The rank of a candidate is the number of candidates scored strictly higher. Candidates
scored -inf were left out of a shortlist: a right one among them is a miss at every k.

Also an `evaluate` module, loaded by the path of its folder.
"""

import datasets
import evaluate
import numpy as np

ARGUMENTS = """
Args:
    predictions: scores of the texts for each video, (videos, texts).
    references: for each video, the indices of its texts; a text may belong to several videos.
    text_to_video: scores of the videos for each text, (texts, videos). Defaults to the transpose of `predictions`;
        differs from it where each direction scores its own shortlist.

Returns:
    `txt_r1`, `txt_r5`, `txt_r10` (video to text) and their mean `txt_r_mean`; `img_r1` ... `img_r_mean` (text to
    video); `r_mean`, the mean of both means. In percent, rounded to 2 decimals.

Raises:
    ValueError: if a score is NaN, the shapes do not fit, or a video or a text has no right candidate.

Examples:
    >>> recall = evaluate.load("evaluation/metrics/retrieval_recall")
    >>> recall.compute(predictions=[[0.9, 0.1], [0.8, 0.2]], references=[[0], [1]])["txt_r1"]
    50.0
"""
TOP_K = (1, 5, 10)


def rank_of_best(scores: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    """Return the rank, from 0, of the best right candidate of each query; inf where none was considered.

    Args:
        scores: (queries, candidates), -inf for those not considered.
        is_right: (queries, candidates) bool.
    """
    best = np.where(is_right, scores, -np.inf).max(axis=1)
    ranks = (scores > best[:, None]).sum(axis=1)
    return np.where(np.isneginf(best), np.inf, ranks)


def recalls(predictions, references, text_to_video=None) -> dict[str, float]:
    video_to_text = np.asarray(predictions, dtype=np.float32)
    text_to_video = video_to_text.T if text_to_video is None else np.asarray(text_to_video, dtype=np.float32)
    if text_to_video.shape != video_to_text.shape[::-1]:
        raise ValueError(f"`text_to_video` must be {video_to_text.shape[::-1]}, got {text_to_video.shape}.")
    if np.isnan(video_to_text).any() or np.isnan(text_to_video).any():
        raise ValueError("Some scores are NaN, so candidates cannot be ranked.")
    is_right = np.zeros(video_to_text.shape, dtype=bool)
    for video, texts in enumerate(references):
        is_right[video, texts] = True
    if not is_right.any(axis=1).all() or not is_right.any(axis=0).all():
        raise ValueError("`references` must give every video a text, and every text a video.")
    shares = {}
    for prefix, scores, right in (("txt", video_to_text, is_right), ("img", text_to_video, is_right.T)):
        ranks = rank_of_best(scores, right)
        shares |= {f"{prefix}_r{k}": 100 * np.mean(ranks < k) for k in TOP_K}
    return with_means(shares)


def with_means(shares: dict[str, float]) -> dict[str, float]:
    """Add the means of `txt_r1` ... `img_r10` to them, and round all."""
    means = {f"{prefix}_r_mean": np.mean([shares[f"{prefix}_r{k}"] for k in TOP_K]) for prefix in ("txt", "img")}
    shares = shares | means | {"r_mean": np.mean(list(means.values()))}
    return {name: round(float(share), 2) for name, share in shares.items()}


class RetrievalRecall(evaluate.Metric):
    def _info(self):
        features = {
            "predictions": datasets.List(datasets.Value("float32")),
            "references": datasets.List(datasets.Value("int64")),
        }
        return evaluate.MetricInfo(__doc__, "", datasets.Features(features), inputs_description=ARGUMENTS)

    def _compute(self, predictions, references, text_to_video=None):
        return recalls(predictions, references, text_to_video)
