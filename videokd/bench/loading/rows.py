"""What the loading benchmark found, and its arithmetic: all comparisons are made within a round.

A machine is now and then slower for a while. So in each round every loader loads the same clips,
and what is reported is the median over rounds, of speeds and of ratios that were formed within a
round; never the ratio of two numbers from different rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The median over rounds, and what lies a quarter of the rounds below and above."""

    median: float
    low: float
    """25th percentile, linear between the two nearest rounds."""
    high: float
    """75th percentile."""


class Cell(NamedTuple):
    """One thing that is timed in every round."""

    files: str
    sampling: str
    loader: str
    workers: int = 0


Seconds = Mapping[Cell, Sequence[float]]
"""Seconds a clip, one number a round."""


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of one number a round."""
    low, median, high = (float(v) for v in np.percentile(values, [25, 50, 75]))
    return Spread(median, low, high)


def speed(seconds: Sequence[float]) -> Spread:
    """Clips per second from seconds a clip."""
    return spread([1 / value for value in seconds])


def speed_ratio(seconds: Sequence[float], to_seconds: Sequence[float]) -> Spread:
    """How many times as fast as the other, round by round.

    Raises:
        ValueError: not the same rounds.
    """
    return spread([theirs / ours for ours, theirs in zip(seconds, to_seconds, strict=True)])


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One loader on one file in one sampling."""

    files: str
    """Name of the file, or what the clips were instead of one."""
    sampling: str
    """`dense 8x8` or `segment 8`."""
    loader: str
    workers: int
    """Processes beside the one that takes the batches; 0: that one itself."""
    clips_per_s: float | None
    """Median over rounds."""
    clips_per_s_interval: tuple[float, float] | None = None
    """25th to 75th percentile over rounds."""
    ratio_to_pytorchvideo: float | None = None
    """Median over rounds of: how many times as fast as PyTorchVideo with its default decoder."""
    ratio_to_pytorchvideo_interval: tuple[float, float] | None = None
    ratio_to_bare: float | None = None
    """The same to the bare loop of the reader that the scan chose for the file."""
    ratio_to_bare_interval: tuple[float, float] | None = None
    ratio_to_no_workers: float | None = None
    """The same to this loader without workers."""
    part_of_step_pct: float | None = None
    """Time it takes beside a training step on the same clips, percent; median over rounds."""
    growth_mib: float | None = None
    """How much memory of all processes grew over the clips, where that was looked at."""
    reader: str = ""
    """What the scan chose for the file."""
    rounds: int = 0
    clips_a_round: int = 0
    one_core: bool = False
    """The process was held on one core, so that nobody's threads could help."""
    status: Literal["measured", "skipped"] = "measured"
    reason: str = ""
    """Why it was skipped, or what is to be known about the number."""
    kbit_per_s: float | None = None
    """Mean bitrate of the file."""
    cpu: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every key, always."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted of one ratio."""

    text: str
    at_least: float
    above: Cell
    below: Cell


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a goal."""

    goal: Goal
    found: Spread | None
    """None where one side was not measured."""

    @property
    def word(self) -> Literal["PASS", "MISS", "not measured"]:
        """The median decides."""
        if self.found is None:
            return "not measured"
        return "PASS" if self.found.median >= self.goal.at_least else "MISS"

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.word}: {self.goal.text}, at least {self.goal.at_least:g}x"
        median, low, high = self.found
        return (
            f"{self.word}: {self.goal.text}: {median:.2f}x ({low:.2f} to {high:.2f}), "
            f"at least {self.goal.at_least:g}x"
        )


def judged(goals: Sequence[Goal], seconds: Seconds) -> list[Verdict]:
    """Each goal with the ratio of its two cells over the rounds."""
    return [
        Verdict(
            goal,
            speed_ratio(seconds[goal.above], seconds[goal.below])
            if goal.above in seconds and goal.below in seconds
            else None,
        )
        for goal in goals
    ]
