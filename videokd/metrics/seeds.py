"""Two ways to train, several seeds of each, on the same videos: is one better, how sure?

Row s of one side and row s of the other are one seed: they share the first weights and the draws of
training, so their difference is taken first, and what the seed does to both falls out.

Letters: **S** seeds, **M** videos, **G** groups (people).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from videokd.metrics.bootstrap import (
    NUM_RESAMPLES,
    Interval,
    Side,
    expanded_level,
    standard_error,
    units_of_groups,
    units_of_videos,
)
from videokd.metrics.paired import (
    LEVEL,
    MIN_GROUPS,
    Verdict,
    checked_runs,
    detectable_pct,
    points_text,
    verdict_text,
)

_CELLS_AT_A_TIME = 4_000_000
_FEWEST_DRAWS = 10
"""A percentile with fewer draws beyond it is no percentile."""
_ZERO = 1e-12


@dataclass(frozen=True, slots=True)
class SeedTest:
    """a against b, seed by seed, on the same videos; percentages and points of top-1."""

    num_videos: int
    unit: Literal["video", "group"]
    """What is independent of one another."""
    num_units: int
    num_seeds: int
    top1_a_pct: float
    """Mean over seeds."""
    top1_b_pct: float
    seeds_a_pct: tuple[float, ...]
    """Every seed."""
    seeds_b_pct: tuple[float, ...]
    difference_pct: float
    """Mean of a minus mean of b."""
    interval_pct: Interval
    """95 % interval of the difference, of the nested bootstrap; see `seed_test`."""
    p_value: float
    """Two-sided; below 0.05 exactly where zero is outside the interval, if six units or more differ
    at all."""
    p_not_better: float
    """One-sided: of "a is not better than b"."""
    standard_error_pct: float
    """Of the difference, from units and from seeds."""
    degrees_of_freedom: float
    """Behind the standard error (Welch and Satterthwaite): near seeds - 1 where these make most of
    it."""
    seed_std_pct: float | None
    """Standard deviation over seeds of the paired difference; None with one seed."""
    discordant_pct: float
    """Share of videos on which a and b of one seed are not both right or both wrong."""
    detectable_pct: float
    """The smallest difference that such a comparison finds in four of five cases (80 % power at the
    5 % level), by the standard error that was observed; at least six videos' worth."""

    def detectable_at(self, level: float) -> float:
        """`detectable_pct` of a test at another level: one of m comparisons, at LEVEL / m."""
        return detectable_pct(
            self.standard_error_pct / 100,
            self.degrees_of_freedom,
            num_videos=self.num_videos,
            level=level,
        )

    @property
    def seed_differences_pct(self) -> tuple[float, ...]:
        """a minus b of every seed, in points."""
        return tuple(a - b for a, b in zip(self.seeds_a_pct, self.seeds_b_pct, strict=True))

    @property
    def verdict(self) -> Verdict:
        """By this comparison alone; of several, see `verdict_at`."""
        return self.verdict_at(self.p_value)

    def verdict_at(self, p_value: float) -> Verdict:
        """The verdict by another p-value: one that was corrected for other comparisons."""
        if self.unit == "group" and self.num_units < MIN_GROUPS:
            return "too few groups"
        if p_value >= LEVEL:
            return "noise"
        return "gain" if self.difference_pct > 0 else "loss"

    def text(self) -> str:
        """`+2.1 points [0.4, 3.9] over 5 seeds: a real gain`, or what else it is, in words."""
        words = verdict_text(
            self.verdict, detectable_pct=self.detectable_pct, num_units=self.num_units
        )
        seeds = "1 seed" if self.num_seeds == 1 else f"{self.num_seeds} seeds"
        return f"{points_text(self.difference_pct, self.interval_pct)} over {seeds}: {words}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the verdict in it."""
        plain = asdict(self)
        for key in ("seeds_a_pct", "seeds_b_pct", "interval_pct"):
            plain[key] = list(plain[key])
        plain["seed_differences_pct"] = list(self.seed_differences_pct)
        return plain | {"verdict": self.verdict, "text": self.text()}


