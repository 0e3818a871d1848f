# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Search one's own videos.

    svitt-search index videos --model svitt-base --index my_index
    svitt-search query my_index "a dog catches a frisbee"
    svitt-search query my_index --video other.mp4
    svitt-search explain video.mp4 --model svitt-base --text "a dog catches a frisbee" --output maps.png

`index` takes videos, folders and tar shards. Called again, it encodes what is new or has changed, forgets what has
vanished, tries again what could not be read, and goes on where it was interrupted. With several devices:

    accelerate launch -m svitt.search.cli index videos --model svitt-base --index my_index
"""

import argparse
import json
import sys
from dataclasses import asdict

import torch
from accelerate import PartialState

from ..distributed import check_launch
from ..errors import InputError, exit_on_bad_input
from . import maps
from .index import Hit, IndexReport, SViTTIndex, check_loading, remove_videos


def main():
    """Entry point of `svitt-search`."""
    parser = argparse.ArgumentParser(
        prog="svitt-search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", required=True)
    add_index_command(commands)
    add_query_command(commands)
    add_remove_command(commands)
    add_explain_command(commands)
    args = parser.parse_args()
    with exit_on_bad_input():
        try:
            args.run(args)
        except KeyboardInterrupt:
            print("Interrupted: the same command goes on.", file=sys.stderr)
            sys.exit(130)


def add_index_command(commands):
    parser = commands.add_parser("index", help="encode videos, or bring an index up to date")
    parser.add_argument("videos", nargs="+", help="videos, folders of videos and tar shards, tar shards")
    parser.add_argument("--index", required=True, help="folder of the index; one that is there knows what follows")
    parser.add_argument("--model", "--model_name_or_path", help="folder or Hub name of a SViTT")
    parser.add_argument("--clip_seconds", type=float, help="longer videos are cut (default: 10)")
    parser.add_argument("--stride_seconds", type=float, help="from clip to clip of a video (default: 5)")
    parser.add_argument("--num_frames", type=int, help="of a clip, by default the model's own")
    parser.add_argument("--batch_size", type=int, default=16, help="clips encoded at once (default: %(default)s)")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode videos, beside the main one")
    parser.set_defaults(run=index)


def index(args: argparse.Namespace):
    state = PartialState(cpu=not torch.accelerator.is_available())
    check_launch()
    check_loading(args.batch_size, args.num_workers)  # before a folder is made
    built = SViTTIndex.create(args.index, args.model, args.clip_seconds, args.stride_seconds, args.num_frames)
    report = built.add(args.videos, args.batch_size, args.num_workers)
    if state.is_main_process:
        print(summary(report, len(built)))
        for video, error in sorted(report.bad.items()):
            print(f"not indexed: {error if video in error else f'{video}: {error}'}", file=sys.stderr)
    state.destroy_process_group()


def summary(report: IndexReport, num_clips: int) -> str:
    parts = [f"{len(getattr(report, name))} {name}" for name in ("added", "updated", "removed", "unchanged", "bad")]
    return f"videos: {', '.join(parts)}; {report.num_clips} clips encoded, {num_clips} in the index"


def add_query_command(commands):
    parser = commands.add_parser("query", help="find clips")
    parser.add_argument("index", help="folder of the index")
    parser.add_argument("text", nargs="?", help="what the clip shows")
    parser.add_argument("--video", help="find clips like this one, instead")
    parser.add_argument("--model", help="the model of the index, if it has moved")
    parser.add_argument("--top_k", type=int, default=10, help="hits (default: %(default)s)")
    parser.add_argument(
        "--shortlist",
        type=int,
        default=50,
        help="clips to fuse with the text, at least top_k (default: %(default)s)",
    )
    parser.add_argument("--no_rerank", action="store_true", help="rank by the similarity of embeddings alone")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=query)


def query(args: argparse.Namespace):
    opened = SViTTIndex.open(args.index, args.model)
    hits = opened.search(args.text, args.video, args.top_k, not args.no_rerank, args.shortlist)
    if not hits:
        raise InputError(f"{args.index}: holds no clips yet; svitt-search index adds some.")
    print(json.dumps([asdict(hit) for hit in hits], indent=2, ensure_ascii=False) if args.json else table(hits))


def table(hits: list[Hit]) -> str:
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


def add_remove_command(commands):
    parser = commands.add_parser("remove", help="take videos out of an index")
    parser.add_argument("index", help="folder of the index")
    parser.add_argument("videos", nargs="+", help="videos, folders, shards; they need not exist any more")
    parser.set_defaults(run=remove)


def remove(args: argparse.Namespace):
    print(f"{len(remove_videos(args.index, args.videos))} videos removed")


def add_explain_command(commands):
    parser = commands.add_parser("explain", help="show which patches of a video the model, or a sentence, keeps")
    maps.add_arguments(parser)
    parser.set_defaults(run=maps.run)


if __name__ == "__main__":
    main()
