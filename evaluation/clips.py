# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What the evaluations of both tasks share: how a video is cut into clips, reading them, a table of figures."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers.hf_argparser import HfArg

from ..data.loaders import BadVideoReport, ProcessingArguments, model_batches, video_loader
from ..errors import ArgumentError, ArgumentGroup, check_number
from ..modeling_svitt import CLIP_ENSEMBLES, split_clips
from ..processing_svitt import SViTTProcessor


@dataclass
class ClipArguments(ArgumentGroup):
    """Clips of a video."""

    at_least = {"num_frames_test": 1}

    num_frames_test: int | None = HfArg(
        default=None, help="Frames of a video, in clips of --num_frames; defaults to one clip."
    )
    eval_frame_ensemble: str = HfArg(
        default="lse",
        metadata={"choices": list(CLIP_ENSEMBLES)},
        help="How to combine the clips' scores; `concat`: all frames as one clip; `late_concat`: each clip is encoded "
        "alone, and a text sees the tokens of all, as Singularity evaluates.",
    )
    strided_clips: bool = HfArg(default=False, help="A clip of C takes every C-th frame, not consecutive ones.")

    def set_frames(self, num_frames: int, max_num_frames: int):
        """Fill in `num_frames_test`, given the frames of a clip; raise an `InputError` where no clips fit."""
        if self.num_frames_test is None:
            self.num_frames_test = num_frames
        if self.eval_frame_ensemble == "concat":
            check_number("num_frames_test", self.num_frames_test, 1, max_num_frames)
        elif self.num_frames_test % num_frames:
            problem = f"must be a multiple of the {num_frames} frames of a clip, got {self.num_frames_test}"
            raise ArgumentError("num_frames_test", problem)

    def split(self, videos: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Cut videos (B, C * num_frames, ...) into clips (B * C, num_frames, ...), with `concat` into one each."""
        is_whole = self.eval_frame_ensemble == "concat"
        return split_clips(videos, self.num_frames_test if is_whole else num_frames, self.strided_clips)


@dataclass
class VideoReader:
    """Reads the videos of a split, each process its share."""

    processor: SViTTProcessor
    num_frames: int  # of a video
    processing: ProcessingArguments
    bad_videos: BadVideoReport
    batch_size: int = 32
    num_workers: int = 0

    def read(self, videos: Dataset, device: torch.device) -> Iterator[dict]:
        """Return batches of `pixel_values` (B, num_frames, 3, H, W) and `is_missing` (B,)."""
        settings = self.num_frames, self.batch_size, self.processing, self.num_workers
        loader = video_loader(videos, self.processor, *settings)
        return model_batches(loader, self.processor, device, self.bad_videos)


def in_words(ranked: dict[str, int]) -> str:
    """Return what was ranked as words, such as "1,000 videos, 1,000 texts, captions joined", without what is 0."""
    named = ((name.replace("_", " "), number) for name, number in ranked.items() if number)
    return ", ".join(name if number is True else f"{number:,} {name}" for name, number in named)


def metrics_table(title: str, rows: list[tuple[str, dict[str, float]]], note: str) -> str:
    """Return rows of figures by name as lines of text, with a column for each name; a row without any is a heading."""
    widths = {name: max(len(name) + 2, 8) for _, figures in rows for name in figures}
    first = max(len(name) for name, _ in [(title, {}), *rows])
    lines = [title.ljust(first) + "".join(name.rjust(width) for name, width in widths.items())]
    for row, figures in rows:
        cells = (f"{figures[name]:{width}.2f}" if name in figures else " " * width for name, width in widths.items())
        lines.append((row.ljust(first) + "".join(cells)).rstrip())
    return "\n".join([*lines, f"  {note}"])
