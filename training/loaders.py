# Copyright 2026 The SViTT for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
"""From rows to batches: one loader a task, videos decoded in worker processes, bad videos reported, media mixed.

Batches carry frames as bytes (`clips`, `clip_sizes`, `flips`), which `SViTTVideoProcessor.to_pixel_values` resizes,
flips and normalises on the device: see [`to_model_inputs`]. They also carry `bad_videos`, those that could not be read.
"""

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset
from torch.utils.data import DataLoader, IterableDataset, Sampler
from torch.utils.data import Dataset as TorchDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from ..processing_svitt import SViTTProcessor, VideoDecodeError
from .processes import InputError, progress_bar, share_of
from .streaming import ShuffledStream, stable_id

# So many videos in a row that cannot be read are no accident.
MAX_BAD_IN_A_ROW = 10


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
    decode_short_side: int | None = field(
        default=None,
        metadata={"help": "Training: scale larger frames down to this shorter side while decoding, which is faster."},
    )
    bad_videos: str = field(
        default="skip",
        metadata={
            "choices": ["skip", "error"],
            "help": "Training, for videos that cannot be read: take another at random and report them, or stop.",
        },
    )
    bad_eval_videos: str = field(
        default="error",
        metadata={
            "choices": ["error", "score_as_missed"],
            "help": "Evaluation: stop at a video that cannot be read, or report it and count it as never found.",
        },
    )

    def missing_videos(self, is_training: bool) -> str:
        """What loading annotations does about files that are not there: `"allow"` or `"error"`."""
        policy = self.bad_videos if is_training else self.bad_eval_videos
        return "error" if policy == "error" else "allow"


# ---------------------------------------------------------------------------------------------------------------------
# Rows with clips
# ---------------------------------------------------------------------------------------------------------------------

# Columns of rows that have been read: `clip` is what `read_clip` returned, None if that was impossible; `bad_videos`
# lists the videos that could not be read for this row, {"video", "error"}.


def name_of(video: Mapping) -> str:
    return video["path"] or "<bytes>"


class ClipDataset(TorchDataset):
    """Rows of a dataset with the clips of their videos.

    An item is asked for by its index, or by its index and the seed of all that is drawn for it.

    Args:
        rows: with a column `video`.
        read_clip: as `SViTTVideoProcessor.read_clip`.
        bad_videos: for a video that cannot be read. `"error"`: raise; `"keep"`: give the row without a clip; `"skip"`:
            give another row in its place, drawn at random, so that batches keep their size on all processes.

    Raises:
        VideoDecodeError: when a row is read, see `bad_videos`; if one is skipped, after ten in a row.
    """

    def __init__(self, rows: Dataset, read_clip: Callable, bad_videos: str = "error"):
        self.rows, self.read_clip, self.bad_videos = rows, read_clip, bad_videos

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict:
        index, seed = item if isinstance(item, tuple) else (item, None)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        found = []
        for _ in range(MAX_BAD_IN_A_ROW):
            row = self.rows[index]
            video = row.pop("video")
            row["name"] = name_of(video)
            try:
                return row | {"clip": self.read_clip(video, seed=seed), "bad_videos": found}
            except VideoDecodeError as error:
                if self.bad_videos == "error":
                    raise
                found = [*found, {"video": name_of(video), "error": str(error)}]
            if self.bad_videos == "keep":
                return row | {"clip": None, "bad_videos": found}
            index = torch.randint(len(self.rows), (), generator=generator).item()
        raise too_many_in_a_row(found)


class ClipStream(IterableDataset):
    """Rows of a stream with the clips of their videos; those that cannot be read are left out, and reported by the next
    row that can.

    Args:
        rows: a `ShuffledStream`.
        seed: with the epoch and the row, it fixes what is drawn for a clip.
        read_clip: as `SViTTVideoProcessor.read_clip`.
        bad_videos: `"skip"`, or `"error"` to raise a `VideoDecodeError`; after ten in a row it is raised anyway.
    """

    def __init__(self, rows: ShuffledStream, read_clip: Callable, bad_videos: str = "skip", seed: int = 0):
        self.rows, self.read_clip, self.bad_videos, self.seed = rows, read_clip, bad_videos, seed

    def __iter__(self) -> Iterator[dict]:
        found = []
        for row in self.rows:
            row = dict(row)
            video = row.pop("video")
            row["name"] = name_of(video)
            text = row.get("caption") or row["question"]
            try:
                clip = self.read_clip(video, seed=stable_id(f"{self.seed} {self.rows.epoch} {row['name']} {text}"))
            except VideoDecodeError as error:
                if self.bad_videos == "error":
                    raise
                found.append({"video": name_of(video), "error": str(error)})
                if len(found) == MAX_BAD_IN_A_ROW:
                    raise too_many_in_a_row(found) from error
                continue
            yield row | {"clip": clip, "bad_videos": found}
            found = []

    def set_epoch(self, epoch: int):
        self.rows.set_epoch(epoch)

    def state_dict(self) -> dict:
        return self.rows.state_dict()

    def load_state_dict(self, state: dict):
        self.rows.load_state_dict(state)


