"""Parameters and multiply-adds of a network, counted without computing anything.

The convention is that of the papers: one multiply-add is one operation, and those of convolutions,
linear layers, matrix products and attention are counted. Normalisation, activations, pooling and
additions are not. (PyTorchVideo's zoo adds 5 per normalised element, mmaction2 adds 2 and leaves
the head out; FLOPs in the strict sense are twice this number.)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from videokd.errors import UserError

FLOPS_PER_MAC = 2
"""torch's counter counts the multiplication and the addition."""


@dataclass(frozen=True, slots=True)
class Complexity:
    """The size of a network and the work of one view."""

    params_m: float
    """Parameters, 1e6; shared ones once."""
    gmacs: float
    """1e9 multiply-adds for one clip and one crop."""


def count_complexity(model: nn.Module, *, num_frames: int, crop_px: int) -> Complexity:
    """Parameters, and multiply-adds of one view: a clip float [1, 3, T, S, S].

    The count runs on a copy on the `meta` device, where tensors have shapes and no values: on a
    CPU torch's counter sees nothing of fused attention. Weights, buffers, mode and the random
    state of `model` are not touched.

    Args:
        model: takes clips, returns logits or an object with `.logits`.
        num_frames: T.
        crop_px: S.

    Raises:
        UserError: where the network cannot run on `meta` or not on clips of this size.
    """
    params_m = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    shadow = _on_meta(untapped(model)).eval()
    counter = FlopCounterMode(display=False)
    try:
        # The default device covers networks that make tensors in `forward` without naming one.
        with torch.no_grad(), torch.device("meta"), counter:
            logits_of(shadow(torch.empty(1, 3, num_frames, crop_px, crop_px)))
    except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"{type(model).__name__} cannot be counted on clips of {num_frames} frames of "
            f"{crop_px} px: {first_line(error)}"
        ) from None
    return Complexity(params_m=params_m, gmacs=counter.get_total_flops() / FLOPS_PER_MAC / 1e9)


def untapped(model: nn.Module) -> nn.Module:
    """The network without the recording that training needs, where it knows how to shed it."""
    shed = getattr(model, "without_taps", None)
    return shed() if callable(shed) else model


def logits_of(output: Any) -> torch.Tensor:
    """Logits [N, K] of whatever a network returned: the tensor itself, or its `.logits`."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor):
        raise UserError(
            f"the network returned a {type(output).__name__}; a tensor of logits or an object "
            "with .logits is needed"
        )
    return logits


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for one plain line of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes and no storage; nothing is duplicated."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        shape = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(shape, requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{type(model).__name__} cannot be copied: {first_line(error)}") from None
