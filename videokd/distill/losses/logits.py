"""Losses on logits. Each returns one value a clip, [N], so that the caller decides who counts.

They compute in the dtype of their inputs: call them in float32 or better.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from videokd.distill.losses.base import Outputs, TermLoss
from videokd.distill.losses.standard import standardised
from videokd.distill.terms.base import WeightedTerm
from videokd.distill.terms.logits import CrossEntropyTerm, HardTargetsTerm, SoftTargetsTerm
from videokd.errors import ConfigError


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, *, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross entropy with class probabilities: `-sum_k q_k log softmax(logits)_k`.

    `q = (1 - label_smoothing) * targets + label_smoothing / K`, as `F.cross_entropy` smooths.

    Args:
        logits: [N, K].
        targets: float [N, K], each row sums to 1 (one label, or several mixed). Rows with several
            labels at 1 each are another loss's: under a softmax they cannot all be reached.
        label_smoothing: share of each target spread evenly over the K classes, in [0, 1).

    Returns:
        [N].
    """
    check_same_shape(logits, targets)
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)


def soft_targets(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    temperature: float,
    standardise: bool = False,
) -> torch.Tensor:
    """`T^2 * KL(softmax(teacher/T) || softmax(student/T))` (Hinton et al., 2015), both [N, K].

    The factor T^2 keeps the size of the gradient when T changes. The mean of the result over N is
    what PyTorch calls `batchmean`. torchdistill's `KDLoss` and `LogitStdKDLoss` leave T^2 out when
    they are given no labels or no `alpha`; here it is always there.

    Args:
        student_logits: [N, K].
        teacher_logits: [N, K].
        temperature: T, above 0.
        standardise: bring both sides to zero mean and unit spread first, see `standardise_logits`.

    Returns:
        [N], at least 0.
    """
    check_same_shape(student_logits, teacher_logits)
    if standardise:
        student_logits = standardise_logits(student_logits)
        teacher_logits = standardise_logits(teacher_logits)
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return divergence * temperature**2


def hard_targets(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the student with the teacher's first class; both [N, K], returns [N].

    The hard-label distillation of Touvron et al. (DeiT, ICML 2021), on the student's only head.
    """
    check_same_shape(student_logits, teacher_logits)
    return F.cross_entropy(student_logits, teacher_logits.argmax(dim=1), reduction="none")


def standardise_logits(logits: torch.Tensor) -> torch.Tensor:
    """The Z-score of each clip's logits, [N, K] (Sun et al., CVPR 2024); equal logits become 0.

    The paper divides by the root of the mean squared deviation (its Algorithm 1). Its code (and
    torchdistill's) takes `torch.std`, which divides by K - 1, and adds 1e-7: that is this at a
    temperature larger by sqrt(K / (K - 1)), 12 % for K = 5 and 0.1 % for K = 400. The numbers of
    the paper's Figure 2 are the code's.
    """
    return standardised(logits, dim=1)


def check_same_shape(left: torch.Tensor, right: torch.Tensor) -> None:
    """Raise `ValueError` unless both are [N, K]."""
    if left.ndim != 2 or left.shape != right.shape:
        raise ValueError(f"both must be [N, K], not {list(left.shape)} and {list(right.shape)}")


class CrossEntropy(TermLoss[CrossEntropyTerm]):
    """`cross_entropy` with the labels of those clips that have one."""

    labelled_only = True

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        return cross_entropy(
            outputs.student.logits,
            outputs.targets,
            label_smoothing=self.term.label_smoothing,
        )


class SoftTargets(TermLoss[SoftTargetsTerm]):
    """`soft_targets` of a teacher of the same classes."""

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        return soft_targets(
            *same_classes(self, outputs),
            temperature=self.term.temperature,
            standardise=self.term.standardise,
        )


class HardTargets(TermLoss[HardTargetsTerm]):
    """`hard_targets` of a teacher of the same classes."""

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        return hard_targets(*same_classes(self, outputs))


def same_classes(loss: TermLoss, outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    """The student's logits and the teacher's, both [N, K].

    Raises:
        ConfigError: they are of another number of classes.
    """
    given, wanted = outputs.student.logits, outputs.wanted.logits
    if given.shape[1] != wanted.shape[1]:
        raise ConfigError(
            f"{loss.where}: the teacher has {wanted.shape[1]} classes and the student "
            f"{given.shape[1]}; distil logits from a teacher of the same classes, or features only"
        )
    return given, wanted


LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {
    CrossEntropyTerm: CrossEntropy,
    SoftTargetsTerm: SoftTargets,
    HardTargetsTerm: HardTargets,
}
