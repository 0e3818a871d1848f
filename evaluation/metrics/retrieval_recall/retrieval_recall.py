# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Recall at 1, 5 and 10 of video-text retrieval, both ways: the share of queries, in percent, whose best-ranked right
candidate is among the first k. The rank of a candidate is the number of candidates scored strictly higher. Candidates
scored -inf were left out of a shortlist: a right one among them is a miss at every k. With ranks, their median and
mean, counted from 1.

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
    with_ranks: return ranks as well, by default False. Where all right candidates are scored -inf, it is the last.

Returns:
    `txt_r1`, `txt_r5`, `txt_r10` (video to text) and their mean `txt_r_mean`; `img_r1` ... `img_r_mean` (text to
    video); `r_mean`, the mean of both means. In percent, rounded to 2 decimals. With ranks, `txt_median_rank`,
    `txt_mean_rank`, `img_median_rank` and `img_mean_rank`, of the best right candidate of each query.

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


def recalls(predictions, references, text_to_video=None, behind=None) -> dict[str, float]:
    """Return recalls and ranks; `behind`, (videos, texts), are scores that order what is outside the shortlists."""
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
    behind, found = video_to_text if behind is None else np.asarray(behind, dtype=np.float32), {}
    txt, img = (video_to_text, behind, is_right), (text_to_video, behind.T, is_right.T)
    for prefix, (scores, rest, right) in {"txt": txt, "img": img}.items():
        ranks = rank_of_best(scores, right)
        found |= {f"{prefix}_r{k}": 100 * np.mean(ranks < k) for k in TOP_K}
        ranks = 1 + np.where(np.isinf(ranks), rank_of_best(rest, right), ranks).clip(max=scores.shape[1] - 1)
        found |= {f"{prefix}_median_rank": np.median(ranks), f"{prefix}_mean_rank": np.mean(ranks)}
    return with_means(found)


def with_means(figures: dict[str, float]) -> dict[str, float]:
    """Add the means of `txt_r1` ... `img_r10` to them, and round all."""
    means = {f"{prefix}_r_mean": np.mean([figures[f"{prefix}_r{k}"] for k in TOP_K]) for prefix in ("txt", "img")}
    figures = figures | means | {"r_mean": np.mean(list(means.values()))}
    return {name: round(float(figure), 2) for name, figure in figures.items()}


class RetrievalRecall(evaluate.Metric):
    def _info(self):
        features = {
            "predictions": datasets.List(datasets.Value("float32")),
            "references": datasets.List(datasets.Value("int64")),
        }
        return evaluate.MetricInfo(__doc__, "", datasets.Features(features), inputs_description=ARGUMENTS)

    def _compute(self, predictions, references, text_to_video=None, with_ranks=False):
        figures = recalls(predictions, references, text_to_video)
        return {name: figure for name, figure in figures.items() if with_ranks or not name.endswith("_rank")}
