"""Damaged videos: 2,000 mutated copies, and real odd files. Nothing hangs, each has its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from videokd.data.check import check_index
from videokd.data.check.files import CheckedVideo
from videokd.data.damage import (
    KINDS,
    NUM_FRAMES,
    SAMPLES,
    Judged,
    damage_table,
    inspect_all_frames,
    judge_mutants,
    mutants,
    write_samples,
)
from videokd.data.index import write_index
from videokd.data.readers import open_video
from videokd.data.scan import scan
from videokd.data.scan.inspection import ScanFailure, ScanResult
from videokd.types import ClassNames, VideoRecord

NUM_FAST = 60


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_samples(tmp_path_factory.mktemp("samples"))


def record_of(result: ScanResult) -> VideoRecord:
    return VideoRecord(
        path=result.path,
        labels=(0,),
        num_frames=result.num_frames,
        fps=result.fps,
        height=result.height,
        width=result.width,
        reader=result.reader,
        bytes=result.bytes,
        digest=result.digest,
    )


def check_judged(judged: list[Judged]) -> None:
    """What holds for every damaged copy."""
    for one in judged:
        name = one.path.name
        if one.outcome == "refused":
            assert one.reason, name
            assert "\n" not in one.reason, name
        assert not one.reason.startswith("hang"), f"{name}: {one.reason}"
        # An exception that nobody expected ends a worker with status 1; that is our own mistake.
        assert not one.reason.endswith("status 1"), f"{name}: {one.reason}"


def test_the_samples_are_whole_and_the_same_each_time(samples: list[Path], tmp_path: Path) -> None:
    again = write_samples(tmp_path)
    assert [path.name for path in samples] == list(SAMPLES)
    for first, second in zip(samples, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
        found = list(inspect_all_frames(first))[-1]
        assert isinstance(found, CheckedVideo), found
        assert (found.num_frames, found.note) == (NUM_FRAMES, "") or found.reader == "pyav"
        with open_video(first, found.reader, num_frames=NUM_FRAMES) as reader:
            frames = reader.read(np.arange(NUM_FRAMES)).astype(int)
        assert np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)).min() > 3  # all differ


def test_damage_is_decided_by_the_seed_alone(samples: list[Path]) -> None:
    made = list(mutants(samples, 36, seed=3))
    assert list(mutants(samples, 36, seed=3)) == made
    assert list(mutants(samples, 20, seed=3)) == made[:20]
    assert list(mutants(samples, 36, seed=4)) != made
    assert {(mutant.sample, mutant.kind) for mutant in made} == {
        (sample, kind) for sample in SAMPLES for kind in KINDS
    }
    for mutant in made:
        original = next(path for path in samples if path.name == mutant.sample).read_bytes()
        assert mutant.content != original
        if mutant.kind == "flip":
            apart = [a != b for a, b in zip(mutant.content, original, strict=True)]
            assert 1 <= sum(apart) <= 16
        if mutant.kind == "cut":
            assert original.startswith(mutant.content)
        if mutant.kind == "splice":
            assert abs(len(mutant.content) - len(original)) < len(original) / 8


def test_some_damaged_copies_and_the_check_finds_every_one_by_digest(
    samples: list[Path], tmp_path: Path
) -> None:
    judged = judge_mutants(tmp_path / "mutants", count=NUM_FAST, num_processes=2)
    check_judged(judged)
    assert len(judged) == NUM_FAST
    assert {one.outcome for one in judged} >= {"refused", "other frames"}

    # The same copies in the place of the files that were indexed.
    whole = {result.path.name: record_of(result) for result in scan(samples)}
    records = [replace(whole[one.sample], path=one.path) for one in judged]
    write_index(tmp_path / "all.csv", records, ClassNames(["any"]))
    report = check_index(tmp_path / "all.csv", quick=True)
    found = {
        finding.paths[0]: finding.kind
        for finding in report.findings
        if finding.kind in ("truncated", "changed")
    }
    assert found.keys() == {one.path for one in judged}
    silent = [one for one in judged if one.outcome == "other frames"]
    assert {found[one.path] for one in silent if one.kind == "flip"} <= {"changed"}
    assert {found[one.path] for one in judged if one.kind == "cut"} == {"truncated"}


def test_the_table_counts_by_file_and_kind() -> None:
    path = Path("x")
    judged = [
        Judged("h264.mp4", "flip", path, "refused", "why"),
        Judged("h264.mp4", "flip", path, "same frames", ""),
        Judged("h264.mp4", "flip", path, "same frames", ""),
        Judged("vp9.webm", "cut", path, "other frames", ""),
    ]
    lines = damage_table(judged).splitlines()
    assert lines[:3] == [
        "| file | damage | copies | refused | same frames | other frames |",
        "|---|---|--:|--:|--:|--:|",
        "| h264.mp4 | flip | 3 | 1 | 2 | 0 |",
    ]
    assert lines[-4:] == [
        "| all | flip | 3 | 1 | 2 | 0 |",
        "| all | cut | 1 | 0 | 0 | 1 |",
        "| all | splice | 0 | 0 | 0 | 0 |",
        "| all | all | 4 | 1 | 2 | 1 |",
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_thousand_damaged_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged = judge_mutants(tmp_path, count=2000, num_processes=2)
    with capsys.disabled():
        print("\n" + damage_table(judged))
    check_judged(judged)
    assert len(judged) == 2000
    refused = sum(one.outcome == "refused" for one in judged)
    assert refused >= 1700


@pytest.mark.slow
def test_every_odd_file_is_read_or_refused_with_a_reason(shared_data: Path, tmp_path: Path) -> None:
    paths = sorted(path for path in (shared_data / "odd").iterdir() if path.is_file())
    assert len(paths) >= 45
    found = scan(paths, num_processes=2)
    assert [result.path for result in found] == paths
    for result in found:
        if isinstance(result, ScanFailure):
            assert result.reason, result.path
            assert "\n" not in result.reason, result.path
            assert not result.reason.startswith(("hang", "crash")), result
    records = [record_of(result) for result in found if isinstance(result, ScanResult)]
    assert len(records) >= 30
    for record in records:
        ends = np.array([0, record.num_frames - 1])
        with open_video(record.path, record.reader, num_frames=record.num_frames) as reader:
            assert reader.read(ends).shape == (2, record.height, record.width, 3)
    # Checked again, they are what they were.
    write_index(tmp_path / "odd.csv", records, ClassNames(["any"]))
    report = check_index(tmp_path / "odd.csv", num_processes=2)
    assert [f for f in report.findings if f.severity == "error"] == []
