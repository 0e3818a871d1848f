# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Find the bad videos and annotations of a dataset before training does.

    svitt-check-videos --video_dir videos
    svitt-check-videos --video_dir videos --annotation_file train.json val.json --report bad_videos.jsonl
    svitt-check-videos --dataset msrvtt --data_dir data --full

Each video is read as the model would read it (--full: to its last frame), several at a time; one that crashes or hangs
the decoder stops no other. The report has one JSON object a line: `video`, `problem`, `error` (a sentence) and, where
an annotation is concerned, `annotation_file` and `row`, counted from 1. The problems are:

    missing                 no such file
    unreadable              damaged, cut off, not a video, or the decoder crashed or took longer than --timeout
    no_video_stream         sound only, say
    too_short               fewer frames than --num_frames
    above_limits            frames too large, or too many of them
    mismatched_annotation   a row without video or text or of wrong types, an id used twice, or a name that differs from
                            that of a file only in upper and lower case or in the extension

The exit code is 0 if there is none, 1 if there are some, 2 if the command line is wrong. A scan that was interrupted
goes on where it stopped when the same command is run again.
"""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TextIO

from ..distributed import progress_bar
from ..errors import ArgumentGroup, InputError, writing
from ..processing_svitt import VideoDecodeError, read_video, sample_frame_indices
from .annotations import (
    VideoColumn,
    answers_of,
    check_first_use,
    field_name,
    read_unchecked_rows,
    string_of,
    strings_of,
)
from .presets import ROWS_OF_TASK, PresetArguments, Split, load_preset, preset_names
from .workers import WorkerFailure, map_in_workers

PROBLEMS = ("missing", "unreadable", "no_video_stream", "too_short", "above_limits", "mismatched_annotation")
VIDEO_EXTENSIONS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".gif")


@dataclass
class CheckArguments(ArgumentGroup):
    """What to check, and how closely."""

    at_least = {"num_frames": 1, "num_workers": 1, "timeout": 0.001}

    video_dir: str | None = field(
        default=None, metadata={"help": "Folder of the videos. Without annotations, all below it are checked."}
    )
    annotation_file: list[str] | None = field(
        default=None, metadata={"help": "Annotations whose rows are checked, and the videos that they name."}
    )
    report: str = field(default="bad_videos.jsonl", metadata={"help": "File to write, a line for each problem."})
    num_frames: int = field(
        default=4, metadata={"help": "Frames that the model takes of a video; one with fewer is too short."}
    )
    full: bool = field(default=False, metadata={"help": "Decode all frames of a video, not only those it takes."})
    timeout: float = field(default=60.0, metadata={"help": "Seconds that reading one video may take."})
    num_workers: int = field(
        default_factory=os.cpu_count, metadata={"help": "Processes that read videos; by default one a core."}
    )


def check_videos(num_workers: int | None = None, **options) -> int:
    """Return the exit code of [`check_dataset`], its options by name."""
    names = ("dataset", "dataset_file", "data_dir", "allow_outside")
    dataset = PresetArguments(**{name: options.pop(name) for name in names if name in options})
    return check_dataset(CheckArguments(num_workers=num_workers or os.cpu_count(), **options), dataset)


def check_dataset(args: CheckArguments, dataset: PresetArguments) -> int:
    """Check annotations and videos, write the report and print a summary.

    Returns:
        the exit code: 1 if there are problems, else 0.

    Raises:
        InputError: if there is nothing to check, or a file cannot be read or written.
    """
    splits = annotated_splits(args, dataset)
    present = videos_below({folder_of(split) for split in splits} or {args.video_dir})
    videos, problems = {video: {} for video in present}, []
    if splits:
        videos, problems = annotated_videos(splits, present, dataset.allow_outside)
    if not videos and not problems:
        raise InputError(f"{args.video_dir}: holds no video ({' '.join(VIDEO_EXTENSIONS)}).")

    check = partial(check_video, num_frames=args.num_frames, full=args.full)
    with Report(args) as report:
        for problem in problems:
            report.add_problem(problem)
        known = {video: result for video, result in report.unfinished_results() if video in videos}
        unknown = [video for video in videos if video not in known]
        results = report.remember(map_in_workers(check, unknown, args.num_workers, args.timeout))
        try:
            for video, result in progress_bar(chain(known.items(), results), "checking", len(videos)):
                report.add_result(video, result, videos[video])
        finally:
            report.print_summary(num_unused=len(set(present) - set(videos)))
    return min(1, report.counts.total())


# ---------------------------------------------------------------------------------------------------------------------
# What to check
# ---------------------------------------------------------------------------------------------------------------------


def annotated_splits(args: CheckArguments, dataset: PresetArguments) -> list[Split]:
    """Those of --annotation_file, or of --dataset or --dataset_file; none where there is only a --video_dir."""
    name = dataset.dataset or dataset.dataset_file
    if (name is None) == (args.video_dir is None and args.annotation_file is None):
        raise InputError("Say what to check, with --video_dir, --annotation_file or both, or else with --dataset.")
    if name is None:
        files = [Path(file) for file in args.annotation_file or []]
        for file in files:
            if not file.exists():
                raise InputError(f"{file}: there is no such annotation file.")
        videos = Path(args.video_dir) if args.video_dir else None
        return [Split(str(file), annotation=file, videos=videos) for file in files]
    task = next((task for task in ROWS_OF_TASK if name in preset_names(task)), "retrieval")
    splits = load_preset(task, name, dataset.data_dir).splits.values()
    for split in splits:
        if split.annotation is None:
            print(f"{split.origin}: not checked, only annotations and their videos are.")
    return [split for split in splits if split.annotation is not None]


def folder_of(split: Split) -> Path:
    """What the names of a split's videos are relative to."""
    return split.videos or (split.annotation if split.annotation.is_dir() else split.annotation.parent)


