# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Where weights come from: saved models, original checkpoints, BLIP, Singularity, ALBEF, BEiT and BERT towers.

Nothing is dropped silently: what a source holds and the port does not keep is listed, what a model needs and the source
lacks is an error, and new modules are named. Whatever is wrong with a source is an `InputError` that names it.
"""

from pathlib import Path

from transformers import PreTrainedModel

from ..errors import check_number, not_found
from ..processing_svitt import SViTTProcessor
from .blip import blip_classes, read_blip
from .loading import (  # noqa: F401 (for others)
    Name,
    Source,
    assembled,
    check_unused,
    image_statistics,
    in_one_sentence,
    load_model_and_processor,
    load_tokenizer,
    loading,
    logger,
    make_processor,
    parse_fields,
    save_folder,
    special_token_ids,
    with_fields,
)
from .original import convert_state_dict, decoder_from_fusion_layers, infer_config, read_original  # noqa: F401
from .pickles import plain, read_checkpoint, weights_of  # noqa: F401
from .positions import (  # noqa: F401
    convert_to_longer_clips,
    expand_num_frames,
    expanded,
    fitted,
    resize_position_embeddings,
    resize_relative_position_bias,
)
from .towers import init_from_towers


def convert(source: Name, output_dir: Name, **options):
    """Write what [`converted`] returns, with these options, as a folder for `from_pretrained`.

    Raises:
        InputError: as it does, or if the folder exists and is not empty.
    """
    check_unused(output_dir)
    save_folder(*converted(source, **options), output_dir)


def converted(
    source: Name,
    text: Name | None = None,
    tokenizer: Name | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    fusion_layer: int | None = None,
    vision_config: dict | None = None,
    text_config: dict | None = None,
) -> tuple[PreTrainedModel, SViTTProcessor]:
    """Return a model made from weights from elsewhere, whatever they are, and its processor.

    Args:
        source: A `.pth` of SViTT, Singularity or ALBEF; folder or Hub name of a BLIP; or, with `text`, of a BEiT.
        text: Folder or Hub name of a BERT.
        tokenizer: Folder or Hub name of the BERT tokenizer, by default that of `text` or of the BLIP, or
            bert-base-uncased.
        num_frames: Frames of a clip, by default the source's own; 8 if it encodes them one by one, and 4 of towers.
        image_size: Pixels along a side, by default the source's own; positions are resized.
        fusion_layer: First layer of `text` with cross-attention; only of towers.
        vision_config, text_config: Fields that the source does not tell, or tells wrongly.

    Raises:
        InputError: if something is not found, damaged, hostile or of another model.
    """
    check_number("num_frames", num_frames, 1)
    check_number("image_size", image_size, 1)
    is_file = Path(source).is_file() or str(source).endswith((".pth", ".pt", ".bin"))
    if is_file and not Path(source).is_file():
        raise not_found(source)
    own_tokenizer = text or ("bert-base-uncased" if is_file else source)
    if text is None and not is_file:
        blip_classes(source)
    tokenizer = load_tokenizer(tokenizer or own_tokenizer)
    token_ids = special_token_ids(tokenizer)
    if text is not None:
        fields = {"vision_config": vision_config, "text_config": token_ids | (text_config or {})}
        model = init_from_towers(source, text, num_frames or 4, image_size, fusion_layer, **fields)
        return model, make_processor(model.config, tokenizer, image_statistics(source))
    read = read_original if is_file else read_blip
    found = read(source, token_ids, vision_config, text_config)
    with in_one_sentence(f"{source}: does not fit"):
        asked = {"num_frames": num_frames, "image_size": image_size}
        asked = {field: value for field, value in asked.items() if value is not None}
        weights, config = fitted(found.weights, found.config, **asked)
    model = assembled(source, found.model_class, config, weights)
    return model, make_processor(config, tokenizer, found.pixels, found.texts)
