"""From a batch of uint8 frames to what the networks see, on the device where the batch lies.

The order: float in [0, 1], colour and RandAugment, erasing, mixing. Nothing here makes the host
wait for the device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from videokd.data.augment.appearance import apply_appearance, apply_erase
from videokd.data.augment.mixing import apply_mix, mix_labels, partner_rows
from videokd.data.loading.clips import clip_tensor
from videokd.types import ClipBatch

if TYPE_CHECKING:
    import torch


def augmented_clips(batch: ClipBatch, name: str, *, videos: range | None = None) -> torch.Tensor:
    """One rendering as its draws say: float32 [B*V,3,T,S,S] in [0, 1].

    Where nothing is drawn, it is what `clip_tensor` gives, bit for bit. A clip is the same, bit
    for bit on a CPU, whatever part of the batch is asked for.

    Args:
        batch: with its draws; without any, nothing is done to the clips.
        name: the rendering.
        videos: positions in the batch; None for all. Partners of mixed clips are taken from the
            whole batch: so a batch is accumulated in parts, not split before.
    """
    frames, draws = batch.frames[name], batch.draws
    wanted = list(range(batch.num_videos) if videos is None else videos)
    if not draws:
        return clip_tensor(_rows(frames, wanted))
    partners = partner_rows(draws)
    needed = sorted({*wanted, *(partners[row] for row in wanted)})
    chosen = [draws[row] if row in wanted else replace(draws[row], mix=None) for row in needed]
    clips = clip_tensor(_rows(frames, needed))
    clips = apply_mix(apply_erase(apply_appearance(clips, chosen), chosen), chosen)
    clips = clips.unflatten(0, (len(needed), -1))
    return _rows(clips, [needed.index(row) for row in wanted]).flatten(0, 1)


def mixed_targets(batch: ClipBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets float32 [B,K] and has_label bool [B] of the clips that `augmented_clips` gives.

    `batch.targets` are those of the clips as they are shown, so mirrored ones are swapped already.
    """
    if not batch.draws:
        return batch.targets, batch.has_label
    return mix_labels(batch.targets, batch.has_label, batch.draws)


def _rows(tensor: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Rows along dim 0; the tensor itself where that is all of them."""
    import torch

    if rows == list(range(len(tensor))):
        return tensor
    return tensor.index_select(0, torch.tensor(rows).to(tensor.device, non_blocking=True))
