# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Where training starts: at a SViTT, also of other clips, at towers of video and text, or at random weights."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments
from transformers.hf_argparser import HfArg

from ..configuration_svitt import SViTTConfig
from ..conversion import converted, load_model_and_processor, parse_fields
from ..conversion.loading import (
    in_one_sentence,
    load_tokenizer,
    loading,
    make_processor,
    merged,
    special_token_ids,
    with_fields,
)
from ..conversion.original import decoder_from_fusion_layers
from ..conversion.positions import expanded
from ..data.loaders import ProcessingArguments
from ..data.presets import Split
from ..errors import ArgumentError, InputError, check_number
from ..modeling_svitt import SViTTForVideoQuestionAnswering
from ..processing_svitt import SViTTProcessor


@dataclass
class ConfigArguments:
    """Fields of the model's configuration to change."""

    _argument_group_name = "configuration of the model"

    token_keep_rate: float | None = HfArg(
        default=None, help="Share of video tokens kept at each drop; by default the model's own."
    )
    fusion_token_keep_rate: float | None = HfArg(
        default=None, help="The same, of the video tokens that the text looks at."
    )
    vision_config: list[str] = HfArg(
        default_factory=list, help="FIELD=VALUE of SViTTVisionConfig, values in JSON, such as sparse_random_attn=5."
    )
    text_config: list[str] = HfArg(default_factory=list, help="FIELD=VALUE of SViTTTextConfig.")
    model_config: list[str] = HfArg(default_factory=list, help="FIELD=VALUE of SViTTConfig, such as itm_list_size=16.")

    def fields(self) -> dict[str, Any]:
        """Return the fields of [`SViTTConfig`] that were given, of its parts as dicts."""
        parts = {"vision_config": parse_fields(self.vision_config), "text_config": parse_fields(self.text_config)}
        rates = {"vision_config": self.token_keep_rate, "text_config": self.fusion_token_keep_rate}
        rates = {part: {"token_keep_rate": rate} for part, rate in rates.items() if rate is not None}
        with in_one_sentence("--model_config, --vision_config or --text_config does not fit"):
            fields = merged(merged(parse_fields(self.model_config), parts), rates)
        for name in ("num_frames", "image_size"):
            if not isinstance(number := fields["vision_config"].get(name, 1), int):
                raise ArgumentError("vision_config", f"{name} must be a whole number, got {number!r}")
        return fields


@dataclass(kw_only=True)
class FineTuningArguments:
    """What to do."""

    _argument_group_name = "task"

    evaluate_only: bool = HfArg(default=False, help="Do not train, even on a split `train`.")
    stop_key: str | None = HfArg(
        default=None, help="Split whose best r_mean or accuracy picks the epoch to keep: `validation` if any."
    )

    def plan(
        self, splits: Mapping[str, Split], eval_splits: Collection[str], args: TrainingArguments
    ) -> tuple[Split | None, str | None]:
        """Return the split to train on, if any, and the name of that to stop by, if any.

        Raises:
            InputError: where there is nothing to train or to evaluate, nothing to publish, or no such split.
        """
        training = None if self.evaluate_only else splits.get("train")
        if training is None and not eval_splits:
            raise InputError("There is nothing to do: give --dataset, --train_file to train, --test_file to evaluate.")
        if training is None and args.push_to_hub:
            raise InputError("--push_to_hub: publishes a model that was trained, but nothing is trained here.")
        stop_key = self.stop_key or ("validation" if "validation" in eval_splits else None)
        check_stop_key(stop_key, eval_splits)
        return training, stop_key


def check_stop_key(stop_key: str | None, splits: Collection[str]):
    if stop_key is not None and stop_key not in splits:
        raise ArgumentError("stop_key", f"must be one of the splits {', '.join(splits) or '(none)'}, got {stop_key}")


