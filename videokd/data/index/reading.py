"""Opening an index: from its cache, or from all rows at once, or row by row to name a fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from videokd.data.annotations import (
    MEMBERSHIP_SEPARATOR,
    absolute,
    read_class_file,
    read_rows,
)
from videokd.data.index.cache import cache_key, cache_path, read_cache, write_cache
from videokd.data.index.parsing import parse_csv
from videokd.data.index.presence import first_missing
from videokd.data.index.records import Records
from videokd.data.index.rows import COLUMNS, read_records
from videokd.errors import UserError
from videokd.types import ClassNames, VideoRecord

CACHE_FROM_BYTES = 1 << 20
"""A smaller CSV is read in a moment, and no cache is laid beside it."""

_FRAMES = "frames"
"""The reader whose videos are folders."""


@dataclass(frozen=True)
class Index:
    """The videos of a data set; a video's id is its position in `records`."""

    path: Path
    """The CSV."""
    classes: ClassNames
    records: Sequence[VideoRecord]
    """Any sequence may be given; it is kept as columns, and a record is made when it is asked for.
    """

    def __post_init__(self) -> None:
        if not isinstance(self.records, Records):
            object.__setattr__(self, "records", Records.of(self.records))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def columns(self) -> Records:
        """`records`, by the name of what they are."""
        return cast(Records, self.records)

    @property
    def num_frames(self) -> NDArray[np.int64]:
        """Frames of each video, [len(self)], read-only."""
        return self.columns.numbers("num_frames")

    @property
    def fps(self) -> NDArray[np.float64]:
        """Frames per second of each video, [len(self)], read-only."""
        return self.columns.numbers("fps")

    @property
    def num_labels(self) -> NDArray[np.int32]:
        """Labels of each video, [len(self)]: 1, more (multi-label), or 0 (unlabelled)."""
        return self.columns.num_labels

    def class_counts(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Videos of each class among these ids, [len(classes)]."""
        return np.bincount(self.columns.labels_of(ids), minlength=len(self.classes))

    @property
    def readers(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """Codes [len(self)] and names: `names[codes[i]]` is the exact reader of video i."""
        return self.columns.coded("reader")

    def select(self, split: str) -> list[int]:
        """Ids of the videos of a split, ascending.

        A video may be in several splits, joined by `;`: one of `train1;test2` is in both.

        Raises:
            UserError: there are none; it names the splits that there are.
        """
        codes, texts = self.columns.coded("split")
        chosen = np.array([split in splits_of(text) for text in texts], dtype=bool)
        ids: list[int] = np.flatnonzero(chosen[codes]).tolist()
        if ids:
            return ids
        counts: Counter[str] = Counter()
        for text, count in zip(texts, np.bincount(codes, minlength=len(texts)), strict=True):
            counts.update(dict.fromkeys(splits_of(text), int(count)))
        there = ", ".join(f"{name or '(none)'}: {n}" for name, n in sorted(counts.items()) if n)
        raise UserError(f"{self.path}: no video is in split {split!r}; videos by split: {there}")

    def where(self, video_id: int) -> str:
        """File and line of a video, for errors."""
        return f"{self.path}:{self.columns.numbers('line')[video_id]}"

    def check_files(self, ids: Iterable[int] | None = None) -> None:
        """Look for each video (of `ids`), a file or for the reader `frames` a folder.

        Raises:
            UserError: the first that is missing, by file and line.
        """
        codes, names = self.readers
        are_folders = np.array([name == _FRAMES for name in names], dtype=bool)[codes]
        rows = np.arange(len(self)) if ids is None else np.fromiter(ids, dtype=np.int64)
        paths: list[str] = self.columns.texts("path").take(pa.array(rows)).to_pylist()
        missing = first_missing(paths, are_folders[rows].tolist())
        if missing is not None:
            video_id = int(rows[missing])
            kind = "folder of frames" if are_folders[video_id] else "file"
            raise UserError(f"{self.where(video_id)}: no such {kind}: {paths[missing]}")


def splits_of(text: str) -> list[str]:
    """`train1;test2` -> its splits; no text is the one split without a name."""
    return list(dict.fromkeys(name.strip() for name in text.split(MEMBERSHIP_SEPARATOR)))


def read_index(path: Path | str, *, check_files: bool = False) -> Index:
    """Read an index CSV and its class names.

    Args:
        path: the CSV.
        check_files: look for each video, and refuse the first that is missing by its line.

    Raises:
        UserError: by file and line, for a missing column, a number that is none, a label outside
            the classes, an unknown reader, a video that stands twice; or for an empty index.
    """
    source = Path(path)
    if not source.exists():
        raise UserError(
            f"{source}: no such file; make the index with `videokd data index`, data/README.md has "
            "the command for each data set"
        )
    index = _read_at_once(source) or _read_by_row(source)
    if check_files:
        index.check_files()
    return index


def read_classes(path: Path) -> ClassNames:
    """The class names beside an index.

    Raises:
        UserError: the file is missing, empty, or names a class twice.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; the class names lie there beside the index, one a line"
        )
    return read_class_file(path).names


def classes_path(index_path: Path) -> Path:
    """Where the class names of an index lie."""
    return index_path.with_suffix(".classes.txt")


def _read_at_once(source: Path) -> Index | None:
    """The index from its cache, or from the CSV as a whole; None where anything is amiss."""
    folder = absolute(source.parent)
    try:
        data = source.read_bytes()
        classes = read_classes(classes_path(source))
    except (OSError, UserError):
        return None
    if len(data) < CACHE_FROM_BYTES:
        records = parse_csv(data, folder, classes)
    else:
        key = cache_key(data, folder, classes)
        records = read_cache(cache_path(source), key)
        if records is None:
            records = parse_csv(data, folder, classes)
            if records is not None:
                write_cache(cache_path(source), key, records)
    return None if records is None else Index(source, classes, records)


def _read_by_row(source: Path) -> Index:
    """The same row by row: slower, and the first fault is named by its line."""
    rows = list(read_rows(source, required=COLUMNS, allowed=COLUMNS))
    if not rows:
        raise UserError(f"{source}: no videos in it; make it again with `videokd data index`")
    classes = read_classes(classes_path(source))
    records = read_records(rows, source, classes)
    return Index(source, classes, Records.of(records, [line for line, _ in rows]))
