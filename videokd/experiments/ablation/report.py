"""Tables, JSON and pictures of the ablation, made of its results alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from videokd.errors import UserError
from videokd.experiments.ablation.evidence import (
    BEST_CONTROL,
    GroupReport,
    OverPlacebo,
    RowReport,
    StudyReport,
    report_study,
)
from videokd.experiments.ablation.goals import names_by_fold, outcomes
from videokd.experiments.ablation.ladder import Goals
from videokd.experiments.ablation.picture import draw_gains
from videokd.experiments.ablation.plan import Plan
from videokd.experiments.ablation.records import Results
from videokd.files import read_text, write_text
from videokd.metrics import SeedTest, interval_text

BEGIN = "<!-- tables of `videokd reproduce ablation --stage report`; written by it -->"
END = "<!-- end of these tables -->"

REPORT_FILE = "report.json"

_GAINS = (
    "row", "top-1 %", "every seed", "validation %", "points over", "95 % interval", "p (Holm)",
    "verdict", "detectable",
)  # fmt: skip
_COSTS = (
    "row", "minutes", "with all that it reads", "epochs", "same class as the teacher %", "ECE",
    "NLL", "shuffled", "reversed", "frozen", "chosen",
)  # fmt: skip
_PLACEBOS = ("row", "its placebo", "points over it", "95 % interval", "p (Holm)", "verdict")

_OBVIOUS = ("objective.terms.", "train.optim.", "train.", "data.augment.mix.")
"""Beginnings of settings that a table can do without."""

_LEGEND = """\
`points over`: top-1 minus that of the group's best control, which validation chose (or of the row \
that is named). Intervals: 95 %, paired bootstrap over {unit}seeds and videos, not widened for the \
number of rows. `p (Holm)`: two-sided, corrected for all placebos and distilled rows of its table, \
those too that are not run yet or came to no number; controls are not corrected for. `detectable`: \
the smallest difference that such a comparison finds in four of five cases, at the level of the \
correction's first step (of controls: at 5 %). (P): a placebo. Minutes are of one run; `same class \
as the teacher`: as the one that taught it, of others as the study's; shuffled, reversed and \
frozen are the top-1 lost when the frames are."""


def write_report(plan: Plan, results: Results, *, quick: bool) -> dict[str, Any]:
    """Write the tables into the page, `report.json` beside the results, and a picture a study.

    Raises:
        UserError: a page without the two marks between which the tables go.
    """
    places = plan.places
    reports = [report_study(plan, results, name) for name in plan.ladder.studies]
    texts = []
    for report in reports:
        picture = Path("images", f"ablation_{report.name}.png")
        is_drawn = draw_gains(report, places.report.parent / picture)
        goals = plan.study(report.name).goals
        texts.append(study_text(report, goals, picture if is_drawn else None))
    tables = "\n".join(texts)
    if quick:
        tables = "These are of the quick form: no number here means anything.\n\n" + tables
    if quick and not places.report.is_file():
        write_text(places.report, f"{BEGIN}\n{END}\n")
    _put_between(places.report, tables)
    document = {report.name: study_document(report) for report in reports}
    write_text(places.results / REPORT_FILE, json.dumps(document, indent=1) + "\n")
    return document


def study_text(report: StudyReport, goals: Goals | None, picture: Path | None) -> str:
    """A study as Markdown; `picture` as the page says it."""
    if not any(row.seeds_pct for group in report.groups for row in group.rows):
        lines = [f"## {report.title}", "", "No run has been finished yet.", ""]
        return "\n".join([*lines, *_stale_lines(report)])
    unit = f"{report.num_people} people, then " if report.num_people else ""
    unit = f"{report.num_scenes} scenes, then " if report.num_scenes else unit
    tested = f"{report.num_videos} test videos"
    if report.num_people:
        tested += f" of {report.num_people} people"
    lines = [f"## {report.title}", "", f"{tested}. {_teacher_text(report)}", ""]
    lines += [*_goal_lines(goals, report), ""] if goals is not None else []
    lines += [_LEGEND.format(unit=unit), ""]
    lines += [f"![gains]({picture.as_posix()})", ""] if picture is not None else []
    for group in report.groups:
        lines += [*_group_lines(group), ""] if group.rows else []
    lines += [*_placebo_lines(report.over_placebos), ""] if report.over_placebos else []
    return "\n".join([*lines, *_stale_lines(report)])


