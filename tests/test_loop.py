# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The training loop on a tiny model: updates, the choice of the best, and going on after any kind of end."""

import copy
import itertools
import json
import math
import os
import random
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from svitt.errors import InputError
from svitt.training.checkpoints import CheckpointArguments, Checkpoints
from svitt.training.loop import (
    MAX_SKIPPED_IN_A_ROW,
    LoggingArguments,
    OptimizationArguments,
    Training,
    count_steps,
    make_accelerator,
)


class Scalar(nn.Module):
    """Loss (weight - x)^2, averaged over a batch, and with `noise` as much of it as the global random state says."""

    all_tied_weights_keys = {}

    def __init__(self, noise=0.0, at_forward=lambda number: None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.seen, self.noise, self.at_forward = [], noise, at_forward

    def forward(self, x):
        self.seen.append(x.flatten().tolist())
        self.at_forward(len(self.seen))
        loss = (self.weight - x + self.noise * torch.randn(1)).square().mean()
        return SimpleNamespace(loss=loss, items=lambda: [("loss", loss), ("logits", x)])


class Batches:
    """Numbers 0 to 7 in an order fixed by seed and epoch, as a loader of `loaders` gives them."""

    def __init__(self, batch_size=2, seed=42, numbers=range(8)):
        self.batch_size, self.seed, self.numbers = batch_size, seed, list(numbers)
        self.epoch, self.given = 1, 0

    def __len__(self):
        return len(self.numbers) // self.batch_size

    def set_epoch(self, epoch):
        self.epoch = epoch

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.resume_at = state["given"]

    def __iter__(self):
        self.given, self.resume_at = getattr(self, "resume_at", 0), 0
        order = torch.randperm(len(self.numbers), generator=torch.Generator().manual_seed(self.seed + self.epoch))
        for indices in order.split(self.batch_size)[self.given :]:
            self.given += 1
            numbers = [self.numbers[index] for index in indices]
            yield {"x": torch.tensor(numbers).float()[:, None], "videos": [f"{number}.mp4" for number in numbers]}


def train(folder, scores=None, loader=None, model=None, checkpointing=None, logging=None, validate=None, **settings):
    """Returns the trained model, the weights saved, and the end state."""
    AcceleratorState._reset_state(True)
    args = OptimizationArguments(**{"learning_rate": 0.1, "weight_decay": 0.0} | settings)
    torch.manual_seed(args.seed)
    model, saved, scores = model or Scalar(), [], scores and iter(scores)
    training = Training(
        Accelerator(cpu=True),
        model,
        loader or Batches(seed=args.seed),
        args,
        Checkpoints(folder, CheckpointArguments(**checkpointing or {})),
        save=lambda bare, weights: saved.append(copy.deepcopy(weights["weight"].item())),
        validate=validate or (scores and (lambda bare: (next(scores), {"val/score": 1.0}))),
        logging=LoggingArguments(**logging or {}),
    )
    return model, saved, training.run()


def log_of(folder):
    """The lines of a log but for times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in ("clips_per_second", "data_wait")} for line in lines]


# ---- Updates


def test_best_epoch_is_saved(tmp_path):
    _, saved, end = train(tmp_path, scores=[10.0, 30.0, 20.0, 30.0], num_train_epochs=4)
    assert (len(saved), end.best_epoch, end.best_step, end.best_score) == (2, 2, 8, 30.0)


def test_last_epoch_is_saved_without_a_score(tmp_path):
    model, saved, end = train(tmp_path, num_train_epochs=3)
    assert (len(saved), end.best_epoch) == (3, 3)
    assert saved[-1] == model.weight.item() != saved[0]


def test_evaluation_by_steps_and_at_the_end(tmp_path):
    _, saved, end = train(tmp_path, scores=[1.0, 3.0, 2.0], num_train_epochs=2, logging={"eval_steps": 3})
    assert (len(saved), end.best_step, end.step) == (2, 6, 8)
    assert [line["step"] for line in log_of(tmp_path) if "val/score" in line] == [3, 6, 8]


def test_accumulated_batches_make_one_update(tmp_path):
    settings = {"num_train_epochs": 3, "warmup_epochs": 1}
    large, _, end = train(tmp_path / "large", loader=Batches(batch_size=4), **settings)
    small, *_ = train(tmp_path / "small", loader=Batches(batch_size=2), gradient_accumulation_steps=2, **settings)
    assert small.weight.item() == pytest.approx(large.weight.item(), rel=1e-6) and end.step == 6


def test_an_epoch_may_end_with_fewer_batches_in_an_update(tmp_path):
    model, _, end = train(tmp_path, gradient_accumulation_steps=3, num_train_epochs=1)
    assert (end.step, len(model.seen)) == (2, 4)


def test_learning_rate_follows_the_schedule_per_update(tmp_path, monkeypatch):
    lrs, step = [], torch.optim.AdamW.step

    def recording_step(self, *args, **kwargs):
        lrs.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording_step)
    train(tmp_path, num_train_epochs=2, warmup_epochs=0.5, min_lr_multi=0.1)
    # 8 updates, 2 of warm-up; half a cosine over the other 6.
    expected = [0.01, 0.05, 0.1, 0.0933013, 0.075, 0.05, 0.025, 0.01]
    assert lrs == pytest.approx(expected, abs=1e-6)


def test_steps_instead_of_epochs():
    class Stream:
        __iter__ = None

    assert count_steps(Batches(), OptimizationArguments(max_steps=5, warmup_steps=2)) == (5, 2)
    assert count_steps(Batches(), OptimizationArguments(num_train_epochs=3, warmup_epochs=0.5)) == (12, 2)
    assert count_steps(Stream(), OptimizationArguments(max_steps=5)) == (5, 0)
    for options in ({}, {"max_steps": 5, "warmup_epochs": 1.0}):
        with pytest.raises(InputError, match="does not know its length"):
            count_steps(Stream(), OptimizationArguments(**options))


def test_training_stops_within_an_epoch_after_max_steps(tmp_path):
    model, saved, end = train(tmp_path, max_steps=6)
    assert (end.step, end.epoch, len(model.seen), len(saved)) == (6, 2, 6, 2)


@pytest.mark.parametrize(("max_grad_norm", "expected"), [(0.25, 0.25), (None, None)])
def test_gradients_are_clipped(tmp_path, monkeypatch, max_grad_norm, expected):
    norms, step = [], torch.optim.AdamW.step

    def recording_step(self, *args, **kwargs):
        norms.append(self.param_groups[0]["params"][0].grad.norm().item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording_step)
    train(tmp_path, num_train_epochs=1, max_grad_norm=max_grad_norm, logging={"logging_steps": 1})
    before = [line["grad_norm"] for line in log_of(tmp_path)]
    assert norms == pytest.approx([expected] * 4 if expected else before, rel=1e-4)
    assert min(before) > 0.25  # what is told is the norm before


def test_log_tells_means_since_the_line_before(tmp_path):
    model, *_ = train(tmp_path, num_train_epochs=1, learning_rate=0.0, logging={"logging_steps": 2})
    losses = [torch.tensor(numbers).square().mean().item() for numbers in model.seen]
    lines = log_of(tmp_path)
    assert [line["loss"] for line in lines] == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2])
    assert [(line["step"], line["epoch"], line["skipped_updates"]) for line in lines] == [(2, 1, 0), (4, 1, 0)]


# ---- Losses that are not finite


def test_update_that_is_not_finite_is_skipped(tmp_path, capsys):
    loader = Batches(1, numbers=[1.0, math.nan, 3.0, math.inf])
    model, _, end = train(tmp_path, loader=loader, logging={"logging_steps": 4}, num_train_epochs=2)
    assert end.num_skipped == 4 and end.step == 8 and math.isfinite(model.weight.item())
    assert [(line["skipped_updates"], math.isfinite(line["loss"])) for line in log_of(tmp_path)] == [
        (2, True),
        (4, True),
    ]
    assert "the loss or its gradient is not finite; skipped. Its clips: nan.mp4." in capsys.readouterr().out


def test_too_many_that_are_not_finite_end_the_training(tmp_path):
    numbers = [math.nan] * MAX_SKIPPED_IN_A_ROW
    with pytest.raises(InputError, match=r"as in the 9 before it; .* The last clips: nan\.mp4"):
        train(tmp_path, loader=Batches(1, numbers=numbers))


# ---- Going on


class Killed(BaseException):
    pass


def kill_at(number):
    def at_forward(seen):
        if seen == number:
            raise Killed

    return at_forward


SETTINGS = {"num_train_epochs": 3, "warmup_epochs": 1}
LOGGING = {"logging_steps": 3, "eval_steps": 5}


def scored_by_weight(bare):
    return bare.weight.item(), {"val/weight": bare.weight.item() + torch.rand(()).item()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    model, saved, end = train(folder, model=Scalar(0.1), logging=LOGGING, validate=scored_by_weight, **SETTINGS)
    return model.weight.item(), saved[-1], end, log_of(folder)


@pytest.mark.parametrize("save_steps", [1, 2, None])
@pytest.mark.parametrize("killed_at", range(1, 13))
def test_resumed_training_is_as_if_never_killed(tmp_path, whole, killed_at, save_steps):
    options = {"logging": LOGGING, "validate": scored_by_weight, **SETTINGS}
    checkpointing = {"save_steps": save_steps, "resume_from_checkpoint": "latest"}
    with pytest.raises(Killed):
        train(tmp_path, model=Scalar(0.1, kill_at(killed_at)), checkpointing=checkpointing, **options)
    model, saved, end = train(tmp_path, model=Scalar(0.1), checkpointing=checkpointing, **options)
    assert (model.weight.item(), end, log_of(tmp_path)) == (whole[0], whole[2], whole[3])
    assert len(model.seen) == 12 - (killed_at - 1 if save_steps == 1 else end_of_saved(killed_at, save_steps))
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-12"]


def end_of_saved(killed_at, save_steps):
    saved = {0, 4, 5, 8, 10} | (set(range(0, 12, save_steps)) if save_steps else set())
    return max(step for step in saved if step < killed_at)


@pytest.mark.parametrize("killed_in", [1, 2, 3])
def test_killed_while_evaluating(tmp_path, whole, killed_in):
    calls = []

    def validate(bare):
        calls.append(bare)
        if len(calls) == killed_in:
            raise Killed
        return scored_by_weight(bare)

    options = {"logging": LOGGING, "checkpointing": {"resume_from_checkpoint": "latest"}, **SETTINGS}
    with pytest.raises(Killed):
        train(tmp_path, model=Scalar(0.1), validate=validate, **options)
    model, _, end = train(tmp_path, model=Scalar(0.1), validate=scored_by_weight, **options)
    assert (model.weight.item(), end, log_of(tmp_path)) == (whole[0], whole[2], whole[3])


def test_checkpoint_that_is_not_whole_is_never_picked_up(tmp_path, whole, monkeypatch):
    save_state = Accelerator.save_state

    def killed_after_writing(self, folder):
        save_state(self, folder)
        if "checkpoint-8" in folder:
            raise Killed

    options = {"logging": LOGGING, "validate": scored_by_weight, **SETTINGS}
    checkpointing = {"save_total_limit": 2, "resume_from_checkpoint": "latest"}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Accelerator, "save_state", killed_after_writing)
        train(tmp_path, model=Scalar(0.1), checkpointing=checkpointing, **options)
    assert sorted(path.name for path in tmp_path.glob("*checkpoint*")) == [
        ".checkpoint-8",
        "checkpoint-4",
        "checkpoint-5",
    ]
    model, _, end = train(tmp_path, model=Scalar(0.1), checkpointing=checkpointing, **options)
    assert (len(model.seen), model.weight.item(), end) == (7, whole[0], whole[2])


# What Python tells of when it touches files; a checkpoint takes dozens of these.
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "shutil.rmtree"}


def killed_while_writing(moment, folder, **options):
    """Train in a process of its own, which is killed at a moment of writing checkpoints; whether it came that far."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    try:
        countdown = itertools.count(1)

        def hook(event, args):
            if event in FILE_EVENTS and str(args[0]).startswith(str(folder)) and next(countdown) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        train(folder, **options)
    finally:
        os._exit(1 if sys.exc_info()[0] else 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_of_writing_checkpoints(tmp_path, whole, seed):
    rng, options = random.Random(seed), {"logging": LOGGING, "validate": scored_by_weight, **SETTINGS}
    options["checkpointing"] = {"save_steps": 1, "save_total_limit": 2, "resume_from_checkpoint": "latest"}
    num_kills = 0
    for _ in range(8):
        num_kills += killed_while_writing(rng.randint(1, 60), tmp_path, model=Scalar(0.1), **options)
    model, _, end = train(tmp_path, model=Scalar(0.1), **options)
    assert num_kills >= 4
    assert (model.weight.item(), end, log_of(tmp_path)) == (whole[0], whole[2], whole[3])
    assert sorted(path.name for path in tmp_path.glob("*checkpoint*")) == ["checkpoint-11", "checkpoint-12"]


@pytest.mark.parametrize("in_evaluation", [False, True])
def test_sigterm_saves_and_exits_with_0(tmp_path, whole, in_evaluation, capsys):
    def terminate_at(number):
        if number == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    def validate(bare):
        if in_evaluation:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("it must not be evaluated to the end")
        return scored_by_weight(bare)

    options = {"logging": LOGGING, "checkpointing": {"resume_from_checkpoint": "latest"}, **SETTINGS}
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, model=Scalar(0.1, terminate_at), validate=validate, **options)
    assert stopped.value.code == 0 and signal.getsignal(signal.SIGTERM) is handler
    step = 5 if in_evaluation else 6
    assert (tmp_path / f"checkpoint-{step}").is_dir()
    assert ("SIGTERM: stopped after update 6" in capsys.readouterr().out) is not in_evaluation
    model, _, end = train(tmp_path, model=Scalar(0.1), validate=scored_by_weight, **options)
    assert (len(model.seen), model.weight.item(), end) == (12 - step, whole[0], whole[2])
    assert log_of(tmp_path) == whole[3]


def test_last_checkpoints_are_kept_and_an_earlier_one_can_be_gone_on_from(tmp_path):
    model, *_ = train(tmp_path, checkpointing={"save_steps": 1, "save_total_limit": 3}, **SETTINGS)
    names = {path.name for path in tmp_path.glob("*checkpoint*")}
    assert names == {"checkpoint-10", "checkpoint-11", "checkpoint-12"}
    checkpointing = {"resume_from_checkpoint": str(tmp_path / "checkpoint-10"), "save_total_limit": 3}
    again, *_ = train(tmp_path, checkpointing=checkpointing, **SETTINGS)
    assert again.weight.item() == model.weight.item() and len(again.seen) == 2
    assert {path.name for path in tmp_path.glob("*checkpoint*")} == {"checkpoint-10", "checkpoint-12"}


def test_what_cannot_be_gone_on_from(tmp_path):
    train(tmp_path / "run", num_train_epochs=1)
    with pytest.raises(InputError, match="checkpoint-4: is of an earlier run; give --resume_from_checkpoint latest"):
        train(tmp_path / "run", num_train_epochs=2)
    with pytest.raises(InputError, match="nowhere: is no checkpoint"):
        train(tmp_path / "run", checkpointing={"resume_from_checkpoint": str(tmp_path / "nowhere")})
    other = Scalar()
    other.bias = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(InputError, match="checkpoint-4: is of another model, or of other options"):
        train(tmp_path / "run", model=other, checkpointing={"resume_from_checkpoint": "latest"})
    state = tmp_path / "run/checkpoint-4/training_state.json"
    state.write_text(state.read_text().replace('"num_processes": 1', '"num_processes": 2'))
    with pytest.raises(InputError, match="was written by 2 processes and can only be resumed by as many, not by 1"):
        train(tmp_path / "run", checkpointing={"resume_from_checkpoint": "latest"})


# ---- Checkpoints that are damaged, or made to run code


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run with checkpoints after 2 and 4 updates, the first within an epoch."""
    folder = tmp_path_factory.mktemp("written")
    train(folder, num_train_epochs=1, checkpointing={"save_steps": 2, "save_total_limit": 9})
    return folder


def resumed(written, folder, edit):
    """The error of going on from the first checkpoint after a change to it."""
    shutil.copytree(written, folder)
    edit(folder / "checkpoint-2")
    with pytest.raises(InputError) as error:
        train(folder, checkpointing={"resume_from_checkpoint": str(folder / "checkpoint-2")})
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    return str(error.value)


FILES = ("model.safetensors", "optimizer.bin", "random_states_0.pkl", "loader_0.pt", "training_state.json")


def test_these_are_all_files_of_a_checkpoint(written):
    assert sorted(path.name for path in (written / "checkpoint-2").iterdir()) == sorted(FILES)


class Call:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["optimizer.bin", "random_states_0.pkl", "loader_0.pt", "custom_checkpoint_0.pkl"])
@pytest.mark.parametrize("kwargs", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_no_code_in_a_checkpoint_is_run(written, tmp_path, name, kwargs):
    marker = tmp_path / "marker"
    sentence = resumed(written, tmp_path / "run", lambda folder: torch.save(Call(marker), folder / name, **kwargs))
    assert f"checkpoint-2/{name}: {'may run code' if 'custom' in name else 'is damaged'}" in sentence
    assert not marker.exists()


@pytest.mark.parametrize("left", [0, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_that_is_cut_off_is_told(written, tmp_path, name, left):
    def cut(folder):
        os.truncate(folder / name, int(left * (folder / name).stat().st_size))

    sentence = resumed(written, tmp_path / "run", cut)
    assert f"checkpoint-2/{name}: is damaged" in sentence and "an earlier one" in sentence


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_checkpoint_that_lacks_a_file_is_told(written, tmp_path, name):
    assert "checkpoint-2" in resumed(written, tmp_path / "run", lambda folder: (folder / name).unlink())


@pytest.mark.parametrize("text", ["[]", "null", '{"x": 1}', "{}", "[" * 10**5, '{"step": 2}'])
def test_a_state_that_is_none_is_told(written, tmp_path, text):
    sentence = resumed(written, tmp_path / "run", lambda folder: (folder / "training_state.json").write_text(text))
    assert "checkpoint-2/training_state.json: is damaged" in sentence


def sgd():
    weight = nn.Parameter(torch.zeros(1, 1))
    return torch.optim.SGD([weight], momentum=0.1).state_dict()


def of_other_shapes():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(3))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("content", [[], {}, {"param_groups": 1, "state": 2}, sgd(), of_other_shapes()])
@pytest.mark.parametrize("name", ["optimizer.bin", "random_states_0.pkl", "loader_0.pt"])
def test_a_checkpoint_with_something_else_in_a_file_is_told(written, tmp_path, name, content):
    sentence = resumed(written, tmp_path / "run", lambda folder: torch.save(content, folder / name))
    assert "checkpoint-2: is" in sentence and "damaged" in sentence


def test_trackers_that_are_not_there_are_named(tmp_path):
    AcceleratorState._reset_state(True)
    with pytest.raises(InputError, match="--report_to nosuch: is not among the trackers that are installed"):
        make_accelerator(OptimizationArguments(), LoggingArguments(report_to=["nosuch"]), str(tmp_path))
