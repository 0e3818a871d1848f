# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The model card that a run writes: what the model is, how to use it, and how it was trained."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from accelerate import PartialState
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import AutoConfig, PreTrainedConfig

PACKAGES = ("svitt", "torch", "transformers", "accelerate", "datasets")
# From the root or the home folder, or out of the working directory; not the // of an address and what follows.
MACHINE_PATH = re.compile(r"(?:(?<=file://)|(?<![\w./~-]))(?!//)(?:~|\.\.)?/[^\s'\",;=]+")


class Use(NamedTuple):
    """What a model of some class is for: an example, and a sentence about the table of results."""

    pipeline_tag: str
    metric: str
    auto_class: str
    text: str | None  # beside the video
    last_line: str
    note: str


COMPARE = Use(
    "feature-extraction",
    "recall",
    "AutoModel",
    "a red circle moves right",
    "print(model(**inputs).logits_per_video)  # cosine over temperature; `model.match` compares more closely",
    "In percent. `txt_r1`, `txt_r5`, `txt_r10`: how often a right text is among the first 1, 5 or 10 for a video; "
    "`img_r*`: a right video for a text; `*r_mean`: means of these.",
)
ANSWER = Use(
    "visual-question-answering",
    "accuracy",
    "AutoModelForVisualQuestionAnswering",
    "what moves right?",
    "print(processor.batch_decode(model.generate(**inputs, max_new_tokens=5), skip_special_tokens=True))",
    "In percent. An answer is right if an annotator gave exactly the same.",
)
CLASSIFY = Use(
    "video-classification",
    "accuracy",
    "AutoModelForVideoClassification",
    None,
    "print(model.config.id2label[model(**inputs).logits.argmax().item()])",
    "In percent.",
)
USES = {
    "SViTTModel": COMPARE,
    "SViTTForVideoTextRetrieval": COMPARE,
    "SViTTForPreTraining": COMPARE,
    "SViTTForVideoQuestionAnswering": ANSWER,
    "SViTTForVideoClassification": CLASSIFY,
}

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

{{ summary }}

