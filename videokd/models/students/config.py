"""Settings of a student."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, field_validator

from videokd.config import Config
from videokd.models.taps import Tap
from videokd.models.temporal import NoTemporalConfig, TemporalConfig
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
