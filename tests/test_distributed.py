# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Two processes on CPU that share out the model (FSDP2) or the batch alone (DDP), and one with the whole batch."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from svitt import SViTTForPreTraining
from svitt.errors import InputError
from svitt.training.checkpoints import CheckpointArguments, Checkpoints
from svitt.training.loop import OptimizationArguments, Training
from svitt.training.optimization import parameter_groups
from svitt.training.sharding import check_settings, full_state_dict, shard, whole

from .conftest import assert_close
from .unit.test_modeling import clips, task_model, texts

pytestmark = pytest.mark.slow  # all runs in one launch, half a minute

ROOT = Path(__file__).parent.parent
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from tests.test_distributed import run_as_one_of_two
run_as_one_of_two({folder!r})
"""


def make_accelerator(sharded=False, **settings):
    """An accelerator, and one for FSDP2 as Accelerate makes it on GPUs: for CPU processes it takes DDP instead."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True, **settings)
    distributed_type = DistributedType.FSDP if sharded else DistributedType.MULTI_CPU
    if accelerator.num_processes > 1:
        PartialState().distributed_type = accelerator.state.distributed_type = distributed_type
    if sharded:
        options = {"state_dict_type": "FULL_STATE_DICT", "cpu_ram_efficient_loading": False}
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **options)
        if accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(accelerator.mixed_precision)
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def prepare(accelerator, checkpointed=False, gathered=True):
    model = task_model(SViTTForPreTraining, itc_all_gather=gathered)
    if not accelerator.is_main_process:
        torch.nn.init.normal_(model.vision_proj.weight)  # those of the main process count
    if checkpointed:
        model.activation_checkpointing_enable()
    shard(accelerator, model)
    # With the usual eps, a step divides gradients that are zero but for rounding by themselves.
    optimizer = torch.optim.AdamW(parameter_groups(model.named_parameters(), 1e-2), eps=1e-3, foreach=True)
    return accelerator.prepare(model, optimizer)


class OneEpoch(list):
    """Batches as a loader of the loop."""

    def set_epoch(self, epoch):
        pass

    def state_dict(self):
        return {}


def share_of_batch(process_index, num_processes):
    """A process's share of 4 clips and texts, with the other of its pair as negatives and one word masked each."""
    (ids, mask), pixels = texts(4), clips(4)
    masked, labels = ids.clone(), torch.full_like(ids, -100)
    masked[:, 2], labels[:, 2] = 4, ids[:, 2]
    size = 4 // num_processes
    share = slice(size * process_index, size * (process_index + 1))
    batch = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
    batch |= {"mlm_input_ids": masked, "mlm_labels": labels}
    batch = {name: value[share] for name, value in batch.items()}
    others = torch.tensor([1, 0, 3, 2])[:size]
    return batch | {"negative_video_idx": others, "negative_text_idx": others}


def train(accelerator, model, optimizer, first_step=0, num_steps=1):
    """Steps with the same sparse blocks everywhere; returns the loss and gradient norm of the last."""
    model.train()
    for batch in range(num_steps * accelerator.gradient_accumulation_steps):
        torch.manual_seed(first_step + batch)
        with accelerator.accumulate(model):
            loss = model(**share_of_batch(accelerator.process_index, accelerator.num_processes)).loss
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), 1e6)
            optimizer.step()
            optimizer.zero_grad()
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return accelerator.reduce(loss.detach(), "mean").item(), norm.item()


@torch.no_grad()
def evaluate(accelerator, model):
    """What retrieval calls, more often on the second process than on the first."""
    bare = accelerator.unwrap_model(model).eval()
    (ids, mask), pixels = texts(4), clips(4)
    with whole(accelerator, bare), accelerator.autocast():
        for _ in range(1 + accelerator.process_index):
            video, text = bare.get_video_features(pixels), bare.get_text_features(ids, mask)
            scores = bare.match(pixels, ids, mask)
    return [video.pooler_output, text.pooler_output, scores, bare.similarity(video.pooler_output, text.pooler_output)]


def train_and_evaluate(folder, sharded=False, num_steps=1, checkpointed=False, gathered=True, **settings):
    """A result of everything that training does with a model; the main process saves it to a folder."""
    accelerator = make_accelerator(sharded, **settings)
    model, optimizer = prepare(accelerator, checkpointed, gathered)
    result = {"before": evaluate(accelerator, model), "step": train(accelerator, model, optimizer, num_steps=num_steps)}
    result["after"] = evaluate(accelerator, model)
    save(accelerator, model, folder)
    if accelerator.is_main_process:
        torch.save(result, folder / "result.pt")
    accelerator.wait_for_everyone()
    return model, optimizer, accelerator


def train_with_the_loop(folder, batches, **options):
    """An update of [`Training`] by the mean gradient of some batches of this process."""
    accelerator = make_accelerator()

    def seeded(batch):  # the same sparse blocks everywhere
        torch.manual_seed(0)
        return batch

    # With the usual eps, a step divides gradients that are zero but for rounding by themselves.
    with mock.patch("torch.optim.AdamW", partial(torch.optim.AdamW, eps=1e-3)):
        training = Training(
            accelerator,
            task_model(SViTTForPreTraining, **options),
            OneEpoch(batches),
            OptimizationArguments(
                learning_rate=1e-2, max_steps=1, warmup_steps=0, gradient_accumulation_steps=len(batches)
            ),
            Checkpoints(folder, CheckpointArguments()),
            save=lambda model, weights: None,
            to_model_inputs=seeded,
        )
    training.run()
    save(accelerator, training.model, folder)


