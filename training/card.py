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


def describe_and_publish(
    trainer: SViTTTrainer, results: Mapping[str, Mapping[str, float]], datasets: Sequence[str], base_model: str
):
    """Write README.md into the folder of a run, and publish the folder with `push_to_hub`; on the main process.

    Args:
        results: rows of the table, such as `"test, itm"`; those that a model need not learn for end in `chance` or
            `answer`.
        datasets, base_model: names on the Hub, or files and folders, of which the card tells the last name alone.
    """
    if not trainer.is_world_process_zero():
        return
    model, folder = trainer.model, Path(trainer.args.output_dir)
    model_id, answers = trainer.hub_model_id or folder.absolute().name, hasattr(model, "text_decoder")
    task = "visual-question-answering" if answers else "feature-extraction"
    evaluations = [
        EvalResult(task, "custom", row, name, dataset_config=row, metric_value=round(float(value), 4))
        for row, values in results.items()
        for name, value in values.items()
        if not row.endswith(("chance", "answer"))
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        license="mit",
        language="en",
        tags=[model.config.model_type, "video", "custom_code"],
        base_model=hub_name(base_model),
        datasets=list(filter(None, map(hub_name, datasets))) or None,
        model_name=model_id,
        eval_results=evaluations or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).parent / "card.md"),
        model_id=model_id,
        config=model.config,
        args=trainer.args,
        answers=answers,
        sources=[hub_name(name) or Path(name).name for name in datasets],
        base_model=hub_name(base_model) or Path(base_model).name,
        results=results,
        names=list(dict.fromkeys(name for values in results.values() for name in values)),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        versions=", ".join(f"{package} {version(package)}" for package in ("svitt", "torch", "transformers")),
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")
    if trainer.args.push_to_hub:
        print(trainer.push_to_hub())


def hub_name(name: str) -> str | None:
    """Return what may be a name on the Hub: neither a file or folder here, nor with an ending."""
    is_one = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() and not Path(name).suffix
    return name if is_one else None
