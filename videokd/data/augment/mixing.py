"""Mixup and cutmix: two clips of a batch as one, their labels in proportion.

The video at position p of a batch of G videos is mixed with the one at (p + G/2) mod G, both on the
same process, and each of the two has a weight and a rectangle of its own. Letters: B videos of a
process, V views a video, N = B * V clips, T frames, S crop side (px), K classes. torch is imported
by the functions that compute pixels only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from videokd.config import Config
from videokd.data.augment.appearance import inside, on_device, rows_of
from videokd.errors import ConfigError
from videokd.types import Crop, Draw, Mix

if TYPE_CHECKING:
    import torch

_MIX_KEY = 4


class MixConfig(Config):
    """Mixup (Zhang et al., 2018) and cutmix (Yun et al., 2019), drawn for each clip as timm does.

    Off unless one of the two alphas is above 0. Smoothing of labels is the loss's own setting.
    """

    mixup_alpha: float = Field(default=0.0, ge=0)
    """A clip's own weight is drawn from Beta(alpha, alpha); 0: no mixup."""
    cutmix_alpha: float = Field(default=0.0, ge=0)
    """Likewise the area that is left of a clip when a rectangle shows the other; 0: no cutmix."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """Share of the clips that are mixed."""
    switch_probability: float = Field(default=0.5, ge=0, le=1)
    """Share of cutmix where both are on."""

    @property
    def is_on(self) -> bool:
        """Whether any clip is ever mixed."""
        return self.probability > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)


def check_mixing(config: MixConfig, *, num_videos: int) -> None:
    """Raise `ConfigError` where the videos of a batch on each process are no pairs."""
    if config.is_on and num_videos % 2:
        raise ConfigError(
            f"data.augment.mix: each process has {num_videos} videos a batch, and mixing needs an "
            "even number; change train.batch_size, or set both alphas to 0"
        )


def partner_position(position: int, num_videos: int) -> int:
    """The position that is mixed with this one, in a batch of an even number of videos.

    The other's other is the first again. Process r of R holds the positions r, r + R, ...: so
    among its own videos the same rule finds the same pairs, whatever R is.
    """
    return (position + num_videos // 2) % num_videos


def draw_mix(
    config: MixConfig, generator: np.random.Generator, *, partner: Draw, crop_px: int
) -> Mix | None:
    """What one clip takes over from its partner; None: nothing.

    Cutmix follows timm's `rand_bbox` on a crop of `crop_px`: a square of 1 - lambda of the area at
    a uniform centre, cut off at the edges; the weight is what is left in fact. So it is exact for
    the rendering with that crop, and within a pixel's rounding for others.
    """
    is_mixed = generator.random() < config.probability
    is_cutmix = generator.random() < config.switch_probability
    if not config.mixup_alpha or not config.cutmix_alpha:
        is_cutmix = config.cutmix_alpha > 0
    if not config.is_on or not is_mixed:
        return None
    alpha = config.cutmix_alpha if is_cutmix else config.mixup_alpha
    weight, box = float(generator.beta(alpha, alpha)), None
    if is_cutmix:
        box = _draw_box(1 - weight, crop_px, generator)
        weight = 1 - box.height * box.width
    # A beta draw can round to 1, and a small square to no pixel.
    return Mix(partner.video_id, partner.repeat, weight, box) if weight < 1 else None


def with_partners(
    draws: Sequence[Draw], video_ids: Sequence[int], config: MixConfig, *, crop_px: int
) -> list[Draw]:
    """The draws of one process's batch with `mix` set.

    Clip k of a video is mixed with clip k of the other. Where the other video did not decode, the
    clip stays as it is.

    Args:
        draws: of the clips that were decoded, in any order.
        video_ids: all videos of this process's batch in its order, those too that did not decode.
        config: how to mix.
        crop_px: crop of the student's rendering.
    """
    if not config.is_on:
        return list(draws)
    by_clip = {(draw.video_id, draw.repeat): draw for draw in draws}
    position = {video_id: place for place, video_id in enumerate(video_ids)}
    mixed = []
    for draw in draws:
        other = video_ids[partner_position(position[draw.video_id], len(video_ids))]
        partner = by_clip.get((other, draw.repeat))
        if partner is not None:
            # Its own generator, so that no other draw moves when mixing is switched on.
            generator = np.random.default_rng((*draw.entropy, _MIX_KEY))
            mix = draw_mix(config, generator, partner=partner, crop_px=crop_px)
            draw = replace(draw, mix=mix)
        mixed.append(draw)
    return mixed


def partner_rows(draws: Sequence[Draw]) -> list[int]:
    """For each draw of a batch, where its partner stands in it; its own position if unmixed.

    Raises:
        ValueError: a partner that is not in the batch: it was cut apart after drawing.
    """
    places = {(draw.video_id, draw.repeat): row for row, draw in enumerate(draws)}
    rows = []
    for row, draw in enumerate(draws):
        key = (draw.mix.partner_id, draw.mix.partner_repeat) if draw.mix else None
        if key is not None and key not in places:
            raise ValueError(f"video {draw.video_id} is mixed with {key}, not in this batch")
        rows.append(row if key is None else places[key])
    return rows


def apply_mix(clips: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Each clip mixed with its partner: float32 [N,3,T,S,S], same shape; N = B * V.

    View v of a video is mixed with view v of its partner, both as they are in `clips`.
    """
    import torch

    partners = partner_rows(draws)
    mixed = clips
    for is_cutmix in (False, True):
        members = [
            (row, draw.mix)
            for row, draw in enumerate(draws)
            if draw.mix is not None and (draw.mix.box is not None) == is_cutmix
        ]
        if not members:
            continue
        rows = rows_of([row for row, _ in members], clips, num_videos=len(draws))
        others = rows_of([partners[row] for row, _ in members], clips, num_videos=len(draws))
        own, other = clips.index_select(0, rows), clips.index_select(0, others)
        each = [mix for _, mix in members for _ in range(len(rows) // len(members))]
        if is_cutmix:
            result = torch.where(inside([m.box for m in each if m.box], clips), other, own)
        else:
            weights = on_device([m.own_weight for m in each], clips)
            result = (own * weights).add_(other * (1 - weights))
        mixed = mixed.index_copy(0, rows, result)
    return mixed


def mix_labels(
    targets: torch.Tensor, has_label: torch.Tensor, draws: Sequence[Draw]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets float32 [B,K] and has_label bool [B] of the mixed clips.

    A clip that is mixed has a label where both clips have one: half a label would be a wrong one.
    Terms that compare with the teacher count it all the same.
    """
    import torch

    if all(draw.mix is None for draw in draws):
        return targets, has_label
    partners = torch.tensor(partner_rows(draws)).to(targets.device, non_blocking=True)
    weights = torch.tensor([draw.mix.own_weight if draw.mix else 1.0 for draw in draws])
    weights = weights.to(targets.device, non_blocking=True)[:, None]
    mixed = targets * weights + targets.index_select(0, partners) * (1 - weights)
    return mixed, has_label & has_label.index_select(0, partners)


def _draw_box(area: float, crop_px: int, generator: np.random.Generator) -> Crop:
    side = int(crop_px * math.sqrt(area))
    y, x = (int(v) for v in generator.integers(0, crop_px, 2))
    top, left = max(0, y - side // 2), max(0, x - side // 2)
    bottom, right = min(crop_px, y + (side + 1) // 2), min(crop_px, x + (side + 1) // 2)
    return Crop(top / crop_px, left / crop_px, (bottom - top) / crop_px, (right - left) / crop_px)
