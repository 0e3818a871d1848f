# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The index: spans of videos and their embeddings in a LanceDB table, searched in two stages as in retrieval.

A folder, or one in an object store (`s3://bucket/index`), holds

    index.json          the model, by name and by a hash of its files, and how videos are cut
    spans.lance         a row for each span, the stretch of a video that becomes a clip: see table.py
    bad_videos.jsonl    videos that could not be read the last time, and why

Spans are committed to the table in batches, each as a whole: an indexer that is killed has lost the batch in its hand,
or a fiftieth of what it has done, and nothing else.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ..conversion.defaults import default_model, load_for_use, this_process
from ..conversion.loading import COMPARING
from ..distributed import fail_together, progress_bar, share_of
from ..errors import ArgumentError, InputError, check_number, writing
from ..modeling_svitt import split_clips
from ..processing_svitt import SViTTProcessor, VideoDecodeError
from .folder import (
    CHOICES,
    check_choices,
    fingerprint_of,
    is_index,
    locked,
    read_settings,
    remove_videos,
    write_bad_report,
    write_settings,
)
from .hits import Hit, distinct, shows
from .places import has_file, is_url, place_of
from .spans import (
    Clip,
    Source,
    Span,
    SpanReader,
    absolute,
    absolutes,
    find_sources,
    is_below,
    passed_over,
    read_spans,
)
from .table import COLUMNS_OF_TOKENS, SpanTable
from .tokens import SpanTokens, most_attended, packed, unpacked
from .words import check_words

# Each commit writes a list of all before it: with one for each batch, these lists become larger than the spans.
UNCOMMITTED, MAX_UNCOMMITTED_BYTES = 1 / 50, 2**26  # of the spans that a process has encoded, and of their tokens

logger = logging.getLogger(__name__)


