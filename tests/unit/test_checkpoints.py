# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Checkpoints of strangers: what torch.save wrote is read, what runs code, crashes or fills the memory is refused."""

import argparse
import collections
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from svitt.conversion.pickles import plain, read_checkpoint, weights_of
from svitt.errors import InputError

FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


# ---- What is read


class Settings(dict):
    """A subclass of dict, of a module that a reader need not have."""


CONFIGS = {
    "OmegaConf": lambda values: OmegaConf.create(values),
    "namespace": lambda values: argparse.Namespace(**values),
    "subclass of dict": lambda values: Settings(values),
    "default dict": lambda values: collections.defaultdict(dict, values),
    "dict": dict,
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_weights_and_configurations_are_read(kind, form, tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "half": torch.randn(3, 2).half(),
        "bfloat16": torch.randn(5).bfloat16(),
        "integers": torch.arange(7),
        "scalar": torch.tensor(0.07),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "view": base[1:3, ::2],
        "transposed": base.t(),
    }
    config = {"image_res": 32, "video_input": {"num_frames": 3}, "drops": [1, 2], "rate": 0.5, "name": None}
    model = torch.nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    (optimizer := torch.optim.AdamW(model.parameters())).step()
    others = {"best": np.float64(0.5), "path": tmp_path, "seen": {1, 2}, "epoch": 9}
    others["optimizer"] = optimizer.state_dict()
    torch.save({"model": tensors, "config": CONFIGS[kind](config), **others}, tmp_path / "x.pth", **FORMATS[form])
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert plain(checkpoint["config"]) == config
    assert checkpoint["seen"] == {1, 2}
    assert torch.equal(checkpoint["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    weights = weights_of(tmp_path / "x.pth", checkpoint)
    for name, tensor in tensors.items():
        assert weights[name].dtype == tensor.dtype and torch.equal(weights[name], tensor), name


def test_reading_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "surprise.py").write_text("class Config: pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "x.pth").write_bytes(legacy(config(b"csurprise\nConfig\n)\x81")))
    assert plain(read_checkpoint(tmp_path / "x.pth")["config"]) == {} and "surprise" not in sys.modules


# ---- What is refused


class Call:
    """Pickles as a call, as `pickle` writes it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touch(path):
    pathlib.Path(path).touch()


def calls(marker: str) -> dict:
    return {
        "getattr": Call(getattr, Call(pathlib.Path, marker), "touch"),
        "function of an unknown module": Call(touch, marker),
        "pickle in a pickle": Call(pickle.loads, pickle.dumps(Call(touch, marker))),
        "torch's pickle in a pickle": Call(torch.storage._load_from_bytes, pickle.dumps(Call(touch, marker))),
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("call", calls(""))
def test_calls_are_refused_wherever_they_are(call, form, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "x.pth"
    payload = calls(str(marker))[call]
    for checkpoint in ({"model": {"x": payload}}, {"config": [payload]}, payload, {"epoch": {"deep": [{0: payload}]}}):
        torch.save(checkpoint, path, **FORMATS[form])
        with pytest.raises(InputError, match="x.pth: is refused") as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value) and not marker.exists()


def archive(pickled: bytes, compression=zipfile.ZIP_STORED, **records: bytes):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        for record, data in ({"data.pkl": pickled, "data/0": bytes(16), "version": b"3\n"} | records).items():
            file.writestr(f"archive/{record}", data)
    return content.getvalue()


def legacy(pickled: bytes, keys=(), data: bytes = b"") -> bytes:
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps(list(keys), 2) + data


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def weight(num_elements: int, size: tuple, stride: tuple) -> bytes:
    """A checkpoint with one tensor, of a storage of so many floats."""
    kind = b"ctorch\nFloatStorage\n"
    storage = b"(" + text("storage") + kind + text("0") + text("cpu") + integer(num_elements) + b"tQ"
    shapes = b"".join(b"(" + b"".join(map(integer, values)) + b"t" for values in (size, stride))
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    tensor = rebuild + b"(" + storage + integer(0) + shapes + b"\x89" + b"Nt" + b"R"
    return b"\x80\x02}" + text("model") + b"}" + text("temp") + tensor + b"ss."


def config(value: bytes) -> bytes:
    return b"\x80\x02}" + text("config") + value + b"s."


def hostile_files() -> dict[str, bytes]:
    huge, good = 2**40, weight(4, (), ())
    laughs = b"]q\x000" + b"".join(b"](h%ch%ceq%c0" % (n, n, n + 1) for n in range(40)) + b"h%c" % 40
    return {
        "huge storage": archive(weight(huge, (huge,), (1,))),
        "huge storage of a legacy file": legacy(weight(huge, (huge,), (1,)), ["0"], struct.pack("<Q", huge)),
        "one number a billion times": archive(weight(4, (2**34,), (0,))),
        "byte array": archive(config(b"cbuiltins\nbytearray\n" + integer(2**36) + b"\x85R")),
        "zip bomb": archive(config(b"0" * 2**27), compression=zipfile.ZIP_DEFLATED),
        "two pickles": archive(good, **{"other/data.pkl": good}),
        "a mark a byte": legacy(b"\x80\x02" + b"(" * 10**7 + b"."),
        "tuples of tuples as a key": archive(config(b"}" + b")" + b"\x85" * 3 * 10**5 + b"Ns")),
        "lists of lists": archive(config(laughs)),
        "a list in itself": archive(config(b"]q\x00h\x00a")),
        "a text of a terabyte": archive(config(b"\x8d" + struct.pack("<Q", huge))),
        "no end": archive(b"\x80\x02}"),
        "no dict": archive(b"\x80\x02]."),
        "whole file cut off": archive(good)[:-100],
        "text": b"no checkpoint",
        "sparse": saved({"temp": torch.eye(2).to_sparse()}),
        "quantized": saved({"temp": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}),
        "objects": saved({"temp": np.array([Call(os.system, "true")], dtype=object)}),
        "no weights": saved({"temp": 3}),
    }


def saved(weights: dict) -> bytes:
    content = io.BytesIO()
    torch.save({"model": weights}, content)
    return content.getvalue()


# Prints the sentence about each file, and by how much the peak of memory rose.
READ_ALL = """
import json, resource, sys
from svitt.conversion.pickles import plain, read_checkpoint, weights_of
from svitt.errors import InputError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

for path in sys.argv[1:]:
    before, sentence = peak(), None
    try:
        checkpoint = read_checkpoint(path)
        plain(checkpoint.get("config"))
        weights_of(path, checkpoint)
    except (InputError, ValueError, RecursionError) as error:  # the last two from `plain`
        sentence = str(error)
    print(json.dumps([sentence, peak() - before]), flush=True)
"""


def test_hostile_and_damaged_files_are_refused_without_harm(tmp_path):
    files = hostile_files()
    for number, content in enumerate(files.values()):
        (tmp_path / f"{number}.pth").write_bytes(content)
    paths = [str(tmp_path / f"{number}.pth") for number in range(len(files))]
    child = subprocess.run([sys.executable, "-c", READ_ALL, *paths], capture_output=True, text=True, timeout=500)
    lines = child.stdout.splitlines()
    assert child.returncode == 0, (list(files)[len(lines)], child.stderr[-2000:])
    for name, path, line in zip(files, paths, lines, strict=True):
        sentence, num_bytes = json.loads(line)
        assert sentence and sentence.isprintable() and len(sentence) < 1000, name
        assert path in sentence or "too many values" in sentence or "recursion" in sentence, (name, sentence)
        assert num_bytes < 600 * 2**20, (name, num_bytes)
    assert sorted(map(str, tmp_path.iterdir())) == sorted(paths)  # nothing was unpacked
