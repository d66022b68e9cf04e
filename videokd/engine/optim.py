"""Optimiser, learning-rate schedule, weight averaging, and frozen batch norm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from videokd.config import Config

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Config):
    """How weights move: AdamW or SGD, linear warm-up, then a cosine down to a floor."""

    kind: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(gt=0)
    """Peak learning rate, reached at the end of the warm-up; for the whole global batch."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled for AdamW; not applied to biases and norm weights (1-D parameters)."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs of linear rise from lr / (warm-up steps)."""
    final_lr_fraction: float = Field(0.0, ge=0, le=1)
    """The cosine ends at this fraction of `lr`."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD's (Nesterov); AdamW has its betas."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's."""
    head_lr_factor: float = Field(1.0, gt=0)
    """The classifier's learning rate over the rest's: above 1 for a new head on trained weights."""


def create_optimizer(
    config: OptimConfig, module: nn.Module, *, head: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """An optimiser over the trainable parameters, in groups that know their `lr_factor`."""
    groups = _parameter_groups(module, config, head={id(p) for p in head})
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0
    )


def _parameter_groups(
    module: nn.Module, config: OptimConfig, *, head: set[int]
) -> list[dict[str, object]]:
    split: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            key = (parameter.ndim > 1, id(parameter) in head)
            split.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr_factor": config.head_lr_factor if is_head else 1.0,
        }
        for (decays, is_head), parameters in sorted(split.items())
    ]


def lr_at(step: int, *, total_steps: int, warmup_steps: int, final_fraction: float) -> float:
    """The factor on the peak learning rate at a step in [0, total_steps): warm-up, then cosine.

    A pure function of the step, so a resumed run needs no scheduler state.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    through = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * through))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each group its learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


@torch.no_grad()
def move_towards(
    average: dict[str, torch.Tensor], module: nn.Module, *, decay: float, step: int
) -> None:
    """One step of an exponential moving average (EMA) of a module's floating-point state, in place.

    The decay rises as (1 + step) / (10 + step) up to `decay`, so that short runs are not held
    back by their random start (as in TensorFlow's and timm's EMA). `step` counts from 0.
    """
    current = dict(float_state(module))
    names = list(average)
    torch._foreach_lerp_(
        [average[name] for name in names],
        [current[name] for name in names],
        1 - min(decay, (1 + step) / (10 + step)),
    )


class WeightAverage:
    """An exponential moving average beside the module that it is of; see `move_towards`."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in float_state(module)}

    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's present weights; `step` counts from 0."""
        move_towards(self.state, module, decay=self.decay, step=step)

    @contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Within the block the module has the averaged weights; afterwards its own again."""
        own = {name: value.detach().clone() for name, value in float_state(module)}
        _copy_into(module, self.state)
        try:
            yield
        finally:
            _copy_into(module, own)


def float_state(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Weights and buffers with a fraction, by name; not those that count (batch norm's steps)."""
    return [(name, t) for name, t in module.state_dict().items() if t.is_floating_point()]


@torch.no_grad()
def _copy_into(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    for name, value in float_state(module):
        value.copy_(state[name])


def freeze_batch_norm(module: nn.Module) -> None:
    """Batch norms keep their statistics and their scale and shift: eval mode, no gradients."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
            for parameter in child.parameters(recurse=False):
                parameter.requires_grad_(False)
