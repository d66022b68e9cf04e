"""What all 3D ResNets share: settings, stem, stages, blocks, and the network of one pathway.

They are composed from the public parts of pytorchvideo's builders, whose depths are fixed, and have
the same module names: published weights load.
Letters: **N** clips, **T** frames, **C** channels, **S** crop side (px), **K** classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from pytorchvideo.models.head import create_res_basic_head
from pytorchvideo.models.net import Net
from pytorchvideo.models.resnet import create_bottleneck_block, create_res_stage
from pytorchvideo.models.stem import create_res_basic_stem
from torch import Tensor, nn

from videokd.config import Config
from videokd.models.video_model import NetworkParts, Tap
from videokd.types import InputSpec

StageFrames = int | tuple[int, ...]
"""Lengths of a stage's kernels: one for all of its blocks, or one a block, from the start again
where there are more blocks."""


class ResNet3DConfig(Config):
    """What all of them share. A stage has one entry in each `stage_` setting."""

    input: InputSpec
    """What the network wants to see."""
    taps: tuple[Tap, ...] = ()
    """Points whose features are returned; empty stands for the output of every stage."""
    stage_depths: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks in each stage: (3, 4, 6, 3) is R50, (3, 4, 23, 3) is R101."""
    width: int = Field(default=64, ge=1)
    """Channels of the stem, and those that the first stage computes with; each further stage has
    twice those of the one before."""
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
            lows = [min(as_lengths(entry), default=0) for entry in value]
            if len(lows) != num_stages or min(lows, default=0) < 1:
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


class PlainBlocksConfig(ResNet3DConfig):
    """Networks whose blocks may be bottlenecks or basic ones."""

    block: Literal["bottleneck", "basic"] = "bottleneck"
    """`bottleneck`: n x 1 x 1, n x 3 x 3, 1 x 1 x 1, as published. `basic`: twice n x 3 x 3, which
    learns motion sooner where a network is small."""


class OnePathwayConfig(ResNet3DConfig):
    """Networks of one pathway: kernels and strides in time."""

    stem_frames: int = Field(default=1, ge=1)
    """Length of the stem's kernel; odd."""
    stem_stride_frames: int = Field(default=1, ge=1)
    """Stride of the stem in time."""
    stage_mid_frames: tuple[int, ...] = (1, 1, 1, 1)
    """Length of the middle kernel (bottleneck) or the second one (basic); odd."""
    stage_strides_frames: tuple[int, ...] = (1, 1, 1, 1)
    """Stride in time at the entrance of each stage."""

    @model_validator(mode="after")
    def _kernels_are_odd(self) -> OnePathwayConfig:
        refuse_even(self.stem_frames, *self.stage_mid_frames)
        return self


