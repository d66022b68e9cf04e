"""How a clip looks, changed on the device: colour, RandAugment, random erasing.

Drawn once a clip in the worker, with numbers that fit every size; done for all clips of a batch at
once, where they lie. Letters: N clips, T frames, S crop side (px). torch is imported by the
functions that compute pixels only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from videokd.config import Config
from videokd.data.augment.geometry import Range, source_rectangle
from videokd.types import Crop, Draw, Erase

if TYPE_CHECKING:
    import torch

Appearance = tuple[tuple[str, float], ...]
"""(operation, strength) in order; `operations` says what they do and what strengths mean."""


class ColourConfig(Config):
    """Brightness, contrast, saturation and hue in random order (torchvision's ColorJitter)."""

    brightness: float = Field(default=0.0, ge=0)
    """The factor is uniform in [max(0, 1 - brightness), 1 + brightness]; 0: not done."""
    contrast: float = Field(default=0.0, ge=0)
    """Likewise: how far pixels are from the frame's mean grey."""
    saturation: float = Field(default=0.0, ge=0)
    """Likewise: how far pixels are from their own grey."""
    hue: float = Field(default=0.0, ge=0, le=0.5)
    """The shift is uniform in [-hue, hue], in turns of the colour circle; 0: not done."""
    grayscale_probability: float = Field(default=0.0, ge=0, le=1)
    """Share of the clips that lose their colour, after the four."""


class RandAugmentConfig(Config):
    """A few random operations of growing strength: RandAugment (Cubuk et al., 2020) as timm has it.

    The fifteen operations of timm's set that grows with the magnitude (`inc1`), none of which
    mirrors; the defaults are its `rand-m9-n2-mstd0.5-inc1`. Moved pixels are bilinear.
    """

    num_ops: int = Field(default=2, ge=1)
    """Operations drawn for each clip, with replacement."""
    magnitude: float = Field(default=9.0, ge=0, le=10)
    """How strong they are; timm's tables, but posterize keeps at least one bit."""
    magnitude_std: float = Field(default=0.5, ge=0)
    """Standard deviation of each operation's magnitude, which stays in [0, 10]."""
    probability: float = Field(default=0.5, ge=0, le=1)
    """Share of the drawn operations that are done."""


class EraseConfig(Config):
    """Random erasing (Zhong et al., 2020): the same rectangle in all frames of a clip."""

    probability: float = Field(default=0.0, ge=0, le=1)
    """Share of the clips in which a rectangle is erased."""
    area: Range = (0.02, 1 / 3)
    """Smallest and largest area, as a fraction of the crop's."""
    ratio: Range = (0.3, 1 / 0.3)
    """Lowest and highest height / width; its logarithm is uniform."""
    mode: Literal["constant", "noise"] = "constant"
    """What fills it: the mean colour (ImageNet's), or uniform noise, another in each frame."""

    @model_validator(mode="after")
    def _ordered(self) -> EraseConfig:
        if not 0 < self.area[0] <= self.area[1] < 1:
            raise ValueError(f"area must be (low, high) with 0 < low <= high < 1: {self.area}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be (low, high) with 0 < low <= high: {self.ratio}")
        return self


def draw_colour(config: ColourConfig, generator: np.random.Generator) -> Appearance:
    """One clip's colour operations and their strengths."""
    drawn: list[tuple[str, float]] = []
    for name in ("brightness", "contrast", "saturation"):
        if reach := getattr(config, name):
            drawn.append((name, generator.uniform(max(0.0, 1 - reach), 1 + reach)))
    if config.hue:
        drawn.append(("hue", generator.uniform(-config.hue, config.hue)))
    drawn = [drawn[i] for i in generator.permutation(len(drawn))]
    if config.grayscale_probability and generator.random() < config.grayscale_probability:
        drawn.append(("saturation", 0.0))
    return tuple(drawn)


def draw_rand_augment(config: RandAugmentConfig, generator: np.random.Generator) -> Appearance:
    """One clip's RandAugment operations and their strengths."""
    drawn = []
    for name in generator.choice(RAND_AUGMENT_OPS, config.num_ops):
        # Every number is drawn each time, so that the next operation's do not move.
        level = min(max(generator.normal(config.magnitude, config.magnitude_std), 0.0), 10.0) / 10
        sign = 1.0 if generator.random() < 0.5 else -1.0
        if generator.random() < config.probability:
            drawn.append((str(name), rand_augment_strength(str(name), level, sign)))
    return tuple(drawn)


def draw_erase(config: EraseConfig, generator: np.random.Generator) -> Erase | None:
    """One clip's rectangle: up to ten tries for one that is smaller than the crop, then none."""
    if generator.random() >= config.probability:
        return None
    low, high = map(math.log, config.ratio)
    for _ in range(10):
        area, ratio = generator.uniform(*config.area), math.exp(generator.uniform(low, high))
        height, width = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if height < 1 and width < 1:
            top, left = generator.uniform(0, 1 - height), generator.uniform(0, 1 - width)
            seed = int(generator.integers(2**31)) if config.mode == "noise" else None
            return Erase(Crop(top, left, height, width), seed)
    return None


RAND_AUGMENT_OPS = (
    "autocontrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "saturation",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)


def rand_augment_strength(name: str, level: float, sign: float) -> float:
    """What timm's level tables give for a level in [0, 1]."""
    match name:
        case "rotate":
            return sign * 30 * level
        case "posterize":
            return float(max(1, 4 - int(4 * level)))  # timm's 0 bits at 10 are a black clip
        case "solarize":
            return float(256 - int(256 * level))
        case "solarize_add":
            return float(int(110 * level))
        case "saturation" | "contrast" | "brightness" | "sharpness":
            return max(0.1, 1 + sign * 0.9 * level)
        case "shear_x" | "shear_y":
            return sign * 0.3 * level
        case "translate_x" | "translate_y":
            return sign * 0.45 * level
    return 0.0  # autocontrast, equalize and invert have no strength


def apply_appearance(clips: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Each clip after the operations of its draw: float32 [N,3,T,S,S] in [0, 1], same shape.

    The first operations of all clips are done before the second ones, those of one kind at once. A
    clip's result does not depend on the clips beside it. `clips` itself stays as it is.

    Args:
        clips: N = B * V, the V views of a video side by side.
        draws: B of them, one a video.
    """
    from videokd.data.augment.operations import MATRICES, PIXEL_OPERATIONS, warp

    num_steps = max((len(draw.appearance) for draw in draws), default=0)
    if not num_steps:
        return clips
    clips = clips.clone()
    for step in range(num_steps):
        groups: dict[str, list[tuple[int, str, float]]] = {}
        for video, draw in enumerate(draws):
            for name, strength in draw.appearance[step : step + 1]:
                kind = "warp" if name in MATRICES else name
                groups.setdefault(kind, []).append((video, name, strength))
        for kind, members in groups.items():
            rows = rows_of([video for video, _, _ in members], clips, num_videos=len(draws))
            num_views = len(rows) // len(members)
            chosen = clips.index_select(0, rows)
            if kind == "warp":
                matrices = [MATRICES[name](strength) for _, name, strength in members]
                changed = warp(chosen, [each for each in matrices for _ in range(num_views)])
            else:
                strengths = on_device([s for _, _, s in members for _ in range(num_views)], clips)
                changed = PIXEL_OPERATIONS[kind](chosen, strengths)
            clips.index_copy_(0, rows, changed)
    return clips


def apply_erase(clips: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Each clip with the rectangle of its draw painted over; as `apply_appearance` otherwise.

    Edges lie on whole pixels, rounded as `source_rectangle` does.
    """
    import torch

    from videokd.data.augment.operations import mean_colour, uniform_noise

    for is_noise in (False, True):
        erased = [
            (video, draw.erase)
            for video, draw in enumerate(draws)
            if draw.erase is not None and (draw.erase.noise_seed is not None) == is_noise
        ]
        if not erased:
            continue
        rows = rows_of([video for video, _ in erased], clips, num_videos=len(draws))
        num_views = len(rows) // len(erased)
        chosen = clips.index_select(0, rows)
        fill = mean_colour(clips)
        if is_noise:
            seeds = [erase.noise_seed for _, erase in erased for _ in range(num_views)]
            fill = uniform_noise(
                chosen.shape, torch.tensor(seeds).to(clips.device, non_blocking=True)
            )
        boxes = [erase.rectangle for _, erase in erased for _ in range(num_views)]
        clips = clips.index_copy(0, rows, torch.where(inside(boxes, clips), fill, chosen))
    return clips


def rows_of(videos: Sequence[int], clips: torch.Tensor, *, num_videos: int) -> torch.Tensor:
    """int64, on the device of `clips` [B*V, ...]: the rows of these videos, all their views."""
    import torch

    num_views, rest = divmod(len(clips), num_videos)
    if rest:
        raise ValueError(f"{len(clips)} clips are no whole number of views of {num_videos} videos")
    rows = [video * num_views + view for video in videos for view in range(num_views)]
    return torch.tensor(rows).to(clips.device, non_blocking=True)


def on_device(values: Sequence[float], clips: torch.Tensor) -> torch.Tensor:
    """One value for each of n clips, [n,1,1,1,1], where `clips` are."""
    import torch

    tensor = torch.tensor(values, dtype=clips.dtype).view(-1, 1, 1, 1, 1)
    return tensor.to(clips.device, non_blocking=True)


def inside(boxes: Sequence[Crop], clips: torch.Tensor) -> torch.Tensor:
    """bool [n,1,1,S,S]: the pixels in the rectangle of each of n clips."""
    import torch

    height, width = clips.shape[-2:]
    edges = [source_rectangle(box, height=height, width=width) for box in boxes]
    top, left, bottom, right = (
        torch.tensor(edges).to(clips.device, non_blocking=True).view(-1, 4, 1, 1, 1, 1).unbind(1)
    )
    y = torch.arange(height, device=clips.device)[:, None]
    x = torch.arange(width, device=clips.device)
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)
