"""Batches from worker processes that are watched: a hang or a crash costs a video, not the run.

Workers write frames into memory that is shared with this process, and each writes down which video
it is decoding. Keys go out in order, two ahead for each worker, and batches are handed out in that
order. When a worker is lost, because a decode took too long and was cut off or because a native
decoder ended the process, all workers are ended and begun anew at the first batch that was not
handed out. Batches are functions of their keys, so this shows in nothing but time.

torch is imported inside functions.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from videokd.errors import UserError
from videokd.types import ClipBatch

_SLOTS = 2
"""Batches that a worker makes ahead: one waits while the next is made."""
_ALIGN = 64
_GIVE_BACK_EVERY = 32
"""Batches after which a worker gives free memory back, which takes milliseconds."""
_NOTHING = -1
_FAULTS = {"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"}
"""Signals by which a process ends itself. Others come from outside, not from a file."""
_END_SECONDS = 5.0
"""How long a killed process is waited for: one that is stuck in the kernel does not end at once."""


class Place:
    """Where a batch is made: in this process, or in a worker that is watched."""

    def empty(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Memory for the frames of a batch."""
        return np.empty(shape, dtype=np.uint8)

    @contextmanager
    def decoding(self, video_id: int) -> Iterator[None]:  # noqa: ARG002
        """What happens inside is charged to that video."""
        yield


class BatchSource(Protocol):
    """Key -> batch, a pure function of the key and of `quarantine`."""

    @property
    def quarantine(self) -> Mapping[int, str]:
        """Videos that are not to be opened (again), and why. It may grow."""
        ...

    @property
    def num_bytes(self) -> int:
        """What the frames of the largest batch take."""
        ...

    def load(self, key: int, place: Place) -> ClipBatch:
        """Make a batch; decoding is done inside `place.decoding`.

        Raises:
            UnreadableVideo: there is none, for that reason.
        """
        ...

    def lose(self, video_id: int, reason: str) -> None:
        """A worker was lost to this video: put it into `quarantine`, or raise."""
        ...


def supervised(
    source: BatchSource, keys: range, *, num_workers: int, time_limit_seconds: float
) -> Iterator[ClipBatch]:
    """Batches in the order of `keys`; dropping the iterator ends its processes.

    With `num_workers` 0 they are made in this process, where nothing can be cut off. Where there is
    a GPU the batches lie in pinned memory.

    Args:
        source: what makes batches; workers get it as it is when they begin.
        keys: one a batch.
        num_workers: processes.
        time_limit_seconds: how long a worker may be at one video while others wait for it.

    Raises:
        UserError: what `source` raises; or a worker was ended from outside (out of memory?) twice
            at the same batch.
    """
    import torch

    is_pinned = torch.cuda.is_available()
    if num_workers == 0:
        for key in keys:
            batch = source.load(key, Place())
            yield batch.pin_memory() if is_pinned else batch
        return
    num_done = 0
    killed: tuple[int, set[int]] = (-1, set())
    while num_done < len(keys):
        crew = _Crew(source, keys[num_done:], num_workers, time_limit_seconds, is_pinned)
        try:
            for batch in crew.batches():
                num_done += 1
                yield batch
        except _LostError as error:
            if num_done >= killed[0] + _SLOTS * num_workers:
                killed = (-1, set())  # whatever was being made then was made since
            killed = _settle(source, error.losses, num_done, killed)
        finally:
            crew.end()


@dataclass(frozen=True)
class _Loss:
    """One worker that was lost."""

    video_id: int
    """What it was decoding, or `_NOTHING`."""
    reason: str
    is_fault: bool
    """It hung or ended itself; otherwise somebody ended it."""


class _LostError(Exception):
    def __init__(self, losses: list[_Loss]) -> None:
        super().__init__()
        self.losses = losses


def _settle(
    source: BatchSource, losses: list[_Loss], num_done: int, killed: tuple[int, set[int]]
) -> tuple[int, set[int]]:
    """Charge losses to their videos or to nobody; when and at what workers were killed last.

    Who is killed from outside may have been the largest of the machine by chance, so it is tried
    again. If that ends in the same way at the same file, it is the file's doing; if not at a file
    but at the same batch, there is nothing to be mended here.
    """
    faults = [loss for loss in losses if loss.is_fault and loss.video_id != _NOTHING]
    if not faults:
        faults = [loss for loss in losses if loss.video_id in killed[1]]
    if not faults and killed[0] == num_done:
        raise UserError(
            f"processes that decode videos died twice at the same batch ({losses[0].reason}); give "
            "them more memory or take fewer; if a file crashes the decoder, indexing again finds it"
        )
    for loss in faults:
        source.lose(loss.video_id, loss.reason)
    return killed if faults else (num_done, {loss.video_id for loss in losses} - {_NOTHING})


