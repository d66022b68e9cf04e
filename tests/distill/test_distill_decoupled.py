from __future__ import annotations

import distill_reference as reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.distill.losses.decoupled import decoupled
from videokd.distill.losses.logits import soft_targets

ONE_LABEL = np.eye(5)[[1, 4, 0]]
MIXED = np.array([[0, 0.3, 0, 0.7, 0], [0, 0, 0, 0, 1.0], [0.001, 0, 0.999, 0, 0]])
SEVERAL = np.array([[1.0, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
TARGETS = pytest.mark.parametrize(
    "targets", [ONE_LABEL, MIXED, SEVERAL], ids=["one", "mixed", "several, all and none"]
)


def random_logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (3, 5))


@TARGETS
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1, 8, 4), (0.5, 2, 1), (0, 1, 2)])
def test_it_is_the_formula_in_value_and_gradient(targets, standardise, alpha, beta, temperature):
    student, teacher = random_logits(0), random_logits(1)

    def formula(z: np.ndarray) -> float:
        sides = (reference.standardise(z), reference.standardise(teacher))
        given, wanted = sides if standardise else (z, teacher)
        losses = reference.decoupled(
            given, wanted, targets, alpha=alpha, beta=beta, temperature=temperature
        )
        return float(np.mean(losses))

    reference.agrees_in_float32(
        lambda z: decoupled(
            z,
            torch.tensor(teacher, dtype=torch.float32),
            torch.tensor(targets, dtype=torch.float32),
            alpha=alpha,
            beta=beta,
            temperature=temperature,
            standardise=standardise,
        ),
        formula,
        student,
    )


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1, 8, 4), (0.5, 2, 1)])
def test_of_one_label_it_is_the_authors_lines_in_value_and_gradient(alpha, beta, temperature):
    # github.com/megvii-research/mdistiller: TCKD of masked sums, NCKD of logits less 1000
    student, teacher = (torch.tensor(random_logits(seed)).float() for seed in (3, 4))
    mask = torch.tensor(ONE_LABEL).float()
    student.requires_grad_()

    def binary(logits: torch.Tensor) -> torch.Tensor:
        p = (logits / temperature).softmax(dim=1)
        return torch.stack([(p * mask).sum(1), (p * (1 - mask)).sum(1)], dim=1)

    def others(logits: torch.Tensor) -> torch.Tensor:
        return logits / temperature - 1000 * mask

    tckd = F.kl_div(binary(student).log(), binary(teacher), reduction="sum")
    nckd = F.kl_div(others(student).log_softmax(1), others(teacher).softmax(1), reduction="sum")
    theirs = temperature**2 / len(mask) * (alpha * tckd + beta * nckd)

    ours = decoupled(student, teacher, mask, alpha=alpha, beta=beta, temperature=temperature).mean()

    assert reference.relative_error(ours, theirs) < 1e-5
    (gradient,), (wanted,) = (reference.gradients(one, student) for one in (ours, theirs))
    assert reference.relative_error(gradient, wanted) < 1e-5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50), temperature=st.floats(0.5, 20))
def test_a_shift_of_all_logits_does_not_matter(seed, shift, temperature):
    student, teacher = (torch.tensor(random_logits(seed + i)) for i in (0, 1))
    weights = {"alpha": 1, "beta": 8, "temperature": temperature}
    targets = torch.tensor(MIXED)

    moved = decoupled(student + shift, teacher - shift, targets, **weights)

    torch.testing.assert_close(moved, decoupled(student, teacher, targets, **weights))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 10), num_true=st.integers(0, 5))
def test_the_parts_weighed_by_the_teacher_are_soft_targets(seed, temperature, num_true):
    # Equation 6 of the paper, for any set of target classes: KD = TCKD + (share of others) NCKD.
    student, teacher = (torch.tensor(random_logits(seed + i)) for i in (0, 1))
    targets = torch.zeros(3, 5, dtype=torch.float64)
    targets[:, np.random.default_rng(seed).permutation(5)[:num_true]] = 1
    others = ((teacher / temperature).softmax(dim=1) * (targets == 0)).sum(dim=1)

    losses = decoupled(student, teacher, targets, alpha=1, beta=others, temperature=temperature)

    torch.testing.assert_close(losses, soft_targets(student, teacher, temperature=temperature))
    assert (losses >= -1e-12).all()


@TARGETS
def test_of_itself_it_is_zero_with_zero_gradient(targets):
    logits = random_logits(2)

    values, gradient = reference.value_and_gradient(
        lambda z: decoupled(
            z, torch.tensor(logits), torch.tensor(targets), alpha=1, beta=8, temperature=4
        ),
        logits,
    )

    np.testing.assert_allclose(values, 0, atol=1e-13)
    np.testing.assert_allclose(gradient, 0, atol=1e-13)


def test_large_logits_do_not_break_through_the_mask():
    # The authors subtract 1000 from the logits that they hide. Beside logits of that size nothing
    # is hidden, so their NCKD would have the true class in it; here only the others count.
    student = torch.tensor([[5000.0, 1.0, 2.0]])
    teacher = torch.tensor([[5000.0, 2.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0]])

    loss = decoupled(student, teacher, targets, alpha=0, beta=1, temperature=1)

    others = soft_targets(student[:, 1:], teacher[:, 1:], temperature=1)
    torch.testing.assert_close(loss, others)
    assert loss > 0.1


def test_with_two_classes_the_other_is_certain():
    student, teacher = torch.randn(4, 2), torch.randn(4, 2)
    targets = torch.eye(2)[[0, 1, 1, 0]]

    loss = decoupled(student, teacher, targets, alpha=1, beta=8, temperature=2)

    torch.testing.assert_close(loss, soft_targets(student, teacher, temperature=2))


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (3,)])
def test_unequal_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"both must be \[N, K\], not \[3, 5\] and"):
        decoupled(
            torch.zeros(3, 5), torch.zeros(3, 5), torch.zeros(shape), alpha=1, beta=8, temperature=4
        )
