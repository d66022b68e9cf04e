"""The 2D network: made by timm, its classifier and its stages found."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from videokd.config import did_you_mean
from videokd.errors import ConfigError, UserError, first_line
from videokd.models.students.config import TimmVideoConfig
from videokd.models.taps import Tap


def create_backbone(config: TimmVideoConfig, num_classes: int) -> nn.Module:
    """timm's network with K outputs, its names and weights untouched.

    Raises:
        ConfigError: for a name that timm does not know and arguments that it does not take.
        UserError: where ImageNet weights are asked for and do not arrive.
    """
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
            f"backbone_kwargs {kwargs} do not suit {config.backbone!r}: {first_line(error)}"
        ) from error
    except Exception as error:
        if not config.pretrained:
            raise ConfigError(
                f"timm cannot create {config.backbone!r} with {kwargs}: {first_line(error)}"
            ) from error
        raise UserError(
            f"ImageNet weights of {config.backbone!r} could not be had ({first_line(error)}); "
            "set pretrained: false, or run where timm can download them"
        ) from error


def classifier_of(backbone: Any, name: str) -> str:
    """Path of the one linear layer that timm calls the classifier."""
    classifier = backbone.get_classifier()
    for path, module in backbone.named_modules():
        if module is classifier and isinstance(module, nn.Linear):
            return path
    raise ConfigError(
        f"backbone {name!r} does not end in one linear classifier; choose another backbone"
    )


def stage_taps(backbone: nn.Module, num_frames: int) -> tuple[Tap, ...]:
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


def _near_backbone(name: str) -> str:
    hint = did_you_mean(name, timm.list_models())
    # All of timm's names on one line help nobody.
    return hint if hint.startswith("did you mean") else "timm.list_models() lists all names"
