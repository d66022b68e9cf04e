"""Whether many files are there, without asking the file system for each of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

_LISTED_FROM = 64
"""A folder with so many of the files is listed once; below, listing it could take longer."""


def first_missing(paths: Sequence[str], are_folders: Sequence[bool]) -> int | None:
    """Position of the first path that is not there, as a file or where so said as a folder.

    A million files in a thousand folders take a thousand listings instead of a million questions.
    What a listing does not show is asked for by itself: file systems differ in how they compare
    names.
    """
    parents = [os.path.dirname(path) for path in paths]  # noqa: PTH120  a million Paths are slow
    counts = Counter(parents)
    listed: dict[str, tuple[set[str], set[str]]] = {}
    for position, (path, parent, is_folder) in enumerate(
        zip(paths, parents, are_folders, strict=True)
    ):
        if counts[parent] >= _LISTED_FROM:
            if parent not in listed:
                listed[parent] = _listing(parent)
            if path in listed[parent][is_folder]:
                continue
        if not (os.path.isdir(path) if is_folder else os.path.isfile(path)):  # noqa: PTH112, PTH113
            return position
    return None


def _listing(folder: str) -> tuple[set[str], set[str]]:
    """Paths of the files and of the folders in a folder; none where it cannot be listed."""
    found: tuple[set[str], set[str]] = (set(), set())
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    found[False].add(entry.path)
                elif entry.is_dir():
                    found[True].add(entry.path)
    except OSError:
        return found
    return found
