"""The numbers of an evaluation: accuracies, what becomes of each class, and how sure one can be.

Everything starts from one row of class probabilities a video. Heavy libraries are imported where
they are used, so that a script that only reads results starts quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from videokd.errors import UserError
from videokd.types import ClassNames

if TYPE_CHECKING:
    import torch

NUM_RESAMPLES = 10_000
"""Draws of a bootstrap: the ends of its interval then move by about 0.03 standard errors."""

Interval = tuple[float, float]

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
    group_interval_pct: Interval | None
    """Bootstrap interval of top-1 over groups (people, sources); None with fewer than two, or
    where a video has no group."""
    per_class: list[ClassReport]
    confusion: list[list[int]]
    """[K][K]: rows are the true classes, columns the classes ranked first."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the fields in their order."""
        plain = asdict(self)
        for key in ("interval_pct", "group_interval_pct"):
            plain[key] = None if plain[key] is None else list(plain[key])
        return plain


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two models on the same videos."""

    num_videos: int
    num_only_a: int
    """Videos that a has right and b wrong."""
    num_only_b: int
    """Videos that b has right and a wrong."""
    mcnemar_p: float
    """Exact two-sided McNemar test: the chance of a split at least this uneven, were they equal."""
    difference_pct: float
    """Top-1 of a minus top-1 of b, in points."""
    interval_pct: Interval
    """95 % paired bootstrap interval of the difference, over videos or over groups."""


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

    scores, truth = _checked(probabilities, targets, len(classes))
    num_classes = len(classes)
    # A stable sort: torch.topk and argmax leave open which of two equals they take.
    ranked = scores.sort(dim=1, descending=True, stable=True).indices
    hits = (ranked == truth[:, None]).numpy()
    confusion = multiclass_confusion_matrix(ranked[:, 0], truth, num_classes)
    per_class = _per_class(confusion.numpy(), classes)
    recalls = [entry["recall"] for entry in per_class if entry["recall"] is not None]
    correct = hits[:, 0]
    return EvalMetrics(
        num_videos=len(truth),
        top1_pct=100 * float(correct.mean()),
        top5_pct=100 * float(hits[:, :5].any(axis=1).mean()),
        mean_class_pct=100 * float(np.mean(recalls)),
        num_absent_classes=num_classes - len(recalls),
        interval_pct=wilson_interval_pct(int(correct.sum()), len(correct)),
        group_interval_pct=None if groups is None else _group_bootstrap(correct, groups, seed=seed),
        per_class=per_class,
        confusion=confusion.tolist(),
    )


def wilson_interval_pct(num_correct: int, num_videos: int) -> Interval:
    """95 % Wilson score interval of a share, in percent."""
    from scipy.stats import binomtest

    interval = binomtest(num_correct, num_videos).proportion_ci(0.95, method="wilson")
    return (100 * float(interval.low), 100 * float(interval.high))


def paired_test(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> PairedTest:
    """Whether a and b differ on the same M videos, in the same order.

    Args:
        correct_a: bool [M], whether a's first class is right.
        correct_b: bool [M], the same for b.
        groups: [M] names of what the videos share; whole groups are then drawn in the bootstrap.
            McNemar's test takes the videos as independent all the same.
        seed: of the bootstrap.

    Raises:
        ValueError: for unequal lengths, no video, values that are not bool, or fewer than two
            named groups.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0 or {a.dtype, b.dtype} != {np.dtype(bool)}:
        raise ValueError(
            f"correct_a and correct_b must be bool [M], M > 0, not {a.dtype} {list(a.shape)} and "
            f"{b.dtype} {list(b.shape)}"
        )
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    difference = a.astype(np.int64) - b.astype(np.int64)
    interval = (
        _video_bootstrap(only_a, only_b, len(a), seed=seed)
        if groups is None
        else _group_bootstrap(difference, groups, seed=seed)
    )
    if interval is None:
        raise ValueError("a bootstrap over groups needs a group for each video, and two groups")
    return PairedTest(
        num_videos=len(a),
        num_only_a=only_a,
        num_only_b=only_b,
        mcnemar_p=float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0,
        difference_pct=100 * (only_a - only_b) / len(a),
        interval_pct=interval,
    )


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


def _group_bootstrap(values: np.ndarray, groups: Sequence[str], *, seed: int) -> Interval | None:
    """95 % percentile interval, in percent, of the mean over videos when groups are drawn."""
    if len(groups) != len(values):
        raise ValueError(f"{len(groups)} groups for {len(values)} videos; one each is needed")
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2 or "" in names:
        return None
    sizes = np.bincount(member).astype(np.float64)
    sums = np.bincount(member, weights=values.astype(np.float64))
    generator = np.random.default_rng(seed)
    even = np.full(len(names), 1 / len(names))
    means: list[float] = []
    for _ in range(NUM_RESAMPLES):
        times_drawn = generator.multinomial(len(names), even)
        means.append(float(times_drawn @ sums / (times_drawn @ sizes)))
    return _percentiles_pct(np.asarray(means))


def _video_bootstrap(only_a: int, only_b: int, num_videos: int, *, seed: int) -> Interval:
    """The same for single videos: a draw of them is a draw of how many differ either way."""
    shares = np.array([only_a, only_b, num_videos - only_a - only_b]) / num_videos
    counts = np.random.default_rng(seed).multinomial(num_videos, shares, size=NUM_RESAMPLES)
    return _percentiles_pct((counts[:, 0] - counts[:, 1]) / num_videos)


def _percentiles_pct(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return (100 * float(low), 100 * float(high))
