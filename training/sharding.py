# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""FSDP2: each process keeps a share of every parameter, its gradient and its optimizer state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, StateDictType, fully_shard
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import InputError


def shard(accelerator: Accelerator, model: PreTrainedModel):
    """Share out a model's parameters where Accelerate is configured for FSDP2; else do nothing.

    Call it on the whole model before the optimizer is made; `accelerator.prepare` then leaves the model as it is. Its
    own way to shard fails here: it takes tied embeddings apart, and stops at 0-D parameters, which have no rows to
    share. Names and shapes in `state_dict` stay what they are. Mixed precision computes as under DDP: by autocast, with
    gradients averaged in float32.

    Raises:
        InputError: for settings of FSDP that this does not go with.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    plugin, model_class = accelerator.state.fsdp_plugin, type(model)
    check_settings(plugin)
    half = getattr(plugin.mixed_precision_policy, "param_dtype", None)  # gathers half the bytes
    options = {
        "mesh": init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        "mp_policy": MixedPrecisionPolicy(half, reduce_dtype=half and torch.float32, cast_forward_inputs=False),
        "offload_policy": plugin.cpu_offload,
    }
    model.to(accelerator.device)
    for tensor in (*model.parameters(), *model.buffers()):
        torch.distributed.broadcast(tensor.detach(), src=0)  # as DDP does
    scalars = {parameter for parameter in model.parameters() if parameter.dim() == 0}
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            fully_shard(module, reshard_after_forward=plugin.reshard_after_forward, **options)
    # All that is outside of layers makes one group, as tied parameters must be in the same.
    fully_shard(model, ignored_params=scalars, **options)
    fully_shard.state(model)._lazy_init()  # else done by the first step: `whole` may come before
    for scalar in scalars:
        scalar.register_post_accumulate_grad_hook(average_gradient)
    # `save_pretrained` writes the name of the class, and the code of the module that it comes from.
    type(model).__name__, type(model).__module__ = model_class.__name__, model_class.__module__
    model.forward = accelerator.autocast()(model.forward)


def check_settings(plugin: FullyShardedDataParallelPlugin):
    """Refuse what would take the place of `shard`, or read weights on the main process alone, with an `InputError`."""
    needed = {"fsdp_version": 2, "cpu_ram_efficient_loading": False, "activation_checkpointing": False}
    needed["state_dict_type"] = StateDictType.FULL_STATE_DICT  # the others are read in a way that runs what they hold
    for name, value in needed.items():
        if getattr(plugin, name) != value:
            raise InputError(
                f"fsdp_{name.removeprefix('fsdp_')} of the Accelerate configuration: must be "
                f"{getattr(value, 'name', str(value).lower())}, as in configs/fsdp2.yaml."
            )


def average_gradient(parameter: nn.Parameter):
    """Make the gradient the mean over processes; of gradients accumulated before, which are equal, nothing changes."""
    torch.distributed.all_reduce(parameter.grad)
    parameter.grad /= torch.distributed.get_world_size()


@contextmanager
def whole(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Have all parameters of a sharded model on every process, as evaluation needs them; else do nothing.

    Each process may then call any method any number of times, while a sharded layer waits for all processes to call it.
    Do not train or save inside, and enter and leave on all processes.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
            # Backward needs what is outside of layers at once: as `shard` does, it is not gathered again.
            keep = module is model or not accelerator.state.fsdp_plugin.reshard_after_forward
            module.set_reshard_after_forward(not keep, recurse=False)


def full_state_dict(accelerator: Accelerator, model: nn.Module) -> dict[str, torch.Tensor]:
    """What `save_pretrained` takes as `state_dict`; sharded, it is gathered for the main process, and empty for others.

    All processes must call it. `model` is the prepared or the bare one.
    """
    tied = accelerator.unwrap_model(model).all_tied_weights_keys
    # Gathered one by one, tied parameters no longer share memory, by which `save_pretrained` would know them.
    return {name: value for name, value in accelerator.get_state_dict(model).items() if name not in tied}
