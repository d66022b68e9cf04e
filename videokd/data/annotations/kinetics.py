"""Kinetics-400, -600 and -700 as published: CSV files of YouTube segments.

Columns `label,youtube_id,time_start,time_end,split`, some with `is_cc`; the test files of some
releases have no label. Many of the videos no longer exist, so what is absent is listed and counted.
Files are named in two ways that say which segment they are, and one that does not:

- `id_000010_000020.mp4`, as the crawler of ActivityNet and the archives of CVDF have it, in folders
  by class (also with `_` for spaces, as mmaction2 renames them), by split, or in none;
- `id_10`, the folders of frames of TSM;
- `id.mp4`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.data.annotations.annotation import (
    Absent,
    Annotation,
    Annotations,
    absolute,
    refuse_all_absent,
)
from videokd.data.annotations.files import existing_folder, read_rows
from videokd.data.annotations.folder import SPLIT_FOLDERS, videos_by_stem
from videokd.errors import UserError
from videokd.types import ClassNames

COLUMNS = ("youtube_id", "time_start", "time_end", "split")
"""Columns that every release has."""


def read_kinetics(
    root: Path | str, annotations: Path | str, *, frames: bool = False
) -> Annotations:
    """The segments whose videos lie anywhere below `root`; the others are listed as absent.

    The classes are all labels of the CSV files, sorted, whether or not their videos are there:
    give the training and validation files together, so that every index numbers them alike.

    Args:
        root: the folder of videos.
        annotations: a CSV file, or a folder of them.
        frames: each video is a folder of frames, named as the video without its ending.

    Raises:
        UserError: by file and line, for a missing column or a time that is no number; and where
            not one of the videos is there.
    """
    files = _csv_files(Path(annotations))
    rows = [row for path in files for row in _rows_of(path)]
    if not rows:
        raise UserError(f"{annotations}: no rows in it")
    names = sorted({row.label for row in rows if row.label})
    finder = _Finder(videos_by_stem(existing_folder(root), frames=frames), names)
    found = [finder.find(row) for row in rows]
    taken = Counter(path for path, _ in found if path is not None)
    videos: list[Annotation] = []
    absent: list[Absent] = []
    for row, (path, reason) in zip(rows, found, strict=True):
        if path is not None and taken[path] == 1:
            videos.append(Annotation(path, row.label_names, split=row.split))
            continue
        if path is not None:
            reason = f"{path} could be this segment or that of another row"
        absent.append(Absent(row.where, row.segment, row.label_names, row.split, reason))
    refuse_all_absent(absent, len(rows))
    return Annotations(videos, ClassNames(names) if names else None, tuple(absent))


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    label: str
    youtube_id: str
    start: int
    """Seconds, whole, as file names have them."""
    end: int
    split: str

    @property
    def segment(self) -> str:
        return f"{self.youtube_id}_{self.start:06d}_{self.end:06d}"

    @property
    def label_names(self) -> tuple[str, ...]:
        return (self.label,) if self.label else ()


def _csv_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(entry for entry in path.iterdir() if entry.suffix.lower() == ".csv")
    if not files:
        raise UserError(f"{path}: no CSV file in it; give Kinetics' train.csv, val.csv, ...")
    return files


def _rows_of(path: Path) -> Iterable[_Row]:
    for number, row in read_rows(path, required=COLUMNS, allowed=None):
        where = f"{path}:{number}"
        split = row["split"].strip()
        yield _Row(
            where,
            row.get("label", "").replace('"', "").strip(),
            row["youtube_id"].strip(),
            _seconds(where, "time_start", row["time_start"]),
            _seconds(where, "time_end", row["time_end"]),
            SPLIT_FOLDERS.get(split.lower(), split),
        )


def _seconds(where: str, column: str, text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise UserError(f"{where}: {column} is {text!r}; it must be a number of seconds") from None


class _Finder:
    """The video of a row among all that lie below a folder."""

    def __init__(self, by_stem: dict[str, list[Path]], labels: Sequence[str]) -> None:
        self._by_stem = by_stem
        self._classes = {_letters(label) for label in labels}

    def find(self, row: _Row) -> tuple[Path | None, str]:
        """The video, or None and why."""
        for stem in (row.segment, f"{row.youtube_id}_{row.start}", row.youtube_id):
            there = [path for path in self._by_stem.get(stem, ()) if self._may_be(path, row)]
            if len(there) > 1:
                there = [path for path in there if row.split in _splits_in(path)] or there
            if len(there) > 1:
                return None, f"several files could be it: {there[0]}, {there[1]}"
            if there:
                return absolute(there[0]), ""
        return None, "no such file"

    def _may_be(self, path: Path, row: _Row) -> bool:
        """Not where the folder is that of another class."""
        folder = _letters(path.parent.name)
        return folder not in self._classes or not row.label or folder == _letters(row.label)


def _letters(name: str) -> str:
    """A label or the name of its folder, where spaces may be `_` and brackets may be gone."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _splits_in(path: Path) -> set[str]:
    """`{"val"}` for `.../videos_val/abseiling/...`."""
    words = re.split(r"[^a-z]+", str(path.parent).lower())
    return {SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS}
