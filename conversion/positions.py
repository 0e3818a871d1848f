# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Positions: from images to clips, from short to long clips, from one image size to another."""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ..configuration_svitt import SViTTConfig, SViTTVisionConfig
from ..errors import InputError, check_number
from ..modeling_svitt import RelativePositions
from ..processing_svitt import SViTTProcessor
from .loading import (
    Name,
    Weights,
    assembled,
    check_unused,
    in_one_sentence,
    load_model_and_processor,
    save_folder,
    with_fields,
)

BIAS_TABLE = "relative_position_bias.relative_position_bias_table"
PUBLISHED_SPARSITY = ("sparse_local_attn", "sparse_random_attn", "attn_block_size", "token_keep_rate")


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


def resize_positions(
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


def bias_table_name(prefix: str, layer: int) -> str:
    return f"{prefix}encoder.layer.{layer}.attention.attention.{BIAS_TABLE}"


# ---- Longer clips, larger images


def fitted(weights: Mapping[str, torch.Tensor], config: SViTTConfig, **vision) -> tuple[Weights, SViTTConfig]:
    """Return weights and configuration of a model with other fields of [`SViTTVisionConfig`], its positions resized.

    With more `num_frames`, that is the paper's temporal sparse expansion; a lower `token_keep_rate` keeps the cost of
    longer clips down.
    """
    longest = max(vision.get("num_frames", 0), config.vision_config.max_num_frames)
    new_config = with_fields(config, {"vision_config": {"max_num_frames": longest} | vision})
    old, new = (
        (part.frames_at_once, part.grid_size, part.grid_size)
        for part in (config.vision_config, new_config.vision_config)
    )
    return resize_positions(weights, old, new), new_config


def expanded(
    model: PreTrainedModel, processor: SViTTProcessor, fields: Mapping
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """Return the model with some fields of its configuration changed, see [`fitted`], and the processor for its clips.

    With `frame_wise=False` among them, a model of frames becomes one of clips: its biases are the same for all frames,
    and zero where it has none.
    """
    weights, config = fitted(model.state_dict(), model.config, **fields["vision_config"])
    config = with_fields(config, {**fields, "vision_config": None})
    pixels, side = processor.video_processor, config.vision_config.image_size
    pixels.num_frames = fields["vision_config"].get("num_frames", pixels.num_frames)
    pixels.size = {"height": side, "width": side}
    return assembled("The model", type(model), config, weights, may_lack=rf".*\.{BIAS_TABLE}$"), processor


def convert_to_longer_clips(
    path: Name,
    output_dir: Name,
    num_frames: int,
    token_keep_rate: float | None = None,
    vision_config: dict | None = None,
):
    """Write a SViTT for clips of `num_frames` frames, made from a saved one; from one of frames, a sparse one of clips.

    Args:
        path: Folder or Hub name of a SViTT.
        token_keep_rate: Share of the patch tokens kept at each drop.
        vision_config: Further fields of the new [`SViTTVisionConfig`].
    """
    check_unused(output_dir)
    check_number("num_frames", num_frames, 1)
    model, processor = load_model_and_processor(path)
    vision: dict = {"num_frames": num_frames}
    if model.config.vision_config.frame_wise:
        vision |= {"frame_wise": False, "use_relative_position_bias": True}
        vision |= {field: getattr(SViTTVisionConfig(), field) for field in PUBLISHED_SPARSITY}
    if token_keep_rate is not None:
        vision["token_keep_rate"] = token_keep_rate
    with in_one_sentence("The fields do not fit this model"):
        model, processor = expanded(model, processor, {"vision_config": vision | (vision_config or {})})
    save_folder(model, processor, output_dir)
