from __future__ import annotations

import distill_reference as reference
import numpy as np
import pytest
import torch

from videokd.distill.losses.binary import binary_cross_entropy, binary_soft_targets


def random_logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (3, 5))


def test_binary_cross_entropy_is_the_formula_in_value_and_gradient():
    targets = np.array([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0.2, 0, 0.8, 1, 0]])

    def formula(z: np.ndarray) -> float:
        yes = 1 / (1 + np.exp(-z))
        return float(-(targets * np.log(yes) + (1 - targets) * np.log(1 - yes)).mean())

    reference.agrees_in_float32(
        lambda z: binary_cross_entropy(z, torch.tensor(targets, dtype=torch.float32)),
        formula,
        random_logits(0),
    )


def test_binary_cross_entropy_has_pytorchs_mean():
    logits, targets = torch.tensor(random_logits(1)), torch.eye(5, dtype=torch.float64)[:3]

    torch.testing.assert_close(
        binary_cross_entropy(logits, targets).mean(), torch.nn.BCEWithLogitsLoss()(logits, targets)
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_binary_soft_targets_are_the_formula_in_value_and_gradient(temperature):
    teacher = random_logits(3)

    reference.agrees_in_float32(
        lambda z: binary_soft_targets(
            z, torch.tensor(teacher, dtype=torch.float32), temperature=temperature
        ),
        lambda z: float(np.mean(reference.binary_soft_targets(z, teacher, temperature))),
        random_logits(2),
    )


def test_binary_soft_targets_of_a_certain_teacher_are_labels():
    student = torch.tensor(random_logits(4))
    targets = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]).double()

    losses = binary_soft_targets(student, (targets * 2 - 1) * 1000, temperature=1)

    torch.testing.assert_close(losses, binary_cross_entropy(student, targets))


def test_binary_soft_targets_of_itself_are_zero_with_zero_gradient():
    logits = random_logits(5)

    values, gradient = reference.value_and_gradient(
        lambda z: binary_soft_targets(z, torch.tensor(logits), temperature=2), logits
    )

    np.testing.assert_allclose(values, 0, atol=1e-14)
    np.testing.assert_allclose(gradient, 0, atol=1e-14)


def test_binary_soft_targets_are_never_negative():
    student, teacher = torch.randn(200, 5) * 3, torch.randn(200, 5) * 3

    assert (binary_soft_targets(student, teacher, temperature=1) >= 0).all()


@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (3,)])
def test_unequal_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"both must be \[N, K\], not \[3, 4\] and"):
        binary_soft_targets(torch.zeros(3, 4), torch.zeros(shape), temperature=1)
    with pytest.raises(ValueError, match=r"both must be \[N, K\], not \[3, 4\] and"):
        binary_cross_entropy(torch.zeros(3, 4), torch.zeros(shape))
