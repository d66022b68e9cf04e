"""MViT from pytorchvideo's blocks, of any width and depth.

`create_multiscale_vision_transformers` reads the values of tensors while it builds, which the meta
device does not have; hence the blocks are put together here, with the same names.
Letters: **N** clips, **T** frames, **S** crop side (px), **K** classes, **C** channels,
**L** tokens: one for the class, then t*h*w.
"""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from typing import Literal

from pydantic import Field, model_validator
from pytorchvideo.layers import MultiScaleBlock, SpatioTemporalClsPositionalEncoding
from pytorchvideo.models.head import create_vit_basic_head
from pytorchvideo.models.stem import create_conv_patch_embed
from pytorchvideo.models.vision_transformers import MultiscaleVisionTransformers
from torch import nn

from videokd.config import Config
from videokd.models.video_model import NetworkParts, Tap
from videokd.types import InputSpec

_PATCH_KERNEL = (3, 7, 7)
_PATCH_STRIDE = (2, 4, 4)
_PATCH_PADDING = (1, 3, 3)
_POOL_KERNEL = (3, 3, 3)
_norm = partial(nn.LayerNorm, eps=1e-6)


class MViTConfig(Config):
    """Multiscale vision transformer (arXiv:2104.11227). The defaults are MViT-B.

    Its tables of positions make it a network of one clip size: T divides by 2, the crop by 4. As
    published by PyTorchVideo, trained and tested at 224 px, one crop: 16x4 with T 16, stride 4 and
    drop_path 0.2; 32x3 with T 32, stride 3 and drop_path 0.3.
    """

    kind: Literal["mvit"] = "mvit"
    input: InputSpec
    """What the network wants to see."""
    taps: tuple[Tap, ...] = ()
    """Points whose features are returned; empty stands for the output of every stage."""
    stage_depths: tuple[int, ...] = (1, 2, 11, 2)
    """Blocks in each stage; a stage has half the height and width of the one before, and twice its
    channels and heads."""
    width: int = Field(default=96, ge=1)
    """Channels of the first stage."""
    num_heads: int = Field(default=1, ge=1)
    """Attention heads of the first stage; divides `width`."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Hidden channels of a block's MLP, for one that enters it."""
    kv_stride_px: int = Field(default=8, ge=1)
    """Cells, along each side, that keys and values of the first stage pool into one; half of it in
    each further stage."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of the pooled features dropped while training."""
    drop_path: float = Field(default=0.2, ge=0, lt=1)
    """Share of the last block's branches left out while training (stochastic depth); the first
    block's are never, those between in proportion."""

    @model_validator(mode="after")
    def _patches_fit(self) -> MViTConfig:
        frames, px = self.input.num_frames, self.input.crop_px
        if frames % _PATCH_STRIDE[0] or px % _PATCH_STRIDE[1]:
            raise ValueError(
                f"MViT takes clips whose frames divide by {_PATCH_STRIDE[0]} and whose side "
                f"divides by {_PATCH_STRIDE[1]}, not {frames} frames of {px} px"
            )
        if self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide width {self.width}")
        if min(self.stage_depths, default=0) < 1:
            raise ValueError(f"stage_depths {list(self.stage_depths)}: numbers above 0 are needed")
        return self

    @property
    def grid(self) -> tuple[int, int, int]:
        """(t, h, w) of the tokens in the first stage; t is the same in all."""
        side = self.input.crop_px // _PATCH_STRIDE[1]
        return (self.input.num_frames // _PATCH_STRIDE[0], side, side)


def create_mvit(config: MViTConfig, num_classes: int) -> NetworkParts:
    """MViT as pytorchvideo's builder makes it, with any number of blocks."""
    network = MultiscaleVisionTransformers(
        patch_embed=create_conv_patch_embed(
            in_channels=3,
            out_channels=config.width,
            conv_kernel_size=_PATCH_KERNEL,
            conv_stride=_PATCH_STRIDE,
            conv_padding=_PATCH_PADDING,
        ),
        cls_positional_encoding=SpatioTemporalClsPositionalEncoding(
            embed_dim=config.width, patch_embed_shape=config.grid, sep_pos_embed=True
        ),
        pos_drop=None,
        norm_patch_embed=None,
        blocks=_create_blocks(config),
        norm_embed=_norm(_width_of(config, len(config.stage_depths) - 1)),
        head=create_vit_basic_head(
            in_features=_width_of(config, len(config.stage_depths) - 1),
            out_features=num_classes,
            dropout_rate=config.dropout,
        ),
    )
    return NetworkParts(network, "head.proj", _stage_taps(config))


def _create_blocks(config: MViTConfig) -> nn.ModuleList:
    depths = config.stage_depths
    last_of_all = sum(depths) - 1
    blocks = nn.ModuleList()
    for stage, depth in enumerate(depths):
        for position in range(depth):
            is_last = position == depth - 1 and stage < len(depths) - 1
            pools_queries = position == 0 and stage > 0
            kv_stride = max(config.kv_stride_px // 2**stage, 1)
            blocks.append(
                MultiScaleBlock(
                    dim=_width_of(config, stage),
                    # The channels of the next stage, already: it starts with its attention.
                    dim_out=_width_of(config, stage + is_last),
                    num_heads=config.num_heads * 2**stage,
                    mlp_ratio=config.mlp_ratio,
                    qkv_bias=True,
                    droppath_rate=config.drop_path * len(blocks) / max(last_of_all, 1),
                    norm_layer=_norm,
                    kernel_q=_POOL_KERNEL if pools_queries else (),
                    stride_q=(1, 2, 2) if pools_queries else (),
                    kernel_kv=_POOL_KERNEL,
                    stride_kv=(1, kv_stride, kv_stride),
                )
            )
    return blocks


def _width_of(config: MViTConfig, stage: int) -> int:
    return config.width * 2**stage


def _stage_taps(config: MViTConfig) -> tuple[Tap, ...]:
    """`stage1` ...: what the last block of each stage returns, the class token left out."""
    num_steps, side, _ = config.grid
    taps = []
    for stage, stop in enumerate(accumulate(config.stage_depths), start=1):
        taps.append(
            Tap(
                name=f"stage{stage}",
                module=f"blocks.{stop - 1}",
                output=0,
                layout="NLC",
                grid=(num_steps, side, side),
                num_prefix_tokens=1,
            )
        )
        side = -(-side // 2)  # odd kernels with half padding round up
    return tuple(taps)
