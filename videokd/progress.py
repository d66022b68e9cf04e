"""Progress of long work on stderr: a bar with an ETA on a terminal, elsewhere a line at times."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int, str], None]
"""`report(done, total, note)`."""

_SECONDS_BETWEEN_LINES = 15.0


def _silent(_done: int, _total: int, _note: str = "") -> None:
    pass


def say(text: str) -> None:
    """A line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def hush(_text: str) -> None:
    """In `say`'s place where nothing is to be said."""


def speaks_for_all() -> bool:
    """Whether this process prints; under torchrun only the first does."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def show_progress(what: str, *, quiet: bool = False) -> Iterator[Report]:
    """Yield a function to call as `report(done, total, note)`; how often does not matter."""
    if quiet or not speaks_for_all():
        yield _silent
    elif sys.stderr.isatty():
        yield from _bar(what)
    else:
        yield from _lines(what)


def _bar(what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield report


def _lines(what: str) -> Iterator[Report]:
    started = last = time.monotonic()
    first_done: int | None = None

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last, first_done
        now = time.monotonic()
        first_done = done if first_done is None else first_done
        if done < total and now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        elapsed = now - started
        line = f"{what}: {done}/{total}, {duration(elapsed)}"
        if first_done < done < total:
            # Work done before this call (a resumed run) says nothing about the speed of this one.
            line += f", {duration(elapsed / (done - first_done) * (total - done))} left"
        say(line + (f", {note}" if note else ""))

    yield report


def duration(seconds: float) -> str:
    """`75.2` -> `1:15`; hours in front where there are any."""
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{whole_seconds:02d}"
    return f"{minutes}:{whole_seconds:02d}"
