"""Frames of a video by their number, through one of several libraries behind one protocol.

Frame i is the i-th frame that a player presents, counted from 0, in display orientation. Which
reader is exact for a file is found once, by the scan, and stands in the index.

No library is imported before the first file is opened, and nothing here imports torch (torchcodec
does, when it opens its first file).
"""

from __future__ import annotations

from collections.abc import Callable

from videokd.config import did_you_mean
from videokd.data.readers.base import Frames, PathLike, VideoReader, frame_seconds
from videokd.data.readers.decord_reader import DecordReader
from videokd.data.readers.frame_folder import FrameFolderReader
from videokd.data.readers.packets import Packets
from videokd.data.readers.pyav_reader import PyAVReader, to_rgb
from videokd.data.readers.torchcodec_reader import TorchCodecReader
from videokd.errors import ConfigError

__all__ = [
    "READERS",
    "DecordReader",
    "FrameFolderReader",
    "Frames",
    "Packets",
    "PathLike",
    "PyAVReader",
    "TorchCodecReader",
    "VideoReader",
    "frame_seconds",
    "open_video",
    "to_rgb",
]

READERS: dict[str, Callable[..., VideoReader]] = {
    "decord": DecordReader,
    "pyav": PyAVReader,
    "torchcodec": TorchCodecReader,
    "frames": FrameFolderReader,
}
"""Reader by the name that stands in the index."""


def open_video(path: PathLike, reader: str, *, num_frames: int | None = None) -> VideoReader:
    """Open a video with the reader of that name.

    Args:
        path: the file; for `frames` the folder.
        reader: a key of `READERS`.
        num_frames: what the scan counted, where the video was scanned. PyAV jumps to key frames
            only where this proves it safe; the others refuse a video that shows another number.

    Raises:
        UnreadableVideo: no such file, not a video, or not as it was when it was scanned.
        ConfigError: no reader of that name.
        UserError: torchcodec or what it needs is not installed.
    """
    if reader not in READERS:
        raise ConfigError(f"reader {reader!r} is not known; {did_you_mean(reader, list(READERS))}")
    return READERS[reader](path, num_frames=num_frames)
