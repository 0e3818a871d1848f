# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Draw docs/images/architecture.svg: boxes and arrows, in the order in which the model computes.

python docs/images/make_architecture.py
"""

from pathlib import Path

BLUE, GREEN, ORANGE, GREY = "#d6e6f8", "#d9f0dc", "#fde5cc", "#f0f0f0"
VIDEO_LAYERS = [("layers 0–3", 1.0), ("layers 4–6", 0.75), ("layers 7–9", 0.55), ("layers 10–11", 0.4)]
parts = []


def box(x, y, width, height, color, *lines):
    parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{color}" stroke="#444"/>')
    for i, line in enumerate(lines):
        weight = ' font-weight="bold"' if i == 0 else ""
        at = y + height / 2 + 5 + 18 * (i - (len(lines) - 1) / 2)
        parts.append(f'<text x="{x + width / 2}" y="{at}" text-anchor="middle"{weight}>{line}</text>')


def arrow(*points):
    path = " L".join(f"{x},{y}" for x, y in points)
    parts.append(f'<path d="M{path}" fill="none" stroke="#444" stroke-width="1.6" marker-end="url(#head)"/>')


def note(x, y, text, anchor="start"):
    parts.append(f'<text x="{x}" y="{y}" font-size="13" fill="#555" text-anchor="{anchor}">{text}</text>')


# Video, left to right: what is left of the tokens is drawn as the height of each box.
note(20, 30, "VIDEO: a BEiT with sparse edges in each layer, and sparse nodes after layers 3, 6 and 9")
box(20, 90, 110, 80, BLUE, "Clip", "T frames")
box(165, 90, 130, 80, BLUE, "Tokens", "CLS + patches", "of all frames")
arrow((130, 130), (163, 130))
x = 330
for i, (name, share) in enumerate(VIDEO_LAYERS):
    height = 130 * share
    arrow((x - 35, 130), (x - 2, 130))
    box(x, 130 - height / 2, 108, height, BLUE, name)
    if i < 3:
        note(x + 125, 60 + 10 * i, "drop", "middle")
    x += 143
arrow((x - 35, 130), (x - 2, 130))
box(x, 105, 110, 50, BLUE, "Video tokens")
note(
    165,
    218,
    "A block of queries attends to CLS, its own block and 3 blocks drawn at random, with biases by position.",
)
note(
    165,
    236,
    "CLS attends to all tokens, and by that decides which 70 % of them stay. Cost grows in proportion to the frames.",
)

# Text, below.
note(20, 292, "TEXT: one BERT")
box(20, 310, 110, 60, GREEN, "Sentence", "[CLS] w1 … wn")
box(165, 310, 275, 60, GREEN, "Text layers 0–8", "self-attention")
box(616, 310, 396, 60, ORANGE, "Fusion layers 9–11", "self-attention, then cross-attention to the video tokens")
arrow((130, 340), (163, 340))
arrow((440, 340), (614, 340))
arrow((957, 155), (957, 308))
note(947, 268, "after layer 9, 10 % of them", "end")
note(947, 284, "stay, for this sentence", "end")

# Heads.
box(165, 440, 275, 62, GREY, "ITC: contrast", "cosine of two vectors of 256")
box(616, 440, 185, 62, GREY, "ITM: matching", "does it fit? 2 classes")
box(827, 440, 185, 62, GREY, "MLM: masked words", "which word is hidden?")
arrow((302, 370), (302, 438))
note(312, 412, "state of CLS")
arrow((708, 370), (708, 438))
arrow((920, 370), (920, 438))
arrow((1012, 130), (1040, 130), (1040, 545), (90, 545), (90, 471), (163, 471))
note(560, 539, "mean of the video tokens", "middle")

svg = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1060 565" font-family="sans-serif" font-size="14">
<title>SViTT: a clip becomes tokens, fewer with each drop; text layers; fusion layers; three heads</title>
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0,0 L10,5 L0,10 z" fill="#444"/></marker></defs>
<rect width="1060" height="565" fill="white"/>
{chr(10).join(parts)}
</svg>
"""
Path(__file__).with_name("architecture.svg").write_text(svg, encoding="utf-8")
