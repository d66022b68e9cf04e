"""Workers that hang, crash or are killed: what it costs, and that nothing else changes."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from tiny_loaders import STUDENT, config, same, same_clips, train_loader

from videokd.data.index import Index
from videokd.data.loading import DataConfig, EvalLoader, clips, supervised
from videokd.data.readers import READERS
from videokd.data.sampling.protocols import own_views
from videokd.errors import UnreadableVideo, UserError
from videokd.types import ClipBatch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

BAD = 6
"""A training video; its reader is replaced."""


def sleep() -> None:
    time.sleep(1000)


def search_for_ever() -> None:
    """In C, and no other thread of the process runs meanwhile."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def abort() -> None:
    faulthandler.disable()  # it would write of this to the terminal
    os.abort()


def stop_with_status() -> None:
    os._exit(3)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise UnreadableVideo("bad.mp4", "it is refused at once")


def fail() -> None:
    raise ZeroDivisionError("a mistake of ours")


@pytest.fixture
def broken(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], None]], Index]:
    """The index with a reader for `BAD` that does something else; each opening leaves a byte."""

    def with_fault(fault: Callable[[], None]) -> Index:
        def open_badly(*_args: object, **_options: object) -> None:
            with (tmp_path / "opened").open("ab") as file:
                file.write(b".")
            fault()

        monkeypatch.setitem(READERS, "bad", open_badly)
        bad = replace(index.records[BAD], reader="bad")
        return replace(index, records=(*index.records[:BAD], bad, *index.records[BAD + 1 :]))

    return with_fault


def num_opened(folder: Path) -> int:
    path = folder / "opened"
    return len(path.read_bytes()) if path.exists() else 0


def settings(num_workers: int, **others: object) -> DataConfig:
    return config(num_workers=num_workers, **others)


def impatient(num_workers: int) -> DataConfig:
    """Long enough for a video of a few frames on a busy machine."""
    return settings(num_workers, decode_time_limit_seconds=1.5)


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (sleep, "hang: it was not decoded in 1.5 s"),
        (search_for_ever, "hang: it was not decoded in 1.5 s"),
        (abort, "crash: the decoder ended by SIGABRT"),
        (stop_with_status, "crash: the decoder ended with status 3"),
        (kill, "crash: the decoder ended by SIGKILL"),
    ],
)
def test_a_lost_worker_costs_one_video(
    broken, index: Index, tmp_path: Path, fault, reason: str, num_workers: int
) -> None:
    """Three epochs: what is left is, bit for bit, what a reader leaves that refuses the file."""
    refused = list(train_loader(broken(refuse)).batches(0, 9))
    (tmp_path / "opened").unlink()
    survived = list(train_loader(broken(fault), impatient(num_workers)).batches(0, 9))
    assert all(same_clips(a, b) for a, b in zip(survived, refused, strict=True))
    noted = [note for batch in survived for note in batch.unreadable]
    assert noted == [(BAD, f"{index.records[BAD].path}: {reason}")] * 3
    if num_workers == 1:
        # Killed from outside by chance, a worker deserves another try at the same file.
        assert num_opened(tmp_path) == (2 if fault is kill else 1)


