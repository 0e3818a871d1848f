# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Training of a tiny model: updates, the log, the choice of the best, and runs that end early and are resumed."""

import itertools
import json
import math
import os
import random
import shutil
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.modeling_outputs import ModelOutput

from svitt.data.loaders import ShuffledBatches
from svitt.errors import InputError
from svitt.training.checkpoints import find_checkpoint
from svitt.training.optimization import parameter_groups
from svitt.training.trainer import MAX_SKIPPED_IN_A_ROW, SViTTTrainer, SViTTTrainingArguments


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = parameter_groups(model.named_parameters(), lr=1.0)
    assert [[tuple(p.shape) for p in group["params"]] for group in groups] == [[(2, 2)], [(2,)]]


# ---- A model of one weight


class Scalar(nn.Module):
    """Loss (weight - x)^2, averaged over a batch, and with `noise` as much of it as the global random state says."""

    def __init__(self, noise=0.0, at_forward=lambda number: None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.seen, self.noise, self.at_forward = [], noise, at_forward

    def forward(self, x):
        self.seen.append(x.flatten().tolist())
        self.at_forward(len(self.seen))
        loss = (self.weight - x + self.noise * torch.randn(1)).square().mean()
        return ModelOutput(loss=loss, loss_half=loss / 2, logits=x)


class Numbers(torch.utils.data.Dataset):
    def __init__(self, numbers):
        self.numbers = list(numbers)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, place):
        return self.numbers[place[0]]


def collate(numbers):
    return {"x": torch.tensor(numbers).float()[:, None], "videos": [f"{number}.mp4" for number in numbers]}


def train(
    folder, model=None, resume=None, numbers=range(8), batch_size=2, num_workers=0, evaluate=None, loader=None,
    stop_metrics=("val_score",), **settings,
):  # fmt: skip
    """Returns the trainer after a run, and the weight that it ends with."""
    settings = {"learning_rate": 0.1, "weight_decay": 0.0, "use_cpu": True, "logging_steps": 1} | settings
    args = SViTTTrainingArguments(str(folder), **settings)
    loader = loader or DataLoader(
        Numbers(numbers), batch_sampler=ShuffledBatches(len(numbers), batch_size, 42), collate_fn=collate,
        num_workers=num_workers, generator=torch.Generator(),
    )  # fmt: skip
    scored = {"eval_splits": ["val"], "stop_metrics": stop_metrics} if evaluate else {}
    trainer = SViTTTrainer(
        model or Scalar(), args, loader, evaluate_split=lambda bare, split: (None, {"score": evaluate(bare)}), **scored
    )
    trainer.train(find_checkpoint(folder, resume) if resume in (None, "latest") else resume)
    return trainer, trainer.model.weight.item()


def losses_of(trainer):
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


# ---- Updates


def test_every_row_comes_once_in_an_epoch_in_another_order_each_time(tmp_path):
    trainer, _ = train(tmp_path, num_train_epochs=2)
    first, second = trainer.model.seen[:4], trainer.model.seen[4:]
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(8)) and first != second


def test_accumulated_batches_make_one_update(tmp_path):
    settings = {"num_train_epochs": 3, "warmup_epochs": 1}
    large, weight = train(tmp_path / "large", batch_size=4, **settings)
    small, same = train(tmp_path / "small", batch_size=2, gradient_accumulation_steps=2, **settings)
    assert same == pytest.approx(weight, rel=1e-6) and small.state.global_step == 6
    assert losses_of(small) == pytest.approx(losses_of(large), rel=1e-5)


def test_an_epoch_may_end_with_fewer_batches_in_an_update(tmp_path):
    trainer, _ = train(tmp_path, gradient_accumulation_steps=3, num_train_epochs=1)
    assert (trainer.state.global_step, len(trainer.model.seen)) == (2, 4)
    halves = [line["loss_half"] for line in trainer.state.log_history if "loss_half" in line]
    assert halves == pytest.approx([loss / 2 for loss in losses_of(trainer)], rel=1e-4)


def test_a_process_trains_on_one_of_several_gpus_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.warns(UserWarning, match="One of 2 GPUs is used; `accelerate launch` uses all"):
        trainer, _ = train(tmp_path, max_steps=1)
    assert trainer.model_wrapped is trainer.model  # no `DataParallel`, which would give a loss for each GPU


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 8 updates, 2 of warm-up; half a cosine over the other 6.
        ({"num_train_epochs": 2, "warmup_epochs": 0.5}, [0.01, 0.05, 0.1, 0.0933013, 0.075, 0.05, 0.025, 0.01]),
        ({"max_steps": 4, "min_lr_multi": 0.0, "warmup_epochs": 0.5}, [0.0, 0.05, 0.1, 0.05]),
        ({"max_steps": 4, "min_lr_multi": 0.0, "warmup_steps": 2}, [0.0, 0.05, 0.1, 0.05]),
        ({"max_steps": 4, "lr_scheduler_type": "linear"}, [0.1, 0.075, 0.05, 0.025]),
    ],
    ids=str,
)
def test_learning_rate_follows_the_schedule_per_update(tmp_path, settings, expected):
    trainer, _ = train(tmp_path, **settings)
    lrs = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    assert lrs == pytest.approx(expected, abs=1e-6)