@dataclass
class IndexReport:
    """What [`SViTTIndex.add`] did: names of videos, what it passed over, and the number of spans that it encoded."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)  # all that cannot be read, and why
    damaged: dict[str, str] = field(default_factory=dict)  # of what is used all the same, what is left
    skipped: dict[str, int] = field(default_factory=dict)  # files that are no videos, by extension
    num_spans: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # of this process: reading, encoding, writing


class Progress(NamedTuple):
    """How far [`SViTTIndex.add`] is: videos that are done, of how many; spans that are encoded; the video last read."""

    num_done: int
    num_videos: int
    num_spans: int
    video: str
    bad: dict[str, str]


class SViTTIndex:
    """An index of spans in a folder; see [`SViTTIndex.create`] and [`SViTTIndex.open`].

    index = SViTTIndex.create("my_index", "svitt-base")
    index.add(["videos"])
    for hit in index.search("a dog catches a frisbee"):
        print(hit.video, hit.start, hit.end, hit.score)
    """

    def __init__(self, folder: Path | str, settings: dict, model: PreTrainedModel, processor: SViTTProcessor):
        self.folder, self.settings, self.model, self.processor = folder, settings, model, processor
        processor.video_processor.damaged = settings["damaged"]
        self.table = SpanTable(folder)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model_name_or_path: str | None = None,
        clip_seconds: float | None = None,
        stride_seconds: float | None = None,
        num_frames: int | None = None,
        frames_per_span: int | None = None,
        tokens: str | None = None,
        tokens_per_span: int | None = None,
        damaged: str | None = None,
    ) -> "SViTTIndex":
        """Make an empty index, or open the one that is there already with the same settings.

        All processes started by `accelerate launch` have to call this.

        Args:
            folder: to be made, or the URL of one in an object store.
            model_name_or_path: folder or Hub name of a SViTT, by default that of [`default_model`]; an index that is
                there knows its own.
            clip_seconds: longer videos are cut into spans of this length, 10 by default,
            stride_seconds: one of them so long after another, half of that by default.
            num_frames: of a clip, by default the model's own.
            frames_per_span: a multiple of `num_frames`, by default that: a span becomes so many clips, whose embedding
                is their mean, and whose tokens are joined.
            tokens: how the video tokens are kept that re-ranking looks at, `"int8"` (the default) or `"float16"`; or
                `"none"`: then it reads the videos again.
            tokens_per_span: at most so many, those that CLS looks at most; 512 by default.
            damaged: whether files that are damaged or cut off are left out, `"refuse"` (the default), or `"use"`: the
                frames that are left are indexed.

        Raises:
            InputError: if there is no such model, it does not compare videos with texts, a number is out of bounds, or
                the folder holds an index of another model or with other settings.
        """
        values = clip_seconds, stride_seconds, num_frames, frames_per_span, tokens, tokens_per_span, damaged
        given = {name: value for name, value in zip(CHOICES, values, strict=True) if value is not None}
        folder = place_of(folder)
        state = this_process()
        [is_there] = broadcast_object_list([fail_together(is_index, folder)])
        if is_there:
            before = read_settings(folder)
            for name, value in given.items():
                if value != before[name]:
                    raise InputError(f"{folder}: is an index with {name} {before[name]}; give that, or another folder.")
            return cls.open(folder, model_name_or_path)
        model_name = model_name_or_path or default_model("search")
        half = (clip_seconds or CHOICES["clip_seconds"]) / 2
        settings = CHOICES | {"stride_seconds": half} | given
        check_choices(settings)
        model, processor = load_for_use(model_name, num_frames, COMPARING)
        settings["model"] = os.path.abspath(model_name) if os.path.isdir(model_name) else model_name
        settings |= fingerprint_of(model_name)
        settings["num_frames"] = length = processor.video_processor.num_frames
        settings["frames_per_span"] = frames_per_span = settings["frames_per_span"] or length
        if frames_per_span % length:
            problem = f"must be a multiple of the {length} frames of a clip, see `num_frames`, got {frames_per_span}"
            raise ArgumentError("frames_per_span", problem)

        def make() -> bool:
            with locked(folder, timeout=60):  # of others that create it
                if has_file(folder, "index.json"):
                    return False
                SpanTable.create(folder, model.config.embed_dim, settings["tokens"] != "none")
                write_settings(folder, settings)
                return True

        [is_new] = broadcast_object_list([fail_together(make if state.is_main_process else lambda: None)])
        if not is_new:  # another command was faster, perhaps with other settings
            return cls.create(folder, model_name_or_path, *values)
        return cls(folder, settings, model, processor)

    @classmethod
    def open(cls, folder: str | Path, model_name_or_path: str | None = None) -> "SViTTIndex":
        """Open an index with its model, or with the same model in another place.

        Raises:
            InputError: if there is no index, or the model is another one than that which made it.
        """
        folder = place_of(folder)
        settings = read_settings(folder)
        name = model_name_or_path or settings["model"]
        model, processor = load_for_use(name, settings["num_frames"], COMPARING)
        found = fingerprint_of(name, settings)
        if found["fingerprint"] != settings["fingerprint"]:
            raise InputError(
                f"{folder}: was made by another model than {name}, namely {settings['model']} as it was; their "
                "embeddings cannot be compared; index the videos anew in another folder."
            )
        if found["files"] != settings["files"] and not is_url(folder):  # which machines share, each with its own files
            with suppress(InputError), locked(folder):  # of a folder that may only be read
                write_settings(folder, settings | found)
        return cls(folder, settings, model, processor)

    def __len__(self) -> int:
        """Number of spans."""
        return len(self.table)

    def videos(self) -> dict[str, int]:
        """Return how many spans each video has."""
        return {video: len(numbers) for (video, _, _), numbers in self.table.spans().items()}

    # ---- Indexing

    def add(
        self,
        paths: str | Path | Iterable[str | Path],
        batch_size: int = 16,
        num_workers: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> IndexReport:
        """Bring the index up to date with some videos: new and changed ones are encoded, vanished ones removed.

        A call that was interrupted is continued by the next; what could not be read is tried again. Processes started
        by `accelerate launch` share the work.

        Args:
            paths: videos, folders of videos and tar shards, and tar shards, or their URLs; a single one needs no list.
                Photos are videos of one frame. In folders and shards, files with other extensions are passed over.
            batch_size: spans that a process encodes at once.
            num_workers: processes that decode videos, beside each main process; by default 4 where another device than
                the CPU encodes.
            on_progress: called after each batch, of each process; what it raises ends the work.

        Raises:
            InputError: if a path does not exist, a number is out of bounds, or another process is indexing into the
                same folder.
        """
        check_number("batch_size", batch_size, 1)
        check_number("num_workers", num_workers, 0)
        if num_workers is None:
            num_workers = 0 if self.model.device.type == "cpu" else 4
        paths, is_main = absolutes(paths), PartialState().is_main_process
        with ExitStack() as stack:

            def plan():
                stack.enter_context(locked(self.folder))
                return self._plan(paths)

            [(report, todo)] = broadcast_object_list([fail_together(plan if is_main else lambda: None)])
            done = fail_together(self._encode, share_of(todo), batch_size, num_workers, on_progress)
            report.seconds = done.seconds
            for part in gather_object([done]):
                report.bad |= part.bad
                report.damaged |= part.damaged
                report.num_spans += part.num_spans
            for names in (report.added, report.updated):
                names[:] = [name for name in names if name not in report.bad]
            if is_main:
                write_bad_report(self.folder, report.bad | report.damaged)
                self.table.remove([source.video for source, _ in todo if source.video in report.bad])
                self.table.finish()
            PartialState().wait_for_everyone()
        return report

    def _plan(self, paths: list[str]) -> tuple[IndexReport, list[tuple[Source, set[int]]]]:
        """Remove what has vanished or changed; return the videos to encode, with the spans that are there."""
        sources, unread, skipped = find_sources(paths, absolute(self.folder))
        report, done = IndexReport(bad=unread, skipped=skipped), {}
        for (name, version, num_spans), numbers in self.table.spans().items():
            if name not in sources:
                if any(is_below(name, path) for path in paths) and not any(is_below(name, path) for path in unread):
                    report.removed.append(name)
            elif sources[name].version != version:
                report.updated.append(name)
            else:
                done[name] = numbers
                report.unchanged += [name] if len(numbers) == num_spans else []
        self.table.remove([*report.removed, *report.updated])
        report.added = [name for name in sources if name not in {*report.updated, *report.unchanged}]
        return report, [(sources[name], done.get(name, set())) for name in (*report.added, *report.updated)]

    def _encode(
        self,
        todo: list[tuple[Source, set[int]]],
        batch_size: int,
        num_workers: int,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> IndexReport:
        """Encode and commit spans in batches, and tell of them."""
        lengths = self.settings["clip_seconds"], self.settings["stride_seconds"]
        reader = SpanReader(todo, *lengths, self.processor.video_processor, self.settings["frames_per_span"])
        context = "forkserver" if num_workers else None  # the table has threads, with which nothing may be forked
        how = {"collate_fn": list, "num_workers": num_workers, "multiprocessing_context": context}
        report, progress = IndexReport(), progress_bar(todo, "videos")
        watch, waiting = StopWatch(report.seconds), []  # rows that are not committed yet
        num_done, tell = 0, on_progress or (lambda progress: None)
        tell(Progress(0, len(todo), 0, todo[0][0].video if todo else "", {}))
        for batch in DataLoader(reader, batch_size, **how):
            watch.stop("reading")
            found = [one for one in batch if one[1] is not None]
            errors = {source.video: error for source, span, error in batch if span is None}
            waiting += self._rows(*zip(*found, strict=True)) if found else []
            watch.stop("encoding")
            report.bad |= errors
            report.damaged |= {source.video: clip.damage for source, _, clip in found if clip.damage}
            report.num_spans += len(found)
            num_bytes = sum(len(row.get("tokens", b"")) for row in waiting)
            if len(waiting) > report.num_spans * UNCOMMITTED or num_bytes > MAX_UNCOMMITTED_BYTES:
                self._commit(waiting)
                waiting = []
            watch.stop("writing")
            step = len(errors) + sum(span.number == span.num_spans - 1 for _, span, _ in found)
            progress.update(step)
            num_done += step
            tell(Progress(num_done, len(todo), report.num_spans, batch[-1][0].video, report.bad))
        self._commit(waiting)
        return report

    def _commit(self, rows: list[dict]):
        with writing(self.folder):
            if rows:
                self.table.add(rows)

    def _rows(self, sources: Sequence[Source], spans: Sequence[Span], clips: Sequence[Clip]) -> list[dict]:
        """Return rows of the table for spans."""
        rows = [source._asdict() | span._asdict() for source, span in zip(sources, spans, strict=True)]
        embeddings, tokens = self.encode_clips(torch.stack([clip.frames for clip in clips]))
        for row, embedding in zip(rows, embeddings, strict=True):
            row["embedding"] = embedding
        if self.has_tokens:
            for row, columns, clip in zip(rows, packed(tokens, self.settings["tokens"]), clips, strict=True):
                row |= columns | {"times": clip.times}
        return rows

    def remove(self, paths: str | Path | Iterable[str | Path]) -> list[str]:
        """See [`remove_videos`]."""
        return remove_videos(self.folder, paths)

    # ---- Searching

    def search(
        self,
        text: str | None = None,
        video: str | Path | None = None,
        top_k: int = 10,
        rerank: bool | None = None,
        shortlist: int = 50,
        like: Hit | None = None,
        min_similarity: float | None = None,
        where: str | None = None,
        locate: bool = False,
    ) -> list[Hit]:
        """Return the spans that a sentence describes, or that look like a video or another hit, best first.

        The `shortlist` spans with the most similar embeddings, `top_k` at least, are fused with the sentence and ranked
        by how well they match it. Of spans of one video that overlap, only the most similar takes part. With a video or
        a hit, similarity ranks.

        Args:
            text, video, like: a sentence, a video or photo, or a hit: one of them.
            rerank: whether to fuse and rank, by default `rerank` of the model's configuration.
            min_similarity: leave out what is less similar.
            where: leave out what does not fulfil this condition in SQL on `video`, `start` and `end`, such as
                "video LIKE '%holiday%' AND end - start > 5".
            locate: find the `best_time` of each hit.

        Raises:
            InputError: if there is not one query, the model knows no word of the sentence, the condition is none, or
                there is nothing to locate it by.
            VideoDecodeError: if `video` cannot be read.
        """
        if [text, video, like].count(None) != 2:
            raise InputError("Search for a text, for a video or for what is like a hit: give one of them.")
        check_number("top_k", top_k, 1)
        check_number("shortlist", shortlist, 1)
        check_number("min_similarity", min_similarity, -math.inf)
        if locate and (text is None or not self.has_tokens):
            raise InputError("Only a sentence can be located, and only in an index that keeps tokens.")
        is_fused = text is not None and (self.model.config.rerank if rerank is None else rerank)
        words = self._read(text) if text is not None else None
        query = words.embedding if words is not None else self._embedding_of(video, like)
        rows = self._shortlist(query, max(shortlist, top_k) if is_fused else top_k, where, like)
        rows = [row for row in rows if min_similarity is None or row["similarity"] >= min_similarity]
        found = []
        for row in rows:
            is_as_it_was = Source(row["video"], row["version"], row["shard"]).is_unchanged()
            note = None if is_as_it_was else "the video has gone or changed since it was indexed"
            hit = Hit(row["video"], row["start"], row["end"], row["similarity"], note=note, copies=row["copies"])
            found.append(Found(row, hit))
        if is_fused:
            self._rerank(found, words)
            found.sort(key=lambda one: (one.hit.score is not None, one.hit.score or 0.0), reverse=True)
        if locate:
            self._locate(found[:top_k], words)
        return [one.hit for one in found[:top_k]]

    def _embedding_of(self, video: str | Path | None, like: Hit | None) -> np.ndarray:
        """Return the embedding (D,) of a video, or of the span of a hit."""
        if like is None:
            return self.embed_video(video)
        check_number("start", like.start, 0)
        embedding = self.table.embedding(like.video, like.start)
        if embedding is None:
            raise InputError(f"{self.folder}: has no span of {like.video} that starts at {like.start:g} s.")
        return embedding

    def _shortlist(self, query: np.ndarray, size: int, where: str | None, like: Hit | None) -> list[dict]:
        """Return rows of the most similar spans, none twice nor `like` itself: `size`, if there are as many."""
        num_neighbors = size + 1
        while True:
            rows = self.table.nearest(query, num_neighbors, where)
            kept = [row for row in distinct(rows) if like is None or not shows(row, like)]
            if len(kept) >= size or len(rows) < num_neighbors:
                return kept[:size]
            num_neighbors *= 4

    @property
    def has_tokens(self) -> bool:
        return self.settings["tokens"] != "none"

    @torch.no_grad()
    def encode_clips(self, clips: torch.Tensor) -> tuple[np.ndarray, SpanTokens]:
        """Return what [`embed_clips`] does, and the tokens that are kept of clips (B, T, 3, H, W) uint8.

        T may be a multiple of the frames that the model is given at once.
        """
        pixels = self.processor.video_processor.to_pixel_values(clips.to(self.model.device))
        length, vision = self.settings["num_frames"], self.model.config.vision_config
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.model.device.type == "cuda"):
            features = self.model.get_video_features(split_clips(pixels, length), output_cls_attention=True)
        num_clips = clips.shape[1] // length
        embeds = self.model.video_embeds(features.pooler_output.float()).unflatten(0, (-1, num_clips)).mean(dim=1)
        limit = self.settings["tokens_per_span"] if self.has_tokens else None
        return embeds.cpu().numpy(), most_attended(features, vision, length, num_clips, limit)

    def embed_clips(self, clips: torch.Tensor) -> np.ndarray:
        """Return embeddings (B, D) of clips (B, T, 3, H, W) uint8, to be multiplied with those of texts."""
        return self.encode_clips(clips)[0]

    def embed_video(self, video: str | Path) -> np.ndarray:
        """Return the embedding (D,) of a video, or photo, as one span."""
        clip = self.processor.video_processor.read_clip(video, num_frames=self.settings["frames_per_span"])
        return self.embed_clips(clip[None])[0]

    def embed_text(self, text: str) -> np.ndarray:
        """Return the embedding (D,) of length 1 of a sentence, of which the model must know a word."""
        return self._read(text).embedding

    @torch.no_grad()
    def _read(self, text: str) -> "Words":
        if unknown := check_words(self.processor.tokenizer, text):
            logger.warning("The model does not know some words of the query: %s", ", ".join(unknown))
        words = self.processor(text=[text], return_tensors="pt").to(self.model.device)
        features = self.model.get_text_features(**words)
        embedding = F.normalize(features.pooler_output.float(), dim=-1)[0].cpu().numpy()
        return Words(embedding, features.last_hidden_state, words["attention_mask"])

    def _rerank(self, found: "list[Found]", words: "Words"):
        """Set the score of each hit whose video is as it was, or else can be read, and a note for the others."""
        unchanged = [one for one in found if one.hit.note is None]
        for part, tokens in self._kept(unchanged) if self.has_tokens else self._read_again(unchanged):
            for one, score in zip(part, self._match(words, tokens).tolist(), strict=True):
                one.hit.score = score

    def _tokens_of(self, found: "list[Found]") -> tuple[list[dict], SpanTokens]:
        """Return columns of the table, and the tokens that they hold."""
        rows = self.table.take([one.row for one in found], COLUMNS_OF_TOKENS)
        return rows, unpacked(rows, self.model.config.vision_config.hidden_size)

    def _kept(self, found: "list[Found]", batch_size: int = 64) -> "Iterator[tuple[list[Found], torch.Tensor]]":
        """Yield hits and the tokens (B, n, D) that the table keeps, in batches."""
        for start in range(0, len(found), batch_size):
            part = found[start : start + batch_size]
            yield part, self._tokens_of(part)[1].values

    def _read_again(self, found: "list[Found]", batch_size: int = 16) -> "Iterator[tuple[list[Found], torch.Tensor]]":
        """Yield hits whose spans can be read and the tokens (B, n, D) of these, in batches."""
        readable, processor = [], self.processor.video_processor
        sources = self.table.sources([one.row for one in found])
        known = sorted(zip(sources, found, strict=True), key=itemgetter(0))
        for source, of_source in groupby(known, key=lambda one: one[0][0]):
            places, hits = zip(*of_source, strict=True)
            spans, length = [span for _, span in places], self.settings["frames_per_span"]
            try:
                clips = read_spans(source, lambda metadata, spans=spans: spans, processor, length)
                readable += [(one, clip.frames) for one, (_, clip) in zip(hits, clips, strict=True)]
            except (VideoDecodeError, OSError) as error:
                for one in hits:
                    one.hit.note = str(error)
        for start in range(0, len(readable), batch_size):
            part, clips = zip(*readable[start : start + batch_size], strict=True)
            yield list(part), self.encode_clips(torch.stack(clips))[1].values

    @torch.no_grad()
    def _match(self, words: "Words", tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return how well a sentence describes videos (B,), of whose tokens (B, n, D) it may see `mask` (B, n)."""
        return self.model.match(
            video_hidden_states=tokens.to(self.model.device),
            text_hidden_states=words.states.expand(len(tokens), -1, -1),
            attention_mask=words.mask.expand(len(tokens), -1),
            video_mask=mask,
        )

    def _locate(self, found: "list[Found]", words: "Words"):
        """Set the `best_time` of hits: when the frame is shown whose tokens alone match the sentence best."""
        if not found:
            return
        rows, tokens = self._tokens_of(found)
        scores = []
        for frame in range(self.settings["frames_per_span"]):
            mask = tokens.of_frame(frame)
            of_frame = self._match(words, tokens.values, mask.to(self.model.device)).cpu()
            scores.append(of_frame.masked_fill(~mask.any(dim=1), -math.inf))
        for one, row, frame in zip(found, rows, torch.stack(scores).argmax(dim=0).tolist(), strict=True):
            one.hit.best_time = max(one.hit.start, row["times"][frame])  # a frame may be shown since before