def videos_below(folders: Iterable[str | Path]) -> list[str]:
    """Paths of all videos in some folders and the folders in them, in order. Hidden files are none.

    Raises:
        InputError: for a folder that does not exist or cannot be listed.
    """

    def refuse(error: OSError):
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror}).")

    paths = set()
    for folder in map(os.path.normpath, folders):
        if not os.path.isdir(folder):
            raise InputError(f"{folder}: there is no such folder of videos.")
        paths.update(path for path in files_below(folder, refuse) if is_video(os.path.basename(path)))
    return sorted(paths)


def files_below(folder: str, on_error: Callable[[OSError], None]) -> Iterator[str]:
    """Paths of all files in a folder and the folders in it, through links as well, each folder once.

    Args:
        on_error: gets the error of each folder that cannot be listed.
    """
    waiting, seen = [folder], set()
    while waiting:
        for parent, folders, names in os.walk(waiting.pop(0), onerror=on_error):
            real = os.path.join(os.path.realpath(parent), "")
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            yield from (os.path.join(parent, name) for name in names)
            links = [path for name in sorted(folders) if os.path.islink(path := os.path.join(parent, name))]
            # Not to a folder that holds this one: that would be a loop.
            waiting += [path for path in links if not real.startswith(os.path.join(os.path.realpath(path), ""))]


def is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_EXTENSIONS) and not name.startswith(".")


