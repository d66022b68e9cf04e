from __future__ import annotations

import distill_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.distill.losses.temporal import attention_weights, temporal_attention
from videokd.types import TapOutput

STUDENT = reference.random_tap((2, 2, 3, 2, 2), seed=0)
TEACHER = reference.random_tap((2, 4, 6, 3, 1), seed=1)


def by_hand(student: np.ndarray, tau: float) -> list[float]:
    losses = []
    for n in range(len(student)):
        given = np.array([(step**2).mean() for step in student[n].swapaxes(0, 1)])
        wanted = np.array([(step**2).mean() for step in TEACHER.features[n].numpy().swapaxes(0, 1)])
        wanted = reference.interpolate(
            wanted, TEACHER.step_seconds[n].numpy(), STUDENT.step_seconds[n].numpy()
        )
        softened = [reference.softmax(e / e.mean() / tau) for e in (wanted, given)]
        losses.append(reference.kl(*softened))
    return losses


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_temporal_attention_is_the_formula_in_value_and_gradient(tau):
    values, gradient = reference.value_and_gradient(
        lambda f: temporal_attention(STUDENT._replace(features=f), TEACHER, tau=tau),
        STUDENT.features.numpy(),
    )

    np.testing.assert_allclose(values, by_hand(STUDENT.features.numpy(), tau), rtol=1e-10)
    numeric = reference.numeric_gradient(lambda f: sum(by_hand(f, tau)), STUDENT.features.numpy())
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_tau_is_in_units_of_the_mean_energy():
    # Energies 2 and 0 have mean 1: at tau 1 the first step weighs e^2 times the second.
    features = torch.tensor([2.0, 0.0]).sqrt().reshape(1, 1, 2, 1, 1)
    flat = torch.ones(1, 1, 2, 1, 1)
    seconds = torch.tensor([[0.0, 1.0]])

    loss = temporal_attention(TapOutput(flat, seconds), TapOutput(features, seconds), tau=1.0)

    share = np.exp(2) / (1 + np.exp(2))
    wanted = share * np.log(share / 0.5) + (1 - share) * np.log((1 - share) / 0.5)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_a_student_equal_to_its_teacher_costs_nothing():
    values, gradient = reference.value_and_gradient(
        lambda f: temporal_attention(STUDENT._replace(features=f), STUDENT, tau=0.1),
        STUDENT.features.numpy(),
    )

    np.testing.assert_allclose(values, 0, atol=1e-14)
    np.testing.assert_allclose(gradient, 0, atol=1e-13)


def test_the_direction_is_teacher_over_student():
    # KL(teacher || student) is unbounded where the student ignores a step that the teacher uses,
    # and bounded the other way round.
    seconds = torch.tensor([[0.0, 1.0]])
    both = TapOutput(torch.ones(1, 1, 2, 1, 1), seconds)
    first_only = TapOutput(torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1), seconds)

    assert temporal_attention(first_only, both, tau=0.01).item() > 50
    assert temporal_attention(both, first_only, tau=0.01).item() == pytest.approx(np.log(2))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), exponent=st.integers(-6, 6), tau=st.floats(0.1, 5))
def test_the_scale_of_features_does_not_matter(seed, exponent, tau):
    student = reference.random_tap((2, 3, 4, 2, 2), seed)
    teacher = reference.random_tap((2, 2, 7, 3, 3), seed + 1)
    scaled = student._replace(features=student.features * 2.0**exponent)

    losses = temporal_attention(student, teacher, tau=tau)

    torch.testing.assert_close(temporal_attention(scaled, teacher, tau=tau), losses)
    assert (losses >= 0).all()


def test_a_fine_teacher_and_a_coarse_student_agree_on_the_same_event():
    # Energy rises linearly in time for both; 32 and 8 steps of the same second.
    def rising(steps: int) -> TapOutput:
        seconds = (torch.arange(steps).double() + 0.5) / steps
        return TapOutput((1 + seconds).sqrt().reshape(1, 1, steps, 1, 1), seconds[None])

    loss = temporal_attention(rising(8), rising(32), tau=0.1)

    assert loss.item() == pytest.approx(0, abs=1e-12)


