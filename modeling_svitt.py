# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""SViTT: a video-text transformer with sparse edges (few keys per query) and sparse nodes (few tokens per layer).

Reads top to bottom: token order, positions and blocks -> dropping -> vision encoder -> text and fusion encoder ->
losses -> task models. Shapes: B clips, T frames, H x W patches a frame, N = T*H*W patch tokens, D width,
h heads, d = D / h; L + K blocks of G tokens are seen by each of M query blocks.

Li, Min, Tripathi, Vasconcelos: SViTT: Temporal Learning of Sparse Video-Text Transformers, CVPR 2023, arXiv 2304.08809.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    CausalLMOutputWithCrossAttentions,
    ImageClassifierOutput,
    ModelOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.beit.modeling_beit import BeitDropPath, BeitPatchEmbeddings, BeitPooler
from transformers.models.bert.modeling_bert import (
    BertEmbeddings,
    BertIntermediate,
    BertLMPredictionHead,
    BertOnlyMLMHead,
    BertOutput,
    BertSelfOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_svitt import SViTTConfig, SViTTTextConfig, SViTTTextDecoderConfig, SViTTVisionConfig

# Transformers 5.23 keeps a decoder's cache under another name than later releases do.
CACHE_NAME = "cache" if "cache" in CausalLMOutputWithCrossAttentions.__dataclass_fields__ else "past_key_values"

# What several `forward` methods say of their arguments.
CLIPS_DOC = r"""
    pixel_values (`torch.FloatTensor` of shape `(batch_size, num_frames, num_channels, image_size, image_size)`):
        Clips, of any number of frames up to `max_num_frames` of the configuration. 4-dimensional input is a batch of
        images, that is, of clips of one frame.
"""
ENCODER_DOC = (
    CLIPS_DOC
    + r"""
    output_cls_attention (`bool`, *optional*, defaults to `False`):
        Whether to return `cls_attention`.
"""
)
RETRIEVAL_DOC = (
    CLIPS_DOC
    + r"""
    video_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
        Clips with the same id are positives of each other's texts. By default every clip is its own.
    negative_video_idx (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
        For each text, the clip of the batch to tell it from; drawn by default. Not with `config.itm_list_size`.
    negative_text_idx (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
        For each clip, the text of the batch to tell it from; drawn by default. Not with `config.itm_list_size`.
    return_loss (`bool`, *optional*):
        Whether to compute the losses. Defaults to doing so in training mode.
"""
)
MLM_DOC = r"""
    mlm_input_ids (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*):
        Texts with words masked; `input_ids` masked at random by default.
    mlm_labels (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*):
        Words to predict, -100 elsewhere; given along with `mlm_input_ids`.
"""

# ---- Outputs


@auto_docstring(custom_intro="Output of the video encoder, and of `get_video_features`.")
@dataclass
class SViTTVisionModelOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, 1 + remaining_tokens, hidden_size)`):
        The CLS token and the patch tokens that are left. With `frame_wise`, those of one frame behind those of another.
    pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
        The pooled clip. With `frame_wise`, the frames: `(batch_size, num_frames, hidden_size)`.
    token_idx (`tuple(torch.LongTensor)`, *optional*):
        One tensor of shape `(batch_size, kept_tokens)` per drop: original positions, `(t * H + y) * W + x`, of the
        patch tokens that survived it.
    cls_attention (`torch.FloatTensor` of shape `(batch_size, remaining_tokens)`, *optional*):
        With `output_cls_attention`, how much the CLS token looks at each patch token that is left, in the last layer
        and the mean of heads. With `frame_wise`, of one frame behind another: `(batch_size, num_frames, tokens)`.
    """

    token_idx: tuple[torch.LongTensor, ...] | None = None
    cls_attention: torch.FloatTensor | None = None


@auto_docstring(custom_intro="Output of the text and fusion encoder, and of `get_text_features`.")
@dataclass
class SViTTTextModelOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, text_length, hidden_size)`):
        States of the text tokens after the last layer of the mode.
    pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
        State of the CLS token.
    fusion_hidden_state (`torch.FloatTensor` of shape `(batch_size, text_length, hidden_size)`, *optional*):
        In text mode, the states that fusion starts from: `last_hidden_state`, unless text and fusion share layers.
    cache (`Cache`, *optional*):
        Keys and values of a decoder, for the words to come.
    token_idx (`tuple(torch.LongTensor)`, *optional*):
        One tensor of shape `(batch_size, kept_tokens)` per drop: which video patch tokens were kept, counted in the
        sequence before that drop and without its CLS token.
    """

    fusion_hidden_state: torch.FloatTensor | None = None
    cache: Cache | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    token_idx: tuple[torch.LongTensor, ...] | None = None


@auto_docstring(custom_intro="Output of [`SViTTModel`], [`SViTTForVideoTextRetrieval`] and [`SViTTForPreTraining`].")
@dataclass
class SViTTOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Sum of the weighted losses below.
    loss_itc (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Contrastive loss times its weight.
    loss_itm (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Matching loss times its weight.
    loss_mlm (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Masked language modeling loss times its weight.
    logits_per_video (`torch.FloatTensor` of shape `(video_batch_size, text_batch_size)`):
        Cosines of clips and texts over the temperature, of this process's batch.
    logits_per_text (`torch.FloatTensor` of shape `(text_batch_size, video_batch_size)`):
        Transpose of `logits_per_video`.
    itm_logits (`torch.FloatTensor` of shape `(pairs, 2)`, *optional*):
        Matching logits, class 1 for a match, of the pairs given; with losses, unless `itm_list_size` is set, then of
        (text, negative video) and of (negative text, video).
    prediction_logits (`torch.FloatTensor` of shape `(batch_size, text_length, vocab_size)`, *optional*):
        Logits of the words at each position.
    video_embeds (`torch.FloatTensor` of shape `(batch_size, embed_dim)`):
        Normalised projection of the pooled clip.
    text_embeds (`torch.FloatTensor` of shape `(batch_size, embed_dim)`):
        Normalised projection of the text's CLS token.
    video_model_output (`SViTTVisionModelOutput`):
        Output of `get_video_features`.
    text_model_output (`SViTTTextModelOutput`):
        Output of `get_text_features`.
    """

    loss: torch.FloatTensor | None = None
    loss_itc: torch.FloatTensor | None = None
    loss_itm: torch.FloatTensor | None = None
    loss_mlm: torch.FloatTensor | None = None
    logits_per_video: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    itm_logits: torch.FloatTensor | None = None
    prediction_logits: torch.FloatTensor | None = None
    video_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    video_model_output: SViTTVisionModelOutput | None = None
    text_model_output: SViTTTextModelOutput | None = None

    def to_tuple(self):
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@auto_docstring(custom_intro="Output of [`SViTTForVideoQuestionAnswering`]; states and attentions are the decoder's.")
@dataclass
class SViTTQuestionAnsweringOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Weighted negative log-likelihood of the answers, per question.
    logits (`torch.FloatTensor` of shape `(num_answers, answer_length, vocab_size)`):
        Logits of the word after each word of the answers.
    answer_loss (`torch.FloatTensor` of shape `(num_answers,)`, *optional*):
        Negative log-likelihood of each answer, summed over its words.
    question_hidden_states (`torch.FloatTensor` of shape `(batch_size, question_length, hidden_size)`):
        States of the question after looking at the video.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    answer_loss: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    question_hidden_states: torch.FloatTensor | None = None


# ---- Order of the tokens


def token_order(order: str, grid: tuple[int, ...], device: torch.device | None = None) -> torch.Tensor:
    """Return the row-major positions (T * H * W,) int64 of the patches of a grid (T, H, W) in the order of the tokens.

    `"zcurve"` (Morton) and `"hilbert"` make blocks compact; they fill the cube of side `2 ** bit_length(max(grid))`
    around the grid. `"none"` is row-major.
    """
    positions = torch.arange(math.prod(grid), device=device)
    if order == "none":
        return positions
    curve = {"zcurve": _interleave_bits, "hilbert": _hilbert_distance}[order]
    return curve(list(torch.unravel_index(positions, grid)), max(grid).bit_length()).argsort(stable=True)


def _interleave_bits(axes: list[torch.Tensor], num_bits: int) -> torch.Tensor:
    """Return the Morton code: bit 0 of each axis (t, y, x) in the three lowest bits, then bit 1, and so on."""
    code = torch.zeros_like(axes[0])
    for bit in range(num_bits):
        for place, axis in enumerate(axes):
            code |= (axis >> bit & 1) << (bit * len(axes) + place)
    return code


def _hilbert_distance(axes: list[torch.Tensor], num_bits: int) -> torch.Tensor:
    """Return the distance along the Hilbert curve (Skilling, Programming the Hilbert curve, 2004)."""
    for bit in reversed(range(1, num_bits)):
        side, below = 1 << bit, (1 << bit) - 1
        for i in range(len(axes)):
            is_set = (axes[i] & side).bool()
            exchange = torch.where(is_set, 0, (axes[0] ^ axes[i]) & below)
            axes[0] = torch.where(is_set, axes[0] ^ below, axes[0]) ^ exchange
            axes[i] = axes[i] ^ exchange
    for i in range(1, len(axes)):
        axes[i] = axes[i] ^ axes[i - 1]
    flips = torch.zeros_like(axes[0])
    for bit in reversed(range(1, num_bits)):
        flips = torch.where((axes[-1] >> bit & 1).bool(), flips ^ ((1 << bit) - 1), flips)
    # The first axis holds the highest bit of each group of three, hence the reversal.
    return _interleave_bits([axis ^ flips for axis in reversed(axes)], num_bits)


# ---- Relative positions


