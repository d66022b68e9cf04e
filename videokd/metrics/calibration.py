"""Whether a network's probabilities mean what they say.

Letters: **M** videos, **K** classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from videokd.metrics.accuracy import rank_classes

if TYPE_CHECKING:
    import torch

NUM_BINS = 15
"""Of equal width, as Guo et al. take them."""
_SMALLEST = 1e-12
"""Below it a probability counts as this: one video of an impossible class costs 27.6 nats."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far confidence and accuracy lie apart, over M videos."""

    num_videos: int
    calibration_error_pct: float
    """Expected calibration error: the mean over videos of |accuracy - confidence| of their bin, in
    points."""
    negative_log_likelihood: float
    """Mean of -log p(true class), in nats."""


def calibration(
    probabilities: torch.Tensor | np.ndarray,
    targets: torch.Tensor | np.ndarray,
    *,
    num_bins: int = NUM_BINS,
) -> Calibration:
    """Calibration of M videos' probabilities.

    The confidence of a video is the probability of the class ranked first. Bins are half-open from
    below, ((i - 1) / num_bins, i / num_bins]; empty ones count for nothing (Guo et al., "On
    Calibration of Modern Neural Networks", ICML 2017, equations 3 and 6).

    Args:
        probabilities: float [M, K], one row a video; each sums to 1.
        targets: int64 [M], the true classes, in [0, K).
        num_bins: of equal width, over (0, 1].

    Raises:
        UserError: as `accuracy_report` does.
        ValueError: for shapes that do not fit, rows that are no probabilities, or no bin.
    """
    import torch

    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}; it must be at least 1")
    values = torch.as_tensor(probabilities).detach().cpu().double().numpy()
    ranked, truth = rank_classes(probabilities, targets, values.shape[-1])
    check_probabilities(values)
    rows = np.arange(len(values))
    first = ranked[:, 0].numpy()
    confidence = values[rows, first]
    correct = first == truth.numpy()
    of_truth = np.maximum(values[rows, truth.numpy()], _SMALLEST)
    return Calibration(
        num_videos=len(values),
        calibration_error_pct=100 * _expected_error(confidence, correct, num_bins),
        negative_log_likelihood=-float(np.log(of_truth).mean()) + 0.0,  # no minus before 0.0
    )


def check_probabilities(values: np.ndarray) -> None:
    """Refuse rows that are negative or do not sum to 1.

    Raises:
        ValueError: the first such row.
    """
    broken = (values < 0).any(axis=1) | (abs(values.sum(axis=1) - 1) > 1e-3)
    if broken.any():
        row = int(broken.argmax())
        raise ValueError(
            f"row {row} is no row of probabilities: it sums to {values[row].sum():.4g} and its "
            f"smallest is {values[row].min():.4g}"
        )


def _expected_error(confidence: np.ndarray, correct: np.ndarray, num_bins: int) -> float:
    """Sum over bins of their share of videos times |accuracy - confidence|."""
    edges = np.linspace(0, 1, num_bins + 1)[1:-1]
    of_bin = np.searchsorted(edges, confidence, side="left")
    gaps = np.bincount(of_bin, weights=correct - confidence, minlength=num_bins)
    return float(abs(gaps).sum() / len(confidence))
