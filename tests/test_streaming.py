# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Streams of shards: every row once, shared out to processes and workers, and resumed at the very next row."""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchdata.stateful_dataloader import StatefulDataLoader

from svitt.data.loaders import ClipStream, StreamLoader
from svitt.data.presets import load_preset
from svitt.data.streaming import load_hub_stream, load_stream
from svitt.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's, with newer torch


def video_bytes(number):
    generator = random.Random(number)
    return generator.randbytes(generator.randrange(1, 2000))


def write_tar(path, samples, extension="mp4"):
    """A shard of samples (key, fields of the JSON), as the tools of WebDataset write it."""
    with tarfile.open(path, "w") as tar:
        for number, fields in samples:
            parts = {"json": json.dumps(fields).encode(), extension: video_bytes(number)}
            for part, data in parts.items():
                member = tarfile.TarInfo(f"{number:05d}.{part}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_parquet(path, samples):
    columns = {"video": [{"bytes": video_bytes(number), "path": "clip.mp4"} for number, _ in samples]}
    columns |= {name: [fields[name] for _, fields in samples] for name in samples[0][1]}
    pq.write_table(pa.table(columns), path, row_group_size=3)


def write_shards(folder, num_shards, extension="tar", first_size=5):
    """Shards of different sizes; sample n has the caption "n". Returns the number of samples."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for shard in range(num_shards):
        samples = [(count + i, {"caption": str(count + i)}) for i in range(first_size + shard)]
        count += len(samples)
        write = write_tar if extension == "tar" else write_parquet
        write(folder / f"train-{shard:05d}-of-{num_shards:05d}.{extension}", samples)
    return count


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Folders of 4 and of 5 shards, by number, and of 3 in Parquet."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder / "4", 4)
    write_shards(folder / "5", 5)
    write_shards(folder / "parquet", 3, "parquet")
    return folder


def captions(rows):
    return [row["caption"] for row in rows]


@pytest.mark.parametrize("pattern", ["4/*.tar", "5/*.tar", "parquet/*.parquet"])
def test_every_row_comes_once_with_its_video(shards, pattern):
    stream = load_stream(f"{shards}/{pattern}", buffer_size=4)
    orders = []
    for epoch in (0, 1, 2):
        stream.set_epoch(epoch)
        rows = list(stream)
        assert sorted(map(int, captions(rows))) == list(range(len(rows))) and len(rows) >= 18
        assert all(row["video"]["bytes"] == video_bytes(int(row["caption"])) for row in rows)
        assert len({row["video_id"] for row in rows}) == len({row["video"]["path"] for row in rows}) == len(rows)
        orders.append(captions(rows))
    assert len(set(map(tuple, orders))) == 3 and orders[0] != sorted(orders[0], key=int)
    again = load_stream(f"{shards}/{pattern}", buffer_size=4)
    again.set_epoch(1)
    assert captions(again) == orders[1]
    assert captions(load_stream(f"{shards}/{pattern}", buffer_size=4, seed=1)) != orders[0]


@settings(max_examples=30, deadline=None)
@given(
    pattern=st.sampled_from(["4/*.tar", "5/*.tar", "parquet/*.parquet"]),
    buffer_size=st.integers(1, 12),
    epoch=st.integers(0, 2),
    stops=st.lists(st.integers(0, 15), max_size=4),
)
def test_resumes_exactly_after_any_row(shards, pattern, buffer_size, epoch, stops):
    def stream(state=None):
        made = load_stream(f"{shards}/{pattern}", buffer_size=buffer_size)
        made.set_epoch(epoch)
        if state is not None:
            made.load_state_dict(json.loads(json.dumps(state)))
        return made

    given_rows, state = [], None
    for count in (*stops, None):
        part = stream(state)
        given_rows += captions(islice(part, count))
        state = part.state_dict()
    assert given_rows == captions(stream())
    assert captions(stream(state)) == []


def test_state_of_another_epoch_is_refused_and_a_new_epoch_begins_at_its_start(shards):
    stream = load_stream(f"{shards}/4/*.tar", buffer_size=4)
    rows = iter(stream)
    next(rows)
    state = stream.state_dict()
    other = load_stream(f"{shards}/4/*.tar", buffer_size=4)
    other.set_epoch(1)
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="of epoch 0, but epoch 1 is set"):
        iter(other)
    stream.set_epoch(1)
    assert stream.state_dict() == {"epoch": 1, "block": 0, "samples": None, "rows_given": 0}


def test_resuming_reads_only_what_it_gives(shards, monkeypatch):
    stream = load_stream(f"{shards}/4/*.tar", buffer_size=100)
    rows = iter(stream)
    for _ in range(20):
        next(rows)
    resumed = load_stream(f"{shards}/4/*.tar", buffer_size=100)
    resumed.load_state_dict(stream.state_dict())
    read = []
    monkeypatch.setattr("svitt.data.streaming.read_member", lambda row: read.append(row) or row)
    assert len(list(resumed)) == len(read) == 26 - 20


def test_a_shard_that_goes_away_is_named(tmp_path):
    write_tar(tmp_path / "a.tar", [(1, {"caption": "x"}), (2, {"caption": "y"})])
    rows = iter(load_stream(str(tmp_path / "a.tar")))
    next(rows)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(InputError, match="a.tar: cannot be read any more"):
        next(rows)


def clip_of(video, seed):
    return hashlib.sha256(video["bytes"]).hexdigest(), seed


def collate(rows):
    return {"rows": [(int(row["caption"]), *row["clip"]) for row in rows]}


def stream_loader(pattern, batch_size, num_workers):
    stream = ClipStream(load_stream(pattern, buffer_size=6), clip_of)
    return StreamLoader(stream, batch_size, collate, num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("pattern", ["5/*.tar", "parquet/*.parquet"])
def test_loaders_resume_exactly(shards, pattern, num_workers):
    whole = stream_loader(f"{shards}/{pattern}", 3, num_workers)
    batches, states = [], []
    for epoch in (1, 2):
        whole.set_epoch(epoch)
        for batch in whole:
            batches.append(batch)
            states.append(whole.state_dict())
    assert len(batches) >= 2 * 5
    for position in range(0, len(batches), 2):
        resumed = stream_loader(f"{shards}/{pattern}", 3, num_workers)
        resumed.load_state_dict(states[position])
        rest = list(resumed)
        if resumed.epoch == 1:
            resumed.set_epoch(2)
            rest += list(resumed)
        assert rest == batches[position + 1 :]


def test_what_is_random_in_a_row_does_not_depend_on_folders_nor_workers(shards, tmp_path):
    shutil.copytree(shards / "4", tmp_path / "moved")
    seeds = []
    for pattern, num_workers in [(shards / "4/*.tar", 0), (tmp_path / "moved/*.tar", 0), (shards / "4/*.tar", 2)]:
        batches = list(stream_loader(str(pattern), 1, num_workers))
        seeds.append({number: seed for batch in batches for number, _, seed in batch["rows"]})
    assert seeds[0] == seeds[1] == seeds[2] and len(set(seeds[0].values())) == len(seeds[0]) == 26


def test_persistent_workers_see_the_epoch(shards):
    stream = load_stream(f"{shards}/4/*.tar", buffer_size=4)
    loader = StatefulDataLoader(stream, batch_size=4, num_workers=1, persistent_workers=True, collate_fn=captions)
    orders = []
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        orders.append([caption for batch in loader for caption in batch])
    alone = load_stream(f"{shards}/4/*.tar", buffer_size=4)
    alone.set_epoch(1)
    assert orders == [captions(load_stream(f"{shards}/4/*.tar", buffer_size=4)), captions(alone)]


# ---------------------------------------------------------------------------------------------------------------------
# Two processes
# ---------------------------------------------------------------------------------------------------------------------

SCRIPT = """
import hashlib, json, sys
from pathlib import Path
from accelerate import PartialState
from svitt.data.loaders import ClipStream, StreamLoader
from svitt.data.streaming import load_stream

phase, shards, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
rank = PartialState(cpu=True).process_index

def clip_of(video, seed):
    return hashlib.sha256(video["bytes"]).hexdigest(), seed

def collate(rows):
    return {"rows": [(int(row["caption"]), *row["clip"]) for row in rows]}

def loader(name, num_workers):
    stream = ClipStream(load_stream(f"{shards}/{name}", buffer_size=6), clip_of)
    made = StreamLoader(stream, 1, collate, num_workers)
    made.set_epoch(2)
    return made

for name in ("4/*.tar", "5/*.tar", "parquet/*.parquet"):
    for num_workers in (0, 2):
        file = out / f"{name[0]}-{num_workers}-{rank}.json"
        if phase == "begin":
            whole = loader(name, num_workers)
            batches = iter(whole)
            begun = [next(batches) for _ in range(5)]
            state = whole.state_dict()
            saved = {"expected": begun + list(batches), "begun": begun, "state": state}
        else:
            saved = json.loads(file.read_text())
            resumed = loader(name, num_workers)
            resumed.load_state_dict(saved.pop("state"))
            saved["resumed"] = list(resumed)
        file.write_text(json.dumps(saved))
"""


def test_two_processes_share_the_rows_and_resume_exactly(shards, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for phase in ("begin", "resume"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += [str(script), phase, str(shards), str(tmp_path)]
        launched = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert launched.returncode == 0, launched.stderr
    for name, count in {"4": 26, "5": 35, "p": 18}.items():
        pattern = {"4": "4/*.tar", "5": "5/*.tar", "p": "parquet/*.parquet"}[name]
        alone = stream_loader(f"{shards}/{pattern}", 1, 0)
        alone.set_epoch(2)
        rows = sorted(row for batch in alone for row in batch["rows"])
        assert [row[:2] for row in rows] == [
            (number, hashlib.sha256(video_bytes(number)).hexdigest()) for number in range(count)
        ]
        for num_workers in (0, 2):
            ranks = [json.loads((tmp_path / f"{name}-{num_workers}-{rank}.json").read_text()) for rank in (0, 1)]
            for rank in ranks:
                assert rank["begun"] + rank["resumed"] == rank["expected"], (name, num_workers)
            shares = [[tuple(row) for batch in rank["expected"] for row in batch["rows"]] for rank in ranks]
            # Disjoint, nothing lost, nothing twice, every video with the right bytes, and the seed it has alone.
            assert sorted(shares[0] + shares[1]) == rows, (name, num_workers)
            assert min(map(len, shares)) >= count // 3


# ---------------------------------------------------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------------------------------------------------


def test_several_captions_and_ids_by_video_or_caption(tmp_path):
    write_tar(tmp_path / "a.tar", [(1, {"caption": ["x", "y"], "video": "x.mp4"}), (2, {"caption": "x"})])
    for match_by, groups in {
        "video": [("x", 1), ("y", 1), ("x", 2)],
        "caption": [("x", 1), ("y", 2), ("x", 1)],
    }.items():
        rows = list(load_stream(str(tmp_path / "a.tar"), match_by=match_by, buffer_size=1))
        ids = {row_id: number for number, row_id in enumerate(dict.fromkeys(row["video_id"] for row in rows), start=1)}
        assert sorted((row["caption"], ids[row["video_id"]]) for row in rows) == sorted(groups)
        assert all(0 <= row["video_id"] < 2**63 for row in rows)


def test_texts_beside_images_and_columns_of_other_names(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in {"a/1.jpg": b"jpg", "a/1.txt": b"caf\xc3\xa9", "README": b"no sample"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    [row] = load_stream(str(tmp_path / "a.tar"))
    assert (row["caption"], row["video"]["bytes"]) == ("café", b"jpg")
    assert row["video"]["path"] == f"{tmp_path}/a.tar/a/1.jpg"
    write_tar(tmp_path / "b.tar", [(1, {"title": "x"})])
    assert captions(load_stream(str(tmp_path / "b.tar"), columns={"caption": "json.title", "video": "mp4"})) == ["x"]


def test_questions(tmp_path):
    one = {"question": "what?", "answer": ["cat", "cat"], "question_id": "q1", "question_type": "object"}
    several = {"question": ["who?", "why?"], "answer": [["man"], ["fun", "joy"]], "question_id": [2, 3]}
    write_tar(tmp_path / "a.tar", [(1, one), (2, several)])
    rows = sorted(load_stream(str(tmp_path / "a.tar"), kind="questions"), key=lambda row: row["question"])
    videos = [row.pop("video")["bytes"] for row in rows]
    assert videos == [video_bytes(1), video_bytes(2), video_bytes(2)]
    assert rows == [
        one | {"question_type": ["object"]},
        {"question": "who?", "answer": ["man"], "question_id": 2},
        {"question": "why?", "answer": ["fun", "joy"], "question_id": 3},
    ]
    write_tar(tmp_path / "b.tar", [(1, one | {"question": "???"})])
    with pytest.raises(InputError, match=r"b.tar, row \d+: `question` must be a string that is not blank"):
        list(load_stream(str(tmp_path / "b.tar"), kind="questions"))


def test_shards_of_a_preset_and_of_the_hub(shards, tmp_path):
    (tmp_path / "own.yaml").write_text(
        f"splits: {{train: {{shards: '{shards}/4/*.tar'}}, hub: {{hub: '{shards}/parquet', hub_split: train}}}}"
    )
    splits = load_preset("pretraining", tmp_path / "own.yaml").splits
    assert sorted(map(int, captions(splits["train"].stream(buffer_size=3)))) == list(range(26))
    rows = list(splits["hub"].stream(buffer_size=3))
    assert sorted(map(int, captions(rows))) == list(range(18)) == list(range(len({row["video_id"] for row in rows})))
    assert all(row["video"]["bytes"] == video_bytes(int(row["caption"])) for row in rows)
    with pytest.raises(InputError, match="shards can only be streamed"):
        splits["train"].load()


# ---------------------------------------------------------------------------------------------------------------------
# Damaged shards
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["tar", "parquet"])
def test_damaged_shards_are_named(shards, tmp_path, extension):
    write_shards(tmp_path, 3, extension)
    damaged = tmp_path / f"train-00001-of-00003.{extension}"
    whole = damaged.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for size in (0, 100, end // 3, end // 2, end * 9 // 10, end - 1):
        damaged.write_bytes(whole[:size])
        with pytest.raises(InputError) as raised:
            list(load_stream(f"{tmp_path}/*.{extension}"))
        assert str(damaged) in str(raised.value) and "\n" not in str(raised.value)


def test_damaged_headers_of_a_tar_do_not_end_it_silently(tmp_path):
    count = write_shards(tmp_path, 1)
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    with tarfile.open(file) as tar:
        headers = [member.offset for member in tar]
    assert len(list(load_stream(str(file)))) == count
    for offset in headers:
        file.write_bytes(whole[: offset + 20] + bytes([whole[offset + 20] ^ 255]) + whole[offset + 21 :])
        with pytest.raises(InputError, match="damaged or cut off"):
            list(load_stream(str(file)))
    for content in (whole.rstrip(b"\0"), whole + whole):  # without its end; two archives, of which one would be lost
        file.write_bytes(content)
        with pytest.raises(InputError, match="damaged or cut off"):
            list(load_stream(str(file)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"caption": " "}, "a.tar, row 1: `caption` must be a string or a list of strings"),
        ({}, "a.tar, row 1: `caption` is missing"),
        ([], "a.tar: damaged or cut off .*00001.json holds no JSON object"),
    ],
)
def test_faults_of_samples(tmp_path, fields, message):
    write_tar(tmp_path / "a.tar", [(1, fields)])
    with pytest.raises(InputError, match=message):
        list(load_stream(str(tmp_path / "a.tar")))


def test_faults_of_shards(tmp_path):
    write_tar(tmp_path / "a.tar", [(1, {"caption": "x"})])
    write_parquet(tmp_path / "b.parquet", [(1, {"caption": "x"})])
    for pattern, message in [("*", "must be all .tar or all .parquet"), ("c*.tar", "no such"), ("c.tar", "no such")]:
        with pytest.raises(InputError, match=message):
            load_stream(f"{tmp_path}/{pattern}")
    with pytest.raises(InputError, match="a.tar, row 1: `webm` must be an embedded file"):
        list(load_stream(f"{tmp_path}/a.tar", columns={"video": "webm"}))
    with pytest.raises(InputError, match="split train: cannot be loaded"):
        load_hub_stream(str(tmp_path / "none"), "train")
