"""One call from what a user has to an index."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numbered_video import write_numbered

from videokd.data.annotations import Annotation
from videokd.data.index import Index, read_index
from videokd.data.indexing import (
    Indexed,
    IndexRequest,
    Miscounted,
    index_synthetic,
    index_videos,
    read_annotations,
)
from videokd.data.synthetic import CLASS_NAMES
from videokd.errors import ConfigError, UserError
from videokd.types import ClassNames


def test_the_embedded_set_is_indexed_by_its_folders(tiny_index: Index) -> None:
    assert tuple(tiny_index.classes) == CLASS_NAMES
    counts = Counter(record.split for record in tiny_index.records)
    assert counts == {"train": 24, "val": 12, "test": 12}
    for record in tiny_index.records:
        assert record.path.parent.name == tiny_index.classes[record.labels[0]]
        assert record.path.parent.parent.name == record.split
        assert (record.num_frames, record.height, record.width) == (12, 32, 32)
        assert record.reader == "pyav"  # the faster of the two for H.264


def test_a_finished_set_is_only_read(tiny_index: Index) -> None:
    out = tiny_index.path.parent
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    again = index_synthetic(out, preset="tiny", seed=0, num_processes=1)
    assert again.records == tiny_index.records
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before


def test_another_seed_does_not_overwrite(tiny_index: Index) -> None:
    with pytest.raises(UserError, match="seed"):
        index_synthetic(tiny_index.path.parent, preset="tiny", seed=1, num_processes=1)


def test_ratio_deals_each_class(tiny_index: Index) -> None:
    request = IndexRequest(source=tiny_index.path.parent / "train", ratio=(1.0, 0.0, 1.0))
    found = read_annotations(request)
    assert found.classes is None
    counts = Counter((a.label_names[0], a.split) for a in found.videos)
    assert counts == {(name, split): 1 for name in CLASS_NAMES for split in ("train", "test")}


def test_named_groups_move_and_the_rest_trains(tiny_index: Index) -> None:
    source = tiny_index.path.parent / "train"
    request = IndexRequest(
        source=source,
        group_pattern=r"(\d)$",
        val_groups=("3",),
        test_groups=("4", "5"),
    )
    annotations = read_annotations(request).videos
    for annotation in annotations:
        expected = {"3": "val", "4": "test", "5": "test"}.get(annotation.group, "train")
        assert annotation.split == expected
    assert [a.path for a in annotations] == sorted(source.rglob("*.mp4"))


def test_groups_need_to_be_known(tiny_index: Index) -> None:
    request = IndexRequest(source=tiny_index.path.parent / "train", val_groups=("3",))
    with pytest.raises(ConfigError, match="the videos have none; give --group-pattern"):
        read_annotations(request)


def test_an_index_can_be_made_from_an_annotation_csv(tiny_index: Index, tmp_path: Path) -> None:
    records = [tiny_index.records[i] for i in tiny_index.select("val")][:3]
    lines = [f"{r.path},{tiny_index.classes[r.labels[0]]},g{n},val" for n, r in enumerate(records)]
    source = tmp_path / "mine.csv"
    source.write_text("path,label,group,split\n" + "\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "index.csv"
    done = index_videos(IndexRequest(source=source), out, num_processes=1, time_limit_seconds=60)
    assert (done.failures, done.absent, done.miscounted) == ([], (), [])
    assert [(r.path, r.group, r.split) for r in read_index(out).records] == [
        (r.path, f"g{n}", "val") for n, r in enumerate(records)
    ]


def test_a_source_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder, list or CSV"):
        read_annotations(IndexRequest(source=tmp_path / "nothing.csv"))


def indexed(request: IndexRequest, out: Path) -> Indexed:
    return index_videos(request, out, num_processes=1, time_limit_seconds=60)


@pytest.fixture
def ucf101(tmp_path: Path, video_folder: Path) -> IndexRequest:
    """Three videos in the form of UCF101, with two folds."""
    folder, lists = tmp_path / "UCF-101" / "Archery", tmp_path / "lists"
    folder.mkdir(parents=True)
    lists.mkdir()
    names = [f"v_Archery_g0{n}_c01.avi" for n in (1, 2, 3)]
    for name, video in zip(names, sorted((video_folder / "left").iterdir()), strict=False):
        shutil.copy(video, folder / name)
    paths = [f"Archery/{name}" for name in names]
    (lists / "classInd.txt").write_text("1 Archery\r\n2 Bowling\r\n")
    for fold, test in ((1, paths[0]), (2, paths[1])):
        train = [f"{path} 1" for path in paths if path != test]
        (lists / f"trainlist0{fold}.txt").write_text("\r\n".join(train))
        (lists / f"testlist0{fold}.txt").write_text(test)
    return IndexRequest(source=folder.parent, format="ucf101", annotations=lists)


def test_one_index_holds_all_folds(ucf101: IndexRequest, tmp_path: Path) -> None:
    done = indexed(ucf101, tmp_path / "ucf101.csv")
    index = read_index(tmp_path / "ucf101.csv")
    assert list(index.classes) == ["Archery", "Bowling"]
    names = [record.path.name for record in index.records]
    assert names == ["v_Archery_g01_c01.avi", "v_Archery_g02_c01.avi", "v_Archery_g03_c01.avi"]
    assert [len(index.select(split)) for split in ("train1", "test1", "train2", "test2")] == [
        2, 1, 2, 1,
    ]  # fmt: skip
    assert [index.records[i].path.name for i in index.select("test2")] == names[1:2]
    assert [record.group for record in index.records] == [
        "Archery_g01", "Archery_g02", "Archery_g03",
    ]  # fmt: skip
    assert (done.failures, done.absent, done.miscounted) == ([], (), [])
    assert not (tmp_path / "ucf101.absent.csv").exists()


def test_absent_videos_are_listed_beside_the_index(ucf101: IndexRequest, tmp_path: Path) -> None:
    out = tmp_path / "ucf101.csv"
    (ucf101.source / "Archery" / "v_Archery_g03_c01.avi").unlink()
    with pytest.raises(UserError, match=r"no such file: .*v_Archery_g03_c01\.avi"):
        indexed(ucf101, out)
    assert not out.exists()
    assert len(indexed(replace(ucf101, allow_absent=True), out).index) == 2
    with (tmp_path / "ucf101.absent.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {
            "annotation": f"{ucf101.annotations}/trainlist01.txt:2",
            "video": f"{ucf101.source}/Archery/v_Archery_g03_c01.avi",
            "label": "Archery",
            "split": "train1;train2",
            "reason": "no such file",
        }
    ]
    shutil.copy(next(ucf101.source.rglob("*.avi")), rows[0]["video"])
    index_videos(ucf101, out, num_processes=1, time_limit_seconds=60, replace_existing=True)
    assert not (tmp_path / "ucf101.absent.csv").exists()


def test_folds_are_not_dealt_anew(ucf101: IndexRequest) -> None:
    for changes in ({"ratio": (3.0, 1.0, 1.0)}, {"test_groups": ("Archery_g01",)}):
        with pytest.raises(ConfigError, match="the data set has folds of its own; leave out"):
            read_annotations(replace(ucf101, **changes))


def test_kinetics_unlabelled_and_absent(video_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    clips = sorted((video_folder / "left").iterdir())
    shutil.copy(clips[0], tmp_path / "videos" / "AAAAAAAAAAA_000001_000011.mp4")
    shutil.copy(clips[1], tmp_path / "videos" / "BBBBBBBBBBB.mp4")
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "zumba,AAAAAAAAAAA,1,11,val\nabseiling,CCCCCCCCCCC,5,15,val\n"
    )
    (tmp_path / "csv" / "test.csv").write_text(
        "youtube_id,time_start,time_end,split\nBBBBBBBBBBB,7,17,test\n"
    )
    request = IndexRequest(
        source=tmp_path / "videos", format="kinetics", annotations=tmp_path / "csv"
    )
    done = indexed(request, tmp_path / "k.csv")
    assert [absent.video for absent in done.absent] == ["CCCCCCCCCCC_000005_000015"]
    assert (tmp_path / "k.absent.csv").is_file()
    index = read_index(tmp_path / "k.csv")
    assert list(index.classes) == ["abseiling", "zumba"]  # the absent class keeps its number
    assert [(record.labels, record.split) for record in index.records] == [
        ((), "test"), ((1,), "val"),
    ]  # fmt: skip


def write_frames(folder: Path, count: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (32, 24), (number, 0, 0)).save(folder / f"img_{number:05d}.jpg")


def test_folders_of_frames(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames" / "a", 5)
    write_frames(tmp_path / "frames" / "b", 4)
    (tmp_path / "list.txt").write_text("a 5 0\nb 7 1\n")
    request = IndexRequest(
        source=tmp_path / "frames",
        format="mmaction2",
        lists={"train": tmp_path / "list.txt"},
        frames_fps=12.0,
    )
    done = indexed(request, tmp_path / "f.csv")
    assert [(r.path.name, r.num_frames, r.fps, r.height) for r in done.index.records] == [
        ("a", 5, 12.0, 24), ("b", 4, 12.0, 24),
    ]  # fmt: skip
    assert done.miscounted == [Miscounted(tmp_path / "frames" / "b", 7, 4)]
    with pytest.raises(ConfigError, match=r"frames/a: a folder of frames, and nothing .* --frames"):
        indexed(replace(request, frames_fps=None), tmp_path / "g.csv")


def test_class_folders_of_frames(tmp_path: Path) -> None:
    write_frames(tmp_path / "x" / "wave" / "one", 2)
    write_frames(tmp_path / "x" / "wave" / "deep" / "two", 2)
    found = read_annotations(IndexRequest(source=tmp_path / "x", frames_fps=25.0))
    assert [(v.path.name, v.label_names) for v in found.videos] == [
        ("two", ("wave",)), ("one", ("wave",)),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"one: it holds frames itself; expected wave/<class>/"):
        read_annotations(IndexRequest(source=tmp_path / "x" / "wave", frames_fps=25.0))
    (tmp_path / "x" / "clap").mkdir()
    with pytest.raises(UserError, match="clap: no folders of frames in it; remove the folder"):
        read_annotations(IndexRequest(source=tmp_path / "x", frames_fps=25.0))


def test_each_format_says_what_it_needs(tmp_path: Path) -> None:
    source, file = tmp_path, tmp_path / "a.txt"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"format": "ucf101"}, "format ucf101 needs --annotations beside the folder"),
        ({"format": "mmaction2"}, "format mmaction2 needs --list SPLIT=FILE beside"),
        ({"annotations": file}, "--annotations needs --format; known: folder, csv, list, ucf101"),
        ({"format": "ucf"}, "format 'ucf' is not known; did you mean 'ucf101'"),
        ({"format": "hmdb51", "annotations": file, "lists": {"a": file}}, "--list means nothing"),
        ({"format": "folder", "multi_label": True}, "--multi-label means nothing to the format"),
        ({"format": "kinetics", "annotations": file, "allow_absent": True}, "--allow-absent means"),
        ({"format": "list", "annotations": file, "lists": {"a": file}}, "--annotations and --list"),
        (
            {"format": "something", "annotations": file, "classes": file},
            "--classes goes with --list",
        ),
        ({"format": "ucf101", "annotations": file, "classes": file}, "--classes means nothing"),
        ({"frames_fps": 0.0}, r"--frames-fps is 0\.0; it must be above 0"),
        ({"lists": {"a": file}, "delimiter": ""}, "--delimiter is empty"),
    ]
    for changes, why in cases:
        with pytest.raises(ConfigError, match=why):
            read_annotations(IndexRequest(source=source, **changes))


def test_lists_and_csv_beside_a_folder_of_videos(video_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("left/p0_clip 0.mp4,left\n")
    (tmp_path / "a.csv").write_text("path,label\nleft/p0_clip 0.mp4,left\n")
    expected = [Annotation(video_folder / "left" / "p0_clip 0.mp4", ("left",))]
    for kind, name in (("list", "a.txt"), ("csv", "a.csv")):
        request = IndexRequest(
            source=video_folder,
            format=kind,  # type: ignore[arg-type]
            annotations=tmp_path / name,
            delimiter="," if kind == "list" else None,
        )
        assert read_annotations(request).videos == expected


def test_classes_of_ones_own_order(video_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("right\nup\nleft\n")
    found = read_annotations(IndexRequest(source=video_folder, classes=tmp_path / "classes.txt"))
    assert found.classes == ClassNames(["right", "up", "left"])
    assert Counter(v.label_names for v in found.videos) == {("left",): 5, ("right",): 5}


def test_something_by_json_and_by_lists(video_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    shutil.copy(video_folder / "left" / "p0_clip 0.mp4", tmp_path / "v" / "7.webm")
    for name, data in (("labels", {"A b": "0"}), ("train", [{"id": 7, "template": "A [b]"}])):
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    (tmp_path / "list.txt").write_text("7 0 19 0\n")
    by_json = IndexRequest(source=tmp_path / "v", format="something", annotations=tmp_path)
    by_list = IndexRequest(
        source=tmp_path / "v",
        format="something",
        lists={"train": tmp_path / "list.txt"},
        classes=tmp_path / "labels.json",
    )
    first, second = read_annotations(by_json), read_annotations(by_list)
    assert first.videos == [Annotation(tmp_path / "v" / "7.webm", ("A b",), split="train")]
    assert second.videos == [replace(first.videos[0], num_frames=20)]
    assert first.classes == second.classes
    assert indexed(by_list, tmp_path / "i.csv").miscounted == []  # the first clip has 20 frames


def test_a_reader_is_taken_where_it_is_exact(tmp_path: Path) -> None:
    folder = tmp_path / "videos" / "one"
    folder.mkdir(parents=True)
    write_numbered(folder / "plain.mp4", 30, max_b_frames=2)
    write_numbered(folder / "cut.mp4", 30, hidden=5, max_b_frames=2)
    for name, expected in ((None, "pyav"), ("decord", "decord")):
        request = IndexRequest(source=tmp_path / "videos", reader=name)
        out = tmp_path / f"{expected}.csv"
        index = index_videos(request, out, num_processes=1, time_limit_seconds=60).index
        readers = {record.path.name: record.reader for record in index.records}
        assert readers == {"plain.mp4": expected, "cut.mp4": "pyav"}  # an edit list
