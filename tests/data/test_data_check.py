"""The data set's doctor: each thing that it looks for, once wrong and once right."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_video import write_numbered
from PIL import Image

from videokd.cli import main
from videokd.data.check import TITLES, CheckReport, Finding, check_index, files, format_report
from videokd.data.check.sides import find_imbalance, find_leaks, sides_of, ucf101_group
from videokd.data.check.statistics import statistics_of
from videokd.data.index import write_index
from videokd.data.scan import ScanResult, scan
from videokd.types import ClassNames, VideoRecord

CLASSES = ClassNames(["left", "right"])


def record(name: str, split: str = "train", *, group: str = "", label: int = 0) -> VideoRecord:
    return VideoRecord(
        Path("/videos") / name, (label,), 30, 25.0, 64, 96, "pyav", group, split, 100, "d" * 16
    )


def leaks(records: list[VideoRecord], digests: str = "", contents: str = "") -> list[Finding]:
    """One letter a record; a blank is an unknown one."""
    letters = [text.ljust(len(records)) for text in (digests, contents)]
    return list(find_leaks(records, *([c.strip() for c in text] for text in letters)))


def told(findings: list[Finding]) -> list[tuple[str, str, list[str]]]:
    return [(f.kind, f.message, [path.name for path in f.paths]) for f in findings]


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "val", ""], [{"": {"train"}}, {"": {"val"}}, {}]),
        (
            ["train1;test2;train3", "test1;train2;train3"],
            [
                {"1": {"train"}, "2": {"test"}, "3": {"train"}},
                {"1": {"test"}, "2": {"train"}, "3": {"train"}},
            ],
        ),
        # A number alone makes no fold: these are three sides of one.
        (["fold1", "fold2", "fold3"], [{"": {"fold1"}}, {"": {"fold2"}}, {"": {"fold3"}}]),
        (["train2017", "val2017"], [{"2017": {"train"}}, {"2017": {"val"}}]),
        (["1", "2"], [{"": {"1"}}, {"": {"2"}}]),
    ],
)
def test_sides_of_a_split_column(splits: list[str], expected: list[dict]) -> None:
    assert sides_of(splits) == dict(zip(splits, expected, strict=True))


def test_a_group_on_two_sides_is_a_leak_and_on_one_is_none() -> None:
    split = [record("a", group="s1"), record("b", "test", group="s1"), record("c", group="s1")]
    assert told(leaks(split)) == [
        ("leak_group", "group s1: 1 in test, 2 in train", ["b", "a", "c"])
    ]
    apart = [record("a", group="s1"), record("b", "test", group="s2"), record("c", group="s1")]
    assert leaks(apart) == []
    assert leaks([record("a", group="s1"), record("b", "", group="s1")]) == []  # in no split


def test_ucf101_groups_are_found_in_file_names() -> None:
    assert ucf101_group("v_ApplyEyeMakeup_g08_c01") == "v_ApplyEyeMakeup_g08"
    assert ucf101_group("a1_s1_t1_color") == ""
    assert ucf101_group("big_g08_c012") == ""
    same = [record("v_Archery_g01_c01.avi"), record("v_Archery_g01_c07.avi", "test")]
    assert told(leaks(same)) == [
        (
            "leak_group",
            "group v_Archery_g01: 1 in test, 1 in train",
            ["v_Archery_g01_c07.avi", "v_Archery_g01_c01.avi"],
        )
    ]
    # Groups are numbered within a class.
    assert leaks([record("v_Archery_g01_c01.avi"), record("v_Diving_g01_c01.avi", "test")]) == []
    # A group column says it better than the name.
    named = [replace(one, group=str(i)) for i, one in enumerate(same)]
    assert leaks(named) == []


def test_leaks_are_looked_for_within_each_fold() -> None:
    folds = [
        record("a", "train1;test2;train3", group="s1"),
        record("b", "train1;test2;train3", group="s1"),
        record("c", "test1;train2;train3", group="s2"),
    ]
    assert leaks(folds) == []
    folds.append(record("d", "test1;test2;train3", group="s1"))
    assert told(leaks(folds)) == [
        ("leak_group", "group s1: 1 in test1, 2 in train1", ["d", "a", "b"])
    ]


def test_a_video_on_two_sides_itself() -> None:
    found = leaks([record("a", "train1;test1;train2"), record("b", "test1;test2")])
    assert told(found) == [("leak_video", "1 in test1, 1 in train1", ["a"])]


def test_copies_are_leaks_across_sides_and_warnings_within() -> None:
    within = [record("a"), record("b"), record("c")]
    assert told(leaks(within, "xxy")) == [("duplicate", "2 files of digest x", ["a", "b"])]
    across = [record("a"), record("b", "test"), record("c")]
    assert told(leaks(across, "xxx")) == [
        ("leak_duplicate", "3 files of digest x: 1 in test, 2 in train", ["b", "a", "c"])
    ]
    # The same pictures count where the bytes differ.
    assert told(leaks(within, "xyz", "ppq")) == [
        ("same_content", "2 files show the same frames", ["a", "b"])
    ]
    assert told(leaks(across, "xyz", "pp ")) == [
        ("leak_content", "2 files show the same frames: 1 in test, 1 in train", ["b", "a"])
    ]
    assert [kind for kind, _, _ in told(leaks(across, "xxy", "ppq"))] == ["leak_duplicate"]
    assert leaks(across) == []  # nothing is known


def test_copies_with_other_labels_contradict_each_other() -> None:
    found = leaks([record("a"), record("b", label=1)], "xx")
    assert [(f.kind, f.severity) for f in found] == [
        ("duplicate", "warning"),
        ("label_conflict", "error"),
    ]


def test_class_balance() -> None:
    uneven = [*(record(f"a{i}") for i in range(10)), record("b", label=1), record("c", "test")]
    assert [(f.kind, f.message) for f in find_imbalance(uneven, CLASSES)] == [
        ("class_without_videos", "split test has no video of 1 of 2 classes: right"),
        ("imbalance", "split train: 10 videos of left, 1 of right (10.0 times)"),
    ]
    even = [*(record(f"a{i}") for i in range(9)), record("b", label=1)]
    assert list(find_imbalance(even, CLASSES)) == []
    spare = [*even, record("c", "")]
    assert list(find_imbalance(spare, CLASSES)) == []
    unlabelled = [replace(record("a"), labels=())]
    assert list(find_imbalance(unlabelled, CLASSES)) == []


def test_statistics_of_an_index() -> None:
    records = [
        replace(record("a"), num_frames=25, bytes=10),
        replace(record("b", "train;test", label=1), num_frames=100, bytes=40),
        replace(record("c", "test"), num_frames=60, fps=30.0, height=96, width=64, bytes=0),
    ]
    found = statistics_of(records, CLASSES)
    assert found["duration_seconds"] == {
        "min": 1.0,
        "median": 2.0,
        "max": 4.0,
        "num_distinct": 3,
        "total": 7.0,
    }
    assert found["fps"] == {"min": 25.0, "median": 25.0, "max": 30.0, "num_distinct": 2}
    assert found["bytes"]["total"] == 50
    assert found["sizes"] == {"64x96": 2, "96x64": 1}
    assert found["splits"] == {"test": 2, "train": 2}
    assert found["classes"] == {
        "test": {"left": 1, "right": 1},
        "train": {"left": 1, "right": 1},
    }
    assert json.loads(json.dumps(found)) == found


def test_every_kind_has_a_title_and_errors_come_first() -> None:
    severities = [severity for severity, _ in TITLES.values()]
    assert severities == sorted(severities)
    assert {f.kind for f in leaks([record("a", "train;test")])} <= TITLES.keys()


@pytest.fixture(scope="module")
def sick_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine videos, indexed while well; then most are harmed."""
    folder = tmp_path_factory.mktemp("sick")
    names = ["well", "missing", "empty", "cut", "changed", "broken", "twin", "other", "lied"]
    for i, name in enumerate(names):
        if name != "twin":
            write_numbered(folder / f"{name}.mp4", 30, first=40 * i)
    (folder / "twin.mp4").write_bytes((folder / "well.mp4").read_bytes())
    copy_packets(folder / "other.mp4", folder / "remuxed.mkv")
    names.append("remuxed")
    paths = [folder / f"{name}.{'mkv' if name == 'remuxed' else 'mp4'}" for name in names]
    index_scanned(folder / "all.csv", paths, {"twin": "test", "remuxed": "test"}, {"lied": 31})
    harm(folder)
    return folder / "all.csv"


