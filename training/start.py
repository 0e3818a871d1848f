# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What training starts from: a SViTT, also of other clips, or towers of video and text, or random weights."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedModel

from ..configuration_svitt import SViTTConfig
from ..conversion import (
    BAD_MODEL,
    check_settings,
    decoder_from_fusion_layers,
    expand_num_frames,
    image_statistics,
    init_from_towers,
    load_complete,
    load_processor,
    load_tokenizer,
    make_processor,
    model_of,
    parse_field,
    reason_of,
    special_token_ids,
)
from ..data.loaders import ProcessingArguments
from ..errors import InputError
from ..evaluation.clips import check_length
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
        for name, rate in (("token", self.token_keep_rate), ("fusion_token", self.fusion_token_keep_rate)):
            if rate is not None and not 0 < rate <= 1:
                raise InputError(f"--{name}_keep_rate {rate}: must be above 0 and at most 1.")

    def as_fields(self) -> dict[str, dict]:
        """Of the configurations of vision and text, those given."""
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

    def sources(self) -> list[str]:
        towers = self.vision_name_or_path or self.text_name_or_path
        return [source for source in (self.model_name_or_path, towers, self.config_name) if source]

    def as_fields(self) -> dict:
        """Fields of a `SViTTConfig`, those of vision and text as dicts."""
        try:
            fields = {part: dict(map(parse_field, getattr(self, part))) for part in ("vision_config", "text_config")}
            return dict(map(parse_field, self.model_config)) | fields
        except argparse.ArgumentTypeError as error:
            raise InputError(f"--vision_config, --text_config, --model_config: {error}.") from error


