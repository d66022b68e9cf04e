"""The picture of a report: accuracy against multiply-adds, latency, and other costs."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from videokd.bench.report.labels import Box, place_labels
from videokd.bench.report.panels import panels_of
from videokd.bench.report.pareto import Point, pareto_front
from videokd.bench.result import BenchmarkResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

ThemeName = Literal["light", "dark"]
FIGURE_INCHES = (11.0, 5.6)
"""Of one row of two panels."""
_ROW_INCHES, _COLUMN_INCHES = 4.9, 5.4
PNG_DPI = 150
_AVOID = "names keep off"
_DASHES: dict[str, Any] = {"lw": 1.2, "ls": (0, (4, 3)), "zorder": 2}
_LABEL: dict[str, Any] = {"fontsize": 9, "ha": "center", "va": "center", "parse_math": False}


class RoleStyle(NamedTuple):
    """How points of a role look; shape and colour both, for those who do not see the colour."""

    marker: str
    light: str
    dark: str


ROLE_STYLES: dict[str, RoleStyle] = {
    "teacher": RoleStyle("s", "#3b5bdb", "#91a7ff"),
    "control": RoleStyle("D", "#e8890c", "#ffc078"),
    "student": RoleStyle("o", "#0b8457", "#63e6be"),
    "no_temporal": RoleStyle("v", "#868e96", "#adb5bd"),
}
OTHER_STYLES = (
    RoleStyle("P", "#ae3ec9", "#e599f7"),
    RoleStyle("X", "#c92a2a", "#ff8787"),
    RoleStyle("^", "#1098ad", "#66d9e8"),
    RoleStyle("h", "#5c940d", "#c0eb75"),
)


class Theme(NamedTuple):
    """Colours of the picture that are not a role's."""

    paper: str
    ink: str
    muted: str
    grid: str


THEMES: dict[ThemeName, Theme] = {
    "light": Theme("#ffffff", "#1f2328", "#656d76", "#e6e8eb"),
    "dark": Theme("#161a1f", "#e6e8eb", "#98a1ab", "#2c323a"),
}


def pareto_png(results: Sequence[BenchmarkResult], *, chance_pct: float | None = None) -> bytes:
    """The picture as PNG, on white."""
    return _drawn(results, "light", "png", chance_pct)


def pareto_svg(
    results: Sequence[BenchmarkResult],
    *,
    theme: ThemeName = "light",
    chance_pct: float | None = None,
) -> bytes:
    """The picture as SVG with its letters as outlines, so that it looks the same everywhere."""
    return _drawn(results, theme, "svg", chance_pct)


def role_styles(roles: Sequence[str]) -> dict[str, RoleStyle]:
    """Role -> style, in the order of first appearance; unknown roles take the spare styles."""
    styles: dict[str, RoleStyle] = {}
    spare = 0
    for role in dict.fromkeys(roles):
        if role in ROLE_STYLES:
            styles[role] = ROLE_STYLES[role]
        else:
            styles[role] = OTHER_STYLES[spare % len(OTHER_STYLES)]
            spare += 1
    return styles


def _drawn(
    results: Sequence[BenchmarkResult],
    theme: ThemeName,
    format_: Literal["png", "svg"],
    chance_pct: float | None,
) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The salt and the missing date make the same results the same bytes.
    settings: dict[Any, Any] = {
        "svg.hashsalt": "videokd",
        "svg.fonttype": "path",
        "font.size": 10,
        "font.family": "DejaVu Sans",
    }
    metadata: dict[str, Any] = {"Date": None} if format_ == "svg" else {"Software": None}
    with mpl.rc_context(settings):
        figure = Figure(
            figsize=_figure_inches(len(panels_of(results))),
            dpi=PNG_DPI,
            facecolor=THEMES[theme].paper,
        )
        FigureCanvasAgg(figure)  # the backend is named here: no display, no pyplot
        _draw_panels(figure, results, theme, chance_pct)
        target = io.BytesIO()
        figure.savefig(target, format=format_, metadata=metadata, facecolor=figure.get_facecolor())
    return target.getvalue()


def _draw_panels(
    figure: Figure,
    results: Sequence[BenchmarkResult],
    theme: ThemeName,
    chance_pct: float | None,
) -> None:
    colours = THEMES[theme]
    styles = role_styles([result.role for result in results])
    panels = panels_of(results)
    drawn = list(zip(_grid(figure, len(panels)), panels, strict=True))
    low_pct, high_pct = _accuracy_range([p for panel in panels for p in panel.points], chance_pct)
    for axes, (points, title) in drawn:
        _dress(axes, points, colours, title)
        axes.set_ylim(low_pct, high_pct)
        if not points:
            _say(axes, "no accuracy measured", colours)
            continue
        _draw_points(axes, points, styles, theme)
        if chance_pct is not None:
            _draw_chance(axes, chance_pct, colours)
    for axes, _ in drawn:
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel("Top-1 accuracy, %", color=colours.ink)
    _draw_setting(figure, results, colours)
    if panels[0].points:
        _draw_legend(figure, [point.role for point in panels[0].points], styles, theme)
    figure.draw_without_rendering()  # from here on, data have their place in px
    for axes, (points, _) in drawn:
        _draw_labels(figure, axes, points, colours)


