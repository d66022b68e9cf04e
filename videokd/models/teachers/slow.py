"""Slow, C2D and I3D: 3D ResNets of one pathway, of any width and depth."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from videokd.models.teachers.resnet3d import (
    OnePathwayConfig,
    PlainBlocksConfig,
    StageFrames,
    all_lengths,
    create_one_pathway,
    create_plain_stage,
    refuse_even,
)
from videokd.models.video_model import NetworkParts


class SlowFamilyConfig(OnePathwayConfig, PlainBlocksConfig):
    """What Slow, C2D and I3D share."""

    stage_frames: tuple[StageFrames, ...] = (1, 1, 3, 3)
    """Length of the first kernel of each stage's blocks; odd. A list has one a block and starts
    again where there are more blocks."""
    res2_pool_frames: int = Field(default=1, ge=1)
    """Steps in time that a max-pool behind the first stage makes one; 1: no pool."""

    @model_validator(mode="after")
    def _first_kernels_are_odd(self) -> SlowFamilyConfig:
        refuse_even(*all_lengths(self.stage_frames))
        return self


class SlowConfig(SlowFamilyConfig):
    """A 3D ResNet of one pathway. The defaults are Slow R50 (arXiv:1812.03982).

    As published by PyTorchVideo, with `head_pool_px: 7`, tested at 256 px: R50 8x8 with T 8,
    stride 8; R50 4x16 with T 4, stride 16.

    A plain 3D ResNet (3x3x3, two a block) has `block: basic`, `expansion: 1`, and 3 in all of
    `stage_frames` and `stage_mid_frames`.
    """

    kind: Literal["slow"] = "slow"


class C2DConfig(SlowFamilyConfig):
    """A 2D ResNet that sees time in one max-pool (arXiv:1711.07971). The defaults are C2D R50.

    As published by PyTorchVideo: T 8, stride 8; `head_pool_px: 7`, tested at 256 px.
    """

    kind: Literal["c2d"] = "c2d"
    stage_frames: tuple[StageFrames, ...] = (1, 1, 1, 1)
    """Length of the first kernel of each stage's blocks; odd."""
    res2_pool_frames: int = Field(default=2, ge=1)
    """Steps in time that a max-pool behind the first stage makes one; 1: no pool."""


class I3DConfig(SlowFamilyConfig):
    """A ResNet inflated in every other block (arXiv:1705.07750). The defaults are I3D R50.

    As published by PyTorchVideo: T 8, stride 8; `head_pool_px: 7`, tested at 256 px.
    """

    kind: Literal["i3d"] = "i3d"
    stem_frames: int = Field(default=5, ge=1)
    """Length of the stem's kernel; odd."""
    stage_frames: tuple[StageFrames, ...] = (3, (3, 1), (3, 1), (1, 3))
    """Length of the first kernel of each stage's blocks; odd. A list has one a block and starts
    again where there are more blocks."""
    res2_pool_frames: int = Field(default=2, ge=1)
    """Steps in time that a max-pool behind the first stage makes one; 1: no pool."""


def create_slow(config: SlowFamilyConfig, num_classes: int) -> NetworkParts:
    """A 3D ResNet as pytorchvideo's `create_resnet` builds it, with any number of blocks."""

    def create_stage(stage: int, dims: tuple[int, int]) -> nn.Module:
        return create_plain_stage(
            config,
            stage,
            dims=dims,
            frames=(config.stage_frames[stage], config.stage_mid_frames[stage]),
            stride_frames=config.stage_strides_frames[stage],
        )

    return create_one_pathway(
        config, num_classes, create_stage=create_stage, res2_pool_frames=config.res2_pool_frames
    )
