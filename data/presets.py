# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Datasets by name: the files of each split and the settings published with it, in the YAML files of `presets/`.

One's own files look the same. A split has one of `annotation`, `hub` and `shards`, and paths are below --data_dir:

    splits:
      train: {annotation: train.json, videos: videos}           # or JSON lines, or CSV
      train_images: {annotation: images.json, videos: images, medium: image}
      train_shards: {shards: "packed/train-*.tar", columns: {caption: json.text}, weight: 3}
      train_hub: {hub: user/name, hub_split: train}
      test: {annotation: clips}                                 # a folder with metadata.jsonl, as for "videofolder"
    settings: {num_frames: 4, learning_rate: 1.0e-5, stop_key: test}
"""

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..errors import InputError
from .annotations import load_captions, load_choices, load_questions, open_hub, parts_of
from .streaming import ShuffledStream, load_hub_stream, load_stream

PRESETS = Path(__file__).parent / "presets"
ROWS_OF_TASK = {"pretraining": "captions", "retrieval": "captions", "videoqa": "questions"}
SPLIT_KEYS = {  # with the type of each in YAML, and the key that it goes with
    "annotation": (str, None),
    "videos": (str, "annotation"),
    "hub": (str, None),
    "hub_split": (str, "hub"),
    "shards": ((str, list), None),
    "rows": (str, None),
    "num_options": (int, None),
    "medium": (str, None),
    "columns": (dict, None),
    "weight": ((int, float), None),
}
COLUMNS = ("video", "caption", "question", "answer", "question_id", "question_type", "options")
CHOICES = {"rows": ("captions", "questions", "multiple_choice"), "medium": ("video", "image")}


@dataclass(frozen=True)
class Split:
    """Where the rows of a split are, and of which kind.

    Args:
        origin: preset or file, and split, as messages name it.
        annotation: annotation file, or folder with metadata files.
        videos: folder that the annotation's names are relative to; by default where it lies.
        hub, hub_split: name of a dataset of the Hub, or folder that `load_dataset` takes, and its split.
        shards: paths or URLs, with or without `*`.
        rows: `"captions"`, `"questions"` or `"multiple_choice"`.
        num_options: of multiple choice.
        medium: `"video"` or `"image"`, for training that mixes them.
        columns: what the rows call our columns, where the names differ.
        weight: how often a step of training takes it, where streams are mixed with others.
        allow_outside: take names of videos, and links, that lead out of their folder.
    """

    origin: str
    annotation: Path | None = None
    videos: Path | None = None
    hub: str | None = None
    hub_split: str | None = None
    shards: tuple[str, ...] = ()
    rows: str = "captions"
    num_options: int | None = None
    medium: str = "video"
    columns: dict[str, str] = field(default_factory=dict)
    weight: float = 1.0
    allow_outside: bool = False

    @property
    def source(self) -> str:
        """Name on the Hub, annotation, or first shards."""
        return str(self.hub or self.annotation or self.shards[0])

    def load(self, missing_videos: str = "error", **options) -> Dataset:
        """Rows of [`load_captions`], [`load_questions`] or [`load_choices`], which `options` are handed to.

        Raises:
            InputError: if a file is missing or wrong, or the split is a stream.
        """
        if self.shards:
            raise InputError(f"{self.origin}: shards can only be streamed, by a script that trains on streams.")
        if self.annotation is not None:
            self.check_paths()
        source = self.annotation or open_hub(self.hub, self.hub_split or "train", self.columns)
        loads: dict[str, Callable]
        loads = {"captions": load_captions, "questions": load_questions, "multiple_choice": load_choices}
        if self.rows == "multiple_choice":
            options["num_options"] = self.num_options
        options |= {"missing_videos": missing_videos, "allow_outside": self.allow_outside}
        return loads[self.rows](source, self.videos, columns=self.columns, **options)

    def stream(self, match_by: str = "video", seed: int = 0, buffer_size: int = 1000) -> ShuffledStream:
        """A stream of [`load_stream`] or [`load_hub_stream`]; raises an `InputError` for a split of annotations."""
        if self.rows == "multiple_choice":
            raise InputError(f"{self.origin}: multiple choice is for evaluation, which takes no streams.")
        options: dict[str, Any] = {"kind": self.rows, "columns": self.columns, "match_by": match_by}
        options |= {"seed": seed, "buffer_size": buffer_size}
        if self.shards:
            return load_stream(list(self.shards), **options)
        if self.hub is None:
            raise InputError(f"{self.origin}: only shards and datasets of the Hub can be streamed.")
        return load_hub_stream(self.hub, self.hub_split or "train", **options)

    def check_paths(self):
        if not self.annotation.exists():
            raise InputError(f"{self.origin}: {self.annotation}: there is no such annotation file.")
        if self.videos is not None and not self.videos.is_dir():
            raise InputError(f"{self.origin}: {self.videos}: there is no such folder of videos.")


@dataclass(frozen=True)
class Preset:
    """A dataset: its splits by name, settings by the names of a script's arguments, and the answers to choose from."""

    origin: str
    splits: dict[str, Split] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    answer_list: Path | None = None


