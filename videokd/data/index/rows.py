"""One row of the index's CSV, from text to `VideoRecord` and back, with every fault named."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from videokd.config import did_you_mean
from videokd.data.annotations import absolute
from videokd.data.readers import READERS
from videokd.errors import UserError
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
"""The CSV's columns, named as the fields of `VideoRecord`; `label` holds class names, by `;`, and
`split` the splits that a video is in, by `;`."""

_LARGEST = 2**63 - 1
"""A column of whole numbers has 64 bits for each."""


def read_records(
    rows: Iterable[tuple[int, dict[str, str]]], source: Path, classes: ClassNames
) -> list[VideoRecord]:
    """The records of a CSV's rows (line, values), one after another.

    Raises:
        UserError: the first fault, by file and line.
    """
    folder = absolute(source.parent)
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
        seen[record.path] = line
        records.append(record)
    return records


def read_labels(text: str, classes: ClassNames) -> tuple[int, ...]:
    """`left;up` -> class indices; `UserError` for a name that is no class."""
    return tuple(classes.index_of(name) for name in text.split(";") if name)


def read_fps(text: str) -> float:
    """A finite number above 0; `UserError` otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"fps is {text!r}; it must be a number above 0")
    return value


def check_reader(name: str) -> None:
    """`UserError` for a reader that does not exist."""
    if name not in READERS:
        raise UserError(f"reader {name!r} is not known; {did_you_mean(name, list(READERS))}")


def row_of(record: VideoRecord, folder: Path, classes: ClassNames) -> tuple[object, ...]:
    """The values of `COLUMNS`; the path relative to `folder` if both share more than the root."""
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


def _record(row: dict[str, str], folder: Path, classes: ClassNames) -> VideoRecord:
    if not row["path"]:
        raise UserError("the path is empty")
    check_reader(row["reader"])
    return VideoRecord(
        path=absolute(folder / row["path"]),
        labels=read_labels(row["label"], classes),
        num_frames=_positive_int(row, "num_frames"),
        fps=read_fps(row["fps"]),
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
    digits = text.lstrip("0") if text.isdecimal() else ""
    # Python refuses to convert thousands of digits.
    if not digits or len(digits) > len(str(_LARGEST)) or int(digits) > _LARGEST:
        raise UserError(f"{column} is {text!r}; it must be a whole number above 0")
    return int(digits)


def _relative(path: Path, folder: Path) -> str:
    full = absolute(path)
    try:
        common = Path(os.path.commonpath([full, folder]))
    except ValueError:  # two drives
        return str(full)
    is_root = common == Path(common.anchor)
    return str(full) if is_root else Path(os.path.relpath(full, folder)).as_posix()
