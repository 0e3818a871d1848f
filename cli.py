# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Convert models, check and pack videos, search one's own, and ask about them.

    svitt convert Salesforce/blip-itm-base-coco blip-search
    svitt convert microsoft/beit-base-patch16-224 bert-base-uncased svitt-base
    svitt check --video_dir videos --annotation_file train.json
    svitt index videos
    svitt search "a dog catches a frisbee"
    svitt serve svitt_index
    svitt ask video.mp4 "what does the dog catch?"
    svitt explain video.mp4 --model svitt-base --text "a dog catches a frisbee" --output maps.png

`svitt COMMAND --help` explains its options. On several devices: accelerate launch -m svitt.cli index videos ...
"""

import argparse
import os
import re
import sys
from functools import partial

from .data.files import is_url
from .errors import CommandLine, InputError, exit_on_bad_input, not_found

# What is slow to import is imported by the function that runs a command, after its options have been read.


def main(arguments: list[str] | None = None):
    """Run `svitt`; the exit code is 2 where the command line or a file is wrong."""
    words = in_our_spelling(sys.argv[1:] if arguments is None else arguments)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of other libraries are for people who look
    with exit_on_bad_input(" ".join(["svitt", *words[:1]])):
        args = vars(build_parser().parse_args(words))
        sys.exit(args.pop("run")(**args))


def build_parser() -> CommandLine:
    parser = CommandLine(prog="svitt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action=Version, nargs=0, dest=argparse.SUPPRESS, help="print the version")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=CommandLine)
    for add_command in (
        add_index, add_search, add_serve, add_ask, add_explain, add_remove, add_check, add_pack, add_convert,
        add_expand, add_completion,
    ):  # fmt: skip
        add_command(commands)
    return parser


class Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from . import __version__

        print(__version__)
        parser.exit()


def in_our_spelling(words: list[str]) -> list[str]:
    """Return a command line whose options have underscores, as those of Transformers' scripts, not hyphens."""
    if words[:2] == ["convert", "expand"]:
        words = ["convert expand", *words[2:]]
    end = words.index("--") if "--" in words else len(words)  # behind it are no options
    options = [re.sub("^--[^=]+", lambda name: "--" + name[0][2:].replace("-", "_"), word) for word in words[:end]]
    if "--min_similarity" in options[:-1]:  # argparse would take -1e-3 for an option
        place = options.index("--min_similarity")
        options[place : place + 2] = ["=".join(options[place : place + 2])]
    return options + words[end:]


KINDS = {int: "N", float: "X"}  # what help calls their values


def add_command(commands, name: str, run, help: str, usage: str):
    """Add a command that calls `run` with its options; return what adds a group of these."""
    described = f"{help[0].upper()}{help[1:]}."
    parser = commands.add_parser(name, help=help, description=described, usage=f"svitt {name} {usage}")
    parser.set_defaults(run=run)

    def group(title: str):
        """Return a function that adds an option to a new group."""
        add = parser.add_argument_group(title).add_argument

        def add_option(*names: str, **settings):
            if names[0].startswith("-") and not settings.keys() & {"action", "choices"}:
                settings.setdefault("metavar", KINDS.get(settings.get("type"), names[0][2:].upper()))
            add(*names, **settings)

        return add_option

    return group


# ---- Convert


def add_convert(commands):
    help = "make a model for transformers from weights from elsewhere"
    group = add_command(commands, "convert", convert, help, "source [source] output_dir [options]")
    add = group("from and to")
    help = "a .pth of SViTT, Singularity or ALBEF; folder or Hub name of a BLIP, or of a BEiT and then of a BERT"
    add("sources", nargs="+", metavar="source", help=help)
    add("output_dir", help="folder to write, for from_pretrained")
    add("--tokenizer", help="folder or Hub name (default: that of the BLIP or BERT, or bert-base-uncased)")
    add = group("what it is to be")
    add("--num_frames", type=int, help="frames of a clip (default: the source's; 8 of one for images, 4 of a BEiT)")
    add("--image_size", type=int, help="pixels along a side (default: the source's)")
    add("--fusion_layer", type=int, help="of a BERT, the first with cross-attention (default: after 3/4 of all)")
    add_fields(add, "Vision", "Text")


def convert(sources: list[str], **args):
    if len(sources) > 2:
        raise InputError(f"{sources[2]}: is one source too many; a BEiT and a BERT are two.")
    make("convert", source=sources[0], text=sources[1] if len(sources) > 1 else None, **args)


