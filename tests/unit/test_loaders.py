# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Batches equal what the processor makes of their rows; bad videos are replaced, kept or fatal, never silent; training
that was stopped anywhere goes on with the batches it would have seen."""

import json
import random
import subprocess
import sys
from functools import partial
from itertools import cycle, islice

import numpy as np
import pytest
import torch
from accelerate import PartialState
from datasets import Dataset, Features, IterableDataset, List, Value, Video, load_from_disk
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizer

from svitt import SViTTProcessor, SViTTVideoProcessor, VideoDecodeError
from svitt.data.loaders import (
    BadVideoReport,
    ClipDataset,
    ClipStream,
    MixedLoader,
    ProcessingArguments,
    RowLoader,
    ShuffledBatches,
    StreamLoader,
    model_batches,
    pair_loader,
    pair_stream_loader,
    question_loader,
    question_stream_loader,
    reorder_frames,
    to_model_inputs,
    video_loader,
)
from svitt.data.streaming import ShuffledStream
from svitt.distributed import share_of
from svitt.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's, with newer torch

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
    paths = mp4s(videos)
    loader = pair_loader(pairs_of(paths), processor, 4, ProcessingArguments(flip_prob=0.5), seed=3)
    loader.set_epoch(2)
    [batch] = list(loader)
    order = batch["video_ids"].tolist()
    assert sorted(order) == [0, 1, 2, 3] and batch["clips"].dtype == torch.uint8 and batch.pop("bad_videos") == []
    assert batch["input_ids"].tolist() == [[2, 5, 7]] * 4
    assert batch.pop("videos") == [str(paths[index]) for index in order]

    inputs = to_model_inputs(batch, processor)
    assert set(inputs) == {"pixel_values", "input_ids", "attention_mask", "video_ids"}
    assert inputs["pixel_values"].shape == (4, 3, 3, 32, 32) and inputs["pixel_values"].dtype == torch.float32
    seeds = [int(np.random.default_rng((3, 2, index)).integers(2**63)) for index in order]
    settings = {"sampling": "rand", "do_augment": True, "seed": seeds, "return_tensors": "pt"}
    expected = processor(videos=[paths[index] for index in order], **settings)["pixel_values"]
    difference = (inputs["pixel_values"] - expected).abs()
    assert difference.max() < 0.0079 and (difference > 1e-5).float().mean() < 1e-3  # now and then, one of 255 steps


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


@pytest.mark.parametrize("num_workers", [0, 1])
def test_frames_are_put_in_another_order_by_the_number_of_the_row_alone(videos, processor, num_workers):
    rows = pairs_of([videos["end.mp4"]] * 5).select_columns("video")

    def frames(order, rows=rows, batch_size=2):
        args = ProcessingArguments(num_workers=num_workers, frame_order=order)
        return torch.cat([batch["clips"] for batch in video_loader(rows, processor, 6, batch_size, args)])

    normal = frames("normal")
    assert len(normal[0].unique(dim=0)) == 6
    assert torch.equal(frames("reverse"), normal.flip(1))
    for order in ("shuffle", "freeze"):
        moved = frames(order)
        moments = [[normal[0].eq(frame).all(dim=(1, 2, 3)).nonzero().item() for frame in clip] for clip in moved]
        for moment in moments:
            assert sorted(moment) == list(range(6)) if order == "shuffle" else moment == moment[:1] * 6
        assert len(set(map(tuple, moments))) > 1
        assert torch.equal(frames(order, batch_size=5), moved)


def test_frame_orders_do_not_depend_on_the_number_of_processes(videos, processor, monkeypatch):
    rows = pairs_of([videos["end.mp4"]] * 5).select_columns("video")
    args = ProcessingArguments(frame_order="shuffle")
    [alone] = video_loader(rows, processor, 6, 5, args)
    shares = []
    for process in range(2):
        monkeypatch.setitem(PartialState._shared_state, "process_index", process)
        monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
        [share] = video_loader(share_of(rows), processor, 6, 5, args)
        shares.append(share["clips"])
    assert torch.equal(shares[0], alone["clips"][::2]) and torch.equal(shares[1], alone["clips"][1::2])


def test_an_order_that_is_none_is_refused():
    with pytest.raises(ValueError, match="reverse, shuffle or freeze, not 'sorted'"):
        reorder_frames(torch.zeros(3, 1), "sorted")


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
        loader.set_epoch(epoch)
        for batch in loader:
            report.take_from(batch)
            assert "bad_videos" not in batch and len(batch["clips"]) == 2
            assert batch["videos"] == [str(good[index // 2]) for index in batch["video_ids"].tolist()]
            ids += batch["video_ids"].tolist()
        assert len(ids) == 4 and {0, 2} == set(ids)
        assert report.write("train", epoch) == 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "bad_videos.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["video"]) for line in lines] == [
        (epoch, str(path)) for epoch in (1, 2) for path in sorted([damaged, missing])
    ]
    assert all(line["split"] == "train" and line["error"].startswith(f"{line['video']}: ") for line in lines)
    assert BadVideoReport(report.path, resume=True).write("train") == 0 and report.path.exists()
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
    stream = pair_stream_loader(Counter(damaged, damaged, 30), processor, 2, ProcessingArguments())
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
        self.start = self.next = self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

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
    assert batches[0]["videos"] == [str(videos["end.mp4"])] * 2
    first, second = loader(), loader()
    iterator = iter(first)
    next(iterator), next(iterator)
    second.load_state_dict(first.state_dict())
    resumed = list(second)
    assert [batch["video_ids"].tolist() for batch in resumed] == [[6, 7], [8, 10], [11, 12]]
    for batch, expected in zip(resumed, batches[2:], strict=True):
        assert_same(batch, expected)


def test_items_of_a_clip_dataset(videos, processor):
    clips = ClipDataset(pairs_of(mp4s(videos)), processor.video_processor.read_clip)
    assert len(clips) == 4
    row = clips[1]
    assert set(row) == {"video", "caption", "video_id", "clip", "bad_videos"} and row["video_id"] == 1
    assert torch.equal(row["clip"], processor.video_processor.read_clip(videos["start.mp4"]))


def test_question_streams(videos, processor):
    class Questions(Counter):
        def __iter__(self):
            yield from ({"question": "red?", "answer": ["a"], "video": row["video"]} for row in super().__iter__())

    stream = Questions(videos["end.mp4"], videos["clip.mkv"], 2)
    [batch] = question_stream_loader(stream, processor, 2, ProcessingArguments())
    assert batch["answers"] == [["a"], ["a"]] and batch["input_ids"].tolist() == [[2, 5]] * 2
    assert batch["videos"] == [str(videos["end.mp4"]), str(videos["clip.mkv"])]


# ---------------------------------------------------------------------------------------------------------------------
# Functions of seed, epoch and place
# ---------------------------------------------------------------------------------------------------------------------


def draw_clip(video, seed, read=None):
    """A reader of no video, which draws a clip from its seed; every fifth video is bad."""
    number = int(video["path"])
    if read is not None:
        read.append(number)
    if number % 5 == 4:
        raise VideoDecodeError(f"{number}: bad")
    return torch.randint(256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(seed))


def collate(rows):
    clips, videos = torch.stack([row["clip"] for row in rows]), [row["video"] for row in rows]
    return {"clips": clips, "videos": videos, "bad_videos": [bad for row in rows for bad in row["bad_videos"]]}


def number_rows(shards):
    for shard in shards:  # of three rows, four, five, …
        for index in range(3 + shard):
            yield {"video": {"path": str(100 * shard + index), "bytes": None}, "caption": "red"}


def rows_of(sample):
    return [sample]


def row_loader(num_workers=0, num_rows=11, batch_size=2, seed=0, read_clip=draw_clip):
    rows = Dataset.from_dict({"video": videos_of(range(num_rows))}, Features(video=VIDEO))
    return RowLoader(ClipDataset(rows, read_clip, "skip", seed), batch_size, collate, num_workers)


def stream_loader(num_workers=0, num_shards=4, batch_size=2, seed=0, read_clip=draw_clip):
    samples = IterableDataset.from_generator(number_rows, gen_kwargs={"shards": list(range(num_shards))})
    stream = ClipStream(ShuffledStream(samples, rows_of, seed, buffer_size=4), read_clip, "skip", seed)
    return StreamLoader(stream, batch_size, collate, num_workers)


def mixed_loader(num_workers=0, seed=0):
    loaders = {"video": row_loader(num_workers, seed=seed), "image": row_loader(num_workers, 7, 3, seed)}
    return MixedLoader(loaders, seed)


def mixed_stream_loader(num_workers=0, seed=0):
    loaders = {"video": stream_loader(num_workers, seed=seed), "image": row_loader(num_workers, 50, 3, seed)}
    return MixedLoader(loaders, seed, {"video": 2, "image": 1})


LOADERS = [row_loader, stream_loader, mixed_loader, mixed_stream_loader]


def epochs_of(loader, epochs=(1, 2)):
    batches = []
    for epoch in epochs:
        loader.set_epoch(epoch)
        batches += list(loader)
    return batches


def assert_same(batch, other):
    assert set(batch) == set(other)
    for name, value in batch.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]


def assert_same_batches(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert_same(batch, other)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("make_loader", LOADERS)
def test_resumes_exactly_after_any_batch(make_loader, num_workers):
    whole, expected, states = make_loader(num_workers), [], []
    for epoch in (1, 2):
        whole.set_epoch(epoch)
        states.append((len(expected), json.dumps(whole.state_dict())))
        for batch in whole:
            expected.append(batch)
            states.append((len(expected), json.dumps(whole.state_dict())))
        states.append((len(expected), json.dumps(whole.state_dict())))
    assert len(expected) >= 10 and any(batch["bad_videos"] for batch in expected)
    for position, state in states[:: 2 if num_workers else 1]:
        state = json.loads(state)
        resumed = make_loader(num_workers)
        resumed.set_epoch(state["epoch"])
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert_same_batches(epochs_of(resumed, range(state["epoch"], 3)), expected[position:])


@pytest.mark.parametrize("make_loader", LOADERS)
def test_a_state_is_resumed_once_and_in_its_own_epoch_only(make_loader):
    first, second = epochs_of(make_loader(), (1,)), epochs_of(make_loader(), (2,))
    loader = make_loader()
    list(islice(loader, 2))
    state = loader.state_dict()
    loader = make_loader()
    loader.load_state_dict(state)
    assert_same_batches(list(loader), first[2:])
    assert_same_batches(list(loader), first)  # from its start
    loader.load_state_dict(state)
    loader.set_epoch(2)
    assert_same_batches(list(loader), second)


@pytest.mark.parametrize("make_loader", LOADERS)
def test_workers_that_live_on_leave_an_epoch_half_read(make_loader):
    loader = make_loader(2)
    batches = epochs_of(loader, (1,))
    for _ in range(2):  # the same epoch again
        assert_same_batches(islice(loader, 2), batches[:2])
        resumed = make_loader(2)
        resumed.load_state_dict(loader.state_dict())
        assert_same_batches(resumed, batches[2:])
    second = epochs_of(loader, (2,))
    assert_same_batches(batches + second, epochs_of(make_loader(2)))
    assert [batch["videos"] for batch in batches] != [batch["videos"] for batch in second]


def global_states():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("make_loader", LOADERS)
def test_global_random_states_have_no_part_and_do_not_change(make_loader, num_workers):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        before = global_states()
        loader = make_loader(num_workers)
        runs.append(epochs_of(loader))
        loader.load_state_dict(loader.state_dict())
        list(loader)
        assert global_states() == before
    assert_same_batches(*runs)
    other = epochs_of(make_loader(num_workers, seed=1))
    assert [batch["videos"] for batch in other] != [batch["videos"] for batch in runs[0]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_real_clips_do_not_depend_on_global_states_nor_workers(videos, processor, num_workers):
    rows, args = pairs_of(mp4s(videos)), ProcessingArguments(num_workers=num_workers)
    expected = epochs_of(pair_loader(rows, processor, 2, ProcessingArguments()))
    assert not torch.equal(expected[0]["clips"], expected[2]["clips"])  # crops are new in each epoch
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    before = global_states()
    assert_same_batches(epochs_of(pair_loader(rows, processor, 2, args)), expected)
    assert len(list(video_loader(rows.select_columns("video"), processor, 3, 2, args))) == 2
    assert global_states() == before


def test_rows_are_the_same_with_any_number_of_workers():
    assert_same_batches(epochs_of(mixed_loader(2)), epochs_of(mixed_loader(0)))
    by_workers = []
    for num_workers in (0, 1, 2):
        batches = epochs_of(stream_loader(num_workers, batch_size=1), (3,))
        by_workers.append({batch["videos"][0]: batch["clips"].tolist() for batch in batches})
    assert by_workers[0] == by_workers[1] == by_workers[2] and len(by_workers[0]) == 3 + 4 + 4 + 5
    other_epoch = {batch["videos"][0]: batch["clips"].tolist() for batch in epochs_of(stream_loader(batch_size=1))}
    assert all(other_epoch[video] != clip for video, clip in by_workers[0].items())


def test_a_bad_video_is_replaced_by_the_same_row():
    batches = epochs_of(row_loader(num_rows=10, batch_size=1), (1, 2, 3))
    replaced = {batch["bad_videos"][0]["video"]: batch["videos"][0] for batch in batches[:10] if batch["bad_videos"]}
    assert set(replaced) == {"4", "9"} and not set(replaced) & set(replaced.values())
    generator = np.random.default_rng((0, 1, 4))  # draws a seed for the clip and another row, in turn
    draws = [int(generator.integers(end)) for end in (2**63, 10) * 10]
    assert replaced["4"] == next(str(row) for row in draws[1::2] if row % 5 != 4)


@pytest.mark.parametrize("make_loader", [row_loader, stream_loader])
def test_resuming_decodes_only_what_it_gives(make_loader):
    read = []
    loader = make_loader(read_clip=partial(draw_clip, read=read))
    list(islice(loader, 3))
    state = loader.state_dict()
    resumed = make_loader(read_clip=partial(draw_clip, read=read))
    resumed.load_state_dict(state)
    read.clear()
    [batch] = islice(resumed, 1)
    assert len(read) == len(batch["videos"]) + len(batch["bad_videos"])


@given(
    num_rows=st.integers(1, 40),
    batch_size=st.integers(1, 8),
    num_processes=st.integers(1, 4),
    seed=st.integers(0, 3),
    epoch=st.integers(1, 3),
    start=st.integers(0, 3),
)
def test_processes_share_the_batches_of_one(num_rows, batch_size, num_processes, seed, epoch, start):
    def batches(batch_size, process_index, num_processes):
        made = ShuffledBatches(num_rows, batch_size, seed, process_index, num_processes)
        made.epoch, made.start = epoch, start
        return list(made), len(made)

    shares, lengths = zip(*(batches(batch_size, index, num_processes) for index in range(num_processes)), strict=True)
    together = [sum(parts, []) for parts in zip(*shares, strict=True)]
    alone, length = batches(batch_size * num_processes, 0, 1)
    assert set(lengths) == {length} and len(together) == max(0, length - start)
    assert {len(batch) for share in shares for batch in share} <= {min(batch_size, -(-num_rows // num_processes))}
    if num_rows >= batch_size * num_processes:
        assert together == alone
    for batch, other in zip(together, alone, strict=True):  # too few rows: the first ones come again
        assert batch == list(islice(cycle(other), len(batch)))
    rows = [row for batch in alone for row, _ in batch]
    assert len(set(rows)) == len(rows) and all(row_epoch == epoch for batch in alone for _, row_epoch in batch)


def test_states_of_other_settings_are_refused():
    states = {make: make(2).state_dict() for make in (row_loader, stream_loader)}
    faults = [
        (stream_loader(0), states[stream_loader], "state: --num_workers was 2, but is 0 now"),
        (row_loader(num_rows=12), states[row_loader], "the number of rows was 11, but is 12 now"),
        (row_loader(batch_size=3), states[row_loader], "rows in a batch of all processes was 2, but is 3 now"),
        (row_loader(seed=1), states[row_loader], "the seed was 0, but is 1 now"),
        (row_loader(), states[stream_loader], "the number of rows was None, but is 11 now"),
    ]
    other = MixedLoader(mixed_loader().loaders | {"text": row_loader()})
    faults.append(
        (other, mixed_loader().state_dict(), r"the mix of media was \[\['video', 1.0\], \['image', 1.0\]\], but")
    )
    two = json.loads(json.dumps(states[stream_loader]))
    two["settings"]["the number of processes"] = 2
    faults.append((stream_loader(2), two, "the number of processes was 2, but is 1 now"))
    for loader, state, message in faults:
        with pytest.raises(InputError, match=message):
            loader.load_state_dict(state)
    row_loader(0).load_state_dict(states[row_loader])  # rows do not depend on workers


def test_mixed_loader_gives_every_batch_once_in_an_order_of_its_own():
    def run(loader, epoch):
        return [(batch["medium"], *batch["videos"]) for batch in epochs_of(loader, (epoch,))]

    loaders = [mixed_loader(seed=seed) for seed in (0, 0, 1)]
    assert [len(loader) for loader in loaders] == [7, 7, 7]
    first, again, other = (run(loader, 1) for loader in loaders)
    assert first == again != other and first != run(loaders[0], 2)
    for medium, loader in loaders[0].loaders.items():
        single = [(medium, *batch["videos"]) for batch in epochs_of(loader, (1,))]
        assert [batch for batch in first if batch[0] == medium] == single and len(single) == len(loader)


def test_mixed_loader_draws_the_medium_by_weight_where_one_is_a_stream():
    loader = mixed_stream_loader()
    with pytest.raises(TypeError):
        len(loader)
    with pytest.raises(TypeError):
        len(stream_loader())
    loader.set_epoch(3)
    drawn = list(islice(loader.schedule(), 3000))
    assert abs(drawn.count("video") / 3000 - 2 / 3) < 0.03
    batches = list(loader)
    media = [batch["medium"] for batch in batches]
    assert media == drawn[: len(media)]
    length = len(epochs_of(loader.loaders["video"], (3,)))
    assert media.count("video") == length and drawn[len(media)] == "video"  # it had no more
    equal = MixedLoader(loader.loaders)
    assert abs(list(islice(equal.schedule(), 3000)).count("video") / 3000 - 1 / 2) < 0.03
    with pytest.raises(ValueError, match="Nothing is drawn"):
        MixedLoader({"video": row_loader()}, weights={"video": 1})


# ---------------------------------------------------------------------------------------------------------------------
# Two processes
# ---------------------------------------------------------------------------------------------------------------------

TWO_PROCESSES = """
import json, sys
import torch
from accelerate import PartialState
from datasets import load_from_disk
from svitt import SViTTProcessor
from svitt.data.loaders import BadVideoReport, MixedLoader, ProcessingArguments, pair_loader, pair_stream_loader
from svitt.distributed import next_of_all

