"""What is really in one video: decode it all, then find the reader that gives exactly that.

Native libraries may end the process that calls this; `scan` gives it a process of its own. Nothing
here imports torch (torchcodec does, where it is to be chosen from).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videokd.config import did_you_mean
from videokd.data.readers import (
    READERS,
    DecordReader,
    FrameFolderReader,
    PyAVReader,
    VideoReader,
    to_rgb,
)
from videokd.data.readers.damage import jpeg_damage
from videokd.data.readers.frame_folder import folder_digest
from videokd.data.readers.torchcodec_reader import torchcodec_decoder
from videokd.data.scan.decoded import Decoded, decode_whole
from videokd.errors import ConfigError, UnreadableVideo
from videokd.files import file_digest

DEFAULT_READERS = ("decord", "pyav")
"""Readers of video files that the scan chooses from."""

FASTEST_FIRST: dict[str, tuple[str, ...]] = {
    "h264": ("pyav", "torchcodec", "decord"),
    "hevc": ("pyav", "torchcodec", "decord"),
    "vp9": ("pyav", "torchcodec", "decord"),
    "mpeg4": ("torchcodec", "pyav", "decord"),
    "mjpeg": ("torchcodec", "pyav", "decord"),
}
"""Codec -> readers in the order of their measured speed, where PyAV jumps to key frames."""

OTHERWISE_FIRST = ("decord", "torchcodec", "pyav")
"""The order for other codecs, and for files that PyAV reads from the start."""

MAX_MEAN_DIFFERENCE = 0.5
"""Two readers agree on a frame if the mean absolute difference over its pixels is at most this, of
255, and no neighbouring frame is nearer."""

MAX_DIFFERENCE = 16
"""And if no pixel differs by more. Where two libraries decode alike, which is the rule, the
difference is 0; another colour matrix or range, or other chroma at the edges of colours (as in
10-bit files), is above this."""

THUMB_PX = 160
"""Frames are compared on every k-th pixel, so that at most about this many are left a side."""


@dataclass(frozen=True, slots=True)
class ScanResult:
    """A video that decodes."""

    path: Path
    num_frames: int
    """Frames that decode and are presented."""
    fps: float
    height: int
    """px, after rotation."""
    width: int
    """px, after rotation."""
    reader: str
    """The reader that is exact for this video: a key of `READERS`."""
    bytes: int
    digest: str
    """SHA-256, 16 hex digits; see `video_digest`."""
    note: str = ""
    """What was noticed: why a faster reader is not exact, or what is damaged."""


@dataclass(frozen=True, slots=True)
class ScanFailure:
    """A file that no reader reads as a video, or a damaged one."""

    path: Path
    reason: str


Scanned = ScanResult | ScanFailure


def check_readers(readers: Sequence[str]) -> None:
    """Refuse readers that the scan cannot choose from.

    Raises:
        ConfigError: none, or one that there is not.
        UserError: torchcodec, where it is not installed.
    """
    known = [name for name in READERS if name != "frames"]
    if not readers:
        raise ConfigError(f"no readers to choose from; name some of {', '.join(known)}")
    for name in readers:
        if name not in known:
            raise ConfigError(f"reader {name!r} is not known; {did_you_mean(name, known)}")
    if "torchcodec" in readers:
        torchcodec_decoder()


def inspect_video(
    path: Path,
    *,
    frames_fps: float | None = None,
    keep_damaged: bool = False,
    readers: Sequence[str] | None = None,
) -> Iterator[Scanned]:
    """Decode a video whole with PyAV, then see which reader gives the same; a report after each.

    Not to be called in a process that must live: the native libraries may end it.

    Args:
        path: a file, or a folder of numbered frames.
        frames_fps: frame rate of folders of frames.
        keep_damaged: give the intact frames at the start of a damaged file, with a note, instead
            of a failure.
        readers: the first of these that is exact is chosen; by default the fastest exact one of
            `DEFAULT_READERS`.
    """
    try:
        if path.is_dir():
            yield _inspect_folder(path, frames_fps)
            return
        if reason := _not_a_video(path):
            yield ScanFailure(path, reason)
            return
        decoded = decode_whole(path)
        result = _result(path, decoded, keep_damaged=keep_damaged)
    except UnreadableVideo as error:
        where = "" if error.path == path else f"{error.path.name}: "  # a frame of a folder
        yield ScanFailure(path, where + error.reason)
        return
    except (OSError, ValueError, RuntimeError) as error:
        yield ScanFailure(path, " ".join(str(error).split()) or type(error).__name__)
        return
    if readers is None or "pyav" in readers:
        yield result
    yield _with_reader(result, decoded, readers)


def video_bytes(path: Path) -> int:
    """Size of a video file, or of all frames of a folder."""
    if path.is_dir():
        return sum(frame.stat().st_size for frame in FrameFolderReader(path).frames)
    return path.stat().st_size


def video_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the names and bytes of a folder's frames; 16 hex digits."""
    return folder_digest(FrameFolderReader(path).frames) if path.is_dir() else file_digest(path)