def _figure_inches(num_panels: int) -> tuple[float, float]:
    if num_panels == 2:
        return FIGURE_INCHES
    num_columns = 2 if num_panels <= 4 else 3
    num_rows = math.ceil(num_panels / num_columns)
    return num_columns * _COLUMN_INCHES, num_rows * _ROW_INCHES


def _grid(figure: Figure, num_panels: int) -> list[Axes]:
    """Axes for so many panels, row by row, below the room for the legend."""
    num_columns = 2 if num_panels <= 4 else 3
    num_rows = math.ceil(num_panels / num_columns)
    axes = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).flatten()
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.715 / width,
        right=1 - 0.165 / width,
        top=1 - 0.56 / height,
        bottom=0.756 / height,
        wspace=0.06,
        hspace=0.2,
    )
    for spare in axes[num_panels:]:
        spare.remove()
    return list(axes[:num_panels])


def _accuracy_range(points: Sequence[Point], chance_pct: float | None) -> tuple[float, float]:
    """From a little below the lowest whisker to a little above the highest one."""
    ends = [end for p in points for end in (p.interval_pct or (p.accuracy_pct, p.accuracy_pct))]
    ends += [] if chance_pct is None else [chance_pct]
    low_pct, high_pct = min(ends, default=0.0), max(ends, default=100.0)
    margin_pct = max(2.0, 0.08 * (high_pct - low_pct))
    return max(low_pct - margin_pct, -3.0), min(high_pct + margin_pct, 103.0)


