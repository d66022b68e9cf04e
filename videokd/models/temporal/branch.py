"""What stands at the entrance of a branch of a 2D network, and the filter over time they share.

Letters: **N** clips, **T** frames, **C** channels, **h w** cells.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BranchModule(nn.Module):
    """Lets the frames of a clip see each other: [N*T,C,h,w] -> the same shape, for any N."""

    def __init__(self, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames

    def before(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """A forward pre-hook: the module sees the frames after this one, and keeps its name."""
        return (self(inputs[0]), *inputs[1:])

    def extra_repr(self) -> str:
        """Shown when the network is printed."""
        return f"num_frames={self.num_frames}"


def filter_over_time(
    frames: Tensor, kernels: Tensor, num_frames: int, *, scales: Tensor | None = None
) -> Tensor:
    """A depthwise convolution over time, zero beyond both ends: [N*T,C,h,w] -> the same shape.

    Frame t becomes k0 * x[t-1] + k1 * x[t] + k2 * x[t+1].

    Args:
        frames: [N*T,C,h,w].
        kernels: (k0, k1, k2) of each channel [C,3], or of each channel of each clip [N,C,3].
        num_frames: T.
        scales: [N,T,C], multiplied into the frames before they are filtered; None for 1.
    """
    if frames.device.type == "meta":  # where multiply-adds are counted: the convolution by name
        return _convolve(frames, kernels, num_frames, scales)
    clips = frames.unflatten(0, (-1, num_frames))
    # [N,T,C,1,1,3]; N and T are 1 where nothing depends on them.
    weights = kernels.reshape(-1, 1, kernels.shape[-2], 1, 1, 3)
    if scales is not None:
        weights = weights * scales[..., None, None, None]
    weights = weights.to(frames.dtype).expand(-1, num_frames, -1, -1, -1, -1)
    before, here, after = weights.unbind(-1)
    if torch.compiler.is_compiling():
        return _sum_of_moved(clips, before, here, after).flatten(0, 1)
    # Three products in the frames' own layout: channels last, a convolution would copy them.
    filtered = clips * here
    filtered[:, 1:].addcmul_(clips[:, :-1], before[:, :-1])
    filtered[:, :-1].addcmul_(clips[:, 1:], after[:, 1:])
    return filtered.flatten(0, 1)


def _sum_of_moved(clips: Tensor, before: Tensor, here: Tensor, after: Tensor) -> Tensor:
    """The same as a sum that the compiler makes one pass of. It gets neither writes into slices nor
    padding: of both, inductor (torch 2.15, CPU) made wrong values in blocks of 16 channels."""
    nothing = torch.zeros_like(clips[:, :1])
    from_last = torch.cat((nothing, (clips * before)[:, :-1]), 1)
    from_next = torch.cat(((clips * after)[:, 1:], nothing), 1)
    return clips * here + from_last + from_next


def _convolve(frames: Tensor, kernels: Tensor, num_frames: int, scales: Tensor | None) -> Tensor:
    clips = frames.unflatten(0, (-1, num_frames))
    if scales is not None:
        clips = clips * scales.to(clips.dtype)[..., None, None]
    num_clips, _, channels, height, width = clips.shape
    kernels = kernels.expand(num_clips, -1, -1).reshape(-1, 1, 3, 1, 1)
    rows = clips.transpose(1, 2).reshape(1, -1, num_frames, height, width)
    rows = F.conv3d(rows, kernels.to(rows.dtype), padding=(1, 0, 0), groups=len(kernels))
    return rows.view(num_clips, channels, num_frames, height, width).transpose(1, 2).flatten(0, 1)
