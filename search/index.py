# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The index: clips and their embeddings in a LanceDB table, searched in two stages as in retrieval.

A folder holds

    index.json          the model, by name and by a fingerprint of its weights, and how videos are cut
    clips.lance         a row for each clip: video, its version, number of the clip, start, end, embedding
    bad_videos.jsonl    videos that cannot be read, and why

Every batch of clips is committed to the table as a whole, and bad videos are written down as they are found: an indexer
that is killed has lost the batch in its hand, and nothing else.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from inspect import get_annotations
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig, PreTrainedModel

from ..conversion import load_model_and_processor
from ..data.loaders import worker_settings
from ..distributed import fail_together, progress_bar, share_of
from ..errors import InputError, writing
from ..processing_svitt import SViTTProcessor, VideoDecodeError
from .checks import MAX_QUERY_LENGTH, check_number, check_query
from .clips import Clip, ClipFrames, ClipPlans, Video, absolute, find_videos, in_groups, is_below, read_clips
from .folder import BadVideos, locked, make_folder, read_settings
from .table import ClipTable, clip_of

SEARCHABLE = ("SViTTModel", "SViTTForVideoTextRetrieval", "SViTTForPreTraining")
# What embeddings depend on: towers and projections, not the heads of training and re-ranking;
EMBEDDING_WEIGHTS = ("vision_model.", "vision_layernorm.", "vision_proj.", "text_model.", "text_proj.")
# how frames become pixels, not how training changes them;
PIXEL_SETTINGS = (
    "size",
    "resample",
    "antialias",
    "do_resize",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)
# and not these fields of a tower, which are of training, of other tasks, or bounds.
WITHOUT_EFFECT = {
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "initializer_range",
    "layer_scale_init_value",
    "max_num_frames",
    "mask_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "is_decoder",
    "use_cache",
}
COMMITS_BETWEEN_COMPACTIONS = 200


@dataclass
class Hit:
    """A clip that was found.

    Args:
        video: path, or `<shard>::<member>`.
        start, end: seconds.
        similarity: cosine of the embeddings.
        score: of matching, the logit by which hits are ranked; `None` where a hit was not re-ranked.
        note: that the video has gone or changed since it was indexed, or why it cannot be read.
    """

    video: str
    start: float
    end: float
    similarity: float
    score: float | None = None
    note: str | None = None


