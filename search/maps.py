# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Token maps: which patches of a video survive each drop, and which of those a sentence keeps, as pictures."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from transformers import PreTrainedModel

from ..configuration_svitt import SViTTVisionConfig
from ..conversion.defaults import load_for_use
from ..errors import ArgumentError, InputError, writing
from ..modeling_svitt import token_order
from ..processing_svitt import SViTTProcessor

FORMATS = (".png", ".jpg", ".jpeg", ".webp")
VEIL = np.array([0, 0, 48], dtype=np.uint8)  # over what is dropped: a patch that is black anyway shows it, too
MIN_SIDE, MARGIN, LINE_HEIGHT = 128, 6, 20  # pixels of a frame, between frames, of text


@dataclass
class TokenMaps:
    """Which patches of T frames survive each drop of a model; h x w patches a frame."""

    frames: np.ndarray  # (T, H, W, 3) uint8, as the model sees them
    vision: np.ndarray  # (drops, T, h, w) bool, true for the patches left after each drop of the video encoder
    vision_layers: list[int]  # the layer of each, numbered as in `token_drop_loc`
    text: str | None
    fusion: np.ndarray  # as `vision`, of the drops where the sentence looks at the video; none without a sentence
    fusion_layers: list[int]

    def stages(self) -> list[tuple[str, np.ndarray]]:
        """Return the name and the map of what the model is given, and of each drop."""
        drops = [(f"video encoder, layer {i}", kept) for i, kept in zip(self.vision_layers, self.vision, strict=True)]
        drops += [(f"fusion, layer {i}", kept) for i, kept in zip(self.fusion_layers, self.fusion, strict=True)]
        return [("video", np.ones((len(self.frames), *self.vision.shape[2:]), dtype=bool)), *drops]

    def labels(self) -> list[str]:
        """Return what share of the patches is left at each of [`stages`]."""
        return [f"{name}: {kept.sum():,} of {kept.size:,} patches, {kept.mean():.0%}" for name, kept in self.stages()]


@torch.no_grad()
def token_maps(
    model: PreTrainedModel, processor: SViTTProcessor, video, text: str | None = None, num_frames: int | None = None
) -> TokenMaps:
    """Run a model on a video, and on a sentence, and return which patches it keeps.

    Args:
        model: any SViTT, or a bare `SViTTVisionModel`; used in evaluation mode.
        video: one, of the kinds that [`SViTTVideoProcessor`] takes.
        text: caption or question, for a model that fuses it with the video.
        num_frames: of the clip, by default the processor's.

    Raises:
        InputError: if the model takes no text.
        VideoDecodeError: if the video cannot be read.
    """
    if text is not None and not hasattr(model, "text_model"):
        raise InputError(f"{type(model).__name__} looks at videos only; it takes no `text`.")
    num_frames = num_frames or processor.video_processor.num_frames
    clip = processor.video_processor.read_clip(video, num_frames=num_frames)
    pixel_values = processor.video_processor.to_pixel_values(clip[None].to(model.device))
    model.eval()
    vision_model, text_model = getattr(model, "vision_model", model), getattr(model, "text_model", None)
    config, seen = vision_model.config, vision_model(pixel_values)
    grid = num_frames, config.grid_size, config.grid_size

    kept, fused = list(seen.token_idx or ()), []
    if text is not None:
        words = processor(text=[text], return_tensors="pt").to(model.device)
        tokens = model.vision_layernorm(seen.last_hidden_state)
        fusion = text_model(**words, encoder_hidden_states=tokens, mode="multimodal")
        # Fusion counts in the tokens that it is given, in their order.
        positions = kept[-1] if kept else tokens_in_order(config, num_frames, model.device)[None]
        if config.frame_wise:  # each frame has a CLS token, here behind all patches; fusion does not count the first
            positions = F.pad(positions.unflatten(1, (num_frames, -1)), (1, 0), value=math.prod(grid)).flatten(1)[:, 1:]
        for index in fusion.token_idx or ():
            positions = positions.gather(1, index)
            fused.append(positions)
    return TokenMaps(
        frames=clip.permute(0, 2, 3, 1).cpu().numpy(),
        vision=masks_of(kept, grid),
        vision_layers=drop_layers(vision_model),
        text=text,
        fusion=masks_of(fused, grid),
        fusion_layers=drop_layers(text_model) if text is not None else [],
    )