def add_expand(commands):
    help = "make a SViTT for longer clips; of one that encodes frames one by one, a sparse one that sees them together"
    run, usage = partial(make, "convert_to_longer_clips"), "path output_dir --num_frames T [options]"
    add = add_command(commands, "convert expand", run, help, usage)("arguments and options")
    add("path", help="folder or Hub name of a SViTT")
    add("output_dir", help="folder to write, for from_pretrained")
    add("--num_frames", type=int, required=True, help="frames of a clip")
    add("--token_keep_rate", type=float, help="share of patch tokens kept at each drop, lower than before")
    add_fields(add, "Vision")


def add_fields(add, *parts: str):
    for part in parts:
        help = f"fields of SViTT{part}Config, values in JSON, such as token_keep_rate=0.6"
        add(f"--{part.lower()}_config", nargs="+", default=[], metavar="FIELD=VALUE", help=help)


def make(function: str, **args):
    import logging

    from . import conversion

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    conversion.logger.setLevel(logging.INFO)
    for part in {"vision_config", "text_config"} & args.keys():
        args[part] = conversion.parse_fields(args[part])
    getattr(conversion, function)(**args)


# ---- Data


def add_check(commands):
    help = "find the bad videos and annotations of a dataset"
    group = add_command(commands, "check", check, help, "--video_dir DIR [options]")
    add = group("what to check")
    add("--video_dir", help="folder of the videos; without annotations, all below it are checked")
    add("--annotation_file", nargs="+", help="annotations whose rows are checked, and the videos that they name")
    add_dataset(add)
    add = group("how")
    add("--report", default="bad_videos.jsonl", help="file to write, a line for each problem (default: %(default)s)")
    add("--num_frames", type=int, default=4, help="frames that the model takes of a video (default: %(default)s)")
    add("--full", action="store_true", help="decode all frames of a video, not only those it takes")
    add("--num_workers", type=int, help="processes that read videos (default: one a core)")
    add("--timeout", type=float, default=60.0, help="seconds that reading one may take (default: %(default)s)")


def add_dataset(add):
    add("--dataset", help="name of a published dataset, such as msrvtt")
    add("--dataset_file", help="YAML file that describes one of your own")
    add("--data_dir", help="folder of its annotations and videos (default: the current, or that of the file)")
    help = "what it is for: pretraining, retrieval or videoqa (default: %(default)s)"
    add("--task", choices=["pretraining", "retrieval", "videoqa"], default="retrieval", help=help)
    add("--allow_outside", action="store_true", help="take names of videos that lead out of their folder")


def check(**args) -> int:
    from .data.check import check_videos

    return min(1, check_videos(**args))


def add_pack(commands):
    help = "pack videos and annotations into tar shards"
    group = add_command(commands, "pack", pack, help, "--annotation_file FILE --output_dir DIR [options]")
    add = group("what to pack")
    add("--video_dir", help="folder that the names of the videos are relative to")
    add("--annotation_file", nargs="+", help="captions or questions: JSON, JSON lines or CSV")
    add_dataset(add)
    add = group("shards")
    add("--output_dir", required=True, help="folder for the shards of one or more splits")
    add("--split", default="train", help="what to pack of a dataset; names of shards begin so (default: %(default)s)")
    add("--samples_per_shard", type=int, default=1000, help="videos of a shard (default: %(default)s)")
    add("--short_side", type=int, help="re-encode, larger videos with this many pixels on the short side")
    add("--crf", type=int, default=23, help="quality when re-encoding, x264's 0 to 51 (default: %(default)s)")
    add = group("how")
    add("--bad_videos", choices=["error", "skip"], default="error", help="stop at one (default), or list and skip it")
    add("--num_workers", type=int, help="processes that read and encode (default: one a core)")
    add("--timeout", type=float, default=600.0, help="seconds that one video may take (default: %(default)s)")


def pack(**args):
    from .data import packing

    packing.pack(**args)


# ---- Search


def check_there(place: str, kind: str = "file"):
    """Raise an `InputError` for a path that is none, before anything slow is imported or downloaded."""
    if not is_url(place) and not os.path.exists(place):
        raise not_found(place, kind)


DEFAULT_INDEX = "svitt_index"
DEFAULT_MODEL = "a public one, downloaded and converted the first time"


