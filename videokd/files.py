"""Files that are whole or absent: written beside their place, then renamed."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from videokd.errors import UserError


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Write to the yielded path; it is renamed to `path` when whole, and removed on any failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename is None:  # the error of a full disk names no file
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """A text file in UTF-8; `UserError` where it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise UserError(f"{path}: cannot be read: {reason}") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check_place(path: Path, *, is_folder: bool) -> None:
    """Refuse a place where a file (or folder) cannot be written, before any work is done for it.

    Raises:
        UserError: something else lies there, above it is no folder, or it may not be written to.
    """
    if path.exists() and path.is_dir() != is_folder:
        there, wanted = ("a file", "folder") if is_folder else ("a folder", "file")
        raise UserError(f"{path}: {there} is there already; choose another {wanted}")
    above = path if path.is_dir() else path.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{path}: cannot be written, {above} is no folder to write to")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; a reader sees the old file or the new, never half."""
    with written_beside(path) as part:
        part.write_text(text, encoding="utf-8")


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A header and rows as CSV."""
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    # The csv module of Python 3.11 and 3.12 leaves a carriage return bare, and it ends the row.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in (columns, *rows):
        has_return = any("\r" in str(value) for value in row)
        (quoted if has_return else plain).writerow(row)
    return text.getvalue()


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a header and rows as CSV in UTF-8, as whole as `write_text` does."""
    write_text(path, csv_text(columns, rows))


def write_listing(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A CSV that is there only if it has rows: one of an earlier run does not stay."""
    if rows:
        write_csv(path, columns, rows)
    else:
        path.unlink(missing_ok=True)


def lock_or_refuse(file: IO[Any], refusal: str) -> None:
    """Hold an open, writable file against other processes; the lock goes with the process.

    A record lock: unlike `flock`'s, it is not inherited by decoding workers, which outlive a killed
    process by seconds. Any close of the file in this process gives it up, so nobody else opens it.

    Raises:
        UserError: `refusal`, where another process holds it.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise UserError(refusal) from None
