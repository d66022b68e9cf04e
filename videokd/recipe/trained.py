"""A trained network with all that is needed to use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from videokd.checkpoint import load_checkpoint
from videokd.config import parse_config
from videokd.first_weights import checkpoint_file
from videokd.models.video_model import VideoModel
from videokd.models.weights import load_weights
from videokd.models.zoo import create_video_model
from videokd.recipe.config import RunConfig
from videokd.recipe.device import flush_denormals
from videokd.types import ClassNames


@dataclass(frozen=True)
class Trained:
    """A trained network with all that is needed to use it."""

    model: VideoModel
    classes: ClassNames
    config: RunConfig
    """The recipe that it was trained by."""
    path: Path
    """The checkpoint."""
    state: dict[str, Any]
    """What its training had come to: step, best, unreadable, seconds."""

    @property
    def precision(self) -> Literal["auto", "fp32"]:
        """What to use it in: fp32 where it was trained so, else what suits the device at hand."""
        return "fp32" if self.config.train.precision == "fp32" else "auto"

    @property
    def name(self) -> str:
        """The run folder's."""
        return self.path.resolve().parent.name


def load_trained(path: Path | str) -> Trained:
    """The network of a run folder (its best.pt) or of a checkpoint, on the CPU, in eval mode."""
    flush_denormals()
    file = checkpoint_file(Path(path))
    content = load_checkpoint(file)
    config = _recipe_in(content, file)
    classes = ClassNames(content["class_names"])
    model = create_video_model(without_pretraining(config.model), num_classes=len(classes))
    load_weights(
        model.network,
        content["model"],
        replace_head=False,
        classifier=model.classifier,
        source=str(file),
    )
    return Trained(model.eval(), classes, config, file, content["state"])


def recipe_of(path: Path | str) -> RunConfig:
    """What the network of a run folder or checkpoint was trained by."""
    file = checkpoint_file(Path(path))
    return _recipe_in(load_checkpoint(file), file)


def _recipe_in(content: dict[str, Any], file: Path) -> RunConfig:
    return parse_config(RunConfig, content["recipe"], source=f"{file}: the recipe inside")


def without_pretraining(config: Any) -> Any:
    """The same network without fetching ImageNet weights, for when others follow anyway."""
    if getattr(config, "pretrained", False):
        return config.model_copy(update={"pretrained": False})
    return config
