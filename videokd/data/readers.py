"""Frames of a video file by their number: decord by default, PyAV behind the same protocol.

Frame i is the i-th frame that a player presents, counted from 0, in display orientation. Which
reader is exact for a file is found once, by the scan, and stands in the index.

Neither library is imported before the first file is opened, and nothing here imports torch.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from videokd.config import did_you_mean
from videokd.errors import ConfigError, UnreadableVideo

Frames = NDArray[np.uint8]
PathLike = Path | str


_OWN_STAMPS = {"mov", "mp4", "matroska", "webm"}
"""Containers that store when each packet is presented; for others FFmpeg guesses it."""


@dataclass(frozen=True, slots=True)
class Packets:
    """The packets of a video stream, in the order in which they are decoded."""

    stamps: tuple[int | None, ...]
    """When each is presented, in ticks."""
    keys: tuple[bool, ...]
    """Whether decoding can start there."""
    hides_some: bool
    """Some are not presented (an edit list) or are marked as corrupt."""
    reorders: bool
    """The decoder gives frames in another order than it takes packets (B-frames)."""
    has_own_stamps: bool
    """The container stores the stamps."""
    num_in_header: int
    """Frames by the container's account; 0 where it says nothing."""

    @property
    def num_expected(self) -> int:
        """Frames that the file should have."""
        return max(len(self.stamps), self.num_in_header)

    @property
    def has_leading_frames(self) -> bool:
        """Frames that are decoded after a key frame and presented before it (an open GOP).

        A reader that jumps to such a key frame and counts from there counts wrongly. Where the
        stamps are guesses, several key frames and reordering are enough to suspect it.
        """
        if not self.has_own_stamps and self.reorders and sum(self.keys) > 1:
            return True
        key_stamp: int | None = None
        for stamp, is_key in zip(self.stamps, self.keys, strict=True):
            if is_key:
                key_stamp = stamp
            elif key_stamp is not None and stamp is not None and stamp < key_stamp:
                return True
        return False


class VideoReader(Protocol):
    """One open video file."""

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


class _Reader:
    """What both readers share: the checks of ids, sorting, and the context manager."""

    def __init__(self, path: PathLike, *, num_frames: int | None = None) -> None:
        self.path = Path(path)
        self._known_num_frames = num_frames
        if not self.path.is_file():
            raise UnreadableVideo(self.path, "no such file")

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

    def _read_sorted(self, ids: NDArray[np.int64]) -> Frames:
        raise NotImplementedError


class DecordReader(_Reader):
    """decord, single-threaded: the fastest, and exact for most files; the scan knows for which."""

    def __init__(self, path: PathLike, *, num_frames: int | None = None) -> None:
        super().__init__(path, num_frames=num_frames)
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        with _as_unreadable(self.path):
            self._native = decord.VideoReader(str(self.path), ctx=decord.cpu(0), num_threads=1)
            found = len(self._native)
        if num_frames is not None and found != num_frames:
            raise UnreadableVideo(
                self.path, f"it shows {found} frames, the index says {num_frames}; index it again"
            )
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
        with _as_unreadable(self.path):
            stamps = np.asarray(self._native.get_frame_timestamp(range(len(self._native))))
        first = stamps[:, 0].astype(np.float64)
        first[np.abs(first) > 1e15] = np.nan  # AV_NOPTS_VALUE, in seconds
        return first

    def _read_sorted(self, ids: NDArray[np.int64]) -> Frames:
        with _as_unreadable(self.path):
            frames = self._native.get_batch(ids.tolist()).asnumpy()
        return np.asarray(frames, dtype=np.uint8)

    def close(self) -> None:
        """Let go of the file."""
        self._native = None


