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
    several_labels: bool = False,
) -> None:
    """Refuse the first row that cannot be used, by file and line.

    A million rows are looked at as columns; a record is made only for the rows that stand for many.

    Raises:
        UserError: no label where one is required, or more than one without `several_labels`; a
            missing file, a reader that is not exact for it, a video that is too short where that
            is refused.
    """
    rows = np.array(ids, dtype=np.int64)
    _check_labels(index, ids, require_label=require_label, several_labels=several_labels)
    index.check_files(ids)
    codes, _ = index.readers
    for i in rows[np.sort(np.unique(codes[rows], return_index=True)[1])].tolist():
        _check_video(index, i, (), reader)
    samplings = [spec.sampling for spec in specs]
    for i in np.sort(_shortest(rows, index)).tolist():
        _check_video(index, i, samplings, reader)


def _check_labels(
    index: Index, ids: Sequence[int], *, require_label: bool, several_labels: bool
) -> None:
    """Refuse the first row with another number of labels than is allowed."""
    num_labels = index.num_labels[np.array(ids, dtype=np.int64)]
    is_wrong = np.zeros(len(ids), dtype=bool)
    if require_label:
        is_wrong |= num_labels < 1
    if not several_labels:  # a cross entropy over several would be a loss that nobody asked for
        is_wrong |= num_labels > 1
    if not is_wrong.any():
        return
    first = int(np.flatnonzero(is_wrong)[0])
    fault = "has no label; give it one"
    if num_labels[first]:
        fault = (
            f"has {num_labels[first]} labels; give it one, or train with binary_cross_entropy, "
            "which takes several"
        )
    raise UserError(f"{index.where(ids[first])}: {index.records[ids[first]].path} {fault}")


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
