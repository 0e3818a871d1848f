# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Where training starts: at a SViTT, also of other clips, at towers of video and text, or at random weights."""

from dataclasses import dataclass, field

from transformers import PreTrainedModel

from ..configuration_svitt import SViTTConfig
from ..conversion import (
    decoder_from_fusion_layers,
    expanded,
    image_statistics,
    init_from_towers,
    load_model_and_processor,
    load_tokenizer,
    loading,
    make_processor,
    parse_fields,
    special_token_ids,
    with_fields,
)
from ..data.loaders import ProcessingArguments
from ..errors import ArgumentError, InputError, check_number
from ..modeling_svitt import SViTTForVideoQuestionAnswering
from ..processing_svitt import SViTTProcessor


@dataclass
class DroppingArguments:
    """How many video tokens stay."""

    _argument_group_name = "token dropping"

    token_keep_rate: float | None = field(
        default=None, metadata={"help": "Share of video tokens kept at each drop; by default the model's own."}
    )
    fusion_token_keep_rate: float | None = field(
        default=None, metadata={"help": "The same, of the video tokens that the text looks at."}
    )

    def __post_init__(self):
        for name, rate in vars(self).items():
            if rate is not None and not 0 < rate <= 1:
                raise ArgumentError(name, f"must be above 0 and at most 1, got {rate:g}")

    def as_fields(self) -> dict[str, dict]:
        """Return the fields of the configurations of vision and text that are given."""
        rates = {"vision_config": self.token_keep_rate, "text_config": self.fusion_token_keep_rate}
        return {part: {"token_keep_rate": rate} for part, rate in rates.items() if rate is not None}


@dataclass
class StartArguments:
    """What to start from: one of a SViTT, two towers, and a configuration."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub name of a SViTT; for other --num_frames, its biases are inflated in time."},
    )
    vision_name_or_path: str | None = field(default=None, metadata={"help": "Folder or Hub name of a BEiT."})
    text_name_or_path: str | None = field(default=None, metadata={"help": "Folder or Hub name of a BERT."})
    config_name: str | None = field(
        default=None, metadata={"help": "Folder or Hub name of a SViTT's configuration, to start from random weights."}
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub name of a tokenizer; by default that of the model or of the BERT."},
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Of clips, with towers: by default that of the BEiT."}
    )
    vision_config: list[str] = field(
        default_factory=list,
        metadata={"help": "FIELD=VALUE of SViTTVisionConfig, values in JSON, such as sparse_random_attn=5."},
    )
    text_config: list[str] = field(default_factory=list, metadata={"help": "FIELD=VALUE of SViTTTextConfig."})
    model_config: list[str] = field(
        default_factory=list, metadata={"help": "FIELD=VALUE of SViTTConfig, such as embed_dim=128."}
    )

    def check(self):
        """Raise an `InputError` unless there is one start."""
        towers = [self.vision_name_or_path, self.text_name_or_path]
        if sum(map(bool, [self.model_name_or_path, any(towers), self.config_name])) != 1 or any(towers) != all(towers):
            raise InputError(
                "Give one of model_name_or_path (a SViTT), vision_name_or_path with text_name_or_path (a BEiT and a "
                "BERT), and config_name (random weights)."
            )

    def as_fields(self) -> dict:
        """Return fields of a `SViTTConfig`, those of vision and text as dicts."""
        parts = {"vision_config": parse_fields(self.vision_config), "text_config": parse_fields(self.text_config)}
        return parse_fields(self.model_config) | parts


def start_training(
    model_class: type[PreTrainedModel],
    start: StartArguments,
    dropping: DroppingArguments,
    processing: ProcessingArguments,
    **fields,
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """Return a model in float32 for clips of `processing.num_frames` frames (default: its own), and its processor.

    An answer decoder that the start has not begins as its fusion layers. `fields` of the `SViTTConfig` go before those
    of `start`.

    Raises:
        InputError: if the start is not found, damaged or incomplete, or a field does not fit.
    """
    start.check()
    fields = start.as_fields() | fields
    for part, values in dropping.as_fields().items():
        fields[part] = fields[part] | values
    num_frames, max_text_length = processing.num_frames, processing.max_text_length
    if start.model_name_or_path is not None:
        return from_svitt(model_class, start.model_name_or_path, num_frames, max_text_length, fields)

    towers, statistics = (start.vision_name_or_path, start.text_name_or_path), {}
    with loading(start.config_name or start.text_name_or_path):
        tokenizer = load_tokenizer(start.tokenizer_name or start.config_name or start.text_name_or_path)
        fields["text_config"] = special_token_ids(tokenizer) | fields["text_config"]
        if start.config_name is None:
            num_frames = num_frames or SViTTConfig().vision_config.num_frames
            model = init_from_towers(*towers, num_frames=num_frames, image_size=start.image_size, **fields)
            model = as_class(model_class, model)
            statistics = image_statistics(start.vision_name_or_path)
        else:
            if num_frames is not None:
                fields["vision_config"] = fields["vision_config"] | {"num_frames": num_frames}
            model = model_class(with_fields(SViTTConfig.from_pretrained(start.config_name), fields))
    check_number("max_text_length", max_text_length, 2, model.config.text_config.max_position_embeddings)
    if max_text_length is not None:  # where `from_pretrained(..., max_length=...)` puts it too
        tokenizer.init_kwargs["max_length"] = max_text_length
    return model, make_processor(model.config, tokenizer, **statistics)


def from_svitt(
    model_class: type[PreTrainedModel], path: str, num_frames: int | None, max_text_length: int | None, fields: dict
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """Load a saved model with some fields of its configuration changed, inflated or shortened in time."""
    source_class = None if model_class is SViTTForVideoQuestionAnswering else model_class
    model, processor = load_model_and_processor(
        path, source_class, num_frames=num_frames, max_text_length=max_text_length
    )
    with loading(path):
        model = as_class(model_class, model)
        return expanded(model, num_frames or model.config.vision_config.num_frames, fields), processor


def as_class(model_class: type[PreTrainedModel], source: PreTrainedModel) -> PreTrainedModel:
    """Return a model of another class with the weights of `source`.

    The answer decoder begins as the fusion layers, as the original's does. Where video and text are not equally wide,
    its cross-attention keys and values are new.
    """
    if type(source) is model_class:
        return source
    model, weights = model_class(source.config), source.state_dict()
    if model_class is SViTTForVideoQuestionAnswering:
        weights |= decoder_from_fusion_layers(weights, source.config.text_config.fusion_layer)
    own = model.state_dict()
    fitting = {name: weights[name] for name in own if name in weights and weights[name].shape == own[name].shape}
    model.load_state_dict(fitting, strict=False)
    return model
