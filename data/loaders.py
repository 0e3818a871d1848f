# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""From rows to batches: videos are read by number in worker processes, bad ones reported, media mixed.

Batches carry clips as bytes, which [`to_model_inputs`] normalises on the device; `videos`, their names; and
`bad_videos`, those that could not be read. What a training batch holds is a function of the seed, the epoch and its
place in it, so that training that was stopped continues with the very batches it would have seen.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.hf_argparser import HfArg
from transformers.video_utils import VideoMetadata

from ..distributed import progress_bar, share_of
from ..errors import ArgumentGroup
from ..processing_svitt import SViTTProcessor, VideoDecodeError
from .files import write_bad_videos
from .shards import read_member

# So many videos in a row that cannot be read are no accident.
MAX_BAD_IN_A_ROW = 10
# Rows to train on whose texts are looked at: a second's work.
ROWS_LOOKED_AT = 10_000
# Shards whose rows are shuffled together: more mix better, fewer are read from a smaller part of a disk at a time.
SHARDS_AT_ONCE = 8


@dataclass
class ProcessingArguments(ArgumentGroup):
    """From files to tensors."""

    _argument_group_name = "processing"
    at_least = {"num_frames": 1, "max_text_length": 2, "flip_prob": 0, "decode_short_side": 1}

    num_frames: int | None = HfArg(default=None, help="Frames of a clip; by default the model's own.")
    max_text_length: int | None = HfArg(
        default=None, help="Tokens of a caption or question, the rest is cut off; by default the model's own."
    )
    augment: bool = HfArg(default=True, help="Train on random crops and flips, the same for a clip.")
    flip_prob: float = HfArg(
        default=0.5, help="Probability of a flip, which swaps left and right; 0 where captions name them."
    )
    decode_short_side: int | None = HfArg(
        default=None, help="Training: scale larger frames down to this shorter side while decoding, which is faster."
    )
    bad_videos: Literal["skip", "error"] = HfArg(
        default="skip",
        help="Training, for videos that cannot be read: take another and report them, or stop.",
    )
    bad_eval_videos: Literal["error", "score_as_missed"] = HfArg(
        default="error",
        help="Evaluation: stop at a video that cannot be read, or report it and count it as missed.",
    )
    damaged: Literal["refuse", "use"] = HfArg(
        default="refuse",
        help="Files that are damaged or cut off: count as bad videos, or `use` and report the frames that are left.",
    )
    frame_order: Literal["normal", "reverse", "shuffle", "freeze"] = HfArg(
        default="normal",
        help="Evaluation, to see what a model makes of time: reverse or shuffle a video's frames, or repeat one.",
    )


# ---- Rows with clips


@dataclass(eq=False)
class ClipDataset:
    """Rows of a dataset with the clips of their videos: `clips[row]`, or in training `clips[row, epoch]`.

    An item has the columns of its row, where `video` is the name of the video; `clip`, that `read_clip` returned, or
    None; and `bad_videos`, a list of `{"video", "error"}`. What is random in a row is drawn from the seed, the epoch
    and the number of the row.

    Raises:
        VideoDecodeError: when a row is read, see `bad_videos`; if one is skipped, after ten in a row.
    """

    rows: Dataset  # with a column `video`, and perhaps `shard`, `offset` and `size`, where its bytes are
    read_clip: Callable  # as `SViTTVideoProcessor.read_clip` with `return_metadata`
    # For a video that cannot be read. "error": raise; "score_as_missed": give the row without a clip; "skip": give
    # another row at random in its place, so that batches keep their size on all processes.
    bad_videos: str = "error"
    seed: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int | tuple[int, int]) -> dict:
        index, epoch = place if isinstance(place, tuple) else (place, 0)
        draw, found = np.random.default_rng((self.seed, epoch, index)).integers, []
        for _ in range(MAX_BAD_IN_A_ROW):
            row = self.rows[index]
            video = row["video"]
            row["video"] = video["path"] or "<bytes>"
            if row.get("shard"):
                video = {"path": row["video"], "bytes": read_member(row["shard"], row["offset"], row["size"])}
            if row.get("where"):  # it is a span
                video |= {"start": row.get("start"), "end": row.get("end")}
            try:
                clip, metadata = self.read_clip(video, seed=int(draw(2**63)))
                if metadata.damage:
                    found = [*found, {"video": row["video"], "error": metadata.damage}]
                return row | {"clip": clip, "bad_videos": found}
            except VideoDecodeError as error:
                if row.get("where"):
                    error = VideoDecodeError(f"{str(error).rstrip('.')}; see {row['where']}.")
                if self.bad_videos == "error":
                    raise error
                found = [*found, {"video": row["video"], "error": str(error)}]
            if self.bad_videos == "score_as_missed":
                return row | {"clip": None, "bad_videos": found}
            index = int(draw(len(self.rows)))
        reason = found[-1]["error"].rstrip(".")
        raise VideoDecodeError(f"{reason}; and the {len(found) - 1} videos tried before it could not be read either.")


