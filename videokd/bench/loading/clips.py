"""How fast clips are loaded, from a file to uint8 frames: ours, other data sets, bare decoders.

In each round every loader loads the same clips of every file, in an order that changes by round,
in one process that is held on one core. Files are in the page cache: they were read before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from pydantic import Field, field_validator

from videokd.bench.loading.jobs import Frames, Job, Loader, SpeedFile
from videokd.bench.loading.peers import OURS, loaders
from videokd.bench.loading.rows import Cell
from videokd.bench.loading.sources import LONG_GOP, PREPARED
from videokd.config import Config
from videokd.data.augment import RandomResizedCrop, draw_crop, render
from videokd.data.loading.clips import STUDENT
from videokd.data.sampling import frame_ids
from videokd.errors import first_line
from videokd.types import Dense, Draw, InputSpec, Sampling, Segment

Progress = Callable[[int, int, str], None]
"""`on_progress(done, total, note)`."""

SAMPLINGS: dict[str, Sampling] = {
    "dense 8x8": Dense(num_frames=8, stride=8),
    "segment 8": Segment(num_segments=8),
}
SAME_WITHIN = 3.0
"""Mean difference of 8-bit values up to which two loaders show the same frames: decoding libraries
differ by 1 or 2 where they turn YUV into RGB."""

_ROUND_SECONDS = 3.0
"""What all loaders together may take for one file and sampling in one round."""
_MAX_CLIPS = 16
_TRIAL = 1_000_000
"""The round of the clips that are tried before, untimed."""


class SpeedConfig(Config):
    """What the loading benchmark measures."""

    with_peers: bool = False
    """Measure other projects' data sets beside ours."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Numbers of worker processes with which whole batches are timed."""
    rounds: int = Field(default=7, ge=1)
    """Rounds; medians are taken over them."""
    crop_px: int = Field(default=224, ge=8)
    """S: clips are cut at random (area 0.5 to 1) and scaled to this size."""
    num_clips: int | None = Field(default=None, ge=1)
    """Clips of each file and sampling in a round; null: as many as take all loaders together about
    three seconds, at most 16."""

    @field_validator("workers")
    @classmethod
    def _counts(cls, workers: tuple[int, ...]) -> tuple[int, ...]:
        if not workers or min(workers) < 0 or len(set(workers)) < len(workers):
            raise ValueError(f"workers are different numbers of at least 0, not {workers}")
        return workers

    def spec(self, sampling: Sampling) -> InputSpec:
        """What the network behind the loader would want to see."""
        short_side_px = round(self.crop_px * 256 / 224)
        return InputSpec(sampling=sampling, short_side_px=short_side_px, crop_px=self.crop_px)


@dataclass
class Timings:
    """What was measured, and what was not and why."""

    seconds: dict[Cell, list[float]] = field(default_factory=dict)
    """Seconds a clip, one number a round."""
    clips_a_round: dict[Cell, int] = field(default_factory=dict)
    notes: dict[Cell, str] = field(default_factory=dict)
    """Why a cell has no number, or what is to be known about it."""
    failed: set[Cell] = field(default_factory=set)
    """Cells without a number."""
    one_core: bool = False

    def add(self, cell: Cell, measure: Callable[[], float]) -> None:
        """One more round of a cell.

        A peer that fails is not measured any more, and its reason is kept; our own fault is raised.
        """
        if cell in self.failed:
            return
        try:
            self.seconds.setdefault(cell, []).append(measure())
        except Exception as error:  # whatever it raises is the reason why it has no number
            if cell.loader.startswith(OURS):
                raise
            self.fail(cell, error)

    def fail(self, cell: Cell, error: BaseException) -> None:
        """This cell has no number, and why."""
        self.failed.add(cell)
        self.seconds.pop(cell, None)
        self.notes[cell] = f"{type(error).__name__}: {first_line(error)[:200]}"


def try_loaders(
    files: Sequence[SpeedFile], config: SpeedConfig, *, on_progress: Progress | None = None
) -> Timings:
    """Load one clip of each with every loader: who can, whether it is the same clip, how long."""
    timings = Timings()
    choices = loaders(with_peers=config.with_peers)
    with one_core() as timings.one_core:
        for done, file in enumerate(files):
            for name, sampling in SAMPLINGS.items():
                spec = config.spec(sampling)
                _try_out(file, name, spec, choices, config.num_clips, timings)
            if on_progress is not None:
                on_progress(done + 1, len(files), file.name)
    _same_clips_after_preparing(timings)
    return timings


