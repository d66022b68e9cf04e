"""The loading benchmark: its arithmetic, that loaders show the same frames, what it reports."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videokd.bench.loading import batches as batch_module
from videokd.bench.loading import clips as speed_module
from videokd.bench.loading import peers as peers_module
from videokd.bench.loading.augmentation import KINDS as AUGMENTATIONS
from videokd.bench.loading.augmentation import STEP, augment_speed
from videokd.bench.loading.batches import (
    OUR_BATCHES,
    OUR_REPEATS,
    PYTORCHVIDEO_BATCHES,
    time_batches,
)
from videokd.bench.loading.clips import (
    SAMPLINGS,
    SpeedConfig,
    Timings,
    as_ours,
    jobs_of_round,
    one_core,
    other_frames,
    seconds_a_clip,
    time_clips,
    try_loaders,
)
from videokd.bench.loading.files import KINDS, FileKind, cache_folder, made_files, moving_planes
from videokd.bench.loading.jobs import Job, Loader, SpeedFile, read_speed_file
from videokd.bench.loading.peers import OURS, PYTORCHVIDEO, loaders, pytorchvideo_batches
from videokd.bench.loading.report import goals, rows
from videokd.bench.loading.rows import (
    Cell,
    Goal,
    SpeedRow,
    Verdict,
    judged,
    speed,
    speed_ratio,
    spread,
)
from videokd.bench.loading.soak import GROWTH_BOUND_MIB, Soak, soak, tree_rss_mib
from videokd.bench.loading.sources import PREPARED, own_files, user_files
from videokd.cli import main
from videokd.errors import ConfigError, UserError
from videokd.types import VideoRecord

NUM_FRAMES = 75
HEIGHT, WIDTH = 64, 96
DARKEST, STEP_OF_GREY = 15, 3


def write_greys(path: Path, codec: str, gop: int, **options: str) -> Path:
    """Frame i is flat grey, three levels brighter than the one before."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        for i in range(NUM_FRAMES):
            pixels = np.full((HEIGHT, WIDTH, 3), DARKEST + STEP_OF_GREY * i, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers_shown(clip: np.ndarray) -> list[int]:
    """Which frames a clip [T,H,W,3] consists of."""
    greys = clip.reshape(len(clip), -1).mean(axis=1)
    return np.rint((greys - DARKEST) / STEP_OF_GREY).astype(int).tolist()


def speed_file(name: str, path: Path, reader: str) -> SpeedFile:
    record = VideoRecord(
        path=path,
        labels=(0,),
        num_frames=NUM_FRAMES,
        fps=25.0,
        height=HEIGHT,
        width=WIDTH,
        reader=reader,
        bytes=path.stat().st_size,
    )
    return read_speed_file(name, record)


@pytest.fixture(scope="module")
def grey_files(tmp_path_factory: pytest.TempPathFactory) -> list[SpeedFile]:
    """One H.264 GOP with B-frames, and an MPEG-4 AVI with a key frame in twelve."""
    folder = tmp_path_factory.mktemp("greys")
    long_gop = write_greys(folder / "a.mp4", "libx264", NUM_FRAMES, crf="1")
    # Without its own ideas of where a scene begins.
    avi = write_greys(folder / "b.avi", "mpeg4", 12, qmin="1", qmax="1", sc_threshold="1000000000")
    return [speed_file("long_gop", long_gop, "pyav"), speed_file("avi", avi, "decord")]


@pytest.fixture
def tiny() -> SpeedConfig:
    return SpeedConfig(with_peers=True, workers=(0, 1), rounds=2, crop_px=32, num_clips=1)


def timed_clips(files: Sequence[SpeedFile], config: SpeedConfig) -> Timings:
    timings = try_loaders(files, config)
    time_clips(files, config, timings)
    return timings


# --- arithmetic ---------------------------------------------------------------------------------


def test_median_and_quartiles_of_known_rounds():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 2.0, 4.0)
    assert spread([1.0, 2.0]) == (1.5, 1.25, 1.75)


