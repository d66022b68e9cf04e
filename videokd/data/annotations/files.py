"""Reading the text files that annotations come in; every fault is named by file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videokd.config import did_you_mean
from videokd.data.annotations.annotation import absolute
from videokd.errors import UserError
from videokd.types import ClassNames


@dataclass(frozen=True, slots=True)
class ClassFile:
    """A class list and the number of its first class: UCF101 counts from 1, others from 0."""

    names: ClassNames
    first_index: int = 0

    def name_of(self, index: int) -> str:
        """The name of the class with that number; `UserError` where there is none."""
        position = index - self.first_index
        if not 0 <= position < len(self.names):
            last = self.first_index + len(self.names) - 1
            raise UserError(f"label {index} is outside the classes {self.first_index}..{last}")
        return self.names[position]


def read_class_file(path: Path | str) -> ClassFile:
    """Class names, one a line: `swipe_left`, or `0 swipe_left` with numbers without gaps.

    A `.json` file holds `{"name": number}`, as Something-Something has it, or a list of names.

    Raises:
        UserError: by file and line, for gaps, repeated names, or a mixture of both forms.
    """
    source = Path(path)
    if source.suffix.lower() == ".json":
        return ClassFile(_classes_from_json(source))
    rows = list(read_lines(source))
    if not rows:
        raise UserError(f"{path}: no class names in it; write one a line")
    split_rows = [(number, line.split(maxsplit=1)) for number, line in rows]
    if not all(len(words) == 2 and words[0].isdecimal() for _, words in split_rows):
        return ClassFile(_class_names(path, [line for _, line in rows]))
    first = int(split_rows[0][1][0])
    for expected, (number, words) in enumerate(split_rows, start=first):
        if int(words[0]) != expected:
            raise UserError(f"{path}:{number}: class {words[0]} where {expected} should follow")
    return ClassFile(_class_names(path, [words[1] for _, words in split_rows]), first)


def label_name(where: str, label: str, classes: ClassFile | None) -> str:
    """The class that a word of a list means: its name or, with `classes`, its number.

    Without `classes` each label is a name, and numbers are names too.

    Raises:
        UserError: `where`, for a label outside the classes.
    """
    if classes is None:
        return label
    try:
        if label in classes.names:
            return label
        if label.lstrip("-").isdecimal():
            return classes.name_of(int(label))
        classes.names.index_of(label)  # raises, with the nearest name
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    raise AssertionError(label)


def read_rows(
    path: Path, *, required: Sequence[str], allowed: Sequence[str] | None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV with their line numbers (the header is line 1), blank lines left out.

    Args:
        path: the CSV.
        required: columns that must be there.
        allowed: columns that may be there; None: any.

    Raises:
        UserError: no such file, not UTF-8 text, a column missing or unknown, a row of another
            length than the header.
    """
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)  # a CSV's own line ends
    try:
        header = next(reader, [])
        _check_header(path, header, required, allowed)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path}:{reader.line_num}: {len(row)} values where the header has "
                    f"{len(header)} columns"
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not readable as CSV: {error}") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, stripped, with their numbers from 1; any line endings."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def read_json(path: Path) -> Any:
    """A JSON document as plain data; `UserError` where it is none."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not readable as JSON: {error.msg}") from None


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark; `UserError` where it is none."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: not readable as text: {reason}") from None


def existing_folder(path: Path | str) -> Path:
    """The folder's absolute path; `UserError` where there is none."""
    folder = absolute(path)
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder")
    return folder


def _classes_from_json(path: Path) -> ClassNames:
    data = read_json(path)
    if isinstance(data, list) and all(isinstance(name, str) for name in data):
        return _class_names(path, data)
    if not isinstance(data, dict) or not data:
        raise UserError(f'{path}: expected {{"class name": number, ...}} or a list of names')
    numbers = {str(number): name for name, number in data.items()}
    names = [numbers.get(str(number)) for number in range(len(data))]
    if None in names:
        raise UserError(
            f"{path}: no class has the number {names.index(None)}; {len(data)} classes are "
            f"numbered 0 to {len(data) - 1}"
        )
    return _class_names(path, [str(name) for name in names])


def _check_header(
    path: Path, header: Sequence[str], required: Sequence[str], allowed: Sequence[str] | None
) -> None:
    unknown = [name for name in header if allowed is not None and name not in allowed]
    missing = [name for name in required if name not in header]
    if missing:
        raise UserError(
            f"{path}:1: column {missing[0]!r} is missing; the first line names the columns "
            f"{','.join(required)}"
        )
    if unknown:
        nearest = did_you_mean(unknown[0], allowed or ())
        raise UserError(f"{path}:1: column {unknown[0]!r} is not known; {nearest}")
    if len(set(header)) != len(header):
        raise UserError(f"{path}:1: a column stands twice: {','.join(header)}")


def _class_names(path: Path | str, names: Sequence[str]) -> ClassNames:
    try:
        return ClassNames(names)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
