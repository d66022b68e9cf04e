"""What an earlier run finished: one line a video, written when it was verified and in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from videokd.errors import UserError
from videokd.files import lock_or_refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A video that was encoded and verified."""

    source: str
    """Path of the source when it was encoded."""
    source_digest: str
    target: str
    """Path below the folder."""
    num_frames: int
    fps: float
    height: int
    width: int
    reader: str
    bytes: int
    digest: str
    psnr_db: float
    """Of the worst sampled frame."""


class Manifest:
    """The open manifest of a folder; the lock on it goes with the process, however that ends."""

    def __init__(self, file: IO[str], path: Path, settings: Mapping[str, Any]) -> None:
        self._file = file
        self.finished = _read(file, path, settings)
        """Source -> what became of it, the last word counting."""

    def add(self, prepared: Prepared) -> None:
        """Write a line, at once."""
        self._file.write(json.dumps(asdict(prepared)) + "\n")
        self._file.flush()
        self.finished[prepared.source] = prepared


@contextmanager
def open_manifest(path: Path, settings: Mapping[str, Any]) -> Iterator[Manifest]:
    """Open or begin a manifest and hold it alone.

    Raises:
        UserError: another process holds it; it was made with other settings; it is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        lock_or_refuse(file, f"{path.parent}: another process prepares videos there")
        yield Manifest(file, path, settings)


def _read(file: IO[str], path: Path, settings: Mapping[str, Any]) -> dict[str, Prepared]:
    """The finished videos; a last line that was cut off in the middle is taken back."""
    file.seek(0)
    whole, _, _cut_off = file.read().rpartition("\n")
    lines = whole.splitlines()
    file.truncate(len(whole.encode()) + 1 if lines else 0)
    file.seek(0, 2)
    if not lines:
        file.write(json.dumps({"settings": dict(settings)}) + "\n")
        file.flush()
        return {}
    try:
        _refuse_other_settings(path.parent, json.loads(lines[0])["settings"], settings)
        entries = [Prepared(**json.loads(line)) for line in lines[1:]]
    except (ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: is not the manifest of prepared videos ({reason}); choose a new folder"
        ) from None
    return {entry.source: entry for entry in entries}


def _refuse_other_settings(
    folder: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    other = [
        f"{name} {there.get(name)} (now {wanted.get(name)})"
        for name in sorted({*there, *wanted})
        if there.get(name) != wanted.get(name)
    ]
    if other:
        raise UserError(
            f"{folder}: was prepared with {', '.join(other)}; give the same settings, or another "
            "folder"
        )
