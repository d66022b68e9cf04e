from __future__ import annotations

import csv
import io
import multiprocessing
import pickle
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from videokd.data.index import COLUMNS, Index, read_index, write_index
from videokd.data.index.parsing import parse_csv
from videokd.data.index.reading import _read_by_row
from videokd.data.index.records import Records
from videokd.errors import UserError
from videokd.types import ClassNames, VideoRecord

CLASSES = ClassNames(["left", "right", "up, and away", 'the "wave"'])
LABELS = ["", "left", "right;left", "up, and away", 'the "wave";left', ";right;"]
# What ends a line for one reader and not for another, and what a CSV is made of.
ODD = list("ab/.;,\"' \t\n\r\0\x0b\x0c\x1c\x85\u2028\ufeffé漢🎬1")

texts = st.text(st.sampled_from(ODD), max_size=8)
paths = st.lists(st.sampled_from(["a", "b c", "..", ".", "", ".x", "é", 'q"', "n\nl"]), min_size=1)
rows = st.fixed_dictionaries(
    {
        "path": st.builds("/".join, paths) | texts,
        "label": st.sampled_from(LABELS),
        "num_frames": st.sampled_from(["1", "300", "007"]),
        "fps": st.floats(1e-3, 1e3).map(repr) | st.sampled_from(["25", " 30 ", "1_0", "2.5e1"]),
        "height": st.just("240"),
        "width": st.integers(1, 10**18 - 1).map(str),
        "reader": st.sampled_from(["decord", "pyav"]),
        "group": texts,
        "split": st.sampled_from(["", "train", "train1;test2", "test2; train1"]),
        "bytes": st.integers(1, 10**12).map(str),
        "digest": texts,
    }
)
layouts = st.fixed_dictionaries(
    {
        "columns": st.permutations(COLUMNS),
        "end": st.sampled_from(["\n", "\r\n"]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        "bom": st.booleans(),
        "ends": st.booleans(),
        "blank": st.sets(st.integers(1, 4)),
    }
)


def csv_bytes(given_rows: list[dict[str, str]], layout: dict[str, object]) -> bytes:
    """A CSV with lines of our own choice, blank ones among them."""
    lines = []
    for i, row in enumerate([dict(zip(COLUMNS, COLUMNS, strict=True)), *given_rows]):
        text = io.StringIO(newline="")
        quoting = layout["quoting"]
        if any("\r" in value for value in row.values()):
            quoting = csv.QUOTE_ALL  # some versions of the csv module leave it bare
        writer = csv.writer(text, lineterminator=layout["end"], quoting=quoting)
        writer.writerow([row[name] for name in layout["columns"]])
        lines.append(text.getvalue() + (layout["end"] if i in layout["blank"] else ""))
    data = "".join(lines)
    if not layout["ends"]:
        data = data.rstrip("\r\n")
    return data.encode("utf-8-sig" if layout["bom"] else "utf-8")


def read_both(folder: Path, data: bytes) -> tuple[Records | None, Index | UserError]:
    """By columns, and row by row with the csv module."""
    path = folder / "videos.csv"
    path.write_bytes(data)
    path.with_suffix(".classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    columns = parse_csv(data, folder, CLASSES)
    try:
        return columns, _read_by_row(path)
    except UserError as error:
        return columns, error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index")


@given(st.lists(rows, min_size=1, max_size=4), layouts)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_columns_hold_what_the_csv_module_reads(
    folder: Path, given_rows: list[dict[str, str]], layout: dict[str, object]
) -> None:
    columns, index = read_both(folder, csv_bytes(given_rows, layout))
    if isinstance(index, UserError):  # an empty path, or one that stands twice
        assert columns is None
        return
    assert columns is not None
    assert columns == index.records
    assert list(columns) == list(index.records)
    lines = columns.numbers("line")
    assert lines.tolist() == index.columns.numbers("line").tolist()


@given(
    st.lists(rows, min_size=1, max_size=3),
    layouts,
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from([*ODD, "x", "0", "-"])), max_size=3),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_csv_is_never_read_as_something_else(
    folder: Path,
    given_rows: list[dict[str, str]],
    layout: dict[str, object],
    edits: list[tuple[int, str]],
) -> None:
    data = csv_bytes(given_rows, layout)
    for position, text in edits:
        data = data[:position] + text.encode() + data[position + 1 :]
    columns, index = read_both(folder, data)
    if columns is not None:
        assert isinstance(index, Index)
        assert columns == index.records
        assert columns.numbers("line").tolist() == index.columns.numbers("line").tolist()


def test_plain_files_are_read_at_once(folder: Path) -> None:
    # The property tests would hold if columns always gave up.
    row = "../v/a.mp4,left,10,25.0,64,96,decord,g,train,5,00"
    two = f"{row}\r\n\r\n{row.replace('a.mp4', 'b.mp4')}"
    for text in (row, two, row.replace("../v/a.mp4", '"a\nb,c.mp4"')):
        assert parse_csv(f"{','.join(COLUMNS)}\n{text}\n".encode(), folder, CLASSES) is not None


@given(st.text(st.sampled_from(ODD).filter(lambda c: c != "\0"), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_any_name_of_a_file_survives_writing_and_reading(folder: Path, name: str) -> None:
    assume("/" not in name and name not in (".", ".."))
    record = VideoRecord(folder / name, (2, 0), 3, 30000 / 1001, 4, 5, "pyav", name, "", 1, name)
    path = folder / "own" / "x.csv"
    write_index(path, [record], CLASSES)
    assert read_index(path).records == (record,)
    assert list(_read_by_row(path).records) == [record]


def test_whole_numbers_end_where_a_column_does(folder: Path) -> None:
    start = f"{','.join(COLUMNS)}\na.mp4,left,"
    columns, index = read_both(folder, f"{start}{2**63 - 1},25,4,4,decord,,,1,".encode())
    assert columns is not None
    assert columns == index.records
    assert columns[0].num_frames == 2**63 - 1
    for text in (str(2**63), "9" * 5000, "-1", "0", "000", "+1", "0x1", "1_0", "²"):
        columns, error = read_both(folder, f"{start}{text},25,4,4,decord,,,1,".encode())
        assert columns is None
        assert f"videos.csv:2: num_frames is '{text}'; it must be a whole number" in str(error)


def test_records_are_a_sequence(records: tuple[VideoRecord, ...]) -> None:
    lazy = Records.of(records)
    assert lazy == records
    assert records == lazy
    assert lazy != records[:9]
    assert lazy != (*records[:9], replace(records[9], split="x"))
    assert lazy != 3
    assert [lazy[i] for i in range(-10, 10)] == [records[i] for i in range(-10, 10)]
    assert lazy[np.int64(3)] == records[3]
    for part in (slice(2, 7), slice(None, None, -2), slice(8, 2), slice(-3, None)):
        assert tuple(lazy[part]) == records[part]
        assert lazy[part] == records[part]
    assert lazy[2:7][1:][0] == records[3]
    assert lazy[2:7].num_labels.tolist() == [1] * 5
    assert lazy[2:7].numbers("num_frames").tolist() == [22, 23, 24, 25, 26]
    assert records[4] in lazy
    assert lazy.index(records[4]) == 4
    assert repr(lazy) == "Records(10 videos)"
    with pytest.raises(IndexError, match="range"):
        lazy[10]
    assert tuple(Records.of(())) == ()


def test_columns_of_an_index(records: tuple[VideoRecord, ...], classes: ClassNames) -> None:
    given_records = (replace(records[0], labels=()), replace(records[1], labels=(1, 0)), records[2])
    index = Index(Path("x.csv"), classes, given_records)
    assert index.records == given_records
    assert index.num_frames.tolist() == [20, 21, 22]
    assert index.fps.tolist() == [25.0] * 3
    assert index.num_labels.tolist() == [0, 2, 1]
    (last,) = records[2].labels
    expected = np.bincount([1, 0, last], minlength=len(classes)).tolist()
    assert index.class_counts([0, 1, 2]).tolist() == expected
    assert index.class_counts([0]).tolist() == [0] * len(classes)
    codes, names = index.readers
    assert [names[code] for code in codes] == ["pyav", "decord", "pyav"]
    assert [index.where(i) for i in range(3)] == ["x.csv:2", "x.csv:3", "x.csv:4"]
    with pytest.raises(ValueError, match="read-only"):
        index.num_frames[0] = 1


def test_a_kept_record_has_its_line_in_a_part_of_the_index(folder: Path) -> None:
    row = "{},left,10,25.0,64,96,decord,g,train,5,00"
    names = ["a.mp4", '"b\nb.mp4"', "c.mp4"]
    lines = [",".join(COLUMNS), "", *(row.format(name) for name in names)]
    read_both(folder, "\n".join(lines).encode())
    index = read_index(folder / "videos.csv")
    assert [index.where(i) for i in range(3)] == [f"{index.path}:{line}" for line in (3, 5, 6)]
    assert replace(index, records=index.records[1:]).where(1) == f"{index.path}:6"


def test_an_index_goes_to_other_processes(
    records: tuple[VideoRecord, ...], classes: ClassNames
) -> None:
    index = Index(Path("x.csv"), classes, records)
    assert pickle.loads(pickle.dumps(index)) == index
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            assert pool.submit(list, index.records).result() == list(records)


def test_touching_every_record_keeps_none(records: tuple[VideoRecord, ...]) -> None:
    many = [replace(records[0], path=Path(f"/v/{i}.mp4"), group=f"g{i}") for i in range(8000)]
    lazy = Records.of(many)
    del many
    for record in lazy[:1500]:  # what is made once stays
        assert record.group
    tracemalloc.start()
    try:
        for i in range(0, 8000, 5):
            assert lazy[i].num_frames == 20
        for record in lazy:
            assert record.group
        del record
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 50_000
    assert peak < 1_500_000  # all records are more than 3 MB


def test_folds(records: tuple[VideoRecord, ...], classes: ClassNames) -> None:
    splits = ["train1;test2;train3", "test1;train2; train3", "train1", "", "train1;train1"]
    folded = [replace(r, split=s) for r, s in zip(records, splits, strict=False)]
    index = Index(Path("x.csv"), classes, folded)
    assert index.select("train1") == [0, 2, 4]
    assert index.select("train3") == [0, 1]
    assert index.select("test2") == [0]
    assert index.select("") == [3]
    there = (
        r"no video is in split 'train'; videos by split: \(none\): 1, test1: 1, test2: 1, "
        "train1: 3, train2: 1, train3: 2$"
    )
    with pytest.raises(UserError, match=there):
        index.select("train")
    with pytest.raises(UserError, match="no video is in split 'train1;test2;train3'"):
        index.select("train1;test2;train3")


def test_folders_of_frames_are_looked_for_as_folders(
    tmp_path: Path, records: tuple[VideoRecord, ...], classes: ClassNames
) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "frames").mkdir()
    video = replace(records[0], path=tmp_path / "a.mp4", reader="pyav")
    frames = replace(records[0], path=tmp_path / "frames", reader="frames")
    path = tmp_path / "x.csv"
    write_index(path, [video, frames], classes)
    assert read_index(path, check_files=True).records == (video, frames)
    index = Index(path, classes, [video, replace(video, path=frames.path)])
    with pytest.raises(UserError, match=r"x\.csv:3: no such file: .*frames"):
        index.check_files()
    index = Index(path, classes, [video, replace(frames, path=video.path), frames])
    with pytest.raises(UserError, match=r"x\.csv:3: no such folder of frames: .*a\.mp4"):
        index.check_files()
    index.check_files([0, 2])
