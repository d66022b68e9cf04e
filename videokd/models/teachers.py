"""3D networks from pytorchvideo's blocks: SlowFast and Slow, of any width and depth.

They are composed from the public parts of the published builders (`create_slowfast`,
`create_resnet`), whose depths are fixed, and have the same module names: published weights load.
Letters: **N** clips, **T** frames, **S** crop side (px), **K** classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from pytorchvideo.models.head import create_res_basic_head
from pytorchvideo.models.net import MultiPathWayWithFuse, Net
from pytorchvideo.models.resnet import create_bottleneck_block, create_res_stage
from pytorchvideo.models.slowfast import FastToSlowFusionBuilder, PoolConcatPathway
from pytorchvideo.models.stem import create_res_basic_stem
from torch import Tensor, nn

from videokd.config import Config
from videokd.models.video_model import NetworkParts, Tap
from videokd.types import InputSpec

EXPANSION = 4
"""A bottleneck block puts out four times the channels that it computes with."""
PATHWAYS = ("slow", "fast")


class _ResNet3DConfig(Config):
    """What SlowFast and Slow share. A stage has one entry in each `stage_` setting."""

    input: InputSpec
    """What the network wants to see."""
    taps: tuple[Tap, ...] = ()
    """Points whose features are returned; empty stands for the output of every stage."""
    stage_depths: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks in each stage: (3, 4, 6, 3) is R50, (3, 4, 23, 3) is R101."""
    width: int = Field(default=64, ge=1)
    """Channels of the stem; each stage has twice those of the one before."""
    stem_kernel_px: int = Field(default=7, ge=1)
    """Side of the stem's kernel."""
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
    def _one_entry_a_stage(self) -> _ResNet3DConfig:
        num_stages = len(self.stage_depths)
        for name, value in self:
            if not name.startswith("stage_") and not name.endswith("_stage_frames"):
                continue
            if len(value) != num_stages or min(value, default=0) < 1:
                raise ValueError(
                    f"{name} {list(value)}: one number above 0 for each of the {num_stages} "
                    "stages of stage_depths is needed"
                )
        return self


class SlowFastConfig(_ResNet3DConfig):
    """SlowFast (arXiv:1812.03982): a wide pathway at a low frame rate, a thin one at a high one.

    `input` is the fast pathway's; the slow one takes T // alpha of its frames. Published:
    R50 8x8 is T 32, alpha 4, fusion_frames 7; R50 4x16 is T 32, alpha 8, fusion_frames 5.
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
    slow_stage_frames: tuple[int, ...] = (1, 1, 3, 3)
    """Length of the kernels of each slow stage; odd."""
    fast_stage_frames: tuple[int, ...] = (3, 3, 3, 3)
    """Length of the kernels of each fast stage; odd."""

    @model_validator(mode="after")
    def _pathways_fit(self) -> SlowFastConfig:
        if self.input.num_frames % self.alpha:
            raise ValueError(
                f"alpha {self.alpha} does not divide the {self.input.num_frames} frames of input"
            )
        if self.width % self.beta:
            raise ValueError(f"beta {self.beta} does not divide width {self.width}")
        lengths = (self.fusion_frames, self.slow_stem_frames, self.fast_stem_frames)
        _refuse_even((*lengths, *self.slow_stage_frames, *self.fast_stage_frames))
        return self


class SlowConfig(_ResNet3DConfig):
    """A 3D ResNet of one pathway. The defaults are Slow R50 (arXiv:1812.03982).

    With `stage_frames` 1 and `stage_mid_frames` 3 the blocks are plain 3x3x3 bottlenecks.
    """

    kind: Literal["slow"] = "slow"
    stem_frames: int = Field(default=1, ge=1)
    """Length of the stem's kernel; odd."""
    stem_stride_frames: int = Field(default=1, ge=1)
    """Stride of the stem in time."""
    stage_frames: tuple[int, ...] = (1, 1, 3, 3)
    """Length of the first kernel (n x 1 x 1) of each stage's blocks; odd."""
    stage_mid_frames: tuple[int, ...] = (1, 1, 1, 1)
    """Length of the middle kernel (n x 3 x 3) of each stage's blocks; odd."""
    stage_strides_frames: tuple[int, ...] = (1, 1, 1, 1)
    """Stride in time at the entrance of each stage."""

    @model_validator(mode="after")
    def _kernels_are_odd(self) -> SlowConfig:
        _refuse_even((self.stem_frames, *self.stage_frames, *self.stage_mid_frames))
        return self


class Slow(Net):
    """pytorchvideo's network of one pathway, with its layout in memory fixed."""

    def forward(self, clips: Tensor) -> Tensor:
        """Classify [N,3,T,S,S]: logits [N,K]."""
        return super().forward(_as_decoded(clips))