def index_scanned(
    path: Path, videos: list[Path], splits: dict[str, str], frames: dict[str, int]
) -> None:
    found = [result for result in scan(videos) if isinstance(result, ScanResult)]
    assert len(found) == len(videos)
    records = [
        VideoRecord(
            path=result.path,
            labels=(int(result.path.stem in ("missing", "empty")),),
            num_frames=frames.get(result.path.stem, result.num_frames),
            fps=result.fps,
            height=result.height,
            width=result.width,
            reader=result.reader,
            split=splits.get(result.path.stem, "train"),
            bytes=result.bytes,
            digest=result.digest,
        )
        for result in found
    ]
    write_index(path, records, CLASSES)


def harm(folder: Path) -> None:
    (folder / "missing.mp4").unlink()
    (folder / "empty.mp4").write_bytes(b"")
    whole = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "broken.mp4").write_bytes(bytes(len((folder / "broken.mp4").read_bytes())))
    # Other frames, padded to as many bytes, so that only the digest tells.
    length = (folder / "changed.mp4").stat().st_size
    write_numbered(folder / "changed.mp4", 30, first=900, options={"crf": "40"})
    padding = length - (folder / "changed.mp4").stat().st_size
    assert padding >= 8
    with (folder / "changed.mp4").open("ab") as file:
        file.write(padding.to_bytes(4, "big") + b"free" + bytes(padding - 8))


