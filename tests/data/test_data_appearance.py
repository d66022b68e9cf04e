from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from timm.data import auto_augment as timm_ops

from videokd.data.augment import (
    AugmentConfig,
    ColourConfig,
    EraseConfig,
    RandAugmentConfig,
    apply_appearance,
    apply_erase,
    draw_colour,
    draw_erase,
    draw_rand_augment,
    with_appearance,
)
from videokd.data.augment.appearance import RAND_AUGMENT_OPS, rand_augment_strength
from videokd.data.augment.operations import MATRICES, PIXEL_OPERATIONS
from videokd.errors import UserError
from videokd.types import IMAGENET_MEAN, Crop, Draw, Erase, Mix

STRENGTHS = {
    "brightness": (0.3, 1.0, 1.7),
    "contrast": (0.1, 1.0, 1.9),
    "saturation": (0.0, 0.4, 1.9),
    "hue": (-0.5, -0.1, 0.0, 0.3),
    "sharpness": (0.1, 1.9),
    "invert": (0.0,),
    "solarize": (0.0, 100.0, 255.0, 256.0),
    "solarize_add": (0.0, 90.0),
    "posterize": (1.0, 4.0, 8.0),
    "autocontrast": (0.0,),
    "equalize": (0.0,),
    "rotate": (-30.0, 12.5),
    "shear_x": (-0.3, 0.2),
    "shear_y": (-0.3, 0.2),
    "translate_x": (-0.45, 0.2),
    "translate_y": (-0.45, 0.2),
}
EVERY = [(name, strength) for name, strengths in STRENGTHS.items() for strength in strengths]


