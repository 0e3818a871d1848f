# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""A page on which to search videos by sentence, see what the model attends to, and ask questions about a video.

    python examples/app.py                                   # the models and test clips of `make demo` and `demo-qa`
    python examples/app.py --model out --videos my_videos --index my_index --qa_model qa_out

Needs Gradio: pip install -e ".[app]". `gradio deploy` makes a Space of it, which takes SVITT_MODEL, SVITT_QA_MODEL and
SVITT_VIDEOS from its variables. Open to other machines (--server_name 0.0.0.0), the page takes no videos of visitors.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from functools import wraps
from pathlib import Path

import gradio as gr
import numpy as np
import torch

from svitt.conversion import load_model_and_processor
from svitt.errors import InputError, exit_on_bad_input, sentence_of
from svitt.processing_svitt import read_video, sample_frame_indices
from svitt.search import Hit, SViTTIndex
from svitt.search.maps import contact_sheet, token_maps

DEMO = Path("demo")  # of `make demo` and `make demo-qa`
SENTENCES = ["a red circle moves right and then up", "a blue triangle hops and then a red circle hops"]
QUESTIONS = ["which way does it move first?", "what color hops first?"]
HEADERS = ["video", "from (s)", "to (s)", "match score", "similarity"]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    env = os.environ.get
    parser.add_argument("--model", default=env("SVITT_MODEL"), help="folder or Hub name of a SViTT to search with")
    parser.add_argument("--qa_model", default=env("SVITT_QA_MODEL"), help="the same, to answer questions with")
    parser.add_argument(
        "--videos", nargs="+", default=env("SVITT_VIDEOS", "").split(), help="videos and folders to index on start-up"
    )
    parser.add_argument("--index", help="folder to keep the index in; by default it is deleted on exit")
    parser.add_argument("--server_name", default=env("GRADIO_SERVER_NAME", LOOPBACK[0]), help="address to listen on")
    parser.add_argument("--port", type=int, help="by default the first free one from 7860 on")
    args = parser.parse_args()
    if args.model is None:
        args.model, args.videos = DEMO / "out", args.videos or [DEMO / "data/videos"]
        if not args.model.is_dir():
            raise InputError(f"{args.model}: there is no model; run `make demo` to train one, or give --model.")
        if args.qa_model is None and (DEMO / "qa_out").is_dir():
            args.qa_model = DEMO / "qa_out"
    return args


def told(function):
    """Return the same function, but the sentence of an error becomes a message on the page."""

    @wraps(function)
    def wrapper(*args):
        try:
            return function(*args)
        except ValueError as error:  # InputError and VideoDecodeError
            raise gr.Error(sentence_of(error), print_exception=False) from error

    return wrapper


def frames_between(video: str, start: float, end: float | None, num_frames: int) -> np.ndarray:
    """Return frames (T, H, W, 3) uint8 sampled from `start` to `end`, in seconds, or to the end of the video."""

    def pick(metadata) -> list[int]:
        total, times = metadata.total_num_frames, metadata.frame_times
        if times is None:
            times = np.arange(total) / (metadata.fps or total)
        first = int(np.clip(np.searchsorted(times, start + 1e-6, side="right") - 1, 0, total - 1))
        last = total if end is None else int(np.searchsorted(times, end - 1e-6))
        return [first + i for i in sample_frame_indices(num_frames, max(last - first, 1))]

    return read_video(video, pick)[0]


class Answerer:
    """A model that answers questions, with its list of answers, if it has one."""

    def __init__(self, name: str):
        self.model, self.processor = load_model_and_processor(name, architectures=["SViTTForVideoQuestionAnswering"])
        self.model.eval()
        file = Path(name) / "answer_list.json"
        self.answers = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []

    @torch.no_grad()
    def __call__(self, video: str | None, start: float, end: float | None, question: str, given: str) -> dict:
        """Return answers with probabilities: of those given, of the model's list, or one in its own words."""
        if not video or not question.strip():
            raise InputError("There is no video or no question yet.")
        frames = frames_between(video, start or 0, end or None, self.processor.video_processor.num_frames)
        inputs = self.processor(videos=[frames], text=[question], return_tensors="pt")
        given = list(dict.fromkeys(answer.strip() for answer in given.split(",") if answer.strip()))
        choices = given or self.answers
        if not choices:
            ids = self.model.generate(**inputs, num_beams=3, max_new_tokens=5)
            return {self.processor.batch_decode(ids, skip_special_tokens=True)[0]: 1.0}
        answer_ids = self.processor.encode_answers(choices, 32 if given else None)["input_ids"]  # given ones whole
        ranked, probabilities = self.model.rank_answers(**inputs, answer_ids=answer_ids, k=len(choices))
        return {choices[i]: p for i, p in zip(ranked[0].tolist(), probabilities[0].tolist(), strict=True)}


