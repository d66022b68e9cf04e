"""Something-Something v2 as published, and the lists that others made of it.

Facts of the published files: `something-something-v2-labels.json` maps 174 templates to numbers as
text; the rows of `-train.json` and `-validation.json` have an `id`, which is the name of the
`.webm` file, and a `template` whose placeholders stand in brackets; those of `-test.json` have the
id alone. Later releases drop the first part of the names and add `test-answers.csv`, lines of
`id;label`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from videokd.data.annotations.annotation import (
    Annotation,
    Annotations,
    Line,
    absolute,
    one_line_a_video,
    present,
)
from videokd.data.annotations.files import (
    ClassFile,
    existing_folder,
    label_name,
    read_class_file,
    read_json,
    read_lines,
)
from videokd.data.annotations.folder import VIDEO_SUFFIXES, videos_by_stem
from videokd.errors import UserError

_FILES = {"train": "train", "validation": "val", "test": "test"}
"""Ending of a JSON file's name -> split."""

_FORMS = "`id start end label`, `path num_frames label` or `path label`"


def read_something(
    root: Path | str, annotations: Path | str, *, frames: bool = False, allow_absent: bool = False
) -> Annotations:
    """The videos of all JSON files of a folder, by their ids, anywhere below `root`.

    Args:
        root: the folder of videos.
        annotations: the folder of the JSON files.
        frames: each video is a folder of frames, named by the id.
        allow_absent: list videos that are not there, and go on.

    Raises:
        UserError: by file and item, for a template that is no class, or a video that is not there.
    """
    folder = existing_folder(annotations)
    classes = read_class_file(_file(folder, "labels"))
    answers = _test_answers(folder)
    lines = [
        line
        for ending, split in _FILES.items()
        for path in _files(folder, ending)
        for line in _items(path, classes, answers, split=split)
    ]
    if not lines:
        raise UserError(f"{folder}: no train.json, validation.json or test.json with videos in it")
    lines = _located(lines, existing_folder(root), frames=frames)
    return present(one_line_a_video(lines), allow_absent=allow_absent, classes=classes.names)


def read_something_lists(
    root: Path | str,
    lists: Mapping[str, Path],
    classes: ClassFile | None = None,
    *,
    frames: bool = False,
    allow_absent: bool = False,
) -> Annotations:
    """Lists of `id start end label` or `path num_frames label` lines (TSM), one list a split.

    Frames are counted from 0 or 1 and `end` is the last one. A line that begins later is a part of
    a video, which an index cannot hold, and is refused.

    Raises:
        UserError: by file and line, for a line of another form, a label outside the classes, a
            part of a video, or a video that is not there.
    """
    lines = [
        line for split, path in lists.items() for line in _list_lines(path, classes, split=split)
    ]
    lines = _located(lines, existing_folder(root), frames=frames)
    names = classes.names if classes is not None else None
    return present(one_line_a_video(lines), allow_absent=allow_absent, classes=names)


def _file(folder: Path, ending: str) -> Path:
    files = _files(folder, ending)
    if len(files) != 1:
        raise UserError(
            f"{folder}: {len(files) or 'no'} files named *{ending}.json in it; expected "
            f"something-something-v2-{ending}.json or {ending}.json"
        )
    return files[0]


def _files(folder: Path, ending: str) -> list[Path]:
    pattern = re.compile(rf"(.*-)?{ending}\.json")
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))


def _items(
    path: Path, classes: ClassFile, answers: Mapping[str, str], *, split: str
) -> Iterator[Line]:
    """Lines whose paths are ids, to be looked for."""
    data = read_json(path)
    if not isinstance(data, list):
        raise UserError(f"{path}: expected a list of videos")
    for number, item in enumerate(data, start=1):
        where = f"{path}:{number}"
        if not isinstance(item, dict) or "id" not in item:
            raise UserError(f"{where}: this item of the list has no id")
        video_id = str(item["id"])
        template = _template(item) or answers.get(video_id, "")
        names = (label_name(where, template, classes),) if template else ()
        yield Line(where, Annotation(Path(video_id), names, split=split))


def _template(item: Mapping[str, Any]) -> str:
    return str(item.get("template", "")).replace("[", "").replace("]", "")


def _test_answers(folder: Path) -> dict[str, str]:
    path = folder / "test-answers.csv"
    if not path.is_file():
        return {}
    pairs = [text.partition(";") for _, text in read_lines(path)]
    return {video_id.strip(): label.strip() for video_id, _, label in pairs}


def _list_lines(source: Path, classes: ClassFile | None, *, split: str) -> Iterator[Line]:
    for number, text in read_lines(source):
        where, words = f"{source}:{number}", text.split()
        *numbers, label = words[1:] or [""]
        if not label or len(numbers) > 2 or not all(word.isdecimal() for word in numbers):
            raise UserError(f"{where}: {text!r} is not of the form {_FORMS}")
        names = (label_name(where, label, classes),)
        claimed = _claimed_frames(where, [int(word) for word in numbers])
        yield Line(where, Annotation(Path(words[0]), names, split=split, num_frames=claimed))


def _claimed_frames(where: str, numbers: Sequence[int]) -> int | None:
    if len(numbers) < 2:
        return numbers[0] if numbers else None
    start, end = numbers
    if start > 1 or end < start:
        raise UserError(
            f"{where}: frames {start} to {end} are a part of a video; an index holds whole videos, "
            "so cut the part out into a file or folder of its own"
        )
    return end - start + 1


def _located(lines: Sequence[Line], root: Path, *, frames: bool) -> list[Line]:
    """Ids or paths of lists as videos below a folder; where there is none, as they are named."""
    by_stem = videos_by_stem(root, frames=frames)
    return [
        Line(
            line.where,
            Annotation(
                _video_of(line, root, by_stem),
                line.annotation.label_names,
                split=line.annotation.split,
                num_frames=line.annotation.num_frames,
            ),
        )
        for line in lines
    ]


def _video_of(line: Line, root: Path, by_stem: Mapping[str, Sequence[Path]]) -> Path:
    named = absolute(root / line.annotation.path)
    name = PurePosixPath(line.annotation.path).name
    stem = PurePosixPath(name).stem if PurePosixPath(name).suffix in VIDEO_SUFFIXES else name
    there = by_stem.get(stem, ())
    if named in there or not there:
        return named
    if len(there) > 1:
        raise UserError(f"{line.where}: {there[0]} and {there[1]} could both be video {name}")
    return there[0]