folder = sys.argv[1]
rank = PartialState(cpu=True).process_index

# Each process has bad videos of its own.
report = BadVideoReport(f"{folder}/bad")
report.take_from({"bad_videos": [{"video": f"{rank}.mp4", "error": "bad"}, {"video": "both.mp4", "error": "bad"}]})
num_bad = report.write("train", 1)

processor, args = SViTTProcessor.from_pretrained(folder), ProcessingArguments()
rows = load_from_disk(f"{folder}/rows")
loader = pair_loader(rows, processor, 2, args, seed=5)
epochs = []
for epoch in (1, 2):
    loader.set_epoch(epoch)
    epochs.append(list(loader))

class Stream:  # of six rows in one process, of ten in the other
    epoch = 0
    def set_epoch(self, epoch): pass
    def __iter__(self): return iter([rows[0]] * (6 + 4 * rank))
    def state_dict(self): return {}
    def load_state_dict(self, state): pass

loaders = {"stream": pair_stream_loader(Stream(), processor, 2, args), "rows": loader}
mixed = MixedLoader(loaders, 4, {"stream": 3, "rows": 1})
mixed.set_epoch(1)
batches, media = iter(mixed), []
while (batch := next_of_all(batches)) is not None:
    media.append(batch["medium"])
torch.save({"num_bad": num_bad, "epochs": epochs, "media": media, "length": len(loader)}, f"{folder}/{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_share_batches_and_end_together(videos, processor, damaged, tmp_path):
    good = mp4s(videos)
    pairs_of([*good, damaged, *good]).save_to_disk(tmp_path / "rows")
    processor.save_pretrained(tmp_path)
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(tmp_path / "script.py"), str(tmp_path)]
    launched = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert launched.returncode == 0, launched.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert (first["num_bad"], second["num_bad"]) == (3, 3)
    written = [json.loads(line)["video"] for line in (tmp_path / "bad").read_text().splitlines()]
    assert written == ["0.mp4", "1.mp4", "both.mp4"]

    alone = pair_loader(load_from_disk(tmp_path / "rows"), processor, 4, ProcessingArguments(), seed=5)
    assert first["length"] == second["length"] == len(alone) == 2
    for epoch in (1, 2):
        for batch, *parts in zip(
            epochs_of(alone, (epoch,)), first["epochs"][epoch - 1], second["epochs"][epoch - 1], strict=True
        ):
            for name in ("videos", "bad_videos"):
                assert batch[name] == parts[0][name] + parts[1][name]
            for name in ("clips", "video_ids", "input_ids"):
                assert torch.equal(batch[name], torch.cat([part[name] for part in parts]))

    assert first["media"] == second["media"] == ["rows", "stream", "stream", "stream"]  # then one has no more
