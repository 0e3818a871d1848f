# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Reads checkpoints of `torch.save` without running anything that they contain.

A pickle is a program. This reader follows those parts of it that make tensors and plain containers, puts stubs in place
of all other objects, and refuses other calls, as well as files that claim more memory than they have bytes.
"""

import io
import itertools
import math
import os
import pickle
import zipfile
from collections.abc import Iterable, Iterator

import torch

STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Pickled objects of these packages come with calls of their classes, which stubs answer. No other call is let pass.
CALLED_PACKAGES = ("_codecs", "collections", "copyreg", "datetime", "numpy", "omegaconf", "pathlib")
LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
# Ten times what names, shapes and settings of a model and its optimizer take. A byte makes an object of 200 at most.
MAX_PICKLE_BYTES = 2**21
MAX_CLASSES = 1000
# How often all that is stored may occur, under several names.
TIMES_SHARED = 4
# What pickles name again they do not store again: how much of it calls may copy, and how many arguments they may have.
MAX_COPIED, MAX_ARGUMENTS = 10**6, 100
# Keys that are no texts can be chosen so that each is compared with all before it; the state of an optimizer has some.
MAX_OTHER_KEYS, MAX_KEY_PARTS = 10**4, 8
CHECKED_OPCODES = (
    *("SETITEM", "SETITEMS", "ADDITEMS", "APPEND", "APPENDS", "DICT", "FROZENSET"),
    *("REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD"),
)
# Of a training configuration, which may name one object many times.
MAX_CONFIG_VALUES, MAX_CONFIG_DEPTH = 10**5, 100


class Stub:
    """In place of an object that is neither tensor nor plain container: keeps what was pickled, runs nothing."""

    may_be_called = False

    def __new__(cls, *args, **kwargs):
        stub = super().__new__(cls)
        stub.state, stub.items, stub.elements = None, {}, []
        return stub

    def __init__(self, *args, **kwargs):  # not reached by plain objects, which are made by `__new__` and a state
        if not self.may_be_called:
            raise pickle.UnpicklingError(f"it calls `{type(self).__module__}.{type(self).__qualname__}`")

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        self.items[key] = value

    def append(self, element):
        self.elements.append(element)

    def plain(self):
        """The configuration that an OmegaConf node, a namespace or a subclass of dict or list held; a `ValueError` for
        one that is too large, or nested too deeply, to be one."""
        return plain(self)

    def content(self):
        """What of it belongs to the configuration."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        state = state if isinstance(state, dict) else {}
        for node in ("_val", "_content"):  # of OmegaConf: a value; a dict or list of nodes
            if node in state:
                return state[node]
        return self.items or self.elements or state


def plain(value, depth: int = 0, counter: Iterator[int] | None = None):
    counter = itertools.count() if counter is None else counter
    while isinstance(value, Stub) and next(counter) < MAX_CONFIG_VALUES:
        value = value.content()
    if depth > MAX_CONFIG_DEPTH or next(counter) >= MAX_CONFIG_VALUES:
        raise ValueError(
            f"The checkpoint's configuration has more than {MAX_CONFIG_VALUES} values, or is nested more than "
            f"{MAX_CONFIG_DEPTH} deep: it is none of an original model."
        )
    if isinstance(value, dict):
        return {key: plain(item, depth + 1, counter) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1, counter) for item in value]
    return value


