from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from timm.data import mixup as timm_mixup

from videokd.data.augment import (
    AugmentConfig,
    MixConfig,
    apply_appearance,
    apply_erase,
    apply_mix,
    check_mixing,
    draw_mix,
    partner_position,
    with_appearance,
    with_partners,
)
from videokd.data.augment.device import augmented_clips, mixed_targets
from videokd.data.loading.clips import clip_tensor
from videokd.distill.losses.logits import cross_entropy
from videokd.errors import ConfigError
from videokd.types import ClipBatch, Crop, Draw, Mix

SIDE, NUM_CLASSES = 24, 4
BOTH = MixConfig(mixup_alpha=0.8, cutmix_alpha=1.0)
EVERYTHING = AugmentConfig.model_validate(
    {
        "colour": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        "rand_augment": {"num_ops": 3, "probability": 0.8},
        "erase": {"probability": 0.5, "mode": "noise"},
        "mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "probability": 0.8},
    }
)


def plain_draw(video_id: int, repeat: int = 0) -> Draw:
    return Draw(video_id, (7, 1, video_id, repeat), {}, ())


def batch_of_draws(draws: list[Draw], *, views: int = 1, side: int = SIDE) -> ClipBatch:
    """Each clip's pixels and label depend on its video and repeat alone."""
    frames = []
    for draw in draws:
        generator = np.random.default_rng(draw.entropy)
        frames.append(generator.integers(0, 256, (views, 3, side, side, 3), dtype=np.uint8))
    labels = torch.tensor([draw.video_id % NUM_CLASSES for draw in draws])
    return ClipBatch(
        frames={"student": torch.from_numpy(np.stack(frames))},
        frame_seconds={"student": torch.zeros(len(draws), views, 3)},
        targets=torch.nn.functional.one_hot(labels, NUM_CLASSES).float(),
        has_label=torch.ones(len(draws), dtype=torch.bool),
        video_ids=torch.tensor([draw.video_id for draw in draws]),
        draws=draws,
    )


def everything(video_ids: list[int], repeats: int = 1) -> list[Draw]:
    draws = [
        with_appearance(plain_draw(i, repeat), EVERYTHING)
        for i in video_ids
        for repeat in range(repeats)
    ]
    return with_partners(draws, video_ids, EVERYTHING.mix, crop_px=SIDE)


# Who is mixed with whom.


@given(st.integers(1, 6), st.integers(1, 8))
def test_pairs_are_mutual_and_the_same_for_any_number_of_ranks(half: int, ranks: int) -> None:
    local = 2 * half
    positions = range(local * ranks)
    pairs = [partner_position(p, local * ranks) for p in positions]
    assert [pairs[other] for other in pairs] == list(positions)
    assert all(other != p for p, other in enumerate(pairs))
    for rank in range(ranks):
        mine = list(positions)[rank::ranks]
        assert [mine[partner_position(p, local)] for p in range(local)] == [pairs[p] for p in mine]


def test_clip_k_is_mixed_with_clip_k_of_the_other_video() -> None:
    ids = [11, 4, 9, 30]
    for draw in everything(ids, repeats=3):
        if draw.mix is not None:
            other = ids[(ids.index(draw.video_id) + 2) % 4]
            assert (draw.mix.partner_id, draw.mix.partner_repeat) == (other, draw.repeat)


def test_what_is_drawn_does_not_depend_on_the_ranks() -> None:
    ids = list(range(40, 52))
    whole = {draw.video_id: draw for draw in everything(ids)}
    for ranks in (2, 3):
        for rank in range(ranks):
            for draw in everything(ids[rank::ranks]):
                assert draw == whole[draw.video_id]


def test_a_partner_that_did_not_decode_leaves_the_clip_as_it_is() -> None:
    ids = [1, 2, 3, 4, 5, 6]
    always = MixConfig(mixup_alpha=1.0)
    whole = with_partners([plain_draw(i) for i in ids], ids, always, crop_px=SIDE)
    kept = with_partners([plain_draw(i) for i in ids if i != 5], ids, always, crop_px=SIDE)
    assert [draw.mix is None for draw in whole] == [False] * 6
    assert {draw.video_id for draw in kept if draw.mix is None} == {2}
    assert [draw for draw in kept if draw.video_id != 2] == [
        draw for draw in whole if draw.video_id not in (2, 5)
    ]
    batch = batch_of_draws(kept)
    row = [draw.video_id for draw in kept].index(2)
    targets, has_label = mixed_targets(batch)
    assert torch.equal(targets[row], batch.targets[row])
    assert has_label.all()
    assert torch.equal(
        augmented_clips(batch, "student")[row], clip_tensor(batch.frames["student"])[row]
    )


def test_mixing_moves_no_other_draw() -> None:
    ids = [1, 2, 3, 4]
    draws = [with_appearance(plain_draw(i), EVERYTHING) for i in ids]
    mixed = with_partners(draws, ids, BOTH, crop_px=SIDE)
    assert [replace(draw, mix=None) for draw in mixed] == draws
    assert with_partners(draws, ids, MixConfig(), crop_px=SIDE) == draws


