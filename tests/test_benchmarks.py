# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The benchmarks of speed and memory: each script in a tiny setting, and what they measure with."""

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY_LAYER = ["--hidden_size", "64", "--image_size", "64", "--attn_block_size", "8", "--rounds", "1"]
TINY = [*TINY_LAYER, "--num_hidden_layers", "4"]
RUNS = {
    "attention": [*TINY_LAYER, "--frames", "4"],
    "encoder": [*TINY, "--frames", "4", "8", "--contestants", "sparse", "frame by frame"],
    "encoder --backward": [*TINY, "--frames", "4", "--dtype", "bfloat16"],
    "training_step": [*TINY, "--batch_size", "2", "--gradient_checkpointing", "--task", "pretraining"],
    "reranking": [*TINY, "--videos", "2", "--candidates", "3"],
    "answering": [*TINY, "--answers", "7", "--k", "4", "--questions", "2", "--chunk_size", "9", "--memory"],
    "scaling": [*TINY, "--frames", "8", "--max_dense_frames", "4"],
}


@pytest.fixture(scope="module", autouse=True)
def path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


# ---- Scripts


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Name of a run -> its process and its JSON; most of the time goes into imports, so two run at once."""
    folder = tmp_path_factory.mktemp("results")
    with ThreadPoolExecutor(2) as pool:
        return {
            name: (pool.submit(run, *name.split(), *RUNS[name], "--output", str(folder / f"{name}.json")), folder)
            for name in RUNS
        }


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_script(runs, name):
    future, folder = runs[name]
    process = future.result()
    assert process.returncode == 0, process.stderr
    results = json.loads((folder / f"{name}.json").read_text())
    assert set(results["environment"]) == {"torch", "transformers", "python", "device", "threads", "dtype"}
    assert results["settings"]["hidden_size"] == 64
    for row in results["rows"]:
        assert row["contestant"] in process.stdout
        numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
        assert any(key.endswith("seconds") for key in numbers)
        assert all(math.isfinite(value) and value > 0 for value in numbers.values()), row


@pytest.mark.slow
def test_contestants(runs):
    rows = {name: json.loads((folder / f"{name}.json").read_text())["rows"] for name, (_, folder) in runs.items()}
    encoder = {(row["contestant"], row["frames"]): row for row in rows["encoder"]}
    assert set(encoder) == {(name, frames) for name in ("dense", "sparse", "frame by frame") for frames in (4, 8)}
    assert encoder["dense", 8]["time_ratio"] == encoder["dense", 8]["flop_ratio"] == 1
    assert encoder["sparse", 8]["flop_ratio"] < encoder["sparse", 4]["flop_ratio"] < 1
    assert {row["contestant"] for row in rows["encoder --backward"]} > {"dense eager", "edges", "nodes"}
    assert {row["pass"] for row in rows["attention"]} == {"forward", "forward + backward"}
    assert [row["contestant"] for row in rows["reranking"]] == ["naive", "match", "itm_scores"]
    assert [row["contestant"] for row in rows["answering"]] == ["naive", "rank_answers"]
    assert [row["frames"] for row in rows["scaling"]] == [8]


@pytest.mark.slow
def test_search(tmp_path):
    process = run("search", "--rows", "5000", "--queries", "5", "--output", str(tmp_path / "rows.json"))
    assert process.returncode == 0, process.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert list(rows) == ["table, exact", "table, ANN"]
    assert rows["table, exact"]["recall"] == 1 and 0.9 <= rows["table, ANN"]["recall"] <= 1
    for row in rows.values():
        assert 0 < row["p50_ms"] <= row["p99_ms"] and row["size_mib"] > 5000 * 256 * 4 / 2**20
    assert all(f"| {name} |" in process.stdout for name in rows)


def test_growth_and_plot(tmp_path):
    pytest.importorskip("matplotlib")
    import scaling

    rows = [{"contestant": "sparse", "frames": t, "seconds": t / 10, "peak_bytes": t * 2**20} for t in (4, 8, 32)]
    rows += [
        {"contestant": "dense", "frames": 8, "seconds": 1.0, "peak_bytes": 2**25},
        {"contestant": "dense", "frames": 32},
    ]
    assert scaling.growth(rows, "sparse") == pytest.approx(4)
    assert scaling.growth(rows, "dense") is None  # which ran out of memory
    scaling.plot(rows, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


# ---- What they measure with


def test_unequal_outputs_end_the_run():
    import measure

    expected = torch.randn(4, 5)
    measure.check_equal({"a": expected, "b": expected + 1e-6}, 1e-5)
    with pytest.raises(SystemExit, match="b returns other values than a: off by 1.0e-03"):
        measure.check_equal({"a": expected, "b": expected + 1e-3}, 1e-5)
    with pytest.raises(SystemExit, match="b returns other values than a: off by nan"):
        measure.check_equal({"a": expected, "b": expected * float("nan")}, 1e-5)
    with pytest.raises(SystemExit, match=r"c returns another shape than a: \(1, 5\), not \(4, 5\)"):
        measure.check_equal({"a": expected, "b": expected, "c": expected[:1]}, 1e-5)


@pytest.mark.parametrize("spoiled", ["sparse sdpa", "dense eager"])
def test_attention_that_differs_ends_the_run(monkeypatch, spoiled):
    import attention

    def make_call(args, name, *others):
        return lambda: torch.ones(2, 3) + (name == spoiled)

    monkeypatch.setattr(attention, "make_call", make_call)
    args = attention.argparse.Namespace(device="cpu", dtype="float32")
    with pytest.raises(SystemExit, match="returns other values than"):
        attention.compare(args, list(attention.CONTESTANTS), 4)


def test_rounds_are_interleaved():
    import measure

    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    assert set(measure.median_seconds(contestants, 3, "cpu")) == {"a", "b"}
    assert calls == ["a", "b"] + ["a", "b"] * 3


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("sparsity", ["dense", "edges"])
def test_flops_of_a_layer(sparsity, implementation):
    """Four projections and an MLP of 4 D; scores and context of J keys for each of N patches and n keys for CLS."""
    import encoder
    import measure

    width, block_size, num_patches = 64, 8, 4 * 4 * 4
    n = 1 + num_patches
    expected = 2 * num_patches * width * (3 * 16 * 16) + 2 * n * 12 * width**2
    if sparsity == "dense":
        expected += 4 * n * n * width
    else:
        expected += 4 * (num_patches * (1 + 4 * block_size) + n) * width

    parser = measure.make_parser("One layer.")
    encoder.add_model_arguments(parser)
    args = parser.parse_args([*TINY_LAYER, "--num_hidden_layers", "1", "--attn_implementation", implementation])
    name = "dense eager" if (sparsity, implementation) == ("dense", "eager") else sparsity
    assert measure.count_flops(encoder.make_call, args, name, 4, False, "cpu") == expected


def test_flops_of_backward_are_twice_those_of_forward():
    import measure

    call, flops = measure.matmul_ceiling(5, 16, "cpu", torch.float32)
    call()

    def make_call():
        layer, x = torch.nn.Linear(16, 32), torch.randn(5, 16, requires_grad=True)
        return lambda: layer(x).sum().backward()

    assert measure.count_flops(make_call) == 3 * 2 * 5 * 16 * 32
    assert flops == 2 * (2 * 5 * 16 * 64)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory of a process is Linux's")
def test_peak_memory():
    """In a process of its own, as that of the tests may have memory left over."""
    code = (
        "import measure, torch\n"
        "for mebibytes in (256, 64):  # the second, though the process has been larger\n"
        "    print(measure.bytes_of_call(lambda: torch.ones(mebibytes * 2**18), 'cpu') / 2**20)"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert list(map(float, process.stdout.split())) == pytest.approx([256, 64], abs=16)


def test_tables(tmp_path):
    import measure

    rows = [
        {"contestant": "dense", "frames": 4, "forward_seconds": 1.2345, "time_ratio": 1.0, "target": None},
        {"contestant": "sparse", "frames": 4, "forward_seconds": 0.00321, "time_ratio": 0.0026, "target": 0.64},
    ]
    results = {"environment": {"torch": "2", "threads": 2}, "rows": rows}
    (tmp_path / "results.json").write_text(json.dumps(results))
    process = run("measure", str(tmp_path / "results.json"))
    assert process.stdout.strip().splitlines() == [
        "torch 2, threads 2",
        "",
        "| contestant | frames | forward ms | time ratio | target |",
        "| ---------- | -----: | ---------: | ---------: | -----: |",
        "| dense      |      4 |      1,234 |       1.00 |        |",
        "| sparse     |      4 |       3.21 |       0.00 |   0.64 |",
    ]
    assert measure.cell("peak_bytes", 3 * 2**20) == "3.00" and measure.cell("ceiling_share", 0.5) == "50.0"
