from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest

from videokd.data.annotations import Annotation, read_folder
from videokd.data.index import COLUMNS, Index, build_index, building, read_index, write_index
from videokd.data.readers import READERS
from videokd.data.scan import ScanFailure
from videokd.errors import UserError
from videokd.types import ClassNames, VideoRecord

HEADER = "path,label,num_frames,fps,height,width,reader,group,split,bytes,digest"
ROW = "a.mp4,left,10,25.0,64,96,decord,,train,5,00"


def write(folder: Path, *rows: str, header: str = HEADER, classes: str = "left\nright\n") -> Path:
    path = folder / "videos.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    (folder / "videos.classes.txt").write_text(classes)
    return path


def test_columns_are_the_fields_of_a_record() -> None:
    fields = [field.replace("labels", "label") for field in VideoRecord.__dataclass_fields__]
    assert list(COLUMNS) == fields == HEADER.split(",")


def test_written_and_read_again_is_the_same(
    tmp_path: Path, records: tuple[VideoRecord, ...], classes: ClassNames
) -> None:
    odd = replace(
        records[0],
        path=tmp_path / 'with, comma "and" quotes.mp4',
        labels=(1, 0),
        fps=30000 / 1001,
        group="a b",
    )
    given = (odd, replace(records[1], labels=()), *records[2:])
    path = tmp_path / "sub" / "x.csv"
    write_index(path, given, classes)
    index = read_index(path)
    assert index.records == given
    assert index.classes == classes
    assert len(index) == 10
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.classes.txt", "x.csv"]


def test_paths_are_relative_to_the_csv_where_they_share_a_folder(
    tmp_path: Path, records: tuple[VideoRecord, ...], classes: ClassNames
) -> None:
    far = replace(records[1], path=Path("/nowhere-else/b.mp4"))
    given = (replace(records[0], path=tmp_path / "v" / "a.mp4"), far)
    path = tmp_path / "i" / "x.csv"
    write_index(path, given, classes)
    rows = list(csv.DictReader(path.open()))
    assert [row["path"] for row in rows] == ["../v/a.mp4", "/nowhere-else/b.mp4"]
    moved = tmp_path.with_name(tmp_path.name + "_moved")
    tmp_path.rename(moved)
    assert read_index(moved / "i" / "x.csv").records[0].path == moved / "v" / "a.mp4"


def test_select(records: tuple[VideoRecord, ...], classes: ClassNames) -> None:
    index = Index(Path("x.csv"), classes, records)
    assert index.select("train") == [0, 1, 2, 5, 6, 7]
    assert index.select("test") == [4, 9]
    there = r"no video is in split 'tets'; videos by split: test: 2, train: 6, val: 2"
    with pytest.raises(UserError, match=there):
        index.select("tets")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("b.mp4,lift,10,25,64,96,decord,,train,5,00", "'lift' is not one of the 2 classes; did"),
        ("b.mp4,left;up,10,25,64,96,decord,,train,5,00", "'up' is not one of the 2 classes"),
        ("b.mp4,left,ten,25,64,96,decord,,train,5,00", "num_frames is 'ten'; it must be a whole"),
        ("b.mp4,left,0,25,64,96,decord,,train,5,00", "num_frames is '0'"),
        ("b.mp4,left,10,nan,64,96,decord,,train,5,00", "fps is 'nan'; it must be a number above 0"),
        ("b.mp4,left,10,25,64,-1,decord,,train,5,00", "width is '-1'"),
        ("b.mp4,left,10,25,64,96,decrod,,train,5,00", "reader 'decrod' is not known; did you mean"),
        ("b.mp4,left,10,25,64,96,decord,,train,5", "10 values where the header has 11 columns"),
        (",left,10,25,64,96,decord,,train,5,00", "the path is empty"),
        (ROW, r"\S+a\.mp4 stands already in line 2"),
    ],
)
def test_a_bad_row_is_named_by_its_line(row: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"videos\.csv:4: {why}") as caught:
        read_index(write(tmp_path, ROW, "", row))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, ROW, ROW.replace("a.mp4", "b.mp4"))
    (tmp_path / "a.mp4").touch()
    assert len(read_index(path)) == 2
    with pytest.raises(UserError, match=r"videos\.csv:3: no such file: .*b\.mp4"):
        read_index(path, check_files=True)