def pictures(num_clips: int = 2, num_frames: int = 3, side: int = 37, seed: int = 0):
    """uint8 [N,T,S,S,3]: smooth colours with noise, not of the full range, and one flat frame."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(20, 200, (num_clips * num_frames, 3, 4, 4)).astype(np.float32)
    fine = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(side, side)).numpy()
    noisy = np.clip(fine + generator.normal(0, 12, fine.shape), 10, 230).astype(np.uint8)
    noisy[-1] = 77
    return noisy.reshape(num_clips, num_frames, 3, side, side).transpose(0, 1, 3, 4, 2)


def as_clips(frames) -> torch.Tensor:
    return torch.from_numpy(frames.copy()).permute(0, 4, 1, 2, 3).float().contiguous() / 255


def as_bytes(clips: torch.Tensor):
    return (clips * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()


def drawn(*operations: tuple[str, float], erase: Erase | None = None, video_id: int = 0) -> Draw:
    return Draw(video_id, (1, 2, video_id, 0), {}, (), appearance=operations, erase=erase)


def changed(name: str, strength: float, frames) -> torch.Tensor:
    return apply_appearance(as_clips(frames), [drawn((name, strength))] * len(frames))


TORCHVISION = {
    "brightness": tvf.adjust_brightness,
    "contrast": tvf.adjust_contrast,
    "saturation": tvf.adjust_saturation,
    "hue": tvf.adjust_hue,
    "sharpness": tvf.adjust_sharpness,
    "invert": lambda frames, _: tvf.invert(frames),
    "autocontrast": lambda frames, _: tvf.autocontrast(frames),
}


@pytest.mark.parametrize(("name", "strength"), [op for op in EVERY if op[0] in TORCHVISION])
def test_colours_equal_torchvision_on_floats(name: str, strength: float) -> None:
    frames = pictures()
    by_frame = as_clips(frames).transpose(1, 2)  # torchvision has the channels third from last
    expected = TORCHVISION[name](by_frame, strength).transpose(1, 2)
    assert (changed(name, strength, frames) - expected).abs().max() <= 2e-5


TIMM = {
    "saturation": timm_ops.color,
    "autocontrast": lambda image, _: timm_ops.auto_contrast(image),
    "equalize": lambda image, _: timm_ops.equalize(image),
    "invert": lambda image, _: timm_ops.invert(image),
}
TOLERANCE = {"autocontrast": 1, "brightness": 1, "saturation": 1, "contrast": 2, "sharpness": 2}
"""Levels of 255, where Pillow cuts fractions off; the others are exact."""


@pytest.mark.parametrize(
    ("name", "strength"), [op for op in EVERY if op[0] not in {*MATRICES, "hue"}]
)
def test_colours_equal_pillow_on_bytes(name: str, strength: float) -> None:
    frames = pictures()
    operation = TIMM.get(name) or getattr(timm_ops, name)
    if name in ("solarize_add", "posterize", "solarize"):
        strength = int(strength)
    expected = [operation(Image.fromarray(frame), strength) for clip in frames for frame in clip]
    expected = np.stack([np.asarray(image) for image in expected]).reshape(frames.shape)
    got = as_bytes(changed(name, strength, frames))
    assert np.abs(got.astype(int) - expected).max() <= TOLERANCE.get(name, 0)


TIMM_PLACES = {
    "rotate": timm_ops.rotate,
    "shear_x": timm_ops.shear_x,
    "shear_y": timm_ops.shear_y,
    # Pillow's matrix says where a pixel comes from.
    "translate_x": lambda image, part, **o: timm_ops.translate_x_rel(image, -part, **o),
    "translate_y": lambda image, part, **o: timm_ops.translate_y_rel(image, -part, **o),
}


@pytest.mark.parametrize(("name", "strength"), [op for op in EVERY if op[0] in MATRICES])
def test_places_equal_pillow_where_nothing_is_missing(name: str, strength: float) -> None:
    frames = pictures()

    def moved(frame):
        options = {"resample": Image.Resampling.BILINEAR, "fillcolor": (0, 0, 0)}
        return np.asarray(TIMM_PLACES[name](Image.fromarray(frame), strength, **options))

    expected = np.stack([moved(frame) for clip in frames for frame in clip]).reshape(frames.shape)
    whole = moved(np.full_like(frames[0, 0], 255))[..., 0]
    got = changed(name, strength, frames)
    # Pillow repeats the edge under its outermost half pixel.
    inner = np.asarray(Image.fromarray(whole).resize(whole.shape)) == 255
    inner = inner & np.roll(inner, 2, 0) & np.roll(inner, -2, 0)
    inner = inner & np.roll(inner, 2, 1) & np.roll(inner, -2, 1)
    assert inner.sum() > 300
    assert np.abs(as_bytes(got).astype(int) - expected)[:, :, inner].max() <= 1
    outer = whole == 0
    outer = outer & np.roll(outer, 2, 0) & np.roll(outer, -2, 0)
    outer = outer & np.roll(outer, 2, 1) & np.roll(outer, -2, 1)
    assert outer.sum() >= 4
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1)
    assert torch.allclose(got.movedim(1, 2)[..., torch.from_numpy(outer)], mean, atol=1e-6)


def test_every_operation_is_tested() -> None:
    assert STRENGTHS.keys() == PIXEL_OPERATIONS.keys() | MATRICES.keys()
    assert set(RAND_AUGMENT_OPS) == STRENGTHS.keys() - {"hue"}


@pytest.mark.parametrize(("side", "num_frames"), [(37, 3), (256, 1)])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_clip_is_the_same_alone_as_in_any_batch(
    side: int, num_frames: int, num_threads: int
) -> None:
    # One frame of 256 px is summed up by several threads, if anything is.
    before = torch.get_num_threads()
    draws = [
        drawn(first, second, erase=Erase(Crop(0.1, 0.2, 0.5, 0.4), seed), video_id=seed)
        for seed, (first, second) in enumerate(zip(EVERY, EVERY[7:] + EVERY[:7], strict=True))
    ]
    clips = as_clips(pictures(len(draws), num_frames, side))

    def done(rows: list[int]) -> torch.Tensor:
        chosen = [draws[row] for row in rows]
        return apply_erase(apply_appearance(clips[rows], chosen), chosen)

    try:
        torch.set_num_threads(num_threads)
        alone = [done([row]) for row in range(len(draws))]
        torch.set_num_threads(2)
        order = np.random.default_rng(0).permutation(len(draws)).tolist()
        for row, clip in zip(order, done(order), strict=True):
            assert torch.equal(clip, alone[row][0]), draws[row].appearance
    finally:
        torch.set_num_threads(before)


def test_views_share_the_draw_and_the_clips_given_stay() -> None:
    frames = pictures(4)
    clips = as_clips(frames)
    before = clips.clone()
    one, two = drawn(("hue", 0.2), ("rotate", 9.0)), drawn(("rotate", -9.0))
    by_video = apply_appearance(clips, [one, two])
    assert torch.equal(clips, before)
    assert torch.equal(by_video, apply_appearance(clips, [one, one, two, two]))
    with pytest.raises(ValueError, match="4 clips are no whole number of views of 3 videos"):
        apply_appearance(clips, [one, two, one])


def test_all_frames_of_a_clip_are_treated_alike() -> None:
    still = np.repeat(pictures(1, 1), 5, axis=1)
    operations = [op for op in EVERY if op[0] != "posterize"][::3]
    clip = apply_appearance(as_clips(still), [drawn(*operations)])
    assert torch.equal(clip, clip[:, :, :1].expand_as(clip))


def test_nothing_drawn_is_the_same_tensor() -> None:
    clips = as_clips(pictures())
    draws = [drawn(), drawn()]
    assert apply_erase(apply_appearance(clips, draws), draws) is clips


def test_nothing_waits_for_the_device() -> None:
    # A meta tensor has no values: whatever had to read one on the host would fail.
    clips = torch.empty(len(EVERY), 3, 2, 16, 16, device="meta")
    draws = [drawn(op, erase=Erase(Crop(0, 0, 1, 1), 3)) for op in EVERY]
    out = apply_erase(apply_appearance(clips, draws), draws)
    assert (out.shape, out.device.type) == (clips.shape, "meta")


# What is drawn.


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("rotate", "Rotate"),
        ("posterize", "PosterizeIncreasing"),
        ("solarize", "SolarizeIncreasing"),
        ("solarize_add", "SolarizeAdd"),
        ("saturation", "ColorIncreasing"),
        ("contrast", "ContrastIncreasing"),
        ("brightness", "BrightnessIncreasing"),
        ("sharpness", "SharpnessIncreasing"),
        ("shear_x", "ShearX"),
        ("shear_y", "ShearY"),
        ("translate_x", "TranslateXRel"),
        ("translate_y", "TranslateYRel"),
    ],
)
@pytest.mark.parametrize("magnitude", [0.0, 1.0, 4.999, 7.3, 9.0, 10.0])
def test_strengths_are_timms(ours: str, theirs: str, magnitude: float) -> None:
    assert theirs in timm_ops._RAND_INCREASING_TRANSFORMS
    table = timm_ops.LEVEL_TO_ARG[theirs]
    for sign, random in ((1.0, 0.0), (-1.0, 1.0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(timm_ops.random, "random", lambda random=random: random)
            (expected,) = table(magnitude, {})
        if (ours, magnitude) == ("posterize", 10.0):
            assert expected == 0  # black, and refused by Pillow
            expected = 1
        assert rand_augment_strength(ours, magnitude / 10, sign) == pytest.approx(expected)


def test_the_operations_are_timms() -> None:
    assert len(timm_ops._RAND_INCREASING_TRANSFORMS) == len(RAND_AUGMENT_OPS) == 15


def test_rand_augment_draws_evenly() -> None:
    config = RandAugmentConfig(num_ops=3, magnitude=5, magnitude_std=2, probability=0.5)
    generator = np.random.default_rng(0)
    draws = [draw_rand_augment(config, generator) for _ in range(4000)]
    counts = Counter(name for draw in draws for name, _ in draw)
    assert set(counts) == set(RAND_AUGMENT_OPS)
    assert sum(counts.values()) == pytest.approx(6000, rel=0.03)
    assert all(count == pytest.approx(400, rel=0.2) for count in counts.values())
    angles = np.array([s for draw in draws for name, s in draw if name == "rotate"])
    assert np.abs(angles).max() <= 30
    assert np.abs(angles).mean() == pytest.approx(15, rel=0.1)
    assert np.abs(angles).std() == pytest.approx(6, rel=0.15)
    assert (angles > 0).mean() == pytest.approx(0.5, abs=0.07)
    never = draw_rand_augment(RandAugmentConfig(probability=0), generator)
    always = draw_rand_augment(RandAugmentConfig(num_ops=7, probability=1), generator)
    assert (len(never), len(always)) == (0, 7)


def test_colours_are_drawn_in_range_and_any_order() -> None:
    config = ColourConfig(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1)
    generator = np.random.default_rng(0)
    draws = [draw_colour(config, generator) for _ in range(2000)]
    assert len({tuple(name for name, _ in draw) for draw in draws}) == 24
    ranges = {"brightness": (0.6, 1.4), "contrast": (0, 2.5), "saturation": (0.8, 1.2)}
    for name, (low, high) in {**ranges, "hue": (-0.1, 0.1)}.items():
        values = np.array([dict(draw)[name] for draw in draws])
        assert values.min() >= low
        assert values.max() <= high
        assert values.min() == pytest.approx(low, abs=0.01 * (high - low))
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    grey = ColourConfig(hue=0.1, grayscale_probability=0.25)
    last = [draw_colour(grey, generator)[-1] for _ in range(2000)]
    assert np.mean([op == ("saturation", 0.0) for op in last]) == pytest.approx(0.25, abs=0.03)
    assert draw_colour(ColourConfig(), generator) == ()


def test_rectangles_keep_to_area_and_ratio() -> None:
    config = EraseConfig(probability=0.5, area=(0.1, 0.3), ratio=(0.5, 2.0), mode="noise")
    generator = np.random.default_rng(0)
    draws = [draw_erase(config, generator) for _ in range(2000)]
    boxes = np.array([draw.rectangle[:4] for draw in draws if draw is not None])
    assert len(boxes) == pytest.approx(1000, abs=70)
    top, left, height, width = boxes.T
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1
    assert (height * width).min() == pytest.approx(0.1, abs=0.002)
    assert (height * width).max() == pytest.approx(0.3, abs=0.002)
    assert (height / width).min() == pytest.approx(0.5, abs=0.02)
    assert (height / width).max() == pytest.approx(2.0, abs=0.02)
    seeds = [draw.noise_seed for draw in draws if draw is not None]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**31
    impossible = EraseConfig(probability=1, area=(0.9, 0.9), ratio=(9.0, 9.0))
    assert draw_erase(impossible, generator) is None
    plain = draw_erase(EraseConfig(probability=1), generator)
    assert plain is not None
    assert plain.noise_seed is None


@pytest.mark.parametrize("seed", [None, 5])
def test_a_rectangle_is_erased_in_all_frames_and_no_pixel_beside_it(seed: int | None) -> None:
    clips = as_clips(pictures(2, 4, 20))
    draws = [drawn(erase=Erase(Crop(0.1, 0.25, 0.5, 0.5), seed)), drawn()]
    out = apply_erase(clips, draws)
    inside = torch.zeros(20, 20, dtype=torch.bool)
    inside[2:12, 5:15] = True
    assert torch.equal(out[1], clips[1])
    assert torch.equal(out[0][..., ~inside], clips[0][..., ~inside])
    filled = out[0][..., inside]
    if seed is None:
        assert torch.equal(filled, torch.tensor(IMAGENET_MEAN).view(3, 1, 1).expand_as(filled))
    else:
        assert len(filled.unique()) > 200  # of 1200 values
        assert not torch.equal(filled[:, 0], filled[:, 1])
    # The same share of another size.
    larger = apply_erase(as_clips(pictures(2, 4, 40)), draws)
    same = larger == as_clips(pictures(2, 4, 40))
    assert bool(same[0][..., ~inside.repeat_interleave(2, 0).repeat_interleave(2, 1)].all())


def scrambled(value: int) -> int:
    """A published 32-bit mixer (xorshift and multiply), in Python's unbounded integers."""
    for _ in range(2):
        value = ((value >> 16) ^ value) * 0x45D9F3B % 2**32
    return (value >> 16) ^ value


