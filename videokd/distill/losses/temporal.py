"""Losses on when a network is active. Each returns one value a clip, [N].

They compute in the dtype of their inputs: call them in float32 or better.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from videokd.distill.losses.base import Outputs, TermLoss
from videokd.distill.projections import align_steps
from videokd.distill.terms.base import WeightedTerm
from videokd.distill.terms.temporal import TemporalAttentionTerm
from videokd.errors import ConfigError
from videokd.types import TapOutput

SMALLEST_WEIGHT = 1e-12
"""Attention weights below it count as this much: one that underflowed has no logarithm, and the
gradient of the logarithm, its inverse, must not overflow when it is weighted."""


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
    """[N, t]."""
    return tap.features.square().mean(dim=(1, 3, 4))


def _relative(energy: torch.Tensor) -> torch.Tensor:
    """Energies [N, t] divided by their mean over time; a silent clip stays at 0."""
    mean = energy.mean(dim=1, keepdim=True)
    return energy / mean.clamp(min=1e-12)


class TemporalAttention(TermLoss[TemporalAttentionTerm]):
    """`temporal_attention` of a pair of taps, or `attention_weights` of the networks' own."""

    def build(self, generator: torch.Generator) -> None:  # noqa: ARG002 - nothing to learn
        """Taps that keep time."""
        for pair in self.term.tap_pairs:
            self.needs_time(pair)

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        if self.term.source == "map":
            pair = outputs.pair(self.term.tap_pairs[0])
            return temporal_attention(*pair, tau=self.term.tau)
        sides: list[tuple[torch.Tensor, torch.Tensor]] = []
        for role, output in (("student", outputs.student), ("teacher", outputs.wanted)):
            if output.attention is None or output.attention_seconds is None:
                raise ConfigError(
                    f"{self.where}.source: the {role} has no temporal attention weights; "
                    "use 'map', or a temporal module that has them"
                )
            sides.append((output.attention, output.attention_seconds))
        (given, given_seconds), (wanted, wanted_seconds) = sides
        return attention_weights(
            given,
            wanted,
            student_seconds=given_seconds,
            teacher_seconds=wanted_seconds,
            tau=self.term.tau,
        )


LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {TemporalAttentionTerm: TemporalAttention}
