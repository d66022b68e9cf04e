"""Runs, one after another or side by side, until all are done or the time is over.

What is finished is never done again, what was interrupted goes on, and no run is started that, by
what earlier ones took, would not end in time. One that does not all the same is stopped, and goes
on in the next call.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from videokd.engine.interruption import Interrupted
from videokd.errors import UserError
from videokd.experiments.ablation.ladder import Row
from videokd.experiments.ablation.plan import Job, Plan
from videokd.experiments.ablation.records import Key, Record, Results
from videokd.experiments.ablation.tuning import finished
from videokd.experiments.ablation.work import (
    is_made,
    product_of,
    read_outcome,
    run_job,
)
from videokd.files import lock_or_refuse

if TYPE_CHECKING:
    from videokd.recipe import Device

_POLL_SECONDS = 0.2


class Process(Protocol):
    """A run that was started."""

    def outcome(self) -> str | None:
        """None while it runs, "" when it ended well, otherwise what it said last."""

    def stop(self) -> None:
        """End it soon; it saves what it has."""


Launch = Callable[[Job], Process]


@dataclass
class Outcome:
    """What a stage came to."""

    num_done: int = 0
    """Runs finished in this call."""
    num_left: int = 0
    """Runs that did not fit any more, or whose settings are not chosen yet."""
    failed: dict[Key, str] = field(default_factory=dict)
    """What kept a run from being done, and all that read it."""
    out_of_time: bool = False


class Clock:
    """How much of the time that was given is left."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def fits(self, seconds: float | None) -> bool:
        """Whether so much is left; a duration that nobody knows fits while any time is left."""
        return self._end is None or time.monotonic() + (seconds or 0.0) < self._end

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return not self.fits(0.0)


def missing(plan: Plan, results: Results, keys: Sequence[Key]) -> list[Key]:
    """What is to be done for these runs, in an order in which each finds what it reads.

    A run that is read must also have ended here: results travel with the project, folders do not.
    """
    wanted: list[Key] = []
    open_keys = [key for key in keys if finished(plan, results, key) is None]
    for key in plan.with_needs(open_keys):
        record = finished(plan, results, key)
        is_read = key not in open_keys
        if record is None or (is_read and not is_made(plan.job(key))):
            wanted.append(key)
    return wanted


