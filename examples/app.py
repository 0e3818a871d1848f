# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""A page on which to search videos by sentence, see what the model attends to, and ask questions about a video.

    python examples/app.py                                   # the models and test clips of `make demo` and `demo-qa`
    python examples/app.py --model out --videos my_videos --index my_index --qa_model qa_out

Needs Gradio: pip install -e ".[app]". On its own machine, the page can index any folder, and all tabs share one index.
Open to other machines (--server_name 0.0.0.0, or on a Space), it gives each visitor an index of their own, limits the
size of uploads, and deletes everything when the visitor leaves.
"""

import argparse
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import gradio as gr
import numpy as np
import torch
from accelerate import PartialState

from svitt.conversion import load_model_and_processor
from svitt.data.presets import Preset
from svitt.distributed import BAD_INPUT
from svitt.errors import InputError, exit_on_bad_input, sentence_of
from svitt.evaluation.answering import AnsweringArguments, find_answer_list
from svitt.processing_svitt import read_video, sample_frame_indices
from svitt.search import Hit, IndexReport, SViTTIndex
from svitt.search.clips import frames_shown, times_or_equal
from svitt.search.index import clock, summary
from svitt.search.maps import contact_sheet, overlay, token_maps

DEMO = Path("demo")  # of `make demo` and `make demo-qa`
DEMO_SENTENCES = [
    "a red circle moves right and then up",
    "a blue triangle hops and then a red circle hops",
    "a square turns from green to yellow",
]
DEMO_QUESTIONS = ["which way does it move first?", "what color hops first?", "what shape is it?"]
NUM_HITS, SHORTLIST, NUM_ANSWERS, COLUMNS = 6, 50, 5, 3
GIVEN_LENGTH = 32  # tokens of an answer that a visitor gives
MAX_UPLOADS, MAX_FILE_SIZE = 50, "100mb"  # of a visitor from another machine
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CSS = """
.gradio-container {max-width: 1100px !important; width: 100% !important; margin: 0 auto !important}
.hit {padding: 10px !important} .hit video {background: #111; object-fit: contain}
.hit p {margin: 0; line-height: 1.5; font-size: 0.95em}
"""
SCROLL_TO_MAPS = "() => document.querySelector('#maps').scrollIntoView({behavior: 'smooth'})"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    env = os.environ.get
    parser.add_argument(
        "--model", default=env("SVITT_MODEL"), help="folder or Hub name of a SViTT that compares videos with texts"
    )
    parser.add_argument(
        "--qa_model", default=env("SVITT_QA_MODEL"), help="folder or Hub name of a SViTT that answers questions"
    )
    parser.add_argument(
        "--videos", nargs="+", default=env("SVITT_VIDEOS", "").split(), help="videos and folders to index on start-up"
    )
    parser.add_argument("--index", help="folder to keep the index in; by default it is deleted on exit")
    parser.add_argument("--server_name", default=env("GRADIO_SERVER_NAME", LOOPBACK[0]), help="address to listen on")
    parser.add_argument(
        "--port", type=int, default=env("GRADIO_SERVER_PORT"), help="by default the first free one from 7860 on"
    )
    parser.add_argument(
        "--allow_folders",
        action="store_true",
        help="trust visitors from other machines like those from this one: one index, any folder, no limits",
    )
    args = parser.parse_args()
    args.examples = args.model is None
    if args.model is None:
        if not (DEMO / "out" / "config.json").is_file():
            raise InputError(f"{DEMO / 'out'}: there is no model; run `make demo` to train one, or give --model.")
        args.model = str(DEMO / "out")
        args.videos = args.videos or sorted(map(str, (DEMO / "data/videos").glob("test_*.mp4")))
        if args.qa_model is None and (DEMO / "qa_out").is_dir():
            args.qa_model = str(DEMO / "qa_out")
    return args


def check_port(server_name: str, port: int | None):
    """An `InputError` where the page cannot listen: before models are loaded and videos indexed."""
    family = socket.AF_INET6 if ":" in server_name else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a page that has just ended is no obstacle
            probe.bind((server_name, port or 0))
    except (OSError, OverflowError) as error:
        where = f"--server_name {server_name}" if port is None else f"--port {port}"
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{where}: the page cannot listen there ({reason}); give another.") from error


# ---------------------------------------------------------------------------------------------------------------------
# What the page does
# ---------------------------------------------------------------------------------------------------------------------


def told(function: Callable) -> Callable:
    """The same function, but bad input becomes a message on the page, which names files without their folders."""

    @wraps(function)
    def wrapper(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except BAD_INPUT as error:
            sentence = sentence_of(error)
            for path in (arg for arg in args if isinstance(arg, str) and os.path.isfile(arg)):
                sentence = sentence.replace(path, Path(path).name)
            raise gr.Error(sentence, print_exception=False) from error

    return wrapper


def copy_of(index: SViTTIndex, folder: str) -> SViTTIndex:
    """A new index that starts with the same clips."""
    shutil.copytree(index.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("uploads"))
    return SViTTIndex(Path(folder), index.settings, index.model, index.processor)


def add_uploads(index: SViTTIndex, uploads: list[str], limit: int | None) -> IndexReport:
    """Copy uploads beside the index and index the copies; Gradio put each into a folder named after its content."""
    folder = index.folder.absolute() / "uploads"
    total = len(list(folder.glob("*/*"))) + len(uploads)
    if limit is not None and total > limit:
        raise InputError(f"Each visitor may upload {limit} videos in all; these would make {total}.")
    videos = {folder / Path(path).parent.name / Path(path).name: path for path in uploads}
    for video, path in videos.items():
        video.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, video)
    report = index.add(videos)
    for video in report.bad:
        shutil.rmtree(Path(video).parent)
    return report


def find(index: SViTTIndex, sentence: str) -> tuple[list[Hit], list[int]]:
    """The best clips, and the rank of each before re-ranking, from 1."""
    if not len(index):
        raise InputError("There are no clips to search yet; add some on the Videos tab.")
    hits = index.search(sentence, top_k=NUM_HITS, shortlist=SHORTLIST)
    similarities = [hit.similarity for hit in index.search(sentence, top_k=SHORTLIST, rerank=False)]
    return hits, [1 + sum(similarity > hit.similarity for similarity in similarities) for hit in hits]


def frames_between(video: str, start: float, end: float | None, num_frames: int) -> np.ndarray:
    """Frames (T, H, W, 3), uint8, from `start` to `end` in seconds (or to the very end), sampled as the index does."""
    _, metadata = read_video(video, lambda metadata: [0])
    first, last = 0, metadata.total_num_frames
    if metadata.fps and (start or end):
        times = times_or_equal(metadata.frame_times, last, metadata.fps)
        duration = float(times[-1]) + 1 / metadata.fps
        if start >= min(end or duration, duration):
            raise InputError(f"{video}: there are no frames between {minutes(start)} and {minutes(end or duration)}.")
        first, last = frames_shown(times, start, end or duration)
    return read_video(
        video, lambda metadata: [first + i for i in sample_frame_indices(num_frames, max(last - first, 1))]
    )[0]


def explain(index: SViTTIndex, hit: Hit, sentence: str, folder: str):
    """A video and a picture of the patches of a hit that the model keeps."""
    frames = frames_between(hit.video, hit.start, hit.end, index.settings["num_frames"])
    maps = token_maps(index.model, index.processor, frames, sentence)
    path = Path(tempfile.mkdtemp(dir=folder), "token_maps.mp4")
    overlay(maps, path)
    return path, contact_sheet(maps)


class Answerer:
    """A model that answers questions, with its list of answers, if it has one."""

    def __init__(self, name: str):
        self.model, self.processor = load_model_and_processor(name, architectures=["SViTTForVideoQuestionAnswering"])
        self.model.eval().to(PartialState().device)
        self.answers = find_answer_list(AnsweringArguments(), Preset(name), None, None, name)

    @torch.no_grad()
    def __call__(
        self, video: str | None, question: str, answers: str = "", start: float | None = None, end: float | None = None
    ) -> dict[str, float]:
        """Answers with probabilities: of those given, separated by commas, or the model's list, or in its own words."""
        if not video:
            raise InputError('There is no video yet; upload one, or press "Ask about it" below a clip that was found.')
        if not question.strip():
            raise InputError("The question is empty; ask something like: what is she holding?")
        frames = frames_between(video, start or 0.0, end, self.processor.video_processor.num_frames)
        inputs = self.processor(videos=[frames], text=[question], return_tensors="pt").to(self.model.device)
        given = list(dict.fromkeys(answer.strip() for answer in answers.split(",") if answer.strip()))
        choices = given or self.answers
        if not choices:
            ids = self.model.generate(**inputs, num_beams=3, max_new_tokens=5)
            return {self.processor.batch_decode(ids, skip_special_tokens=True)[0]: 1.0}
        max_length = GIVEN_LENGTH if given else None  # those of the model's list as it was trained
        answer_ids = self.processor.encode_answers(choices, max_length)["input_ids"].to(self.model.device)
        ranked, probabilities = self.model.rank_answers(**inputs, answer_ids=answer_ids, k=len(choices))
        return {choices[i]: p for i, p in zip(ranked[0].tolist(), probabilities[0].tolist(), strict=True)}


# ---------------------------------------------------------------------------------------------------------------------
# How it looks
# ---------------------------------------------------------------------------------------------------------------------


def build_page(
    shared: SViTTIndex, answerer: Answerer | None, scratch: str, is_private: bool, examples: bool
) -> gr.Blocks:
    """The page.

    Args:
        shared: the one index of everybody if `is_private`; otherwise each visitor gets a copy.
        scratch: folder for these copies and for token maps.
        examples: whether to offer sentences and questions that suit the demo's models.
    """
    own = {}  # the index of each visitor from another machine, by session

    def index_of(request: gr.Request) -> SViTTIndex:
        if is_private:
            return shared
        if request.session_hash not in own:
            own[request.session_hash] = copy_of(shared, tempfile.mkdtemp(dir=scratch))
        return own[request.session_hash]

    def forget(request: gr.Request):
        if request.session_hash in own:
            shutil.rmtree(own.pop(request.session_hash).folder, ignore_errors=True)

    with gr.Blocks(title="SViTT", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        gr.Markdown("# Search your videos\nFind the moments that a sentence describes, and ask questions about them.")
        asked = [
            gr.Video(label="Video", sources=["upload"], height=320, render=False),
            gr.Number(label="From second", value=0, minimum=0, render=False),
            gr.Number(label="To second", value=None, minimum=0, placeholder="the end", render=False),
        ]
        with gr.Tabs() as tabs:
            with gr.Tab("Search", id="search"):
                search_tab(page, index_of, scratch, tabs, asked if answerer else None, examples)
            with gr.Tab("Ask", id="ask"):
                ask_tab(answerer, asked, examples)
            with gr.Tab("Videos", id="videos"):
                videos_tab(shared, index_of, is_private)
        page.unload(forget)
    return page


def search_tab(page: gr.Blocks, index_of: Callable, scratch: str, tabs: gr.Tabs, asked: list | None, examples: bool):
    found = gr.State()  # hits, their ranks by similarity, and the sentence
    with gr.Row(equal_height=True):
        sentence = gr.Textbox(placeholder="Describe what the clip shows", show_label=False, scale=5, autofocus=True)
        button = gr.Button("Search", variant="primary", scale=1, min_width=120)
    if examples:
        gr.Examples(DEMO_SENTENCES, sentence, label="For example")

    @told
    def search(sentence: str, request: gr.Request):
        hits, ranks_before = find(index_of(request), sentence)
        for hit in hits:
            serve(page, hit.video)
        return (hits, ranks_before, sentence), gr.Column(visible=False)

    @gr.render(found)
    def show(found: tuple[list[Hit], list[int], str] | None):
        if found is None:
            return
        hits, ranks_before, sentence = found
        for first in range(0, len(hits), COLUMNS):
            with gr.Row():
                for rank in range(first, min(first + COLUMNS, len(hits))):
                    card(rank + 1, hits[rank], ranks_before[rank], sentence)
        gr.Dataframe(
            [row(rank, *ranked) for rank, ranked in enumerate(zip(hits, ranks_before, strict=True), start=1)],
            headers=["rank", "video", "from", "to", "match score", "similarity", "rank by similarity alone"],
            label="How re-ranking, which reads each clip together with the sentence, moved the clips",
            interactive=False,
        )

    def card(rank: int, hit: Hit, rank_before: int, sentence: str):
        @told
        def look_at(request: gr.Request):
            path, picture = explain(index_of(request), hit, sentence, scratch)
            return gr.Column(visible=True), path, picture

        def ask_about():
            return gr.Video(hit.video, **start), hit.start, hit.end, gr.Tabs(selected="ask")

        start, is_file = {"playback_position": hit.start}, os.path.isfile(hit.video)  # and not within a shard
        with gr.Column(min_width=240, elem_classes="hit", variant="panel"):
            if is_file:
                gr.Video(hit.video, show_label=False, height=200, buttons=[], interactive=False, **start)
            gr.Markdown(caption(rank, hit, rank_before))
            with gr.Row():
                look = gr.Button("What it sees", size="sm", min_width=60)
                look.click(look_at, None, [maps, video_maps, sheet]).then(None, js=SCROLL_TO_MAPS)
                if asked is not None and is_file:
                    ask = gr.Button("Ask about it", size="sm", min_width=60)
                    ask.click(ask_about, None, [*asked, tabs])

    with gr.Column(visible=False, elem_id="maps") as maps:
        gr.Markdown(
            "### What the model sees\nDropped patches are darkened. Top: the video beside the patches left in the end. "
            "Bottom: a row for each time that patches are dropped, and a column for each frame."
        )
        video_maps = gr.Video(show_label=False, autoplay=True, loop=True, interactive=False, buttons=[], height=260)
        sheet = gr.Image(show_label=False, interactive=False, buttons=[])
    gr.on([button.click, sentence.submit], search, sentence, [found, maps])


def serve(page: gr.Blocks, video: str):
    """Let the page play a file from where it lies, which Gradio would otherwise refuse, or copy as a whole."""
    if video not in page.allowed_paths:
        page.allowed_paths.append(video)
        gr.set_static_paths(video)


def caption(rank: int, hit: Hit, rank_before: int) -> str:
    title = f"**{rank}. {Path(hit.video).name}** {minutes(hit.start)} – {minutes(hit.end)}"
    if hit.score is None:
        return f"{title}\n\nnot re-ranked: {hit.note.replace(hit.video, Path(hit.video).name)}"
    return f"{title}\n\nmatch score **{hit.score:.2f}**, " + (
        f"rank {rank}" if rank_before == rank else f"rank {rank_before} → {rank}"
    )


def row(rank: int, hit: Hit, rank_before: int) -> list:
    score = "" if hit.score is None else f"{hit.score:.2f}"
    times = minutes(hit.start), minutes(hit.end)
    return [rank, Path(hit.video).name, *times, score, f"{hit.similarity:.3f}", rank_before]


def minutes(seconds: float) -> str:
    return clock(seconds).removeprefix("0:")


def ask_tab(answerer: Answerer | None, asked: list, examples: bool):
    if answerer is None:
        gr.Markdown(
            "There is no model to answer questions. Train one with `make demo-qa` (half an hour on two cores), or "
            "start the page with `--qa_model`."
        )
        return
    with gr.Row():
        with gr.Column():
            asked[0].render()
            with gr.Row():
                for part in asked[1:]:
                    part.render()
        with gr.Column():
            question = gr.Textbox(label="Question", placeholder="What is happening?")
            answers = gr.Textbox(
                label="Answers to choose from",
                placeholder=f"the model's own list of {len(answerer.answers):,}"
                if answerer.answers
                else "the model's own words",
                info="Optional; separate them with commas.",
            )
            button = gr.Button("Ask", variant="primary")
            result = gr.Label(label="Answer", num_top_classes=NUM_ANSWERS)
            if examples:
                gr.Examples(DEMO_QUESTIONS, question, label="For example")
    asked[0].upload(lambda: (0, None), None, asked[1:])
    gr.on(
        [button.click, question.submit],
        told(lambda video, start, end, question, answers: answerer(video, question, answers, start, end)),
        [*asked, question, answers],
        result,
        api_name="ask",
    )


def videos_tab(shared: SViTTIndex, index_of: Callable, is_private: bool):
    size = gr.Markdown(lambda: size_of(shared))
    with gr.Row():
        with gr.Column():
            limits = "" if is_private else f", at most {MAX_FILE_SIZE} each"
            uploads = gr.File(label=f"Upload videos{limits}", file_count="multiple", height=180)
            upload = gr.Button("Index the uploads", variant="primary")
        if is_private:
            with gr.Column():
                folder = gr.Textbox(label="or a folder on this machine", placeholder="/home/me/videos")
                add = gr.Button("Index the folder", variant="primary")
    report = gr.Markdown(min_height=80)
    bad = gr.Dataframe(headers=["not indexed", "reason"], visible=False, interactive=False, wrap=True)

    @told
    def index_uploads(uploads: list[str] | None, request: gr.Request, progress=gr.Progress(track_tqdm=True)):  # noqa: B008
        index = index_of(request)
        if not uploads:
            raise InputError("There are no uploads yet; drop some videos above first.")
        return None, *told_of(add_uploads(index, uploads, None if is_private else MAX_UPLOADS), index)

    @told
    def index_folder(folder: str, request: gr.Request, progress=gr.Progress(track_tqdm=True)):  # noqa: B008
        index = index_of(request)
        if not folder.strip():
            raise InputError("There is no folder yet; type the path of one.")
        return told_of(index.add([Path(folder.strip()).expanduser()]), index)

    settings = {"show_progress_on": report, "concurrency_id": "indexing"}
    upload.click(index_uploads, uploads, [uploads, size, report, bad], **settings)
    if is_private:
        gr.on([add.click, folder.submit], index_folder, folder, [size, report, bad], **settings)


def size_of(index: SViTTIndex) -> str:
    return f"**{len(index.videos()):,}** videos, **{len(index):,}** clips to search"


def told_of(report: IndexReport, index: SViTTIndex) -> tuple:
    """The size of the index, what was done, and a row for each unreadable video."""
    bad = [[Path(video).name, error.replace(video, Path(video).name)] for video, error in sorted(report.bad.items())]
    if bad:
        names = ", ".join(name for name, _ in bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        gr.Warning(f"{names}: cannot be read; see the table for the reason.", title="Not indexed")
    return size_of(index), summary(report, len(index)), gr.Dataframe(bad, visible=bool(bad))


def main():
    with exit_on_bad_input(), tempfile.TemporaryDirectory(prefix="svitt_") as scratch:
        args = parse_args()
        check_port(args.server_name, args.port)
        PartialState(cpu=not torch.accelerator.is_available())
        folder = Path(args.index or Path(scratch) / "index")
        is_made = (folder / "index.json").is_file()
        index = SViTTIndex.open(folder, args.model) if is_made else SViTTIndex.create(folder, args.model)
        if args.videos:
            for error in index.add(args.videos).bad.values():
                print(f"not indexed: {error}", file=sys.stderr)
        answerer = Answerer(args.qa_model) if args.qa_model else None
        is_private = args.server_name in LOOPBACK or args.allow_folders
        build_page(index, answerer, scratch, is_private, args.examples).launch(
            server_name=args.server_name,
            server_port=args.port,
            max_file_size=None if is_private else MAX_FILE_SIZE,
            theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=CSS,
            ssr_mode=False,
            footer_links=[],
            run_history=False,
        )


if __name__ == "__main__":
    main()
