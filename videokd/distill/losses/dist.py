"""Correlation instead of equality of class probabilities (DIST): along classes, along the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from videokd.distill.losses.base import Outputs, TermLoss
from videokd.distill.losses.logits import check_same_shape, same_classes, standardise_logits
from videokd.distill.losses.standard import standardised
from videokd.distill.terms.base import WeightedTerm
from videokd.distill.terms.logits import DistTerm


def dist(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    standardise: bool = False,
    of_all_processes: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """`T^2 * (beta * (1 - r_classes) + gamma * (1 - r_batch))` (DIST, Huang et al., NeurIPS 2022).

    r_classes is Pearson's correlation of softmax(student/T) and softmax(teacher/T) over the classes
    of a clip. r_batch is that over all M clips, one class at a time, its mean taken over classes;
    a clip's own part of it is the mean over classes of M times its product, so that the mean of the
    result over the M clips is the formula.

    Where a class has one probability in all clips, or a clip one in all classes, there is no
    correlation: it counts as 0 and has no gradient. The authors' code adds 1e-8 to the product of
    the norms, torchdistill takes each norm as at least 1e-8. Probabilities of rare classes are of
    that size, and the codes let go of them; the formula does not, and neither does this.

    Args:
        student_logits: [N, K].
        teacher_logits: [N, K].
        temperature: T, above 0.
        beta: weight of the part over classes.
        gamma: weight of the part over the batch.
        standardise: bring both sides to zero mean and unit spread first, see `standardise_logits`.
        of_all_processes: joins the rows of all processes, [N, K] to [M, K], differentiably; None:
            M = N.

    Returns:
        [N]; its mean over all processes is in [0, 2 T^2 (beta + gamma)], its values need not be.
    """
    check_same_shape(student_logits, teacher_logits)
    given, wanted = (
        ((standardise_logits(logits) if standardise else logits) / temperature).softmax(dim=1)
        for logits in (student_logits, teacher_logits)
    )
    over_classes = standardised(given, dim=1) * standardised(wanted, dim=1)
    over_batch = _along_batch(given, of_all_processes) * _along_batch(wanted, of_all_processes)
    apart = beta * (1 - over_classes.mean(dim=1)) + gamma * (1 - over_batch.mean(dim=1))
    return temperature**2 * apart


def _along_batch(
    probabilities: torch.Tensor, of_all_processes: Callable[[torch.Tensor], torch.Tensor] | None
) -> torch.Tensor:
    """[N, K]: each class by the mean and spread that it has over the clips of all processes."""
    everyone = None if of_all_processes is None else of_all_processes(probabilities)
    return standardised(probabilities, dim=0, over=everyone)


class Dist(TermLoss[DistTerm]):
    """`dist` of a teacher of the same classes, its batch the clips of all processes.

    With `train.accumulate` the batch is the part of a step that goes through the network at once.
    """

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        return dist(
            *same_classes(self, outputs),
            temperature=self.term.temperature,
            beta=self.term.beta,
            gamma=self.term.gamma,
            standardise=self.term.standardise,
            of_all_processes=outputs.of_all_processes,
        )


LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {DistTerm: Dist}
