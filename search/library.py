# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What the page of `svitt serve` shows: hits in words, pictures and clips of them, and indexing in the background."""

import io
import math
import os
import re
import secrets
import tempfile
from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from threading import Lock, Thread

import yaml
from huggingface_hub import ModelCard, try_to_load_from_cache

from ..conversion.defaults import DEFAULTS
from ..data.files import is_video
from ..errors import InputError, sentence_of
from ..processing_svitt import IMAGE_EXTENSIONS, VideoDecodeError
from .ask import SViTTAnswerer
from .folder import is_index
from .hits import Hit
from .index import Progress, SViTTIndex
from .maps import contact_sheet, token_maps
from .places import has_file, is_url, place_of
from .playing import Clips, poster
from .spans import version_of
from .table import SpanTable, quoted
from .words import unknown_words, vocabulary

# Logits of matches that are as probable as this. Of the pairs that training shows the head, one in three is right. Its
# other logit is nearly the opposite number, as their gradients are.
GOOD, WEAK = (math.log(probability / (1 - probability)) / 2 for probability in (1 / 3, 1 / 20))
EXAMPLES = (
    "a dog catches a frisbee", "somebody cooks in a kitchen", "waves on a beach", "a red circle moves right",
    "a blue square hops", "a triangle turns from green to yellow",
)  # fmt: skip


class GoneError(InputError):
    """A video that a visitor names is not in the index, or not any more."""

    def __str__(self) -> str:
        return "This video is not in the index any more; search again."


