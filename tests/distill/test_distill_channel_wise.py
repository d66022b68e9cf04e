from __future__ import annotations

import distill_reference as reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.distill.losses.features import channel_wise
from videokd.types import TapOutput

# They differ in everything: channels, steps, height (student finer), width (teacher finer).
STUDENT = reference.random_tap((2, 2, 3, 4, 2), seed=0)
TEACHER = reference.random_tap((2, 4, 5, 3, 5), seed=1)
WEIGHT = np.random.default_rng(2).normal(size=(4, 2))
TEMPERATURE = 2.5
OVER = ["space", "space_time"]


def project(features: torch.Tensor) -> torch.Tensor:
    weight = torch.tensor(WEIGHT, dtype=features.dtype)
    return torch.einsum("oc,ncthw->nothw", weight, features)


def loss_of(features: torch.Tensor, teacher: TapOutput = TEACHER, *, over: str) -> torch.Tensor:
    return channel_wise(
        STUDENT._replace(features=features),
        teacher,
        temperature=TEMPERATURE,
        over=over,
        projection=project,
    )


def by_hand(student: np.ndarray, *, over: str) -> list[float]:
    """The formula a channel, and with `space` a step, at a time."""
    losses = []
    for n in range(len(student)):
        ours, wanted = reference.on_one_grid(
            student[n].swapaxes(0, 1),
            TEACHER.features[n].numpy().swapaxes(0, 1),
            STUDENT.step_seconds[n].numpy(),
            TEACHER.step_seconds[n].numpy(),
        )
        ours = np.einsum("oc,tchw->tohw", WEIGHT, ours)
        maps = []
        for channel in range(ours.shape[1]):
            for steps in range(len(ours)) if over == "space" else [slice(None)]:
                maps.append((ours[steps, channel].ravel(), wanted[steps, channel].ravel()))
        divergences = [
            reference.kl(
                reference.softmax(theirs / TEMPERATURE), reference.softmax(mine / TEMPERATURE)
            )
            for mine, theirs in maps
        ]
        losses.append(TEMPERATURE**2 * sum(divergences) / len(divergences))
    return losses


@pytest.mark.parametrize("over", OVER)
def test_channel_wise_is_the_formula_in_value_and_gradient(over):
    student = STUDENT.features.numpy()

    values, gradient = reference.value_and_gradient(lambda f: loss_of(f, over=over), student)

    np.testing.assert_allclose(values, by_hand(student, over=over), rtol=1e-10)
    numeric = reference.numeric_gradient(lambda f: sum(by_hand(f, over=over)), student)
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


@pytest.mark.parametrize("over", OVER)
def test_float32_is_as_good_as_the_formula_in_float64(over):
    exact, exact_gradient = reference.value_and_gradient(
        lambda f: loss_of(f, over=over), STUDENT.features.numpy()
    )
    student = STUDENT.features.float().requires_grad_()

    values = loss_of(student, TEACHER._replace(features=TEACHER.features.float()), over=over)

    assert reference.relative_error(values, exact) < 1e-5
    (gradient,) = reference.gradients(values.sum(), student)
    assert reference.relative_error(gradient, exact_gradient) < 1e-5


def test_of_images_it_is_the_authors_lines_in_value_and_gradient():
    # github.com/irfanICMLL/TorchDistiller: the summed KL of each channel's softmax over cells,
    # divided by n * c, times T^2
    x, y = torch.randn(3, 4, 5, 6, requires_grad=True), torch.randn(3, 4, 5, 6)
    ours_of_cells, wanted_of_cells = (
        (side / TEMPERATURE).flatten(2).softmax(dim=-1) for side in (x, y)
    )
    theirs = F.kl_div(ours_of_cells.log(), wanted_of_cells, reduction="sum") / (3 * 4)
    theirs = theirs * TEMPERATURE**2
    (wanted,) = reference.gradients(theirs, x)

    for over in OVER:
        ours = channel_wise(
            reference.one_step(x), reference.one_step(y), temperature=TEMPERATURE, over=over
        ).mean()
        assert reference.relative_error(ours, theirs) < 1e-5
        (gradient,) = reference.gradients(ours, x)
        assert reference.relative_error(gradient, wanted) < 1e-5


@pytest.mark.parametrize("over", OVER)
def test_a_student_equal_to_its_teacher_costs_nothing(over):
    values, gradient = reference.value_and_gradient(
        lambda f: channel_wise(
            STUDENT._replace(features=f), STUDENT, temperature=TEMPERATURE, over=over
        ),
        STUDENT.features.numpy(),
    )

    np.testing.assert_allclose(values, [0, 0], atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), over=st.sampled_from(OVER))
def test_a_constant_added_to_a_channel_does_not_matter(seed, over):
    student = reference.random_tap((2, 3, 4, 3, 3), seed)
    teacher = reference.random_tap((2, 3, 4, 3, 3), seed + 1)
    generator = torch.Generator().manual_seed(seed)
    # Of a clip's channel; over space each step may have its own.
    steps = 4 if over == "space" else 1
    shift = 10 * torch.randn(2, 3, steps, 1, 1, generator=generator, dtype=torch.float64)
    aligned = teacher._replace(step_seconds=student.step_seconds)

    moved = student._replace(features=student.features + shift)

    torch.testing.assert_close(
        channel_wise(moved, aligned, temperature=TEMPERATURE, over=over),
        channel_wise(student, aligned, temperature=TEMPERATURE, over=over),
    )


def test_over_space_does_not_see_when_a_channel_fires_and_over_space_time_does():
    later = STUDENT.features.clone()
    later[:, :, 1] += 3
    moved = STUDENT._replace(features=later)

    where = channel_wise(moved, STUDENT, temperature=1, over="space")
    when = channel_wise(moved, STUDENT, temperature=1, over="space_time")

    torch.testing.assert_close(where, torch.zeros(2).double())
    assert (when > 0.1).all()


@pytest.mark.parametrize("size", [0.0, 1e4, 1e30])
@pytest.mark.parametrize("over", OVER)
def test_silent_and_extreme_features_stay_finite(size, over):
    student = (STUDENT.features.sign().float() * size).requires_grad_()
    teacher = TEACHER._replace(features=TEACHER.features.sign().float() * -size)

    values = loss_of(student, teacher, over=over)

    assert values.isfinite().all()
    (gradient,) = reference.gradients(values.sum(), student)
    assert gradient.isfinite().all()
