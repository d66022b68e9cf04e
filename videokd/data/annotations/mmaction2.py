"""Lists as mmaction2 has them: videos and folders of frames, one label or several.

| line                              | mmaction2's reader of it                       |
|-----------------------------------|------------------------------------------------|
| `path.mp4 label`                  | VideoDataset                                   |
| `path.mp4 label label ...`        | VideoDataset, multi_class                      |
| `folder num_frames label`         | RawframeDataset                                |
| `folder num_frames label ...`     | RawframeDataset, multi_class                   |
| `folder offset num_frames label`  | RawframeDataset, with_offset: refused here     |

A line without a label is an unlabelled video. mmaction2 numbers classes from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from videokd.data.annotations.annotation import (
    Annotation,
    Annotations,
    Line,
    absolute,
    one_line_a_video,
    present,
)
from videokd.data.annotations.files import ClassFile, existing_folder, label_name, read_lines
from videokd.data.annotations.folder import VIDEO_SUFFIXES
from videokd.errors import UserError


def read_mmaction2(
    root: Path | str,
    lists: Mapping[str, Path],
    classes: ClassFile | None = None,
    *,
    multi_label: bool = False,
    delimiter: str | None = None,
    allow_absent: bool = False,
) -> Annotations:
    """Videos in lists of mmaction2, one list a split; a path without ending is a folder of frames.

    Args:
        root: where paths start, mmaction2's `data_prefix`.
        lists: split -> file; several folds as `train1`, `test1`, `train2`, ...
        classes: the names of the numbers; without them, numbers are the names.
        multi_label: lines may have several labels.
        delimiter: between the values of a line; by default white space.
        allow_absent: list videos that are not there, and go on.

    Raises:
        UserError: by file and line, for a line of another form, the form with an offset, a label
            outside the classes, a video that is not there or that stands twice.
    """
    folder = existing_folder(root)
    reader = _LineReader(folder, classes, multi_label, delimiter)
    lines = [line for split, path in lists.items() for line in reader.lines(path, split)]
    names = classes.names if classes is not None else None
    return present(one_line_a_video(lines), allow_absent=allow_absent, classes=names)


class _LineReader:
    """How a line is cut and what its values mean."""

    def __init__(
        self, folder: Path, classes: ClassFile | None, multi_label: bool, delimiter: str | None
    ) -> None:
        self._folder = folder
        self._classes = classes
        self._multi_label = multi_label
        self._delimiter = delimiter

    def lines(self, source: Path, split: str) -> Iterator[Line]:
        number = 0
        for number, text in read_lines(source):
            where = f"{source}:{number}"
            name, numbers = self._cut(text)
            if not name:
                raise UserError(f"{where}: {text!r} has no path")
            is_video = PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES
            num_frames = None if is_video else self._frames(where, text, numbers)
            labels = numbers if is_video else numbers[1:]
            self._check_labels(where, text, labels, is_video=is_video)
            names = tuple(label_name(where, str(label), self._classes) for label in labels)
            path = absolute(self._folder / name)
            yield Line(where, Annotation(path, names, split=split, num_frames=num_frames))
        if not number:
            raise UserError(f"{source}: no lines in it")

    def _cut(self, text: str) -> tuple[str, list[int]]:
        """The path, which may have spaces, and the numbers behind it."""
        words = [word.strip() for word in text.split(self._delimiter)]
        first = len(words)
        while first > 1 and words[first - 1].removeprefix("-").isdecimal():
            first -= 1
        separator = " " if self._delimiter is None else self._delimiter
        return separator.join(words[:first]), [int(word) for word in words[first:]]

    def _frames(self, where: str, text: str, numbers: list[int]) -> int:
        if not numbers:
            raise UserError(
                f"{where}: {text!r} is neither `video.mp4 label` nor `folder num_frames label`"
            )
        return numbers[0]

    def _check_labels(self, where: str, text: str, labels: list[int], *, is_video: bool) -> None:
        if len(labels) > 1 and not self._multi_label:
            offset = (
                ""
                if is_video
                else (
                    ", and `folder offset num_frames label` is a part of a folder, which an index "
                    "cannot hold"
                )
            )
            raise UserError(
                f"{where}: {text!r} has several labels; say --multi-label if it is meant{offset}"
            )
        if min(labels, default=0) < 0:
            raise UserError(f"{where}: label {min(labels)} is below 0; leave it out for no label")
        if len(set(labels)) != len(labels):
            raise UserError(f"{where}: {text!r} has a label twice")
