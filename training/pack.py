# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Pack videos and their annotations into shards, which stream from a disk, a file server or the Hub.

    svitt-pack --video_dir videos --annotation_file train.json --output_dir packed --split train
    svitt-pack --video_dir videos --annotation_file test.json --output_dir packed --split test --short_side 256
    svitt-pack --verify packed

Shards are WebDataset tars, `train-00000-of-00012.tar` with `<key>.json` and `<key>.mp4` for each sample, or Parquet
files with the same fields. A sample is a video with all its captions in a list, `caption`; or with all questions about
it, in the lists `question`, `answer`, `question_id` and, where there is one, `question_type`, equally long. Multiple
choices are a sample each: `caption`, the options, and `answer`. `<key>.mp4` holds the video as it is, whatever its
format, or with `--short_side` or `--keyframe_seconds` a copy in H.264, smaller and faster to read, which has as many
frames at the same times, and no sound.

`manifest.jsonl` lists the finished shards with their SHA-256. When packing was interrupted, or even killed, the same
command goes on with the other shards, and all are the same, byte for byte, as without the interruption.
"""

import io
import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from hashlib import sha256
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from av.video.frame import PictureType
from av.video.reformatter import Interpolation
from datasets import Features, List, Value, Video, concatenate_datasets
from datasets.utils.py_utils import convert_file_size_to_int
from filelock import FileLock, Timeout
from huggingface_hub.utils.sha import sha_fileobj
from transformers import HfArgumentParser

from ..processing_svitt import VideoDecodeError, open_video, read_video
from .check_videos import check_video, failure_sentence
from .data import load_captions, load_choices, load_questions, read_annotations
from .processes import InputError, exit_on_bad_input, progress_bar
from .workers import map_in_workers

ROW_GROUP_BYTES = 2**26  # of videos, in Parquet: what a reader holds at once


@dataclass
class PackArguments:
    """What to pack, and how."""

    video_dir: str | None = field(
        default=None, metadata={"help": "Folder that the names of the videos are relative to."}
    )
    annotation_file: list[str] | None = field(
        default=None, metadata={"help": "Captions, questions or multiple choices: JSON, JSON lines or CSV."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Folder for the shards of one or more splits."})
    allow_outside: bool = field(
        default=False,
        metadata={
            "help": "Take absolute paths, `..` and symbolic links in annotations that lead out of the folder of videos."
        },
    )
    split: str = field(default="train", metadata={"help": "What the names of the shards begin with."})
    format: str = field(default="webdataset", metadata={"choices": ["webdataset", "parquet"], "help": "Of the shards."})
    shard_size: str = field(
        default="500MB", metadata={"help": "Most bytes of videos, as they are now, in a shard of more than one."}
    )
    samples_per_shard: int | None = field(default=None, metadata={"help": "Instead of --shard_size."})
    short_side: int | None = field(
        default=None, metadata={"help": "Re-encode, larger videos with this many pixels on the short side."}
    )
    keyframe_seconds: float | None = field(
        default=None, metadata={"help": "Re-encode with a keyframe this often; every second if --short_side is given."}
    )
    crf: int = field(default=23, metadata={"help": "Quality when re-encoding: x264's constant rate factor, 0 to 51."})
    bad_videos: str = field(
        default="error",
        metadata={
            "choices": ["error", "skip"],
            "help": "What to do about a video that cannot be read: stop, as a set is packed once and its gaps would "
            "stay, or leave it out and list it in bad_videos.jsonl.",
        },
    )
    num_workers: int = field(
        default_factory=os.cpu_count, metadata={"help": "Processes that read and encode; by default one a core."}
    )
    timeout: float = field(default=600.0, metadata={"help": "Seconds that one video may take."})
    verify: str | None = field(
        default=None, metadata={"help": "Only check that the shards in this folder are complete and undamaged."}
    )

    @property
    def encoding(self) -> dict | None:
        """Arguments of [`encode_video`], None where videos are packed as they are."""
        if self.short_side is None and self.keyframe_seconds is None:
            return None
        return {"short_side": self.short_side, "keyframe_seconds": self.keyframe_seconds or 1.0, "crf": self.crf}


def main():
    """Entry point of `svitt-pack`."""
    parser = HfArgumentParser(PackArguments, prog="svitt-pack", description=__doc__.partition("\n")[0])
    [args] = parser.parse_args_into_dataclasses()
    with exit_on_bad_input():
        try:
            if args.verify:
                sys.exit(verify(args.verify))
            pack(args)
        except KeyboardInterrupt:
            print("Interrupted: the same command goes on with the shards that are left.", file=sys.stderr)
            sys.exit(130)


def pack(args: PackArguments):
    """Write those shards of a split that are not finished yet.

    Raises:
        InputError: if an argument or an annotation is wrong, or the folder has shards that were packed otherwise.
        VideoDecodeError: for a bad video, if these are not to be skipped.
    """
    check_arguments(args)
    may_skip = args.bad_videos == "skip"
    missing_videos = "allow" if may_skip else "error"
    samples = Samples(args.annotation_file, args.video_dir, missing_videos, args.allow_outside)
    shards = plan_shards(samples.sizes, args)
    with open_manifest(args.output_dir) as manifest:
        manifest.begin_split(args.split, settings_of(samples, args), list(shards))
        todo = {name: indices for name, indices in shards.items() if not manifest.has(name, may_skip)}
        videos = prepared_videos(samples, chain(*todo.values()), manifest.incomplete, args)
        with closing(videos):
            for name, indices in todo.items():
                shard = write_shard(manifest.incomplete / name, samples, indices, videos, may_skip)
                manifest.add_shard({"split": args.split, "shard": name} | shard)
        manifest.finish()
    print(totals(args.output_dir, [manifest.shards[name] for name in shards]))


def check_arguments(args: PackArguments):
    for name in ("video_dir", "annotation_file", "output_dir"):
        if getattr(args, name) is None:
            raise InputError(f"--{name} is missing; only --verify can do without.")
    if not re.fullmatch(r"[A-Za-z0-9_]+", args.split):
        raise InputError(f"--split {args.split}: must be letters, digits and underscores, such as train.")
    ranges = {"samples_per_shard": (1, 10**9), "short_side": (2, 10**5), "keyframe_seconds": (0.001, 10**6)}
    ranges |= {"crf": (0, 51), "num_workers": (1, 10**4), "timeout": (0.001, 10**9)}
    for name, (least, most) in ranges.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise InputError(f"--{name} {value:g}: must be from {least:g} to {most:g}.")


def settings_of(samples: "Samples", args: PackArguments) -> dict:
    """What the shards of a split must have in common."""
    return {
        "annotations": samples.digest,
        "size of all videos": sum(samples.sizes),
        "--format": args.format,
        "--samples_per_shard": args.samples_per_shard,
        "--shard_size": args.shard_size if args.samples_per_shard is None else None,
        "--short_side, --keyframe_seconds, --crf": args.encoding,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Samples and shards
# ---------------------------------------------------------------------------------------------------------------------


class Samples:
    """The videos that annotations name, in their order, and what is annotated of each.

    Args:
        annotation_files: as of `data.read_annotations`, all of captions, all of questions or all of choices.
        video_dir: folder that the names of videos are relative to.
        missing_videos: `"error"` or `"allow"`, where packing will skip them.
        allow_outside: take names and links that lead out of the folder.

    Raises:
        InputError: for a fault of an annotation, or if these are of different kinds.
    """

    def __init__(
        self, annotation_files: list[str], video_dir: str, missing_videos: str = "error", allow_outside: bool = False
    ):
        first_row = next(read_annotations(annotation_files[0]))[2]
        self.kind = "question" if "question" in first_row else "choice" if "answer" in first_row else "caption"
        loads: dict[str, Callable]
        loads = {"question": load_questions, "choice": load_choices, "caption": load_captions}
        options = {"missing_videos": missing_videos, "allow_outside": allow_outside}
        tables = [loads[self.kind](file, video_dir, **options) for file in annotation_files]
        for file, table in zip(annotation_files, tables, strict=True):
            if table.features != tables[0].features:
                raise InputError(f"{file}: has not the fields of {annotation_files[0]}, pack it as another split.")
        table = concatenate_datasets(tables)
        self.annotations = table.remove_columns({"video", "row"} & set(table.column_names))

        video_paths = pc.struct_field(table.with_format("arrow")["video"][:], "path").to_pylist()
        self.paths, self.rows, sample_of = [], [], {}
        for row, path in enumerate(map(os.path.normpath, video_paths)):
            if path not in sample_of or self.kind == "choice":
                sample_of[path] = len(self.paths)
                self.paths.append(path)
                self.rows.append([])
            self.rows[sample_of[path]].append(row)
        names = (Path(os.path.relpath(path, video_dir)) for path in self.paths)
        self.names = [path.name if ".." in path.parts else path.as_posix() for path in names]
        self.keys = unique_keys(self.names)
        self.sizes = [os.path.getsize(path) if os.path.isfile(path) else 0 for path in self.paths]

    def fields(self, index: int) -> dict[str, Any]:
        """What is annotated of a sample."""
        columns = self.annotations[self.rows[index]]
        if self.kind == "caption":
            return {"caption": list(chain(*columns["caption"]))}
        return {name: values[0] if self.kind == "choice" else values for name, values in columns.items()}

    @property
    def features(self) -> Features:
        """Of a shard in Parquet."""
        features = self.annotations.features
        if self.kind == "question":
            features = {name: List(feature) for name, feature in features.items()}
        return Features(key=Value("string"), video=Video(), **features)

    @property
    def digest(self) -> str:
        """SHA-256 of the names and all that is annotated."""
        digest = sha256(json.dumps(self.names).encode())
        for row in self.annotations:
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def unique_keys(names: list[str]) -> list[str]:
    """A key for each name of a video: itself without extension, as far as tars and all file systems allow it."""
    keys, used = [], set()
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", os.path.splitext(name)[0])[:100]
        stem = f"v{stem}" if stem.startswith("__") else stem  # `datasets` takes such files of a tar for hidden ones
        key = next(key for key in chain([stem], (f"{stem}-{n}" for n in count(2))) if key.lower() not in used)
        used.add(key.lower())
        keys.append(key)
    return keys


def plan_shards(sizes: list[int], args: PackArguments) -> dict[str, range]:
    """Names of all shards and the samples in each: as many as fit, one at least."""
    try:
        shard_size = convert_file_size_to_int(args.shard_size)
    except ValueError:
        shard_size = 0
    if shard_size < 1:
        raise InputError(f"--shard_size {args.shard_size}: must be a size such as 500MB or 1GB.")
    starts, filled = [], 0
    for index, size in enumerate(sizes):
        full = filled + size > shard_size
        if args.samples_per_shard is not None:
            full = index % args.samples_per_shard == 0
        if index == 0 or full:
            starts.append(index)
            filled = 0
        filled += size
    extension = {"webdataset": "tar", "parquet": "parquet"}[args.format]
    return {
        f"{args.split}-{number:05d}-of-{len(starts):05d}.{extension}": range(start, stop)
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(sizes)], strict=True))
    }


def write_shard(
    path: Path, samples: Samples, indices: range, videos: Iterator[str | Exception], may_skip: bool
) -> dict:
    """Write a shard of samples, whose videos (see [`prepared_videos`]) come in the same order.

    Returns:
        what the manifest says of it.
    """
    keys, bad_videos = [], []
    with open(path, "wb") as file:
        with WRITERS[path.suffix](file, samples.features) as add:
            for index, video in zip(indices, videos, strict=False):
                name, source = samples.names[index], samples.paths[index]
                if isinstance(video, Exception):
                    if isinstance(video, OSError):  # a full disk, say: not to be taken for a bad video
                        raise video
                    if not isinstance(video, VideoDecodeError):
                        video = VideoDecodeError(failure_sentence(source, video))
                    if not may_skip:
                        raise video
                    bad_videos.append({"video": name, "error": str(video)})
                    continue
                add(samples.keys[index], name, video, samples.fields(index))
                keys.append(samples.keys[index])
                if video != source:
                    os.unlink(video)
        file.flush()
        os.fsync(file.fileno())
    if not keys and indices.start == 0:  # of which readers take the names of the fields
        raise InputError(f"{path.name}: none of its videos can be read; {bad_videos[0]['error']}")
    return {"size": path.stat().st_size, "sha256": sha256_of(path), "keys": keys, "bad_videos": bad_videos}


@contextmanager
def tar_writer(file: BinaryIO, features: Features) -> Iterator[Callable]:
    """Gives a function that adds a sample to a WebDataset tar."""

    def add(key: str, name: str, video: str, fields: dict):
        text = json.dumps({"video": name} | fields, ensure_ascii=False).encode()
        with open(video, "rb") as content:
            for extension, part, size in (
                ("json", io.BytesIO(text), len(text)),
                ("mp4", content, os.stat(video).st_size),
            ):
                member = tarfile.TarInfo(f"{key}.{extension}")  # of nobody, at the beginning of time
                member.size = size
                tar.addfile(member, part)

    with tarfile.open(fileobj=file, mode="w") as tar:
        yield add


@contextmanager
def parquet_writer(file: BinaryIO, features: Features) -> Iterator[Callable]:
    """Gives a function that adds a sample to a Parquet file, which has the schema that `datasets` writes."""
    rows: list[dict] = []
    schema = features.arrow_schema

    def add(key: str, name: str, video: str, fields: dict):
        size = os.stat(video).st_size
        if size >= 2**31:
            raise InputError(f"{video}: a Parquet file cannot hold its {size} bytes, --format webdataset can.")
        if rows and sum(len(row["video"]["bytes"]) for row in rows) + size > ROW_GROUP_BYTES:
            flush()
        rows.append({"key": key, "video": {"bytes": Path(video).read_bytes(), "path": name}} | fields)

    def flush():
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        rows.clear()

    with pq.ParquetWriter(file, schema, compression="none") as writer:
        yield add
        flush()


WRITERS = {".tar": tar_writer, ".parquet": parquet_writer}


# ---------------------------------------------------------------------------------------------------------------------
# Videos
# ---------------------------------------------------------------------------------------------------------------------


def prepared_videos(
    samples: Samples, indices: Iterable[int], folder: Path, args: PackArguments
) -> Generator[str | Exception, None, None]:
    """For each sample, in order: the file with its video as it is to be packed, or why there is none."""
    sources = [samples.paths[index] for index in indices]
    items = ((number, source, str(folder / f"{number}.mp4")) for number, source in enumerate(sources))
    prepare = partial(prepare_video, encoding=args.encoding)
    with closing(map_in_workers(prepare, items, args.num_workers, args.timeout)) as results:
        yield from progress_bar(in_order(results), "packing", len(sources))


def in_order(results: Iterable[tuple[tuple, Any]]) -> Iterator:
    """Results in the order of the numbers that their items begin with."""
    waiting, number = {}, 0
    for item, result in results:
        waiting[item[0]] = result
        while number in waiting:
            yield waiting.pop(number)
            number += 1


def prepare_video(item: tuple[int, str, str], encoding: dict | None) -> str:
    """Read some of a video, encode it if there is something to encode, and say in which file it is now."""
    _, source, target = item
    found = check_video(source, num_frames=4, full=False)
    if found.get("problem", "too_short") != "too_short":
        raise VideoDecodeError(found["error"])
    if encoding is None:
        return source
    encoded = encode_video(source, **encoding)
    _, metadata = read_video(encoded, pick=lambda metadata: [0])
    if metadata.total_num_frames != found["frames"]:
        raise VideoDecodeError(f"{source}: has {found['frames']} frames, and {metadata.total_num_frames} encoded anew.")
    Path(target).write_bytes(encoded)
    return target


def encode_video(source: str, short_side: int | None, keyframe_seconds: float, crf: int) -> bytes:
    """Make an MP4 in H.264 of all frames of a video, upright, at their times since the first one.

    Args:
        short_side: pixels of the short side of larger videos; others keep their size, but for an odd row or column.
        keyframe_seconds: a frame this long after a keyframe, or longer, becomes the next one.
        crf: x264's constant rate factor.

    Raises:
        VideoDecodeError: if not all of the video can be decoded.
    """
    content = io.BytesIO()
    with (
        open_video(source) as (container, stream),
        av.open(content, "w", "mp4", options={"fflags": "+bitexact"}) as output,
    ):
        rate, time_base = stream.average_rate or Fraction(25), stream.time_base
        usual_duration = max(1, round(1 / rate / time_base))
        has_times = not (container.format.name == "avi" and stream.codec_context.has_b_frames)  # else they are guesses
        encoder, num_frames, first, last, next_keyframe = None, 0, None, -usual_duration, 0
        for num_frames, frame in enumerate(container.decode(stream), start=1):  # noqa: B007
            image = upright_image(frame, short_side)
            if encoder is None:
                encoder, first = add_encoder(output, image, rate, time_base, crf), frame.pts or 0
            if image.shape[:2] != (encoder.height, encoder.width):
                raise VideoDecodeError(f"{source}: its frames must have one size, they have several.")
            time = frame.pts - first if has_times and frame.pts is not None else last
            last = time if time > last else last + usual_duration  # where times are missing or run backwards
            encoded = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            encoded.pts, encoded.time_base = last, time_base
            if last * time_base >= next_keyframe:
                encoded.pict_type, next_keyframe = PictureType.I, last * time_base + Fraction(keyframe_seconds)
            output.mux(encoder.encode(encoded))
        if encoder is None:
            raise VideoDecodeError(f"{source}: no frame can be decoded.")
        for packet in encoder.encode():
            # The last frame is shown until the average rate is that of the source.
            packet.duration = max(1, round(num_frames / rate / time_base) - packet.pts)
            output.mux(packet)
    return content.getvalue()


def upright_image(frame: av.VideoFrame, short_side: int | None) -> np.ndarray:
    """A frame as RGB (height, width, 3), scaled down and turned; H.264 wants even sides."""
    sides = frame.width, frame.height
    if short_side is not None and short_side < min(sides):
        sides = [side * short_side / min(sides) for side in sides]
    width, height = (max(2, round(side / 2) * 2 if isinstance(side, float) else side // 2 * 2) for side in sides)
    image = frame.reformat(width, height, format="rgb24", interpolation=Interpolation.AREA).to_ndarray()
    return np.ascontiguousarray(np.rot90(image, k=round(frame.rotation / 90) % 4))


def add_encoder(output, image: np.ndarray, rate: Fraction, time_base: Fraction, crf: int) -> av.VideoStream:
    """Add a stream of H.264 to an open file."""
    # Without macroblock trees x264 gives the same bytes each time; with them, not always. Without B-frames all readers
    # agree on which frame is which. Keyframes are where we say, not where x264 sees another scene.
    options = {"preset": "veryfast", "crf": str(crf), "mbtree": "0", "bf": "0", "sc_threshold": "0", "forced-idr": "1"}
    encoder = output.add_stream("libx264", rate=rate, options=options)
    encoder.height, encoder.width = image.shape[:2]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = encoder.codec_context.time_base = time_base
    encoder.codec_context.gop_size = 2**30
    encoder.codec_context.thread_count = 1
    return encoder


# ---------------------------------------------------------------------------------------------------------------------
# The manifest
# ---------------------------------------------------------------------------------------------------------------------


class Manifest:
    """`manifest.jsonl` of a folder: a line for each split with its settings and a line for each finished shard."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path, self.incomplete = self.folder / "manifest.jsonl", self.folder / ".incomplete"
        self.splits, self.shards = {}, {}
        for number, line in enumerate(self._whole_lines(), start=1):
            try:
                line = json.loads(line)
                lines = self.shards if "shard" in line else self.splits
                lines[line["shard" if "shard" in line else "split"]] = line
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{self.path}, line {number}: damaged ({error}).") from error

    def _whole_lines(self) -> list[str]:
        """Lines of the file but for a last one that was being written when packing was killed."""
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        return text.split("\n")[:-1]

    def begin_split(self, split: str, settings: dict, names: list[str]):
        """Note the settings of a split and the names of its shards, or check that they are those of the manifest."""
        for name, value in self.splits.get(split, {}).get("settings", settings).items():
            if settings[name] != value:
                values = f" {json.dumps(value)} instead of {json.dumps(settings[name])}" if name[0] == "-" else ""
                raise InputError(
                    f"{self.folder}: split {split} was packed with other settings ({name}{values}); use another "
                    f"folder, or delete its shards and {self.path.name}."
                )
        for path in self.folder.glob(f"{split}-*-of-*"):
            if path.name not in names:
                raise InputError(f"{path}: is in the way, the shards of {split} will be {names[0]} and so on.")
        if split not in self.splits:
            self.splits[split] = {"split": split, "settings": settings, "num_shards": len(names)}
        self.finish()

    def has(self, name: str, may_skip: bool) -> bool:
        """Whether a shard is finished, and if videos must not be skipped, without that."""
        if name not in self.shards or self.shards[name]["bad_videos"] and not may_skip:
            return False
        path = self.folder / name
        return path.is_file() and path.stat().st_size == self.shards[name]["size"]

    def add_shard(self, line: dict):
        """Give a shard that is in the folder `incomplete` its name, and add its line."""
        os.replace(self.incomplete / line["shard"], self.folder / line["shard"])
        self.shards[line["shard"]] = line
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self):
        """Write all lines anew, in order, and all skipped videos to `bad_videos.jsonl`."""
        shards = [self.shards[name] for name in sorted(self.shards)]
        self._write(self.path.name, [*self.splits.values(), *shards])
        bad_videos = [{"split": line["split"]} | bad for line in shards for bad in line["bad_videos"]]
        if bad_videos or (self.folder / "bad_videos.jsonl").exists():
            self._write("bad_videos.jsonl", bad_videos)

    def _write(self, name: str, lines: list[dict]):
        with open(self.incomplete / name, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.incomplete / name, self.folder / name)


