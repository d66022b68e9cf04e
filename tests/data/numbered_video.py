"""Videos whose frames carry their number, readable after lossy coding and any quarter turn."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10
HEIGHT, WIDTH = 64, 96
"""px of the picture as it is to be shown."""

DEFAULTS = {
    "libx264": {"preset": "veryfast", "crf": "18"},
    "libx265": {"preset": "superfast", "crf": "18", "x265-params": "log-level=none"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
}
"""Settings of encoders. x265 makes open GOPs unless told otherwise."""


def numbered_frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 [H,W,3]: the number in binary as ten vertical bars over the upper half, grey below.

    The lower left quarter is red, so that turns and mirrors show.
    """
    frame = np.full((height, width, 3), 96, dtype=np.uint8)
    bar = width // BITS
    for bit in range(BITS):
        frame[: height // 2, bit * bar : (bit + 1) * bar] = 235 if number >> bit & 1 else 20
    frame[height // 2 :, : width // 2] = (220, 30, 30)
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that an upright frame carries; an assertion fails if it is turned."""
    height, width = frame.shape[:2]
    red = frame[height * 3 // 4, width // 4].astype(int)
    assert red[0] > red[1] + 60, f"no red mark in the lower left: {red}"
    bar = width // BITS
    middle = frame[height // 4, [bit * bar + bar // 2 for bit in range(BITS)]].mean(axis=-1)
    assert ((middle < 80) | (middle > 170)).all(), f"bars are not readable: {middle}"
    return sum(1 << bit for bit in range(BITS) if middle[bit] > 128)


def numbers_of(frames: np.ndarray) -> list[int]:
    return [number_of(frame) for frame in frames]


def write_numbered(
    path: Path,
    num_frames: int,
    *,
    fps: int = 25,
    codec: str = "libx264",
    gop: int = 12,
    max_b_frames: int = 0,
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (HEIGHT, WIDTH),
    stamps: Sequence[int] | None = None,
    quarter_turns: int = 0,
    hidden: int = 0,
    first: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write frames numbered from `first`.

    Args:
        stamps: presentation times in 1 / (fps * 100) s, for a variable frame rate.
        quarter_turns: the coded picture is turned by this many quarters counter-clockwise, and the
            file says to turn it back (MP4 only).
        hidden: that many frames at the start get negative times, and the MP4 an edit list.
    """
    ticks = 100 if codec == "libx264" else 1
    time_base = Fraction(1, fps * ticks)
    times = [ticks * i for i in range(num_frames)] if stamps is None else list(stamps)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.pix_fmt = pix_fmt
        stream.height, stream.width = size if quarter_turns % 2 == 0 else size[::-1]
        stream.codec_context.time_base = time_base
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = max_b_frames
        stream.codec_context.thread_count = 1
        stream.options = {**DEFAULTS.get(codec, {}), **(options or {})}
        if codec not in ("libx264", "libx265"):
            stream.bit_rate = 2_000_000
        for i, time in enumerate(times):
            pixels = np.rot90(numbered_frame(first + i, *size), quarter_turns)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time, time_base
            _mux(container, stream.encode(frame), hidden * ticks)
        _mux(container, stream.encode(None), hidden * ticks)
    if quarter_turns:
        _say_turned(path, quarter_turns)
    return path


def _mux(container, packets, earlier: int) -> None:
    for packet in packets:
        packet.pts -= earlier
        packet.dts -= earlier
        container.mux(packet)


def _say_turned(path: Path, quarters: int) -> None:
    """Write the display matrix into the MP4's track header by hand."""
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters % 4]
    one = 1 << 16
    matrix = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    content[start : start + 36] = matrix
    path.write_bytes(content)
