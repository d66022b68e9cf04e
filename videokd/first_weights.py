"""Where a network's first weights come from: a run, a file, or what others have published."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import model_validator

from videokd.checkpoint import BEST, WeightsFile, load_weights_file
from videokd.config import Config, did_you_mean
from videokd.errors import UserError
from videokd.models.catalog import CATALOG
from videokd.models.video_model import VideoModel
from videokd.models.weights import (
    Convert,
    Layout,
    LoadReport,
    load_weights,
    place_of,
    published_classes,
    published_weights,
    refuse_other_classes,
)
from videokd.progress import show_progress
from videokd.types import ClassNames


class InitConfig(Config):
    """Where the trained network's first weights come from; without `weights` they are random."""

    weights: str | None = None
    """A run folder, a checkpoint, a published file (.pt, .pth, .pyth, .safetensors), or the name of
    a network of `videokd models`: its published weights, downloaded once."""
    layout: Layout = "auto"
    """Whose names the file's tensors have; `auto` recognises them, and a name of `videokd models`
    knows its own."""
    convert: Convert = "none"
    """`inflate` a 2D checkpoint into a 3D network of the same topology, or `deflate` a 3D one into
    a 2D network."""
    replace_head: bool = False
    """Start a new classifier: all that fine-tuning to other classes needs."""
    partial: bool = False
    """Go on where some weights are missing or left over; they are listed either way."""

    @model_validator(mode="after")
    def _something_to_start_from(self) -> InitConfig:
        changed = [name for name, value in self if value != type(self).model_fields[name].default]
        if self.weights is None and changed:
            raise ValueError(f"{changed[0]} is set, but there are no weights; give init.weights")
        return self


class FirstWeights(NamedTuple):
    """A file on disk, and what is known of it."""

    path: Path
    layout: Layout
    dataset: str | None
    """Whose classes the published classifier tells apart; None where nobody says."""


def checkpoint_file(path: Path) -> Path:
    """The file meant by a run folder (its best.pt) or by a file."""
    if path.is_dir():
        file = path / BEST
        if not file.is_file():
            raise UserError(f"{path}: holds no {BEST}; train it first, or give another run folder")
        return file
    return path


def find_weights(init: InitConfig) -> FirstWeights | None:
    """The file that `init` names, downloaded where that is needed; None where it names none.

    A name of the catalogue always means that: write `./x3d_m` for a folder of the same name.

    Raises:
        UserError: neither a file nor a name that is known, and whatever a download may meet.
    """
    if init.weights is None:
        return None
    if init.weights in CATALOG:
        entry = CATALOG[init.weights]
        is_there = entry.weights is not None and place_of(entry.weights).is_file()
        with show_progress(f"download {entry.name}, MiB", quiet=is_there) as report:
            path = published_weights(
                entry, on_progress=lambda done, total: report(done >> 20, -(-total >> 20), "")
            )
        assert entry.weights is not None
        layout: Layout = entry.weights.layout if init.layout == "auto" else init.layout
        return FirstWeights(path, layout, entry.published.dataset if entry.published else None)
    path = Path(init.weights)
    if not path.exists() and path.suffix == "" and len(path.parts) == 1:
        raise UserError(
            f"init.weights {init.weights!r} is neither a file or run folder nor a network of "
            f"`videokd models`; {did_you_mean(init.weights, list(CATALOG))}"
        )
    return FirstWeights(checkpoint_file(path), init.layout, None)


def load_first_weights(model: VideoModel, init: InitConfig, classes: ClassNames) -> LoadReport:
    """Load what `init` names into `model`, wholly or, after an error, not at all.

    Raises:
        UserError: whatever is wrong with the file, weights of another network, and, unless the
            head is replaced, a classifier that was trained for other classes.
    """
    found = find_weights(init)
    assert found is not None
    file = load_weights_file(found.path)
    if not init.replace_head:
        _refuse_other_classes(found, file, classes)
    return load_weights(
        model.network,
        file.tensors,
        replace_head=init.replace_head,
        classifier=model.classifier,
        source=str(found.path),
        allow_partial=init.partial,
        layout=found.layout,
        convert=init.convert,
    )


def _refuse_other_classes(found: FirstWeights, file: WeightsFile, classes: ClassNames) -> None:
    source = str(found.path)
    if file.class_names is not None:
        refuse_other_classes(file.class_names, list(classes), source=source, whose="the checkpoint")
    elif found.dataset is not None and (theirs := published_classes(found.dataset)) is not None:
        refuse_other_classes(
            theirs, list(classes), source=source, whose=f"its data set {found.dataset}"
        )
