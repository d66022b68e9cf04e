"""What makes unequal taps comparable: channels by a learned map, time by seconds, space by pooling.

Who is resampled:

- **channels**: the student is projected to the teacher's channels (learned).
- **time**: the teacher is read at the student's seconds, so that no gradient passes through
  an interpolation.
- **space**: whichever grid is finer is average-pooled to the other, axis by axis.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from videokd.errors import ConfigError


class ChannelProjection(nn.Module):
    """A learned 1x1x1 convolution from the student's channels to the teacher's (FitNets).

    The initial weights are `nn.Conv3d`'s, drawn from `generator` alone: building a projection
    leaves the global random state as it was. A batch norm after it takes the place of the bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        generator: torch.Generator,
        norm: Literal["none", "batch"] = "none",
        bias: bool = True,
    ) -> None:
        super().__init__()
        # skip_init: the usual constructor would draw from the global generator.
        self.conv = nn.utils.skip_init(
            nn.Conv3d, in_channels, out_channels, kernel_size=1, bias=bias and norm == "none"
        )
        draw_weights(self.conv, generator)
        self.norm = BatchNorm(out_channels) if norm == "batch" else nn.Identity()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, t, h, w] to [N, out_channels, t, h, w]."""
        return self.norm(self.conv(features))


class BatchNorm(nn.BatchNorm3d):
    """Batch norm of what a term learns, with an error that says what to do about a lone value."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[N, C, t, h, w], normalised.

        Raises:
            ConfigError: while training, N, t, h and w are all 1.
        """
        if self.training and features.numel() == features.shape[1]:
            raise ConfigError(
                "objective: batch norm of a term was given one clip of one step and one cell; use "
                "more clips per process and part (train.batch_size, train.accumulate), or a tap "
                "with a finer grid"
            )
        return super().forward(features)


class PooledProjection(nn.Module):
    """A learned linear map from the student's pooled features to the teacher's size.

    The initial weights are `nn.Linear`'s, drawn from `generator` alone.
    """

    def __init__(self, in_dim: int, out_dim: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = nn.utils.skip_init(nn.Linear, in_dim, out_dim)
        draw_weights(self.linear, generator)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """[N, in_dim] to [N, out_dim]."""
        return self.linear(pooled)


def draw_weights(layer: nn.Conv3d | nn.Linear, generator: torch.Generator) -> None:
    """First weights with the spread of torch's own layers, from `generator` alone."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    if layer.bias is not None:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def term_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator for what chance decides in one term, whatever other terms there are."""
    digest = hashlib.sha256(f"projection/{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def align_in_time(
    features: torch.Tensor, from_seconds: torch.Tensor, to_seconds: torch.Tensor
) -> torch.Tensor:
    """Features [N, C, t, h, w] at `from_seconds`, read at `to_seconds`; see `align_steps`.

    Returns:
        [N, C, t', h, w], t' the steps of `to_seconds`.
    """
    return align_steps(features.movedim(2, 1), from_seconds, to_seconds).movedim(1, 2)


def align_steps(
    values: torch.Tensor, from_seconds: torch.Tensor, to_seconds: torch.Tensor
) -> torch.Tensor:
    """Linear interpolation over time, a clip at a time, the first and last value held at the ends.

    Steps may come in any order (a looped clip starts over). Where several steps share one second
    (a clip that repeats its last frame) the last of them is read there. A clip whose seconds are
    the same on both sides comes back exactly as it was.

    Args:
        values: [N, t, ...], differentiable.
        from_seconds: [N, t], when each step happened.
        to_seconds: [N, t'], when a value is wanted.

    Returns:
        [N, t', ...].
    """
    if values.shape[:2] != from_seconds.shape or to_seconds.shape[:1] != values.shape[:1]:
        raise ValueError(
            f"seconds do not fit values {list(values.shape)}: from {list(from_seconds.shape)}, "
            f"to {list(to_seconds.shape)}"
        )
    known, order = from_seconds.sort(dim=1, stable=True)
    last = known.shape[1] - 1
    lower = torch.searchsorted(known, to_seconds.contiguous(), right=True) - 1
    upper = (lower + 1).clamp(max=last)
    lower = lower.clamp(min=0)
    start, stop = known.gather(1, lower), known.gather(1, upper)
    gap = stop - start
    share = torch.where(gap > 0, (to_seconds - start) / gap.clamp(min=1e-12), 0).clamp(0, 1)
    share = share.to(values.dtype).reshape(*share.shape, *[1] * (values.ndim - 2))
    # Indexing, not gather: its backward adds up in a fixed order on every device.
    rows = torch.arange(len(values), device=values.device)[:, None]
    read = torch.lerp(
        values[rows, order.gather(1, lower)], values[rows, order.gather(1, upper)], share
    )
    if from_seconds.shape != to_seconds.shape:
        return read
    same = (from_seconds == to_seconds).all(dim=1)
    return torch.where(same.reshape(-1, *[1] * (values.ndim - 1)), values, read)


def align_in_space(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average-pool [N, C, t, h, w] and [N, C', t', h', w'] to min(h, h') x min(w, w') cells."""
    size = (min(left.shape[3], right.shape[3]), min(left.shape[4], right.shape[4]))
    return pool_in_space(left, size), pool_in_space(right, size)


def pool_in_space(features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Average-pool [N, C, t, h, w] to [N, C, t, *size], each step by itself."""
    if features.shape[3:] == size:
        return features
    # Channels and steps side by side: pooling in 2D treats every plane alike.
    planes = F.adaptive_avg_pool2d(features.flatten(1, 2), size)
    return planes.unflatten(1, features.shape[1:3])
