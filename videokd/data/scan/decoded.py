"""A whole video file decoded strictly, and every sign of damage that FFmpeg gives.

Nothing here imports torch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videokd.data.readers import Packets, PyAVReader
from videokd.data.readers.damage import Log, errors_logged
from videokd.errors import UnreadableVideo

NUM_SAMPLES = 9
"""Frames on which readers are compared: the first, the last, and seven evenly between."""


@dataclass(slots=True)
class Decoded:
    """What came out of the decoder, up to the first sign of damage."""

    packets: Packets
    codec: str
    """FFmpeg's name of the decoder."""
    rate: float | None
    """Frames per second as the container says."""
    time_base: float | None
    """Seconds a tick of `stamps`."""
    stamps: list[int | None] = field(default_factory=list)
    """When each frame is presented, in ticks."""
    sizes: set[tuple[int, int, int]] = field(default_factory=set)
    """(height, width, rotation) of the frames."""
    frames: dict[int, Any] = field(default_factory=dict)
    """Frame number -> PyAV's frame; the samples, their neighbours and the last two."""
    fault: str = ""
    """The first sign of damage; empty where there is none."""

    @property
    def num_frames(self) -> int:
        """Frames before the fault, or all."""
        return len(self.stamps)

    @property
    def samples(self) -> list[int]:
        """The numbers of the frames to compare, from those that were kept."""
        n = self.num_frames
        wanted = {i * (n - 1) // (NUM_SAMPLES - 1) for i in range(NUM_SAMPLES)}
        return sorted(i for i in wanted if i in self.frames)


def decode_whole(path: Path) -> Decoded:
    """Decode a file from its first frame to its last, or to its first damage.

    Damage is whatever FFmpeg can see: a packet that does not decode under its strictest checks
    that spare healthy files, a packet or frame marked as corrupt, an error that it only logs (it
    hides the damage in the picture), a container that is cut off or out of order, and more than
    one frame less than the header promises. Packets before the first key frame may fail.

    Raises:
        UnreadableVideo: not a video.
    """
    with errors_logged() as log, _opened(path) as reader:
        watch = _Watch(log, reader)
        in_container = _fault_in_container(reader, watch)
        decoded = Decoded(reader.packets(), reader.codec, reader.rate, reader.time_base)
        _decode(reader, watch, decoded, in_container)
    return decoded


class _Watch:
    """What FFmpeg has logged about the video stream since the last look."""

    def __init__(self, log: Log, reader: PyAVReader) -> None:
        self._log = log
        self._others = reader.other_codecs

    def news(self) -> str:
        """The first error that is not another stream's; empty where there is none."""
        found = [(who, text) for _, who, text in self._log if who not in self._others]
        self._log.clear()
        if not found:
            return ""
        who, text = found[0]
        return f"{who or 'ffmpeg'}: {' '.join(text.split())}"


def _fault_in_container(reader: PyAVReader, watch: _Watch) -> tuple[int, str] | None:
    """The first damage outside the pictures: (number of intact packets before it, what)."""
    fault: tuple[int, str] | None = None
    at_open, num_packets = watch.news(), 0
    try:
        for packet in reader.stored():
            found = "a packet is marked as corrupt" if packet.is_corrupt else ""
            found = watch.news() or found
            if found and fault is None:
                fault = (num_packets, found)
            num_packets += 1
        found = watch.news()
    except UnreadableVideo as error:
        found = watch.news() or error.reason
    missing = reader.packets().num_missing
    if missing and not found:
        found = f"the file ends {missing} frames before its header says"
    if fault is None and (found or at_open):
        fault = (num_packets + 1, found or at_open)  # no picture is touched by it
    return fault


def _decode(
    reader: PyAVReader, watch: _Watch, decoded: Decoded, in_container: tuple[int, str] | None
) -> None:
    last: deque[Any] = deque(maxlen=2)
    keep = _frames_to_keep(decoded.packets.num_expected)
    may_fail = decoded.packets.before_start
    watch.news()  # of a large file, whose packets were read once more
    num_intact, decoded.fault = in_container or (len(decoded.packets.stamps) + 1, "")
    try:
        for step in reader.steps():
            if step.position >= num_intact:
                break
            fault = step.error or watch.news()
            watch.news()
            if any(frame.is_corrupt for frame in step.frames):
                fault = fault or "a frame is marked as corrupt"
            if fault and step.position not in may_fail:
                decoded.fault = fault
                break
            for frame in step.frames:
                if decoded.num_frames in keep:
                    decoded.frames[decoded.num_frames] = frame
                decoded.stamps.append(frame.pts)
                decoded.sizes.add((frame.height, frame.width, frame.rotation))
                last.append(frame)
    except UnreadableVideo as error:
        decoded.fault = decoded.fault or error.reason
    first = decoded.num_frames - len(last)
    decoded.frames.update((first + i, frame) for i, frame in enumerate(last))


def _frames_to_keep(expected: int) -> set[int]:
    """The frames that will be compared, and their neighbours, if the file is as long as it says."""
    samples = {i * (expected - 1) // (NUM_SAMPLES - 1) for i in range(NUM_SAMPLES)}
    return {s + near for s in samples for near in (-1, 0, 1)}


def _opened(path: Path) -> PyAVReader:
    try:
        return PyAVReader(path)
    except UnreadableVideo as error:
        raise UnreadableVideo(path, f"not a video, or damaged: {error.reason}") from None