class PyAVReader(_Reader):
    """FFmpeg through PyAV: exact for whatever decodes, and it decodes only as far as needed.

    Frame i is the i-th that comes out of the decoder. Where the number of frames is given (from a
    scan) and equals the file's packets, each with a timestamp of its own, the reader jumps to the
    key frame before the frame that it wants; otherwise it decodes from the start.
    """

    def __init__(self, path: PathLike, *, num_frames: int | None = None) -> None:
        super().__init__(path, num_frames=num_frames)
        self._container: Any = None
        with _as_unreadable(self.path):
            self._restart()
        self._pts: list[int] = []
        self._key_ids: list[int] = []
        if num_frames is not None:
            self._pts, self._key_ids = self._seek_table()

    @property
    def num_frames(self) -> int:
        """Frames that decode; unless it was given, finding it decodes the whole file."""
        if self._known_num_frames is None:
            with PyAVReader(self.path) as counter:
                self._known_num_frames = sum(1 for _ in counter.frames())
        return self._known_num_frames

    @property
    def fps(self) -> float:
        """Mean frames per second, as the container says."""
        if self.rate is None:
            raise UnreadableVideo(self.path, "the file does not say its frame rate; index it")
        return self.rate

    @property
    def rate(self) -> float | None:
        """Mean frames per second as the container says, or nothing."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else None

    @property
    def time_base(self) -> float | None:
        """Seconds a tick of the timestamps."""
        return float(self._stream.time_base) if self._stream.time_base else None

    @property
    def jumps(self) -> bool:
        """Whether reading jumps to key frames; without, it decodes from the start."""
        return bool(self._pts)

    def packets(self) -> Packets:
        """What the file stores, read but not decoded."""
        with _as_unreadable(self.path):
            self._restart()
            found = [p for p in self._container.demux(self._stream) if p.size]
            return Packets(
                stamps=tuple(p.pts for p in found),
                keys=tuple(bool(p.is_keyframe) for p in found),
                hides_some=any(p.is_discard or p.is_corrupt for p in found),
                reorders=bool(self._stream.codec_context.has_b_frames),
                has_own_stamps=bool(_OWN_STAMPS & set(self._container.format.name.split(","))),
                num_in_header=int(self._stream.frames),
            )

    def frames(self) -> Iterator[Any]:
        """All frames of the file as PyAV's own, from the first to the last that decodes.

        Frames before the first that decodes are not presented. The first error after that ends
        the video with `UnreadableVideo`: what came before it was right.
        """
        with _as_unreadable(self.path):
            self._restart()
            yield from self._decoded()

    def _read_sorted(self, ids: NDArray[np.int64]) -> Frames:
        with _as_unreadable(self.path):
            frames = self._read_jumping(ids) if self._pts else None
            if frames is None:
                self._pts = []  # no jumping in this file any more
                frames = self._read_from_start(ids)
        return np.stack(frames)

    def _read_from_start(self, ids: Sequence[int] | NDArray[np.int64]) -> list[Frames]:
        self._restart()
        found: list[Frames] = []
        for position, frame in enumerate(self._decoded()):
            if position == ids[len(found)]:
                found.append(to_rgb(frame))
                if len(found) == len(ids):
                    return found
        raise UnreadableVideo(
            self.path, f"frame {ids[len(found)]} does not decode; the file ends before it"
        )

    def _read_jumping(self, ids: NDArray[np.int64]) -> list[Frames] | None:
        """None where a wanted timestamp does not come out: then the table is not to be trusted."""
        found: list[Frames] = []
        position = -1  # the frame that the decoder gave last, by its number
        decoded: Iterator[Any] = iter(())
        for wanted in ids.tolist():
            key = self._key_ids[bisect.bisect_right(self._key_ids, wanted) - 1]
            if position < 0 or key > position:
                self._container.seek(self._pts[key], stream=self._stream, backward=True)
                decoded = self._decoded()
            frame = next((f for f in decoded if f.pts is None or f.pts >= self._pts[wanted]), None)
            if frame is None or frame.pts != self._pts[wanted]:
                return None
            position = wanted
            found.append(to_rgb(frame))
        return found

    def _seek_table(self) -> tuple[list[int], list[int]]:
        """Timestamps in presentation order and the numbers of key frames; empty: do not jump."""
        packets = self.packets()
        with _as_unreadable(self.path):
            self._restart()
        stamps = [stamp for stamp in packets.stamps if stamp is not None]
        if (
            len(set(stamps)) != self._known_num_frames
            or len(packets.stamps) != self._known_num_frames
            or packets.hides_some
            or not packets.has_own_stamps
            or not packets.keys[0]
            or min(stamps) != stamps[0]
        ):
            return [], []
        pts = sorted(stamps)
        keys = [stamp for stamp, is_key in zip(stamps, packets.keys, strict=True) if is_key]
        return pts, sorted(bisect.bisect_left(pts, stamp) for stamp in keys)

    def _decoded(self) -> Iterator[Any]:
        """Frames from where the container stands; errors before the first frame are passed over."""
        import av

        started = False
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.error.EOFError:
                return
            except av.error.InvalidDataError:
                if started or packet.size == 0:
                    raise
                continue
            started = started or bool(frames)
            yield from frames

    def _restart(self) -> None:
        import av

        self.close()
        self._container = av.open(str(self.path))
        # FFmpeg's own choice: the first stream of a file is not always the one that players show.
        self._stream = self._container.streams.best("video")
        if self._stream is None:
            raise UnreadableVideo(self.path, "it has no video stream")
        self._stream.codec_context.thread_count = 1  # workers are the parallelism

    def close(self) -> None:
        """Let go of the file."""
        if self._container is not None:
            self._container.close()
            self._container = None


def to_rgb(frame: Any) -> Frames:
    """A PyAV frame as uint8 [H, W, 3], RGB, turned as the file says it is to be shown."""
    import av

    # PyAV 17 and newer start threads for each frame's conversion; workers are the parallelism.
    one_thread = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}
    pixels = frame.reformat(format="rgb24", **one_thread).to_ndarray()
    quarters, rest = divmod(int(frame.rotation), 90)
    if rest:
        raise ValueError(f"it is to be shown turned by {frame.rotation} degrees, not by quarters")
    return np.ascontiguousarray(np.rot90(pixels, quarters % 4))


READERS: dict[str, Callable[..., VideoReader]] = {"decord": DecordReader, "pyav": PyAVReader}
"""Reader by the name that stands in the index."""


def open_video(path: PathLike, reader: str, *, num_frames: int | None = None) -> VideoReader:
    """Open a video with the reader of that name.

    Args:
        path: the file.
        reader: a key of `READERS`.
        num_frames: what the scan counted, where the file was scanned. decord refuses a file that
            shows another number; PyAV jumps to key frames only where this proves it safe.

    Raises:
        UnreadableVideo: no such file, not a video, or not as it was when it was scanned.
        ConfigError: no reader of that name.
    """
    if reader not in READERS:
        raise ConfigError(f"reader {reader!r} is not known; {did_you_mean(reader, list(READERS))}")
    return READERS[reader](path, num_frames=num_frames)


@contextmanager
def _as_unreadable(path: Path) -> Iterator[None]:
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
