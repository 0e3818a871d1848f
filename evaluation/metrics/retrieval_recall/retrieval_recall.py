# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Recall at 1, 5 and 10 of video-text retrieval, both ways; an `evaluate` module, loaded by the path of its folder."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Recall at k: the share of queries, in percent, whose best-ranked right candidate is among the first k.

The rank of a candidate is the number of candidates scored strictly higher. Candidates scored -inf were not considered
(left out of a shortlist): a right one among them is a miss at every k.
"""

_KWARGS_DESCRIPTION = """
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
    >>> recall = evaluate.load("metrics/retrieval_recall")
    >>> recall.compute(predictions=[[0.9, 0.1], [0.8, 0.2]], references=[[0], [1]])["txt_r1"]
    50.0
"""

_CITATION = """
@inproceedings{li2023svitt,
  title={{SViTT}: Temporal Learning of Sparse Video-Text Transformers},
  author={Li, Yi and Min, Kyle and Tripathi, Subarna and Vasconcelos, Nuno},
  booktitle={CVPR},
  year={2023}
}
"""

TOP_K = (1, 5, 10)


def rank_of_best(scores: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    """Rank, from 0, of the best right candidate of each query; inf where none was considered.

    Args:
        scores: (queries, candidates), -inf for those not considered.
        is_right: (queries, candidates) bool.
    """
    best = np.where(is_right, scores, -np.inf).max(axis=1)
    ranks = (scores > best[:, None]).sum(axis=1)
    return np.where(np.isneginf(best), np.inf, ranks)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RetrievalRecall(evaluate.Metric):
    rank_of_best = staticmethod(rank_of_best)  # for those who load this module by its path

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float32")),
                    "references": datasets.List(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions, references, text_to_video=None):
        video_to_text = np.asarray(predictions, dtype=np.float32)
        text_to_video = video_to_text.T if text_to_video is None else np.asarray(text_to_video, dtype=np.float32)
        if text_to_video.shape != video_to_text.shape[::-1]:
            raise ValueError(
                f"`text_to_video` has shape {text_to_video.shape}; with `predictions` of shape {video_to_text.shape} "
                f"it must be {video_to_text.shape[::-1]}."
            )
        if np.isnan(video_to_text).any() or np.isnan(text_to_video).any():
            raise ValueError("Some scores are NaN, so candidates cannot be ranked.")
        is_right = np.zeros(video_to_text.shape, dtype=bool)
        for video, texts in enumerate(references):
            is_right[video, texts] = True
        if not is_right.any(axis=1).all() or not is_right.any(axis=0).all():
            raise ValueError("`references` must give every video a text, and every text a video.")

        recalls = {}
        for prefix, scores, right in (("txt", video_to_text, is_right), ("img", text_to_video, is_right.T)):
            ranks = rank_of_best(scores, right)
            at_k = {f"{prefix}_r{k}": 100 * (ranks < k).mean() for k in TOP_K}
            recalls |= {**at_k, f"{prefix}_r_mean": np.mean(list(at_k.values()))}
        recalls["r_mean"] = (recalls["txt_r_mean"] + recalls["img_r_mean"]) / 2
        return {name: round(float(recall), 2) for name, recall in recalls.items()}
