# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Search over one's own videos: an index of their spans in a folder, asked with a sentence or another video."""

from .index import Hit, IndexReport, SViTTIndex

__all__ = ["Hit", "IndexReport", "SViTTIndex"]
