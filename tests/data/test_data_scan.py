from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numbered_video import write_numbered

from videokd.data.readers import DecordReader
from videokd.data.scan import inspection, scan, scan_video
from videokd.data.scan.inspection import ScanFailure, Scanned, ScanResult, inspect_video
from videokd.errors import ConfigError, UnreadableVideo, UserError


def faulty_inspect(path: Path) -> Iterator[Scanned]:
    """Dies or hangs as the file name says; runs in worker processes."""
    if path.stem == "crash":
        os.abort()
    if path.stem == "leave":
        os._exit(3)
    if path.stem == "hang":
        time.sleep(600)
    result = ScanResult(path, 7, 25.0, 64, 96, "pyav", os.getpid(), "digest")
    yield result
    if path.stem == "crash_in_decord":
        os.abort()
    if path.stem == "hang_in_decord":
        time.sleep(600)
    yield ScanResult(path, 7, 25.0, 64, 96, "decord", os.getpid(), "digest")


def unstartable_inspect(path: Path) -> Iterator[Scanned]:
    raise AssertionError(path)


def test_a_crash_or_hang_marks_its_file_and_the_scan_goes_on() -> None:
    names = ["a", "crash", "b", "hang", "c", "leave", "crash_in_decord", "hang_in_decord", "d"]
    paths = [Path(f"{name}.mp4") for name in names]
    progress: list[tuple[int, int]] = []
    found = scan(
        paths,
        num_processes=2,
        time_limit_seconds=1.5,
        on_progress=lambda done, total: progress.append((done, total)),
        inspect=faulty_inspect,
    )
    assert [result.path for result in found] == paths
    assert progress == [(i + 1, 9) for i in range(9)]
    by_name = dict(zip(names, found, strict=True))
    failures = {n: r.reason for n, r in by_name.items() if isinstance(r, ScanFailure)}
    assert failures == {
        "crash": "crash: the decoder ended by SIGABRT",
        "hang": "hang: no answer in 1.5 s",
        "leave": "crash: the decoder ended with status 3",
    }
    readers = {n: (r.reader, r.note) for n, r in by_name.items() if isinstance(r, ScanResult)}
    lost = "read by pyav: another reader ended by "
    assert readers == {
        **dict.fromkeys("abcd", ("decord", "")),
        "crash_in_decord": ("pyav", lost + "crash: the decoder ended by SIGABRT"),
        "hang_in_decord": ("pyav", lost + "hang: no answer in 1.5 s"),
    }
    workers = {by_name[name].bytes for name in "abcd"}
    assert os.getpid() not in workers
    for worker in workers:  # none is left behind
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_worker_is_used_for_many_files() -> None:
    found = scan([Path(f"{i}.mp4") for i in range(5)], inspect=faulty_inspect)
    assert len({result.bytes for result in found}) == 1


def test_real_files_in_input_order(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "._fork.mp4").write_bytes(b"\x00\x05\x16\x07" + bytes(200))
    good = write_numbered(tmp_path / "good.mp4", 33, fps=20, quarter_turns=1)
    names = ["text.mp4", "good.mp4", "nowhere.mp4", "empty.mp4", "._fork.mp4"]
    found = scan([tmp_path / name for name in names], num_processes=2)
    assert found[1] == ScanResult(
        path=good,
        num_frames=33,
        fps=20.0,
        height=64,
        width=96,
        reader="pyav",
        bytes=good.stat().st_size,
        digest=hashlib.sha256(good.read_bytes()).hexdigest()[:16],
    )
    reasons = [result.reason for result in found if isinstance(result, ScanFailure)]
    assert reasons == [
        "not a video, or damaged: Invalid data found when processing input",
        "no such file",
        "empty: the file has 0 bytes",
        "not a video: a macOS resource fork (AppleDouble)",
    ]


def test_one_video_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "one.mp4", 12)
    assert scan_video(path).num_frames == 12
    with pytest.raises(UnreadableVideo, match="no such file"):
        scan_video(tmp_path / "none.mp4")


def test_a_worker_that_raises_is_a_crash_of_its_file_only() -> None:
    found = scan([Path("x.mp4"), Path("y.mp4")], inspect=unstartable_inspect)
    assert [result.reason for result in found] == ["crash: the decoder ended with status 1"] * 2


