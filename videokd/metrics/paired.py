"""Two networks, or two ways to train one, on the same videos: is there a difference, how sure?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from videokd.metrics.bootstrap import (
    Interval,
    Side,
    Spread,
    Units,
    interval_text,
    spread,
    units_of_groups,
    units_of_videos,
)

LEVEL = 0.05
"""Chance of calling a difference where there is none."""
POWER = 0.8
"""Chance of calling a difference of `detectable_pct`."""
MIN_GROUPS = 6
"""Below, not even groups that all agree are 5 % evidence: five coins fall alike in 1 of 16."""
_FEWEST_ONE_WAY = 6
"""The same of videos: the fewest, all one way, that the exact McNemar test calls a difference."""

Verdict = Literal["gain", "loss", "noise", "too few groups"]


@dataclass(frozen=True, slots=True)
class PairedTest:
    """a against b on the same videos; percentages and points of top-1."""

    num_videos: int
    unit: Literal["video", "group"]
    """What is independent of one another, and so drawn in the bootstrap."""
    num_units: int
    num_runs_a: int
    num_runs_b: int
    top1_a_pct: float
    """Mean over runs."""
    top1_b_pct: float
    num_only_a: int | None
    """Videos that a has right and b wrong; None with several runs on a side."""
    num_only_b: int | None
    """Videos that b has right and a wrong; None with several runs on a side."""
    mcnemar_p: float | None
    """Exact two-sided McNemar test, without mid-p: the chance of a split at least this uneven, were
    they equal and all videos independent. None with several runs on a side."""
    difference_pct: float
    """Top-1 of a minus top-1 of b, in points."""
    interval_pct: Interval
    """95 % paired bootstrap interval of the difference."""
    standard_error_pct: float
    detectable_pct: float
    """The smallest difference that such a comparison finds in four of five cases (80 % power at the
    5 % level), by the standard error that was observed; at least six videos' worth."""

    @property
    def verdict(self) -> Verdict:
        """A difference counts where zero is outside the interval, and McNemar's test agrees.

        The test is asked where it can be (one run a side): it is exact where a bootstrap of few
        videos is not.
        """
        low, high = self.interval_pct
        if self.unit == "group" and self.num_units < MIN_GROUPS:
            return "too few groups"
        if low <= 0 <= high or (self.mcnemar_p is not None and self.mcnemar_p >= LEVEL):
            return "noise"
        return "gain" if self.difference_pct > 0 else "loss"

    def text(self) -> str:
        """`+2.1 points [0.4, 3.9]: a real gain`, or what else it is, in words."""
        return f"{points_text(self.difference_pct, self.interval_pct)}: {self.verdict_text()}"

    def verdict_text(self) -> str:
        """The verdict in words, and how much a gain inside the noise would have had to be."""
        return verdict_text(
            self.verdict, detectable_pct=self.detectable_pct, num_units=self.num_units
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the verdict in it."""
        plain = asdict(self)
        plain["interval_pct"] = list(self.interval_pct)
        return plain | {"verdict": self.verdict, "text": self.text()}


def paired_test(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> PairedTest:
    """Whether a and b differ on the same M videos, in the same order.

    With several training runs a side, runs are drawn in the bootstrap as well (each side's for
    itself), and the answer is about the two ways to train; with one run a side it is about these
    two networks, and the noise of training is not in it.

    Args:
        correct_a: bool [M] or [runs, M], whether a's first class is right.
        correct_b: bool [M] or [runs, M], the same for b.
        groups: [M] names of what the videos share; whole groups are then drawn in the bootstrap.
            McNemar's test takes the videos as independent all the same.
        seed: of the bootstrap.

    Raises:
        ValueError: for unequal lengths, fewer than two videos, values that are not bool, or fewer
            than two named groups.
    """
    a, b = checked_runs(correct_a, correct_b)
    # The same draws either way round, so that b against a is exactly the negative.
    if (len(a), a.sum(), a.tobytes()) < (len(b), b.sum(), b.tobytes()):
        sure = _spread(b, a, groups, seed)
        low, high = sure[1].interval
        sure = (sure[0], sure[1]._replace(interval=(-high, -low)))
    else:
        sure = _spread(a, b, groups, seed)
    units, found = sure
    only_a, only_b, p = _mcnemar(a, b)
    return PairedTest(
        num_videos=a.shape[1],
        unit="video" if groups is None else "group",
        num_units=units.num_units,
        num_runs_a=len(a),
        num_runs_b=len(b),
        top1_a_pct=100 * float(a.mean()),
        top1_b_pct=100 * float(b.mean()),
        num_only_a=only_a,
        num_only_b=only_b,
        mcnemar_p=p,
        # In whole numbers first: the negative of b against a, to the last bit.
        difference_pct=100 * float(a.sum() * len(b) - b.sum() * len(a)) / (a.size * len(b)),
        interval_pct=(100 * found.interval[0], 100 * found.interval[1]),
        standard_error_pct=100 * found.standard_error,
        detectable_pct=detectable_pct(
            found.standard_error,
            found.degrees,
            num_videos=a.shape[1],
            # The exact test goes up in steps, and stays below its level by half one on each side.
            step=1 / a.shape[1] if p is not None else 0.0,
        ),
    )


def points_text(difference_pct: float, interval_pct: Interval) -> str:
    """`+2.1 points [0.4, 3.9]`."""
    return f"{difference_pct:+z.1f} points {interval_text(interval_pct)}"


def p_text(p: float) -> str:
    """A p-value in three decimals, never as a plain zero."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def verdict_text(verdict: Verdict, *, detectable_pct: float, num_units: int) -> str:
    """A verdict in words, and how much a gain inside the noise would have had to be."""
    if verdict == "noise":
        return (
            f"inside the noise; the smallest difference that this could have shown is "
            f"{detectable_pct:.1f} points"
        )
    if verdict == "too few groups":
        return f"{num_units} groups are too few to tell, at least {MIN_GROUPS} are needed"
    return f"a real {verdict}"


def detectable_pct(
    standard_error: float,
    degrees: float,
    *,
    num_videos: int,
    step: float = 0.0,
    level: float = LEVEL,
) -> float:
    """The smallest difference found with 80 % power at a level, in points.

    Quantiles of t for level and power, times the standard error; 1.96 + 0.84 for many videos (H. S.
    Bloom, "Minimum detectable effects", Evaluation Review 19, 1995). At least six videos' worth.

    Args:
        standard_error: of the difference, a fraction.
        degrees: degrees of freedom behind it.
        num_videos: M.
        step: what a test that goes up in steps needs on top, a fraction.
        level: of the two-sided test.
    """
    from scipy.stats import t

    factor = float(t.ppf(1 - level / 2, degrees) + t.ppf(POWER, degrees))
    return 100 * min(1.0, max(factor * standard_error + step, _FEWEST_ONE_WAY / num_videos))


def _spread(
    a: np.ndarray, b: np.ndarray, groups: Sequence[str] | None, seed: int
) -> tuple[Units, Spread]:
    values = np.concatenate([a, b])
    units = units_of_videos(values) if groups is None else units_of_groups(values, groups)
    if units is None:
        raise ValueError("a bootstrap over groups needs a group for each video, and two groups")
    return units, spread(units, (Side(len(a), 1), Side(len(b), -1)), seed=seed)


def _mcnemar(a: np.ndarray, b: np.ndarray) -> tuple[int | None, int | None, float | None]:
    """Videos that only a has right, only b, and the test's p; None for several runs."""
    from scipy.stats import binomtest

    if len(a) > 1 or len(b) > 1:
        return None, None, None
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    p = float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0
    return only_a, only_b, p


def checked_runs(correct_a: ArrayLike, correct_b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as bool [runs, M]."""
    a, b = np.asarray(correct_a), np.asarray(correct_b)
    fits = a.ndim in (1, 2) and b.ndim in (1, 2) and a.shape[-1:] == b.shape[-1:]
    if not fits or min(a.size, b.size) < 1 or {a.dtype, b.dtype} != {np.dtype(bool)}:
        raise ValueError(
            f"correct_a and correct_b must be bool [M] or [runs, M], M > 0, not {a.dtype} "
            f"{list(a.shape)} and {b.dtype} {list(b.shape)}"
        )
    if a.shape[-1] < 2:
        raise ValueError("a comparison needs at least two videos, M > 1")
    return np.atleast_2d(a), np.atleast_2d(b)
