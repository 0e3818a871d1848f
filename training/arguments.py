# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""All options of a script: parsed in groups, and written down so that `--config settings.yaml` runs them again."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar

import yaml
from accelerate import Accelerator
from transformers import HfArgumentParser

from .processes import InputError


@dataclass
class ArgumentGroup:
    """Base of a group of options; an `InputError` for a number below what `at_least` says, or NaN."""

    at_least: ClassVar[dict[str, float]] = {}

    def __post_init__(self):
        for name, bound in self.at_least.items():
            value = getattr(self, name)
            if value is not None and not value >= bound:
                raise InputError(f"--{name} {value:g}: must be at least {bound:g}.")


@dataclass
class ScriptArguments:
    """Base of a dataclass whose fields are groups of options, dataclasses themselves."""

    @classmethod
    def make_parser(cls, description: str) -> HfArgumentParser:
        return HfArgumentParser([group.type for group in fields(cls)], description=description)

    @classmethod
    def parse(cls, parser: HfArgumentParser) -> "ScriptArguments":
        return cls(*parser.parse_args_into_dataclasses())

    def options(self) -> dict:
        """By the names of the command line, without `config`, which they come from."""
        options = {name: value for group in asdict(self).values() for name, value in group.items()}
        return {name: value for name, value in options.items() if name != "config"}

    def save(self, folder: Path):
        """Write `settings.yaml`."""
        (folder / "settings.yaml").write_text(yaml.safe_dump(self.options(), sort_keys=False), encoding="utf-8")

    def start_trackers(self, accelerator: Accelerator):
        accelerator.init_trackers("svitt", {name: str(value) for name, value in self.options().items()})
