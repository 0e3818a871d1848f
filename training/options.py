# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Options of the scripts: dataclasses as in Transformers' examples, over the settings of a dataset, over a file."""

import argparse
import dataclasses
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Literal, get_origin

from transformers import HfArgumentParser, TrainingArguments

from ..data.presets import Preset, check_mapping, load_preset, read_yaml
from ..errors import CommandLine, InputError

# Of Trainer's options, these are explained by --help; --help-all explains the others, too.
SHOWN = """
    output_dir learning_rate num_train_epochs warmup_epochs per_device_train_batch_size gradient_accumulation_steps
    max_grad_norm bf16 activation_checkpointing resume_from_checkpoint dataloader_num_workers seed report_to push_to_hub
"""
NOT_OF_A_DATASET = ("dataset", "dataset_file", "data_dir", "config", "allow_outside")
NAME_WIDTH = 32  # columns of help


class TaskParser(HfArgumentParser, CommandLine):
    """Parser of a script, from dataclasses of options; `--help` is short."""

    def __init__(self, *groups: type, **kwargs):
        HfArgumentParser.__init__(self, groups, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        self.add_argument("--help-all", action=HelpAll, nargs=0, dest=argparse.SUPPRESS)

    def options(self) -> list[str]:
        return [option.name for group in self.dataclass_types for option in fields(group) if option.init]

    def format_help(self, is_all: bool = False) -> str:
        """Return what options mean, by group; of Trainer's those that are `SHOWN`, unless all are wanted."""
        required = [option for group in self.dataclass_types for option in fields(group) if is_required(option)]
        usage = " ".join(f"--{option.name} ..." for option in required)
        lines = [f"usage: {self.prog} {usage} [options]", "", (self.description or "").strip()]
        for group in self.dataclass_types:
            is_trainers = issubclass(group, TrainingArguments)
            shown = SHOWN.split() if is_trainers and not is_all else [option.name for option in fields(group)]
            lines += ["", f"{getattr(group, '_argument_group_name', 'training')}:"]
            lines += [line for option in fields(group) if option.name in shown for line in explained(option)]
        if not is_all:
            lines += ["", f"More options of transformers.TrainingArguments: {self.prog} --help-all"]
        return "\n".join(lines) + "\n"


class HelpAll(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        print(parser.format_help(is_all=True), end="")
        parser.exit()


def is_required(option: dataclasses.Field) -> bool:
    return option.default is MISSING and option.default_factory is MISSING


def explained(option: dataclasses.Field) -> list[str]:
    """Return lines of help on an option: its name, what it means, its choices and its default."""
    name = f"--{option.name}" if option.default is not True else f"--{option.name}, --no_{option.name}"
    help, default = " ".join(str(option.metadata.get("help", "")).split()), option.default
    if get_origin(option.type) is Literal:
        help += f" One of {', '.join(option.type.__args__)}."
    if default not in (MISSING, None, False, ""):
        help += f" (default: {default})"
    width = min(shutil.get_terminal_size().columns, 120)
    start = f"  {name}".ljust(NAME_WIDTH)
    return textwrap.wrap(f"{start} {help}", width, subsequent_indent=" " * (NAME_WIDTH + 1))


def parse_options(
    groups: Sequence[type], task: str, description: str | None = None, args: list[str] | None = None
) -> tuple[Preset, tuple]:
    """Parse a command line into dataclasses, over the options in the file of --config, over the dataset's settings.

    Where nothing is trained, a published dataset leaves `fusion_token_keep_rate` to the model: those of the original,
    which are converted with 1, have always seen all tokens in fusion, whatever its files say.

    Returns:
        The dataset, or one without splits where none is named, with all settings of the run that are not defaults or
        that it sets; and the dataclasses.

    Raises:
        InputError: as [`load_preset`], and for a setting that the script has not.
    """
    parser, first = TaskParser(*groups, description=description), argparse.ArgumentParser(add_help=False)
    first.add_argument("--config")
    args = sys.argv[1:] if args is None else args
    if config := first.parse_known_args(args)[0].config:
        args = words_of(parser, config, read_yaml(Path(config))) + args
    chosen = parser.parse_known_args(args)[0]
    if chosen.dataset and chosen.dataset_file:
        raise InputError("Give one of --dataset and --dataset_file.")
    preset = Preset("command line")
    if chosen.dataset or chosen.dataset_file:
        preset = load_preset(task, chosen.dataset or Path(chosen.dataset_file), chosen.data_dir)
        settings = dict(preset.settings)
        if chosen.dataset and (getattr(chosen, "evaluate_only", False) or "train" not in preset.splits):
            settings.pop("fusion_token_keep_rate", None)
        # What comes with the data must not let it out of its folder.
        args = words_of(parser, preset.origin, settings, NOT_OF_A_DATASET) + args
    given = vars(parser.parse_known_args(args)[0])
    settings = {name: value for name, value in given.items() if value != parser.get_default(name)}
    settings |= {name: given[name] for name in preset.settings}
    settings.pop("config", None)
    return dataclasses.replace(preset, settings=settings), parser.parse_args_into_dataclasses(args)


def words_of(parser: TaskParser, origin: str, settings: dict, refused: Sequence[str] = ("config",)) -> list[str]:
    """Return settings as words of a command line; raise an `InputError` for one that its parser has not."""
    words = []
    options = [name for name in parser.options() if name not in refused]
    for name, value in check_mapping(origin, settings, options).items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            words.append(f"--{name}={value}")
    return words
