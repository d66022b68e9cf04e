"""A video that was encoded anew, decoded again and compared with its source.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videokd.data.readers import Frames, open_video
from videokd.data.scan.inspection import ScanResult
from videokd.errors import UnreadableVideo
from videokd.types import VideoRecord

MIN_PSNR_DB = 30.0
"""Every sampled frame is at least so like its source, over blocks of 2x2 px, which is as fine as
the chroma that the file stores."""

NUM_SAMPLES = 16
"""Frames that are compared with the source, with their neighbours: the first, the last, and the
others evenly between."""

MIN_LEAD_DB = 10.0
"""A frame that is so much more like its source's neighbour than like its own is another frame. What
hardly moves may well be a little nearer to the frame before, as the encoder spares small changes.
"""

COMPARED_PX = 320
"""Frames are compared on every k-th block, so that at most about this many px are left a side."""


def frames_to_keep(num_frames: int) -> set[int]:
    """Frames that are compared, and their neighbours."""
    samples = sample_ids(num_frames)
    near = {sample + step for sample in samples for step in (-1, 0, 1)}
    return {frame_id for frame_id in near if 0 <= frame_id < num_frames}


def sample_ids(num_frames: int) -> list[int]:
    """Frames that are compared with the source, ascending."""
    return sorted({i * (num_frames - 1) // (NUM_SAMPLES - 1) for i in range(NUM_SAMPLES)})


def verify(
    found: ScanResult, record: VideoRecord, kept: Mapping[int, Frames], *, size: tuple[int, int]
) -> float:
    """PSNR of the least like of the sampled frames, dB.

    Args:
        found: the new file.
        record: the source.
        kept: thumbs of the source's frames, see `frames_to_keep`.
        size: height and width that the new file is to have.

    Raises:
        UnreadableVideo: it has another size or number of frames, a frame that is really a
            neighbour (`MIN_LEAD_DB`), or one below `MIN_PSNR_DB`.
    """
    if (found.num_frames, found.height, found.width) != (record.num_frames, *size):
        raise UnreadableVideo(
            record.path,
            f"encoded anew it shows {found.num_frames} frames of {found.height}x{found.width} px "
            f"instead of {record.num_frames} of {size[0]}x{size[1]}",
        )
    ids = sample_ids(record.num_frames)
    with open_video(found.path, found.reader, num_frames=found.num_frames) as reader:
        frames = reader.read(np.asarray(ids))
    worst = float("inf")
    for frame_id, pixels in zip(ids, frames, strict=True):
        thumb = thumb_of(pixels)
        own = psnr_db(thumb, kept[frame_id])
        beside = [kept[i] for i in (frame_id - 1, frame_id + 1) if i in kept]
        if any(psnr_db(thumb, other) > own + MIN_LEAD_DB for other in beside):
            raise UnreadableVideo(record.path, f"encoded anew, frame {frame_id} is another one")
        worst = min(worst, own)
    if worst < MIN_PSNR_DB:
        raise UnreadableVideo(
            record.path,
            f"encoded anew, a frame is only {worst:.1f} dB like its source, and {MIN_PSNR_DB:g} dB "
            "are asked for; a smaller quality number keeps more",
        )
    return worst


def psnr_db(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of two pictures of the range 0 to 255; at most 99."""
    error = float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2))
    return min(99.0, 10 * float(np.log10(255**2 / max(error, 1e-9))))


def thumb_of(pixels: Frames) -> Frames:
    """What is kept of a frame: means of 2x2 px, every k-th of both directions, uint8."""
    height, width = pixels.shape[:2]
    blocks = pixels.reshape(height // 2, 2, width // 2, 2, 3).astype(np.uint16)
    step = max(1, max(height, width) // COMPARED_PX)
    means = (blocks.sum(axis=(1, 3))[::step, ::step] + 2) // 4
    return means.astype(np.uint8)
