"""The indexes of the ablation: who is labelled, and who is left out in which fold.

Both are an existing index with other names of splits in it; a video may be in several.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from videokd.data.annotations import MEMBERSHIP_SEPARATOR
from videokd.data.index import Index, read_index, write_index
from videokd.data.indexing import Progress, index_synthetic
from videokd.data.synthetic import CLASS_NAMES
from videokd.errors import UserError
from videokd.experiments.ablation.ladder import Data, PeopleData, SyntheticData
from videokd.experiments.ablation.plan import validation_split
from videokd.types import VideoRecord

LABELLED, UNLABELLED = "labelled", "unlabelled"


def prepare_data(data: Data, *, num_processes: int | None = None, on_progress: Progress) -> Path:
    """Make the index that a study's recipes name, with the videos where they are ours to make.

    Raises:
        UserError: videos that are not there, or groups that the folds do not know.
    """
    if isinstance(data, SyntheticData):
        index = index_synthetic(
            data.folder,
            preset=data.preset,
            seed=data.seed,
            settings=data.settings,
            num_processes=num_processes,
            on_progress=on_progress,
        )
        return _written(data.index, index, _half_labelled)
    if not data.source.is_file():
        raise UserError(
            f"{data.source}: no such index; make it with `videokd data index FOLDER/videos "
            "--group-pattern ...`, see data/README.md"
        )
    index = read_index(data.source)
    _check_groups(index, data)
    return _written(data.index, index, lambda record: _fold_splits(record, data))


def make_people(data: PeopleData, *, on_progress: Progress) -> None:
    """Tiny embedded videos dealt to the people of the folds, in place of real ones."""
    index = index_synthetic(
        data.source.parent, preset="tiny", seed=0, num_processes=1, on_progress=on_progress
    )
    groups = [group for members in data.folds.values() for group in members]
    records = [
        replace(record, group=groups[number % len(groups)])
        for number, record in enumerate(index.records)
    ]
    write_index(data.source, records, index.classes)


def _half_labelled(record: VideoRecord) -> Sequence[str]:
    """Every second training video of each class keeps its label where labels are few."""
    if record.split != "train":
        return (record.split,)
    is_labelled = int(record.path.stem) // len(CLASS_NAMES) % 2 == 0
    return (record.split, LABELLED if is_labelled else UNLABELLED)


def _fold_splits(record: VideoRecord, data: PeopleData) -> Sequence[str]:
    """`test2` and `held2` for a person of fold 2; `train1`, and `train1-3` where both are left out,
    for everybody else. `held` names the people of a fold while they are validated on. A person
    without labels is tested, and is in `unlabelled1` and `unlabelled1-3` instead of the others."""
    own = next(fold for fold, groups in data.folds.items() if record.group in groups)
    pairs = itertools.permutations(data.folds, 2)
    away = [fold for fold in data.folds if fold != own]
    away += ["-".join(pair) for pair in pairs if own not in pair]
    if not data.is_labelled(record.group):
        return (f"test{own}", *(f"{UNLABELLED}{left_out}" for left_out in away))
    return (f"test{own}", validation_split(own), *(f"train{left_out}" for left_out in away))


def _check_groups(index: Index, data: PeopleData) -> None:
    known = {group for groups in data.folds.values() for group in groups}
    there = {record.group for record in index.records}
    for group in sorted(there ^ known):
        problem = "is in no fold of the ladder" if group in there else "has no video"
        raise UserError(f"{data.source}: group {group!r} {problem}; each group is tested once")


def _written(path: Path, index: Index, splits_of: Callable[[VideoRecord], Sequence[str]]) -> Path:
    """The index under other splits; a file that says so already is left alone."""
    records = [
        replace(record, split=MEMBERSHIP_SEPARATOR.join(splits_of(record)))
        for record in index.records
    ]
    if path.is_file() and list(read_index(path).records) == records:
        return path
    write_index(path, records, index.classes)
    return path
