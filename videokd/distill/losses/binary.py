"""The multi-label form: each class a yes or no of its own. Each returns one value a clip, [N].

They compute in the dtype of their inputs: call them in float32 or better.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from videokd.distill.losses.base import Outputs, TermLoss
from videokd.distill.losses.logits import check_same_shape, same_classes
from videokd.distill.terms.base import WeightedTerm
from videokd.distill.terms.logits import BinaryCrossEntropyTerm, BinarySoftTargetsTerm


def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`-(y log sigmoid(z) + (1 - y) log sigmoid(-z))`, its mean over the K classes.

    The mean over N and K is what PyTorch's `BCEWithLogitsLoss` gives by default.

    Args:
        logits: [N, K].
        targets: float [N, K], each in [0, 1]: 1 for every label of the clip.

    Returns:
        [N].
    """
    check_same_shape(logits, targets)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return losses.mean(dim=1)


def binary_soft_targets(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """`T^2 * KL(sigmoid(teacher/T) || sigmoid(student/T))` of yes and no, mean over the K classes.

    The same mean as the labels' `binary_cross_entropy`, so that the two weigh alike whatever K.

    Args:
        student_logits: [N, K].
        teacher_logits: [N, K].
        temperature: T, above 0.

    Returns:
        [N], at least 0.
    """
    check_same_shape(student_logits, teacher_logits)
    given, wanted = student_logits / temperature, teacher_logits / temperature
    yes = F.kl_div(F.logsigmoid(given), F.logsigmoid(wanted), reduction="none", log_target=True)
    no = F.kl_div(F.logsigmoid(-given), F.logsigmoid(-wanted), reduction="none", log_target=True)
    return temperature**2 * (yes + no).mean(dim=1)


class BinaryCrossEntropy(TermLoss[BinaryCrossEntropyTerm]):
    """`binary_cross_entropy` with the labels of those clips that have any."""

    labelled_only = True

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        return binary_cross_entropy(outputs.student.logits, outputs.targets)


class BinarySoftTargets(TermLoss[BinarySoftTargetsTerm]):
    """`binary_soft_targets` of a teacher of the same classes."""

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        return binary_soft_targets(*same_classes(self, outputs), temperature=self.term.temperature)


LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {
    BinaryCrossEntropyTerm: BinaryCrossEntropy,
    BinarySoftTargetsTerm: BinarySoftTargets,
}
