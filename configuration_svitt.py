# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""SViTT configuration: a BEiT over clips, a BERT whose last layers look at the video, and what joins the two."""

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import auto_docstring
from transformers.utils.versions import require_version

__version__ = "0.2.0"  # of the package; it tells which code a folder of weights holds

require_version("transformers>=5.23")

# `save_pretrained` adds only the class being saved to `auto_map`, so every entry point is listed here.
AUTO_MAP = {
    "AutoConfig": "configuration_svitt.SViTTConfig",
    "AutoModel": "modeling_svitt.SViTTModel",
    "AutoModelForPreTraining": "modeling_svitt.SViTTForPreTraining",
    "AutoModelForVisualQuestionAnswering": "modeling_svitt.SViTTForVideoQuestionAnswering",
    "AutoModelForVideoClassification": "modeling_svitt.SViTTForVideoClassification",
    "AutoProcessor": "processing_svitt.SViTTProcessor",
    "AutoVideoProcessor": "processing_svitt.SViTTVideoProcessor",
}

TOKEN_ORDERS = ("none", "zcurve", "hilbert")
LOSSES = ("itc", "itm", "mlm")
# What an answer decoder does not take from the text encoder, to start from the weights of its fusion layers.
OWN_FIELDS_OF_DECODER = {"num_hidden_layers", "is_decoder", "use_cache", "fusion_layer", "encoder_width"}
OWN_FIELDS_OF_DECODER |= {"text_layers", "fusion_token_id"}
OWN_FIELDS_OF_DECODER |= {"token_keep_rate", "token_drop_loc", "token_keep_strategy", "attn_mask_padding"}


def _require(condition: bool, message: str):
    if not condition:
        raise ValueError(message)


def _validate_transformer(config: PreTrainedConfig, sizes: tuple[str, ...]):
    for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", *sizes):
        _require(getattr(config, field) >= 1, f"`{field}` must be at least 1, got {getattr(config, field)}.")
    width, heads = config.hidden_size, config.num_attention_heads
    _require(width % heads == 0, f"`hidden_size` ({width}) must be divisible by `num_attention_heads` ({heads}).")
    activation = config.hidden_act
    _require(activation in ACT2FN, f"`hidden_act` must be one of Transformers', such as gelu; got {activation!r}.")


def _validate_token_dropping(config: PreTrainedConfig, first_layer: int, strategies: tuple[str, ...]):
    rate, strategy, last_layer = config.token_keep_rate, config.token_keep_strategy, config.num_hidden_layers - 1
    _require(0 < rate <= 1, f"`token_keep_rate` must be in (0, 1], got {rate}.")
    _require(strategy in strategies, f"`token_keep_strategy` must be one of {', '.join(strategies)}, got {strategy!r}.")
    for layer in config.token_drop_loc:
        _require(
            first_layer <= layer <= last_layer,
            f"`token_drop_loc` names layer {layer}; tokens can be dropped after layers {first_layer} to {last_layer}.",
        )