def test_speed_is_the_median_of_speeds_and_no_speed_of_a_mean():
    assert speed([0.1, 0.1, 10.0]).median == 10.0
    assert speed([0.5, 0.25]) == (3.0, 2.5, 3.5)


def test_ratios_are_formed_within_a_round():
    # The machine was ten times slower in the second round; in each we were twice as fast.
    ours, theirs = [0.1, 1.0, 0.2], [0.2, 2.0, 0.4]
    assert speed_ratio(ours, theirs) == (2.0, 2.0, 2.0)
    # The ratio of the two medians would be 1 here.
    assert speed_ratio([1.0, 2.0, 4.0], [2.0, 8.0, 1.0]).median == 2.0


def test_different_numbers_of_rounds_are_refused():
    with pytest.raises(ValueError, match="zip"):
        speed_ratio([1.0, 2.0], [1.0])


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)), min_size=1, max_size=9))
def test_one_against_the_other_is_the_inverse(pairs):
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = speed_ratio(ours, theirs), speed_ratio(theirs, ours)
    if len(pairs) % 2:
        assert there.median == pytest.approx(1 / back.median)
    assert there.low <= there.median <= there.high


@pytest.mark.parametrize(
    ("theirs", "word"),
    [([0.2, 0.2, 0.2], "PASS"), ([0.19, 0.19, 0.19], "PASS"), ([0.1, 0.18, 0.5], "MISS")],
)
def test_a_goal_is_judged_by_the_median_ratio(theirs, word):
    ours, other = Cell("f", "s", "ours"), Cell("f", "s", "theirs")
    goal = Goal("ours to theirs", 1.9, ours, other)
    (verdict,) = judged([goal], {ours: [0.1, 0.1, 0.1], other: theirs})
    assert verdict.word == word
    assert str(verdict).startswith(f"{word}: ours to theirs: ")


def test_a_goal_without_its_numbers_is_neither_passed_nor_missed():
    goal = Goal("ours to theirs", 1.9, Cell("f", "s", "ours"), Cell("f", "s", "theirs"))
    (verdict,) = judged([goal], {goal.above: [0.1]})
    assert verdict == Verdict(goal, None)
    assert str(verdict) == "not measured: ours to theirs, at least 1.9x"


def test_growth_is_between_the_second_tenth_and_the_last():
    warming_up = [10.0, 500.0]
    flat = [100.0] * 2 + [300.0] * 14 + [130.0] * 2
    found = Soak(20, 0, (*warming_up, *flat), seconds=4.0)
    assert (found.growth_mib, found.passes, found.clips_per_s) == (30.0, True, 5.0)
    leaking = replace(found, rss_mib=(*warming_up, *flat[:-2], 100.0 + GROWTH_BOUND_MIB, 200.0))
    assert leaking.growth_mib > GROWTH_BOUND_MIB
    assert str(leaking).startswith("MISS: memory over 20 clips")


# --- the loaders --------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", list(SAMPLINGS))
@pytest.mark.parametrize("position", [0, 1], ids=["h264", "mpeg4"])
def test_all_loaders_show_exactly_the_frames_asked_for(grey_files, tiny, sampling, position):
    jobs = jobs_of_round(grey_files[position], tiny.spec(SAMPLINGS[sampling]), 3, 3)
    measured = []
    for loader in loaders(with_peers=True):
        try:
            clips = list(loader.clips(jobs))
        except (ImportError, RuntimeError, OSError):
            assert "torchcodec" in loader.name or loader.name == "torchvision"
            continue
        assert len(clips) == len(jobs)
        for clip, job in zip(clips, jobs, strict=True):
            height, width = (HEIGHT, WIDTH) if loader.is_bare else (32, 32)
            assert (clip.dtype, clip.shape) == (np.uint8, (8, height, width, 3))
            assert numbers_shown(clip) == job.frame_ids.tolist(), loader.name
            assert as_ours(clip, job, is_bare=loader.is_bare).shape == (8, 32, 32, 3)
        measured.append(loader.name)
    assert {OURS, PYTORCHVIDEO, "pytorchvideo (decord)", "bare decord", "bare pyav"} <= set(
        measured
    )


