# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Datasets by name: the files of each split and the settings published with it, in the YAML files of `presets/`.

One's own files look the same; docs/data.md shows one, and tells what the keys are. A split has one of `annotation`,
`hub` and `shards`. Whatever is wrong in a file is an `InputError` that names it.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from datasets import Dataset
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers.hf_argparser import HfArg

from ..errors import InputError, did_you_mean
from .annotations import FIELDS, LOADERS, Kind, Reading, Rows, kind_of, open_hub
from .formats import Join, Layout
from .shards import open_shards

PRESETS = Path(__file__).parent / "presets"
ROWS_OF_TASK: dict[str, Kind] = {"pretraining": "captions", "retrieval": "captions", "videoqa": "questions"}


@strict
@dataclass
class Split(Reading):
    """Where the rows of a split are, and of which kind: the keys of a split in YAML, which are checked."""

    annotation: str | Path | None = None  # file, or folder with metadata files
    videos: str | Path | None = None  # folder or URL that its names are relative to; by default where it lies
    hub: str | None = None  # dataset of the Hub, or folder that `load_dataset` takes
    hub_split: str = "train"
    shards: str | list[str] | None = None  # paths or URLs, with or without `*`
    rows: Kind = "captions"
    medium: Literal["video", "image"] = "video"

    def validate_source(self):
        if sum(source is not None for source in (self.annotation, self.hub, self.shards)) != 1:
            raise ValueError("it must have one of annotation, hub and shards")

    def validate_layout(self):
        used = [key.name for key in fields(Layout) if getattr(self, key.name)]
        if used and not self.annotation:
            raise ValueError(f"{used[0]} is for an annotation")

    def validate_columns(self):
        for name in self.columns:
            if name not in FIELDS[self.rows]:
                raise ValueError(f"columns: there is no {name}, but: {', '.join(FIELDS[self.rows])}")

    @property
    def source(self) -> str:
        """Name on the Hub, annotation, or first shards."""
        return str(self.hub or self.annotation or self.shards[0])

    def below(self, folder: Path) -> "Split":
        """Return this split with its paths relative to a folder."""
        paths: dict[str, Any] = {"annotation": self.annotation and folder / self.annotation}
        if self.videos and "://" not in str(self.videos):
            paths["videos"] = folder / self.videos
        if self.join:
            paths["join"] = dataclasses.replace(self.join, annotation=folder / self.join.annotation)
        if self.hub and (folder / self.hub).is_dir():
            paths["hub"] = str(folder / self.hub)
        if self.shards:
            shards = [self.shards] if isinstance(self.shards, str) else self.shards
            paths["shards"] = [path if "://" in path else str(folder / path) for path in shards]
        return dataclasses.replace(self, **paths)

    def annotations(self, allow_missing: bool = False) -> Rows:
        """Return the rows of the annotation as they are."""
        return Rows(self.annotation, self.videos, self, allow_missing)

    def load(self, allow_missing: bool = False, **options) -> Dataset:
        """Return the rows, of `load_captions`, `load_questions` or `load_choices`, which `options` are handed to."""
        source = self.annotation
        if self.hub:
            source = open_hub(self.hub, self.hub_split, self)
        elif self.shards:
            source = open_shards(self.shards, self.columns.get("video"))  # type: ignore[arg-type]
        return LOADERS[self.rows](source, self.videos, reading=self, allow_missing=allow_missing, **options)


@dataclass(frozen=True)
class Preset:
    """A dataset: its splits by name, settings by the names of a script's arguments, and the answers to choose from."""

    origin: str
    splits: dict[str, Split] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    answer_list: Path | None = None


@dataclass
class DatasetArguments:
    """Which dataset, by name or by files; its settings are defaults that the command line overrides."""

    _argument_group_name = "dataset"

    dataset: str | None = HfArg(default=None, help="Name of a published dataset, such as msrvtt.")
    dataset_file: str | None = HfArg(default=None, help="YAML file that describes one of your own.")
    data_dir: str | None = HfArg(
        default=None, help="Folder of annotations and videos: by default the current, or that of the --dataset_file."
    )
    allow_outside: bool = HfArg(
        default=False, help="Take absolute paths and `..` in annotations that lead out of the folder of videos."
    )
    config: str | None = HfArg(
        default=None, help="YAML file of options by name, overridden by those of the command line."
    )
    train_file: str | None = HfArg(default=None, help="Your own annotations, to train on.")
    validation_file: str | None = HfArg(default=None, help="Annotations of the split `validation`.")
    test_file: str | None = HfArg(default=None, help="Annotations of the split `test`.")
    video_dir: str | None = HfArg(
        default=None, help="Folder of the videos; by default where the dataset or the annotation says."
    )

    def splits(self, preset: Preset, rows: Kind, *other_rows: Kind) -> dict[str, Split]:
        """Return the splits of the dataset and those given as files, of `rows`; raise an `InputError` for other rows.

        Splits of the dataset to evaluate on may have `other_rows` as well.
        """
        splits = dict(preset.splits)
        for name in ("train", "validation", "test"):
            if file := getattr(self, f"{name}_file"):
                splits[name] = Split(annotation=Path(file), rows=rows)
        for name, split in splits.items():
            taken = (rows,) if name.startswith("train") else (rows, *other_rows)
            if split.rows not in taken:
                raise InputError(f"split {name}: it has {split.rows}, but this takes {' or '.join(taken)}.")
            splits[name] = self.placed(split)
        return splits

    def placed(self, split: Split) -> Split:
        """Return a split with its videos where the options say."""
        return dataclasses.replace(split, allow_outside=self.allow_outside, videos=self.video_dir or split.videos)


