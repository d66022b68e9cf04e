"""One embedded video as pixels: textures, patches, camera, noise. Pure functions of the seed."""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from videokd.data.synthetic.motion import (
    FloatArray,
    Split,
    SyntheticConfig,
    Trajectory,
    draw_camera,
    draw_distractor,
    draw_trajectory,
    label_of,
    reach_px,
    rng_of,
)

# Texels along one side of an object's patch: about one texel a pixel at the usual radii.
_PATCH_TEXELS: Final = 40


def render_video(
    config: SyntheticConfig, split: Split, number: int
) -> tuple[NDArray[np.uint8], int]:
    """One video as uint8 [T,H,W,3] RGB, before compression, and its class index. Pure: no state,
    no clock."""
    rng = rng_of(config, split, number)
    label = label_of(number)
    path = draw_trajectory(rng, config, label)
    camera_px = draw_camera(rng, config)
    frames = _draw_background(rng, config, camera_px)
    objects = [(draw_distractor(rng, config), 1.0) for _ in range(config.num_distractors)]
    # The class's object is drawn at a random depth among the distractors, so that neither is
    # always in front.
    objects.insert(
        int(rng.integers(config.num_distractors + 1)), (path, config.object_opacity_pct / 100)
    )
    for moving, opacity in objects:
        _paint_object(frames, _draw_patch(rng, opacity), moving, camera_px)
    if config.noise_std > 0:
        noise = rng.standard_normal(frames.shape[:3], dtype=np.float32) * np.float32(
            config.noise_std
        )
        frames += noise[..., None]
    np.clip(frames, 0, 255, out=frames)
    return (frames + np.float32(0.5)).astype(np.uint8), label


@functools.cache
def _stretch(num_cells: int, num_px: int) -> FloatArray:
    """Matrix [num_px, num_cells] that interpolates `num_cells` values, wrapped around, at
    `num_px` places."""
    place = np.arange(num_px) * num_cells / num_px
    cell = place.astype(np.int64)
    matrix = np.zeros((num_px, num_cells), dtype=np.float32)
    np.add.at(matrix, (np.arange(num_px), cell), 1 - (place - cell))
    np.add.at(matrix, (np.arange(num_px), (cell + 1) % num_cells), place - cell)
    return matrix


def _draw_texture(
    rng: np.random.Generator, num_px: int, cell_px: tuple[float, ...], contrast: float = 1.0
) -> FloatArray:
    """Smooth coloured noise, float32 [num_px, num_px, 3], that tiles; one layer for each cell
    size, summed."""
    colour = 128 + contrast * rng.uniform(-70, 70, 3).astype(np.float32)
    texture = np.broadcast_to(colour, (num_px, num_px, 3)).copy()
    swing = 70 * contrast
    for cell in cell_px:
        matrix = _stretch(max(2, round(num_px / cell)), num_px)
        num_cells = matrix.shape[1]
        values = rng.uniform(-swing, swing, (3, num_cells, num_cells)).astype(np.float32)
        texture += (matrix @ values @ matrix.T).transpose(1, 2, 0)
    return texture


def _draw_background(
    rng: np.random.Generator, config: SyntheticConfig, camera_px: NDArray[np.float64]
) -> FloatArray:
    """The empty scene, float32 [T,S,S,3], moved by the camera with bilinear interpolation."""
    size_px = config.size_px
    texture = _draw_texture(rng, size_px, (16.0, 6.0), config.background_contrast_pct / 100)
    whole = np.floor(camera_px).astype(np.int64)
    frames = np.empty((len(camera_px), size_px, size_px, 3), dtype=np.float32)
    for frame, shift, part in zip(
        frames, whole, (camera_px - whole).astype(np.float32), strict=True
    ):
        near = np.roll(texture, (shift[1], shift[0]), axis=(0, 1))
        along_x = near + part[0] * (np.roll(near, 1, axis=1) - near)
        frame[...] = along_x + part[1] * (np.roll(along_x, 1, axis=0) - along_x)
    return frames


def _draw_patch(rng: np.random.Generator, opacity: float) -> FloatArray:
    """A textured shape, float32 [P,P,4], colour times alpha and alpha: a disc, a polygon or a
    star."""
    colour = _draw_texture(rng, _PATCH_TEXELS, (20.0, 10.0))
    num_corners = int(rng.integers(3, 8))
    dent = rng.uniform(0, 0.5)
    axis = np.linspace(-1.05, 1.05, _PATCH_TEXELS)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    # Distance of the outline from the centre, in the direction of each texel; corners lie at
    # distance 1.
    sector = np.abs(np.mod(np.arctan2(y, x) * num_corners / (2 * math.pi), 1.0) * 2 - 1)
    outline = np.ones_like(sector) if num_corners == 7 else 1 - dent * (1 - sector)
    alpha = np.clip((outline - np.hypot(x, y)) * _PATCH_TEXELS / 4 + 0.5, 0, 1).astype(np.float32)
    # The outermost texels stay clear: sampling outside the patch is clamped to them.
    alpha[[0, -1], :] = alpha[:, [0, -1]] = 0
    alpha = alpha[..., None] * np.float32(opacity)
    return np.concatenate([colour * alpha, alpha], axis=2)


def _paint_object(
    frames: FloatArray, patch: FloatArray, path: Trajectory, camera_px: NDArray[np.float64]
) -> None:
    """Lay a patch along its path over frames [T,S,S,3], in place, all T frames at once."""
    num_frames, size_px = frames.shape[:2]
    centre = np.stack([path.x_px, path.y_px], axis=1) + camera_px
    whole = np.floor(centre)
    part = centre - whole
    reach = reach_px(float(path.radius_px.max()))
    offsets = np.arange(-reach, reach + 1)
    # Window pixels relative to the centre, turned back and scaled into texels: [T,w,w].
    texels_per_px = (_PATCH_TEXELS - 1) / (2 * 1.05 * path.radius_px)
    cos = (np.cos(path.angle_rad) * texels_per_px).astype(np.float32)[:, None, None]
    sin = (np.sin(path.angle_rad) * texels_per_px).astype(np.float32)[:, None, None]
    dx = (offsets[None, :] - part[:, :1]).astype(np.float32)[:, None, :]
    dy = (offsets[None, :] - part[:, 1:]).astype(np.float32)[:, :, None]
    middle = np.float32((_PATCH_TEXELS - 1) / 2)
    colour_alpha = _bilinear(patch, middle + cos * dx + sin * dy, middle - sin * dx + cos * dy)

    rows = np.mod(whole[:, 1:].astype(np.int64) + offsets, size_px)
    columns = np.mod(whole[:, :1].astype(np.int64) + offsets, size_px)
    where = (np.arange(num_frames)[:, None, None], rows[:, :, None], columns[:, None, :])
    frames[where] = frames[where] * (1 - colour_alpha[..., 3:]) + colour_alpha[..., :3]


def _bilinear(patch: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Values of patch [P,P,C] at texel coordinates x, y of any one shape; outside it the (clear)
    border counts."""
    side = patch.shape[0]
    x = np.clip(x, 0, side - 1.001)
    y = np.clip(y, 0, side - 1.001)
    column, row = x.astype(np.int32), y.astype(np.int32)
    part_x, part_y = (x - column)[..., None], (y - row)[..., None]
    texels = patch.reshape(side * side, -1)
    corner = row * side + column
    above = texels.take(corner, axis=0)
    above += part_x * (texels.take(corner + 1, axis=0) - above)
    below = texels.take(corner + side, axis=0)
    below += part_x * (texels.take(corner + side + 1, axis=0) - below)
    above += part_y * (below - above)
    return above
