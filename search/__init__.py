# Copyright 2026 The SViTT for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
"""Search over one's own videos: an index of their clips in a folder, asked with a sentence or another video."""

from .index import Hit, IndexReport, SViTTIndex

__all__ = ["Hit", "IndexReport", "SViTTIndex"]
