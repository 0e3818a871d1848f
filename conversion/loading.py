# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Models and what goes with them, loaded, put together and saved: complete, or refused in a sentence."""

import copy
import dataclasses
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.file_download import repo_folder_name
from transformers import BertTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from transformers.utils import logging as transformers_logging

from .. import modeling_svitt
from ..configuration_svitt import SViTTConfig, SViTTTextConfig, SViTTTextDecoderConfig, SViTTVisionConfig
from ..distributed import write_whole
from ..errors import InputError, check_number, did_you_mean_beside, not_found
from ..processing_svitt import SViTTProcessor, SViTTVideoProcessor

logger = logging.getLogger("svitt.conversion")

Name = str | Path  # of a file, a folder, or on the Hub
Weights = dict[str, torch.Tensor]
# Classes of models that compare videos with texts.
COMPARING = ["SViTTForVideoTextRetrieval", "SViTTForPreTraining", "SViTTModel"]
# A video encoder that is one of images: frames one by one, 8 unless asked otherwise, as BLIP was tried on videos.
FRAME_WISE = {"frame_wise": True, "num_frames": 8, "sparse_random_attn": None, "token_keep_rate": 1.0}
Statistics = dict[str, Sequence[float]]
BEIT_STATISTICS: Statistics = {"image_mean": IMAGENET_STANDARD_MEAN, "image_std": IMAGENET_STANDARD_STD}
# Of ALBEF and BLIP.
CLIP_STATISTICS: Statistics = {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD}
PARTS = {
    "vision_config": SViTTVisionConfig,
    "text_config": SViTTTextConfig,
    "decoder_config": SViTTTextDecoderConfig,
}


class Source(NamedTuple):
    """A model from elsewhere: what it becomes, and how its images and texts were prepared."""

    model_class: type[PreTrainedModel]
    config: SViTTConfig
    weights: Weights
    pixels: dict  # arguments of its `SViTTVideoProcessor`
    texts: dict = {}  # and of its `SViTTProcessor`


# ---- Saved models


def load_model_and_processor(
    path: Name,
    model_class: type[PreTrainedModel] | None = None,
    *,
    num_frames: int | None = None,
    max_text_length: int | None = None,
    architectures: Iterable[str] | None = None,
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """Load a saved SViTT in float32, and its processor. No code of the folder runs, no weight is random.

    Args:
        path: Folder or Hub name.
        model_class: Default: the class that it was saved from. What only `model_class` has keeps its initial values.
        num_frames: Frames of the processor's clips; for another number than its own, the model interpolates its biases.
        max_text_length: Tokens of the processor's texts.
        architectures: Names of the classes of which the model must be one.

    Raises:
        InputError: if there is no such model, or it is damaged, incomplete or of another kind.
    """
    with loading(path):
        saved, _ = SViTTConfig.get_config_dict(path)
        if (model_type := saved.get("model_type")) not in (SViTTConfig.model_type, None):
            raise InputError(f"{path}: is a {printable(model_type)}, no SViTT; svitt convert makes one of a BLIP.")
        config = SViTTConfig.from_dict(saved)
        check_number("num_frames", num_frames, 1, config.vision_config.max_num_frames)
        check_number("max_text_length", max_text_length, 2, config.text_config.max_position_embeddings)
        [architecture, *_] = config.architectures or ["SViTTModel"]
        if architecture not in modeling_svitt.__all__ or not architecture.startswith("SViTT"):
            raise InputError(f"{path}: holds a {printable(architecture)}, which is no SViTT.")
        if architectures is not None and architecture not in architectures:
            raise InputError(f"{path}: is a {architecture}, but a {' or '.join(architectures)} is needed.")
        source_class = getattr(modeling_svitt, architecture)
        model, report = with_report(model_class or source_class, path, config=config, use_safetensors=True)
        with torch.device("meta"):
            needed = source_class(copy.deepcopy(config)).state_dict().keys()
        check_weights(path, report | {"missing_keys": needed & report["missing_keys"]})
        lengths = {"num_frames": num_frames, "max_length": max_text_length}
        lengths = {name: length for name, length in lengths.items() if length is not None}
        return model, SViTTProcessor.from_pretrained(path, trust_remote_code=False, **lengths)


@contextmanager
def loading(name: Name) -> Iterator[None]:
    """Raise an `InputError` for all that a folder which is missing, damaged or hostile makes libraries raise."""
    find(name)
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        raise InputError(f"{name}: is no folder of a model, it has no config.json.")
    with in_one_sentence(f"{name}: cannot be loaded"):
        yield


def find(name: Name):
    """Raise an `InputError` for a name that is no folder, nor on the Hub or in its cache.

    The Hub is asked once: libraries ask for each file, and each time again for a minute.
    """
    folder = Path(name)
    if folder.is_dir():
        return
    if folder.is_absolute() or str(name).startswith(".") or str(name).count("/") > 1:
        raise not_found(name, "folder")
    if Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=str(name), repo_type="model")).is_dir():
        return
    try:
        HfApi().model_info(str(name), timeout=10)
    except Exception as error:  # of the network, its libraries have many
        reason = reason_of(error).partition(". ")[0]
        problem = f"{name}: is no folder, and not to be had from the Hub ({reason})."
        raise InputError(problem + did_you_mean_beside(name)) from error