class _Crew:
    """Worker processes, the memory shared with them, and what each is at."""

    def __init__(
        self,
        source: BatchSource,
        keys: range,
        num_workers: int,
        time_limit_seconds: float,
        is_pinned: bool,
    ) -> None:
        num_workers = min(num_workers, len(keys))
        self._source = source
        self._num_quarantined = len(source.quarantine)
        self._keys = iter(keys)
        self._is_pinned = is_pinned
        num_bytes = source.num_bytes + 8 * _ALIGN  # a rendering starts on a boundary
        self._memory = [[_shared(num_bytes) for _ in range(_SLOTS)] for _ in range(num_workers)]
        table = _shared(num_workers * 2 * 8).view(np.int64).reshape(num_workers, 2)
        table[:, 0] = _NOTHING
        self._watch = _Watch(table, time_limit_seconds)
        self._workers: list[_Worker] = []
        for number in range(num_workers):
            desk = _Desk(table[number], self._memory[number])
            self._workers.append(_Worker(source, desk, self._workers))

    def batches(self) -> Iterator[ClipBatch]:
        """Batches in order, until the end or until there is news of videos not to be opened."""
        pending: deque[int] = deque()
        for slot in range(_SLOTS):
            for number in range(len(self._workers)):
                self._assign(number, slot, pending)
        while pending and len(self._source.quarantine) == self._num_quarantined:
            number = pending.popleft()
            slot, content = self._receive(number)
            if isinstance(content, UserError):
                raise content
            if isinstance(content, str):
                raise RuntimeError(f"in a process that decodes videos:\n{content}")
            batch = _unpacked(content, self._memory[number][slot], is_pinned=self._is_pinned)
            self._assign(number, slot, pending)
            yield batch

    def _assign(self, number: int, slot: int, pending: deque[int]) -> None:
        key = next(self._keys, None)
        if key is not None:
            pending.append(number)
            with contextlib.suppress(OSError):  # it has ended: seen when its batch is due
                self._workers[number].connection.send((key, slot))

    def _receive(self, number: int) -> tuple[int, Any]:
        """The next message of a worker; meanwhile all are watched."""
        worker = self._workers[number]
        sentinels = [other.process.sentinel for other in self._workers]
        while True:
            began = time.monotonic()
            ready = wait([worker.connection, *sentinels], timeout=self._watch.tick_seconds)
            late = self._watch.overdue(time.monotonic() - began)
            if worker.connection in ready:
                try:
                    message: tuple[int, Any] = worker.connection.recv()
                except (EOFError, OSError):
                    worker.process.join(_END_SECONDS)
                else:
                    return message
            losses = [self._watch.hang(n) for n in late] or [
                self._watch.crash(n, w.process.exitcode)
                for n, w in enumerate(self._workers)
                if w.process.exitcode is not None
            ]
            if losses:
                raise _LostError(losses)

    def end(self) -> None:
        """End all processes, whatever they are doing."""
        for worker in self._workers:
            worker.process.kill()
        deadline = time.monotonic() + _END_SECONDS
        for worker in self._workers:
            worker.leave(deadline)
        self._workers = []


class _Watch:
    """How long each worker has been at the video that it is decoding.

    Only time in which this process waits for a batch counts, in small portions: a run that was
    stopped for an hour (Ctrl-Z, a suspended job) does not find its workers overdue.
    """

    def __init__(self, table: NDArray[np.int64], time_limit_seconds: float) -> None:
        self._table = table
        self._limit = time_limit_seconds
        self._counts = [0] * len(table)
        self._seconds = [0.0] * len(table)
        self.tick_seconds = min(1.0, time_limit_seconds / 10)

    def overdue(self, elapsed_seconds: float) -> list[int]:
        """Add what was waited; the workers that took too long."""
        for number, (video_id, count) in enumerate(self._table.tolist()):
            if video_id == _NOTHING or count != self._counts[number]:
                self._counts[number] = count
                self._seconds[number] = 0.0
            else:
                self._seconds[number] += min(elapsed_seconds, 2 * self.tick_seconds)
        return [n for n, seconds in enumerate(self._seconds) if seconds > self._limit]

    def hang(self, number: int) -> _Loss:
        """The loss of a worker that is overdue."""
        reason = f"hang: it was not decoded in {self._limit:g} s"
        return _Loss(int(self._table[number, 0]), reason, is_fault=True)

    def crash(self, number: int, exitcode: int) -> _Loss:
        """The loss of a worker that has ended."""
        name = signal.Signals(-exitcode).name if exitcode < 0 else ""
        how = f"by {name}" if name else f"with status {exitcode}"
        is_fault = not name or name in _FAULTS
        return _Loss(int(self._table[number, 0]), f"crash: the decoder ended {how}", is_fault)