@contextmanager
def open_manifest(folder: str) -> Iterator[Manifest]:
    """The manifest of a folder that no other process packs into meanwhile; the folder is made where there is none."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {folder}: cannot be made ({error.strerror}).") from error
    lock = FileLock(Path(folder, ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"--output_dir {folder}: another svitt-pack is writing to it.") from None
    try:
        manifest = Manifest(folder)
        shutil.rmtree(manifest.incomplete, ignore_errors=True)  # of one that was killed
        manifest.incomplete.mkdir()
        yield manifest
    except OSError as error:
        raise InputError(f"--output_dir {folder}: cannot be written ({error}).") from error
    finally:
        shutil.rmtree(Path(folder, ".incomplete"), ignore_errors=True)
        os.unlink(lock.lock_file)
        lock.release()


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return sha_fileobj(file).hex()


def verify(folder: str) -> int:
    """Check all shards of a folder against its manifest, and print a sentence for each that is damaged or missing.

    Returns:
        the exit code: 1 if there are such, else 0.

    Raises:
        InputError: if there is no manifest.
    """
    manifest = Manifest(folder)
    if not manifest.splits:
        raise InputError(f"{manifest.path}: there is no such manifest, or nothing in it.")
    faults = [
        f"split {split}: not packed to its end, there are {len(found)} of {line['num_shards']} shards."
        for split, line in manifest.splits.items()
        if len(found := [shard for shard in manifest.shards.values() if shard["split"] == split]) < line["num_shards"]
    ]
    for name, line in progress_bar(sorted(manifest.shards.items()), "verifying"):
        path = manifest.folder / name
        if not path.is_file():
            faults.append(f"{path}: missing.")
        elif path.stat().st_size != line["size"]:
            faults.append(f"{path}: damaged, it has {path.stat().st_size} bytes instead of {line['size']}.")
        elif sha256_of(path) != line["sha256"]:
            faults.append(f"{path}: damaged, its SHA-256 is not that of the manifest.")
    print(*faults or [totals(manifest.folder, manifest.shards.values())], sep="\n")
    return min(1, len(faults))


def totals(folder: str | Path, shards: Collection[dict]) -> str:
    num_samples, num_bad = (
        sum(len(shard["keys"]) for shard in shards),
        sum(len(shard["bad_videos"]) for shard in shards),
    )
    size = sum(shard["size"] for shard in shards)
    skipped = f"; {num_bad:,} videos were skipped, see bad_videos.jsonl" if num_bad else ""
    return f"{folder}: {len(shards):,} shards with {num_samples:,} samples, {size / 1e9:.3f} GB{skipped}."
