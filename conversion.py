# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Where weights come from: original SViTT checkpoints, pretrained BEiT and BERT towers, models of shorter clips.

Nothing is dropped silently: what a source holds and the port does not keep is listed, what a model needs and the source
lacks is an error, and new modules are named. Checkpoints are read without running anything they contain.
"""

import argparse
import copy
import json
import logging
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from scipy.interpolate import RectBivariateSpline
from transformers import AutoConfig, BeitModel, BertForMaskedLM, BertModel, BertTokenizer, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from . import modeling_svitt
from .checkpoint_reader import in_words, plain, printable, read_checkpoint
from .configuration_svitt import SViTTConfig, SViTTTextConfig, SViTTVisionConfig
from .modeling_svitt import RelativePositions, SViTTForPreTraining
from .processing_svitt import SViTTProcessor, SViTTVideoProcessor

logger = logging.getLogger(__name__)

Weights = dict[str, torch.Tensor]
BIAS_TABLE = "relative_position_bias.relative_position_bias_table"
# Transformers raises any of these for a folder that is damaged, hostile, or of another model.
BAD_MODEL = (
    *(OSError, ValueError, StrictDataclassError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, ImportError, MemoryError),
)


# ----------------------------------------------------------------------------------------------------
# Names
# ----------------------------------------------------------------------------------------------------

# Original prefix -> ours, first match first. Below a prefix all names are the same.
PREFIXES = {
    "vision_encoder.": "vision_model.",
    "text_encoder.bert.": "text_model.",
    "text_encoder.cls.": "cls.",
    "text_encoder.": "text_model.",
    "text_decoder.": "text_decoder.",
    "vision_layernorm.": "vision_layernorm.",
    "vision_proj.": "vision_proj.",
    "text_proj.": "text_proj.",
    "itm_head.": "itm_head.",
    "temp": "temp",
}
TOWER_PREFIXES = ("embeddings.", "encoder.", "pooler.", "layernorm.")  # of one encoder on its own, named as ours
FLOATS = ("F16", "BF16", "F32", "F64")
SETTINGS_FILES = (
    *("config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"),
)
INDEX_BUFFERS = ("relative_position_index", "position_ids")  # functions of the configuration, which the port computes

# Second names of tensors -> first names.
TIED_WEIGHTS = {
    "cls.predictions.decoder.weight": "text_model.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}


def convert_state_dict(original: Mapping[str, torch.Tensor]) -> Weights:
    """Renames the weights of the original code to those of this port.

    Args:
        original: State dict of an original pre-training, retrieval or question answering model, or of its video or
            text encoder alone.

    Returns:
        The same tensors under our names, one for each, save the index buffers (`relative_position_index`,
        `position_ids`), which the port computes from its configuration.

    Raises:
        ValueError: if there are names of no original model, or two names for one of ours.
    """
    if original and all(name.startswith(TOWER_PREFIXES) for name in original):
        renamed = {name: name for name in original}
    else:
        renamed = {name: _rename(name) for name in original}
    unknown = [name for name, new_name in renamed.items() if new_name is None]
    if unknown or not renamed:
        raise ValueError(
            f"These are not names of weights of an original SViTT model: {_list(unknown) or 'none at all'}. They start "
            f"with {', '.join(PREFIXES)}, or in an encoder alone with {', '.join(TOWER_PREFIXES)}."
        )
    weights = {new_name: original[name] for name, new_name in renamed.items() if not name.endswith(INDEX_BUFFERS)}
    kept = [name for name in original if not name.endswith(INDEX_BUFFERS)]
    if len(weights) < len(kept):
        twice = [name for name in kept if sum(renamed[other] == renamed[name] for other in kept) > 1]
        raise ValueError(f"The checkpoint holds the same weights under two names: {_list(twice)}.")
    if len(kept) < len(original):
        logger.info("Not kept, as it follows from the configuration: %s.", _list(set(original) - set(kept)))
    return _tie(weights)


def _rename(name: str) -> str | None:
    for original, ours in PREFIXES.items():
        if name == original or original.endswith(".") and name.startswith(original):
            return ours + name.removeprefix(original)
    return None


def _tie(weights: Weights) -> Weights:
    for second, first in TIED_WEIGHTS.items():
        if second in weights and first in weights and not torch.equal(weights[first], weights[second]):
            logger.warning("`%s` and `%s` are one tensor but differ; the former is kept for both.", first, second)
            weights[second] = weights[first]
    return weights


def _list(names: Iterable[str]) -> str:
    """Names in a sentence, those that differ in the number of the layer as one, of many the first."""
    names = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in names})
    more = [f"and {len(names) - 20} more"] if len(names) > 20 else []
    return printable(", ".join(names[:20] + more))


def decoder_from_fusion_layers(state_dict: Mapping[str, torch.Tensor], fusion_layer: int) -> Weights:
    """Weights that the answer decoder of question answering starts from: the fusion layers of a pre-trained model.

    Args:
        state_dict: State dict of [`SViTTForPreTraining`], or of another model with a `text_model`, whose decoder then
            starts without a word prediction head.
        fusion_layer: `text_config.fusion_layer`; that layer becomes layer 0 of the decoder.

    Returns:
        Weights named `text_decoder.*`, for [`SViTTForVideoQuestionAnswering`].
    """
    weights = {}
    for name, tensor in state_dict.items():
        layer = re.fullmatch(r"text_model\.encoder\.layer\.(\d+)\.(.*)", name)
        if layer and int(layer[1]) >= fusion_layer:
            weights[f"text_decoder.bert.encoder.layer.{int(layer[1]) - fusion_layer}.{layer[2]}"] = tensor
        elif name.startswith("text_model.embeddings."):
            weights["text_decoder.bert." + name.removeprefix("text_model.")] = tensor
        elif name.startswith("cls."):
            weights["text_decoder." + name] = tensor
    return weights


# ----------------------------------------------------------------------------------------------------
# Positions: from images to clips, from short to long clips, from one image size to another
# ----------------------------------------------------------------------------------------------------


def resize_relative_position_bias(
    table: torch.Tensor, source_grid: tuple[int, int, int], target_grid: tuple[int, int, int]
) -> torch.Tensor:
    """Resizes a relative position bias table: in space by BEiT's spline, then in time by nearest neighbour.

    Args:
        table: (rows, heads), rows as in [`RelativePositions`]; the last 3, of the CLS token, are kept.
        source_grid: Frames, patches along the height and along the width that the table is for; one frame for BEiT's.
        target_grid: The same, wanted.

    Raises:
        ValueError: if the table does not have the rows of `source_grid`.
    """
    source, target = RelativePositions(*source_grid), RelativePositions(*target_grid)
    if len(table) != source.num_rows:
        raise ValueError(
            f"A bias table for {_grid(source_grid)} has {source.num_rows} rows, this one has {len(table)}."
        )
    if source_grid[1:] != target_grid[1:]:
        offsets = table[:-3].unflatten(0, (-1, source.spatial_rows))
        offsets = torch.stack([_resize_offsets(frame, source_grid[1:], target_grid[1:]) for frame in offsets])
        table = torch.cat([offsets.flatten(0, 1).to(table), table[-3:]])
    rows = target.rows_of_table_for(source_grid[0], table.device)
    return table if rows is None else table[rows]


def _resize_offsets(biases: torch.Tensor, source: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Biases of the spatial offsets of a grid of H x W patches, ((2H-1) * (2W-1), heads), for those of another."""
    sides = [(2 * old - 1, 2 * new - 1) for old, new in zip(source, target, strict=True)]
    points = [_geometric_points(old, new) for old, new in sides]
    targets = [np.arange(-(new // 2), new // 2 + 1.0) for _, new in sides]
    degrees = [min(3, old - 1) for old, _ in sides]
    heads = biases.unflatten(0, (sides[0][0], sides[1][0])).double().permute(2, 0, 1).cpu().numpy()
    resized = [RectBivariateSpline(*points, head, kx=degrees[0], ky=degrees[1])(*targets) for head in heads]
    return torch.from_numpy(np.stack(resized, axis=-1)).flatten(0, 1)


def _geometric_points(source: int, target: int) -> np.ndarray:
    """Where BEiT puts `source` offsets among `target` ones: at steps that grow geometrically, dense near 0."""
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
    """Resizes absolute position embeddings (1, 1 + H * H, D) to (1, 1 + grid_size ** 2, D), bicubically; CLS first."""
    source = math.isqrt(embeddings.shape[1] - 1)
    if source**2 != embeddings.shape[1] - 1:
        raise ValueError(f"{embeddings.shape[1]} position embeddings are not those of a square grid and a CLS token.")
    if source == grid_size:
        return embeddings
    patches = embeddings[:, 1:].transpose(1, 2).unflatten(2, (source, source))
    patches = F.interpolate(patches, size=(grid_size, grid_size), mode="bicubic", align_corners=False)
    return torch.cat([embeddings[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def _resize_positions(
    weights: Mapping[str, torch.Tensor], source_grid: tuple[int, int, int], target_grid: tuple[int, int, int]
) -> Weights:
    resized = dict(weights)
    for name, tensor in weights.items():
        if name.endswith(BIAS_TABLE):
            resized[name] = resize_relative_position_bias(tensor, source_grid, target_grid)
        elif name.removeprefix("vision_model.") == "embeddings.position_embeddings":
            resized[name] = resize_position_embeddings(tensor, target_grid[1])
    return resized


def expand_num_frames(
    state_dict: Mapping[str, torch.Tensor], config: SViTTConfig, num_frames: int
) -> tuple[Weights, SViTTConfig]:
    """The paper's temporal sparse expansion: a model for clips of `num_frames` frames that starts from one for others.

    Lower `vision_config.token_keep_rate` of the new configuration to keep the cost of longer clips down.

    Args:
        state_dict: Of any SViTT model.
        config: Of the same model; not changed.
        num_frames: Frames wanted.

    Returns:
        Weights and configuration of the new model.
    """
    config = copy.deepcopy(config)
    vision = config.vision_config
    space = (vision.grid_size, vision.grid_size)
    weights = _resize_positions(state_dict, (vision.num_frames, *space), (num_frames, *space))
    vision.num_frames, vision.max_num_frames = num_frames, max(num_frames, vision.max_num_frames)
    return weights, config


def _grid(grid: tuple[int, int, int]) -> str:
    return f"{grid[0]} frames of {grid[1]} x {grid[2]} patches"


# ----------------------------------------------------------------------------------------------------
# Original checkpoint -> Hub folder
# ----------------------------------------------------------------------------------------------------

# What the original code does where the checkpoint's configuration says nothing ...
ORIGINAL_VISION_DEFAULTS = {
    "token_keep_rate": 1.0,
    "token_drop_loc": [3, 6, 9],
    "sparse_local_attn": 1,
    "sparse_random_attn": None,
    "attn_block_size": 1,
}
ORIGINAL_TEXT_DEFAULTS = {"token_keep_rate": 1.0}
# ... and whatever it says.
ORIGINAL_BEHAVIOUR = {"attn_mask_padding": False}


def convert_checkpoint(
    path: str | os.PathLike,
    output_dir: str | os.PathLike,
    tokenizer: str | os.PathLike = "bert-base-uncased",
    vision_config: dict | None = None,
    text_config: dict | None = None,
):
    """Converts a checkpoint of the original code to a folder for `from_pretrained`.

    The configuration comes from the shapes of the weights and from the training configuration in the checkpoint. It
    reproduces the original code, faults included (`attn_mask_padding=False`, no dropping in fusion unless the original
    did).

    Args:
        path: The original `.pth`, of pre-training, retrieval or question answering; read by [`read_checkpoint`].
        output_dir: Folder to write, which must not exist or be empty.
        tokenizer: Folder or Hub name of the BERT tokenizer that the model was trained with.
        vision_config: Fields of [`SViTTVisionConfig`] that the checkpoint does not tell, or tells wrongly.
        text_config: The same for [`SViTTTextConfig`].

    Raises:
        OSError: if the checkpoint or the tokenizer is not found.
        ValueError: if the checkpoint is damaged, hostile or of another model, or the output folder is in use.
    """
    _check_output(output_dir)
    checkpoint = read_checkpoint(path)
    original = checkpoint.get("model", checkpoint)
    if not isinstance(original, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in original.items()
    ):
        raise ValueError(f"{path} has no dict of weights under 'model'; its entries are {_list(checkpoint)}.")
    weights = convert_state_dict(original)
    logger.info("Not converted: %s.", _list(checkpoint.keys() - {"model", "config"}) or "nothing")

    tokenizer = load_tokenizer(tokenizer)
    try:
        config = infer_config(
            original,
            plain(checkpoint.get("config")),
            vision_config=vision_config,
            text_config={**special_token_ids(tokenizer), **(text_config or {})},
        )
        model_class = _model_class(weights)
        with torch.device("meta"):  # takes no memory, whatever sizes were inferred
            _check_fit(model_class(config), weights)
        model = model_class(config)
    # Fields that are not of the type or the size they should be.
    except (ArithmeticError, AttributeError, TypeError, LookupError, RuntimeError) as error:
        raise ValueError(f"{path}: its configuration is none of an original model ({reason_of(error)}).") from error
    _load(model, weights)
    save_folder(model, make_processor(config, tokenizer), output_dir)


def _model_class(weights: Weights) -> type[PreTrainedModel]:
    if "text_decoder.cls.predictions.bias" in weights:
        return modeling_svitt.SViTTForVideoQuestionAnswering
    if "cls.predictions.bias" in weights:
        return modeling_svitt.SViTTForPreTraining
    if "itm_head.weight" in weights:
        return modeling_svitt.SViTTForVideoTextRetrieval
    raise ValueError("The checkpoint is of no pre-training, retrieval or question answering model: it has no head.")


def infer_config(
    original: Mapping[str, torch.Tensor],
    original_config: Mapping | None = None,
    vision_config: dict | None = None,
    text_config: dict | None = None,
) -> SViTTConfig:
    """The configuration of an original model.

    Args:
        original: Its state dict, under the original's names.
        original_config: Its training configuration as plain data, if known: `vision_encoder_args`,
            `text_encoder_args`, `video_input`, `image_res`, `temp`, `loss_weight`, ... are read.
        vision_config: Fields of [`SViTTVisionConfig`] that take precedence.
        text_config: Fields of [`SViTTTextConfig`] that take precedence.

    Raises:
        ValueError: if the weights do not tell a size (heads of another width than 64, or several grids that fit the
            bias tables) and nothing else does.
    """
    _check_fields(vision_config, text_config)
    weights = convert_state_dict({name: original[name] for name in original if not name.endswith(INDEX_BUFFERS)})
    trained = original_config if isinstance(original_config, Mapping) else {}
    if not trained:
        logger.warning(
            "The checkpoint has no configuration: sparsity is taken to be the published one, "
            "with the defaults of `SViTTVisionConfig`."
        )
    vision = _vision_settings(original, weights, trained, vision_config or {})
    text = _text_settings(weights, "text_model.", trained, text_config or {})
    joint = {field: trained[field] for field in ("temp", "mlm_prob", "itm_hard_neg", "loss_weight") if field in trained}
    if "vision_proj.weight" in weights:
        joint["embed_dim"] = len(weights["vision_proj.weight"])
    if "text_decoder.cls.predictions.bias" in weights:
        text["token_keep_rate"] = 1.0  # the original drops in fusion mode only, and questions are read in multimodal
        joint["decoder_config"] = _text_sizes(weights, "text_decoder.bert.")
    return SViTTConfig(vision_config=vision, text_config=text, **joint)


def _vision_settings(original: Mapping, weights: Weights, trained: Mapping, given: dict) -> dict:
    prefix = "vision_model."
    hidden_size, num_channels, patch_size, _ = _shape(
        weights, f"{prefix}embeddings.patch_embeddings.projection.weight", 4
    )
    num_layers = _num_layers(weights, prefix)
    sizes = {
        "hidden_size": hidden_size,
        "num_channels": num_channels,
        "patch_size": patch_size,
        "num_hidden_layers": num_layers,
        "intermediate_size": _shape(weights, f"{prefix}encoder.layer.0.intermediate.dense.weight", 2)[0],
        "use_mean_pooling": f"{prefix}layernorm.weight" not in weights,
        "use_absolute_position_embeddings": f"{prefix}embeddings.position_embeddings" in weights,
        "use_relative_position_bias": f"{prefix}encoder.layer.0.attention.attention.{BIAS_TABLE}" in weights,
    }
    settings = {**(ORIGINAL_VISION_DEFAULTS if trained else {}), "num_attention_heads": hidden_size // 64}
    settings |= _fields(SViTTVisionConfig, trained, "vit_config", "vision_encoder_args")
    clips = {"num_frames": (trained.get("video_input") or {}).get("num_frames"), "image_size": trained.get("image_res")}
    settings |= {field: value for field, value in clips.items() if value is not None}
    if "token_drop_loc" in settings:  # the original ignores layers that do not exist
        settings["token_drop_loc"] = [layer for layer in settings["token_drop_loc"] if layer < num_layers]
    settings |= {**sizes, **ORIGINAL_BEHAVIOUR, **given}

    if sizes["use_relative_position_bias"]:
        num_rows, settings["num_attention_heads"] = _shape(weights, _bias_table_name(prefix, 0), 2)
        index = next((tensor for name, tensor in original.items() if name.endswith("relative_position_index")), None)
        settings["num_frames"], settings["image_size"] = _clip_size(
            num_rows, settings, num_patches=None if index is None else len(index) - 1
        )
    elif sizes["use_absolute_position_embeddings"]:
        num_positions = _shape(weights, f"{prefix}embeddings.position_embeddings", 3)[1]
        settings["image_size"] = math.isqrt(num_positions - 1) * patch_size
    return settings


def _clip_size(num_rows: int, settings: dict, num_patches: int | None) -> tuple[int, int]:
    """Frames and image size from the rows of a bias table, (2T-1)(2H-1)(2H-1) + 3, and what else is known."""
    patch_size = settings["patch_size"]
    fitting = []
    for grid_size in range(1, math.isqrt(num_rows) + 1):
        num_offsets, rest = divmod(num_rows - 3, (2 * grid_size - 1) ** 2)
        num_frames, image_size = (num_offsets + 1) // 2, grid_size * patch_size
        if (
            rest == 0
            and num_offsets > 0
            and num_patches in (None, num_frames * grid_size**2)
            and settings.get("num_frames") in (None, num_frames)
            and settings.get("image_size") in (None, image_size)
        ):
            fitting.append((num_frames, image_size))
    if len(fitting) != 1:
        known = {field: settings[field] for field in ("num_frames", "image_size") if field in settings}
        raise ValueError(
            f"Bias tables of {num_rows} rows and patches of {patch_size} pixels fit "
            + (f"several (num_frames, image_size): {fitting}; say which." if fitting else f"no clips with {known}.")
        )
    return fitting[0]


def _text_settings(weights: Weights, prefix: str, trained: Mapping, given: dict) -> dict:
    sizes = _text_sizes(weights, prefix)
    settings = {**ORIGINAL_TEXT_DEFAULTS, **_fields(SViTTTextConfig, trained, "bert_config", "text_encoder_args")}
    if "token_drop_loc" in settings:
        layers = range(sizes["fusion_layer"], sizes["num_hidden_layers"])
        settings["token_drop_loc"] = [layer for layer in settings["token_drop_loc"] if layer in layers]
    settings |= {**sizes, **ORIGINAL_BEHAVIOUR, **given}
    if "num_attention_heads" not in settings:
        if sizes["hidden_size"] % 64:
            raise ValueError(
                "The weights of BERT do not tell its number of heads, and at a width of "
                f"{sizes['hidden_size']} they are not 64 wide; say `num_attention_heads` in `text_config`."
            )
        settings["num_attention_heads"] = sizes["hidden_size"] // 64
    return settings


def _text_sizes(weights: Weights, prefix: str) -> dict:
    vocab_size, hidden_size = _shape(weights, f"{prefix}embeddings.word_embeddings.weight", 2)
    num_layers = _num_layers(weights, prefix)
    cross_keys = [f"{prefix}encoder.layer.{layer}.crossattention.self.key.weight" for layer in range(num_layers)]
    fusion_layer = next((layer for layer, name in enumerate(cross_keys) if name in weights), num_layers)
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "intermediate_size": _shape(weights, f"{prefix}encoder.layer.0.intermediate.dense.weight", 2)[0],
        "max_position_embeddings": _shape(weights, f"{prefix}embeddings.position_embeddings.weight", 2)[0],
        "type_vocab_size": _shape(weights, f"{prefix}embeddings.token_type_embeddings.weight", 2)[0],
        "fusion_layer": fusion_layer,
    }
    if fusion_layer < num_layers:
        sizes["encoder_width"] = _shape(weights, cross_keys[fusion_layer], 2)[1]
    return sizes


def _fields(config_class: type, trained: Mapping, *sections: str) -> dict:
    """What sections of the original's configuration say of the fields of ours."""
    found = {}
    for section in sections:
        values = trained.get(section)
        if isinstance(values, Mapping):  # `bert_config` is the path of a file in the published configurations
            found |= {field: value for field, value in values.items() if field in config_class.__annotations__}
    return found


def _check_fields(vision_config: dict | None, text_config: dict | None):
    for config_class, given in ((SViTTVisionConfig, vision_config), (SViTTTextConfig, text_config)):
        unknown = set(given or ()) - set(config_class.__annotations__)
        if unknown:
            raise ValueError(f"{config_class.__name__} has no field {', '.join(sorted(unknown))}.")


def _num_layers(weights: Weights, prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"encoder\.layer\.(\d+)\.")
    last = max((int(match[1]) for match in map(pattern.match, weights) if match), default=-1)
    if last >= len(weights):
        raise ValueError(f"The checkpoint has weights of layer {last}, but not of all before it.")
    return 1 + last


def _shape(weights: Weights, name: str, num_dims: int) -> torch.Size:
    if name not in weights:
        raise ValueError(f"The checkpoint has no `{name}`.")
    if weights[name].dim() != num_dims:
        raise ValueError(f"`{name}` has {weights[name].dim()} dimensions instead of {num_dims}.")
    return weights[name].shape


def _bias_table_name(prefix: str, layer: int) -> str:
    return f"{prefix}encoder.layer.{layer}.attention.attention.{BIAS_TABLE}"


def _check_fit(model: PreTrainedModel, weights: Weights, may_lack: str | None = None) -> list[str]:
    """The names of what the model has besides `weights`; a `ValueError` for what does not match `may_lack`, for a
    weight that it has no place for, and for one of another shape."""
    own = model.state_dict()
    for name, tensor in weights.items():
        if name in own and own[name].shape != tensor.shape:
            sizes = f"{name}, of {in_words(tensor.shape)} values instead of {in_words(own[name].shape)}"
            raise ValueError(f"The weights do not fit the configuration: size mismatch for {sizes}.")
    if unexpected := weights.keys() - own.keys():
        raise ValueError(f"{type(model).__name__} has no place for {_list(unexpected)}.")
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    new = [name for name in own if name not in weights and name not in tied]
    lacking = [name for name in new if may_lack is None or not re.match(may_lack, name)]
    if lacking:
        raise ValueError(f"{type(model).__name__} needs weights that are missing: {_list(lacking)}.")
    return new


def load_complete(model_class: type[PreTrainedModel], name: str | os.PathLike, config: SViTTConfig) -> PreTrainedModel:
    """As `model_class.from_pretrained` in float32, of a folder or Hub name of any SViTT; but weights that should be
    there are never random.

    Args:
        config: Of the model in the folder, perhaps with other settings.

    Raises:
        ValueError: if the weights are damaged, of other shapes, or not those of the class that the model is of. What
            only `model_class` has keeps its initial values.
    """
    if getattr(config, "transformers_weights", None) is not None:
        raise ValueError(f"{name}: `transformers_weights` of its config.json is not supported; leave it out.")
    stored = stored_shapes(name)
    for part in ("vision_config", "text_config", "decoder_config"):
        if stored and (num_layers := getattr(config, part).num_hidden_layers) > len(stored):
            raise ValueError(f"{name}: `num_hidden_layers` of its {part} is {num_layers}, more than it has weights.")
    source_class = model_of(name, config) if config.architectures else model_class
    with torch.device("meta"):
        own = source_class(copy.deepcopy(config)).state_dict()
    _check_shapes(name, ((weight, shape, own[weight].shape) for weight, shape in stored.items() if weight in own))
    try:
        model, report = model_class.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
        )
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{name}: its weights are damaged ({reason_of(error)}).") from error
    _check_shapes(name, report["mismatched_keys"])
    if missing := own.keys() & report["missing_keys"]:
        raise ValueError(f"{name}: lacks weights of its {source_class.__name__}: {_list(missing)}.")
    unexpected = set(report["unexpected_keys"]) - own.keys()
    if unexpected := [weight for weight in unexpected if not weight.endswith(INDEX_BUFFERS)]:
        raise ValueError(f"{name}: has weights that no {source_class.__name__} has: {_list(unexpected)}.")
    return model


def _check_shapes(name: str | os.PathLike, shapes: Iterable[tuple]):
    """A `ValueError` for the first of some (weight, shape, shape needed) that differs."""
    for weight, size, needed in sorted(shapes):
        if tuple(size) != tuple(needed):
            raise ValueError(
                f"{name}: {weight} is of {in_words(size)} values, its configuration needs {in_words(needed)}."
            )


def stored_shapes(folder: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights in a folder by name, from the heads of its files; none of what is on the Hub.

    Raises:
        ValueError: that names a file that is damaged, holds something else than floating point numbers, or is a pickle.
    """
    shapes = {}
    for file in _weight_files(Path(folder)):
        try:
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118 (it is no dict)
                    weight = weights.get_slice(name)
                    if weight.get_dtype() not in FLOATS and not name.endswith(INDEX_BUFFERS):
                        raise ValueError(f"{file}: {name} is of type {weight.get_dtype()}, not {', '.join(FLOATS)}.")
                    shapes[name] = tuple(weight.get_shape())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file}: damaged or cut off ({reason_of(error)}).") from error
    return shapes


def _weight_files(folder: Path) -> list[Path]:
    """Those that `from_pretrained` reads; a `ValueError` for a pickle and for a list that leads elsewhere."""
    if (folder / SAFE_WEIGHTS_NAME).exists():
        return [folder / SAFE_WEIGHTS_NAME]
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.exists():
        if pickles := sorted(folder.glob("pytorch_model*.bin")):
            raise ValueError(f"{pickles[0]}: is a pickle, which may run code; only .safetensors files are read.")
        return []
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise ValueError(f"{index}: its `weight_map` must be an object of file names.")
    for place in set(places.values()):
        if Path(place).name != place or not (folder / place).is_file():
            raise ValueError(f"{index}: its `weight_map` names {printable(place)!r}, which is no file of the folder.")
    return [folder / place for place in sorted(set(places.values()))]


def read_json(file: Path) -> dict:
    """A JSON object; a `ValueError` that names the file if it holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: damaged, or no JSON ({reason_of(error)}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: must hold a JSON object, not a {type(content).__name__}.")
    return content


def check_settings(folder: str | os.PathLike):
    """A `ValueError` that names a damaged file of settings in a folder, which `from_pretrained` does not."""
    for name in SETTINGS_FILES:
        if (file := Path(folder, name)).exists():
            read_json(file)


def reason_of(error: BaseException) -> str:
    """What an error says, as a part of a sentence."""
    speaks = isinstance(error, (OSError, ValueError, SafetensorError, StrictDataclassError))
    error = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
    text = printable(str(error)).rstrip(".")
    return text if speaks else f"{type(error).__name__}: {text}"


def model_of(name: str | os.PathLike, config: SViTTConfig) -> type[PreTrainedModel]:
    """The class that a model was saved from; a `ValueError` if it is none of ours."""
    names = config.architectures or ["SViTTModel"]
    architecture = names[0] if isinstance(names, list) else names
    if architecture not in modeling_svitt.__all__ or not architecture.startswith("SViTT"):
        raise ValueError(f"{name}: holds a {printable(str(architecture))}, which is no SViTT.")
    return getattr(modeling_svitt, architecture)


def _load(model: PreTrainedModel, weights: Weights, may_lack: str | None = None):
    """Loads all of `weights`. What the model has besides must match `may_lack`, and keeps its initial value."""
    new = _check_fit(model, weights, may_lack)
    model.load_state_dict(weights, strict=False)
    if new:
        modules = (name.removesuffix(".weight").removesuffix(".bias") for name in new)
        logger.info("New, with their initial values: %s.", _list(modules))


# ----------------------------------------------------------------------------------------------------
# BEiT + BERT -> fresh SViTT
# ----------------------------------------------------------------------------------------------------

NEW_MODULES = (
    rf".*\.{BIAS_TABLE}$|.*\.crossattention\.|vision_layernorm\.|vision_proj\.|text_proj\.|itm_head\.|temp$|cls\."
)


def init_from_towers(
    vision: str | os.PathLike,
    text: str | os.PathLike,
    num_frames: int = 4,
    image_size: int | None = None,
    fusion_layer: int | None = None,
    vision_config: dict | None = None,
    text_config: dict | None = None,
    **kwargs,
) -> SViTTForPreTraining:
    """A fresh SViTT from a pretrained BEiT and a pretrained BERT; saved, it loads into every SViTT class.

    Args:
        vision: Folder or Hub name of a BEiT, with relative (per layer or shared) or absolute positions or both.
        text: Folder or Hub name of a BERT of any width and depth, with a word prediction head or without.
        num_frames: Frames of the clips; biases are repeated along time. A BEiT without biases gets some, of zero,
            if there are several: nothing else tells the model the order of frames.
        image_size: Image size of the clips, that of `vision` by default; positions are resized.
        fusion_layer: First layer of BERT that gets (new) cross-attention. Default: three quarters of the depth.
        vision_config: Fields of [`SViTTVisionConfig`], such as the sparsity.
        text_config: Fields of [`SViTTTextConfig`], such as the token dropping.
        kwargs: Fields of [`SViTTConfig`].

    Raises:
        OSError: if a tower is not found.
        ValueError: if a tower is of another kind or incomplete, or a field does not fit.
    """
    _check_fields(vision_config, text_config)
    vision_fields, vision_weights = _beit_tower(vision, num_frames, image_size)
    text_fields, text_weights = _bert_tower(text)
    if fusion_layer is None:
        fusion_layer = text_fields["num_hidden_layers"] * 3 // 4
    text_fields |= {"fusion_layer": fusion_layer, "encoder_width": vision_fields["hidden_size"]}
    config = SViTTConfig(
        vision_config={**vision_fields, **(vision_config or {})},
        text_config={**text_fields, **(text_config or {})},
        **kwargs,
    )
    model = SViTTForPreTraining(config)
    _load(model, {**vision_weights, **text_weights}, may_lack=NEW_MODULES)
    return model


def _beit_tower(name: str | os.PathLike, num_frames: int, image_size: int | None) -> tuple[dict, Weights]:
    """Fields of [`SViTTVisionConfig`] and weights, under our names, from a BEiT."""
    config, weights = _pretrained(BeitModel, name, may_lack=r"pooler\.")
    for field in ("image_size", "patch_size"):
        if not isinstance(getattr(config, field), int):
            raise ValueError(f"`{field}` of {name} must be one number, got {getattr(config, field)}.")
    fields = {field: getattr(config, field) for field in SViTTVisionConfig.__annotations__ if hasattr(config, field)}
    layers = range(config.num_hidden_layers)

    shared_table = weights.pop(f"encoder.{BIAS_TABLE}", None)
    if shared_table is not None:
        for table in (_bias_table_name("", layer) for layer in layers):
            weights[table] = shared_table + weights.get(table, 0)
        fields["use_relative_position_bias"] = True
    if not config.layer_scale_init_value:  # no layer scale: our scales are then 1
        fields["layer_scale_init_value"] = 1.0
        names = [f"encoder.layer.{layer}.lambda_{branch}" for layer in layers for branch in (1, 2)]
        weights |= {scale: torch.ones(config.hidden_size) for scale in names}
    if weights.pop("embeddings.mask_token", None) is not None:
        logger.warning("Not used from %s: embeddings.mask_token.", name)
    if num_frames > 1 and not any(key.endswith(BIAS_TABLE) for key in weights):
        # Absolute positions are those within a frame; without biases the order of frames would make no difference.
        fields["use_relative_position_bias"] = True

    grid_size = config.image_size // config.patch_size
    fields |= {"num_frames": num_frames, "image_size": image_size or config.image_size}
    target_size = fields["image_size"] // config.patch_size
    weights = _resize_positions(weights, (1, grid_size, grid_size), (num_frames, target_size, target_size))
    return fields, {f"vision_model.{name}": tensor for name, tensor in weights.items()}


def _bert_tower(name: str | os.PathLike) -> tuple[dict, Weights]:
    """Fields of [`SViTTTextConfig`] and weights, under our names, from a BERT, with its word prediction head if any."""
    architectures = AutoConfig.from_pretrained(name, trust_remote_code=False).architectures or []
    has_head = any(architecture.endswith(("ForMaskedLM", "ForPreTraining")) for architecture in architectures)
    if has_head:
        config, weights = _pretrained(BertForMaskedLM, name)
        weights = {key.replace("bert.", "text_model.", 1): tensor for key, tensor in weights.items()}
    else:
        config, weights = _pretrained(BertModel, name, add_pooling_layer=False)
        weights = {f"text_model.{key}": tensor for key, tensor in weights.items()}
    fields = {field: getattr(config, field) for field in SViTTTextConfig.__annotations__ if hasattr(config, field)}
    for field in ("bos_token_id", "eos_token_id", "is_decoder"):  # those of SViTT apply
        fields.pop(field, None)
    return fields, weights


def _pretrained(
    model_class: type[PreTrainedModel], name: str | os.PathLike, may_lack: str | None = None, **kwargs
) -> tuple[AutoConfig, Weights]:
    """Configuration and float32 weights of a pretrained model, under the names of checkpoints."""
    model_type = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
    if model_type != model_class.config_class.model_type:
        raise ValueError(f"{name} is a {model_type!r} model; a {model_class.config_class.model_type!r} one is needed.")
    model, report = model_class.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **kwargs)
    missing = [key for key in report["missing_keys"] if may_lack is None or not re.match(may_lack, key)]
    if missing:
        raise ValueError(f"{name} lacks weights of a {model_class.__name__}: {_list(missing)}.")
    if report["unexpected_keys"]:
        logger.warning("Not used from %s: %s.", name, _list(report["unexpected_keys"]))
    # Names in memory change between versions of transformers (BEiT's have); those that it saves do not.
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="1000GB")
        return model.config, load_file(Path(folder, "model.safetensors"))


# ----------------------------------------------------------------------------------------------------
# Folders
# ----------------------------------------------------------------------------------------------------


def load_tokenizer(name: str | os.PathLike) -> BertTokenizer:
    """The BERT tokenizer in a folder or of a Hub name; an `OSError` of one sentence where there is none."""
    try:
        tokenizer = BertTokenizer.from_pretrained(name)
    except Exception:  # tokenizers raises nothing more special
        tokenizer = None
    # Without a vocabulary, transformers makes a tokenizer of nothing but special tokens.
    if tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise OSError(f"No BERT tokenizer was found at {name}; say where one is with `tokenizer`.")
    return tokenizer


def load_processor(name: str | os.PathLike, **settings) -> SViTTProcessor:
    """`SViTTProcessor.from_pretrained`, which never asks whether to run code; a `ValueError` if it is damaged."""
    try:
        return SViTTProcessor.from_pretrained(name, trust_remote_code=False, **settings)
    except Exception as error:  # tokenizers raises nothing more special
        raise ValueError(f"{name}: its processor or tokenizer cannot be loaded ({reason_of(error)}).") from error


def special_token_ids(tokenizer: BertTokenizer) -> dict:
    """Fields of [`SViTTTextConfig`] that follow from a BERT tokenizer."""
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "mask_token_id": tokenizer.mask_token_id,
    }


def image_statistics(vision: str | os.PathLike) -> dict:
    """`image_mean` and `image_std` that a vision tower was trained with, where its folder says so."""
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(vision)
    except OSError:
        logger.info("%s has no preprocessor_config.json: images get BEiT's mean and deviation, 0.5.", vision)
        return {}
    return {field: settings[field] for field in ("image_mean", "image_std") if field in settings}


def make_processor(config: SViTTConfig, tokenizer: BertTokenizer, **kwargs) -> SViTTProcessor:
    """The processor that feeds a model of this configuration; `kwargs` are further ones of its video processor."""
    vocab_size = config.text_config.vocab_size
    if len(tokenizer) > vocab_size:
        raise ValueError(f"The tokenizer has {len(tokenizer)} words, the model only {vocab_size}; they do not match.")
    vision = config.vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    return SViTTProcessor(SViTTVideoProcessor(size=size, num_frames=vision.num_frames, **kwargs), tokenizer)


def _check_output(output_dir: str | os.PathLike):
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} is in use; name a folder that does not exist yet, or an empty one.")


def save_folder(model: PreTrainedModel, processor: SViTTProcessor, output_dir: str | os.PathLike):
    """Writes model and processor to a folder that appears when it is complete, or not at all."""
    _check_output(output_dir)
    output_dir = Path(output_dir).absolute()
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=".svitt-convert-") as scratch:
            folder = Path(scratch, "model")
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            os.replace(folder, output_dir)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise OSError(f"{output_dir}: cannot be written ({reason}).") from error
    logger.info("%s written to %s.", type(model).__name__, output_dir)


# ----------------------------------------------------------------------------------------------------
# Command line
# ----------------------------------------------------------------------------------------------------


def parse_field(text: str) -> tuple[str, object]:
    field, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} must look like FIELD=VALUE")
    try:
        return field, json.loads(value)
    except json.JSONDecodeError:
        return field, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="svitt-convert", description="Make SViTT models for transformers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fields = argparse.ArgumentParser(add_help=False)
    for tower in ("vision", "text"):
        fields.add_argument(
            f"--{tower}_config",
            nargs="+",
            type=parse_field,
            default=[],
            metavar="FIELD=VALUE",
            help=f"fields of SViTT{tower.capitalize()}Config, values in JSON, such as token_keep_rate=0.6",
        )

    command = commands.add_parser("checkpoint", parents=[fields], help="convert a .pth of the original SViTT code")
    command.add_argument("checkpoint", help="the .pth: pre-training, retrieval or question answering")
    command.add_argument("output_dir", help="folder to write, for from_pretrained")
    command.add_argument("--tokenizer", default="bert-base-uncased", help="folder or Hub name (default: %(default)s)")
    command.set_defaults(run=_run_checkpoint)

    command = commands.add_parser("towers", parents=[fields], help="join a BEiT and a BERT to a fresh SViTT")
    command.add_argument("vision", help="folder or Hub name of a BEiT")
    command.add_argument("text", help="folder or Hub name of a BERT")
    command.add_argument("output_dir", help="folder to write, for from_pretrained")
    command.add_argument("--num_frames", type=int, default=4, help="frames of a clip (default: %(default)s)")
    command.add_argument("--image_size", type=int, help="pixels along a side (default: that of the BEiT)")
    command.add_argument("--fusion_layer", type=int, help="first with cross-attention (default: after 3/4 of all)")
    command.add_argument("--tokenizer", help="folder or Hub name (default: that of the BERT)")
    for statistic in ("mean", "std"):
        command.add_argument(
            f"--image_{statistic}",
            nargs=3,
            type=float,
            metavar=("RED", "GREEN", "BLUE"),
            help="to normalise images with (default: what the folder of the BEiT says, else 0.5)",
        )
    command.set_defaults(run=_run_towers)

    command = commands.add_parser("expand", help="make a SViTT for longer clips from one for shorter clips")
    command.add_argument("model", help="folder or Hub name of a SViTT")
    command.add_argument("output_dir", help="folder to write, for from_pretrained")
    command.add_argument("--num_frames", type=int, required=True, help="frames of a clip")
    command.add_argument("--token_keep_rate", type=float, help="share of patch tokens kept at each drop, now lower")
    command.set_defaults(run=_run_expand)
    return parser


def _run_checkpoint(args: argparse.Namespace):
    convert_checkpoint(
        args.checkpoint, args.output_dir, args.tokenizer, dict(args.vision_config), dict(args.text_config)
    )


def _run_towers(args: argparse.Namespace):
    _check_output(args.output_dir)
    tokenizer = load_tokenizer(args.tokenizer or args.text)
    model = init_from_towers(
        args.vision,
        args.text,
        num_frames=args.num_frames,
        image_size=args.image_size,
        fusion_layer=args.fusion_layer,
        vision_config=dict(args.vision_config),
        text_config={**special_token_ids(tokenizer), **dict(args.text_config)},
    )
    statistics = {name: value for name in ("image_mean", "image_std") if (value := getattr(args, name))}
    if len(statistics) < 2:
        statistics = image_statistics(args.vision) | statistics
    save_folder(model, make_processor(model.config, tokenizer, **statistics), args.output_dir)


def _run_expand(args: argparse.Namespace):
    _check_output(args.output_dir)
    check_settings(args.model)
    config = SViTTConfig.from_pretrained(args.model)
    model_class = model_of(args.model, config)
    model = load_complete(model_class, args.model, config)
    weights, config = expand_num_frames(model.state_dict(), config, args.num_frames)
    if args.token_keep_rate is not None:
        config.vision_config.token_keep_rate = args.token_keep_rate
    model = model_class(config)
    _load(model, weights)
    settings, _ = SViTTProcessor.get_processor_dict(args.model)
    settings = {field: settings[field] for field in ("clean_text", "add_sep", "max_answer_length") if field in settings}
    video_processor = SViTTVideoProcessor.from_pretrained(args.model, num_frames=args.num_frames)
    save_folder(model, SViTTProcessor(video_processor, load_tokenizer(args.model), **settings), args.output_dir)


def main(arguments: list[str] | None = None):
    """Entry point of `svitt-convert`. Bad input ends it with one sentence and exit code 2."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    try:
        args.run(args)
    except BAD_MODEL as error:
        is_of_file = isinstance(error, OSError) and error.filename
        reason = printable(f"{error.filename}: {error.strerror}.") if is_of_file else f"{reason_of(error)}."
        print(f"svitt-convert: {reason}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