@contextmanager
def in_one_sentence(what: str) -> Iterator[None]:
    """Raise an `InputError` for whatever libraries raise, to which strangers' files and fields may do anything."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what is missing or does not fit is an error here, or meant
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} ({reason_of(error)}).") from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def with_report(model_class: type[PreTrainedModel], name: Name | None, **kwargs) -> tuple[PreTrainedModel, dict]:
    """Return a model in float32, and which weights are missing or have other shapes, for [`check_weights`] to name."""
    how = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    return model_class.from_pretrained(name, **how, **kwargs)


def check_weights(source: Name, report: Mapping, may_lack: str = "$^"):
    """Raise an `InputError` that names the weights that a source has in other shapes, or lacks; see [`with_report`].

    Those whose names are like `may_lack` may be missing.
    """
    for name, shape, expected in sorted(report["mismatched_keys"]):
        raise InputError(f"{source}: {name} has the shape {tuple(shape)}, its configuration needs {tuple(expected)}.")
    if missing := [name for name in report["missing_keys"] if not re.match(may_lack, name)]:
        raise InputError(f"{source}: lacks weights that the model needs: {listed(missing)}.")


def load_tokenizer(name: Name) -> BertTokenizer:
    """Load the BERT tokenizer in a folder or of a Hub name."""
    tokenizer, reason = None, ""
    try:
        find(name)
        tokenizer = BertTokenizer.from_pretrained(name)
    except Exception as error:  # tokenizers raises nothing more special
        reason = f" ({reason_of(error)})"
    # Without a vocabulary, transformers makes a tokenizer of nothing but special tokens.
    if tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"No BERT tokenizer was found at {name}{reason}; say where one is with `tokenizer`.")
    return tokenizer


def special_token_ids(tokenizer: BertTokenizer) -> dict:
    """Return the fields of [`SViTTTextConfig`] that follow from a BERT tokenizer."""
    names = {"pad": "pad", "bos": "cls", "eos": "sep", "mask": "mask"}
    return {f"{ours}_token_id": getattr(tokenizer, f"{bert}_token_id") for ours, bert in names.items()}


def make_processor(
    config: SViTTConfig, tokenizer: BertTokenizer, pixels: Mapping | None = None, texts: Mapping | None = None
) -> SViTTProcessor:
    """Make the processor that feeds a model of this configuration; for `pixels` and `texts` see [`Source`]."""
    vocab_size = config.text_config.vocab_size
    if len(tokenizer) > vocab_size:
        raise InputError(f"The tokenizer has {len(tokenizer)} words, the model only {vocab_size}; they do not match.")
    vision = config.vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    video_processor = SViTTVideoProcessor(size=size, num_frames=vision.num_frames, **(pixels or {}))
    return SViTTProcessor(video_processor, tokenizer, **(texts or {}))


def save_folder(model: PreTrainedModel, processor: SViTTProcessor, output_dir: Name):
    """Write model and processor to a new folder, which is complete or not there."""
    write_whole(output_dir, model.save_pretrained, processor.save_pretrained)
    logger.info("%s written to %s.", type(model).__name__, output_dir)


def check_unused(output_dir: Name):
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise InputError(f"{output_dir}: is in use; name a folder that does not exist yet, or an empty one.")


def shared_fields(config_class: type, config: PreTrainedConfig) -> dict:
    """Return the fields of a configuration that one of ours has, too."""
    return {field: getattr(config, field) for field in config_class.__annotations__ if hasattr(config, field)}


def with_fields(config: SViTTConfig, changes: Mapping) -> SViTTConfig:
    """Return a configuration with some fields changed; see [`merged`]."""
    return SViTTConfig.from_dict(merged(config.to_dict(), changes))


def merged(fields: Mapping, changes: Mapping) -> dict:
    """Return fields of a [`SViTTConfig`], some of them changed, of its parts (dicts) one by one.

    Raises:
        InputError: for a field that there is not, which Transformers would take for one of a later version.
    """
    result = dict(fields)
    for name, value in changes.items():
        part = PARTS.get(name)
        names = {name} if part is None else set(value or ())
        config_class: Any = part or SViTTConfig
        if unknown := names - {field.name for field in dataclasses.fields(config_class)}:
            raise InputError(f"{config_class.__name__} has no field {', '.join(sorted(unknown))}.")
        result[name] = value if part is None else {**result.get(name, {}), **(value or {})}
    return result


def parse_fields(texts: Iterable[str]) -> dict:
    """Parse FIELD=VALUE, values in JSON or texts."""
    fields = {}
    for text in texts:
        field, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"{text!r} must look like FIELD=VALUE.")
        fields[field] = value
        with suppress(json.JSONDecodeError):
            fields[field] = json.loads(value)
    return fields


def reason_of(error: BaseException) -> str:
    """Return what an error says, as a part of a sentence."""
    error = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
    message = str(error).rpartition("WeightsUnpickler error: ")[2].strip()  # torch then advises to load all the same
    text = printable(message.partition("\n")[0]).rstrip(" .")
    return text if text and not isinstance(error, (LookupError, TypeError)) else f"{type(error).__name__}: {text}"


def printable(text: str) -> str:
    """Return what a file says of itself, fit for a terminal: no escape sequences, not endless."""
    text = str(text) if len(str(text)) <= 500 else f"{str(text)[:500]} …"
    return "".join(character if character.isprintable() else "?" for character in text)


def listed(names: Iterable[str]) -> str:
    """Return names in a sentence, those that differ in the number of the layer as one, of many the first."""
    names = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in names})
    more = [f"and {len(names) - 20} more"] if len(names) > 20 else []
    return printable(", ".join(names[:20] + more))


def assembled(
    source: Name, model_class: type[PreTrainedModel], config: SViTTConfig, weights: Weights, may_lack: str = "$^"
) -> PreTrainedModel:
    """Return a model with weights under our names; those whose names are like `may_lack` may keep their initial values.

    Raises:
        InputError: where a weight is missing, of another shape, or has no place.
    """
    with in_one_sentence(f"{source}: makes no model"):
        model, report = with_report(model_class, None, config=config, state_dict=weights)
    check_weights(source, report, may_lack)
    if unexpected := report["unexpected_keys"]:
        raise InputError(f"{source}: has weights that the model has no place for: {listed(unexpected)}.")
    if new := {name.removesuffix(".weight").removesuffix(".bias") for name in report["missing_keys"]}:
        logger.info("New, with their initial values: %s.", listed(new))
    return model


def pretrained(model_class: type[PreTrainedModel], name: Name, may_lack: str = "$^", **kwargs) -> PreTrainedModel:
    """Return a model of Transformers in float32, all of whose weights were found but for those like `may_lack`."""
    model, report = with_report(model_class, name, **kwargs)
    check_weights(name, report, may_lack)
    if report["unexpected_keys"]:
        logger.warning("Not used from %s: %s.", name, listed(report["unexpected_keys"]))
    return model


def image_statistics(name: Name, otherwise: Statistics = BEIT_STATISTICS) -> Statistics:
    """Return the mean and deviation that a vision model was trained with, as its folder says, or else `otherwise`."""
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        values = " and ".join(str(list(values)) for values in otherwise.values())
        logger.info("%s has no preprocessor_config.json: images get the mean and deviation %s.", name, values)
        settings = {}
    return {field: settings.get(field, values) for field, values in otherwise.items()}
