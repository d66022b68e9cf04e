"""Comparisons of two networks on the same videos, as a table of the report and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from videokd.bench.report.tables import Cell, Section
from videokd.metrics import Agreement, PairedTest, interval_text, p_text

_NOTE = (
    "Top-1 of the first minus the second, on the same videos, with its 95 % bootstrap interval. A "
    "difference is real where zero lies outside the interval and the exact McNemar test (which "
    "takes all videos as independent) gives p below 0.05; otherwise it is inside the noise. "
    "Detectable: the smallest difference that such a comparison finds in four of five cases."
)


@dataclass(frozen=True)
class Comparison:
    """a against b."""

    a: str
    """As reports name it."""
    b: str
    role_a: str
    role_b: str
    command: str
    """What to type for it."""
    test: PairedTest
    agreement: Agreement | None = None
    """Of a with b, as a student with its teacher; of one run a side."""

    @property
    def names(self) -> tuple[str, str]:
        """Of a and b, with their roles."""
        sides = ((self.a, self.role_a), (self.b, self.role_b))
        named = [m if m == role else f"{role.replace('_', ' ')}: {m}" for m, role in sides]
        return named[0], named[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        names = {name: getattr(self, name) for name in ("a", "b", "role_a", "role_b", "command")}
        same = None if self.agreement is None else self.agreement.to_dict()
        return names | self.test.to_dict() | {"agreement": same}


def paired_section(comparisons: Sequence[Comparison]) -> Section | None:
    """One row a comparison; None without any."""
    if not comparisons:
        return None
    columns = (
        "network", "against", "verdict", "points", "95 % interval", "only first right",
        "only second right", "McNemar p", "detectable", "drawn",
    )  # fmt: skip
    rows = [_row(one) for one in comparisons]
    return Section("Paired comparisons", columns, rows, _note(comparisons), num_left=3)


def runs_text(test: PairedTest) -> str:
    """Whether the noise of training is in it."""
    if (test.num_runs_a, test.num_runs_b) == (1, 1):
        return "one training run a side: the noise of training is not in it"
    return f"{test.num_runs_a} training runs against {test.num_runs_b}, drawn as well"


def unit_text(test: PairedTest) -> str:
    """What was drawn in the bootstrap: `240 videos`, `8 groups`."""
    return f"{test.num_units} {test.unit}s"


def _note(comparisons: Sequence[Comparison]) -> str:
    words = [_NOTE]
    if len(comparisons) > 1:
        words.append(f"Each of the {len(comparisons)} is made at 5 % for itself.")
    words += dict.fromkeys(f"{runs_text(one.test).capitalize()}." for one in comparisons)
    return " ".join(words)


def _row(comparison: Comparison) -> list[Cell]:
    test = comparison.test
    return [
        *comparison.names,
        test.verdict_text().split(";")[0],
        f"{test.difference_pct:+z.1f}",
        interval_text(test.interval_pct),
        test.num_only_a,
        test.num_only_b,
        None if test.mcnemar_p is None else p_text(test.mcnemar_p),
        f"{test.detectable_pct:.1f}",
        unit_text(test),
    ]
