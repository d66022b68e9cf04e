"""The rows of an index as columns: a million of them are a dozen buffers, not a million objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from videokd.types import VideoRecord

SCHEMA = pa.schema(
    [
        ("path", pa.large_string()),
        ("labels", pa.list_(pa.int32())),
        ("num_frames", pa.int64()),
        ("fps", pa.float64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("reader", pa.dictionary(pa.int32(), pa.string())),
        ("group", pa.large_string()),
        ("split", pa.dictionary(pa.int32(), pa.string())),
        ("bytes", pa.int64()),
        ("digest", pa.large_string()),
        ("line", pa.int64()),
    ]
)
"""The fields of `VideoRecord` in their order, then the line of the CSV."""

_ROWS_AT_ONCE = 1024


class Records(Sequence[VideoRecord]):
    """A sequence of `VideoRecord`s, each made when it is asked for and not kept.

    It equals any sequence of the same records, and a slice of it is one of these again, without a
    copy. Processes that fork share its buffers.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        """Rows as `SCHEMA` says, without nulls."""
        if not batch.schema.equals(SCHEMA):
            raise ValueError(f"the columns are {batch.schema}, not {SCHEMA}")
        if any(column.null_count for column in batch.columns):
            raise ValueError("a record has all its values")
        self.batch = batch

    @classmethod
    def of(cls, records: Sequence[VideoRecord], lines: Sequence[int] | None = None) -> Records:
        """The same records as columns; without `lines`, each stands in one, below the header."""
        values: list[Sequence[object]] = [
            [str(record.path) for record in records],
            *(
                [getattr(record, name) for record in records]
                for name in VideoRecord.__dataclass_fields__
                if name != "path"
            ),
            range(2, len(records) + 2) if lines is None else lines,
        ]
        columns = [
            # Values are coded by pyarrow itself: an array of a dictionary type cannot be empty.
            pa.array(column, type=kind.value_type).dictionary_encode()
            if pa.types.is_dictionary(kind)
            else pa.array(column, type=kind)
            for column, kind in zip(values, SCHEMA.types, strict=True)
        ]
        return cls(pa.record_batch(columns, schema=SCHEMA))

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @overload
    def __getitem__(self, key: int) -> VideoRecord: ...
    @overload
    def __getitem__(self, key: slice) -> Records: ...
    def __getitem__(self, key: int | slice) -> VideoRecord | Records:
        if isinstance(key, slice):
            chosen = range(len(self))[key]
            if chosen.step == 1:
                return Records(self.batch.slice(chosen.start, len(chosen)))
            return Records(self.batch.take(pa.array(chosen, pa.int64())))
        position = range(len(self))[key]  # IndexError where there is none
        return next(self._made(position, position + 1))

    def __iter__(self) -> Iterator[VideoRecord]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self._made(start, start + _ROWS_AT_ONCE)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        if len(self) != len(other):
            return False
        if isinstance(other, Records) and self.batch.equals(other.batch):
            return True
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to tuples, which hash by their items

    def __repr__(self) -> str:
        return f"Records({len(self)} videos)"

    def numbers(self, column: str) -> NDArray[Any]:
        """A column of numbers, read-only and without a copy, [len(self)]."""
        return self.batch.column(column).to_numpy()  # type: ignore[no-any-return]

    def texts(self, column: str) -> pa.Array:
        """A column of text as pyarrow holds it."""
        return self.batch.column(column)

    def coded(self, column: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """`reader` or `split`: the code of each row, and the texts that the codes are for."""
        array = self.batch.column(column)
        return array.indices.to_numpy(), tuple(array.dictionary.to_pylist())

    @property
    def num_labels(self) -> NDArray[np.int32]:
        """Labels of each video, [len(self)]."""
        return self.batch.column("labels").value_lengths().to_numpy()  # type: ignore[no-any-return]

    def labels_of(self, ids: Sequence[int]) -> NDArray[np.int32]:
        """All labels of these, one after another."""
        chosen = self.batch.column("labels").take(pa.array(ids, pa.int64()))
        return chosen.flatten().to_numpy()  # type: ignore[no-any-return]

    def _made(self, start: int, stop: int) -> Iterator[VideoRecord]:
        rows = self.batch.slice(start, stop - start)
        columns = [_values(column) for column in rows.columns[:-1]]
        for path, labels, *others in zip(*columns, strict=True):
            yield VideoRecord(Path(path), tuple(labels), *others)


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        # Much faster than pyarrow's own, and the texts of a split are one object, not thousands.
        texts = column.dictionary.to_pylist()
        return [texts[code] for code in column.indices.to_pylist()]
    return column.to_pylist()  # type: ignore[no-any-return]