def preset_names(task: str) -> list[str]:
    return sorted(file.stem for file in (PRESETS / task).glob("*.yaml"))


def load_preset(task: str, name_or_file: str | Path, data_dir: str | Path | None = None) -> Preset:
    """Load a published dataset by name, or one of your own from a YAML file.

    Args:
        task: `"pretraining"`, `"retrieval"` or `"videoqa"`.
        name_or_file: one of `preset_names(task)`, or a `Path`.
        data_dir: folder that paths are relative to: by default the current folder, or that of the file.

    Raises:
        InputError: if there is none of that name, or its file has a wrong key or value.
    """
    if isinstance(name_or_file, Path):
        origin, file, data_dir = str(name_or_file), name_or_file, Path(data_dir or name_or_file.parent)
    else:
        origin, data_dir, names = f"preset {name_or_file}", Path(data_dir or "."), preset_names(task)
        if name_or_file not in names:
            suggestion = did_you_mean(name_or_file, names)
            raise InputError(
                f"{name_or_file}: there is no such dataset for {task}, but: {', '.join(names)}.{suggestion}"
            )
        file = PRESETS / task / f"{name_or_file}.yaml"
    content = read_yaml(file, ("splits", "settings", "settings_of", "answer_list"))
    splits, settings = (check_mapping(f"{origin}, {key}", content.get(key) or {}) for key in ("splits", "settings"))
    if "settings_of" in content:
        settings = load_preset(task, content["settings_of"]).settings | settings
    splits = {
        str(name): parse_split(f"{origin}, split {name}", keys, ROWS_OF_TASK[task]).below(data_dir)
        for name, keys in splits.items()
    }
    return Preset(origin, splits, settings, data_dir / content["answer_list"] if "answer_list" in content else None)


def splits_of(annotation_file: Sequence[str] = (), task: str = "retrieval", **dataset) -> dict[str, Split]:
    """Return the splits with annotations of a dataset, or annotations by their names, for `svitt check` and `pack`.

    `dataset` are options of [`DatasetArguments`].
    """
    args = DatasetArguments(**dataset)
    splits = {file: Split(annotation=file, rows=kind_of(file)) for file in annotation_file}
    if args.dataset or args.dataset_file:
        task = next((one for one in ROWS_OF_TASK if args.dataset in preset_names(one)), task)
        preset = load_preset(task, args.dataset or Path(args.dataset_file), args.data_dir)
        splits |= {name: split for name, split in preset.splits.items() if split.annotation}
    return {name: args.placed(split) for name, split in splits.items()}


def read_yaml(file: Path, keys: Sequence[str] = ()) -> dict:
    """Return the mapping in a YAML file; raise an `InputError` for another content, or another key than `keys`."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())}).") from error
    return check_mapping(file, content, keys)


def check_mapping(origin, content, keys: Sequence[str] = ()) -> dict:
    if not isinstance(content, dict):
        raise InputError(f"{origin}: must be a mapping, got {content!r:.200}.")
    for key in content:
        if keys and key not in keys:
            raise InputError(f"{origin}: there is no `{key}`, but: {', '.join(keys)}.")
    return content


def parse_split(origin: str, keys, rows: Kind) -> Split:
    known = [key.name for key in fields(Split) if key.name != "allow_outside"]
    keys = {"rows": rows} | check_mapping(origin, keys, known)
    try:
        if "join" in keys:
            names = [key.name for key in fields(Join)]
            keys["join"] = Join(**check_mapping(f"{origin}, join", keys["join"], names))
        return Split(**keys)
    except (StrictDataclassError, TypeError) as error:  # of a wrong type; of a `join` that lacks something
        raise InputError(f"{origin}: {' '.join(str(error).split())}") from error