class ResNet3D(Net):
    """pytorchvideo's network of one pathway, with its layout in memory fixed."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__(blocks=blocks)
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, clips: Tensor) -> Tensor:
        """Classify [N,3,T,S,S]: logits [N,K]."""
        return super().forward(as_decoded(clips))


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
        conv_padding=half(kernel),
        pool=nn.MaxPool3d if pool else None,
    )


def create_one_pathway(
    config: OnePathwayConfig,
    num_classes: int,
    *,
    create_stage: Callable[[int, tuple[int, int]], nn.Module],
    res2_pool_frames: int = 1,
) -> NetworkParts:
    """Stem, stages and head in a row; `create_stage` takes a stage and its channels in and out.

    `res2_pool_frames`: steps in time that a max-pool behind the first stage makes one; 1: no pool.
    """
    kernel = (config.stem_frames, config.stem_kernel_px, config.stem_kernel_px)
    stride = (config.stem_stride_frames, config.stem_stride_px, config.stem_stride_px)
    blocks: list[nn.Module] = [create_stem(config.width, kernel, stride, pool=config.stem_pool)]
    num_steps = -(-config.input.num_frames // config.stem_stride_frames)
    taps = []
    for stage, dims in enumerate(pairwise(config.stage_widths)):
        taps.append(Tap(name=f"res{stage + 2}", module=f"blocks.{len(blocks)}"))
        blocks.append(create_stage(stage, dims))
        # Odd kernels with half padding round up.
        num_steps = -(-num_steps // config.stage_strides_frames[stage])
        if stage == 0 and res2_pool_frames > 1:
            blocks.append(nn.MaxPool3d((res2_pool_frames, 1, 1)))
            num_steps //= res2_pool_frames
    blocks.append(_create_head(config, num_steps, num_classes))
    classifier = f"blocks.{len(blocks) - 1}.proj"
    return NetworkParts(ResNet3D(nn.ModuleList(blocks)), classifier, tuple(taps))


def create_plain_stage(
    config: PlainBlocksConfig,
    stage: int,
    *,
    dims: tuple[int, int],
    frames: tuple[StageFrames, int],
    stride_frames: int = 1,
) -> nn.Module:
    """Blocks from dims[0] to dims[1] channels; `frames` are the lengths of the first kernel and
    of the middle one (bottleneck) or the second one (basic)."""
    is_basic = config.block == "basic"
    side = 3 if is_basic else 1
    kernels_a = [(length, side, side) for length in as_lengths(frames[0])]
    stride_px = config.stage_strides_px[stage]
    return create_stage_of(
        config,
        stage,
        dims=dims,
        bottleneck=_create_basic_branch if is_basic else create_bottleneck_block,
        conv_a_kernel_size=kernels_a,
        conv_a_stride=(stride_frames, 1, 1),
        conv_a_padding=[half(kernel) for kernel in kernels_a],
        conv_b_kernel_size=(frames[1], 3, 3),
        conv_b_stride=(1, stride_px, stride_px),
        conv_b_padding=half((frames[1], 3, 3)),
    )


def create_stage_of(
    config: ResNet3DConfig, stage: int, *, dims: tuple[int, int], **parts: Any
) -> nn.Module:
    """One stage of pytorchvideo's `create_res_stage`, which takes `parts`: branches and kernels."""
    blocks = create_res_stage(
        depth=config.stage_depths[stage],
        dim_in=dims[0],
        dim_inner=dims[1] // config.expansion,
        dim_out=dims[1],
        **parts,
    )
    mark_final_norms(blocks, zero_init=config.zero_init)
    return blocks


def mark_final_norms(blocks: nn.Module, *, zero_init: bool) -> None:
    """Tell pytorchvideo's initialisation whether the last norm of each branch starts at zero."""
    for module in blocks.modules():
        if hasattr(module, "block_final_bn"):
            module.block_final_bn = zero_init  # type: ignore[assignment]


def as_lengths(frames: StageFrames) -> tuple[int, ...]:
    """One length, or one a block, as the latter."""
    return (frames,) if isinstance(frames, int) else frames


def all_lengths(stages: Iterable[StageFrames]) -> list[int]:
    """The lengths of all stages in a row."""
    return [length for frames in stages for length in as_lengths(frames)]


def as_decoded(clips: Tensor) -> Tensor:
    """Channels last, as decoded frames lie: no copy in the usual case, and the same order of
    additions whatever the caller's layout."""
    return clips.contiguous(memory_format=torch.channels_last_3d)


def refuse_even(*kernel_sizes: int) -> None:
    """`ValueError` for a kernel that would shift what it sees by half a step."""
    for size in kernel_sizes:
        if size % 2 == 0:
            raise ValueError(f"a kernel of {size} has no middle; take an odd number")


def half(kernel: tuple[int, int, int]) -> tuple[int, int, int]:
    """The padding that keeps the size at stride 1."""
    return (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)


def _create_head(config: OnePathwayConfig, num_steps: int, num_classes: int) -> nn.Module:
    return create_res_basic_head(
        in_features=config.stage_widths[-1],
        out_features=num_classes,
        pool=nn.AdaptiveAvgPool3d if config.head_pool_px is None else nn.AvgPool3d,
        pool_kernel_size=(num_steps, config.head_pool_px, config.head_pool_px),
        dropout_rate=config.dropout,
    )


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
    return nn.Conv3d(dim_in, dim_out, kernel, stride=stride, padding=half(kernel), bias=False)
