"""The numbers of an evaluation where a video may have several labels: average precision.

As in `accuracy`, everything starts from one row a video, here of each class's own probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from videokd.errors import UserError
from videokd.metrics.accuracy import (
    group_interval_pct,
    plain_document,
    rank_classes,
    wilson_interval_pct,
)
from videokd.metrics.bootstrap import Interval
from videokd.metrics.predictions import Predictions
from videokd.types import ClassNames

if TYPE_CHECKING:
    import torch

MultiLabelClassReport = TypedDict(
    "MultiLabelClassReport",
    {"class": str, "num_videos": int, "average_precision": float | None},
)
"""One class; the average precision is in [0, 1], None where no video has the class."""


@dataclass(frozen=True, slots=True)
class MultiLabelMetrics:
    """What is said of videos that may have several labels each; percentages."""

    num_videos: int
    mean_average_precision_pct: float
    """Mean over the classes that have videos here (macro), each video's views averaged first."""
    num_absent_classes: int
    """Classes without a video here; `mean_average_precision_pct` is without them."""
    top1_pct: float
    """Share of videos whose most probable class is one of theirs."""
    top5_pct: float
    """Share of videos with one of theirs among the first five classes, or among all where there
    are fewer."""
    interval_pct: Interval
    """Wilson score interval of `top1_pct`, every video independent of the others."""
    top5_interval_pct: Interval
    """The same of `top5_pct`."""
    group_interval_pct: Interval | None
    """Bootstrap interval of `top1_pct` over groups; None as in `EvalMetrics`."""
    per_class: list[MultiLabelClassReport]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the fields in their order."""
        return plain_document(self)


def multi_label_report(
    probabilities: torch.Tensor,
    targets: torch.Tensor,
    classes: ClassNames,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> MultiLabelMetrics:
    """The evaluation of M videos, each counted once.

    Args:
        probabilities: float [M, K], each in [0, 1].
        targets: [M, K], above 0 for every label of the video, at least one each.
        classes: the K names, at least two.
        groups: [M] names of what the videos share (a person); "" where it is not known.
        seed: of the bootstrap over groups.

    Raises:
        UserError: without a video, for a video without a label, for fewer than two classes, for a
            probability that is not a finite number.
        ValueError: for shapes that do not fit together.
    """
    _, hits = _ranked_hits(probabilities, targets, len(classes))
    precisions = average_precisions(probabilities, targets)
    first, in_first_five = hits[:, 0], hits[:, :5].any(axis=1)
    num_known = sum(value is not None for value in precisions)
    counts = (targets > 0).sum(dim=0).tolist()
    return MultiLabelMetrics(
        num_videos=len(hits),
        mean_average_precision_pct=_mean_pct(precisions),
        num_absent_classes=len(classes) - num_known,
        top1_pct=100 * float(first.mean()),
        top5_pct=100 * float(in_first_five.mean()),
        interval_pct=wilson_interval_pct(int(first.sum()), len(hits)),
        top5_interval_pct=wilson_interval_pct(int(in_first_five.sum()), len(hits)),
        group_interval_pct=None if groups is None else group_interval_pct(first, groups, seed=seed),
        per_class=[
            {"class": name, "num_videos": count, "average_precision": precision}
            for name, count, precision in zip(classes, counts, precisions, strict=True)
        ],
    )


def average_precisions(probabilities: torch.Tensor, targets: torch.Tensor) -> list[float | None]:
    """Of each class, [K]: `sum_n (R_n - R_{n-1}) P_n` over the thresholds, the area under the steps
    of precision over recall, as scikit-learn has it; None where no video has the class.

    Args:
        probabilities: float [M, K], each in [0, 1].
        targets: [M, K], above 0 for every label.
    """
    from torchmetrics.functional.classification import binary_average_precision

    truth = (targets > 0).long()
    return [
        float(binary_average_precision(scores, column)) if column.any() else None
        for scores, column in zip(probabilities.double().unbind(1), truth.unbind(1), strict=True)
    ]


def mean_average_precision_pct(probabilities: torch.Tensor, targets: torch.Tensor) -> float:
    """The mean of `average_precisions` over the classes that have videos, in percent."""
    return _mean_pct(average_precisions(probabilities, targets))


def _mean_pct(precisions: Sequence[float | None]) -> float:
    return 100 * float(np.mean([value for value in precisions if value is not None]))


def multi_label_predictions(
    probabilities: torch.Tensor,
    targets: torch.Tensor,
    classes: ClassNames,
    *,
    paths: Sequence[str],
    groups: Sequence[str],
) -> Predictions:
    """The rows by which runs are compared: labels joined by ";", right where the class ranked first
    (or one of the first five) is one of them. Arguments as for `multi_label_report`."""
    ranked, hits = _ranked_hits(probabilities, targets, len(classes))
    labels = [";".join(classes[k] for k in row.nonzero().flatten().tolist()) for row in targets > 0]
    return Predictions(
        paths=tuple(paths),
        labels=tuple(labels),
        predicted=tuple(classes[index] for index in ranked[:, 0].tolist()),
        correct_top1=hits[:, 0],
        correct_top5=np.asarray(hits[:, :5].any(axis=1)),
        groups=tuple(groups),
        probabilities=probabilities.float().numpy(),
        classes=tuple(classes),
    )


def _ranked_hits(
    probabilities: torch.Tensor, targets: torch.Tensor, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Classes from the most probable on, int [M, K], and whether each is one of the video's."""
    if targets.shape != probabilities.shape:
        raise ValueError(
            f"targets must be {list(probabilities.shape)} as probabilities, not "
            f"{list(targets.shape)}"
        )
    without = (targets <= 0).all(dim=1).nonzero().flatten()
    if len(without):
        raise UserError(
            f"{len(without)} of {len(targets)} videos have no label (the first is row "
            f"{int(without[0])}); evaluate videos with labels"
        )
    ranked, _ = rank_classes(probabilities, targets.argmax(dim=1), num_classes)
    return ranked.numpy(), (targets > 0).gather(1, ranked).numpy()
