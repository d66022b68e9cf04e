"""Results as rows: for the terminal, for Markdown, and for the page."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videokd.bench.result import BenchmarkResult, Interval
from videokd.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

Cell = str | float | int | None
NOT_MEASURED = "\N{EN DASH}"

QUICK_MARK = "†"
_WIDTH_OF_FILES = 110


@dataclass(frozen=True, slots=True)
class Section:
    """A table of its own under the results: accuracy a class, seconds of training, a confusion."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    """As many cells a row as there are columns; None is shown as a dash."""
    note: str = ""
    """A sentence under the title."""
    heat_max: float | None = None
    """Where given, the page shades number cells from 0 (none) to this value (full)."""
    num_left: int = 1
    """So many columns are text, from the first; the others are set to the right."""

    def __post_init__(self) -> None:
        for position, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise UserError(
                    f"section {self.title!r}: row {position} has {len(row)} cells for "
                    f"{len(self.columns)} columns"
                )


def confusion_section(
    title: str, class_names: Sequence[str], counts: Sequence[Sequence[int]]
) -> Section:
    """A confusion matrix as a section: `counts[true][predicted]` videos, shaded on the page."""
    rows: list[list[Cell]] = [[name, *row] for name, row in zip(class_names, counts, strict=True)]
    note = "Rows: the true class. Columns: the predicted class. Cells: videos."
    most = max((max(row, default=0) for row in counts), default=0)
    return Section(title, ["true \\ predicted", *class_names], rows, note, heat_max=most or None)


Column = tuple[str, Callable[[BenchmarkResult], str]]

_COLUMNS: tuple[Column, ...] = (
    ("model", lambda r: r.model),
    ("role", lambda r: r.role),
    ("params M", lambda r: number(r.params_m)),
    ("GMACs/video", lambda r: number(r.gmacs_per_video)),
    ("p50 ms", lambda r: number(r.latency_ms.p50) + (QUICK_MARK if r.quick else "")),
    ("p95 ms", lambda r: number(r.latency_ms.p95)),
    ("clips/s", lambda r: number(r.throughput_clips_s)),
    ("top-1 %", lambda r: percent_text(r.top1_pct, r.top1_interval_pct)),
    ("top-5 %", lambda r: percent_text(r.top5_pct, None)),
)
_VIEWS_COLUMN: Column = ("views", lambda r: str(r.num_views))
_SETTING_COLUMNS: tuple[Column, ...] = (
    ("device", lambda r: r.device),
    ("dtype", lambda r: r.dtype),
    ("mode", lambda r: r.mode),
    ("batch", lambda r: str(r.batch)),
    ("form", lambda r: r.form),
    ("layout", lambda r: r.memory_format.replace("_", " ")),
    ("threads", lambda r: NOT_MEASURED if r.threads is None else str(r.threads)),
)
_SETTING_WORDS = {"batch": "batch {}", "form": "{} form", "threads": "{} threads"}
"""How a part of the setting is said in a sentence, where its value alone says too little."""


def results_table(results: Sequence[BenchmarkResult]) -> Table:
    """The results for the terminal, one row each, in the given order."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    caption = Text(" ".join(captions(results)), style="dim")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption)
    table.caption_justify = "left"
    columns = columns_of(results)
    for position, (title, _) in enumerate(columns):
        # On a narrow terminal names fold and the interval goes below its value; no number breaks.
        table.add_column(
            title.replace("/", "\n/").replace(" ", "\n"),
            justify="left" if position < 2 else "right",
            overflow="fold",
            no_wrap=title not in ("model", "top-1 %"),
        )
    for result in results:
        # `Text`, so that a model named "[x]" is a name and not markup.
        table.add_row(*(Text(text(result)) for _, text in columns))
    return table


def print_results(results: Sequence[BenchmarkResult]) -> None:
    """The table on stdout; a file or a pipe gets it at a width that folds nothing."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    Console(width=width).print(results_table(results))


def markdown_table(results: Sequence[BenchmarkResult]) -> str:
    """The results as a Markdown table, one row each, in the given order."""
    columns = columns_of(results)
    rows = [[text(result) for _, text in columns] for result in results]
    return markdown_rows([title for title, _ in columns], rows, num_left=2)


def markdown_rows(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, num_left: int = 1
) -> str:
    """A Markdown table; the first `num_left` columns are text, the others are set to the right."""
    rule = ["---" if position < num_left else "---:" for position in range(len(columns))]
    body = [[cell_text(cell) for cell in row] for row in rows]
    lines = [[markdown_escape(title) for title in columns], rule]
    lines += [[markdown_escape(text) for text in row] for row in body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns_of(results: Sequence[BenchmarkResult]) -> list[Column]:
    """The columns that these results need: views and parts of the setting only where they tell."""
    needed = [column for column in _SETTING_COLUMNS if len({column[1](r) for r in results}) > 1]
    if any(result.num_views > 1 for result in results):
        needed.append(_VIEWS_COLUMN)
    return [*_COLUMNS[:2], *needed, *_COLUMNS[2:]]


def captions(results: Sequence[BenchmarkResult]) -> list[str]:
    """Sentences that a table of these results needs under it."""
    if not results:
        return ["No results."]
    shared = [
        _SETTING_WORDS.get(title, "{}").format(text(results[0]))
        for title, text in _SETTING_COLUMNS
        if {text(result) for result in results} == {text(results[0])} != {NOT_MEASURED}
    ]
    lines = [
        f"Latency is per batch, on {', '.join(shared)}." if shared else "Latency is per batch."
    ]
    runs = sorted({result.latency_ms.runs for result in results if result.quick})
    if runs:
        counted = " or ".join(str(count) for count in runs)
        lines.append(
            f"{QUICK_MARK} Quick form: {counted} timed runs; take its latencies as a first look."
        )
    videos = sorted({r.num_videos for r in results if r.num_videos is not None})
    if videos:
        counted = " or ".join(str(count) for count in videos)
        lines.append(f"Accuracy over {counted} videos, with its 95 % interval.")
    return lines


def number(value: float | None) -> str:
    """Three significant digits or all whole ones, never an exponent: 0.0123, 1.23, 12.3, 1234."""
    if value is None:
        return NOT_MEASURED
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")  # first, so that 9.999 becomes 10.0 and not 10.00
    decimals = 2 - math.floor(math.log10(abs(rounded)))
    return f"{value:.{max(decimals, 0)}f}"


def percent_text(value: float | None, interval: Interval | None) -> str:
    """`90.1 [88.0, 92.0]`, or a dash; the space inside the brackets does not break."""
    if value is None:
        return NOT_MEASURED
    shown = f"{value:.1f}"
    return shown if interval is None else f"{shown} [{interval[0]:.1f},\u00a0{interval[1]:.1f}]"


def cell_text(cell: Cell) -> str:
    """A cell of a section: whole numbers as they are, others with three digits, None as a dash."""
    if cell is None:
        return NOT_MEASURED
    if isinstance(cell, float):
        return number(cell)
    return str(cell)


def markdown_escape(text: str) -> str:
    """Text that stays one cell, and text, in Markdown. `a_b` is left as it is: it is harmless."""
    return re.sub(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))
