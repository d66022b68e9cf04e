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
    """Every goal of a study, the gain once for each of the tables that it is asked of."""
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
    gains = [_gain(goals, group) for group in report.groups if group.name in goals.gain_in]
    return found + gains


def _gain(goals: Goals, group: GroupReport) -> Outcome:
    wanted = (
        f"{group.title}: the best recipe at least {goals.gain_points:g} points above the best "
        "control, its interval above 0"
    )
    test = group.recipe_test
    if test is None:
        return Outcome(wanted, "-", None)
    interval, gain = test.interval_pct, test.difference_pct
    text = f"{names_by_fold(group, group.best_recipe)}: {gain:+z.2f} "
    text += interval_text(interval, digits=2)
    return Outcome(wanted, text, gain >= goals.gain_points and interval[0] > 0)


def names_by_fold(group: GroupReport, rows: dict[str, str]) -> str:
    """The labels of fold -> row, as tables say it: `logits`, or `logits (fold 1), all (fold 2)`."""
    named = {fold: group.labels[name] for fold, name in rows.items()}
    if len(set(named.values())) == 1:
        return next(iter(named.values()))
    return ", ".join(f"{label} (fold {fold})" for fold, label in named.items())


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
