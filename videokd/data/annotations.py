"""What people say about videos: folders per class, lists, CSV files -> `Annotation`s.

Nothing here opens a video. Every fault is named by its file and line. Nothing imports torch.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.config import did_you_mean
from videokd.errors import UserError
from videokd.types import ClassNames

VIDEO_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("3gp", "asf", "avi", "divx", "flv", "m2ts", "m4v", "mkv", "mov", "mp4"),
        *("mpeg", "mpg", "mts", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
"""Files with other endings in a folder of videos are not taken for videos."""

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folder name -> split, where all top folders have such names."""

CSV_COLUMNS = ("path", "label", "group", "split")

OnIgnored = Callable[[Path, str], None]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One video as its data set describes it."""

    path: Path
    """Absolute."""
    label_names: tuple[str, ...]
    """Classes: one, several, or none (unlabelled)."""
    group: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True)
class ClassFile:
    """A class list and the number of its first class: UCF101 counts from 1, others from 0."""

    names: ClassNames
    first_index: int = 0

    def name_of(self, index: int) -> str:
        """The name of the class with that number; `UserError` where there is none."""
        position = index - self.first_index
        if not 0 <= position < len(self.names):
            last = self.first_index + len(self.names) - 1
            raise UserError(f"label {index} is outside the classes {self.first_index}..{last}")
        return self.names[position]


def read_folder(root: Path | str, *, on_ignored: OnIgnored | None = None) -> list[Annotation]:
    """Videos in `root/<class>/...` or `root/<train|val|test>/<class>/...`, sorted by path.

    Folders below the class folder are allowed and mean nothing. `on_ignored` is told of each file
    that is not taken for a video (another ending, or a macOS resource fork `._*`); without it, one
    warning is logged with their number.

    Raises:
        UserError: no such folder, no videos, a class folder without any, a video outside of them.
    """
    top = _existing_folder(root)
    ignored: list[Path] = []

    def ignore(path: Path, why: str) -> None:
        ignored.append(path)
        if on_ignored is not None:
            on_ignored(path, why)

    folders = sorted(entry for entry in top.iterdir() if _is_visible_folder(entry))
    if folders and all(folder.name.lower() in SPLIT_FOLDERS for folder in folders):
        found = [
            annotation
            for folder in folders
            for annotation in _classes_in(folder, SPLIT_FOLDERS[folder.name.lower()], ignore)
        ]
        _refuse_loose_videos(top, ignore)
    else:
        found = list(_classes_in(top, "", ignore))
    if not found:
        raise UserError(f"{top}: no videos in it; expected {top.name}/<class>/<video>")
    if ignored and on_ignored is None:
        logging.getLogger(__name__).warning(
            "%s: %d files are not videos and were ignored, the first: %s",
            *(top, len(ignored), ignored[0]),
        )
    return found


def read_class_file(path: Path | str) -> ClassFile:
    """Class names, one a line: `swipe_left`, or `0 swipe_left` with numbers without gaps.

    Raises:
        UserError: by file and line, for gaps, repeated names, or a mixture of both forms.
    """
    rows = list(_lines(Path(path)))
    if not rows:
        raise UserError(f"{path}: no class names in it; write one a line")
    split_rows = [(number, line.split(maxsplit=1)) for number, line in rows]
    if not all(len(words) == 2 and words[0].isdecimal() for _, words in split_rows):
        return ClassFile(_class_names(path, [line for _, line in rows]))
    first = int(split_rows[0][1][0])
    for expected, (number, words) in enumerate(split_rows, start=first):
        if int(words[0]) != expected:
            raise UserError(f"{path}:{number}: class {words[0]} where {expected} should follow")
    return ClassFile(_class_names(path, [words[1] for _, words in split_rows]), first)


def read_list(
    list_path: Path | str,
    root: Path | str,
    class_names: ClassNames | ClassFile | None = None,
    *,
    split: str = "",
) -> list[Annotation]:
    """Videos in a list of `path label` lines; paths are relative to `root` and may have spaces.

    The label is the last word of the line: a class name, or the number of a class if `class_names`
    is given (numbered from 0, or as its `ClassFile` is). Without it each label is a name, and
    numbers are names too.

    Raises:
        UserError: by file and line, for a line without a label, a label outside the classes, a
            file that does not exist, a video that stands twice; or for an empty list.
    """
    folder = _existing_folder(root)
    classes = ClassFile(class_names) if isinstance(class_names, ClassNames) else class_names
    found: list[Annotation] = []
    lines: list[int] = []
    for number, line in _lines(Path(list_path)):
        name, _, label = line.rpartition(" ")
        if not name.strip():
            raise UserError(
                f"{list_path}:{number}: {line!r} has no label; each line is a path, a space and a "
                "label"
            )
        label_name = _label_name(f"{list_path}:{number}", label, classes)
        path = absolute(folder / name.strip())
        found.append(Annotation(path, (label_name,), split=split))
        lines.append(number)
    if not found:
        raise UserError(f"{list_path}: no lines in it; each line is a path, a space and a label")
    _check_files(Path(list_path), found, lines)
    return found


def read_csv(path: Path | str, root: Path | str | None = None) -> list[Annotation]:
    """Videos in a CSV with the columns path and label, and if it has them group and split.

    Several labels are joined by `;`; an empty label is an unlabelled video. Paths are relative to
    `root`, or else to the CSV's folder.

    Raises:
        UserError: by file and line, for missing or unknown columns, a row of another length, a
            file that does not exist, a video that stands twice; or for a CSV without rows.
    """
    source = Path(path)
    folder = _existing_folder(source.parent if root is None else root)
    found: list[Annotation] = []
    lines: list[int] = []
    for number, row in read_rows(source, required=("path", "label"), allowed=CSV_COLUMNS):
        if not row["path"].strip():
            raise UserError(f"{source}:{number}: the path is empty")
        names = tuple(name.strip() for name in row["label"].split(";") if name.strip())
        video = absolute(folder / row["path"].strip())
        found.append(Annotation(video, names, row.get("group", ""), row.get("split", "")))
        lines.append(number)
    if not found:
        raise UserError(f"{source}: no rows in it")
    _check_files(source, found, lines)
    return found


def read_rows(
    path: Path, *, required: Sequence[str], allowed: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV with their line numbers (the header is line 1), blank lines left out.

    Raises:
        UserError: no such file, not UTF-8 text, a column missing or unknown, a row of another
            length than the header.
    """
    text = _read_text(path)
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = next(reader, [])
        _check_header(path, header, required, allowed)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path}:{reader.line_num}: {len(row)} values where the header has "
                    f"{len(header)} columns"
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not readable as CSV: {error}") from None


