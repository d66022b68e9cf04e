from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from videokd.data.index import Index, read_index, reading
from videokd.data.index import cache as cache_module
from videokd.data.index.cache import cache_key, cache_path, read_cache, write_cache
from videokd.data.index.records import SCHEMA, Records
from videokd.errors import UserError
from videokd.types import ClassNames

HEADER = "path,label,num_frames,fps,height,width,reader,group,split,bytes,digest"
ROWS = ["a.mp4,left,10,25.0,64,96,decord,p1,train,5,00", "/b.mp4,,9,30.0,64,96,pyav,p2,test,6,01"]


def write(folder: Path, *rows: str, classes: str = "left\nright\n") -> Path:
    path = folder / "videos.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    (folder / "videos.classes.txt").write_text(classes)
    return path


@pytest.fixture
def small_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small indices get a cache as well."""
    monkeypatch.setattr(reading, "CACHE_FROM_BYTES", 0)


def read_without_csv(path: Path) -> Index:
    """Fails if the cache is not used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(reading, "parse_csv")
        patch.delattr(reading, "_read_by_row")
        return read_index(path)


def test_a_small_index_leaves_no_cache(tmp_path: Path) -> None:
    read_index(write(tmp_path, *ROWS))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["videos.classes.txt", "videos.csv"]


@pytest.mark.usefixtures("small_too")
def test_the_second_opening_is_through_the_cache(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS[0], "", ROWS[1])
    first = read_index(path)
    names = ["videos.cache.arrow", "videos.classes.txt", "videos.csv"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    again = read_without_csv(path)
    assert again == first
    assert again.records == first.records
    assert [again.where(0), again.where(1)] == [f"{path}:2", f"{path}:4"]
    assert again.records[0].path == tmp_path / "a.mp4"
    assert again.select("test") == [1]


@pytest.mark.usefixtures("small_too")
def test_a_cache_of_other_bytes_is_not_used(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)
    read_index(path)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_text(path.read_text().replace(",10,", ",11,"))
    os.utime(path, ns=times)  # size and time are as they were
    assert read_index(path).records[0].num_frames == 11
    assert read_without_csv(path).records[0].num_frames == 11


@pytest.mark.usefixtures("small_too")
def test_a_cache_for_other_classes_is_not_used(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)
    assert read_index(path).records[0].labels == (0,)
    write(tmp_path, *ROWS, classes="right\nleft\n")
    assert read_index(path).records[0].labels == (1,)
    write(tmp_path, *ROWS, classes="right\nup\n")
    with pytest.raises(UserError, match=r"videos\.csv:2: 'left' is not one of the 2 classes"):
        read_index(path)


@pytest.mark.usefixtures("small_too")
def test_a_cache_of_another_folder_is_not_used(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    read_index(write(there, *ROWS))
    here = Path(shutil.copytree(there, tmp_path / "here"))
    found = [record.path for record in read_index(here / "videos.csv").records]
    assert found == [here / "a.mp4", Path("/b.mp4")]


@pytest.mark.usefixtures("small_too")
def test_a_cache_of_another_version_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, *ROWS)
    read_index(path)
    for name, value in (("_LAYOUT", 0), ("READERS", {"decord": None, "new": None})):
        with monkeypatch.context() as patch:
            patch.setattr(cache_module, name, value)
            key = cache_key(path.read_bytes(), tmp_path, ClassNames(["left", "right"]))
            assert read_cache(cache_path(path), key) is None
    assert read_without_csv(path) == read_index(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index, bytes]:
    """A CSV, what it holds, and its cache."""
    folder = tmp_path_factory.mktemp("index")
    path = write(folder, *ROWS)
    index = read_index(path)
    key = cache_key(path.read_bytes(), folder, index.classes)
    write_cache(cache_path(path), key, index.columns)
    return path, index, cache_path(path).read_bytes()


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_cache_is_not_used(good: tuple[Path, Index, bytes], data: st.DataObject) -> None:
    path, index, content = good
    position = data.draw(st.integers(0, len(content) - 1))
    flipped = bytes([content[position] ^ data.draw(st.integers(1, 255))])
    damaged = data.draw(
        st.sampled_from(
            [
                content[:position],
                content[:position] + flipped + content[position + 1 :],
                content + flipped,
                content[position:] + content[:position] if position else b"",
            ]
        )
    )
    cache_path(path).write_bytes(damaged)
    key = cache_key(path.read_bytes(), path.parent, index.classes)
    assert read_cache(cache_path(path), key) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "CACHE_FROM_BYTES", 0)
        assert read_index(path) == index
        assert cache_path(path).read_bytes() == content  # mended
        assert read_without_csv(path) == index


def forged(batch: pa.RecordBatch, key: bytes) -> bytes:
    """A cache with a good digest of anything."""
    sink = pa.BufferOutputStream()
    batch = batch.replace_schema_metadata({cache_module._KEY: key})
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content = sink.getvalue().to_pybytes()
    return content + hashlib.sha256(content).digest()


