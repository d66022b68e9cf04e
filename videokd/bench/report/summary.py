"""What a reader wants to know first: what the student gained, and what it was measured with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from videokd.bench.report.paired import Comparison
from videokd.bench.report.pareto import networks, own_setting
from videokd.bench.report.tables import Cell, Section, number
from videokd.bench.result import BenchmarkResult
from videokd.metrics import interval_text

PICTURE_TEXT = "Top-1 accuracy against multiply-adds and against latency"
"""For those who do not see the picture."""


class Text(NamedTuple):
    """What the caller says in a report, beside the results."""

    title: str
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()
    sections: Sequence[Section] = ()
    comparisons: Sequence[Comparison] = ()


class Finding(NamedTuple):
    """A number, and what it says."""

    value: str
    text: str


def findings(
    results: Sequence[BenchmarkResult], comparisons: Sequence[Comparison] = ()
) -> list[Finding]:
    """The student beside its teacher and its control, where there is one of each.

    Whether the student's gain is real is said by its paired comparison with the control, where it
    is among the comparisons, and otherwise by whether the intervals overlap. Several students
    (seeds, sizes) have no single number here: then there is none, and the table speaks. Latencies
    are compared in one setting only.
    """
    student, teacher, control = (_only(results, r) for r in ("student", "teacher", "control"))
    found: list[Finding] = []
    if student is not None and control is not None:
        found += _gain(student, control, comparisons)
    if student is not None and teacher is not None:
        found += _kept(student, teacher)
        found += _cheaper(student, teacher)
        found += _faster(results)
    return found


def stamp_rows(results: Sequence[BenchmarkResult]) -> list[tuple[str, str]]:
    """What the results were measured with; several values stand beside each other."""
    values: dict[str, list[str]] = {}
    for result in results:
        pairs = [("device", result.device), ("input", f"{result.num_frames} x {result.crop_px} px")]
        pairs += sorted((result.versions or {}).items())
        pairs += [(name, number(mhz)) for name, mhz in sorted((result.clocks or {}).items())]
        pairs += [("git_sha", result.git_sha or "not known")]
        for name, value in pairs:
            seen = values.setdefault(name, [])
            if value not in seen:
                seen.append(value)
    return [(name, ", ".join(seen)) for name, seen in values.items()]


def origin_section(results: Sequence[BenchmarkResult]) -> Section | None:
    """Protocol and command of each point; None where no result says them."""
    rows: dict[tuple[str, ...], None] = {}
    for result in results:
        if result.protocol or result.command:
            row = (result.model, result.role, result.protocol or "", result.command or "")
            rows.setdefault(row)
    if not rows:
        return None
    columns = ("model", "role", "protocol", "command")
    return Section("How each point was made", columns, list(rows), num_left=4)


def latency_section(results: Sequence[BenchmarkResult]) -> Section | None:
    """A network's latencies beside each other, a column a setting; None where one says it all."""
    settings = list(dict.fromkeys(result.setting for result in results))
    found = networks(results)
    if len(settings) < 2 or all(len(network.results) < 2 for network in found):
        return None
    shown = {result.setting: own_setting(result, results) for result in results}
    rows: list[list[Cell]] = []
    for network in found:
        p50 = {result.setting: result.latency_ms.p50 for result in network.results}
        rows.append([network.name, *(p50.get(setting) for setting in settings)])
    columns = ["network", *(shown[setting] for setting in settings)]
    return Section("Latency side by side", columns, rows, "p50, ms per batch.")


def not_drawn(results: Sequence[BenchmarkResult]) -> list[str]:
    """The names of networks that have no place in the picture, for want of an accuracy."""
    return list(dict.fromkeys(result.model for result in results if result.top1_pct is None))


def _only(results: Sequence[BenchmarkResult], role: str) -> BenchmarkResult | None:
    """The network of this role, in its first setting; None where there are none or several."""
    same = [result for result in results if result.role == role]
    kinds = {(r.model, r.top1_pct, r.gmacs_per_video) for r in same}
    return same[0] if len(kinds) == 1 else None


def _gain(
    student: BenchmarkResult, control: BenchmarkResult, comparisons: Sequence[Comparison]
) -> list[Finding]:
    if student.top1_pct is None or control.top1_pct is None:
        return []
    text = (
        f"points of top-1 over the same network without a teacher "
        f"({student.top1_pct:.1f} against {control.top1_pct:.1f} %)"
    )
    ours, theirs = student.top1_interval_pct, control.top1_interval_pct
    paired = [
        one.test
        for one in comparisons
        if (one.a, one.role_a, one.b, one.role_b)
        == (student.model, student.role, control.model, control.role)
    ]
    if paired:
        gain = interval_text(paired[0].interval_pct)
        text += f"; 95 % interval of the gain {gain}: {paired[0].verdict_text()}"
    elif ours is not None and theirs is not None:
        apart = ours[0] > theirs[1] or ours[1] < theirs[0]
        text += f"; the 95 % intervals {'do not overlap' if apart else 'overlap'}"
    return [Finding(f"{student.top1_pct - control.top1_pct:+z.1f}", text)]


def _kept(student: BenchmarkResult, teacher: BenchmarkResult) -> list[Finding]:
    if student.top1_pct is None or teacher.top1_pct is None:
        return []
    text = f"top-1 of the student; its teacher has {teacher.top1_pct:.1f} %"
    return [Finding(f"{student.top1_pct:.1f} %", text)]


def _cheaper(student: BenchmarkResult, teacher: BenchmarkResult) -> list[Finding]:
    ratio = teacher.gmacs_per_video / student.gmacs_per_video
    text = (
        f"fewer multiply-adds per video than the teacher ({number(student.gmacs_per_video)} "
        f"against {number(teacher.gmacs_per_video)} GMACs)"
    )
    return [Finding(_times(ratio), text)] if ratio > 1 else []


def _faster(results: Sequence[BenchmarkResult]) -> list[Finding]:
    """The first student and teacher that were timed in the same setting."""
    teachers = {r.setting: r for r in reversed(results) if r.role == "teacher"}
    for student in results:
        teacher = teachers.get(student.setting)
        if student.role != "student" or teacher is None:
            continue
        ours, theirs = student.latency_ms.p50, teacher.latency_ms.p50
        text = (
            f"faster than the teacher at p50, batch {student.batch} "
            f"({number(ours)} against {number(theirs)} ms)"
        )
        return [Finding(_times(theirs / ours), text)] if theirs > ours else []
    return []


def _times(ratio: float) -> str:
    shown = f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
    return shown + "\N{MULTIPLICATION SIGN}"