def too_many_in_a_row(bad_videos: list[dict]) -> VideoDecodeError:
    return VideoDecodeError(
        f"{bad_videos[-1]['error'].rstrip('.')}; and the {len(bad_videos) - 1} videos tried before it could not be "
        "read either."
    )


# ---------------------------------------------------------------------------------------------------------------------
# Loaders
# ---------------------------------------------------------------------------------------------------------------------


def training_clip_reader(
    processor: SViTTProcessor, args: ProcessingArguments, num_frames: int | None = None
) -> Callable:
    """Reads random frames, by default as many as the processor says, and a random crop of them, of a video."""
    return partial(
        processor.video_processor.read_clip,
        num_frames=num_frames or processor.video_processor.num_frames,
        sampling="rand",
        do_augment=args.augment,
        flip_prob=args.flip_prob,
        decode_short_side=args.decode_short_side,
    )


def worker_settings(num_workers: int) -> dict:
    """Of a DataLoader: workers live as long as it does, and hand over memory that a GPU copies without waiting."""
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.accelerator.is_available(),
        "worker_init_fn": ignore_sigterm,
        "generator": torch.Generator(),  # of seeds for workers: the global state belongs to the model
    }


def ignore_sigterm(worker: int):
    """Schedulers send it to workers, too, which must live until the main process has finished its step."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """This process's batches of an epoch: indices of rows, each with the seed of what is drawn for the row.

    Processes take turns in the permutation of an epoch, batch by batch, so that w of them with batches of B rows see
    together what one sees with batches of w * B rows. The last rows, too few for a batch of each process, are left
    out, unless there are no others.

    Args:
        num_rows: of the dataset.
        batch_size: of one process.
        seed: with the epoch, fixes everything.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int):
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed
        self.epoch, self.start = 1, 0  # the first batch to give

    def __len__(self) -> int:
        return max(self.num_rows // (self.batch_size * PartialState().num_processes), 1)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, num_processes = PartialState().process_index, PartialState().num_processes
        generator = torch.Generator().manual_seed(stable_id(f"{self.seed} {self.epoch}"))
        order = torch.randperm(self.num_rows, generator=generator).tolist()
        seeds = torch.randint(2**62, (self.num_rows,), generator=generator).tolist()
        while num_processes > 1 and len(order) < self.batch_size * num_processes:
            order += order  # so that all processes have a batch, and of equal sizes
        for number in range(self.start, len(self)):
            first = (number * num_processes + rank) * self.batch_size
            yield [(index, seeds[index]) for index in order[first : first + self.batch_size]]


class RowLoader:
    """Training batches of a dataset, which can go on after any batch without reading those before it.

    Args:
        rows: a [`ClipDataset`].
        batch_size, seed: see [`EpochSampler`].
        collate: makes a batch of rows.
        num_workers: processes that read.
    """

    def __init__(self, rows: ClipDataset, batch_size: int, seed: int, collate: Callable, num_workers: int = 0):
        self.sampler, self.num_given = EpochSampler(len(rows), batch_size, seed), 0
        settings = worker_settings(num_workers)
        self.loader = DataLoader(rows, batch_sampler=self.sampler, collate_fn=collate, **settings)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int):
        if epoch != self.sampler.epoch:
            self.sampler.epoch, self.sampler.start = epoch, 0

    def __iter__(self) -> Iterator[dict]:
        batches, self.num_given = iter(self.loader), self.sampler.start
        for batch in batches:
            self.num_given += 1
            yield batch
        self.sampler.start = 0

    def state_dict(self) -> dict:
        """Where to go on: after the batch that was given last."""
        return {"epoch": self.sampler.epoch, "batches": self.num_given}

    def load_state_dict(self, state: dict):
        """Let the next iteration go on at a state of [`state_dict`]."""
        self.sampler.epoch, self.sampler.start = state["epoch"], state["batches"]


