"""Losses on time: when a network is active, what looks alike, and how it changes. Each returns one
value a clip, [N].

They compute in the dtype of their inputs: call them in float32 or better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F

from videokd.distill.losses.base import Outputs, TermLoss
from videokd.distill.losses.directions import SMALLEST, cosine_similarities, unit_vectors
from videokd.distill.projections import (
    ChannelProjection,
    align_in_space,
    align_in_time,
    align_steps,
    pool_in_space,
)
from videokd.distill.terms.base import WeightedTerm
from videokd.distill.terms.temporal import (
    TemporalAttentionTerm,
    TemporalDifferenceTerm,
    TemporalRelationTerm,
    TokenRelationTerm,
)
from videokd.errors import ConfigError
from videokd.types import TapOutput

SMALLEST_WEIGHT = 1e-12
"""Attention weights below it count as this much: one that underflowed has no logarithm, and the
gradient of the logarithm, its inverse, must not overflow when it is weighted."""

SHORTEST_GAP_SECONDS = 1e-4
"""Steps that are closer are of the same frame, shown again where a video is shorter than the clip;
float32 seconds are no finer an hour into a video."""


def temporal_attention(student: TapOutput, teacher: TapOutput, *, tau: float) -> torch.Tensor:
    """`KL(a_t || a_s)`, a the softmax over time of the energy `mean_{C,H,W} f^2`.

    The teacher's energies are read at the student's seconds. Each clip's energies are then divided
    by their mean over time, so `tau` is in units of that mean and the scale of the features, which
    differs between networks and layers, does not matter. (Dividing by their standard deviation
    instead would blow the noise of a steady clip up to a full attention.)

    Args:
        student: features [N, C_s, t_s, h_s, w_s].
        teacher: features [N, C_t, t_t, h_t, w_t].
        tau: softness, above 0.

    Returns:
        [N], at least 0.
    """
    wanted = align_steps(_step_energy(teacher), teacher.step_seconds, student.step_seconds)
    return _softmax_kl(_relative(_step_energy(student)), _relative(wanted), tau=tau)


def attention_weights(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    student_seconds: torch.Tensor,
    teacher_seconds: torch.Tensor,
    tau: float,
) -> torch.Tensor:
    """`KL(a_t || a_s)` of attention weights over time, each to the power 1/tau and renormalised.

    The teacher's weights are read at the student's seconds.

    Args:
        student: [N, t_s], at least 0.
        teacher: [N, t_t], at least 0.
        student_seconds: [N, t_s].
        teacher_seconds: [N, t_t].
        tau: softness, above 0; 1 leaves the weights as they are.

    Returns:
        [N], at least 0.
    """
    wanted = align_steps(teacher, teacher_seconds, student_seconds)
    given, wanted = student.clamp(min=SMALLEST_WEIGHT), wanted.clamp(min=SMALLEST_WEIGHT)
    return _softmax_kl(given.log(), wanted.log(), tau=tau)


def _softmax_kl(student: torch.Tensor, teacher: torch.Tensor, *, tau: float) -> torch.Tensor:
    given, wanted = F.log_softmax(student / tau, dim=1), F.log_softmax(teacher / tau, dim=1)
    return F.kl_div(given, wanted, reduction="none", log_target=True).sum(dim=1)


def _step_energy(tap: TapOutput) -> torch.Tensor:
    """mean_{C,H,W} f^2, [N, t], of a clip's features divided by their largest.

    Who divides by the mean over time does not see the factor, and no square overflows.
    """
    largest = tap.features.detach().abs().amax(dim=(1, 2, 3, 4), keepdim=True)
    return (tap.features / largest.clamp(min=SMALLEST)).square().mean(dim=(1, 3, 4))


def _relative(energy: torch.Tensor) -> torch.Tensor:
    """Energies [N, t] divided by their mean over time; a silent clip stays at 0."""
    mean = energy.mean(dim=1, keepdim=True)
    return energy / mean.clamp(min=1e-12)


def temporal_relation(
    student: TapOutput, teacher: TapOutput, *, descriptor: Literal["pooled", "cells"] = "pooled"
) -> torch.Tensor:
    """`mean((S_s - S_t)^2)` over pairs of different steps, S the cosine similarities of steps.

    S, [t, t] for each clip, says which moments look alike to a network: what changes when, what
    stays, what comes back. The squared difference of cosine similarities is that of structured
    distillation (Liu et al., CVPR 2019), there between the cells of an image, and of its form
    between the cells of two frames of a video (Liu et al., ECCV 2020). The teacher is read at the
    student's seconds. Neither the scale nor a rotation of the channels matters, of either side.

    Args:
        student: features [N, C_s, t_s, h_s, w_s], t_s at least 2.
        teacher: features [N, C_t, t_t, h_t, w_t].
        descriptor: what describes a step: `pooled`, its mean over cells; `cells`, all of its cells
            on the coarser grid of the two.

    Returns:
        [N], in [0, 4].
    """
    difference = torch.stack(
        [
            cosine_similarities(features.movedim(2, 1).flatten(2))
            for features in _described(student, teacher, descriptor)
        ]
    ).diff(dim=0)[0]
    num_steps = difference.shape[1]
    of_one_step = torch.eye(num_steps, dtype=torch.bool, device=difference.device)
    # A step without features is not even like itself: the diagonal is left out, not assumed equal.
    squared = difference.square().masked_fill(of_one_step, 0)
    return squared.sum(dim=(1, 2)) / (num_steps * (num_steps - 1))


def temporal_difference(
    student: TapOutput,
    teacher: TapOutput,
    *,
    projection: Callable[[torch.Tensor], torch.Tensor],
    descriptor: Literal["pooled", "cells"] = "cells",
) -> torch.Tensor:
    """`||q_s - q_t||^2`, q the L2-normalised changes per second of a clip from step to step.

    The change is `d_k = (f(k+1) - f(k)) / (seconds between)`, a channel and cell at a time; all of
    a clip's make up one vector, and q is its direction, so that steps and cells in which the
    teacher sees much motion weigh most. To distil changes instead of features is from delta
    distillation (Habibian et al., ECCV 2022), where a student learns how the teacher's features
    vary over time, for the teacher to be run on key frames only. The division by seconds, and the
    normalisation, which frees it from the networks' scales, are videokd's.

    Features that do not depend on time may be added to either side, and either side may be scaled,
    without a change. A clip in which the teacher sees none at all has no gradient. Between steps of
    one second (a clip that repeats a video's last frame) nothing is known to change.

    Args:
        student: features [N, C_s, t_s, h_s, w_s], t_s at least 2.
        teacher: features [N, C_t, t_t, h_t, w_t], read at the student's seconds.
        projection: linear, [N, C_s, t, h, w] to [N, C_t, t, h, w]; it is given changes, so a bias
            would be a change that is always there.
        descriptor: what changes: `cells`, on the coarser grid of the two; `pooled`, their mean.

    Returns:
        [N], in [0, 4]: twice one minus the cosine of the two sides' changes; at most 1, without a
        gradient, for a clip in which the teacher sees none.
    """
    given, wanted = (
        _change_per_second(features, student.step_seconds)
        for features in _described(student, teacher, descriptor)
    )
    difference = unit_vectors(projection(given).flatten(1)) - unit_vectors(wanted.flatten(1))
    return difference.square().sum(dim=1)


def token_relation(
    student: TapOutput,
    teacher: TapOutput,
    *,
    pairs: Literal["all", "temporal", "spatial"] = "all",
    margin: float = 0.1,
    max_side_cells: int = 7,
) -> torch.Tensor:
    """`mean(relu(|S_s - S_t| - margin))`, S the cosine similarities of cells (VideoREPA, Zhang et
    al., NeurIPS 2025).

    Over all pairs of a clip's cells in space and time, or those of different steps, or of the same
    step; a cell with itself counts in the mean where its step does, as in the authors' code. That
    brings the student to the teacher's grid and channels: by a learned projection, interpolation in
    time and a learned strided convolution in space. Here nothing is learned: the teacher is read at
    the student's seconds, and both are pooled to the coarser of their grids and `max_side_cells`.
    Neither the scale nor a rotation of the channels matters, of either side.

    Args:
        student: features [N, C_s, t, h_s, w_s], t at least 2 for `temporal`.
        teacher: features [N, C_t, t_t, h_t, w_t].
        pairs: which pairs of cells.
        margin: at least 0; smaller differences are free, and have no gradient.
        max_side_cells: with g <= `max_side_cells` cells a side, `all` and `temporal` hold a few
            tensors [N, t*g*g, t*g*g], `spatial` [N, t, g*g, g*g].

    Returns:
        [N], in [0, 2].
    """
    sides = []
    for features in _described(student, teacher, "cells"):
        size = (min(features.shape[3], max_side_cells), min(features.shape[4], max_side_cells))
        cells = pool_in_space(features, size).movedim(1, -1).flatten(2, 3)  # [N, t, g*g, C]
        sides.append(cosine_similarities(cells if pairs == "spatial" else cells.flatten(1, 2)))
    num_steps = student.features.shape[2]
    apart = F.relu((sides[0] - sides[1]).abs() - margin)
    if pairs != "temporal":
        return apart.flatten(1).mean(dim=1)
    same_step = torch.eye(num_steps, dtype=torch.bool, device=apart.device)[:, None, :, None]
    by_step = apart.unflatten(2, (num_steps, -1)).unflatten(1, (num_steps, -1))
    # The mean is over the pairs that are left: t - 1 of t steps.
    share = (num_steps - 1) / num_steps
    return by_step.masked_fill(same_step, 0).flatten(1).mean(dim=1) / share


def _described(
    student: TapOutput, teacher: TapOutput, descriptor: Literal["pooled", "cells"]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides' features at the student's seconds: [N, C, t, 1, 1], or on the coarser grid."""
    wanted = teacher.features
    given = student.features
    if descriptor == "pooled":
        given, wanted = (side.mean(dim=(3, 4), keepdim=True) for side in (given, wanted))
    wanted = align_in_time(wanted, teacher.step_seconds, student.step_seconds)
    return align_in_space(given, wanted)


def _change_per_second(features: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
    """[N, C, t, h, w] at seconds [N, t] to [N, C, t - 1, h, w]; 0 where no time passes."""
    gaps = seconds.diff(dim=1).to(features.dtype)
    passes = gaps.abs() > SHORTEST_GAP_SECONDS
    per_second = torch.where(passes, 1 / torch.where(passes, gaps, 1), 0)
    return features.diff(dim=2) * per_second[:, None, :, None, None]


class TemporalAttention(TermLoss[TemporalAttentionTerm]):
    """`temporal_attention` of a pair of taps, or `attention_weights` of the networks' own."""

    aligns_space = False

    def build(self, generator: torch.Generator) -> None:  # noqa: ARG002 - nothing to learn
        """Taps that keep time, or networks that attend."""
        for pair in self.term.tap_pairs:
            self.needs_time(pair)
        if self.term.source == "weights":
            for role, attends in (
                ("student", self.networks.student_attends),
                ("teacher", self.networks.teacher_attends),
            ):
                if attends is False:
                    raise self._without_attention(role)

    def _without_attention(self, role: str) -> ConfigError:
        return ConfigError(
            f"{self.where}.source: the {role} has no temporal attention weights; use 'map', or a "
            "temporal module that has them"
        )

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        if self.term.source == "map":
            pair = outputs.pair(self.term.tap_pairs[0])
            return temporal_attention(*pair, tau=self.term.tau)
        sides: list[tuple[torch.Tensor, torch.Tensor]] = []
        for role, output in (("student", outputs.student), ("teacher", outputs.wanted)):
            if output.attention is None or output.attention_seconds is None:
                raise self._without_attention(role)
            sides.append((output.attention, output.attention_seconds))
        (given, given_seconds), (wanted, wanted_seconds) = sides
        return attention_weights(
            given,
            wanted,
            student_seconds=given_seconds,
            teacher_seconds=wanted_seconds,
            tau=self.term.tau,
        )


class TemporalRelation(TermLoss[TemporalRelationTerm]):
    """`temporal_relation` of a pair of taps."""

    def build(self, generator: torch.Generator) -> None:  # noqa: ARG002 - nothing to learn
        """Taps that keep time."""
        self.needs_time(self.term.tap_pairs[0])
        self.aligns_space = self.term.descriptor == "cells"

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        pair = outputs.pair(self.term.tap_pairs[0])
        return temporal_relation(*pair, descriptor=self.term.descriptor)


class TemporalDifference(TermLoss[TemporalDifferenceTerm]):
    """`temporal_difference` with a projection that is learned with the student."""

    def build(self, generator: torch.Generator) -> None:
        """The projection; taps that keep time."""
        pair = self.term.tap_pairs[0]
        self.needs_time(pair)
        self.aligns_space = self.term.descriptor == "cells"
        student, teacher = self.shapes(pair)
        self.projection = ChannelProjection(
            student.channels, teacher.channels, generator=generator, bias=False
        )

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        return temporal_difference(
            *outputs.pair(self.term.tap_pairs[0]),
            projection=self.projection,
            descriptor=self.term.descriptor,
        )


class TokenRelation(TermLoss[TokenRelationTerm]):
    """`token_relation` of a pair of taps."""

    def build(self, generator: torch.Generator) -> None:  # noqa: ARG002 - nothing to learn
        """Taps that keep time, or several cells where only those of one step are compared.

        Raises:
            ConfigError: they do not.
        """
        pair = self.term.tap_pairs[0]
        if self.term.pairs != "spatial":
            return self.needs_time(pair)
        most = self.term.max_side_cells
        student, teacher = self.shapes(pair)
        if min(student.h, teacher.h, most) * min(student.w, teacher.w, most) == 1:
            raise ConfigError(
                f"{self.where}.pairs: 'spatial' compares the cells of a step, and on the grid that "
                f"{pair.student_tap!r} and {pair.teacher_tap!r} share there is one; take taps or "
                "max_side_cells with more, or other pairs"
            )

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        return token_relation(
            *outputs.pair(self.term.tap_pairs[0]),
            pairs=self.term.pairs,
            margin=self.term.margin,
            max_side_cells=self.term.max_side_cells,
        )


LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {
    TemporalAttentionTerm: TemporalAttention,
    TemporalRelationTerm: TemporalRelation,
    TemporalDifferenceTerm: TemporalDifference,
    TokenRelationTerm: TokenRelation,
}