def test_noise_is_a_hash_of_seed_and_place() -> None:
    side, num_frames = 30, 40
    clips = as_clips(pictures(2, num_frames, side))
    seeds = (2**31 - 1, 0)
    out = apply_erase(clips, [drawn(erase=Erase(Crop(0, 0, 1, 1), seed)) for seed in seeds])
    levels = (out * 255).round().long()
    for row, t, y, x in ((0, 0, 0, 0), (1, 39, 29, 29), (0, 7, 3, 28)):
        bits = scrambled(scrambled(seeds[row]) ^ ((t * side + y) * side + x))
        assert levels[row, :, t, y, x].tolist() == [bits & 255, bits >> 8 & 255, bits >> 16 & 255]
    counts = torch.bincount(levels.flatten(), minlength=256) / levels.numel() * 256
    assert counts.min() > 0.8
    assert counts.max() < 1.2
    flat = levels.double().flatten(3)  # [2,3,T,S*S]
    neighbours = [(flat[:, 0], flat[:, 1]), (flat[:, :, 1:], flat[:, :, :-1]), (flat[0], flat[1])]
    neighbours.append((flat[..., 1:], flat[..., :-1]))
    for a, b in neighbours:
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 0.02


ALL_ON = AugmentConfig.model_validate(
    {
        "colour": {"brightness": 0.4, "hue": 0.1, "grayscale_probability": 0.2},
        "rand_augment": {},
        "erase": {"probability": 1, "mode": "noise"},
    }
)


