"""Ctrl-C and SIGTERM: the step at hand is finished, everything is saved, and the run ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from videokd.errors import UserError


class Interrupted(UserError):
    """Ctrl-C or SIGTERM: the step was finished and all of it is in `last.pt`."""


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question the loop asks after each step.

    A second SIGINT stops at once. Only the main thread may set handlers; elsewhere nothing is set.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.set()

    earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
