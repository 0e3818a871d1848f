# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Indexers that are killed, or come in twos."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from svitt.search import SViTTIndex

pytestmark = pytest.mark.slow


def rows_of(index):
    index.table.table.checkout_latest()
    rows = index.table.table.search().limit(100_000).to_list()
    return {(row["video"], row["number"]): np.array(row["embedding"]) for row in rows}


def assert_same_rows(index, expected):
    actual = rows_of(index)
    assert actual.keys() == expected.keys()
    for key, embedding in expected.items():
        np.testing.assert_allclose(actual[key], embedding, atol=1e-5)


def indexer(folder, model, videos, batch_size, num_processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    command = [*(launcher if num_processes > 1 else []), __file__, folder, model, videos, str(batch_size)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *map(str, command)], env=environment)


@pytest.mark.parametrize("num_processes", [2, 3])
def test_several_processes_make_the_index_of_one(demo, tmp_path, num_processes):
    videos = demo / "data/videos"
    one = SViTTIndex.create(tmp_path / "one", str(demo / "model"))
    one.add([videos])
    assert indexer(tmp_path / "other", demo / "model", videos, 2, num_processes).wait(timeout=600) == 0
    assert_same_rows(SViTTIndex.open(tmp_path / "other"), rows_of(one))


@pytest.mark.parametrize("place", ["folder", "store"])
def test_several_machines_make_the_index_of_one(demo, tmp_path, request, place):
    """Two launches that meet at an address, in a folder that both see, or in a store with the videos as well."""
    videos, folder = str(demo / "data/videos"), str(tmp_path / "other")
    one = SViTTIndex.create(tmp_path / "one", str(demo / "model"))
    one.add([videos])
    if place == "store":
        bucket, files = request.getfixturevalue("bucket"), request.getfixturevalue("server")[1]
        files.put(videos, f"{bucket}/videos", recursive=True)
        videos, folder = f"{bucket}/videos", f"{bucket}/index"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2", "--num_processes", "2"]
    launch += ["--main_process_ip", "127.0.0.1", "--main_process_port", port, "--machine_rank"]
    index = ["-m", "svitt.cli", "index", videos, "--index", folder, "--model", demo / "model"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, *launch, rank, *index, "--batch_size", 2, "--num_workers", 1] for rank in (0, 1)]
    nodes = [subprocess.Popen(list(map(str, command)), env=environment) for command in commands]
    assert [node.wait(timeout=600) for node in nodes] == [0, 0]
    other = SViTTIndex.open(folder)
    assert len(other) == len(one)
    expected = {name.rpartition("/")[2]: rows for (name, _), rows in rows_of(one).items()}
    actual = {name.rpartition("/")[2]: rows for (name, _), rows in rows_of(other).items()}
    assert actual.keys() == expected.keys()
    for name, embedding in expected.items():
        np.testing.assert_allclose(actual[name], embedding, atol=1e-5)


def test_an_indexer_that_is_killed_loses_the_batch_in_its_hand(demo, tmp_path):
    videos = demo / "data/videos"
    whole = SViTTIndex.create(tmp_path / "whole", str(demo / "model"))
    whole.add([videos])
    folder, rng, before = tmp_path / "killed", random.Random(0), 0
    seen = SViTTIndex.create(folder, str(demo / "model"))
    for _ in range(2):
        process = indexer(folder, demo / "model", videos, 1)
        while len(seen) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        rows = rows_of(seen)  # readable at once, and what is there stays
        assert len(rows) > before or len(rows) == len(whole)
        assert all(np.allclose(embedding, rows_of(whole)[key], atol=1e-5) for key, embedding in rows.items())
        before = len(rows)
    report = seen.add([videos])
    assert report.num_spans == len(whole) - before and len(report.unchanged) == before
    assert_same_rows(seen, rows_of(whole))


if __name__ == "__main__":
    name, model, videos, batch_size = sys.argv[1:]
    SViTTIndex.create(name, model).add([videos], int(batch_size))