def test_an_odd_number_of_videos_is_refused() -> None:
    check_mixing(BOTH, num_videos=4)
    check_mixing(MixConfig(), num_videos=3)
    check_mixing(MixConfig(mixup_alpha=1.0, probability=0.0), num_videos=3)
    with pytest.raises(ConfigError, match=r"mix: each process has 3 videos a batch.* even number"):
        check_mixing(BOTH, num_videos=3)


# What is drawn.


def drawn(config: MixConfig, count: int, crop_px: int = 224) -> list[Mix | None]:
    generator = np.random.default_rng(0)
    partner = plain_draw(3)
    return [draw_mix(config, generator, partner=partner, crop_px=crop_px) for _ in range(count)]


def test_weights_of_mixup_are_beta() -> None:
    mixes = drawn(MixConfig(mixup_alpha=0.4, probability=0.75), 4000)
    weights = np.array([mix.own_weight for mix in mixes if mix is not None])
    assert len(weights) == pytest.approx(3000, abs=110)
    assert all(mix.box is None for mix in mixes if mix is not None)
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.var() == pytest.approx(0.25 / (2 * 0.4 + 1), rel=0.05)  # of Beta(a, a)


def test_the_share_of_cutmix() -> None:
    config = MixConfig(mixup_alpha=1.0, cutmix_alpha=1.0, switch_probability=0.3)
    mixes = drawn(config, 3000)
    assert np.mean([m is not None and m.box is not None for m in mixes]) == pytest.approx(
        0.3, abs=0.03
    )
    only = drawn(MixConfig(cutmix_alpha=1.0, switch_probability=0.0), 200)
    assert all(mix is None or mix.box is not None for mix in only)


def test_cutmix_rectangles_are_distributed_as_timms() -> None:
    side = 32
    mixes = [m for m in drawn(MixConfig(cutmix_alpha=1.0), 6000, side) if m is not None]
    ours = np.array([m.box[:4] for m in mixes if m.box is not None]) * side
    assert np.array_equal(ours, ours.round())
    np.random.seed(0)
    theirs = []
    for lam in np.random.beta(1.0, 1.0, 6000):
        (yl, yh, xl, xh), weight = timm_mixup.cutmix_bbox_and_lam((side, side), lam)
        if weight < 1:
            theirs.append((yl, xl, yh - yl, xh - xl))
    assert len(ours) == pytest.approx(len(theirs), rel=0.01)
    for quantile in (0.1, 0.3, 0.5, 0.7, 0.9):
        expected = np.quantile(np.array(theirs), quantile, axis=0)
        assert np.abs(np.quantile(ours, quantile, axis=0) - expected).max() <= 1.5


def test_the_weight_is_the_area_that_is_left_in_fact() -> None:
    partner = plain_draw(1)
    config = MixConfig(cutmix_alpha=0.7)
    generator = np.random.default_rng(1)
    clips = torch.stack([torch.zeros(3, 2, SIDE, SIDE), torch.ones(3, 2, SIDE, SIDE)])
    for _ in range(50):
        mix = draw_mix(config, generator, partner=partner, crop_px=SIDE)
        if mix is None:
            continue
        mixed = apply_mix(clips, [replace(plain_draw(0), mix=mix), partner])
        own_pixels = (mixed[0, 0, 0] == 0).sum().item()
        assert mix.own_weight == pytest.approx(own_pixels / SIDE**2, abs=1e-12)
        assert torch.equal(mixed[0, :, 1], mixed[0, :, 0])
        assert torch.equal(mixed[1], clips[1])


# What comes of it.


def test_mixup_and_cutmix_pixel_for_pixel() -> None:
    box = Crop(0.25, 0.5, 0.5, 0.25)
    draws = [
        replace(plain_draw(0), mix=Mix(2, 0, 0.25, None)),
        replace(plain_draw(1), mix=Mix(3, 0, 0.875, box)),
        replace(plain_draw(2), mix=Mix(0, 0, 0.75, None)),
        plain_draw(3),
    ]
    batch = batch_of_draws(draws, views=2)
    clips = clip_tensor(batch.frames["student"])
    videos = clips.unflatten(0, (4, 2))
    mixed = augmented_clips(batch, "student").unflatten(0, (4, 2))
    assert torch.equal(mixed[0], videos[0] * 0.25 + videos[2] * 0.75)
    assert torch.equal(mixed[2], videos[2] * 0.75 + videos[0] * 0.25)
    expected = videos[1].clone()
    expected[..., 6:18, 12:18] = videos[3][..., 6:18, 12:18]
    assert torch.equal(mixed[1], expected)
    assert torch.equal(mixed[3], videos[3])
    targets, has_label = mixed_targets(batch)
    assert targets.tolist() == [
        [0.25, 0, 0.75, 0],
        [0, 0.875, 0, 0.125],
        [0.25, 0, 0.75, 0],
        [0, 0, 0, 1],
    ]
    assert has_label.all()


