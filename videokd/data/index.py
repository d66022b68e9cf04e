"""The index: a CSV with one row a video, made by a scan, and the class names beside it.

`videos.csv` has its class names in `videos.classes.txt`, one a line in the order of their indices,
and after a build the files that could not be read in `videos.failed.csv` and what was noticed on
readable ones in `videos.notes.csv`. Nothing here imports torch.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videokd.config import did_you_mean
from videokd.data.annotations import (
    Annotation,
    absolute,
    default_classes,
    read_class_file,
    read_rows,
)
from videokd.data.readers import READERS
from videokd.data.scan import ScanFailure, ScanResult, scan
from videokd.errors import UserError
from videokd.files import write_text
from videokd.types import ClassNames, VideoRecord

COLUMNS = (
    "path",
    "label",
    "num_frames",
    "fps",
    "height",
    "width",
    "reader",
    "group",
    "split",
    "bytes",
    "digest",
)
"""The CSV's columns, named as the fields of `VideoRecord`; `label` holds class names, by `;`."""


@dataclass(frozen=True)
class Index:
    """The videos of a data set; a video's id is its position in `records`."""

    path: Path
    """The CSV."""
    classes: ClassNames
    records: tuple[VideoRecord, ...]
    lines: tuple[int, ...] = field(default=(), repr=False)
    """Line of the CSV of each record; where not given, one line each below the header."""

    def __len__(self) -> int:
        return len(self.records)

    def select(self, split: str) -> list[int]:
        """Ids of the videos of a split, ascending.

        Raises:
            UserError: there are none; it names the splits that there are.
        """
        ids = [i for i, record in enumerate(self.records) if record.split == split]
        if ids:
            return ids
        counts = Counter(record.split for record in self.records)
        there = ", ".join(f"{name or '(none)'}: {n}" for name, n in sorted(counts.items()))
        raise UserError(f"{self.path}: no video is in split {split!r}; videos by split: {there}")

    def where(self, video_id: int) -> str:
        """File and line of a video, for errors."""
        line = self.lines[video_id] if self.lines else video_id + 2
        return f"{self.path}:{line}"


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
    folder = absolute(source.parent)
    rows = list(read_rows(source, required=COLUMNS, allowed=COLUMNS))
    if not rows:
        raise UserError(f"{source}: no videos in it; make it again with `videokd data index`")
    classes = read_classes(classes_path(source))
    records: list[VideoRecord] = []
    seen: dict[Path, int] = {}
    for line, row in rows:
        try:
            record = _record(row, folder, classes)
        except UserError as error:
            raise UserError(f"{source}:{line}: {error}") from None
        if record.path in seen:
            raise UserError(
                f"{source}:{line}: {record.path} stands already in line {seen[record.path]}"
            )
        if check_files and not record.path.is_file():
            raise UserError(f"{source}:{line}: no such file: {record.path}")
        seen[record.path] = line
        records.append(record)
    return Index(source, classes, tuple(records), tuple(line for line, _ in rows))


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


def write_index(path: Path | str, records: Sequence[VideoRecord], classes: ClassNames) -> None:
    """Write an index CSV and its class names, each beside and then renamed.

    Paths are written relative to the CSV if the two share a folder other than the root of the file
    system, so that a data set and its index can be moved together.
    """
    target = Path(path)
    if not records:
        raise UserError(f"{target}: no videos to write")
    folder = absolute(target.parent)
    rows = [_row(record, folder, classes) for record in records]
    write_text(classes_path(target), "".join(f"{name}\n" for name in classes))
    _write_csv(target, COLUMNS, rows)


