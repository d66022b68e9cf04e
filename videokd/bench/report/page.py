"""The report as one page of HTML that needs nothing beside it: style and pictures are inside."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from html import escape
from importlib import resources

from videokd.bench.report.chart import chart_data
from videokd.bench.report.picture import pareto_svg, role_styles
from videokd.bench.report.summary import PICTURE_TEXT, Finding, Text, findings, stamp_rows
from videokd.bench.report.tables import Cell, Section, captions, cell_text, columns_of
from videokd.bench.result import BenchmarkResult

_UNSAFE = re.compile(r"[<>&\u2028\u2029]")


def html_page(
    results: Sequence[BenchmarkResult], text: Text, *, chance_pct: float | None = None
) -> str:
    """The whole page. All text is shown as it is: none of it can become markup or script."""
    script = _part("chart.js")
    parts = [
        f"<h1>{escape(text.title)}</h1>",
        _cards(findings(results, text.comparisons)),
        _figure(results, chance_pct),
        "<h2>Results</h2>",
        _results(results),
        *(f'<p class="small">{escape(line)}</p>' for line in captions(results)),
        *(["<h2>Notes</h2>"] if text.notes else []),
        *(f"<p>{escape(note)}</p>" for note in text.notes),
        *(_section(section) for section in text.sections),
        *(["<h2>Commands</h2>", _block(text.commands)] if text.commands else []),
        "<h2>Measured with</h2>",
        _table(Section("", ("what", "value"), stamp_rows(results), num_left=2), "fit"),
        _chart(results, script, chance_pct),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(text.title)}</title>\n<style>\n{_part('page.css')}</style>\n</head>\n"
        "<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _part(name: str) -> str:
    """A file that lies beside this module and goes into every page as it is."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Nothing is fetched and no script runs but this one, whatever a name in the tables tries."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _chart(results: Sequence[BenchmarkResult], script: str, chance_pct: float | None) -> str:
    """The chart's data, and the script that puts the chart in the picture's place."""
    data = chart_data(results, chance_pct=chance_pct)
    if data is None:
        return ""
    plain = json.dumps(data, ensure_ascii=False, allow_nan=False)
    # In JSON these stand in strings only, and there an escape means the same.
    safe = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", plain)
    block = f'<script type="application/json" id="chart-data">{safe}</script>'
    return f"{block}\n<script>{script}</script>"


def _cards(found: Sequence[Finding]) -> str:
    if not found:
        return ""
    items = (f"<li><b>{escape(f.value)}</b><span>{escape(f.text)}</span></li>" for f in found)
    return f'<ul class="cards">{"".join(items)}</ul>'


def _figure(results: Sequence[BenchmarkResult], chance_pct: float | None) -> str:
    light = _data_uri(pareto_svg(results, theme="light", chance_pct=chance_pct))
    dark = _data_uri(pareto_svg(results, theme="dark", chance_pct=chance_pct))
    return (
        '<figure id="chart"></figure>\n'
        '<figure id="picture"><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{PICTURE_TEXT}"></picture></figure>'
    )


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"


def _results(results: Sequence[BenchmarkResult]) -> str:
    columns = columns_of(results)
    styles = role_styles([result.role for result in results])
    head = _head([title for title, _ in columns], num_left=2)
    rows = []
    for result in results:
        cells = [escape(text(result)) for _, text in columns]
        style = styles[result.role]
        cells[1] = (
            f'<span class="dot" style="--light: {style.light}; --dark: {style.dark}"></span>'
            f"{cells[1]}"
        )
        rows.append(_row(cells, num_left=2))
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _section(section: Section) -> str:
    note = f'<p class="small">{escape(section.note)}</p>' if section.note else ""
    kind = "fit" if section.heat_max is None else "fit heat"
    return f"<h2>{escape(section.title)}</h2>{note}{_table(section, kind)}"


def _table(section: Section, kind: str) -> str:
    rows = []
    for row in section.rows:
        cells = [_cell(cell, dim_zero=section.heat_max is not None) for cell in row]
        shades = [_shade(cell, section.heat_max) for cell in row]
        rows.append(_row(cells, num_left=section.num_left, shades=shades))
    head = _head(section.columns, num_left=section.num_left)
    body = f"<tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="{kind}">{head}{body}</table></div>'


def _head(titles: Sequence[str], *, num_left: int) -> str:
    cells = (
        f'<th scope="col"{_text_class(position, num_left)}>{escape(title)}</th>'
        for position, title in enumerate(titles)
    )
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _row(cells: Sequence[str], *, num_left: int, shades: Sequence[str] = ()) -> str:
    """`cells` are HTML already."""
    shades = shades or [""] * len(cells)
    body = (
        f"<td{_text_class(position, num_left)}{shade}>{cell}</td>"
        for position, (cell, shade) in enumerate(zip(cells, shades, strict=True))
    )
    return f"<tr>{''.join(body)}</tr>"


def _text_class(position: int, num_left: int) -> str:
    return ' class="text"' if position < num_left else ""


def _cell(cell: Cell, *, dim_zero: bool) -> str:
    text = escape(cell_text(cell))
    return f'<span class="none">{text}</span>' if dim_zero and cell == 0 else text


def _shade(cell: Cell, heat_max: float | None) -> str:
    """A background for number cells; half strength at most, so that ink stays legible on it.

    Text cells are left as they are.
    """
    if heat_max is None or not isinstance(cell, int | float):
        return ""
    # The root lifts the few mistakes, which are what one looks for, off the many hits.
    part = math.sqrt(min(max(cell / heat_max, 0.0), 1.0))
    return f' style="background: rgb(var(--heat) / {0.5 * part:.3f})"'


def _block(lines: Sequence[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"