def test_a_rectangle_fits_renderings_of_all_sizes() -> None:
    mix = Mix(1, 0, 0.5, Crop(0.0, 0.5, 1.0, 0.5))
    draws = [replace(plain_draw(0), mix=mix), plain_draw(1)]
    for side in (8, 31):
        batch = batch_of_draws(draws, side=side)
        clips, mixed = clip_tensor(batch.frames["student"]), augmented_clips(batch, "student")
        edge = (side + 1) // 2
        assert torch.equal(mixed[0][..., :edge], clips[0][..., :edge])
        assert torch.equal(mixed[0][..., edge:], clips[1][..., edge:])


def test_a_clip_mixed_with_an_unlabelled_one_has_no_label() -> None:
    draws = [
        replace(plain_draw(0), mix=Mix(2, 0, 0.5, None)),
        replace(plain_draw(1), mix=Mix(3, 0, 0.5, None)),
        replace(plain_draw(2), mix=Mix(0, 0, 0.5, None)),
        plain_draw(3),
    ]
    batch = batch_of_draws(draws)
    batch.has_label[2] = False
    batch.targets[2] = 0
    _, has_label = mixed_targets(batch)
    assert has_label.tolist() == [False, True, False, True]
    assert batch.has_label.tolist() == [True, True, False, True]


def test_the_label_loss_takes_mixed_targets() -> None:
    batch = batch_of_draws(everything(list(range(10))))
    targets, _ = mixed_targets(batch)
    assert ((targets > 0).sum(1) == 2).any()
    assert targets.sum(1).tolist() == pytest.approx([1.0] * 10)
    logits = torch.randn(10, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    expected = -(targets * logits.log_softmax(1)).sum(1)
    assert torch.allclose(cross_entropy(logits, targets), expected, atol=1e-6)


# All of it together.


@pytest.mark.parametrize("views", [1, 2])
def test_the_order_is_appearance_erasing_mixing(views: int) -> None:
    draws = everything(list(range(12)))
    kinds = [(bool(d.appearance), d.erase is not None, d.mix is not None) for d in draws]
    assert (True, True, True) in kinds
    batch = batch_of_draws(draws, views=views)
    clips = clip_tensor(batch.frames["student"])
    expected = apply_mix(apply_erase(apply_appearance(clips, draws), draws), draws)
    got = augmented_clips(batch, "student")
    assert torch.equal(got, expected)
    assert (got.min() >= 0, got.max() <= 1) == (True, True)
    assert not torch.equal(got, clips)


def test_a_stored_draw_gives_the_same_pixels() -> None:
    draws = everything(list(range(8)), repeats=2)
    again = [Draw.from_json(draw.to_json()) for draw in draws]
    one, two = batch_of_draws(draws), batch_of_draws(again)
    assert torch.equal(augmented_clips(one, "student"), augmented_clips(two, "student"))
    assert torch.equal(mixed_targets(one)[0], mixed_targets(two)[0])


@pytest.mark.parametrize("views", [1, 3])
def test_parts_of_a_batch_are_the_batch(views: int) -> None:
    batch = batch_of_draws(everything(list(range(10))), views=views)
    whole = augmented_clips(batch, "student")
    for bounds in ((0, 5, 10), (0, 3, 7, 10), (0, 1, 10)):
        parts = [augmented_clips(batch, "student", videos=range(a, b)) for a, b in pairwise(bounds)]
        assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(ValueError, match=r"video 0 is mixed with \(5, 0\), not in this batch"):
        augmented_clips(batch.split(2)[0], "student")


def test_the_order_of_a_batch_does_not_matter() -> None:
    draws = everything(list(range(10)))
    order = np.random.default_rng(0).permutation(10).tolist()
    whole = augmented_clips(batch_of_draws(draws), "student")
    shuffled = augmented_clips(batch_of_draws([draws[row] for row in order]), "student")
    assert torch.equal(shuffled, whole[order])


@pytest.mark.parametrize("with_draws", [True, False])
def test_nothing_drawn_is_the_plain_batch(with_draws: bool) -> None:
    draws = [with_appearance(plain_draw(i), AugmentConfig()) for i in range(4)]
    batch = batch_of_draws(draws, views=2)
    batch = batch if with_draws else replace(batch, draws=[])
    clips = clip_tensor(batch.frames["student"])
    assert torch.equal(augmented_clips(batch, "student"), clips)
    assert torch.equal(augmented_clips(batch, "student", videos=range(1, 3)), clips[2:6])
    targets, has_label = mixed_targets(batch)
    assert targets is batch.targets
    assert has_label is batch.has_label


def test_nothing_waits_for_the_device() -> None:
    batch = batch_of_draws(everything(list(range(10)))).to("meta")
    assert augmented_clips(batch, "student", videos=range(3)).device.type == "meta"
    assert mixed_targets(batch)[0].device.type == "meta"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"mixup_alpha": -1}, "greater than or equal to 0"),
        ({"probability": 1.1}, "less than or equal to 1"),
        ({"smoothing": 0.1}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be(given: dict, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        AugmentConfig.model_validate({"mix": given})
