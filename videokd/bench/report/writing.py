"""The report of a study: Markdown, a page of HTML, the picture, the numbers as JSON and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from videokd.bench.report.page import html_page
from videokd.bench.report.paired import Comparison, paired_section
from videokd.bench.report.picture import pareto_png
from videokd.bench.report.summary import (
    PICTURE_TEXT,
    Text,
    findings,
    latency_section,
    not_drawn,
    origin_section,
    stamp_rows,
)
from videokd.bench.report.tables import (
    Section,
    captions,
    markdown_escape,
    markdown_rows,
    markdown_table,
)
from videokd.bench.result import BenchmarkResult, results_json
from videokd.errors import UserError
from videokd.files import csv_text, written_beside


class ReportPaths(NamedTuple):
    """Where the parts of a report lie."""

    markdown: Path
    html: Path
    picture: Path
    json: Path
    csv: Path


def write_report(
    results: Sequence[BenchmarkResult],
    out_dir: Path | str,
    *,
    title: str,
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    sections: Sequence[Section] = (),
    comparisons: Sequence[Comparison] = (),
    chance_pct: float | None = None,
) -> ReportPaths:
    """Write `report.md`, `report.html`, `pareto.png`, `results.json` and `results.csv`.

    All are made before the first takes its place, so a report is never half of one study and
    half of another because of something that cannot be drawn.

    Args:
        results: one row each, in this order everywhere.
        out_dir: made where it does not exist.
        title: of the report.
        notes: sentences under the table: what was held equal, how many seeds, what is missing.
        commands: what to type to get these numbers again.
        sections: further tables.
        comparisons: of the results' networks on the same videos.
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
    own = (paired_section(comparisons), latency_section(results))
    shown = [section for section in (*own, *sections, origin_section(results)) if section]
    text = Text(title, notes, commands, shown, comparisons)
    paths = _paths_in(Path(out_dir))
    content = (
        _markdown(results, text, paths.picture.name).encode(),
        html_page(results, text, chance_pct=chance_pct).encode(),
        pareto_png(results, chance_pct=chance_pct),
        results_json(results).encode(),
        results_csv(results).encode(),
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
        csv=folder / "results.csv",
    )


def results_csv(results: Sequence[BenchmarkResult]) -> str:
    """Every field of every result, a row each; parts of a field are columns: `latency_ms.p50`.

    What a result does not have is empty.
    """
    rows = [dict(_flat(result.to_dict(), "")) for result in results]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return csv_text(columns, [[row.get(name, "") for name in columns] for row in rows])


def _flat(value: Any, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _flat(item, f"{name}.{position}")
    else:
        yield name, "" if value is None else value


def _markdown(results: Sequence[BenchmarkResult], text: Text, picture: str) -> str:
    blocks = [f"# {markdown_escape(text.title)}"]
    found = [
        f"- **{markdown_escape(finding.value)}** {markdown_escape(finding.text)}"
        for finding in findings(results, text.comparisons)
    ]
    blocks += ["\n".join(found)] if found else []
    blocks += [f"![{PICTURE_TEXT}]({picture})"]
    blocks += ["## Results", markdown_table(results), markdown_escape(" ".join(captions(results)))]
    blocks += ["## Notes", *map(markdown_escape, text.notes)] if text.notes else []
    for section in text.sections:
        blocks += [f"## {markdown_escape(section.title)}"]
        blocks += [markdown_escape(section.note)] if section.note else []
        blocks += [markdown_rows(section.columns, section.rows, num_left=section.num_left)]
    if text.commands:
        lines = [line for command in text.commands for line in command.splitlines()]
        blocks += ["## Commands", "\n".join(f"    {line}" for line in lines)]
    blocks += [
        "## Measured with",
        markdown_rows(("what", "value"), stamp_rows(results), num_left=2),
    ]
    return "\n\n".join(blocks) + "\n"
