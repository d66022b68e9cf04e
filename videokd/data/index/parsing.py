"""A whole index CSV -> columns, checked column by column instead of row by row.

What is accepted here is what the row-by-row reader accepts, with equal values; at anything else
`parse_csv` gives up, and that reader finds the fault and its line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
from numpy.typing import NDArray

from videokd.data.annotations import absolute
from videokd.data.index.records import SCHEMA, Records
from videokd.data.index.rows import COLUMNS, check_reader, read_fps, read_labels
from videokd.errors import UserError
from videokd.types import ClassNames

_WHOLE_NUMBERS = ("num_frames", "height", "width", "bytes")
_ROWS_AT_ONCE = 1 << 16
_BLOCK_BYTES = 1 << 23
_REMEMBERED = 1 << 16
_UPWARDS = re.compile(r"(?:\.\./)*")

_Rows = tuple[pa.RecordBatch, NDArray[np.int64]]
"""Neighbouring rows as text, in the columns of the CSV; and their lines."""


def parse_csv(data: bytes, folder: Path, classes: ClassNames) -> Records | None:
    """The records of a CSV, or None where one of its rows is not plainly right.

    Args:
        data: the file.
        folder: absolute; where relative paths start.
        classes: the names that labels may be.
    """
    # Quotes and old Mac line ends are for the csv module, whose rules nobody copies in full.
    is_plain = b'"' not in data and (b"\r" not in data or data.count(b"\r") == data.count(b"\r\n"))
    columns = _Columns(folder, classes)
    try:
        for texts, lines in _plain_rows(data) if is_plain else _quoted_rows(data):
            columns.add(texts, lines)
        return columns.records()
    except (UserError, ValueError, csv.Error, pa.ArrowException):
        return None


def _plain_rows(data: bytes) -> Iterator[_Rows]:
    """Rows of a CSV without a quote: fields end at commas, rows at line ends, nothing else."""
    first_line = data[: data.find(b"\n")].decode("utf-8-sig")
    names = _header(csv.reader([first_line.rstrip("\r")]))
    reader = arrow_csv.open_csv(
        pa.BufferReader(data),
        # No threads: processes that fork later are not to inherit their locks.
        read_options=arrow_csv.ReadOptions(
            use_threads=False, block_size=_BLOCK_BYTES, column_names=names, skip_rows=1
        ),
        parse_options=arrow_csv.ParseOptions(quote_char=False),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False
        ),
    )
    has_blank_lines = b"\n\n" in data or b"\n\r\n" in data
    lines = _lines_of_rows(data) if has_blank_lines else None
    start = 0
    for batch in (batch for batch in reader if batch.num_rows):
        stop = start + batch.num_rows
        yield batch, np.arange(start + 2, stop + 2) if lines is None else lines[start:stop]
        start = stop


def _quoted_rows(data: bytes) -> Iterator[_Rows]:
    """Rows of any CSV, by the csv module."""
    reader = csv.reader(
        io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=""), strict=True
    )
    names = _header(reader)
    numbered = ((row, reader.line_num) for row in reader if row)
    while some := list(islice(numbered, _ROWS_AT_ONCE)):
        columns = zip(*(row for row, _ in some), strict=True)
        arrays = [pa.array(column, pa.large_string()) for column in columns]
        batch = pa.RecordBatch.from_arrays(arrays, names)
        yield batch, np.array([line for _, line in some], dtype=np.int64)


def _header(reader: Iterator[list[str]]) -> list[str]:
    names = next(reader, [])
    if sorted(names) != sorted(COLUMNS):
        raise ValueError(f"the columns are {names}")
    return names


def _lines_of_rows(data: bytes) -> NDArray[np.int64]:
    """Numbers of the lines below the header that are not blank."""
    lines = enumerate(io.BytesIO(data), start=1)
    return np.array([number for number, line in lines if line.strip(b"\r\n")][1:], dtype=np.int64)


class _Columns:
    """Columns of `SCHEMA`, filled by rows of text; whatever is amiss raises."""

    def __init__(self, folder: Path, classes: ClassNames) -> None:
        self._parts: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        self._hashes: list[NDArray[np.int64]] = []
        self._codes: dict[str, dict[str, int]] = {"reader": {}, "split": {}}
        self._folder = folder
        self._read_labels = lru_cache(_REMEMBERED)(lambda text: read_labels(text, classes))
        self._above = lru_cache(_REMEMBERED)(lambda up: str(absolute(folder / up) / "_")[:-1])

    def add(self, texts: pa.RecordBatch, lines: NDArray[np.int64]) -> None:
        """Convert and keep rows."""
        paths = [self._absolute(text) for text in texts.column("path").to_pylist()]
        self._hashes.append(np.fromiter(map(hash, paths), np.int64, len(paths)))
        for name, array in {
            "path": pa.array(paths, pa.large_string()),
            "labels": _each(texts.column("label"), self._read_labels, SCHEMA.field("labels").type),
            "fps": _each(texts.column("fps"), read_fps, pa.float64()),
            **{name: _whole_numbers(texts.column(name)) for name in _WHOLE_NUMBERS},
            **{name: self._coded(name, texts.column(name)) for name in self._codes},
            "group": texts.column("group"),
            "digest": texts.column("digest"),
            "line": pa.array(lines),
        }.items():
            self._parts[name].append(array)

    def records(self) -> Records:
        """All rows; `ValueError` where there are none, or a video seems to stand twice."""
        hashes = np.sort(np.concatenate(self._hashes))
        # Two paths of one hash are refused too, and the row-by-row reader tells them apart.
        if (hashes[1:] == hashes[:-1]).any():
            raise ValueError("a video stands twice")
        for name in self._codes["reader"]:
            check_reader(name)
        return Records(pa.record_batch([self._joined(name) for name in SCHEMA.names], SCHEMA))

    def _joined(self, name: str) -> pa.Array:
        array = pa.concat_arrays(self._parts.pop(name))  # popped: memory for one column twice
        if name not in self._codes:
            return array
        return pa.DictionaryArray.from_arrays(array, pa.array(self._codes[name], pa.string()))

    def _coded(self, name: str, texts: pa.Array) -> pa.Array:
        codes = self._codes[name]
        return _each(texts, lambda text: codes.setdefault(text, len(codes)), pa.int32())

    def _absolute(self, text: str) -> str:
        """`absolute(folder / text)` at a tenth of its time for a path without surprises."""
        if not text:
            raise ValueError("the path is empty")
        up = _UPWARDS.match(text)[0] if text[0] == "." else ""  # type: ignore[index]
        rest = text[len(up) :]
        if rest and rest[0] != "." and rest[-1] != "/" and "/." not in rest and "//" not in rest:
            if rest[0] != "/":
                return self._above(up) + rest
            if not up:
                return text
        return str(absolute(self._folder / text))


def _each(texts: pa.Array, convert: Callable[[str], object], kind: pa.DataType) -> pa.Array:
    """Convert each distinct text once."""
    coded = texts.dictionary_encode()
    values = pa.array([convert(text) for text in coded.dictionary.to_pylist()], kind)
    return values.take(coded.indices)


def _whole_numbers(texts: pa.Array) -> pa.Array:
    """Numbers above 0 in decimal digits and nothing else."""
    if not pc.all(pc.ascii_is_decimal(texts)).as_py():
        raise ValueError("not a whole number")
    numbers = texts.cast(pa.int64())
    if pc.min(numbers).as_py() < 1:
        raise ValueError("not above 0")
    return numbers
