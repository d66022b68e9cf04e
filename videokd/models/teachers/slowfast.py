"""SlowFast from pytorchvideo's blocks, of any width and depth.

Letters: **N** clips, **T** frames, **S** crop side (px), **K** classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from pytorchvideo.models.head import create_res_basic_head
from pytorchvideo.models.net import MultiPathWayWithFuse, Net
from pytorchvideo.models.slowfast import FastToSlowFusionBuilder, PoolConcatPathway
from torch import Tensor, nn

from videokd.models.teachers.resnet3d import (
    PlainBlocksConfig,
    StageFrames,
    all_lengths,
    as_decoded,
    create_plain_stage,
    create_stem,
    refuse_even,
)
from videokd.models.video_model import NetworkParts, Tap

PATHWAYS = ("slow", "fast")


class SlowFastConfig(PlainBlocksConfig):
    """SlowFast (arXiv:1812.03982): a wide pathway at a low frame rate, a thin one at a high one.

    `input` is the fast pathway's; the slow one takes T // alpha of its frames. As published by
    PyTorchVideo, each with `head_pool_px: 7`, tested at 256 px in windows of the training crop:

    - R50 8x8: T 32, stride 2; alpha 4, fusion_frames 7.
    - R50 4x16: T 32, stride 2; alpha 8, fusion_frames 5.
    - R101 8x8: T 32, stride 2; alpha 4, fusion_frames 5, stage_depths (3, 4, 23, 3).
    - R101 16x8 (50-50): T 64, stride 2; as R101 8x8, and in the third stage of either pathway
      six kernels of 3 and seventeen of 1: slow_stage_frames (1, 1, [3]*6 + [1]*17, 3),
      fast_stage_frames (3, 3, [3]*6 + [1]*17, 3), written out.
    """

    kind: Literal["slowfast"] = "slowfast"
    alpha: int = Field(default=4, ge=1)
    """Frames of the fast pathway for one of the slow pathway; divides T."""
    beta: int = Field(default=8, ge=1)
    """Channels of the slow pathway for one of the fast pathway; divides `width`."""
    fusion_ratio: int = Field(default=2, ge=1)
    """Channels handed from fast to slow, for one channel of the fast pathway."""
    fusion_frames: int = Field(default=7, ge=1)
    """Length of the kernels that hand features from fast to slow; odd."""
    slow_stem_frames: int = Field(default=1, ge=1)
    """Length of the slow stem's kernel; odd."""
    fast_stem_frames: int = Field(default=5, ge=1)
    """Length of the fast stem's kernel; odd."""
    slow_stage_frames: tuple[StageFrames, ...] = (1, 1, 3, 3)
    """Length of the kernels of each slow stage: of the first in a bottleneck, of both in a basic
    block; odd. A list has one a block and starts again where there are more blocks."""
    fast_stage_frames: tuple[StageFrames, ...] = (3, 3, 3, 3)
    """The same of each fast stage."""

    @model_validator(mode="after")
    def _pathways_fit(self) -> SlowFastConfig:
        if self.input.num_frames % self.alpha:
            raise ValueError(
                f"alpha {self.alpha} does not divide the {self.input.num_frames} frames of input"
            )
        if self.width % self.beta:
            raise ValueError(f"beta {self.beta} does not divide width {self.width}")
        refuse_even(self.fusion_frames, self.slow_stem_frames, self.fast_stem_frames)
        stages = (*self.slow_stage_frames, *self.fast_stage_frames)
        refuse_even(*all_lengths(stages))
        if self.block == "basic" and any(isinstance(frames, tuple) for frames in stages):
            raise ValueError(
                "kernels of another length in each block suit block: bottleneck; "
                "give one number a stage"
            )
        return self