class SafeUnpickler(pickle._Unpickler):
    """Unpickles tensors and plain containers. No name in the file is ever imported; all others become stubs.

    It is the unpickler in Python, because that in C allocates as much memory as a file claims to need, and its code
    cannot be held back from setting attributes or hashing what is nested too deeply for the stack.

    Args:
        file: Binary file at the start of a pickle.
        storage: Called with (dtype, key, number of elements), returns the flat tensor behind a storage of the file.
        max_bytes: Of all tensors together.
    """

    def __init__(self, file, storage=None, max_bytes: int = 0):
        super().__init__(file)
        self.storage, self.bytes_left, self.classes = storage, max_bytes, {}
        self.copies_left, self.other_keys_left = MAX_COPIED, MAX_OTHER_KEYS

    def find_class(self, module: str, name: str):
        if module in ("torch", "torch.cuda") and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        read = {
            "collections.OrderedDict": self.make_dict,
            "builtins.set": self.make_set,
            "torch.Size": self.make_size,
            "torch.device": torch.device,
            "torch._utils._rebuild_tensor": self.rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": self.rebuild_tensor,
            "torch._utils._rebuild_parameter": self.rebuild_parameter,
        }
        return read.get(f"{module}.{name}") or self.stub_class(module, name)

    def stub_class(self, module: str, name: str) -> type[Stub]:
        if (module, name) not in self.classes:
            if len(self.classes) == MAX_CLASSES:
                raise pickle.UnpicklingError(f"it names more than {MAX_CLASSES} classes")
            may_be_called = module.split(".")[0] in CALLED_PACKAGES
            stub = {"__module__": module, "__qualname__": name, "may_be_called": may_be_called}
            self.classes[module, name] = type("Stub", (Stub,), stub)
        return self.classes[module, name]

    def persistent_load(self, persistent_id):
        if not isinstance(persistent_id, tuple) or len(persistent_id) not in (5, 6) or persistent_id[0] != "storage":
            raise pickle.UnpicklingError("it refers to something outside of it that is no storage")
        _, dtype, key, _, num_elements, *view = persistent_id
        if not isinstance(dtype, torch.dtype) or not isinstance(key, (str, int)) or type(num_elements) is not int:
            raise pickle.UnpicklingError("it has a storage of an unknown kind")
        if any(view):
            raise pickle.UnpicklingError("it holds views of storages, which PyTorch before 0.4 wrote")
        return self.storage(dtype, str(key), num_elements)

    def rebuild_tensor(self, storage, offset, size, stride, *_):
        if not isinstance(size, tuple) or len(size) > MAX_ARGUMENTS:
            raise pickle.UnpicklingError("it has a tensor of an unknown kind")
        tensor = storage.as_strided(size, stride, offset)  # checks its bounds
        num_elements = math.prod(size)  # `numel` overflows
        self.bytes_left -= num_elements * tensor.itemsize
        if num_elements > storage.numel() or self.bytes_left < 0:
            raise pickle.UnpicklingError(f"its tensors, one of them {in_words(size)}, are larger than what it stores")
        return tensor

    def rebuild_parameter(self, tensor, *_):
        return tensor

    def make_dict(self, pairs=()):
        pairs = self.copied(pairs)
        self.check_keys(key for key, _ in pairs)
        return dict(pairs)

    def make_set(self, items=()):
        items = self.copied(items)
        self.check_keys(items)
        return set(items)

    def make_size(self, sizes=()):
        return tuple(self.copied(sizes))

    def copied(self, items) -> list:
        """Items of a call, which may be named many times over."""
        if not isinstance(items, (list, tuple)):
            raise pickle.UnpicklingError(f"it makes a container of a {type(items).__name__}")
        self.copies_left -= len(items)
        if self.copies_left < 0:
            raise pickle.UnpicklingError(f"its calls copy more than {MAX_COPIED} objects")
        return list(items)

    def check_keys(self, keys: Iterable):
        """Refuses what Python would hash or compare without end: nested and long tuples, numbers of equal hashes."""
        for key in keys:
            if isinstance(key, (str, bytes)):
                continue
            self.other_keys_left -= 1
            if self.other_keys_left < 0:
                raise pickle.UnpicklingError(f"it has more than {MAX_OTHER_KEYS} keys that are no texts")
            parts = key if isinstance(key, tuple) and len(key) <= MAX_KEY_PARTS else (key,)
            if not all(map(_is_simple, parts)):
                raise pickle.UnpicklingError("it has a key that is no text, small number or short tuple of them")

    def check_filled(self, container, kinds: tuple[type, ...], keys: Iterable = ()):
        """Refuses to put anything into what is no container: a tensor would take it at many places."""
        if not isinstance(container, kinds):
            raise pickle.UnpicklingError(f"it fills a {type(container).__name__} as if it were a container")
        self.check_keys(keys)

    def load_setitem(self):
        self.check_filled(self.stack[-3], (dict, Stub), self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self):
        self.check_filled(self.metastack[-1][-1], (dict, Stub), self.stack[::2])
        super().load_setitems()

    def load_additems(self):
        self.check_filled(self.metastack[-1][-1], (set,), self.stack)
        super().load_additems()

    def load_append(self):
        self.check_filled(self.stack[-2], (list, Stub))
        super().load_append()

    def load_appends(self):
        self.check_filled(self.metastack[-1][-1], (list, Stub))
        super().load_appends()

    def load_dict(self):
        self.check_keys(self.stack[::2])
        super().load_dict()

    def load_frozenset(self):
        self.check_keys(self.stack)
        super().load_frozenset()

    def check_arguments(self, *groups):
        """Refuses what a call would take apart for long."""
        for arguments in groups:
            if not isinstance(arguments, (tuple, dict)) or len(arguments) > MAX_ARGUMENTS:
                raise pickle.UnpicklingError(f"a call in it has no arguments, or more than {MAX_ARGUMENTS}")

    def load_reduce(self):
        self.check_arguments(self.stack[-1])
        super().load_reduce()

    def load_newobj(self):
        self.check_arguments(self.stack[-1])
        super().load_newobj()

    def load_newobj_ex(self):
        self.check_arguments(*self.stack[-2:])
        super().load_newobj_ex()

    def load_build(self):
        """Gives its state to a stub; to nothing else, as it may come with attributes that hide methods."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Stub):
            self.stack[-1].__setstate__(state)
        elif not isinstance(self.stack[-1], dict):  # an OrderedDict of weights comes with versions of modules
            raise pickle.UnpicklingError(f"it sets the state of a {type(self.stack[-1]).__name__}")

    def refuse(self):
        raise pickle.UnpicklingError("it uses an opcode that `torch.save` does not")

    refused = dict.fromkeys(range(256), refuse)
    dispatch = refused | pickle._Unpickler.dispatch  # type: ignore[assignment]


def _is_simple(key) -> bool:
    if type(key) is int:
        return abs(key) < 2**60  # which is its hash, then
    return key is None or isinstance(key, (str, bytes, bool, float, Stub))


for _name in CHECKED_OPCODES:
    SafeUnpickler.dispatch[getattr(pickle, _name)[0]] = getattr(SafeUnpickler, f"load_{_name.lower()}")
# Names by number; and buffers, whose memory is claimed before they are read.
for _opcode in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
    SafeUnpickler.dispatch[_opcode[0]] = SafeUnpickler.refuse


def in_words(size: Iterable[int]) -> str:
    """(2, 3) -> `2 x 3`"""
    return " x ".join(map(str, size)) or "1"


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Reads what `torch.save` wrote, in its zip or its legacy format, without running anything.

    Memory stays below a few times the size of the file, and half a GB for its objects, whatever it claims to hold.

    Returns:
        The saved dict. Tensors are on the CPU; objects that are neither tensors nor plain containers are [`Stub`]s.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is not a checkpoint, is damaged, or calls functions when it is read in the usual way.
    """
    with open(path, "rb") as file:
        try:
            checkpoint = _read_zip(file) if file.read(4) == b"PK\x03\x04" else _read_legacy(file)
        except Exception as error:  # a damaged or hostile pickle may raise anything
            detail = printable(str(error) or type(error).__name__)
            if isinstance(error, pickle.UnpicklingError) and "it calls" in detail:
                raise ValueError(f"{path} is refused: {detail}, which weights have no need of.") from error
            raise ValueError(f"{path} is not a readable checkpoint of `torch.save`: {detail.rstrip('.')}.") from error
    if not isinstance(checkpoint, dict) or not all(isinstance(name, str) for name in checkpoint):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, not a dict with the weights under 'model'.")
    return checkpoint