SViTT ([CVPR 2023](https://arxiv.org/abs/2304.08809)) is a video-text transformer that can afford long clips because it
attends to only a small part of each: every query sees a few blocks of keys, and the least important tokens are dropped
layer by layer. This model reads {{ vision.num_frames }} frames of a video, each {{ vision.image_size }} pixels wide and
high.

## How to use it

This needs `torch`, `transformers`, `av`, `pillow` and `numpy`.

```python
import torch
from transformers import {{ use.auto_class }}, AutoProcessor

model = {{ use.auto_class }}.from_pretrained("{{ model_id }}", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("{{ model_id }}", trust_remote_code=True)
inputs = processor(videos=["video.mp4"]{% if use.text %}, text=["{{ use.text }}"]{% endif %}, return_tensors="pt")
with torch.no_grad():
    {{ use.last_line }}
```

## Training

- Data: {{ datasets | join(", ") or "not named" }}
- Started from: {{ base_model or "random weights" }}
- Hardware: {{ hardware }}
- Versions: {{ versions }}
{% if command %}
```bash
{{ command }}
```
{% endif %}{% if settings %}
<details><summary>All settings</summary>

```yaml
{{ settings }}
```

</details>
{% endif %}{% if losses %}
## Losses

{{ losses }}
{% endif %}{% if results %}
## Results

{{ results }}

{{ use.note }}
{% endif %}
## Limits

- It sees {{ vision.num_frames }} frames of a video, however long the video is, and hears nothing.
- It has learnt the gaps and biases of its training data, which nobody has examined. Don't let it make decisions about
  people.
- All numbers come from a single run.

## Citation

```bibtex
@inproceedings{li2023svitt,
  title = {{ "{{SViTT}: Temporal Learning of Sparse Video-Text Transformers}" }},
  author = {Li, Yi and Min, Kyle and Tripathi, Subarna and Vasconcelos, Nuno},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2023}
}
```

## License

MIT, like the code. The training data and the weights that training started from have their own terms.
"""


def write_card(
    folder: str | Path,
    title: str,
    summary: str,
    settings: Mapping[str, Any],
    results: Mapping[str, Mapping[str, float]],
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    losses: Sequence[Mapping[str, float]] = (),
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    model_id: str | None = None,
    command: Sequence[str] | None = None,
) -> Path:
    """Write README.md into the folder of a saved model. Call it on the main process.

    Paths of this machine become relative to the working directory, or bare names if they lie outside it.

    Args:
        folder: has the model's config.json.
        title: headline.
        summary: what the model was trained for, in a sentence or two.
        settings: resolved arguments: paths, or values that YAML can hold.
        results: the metrics of each evaluation, such as `"msrvtt test, zero-shot"`; each makes a row of a table.
        baselines: rows of the same table that are not the model's own, such as chance.
        losses: a row for each epoch, such as `{"epoch": 1, "loss": 2.5}`.
        datasets: names on the Hub, other names, or files.
        base_model: name or folder of the model that training started from.
        model_id: name on the Hub; defaults to the folder's name.
        command: words of the command line; by default this process's.

    Returns:
        The file.

    Raises:
        KeyError: if the model is of a class that is not in `USES`.
    """
    folder = Path(folder)
    config = AutoConfig.from_pretrained(folder)
    use = USES[config.architectures[0]]
    model_id = model_id or folder.resolve().name
    base_model = None if base_model is None else without_machine_paths(str(base_model))
    datasets = [without_machine_paths(str(dataset)) for dataset in datasets]
    card = ModelCard.from_template(
        card_metadata(config, use, model_id, results, datasets, base_model),
        template_str=TEMPLATE,
        title=title,
        summary=summary,
        vision=config.vision_config,
        use=use,
        model_id=model_id,
        datasets=datasets,
        base_model=base_model,
        hardware=describe_hardware(),
        versions=", ".join(f"{package} {version(package)}" for package in PACKAGES),
        command=shlex.join(without_machine_paths(sys.argv if command is None else list(command))),
        settings=yaml.safe_dump(without_machine_paths(dict(settings)), sort_keys=False, allow_unicode=True).strip(),
        losses=table([{name: f"{value:g}" for name, value in row.items()} for row in losses]),
        results=table(
            [
                {"": name} | {metric: f"{value:.2f}" for metric, value in row.items()}
                for name, row in (dict(results) | dict(baselines or {})).items()
            ]
        ),
    )
    path = folder / "README.md"
    path.write_text(str(card), encoding="utf-8")
    return path


def card_metadata(
    config: PreTrainedConfig,
    use: Use,
    model_id: str,
    results: Mapping[str, Mapping[str, float]],
    datasets: Sequence[str],
    base_model: str | None,
) -> ModelCardData:
    """The YAML header, by which the Hub finds a model. Only datasets and models of the Hub may be named in it."""
    on_hub = [dataset for dataset in datasets if is_hub_name(dataset)]
    evaluations = [
        EvalResult(
            task_type=use.pipeline_tag,
            dataset_type=on_hub[0] if on_hub else "custom",
            dataset_name=name,
            dataset_config=name,  # else rows would be joined under the name of the first
            metric_type=metric,
            metric_value=round(float(value), 4),
        )
        for name, row in results.items()
        for metric, value in row.items()
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=use.pipeline_tag,
        license="mit",
        language="en",
        tags=[config.model_type, "video", "custom_code"],
        datasets=on_hub or None,
        base_model=base_model if base_model and is_hub_name(base_model) else None,
        metrics=[use.metric] if results else None,
        model_name=model_id,
        eval_results=evaluations or None,
    )


def is_hub_name(name: str) -> bool:
    """Whether this may name something on the Hub: neither a file or folder here, nor one with a file's ending."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists() and not re.search(r"\.(json|jsonl|csv|yaml|tar|parquet)$", name)


def without_machine_paths(value: Any) -> Any:
    """A copy that YAML can hold and whose paths tell nothing about the machine: relative to here, or bare names."""
    if isinstance(value, Mapping):
        return {str(name): without_machine_paths(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [without_machine_paths(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    option, equals, path = str(value).rpartition("=")
    if MACHINE_PATH.match(path):  # spaces belong to it
        return option + equals + shown_path(path)
    return MACHINE_PATH.sub(lambda match: shown_path(match[0]), str(value))


def shown_path(path: str) -> str:
    """A path relative to the working directory if it lies inside, else its name."""
    resolved, here = Path(path).expanduser().absolute(), Path.cwd()
    return str(resolved.relative_to(here)) if resolved.is_relative_to(here) and ".." not in path else resolved.name


def describe_hardware() -> str:
    """How many processes ran on which device."""
    state = PartialState()
    name = torch.cuda.get_device_name(state.device) if state.device.type == "cuda" else state.device.type.upper()
    return f"{state.num_processes} process{'es' if state.num_processes > 1 else ''} on {name}"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of cells by column name as a Markdown table; missing cells are empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)]] if rows else []
    lines += [[row.get(column, "") for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
