"""What limits each network, and whole paths, as tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from videokd.bench.parts import Roofline, WholePath
from videokd.bench.report.tables import NOT_MEASURED, number
from videokd.bench.result import BenchmarkResult, Setting

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH_OF_FILES = 150


class _Row(NamedTuple):
    result: BenchmarkResult
    path: WholePath | None


_Column = tuple[str, Callable[[_Row], str]]


def _optional(value: float | None, digits: str = "") -> str:
    return NOT_MEASURED if value is None else (format(value, digits) if digits else number(value))


def _interval(row: _Row) -> str:
    interval = row.result.latency_ms.p50_interval
    return NOT_MEASURED if interval is None else f"{number(interval[0])}-{number(interval[1])}"


_NETWORK: _Column = ("network", lambda r: r.result.model)
_LIMITS: tuple[_Column, ...] = (
    ("p50 ms", lambda r: number(r.result.latency_ms.p50)),
    ("95 %", _interval),
    ("spread", lambda r: f"{r.result.latency_ms.spread:.2f}"),
    ("floor ms", lambda r: number(_roofline(r).floor_ms)),
    ("reached %", lambda r: f"{100 * _roofline(r).reached_part:.0f}"),
    ("compute ms", lambda r: number(_roofline(r).compute_ms)),
    ("memory ms", lambda r: number(_roofline(r).memory_ms)),
    ("layers ms", lambda r: number(_roofline(r).layers_ms)),
    ("limited by", lambda r: _roofline(r).limited_by),
    ("peak MiB", lambda r: _optional(_mib(r.result.peak_mem_gib), ".0f")),
    ("mJ/clip", lambda r: _optional(_milli(r.result.energy_per_clip_j))),
)
_STAGES: tuple[_Column, ...] = (
    ("video", lambda r: _path(r).file),
    ("decode", lambda r: number(_path(r).decode_ms)),
    ("preproc", lambda r: number(_path(r).preprocess_ms)),
    ("copy", lambda r: number(_path(r).copy_ms)),
    ("convert", lambda r: number(_path(r).convert_ms)),
    ("model", lambda r: number(_path(r).model_ms)),
    ("post", lambda r: number(_path(r).post_ms)),
    ("clip ms", lambda r: number(_path(r).clip_ms)),
    ("ms/s of video", lambda r: number(_path(r).ms_per_video_second)),
    (
        "ms/s live",
        lambda r: number(max(_path(r).host_ms_per_second, _path(r).device_ms_per_second)),
    ),
    ("live streams", lambda r: f"{_path(r).live_streams:.1f}"),
    ("back to back", lambda r: f"{_path(r).live_streams_back_to_back:.1f}"),
)


def limits_table(results: Sequence[BenchmarkResult]) -> Table | None:
    """What limits each network, a row a result that has a roofline; None without any."""
    rows = [_Row(result, None) for result in results if result.roofline is not None]
    ceilings = dict.fromkeys(
        f"{_own_words(r.result.dtype, r.result.threads)} {number(_roofline(r).peak_gmacs_s)} "
        f"GMAC/s and {number(_roofline(r).bandwidth_gib_s)} GiB/s"
        for r in rows
    )
    return _table(_LIMITS, rows, f"Measured ceilings: {'; '.join(ceilings)}.") if rows else None


def paths_table(results: Sequence[BenchmarkResult]) -> Table | None:
    """The stages of whole paths, a row a result and video; None without any."""
    rows = [_Row(result, path) for result in results for path in result.paths]
    about = (
        "ms a clip by stage. Live: one 25 fps stream, all frames decoded, one prediction a second "
        "(back to back: one a clip's span); streams that one process sustains."
    )
    return _table(_STAGES, rows, about) if rows else None


def print_limits(results: Sequence[BenchmarkResult]) -> None:
    """Both tables on stdout, where there is something in them."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)
    for table in (limits_table(results), paths_table(results)):
        if table is not None:
            console.print(table)


def _own_words(dtype: str, threads: int | None) -> str:
    return dtype if threads is None else f"{dtype} on {threads} thread{'s' if threads > 1 else ''}"


def _setting_columns(rows: Sequence[_Row]) -> list[_Column]:
    """A column for each part of the setting in which the rows differ."""

    def column(name: str) -> _Column:
        return name.replace("_", " "), lambda row: str(getattr(row.result.setting, name))

    settings = [row.result.setting for row in rows]
    return [
        column(name)
        for name in Setting._fields
        if len({getattr(setting, name) for setting in settings}) > 1
    ]


def _table(own: Sequence[_Column], rows: Sequence[_Row], about: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = [_NETWORK, *_setting_columns(rows), *own]
    caption = f"First row: {rows[0].result.setting}. {about}"
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=Text(caption, "dim")
    )
    table.caption_justify = "left"
    for position, (title, _) in enumerate(columns):
        is_name = position < len(columns) - len(own) or title in ("video", "limited by")
        table.add_column(
            title.replace(" ", "\n", 1),
            justify="left" if is_name else "right",
            overflow="fold",
            no_wrap=title not in ("network", "video", "device"),
        )
    for row in rows:
        table.add_row(*(Text(text(row)) for _, text in columns))
    return table


def _roofline(row: _Row) -> Roofline:
    assert row.result.roofline is not None
    return row.result.roofline


def _path(row: _Row) -> WholePath:
    assert row.path is not None
    return row.path


def _mib(gib: float | None) -> float | None:
    return None if gib is None else gib * 1024


def _milli(value: float | None) -> float | None:
    return None if value is None else value * 1000


def _live_ms(path: WholePath) -> float:
    """Of the side, host or GPU, that has more to do."""
    return max(path.host_ms_per_second, path.device_ms_per_second)
