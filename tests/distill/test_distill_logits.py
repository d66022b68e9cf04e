from __future__ import annotations

import distill_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.distill.losses.logits import cross_entropy, hard_targets, soft_targets


def random_logits(seed: int, *, num_clips: int = 3, num_classes: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (num_clips, num_classes))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_targets_are_the_formula_in_value_and_gradient(temperature):
    student, teacher = random_logits(0), random_logits(1)

    values, gradient = reference.value_and_gradient(
        lambda z: soft_targets(z, torch.tensor(teacher), temperature=temperature), student
    )

    wanted = reference.soft_targets(student, teacher, temperature)
    np.testing.assert_allclose(values, wanted, rtol=1e-10)
    numeric = reference.numeric_gradient(
        lambda z: sum(reference.soft_targets(z, teacher, temperature)), student
    )
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_mean_of_soft_targets_is_batchmean():
    student, teacher = torch.tensor(random_logits(2)), torch.tensor(random_logits(3))
    batchmean = torch.nn.KLDivLoss(reduction="batchmean")(
        student.log_softmax(1), teacher.softmax(1)
    )

    torch.testing.assert_close(soft_targets(student, teacher, temperature=1).mean(), batchmean)


def test_soft_targets_of_itself_are_zero_with_zero_gradient():
    logits = random_logits(4)

    values, gradient = reference.value_and_gradient(
        lambda z: soft_targets(z, torch.tensor(logits), temperature=4), logits
    )

    np.testing.assert_allclose(values, 0, atol=1e-14)
    np.testing.assert_allclose(gradient, 0, atol=1e-14)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_gradient_keeps_its_size_at_high_temperature(seed):
    # Hinton et al., section 2.1: T^2 times the gradient of the KL tends to (z_s - z_t) / K for
    # logits of zero mean, whatever T.
    student, teacher = random_logits(seed), random_logits(seed + 1)
    student -= student.mean(axis=1, keepdims=True)
    teacher -= teacher.mean(axis=1, keepdims=True)

    _, gradient = reference.value_and_gradient(
        lambda z: soft_targets(z, torch.tensor(teacher), temperature=1e4), student
    )

    np.testing.assert_allclose(gradient, (student - teacher) / student.shape[1], atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50), temperature=st.floats(0.5, 20))
def test_soft_targets_do_not_see_a_shift_of_all_logits(seed, shift, temperature):
    student, teacher = torch.tensor(random_logits(seed)), torch.tensor(random_logits(seed + 1))

    moved = soft_targets(student + shift, teacher - shift, temperature=temperature)

    torch.testing.assert_close(moved, soft_targets(student, teacher, temperature=temperature))
    assert (moved >= 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_is_the_formula_in_value_and_gradient(smoothing):
    logits = random_logits(5)
    targets = np.array([[0, 1, 0, 0, 0], [0.3, 0, 0, 0.7, 0], [0, 0, 0, 0, 1]], dtype=np.float64)

    values, gradient = reference.value_and_gradient(
        lambda z: cross_entropy(z, torch.tensor(targets), label_smoothing=smoothing), logits
    )

    wanted = reference.cross_entropy(logits, targets, smoothing)
    np.testing.assert_allclose(values, wanted, rtol=1e-10)
    numeric = reference.numeric_gradient(
        lambda z: sum(reference.cross_entropy(z, targets, smoothing)), logits
    )
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "targets",
    [np.eye(5)[[1, 3, 3]], np.array([[0, 0.3, 0, 0.7, 0], [0.9, 0, 0, 0, 0.1], [0, 0, 1, 0, 0]])],
    ids=["one label", "mixed"],
)
def test_cross_entropy_in_float32_is_the_formula_in_float64(targets, smoothing):
    reference.agrees_in_float32(
        lambda z: cross_entropy(z, torch.tensor(targets).float(), label_smoothing=smoothing),
        lambda z: float(np.mean(reference.cross_entropy(z, targets, smoothing))),
        random_logits(5),
    )


# Of fewer classes or at a higher temperature the divergence can be so small a difference of larger
# numbers that float32 does not hold it to 1e-5.
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    num_classes=st.integers(5, 8),
    temperature=st.sampled_from([1.0, 2.0, 3.0]),
)
def test_standardised_soft_targets_in_float32_are_the_formula_in_float64(
    seed, num_classes, temperature
):
    student, teacher = (random_logits(seed + i, num_classes=num_classes) for i in (0, 1))
    wanted = reference.standardise(teacher)

    reference.agrees_in_float32(
        lambda z: soft_targets(
            z, torch.tensor(teacher).float(), temperature=temperature, standardise=True
        ),
        lambda z: float(
            np.mean(reference.soft_targets(reference.standardise(z), wanted, temperature))
        ),
        student,
    )


def test_hard_targets_are_cross_entropy_with_the_teachers_first_class():
    student = random_logits(6)
    teacher = np.array([[0, 9, 1, 2, 3], [5, 1, 1, 1, 1], [-1, -2, -3, -4, -0.5]], dtype=np.float64)
    first = np.eye(5)[[1, 0, 4]]

    values, gradient = reference.value_and_gradient(
        lambda z: hard_targets(z, torch.tensor(teacher)), student
    )

    wanted = reference.cross_entropy(student, first, 0)
    np.testing.assert_allclose(values, wanted, rtol=1e-10)
    probabilities = np.stack([reference.softmax(row) for row in student])
    np.testing.assert_allclose(gradient, probabilities - first, atol=1e-12)


def test_hard_targets_in_float32_are_the_formula_in_float64():
    teacher = random_logits(7)
    first = np.eye(5)[teacher.argmax(axis=1)]

    reference.agrees_in_float32(
        lambda z: hard_targets(z, torch.tensor(teacher).float()),
        lambda z: float(np.mean(reference.cross_entropy(z, first, 0))),
        random_logits(6),
    )


@pytest.mark.parametrize(
    "loss",
    [lambda s, t: soft_targets(s, t, temperature=4), hard_targets],
    ids=["soft_targets", "hard_targets"],
)
@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (3,)])
def test_unequal_shapes_are_refused(loss, shape):
    with pytest.raises(ValueError, match=r"both must be \[N, K\], not \[3, 4\] and"):
        loss(torch.zeros(3, 4), torch.zeros(shape))
