from __future__ import annotations

import distill_reference as reference
import numpy as np
import pytest
import torch
from torch import nn

from videokd.distill.losses import Networks, Outputs
from videokd.distill.losses.review import Fusion, Review, hierarchical_context
from videokd.distill.projections import term_generator
from videokd.distill.terms import ReviewTerm, TapPair
from videokd.errors import ConfigError
from videokd.types import ModelOutput, TapOutput, TapShape

PAIRS = tuple(
    TapPair(student_tap=f"s{level}", teacher_tap=f"t{level}") for level in ("low", "mid", "high")
)
# From shallow to deep: images of equal grids, and clips that differ in everything.
IMAGES = (
    {
        "slow": TapShape(3, 1, 8, 8),
        "smid": TapShape(4, 1, 5, 5),
        "shigh": TapShape(5, 1, 2, 2),
    },
    {
        "tlow": TapShape(4, 1, 8, 8),
        "tmid": TapShape(6, 1, 5, 5),
        "thigh": TapShape(7, 1, 2, 2),
    },
)
CLIPS = (
    {
        "slow": TapShape(2, 4, 6, 3),
        "smid": TapShape(3, 4, 3, 3),
        "shigh": TapShape(2, 2, 2, 1),
    },
    {
        "tlow": TapShape(3, 3, 5, 5),
        "tmid": TapShape(2, 6, 4, 2),
        "thigh": TapShape(4, 1, 2, 2),
    },
)


def review_of(shapes: tuple[dict, dict], pairs: tuple[TapPair, ...] = PAIRS) -> Review:
    networks = Networks(
        student_taps=shapes[0],
        teacher_taps=shapes[1],
        student_pooled_dim=7,
        teacher_pooled_dim=7,
        num_classes=5,
        num_videos=6,
    )
    return Review(
        "review", ReviewTerm(pairs=pairs), networks, generator=term_generator(0, "review")
    )


def outputs_of(student: ModelOutput, teacher: ModelOutput) -> Outputs:
    num_clips = len(student.logits)
    return Outputs(
        student=student,
        teacher=teacher,
        targets=torch.zeros(num_clips, 5),
        has_label=torch.ones(num_clips, dtype=torch.bool),
        video_ids=torch.arange(num_clips),
        progress=0.0,
    )


def random_outputs(shapes: tuple[dict, dict], num_clips: int = 4) -> Outputs:
    return outputs_of(
        reference.random_output(num_clips, 5, seed=0, **shapes[0]),
        reference.random_output(num_clips, 5, seed=50, **shapes[1]),
    )


# --- the hierarchical context loss


def context_by_hand(ours: np.ndarray, wanted: np.ndarray) -> float:
    """One clip, [t, C, h, w] each."""
    height, width = ours.shape[2:]
    sizes = [(height, width)]
    for cells in (4, 2, 1):
        size = (min(cells, height), min(cells, width))
        if size not in sizes:
            sizes.append(size)
    total = 0.0
    for level, size in enumerate(sizes):
        pooled = (
            np.array([[reference.pool(plane, size) for plane in step] for step in side])
            for side in (ours, wanted)
        )
        total += np.mean(np.subtract(*pooled) ** 2) / 2**level
    return total / sum(1 / 2**level for level in range(len(sizes)))


@pytest.mark.parametrize("size", [(7, 7), (4, 4), (5, 3), (8, 1), (2, 2), (1, 1)])
def test_hierarchical_context_is_the_formula_in_value_and_gradient(size):
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 2, 2, 3, *size))

    def by_hand(features: np.ndarray) -> list[float]:
        return [
            context_by_hand(ours.swapaxes(0, 1), wanted.swapaxes(0, 1))
            for ours, wanted in zip(features, teacher, strict=True)
        ]

    values, gradient = reference.value_and_gradient(
        lambda f: hierarchical_context(f, torch.tensor(teacher)), student
    )

    np.testing.assert_allclose(values, by_hand(student), rtol=1e-10)
    direction = generator.normal(size=student.shape)
    slope = sum(by_hand(student + 1e-5 * direction)) - sum(by_hand(student - 1e-5 * direction))
    np.testing.assert_allclose((gradient * direction).sum(), slope / 2e-5, rtol=1e-7)


