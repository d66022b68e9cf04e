"""Students: a 2D network from timm, run on every frame, and a module that gives it time.

Letters: **N** clips, **T** frames, **S** crop side (px), **K** classes, **D** features a frame.
"""

from __future__ import annotations

from typing import Any, Literal

import timm
import torch
from pydantic import Field, JsonValue, field_validator
from timm.models import _efficientnet_blocks as efficientnet_blocks
from timm.models import convnext, regnet, resnet
from torch import Tensor, nn

from videokd.config import Config, did_you_mean
from videokd.errors import ConfigError, UserError
from videokd.models.temporal import (
    NoTemporalConfig,
    TemporalConfig,
    TemporalShift,
    create_temporal_pool,
    shift_div_of,
)
from videokd.models.video_model import NetworkParts, Tap
from videokd.types import InputSpec

_OUR_OWN_KWARGS = {
    "num_classes": "the class names",
    "in_chans": "nothing: clips are RGB",
    "features_only": "taps",
    "pretrained": "pretrained",
    "pretrained_cfg": "pretrained",
    "pretrained_cfg_overlay": "pretrained",
    "checkpoint_path": "init",
    "cache_dir": "pretrained",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
}

# Block type -> the first module of its residual branch: that is where the shift goes.
_BRANCH_ENTRANCES: dict[type[nn.Module], str] = {
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
_SHIFTED_FAMILIES = ("ResNet", "RegNet", "ConvNeXt", "EfficientNet", "MobileNetV3")
"""timm's classes whose residual blocks are all in the table (MobileNetV2 is an `EfficientNet`,
MobileNetV4 a `MobileNetV3`)."""


class TimmVideoConfig(Config):
    """A timm network on each frame, a temporal module, one linear classifier."""

    kind: Literal["timm"] = "timm"
    input: InputSpec
    """What the network wants to see."""
    taps: tuple[Tap, ...] = ()
    """Points whose features are returned; empty stands for `stage1` ... of the backbone, where its
    axes are known (convolutional families, plain vision transformers), otherwise for none."""
    backbone: str
    """A name that timm knows, such as `mobilenetv2_100` or `resnet18`."""
    backbone_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Handed to timm's constructor: widths, depths, stem. A ResNet that learns from scratch with
    temporal shift wants `zero_init_last: false`: its branches, where time is, start at zero."""
    temporal: TemporalConfig = NoTemporalConfig()
    """How frames come to know of each other."""
    pretrained: bool = False
    """Start from ImageNet weights, downloaded by timm."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the pooled features dropped while training."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Share of the residual branches left out while training (stochastic depth)."""

    @field_validator("backbone_kwargs")
    @classmethod
    def _leave_ours_alone(cls, kwargs: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in kwargs:
            if name in _OUR_OWN_KWARGS:
                raise ValueError(f"{name!r} is not set here but by {_OUR_OWN_KWARGS[name]}")
        return kwargs


class FrameNetwork(nn.Module):
    """A 2D network over the frames of a clip, pooled over time before its own classifier.

    Averaging features before the linear layer is the same as averaging the frames' logits
    (the consensus of TSN and TSM), and pays for one classification instead of T.
    """

    backbone: Any  # a module with timm's forward_features, forward_head and get_classifier

    def __init__(
        self, backbone: nn.Module, pool: nn.Module, *, classifier: str, dropout: float
    ) -> None:
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.pool = pool
        self.dropout = nn.Dropout(dropout)
        self._classifier = classifier

    def forward(self, clips: Tensor) -> Tensor:
        """Classify [N,3,T,S,S]: logits [N,K]."""
        num_clips = clips.shape[0]
        # Channels last, as decoded frames lie: no copy in the usual case, and the same order of
        # additions whatever the caller's layout.
        frames = clips.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps = self.backbone.forward_features(frames)
        features = self.backbone.forward_head(maps, pre_logits=True)
        pooled = self.pool(features.unflatten(0, (num_clips, -1)))
        return self.backbone.get_submodule(self._classifier)(self.dropout(pooled))


def create_timm_video(config: TimmVideoConfig, num_classes: int) -> NetworkParts:
    """The 2D network of `config` with its temporal module.

    Raises:
        ConfigError: for a backbone that timm does not know, arguments that it does not take, and a
            family in which the temporal module does not know where to go.
        UserError: where ImageNet weights are asked for and do not arrive.
    """
    backbone = _create_backbone(config, num_classes)
    classifier = _classifier_of(backbone, config.backbone)
    num_frames = config.input.num_frames
    if (shift_div := shift_div_of(config.temporal)) is not None:
        place_shift(backbone, num_frames=num_frames, shift_div=shift_div, name=config.backbone)
    dim = backbone.get_submodule(classifier).in_features
    assert isinstance(dim, int)
    pool = create_temporal_pool(config.temporal, dim, num_frames)
    return NetworkParts(
        network=FrameNetwork(backbone, pool, classifier=classifier, dropout=config.dropout),
        classifier=f"backbone.{classifier}",
        taps=_stage_taps(backbone, num_frames),
        attention="pool.attention" if hasattr(pool, "attention") else None,
    )


def place_shift(backbone: nn.Module, *, num_frames: int, shift_div: int, name: str) -> int:
    """Put a `TemporalShift` at the entrance of each residual branch; returns how many.

    It hangs on the first module of the branch as a pre-hook and beside it as a child without
    weights, so the names in the state dict stay timm's.
    """
    family = type(backbone).__name__
    if family not in _SHIFTED_FAMILIES:
        raise ConfigError(
            f"temporal shift does not know where to go in {name!r} (timm family {family}); "
            f"families it knows: {', '.join(_SHIFTED_FAMILIES)}"
        )
    branches = [block for block in backbone.modules() if _is_residual(block)]
    for block in branches:
        entrance = _BRANCH_ENTRANCES.get(type(block))
        if entrance is None:
            raise ConfigError(
                f"temporal shift does not know the residual block {type(block).__name__} of "
                f"{name!r}; choose another backbone"
            )
        shift = TemporalShift(num_frames, shift_div)
        block.add_module("temporal_shift", shift)
        block.get_submodule(entrance).register_forward_pre_hook(shift.before)
    if not branches:
        raise ConfigError(
            f"{name!r} has no residual branch for a temporal shift; choose a backbone with "
            "residual blocks, such as resnet18 or mobilenetv2_100, or kind: attention_pool"
        )
    return len(branches)


def _is_residual(block: nn.Module) -> bool:
    if hasattr(block, "has_skip"):  # timm's mobile blocks: some have a branch, some do not
        return bool(block.has_skip)
    return type(block) in _BRANCH_ENTRANCES


def _create_backbone(config: TimmVideoConfig, num_classes: int) -> nn.Module:
    # An unknown name may also be a path or an address to timm: refuse it before it is followed.
    if not timm.is_model(config.backbone):
        raise ConfigError(
            f"backbone {config.backbone!r} is not one that timm {timm.__version__} knows; "
            f"{_near_backbone(config.backbone)}"
        )
    kwargs = dict(config.backbone_kwargs)
    if config.drop_path:
        kwargs["drop_path_rate"] = config.drop_path
    try:
        return timm.create_model(
            config.backbone, pretrained=config.pretrained, num_classes=num_classes, **kwargs
        )
    except TypeError as error:
        raise ConfigError(
            f"backbone_kwargs {kwargs} do not suit {config.backbone!r}: {_first_line(error)}"
        ) from error
    except Exception as error:
        if not config.pretrained:
            raise ConfigError(
                f"timm cannot create {config.backbone!r} with {kwargs}: {_first_line(error)}"
            ) from error
        raise UserError(
            f"ImageNet weights of {config.backbone!r} could not be had ({_first_line(error)}); "
            "set pretrained: false, or run where timm can download them"
        ) from error


def _near_backbone(name: str) -> str:
    hint = did_you_mean(name, timm.list_models())
    # All of timm's names on one line help nobody.
    return hint if hint.startswith("did you mean") else "timm.list_models() lists all names"


def _classifier_of(backbone: Any, name: str) -> str:
    """Path of the one linear layer that timm calls the classifier."""
    classifier = backbone.get_classifier()
    for path, module in backbone.named_modules():
        if module is classifier and isinstance(module, nn.Linear):
            return path
    raise ConfigError(
        f"backbone {name!r} does not end in one linear classifier; choose another backbone"
    )


def _stage_taps(backbone: nn.Module, num_frames: int) -> tuple[Tap, ...]:
    """`stage1` ... as timm lists its features, the stem left out."""
    if getattr(backbone, "output_fmt", "NCHW") != "NCHW":
        return ()
    patches = getattr(backbone, "patch_embed", None)
    modules = [str(info["module"]) for info in getattr(backbone, "feature_info", ())]
    stages = [module for module in modules if not module.startswith(("act", "bn", "conv", "stem"))]
    if patches is None:
        return tuple(
            Tap(name=f"stage{n}", module=f"backbone.{module}", layout="NTCHW_flat")
            for n, module in enumerate(stages, start=1)
        )
    grid = (num_frames, *patches.grid_size)
    prefix = int(getattr(backbone, "num_prefix_tokens", 0))
    return tuple(
        Tap(
            name=f"stage{n}",
            module=f"backbone.{module}",
            layout="NLC",
            grid=grid,
            num_prefix_tokens=prefix,
        )
        for n, module in enumerate(stages, start=1)
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
