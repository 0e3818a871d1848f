# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What a run leaves beside its model: settings that run it again, results, a card for the Hub, where it publishes."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData

from ..distributed import write_whole
from ..evaluation.clips import in_words
from .trainer import SViTTTrainer

# Of a run's folder, what is published: other files tell about the data and the machine.
PUBLISHED = ["README.md", "*.py", "*config.json", "tokenizer*", "*.txt", "model*.safetensors", "answer_list.json"]


def write_settings(settings: Mapping[str, Any], folder: Path):
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def write_results(trainer: SViTTTrainer, results: dict[str, Any], ranked: dict[str, Any]):
    """Write results.json, with what was ranked, and the epoch and the update that the model is of if it was trained."""
    facts = {"num_processes": trainer.args.world_size, "ranked": ranked}
    if trainer.train_loader is not None:
        facts |= {"epoch": trainer.best_epoch, "step": trainer.best_step}
    text = json.dumps(facts | results, indent=2)
    write_whole(trainer.args.output_dir, lambda folder: (folder / "results.json").write_text(text, encoding="utf-8"))


def describe_and_publish(
    trainer: SViTTTrainer,
    results: Mapping[str, Mapping[str, Mapping[str, float]]],
    ranked: Mapping[str, dict[str, int]],
    datasets: Sequence[str],
    base_model: str,
):
    """Write README.md into the folder of a run, and publish the folder with `push_to_hub`; on the main process.

    Args:
        results: figures by split, kind and name; kinds that end in `chance` or `answer` are what a model need not learn
            for.
        ranked: by split, what was ranked.
        datasets, base_model: names on the Hub, or files and folders, of which the card tells the last name alone.
    """
    if not trainer.is_world_process_zero():
        return
    rows = {f"{split}, {kind}": values for split, kinds in results.items() for kind, values in kinds.items()}
    model, folder = trainer.model, Path(trainer.args.output_dir)
    model_id, answers = trainer.hub_model_id or folder.absolute().name, hasattr(model, "text_decoder")
    task = "visual-question-answering" if answers else "feature-extraction"
    evaluations = [
        EvalResult(task, "custom", row, name, dataset_config=row, metric_value=round(float(value), 4))
        for row, values in rows.items()
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
        results=rows,
        ranked=[f"{split}: {in_words(numbers)}" for split, numbers in ranked.items()],
        names=list(dict.fromkeys(name for values in rows.values() for name in values)),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        versions=", ".join(f"{package} {version(package)}" for package in ("svitt", "torch", "transformers")),
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")
    if trainer.args.push_to_hub:
        commit = HfApi(token=trainer.args.hub_token).upload_folder(
            repo_id=model_id,
            folder_path=folder,
            allow_patterns=PUBLISHED,
            ignore_patterns=["*/*"],
            commit_message="Upload model",
            revision=trainer.args.hub_revision,
        )
        print(commit)


def hub_name(name: str) -> str | None:
    """Return what may be a name on the Hub: neither a file or folder here, nor with an ending."""
    is_one = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() and not Path(name).suffix
    return name if is_one else None