@pytest.mark.parametrize("side", [14, 7, 4, 3, 2, 1])
def test_hierarchical_context_of_images_is_torchdistills_in_value_and_gradient(side):
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    loss = mid_level.HierarchicalContextLoss("layer", "output", "layer", "output")
    x, y = torch.randn(3, 4, side, side, requires_grad=True), torch.randn(3, 4, side, side)
    theirs = loss({"layer": {"output": (x, None)}}, {"layer": {"output": y}})
    (wanted,) = reference.gradients(theirs, x)

    ours = hierarchical_context(x[:, :, None], y[:, :, None]).mean()

    assert reference.relative_error(ours, theirs) < 1e-5
    (gradient,) = reference.gradients(ours, x)
    assert reference.relative_error(gradient, wanted) < 1e-5


def test_hierarchical_context_of_equal_maps_is_nothing():
    features = torch.randn(2, 3, 4, 7, 7, requires_grad=True)

    losses = hierarchical_context(features, features.detach())

    assert losses.tolist() == [0, 0]
    (gradient,) = reference.gradients(losses.sum(), features)
    assert not gradient.any()


def test_an_error_that_averages_out_over_time_is_not_forgiven():
    late, soon = torch.zeros(1, 1, 2, 4, 4), torch.zeros(1, 1, 2, 4, 4)
    late[:, :, 1] = 1
    soon[:, :, 0] = 1

    assert hierarchical_context(late, soon).item() == pytest.approx(1)


# --- fusion and the whole


def test_review_of_images_is_torchdistills_pyramid_in_value_and_gradients():
    wrapper = pytest.importorskip("torchdistill.models.wrapper")
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    review, outputs = review_of(IMAGES), random_outputs(IMAGES)
    inputs = {n: tap.features[:, :, 0] for n, tap in outputs.student.taps.items()}
    for tensor in inputs.values():
        tensor.requires_grad_()
    outputs.student.taps = {n: reference.one_step(images) for n, images in inputs.items()}

    theirs, their_weights = torch.zeros(()), []
    deeper = None
    for pair, level in reversed(list(zip(PAIRS, review.levels, strict=True))):
        given, wanted = IMAGES[0][pair.student_tap], IMAGES[1][pair.teacher_tap]
        fusion = wrapper.AttentionBasedFusion(
            given.channels, 5, wanted.channels, uses_attention=deeper is not None
        )
        copy_weights(level, fusion)
        out, deeper = fusion(inputs[pair.student_tap], deeper, given.h)
        loss = mid_level.HierarchicalContextLoss("x", "output", "x", "output")
        target = outputs.wanted.taps[pair.teacher_tap].features[:, :, 0]
        theirs = theirs + loss({"x": {"output": (out, None)}}, {"x": {"output": target}})
        their_weights += list(fusion.parameters())

    ours = review(outputs).mean()

    assert reference.relative_error(ours, theirs) < 1e-5
    our_weights = [p for level in reversed(review.levels) for p in in_their_order(level).values()]
    for gradient, wanted in zip(
        reference.gradients(ours, *inputs.values(), *our_weights),
        reference.gradients(theirs, *inputs.values(), *their_weights),
        strict=True,
    ):
        assert reference.relative_error(gradient.squeeze(), wanted.squeeze()) < 1e-5


def in_their_order(level: Fusion) -> dict[str, nn.Parameter]:
    parts = {"conv1": level.enter, "conv2": level.leave}
    if level.attention is not None:
        parts["attention_conv.0"] = level.attention
    return {f"{n}.{k}": p for n, part in parts.items() for k, p in part.named_parameters()}


def copy_weights(level: Fusion, fusion: nn.Module) -> None:
    theirs = dict(fusion.named_parameters())
    ours = in_their_order(level)
    assert list(ours) == list(theirs)
    with torch.no_grad():
        for name, weight in ours.items():
            theirs[name].copy_(weight[:, :, 0] if weight.ndim == 5 else weight)