def add_index(commands):
    help = "encode videos, or bring an index up to date"
    group = add_command(commands, "index", index, help, "videos [videos ...] [options]")
    add = group("what to index")
    add("videos", nargs="+", help="videos, photos, folders of these and of tar shards, tar shards; or URLs of such")
    help = "folder of the index, or its URL; one that exists keeps its settings (default: %(default)s)"
    add("--index", dest="folder", default=DEFAULT_INDEX, help=help)
    add("--model", dest="model_name_or_path", help=f"folder or Hub name of a SViTT (default: {DEFAULT_MODEL})")
    add = group("settings of a new index")
    add("--clip_seconds", type=float, help="longer videos are cut into spans of this length (default: 10)")
    add("--stride_seconds", type=float, help="from the start of one span to the next (default: half of that)")
    add("--num_frames", type=int, help="frames of a clip (default: the model's own)")
    add("--frames_per_span", type=int, help="a multiple: a span is so many clips (default: one)")
    help = "how video tokens are kept for re-ranking: int8, float16, or none, to read videos again (default: int8)"
    add("--tokens", choices=["int8", "float16", "none"], help=help)
    add("--tokens_per_span", type=int, help="at most so many, those looked at most (default: 512)")
    help = "leave out files that are damaged or cut off (default), or use the frames that are left"
    add("--damaged", choices=["refuse", "use"], help=help)
    add = group("this run")
    add("--batch_size", type=int, default=16, help="spans encoded at once (default: %(default)s)")
    help = "processes that decode videos, beside the main one (default: 4 for a GPU, 0 for a CPU)"
    add("--num_workers", type=int, help=help)
    add("--json", dest="as_json", action="store_true", help="print what was done as JSON")


def index(videos: list[str], batch_size: int, num_workers: int | None, as_json: bool, **settings) -> int:
    for video in videos:
        check_there(video, "file or folder")
    import json
    from dataclasses import asdict

    import torch
    from accelerate import PartialState

    from .search.index import SViTTIndex, summary

    state = PartialState(cpu=not torch.accelerator.is_available())
    built = SViTTIndex.create(**settings)
    report = built.add(videos, batch_size, num_workers)
    if state.is_main_process:
        found = asdict(report) | {"num_spans_in_index": len(built)}
        told = json.dumps(found, ensure_ascii=False) if as_json else summary(report, len(built))
        print(told.encode(errors="backslashreplace").decode())  # names of bad files may be no text
        for video, error in sorted(report.bad.items()):
            print(f"not indexed: {error if video in error else f'{video}: {error}'}", file=sys.stderr)
        print(*report.damaged.values(), sep="\n", end="\n" * bool(report.damaged), file=sys.stderr)
    state.destroy_process_group()
    return int(bool(report.bad) and not report.added + report.updated + report.unchanged)


def add_search(commands):
    help = "find what a sentence describes, or what a video or photo looks like"
    group = add_command(commands, "search", search, help, "[index] [sentence] [options]")
    add = group("what to find")
    help = f"an index, if it is not {DEFAULT_INDEX}, then what the video shows; without, lines of the input are asked"
    add("words", nargs="*", metavar="[index] sentence", help=help)
    add("--video", "--image", help="find spans like this video or photo, instead")
    add("--model", dest="model_name_or_path", help="the model of the index, if it has moved")
    add = group("hits")
    add("--top_k", type=int, default=10, help="hits (default: %(default)s)")
    add("--shortlist", type=int, default=50, help="spans to fuse with the text, at least top_k (default: %(default)s)")
    help = "rank by how well spans match the text, or by similarity alone (default: what was better in validation)"
    add("--rerank", action="store_true", default=None, help=help)
    add("--no_rerank", dest="rerank", action="store_false", default=None, help="the latter")
    add("--min_similarity", type=float, help="find nothing that is less similar, from -1 to 1")
    add("--where", help="condition in SQL that hits fulfil, such as \"video LIKE '%%/holiday/%%' AND start < 60\"")
    add = group("what to show of them")
    add("--locate", action="store_true", help="tell the second of a hit where the text fits best")
    add("--export", dest="output_dir", metavar="DIR", help="write each hit, from start to end, as an MP4 into a folder")
    add("--json", dest="as_json", action="store_true", help="print a JSON list for each query")