def expected_seconds(plan: Plan, results: Results, key: Key) -> float | None:
    """By the epochs of earlier runs: of the same row, else the slowest of rows alike.

    Students are alike; what they start from, learn from and read is alike within its kind: an epoch
    of a teacher's many videos says nothing of a cache.
    """
    study = plan.study(key.study)
    same: list[float] = []
    alike: list[float] = []
    for other, record in results.records.items():
        if other.study != key.study or not record.epochs or other.row not in study.rows:
            continue
        rate = record.wall_seconds / record.epochs
        if other.row == key.row:
            same.append(rate)
        elif _alike(study.rows[other.row], study.rows[key.row]):
            alike.append(rate)
    epochs = plan.job(key).epochs
    if same:
        return epochs * sorted(same)[len(same) // 2]
    return epochs * max(alike) if alike else None


def _alike(one: Row, other: Row) -> bool:
    are_students = not one.is_prerequisite and not other.is_prerequisite
    return are_students or one.kind == other.kind


@dataclass
class Runner:
    """Does runs; `launch` says how one is started."""

    results: Results
    launch: Launch
    jobs: int = 1
    clock: Clock = field(default_factory=lambda: Clock(None))
    say: Callable[[str], None] = print

    def do(self, plan: Plan, keys: Sequence[Key]) -> Outcome:
        """Do what is missing of these runs and of those that they read."""
        todo = missing(plan, self.results, keys)
        total = len(todo)
        outcome = Outcome()
        running: dict[Key, Process] = {}
        self._adopt(plan, todo, outcome)
        with _children_stopped(running):
            while todo or running:
                self._start_ready(plan, todo, running, outcome)
                if not running:
                    break
                ended = self._ended(running, outcome)
                if running and self.clock.is_over:
                    todo += self._stopped(running, outcome)
                for key in ended:
                    found = read_outcome(plan.job(key))
                    if found is None:
                        outcome.failed[key] = "ended without a result"
                        continue
                    self.results.add(*found)
                    outcome.num_done += 1
                    self.say(f"[{outcome.num_done}/{total}] {key}: {_in_short(found[0])}")
        outcome.num_left = len(todo)
        return outcome

    def _adopt(self, plan: Plan, todo: list[Key], outcome: Outcome) -> None:
        """Runs that ended when nobody was there to write them down."""
        for key in list(todo):
            found = read_outcome(plan.job(key))
            if found is not None and product_of(plan.job(key)).is_file():
                self.results.add(*found)
                outcome.num_done += 1
                todo.remove(key)

    def _start_ready(
        self, plan: Plan, todo: list[Key], running: dict[Key, Process], outcome: Outcome
    ) -> None:
        for key in list(todo):
            if len(running) >= self.jobs:
                return
            job = plan.job(key)
            broken = next((one for one in job.needs if one in outcome.failed), None)
            if broken is not None:
                outcome.failed[key] = f"reads {broken}, which failed"
                todo.remove(key)
                continue
            # Both stages train what others read into one folder.
            busy = {plan.job(one).run_dir for one in running}
            waits = any(one in todo or one in running for one in job.needs)
            if waits or job.run_dir in busy:
                continue
            if not self.clock.fits(expected_seconds(plan, self.results, key)):
                outcome.out_of_time = True
                continue
            todo.remove(key)
            try:
                running[key] = self.launch(job)
            except Interrupted:
                raise
            except UserError as error:
                outcome.failed[key] = str(error)
                self.say(f"{key}: failed: {error}")

    def _stopped(self, running: dict[Key, Process], outcome: Outcome) -> list[Key]:
        """The runs whose time is over; each saves what it has."""
        outcome.out_of_time = True
        for one in running.values():
            one.stop()
        stopped = list(running)
        running.clear()
        return stopped

    def _ended(self, running: dict[Key, Process], outcome: Outcome) -> list[Key]:
        """The runs that ended well, as soon as any ended or the time is over."""
        while True:
            ended = {
                key: text for key, one in running.items() if (text := one.outcome()) is not None
            }
            if ended or self.clock.is_over:
                break
            time.sleep(_POLL_SECONDS)
        for key, text in ended.items():
            del running[key]
            if text:
                outcome.failed[key] = text
                self.say(f"{key}: failed: {text}")
        return [key for key, text in ended.items() if not text]


def _in_short(record: Record) -> str:
    if record.failed is not None:
        return f"no result: {record.failed}"
    scores = [f"{split} {one.top1_pct:.2f} %" for split, one in record.scores.items()]
    return f"{', '.join(scores) or 'made'} in {record.wall_seconds:.0f} s"


class _Here:
    """A run that is done at once, in this process."""

    def __init__(self, job: Job, device: Device) -> None:
        run_job(job, device=device, quiet=True)

    def outcome(self) -> str | None:
        return ""

    def stop(self) -> None:
        pass


def in_this_process(device: Device) -> Launch:
    """Runs are done one after another where they are asked for."""
    return lambda job: _Here(job, device)


@contextmanager
def _children_stopped(running: dict[Key, Process]) -> Iterator[None]:
    """However this ends, Ctrl-C and SIGTERM too, no run is left behind; each saves what it has."""
    is_main = threading.current_thread() is threading.main_thread()
    earlier = signal.signal(signal.SIGTERM, _interrupt) if is_main else None
    try:
        yield
    finally:
        for one in running.values():
            one.stop()
        if is_main:
            signal.signal(signal.SIGTERM, earlier)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the results' folder, so that two commands do not write over each other's lines.

    Raises:
        UserError: another one holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        lock_or_refuse(
            file, f"{folder}: another `videokd reproduce ablation` writes here; wait for it"
        )
        yield