class StopWatch:
    """Counts seconds by what they were spent on."""

    def __init__(self, seconds: dict[str, float]):
        self.seconds, self.last = seconds, time.perf_counter()

    def stop(self, what: str):
        now = time.perf_counter()
        self.seconds[what] = self.seconds.get(what, 0.0) + now - self.last
        self.last = now


class Words(NamedTuple):
    """A sentence: its embedding (D,), and what fusion starts from, states (1, L, D) and their mask (1, L)."""

    embedding: np.ndarray
    states: torch.Tensor
    mask: torch.Tensor


class Found(NamedTuple):
    """A hit, and the row of the table that it is of."""

    row: dict
    hit: Hit


# ---- In words


def summary(report: IndexReport, num_spans: int) -> str:
    parts = [f"{len(getattr(report, name))} {name}" for name in ("added", "updated", "removed", "unchanged", "bad")]
    spans, seconds = f"{report.num_spans} spans encoded, {num_spans} in the index", sum(report.seconds.values())
    if report.num_spans and seconds:
        split = ", ".join(f"{what} {share / seconds:.0%}" for what, share in report.seconds.items())
        spans += f"; {report.num_spans / seconds:.1f} spans/s ({split})"
    return f"videos: {', '.join(parts)}; {spans}{passed_over(report.skipped)}"