def search(words: list[str], video: str | None, model_name_or_path: str | None, **how):
    is_named = words and (is_url(words[0]) or os.path.exists(os.path.join(words[0], "index.json")))
    must_be_named = video is not None or any(" " in word for word in words[1:])  # behind it is a sentence in quotes
    folder = words.pop(0) if words and (is_named or must_be_named) else DEFAULT_INDEX
    check_there(folder, "index; `svitt index VIDEOS` makes one")
    if video is not None:
        check_there(video)
    from .search.console import answer, answer_lines
    from .search.index import SViTTIndex

    index = SViTTIndex.open(folder, model_name_or_path)
    if not len(index):
        raise InputError(f"{index.folder}: holds no spans yet; svitt index adds some.")
    if words or video is not None:
        answer(index, text=" ".join(words) or None, video=video, indent=2, **how)
    else:
        answer_lines(index, **how)


def add_serve(commands):
    help = "show a page on which to search, and answer other programs over HTTP"
    add = add_command(commands, "serve", serve_index, help, "[index] [options]")("arguments and options")
    add("folder", metavar="index", nargs="?", default=DEFAULT_INDEX, help="folder or URL of it (default: %(default)s)")
    add("--model", dest="model_name_or_path", help="the model of the index, if it has moved, or of a new one")
    add("--qa_model", help=f"folder or Hub name of a SViTT that answers questions (default: {DEFAULT_MODEL})")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, of this machine alone)")
    add("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")


def serve_index(**args):
    try:
        from .search.serve import serve
    except ModuleNotFoundError as error:
        advice = "in the clone, `pip install -e '.[app]'` brings it"
        raise InputError(f"svitt serve needs {error.name}; {advice}.") from error
    serve(**args)


def add_remove(commands):
    group = add_command(commands, "remove", remove, "take videos out of an index", "index videos [videos ...]")
    add = group("arguments")
    add("folder", metavar="index", help="folder of the index")
    add("videos", nargs="+", help="videos, folders, shards; they need not exist any more")


def remove(folder: str, videos: list[str]):
    from .search.folder import remove_videos

    print(f"{len(remove_videos(folder, videos))} videos removed")


def add_ask(commands):
    group = add_command(commands, "ask", ask, "answer a question about a video", "video question [options]")
    add = group("what to ask")
    add("video", help="video or image")
    add("question", nargs="+", help="what to answer, in the model's own words, or from a list")
    add("--model", dest="model_name_or_path", help=f"folder or Hub name of a SViTT (default: {DEFAULT_MODEL})")
    add("--options", nargs="+", default=[], metavar="ANSWER", help="answers to choose from, spaces between")
    add("--answer_list", help="JSON list of answers to choose from (default: the model's own, if it has one)")
    add = group("how")
    add("--top_k", type=int, default=3, help="answers that are printed (default: %(default)s)")
    add("--start", type=float, default=0.0, help="second that the part to look at begins with (default: %(default)s)")
    add("--end", type=float, help="second that it ends with (default: the end of the video)")
    add("--num_frames", type=int, help="frames that the model sees (default: the model's own)")
    add("--json", dest="as_json", action="store_true", help="print a JSON list")


def ask(
    video: str, question: list[str], model_name_or_path: str | None, num_frames: int | None, answer_list: str | None,
    as_json: bool, **query,
):  # fmt: skip
    check_there(video)
    import json

    from .data.annotations import load_answer_list
    from .search.ask import SViTTAnswerer, answers_table

    if answer_list is not None:
        query["options"] = [*query["options"], *load_answer_list(answer_list)]
    answers = SViTTAnswerer(model_name_or_path, num_frames).answer(video, " ".join(question), **query)
    print(json.dumps([one._asdict() for one in answers], ensure_ascii=False) if as_json else answers_table(answers))


def add_explain(commands):
    help = "show which patches of a video the model, or a sentence, keeps"
    usage = "video --model MODEL [options]"
    add = add_command(commands, "explain", explain, help, usage)("arguments and options")
    add("video", help="video or image")
    add("--model", "--model_name_or_path", required=True, help="folder or Hub name of a SViTT")
    add("--text", help="sentence: shows which patches it keeps")
    add("--num_frames", type=int, help="frames of a clip (default: the model's own)")
    add("--output", default="token_maps.png", help="picture to write (default: %(default)s)")


def explain(**args):
    from .search import maps

    print(*maps.explain(**args), sep="\n")


# ---- The shell


def add_completion(commands):
    help = "print what makes a shell complete commands and options: svitt completion bash >> ~/.bashrc"
    add = add_command(commands, "completion", completion, help, "shell")("arguments")
    add("shell", choices=["bash", "zsh", "fish", "tcsh"], help="the shell (%(choices)s)")


def completion(shell: str):
    import shtab

    print(shtab.complete(build_parser(), shell))


if __name__ == "__main__":
    main()