def search_tab(page: gr.Blocks, index: SViTTIndex):
    with gr.Row():
        sentence = gr.Textbox(placeholder="Describe what the clip shows", show_label=False, scale=5)
        button = gr.Button("Search", variant="primary", scale=1)
    gr.Examples(SENTENCES, sentence)
    found = gr.State()
    table = gr.Dataframe(headers=HEADERS, interactive=False, label="Press a row to see the clip")
    with gr.Row():
        player = gr.Video(label="Clip", interactive=False)
        sheet = gr.Image(label="Patches that the model keeps: a row a drop, a column a frame", interactive=False)

    def search(sentence: str):
        hits = index.search(sentence, top_k=9)
        rows = [
            [Path(hit.video).name, round(hit.start, 1), round(hit.end, 1), hit.score and round(hit.score, 2),
             round(hit.similarity, 3)] for hit in hits
        ]  # fmt: skip
        return (hits, sentence), rows, *(show(hits[0], sentence) if hits else (None, None))

    def show(hit: Hit, sentence: str):
        if not os.path.isfile(hit.video):  # in a shard, or gone
            return None, None
        frames = frames_between(hit.video, hit.start, hit.end, index.settings["num_frames"])
        sheet = contact_sheet(token_maps(index.model, index.processor, frames, sentence))
        page.allowed_paths.append(hit.video)  # else Gradio plays only what is below the current folder
        return gr.Video(hit.video, playback_position=hit.start), sheet

    def select(found: tuple[list[Hit], str], event: gr.SelectData):
        return show(found[0][event.index[0]], found[1])

    gr.on([button.click, sentence.submit], told(search), sentence, [found, table, player, sheet])
    table.select(told(select), found, [player, sheet])


def ask_tab(answerer: Answerer):
    inputs = [
        gr.Video(label="Video"),
        gr.Number(0, label="From second"),
        gr.Number(None, label="To second (default: the end)"),
        gr.Textbox(label="Question", placeholder=QUESTIONS[0]),
        gr.Textbox(label="Answers to choose from, separated by commas (default: the model's own)"),
    ]
    gr.Interface(
        told(answerer.__call__),
        inputs,
        gr.Label(label="Answer", num_top_classes=5),
        flagging_mode="never",
        api_name="ask",
    )


def videos_tab(index: SViTTIndex):
    def add(uploads: list[str] | None, folder: str):
        kept = index.folder.absolute() / "uploads"
        for upload in map(Path, uploads or []):
            (kept / upload.parent.name).mkdir(parents=True, exist_ok=True)  # named after the content, by Gradio
            shutil.copy2(upload, kept / upload.parent.name)
        paths = ([kept] if uploads else []) + ([Path(folder.strip()).expanduser()] if folder.strip() else [])
        report = index.add(paths)
        bad = "".join(f"\n- {error}" for error in report.bad.values())
        return f"{len(report.added)} videos added; {len(index)} clips to search.{bad and ' Not indexed:'}{bad}"

    inputs = [gr.File(file_count="multiple", label="Upload"), gr.Textbox(label="or a folder on this machine")]
    gr.Interface(told(add), inputs, gr.Markdown(label="Report"), flagging_mode="never", api_name="add")


def build_page(index: SViTTIndex, answerer: Answerer | None, is_private: bool) -> gr.Blocks:
    with gr.Blocks(title="SViTT", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown("# Search your videos\nFind the moments that a sentence describes, and ask questions about them.")
        with gr.Tab("Search"):
            search_tab(page, index)
        if answerer is not None:
            with gr.Tab("Ask"):
                ask_tab(answerer)
        if is_private:
            with gr.Tab("Videos"):
                videos_tab(index)
    return page


def main():
    with exit_on_bad_input(), tempfile.TemporaryDirectory(prefix="svitt_") as scratch:
        args = parse_args()
        index = SViTTIndex.create(args.index or Path(scratch) / "index", str(args.model))
        for error in index.add(args.videos).bad.values() if args.videos else []:
            print(f"not indexed: {error}", file=sys.stderr)
        answerer = Answerer(str(args.qa_model)) if args.qa_model else None
        page = build_page(index, answerer, args.server_name in LOOPBACK)
        page.launch(server_name=args.server_name, server_port=args.port, ssr_mode=False)


if __name__ == "__main__":
    main()
