# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Find the bad videos and annotations of a dataset before training does, and write them down: `bad_videos.jsonl`.

Each video is read as the model would read it, several at a time; one that crashes or hangs the decoder stops no other.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from pebble import ProcessExpired, ProcessPool

from ..distributed import progress_bar
from ..errors import ArgumentError, InputError, check_number
from ..processing_svitt import VideoDecodeError, read_video, sample_frame_indices
from .annotations import FIELDS_OF, Rows, kind_of
from .files import VIDEO_EXTENSIONS, files_below, is_video, write_bad_videos

AT_ONCE = 1000  # items that wait for workers, or for their turn


def check_videos(
    video_dir: str | None = None,
    annotation_file: list[str] | None = None,
    allow_outside: bool = False,
    report: str = "bad_videos.jsonl",
    num_frames: int = 4,
    full: bool = False,
    num_workers: int | None = None,
    timeout: float = 60.0,
) -> int:
    """Check annotations and videos, write the report, print a summary, and return how many faults there are.

    Arguments are the options of `svitt check`.

    Raises:
        InputError: if there is nothing to check, or a file cannot be read or written.
    """
    check_number("num_frames", num_frames, 1)
    if not (video_dir or annotation_file):
        raise ArgumentError("video_dir", "is missing: say what to check, with it or `annotation_file`")
    videos, bad = {}, []
    for file in annotation_file or ():
        bad += check_rows(file, video_dir, allow_outside, videos)
    if not annotation_file:
        videos = dict.fromkeys(sorted(filter(is_video, files_below(video_dir))), video_dir)
        if not videos:
            raise InputError(f"{video_dir}: holds no video ({' '.join(VIDEO_EXTENSIONS)}).")
    write_bad_videos(report, bad)  # now, lest it cannot be written after hours
    read = partial(check_video, num_frames=num_frames, full=full)
    results = zip(videos.items(), in_workers(read, videos, "checking", num_workers, timeout), strict=True)
    bad += [{"video": video, "error": str(error), "where": where} for (video, where), error in results if error]
    write_bad_videos(report, bad)
    print(f"{len(videos)} videos checked, {len(bad)} problems found{f', see {report}' if bad else ''}.")
    return len(bad)


def check_rows(file: str, video_dir: str | None, allow_outside: bool, videos: dict[str, str]) -> list[dict]:
    """Return the faults of the rows of an annotation; add its videos, each with the first row that names it."""
    bad, read_fields = [], FIELDS_OF[kind_of(file)]
    rows = Rows(file, video_dir, allow_missing=True, allow_outside=allow_outside)
    for row in rows:
        try:
            for video in rows.videos_of(row):
                videos.setdefault(os.path.normpath(video), row.where)
            read_fields(row)
        except InputError as error:
            bad.append({"video": None, "error": str(error), "where": row.where})
    return bad


def check_video(video: str, num_frames: int, full: bool) -> str | None:
    """Return what is wrong with a video, a sentence, on reading the frames of evaluation, or all of them."""
    pick = None if full else lambda metadata: sample_frame_indices(num_frames, metadata.total_num_frames)
    try:
        _, metadata = read_video(video, pick, short_side=16)  # so that all frames of a long video fit into memory
    except VideoDecodeError as error:
        return str(error)
    if metadata.total_num_frames < num_frames:
        return f"{video}: too short, it has {metadata.total_num_frames} of {num_frames} frames."
    return None


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
