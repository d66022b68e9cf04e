"""What is really in one video file: decode it all, then see which reader gives exactly that.

Native libraries may end the process that calls this; `scan` gives it a process of its own. Nothing
here imports torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videokd.data.readers import DecordReader, PyAVReader, to_rgb
from videokd.errors import UnreadableVideo
from videokd.files import file_digest

MAX_MEAN_DIFFERENCE = 0.5
"""Two readers agree on a frame if the mean absolute difference over its pixels is at most this,
of 255, and no neighbouring frame is nearer. Where both decode alike it is 0.000 in practice; 10-bit
files differ by 3 to 4 through another conversion to 8 bits, and go to PyAV."""

NUM_SAMPLES = 9
"""Frames on which the readers are compared: the first, the last, and seven evenly between."""

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
    """The reader that is exact for this file: a key of `READERS`."""
    bytes: int
    digest: str
    """SHA-256 of the file, 16 hex digits."""
    note: str = ""
    """What was noticed: why decord is not exact, or that the file ends before its header says."""


@dataclass(frozen=True, slots=True)
class ScanFailure:
    """A file that no reader reads as a video."""

    path: Path
    reason: str


Scanned = ScanResult | ScanFailure


def inspect_video(path: Path) -> Iterator[Scanned]:
    """Decode the file with PyAV, then see whether decord gives the same; one report after each.

    Not to be called in a process that must live: the native libraries may end it.
    """
    try:
        reason = _not_a_video(path)
        if reason:
            yield ScanFailure(path, reason)
            return
        decoded = _decode_whole(path)
    except UnreadableVideo as error:
        yield ScanFailure(path, error.reason)
        return
    except (OSError, ValueError, RuntimeError) as error:
        yield ScanFailure(path, " ".join(str(error).split()) or type(error).__name__)
        return
    result = decoded.result
    yield result
    fault = _fault_of_decord(path, decoded)
    if fault and (own_fault := _fault_of_pyav(path, decoded)):
        yield ScanFailure(path, f"no reader is exact: {fault}; {own_fault}")
        return
    notes = [result.note] if result.note else []
    if fault:
        notes.append(f"read by pyav: {fault}")
    yield replace(result, reader="pyav" if fault else "decord", note="; ".join(notes))


@dataclass(frozen=True, slots=True)
class _Decoded:
    result: ScanResult
    frames: dict[int, Any]
    """Frame number -> PyAV's frame; the samples, their neighbours and the last two."""
    step: int
    """Frames are compared on every step-th pixel of both directions."""
    has_leading_frames: bool
    """See `Packets.has_leading_frames`."""

    def thumb(self, frame_id: int) -> NDArray[np.int16]:
        """Every step-th pixel of a frame that was kept."""
        return to_rgb(self.frames[frame_id])[:: self.step, :: self.step].astype(np.int16)

    @property
    def samples(self) -> list[int]:
        """Frames to compare: the first, the last, and those between that were kept, ascending."""
        n = self.result.num_frames
        spread = {i * (n - 1) // (NUM_SAMPLES - 1) for i in range(NUM_SAMPLES)}
        return sorted(spread & self.frames.keys())


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


def _decode_whole(path: Path) -> _Decoded:
    """Decode from the first frame to the last; what PyAV presents is what counts."""
    stamps: list[int | None] = []
    kept: dict[int, Any] = {}
    last: deque[Any] = deque(maxlen=2)
    num_corrupt, sizes, fault, note = 0, set(), "", ""
    with _opened(path) as reader:
        packets, time_base, rate = reader.packets(), reader.time_base, reader.rate
        keep = _frames_to_keep(packets.num_expected)
        try:
            for position, frame in enumerate(reader.frames()):
                stamps.append(frame.pts)
                sizes.add((frame.height, frame.width, frame.rotation))
                num_corrupt += frame.is_corrupt
                last.append(frame)
                if position in keep:
                    kept[position] = frame
        except UnreadableVideo as error:
            fault = error.reason
    if not stamps:
        raise UnreadableVideo(path, f"no frame decodes{fault and f': {fault}'}")
    if len(sizes) > 1:
        raise UnreadableVideo(path, "its frames change size or orientation on the way")
    kept.update((len(stamps) - len(last) + i, frame) for i, frame in enumerate(last))
    shape = to_rgb(last[-1]).shape
    step = max(1, max(shape) // THUMB_PX)
    if fault:
        note = f"{len(stamps)} of {packets.num_expected} frames decode, then: {fault}"
    elif num_corrupt:
        note = f"{num_corrupt} frames are marked as corrupt by the decoder"
    result = ScanResult(
        path=path,
        num_frames=len(stamps),
        fps=_mean_fps(path, rate, stamps, time_base),
        height=shape[0],
        width=shape[1],
        reader="pyav",
        bytes=path.stat().st_size,
        digest=file_digest(path),
        note=note,
    )
    return _Decoded(result, kept, step, packets.has_leading_frames)


def _opened(path: Path) -> PyAVReader:
    try:
        return PyAVReader(path)
    except UnreadableVideo as error:
        raise UnreadableVideo(path, f"not a video, or damaged: {error.reason}") from None


def _frames_to_keep(expected: int) -> set[int]:
    """The frames that will be compared, and their neighbours, if the file is as long as it says."""
    samples = {i * (expected - 1) // (NUM_SAMPLES - 1) for i in range(NUM_SAMPLES)}
    return {s + near for s in samples for near in (-1, 0, 1)}


def _mean_fps(
    path: Path, rate: float | None, stamps: Sequence[int | None], time_base: float | None
) -> float:
    """The container's rate where the timestamps agree within 5 %, else theirs."""
    known = [stamp for stamp in stamps if stamp is not None]
    measured = None
    if time_base and len(known) == len(stamps) > 1 and known[-1] > known[0]:
        measured = (len(known) - 1) / ((known[-1] - known[0]) * time_base)
    if rate and (measured is None or abs(rate / measured - 1) <= 0.05):
        return rate
    if measured is None:
        raise UnreadableVideo(path, "the file has neither a frame rate nor timestamps")
    return measured


def _fault_of_decord(path: Path, decoded: _Decoded) -> str:
    """Why decord is not exact for this file; empty where it is."""
    if decoded.has_leading_frames:
        # Wrong only for some jumps, so that comparing a few frames would not always show it.
        return "decord miscounts after jumping to key frames with leading frames (open GOP)"
    try:
        with DecordReader(path) as reader:
            n = decoded.result.num_frames
            if reader.num_frames != n:
                return f"decord shows {reader.num_frames} frames where {n} are presented"
            if np.any(reader.first_seconds < 0):
                return "decord shows negative timestamps"
            return _disagreement("decord", reader, decoded)
    except (UnreadableVideo, ImportError) as error:
        reason = error.reason if isinstance(error, UnreadableVideo) else str(error)
        return f"decord cannot read it ({reason})"


def _fault_of_pyav(path: Path, decoded: _Decoded) -> str:
    """Why jumping to key frames is not exact for this file; empty where it is, or is not done."""
    try:
        with PyAVReader(path, num_frames=decoded.result.num_frames) as reader:
            return _disagreement("pyav", reader, decoded) if reader.jumps else ""
    except UnreadableVideo as error:
        return f"pyav cannot read it again ({error.reason})"


def _disagreement(name: str, reader: DecordReader | PyAVReader, decoded: _Decoded) -> str:
    """Read the samples, then one near the start again: the reader has to jump, and to go back."""
    samples = decoded.samples
    calls = [np.array(samples), np.array(samples[:2][-1:])]
    for ids in calls:
        frames = reader.read(ids)
        size = (decoded.result.height, decoded.result.width)
        if frames.shape[1:3] != size:
            return f"{name} shows frames of {frames.shape[1]}x{frames.shape[2]}, not {size}"
        for frame_id, pixels in zip(ids.tolist(), frames, strict=True):
            thumb = pixels[:: decoded.step, :: decoded.step].astype(np.int16)
            own = _difference(thumb, decoded.thumb(frame_id))
            if own > MAX_MEAN_DIFFERENCE or (own > 0 and own > _nearest(thumb, frame_id, decoded)):
                return f"{name} shows another picture as frame {frame_id} ({own:.2f} of 255 off)"
    return ""


def _nearest(thumb: NDArray[np.int16], frame_id: int, decoded: _Decoded) -> float:
    """Difference from the neighbour that is more like it."""
    beside = [i for i in (frame_id - 1, frame_id + 1) if i in decoded.frames]
    return min((_difference(thumb, decoded.thumb(i)) for i in beside), default=255.0)


def _difference(a: NDArray[np.int16], b: NDArray[np.int16]) -> float:
    return float(np.abs(a - b).mean())
