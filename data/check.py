# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Find the bad videos and annotations of a dataset before training does, and write them down: `bad_videos.jsonl`.

Each video is read as the model would read it, several at a time; one that crashes or hangs the decoder stops no other.
"""

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from pebble import ProcessExpired, ProcessPool

from ..distributed import progress_bar
from ..errors import ArgumentError, InputError, check_number
from ..processing_svitt import VideoDecodeError, check_span, end_of, read_video, sample_frame_indices
from .annotations import FIELDS_OF, NO_SPAN
from .files import VIDEO_EXTENSIONS, files_below, is_video, write_bad_videos
from .presets import Split, splits_of

AT_ONCE = 1000  # items that wait for workers, or for their turn
NUM_SHOWN = 10  # problems that are printed; the report has all


@dataclass
class Named:
    """The row that names a video first, and the spans of it that rows are about, each with its row, in seconds."""

    where: str
    spans: list[tuple[str, float | None, float | None]] = field(default_factory=list)


def check_videos(
    video_dir: str | None = None,
    annotation_file: Sequence[str] | None = None,
    report: str = "bad_videos.jsonl",
    num_frames: int = 4,
    full: bool = False,
    num_workers: int | None = None,
    timeout: float = 60.0,
    **dataset,
) -> int:
    """Check annotations and videos, write the report, print a page about them, and return how many faults there are.

    Arguments are the options of `svitt check`; `dataset` are the others of [`splits_of`].
    """
    check_number("num_frames", num_frames, 1)
    splits = splits_of(annotation_file or (), video_dir=video_dir, **dataset)
    folders = {str(split.videos) for split in splits.values() if split.videos} or {video_dir} - {None}
    if not (folders or splits):
        raise ArgumentError("video_dir", "is missing: say what to check, with it, `annotation_file` or `dataset_file`")
    videos: dict[str, Named] = {}
    bad = [fault for name, split in splits.items() for fault in check_rows(name, split, videos)]
    files = {os.path.normpath(file) for folder in folders for file in files_below(folder) if is_video(file)}
    if not splits:
        if not files:
            raise InputError(f"{video_dir}: holds no video ({' '.join(VIDEO_EXTENSIONS)}).")
        videos = {video: Named(video_dir) for video in sorted(files)}
    write_bad_videos(report, bad)  # now, lest it cannot be written after hours
    read, counts = partial(check_video, num_frames=num_frames, full=full), Counter()
    ends = in_workers(read, videos, "checking", num_workers, timeout)
    for (video, named), end in zip(videos.items(), ends, strict=True):
        if isinstance(end, Exception):
            counts["cannot be used" if os.path.exists(video) else "are missing"] += 1
            bad.append({"video": video, "error": str(end), "where": named.where})
            continue
        faults, is_cut = [], False
        for where, start, last in named.spans:
            try:
                check_span(start, last, end)
                is_cut |= last is not None and last > end
            except VideoDecodeError as error:
                faults.append({"video": video, "error": f"{video}: {error}.", "where": where})
        counts["have spans after their ends"] += bool(faults)
        counts["have spans that are cut at their ends"] += is_cut
        bad += faults
    write_bad_videos(report, bad)
    counts["more are in no row"] = len(files - videos.keys())
    for line in bad[:NUM_SHOWN]:
        print(line["error"] if line["where"] in line["error"] else f"{line['where']}: {line['error']}")
    print(page_line(f"{len(videos)} videos", counts))
    print(f"{len(videos)} videos checked, {len(bad)} problems found{f', see {report}' if bad else ''}.")
    return len(bad)


def check_rows(name: str, split: Split, videos: dict[str, Named]) -> list[dict]:
    """Return the faults of the rows of a split, print how many there are, and add its videos."""
    rows, bad, seen, repeated, counts, num_rows = split.annotations(allow_missing=True), [], set(), [], Counter(), 0
    for row in rows:
        num_rows += 1
        try:
            span = row.span()
            paths = [os.path.normpath(path) for path in rows.videos_of(row)]
            for path in paths:
                named = videos.setdefault(path, Named(row.where))
                if span != NO_SPAN:
                    named.spans.append((row.where, span["start"], span["end"]))
            said = hash(repr((paths, span, FIELDS_OF[split.rows](row))))
            repeated += [str(row.number)] if said in seen else []
            seen.add(said)
        except InputError as error:
            counts["are wrong"] += 1
            bad.append({"video": None, "error": str(error), "where": row.where})
    shown = ", ".join(repeated[:NUM_SHOWN]) + ", …" * (len(repeated) > NUM_SHOWN)
    counts[f"repeat an earlier one (row {shown})"] = len(repeated)
    counts["more are left out by `join` or `where`"] = len(rows.left_out)
    print(page_line(f"{name}, {num_rows} rows", counts))
    return bad


def page_line(what: str, counts: Counter) -> str:
    """Return a line such as "train.json, 9 rows: 1 are wrong." of the counts that are not 0."""
    found = ", ".join(f"{count} {problem}" for problem, count in counts.items() if count)
    return f"{what}: {found or 'no problem'}."


def check_video(video: str, num_frames: int, full: bool) -> float | None:
    """Read the frames of evaluation, or all of them; return where the video ends, in seconds, if that is known.

    Raises:
        VideoDecodeError: if it cannot be read, or is too short.
    """
    pick = None if full else lambda metadata: sample_frame_indices(num_frames, metadata.total_num_frames)
    _, metadata = read_video(video, pick, short_side=16)  # so that all frames of a long video fit into memory
    if metadata.total_num_frames < num_frames:
        raise VideoDecodeError(f"{video}: too short, it has {metadata.total_num_frames} of {num_frames} frames.")
    return end_of(metadata)


def in_workers(
    function: Callable, videos: Iterable[str], description: str, num_workers: int | None = None, timeout: float = 60.0
) -> Iterator:
    """Yield what a function returns for each video, in order, called in processes that may crash or hang.

    In place of a result comes the exception that was raised: a `VideoDecodeError` for a crash, or too long a time.
    """
    check_number("num_workers", num_workers, 1)
    # Forked from a server without threads, workers start fast and safely; Windows has no such server.
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if has_server else "spawn")
    context.set_forkserver_preload(["__main__", __name__])
    pool, videos = ProcessPool(num_workers or os.cpu_count() or 1, context=context), list(videos)
    try:
        for number, video in enumerate(progress_bar(videos, description)):
            if number % AT_ONCE == 0:
                results = pool.map(function, videos[number : number + AT_ONCE], timeout=timeout).result()
            try:
                yield next(results)
            except ProcessExpired as error:
                yield VideoDecodeError(f"{video}: the decoder crashed (exit code {error.exitcode}).")
            except TimeoutError:
                yield VideoDecodeError(f"{video}: the decoder took longer than {timeout:g} s.")
            except (VideoDecodeError, OSError) as error:  # a full disk is no bad video
                yield error
            except Exception as error:
                yield VideoDecodeError(f"{video}: the decoder failed ({type(error).__name__}: {error}).")
    finally:
        pool.stop()
        pool.join()
