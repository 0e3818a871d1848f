# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Video tokens as the table keeps them: of each span those that CLS looks at most, in eight bits, and their frames.

What node sparsity leaves of a clip is small enough to keep, so that re-ranking opens no video.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from ..configuration_svitt import SViTTVisionConfig
from ..modeling_svitt import SViTTVisionModelOutput, keep_tokens, token_order

# How tokens are kept; a value of eight bits is a share of the largest in its token.
DTYPES = {"int8": np.int8, "float16": np.float16}
OF_ALL_FRAMES = -1
COLUMNS = {"tokens": pa.binary(), "token_scales": pa.binary(), "token_frames": pa.binary()}


class SpanTokens(NamedTuple):
    """Tokens (B, n, D) float32 of spans, and the number of the frame of each (B, n), or `OF_ALL_FRAMES`."""

    values: torch.Tensor
    frames: torch.Tensor

    def of_frame(self, frame: int) -> torch.Tensor:
        """Return which tokens (B, n) tell of a frame, bool; none where all its patches were dropped."""
        is_of_frame = self.frames == frame
        return is_of_frame | ((self.frames == OF_ALL_FRAMES) & is_of_frame.any(dim=1, keepdim=True))


def most_attended(
    features: SViTTVisionModelOutput,
    config: SViTTVisionConfig,
    num_frames: int,
    num_clips: int = 1,
    tokens_per_span: int | None = None,
) -> SpanTokens:
    """Return the tokens of spans of `num_clips` clips each, joined: CLS and the patches that it looks at most.

    Args:
        features: of clips (B * num_clips) of `num_frames`, with `cls_attention`.
        tokens_per_span: at most so many, shared evenly by the parts that have a CLS token of their own: clips, or
            frames where they are encoded one by one. Such a part keeps CLS and a patch at least. By default all.
    """
    states, attention, order = features.last_hidden_state.float(), features.cls_attention, features.token_idx
    parts = states.reshape(-1, attention.shape[-1] + 1, states.shape[-1])  # each CLS, and then patches
    num_parts = num_clips * len(parts) // len(states)
    attention = attention.reshape(len(parts), -1)
    most = attention.shape[1] if tokens_per_span is None else max(1, tokens_per_span // num_parts - 1)
    kept = attention.topk(min(most, attention.shape[1]), dim=1).indices.sort(dim=1).values
    values = keep_tokens(parts, kept).unflatten(0, (-1, num_parts)).flatten(1, 2)

    number = torch.arange(num_parts, device=states.device)[:, None]
    if config.frame_wise:
        frames = number.expand(-1, 1 + kept.shape[1]).flatten().expand(len(values), -1)
        return SpanTokens(values, frames)
    if order is None:
        grid = num_frames, config.grid_size, config.grid_size
        order = (token_order(config.token_3d_order, grid, states.device).expand(len(parts), -1),)
    frames = (order[-1].gather(1, kept) // config.grid_size**2).unflatten(0, (-1, num_parts)) + num_frames * number
    return SpanTokens(values, F.pad(frames, (1, 0), value=OF_ALL_FRAMES).flatten(1))


def packed(tokens: SpanTokens, dtype: str) -> list[dict[str, bytes]]:
    """Return `COLUMNS` of a row for each span; `dtype` is one of `DTYPES`."""
    values, rows = tokens.values.float().cpu(), []
    scales = torch.ones(*values.shape[:2], 0)
    if dtype == "int8":
        scales = values.abs().amax(dim=2, keepdim=True).clamp(min=1e-12) / 127
        values = (values / scales).round()
    for columns in zip(values, scales, tokens.frames.cpu(), strict=True):
        kinds = zip(COLUMNS, columns, (DTYPES[dtype], np.float32, np.int16), strict=True)
        rows.append({name: column.numpy().astype(kind).tobytes() for name, column, kind in kinds})
    return rows


def unpacked(rows: list[dict[str, bytes]], width: int) -> SpanTokens:
    """Return the tokens, `width` numbers each, of rows that [`packed`] has made."""

    def column(name: str, dtype: type) -> torch.Tensor:
        values = np.frombuffer(b"".join(row[name] for row in rows), dtype)
        return torch.from_numpy(values.reshape(len(rows), -1).astype(np.int64 if dtype is np.int16 else np.float32))

    frames = column("token_frames", np.int16)
    if not rows[0]["token_scales"]:
        return SpanTokens(column("tokens", np.float16).unflatten(1, (-1, width)), frames)
    values = column("tokens", np.int8).unflatten(1, (-1, width))
    return SpanTokens(values * column("token_scales", np.float32)[:, :, None], frames)
