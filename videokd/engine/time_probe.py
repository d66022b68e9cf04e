"""Does a network see motion? The same clips with their frames shuffled, reversed and frozen.

Letters: **B** videos in a batch, **V** views a video, **T** frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from videokd.data.loading import EvalLoader
from videokd.engine.evaluate import Rearrange, VideoScores, score_rearranged
from videokd.models.video_model import VideoModel
from videokd.types import ClipBatch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

NORMAL = "normal"
# Not an epoch: the generator of an order must not be one that draws a clip.
_ORDER_KEY = 0xFFFF_FFFE


def probe_orders(*, num_crops: int, seed: int = 0) -> dict[str, Rearrange]:
    """The four orders by name: `normal`, `shuffled`, `reversed`, `frozen`.

    Args:
        num_crops: views that show one clip; all are shuffled alike.
        seed: of the shuffle.
    """
    return {
        NORMAL: lambda batch: batch.frames["student"],
        "shuffled": lambda batch: _taken(batch, _shuffled_ids(batch, num_crops, seed)),
        "reversed": lambda batch: batch.frames["student"].flip(2),
        "frozen": _frozen,
    }


def score_time_probe(
    fabric: Fabric,
    model: VideoModel,
    loader: EvalLoader,
    *,
    num_crops: int,
    seed: int = 0,
    is_multi_label: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, VideoScores]:
    """The scores of a network under each of `probe_orders`, every video decoded once.

    Raises:
        UnreadableVideo: a video that does not decode stops an evaluation.
    """
    orders = probe_orders(num_crops=num_crops, seed=seed)
    return score_rearranged(
        fabric, model, loader, orders, is_multi_label=is_multi_label, on_progress=on_progress
    )


def shuffled_frames(num_frames: int, *, seed: int, video_id: int, clip: int) -> NDArray[np.int64]:
    """A permutation of [0, T), the same on every machine and never the identity where T > 1."""
    generator = np.random.default_rng([seed, _ORDER_KEY, video_id, clip])
    in_order = np.arange(num_frames)
    while True:
        drawn = generator.permutation(num_frames)
        if num_frames < 2 or (drawn != in_order).any():
            return drawn


def _shuffled_ids(batch: ClipBatch, num_crops: int, seed: int) -> torch.Tensor:
    """int64 [B, V, T]."""
    num_views, num_frames = batch.frames["student"].shape[1:3]
    ids = [
        [
            shuffled_frames(num_frames, seed=seed, video_id=video_id, clip=view // num_crops)
            for view in range(num_views)
        ]
        for video_id in batch.video_ids.tolist()
    ]
    return torch.from_numpy(np.array(ids))


def _taken(batch: ClipBatch, ids: torch.Tensor) -> torch.Tensor:
    """The frames of `ids` [B, V, T]."""
    frames = batch.frames["student"]
    videos = torch.arange(frames.shape[0])[:, None, None]
    views = torch.arange(frames.shape[1])[None, :, None]
    return frames[videos, views, ids]


def _frozen(batch: ClipBatch) -> torch.Tensor:
    """Frame T // 2 of each clip in all its places."""
    frames = batch.frames["student"]
    middle = frames.shape[2] // 2
    return frames[:, :, middle : middle + 1].expand_as(frames)