def test_a_cache_with_other_content_is_not_used(good: tuple[Path, Index, bytes]) -> None:
    path, index, _ = good
    key = cache_key(path.read_bytes(), path.parent, index.classes)
    place = cache_path(path)
    batch = index.columns.batch
    place.write_bytes(forged(batch, key))
    assert read_cache(place, key) == index.records
    offsets = pa.py_buffer(b"\0" * 8 + b"\xff" * 8 + b"\1" + b"\0" * 7)
    wild = pa.Array.from_buffers(pa.large_string(), 2, [None, offsets, pa.py_buffer(b"x")])
    for other in (
        batch.drop_columns(["line"]),
        batch.set_column(2, "num_frames", pa.array([1.0, 2.0])),
        batch.set_column(0, "path", wild),
        batch.set_column(9, "bytes", pa.array([None, 1], pa.int64())),
        pa.record_batch([], schema=pa.schema([])),
    ):
        place.write_bytes(forged(other, key))
        assert read_cache(place, key) is None
    for nothing in (b"", b"x", hashlib.sha256(b"").digest(), b"ARROW1" * 20):
        place.write_bytes(nothing)
        assert read_cache(place, key) is None
    place.unlink()
    assert read_cache(place, key) is None


@pytest.mark.usefixtures("small_too")
@pytest.mark.parametrize("fault", [PermissionError(13, "denied"), OSError(30, "read-only"), None])
def test_a_place_that_cannot_be_written_is_no_error(
    fault: OSError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, *ROWS)
    if fault is None:
        cache_path(path).mkdir()
    else:

        def refuse(*_args: object, **_keywords: object) -> None:
            raise fault

        monkeypatch.setattr(pa, "OSFile", refuse)
    before = sorted(p.name for p in tmp_path.iterdir())
    for _ in range(2):
        assert [record.num_frames for record in read_index(path).records] == [10, 9]
        assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.usefixtures("small_too")
def test_a_faulty_index_is_not_cached(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS, ROWS[0])
    for _ in range(2):
        with pytest.raises(UserError, match=r"videos\.csv:4: .*a\.mp4 stands already in line 2"):
            read_index(path)
    assert not cache_path(path).exists()


@pytest.mark.usefixtures("small_too")
def test_missing_files_are_looked_for_in_a_cached_index_too(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)
    (tmp_path / "a.mp4").touch()
    read_index(path)
    with pytest.raises(UserError, match=r"videos\.csv:3: no such file: /b\.mp4"):
        read_index(path, check_files=True)


def test_the_schema_is_the_layout() -> None:
    # Whoever changes the columns counts `_LAYOUT` up, and this digest with it.
    digest = hashlib.sha256(str(SCHEMA).encode()).hexdigest()[:16]
    assert (cache_module._LAYOUT, digest) == (1, "c8f91582a47708b1")


@pytest.fixture(scope="module")
def measure_index() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "measure_index.py"
    spec = importlib.util.spec_from_file_location("measure_index", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_big(tool: ModuleType, folder: Path, num_videos: int) -> None:
    path = tool.write_csv(folder, num_videos)
    by_row = {i: [str(value) for value in tool.row(i)] for i in range(0, num_videos, 4999)}
    measured = [tool.measure(path, way) for way in tool.WAYS[1:]]
    assert cache_path(path).is_file()
    for found in measured:
        assert found["num_videos"] == num_videos
        assert found["peak_gib"] < 1
    for index in (read_without_csv(path), reading.Index(path, *parsed(path))):
        assert len(index) == num_videos
        for i, row in by_row.items():
            record = index.records[i]
            assert index.where(i) == f"{path}:{i + 2}"
            assert row == [
                record.path.relative_to(folder).as_posix(),
                index.classes[record.labels[0]],
                *map(str, (record.num_frames, record.fps, record.height, record.width)),
                *map(str, (record.reader, record.group, record.split, record.bytes)),
                record.digest,
            ]
        assert len(index.select("val")) == -(-num_videos // 10)


def parsed(path: Path) -> tuple[ClassNames, Records]:
    classes = reading.read_classes(reading.classes_path(path))
    records = reading.parse_csv(path.read_bytes(), path.parent, classes)
    assert records is not None
    return classes, records


def test_a_big_index_opens_through_its_cache(measure_index: ModuleType, tmp_path: Path) -> None:
    check_big(measure_index, tmp_path, 30_000)


@pytest.mark.slow
def test_a_million_videos_open_in_a_gibibyte(measure_index: ModuleType, tmp_path: Path) -> None:
    check_big(measure_index, tmp_path, 1_000_000)


def test_the_measurement_says_its_figures(measure_index: ModuleType) -> None:
    command = [sys.executable, measure_index.__file__, "--num-videos", "50", "--rounds", "1"]
    done = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    document = json.loads(done.stdout)
    (only,) = document["rounds"]
    assert set(only) == {"csv.reader", "without cache", "with cache"}
    for found in only.values():
        assert found["num_videos"] == 50
        assert 0 <= found["import_seconds"] <= found["seconds"] < 300
        assert 0 < found["peak_gib"] < 1
