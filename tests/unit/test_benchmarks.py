# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The benchmarks run, in a tiny setting."""

import json
import os
import runpy
import subprocess
import sys
import time

import pytest
import torch

from ..conftest import ROOT

TINY = ["--tiny", "--rounds", "1"]
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
def test_a_gpu_is_asked_all_there_is_to_know(tmp_path):
    table = run("gpu", "--tiny", "--output", tmp_path)
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report.keys() == {"environment", "settings", "rows"}
    assert {"device", "CUDA", "svitt", "torch", "transformers", "product TFLOP/s"} <= report["environment"].keys()
    assert report["settings"]["hidden_size"] == 64
    rows = report["rows"]
    lines = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in lines[0]] == list(rows[0]) and len(lines) == 2 + len(rows)
    parts = ("agreement", "forward", "forward + backward", "training step", "index", "re-ranking")
    assert list(dict.fromkeys(row["part"] for row in rows))[:6] == list(parts)
    measured = [row for row in rows if "past" not in (row["note"] or "")]
    assert {row["part"] for row in measured} >= set(parts)
    for row in measured:
        assert row["part"] == "agreement" or row["ms"] > 0, row  # else its note tells of an error
    equal = [row for row in rows if row["part"] == "agreement"]
    assert len(equal) == 8
    for row in equal:
        limit = 0.03 if "bfloat16" in row["contestant"] else 1e-5
        assert row["off by"] < limit and (row["gradient off by"] or 0) < limit, row


@pytest.mark.slow
def test_what_learns_order_is_told_for_all_variants_and_goes_on_where_it_was(tmp_path):
    table = run("temporal", "--output", tmp_path, "--tiny", "--jobs", "1")
    variants = ["dense", "edges", "edges, fixed", "nodes", "both"]
    cells = [line.strip("| ").split(" | ") for line in table[table.index("From") :].splitlines() if "|" in line]
    assert [line[0] for line in cells if line[0] in variants] == 2 * variants
    log = (tmp_path / "tiny.jsonl").read_text()
    rows = [json.loads(line) for line in log.splitlines()]
    runs = {tuple(row["key"]): row["curve"] for row in rows if "key" in row}
    assert len(runs) == 10 and len(rows) == 10 + 2 * 5  # and what an update costs, by the number of frames
    for curve in runs.values():
        assert all(0 <= point["order"] <= 100 for point in curve)
    assert runs[0, "random weights", "dense"][-1]["update"] == 4
    first = runs[0, "4 frames", "dense"][0]
    assert first["update"] == 0 and first["seconds"] > 0  # those of the model of 4 frames
    again = run("temporal", "--output", tmp_path, "--tiny")
    assert again[again.index("From") :] == table[table.index("From") :]
    assert (tmp_path / "tiny.jsonl").read_text() == log


@pytest.mark.slow
def test_what_does_not_fit_or_fails_is_a_row_that_says_so(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rows_of = runpy.run_path(str(ROOT / "benchmarks/gpu.py"))["rows_of"]

    def fail(error):
        raise error

    cases = [("a", 4, 1, lambda: fail(torch.OutOfMemoryError())), ("b", 4, 1, lambda: fail(ValueError("no kernel")))]
    cases += [("c", 4, 1, lambda: [{"ms": 1.0}]), ("d", 4, 1, lambda: time.sleep(60)), ("e", 4, 1, list)]
    rows_of("forward", cases[2:3], 60.0)  # imports what takes seconds
    rows = rows_of("forward", cases, 4.0)
    notes = ["out of memory", "ValueError: no kernel", None, "past its part's time, as are 1 cases after it"]
    assert [row["note"] for row in rows] == notes
    assert [row["contestant"] for row in rows] == ["a", "b", "c", "d"] and rows[2]["ms"] == 1.0


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
    options |= {"--num_queries": 3, "--tokens_per_span": 4, "--model": demo / "model"}
    table = run("reranking", *(str(word) for pair in options.items() for word in pair))
    assert "re-ranking" in table and "read again" in table
    [exact] = [
        line.split("|")[1:-1] for line in table.splitlines() if "float16" in line and not line.startswith("| 4 ")
    ]
    assert exact[-2:] == [" 100.0% ", " 100.0% "]