def review_by_hand(review: Review, taps: dict[str, np.ndarray], outputs: Outputs) -> list[float]:
    """The pyramid in numpy, on unequal channels, steps and cells; `taps` are [N, C, t, h, w]."""
    weights = {name: p.detach().numpy() for name, p in review.named_parameters()}
    losses = np.zeros(len(outputs.student.logits))
    deeper = deeper_seconds = None
    for position in (2, 1, 0):
        pair, key = PAIRS[position], f"levels.{position}"
        seconds = outputs.student.taps[pair.student_tap].step_seconds.numpy()
        fused = normed(
            np.einsum(
                "oc,ncthw->nothw",
                weights[f"{key}.enter.0.weight"][:, :, 0, 0, 0],
                taps[pair.student_tap],
            )
        )
        if deeper is not None:
            read = nearest(in_time(deeper, deeper_seconds, seconds), fused.shape[3:])
            both = np.concatenate([fused, read], axis=1)
            attention = (
                np.einsum(
                    "oc,ncthw->nothw", weights[f"{key}.attention.weight"][:, :, 0, 0, 0], both
                )
                + weights[f"{key}.attention.bias"][None, :, None, None, None]
            )
            shares = 1 / (1 + np.exp(-attention))
            fused = fused * shares[:, :1] + read * shares[:, 1:]
        deeper, deeper_seconds = fused, seconds
        teacher = outputs.wanted.taps[pair.teacher_tap]
        on_grid = [
            reference.on_one_grid(
                ours.swapaxes(0, 1), theirs.swapaxes(0, 1), ours_when, theirs_when
            )
            for ours, theirs, ours_when, theirs_when in zip(
                fused, teacher.features.numpy(), seconds, teacher.step_seconds.numpy(), strict=True
            )
        ]
        given = np.stack([ours.swapaxes(0, 1) for ours, _ in on_grid])
        left = normed(conv3x3(given, weights[f"{key}.leave.0.weight"][:, :, 0]))
        losses += [
            context_by_hand(ours.swapaxes(0, 1), wanted)
            for ours, (_, wanted) in zip(left, on_grid, strict=True)
        ]
    return list(losses)


def normed(features: np.ndarray) -> np.ndarray:
    """Batch norm with its first weights."""
    axes = (0, 2, 3, 4)
    centred = features - features.mean(axis=axes, keepdims=True)
    return centred / np.sqrt(features.var(axis=axes, keepdims=True) + 1e-5)


def in_time(features: np.ndarray, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            reference.interpolate(clip.swapaxes(0, 1), *when).swapaxes(0, 1)
            for clip, *when in zip(features, known, wanted, strict=True)
        ]
    )


def nearest(features: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = np.arange(size[0]) * features.shape[3] // size[0]
    cells = np.arange(size[1]) * features.shape[4] // size[1]
    return features[:, :, :, rows][..., cells]


def conv3x3(features: np.ndarray, weight: np.ndarray) -> np.ndarray:
    padded = np.pad(features, [(0, 0)] * 3 + [(1, 1)] * 2)
    height, width = features.shape[3:]
    return sum(
        np.einsum(
            "oc,ncthw->nothw", weight[:, :, y, x], padded[:, :, :, y : y + height, x : x + width]
        )
        for y in range(3)
        for x in range(3)
    )


def test_review_of_unequal_clips_is_the_formula_in_value_and_gradient():
    outputs, review = random_outputs(CLIPS, num_clips=3), review_of(CLIPS).double()
    for side in (outputs.student, outputs.wanted):
        side.taps = {n: TapOutput(f.double(), s.double()) for n, (f, s) in side.taps.items()}
        side.logits = side.logits.double()
    taps = {n: tap.features.numpy().copy() for n, tap in outputs.student.taps.items()}
    leaves = [tap.features.requires_grad_() for tap in outputs.student.taps.values()]

    values = review(outputs)

    np.testing.assert_allclose(values.detach(), review_by_hand(review, taps, outputs), rtol=1e-10)
    gradients = reference.gradients(values.sum(), *leaves)
    generator = np.random.default_rng(1)
    for _ in range(4):
        direction = {n: generator.normal(size=f.shape) for n, f in taps.items()}
        ahead, behind = (
            sum(
                review_by_hand(
                    review, {n: f + step * direction[n] for n, f in taps.items()}, outputs
                )
            )
            for step in (1e-5, -1e-5)
        )
        slope = sum(
            (gradient.numpy() * direction[n]).sum()
            for n, gradient in zip(taps, gradients, strict=True)
        )
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-6)


