"""The loading benchmark's numbers as rows, goals, and tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import videokd
from videokd.bench.environment import cpu_name
from videokd.bench.loading.bare_loops import BARE_LOOPS, bare_name, cut_name
from videokd.bench.loading.batches import OUR_BATCHES, OUR_REPEATS, PYTORCHVIDEO_BATCHES
from videokd.bench.loading.clips import SAMPLINGS, Timings
from videokd.bench.loading.jobs import SpeedFile
from videokd.bench.loading.peers import OURS, PYTORCHVIDEO, loaders
from videokd.bench.loading.rows import Cell, Goal, SpeedRow, Spread, speed, speed_ratio
from videokd.bench.loading.sources import LONG_GOP, PREPARED

FEW_ROUNDS = 7
"""With fewer rounds the medians are a look, not a measurement, and the text says so."""

_TO_PYTORCHVIDEO = {LONG_GOP: 1.9, "avi": 5.0}
_PART_OF_BARE = 0.9
_PART_OF_FASTEST = 0.9
_PREPARED_GAIN = {"dense 8x8": 4.0, "segment 8": 8.0}
_BATCHES = (OUR_BATCHES, OUR_REPEATS, PYTORCHVIDEO_BATCHES)
_PACKAGES = (
    *("av", "decord", "decord2", "eva-decord", "numpy", "pytorchvideo", "torch", "torchcodec"),
    "torchvision",
)


def goals(files: Sequence[SpeedFile], timings: Timings) -> list[Goal]:
    """What our loader is to reach on these files, as ratios within a run."""
    names = [file.name for file in files]
    found: list[Goal] = []
    for sampling in SAMPLINGS:
        for name, at_least in _TO_PYTORCHVIDEO.items():
            ours, theirs = Cell(name, sampling, OURS), Cell(name, sampling, PYTORCHVIDEO)
            if theirs in timings.seconds or theirs in timings.notes:
                text = f"{name}, {sampling}: {OURS} to {PYTORCHVIDEO}"
                found.append(Goal(text, at_least, ours, theirs))
    for file in files:
        for sampling in SAMPLINGS:
            found += _reader_goals(file, sampling, timings)
    if PREPARED in names and LONG_GOP in names:
        for sampling, at_least in _PREPARED_GAIN.items():
            after, before = Cell(PREPARED, sampling, OURS), Cell(LONG_GOP, sampling, OURS)
            text = f"{sampling}: {PREPARED} to {LONG_GOP}"
            found.append(Goal(text, at_least, after, before))
    return found


def _reader_goals(file: SpeedFile, sampling: str, timings: Timings) -> list[Goal]:
    """Little is lost around the reader, and the reader is about the fastest that shows the same."""
    bare = Cell(file.name, sampling, bare_name(file.record.reader))
    ours = bare._replace(loader=OURS)
    text = f"{file.name}, {sampling}: {OURS} to {bare.loader}, which neither cuts nor scales"
    found = [Goal(text, _PART_OF_BARE, ours, bare)]
    cut = bare._replace(loader=cut_name(file.record.reader))
    if cut in timings.seconds:
        text = f"{file.name}, {sampling}: {OURS} to {bare.loader}, cut and scaled too"
        found.append(Goal(text, _PART_OF_BARE, ours, cut))
    others = [bare._replace(loader=bare_name(reader)) for reader in BARE_LOOPS]
    exact = [cell for cell in others if cell in timings.seconds and cell not in timings.notes]
    if exact:
        fastest = max(exact, key=lambda cell: speed(timings.seconds[cell]).median)
        text = f"{file.name}, {sampling}: {bare.loader}, as the scan chose, to {fastest.loader}"
        found.append(Goal(text, _PART_OF_FASTEST, bare, fastest))
    return found


def rows(files: Sequence[SpeedFile], timings: Timings) -> list[SpeedRow]:
    """One row a cell, skipped ones included: by file, single clips first, by sampling."""
    by_name = {file.name: file for file in files}
    files_in_order = list(by_name)
    names = [*(loader.name for loader in loaders(with_peers=True)), *_BATCHES]

    def place(cell: Cell) -> tuple[int, bool, str, int, int]:
        rank = names.index(cell.loader) if cell.loader in names else len(names)
        where = files_in_order.index(cell.files)
        return where, cell.loader in _BATCHES, cell.sampling, rank, cell.workers

    found, stamped = sorted({*timings.notes, *timings.seconds}, key=place), stamp()
    return [_row(cell, by_name[cell.files], timings, stamped) for cell in found]


def stamp() -> dict[str, Any]:
    """`cpu` and `versions` of everything that takes part; packages that are absent are left out."""
    versions = {"videokd": videokd.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"cpu": f"{cpu_name()}, {os.cpu_count()} cores", "versions": versions}


def _row(cell: Cell, file: SpeedFile, timings: Timings, stamp: Mapping[str, Any]) -> SpeedRow:
    common: dict[str, Any] = {
        "files": cell.files,
        "sampling": cell.sampling,
        "loader": cell.loader,
        "workers": cell.workers,
        "reader": file.record.reader,
        "reason": timings.notes.get(cell, ""),
        "kbit_per_s": round(file.kbit_per_s, 1),
        **stamp,
    }
    seconds = timings.seconds.get(cell)
    if seconds is None:
        return SpeedRow(clips_per_s=None, status="skipped", **common)
    found = speed(seconds)
    ratios = {key: _ratio(cell, other, timings) for key, other in _others(cell, file).items()}
    return SpeedRow(
        clips_per_s=found.median,
        clips_per_s_interval=(found.low, found.high),
        rounds=len(seconds),
        clips_a_round=timings.clips_a_round[cell],
        one_core=timings.one_core and cell.loader not in _BATCHES,
        **_ratio_fields(ratios),
        **common,
    )


def _others(cell: Cell, file: SpeedFile) -> dict[str, Cell]:
    """What a cell is compared with, by the name of the field."""
    if cell.loader in _BATCHES:
        found = {"ratio_to_pytorchvideo": cell._replace(loader=PYTORCHVIDEO_BATCHES)}
        base = OUR_BATCHES if cell.loader == OUR_REPEATS else cell.loader
        return found | {"ratio_to_no_workers": cell._replace(loader=base, workers=0)}
    return {
        "ratio_to_pytorchvideo": cell._replace(loader=PYTORCHVIDEO),
        "ratio_to_bare": cell._replace(loader=bare_name(file.record.reader)),
    }


def _ratio(cell: Cell, other: Cell, timings: Timings) -> Spread | None:
    if other not in timings.seconds:
        return None
    return speed_ratio(timings.seconds[cell], timings.seconds[other])


def _ratio_fields(ratios: Mapping[str, Spread | None]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, ratio in ratios.items():
        if ratio is None:
            continue
        fields[name] = ratio.median
        if name != "ratio_to_no_workers":
            fields[f"{name}_interval"] = (ratio.low, ratio.high)
    return fields
