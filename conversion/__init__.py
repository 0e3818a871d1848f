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
from .loading import (
    Name,
    assembled,
    check_unused,
    image_statistics,
    in_one_sentence,
    load_model_and_processor,
    load_tokenizer,
    logger,
    make_processor,
    merged,
    parse_fields,
    save_folder,
    special_token_ids,
)
from .original import read_original
from .positions import convert_to_longer_clips, fitted
from .towers import init_from_towers

__all__ = ["convert", "convert_to_longer_clips", "converted", "load_model_and_processor", "logger", "parse_fields"]


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
    **fields,
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
        fields: Fields of [`SViTTConfig`] that the source does not tell, or tells wrongly; of its parts, as dicts.

    Raises:
        InputError: if something is not found, damaged, hostile or of another model.
    """
    check_number("num_frames", num_frames, 1)
    check_number("image_size", image_size, 1)
    is_file = Path(source).is_file() or str(source).endswith((".pth", ".pt", ".bin"))
    if is_file and not Path(source).is_file():
        raise not_found(source)
    if text is None and not is_file:
        blip_classes(source)
    tokenizer = load_tokenizer(tokenizer or text or ("bert-base-uncased" if is_file else source))
    fields = merged({"text_config": special_token_ids(tokenizer)}, fields)
    if text is not None:
        model = init_from_towers(source, text, num_frames or 4, image_size, fusion_layer, **fields)
        return model, make_processor(model.config, tokenizer, image_statistics(source))
    found = read_original(source, fields) if is_file else read_blip(source, fields)
    with in_one_sentence(f"{source}: does not fit"):
        asked = {"num_frames": num_frames, "image_size": image_size}
        asked = {field: value for field, value in asked.items() if value is not None}
        weights, config = fitted(found.weights, found.config, **asked)
    model = assembled(source, found.model_class, config, weights)
    return model, make_processor(config, tokenizer, found.pixels, found.texts)
