"""Making an index: scan the videos, then write the CSV, its class names and its reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from videokd.data.annotations import Annotation, absolute, default_classes
from videokd.data.index.reading import Index, classes_path
from videokd.data.index.rows import COLUMNS, row_of
from videokd.data.scan import ScanFailure, ScanResult, scan
from videokd.errors import UserError
from videokd.files import write_csv, write_listing, write_text
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
    write_text(classes_path(target), _class_lines(classes))
    write_csv(target, COLUMNS, rows)


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
    _class_lines(names)  # raises now, not after hours of scanning
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
    write_listing(
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
    write_listing(target.with_suffix(".notes.csv"), ("path", "note"), notes)
    write_index(target, records, names)
    return Index(target, names, tuple(records)), failures


def _label_indices(annotation: Annotation, classes: ClassNames) -> tuple[int, ...]:
    try:
        return tuple(classes.index_of(name) for name in annotation.label_names)
    except UserError as error:
        raise UserError(f"{annotation.path}: {error}") from None


def _class_lines(classes: ClassNames) -> str:
    """The file of class names, such that reading it gives the same ones.

    Names that all begin with a number (`0 clap`) would be read as numbered ones; so they are
    numbered once more (`0 0 clap`).

    Raises:
        UserError: a name that no line can hold.
    """
    for name in classes:
        if name != name.strip() or len(name.splitlines()) != 1:
            raise UserError(
                f"class {name!r}: a name has no space at its ends and no line break; rename it"
            )
    words = [name.split(maxsplit=1) for name in classes]
    has_numbers = all(len(pair) == 2 and pair[0].isdecimal() for pair in words)
    lines = [f"{i} {name}" for i, name in enumerate(classes)] if has_numbers else classes
    return "".join(f"{line}\n" for line in lines)


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
