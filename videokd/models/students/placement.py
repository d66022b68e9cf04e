"""Where in a timm network a temporal module goes.

Published places: the entrance of every residual branch for the shift (TSM's `blockres`; in a
ResNet of 101 layers or more every second one), after the first convolution of the branch for TAM.
Networks without residual branches take a module in place, at the entrance of each stage.
"""

from __future__ import annotations

from typing import NamedTuple

from timm.models import _efficientnet_blocks as efficientnet_blocks
from timm.models import convnext, regnet, resnet
from torch import nn

from videokd.errors import ConfigError
from videokd.models.temporal import (
    AttentionPoolConfig,
    BranchModule,
    DepthwiseConfig,
    GruConfig,
    NoTemporalConfig,
    ShiftConfig,
    TamConfig,
    TemporalAdaptive,
    TemporalConfig,
    TemporalDepthwise,
    TemporalShift,
)


class Place(NamedTuple):
    """A module of the network that sees its frames through a temporal module."""

    block: nn.Module
    """Holds the temporal module, which is saved under its name."""
    entrance: nn.Module
    """Whose input passes the temporal module; the block itself, or a module in it."""


# Block type -> the first module of its residual branch.
_BRANCHES: dict[type[nn.Module], str] = {
    resnet.BasicBlock: "conv1",
    resnet.Bottleneck: "conv1",
    regnet.Bottleneck: "conv1",
    convnext.ConvNeXtBlock: "conv_dw",
    efficientnet_blocks.ConvBnAct: "conv",
    efficientnet_blocks.DepthwiseSeparableConv: "conv_dw",
    efficientnet_blocks.EdgeResidual: "conv_exp",
    efficientnet_blocks.InvertedResidual: "conv_pw",
    efficientnet_blocks.MobileAttention: "norm",
    efficientnet_blocks.UniversalInvertedResidual: "dw_start",
}
# Where TAM goes instead: after the first convolution, as published for bottlenecks. In inverted
# residuals that is where they are widest, and TAM's weights grow with the square of the width: in
# MobileNetV2 it would have more weights there than the network. There it stays at the entrance.
_AFTER_FIRST_CONV: dict[type[nn.Module], str] = {
    resnet.BasicBlock: "conv2",
    resnet.Bottleneck: "conv2",
    regnet.Bottleneck: "conv2",
}
_FAMILIES = ("ResNet", "RegNet", "ConvNeXt", "EfficientNet", "MobileNetV3", "LCNetV2")
"""timm's classes whose blocks are all known (MobileNetV2 and EfficientNet-Lite are an
`EfficientNet`, MobileNetV4 and LCNet a `MobileNetV3`)."""
_DEEP_STAGE = 23
"""Blocks in the third stage from which TSM's code shifts every second block only: ResNet-101."""


def place_temporal(
    backbone: nn.Module, config: TemporalConfig, *, num_frames: int, name: str
) -> int:
    """Put the modules of `config` that act between frames into `backbone`; returns how many.

    Each hangs on the first module that should see its frames as a pre-hook, and beside that as a
    child of its block: the names of the 2D network's weights stay timm's. `none`, `gru` and an
    `attention_pool` without `shift_div` put nothing there.

    Args:
        backbone: of timm; changed in place.
        config: which temporal module.
        num_frames: T.
        name: the backbone's, for errors.

    Raises:
        ConfigError: for a family whose blocks are not known here, and a block that is too narrow.
    """
    match config:
        case NoTemporalConfig() | GruConfig() | AttentionPoolConfig(shift_div=None):
            return 0
    places = _places(backbone, config, name)
    for place in places:
        module = _create(config, place, num_frames)
        place.block.add_module(_CHILD_NAMES[type(module)], module)
        place.entrance.register_forward_pre_hook(module.before)
    return len(places)


_CHILD_NAMES: dict[type[BranchModule], str] = {
    TemporalShift: "temporal_shift",
    TemporalDepthwise: "temporal_conv",
    TemporalAdaptive: "tam",
}


def _create(config: TemporalConfig, place: Place, num_frames: int) -> BranchModule:
    match config:
        case TamConfig():
            return TemporalAdaptive(_channels(place), num_frames)
        case DepthwiseConfig():
            return TemporalDepthwise(_channels(place), num_frames, config.shift_div)
        case ShiftConfig() | AttentionPoolConfig():
            assert config.shift_div is not None
            return TemporalShift(num_frames, config.shift_div)
        case _:
            raise AssertionError(f"{config.kind} puts nothing into branches")


def _places(backbone: nn.Module, config: TemporalConfig, name: str) -> list[Place]:
    family = type(backbone).__name__
    if family not in _FAMILIES:
        raise ConfigError(
            f"temporal {config.kind} does not know where to go in {name!r} (timm family {family}); "
            f"families it knows: {', '.join(_FAMILIES)}; kinds none, attention_pool and gru work "
            "with any"
        )
    places = _in_place(backbone) or _in_branches(backbone, config, name)
    if not places:
        raise ConfigError(
            f"temporal {config.kind} finds no residual branch and no stage in {name!r}; choose "
            "another backbone, such as resnet18 or mobilenetv2_100, or kind: gru"
        )
    return places


def _in_branches(backbone: nn.Module, config: TemporalConfig, name: str) -> list[Place]:
    is_tam = isinstance(config, TamConfig)
    every_second = not is_tam and _is_deep(backbone)
    places = []
    for path, block in backbone.named_modules():
        if not _is_residual(block):
            continue
        entrance = _BRANCHES.get(type(block))
        if entrance is None:
            raise ConfigError(
                f"temporal {config.kind} does not know the residual block {type(block).__name__} "
                f"of {name!r}; choose another backbone"
            )
        if every_second and int(path.rpartition(".")[2]) % 2:
            continue
        if is_tam:
            entrance = _AFTER_FIRST_CONV.get(type(block), entrance)
        places.append(Place(block, block.get_submodule(entrance)))
    return places


def _in_place(backbone: nn.Module) -> list[Place]:
    """The entrances of the stages of a network (nearly) without residual branches.

    Before each block that halves the resolution, as PP-TSMv2 tried it (PaddleVideo's pp-tsm_v2.md,
    Kinetics-400: 69.06 % without, 69.77 to 70.06 % with one to four of its stages, 70.06 % with
    all). A shift in place of every block costs what the branch keeps apart: the frame itself.
    """
    if type(backbone).__name__ == "LCNetV2":
        blocks = [stage[0] for stage in backbone.stages]  # type: ignore[index, union-attr]
    elif any(_is_residual(block) for block in backbone.modules()):
        return []
    else:
        kind = efficientnet_blocks.DepthwiseSeparableConv
        separable = [block for block in backbone.modules() if isinstance(block, kind)]
        blocks = [block for block in separable if max(block.conv_dw.stride) > 1]
    return [Place(block, block) for block in blocks]


def _is_deep(backbone: nn.Module) -> bool:
    return isinstance(backbone, resnet.ResNet) and len(backbone.layer3) >= _DEEP_STAGE


def _is_residual(block: nn.Module) -> bool:
    if hasattr(block, "has_skip"):  # timm's mobile blocks: some have a branch, some do not
        return bool(block.has_skip)
    return type(block) in _BRANCHES


def _channels(place: Place) -> int:
    """C of what enters: of the first module that says, in the entrance or after it."""
    for module in (*place.entrance.modules(), *place.block.modules()):
        channels = getattr(module, "in_channels", getattr(module, "num_features", None))
        if isinstance(channels, int):
            return channels
    raise AssertionError(f"no convolution in {type(place.block).__name__}")
