"""Many video files, each inspected in a process of its own, so that a bad one costs only itself.

A worker process takes one path at a time and reports twice: after decoding the file with PyAV from
its first frame to its last, and after comparing readers with that. A worker that crashes or hangs
is replaced; the file that it was at is marked, and the scan goes on.

Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from videokd.data.scan.inspection import (
    ScanFailure,
    Scanned,
    ScanResult,
    check_readers,
    inspect_video,
)
from videokd.errors import UnreadableVideo, UserError

__all__ = ["ScanFailure", "ScanResult", "Scanned", "inspect_video", "scan", "scan_video"]

Inspect = Callable[[Path], Iterator[Scanned]]


def scan_video(
    path: Path | str,
    *,
    time_limit_seconds: float = 120.0,
    frames_fps: float | None = None,
    keep_damaged: bool = False,
    readers: Sequence[str] | None = None,
) -> ScanResult:
    """Scan one video in a process of its own; see `scan`.

    Raises:
        UnreadableVideo: it does not decode, is damaged, or decoding it crashes or hangs.
    """
    found = scan(
        [Path(path)],
        time_limit_seconds=time_limit_seconds,
        frames_fps=frames_fps,
        keep_damaged=keep_damaged,
        readers=readers,
    )[0]
    if isinstance(found, ScanFailure):
        raise UnreadableVideo(found.path, found.reason)
    return found


def scan(
    paths: Sequence[Path],
    *,
    num_processes: int = 1,
    time_limit_seconds: float = 120.0,
    on_progress: Callable[[int, int], None] | None = None,
    inspect: Inspect | None = None,
    on_found: Callable[[Scanned], None] | None = None,
    frames_fps: float | None = None,
    keep_damaged: bool = False,
    readers: Sequence[str] | None = None,
) -> list[Scanned]:
    """Scan videos in `num_processes` processes; the results are in the order of `paths`.

    Args:
        paths: files, and folders of numbered frames.
        num_processes: processes that decode, one file each at a time.
        time_limit_seconds: how long a worker may be silent on one file. A file that takes longer
            fails as a hang; if it decoded, and only the reader compared with that hangs, PyAV
            becomes the file's reader.
        on_progress: called with (files done, files in all), from one thread at a time.
        inspect: what a worker does with a file; by default `inspect_video`. It yields what is known
            so far, and the last one counts. It must be importable by name.
        on_found: called with each file's result as it comes, from one thread at a time; what it
            raises ends the scan.
        frames_fps: frame rate of the folders of frames, which have none of their own.
        keep_damaged: keep a damaged file as the intact frames at its start, with a note; without,
            whatever FFmpeg can see as corrupt fails.
        readers: in the order of preference; see `inspect_video`.

    Processes are spawned: a script that calls this needs the usual `if __name__ == "__main__":`.

    Raises:
        ConfigError: `readers` is empty or names one that there is not.
        UserError: torchcodec is to be chosen from and is not installed; or the worker processes do
            not start.
    """
    if num_processes < 1 or not time_limit_seconds > 0:
        raise ValueError(
            "num_processes must be at least 1 and time_limit_seconds above 0, not "
            f"{num_processes} and {time_limit_seconds}"
        )
    if readers is not None:
        check_readers(readers)
    inspect = inspect or partial(
        inspect_video, frames_fps=frames_fps, keep_damaged=keep_damaged, readers=readers
    )
    job = _Job(list(paths), inspect, time_limit_seconds, on_progress, on_found)
    count = min(num_processes, len(job.paths))
    threads = [threading.Thread(target=job.drive_worker, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        job.stop.set()  # on Ctrl-C: the threads end their workers
        for thread in threads:
            thread.join()
    if job.errors:
        raise job.errors[0]
    return [found for found in job.found if found is not None]


class _Job:
    """The files of one scan, shared by the threads that each drive one worker process."""

    def __init__(
        self,
        paths: list[Path],
        inspect: Inspect,
        time_limit_seconds: float,
        on_progress: Callable[[int, int], None] | None,
        on_found: Callable[[Scanned], None] | None,
    ) -> None:
        self.paths = paths
        self.found: list[Scanned | None] = [None] * len(paths)
        self.errors: list[BaseException] = []
        self.stop = threading.Event()
        self._inspect = inspect
        self._time_limit_seconds = time_limit_seconds
        self._on_progress = on_progress
        self._on_found = on_found
        self._todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for position in range(len(paths)):
            self._todo.put(position)
        self._num_done = 0
        self._lock = threading.Lock()

    def drive_worker(self) -> None:
        """Feed one worker until no file is left; replace it when it crashes or hangs."""
        worker: _Worker | None = None
        try:
            while not self.stop.is_set():
                try:
                    position = self._todo.get_nowait()
                except queue.Empty:
                    break
                worker = worker or _Worker(self._inspect)
                found, usable = worker.inspect(
                    self.paths[position], self._time_limit_seconds, self.stop
                )
                self.found[position] = found
                if not usable:
                    worker.kill()
                    worker = None
                self._report(found)
        except BaseException as error:
            self.errors.append(error)
            self.stop.set()
        finally:
            if worker is not None:
                worker.kill()

    def _report(self, found: Scanned) -> None:
        with self._lock:
            self._num_done += 1
            if self._on_found is not None and not self.stop.is_set():
                self._on_found(found)
            if self._on_progress is not None and not self.stop.is_set():
                self._on_progress(self._num_done, len(self.paths))


class _Worker:
    """A process that inspects files, one after another."""

    START_SECONDS = 120.0

    def __init__(self, inspect: Inspect) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, inspect), daemon=True)
        self._process.start()
        theirs.close()
        ready = False
        with contextlib.suppress(EOFError, OSError):
            ready = self._connection.poll(self.START_SECONDS) and self._connection.recv() == "ready"
        if not ready:
            self.kill()
            raise UserError(
                "the process that scans videos did not start; a script that scans needs "
                '`if __name__ == "__main__":` around its work'
            )

    def inspect(
        self, path: Path, time_limit_seconds: float, stop: threading.Event
    ) -> tuple[Scanned, bool]:
        """What was found, and whether the worker can go on."""
        latest: Scanned | None = None
        try:
            self._connection.send(path)
            while True:
                if not self._wait(time_limit_seconds, stop):
                    return _ended(
                        path, latest, f"hang: no answer in {time_limit_seconds:g} s"
                    ), False
                message = self._connection.recv()
                if message is None:
                    return latest or ScanFailure(path, "the scan found nothing"), True
                latest = message
        except (EOFError, OSError):
            self._process.join(5)
            return _ended(path, latest, f"crash: {self._how_it_ended()}"), False

    def _wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait for a message in short turns, so that Ctrl-C is heard."""
        waited = 0.0
        while waited < seconds and not stop.is_set():
            turn = min(0.2, seconds - waited)
            if self._connection.poll(turn):
                return True
            waited += turn
        return False

    def _how_it_ended(self) -> str:
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"the decoder ended by {signal.Signals(-code).name}"
        return f"the decoder ended with status {code}"

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join(5)
        self._connection.close()


def _ended(path: Path, latest: Scanned | None, reason: str) -> Scanned:
    """A worker that was lost after PyAV had decoded the whole file was lost to another reader."""
    if isinstance(latest, ScanResult):
        notes = [latest.note] if latest.note else []
        return replace(
            latest, note="; ".join([*notes, f"read by pyav: another reader ended by {reason}"])
        )
    return ScanFailure(path, reason)


def _work(connection: Connection[Any, Any], inspect: Inspect) -> None:
    """The worker's life: a path in, reports out, None when done with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends us
    _silence_native_output()
    connection.send("ready")
    while True:
        try:
            path = connection.recv()
        except (EOFError, OSError):
            return
        for report in inspect(path):
            connection.send(report)
        connection.send(None)


def _silence_native_output() -> None:
    """Libraries print to file descriptors 1 and 2 directly; what matters is in the reports."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