@pytest.mark.parametrize("fault", [sleep, abort])
def test_evaluation_stops_and_names_the_file(broken, index: Index, fault) -> None:
    loader = EvalLoader(
        broken(fault), impatient(2), spec=STUDENT, split="train", views=own_views(), batch_size=2
    )
    with pytest.raises(UnreadableVideo, match=r"p1_clip 6\.mp4: cannot be .*(hang|crash): \S+"):
        list(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_quarantined_video_is_not_opened(
    broken, index: Index, tmp_path: Path, num_workers: int
) -> None:
    loader = train_loader(broken(abort), settings(num_workers))
    loader.quarantine({BAD: "p1_clip 6.mp4: it crashed before"})
    batches = list(loader.batches(0, 9))
    noted = [note for batch in batches for note in batch.unreadable]
    assert noted == [(BAD, "p1_clip 6.mp4: it crashed before")] * 3
    assert num_opened(tmp_path) == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_news_of_another_process_are_heeded_at_the_next_batch(
    index: Index, num_workers: int
) -> None:
    """Also by workers that have made batches ahead."""
    known, told = (train_loader(index, settings(num_workers)) for _ in range(2))
    known.quarantine({BAD: "bad"})
    batches = told.batches(0, 9)
    before = [next(batches) for _ in range(3)]
    assert not any(batch.unreadable for batch in before)
    told.quarantine({BAD: "bad"})
    after = list(batches)
    assert all(same(a, b) for a, b in zip(after, known.batches(3, 9), strict=True))
    assert [note for batch in after for note in batch.unreadable] == [(BAD, "bad")] * 2


def test_a_batch_of_which_nothing_is_left_stops(broken, index: Index) -> None:
    loader = train_loader(broken(abort), settings(1), batch_size=1)
    with pytest.raises(UnreadableVideo, match=r"^\S+/p1_clip 6\.mp4: cannot .* by SIGABRT$"):
        list(loader.batches(0, 6))


def test_workers_that_are_killed_are_replaced(index: Index) -> None:
    alone = list(train_loader(index, settings(0)).batches(0, 24))
    before = children()
    batches = train_loader(index, settings(2)).batches(0, 24)
    survived = []
    for step in range(24):
        if step in (1, 12):
            for process in children() - before:
                process.kill()
        survived.append(next(batches))
    assert next(batches, None) is None
    assert all(same(a, b) for a, b in zip(survived, alone, strict=True))


def test_who_is_killed_by_chance_at_a_file_that_was_read_since_is_not_the_files_doing(
    broken, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first epoch and in the fourth: a memory that is short now and then is nobody's."""
    alone = list(train_loader(index, settings(0)).batches(0, 18))
    mended = broken(lambda: None)
    open_badly, open_well = READERS["bad"], READERS[index.records[BAD].reader]

    def open_it(*arguments, **options):
        open_badly(*arguments, **options)
        if num_opened(tmp_path) in (1, 5):
            kill()
        return open_well(*arguments, **options)

    monkeypatch.setitem(READERS, "bad", open_it)
    survived = list(train_loader(mended, settings(1)).batches(0, 18))
    assert num_opened(tmp_path) == 8
    assert all(same(a, b) for a, b in zip(survived, alone, strict=True))


def test_workers_that_are_killed_twice_at_a_batch_are_a_plain_error(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while they decode: no file is to blame."""
    here = os.getpid()
    finish = clips.Rows.batch

    def batch(*arguments: object) -> ClipBatch:
        if os.getpid() != here:
            kill()
        return finish(*arguments)

    monkeypatch.setattr(clips.Rows, "batch", batch)
    with pytest.raises(UserError, match=r"died twice at the same batch \(.*SIGKILL\); "):
        list(train_loader(index, settings(2)).batches(0, 9))


def test_a_mistake_in_a_worker_is_told_with_its_place(broken) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in a process that .* in fail.*a mistake of ours"):
        list(train_loader(broken(fail), settings(2)).batches(0, 9))


def test_a_run_that_was_stopped_for_an_hour_finds_nobody_late() -> None:
    table = np.array([[5, 1], [supervised._NOTHING, 0]])
    watch = supervised._Watch(table, 60)
    assert watch.overdue(0.1) == watch.overdue(3600) == []
    for _ in range(29):
        assert watch.overdue(3600) == []
    table[0] = (7, 2)  # the next video
    assert watch.overdue(3600) == []
    late = [watch.overdue(1.0) for _ in range(61)]
    assert late == [[]] * 60 + [[0]]
    assert watch.hang(0).video_id == 7


def test_dropping_the_iterator_ends_its_workers(index: Index) -> None:
    before = children()
    batches = train_loader(index, settings(2)).batches(0, 1000)
    next(batches)
    assert len(children() - before) == 2
    del batches
    gc.collect()
    assert not children() - before


def test_many_losses_leave_nothing_behind(broken, index: Index) -> None:
    faulty, us = broken(abort), psutil.Process()

    def lose_workers() -> tuple[int, int]:
        assert len(list(train_loader(faulty, settings(2)).batches(0, 4))) == 4
        gc.collect()
        zeros = [m for m in us.memory_maps(grouped=False) if m.path.startswith("/dev/zero")]
        return us.num_fds(), len(zeros)

    before, known = children(), lose_workers()
    assert [lose_workers() for _ in range(4)] == [known] * 4
    assert children() == before
    assert not [p for p in us.children() if p.status() == psutil.STATUS_ZOMBIE]


def test_a_process_that_cannot_be_killed_is_not_waited_for(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is stuck in the kernel: neither now nor when Python ends."""
    before, real_kill = children(), multiprocessing.process.BaseProcess.kill
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "kill", lambda _: None)
    monkeypatch.setattr(supervised, "_END_SECONDS", 0.2)
    monkeypatch.setattr(supervised, "_work", lambda *_: sleep())
    began = time.monotonic()
    batches = train_loader(index, settings(2)).batches(0, 9)
    monkeypatch.setattr(supervised._Crew, "batches", lambda _: iter([None]))
    next(batches)
    batches.close()
    assert time.monotonic() - began < 2
    assert not [p for p in multiprocessing.active_children() if "ForkProcess" in p.name]
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "kill", real_kill)
    for process in children() - before:
        process.kill()
        process.wait()


def use_half(index: Index, ready: Connection, end: str, errors: Path) -> None:
    """The life of a process that trains: it is ended by a signal, or leaves in the middle."""
    os.setsid()
    torch.set_num_threads(1)  # threads that the tests before started are not there after a fork
    sys.stderr = errors.open("w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    batches = train_loader(index, settings(2)).batches(0, 10**6)
    next(batches)
    ready.send(sorted(process.pid for process in children()))
    if end != "leaves":
        list(batches)


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGINT", "leaves"])
def test_workers_end_with_their_parent(index: Index, tmp_path: Path, end: str) -> None:
    """However it ends; it does not hang when it ends by itself with an iterator half used."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    parent = context.Process(target=use_half, args=(index, theirs, end, tmp_path / "errors"))
    parent.start()
    assert ours.poll(30)
    workers = [psutil.Process(pid) for pid in ours.recv()]
    assert len(workers) == 2
    if end == "SIGINT":
        os.killpg(parent.pid, signal.SIGINT)  # to all of them, as a terminal does
    elif end != "leaves":
        os.kill(parent.pid, getattr(signal, end))
    parent.join(30)
    errors = (tmp_path / "errors").read_text()
    if end == "SIGINT":
        assert parent.exitcode == 1
        assert errors.strip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") == 1  # the workers say nothing
    else:
        assert parent.exitcode == (0 if end == "leaves" else -getattr(signal, end))
        assert errors == ""
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def children() -> set[psutil.Process]:
    """Child processes but Python's resource tracker, which starts when it likes and stays."""

    def is_ours(process: psutil.Process) -> bool:
        try:
            return "resource_tracker" not in " ".join(process.cmdline())
        except psutil.Error:  # it ended meanwhile
            return False

    return set(filter(is_ours, psutil.Process().children()))


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    before = children()
    yield
    if children() - before:
        gc.collect()
    assert not children() - before


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_memory_does_not_grow_over_ten_thousand_clips(index: Index, reader: str) -> None:
    """Resident memory of this process and two workers, from the second tenth to the last."""
    records = tuple(replace(record, reader=reader) for record in index.records)
    loader = train_loader(replace(index, records=records), settings(2, repeats=10), batch_size=20)
    us, sizes = psutil.Process(), []
    for step, batch in enumerate(loader.batches(0, 500)):
        assert batch.num_videos == 20
        if step % 5 == 4:
            sizes.append(sum(p.memory_info().rss for p in (us, *us.children())) / 2**20)
    tenth = len(sizes) // 10
    growth_mib = np.median(sizes[-tenth:]) - np.median(sizes[tenth : 2 * tenth])
    assert growth_mib < 8, [round(size) for size in sizes]
