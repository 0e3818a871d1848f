# Copyright 2026 The SViTT for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Batches equal what the processor makes of their rows; bad videos are replaced, kept or fatal, never silent."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value, Video
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from svitt import SViTTProcessor, SViTTVideoProcessor, VideoDecodeError
from svitt.training.loaders import (
    BadVideoReport,
    ClipDataset,
    ClipStream,
    MixedLoader,
    ProcessingArguments,
    model_batches,
    pair_loader,
    pair_stream_loader,
    question_loader,
    to_model_inputs,
    video_loader,
)

VIDEO = Video(decode=False)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    vocab = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "circle"]))
    return SViTTProcessor(SViTTVideoProcessor(size=32, num_frames=3), BertTokenizer(vocab=str(vocab)))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "damaged.mp4"
    path.write_text("not a video")
    return path


def videos_of(paths):
    return [{"path": str(path), "bytes": None} for path in paths]


def pairs_of(paths):
    features = Features(video=VIDEO, caption=Value("string"), video_id=Value("int64"))
    columns = {"video": videos_of(paths), "caption": ["red circle"] * len(paths), "video_id": list(range(len(paths)))}
    return Dataset.from_dict(columns, features)


def mp4s(videos):
    return [videos[name] for name in ("end.mp4", "start.mp4", "clip.mkv", "clip.webm")]


def test_training_batches_equal_the_processor(videos, processor):
    args = ProcessingArguments(flip_prob=0.5)
    loader = pair_loader(pairs_of(mp4s(videos)), processor, 4, args)
    torch.manual_seed(7), np.random.seed(7)
    [batch] = list(loader)
    order = batch["video_ids"].tolist()
    assert sorted(order) == [0, 1, 2, 3] and batch["clips"].dtype == torch.uint8 and batch["bad_videos"] == []
    assert batch["input_ids"].tolist() == [[2, 5, 7]] * 4

    del batch["bad_videos"]
    inputs = to_model_inputs(batch, processor)
    assert set(inputs) == {"pixel_values", "input_ids", "attention_mask", "video_ids"}
    assert inputs["pixel_values"].shape == (4, 3, 3, 32, 32) and inputs["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_batches_equal_the_processor(videos, processor, num_workers):
    paths = mp4s(videos)[:3]
    args = ProcessingArguments(num_workers=num_workers)
    rows = Dataset.from_dict({"video": videos_of(paths)}, Features(video=VIDEO))
    loader = video_loader(rows, processor, 6, 2, args)
    batches = list(model_batches(loader, processor, torch.device("cpu"), BadVideoReport("unused")))
    assert [len(batch["is_missing"]) for batch in batches] == [2, 1]
    expected = processor(videos=paths, num_frames=6, return_tensors="pt")["pixel_values"]
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches]), expected)


def test_videos_given_as_bytes(videos, processor):
    rows = [{"path": None, "bytes": videos["end.mp4"].read_bytes()}]
    rows = Dataset.from_dict({"video": rows}, Features(video=VIDEO))
    [batch] = video_loader(rows, processor, 3, 1, ProcessingArguments())
    expected = processor(videos=videos["end.mp4"], return_tensors="pt")["pixel_values"]
    assert torch.equal(to_model_inputs({"clips": batch["clips"]}, processor)["pixel_values"], expected)


def test_question_batches(videos, processor):
    columns = {
        "video": videos_of(mp4s(videos)[:2]),
        "question": ["red?", "blue circle?"],
        "answer": [["a", "b"], ["c"]],
    }
    features = Features(video=VIDEO, question=Value("string"), answer=List(Value("string")))
    [batch] = question_loader(Dataset.from_dict(columns, features), processor, 2, ProcessingArguments())
    by_question = dict(zip(map(tuple, batch["input_ids"].tolist()), batch["answers"], strict=True))
    assert by_question == {(2, 5, 0): ["a", "b"], (2, 6, 7): ["c"]}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_video_is_replaced_and_reported(tmp_path, videos, processor, damaged, num_workers):
    good = mp4s(videos)
    missing = tmp_path / "missing.mp4"
    pairs = pairs_of([good[0], damaged, good[1], missing])
    loader = pair_loader(pairs, processor, 2, ProcessingArguments(num_workers=num_workers))
    report = BadVideoReport(tmp_path / "out" / "bad_videos.jsonl")
    for epoch in (1, 2):
        ids = []
        for batch in loader:
            report.take_from(batch)
            assert "bad_videos" not in batch and len(batch["clips"]) == 2
            ids += batch["video_ids"].tolist()
        assert len(ids) == 4 and {0, 2} == set(ids)
        assert report.write("train", epoch) == 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "bad_videos.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["video"]) for line in lines] == [
        (epoch, str(path)) for epoch in (1, 2) for path in sorted([damaged, missing])
    ]
    assert all(line["split"] == "train" and line["error"].startswith(f"{line['video']}: ") for line in lines)
    assert BadVideoReport(report.path).write("train") == 0 and not report.path.exists()  # each run starts anew


def test_policy_error_raises(videos, processor, damaged):
    pairs = pairs_of([damaged, videos["end.mp4"]])
    with pytest.raises(VideoDecodeError, match=f"{damaged}: not a video file"):
        list(pair_loader(pairs, processor, 2, ProcessingArguments(bad_videos="error")))
    with pytest.raises(VideoDecodeError, match="not a video file"):
        list(video_loader(pairs.select_columns("video"), processor, 3, 2, ProcessingArguments()))


def test_nothing_but_bad_videos_is_an_error(processor, damaged):
    with pytest.raises(VideoDecodeError, match="not a video file.*; and the 9 videos tried before it"):
        list(pair_loader(pairs_of([damaged] * 3), processor, 2, ProcessingArguments()))
    stream = ClipStream([{"video": {"path": str(damaged), "bytes": None}}] * 30, processor.video_processor.read_clip)
    with pytest.raises(VideoDecodeError, match="and the 9 videos tried before it"):
        list(stream)