def copy_packets(source: Path, target: Path) -> None:
    """The same video in another container."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


def by_kind(report: CheckReport) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in report.findings:
        found.setdefault(finding.kind, []).extend(path.stem for path in finding.paths)
    return found


SEEN_BY_BOTH = {
    "missing": ["missing"],
    "empty": ["empty"],
    "truncated": ["cut"],
    "leak_duplicate": ["twin", "well"],
    "class_without_videos": [],
}


def test_the_full_check_finds_all_that_is_wrong(sick_index: Path) -> None:
    report = check_index(sick_index, num_processes=2)
    assert by_kind(report) == {
        **SEEN_BY_BOTH,
        "unreadable": ["cut", "broken"],
        "changed": ["changed", "broken"],
        "disagrees": ["lied"],
        "leak_content": ["remuxed", "other"],
    }
    messages = {f.paths[0].stem: f.message for f in report.findings if len(f.paths) == 1}
    assert messages["lied"] == "30 frames, the index says 31"
    assert messages["missing"] == "no such file"
    assert (report.is_ok, report.quick, report.num_warnings) == (False, False, 1)
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities)


def test_the_quick_check_decodes_nothing(sick_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "scan", None)
    progress: list[tuple[int, int]] = []
    report = check_index(
        sick_index,
        num_processes=2,
        quick=True,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert by_kind(report) == {**SEEN_BY_BOTH, "changed": ["changed", "broken"]}
    assert progress == [(i + 1, 10) for i in range(10)]


def test_a_row_without_a_digest_is_said_to_be_unverified(tmp_path: Path) -> None:
    video = write_numbered(tmp_path / "v.mp4", 12)
    row = replace(record("v.mp4"), path=video, num_frames=12, bytes=video.stat().st_size, digest="")
    write_index(tmp_path / "one.csv", [row], ClassNames(["left"]))
    assert by_kind(check_index(tmp_path / "one.csv", quick=True)) == {"unverified": ["v"]}
    grown = replace(row, bytes=row.bytes - 1)
    write_index(tmp_path / "one.csv", [grown], ClassNames(["left"]))
    assert by_kind(check_index(tmp_path / "one.csv", quick=True)) == {"changed": ["v"]}


def test_a_reader_that_is_not_exact_is_an_error(tmp_path: Path) -> None:
    # An edit list, which decord shows wrongly; and a file that both readers show alike.
    hidden = write_numbered(tmp_path / "hidden.mp4", 40, hidden=8, gop=10)
    plain = write_numbered(tmp_path / "plain.mp4", 30, first=100)
    index_scanned(tmp_path / "all.csv", [hidden, plain], {}, {})
    text = (tmp_path / "all.csv").read_text()
    for reader in ("decord", "pyav"):
        (tmp_path / "all.csv").write_text(re.sub(",(pyav|decord),", f",{reader},", text))
        report = check_index(tmp_path / "all.csv")
        found = [(f.kind, f.paths[0].stem, f.message) for f in report.findings if f.paths]
        if reader == "pyav":
            assert found == []
        else:
            assert [(kind, stem) for kind, stem, _ in found] == [("reader", "hidden")]
            assert found[0][2].startswith("decord shows ")


def test_what_was_indexed_as_damaged_is_said_and_is_no_error(tmp_path: Path) -> None:
    whole = write_numbered(
        tmp_path / "whole.mp4", 60, gop=20, container_options={"movflags": "faststart"}
    )
    whole.write_bytes(whole.read_bytes()[:-1500])
    (found,) = scan([whole], keep_damaged=True)
    assert isinstance(found, ScanResult)
    row = replace(
        record("whole.mp4"),
        path=whole,
        num_frames=found.num_frames,
        bytes=found.bytes,
        digest=found.digest,
    )
    write_index(tmp_path / "one.csv", [row], ClassNames(["left"]))
    report = check_index(tmp_path / "one.csv")
    note = found.note.partition("; read by")[0]
    assert note.startswith(f"{found.num_frames} of 60 frames decode, then: ")
    assert [(f.kind, f.message) for f in report.findings] == [("incomplete", note)]
    assert report.is_ok


def test_a_file_that_was_damaged_after_its_scan_was_not_indexed_as_damaged(tmp_path: Path) -> None:
    video = write_numbered(
        tmp_path / "v.mp4", 60, gop=20, container_options={"movflags": "faststart"}
    )
    index_scanned(tmp_path / "x.csv", [video], {}, {})
    content = video.read_bytes()
    video.write_bytes(content[:-1500] + bytes(1500))
    report = check_index(tmp_path / "x.csv")
    found = [(f.kind, f.message) for f in report.findings if f.paths]
    assert [kind for kind, _ in found] == ["unreadable", "changed"]
    assert "of 60 frames decode, then: " in found[0][1]


def test_a_folder_of_frames_is_checked_too(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (20, 10), (40 * i, 0, 0)).save(folder / f"img_{i + 1:05d}.jpg")
    (found,) = scan([folder], frames_fps=10.0)
    assert isinstance(found, ScanResult), found
    row = VideoRecord(
        folder, (0,), 6, 10.0, 10, 20, "frames", bytes=found.bytes, digest=found.digest
    )
    write_index(tmp_path / "one.csv", [row], ClassNames(["left"]))
    for quick in (True, False):
        assert by_kind(check_index(tmp_path / "one.csv", quick=quick)) == {}
    (folder / "img_00006.jpg").unlink()
    assert by_kind(check_index(tmp_path / "one.csv", quick=True)) == {"truncated": ["clip"]}
    (folder / "img_00003.jpg").unlink()
    report = check_index(tmp_path / "one.csv", quick=True)
    assert [(f.kind, f.message) for f in report.findings] == [
        (
            "unreadable",
            "frame 3 is missing between img_00001.jpg and img_00005.jpg (1 missing in all)",
        )
    ]


def test_the_command_line_says_it_as_text_and_as_json(
    sick_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(sick_index), "--quick", "--json"])
    assert ended.value.code == 1
    document = json.loads(capsys.readouterr().out)
    assert list(document) == [
        "index",
        "num_videos",
        "quick",
        "ok",
        "num_errors",
        "num_warnings",
        "findings",
        "statistics",
    ]
    assert (document["num_videos"], document["ok"], document["num_errors"]) == (10, False, 6)
    assert document["findings"][0] == {
        "kind": "missing",
        "severity": "error",
        "message": "no such file",
        "paths": [str(sick_index.parent / "missing.mp4")],
    }

    video = write_numbered(tmp_path / "v.mp4", 12)
    index_scanned(tmp_path / "well.csv", [video], {}, {})
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(tmp_path / "well.csv")])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "0 errors, 1 warning\n" in text  # a class has no video
    assert "split train has no video of 1 of 2 classes: right" in text
    assert "size" in text


def test_the_text_report_shows_counts_and_the_first_of_each() -> None:
    many = tuple(Finding("missing", "no such file", (Path(f"/videos/{i}.mp4"),)) for i in range(7))
    copies = Finding("duplicate", "4 files of digest x", tuple(Path(f"/c/{i}") for i in range(4)))
    records = [replace(record(f"{i}"), labels=(i,)) for i in range(20)]
    names = ClassNames([f"class {i:02d}" for i in range(20)])
    report = CheckReport(Path("x.csv"), 20, True, (*many, copies), statistics_of(records, names))
    assert format_report(report).splitlines()[:18] == [
        "x.csv: 20 videos, compared by size and digest, not decoded",
        "7 errors, 1 warning",
        "",
        "error: 7 x files that are not there",
        *(f"  /videos/{i}.mp4: no such file" for i in range(5)),
        "  ... and 2 more (--json lists all)",
        "",
        "warning: 1 x the same file more than once",
        "  4 files of digest x",
        "    /c/0",
        "    /c/1",
        "    /c/2",
        "    ... and 1 more",
        "",
    ]
    lines = format_report(report).splitlines()[18:]
    assert lines[0] == "videos    20, 20 with labels"
    assert lines[4] == "fps       25, all alike"
    start = lines.index("classes train: 20, videos in each:")
    assert len(lines[start + 1 :]) == 13
    assert lines[start + 7] == "  ... 8 between ..."


def test_checking_and_preparing_do_not_import_torch(tmp_path: Path) -> None:
    video = write_numbered(tmp_path / "v.mp4", 12)
    index_scanned(tmp_path / "x.csv", [video], {}, {})
    code = (
        "import sys\nimport videokd.data.prepare, videokd.data.damage\n"
        "from videokd.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, "data", "check", "--quick", tmp_path / "x.csv"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def test_many_pixels_are_hashed_alike_in_all_containers(tmp_path: Path) -> None:
    video = write_numbered(tmp_path / "v.mp4", 30, max_b_frames=2)
    copy_packets(video, tmp_path / "v.mkv")
    ids = np.arange(30).tolist()
    own = files.content_digest(video, "pyav", 30, ids)
    assert files.content_digest(tmp_path / "v.mkv", "pyav", 30, ids) == own
    assert files.content_digest(video, "pyav", 30, ids[1:]) != own
