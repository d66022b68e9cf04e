"""Faults of single rows of an index that would otherwise show hours into a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from videokd.data.index import Index
from videokd.data.loading.clips import ReaderChoice, chosen_reader
from videokd.data.sampling import refuses
from videokd.errors import UserError
from videokd.types import InputSpec, Sampling


def check_videos(
    index: Index,
    ids: Sequence[int],
    specs: Iterable[InputSpec],
    reader: ReaderChoice,
    *,
    require_label: bool,
) -> None:
    """Refuse the first row that cannot be used, by file and line.

    A million rows are looked at as columns; a record is made only for the rows that stand for many.

    Raises:
        UserError: not exactly one label where that is required, a missing file, a reader that is
            not exact for it, a video that is too short where that is refused.
    """
    rows = np.array(ids, dtype=np.int64)
    num_labels = index.num_labels[rows]
    if require_label and (num_labels != 1).any():
        # A cross entropy over several labels would be a loss that nobody asked for.
        first = int(np.flatnonzero(num_labels != 1)[0])
        fault = f"has {num_labels[first]} labels" if num_labels[first] else "has no label"
        where, path = index.where(ids[first]), index.records[ids[first]].path
        raise UserError(f"{where}: {path} {fault}; give it one")
    index.check_files(ids)
    codes, _ = index.readers
    for i in rows[np.sort(np.unique(codes[rows], return_index=True)[1])].tolist():
        _check_video(index, i, (), reader)
    samplings = [spec.sampling for spec in specs]
    for i in np.sort(_shortest(rows, index)).tolist():
        _check_video(index, i, samplings, reader)


def _check_video(
    index: Index, video_id: int, samplings: Sequence[Sampling], reader: ReaderChoice
) -> None:
    record = index.records[video_id]
    try:
        chosen_reader(record, reader)
    except UserError as error:
        raise UserError(f"{index.where(video_id)}: {error}") from None
    for sampling in samplings:
        if fault := refuses(sampling, num_frames=record.num_frames, fps=record.fps):
            raise UserError(f"{index.where(video_id)}: {record.path}: {fault}")


def _shortest(rows: NDArray[np.int64], index: Index) -> NDArray[np.int64]:
    """The shortest video of each frame rate: if it is long enough, so are the others."""
    fps = index.fps[rows]
    order = np.lexsort((rows, index.num_frames[rows], fps))
    return rows[order[np.flatnonzero(np.diff(fps[order], prepend=0.0))]]
