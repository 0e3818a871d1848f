# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Checkpoints made to run code, crash, or fill the memory: each is refused in one sentence, nothing is run."""

import builtins
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from functools import cache

import numpy as np
import pytest
import torch

from svitt.checkpoint_reader import MAX_OTHER_KEYS, MAX_PICKLE_BYTES, Stub, read_checkpoint

from .test_conversion import FORMATS, original_config, original_weights, save_original, tokenizer_folder  # noqa: F401 (a fixture)

# ---------------------------------------------------------------------------------------------------------------------
# Calls, as `pickle` writes them
# ---------------------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class CallsWithState(Call):
    def __reduce__(self):
        return (*self.call, {"state": 1})


def touch(path):
    pathlib.Path(path).touch()


def calls(marker) -> dict:
    code = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    return {
        "os.system": Call(os.system, f"touch {marker}"),
        "eval": Call(eval, f"__import__('pathlib').Path({str(marker)!r}).touch()"),
        "exec": Call(exec, code),
        "open": Call(builtins.open, str(marker), "w"),
        "popen": Call(subprocess.Popen, ["touch", str(marker)]),
        "getattr": Call(getattr, Call(pathlib.Path, str(marker)), "touch"),
        "own function": Call(touch, str(marker)),
        "with state": CallsWithState(touch, str(marker)),
        "torch": Call(torch.storage._load_from_bytes, pickle.dumps(Call(touch, str(marker)))),
        "pickle in a pickle": Call(pickle.loads, pickle.dumps(Call(touch, str(marker)))),
    }


