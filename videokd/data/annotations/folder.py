"""Folders of videos: a folder per class, and finding videos by the name of their file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from videokd.data.annotations.annotation import Annotation
from videokd.data.annotations.files import existing_folder
from videokd.errors import UserError

VIDEO_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("3gp", "asf", "avi", "divx", "flv", "m2ts", "m4v", "mkv", "mov", "mp4"),
        *("mpeg", "mpg", "mts", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
"""Files with other endings in a folder of videos are not taken for videos."""

FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
"""A folder that directly holds such files is a folder of frames."""

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Name of a folder or in an annotation file -> split."""

OnIgnored = Callable[[Path, str], None]


def read_folder(
    root: Path | str, *, frames: bool = False, on_ignored: OnIgnored | None = None
) -> list[Annotation]:
    """Videos in `root/<class>/...` or `root/<train|val|test>/<class>/...`, sorted by path.

    Folders below the class folder are allowed and mean nothing. With `frames`, the videos are the
    folders that hold JPEG or PNG files. `on_ignored` is told of each file that is not taken for a
    video (another ending, or a macOS resource fork `._*`); without it, one warning is logged with
    their number.

    Raises:
        UserError: no such folder, no videos, a class folder without any, a video outside of them.
    """
    top = existing_folder(root)
    ignored: list[Path] = []

    def ignore(path: Path, why: str) -> None:
        ignored.append(path)
        if on_ignored is not None:
            on_ignored(path, why)

    reader = _FolderReader(frames, ignore)
    folders = sorted(entry for entry in top.iterdir() if _is_visible_folder(entry))
    if folders and all(folder.name.lower() in SPLIT_FOLDERS for folder in folders):
        found = [
            annotation
            for folder in folders
            for annotation in reader.classes_in(folder, SPLIT_FOLDERS[folder.name.lower()])
        ]
        reader.refuse_loose_videos(top)
    else:
        found = list(reader.classes_in(top, ""))
    if not found:
        raise UserError(f"{top}: no videos in it; expected {top.name}/<class>/<video>")
    if ignored and on_ignored is None:
        logging.getLogger(__name__).warning(
            "%s: %d files are not videos and were ignored, the first: %s",
            *(top, len(ignored), ignored[0]),
        )
    return found


def videos_by_stem(root: Path | str, *, frames: bool = False) -> dict[str, list[Path]]:
    """All videos below a folder by their names without ending, each list sorted.

    With `frames`, the folders that hold JPEG or PNG files, by their names.
    """
    found: dict[str, list[Path]] = {}
    for path in _videos_below(existing_folder(root), frames=frames, ignore=_say_nothing):
        found.setdefault(path.name if frames else path.stem, []).append(path)
    return found


class _FolderReader:
    """Class folders, with what counts as a video and who is told of the rest."""

    def __init__(self, frames: bool, ignore: OnIgnored) -> None:
        self._frames = frames
        self._ignore = ignore

    def classes_in(self, folder: Path, split: str) -> Iterator[Annotation]:
        for class_folder in sorted(e for e in folder.iterdir() if _is_visible_folder(e)):
            num_found = 0
            for path in _videos_below(class_folder, frames=self._frames, ignore=self._ignore):
                num_found += 1
                if path == class_folder:
                    raise UserError(
                        f"{path}: it holds frames itself; expected {folder.name}/<class>/<folder "
                        "of a video's frames>/img_00001.jpg"
                    )
                yield Annotation(path, (class_folder.name,), split=split)
            if not num_found:
                raise UserError(
                    f"{class_folder}: no {'folders of frames' if self._frames else 'videos'} in "
                    "it; remove the folder, or put the class's videos in"
                )
        self.refuse_loose_videos(folder)

    def refuse_loose_videos(self, folder: Path) -> None:
        for path in sorted(entry for entry in folder.iterdir() if entry.is_file()):
            if _is_video(path, self._ignore):
                raise UserError(
                    f"{path}: a video outside of any class folder; expected {folder.name}/<class>/"
                    "<video>, or give a list of `path label` lines"
                )


def _videos_below(folder: Path, *, frames: bool, ignore: OnIgnored) -> list[Path]:
    """Videos, or folders of frames, sorted; links to folders are followed."""
    if not frames:
        return sorted(
            path
            for parent, names in _walk(folder)
            for name in sorted(names)
            if _is_video(path := Path(parent, name), ignore)
        )
    return sorted(
        Path(parent) for parent, names in _walk(folder) if any(_is_frame(name) for name in names)
    )


def _walk(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder from `top` down and the files in it, without links that lead back up.

    Followed, such a link shows the same videos again, under some forty longer paths each.
    """
    real = os.path.realpath(top)
    places = {str(top): (real, frozenset({real, *map(str, Path(real).parents)}))}
    for parent, folders, names in os.walk(top, followlinks=True):
        real_parent, above = places.pop(parent)
        for name in list(folders):
            child, real = Path(parent, name), str(Path(real_parent, name))
            real = os.path.realpath(real) if child.is_symlink() else real
            if real in above:
                folders.remove(name)
            else:
                places[str(child)] = (real, above | {real})
        yield parent, names


def _is_frame(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in FRAME_SUFFIXES


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


def _say_nothing(_path: Path, _why: str) -> None:
    pass
