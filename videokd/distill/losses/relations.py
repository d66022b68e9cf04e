"""Losses on how clips lie to each other: RKD. Each returns one value a clip, [N], its row of the
formula over the M clips of all processes.

They compute in the dtype of their inputs: call them in float32 or better.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from videokd.distill.losses.base import Gather, Outputs, TermLoss
from videokd.distill.losses.directions import unit_vectors
from videokd.distill.terms.base import WeightedTerm
from videokd.distill.terms.relations import RKDAngleTerm, RKDDistanceTerm

MAX_ANGLE_ELEMENTS = 2**24
"""Of the largest tensor for angles (64 MiB): more is computed in parts, and once more backward."""


def rkd_distance(
    student: torch.Tensor, teacher: torch.Tensor, *, of_all_processes: Gather | None = None
) -> torch.Tensor:
    """`mean_ij smooth_l1(d_s(i,j) - d_t(i,j))`, d Euclidean distances divided by their mean over
    pairs of different clips (RKD-D, Park et al., CVPR 2019).

    The paper sums over pairs; its code, to which its weights belong, takes the mean over all M^2,
    a clip with itself included (0 on both sides), and so does this. The code gets distances from
    inner products and counts at least 1e-6; here they come from differences, exact for points that
    lie close, and points that coincide are 0 apart with a gradient of 0.

    Args:
        student: points [N, D_s].
        teacher: points [N, D_t].
        of_all_processes: joins the rows of all processes, [N, D] to [M, D]; None: M = N.

    Returns:
        [N]; the mean over all processes is the formula.
    """
    given = _relative_distances(student, of_all_processes)
    wanted = _relative_distances(teacher, of_all_processes)
    return F.smooth_l1_loss(given, wanted, reduction="none").mean(dim=1)


def rkd_angle(
    student: torch.Tensor, teacher: torch.Tensor, *, of_all_processes: Gather | None = None
) -> torch.Tensor:
    """`mean_ijk smooth_l1(cos_s(i,j,k) - cos_t(i,j,k))`, cos that of the angle at clip j between
    the directions to i and to k (RKD-A, Park et al., CVPR 2019).

    The paper sums over triples; its code, to which its weights belong, takes the mean over all M^3,
    those of fewer than three clips included (equal on both sides), and so does this. Where two
    clips coincide there is no direction: its cosines are 0, with a gradient of 0.

    Memory: [N, M, max(M, D)], in parts of at most 64 MiB a tensor; parts are computed again in the
    backward pass. Operations: N * M^2 * D.

    Args:
        student: points [N, D_s].
        teacher: points [N, D_t].
        of_all_processes: joins the rows of all processes, [N, D] to [M, D]; None: M = N.

    Returns:
        [N], the rows of clips j; the mean over all processes is the formula.
    """
    given, all_given = _with_everyone(student, of_all_processes)
    wanted, all_wanted = _with_everyone(teacher, of_all_processes)
    widest = max(len(all_given), student.shape[1], teacher.shape[1])
    part = max(1, MAX_ANGLE_ELEMENTS // max(1, len(all_given) * widest))
    if len(given) <= part:
        return _angle_rows(given, wanted, all_given, all_wanted)
    return torch.cat(
        [
            checkpoint(
                _angle_rows,
                *rows,
                all_given,
                all_wanted,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for rows in zip(given.split(part), wanted.split(part), strict=True)
        ]
    )


def _relative_distances(points: torch.Tensor, of_all_processes: Gather | None) -> torch.Tensor:
    """[N, M]."""
    mine, everyone = _with_everyone(points, of_all_processes)
    distances = torch.cdist(mine, everyone, compute_mode="donot_use_mm_for_euclid_dist")
    sums = distances.sum(dim=1)
    sums = sums if of_all_processes is None else of_all_processes(sums)
    num_pairs = len(everyone) * (len(everyone) - 1)
    mean = sums.sum() / max(1, num_pairs)
    return distances / torch.where(mean > 0, mean, 1)


def _with_everyone(
    points: torch.Tensor, of_all_processes: Gather | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [N, D] and those of all processes [M, D], divided by one number.

    Relations do not depend on it, so it has no part in the gradient, and squares stay finite.
    """
    everyone = points if of_all_processes is None else of_all_processes(points)
    mean = everyone.detach().abs().sum() / max(1, everyone.numel())
    scale = torch.where(mean > 0, mean, 1)
    return points / scale, everyone / scale


def _angle_rows(
    student: torch.Tensor,
    teacher: torch.Tensor,
    all_students: torch.Tensor,
    all_teachers: torch.Tensor,
) -> torch.Tensor:
    """[n], of the angles at n of the clips."""
    given, wanted = _cosines(student, all_students), _cosines(teacher, all_teachers)
    return F.smooth_l1_loss(given, wanted, reduction="none").mean(dim=(1, 2))


def _cosines(points: torch.Tensor, everyone: torch.Tensor) -> torch.Tensor:
    """[n, M, M], of the angles at `points`."""
    directions = unit_vectors(everyone[None] - points[:, None])
    return directions @ directions.mT


class RKDDistance(TermLoss[RKDDistanceTerm]):
    """`rkd_distance` of pooled features or logits, over the clips of all processes."""

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        points = _points(outputs, self.term)
        return rkd_distance(*points, of_all_processes=outputs.of_all_processes)


class RKDAngle(TermLoss[RKDAngleTerm]):
    """`rkd_angle` of pooled features or logits, over the clips of all processes."""

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        points = _points(outputs, self.term)
        return rkd_angle(*points, of_all_processes=outputs.of_all_processes)


def _points(
    outputs: Outputs, term: RKDDistanceTerm | RKDAngleTerm
) -> tuple[torch.Tensor, torch.Tensor]:
    """The student's and the teacher's, [N, D] each."""
    if term.source == "logits":
        return outputs.student.logits, outputs.wanted.logits
    return outputs.student.pooled, outputs.wanted.pooled


LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {
    RKDDistanceTerm: RKDDistance,
    RKDAngleTerm: RKDAngle,
}