def test_evaluation_keeps_the_place_of_a_missing_video(videos, processor, damaged):
    rows = pairs_of([videos["end.mp4"], damaged, videos["clip.mkv"]]).select_columns("video")
    args = ProcessingArguments(bad_eval_videos="score_as_missed")
    report = BadVideoReport("unused")
    [batch] = model_batches(video_loader(rows, processor, 3, 3, args), processor, torch.device("cpu"), report)
    assert batch["is_missing"].tolist() == [False, True, False] and list(report.found) == [str(damaged)]
    expected = processor(videos=[videos["end.mp4"], videos["clip.mkv"]], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"][[0, 2]], expected) and torch.all(batch["pixel_values"][1] == -1)


class Counter:
    """Rows 0, 1, … of a video, some of them bad; resumable."""

    def __init__(self, good, bad, length):
        self.paths = [bad if index % 4 == 1 else good for index in range(length)]
        self.start = self.next = 0

    def __iter__(self):
        start, self.start = self.start, 0
        for position in range(start, len(self.paths)):
            self.next = position + 1
            video = {"path": str(self.paths[position]), "bytes": None}
            yield {"video": video, "caption": "red", "video_id": position}

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.start = state["next"]


def test_stream_leaves_bad_videos_out_and_resumes(videos, processor, damaged):
    def loader():
        return pair_stream_loader(Counter(videos["end.mp4"], damaged, 13), processor, 2, ProcessingArguments())

    batches = list(loader())
    assert [batch["video_ids"].tolist() for batch in batches] == [[0, 2], [3, 4], [6, 7], [8, 10], [11, 12]]
    assert [len(batch["bad_videos"]) for batch in batches] == [1, 0, 1, 1, 0]
    first, second = loader(), loader()
    iterator = iter(first)
    next(iterator), next(iterator)
    second.load_state_dict(first.state_dict())
    assert [batch["video_ids"].tolist() for batch in second] == [[6, 7], [8, 10], [11, 12]]


def test_mixed_loader_gives_every_batch_once_in_an_order_of_its_own():
    def mixed(seed):
        return MixedLoader({"video": DataLoader(range(8), 2), "image": DataLoader(range(100, 106), 2)}, seed)

    def run(loader, epoch):
        loader.epoch = epoch
        return [(batch["medium"], batch["x"].tolist()) for batch in loader]

    def collate(rows):
        return {"x": torch.tensor(rows)}

    loaders = [mixed(0), mixed(0), mixed(1)]
    for loader in loaders:
        assert len(loader) == 7
        for single in loader.loaders.values():
            single.collate_fn = collate
    first, again, other = (run(loader, 1) for loader in loaders)
    assert first == again != other and first != run(loaders[0], 2)
    assert [x for medium, x in first if medium == "video"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [x for medium, x in first if medium == "image"] == [[100, 101], [102, 103], [104, 105]]


def test_items_of_a_clip_dataset(videos, processor):
    clips = ClipDataset(pairs_of(mp4s(videos)), processor.video_processor.read_clip)
    assert len(clips) == 4
    row = clips[1]
    assert set(row) == {"caption", "video_id", "clip", "bad_videos"} and row["video_id"] == 1
    assert torch.equal(row["clip"][0], processor.video_processor.read_clip(videos["start.mp4"])[0])


TWO_PROCESSES = """
import json, sys
import torch
from accelerate import Accelerator, PartialState
from svitt.training.loaders import BadVideoReport, MixedLoader
from svitt.training.loop import TimedBatches

rank = PartialState(cpu=True).process_index
accelerator = Accelerator(cpu=True)

# One process has three batches, the other has five, and each has bad videos of its own.
report = BadVideoReport(sys.argv[1])
bad = [{"video": f"{rank}.mp4", "error": "bad"}, {"video": "both.mp4", "error": "bad"}]
batches = [{"x": torch.zeros(2), "bad_videos": bad} for _ in range(3 + 2 * rank)]
uneven = len(list(TimedBatches(batches, report, dict)))
num_bad = report.write("train", 1)

def loader(start):
    collate = lambda rows: {"x": torch.tensor(rows)}
    return torch.utils.data.DataLoader(range(start, start + 12), 2, collate_fn=collate)

mixed = MixedLoader({"video": loader(0), "image": loader(100)}, seed=3).prepare(accelerator)
mixed.set_epoch(1)
steps = [(batch["medium"], batch["x"].tolist()) for batch in mixed]
with open(f"{sys.argv[2]}/{rank}.json", "w") as file:
    json.dump({"uneven": uneven, "num_bad": num_bad, "steps": steps}, file)
"""


@pytest.mark.slow
def test_two_processes_end_together_and_take_the_same_medium(tmp_path):
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(tmp_path / "script.py"), str(tmp_path / "bad"), str(tmp_path)]
    launched = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert launched.returncode == 0, launched.stderr
    first, second = outcomes = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert (first["uneven"], second["uneven"]) == (3, 3)
    assert (first["num_bad"], second["num_bad"]) == (3, 3)
    written = [json.loads(line)["video"] for line in (tmp_path / "bad").read_text().splitlines()]
    assert written == ["0.mp4", "1.mp4", "both.mp4"]

    media = [medium for medium, _ in first["steps"]]
    assert media == [medium for medium, _ in second["steps"]]
    assert sorted(media) == ["image"] * 3 + ["video"] * 3 and media != sorted(media)
    seen = [x for outcome in outcomes for _, batch in outcome["steps"] for x in batch]
    assert sorted(seen) == [*range(12), *range(100, 112)]
