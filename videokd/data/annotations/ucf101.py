"""UCF101 as published: `classInd.txt` and three folds of `trainlist0k.txt` and `testlist0k.txt`.

Facts of the published files: classes are numbered from 1, in `classInd.txt` and behind the paths of
the training lists; the test lists have paths only, whose folder is the class. One folder is spelled
`HandstandPushups` and its files `v_HandStandPushups_...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from videokd.data.annotations.annotation import (
    Annotation,
    Annotations,
    Line,
    absolute,
    one_line_a_video,
    present,
)
from videokd.data.annotations.files import ClassFile, existing_folder, read_class_file, read_lines
from videokd.errors import UserError

_LIST_NAME = re.compile(r"(train|test)list0*(\d+)\.txt", re.IGNORECASE)
_VIDEO_NAME = re.compile(r"v_(\w+_g\d+)_c\d+", re.ASCII)


def read_ucf101(
    root: Path | str, annotations: Path | str, *, frames: bool = False, allow_absent: bool = False
) -> Annotations:
    """The videos of all folds that have lists; `split` is `train1;test2;train3`.

    The group is the class and the source that clips were cut from, `Archery_g08` for
    `v_Archery_g08_c01.avi`: sources are numbered from g01 in each class anew.

    Args:
        root: the folder of class folders.
        annotations: the folder that holds `classInd.txt` and the lists.
        frames: each video is a folder of frames, named as the video without its ending.
        allow_absent: list videos that are not there, and go on.

    Raises:
        UserError: by file and line, for a missing list, a label that is not the folder's class, a
            video that is not there, or one that is on both sides of a fold.
    """
    videos, lists = existing_folder(root), existing_folder(annotations)
    if not (lists / "classInd.txt").is_file():
        raise UserError(f"{lists}: no classInd.txt in it; give the folder of UCF101's lists")
    classes = read_class_file(lists / "classInd.txt")
    lines = [
        line
        for split, path in _fold_lists(lists)
        for line in _lines_of(path, videos, classes, split=split, frames=frames)
    ]
    return present(one_line_a_video(lines), allow_absent=allow_absent, classes=classes.names)


def _fold_lists(folder: Path) -> list[tuple[str, Path]]:
    """`("train1", .../trainlist01.txt)` and so on, each fold with both of its lists."""
    lists = {
        (int(found.group(2)), found.group(1).lower()): path
        for path in sorted(folder.iterdir())
        if (found := _LIST_NAME.fullmatch(path.name))
    }
    if not lists:
        raise UserError(f"{folder}: no trainlist01.txt in it; give the folder of UCF101's lists")
    for fold, side in lists:
        for other in ("train", "test"):
            if (fold, other) not in lists:
                raise UserError(
                    f"{folder}: {lists[fold, side].name} is there, but {other}list{fold:02d}.txt "
                    "is missing"
                )
    return [(f"{side}{fold}", path) for (fold, side), path in sorted(lists.items())]


def _lines_of(
    source: Path, videos: Path, classes: ClassFile, *, split: str, frames: bool
) -> Iterator[Line]:
    for number, text in read_lines(source):
        where = f"{source}:{number}"
        name, _, label = text.partition(" ")
        path = PurePosixPath(name)
        class_name, video_name = path.parent.name, _VIDEO_NAME.fullmatch(path.stem)
        if class_name not in classes.names or video_name is None:
            raise UserError(
                f"{where}: {name!r} is not of the form Class/v_Class_g01_c01.avi with a class of "
                "classInd.txt"
            )
        if label and (not label.strip().isdecimal() or _named(where, label, classes) != class_name):
            raise UserError(f"{where}: label {label.strip()} is not the class {class_name!r}")
        video = absolute(videos / (path.with_suffix("") if frames else path))
        yield Line(where, Annotation(video, (class_name,), video_name.group(1), split))


def _named(where: str, label: str, classes: ClassFile) -> str:
    try:
        return classes.name_of(int(label))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
