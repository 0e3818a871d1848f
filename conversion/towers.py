# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""A fresh SViTT from a BEiT and a BERT."""

import tempfile
from pathlib import Path

from safetensors.torch import load_file
from transformers import AutoConfig, BeitModel, BertForMaskedLM, BertModel, PreTrainedModel

from ..configuration_svitt import SViTTConfig, SViTTTextConfig, SViTTVisionConfig
from ..errors import InputError
from ..modeling_svitt import SViTTForPreTraining
from .loading import (
    Name,
    Weights,
    assembled,
    in_one_sentence,
    loading,
    logger,
    merged,
    pretrained,
    shared_fields,
)
from .positions import BIAS_TABLE, bias_table_name, resize_positions

NEW_MODULES = rf".*\.{BIAS_TABLE}$|.*\.crossattention\.|.*\.lambda_\d$|temp$|cls\."
NEW_MODULES += r"|vision_layernorm\.|vision_proj\.|text_proj\.|itm_head\."


def init_from_towers(
    vision: Name,
    text: Name,
    num_frames: int = 4,
    image_size: int | None = None,
    fusion_layer: int | None = None,
    **fields,
) -> SViTTForPreTraining:
    """Make a fresh SViTT from a pretrained BEiT and a pretrained BERT; saved, it loads into every SViTT class.

    Args:
        vision: Folder or Hub name of a BEiT, with relative (per layer or shared) or absolute positions or both.
        text: Folder or Hub name of a BERT of any width and depth, with a word prediction head or without.
        num_frames: Frames of the clips; biases are repeated along time. A BEiT without biases gets some, of zero,
            if there are several: nothing else tells the model the order of frames.
        image_size: Image size of the clips, that of `vision` by default; positions are resized.
        fusion_layer: First layer of BERT that gets (new) cross-attention. Default: three quarters of the depth.
        fields: Fields of [`SViTTConfig`], and as dicts of its parts, such as the sparsity.

    Raises:
        InputError: if a tower is not found, of another kind or incomplete, or a field does not fit.
    """
    with loading(vision):
        frames_at_once = 1 if (fields.get("vision_config") or {}).get("frame_wise") else num_frames
        vision_fields, vision_weights = _beit_tower(vision, frames_at_once, image_size)
        vision_fields["num_frames"] = num_frames
    with loading(text):
        text_fields, text_weights = _bert_tower(text)
    if fusion_layer is None:
        fusion_layer = text_fields["num_hidden_layers"] * 3 // 4
    text_fields |= {"fusion_layer": fusion_layer, "encoder_width": vision_fields["hidden_size"]}
    with in_one_sentence("The fields do not fit these towers"):
        config = SViTTConfig(**merged({"vision_config": vision_fields, "text_config": text_fields}, fields))
    weights = vision_weights | text_weights
    return assembled(f"{vision} and {text}", SViTTForPreTraining, config, weights, may_lack=NEW_MODULES)


def _beit_tower(name: Name, num_frames: int, image_size: int | None) -> tuple[dict, Weights]:
    """Return fields of [`SViTTVisionConfig`] and weights, under our names, from a BEiT."""
    config, weights = _pretrained(BeitModel, name, may_lack=r"pooler\.")
    fields = shared_fields(SViTTVisionConfig, config)
    shared_table = weights.pop(f"encoder.{BIAS_TABLE}", None)
    if shared_table is not None:
        for table in (bias_table_name("", layer) for layer in range(config.num_hidden_layers)):
            weights[table] = shared_table + weights.get(table, 0)
    # Absolute positions are those within a frame; without biases the order of frames would make no difference.
    fields["use_relative_position_bias"] = num_frames > 1 or any(key.endswith(BIAS_TABLE) for key in weights)
    fields["layer_scale_init_value"] = config.layer_scale_init_value or 1.0  # without scales, ours are new: 1
    if weights.pop("embeddings.mask_token", None) is not None:
        logger.info("Not used from %s: embeddings.mask_token, with which its pre-training hides patches.", name)
    grid_size = config.image_size // config.patch_size
    fields |= {"num_frames": num_frames, "image_size": image_size or config.image_size}
    target_size = fields["image_size"] // config.patch_size
    weights = resize_positions(weights, (1, grid_size, grid_size), (num_frames, target_size, target_size))
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
    fields = shared_fields(SViTTTextConfig, config)
    for field in ("bos_token_id", "eos_token_id", "is_decoder"):  # those of SViTT apply
        fields.pop(field, None)
    return fields, weights


def _pretrained(
    model_class: type[PreTrainedModel], name: Name, may_lack: str = "$^", **kwargs
) -> tuple[AutoConfig, Weights]:
    """Return configuration and float32 weights of a pretrained model, under the names of checkpoints."""
    model_type = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
    if model_type != model_class.config_class.model_type:
        raise InputError(f"{name}: is a {model_type!r} model; a {model_class.config_class.model_type!r} one is needed.")
    model = pretrained(model_class, name, may_lack, **kwargs)
    # Names in memory change between versions of transformers (BEiT's have); those that it saves do not.
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="1000GB")
        return model.config, load_file(Path(folder, "model.safetensors"))