def annotated_videos(
    splits: list[Split], present: list[str], allow_outside: bool = False
) -> tuple[dict[str, dict], list[dict]]:
    """Check the rows of annotations, and that the videos that they name exist.

    Returns:
        for each video that exists, by its path, `annotation_file` and `row` that name it first; and the problems.
    """
    videos, problems = {}, []
    for split in splits:
        if not split.annotation.exists():
            error = f"{split.origin}: there is no annotation {split.annotation}."
            where = {"annotation_file": str(split.annotation)}
            problems.append({"video": None, "problem": "missing", "error": error} | where)
            continue
        column = VideoColumn(split.annotation, split.videos, split.columns, "allow", allow_outside)
        first_rows = defaultdict(dict)
        for file, number, row in progress_bar(
            read_unchecked_rows(split.annotation), f"reading {split.annotation.name}"
        ):
            where = {"annotation_file": str(file), "row": number}
            known = len(column.paths)
            errors = row_errors(column, file, number, row, first_rows)
            paths = [os.path.normpath(path) for path in column.paths[known:]]
            for path in paths:
                videos.setdefault(path, where)
            problem = {"video": paths[0] if paths else None, "problem": "mismatched_annotation"}
            problems += [problem | {"error": error} | where for error in errors]
    similar = {stem_of(path): path for path in present}
    for video in [video for video in videos if not os.path.isfile(video)]:
        where = videos.pop(video)
        problem, error = "missing", f"{video}: there is no such file."
        if stem_of(video) in similar:
            problem, error = "mismatched_annotation", f"{video}: there is no such file, but {similar[stem_of(video)]}."
        problems.append({"video": video, "problem": problem, "error": error} | where)
    return videos, problems


def stem_of(path: str) -> str:
    return os.path.splitext(path)[0].casefold()


def row_errors(column: VideoColumn, file: Path, number: int, row, first_rows: dict[str, dict]) -> list[str]:
    """A sentence for each fault of a row of captions, questions or choices; adds its videos to the column.

    Args:
        first_rows: by field, the rows that values were first used in.
    """
    if not isinstance(row, dict):
        return [f'{file}, row {number}: must be an object such as {{"video": …}}, got {row!r:.200}.']
    checks: list[Callable] = [partial(column.add, file, number, row)]
    if "question" in row:
        checks += [partial(string_of, file, number, row, "question"), partial(answers_of, file, number, row)]
    else:
        checks.append(partial(strings_of, file, number, row, field_name(row, "caption", column.columns)))
    for name in ("id", "question_id"):
        if name in row:
            checks.append(partial(check_first_use, file, number, name, row[name], first_rows[name]))
    if isinstance(row.get("caption"), list) and "answer" in row and "question" not in row:
        checks.append(partial(check_choice, file, number, row["answer"], len(row["caption"])))
    errors = []
    for check in checks:
        try:
            check()
        except InputError as error:
            errors.append(str(error))
    return errors


def check_choice(file: Path, number: int, answer, num_options: int):
    if str(answer) not in map(str, range(num_options)):  # CSV has strings
        raise InputError(f"{file}, row {number}: `answer` must be from 0 to {num_options - 1}, got {answer!r:.200}.")


# ---------------------------------------------------------------------------------------------------------------------
# One video
# ---------------------------------------------------------------------------------------------------------------------


def check_video(video: str, num_frames: int, full: bool) -> dict:
    """What is found on reading a video: `frames` and `seconds` that it lasts, or `problem` and `error` (a sentence).

    Args:
        num_frames: frames to read, those of evaluation.
        full: whether to decode all frames instead.
    """
    pick = None if full else lambda metadata: sample_frame_indices(num_frames, metadata.total_num_frames)
    try:
        _, metadata = read_video(video, pick, short_side=16)  # so that all frames of a long video fit into memory
    except VideoDecodeError as error:
        return {"problem": problem_of(str(error).removeprefix(video)), "error": str(error)}
    found = {"frames": metadata.total_num_frames, "seconds": metadata.duration or 0.0}
    if metadata.total_num_frames < num_frames:
        error = f"{video}: too short, it has {metadata.total_num_frames} of {num_frames} frames."
        return {"problem": "too_short", "error": error} | found
    return found


def failure_sentence(video: str, failure: Exception) -> str:
    """What to say of a video on which a worker process failed."""
    if isinstance(failure, WorkerFailure):
        return f"{video}: the decoder {failure}."
    return f"{video}: the decoder failed ({type(failure).__name__}: {failure})."


