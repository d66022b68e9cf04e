"""Decoded videos kept in memory: a data set that fits is decoded once, not once an epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videokd.data.readers import Frames
from videokd.errors import UnreadableVideo
from videokd.types import VideoRecord

Decode = Callable[[NDArray[np.int64]], Frames]
"""Ids of frames, sorted, each once -> these frames."""


class KeptFrames:
    """All frames of the videos that are asked for first, up to so many bytes.

    Nothing is thrown out for a later video: where each comes once an epoch in an order of its own,
    that would throw out what is wanted next as often as not.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._num_bytes = 0
        self._videos: dict[Path, Frames] = {}
        self._not_whole: set[Path] = set()
        """Some frame does not decode; the others may."""

    @property
    def num_bytes(self) -> int:
        """What is kept."""
        return self._num_bytes

    def read(
        self, record: VideoRecord, ids: NDArray[np.int64], decode: Decode
    ) -> tuple[Frames, NDArray[np.int64]]:
        """Some frames [n,H,W,3] of a video, `ids` among them, and the number of each.

        Raises:
            UnreadableVideo: one of `ids` does not decode.
        """
        kept = self._videos.get(record.path)
        if kept is None:
            kept = self._keep(record, decode)
        if kept is None:
            return decode(ids), ids
        return kept, np.arange(len(kept))

    def _keep(self, record: VideoRecord, decode: Decode) -> Frames | None:
        num_bytes = record.num_frames * record.height * record.width * 3
        too_many = self._num_bytes + num_bytes > self._limit_bytes
        if too_many or record.path in self._not_whole:
            return None
        try:
            frames = decode(np.arange(record.num_frames))
        except UnreadableVideo:
            self._not_whole.add(record.path)
            return None
        self._videos[record.path] = frames
        self._num_bytes += frames.nbytes
        return frames