def _dress(axes: Axes, points: Sequence[Point], colours: Theme, title: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_facecolor(colours.paper)
    axes.set_xscale("log")
    if points:
        low, high = _cost_range(points)
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(title, color=colours.ink)
    axes.grid(True, which="major", color=colours.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=colours.muted, length=0, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colours.muted)


def _cost_range(points: Sequence[Point]) -> tuple[float, float]:
    """At least a decade, with room on both sides, since names stand beside the points."""
    low, high = min(p.cost for p in points), max(p.cost for p in points)
    room = max((high / low) ** 0.18, 1.6, math.sqrt(10 * low / high))
    return low / room, high * room


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high]: 1, 2, 5 a decade, or fewer where there are many decades."""
    decades = math.log10(high / low)
    steps = (1, 2, 5) if decades < 2 else (1, 3) if decades < 4 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = (float(f"{step}e{power}") for power in powers for step in steps)
    return [tick for tick in ticks if low <= tick <= high]


def _draw_points(
    axes: Axes,
    points: Sequence[Point],
    styles: dict[str, RoleStyle],
    theme: ThemeName,
) -> None:
    colours = THEMES[theme]
    for group in dict.fromkeys(point.group for point in points):
        members = [point for point in points if point.group == group]
        front = pareto_front([(p.cost, p.accuracy_pct) for p in members])
        corners = zip(*_staircase([members[i] for i in front]), strict=True)
        axes.plot(*corners, color=colours.muted, **_DASHES, gid=_AVOID)
        for index, point in enumerate(members):
            style = styles[point.role]
            _draw_point(axes, point, style, getattr(style, theme), colours, index in front)


def _staircase(front: Sequence[Point]) -> list[tuple[float, float]]:
    """The most accuracy that each cost buys: it rises where a network stands, not before."""
    corners: list[tuple[float, float]] = []
    for cost, accuracy_pct in sorted((point.cost, point.accuracy_pct) for point in front):
        if corners:
            corners.append((cost, corners[-1][1]))
        corners.append((cost, accuracy_pct))
    return corners


def _draw_point(
    axes: Axes, point: Point, style: RoleStyle, colour: str, colours: Theme, on_front: bool
) -> None:
    """Filled where nothing beats it, hollow where something does."""
    if point.interval_pct is not None:
        low, high = point.interval_pct
        axes.plot([point.cost] * 2, [low, high], color=colour, lw=1.6, alpha=0.55, zorder=3)
    axes.plot(
        [point.cost],
        [point.accuracy_pct],
        marker=style.marker,
        markersize=9,
        markerfacecolor=colour if on_front else colours.paper,
        markeredgecolor=colour,
        markeredgewidth=1.8,
        linestyle="none",
        zorder=4,
    )


def _draw_chance(axes: Axes, chance_pct: float, colours: Theme) -> None:
    axes.axhline(chance_pct, color=colours.muted, lw=1, ls=":", zorder=1, gid=_AVOID)
    axes.text(
        0.995,
        chance_pct,
        f"chance {chance_pct:.1f} %",
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="bottom",
        fontsize=8.5,
        color=colours.muted,
        gid=_AVOID,
    )


def _draw_setting(figure: Figure, results: Sequence[BenchmarkResult], colours: Theme) -> None:
    """What the latencies were measured on, where it is one thing."""
    settings = {str(result.setting) for result in results}
    if len(settings) == 1:
        style: dict[str, Any] = {
            "fontsize": 8.5,
            "color": colours.muted,
            "ha": "right",
            "parse_math": False,
        }
        figure.text(0.985, 0.02, settings.pop(), **style)


def _say(axes: Axes, text: str, colours: Theme) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=colours.muted)
    axes.set_xticks([])
    axes.grid(False)


def _draw_legend(
    figure: Figure, roles: Sequence[str], styles: dict[str, RoleStyle], theme: ThemeName
) -> None:
    from matplotlib.lines import Line2D

    colours = THEMES[theme]
    handles = [
        Line2D(
            [],
            [],
            ls="none",
            marker=styles[role].marker,
            markersize=8,
            color=getattr(styles[role], theme),
            label=role.replace("_", " "),
        )
        for role in dict.fromkeys(roles)
    ]
    front = Line2D([], [], color=colours.muted, **_DASHES, label="Pareto front (filled)")
    whisker = Line2D([], [], color=colours.muted, lw=1.6, alpha=0.55, label="95 % interval")
    legend = figure.legend(
        handles=[*handles, front, whisker],
        loc="upper left",
        bbox_to_anchor=(0.055, 0.995),
        ncols=min(len(handles) + 2, 7),
        frameon=False,
        labelcolor=colours.ink,
        fontsize=9.5,
        handletextpad=0.4,
        columnspacing=1.6,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_labels(figure: Figure, axes: Axes, points: Sequence[Point], colours: Theme) -> None:
    """Names beside their points; a thin line leads to a name that found no room nearby."""
    if not points:
        return
    size_of = _text_sizer(figure)
    to_px = axes.transData.transform
    anchors = [tuple(to_px((p.cost, p.accuracy_pct))) for p in points]
    sizes = [size_of(p.label) for p in points]
    scale = figure.dpi / 72
    boxes = place_labels(
        anchors,
        sizes,
        inside=Box(*axes.bbox.extents).grown(-2 * scale),
        obstacles=_obstacles(axes, points, scale),
        gap=8 * scale,
    )
    for point, anchor, box in zip(points, anchors, boxes, strict=True):
        x, y = (box.left + box.right) / 2, (box.bottom + box.top) / 2
        near = (min(max(anchor[0], box.left), box.right), min(max(anchor[1], box.bottom), box.top))
        if math.dist(near, anchor) > 14 * scale:
            ends = axes.transData.inverted().transform([anchor, near])
            axes.plot(*ends.T, color=colours.muted, lw=0.7, zorder=2.5)
        at_x, at_y = axes.transData.inverted().transform((x, y))
        axes.text(at_x, at_y, point.label, **_LABEL, color=colours.ink, zorder=5)


def _text_sizer(figure: Figure) -> Callable[[str], tuple[float, float]]:
    """A function that measures a label as it will be drawn, px."""
    probe = figure.text(0, 0, "", **_LABEL)

    def size_of(text: str) -> tuple[float, float]:
        probe.set_text(text)
        extent = probe.get_window_extent()
        probe.set_text("")
        return float(extent.width), float(extent.height)

    return size_of


def _obstacles(axes: Axes, points: Sequence[Point], scale: float) -> list[Box]:
    """Markers, whiskers and the fronts' lines (in short pieces), px."""
    to_px = axes.transData.transform
    boxes = []
    for point in points:
        x, y = to_px((point.cost, point.accuracy_pct))
        boxes.append(Box(x, y, x, y).grown(7 * scale))
        if point.interval_pct is not None:
            low, high = (to_px((point.cost, end))[1] for end in point.interval_pct)
            boxes.append(Box(x, low, x, high).grown(4 * scale))
    for text in axes.texts:
        if text.get_gid() == _AVOID:
            boxes.append(Box(*text.get_window_extent().extents))
    for line in axes.lines:
        if line.get_gid() == _AVOID:
            boxes += _line_boxes(line, scale)
    return boxes


def _line_boxes(line: Line2D, scale: float) -> Iterator[Box]:
    """A line in short pieces, px."""
    corners = line.get_transform().transform(line.get_xydata())
    for start, end in itertools.pairwise(corners):
        for x, y in np.linspace(start, end, 60):
            yield Box(x, y, x, y).grown(1.5 * scale)