def time_clips(
    files: Sequence[SpeedFile],
    config: SpeedConfig,
    timings: Timings,
    *,
    on_progress: Progress | None = None,
) -> None:
    """Time who could, clip by clip, in rounds, and add that to the `timings` of `try_loaders`."""
    choices = {loader.name: loader for loader in loaders(with_peers=config.with_peers)}
    by_name = {file.name: file for file in files}
    cells = list(timings.clips_a_round)
    with one_core():
        for number in range(config.rounds):
            order = np.random.default_rng(number).permutation(len(cells)).tolist()
            for done, cell in enumerate(cells[position] for position in order):
                spec, count = config.spec(SAMPLINGS[cell.sampling]), timings.clips_a_round[cell]
                jobs = jobs_of_round(by_name[cell.files], spec, number, count)
                timings.add(cell, partial(seconds_a_clip, choices[cell.loader], jobs))
                if on_progress is not None:
                    total = config.rounds * len(cells)
                    on_progress(number * len(cells) + done + 1, total, cell.loader)


@contextmanager
def one_core() -> Iterator[bool]:
    """Hold this process and torch to one core; yields whether the system can.

    Libraries that start as many threads as there are cores then share that one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    try:
        if allowed is not None:
            os.sched_setaffinity(0, {max(allowed)})
        yield allowed is not None
    finally:
        if allowed is not None:
            os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)


def jobs_of_round(file: SpeedFile, spec: InputSpec, number: int, count: int) -> list[Job]:
    """The clips of a round: every loader gets the same, whichever it is."""
    record, found = file.record, []
    for i in range(count):
        generator = np.random.default_rng([number, i])
        ids = frame_ids(
            spec.sampling,
            num_frames=record.num_frames,
            fps=record.fps,
            start="random",
            generator=generator,
        )
        crop = draw_crop(
            RandomResizedCrop(),
            height=record.height,
            width=record.width,
            short_side_px=spec.short_side_px,
            crop_px=spec.crop_px,
            generator=generator,
        )
        found.append(Job(file, Draw(0, (), {STUDENT: ids}, (crop,)), spec))
    return found


def seconds_a_clip(loader: Loader, jobs: Sequence[Job]) -> float:
    """Load clips and let go of them.

    Raises:
        RuntimeError: the loader left clips out, as some do where one does not decode.
    """
    count = 0
    started = time.perf_counter()
    for _clip in loader.clips(jobs):
        count += 1
    seconds = time.perf_counter() - started
    if count != len(jobs):
        raise RuntimeError(f"it gave {count} of {len(jobs)} clips")
    return seconds / count


def _try_out(
    file: SpeedFile,
    sampling: str,
    spec: InputSpec,
    choices: Iterable[Loader],
    num_clips: int | None,
    timings: Timings,
) -> None:
    """One file in one sampling; also how many of its clips fit into a round."""
    jobs = jobs_of_round(file, spec, _TRIAL, 1)
    total, able = 0.0, []
    wanted: Frames | None = None
    for loader in choices:
        cell = Cell(file.name, sampling, loader.name)
        try:
            clip = as_ours(next(iter(loader.clips(jobs))), jobs[0], is_bare=loader.is_bare)
            total += seconds_a_clip(loader, jobs)
        except Exception as error:  # whatever a peer raises is the reason why it has no number
            if loader.name == OURS:
                raise
            timings.fail(cell, error)
            continue
        wanted = clip if wanted is None else wanted
        if fault := other_frames(clip, wanted):
            timings.notes[cell] = fault
        able.append(cell)
    count = num_clips or max(1, min(_MAX_CLIPS, int(_ROUND_SECONDS / total)))
    timings.clips_a_round |= dict.fromkeys(able, count)


def _same_clips_after_preparing(timings: Timings) -> None:
    """The prepared file is compared with its source: it gets as many clips, so the same ones."""
    for cell in timings.clips_a_round:
        source = Cell(LONG_GOP, cell.sampling, OURS)
        if cell.files == PREPARED and source in timings.clips_a_round:
            timings.clips_a_round[cell] = timings.clips_a_round[source]


def as_ours(clip: Frames, job: Job, *, is_bare: bool) -> Frames:
    """A loader's clip as uint8 [T, S, S, 3]: whole frames are cut and scaled."""
    return render(clip, job.crop, crop_px=job.spec.crop_px) if is_bare else clip


def other_frames(clip: Frames, wanted: Frames) -> str:
    """Why a clip is not the one that is wanted; empty where it is."""
    if clip.shape != wanted.shape or clip.dtype != np.uint8:
        return f"it gives {clip.dtype} {list(clip.shape)}, not uint8 {list(wanted.shape)}"
    difference = float(np.abs(clip.astype(np.int16) - wanted).mean())
    if difference > SAME_WITHIN:
        return f"it shows other frames than {OURS}: they differ by {difference:.1f} of 255"
    return ""
