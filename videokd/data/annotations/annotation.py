"""What a data set says about its videos: the nouns that all readers of annotations share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videokd.errors import UserError
from videokd.types import ClassNames

MEMBERSHIP_SEPARATOR = ";"
"""A video of a data set with several folds belongs to one split of each: `train1;test2;train3`."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One video as its data set describes it."""

    path: Path
    """Absolute: a video file, or a folder of frames."""
    label_names: tuple[str, ...]
    """Classes: one, several, or none (unlabelled)."""
    group: str = ""
    split: str = ""
    """One split, or one of each fold, joined by `;`."""
    num_frames: int | None = None
    """How many frames its list claims, where it says so; the scan counts them itself."""


@dataclass(frozen=True, slots=True)
class Line:
    """An annotation and where it stands, for errors."""

    where: str
    """`file:line`."""
    annotation: Annotation


@dataclass(frozen=True, slots=True)
class Absent:
    """A row of the annotations whose video is not there."""

    where: str
    """`file:line`."""
    video: str
    """As the row names it."""
    label_names: tuple[str, ...]
    split: str
    reason: str


@dataclass(frozen=True, slots=True)
class Annotations:
    """All that a data set's annotation files say."""

    videos: list[Annotation]
    classes: ClassNames | None = None
    """The classes in the order of their numbers, where the files tell; absent videos' too."""
    absent: tuple[Absent, ...] = ()


def absolute(path: Path | str) -> Path:
    """The path from the root, without `..`; links stay links, unlike with `Path.resolve`."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def default_classes(annotations: Sequence[Annotation]) -> ClassNames:
    """All label names, sorted; by value where all of them are numbers."""
    names = {name for annotation in annotations for name in annotation.label_names}
    if not names:
        raise UserError("none of the videos has a label, so there are no classes")
    numeric = all(name.isdecimal() for name in names)
    return ClassNames(sorted(names, key=int) if numeric else sorted(names))


def one_line_a_video(lines: Iterable[Line]) -> list[Line]:
    """Each video once, in the order of its first line; what it is in each fold is joined.

    A fold is the number at the end of a split's name: a video of `train1` and `test2` is in
    `train1;test2`.

    Raises:
        UserError: a video that stands twice, unless in splits of different folds with equal labels.
    """
    by_path: dict[Path, list[Line]] = {}
    for line in lines:
        by_path.setdefault(line.annotation.path, []).append(line)
    return [same[0] if len(same) == 1 else _joined(same) for same in by_path.values()]


def present(
    lines: Sequence[Line], *, allow_absent: bool, classes: ClassNames | None = None
) -> Annotations:
    """The lines whose videos are there; the others are refused, or listed if that is allowed.

    Raises:
        UserError: the first absent video and how many more there are; with `allow_absent` only
            where all of them are absent.
    """
    videos: list[Annotation] = []
    absent: list[Absent] = []
    for line in lines:
        found = line.annotation
        if found.path.exists():
            videos.append(found)
        else:
            absent.append(absent_line(line, "no such file"))
    if absent and not allow_absent:
        more = f" (and {len(absent) - 1} more are missing)" if len(absent) > 1 else ""
        raise UserError(f"{absent[0].where}: no such file: {absent[0].video}{more}")
    refuse_all_absent(absent, len(lines))
    return Annotations(videos, classes, tuple(absent))


def absent_line(line: Line, reason: str) -> Absent:
    """A line whose video is not there."""
    found = line.annotation
    return Absent(line.where, str(found.path), found.label_names, found.split, reason)


def refuse_all_absent(absent: Sequence[Absent], num_lines: int) -> None:
    """`UserError` where not one video is there: then the folder is the wrong one."""
    if absent and len(absent) == num_lines:
        first = absent[0]
        raise UserError(
            f"{first.where}: {first.reason}: {first.video}; none of the {num_lines} videos is "
            "there, so give the folder that holds them"
        )


def _joined(same: Sequence[Line]) -> Line:
    first = same[0]
    by_fold: dict[str, Line] = {}
    for line in same:
        fold = _fold_of(line.annotation.split)
        if fold in by_fold or (by_fold and "" in (fold, *by_fold)):
            _refuse_second(by_fold.get(fold, first), line)
        if line.annotation.label_names != first.annotation.label_names:
            raise UserError(
                f"{line.where}: {line.annotation.path} has another label than in {first.where}"
            )
        by_fold[fold] = line
    splits = [by_fold[fold].annotation.split for fold in sorted(by_fold, key=int)]
    return replace(
        first, annotation=replace(first.annotation, split=MEMBERSHIP_SEPARATOR.join(splits))
    )


def _fold_of(split: str) -> str:
    """The number at the end of `train1`, as it would be counted: `01` is `1`."""
    found = re.search(r"\d+$", split, re.ASCII)
    return str(int(found.group())) if found else ""


def _refuse_second(earlier: Line, later: Line) -> None:
    file, _, number = earlier.where.rpartition(":")
    is_same_file = later.where.rpartition(":")[0] == file
    there = f"line {number}" if is_same_file else earlier.where
    splits = earlier.annotation.split, later.annotation.split
    as_what = f", as {splits[0]} and here as {splits[1]}" if splits[0] != splits[1] else ""
    raise UserError(
        f"{later.where}: {later.annotation.path} stands already in {there}{as_what}; give each "
        "video one line"
    )
