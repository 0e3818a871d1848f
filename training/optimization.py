# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""AdamW parameter groups and the learning rate schedule."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import itemgetter

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..errors import ArgumentError


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    weight_decay: float = 0.02,
    larger_lr: float | None = None,
    larger_lr_names: Sequence[str] = (),
) -> list[dict]:
    """Return groups of the trainable parameters by weight decay and learning rate, for a torch optimizer.

    Biases and other 1-D parameters (norms, layer scales) are not decayed. All else is: the CLS token, the tables of
    relative position biases and the 0-D temperature too, as in the original. Those whose names contain one of
    `larger_lr_names` have the peak learning rate `larger_lr`, all others `lr`.

    Raises:
        ArgumentError: if no trainable parameter's name contains one of `larger_lr_names`.
    """
    trainable = {name: parameter for name, parameter in named_parameters if parameter.requires_grad}
    for part in larger_lr_names:
        if not any(part in name for name in trainable):
            raise ArgumentError("larger_lr_names", f"{part!r} is part of no trainable parameter's name")
    groups = defaultdict(list)
    for name, parameter in trainable.items():
        is_free = name.endswith(".bias") or parameter.dim() == 1
        groups[is_free, any(part in name for part in larger_lr_names)].append(parameter)
    return [
        {"params": params, "lr": larger_lr if is_larger else lr, "weight_decay": 0 if is_free else weight_decay}
        for (is_free, is_larger), params in sorted(groups.items(), key=itemgetter(0))
    ]


def cosine_schedule(
    optimizer: Optimizer, num_warmup_steps: float, num_training_steps: int, min_lr_multi: float = 0.0
) -> LambdaLR:
    """Linear warm-up, then half a cosine down; never below `min_lr_multi` times the peak, in the warm-up neither.

    `transformers.get_cosine_with_min_lr_schedule_with_warmup` squeezes the cosine above the floor; this one is cut off
    by it. Step it once per optimizer step. Past `num_training_steps` the cosine goes up again, as in the original.
    """

    def multiplier(step: int) -> float:
        if step < num_warmup_steps:
            return max(min_lr_multi, step / max(1, num_warmup_steps))
        progress = (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)
        return max(min_lr_multi, 0.5 * (1 + math.cos(math.pi * progress)))

    return LambdaLR(optimizer, multiplier)
