"""torchvision's video networks as they are: its weights load.

Letters: **N** clips, **T** frames, **S** crop side (px), **K** classes.
"""

from __future__ import annotations

from typing import Any, Literal

import torchvision.models.video as zoo  # type: ignore[import-untyped]
from pydantic import Field, model_validator
from torch import nn
from torchvision.ops import StochasticDepth  # type: ignore[import-untyped]

from videokd.config import Config
from videokd.models.video_model import NetworkParts, Tap
from videokd.types import InputSpec

_RESNETS = ("r3d_18", "mc3_18", "r2plus1d_18")
_MVITS = ("mvit_v1_b", "mvit_v2_s")
_MVIT_FRAMES, _MVIT_PX = 16, 224
_MVIT_STAGE_ENDS = (0, 2, 13, 15)
_MVIT_GRID = (8, 56)
"""Steps in time, and cells along a side in the first stage."""


class TorchvisionConfig(Config):
    """A network of `torchvision.models.video` by its name there.

    Its published weights were measured on clips of `frame_rate=15` (mvit: 7.5):

    - r3d_18, mc3_18, r2plus1d_18: T 16, 112 px out of 128x171.
    - s3d: T 128, 224 px out of 256x256; it takes 14 frames and 224 px or more.
    - swin3d_t, swin3d_s, swin3d_b: T 32, 224 px out of 256.
    - mvit_v1_b, mvit_v2_s: T 16, 224 px out of 256; they take no other size.
    """

    kind: Literal["torchvision"] = "torchvision"
    input: InputSpec
    """What the network wants to see."""
    taps: tuple[Tap, ...] = ()
    """Points whose features are returned; empty stands for the output of every stage: `res2` ...
    `res5` of the ResNets, `stage1` ... `stage4` of the others, at 1/4 to 1/32 of the size."""
    name: Literal[
        "r3d_18",
        "mc3_18",
        "r2plus1d_18",
        "s3d",
        "swin3d_t",
        "swin3d_s",
        "swin3d_b",
        "mvit_v1_b",
        "mvit_v2_s",
    ]
    """What torchvision calls it."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Share of the pooled features dropped while training; None is torchvision's own: 0.2 for s3d,
    0.5 for mvit, otherwise 0."""
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    """Share of the last block's branches left out while training (stochastic depth), earlier ones
    in proportion; None is torchvision's own: 0.1 for swin3d, 0.2 for mvit. Others have none."""

    @model_validator(mode="after")
    def _suits_the_network(self) -> TorchvisionConfig:
        size = (self.input.num_frames, self.input.crop_px)
        if self.name in _MVITS and size != (_MVIT_FRAMES, _MVIT_PX):
            raise ValueError(
                f"{self.name} takes clips of {_MVIT_FRAMES} frames of {_MVIT_PX} px, not {size[0]} "
                f"of {size[1]} px; kind: mvit takes others"
            )
        if self.drop_path is not None and not self.name.startswith(("swin3d", "mvit")):
            raise ValueError(f"{self.name} has no stochastic depth; leave drop_path out")
        return self


def create_torchvision(config: TorchvisionConfig, num_classes: int) -> NetworkParts:
    """The network of that name, without weights."""
    kwargs: dict[str, Any] = {"num_classes": num_classes}
    has_dropout = config.name == "s3d" or config.name in _MVITS
    if has_dropout and config.dropout is not None:
        kwargs["dropout"] = config.dropout
    network = getattr(zoo, config.name)(weights=None, **kwargs)
    if not has_dropout and config.dropout:
        # A pool and a dropout have no weights: no name in the state dict changes.
        network.avgpool = nn.Sequential(network.avgpool, nn.Dropout(config.dropout))
    if config.drop_path is not None:
        _set_drop_path(network, config.drop_path)
    return NetworkParts(network, *_ends_of(config.name))


def _set_drop_path(network: nn.Module, share: float) -> None:
    depths = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    for block, module in enumerate(depths):
        module.p = share * block / (len(depths) - 1)


def _ends_of(name: str) -> tuple[str, tuple[Tap, ...]]:
    """The classifier and the taps."""
    if name in _RESNETS:
        return "fc", tuple(Tap(name=f"res{n + 1}", module=f"layer{n}") for n in range(1, 5))
    if name in _MVITS:
        return "head.1", _mvit_taps()
    if name == "s3d":
        return "classifier.1", _stages("features", (3, 6, 12, 15))
    return "head", _stages("features", (0, 2, 4, 6), layout="NTHWC")


def _stages(module: str, positions: tuple[int, ...], **geometry: Any) -> tuple[Tap, ...]:
    return tuple(
        Tap(name=f"stage{stage}", module=f"{module}.{position}", **geometry)
        for stage, position in enumerate(positions, start=1)
    )


def _mvit_taps() -> tuple[Tap, ...]:
    num_steps, side = _MVIT_GRID
    return tuple(
        Tap(
            name=f"stage{stage + 1}",
            module=f"blocks.{block}",
            output=0,
            layout="NLC",
            grid=(num_steps, side >> stage, side >> stage),
            num_prefix_tokens=1,
        )
        for stage, block in enumerate(_MVIT_STAGE_ENDS)
    )
