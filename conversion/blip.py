# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""BLIP (Li et al., 2022): a ViT for each frame, and a BERT all of whose layers serve texts alone and pairs."""

from collections.abc import Mapping

import torch
from transformers import AutoConfig, BlipForImageTextRetrieval, BlipForQuestionAnswering, PreTrainedModel

from ..configuration_svitt import SViTTConfig, SViTTTextConfig, SViTTVisionConfig
from ..errors import InputError
from ..modeling_svitt import SViTTForVideoQuestionAnswering, SViTTForVideoTextRetrieval
from .loading import (
    CLIP_STATISTICS,
    FRAME_WISE,
    Name,
    Source,
    image_statistics,
    loading,
    logger,
    merged,
    pretrained,
    shared_fields,
)
from .vit import vit_weights

CLASSES = {
    "BlipForImageTextRetrieval": (BlipForImageTextRetrieval, SViTTForVideoTextRetrieval),
    "BlipForQuestionAnswering": (BlipForQuestionAnswering, SViTTForVideoQuestionAnswering),
}
# Texts have punctuation and a [SEP], those of ALBEF, Singularity and SViTT neither; answers are not cut.
TEXTS = {"clean_text": False, "add_sep": True, "max_answer_length": 32}


def blip_classes(name: Name) -> tuple[type[PreTrainedModel], type[PreTrainedModel]]:
    """Return the class of a BLIP, and what it becomes; raise an `InputError` that says what a folder holds instead."""
    with loading(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    [architecture, *_] = config.architectures or [config.model_type]
    if architecture not in CLASSES:
        ways = {
            "svitt": "svitt convert expand makes one for longer clips",
            "beit": "name a BERT behind it",
            "blip": f"of BLIP, {' and '.join(CLASSES)} can be converted",
        }
        sources = "a BLIP, a .pth of SViTT, Singularity or ALBEF, or a BEiT and a BERT can be converted"
        raise InputError(f"{name}: is a {architecture}; {ways.get(config.model_type, sources)}.")
    return CLASSES[architecture]


def read_blip(name: Name, changes: Mapping) -> Source:
    """Read a BLIP of Transformers, for retrieval or question answering; one frame of a clip is one of its images.

    Args:
        name: Folder or Hub name.
        changes: Fields of [`SViTTConfig`] that are to be others. With `fusion_token_id=None` in `text_config`, pairs
            begin with `[CLS]`, as Transformers' class leaves it, not with the `[ENC]` of BLIP's own code.

    Raises:
        InputError: if the model is not found, incomplete, or a BLIP of another kind.
    """
    with loading(name):
        blip_class, model_class = blip_classes(name)
        blip = pretrained(blip_class, name)
        vision, text = blip.config.vision_config, blip.config.text_config
        start_token = text.bos_token_id  # [DEC], which answers begin with; behind it comes [ENC]
        fusion_token = start_token + 1 if 0 <= start_token < text.vocab_size - 1 else None
        if start_token >= text.vocab_size and model_class is SViTTForVideoQuestionAnswering:
            raise InputError(f"{name}: `bos_token_id`, which its answers begin with, is no word of it.")
        if fusion_token is None:
            logger.warning("%s: its `bos_token_id` leaves no place for [ENC]; pairs begin with [CLS].", name)
        fields = {
            "vision_config": shared_fields(SViTTVisionConfig, vision) | FRAME_WISE | {
                "attention_probs_dropout_prob": vision.attention_dropout,
                "use_absolute_position_embeddings": True,
                "use_relative_position_bias": False,
                "use_mean_pooling": False,
                "layer_scale_init_value": 1.0,
            },
            "text_config": shared_fields(SViTTTextConfig, text) | {
                "is_decoder": False,
                "type_vocab_size": 1,
                "encoder_width": vision.hidden_size,
                "fusion_layer": 0,
                "text_layers": text.num_hidden_layers,
                "fusion_token_id": fusion_token,
                "token_keep_rate": 1.0,
            },
            "decoder_config": {"bos_token_id": start_token, "eos_token_id": text.sep_token_id},
            "embed_dim": blip.config.image_text_hidden_size,
            "vision_layernorm": False,
        }  # fmt: skip
        config = SViTTConfig(**merged(fields, changes))
    pixels = {"antialias": True} | image_statistics(name, CLIP_STATISTICS)
    return Source(model_class, config, blip_weights(blip, config), pixels, TEXTS)


def blip_weights(blip, config: SViTTConfig) -> dict[str, torch.Tensor]:
    weights = {name.replace("text_encoder.", "text_model.", 1): tensor for name, tensor in blip.state_dict().items()}
    weights = vit_weights(weights)
    types = torch.zeros(1, config.text_config.hidden_size)  # BLIP's BERT adds no embeddings of types
    for bert in ("text_model", "text_decoder.bert"):
        if f"{bert}.embeddings.word_embeddings.weight" in weights:
            weights[f"{bert}.embeddings.token_type_embeddings.weight"] = types.clone()
    if "itm_head.weight" in weights:
        weights["temp"] = torch.tensor(config.temp)  # which Transformers' class has not
    return weights
