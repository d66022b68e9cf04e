"""The report as one page of HTML that needs nothing beside it: style and pictures are inside."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

from videokd.bench.picture import pareto_svg, role_styles
from videokd.bench.result import BenchmarkResult
from videokd.bench.summary import PICTURE_TEXT, Finding, Text, findings, stamp_rows
from videokd.bench.tables import Cell, Section, captions, cell_text, columns_of

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --muted: #656d76;
  --rule: #e1e4e8; --soft: #f6f8fa; --heat: 11 132 87; }
@media (prefers-color-scheme: dark) { :root { --paper: #161a1f; --ink: #e6e8eb; --muted: #98a1ab;
  --rule: #2c323a; --soft: #1d2228; --heat: 99 230 190; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 24px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 10px; }
p { margin: 8px 0; }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(215px, 1fr));
  margin: 0 0 28px; padding: 0; list-style: none; }
.cards li { background: var(--soft); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 18px 16px; }
.cards b { display: block; font-size: 28px; line-height: 1.25; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; }
.cards span { color: var(--muted); font-size: 14px; line-height: 1.4; display: block; }
figure { margin: 0; overflow-x: auto; }
figure img { width: 100%; min-width: 700px; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th { color: var(--muted); font-weight: 600; font-size: 13px; vertical-align: bottom; }
th.text, td.text { text-align: left; }
table.fit { width: auto; }
table.heat td, table.heat th { text-align: center; padding: 5px 8px;
  border: 1px solid var(--rule); }
table.heat .text { text-align: left; }
.none { color: var(--rule); }
table.heat thead th:not(.text) { writing-mode: vertical-rl; text-align: left;
  transform: rotate(180deg); padding: 8px 4px; border: 0; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px;
  background: var(--light); }
@media (prefers-color-scheme: dark) { .dot { background: var(--dark); } }
.small { color: var(--muted); font-size: 13.5px; }
pre { background: var(--soft); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px 16px; overflow-x: auto; font-size: 13.5px; line-height: 1.5; }
"""
# Nothing may be fetched, whatever a name in the tables tries.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html_page(
    results: Sequence[BenchmarkResult], text: Text, *, chance_pct: float | None = None
) -> str:
    """The whole page. All text is shown as it is: none of it can become markup."""
    parts = [
        f"<h1>{escape(text.title)}</h1>",
        _cards(findings(results)),
        _figure(results, chance_pct),
        "<h2>Results</h2>",
        _results(results),
        *(f'<p class="small">{escape(line)}</p>' for line in captions(results)),
        *(["<h2>Notes</h2>"] if text.notes else []),
        *(f"<p>{escape(note)}</p>" for note in text.notes),
        *(_section(section) for section in text.sections),
        *(["<h2>Commands</h2>", _block(text.commands)] if text.commands else []),
        "<h2>Measured with</h2>",
        _table(Section("", ("what", "value"), stamp_rows(results)), "fit", num_left=2),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(text.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _cards(found: Sequence[Finding]) -> str:
    if not found:
        return ""
    items = (f"<li><b>{escape(f.value)}</b><span>{escape(f.text)}</span></li>" for f in found)
    return f'<ul class="cards">{"".join(items)}</ul>'


def _figure(results: Sequence[BenchmarkResult], chance_pct: float | None) -> str:
    light = _data_uri(pareto_svg(results, theme="light", chance_pct=chance_pct))
    dark = _data_uri(pareto_svg(results, theme="dark", chance_pct=chance_pct))
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
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


def _table(section: Section, kind: str, *, num_left: int = 1) -> str:
    rows = []
    for row in section.rows:
        cells = [_cell(cell, dim_zero=section.heat_max is not None) for cell in row]
        shades = [_shade(cell, section.heat_max) for cell in row]
        rows.append(_row(cells, num_left=num_left, shades=shades))
    head = _head(section.columns, num_left=num_left)
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