def test_log_has_means_since_the_line_before_and_one_after_each_epoch(tmp_path):
    trainer, _ = train(tmp_path, num_train_epochs=1, learning_rate=0.0, logging_steps=3)
    losses = [torch.tensor(numbers).square().mean().item() for numbers in trainer.model.seen]
    assert losses_of(trainer) == pytest.approx([sum(losses[:3]) / 3, losses[3]])
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["step"] for line in lines] == [3, 4] and all(line["clips_per_second"] > 0 for line in lines)
    assert all(0 <= line["data_wait"] <= 1 and line["skipped_updates"] == 0 for line in lines)


# ---- Losses that are not finite


def test_update_that_is_not_finite_is_skipped(tmp_path, capsys):
    numbers = [1.0, math.nan, 3.0, math.inf]
    trainer, weight = train(tmp_path, numbers=numbers, batch_size=1, logging_steps=4, num_train_epochs=2)
    lines = [line for line in trainer.state.log_history if "loss_half" in line]
    assert trainer.state.global_step == 8 and math.isfinite(weight)
    assert [(line["skipped_updates"], math.isfinite(line["loss_half"])) for line in lines] == [(2, True), (4, True)]
    assert "the loss or its gradient is not finite; skipped. Its clips: nan.mp4." in capsys.readouterr().out


def test_too_many_that_are_not_finite_end_the_training(tmp_path):
    with pytest.raises(InputError, match=r"as in the 9 before it; .* The last clips: nan\.mp4"):
        train(tmp_path, numbers=[math.nan] * MAX_SKIPPED_IN_A_ROW, batch_size=1)


# ---- The best


def scores(*values):
    given = iter(values)
    return lambda bare: next(given)


def test_best_epoch_is_kept(tmp_path):
    trainer, weight = train(tmp_path, evaluate=scores(10.0, 30.0, 20.0, 30.0), num_train_epochs=4)
    assert (trainer.best_epoch, trainer.best_step, trainer.state.best_metric) == (2, 8, 30.0)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-8", "checkpoint-16"}
    assert load_file(tmp_path / "checkpoint-8/model.safetensors")["weight"].item() == weight
    trainer.save_model()
    assert load_file(tmp_path / "model.safetensors")["weight"].item() == weight