def test_an_error_of_the_caller_ends_the_scan() -> None:
    def refuse(done: int, total: int) -> None:
        raise UserError(f"stopped at {done} of {total}")

    with pytest.raises(UserError, match="stopped at 1 of 2"):
        scan([Path("a.mp4"), Path("b.mp4")], on_progress=refuse, inspect=faulty_inspect)


def test_nothing_to_scan() -> None:
    assert scan([]) == []
    with pytest.raises(ValueError, match="num_processes must be at least 1"):
        scan([Path("a.mp4")], num_processes=0)


def test_a_variable_rate_has_the_mean_of_its_timestamps(tmp_path: Path) -> None:
    # 30 frames at 25 a second, then 30 at half of that: 59 steps in 30 * 1 + 29 * 2 of 1/25 s.
    stamps = [100 * i for i in range(31)] + [3000 + 200 * i for i in range(1, 30)]
    path = write_numbered(tmp_path / "vfr.mkv", 60, stamps=stamps)
    found = list(inspect_video(path))[-1]
    assert isinstance(found, ScanResult)
    assert found.fps == pytest.approx(59 / (88 / 25), rel=0.05)


class ShiftedDecord(DecordReader):
    """A decord that gives the next frame instead."""

    def _read_sorted(self, ids: np.ndarray) -> np.ndarray:
        return super()._read_sorted(np.minimum(ids + 1, self.num_frames - 1))


class LateDecord(DecordReader):
    @property
    def first_seconds(self) -> np.ndarray:
        return super().first_seconds - 0.2


class TintedDecord(DecordReader):
    """The right frames by another colour matrix, at one place only."""

    def _read_sorted(self, ids: np.ndarray) -> np.ndarray:
        frames = super()._read_sorted(ids).copy()
        frames[:, 40:44, 10:14, 0] -= 30
        return frames


@pytest.mark.parametrize(
    ("reader", "why"),
    [
        (ShiftedDecord, "shows another picture as frame 0"),
        (LateDecord, "negative timestamps"),
        (TintedDecord, "shows another picture"),
    ],
)
def test_a_reader_that_is_not_exact_is_not_chosen(
    reader: type, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_numbered(tmp_path / "v.mp4", 30)
    monkeypatch.setattr(inspection, "FASTEST_FIRST", {})
    assert list(inspect_video(path))[-1].reader == "decord"
    monkeypatch.setitem(inspection.READERS, "decord", reader)
    found = list(inspect_video(path))[-1]
    assert found.reader == "pyav"
    assert found.note.startswith("read by pyav: decord shows ")
    assert why in found.note
    only = list(inspect_video(path, readers=("decord",)))
    assert len(only) == 1
    assert only[0].reason.startswith("no reader is exact: decord shows ")


def test_frames_that_hardly_change_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever the tolerance: no neighbour may be nearer than the frame itself.
    path = write_numbered(tmp_path / "v.mp4", 300, size=(256, 512))
    monkeypatch.setattr(inspection, "MAX_MEAN_DIFFERENCE", 100.0)
    monkeypatch.setattr(inspection, "MAX_DIFFERENCE", 255)
    monkeypatch.setitem(inspection.READERS, "decord", ShiftedDecord)
    assert isinstance(list(inspect_video(path, readers=("decord",)))[-1], ScanFailure)


def test_the_fastest_exact_reader_is_chosen(tmp_path: Path) -> None:
    fast = write_numbered(tmp_path / "fast.mp4", 30, max_b_frames=2)
    whole = write_numbered(tmp_path / "whole.avi", 30, codec="mpeg4", max_b_frames=2)
    rare = write_numbered(tmp_path / "rare.webm", 30, codec="libvpx")
    found = [list(inspect_video(path))[-1] for path in (fast, whole, rare)]
    # PyAV jumps in the first; decord is not exact for the second; nobody measured VP8.
    assert [result.reader for result in found] == ["pyav", "pyav", "decord"]
    assert list(inspect_video(fast, readers=("decord",)))[-1].reader == "decord"


def test_readers_to_choose_from_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reader 'decrod' is not known; did you mean 'decord'"):
        scan([tmp_path / "v.mp4"], readers=("decrod",))
    with pytest.raises(ConfigError, match="reader 'frames' is not known; known: decord, pyav, tor"):
        scan([tmp_path / "v.mp4"], readers=("frames",))
    with pytest.raises(ConfigError, match="no readers to choose from"):
        scan([], readers=())
