# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Search over one's own videos: an index of their spans in a folder, asked with a sentence or another video.

And questions about one of them.
"""

from importlib import import_module

# By module, which is loaded when a name is first used: a search needs no data sets, which questions do.
NAMES = {"hits": ("Hit",), "index": ("IndexReport", "SViTTIndex"), "ask": ("Answer", "SViTTAnswerer")}
__all__ = [name for names in NAMES.values() for name in names]


def __getattr__(name: str):
    for module, names in NAMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
