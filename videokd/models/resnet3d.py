"""The parts that SlowFast and Slow share: settings, stem, stages, blocks.

Letters: **N** clips, **T** frames, **C** channels, **S** crop side (px).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from pytorchvideo.models.resnet import create_bottleneck_block, create_res_stage
from pytorchvideo.models.stem import create_res_basic_stem
from torch import Tensor, nn

from videokd.config import Config
from videokd.models.video_model import Tap
from videokd.types import InputSpec


class ResNet3DConfig(Config):
    """What SlowFast and Slow share. A stage has one entry in each `stage_` setting."""

    input: InputSpec
    """What the network wants to see."""
    taps: tuple[Tap, ...] = ()
    """Points whose features are returned; empty stands for the output of every stage."""
    stage_depths: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks in each stage: (3, 4, 6, 3) is R50, (3, 4, 23, 3) is R101."""
    width: int = Field(default=64, ge=1)
    """Channels of the stem, and those that the first stage computes with; each further stage has
    twice those of the one before."""
    block: Literal["bottleneck", "basic"] = "bottleneck"
    """`bottleneck`: n x 1 x 1, n x 3 x 3, 1 x 1 x 1, as published. `basic`: twice n x 3 x 3, which
    learns motion sooner where a network is small."""
    expansion: int = Field(default=4, ge=1)
    """Channels that a block puts out, for one that it computes with: 4 as published; 1 is usual
    with basic blocks."""
    zero_init: bool = True
    """Start every residual branch at zero, as published; off learns sooner in short trainings."""
    stem_kernel_px: int = Field(default=7, ge=1)
    """Side of the stem's kernel; odd."""
    stem_stride_px: int = Field(default=2, ge=1)
    """Stride of the stem in space; 1 suits small crops."""
    stem_pool: bool = True
    """Halve height and width once more after the stem, as published; off suits small crops."""
    stage_strides_px: tuple[int, ...] = (1, 2, 2, 2)
    """Stride in space at the entrance of each stage."""
    head_pool_px: int | None = Field(default=None, ge=1)
    """Side of the window that the head averages over, in cells, before it classifies each window
    and averages those: 7 in the published nets, whatever the crop. None averages everything."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of the pooled features dropped while training."""

    @model_validator(mode="after")
    def _one_entry_a_stage(self) -> ResNet3DConfig:
        num_stages = len(self.stage_depths)
        for name, value in self:
            if not name.startswith("stage_") and not name.endswith("_stage_frames"):
                continue
            if len(value) != num_stages or min(value, default=0) < 1:
                raise ValueError(
                    f"{name} {list(value)}: one number above 0 for each of the {num_stages} "
                    "stages of stage_depths is needed"
                )
        refuse_even(self.stem_kernel_px)
        return self

    @property
    def stage_widths(self) -> list[int]:
        """Channels that enter the first stage, then those that leave each stage."""
        outs = [self.width * self.expansion * 2**stage for stage in range(len(self.stage_depths))]
        return [self.width, *outs]


class BasicBranch(nn.Module):
    """The residual branch of a basic block: two full kernels, all strides in the first one."""

    def __init__(
        self,
        dims: tuple[int, int, int],
        kernels: tuple[tuple[int, int, int], tuple[int, int, int]],
        stride: tuple[int, int, int],
    ) -> None:
        super().__init__()
        dim_in, dim_inner, dim_out = dims
        self.conv_a = _conv(dim_in, dim_inner, kernels[0], stride)
        self.norm_a = nn.BatchNorm3d(dim_inner)
        self.act_a = nn.ReLU()
        self.conv_b = _conv(dim_inner, dim_out, kernels[1], (1, 1, 1))
        self.norm_b = nn.BatchNorm3d(dim_out)
        # pytorchvideo's initialisation looks for this mark.
        self.norm_b.block_final_bn = True  # type: ignore[assignment]

    def forward(self, clips: Tensor) -> Tensor:
        """Run [N,C,t,h,w]; the block adds its shortcut and the last activation."""
        return self.norm_b(self.conv_b(self.act_a(self.norm_a(self.conv_a(clips)))))


def create_stem(
    width: int, kernel: tuple[int, int, int], stride: tuple[int, int, int], *, pool: bool
) -> nn.Module:
    """Convolution, norm, activation and, where `pool`, a max-pool that halves height and width."""
    return create_res_basic_stem(
        in_channels=3,
        out_channels=width,
        conv_kernel_size=kernel,
        conv_stride=stride,
        conv_padding=_half(kernel),
        pool=nn.MaxPool3d if pool else None,
    )


def create_stage(
    config: ResNet3DConfig,
    stage: int,
    *,
    dims: tuple[int, int],
    frames: tuple[int, int],
    stride_frames: int = 1,
) -> nn.Module:
    """Blocks from dims[0] to dims[1] channels; `frames` are the lengths of the first kernel and
    of the middle one (bottleneck) or the second one (basic)."""
    is_basic = config.block == "basic"
    kernel_a = (frames[0], 3, 3) if is_basic else (frames[0], 1, 1)
    kernel_b = (frames[1], 3, 3)
    stride_px = config.stage_strides_px[stage]
    blocks = create_res_stage(
        depth=config.stage_depths[stage],
        dim_in=dims[0],
        dim_inner=dims[1] // config.expansion,
        dim_out=dims[1],
        bottleneck=_create_basic_branch if is_basic else create_bottleneck_block,
        conv_a_kernel_size=kernel_a,
        conv_a_stride=(stride_frames, 1, 1),
        conv_a_padding=_half(kernel_a),
        conv_b_kernel_size=kernel_b,
        conv_b_stride=(1, stride_px, stride_px),
        conv_b_padding=_half(kernel_b),
    )
    for module in blocks.modules():
        if hasattr(module, "block_final_bn"):
            module.block_final_bn = config.zero_init
    return blocks


def as_decoded(clips: Tensor) -> Tensor:
    """Channels last, as decoded frames lie: no copy in the usual case, and the same order of
    additions whatever the caller's layout."""
    return clips.contiguous(memory_format=torch.channels_last_3d)


def refuse_even(*kernel_sizes: int) -> None:
    """`ValueError` for a kernel that would shift what it sees by half a step."""
    for size in kernel_sizes:
        if size % 2 == 0:
            raise ValueError(f"a kernel of {size} has no middle; take an odd number")


def _create_basic_branch(
    *,
    dim_in: int,
    dim_inner: int,
    dim_out: int,
    conv_a_kernel_size: tuple[int, int, int],
    conv_a_stride: tuple[int, int, int],
    conv_b_kernel_size: tuple[int, int, int],
    conv_b_stride: tuple[int, int, int],
    **_the_rest: Any,  # what create_res_stage hands to any builder of branches
) -> nn.Module:
    stride_t, stride_h, stride_w = map(math.prod, zip(conv_a_stride, conv_b_stride, strict=True))
    return BasicBranch(
        (dim_in, dim_inner, dim_out),
        (conv_a_kernel_size, conv_b_kernel_size),
        (stride_t, stride_h, stride_w),
    )


def _conv(
    dim_in: int, dim_out: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> nn.Conv3d:
    return nn.Conv3d(dim_in, dim_out, kernel, stride=stride, padding=_half(kernel), bias=False)


def _half(kernel: tuple[int, int, int]) -> tuple[int, int, int]:
    """The padding that keeps the size at stride 1."""
    return (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
