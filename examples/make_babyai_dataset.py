# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Record BabyAI, a grid world whose instructions are often about order, as clips with captions and questions.

    pip install minigrid
    python examples/make_babyai_dataset.py babyai

The instructions ("open the purple door, then open the red door") and the bot that follows them are BabyAI's own
(Chevalier-Boisvert et al., ICLR 2019; https://minigrid.farama.org). Writes H.264 files to babyai/videos, and

    train.json, test.json              captions, in the format of run_retrieval.py
    test_order.json, order.yaml        for run_retrieval.py --dataset_file: the caption, or the one of the other order?
    train_questions.json, test_...     for run_videoqa.py: which door is opened ("look"), first or last ("order")?

Of the last two, a model that sees all but the order of events guesses one of two. It need not see that of the frames: a
door that is opened stays open, so that the one that is open for longer was the first. OpenDoorsInTurn, which is not one
of BabyAI's levels, has no such traces: there a door falls shut as the other is opened.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import minigrid  # noqa: F401 (registers the levels)
import numpy as np
from make_demo_dataset import write_video
from minigrid.core.constants import COLOR_NAMES
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import AfterInstr, BeforeInstr, GoToInstr, ObjDesc, OpenInstr
from minigrid.utils.baby_ai_bot import BabyAIBot
from tqdm import tqdm

LEVELS = ("OpenTwoDoors", "OpenDoorsOrderN4", "MoveTwoAcrossS5N2", "PutNextLocal", "PickupLoc", "GoToSeqS5R2")
LEVELS_OF_OURS = ("OpenDoorsInTurn",)
TILE_SIZE = 12  # pixels along a side of a cell
FIRST_TRAINING_SEED = 1_000_000  # of an episode; those of the test count from 0

ORDERED = re.compile(r"(?P<one>.+?)(?P<link>, then | after you )(?P<other>.+)")
DOOR = re.compile(r"(open|go to) (?:the|a) (\w+) door")
QUESTIONS = {"open": "which door is opened", "go to": "which door is reached"}


class OpenDoorsInTurn(RoomGridLevel):
    """OpenTwoDoors of BabyAI, but that the first door falls shut as the second is opened."""

    def __init__(self, **kwargs):
        super().__init__(room_size=6, **kwargs)

    def gen_mission(self):
        colors = self._rand_subset(COLOR_NAMES, 2)
        walls = self._rand_subset(range(4), 2)
        self.doors = [
            self.add_door(1, 1, wall, color, locked=False)[0] for color, wall in zip(colors, walls, strict=True)
        ]
        self.place_agent(1, 1)
        one, other = (OpenInstr(ObjDesc("door", color)) for color in colors)
        self.instrs = self._rand_elem([BeforeInstr, AfterInstr])(one, other)

    def step(self, action):
        is_open = [door.is_open for door in self.doors]
        result = super().step(action)
        if all(door.is_open for door in self.doors):
            self.doors[is_open.index(True)].is_open = False
        return result

    def send_back(self):
        """Let the agent go to the door that is closed."""
        [closed] = (door for door in self.doors if not door.is_open)
        self.instrs = GoToInstr(ObjDesc("door", closed.color))
        self.instrs.reset_verifier(self)


gymnasium.register("BabyAI-OpenDoorsInTurn-v0", entry_point=OpenDoorsInTurn)


def follow(env: RoomGridLevel) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 of the bot that follows the instruction, one after each step."""
    bot, is_over = BabyAIBot(env), False
    while not is_over:
        _, _, terminated, truncated, _ = env.step(bot.replan())
        is_over = terminated or truncated
        yield env.get_frame(highlight=False, tile_size=TILE_SIZE)


def play(level: str, seed: int, crop: bool) -> tuple[str, np.ndarray]:
    """An instruction, and the frames (T, H, W, 3) uint8 of the bot that follows it."""
    env = gymnasium.make(f"BabyAI-{level}-v0", render_mode="rgb_array").unwrapped
    env.reset(seed=seed)
    room = env.room_from_pos(*env.agent_pos)
    (left, top), (columns, rows) = (room.top, room.size) if crop else ((0, 0), (env.width, env.height))
    if isinstance(env, OpenDoorsInTurn):
        # From the first door to the second and back again: the same frames, in another order, as of the other order.
        frames = [frame for frame in follow(env) if any(door.is_open for door in env.doors)]
        env.send_back()
    else:
        frames = [env.get_frame(highlight=False, tile_size=TILE_SIZE)]
    frames += follow(env)
    ys, xs = (slice(start * TILE_SIZE, (start + size) * TILE_SIZE) for start, size in ((top, rows), (left, columns)))
    return env.mission, np.stack(frames)[:, ys, xs]


def other_order(caption: str) -> str | None:
    """The same two instructions the other way round; None where there is no order, or it makes no difference."""
    parts = ORDERED.fullmatch(caption)
    if parts is None or parts["one"] == parts["other"]:
        return None
    return parts["other"] + parts["link"] + parts["one"]


def doors_in_order(caption: str) -> list[str]:
    """Colors of the doors to be opened, the first first."""
    colors = [color for _, color in DOOR.findall(caption)]
    return colors[::-1] if " after you " in caption else colors


def questions_about(video: str, caption: str) -> list[dict[str, str]]:
    doors, verbs = doors_in_order(caption), [verb for verb, _ in DOOR.findall(caption)]
    if caption.count("door") != len(doors) or not 1 <= len(doors) == len(set(doors)) <= 2:
        return []
    what = QUESTIONS[verbs[0]]
    asked = [(f"{what}?", doors[0], "look")]
    if len(doors) == 2:
        asked = [(f"{what} first?", doors[0], "order"), (f"{what} last?", doors[1], "order")]
    return [
        {"video": video, "question": question, "answer": answer, "question_type": kind}
        for question, answer, kind in asked
    ]


def choices_of_order(video: str, caption: str, rng: random.Random) -> list[dict]:
    """Multiple choice between the caption and the one of the other order."""
    if (other := other_order(caption)) is None:
        return []
    answer = rng.randrange(2)
    return [{"video": video, "caption": [other, caption] if answer else [caption, other], "answer": answer}]


def make_split(
    folder: Path, split: str, levels: list[str], num_clips: int, first_seed: int, crop: bool
) -> list[dict[str, str]]:
    """Play and write down; returns annotations `{"video", "caption", "level"}`, an equal number of each level."""
    rows = []
    for number in tqdm(range(num_clips), desc=split):
        level = levels[number % len(levels)]
        caption, frames = play(level, first_seed + number // len(levels), crop)
        rows.append({"video": f"{split}_{level}_{number // len(levels):05d}.mp4", "caption": caption, "level": level})
        write_video(folder / "videos" / rows[-1]["video"], frames, gop_size=250)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the videos and annotations")
    parser.add_argument("--train", type=int, default=3000, help="clips to train on (default: %(default)s)")
    parser.add_argument("--test", type=int, default=360, help="clips to report on (default: %(default)s)")
    parser.add_argument("--levels", nargs="+", choices=LEVELS + LEVELS_OF_OURS, default=LEVELS)
    parser.add_argument("--crop", action="store_true", help="to the room where the agent begins, which suits doors")
    args = parser.parse_args()

    (args.folder / "videos").mkdir(parents=True, exist_ok=True)
    for split, num_clips, first_seed in (("train", args.train, FIRST_TRAINING_SEED), ("test", args.test, 0)):
        rows = make_split(args.folder, split, args.levels, num_clips, first_seed, args.crop)
        questions = [question for row in rows for question in questions_about(row["video"], row["caption"])]
        rng = random.Random(split)
        choices = [choice for row in rows for choice in choices_of_order(row["video"], row["caption"], rng)]
        for name, content in (("", rows), ("_questions", questions), ("_order", choices)):
            (args.folder / f"{split}{name}.json").write_text(json.dumps(content, indent=1))
        print(f"{split}: {len(rows)} clips, {len(choices)} of them with an order; {len(questions)} questions")
    splits = "test: {annotation: test_order.json, videos: videos, rows: multiple_choice, num_options: 2}"
    (args.folder / "order.yaml").write_text(f"splits:\n  {splits}\n")


if __name__ == "__main__":
    main()