class SlowFast(Net):
    """pytorchvideo's SlowFast, fed with one clip: it picks the slow pathway's frames itself."""

    slow_ids: Tensor

    def __init__(self, blocks: nn.ModuleList, *, num_frames: int, alpha: int) -> None:
        super().__init__(blocks=blocks)
        self.num_frames = num_frames
        # The published choice: not every alpha-th frame, but evenly from the first to the last.
        ids = torch.linspace(0, num_frames - 1, num_frames // alpha).long()
        self.register_buffer("slow_ids", ids, persistent=False)
        self.to(memory_format=torch.channels_last_3d)

    def pathway_frame_ids(self, pathway: int) -> Tensor | None:
        """The clip's frames that pathway 0 (slow) sees; None, for all of them, for 1 (fast)."""
        return (self.slow_ids, None)[pathway]

    def forward(self, clips: Tensor) -> Tensor:
        """Classify [N,3,T,S,S]: logits [N,K]."""
        if clips.shape[2] != self.num_frames:
            raise ValueError(f"SlowFast for {self.num_frames} frames was given {clips.shape[2]}")
        fast = as_decoded(clips)
        slow = as_decoded(fast.index_select(2, self.slow_ids))
        # A fresh list each time: the stages replace its entries.
        return super().forward([slow, fast])


def create_slowfast(config: SlowFastConfig, num_classes: int) -> NetworkParts:
    """SlowFast as pytorchvideo's `create_slowfast` builds it, with any number of blocks."""
    fuse = FastToSlowFusionBuilder(
        slowfast_channel_reduction_ratio=config.beta,
        conv_fusion_channel_ratio=config.fusion_ratio,
        conv_kernel_size=(config.fusion_frames, 1, 1),
        conv_stride=(config.alpha, 1, 1),
        max_stage_idx=len(config.stage_depths) - 1,
    ).create_module
    widths = config.stage_widths
    blocks: list[nn.Module] = [_two_stems(config, fuse(fusion_dim_in=config.width, stage_idx=0))]
    for stage, (dim_in, dim_out) in enumerate(pairwise(widths)):
        fusion = fuse(fusion_dim_in=dim_out, stage_idx=stage + 1)
        blocks.append(_two_stages(config, stage, (dim_in, dim_out), fusion))
    num_frames = config.input.num_frames
    pools = [_head_pool(config, num_frames // config.alpha), _head_pool(config, num_frames)]
    blocks.append(PoolConcatPathway(retain_list=False, pool=nn.ModuleList(pools)))
    blocks.append(
        create_res_basic_head(
            in_features=widths[-1] + widths[-1] // config.beta,
            out_features=num_classes,
            pool=None,
            dropout_rate=config.dropout,
        )
    )
    network = SlowFast(nn.ModuleList(blocks), num_frames=num_frames, alpha=config.alpha)
    return NetworkParts(network, f"blocks.{len(blocks) - 1}.proj", _slowfast_taps(len(widths)))


def _slowfast_taps(num_blocks: int) -> tuple[Tap, ...]:
    """Stage outputs of each pathway, before fast is fused into slow: `slow_res2`, `fast_res2`..."""
    return tuple(
        Tap(
            name=f"{name}_res{n + 1}",
            module=f"blocks.{n}.multipathway_blocks.{pathway}",
            pathway=pathway,
        )
        for n in range(1, num_blocks)
        for pathway, name in enumerate(PATHWAYS)
    )


def _two_stems(config: SlowFastConfig, fusion: nn.Module) -> nn.Module:
    px = config.stem_kernel_px
    stride = (1, config.stem_stride_px, config.stem_stride_px)
    stems = [
        create_stem(width, (frames, px, px), stride, pool=config.stem_pool)
        for width, frames in (
            (config.width, config.slow_stem_frames),
            (config.width // config.beta, config.fast_stem_frames),
        )
    ]
    return MultiPathWayWithFuse(
        multipathway_blocks=nn.ModuleList(stems), multipathway_fusion=fusion
    )


def _two_stages(
    config: SlowFastConfig, stage: int, dims: tuple[int, int], fusion: nn.Module
) -> nn.Module:
    dim_in, dim_out = dims
    handed_over = dim_in * config.fusion_ratio // config.beta
    slow = create_plain_stage(
        config,
        stage,
        dims=(dim_in + handed_over, dim_out),
        frames=_kernel_frames(config, config.slow_stage_frames[stage]),
    )
    fast = create_plain_stage(
        config,
        stage,
        dims=(dim_in // config.beta, dim_out // config.beta),
        frames=_kernel_frames(config, config.fast_stage_frames[stage]),
    )
    return MultiPathWayWithFuse(
        multipathway_blocks=nn.ModuleList([slow, fast]), multipathway_fusion=fusion
    )


def _kernel_frames(config: SlowFastConfig, frames: StageFrames) -> tuple[StageFrames, int]:
    """Lengths of a block's two spatio-temporal kernels."""
    return (frames, frames if config.block == "basic" and isinstance(frames, int) else 1)


def _head_pool(config: SlowFastConfig, num_steps: int) -> nn.Module:
    if config.head_pool_px is None:
        return nn.AdaptiveAvgPool3d(1)
    return nn.AvgPool3d((num_steps, config.head_pool_px, config.head_pool_px), stride=1)