@dataclass(eq=False)
class MixedClips:
    """Rows of several [`ClipDataset`]s by medium, such as videos and images: `clips[medium, row, epoch]`."""

    parts: dict[str, ClipDataset]

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def __getitem__(self, place: tuple[str, int, int]) -> dict:
        medium, row, epoch = place
        return self.parts[medium][row, epoch]


# ---- Which rows, in which order


@dataclass(eq=False)
class ShuffledBatches:
    """The rows in each of a process's batches: [(row, epoch), …], as [`ClipDataset`] takes them.

    Each batch is this process's part of a batch of all processes, so that two processes with batches of four rows see
    the rows that one process with batches of eight would see. The rows left over in the end, too few negatives for each
    other, are left out. If there are too few for one batch, it is smaller, and the first rows are repeated if need be.
    """

    num_rows: int
    batch_size: int  # of one process
    seed: int = 0
    process_index: int | None = None  # by default that of the current process
    num_processes: int | None = None
    shards: np.ndarray | None = None  # (num_rows,) the number of each row's shard: a few are shuffled at a time
    epoch: int = 0  # which the order depends on, beside the seed

    def __post_init__(self):
        if self.num_processes is None:
            self.process_index, self.num_processes = PartialState().process_index, PartialState().num_processes
        self.batch_size = min(self.batch_size, -(-self.num_rows // self.num_processes))

    def __len__(self) -> int:
        return max(1, self.num_rows // (self.batch_size * self.num_processes))

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """Return the rows in their order in `epoch`."""
        generator = np.random.default_rng((self.seed, self.epoch))
        if self.shards is None:
            return generator.permutation(self.num_rows)
        turns = generator.permutation(self.shards.max() + 1) // SHARDS_AT_ONCE
        return np.lexsort((generator.random(self.num_rows), turns[self.shards]))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, size = self.epoch, self.batch_size
        order = np.resize(self.order(), max(self.num_rows, size * self.num_processes))  # repeats from the beginning
        for batch in range(len(self)):
            first = (batch * self.num_processes + self.process_index) * size
            yield [(row, epoch) for row in order[first : first + size].tolist()]


@dataclass(eq=False)
class MixedBatches:
    """The batches of several [`ShuffledBatches`] by medium: [(medium, row, epoch), …], as [`MixedClips`] takes them.

    A batch has one medium, the same on all processes. Every batch of every medium comes once in an epoch, in an order
    that the seed and the epoch fix.
    """

    parts: dict[str, ShuffledBatches]
    seed: int = 0
    epoch: int = 0

    @property
    def batch_size(self) -> int:
        return max(part.batch_size for part in self.parts.values())

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def set_epoch(self, epoch: int):
        self.epoch = epoch
        for part in self.parts.values():
            part.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[tuple[str, int, int]]]:
        media = [medium for medium, part in self.parts.items() for _ in range(len(part))]
        batches = {medium: iter(part) for medium, part in self.parts.items()}
        order = np.random.default_rng((self.seed, self.epoch)).permutation(media).tolist()
        for medium in order:
            yield [(medium, row, epoch) for row, epoch in next(batches[medium])]


# ---- Loaders


def training_loader(
    rows: dict[str, Dataset],
    processor: SViTTProcessor,
    batch_size: int,
    args: ProcessingArguments,
    collate: Callable,
    seed: int = 0,
    num_workers: int = 0,
) -> DataLoader:
    """Return batches of random frames, whose `batch_sampler` has `set_epoch`, see [`MixedBatches`].

    Accelerate must not prepare this loader: the batches are those of this process already.

    Args:
        rows: by medium, `"video"` or `"image"`, of which a clip is one frame: `training_pairs` or `load_questions`.
        batch_size: of one process.
        collate: [`collate_pairs`] or [`collate_questions`].
        num_workers: processes that decode, beside the main one.
    """
    clips, batches = {}, {}
    for medium, part in rows.items():
        read_clip = partial(
            processor.video_processor.read_clip,
            num_frames=1 if medium == "image" else args.num_frames or processor.video_processor.num_frames,
            sampling="rand",
            do_augment=args.augment,
            flip_prob=args.flip_prob,
            decode_short_side=args.decode_short_side,
            damaged=args.damaged,
            return_metadata=True,
        )
        clips[medium] = ClipDataset(part, read_clip, args.bad_videos, seed)
        batches[medium] = ShuffledBatches(len(part), batch_size, seed, shards=shard_numbers(part))
    return DataLoader(
        MixedClips(clips),
        batch_sampler=MixedBatches(batches, seed),
        collate_fn=partial(collate, processor=processor),
        **worker_settings(num_workers),
    )


def shard_numbers(rows: Dataset) -> np.ndarray | None:
    """Return the number of each row's shard, None if some are in files."""
    shards = rows.with_format("arrow")[:]["shard"] if "shard" in rows.column_names else None
    if shards is None or shards.null_count:
        return None
    return pc.dictionary_encode(shards.combine_chunks()).indices.to_numpy()


def worker_settings(num_workers: int) -> dict:
    """Return settings of a DataLoader: workers live as long as it does, and their memory is copied without waiting."""
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.accelerator.is_available(),
        "generator": torch.Generator(),  # else it would draw a seed for its workers from the global one
        "worker_init_fn": outlive_signals,
    }


def outlive_signals(worker: int):
    """Let a worker end at the SIGTERM of its main process alone, which needs it to finish a step: schedulers send it
    to all, and terminals send Ctrl-C. It may not ignore SIGTERM: Python, as it ends, sends it to its children and
    waits for them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # as on Windows and macOS
        return

    def wait():
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != multiprocessing.parent_process().pid:
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=wait, daemon=True).start()


def video_loader(
    videos: Dataset,
    processor: SViTTProcessor,
    num_frames: int,
    batch_size: int,
    args: ProcessingArguments,
    num_workers: int = 0,
) -> DataLoader:
    """Return batches of this process's share of videos, in order: frames from the middle of `num_frames` intervals.

    With `args.bad_eval_videos="score_as_missed"`, a video that cannot be read has black frames, and `is_missing` is
    true for it. What is random of `args.frame_order` depends on the number of a video alone.
    """
    how = {"num_frames": num_frames, "damaged": args.damaged, "return_metadata": True}
    read_clip = partial(processor.video_processor.read_clip, **how)
    if args.frame_order != "normal":
        read_clip = partial(read_reordered_clip, read_clip=read_clip, order=args.frame_order)
    return DataLoader(
        ClipDataset(videos, read_clip, args.bad_eval_videos),
        batch_size,
        sampler=share_of(range(len(videos))),
        collate_fn=partial(collate_videos, processor=processor, num_frames=num_frames),
        **worker_settings(num_workers) | {"persistent_workers": False},
    )


def read_reordered_clip(video, seed: int, read_clip: Callable, order: str) -> tuple[torch.Tensor, VideoMetadata]:
    """Return a clip, and its metadata, as a probe of what a model makes of time: in the order `"reverse"` or
    `"shuffle"`, or with `"freeze"` one of its frames, at random, repeated."""
    clip, metadata = read_clip(video, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    if order == "reverse":
        return clip.flip(0), metadata
    if order == "shuffle":
        return clip[torch.randperm(len(clip), generator=generator)], metadata
    return clip[torch.randint(len(clip), (1,), generator=generator).expand(len(clip))], metadata


def text_batches(texts: list[str], processor: SViTTProcessor, batch_size: int = 128) -> Iterator[dict]:
    """Yield batches of `input_ids` and `attention_mask` of this process's share of the texts, in order.

    All are padded to the longest of all texts, so that what is made of them can be gathered.
    """
    share = {name: share_of(tensor) for name, tensor in processor(text=texts, return_tensors="pt").items()}
    for start in range(0, len(share["input_ids"]), batch_size):
        yield {name: tensor[start : start + batch_size] for name, tensor in share.items()}


def count_cut(split: str, kind: str, rows: Sequence, processor: SViTTProcessor, most: int | None = None) -> int:
    """Return how many texts of rows, which may hold several, the processor cuts, and tell of them if there are any.

    It looks at `most` evenly spaced rows at most. `kind` is what the texts are: `answers` are encoded as such.
    """
    some = rows[:: -(-len(rows) // most)] if most else rows
    texts = [text for row in some for text in ([row] if isinstance(row, str) else row)]
    encode = processor.encode_answers if kind == "answers" else partial(processor, None)
    parts = encode(texts, padding=False, return_overflowing_tokens=True, return_tensors=None)
    num_cut = sum(count > 1 for count in Counter(parts["overflow_to_sample_mapping"]).values())
    if num_cut and PartialState().is_main_process:
        of = f"{len(texts):,} {kind}" + " looked at" * (len(some) < len(rows))
        print(f"{split}: {num_cut:,} of {of} are longer than {max(map(len, parts['input_ids']))} tokens and were cut")
    return num_cut


def collate_rows(rows: list[dict], processor: SViTTProcessor, texts: str) -> dict:
    text = processor(text=[row[texts] for row in rows], return_tensors="pt")
    clips, bad_videos = torch.stack([row["clip"] for row in rows]), sum((row["bad_videos"] for row in rows), [])
    return {"clips": clips, "videos": [row["video"] for row in rows], "bad_videos": bad_videos, **text}


def collate_pairs(rows: list[dict], processor: SViTTProcessor) -> dict:
    """Return a batch of `training_pairs`: `clips`, `input_ids`, `attention_mask`, `video_ids`, and lists of names."""
    batch = collate_rows(rows, processor, "caption")
    return batch | {"video_ids": torch.tensor([row["video_id"] for row in rows])}


def collate_questions(rows: list[dict], processor: SViTTProcessor) -> dict:
    """Return a batch of `load_questions`: `clips`, `input_ids` and `attention_mask` of questions, their `answers`."""
    return collate_rows(rows, processor, "question") | {"answers": [row["answer"] for row in rows]}


def collate_videos(rows: list[dict], processor: SViTTProcessor, num_frames: int) -> dict:
    """Return `clips`, `is_missing` (B,) and `bad_videos`."""
    size = processor.video_processor.size
    black = torch.zeros(num_frames, 3, size["height"], size["width"], dtype=torch.uint8)
    clips = [row["clip"] for row in rows]
    return {
        "clips": torch.stack([black if clip is None else clip for clip in clips]),
        "is_missing": torch.tensor([clip is None for clip in clips]),
        "bad_videos": sum((row["bad_videos"] for row in rows), []),
    }


def to_model_inputs(batch: dict, processor: SViTTProcessor) -> dict:
    """Return a batch whose `clips` have become `pixel_values` (B, T, 3, H, W) float32, on the device where it is."""
    return batch | {"pixel_values": processor.video_processor.to_pixel_values(batch.pop("clips"))}


def model_batches(
    loader: DataLoader, processor: SViTTProcessor, device: torch.device, bad_videos: "BadVideoReport"
) -> Iterator[dict]:
    """Yield the batches of [`video_loader`], on the device and ready for the model, with progress."""
    for batch in progress_bar(loader, "videos"):
        bad_videos.take_from(batch)
        yield to_model_inputs(send_to_device(batch, device, non_blocking=True), processor)


class BadVideoReport:
    """The videos that batches report as bad, and the file that [`write`] adds them to: see `files.write_bad_videos`.

    Args:
        path: of the file.
        resume: add to the file of the earlier run that is resumed, which is removed otherwise.
    """

    def __init__(self, path: str | Path, resume: bool = False):
        self.path, self.found = Path(path), {}
        if not resume and PartialState().is_main_process:
            self.path.unlink(missing_ok=True)

    def take_from(self, batch: dict):
        """Remove `bad_videos` from a batch and remember them."""
        self.found |= {bad["video"]: bad["error"] for bad in batch.pop("bad_videos", ())}

    def write(self, where: str) -> int:
        """Write down what all processes have found of a split, each video once; return how many since the last time."""
        found = dict(sorted(bad for part in gather_object([self.found]) for bad in part.items()))
        self.found = {}
        if found and PartialState().is_main_process:
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
            known = {(line["video"], line["where"]) for line in map(json.loads, text.splitlines())}
            lines = [{"video": video, "error": error, "where": where} for video, error in found.items()]
            write_bad_videos(self.path, [line for line in lines if (line["video"], where) not in known], append=True)
        return len(found)
