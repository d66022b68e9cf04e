"""torchcodec, where it is installed and finds FFmpeg's libraries."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videokd.data.readers.base import BaseReader, Frames, PathLike, as_unreadable
from videokd.errors import UserError


class TorchCodecReader(BaseReader):
    """torchcodec with its index of all frames; single-threaded: workers are the parallelism.

    Its approximate mode takes frame i to be at i / fps, which is wrong for fragmented files, open
    GOPs, edit lists and variable rates; it is not used.

    Raises:
        UserError: torchcodec is not installed, or does not find FFmpeg's libraries.
    """

    def __init__(self, path: PathLike, *, num_frames: int | None = None) -> None:
        super().__init__(path, num_frames=num_frames)
        decoder = torchcodec_decoder()
        with as_unreadable(self.path):
            self._native = decoder(
                str(self.path), seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1
            )
            found = len(self._native)
        self._refuse_other_count(found)
        self._known_num_frames = found

    @property
    def num_frames(self) -> int:
        """Frames that torchcodec counts; the scan compares this with what really decodes."""
        return len(self._native)

    @property
    def fps(self) -> float:
        """Mean frames per second."""
        return float(self._native.metadata.average_fps)

    def _read_sorted(self, ids: NDArray[np.int64]) -> Frames:
        with as_unreadable(self.path):
            frames = self._native.get_frames_at(ids.tolist()).data.numpy()
        return np.asarray(frames, dtype=np.uint8)

    def close(self) -> None:
        """Let go of the file."""
        self._native = None


def torchcodec_decoder() -> Any:
    """torchcodec's `VideoDecoder`.

    Raises:
        UserError: it is not installed, or does not find FFmpeg's libraries.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torchcodec":
            raise
        raise UserError(
            "the reader torchcodec needs the package torchcodec; install it with "
            "`pip install 'videokd[torchcodec]'`, or set reader to auto"
        ) from None
    except (OSError, RuntimeError):
        raise _no_ffmpeg() from None
    if not _finds_ffmpeg(VideoDecoder):
        raise _no_ffmpeg()
    return VideoDecoder


@functools.cache
def _finds_ffmpeg(decoder: Any) -> bool:
    """From 0.17 on torchcodec can be imported without FFmpeg, and says so at the first video."""
    try:
        decoder(b"")
    except (OSError, RuntimeError, ValueError) as error:
        return "Could not load libtorchcodec" not in str(error)
    return True


def _no_ffmpeg() -> UserError:
    return UserError(
        "the reader torchcodec does not find FFmpeg's libraries; install FFmpeg 4 to 8 (on "
        "Debian and Ubuntu: `apt install ffmpeg`), or set reader to auto"
    )
