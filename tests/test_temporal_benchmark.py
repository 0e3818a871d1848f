# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The benchmark of learning time: its clips, what it counts, and how it compares at equal time."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import BatchEncoding

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import temporal_benchmark

        yield temporal_benchmark


@pytest.fixture(scope="module")
def job(benchmark):
    scale = benchmark.Scale(num_steps=10, num_train=24, num_test=20, image_size=32, hidden_size=16, batch_size=8)
    return benchmark.Job("both", seed=0, scale=scale)


@pytest.fixture(scope="module")
def rows(benchmark, job):
    return benchmark.run(job)


@pytest.fixture
def clips(benchmark):
    return benchmark.make_clips(20, 32, "a seed", unique=True)


def test_a_twin_is_the_clip_backwards(clips):
    assert torch.equal(clips.states[0::2], clips.states[1::2].flip(1))
    assert len(set(clips.captions)) == len(clips.captions) == len(clips.states) == 20


@pytest.mark.parametrize("num_frames", [4, 8])
def test_the_middle_of_a_twin_shows_the_same_frames(clips, num_frames):
    """So that a model blind to time cannot tell them apart."""
    rows = torch.arange(20)
    frames = clips.sample(rows, num_frames, 0.5)
    assert torch.equal(frames[0::2], frames[1::2].flip(1))
    moments = torch.rand(20, num_frames)
    own = clips.sample(rows, num_frames, moments)
    positions = ((torch.arange(num_frames) + moments[3]) * 12 / num_frames).long()
    assert torch.equal(own[3], clips.states[3, positions].float())


def test_scores(benchmark, clips):
    """Of a model that knows all clips, and of the same one on frames in another order."""

    class Oracle:
        config = type("", (), {"vision_config": type("", (), {"num_frames": 4})})
        device = "cpu"
        known = clips.sample(torch.arange(20), 4, 0.5).flatten(1)

        def eval(self):
            pass

        def get_video_features(self, frames):
            return type("", (), {"pooler_output": -torch.cdist(frames.flatten(1), self.known)})

        def get_text_features(self, **texts):
            return type("", (), {"pooler_output": torch.eye(20)})

        def similarity(self, videos, texts):
            return videos @ texts.T

    def tokenizer(texts, **kwargs):
        return BatchEncoding({"input_ids": torch.zeros(20, 1)})

    assert benchmark.evaluate(Oracle(), tokenizer, clips, "normal") == {"r1": 100, "r5": 100, "order": 100}
    backwards = benchmark.evaluate(Oracle(), tokenizer, clips, "reverse")
    assert backwards["r1"] == backwards["order"] == 0


def test_runs(rows, benchmark):
    assert [(row["frames"], row["start"]) for row in rows] == [(4, "scratch"), (8, "scratch"), (8, "4 frames")]
    assert [point["step"] for point in rows[0]["curve"]] == list(range(1, 11))
    assert [point["step"] for point in rows[2]["curve"]] == list(range(1, 6)), "half as many steps"
    assert rows[2]["curve"][0]["seconds"] > rows[0]["curve"][-1]["seconds"], "with those of the model it began with"
    assert rows[1]["flops"] == rows[2]["flops"] < 2 * rows[0]["flops"], "more nodes are dropped of 8 frames"
    assert set(rows[0]["curve"][-1]) == {"step", "seconds", "loss", "normal", *benchmark.FRAME_ORDERS}


def test_costs_of_linear_layers(benchmark, job):
    """Sparsity of nodes saves what the dropped tokens would have cost; of edges, in attention alone."""
    tokenizer = benchmark.make_tokenizer(["a red circle"])
    flops = {
        sparsity: benchmark.costs(benchmark.make_model(benchmark.replace(job, sparsity=sparsity), 8, tokenizer))[
            "flops"
        ]
        for sparsity in benchmark.SPARSITIES
    }
    assert flops["both"] < min(flops["edges"], flops["nodes"]) <= max(flops["edges"], flops["nodes"]) < flops["dense"]


def test_comparison_at_equal_time(benchmark):
    def row(sparsity, pace):
        scores = {"reverse": {"order": 0.0}, "shuffle": {"order": 50.0}, "freeze": {"order": 50.0}}
        curve = [
            {"step": step, "seconds": pace * step, "loss": 0.0, "normal": {"r1": 10.0 * step, "order": 50.0 + 5 * step}}
            for step in range(1, 11)
        ]
        curve[-1] |= scores
        return {
            "sparsity": sparsity,
            "seed": 0,
            "frames": 4,
            "start": "scratch",
            "flops": 2e6,
            "bytes": 2**20,
            "curve": curve,
        }

    rows = [row("dense", 2.0), row("both", 1.0)]
    dense, both = (benchmark.figures(each, rows) for each in rows)
    assert (dense["R@1"], dense["R@1 in time"], dense["order in time"]) == (100, 50, 75)
    assert (both["R@1"], both["R@1 in time"]) == (100, 100)
    lines = benchmark.summarise(rows + [{**row("both", 1.0), "seed": 1}])
    assert [line["sparsity"] for line in lines] == ["dense", "both"] and lines[0]["seconds"] == "20.0"


def test_spread(benchmark):
    assert benchmark.spread([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
    assert benchmark.spread([2.0, 2.0]) == benchmark.spread([2.0]) == "2.0"
    assert benchmark.spread([2.0, None]) == ""


def test_a_second_call_goes_on(benchmark, rows, tmp_path, monkeypatch, capsys):
    """With what has been run already there is nothing left but to report."""
    (tmp_path / "runs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.setattr(sys, "argv", ["benchmark", str(tmp_path), "--seeds", "1", "--sparsities", "both"])
    benchmark.main()
    table = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out.endswith(table) and table.count("\n") == 2 + len(rows)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_missing_matplotlib_is_told_before_the_runs(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["temporal_benchmark.py", str(tmp_path / "results")])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert capsys.readouterr().err.startswith("temporal_benchmark.py: matplotlib: is not installed; ")
    assert not (tmp_path / "results").exists()