class _Worker:
    """A process that makes batches, and the pipe to it."""

    def __init__(self, source: BatchSource, desk: _Desk, others: Sequence[_Worker]) -> None:
        # Forked: it has the index, the memory and whatever reader was registered as they are here.
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        not_its_own = [self.connection, *(other.connection for other in others)]
        arguments = (source, desk, theirs, not_its_own, os.getpid())
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def leave(self, deadline: float) -> None:
        """Let go of a process that was killed."""
        self.connection.close()
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.exitcode is not None:
            self.process.close()
        else:
            # Stuck in the kernel. It ends when that lets go of it; our own end does not wait.
            multiprocessing.process._children.discard(self.process)  # type: ignore[attr-defined]


class _Desk(Place):
    """A worker's place: frames go into shared memory, and what it decodes is written down."""

    def __init__(self, row: NDArray[np.int64], memory: list[NDArray[np.uint8]]) -> None:
        self._row = row
        self._memory = memory
        self._slot = 0
        self._used = 0

    def take(self, slot: int) -> NDArray[np.uint8]:
        """Start a batch in this slot's memory."""
        self._slot, self._used = slot, 0
        return self._memory[slot]

    def empty(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        start, size = self._used, math.prod(shape)
        self._used += -(-size // _ALIGN) * _ALIGN
        return self._memory[self._slot][start : start + size].reshape(shape)

    @contextmanager
    def decoding(self, video_id: int) -> Iterator[None]:
        self._row[0] = video_id
        self._row[1] += 1
        try:
            yield
        finally:
            self._row[0] = _NOTHING


def _shared(num_bytes: int) -> NDArray[np.uint8]:
    """Memory that forked processes share; it has no name, and goes with the last of them."""
    return np.frombuffer(mmap.mmap(-1, num_bytes), dtype=np.uint8)


def _work(
    source: BatchSource,
    desk: _Desk,
    connection: Connection[Any, Any],
    not_its_own: Sequence[Connection[Any, Any]],
    parent_pid: int,
) -> None:
    """The worker's life: (key, slot) in, (slot, batch or error) out."""
    import torch

    _end_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the parent's handler
    for other in not_its_own:
        other.close()
    torch.set_num_threads(1)  # workers are the parallelism
    give_back = _returned_memory()
    for number in itertools.count(1):
        try:
            key, slot = connection.recv()
            connection.send((slot, _made(source, desk, key, slot)))
        except (EOFError, OSError):
            return
        if number % _GIVE_BACK_EVERY == 0:
            give_back()


def _end_with(parent_pid: int) -> None:
    """End when the process that started us ends, also where it is killed."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before that
        os._exit(0)


def _returned_memory() -> Callable[[], object]:
    """Keep glibc from holding on to memory that this process let go of, over thousands of videos.

    By itself it soon takes even 20 MiB from its heap; whatever small thing then lies in the gap
    that they leave keeps the next clip out of it, and a worker grows by half. So large blocks go
    back to the system as soon as they are free; the function that is returned gives back the
    small gaps, which add up to some KiB a clip. Other C libraries have neither: nothing is done.
    """
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
            mmap_threshold, one_mib = -3, 1 << 20
            libc.mallopt(mmap_threshold, one_mib)
            return partial(libc.malloc_trim, 0)
    return lambda: None


def _made(source: BatchSource, desk: _Desk, key: int, slot: int) -> Any:
    memory = desk.take(slot)
    try:
        return _packed(source.load(key, desk), memory)
    except UserError as error:
        return error
    except Exception:
        return traceback.format_exc()


def _packed(batch: ClipBatch, memory: NDArray[np.uint8]) -> dict[str, Any]:
    """A batch as plain arrays, but where its frames lie in `memory` instead of the frames."""
    start = memory.ctypes.data
    content = {entry.name: _plain(getattr(batch, entry.name)) for entry in fields(batch)}
    content["frames"] = {
        name: (clip.data_ptr() - start, tuple(clip.shape)) for name, clip in batch.frames.items()
    }
    return content


def _plain(value: Any) -> Any:
    """Tensors as arrays: a tensor would open a file of its own on its way."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.numpy()
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _unpacked(content: dict[str, Any], memory: NDArray[np.uint8], *, is_pinned: bool) -> ClipBatch:
    """The batch, in memory of its own."""
    import torch

    def tensor(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value)
        return {k: tensor(v) for k, v in value.items()} if isinstance(value, dict) else value

    frames = {
        name: torch.from_numpy(memory[start : start + math.prod(shape)].reshape(shape))
        for name, (start, shape) in content.pop("frames").items()
    }
    parts = {name: tensor(value) for name, value in content.items()}
    if is_pinned:
        return ClipBatch(frames=frames, **parts).pin_memory()
    return ClipBatch(frames={name: clip.clone() for name, clip in frames.items()}, **parts)
