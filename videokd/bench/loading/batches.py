"""How the loader scales with worker processes: whole batches of dense clips, steadily taken.

Here the process is not held on one core. What starting the workers takes is not counted: the first
batches go untimed, and more are in the making when the last timed one arrives.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from videokd.bench.loading.clips import Progress, SpeedConfig, Timings, jobs_of_round
from videokd.bench.loading.jobs import SpeedFile
from videokd.bench.loading.peers import OURS, PYTORCHVIDEO, pytorchvideo_batches
from videokd.bench.loading.rows import Cell
from videokd.bench.loading.sources import SPLIT, repeated_index
from videokd.data.loading import DataConfig, TrainLoader
from videokd.types import Dense, InputSpec

SAMPLING = "dense 8x8"
OUR_BATCHES = f"{OURS} batches"
REPEATS = 4
OUR_REPEATS = f"{OUR_BATCHES}, {REPEATS} clips a video"
"""Repeated augmentation: each video is opened once for so many clips."""
PYTORCHVIDEO_BATCHES = f"{PYTORCHVIDEO} batches"

_BATCH_SECONDS = 0.25
"""About what one process needs for a batch."""
_MAX_BATCH = 16
_TIMED = 3
"""Batches that are timed, for each worker."""


@dataclass(frozen=True)
class _Subject:
    """What one cell takes its batches from: number of batches -> the batches."""

    batches: Callable[[int], Iterator[object]]
    batch_size: int


def time_batches(
    files: Sequence[SpeedFile],
    config: SpeedConfig,
    timings: Timings,
    *,
    on_progress: Progress | None = None,
) -> None:
    """Add the cells of whole batches to `timings`, which has the single clips' already."""
    subjects = _subjects(files, config, timings)
    cells, done = list(subjects), 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what takes the batches does not compute
    try:
        for number in range(config.rounds):
            for position in np.random.default_rng(number).permutation(len(cells)).tolist():
                cell = cells[position]
                done += 1
                subject = subjects[cell]
                timings.add(cell, partial(_steady_seconds, subject, cell.workers))
                timings.clips_a_round[cell] = _num_timed(cell.workers) * subject.batch_size
                if on_progress is not None:
                    on_progress(done, config.rounds * len(cells), cell.loader)
    finally:
        torch.set_num_threads(threads)


def _subjects(
    files: Sequence[SpeedFile], config: SpeedConfig, timings: Timings
) -> dict[Cell, _Subject]:
    spec = config.spec(Dense(num_frames=8, stride=8))
    found: dict[Cell, _Subject] = {}
    for file in files:
        size = _batch_size(timings, Cell(file.name, SAMPLING, OURS))
        for workers in config.workers:
            cell = Cell(file.name, SAMPLING, OUR_BATCHES, workers)
            found[cell] = _Subject(_ours(file, spec, size, workers, 1), size)
        cell = Cell(file.name, SAMPLING, OUR_REPEATS, min(config.workers))
        found[cell] = _Subject(_ours(file, spec, REPEATS, cell.workers, REPEATS), REPEATS)
        alone = Cell(file.name, SAMPLING, PYTORCHVIDEO)
        if config.with_peers and alone in timings.seconds:
            size = _batch_size(timings, alone)
            cell = Cell(file.name, SAMPLING, PYTORCHVIDEO_BATCHES, max(config.workers))
            found[cell] = _Subject(_pytorchvideos(file, spec, size, cell.workers), size)
    return found


def _batch_size(timings: Timings, cell: Cell) -> int:
    seconds = statistics.median(timings.seconds[cell])
    return max(1, min(_MAX_BATCH, round(_BATCH_SECONDS / seconds)))


def _ours(
    file: SpeedFile, spec: InputSpec, batch_size: int, workers: int, repeats: int
) -> Callable[[int], Iterator[object]]:
    def batches(count: int) -> Iterator[object]:
        loader = TrainLoader(
            repeated_index([file], count * batch_size),
            DataConfig(
                index=Path("bench.csv"), train_split=SPLIT, num_workers=workers, repeats=repeats
            ),
            student=spec,
            batch_size=batch_size,
            seed=0,
        )
        return loader.batches(0, count)

    return batches


def _pytorchvideos(
    file: SpeedFile, spec: InputSpec, batch_size: int, workers: int
) -> Callable[[int], Iterator[object]]:
    def batches(count: int) -> Iterator[object]:
        jobs = jobs_of_round(file, spec, 0, count * batch_size)
        return pytorchvideo_batches(jobs, batch_size=batch_size, num_workers=workers)

    return batches


def _num_timed(workers: int) -> int:
    return _TIMED * max(1, workers)


def _steady_seconds(subject: _Subject, workers: int) -> float:
    """Seconds a clip."""
    num_warm, num_timed = max(1, workers), _num_timed(workers)
    # Two in the making for each worker when the last timed one arrives.
    with closing(subject.batches(num_warm + num_timed + 2 * workers)) as batches:  # type: ignore[type-var]
        for _ in range(num_warm):
            next(batches)
        started = time.perf_counter()
        for _ in range(num_timed):
            next(batches)
        return (time.perf_counter() - started) / (num_timed * subject.batch_size)