class Library:
    """The index in a folder, which may be made later, and a model that answers questions about its videos.

    Videos have names of this process's own: visitors ask for those alone that it has named to them.

    Args:
        folder: of an index, of one to be made, or the URL of one.
        model: of the index, if it has moved, or that a new one is made with.
        qa_model: that answers; see [`SViTTAnswerer`].
        is_private: show where videos lie, and take files, as nobody else can visit.

    Raises:
        InputError: if the folder holds something else, or the index cannot be opened.
    """

    def __init__(
        self, folder: str | Path, model: str | None = None, qa_model: str | None = None, is_private: bool = True
    ):
        self.folder, self.model, self.qa_model, self.is_private = place_of(folder), model, qa_model, is_private
        self.index: SViTTIndex | None = None
        self.answerer: SViTTAnswerer | None = None
        self.job = Job()
        self.lock = Lock()  # of models: one query uses all cores
        self.key, self.known = secrets.token_bytes(16), dict[str, str]()
        self.scratch = tempfile.TemporaryDirectory(prefix="svitt_page_", ignore_cleanup_errors=True)
        self.clips = Clips(Path(self.scratch.name, "clips"))
        if is_url(self.folder) or is_index(self.folder):
            self.use(SViTTIndex.open(folder, model))

    def use(self, index: SViTTIndex):
        # A search takes more of the rows that it has found: no other use of the table may move it on in between.
        self.table, self.index = SpanTable(index.folder), index

    def has_index(self) -> bool:
        """Return whether there is an index, which another process may have made since."""
        with self.lock:
            if self.index is None and not self.job.state["is_running"] and has_file(self.folder, "index.json"):
                self.use(SViTTIndex.open(self.folder, self.model))
        return self.index is not None

    def close(self):
        self.job.stop()
        self.scratch.cleanup()

    # ---- What is there

    def id_of(self, video: str) -> str:
        """Return the name of a video, another one once its file is replaced: caches hold pictures of the old one."""
        state = ""
        with suppress(OSError):  # of one that has gone, or lies in a store
            state = version_of(video if os.path.exists(video) else video.partition("::")[0])
        name = blake2b(f"{video}\n{state}".encode(), key=self.key, digest_size=9).hexdigest()
        self.known[name] = video
        return name

    def hit_of(self, id: str, start: float) -> Hit:
        """Return the span of a video that a visitor names; only what the index holds now is handed out."""
        video = self.known.get(id)
        times = self.table.times([video]) if video is not None else {}
        of_span = [one for one in times.get(video, []) if abs(one[0] - start) < 0.05]
        if not of_span:
            raise GoneError
        return Hit(video, *of_span[0], 0.0)

    def about(self) -> dict:
        """Return what is indexed, and what is known of the model."""
        folder = str(self.folder) if self.is_private else short_name(str(self.folder))
        told = {"folder": folder, "is_private": self.is_private}
        if not self.has_index():
            return told | {"num_videos": 0, "num_spans": 0, "model": None, "notes": [], "examples": []}
        name, tokenizer = self.model or self.index.settings["model"], self.index.processor.tokenizer
        return told | {
            "num_videos": len(self.videos()),
            "num_spans": len(self.table),
            "model": model_name(name),
            "can_locate": self.index.has_tokens,
            "notes": notes_on(name, self.index.model, tokenizer),
            "examples": [one for one in EXAMPLES if not unknown_words(tokenizer, one)][:3],
        }

    def videos(self) -> list[str]:
        return sorted({video for video, _, _ in self.table.spans()}) if self.index is not None else []

    def shelf(self, offset: int, count: int) -> list[dict]:
        """Return some videos, as hits at their beginning."""
        names = self.videos()[offset : offset + count]
        times = self.table.times(names) if names else {}
        return [self.shown(Hit(name, *times[name][0], 0.0), times) for name in names if name in times]

    # ---- Searching

    def search(self, name: str | None = None, where: str | None = None, **query) -> dict:
        """Return hits for the page, and the words of the query that the model does not know.

        Args:
            name: part of a video's path, or where the page is not private, of its file's name.
            query: arguments of [`SViTTIndex.search`].
        """
        if not self.has_index() or not len(self.table):
            raise InputError("There are no videos yet.")
        if where and not self.is_private:  # it could ask where they lie
            raise InputError("Open to other machines, no conditions in SQL are taken.")
        if name:
            of_name = f"regexp_like(video, {quoted(f'(?i){re.escape(name)}' + ('' if self.is_private else '[^/]*$'))})"
            where = f"({where}) AND {of_name}" if where else of_name
        with self.lock:
            hits = self.index.search(where=where, **query)
        text = query.get("text")
        times = self.table.times(sorted({hit.video for hit in hits})) if hits else {}
        unknown = unknown_words(self.index.processor.tokenizer, text) if text else []
        return {"hits": [self.shown(hit, times, bool(unknown)) for hit in hits], "unknown": unknown}

    def shown(self, hit: Hit, times: dict, is_half_read: bool = False) -> dict:
        """Return a hit as the page shows it."""
        more: dict = {
            "id": self.id_of(hit.video),
            "name": short_name(hit.video),
            "word": word_of(hit.score, is_half_read),
        }
        more["is_photo"] = is_video(more["name"], IMAGE_EXTENSIONS)
        more["duration"] = max(end for _, end in times.get(hit.video, [(hit.start, hit.end)]))
        if not self.is_private:
            more |= {"video": more["name"], "copies": [short_name(copy) for copy in hit.copies]}
            more["note"] = hit.note and "the video has gone or changed, or cannot be read"
        return asdict(hit) | more

    def ask(self, hit: Hit, question: str, options: list[str]) -> dict:
        """Return answers about a span, the best first, what is known of the model, and the words it does not know."""
        video, start, end = self.readable(hit)
        with self.lock:
            self.answerer = self.answerer or SViTTAnswerer(self.qa_model)
            self.answerer.processor.video_processor.damaged = self.index.settings["damaged"]
            answers = self.answerer.answer(video, question, options, 5, start, end)
        tokenizer, model = self.answerer.processor.tokenizer, self.answerer.model
        unknown = [word for text in (question, *options) for word in unknown_words(tokenizer, text)]
        notes = notes_on(model.name_or_path, model, tokenizer)
        answered = [one._asdict() for one in answers]
        return {"answers": answered, "unknown": list(dict.fromkeys(unknown)), "notes": notes}

    # ---- Pictures and clips

    def poster(self, hit: Hit, time: float) -> bytes:
        """Return a picture of a span, as JPEG."""
        time = min(max(time, hit.start), max(hit.start, hit.end - 0.1))
        return poster(hit.video, time, self.id_of(hit.video))

    def patches(self, hit: Hit, text: str | None) -> bytes:
        """Return which patches of a span the model keeps, as PNG."""
        video, start, end = self.readable(hit)
        span = {"path": video, "start": start, "end": end}
        with self.lock:
            sheet = contact_sheet(token_maps(self.index.model, self.index.processor, span, text or None))
        file = io.BytesIO()
        sheet.save(file, "png")
        return file.getvalue()

    def readable(self, hit: Hit) -> tuple[str | Path, float, float | None]:
        """Return a file that shows a span, and from when to when."""
        if os.path.isfile(hit.video):
            return hit.video, hit.start, hit.end if hit.end > hit.start else None
        return self.clip(hit), 0.0, None

    def clip(self, hit: Hit) -> Path:
        """Return the span written anew as an MP4 that browsers play."""
        return self.clips.get(f"{self.id_of(hit.video)}_{round(hit.start * 1000)}", hit)

    # ---- Indexing

    def uploads(self) -> Path:
        """Return the folder of visitors' files."""
        if is_url(self.folder):
            raise InputError(f"{self.folder}: lies in a store, which takes no files here.")
        return Path(f"{self.folder}_uploads")

    def start(self, path: str | Path):
        """Index a folder or video in the background; the first time, an index is made.

        Raises:
            InputError: if that is going on already.
        """

        def add(tell) -> dict:
            if self.index is None:
                self.use(SViTTIndex.create(self.folder, self.model))
            index = SViTTIndex(self.index.folder, self.index.settings, self.index.model, self.index.processor)
            report = index.add([path], 4 if index.model.device.type == "cpu" else 16, on_progress=tell)
            counts = [f"{len(getattr(report, name))} {name}" for name in ("added", "updated", "removed", "unchanged")]
            return {"told": f"Videos: {', '.join(counts)}.", "bad": sentences(report.bad)}

        self.job.start(str(path), add)