def _stale_lines(report: StudyReport) -> list[str]:
    if not report.stale:
        return []
    return ["Left out, for the ladder has changed since: " + "; ".join(report.stale) + ".", ""]


def _goal_lines(goals: Goals, report: StudyReport) -> list[str]:
    words = {True: "reached", False: "missed", None: "not known yet"}
    found = [(one.wanted, one.found, words[one.reached]) for one in outcomes(goals, report)]
    return _table(("wanted", "found", ""), found)


def study_document(report: StudyReport) -> dict[str, Any]:
    """A study as plain data."""

    def row(one: RowReport) -> dict[str, Any]:
        plain = asdict(one)
        plain["seeds_pct"] = {str(seed): value for seed, value in one.seeds_pct.items()}
        plain["failed"] = list(one.failed)
        plain["test"] = _plain_test(one.test)
        return plain | {"mean_pct": one.mean_pct, "verdict": one.verdict}

    return {
        "title": report.title,
        "num_videos": report.num_videos,
        "num_people": report.num_people,
        "num_scenes": report.num_scenes,
        "teacher": None if report.teacher is None else row(report.teacher),
        "groups": [
            {
                "name": group.name,
                "title": group.title,
                "best_control": group.best_control,
                "best_recipe": group.best_recipe,
                "recipe_test": _plain_test(group.recipe_test),
                "shorter_control": group.shorter_control,
                "recipe_over_shorter": _plain_test(group.recipe_over_shorter),
                "rows": [row(one) for one in group.rows],
            }
            for group in report.groups
        ],
        "over_placebos": [
            {
                "label": one.label,
                "placebo_label": one.placebo_label,
                "test": one.test.to_dict(),
                "adjusted_p": one.adjusted_p,
            }
            for one in report.over_placebos
        ],
        "stale": list(report.stale),
    }


def _plain_test(test: SeedTest | None) -> dict[str, Any] | None:
    return None if test is None else test.to_dict()


def _teacher_text(report: StudyReport) -> str:
    teacher = report.teacher
    if teacher is None:
        return "The teacher is not trained yet."
    students = [row for group in report.groups for row in group.rows if row.gmacs_per_video]
    text = f"Teacher: {teacher.label}, {teacher.mean_pct:.2f} %"
    if teacher.gmacs_per_video and students:
        largest = max(students, key=lambda row: row.gmacs_per_video or 0.0)
        times = teacher.gmacs_per_video / (largest.gmacs_per_video or 1.0)
        text += f", {_size(teacher)}; student: {_size(largest)}, {times:.1f} times fewer"
    return text + "."


def _size(row: RowReport) -> str:
    return f"{row.params_m:.2f} M parameters and {row.gmacs_per_video:.4f} GMACs a video"


def _group_lines(group: GroupReport) -> list[str]:
    if group.best_control:
        named = names_by_fold(group, group.best_control)
        chosen = f"Best control on validation: {named}."
        lacking = ", ".join(str(seed) for seed in group.control_lacks)
        chosen += f" It has no number for seed {lacking}: nothing is compared." if lacking else ""
    else:
        chosen = "The best control is not known yet: some controls have no validation."
    shown = [row for row in (*group.rows, *group.beside) if row.seeds_pct or row.failed]
    gains = [_gain_cells(row, is_beside=row in group.beside) for row in shown]
    costs = [_cost_cells(row) for row in shown if row.seeds_pct]
    failed = [text for row in group.rows for text in row.failed]
    waiting = [_name(row) for row in group.rows if row not in shown]
    lines = [f"### {group.title}", ""]
    if any(row in shown for row in group.rows):
        lines += [chosen + _recipe_text(group), ""]
        lines += [*_table(_GAINS, gains), "", *_table(_COSTS, costs), ""]
    lines += ["No number: " + "; ".join(failed) + ".", ""] if failed else []
    lines += ["Not run yet: " + "; ".join(waiting) + ".", ""] if waiting else []
    return lines[:-1]