class SlowFast(Net):
    """pytorchvideo's SlowFast, fed with one clip: it picks the slow pathway's frames itself."""

    slow_ids: Tensor

    def __init__(self, blocks: nn.ModuleList, *, num_frames: int, alpha: int) -> None:
        super().__init__(blocks=blocks)
        self.num_frames = num_frames
        # The published choice: not every alpha-th frame, but evenly from the first to the last.
        ids = torch.linspace(0, num_frames - 1, num_frames // alpha, device="cpu").long()
        self._slow_ids: list[int] = ids.tolist()
        self.register_buffer("slow_ids", torch.tensor(self._slow_ids), persistent=False)

    def pathway_frame_ids(self, pathway: int) -> list[int]:
        """Positions in the clip of the frames that pathway 0 (slow) or 1 (fast) sees."""
        return (self._slow_ids, list(range(self.num_frames)))[pathway]

    def forward(self, clips: Tensor) -> Tensor:
        """Classify [N,3,T,S,S]: logits [N,K]."""
        if clips.shape[2] != self.num_frames:
            raise ValueError(f"SlowFast for {self.num_frames} frames was given {clips.shape[2]}")
        fast = _as_decoded(clips)
        slow = _as_decoded(fast.index_select(2, self.slow_ids))
        # A fresh list each time: the stages replace its entries.
        return super().forward([slow, fast])


def create_slow(config: SlowConfig, num_classes: int) -> NetworkParts:
    """A 3D ResNet as `create_resnet` builds it, with any number of blocks."""
    kernel = (config.stem_frames, config.stem_kernel_px, config.stem_kernel_px)
    stride = (config.stem_stride_frames, config.stem_stride_px, config.stem_stride_px)
    blocks: list[nn.Module] = [_stem(config.width, kernel, stride, pool=config.stem_pool)]
    widths = _stage_widths(config)
    for stage, (dim_in, dim_out) in enumerate(pairwise(widths)):
        blocks.append(
            _stage(
                config,
                stage,
                dims=(dim_in, dim_out),
                frames=(config.stage_frames[stage], config.stage_mid_frames[stage]),
                stride_frames=config.stage_strides_frames[stage],
            )
        )
    num_steps = _num_steps(config)
    blocks.append(
        create_res_basic_head(
            in_features=widths[-1],
            out_features=num_classes,
            pool=nn.AdaptiveAvgPool3d if config.head_pool_px is None else nn.AvgPool3d,
            pool_kernel_size=(num_steps, config.head_pool_px, config.head_pool_px),
            dropout_rate=config.dropout,
        )
    )
    taps = tuple(Tap(name=f"res{n + 1}", module=f"blocks.{n}") for n in range(1, len(widths)))
    return NetworkParts(Slow(blocks=nn.ModuleList(blocks)), f"blocks.{len(widths)}.proj", taps)


def create_slowfast(config: SlowFastConfig, num_classes: int) -> NetworkParts:
    """SlowFast as pytorchvideo's `create_slowfast` builds it, with any number of blocks."""
    fuse = FastToSlowFusionBuilder(
        slowfast_channel_reduction_ratio=config.beta,
        conv_fusion_channel_ratio=config.fusion_ratio,
        conv_kernel_size=(config.fusion_frames, 1, 1),
        conv_stride=(config.alpha, 1, 1),
        max_stage_idx=len(config.stage_depths) - 1,
    ).create_module
    widths = _stage_widths(config)
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


def _as_decoded(clips: Tensor) -> Tensor:
    """Channels last, as decoded frames lie: no copy in the usual case, and the same order of
    additions whatever the caller's layout."""
    return clips.contiguous(memory_format=torch.channels_last_3d)


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
        _stem(width, (frames, px, px), stride, pool=config.stem_pool)
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
    slow = _stage(
        config,
        stage,
        dims=(dim_in + handed_over, dim_out),
        frames=(config.slow_stage_frames[stage], 1),
    )
    fast = _stage(
        config,
        stage,
        dims=(dim_in // config.beta, dim_out // config.beta),
        frames=(config.fast_stage_frames[stage], 1),
    )
    return MultiPathWayWithFuse(
        multipathway_blocks=nn.ModuleList([slow, fast]), multipathway_fusion=fusion
    )


def _stem(
    width: int, kernel: tuple[int, int, int], stride: tuple[int, int, int], *, pool: bool
) -> nn.Module:
    return create_res_basic_stem(
        in_channels=3,
        out_channels=width,
        conv_kernel_size=kernel,
        conv_stride=stride,
        conv_padding=tuple(size // 2 for size in kernel),
        pool=nn.MaxPool3d if pool else None,
    )


def _stage(
    config: _ResNet3DConfig,
    stage: int,
    *,
    dims: tuple[int, int],
    frames: tuple[int, int],
    stride_frames: int = 1,
) -> nn.Module:
    """Blocks from dims[0] to dims[1] channels; frames are the lengths of kernels a and b."""
    stride_px = config.stage_strides_px[stage]
    return create_res_stage(
        depth=config.stage_depths[stage],
        dim_in=dims[0],
        dim_inner=dims[1] // EXPANSION,
        dim_out=dims[1],
        bottleneck=create_bottleneck_block,
        conv_a_kernel_size=(frames[0], 1, 1),
        conv_a_stride=(stride_frames, 1, 1),
        conv_a_padding=[frames[0] // 2, 0, 0],
        conv_b_kernel_size=(frames[1], 3, 3),
        conv_b_stride=(1, stride_px, stride_px),
        conv_b_padding=(frames[1] // 2, 1, 1),
    )


def _stage_widths(config: _ResNet3DConfig) -> list[int]:
    """Channels that enter the first stage, then those that leave each stage."""
    outs = [config.width * EXPANSION * 2**stage for stage in range(len(config.stage_depths))]
    return [config.width, *outs]


def _head_pool(config: _ResNet3DConfig, num_steps: int) -> nn.Module:
    if config.head_pool_px is None:
        return nn.AdaptiveAvgPool3d(1)
    return nn.AvgPool3d((num_steps, config.head_pool_px, config.head_pool_px), stride=1)


def _num_steps(config: SlowConfig) -> int:
    """Steps in time that arrive at the head; odd kernels with half padding round up."""
    num_steps = config.input.num_frames
    for stride in (config.stem_stride_frames, *config.stage_strides_frames):
        num_steps = -(-num_steps // stride)
    return num_steps


def _refuse_even(kernel_lengths: tuple[int, ...]) -> None:
    for length in kernel_lengths:
        if length % 2 == 0:
            raise ValueError(f"a kernel over {length} frames has no middle; take an odd number")