@pytest.mark.parametrize("place", ["top", "model", "config"])
@pytest.mark.parametrize("kwargs", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("call", calls("/nowhere"))
def test_calls_are_refused(call, kwargs, place, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "x.pth"
    payload = calls(marker)[call]
    checkpoint = {"model": {"weight": torch.zeros(2)}, "config": {"temp": 0.07}, "epoch": 1}
    if place == "top":
        checkpoint["epoch"] = payload
    else:
        checkpoint[place] = {**checkpoint[place], "nested": payload}
    torch.save(checkpoint, path, **kwargs)
    with pytest.raises(ValueError, match=r"x.pth is refused: it calls `[\w.]+`"):
        read_checkpoint(path)
    assert not marker.exists()


def test_the_calls_above_are_made_by_others(tmp_path):
    torch.save({"epoch": calls(tmp_path / "marker")["os.system"]}, tmp_path / "x.pth")
    torch.load(tmp_path / "x.pth", weights_only=False)
    assert (tmp_path / "marker").exists()


def test_reading_does_not_import(tmp_path):
    (tmp_path / "surprise.py").write_text("class Config: pass\nprint('imported')")
    pickled = b"\x80\x02}X\x06\x00\x00\x00configcsurprise\nConfig\n)\x81s."
    (tmp_path / "x.pth").write_bytes(legacy(pickled))
    sys.path.insert(0, str(tmp_path))
    try:
        assert isinstance(read_checkpoint(tmp_path / "x.pth")["config"], Stub)
    finally:
        sys.path.remove(str(tmp_path))
    assert "surprise" not in sys.modules


# ---------------------------------------------------------------------------------------------------------------------
# Files made by hand
# ---------------------------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def storage(num_elements: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    """As it is referred to by a tensor."""
    parts = [text("storage"), name("torch", kind), text(key), text("cpu"), integer(num_elements)]
    return b"(" + b"".join(parts) + b"tQ"


def integer(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def tensor(num_elements: int, offset: int, size: tuple, stride: tuple, **kwargs) -> bytes:
    shapes = [b"(" + b"".join(map(integer, values)) + b"t" for values in (size, stride)]
    arguments = storage(num_elements, **kwargs) + integer(offset) + b"".join(shapes) + b"\x89" + b"Nt"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"R"


def weights(value: bytes, key: str = "temp") -> bytes:
    """A checkpoint with one weight."""
    return b"\x80\x02}" + text("model") + b"}" + text(key) + value + b"ss."


def nested(depth: int, opcode: bytes) -> bytes:
    return b")" + opcode * depth


def setting(value: bytes) -> bytes:
    """A checkpoint with a good weight and a configuration."""
    good = text("model") + b"}" + text("temp") + tensor(4, 0, (), ()) + b"s"
    return b"\x80\x04}(" + good + text("config") + value + b"u."


def archive(pickled: bytes, records=None, prefix="archive/", compression=zipfile.ZIP_STORED) -> bytes:
    """A checkpoint in the format of today; storage "0" has four numbers."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        for record, data in {"data.pkl": pickled, "version": b"3\n", "data/0": bytes(16), **(records or {})}.items():
            file.writestr(prefix + record, data)
    return content.getvalue()


def legacy(pickled: bytes, keys=(), after: bytes = b"") -> bytes:
    """A checkpoint in the format of PyTorch before 1.6."""
    heads = b"".join(pickle.dumps(head, 2) for head in (0x1950A86A20F9469CFC6C, 1001, {}))
    return heads + pickled + pickle.dumps(list(keys), 2) + after


def claiming(content: bytes, record: str, size: int) -> bytes:
    """An archive that says, in its directory and before the record itself, that one is of another size."""
    damaged, encoded = bytearray(content), record.encode()
    for signature, place, name_at in ((b"PK\x03\x04", 18, 30), (b"PK\x01\x02", 20, 46)):
        start = content.find(signature)
        while content[start + name_at : start + name_at + len(encoded)] != encoded:
            start = content.index(signature, start + 1)
        damaged[start + place : start + place + 8] = struct.pack("<II", size, size)
    return bytes(damaged)


def tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        for record in ("sys_info", "pickle", "storages", "tensors"):
            file.addfile(tarfile.TarInfo(record), io.BytesIO())
    return content.getvalue()


def quantized() -> bytes:
    content = io.BytesIO()
    torch.save({"model": {"temp": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}}, content)
    return content.getvalue()


def sparse() -> bytes:
    content = io.BytesIO()
    torch.save({"model": {"temp": torch.eye(2).to_sparse()}}, content)
    return content.getvalue()


def objects() -> bytes:
    content = io.BytesIO()
    torch.save({"model": {"temp": np.array([Call(os.system, "true")], dtype=object)}}, content)
    return content.getvalue()


def saved(more: dict, **settings) -> bytes:
    """A whole model, with other weights or settings besides."""
    content = io.BytesIO()
    save_original({"model": original_weights("retrieval") | more, "config": original_config(**settings)}, content)
    return content.getvalue()


def laughs(depth: int = 40) -> bytes:
    """Lists of twice the list before: 2 ** depth values when they are written out."""
    return b"]q\x000" + b"".join(b"](h%ch%ceq%c0" % (n, n, n + 1) for n in range(depth)) + b"h%c" % depth


@cache
def hostile_files(marker) -> dict[str, tuple[str, bytes]]:
    """Of each, what its sentence says and its content."""
    shell = text(f"touch {marker}")
    not_readable, refused, no_weights = "is not a readable checkpoint", "is refused: it calls", "has no dict of weights"
    no_key, no_container = "a key that is no text", "as if it were a container"
    system = name("os", "system")
    popen = name("subprocess", "Popen")
    command = b"](" + text("touch") + text(str(marker)) + b"e"
    hidden = b"}" + text("__setstate__") + system + b"s"  # as a state: a method of its own
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    huge = 2**40
    good = tensor(4, 0, (), ())
    shared = b"".join(text(f"{n}") + tensor(2**18, 0, (2**18,), (1,), key="1") for n in range(1000))
    column, row = (tensor(1024, 0, size, (1, 1), key="1", kind="LongStorage") for size in ((1024, 1), (1, 1024)))
    indices = {"data/1": bytes(2**13)}
    many = b"(" + b"N" * 10**5 + b"tq\x000"  # a tuple, by the number 0
    of_a_class = storage(4, kind="system").replace(b"torch\n", b"os\n")
    return {
        # Functions by all ways to name and to call them.
        "STACK_GLOBAL": (refused, archive(weights(text("os") + text("system") + b"\x93" + shell + b"\x85R"))),
        "STACK_GLOBAL of the memo": (
            refused,
            archive(weights(text("os") + b"\x940" + text("system") + b"\x940h\x00h\x01\x93" + shell + b"\x85R")),
        ),
        "path of attributes": (
            refused,
            archive(weights(text("posixpath") + text("os.system") + b"\x93" + shell + b"\x85R")),
        ),
        "INST": (refused, archive(weights(b"(" + shell + b"ios\nsystem\n"))),
        "OBJ": (refused, archive(weights(b"(" + system + shell + b"o"))),
        "NEWOBJ": (no_weights, archive(weights(popen + b"(" + command + b"t\x81"))),
        "NEWOBJ_EX": (no_weights, archive(weights(popen + b"(" + command + b"t}\x92"))),
        "BUILD of a function": ("sets the state of", archive(weights(rebuild + hidden + b"b"))),
        "BUILD of a class": ("sets the state of", archive(weights(popen + hidden + b"b"))),
        "BUILD of a tensor": ("sets the state of", archive(weights(good + b"(" + storage(4) + b"K\x00))tb"))),
        "BUILD with a method": (no_weights, archive(weights(name("x", "Y") + b")\x81" + hidden + b"b"))),
        "BUILD that hides methods": (
            "none at all",
            archive(b"\x80\x02" + name("collections", "OrderedDict") + b")RN}" + text("get") + system + b"s\x86b."),
        ),
        "call of what was made": (not_readable, archive(weights(name("numpy", "ndarray") + b")R)R"))),
        "EXT1": ("opcode", archive(weights(b"\x82\x01"))),
        "EXT4": ("opcode", archive(weights(b"\x84\x01\x00\x00\x00"))),
        "opcode that is none": ("opcode", archive(weights(b"\xff"))),
        "PERSID": ("no storage", archive(weights(b"P../../etc/passwd\n"))),
        "BINPERSID": ("no storage", archive(weights(text("module") + system + b"\x86Q"))),
        "storage of a class": (
            "unknown kind",
            archive(weights(of_a_class)),
        ),
        "numbers as objects": (refused, objects()),
        "quantized": ("unknown kind", quantized()),
        "sparse": (refused, sparse()),
        # Texts.
        "half a character": (no_weights, archive(weights(text("\ud800"), key="\ud800"))),
        "escape sequence": ("names of weights", archive(weights(good, key="\x1b[2J\r\n\u202e"))),
        "path as a key": (not_readable, archive(weights(tensor(4, 0, (), (), key="../../../../etc/passwd")))),
        # Claims.
        "BINUNICODE8": (not_readable, archive(weights(b"\x8d" + struct.pack("<Q", huge)))),
        "BINUNICODE8 beyond all": (not_readable, archive(weights(b"\x8d" + struct.pack("<Q", 2**64 - 1)))),
        "BINBYTES8": (not_readable, archive(weights(b"\x8e" + struct.pack("<Q", huge)))),
        "BYTEARRAY8": ("opcode", archive(weights(b"\x96" + struct.pack("<Q", 2**36)))),
        "LONG4": (not_readable, archive(weights(b"\x8b" + struct.pack("<i", 2**31 - 1)))),
        "LONG4 of a negative length": (not_readable, archive(weights(b"\x8b" + struct.pack("<i", -1)))),
        "FRAME": ("none at all", archive(b"\x80\x04\x95" + struct.pack("<Q", huge) + b"}.")),
        "memo of billions": (no_weights, archive(weights(b"Nr" + struct.pack("<I", 2**31)))),
        "memo of nothing": (not_readable, archive(weights(b"h\x07"))),
        "storage of billions": ("instead of", archive(weights(tensor(huge, 0, (huge,), (1,))))),
        "storage of less than nothing": ("instead of", archive(weights(tensor(-4, 0, (), ())))),
        "legacy storage of billions": ("larger than the file", legacy(weights(tensor(huge, 0, (huge,), (1,))))),
        "legacy storage that is not there": (
            not_readable,
            legacy(weights(tensor(4, 0, (), ())), ["0"], struct.pack("<Q", 4) + bytes(8)),
        ),
        "size outside": (not_readable, archive(weights(tensor(4, 0, (5,), (1,))))),
        "offset outside": (not_readable, archive(weights(tensor(4, 2**62, (1,), (1,))))),
        "negative offset": (not_readable, archive(weights(tensor(4, -1, (1,), (1,))))),
        "negative stride": (not_readable, archive(weights(tensor(4, 3, (4,), (-1,))))),
        "stride of nothing": ("larger than what it stores", archive(weights(tensor(4, 0, (huge,), (0,))))),
        "one storage a thousand times": (
            "larger than what it stores",
            archive(b"\x80\x02}" + text("model") + b"}(" + shared + b"us.", {"data/1": bytes(2**20)}),
        ),
        "layer of billions": (
            "not of all before",
            saved({"vision_encoder.encoder.layer.999999999.x": torch.zeros(1)}),
        ),
        # Nesting.
        "tuples as a key": (no_key, archive(setting(b"}" + nested(3 * 10**5, b"\x85") + b"Ns"))),
        "tuples in a set": (no_key, archive(setting(b"\x8f(" + nested(3 * 10**5, b"\x85") + b"\x90"))),
        "tuples as a frozen set": (no_key, archive(setting(b"(" + nested(3 * 10**5, b"\x85") + b"\x91"))),
        "tuples of an ordered dict": (
            no_key,
            archive(setting(name("collections", "OrderedDict") + b"]" + nested(3 * 10**5, b"\x85") + b"N\x86a\x85R")),
        ),
        "tuples in a setting": ("nested", archive(setting(nested(3 * 10**5, b"\x85")))),
        "objects in a setting": (
            "has no `vision_model",
            archive(setting((name("x", "Y") + b")\x81}" + text("_val")) * 20000 + b"N" + b"sb" * 20000)),
        ),
        "lists of lists": ("nested", archive(setting(laughs()))),
        "list in itself": ("nested", archive(setting(b"]q\x00h\x00a"))),
        "object of itself": ("nested", archive(setting(name("x", "Y") + b")\x81q\x00}" + text("_val") + b"h\x00sb"))),
        "list as a key": (not_readable, archive(setting(b"}]Ns"))),
        "numbers as names": (no_weights, archive(b"\x80\x02}" + text("model") + b"}K\x01" + good + b"ss.")),
        "settings of wrong types": ("none of an original model", saved({}, video_input=[4])),
        "settings of wrong types in lists": (
            "none of an original model",
            saved({}, vision_encoder_args={"token_drop_loc": 5}),
        ),
        "settings of an unknown activation": (
            "`hidden_act` must be one of",
            saved({}, vision_encoder_args={"hidden_act": "x"}),
        ),
        "settings that are not finite": (
            "`initializer_range` must be a finite",
            saved({}, text_encoder_args={"initializer_range": float("nan")}),
        ),
        "settings too large": (
            "`layer_scale_init_value` must be",
            saved({}, vision_encoder_args={"layer_scale_init_value": 10**30}),
        ),
        # Many small things.
        "a set a byte": ("holds a set", archive(b"\x80\x04" + b"\x8f" * (MAX_PICKLE_BYTES - 3) + b".")),
        "a mark a byte": (not_readable, archive(b"\x80\x04" + b"(" * (MAX_PICKLE_BYTES - 3) + b".")),
        "a class a byte": (
            "more than 1000 classes",
            archive(b"\x80\x04" + b"".join(b"cx\n%d\n" % n for n in range(10**5)) + b"."),
        ),
        "sizes copied again and again": (
            "its calls copy more than",
            archive(setting(many + b"(" + name("torch", "Size") + b"q\x010" + b"h\x01h\x00\x85R" * 2500 + b"t")),
        ),
        "set of a tensor": (
            "makes a container of a Tensor",
            archive(setting(name("builtins", "set") + good + b"\x85R")),
        ),
        "arguments of a tensor": ("has no arguments", archive(setting(name("collections", "deque") + good + b"R"))),
        "one long tuple as arguments": ("or more than", archive(setting(many + name("x", "Y") + b"h\x00\x81"))),
        "items of a tensor, set one by one": (
            no_container,
            archive(setting(column + b"(" + column + row + b"tK\x01s"), indices),
        ),
        "items of a tensor": (no_container, archive(setting(column + b"(" + row + b"K\x01u"), indices)),
        "a tensor as a set": (no_container, archive(setting(column + b"(" + row + b"\x90"), indices)),
        "a tensor as a list": (no_container, archive(setting(good + b"Na"))),
        "one long tuple as a key": (no_key, archive(setting(many + b"}(" + b"h\x00N" * 10**5 + b"u"))),
        "numbers of one hash": (
            no_key,
            archive(setting(b"}(" + b"".join(integer(n * (2**61 - 1)) + b"N" for n in range(10**5)) + b"u")),
        ),
        "numbers as keys": (
            "keys that are no texts",
            archive(setting(b"}(" + b"".join(integer(n) + b"N" for n in range(MAX_OTHER_KEYS + 1)) + b"u")),
        ),
        "too large": ("bytes, though", archive(b"\x80\x04" + b"N" * MAX_PICKLE_BYTES + b".")),
        "nothing on the stack": (not_readable, archive(b"\x80\x02.")),
        "no end": (not_readable, archive(b"\x80\x02}")),
        # Archives.
        "big-endian": ("big-endian machine", archive(weights(good), {"byteorder": b"big"})),
        "two records of one name": (
            "have one name",
            archive(weights(good), {"data/1": bytes(16)}).replace(b"archive/data/1", b"archive/data/0"),
        ),
        "legacy storages that are not listed": ("list of storages", legacy(weights(good), [], bytes(24))),
        "legacy storages listed twice": (
            "list of storages",
            legacy(weights(good), ["0", "0"], 2 * (struct.pack("<Q", 4) + bytes(16))),
        ),
        "names that lead outside": ("lead elsewhere", archive(weights(good), {"../../../x": b""})),
        "absolute names": ("lead elsewhere", archive(weights(good), prefix="/tmp/archive/")),
        "two pickles": ("something else", archive(weights(good), {"x/data.pkl": weights(good)})),
        "zip bomb": ("compressed", archive(weights(good), {"data/0": bytes(2**27)}, compression=zipfile.ZIP_DEFLATED)),
        "record of billions": ("larger than the file", claiming(archive(weights(good)), "archive/data/0", 2**32 - 2)),
        "record that is missing": (not_readable, archive(weights(tensor(4, 0, (), (), key="9")))),
        "tar": (not_readable, tar()),
        "gzip": (not_readable, b"\x1f\x8b" + bytes(100)),
        "nothing but a directory": (not_readable, b"PK\x03\x04" + bytes(100)),
    }


# Prints what came of each file, and the most memory that was in use so far, in bytes.
CONVERT_ALL = """
import json, resource, sys
from svitt.conversion import main

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

tokenizer, output, *files = sys.argv[1:]
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**31, now + 2**31))
for path in files:
    before, code = peak(), 0
    print(path, file=sys.stderr, flush=True)
    try:
        main(["checkpoint", path, output, "--tokenizer", tokenizer, "--text_config", "num_attention_heads=4"])
    except SystemExit as end:
        code = end.code
    print(json.dumps([code, before, peak()]), file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory, tokenizer_folder):  # noqa: F811
    """By attack: lines printed, exit code, peak of memory before and after; of one process, which a crash would end."""
    folder = tmp_path_factory.mktemp("hostile")
    marker, files = folder / "marker", {}
    for number, (attack, (_, content)) in enumerate(hostile_files(marker).items()):
        files[attack] = folder / f"{number}.pth"
        files[attack].write_bytes(content)
    command = [sys.executable, "-c", CONVERT_ALL, tokenizer_folder, folder / "out", *files.values()]
    child = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=folder)
    assert child.returncode == 0, child.stderr[-2000:]
    found = {}
    for attack, path in files.items():
        start = child.stderr.index(f"{path}\n") + len(f"{path}\n")
        *lines, outcome = child.stderr[start:].partition("]\n")[0].splitlines()
        found[attack] = (lines, *json.loads(f"{outcome}]"))
    written = sorted(path.name for path in folder.iterdir())
    assert written == sorted(path.name for path in files.values())  # no marker, no output, nothing half-written
    return found


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("attack", hostile_files("/nowhere"))
def test_hostile_files_are_refused(attack, results):
    lines, code, before, after = results[attack]
    sentence = lines[-1]
    assert code == 2 and sentence.startswith("svitt-convert: "), lines
    assert hostile_files("/nowhere")[attack][0] in sentence
    assert "Traceback" not in "".join(lines) and all(line.isprintable() and len(line) < 1000 for line in lines)
    assert after - before < 600 * 2**20, f"{(after - before) / 2**20:.0f} MB"
