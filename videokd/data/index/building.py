"""Making an index: scan the videos, then write the CSV, its class names and its reports."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from videokd.data.annotations import Annotation, absolute, default_classes
from videokd.data.index.reading import Index, classes_path
from videokd.data.index.rows import COLUMNS, row_of
from videokd.data.scan import ScanFailure, ScanResult, scan
from videokd.errors import UserError
from videokd.files import write_text
from videokd.types import ClassNames, VideoRecord


def write_index(path: Path | str, records: Sequence[VideoRecord], classes: ClassNames) -> None:
    """Write an index CSV and its class names, each beside and then renamed.

    Paths are written relative to the CSV if the two share a folder other than the root of the file
    system, so that a data set and its index can be moved together.
    """
    target = Path(path)
    if not records:
        raise UserError(f"{target}: no videos to write")
    folder = absolute(target.parent)
    rows = [row_of(record, folder, classes) for record in records]
    write_text(classes_path(target), "".join(f"{name}\n" for name in classes))
    _write_csv(target, COLUMNS, rows)


def build_index(
    annotations: Sequence[Annotation],
    out_csv: Path | str,
    *,
    classes: ClassNames | None = None,
    num_processes: int = 1,
    time_limit_seconds: float = 120.0,
    frames_fps: float | None = None,
    keep_damaged: bool = False,
    readers: Sequence[str] | None = None,
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
        frames_fps: frame rate of the folders of frames, which have none of their own.
        keep_damaged: keep the intact start of a damaged file, with a note; without, it fails.
        readers: the first that is exact for a file; by default the fastest exact one.
        on_progress: called with (files done, files in all).

    Raises:
        UserError: no annotations, a label outside `classes`, a video that stands twice, a path
            that a text file cannot hold, or no file that can be read.
    """
    target = Path(out_csv)
    if not annotations:
        raise UserError(f"{target}: no videos to index")
    repeated = [p for p, n in Counter(a.path for a in annotations).items() if n > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: the video stands twice; index each video once")
    for annotation in annotations:
        _check_text(annotation.path)
    names = default_classes(annotations) if classes is None else classes
    labels = [_label_indices(annotation, names) for annotation in annotations]
    found = scan(
        [annotation.path for annotation in annotations],
        num_processes=num_processes,
        time_limit_seconds=time_limit_seconds,
        frames_fps=frames_fps,
        keep_damaged=keep_damaged,
        readers=readers,
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


def _label_indices(annotation: Annotation, classes: ClassNames) -> tuple[int, ...]:
    try:
        return tuple(classes.index_of(name) for name in annotation.label_names)
    except UserError as error:
        raise UserError(f"{annotation.path}: {error}") from None


def _check_text(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = ascii(str(path))
        raise UserError(f"{shown}: the name is not text in UTF-8; rename the file") from None


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
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    # The csv module of Python 3.11 and 3.12 leaves a carriage return bare, and it ends the row.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in (columns, *rows):
        has_return = any("\r" in str(value) for value in row)
        (quoted if has_return else plain).writerow(row)
    write_text(path, text.getvalue())
