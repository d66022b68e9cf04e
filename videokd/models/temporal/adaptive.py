"""The temporal adaptive module of TANet: filters over time that each clip makes for itself.

Letters: **N** clips, **T** frames, **C** channels, **h w** cells.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from videokd.errors import ConfigError
from videokd.models.temporal.branch import BranchModule, filter_over_time

_REDUCTION = 4
_EXPANSION = 2


class TemporalAdaptive(BranchModule):
    """TAM (arXiv:2005.06803): [N*T,C,h,w] -> the same shape.

    Both branches see the averages over space. The local one, two convolutions over time with a
    quarter of the channels between them, gives each frame and channel an importance in (0, 1). The
    global one, two linear layers over the T averages of a channel, gives each channel of each clip
    a filter over three frames that sums to 1. The frames are weighed, then filtered.
    """

    def __init__(self, channels: int, num_frames: int) -> None:
        super().__init__(num_frames)
        narrow, wide = channels // _REDUCTION, num_frames * _EXPANSION
        if narrow == 0:
            raise ConfigError(
                f"TAM works with a quarter of the channels, and a block of the backbone has only "
                f"{channels}; make it wider"
            )
        # In the published order, so that published weights fit by number.
        self.importance = nn.Sequential(
            nn.Conv1d(channels, narrow, 3, padding=1, bias=False),
            nn.BatchNorm1d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv1d(narrow, channels, 1, bias=False),
        )
        self.kernel = nn.Sequential(
            nn.Linear(num_frames, wide, bias=False),
            nn.BatchNorm1d(wide),
            nn.ReLU(inplace=True),
            nn.Linear(wide, 3, bias=False),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Weigh and filter [N*T,C,h,w]."""
        # [N,C,T]
        means = F.adaptive_avg_pool2d(frames, 1).unflatten(0, (-1, self.num_frames))
        means = means.flatten(2).transpose(1, 2)
        scales = self.importance(means).float().sigmoid().transpose(1, 2)
        # Softmax in fp32 whatever the frames are in: its three weights should sum to 1.
        kernels = self.kernel(means.flatten(0, 1)).float().softmax(-1).unflatten(0, means.shape[:2])
        return filter_over_time(frames, kernels, self.num_frames, scales=scales)
