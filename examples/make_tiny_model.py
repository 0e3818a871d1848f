# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Make an untrained SViTT of half a million parameters that learns the clips of make_demo_dataset.py in minutes.

    python examples/make_tiny_model.py demo/data/train.json demo/model

writes the model and its processor, with a vocabulary of the words of the captions; with several files of annotations,
such as demo/data/train_questions.json besides, of all words of captions, questions and answers.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import BertTokenizer

from svitt import SViTTConfig, SViTTForVideoTextRetrieval
from svitt.processing_svitt import SViTTProcessor, SViTTVideoProcessor, clean_text

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_tokenizer(texts: list[str]) -> BertTokenizer:
    """A WordPiece tokenizer that knows the words of the texts."""
    words = sorted({word for text in texts for word in clean_text(text).split()})
    return BertTokenizer(vocab={token: index for index, token in enumerate((*SPECIAL_TOKENS, *words))})


def make_config(vocab_size: int, hidden_size: int = 64, image_size: int = 32) -> SViTTConfig:
    """Four layers each for 4 frames of 8-pixel patches and for text; sparse in edges and nodes, like the paper's."""
    size = {"hidden_size": hidden_size, "num_attention_heads": 4, "intermediate_size": 4 * hidden_size}
    vision_config = size | {
        "num_hidden_layers": 4,
        "num_frames": 4,
        "image_size": image_size,
        "patch_size": 8,
        "attn_block_size": (image_size // 8) ** 2 // 2,  # half a frame
        "use_absolute_position_embeddings": True,
        "layer_scale_init_value": 1.0,
        "initializer_range": 0.1,
        "drop_path_rate": 0.0,
    }
    text_config = size | {
        "num_hidden_layers": 4,
        "fusion_layer": 2,
        "encoder_width": hidden_size,
        "vocab_size": vocab_size,
        "max_position_embeddings": 32,
        "initializer_range": 0.1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "token_keep_rate": 0.5,
    }
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4}
    return SViTTConfig(vision_config=vision_config, text_config=text_config | special, embed_dim=64)


@torch.no_grad()
def prefer_moments(model: SViTTForVideoTextRetrieval, strength: float = 2.0, noise: float = 0.5):
    """Let each head begin with a preference for some temporal offsets.

    Frame order reaches the model through the tables of relative position biases only, which begin at zero, and from
    there it takes far more clips than these to find it.
    """
    vision = model.config.vision_config
    for name, table in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            table.normal_(std=noise)
            preference = strength * torch.randn(2 * vision.num_frames - 1, 1, vision.num_attention_heads)
            table[:-3] += preference.expand(-1, (2 * vision.grid_size - 1) ** 2, -1).flatten(0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "annotations", type=Path, nargs="+", help="JSON lists of objects with a `caption`, or a `question` and `answer`"
    )
    parser.add_argument("folder", type=Path, help="where to write the model and its processor")
    parser.add_argument("--image_size", type=int, default=32, help="pixels, a multiple of 16 (default: %(default)s)")
    parser.add_argument(
        "--image_mean", type=float, default=0.5, help="of all pixels, from 0 to 1, to normalise by (default: 0.5)"
    )
    parser.add_argument("--image_std", type=float, default=0.5, help="their deviation (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    rows = [row for file in args.annotations for row in json.loads(file.read_text())]
    tokenizer = make_tokenizer([row[name] for row in rows for name in ("caption", "question", "answer") if name in row])
    config = make_config(len(tokenizer), image_size=args.image_size)
    model = SViTTForVideoTextRetrieval(config)
    prefer_moments(model)
    model.save_pretrained(args.folder)
    vision = config.vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    video_processor = SViTTVideoProcessor(
        num_frames=vision.num_frames, size=size, image_mean=[args.image_mean] * 3, image_std=[args.image_std] * 3
    )
    SViTTProcessor(video_processor, tokenizer).save_pretrained(args.folder)
    print(f"{args.folder}: {model.num_parameters():,} parameters, {len(tokenizer)} words")


if __name__ == "__main__":
    main()