def test_golden_draw() -> None:
    # Stored runs are replayed and resumed: these numbers must not move.
    draw = with_appearance(Draw(5, (7, 1, 5, 0), {}, ()), ALL_ON)
    assert [name for name, _ in draw.appearance] == ["hue", "brightness", "posterize", "solarize"]
    strengths = [-0.023257754276426734, 1.1971117731677352, 1.0, 27.0]
    assert [s for _, s in draw.appearance] == pytest.approx(strengths, abs=1e-12)
    assert draw.erase is not None
    box = (0.028270610782502942, 0.2823739271193237, 0.9703769689779611, 0.29859793771607673)
    assert draw.erase.rectangle[:4] == pytest.approx(box, abs=1e-12)
    assert draw.erase.noise_seed == 273957348


def test_one_setting_moves_no_other_draw() -> None:
    base = [Draw(i, (7, 1, i, 0), {}, ()) for i in range(30)]
    assert [with_appearance(draw, AugmentConfig()) for draw in base] == base
    everything = [with_appearance(draw, ALL_ON) for draw in base]
    parts = [
        AugmentConfig(colour=ALL_ON.colour),
        AugmentConfig(rand_augment=ALL_ON.rand_augment),
        AugmentConfig(erase=ALL_ON.erase),
    ]
    for draw, whole in zip(base, everything, strict=True):
        colour, places, erase = (with_appearance(draw, part) for part in parts)
        assert whole.appearance == colour.appearance + places.appearance
        assert whole.erase == erase.erase
    assert len({draw.erase for draw in everything}) == 30