def test_bad_index_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        read_index(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"videos\.csv: no videos in it; make it again"):
        read_index(write(tmp_path))
    with pytest.raises(UserError, match=r"videos\.csv:1: column 'reader' is missing"):
        read_index(write(tmp_path, ROW, header=HEADER.replace("reader", "raeder")))
    with pytest.raises(UserError, match=r"classes\.txt: class name 'left' stands twice"):
        read_index(write(tmp_path, ROW, classes="left\nleft\n"))
    (tmp_path / "videos.classes.txt").unlink()
    with pytest.raises(UserError, match=r"videos\.classes\.txt: no such file; the class names"):
        read_index(tmp_path / "videos.csv")


def test_build_from_a_folder(video_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    (tmp_path / "x.failed.csv").write_text("path,reason\nold,old\n")
    seen: list[tuple[int, int]] = []
    built, failures = build_index(
        read_folder(video_folder),
        path,
        num_processes=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert failures == []
    assert not (tmp_path / "x.failed.csv").exists()
    assert seen[-1] == (10, 10)
    assert [r.num_frames for r in built.records] == list(range(20, 30))
    assert [built.classes[r.labels[0]] for r in built.records] == ["left"] * 5 + ["right"] * 5
    assert {(r.fps, r.height, r.width) for r in built.records} == {(25, 64, 96)}
    assert {r.reader for r in built.records} <= set(READERS)  # which of them is the scan's to say
    again = read_index(path, check_files=True)
    assert (again.records, again.classes) == (built.records, built.classes)
    assert again.where(3) == built.where(3) == f"{path}:5"


def test_what_cannot_be_read_is_listed_and_left_out(video_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    good = sorted(video_folder.rglob("*.mp4"))[0]
    given = [Annotation(tmp_path / "bad.mp4", ("left",)), Annotation(good, ("left",), "g", "val")]
    path = tmp_path / "x.csv"
    index, failures = build_index(given, path, classes=ClassNames(["right", "left"]))
    assert [(r.path, r.labels, r.group, r.split) for r in index.records] == [
        (good, (1,), "g", "val")
    ]
    assert [failure.path.name for failure in failures] == ["bad.mp4"]
    rows = list(csv.reader((tmp_path / "x.failed.csv").open()))
    assert rows[0] == ["path", "reason"]
    assert rows[1][0].endswith("bad.mp4")
    assert rows[1][1].startswith("not a video, or damaged")


def test_builds_that_cannot_be(video_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    good = sorted(video_folder.rglob("*.mp4"))[0]
    with pytest.raises(UserError, match="no videos to index"):
        build_index([], path)
    with pytest.raises(UserError, match="the video stands twice"):
        build_index([Annotation(good, ("a",)), Annotation(good, ("b",))], path)
    with pytest.raises(UserError, match=r"\.mp4: 'lift' is not one of the 2 classes; did you mean"):
        build_index([Annotation(good, ("lift",))], path, classes=ClassNames(["left", "right"]))
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(UserError, match="none of the 1 files can be read as a video; the first"):
        build_index([Annotation(tmp_path / "bad.mp4", ("a",))], path)
    assert not path.exists()
    assert not path.with_suffix(".classes.txt").exists()


def test_how_to_scan_is_handed_on(
    video_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = sorted(video_folder.rglob("*.mp4"))[0]
    asked: list[dict[str, object]] = []

    def scan(paths: list[Path], **options: object) -> list[ScanFailure]:
        asked.append({name: options[name] for name in ("frames_fps", "keep_damaged")})
        return [ScanFailure(path, "not looked at") for path in paths]

    monkeypatch.setattr(building, "scan", scan)
    for frames_fps, keep_damaged in ((None, False), (12.5, True)):
        options = {"frames_fps": frames_fps, "keep_damaged": keep_damaged}
        with pytest.raises(UserError, match=r"none of the 1 files can be read .* not looked at"):
            build_index([Annotation(video, ("a",))], tmp_path / "x.csv", **options)
        assert asked.pop() == options


def test_a_name_that_a_text_file_cannot_hold_is_refused_before_the_scan(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/\xff\n.mp4"))
    with pytest.raises(UserError, match=r"\\udcff\\n\.mp4': the name is not text in UTF-8; rename"):
        build_index([Annotation(odd, ("a",))], tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == []
