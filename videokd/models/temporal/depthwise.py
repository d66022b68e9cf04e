"""A learned filter over time for each channel: the shift, free to become something better.

Letters: **N** clips, **T** frames, **C** channels, **h w** cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videokd.errors import ConfigError
from videokd.models.temporal.branch import BranchModule, filter_over_time


class TemporalDepthwise(BranchModule):
    """A depthwise convolution over three frames: [N*T,C,h,w] -> the same shape.

    Its filters start as the temporal shift of `shift_div`, which they can express exactly (as the
    channel-wise convolutions of TEA do, arXiv:2004.01398): a network with it starts as that TSM,
    and a TSM's weights fit.
    """

    def __init__(self, channels: int, num_frames: int, shift_div: int = 8) -> None:
        super().__init__(num_frames)
        self.weight = nn.Parameter(shift_kernels(channels, shift_div))
        """[C,3]: what a channel takes of the frame before, of its own and of the one after."""

    def forward(self, frames: Tensor) -> Tensor:
        """Filter [N*T,C,h,w]."""
        return filter_over_time(frames, self.weight, self.num_frames)


def shift_kernels(channels: int, shift_div: int) -> Tensor:
    """Filters [C,3] that are the temporal shift; `ConfigError` where C is less than `shift_div`."""
    num_moved = channels // shift_div
    if num_moved == 0:
        raise ConfigError(
            f"the temporal filter starts as a shift of one channel in {shift_div}, and a block of "
            f"the backbone has only {channels}; make it wider or shift_div smaller"
        )
    source = torch.ones(channels, dtype=torch.long)
    source[:num_moved] = 2  # from the next frame
    source[num_moved : 2 * num_moved] = 0  # from the last one
    return nn.functional.one_hot(source, 3).float()
