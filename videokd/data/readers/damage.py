"""What FFmpeg can see of damage: strict checks, and the errors that it only logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STRICT = "explode+crccheck+bitstream+buffer+careful"
"""FFmpeg's `err_detect`: a damaged packet is an error, not a guess. `aggressive` is left out: it
refuses healthy MPEG-4."""

Log = list[tuple[int, str, str]]
"""What FFmpeg reported: (level, who, message)."""


@contextmanager
def errors_logged() -> Iterator[Log]:
    """Hear what FFmpeg logs as errors in this thread; it hides many of them in the picture."""
    from av import logging

    before = logging.get_level(), logging.get_skip_repeated()
    logging.set_skip_repeated(False)
    logging.set_level(logging.ERROR)
    try:
        with logging.Capture() as log:
            yield log
    finally:
        logging.set_level(before[0])
        logging.set_skip_repeated(before[1])


def jpeg_damage(path: Path) -> str:
    """What FFmpeg reports of a JPEG, whose damage Pillow mostly hides; empty for none.

    JPEGs of a kind that FFmpeg does not decode (arithmetic coding, 12 bits) pass.
    """
    import av

    with errors_logged() as log:
        context = av.CodecContext.create("mjpeg", "r")
        context.thread_count = 1
        context.options = {"err_detect": STRICT}
        try:
            frames = [*context.decode(av.Packet(path.read_bytes())), *context.decode(None)]
        except av.error.InvalidDataError as error:
            return error.strerror or "damaged"
        except av.error.FFmpegError:
            return ""
        if any(frame.is_corrupt for frame in frames):
            return "marked as corrupt"
        # Fields of cameras and editors, which say nothing of the picture, are often malformed.
        return next((text.strip() for _, _, text in log if "APP fields" not in text), "")
