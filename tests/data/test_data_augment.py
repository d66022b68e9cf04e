from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from videokd.data.augment import (
    AugmentConfig,
    CentreCrop,
    FlipConfig,
    RandomCrop,
    RandomResizedCrop,
    draw_crop,
    eval_crops,
    flip_targets,
    render,
    source_rectangle,
    swap_indices,
)
from videokd.errors import UserError
from videokd.types import ClassNames, Crop

sides = st.integers(4, 700)


def rectangle(crop: Crop, height: int, width: int) -> tuple[int, int, int, int]:
    return source_rectangle(crop, height=height, width=width)


def test_golden_evaluation_crops() -> None:
    def crops(height: int, width: int, short: int, side: int, count: int) -> list:
        found = eval_crops(
            height=height, width=width, short_side_px=short, crop_px=side, num_crops=count
        )
        return [rectangle(crop, height, width) for crop in found]

    # 256 -> 224 of 240 px are 210 px.
    assert crops(240, 320, 256, 224, 1) == [(15, 55, 225, 265)]
    assert crops(240, 320, 256, 256, 3) == [(0, 0, 240, 240), (0, 40, 240, 280), (0, 80, 240, 320)]
    assert crops(320, 240, 256, 256, 3) == [(0, 0, 240, 240), (40, 0, 280, 240), (80, 0, 320, 240)]
    assert crops(240, 321, 256, 224, 3) == [
        (15, 0, 225, 210),
        (15, 55, 225, 265),
        (15, 111, 225, 321),
    ]


@given(sides, sides, st.integers(0, 999), st.sampled_from(["random_resized", "random", "centre"]))
def test_drawn_rectangles_lie_inside_on_whole_pixels(height, width, seed, kind) -> None:
    config = AugmentConfig.model_validate({"crop": {"kind": kind}}).crop
    crop = draw_crop(
        config,
        height=height,
        width=width,
        short_side_px=64,
        crop_px=56,
        generator=np.random.default_rng(seed),
    )
    top, left, bottom, right = rectangle(crop, height, width)
    assert 0 <= top < bottom <= height
    assert 0 <= left < right <= width
    assert crop.top * height == pytest.approx(top, abs=1e-6)
    assert crop.left * width == pytest.approx(left, abs=1e-6)
    assert crop.height * height == pytest.approx(bottom - top, abs=1e-6)
    assert crop.width * width == pytest.approx(right - left, abs=1e-6)
    if kind != "random_resized":
        assert bottom - top == right - left


def test_random_resized_keeps_to_area_and_ratio() -> None:
    config = RandomResizedCrop(scale=(0.3, 0.6), ratio=(0.8, 1.25))
    generator = np.random.default_rng(0)
    areas, ratios = [], []
    for _ in range(300):
        crop = draw_crop(
            config, height=480, width=640, short_side_px=64, crop_px=56, generator=generator
        )
        areas.append(crop.height * crop.width)
        ratios.append(crop.width * 640 / (crop.height * 480))
    assert min(areas) == pytest.approx(0.3, abs=0.02)
    assert max(areas) == pytest.approx(0.6, abs=0.02)
    assert min(ratios) == pytest.approx(0.8, abs=0.02)
    assert max(ratios) == pytest.approx(1.25, abs=0.02)
    assert np.median(np.log(ratios)) == pytest.approx(0, abs=0.05)


def test_an_impossible_ratio_falls_back_to_the_largest_centred_rectangle() -> None:
    crop = draw_crop(
        RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0)),
        height=100,
        width=300,
        short_side_px=64,
        crop_px=64,
        generator=np.random.default_rng(0),
    )
    assert rectangle(crop, 100, 300) == (0, 100, 100, 200)


def test_random_reaches_every_place_and_centre_one() -> None:
    options = {"height": 8, "width": 10, "short_side_px": 8, "crop_px": 6}
    generator = np.random.default_rng(0)
    drawn = {
        rectangle(draw_crop(RandomCrop(), **options, generator=generator), 8, 10)[:2]
        for _ in range(300)
    }
    assert drawn == {(top, left) for top in range(3) for left in range(5)}
    centre = draw_crop(CentreCrop(), **options, generator=generator)
    assert rectangle(centre, 8, 10) == (1, 2, 7, 8)


FRAMES = np.random.default_rng(0).integers(70, 186, (3, 50, 70, 3), dtype=np.uint8)
"""Far enough from 0 and 255 that bicubic overshoot is not clipped between its two passes."""
CROP = Crop(0.1, 0.2, 0.8, 0.6)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [17, 64])
def test_render_equals_torchvision_on_the_cut_rectangle(resample: str, side: int) -> None:
    cut = torch.from_numpy(FRAMES[:, 5:45, 14:56].copy()).permute(0, 3, 1, 2)
    mode = tvf.InterpolationMode(resample)
    expected = tvf.resize(cut.float(), [side, side], interpolation=mode, antialias=True)
    got = render(FRAMES, CROP, crop_px=side, resample=resample)
    assert got.dtype == np.uint8
    assert got.shape == (3, side, side, 3)
    difference = torch.from_numpy(got).permute(0, 3, 1, 2) - expected.clamp(0, 255)
    assert difference.abs().max() <= 1.5  # the kernel for uint8 rounds after each direction


def test_render_mirrors_last_and_copies_at_the_same_size() -> None:
    plain = render(FRAMES, CROP, crop_px=32)
    assert (render(FRAMES, CROP, crop_px=32, flip=True) == plain[:, :, ::-1]).all()
    whole = Crop(0.0, 0.0, 40 / 50, 40 / 70)
    assert (render(FRAMES, whole, crop_px=40) == FRAMES[:, :40, :40]).all()


def test_render_does_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = render(FRAMES, CROP, crop_px=32)
        torch.set_num_threads(2)
        assert (render(FRAMES, CROP, crop_px=32) == one).all()
    finally:
        torch.set_num_threads(before)


def test_flip_swaps_the_declared_classes_only() -> None:
    classes = ClassNames(["left", "up", "right", "cw", "ccw"])
    swaps = swap_indices([("left", "right"), ("ccw", "cw")], classes)
    assert swaps == ((0, 2), (4, 3))
    targets = np.array([[1, 2, 3, 4, 5], [0, 1, 0, 0, 1]], dtype=np.float32)
    flipped = flip_targets(targets, swaps)
    assert flipped.tolist() == [[3, 2, 1, 5, 4], [0, 1, 0, 1, 0]]
    assert (flip_targets(flipped, swaps) == targets).all()
    assert (flip_targets(targets[0], ()) == targets[0]).all()
    with pytest.raises(UserError, match=r"augment\.flip\.swaps: 'rigth' is not .* mean 'right'"):
        swap_indices([("left", "rigth")], classes)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"crop": {"kind": "random_resized", "scale": (0.9, 0.5)}}, "0 < low <= high <= 1"),
        ({"crop": {"kind": "random_resized", "scale": (0.0, 1.0)}}, "0 < low <= high <= 1"),
        ({"crop": {"kind": "random_resized", "ratio": (2.0, 1.0)}}, "0 < low <= high"),
        ({"flip": {"probability": 1.5}}, "less than or equal to 1"),
        ({"flip": {"swaps": [("a", "b"), ("b", "c")]}}, "class 'b' stands in two places"),
        ({"flip": {"swaps": [("a", "a")]}}, "class 'a' stands in two places"),
        ({"crop": {"kind": "center"}}, "center"),
    ],
)
def test_bad_settings(settings: dict, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        AugmentConfig.model_validate(settings)


def test_mirroring_is_off_by_default() -> None:
    assert FlipConfig().probability == 0
