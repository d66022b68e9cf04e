"""decord: fast, exact for most files, and wrong in silence for some; the scan knows which."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from videokd.data.readers.base import BaseReader, Frames, PathLike, as_unreadable


class DecordReader(BaseReader):
    """decord, single-threaded: workers are the parallelism."""

    def __init__(self, path: PathLike, *, num_frames: int | None = None) -> None:
        super().__init__(path, num_frames=num_frames)
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        with as_unreadable(self.path):
            self._native = decord.VideoReader(str(self.path), ctx=decord.cpu(0), num_threads=1)
            found = len(self._native)
        self._refuse_other_count(found)
        self._known_num_frames = found

    @property
    def num_frames(self) -> int:
        """Frames that decord counts; the scan compares this with what really decodes."""
        return len(self._native)

    @property
    def fps(self) -> float:
        """Mean frames per second."""
        return float(self._native.get_avg_fps())

    @property
    def first_seconds(self) -> NDArray[np.float64]:
        """Start of each frame by decord's own account, float64 [n]; NaN where the file has none."""
        with as_unreadable(self.path):
            stamps = np.asarray(self._native.get_frame_timestamp(range(len(self._native))))
        first = stamps[:, 0].astype(np.float64)
        first[np.abs(first) > 1e15] = np.nan  # AV_NOPTS_VALUE, in seconds
        return first

    def _read_sorted(self, ids: NDArray[np.int64]) -> Frames:
        with as_unreadable(self.path):
            frames = self._native.get_batch(ids.tolist()).asnumpy()
        return np.asarray(frames, dtype=np.uint8)

    def close(self) -> None:
        """Let go of the file."""
        self._native = None
