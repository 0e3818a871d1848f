# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""A page on which to search videos by sentence, see what the model attends to, and ask questions about a video.

    python examples/app.py                                   # public models, downloaded and converted the first time
    python examples/app.py --videos my_videos --index my_index
    python examples/app.py --model demo/out --qa_model demo/qa_out --videos demo/data/videos   # of `make demo demo-qa`

Needs Gradio: pip install -e ".[app]". `gradio deploy` makes a Space of it, which takes SVITT_MODEL, SVITT_QA_MODEL and
SVITT_VIDEOS from its variables. Open to other machines (--server_name 0.0.0.0), the page takes no videos of visitors.
"""

import argparse
import os
import shutil
import sys
import tempfile
from functools import cache, wraps
from pathlib import Path

import gradio as gr

from svitt.errors import InputError, exit_on_bad_input, sentence_of
from svitt.search import Hit, SViTTAnswerer, SViTTIndex
from svitt.search.ask import frames_between
from svitt.search.maps import contact_sheet, token_maps

SENTENCES = ["a dog catches a frisbee", "somebody cooks in a kitchen"]
HEADERS = ["video", "from (s)", "to (s)", "match score", "similarity"]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    env = os.environ.get
    parser.add_argument(
        "--model",
        default=env("SVITT_MODEL"),
        help="folder or Hub name of a SViTT to search with (default: a public one)",
    )
    parser.add_argument("--qa_model", default=env("SVITT_QA_MODEL"), help="the same, to answer questions with")
    parser.add_argument(
        "--videos", nargs="+", default=env("SVITT_VIDEOS", "").split(), help="videos and folders to index on start-up"
    )
    parser.add_argument("--index", help="folder to keep the index in; by default it is deleted on exit")
    parser.add_argument("--server_name", default=env("GRADIO_SERVER_NAME", LOOPBACK[0]), help="address to listen on")
    parser.add_argument("--port", type=int, help="by default the first free one from 7860 on")
    return parser.parse_args()


def told(function):
    """Return the same function, but the sentence of an error becomes a message on the page."""

    @wraps(function)
    def wrapper(*args):
        try:
            return function(*args)
        except ValueError as error:  # InputError and VideoDecodeError
            raise gr.Error(sentence_of(error), print_exception=False) from error

    return wrapper


def search_tab(page: gr.Blocks, index: SViTTIndex, qa_model: str | None):
    load_answerer = cache(SViTTAnswerer)  # when first asked
    with gr.Row():
        sentence = gr.Textbox(placeholder="Describe what the clip shows", show_label=False, scale=5)
        button = gr.Button("Search", variant="primary", scale=1)
    gr.Examples(SENTENCES, sentence)
    found, shown = gr.State(), gr.State()
    table = gr.Dataframe(headers=HEADERS, interactive=False, label="Press a row to see the clip")
    with gr.Row():
        player = gr.Video(label="Clip", interactive=False)
        sheet = gr.Image(label="Patches that the model keeps: a row a drop, a column a frame", interactive=False)
    with gr.Row():
        question = gr.Textbox(label="Ask about the clip", placeholder="what is the dog doing?")
        options = gr.Textbox(label="Answers to choose from, separated by commas (default: the model's own words)")
        ask_button = gr.Button("Ask", variant="primary")
        answers = gr.Label(label="Answer", num_top_classes=5)

    def search(sentence: str):
        hits = index.search(sentence, top_k=9)
        rows = [
            [Path(hit.video).name, round(hit.start, 1), round(hit.end, 1), hit.score and round(hit.score, 2),
             round(hit.similarity, 3)] for hit in hits
        ]  # fmt: skip
        return (hits, sentence), rows, *(show(hits[0], sentence) if hits else (None, None, None))

    def show(hit: Hit, sentence: str):
        if not os.path.isfile(hit.video):  # in a shard, or gone
            return hit, None, None
        frames = frames_between(hit.video, hit.start, hit.end, index.settings["num_frames"])
        sheet = contact_sheet(token_maps(index.model, index.processor, frames, sentence))
        page.allowed_paths.append(hit.video)  # else Gradio plays only what is below the current folder
        return hit, gr.Video(hit.video, playback_position=hit.start), sheet

    def select(found: tuple[list[Hit], str], event: gr.SelectData):
        return show(found[0][event.index[0]], found[1])

    def ask(hit: Hit | None, question: str, options: str):
        if hit is None:
            raise InputError("There is no clip yet; search for one.")
        options = [option.strip() for option in options.split(",") if option.strip()]
        found = load_answerer(qa_model).answer(hit.video, question, options, 5, hit.start, hit.end or None)
        return found[0].answer if found[0].probability is None else dict(found)

    gr.on([button.click, sentence.submit], told(search), sentence, [found, table, shown, player, sheet])
    table.select(told(select), found, [shown, player, sheet])
    gr.on([ask_button.click, question.submit, options.submit], told(ask), [shown, question, options], answers)


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


def build_page(index: SViTTIndex, qa_model: str | None, is_private: bool) -> gr.Blocks:
    with gr.Blocks(title="SViTT", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown("# Search your videos\nFind the moments that a sentence describes, and ask questions about them.")
        with gr.Tab("Search"):
            search_tab(page, index, qa_model)
        if is_private:
            with gr.Tab("Videos"):
                videos_tab(index)
    return page


def main():
    with exit_on_bad_input(), tempfile.TemporaryDirectory(prefix="svitt_") as scratch:
        args = parse_args()
        index = SViTTIndex.create(args.index or Path(scratch) / "index", args.model)
        for error in index.add(args.videos).bad.values() if args.videos else []:
            print(f"not indexed: {error}", file=sys.stderr)
        page = build_page(index, args.qa_model, args.server_name in LOOPBACK)
        page.launch(server_name=args.server_name, server_port=args.port, ssr_mode=False)


if __name__ == "__main__":
    main()