def test_pytorchvideo_leaves_decord_as_it_was(grey_files, tiny):
    jobs = jobs_of_round(grey_files[1], tiny.spec(SAMPLINGS["dense 8x8"]), 0, 1)
    by_name = {loader.name: loader for loader in loaders(with_peers=True)}
    list(by_name["pytorchvideo (decord)"].clips(jobs))
    (clip,) = by_name[OURS].clips(jobs)  # decord is its reader here
    assert numbers_shown(clip) == jobs[0].frame_ids.tolist()


def test_peers_are_asked_for_by_name():
    names = [loader.name for loader in loaders(with_peers=False)]
    bare = ["bare decord", "bare pyav", "bare torchcodec"]
    assert names == [OURS, *bare, *(f"{name}, cut" for name in bare)]


def test_pytorchvideo_batches_hold_the_same_clips(grey_files, tiny):
    jobs = jobs_of_round(grey_files[1], tiny.spec(SAMPLINGS["dense 8x8"]), 1, 4)
    batches = list(pytorchvideo_batches(jobs, batch_size=2, num_workers=0))
    assert [tuple(batch.shape) for batch in batches] == [(2, 8, 32, 32, 3)] * 2
    shown = [numbers_shown(clip.numpy()) for batch in batches for clip in batch]
    assert shown == [job.frame_ids.tolist() for job in jobs]


def test_pytorchvideo_is_not_asked_for_more_than_there_is(grey_files, tiny, monkeypatch):
    monkeypatch.setattr(peers_module, "free_bytes", lambda: 2**20)
    jobs = jobs_of_round(grey_files[1], tiny.spec(SAMPLINGS["segment 8"]), 0, 1)
    by_name = {loader.name: loader for loader in loaders(with_peers=True)}
    with pytest.raises(MemoryError, match=r"a clip needs about 0\.0 GiB, and 0\.0 GiB are free"):
        list(by_name[PYTORCHVIDEO].clips(jobs))


def test_a_clip_is_told_from_its_neighbour():
    clip = np.full((8, 4, 4, 3), 100, dtype=np.uint8)
    assert other_frames(clip, clip) == ""
    assert other_frames(clip + np.uint8(2), clip) == ""
    assert "they differ by 4.0 of 255" in other_frames(clip + np.uint8(4), clip)
    assert "float32 [8, 4, 4, 3], not uint8" in other_frames(clip.astype(np.float32), clip)


def test_a_bare_loop_knows_key_frames_and_stamps(grey_files):
    long_gop, avi = grey_files
    assert long_gop.key_ids == (0,)
    assert avi.key_ids == tuple(range(0, NUM_FRAMES, 12))
    assert len(long_gop.stamps) == len(avi.stamps) == NUM_FRAMES
    expected = long_gop.record.path.stat().st_size * 8 / 1000 / 3.0
    assert long_gop.kbit_per_s == pytest.approx(expected)


def test_a_loader_that_leaves_clips_out_has_no_speed(grey_files, tiny):
    jobs = jobs_of_round(grey_files[0], tiny.spec(SAMPLINGS["segment 8"]), 0, 2)
    lazy = Loader("lazy", lambda jobs: iter([np.zeros(1, np.uint8)]), "")
    with pytest.raises(RuntimeError, match="it gave 1 of 2 clips"):
        seconds_a_clip(lazy, jobs)


# --- a run --------------------------------------------------------------------------------------


