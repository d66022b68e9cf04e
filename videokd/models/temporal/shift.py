"""Temporal shift: two parts of the channels move by one frame.

Letters: **N** clips, **T** frames, **C** channels, **h w** cells.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from videokd.errors import ConfigError
from videokd.models.temporal.branch import BranchModule


class TemporalShift(BranchModule):
    """Moves two parts of the channels by one frame: [N*T,C,h,w] -> the same shape and layout.

    With c = C // shift_div, channels [0, c) come from the next frame, [c, 2c) from the last one,
    the others stay. What has no neighbour is zero. This is the published definition (`shift` in
    the reference code of TSM), without its in-place variant, which breaks autograd.
    """

    def __init__(self, num_frames: int, shift_div: int = 8) -> None:
        super().__init__(num_frames)
        self.shift_div = shift_div

    def forward(self, frames: Tensor) -> Tensor:
        """Shift [N*T,C,h,w]; `ConfigError` where C is less than `shift_div`."""
        num_moved = frames.shape[1] // self.shift_div
        if num_moved == 0:
            raise ConfigError(
                f"temporal shift moves one channel in {self.shift_div}, and a block of the "
                f"backbone has only {frames.shape[1]}; make it wider or shift_div smaller"
            )
        if frames.requires_grad and torch.is_grad_enabled():
            return _Shift.apply(frames, self.num_frames, 0, num_moved)
        return _shifted(frames, self.num_frames, 0, num_moved)

    def extra_repr(self) -> str:
        """Shown when the network is printed."""
        return f"{super().extra_repr()}, shift_div={self.shift_div}"


class _Shift(torch.autograd.Function):
    """The gradient of a shift is the shift the other way: one pass over memory. Autograd would
    copy the whole gradient once for each slice that was written."""

    @staticmethod
    def forward(frames: Tensor, num_frames: int, back: int, forth: int) -> Tensor:
        return _shifted(frames, num_frames, back, forth)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.sizes = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        num_frames, back, forth = ctx.sizes
        return _Shift.apply(grads[0], num_frames, forth, back), None, None, None


def _shifted(frames: Tensor, num_frames: int, back: int, forth: int) -> Tensor:
    """Channels from `back` on come from the next frame, those from `forth` on from the last one;
    as many each as lie between the two."""
    num_moved = abs(forth - back)
    backs, forths = slice(back, back + num_moved), slice(forth, forth + num_moved)
    if torch.compiler.is_compiling():
        return _chosen(frames, num_frames, backs, forths)
    given = frames.unflatten(0, (-1, num_frames))
    # One straight copy of everything, then a quarter of it again: the least that was measured.
    # Filling an empty tensor part by part is slower, since the parts are no straight copies.
    # Shifting the products of the next convolution instead, from three parts of its weights, is
    # slower by 0.3 to 4 times: its output is written three times.
    shifted = frames.clone()
    by_clip = shifted.unflatten(0, (-1, num_frames))
    by_clip[:, :-1, backs] = given[:, 1:, backs]
    by_clip[:, -1, backs] = 0
    by_clip[:, 1:, forths] = given[:, :-1, forths]
    by_clip[:, 0, forths] = 0
    return shifted


def _chosen(frames: Tensor, num_frames: int, backs: slice, forths: slice) -> Tensor:
    """The same for a compiler: each element is chosen from one of three, which is one kernel,
    fused with the sum or activation before it. What `_shifted` writes into slices becomes one
    kernel a slice (inductor, torch 2.15, CPU: three to six times slower)."""
    given = frames.unflatten(0, (-1, num_frames))
    after = F.pad(given[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
    before = F.pad(given[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    channels = torch.arange(frames.shape[1], device=frames.device).view(-1, 1, 1)
    comes_back = (channels >= backs.start) & (channels < backs.stop)
    goes_forth = (channels >= forths.start) & (channels < forths.stop)
    chosen = torch.where(comes_back, after, torch.where(goes_forth, before, given))
    return chosen.flatten(0, 1)
