# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Make a small set of captioned clips in which only the order of events tells many captions apart.

Every clip has a twin that shows the same frames backwards: "a red circle hops and then a blue square hops" and "a blue
square hops and then a red circle hops". A model that ignores time cannot tell a clip from its twin.

    python examples/make_demo_dataset.py demo/data

writes H.264 files to demo/data/videos; train.json, val.json and test.json in the format of run_retrieval.py; and
train_questions.json and so on in that of run_videoqa.py. Of each pair of twins two questions are asked, unless that
would upset the balance of their answers: one of type "order", to which the twins' answers differ, so that a model blind
to time answers half of them at most, and one of type "look", to which they agree. Chance is printed.
"""

import argparse
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw

COLORS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (60, 90, 230), "yellow": (235, 215, 50)}
SHAPES = ("circle", "square", "triangle")
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}

FRAME_SIZE = 64
FRAMES_PER_SECOND = 8
NUM_STATES = 12
# Sampling takes the first of the two middle frames of an interval, so from a clip and from its reversal it would take
# different moments, and a model blind to time could use that. Showing each moment twice gives both the same ones, when
# 4, 8, 12 or 24 frames are sampled.
FRAMES_PER_STATE = 2
OVERSAMPLING = 3


class Shape(NamedTuple):
    kind: str
    color: tuple[int, int, int]
    x: float
    y: float
    radius: float


class Question(NamedTuple):
    """A question, the answer forwards and backwards, and the answers that there are."""

    text: str
    answer: str
    answer_backwards: str
    choices: Iterable[str]


class Event(NamedTuple):
    """What happens: a caption forwards and backwards, questions, and the shapes to be seen at time t in [0, 1]."""

    caption: str
    caption_backwards: str
    questions: list[Question]
    shapes_at: Callable[[float], list[Shape]]


def hop_in_turn(rng: random.Random) -> Event:
    """Two shapes hop, one after the other; backwards, only their order differs."""
    kinds, colors = rng.sample(SHAPES, 2), rng.sample(sorted(COLORS), 2)
    columns, height = rng.sample((18, 46), 2), rng.uniform(22, 28)

    def shapes_at(t: float) -> list[Shape]:
        hops = [math.sin(math.pi * min(max(2 * t - turn, 0), 1)) for turn in (0, 1)]
        return [
            Shape(kind, COLORS[color], x, 48 - height * hop, 8)
            for kind, color, x, hop in zip(kinds, colors, columns, hops, strict=True)
        ]

    first, second = (f"a {color} {kind} hops" for kind, color in zip(kinds, colors, strict=True))
    questions = [
        Question("what color hops first?", *colors, COLORS),
        Question(f"what color is the {kinds[0]}?", colors[0], colors[0], COLORS),
    ]
    return Event(f"{first} and then {second}", f"{second} and then {first}", questions, shapes_at)


def move_two_ways(rng: random.Random) -> Event:
    """A shape moves along one axis, then along the other."""
    kind, color, radius = rng.choice(SHAPES), rng.choice(sorted(COLORS)), rng.uniform(7, 9)
    ways = [rng.choice(("left", "right")), rng.choice(("up", "down"))]
    rng.shuffle(ways)
    length = rng.uniform(26, 32)
    steps = [STEPS[way] for way in ways]
    start = [FRAME_SIZE / 2 - length / 2 * sum(step[axis] for step in steps) for axis in (0, 1)]

    def shapes_at(t: float) -> list[Shape]:
        done = [min(max(2 * t - turn, 0), 1) for turn in (0, 1)]
        x, y = (
            start[axis] + length * sum(step[axis] * part for step, part in zip(steps, done, strict=True))
            for axis in (0, 1)
        )
        return [Shape(kind, COLORS[color], x, y, radius)]

    first, second = ways
    questions = [
        Question("which way does it move first?", first, OPPOSITE[second], STEPS),
        Question(f"what color is the {kind}?", color, color, COLORS),
    ]
    return Event(
        f"a {color} {kind} moves {first} and then {second}",
        f"a {color} {kind} moves {OPPOSITE[second]} and then {OPPOSITE[first]}",
        questions,
        shapes_at,
    )


def change_color(rng: random.Random) -> Event:
    """A shape turns from one colour to another."""
    kind, (before, after) = rng.choice(SHAPES), rng.sample(sorted(COLORS), 2)
    x, y, radius = rng.uniform(20, 44), rng.uniform(20, 44), rng.uniform(9, 13)

    def shapes_at(t: float) -> list[Shape]:
        share = min(max((t - 0.35) / 0.3, 0), 1)
        color = tuple(round(a + (b - a) * share) for a, b in zip(COLORS[before], COLORS[after], strict=True))
        return [Shape(kind, color, x, y, radius)]

    questions = [
        Question("what color is it first?", before, after, COLORS),
        Question("what shape is it?", kind, kind, SHAPES),
    ]
    captions = f"a {kind} turns from {before} to {after}", f"a {kind} turns from {after} to {before}"
    return Event(*captions, questions, shapes_at)


EVENTS = (hop_in_turn, move_two_ways, change_color)


def draw(background: Image.Image, shapes: list[Shape]) -> np.ndarray:
    """A frame (FRAME_SIZE, FRAME_SIZE, 3) uint8 with smooth edges."""
    image = background.copy()
    canvas = ImageDraw.Draw(image)
    for shape in shapes:
        x, y, r = (value * OVERSAMPLING for value in (shape.x, shape.y, shape.radius))
        if shape.kind == "circle":
            canvas.ellipse((x - r, y - r, x + r, y + r), fill=shape.color)
        elif shape.kind == "square":
            canvas.rectangle((x - r, y - r, x + r, y + r), fill=shape.color)
        else:
            canvas.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=shape.color)
    return np.asarray(image.resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BILINEAR))


def draw_background(rng: random.Random) -> Image.Image:
    """A dark gradient between four random colours."""
    corners = np.array([rng.randint(20, 80) for _ in range(12)], dtype=np.uint8).reshape(2, 2, 3)
    return Image.fromarray(corners).resize((FRAME_SIZE * OVERSAMPLING,) * 2, Image.Resampling.BILINEAR)


def draw_states(event: Event, rng: random.Random) -> np.ndarray:
    """The moments of an event, (NUM_STATES, FRAME_SIZE, FRAME_SIZE, 3) uint8."""
    background = draw_background(rng)
    return np.stack([draw(background, event.shapes_at(i / (NUM_STATES - 1))) for i in range(NUM_STATES)])


def write_video(path: Path, frames: np.ndarray, gop_size: int = 12):
    """Write frames (T, H, W, 3) uint8 as H.264 with a keyframe every `gop_size` frames."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "18", "preset": "veryfast"})
        (stream.height, stream.width), stream.pix_fmt = frames.shape[1:3], "yuv420p"
        stream.codec_context.gop_size, stream.thread_count = gop_size, 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


