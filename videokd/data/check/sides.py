"""What stands where in a data set: leaks over the sides of a split, copies, and class balance.

Nothing here reads a file, and nothing imports torch.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from videokd.data.annotations import MEMBERSHIP_SEPARATOR
from videokd.data.check.findings import Finding, Kind
from videokd.types import ClassNames, VideoRecord

IMBALANCE = 10.0
"""A split is reported where its largest class has at least so many times the videos of its
smallest."""

_MEMBERSHIP = re.compile(r"(?P<side>.*?)(?P<fold>\d*)")
_UCF101 = re.compile(r"(?P<group>v_.+_g\d{2})_c\d{2}", re.IGNORECASE)
"""UCF101 (and UCF50) file names. Groups are numbered within a class: clips of one group are cut
from one longer video."""

Sides = dict[str, set[str]]
"""Fold -> the sides that a video is on. The one fold of an ordinary index has the empty name."""


def sides_of(splits: Iterable[str]) -> dict[str, Sides]:
    """Content of the `split` column -> fold -> sides.

    `train` is the side train of the only fold. An index of several folds holds all memberships of
    a video, joined by `;`: `train1;test2;train3` is on the side train in folds 1 and 3 and on the
    side test in fold 2. Numbers are folds only where one of them stands behind two sides or more:
    `fold1`, `fold2`, `fold3` are three sides of one fold.
    """
    memberships = {
        split: [name for name in split.split(MEMBERSHIP_SEPARATOR) if name] for split in splits
    }
    sides_in_fold = defaultdict(set)
    for names in memberships.values():
        for name in names:
            side, fold = _side_and_fold(name)
            sides_in_fold[fold].add(side)
    has_folds = any(fold and len(sides) > 1 for fold, sides in sides_in_fold.items())
    found: dict[str, Sides] = {}
    for split, names in memberships.items():
        found[split] = defaultdict(set)
        for name in names:
            side, fold = _side_and_fold(name) if has_folds else (name, "")
            found[split][fold].add(side)
    return found


def memberships_of(split: str) -> list[str]:
    """`train1;test2` -> its parts; one empty name where the column is empty."""
    return split.split(MEMBERSHIP_SEPARATOR)


def _side_and_fold(name: str) -> tuple[str, str]:
    match = _MEMBERSHIP.fullmatch(name)
    assert match is not None
    return (match["side"], match["fold"]) if match["side"] else (name, "")


def ucf101_group(stem: str) -> str:
    """`v_Archery_g08_c01` -> `v_Archery_g08`; empty for names of another form."""
    match = _UCF101.fullmatch(stem)
    return match["group"] if match is not None else ""


def find_leaks(
    records: Sequence[VideoRecord], digests: Sequence[str], contents: Sequence[str]
) -> Iterator[Finding]:
    """Whatever is on two sides of a split: a video, a group, a copy; and copies within a side.

    Args:
        records: the videos.
        digests: of each video's file; empty where it is not known.
        contents: of each video's pictures; empty where it is not known.
    """
    sides = sides_of({record.split for record in records})
    for position, record in enumerate(records):
        for fold, names in sides[record.split].items():
            if len(names) > 1:
                yield _leak("leak_video", [position], records, sides, fold)
    for group, members in _gather(map(_group_of, records)).items():
        for fold in _leaking_folds(members, records, sides):
            yield _leak("leak_group", members, records, sides, fold, f"group {group}: ")
    for digest, members in _gather(digests).items():
        if len(members) > 1:
            copies = f"{len(members)} files of digest {digest}"
            yield from _copies(members, records, sides, ("leak_duplicate", "duplicate"), copies)
    for members in _gather(contents).values():
        if len({digests[position] for position in members}) > 1:  # else told already
            copies = f"{len(members)} files show the same frames"
            yield from _copies(members, records, sides, ("leak_content", "same_content"), copies)


def find_imbalance(records: Sequence[VideoRecord], classes: ClassNames) -> Iterator[Finding]:
    """Classes that a split lacks, and splits whose classes differ widely in size."""
    by_split = class_counts(records, classes)
    for split, counts in by_split.items():
        if not any(counts.values()) or (not split and len(by_split) > 1):
            continue  # no labels; or the videos that are in no split, where there are splits
        name = f"split {split}" if split else "the index"
        absent = [label for label, count in counts.items() if count == 0]
        if absent:
            shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            message = f"{name} has no video of {len(absent)} of {len(counts)} classes: {shown}"
            yield Finding("class_without_videos", message)
        present = {label: count for label, count in counts.items() if count}
        largest = max(present, key=present.__getitem__)
        smallest = min(present, key=present.__getitem__)
        ratio = present[largest] / present[smallest]
        if ratio >= IMBALANCE:
            yield Finding(
                "imbalance",
                f"{name}: {present[largest]} videos of {largest}, {present[smallest]} of "
                f"{smallest} ({ratio:.1f} times)",
            )


def class_counts(records: Sequence[VideoRecord], classes: ClassNames) -> dict[str, dict[str, int]]:
    """Membership (`train`, `test1`, or empty) -> class name -> videos; every class is named."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for record in records:
        for name in memberships_of(record.split):
            counts[name].update(record.labels)
    return {
        name: {label: counts[name][i] for i, label in enumerate(classes)} for name in sorted(counts)
    }


def _group_of(record: VideoRecord) -> str:
    return record.group or ucf101_group(record.path.stem)


def _gather(keys: Iterable[str]) -> dict[str, list[int]]:
    """Key -> the positions where it stands; empty keys are nobody's."""
    found: dict[str, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        if key:
            found[key].append(position)
    return found


def _copies(
    members: Sequence[int],
    records: Sequence[VideoRecord],
    sides: Mapping[str, Sides],
    kinds: tuple[Kind, Kind],
    message: str,
) -> Iterator[Finding]:
    """Copies are a leak in each fold where they are on two sides, and elsewhere a warning."""
    leak, harmless = kinds
    paths = tuple(records[position].path for position in members)
    folds = _leaking_folds(members, records, sides)
    for fold in folds:
        yield _leak(leak, members, records, sides, fold, f"{message}: ")
    if not folds:
        yield Finding(harmless, message, paths)
    if len({records[position].labels for position in members}) > 1:
        yield Finding("label_conflict", message, paths)


def _leaking_folds(
    members: Sequence[int], records: Sequence[VideoRecord], sides: Mapping[str, Sides]
) -> list[str]:
    """Folds where one member is on another side than another; one video on two is told apart."""
    split_of = {records[position].split for position in members}
    if len(split_of) < 2:
        return []
    folds = sorted({fold for split in split_of for fold in sides[split]})
    return [
        fold
        for fold in folds
        if len({tuple(sorted(sides[s][fold])) for s in split_of if fold in sides[s]}) > 1
    ]


def _leak(
    kind: Kind,
    members: Sequence[int],
    records: Sequence[VideoRecord],
    sides: Mapping[str, Sides],
    fold: str,
    message: str = "",
) -> Finding:
    """Names the sides with the videos on each, first those of the smallest side."""
    on_side: dict[str, list[int]] = defaultdict(list)
    for position in members:
        for side in sides[records[position].split].get(fold, ()):
            on_side[side].append(position)
    told = ", ".join(f"{len(on_side[side])} in {side}{fold}" for side in sorted(on_side))
    smallest_first = sorted(on_side, key=lambda side: (len(on_side[side]), side))
    order = dict.fromkeys(position for side in smallest_first for position in on_side[side])
    return Finding(kind, message + told, tuple(records[position].path for position in order))
