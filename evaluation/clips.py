# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What the evaluations of all tasks share: how a video is cut into clips, how long texts may be."""

from dataclasses import dataclass, field

from transformers import PreTrainedConfig

from ..errors import ArgumentGroup, InputError
from ..modeling_svitt import CLIP_ENSEMBLES


@dataclass
class ClipArguments(ArgumentGroup):
    """Clips of a video."""

    at_least = {"num_frames_test": 1, "eval_batch_size": 1}

    num_frames_test: int | None = field(
        default=None, metadata={"help": "Frames of a video, in clips of --num_frames; defaults to one clip."}
    )
    eval_frame_ensemble: str = field(
        default="lse",
        metadata={
            "choices": list(CLIP_ENSEMBLES),
            "help": "How to combine the clips' scores, or `concat`: all frames as one clip.",
        },
    )
    strided_clips: bool = field(
        default=False, metadata={"help": "A clip of C takes every C-th frame, not consecutive ones."}
    )
    eval_batch_size: int = field(default=32, metadata={"help": "Videos encoded at once by one process."})

    def set_frames(self, num_frames: int):
        """Fill in `num_frames_test`, given the frames of a clip; raise an `InputError` where no whole clips fit."""
        if self.num_frames_test is None:
            self.num_frames_test = num_frames
        if self.eval_frame_ensemble != "concat" and self.num_frames_test % num_frames:
            raise InputError(
                f"--num_frames_test {self.num_frames_test} must be a multiple of --num_frames, which is {num_frames}."
            )


def check_length(option: str, length: int | None, config: PreTrainedConfig):
    """Raise an `InputError` for a text of more tokens than its encoder or decoder has positions."""
    if length is not None and length > config.max_position_embeddings:
        raise InputError(
            f"--{option} {length}: must be at most {config.max_position_embeddings}, the model's positions."
        )
