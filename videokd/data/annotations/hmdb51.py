"""HMDB51 as published: for each class and fold one file, `<class>_test_split<k>.txt`.

Facts of the published files: 51 classes x 3 folds, each line `name.avi n` with a space at its end,
where n is 1 for training, 2 for testing and 0 for neither. The three files of a class name the same
videos. Names hold `! ( ) # [ ] & + ; ~ @`, and each holds its class between underscores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from videokd.data.annotations.annotation import (
    Annotation,
    Annotations,
    Line,
    absolute,
    one_line_a_video,
    present,
)
from videokd.data.annotations.files import existing_folder, read_lines
from videokd.errors import UserError
from videokd.types import ClassNames

_FILE_NAME = re.compile(r"(.+)_test_split(\d+)\.txt")
_SPLITS = {"0": "", "1": "train", "2": "test"}


def read_hmdb51(
    root: Path | str, annotations: Path | str, *, frames: bool = False, allow_absent: bool = False
) -> Annotations:
    """The videos of all folds that have files; `split` is `train1;test2`, empty for in none.

    The group is the class and the source that clips were cut from, which the folds keep on one
    side: `April_09_brush_hair` for `April_09_brush_hair_u_nm_np1_ba_goo_0.avi`.

    Args:
        root: the folder of class folders.
        annotations: the folder that holds the files.
        frames: each video is a folder of frames, named as the video without its ending.
        allow_absent: list videos that are not there, and go on.

    Raises:
        UserError: by file and line, for a class without a file of some fold, a line of another
            form, a video that is not there.
    """
    videos, folder = existing_folder(root), existing_folder(annotations)
    files = _files(folder)
    lines = [
        line
        for (name, fold), path in sorted(files.items())
        for line in _lines_of(path, videos / name, fold=fold, frames=frames)
    ]
    classes = ClassNames(sorted({name for name, _ in files}))
    return present(_with_folds(lines), allow_absent=allow_absent, classes=classes)


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    """(class, fold) -> file; every class has the same folds."""
    files = {
        (found.group(1), found.group(2)): path
        for path in folder.iterdir()
        if (found := _FILE_NAME.fullmatch(path.name))
    }
    if not files:
        raise UserError(
            f"{folder}: no <class>_test_split1.txt in it; give the folder of HMDB51's split files"
        )
    folds = sorted({fold for _, fold in files})
    for name, _ in sorted(files):
        for fold in folds:
            if (name, fold) not in files:
                raise UserError(f"{folder}: {name}_test_split{fold}.txt is missing")
    return files


def _lines_of(source: Path, class_folder: Path, *, fold: str, frames: bool) -> Iterator[Line]:
    label = class_folder.name
    for number, text in read_lines(source):
        name, _, side = text.rpartition(" ")
        if not name.strip() or side not in _SPLITS:
            raise UserError(
                f"{source}:{number}: {text!r} is not of the form `name.avi 1`, with 1 for "
                "training, 2 for testing, 0 for neither"
            )
        path = Path(name.strip())
        source_name = path.stem.rpartition(f"_{label}_")[0]
        yield Line(
            f"{source}:{number}",
            Annotation(
                absolute(class_folder / (path.stem if frames else path.name)),
                (label,),
                f"{source_name}_{label}" if source_name else "",
                f"{_SPLITS[side]}{fold}" if _SPLITS[side] else "",
            ),
        )


def _with_folds(lines: list[Line]) -> list[Line]:
    """Each video once; one that is in neither side of any fold keeps an empty split."""
    members = one_line_a_video(line for line in lines if line.annotation.split)
    named = {line.annotation.path for line in members}
    rest = {line.annotation.path: line for line in lines if line.annotation.path not in named}
    return [*members, *rest.values()]