def save(accelerator, model, folder):
    state_dict = full_state_dict(accelerator, model)
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(folder, state_dict=state_dict)
    accelerator.wait_for_everyone()


CASES = {
    "plain": {},
    "local": {"gathered": False},  # each process has a gradient of the temperature of its own
    "checkpointed": {"checkpointed": True},
    "accumulated": {"gradient_accumulation_steps": 2, "gathered": False},
    "bf16": {"mixed_precision": "bf16"},
}


def run_as_one_of_two(folder):
    folder = Path(folder)
    for name, case in CASES.items():
        train_and_evaluate(folder / f"ddp_{name}", **case)
        model, *_ = train_and_evaluate(folder / f"fsdp_{name}", sharded=True, **case)
        plain = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
        assert plain == ["temp"], plain
    share = share_of_batch(int(os.environ["RANK"]), 2)
    train_with_the_loop(folder / "loop_local", [share])
    train_with_the_loop(folder / "loop_gathered", [share], itc_all_gather=True)
    # Two steps at once, and with the state saved and loaded into another model in between.
    train_and_evaluate(folder / "straight", sharded=True, num_steps=2)
    model, optimizer, accelerator = train_and_evaluate(folder / "first", sharded=True)
    accelerator.save_state(str(folder / "state"))
    accelerator = make_accelerator(sharded=True)
    model, optimizer = prepare(accelerator)
    accelerator.load_state(str(folder / "state"))
    train(accelerator, model, optimizer, first_step=1)
    save(accelerator, model, folder / "resumed")
    PartialState().destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the runs of two processes."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "script.py").write_text(SCRIPT.format(root=str(ROOT), folder=str(folder)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, str(folder / "script.py")], check=True, env=environment, timeout=300)
    return folder


def assert_same_run(folder, expected_folder, atol):
    actual, expected = (torch.load(path / "result.pt") for path in (folder, expected_folder))
    for part in ("before", "after"):
        for tensor, expected_tensor in zip(actual[part], expected[part], strict=True):
            assert_close(tensor, expected_tensor, atol)
    assert actual["step"] == pytest.approx(expected["step"], rel=atol)
    assert_same_weights(folder, expected_folder, atol)


def assert_same_weights(folder, expected_folder, atol):
    actual, expected = (load_file(path / "model.safetensors") for path in (folder, expected_folder))
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=atol, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("case", ["plain", "local", "checkpointed", "accumulated"])
def test_sharded_training_is_data_parallel_training(runs, case):
    assert_same_run(runs / f"fsdp_{case}", runs / f"ddp_{case}", 1e-5)


def test_activations_computed_again_are_the_same(runs):
    assert_same_run(runs / "ddp_checkpointed", runs / "ddp_plain", 1e-5)


def test_sharded_training_in_half_precision(runs):
    (loss, _), (expected, _) = (torch.load(runs / name / "result.pt")["step"] for name in ("fsdp_bf16", "ddp_bf16"))
    assert loss == pytest.approx(expected, rel=0.05)
    assert {str(value.dtype) for value in load_file(runs / "fsdp_bf16/model.safetensors").values()} == {"torch.float32"}


def test_two_processes_are_one_with_the_whole_batch(runs, tmp_path):
    train_and_evaluate(tmp_path)
    assert_same_run(runs / "fsdp_plain", tmp_path, 1e-5)
    model = SViTTForPreTraining.from_pretrained(tmp_path)
    assert (model.temp - task_model(SViTTForPreTraining).temp).abs() > 1e-4  # 0-D, and trained as well


def test_two_processes_of_the_loop_are_one_that_accumulates_their_batches(runs, tmp_path):
    train_with_the_loop(tmp_path, [share_of_batch(0, 2), share_of_batch(1, 2)])
    assert_same_weights(tmp_path, runs / "loop_local", 1e-5)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path, runs / "loop_gathered", 1e-5)


def test_two_processes_of_the_loop_that_gather_are_one_with_the_whole_batch(runs, tmp_path):
    train_with_the_loop(tmp_path, [share_of_batch(0, 1)])
    assert_same_weights(tmp_path, runs / "loop_gathered", 1e-5)


def test_a_sharded_model_is_saved_as_any_other(runs):
    folder, expected = runs / "fsdp_plain", runs / "ddp_plain"
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}
    assert (folder / "config.json").read_text() == (expected / "config.json").read_text()
    model, info = SViTTForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.cls.predictions.decoder.weight is model.text_model.embeddings.word_embeddings.weight


def test_sharded_training_goes_on_from_a_saved_state(runs):
    assert_same_weights(runs / "resumed", runs / "straight", 0)
    with pytest.raises(AssertionError):
        assert_same_weights(runs / "resumed", runs / "first", 1e-5)


@pytest.mark.parametrize(
    "setting",
    [
        {"fsdp_version": 1},
        {"cpu_ram_efficient_loading": True},
        {"activation_checkpointing": True},
        {"state_dict_type": "SHARDED_STATE_DICT"},
    ],
    ids=str,
)
def test_settings_that_sharding_does_not_go_with(setting):
    options = {"fsdp_version": 2, "cpu_ram_efficient_loading": False} | setting
    with pytest.raises(InputError, match=f"fsdp_{next(iter(setting)).removeprefix('fsdp_')} of the Accelerate"):
        check_settings(FullyShardedDataParallelPlugin(**options))
