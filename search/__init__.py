# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Search over one's own videos: an index of their spans in a folder, asked with a sentence or another video.

And questions about one of them.
"""

from .ask import Answer, SViTTAnswerer
from .hits import Hit
from .index import IndexReport, SViTTIndex

__all__ = ["Answer", "Hit", "IndexReport", "SViTTAnswerer", "SViTTIndex"]
