"""The numbers of an evaluation: accuracies, what becomes of each class, and how sure one can be.

Everything starts from one row of class probabilities a video. Heavy libraries are imported where
they are used, so that a script that only reads results starts quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from videokd.errors import UserError
from videokd.metrics.bootstrap import Interval, Side, spread, units_of_groups
from videokd.types import ClassNames

if TYPE_CHECKING:
    import torch

    from videokd.metrics.multi_label import MultiLabelMetrics

ClassReport = TypedDict(
    "ClassReport",
    {
        "class": str,
        "num_videos": int,
        "precision": float | None,
        "recall": float | None,
        "f1": float | None,
    },
)
"""One class; fractions in [0, 1], None where a ratio would be 0 / 0."""


@dataclass(frozen=True, slots=True)
class EvalMetrics:
    """Accuracies over videos, in percent, with their 95 % intervals."""

    num_videos: int
    top1_pct: float
    top5_pct: float
    """Among the first five classes, or among all where there are fewer than five."""
    mean_class_pct: float
    """Mean recall over the classes that have videos here."""
    num_absent_classes: int
    """Classes without a video here: their recall is None and `mean_class_pct` is without them."""
    interval_pct: Interval
    """Wilson score interval of top-1, every video independent of the others."""
    top5_interval_pct: Interval
    """The same of top-5."""
    group_interval_pct: Interval | None
    """Bootstrap interval of top-1 over groups (people, sources); None with fewer than two, or
    where a video has no group."""
    per_class: list[ClassReport]
    confusion: list[list[int]]
    """[K][K]: rows are the true classes, columns the classes ranked first."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the fields in their order."""
        return plain_document(self)


def accuracy_report(
    probabilities: torch.Tensor | np.ndarray,
    targets: torch.Tensor | np.ndarray,
    classes: ClassNames,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> EvalMetrics:
    """The evaluation of M videos, each counted once.

    Classes with the same probability rank by their index, lowest first, so that a tie is decided
    alike on every machine.

    Args:
        probabilities: float [M, K], one row a video.
        targets: int64 [M], the true classes, in [0, K).
        classes: the K names, at least two.
        groups: [M] names of what the videos share (a person); "" where it is not known.
        seed: of the bootstrap over groups.

    Raises:
        UserError: without a video, with fewer than two classes, for a probability that is not a
            finite number or a target outside the classes.
        ValueError: for shapes that do not fit together.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    num_classes = len(classes)
    ranked, truth = rank_classes(probabilities, targets, num_classes)
    hits = (ranked == truth[:, None]).numpy()
    confusion = multiclass_confusion_matrix(ranked[:, 0], truth, num_classes)
    per_class = _per_class(confusion.numpy(), classes)
    recalls = [entry["recall"] for entry in per_class if entry["recall"] is not None]
    correct, in_first_five = hits[:, 0], hits[:, :5].any(axis=1)
    return EvalMetrics(
        num_videos=len(truth),
        top1_pct=100 * float(correct.mean()),
        top5_pct=100 * float(in_first_five.mean()),
        mean_class_pct=100 * float(np.mean(recalls)),
        num_absent_classes=num_classes - len(recalls),
        interval_pct=wilson_interval_pct(int(correct.sum()), len(correct)),
        top5_interval_pct=wilson_interval_pct(int(in_first_five.sum()), len(correct)),
        group_interval_pct=(
            None if groups is None else group_interval_pct(correct, groups, seed=seed)
        ),
        per_class=per_class,
        confusion=confusion.tolist(),
    )


def rank_classes(
    probabilities: torch.Tensor | np.ndarray, targets: torch.Tensor | np.ndarray, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The classes of each video from the most probable on, int64 [M, K], and the true ones [M].

    Raises:
        UserError, ValueError: as `accuracy_report` does.
    """
    scores, truth = _checked(probabilities, targets, num_classes)
    # A stable sort: torch.topk and argmax leave open which of two equals they take.
    return scores.sort(dim=1, descending=True, stable=True).indices, truth


def wilson_interval_pct(num_correct: int, num_videos: int) -> Interval:
    """95 % Wilson score interval of a share, in percent."""
    from scipy.stats import binomtest

    interval = binomtest(num_correct, num_videos).proportion_ci(0.95, method="wilson")
    return (100 * float(interval.low), 100 * float(interval.high))


def group_interval_pct(correct: np.ndarray, groups: Sequence[str], *, seed: int) -> Interval | None:
    """95 % bootstrap interval of a share over groups, in percent; None where there are not two, or
    a video has none."""
    units = units_of_groups(correct[None], groups)
    if units is None:
        return None
    low, high = spread(units, (Side(1, 1),), seed=seed).interval
    return (100 * low, 100 * high)


def plain_document(metrics: EvalMetrics | MultiLabelMetrics) -> dict[str, Any]:
    """Metrics as plain data for JSON, the fields in their order."""
    plain = asdict(metrics)
    for key in ("interval_pct", "top5_interval_pct", "group_interval_pct"):
        plain[key] = None if plain[key] is None else list(plain[key])
    return plain


def _checked(
    probabilities: torch.Tensor | np.ndarray, targets: torch.Tensor | np.ndarray, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 [M, K] and int64 [M] on the CPU."""
    import torch

    scores = torch.as_tensor(probabilities).detach().cpu()
    truth = torch.as_tensor(targets).detach().cpu()
    if num_classes < 2:
        raise UserError("an accuracy needs at least two classes to tell apart, and there is one")
    if scores.ndim != 2 or scores.shape[1] != num_classes or not scores.is_floating_point():
        raise ValueError(
            f"probabilities must be float [M, {num_classes}], not {scores.dtype} "
            f"{list(scores.shape)}"
        )
    if truth.shape != scores.shape[:1] or truth.dtype != torch.int64:
        raise ValueError(
            f"targets must be int64 [{len(scores)}], not {truth.dtype} {list(truth.shape)}"
        )
    if len(truth) == 0:
        raise UserError("no video to evaluate: the split is empty")
    broken = (~scores.isfinite()).any(dim=1).nonzero().flatten()
    if len(broken):
        raise UserError(
            f"the probabilities of {len(broken)} of {len(scores)} videos are not finite (the first "
            f"is row {int(broken[0])}); the network's weights or its precision are at fault"
        )
    outside = truth[(truth < 0) | (truth >= num_classes)]
    if len(outside):
        raise UserError(
            f"target {int(outside[0])} is outside the {num_classes} classes, 0 to {num_classes - 1}"
        )
    return scores.double(), truth


def _per_class(confusion: np.ndarray, classes: ClassNames) -> list[ClassReport]:
    """Precision, recall and F1 from counts [K, K], rows true."""
    reports: list[ClassReport] = []
    for index, name in enumerate(classes):
        hits = int(confusion[index, index])
        actual, claimed = int(confusion[index].sum()), int(confusion[:, index].sum())
        reports.append(
            {
                "class": name,
                "num_videos": actual,
                "precision": _ratio(hits, claimed),
                "recall": _ratio(hits, actual),
                "f1": _ratio(2 * hits, actual + claimed),
            }
        )
    return reports


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
