"""What came of one published number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Status = Literal["PASS", "FAIL", "SKIP"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A published number, ours, and whether they agree."""

    table: str
    """As a command names it: a table of the folder, or the path of one."""
    row: str
    quantity: str
    """`params_m`, `gops` or `top1_pct`."""
    convention: str | None
    """What `gops` counts, or the protocol of an accuracy; None for parameters."""
    published: float
    measured: float | None
    """None where nothing was measured."""
    tolerance: float
    """How far apart they may be, in the unit of the quantity."""
    status: Status
    reason: str
    """Why it was skipped, what differs, or what an accuracy was measured on."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the fields in their order."""
        return asdict(self)


def format_outcomes(outcomes: Sequence[Outcome]) -> str:
    """A line each, and the sums at the end."""
    lines = [_line(outcome) for outcome in outcomes]
    counts = dict.fromkeys(("PASS", "FAIL", "SKIP"), 0)
    for outcome in outcomes:
        counts[outcome.status] += 1
    sums = ", ".join(f"{number} {status}" for status, number in counts.items())
    return "\n".join([*lines, sums])


def _line(outcome: Outcome) -> str:
    convention = f" [{outcome.convention}]" if outcome.convention else ""
    name = f"{Path(outcome.table).stem}/{outcome.row} {outcome.quantity}{convention}"
    digits = 2 if outcome.quantity == "top1_pct" else 3
    text = f"{outcome.status}  {name}: published {outcome.published:g}"
    if outcome.measured is not None:
        text += f", ours {outcome.measured:.{digits}f} (may differ by {outcome.tolerance:.2g})"
    return f"{text}; {outcome.reason}" if outcome.reason else text
