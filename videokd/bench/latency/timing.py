"""Single synchronised runs, what is said of many, and when a machine is warm."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from videokd.bench.parts import Interval, Latency

Run = Callable[[torch.Tensor], Any]
Progress = Callable[[int, int, str], None]
"""`on_progress(done, total, note)`."""

STABLE_WINDOW = 5
STABLE_WITHIN = 0.05
"""Warm: the median of the last five runs lies within 5 % of that of the five before."""
MAX_WARMUP_SECONDS = 5.0
"""Beyond `num_warmup` runs. A machine that does not settle is measured all the same, and `spread`
shows it."""
_CONFIDENCE = 0.95


def summarize(times_ms: Sequence[float]) -> Latency:
    """Percentiles (linear between the two nearest runs), mean and relative spread of run times."""
    p25, p50, p75, p95, p99 = (float(p) for p in np.percentile(times_ms, [25, 50, 75, 95, 99]))
    return Latency(
        p50=p50,
        p95=p95,
        p99=p99,
        mean=statistics.fmean(times_ms),
        spread=(p75 - p25) / p50,
        runs=len(times_ms),
        p50_interval=median_interval(times_ms),
    )


def median_interval(times_ms: Sequence[float]) -> Interval | None:
    """The two sorted times between which the true median lies with at least 95 % confidence.

    By the ranks of a sign test, so whatever the times' distribution; it takes them as independent,
    which neighbouring runs are not quite. None below six runs, where no two times suffice.
    """
    ordered, count = sorted(times_ms), len(times_ms)
    tail, rank = 0.0, 0
    while tail + math.comb(count, rank) / 2**count <= (1 - _CONFIDENCE) / 2:
        tail += math.comb(count, rank) / 2**count
        rank += 1
    return (ordered[rank - 1], ordered[count - rank]) if rank else None


def throughput_clips_s(times_ms: Sequence[float], batch: int) -> float:
    """All clips of the timed runs over all the time they took, clips per second."""
    return 1000.0 * batch * len(times_ms) / sum(times_ms)


def is_stable(times_ms: Sequence[float]) -> bool:
    """Whether the last five times have about the median of the five before them."""
    if len(times_ms) < 2 * STABLE_WINDOW:
        return False
    last = statistics.median(times_ms[-STABLE_WINDOW:])
    before = statistics.median(times_ms[-2 * STABLE_WINDOW : -STABLE_WINDOW])
    return abs(last - before) <= STABLE_WITHIN * before


def warm_up(run: Run, clips: Iterator[torch.Tensor], device: torch.device, num_runs: int) -> int:
    """Run untimed, at least `num_runs` times and until the times hold still; how often it was."""
    times_ms: list[float] = []
    deadline = time.monotonic() + MAX_WARMUP_SECONDS
    while len(times_ms) < num_runs or (
        num_runs > 0 and not is_stable(times_ms) and time.monotonic() < deadline
    ):
        times_ms.append(time_once(run, next(clips), device))
    return len(times_ms)


def time_once(run: Run, clips: torch.Tensor, device: torch.device) -> float:
    """ms of one synchronised run: CUDA events on a GPU, `perf_counter` on a CPU."""
    return _time_on_cuda(run, clips) if device.type == "cuda" else _time_on_cpu(run, clips)


def _time_on_cpu(run: Run, clips: torch.Tensor) -> float:
    started = time.perf_counter()
    run(clips)
    return 1000.0 * (time.perf_counter() - started)


def _time_on_cuda(run: Run, clips: torch.Tensor) -> float:
    """The device is idle at the start, so the time holds the launches that a caller waits for."""
    stream = torch.cuda.current_stream(clips.device)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(clips.device)
    start.record(stream)
    run(clips)
    end.record(stream)
    torch.cuda.synchronize(clips.device)
    return float(start.elapsed_time(end))
