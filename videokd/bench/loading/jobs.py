"""What the loaders of the loading benchmark are given, and what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videokd.data.loading.clips import STUDENT
from videokd.errors import UserError
from videokd.types import Crop, Draw, InputSpec, VideoRecord

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class SpeedFile:
    """A file to load clips from, with what a bare PyAV loop must know to get frames by number."""

    name: str
    record: VideoRecord
    stamps: tuple[int, ...]
    """Presentation times of all frames in ticks, ascending; empty where the file has none."""
    key_ids: tuple[int, ...]
    """Frames at which decoding can start, ascending."""

    @property
    def kbit_per_s(self) -> float:
        """Mean bitrate of the file."""
        return self.record.bytes * 8 / 1000 / (self.record.num_frames / self.record.fps)


@dataclass(frozen=True)
class Job:
    """One clip that every loader is to load."""

    file: SpeedFile
    draw: Draw
    spec: InputSpec

    @property
    def frame_ids(self) -> NDArray[np.int64]:
        """int64 [T]."""
        return np.asarray(self.draw.frame_ids[STUDENT][0])

    @property
    def crop(self) -> Crop:
        """What is cut out of each frame."""
        return self.draw.crops[0]


@dataclass(frozen=True)
class Loader:
    """A way to load clips."""

    name: str
    clips: Callable[[Sequence[Job]], Iterator[Frames]]
    how: str
    """What was done, for the reader of the table."""
    is_bare: bool = False
    """It yields whole frames."""


def read_speed_file(name: str, record: VideoRecord) -> SpeedFile:
    """Decode the file once with PyAV for its time stamps and key frames.

    Raises:
        UserError: the record is a folder of frames, which has no peers.
    """
    import av

    path = Path(record.path)
    if not path.is_file():
        raise UserError(f"{path}: is not a video file; the loading benchmark needs one")
    with av.open(str(path)) as container:
        found = [(frame.pts, frame.key_frame) for frame in container.decode(video=0)]
    stamps = [stamp for stamp, _ in found if stamp is not None]
    usable = len(stamps) == record.num_frames and stamps == sorted(set(stamps))
    keys = tuple(i for i, (_, is_key) in enumerate(found) if is_key)
    usable = usable and keys[:1] == (0,)
    return SpeedFile(name, record, tuple(stamps) if usable else (), keys if usable else ())
