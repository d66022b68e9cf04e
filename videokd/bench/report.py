"""The report of a study: Markdown, a page of HTML, the picture, and the numbers as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from videokd.bench.page import html_page
from videokd.bench.pareto import pareto_front
from videokd.bench.picture import pareto_png
from videokd.bench.result import BenchmarkResult, results_json
from videokd.bench.summary import PICTURE_TEXT, Text, findings, not_drawn, stamp_rows
from videokd.bench.tables import (
    Section,
    captions,
    confusion_section,
    markdown_escape,
    markdown_rows,
    markdown_table,
    print_results,
    results_table,
)
from videokd.errors import UserError
from videokd.files import written_beside

__all__ = [
    "ReportPaths",
    "Section",
    "confusion_section",
    "markdown_table",
    "pareto_front",
    "print_results",
    "results_table",
    "write_report",
]


class ReportPaths(NamedTuple):
    """Where the parts of a report lie."""

    markdown: Path
    html: Path
    picture: Path
    json: Path


def write_report(
    results: Sequence[BenchmarkResult],
    out_dir: Path | str,
    *,
    title: str,
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    sections: Sequence[Section] = (),
    chance_pct: float | None = None,
) -> ReportPaths:
    """Write `report.md`, `report.html`, `pareto.png` and `results.json` into `out_dir`.

    All four are made before the first takes its place, so a report is never half of one study and
    half of another because of something that cannot be drawn.

    Args:
        results: one row each, in this order everywhere.
        out_dir: made where it does not exist.
        title: of the report.
        notes: sentences under the table: what was held equal, how many seeds, what is missing.
        commands: what to type to get these numbers again.
        sections: further tables.
        chance_pct: accuracy of guessing, drawn as a line.

    Raises:
        UserError: without any result, and where `out_dir` cannot be written.
    """
    if not results:
        raise UserError(f"{out_dir}: a report needs at least one result; run a benchmark first")
    missing = not_drawn(results)
    if missing:
        notes = [
            *notes,
            f"Not in the picture, since no accuracy was measured: {', '.join(missing)}.",
        ]
    text = Text(title, notes, commands, sections)
    paths = _paths_in(Path(out_dir))
    content = (
        _markdown(results, text, paths.picture.name).encode(),
        html_page(results, text, chance_pct=chance_pct).encode(),
        pareto_png(results, chance_pct=chance_pct),
        results_json(results).encode(),
    )
    try:
        with ExitStack() as stack:
            for path, data in zip(paths, content, strict=True):
                stack.enter_context(written_beside(path)).write_bytes(data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{out_dir}: the report cannot be written: {reason}") from None
    return paths


def _paths_in(folder: Path) -> ReportPaths:
    return ReportPaths(
        markdown=folder / "report.md",
        html=folder / "report.html",
        picture=folder / "pareto.png",
        json=folder / "results.json",
    )


def _markdown(results: Sequence[BenchmarkResult], text: Text, picture: str) -> str:
    blocks = [f"# {markdown_escape(text.title)}"]
    found = [
        f"- **{markdown_escape(finding.value)}** {markdown_escape(finding.text)}"
        for finding in findings(results)
    ]
    blocks += ["\n".join(found)] if found else []
    blocks += [f"![{PICTURE_TEXT}]({picture})"]
    blocks += ["## Results", markdown_table(results), markdown_escape(" ".join(captions(results)))]
    blocks += ["## Notes", *map(markdown_escape, text.notes)] if text.notes else []
    for section in text.sections:
        blocks += [f"## {markdown_escape(section.title)}"]
        blocks += [markdown_escape(section.note)] if section.note else []
        blocks += [markdown_rows(section.columns, section.rows)]
    if text.commands:
        lines = [line for command in text.commands for line in command.splitlines()]
        blocks += ["## Commands", "\n".join(f"    {line}" for line in lines)]
    blocks += [
        "## Measured with",
        markdown_rows(("what", "value"), stamp_rows(results), num_left=2),
    ]
    return "\n\n".join(blocks) + "\n"