def _inspect_folder(path: Path, fps: float | None) -> Scanned:
    if fps is None:
        return ScanFailure(
            path, "a folder of frames has no frame rate of its own; give --frames-fps"
        )
    with FrameFolderReader(path) as reader:
        height, width = reader.read(np.array([0])).shape[1:3]
        for i in range(reader.num_frames):
            found = reader.read(np.array([i])).shape[1:3]
            if found != (height, width):
                return ScanFailure(
                    path,
                    f"its frames are not all of one size: {reader.frames[i].name} is "
                    f"{found[0]}x{found[1]} px, {reader.frames[0].name} {height}x{width}",
                )
            jpeg = reader.frames[i].suffix.lower() != ".png"
            if damage := jpeg and jpeg_damage(reader.frames[i]):
                return ScanFailure(path, f"{reader.frames[i].name} is damaged: {damage}")
        return ScanResult(
            path=path,
            num_frames=reader.num_frames,
            fps=fps,
            height=height,
            width=width,
            reader="frames",
            bytes=video_bytes(path),
            digest=folder_digest(reader.frames),
        )


def _not_a_video(path: Path) -> str:
    """What a file is that is surely none; empty where it may be one."""
    if not path.is_file():
        return "no such file"
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        return "empty: the file has 0 bytes"
    if start == b"\x00\x05\x16\x07":
        return "not a video: a macOS resource fork (AppleDouble)"
    return ""


def _result(path: Path, decoded: Decoded, *, keep_damaged: bool) -> ScanResult:
    """The video as PyAV decodes it; `UnreadableVideo` where it is damaged and not to be kept."""
    n, note = decoded.num_frames, ""
    if decoded.fault:
        note = f"{n} of {decoded.packets.num_expected} frames decode, then: {decoded.fault}"
        if n and not keep_damaged:
            raise UnreadableVideo(path, f"damaged: {note}; --keep-damaged keeps those {n}")
    if not n:
        raise UnreadableVideo(path, "no frame decodes" + (decoded.fault and f": {decoded.fault}"))
    if len(decoded.sizes) > 1:
        raise UnreadableVideo(path, "its frames change size or orientation on the way")
    height, width = to_rgb(decoded.frames[n - 1]).shape[:2]
    return ScanResult(
        path=path,
        num_frames=n,
        fps=_mean_fps(path, decoded),
        height=height,
        width=width,
        reader="pyav",
        bytes=path.stat().st_size,
        digest=file_digest(path),
        note=note,
    )


def _mean_fps(path: Path, decoded: Decoded) -> float:
    """The container's rate where the timestamps agree within 5 %, else theirs."""
    known = [stamp for stamp in decoded.stamps if stamp is not None]
    measured = None
    if decoded.time_base and len(known) == decoded.num_frames > 1 and known[-1] > known[0]:
        measured = (len(known) - 1) / ((known[-1] - known[0]) * decoded.time_base)
    if decoded.rate and (measured is None or abs(decoded.rate / measured - 1) <= 0.05):
        return decoded.rate
    if measured is None:
        raise UnreadableVideo(path, "the file has neither a frame rate nor timestamps")
    return measured


