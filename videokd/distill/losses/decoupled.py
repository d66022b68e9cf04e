"""Decoupled distillation (DKD): the target classes by themselves, the others among themselves."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from videokd.distill.losses.base import Outputs, TermLoss
from videokd.distill.losses.logits import check_same_shape, same_classes, standardise_logits
from videokd.distill.terms.base import WeightedTerm
from videokd.distill.terms.logits import DecoupledTerm


def decoupled(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    alpha: float,
    beta: float | torch.Tensor,
    temperature: float,
    standardise: bool = False,
) -> torch.Tensor:
    """`T^2 * (alpha * TCKD + beta * NCKD)` (DKD, Zhao et al., CVPR 2022).

    TCKD is the KL between the teacher's and the student's distribution over {each target class, all
    others together}; NCKD the KL between their distributions over the others alone. With a clip's
    `beta` = the others' share in the teacher, alpha = 1, the sum is that of `soft_targets`.

    A clip's target classes are those with a target above 0. The paper knows one; where two clips
    are mixed, its authors advise to take both out of NCKD, each with a place of its own in TCKD
    (megvii-research/mdistiller, issue 13), and that is what happens here, whatever their shares.

    Their code hides target classes by subtracting 1000 from a logit and takes the logarithm of a
    probability that may be 0; here both are exact, so large logits stay finite.

    Args:
        student_logits: [N, K].
        teacher_logits: [N, K].
        targets: float [N, K]. A row of zeros has no target: TCKD is 0. A row without other classes
            has an NCKD of 0.
        alpha: weight of TCKD.
        beta: weight of NCKD, a number or [N].
        temperature: T, above 0.
        standardise: bring both sides to zero mean and unit spread first, see `standardise_logits`.

    Returns:
        [N], at least 0.
    """
    check_same_shape(student_logits, teacher_logits)
    check_same_shape(student_logits, targets)
    if standardise:
        student_logits = standardise_logits(student_logits)
        teacher_logits = standardise_logits(teacher_logits)
    is_target = targets > 0
    given = _log_parts(student_logits / temperature, is_target)
    wanted = _log_parts(teacher_logits / temperature, is_target)
    of_targets, of_others = (
        F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
        for ours, theirs in zip(given, wanted, strict=True)
    )
    return temperature**2 * (alpha * of_targets + beta * of_others)


def _log_parts(logits: torch.Tensor, is_target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities [N, K + 1] of {each target class, all others}, and [N, K] of the others.

    What is not in a distribution has a logarithm so low that its probability is 0, yet finite:
    infinities would meet in a difference.
    """
    nothing = torch.finfo(logits.dtype).min / 4
    logs = F.log_softmax(logits, dim=1)
    all_others = torch.where(is_target, nothing, logs).logsumexp(dim=1, keepdim=True)
    of_targets = torch.cat([torch.where(is_target, logs, nothing), all_others], dim=1)
    of_others = F.log_softmax(torch.where(is_target, nothing, logits), dim=1)
    return of_targets, of_others


class Decoupled(TermLoss[DecoupledTerm]):
    """`decoupled` with a teacher of the same classes, over the clips that have a label."""

    labelled_only = True

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        return decoupled(
            *same_classes(self, outputs),
            outputs.targets,
            alpha=self.term.alpha,
            beta=self.term.beta,
            temperature=self.term.temperature,
            standardise=self.term.standardise,
        )


LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {DecoupledTerm: Decoupled}
