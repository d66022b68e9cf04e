"""Real files that break decoders, and real annotation lists; skipped where they are absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videokd.data.annotations import read_class_file, read_list
from videokd.data.annotations.splits import group_by_pattern
from videokd.data.readers import PyAVReader, open_video, to_rgb
from videokd.data.scan import scan
from videokd.data.scan.inspection import ScanFailure, ScanResult
from videokd.errors import UserError

EXPECTED = {
    "made__editlist.mp4": (81, "pyav"),
    "moviepy__no_duration.webm": (74, "pyav"),
    "moviepy__bitmap.mp4": (5, "pyav"),
    "torchcodec__av1_video.mkv": (125, "pyav"),
    "torchcodec__h264_10bits.mp4": (30, "pyav"),
    "torchcodec__h265_video.mp4": (10, "pyav"),
    "mmaction2__test.avi": (164, "decord"),
    "mmaction2__demo.mp4": (280, "pyav"),
    "decord__video_90.mov": (3, "pyav"),
    "go-mp4__sample_fragmented.mp4": (10, "pyav"),
    "torchcodec__nasa_13013.mp4": (390, "pyav"),
    "utd__a1_s1_t1_color_mjpeg.avi": (42, "pyav"),
}
FAILING = {
    "decord__corrupted.mp4": "28 of 50 frames decode, then: h264: Invalid NAL unit size",
    "made__truncated_faststart.mp4": "56 of 300 frames decode, then: h264: Invalid NAL unit size",
    "._a1_s1_t1_color.avi": "resource fork",
    "moviepy__result.webm": "0 bytes",
    "made__truncated_moov_missing.mp4": "not a video, or damaged",
    "go-mp4__sample_qt.mp4": "no frame decodes",
    "go-mp4__sample_init.encv.mp4": "no frame decodes",
}


def scanned(paths: list[Path]) -> dict[str, ScanResult | ScanFailure]:
    return {result.path.name: result for result in scan(paths, num_processes=2)}


def test_odd_files_are_counted_and_given_their_reader(shared_data: Path) -> None:
    odd = scanned([shared_data / "odd" / name for name in (*EXPECTED, *FAILING)])
    found = {name: (odd[name].num_frames, odd[name].reader) for name in EXPECTED}
    assert found == EXPECTED
    assert (odd["decord__video_90.mov"].height, odd["decord__video_90.mov"].width) == (568, 320)
    for name, why in FAILING.items():
        assert isinstance(odd[name], ScanFailure), name
        assert why in odd[name].reason


@pytest.mark.slow
def test_healthy_files_are_not_refused(shared_data: Path) -> None:
    paths = sorted((shared_data / "odd").iterdir())
    paths += sorted((shared_data / "utd_mhad5" / "videos").iterdir())
    found = scanned(paths)
    refused = {name for name, result in found.items() if isinstance(result, ScanFailure)}
    without_pictures = {"._a1_s1_t2_color.avi", "go-mp4__sample_init.enca.mp4"}
    assert refused == FAILING.keys() | without_pictures
    whole = {name: result for name, result in found.items() if isinstance(result, ScanResult)}
    assert not [name for name, result in whole.items() if "then:" in result.note]


@pytest.mark.slow
def test_the_chosen_reader_is_exact_wherever_it_jumps(shared_data: Path) -> None:
    generator = np.random.default_rng(0)
    for result in scanned(sorted((shared_data / "odd").iterdir())).values():
        if isinstance(result, ScanFailure) or ("10bit" in result.path.name):
            continue
        n, step = result.num_frames, max(1, max(result.height, result.width) // 100)
        with PyAVReader(result.path) as reader:
            truth = []
            for _, frame in zip(range(n), reader.frames(), strict=False):
                truth.append(to_rgb(frame)[::step, ::step].astype(np.int16))
        for size in (1, 2, 8, 16) * 3:
            ids = generator.choice(n, min(size, n), replace=False)
            with open_video(result.path, result.reader, num_frames=n) as reader:
                frames = reader.read(ids)[:, ::step, ::step].astype(np.int16)
            off = [np.abs(f - truth[i]).mean() for i, f in zip(ids.tolist(), frames, strict=True)]
            assert max(off) < 0.5, (result.path.name, ids, off)


def test_people_lists(shared_data: Path) -> None:
    root = shared_data / "utd_mhad5"
    classes = read_class_file(root / "classInd.txt")
    assert list(classes.names) == ["swipe_left", "swipe_right", "wave", "clap", "throw"]
    people = {}
    for split in ("train", "test"):
        found = read_list(root / f"{split}_subject.txt", root / "videos", classes, split=split)
        grouped = group_by_pattern(found, r"a\d+_(s\d+)_t")
        people[split] = {annotation.group for annotation in grouped}
        assert len(found) == 80
    assert people == {"train": {"s1", "s3", "s5", "s7"}, "test": {"s2", "s4", "s6", "s8"}}


def test_ucf101_counts_its_classes_from_one(shared_data: Path) -> None:
    folder = shared_data / "annotations" / "ucf101"
    classes = read_class_file(folder / "classInd.txt")
    assert (len(classes.names), classes.first_index) == (101, 1)
    assert classes.name_of(101) == "YoYo"
    # The videos are not there: the list is read, and its first line says what is missing.
    with pytest.raises(UserError, match=r"trainlist01\.txt:1: no such file: .*ApplyEyeMakeup"):
        read_list(folder / "trainlist01.txt", folder, classes)
