"""Losses on logits against torchdistill, in float32 to 1e-5, and where it leaves its papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from videokd.distill.losses.dist import dist
from videokd.distill.losses.logits import cross_entropy, soft_targets

mid_level = pytest.importorskip("torchdistill.losses.mid_level")

K = 5
PATHS = {
    f"{role}_{part}": value
    for role in ("student", "teacher")
    for part, value in (("module_path", "head"), ("module_io", "output"))
}


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student's, teacher's, and targets."""
    return torch.randn(6, K) * 2, torch.randn(6, K) * 2, torch.eye(K)[[0, 3, 1, 4, 2, 2]]


def theirs(loss: Any, student: torch.Tensor, teacher: torch.Tensor, **more: Any) -> torch.Tensor:
    return loss({"head": {"output": student}}, {"head": {"output": teacher}}, **more)


def agree(
    ours: Callable[[torch.Tensor], torch.Tensor],
    reference: Callable[[torch.Tensor], torch.Tensor],
    at: torch.Tensor,
) -> None:
    """In value and gradient, to 1e-5; of a gradient, to 1e-5 of its largest element."""
    values, gradients = [], []
    for loss in (ours, reference):
        leaf = at.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        values.append(value.detach())
        gradients.append(leaf.grad)
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=0)
    largest = float(gradients[1].abs().max())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5 * largest)


def test_labels_and_soft_targets_are_kd_loss(logits):
    student, teacher, targets = logits
    loss = mid_level.KDLoss(**PATHS, temperature=4, alpha=0.1, beta=0.9)

    agree(
        lambda z: (
            0.1 * cross_entropy(z, targets).mean()
            + 0.9 * soft_targets(z, teacher, temperature=4).mean()
        ),
        lambda z: theirs(loss, z, teacher, targets=targets.argmax(dim=1)),
        student,
    )


def test_kd_loss_without_labels_leaves_the_square_of_the_temperature_out(logits):
    student, teacher, _ = logits
    loss = mid_level.KDLoss(**PATHS, temperature=4, alpha=0)

    ours = soft_targets(student, teacher, temperature=4).mean()

    torch.testing.assert_close(ours, 16 * theirs(loss, student, teacher))


def test_standardised_soft_targets_are_logit_std_kd_loss_at_another_temperature(logits):
    # Its std has K - 1 under the root, the paper's K: the same as a temperature larger by
    # sqrt(K / (K - 1)), whose square is not in the factor.
    student, teacher, targets = logits
    loss = mid_level.LogitStdKDLoss(**PATHS, temperature=2, alpha=0.1, beta=9)
    ratio = K / (K - 1)

    agree(
        lambda z: (
            0.1 * cross_entropy(z, targets).mean()
            + 9
            / ratio
            * soft_targets(z, teacher, temperature=2 * ratio**0.5, standardise=True).mean()
        ),
        lambda z: theirs(loss, z, teacher, targets=targets.argmax(dim=1)),
        student,
    )


@pytest.mark.parametrize(("temperature", "beta", "gamma"), [(1, 1, 1), (4, 2, 0.5)])
def test_dist_is_dist_loss(logits, temperature, beta, gamma):
    student, teacher, _ = logits
    loss = mid_level.DISTLoss(**PATHS, beta=beta, gamma=gamma, tau=temperature)

    agree(
        lambda z: dist(z, teacher, temperature=temperature, beta=beta, gamma=gamma).mean(),
        lambda z: theirs(loss, z, teacher),
        student,
    )


def test_dist_loss_lets_go_of_rare_classes(logits):
    # Probabilities below 1e-10: torchdistill takes the norms of their columns as 1e-8.
    _, teacher, _ = logits
    rare = torch.tensor([0.0, 0.0, 0.0, 0.0, -30.0])
    loss = mid_level.DISTLoss(**PATHS, beta=0)

    ours = dist(teacher * 1.1 + rare, teacher + rare, beta=0).mean()

    assert ours < 0.05  # all five correlate
    assert theirs(loss, teacher * 1.1 + rare, teacher + rare) > 0.19  # a fifth is thought not to


def test_standardised_logits_are_torchs_standard_score_with_no_correction(logits):
    student, teacher, _ = logits

    def by_hand(z: torch.Tensor) -> torch.Tensor:
        return (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=0)

    wanted = 4 * F.kl_div(
        F.log_softmax(by_hand(student) / 2, dim=1),
        F.softmax(by_hand(teacher) / 2, dim=1),
        reduction="batchmean",
    )

    ours = soft_targets(student, teacher, temperature=2, standardise=True).mean()

    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=0)
