# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Stands in for `conversion.load_model_and_processor` until that is there; then this file goes."""

from ..data.loaders import ProcessingArguments
from ..training.start import load_as_saved


def load_model_and_processor(path: str, num_frames: int | None = None):
    return load_as_saved(path, ProcessingArguments(num_frames=num_frames))
