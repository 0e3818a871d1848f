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


def run(script, *options) -> str:
    command = [sys.executable, ROOT / f"benchmarks/{script}.py", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_script(name, tmp_path):
    script, *options = name.split()
    run(script, *options, *RUNS[name], "--output", tmp_path / "x.json")
    assert (tmp_path / "x.json").is_file()


@pytest.mark.slow
def test_what_drops_nothing_agrees_with_itself(folders, videos):
    towers = ["--vision", folders / "beit", "--text", folders / "bert", "--frames", "2", "--rounds", "1"]
    table = run(
        "frame_wise", "--videos", next(iter(videos.values())).parent, *towers, "--fusion_keep_rates", "1", "0.5"
    )
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| 1.00")]
    assert len(rows) == 2 and rows[0][-2:] == [" 100% / 100% "] * 2 and rows[1][-2] == " 100% / 100% "


@pytest.mark.slow
def test_all_tokens_rank_as_all_tokens_do(demo):
    options = {"--videos": demo / "data/videos", "--annotation_file": demo / "data/val.json", "--num_videos": 4}
    options |= {"--num_queries": 3, "--tokens_per_span": 4, "--skip": "cold", "--model": demo / "model"}
    table = run("reranking", *(str(word) for pair in options.items() for word in pair))
    assert "re-ranking" in table and "read again" in table
    [exact] = [
        line.split("|")[1:-1] for line in table.splitlines() if "float16" in line and not line.startswith("| 4 ")
    ]
    assert exact[-2:] == [" 100.0% ", " 100.0% "]
