"""The report of a check as text for a terminal: findings first, then statistics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from videokd.data.check.findings import TITLES, CheckReport, Finding, Kind

NUM_EXAMPLES = 5
"""Findings of each kind that are shown; the JSON has them all."""

NUM_CLASSES = 12
"""Classes that are shown of each split where there are more."""


def format_report(report: CheckReport) -> str:
    """The report as lines of text, without a newline at the end."""
    how = "compared by size and digest, not decoded" if report.quick else "decoded again"
    lines = [f"{report.index}: {report.num_videos} videos, {how}", *_findings(report)]
    lines += ["", *_statistics(report.statistics)]
    return "\n".join(lines)


def _findings(report: CheckReport) -> Iterator[str]:
    if not report.findings:
        yield "nothing wrong was found"
        return
    yield f"{_many(report.num_errors, 'error')}, {_many(report.num_warnings, 'warning')}"
    by_kind: dict[Kind, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        by_kind[finding.kind].append(finding)
    for kind, found in by_kind.items():
        severity, title = TITLES[kind]
        yield ""
        yield f"{severity}: {len(found)} x {title}"
        for finding in found[:NUM_EXAMPLES]:
            yield from _example(finding)
        if len(found) > NUM_EXAMPLES:
            yield f"  ... and {len(found) - NUM_EXAMPLES} more (--json lists all)"


def _example(finding: Finding) -> Iterator[str]:
    if len(finding.paths) == 1:
        yield f"  {finding.paths[0]}: {finding.message}"
        return
    yield f"  {finding.message}"
    for path in finding.paths[:3]:
        yield f"    {path}"
    if len(finding.paths) > 3:
        yield f"    ... and {len(finding.paths) - 3} more"


def _statistics(values: Mapping[str, Any]) -> Iterator[str]:
    yield f"videos    {values['videos']}, {values['labelled']} with labels"
    total = values["bytes"]["total"]
    yield f"bytes     {_size(total)}; a file {_spread(values['bytes'], _size)}"
    durations = values["duration_seconds"]
    yield f"duration  {durations['total'] / 3600:.2f} h; a video {_spread(durations, _seconds)}"
    yield f"frames    {values['num_frames']['total']}; a video {_spread(values['num_frames'], str)}"
    yield f"fps       {_spread(values['fps'], lambda fps: f'{fps:g}')}"
    yield f"height    {_spread(values['height_px'], lambda px: f'{px:g} px')}"
    yield f"width     {_spread(values['width_px'], lambda px: f'{px:g} px')}"
    yield f"sizes     {_counts(values['sizes'])}"
    yield f"readers   {_counts(values['readers'])}"
    yield f"splits    {_counts({name or '(none)': n for name, n in values['splits'].items()})}"
    for split, counts in values["classes"].items():
        yield from _classes(split, counts)


def _classes(split: str, counts: Mapping[str, int]) -> Iterator[str]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    yield f"classes {split or '(no split)'}: {len(counts)}, videos in each:"
    half = NUM_CLASSES // 2
    if len(ordered) > NUM_CLASSES:
        gap = (f"... {len(ordered) - NUM_CLASSES} between ...", -1)
        ordered = [*ordered[:half], gap, *ordered[-half:]]
    width = max(len(name) for name, _ in ordered)
    for name, count in ordered:
        yield f"  {name:<{width}}  {count}" if count >= 0 else f"  {name}"


def _spread(spread: Mapping[str, float], show: Any) -> str:
    low, middle, high = (show(spread[name]) for name in ("min", "median", "max"))
    if spread["num_distinct"] == 1:
        return f"{low}, all alike"
    return f"{low} to {high}, median {middle}, {spread['num_distinct']} distinct"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _counts(counts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{name}: {n}" for name, n in list(counts.items())[:8])
    return shown + (f", ... {len(counts) - 8} more" if len(counts) > 8 else "")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"


def _size(num_bytes: float) -> str:
    rank = 0
    while num_bytes >= 1024 and rank < 4:
        num_bytes /= 1024
        rank += 1
    unit = ("B", "KiB", "MiB", "GiB", "TiB")[rank]
    return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