def seed_test(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> SeedTest:
    """Whether a and b differ, over seeds and over the videos (people) that there might have been.

    A draw of the bootstrap takes G groups, then S seeds, then as many videos of each drawn group as
    it has, all with replacement, and the same for a and b; without groups, S seeds and M videos.
    Seeds and people are crossed: a drawn seed is drawn for every person. (Where people are tested
    in folds, seed s is the runs of all folds with that seed.)

    Its percentiles are moved until a bell-shaped distribution would give the t interval of the
    standard error (the "expanded percentile interval" of Hesterberg, The American Statistician 69,
    2015). That mends both faults of the plain nested bootstrap: it is too narrow for few people and
    few seeds, and it counts the noise of videos within a person twice (Davison and Hinkley,
    Bootstrap Methods and their Application, 1997, section 3.8). With so few seeds that the moved
    percentiles lie beyond the draws, the t interval itself is given.

    The p-values invert the interval: p is the level whose interval ends at zero; where that would
    end beyond the draws, that of the t distribution if it is smaller. Where fewer than six units do
    not have equally many right answers from both, or all units and seeds agree, p is at least
    2^(1-n), n the number of such units: no exchange of a and b within units goes lower.

    With one seed the noise of training is not in it; with two there is hardly a way to know it (the
    interval then holds the truth in some 86 of 100 cases), so take three or more.

    Args:
        correct_a: bool [S, M] or [M], whether a's first class is right, a row a seed.
        correct_b: bool [S, M] or [M], the same for b, its row s of the same seed.
        groups: [M] names of what the videos share.
        seed: of the bootstrap.

    Raises:
        ValueError: for unequal shapes, fewer than two videos, values that are not bool, or fewer
            than two named groups.
    """
    a, b = checked_runs(correct_a, correct_b)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} seeds against {len(b)}; they are compared seed by seed")
    # The same draws either way round, so that b against a is exactly the negative.
    sign = -1 if (a.sum(), a.tobytes()) < (b.sum(), b.tobytes()) else 1
    found = _compare(sign * (a.astype(np.int64) - b), groups, seed=seed)
    low, high = (100 * sign * end + 0.0 for end in found.interval[::sign])
    seeds_a, seeds_b = (tuple((100 * side.mean(axis=1)).tolist()) for side in (a, b))
    discordant = a != b
    return SeedTest(
        num_videos=a.shape[1],
        unit="video" if groups is None else "group",
        num_units=found.num_units,
        num_seeds=len(a),
        top1_a_pct=100 * float(a.mean()),
        top1_b_pct=100 * float(b.mean()),
        seeds_a_pct=seeds_a,
        seeds_b_pct=seeds_b,
        difference_pct=100 * (int(a.sum()) - int(b.sum())) / a.size,
        interval_pct=(low, high),
        p_value=found.p_two_sided,
        p_not_better=found.p_not_better if sign > 0 else found.p_not_worse,
        standard_error_pct=100 * found.error,
        degrees_of_freedom=found.degrees,
        seed_std_pct=_std(np.array(seeds_a) - np.array(seeds_b)),
        discordant_pct=100 * float(discordant.mean()),
        detectable_pct=detectable_pct(found.error, found.degrees, num_videos=a.shape[1]),
    )


def smallest_detectable_pct(
    *, num_seeds: int, num_videos: int, seed_std_pct: float, discordant_pct: float
) -> float:
    """What a comparison of so many seeds on so many independent videos would find, in points.

    The standard error of a difference that is paired by seed and by video is taken as
    sqrt(std^2 / S + discordance / M): the spread between seeds, and McNemar's variance of a paired
    difference where there is none (R. J. Connor, "Sample size for testing differences in
    proportions for the paired-sample design", Biometrics 43, 1987), an upper bound for the mean
    over seeds. Level 5 %, power 80 %, degrees of freedom by Welch and Satterthwaite; the formula on
    top is `detectable_pct` of `paired.py`.

    Args:
        num_seeds: S, at least two.
        num_videos: M, at least two.
        seed_std_pct: standard deviation over seeds of the paired difference, in points, as
            `SeedTest.seed_std_pct`.
        discordant_pct: share of videos on which the two differ, as `SeedTest.discordant_pct`.

    Raises:
        ValueError: for numbers outside these.
    """
    if min(num_seeds, num_videos) < 2 or seed_std_pct < 0 or not 0 <= discordant_pct <= 100:
        raise ValueError(
            f"num_seeds {num_seeds} and num_videos {num_videos} must be at least 2, seed_std_pct "
            f"{seed_std_pct} at least 0 and discordant_pct {discordant_pct} in [0, 100]"
        )
    of_seeds = (seed_std_pct / 100) ** 2 / num_seeds
    of_videos = discordant_pct / 100 / num_videos
    total = of_seeds + of_videos
    if total == 0:
        return detectable_pct(0.0, 1.0, num_videos=num_videos)
    degrees = total**2 / (of_seeds**2 / (num_seeds - 1) + of_videos**2 / (num_videos - 1))
    return detectable_pct(math.sqrt(total), degrees, num_videos=num_videos)


@dataclass(frozen=True)
class _Found:
    """Fractions, not percent."""

    num_units: int
    error: float
    degrees: float
    interval: Interval
    p_not_better: float
    p_not_worse: float

    @property
    def p_two_sided(self) -> float:
        return min(1.0, 2 * min(self.p_not_better, self.p_not_worse))


