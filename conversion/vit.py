# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""ViT as a video encoder: names of timm's (ALBEF), BLIP's and Transformers' ViT, and what BEiT has that ViT has not."""

import re
from collections.abc import Iterable, Mapping

import torch

from .loading import Weights

PREFIX = "vision_model."
# Patterns of names below the prefix, timm's or BLIP's -> ours.
NAMES = {
    r"^(blocks|encoder\.layers)\.": "encoder.layer.",
    r"\.(norm1|layer_norm1)\.": ".layernorm_before.",
    r"\.(norm2|layer_norm2)\.": ".layernorm_after.",
    r"\.(attn|self_attn)\.qkv\.": ".attention.attention.qkv.",
    r"\.(attn\.proj|self_attn\.projection)\.": ".attention.output.dense.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
    r"^(cls_token|embeddings\.class_embedding)$": "embeddings.cls_token",
    r"^(pos_embed|embeddings\.position_embedding)$": "embeddings.position_embeddings",
    r"^(patch_embed\.proj|embeddings\.patch_embedding)\.": "embeddings.patch_embeddings.projection.",
    r"^(norm|post_layernorm)\.": "layernorm.",
}
KEY_BIAS = "attention.attention.key.bias"


def is_vit(names: Iterable[str]) -> bool:
    """Return whether weights of a whole model are of a ViT: with a bias of keys, which BEiT has not."""
    return any(re.search(r"vis(ion|ual)_\w+\..*(qkv\.bias|attention\.attention\.key\.bias)$", name) for name in names)


def vit_weights(weights: Mapping[str, torch.Tensor]) -> Weights:
    """Return weights with those of a ViT, below `PREFIX`, under our names, and those that it lacks; others unchanged.

    Exact: the bias of keys is left out, which softmax does not see, and the residual branches get scales of 1.
    """
    if not is_vit(weights):
        return dict(weights)
    renamed = {}
    for name, tensor in weights.items():
        if not name.startswith(PREFIX):
            renamed[name] = tensor
            continue
        name = name.removeprefix(PREFIX)
        for pattern, new in NAMES.items():
            name = re.sub(pattern, new, name)
        if ".qkv." in name:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[PREFIX + name.replace("qkv", part)] = piece.clone()  # files hold no tensor in parts
        else:
            renamed[PREFIX + name] = tensor
        if name.endswith(".layernorm_before.weight"):
            for scale in ("lambda_1", "lambda_2"):
                renamed[PREFIX + name.replace("layernorm_before.weight", scale)] = torch.ones_like(tensor)
    return {name: tensor for name, tensor in renamed.items() if not (name.startswith(PREFIX) and KEY_BIAS in name)}
