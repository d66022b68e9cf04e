"""The operations on pixels, each for many clips at once with a strength for each clip.

Letters: n clips of one operation, T frames, S crop side (px). All take float32 [n,3,T,S,S] in
[0, 1] and strengths [n,1,1,1,1], and return new clips in [0, 1].

Each clip's result is the same, bit for bit, whatever clips are beside it: multiplications,
additions and comparisons of single pixels, and sums of whole numbers only, whose order does not
matter. (So no convolution, no matrix product, and no mean of fractions: how those round depends
on the shape of the batch.) Nothing here makes the host wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from videokd.types import IMAGENET_MEAN

Matrix = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): the output at (x, y) shows the input at (a*x + b*y + c, d*x + e*y + f);
the crop reaches from -1 to 1, x to the right, y down."""

_GREY_LEVELS = 65536


def brightness(clips: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Pixels times a factor."""
    return (clips * factor).clamp_(0, 1)


def contrast(clips: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Away from the frame's mean grey, or towards it for a factor below 1."""
    levels = (grey(clips) * _GREY_LEVELS).round_()
    total = levels.sum(dim=(-2, -1), keepdim=True, dtype=torch.float64)
    mean = total.div_(_GREY_LEVELS * clips.shape[-2] * clips.shape[-1]).to(clips.dtype)
    return _blend(clips, mean, factor)


def saturation(clips: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Away from each pixel's grey; 0 is a grey picture."""
    return _blend(clips, grey(clips), factor)


def hue(clips: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Each pixel's hue turned by a fraction of the colour circle; value and saturation stay."""
    red, green, blue = clips.unbind(1)
    low, high = torch.aminmax(clips, dim=1)
    reach = high - low
    divisor = torch.where(reach == 0, 1, reach)
    sixths = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    sixths += turns[:, 0] * 6
    channels = []
    for start in (5, 3, 1):
        # 0 where the channel is at its highest, 1 where it is at its lowest.
        place = (sixths + start).remainder_(6)
        down = torch.minimum(place, 4 - place).clamp_(0, 1)
        channels.append(high - reach * down)
    return torch.stack(channels, dim=1).clamp_(0, 1)


def sharpness(clips: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Away from a smoothed picture, or towards it; the outermost pixels stay as they are."""
    if min(clips.shape[-2:]) <= 2:
        return clips.clone()
    centre = clips[..., 1:-1, 1:-1]
    rows = clips[..., :-2, :] + clips[..., 1:-1, :] + clips[..., 2:, :]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = (box + centre * 4) / 13
    sharpened = clips.clone()
    sharpened[..., 1:-1, 1:-1] = _blend(centre, smooth, factor)
    return sharpened


def invert(clips: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """The negative."""
    return 1 - clips


def solarize(clips: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """The negative of the values at or above a threshold in [0, 256]."""
    return torch.where(_at_least(clips, threshold), 1 - clips, clips)


def solarize_add(clips: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Values below 128 become brighter by an amount of 255."""
    brighter = (clips + amount / 255).clamp_(max=1)
    return torch.where(_at_least(clips, torch.full_like(amount, 128)), clips, brighter)


def posterize(clips: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """The highest bits of each of 256 values are kept, the lower ones become 0."""
    mask = torch.bitwise_left_shift(torch.full_like(bits, 255).int(), 8 - bits.int())
    return (_levels(clips) & mask & 255).to(clips.dtype).div_(255)


def autocontrast(clips: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Each channel of each frame stretched to [0, 1]; a channel of one value stays as it is."""
    low = clips.amin(dim=(-2, -1), keepdim=True)
    high = clips.amax(dim=(-2, -1), keepdim=True)
    is_flat = low == high
    stretched = (clips - low) / torch.where(is_flat, 1, high - low)
    return torch.where(is_flat, clips, stretched)


def equalize(clips: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Each channel of each frame with an even histogram of 256 values, as Pillow counts them."""
    levels = _levels(clips).flatten(-2).long()
    counts = torch.zeros(*levels.shape[:-1], 256, dtype=torch.int32, device=clips.device)
    counts.scatter_add_(-1, levels, torch.ones_like(levels, dtype=torch.int32))
    # Pillow leaves the pixels of the highest value there is out of the width of a step.
    values = torch.arange(256, device=clips.device)
    highest = torch.where(counts > 0, values, 0).amax(dim=-1, keepdim=True)
    step = (levels.shape[-1] - counts.gather(-1, highest)) // 255
    below = counts.cumsum(dim=-1) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table = torch.where(step == 0, values, table)
    return (table.gather(-1, levels).to(clips.dtype) / 255).view_as(clips)


def warp(clips: torch.Tensor, matrices: Sequence[Matrix]) -> torch.Tensor:
    """Frames moved by a matrix for each clip, bilinear; what was outside is the mean colour."""
    count, side = clips.shape[0], clips.shape[-1]
    table = torch.tensor(matrices, dtype=clips.dtype).to(clips.device, non_blocking=True)
    a, b, c, d, e, f = table.view(count, 6, 1, 1).unbind(1)
    along = (torch.arange(side, device=clips.device, dtype=clips.dtype) * 2 + 1) / side - 1
    x, y = along[None, None, :], along[None, :, None]
    grid = torch.stack((a * x + (b * y + c), d * x + (e * y + f)), dim=-1)
    fill = mean_colour(clips)
    moved = F.grid_sample(
        (clips - fill).flatten(1, 2),
        grid,
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return (moved.view_as(clips) + fill).clamp_(0, 1)


def uniform_noise(shape: Sequence[int], seeds: torch.Tensor) -> torch.Tensor:
    """Values k / 255 that depend on (seed, frame, row, column, channel) alone: [n,3,T,S,S].

    A hash of the place instead of a generator: the same on every device, and for all clips at
    once. Its products stay below 2^63.
    """
    count, _, num_frames, height, width = shape
    places = torch.arange(num_frames * height * width, device=seeds.device)
    places = places.view(1, 1, num_frames, height, width)
    mixed = _hash(_hash(seeds.view(count, 1, 1, 1, 1)) ^ places)
    channels = [mixed >> shift & 255 for shift in (0, 8, 16)]
    return torch.cat(channels, dim=1).to(torch.float32).div_(255)


def mean_colour(clips: torch.Tensor) -> torch.Tensor:
    """ImageNet's mean, [1,3,1,1,1]: what networks that normalise see as 0."""
    colour = torch.tensor(IMAGENET_MEAN, dtype=clips.dtype).view(1, 3, 1, 1, 1)
    return colour.to(clips.device, non_blocking=True)


def grey(clips: torch.Tensor) -> torch.Tensor:
    """Luma with torchvision's weights, [n,1,T,S,S]."""
    red, green, blue = clips.split(1, dim=1)
    return red * 0.2989 + green * 0.587 + blue * 0.114


PIXEL_OPERATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "sharpness": sharpness,
    "invert": invert,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "posterize": posterize,
    "autocontrast": autocontrast,
    "equalize": equalize,
}


def _rotation(degrees: float) -> Matrix:
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    return (cos, -sin, 0.0, sin, cos, 0.0)


MATRICES: dict[str, Callable[[float], Matrix]] = {
    # Degrees against the clock.
    "rotate": _rotation,
    # The upper left corner stays where it is.
    "shear_x": lambda slope: (1.0, slope, slope, 0.0, 1.0, 0.0),
    "shear_y": lambda slope: (1.0, 0.0, 0.0, slope, 1.0, slope),
    # To the right, and down, by a fraction of the side.
    "translate_x": lambda part: (1.0, 0.0, -2 * part, 0.0, 1.0, 0.0),
    "translate_y": lambda part: (1.0, 0.0, 0.0, 0.0, 1.0, -2 * part),
}


def _blend(clips: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    # Rounded after each step. (A fused multiply-add would round once, on some shapes only.)
    return (clips * factor).add_(other * (1 - factor)).clamp_(0, 1)


def _levels(clips: torch.Tensor) -> torch.Tensor:
    """The nearest of 256 values, int32."""
    return (clips * 255).round_().int()


def _at_least(clips: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Whether the nearest of 256 values is `level` or more."""
    return clips >= (level - 0.5) / 255


def _hash(values: torch.Tensor) -> torch.Tensor:
    """Scrambled 32 bits of int64 values in [0, 2^32)."""
    for _ in range(2):
        values = (values >> 16 ^ values) * 0x45D9F3B & 0xFFFFFFFF
    return values >> 16 ^ values
