"""Networks whose 3D kernels are taken apart: CSN into depthwise ones, R(2+1)D into time and space.

They are pytorchvideo's, of any width and depth, with its module names: published weights load.
"""

from __future__ import annotations

from typing import Literal

from pytorchvideo.models.r2plus1d import create_2plus1d_bottleneck_block
from pytorchvideo.models.resnet import create_bottleneck_block
from torch import nn

from videokd.models.teachers.heads import average_probabilities
from videokd.models.teachers.resnet3d import (
    OnePathwayConfig,
    create_one_pathway,
    create_stage_of,
    half,
)
from videokd.models.video_model import NetworkParts


class CSNConfig(OnePathwayConfig):
    """Channel-separated convolutions: the middle kernels are depthwise (ir-CSN, arXiv:1904.02811).

    The defaults are ir-CSN R101. As published by PyTorchVideo: T 32, stride 2; `head_pool_px: 7`,
    tested at 256 px.
    """

    kind: Literal["csn"] = "csn"
    stem_frames: int = 3
    """Length of the stem's kernel; odd."""
    stage_depths: tuple[int, ...] = (3, 4, 23, 3)
    """Blocks in each stage: (3, 4, 23, 3) is R101, as published; (3, 4, 6, 3) is R50."""
    stage_mid_frames: tuple[int, ...] = (3, 3, 3, 3)
    """Length of the middle kernel; odd."""
    stage_strides_frames: tuple[int, ...] = (1, 2, 2, 2)
    """Stride in time at the entrance of each stage."""


class R2Plus1DConfig(OnePathwayConfig):
    """The middle kernels are n x 1 x 1, then 1 x 3 x 3 (arXiv:1711.11248). The defaults are R50.

    As published by PyTorchVideo: T 16, stride 4; `head_pool_px: 7`, tested at 256 px.
    """

    kind: Literal["r2plus1d"] = "r2plus1d"
    stem_pool: bool = False
    """Halve height and width once more after the stem; off as published."""
    stage_strides_px: tuple[int, ...] = (2, 2, 2, 2)
    """Stride in space at the entrance of each stage."""
    stage_mid_frames: tuple[int, ...] = (3, 3, 3, 3)
    """Length of the middle kernel; odd."""
    stage_strides_frames: tuple[int, ...] = (1, 1, 2, 2)
    """Stride in time at the entrance of each stage."""


def create_csn(config: CSNConfig, num_classes: int) -> NetworkParts:
    """CSN as pytorchvideo's `create_csn` builds it, with any number of blocks."""

    def create_stage(stage: int, dims: tuple[int, int]) -> nn.Module:
        dim_inner = dims[1] // config.expansion
        return _create_stage(config, stage, dims, create_bottleneck_block, num_groups=dim_inner)

    return create_one_pathway(config, num_classes, create_stage=create_stage)


def create_r2plus1d(config: R2Plus1DConfig, num_classes: int) -> NetworkParts:
    """R(2+1)D as pytorchvideo's `create_r2plus1d` builds it, with any number of blocks.

    Several windows at the head (`head_pool_px`) average their probabilities, as published.
    """

    def create_stage(stage: int, dims: tuple[int, int]) -> nn.Module:
        return _create_stage(config, stage, dims, create_2plus1d_bottleneck_block)

    parts = create_one_pathway(config, num_classes, create_stage=create_stage)
    average_probabilities(parts)
    return parts


def _create_stage(
    config: OnePathwayConfig,
    stage: int,
    dims: tuple[int, int],
    bottleneck: object,
    *,
    num_groups: int = 1,
) -> nn.Module:
    kernel = (config.stage_mid_frames[stage], 3, 3)
    stride_px = config.stage_strides_px[stage]
    return create_stage_of(
        config,
        stage,
        dims=dims,
        bottleneck=bottleneck,
        conv_a_kernel_size=(1, 1, 1),
        conv_a_stride=(1, 1, 1),
        conv_a_padding=(0, 0, 0),
        conv_b_kernel_size=kernel,
        conv_b_stride=(config.stage_strides_frames[stage], stride_px, stride_px),
        conv_b_padding=half(kernel),
        conv_b_num_groups=num_groups,
    )
