# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Checkpoints of the original code, and of code that it grew from."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from .. import modeling_svitt
from ..configuration_svitt import SViTTConfig, SViTTTextConfig, SViTTVisionConfig
from ..errors import InputError
from .loading import CLIP_STATISTICS, FRAME_WISE, Name, Source, Weights, in_one_sentence, listed, logger, merged
from .pickles import plain, read_checkpoint, weights_of
from .positions import bias_table_name
from .vit import is_vit, vit_weights

# ---- Names

# Original prefix -> ours, first match first. Below a prefix all names are the same.
PREFIXES = {
    "vision_encoder.": "vision_model.",
    "visual_encoder.": "vision_model.",  # ALBEF
    "text_encoder.bert.": "text_model.",
    "text_encoder.cls.": "cls.",
    "text_encoder.": "text_model.",
}
PREFIXES |= {name: name for name in ("text_decoder.", "vision_layernorm.", "vision_proj.", "text_proj.", "itm_head.")}
TOWER_PREFIXES = ("embeddings.", "encoder.", "pooler.", "layernorm.")  # of one encoder on its own, named as ours
INDEX_BUFFERS = ("relative_position_index", "position_ids")  # functions of the configuration, which the port computes
# What training alone uses, or nothing: momentum copies, queues of negatives, what Singularity does not add.
UNUSED = re.compile(r"\w+_m\..*|(image|text|idx)_queue|queue_ptr|ptr_queue|temporal_embeddings")


def convert_state_dict(original: Mapping[str, torch.Tensor]) -> Weights:
    """Rename the weights of the original code: of a model of one of its tasks, or of its video or text encoder alone.

    Also those of Singularity and ALBEF, whose code it grew from.

    Returns:
        The same tensors under our names, without what follows from the configuration (`INDEX_BUFFERS`), or is `UNUSED`.

    Raises:
        InputError: if there are names of no original model, or two names for one of ours.
    """
    if any(name.startswith("temporal_vision_encoder.") for name in original):
        raise InputError(
            "This is Singularity's temporal variant, whose layers along time SViTT has not; its checkpoints of one "
            "frame fit, which have no weights `temporal_vision_encoder`."
        )
    if unused := [name for name in original if UNUSED.fullmatch(name)]:
        modules = {name.partition(".")[0] for name in unused}
        logger.info("Not converted, as no result depends on them: %s.", listed(modules))
    original = {name: tensor for name, tensor in original.items() if not UNUSED.fullmatch(name)}
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
    return vit_weights({new_name: original[name] for name, new_name in renamed.items()})


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


def read_original(path: Name, changes: Mapping) -> Source:
    """Read a checkpoint (`.pth`) of the original code, or of Singularity or ALBEF, by [`read_checkpoint`].

    The configuration comes from the shapes of the weights and from the training configuration in the checkpoint. It
    reproduces the original code, faults included (`attn_mask_padding=False`, no dropping in fusion unless the original
    did). `changes` are fields that the checkpoint does not tell, or tells wrongly.

    Raises:
        InputError: if the checkpoint is not found, damaged, hostile or of another model.
    """
    checkpoint = read_checkpoint(path)
    original = weights_of(path, checkpoint)
    weights = convert_state_dict(original)
    model_class = next((task for name, task in TASK_OF_HEAD.items() if name in weights), None)
    if model_class is None:
        raise InputError(f"{path}: is of no pre-training, retrieval or question answering model, it has no head.")
    vision, pixels = {}, {}
    is_albef = any(name.startswith("visual_encoder.") for name in original)
    if is_albef or "temporal_embeddings" in original:
        vision |= FRAME_WISE
    if is_vit(original):
        vision |= {"layer_norm_eps": 1e-6}
        pixels |= CLIP_STATISTICS | {"antialias": is_albef}
    with in_one_sentence(f"{path}: its configuration is none of an original model"):
        trained = plain(checkpoint.get("config"))
        trained = trained if isinstance(trained, Mapping) else {}
        if trained.get("add_temporal_embed"):
            raise InputError(f"{path}: adds temporal embeddings (`add_temporal_embed`), which SViTT has not.")
        config = infer_config(weights, trained, **merged({"vision_config": vision}, changes))
    if {"model", "state_dict"} & checkpoint.keys():
        logger.info("Not converted: %s.", listed(checkpoint.keys() - {"model", "state_dict", "config"}) or "nothing")
    return Source(model_class, config, weights, pixels)


def infer_config(weights: Weights, trained: Mapping | None = None, **changes) -> SViTTConfig:
    """Return the configuration of an original model, from its weights under our names and its training configuration.

    Of `trained` (plain data), `vision_encoder_args`, `text_encoder_args`, `video_input`, `image_res`, `temp`,
    `loss_weight`, ... are read. `changes` are fields that take precedence.
    """
    if not trained:
        logger.warning("The checkpoint has no configuration: fields that no shape tells have the published values.")
    trained = trained or {}
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
    fields["vision_layernorm"] = "vision_layernorm.weight" in weights
    fields = merged(fields, changes)
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
    num_layers, table = _num_layers(weights, prefix), weights.get(bias_table_name(prefix, 0))
    fields: dict[str, Any] = (ORIGINAL_VISION_DEFAULTS if trained else {}) | {"num_attention_heads": width // 64}
    fields |= _fields(SViTTVisionConfig, trained, "vit_config", "vision_encoder_args")
    clips = {"num_frames": (trained.get("video_input") or {}).get("num_frames"), "image_size": trained.get("image_res")}
    fields |= {field: value for field, value in clips.items() if value is not None}
    if table is not None:
        fields["num_attention_heads"] = table.shape[1]
    if (positions := weights.get(f"{prefix}embeddings.position_embeddings")) is not None:
        fields["image_size"] = math.isqrt(positions.shape[1] - 1) * patch_size
    if "token_drop_loc" in fields:  # the original ignores layers that do not exist
        fields["token_drop_loc"] = [layer for layer in fields["token_drop_loc"] if layer in range(num_layers)]
    return fields | ORIGINAL_BEHAVIOUR | {
        "hidden_size": width,
        "num_channels": num_channels,
        "patch_size": patch_size,
        "num_hidden_layers": num_layers,
        "intermediate_size": len(weights[f"{prefix}encoder.layer.0.intermediate.dense.weight"]),
        "use_mean_pooling": f"{prefix}layernorm.weight" not in weights,
        "use_absolute_position_embeddings": positions is not None,
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
