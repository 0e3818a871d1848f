# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Training rows streamed from WebDataset or Parquet shards, or from the Hub, that can stop and go on at any row.

Every process reads shards of its own, and so does every worker of its loader. Of tar shards, only headers and texts are
read ahead: samples wait for their turn, or are skipped, without their videos.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from datasets.packaged_modules.webdataset.webdataset import base_plus_ext

from ..errors import InputError
from .annotations import field_name, open_hub, question_of, reason_of, strings_of


class ShuffledStream(torch.utils.data.IterableDataset):
    """Rows of a stream, shuffled by seed and epoch, which goes on exactly where a saved state says.

    `datasets` resumes its streams exactly, but not the buffer of its `shuffle`, whose rows are lost. Here blocks of
    `buffer_size` consecutive samples are shuffled, each by itself, and a state is where the current block begins and
    how many of its rows were given. The order of shards is new in each epoch, from `set_epoch`. A state is of one
    process and one worker: resume with as many of both.

    Args:
        samples: of this process; the workers of a loader share its shards out.
        to_rows: makes the rows of a sample, such as one for each caption of its video.
        seed: of the order within blocks.
        buffer_size: samples in a block; 1 keeps their order.
    """

    def __init__(
        self, samples: IterableDataset, to_rows: Callable[[dict], list[dict]], seed: int = 0, buffer_size: int = 1000
    ):
        self.samples, self.to_rows, self.seed, self.buffer_size = samples, to_rows, seed, buffer_size
        self._state: dict | None = None
        self._resume_from: dict | None = None

    @property
    def epoch(self) -> int:
        """Of the next iteration; `datasets` shares it with workers that live on."""
        return self.samples.epoch

    def set_epoch(self, epoch: int):
        self.samples.set_epoch(epoch)

    def state_dict(self) -> dict:
        """Where to go on: after the row that was given last."""
        state = self._resume_from or self._state
        if state is None or state["epoch"] != self.epoch:
            return {"epoch": self.epoch, "block": 0, "samples": None, "rows_given": 0}
        return dict(state)

    def load_state_dict(self, state: dict):
        """Let the next iteration go on at a state of [`state_dict`]; `set_epoch` must be called with its epoch."""
        self._resume_from = dict(state)

    def __iter__(self) -> Iterator[dict]:
        state, epoch = self._resume_from, self.epoch
        if state is not None and state["epoch"] != epoch:
            raise ValueError(f"The state to resume from is of epoch {state['epoch']}, but epoch {epoch} is set.")
        self._state, self._resume_from = state, None
        return self._iterate(state or self.state_dict())

    def _iterate(self, state: dict) -> Iterator[dict]:
        worker = torch.utils.data.get_worker_info()
        self.samples.load_state_dict(state["samples"])
        samples = iter(self.samples)
        while block := read_block(samples, self.buffer_size):
            self._state = state
            rows = [row for sample in block for row in self.to_rows(sample)]
            seed = (self.seed, state["epoch"], 0 if worker is None else worker.id, state["block"])
            for index in np.random.default_rng(seed).permutation(len(rows))[state["rows_given"] :]:
                state["rows_given"] += 1
                yield read_member(rows[index])
            state = state | {"block": state["block"] + 1, "samples": self.samples.state_dict(), "rows_given": 0}
            self._state = state


def read_block(samples: Iterator[dict], size: int) -> list[dict]:
    try:
        return list(islice(samples, size))
    except InputError:
        raise
    except Exception as error:  # of the Hub or of the network; what is wrong with shards, `read_shards` says
        raise InputError(f"The stream cannot be read further ({reason_of(error)}).") from error


def read_member(row: dict) -> dict:
    """A row with the bytes of its video, which for a tar shard are read only now."""
    video = row["video"]
    if video.get("bytes") is not None or "offset" not in video:
        return row
    try:
        with fsspec.open(video["shard"], "rb") as shard:
            shard.seek(video["offset"])
            data = shard.read(video["size"])
    except OSError as error:
        raise InputError(f"{video['shard']}: cannot be read any more ({reason_of(error)}).") from error
    return row | {"video": {"path": video["path"], "bytes": data}}