@dataclass
class PresetArguments:
    """Which dataset, by name or by file."""

    _argument_group_name = "dataset"

    dataset: str | None = field(default=None, metadata={"help": "Name of a published dataset, such as msrvtt."})
    dataset_file: str | None = field(default=None, metadata={"help": "YAML file that describes one of your own."})
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of annotations and videos: by default `data`, or that of the --dataset_file."},
    )
    allow_outside: bool = field(
        default=False,
        metadata={
            "help": "Take absolute paths, `..` and symbolic links in annotations that lead out of the folder of videos."
        },
    )


@dataclass
class DatasetArguments(PresetArguments):
    """Which dataset, by name or by files; its settings are defaults that this command line overrides."""

    config: str | None = field(
        default=None,
        metadata={
            "help": "YAML file of options by name, such as the settings.yaml of a run; overridden by those given."
        },
    )
    train_file: str | None = field(default=None, metadata={"help": "Your own annotations, to train on."})
    validation_file: str | None = field(default=None, metadata={"help": "Annotations of the split `validation`."})
    test_file: str | None = field(default=None, metadata={"help": "Annotations of the split `test`."})
    video_dir: str | None = field(
        default=None, metadata={"help": "Folder of the videos; by default where the dataset or the annotation says."}
    )

    def splits(self, preset: Preset, rows: str, *other_rows: str) -> dict[str, Split]:
        """Those of the dataset and those given as files.

        Args:
            preset: the dataset.
            rows: what files have, and what to train on.
            other_rows: what splits of the dataset to evaluate on may have as well.

        Raises:
            InputError: where a split has other rows.
        """
        files = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        splits = preset.splits | {
            name: Split(f"--{name}_file", annotation=Path(file), rows=rows)
            for name, file in files.items()
            if file is not None
        }
        for name, split in splits.items():
            taken = (rows,) if name.startswith("train") else (rows, *other_rows)
            if split.rows not in taken:
                raise InputError(f"{split.origin}: it has {split.rows}, but this takes {' or '.join(taken)}.")
        given: dict[str, Any] = {"allow_outside": self.allow_outside}
        if self.video_dir is not None:
            given["videos"] = Path(self.video_dir)
        return {name: dataclasses.replace(split, **given) for name, split in splits.items()}


def preset_names(task: str) -> list[str]:
    return sorted(file.stem for file in (PRESETS / task).glob("*.yaml"))