class Layered(Scalar):
    """The same weight, of a layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return super().forward(x - self.layer(torch.ones(1, 1)))


@pytest.mark.parametrize(("name", "folder"), [("default", "checkpoint-8"), ("mine", "checkpoint-8/mine")])
def test_adapters_of_the_best_epoch_are_kept(tmp_path, name, folder):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(Layered(), peft.LoraConfig(target_modules=["layer"]), adapter_name=name)
    train(tmp_path, model, evaluate=scores(10.0, 30.0, 20.0), num_train_epochs=3)
    best = load_file(tmp_path / folder / "adapter_model.safetensors")
    kept = peft.get_peft_model_state_dict(model, adapter_name=name)
    assert kept.keys() == best.keys() and all(torch.equal(kept[name], best[name]) for name in best)


def test_the_epoch_is_kept_whose_better_score_is_the_best(tmp_path):
    evaluate = scores({"itm": 6.0, "itc": 20.0}, {"itm": 4.0, "itc": 60.0}, {"itm": 50.0, "itc": 10.0})
    names = ["val_score_itm", "val_score_itc"]
    trainer, _ = train(tmp_path, evaluate=evaluate, stop_metrics=names, num_train_epochs=3)
    assert (trainer.best_epoch, trainer.state.best_metric) == (2, 60.0)


def test_adapters_train_without_checkpoints(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(Layered(), peft.LoraConfig(target_modules=["layer"]))
    trainer, _ = train(tmp_path, model, num_train_epochs=1, save_strategy="no")
    assert trainer.state.global_step == 4


def test_another_run_removes_no_checkpoints(tmp_path):
    train(tmp_path, num_train_epochs=1)
    with pytest.raises(InputError, match="is of an earlier run"):
        train(tmp_path, num_train_epochs=1)
    assert (tmp_path / "checkpoint-4/model.safetensors").is_file()


def test_last_epoch_is_kept_without_a_score(tmp_path):
    trainer, weight = train(tmp_path, num_train_epochs=3)
    assert trainer.best_epoch == 3 and [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-12"]
    assert load_file(tmp_path / "checkpoint-12/model.safetensors")["weight"].item() == weight


def test_evaluation_by_steps_and_at_the_end(tmp_path):
    trainer, _ = train(tmp_path, evaluate=scores(1.0, 3.0, 2.0, 4.0), num_train_epochs=2, eval_steps=3)
    assert trainer.best_step == 6
    assert [line["step"] for line in trainer.state.log_history if "eval_val_score" in line] == [3, 6, 8]
    assert trainer.evaluate("val") == {"eval_val_score": 4.0, "eval_stop_metric": 4.0}


# ---- Runs that end early


class Killed(BaseException):
    pass


def kill_at(number):
    def at_forward(seen):
        if seen == number:
            raise Killed

    return at_forward


def scored_by_weight(bare):
    # Draws from the global state, and is the best after two of three epochs.
    return -abs(bare.weight.item() - 0.5) + 1e-6 * torch.rand(()).item()


SETTINGS = {"num_train_epochs": 3, "warmup_epochs": 1, "evaluate": scored_by_weight}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    trainer, weight = train(tmp_path_factory.mktemp("whole"), Scalar(0.1), **SETTINGS)
    assert trainer.best_step == 8
    return trainer, weight


def assert_same_run(trainer, whole):
    """The same weight to the bit, the same best, the same scores."""
    expected, weight = whole
    assert trainer.model.weight.item() == weight and trainer.best_step == expected.best_step
    evaluations = [
        [(line["step"], line["eval_val_score"]) for line in one.state.log_history if "eval_val_score" in line]
        for one in (trainer, expected)
    ]
    assert evaluations[0] == evaluations[1]


@pytest.mark.parametrize("settings", [{"save_steps": 3}, {}], ids=str)
@pytest.mark.parametrize("killed_at", [1, 4, 5, 6, 7, 10, 12])
def test_resumed_training_is_as_if_never_killed(tmp_path, whole, killed_at, settings):
    with pytest.raises(Killed):
        train(tmp_path, Scalar(0.1, kill_at(killed_at)), "latest", **SETTINGS | settings)
    trainer, _ = train(tmp_path, Scalar(0.1), "latest", **SETTINGS | settings)
    assert_same_run(trainer, whole)
    # There are checkpoints after each evaluation, too.
    saved = [step for step in range(killed_at) if step % settings.get("save_steps", 4) == 0 or step % 4 == 0]
    assert len(trainer.model.seen) == 12 - saved[-1]
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-8", "checkpoint-12"}


def test_resumed_with_workers_accumulation_and_evaluation_within_epochs(tmp_path):
    settings = SETTINGS | {"gradient_accumulation_steps": 2, "numbers": range(20), "eval_steps": 3}
    settings |= {"num_workers": 1, "save_steps": 2}
    whole = train(tmp_path / "whole", Scalar(0.1), **settings)
    with pytest.raises(Killed):
        train(tmp_path / "run", Scalar(0.1, kill_at(15)), **settings)
    assert_same_run(train(tmp_path / "run", Scalar(0.1), "latest", **settings)[0], whole)


@pytest.mark.parametrize("killed_in", [1, 2, 3])
def test_killed_while_evaluating(tmp_path, whole, killed_in):
    calls = []

    def evaluate(bare):
        calls.append(bare)
        if len(calls) == killed_in:
            raise Killed
        return scored_by_weight(bare)

    with pytest.raises(Killed):
        train(tmp_path, Scalar(0.1), **SETTINGS | {"evaluate": evaluate})
    trainer, _ = train(tmp_path, Scalar(0.1), "latest", **SETTINGS)
    assert_same_run(trainer, whole)
    assert len(trainer.model.seen) == 12 - 4 * (killed_in - 1)  # its epoch is made again


# What Python tells of when it touches files; a checkpoint takes dozens of these.
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "shutil.rmtree"}


def killed_while_writing(moment, folder):
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
        train(folder, Scalar(0.1), "latest", **SETTINGS, save_steps=1)
    finally:
        os._exit(1 if sys.exc_info()[0] else 0)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_of_writing_checkpoints(tmp_path, whole, seed):
    rng = random.Random(seed)
    num_kills = sum(killed_while_writing(rng.randint(1, 100), tmp_path) for _ in range(8))
    trainer, _ = train(tmp_path, Scalar(0.1), "latest", **SETTINGS, save_steps=1)
    assert num_kills >= 4
    assert_same_run(trainer, whole)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-8", "checkpoint-12"}


@pytest.mark.parametrize(
    ("number", "signalled_at"),
    [(signal.SIGTERM, 5), (signal.SIGTERM, 8), (signal.SIGTERM, "evaluation"), (signal.SIGINT, 6)],
)
def test_sigterm_and_ctrl_c_save_and_exit(tmp_path, whole, number, signalled_at, capsys):
    def terminate_at(update):
        if update == signalled_at:
            os.kill(os.getpid(), number)

    def evaluate(bare):
        if signalled_at == "evaluation":
            os.kill(os.getpid(), number)
        return scored_by_weight(bare)

    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, Scalar(0.1, terminate_at), **SETTINGS | {"evaluate": evaluate})
    assert stopped.value.code == (0 if number == signal.SIGTERM else 130) and signal.getsignal(number) is handler
    step = int(capsys.readouterr().out.partition("saved after update ")[2].partition(";")[0])
    assert step - (4 if signalled_at == "evaluation" else signalled_at) in (0, 1)
    trainer, _ = train(tmp_path, Scalar(0.1), "latest", **SETTINGS)
    assert_same_run(trainer, whole)
    assert len(trainer.model.seen) == 12 - step


@pytest.mark.parametrize("settings", [{"num_train_epochs": 3}, {"max_steps": 10}], ids=str)
def test_a_run_that_ended_is_resumed_without_an_update(tmp_path, settings):
    settings = SETTINGS | settings
    whole = train(tmp_path, Scalar(0.1), **settings)
    trainer, _ = train(tmp_path, Scalar(0.1), True, **settings)
    assert_same_run(trainer, whole)
    assert trainer.model.seen == []


def test_last_checkpoints_are_kept_whatever_their_dates_and_an_earlier_one_can_be_resumed(tmp_path):
    settings = {"num_train_epochs": 3, "save_steps": 1, "save_total_limit": 3}

    def date_back(number):
        for checkpoint in tmp_path.glob("checkpoint-*"):
            os.utime(checkpoint, (2e9 - number, 2e9 - number))

    _, weight = train(tmp_path, Scalar(0.1, date_back), **settings)
    names = {path.name for path in tmp_path.glob("checkpoint-*")}
    assert names == {"checkpoint-10", "checkpoint-11", "checkpoint-12"}
    again, same = train(tmp_path, Scalar(0.1), str(tmp_path / "checkpoint-10"), **settings)
    assert same == weight and len(again.model.seen) == 2


@pytest.mark.parametrize(
    ("resume", "words"),
    [
        (None, "checkpoint-4: is of an earlier run; give --resume_from_checkpoint latest"),
        ("nowhere", "nowhere: is no checkpoint"),
        ("latest", "was written by 2 processes and can only be resumed by as many, not by 1"),
    ],
)
def test_what_cannot_be_resumed_is_one_sentence(tmp_path, resume, words):
    train(tmp_path, num_train_epochs=1)
    shutil.copy(tmp_path / "checkpoint-4/rng_state.pth", tmp_path / "checkpoint-4/rng_state_1.pth")
    with pytest.raises(InputError, match=words):
        train(tmp_path, resume=resume, num_train_epochs=2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": -1.0}, ["learning_rate", "at least 0", "-1"]),
        ({"per_device_train_batch_size": 0}, ["per_device_train_batch_size", "at least 1", "0"]),
        ({"larger_lr": 1.0}, ["--larger_lr and --larger_lr_names go together"]),
        ({"larger_lr": 1.0, "larger_lr_names": ["wings"]}, ["larger_lr_names", "'wings' is part of no trainable"]),
        ({"report_to": "nosuch"}, ["`report_to` nosuch is not among the trackers that are installed"]),
    ],
    ids=str,
)
def test_settings_that_cannot_be(tmp_path, settings, words):
    with pytest.raises(InputError) as error:
        train(tmp_path, **settings)
    assert all(word in str(error.value) for word in words), error.value


# ---- PROFILE=1


def test_a_profile_shows_a_few_updates_and_changes_none(tmp_path, monkeypatch, capsys):
    _, weight = train(tmp_path / "plain", num_train_epochs=2)
    assert not list(tmp_path.glob("*/trace*"))
    monkeypatch.setenv("PROFILE", "1")
    _, same = train(tmp_path / "profiled", num_train_epochs=2)
    events = json.loads((tmp_path / "profiled/trace_0.json").read_text())["traceEvents"]
    steps = {event["name"] for event in events if event["name"].startswith("ProfilerStep")}
    assert same == weight and steps == {"ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"}
    assert "trace_0.json: a trace of" in capsys.readouterr().out
    train(tmp_path / "short", max_steps=1)
    assert not list(tmp_path.glob("short/trace*"))
