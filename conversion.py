# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Where weights come from: saved models, original checkpoints, BEiT and BERT towers, models of shorter clips.

Nothing is dropped silently: what a source holds and the port does not keep is listed, what a model needs and the source
lacks is an error, and new modules are named. Whatever is wrong with a source is an `InputError` that names it.
"""

import copy
import dataclasses
import itertools
import json
import logging
import math
import os
import pickle
import pickletools
import re
import tempfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers import AutoConfig, BeitModel, BertForMaskedLM, BertModel, BertTokenizer, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging as transformers_logging

from . import modeling_svitt
from .configuration_svitt import SViTTConfig, SViTTTextConfig, SViTTTextDecoderConfig, SViTTVisionConfig
from .distributed import write_whole
from .errors import InputError, check_number
from .modeling_svitt import RelativePositions, SViTTForPreTraining
from .processing_svitt import SViTTProcessor, SViTTVideoProcessor

logger = logging.getLogger(__name__)

Name = str | Path  # of a file, a folder, or on the Hub
Weights = dict[str, torch.Tensor]
PARTS = {
    "vision_config": SViTTVisionConfig,
    "text_config": SViTTTextConfig,
    "decoder_config": SViTTTextDecoderConfig,
}
BIAS_TABLE = "relative_position_bias.relative_position_bias_table"


# ---- Saved models


def load_model_and_processor(
    path: Name,
    model_class: type[PreTrainedModel] | None = None,
    *,
    num_frames: int | None = None,
    max_text_length: int | None = None,
    token_keep_rate: float | None = None,
    fusion_token_keep_rate: float | None = None,
    architectures: Iterable[str] | None = None,
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """Load a saved SViTT in float32, and its processor. No code of the folder runs, no weight is random.

    Args:
        path: Folder or Hub name.
        model_class: Default: the class that it was saved from. What only `model_class` has keeps its initial values.
        num_frames: Frames of the processor's clips; for another number than its own, the model interpolates its biases.
        max_text_length: Tokens of the processor's texts.
        token_keep_rate, fusion_token_keep_rate: Instead of the model's own, of the video and of the text encoder.
        architectures: Names of the classes of which the model must be one.

    Raises:
        InputError: if there is no such model, or it is damaged, incomplete or of another kind.
    """
    with loading(path):
        rates = {"vision_config": token_keep_rate, "text_config": fusion_token_keep_rate}
        fields = {part: {"token_keep_rate": rate} for part, rate in rates.items() if rate is not None}
        config = with_fields(SViTTConfig.from_pretrained(path), fields)
        check_number("max_text_length", max_text_length, 2, config.text_config.max_position_embeddings)
        [architecture, *_] = config.architectures or ["SViTTModel"]
        if architecture not in modeling_svitt.__all__ or not architecture.startswith("SViTT"):
            raise InputError(f"{path}: holds a {printable(architecture)}, which is no SViTT.")
        if architectures is not None and architecture not in architectures:
            raise InputError(f"{path}: is a {architecture}, but one of {', '.join(architectures)} is needed.")
        source_class = getattr(modeling_svitt, architecture)
        with torch.device("meta"):
            needed = source_class(copy.deepcopy(config)).state_dict().keys()
        model, report = (model_class or source_class).from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
            use_safetensors=True,
        )
        check_weights(path, needed & report["missing_keys"], report["mismatched_keys"])
        lengths = {"num_frames": num_frames, "max_length": max_text_length}
        lengths = {name: length for name, length in lengths.items() if length is not None}
        return model, SViTTProcessor.from_pretrained(path, trust_remote_code=False, **lengths)


@contextmanager
def loading(name: Name) -> Iterator[None]:
    """Raise an `InputError` for all that a folder which is missing, damaged or hostile makes libraries raise."""
    folder = Path(name)
    if not folder.is_dir() and (folder.is_absolute() or str(name).startswith(".") or str(name).count("/") > 1):
        raise InputError(f"{name}: there is no such folder.")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"{name}: is no folder of a model, it has no config.json.")
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what is missing or does not fit is an error here, or meant
    try:
        with in_one_sentence(f"{name}: cannot be loaded"):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def in_one_sentence(what: str) -> Iterator[None]:
    """Raise an `InputError` for whatever libraries raise, to which strangers' files and fields may do anything."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} ({reason_of(error)}).") from error