class RelativePositions:
    """Rows of the relative position bias tables for clips of T frames of H x W patches.

    A table has one row for each offset (t - t', y - y', x - x') of a query and a key patch, then one each for a CLS
    query of a patch key, a patch query of the CLS key, and CLS with itself. A row is linear in packed coordinates
    `(t * (2H-1) + y) * (2W-1) + x`, so no (1 + N)^2 index is ever stored.
    """

    def __init__(self, num_frames: int, height: int, width: int):
        self.grid = (num_frames, height, width)
        self.spatial_rows = (2 * height - 1) * (2 * width - 1)
        self.num_offsets = (2 * num_frames - 1) * self.spatial_rows
        self.cls_to_patch, self.patch_to_cls, self.cls_to_cls = range(self.num_offsets, self.num_offsets + 3)
        self.num_rows = self.num_offsets + 3
        self.masked = self.num_rows  # row that `lookup_bias` fills with -inf

    def coordinates(self, positions: torch.Tensor) -> torch.Tensor:
        """Return packed int32 coordinates of row-major positions, same shape."""
        _, height, width = self.grid
        frames, rows, columns = torch.unravel_index(positions, self.grid)
        return ((frames * (2 * height - 1) + rows) * (2 * width - 1) + columns).int()

    def rows(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return rows (..., queries, keys) for packed coordinates (..., queries) and (..., keys)."""
        return query[..., :, None] - key[..., None, :] + self.num_offsets // 2

    def dense_rows(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return rows (P, 1 + n, 1 + n) for all pairs of the CLS token and patches with packed coordinates (P, n)."""
        rows = F.pad(self.rows(coordinates, coordinates), (1, 0, 1, 0))
        rows[:, 0, :] = self.cls_to_patch
        rows[:, :, 0] = self.patch_to_cls
        rows[:, 0, 0] = self.cls_to_cls
        return rows

    def cls_rows(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return rows (1, 1, 1 + n) for the CLS query and all tokens."""
        rows = torch.full((1, 1, coordinates.shape[1]), self.cls_to_patch, device=coordinates.device)
        return F.pad(rows, (1, 0), value=self.cls_to_cls)

    def rows_of_table_for(self, num_frames: int, device: torch.device) -> torch.Tensor | None:
        """Return the rows of a table for `num_frames` frames that make up, in order, the table for ours.

        Temporal offsets are resized by nearest neighbour (the paper's temporal sparse expansion). `None` where the
        two are the same.
        """
        if num_frames == self.grid[0]:
            return None
        source_offsets = torch.arange(2 * num_frames - 1, dtype=torch.float, device=device)
        nearest = F.interpolate(source_offsets[None, None], size=2 * self.grid[0] - 1, mode="nearest")[0, 0].long()
        rows = nearest[:, None] * self.spatial_rows + torch.arange(self.spatial_rows, device=device)
        cls_rows = (2 * num_frames - 1) * self.spatial_rows + torch.arange(3, device=device)
        return torch.cat([rows.flatten(), cls_rows])


def with_masked_row(table: torch.Tensor) -> torch.Tensor:
    """Return a table (rows, h) as `lookup_bias` takes it, (h, rows + 1): behind its end stands -inf."""
    return F.pad(table.t(), (0, 1), value=float("-inf"))


def lookup_bias(padded_table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return biases (P, h, ...) at rows (P, ...) of a table of `with_masked_row`."""
    return padded_table.index_select(1, rows.flatten()).unflatten(1, rows.shape).transpose(0, 1)


# ---- Edge sparsity: which blocks a block of queries attends to

_fixed_block_patterns: ContextVar[Iterator[torch.Tensor] | None] = ContextVar("fixed_block_patterns", default=None)


@contextmanager
def fixed_block_pattern(patterns: Sequence[torch.Tensor]):
    """Make successive sparse attention layers use the given patterns, in order, instead of drawing their own.

    A forward pass takes one pattern per layer. Repeats an experiment's draw, or another code's. Passes in other
    threads, and compiled models, draw their own as ever.

    Args:
        patterns: tensors (M, L + K) of key block indices in [0, M) for each of M query blocks. A block that is named
            twice is attended to twice.

    Raises:
        ValueError: in the forward pass, when patterns run out or one does not fit the number of blocks.
    """
    outer = _fixed_block_patterns.set(iter(patterns))
    try:
        yield
    finally:
        _fixed_block_patterns.reset(outer)


def _next_fixed_pattern(patterns: Iterator[torch.Tensor], num_blocks: int, device: torch.device) -> torch.Tensor:
    pattern = next(patterns, None)
    if pattern is None:
        raise ValueError("`fixed_block_pattern` ran out of patterns: each sparse attention layer takes one.")
    if pattern.dim() != 2 or len(pattern) != num_blocks or pattern.min() < 0 or pattern.max() >= num_blocks:
        raise ValueError(
            f"`fixed_block_pattern` was given shape {tuple(pattern.shape)} with blocks up to {pattern.max()}; a layer "
            f"with {num_blocks} blocks takes ({num_blocks}, blocks attended to), below {num_blocks}."
        )
    return pattern.to(device)


def draw_block_pattern(scores: torch.Tensor, num_local: int, num_random: int) -> torch.Tensor:
    """Return the key blocks of each query block: L neighbours around the ring, then the K best-scored others.

    Non-negative scores (M, M) give (M, L + K) int64 of distinct blocks: slot s < L (odd or 0) holds block
    m - (s - L // 2), and the others ascend.
    """
    num_blocks = scores.shape[0]
    blocks = torch.arange(num_blocks, device=scores.device)
    shifts = torch.arange(num_local, device=scores.device) - num_local // 2
    local = (blocks[:, None] - shifts) % num_blocks
    others = scores.scatter(1, local, -1).topk(num_random, dim=1).indices.sort(dim=1).values
    return torch.cat([local, others], dim=1)


def fixed_scores(*keys: int | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return random-looking scores of the broadcast integer keys alone: the same in any batch, process and device.

    A chained 32-bit integer hash (constants of Wellons' hash-prospector, all below 2^31 so that int64 never overflows),
    followed by the last key, in [0, 2^20), so that no two of what it numbers are alike.
    """
    score = torch.zeros((), dtype=torch.int64, device=device)
    for key in keys:
        score = score ^ (key & 0xFFFFFFFF)
        score = ((score ^ score >> 16) * 0x21F0AAAD) & 0xFFFFFFFF
        score = ((score ^ score >> 15) * 0x735A2D97) & 0xFFFFFFFF
        score = score ^ score >> 15
    return score << 20 | keys[-1]


def evaluation_block_scores(seed: int, layer: int, num_blocks: int, device: torch.device) -> torch.Tensor:
    """Return scores (M, M) for `draw_block_pattern` that make it a fixed function of the arguments."""
    block = torch.arange(num_blocks, device=device)
    return fixed_scores(seed, layer, num_blocks, block[:, None], block, device=device)


# ---- Node sparsity: which tokens stay


def select_tokens(scores: torch.Tensor, keep_rate: float) -> torch.Tensor:
    """Return the ceil(keep_rate * n) best of n tokens by scores (B, n), ascending: (B, kept) int64."""
    num_kept = math.ceil(keep_rate * scores.shape[1])
    return scores.topk(num_kept, dim=1).indices.sort(dim=1).values


def keep_tokens(tokens: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Drop tokens: the CLS token and the kept (B, k) of n patch tokens, from (B, 1 + n, ...) to (B, 1 + k, ...)."""
    index = with_cls(kept).view(*kept.shape[:1], -1, *[1] * (tokens.dim() - 2))
    return tokens.gather(1, index.expand(-1, -1, *tokens.shape[2:]))


def with_cls(kept: torch.Tensor) -> torch.Tensor:
    """Return indices (B, 1 + k) of the CLS token and of patch tokens in a sequence that starts with the CLS token."""
    return F.pad(kept + 1, (1, 0))


# ---- Attention


def eager_attention_forward(
    module: nn.Module, query, key, value, attention_mask, scaling: float, dropout: float = 0.0, **kwargs
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return softmax(query key^T * scaling + mask) value and the softmax.

    (B, h, Q, d) queries and (B, h, J, d) keys and values give (B, Q, h, d) and (B, h, Q, J).
    """
    scores = (query * scaling) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores = scores + attention_mask
    probs = scores.softmax(dim=-1, dtype=torch.float32)
    weights = F.dropout(probs.to(query.dtype), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), probs


class SViTTAttention(nn.Module):
    """Projections under the names of BEiT and BERT checkpoints, and the attention function that `config` names."""

    def __init__(self, config: PreTrainedConfig, key_width: int, key_bias: bool = True, is_causal: bool = False):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = is_causal
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(key_width, config.hidden_size, bias=key_bias)
        self.value = nn.Linear(key_width, config.hidden_size)

    def heads(self, states: torch.Tensor) -> torch.Tensor:
        """(B, n, h * d) -> (B, h, n, d)"""
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def attend(
        self, query, key, value, mask: torch.Tensor | None, needs_probs: bool = False, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the context (B, Q, h, d) of queries (B, h, Q, d), and the probabilities (B, h, Q, J) if needed."""
        implementation = self.config._attn_implementation
        # On CPUs, torch has no fused kernel for a bias that learns, and what it does instead is slower than eager.
        learns_bias_on_cpu = mask is not None and mask.requires_grad and mask.device.type == "cpu"
        if needs_probs or (implementation == "sdpa" and learns_bias_on_cpu):
            implementation = "eager"
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        return attention_interface(self, query, key, value, mask, scaling=self.scaling, dropout=dropout, **kwargs)


# ---- Vision


class BlockLayout(NamedTuple):
    """How the patch tokens of a layer are cut into M blocks of G queries, and which J keys each block attends to."""

    block_size: int
    key_index: torch.Tensor  # (M, J) tokens, CLS first; 1 + n is the zero token that stands for unmasked padding
    bias_rows: torch.Tensor  # (P, M, G, J) rows of the bias table; P is 1 while all clips hold the same positions
    masked_row: int  # the row that stands for -inf


def lay_out_blocks(
    pattern: torch.Tensor, coordinates: torch.Tensor, relative_positions: RelativePositions, config: SViTTVisionConfig
) -> BlockLayout:
    """Lay out n patch tokens with packed coordinates (P, n) by a pattern (M, S) of key blocks; J = 1 + S * G."""
    num_blocks, num_tokens = pattern.shape[0], coordinates.shape[1]
    block_size, mask_padding = config.attn_block_size, config.attn_mask_padding
    slots = (pattern[:, :, None] * block_size + torch.arange(block_size, device=pattern.device)).flatten(1)
    is_padding = slots >= num_tokens
    padding_token = 0 if mask_padding else num_tokens + 1
    key_index = F.pad(torch.where(is_padding, padding_token, slots + 1), (1, 0))

    is_partial = num_tokens % block_size > 0
    if is_partial:
        coordinates = F.pad(coordinates, (0, num_blocks * block_size - num_tokens))
    query = coordinates.unflatten(1, (num_blocks, block_size))
    key = coordinates.index_select(1, slots.flatten()).unflatten(1, slots.shape)
    rows = relative_positions.rows(query, F.pad(key, (1, 0)))
    rows[..., 0] = relative_positions.patch_to_cls
    if is_partial:
        padding_row = relative_positions.masked if mask_padding else relative_positions.patch_to_cls
        rows[..., 1:].masked_fill_(is_padding[:, None], padding_row)
    return BlockLayout(block_size, key_index, rows, relative_positions.masked)


class SViTTVisionEmbeddings(nn.Module):
    """Patches of all frames in row-major order behind one CLS token."""

    def __init__(self, config: SViTTVisionConfig):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.patch_embeddings = BeitPatchEmbeddings(config)
        self.position_embeddings = None
        if config.use_absolute_position_embeddings:
            self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + config.grid_size**2, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, T, C, height, width) -> (B, 1 + T * H * W, D)"""
        patches = self.patch_embeddings(pixel_values.flatten(0, 1).to(self.cls_token.dtype))
        patches, cls_token = patches.unflatten(0, pixel_values.shape[:2]), self.cls_token
        if self.position_embeddings is not None:
            cls_token = cls_token + self.position_embeddings[:, :1]
            patches = patches + self.position_embeddings[:, None, 1:]
        patches = patches.flatten(1, 2)
        return self.dropout(torch.cat([cls_token.expand(patches.shape[0], -1, -1), patches], dim=1))


class SViTTRelativePositionBias(nn.Module):
    def __init__(self, config: SViTTVisionConfig):
        super().__init__()
        num_rows = RelativePositions(config.frames_at_once, config.grid_size, config.grid_size).num_rows
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_rows, config.num_attention_heads))

    def forward(self, table_rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return the table (rows, h), resized by `RelativePositions.rows_of_table_for` where `table_rows` are given."""
        table = self.relative_position_bias_table
        return table if table_rows is None else table.index_select(0, table_rows)


class SViTTVisionSelfAttention(SViTTAttention):
    """Attention of each patch token to the CLS token and its blocks (or to all tokens), and of the CLS token to all."""

    def __init__(self, config: SViTTVisionConfig):
        super().__init__(config, config.hidden_size, key_bias=False)
        self.relative_position_bias = SViTTRelativePositionBias(config) if config.use_relative_position_bias else None

    def forward(
        self, hidden_states, blocks: BlockLayout | None, dense_rows, cls_rows, table_rows, needs_cls_probs, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return the context (B, 1 + n, D), probabilities to report, and those of the CLS query (B, h, 1, 1 + n)."""
        query, key, value = (self.heads(linear(hidden_states)) for linear in (self.query, self.key, self.value))
        table = None
        if self.relative_position_bias is not None:
            table = with_masked_row(self.relative_position_bias(table_rows))
        elif blocks is not None:
            table = with_masked_row(query.new_zeros(blocks.masked_row, query.shape[1]))
        if blocks is not None:
            cls_context, cls_probs = self.cls_attention(query, key, value, table, cls_rows)
            patch_context = self.block_attention(query[:, :, 1:], key, value, table, blocks, **kwargs)
            return torch.cat([cls_context, patch_context], dim=1).flatten(2), cls_probs, cls_probs

        bias = lookup_bias(table, dense_rows).to(query.dtype) if table is not None else None
        context, probs = self.attend(query, key, value, bias, **kwargs)
        cls_probs = probs[:, :, :1] if probs is not None else None
        if cls_probs is None and needs_cls_probs:
            _, cls_probs = self.cls_attention(query, key, value, table, cls_rows)
        return context.flatten(2), probs, cls_probs

    def cls_attention(self, query, key, value, table, cls_rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Let the CLS query see all tokens: context (B, 1, h, d) and probabilities (B, h, 1, 1 + n)."""
        bias = lookup_bias(table, cls_rows).to(query.dtype) if table is not None else None
        return self.attend(query[:, :, :1], key, value, bias, needs_probs=True)

    def block_attention(self, query, key, value, table, blocks: BlockLayout, **kwargs) -> torch.Tensor:
        """Let each block of patch queries (B, h, n, d) see its own keys: context (B, n, h, d).

        Blocks are folded into heads: one attention call, and one bias for the batch while clips share positions.
        """
        num_heads, num_tokens = query.shape[1:3]
        num_blocks, num_keys = blocks.key_index.shape
        num_missing = num_blocks * blocks.block_size - num_tokens
        if num_missing:
            query = F.pad(query, (0, 0, 0, num_missing))
            if not self.config.attn_mask_padding:  # the zero token that stands for padding
                key, value = F.pad(key, (0, 0, 0, 1)), F.pad(value, (0, 0, 0, 1))
        query = query.reshape(-1, num_heads * num_blocks, blocks.block_size, self.head_dim)
        key, value = (
            tokens.index_select(2, blocks.key_index.flatten()).view(-1, num_heads * num_blocks, num_keys, self.head_dim)
            for tokens in (key, value)
        )
        bias = lookup_bias(table, blocks.bias_rows).to(query.dtype).flatten(1, 2)
        context, _ = self.attend(query, key, value, bias, **kwargs)
        context = context.unflatten(2, (num_heads, num_blocks)).permute(0, 3, 1, 2, 4).flatten(1, 2)
        return context[:, :num_tokens]


class SViTTVisionOutput(nn.Module):
    """Linear and dropout: the end of both branches of a layer, under the names of BEiT checkpoints."""

    def __init__(self, config: SViTTVisionConfig, in_features: int):
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.dense(hidden_states))


class SViTTVisionAttention(nn.Module):
    """Attention and its output projection under the names of BEiT checkpoints; tokens may be dropped in between."""

    def __init__(self, config: SViTTVisionConfig):
        super().__init__()
        self.attention = SViTTVisionSelfAttention(config)
        self.output = SViTTVisionOutput(config, config.hidden_size)


class SViTTVisionLayer(GradientCheckpointingLayer):
    """Attention and MLP; in the layers of `token_drop_loc`, the tokens that the CLS token looks at least end here."""

    def __init__(self, config: SViTTVisionConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.drops_tokens = layer_idx in config.token_drop_loc and config.token_keep_rate < 1
        self.attention = SViTTVisionAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = SViTTVisionOutput(config, config.intermediate_size)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.drop_path = BeitDropPath(config.drop_path_rate * layer_idx / max(config.num_hidden_layers - 1, 1))
        self.lambda_1 = nn.Parameter(torch.full((config.hidden_size,), float(config.layer_scale_init_value)))
        self.lambda_2 = nn.Parameter(torch.full((config.hidden_size,), float(config.layer_scale_init_value)))

    def forward(
        self, hidden_states: torch.Tensor, positions: torch.Tensor, needs_cls_attention: bool, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """(B, 1 + n, D) -> (B, 1 + kept, D), and the indices (B, kept) of the tokens kept if some are dropped here.

        And how much the CLS token looks at each of these patch tokens (B, kept), if that is known.
        """
        normed, needs_cls_probs = self.layernorm_before(hidden_states), self.drops_tokens or needs_cls_attention
        context, _, cls_probs = self.attention.attention(normed, needs_cls_probs=needs_cls_probs, **kwargs)
        kept, cls_attention = None, cls_probs[:, :, 0, 1:].mean(dim=1) if cls_probs is not None else None
        if self.drops_tokens:  # here, since the rest of the layer works token by token
            kept = select_tokens(self.token_scores(cls_attention, positions), self.config.token_keep_rate)
            hidden_states, context = keep_tokens(hidden_states, kept), keep_tokens(context, kept)
            cls_attention = cls_attention.gather(1, kept)
        attended = self.attention.output(context)
        hidden_states = torch.addcmul(hidden_states, self.lambda_1, self.drop_path(attended))
        expanded = self.intermediate.dense(self.layernorm_after(hidden_states))
        contract = partial(checkpoint, self.contract, use_reentrant=False) if self.training else self.contract
        transformed = contract(expanded)
        return torch.addcmul(hidden_states, self.lambda_2, self.drop_path(transformed)), kept, cls_attention

    def contract(self, expanded: torch.Tensor) -> torch.Tensor:
        """Return the second half of the MLP, (B, n, 4 D) -> (B, n, D).

        In training, backward computes its activations again, an eighth of all that would be kept, but not its product.
        """
        return self.output(self.intermediate.intermediate_act_fn(expanded))

    def token_scores(self, cls_attention: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return how much each patch token deserves to stay: (B, n)."""
        if self.config.token_keep_strategy == "cls_attn":
            return cls_attention
        if self.training:
            return torch.rand_like(cls_attention)
        # In evaluation a token's fate depends on its position alone, never on the batch it is in.
        scores = fixed_scores(self.config.random_attn_seed, self.layer_idx, positions, device=positions.device)
        return scores.expand_as(cls_attention)


class SViTTVisionEncoder(nn.Module):
    def __init__(self, config: SViTTVisionConfig):
        super().__init__()
        self.config = config
        self.layer = nn.ModuleList([SViTTVisionLayer(config, i) for i in range(config.num_hidden_layers)])

    def forward(
        self, hidden_states: torch.Tensor, positions: torch.Tensor, num_frames: int, needs_cls_attention: bool, **kwargs
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor | None]:
        """(B, 1 + N, D) tokens at positions (1, N) -> (B, 1 + remaining, D), and the positions left after each drop.

        And on request, how much the CLS token looks at the remaining ones in the last layer (B, remaining).
        """
        config, batch_size = self.config, hidden_states.shape[0]
        relative_positions = RelativePositions(num_frames, config.grid_size, config.grid_size)
        table_rows = relative_positions.rows_of_table_for(config.frames_at_once, hidden_states.device)
        coordinates, dense_rows, token_idx = relative_positions.coordinates(positions), None, ()

        for i, layer in enumerate(self.layer):
            blocks = self.draw_blocks(i, coordinates, relative_positions)
            if blocks is None and dense_rows is None and config.use_relative_position_bias:
                dense_rows = relative_positions.dense_rows(coordinates)
            cls_rows = relative_positions.cls_rows(coordinates)
            rows = {"dense_rows": dense_rows, "cls_rows": cls_rows, "table_rows": table_rows}
            rows["needs_cls_attention"] = needs_cls_attention and i == config.num_hidden_layers - 1
            hidden_states, kept, cls_attention = layer(hidden_states, positions, blocks=blocks, **rows, **kwargs)
            if kept is not None:
                positions = positions.expand(batch_size, -1).gather(1, kept)
                coordinates, dense_rows = relative_positions.coordinates(positions), None
                token_idx += (positions,)
        return hidden_states, token_idx, cls_attention if needs_cls_attention else None

    def draw_blocks(
        self, layer: int, coordinates: torch.Tensor, relative_positions: RelativePositions
    ) -> BlockLayout | None:
        """Return the blocks of a layer, or `None` where attention is dense."""
        config, num_tokens, device = self.config, coordinates.shape[1], coordinates.device
        if config.sparse_random_attn is None:
            return None
        num_local, num_random = config.sparse_local_attn, config.sparse_random_attn
        num_blocks = math.ceil(num_tokens / config.attn_block_size)
        padding_takes_part = num_tokens % config.attn_block_size and not config.attn_mask_padding
        patterns = None if torch.compiler.is_compiling() else _fixed_block_patterns.get()
        if patterns is not None:
            pattern = _next_fixed_pattern(patterns, num_blocks, device)
        elif num_blocks > num_local + num_random:
            if self.training:
                scores = torch.rand(num_blocks, num_blocks, device=device)
            else:
                scores = evaluation_block_scores(config.random_attn_seed, layer, num_blocks, device)
            pattern = draw_block_pattern(scores, num_local, num_random)
        elif padding_takes_part:
            pattern = torch.arange(num_blocks, device=device).expand(num_blocks, -1)
        else:
            return None  # every block would see every block
        return lay_out_blocks(pattern, coordinates, relative_positions, config)


# ---- Text and fusion


class SViTTSelfAttention(SViTTAttention):
    """Each word sees the others, or in a decoder itself and the words before it, whose keys and values are cached."""

    def __init__(self, config: SViTTTextConfig, layer_idx: int):
        super().__init__(config, config.hidden_size, is_causal=config.is_decoder)
        self.layer_idx = layer_idx

    def forward(
        self, hidden_states: torch.Tensor, attention_mask, cache: EncoderDecoderCache | None, cls_only=False, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, L, D) -> the context (B, L, D), or of [CLS] alone, and the probabilities (B, h, L, words seen) if any."""
        looking = hidden_states[:, :1] if cls_only else hidden_states
        if cls_only and attention_mask is not None and attention_mask.dim() == 4:
            attention_mask = attention_mask[:, :, :1]
        query, key, value = self.query(looking), self.key(hidden_states), self.value(hidden_states)
        query, key, value = map(self.heads, (query, key, value))
        if cache is not None:
            key, value = cache.self_attention_cache.update(key, value, self.layer_idx)
        context, probs = self.attend(query, key, value, attention_mask, **kwargs)
        return context.flatten(2), probs


class SViTTCrossAttention(SViTTAttention):
    """Text queries, video keys and values. Texts may share a video, which is then projected once for all of them."""

    def __init__(self, config: SViTTTextConfig, layer_idx: int):
        super().__init__(config, config.encoder_width)
        self.layer_idx = layer_idx
        self.needs_probs = layer_idx in config.token_drop_loc and config.token_keep_rate < 1

    def forward(
        self, hidden_states: torch.Tensor, video, video_mask, token_index, cache: EncoderDecoderCache | None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the context of texts (B * c, L, D), text i looking at video i // c of (B, n, encoder_width).

        Each text sees the tokens `token_index` (B * c, k) of its video, or all of them. `video_mask` is additive, (B or
        B * c, 1, 1, tokens seen). Return probabilities (B * c, h, L, tokens seen) too, if there are any.
        """
        num_texts, text_length = hidden_states.shape[:2]
        query = self.heads(self.query(hidden_states))
        is_projected = cache is not None or self.pays_to_project(video, num_texts * text_length)
        key, value = self.project(video, cache) if is_projected else 2 * (video[:, None],)
        if token_index is not None:
            key = self.tokens_of_each_text(key, token_index)
            value = self.tokens_of_each_text(value, token_index) if is_projected else key
        # The texts of a video are laid end to end along the query axis.
        query = query.unflatten(0, (key.shape[0], -1)).transpose(1, 2).flatten(2, 3)
        if is_projected:
            context, probs = self.attend(query, key, value, video_mask, self.needs_probs, **kwargs)
        else:
            context, probs = self.attend_unprojected(query, key, video_mask)
        if probs is not None:
            probs = probs.unflatten(2, (-1, text_length)).transpose(1, 2).flatten(0, 1)
        return context.reshape(num_texts, text_length, -1), probs

    def pays_to_project(self, video: torch.Tensor, num_words: int) -> bool:
        """Return whether keys and values of a video cost less than longer queries, as where many texts share it.

        Layers that are no plain ones any more, with LoRA, quantised or offloaded, have to be called.
        """
        width, (num_videos, num_tokens) = self.config.hidden_size, video.shape[:2]
        num_scores = num_words * self.config.num_attention_heads * num_tokens
        is_cheaper = num_videos * num_tokens * width <= num_words * width + num_scores
        is_plain = all(
            type(one) is nn.Linear and type(one.weight) is nn.Parameter and one.weight.device == video.device
            for one in (self.key, self.value)
        )
        return self.training or torch.is_grad_enabled() or is_cheaper or not is_plain  # the other way has no dropout

    def attend_unprojected(self, query, video, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `attend` does, of queries (B, h, Q, d) and tokens (B, 1, n, W) that are not projected.

        q (W x + b) is (q W) x + q b, and softmax does not see its last term (DeepSeek-V2, 2024).
        """
        key, value = (linear.weight.unflatten(0, (-1, self.head_dim)) for linear in (self.key, self.value))
        # The heads share the tokens, and are laid end to end along the query axis.
        long_query = torch.einsum("bhqd,hdw->bhqw", query, key).flatten(1, 2)[:, None]
        context, probs = eager_attention_forward(self, long_query, video, video, mask, self.scaling)
        context, probs = (states.unflatten(1, query.shape[1:3]) for states in (context[:, :, 0], probs[:, 0]))
        bias = self.value.bias.unflatten(0, (-1, self.head_dim))
        return torch.einsum("bhqw,hdw->bqhd", context, value) + bias, probs

    def project(self, video: torch.Tensor, cache: EncoderDecoderCache | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values (B, h, n, d), from the cache where it has them."""
        if cache is not None and cache.is_updated.get(self.layer_idx):
            cached = cache.cross_attention_cache.layers[self.layer_idx]
            return cached.keys, cached.values
        key, value = self.heads(self.key(video)), self.heads(self.value(video))
        if cache is not None:
            cache.is_updated[self.layer_idx] = True
            cache.cross_attention_cache.update(key, value, self.layer_idx)
        return key, value

    @staticmethod
    def tokens_of_each_text(tokens: torch.Tensor, token_index: torch.Tensor) -> torch.Tensor:
        """(B, h, n, d) and (B * c, k) -> (B * c, h, k, d)"""
        index = token_index.unflatten(0, (tokens.shape[0], -1))[:, :, None, :, None]
        texts_per_video = index.shape[1]
        tokens = tokens[:, None].expand(-1, texts_per_video, -1, -1, -1)
        return tokens.gather(3, index.expand(-1, -1, tokens.shape[2], -1, tokens.shape[4])).flatten(0, 1)


class SViTTTextAttention(nn.Module):
    """Self- or cross-attention, dense, residual and norm, under the names of BERT checkpoints."""

    def __init__(self, attention: SViTTSelfAttention | SViTTCrossAttention):
        super().__init__()
        self.self = attention
        self.output = BertSelfOutput(attention.config)

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
        context, probs = self.self(hidden_states, *args, **kwargs)
        return self.output(context, hidden_states[:, : context.shape[1]]), probs


class SViTTTextLayer(GradientCheckpointingLayer):
    """A BERT layer; from `fusion_layer` on with cross-attention to a video, if any; then some drop video tokens."""

    def __init__(self, config: SViTTTextConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.drops_tokens = layer_idx in config.token_drop_loc and config.token_keep_rate < 1
        self.attention = SViTTTextAttention(SViTTSelfAttention(config, layer_idx))
        self.crossattention = None
        if layer_idx >= config.fusion_layer:
            self.crossattention = SViTTTextAttention(SViTTCrossAttention(config, layer_idx))
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(
        self, hidden_states, attention_mask, video, video_mask, token_index, text_mask, cls_only: bool, cache, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the text states, and the indices (texts, kept) of the video tokens kept if some are dropped here.

        With `cls_only`, return the states of [CLS] alone, and drop nothing.
        """
        hidden_states, _ = self.attention(hidden_states, attention_mask, cache, cls_only, **kwargs)
        kept = None
        if self.crossattention is not None and video is not None:
            hidden_states, cross_probs = self.crossattention(
                hidden_states, video, video_mask, token_index, cache, **kwargs
            )
            if self.drops_tokens and not cls_only:
                kept = select_tokens(self.token_scores(cross_probs, text_mask), self.config.token_keep_rate)
        return self.output(self.intermediate(hidden_states), hidden_states), kept

    def token_scores(self, cross_probs: torch.Tensor, text_mask: torch.Tensor | None) -> torch.Tensor:
        """Return how much each video patch token deserves to stay, for each text: (texts, n)."""
        probs = cross_probs[..., 1:].mean(dim=1)
        if self.config.token_keep_strategy == "cls_attn":
            return probs[:, 0]
        if self.config.token_keep_strategy == "avg_attn":
            if text_mask is None or not self.config.attn_mask_padding:
                return probs.mean(dim=1)
            weights = text_mask.to(probs.dtype)[:, :, None]
            return (probs * weights).sum(dim=1) / weights.sum(dim=1)
        if self.training:
            return torch.rand_like(probs[:, 0])
        token = torch.arange(probs.shape[2], device=probs.device)
        return fixed_scores(token, device=probs.device).expand(probs.shape[0], -1)


class SViTTTextEncoder(nn.Module):
    def __init__(self, config: SViTTTextConfig):
        super().__init__()
        self.layer = nn.ModuleList([SViTTTextLayer(config, i) for i in range(config.num_hidden_layers)])

    def forward(
        self, hidden_states, layers: Sequence[int], attention_mask, video, video_mask, text_mask, cls_layer, **kwargs
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Run some of the layers: return text states (of [CLS] alone after `cls_layer`), and what each drop kept."""
        token_index, token_idx = None, ()
        for i in layers:
            hidden_states, kept = self.layer[i](
                hidden_states, attention_mask, video, video_mask, token_index, text_mask, i == cls_layer, **kwargs
            )
            if kept is None:
                continue
            token_idx += (kept,)
            if video_mask is not None:
                video_mask = self.mask_of_kept_tokens(video_mask, kept)
            if kept.shape[0] == video.shape[0]:
                video = keep_tokens(video, kept)
            else:  # texts that share a video keep different tokens of it: the video stays whole, to be projected once
                token_index = with_cls(kept) if token_index is None else token_index.gather(1, with_cls(kept))
        return hidden_states, token_idx

    @staticmethod
    def mask_of_kept_tokens(mask: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """(B, 1, 1, 1 + n) and (B * c, k) -> (B * c, 1, 1, 1 + k)"""
        mask = mask.repeat_interleave(kept.shape[0] // mask.shape[0], dim=0)
        return mask.gather(3, with_cls(kept)[:, None, None])


# ---- Encoders as models


@auto_docstring
class SViTTPreTrainedModel(PreTrainedModel):
    config: SViTTConfig
    base_model_prefix = "svitt"
    main_input_name = "pixel_values"
    input_modalities: tuple[str, ...] = ("video", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch: Trainer divides them where gradients accumulate
    _no_split_modules = ["SViTTVisionEmbeddings", "SViTTVisionLayer", "BertEmbeddings", "SViTTTextLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = [r"relative_position_index", r"position_ids"]

    def __init__(self, config: PreTrainedConfig, *args, **kwargs):
        if "flash" in (config._attn_implementation or ""):
            raise ValueError(
                "SViTT adds biases of relative positions to its scores, for which Flash Attention has no place: "
                f"`attn_implementation` can be 'sdpa' or 'eager', not {config._attn_implementation!r}."
            )
        super().__init__(config, *args, **kwargs)

    @property
    def input_tower(self) -> "SViTTPreTrainedModel | None":
        """Return the encoder inside a task model that words, or else clips, go into."""
        return getattr(self, "text_model", None) or getattr(self, "vision_model", None)

    def get_input_embeddings(self) -> nn.Module:
        return (self.input_tower or super()).get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        (self.input_tower or super()).set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.cls.predictions.decoder if hasattr(self, "cls") else None

    def set_output_embeddings(self, new_embeddings: nn.Module):
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, SViTTVisionEmbeddings):
            # Not zeros: the first norm, with its tiny epsilon, would make their gradient ten thousand times too large.
            init.normal_(module.cls_token, std=self.config.initializer_range)
            if module.position_embeddings is not None:
                init.zeros_(module.position_embeddings)
        elif isinstance(module, SViTTRelativePositionBias):
            init.zeros_(module.relative_position_bias_table)
        elif isinstance(module, SViTTVisionLayer):
            init.constant_(module.lambda_1, self.config.layer_scale_init_value)
            init.constant_(module.lambda_2, self.config.layer_scale_init_value)
        elif isinstance(module, BertEmbeddings):
            init.copy_(module.position_ids, torch.arange(module.position_ids.shape[-1]).expand((1, -1)))
            init.zeros_(module.token_type_ids)
        elif isinstance(module, BertLMPredictionHead):
            init.zeros_(module.bias)
        elif isinstance(module, SViTTModel):
            init.constant_(module.temp, self.config.temp)


@auto_docstring(custom_intro="The video encoder: BEiT over the tokens of all frames, with sparse edges and nodes.")
class SViTTVisionModel(SViTTPreTrainedModel):
    config: SViTTVisionConfig
    base_model_prefix = "vision_model"
    input_modalities = ("video",)
    _input_embed_layer = "patch_embeddings"
    _can_record_outputs = {
        "hidden_states": OutputRecorder(SViTTVisionLayer, index=0),
        "attentions": OutputRecorder(SViTTVisionSelfAttention, index=1),
    }

    def __init__(self, config: SViTTVisionConfig, add_pooling_layer: bool = True):
        r"""
        add_pooling_layer (`bool`, *optional*, defaults to `True`):
            Whether to return the pooled clip.
        """
        super().__init__(config)
        self.embeddings = SViTTVisionEmbeddings(config)
        self.encoder = SViTTVisionEncoder(config)
        self.layernorm = self.pooler = None
        if not config.use_mean_pooling:
            self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if add_pooling_layer:
            self.pooler = BeitPooler(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring(custom_args=ENCODER_DOC)
    def forward(
        self, pixel_values: torch.Tensor, output_cls_attention: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> SViTTVisionModelOutput:
        pixel_values = self.check_clips(pixel_values)
        clips = pixel_values.shape[:2]
        if self.config.frame_wise:  # each frame is a clip of its own
            pixel_values = pixel_values.flatten(0, 1)[:, None]
        num_frames, grid = pixel_values.shape[1], self.config.grid_size
        hidden_states = self.embeddings(pixel_values)
        order = token_order(self.config.token_3d_order, (num_frames, grid, grid), hidden_states.device)
        if self.config.token_3d_order != "none":
            hidden_states = keep_tokens(hidden_states, order.expand(hidden_states.shape[0], -1))

        hidden_states, token_idx, cls_attention = self.encoder(
            hidden_states, order[None], num_frames, output_cls_attention, **kwargs
        )

        if self.layernorm is not None:
            hidden_states = self.layernorm(hidden_states)
        pooled = self.pooler(hidden_states) if self.pooler is not None else None
        if self.config.frame_wise:
            hidden_states = hidden_states.unflatten(0, clips).flatten(1, 2)
            pooled = pooled.unflatten(0, clips) if pooled is not None else None
            first = grid**2 * torch.arange(clips[1], device=order.device)[:, None]
            token_idx = tuple((first + kept.unflatten(0, clips)).flatten(1) for kept in token_idx)
            cls_attention = cls_attention.unflatten(0, clips) if cls_attention is not None else None
        return SViTTVisionModelOutput(hidden_states, pooled, token_idx=token_idx or None, cls_attention=cls_attention)

    def check_clips(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return clips (B, T, C, height, width), also of images, or raise `ValueError` if the shape does not fit."""
        if pixel_values.dim() == 4:
            pixel_values = pixel_values[:, None]
        frame, longest = (self.config.num_channels, *2 * [self.config.image_size]), self.config.max_num_frames
        if pixel_values.dim() != 5 or pixel_values.shape[2:] != frame or not 1 <= pixel_values.shape[1] <= longest:
            raise ValueError(
                f"`pixel_values` has shape {tuple(pixel_values.shape)}; the model takes clips of shape (batch_size, "
                f"num_frames, {', '.join(map(str, frame))}), of 1 to {longest} frames (`max_num_frames`), or images "
                "without the second dimension."
            )
        return pixel_values


@auto_docstring(
    custom_intro="""
    BERT whose layers from `fusion_layer` on look at a video. Three modes: `"text"` runs the first `text_layers` on
    words alone, `"fusion"` the layers from `fusion_layer` on, on text states and a video, and `"multimodal"` all.
    """
)
class SViTTTextModel(SViTTPreTrainedModel):
    config: SViTTTextConfig
    base_model_prefix = "text_model"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    _input_embed_layer = "word_embeddings"
    _can_record_outputs = {
        # How many layers run depends on the mode: states can be picked from the front alone.
        "hidden_states": OutputRecorder(SViTTTextLayer, index=0, num_hidden_layers_key="layers_of_the_mode"),
        "attentions": OutputRecorder(SViTTSelfAttention, index=1),
        "cross_attentions": OutputRecorder(SViTTCrossAttention, index=1),
    }

    def __init__(self, config: SViTTTextConfig):
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = SViTTTextEncoder(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        mode: str | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        cls_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SViTTTextModelOutput:
        r"""
        text_embeds (`torch.FloatTensor` of shape `(batch_size, text_length, hidden_size)`, *optional*):
            `fusion_hidden_state` of text mode, for fusion mode.
        encoder_hidden_states (`torch.FloatTensor` of shape `(video_batch_size, video_length, width)`, *optional*):
            Video tokens, CLS first. `batch_size` may be a multiple c of `video_batch_size`: text i then looks at video
            i // c, whose keys and values are computed once for its c texts.
        encoder_attention_mask (`torch.Tensor` of shape `(video_batch_size, video_length)`, *optional*):
            1 for video tokens to look at, 0 for others.
        mode (`str`, *optional*):
            `"text"`, `"fusion"` or `"multimodal"`. By default text without `encoder_hidden_states`, and with these
            fusion of `text_embeds` or else multimodal.
        cache (`Cache`, *optional*):
            What a decoder returned for the words before `input_ids`.
        cls_only (`bool`, *optional*, defaults to `False`):
            Whether to compute nothing but [CLS] after the last self-attention: `last_hidden_state` is then
            `(batch_size, 1, hidden_size)`, and the last layer drops no video tokens.
        """
        mode, layers = self.layers_of_mode(mode, input_ids, text_embeds, encoder_hidden_states)
        runs_twice = self.training and self.is_activation_checkpointing and torch.is_grad_enabled()
        has_cache = self.config.is_decoder and (cache is not None or use_cache and not runs_twice)
        cache = self.decoder_cache(cache) if has_cache else None
        hidden_states = text_embeds
        if hidden_states is None:
            num_cached = 0 if cache is None else cache.get_seq_length()
            hidden_states = self.embed(input_ids, token_type_ids, num_cached, for_fusion=mode == "multimodal")
        if self.config.is_decoder:
            words_mask = create_causal_mask(self.config, hidden_states, attention_mask, cache)
        else:
            words_mask = create_bidirectional_mask(self.config, hidden_states, attention_mask)
        video, text_mask = encoder_hidden_states, attention_mask
        video_mask = self.cross_attention_mask(hidden_states, video, encoder_attention_mask)

        split, seen = self.config.fusion_layer, (words_mask, video, video_mask, text_mask)
        kwargs |= {"cls_layer": layers[-1] if cls_only else None, "cache": cache}
        hidden_states, _ = self.encoder(hidden_states, [i for i in layers if i < split], *seen, **kwargs)
        fusion_hidden_state = hidden_states if mode == "text" else None
        if mode == "text" and self.config.fusion_token_id is not None:
            fusion_hidden_state = self.embed(input_ids, token_type_ids, for_fusion=True)
        hidden_states, token_idx = self.encoder(hidden_states, [i for i in layers if i >= split], *seen, **kwargs)
        return SViTTTextModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=hidden_states[:, 0],
            fusion_hidden_state=fusion_hidden_state,
            cache=cache,
            token_idx=token_idx or None,
        )

    def embed(self, input_ids, token_type_ids=None, num_cached: int = 0, for_fusion: bool = False) -> torch.Tensor:
        """Return embeddings (B, L, D) of words behind `num_cached` others; for fusion, the first may be another."""
        if for_fusion and self.config.fusion_token_id is not None:
            input_ids = F.pad(input_ids[:, 1:], (1, 0), value=self.config.fusion_token_id)
        positions = num_cached + torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        return self.embeddings(input_ids, token_type_ids, positions)

    def decoder_cache(self, cache: Cache | None) -> EncoderDecoderCache:
        """Return the cache as one that has room for the keys and values of cross-attention."""
        if isinstance(cache, EncoderDecoderCache):
            return cache
        # `generate` hands over a bare `DynamicCache`, as our decoder alone is no encoder-decoder.
        own_cache = DynamicCache(config=self.config) if cache is None else cache
        return EncoderDecoderCache(own_cache, DynamicCache(config=self.config))

    def layers_of_mode(self, mode: str | None, input_ids, text_embeds, encoder_hidden_states) -> tuple[str, range]:
        """Return the mode and the layers that it runs, or raise `ValueError` for inputs that do not fit it."""
        if mode is None:
            mode = "text" if encoder_hidden_states is None else "multimodal" if text_embeds is None else "fusion"
        split, depth = self.config.fusion_layer, self.config.num_hidden_layers
        text_layers = split if self.config.text_layers is None else self.config.text_layers
        layers = {"text": range(text_layers), "fusion": range(split, depth), "multimodal": range(depth)}
        if mode not in layers:
            raise ValueError(f"`mode` must be one of {', '.join(layers)}, got {mode!r}.")
        needed = {"text_embeds": text_embeds} if mode == "fusion" else {"input_ids": input_ids}
        if mode != "text":
            needed["encoder_hidden_states"] = encoder_hidden_states
        for name, value in needed.items():
            if value is None:
                raise ValueError(f"`mode={mode!r}` takes `{name}`.")
        return mode, layers[mode]

    def cross_attention_mask(self, hidden_states, encoder_hidden_states, encoder_attention_mask) -> torch.Tensor | None:
        """Return the additive mask (video_batch_size, 1, 1, video_length)."""
        if encoder_hidden_states is None:
            return None
        num_texts, num_videos = hidden_states.shape[0], encoder_hidden_states.shape[0]
        if num_texts % num_videos:
            raise ValueError(
                f"There are {num_texts} texts for {num_videos} videos; the number of texts must be a multiple of the "
                "number of videos."
            )
        if encoder_attention_mask is None:
            return None
        blocked = ~encoder_attention_mask.bool()[:, None, None]
        mask = torch.zeros_like(blocked, dtype=hidden_states.dtype)
        return mask.masked_fill(blocked, torch.finfo(hidden_states.dtype).min)


# ---- Losses


# Logits that `contrastive_loss` holds at once: 16 MB of them in float32.
ITC_LOGITS_AT_ONCE = 2**22


def contrastive_loss(
    similarity: Callable, video_embeds: torch.Tensor, text_embeds: torch.Tensor, video_ids: torch.Tensor
) -> torch.Tensor:
    """Return the ITC loss: soft cross-entropy of both directions, with a row's positives sharing its target evenly.

    `similarity` gives the logits (videos, texts) of embeddings (B, embed_dim); pairs of the same id (B,) are positives.
    The (B, B) logits are computed a few rows at a time, and anew in the backward pass: memory grows with B alone.
    """
    rows_at_once = max(ITC_LOGITS_AT_ONCE // len(video_embeds), 1)

    def log_partitions(rows: torch.Tensor, row_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = similarity(rows, text_embeds)
        is_same = row_ids[:, None] == video_ids
        # Targets are symmetric, so that the logits meet the same ones in both directions.
        per_positive = torch.where(is_same, logits, 0).sum(dim=1) / is_same.sum(dim=1)
        return logits.logsumexp(dim=1), logits.logsumexp(dim=0), per_positive

    parts = zip(video_embeds.split(rows_at_once), video_ids.split(rows_at_once), strict=True)
    results = [checkpoint(log_partitions, *part, use_reentrant=False) for part in parts]
    per_video, per_text, positive = zip(*results, strict=True)
    per_text = torch.stack(per_text).logsumexp(dim=0)
    return ((torch.cat(per_video) + per_text) / 2 - torch.cat(positive)).mean()


def draw_negatives(logits: torch.Tensor, is_same: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a column (B,) for each row that is not a positive, in proportion to softmax(logits) (hard negatives).

    Also return whether a row has a negative at all (B,); where it has none, its column means nothing.
    """
    has_negative = ~is_same.all(dim=1)
    probs = logits.float().masked_fill(is_same, float("-inf")).softmax(dim=1)
    # NaN where there is no negative, or where logits are not finite: then the loss will tell, and any column will do.
    probs = probs.nan_to_num(1.0)
    return torch.multinomial(probs, 1).squeeze(1), has_negative


def mask_tokens(input_ids: torch.Tensor, config: SViTTTextConfig, mlm_prob: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose words at random; 80 % of them become [MASK], 10 % a random word, 10 % stay (BERT, Devlin et al. 2019).

    [PAD], [CLS] and [SEP] are never chosen; of all others in the batch, at least one is. Return the masked ids and the
    labels, -100 where no word was chosen, both (B, text_length).
    """
    eos_ids = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    special_ids = [i for i in (config.pad_token_id, config.bos_token_id, *eos_ids) if i is not None]
    is_word = ~torch.isin(input_ids, torch.tensor(special_ids, device=input_ids.device))

    def flip(prob: float) -> torch.Tensor:
        return torch.bernoulli(torch.full(input_ids.shape, prob, device=input_ids.device)).bool()

    is_chosen = flip(mlm_prob) & is_word
    lucky = (torch.rand(input_ids.shape, device=input_ids.device) * is_word).argmax()
    is_lucky = torch.arange(input_ids.numel(), device=input_ids.device).view_as(input_ids) == lucky
    is_chosen = is_chosen | (is_lucky & is_word & ~is_chosen.any())

    becomes_mask = is_chosen & flip(0.8)
    becomes_random = is_chosen & ~becomes_mask & flip(0.5)
    masked_ids = input_ids.masked_fill(becomes_mask, config.mask_token_id)
    random_ids = torch.randint(config.vocab_size, input_ids.shape, device=input_ids.device)
    return torch.where(becomes_random, random_ids, masked_ids), input_ids.masked_fill(~is_chosen, -100)


# ---- Clips of a longer video

CLIP_ENSEMBLES = ("mean", "max", "lse", "concat", "late_concat")


def split_clips(pixel_values: torch.Tensor, num_frames: int, strided: bool = False) -> torch.Tensor:
    """Cut videos (B, C * T, ...) into clips (B * C, T, ...) of consecutive frames, or of every C-th frame.

    Raises:
        ValueError: if the number of frames is not a multiple of `num_frames`.
    """
    if pixel_values.shape[1] % num_frames:
        raise ValueError(
            f"Videos of {pixel_values.shape[1]} frames cannot be cut into clips of {num_frames}; the number of frames "
            "must be a multiple."
        )
    if strided:
        return pixel_values.unflatten(1, (num_frames, -1)).transpose(1, 2).flatten(0, 1)
    return pixel_values.unflatten(1, (-1, num_frames)).flatten(0, 1)


def join_clips(tokens: torch.Tensor, ensemble: str) -> torch.Tensor:
    """Return the tokens (B, C, n, D) of clips; with `"late_concat"` as those of one clip each, (B, 1, C * n, D)."""
    return tokens.flatten(1, 2)[:, None] if ensemble == "late_concat" else tokens


def pool_clips(scores: torch.Tensor, ensemble: str) -> torch.Tensor:
    """Combine the scores (B, C, ...) of a video's C clips by one of `CLIP_ENSEMBLES`: (B, ...).

    `"lse"` is log-sum-exp; `"concat"` takes the only clip, of all frames, and `"late_concat"` that of [`join_clips`].
    """
    if ensemble not in CLIP_ENSEMBLES:
        raise ValueError(f"`ensemble` must be one of {', '.join(CLIP_ENSEMBLES)}, got {ensemble!r}.")
    if ensemble == "mean":
        return scores.mean(dim=1)
    if ensemble == "max":
        return scores.amax(dim=1)
    return scores.logsumexp(dim=1) if ensemble == "lse" else scores[:, 0]


# ---- Tasks


def fusion_layernorm(config: SViTTConfig) -> nn.Module:
    """Return the norm between the video encoder and fusion; encoders that end in one (BLIP, ALBEF) have no other."""
    return nn.LayerNorm(config.vision_config.hidden_size, eps=1e-12) if config.vision_layernorm else nn.Identity()


@auto_docstring(custom_intro="Video and text encoders, their common space, and the matching score of pairs.")
class SViTTModel(SViTTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [*SViTTPreTrainedModel._keys_to_ignore_on_load_unexpected, r"^cls\."]
    temp_range = (0.001, 0.5)
    predicts_words = False

    def __init__(self, config: SViTTConfig):
        super().__init__(config)
        vision, text = config.vision_config, config.text_config
        self.vision_model = SViTTVisionModel._from_config(vision)
        self.vision_layernorm = fusion_layernorm(config)
        self.text_model = SViTTTextModel._from_config(text)
        self.vision_proj = nn.Linear(vision.hidden_size, config.embed_dim)
        self.text_proj = nn.Linear(text.hidden_size, config.embed_dim)
        self.temp = nn.Parameter(torch.tensor(config.temp))
        self.itm_head = nn.Linear(text.hidden_size, 2)
        if self.predicts_words:  # made here, as `post_init` ties it
            self.cls = BertOnlyMLMHead(text)
        self.post_init()

    @can_return_tuple
    @auto_docstring(custom_args=CLIPS_DOC)
    def get_video_features(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | SViTTVisionModelOutput:
        r"""
        Returns:
            [`SViTTVisionModelOutput`]: `last_hidden_state` are the tokens that fusion looks at, `pooler_output` of
            shape `(batch_size, embed_dim)` is the projection to the common space, not normalised. With `frame_wise`, it
            is the mean of the frames' normalised projections, and the embedding itself (Singularity, Lei et al. 2022).
        """
        outputs = self.vision_model(pixel_values, **kwargs)
        outputs.last_hidden_state = self.vision_layernorm(outputs.last_hidden_state)
        outputs.pooler_output = self.vision_proj(outputs.pooler_output)
        if self.config.vision_config.frame_wise:
            outputs.pooler_output = F.normalize(outputs.pooler_output, dim=-1).mean(dim=1)
        return outputs

    def video_embeds(self, pooler_output: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, embed_dim), to be multiplied with texts', of what `get_video_features` pooled."""
        return pooler_output if self.config.vision_config.frame_wise else F.normalize(pooler_output, dim=-1)

    @can_return_tuple
    @auto_docstring
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | SViTTTextModelOutput:
        r"""
        Returns:
            [`SViTTTextModelOutput`]: `last_hidden_state` are the text states that fusion starts from, `pooler_output`
            of shape `(batch_size, embed_dim)` is the projection to the common space, not normalised.
        """
        outputs = self.text_model(input_ids, attention_mask, mode="text", **kwargs)
        outputs.last_hidden_state, outputs.fusion_hidden_state = outputs.fusion_hidden_state, None
        outputs.pooler_output = self.text_proj(outputs.pooler_output)
        return outputs

    def fuse(
        self,
        video_hidden_states: torch.Tensor,
        text_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cls_only: bool = False,
        video_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return states (B * c, L, D), or of [CLS] alone (B * c, 1, D), of texts that looked at videos (B, n, D)."""
        return self.text_model(
            text_embeds=text_hidden_states,
            attention_mask=attention_mask,
            encoder_hidden_states=video_hidden_states,
            encoder_attention_mask=video_mask,
            mode="fusion",
            cls_only=cls_only,
        ).last_hidden_state

    def match(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        video_hidden_states: torch.Tensor | None = None,
        text_hidden_states: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return matching scores (B * c,) float32, how well texts describe videos: logits of class 1 of the head.

        Args:
            pixel_values: clips (B, T, C, height, width), or else
            video_hidden_states: (B, video_length, D) `last_hidden_state` of `get_video_features`.
            input_ids: texts (B * c, text_length), text i of video i // c, which is projected once. Or else
            text_hidden_states: (B * c, text_length, D) `last_hidden_state` of `get_text_features`.
            attention_mask: (B * c, text_length).
            video_mask: (B, video_length), 1 for tokens to look at, 0 for others.
        """
        if video_hidden_states is None:
            video_hidden_states = self.get_video_features(pixel_values, return_dict=True).last_hidden_state
        if text_hidden_states is None:
            text_hidden_states = self.get_text_features(input_ids, attention_mask, return_dict=True).last_hidden_state
        fused = self.fuse(video_hidden_states, text_hidden_states, attention_mask, cls_only=True, video_mask=video_mask)
        cls, head = fused[:, 0], self.itm_head
        with torch.autocast(fused.device.type, enabled=False):
            if type(head) is nn.Linear and head.weight.device == cls.device:  # in half precision, scores would tie
                return F.linear(cls.float(), head.weight.float(), head.bias.float())[:, 1]
            return head(cls)[:, 1].float()  # with LoRA, quantised or offloaded

    def similarity(self, video_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
        """Return cosines over the temperature, (videos, texts) float32 under any autocast."""
        with torch.autocast(video_embeds.device.type, enabled=False):
            return video_embeds.float() @ text_embeds.float().t() / self.temp.float().clamp(*self.temp_range)

    @can_return_tuple
    @auto_docstring(custom_args=CLIPS_DOC)
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SViTTOutput:
        video = self.get_video_features(pixel_values, return_dict=True, **kwargs)
        text = self.get_text_features(input_ids, attention_mask, return_dict=True, **kwargs)
        video_embeds = self.video_embeds(video.pooler_output)
        text_embeds = F.normalize(text.pooler_output, dim=-1)
        logits_per_video = self.similarity(video_embeds, text_embeds)
        return SViTTOutput(
            logits_per_video=logits_per_video,
            logits_per_text=logits_per_video.t(),
            video_embeds=video_embeds,
            text_embeds=text_embeds,
            video_model_output=video,
            text_model_output=text,
        )


@auto_docstring(custom_intro="SViTT for text-video retrieval: contrastive and matching loss (ITC + ITM).")
class SViTTForVideoTextRetrieval(SViTTModel):
    @can_return_tuple
    @auto_docstring(custom_args=RETRIEVAL_DOC)
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        video_ids: torch.Tensor | None = None,
        negative_video_idx: torch.Tensor | None = None,
        negative_text_idx: torch.Tensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SViTTOutput:
        if self.training:
            with torch.no_grad():
                self.temp.clamp_(*self.temp_range)
        outputs = super().forward(pixel_values, input_ids, attention_mask, return_dict=True, **kwargs)
        if not (self.training if return_loss is None else return_loss):
            if self.are_pairs(pixel_values, input_ids):
                outputs.itm_logits = self.itm_head(self.fuse_pairs(outputs, attention_mask, cls_only=True)[:, 0])
            return outputs

        if video_ids is None:
            first = torch.distributed.get_rank() * len(pixel_values) if self.gathers() else 0
            video_ids = first + torch.arange(len(pixel_values), device=outputs.video_embeds.device)
        weights = self.config.loss_weight
        outputs.loss_itc = outputs.loss = weights["itc"] * self.itc_loss(outputs, video_ids)
        if weights["itm"]:
            if self.config.itm_list_size is None:
                negatives = (negative_video_idx, negative_text_idx)
                loss, outputs.itm_logits = self.itm_loss(outputs, attention_mask, video_ids, *negatives)
            else:
                loss, outputs.itm_logits = self.itm_list_loss(outputs, attention_mask, video_ids)
            outputs.loss_itm = weights["itm"] * loss
            outputs.loss = outputs.loss + outputs.loss_itm
        return outputs

    def gathers(self) -> bool:
        """Return whether the contrastive loss is of all processes."""
        return self.config.itc_all_gather and torch.distributed.is_initialized()

    def itc_loss(self, outputs: SViTTOutput, video_ids: torch.Tensor) -> torch.Tensor:
        """Return the contrastive loss; with `config.itc_all_gather`, of all processes, with gradient to each."""
        video_embeds, text_embeds = outputs.video_embeds, outputs.text_embeds
        if self.gathers():
            from torch.distributed.nn.functional import all_gather  # not on every platform

            video_embeds, text_embeds, video_ids = (
                torch.cat(all_gather(own)) for own in (video_embeds, text_embeds, video_ids)
            )
        return contrastive_loss(self.similarity, video_embeds, text_embeds, video_ids)

    @staticmethod
    def are_pairs(pixel_values: torch.Tensor, input_ids: torch.Tensor) -> bool:
        """Return whether each clip has its own texts: else they are compared, all with all, but not fused."""
        return input_ids.shape[0] % pixel_values.shape[0] == 0

    def fuse_pairs(self, outputs: SViTTOutput, attention_mask, cls_only: bool = False) -> torch.Tensor:
        """Return states of each text after looking at the clip it came with."""
        video, text = outputs.video_model_output.last_hidden_state, outputs.text_model_output.last_hidden_state
        return self.fuse(video, text, attention_mask, cls_only=cls_only)

    def itm_loss(
        self, outputs: SViTTOutput, attention_mask, video_ids, negative_video_idx, negative_text_idx
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the matching loss: tell B pairs from pairs with a drawn negative video and with a drawn negative text.

        Also return the logits (3B, 2) of (text, video), (text, negative video) and (negative text, video). Rows without
        a negative (all ids equal, or B = 1) are left out of the mean.
        """
        video, text = outputs.video_model_output.last_hidden_state, outputs.text_model_output.last_hidden_state
        is_same = video_ids[:, None] == video_ids
        logits_per_video = outputs.logits_per_video.detach() * float(self.config.itm_hard_neg)
        drawn_video_idx, has_negative = draw_negatives(logits_per_video.t(), is_same)
        drawn_text_idx, _ = draw_negatives(logits_per_video, is_same)
        video_idx = drawn_video_idx if negative_video_idx is None else negative_video_idx.view(-1)
        text_idx = drawn_text_idx if negative_text_idx is None else negative_text_idx.view(-1)

        fused = self.fuse(
            torch.cat([video, video[video_idx], video]),
            torch.cat([text, text, text[text_idx]]),
            None if attention_mask is None else torch.cat([attention_mask, attention_mask, attention_mask[text_idx]]),
            cls_only=True,
        )
        itm_logits = self.itm_head(fused[:, 0])
        no_match = torch.where(has_negative, 0, -100)
        labels = torch.cat([torch.ones_like(no_match), no_match, no_match])
        return F.cross_entropy(itm_logits.float(), labels), itm_logits

    def itm_list_loss(self, outputs: SViTTOutput, attention_mask, video_ids) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the matching loss of all pairs of `config.itm_list_size` clips and their texts: which is the match?

        It is the contrastive loss of their matching scores, and learns from few pairs what telling a match from one
        negative at a time does not. That loss is added, one match to two others as there, so that scores mean the same.
        Neither reaches the layers before fusion, whose embeddings lists held back.
        Also return the logits (B, 2) of the pairs given.
        """
        video = outputs.video_model_output.last_hidden_state.detach()
        text = outputs.text_model_output.last_hidden_state.detach()
        batch_size, losses, itm_logits = len(video), [], []
        num_parts = math.ceil(batch_size / self.config.itm_list_size)
        for part in torch.arange(batch_size, device=video.device).tensor_split(num_parts):
            size, texts, ids = len(part), part.repeat(len(part)), video_ids[part]
            mask = None if attention_mask is None else attention_mask[texts]
            logits = self.itm_head(self.fuse(video[part], text[texts], mask, cls_only=True)[:, 0]).float()
            scores = (logits[:, 1] - logits[:, 0]).view(size, size)
            which = contrastive_loss(lambda rows, _: rows, scores, scores, ids)
            is_match = (ids[:, None] == ids).long().flatten()
            whether = F.cross_entropy(logits, is_match, logits.new_tensor([2 / max(size - 1, 1), 1]))
            losses.append(size / batch_size * (which + whether))
            itm_logits.append(logits[:: size + 1])
        return torch.stack(losses).sum(), torch.cat(itm_logits)


@auto_docstring(custom_intro="SViTT for pre-training: contrastive, matching and masked language modeling loss.")
class SViTTForPreTraining(SViTTForVideoTextRetrieval):
    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "text_model.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    predicts_words = True

    @can_return_tuple
    @auto_docstring(custom_args=RETRIEVAL_DOC + MLM_DOC)
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        video_ids: torch.Tensor | None = None,
        negative_video_idx: torch.Tensor | None = None,
        negative_text_idx: torch.Tensor | None = None,
        mlm_input_ids: torch.Tensor | None = None,
        mlm_labels: torch.Tensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SViTTOutput:
        return_loss = self.training if return_loss is None else return_loss
        pairs = (video_ids, negative_video_idx, negative_text_idx)
        outputs = super().forward(
            pixel_values, input_ids, attention_mask, *pairs, return_loss=return_loss, return_dict=True, **kwargs
        )
        if not return_loss:
            if self.are_pairs(pixel_values, input_ids):
                outputs.prediction_logits = self.cls(self.fuse_pairs(outputs, attention_mask))
        elif self.config.loss_weight["mlm"]:
            if mlm_input_ids is None:
                mlm_input_ids, mlm_labels = mask_tokens(input_ids, self.text_model.config, self.config.mlm_prob)
            video = outputs.video_model_output.last_hidden_state
            loss, outputs.prediction_logits = self.mlm_loss(video, mlm_input_ids, mlm_labels, attention_mask)
            outputs.loss_mlm = self.config.loss_weight["mlm"] * loss
            outputs.loss = outputs.loss + outputs.loss_mlm
        return outputs

    def mlm_loss(
        self, video_hidden_states: torch.Tensor, mlm_input_ids, mlm_labels, attention_mask
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of words masked, with the video in sight, and logits (B, text_length, vocab_size)."""
        fused = self.text_model(mlm_input_ids, attention_mask, encoder_hidden_states=video_hidden_states)
        logits = self.cls(fused.last_hidden_state)
        # A sum over a count, as the mean over no token at all (a batch of empty texts) would be NaN.
        loss = F.cross_entropy(logits.flatten(0, 1).float(), mlm_labels.flatten(), reduction="sum")
        return loss / (mlm_labels != -100).sum().clamp(min=1), logits


@auto_docstring(custom_intro="The answer decoder: a BERT language model that looks at the question's states.")
class SViTTTextDecoder(SViTTPreTrainedModel, GenerationMixin):
    config: SViTTTextDecoderConfig
    base_model_prefix = "bert"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: SViTTTextDecoderConfig):
        super().__init__(config)
        self.bert = SViTTTextModel(config)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | CausalLMOutputWithCrossAttentions:
        r"""
        cache (`Cache`, *optional*):
            What was returned for the words before `input_ids`.
        past_key_values (`Cache`, *optional*):
            Another name for `cache`.
        """
        outputs = self.bert(
            input_ids,
            attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            mode="multimodal",
            cache=past_key_values if cache is None else cache,
            use_cache=use_cache,
            **kwargs,
        )
        return CausalLMOutputWithCrossAttentions(
            logits=self.cls(outputs.last_hidden_state[:, -logits_to_keep:]),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            **{CACHE_NAME: outputs.cache},
        )


ANSWER_SCORINGS = ("published", "likelihood")


class AnswerStart(NamedTuple):
    """What all answers to B questions about C clips each begin with: `[CLS]`, decoded."""

    question: torch.Tensor  # (B * C, question_length, D) states after looking at a clip
    question_mask: torch.Tensor | None  # (B * C, question_length)
    logits: torch.Tensor  # (B, C, vocab_size) of the first word
    cache: EncoderDecoderCache


def distinct_answers(
    shortlist: torch.Tensor, answer_ids: torch.Tensor, answer_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make one of equal answers in shortlists (B, k) of a list (A, L), lest float noise tell them apart.

    Returns:
        Ids and mask of the R different answers, both (R, L), by length, as those of like lengths are decoded together;
        those of each shortlist (B, n), by length, filled up with 0; where in these each of the shortlist is (B, k).
    """
    answer_mask = answer_mask.long()
    rows = torch.cat([answer_mask.sum(dim=1, keepdim=True), answer_mask, answer_ids * answer_mask], dim=1)
    rows, row_of = rows.unique(dim=0, return_inverse=True)  # sorted, by the first column first
    _, answer_mask, answer_ids = rows.split([1, *answer_mask.shape[1:], *answer_ids.shape[1:]], dim=1)
    rows, order = row_of[shortlist].sort(dim=1)
    places = F.pad(rows.diff(dim=1) != 0, (1, 0)).cumsum(dim=1)
    own = rows.new_zeros(len(rows), int(places.max()) + 1).scatter(1, places, rows)
    return answer_ids, answer_mask, own, places.scatter(1, order, places)


@auto_docstring(custom_intro="SViTT for video question answering: the question looks at the video, a decoder answers.")
class SViTTForVideoQuestionAnswering(SViTTPreTrainedModel, GenerationMixin):
    def __init__(self, config: SViTTConfig):
        super().__init__(config)
        self.vision_model = SViTTVisionModel._from_config(config.vision_config, add_pooling_layer=False)
        self.vision_layernorm = fusion_layernorm(config)
        self.text_model = SViTTTextModel._from_config(config.text_config)
        self.text_decoder = SViTTTextDecoder._from_config(config.decoder_config)
        self.generation_config = self.text_decoder.generation_config
        self.post_init()

    @can_return_tuple
    @auto_docstring(
        custom_args=CLIPS_DOC
        + r"""
    labels (`torch.LongTensor` of shape `(num_answers, answer_length)`, *optional*):
        Answers, `[CLS] answer [SEP]`, to compute the loss of; padding and -100 are ignored.
    decoder_input_ids (`torch.LongTensor` of shape `(num_answers, answer_length)`, *optional*):
        What the decoder reads. Defaults to the labels, or to `[CLS]` alone.
    decoder_attention_mask (`torch.Tensor` of shape `(num_answers, answer_length)`, *optional*):
        1 for words of the answers, 0 for padding. Defaults to telling padding by its id.
    answer_weights (`torch.FloatTensor` of shape `(num_answers,)`, *optional*):
        Weight of each answer, such as the share of annotators who gave it. Defaults to 1.
    answers_per_question (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
        How many of the answers, which stand in the order of the questions, belong to each question. Defaults to the
        same number for all.
"""
    )
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        answer_weights: torch.Tensor | None = None,
        answers_per_question: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SViTTQuestionAnsweringOutput:
        pad_token_id = self.config.decoder_config.pad_token_id
        if decoder_input_ids is None and labels is None:
            decoder_input_ids = self.start_of_answers(input_ids.shape[0])
        elif decoder_input_ids is None:
            decoder_input_ids = labels.masked_fill(labels == -100, pad_token_id)
            decoder_input_ids[:, :1] = self.start_of_answers(labels.shape[0])
        if decoder_attention_mask is None:
            decoder_attention_mask = (decoder_input_ids != pad_token_id).long()

        question = self.encode_question(self.encode_video(pixel_values), input_ids, attention_mask)
        states, mask = question, attention_mask
        if answers_per_question is not None:
            states = states.repeat_interleave(answers_per_question, dim=0)
            mask = mask.repeat_interleave(answers_per_question, dim=0) if mask is not None else None
        outputs = self.text_decoder(
            decoder_input_ids, decoder_attention_mask, states, mask, use_cache=False, return_dict=True, **kwargs
        )

        loss = answer_loss = None
        if labels is not None:
            is_padding = (labels == pad_token_id) | (decoder_attention_mask == 0)
            targets = labels.masked_fill(is_padding, -100)[:, 1:]
            nll = F.cross_entropy(outputs.logits[:, :-1].float().transpose(1, 2), targets, reduction="none")
            answer_loss = nll.sum(dim=1)
            weights = torch.ones_like(answer_loss) if answer_weights is None else answer_weights
            loss = (weights * answer_loss).sum() / input_ids.shape[0]
        return SViTTQuestionAnsweringOutput(
            loss=loss,
            logits=outputs.logits,
            answer_loss=answer_loss,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            question_hidden_states=question,
        )

    def start_of_answers(self, num_answers: int) -> torch.Tensor:
        """Return `[CLS]`, or what the decoder has in its place, alone: (num_answers, 1)."""
        return torch.full((num_answers, 1), self.config.decoder_config.bos_token_id, device=self.device)

    def encode_video(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, video_length, D) of clips (B, T, channels, height, width) for questions to look at."""
        return self.vision_layernorm(self.vision_model(pixel_values).last_hidden_state)

    def encode_question(self, video_hidden_states: torch.Tensor, input_ids, attention_mask) -> torch.Tensor:
        """Return the states (B, question_length, D) of questions that have looked at what `encode_video` returned."""
        return self.text_model(
            input_ids, attention_mask, encoder_hidden_states=video_hidden_states, mode="multimodal"
        ).last_hidden_state

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args, **kwargs) -> nn.Embedding:
        """Make room for new words in questions, and in answers."""
        self.text_decoder.resize_token_embeddings(new_num_tokens, *args, **kwargs)
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    @torch.no_grad()
    def generate(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Return free-form answers: ids (B, length) from `[CLS]` on. Takes what `GenerationMixin.generate` takes.

        `Seq2SeqTrainer` passes `labels` too, which are not looked at.
        """
        question = self.encode_question(self.encode_video(pixel_values), input_ids, attention_mask)
        self.text_decoder.generation_config = self.generation_config  # loaded, or set, since the decoder was made
        return self.text_decoder.generate(
            self.start_of_answers(input_ids.shape[0]),
            encoder_hidden_states=question,
            encoder_attention_mask=attention_mask,
            **kwargs,
        )

    @torch.no_grad()
    def rank_answers(
        self,
        pixel_values: torch.Tensor | None,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        answer_ids: torch.Tensor,
        answer_mask: torch.Tensor | None = None,
        candidates: torch.Tensor | None = None,
        k: int = 128,
        ensemble: str = "lse",
        num_frames: int | None = None,
        strided_clips: bool = False,
        answer_scoring: str = "published",
        chunk_size: int = 256,
        video_hidden_states: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rank the answers of a list: shortlist by their first word, score the shortlist as a whole.

        Args:
            pixel_values: videos (B, C * T, channels, height, width) of C clips.
            input_ids: questions (B, question_length).
            attention_mask: (B, question_length).
            answer_ids: the list (A, answer_length), each `[CLS] answer [SEP]`.
            answer_mask: (A, answer_length); by default padding is told by its id.
            candidates: (B, n) indices of the answers that each question may have, -1 where it has fewer than others;
                by default all of the list.
            k: length of the shortlist; where there are fewer answers, all of them are ranked.
            ensemble: how to combine clips: `"mean"`, `"max"` or `"lse"` of their scores, or
                `"concat"`: all frames as one clip, or `"late_concat"`: each clip alone, and their tokens joined.
            num_frames: T; defaults to the configuration's.
            strided_clips: whether a clip takes every C-th frame instead of consecutive ones.
            answer_scoring: `"published"`, log p(first word) - nll(answer), which counts the first word twice (and,
                with an ensemble, softmaxes it twice, which all but cancels it); or `"likelihood"`, -nll(answer).
            chunk_size: answers decoded at once, those of all clips and questions; bounds memory, never changes results.
            video_hidden_states: (B, C, video_length, D) what `encode_video` made of the clips, instead of
                `pixel_values`, where several questions are about a video.

        Returns:
            Indices into the list and probabilities, both (B, min(k, n)) and sorted by probability, equal answers by
            their place in the list; the index is -1, and the probability 0, where a question has no more candidates.

        Raises:
            ValueError: for an unknown `ensemble` or `answer_scoring`, frames that don't make whole clips, `k` below 1.
        """
        if answer_scoring not in ANSWER_SCORINGS:
            raise ValueError(f"`answer_scoring` must be one of {', '.join(ANSWER_SCORINGS)}, got {answer_scoring!r}.")
        if k < 1:
            raise ValueError(f"`k` must be at least 1, got {k}.")
        if answer_mask is None:
            answer_mask = (answer_ids != self.config.decoder_config.pad_token_id).long()
        if candidates is None:
            candidates = torch.arange(len(answer_ids), device=input_ids.device).expand(len(input_ids), -1)
        if video_hidden_states is None:
            if ensemble != "concat":
                num_frames = num_frames or self.config.vision_config.num_frames
                pixel_values = split_clips(pixel_values, num_frames, strided_clips)
            video_hidden_states = self.encode_video(pixel_values).unflatten(0, (len(input_ids), -1))
        start = self.start_answering(join_clips(video_hidden_states, ensemble), input_ids, attention_mask)
        first_scores, shortlist = self.shortlist_by_first_word(start, candidates, answer_ids, ensemble, k)
        nll = self.shortlist_nll(start, shortlist, answer_ids, answer_mask, chunk_size)
        scores = -nll if answer_scoring == "likelihood" else first_scores[:, None] - nll
        probs = pool_clips(scores, ensemble).masked_fill(shortlist < 0, float("-inf")).softmax(dim=-1)
        probs = probs.masked_fill((shortlist < 0).all(dim=1, keepdim=True), 0.0)
        probs, order = probs.sort(dim=1, descending=True, stable=True)
        return shortlist.gather(1, order), probs

    def start_answering(self, video_hidden_states: torch.Tensor, input_ids, attention_mask) -> AnswerStart:
        """Ask questions (B, question_length) about each of C clips (B, C, video_length, D), and decode [CLS]."""
        num_clips = video_hidden_states.shape[1]
        mask = attention_mask.repeat_interleave(num_clips, dim=0) if attention_mask is not None else None
        ids = input_ids.repeat_interleave(num_clips, dim=0)
        question = self.encode_question(video_hidden_states.flatten(0, 1), ids, mask)
        cls = self.start_of_answers(len(question))
        outputs = self.text_decoder.bert(
            cls, encoder_hidden_states=question, encoder_attention_mask=mask, use_cache=True
        )
        logits = self.text_decoder.cls(outputs.last_hidden_state[:, 0]).float()
        return AnswerStart(question, mask, logits.unflatten(0, (-1, num_clips)), outputs.cache)

    def shortlist_by_first_word(
        self, start: AnswerStart, candidates, answer_ids, ensemble: str, k: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log p(first word) of the k best of candidates (B, n), and these, -1 for none: both (B, min(k, n))."""
        is_one = "concat" in ensemble
        scores = start.logits[:, 0] if is_one else pool_clips(start.logits.softmax(dim=-1), ensemble)
        scores = scores.log_softmax(dim=-1).gather(1, answer_ids[:, 1][candidates])
        scores, order = scores.masked_fill(candidates < 0, float("-inf")).sort(dim=1, descending=True, stable=True)
        return scores[:, :k], candidates.gather(1, order[:, :k])

    def shortlist_nll(self, start: AnswerStart, shortlist, answer_ids, answer_mask, chunk_size: int) -> torch.Tensor:
        """Return negative log-likelihoods (B, C, k) of shortlists (B, k), which mean nothing where these hold -1."""
        num_clips = start.logits.shape[1]
        answer_ids, answer_mask, rows, places = distinct_answers(shortlist, answer_ids, answer_mask)
        rows, places = (indices.repeat_interleave(num_clips, dim=0) for indices in (rows, places))
        nll = -start.logits.flatten(0, 1).log_softmax(dim=-1).gather(1, answer_ids[:, 1][rows])
        chunks = rows.split(max(1, chunk_size // len(rows)), dim=1)
        nll = nll + torch.cat([self.later_words_nll(start, chunk, answer_ids, answer_mask) for chunk in chunks], dim=1)
        return nll.gather(1, places).unflatten(0, (-1, num_clips))

    def later_words_nll(self, start: AnswerStart, chunk, answer_ids, answer_mask) -> torch.Tensor:
        """Return the nll (B * C, n) of what follows the first words of answers `chunk` (B * C, n).

        All answers go on from [CLS]: each costs the decoder one step for each word that is followed by another, and
        the vocabulary is looked at for no others.
        """
        answers = chunk.flatten()
        is_followed = answer_mask[answers, 2:].bool()
        length = int(is_followed.sum(dim=1).max())
        is_followed = is_followed[:, :length]
        nll = start.logits.new_zeros(is_followed.shape)
        if length:
            own_cache = copy.deepcopy(start.cache.self_attention_cache)
            own_cache.batch_repeat_interleave(chunk.shape[1])
            states = self.text_decoder.bert(
                answer_ids[answers, 1 : 1 + length],
                answer_mask[answers, : 1 + length],
                encoder_hidden_states=start.question,
                encoder_attention_mask=start.question_mask,
                mode="multimodal",
                cache=EncoderDecoderCache(own_cache, start.cache.cross_attention_cache),
                use_cache=True,
            ).last_hidden_state
            logits, next_ids = self.text_decoder.cls(states[is_followed]).float(), answer_ids[answers, 2 : 2 + length]
            nll[is_followed] = F.cross_entropy(logits, next_ids[is_followed], reduction="none")
        return nll.sum(dim=1).view(chunk.shape)


@auto_docstring(custom_intro="SViTT for video classification: a linear layer on the pooled clip.")
class SViTTForVideoClassification(SViTTPreTrainedModel):
    input_modalities = ("video",)

    def __init__(self, config: SViTTConfig):
        super().__init__(config)
        self.vision_model = SViTTVisionModel._from_config(config.vision_config)
        self.classifier = nn.Linear(config.vision_config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring(
        custom_args=CLIPS_DOC
        + r"""
    labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
        Class of each clip, from 0.
"""
    )
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | ImageClassifierOutput:
        outputs = self.vision_model(pixel_values, **kwargs)
        pooled = outputs.pooler_output.mean(dim=1) if self.config.vision_config.frame_wise else outputs.pooler_output
        logits = self.classifier(pooled)
        loss = self.loss_function(labels, logits, self.config) if labels is not None else None
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


SViTTModel.register_for_auto_class("AutoModel")
SViTTForPreTraining.register_for_auto_class("AutoModelForPreTraining")
SViTTForVideoQuestionAnswering.register_for_auto_class("AutoModelForVisualQuestionAnswering")
SViTTForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")


__all__ = [
    "SViTTForPreTraining",
    "SViTTForVideoClassification",
    "SViTTForVideoQuestionAnswering",
    "SViTTForVideoTextRetrieval",
    "SViTTModel",
    "SViTTPreTrainedModel",
    "SViTTTextDecoder",
    "SViTTTextModel",
    "SViTTVisionModel",
    "fixed_block_pattern",
]
