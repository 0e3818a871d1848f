# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""From rows to batches: one loader a task, videos decoded in worker processes, bad videos reported, media mixed.

Batches carry `clips` (B, T, 3, H, W) uint8, which `SViTTVideoProcessor.to_pixel_values` normalises on the device: see
[`to_model_inputs`]. They also carry `bad_videos`, those that could not be read, and for training `videos`, the names of
those that were.

What a training batch holds is a function of the seed, the epoch and its place in it, so that training that was stopped
goes on with the very batches it would have seen: see [`TrainingLoader`].
"""

import atexit
import ctypes
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from ..processing_svitt import SViTTProcessor, VideoDecodeError
from .arguments import ArgumentGroup
from .processes import InputError, numbers_of_share, progress_bar, share_of
from .streaming import ShuffledStream, stable_id

# So many videos in a row that cannot be read are no accident.
MAX_BAD_IN_A_ROW = 10
FRAME_ORDERS = ("normal", "reverse", "shuffle", "freeze")


@dataclass
class ProcessingArguments(ArgumentGroup):
    """From files to tensors."""

    _argument_group_name = "processing"
    at_least = {"num_frames": 1, "max_text_length": 2, "flip_prob": 0, "num_workers": 0, "decode_short_side": 1}

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
    frame_order: str = field(
        default="normal",
        metadata={
            "choices": list(FRAME_ORDERS),
            "help": "Evaluation, to see what a model makes of time: reverse or shuffle the frames of each video, or "
            "repeat one at random.",
        },
    )

    def missing_videos(self, is_training: bool) -> str:
        """What loading annotations does about files that are not there: `"allow"` or `"error"`."""
        policy = self.bad_videos if is_training else self.bad_eval_videos
        return "error" if policy == "error" else "allow"


# ---------------------------------------------------------------------------------------------------------------------
# Rows with clips
# ---------------------------------------------------------------------------------------------------------------------

# Columns of rows that have been read: `video` is its name; `clip` is what `read_clip` returned, None if that was
# impossible; `bad_videos` lists the videos that could not be read for this row, {"video", "error"}.


def name_of(video: Mapping) -> str:
    return video["path"] or "<bytes>"


class ClipDataset(TorchDataset):
    """Rows of a dataset with the clips of their videos: `clips[row]`, or in training `clips[row, epoch]`.

    What is random in a row is drawn from the seed, the epoch and the number of the row.

    Args:
        rows: with a column `video`.
        read_clip: as `SViTTVideoProcessor.read_clip`.
        bad_videos: for a video that cannot be read. `"error"`: raise; `"keep"`: give the row without a clip; `"skip"`:
            give another row at random in its place, so that batches keep their size on all processes.
        numbers: of the rows, by default from 0.

    Raises:
        VideoDecodeError: when a row is read, see `bad_videos`; if one is skipped, after ten in a row.
    """

    def __init__(
        self,
        rows: Dataset,
        read_clip: Callable,
        bad_videos: str = "error",
        seed: int = 0,
        numbers: Sequence[int] | None = None,
    ):
        self.rows, self.read_clip, self.bad_videos, self.seed = rows, read_clip, bad_videos, seed
        self.numbers = range(len(rows)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int | tuple[int, int]) -> dict:
        index, epoch = place if isinstance(place, tuple) else (place, 0)
        generator, found = np.random.default_rng((self.seed, epoch, self.numbers[index])), []
        for _ in range(MAX_BAD_IN_A_ROW):
            row = self.rows[index]
            video = row["video"]
            row["video"] = name_of(video)
            try:
                return row | {"clip": self.read_clip(video, seed=draw(generator, 2**63)), "bad_videos": found}
            except VideoDecodeError as error:
                if self.bad_videos == "error":
                    raise
                found = [*found, {"video": row["video"], "error": str(error)}]
            if self.bad_videos == "keep":
                return row | {"clip": None, "bad_videos": found}
            index = draw(generator, len(self.rows))
        raise too_many_in_a_row(found)


def draw(generator: np.random.Generator, end: int) -> int:
    return int(generator.integers(end))


class ClipStream(IterableDataset):
    """Rows of a stream with the clips of their videos; those that cannot be read are left out, and reported by the next
    row that can.

    Args:
        rows: such as a [`ShuffledStream`], whose state and epoch become those of this one.
        read_clip: as `SViTTVideoProcessor.read_clip`.
        bad_videos: `"skip"`, or `"error"` to raise a `VideoDecodeError`; after ten in a row it is raised anyway.
        seed: of the frames that are drawn, as are crops and flips, for a row of an epoch.
    """

    def __init__(self, rows: ShuffledStream, read_clip: Callable, bad_videos: str = "skip", seed: int = 0):
        self.rows, self.read_clip, self.bad_videos, self.seed = rows, read_clip, bad_videos, seed

    def __iter__(self) -> Iterator[dict]:
        return self._read(iter(self.rows), self.rows.epoch)  # at once: the state is now that of a new iteration

    def _read(self, rows: Iterator[dict], epoch: int) -> Iterator[dict]:
        found = []
        for row in rows:
            video = row["video"]
            row = row | {"video": name_of(video)}
            try:
                clip = self.read_clip(video, seed=self.seed_of(row, video, epoch))
            except VideoDecodeError as error:
                if self.bad_videos == "error":
                    raise
                found.append({"video": row["video"], "error": str(error)})
                if len(found) == MAX_BAD_IN_A_ROW:
                    raise too_many_in_a_row(found) from error
                continue
            yield row | {"clip": clip, "bad_videos": found}
            found = []

    def seed_of(self, row: dict, video: dict, epoch: int) -> int:
        """Does not depend on the worker that reads the row, nor on the folder where the shards lie."""
        text = row.get("caption", row.get("question"))
        return stable_id(repr((self.seed, epoch, os.path.basename(row["video"]), len(video["bytes"] or b""), text)))

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


class TrainingLoader:
    """Batches of this process, epoch after epoch, which go on exactly where a saved state says.

    No global random state has a part in them, and none is changed: it is left to the model. Accelerate must not prepare
    this loader, as it would read a batch ahead and draw from the global state.

    Args:
        settings: what a state is good for, by a name to call it in an error: with other settings it is refused.
    """

    def __init__(self, settings: dict):
        self.epoch, self.settings = 1, settings
        self._place: int | None = None  # after the batch given last; None is the beginning of the epoch
        self._resumes = False

    def set_epoch(self, epoch: int):
        """The epoch of the next iteration, from 1; a state that was loaded counts only if it is of this epoch."""
        if epoch != self.epoch:
            self.epoch, self._place, self._resumes = epoch, None, False

    def state_dict(self) -> dict:
        """Where to go on: after the batch that was given last, whatever workers have read ahead."""
        return {"epoch": self.epoch, "place": self._place, "settings": self.settings}

    def load_state_dict(self, state: dict):
        """Set the epoch of a state of [`state_dict`], and let the next iteration go on there.

        Raises:
            InputError: if the state is of other data, or of another number of processes or workers.
        """
        for name, now in self.settings.items():
            if (before := state["settings"].get(name)) != now:
                raise InputError(f"Training cannot go on from the saved state: {name} was {before}, but is {now} now.")
        self.set_epoch(state["epoch"])
        self._place, self._resumes = state["place"], True

    def __iter__(self) -> Iterator[dict]:
        if not self._resumes:
            self._place = None
        self._resumes = False
        return self._batches()

    def _batches(self) -> Iterator[dict]:
        """From `_place` on, which is kept up to date."""
        raise NotImplementedError


class ShuffledBatches:
    """Which rows are in each of a process's batches: [(row, epoch), …], as [`ClipDataset`] takes them.

    Each batch is this process's part of a batch of all processes, so that two processes with batches of four rows see
    the rows that one process with batches of eight would see. The rows left over in the end, too few negatives for each
    other, are left out. If there are too few for one batch, it is smaller, and the first rows are repeated if need be.

    Args:
        batch_size: of one process.
        process_index, num_processes: by default those of the current process.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        seed: int = 0,
        process_index: int | None = None,
        num_processes: int | None = None,
    ):
        state = PartialState()
        self.num_rows, self.seed = num_rows, seed
        self.process_index = state.process_index if process_index is None else process_index
        self.num_processes = num_processes or state.num_processes
        self.batch_size = min(batch_size, -(-num_rows // self.num_processes))
        self.epoch, self.start = 1, 0

    def __len__(self) -> int:
        return max(1, self.num_rows // (self.batch_size * self.num_processes))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """The batches of `epoch` from the number `start` on."""
        epoch, size = self.epoch, self.batch_size
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)
        order = np.resize(order, max(self.num_rows, size * self.num_processes))  # repeats from the beginning
        for batch in range(self.start, len(self)):
            first = (batch * self.num_processes + self.process_index) * size
            yield [(row, epoch) for row in order[first : first + size].tolist()]


class RowLoader(TrainingLoader):
    """Batches of rows that are all known, in a new order in each epoch.

    Args:
        clips: is read in workers, which live as long as the loader.
        batch_size: of one process.
        collate: makes a batch of rows.
    """

    def __init__(self, clips: ClipDataset, batch_size: int, collate: Callable, num_workers: int = 0):
        self.batches = ShuffledBatches(len(clips), batch_size, clips.seed)
        rows_in_a_batch = self.batches.batch_size * self.batches.num_processes
        super().__init__(
            {
                "the seed": clips.seed,
                "the number of rows": len(clips),
                "the number of rows in a batch of all processes": rows_in_a_batch,
            }
        )
        self.loader = DataLoader(clips, batch_sampler=self.batches, collate_fn=collate, **worker_settings(num_workers))

    def __len__(self) -> int:
        return len(self.batches)

    def _batches(self) -> Iterator[dict]:
        self.batches.epoch, self.batches.start = self.epoch, self._place or 0
        for place, batch in enumerate(self.loader, start=self.batches.start + 1):
            self._place = place
            yield batch


class StreamLoader(TrainingLoader):
    """Batches of a stream of this process, in its order; each worker reads a part of it. The arguments are those of
    [`RowLoader`]."""

    def __init__(self, clips: ClipStream, batch_size: int, collate: Callable, num_workers: int = 0):
        settings = {"the seed": clips.seed, "the number of processes": PartialState().num_processes}
        super().__init__(settings | {"--num_workers": num_workers})
        self.loader = StatefulDataLoader(
            clips, batch_size, drop_last=True, collate_fn=collate, **worker_settings(num_workers)
        )
        clips.set_epoch(self.epoch)

    def set_epoch(self, epoch: int):
        super().set_epoch(epoch)
        self.loader.dataset.set_epoch(epoch)

    def _batches(self) -> Iterator[dict]:
        if self._place is not None:
            self.loader.load_state_dict(self._place)
        for batch in self.loader:
            self._place = self.loader.state_dict()
            yield batch


class MixedLoader(TrainingLoader):
    """Batches of several loaders, such as of videos and of images: each step takes one, the same on all processes.

    If all have a length, every batch of every loader comes once in an epoch, in an order that `seed` and the epoch fix,
    as with the original's MetaLoader. If one is a stream, the medium of each step is drawn, and the epoch ends when the
    loader that was drawn has no more batch. Batches get a key `medium`.

    Args:
        loaders: by medium.
        weights: by medium, for the draws; equal by default.

    Raises:
        ValueError: if there are weights for loaders that all have a length.
    """

    def __init__(self, loaders: dict[str, TrainingLoader], seed: int = 0, weights: dict[str, float] | None = None):
        self.loaders, self.seed = loaders, seed
        self.is_drawn = not all(isinstance(loader, Sized) for loader in loaders.values())
        if weights is not None and not self.is_drawn:
            raise ValueError("Nothing is drawn by `weights` where every loader has a length.")
        self.weights = [1.0 if weights is None else weights[medium] for medium in loaders]
        mix = [list(pair) for pair in zip(loaders, self.weights, strict=True)]
        super().__init__({"the seed": seed, "the mix of media": mix})

    def set_epoch(self, epoch: int):
        super().set_epoch(epoch)
        for loader in self.loaders.values():
            loader.set_epoch(epoch)

    def state_dict(self) -> dict:
        states = {medium: loader.state_dict() for medium, loader in self.loaders.items()}
        return super().state_dict() | {"loaders": states}

    def load_state_dict(self, state: dict):
        super().load_state_dict(state)
        for medium, loader in self.loaders.items():
            loader.load_state_dict(state["loaders"][medium])

    def __len__(self) -> int:
        return sum(map(len, self.loaders.values()))  # type: ignore[arg-type]

    def schedule(self) -> Iterator[str]:
        """The medium of each step of the epoch; has no end if it is drawn."""
        generator, media = np.random.default_rng((self.seed, self.epoch)), list(self.loaders)
        if self.is_drawn:
            shares = np.array(self.weights) / sum(self.weights)
            while True:
                yield media[generator.choice(len(media), p=shares)]
        yield from generator.permutation(
            [medium for medium, loader in self.loaders.items() for _ in range(len(loader))]  # type: ignore[arg-type]
        ).tolist()

    def _batches(self) -> Iterator[dict]:
        batches = {medium: iter(loader) for medium, loader in self.loaders.items()}
        start = self._place or 0
        for place, medium in enumerate(islice(self.schedule(), start, None), start=start + 1):
            batch = next(batches[medium], None)
            if batch is None:
                return
            self._place = place
            yield {**batch, "medium": medium}


def worker_settings(num_workers: int) -> dict:
    """Of a DataLoader: workers live as long as it does, and hand over memory that a GPU copies without waiting."""
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.accelerator.is_available(),
        "generator": torch.Generator(),  # else it would draw a seed for its workers from the global one
        "worker_init_fn": partial(outlive_sigterm, is_ending()),
    }


@cache
def is_ending() -> "ctypes.c_bool":
    """Tells workers whether this process, whose children they are, is about to end."""
    flag = multiprocessing.RawValue(ctypes.c_bool, False)
    atexit.register(setattr, flag, "value", True)
    return flag


def outlive_sigterm(is_ending: "ctypes.c_bool", worker: int):
    """Schedulers send SIGTERM to workers, too, which must live until the main process has finished its step."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if is_ending.value else None)


def training_clip_reader(processor: SViTTProcessor, args: ProcessingArguments) -> Callable:
    """Reads random frames, and a random crop of them, of a video."""
    return partial(
        processor.video_processor.read_clip,
        num_frames=args.num_frames or processor.video_processor.num_frames,
        sampling="rand",
        do_augment=args.augment,
        flip_prob=args.flip_prob,
        decode_short_side=args.decode_short_side,
    )


def row_loader(
    rows: Dataset, processor: SViTTProcessor, batch_size: int, args: ProcessingArguments, seed: int, collate: Callable
) -> RowLoader:
    clips = ClipDataset(rows, training_clip_reader(processor, args), args.bad_videos, seed)
    return RowLoader(clips, batch_size, partial(collate, processor=processor), args.num_workers)


def stream_loader(
    rows: ShuffledStream,
    processor: SViTTProcessor,
    batch_size: int,
    args: ProcessingArguments,
    seed: int,
    collate: Callable,
) -> StreamLoader:
    clips = ClipStream(rows, training_clip_reader(processor, args), args.bad_videos, seed)
    return StreamLoader(clips, batch_size, partial(collate, processor=processor), args.num_workers)


def pair_loader(
    pairs: Dataset, processor: SViTTProcessor, batch_size: int, args: ProcessingArguments, seed: int = 0
) -> RowLoader:
    """Training batches of [`training_pairs`]: clips of random frames, `input_ids`, `attention_mask`, `video_ids`."""
    return row_loader(pairs, processor, batch_size, args, seed, collate_pairs)


def question_loader(
    questions: Dataset, processor: SViTTProcessor, batch_size: int, args: ProcessingArguments, seed: int = 0
) -> RowLoader:
    """Training batches of [`load_questions`]: clips, `input_ids` and `attention_mask` of questions, their `answers`."""
    return row_loader(questions, processor, batch_size, args, seed, collate_questions)


def pair_stream_loader(
    rows: ShuffledStream, processor: SViTTProcessor, batch_size: int, args: ProcessingArguments, seed: int = 0
) -> StreamLoader:
    """As [`pair_loader`], of a stream of this process."""
    return stream_loader(rows, processor, batch_size, args, seed, collate_pairs)


def question_stream_loader(
    rows: ShuffledStream, processor: SViTTProcessor, batch_size: int, args: ProcessingArguments, seed: int = 0
) -> StreamLoader:
    """As [`question_loader`], of a stream of this process."""
    return stream_loader(rows, processor, batch_size, args, seed, collate_questions)


def video_loader(
    videos: Dataset,
    processor: SViTTProcessor,
    num_frames: int,
    batch_size: int,
    args: ProcessingArguments,
) -> DataLoader:
    """Batches of a column `video`, in order: frames from the middle of `num_frames` equal intervals.

    With `args.bad_eval_videos="score_as_missed"`, a video that cannot be read has black frames, and `is_missing` is
    true for it. What is random of `args.frame_order` depends on a video's number among those of all processes.

    Args:
        videos: this process's `share_of` the videos.
    """
    read_clip = partial(processor.video_processor.read_clip, num_frames=num_frames)
    if args.frame_order != "normal":
        read_clip = partial(read_reordered_clip, read_clip=read_clip, order=args.frame_order)
    policy = {"error": "error", "score_as_missed": "keep"}[args.bad_eval_videos]
    return DataLoader(
        ClipDataset(videos, read_clip, policy, numbers=numbers_of_share(len(videos))),
        batch_size,
        collate_fn=partial(collate_videos, processor=processor, num_frames=num_frames),
        **worker_settings(args.num_workers) | {"persistent_workers": False},
    )


def read_reordered_clip(video, seed: int, read_clip: Callable, order: str) -> torch.Tensor:
    return reorder_frames(read_clip(video, seed=seed), order, torch.Generator().manual_seed(seed))


def reorder_frames(frames: torch.Tensor, order: str, generator: torch.Generator | None = None) -> torch.Tensor:
    """Frames (T, ...) as a probe of what a model makes of their order: `"reverse"`, `"shuffle"`, or `"freeze"`, one
    frame at random, repeated."""
    num_frames = len(frames)
    if order == "reverse":
        return frames.flip(0)
    if order == "shuffle":
        return frames[torch.randperm(num_frames, generator=generator)]
    if order == "freeze":
        return frames[torch.randint(num_frames, (1,), generator=generator).expand(num_frames)]
    raise ValueError(f"Frames can be put in the order reverse, shuffle or freeze, not {order!r}.")


def text_batches(texts: list[str], processor: SViTTProcessor, batch_size: int = 128) -> Iterator[dict]:
    """Batches of `input_ids` and `attention_mask` of this process's share of the texts, in order.

    All are padded to the longest of all texts, so that what is made of them can be gathered.
    """
    share = {name: share_of(tensor) for name, tensor in processor(text=texts, return_tensors="pt").items()}
    for start in range(0, len(share["input_ids"]), batch_size):
        yield {name: tensor[start : start + batch_size] for name, tensor in share.items()}


def collate_clips(rows: list[dict]) -> dict:
    bad_videos = [bad for row in rows for bad in row["bad_videos"]]
    clips = torch.stack([row["clip"] for row in rows])
    return {"clips": clips, "videos": [row["video"] for row in rows], "bad_videos": bad_videos}


def collate_pairs(rows: list[dict], processor: SViTTProcessor) -> dict:
    text = processor(text=[row["caption"] for row in rows], return_tensors="pt")
    return {**collate_clips(rows), **text, "video_ids": torch.tensor([row["video_id"] for row in rows])}


def collate_questions(rows: list[dict], processor: SViTTProcessor) -> dict:
    text = processor(text=[row["question"] for row in rows], return_tensors="pt")
    return {**collate_clips(rows), **text, "answers": [row["answer"] for row in rows]}


def collate_videos(rows: list[dict], processor: SViTTProcessor, num_frames: int) -> dict:
    """`clips` (B, T, 3, H, W) uint8, black for those that are missing, and `is_missing` (B,)."""
    size = processor.video_processor.size
    black = torch.zeros(num_frames, 3, size["height"], size["width"], dtype=torch.uint8)
    is_missing = [row["clip"] is None for row in rows]
    clips = torch.stack([black if row["clip"] is None else row["clip"] for row in rows])
    bad_videos = [bad for row in rows for bad in row["bad_videos"]]
    return {"clips": clips, "is_missing": torch.tensor(is_missing), "bad_videos": bad_videos}


def to_model_inputs(batch: dict, processor: SViTTProcessor) -> dict:
    """Finish the clips of a batch on the device where it is: they become `pixel_values` (B, T, 3, H, W) float32."""
    return batch | {"pixel_values": processor.video_processor.to_pixel_values(batch.pop("clips"))}


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
        path: file to which one JSON object a line is added, {"split", "epoch", "video", "error"}.
        resume: add to the file of the earlier run that is resumed, which is removed otherwise.
    """

    def __init__(self, path: str | Path, resume: bool = False):
        self.path, self.found = Path(path), {}
        if not resume and PartialState().is_main_process:
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
