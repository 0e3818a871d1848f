# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Thousands of training steps over clips of which some are bad: memory, descriptors and step time stay the same."""

import gc
import json
import os
import random
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

import psutil
import pytest
import torch

from svitt import SViTTForPreTraining

from .unit.test_modeling import clips, task_model, texts

ROOT = Path(__file__).parent.parent
NUM_STEPS, STEPS_PER_SAMPLE, NUM_CLIPS, NUM_BAD = 5000, 100, 200, 10
# A decoded frame of these clips has 12 kB. From the middle of the second third of the run to that of the last are 1,667
# steps: were one frame lost in each, 20 MB would be.
MAX_GROWTH_MB = 15
# In CPU time of a step of another model, of the same moments, for other work on the machine slows down both. Were there
# work that grows with the steps done, the last third would take 1.7 times as long as the second.
MAX_SLOWDOWN = 1.2


def num_tensors():
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of objects that warn when they are looked at
        return sum(isinstance(found, torch.Tensor) for found in gc.get_objects())


@pytest.mark.parametrize(
    ("implementation", "sparse", "checkpointed"),
    [("sdpa", True, False), ("sdpa", False, True), ("eager", True, True), ("eager", False, False)],
)
def test_no_tensor_outlives_its_step(implementation, sparse, checkpointed):
    model = task_model(SViTTForPreTraining, {} if sparse else {"sparse_random_attn": None}).train()
    model.set_attn_implementation(implementation)
    if checkpointed:
        model.activation_checkpointing_enable()
    optimizer, counts = torch.optim.AdamW(model.parameters()), []
    for _ in range(3):
        model(clips(), *texts()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        counts.append(num_tensors())
    assert counts == counts[:1] * 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Clips, one in twenty of which is empty, cut off, no video, or missing."""
    folder = tmp_path_factory.mktemp("corpus")
    sizes = ["--train", str(NUM_CLIPS), "--val", "8", "--test", "2"]
    subprocess.run([sys.executable, ROOT / "examples/make_demo_dataset.py", folder, *sizes], check=True)
    rows = json.loads((folder / "train.json").read_text())
    for number, row in enumerate(random.Random(0).sample(rows, NUM_BAD)):
        path = folder / "videos" / row["video"]
        content = path.read_bytes()
        path.unlink()
        if kept := (b"", content[: len(content) // 2], b"no video" * 99, None)[number % 4]:
            path.write_bytes(kept)
    return folder


def seconds_of_reference(model):
    """CPU seconds of one step, over and over the same; the least of a few."""
    seconds = []
    for _ in range(3):
        start = time.thread_time()
        model(clips(), *texts()).loss.backward()
        model.zero_grad()
        seconds.append(time.thread_time() - start)
    return min(seconds)


def sample(process):
    """Of a run and its workers: memory in MB, descriptors, threads, and CPU seconds so far."""
    found = defaultdict(int, {"wall": time.monotonic()})
    for member in (process, *process.children(recursive=True)):
        try:
            with member.oneshot():
                found["memory"] += member.memory_info().rss / 1e6
                found["descriptors"] += member.num_fds()
                found["threads"] += member.num_threads()
                found["cpu"] += sum(member.cpu_times()[:2])
        except psutil.NoSuchProcess:  # a worker of an evaluation
            pass
    return found


@pytest.mark.long
def test_nothing_grows_in_5000_steps(demo, corpus, tmp_path):
    command = [sys.executable, ROOT / "run_pretraining.py", "--model_name_or_path", demo / "model"]
    command += ["--train_file", corpus / "train.json", "--validation_file", corpus / "val.json"]
    command += ["--video_dir", corpus / "videos", "--output_dir", tmp_path / "out", "--num_workers", 1, "--k_test", 2]
    command += ["--max_steps", NUM_STEPS, "--train_batch_size", 4, "--learning_rate", 1e-4, "--num_frames", 2]
    command += ["--save_steps", 250, "--eval_steps", 500, "--logging_steps", STEPS_PER_SAMPLE]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    samples, log, reference = {}, tmp_path / "out/log.jsonl", task_model(SViTTForPreTraining).train()
    with (tmp_path / "output.txt").open("w") as output:
        run = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output, env=environment, cwd=ROOT)
        process = psutil.Process(run.pid)
        while run.poll() is None:
            lines = log.read_text().splitlines() if log.is_file() else []
            steps = [json.loads(line)["step"] for line in lines if line.endswith("}") and "learning_rate" in line]
            if steps and steps[-1] not in samples:
                samples[steps[-1]] = sample(process) | {"reference": seconds_of_reference(reference)}
                print(steps[-1], *(f"{name} {value:.5g}" for name, value in samples[steps[-1]].items()), flush=True)
            time.sleep(0.05)
    assert run.returncode == 0, (tmp_path / "output.txt").read_text()[-3000:]
    assert "bad videos skipped: 10" in (tmp_path / "output.txt").read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [line["loss"] for line in lines if "learning_rate" in line]
    assert len(losses) == NUM_STEPS // STEPS_PER_SAMPLE and lines[-1]["step"] == NUM_STEPS

    steps = sorted(samples)
    for before, after in zip(steps, steps[1:], strict=False):
        per_step = (samples[after]["cpu"] - samples[before]["cpu"]) / (after - before)
        samples[after]["effort"] = per_step / mean((samples[before]["reference"], samples[after]["reference"]))
    # The first third fills caches of the allocator and of torch.
    second, last = (
        [step for step in steps if part * NUM_STEPS / 3 < step < NUM_STEPS * (part + 1) / 3] for part in (1, 2)
    )
    typical = [
        {name: median(samples[step][name] for step in part) for name in ("memory", "descriptors", "threads", "effort")}
        for part in (second, last)
    ]
    print("medians of the second and the last third:", *typical, sep="\n")
    before, after = typical
    assert after["memory"] - before["memory"] < MAX_GROWTH_MB
    assert (after["descriptors"], after["threads"]) == (before["descriptors"], before["threads"])
    assert after["effort"] < MAX_SLOWDOWN * before["effort"]