class StreamLoader:
    """Training batches of a stream, which can go on after any batch; an epoch has no length that is known.

    Args:
        rows: a [`ClipStream`].
        batch_size: of one process.
        collate: makes a batch of rows.
        num_workers: processes that read; to go on, there must be as many.
    """

    def __init__(self, rows: ClipStream, batch_size: int, collate: Callable, num_workers: int = 0):
        self.rows, self.num_workers = rows, num_workers
        settings = worker_settings(num_workers)
        self.loader = StatefulDataLoader(rows, batch_size, drop_last=True, collate_fn=collate, **settings)

    def set_epoch(self, epoch: int):
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict]:
        return iter(self.loader)

    def state_dict(self) -> dict:
        """Where to go on: after the batch that was given last."""
        return {"num_workers": self.num_workers, "loader": self.loader.state_dict()}

    def load_state_dict(self, state: dict):
        """Let the next iteration go on at a state of [`state_dict`]; `set_epoch` must be called with its epoch."""
        if state["num_workers"] != self.num_workers:
            raise InputError(
                f"--num_workers {self.num_workers}: a stream that was read by {state['num_workers']} workers goes on "
                "with as many."
            )
        self.loader.load_state_dict(state["loader"])


def pair_loader(
    pairs: Dataset,
    processor: SViTTProcessor,
    batch_size: int,
    args: ProcessingArguments,
    seed: int = 0,
    num_frames: int | None = None,
) -> RowLoader:
    """Training batches of [`training_pairs`]: clips of random frames, `input_ids`, `attention_mask`, `video_ids`."""
    rows = ClipDataset(pairs, training_clip_reader(processor, args, num_frames), args.bad_videos)
    return RowLoader(rows, batch_size, seed, partial(collate_pairs, processor=processor), args.num_workers)


def question_loader(
    questions: Dataset, processor: SViTTProcessor, batch_size: int, args: ProcessingArguments, seed: int = 0
) -> RowLoader:
    """Training batches of [`load_questions`]: clips, `input_ids` and `attention_mask` of questions, their `answers`."""
    rows = ClipDataset(questions, training_clip_reader(processor, args), args.bad_videos)
    return RowLoader(rows, batch_size, seed, partial(collate_questions, processor=processor), args.num_workers)


def pair_stream_loader(
    rows: ShuffledStream,
    processor: SViTTProcessor,
    batch_size: int,
    args: ProcessingArguments,
    seed: int = 0,
    num_frames: int | None = None,
) -> StreamLoader:
    """As [`pair_loader`], of a stream of this process, in its order."""
    clips = ClipStream(rows, training_clip_reader(processor, args, num_frames), args.bad_videos, seed)
    return StreamLoader(clips, batch_size, partial(collate_pairs, processor=processor), args.num_workers)


def video_loader(
    videos: Dataset,
    processor: SViTTProcessor,
    num_frames: int,
    batch_size: int,
    args: ProcessingArguments,
) -> DataLoader:
    """Batches of a column `video`, in order: frames from the middle of `num_frames` equal intervals.

    With `args.bad_eval_videos="score_as_missed"`, a video that cannot be read has black frames, and `is_missing` is
    true for it.
    """
    read_clip = partial(processor.video_processor.read_clip, num_frames=num_frames)
    policy = {"error": "error", "score_as_missed": "keep"}[args.bad_eval_videos]
    return DataLoader(
        ClipDataset(videos, read_clip, policy),
        batch_size,
        collate_fn=partial(collate_videos, processor=processor, num_frames=num_frames),
        **worker_settings(args.num_workers) | {"persistent_workers": False},
    )


def text_batches(texts: list[str], processor: SViTTProcessor, batch_size: int = 128) -> Iterator[dict]:
    """Batches of `input_ids` and `attention_mask` of this process's share of the texts, in order.

    All are padded to the longest of all texts, so that what is made of them can be gathered.
    """
    share = {name: share_of(tensor) for name, tensor in processor(text=texts, return_tensors="pt").items()}
    for start in range(0, len(share["input_ids"]), batch_size):
        yield {name: tensor[start : start + batch_size] for name, tensor in share.items()}


def collate_clips(rows: list[dict], processor: SViTTProcessor) -> dict:
    clips = processor.video_processor.collate_clips([row["clip"] for row in rows])
    bad_videos = [bad for row in rows for bad in row["bad_videos"]]
    return {**clips, "videos": [row["name"] for row in rows], "bad_videos": bad_videos}


def collate_pairs(rows: list[dict], processor: SViTTProcessor) -> dict:
    text = processor(text=[row["caption"] for row in rows], return_tensors="pt")
    return {**collate_clips(rows, processor), **text, "video_ids": torch.tensor([row["video_id"] for row in rows])}


def collate_questions(rows: list[dict], processor: SViTTProcessor) -> dict:
    text = processor(text=[row["question"] for row in rows], return_tensors="pt")
    return {**collate_clips(rows, processor), **text, "answers": [row["answer"] for row in rows]}