def test_review_in_float32_is_the_formula_in_float64():
    outputs, review = random_outputs(CLIPS), review_of(CLIPS)
    exact = review_by_hand(
        review,
        {n: tap.features.double().numpy() for n, tap in outputs.student.taps.items()},
        outputs,
    )

    assert reference.relative_error(review(outputs), np.array(exact)) < 1e-5


def test_gradients_of_review_in_float32_are_those_in_float64():
    found = []
    for dtype in (torch.float32, torch.float64):
        outputs, review = random_outputs(CLIPS), review_of(CLIPS).to(dtype)
        for side in (outputs.student, outputs.wanted):
            side.taps = {n: TapOutput(f.to(dtype), s.to(dtype)) for n, (f, s) in side.taps.items()}
            side.logits = side.logits.to(dtype)
        leaves = [tap.features.requires_grad_() for tap in outputs.student.taps.values()]
        found.append(reference.gradients(review(outputs).sum(), *leaves, *review.parameters()))

    for gradient, exact in zip(*found, strict=True):
        assert reference.relative_error(gradient, exact) < 1e-5


def test_every_level_and_every_part_learns():
    outputs, review = random_outputs(CLIPS), review_of(CLIPS)
    features = [tap.features.requires_grad_() for tap in outputs.student.taps.values()]

    review(outputs).sum().backward()

    assert all(parameter.grad.any() for parameter in review.parameters())
    assert all(tensor.grad.any() for tensor in features)


def test_first_weights_are_those_of_the_authors_from_the_generator_alone():
    before = torch.get_rng_state()
    first, again = review_of(CLIPS), review_of(CLIPS)

    assert torch.equal(torch.get_rng_state(), before)
    for (name, weight), other in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, other), name
    wide = Fusion(64, 32, 128, is_deepest=False, generator=torch.Generator().manual_seed(0))
    for weight, fan_in in ((wide.enter[0].weight, 64), (wide.leave[0].weight, 32 * 9)):
        bound = (3 / fan_in) ** 0.5  # kaiming_uniform with a = 1
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert wide.attention.weight.abs().max() <= 1 / 64**0.5  # torch's own
    assert wide.attention.bias.abs().max() <= 1 / 64**0.5


def test_the_deepest_level_has_no_attention_and_sets_the_common_channels():
    review = review_of(CLIPS)

    assert [level.attention is None for level in review.levels] == [False, False, True]
    assert [level.enter[0].out_channels for level in review.levels] == [2, 2, 2]
    assert [level.leave[0].out_channels for level in review.levels] == [3, 2, 4]


def test_common_channels_are_at_most_512():
    shapes = {"a": TapShape(8, 1, 2, 2), "b": TapShape(600, 1, 1, 1)}
    pairs = tuple(TapPair(student_tap=tap, teacher_tap=tap) for tap in "ab")

    review = review_of((shapes, shapes), pairs)

    assert [level.enter[0].out_channels for level in review.levels] == [512, 512]


def test_pairs_from_deep_to_shallow_are_refused():
    message = (
        r"objective\.terms\.review\.pairs: 'smid' has 9 cells a step and 'shigh' before it 2; "
        "list the pairs from shallow to deep"
    )
    with pytest.raises(ConfigError, match=message):
        review_of(CLIPS, tuple(reversed(PAIRS)))
    crossed = (PAIRS[0], TapPair(student_tap="smid", teacher_tap="thigh"),
               TapPair(student_tap="shigh", teacher_tap="tmid"))  # fmt: skip
    with pytest.raises(ConfigError, match=r"'tmid' has 25 cells a step and 'thigh' before it 4"):
        review_of(IMAGES, crossed)