def check_weights(source: Name, missing: Iterable[str], mismatched: Iterable[tuple], unexpected: Iterable[str] = ()):
    """Raise an `InputError` that names the weights that a source lacks, has in other shapes, or has besides.

    `mismatched` has names, shapes in the source and shapes in the model.
    """
    for name, shape, expected in sorted(mismatched):
        raise InputError(f"{source}: {name} has the shape {tuple(shape)}, its configuration needs {tuple(expected)}.")
    if missing:
        raise InputError(f"{source}: lacks weights that the model needs: {listed(missing)}.")
    if unexpected:
        raise InputError(f"{source}: has weights that the model has no place for: {listed(unexpected)}.")


def load_tokenizer(name: Name) -> BertTokenizer:
    """Load the BERT tokenizer in a folder or of a Hub name."""
    tokenizer = None
    with suppress(Exception):  # tokenizers raises nothing more special
        tokenizer = BertTokenizer.from_pretrained(name)
    # Without a vocabulary, transformers makes a tokenizer of nothing but special tokens.
    if tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"No BERT tokenizer was found at {name}; say where one is with `tokenizer`.")
    return tokenizer


def special_token_ids(tokenizer: BertTokenizer) -> dict:
    """Return the fields of [`SViTTTextConfig`] that follow from a BERT tokenizer."""
    names = {"pad": "pad", "bos": "cls", "eos": "sep", "mask": "mask"}
    return {f"{ours}_token_id": getattr(tokenizer, f"{bert}_token_id") for ours, bert in names.items()}


def make_processor(config: SViTTConfig, tokenizer: BertTokenizer, **kwargs) -> SViTTProcessor:
    """Make the processor that feeds a model of this configuration; `kwargs` are further ones of its video processor."""
    vocab_size = config.text_config.vocab_size
    if len(tokenizer) > vocab_size:
        raise InputError(f"The tokenizer has {len(tokenizer)} words, the model only {vocab_size}; they do not match.")
    vision = config.vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    return SViTTProcessor(SViTTVideoProcessor(size=size, num_frames=vision.num_frames, **kwargs), tokenizer)


def save_folder(model: PreTrainedModel, processor: SViTTProcessor, output_dir: Name):
    """Write model and processor to a new folder, which is complete or not there."""
    write_whole(output_dir, model.save_pretrained, processor.save_pretrained)
    logger.info("%s written to %s.", type(model).__name__, output_dir)


def check_unused(output_dir: Name):
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise InputError(f"{output_dir}: is in use; name a folder that does not exist yet, or an empty one.")


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


# ---- Names