@dataclass
class IndexReport:
    """What [`SViTTIndex.add`] did, in videos."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)  # all bad ones among those asked for, and why
    num_clips: int = 0  # encoded now


class SViTTIndex:
    """An index of clips in a folder; see [`SViTTIndex.create`] and [`SViTTIndex.open`].

    index = SViTTIndex.create("my_index", "svitt-base")
    index.add(["videos"])
    for hit in index.search("a dog catches a frisbee"):
        print(hit.video, hit.start, hit.end, hit.score)
    """

    def __init__(self, folder: Path, settings: dict, model: PreTrainedModel, processor: SViTTProcessor):
        self.folder, self.settings, self.model, self.processor = folder, settings, model, processor
        self.table, self.bad_videos = ClipTable(folder), BadVideos(folder)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model_name_or_path: str | None = None,
        clip_seconds: float | None = None,
        stride_seconds: float | None = None,
        num_frames: int | None = None,
    ) -> "SViTTIndex":
        """Make an empty index, or open the one that is there already with the same settings.

        Args:
            folder: to be made.
            model_name_or_path: folder or Hub name of a SViTT; an index that is there knows its own.
            clip_seconds: longer videos are cut into clips of this length, 10 by default,
            stride_seconds: one of them so long after another, 5 by default.
            num_frames: of a clip, by default the model's own.

        Raises:
            InputError: if there is no such model, it does not compare videos with texts, a number is out of bounds, or
                the folder holds an index of another model or with other settings.
        """
        folder = Path(folder)
        asked = {"clip_seconds": clip_seconds, "stride_seconds": stride_seconds, "num_frames": num_frames}
        is_made = (folder / "index.json").exists()
        if any(gather_object([is_made])):  # one answer for all processes
            check_settings(folder, asked)
            return cls.open(folder, model_name_or_path)
        if model_name_or_path is None:
            raise InputError(f"--model: is needed to make an index, and {folder} is none yet.")
        clip_seconds = 10.0 if clip_seconds is None else clip_seconds
        stride_seconds = 5.0 if stride_seconds is None else stride_seconds
        check_lengths(clip_seconds, stride_seconds)
        model, processor = load(model_name_or_path, num_frames)
        settings = {
            "model": os.path.abspath(model_name_or_path) if os.path.isdir(model_name_or_path) else model_name_or_path,
            "fingerprint": fingerprint_of(model, processor),
            "embed_dim": model.config.embed_dim,
            "num_frames": processor.video_processor.num_frames,
            "clip_seconds": clip_seconds,
            "stride_seconds": stride_seconds,
        }
        fail_together(lambda: make_folder(folder, settings) if PartialState().is_main_process else None)
        check_settings(folder, settings)  # another process may have been the first
        return cls(folder, settings, model, processor)

    @classmethod
    def open(cls, folder: str | Path, model_name_or_path: str | None = None) -> "SViTTIndex":
        """Open an index with its model, or with the same model in another place.

        Raises:
            InputError: if there is no index, or the model is another one than that which made it.
        """
        folder = Path(folder)
        settings = read_settings(folder)
        name = model_name_or_path or settings["model"]
        model, processor = load(name, settings["num_frames"])
        if fingerprint_of(model, processor) != settings["fingerprint"]:
            raise InputError(
                f"{folder}: was made by another model than {name}, namely {settings['model']} as it was; their "
                "embeddings cannot be compared; index the videos anew in another folder."
            )
        return cls(folder, settings, model, processor)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.table)

    def videos(self) -> dict[str, int]:
        """How many clips each video has."""
        return {video: len(numbers) for (video, _, _), numbers in self.table.clips().items()}

    # -----------------------------------------------------------------------------------------------------------------
    # Indexing
    # -----------------------------------------------------------------------------------------------------------------

    def add(self, paths: Iterable[str | Path], batch_size: int = 16, num_workers: int = 0) -> IndexReport:
        """Bring the index up to date with some videos: new and changed ones are encoded, vanished ones removed.

        What is indexed already stays as it is, so that a call that was interrupted is gone on with by another: one that
        is killed loses at most the `batch_size` clips in the hand of each process. With several processes, started by
        `accelerate launch`, each encodes a part. What could not be read the last time is tried again.

        Args:
            paths: videos, folders of videos and tar shards, and tar shards.
            batch_size: clips that a process encodes, and commits, at once.
            num_workers: processes that decode videos, beside each main process.

        Raises:
            InputError: if a path does not exist, a number is out of bounds, or another process is indexing into the
                same folder.
        """
        check_loading(batch_size, num_workers)
        names = [str(path) for path in paths]
        is_main = PartialState().is_main_process
        with locked(self.folder):
            report, todo = fail_together(lambda: self._plan(names, num_workers) if is_main else (None, []))
            report, todo = broadcast_object_list([report, todo])
            groups = share_of(list(in_groups(todo)))
            bad = self._encode(groups, batch_size, num_workers)
            for found in gather_object([bad]):
                report.bad |= found
            report.num_clips = sum(video.name not in report.bad for video, _ in todo)
            if is_main:
                self._finish(report, names)
            PartialState().wait_for_everyone()
        return report

    def remove(self, paths: Iterable[str | Path]) -> list[str]:
        """See [`remove_videos`]."""
        return remove_videos(self.folder, paths)

    def _plan(self, paths: list[str], num_workers: int) -> tuple[IndexReport, list[tuple[Video, Clip]]]:
        """Remove what has vanished or changed, and list the clips to be encoded."""
        indexed = self.table.clips()
        versions = {name: version for name, version, _ in indexed}
        videos, unread = find_videos(paths, versions)
        report = IndexReport(bad=unread)
        found = {video.name: video for video in videos}
        for name, version in versions.items():
            if name in found and found[name].version != version:
                report.updated.append(name)
            elif name not in found and has_vanished(name, paths, unread):
                report.removed.append(name)
        self.table.remove([*report.removed, *report.updated])
        done = {(name, version): (numbers, num_clips) for (name, version, num_clips), numbers in indexed.items()}
        new = []
        for name, video in found.items():
            numbers, num_clips = done.get((name, video.version), (set(), None))
            if len(numbers) == num_clips:
                report.unchanged.append(name)
            else:
                new.append(video)
                report.added += [name] if name not in report.updated else []
        for name, error in unread.items():
            self.bad_videos.add(name, error)
        todo = []
        for video, plan in self._cut(new, num_workers):
            if isinstance(plan, str):
                report.bad[video.name] = plan
                self.bad_videos.add(video.name, plan)
            else:
                numbers, _ = done.get((video.name, video.version), (set(), None))
                todo += [(video, clip) for clip in plan if clip.number not in numbers]
        return report, todo

    def _cut(self, videos: list[Video], num_workers: int) -> Iterable[tuple[Video, list[Clip] | str]]:
        """Each video with its clips, or with a sentence about why it cannot be read."""
        plans = ClipPlans(videos, self.settings["clip_seconds"], self.settings["stride_seconds"])
        loader = DataLoader(plans, batch_size=None, **reader_settings(num_workers))
        return zip(videos, progress_bar(loader, "looking at videos", len(videos)), strict=True)

    def _encode(self, groups: list[tuple[Video, list[Clip]]], batch_size: int, num_workers: int) -> dict[str, str]:
        """Encode clips and commit them batch by batch; returns the videos that could not be read, and why."""
        frames = ClipFrames(groups, self.processor.video_processor)
        loader = DataLoader(frames, batch_size=None, **reader_settings(num_workers))
        bad, waiting, num_commits = {}, [], 0
        for video, clips, pixels in progress_bar(loader, "encoding", len(groups)):
            if isinstance(pixels, str):
                bad[video.name] = pixels
                self.bad_videos.add(video.name, pixels)
                continue
            waiting += [(video, clip, frames) for clip, frames in zip(clips, pixels, strict=True)]
            while len(waiting) >= batch_size:
                self._commit(waiting[:batch_size])
                waiting, num_commits = waiting[batch_size:], num_commits + 1
                if num_commits % COMMITS_BETWEEN_COMPACTIONS == 0 and PartialState().is_main_process:
                    self.table.compact()
        if waiting:
            self._commit(waiting)
        return bad

    def _commit(self, batch: list[tuple[Video, Clip, torch.Tensor]]):
        embeddings = self.embed_clips(torch.stack([frames for _, _, frames in batch])).cpu().numpy()
        with writing(self.folder):
            self.table.add_clips([(video, clip) for video, clip, _ in batch], embeddings)

    def _finish(self, report: IndexReport, paths: list[str]):
        """Forget the clips of bad videos, bring the list of these up to date, and table and ANN index into order."""
        self.table.remove(list(report.bad))
        report.added = [name for name in report.added if name not in report.bad]
        report.updated = [name for name in report.updated if name not in report.bad]
        listed = self.bad_videos.read().items()
        others = {name: error for name, error in listed if not any(is_below(name, path) for path in paths)}
        self.bad_videos.write(others | report.bad)
        self.table.finish()

    # -----------------------------------------------------------------------------------------------------------------
    # Searching
    # -----------------------------------------------------------------------------------------------------------------

    def search(
        self,
        text: str | None = None,
        video: str | Path | None = None,
        top_k: int = 10,
        rerank: bool = True,
        shortlist: int = 50,
    ) -> list[Hit]:
        """The clips that a sentence describes, or that look like a video, best first.

        The `shortlist` clips with the most similar embeddings are read again, fused with the sentence and ranked by how
        well they match it; they are `top_k` at least. Of clips of one video that overlap, only the most similar takes
        part. With a video, similarity ranks.

        Raises:
            InputError: if there is not one of `text` and `video`, the model cannot read the sentence, or files of the
                index are damaged.
            VideoDecodeError: if `video` cannot be read.
        """
        if (text is None) == (video is None):
            raise InputError("Search for a text or for a video: give one of them.")
        check_number("top_k", top_k, 1)
        check_number("shortlist", shortlist, 1)
        words = None if text is None else self.encode_text(text)
        query = self.embed_video(video) if words is None else self.embed_text(words)
        is_fused = words is not None and rerank
        rows = self._shortlist(query, max(shortlist, top_k) if is_fused else top_k)
        hits = [Hit(row["video"], row["start"], row["end"], row["similarity"]) for row in rows]
        for hit, row in zip(hits, rows, strict=True):
            video_of_hit, _ = clip_of(row)
            if not video_of_hit.is_unchanged():
                hit.note = "the video has gone or changed since it was indexed"
        if is_fused:
            self._rerank(hits, rows, words)
            hits.sort(key=lambda hit: (hit.score is not None, hit.score or 0.0), reverse=True)
        return hits[:top_k]

    def _shortlist(self, query: np.ndarray, size: int) -> list[dict]:
        """Rows of the most similar clips that do not overlap, best first: `size` of them, if there are as many."""
        num_neighbors = size
        while True:
            rows = self.table.nearest(query, num_neighbors)
            kept = without_overlaps(rows)
            if len(kept) >= size or len(rows) < num_neighbors:
                return kept[:size]
            num_neighbors *= 4

    def encode_text(self, text: str) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (1, L) of a sentence; see [`check_query`] for the errors."""
        check_query(self.processor, text)
        words = self.processor(text=[text], return_tensors="pt")
        return {name: tensor.to(self.model.device) for name, tensor in words.items()}

    @torch.no_grad()
    def embed_clips(self, clips: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) of length 1 of clips (B, T, 3, H, W) uint8."""
        return F.normalize(self._look_at(clips).pooler_output.float(), dim=-1)

    def _look_at(self, clips: torch.Tensor):
        pixels = self.processor.video_processor.to_pixel_values(clips.to(self.model.device))
        return self.model.get_video_features(pixels)

    @torch.no_grad()
    def embed_text(self, words: dict[str, torch.Tensor]) -> np.ndarray:
        """(D,), of length 1."""
        return F.normalize(self.model.get_text_features(**words).pooler_output.float(), dim=-1)[0].cpu().numpy()

    def embed_video(self, video: str | Path) -> np.ndarray:
        """(D,), of length 1, of a video as one clip."""
        if not str(video):
            raise InputError("The name of the query video is empty; name a file.")
        clip = self.processor.video_processor.read_clip(video)
        return self.embed_clips(clip[None])[0].cpu().numpy()

    @torch.no_grad()
    def _rerank(self, hits: list[Hit], rows: list[dict], words: dict[str, torch.Tensor], batch_size: int = 16):
        """Set the score of each hit whose clip can still be read, and a note for the others."""
        text = self.model.get_text_features(**words).last_hidden_state
        found = {clip_of(row): hit for row, hit in zip(rows, hits, strict=True) if hit.note is None}
        readable = []
        for video, clips in in_groups(sorted(found, key=lambda one: (one[0].name, one[1].number))):
            try:
                frames = read_clips(video, clips, self.processor.video_processor)
            except (VideoDecodeError, InputError) as error:
                for clip in clips:
                    found[video, clip].note = str(error)
            else:
                readable += [(found[video, clip], pixels) for clip, pixels in zip(clips, frames, strict=True)]
        for start in range(0, len(readable), batch_size):
            part = readable[start : start + batch_size]
            seen = self._look_at(torch.stack([clip for _, clip in part])).last_hidden_state
            scores = self.model.match(
                video_hidden_states=seen,
                text_hidden_states=text.expand(len(part), -1, -1),
                attention_mask=words["attention_mask"].expand(len(part), -1),
            )
            for (hit, _), score in zip(part, scores.tolist(), strict=True):
                hit.score = score


def remove_videos(folder: str | Path, paths: Iterable[str | Path]) -> list[str]:
    """Take videos out of an index, and of its list of bad ones; needs no model.

    Args:
        paths: names of videos, which need not exist any more, folders that they lie in, and shards.

    Returns:
        their names.

    Raises:
        InputError: if the index has none of a path, or cannot be written.
    """
    folder, places = Path(folder), [absolute(path) for path in paths]
    read_settings(folder)
    with locked(folder):
        table, bad_videos = ClipTable(folder), BadVideos(folder)
        bad = bad_videos.read()
        known = {video for video, _, _ in table.clips()} | bad.keys()
        for place in places:
            if not any(is_below(name, place) for name in known):
                raise InputError(f"{place}: is no video of the index {folder}, and no folder or shard of some.")
        names = sorted(name for name in known if any(is_below(name, place) for place in places))
        table.remove(names)
        bad_videos.write({name: error for name, error in bad.items() if name not in names})
    return names


def has_vanished(name: str, paths: Iterable[str], unread: Iterable[str]) -> bool:
    """Whether a video that is not found any more was among these paths, and not below what cannot be read now."""
    return any(is_below(name, path) for path in paths) and not any(is_below(name, path) for path in unread)


def check_loading(batch_size: int, num_workers: int):
    check_number("batch_size", batch_size, 1)
    check_number("num_workers", num_workers, 0)


def check_lengths(clip_seconds: float, stride_seconds: float):
    if not 0 < clip_seconds < math.inf:
        raise InputError(f"--clip_seconds {clip_seconds:g}: must be above 0, and finite.")
    if not 0 < stride_seconds <= clip_seconds:
        raise InputError(
            f"--stride_seconds {stride_seconds:g}: must be above 0 and at most --clip_seconds, {clip_seconds:g}."
        )


def check_settings(folder: Path, asked: dict):
    """Raise an `InputError` for settings that are asked for, and not those of the index."""
    before = read_settings(folder)
    for name, value in asked.items():
        if name != "model" and value is not None and before[name] != value:
            what = "model" if name == "fingerprint" else name
            raise InputError(
                f"{folder}: is an index with another {what} ({before[what]}); give the same, or another folder."
            )


def reader_settings(num_workers: int) -> dict:
    """Of a loader in a process that has a table open, which has threads and must not be forked."""
    return worker_settings(num_workers) | {"multiprocessing_context": "forkserver" if num_workers else None}


def without_overlaps(rows: list[dict]) -> list[dict]:
    """Without the clips that overlap a better one of the same video; rows come best first."""
    kept: list[dict] = []
    for row in rows:
        near = (one for one in kept if one["video"] == row["video"])
        if not any(row["start"] < one["end"] and one["start"] < row["end"] for one in near):
            kept.append(row)
    return kept


def load(name: str, num_frames: int | None) -> tuple[PreTrainedModel, SViTTProcessor]:
    """A model that compares videos with texts, ready for use, and its processor."""
    model, processor = load_model_and_processor(name, num_frames=num_frames, architectures=SEARCHABLE)
    return model.eval().to(PartialState().device), processor


def fingerprint_of(model: PreTrainedModel, processor: SViTTProcessor) -> str:
    """A hash of what embeddings depend on: towers, how they are configured, and how videos and texts are read."""
    towers = (model.config.vision_config, model.config.text_config)
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    longest = processor(text=["a " * MAX_QUERY_LENGTH])["input_ids"][0]
    read = {
        "towers": [{name: getattr(tower, name) for name in fields_of(tower)} for tower in towers],
        "pixels": {name: getattr(processor.video_processor, name) for name in PIXEL_SETTINGS},
        "text": [processor.clean_text, processor.add_sep, len(longest)],
        "tokenizer": [tokenizer["normalizer"], tokenizer["pre_tokenizer"], processor.tokenizer.get_vocab()],
    }
    digest = hashlib.sha256(json.dumps(read, sort_keys=True, default=dict).encode())
    for name, weights in sorted(model.state_dict().items()):
        if name.startswith(EMBEDDING_WEIGHTS):
            digest.update(name.encode())
            digest.update(weights.contiguous().cpu().view(torch.uint8).numpy())
    return digest.hexdigest()


def fields_of(config: PreTrainedConfig) -> list[str]:
    """Those of a tower that its embeddings depend on, and not what Transformers adds to them."""
    return [name for name in get_annotations(type(config)) if name not in WITHOUT_EFFECT]


def summary(report: IndexReport, num_clips: int) -> str:
    parts = [f"{len(getattr(report, name))} {name}" for name in ("added", "updated", "removed", "unchanged", "bad")]
    return f"videos: {', '.join(parts)}; {report.num_clips} clips encoded, {num_clips} in the index"


def hits_table(hits: list[Hit]) -> str:
    rows = [("", "score", "similarity", "from", "to", "video")]
    for rank, hit in enumerate(hits, start=1):
        score = "" if hit.score is None else f"{hit.score:.2f}"
        name = hit.video + (f"  ({hit.note})" if hit.note else "")
        rows.append((str(rank), score, f"{hit.similarity:.3f}", clock(hit.start), clock(hit.end), name))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)) for row in rows)
    return "\n".join(f"{line}  {row[-1]}" for line, row in zip(lines, rows, strict=True))


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds, 1), 60)
    return f"{int(minutes) // 60}:{int(minutes) % 60:02}:{seconds:04.1f}"
