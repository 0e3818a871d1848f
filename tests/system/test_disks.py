# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Full disks: one sentence, nothing half written, and a second try that succeeds."""

import shutil

import pytest

from svitt.data.packing import pack
from svitt.errors import InputError
from svitt.search import SViTTIndex

pytestmark = pytest.mark.slow


def test_a_disk_too_full_for_shards(demo, small_disk):
    disk = small_disk(40)
    args = str(demo / "data/videos"), [str(demo / "data/train.json")], str(disk / "out")
    with pytest.raises(InputError, match=f"{disk}/out.*: cannot be written"):
        pack(*args, samples_per_shard=2, num_workers=1)
    small_disk(10_000)
    pack(*args, samples_per_shard=2, num_workers=1)
    assert len(list((disk / "out").glob("train-*.tar"))) == 8


def test_a_disk_too_full_for_an_index(demo, small_disk):
    disk = small_disk(200)
    index = SViTTIndex.create(disk / "index", str(demo / "model"))
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 8192))
    with pytest.raises(InputError, match="index: cannot be written"):
        index.add([demo / "data/videos"], batch_size=4)
    small_disk(10_000)
    assert set(SViTTIndex.open(disk / "index").add([demo / "data/videos"]).bad) == set()