class BalancedQuestions:
    """Annotations `{"video", "question", "answer", "question_type"}` of pairs of twins."""

    def __init__(self):
        self.annotations, self.num_choices = [], {}
        self.counts = defaultdict(Counter)  # of the answers to each question, in pairs

    def add(self, question: Question, videos: list[str]):
        """Ask about a clip and its twin, unless both answers have come oftener than another already."""
        answers = (question.answer, question.answer_backwards)
        counts = self.counts[question.text]
        fewest = min(counts[choice] for choice in question.choices)
        if min(counts[answer] for answer in answers) > fewest + 1:
            return
        counts.update(set(answers))
        self.num_choices[question.text] = len(list(question.choices))
        kind = "look" if len(set(answers)) == 1 else "order"
        for video, answer in zip(videos, answers, strict=True):
            row = {"video": video, "question": question.text, "answer": answer, "question_type": kind}
            self.annotations.append(row)

    def describe(self) -> str:
        """How many there are, and what guessing an answer to the question reaches."""
        reports = []
        for kind in ("look", "order"):
            texts = [row["question"] for row in self.annotations if row["question_type"] == kind]
            chance = sum(1 / self.num_choices[text] for text in texts) / max(len(texts), 1)
            reports.append(f"{len(texts)} questions on {kind} (chance {100 * chance:.1f} %)")
        return ", ".join(reports)


def make_split(folder: Path, split: str, num_clips: int, seed: int) -> tuple[list[dict], BalancedQuestions]:
    """Write clips and their twins; returns annotations `{"video", "caption", "twin"}` and questions.

    Captions occur once in a split other than `train`, so that a clip has one right caption.
    """
    rng = random.Random(f"{seed} {split}")
    annotations, captions, questions = [], set(), BalancedQuestions()
    while len(annotations) < num_clips:
        event = rng.choice(EVENTS)(rng)
        if split != "train" and event.caption in captions:
            continue
        captions |= {event.caption, event.caption_backwards}
        frames = draw_states(event, rng).repeat(FRAMES_PER_STATE, axis=0)
        names = [f"{split}_{len(annotations) + i:05d}.mp4" for i in (0, 1)]
        write_video(folder / names[0], frames)
        write_video(folder / names[1], frames[::-1])
        annotations.append({"video": names[0], "caption": event.caption, "twin": names[1]})
        annotations.append({"video": names[1], "caption": event.caption_backwards, "twin": names[0]})
        for question in event.questions:
            questions.add(question, names)
    return annotations, questions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the videos and annotations")
    parser.add_argument("--train", type=int, default=1600, help="clips to train on (default: %(default)s)")
    parser.add_argument("--val", type=int, default=80, help="clips to pick the best epoch by (default: %(default)s)")
    parser.add_argument("--test", type=int, default=120, help="clips to report on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    (args.folder / "videos").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val", "test"):
        annotations, questions = make_split(args.folder / "videos", split, getattr(args, split), args.seed)
        (args.folder / f"{split}.json").write_text(json.dumps(annotations, indent=1))
        (args.folder / f"{split}_questions.json").write_text(json.dumps(questions.annotations, indent=1))
        print(f"{split}: {len(annotations)} clips, {questions.describe()}")


if __name__ == "__main__":
    main()
