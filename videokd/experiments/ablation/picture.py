"""The gains of a study with their intervals, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from videokd.experiments.ablation.evidence import BEST_CONTROL, RowReport, StudyReport
from videokd.files import written_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"control": "#7a7f87", "placebo": "#b8860b", "distilled": "#1f6fb4"}
_INK, _MUTED, _RULE = "#1c1e21", "#6b7078", "#e3e5e8"
_INCHES_A_ROW = 0.27
_WORDS_POINTS = 9.0


def draw_gains(report: StudyReport, path: Path) -> bool:
    """Points over the best control: a dot a row, its 95 % interval, and a small tick a seed.

    Rows that are compared with another row are not drawn: their zero is another one. Nothing is
    written, and False returned, while there is nothing to draw.
    """
    drawn = [
        (group.title, [row for row in group.rows if row.test and row.versus == BEST_CONTROL])
        for group in report.groups
    ]
    drawn = [(title, rows) for title, rows in drawn if rows]
    if not drawn:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_lines = sum(len(rows) + 1.4 for _, rows in drawn)
    height = 1.35 + _INCHES_A_ROW * num_lines
    figure = Figure(figsize=(9.2, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.36, 0.72 / height, 0.61, 1 - 1.25 / height))
    _draw_rows(axes, drawn)
    _draw_frame(axes, num_lines)
    figure.text(0.015, 1 - 0.28 / height, report.title, fontsize=11.5, color=_INK, va="center")
    _draw_legend(figure, height)
    with written_beside(path) as part:
        figure.savefig(part, format="png", dpi=150)
    return True


def _draw_rows(axes: Axes, drawn: list[tuple[str, list[RowReport]]]) -> None:
    at = 0.0
    words: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
    for title, rows in drawn:
        at += 1.0
        axes.text(-0.575, at, title, fontsize=9.5, fontweight="bold", color=_INK, **words)
        for row in sorted(rows, key=lambda row: -row.test.difference_pct if row.test else 0.0):
            at += 1.0
            assert row.test is not None
            colour = _COLOURS[row.kind]
            low, high = row.test.interval_pct
            axes.plot([low, high], [at, at], color=colour, lw=2.2, solid_capstyle="butt", alpha=0.5)
            axes.plot(
                row.test.seed_differences_pct,
                [at] * row.test.num_seeds,
                ls="none",
                marker="|",
                markersize=6,
                color=colour,
            )
            axes.plot(
                [row.test.difference_pct],
                [at],
                ls="none",
                marker="o",
                markersize=6,
                color=colour,
                markeredgecolor="white",
            )
            axes.text(-0.555, at, row.label, fontsize=_WORDS_POINTS, color=_INK, **words)
            is_told = row.verdict in ("gain", "loss") and row.adjusted_p is not None
            axes.text(
                -0.015,
                at,
                f"{row.test.difference_pct:+z.1f}",
                fontsize=_WORDS_POINTS,
                fontweight="bold" if is_told else "normal",
                color=_INK if is_told else _MUTED,
                ha="right",
                **words,
            )
        at += 0.4


def _draw_frame(axes: Axes, num_lines: float) -> None:
    axes.set_ylim(num_lines + 0.7, 0.2)
    axes.set_yticks([])
    axes.axvline(0, color=_INK, lw=1)
    axes.grid(axis="x", color=_RULE, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_RULE)
    axes.tick_params(axis="x", colors=_MUTED, labelsize=9)
    axes.set_xlabel(
        "points of top-1 over the best control (bold: p < 0.05 after Holm)",
        fontsize=9.5,
        color=_MUTED,
    )


def _draw_legend(figure: Any, height: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="o", lw=2.2, markeredgecolor="white", label=kind)
        for kind, colour in _COLOURS.items()
    ]
    handles.append(Line2D([], [], ls="none", marker="|", color=_MUTED, label="a seed"))
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(0.985, 1 - 0.14 / height),
        ncols=4,
        frameon=False,
        fontsize=8.5,
        labelcolor=_INK,
    )