@dataclass
class StartArguments:
    """What to start from: one of a SViTT, two towers, and a configuration."""

    _argument_group_name = "model"

    model_name_or_path: str | None = HfArg(
        default=None, help="Folder or Hub name of a SViTT; for other --num_frames, its biases are inflated in time."
    )
    vision_name_or_path: str | None = HfArg(default=None, help="Folder or Hub name of a BEiT.")
    text_name_or_path: str | None = HfArg(default=None, help="Folder or Hub name of a BERT.")
    config_name: str | None = HfArg(
        default=None, help="Folder or Hub name of a SViTT's configuration, to start from random weights."
    )
    image_size: int | None = HfArg(default=None, help="Pixels along a side of clips: by default the start's own.")

    def __post_init__(self):
        towers = [self.vision_name_or_path, self.text_name_or_path]
        if sum(map(bool, [self.model_name_or_path, any(towers), self.config_name])) != 1 or any(towers) != all(towers):
            raise InputError(
                "Give one of model_name_or_path (a SViTT), vision_name_or_path with text_name_or_path (a BEiT and a "
                "BERT), and config_name (random weights)."
            )

    @property
    def name(self) -> str:
        """Name of the model, video tower or configuration."""
        return self.model_name_or_path or self.vision_name_or_path or self.config_name


def start_training(
    model_class: type[PreTrainedModel],
    start: StartArguments,
    config: ConfigArguments,
    processing: ProcessingArguments,
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """Return a model in float32 for clips of `processing.num_frames` frames (default: its own), and its processor.

    An answer decoder that the start has not begins as its fusion layers.

    Raises:
        InputError: if the start is not found, damaged or incomplete, or a field does not fit.
    """
    given = {"num_frames": processing.num_frames, "image_size": start.image_size}
    given = {name: number for name, number in given.items() if number is not None}
    fields, max_text_length = merged(config.fields(), {"vision_config": given}), processing.max_text_length
    num_frames, image_size = map(fields["vision_config"].get, ("num_frames", "image_size"))

    if start.model_name_or_path is not None:
        # The decoder of answers is made of what was saved; other heads are loaded where there are any.
        source_class = None if model_class is SViTTForVideoQuestionAnswering else model_class
        model, processor = load_model_and_processor(
            start.model_name_or_path, source_class, num_frames=num_frames, max_text_length=max_text_length
        )
        with loading(start.model_name_or_path):
            return expanded(as_class(model_class, model), processor, fields)

    if start.config_name is not None:
        with loading(start.config_name):
            tokenizer = load_tokenizer(start.config_name)
            saved = SViTTConfig.from_pretrained(start.config_name)
            model = model_class(with_fields(saved, merged({"text_config": special_token_ids(tokenizer)}, fields)))
            processor = make_processor(model.config, tokenizer)
    else:
        towers = start.vision_name_or_path, start.text_name_or_path
        model, processor = converted(*towers, num_frames=num_frames, image_size=image_size, **fields)
        model = as_class(model_class, model)
    check_number("max_text_length", max_text_length, 2, model.config.text_config.max_position_embeddings)
    if max_text_length is not None:  # where `from_pretrained(..., max_length=...)` puts it too
        processor.tokenizer.init_kwargs["max_length"] = max_text_length
    # A new model sees frames as people do; converted ones have learnt from frames as they are stored.
    processor.video_processor.square_pixels = True
    return model, processor


def as_class(model_class: type[PreTrainedModel], source: PreTrainedModel) -> PreTrainedModel:
    """Return a model of another class with the weights of `source`; Transformers lists those that are new.

    The answer decoder begins as the fusion layers, as the original's does. Where video and text are not equally wide,
    its cross-attention keys and values are new.
    """
    if type(source) is model_class:
        return source
    weights = source.state_dict()
    if model_class is SViTTForVideoQuestionAnswering:
        weights |= decoder_from_fusion_layers(weights, source.config.text_config.fusion_layer)
    weights = {name: tensor.clone() for name, tensor in weights.items()}  # else decoder and encoder share memory
    return model_class.from_pretrained(
        None, config=source.config, state_dict=weights, dtype=torch.float32, ignore_mismatched_sizes=True
    )
