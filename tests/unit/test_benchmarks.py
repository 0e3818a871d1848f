# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The benchmarks run, in a tiny setting."""

import os
import subprocess
import sys

import pytest

from ..conftest import ROOT

LAYERS = ["--hidden_size", "64", "--image_size", "64", "--attn_block_size", "8", "--num_hidden_layers", "4"]
TINY = [*LAYERS, "--rounds", "1"]
RUNS = {
    "encoder": [*TINY, "--frames", "4", "8"],
    "encoder --backward": [*TINY, "--frames", "4", "--dtype", "bfloat16"],
    "encoder --rerank 8": [*TINY, "--frames", "4"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_script(name, tmp_path):
    script, *options = name.split()
    command = [sys.executable, ROOT / f"benchmarks/{script}.py", *options, *RUNS[name], "--output", tmp_path / "x.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ended.returncode == 0 and (tmp_path / "x.json").is_file(), ended.stderr
