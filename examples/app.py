# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""A page on which to search videos by sentence or photo, see what the model attends to, and ask about a video.

    python examples/app.py                                   # public models, downloaded and converted the first time
    python examples/app.py --videos my_videos --index my_index
    python examples/app.py --model demo/out --qa_model demo/qa_out --videos demo/data/videos   # of `make demo demo-qa`

Needs Gradio: pip install -e ".[app]". `gradio deploy` makes a Space of it, which takes SVITT_MODEL, SVITT_QA_MODEL and
SVITT_VIDEOS from its variables. Open to other machines (--server_name 0.0.0.0), the page takes no files of visitors.
"""

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import gradio as gr

from svitt.errors import InputError, exit_on_bad_input, sentence_of
from svitt.processing_svitt import VideoDecodeError
from svitt.search import Hit, SViTTAnswerer, SViTTIndex
from svitt.search.ask import frames_between
from svitt.search.export import export
from svitt.search.maps import contact_sheet, token_maps

SENTENCES = ["a dog catches a frisbee", "somebody cooks in a kitchen"]
HEADERS = ["video", "from (s)", "to (s)", "best at (s)", "match score", "similarity", "copies"]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORT_SIDE = 720  # pixels of larger clips, as they are played


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


@contextmanager
def told():
    """Make the sentence of an error a message on the page."""
    try:
        yield
    except ValueError as error:  # InputError and VideoDecodeError
        raise gr.Error(sentence_of(error), print_exception=False) from error


def search_tab(index: SViTTIndex, qa_model: str | None, is_private: bool):
    load_answerer = cache(SViTTAnswerer)  # when first asked
    with gr.Row():
        sentence = gr.Textbox(placeholder="Describe what the clip shows", show_label=False, scale=5)
        button = gr.Button("Search", variant="primary", scale=1)
    gr.Examples(SENTENCES, sentence)
    with gr.Accordion("Filter, or search by a photo", open=False):
        with gr.Row():
            floor = gr.Slider(-1, 1, -1, step=0.01, label="Similarity of at least")
            where = gr.Textbox(label="Condition in SQL", placeholder="video LIKE '%/holiday/%' AND start < 60", scale=2)
        kinds = ["image", "video"]
        photo = gr.File(label="A photo or video like which to search", file_types=kinds, visible=is_private)
    found, shown = gr.State(), gr.State()
    note = gr.Markdown()
    table = gr.Dataframe(headers=HEADERS, interactive=False, label="Press a row to see the clip")
    with gr.Row():
        player = gr.Video(label="Clip", interactive=False)
        sheet = gr.Image(label="Patches that the model keeps: a row a drop, a column a frame", interactive=False)
    alike = gr.Button("More like this")
    with gr.Row():
        question = gr.Textbox(label="Ask about the clip", placeholder="what is the dog doing?")
        options = gr.Textbox(label="Answers to choose from, separated by commas (default: the model's own words)")
        ask_button = gr.Button("Ask", variant="primary")
        answers = gr.Label(label="Answer", num_top_classes=5)

    def search(floor: float, where: str | None, text: str | None = None, **query):
        locate = text is not None and index.has_tokens
        how = {"top_k": 9, "min_similarity": floor, "where": (where or "").strip() or None, "locate": locate}
        hits = index.search(text, **how, **query)
        numbers = [(hit.start, hit.end, hit.best_time, hit.score, hit.similarity) for hit in hits]
        rows = [
            [Path(hit.video).name, *(one and round(one, 3) for one in row), len(hit.copies) or None]
            for hit, row in zip(hits, numbers, strict=True)
        ]
        for clip in show((hits, text), 0):
            yield (hits, text), "" if hits else "nothing found", rows, *clip

    def show(found: tuple[list[Hit], str | None], row: int):
        """Yield once: what comes after that is done when Gradio has copied the clip."""
        hits, text = found
        if not hits:
            yield None, None, None
            return
        hit = hits[row]
        try:
            with clip_of(hit) as clip:
                frames = frames_between(clip, 0.0, None, index.settings["num_frames"])
                maps = contact_sheet(token_maps(index.model, index.processor, frames, text))
                start = 0.0 if hit.best_time is None else max(0.0, hit.best_time - hit.start)
                yield hit, gr.Video(str(clip), playback_position=start), maps
        except VideoDecodeError as error:  # the other hits may be there
            gr.Warning(str(error))
            yield hit, None, None

    def search_sentence(sentence: str, *filters):
        with told():
            yield from search(*filters, text=sentence)

    def search_photo(photo: str, *filters):
        with told():
            if not is_private:  # though the page offers none
                raise InputError("This page takes no files.")
            yield from search(*filters, video=photo)

    def search_alike(hit: Hit | None, *filters):
        with told():
            yield from search(*filters, like=the(hit))

    def select(found: tuple[list[Hit], str | None], event: gr.SelectData):
        with told():
            yield from show(found, event.index[0])

    def ask(hit: Hit | None, question: str, options: str):
        with told(), clip_of(the(hit)) as clip:
            options = [option.strip() for option in options.split(",") if option.strip()]
            found = load_answerer(qa_model).answer(clip, question, options, 5)
            return found[0].answer if found[0].probability is None else dict(found)

    filters, results, clip = [floor, where], [found, note, table], [shown, player, sheet]
    one_at_a_time = {"concurrency_id": "model"}
    gr.on([button.click, sentence.submit], search_sentence, [sentence, *filters], [*results, *clip], **one_at_a_time)
    photo.upload(search_photo, [photo, *filters], [*results, *clip], **one_at_a_time)
    alike.click(search_alike, [shown, *filters], [*results, *clip], **one_at_a_time)
    table.select(select, found, clip, **one_at_a_time)
    gr.on(
        [ask_button.click, question.submit, options.submit], ask, [shown, question, options], answers, **one_at_a_time
    )


def the(hit: Hit | None) -> Hit:
    """Return a hit, which must be there."""
    if hit is None:
        raise InputError("There is no clip yet; search for one.")
    return hit


@contextmanager
def clip_of(hit: Hit):
    """Write what a hit shows for the browser, which knows fewer kinds of files, and delete it afterwards."""
    with tempfile.TemporaryDirectory(prefix="svitt_clip_") as scratch:
        yield export(hit, scratch, short_side=SHORT_SIDE)


def videos_tab(index: SViTTIndex):
    def add(uploads: list[str] | None, folder: str):
        kept = index.folder.absolute() / "uploads"
        for upload in map(Path, uploads or []):
            (kept / upload.parent.name).mkdir(parents=True, exist_ok=True)  # named after the content, by Gradio
            shutil.copy2(upload, kept / upload.parent.name)
        paths = ([kept] if uploads else []) + ([Path(folder.strip()).expanduser()] if folder.strip() else [])
        with told():
            report = index.add(paths)
        bad = "".join(f"\n- {error}" for error in report.bad.values())
        return f"{len(report.added)} videos added; {len(index)} clips to search.{bad and ' Not indexed:'}{bad}"

    inputs = [gr.File(file_count="multiple", label="Upload"), gr.Textbox(label="or a folder on this machine")]
    gr.Interface(add, inputs, gr.Markdown(label="Report"), flagging_mode="never", api_name="add")


def build_page(index: SViTTIndex, qa_model: str | None, is_private: bool) -> gr.Blocks:
    with gr.Blocks(title="SViTT", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown("# Search your videos\nFind the moments that a sentence describes, and ask questions about them.")
        with gr.Tab("Search"):
            search_tab(index, qa_model, is_private)
        if is_private and isinstance(index.folder, Path):  # not in an object store
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