def build_index(
    annotations: Sequence[Annotation],
    out_csv: Path | str,
    *,
    classes: ClassNames | None = None,
    num_processes: int = 1,
    time_limit_seconds: float = 120.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Index, list[ScanFailure]]:
    """Scan the videos and write their index; what cannot be read is listed and left out.

    Args:
        annotations: the videos, in the order of the index's rows.
        out_csv: the index; `<stem>.classes.txt`, and where there is something to say
            `<stem>.failed.csv` (path, reason) and `<stem>.notes.csv` (path, note), go beside it.
        classes: index -> name; without it, all label names, sorted.
        num_processes: processes that decode.
        time_limit_seconds: how long one file may take.
        on_progress: called with (files done, files in all).

    Raises:
        UserError: no annotations, a label outside `classes`, a video that stands twice, or no file
            that can be read.
    """
    target = Path(out_csv)
    if not annotations:
        raise UserError(f"{target}: no videos to index")
    repeated = [p for p, n in Counter(a.path for a in annotations).items() if n > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: the video stands twice; index each video once")
    names = default_classes(annotations) if classes is None else classes
    labels = [_label_indices(annotation, names) for annotation in annotations]
    found = scan(
        [annotation.path for annotation in annotations],
        num_processes=num_processes,
        time_limit_seconds=time_limit_seconds,
        on_progress=on_progress,
    )
    failures = [result for result in found if isinstance(result, ScanFailure)]
    records = [
        _scanned_record(result, annotation, label)
        for result, annotation, label in zip(found, annotations, labels, strict=True)
        if isinstance(result, ScanResult)
    ]
    _write_or_remove(
        target.with_suffix(".failed.csv"),
        ("path", "reason"),
        [(str(failure.path), failure.reason) for failure in failures],
    )
    if not records:
        raise UserError(
            f"{target}: none of the {len(found)} files can be read as a video; the first: "
            f"{failures[0].path}: {failures[0].reason}"
        )
    notes = [(str(r.path), r.note) for r in found if isinstance(r, ScanResult) and r.note]
    _write_or_remove(target.with_suffix(".notes.csv"), ("path", "note"), notes)
    write_index(target, records, names)
    return Index(target, names, tuple(records)), failures


def classes_path(index_path: Path) -> Path:
    """Where the class names of an index lie."""
    return index_path.with_suffix(".classes.txt")


def _record(row: dict[str, str], folder: Path, classes: ClassNames) -> VideoRecord:
    if not row["path"]:
        raise UserError("the path is empty")
    if row["reader"] not in READERS:
        raise UserError(
            f"reader {row['reader']!r} is not known; {did_you_mean(row['reader'], list(READERS))}"
        )
    labels = tuple(classes.index_of(name) for name in row["label"].split(";") if name)
    return VideoRecord(
        path=absolute(folder / row["path"]),
        labels=labels,
        num_frames=_positive_int(row, "num_frames"),
        fps=_positive_float(row, "fps"),
        height=_positive_int(row, "height"),
        width=_positive_int(row, "width"),
        reader=row["reader"],
        group=row["group"],
        split=row["split"],
        bytes=_positive_int(row, "bytes"),
        digest=row["digest"],
    )


def _positive_int(row: dict[str, str], column: str) -> int:
    text = row[column]
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{column} is {text!r}; it must be a whole number above 0")
    return int(text)


def _positive_float(row: dict[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{column} is {row[column]!r}; it must be a number above 0")
    return value


def _row(record: VideoRecord, folder: Path, classes: ClassNames) -> tuple[object, ...]:
    return (
        _relative(record.path, folder),
        ";".join(classes[label] for label in record.labels),
        record.num_frames,
        repr(float(record.fps)),
        record.height,
        record.width,
        record.reader,
        record.group,
        record.split,
        record.bytes,
        record.digest,
    )


def _relative(path: Path, folder: Path) -> str:
    full = absolute(path)
    try:
        common = Path(os.path.commonpath([full, folder]))
    except ValueError:  # two drives
        return str(full)
    is_root = common == Path(common.anchor)
    return str(full) if is_root else Path(os.path.relpath(full, folder)).as_posix()


def _label_indices(annotation: Annotation, classes: ClassNames) -> tuple[int, ...]:
    try:
        return tuple(classes.index_of(name) for name in annotation.label_names)
    except UserError as error:
        raise UserError(f"{annotation.path}: {error}") from None


def _scanned_record(
    result: ScanResult, annotation: Annotation, labels: tuple[int, ...]
) -> VideoRecord:
    return VideoRecord(
        path=annotation.path,
        labels=labels,
        num_frames=result.num_frames,
        fps=result.fps,
        height=result.height,
        width=result.width,
        reader=result.reader,
        group=annotation.group,
        split=annotation.split,
        bytes=result.bytes,
        digest=result.digest,
    )


def _write_or_remove(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A report of this build; one of an earlier build does not stay."""
    if rows:
        _write_csv(path, columns, rows)
    else:
        path.unlink(missing_ok=True)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())