def load_stream(
    shards: str | list[str],
    kind: str = "captions",
    columns: dict[str, str] | None = None,
    match_by: str = "video",
    seed: int = 0,
    buffer_size: int = 1000,
) -> ShuffledStream:
    """Stream this process's share of shards.

    Where the number of processes divides the number of shards, each process reads shards of its own; otherwise it
    reads the headers and texts of all, and every n-th sample. There should be as many shards as processes and workers.

    Args:
        shards: paths or URLs that `fsspec` can open, with or without `*`: all `.tar` (WebDataset: `key.mp4` beside
            `key.json` or `key.txt`) or all `.parquet` (files in the column `video`).
        kind: `"captions"` or `"questions"`.
        columns: what a sample calls them: a Parquet column, a field of the JSON file, a file by its extension.
        match_by: see [`training_pairs`].
        seed, buffer_size: see [`ShuffledStream`].

    Returns:
        A stream of rows as of [`training_pairs`] or [`load_questions`], with embedded videos.

    Raises:
        InputError: if there are no such shards; while they are read, for one that is damaged, or a row without text.
    """
    patterns = [shards] if isinstance(shards, str) else shards
    files = [file for pattern in patterns for file in expand(pattern)]
    extensions = {file.rpartition(".")[2] for file in files}
    if extensions not in ({"tar"}, {"parquet"}):
        raise InputError(f"{', '.join(patterns)}: shards must be all .tar or all .parquet.")
    # Not yet shuffled for epoch 0 by `datasets`, which goes by the number of the epoch alone.
    files = [files[index] for index in np.random.default_rng(seed).permutation(len(files))]
    read = read_tar if extensions == {"tar"} else read_parquet
    samples = IterableDataset.from_generator(read_shards, gen_kwargs={"shards": files, "read": read})
    return shuffled_share(samples, kind, columns, match_by, seed, buffer_size)


def load_hub_stream(
    name: str,
    split: str,
    kind: str = "captions",
    columns: dict[str, str] | None = None,
    match_by: str = "video",
    seed: int = 0,
    buffer_size: int = 1000,
) -> ShuffledStream:
    """Stream this process's share of a dataset of the Hub: as [`load_stream`]."""
    samples = open_hub(name, split, columns, streaming=True)
    columns = {our: theirs for our, theirs in (columns or {}).items() if our != "video"}
    return shuffled_share(samples, kind, columns | {"video": "video"}, match_by, seed, buffer_size)


def shuffled_share(samples: IterableDataset, kind, columns, match_by, seed, buffer_size) -> ShuffledStream:
    state = PartialState()
    samples = split_dataset_by_node(samples, state.process_index, state.num_processes)
    to_rows = partial(rows_of_sample, kind=kind, columns=columns, match_by=match_by)
    return ShuffledStream(samples, to_rows, seed, buffer_size)


def expand(pattern: str) -> list[str]:
    files, path = fsspec.core.url_to_fs(pattern)
    found = sorted(files.glob(path)) if "*" in path else [path] * files.exists(path)
    if not found:
        raise InputError(f"{pattern}: there are no such shards.")
    return [files.unstrip_protocol(file) if "://" in pattern else file for file in found]


# ---------------------------------------------------------------------------------------------------------------------
# Shards
# ---------------------------------------------------------------------------------------------------------------------


def read_shards(shards: Iterable[str], read: Callable[[str], Iterator[dict]]) -> Iterator[dict]:
    """Samples of shards, with `__shard__` and, from 1, `__number__`; an `InputError` that names a damaged shard."""
    for shard in shards:
        try:
            for number, sample in enumerate(read(shard), start=1):
                yield sample | {"__shard__": shard, "__number__": number}
        except InputError:
            raise
        except (OSError, EOFError, ValueError, tarfile.TarError, pa.ArrowException) as error:
            raise InputError(f"{shard}: damaged or cut off ({reason_of(error)}).") from error


def read_tar(shard: str) -> Iterator[dict]:
    """Samples of a WebDataset: the fields of its JSON, `txt`, and other files by extension, which are not read yet."""
    sample: dict[str, Any] = {}
    key_before = None
    with fsspec.open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            key, extension = base_plus_ext(member.name)
            if key is None or not member.isfile():
                continue
            if key != key_before and sample:
                yield sample
                sample = {}
            key_before = key
            if extension == "json":
                sample |= read_json_object(tar.extractfile(member).read(), member.name)
            elif extension == "txt":
                sample["txt"] = tar.extractfile(member).read().decode()
            else:
                place = {"shard": shard, "offset": member.offset_data, "size": member.size}
                sample[extension] = {"path": f"{shard}/{member.name}", "bytes": None} | place
        if sample:
            yield sample
        # Where a header is damaged, `tarfile` believes that the archive ends there: it must end in zeros only.
        file.seek(tar.offset)
        end = file.read(2**20)
        if not end or any(end):
            raise tarfile.ReadError("there is no end of the archive where it should be")