numbers = st.floats(allow_nan=False, allow_infinity=False)
ids = st.integers(0, 2**53)
crops = st.builds(Crop, numbers, numbers, numbers, numbers)
draws = st.builds(
    Draw,
    video_id=ids,
    entropy=st.lists(ids, max_size=5).map(tuple),
    frame_ids=st.dictionaries(
        st.sampled_from(["student", "teacher"]),
        st.lists(st.lists(ids, min_size=2, max_size=2), min_size=1, max_size=3).map(
            lambda rows: np.array(rows, dtype=np.int64)
        ),
    ),
    crops=st.lists(crops, max_size=3).map(tuple),
    flip=st.booleans(),
    appearance=st.lists(st.tuples(st.sampled_from(sorted(STRENGTHS)), numbers)).map(tuple),
    erase=st.none() | st.builds(Erase, crops, st.none() | st.integers(0, 2**31 - 1)),
    mix=st.none() | st.builds(Mix, ids, ids, numbers, st.none() | crops),
)


@given(draws)
@settings(max_examples=200)
def test_a_stored_draw_comes_back_to_the_last_bit(draw: Draw) -> None:
    text = draw.to_json()
    assert "\n" not in text
    back = Draw.from_json(text)
    for name in Draw.__dataclass_fields__:
        if name != "frame_ids":
            assert getattr(back, name) == getattr(draw, name)
            assert repr(getattr(back, name)) == repr(getattr(draw, name))
    assert back.frame_ids.keys() == draw.frame_ids.keys()
    for name, frame_ids in draw.frame_ids.items():
        assert back.frame_ids[name].dtype == np.int64
        assert np.array_equal(back.frame_ids[name], frame_ids)
    assert back.to_json() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"video_id": 1}',
        Draw(1, (), {}, ()).to_json()[:-1],
        Draw(1, (), {}, ()).to_json().replace("{}", "[]"),
        Draw(1, (), {}, (), erase=Erase(Crop(0, 0, 1, 1), 1)).to_json().replace("[0, 0,", "["),
        Draw(1, (), {}, ()).to_json().replace('"mix": null', '"mix": [1, 2]'),
    ],
)
def test_what_is_no_stored_draw_is_a_plain_error(text: str) -> None:
    with pytest.raises(UserError, match=r"^not a stored draw: [^\n]+$"):
        Draw.from_json(text)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"colour": {"hue": 0.6}}, "less than or equal to 0.5"),
        ({"colour": {"brightness": -0.1}}, "greater than or equal to 0"),
        ({"colour": {"color": 1}}, "Extra inputs"),
        ({"rand_augment": {"magnitude": 11}}, "less than or equal to 10"),
        ({"rand_augment": {"num_ops": 0}}, "greater than or equal to 1"),
        ({"erase": {"area": (0.3, 0.1)}}, "0 < low <= high < 1"),
        ({"erase": {"area": (0.3, 1.0)}}, "0 < low <= high < 1"),
        ({"erase": {"ratio": (0.0, 1.0)}}, "0 < low <= high"),
        ({"erase": {"mode": "pixel"}}, "'constant' or 'noise'"),
    ],
)
def test_settings_that_cannot_be(given: dict, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        AugmentConfig.model_validate(given)


def test_settings_and_draws_need_no_torch() -> None:
    code = "import sys, videokd.data.augment\nassert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
