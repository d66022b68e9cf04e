"""What a study was made for, beside what came of it."""

from __future__ import annotations

from typing import NamedTuple

from videokd.experiments.ablation.evidence import GroupReport, RowReport, StudyReport
from videokd.experiments.ablation.ladder import Goals
from videokd.metrics import interval_text


class Outcome(NamedTuple):
    """One goal."""

    wanted: str
    found: str
    reached: bool | None
    """None while it is not known."""


def outcomes(goals: Goals, report: StudyReport) -> list[Outcome]:
    """Every goal of a study, the gain once for each of its tables that has a recipe."""
    rows = {row.name: row for group in report.groups for row in group.rows}
    control, teacher = rows.get(goals.control), report.teacher
    found = []
    if goals.control_pct is not None:
        low, high = goals.control_pct
        top1 = None if control is None else control.mean_pct
        wanted = f"{goals.control}: {low:g} to {high:g} %"
        found.append(_outcome(wanted, top1, "{:.2f} %", top1 is not None and low <= top1 <= high))
    if goals.teacher_pct is not None:
        top1 = None if teacher is None else teacher.mean_pct
        wanted = f"teacher: at least {goals.teacher_pct:g} %"
        found.append(_outcome(wanted, top1, "{:.2f} %", (top1 or 0.0) >= goals.teacher_pct))
    if goals.fewer_multiply_adds is not None:
        times = _times_fewer(control, teacher)
        wanted = f"multiply-adds: at least {goals.fewer_multiply_adds:g} times fewer"
        is_met = (times or 0.0) >= goals.fewer_multiply_adds
        found.append(_outcome(wanted, times, "{:.1f} times", is_met))
    recipes = [(group.title, best_recipe(group)) for group in report.groups]
    return found + [_gain(goals, title, row) for title, row in recipes if row is not None]


def best_recipe(group: GroupReport) -> RowReport | None:
    """The distilled row that validation shows best; None while one of them is not validated."""
    distilled = [row for row in group.rows if row.kind == "distilled"]
    scored = [(row.val_pct, row) for row in distilled if row.val_pct is not None]
    if not scored or len(scored) < len(distilled):
        return None
    return max(scored, key=lambda one: one[0])[1]


def _gain(goals: Goals, title: str, row: RowReport) -> Outcome:
    wanted = (
        f"{title}: the best recipe at least {goals.gain_points:g} points above the best "
        "control, its interval above 0"
    )
    if row.test is None:
        return Outcome(wanted, f"{row.label}: not compared", None)
    interval, gain = row.test.interval_pct, row.test.difference_pct
    text = f"{row.label}: {gain:+z.2f} {interval_text(interval, digits=2)}"
    return Outcome(wanted, text, gain >= goals.gain_points and interval[0] > 0)


def _times_fewer(control: RowReport | None, teacher: RowReport | None) -> float | None:
    if control is None or teacher is None:
        return None
    if control.gmacs_per_video is None or teacher.gmacs_per_video is None:
        return None
    return teacher.gmacs_per_video / control.gmacs_per_video


def _outcome(wanted: str, value: float | None, form: str, is_met: bool) -> Outcome:
    if value is None:
        return Outcome(wanted, "-", None)
    return Outcome(wanted, form.format(value), is_met)