def test_a_silent_clip_is_attended_evenly():
    silent = np.zeros(STUDENT.features.shape)

    values, gradient = reference.value_and_gradient(
        lambda f: temporal_attention(STUDENT._replace(features=f), TEACHER, tau=1.0), silent
    )

    for n, value in enumerate(values):
        even = np.ones_like(silent[n])
        assert value == pytest.approx(by_hand(np.stack([even, even]), 1.0)[n], rel=1e-9)
    assert not gradient.any()


def weights_by_hand(student: np.ndarray, teacher: np.ndarray, tau: float, at, known) -> list[float]:
    losses = []
    for n in range(len(student)):
        wanted = reference.interpolate(teacher[n], known[n], at[n]) ** (1 / tau)
        given = student[n] ** (1 / tau)
        losses.append(reference.kl(wanted / wanted.sum(), given / given.sum()))
    return losses


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_attention_weights_are_the_formula_in_value_and_gradient(tau):
    generator = np.random.default_rng(0)
    student = generator.dirichlet(np.full(3, 5), size=2)
    teacher = generator.dirichlet(np.full(6, 5), size=2)
    at, known = STUDENT.step_seconds, TEACHER.step_seconds

    values, gradient = reference.value_and_gradient(
        lambda a: attention_weights(
            a, torch.tensor(teacher), student_seconds=at, teacher_seconds=known, tau=tau
        ),
        student,
    )

    wanted = weights_by_hand(student, teacher, tau, at.numpy(), known.numpy())
    np.testing.assert_allclose(values, wanted, rtol=1e-10)
    numeric = reference.numeric_gradient(
        lambda a: sum(weights_by_hand(a, teacher, tau, at.numpy(), known.numpy())), student
    )
    np.testing.assert_allclose(gradient, numeric, atol=1e-6)


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_float32_is_as_good_as_the_formula_in_float64(tau):
    student = STUDENT.features.numpy()

    reference.agrees_in_float32(
        lambda f: temporal_attention(
            TapOutput(f, STUDENT.step_seconds.float()),
            TapOutput(TEACHER.features.float(), TEACHER.step_seconds.float()),
            tau=tau,
        ),
        lambda f: float(np.mean(by_hand(f, tau))),
        student,
    )


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_attention_weights_in_float32_are_the_formula_in_float64(tau):
    generator = np.random.default_rng(1)
    teacher = generator.dirichlet(np.full(6, 5), size=2)
    at, known = STUDENT.step_seconds, TEACHER.step_seconds

    reference.agrees_in_float32(
        lambda a: attention_weights(
            a,
            torch.tensor(teacher).float(),
            student_seconds=at.float(),
            teacher_seconds=known.float(),
            tau=tau,
        ),
        lambda a: float(np.mean(weights_by_hand(a, teacher, tau, at.numpy(), known.numpy()))),
        generator.dirichlet(np.full(3, 5), size=2),
    )


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_equal_attention_costs_nothing_whatever_it_sums_to(tau):
    weights = np.random.default_rng(2).dirichlet(np.full(4, 5), size=2)
    seconds = torch.arange(4).double().expand(2, -1)

    values, gradient = reference.value_and_gradient(
        lambda a: attention_weights(
            a,
            torch.tensor(3 * weights),
            student_seconds=seconds,
            teacher_seconds=seconds,
            tau=tau,
        ),
        weights,
    )

    np.testing.assert_allclose(values, 0, atol=1e-14)
    np.testing.assert_allclose(gradient, 0, atol=1e-13)


def test_attention_weights_that_underflowed_stay_finite():
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    seconds = torch.tensor([[0.0, 1.0]])

    loss = attention_weights(
        student,
        torch.tensor([[0.0, 1.0]]),
        student_seconds=seconds,
        teacher_seconds=seconds,
        tau=1.0,
    )
    (1e6 * loss.sum()).backward()

    assert loss.item() == pytest.approx(-np.log(1e-12), rel=1e-4)
    assert student.grad.isfinite().all()
