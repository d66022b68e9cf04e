"""FFmpeg through PyAV: exact for whatever decodes, and it decodes no more than it must."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from videokd.data.readers.base import BaseReader, Frames, PathLike, as_unreadable
from videokd.data.readers.damage import STRICT
from videokd.data.readers.packets import Jumps, Packets, Run
from videokd.errors import UnreadableVideo

MAX_KEPT_BYTES = 64 * 2**20
"""Packets of files up to this size are kept in memory; larger files are read again instead."""

_OWN_STAMPS = {"mov", "mp4", "matroska", "webm"}
"""Containers that store when each packet is presented; for others FFmpeg guesses it."""

_INDEXED = {"mov", "mp4", "avi"}
"""Containers with an index of all their packets."""


class Step(NamedTuple):
    """One packet, and the frames that the decoder gave when it took it."""

    position: int
    """Of the packet in the file; after the last, the number of packets."""
    frames: list[Any]
    """PyAV's frames, in the order of presentation."""
    error: str
    """Why the packet does not decode; empty where it does."""


class PyAVReader(BaseReader):
    """FFmpeg through PyAV.

    Frame i is the i-th that comes out of the decoder. Where the number of frames is given (from a
    scan) and equals the file's packets, each with a timestamp of its own, the reader starts at the
    key frame before the frame that it wants, and leaves out every frame that is neither wanted nor
    needed to decode another; otherwise it decodes all from the start.

    Packets are decoded strictly: what FFmpeg sees as damaged is an error, never a guessed picture.
    """

    def __init__(self, path: PathLike, *, num_frames: int | None = None) -> None:
        super().__init__(path, num_frames=num_frames)
        self._container: Any = None
        self._is_at_start = False
        self._kept: list[Any] | None = None  # all packets, where they are kept
        self._end: Exception | None = None  # how the kept packets end, if not well
        self._packets: Packets | None = None
        self._indexed: Packets | None = None  # the container's own index, where it is enough
        self._jumps: Jumps | None = None
        self._may_jump = num_frames is not None
        with as_unreadable(self.path):
            self._open()
            self._keeps = self.path.stat().st_size <= MAX_KEPT_BYTES

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
    def codec(self) -> str:
        """FFmpeg's name of the decoder."""
        return str(self._stream.codec_context.name)

    @property
    def other_codecs(self) -> frozenset[str]:
        """FFmpeg's names of the decoders of the file's other streams."""
        contexts = [s.codec_context for s in self._container.streams if s is not self._stream]
        return frozenset(c.name for c in contexts if c is not None) - {self.codec}

    @property
    def jumps(self) -> bool:
        """Whether reading jumps to key frames; without, it decodes from the start."""
        with as_unreadable(self.path):
            return self._jump_table() is not None

    def packets(self) -> Packets:
        """What the file stores, read but not decoded."""
        with as_unreadable(self.path):
            return self._all_packets()

    def stored(self) -> Iterator[Any]:
        """The stored packets as PyAV's own, one after another, from the first."""
        with as_unreadable(self.path):
            yield from self._stored_from(0)

    def steps(self) -> Iterator[Step]:
        """Decode the whole file, packet by packet, whatever is wrong with some of them."""
        import av

        with as_unreadable(self.path):
            position, packets = -1, self._stored_from(0)
            context = self._fresh_decoder()
            for position, packet in enumerate(packets):
                try:
                    yield Step(position, context.decode(packet), "")
                except av.error.InvalidDataError as error:
                    yield Step(position, [], error.strerror or "damaged")
            try:
                yield Step(position + 1, context.decode(None), "")
            except av.error.InvalidDataError as error:
                yield Step(position + 1, [], error.strerror or "damaged")

    def frames(self) -> Iterator[Any]:
        """All frames of the file as PyAV's own, from the first to the last that decodes.

        Packets before the first key frame need not decode. The first other error ends the video
        with `UnreadableVideo`: what came before it was right.
        """
        may_fail = self.packets().before_start
        for step in self.steps():
            if step.error and step.position not in may_fail:
                raise UnreadableVideo(self.path, step.error)
            yield from step.frames

    def close(self) -> None:
        """Let go of the file."""
        self._kept = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _read_sorted(self, ids: NDArray[np.int64]) -> Frames:
        found = self._read_jumping(ids.tolist())
        if found is None:
            self._may_jump = False  # in this file, from now on
            self._jumps = self._indexed = None
            found = self._read_from_start(ids.tolist())
        return found

    def _read_from_start(self, ids: Sequence[int]) -> Frames:
        out = _Output(len(ids))
        with as_unreadable(self.path):
            for position, frame in enumerate(self.frames()):
                if position == ids[out.num_filled]:
                    out.put(out.num_filled, frame)
                    if out.num_filled == len(ids):
                        return out.frames
        raise UnreadableVideo(
            self.path, f"frame {ids[out.num_filled]} does not decode; the file ends before it"
        )

    def _read_jumping(self, ids: Sequence[int]) -> Frames | None:
        """None where jumping is not safe, or a wanted frame does not come out."""
        import av

        out = _Output(len(ids))
        with as_unreadable(self.path):
            jumps = self._jump_table()
            if jumps is None:
                return None
            place = {frame_id: i for i, frame_id in enumerate(ids)}
            try:
                for run in jumps.runs(ids):
                    for position, frame in self._decoded(run):
                        out.put(place[run.wanted[position]], frame)
            except av.error.FFmpegError:
                return None
            finally:
                self._stream.codec_context.skip_frame = "DEFAULT"
            if jumps.trusts_order and self._stream.codec_context.has_b_frames:
                return None  # the stream goes over to reordering on its way
        return out.frames if out.num_filled == len(ids) else None

    def _decoded(self, run: Run) -> Iterator[tuple[int, Any]]:
        """The wanted frames of a run, each with the position of its packet.

        Frames that no other is predicted from (most B-frames) are not decoded unless wanted. Those
        that are presented before the run's key frame may lack what they are predicted from; nothing
        after it is predicted from them.
        """
        import av

        packets = self._stored_from(run.start)
        context = self._fresh_decoder()
        num_missing = len(run.wanted)
        for position, packet in zip(range(run.start, run.stop), packets, strict=False):
            context.skip_frame = "DEFAULT" if position in run.wanted else "NONREF"
            stamp, packet.pts = packet.pts, position  # the decoder hands it on to the frame
            try:
                found = context.decode(packet)
            except av.error.FFmpegError:
                if position not in run.leading:
                    raise
                continue
            finally:
                packet.pts = stamp
            for frame in found:
                if frame.pts in run.wanted:
                    num_missing -= 1
                    yield frame.pts, frame
        if num_missing:  # they wait for their turn
            for frame in context.decode(None):
                if frame.pts in run.wanted:
                    yield frame.pts, frame

    def _jump_table(self) -> Jumps | None:
        if self._may_jump and self._jumps is None:
            self._indexed = self._by_own_index()
            packets = self._indexed or self._all_packets()
            comes_back = self._keeps or packets.has_own_stamps or self._indexed is not None
            self._may_jump = Jumps.are_safe(packets, self._known_num_frames) and comes_back
            self._jumps = Jumps(packets) if self._may_jump else None
        return self._jumps

    def _by_own_index(self) -> Packets | None:
        """The packets as the container's index lists them, where no more needs to be known.

        It says when packets are decoded: without reordering, that is the order of presentation. So
        only the packets that are decoded need to be read. Older PyAV does not show the index.
        """
        entries = [
            (entry.timestamp, entry.is_keyframe, entry.size and not entry.is_discard)
            for entry in getattr(self._stream, "index_entries", ())
        ]
        if (
            self._stream.codec_context.has_b_frames
            or not _INDEXED & self._formats
            or len(entries) != self._known_num_frames
        ):
            return None
        stamps, keys, are_shown = zip(*entries, strict=True)
        if not all(are_shown) or any(b <= a for a, b in itertools.pairwise(stamps)):
            return None
        return Packets(
            stamps=stamps,
            keys=keys,
            hidden=(False,) * len(stamps),
            has_corrupt=False,
            reorders=False,
            has_own_stamps=False,
            num_promised=self._num_promised,
        )

    def _all_packets(self) -> Packets:
        if self._packets is None:
            self._packets = self._described(self._stored_from(0))
        return self._packets

    def _described(self, packets: Iterator[Any]) -> Packets:
        import av

        stamps, keys, hidden, has_corrupt = [], [], [], False
        try:
            for packet in packets:
                stamps.append(packet.pts)
                keys.append(bool(packet.is_keyframe))
                hidden.append(bool(packet.is_discard))
                has_corrupt = has_corrupt or packet.is_corrupt
        except av.error.FFmpegError:
            has_corrupt = True
        return Packets(
            stamps=tuple(stamps),
            keys=tuple(keys),
            hidden=tuple(hidden),
            has_corrupt=has_corrupt,
            reorders=bool(self._stream.codec_context.has_b_frames),
            has_own_stamps=bool(_OWN_STAMPS & self._formats),
            num_promised=self._num_promised,
        )

    @property
    def _formats(self) -> set[str]:
        return set(self._container.format.name.split(","))

    def _stored_from(self, start: int) -> Iterator[Any]:
        """The packets from that position on, from memory or from the file."""
        if self._kept is not None:
            return self._from_memory(self._kept, start)
        if start == 0:
            if not self._is_at_start:
                self._open()
            return self._from_file()
        if self._indexed is not None:
            stamp, attribute = self._indexed.stamps[start], "dts"
        else:
            stamp, attribute = self._all_packets().stamps[start], "pts"
        self._container.seek(stamp, stream=self._stream, backward=True)
        packets = self._from_file(keep=False)
        return itertools.dropwhile(lambda packet: getattr(packet, attribute) != stamp, packets)

    def _from_memory(self, kept: list[Any], start: int) -> Iterator[Any]:
        yield from itertools.islice(kept, start, None)
        if self._end is not None:
            raise self._end

    def _from_file(self, *, keep: bool = True) -> Iterator[Any]:
        import av

        kept: list[Any] = []
        end: Exception | None = None
        self._is_at_start = False
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size:
                    continue  # says that the file is over
                if keep and self._keeps:
                    kept.append(packet)
                yield packet
        except av.error.FFmpegError as error:
            end = error
        if keep and self._keeps:
            self._kept, self._end = kept, end
        if end is not None:
            raise end

    def _open(self) -> None:
        """Open the file at its start."""
        import av

        if self._container is not None:
            self._container.close()
        self._container = av.open(str(self.path), options={"err_detect": STRICT})
        # FFmpeg's own choice: the first stream of a file is not always the one that players show.
        self._stream = self._container.streams.best("video")
        if self._stream is None:
            raise UnreadableVideo(self.path, "it has no video stream")
        if self._stream.codec_context is None:
            raise UnreadableVideo(self.path, "there is no decoder for its video stream")
        if hasattr(av.stream, "Discard"):
            for stream in self._container.streams:
                if stream is not self._stream:
                    stream.discard = av.stream.Discard.all
        self._stream.codec_context.thread_count = 1  # workers are the parallelism
        self._stream.codec_context.options = {"err_detect": STRICT}
        self._is_at_start = True
        self._num_promised = int(self._stream.frames)
        if "mov" in self._formats:
            # Edit lists take frames away from the header's count, not from the demuxer's index.
            self._num_promised = len(getattr(self._stream, "index_entries", ()))

    def _fresh_decoder(self) -> Any:
        """The decoder, without memory of earlier packets."""
        context = self._stream.codec_context
        if context.is_open:
            context.flush_buffers()
        else:
            context.open()  # before any frame is left out: dav1d would leave it out for good
        return context


