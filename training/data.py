# Copyright 2026 The SViTT for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
"""Annotations as the original's users have them: JSON lists beside a folder of videos, checked before any work."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import PartialState
from datasets import Dataset, Features, List, Value
from torch.utils.data import DataLoader
from transformers import BatchFeature, PreTrainedModel

from ..processing_svitt import SViTTProcessor
from .processes import InputError, share_of


def read_annotations(annotation_file: str | Path) -> list[dict]:
    """Rows of a JSON list of objects; `id`, where rows have one, names a row.

    Raises:
        InputError: if the file is missing, not JSON, not a list of objects, empty, or uses an `id` twice.
    """
    annotation_file = Path(annotation_file)
    if not annotation_file.is_file():
        raise InputError(f"{annotation_file}: there is no such annotation file.")
    try:
        rows = json.loads(annotation_file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{annotation_file}: not a JSON file ({error}).") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{annotation_file}: must hold a JSON list of at least one annotation.")
    first_row_of = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f'{annotation_file}, row {number}: must be an object such as {{"video": …}}, got {row!r}.')
        if "id" in row:
            check_first_use(annotation_file, number, "id", row["id"], first_row_of)
    return rows


def check_first_use(annotation_file: Path, row_number: int, field: str, value, first_row_of: dict):
    """Raise an `InputError` for a value that an earlier row has; `first_row_of` is filled with values seen."""
    first = first_row_of.setdefault(json.dumps(value), row_number)
    if first != row_number:
        raise InputError(f"{annotation_file}, row {row_number}: `{field}` {value!r} was already used in row {first}.")


def strings_of(annotation_file: Path, row_number: int, row: dict, field: str) -> list[str]:
    """The strings of a field that holds one string or a list of them, none blank."""
    if field not in row:
        raise InputError(f"{annotation_file}, row {row_number}: `{field}` is missing.")
    values = row[field] if isinstance(row[field], list) else [row[field]]
    if not values or not all(isinstance(value, str) and value.strip() for value in values):
        raise InputError(
            f"{annotation_file}, row {row_number}: `{field}` must be a string or a list of strings, none blank, got "
            f"{row[field]!r}."
        )
    return values


def load_captions(
    annotation_file: str | Path, video_dir: str | Path, join_captions: bool = False, unique_videos: bool = False
) -> Dataset:
    """Load retrieval annotations `{"video": "a.mp4", "caption": "a cat plays"}`; each may also be a list of strings.

    Args:
        annotation_file: JSON list.
        video_dir: folder that the names of videos are relative to.
        join_captions: paragraph retrieval: a row's captions are joined with spaces into one.
        unique_videos: whether a video must not occur twice, as for evaluation, where it would be its own rival.

    Returns:
        A dataset with one row per annotation: `video`, a list of paths, and `caption`, a list of strings. All videos of
        a row match all its captions.

    Raises:
        InputError: if the file cannot be read as such, or a video is missing or occurs twice.
    """
    annotation_file, video_dir = Path(annotation_file), Path(video_dir)
    if not video_dir.is_dir():
        raise InputError(f"{video_dir}: there is no such folder of videos.")
    rows, first_row_of = {"video": [], "caption": []}, {}
    for number, row in enumerate(read_annotations(annotation_file), start=1):
        videos = strings_of(annotation_file, number, row, "video")
        captions = strings_of(annotation_file, number, row, "caption")
        for video in videos:
            if unique_videos:
                check_first_use(annotation_file, number, "video", video, first_row_of)
            if not (video_dir / video).is_file():
                raise InputError(f"{annotation_file}, row {number}: `video` {video!r} is not in {video_dir}.")
        rows["video"].append([str(video_dir / video) for video in videos])
        rows["caption"].append([" ".join(captions)] if join_captions else captions)
    strings = List(Value("string"))
    return Dataset.from_dict(rows, features=Features({"video": strings, "caption": strings}))


def training_pairs(captions: Dataset, match_by: str = "video") -> Dataset:
    """All pairs of a video and one of its captions.

    Args:
        captions: of [`load_captions`].
        match_by: `"video"` or `"caption"` (SSv2, where many videos share one): pairs in which it is the same are
            positives of each other.

    Returns:
        A dataset with columns `video` (path), `caption` and `video_id`, equal for positives.
    """
    pairs, id_of = {"video": [], "caption": [], "video_id": []}, {}
    for row in captions:
        for video in row["video"]:
            for caption in row["caption"]:
                key = video if match_by == "video" else caption
                pairs["video"].append(video)
                pairs["caption"].append(caption)
                pairs["video_id"].append(id_of.setdefault(key, len(id_of)))
    return Dataset.from_dict(pairs)


class RetrievalSet(NamedTuple):
    """V videos to be matched with T texts; `texts_of_video[v]` are the indices of the texts of video v."""

    videos: list[str]
    texts: list[str]
    texts_of_video: list[list[int]]


def retrieval_set(captions: Dataset) -> RetrievalSet:
    """Videos and texts of [`load_captions`] with `unique_videos`, in their order."""
    videos, texts, texts_of_video = [], [], []
    for row in captions:
        texts_of_row = list(range(len(texts), len(texts) + len(row["caption"])))
        videos += row["video"]
        texts += row["caption"]
        texts_of_video += [texts_of_row] * len(row["video"])
    return RetrievalSet(videos, texts, texts_of_video)


@dataclass
class ProcessingArguments:
    """From files to tensors."""

    _argument_group_name = "processing"

    num_frames: int | None = field(default=None, metadata={"help": "Frames of a clip; by default the model's own."})
    max_text_length: int | None = field(
        default=None, metadata={"help": "Tokens of a caption, the rest is cut off; by default the model's own."}
    )
    augment: bool = field(default=True, metadata={"help": "Train on random crops and flips, the same for a clip."})
    flip_prob: float = field(
        default=0.5, metadata={"help": "Probability of a flip, which swaps left and right; 0 where captions name them."}
    )
    num_workers: int = field(default=0, metadata={"help": "Processes that decode videos, beside each main process."})


def load_model_and_processor(
    model_class: type[PreTrainedModel], path: str, args: ProcessingArguments
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """A model in float32, and its processor with the number of frames and the text length of `args`.

    Raises:
        InputError: if there is no such model.
    """
    overrides = {"num_frames": args.num_frames, "max_length": args.max_text_length}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    try:
        model = model_class.from_pretrained(path, dtype=torch.float32)
        return model, SViTTProcessor.from_pretrained(path, **overrides)
    except OSError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{path}: cannot be loaded as a model with its processor ({reason}).") from error


def pair_loader(pairs: Dataset, processor: SViTTProcessor, batch_size: int, args: ProcessingArguments) -> DataLoader:
    """Training batches: `pixel_values` (B, T, C, H, W) of random frames, `input_ids`, `attention_mask`, `video_ids`.

    A last smaller batch, with too few negatives, is left out unless there is no other.
    """
    return DataLoader(
        pairs,
        batch_size,
        shuffle=True,
        drop_last=len(pairs) >= batch_size * PartialState().num_processes,
        collate_fn=partial(collate_pairs, processor=processor, do_augment=args.augment, flip_prob=args.flip_prob),
        num_workers=args.num_workers,
    )


def collate_pairs(rows: list[dict], processor: SViTTProcessor, **augmentation) -> BatchFeature:
    batch = processor(
        videos=[row["video"] for row in rows],
        text=[row["caption"] for row in rows],
        sampling="rand",
        return_tensors="pt",
        **augmentation,
    )
    batch["video_ids"] = torch.tensor([row["video_id"] for row in rows])
    return batch


def video_loader(
    videos: list[str], processor: SViTTProcessor, num_frames: int, batch_size: int, num_workers: int = 0
) -> DataLoader:
    """Batches of `pixel_values` (B, num_frames, C, H, W), in order; frames from the middle of equal intervals."""
    collate = partial(collate_videos, processor=processor, num_frames=num_frames)
    return DataLoader(videos, batch_size, collate_fn=collate, num_workers=num_workers)


def collate_videos(videos: list[str], processor: SViTTProcessor, num_frames: int) -> torch.Tensor:
    return processor(videos=videos, num_frames=num_frames, return_tensors="pt")["pixel_values"]


def text_batches(texts: list[str], processor: SViTTProcessor, batch_size: int = 128) -> Iterator[dict]:
    """Batches of `input_ids` and `attention_mask` of this process's share of the texts, in order.

    All are padded to the longest of all texts, so that what is made of them can be gathered.
    """
    share = {name: share_of(tensor) for name, tensor in processor(text=texts, return_tensors="pt").items()}
    for start in range(0, len(share["input_ids"]), batch_size):
        yield {name: tensor[start : start + batch_size] for name, tensor in share.items()}
