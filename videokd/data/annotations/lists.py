"""Lists of `path label` lines, and CSV files with a header."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

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
    read_lines,
    read_rows,
)
from videokd.errors import UserError
from videokd.types import ClassNames

CSV_COLUMNS = ("path", "label", "group", "split")


def read_list(
    list_path: Path | str,
    root: Path | str,
    class_names: ClassNames | ClassFile | None = None,
    *,
    split: str = "",
) -> list[Annotation]:
    """Videos in one list of `path label` lines, see `read_lists`."""
    classes = ClassFile(class_names) if isinstance(class_names, ClassNames) else class_names
    return read_lists({split: Path(list_path)}, root, classes).videos


def read_lists(
    lists: Mapping[str, Path],
    root: Path | str,
    classes: ClassFile | None = None,
    *,
    delimiter: str | None = None,
    allow_absent: bool = False,
) -> Annotations:
    """Videos in lists of `path label` lines, one list a split.

    Paths are relative to `root` and may have spaces. The label is what follows the last space (or
    `delimiter`): a class name, or the number of a class if `classes` is given. A video may stand in
    the lists of several folds, as in `{"train1": ..., "test1": ..., "train2": ...}`.

    Raises:
        UserError: by file and line, for a line without a label, a label outside the classes, a
            file that does not exist, a video that stands twice; or for an empty list.
    """
    folder = existing_folder(root)
    found = [
        line
        for split, path in lists.items()
        for line in _lines_of(path, folder, classes, split=split, delimiter=delimiter)
    ]
    names = classes.names if classes is not None else None
    return present(one_line_a_video(found), allow_absent=allow_absent, classes=names)


def read_csv(
    path: Path | str, root: Path | str | None = None, *, allow_absent: bool = False
) -> Annotations:
    """Videos in a CSV with the columns path and label, and if it has them group and split.

    Several labels are joined by `;`; an empty label is an unlabelled video. So are the splits of a
    data set with several folds. Paths are relative to `root`, or else to the CSV's folder.

    Raises:
        UserError: by file and line, for missing or unknown columns, a row of another length, a
            file that does not exist, a video that stands twice; or for a CSV without rows.
    """
    source = Path(path)
    folder = existing_folder(source.parent if root is None else root)
    found: list[Line] = []
    for number, row in read_rows(source, required=("path", "label"), allowed=CSV_COLUMNS):
        if not row["path"].strip():
            raise UserError(f"{source}:{number}: the path is empty")
        names = tuple(name.strip() for name in row["label"].split(";") if name.strip())
        video = absolute(folder / row["path"].strip())
        annotation = Annotation(video, names, row.get("group", ""), row.get("split", ""))
        found.append(Line(f"{source}:{number}", annotation))
    if not found:
        raise UserError(f"{source}: no rows in it")
    return present(one_line_a_video(found), allow_absent=allow_absent)


def _lines_of(
    source: Path, folder: Path, classes: ClassFile | None, *, split: str, delimiter: str | None
) -> Iterator[Line]:
    number = 0
    for number, text in read_lines(source):
        where = f"{source}:{number}"
        name, label = _split_last(text, delimiter)
        if not name or not label:
            raise UserError(
                f"{where}: {text!r} has no label; each line is a path, "
                f"{'a space' if delimiter is None else repr(delimiter)} and a label"
            )
        names = (label_name(where, label, classes),)
        yield Line(where, Annotation(absolute(folder / name), names, split=split))
    if not number:
        raise UserError(f"{source}: no lines in it; each line is a path, a space and a label")


def _split_last(text: str, delimiter: str | None) -> tuple[str, str]:
    """What stands before and after the last delimiter, by default white space."""
    if delimiter is None:
        words = text.rsplit(maxsplit=1)
        return (words[0], words[1]) if len(words) == 2 else ("", text)
    name, _, label = text.rpartition(delimiter)
    return name.strip(), label.strip()