def printable(text: str) -> str:
    """What a file says of itself, fit for a terminal: one line, no escape sequences, not endless."""
    text = " ".join(text.split())
    text = text if len(text) <= 500 else f"{text[:500]} …"
    return "".join(character if character.isprintable() else "?" for character in text)


def _read_zip(file) -> object:
    max_bytes = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if any(name.startswith("/") or ".." in name.split("/") for name in names):
            raise ValueError("its records have names that lead elsewhere, such as ../name")
        if len(set(names)) < len(names):
            raise ValueError("two of its records have one name")
        if len(pickles) != 1:
            raise ValueError("it is a zip file of something else")
        folder = pickles[0].removesuffix("data.pkl")
        storages, bytes_left = {}, max_bytes

        def read(name: str, num_bytes: int | None = None) -> bytes:
            nonlocal bytes_left
            record = archive.getinfo(folder + name)
            bytes_left -= record.file_size
            if record.compress_type != zipfile.ZIP_STORED or bytes_left < 0:  # small files that claim to be large
                raise ValueError(f"its record {name} is compressed, or larger than the file, which `torch.save` avoids")
            if num_bytes is not None and record.file_size != num_bytes:
                raise ValueError(f"its record {name} has {record.file_size} bytes instead of {num_bytes}")
            return archive.read(record)

        def storage(dtype, key, num_elements):
            if key not in storages:
                storages[key] = _flat_tensor(read(f"data/{key}", num_elements * dtype.itemsize), dtype)
            return storages[key]

        if f"{folder}byteorder" in names and read("byteorder") != b"little":
            raise ValueError("it was written by a big-endian machine; save it again on one that is little-endian")
        pickled = read("data.pkl")
        if len(pickled) > MAX_PICKLE_BYTES:
            raise ValueError(f"its pickle takes more than {MAX_PICKLE_BYTES} bytes, though weights are kept beside it")
        return SafeUnpickler(io.BytesIO(pickled), storage, TIMES_SHARED * max_bytes).load()


def _read_legacy(file) -> object:
    max_bytes = bytes_left = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    storages = {}

    def storage(dtype, key, num_elements):
        nonlocal bytes_left
        if key not in storages:
            bytes_left -= num_elements * dtype.itemsize
            if num_elements < 0 or bytes_left < 0:
                raise ValueError(f"its storage {key} of {num_elements} elements is larger than the file")
            storages[key] = torch.empty(num_elements, dtype=dtype)
        return storages[key]

    magic_number, _, _ = (SafeUnpickler(head).load() for _ in range(3))
    if type(magic_number) is not int or magic_number != LEGACY_MAGIC_NUMBER:
        raise ValueError("it does not start as one")
    checkpoint = SafeUnpickler(head, storage, TIMES_SHARED * max_bytes).load()
    keys = list(map(str, SafeUnpickler(head).load()))
    if sorted(keys) != sorted(storages):
        raise ValueError("its list of storages is not of those that its tensors have, each once")
    file.seek(head.tell())
    for key in keys:
        num_elements = int.from_bytes(file.read(8), "little")
        values = storages[key]
        if num_elements != len(values):
            raise ValueError(f"storage {key} has {num_elements} elements instead of {len(values)}")
        values.copy_(_flat_tensor(file.read(values.nbytes), values.dtype))
    return checkpoint


def _flat_tensor(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