def load_preset(task: str, name_or_file: str | Path, data_dir: str | Path | None = None) -> Preset:
    """Load a published dataset by name, or one of your own from a `.yaml` file.

    Args:
        task: `"pretraining"`, `"retrieval"` or `"videoqa"`.
        name_or_file: one of `preset_names(task)`, or a `Path`, or a string that ends in `.yaml` or `.yml`.
        data_dir: folder that paths are relative to: by default `data`, or that of the file.

    Raises:
        InputError: if there is none of that name, or the file has a key that is unknown or of a wrong type. Whether
            the files of a split exist is checked when it is loaded.
    """
    file = Path(name_or_file)
    if isinstance(name_or_file, Path) or file.suffix in (".yaml", ".yml"):
        origin, data_dir = str(file), Path(data_dir or file.parent)
    else:
        origin, data_dir = f"preset {name_or_file}", Path(data_dir or "data")
        if name_or_file not in preset_names(task):
            raise InputError(f"{name_or_file}: there is no such dataset for {task}, but: {known(preset_names(task))}.")
        file = PRESETS / task / f"{name_or_file}.yaml"
    content = read_yaml(file)
    check_keys(origin, content, {"splits": dict, "settings": dict, "answer_list": str})
    if not content.get("splits"):
        raise InputError(f"{origin}: `splits` is missing.")
    splits = {}
    for name, keys in content["splits"].items():
        splits[str(name)] = parse_split(f"{origin}, split {name}", keys, data_dir, ROWS_OF_TASK[task])
    answer_list = content.get("answer_list")
    return Preset(origin, splits, content.get("settings") or {}, answer_list and data_dir / answer_list)


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key that comes twice is an error; else its first value would be lost."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"found `{key}` twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path):
    try:
        return yaml.load(file.read_text(encoding="utf-8"), StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not a YAML file ({' '.join(str(error).split())}).") from error


def parse_split(origin: str, keys: dict, data_dir: Path, rows: str) -> Split:
    check_keys(origin, keys, {key: kind for key, (kind, _) in SPLIT_KEYS.items()})
    sources = [key for key in ("annotation", "hub", "shards") if key in keys]
    if len(sources) != 1:
        raise InputError(f"{origin}: must have one of annotation, hub and shards, got {known(sources) or 'none'}.")
    for key, (_, other) in SPLIT_KEYS.items():
        if key in keys and other is not None and other not in keys:
            raise InputError(f"{origin}: `{key}` goes with `{other}`, which is missing.")
        if key in keys and key in CHOICES and keys[key] not in CHOICES[key]:
            raise InputError(f"{origin}: `{key}` must be one of {known(CHOICES[key])}, got {keys[key]!r:.200}.")
    if keys.get("weight", 1) <= 0:
        raise InputError(f"{origin}: `weight` must be above 0, got {keys['weight']}.")
    for column, name in keys.get("columns", {}).items():
        if column not in COLUMNS or not is_name_or_template(name):
            wanted = f"map some of {known(COLUMNS)} to a field or a template such as {{page_dir}}/{{videoid}}.mp4"
            raise InputError(f"{origin}: `columns` must {wanted}, got {column}: {name!r:.200}.")
    values = {"rows": rows} | keys
    for key in ("annotation", "videos"):
        if key in keys:
            values[key] = data_dir / keys[key]
    if "shards" in keys:
        patterns = [keys["shards"]] if isinstance(keys["shards"], str) else keys["shards"]
        values["shards"] = tuple(str(path) if "://" in str(path) else str(data_dir / str(path)) for path in patterns)
    if "hub" in keys and (data_dir / keys["hub"]).is_dir():
        values["hub"] = str(data_dir / keys["hub"])
    return Split(origin, **values)


def is_name_or_template(name) -> bool:
    try:
        parts = parts_of(name) if isinstance(name, str) else [""]
        return name != "" and all(part and not set(".[") & set(part) for part in parts)
    except ValueError:
        return False


def check_keys(origin: str, content, kinds: dict):
    """Raise an `InputError` for what is no mapping, for an unknown key, or for a value of a wrong type."""
    if not isinstance(content, dict):
        raise InputError(f"{origin}: must be a mapping with some of the keys {known(kinds)}, got {content!r:.200}.")
    for key, value in content.items():
        if key not in kinds:
            raise InputError(f"{origin}: there is no key `{key}`, but: {known(kinds)}.")
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            names = {str: "a string", int: "an integer", dict: "a mapping", (str, list): "a string or a list"}
            names[int, float] = "a number"
            raise InputError(f"{origin}: `{key}` must be {names[kinds[key]]}, got {value!r:.200}.")


def known(names) -> str:
    return ", ".join(names)


def use_preset(parser: HfArgumentParser, task: str, args: list[str] | None = None) -> Preset:
    """Make the settings of the dataset that the command line names the defaults of its parser; over them, `--config`.

    Where nothing is trained, a published dataset leaves `fusion_token_keep_rate` to the model: those of the original,
    which are converted with 1, have always seen all tokens in fusion, whatever its files say.

    Returns:
        The dataset, or one without splits where none is named.

    Raises:
        InputError: as [`load_preset`], and for a setting that the script has not, or of a wrong type.
    """
    names = ("dataset", "dataset_file", "data_dir", "config")
    first = argparse.ArgumentParser(add_help=False)
    for name in names:
        first.add_argument(f"--{name}", f"--{name.replace('_', '-')}")
    first.add_argument("--evaluate_only", "--evaluate-only", nargs="?", const=True, type=string_to_bool)
    chosen = vars(first.parse_known_args(args)[0])
    config = {} if chosen["config"] is None else read_yaml(Path(chosen["config"]))
    if not isinstance(config, dict):
        raise InputError(f"{chosen['config']}: must be a mapping of options to values, got {config!r:.200}.")
    dataset, file, data_dir = (chosen[name] or config.get(name) for name in ("dataset", "dataset_file", "data_dir"))
    if dataset is not None and file is not None:
        raise InputError("Give one of --dataset and --dataset_file.")
    preset = Preset("command line")
    if dataset is not None or file is not None:
        preset = load_preset(task, dataset or Path(file), data_dir)
    options = {}
    for action in parser._actions:
        if action.option_strings and action.dest not in ("help", "config"):
            options.setdefault(action.dest, action)
    # What comes with the data must not let it out of its folder.
    not_own = (*names, "allow_outside")
    own = {name: action for name, action in options.items() if not action.required and name not in not_own}
    settings = dict(preset.settings)
    evaluates_only = chosen["evaluate_only"] or config.get("evaluate_only") or "train" not in preset.splits
    if dataset is not None and evaluates_only:
        settings.pop("fusion_token_keep_rate", None)
    set_defaults(parser, own, preset.origin, settings)
    set_defaults(parser, options, chosen["config"], config)
    return preset


def set_defaults(parser: HfArgumentParser, options: dict[str, argparse.Action], origin: str, settings: dict):
    """Make settings the defaults of options; an `InputError` for one that is not among them."""
    for name, value in settings.items():
        if name not in options:
            raise InputError(f"{origin}: there is no setting `{name}`, but: {known(options)}.")
        if value is not None:
            parser.set_defaults(**{name: parse_setting(origin, options[name], value)})
            options[name].required = False


def parse_setting(origin: str, action: argparse.Action, value):
    """A value as the option of a parser would take it from the command line."""
    if isinstance(value, list) != (action.nargs in ("+", "*")):
        raise InputError(f"{origin}: setting `{action.dest}` must {'' if action.nargs else 'not '}be a list.")
    try:
        items = value if isinstance(value, list) else [value]
        parsed = [action.type(str(item)) for item in items]  # type: ignore[operator]
    except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
        raise InputError(f"{origin}: setting `{action.dest}` cannot be {value!r:.200}.") from error
    if action.choices is not None and not set(parsed) <= set(action.choices):
        choices = known(map(str, action.choices))
        raise InputError(f"{origin}: setting `{action.dest}` must be one of {choices}, got {value!r:.200}.")
    return parsed if isinstance(value, list) else parsed[0]
