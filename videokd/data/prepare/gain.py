"""What preparing buys: clips a second from one core, before and after, in alternation.

Nothing here imports torch.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from videokd.data.readers import open_video
from videokd.data.sampling import frame_ids
from videokd.types import Dense, Sampling, Segment, VideoRecord

SAMPLINGS: dict[str, Sampling] = {
    "dense 8x8": Dense(num_frames=8, stride=8),
    "8 segments": Segment(num_segments=8),
}
"""How the measured clips lie."""

NUM_VIDEOS = 8
"""Videos that are measured, evenly spread over the index."""

NUM_ROUNDS = 5
"""Clips of each video, before and after and for each sampling, after one that does not count."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Clips a second from one core: a file is opened, a clip's frames decoded to RGB, no more."""

    sampling: str
    """A key of `SAMPLINGS`."""
    before: float
    """1 / median of the seconds that a clip of the sources took."""
    after: float

    @property
    def ratio(self) -> float:
        """How many times as fast."""
        return self.after / self.before

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sampling": self.sampling,
            "clips_per_second_before": self.before,
            "clips_per_second_after": self.after,
            "ratio": self.ratio,
        }


def measure_gain(
    pairs: Sequence[tuple[VideoRecord, VideoRecord]],
    *,
    num_videos: int = NUM_VIDEOS,
    num_rounds: int = NUM_ROUNDS,
) -> tuple[Gain, ...]:
    """Measure in a process of its own, on one core where the system lets it choose.

    Args:
        pairs: (source, prepared) of each video; some of them are measured.
        num_videos: how many of them, at most.
        num_rounds: clips of each.

    Returns:
        One for each of `SAMPLINGS`; none where the process was lost to a decoder.
    """
    chosen = sorted({i * len(pairs) // num_videos for i in range(min(num_videos, len(pairs)))})
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_leave_interrupts) as pool:
        try:
            seconds = pool.submit(clip_seconds, [pairs[i] for i in chosen], num_rounds).result()
        except BrokenProcessPool:
            return ()
    return tuple(
        Gain(name, *(1 / statistics.median(times) for times in before_and_after))
        for name, before_and_after in seconds.items()
    )


def clip_seconds(
    pairs: Sequence[tuple[VideoRecord, VideoRecord]], num_rounds: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Sampling -> seconds of each clip (before, after); both read the same frames in turn."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    generator = np.random.default_rng(0)
    seconds: dict[str, tuple[list[float], list[float]]] = {n: ([], []) for n in SAMPLINGS}
    for round_id in range(num_rounds + 1):
        for pair in pairs:
            for name, sampling in SAMPLINGS.items():
                ids = frame_ids(
                    sampling,
                    num_frames=pair[0].num_frames,
                    fps=pair[0].fps,
                    start="random",
                    generator=generator,
                )[0]
                for record, times in zip(pair, seconds[name], strict=True):
                    took = _read(record, ids)
                    if round_id > 0:  # the first fills the file system's cache
                        times.append(took)
    return seconds


def _leave_interrupts() -> None:
    """The parent hears Ctrl-C; two tracebacks say no more than one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read(record: VideoRecord, ids: np.ndarray) -> float:
    start = time.perf_counter()
    with open_video(record.path, record.reader, num_frames=record.num_frames) as video:
        video.read(ids)
    return time.perf_counter() - start