def _compare(differences: np.ndarray, groups: Sequence[str] | None, *, seed: int) -> _Found:
    """What is known of the mean of `differences`, int64 [S, M] of -1, 0 and 1."""
    units = units_of_videos(differences) if groups is None else units_of_groups(differences, groups)
    if units is None:
        raise ValueError("a bootstrap over groups needs a group for each video, and two groups")
    side = Side(len(differences), 1)
    error, degrees = standard_error(units, [side])
    value = int(differences.sum()) / differences.size
    drawn = nested_draws(differences, groups, seed=seed)
    interval, better, worse = _interval_and_tails(drawn, value, error, degrees)
    # Exact in whole numbers; a unit that gives as much to either side speaks for neither.
    num_informative = int(units.counts[units.sums.sum(axis=0) != 0].sum())
    if num_informative < MIN_GROUPS or error <= _ZERO:
        floor = 2.0**-num_informative
        better, worse = max(better, floor), max(worse, floor)
    return _Found(units.num_units, error, degrees, interval, better, worse)


def nested_draws(differences: np.ndarray, groups: Sequence[str] | None, *, seed: int) -> np.ndarray:
    """float64 [NUM_RESAMPLES], the mean difference of each draw of groups, seeds and videos.

    Videos of a group that are equal in all seeds are one kind: how often it comes is drawn, not
    each video.
    """
    generator = np.random.default_rng(seed)
    num_seeds, num_videos = differences.shape
    names = np.zeros(num_videos, dtype=np.int64) if groups is None else np.asarray(groups, str)
    parts = [differences[:, names == name] for name in np.unique(names)]
    kinds = [np.unique(part, axis=1, return_counts=True) for part in parts]
    widest = max(len(counts) for _, counts in kinds)
    at_a_time = max(1, min(NUM_RESAMPLES, _CELLS_AT_A_TIME // max(widest, len(parts))))
    drawn = []
    for start in range(0, NUM_RESAMPLES, at_a_time):
        num = min(at_a_time, NUM_RESAMPLES - start)
        times = generator.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=num)
        of_seed = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num)
        sums, sizes = np.zeros((num, num_seeds)), np.zeros(num)
        for group, (values, counts) in enumerate(kinds):
            size = int(counts.sum())
            videos = generator.multinomial(times[:, group] * size, counts / size)
            sums += videos @ values.T
            sizes += times[:, group] * size
        drawn.append((sums * of_seed).sum(axis=1) / (num_seeds * sizes))
    return np.concatenate(drawn)


def _interval_and_tails(
    drawn: np.ndarray, value: float, error: float, degrees: float
) -> tuple[Interval, float, float]:
    """The 95 % interval, and the p-values of "not above zero" and of "not below zero"."""
    from scipy.stats import norm, t

    deviation = float(drawn.std())
    if min(deviation, error) <= _ZERO:  # all units and seeds agree: the floor alone speaks
        return (value, value), float(value <= 0), float(value >= 0)
    ratio = error / deviation
    level = expanded_level(ratio, degrees)
    if level * len(drawn) < _FEWEST_DRAWS:
        reach = float(t.ppf(1 - LEVEL / 2, degrees)) * error
        return (
            (value - reach, value + reach),
            float(t.sf(value / error, degrees)),
            float(t.cdf(value / error, degrees)),
        )
    # Draws of whole numbers, divided: zero is not always zero to the last bit.
    drawn = np.where(abs(drawn) <= _ZERO, 0.0, drawn)

    def tail(num_beyond: int, away: float) -> float:
        """The p of a one-sided test, of whose draws so many lie on the wrong side of zero.

        Where hardly any does, how far zero is away is no longer told by counting: all values
        beyond the last draw would have one p, and a correction for many comparisons would call
        none of them a difference.
        """
        share = num_beyond / len(drawn) if num_beyond else 1 / (len(drawn) + 1)
        counted = float(t.sf(-norm.ppf(share) / ratio, degrees))
        return counted if num_beyond >= _FEWEST_DRAWS else min(counted, float(t.sf(away, degrees)))

    # Values that were drawn, nothing between them: then an end is beyond zero exactly where p says.
    low = float(np.quantile(drawn, level, method="inverted_cdf"))
    high = -float(np.quantile(-drawn, level, method="inverted_cdf"))
    away = value / error
    return (low, high), tail(int((drawn <= 0).sum()), away), tail(int((drawn >= 0).sum()), -away)


def _std(differences_pct: np.ndarray) -> float | None:
    return float(differences_pct.std(ddof=1)) if len(differences_pct) > 1 else None