def _with_reader(result: ScanResult, decoded: Decoded, readers: Sequence[str] | None) -> Scanned:
    """The result with the first exact reader, and with what is wrong with those before it."""
    faults: list[str] = []
    for name in _fastest_first(result, decoded) if readers is None else readers:
        fault = _fault_of(name, result, decoded)
        if not fault:
            notes = [result.note] if result.note else []
            notes += [f"read by {name}: {'; '.join(faults)}"] if faults else []
            return replace(result, reader=name, note="; ".join(notes))
        faults.append(fault)
    return ScanFailure(result.path, f"no reader is exact: {'; '.join(faults)}")


def _fastest_first(result: ScanResult, decoded: Decoded) -> list[str]:
    with PyAVReader(result.path, num_frames=result.num_frames) as reader:
        jumps = reader.jumps
    order = FASTEST_FIRST.get(decoded.codec, OTHERWISE_FIRST) if jumps else OTHERWISE_FIRST
    return [name for name in order if name in DEFAULT_READERS]


def _fault_of(name: str, result: ScanResult, decoded: Decoded) -> str:
    """Why a reader is not exact for this file; empty where it is."""
    if name != "pyav" and decoded.packets.has_leading_frames:
        # Wrong only for some jumps, so that comparing a few frames would not always show it.
        return f"{name} miscounts after jumping to key frames with leading frames (open GOP)"
    try:
        with READERS[name](result.path) if name != "pyav" else _scanned(result) as reader:
            if reader.num_frames != result.num_frames:
                return (
                    f"{name} shows {reader.num_frames} frames where {result.num_frames} are "
                    "presented"
                )
            if isinstance(reader, DecordReader) and np.any(reader.first_seconds < 0):
                return "decord shows negative timestamps"
            return _disagreement(name, reader, result, decoded)
    except (UnreadableVideo, ImportError) as error:
        reason = error.reason if isinstance(error, UnreadableVideo) else str(error)
        return f"{name} cannot read it ({reason})"


def _scanned(result: ScanResult) -> PyAVReader:
    return PyAVReader(result.path, num_frames=result.num_frames)


def _disagreement(name: str, reader: VideoReader, result: ScanResult, decoded: Decoded) -> str:
    """Read the samples, then one near the start again: the reader has to jump, and to go back."""
    step = max(1, max(result.height, result.width) // THUMB_PX)
    for ids in (decoded.samples, decoded.samples[:2][-1:]):
        frames = reader.read(np.array(ids))
        size = (result.height, result.width)
        if frames.shape[1:3] != size:
            return f"{name} shows frames of {frames.shape[1]}x{frames.shape[2]}, not {size}"
        for frame_id, pixels in zip(ids, frames, strict=True):
            thumb = pixels[::step, ::step].astype(np.int16)
            if off := _other_picture(thumb, frame_id, decoded, step):
                return f"{name} shows another picture as frame {frame_id} ({off})"
    return ""


def _other_picture(thumb: NDArray[np.int16], frame_id: int, decoded: Decoded, step: int) -> str:
    """How far a picture is from the frame that it should be; empty where it is that frame."""

    def away(number: int) -> NDArray[np.int16]:
        return np.abs(thumb - to_rgb(decoded.frames[number])[::step, ::step])

    off = away(frame_id)
    mean = float(off.mean())
    beside = [i for i in (frame_id - 1, frame_id + 1) if i in decoded.frames]
    nearest = min((float(away(i).mean()) for i in beside), default=255.0) if mean else 0.0
    if mean > MAX_MEAN_DIFFERENCE or off.max() > MAX_DIFFERENCE or mean > nearest:
        return f"{mean:.2f} of 255 off, {off.max()} at most"
    return ""