def _recipe_text(group: GroupReport) -> str:
    """What the best recipe is over the best control, and over the best of those whose time is a
    student's alone."""
    if group.recipe_test is None:
        return ""
    text = f" The best recipe, {names_by_fold(group, group.best_recipe)}, is "
    text += f"{_points(group.recipe_test)} over it"
    if group.recipe_over_shorter is not None:
        shorter = names_by_fold(group, group.shorter_control)
        text += f", and {_points(group.recipe_over_shorter)} over {shorter}, the best of those "
        text += "that are not given a teacher's time"
    return text + "."


def _points(test: SeedTest) -> str:
    return f"{test.difference_pct:+z.2f} {interval_text(test.interval_pct, digits=2)}"


def _placebo_lines(comparisons: Sequence[OverPlacebo]) -> list[str]:
    cells = [
        (
            one.label,
            f"{one.placebo_label} (P)",
            f"{one.test.difference_pct:+z.2f}",
            interval_text(one.test.interval_pct, digits=2),
            _p_value(one.adjusted_p),
            one.test.verdict_at(one.adjusted_p),
        )
        for one in comparisons
    ]
    told = "Each row against the placebo that has its settings; p is corrected for these alone."
    return ["### Over their placebos", "", told, "", *_table(_PLACEBOS, cells)]


def _gain_cells(row: RowReport, *, is_beside: bool) -> tuple[str, ...]:
    seeds = " ".join(f"{value:.2f}" for value in row.seeds_pct.values()) or "-"
    if len(row.seeds_pct) < row.num_wanted:
        seeds += f" ({len(row.seeds_pct)} of {row.num_wanted} seeds)"
    own = (_name(row), _number(row.mean_pct), seeds, _number(row.val_pct))
    test = row.test
    if is_beside:
        return (*own, "beside", "-", "-", "-", "-")
    if test is None:
        return (*own, "-", "-", "-", "-", "-")
    over = f"{test.difference_pct:+z.2f}"
    over += "" if row.versus == BEST_CONTROL else f" over {row.versus}"
    p = "-" if row.adjusted_p is None else _p_value(row.adjusted_p)
    is_judged = row.adjusted_p is not None
    return (
        *own,
        over,
        interval_text(test.interval_pct, digits=2),
        p,
        str(row.verdict) if is_judged else "-",
        _number(row.detectable_pct),
    )


def _cost_cells(row: RowReport) -> tuple[str, ...]:
    spent, read = row.train_minutes, row.read_minutes
    total = None if spent is None or read is None else spent + read
    lost: tuple[str, ...] = ("-", "-", "-")
    if row.probe is not None:
        normal = row.probe["normal"]
        names = ("shuffled", "reversed", "frozen")
        lost = tuple(f"{normal - row.probe[name]:z.1f}" for name in names)
    chosen = ", ".join(f"{_short(path)} {value}" for path, value in row.over.items())
    return (
        _name(row),
        _number(row.train_minutes),
        _number(total),
        "-" if row.epochs is None else str(row.epochs),
        _number(row.agreement_pct),
        _number(row.ece_pct),
        _number(row.nll, digits=3),
        *lost,
        chosen or "-",
    )


def _name(row: RowReport) -> str:
    return f"{row.label} (P)" if row.kind == "placebo" else row.label


def _short(path: str) -> str:
    """`objective.terms.soft.temperature` -> `soft.temperature`, whichever fold it is for."""
    fold, colon, bare = path.rpartition(": ")
    for start in _OBVIOUS:
        bare = bare.removeprefix(start)
    return f"{fold}{colon}{bare}"


def _p_value(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _number(value: float | None, *, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines: list[Sequence[str]] = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _put_between(page: Path, tables: str) -> None:
    text = read_text(page) if page.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(
            f"{page}: lacks the two lines between which tables go; add {BEGIN!r} and {END!r}"
        )
    write_text(page, f"{before}{BEGIN}\n\n{tables.rstrip()}\n\n{END}{after}")
