"""Which files the loading benchmark loads from: its own, or a user's, scanned as for training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from videokd.bench.loading.files import KINDS, cache_folder, made_files
from videokd.bench.loading.jobs import SpeedFile, read_speed_file
from videokd.data.annotations import VIDEO_SUFFIXES, Annotation
from videokd.data.index import Index, build_index, read_index, write_index
from videokd.data.prepare import prepare_videos
from videokd.errors import UserError
from videokd.types import ClassNames, VideoRecord

Progress = Callable[[int, int, str], None]
Item = TypeVar("Item")

CLASS, SPLIT = "video", "bench"
"""All files are of one class and split: nobody looks at labels here."""
LONG_GOP = "long_gop"
PREPARED = "long_gop_prepared"
"""What `prepare` makes of the file with the long GOP."""
MAX_OWN_FILES = 4
"""Of a user's files so many are loaded from, evenly from the first to the last by path."""


def own_files(
    *, is_quick: bool, folder: Path | None = None, on_progress: Progress | None = None
) -> list[SpeedFile]:
    """The benchmark's files: rendered where they are not there, prepared, scanned.

    Args:
        is_quick: without the 720p file.
        folder: where they stay; by default `cache_folder()`.
        on_progress: called while they are rendered and scanned.
    """
    place = cache_folder() if folder is None else folder
    names = tuple(name for name in KINDS if not (is_quick and name == "720p"))
    paths = made_files(names, place / "files", on_progress=on_progress)
    records = _scanned(list(paths.values()), place, on_progress)
    by_path = {record.path: record for record in records}
    files = [read_speed_file(name, by_path[path.absolute()]) for name, path in paths.items()]
    return [*files, read_speed_file(PREPARED, _prepared(files[0].record, place))]


def user_files(sources: Sequence[Path], *, folder: Path | None = None) -> list[SpeedFile]:
    """Files of a user: indices (CSV), folders with videos anywhere in them, or single videos.

    Raises:
        UserError: one of them is not there or has no videos; a video that cannot be read.
    """
    place = cache_folder() if folder is None else folder
    found: list[SpeedFile] = []
    for source in sources:
        if source.suffix.lower() == ".csv":
            records = _evenly(list(read_index(source).records))
        else:
            records = _scanned(_evenly(_videos_in(source)), place)
        found += [read_speed_file(str(record.path), record) for record in records]
    return found


def repeated_index(files: Sequence[SpeedFile], count: int) -> Index:
    """An index whose rows are the files in turn, `count` rows, all of split `SPLIT`."""
    records = [replace(file.record, labels=(0,), split=SPLIT) for file in files]
    rows = [records[i % len(records)] for i in range(count)]
    return Index(Path("bench.csv"), ClassNames([CLASS]), rows)


def _prepared(record: VideoRecord, folder: Path) -> VideoRecord:
    """The row of what `videokd data prepare` makes of a video by its own defaults.

    It is made anew each time, so that it is what this version makes.
    """
    index, out = folder / "source.csv", folder / "prepared"
    shutil.rmtree(out, ignore_errors=True)
    write_index(index, [record], ClassNames([CLASS]))
    return read_index(prepare_videos(index, out).index).records[0]


def _videos_in(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"{source}: no such index, folder or video")
    found = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("._")
    )
    if not found:
        raise UserError(f"{source}: no videos in it")
    return found


def _evenly(items: list[Item]) -> list[Item]:
    step = max(1, len(items) / MAX_OWN_FILES)
    return [items[int(i * step)] for i in range(min(MAX_OWN_FILES, len(items)))]


def _scanned(
    paths: Sequence[Path], folder: Path, on_progress: Progress | None = None
) -> list[VideoRecord]:
    """Rows of an index made as for training.

    Raises:
        UserError: a file cannot be read; its reason.
    """
    index, failures = build_index(
        [Annotation(path.absolute(), (CLASS,), split=SPLIT) for path in paths],
        folder / "index.csv",
        on_progress=None if on_progress is None else lambda d, n: on_progress(d, n, "scan"),
    )
    if failures:
        raise UserError(f"{failures[0].path}: cannot be read as a video: {failures[0].reason}")
    return list(index.records)
