"""`videokd data bench`: from what was asked for to a report of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videokd.bench.loading.augmentation import augment_speed
from videokd.bench.loading.batches import time_batches
from videokd.bench.loading.clips import SpeedConfig, time_clips, try_loaders
from videokd.bench.loading.files import KINDS
from videokd.bench.loading.jobs import SpeedFile
from videokd.bench.loading.peers import loaders
from videokd.bench.loading.report import FEW_ROUNDS, goals, rows, stamp
from videokd.bench.loading.rows import SpeedRow, Verdict, judged
from videokd.bench.loading.soak import Soak, soak
from videokd.bench.loading.sources import PREPARED, own_files, user_files
from videokd.bench.report.tables import number
from videokd.progress import show_progress

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH_OF_FILES = 120


@dataclass
class LoadingReport:
    """What the loading benchmark found."""

    rows: list[SpeedRow] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    """What each file is."""
    how: dict[str, str] = field(default_factory=dict)
    """What each loader did."""
    soak: Soak | None = None

    def to_json(self) -> list[dict[str, Any]]:
        """A list of rows, all with the same keys."""
        return [row.to_dict() for row in self.rows]


def benchmark_loading(
    config: SpeedConfig,
    *,
    sources: Sequence[Path] = (),
    is_quick: bool = False,
    augment_device: str | None = None,
    num_soak_clips: int | None = None,
    folder: Path | None = None,
    quiet: bool = False,
) -> LoadingReport:
    """Measure what was asked for, with progress on stderr.

    Args:
        config: peers, workers, rounds, crop, clips.
        sources: indices, folders or videos to load from; none: the benchmark's own files.
        is_quick: without the benchmark's 720p file.
        augment_device: measure augmentation on `cpu` or `cuda` instead of loading.
        num_soak_clips: watch memory over so many clips instead.
        folder: where the benchmark's own files stay; by default the user's cache folder.
        quiet: no progress.
    """
    if augment_device is not None:
        with show_progress("augmentation", quiet=quiet) as report:
            found = augment_speed(
                device=augment_device,
                rounds=config.rounds,
                crop_px=config.crop_px,
                on_progress=report,
            )
        return LoadingReport(rows=found)
    with show_progress("render, prepare and scan", quiet=quiet) as report:
        files = (
            user_files(sources, folder=folder)
            if sources
            else own_files(is_quick=is_quick, folder=folder, on_progress=report)
        )
    if num_soak_clips is not None:
        return _soaked(files, num_soak_clips, config, quiet=quiet)
    with show_progress("try loaders", quiet=quiet) as report:
        timings = try_loaders(files, config, on_progress=report)
    with show_progress("clips on one core", quiet=quiet) as report:
        time_clips(files, config, timings, on_progress=report)
    with show_progress("batches by workers", quiet=quiet) as report:
        time_batches(files, config, timings, on_progress=report)
    return LoadingReport(
        rows=rows(files, timings),
        verdicts=judged(goals(files, timings), timings.seconds),
        about={file.name: _about(file) for file in files},
        how={loader.name: loader.how for loader in loaders(with_peers=config.with_peers)},
    )


def print_loading(report: LoadingReport) -> None:
    """Tables, goals and remarks on stdout."""
    from rich.console import Console

    console = Console(
        width=None if sys.stdout.isatty() else _WIDTH_OF_FILES, highlight=False, markup=False
    )
    for name in dict.fromkeys(row.files for row in report.rows):
        console.print(f"{name}: {report.about.get(name, '')}".rstrip(": "))
        console.print(_table([row for row in report.rows if row.files == name]))
    for row in report.rows:
        if row.reason and row.growth_mib is None:
            console.print(f"{row.files}, {row.sampling}, {row.loader}: {row.status}: {row.reason}")
    for name, how in report.how.items():
        console.print(f"{name}: {how}")
    for line in _remarks(report.rows):
        console.print(line)
    for outcome in (*report.verdicts, *([report.soak] if report.soak is not None else [])):
        console.print(str(outcome))


def _remarks(found: Sequence[SpeedRow]) -> list[str]:
    """What the numbers need to be understood."""
    lines = []
    if found:
        versions = ", ".join(f"{name} {version}" for name, version in found[0].versions.items())
        lines.append(f"{found[0].cpu}; {versions}")
    if any(row.one_core for row in found):
        lines.append("Single clips: the process is held on one core. Batches: it is not.")
    elif any("batches" in row.loader for row in found):
        lines.append("This system cannot hold a process on one core: peers may use several.")
    few = {row.rounds for row in found if 0 < row.rounds < FEW_ROUNDS}
    if few:
        lines.append(f"{max(few)} rounds are a first look; take at least {FEW_ROUNDS}.")
    return lines


def _soaked(
    files: Sequence[SpeedFile], num_clips: int, config: SpeedConfig, *, quiet: bool
) -> LoadingReport:
    with show_progress("memory", quiet=quiet) as report:
        found = soak(files, num_clips, config, on_progress=report)
    row = SpeedRow(
        files=", ".join(file.name for file in files),
        sampling="dense 8x8",
        loader="memory",
        workers=found.workers,
        clips_per_s=found.clips_per_s,
        clips_a_round=found.num_clips,
        growth_mib=found.growth_mib,
        reason=str(found),
        **stamp(),
    )
    return LoadingReport(rows=[row], soak=found)


def _about(file: SpeedFile) -> str:
    record = file.record
    kind = KINDS.get(file.name)
    made = "what `videokd data prepare` makes of long_gop" if file.name == PREPARED else ""
    seconds = record.num_frames / record.fps
    what = made or (kind.about if kind is not None else f"{seconds:.1f} s")
    return (
        f"{what}; {record.width}x{record.height}, {record.fps:g} fps, "
        f"{file.kbit_per_s:.0f} kbit/s, read by {record.reader}"
    )


def _table(found: Sequence[SpeedRow]) -> Table:
    """Columns that no row has anything for are left out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    cells = [[text(row) for row in found] for _, text in _COLUMNS]
    shown = [position for position, column in enumerate(cells) if any(column)]
    for position in shown:
        is_text = position < _NUM_TEXT_COLUMNS
        table.add_column(_COLUMNS[position][0], justify="left" if is_text else "right")
    for number_of_row in range(len(found)):
        table.add_row(*(Text(cells[position][number_of_row]) for position in shown))
    return table


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    """`16.4 [15.9, 17.0]`; the spaces do not break."""
    if value is None or interval is None:
        return "" if value is None else number(value)
    return f"{number(value)}\u00a0[{number(interval[0])},\u00a0{number(interval[1])}]"


_NUM_TEXT_COLUMNS = 2
_COLUMNS: tuple[tuple[str, Callable[[SpeedRow], str]], ...] = (
    ("sampling", lambda row: row.sampling),
    ("loader", lambda row: row.loader),
    ("workers", lambda row: str(row.workers)),
    (
        "clips/s [25, 75 %]",
        lambda row: _with_interval(row.clips_per_s, row.clips_per_s_interval) or row.status,
    ),
    (
        "x pytorchvideo",
        lambda row: _with_interval(row.ratio_to_pytorchvideo, row.ratio_to_pytorchvideo_interval),
    ),
    (
        "x bare",
        lambda row: _with_interval(row.ratio_to_bare, row.ratio_to_bare_interval),
    ),
    ("x no workers", lambda row: _with_interval(row.ratio_to_no_workers, None)),
    ("% of a step", lambda row: _with_interval(row.part_of_step_pct, None)),
    ("MiB grown", lambda row: _with_interval(row.growth_mib, None)),
)