def read_json_object(data: bytes, name: str) -> dict:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError(f"{name} holds no JSON object")
    return value


def read_parquet(shard: str) -> Iterator[dict]:
    with fsspec.open(shard, "rb") as file:
        rows = (row for batch in pq.ParquetFile(file).iter_batches(batch_size=16) for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            for value in row.values():
                if isinstance(value, dict) and "bytes" in value:  # a name of its own, for messages and `video_id`
                    value["path"] = f"{shard}/{number}/{os.path.basename(value.get('path') or '')}".rstrip("/")
            yield row


# ---------------------------------------------------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------------------------------------------------


def rows_of_sample(sample: dict, kind: str, columns: dict[str, str] | None, match_by: str) -> list[dict]:
    """The rows that a sample gives: one for each of its captions, or one question."""
    shard, number = sample.get("__shard__", "stream"), sample.get("__number__", 0)
    if isinstance(sample.get("json"), dict):  # as `datasets` reads a WebDataset
        sample = sample | sample["json"]
    columns = {our: theirs.removeprefix("json.") for our, theirs in (columns or {}).items()}
    video = video_of_sample(sample, shard, number, columns.get("video"))
    if kind == "questions":
        return [{"video": video} | row for row in questions_of_sample(sample, shard, number, columns)]
    captions = strings_of(shard, number, sample, field_name(sample, "caption", columns))
    # The path of a video is its own within shards; on the Hub, many may have one name.
    key = video["path"] if "__shard__" in sample else video["bytes"]
    return [
        {"video": video, "caption": caption, "video_id": stable_id(caption if match_by == "caption" else key)}
        for caption in captions
    ]


def questions_of_sample(sample: dict, shard: str, number: int, columns: dict[str, str]) -> list[dict]:
    """One question, or as `svitt-pack` writes them, lists of what is asked about a video, of equal length."""
    names = {field: columns.get(field, field) for field in ("question", "answer", "question_id", "question_type")}
    present = {field: sample[name] for field, name in names.items() if sample.get(name) is not None}
    if not isinstance(present.get("question"), list):
        present = {field: [value] for field, value in present.items()}
    if len({len(values) if isinstance(values, list) else None for values in present.values()}) > 1:
        raise InputError(f"{shard}, row {number}: {', '.join(present)} must be lists of equal length.")
    rows = [dict(zip(present, values, strict=True)) for values in zip(*present.values(), strict=True)]
    for row in rows:
        row["question"] = question_of(shard, number, row, "question")
        row["answer"] = strings_of(shard, number, row, "answer")
        if "question_type" in row:
            row["question_type"] = strings_of(shard, number, row, "question_type")
    return rows


def video_of_sample(sample: dict, shard: str, number: int, field: str | None) -> dict:
    """The video of a sample: the field of that name, or the only one that is a file."""
    files = [name for name, value in sample.items() if isinstance(value, dict) and "bytes" in value]
    if field is None and len(files) != 1:
        found = f"it has {', '.join(files)}: say which is its `video`" if files else "it has none"
        raise InputError(f"{shard}, row {number}: must have one video or image, but {found}.")
    video = sample.get(field or files[0])
    if isinstance(video, bytes):
        video = {"path": None, "bytes": video}
    # A place in another file is none of ours: somebody wrote it into the JSON of the sample.
    is_member = isinstance(video, dict) and "offset" in video and video.get("shard") == shard
    if not is_member and not (isinstance(video, dict) and isinstance(video.get("bytes"), bytes)):
        raise InputError(f"{shard}, row {number}: `{field or files[0]}` must be an embedded file.")
    return video


def stable_id(key: str | bytes) -> int:
    """A number in [0, 2^63) that is the same in all processes and runs."""
    digest = hashlib.blake2b(key if isinstance(key, bytes) else key.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