def tokens_in_order(config: SViTTVisionConfig, num_frames: int, device: torch.device) -> torch.Tensor:
    """Return the row-major positions (T * h * w,) of the patches of a clip in the order of its tokens."""
    together, grid = 1 if config.frame_wise else num_frames, config.grid_size
    order = token_order(config.token_3d_order, (together, grid, grid), device)
    first = torch.arange(0, num_frames, together, device=device) * grid**2
    return (first[:, None] + order).flatten()


def drop_layers(model: PreTrainedModel) -> list[int]:
    return [i for i, layer in enumerate(model.encoder.layer) if layer.drops_tokens]


def masks_of(positions: list[torch.Tensor], grid: tuple[int, int, int]) -> np.ndarray:
    """Return masks (drops, T, h, w) from row-major positions (1, kept) per drop."""
    masks = np.zeros((len(positions), math.prod(grid) + 1), dtype=bool)  # the last of CLS tokens
    for mask, kept in zip(masks, positions, strict=True):
        mask[kept[0].cpu()] = True
    return masks[:, :-1].reshape(len(positions), *grid)


def shown(frames: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return frames (T, H, W, 3), dark where patches (T, h, w) are dropped, enlarged by a whole number if small."""
    patch, factor = frames.shape[1] // kept.shape[1], -(-MIN_SIDE // frames.shape[1])
    is_kept = kept.repeat(patch, axis=1).repeat(patch, axis=2)[..., None]
    return np.where(is_kept, frames, frames // 4 + VEIL).repeat(factor, axis=1).repeat(factor, axis=2)


def beside(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Return frames (H, W, 3) beside each other, with margins."""
    padded = [np.pad(frame, ((0, 0), (0, MARGIN), (0, 0)), constant_values=255) for frame in frames]
    return np.concatenate(padded, axis=1)


def contact_sheet(maps: TokenMaps) -> Image.Image:
    """Return a row for the video and one for each drop, a column for each frame; dropped patches are darkened.

    Above each row stands which drop it is and what share is left; on top, the sentence.
    """
    rows = [beside(shown(maps.frames, kept)) for _, kept in maps.stages()]
    top, height = MARGIN if maps.text is None else MARGIN + LINE_HEIGHT, LINE_HEIGHT + len(rows[0]) + MARGIN
    sheet = Image.new("RGB", (MARGIN + rows[0].shape[1], top + height * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    draw.text((MARGIN, MARGIN), maps.text or "", fill="black", font=font)
    for number, (row, label) in enumerate(zip(rows, maps.labels(), strict=True)):
        draw.text((MARGIN, top + number * height), label, fill="black", font=font)
        sheet.paste(Image.fromarray(row), (MARGIN, top + number * height + LINE_HEIGHT))
    return sheet


def explain(
    video: str,
    model: str,
    text: str | None = None,
    output: str | Path = "token_maps.png",
    num_frames: int | None = None,
) -> list[str]:
    """Write the [`contact_sheet`] of a video's token maps, and return their labels.

    `model` is the folder or Hub name of a SViTT; the others are those of [`token_maps`].
    """
    output = Path(output)
    if output.suffix.lower() not in FORMATS or not output.parent.is_dir():
        problem = f"must end in one of {', '.join(FORMATS)}, in a folder that exists, got {output}"
        raise ArgumentError("output", problem)
    loaded, processor = load_for_use(model, num_frames)
    maps = token_maps(loaded, processor, video, text)
    with writing(output):
        contact_sheet(maps).save(output)
    return maps.labels()
