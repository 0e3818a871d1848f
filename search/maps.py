# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Token maps: which patches of a video survive each drop, and which of those a sentence keeps, as pictures.

python -m svitt.search.maps video.mp4 --model_name_or_path svitt-base --text "a cat plays" --output sheet.png maps.mp4
"""

import argparse
import sys
import textwrap
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from accelerate import PartialState
from PIL import Image, ImageDraw, ImageFont
from transformers import PreTrainedModel

from ..conversion import load_model_and_processor
from ..errors import InputError, exit_on_bad_input, writing
from ..modeling_svitt import split_clips, token_order
from ..processing_svitt import SViTTProcessor
from .checks import check_number, check_query

NOTHING_IS_DROPPED = "This model drops no tokens: every layer looks at all patches."


@dataclass
class TokenMaps:
    """Which patches of T frames survive each drop of a model; h x w patches a frame.

    Args:
        frames: (T, H, W, 3) uint8, as the model sees them.
        vision: (drops, T, h, w) bool, true for the patches left after each drop of the video encoder.
        vision_layers: the layer of each, numbered as in `token_drop_loc`.
        text: the sentence, if any.
        fusion: as `vision`, of the drops where the sentence looks at the video; none without a sentence.
        fusion_layers: the layer of each.
    """

    frames: np.ndarray
    vision: np.ndarray
    vision_layers: list[int]
    text: str | None
    fusion: np.ndarray
    fusion_layers: list[int]

    def stages(self) -> list[tuple[str, np.ndarray]]:
        """All maps with a label, from what the model is given on."""
        drops = [(f"video encoder, layer {i}", kept) for i, kept in zip(self.vision_layers, self.vision, strict=True)]
        drops += [(f"fusion, layer {i}", kept) for i, kept in zip(self.fusion_layers, self.fusion, strict=True)]
        everything = np.ones((len(self.frames), *self.vision.shape[2:]), dtype=bool)
        return [("video", everything), *drops]


@torch.no_grad()
def token_maps(
    model: PreTrainedModel,
    processor: SViTTProcessor,
    video,
    text: str | None = None,
    num_frames: int | None = None,
    num_clips: int = 1,
    strided_clips: bool = False,
) -> TokenMaps:
    """Run a model on a video, and on a sentence, and see which patches it keeps.

    Args:
        model: any SViTT, or a bare `SViTTVisionModel`; used in evaluation mode.
        processor: the model's.
        video: one, of the kinds that [`SViTTVideoProcessor`] takes.
        text: caption or question, for a model that fuses it with the video.
        num_frames: of a clip, by default the processor's.
        num_clips: cut the video into so many clips, as evaluation does: T = num_clips * num_frames.
        strided_clips: whether a clip takes every `num_clips`-th frame, not consecutive ones.

    Raises:
        ValueError: if there is not one video, or the model takes no text.
        VideoDecodeError: if the video cannot be read.
    """
    if text is not None and not hasattr(model, "text_model"):
        raise ValueError(f"{type(model).__name__} looks at videos only; it takes no `text`.")
    num_frames = num_frames or processor.video_processor.num_frames
    as_bytes = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    videos = processor.video_processor(video, num_frames=num_clips * num_frames, **as_bytes)["pixel_values"]
    if len(videos) != 1:
        raise ValueError(f"`video` must be one video, got {len(videos)}.")
    model.eval()
    pixel_values = processor.video_processor.to_pixel_values(videos.to(model.device))
    vision_model, text_model = getattr(model, "vision_model", model), getattr(model, "text_model", None)
    seen = vision_model(split_clips(pixel_values, num_frames, strided_clips))
    grid = num_frames, vision_model.config.grid_size, vision_model.config.grid_size

    kept, fused = list(seen.token_idx or ()), []
    if text is not None:
        words = processor(text=[text] * num_clips, return_tensors="pt").to(model.device)
        fusion = text_model(
            **words, encoder_hidden_states=model.vision_layernorm(seen.last_hidden_state), mode="multimodal"
        )
        # Fusion counts in the tokens that it is given, in their order.
        positions = kept[-1] if kept else token_order(vision_model.config.token_3d_order, grid, model.device)
        positions = positions.expand(num_clips, -1)
        for index in fusion.token_idx or ():
            positions = positions.gather(1, index)
            fused.append(positions)

    frame_numbers = split_clips(torch.arange(videos.shape[1])[None], num_frames, strided_clips).flatten()
    return TokenMaps(
        frames=videos[0].permute(0, 2, 3, 1).numpy(),
        vision=masks_of(kept, grid, frame_numbers),
        vision_layers=drop_layers(vision_model),
        text=text,
        fusion=masks_of(fused, grid, frame_numbers),
        fusion_layers=drop_layers(text_model) if text is not None else [],
    )


def drop_layers(model: PreTrainedModel) -> list[int]:
    return [i for i, layer in enumerate(model.encoder.layer) if layer.drops_tokens]


def masks_of(positions: list[torch.Tensor], grid: tuple[int, int, int], frame_numbers: torch.Tensor) -> np.ndarray:
    """Masks (drops, T, h, w) in the order of the video's frames, from row-major positions (clips, kept) per drop.

    Args:
        grid: of a clip.
        frame_numbers: (T,) place in the video of each frame of the first clip, of the second, and so on.
    """
    masks = np.zeros((len(positions), len(frame_numbers), *grid[1:]), dtype=bool)
    for mask, kept in zip(masks, positions, strict=True):
        of_clips = torch.zeros(len(kept), grid[0] * grid[1] * grid[2], dtype=torch.bool)
        mask[frame_numbers.numpy()] = of_clips.scatter(1, kept.cpu(), True).view(mask.shape).numpy()
    return masks


# ---------------------------------------------------------------------------------------------------------------------
# Pictures
# ---------------------------------------------------------------------------------------------------------------------

VEIL = np.array([0, 0, 48], dtype=np.uint8)  # over what is dropped: a patch that is black anyway shows it, too
MIN_SIDE = 128  # of a frame on a picture
MARGIN, LABEL_WIDTH, FONT_SIZE, LINE_HEIGHT = 6, 190, 14, 18
CHARACTER_WIDTH = 8  # of wide text, so that lines fit


def darken(frames: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Frames (..., H, W, 3) uint8 with a quarter of their light, and bluish, where patches (..., h, w) are not kept."""
    patch = frames.shape[-2] // kept.shape[-1]
    is_kept = kept.repeat(patch, axis=-1).repeat(patch, axis=-2)[..., None]
    return np.where(is_kept, frames, frames // 4 + VEIL)


def enlarge(frames: np.ndarray) -> np.ndarray:
    """Frames (..., H, W, 3), each pixel as many times as it takes to reach `MIN_SIDE`."""
    factor = -(-MIN_SIDE // frames.shape[-3])
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def label(name: str, kept: np.ndarray) -> str:
    return f"{name}: {kept.sum():,} of {kept.size:,} patches, {kept.mean():.0%}"


def write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: list[str]):
    """Write lines below each other, in Pillow's own font, which has Latin letters only."""
    font = ImageFont.load_default(FONT_SIZE)
    for number, line in enumerate(lines):
        draw.text((corner[0], corner[1] + number * LINE_HEIGHT), line, fill="black", font=font)


def not_in_font(text: str) -> str:
    """The characters that [`write`] draws as boxes, each once."""
    font = ImageFont.load_default(FONT_SIZE)
    box = bytes(font.getmask("\uffff"))
    return "".join(letter for letter in dict.fromkeys(text) if bytes(font.getmask(letter)) == box)


def wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width // CHARACTER_WIDTH, 1))


def notes(maps: TokenMaps) -> str:
    """What is to be said about all maps."""
    sentence = "" if maps.text is None else f'Sentence: "{maps.text}". '
    is_dense = not maps.vision_layers and not maps.fusion_layers
    return (sentence + (NOTHING_IS_DROPPED if is_dense else "")).strip()


def contact_sheet(maps: TokenMaps) -> Image.Image:
    """A row for the video and one for each drop, a column for each frame; dropped patches are darkened.

    A small frame is enlarged by a whole number. Beside each row stands which drop it is and what share is left, below
    them the sentence, or that nothing is dropped.
    """
    stages = maps.stages()
    frames = enlarge(maps.frames)
    num_frames, height, width, _ = frames.shape
    sheet_width = LABEL_WIDTH + num_frames * (width + MARGIN)
    below = wrap(notes(maps), sheet_width - 2 * MARGIN)
    bottom = MARGIN + len(stages) * (height + MARGIN)
    sheet = Image.new("RGB", (sheet_width, bottom + len(below) * LINE_HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, kept) in enumerate(stages):
        top = MARGIN + row * (height + MARGIN)
        write(draw, (MARGIN, top), wrap(label(name, kept), LABEL_WIDTH - 2 * MARGIN))
        for column, frame in enumerate(darken(frames, kept)):
            sheet.paste(Image.fromarray(frame), (LABEL_WIDTH + column * (width + MARGIN), top))
    write(draw, (MARGIN, bottom), below)
    return sheet


def overlay(maps: TokenMaps, path: str | Path, fps: float = 2.0):
    """Write T frames, each with the video, and beside it what the video encoder keeps, and what the sentence keeps.

    Args:
        path: `.mp4` or `.gif`; a GIF shows frames that are equal as one that stays longer.

    Raises:
        ValueError: for another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in VIDEOS:
        raise ValueError(f"{path}: must end in {' or '.join(VIDEOS)}.")
    stages = [("video", maps.stages()[0][1])]
    stages += [("kept by the video encoder", maps.vision[-1])] if len(maps.vision) else []
    stages += [("kept by the sentence", maps.fusion[-1])] if len(maps.fusion) else []
    VIDEOS[suffix](path, panels(maps, stages), fps)


def panels(maps: TokenMaps, stages: list[tuple[str, np.ndarray]]) -> list[Image.Image]:
    """A picture for each frame: maps beside each other, with their labels below."""
    frames = enlarge(maps.frames)
    _, height, width, _ = frames.shape
    below = [wrap(label(name, kept), width) for name, kept in stages]
    total = wrap(notes(maps), len(stages) * (width + MARGIN))
    num_lines = max(map(len, below))
    size = (len(stages) * (width + MARGIN) + MARGIN, height + 2 * MARGIN + (num_lines + len(total)) * LINE_HEIGHT)
    size = [side + side % 2 for side in size]  # of MP4, which has colours for 2 x 2 pixels
    pictures = [Image.new("RGB", size, "white") for _ in frames]
    for column, (_, kept) in enumerate(stages):
        left = MARGIN + column * (width + MARGIN)
        for picture, frame in zip(pictures, darken(frames, kept), strict=True):
            picture.paste(Image.fromarray(frame), (left, MARGIN))
            write(ImageDraw.Draw(picture), (left, height + 2 * MARGIN), below[column])
    for picture in pictures:
        write(ImageDraw.Draw(picture), (MARGIN, height + 2 * MARGIN + num_lines * LINE_HEIGHT), total)
    return pictures


def write_mp4(path: str | Path, pictures: list[Image.Image], fps: float):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "12"})
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuv420p"  # which all players know
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def write_gif(path: str | Path, pictures: list[Image.Image], fps: float):
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=1000 / fps, loop=0)


PICTURES = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = {".mp4": write_mp4, ".gif": write_gif}


# ---------------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser):
    """Of `svitt-search explain` and of `python -m svitt.search.maps`."""
    parser.add_argument("video", help="video or image")
    parser.add_argument("--model_name_or_path", "--model", required=True, help="folder or Hub name of a SViTT")
    parser.add_argument("--text", help="sentence: shows which patches it keeps")
    parser.add_argument("--num_frames", type=int, help="frames of a clip; by default the model's own")
    parser.add_argument("--num_clips", type=int, default=1, help="clips that the video is cut into")
    parser.add_argument("--strided_clips", action="store_true", help="a clip of C takes every C-th frame")
    parser.add_argument("--fps", type=float, default=2.0, help="frames per second of an overlay, from 0.1 to 50")
    parser.add_argument(
        "--output",
        nargs="+",
        type=Path,
        default=[Path("token_maps.png")],
        help=f"a picture is a contact sheet, {' or '.join(VIDEOS)} an overlay; several may be given",
    )


def run(args: argparse.Namespace):
    """What the command line asks for; an `InputError` or `VideoDecodeError` says why it cannot be."""
    for path in args.output:
        if path.suffix.lower() not in (*PICTURES, *VIDEOS):
            raise InputError(f"--output {path}: must end in one of {', '.join((*PICTURES, *VIDEOS))}.")
        if not path.parent.is_dir():
            raise InputError(f"--output {path}: there is no such folder.")
        if path.is_dir():
            raise InputError(f"--output {path}: is a folder; name a file.")
    check_number("num_clips", args.num_clips, 1)
    check_number("fps", args.fps, 0.1, 50)
    model, processor = load_model_and_processor(args.model_name_or_path, num_frames=args.num_frames)
    if args.text is not None:
        check_query(processor, args.text)
    model.to(PartialState().device)
    try:
        maps = token_maps(
            model, processor, args.video, args.text, num_clips=args.num_clips, strided_clips=args.strided_clips
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    for name, kept in maps.stages():
        print(label(name, kept))
    if remarks := notes(maps):
        print(remarks)
    if missing := not_in_font(remarks):
        print(f"The pictures show boxes for {missing}, which their font lacks.", file=sys.stderr)
    for path in args.output:
        with writing(path):
            if path.suffix.lower() in VIDEOS:
                overlay(maps, path, args.fps)
            else:
                contact_sheet(maps).save(path)


def main():
    parser = argparse.ArgumentParser(prog="python -m svitt.search.maps", description=__doc__.partition("\n")[0])
    add_arguments(parser)
    with exit_on_bad_input():
        run(parser.parse_args())


if __name__ == "__main__":
    main()
