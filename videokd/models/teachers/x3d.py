"""X3D from pytorchvideo's blocks: one network widened and deepened by factors.

Letters: **N** clips, **T** frames, **S** crop side (px), **K** classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from pytorchvideo.layers.utils import round_repeats, round_width
from pytorchvideo.models.x3d import create_x3d_head, create_x3d_res_stage, create_x3d_stem
from torch import nn

from videokd.config import Config
from videokd.models.teachers.heads import average_probabilities
from videokd.models.teachers.resnet3d import ResNet3D, mark_final_norms
from videokd.models.video_model import NetworkParts, Tap
from videokd.types import InputSpec

_STEM_WIDTH = 12
_STAGE_WIDTHS = (12, 24, 48, 96)
_STAGE_DEPTHS = (1, 2, 5, 3)
"""Of the smallest network, which the factors multiply (arXiv:2004.04730, table 1)."""


class X3DConfig(Config):
    """X3D (arXiv:2004.04730). XS, S and M have the same weights and differ in their input.

    As published by PyTorchVideo, trained at the first size and tested at the second, in windows of
    the training crop:

    - XS: T 4, stride 12; 160, 182 px; head_pool_px 5.
    - S: T 13, stride 6; 160, 182 px; head_pool_px 5.
    - M: T 16, stride 5; 224, 256 px; head_pool_px 7.
    - L: T 16, stride 5; 312, 356 px; head_pool_px 10; depth_factor 5.
    """

    kind: Literal["x3d"] = "x3d"
    input: InputSpec
    """What the network wants to see."""
    taps: tuple[Tap, ...] = ()
    """Points whose features are returned; empty stands for the output of every stage."""
    width_factor: float = Field(default=2.0, gt=0)
    """Channels, for one of the smallest network (12, 24, 48, 96 in the four stages); rounded to
    multiples of 8."""
    depth_factor: float = Field(default=2.2, gt=0)
    """Blocks, for one of the smallest network (1, 2, 5, 3); rounded up."""
    bottleneck_factor: float = Field(default=2.25, gt=0)
    """Channels that a block computes with, for one that it puts out."""
    head_width: int = Field(default=2048, ge=1)
    """Channels that the classifier sees."""
    zero_init: bool = True
    """Start every residual branch at zero, as published; off learns sooner in short trainings."""
    head_pool_px: int | None = Field(default=None, ge=1)
    """Side of the window that the head averages over, in cells (32 px), before it classifies each
    window and averages their probabilities. None averages everything first."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of the pooled features dropped while training."""


def create_x3d(config: X3DConfig, num_classes: int) -> NetworkParts:
    """X3D as pytorchvideo's `create_x3d` builds it, without the softmax in its head."""
    width = round_width(_STEM_WIDTH, config.width_factor)
    blocks: list[nn.Module] = [create_x3d_stem(in_channels=3, out_channels=width)]
    for base_width, base_depth in zip(_STAGE_WIDTHS, _STAGE_DEPTHS, strict=True):
        width_in, width = width, round_width(base_width, config.width_factor)
        width_inner = int(config.bottleneck_factor * width)
        depth = round_repeats(base_depth, config.depth_factor)
        blocks.append(_create_stage(config, depth, (width_in, width_inner, width)))
    px = config.head_pool_px
    blocks.append(
        create_x3d_head(
            dim_in=width,
            dim_inner=width_inner,
            dim_out=config.head_width,
            num_classes=num_classes,
            pool_kernel_size=None if px is None else (config.input.num_frames, px, px),
            dropout_rate=config.dropout,
            activation=None,
        )
    )
    taps = tuple(Tap(name=f"res{n + 1}", module=f"blocks.{n}") for n in range(1, 5))
    parts = NetworkParts(ResNet3D(nn.ModuleList(blocks)), "blocks.5.proj", taps)
    average_probabilities(parts)
    return parts


def _create_stage(config: X3DConfig, depth: int, dims: tuple[int, int, int]) -> nn.Module:
    """Blocks from dims[0] to dims[2] channels, which compute with dims[1]."""
    stage = create_x3d_res_stage(
        depth=depth,
        dim_in=dims[0],
        dim_inner=dims[1],
        dim_out=dims[2],
        # The same function as pytorchvideo's own Swish, whose backward reads an attribute that
        # PyTorch has deprecated, and in one kernel.
        inner_act=nn.SiLU,
    )
    for block in stage.res_blocks:
        block.branch_fusion = torch.add  # a lambda otherwise, which cannot be pickled
    mark_final_norms(stage, zero_init=config.zero_init)
    return stage
