"""What every reader of videos promises, and what they share.

Neither a video library nor torch is imported here before the first file is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from videokd.errors import UnreadableVideo

Frames = NDArray[np.uint8]
"""RGB, uint8 [..., H, W, 3], in display orientation."""
PathLike = Path | str


class VideoReader(Protocol):
    """One open video."""

    @property
    def num_frames(self) -> int:
        """Frames that are presented (n)."""
        ...

    @property
    def fps(self) -> float:
        """Mean frames per second."""
        ...

    def read(self, frame_ids: NDArray[np.integer]) -> Frames:
        """Frames by number, uint8 [len(frame_ids), H, W, 3], RGB in display orientation.

        Ids may be unsorted and repeated; the frames come back in the order asked for.

        Raises:
            UnreadableVideo: one of them does not decode. Never another frame instead.
            IndexError: an id outside [0, num_frames).
        """
        ...

    def frame_seconds(self, frame_ids: NDArray[np.integer]) -> NDArray[np.float64]:
        """When frames are presented: id / fps, from the first frame's 0.

        In a file of variable frame rate this is the mean clock, not each frame's own timestamp.
        """
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...

    def __enter__(self) -> VideoReader: ...

    def __exit__(self, *exc: object) -> None: ...


def frame_seconds(frame_ids: NDArray[np.integer], *, fps: float) -> NDArray[np.float64]:
    """Seconds from the first frame, float64, of the same shape as `frame_ids`: id / fps."""
    return np.asarray(frame_ids, dtype=np.float64) / fps


class BaseReader:
    """What all readers share: the checks of ids, sorting, and the context manager."""

    def __init__(self, path: PathLike, *, num_frames: int | None = None) -> None:
        self.path = Path(path)
        self._known_num_frames = num_frames
        self._check_path()

    @property
    def num_frames(self) -> int:
        """Frames that are presented (n)."""
        raise NotImplementedError

    @property
    def fps(self) -> float:
        """Mean frames per second."""
        raise NotImplementedError

    def read(self, frame_ids: NDArray[np.integer]) -> Frames:
        """Frames by number; see `VideoReader.read`."""
        ids = np.asarray(frame_ids, dtype=np.int64)
        if ids.ndim != 1 or ids.size == 0:
            raise ValueError(f"frame ids are a list of at least one number, not {list(ids.shape)}")
        # The count of a file that PyAV has not decoded to its end is not known, nor needed here.
        limit = self._known_num_frames
        if ids.min() < 0 or (limit is not None and ids.max() >= limit):
            raise IndexError(
                f"{self.path}: frame ids {ids.min()}..{ids.max()} outside [0, {limit})"
            )
        if ids.size == 1 or (np.diff(ids) > 0).all():
            return self._read_sorted(ids)
        wanted, positions = np.unique(ids, return_inverse=True)
        return self._read_sorted(wanted)[positions]

    def frame_seconds(self, frame_ids: NDArray[np.integer]) -> NDArray[np.float64]:
        """When frames are presented: id / fps."""
        return frame_seconds(frame_ids, fps=self.fps)

    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check_path(self) -> None:
        if not self.path.is_file():
            raise UnreadableVideo(self.path, "no such file")

    def _refuse_other_count(self, found: int) -> None:
        """A file that shows another number of frames than the scan found is not the same file."""
        known = self._known_num_frames
        if known is not None and found != known:
            raise UnreadableVideo(
                self.path, f"it shows {found} frames, the index says {known}; index it again"
            )

    def _read_sorted(self, ids: NDArray[np.int64]) -> Frames:
        """The same for ids that rise strictly."""
        raise NotImplementedError


@contextmanager
def as_unreadable(path: Path) -> Iterator[None]:
    """Errors of the native libraries, as one plain line."""
    import av

    try:
        yield
    except UnreadableVideo:
        raise
    except av.error.FFmpegError as error:
        raise UnreadableVideo(path, error.strerror or type(error).__name__) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UnreadableVideo(path, _plain(error)) from None
    except Exception as error:
        # decord's DECORDError is a bare Exception, and importing decord to name it is not free.
        if type(error).__module__.partition(".")[0] != "decord":
            raise
        raise UnreadableVideo(path, _plain(error)) from None


def _plain(error: BaseException) -> str:
    """The first line of a native error, without its clock, source file and stack."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return re.sub(r"^(\[[\d:]+\]\s*)?(/\S+:\d+:\s*)?", "", line).strip()[:200] or "unknown error"