class _Output:
    """Room for the frames of one call, filled in any order."""

    def __init__(self, num_frames: int) -> None:
        self.frames: Frames = np.empty((0,), np.uint8)
        self._num_frames = num_frames
        self._filled: set[int] = set()

    @property
    def num_filled(self) -> int:
        """Places that have their frame."""
        return len(self._filled)

    def put(self, place: int, frame: Any) -> None:
        """Put PyAV's frame where it belongs."""
        pixels = _to_rgb(frame)
        if not self._filled:
            self.frames = np.empty((self._num_frames, *pixels.shape), np.uint8)
        if pixels.shape != self.frames.shape[1:]:
            raise ValueError("its frames change size on the way")
        self.frames[place] = pixels
        self._filled.add(place)


def to_rgb(frame: Any) -> Frames:
    """A PyAV frame as uint8 [H, W, 3], RGB, turned as the file says it is to be shown.

    The file's matrix (BT.601, BT.709, BT.2020) and range (full or limited) are honoured; where it
    names none, BT.601 and limited range, as FFmpeg does.
    """
    return np.ascontiguousarray(_to_rgb(frame))


def _to_rgb(frame: Any) -> Frames:
    """The same, but its rows may lie apart in memory."""
    import av
    from av.video.reformatter import Interpolation

    # PyAV 17 and newer start threads for each frame's conversion; workers are the parallelism.
    options: dict[str, Any] = {}
    if int(av.__version__.partition(".")[0]) >= 17:
        options["threads"] = 1
    if frame.format.components[0].bits > 8:
        # As with 8 bits, each pixel takes the chroma sample that it lies in; without, FFmpeg
        # smooths the chroma of deeper files only.
        options["interpolation"] = Interpolation.POINT
    pixels = frame.reformat(format="rgb24", **options).to_ndarray()
    quarters, rest = divmod(int(frame.rotation), 90)
    if rest:
        raise ValueError(f"it is to be shown turned by {frame.rotation} degrees, not by quarters")
    return np.rot90(pixels, quarters % 4)