def collate_videos(rows: list[dict], processor: SViTTProcessor, num_frames: int) -> dict:
    """`clips` that have their size already, `is_missing` (B,)."""
    size = processor.video_processor.size
    black = torch.zeros(num_frames, 3, size["height"], size["width"], dtype=torch.uint8), False
    is_missing = [row["clip"] is None for row in rows]
    clips = processor.video_processor.collate_clips([row["clip"] or black for row in rows])["clips"]
    bad_videos = [bad for row in rows for bad in row["bad_videos"]]
    return {"clips": clips, "is_missing": torch.tensor(is_missing), "bad_videos": bad_videos}


def to_model_inputs(batch: dict, processor: SViTTProcessor) -> dict:
    """Finish the clips of a batch on the device where it is: they become `pixel_values` (B, T, 3, H, W) float32."""
    clips = {name: batch.pop(name) for name in ("clips", "clip_sizes", "flips") if name in batch}
    return batch | {"pixel_values": processor.video_processor.to_pixel_values(**clips)}


def model_batches(
    loader: DataLoader, processor: SViTTProcessor, device: torch.device, bad_videos: "BadVideoReport"
) -> Iterator[dict]:
    """Batches of a loader that Accelerate does not prepare, on the device and ready for the model, with progress."""
    for batch in progress_bar(loader, "videos"):
        bad_videos.take_from(batch)
        yield to_model_inputs(send_to_device(batch, device, non_blocking=True), processor)


# ---------------------------------------------------------------------------------------------------------------------
# Bad videos
# ---------------------------------------------------------------------------------------------------------------------


class BadVideoReport:
    """Collects the videos that batches report as bad, and writes them down with [`write`].

    Args:
        path: file to which one JSON object a line is added, {"split", "epoch", "video", "error"}. One of an earlier
            run is removed.
        resume: whether this goes on with an earlier run, so that its file stays.
    """

    def __init__(self, path: str | Path, resume: bool = False):
        self.path, self.found = Path(path), {}
        if PartialState().is_main_process and not resume:
            self.path.unlink(missing_ok=True)

    def take_from(self, batch: dict):
        """Remove `bad_videos` from a batch and remember them."""
        self.found |= {bad["video"]: bad["error"] for bad in batch.pop("bad_videos", ())}

    def write(self, split: str, epoch: int | None = None) -> int:
        """Write down what all processes have found since the last time, each video once, and return how many."""
        found = {}
        for part in gather_object([self.found]):
            found |= part
        self.found = {}
        if found and PartialState().is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                for video in sorted(found):
                    line = {"split": split, "epoch": epoch, "video": video, "error": found[video]}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return len(found)


# ---------------------------------------------------------------------------------------------------------------------
# Several media
# ---------------------------------------------------------------------------------------------------------------------


class MixedLoader:
    """Batches of several loaders, such as of videos and of images: each step takes one, the same on all processes.

    In an epoch every batch of every loader comes once, in an order that `seed` and the epoch fix, as with the
    original's MetaLoader. If there are streams, each step draws a loader, and the epoch ends when one has no more.
    Batches get a key `medium`.

    Args:
        loaders: by medium.
        seed: of the order.
    """

    def __init__(self, loaders: dict[str, "RowLoader | StreamLoader"], seed: int = 0):
        self.loaders, self.seed, self.epoch = loaders, seed, 1
        self.num_given = self.start = 0

    def set_epoch(self, epoch: int):
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0
        for loader in self.loaders.values():
            loader.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(map(len, self.loaders.values()))

    def schedule(self) -> Iterator[str]:
        """The medium of each step of the epoch."""
        rng = np.random.default_rng((self.seed, self.epoch))
        if any(isinstance(loader, StreamLoader) for loader in self.loaders.values()):
            while True:
                yield list(self.loaders)[rng.integers(len(self.loaders))]
        media = [medium for medium, loader in self.loaders.items() for _ in range(len(loader))]
        yield from rng.permutation(media).tolist()

    def __iter__(self) -> Iterator[dict]:
        batches = {medium: iter(loader) for medium, loader in self.loaders.items()}
        self.num_given = self.start
        for medium in islice(self.schedule(), self.start, None):
            batch = next(batches[medium], None)
            if batch is None:
                break
            self.num_given += 1
            yield {**batch, "medium": medium}
        self.start = 0

    def state_dict(self) -> dict:
        """Where to go on: after the batch that was given last."""
        loaders = {medium: loader.state_dict() for medium, loader in self.loaders.items()}
        return {"batches": self.num_given, "loaders": loaders}

    def load_state_dict(self, state: dict):
        """Let the next iteration go on at a state of [`state_dict`]; `set_epoch` must be called with its epoch."""
        self.start = state["batches"]
        for medium, loader in self.loaders.items():
            loader.load_state_dict(state["loaders"][medium])


# What a training takes.
TrainingLoader = RowLoader | StreamLoader | MixedLoader
