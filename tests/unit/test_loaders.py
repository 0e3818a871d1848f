# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Batches equal what the processor makes of their rows, and are a function of seed, epoch and place alone; bad videos
are replaced, kept or fatal, never silent."""

import json
import os
import random
import signal
import subprocess
import sys
from itertools import cycle, islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState, skip_first_batches
from datasets import Dataset, Features, Video, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from svitt import SViTTProcessor, SViTTVideoProcessor, VideoDecodeError
from svitt.data.loaders import (
    BadVideoReport,
    ClipDataset,
    MixedBatches,
    MixedClips,
    ProcessingArguments,
    ShuffledBatches,
    collate_pairs,
    collate_questions,
    count_cut,
    model_batches,
    to_model_inputs,
    training_loader,
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
    videos = [{"path": str(path), "bytes": None} for path in paths]
    return Dataset.from_dict({"video": videos}, Features(video=VIDEO))


def pairs_of(paths):
    columns = {"caption": ["red circle"] * len(paths), "video_id": list(range(len(paths)))}
    return concatenate_datasets([videos_of(paths), Dataset.from_dict(columns)], axis=1)


def pair_loader(paths, processor, batch_size, seed=0, num_workers=0, **settings):
    rows = {"video": pairs_of(paths)}
    args = ProcessingArguments(**settings)
    return training_loader(rows, processor, batch_size, args, collate_pairs, seed, num_workers)


def mp4s(videos):
    return [videos[name] for name in ("end.mp4", "start.mp4", "clip.mkv", "clip.webm")]


def epochs_of(loader, epochs=(1, 2)):
    batches = []
    for epoch in epochs:
        loader.batch_sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def assert_same_batches(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert set(batch) == set(other)
        for name, value in batch.items():
            assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]


# ---- What batches hold


def test_training_batches_equal_the_processor(videos, processor):
    paths = mp4s(videos)
    [batch] = epochs_of(pair_loader(paths, processor, 4, seed=3), (2,))
    order = batch["video_ids"].tolist()
    assert sorted(order) == [0, 1, 2, 3] and batch["clips"].dtype == torch.uint8 and batch.pop("bad_videos") == []
    assert batch["input_ids"].tolist() == [[2, 5, 7]] * 4
    assert batch.pop("videos") == [str(paths[index]) for index in order]
    inputs = to_model_inputs(batch, processor)
    assert set(inputs) == {"pixel_values", "input_ids", "attention_mask", "video_ids"}
    seeds = [int(np.random.default_rng((3, 2, index)).integers(2**63)) for index in order]
    settings = {"sampling": "rand", "do_augment": True, "seed": seeds, "return_tensors": "pt"}
    expected = processor(videos=[paths[index] for index in order], **settings)["pixel_values"]
    assert torch.equal(inputs["pixel_values"], expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_batches_equal_the_processor(videos, processor, num_workers):
    paths = mp4s(videos)[:3]
    loader = video_loader(videos_of(paths), processor, 6, 2, ProcessingArguments(), num_workers)
    batches = list(model_batches(loader, processor, torch.device("cpu"), BadVideoReport("unused")))
    assert [len(batch["is_missing"]) for batch in batches] == [2, 1]
    expected = processor(videos=paths, num_frames=6, return_tensors="pt")["pixel_values"]
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches]), expected)


def test_texts_that_are_cut_are_counted(processor, capsys):
    """Of all rows, or of a few evenly spaced ones, one of the two words of which is kept."""
    rows = Dataset.from_dict({"caption": ["a cat"] * 9 + ["a"] * 9, "answer": [["a"], ["a", "a cat plays"]] * 9})
    short = SViTTProcessor(processor.video_processor, processor.tokenizer, max_answer_length=4)
    assert count_cut("train", "answers", rows["answer"], short) == 9
    assert not count_cut("train", "captions", rows["caption"], processor)
    short.tokenizer.init_kwargs["max_length"] = 2
    try:
        assert count_cut("train", "captions", rows["caption"], short, most=18) == 9
        assert count_cut("train", "captions", rows["caption"], short, most=7) == 3
    finally:
        del short.tokenizer.init_kwargs["max_length"]
    assert capsys.readouterr().out.splitlines() == [
        "train: 9 of 27 answers are longer than 4 tokens and were cut",
        "train: 9 of 18 captions are longer than 2 tokens and were cut",
        "train: 3 of 6 captions looked at are longer than 2 tokens and were cut",
    ]


def test_questions_and_videos_given_as_bytes(videos, processor):
    content = [{"path": None, "bytes": path.read_bytes()} for path in mp4s(videos)[:2]]
    columns = {"video": content, "question": ["red?", "blue circle?"], "answer": [["a", "b"], ["c"]]}
    rows = {"video": Dataset.from_dict(columns).cast_column("video", VIDEO)}
    [batch] = training_loader(rows, processor, 2, ProcessingArguments(augment=False), collate_questions)
    by_question = dict(zip(map(tuple, batch["input_ids"].tolist()), batch["answers"], strict=True))
    assert by_question == {(2, 5, 0): ["a", "b"], (2, 6, 7): ["c"]} and batch["videos"] == ["<bytes>"] * 2


def test_frame_orders_depend_on_the_number_of_the_row_alone(videos, processor, monkeypatch):
    rows = videos_of([videos["end.mp4"]] * 5)

    def frames(order, batch_size=2, num_workers=0):
        args = ProcessingArguments(frame_order=order)
        return torch.cat([batch["clips"] for batch in video_loader(rows, processor, 6, batch_size, args, num_workers)])

    normal = frames("normal")
    assert torch.equal(frames("reverse"), normal.flip(1))
    for order in ("shuffle", "freeze"):
        moved = frames(order)
        moments = [[normal[0].eq(frame).all(dim=(1, 2, 3)).nonzero().item() for frame in clip] for clip in moved]
        for moment in moments:
            assert sorted(moment) == list(range(6)) if order == "shuffle" else moment == moment[:1] * 6
        assert len(set(map(tuple, moments))) > 1
        assert torch.equal(frames(order, batch_size=5, num_workers=1), moved)
    alone = frames("shuffle")
    for process in range(2):
        monkeypatch.setitem(PartialState._shared_state, "process_index", process)
        monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
        assert torch.equal(frames("shuffle"), alone[process::2])


# ---- Bad videos


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_video_is_replaced_and_reported_once(tmp_path, videos, processor, damaged, num_workers):
    good, missing = mp4s(videos), tmp_path / "missing.mp4"
    loader = pair_loader([good[0], damaged, good[1], missing], processor, 2, num_workers=num_workers)
    report = BadVideoReport(tmp_path / "out" / "bad_videos.jsonl")
    for epoch in (1, 2):
        ids = []
        for batch in epochs_of(loader, (epoch,)):
            report.take_from(batch)
            assert "bad_videos" not in batch and len(batch["clips"]) == 2
            assert batch["videos"] == [str(good[index // 2]) for index in batch["video_ids"].tolist()]
            ids += batch["video_ids"].tolist()
        assert len(ids) == 4 and {0, 2} == set(ids)
        assert report.write("train") == 2
    lines = [json.loads(line) for line in report.path.read_text().splitlines()]
    assert [line["video"] for line in lines] == sorted([str(damaged), str(missing)])
    assert all(line["where"] == "train" and line["error"].startswith(f"{line['video']}: ") for line in lines)
    resumed = BadVideoReport(report.path, resume=True)
    resumed.take_from({"bad_videos": [{"video": str(damaged), "error": "bad"}]})
    assert resumed.write("train") == 1 and len(report.path.read_text().splitlines()) == 2
    assert BadVideoReport(report.path).write("train") == 0 and not report.path.exists()  # each run starts anew


def test_bad_videos_may_be_fatal(videos, processor, damaged):
    with pytest.raises(VideoDecodeError, match=f"{damaged}: not a video file"):
        list(pair_loader([damaged, videos["end.mp4"]], processor, 2, bad_videos="error"))
    with pytest.raises(VideoDecodeError, match="not a video file"):
        list(video_loader(videos_of([damaged]), processor, 3, 2, ProcessingArguments()))
    with pytest.raises(VideoDecodeError, match="not a video file.*; and the 9 videos tried before it"):
        list(pair_loader([damaged] * 3, processor, 2))


def test_evaluation_keeps_the_place_of_a_missing_video(videos, processor, damaged):
    rows = videos_of([videos["end.mp4"], damaged, videos["clip.mkv"]])
    args = ProcessingArguments(bad_eval_videos="score_as_missed")
    report = BadVideoReport("unused")
    [batch] = model_batches(video_loader(rows, processor, 3, 3, args), processor, torch.device("cpu"), report)
    assert batch["is_missing"].tolist() == [False, True, False] and list(report.found) == [str(damaged)]
    expected = processor(videos=[videos["end.mp4"], videos["clip.mkv"]], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"][[0, 2]], expected) and torch.all(batch["pixel_values"][1] == -1)


def test_the_row_that_replaces_a_bad_one_is_drawn_from_its_seed():
    def read_clip(video, seed):
        if int(video["path"]) % 5 == 4:
            raise VideoDecodeError("bad")
        return None, SimpleNamespace(damage=None)

    clips = ClipDataset(videos_of(range(10)), read_clip, "skip", seed=2)
    generator = np.random.default_rng((2, 1, 4))  # draws a seed for the clip and another row, in turn
    draws = [int(generator.integers(end)) for end in (2**63, 10) * 10]
    assert clips[4, 1]["video"] == next(str(row) for row in draws[1::2] if row % 5 != 4)


# ---- Functions of seed, epoch and place


@given(
    num_rows=st.integers(1, 40),
    batch_size=st.integers(1, 8),
    num_processes=st.integers(1, 4),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
    rows_of_a_shard=st.sampled_from([None, 1, 3]),
)
def test_processes_share_the_batches_of_one(num_rows, batch_size, num_processes, seed, epoch, rows_of_a_shard):
    shards = rows_of_a_shard and np.arange(num_rows) // rows_of_a_shard

    def batches(batch_size, index, num_processes):
        return ShuffledBatches(num_rows, batch_size, seed, index, num_processes, shards, epoch)

    shares = [batches(batch_size, index, num_processes) for index in range(num_processes)]
    together = [sum(parts, []) for parts in zip(*shares, strict=True)]
    alone = batches(batch_size * num_processes, 0, 1)
    assert set(map(len, shares)) == {len(alone)} and len(together) == len(alone)
    assert {len(batch) for share in shares for batch in share} <= {min(batch_size, -(-num_rows // num_processes))}
    if num_rows >= batch_size * num_processes:
        assert together == list(alone)
    for batch, other in zip(together, alone, strict=True):  # too few rows: the first ones come again
        assert batch == list(islice(cycle(other), len(batch)))
    rows = [row for batch in alone for row, _ in batch]
    assert len(set(rows)) == len(rows) and all(row_epoch == epoch for batch in alone for _, row_epoch in batch)


def test_rows_of_shards_are_shuffled_a_few_shards_at_a_time():
    shards = np.repeat(np.arange(40), 50)
    batches, orders = ShuffledBatches(2000, 10, shards=shards), []
    for epoch in (1, 2):
        batches.set_epoch(epoch)
        orders.append([row for batch in batches for row, _ in batch])
        assert sorted(orders[-1]) == list(range(2000))
        parts = [shards[orders[-1][start : start + 400]] for start in range(0, 2000, 400)]
        assert all(len(set(part)) == 8 for part in parts) and len(set(parts[0][:50])) > 4
    assert orders[0] != orders[1]


def mixed_loader(num_workers=0, seed=0):
    """Batches of two of 11 rows, and of three of 7 rows, which hold what was drawn for them."""
    sizes = {"video": (11, 2), "image": (7, 3)}
    parts = {medium: ClipDataset(videos_of(range(num_rows)), draw) for medium, (num_rows, _) in sizes.items()}
    batches = {medium: ShuffledBatches(*size, seed) for medium, size in sizes.items()}
    settings = {"num_workers": num_workers, "persistent_workers": num_workers > 0, "collate_fn": list}
    return DataLoader(MixedClips(parts), batch_sampler=MixedBatches(batches, seed), **settings)


def draw(video, seed):
    return (video["path"], seed), SimpleNamespace(damage=None)


def test_mixed_media_give_every_batch_once_and_resume_anywhere():
    loader = mixed_loader()
    batches = epochs_of(loader)
    first, second = batches[:7], batches[7:]
    assert len(loader) == len(second) == 7 and sorted(map(len, first)) == [2] * 5 + [3] * 2
    for size, count in ((2, 10), (3, 6)):  # as many rows, none twice, as many as are in whole batches
        rows = [row["video"] for batch in first if len(batch) == size for row in batch]
        assert len(set(rows)) == len(rows) == count
    assert first != second and [*map(len, first)] != [*map(len, second)]
    assert epochs_of(mixed_loader(num_workers=2)) == batches != epochs_of(mixed_loader(seed=1))
    for start in range(8):
        loader.batch_sampler.set_epoch(2)
        assert list(skip_first_batches(loader, start)) == second[start:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_clips_do_not_depend_on_global_states_nor_workers_nor_change_them(videos, processor, num_workers):
    def states():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    expected = epochs_of(pair_loader(mp4s(videos), processor, 2))
    assert not torch.equal(expected[0]["clips"], expected[2]["clips"])  # crops are new in each epoch
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    before = states()
    loader = pair_loader(mp4s(videos), processor, 2, num_workers=num_workers)
    next(iter(loader))  # an epoch that is left half read
    assert_same_batches(epochs_of(loader), expected)
    loader.batch_sampler.set_epoch(2)
    assert_same_batches(list(skip_first_batches(loader, 1)), expected[3:])
    assert states() == before


SIGTERM = """
import signal, sys
from torch.utils.data import DataLoader
from svitt.data.loaders import worker_settings

signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
kept = iter(DataLoader(range(40), 2, **worker_settings(2)))
read = [next(kept).sum().item()]
print("ready", flush=True)
sys.stdin.readline()
read += [batch.sum().item() for batch in kept]
print(sum(read), flush=True)
"""  # `kept` lives on to the end, as in a training that holds its loader


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="a signal's sender is not told")
def test_workers_outlive_a_sigterm_to_all_processes_but_not_the_main_one():
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", SIGTERM], **options)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == "told\n"
    out, _ = process.communicate("\n", timeout=300)
    assert (out, process.returncode) == (f"{sum(range(40))}\n", 0)
