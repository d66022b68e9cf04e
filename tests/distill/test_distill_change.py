"""Temporal relation, temporal difference and token relation."""

from __future__ import annotations

from functools import partial

import distill_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.distill.losses.temporal import (
    temporal_difference,
    temporal_relation,
    token_relation,
)
from videokd.types import TapOutput

# They differ in channels, steps, seconds, height (teacher finer) and width (student finer).
STUDENT = reference.random_tap((2, 3, 4, 2, 3), seed=0)
TEACHER = reference.random_tap((2, 4, 6, 3, 2), seed=1)
MIXING = np.random.default_rng(2).normal(size=(4, 3))


def project(features: torch.Tensor) -> torch.Tensor:
    mixing = torch.tensor(MIXING, dtype=features.dtype)
    return torch.einsum("oc,ncthw->nothw", mixing, features)


def as_it_is(features: torch.Tensor) -> torch.Tensor:
    return features


def on_one_grid(features: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Clip n of both sides, [t, C, h, w]."""
    return reference.on_one_grid(
        features[n].swapaxes(0, 1),
        TEACHER.features[n].numpy().swapaxes(0, 1),
        STUDENT.step_seconds[n].numpy(),
        TEACHER.step_seconds[n].numpy(),
    )


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left.ravel(), right.ravel()
    return float(left @ right / np.sqrt(left @ left) / np.sqrt(right @ right))


def relation_by_hand(features: np.ndarray, descriptor: str) -> list[float]:
    losses = []
    for n in range(len(features)):
        given, wanted = on_one_grid(features, n)
        if descriptor == "pooled":
            given = features[n].swapaxes(0, 1).mean(axis=(2, 3))
            wanted = reference.interpolate(
                TEACHER.features[n].numpy().swapaxes(0, 1).mean(axis=(2, 3)),
                TEACHER.step_seconds[n].numpy(),
                STUDENT.step_seconds[n].numpy(),
            )
        steps = range(len(given))
        squares = [
            (cosine(given[i], given[j]) - cosine(wanted[i], wanted[j])) ** 2
            for i in steps
            for j in steps
            if i != j
        ]
        losses.append(sum(squares) / len(squares))
    return losses


def difference_by_hand(features: np.ndarray, descriptor: str) -> list[float]:
    losses = []
    for n in range(len(features)):
        given, wanted = on_one_grid(features, n)
        if descriptor == "pooled":
            given = features[n].swapaxes(0, 1).mean(axis=(2, 3), keepdims=True)
            wanted = reference.interpolate(
                TEACHER.features[n].numpy().swapaxes(0, 1).mean(axis=(2, 3), keepdims=True),
                TEACHER.step_seconds[n].numpy(),
                STUDENT.step_seconds[n].numpy(),
            )
        given = np.einsum("oc,tchw->tohw", MIXING, given)
        seconds = STUDENT.step_seconds[n].numpy()
        changes = [
            np.stack(
                [
                    (side[k + 1] - side[k]) / (seconds[k + 1] - seconds[k])
                    for k in range(len(side) - 1)
                ]
            )
            for side in (given, wanted)
        ]
        losses.append(2 - 2 * cosine(*changes))
    return losses


def token_by_hand(
    features: np.ndarray, pairs: str, margin: float, max_side_cells: int
) -> list[float]:
    losses = []
    for n in range(len(features)):
        sides = on_one_grid(features, n)
        size = tuple(min(side, max_side_cells) for side in sides[0].shape[2:])
        cells = [
            [
                (t, cell / np.sqrt(cell @ cell))
                for t, step in enumerate(side)
                for cell in np.stack([reference.pool(plane, size).ravel() for plane in step]).T
            ]
            for side in sides
        ]
        costs = []
        for (t, a), (_, b) in zip(*cells, strict=True):
            for (u, c), (_, d) in zip(*cells, strict=True):
                if pairs == "all" or (pairs == "spatial") == (t == u):
                    costs.append(max(0.0, abs(a @ c - b @ d) - margin))
        losses.append(sum(costs) / len(costs))
    return losses


RELATIONS = [
    (
        partial(temporal_relation, descriptor=descriptor),
        partial(relation_by_hand, descriptor=descriptor),
    )
    for descriptor in ("pooled", "cells")
]
DIFFERENCES = [
    (
        partial(temporal_difference, projection=project, descriptor=descriptor),
        partial(difference_by_hand, descriptor=descriptor),
    )
    for descriptor in ("pooled", "cells")
]
TOKENS = [
    (
        partial(token_relation, pairs=pairs, margin=margin, max_side_cells=cells),
        partial(token_by_hand, pairs=pairs, margin=margin, max_side_cells=cells),
    )
    for pairs, margin, cells in [
        ("all", 0.1, 7),
        ("temporal", 0.1, 7),
        ("temporal", 0.3, 1),
        ("spatial", 0.1, 7),
        ("all", 0.0, 1),
    ]
]
ALL = RELATIONS + DIFFERENCES + TOKENS


@pytest.mark.parametrize(("loss", "by_hand"), ALL)
def test_it_is_the_formula_in_value_and_gradient(loss, by_hand):
    values, gradient = reference.value_and_gradient(
        lambda f: loss(STUDENT._replace(features=f), TEACHER), STUDENT.features.numpy()
    )

    np.testing.assert_allclose(values, by_hand(STUDENT.features.numpy()), rtol=1e-10)
    assert (values > 1e-3).all()
    first = STUDENT.features[:1].numpy()  # clips do not see each other: one will do
    numeric = reference.numeric_gradient(lambda f: sum(by_hand(f)), first)
    np.testing.assert_allclose(gradient[:1], numeric, atol=1e-8)


@pytest.mark.parametrize(("loss", "by_hand"), ALL)
def test_float32_agrees_with_float64(loss, by_hand):
    _, exact_gradient = reference.value_and_gradient(
        lambda f: loss(STUDENT._replace(features=f), TEACHER), STUDENT.features.numpy()
    )
    student, teacher = (
        TapOutput(tap.features.float(), tap.step_seconds) for tap in (STUDENT, TEACHER)
    )
    features = student.features.requires_grad_()

    values = loss(student, teacher)

    assert values.dtype == torch.float32
    assert reference.relative_error(values, by_hand(STUDENT.features.numpy())) < 1e-5
    (gradient,) = reference.gradients(values.sum(), features)
    assert reference.relative_error(gradient, exact_gradient) < 1e-5


@pytest.mark.parametrize(
    "loss",
    [loss for loss, _ in RELATIONS + TOKENS]
    + [
        partial(temporal_difference, projection=as_it_is, descriptor=descriptor)
        for descriptor in ("pooled", "cells")
    ],
)
def test_a_student_equal_to_its_teacher_costs_nothing(loss):
    values, gradient = reference.value_and_gradient(
        lambda f: loss(STUDENT._replace(features=f), STUDENT), STUDENT.features.numpy()
    )

    np.testing.assert_allclose(values, 0, atol=1e-14)
    np.testing.assert_allclose(gradient, 0, atol=1e-13)


@pytest.mark.parametrize("loss", [loss for loss, _ in RELATIONS + TOKENS])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), exponent=st.integers(-20, 20))
def test_scale_and_rotation_of_the_channels_do_not_matter_to_relations(loss, seed, exponent):
    student = reference.random_tap((2, 3, 4, 2, 2), seed)
    teacher = reference.random_tap((2, 2, 7, 3, 3), seed + 1)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turned = torch.einsum("oc,ncthw->nothw", turn, student.features) * 2.0**exponent

    losses = loss(student._replace(features=turned), teacher)

    torch.testing.assert_close(losses, loss(student, teacher))


@pytest.mark.parametrize("descriptor", ["pooled", "cells"])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    student_exponent=st.integers(-20, 20),
    teacher_exponent=st.integers(-20, 20),
)
def test_what_stays_and_the_scales_do_not_matter_to_differences(
    descriptor, seed, student_exponent, teacher_exponent
):
    loss = partial(temporal_difference, projection=project, descriptor=descriptor)
    student = reference.random_tap((2, 3, 4, 2, 2), seed)
    teacher = reference.random_tap((2, 4, 7, 3, 3), seed + 1)
    moved = [
        tap._replace(
            features=(
                tap.features
                + reference.random_tap((2, len(tap.features[0]), 1, *cells), 7).features
            )
            * 2.0**exponent
        )
        for tap, cells, exponent in (
            (student, (2, 2), student_exponent),
            (teacher, (3, 3), teacher_exponent),
        )
    ]

    torch.testing.assert_close(loss(*moved), loss(student, teacher))


def clip(values: list[float], seconds: list[float]) -> TapOutput:
    """One channel, one cell."""
    return TapOutput(
        torch.tensor(values).double().reshape(1, 1, -1, 1, 1),
        torch.tensor([seconds], dtype=torch.float64),
    )


def test_speed_is_a_second_and_not_a_step():
    # The same movement, 2 a second: seen at uneven moments by one, at even ones by the other.
    uneven = [0.0, 0.1, 0.7, 1.0]
    even = [0.0, 0.25, 0.5, 0.75, 1.0]

    loss = temporal_difference(
        clip([2 * s for s in uneven], uneven),
        clip([2 * s for s in even], even),
        projection=as_it_is,
    )

    assert loss.item() == pytest.approx(0, abs=1e-12)


def test_a_reversed_movement_costs_most():
    seconds = [0.0, 0.5, 1.0]
    forward, backward = clip([1, 2, 4], seconds), clip([4, 3, 1], seconds)

    assert temporal_difference(forward, backward, projection=as_it_is).item() == pytest.approx(4)


def test_repeated_frames_are_no_change():
    # A clip that repeats the video's last frame: its steps share a second.
    student = clip([1.0, 2.0, 3.0, 3.5], [0.0, 0.5, 0.5, 1.0])
    teacher = clip([1.0, 2.0, 3.0], [0.0, 0.5, 1.0])
    features = student.features.requires_grad_()

    values = temporal_difference(student, teacher, projection=as_it_is)
    (gradient,) = reference.gradients(values.sum(), features)

    # Changes per second: 2, unknown, 1 of the student, 2, unknown, 2 of the teacher.
    wanted = 2 - 2 * (2 * 2 + 1 * 2) / np.sqrt(5 * 8)
    assert values.item() == pytest.approx(wanted, rel=1e-12)
    assert gradient.isfinite().all()


def test_a_teacher_that_sees_no_motion_teaches_no_motion():
    frozen = TapOutput(TEACHER.features[:, :, :1].expand(-1, -1, 6, -1, -1), TEACHER.step_seconds)

    values, gradient = reference.value_and_gradient(
        lambda f: temporal_difference(STUDENT._replace(features=f), frozen, projection=project),
        STUDENT.features.numpy(),
    )

    np.testing.assert_allclose(values, 1)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)


def test_differences_within_the_margin_are_free():
    student = TapOutput(STUDENT.features.clone().requires_grad_(), STUDENT.step_seconds)
    near = STUDENT._replace(features=STUDENT.features + 1e-3)

    values = token_relation(student, near, margin=0.1)
    (gradient,) = reference.gradients(values.sum(), student.features)

    assert values.tolist() == [0, 0]
    assert not gradient.any()
    assert (token_relation(student, near, margin=0) > 0).all()


def test_temporal_and_spatial_pairs_together_are_all_pairs():
    def value(pairs: str) -> torch.Tensor:
        return token_relation(STUDENT, TEACHER, pairs=pairs)

    # Of 4 steps, a quarter of all pairs are of the same one.
    torch.testing.assert_close(0.75 * value("temporal") + 0.25 * value("spatial"), value("all"))


@pytest.mark.parametrize(("loss", "by_hand"), ALL)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_silent_and_extreme_features_have_finite_gradients(loss, by_hand, size):
    student = TapOutput(
        (STUDENT.features.float() * size).requires_grad_(), STUDENT.step_seconds.float()
    )
    teacher = TapOutput(TEACHER.features.float(), TEACHER.step_seconds.float())

    values = loss(student, teacher)
    (gradient,) = reference.gradients(values.sum(), student.features)

    assert values.isfinite().all()
    assert gradient.isfinite().all()
    if size == 1e30:
        wanted = by_hand(STUDENT.features.numpy())
        np.testing.assert_allclose(values.detach(), wanted, rtol=1e-4, atol=1e-6)
    else:
        assert not gradient.any()
    # A silent teacher, too.
    silent = teacher._replace(features=torch.zeros_like(teacher.features))
    (gradient,) = reference.gradients(loss(student, silent).sum(), student.features)
    assert gradient.isfinite().all()