def problem_of(reason: str) -> str:
    """Which of `PROBLEMS` a sentence of the reader speaks of."""
    if "no video stream" in reason:
        return "no_video_stream"
    return "above_limits" if "limit" in reason else "unreadable"


# ---------------------------------------------------------------------------------------------------------------------
# The report
# ---------------------------------------------------------------------------------------------------------------------


class Report:
    """The file of problems, written line by line, and the counts for the summary.

    Until the scan is complete, a file `<report>.unfinished` beside it holds what was found of each video, so that these
    need not be read again after an interruption.
    """

    def __init__(self, args: CheckArguments):
        self.path, self.unfinished_path = args.report, f"{args.report}.unfinished"
        self.settings = {"num_frames": args.num_frames, "full": args.full}
        self.counts, self.totals = Counter(), Counter()

    def __enter__(self):
        self.start = time.monotonic()
        try:
            # JSON can write a name that is no UTF-8 with a backslash.
            self.file = open(self.path, "w", encoding="utf-8", errors="backslashreplace")
            self.unfinished = open(self.unfinished_path, "a+", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise InputError(f"--report {self.path}: cannot be written ({error.strerror}).") from error
        return self

    def __exit__(self, error_type, error, traceback):
        with writing(self.path), self.unfinished, self.file:  # both are closed, though a full disk may fail each
            pass
        if error_type is None:
            os.unlink(self.unfinished_path)

    def unfinished_results(self) -> Iterator[tuple[str, dict]]:
        """Results that an interrupted scan with the same settings had of files that have not changed since."""
        self.unfinished.seek(0)
        for line in self.unfinished.read().splitlines():
            try:
                known = json.loads(line)
            except ValueError:  # the line that was being written
                continue
            if known["settings"] == self.settings and known["file"] == file_state(known["video"]):
                yield known["video"], known["result"]
        self.unfinished.write("\n")

    def remember(self, results: Iterable[tuple[str, dict | Exception]]) -> Iterator[tuple[str, dict]]:
        """The results of `map_in_workers`, written down as they pass."""
        for video, result in results:
            if isinstance(result, Exception):
                result = {"problem": "unreadable", "error": failure_sentence(video, result)}
            known = {"video": video, "file": file_state(video), "settings": self.settings, "result": result}
            write_line(self.unfinished, known)
            yield video, result

    def add_result(self, video: str, result: dict, where: dict):
        self.totals.update(videos=1, frames=result.get("frames", 0), seconds=result.get("seconds", 0))
        if "problem" in result:
            self.add_problem({"video": video, "problem": result["problem"], "error": result["error"]} | where)

    def add_problem(self, problem: dict):
        self.counts[problem["problem"]] += 1
        write_line(self.file, problem)

    def print_summary(self, num_unused: int):
        checked, seconds = self.totals["videos"], time.monotonic() - self.start
        duration = timedelta(seconds=round(self.totals["seconds"]))
        print(f"{checked:,} videos checked in {seconds:.1f} s, {checked / seconds:.1f} a second.")
        print(f"They have {self.totals['frames']:,} frames and last {duration} hours in all.")
        for problem in PROBLEMS:
            print(f"  {problem:24}{self.counts[problem]:>9,}")
        if num_unused:
            print(f"  {'unused':24}{num_unused:>9,}   videos that no annotation names, which is no problem")
        if self.counts:
            print(f"{self.path} lists the problems.")


def write_line(file: TextIO, content: dict):
    """Append a line of JSON, whole even if the process is killed the next moment."""
    with writing(file.name):
        file.write(json.dumps(content, ensure_ascii=False) + "\n")
        file.flush()


def file_state(path: str) -> list[int] | None:
    """Size in bytes and time of the last change of a file, None if there is none."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]