# Original prefix -> ours, first match first. Below a prefix all names are the same.
PREFIXES = {
    "vision_encoder.": "vision_model.",
    "text_encoder.bert.": "text_model.",
    "text_encoder.cls.": "cls.",
    "text_encoder.": "text_model.",
}
PREFIXES |= {name: name for name in ("text_decoder.", "vision_layernorm.", "vision_proj.", "text_proj.", "itm_head.")}
TOWER_PREFIXES = ("embeddings.", "encoder.", "pooler.", "layernorm.")  # of one encoder on its own, named as ours
INDEX_BUFFERS = ("relative_position_index", "position_ids")  # functions of the configuration, which the port computes
# Second names of tensors -> first names.
TIED_WEIGHTS = {
    "cls.predictions.decoder.weight": "text_model.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}


def convert_state_dict(original: Mapping[str, torch.Tensor]) -> Weights:
    """Rename the weights of the original code: of a model of one of its tasks, or of its video or text encoder alone.

    Returns:
        The same tensors under our names, without what follows from the configuration (`INDEX_BUFFERS`).

    Raises:
        InputError: if there are names of no original model, or two names for one of ours.
    """
    is_tower = bool(original) and all(name.startswith(TOWER_PREFIXES) for name in original)
    renamed = {name: name if is_tower else _rename(name) for name in original if not name.endswith(INDEX_BUFFERS)}
    unknown = [name for name, new_name in renamed.items() if new_name is None]
    if unknown or not renamed:
        raise InputError(
            f"These are not names of weights of an original SViTT model: {listed(unknown) or 'none at all'}. They "
            f"are temp or start with {', '.join(PREFIXES)}, or in an encoder alone with {', '.join(TOWER_PREFIXES)}."
        )
    names = Counter(renamed.values())
    if twice := [name for name, new_name in renamed.items() if names[new_name] > 1]:
        raise InputError(f"The checkpoint holds the same weights under two names: {listed(twice)}.")
    weights = {new_name: original[name] for name, new_name in renamed.items()}
    for second, first in TIED_WEIGHTS.items():
        if second in weights and first in weights and not torch.equal(weights[first], weights[second]):
            logger.warning("`%s` and `%s` are one tensor but differ; the former is kept for both.", first, second)
            weights[second] = weights[first]
    return weights


def _rename(name: str) -> str | None:
    prefixes = (prefix for prefix in PREFIXES if name.startswith(prefix))
    return name if name == "temp" else next((PREFIXES[one] + name.removeprefix(one) for one in prefixes), None)


def decoder_from_fusion_layers(state_dict: Mapping[str, torch.Tensor], fusion_layer: int) -> Weights:
    """Return weights `text_decoder.*` of an answer decoder that starts as the layers from `fusion_layer` on."""
    weights = {}
    for name, tensor in state_dict.items():
        layer = re.fullmatch(r"text_model\.encoder\.layer\.(\d+)(\..*)", name)
        if layer and int(layer[1]) >= fusion_layer:
            weights[f"text_decoder.bert.encoder.layer.{int(layer[1]) - fusion_layer}{layer[2]}"] = tensor
        elif name.startswith("text_model.embeddings."):
            weights["text_decoder.bert." + name.removeprefix("text_model.")] = tensor
        elif name.startswith("cls."):
            weights["text_decoder." + name] = tensor
    return weights


# ---- Positions: from images to clips, from short to long clips, from one image size to another


def resize_relative_position_bias(
    table: torch.Tensor, source_grid: tuple[int, int, int], target_grid: tuple[int, int, int]
) -> torch.Tensor:
    """Resize a relative position bias table: in space by BEiT's spline, then in time by nearest neighbour.

    Args:
        table: (rows, heads), rows as in [`RelativePositions`]; the last 3, of the CLS token, are kept.
        source_grid: Frames, patches along the height and along the width that the table is for; one frame for BEiT's.
        target_grid: The same, wanted.

    Raises:
        InputError: if the table does not have the rows of `source_grid`.
    """
    source, target = RelativePositions(*source_grid), RelativePositions(*target_grid)
    if len(table) != source.num_rows:
        grid = "{} frames of {} x {} patches".format(*source_grid)
        raise InputError(f"A bias table for {grid} has {source.num_rows} rows, this one has {len(table)}.")
    if source_grid[1:] != target_grid[1:]:
        offsets = table[:-3].unflatten(0, (-1, source.spatial_rows))
        offsets = torch.stack([_resize_offsets(frame, source_grid[1:], target_grid[1:]) for frame in offsets])
        table = torch.cat([offsets.flatten(0, 1).to(table), table[-3:]])
    rows = target.rows_of_table_for(source_grid[0], table.device)
    return table if rows is None else table[rows]


def _resize_offsets(biases: torch.Tensor, source: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Turn biases of the offsets in a grid of H x W patches, ((2H-1) * (2W-1), heads), into those of another grid."""
    from scipy.interpolate import RectBivariateSpline  # BEiT's own; torch has none

    sides = [(2 * old - 1, 2 * new - 1) for old, new in zip(source, target, strict=True)]
    points = [_geometric_points(old, new) for old, new in sides]
    targets = [np.arange(-(new // 2), new // 2 + 1.0) for _, new in sides]
    degrees = [min(3, old - 1) for old, _ in sides]
    heads = biases.unflatten(0, (sides[0][0], sides[1][0])).double().permute(2, 0, 1).cpu().numpy()
    resized = [RectBivariateSpline(*points, head, kx=degrees[0], ky=degrees[1])(*targets) for head in heads]
    return torch.from_numpy(np.stack(resized, axis=-1)).flatten(0, 1)


def _geometric_points(source: int, target: int) -> np.ndarray:
    """Return where BEiT puts `source` offsets among `target` ones: at steps that grow geometrically, dense near 0."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (source // 2)) / (1 - ratio) > target // 2:
            high = ratio
        else:
            low = ratio
    sums = np.cumsum(ratio ** np.arange(source // 2))
    return np.concatenate([-sums[::-1], [0.0], sums])


def resize_position_embeddings(embeddings: torch.Tensor, grid_size: int) -> torch.Tensor:
    """Resize absolute position embeddings (1, 1 + H * H, D) to (1, 1 + grid_size ** 2, D), bicubically; CLS first."""
    source = math.isqrt(embeddings.shape[1] - 1)
    if source == grid_size:
        return embeddings
    patches = embeddings[:, 1:].transpose(1, 2).unflatten(2, (source, source))
    patches = F.interpolate(patches, size=(grid_size, grid_size), mode="bicubic", align_corners=False)
    return torch.cat([embeddings[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def _resize_positions(
    weights: Mapping[str, torch.Tensor], source_grid: tuple[int, int, int], target_grid: tuple[int, int, int]
) -> Weights:
    """Return weights with the positions of another grid (frames, height, width)."""
    resized = dict(weights)
    for name, tensor in weights.items():
        if name.endswith(BIAS_TABLE):
            resized[name] = resize_relative_position_bias(tensor, source_grid, target_grid)
        elif name.endswith("embeddings.position_embeddings"):
            resized[name] = resize_position_embeddings(tensor, target_grid[1])
    return resized


def expand_num_frames(
    state_dict: Mapping[str, torch.Tensor], config: SViTTConfig, num_frames: int
) -> tuple[Weights, SViTTConfig]:
    """Return weights and configuration of a model for clips of `num_frames` frames, from one for other clips.

    That is the paper's temporal sparse expansion. Lower `vision_config.token_keep_rate` of the new configuration to
    keep the cost of longer clips down.
    """
    config = copy.deepcopy(config)
    vision = config.vision_config
    space = (vision.grid_size, vision.grid_size)
    weights = _resize_positions(state_dict, (vision.num_frames, *space), (num_frames, *space))
    vision.num_frames, vision.max_num_frames = num_frames, max(num_frames, vision.max_num_frames)
    return weights, config


def expanded(model: PreTrainedModel, num_frames: int, fields: Mapping | None = None) -> PreTrainedModel:
    """Return the model for clips of `num_frames` frames, with some fields of its configuration changed."""
    weights, config = expand_num_frames(model.state_dict(), model.config, num_frames)
    longer = type(model)(with_fields(config, fields or {}))
    longer.load_state_dict(weights)
    return longer


def convert_to_longer_clips(path: Name, output_dir: Name, num_frames: int, token_keep_rate: float | None = None):
    """Write a SViTT for clips of `num_frames` frames, perhaps with more tokens dropped, made from a saved one."""
    check_unused(output_dir)
    check_number("num_frames", num_frames, 1)
    model, processor = load_model_and_processor(path, num_frames=num_frames, token_keep_rate=token_keep_rate)
    save_folder(expanded(model, num_frames), processor, output_dir)


# ---- Checkpoints of strangers

# Ten times what weights and an optimizer of a large model take. An opcode makes an object of 200 bytes at most, and
# tuples nested deeper than this would overflow Python's stack when they are hashed.
MAX_OPCODES, MAX_TUPLES, MAX_CONFIG_VALUES = 10**6, 50_000, 10**5
# How often all that is stored may occur, under several names.
TIMES_SHARED = 4
# Objects of these packages are pickled as calls, which stubs answer. No other call is let pass.
ANSWERED = ("collections.", "copyreg.", "datetime.", "numpy.", "omegaconf.", "pathlib.")
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # whose names of modules protocol 2 keeps
BUILTINS_RENAMED = ("builtins.int", "builtins.str", "builtins.range")  # which protocol 2 calls long, unicode, xrange


class Stub:
    """In place of an object that is neither tensor nor plain container: keeps its attributes, runs nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        if isinstance(state, dict):
            vars(self).update(state)


class DictStub:
    """In place of a subclass of dict: torch fills an `OrderedDict` with items and attributes, and no other class."""

    def __new__(cls, *args):
        return OrderedDict()


class Uncalled(type):
    """Class of classes that may be made without a call, as pickle does, but not called: that may be any function."""

    def __call__(cls, *args):
        raise pickle.UnpicklingError(f"it calls `{cls.__name__}`, which weights have no need of")


def stub_for(name: str) -> type:
    if name.startswith(ANSWERED):
        return DictStub if name == "collections.defaultdict" else Stub
    return Uncalled(name, (DictStub,), {})


def names_in_pickles(path: Name) -> set[str]:
    """Return the names of all classes and functions that a checkpoint asks for, without running it.

    Raises:
        ValueError: for what torch would take without end: compressed, too long, nested too deeply.
    """
    names, num_tuples = set(BUILTINS_RENAMED), 0
    with open(path, "rb") as file:
        pickles = [file] * 5  # of the legacy format, one behind the other: head, checkpoint, list of storages
        if zipfile.is_zipfile(file):
            archive = zipfile.ZipFile(file)
            pickles = [archive.open(name) for name in archive.namelist() if name.lower().endswith("data.pkl")]
            if len(pickles) != 1 or any(record.compress_type for record in archive.infolist()):
                raise ValueError("it is a zip file, but not one of `torch.save`")
        else:
            file.seek(0)
        opcodes = itertools.chain.from_iterable(map(pickletools.genops, pickles))
        for number, (opcode, value, _) in enumerate(opcodes):
            num_tuples += opcode.name.startswith("TUPLE")
            if number > MAX_OPCODES or num_tuples > MAX_TUPLES:
                raise ValueError("it holds more objects than weights and their optimizer take")
            if opcode.name == "GLOBAL":
                module, name = value.split(" ")
                names.add(f"{PYTHON_2.get(module, module)}.{name}")
    if "builtins.bytearray" in names:  # torch calls it, with any size
        raise pickle.UnpicklingError("it makes byte arrays")
    return names


def read_checkpoint(path: Name) -> dict:
    """Read what `torch.save` wrote, in its zip or its legacy format, without running anything that it contains.

    Tensors of zip files stay on the disk until they are used.

    Returns:
        The saved dict; [`Stub`]s and `OrderedDict`s stand for objects that are neither tensors nor plain containers.

    Raises:
        InputError: if there is no such file, or it is damaged, hostile, or no dict.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such file.")
    with in_one_sentence(f"{path}: is refused, it is no readable checkpoint of weights alone"):
        stubs = [(stub_for(name), name) for name in names_in_pickles(path)]
        with torch.serialization.safe_globals(stubs):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(checkpoint, dict) or not all(isinstance(name, str) for name in checkpoint):
        raise InputError(f"{path}: holds a {type(checkpoint).__name__}, not a dict with the weights under 'model'.")
    return checkpoint


def weights_of(path: Name, checkpoint: dict) -> Weights:
    """Return the tensors under 'model', or of a checkpoint that is a state dict itself."""
    weights = checkpoint.get("model", checkpoint)
    if not isinstance(weights, dict) or not all(isinstance(name, str) and is_dense(weights[name]) for name in weights):
        raise InputError(f"{path}: has no dict of weights under 'model'; its entries are {listed(checkpoint)}.")
    if sum(value.nbytes for value in weights.values()) > TIMES_SHARED * os.path.getsize(path):
        raise InputError(f"{path}: is refused, its weights are larger than what it stores.")
    return weights


def is_dense(value) -> bool:
    is_strided = isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_quantized
    return is_strided and value.device.type == "cpu"


def plain(value, numbers: Iterator[int] | None = None):
    """Return a configuration as dicts, lists and values, whether OmegaConf, a namespace or a subclass of dict holds it.

    Raises:
        ValueError: if it has more values than any configuration.
    """
    numbers = itertools.count() if numbers is None else numbers
    if next(numbers) > MAX_CONFIG_VALUES:
        raise ValueError("it has too many values")
    if isinstance(value, (Stub, OrderedDict)):
        held = vars(value)
        for node in ("_val", "_content"):  # of OmegaConf: a value; a dict or list of nodes
            if node in held:
                return plain(held[node], numbers)
        value = held if isinstance(value, Stub) or not value else value
    if isinstance(value, dict):
        return {key: plain(item, numbers) for key, item in value.items()}
    return [plain(item, numbers) for item in value] if isinstance(value, (list, tuple)) else value


# ---- Original checkpoint -> Hub folder

# What the original code does where the checkpoint's configuration says nothing ...
ORIGINAL_VISION_DEFAULTS = {
    "token_keep_rate": 1.0,
    "token_drop_loc": [3, 6, 9],
    "sparse_local_attn": 1,
    "sparse_random_attn": None,
    "attn_block_size": 1,
}
# ... and whatever it says.
ORIGINAL_BEHAVIOUR = {"attn_mask_padding": False}
# A weight that only models of a task have, first match first.
TASK_OF_HEAD = {
    "text_decoder.cls.predictions.bias": modeling_svitt.SViTTForVideoQuestionAnswering,
    "cls.predictions.bias": modeling_svitt.SViTTForPreTraining,
    "itm_head.weight": modeling_svitt.SViTTForVideoTextRetrieval,
}


def convert_checkpoint(
    path: Name,
    output_dir: Name,
    tokenizer: Name = "bert-base-uncased",
    vision_config: dict | None = None,
    text_config: dict | None = None,
):
    """Convert a checkpoint of the original code to a folder for `from_pretrained`.

    The configuration comes from the shapes of the weights and from the training configuration in the checkpoint. It
    reproduces the original code, faults included (`attn_mask_padding=False`, no dropping in fusion unless the original
    did).

    Args:
        path: The `.pth`, of pre-training, retrieval or question answering; read by [`read_checkpoint`].
        output_dir: Folder to write, which must not exist or be empty.
        tokenizer: Folder or Hub name of the BERT tokenizer that the model was trained with.
        vision_config, text_config: Fields that the checkpoint does not tell, or tells wrongly.

    Raises:
        InputError: if the checkpoint or the tokenizer is not found, the checkpoint is damaged, hostile or of another
            model, or the output folder is in use.
    """
    check_unused(output_dir)
    checkpoint = read_checkpoint(path)
    weights = convert_state_dict(weights_of(path, checkpoint))
    logger.info("Not converted: %s.", listed(checkpoint.keys() - {"model", "config"}) or "nothing")
    tokenizer = load_tokenizer(tokenizer)
    text_config = {**special_token_ids(tokenizer), **(text_config or {})}
    model_class = next((task for name, task in TASK_OF_HEAD.items() if name in weights), None)
    if model_class is None:
        raise InputError(f"{path}: is of no pre-training, retrieval or question answering model, it has no head.")
    with in_one_sentence(f"{path}: its configuration is none of an original model"):
        config = infer_config(weights, plain(checkpoint.get("config")), vision_config, text_config)
    save_folder(assembled(path, model_class, config, weights), make_processor(config, tokenizer), output_dir)


def assembled(
    source: Name, model_class: type[PreTrainedModel], config: SViTTConfig, weights: Weights, may_lack: str = "$^"
) -> PreTrainedModel:
    """Return a model with weights under our names; those whose names are like `may_lack` may keep their initial values.

    Raises:
        InputError: where a weight is missing, of another shape, or has no place.
    """
    with in_one_sentence(f"{source}: makes no model"), torch.device("meta"):  # no memory, whatever sizes were inferred
        model = model_class(config)
    own, tied = model.state_dict(), set(model.all_tied_weights_keys)
    new = own.keys() - weights.keys() - tied
    mismatched = [
        (name, tensor.shape, own[name].shape)
        for name, tensor in weights.items()
        if name in own and tensor.shape != own[name].shape
    ]
    missing = [name for name in new if not re.match(may_lack, name)]
    check_weights(source, missing, mismatched, weights.keys() - own.keys())
    model = model_class(config)
    model.load_state_dict(weights, strict=False)
    if new:
        modules = {name.removesuffix(".weight").removesuffix(".bias") for name in new}
        logger.info("New, with their initial values: %s.", listed(modules))
    return model


def infer_config(
    weights: Weights,
    original_config: Mapping | None = None,
    vision_config: dict | None = None,
    text_config: dict | None = None,
) -> SViTTConfig:
    """Return the configuration of an original model, from its weights under our names and its training configuration.

    Of `original_config` (plain data), `vision_encoder_args`, `text_encoder_args`, `video_input`, `image_res`, `temp`,
    `loss_weight`, ... are read. `vision_config` and `text_config` take precedence.
    """
    trained = original_config if isinstance(original_config, Mapping) else {}
    if not trained:
        logger.warning("The checkpoint has no configuration: fields that no shape tells have the published values.")
    fields: dict[str, Any] = {
        "vision_config": _vision_fields(weights, trained),
        "text_config": _text_fields(weights, trained),
    }
    fields |= {name: trained[name] for name in ("temp", "mlm_prob", "itm_hard_neg", "loss_weight") if name in trained}
    if "vision_proj.weight" in weights:
        fields["embed_dim"] = len(weights["vision_proj.weight"])
    if "text_decoder.cls.predictions.bias" in weights:
        # The original drops in fusion mode only, and questions are read in multimodal.
        fields["text_config"]["token_keep_rate"] = 1.0
        fields["decoder_config"] = _text_sizes(weights, "text_decoder.bert.")
    fields = merged(fields, {"vision_config": vision_config, "text_config": text_config})
    text = fields["text_config"]
    if "num_attention_heads" not in text and text["hidden_size"] % 64:
        raise InputError(
            f"The weights of BERT do not tell its number of heads, and at a width of {text['hidden_size']} they are "
            "not 64 wide; say `num_attention_heads` in `text_config`."
        )
    text.setdefault("num_attention_heads", text["hidden_size"] // 64)
    return SViTTConfig(**fields)


def _vision_fields(weights: Weights, trained: Mapping) -> dict:
    prefix = "vision_model."
    width, num_channels, patch_size, _ = weights[f"{prefix}embeddings.patch_embeddings.projection.weight"].shape
    num_layers, table = _num_layers(weights, prefix), weights.get(_bias_table_name(prefix, 0))
    fields: dict[str, Any] = (ORIGINAL_VISION_DEFAULTS if trained else {}) | {"num_attention_heads": width // 64}
    fields |= _fields(SViTTVisionConfig, trained, "vit_config", "vision_encoder_args")
    clips = {"num_frames": (trained.get("video_input") or {}).get("num_frames"), "image_size": trained.get("image_res")}
    fields |= {field: value for field, value in clips.items() if value is not None}
    if table is not None:
        fields["num_attention_heads"] = table.shape[1]
    if "token_drop_loc" in fields:  # the original ignores layers that do not exist
        fields["token_drop_loc"] = [layer for layer in fields["token_drop_loc"] if layer in range(num_layers)]
    return fields | ORIGINAL_BEHAVIOUR | {
        "hidden_size": width,
        "num_channels": num_channels,
        "patch_size": patch_size,
        "num_hidden_layers": num_layers,
        "intermediate_size": len(weights[f"{prefix}encoder.layer.0.intermediate.dense.weight"]),
        "use_mean_pooling": f"{prefix}layernorm.weight" not in weights,
        "use_absolute_position_embeddings": f"{prefix}embeddings.position_embeddings" in weights,
        "use_relative_position_bias": table is not None,
    }  # fmt: skip


def _text_fields(weights: Weights, trained: Mapping) -> dict:
    sizes = _text_sizes(weights, "text_model.")
    fields = {"token_keep_rate": 1.0} | _fields(SViTTTextConfig, trained, "bert_config", "text_encoder_args")
    layers = range(sizes["fusion_layer"], sizes["num_hidden_layers"])
    if "token_drop_loc" in fields:
        fields["token_drop_loc"] = [layer for layer in fields["token_drop_loc"] if layer in layers]
    return fields | ORIGINAL_BEHAVIOUR | sizes


def _text_sizes(weights: Weights, prefix: str) -> dict:
    sizes = {"num_hidden_layers": _num_layers(weights, prefix)}
    sizes["vocab_size"], sizes["hidden_size"] = weights[f"{prefix}embeddings.word_embeddings.weight"].shape
    for field, name in (
        ("intermediate_size", "encoder.layer.0.intermediate.dense"),
        ("max_position_embeddings", "embeddings.position_embeddings"),
        ("type_vocab_size", "embeddings.token_type_embeddings"),
    ):
        sizes[field] = len(weights[f"{prefix}{name}.weight"])
    sizes["fusion_layer"] = sizes["num_hidden_layers"]
    for layer in reversed(range(sizes["num_hidden_layers"])):
        if (keys := weights.get(f"{prefix}encoder.layer.{layer}.crossattention.self.key.weight")) is not None:
            sizes |= {"fusion_layer": layer, "encoder_width": keys.shape[1]}
    return sizes


def _fields(config_class: type, trained: Mapping, *sections: str) -> dict:
    """Return what sections of the original's configuration say of the fields of ours."""
    found = [trained[section] for section in sections if isinstance(trained.get(section), Mapping)]  # not file names
    return {field: value for part in found for field, value in part.items() if field in config_class.__annotations__}


def _num_layers(weights: Weights, prefix: str) -> int:
    return len({match[1] for name in weights if (match := re.match(rf"{prefix}encoder\.layer\.(\d+)\.", name))})


def _bias_table_name(prefix: str, layer: int) -> str:
    return f"{prefix}encoder.layer.{layer}.attention.attention.{BIAS_TABLE}"


# ---- BEiT + BERT -> fresh SViTT

NEW_MODULES = rf".*\.{BIAS_TABLE}$|.*\.crossattention\.|.*\.lambda_\d$|temp$|cls\."
NEW_MODULES += r"|vision_layernorm\.|vision_proj\.|text_proj\.|itm_head\."


def init_from_towers(
    vision: Name,
    text: Name,
    num_frames: int = 4,
    image_size: int | None = None,
    fusion_layer: int | None = None,
    vision_config: dict | None = None,
    text_config: dict | None = None,
    **kwargs,
) -> SViTTForPreTraining:
    """Make a fresh SViTT from a pretrained BEiT and a pretrained BERT; saved, it loads into every SViTT class.

    Args:
        vision: Folder or Hub name of a BEiT, with relative (per layer or shared) or absolute positions or both.
        text: Folder or Hub name of a BERT of any width and depth, with a word prediction head or without.
        num_frames: Frames of the clips; biases are repeated along time. A BEiT without biases gets some, of zero,
            if there are several: nothing else tells the model the order of frames.
        image_size: Image size of the clips, that of `vision` by default; positions are resized.
        fusion_layer: First layer of BERT that gets (new) cross-attention. Default: three quarters of the depth.
        vision_config, text_config, kwargs: Fields of the parts, such as the sparsity, and of [`SViTTConfig`].

    Raises:
        InputError: if a tower is not found, of another kind or incomplete, or a field does not fit.
    """
    with loading(vision):
        vision_fields, vision_weights = _beit_tower(vision, num_frames, image_size)
    with loading(text):
        text_fields, text_weights = _bert_tower(text)
    if fusion_layer is None:
        fusion_layer = text_fields["num_hidden_layers"] * 3 // 4
    text_fields |= {"fusion_layer": fusion_layer, "encoder_width": vision_fields["hidden_size"]}
    with in_one_sentence("The fields do not fit these towers"):
        fields = {"vision_config": vision_fields, "text_config": text_fields}
        config = SViTTConfig(**merged(fields, {"vision_config": vision_config, "text_config": text_config, **kwargs}))
    weights = vision_weights | text_weights
    return assembled(f"{vision} and {text}", SViTTForPreTraining, config, weights, may_lack=NEW_MODULES)


def _beit_tower(name: Name, num_frames: int, image_size: int | None) -> tuple[dict, Weights]:
    """Return fields of [`SViTTVisionConfig`] and weights, under our names, from a BEiT."""
    config, weights = _pretrained(BeitModel, name, may_lack=r"pooler\.")
    fields = _shared_fields(SViTTVisionConfig, config)
    shared_table = weights.pop(f"encoder.{BIAS_TABLE}", None)
    if shared_table is not None:
        for table in (_bias_table_name("", layer) for layer in range(config.num_hidden_layers)):
            weights[table] = shared_table + weights.get(table, 0)
    # Absolute positions are those within a frame; without biases the order of frames would make no difference.
    fields["use_relative_position_bias"] = num_frames > 1 or any(key.endswith(BIAS_TABLE) for key in weights)
    fields["layer_scale_init_value"] = config.layer_scale_init_value or 1.0  # without scales, ours are new: 1
    if weights.pop("embeddings.mask_token", None) is not None:
        logger.info("Not used from %s: embeddings.mask_token, with which its pre-training hides patches.", name)
    grid_size = config.image_size // config.patch_size
    fields |= {"num_frames": num_frames, "image_size": image_size or config.image_size}
    target_size = fields["image_size"] // config.patch_size
    weights = _resize_positions(weights, (1, grid_size, grid_size), (num_frames, target_size, target_size))
    return fields, {f"vision_model.{name}": tensor for name, tensor in weights.items()}


def _bert_tower(name: Name) -> tuple[dict, Weights]:
    """Return fields of [`SViTTTextConfig`] and weights from a BERT, with its word prediction head if it has one."""
    architectures = AutoConfig.from_pretrained(name, trust_remote_code=False).architectures or []
    has_head = any(architecture.endswith(("ForMaskedLM", "ForPreTraining")) for architecture in architectures)
    if has_head:
        config, weights = _pretrained(BertForMaskedLM, name)
        weights = {key.replace("bert.", "text_model.", 1): tensor for key, tensor in weights.items()}
    else:
        config, weights = _pretrained(BertModel, name, add_pooling_layer=False)
        weights = {f"text_model.{key}": tensor for key, tensor in weights.items()}
    fields = _shared_fields(SViTTTextConfig, config)
    for field in ("bos_token_id", "eos_token_id", "is_decoder"):  # those of SViTT apply
        fields.pop(field, None)
    return fields, weights


def _shared_fields(config_class: type, config: AutoConfig) -> dict:
    return {field: getattr(config, field) for field in config_class.__annotations__ if hasattr(config, field)}


def _pretrained(
    model_class: type[PreTrainedModel], name: Name, may_lack: str = "$^", **kwargs
) -> tuple[AutoConfig, Weights]:
    """Return configuration and float32 weights of a pretrained model, under the names of checkpoints."""
    model_type = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
    if model_type != model_class.config_class.model_type:
        raise InputError(f"{name}: is a {model_type!r} model; a {model_class.config_class.model_type!r} one is needed.")
    model, report = model_class.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **kwargs)
    missing = [key for key in report["missing_keys"] if not re.match(may_lack, key)]
    check_weights(name, missing, report["mismatched_keys"])
    if report["unexpected_keys"]:
        logger.warning("Not used from %s: %s.", name, listed(report["unexpected_keys"]))
    # Names in memory change between versions of transformers (BEiT's have); those that it saves do not.
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="1000GB")
        return model.config, load_file(Path(folder, "model.safetensors"))


def convert_towers(
    vision: Name,
    text: Name,
    output_dir: Name,
    tokenizer: Name | None = None,
    text_config: dict | None = None,
    **settings,
):
    """Write a fresh SViTT from a BEiT and a BERT; `settings` are further arguments of [`init_from_towers`]."""
    check_unused(output_dir)
    tokenizer = load_tokenizer(tokenizer or text)
    text_config = special_token_ids(tokenizer) | (text_config or {})
    model = init_from_towers(vision, text, text_config=text_config, **settings)
    save_folder(model, make_processor(model.config, tokenizer, **image_statistics(vision)), output_dir)


def image_statistics(vision: Name) -> dict:
    """Return `image_mean` and `image_std` that a vision tower was trained with, where its folder says so."""
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(vision)
    except OSError:
        logger.info("%s has no preprocessor_config.json: images get BEiT's mean and deviation, 0.5.", vision)
        settings = {}
    return {field: settings[field] for field in ("image_mean", "image_std") if field in settings}
