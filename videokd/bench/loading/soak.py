"""Whether memory grows while clips are loaded: resident memory of this process and its workers."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from videokd.bench.loading.clips import SpeedConfig
from videokd.bench.loading.jobs import SpeedFile
from videokd.bench.loading.sources import SPLIT, repeated_index
from videokd.data.loading import DataConfig, TrainLoader
from videokd.errors import UserError
from videokd.types import Dense

Progress = Callable[[int, int, str], None]

GROWTH_BOUND_MIB = 32.0
"""More than that from the first tenth of the clips, after as many for warming up, to the last is a
leak: over 10,000 clips it is about 4 KiB a clip, and the frames of one take 1 MiB."""

_BATCH_SIZE = 8
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Soak:
    """What a long run of the loader did to memory."""

    num_clips: int
    workers: int
    rss_mib: tuple[float, ...]
    """Resident memory of the process tree after each batch, MiB; pages that processes share count
    in each of them."""

    seconds: float
    """Of the whole run."""

    @property
    def clips_per_s(self) -> float:
        """Starting the workers included."""
        return self.num_clips / self.seconds

    @property
    def growth_mib(self) -> float:
        """Median of the last tenth of the samples less that of the second tenth."""
        tenth = len(self.rss_mib) // 10
        start = statistics.median(self.rss_mib[tenth : 2 * tenth])
        return statistics.median(self.rss_mib[-tenth:]) - start

    @property
    def passes(self) -> bool:
        """Whether the growth lies below `GROWTH_BOUND_MIB`."""
        return self.growth_mib < GROWTH_BOUND_MIB

    def __str__(self) -> str:
        word = "PASS" if self.passes else "MISS"
        return (
            f"{word}: memory over {self.num_clips} clips with {self.workers} workers grew by "
            f"{self.growth_mib:.1f} MiB of {max(self.rss_mib):.0f}, below {GROWTH_BOUND_MIB:g} MiB"
        )


def soak(
    files: Sequence[SpeedFile],
    num_clips: int,
    config: SpeedConfig,
    *,
    on_progress: Progress | None = None,
) -> Soak:
    """Load dense clips of the files in turn, and look at memory after each batch.

    Raises:
        UserError: fewer clips than twenty batches, which show nothing; or a system on which a
            process cannot see its memory.
    """
    num_batches = num_clips // _BATCH_SIZE
    if num_batches < 20:
        raise UserError(f"--soak {num_clips}: memory shows from {20 * _BATCH_SIZE} clips on")
    workers = max(config.workers)
    loader = TrainLoader(
        repeated_index(files, num_batches * _BATCH_SIZE),
        DataConfig(index=Path("bench.csv"), train_split=SPLIT, num_workers=workers),
        student=config.spec(Dense(num_frames=8, stride=8)),
        batch_size=_BATCH_SIZE,
        seed=0,
    )
    samples: list[float] = []
    started = time.perf_counter()
    with closing(loader.batches(0, num_batches)) as batches:  # type: ignore[type-var]
        for batch in batches:
            samples.append(tree_rss_mib())
            del batch
            if on_progress is not None:
                on_progress(len(samples), num_batches, f"{samples[-1]:.0f} MiB")
    return Soak(num_batches * _BATCH_SIZE, workers, tuple(samples), time.perf_counter() - started)


def tree_rss_mib() -> float:
    """Resident memory of this process and of all below it, MiB.

    Raises:
        UserError: not on Linux, where there is no /proc.
    """
    if sys.platform != "linux":
        raise UserError("memory of running processes is read from /proc, which only Linux has")
    mine = {os.getpid()}
    parents = _parents()
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in mine} - mine
        mine |= more
        grown = bool(more)
    return sum(_rss_mib(pid) for pid in mine)


def _parents() -> dict[int, int]:
    """Process -> its parent, of all that are running."""
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            try:
                text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:  # it has just ended
                continue
            # The name, in parentheses, may hold anything; behind it: state, parent, ...
            found[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    return found


def _rss_mib(pid: int) -> float:
    try:
        pages = int((_PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
