"""All networks by their settings: the one place where a model's `kind` meets code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field

from videokd.models.catalog.presets import with_preset
from videokd.models.students import TimmVideoConfig, create_timm_video
from videokd.models.teachers import (
    C2DConfig,
    CSNConfig,
    I3DConfig,
    MViTConfig,
    R2Plus1DConfig,
    SlowConfig,
    SlowFastConfig,
    TorchvisionConfig,
    X3DConfig,
    create_csn,
    create_mvit,
    create_r2plus1d,
    create_slow,
    create_slowfast,
    create_torchvision,
    create_x3d,
)
from videokd.models.teachers.huggingface import HuggingFaceConfig, create_huggingface
from videokd.models.video_model import NetworkParts, Tap, VideoModel

ModelConfig = Annotated[
    SlowFastConfig
    | SlowConfig
    | C2DConfig
    | I3DConfig
    | R2Plus1DConfig
    | CSNConfig
    | X3DConfig
    | MViTConfig
    | TorchvisionConfig
    | HuggingFaceConfig
    | TimmVideoConfig,
    Field(discriminator="kind"),
    BeforeValidator(with_preset),
]


def create_network(config: ModelConfig, num_classes: int) -> NetworkParts:
    """The bare network of `config` with K outputs, and what `VideoModel` has to know of it."""
    match config:
        case SlowFastConfig():
            return create_slowfast(config, num_classes)
        case SlowConfig() | C2DConfig() | I3DConfig():
            return create_slow(config, num_classes)
        case R2Plus1DConfig():
            return create_r2plus1d(config, num_classes)
        case CSNConfig():
            return create_csn(config, num_classes)
        case X3DConfig():
            return create_x3d(config, num_classes)
        case MViTConfig():
            return create_mvit(config, num_classes)
        case TorchvisionConfig():
            return create_torchvision(config, num_classes)
        case HuggingFaceConfig():
            return create_huggingface(config, num_classes)
        case TimmVideoConfig():
            return create_timm_video(config, num_classes)


def create_video_model(
    config: ModelConfig,
    *,
    num_classes: int,
    taps: Sequence[Tap] | None = None,
    seed: int | None = None,
) -> VideoModel:
    """A network behind the `VideoModel` interface, with freshly drawn weights.

    Args:
        config: any of the kinds.
        num_classes: K.
        taps: None keeps those of `config`, and the family's own where it names none; `()` keeps
            no features at all.
        seed: draws the initial weights; the global generator is left as it was. None draws them
            from the global generator.

    Raises:
        ConfigError: for settings that make no network, and for every fault of a tap.
        UserError: where ImageNet weights are asked for and do not arrive.
    """
    if seed is None:
        parts = create_network(config, num_classes)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = create_network(config, num_classes)
    return VideoModel(
        parts.network,
        spec=config.input,
        num_classes=num_classes,
        classifier=parts.classifier,
        taps=(config.taps or parts.taps) if taps is None else taps,
        attention=parts.attention,
    )