@auto_docstring(checkpoint="svitt-base")
@strict
class SViTTVisionConfig(PreTrainedConfig):
    r"""
    num_frames (`int`, *optional*, defaults to 4):
        Number of frames of the clips that the relative position bias tables are built for; `svitt convert expand`
        builds those of a saved model for others.
    max_num_frames (`int`, *optional*, defaults to 256):
        Longest clip accepted; the tables are interpolated in time for clips of another length than `num_frames`.
    frame_wise (`bool`, *optional*, defaults to `False`):
        Whether each frame is encoded alone, as by models of images, and the tokens of all frames, each with its own CLS
        token, are joined for fusion. The bias tables are then for one frame.
    layer_scale_init_value (`float`, *optional*, defaults to 0.1):
        Initial value of the scales of both residual branches of a layer.
    use_absolute_position_embeddings (`bool`, *optional*, defaults to `False`):
        Whether to add one learned spatial table, shared by all frames, to the patch embeddings.
    use_relative_position_bias (`bool`, *optional*, defaults to `True`):
        Whether each layer adds a learned bias, by the (time, height, width) offset of two tokens, to its scores.
    use_mean_pooling (`bool`, *optional*, defaults to `True`):
        Whether the pooled state is the normalised mean of the patch tokens, or else the normalised CLS token.
    sparse_local_attn (`int`, *optional*, defaults to 1):
        Edge sparsity: number of neighbouring key blocks (odd, itself included; or 0) that a query block attends to.
    sparse_random_attn (`int`, *optional*, defaults to 3):
        Edge sparsity: number of random key blocks that a query block attends to. `None` makes attention dense.
    attn_block_size (`int`, *optional*, defaults to 56):
        Edge sparsity: number of consecutive patch tokens in a block.
    attn_mask_padding (`bool`, *optional*, defaults to `True`):
        Whether the padding of a partial last block is masked. `False`, as in checkpoints converted from the original
        code, lets it take part in the softmax.
    random_attn_seed (`int`, *optional*, defaults to 0):
        Seed of the random blocks in evaluation, where they are a fixed function of (seed, layer, number of blocks).
    token_keep_rate (`float`, *optional*, defaults to 0.7):
        Node sparsity: share of the current patch tokens kept at each drop.
    token_drop_loc (`list[int]`, *optional*):
        Node sparsity: layers (from 0) after which tokens are dropped. Defaults to a quarter, half and three quarters of
        the depth, `[3, 6, 9]` of 12.
    token_keep_strategy (`str`, *optional*, defaults to `"cls_attn"`):
        Node sparsity: keep the tokens most attended to by the CLS token (`"cls_attn"`) or random ones (`"random"`).
    token_3d_order (`str`, *optional*, defaults to `"none"`):
        Order of the patch tokens before they are cut into blocks: `"none"` (time, height, width), `"zcurve"` or
        `"hilbert"`.
    """

    model_type = "svitt_vision_model"
    base_config_key = "vision_config"

    num_frames: int = 4
    max_num_frames: int = 256
    frame_wise: bool = False
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.1
    layer_norm_eps: float = 1e-12
    layer_scale_init_value: float | int = 0.1
    initializer_range: float = 0.02
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = True
    use_mean_pooling: bool = True

    sparse_local_attn: int = 1
    sparse_random_attn: int | None = 3
    attn_block_size: int = 56
    attn_mask_padding: bool = True
    random_attn_seed: int = 0

    token_keep_rate: float | int = 0.7
    token_drop_loc: list[int] | tuple[int, ...] | None = None
    token_keep_strategy: str = "cls_attn"
    token_3d_order: str = "none"

    def __post_init__(self, **kwargs):
        if self.token_drop_loc is None:
            self.token_drop_loc = sorted({self.num_hidden_layers * quarter // 4 for quarter in (1, 2, 3)})
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        _validate_transformer(self, ("num_frames", "image_size", "patch_size", "num_channels", "attn_block_size"))
        _validate_token_dropping(self, first_layer=0, strategies=("cls_attn", "random"))
        image, patch, order = self.image_size, self.patch_size, self.token_3d_order
        _require(image % patch == 0, f"`image_size` ({image}) must be divisible by `patch_size` ({patch}).")
        _require(order in TOKEN_ORDERS, f"`token_3d_order` must be one of {', '.join(TOKEN_ORDERS)}, got {order!r}.")
        local, random = self.sparse_local_attn, self.sparse_random_attn
        _require(local == 0 or local > 0 and local % 2 == 1, f"`sparse_local_attn` must be odd or 0, got {local}.")
        _require(
            random is None or random >= 0 and local + random >= 1,
            f"`sparse_random_attn` must be None (dense attention) or at least {1 if local == 0 else 0}, got {random}: "
            "each block of patch tokens attends to at least one.",
        )

    @property
    def frames_at_once(self) -> int:
        """Frames that one attention sees, which the bias tables are for."""
        return 1 if self.frame_wise else self.num_frames

    @property
    def grid_size(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.patch_size


# What the encoder and the decoder of text say of the same fields.
TEXT_FIELDS_DOC = r"""
    mask_token_id (`int`, *optional*, defaults to 103):
        Id of `[MASK]`, for masked language modeling. `[CLS]` is `bos_token_id`, `[SEP]` is `eos_token_id`.
    fusion_layer (`int`, *optional*):
        First layer with cross-attention to the video: by default 9, and 0 in a decoder, which looks at the question.
    text_layers (`int`, *optional*):
        Number of layers that read a text alone. Defaults to `fusion_layer`; the layers from there on are shared, and
        fusion starts anew from the states at `fusion_layer`.
    fusion_token_id (`int`, *optional*):
        Id that stands in place of `[CLS]` where a text meets a video (BLIP's `[ENC]`); needs `fusion_layer=0`.
    encoder_width (`int`, *optional*, defaults to 768):
        Width of the states that cross-attention looks at.
    token_keep_rate (`float`, *optional*):
        Share of patch tokens that the fusion layers after a drop still see: by default 0.1, and 1.0 in a decoder.
    token_drop_loc (`list[int]`, *optional*):
        Fusion layers after whose cross-attention video tokens are dropped. Defaults to `[fusion_layer]`.
    token_keep_strategy (`str`, *optional*, defaults to `"cls_attn"`):
        Keep the video tokens most attended to by the text's CLS token (`"cls_attn"`), by all text tokens on average
        (`"avg_attn"`), or random ones (`"random"`).
    attn_mask_padding (`bool`, *optional*, defaults to `True`):
        Whether `"avg_attn"` leaves padded text tokens out of its average. `False` reproduces the original code.
"""


@auto_docstring(checkpoint="svitt-base", custom_args=TEXT_FIELDS_DOC)
@strict
class SViTTTextConfig(PreTrainedConfig):
    model_type = "svitt_text_model"
    base_config_key = "text_config"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = 101
    eos_token_id: int | list[int] | None = 102
    mask_token_id: int | None = 103
    tie_word_embeddings: bool = True
    is_decoder: bool = False
    use_cache: bool = True

    fusion_layer: int = 9
    text_layers: int | None = None
    fusion_token_id: int | None = None
    encoder_width: int = 768
    token_keep_rate: float | int = 0.1
    token_drop_loc: list[int] | tuple[int, ...] | None = None
    token_keep_strategy: str = "cls_attn"
    attn_mask_padding: bool = True

    def __post_init__(self, **kwargs):
        if self.token_drop_loc is None:
            self.token_drop_loc = [self.fusion_layer] if self.fusion_layer < self.num_hidden_layers else []
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        _validate_transformer(self, ("vocab_size", "max_position_embeddings", "type_vocab_size", "encoder_width"))
        layer, depth = self.fusion_layer, self.num_hidden_layers
        _require(0 <= layer <= depth, f"`fusion_layer` must be in 0 to `num_hidden_layers` ({depth}), got {layer}.")
        last, token = self.text_layers, self.fusion_token_id
        _require(
            last is None or layer <= last <= depth,
            f"`text_layers` must be in `fusion_layer` ({layer}) to `num_hidden_layers` ({depth}), got {last}.",
        )
        _require(
            token is None or layer == 0 and 0 <= token < self.vocab_size,
            f"`fusion_token_id` must be a word's, below `vocab_size`, and needs `fusion_layer=0`; got {token}.",
        )
        _validate_token_dropping(self, layer, strategies=("cls_attn", "avg_attn", "random"))


@auto_docstring(checkpoint="svitt-base", custom_args=TEXT_FIELDS_DOC)
@strict
class SViTTTextDecoderConfig(SViTTTextConfig):
    model_type = "svitt_text_decoder"
    base_config_key = "decoder_config"

    num_hidden_layers: int = 3
    fusion_layer: int = 0
    token_keep_rate: float | int = 1.0
    is_decoder: bool = True


@auto_docstring(checkpoint="svitt-base")
@strict
class SViTTConfig(PreTrainedConfig):
    r"""
    decoder_config (`dict` or `SViTTTextDecoderConfig`, *optional*):
        The answer decoder of question answering. Defaults to as many layers as `text_config` has fusion layers, with
        the sizes of `text_config`, so that it can start from their weights.
    embed_dim (`int`, *optional*, defaults to 256):
        Width of the space in which clips and texts are compared.
    temp (`float`, *optional*, defaults to 0.07):
        Initial temperature of the contrastive loss; learned, and kept in [0.001, 0.5].
    loss_weight (`dict[str, float]`, *optional*):
        Weights of the losses: contrastive (`"itc"`), matching (`"itm"`), masked language modeling (`"mlm"`). Defaults
        to 1 each.
    itm_hard_neg (`bool`, *optional*, defaults to `True`):
        Whether negatives of the matching loss are drawn in proportion to their similarity, or uniformly.
    itm_list_size (`int`, *optional*):
        Of the matching loss, how many clips and texts of a batch it compares, all with all: it asks which is the match,
        as re-ranking does, and teaches fusion alone. By default it asks whether a pair is one, of a drawn negative for
        each, as published.
    itc_all_gather (`bool`, *optional*, defaults to `False`):
        Whether the contrastive loss contrasts the clips and texts of all processes, or each process its own.
    mlm_prob (`float`, *optional*, defaults to 0.5):
        Share of text tokens chosen for masked language modeling.
    vision_layernorm (`bool`, *optional*, defaults to `True`):
        Whether the video's tokens are normed before fusion, after what the video encoder ends in.
    rerank (`bool`, *optional*, defaults to `True`):
        Whether a search re-ranks what the embeddings find: training sets what made the better lists in validation.

    Example:

    ```python
    >>> config = SViTTConfig(vision_config={"num_frames": 8, "token_keep_rate": 0.6})
    >>> model = SViTTModel(config)
    ```"""

    model_type = "svitt"
    sub_configs_defaults = {
        "vision_config": SViTTVisionConfig,
        "text_config": SViTTTextConfig,
        "decoder_config": SViTTTextDecoderConfig,
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    decoder_config: dict | PreTrainedConfig | None = None
    embed_dim: int = 256
    temp: float = 0.07
    loss_weight: dict[str, float | int] | None = None
    itm_hard_neg: bool = True
    itm_list_size: int | None = None
    itc_all_gather: bool = False
    mlm_prob: float = 0.5
    vision_layernorm: bool = True
    rerank: bool = True
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        kwargs["auto_map"] = {**AUTO_MAP, **(kwargs.get("auto_map") or {})}
        self.loss_weight = {**dict.fromkeys(LOSSES, 1.0), **(self.loss_weight or {})}
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = SViTTTextConfig(**(self.text_config or {}))
        if not isinstance(self.decoder_config, PreTrainedConfig):
            text, shared = self.text_config, SViTTTextConfig.__annotations__.keys() - OWN_FIELDS_OF_DECODER
            num_layers = max(text.num_hidden_layers - text.fusion_layer, 1)
            settings = {"encoder_width": text.hidden_size, "num_hidden_layers": num_layers}
            settings |= {field: getattr(text, field) for field in shared} | (self.decoder_config or {})
            self.decoder_config = SViTTTextDecoderConfig(**settings)
        super().__post_init__(**kwargs)

    @property
    def num_frames(self) -> int:
        """Frames of a clip, under the name that `pipeline("video-classification")` looks for."""
        return self.vision_config.num_frames

    @num_frames.setter
    def num_frames(self, value: int):
        self.vision_config.num_frames = value

    @property
    def pad_token_id(self) -> int | None:
        """Id of `[PAD]` in answers, under the name that `Seq2SeqTrainer` looks for."""
        return self.decoder_config.pad_token_id

    @pad_token_id.setter
    def pad_token_id(self, value: int | None):
        self.decoder_config.pad_token_id = value

    def validate_architecture(self):
        for reader, name in (("text_config", "vision_config"), ("decoder_config", "text_config")):
            width, seen = getattr(self, reader).encoder_width, getattr(self, name).hidden_size
            _require(width == seen, f"`{reader}.encoder_width` ({width}) must equal `{name}.hidden_size` ({seen}).")
            first, depth = getattr(self, reader).fusion_layer, getattr(self, reader).num_hidden_layers
            _require(first < depth, f"`{reader}.fusion_layer` ({first}) must be below `num_hidden_layers` ({depth}).")
        size = self.itm_list_size
        _require(size is None or size >= 2, f"`itm_list_size` must be None or at least 2, got {size}.")
        for name in self.loss_weight:
            _require(name in LOSSES, f"`loss_weight` names {name!r}; the losses are {', '.join(LOSSES)}.")


SViTTConfig.register_for_auto_class()

__all__ = ["SViTTConfig", "SViTTTextConfig", "SViTTTextDecoderConfig", "SViTTVisionConfig"]