def default_classes(annotations: Sequence[Annotation]) -> ClassNames:
    """All label names, sorted; by value where all of them are numbers."""
    names = {name for annotation in annotations for name in annotation.label_names}
    if not names:
        raise UserError("none of the videos has a label, so there are no classes")
    numeric = all(name.isdecimal() for name in names)
    return ClassNames(sorted(names, key=int) if numeric else sorted(names))


def absolute(path: Path | str) -> Path:
    """The path from the root, without `..`; links stay links, unlike with `Path.resolve`."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _classes_in(folder: Path, split: str, ignore: OnIgnored) -> Iterator[Annotation]:
    for class_folder in sorted(entry for entry in folder.iterdir() if _is_visible_folder(entry)):
        num_found = 0
        for path in _files_below(class_folder):
            if _is_video(path, ignore):
                num_found += 1
                yield Annotation(path, (class_folder.name,), split=split)
        if not num_found:
            raise UserError(
                f"{class_folder}: no videos in it; remove the folder, or put the class's videos in"
            )
    _refuse_loose_videos(folder, ignore)


def _refuse_loose_videos(folder: Path, ignore: OnIgnored) -> None:
    for path in sorted(entry for entry in folder.iterdir() if entry.is_file()):
        if _is_video(path, ignore):
            raise UserError(
                f"{path}: a video outside of any class folder; expected {folder.name}/<class>/"
                "<video>, or give a list of `path label` lines"
            )


def _files_below(folder: Path) -> list[Path]:
    """All files below, sorted; links to folders are followed, as data sets are often linked."""
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
    )


def _is_video(path: Path, ignore: OnIgnored) -> bool:
    if path.name.startswith("._"):
        ignore(path, "a macOS resource fork, not a video")
        return False
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        ignore(path, f"{path.suffix or 'no'} ending, not one of a video")
        return False
    return True


def _is_visible_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _label_name(where: str, label: str, classes: ClassFile | None) -> str:
    if classes is None:
        return label
    try:
        if label in classes.names:
            return label
        if label.lstrip("-").isdecimal():
            return classes.name_of(int(label))
        classes.names.index_of(label)  # raises, with the nearest name
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    raise AssertionError(label)


def _check_files(source: Path, found: Sequence[Annotation], lines: Sequence[int]) -> None:
    seen: dict[Path, int] = {}
    missing: list[int] = []
    for position, (annotation, number) in enumerate(zip(found, lines, strict=True)):
        if annotation.path in seen:
            raise UserError(
                f"{source}:{number}: {annotation.path} stands already in line "
                f"{seen[annotation.path]}; give each video one line"
            )
        seen[annotation.path] = number
        if not annotation.path.is_file():
            missing.append(position)
    if missing:
        first = missing[0]
        more = f" (and {len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise UserError(f"{source}:{lines[first]}: no such file: {found[first].path}{more}")


def _check_header(
    path: Path, header: Sequence[str], required: Sequence[str], allowed: Sequence[str]
) -> None:
    unknown = [name for name in header if name not in allowed]
    missing = [name for name in required if name not in header]
    if missing:
        raise UserError(
            f"{path}:1: column {missing[0]!r} is missing; the first line names the columns "
            f"{','.join(required)}"
        )
    if unknown:
        raise UserError(
            f"{path}:1: column {unknown[0]!r} is not known; {did_you_mean(unknown[0], allowed)}"
        )
    if len(set(header)) != len(header):
        raise UserError(f"{path}:1: a column stands twice: {','.join(header)}")


def _class_names(path: Path | str, names: Sequence[str]) -> ClassNames:
    try:
        return ClassNames(names)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, stripped, with their numbers from 1."""
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as text: {error}") from None


def _existing_folder(path: Path | str) -> Path:
    folder = absolute(path)
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder")
    return folder
