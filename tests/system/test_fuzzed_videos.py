# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""2,000 files damaged in every way: no crash, no hang, no leak."""

import pytest
from fuzz_videos import read_damaged_files


@pytest.mark.slow
def test_two_thousand_damaged_files_give_frames_or_one_sentence(tmp_path, videos):
    outcomes = read_damaged_files(tmp_path, videos, count=2000, seed=1)
    print(outcomes.most_common())
    assert sum(outcomes.values()) == 2000 and len(outcomes) > 6
