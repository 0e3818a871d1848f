# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""AdamW parameter groups and the learning rate schedule."""

import math
from collections.abc import Iterable, Sequence

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    weight_decay: float = 0.02,
    larger_lr: float | None = None,
    larger_lr_names: Sequence[str] = (),
) -> list[dict]:
    """Groups of the trainable parameters by weight decay and learning rate, for a torch optimizer.

    Biases and other 1-D parameters (norms, layer scales) are not decayed. All else is: the CLS token, the tables of
    relative position biases and the 0-D temperature too, as in the original.

    Args:
        named_parameters: `model.named_parameters()`.
        lr: peak learning rate.
        weight_decay: of decayed parameters.
        larger_lr: peak learning rate of parameters whose name contains one of `larger_lr_names`.
        larger_lr_names: parts of names.

    Returns:
        One dict with `params`, `lr` and `weight_decay` for each combination that occurs; decayed parameters first, the
        general learning rate first.

    Raises:
        ValueError: if no trainable parameter's name contains one of `larger_lr_names`.
    """
    trainable = {name: parameter for name, parameter in named_parameters if parameter.requires_grad}
    for part in larger_lr_names:
        if not any(part in name for name in trainable):
            raise ValueError(f"{part!r} is part of no trainable parameter's name.")
    groups = {}
    for name, parameter in trainable.items():
        is_decayed = not name.endswith(".bias") and parameter.dim() != 1
        has_larger_lr = any(part in name for part in larger_lr_names)
        groups.setdefault((not is_decayed, has_larger_lr), []).append(parameter)
    return [
        {
            "params": groups[not_decayed, has_larger_lr],
            "lr": larger_lr if has_larger_lr else lr,
            "weight_decay": 0 if not_decayed else weight_decay,
        }
        for not_decayed, has_larger_lr in sorted(groups)
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
