# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Checkpoints of strangers: what `torch.save` wrote, read without running anything in it."""

import itertools
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator

import torch

from ..errors import InputError
from .loading import Name, Weights, in_one_sentence, listed

# Ten times what weights and an optimizer of a large model take. An opcode makes an object of 200 bytes at most, and
# tuples nested deeper than this would overflow Python's stack when they are hashed.
MAX_OPCODES, MAX_TUPLES, MAX_CONFIG_VALUES = 10**6, 50_000, 10**5
# How often all that is stored may occur, under several names.
TIMES_SHARED = 4
# Objects of these packages are pickled as calls, which stubs answer. No other call is let pass.
ANSWERED = ("collections.", "copyreg.", "datetime.", "numpy.", "omegaconf.", "pathlib.")
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # whose names of modules protocol 2 keeps
BUILTINS_RENAMED = ("builtins.int", "builtins.str", "builtins.range")  # which protocol 2 calls long, unicode, xrange


class Stub:
    """In place of an object that is neither tensor nor plain container: keeps its attributes, runs nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        if isinstance(state, dict):
            vars(self).update(state)


class DictStub:
    """In place of a subclass of dict: torch fills an `OrderedDict` with items and attributes, and no other class."""

    def __new__(cls, *args):
        return OrderedDict()


class Uncalled(type):
    """Class of classes that may be made without a call, as pickle does, but not called: that may be any function."""

    def __call__(cls, *args):
        raise pickle.UnpicklingError(f"it calls `{cls.__name__}`, which weights have no need of")


def stub_for(name: str) -> type:
    if name.startswith(ANSWERED):
        return DictStub if name == "collections.defaultdict" else Stub
    return Uncalled(name, (DictStub,), {})


def names_in_pickles(path: Name) -> set[str]:
    """Return the names of all classes and functions that a checkpoint asks for, without running it.

    Raises:
        ValueError: for what torch would take without end: compressed, too long, nested too deeply.
    """
    names, num_tuples = set(BUILTINS_RENAMED), 0
    with open(path, "rb") as file:
        pickles = [file] * 5  # of the legacy format, one behind the other: head, checkpoint, list of storages
        if zipfile.is_zipfile(file):
            archive = zipfile.ZipFile(file)
            pickles = [archive.open(name) for name in archive.namelist() if name.lower().endswith("data.pkl")]
            if len(pickles) != 1 or any(record.compress_type for record in archive.infolist()):
                raise ValueError("it is a zip file, but not one of `torch.save`")
        else:
            file.seek(0)
            if file.read(4) == b"PK\3\4":  # how a zip file begins; its list of contents stands at the end
                raise ValueError("its end is missing, as after a download that broke off")
            file.seek(0)
        opcodes = itertools.chain.from_iterable(map(pickletools.genops, pickles))
        for number, (opcode, value, _) in enumerate(opcodes):
            num_tuples += opcode.name.startswith("TUPLE")
            if number > MAX_OPCODES or num_tuples > MAX_TUPLES:
                raise ValueError("it holds more objects than weights and their optimizer take")
            if opcode.name == "GLOBAL":
                module, name = value.split(" ")
                names.add(f"{PYTHON_2.get(module, module)}.{name}")
    if "builtins.bytearray" in names:  # torch calls it, with any size
        raise pickle.UnpicklingError("it makes byte arrays")
    return names


def read_checkpoint(path: Name) -> dict:
    """Read what `torch.save` wrote, in its zip or its legacy format, without running anything that it contains.

    Tensors of zip files stay on the disk until they are used.

    Returns:
        The saved dict; [`Stub`]s and `OrderedDict`s stand for objects that are neither tensors nor plain containers.

    Raises:
        InputError: if it is damaged, hostile, or no dict.
    """
    with in_one_sentence(f"{path}: is refused, it is no readable checkpoint of weights alone"):
        stubs = [(stub_for(name), name) for name in names_in_pickles(path)]
        with torch.serialization.safe_globals(stubs):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(checkpoint, dict) or not all(isinstance(name, str) for name in checkpoint):
        raise InputError(f"{path}: holds a {type(checkpoint).__name__}, not a dict with the weights under 'model'.")
    return checkpoint


def weights_of(path: Name, checkpoint: dict) -> Weights:
    """Return the tensors under 'model' or 'state_dict', or of a checkpoint that is a state dict itself.

    Names lose the `module.` that DistributedDataParallel puts before all of them.
    """
    weights = checkpoint.get("model", checkpoint.get("state_dict", checkpoint))
    if not isinstance(weights, dict) or not all(isinstance(name, str) and is_dense(weights[name]) for name in weights):
        raise InputError(
            f"{path}: has no weights under 'model' or 'state_dict', nor is it a dict of some; its entries are "
            f"{listed(checkpoint)}."
        )
    if sum(value.nbytes for value in weights.values()) > TIMES_SHARED * os.path.getsize(path):
        raise InputError(f"{path}: is refused, its weights are larger than what it stores.")
    is_parallel = all(name.startswith("module.") for name in weights)
    return {name.removeprefix("module."): value for name, value in weights.items()} if is_parallel else weights


def is_dense(value) -> bool:
    is_strided = isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_quantized
    return is_strided and value.device.type == "cpu"


def plain(value, numbers: Iterator[int] | None = None):
    """Return a configuration as dicts, lists and values, whether OmegaConf, a namespace or a subclass of dict holds it.

    Raises:
        ValueError: if it has more values than any configuration.
    """
    numbers = itertools.count() if numbers is None else numbers
    if next(numbers) > MAX_CONFIG_VALUES:
        raise ValueError("it has too many values")
    if isinstance(value, (Stub, OrderedDict)):
        held = vars(value)
        for node in ("_val", "_content"):  # of OmegaConf: a value; a dict or list of nodes
            if node in held:
                return plain(held[node], numbers)
        value = held if isinstance(value, Stub) or not value else value
    if isinstance(value, dict):
        return {key: plain(item, numbers) for key, item in value.items()}
    return [plain(item, numbers) for item in value] if isinstance(value, (list, tuple)) else value
