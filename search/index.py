# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The index: clips and their embeddings in a LanceDB table, searched in two stages as in retrieval.

A folder holds

    index.json          the model, by name and by a fingerprint of its weights, and how videos are cut
    clips.lance         a row for each clip: video, its version, number of the clip, start, end, embedding
    bad_videos.jsonl    videos that cannot be read, and why

Every batch of clips is committed to the table as a whole, so that an indexer that is killed has lost the batch in its
hand and nothing else.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock, Timeout
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ..processing_svitt import SViTTProcessor, VideoDecodeError
from ..training.loaders import ProcessingArguments, worker_settings
from ..training.models import load_as_saved
from ..training.processes import InputError, fail_together, progress_bar, share_of, writing
from .clips import Clip, ClipFrames, ClipPlans, Video, find_videos, in_groups, is_below, read_clips
from .table import ClipTable, clip_of

SEARCHABLE = ("SViTTModel", "SViTTForVideoTextRetrieval", "SViTTForPreTraining")
MAX_QUERY_LENGTH = 1000  # characters; models read some dozens of words
COMMITS_BETWEEN_COMPACTIONS = 200


@dataclass
class Hit:
    """A clip that was found.

    Args:
        video: path, or `<shard>::<member>`.
        start, end: seconds.
        similarity: cosine of the embeddings.
        score: of matching, the logit by which hits are ranked; `None` where a hit was not re-ranked.
        note: why it was not, if the video should have been.
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
        self.table = ClipTable(folder)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model_name_or_path: str,
        clip_seconds: float = 10.0,
        stride_seconds: float = 5.0,
        num_frames: int | None = None,
    ) -> "SViTTIndex":
        """Make an empty index, or open the one that is there already with the same settings.

        Args:
            folder: to be made.
            model_name_or_path: folder or Hub name of a SViTT.
            clip_seconds: longer videos are cut into clips of this length,
            stride_seconds: one of them so long after another.
            num_frames: of a clip, by default the model's own.

        Raises:
            InputError: if there is no such model, it does not compare videos with texts, or the folder holds an index
                of another model or with other settings.
        """
        if not 0 < stride_seconds <= clip_seconds:
            raise InputError(
                f"--stride_seconds {stride_seconds:g}: must be above 0 and at most --clip_seconds, {clip_seconds:g}."
            )
        model, processor = load(model_name_or_path, num_frames)
        settings = {
            "model": os.path.abspath(model_name_or_path) if os.path.isdir(model_name_or_path) else model_name_or_path,
            "fingerprint": fingerprint_of(model, processor),
            "embed_dim": model.config.embed_dim,
            "num_frames": processor.video_processor.num_frames,
            "clip_seconds": clip_seconds,
            "stride_seconds": stride_seconds,
        }
        folder = Path(folder)
        fail_together(lambda: make_folder(folder, settings) if PartialState().is_main_process else None)
        before = read_settings(folder)
        for name in settings:
            if name != "model" and before[name] != settings[name]:
                what = "model" if name == "fingerprint" else name
                raise InputError(
                    f"{folder}: is an index with another {what} ({before[what]}); give the same, or another folder."
                )
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
                f"{folder}: was made by another model than {name}, whose embeddings cannot be compared with it. It was "
                f"made by {settings['model']}, as it was then; index the videos anew in another folder."
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

        What is indexed already stays as it is, so that a call that was interrupted is gone on with by another. With
        several processes, started by `accelerate launch`, each encodes a part.

        Args:
            paths: videos, folders of videos, and tar shards.
            batch_size: clips that a process encodes, and commits, at once.
            num_workers: processes that decode videos, beside each main process.

        Raises:
            InputError: if a path does not exist, or another process is indexing into the same folder.
        """
        names = [str(path) for path in paths]
        with self._locked():
            report, todo = self._plan(names, num_workers) if PartialState().is_main_process else (None, [])
            report, todo = broadcast_object_list([report, todo])
            groups = share_of(list(in_groups(todo)))
            bad = self._encode(groups, batch_size, num_workers)
            for found in gather_object([bad]):
                report.bad |= found
            report.num_clips = sum(video.name not in report.bad for video, _ in todo)
            if PartialState().is_main_process:
                self._finish(report, names)
            PartialState().wait_for_everyone()
        return report

    def remove(self, paths: Iterable[str | Path]) -> list[str]:
        """Remove videos by name, those below folders, and those in shards; returns their names."""
        folders = [str(path) for path in paths]
        with self._locked():
            names = sorted({video for video in self.videos() if any(is_below(video, folder) for folder in folders)})
            self.table.remove(names)
        return names

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One indexer at a time; the lock of one that was killed is open."""
        lock = FileLock(self.folder / "index.lock")

        def acquire():
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise InputError(f"{self.folder}: another process is indexing into it; wait for its end.") from error

        fail_together(acquire if PartialState().is_main_process else lambda: None)
        try:
            yield
        finally:
            lock.release()

    def _plan(self, paths: list[str], num_workers: int) -> tuple[IndexReport, list[tuple[Video, Clip]]]:
        """Remove what has vanished or changed, and list the clips to be encoded."""
        report, bad_before = IndexReport(), self._read_bad()
        found = {video.name: video for video in find_videos(paths)}
        indexed = self.table.clips()
        versions = {name: version for name, version, _ in indexed}
        for name, version in versions.items():
            if name not in found and any(is_below(name, path) for path in paths):
                report.removed.append(name)
            elif name in found and found[name].version != version:
                report.updated.append(name)
        self.table.remove([*report.removed, *report.updated])
        numbers = {(name, version): (done, num_clips) for (name, version, num_clips), done in indexed.items()}
        new = []
        for name, video in found.items():
            done, num_clips = numbers.get((name, video.version), (set(), None))
            if len(done) == num_clips:
                report.unchanged.append(name)
            elif bad_before.get(name, {}).get("version") == video.version:
                report.bad[name] = bad_before[name]["error"]
            else:
                new.append(video)
                if name not in report.updated:
                    report.added.append(name)
        plans = ClipPlans(new, self.settings["clip_seconds"], self.settings["stride_seconds"])
        loader = DataLoader(plans, batch_size=None, **reader_settings(num_workers))
        todo = []
        for video, plan in zip(new, progress_bar(loader, "looking at videos", len(new)), strict=True):
            if isinstance(plan, str):
                report.bad[video.name] = plan
                continue
            done, _ = numbers.get((video.name, video.version), (set(), None))
            todo += [(video, clip) for clip in plan if clip.number not in done]
        return report, todo

    def _encode(self, groups: list[tuple[Video, list[Clip]]], batch_size: int, num_workers: int) -> dict[str, str]:
        """Encode clips and commit them batch by batch; returns the videos that could not be read, and why."""
        frames = ClipFrames(groups, self.processor.video_processor)
        loader = DataLoader(frames, batch_size=None, **reader_settings(num_workers))
        bad, waiting, num_commits = {}, [], 0
        for video, clips, pixels in progress_bar(loader, "encoding", len(groups)):
            if isinstance(pixels, str):
                bad[video.name] = pixels
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
        """Forget the clips of bad videos, write these down, and bring table and ANN index into order."""
        self.table.remove(list(report.bad))
        report.added = [name for name in report.added if name not in report.bad]
        report.updated = [name for name in report.updated if name not in report.bad]
        versions = {video.name: video.version for video in find_videos(paths)}
        others = [
            line for line in self._read_bad().values() if not any(is_below(line["video"], path) for path in paths)
        ]
        now = [
            {"video": name, "version": versions.get(name), "error": error} for name, error in sorted(report.bad.items())
        ]
        new = self.folder / ".bad_videos.jsonl"
        new.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in others + now), encoding="utf-8")
        new.replace(self.folder / "bad_videos.jsonl")
        self.table.finish()

    def _read_bad(self) -> dict[str, dict]:
        path = self.folder / "bad_videos.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return {line["video"]: line for line in map(json.loads, lines)}

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
        well they match it. Of clips of one video that overlap, only the best is a hit. With a video, similarity ranks.

        Raises:
            InputError: if there is not one of `text` and `video`, or the model cannot read the sentence.
            VideoDecodeError: if `video` cannot be read.
        """
        if (text is None) == (video is None):
            raise InputError("Search for a text or for a video: give one of them.")
        if top_k < 1 or shortlist < top_k:
            raise InputError(f"--top_k {top_k}: must be at least 1, and at most --shortlist, which is {shortlist}.")
        words = None if text is None else self.encode_text(text)
        query = self.embed_video(video) if words is None else self.embed_text(words)
        rows = self.table.nearest(query, shortlist)
        hits = [Hit(row["video"], row["start"], row["end"], row["similarity"]) for row in rows]
        if words is not None and rerank:
            self._rerank(hits, rows, words)
            hits.sort(key=lambda hit: (hit.score is not None, hit.score or 0.0), reverse=True)
        return without_overlaps(hits)[:top_k]

    def encode_text(self, text: str) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (1, L) of a sentence; an `InputError` for one that says nothing."""
        if not text.strip():
            raise InputError("The query is empty; describe what a video shows, as in: a dog catches a frisbee.")
        if len(text) > MAX_QUERY_LENGTH:
            raise InputError(
                f"The query has {len(text):,} characters, at most {MAX_QUERY_LENGTH:,} are taken; a sentence is best."
            )
        words = self.processor(text=[text], return_tensors="pt")
        tokenizer = self.processor.tokenizer
        if not set(words["input_ids"].flatten().tolist()) - set(tokenizer.all_special_ids):
            raise InputError(
                f"The model knows no word of the query {text!r:.100}; it has learned from texts of another language or "
                "script."
            )
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
        clip, _ = self.processor.video_processor.read_clip(video)
        return self.embed_clips(clip[None])[0].cpu().numpy()

    @torch.no_grad()
    def _rerank(self, hits: list[Hit], rows: list[dict], words: dict[str, torch.Tensor], batch_size: int = 16):
        """Set the score of each hit whose clip can still be read, and a note for the others."""
        text = self.model.get_text_features(**words).last_hidden_state
        readable = []
        for hit, row in zip(hits, rows, strict=True):
            video, clip = clip_of(row)
            if not video.is_unchanged():
                hit.note = "the video has gone or changed since it was indexed"
                continue
            try:
                readable.append((hit, read_clips(video, [clip], self.processor.video_processor)[0]))
            except (VideoDecodeError, InputError) as error:
                hit.note = str(error)
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


def reader_settings(num_workers: int) -> dict:
    """Of a loader in a process that has a table open, which has threads and must not be forked."""
    return worker_settings(num_workers) | {"multiprocessing_context": "forkserver" if num_workers else None}


def without_overlaps(hits: list[Hit]) -> list[Hit]:
    """Without the clips that overlap a better one of the same video."""
    kept = []
    for hit in hits:
        if not any(hit.video == one.video and hit.start < one.end and one.start < hit.end for one in kept):
            kept.append(hit)
    return kept


def make_folder(folder: Path, settings: dict):
    """A folder with an empty table, and then its settings, unless it has them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "create.lock"):
            if not (folder / "index.json").is_file():
                ClipTable.create(folder, settings["embed_dim"])
                new = folder / ".index.json"
                new.write_text(json.dumps(settings, indent=2))
                new.replace(folder / "index.json")
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder of an index ({error}).") from error


def read_settings(folder: Path) -> dict:
    try:
        return json.loads((folder / "index.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: is no index, it has no index.json that can be read; svitt-search index makes one."
        ) from error


def load(name: str, num_frames: int | None) -> tuple[PreTrainedModel, SViTTProcessor]:
    """A model that compares videos with texts, ready for use, and its processor."""
    model, processor = load_as_saved(name, ProcessingArguments(num_frames=num_frames), SEARCHABLE)
    return model.eval().to(PartialState().device), processor


def fingerprint_of(model: PreTrainedModel, processor: SViTTProcessor) -> str:
    """Differs where embeddings do: a hash of the weights, the configuration, and how videos and texts are read."""
    digest = hashlib.sha256(json.dumps(model.config.to_diff_dict(), sort_keys=True, default=str).encode())
    digest.update(json.dumps(processor.to_dict(), sort_keys=True, default=str).encode())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.contiguous().cpu().view(torch.uint8).numpy() if weights.dim() else weights.cpu().numpy())
    return digest.hexdigest()
