"""Where prepared videos go, and where they must not: the sources stay as they are.

Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from videokd.errors import UserError
from videokd.files import check_place
from videokd.types import VideoRecord

MANIFEST = "prepare.jsonl"
"""What was prepared, from what and how."""
STAGING = ".partial"
"""Files that are being written; it is gone after a run, however the run ends."""
SUFFIX = ".mp4"


def targets_of(records: Sequence[VideoRecord], out: Path) -> list[Path]:
    """Where each video goes: below `out` as it lies below the sources' common folder, as `.mp4`.

    Names that would differ only in their ending (or in case, which some file systems do not tell
    apart) keep the old ending too: `a.avi` and `a.webm` become `a.avi.mp4` and `a.webm.mp4`.
    """
    folder = source_folder(records)
    names = [record.path.relative_to(folder) for record in records]
    short = [
        # A folder of frames may have a point in its name that begins no ending.
        _with_ending(name) if record.reader == "frames" else name.with_suffix(SUFFIX)
        for name, record in zip(names, records, strict=True)
    ]
    counts = Counter(str(name).casefold() for name in short)
    return [
        out / (plain if counts[str(plain).casefold()] == 1 else _with_ending(name))
        for name, plain in zip(names, short, strict=True)
    ]


def _with_ending(name: Path) -> Path:
    return name.with_name(name.name + SUFFIX)


def source_folder(records: Sequence[VideoRecord]) -> Path:
    """The deepest folder that all videos lie in."""
    return Path(os.path.commonpath([record.path.parent for record in records]))


def check_out(out: Path, records: Sequence[VideoRecord], targets: Sequence[Path]) -> None:
    """Refuse a place where a source, or anything else, might be written over.

    Raises:
        UserError: `out` is, or lies in, a folder of sources; it is a link or has one where files
            would go; it holds something that no earlier run made; a video would be written onto a
            source.
    """
    check_place(out, is_folder=True)
    for place in (out, out / MANIFEST, out / STAGING, *_folders_below(out, targets)):
        if place.is_symlink():
            raise UserError(f"{place}: is a link, and nothing is written through links")
    _refuse_source_folders(out.resolve(), records)
    sources = {record.path.resolve() for record in records}
    for target in targets:
        if target.resolve() in sources:
            raise UserError(f"{target}: is one of the sources; choose another folder to write to")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise UserError(f"{out}: is not empty, and not from an earlier run; choose a new folder")


def _refuse_source_folders(out: Path, records: Sequence[VideoRecord]) -> None:
    folders = {(r.path if r.reader == "frames" else r.path.parent) for r in records}
    common = source_folder(records)
    if len(folders) > 1 and common != Path(common.anchor):
        folders.add(common)
    for folder in sorted(folders):
        if out.is_relative_to(folder.resolve()):
            raise UserError(
                f"{out}: lies in {folder}, where the sources are; choose a folder outside of it"
            )


def _folders_below(out: Path, targets: Sequence[Path]) -> list[Path]:
    """Every folder between `out` and a target."""
    found: set[Path] = set()
    for parent in {target.parent for target in targets}:
        while parent != out and parent not in found:
            found.add(parent)
            parent = parent.parent
    return sorted(found)
