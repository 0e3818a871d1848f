# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What a run leaves beside its model: settings that run it again, results, a card for the Hub."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .trainer import SViTTTrainer


def settings_of(groups: Sequence, preset_settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from their defaults or that the dataset sets, as `--config` takes them."""
    settings = {}
    for group in groups:
        given = getattr(group, "given", None) or vars(group)
        for one in fields(group):
            default = one.default if one.default_factory is MISSING else one.default_factory()
            value = given.get(one.name, default)
            is_unset = not value and default in (None, "", "no")  # as the parser makes of defaults
            if one.name in preset_settings or not (is_unset or value == default):
                settings[one.name] = value
    settings.pop("config", None)
    return settings


def write_settings(settings: Mapping[str, Any], folder: Path):
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def write_results(results: Mapping[str, Any], folder: Path):
    (folder / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")


def write_card(
    trainer: SViTTTrainer, results: Mapping[str, Mapping[str, float]], datasets: Sequence[str], base_model: str
):
    """Write README.md into the folder of a run, on the main process.

    Args:
        results: rows of the table, such as `"test, itm"`; those that a model need not learn for end in `chance` or
            `answer`.
        datasets, base_model: names on the Hub, or files and folders, of which the card tells the last name alone.
    """
    if not trainer.is_world_process_zero():
        return
    model, folder = trainer.model, Path(trainer.args.output_dir)
    model_id = trainer.hub_model_id or folder.absolute().name
    task = "visual-question-answering" if hasattr(model, "text_decoder") else "feature-extraction"
    figures = [(row, name, value) for row, values in results.items() for name, value in values.items()]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        license="mit",
        language="en",
        tags=[model.config.model_type, "video", "custom_code"],
        base_model=base_model if is_hub_name(base_model) else None,
        datasets=[name for name in datasets if is_hub_name(name)] or None,
        model_name=model_id,
        eval_results=[
            EvalResult(task, "custom", row, name, dataset_config=row, metric_value=round(float(value), 4))
            for row, name, value in figures
            if not row.endswith(("chance", "answer"))
        ]
        or None,
    )
    names = list(dict.fromkeys(name for _, name, _ in figures))
    rows = [
        [row, *(f"{values[name]:.2f}" if name in values else "" for name in names)] for row, values in results.items()
    ]
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).parent / "card.md"),
        model_id=model_id,
        config=model.config,
        args=trainer.args,
        answers=hasattr(model, "text_decoder"),
        sources=[name if is_hub_name(name) else Path(name).name for name in datasets],
        base_model=base_model if is_hub_name(base_model) else Path(base_model).name,
        table=[["", *names], *rows] if rows else [],
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        versions=", ".join(f"{package} {version(package)}" for package in ("svitt", "torch", "transformers")),
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def is_hub_name(name: str) -> bool:
    """Return whether this may name something on the Hub: neither a file or folder here, nor one with an ending."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists() and not Path(name).suffix