class Recorder:
    """Loaders that only note what they were asked for, and a peer that cannot."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[list[int]]]] = []

    def loader(self, name: str, grey: int = 100) -> Loader:
        def clips(jobs: Sequence[Job]) -> Iterator[np.ndarray]:
            self.calls.append((name, [job.frame_ids.tolist() for job in jobs]))
            for _job in jobs:
                yield np.full((8, 32, 32, 3), grey, dtype=np.uint8)

        return Loader(name, clips, "")

    @staticmethod
    def broken(name: str) -> Loader:
        def clips(jobs: Sequence[Job]) -> Iterator[np.ndarray]:
            raise OSError("no FFmpeg here\nand a long story")
            yield

        return Loader(name, clips, "")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    choices = (
        *(recorder.loader(name) for name in (OURS, PYTORCHVIDEO, "bare pyav", "bare decord")),
        recorder.loader("stranger", grey=200),
        Recorder.broken("torchvision"),
    )
    monkeypatch.setattr(speed_module, "loaders", lambda *, with_peers: choices)
    return recorder


def test_each_round_gives_all_the_same_clips_in_another_order(grey_files, recorded, tiny):
    timed_clips(grey_files[:1], tiny.model_copy(update={"rounds": 7, "num_clips": 2}))
    trials = 2 * 2 * 5  # samplings, once to see and once to time, loaders that can
    timed = recorded.calls[trials:]
    assert len(timed) == 7 * 2 * 5
    rounds = [timed[i * 10 : (i + 1) * 10] for i in range(7)]
    for calls in rounds:
        for asked in {name: [c for n, c in calls if n == name] for name, _ in calls}.values():
            assert sorted(asked) == sorted(c for n, c in calls if n == OURS)
            assert [len(clips) for clips in asked] == [2, 2]
    orders = [tuple((name, str(clips)[:0]) for name, clips in calls) for calls in rounds]
    assert len(set(orders)) > 1
    assert len({str(sorted(clips for _, clips in calls)) for calls in rounds}) == 7


def test_who_cannot_and_who_shows_something_else_is_said(grey_files, recorded, tiny):
    timings = timed_clips(grey_files[:1], tiny)
    found = {(row.sampling, row.loader): row for row in rows(grey_files[:1], timings)}
    broken = found["dense 8x8", "torchvision"]
    assert (broken.status, broken.clips_per_s) == ("skipped", None)
    assert broken.reason == "OSError: no FFmpeg here"
    stranger = found["segment 8", "stranger"]
    assert stranger.status == "measured"
    assert stranger.reason == "it shows other frames than videokd: they differ by 100.0 of 255"
    assert len(found) == 2 * 6


def test_our_own_fault_ends_the_run(grey_files, monkeypatch, tiny):
    monkeypatch.setattr(speed_module, "loaders", lambda *, with_peers: (Recorder.broken(OURS),))
    with pytest.raises(OSError, match="no FFmpeg here"):
        try_loaders(grey_files[:1], tiny)


def test_a_peer_that_fails_later_has_no_number_and_is_left_alone():
    timings, cell = Timings(), Cell("f", "s", "peer")
    timings.add(cell, lambda: 1.0)
    timings.add(cell, lambda: [][1])  # type: ignore[misc]
    timings.add(cell, lambda: 1.0)
    assert cell not in timings.seconds
    assert timings.notes[cell] == "IndexError: list index out of range"


def test_the_prepared_file_gets_its_sources_clips(grey_files, recorded, tiny):
    files = [grey_files[0], replace(grey_files[1], name=PREPARED)]
    timings = timed_clips(files, tiny.model_copy(update={"num_clips": None}))
    for sampling in SAMPLINGS:
        count = timings.clips_a_round[Cell("long_gop", sampling, OURS)]
        assert timings.clips_a_round[Cell(PREPARED, sampling, OURS)] == count


def test_rows_hold_medians_and_ratios_of_the_rounds(grey_files):
    file = grey_files[1]
    ours, bare = Cell("avi", "dense 8x8", OURS), Cell("avi", "dense 8x8", "bare decord")
    theirs = Cell("avi", "dense 8x8", PYTORCHVIDEO)
    batches = [Cell("avi", "dense 8x8", OUR_BATCHES, workers) for workers in (0, 2)]
    repeats = Cell("avi", "dense 8x8", OUR_REPEATS, 0)
    timings = Timings(
        seconds={
            ours: [0.1, 0.2, 0.4],
            bare: [0.08, 0.2, 0.4],
            theirs: [0.5, 1.0, 1.6],
            batches[0]: [0.1, 0.1, 0.2],
            batches[1]: [0.05, 0.05, 0.11],
            repeats: [0.02, 0.025, 0.04],
        },
        one_core=True,
    )
    timings.clips_a_round = dict.fromkeys(timings.seconds, 4)
    found = {Cell(r.files, r.sampling, r.loader, r.workers): r for r in rows([file], timings)}
    assert found[ours].clips_per_s == 5.0
    assert found[ours].clips_per_s_interval == (3.75, 7.5)
    assert found[ours].ratio_to_pytorchvideo == 5.0
    assert found[ours].ratio_to_pytorchvideo_interval == (4.5, 5.0)
    assert found[ours].ratio_to_bare == 1.0
    assert found[ours].ratio_to_bare_interval == pytest.approx((0.9, 1.0))
    assert found[theirs].ratio_to_pytorchvideo == 1.0
    assert found[batches[1]].ratio_to_no_workers == 2.0
    assert found[repeats].ratio_to_no_workers == 5.0
    assert found[batches[1]].ratio_to_bare is None
    assert (found[ours].one_core, found[batches[0]].one_core) == (True, False)
    assert (found[ours].rounds, found[ours].clips_a_round) == (3, 4)


def test_every_row_has_every_key_and_is_json(grey_files, recorded, tiny):
    found = rows(grey_files, timed_clips(grey_files, tiny))
    documents = json.loads(json.dumps([row.to_dict() for row in found]))
    names = [entry.name for entry in fields(SpeedRow)]
    assert names[:5] == ["files", "sampling", "loader", "workers", "clips_per_s"]
    assert all(list(document) == names for document in documents)
    assert {document["files"] for document in documents} == {"long_gop", "avi"}
    assert documents[0]["versions"]["av"] == av.__version__
    assert documents[0]["cpu"]


def test_the_goals_are_those_of_the_files_at_hand(grey_files):
    prepared = replace(grey_files[1], name=PREPARED)
    timings = Timings()
    for name, sampling in itertools.product(("long_gop", "avi"), SAMPLINGS):
        timings.seconds[Cell(name, sampling, PYTORCHVIDEO)] = [1.0]
        timings.seconds[Cell(name, sampling, "bare decord")] = [0.5]
        timings.seconds[Cell(name, sampling, "bare pyav")] = [0.4]
        timings.seconds[Cell(name, sampling, "bare torchcodec")] = [0.1]
        timings.seconds[Cell(name, sampling, "bare pyav, cut")] = [0.5]
        timings.notes[Cell(name, sampling, "bare torchcodec")] = "it shows other frames"
    found = {goal.text: goal for goal in goals([*grey_files, prepared], timings)}
    wanted = {text: goal.at_least for text, goal in found.items()}
    assert wanted["long_gop, dense 8x8: videokd to pytorchvideo"] == 1.9
    assert wanted["avi, segment 8: videokd to pytorchvideo"] == 5.0
    assert wanted["long_gop, dense 8x8: videokd to bare pyav, which neither cuts nor scales"] == 0.9
    assert wanted["long_gop, dense 8x8: videokd to bare pyav, cut and scaled too"] == 0.9
    assert wanted["dense 8x8: long_gop_prepared to long_gop"] == 4.0
    assert wanted["segment 8: long_gop_prepared to long_gop"] == 8.0
    chosen = found["avi, dense 8x8: bare decord, as the scan chose, to bare pyav"]
    assert (chosen.above.loader, chosen.below.loader) == ("bare decord", "bare pyav")
    assert len(wanted) == 4 + (6 + 4) + 2 + 2
    assert len(goals(grey_files, Timings())) == 4


def test_one_core_is_given_back():
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system cannot hold a process on one core")
    before = os.sched_getaffinity(0)
    with one_core() as held:
        assert held
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
    with pytest.raises(ZeroDivisionError, match="division"), one_core():
        print(1 / 0)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("workers", [(), (-1,), (1, 1)])
def test_numbers_of_workers_are_checked(workers):
    with pytest.raises(ValueError, match="workers are different numbers of at least 0"):
        SpeedConfig(workers=workers)


def test_batches_are_timed_with_and_without_workers(grey_files, tiny, monkeypatch):
    monkeypatch.setattr(batch_module, "_MAX_BATCH", 2)
    avi = grey_files[1:]
    timings = timed_clips(avi, tiny)
    time_batches(avi, tiny, timings)
    for cell in (
        Cell("avi", "dense 8x8", OUR_BATCHES, 0),
        Cell("avi", "dense 8x8", OUR_BATCHES, 1),
        Cell("avi", "dense 8x8", OUR_REPEATS, 0),
        Cell("avi", "dense 8x8", PYTORCHVIDEO_BATCHES, 1),
    ):
        assert len(timings.seconds[cell]) == 2, cell
    found = {(row.loader, row.workers): row for row in rows(avi, timings)}
    assert found[OUR_BATCHES, 0].ratio_to_no_workers == 1.0
    assert found[OUR_BATCHES, 1].ratio_to_pytorchvideo > 0


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_soak_looks_at_memory_after_each_batch(grey_files, tiny):
    found = soak(grey_files[1:], 167, tiny.model_copy(update={"workers": (1,)}))
    assert (found.num_clips, found.workers, len(found.rss_mib)) == (160, 1, 20)
    assert min(found.rss_mib) > tree_rss_mib() / 2
    with pytest.raises(UserError, match="--soak 159: memory shows from 160 clips on"):
        soak(grey_files[1:], 159, tiny)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_of_the_tree_holds_what_a_child_takes():
    before = tree_rss_mib()
    child = os.fork()
    if child == 0:
        held = bytearray(b"x" * (64 << 20))
        time.sleep(60)
        os._exit(len(held) % 2)
    try:
        deadline = time.monotonic() + 20
        while tree_rss_mib() < before + 64 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert tree_rss_mib() >= before + 64
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_augmentations_stand_beside_the_step():
    found = {row.loader: row for row in augment_speed(device="cpu", rounds=2, crop_px=32)}
    assert set(found) == {*(f"augment: {name}" for name in AUGMENTATIONS), STEP}
    assert found[STEP].part_of_step_pct == 100.0
    assert all(row.clips_per_s > 0 and row.rounds == 2 for row in found.values())
    with pytest.raises(UserError, match="device 'mps' cannot be timed"):
        augment_speed(device="mps", rounds=1, crop_px=32)


# --- its files ----------------------------------------------------------------------------------


def test_the_files_are_the_same_each_time_and_rendered_once(tmp_path):
    kinds = {
        "a": replace(KINDS["long_gop"], height=64, width=96, num_frames=30),
        "b": FileKind(".avi", 64, 96, 25, 30, "mpeg4", 12, bit_rate=200_000),
    }
    told: list[tuple[int, int, str]] = []
    first = made_files(
        ("a", "b"), tmp_path / "one", kinds=kinds, on_progress=lambda *args: told.append(args)
    )
    second = made_files(("a", "b"), tmp_path / "two", kinds=kinds)
    assert [p.read_bytes() for p in first.values()] == [p.read_bytes() for p in second.values()]
    assert told[-1] == (60, 60, "b")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(
        p.name for p in first.values()
    )
    stamps = [p.stat().st_mtime_ns for p in first.values()]
    again = made_files(("a", "b"), tmp_path / "one", kinds=kinds)
    assert [p.stat().st_mtime_ns for p in again.values()] == stamps
    with av.open(str(first["b"])) as container:
        keys = [i for i, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert keys == [0, 12, 24]


def test_an_interrupted_rendering_leaves_nothing(tmp_path):
    kinds = {"a": FileKind(".mp4", 64, 96, 25, 30, "libx264", 250)}

    def interrupt(done: int, _total: int, _note: str) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_files(("a",), tmp_path, kinds=kinds, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_pictures_move_and_are_noisy():
    planes = moving_planes(64, 96)
    first, second = next(planes), next(planes)
    assert (first.shape, first.dtype) == ((96, 96), np.uint8)
    difference = np.abs(first[:64].astype(int) - second[:64])
    assert 1 < difference.mean() < 30
    assert first[:64].std() > 15


def test_the_kinds_are_those_that_are_promised():
    long_gop, avi, large = KINDS["long_gop"], KINDS["avi"], KINDS["720p"]
    assert (long_gop.num_frames / long_gop.fps, long_gop.width, long_gop.height) == (10, 340, 256)
    assert (long_gop.codec, long_gop.gop) == ("libx264", 250)
    assert (avi.num_frames / avi.fps, avi.width, avi.height) == (7, 320, 240)
    assert (avi.codec, avi.suffix, avi.gop) == ("mpeg4", ".avi", 12)
    assert (large.num_frames / large.fps, large.width, large.height) == (10, 1280, 720)


@pytest.mark.slow
def test_its_own_files_have_the_bitrates_and_key_frames_of_real_ones(tmp_path):
    found = {file.name: file for file in own_files(is_quick=True, folder=tmp_path)}
    assert list(found) == ["long_gop", "avi", PREPARED]
    assert found["long_gop"].key_ids == (0,)
    assert 350 < found["long_gop"].kbit_per_s < 600
    assert found["avi"].key_ids == tuple(range(0, 175, 12))
    assert 450 < found["avi"].kbit_per_s < 650
    assert found[PREPARED].record.num_frames == 250
    assert len(found[PREPARED].key_ids) > 20
    again = own_files(is_quick=True, folder=tmp_path)
    assert [file.record.digest for file in again] == [f.record.digest for f in found.values()]


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "videokd" / "bench"


def test_files_of_a_user_are_scanned(grey_files, tmp_path):
    folder = grey_files[0].record.path.parent
    found = user_files([folder, grey_files[1].record.path], folder=tmp_path)
    assert [Path(file.name).name for file in found] == ["a.mp4", "b.avi", "b.avi"]
    assert [file.record.num_frames for file in found] == [NUM_FRAMES] * 3
    with pytest.raises(UserError, match="no such index, folder or video"):
        user_files([tmp_path / "nowhere"], folder=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no videos in it"):
        user_files([tmp_path / "empty"], folder=tmp_path)


# --- the command --------------------------------------------------------------------------------


def run_command(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", "bench", *arguments])
    assert end.value.code == 0


def test_the_command_prints_one_document(grey_files, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = ("--quick", "--rounds", "2", "--num-clips", "1", "--workers", "0")
    run_command("--files", str(grey_files[1].record.path), *options, "--json")
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert {row["loader"] for row in document} >= {OURS, "bare decord", OUR_BATCHES, OUR_REPEATS}
    assert all(row["rounds"] == 2 for row in document if row["status"] == "measured")
    assert "clips on one core" in printed.err


def test_the_command_prints_tables_and_goals(grey_files, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = ("--quick", "--rounds", "2", "--num-clips", "1", "--workers", "0", "--quiet")
    run_command("--files", str(grey_files[1].record.path), *options)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "2 rounds are a first look; take at least 7." in printed.out
    assert ("PASS: " in printed.out) or ("MISS: " in printed.out)
    assert "bare decord" in printed.out


def test_its_help_needs_no_torch():
    code = (
        "import sys\nfrom videokd.cli import main\n"
        "try:\n    main(['data', 'bench', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--peers" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "two"], "--workers: 'two' is not a whole number"),
        (["--augment", "--soak", "1000"], "give one of them"),
        (["--workers", "1,1"], "workers are different numbers"),
    ],
)
def test_wrong_options_end_with_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["data", "bench", *arguments])
    assert end.value.code == ConfigError.exit_status
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1