def start_training(
    model_class: type[PreTrainedModel],
    start: StartArguments,
    dropping: DroppingArguments,
    args: ProcessingArguments,
    **fields,
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """A model in float32 for clips of `args.num_frames` frames (by default its own), and its processor.

    An answer decoder that the start has not begins as its fusion layers. `fields` of the `SViTTConfig` go before those
    of `start`.

    Raises:
        InputError: if there is not one source, it is not found, or a field does not fit.
    """
    if len(start.sources()) != 1 or (start.vision_name_or_path is None) != (start.text_name_or_path is None):
        raise InputError(
            "Give one of --model_name_or_path (a SViTT), --vision_name_or_path with --text_name_or_path (a BEiT and a "
            "BERT), and --config_name (random weights)."
        )
    fields = start.as_fields() | fields
    for part, values in dropping.as_fields().items():
        fields[part] = fields[part] | values
    towers = (start.vision_name_or_path, start.text_name_or_path)
    for name in (start.model_name_or_path, start.config_name, *towers):
        check_folder(name)
    source = start.model_name_or_path or start.config_name or ", ".join(towers)
    with in_one_sentence(f"{source}: cannot be started from"):
        if start.model_name_or_path is not None:
            return load_svitt(model_class, start.model_name_or_path, args, fields)
        if start.config_name is not None:
            return random_svitt(model_class, start, args, fields)
        return join_towers(model_class, start, args, fields)


@contextmanager
def in_one_sentence(what: str) -> Iterator[None]:
    """Raise an `InputError` for whatever a model that is damaged, hostile or another makes Transformers raise."""
    try:
        yield
    except InputError:
        raise
    except BAD_MODEL as error:
        raise InputError(f"{what} ({reason_of(error)}).") from error


def check_folder(name: str | None):
    """An `InputError` for a folder that is not there, which Transformers would ask the Hub for, or is damaged."""
    if name is None:
        return
    if Path(name).is_dir():
        if not Path(name, "config.json").is_file():
            raise InputError(f"{name}: is no folder of a model, it has no config.json.")
        with in_one_sentence(f"{name}: cannot be loaded"):
            check_settings(name)
    elif Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InputError(f"{name}: there is no such folder.")


def load_svitt(
    model_class: type[PreTrainedModel], path: str, args: ProcessingArguments, fields: dict
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """A saved model with some fields of its configuration changed; inflated or shortened in time for other clips."""
    config = SViTTConfig.from_pretrained(path)
    num_frames = config.vision_config.num_frames
    if args.num_frames in (None, num_frames):
        model = load_weights(model_class, path, changed(config, fields))
    else:
        weights = load_weights(model_class, path, config).state_dict()
        weights, config = expand_num_frames(weights, config, args.num_frames)
        model = model_class(changed(config, fields))
        model.load_state_dict(weights)
    return model, load_processor(path, **processor_settings(args))


def load_weights(model_class: type[PreTrainedModel], path: str, config: SViTTConfig) -> PreTrainedModel:
    source_class = model_of(path, config) if config.architectures else model_class
    if model_class is SViTTForVideoQuestionAnswering and source_class is not model_class:
        return with_decoder(load_complete(source_class, path, config))
    return load_complete(model_class, path, config)


def with_decoder(source: PreTrainedModel) -> SViTTForVideoQuestionAnswering:
    """A model for question answering from one without an answer decoder, which begins as its fusion layers, as the
    original's does. Where video and text are not equally wide, the decoder's cross-attention keys and values are new.
    """
    model = SViTTForVideoQuestionAnswering(source.config)
    own, weights = model.state_dict(), source.state_dict()
    weights |= decoder_from_fusion_layers(weights, source.config.text_config.fusion_layer)
    fitting = {name: weights[name] for name in own if name in weights and weights[name].shape == own[name].shape}
    model.load_state_dict(fitting, strict=False)
    return model


def changed(config: SViTTConfig, fields: dict) -> SViTTConfig:
    """A configuration with other fields; a `ValueError` for those it has not."""
    values = config.to_dict()
    for name, value in fields.items():
        if name not in values:
            raise ValueError(f"SViTTConfig has no field {name!r}")
        if unknown := isinstance(value, dict) and sorted(set(value) - set(values[name])):
            raise ValueError(f"`{name}` has no field {', '.join(unknown)}")
        values[name] = values[name] | value if isinstance(value, dict) else value
    return SViTTConfig.from_dict(values)


def random_svitt(model_class, start: StartArguments, args: ProcessingArguments, fields: dict):
    config = SViTTConfig.from_pretrained(start.config_name)
    tokenizer = load_tokenizer(start.tokenizer_name or start.config_name)
    fields["text_config"] = special_token_ids(tokenizer) | fields["text_config"]
    if args.num_frames is not None:
        fields["vision_config"] = fields["vision_config"] | {"num_frames": args.num_frames}
    model = model_class(changed(config, fields))
    return model, with_text_length(make_processor(model.config, tokenizer), args)


def join_towers(model_class, start: StartArguments, args: ProcessingArguments, fields: dict):
    tokenizer = load_tokenizer(start.tokenizer_name or start.text_name_or_path)
    fields["text_config"] = special_token_ids(tokenizer) | fields["text_config"]
    model = init_from_towers(
        start.vision_name_or_path,
        start.text_name_or_path,
        num_frames=args.num_frames or SViTTConfig().vision_config.num_frames,
        image_size=start.image_size,
        **fields,
    )
    if model_class is SViTTForVideoQuestionAnswering:
        model = with_decoder(model)
    elif type(model) is not model_class:
        weights = model.state_dict()
        model = model_class(model.config)
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    processor = make_processor(model.config, tokenizer, **image_statistics(start.vision_name_or_path))
    return model, with_text_length(processor, args)


def processor_settings(args: ProcessingArguments) -> dict:
    settings = {"num_frames": args.num_frames, "max_length": args.max_text_length}
    return {name: value for name, value in settings.items() if value is not None}


def with_text_length(processor: SViTTProcessor, args: ProcessingArguments) -> SViTTProcessor:
    if args.max_text_length is not None:  # where `from_pretrained(..., max_length=...)` puts it too
        processor.tokenizer.init_kwargs["max_length"] = args.max_text_length
    return processor


def load_model_and_processor(
    model_class: type[PreTrainedModel], path: str, args: ProcessingArguments, dropping: DroppingArguments
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """A model in float32 as it was saved, but for dropping, and its processor with `args`' frames and text length.

    Clips of other lengths than the model's take its biases interpolated.

    Raises:
        InputError: if there is no such model, or its weights are damaged, incomplete or of other shapes.
    """
    check_folder(path)
    with in_one_sentence(f"{path}: cannot be loaded as a model with its processor"):
        config = changed(SViTTConfig.from_pretrained(path), dropping.as_fields())
        check_length("max_text_length", args.max_text_length, config.text_config)
        model = load_complete(model_class, path, config)
        return model, load_processor(path, **processor_settings(args))


def load_as_saved(
    path: str, args: ProcessingArguments, architectures: tuple[str, ...] | None = None
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """[`load_model_and_processor`] of the class that the model was saved from, which must be one of `architectures`."""
    check_folder(path)
    with in_one_sentence(f"{path}: cannot be loaded"):
        try:
            config = SViTTConfig.from_pretrained(path)
        except OSError as error:
            raise InputError(f"{path}: there is no such model.") from error
    try:
        model_class = model_of(path, config)
    except ValueError as error:
        raise InputError(str(error)) from error
    architecture = model_class.__name__
    if architectures is not None and architecture not in architectures:
        raise InputError(f"{path}: is a {architecture}, but this takes one of {', '.join(architectures)}.")
    return load_model_and_processor(model_class, path, args, DroppingArguments())