class Job:
    """Indexing in the background: one at a time, which all visitors see."""

    def __init__(self):
        self.lock, self.thread, self.is_stopping = Lock(), None, False
        self.state: dict = {"is_running": False}

    def start(self, what: str, work):
        with self.lock:
            if self.state["is_running"]:
                raise InputError("Indexing is going on already; wait for its end.")
            self.state = {"is_running": True, "what": what, "bad": []}
        self.thread = Thread(target=self.run, args=(work,), daemon=True)
        self.thread.start()

    def run(self, work):
        try:
            end = work(self.tell)
        except (InputError, VideoDecodeError) as error:
            end = {"error": sentence_of(error)}
        except Exception as error:  # which would be seen by nobody
            end = {"error": f"Indexing has failed: {type(error).__name__}: {error}"}
        self.state = self.state | end | {"is_running": False}

    def tell(self, progress: Progress):
        if self.is_stopping:
            raise InputError("The server has been stopped; index again to go on.")
        told = {"video": short_name(progress.video), "bad": sentences(progress.bad)}
        self.state = self.state | progress._asdict() | told

    def stop(self):
        self.is_stopping = True
        if self.thread is not None:
            self.thread.join(30)


# ---- In words


def word_of(score: float | None, is_half_read: bool = False) -> str | None:
    """Return `"good"`, `"weak"` or `"none"` for the logit of a match; a query that is half read has no good one."""
    if score is None:
        return None
    return "none" if score < WEAK else "weak" if score < GOOD or is_half_read else "good"


def notes_on(name: str, model, tokenizer) -> list[str]:
    """Return sentences on what a model was trained on, as far as that is known, and cannot see."""
    notes, words = [], vocabulary(tokenizer)
    data = trained_on(name)
    if data:
        notes.append(f"It was trained on {data}.")
    if words is not None:
        notes.append(f"It knows {len(words)} words, and nothing else: {', '.join(words)}.")
    if not data and words is None:
        notes.append("Nothing tells what it was trained on: it has no model card.")
    if not model.config.rerank:
        notes.append("Its embeddings alone rank: in validation, fusing videos with sentences made no better lists.")
    vision = model.config.vision_config
    if vision.frame_wise:
        notes.append("It sees frames one by one: it knows neither motion nor what comes first.")
    notes.append(f"It sees {vision.num_frames} frames of a span, and hears nothing.")
    return notes


def trained_on(name: str) -> str | None:
    """Return what the model card says, or what is known of the default models."""
    try:
        path = Path(name, "README.md") if os.path.isdir(name) else try_to_load_from_cache(name, "README.md")
        card = ModelCard(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, yaml.YAMLError):  # there is none, or none that can be read
        return "pictures and their captions" if model_name(name) in DEFAULTS.values() else None
    found = re.search(r"^- Data: (.+)$", card.text, re.MULTILINE)
    datasets = getattr(card.data, "datasets", None) or []
    return found[1] if found else ", ".join([datasets] if isinstance(datasets, str) else datasets) or None


def model_name(name: str) -> str:
    """Return the last part of a folder; of a default model, which lies in a cache, its name on the Hub."""
    parts = Path(name).parts
    return next((one for one in DEFAULTS.values() if one.rpartition("/")[2] in parts), Path(name).name)


def sentences(bad: dict[str, str]) -> list[str]:
    return [error if video in error else f"{video}: {error}" for video, error in sorted(bad.items())]


def short_name(video: str) -> str:
    return re.split(r"[/\\]", video.rpartition("::")[2])[-1]
