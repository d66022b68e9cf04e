"""A video as a folder of numbered pictures: `img_00001.jpg`, `000001.jpg`, `v_Clip_000001.png`.

The layouts of mmaction2's and PySlowFast's raw frames and of Something-Something v2.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videokd.data.readers.base import BaseReader, Frames, PathLike, as_unreadable
from videokd.errors import UnreadableVideo

_NUMBERED = re.compile(r"(?P<prefix>.*?)[-_ .]?(?P<number>\d+)\.(jpe?g|png)", re.IGNORECASE)
_PICTURE = re.compile(r".*\.(jpe?g|png)", re.IGNORECASE)
_PICTURES = {"img", "image", "frame"}
"""Prefixes that name the pictures where other series lie beside them."""
_FLOW = {"flow_x", "flow_y", "x", "y"}
"""Prefixes of optical flow."""
_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"}
"""Pillow's names of pictures with 8 bits a channel."""


class FrameFolderReader(BaseReader):
    """Numbered JPEG or PNG pictures of one size, in the order of their numbers.

    EXIF orientation is applied; grey pictures become RGB, transparency is dropped.

    Raises:
        UnreadableVideo: see `frame_paths`; or another number of pictures than the scan found.
    """

    def __init__(self, path: PathLike, *, num_frames: int | None = None) -> None:
        super().__init__(path, num_frames=num_frames)
        with as_unreadable(self.path):
            self.frames = frame_paths(self.path)
        self._refuse_other_count(len(self.frames))
        self._known_num_frames = len(self.frames)

    @property
    def num_frames(self) -> int:
        """Pictures in the folder."""
        return len(self.frames)

    @property
    def fps(self) -> float:
        """A folder has none; the scan is told it."""
        raise UnreadableVideo(self.path, "a folder of frames has no frame rate of its own")

    def _read_sorted(self, ids: NDArray[np.int64]) -> Frames:
        found: list[Frames] = []
        for frame_id in ids.tolist():
            pixels = picture_to_rgb(self.frames[frame_id])
            if found and pixels.shape != found[0].shape:
                raise UnreadableVideo(self.path, "its frames are not all of one size")
            found.append(pixels)
        return np.stack(found)

    def _check_path(self) -> None:
        if not self.path.is_dir():
            raise UnreadableVideo(self.path, "no such folder")


def frame_paths(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder, by their numbers.

    Where several series lie in the folder, told apart by what stands before the number, the one
    named img, image or frame is taken, or the only one that is not optical flow (flow_x, flow_y,
    x, y). Files whose names start with a dot, and other files than JPEG and PNG, are no frames.

    Raises:
        UnreadableVideo: no pictures, one without a number, a number that stands twice or is left
            out, or several series of which none is plainly the pictures.
    """
    series: dict[str, dict[int, str]] = defaultdict(dict)
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if not e.name.startswith(".") and not e.is_dir())
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            numbered, number = series[match["prefix"].lower()], int(match["number"])
            if number in numbered:
                raise UnreadableVideo(
                    folder, f"frame {number} stands twice: {numbered[number]} and {name}"
                )
            numbered[number] = name
        elif _PICTURE.fullmatch(name):
            raise UnreadableVideo(folder, f"{name} has no number; a frame is named img_00001.jpg")
    return tuple(folder / name for name in _without_gap(folder, series[_chosen(folder, series)]))


def _chosen(folder: Path, series: dict[str, dict[int, str]]) -> str:
    if not series:
        raise UnreadableVideo(folder, "it holds no numbered .jpg, .jpeg or .png files")
    for candidates in (series.keys() & _PICTURES, series.keys() - _FLOW):
        if len(candidates) == 1:
            return next(iter(candidates))
    firsts = ", ".join(sorted(numbered[min(numbered)] for numbered in series.values()))
    raise UnreadableVideo(
        folder,
        f"it holds {len(series)} series of frames ({firsts}); name the pictures img_00001.jpg",
    )


def _without_gap(folder: Path, numbered: dict[int, str]) -> list[str]:
    first, last = min(numbered), max(numbered)
    if last - first + 1 != len(numbered):
        gap = next(n for n in range(first, last) if n not in numbered)
        missing = last - first + 1 - len(numbered)
        raise UnreadableVideo(
            folder,
            f"frame {gap} is missing between {numbered[first]} and {numbered[last]} ({missing} "
            "missing in all)",
        )
    return [numbered[number] for number in sorted(numbered)]


def picture_to_rgb(path: Path) -> Frames:
    """A JPEG or PNG as uint8 [H, W, 3], RGB, turned as its EXIF orientation says.

    Raises:
        UnreadableVideo: it does not decode, or has not 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=("JPEG", "PNG")) as picture:
            if picture.mode not in _MODES:
                raise ValueError(f"its pixels are {picture.mode}; 8 bits a channel are needed")
            upright = ImageOps.exif_transpose(picture)
            return np.array(upright.convert("RGB"), dtype=np.uint8)
    except Exception as error:  # whatever Pillow's parsers stumble over in a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableVideo(path, reason) from None


def folder_digest(frames: tuple[Path, ...]) -> str:
    """SHA-256 over the names and bytes of a folder's frames, 16 hex digits."""
    whole = hashlib.sha256()
    for path in frames:
        name, content = path.name.encode(), path.read_bytes()
        whole.update(len(name).to_bytes(8, "little") + name)
        whole.update(len(content).to_bytes(8, "little") + content)
    return whole.hexdigest()[:16]
