# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Full disks: one sentence, nothing half written, and a second try that succeeds."""

import shutil
import subprocess

import pytest

from svitt.data.packing import pack
from svitt.errors import InputError
from svitt.search import SViTTIndex

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many kB, or mounts it anew with another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes):
        options = f"{'remount,' if folder.is_mount() else ''}rw,size={kilobytes}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


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
