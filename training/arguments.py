# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""All options of a script: parsed in groups, and written down so that `--config settings.yaml` runs them again."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml
from accelerate import Accelerator
from transformers import HfArgumentParser


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
