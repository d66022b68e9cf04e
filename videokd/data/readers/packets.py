"""What a video stream stores, and where decoding can start for a wanted frame.

A packet is a frame as it is stored; packets come in the order in which they are decoded, and
their stamps say when they are presented.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Packets:
    """The packets of a video stream, in the order in which they are decoded."""

    stamps: tuple[int | None, ...]
    """When each is presented, in ticks."""
    keys: tuple[bool, ...]
    """Whether decoding can start there."""
    hidden: tuple[bool, ...]
    """Decoded, but not presented: an edit list says so."""
    has_corrupt: bool
    """The container marks some as corrupt, or could not be read to its end."""
    reorders: bool
    """The decoder gives frames in another order than it takes packets (B-frames)."""
    has_own_stamps: bool
    """The container stores the stamps; otherwise FFmpeg guesses them."""
    num_promised: int
    """Packets by the account of the container's header; 0 where it gives none."""

    @property
    def num_expected(self) -> int:
        """Frames that the file should have."""
        return max(len(self.stamps), self.num_promised)

    @property
    def num_missing(self) -> int:
        """Packets that the header promises beyond the last; one does not count.

        Encoders of AVI count one frame too many, and frames that were dropped, for which it stores
        nothing; its stamps count them too.
        """
        last = max((stamp for stamp in self.stamps if stamp is not None), default=-1)
        stored = len(self.stamps) if self.has_own_stamps else max(len(self.stamps), last + 1)
        missing = self.num_promised - stored
        return missing if missing > 1 else 0

    @property
    def has_leading_frames(self) -> bool:
        """Frames that are decoded after a key frame and presented before it (an open GOP).

        A reader that jumps to such a key frame and counts from there counts wrongly. Where the
        stamps are guesses, several key frames and reordering are enough to suspect it.
        """
        if not self.has_own_stamps and self.reorders and sum(self.keys) > 1:
            return True
        return any(
            stamp < key_stamp
            for stamp, key_stamp in zip(self.stamps, self._key_stamps(), strict=True)
            if stamp is not None and key_stamp is not None
        )

    @property
    def before_start(self) -> frozenset[int]:
        """Positions of the packets that need not decode.

        A stream cut out of a longer one may start between key frames: what comes before the first,
        and what is presented before it, lacks the frames that it was predicted from.
        """
        first = self.keys.index(True) if True in self.keys else 0
        early = set(range(first))
        for position in range(first + 1, len(self.keys)):
            stamp, key_stamp = self.stamps[position], self.stamps[first]
            if self.keys[position] or stamp is None or key_stamp is None or stamp >= key_stamp:
                break
            early.add(position)
        return frozenset(early)

    def _key_stamps(self) -> list[int | None]:
        """The stamp of the last key frame at or before each packet."""
        found: list[int | None] = []
        latest: int | None = None
        for stamp, is_key in zip(self.stamps, self.keys, strict=True):
            latest = stamp if is_key else latest
            found.append(latest)
        return found


@dataclass(frozen=True, slots=True)
class Run:
    """Packets [start, stop) to decode in one go, and the frame ids wanted of them."""

    start: int
    """Position of a key frame."""
    stop: int
    wanted: dict[int, int]
    """Position of a wanted packet -> its frame id."""
    leading: frozenset[int]
    """Positions of packets that are presented before the key frame at `start`."""


class Jumps:
    """Which packet is which frame, in a file whose packets are one frame each.

    Args:
        packets: of the whole file.

    Attributes:
        positions: frame id -> position of its packet in the order of decoding.
        trusts_order: frames are taken to be presented in the order of decoding, as the container
            does not say when.
    """

    def __init__(self, packets: Packets) -> None:
        shown = [i for i, hidden in enumerate(packets.hidden) if not hidden]
        self.trusts_order = not packets.has_own_stamps
        if self.trusts_order:
            self._rank: Sequence[int] = range(len(packets.stamps))
        else:
            self._rank = [stamp or 0 for stamp in packets.stamps]
        self.positions = sorted(shown, key=lambda i: self._rank[i])
        self._keys = [i for i, is_key in enumerate(packets.keys) if is_key]

    @staticmethod
    def are_safe(packets: Packets, num_frames: int | None) -> bool:
        """Whether each packet is surely one of the `num_frames` frames that a scan counted."""
        shown = [s for s, hidden in zip(packets.stamps, packets.hidden, strict=True) if not hidden]
        if len(shown) != num_frames or packets.has_corrupt or not packets.keys[0]:
            return False
        if not packets.has_own_stamps:
            return not packets.reorders
        return (
            None not in packets.stamps
            and len(set(packets.stamps)) == len(packets.stamps)
            and min(packets.stamps) == packets.stamps[0]  # type: ignore[type-var]
        )

    def runs(self, frame_ids: Sequence[int]) -> list[Run]:
        """The shortest stretches to decode, in the order of the file.

        A frame is decoded from the last key frame that is decoded and presented no later than it:
        a frame that is presented before a key frame and decoded after it (an open GOP) may need
        what lies before that key frame.
        """
        places = {self.positions[frame_id]: frame_id for frame_id in frame_ids}
        stretches = sorted((self._start_of(position), position + 1) for position in places)
        merged: list[tuple[int, int]] = []
        for start, stop in stretches:
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return [
            Run(
                start,
                stop,
                {position: place for position, place in places.items() if start <= position < stop},
                self._leading(start),
            )
            for start, stop in merged
        ]

    def _leading(self, start: int) -> frozenset[int]:
        found = set()
        for position in range(start + 1, len(self._rank)):
            if self._rank[position] > self._rank[start]:
                break
            found.add(position)
        return frozenset(found)

    def _start_of(self, position: int) -> int:
        nearest = bisect.bisect_right(self._keys, position) - 1
        while self._rank[self._keys[nearest]] > self._rank[position]:
            nearest -= 1
        return self._keys[nearest]
