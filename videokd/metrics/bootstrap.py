"""How far a mean over videos moves when other videos, people or training runs are drawn.

Letters: **R** runs, **M** videos, **U** kinds of units, **N** units (videos or whole groups).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 10_000
"""Draws of a bootstrap: the ends of its interval then move by about 0.03 standard errors."""
_CELLS_AT_A_TIME = 4_000_000

Interval = tuple[float, float]


def interval_text(interval: Sequence[float], *, digits: int = 1) -> str:
    """`[0.4, 3.9]`; nothing that rounds to zero has a minus."""
    low, high = interval
    return f"[{low:z.{digits}f}, {high:z.{digits}f}]"


@dataclass(frozen=True)
class Units:
    """What is drawn with replacement: single videos, or groups of them as a whole.

    Units that are equal in all runs are one kind, counted, so that a draw of 20,000 videos is a
    draw of how often each of a few kinds comes.
    """

    counts: np.ndarray
    """int64 [U], units of each kind; N together."""
    sizes: np.ndarray
    """float64 [U], videos in one unit."""
    sums: np.ndarray
    """float64 [R, U], the values of one unit's videos summed, for each run."""

    @property
    def num_units(self) -> int:
        """N."""
        return int(self.counts.sum())

    @property
    def run_means(self) -> np.ndarray:
        """float64 [R], the mean over videos of each run."""
        return self.sums @ self.counts / float(self.sizes @ self.counts)


def units_of_videos(values: np.ndarray) -> Units:
    """Each of the M columns of `values` [R, M] is a unit."""
    kinds, counts = np.unique(values, axis=1, return_counts=True)
    return Units(counts.astype(np.int64), np.ones(len(counts)), kinds.astype(np.float64))


def units_of_groups(values: np.ndarray, groups: Sequence[str]) -> Units | None:
    """Columns of `values` [R, M] that share a name are a unit; None with fewer than two groups, or
    where a video has none.

    Raises:
        ValueError: not one group a video.
    """
    if len(groups) != values.shape[1]:
        raise ValueError(f"{len(groups)} groups for {values.shape[1]} videos; one each is needed")
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2 or "" in names:
        return None
    sums = np.stack([np.bincount(member, weights=row.astype(np.float64)) for row in values])
    return Units(np.ones(len(names), dtype=np.int64), np.bincount(member).astype(np.float64), sums)


class Side(NamedTuple):
    """Consecutive runs whose mean goes into the statistic."""

    num_runs: int
    sign: int


class Spread(NamedTuple):
    """How sure a statistic is; fractions, not percent."""

    standard_error: float
    """Of the statistic, unbiased for few units and few runs."""
    degrees: float
    """Degrees of freedom behind it (Welch and Satterthwaite)."""
    interval: Interval
    """95 % bootstrap interval."""


def statistic(units: Units, sides: Sequence[Side]) -> float:
    """The signed sum of the sides' means over runs and videos."""
    return sum(side.sign * float(means.mean()) for side, means in _split(units.run_means, sides))


def spread(units: Units, sides: Sequence[Side], *, seed: int) -> Spread:
    """Standard error and bootstrap interval of `statistic`.

    A draw takes N units, and as many runs of each side as there are, with replacement. Units and
    runs are crossed: every run saw every video. A group is drawn whole: its own draw already holds
    the noise of its videos, and drawing them again within it would count that twice.

    The plain percentile interval of a bootstrap is too narrow for few units (people) or few runs.
    The percentiles are therefore moved outwards until a bell-shaped distribution would give the
    t interval (the "expanded percentile interval" of Hesterberg, The American Statistician 69,
    2015); with a few hundred videos nothing is left of that correction.
    """
    drawn = _drawn(units, sides, seed=seed)
    error, degrees = standard_error(units, sides)
    deviation = float(drawn.std())
    if deviation <= 1e-12:
        value = statistic(units, sides)
        return Spread(error, degrees, (value, value))
    level = expanded_level(error / deviation, degrees)
    low, high = np.quantile(drawn, [level, 1 - level])
    return Spread(error, degrees, (float(low), float(high)))


def expanded_level(ratio: float, degrees: float) -> float:
    """The share of draws that lies beyond either end of an expanded 95 % percentile interval.

    Args:
        ratio: standard error of the statistic over the standard deviation of the draws.
        degrees: degrees of freedom behind the standard error.
    """
    from scipy.stats import norm, t

    return float(norm.cdf(-t.ppf(0.975, degrees) * ratio))


def _split(values: np.ndarray, sides: Sequence[Side]) -> list[tuple[Side, np.ndarray]]:
    """The last axis cut into the sides' runs."""
    parts = np.split(values, np.cumsum([side.num_runs for side in sides])[:-1], axis=-1)
    return list(zip(sides, parts, strict=True))


def _drawn(units: Units, sides: Sequence[Side], *, seed: int) -> np.ndarray:
    """float64 [NUM_RESAMPLES], the statistic of each draw."""
    generator = np.random.default_rng(seed)
    shares = units.counts / units.num_units
    at_a_time = max(1, min(NUM_RESAMPLES, _CELLS_AT_A_TIME // len(shares)))
    parts = []
    for start in range(0, NUM_RESAMPLES, at_a_time):
        size = min(at_a_time, NUM_RESAMPLES - start)
        times = generator.multinomial(units.num_units, shares, size=size)
        means = (times @ units.sums.T) / (times @ units.sizes)[:, None]
        total = np.zeros(size)
        for side, columns in _split(means, sides):
            even = np.full(side.num_runs, 1 / side.num_runs)
            runs = generator.multinomial(side.num_runs, even, size=size)
            total += side.sign * (columns * runs).sum(axis=1) / side.num_runs
        parts.append(total)
    return np.concatenate(parts)


def standard_error(units: Units, sides: Sequence[Side]) -> tuple[float, float]:
    """Of `statistic`, from units and from runs, each with n - 1, and the degrees of freedom.

    One run of a side says nothing of how runs differ: its part is then missing.
    """
    variances: list[tuple[float, int]] = []
    per_unit = np.zeros(len(units.counts))
    for side, sums in _split(units.sums.T, sides):
        per_unit += side.sign * sums.mean(axis=1)
    # The mean over videos is a ratio of two sums over units: this is its linearised variance.
    rest = per_unit - statistic(units, sides) * units.sizes
    num = units.num_units
    scale = num / (num - 1) / float(units.sizes @ units.counts) ** 2
    variances.append((scale * float(units.counts @ rest**2), num - 1))
    for side, means in _split(units.run_means, sides):
        if side.num_runs > 1:
            variance = float(means.var(ddof=1)) / side.num_runs
            variances.append((variance, side.num_runs - 1))
    total = sum(variance for variance, _ in variances)
    if total <= 1e-24:
        return 0.0, float(num - 1)
    degrees = total**2 / sum(variance**2 / free for variance, free in variances)
    return math.sqrt(total), degrees
