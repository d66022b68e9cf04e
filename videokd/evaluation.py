"""A trained network before the videos of a split: what an evaluation needs, and what it ends with.

Both the accuracy and the probe for motion start here, so that they mean the same by a split, its
views and a command.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videokd.checkpoint import BEST
from videokd.data.index import Index, read_index
from videokd.engine.evaluate import EvalConfig, VideoScores
from videokd.errors import UserError
from videokd.metrics import (
    EvalMetrics,
    MultiLabelMetrics,
    Predictions,
    accuracy_report,
    multi_label_predictions,
    multi_label_report,
)
from videokd.recipe import (
    Device,
    Trained,
    check_clip_length,
    create_fabric,
    eval_loader,
    load_trained,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from videokd.data.loading import EvalLoader
    from videokd.models.video_model import VideoModel


@dataclass(frozen=True)
class EvalJob:
    """Everything that one evaluation needs."""

    trained: Trained
    split: str
    views: EvalConfig
    index: Index
    fabric: Fabric
    loader: EvalLoader
    model: VideoModel
    """The network without taps, on its device."""

    @property
    def is_multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return self.trained.config.objective.is_multi_label

    def stamp(self, *options: str) -> dict[str, Any]:
        """What its document says of how it was made; `options` are of the command, beyond these."""
        trained, views = self.trained, self.views
        return {
            "protocol": self._protocol(),
            "split": self.split,
            "views": {n: getattr(views, n) for n in ("protocol", "num_clips", "num_crops")},
            "command": shlex.join([*self._command(), *options]),
            "checkpoint_step": trained.state["step"],
            "num_views": views.num_views,
            "num_frames": views.views.num_frames or trained.model.spec.num_frames,
        }

    def place(self, name: str, suffix: str) -> Path:
        """Where a document is kept: beside the checkpoint, `name` and `suffix` alone for best.pt on
        the test split, otherwise with what it is of between them."""
        trained, of = self.trained, ""
        if self.split != trained.config.data.test_split or trained.path.name != BEST:
            of = f".{trained.path.stem}.{self.split}"
        return trained.path.parent / f"{name}{of}{suffix}"

    def measured(self, scores: VideoScores) -> tuple[EvalMetrics | MultiLabelMetrics, Predictions]:
        """The numbers of an evaluation, and what was said of each video."""
        records = [self.index.records[video_id] for video_id in scores.video_ids.tolist()]
        groups = [record.group for record in records]
        known = groups if all(groups) else None
        paths = [_path_in_index(record.path, self.index.path) for record in records]
        said, classes = scores.probabilities, self.trained.classes
        if scores.is_multi_label:
            true = scores.targets
            return multi_label_report(said, true, classes, groups=known), multi_label_predictions(
                said, true, classes, paths=paths, groups=groups
            )
        labels = scores.labels
        return accuracy_report(said, labels, classes, groups=known), Predictions.from_scores(
            said, labels, classes, paths=paths, groups=groups
        )

    def _protocol(self) -> str:
        """What was looked at, in a line; a named protocol comes before its clips and crops."""
        trained, views = self.trained, self.views
        spec, shown = trained.model.spec, views.views
        sampling = spec.sampling
        detail = f"x{sampling.stride}" if sampling.kind == "dense" else ""
        name = f"{views.protocol}, " if views.protocol is not None else ""
        return (
            f"{self.split}: {name}{shown.num_clips} clips x {shown.num_crops} crops, "
            f"{sampling.kind} {shown.num_frames or sampling.num_frames}{detail}, "
            f"{spec.crop_px} px, {trained.path.name}"
        )

    def _command(self) -> list[str]:
        """What to type for this evaluation; options only where the recipe says otherwise."""
        trained, views = self.trained, self.views
        config = trained.config
        run = trained.path.parent if trained.path.name == BEST else trained.path
        words = ["videokd", "eval", str(run)]
        words += [] if self.split == config.data.test_split else ["--split", self.split]
        if views.protocol is not None and views.protocol != config.eval.protocol:
            words += ["--protocol", views.protocol]
        elif views.views != config.eval.views:
            words += ["--num-clips", str(views.num_clips), "--num-crops", str(views.num_crops)]
        return words


def eval_job(
    run: Trained | Path,
    *,
    split: str | None = None,
    eval_config: EvalConfig | None = None,
    device: Device = "auto",
) -> EvalJob:
    """A trained network before a split (the recipe's test split), in the recipe's views.

    Raises:
        UserError: no such checkpoint or split, an index of other classes, and what `EvalLoader`
            refuses.
        ConfigError: views that are not for this network.
    """
    trained = run if isinstance(run, Trained) else load_trained(run)
    config = trained.config
    fabric = create_fabric(device, trained.precision, cpu_threads=config.train.cpu_threads)
    index = read_index(config.data.index)
    if index.classes != trained.classes:
        raise UserError(
            f"{config.data.index}: its {len(index.classes)} classes are not the "
            f"{len(trained.classes)} that {trained.path} was trained for"
        )
    split = split or config.data.test_split
    views = eval_config or config.eval
    check_clip_length(config.model, views.views)
    loader = eval_loader(
        config.data,
        views,
        index,
        trained.model.spec,
        split=split,
        fabric=fabric,
        several_labels=config.objective.is_multi_label,
    )
    model = trained.model.without_taps().to(fabric.device)
    return EvalJob(trained, split, views, index, fabric, loader, model)


def _path_in_index(path: Path, index: Path) -> str:
    """Relative to the index where the video lies below it, so that a moved data set is the same."""
    folder = Path(os.path.abspath(index)).parent  # noqa: PTH100
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
