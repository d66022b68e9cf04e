"""Losses on features: FitNets hints and attention transfer. Each returns one value a clip, [N].

They compute in the dtype of their inputs: call them in float32 or better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F

from videokd.distill.losses.base import Outputs, TermLoss
from videokd.distill.projections import ChannelProjection, align_in_space, align_in_time
from videokd.distill.terms.base import WeightedTerm
from videokd.distill.terms.features import AttentionTransferTerm, HintTerm
from videokd.types import TapOutput


def hint(
    student: TapOutput,
    teacher: TapOutput,
    *,
    projection: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """`mean((projection(f_s) - f_t)^2)` over channels, steps and cells (Romero et al., 2015).

    The teacher is read at the student's seconds; the finer grid is pooled to the coarser one
    before the projection (both are linear in space, so the order only saves work).

    Args:
        student: features [N, C_s, t_s, h_s, w_s].
        teacher: features [N, C_t, t_t, h_t, w_t].
        projection: [N, C_s, t, h, w] to [N, C_t, t, h, w].

    Returns:
        [N].
    """
    wanted = align_in_time(teacher.features, teacher.step_seconds, student.step_seconds)
    given, wanted = align_in_space(student.features, wanted)
    return (projection(given) - wanted).square().flatten(1).mean(dim=1)


def attention_transfer(
    student: TapOutput,
    teacher: TapOutput,
    *,
    over: Literal["space", "space_time"] = "space",
) -> torch.Tensor:
    """`mean((q_s - q_t)^2)`, q the L2-normalised `vec(mean_C f^2)` (Zagoruyko & Komodakis, 2017).

    The mean runs over the map's cells and steps, as in the authors' code, whose weight is 1000.
    Channels are summed up first, so they may differ and nothing is learned. The maps of f^2 are
    then aligned: the teacher's read at the student's seconds, the finer grid pooled to the coarser.

    Args:
        student: features [N, C_s, t_s, h_s, w_s].
        teacher: features [N, C_t, t_t, h_t, w_t].
        over: `space` normalises the map of each step, `space_time` that of the clip.

    Returns:
        [N].
    """
    wanted = align_in_time(_energy_map(teacher), teacher.step_seconds, student.step_seconds)
    given, wanted = align_in_space(_energy_map(student), wanted)
    first = 3 if over == "space" else 2
    difference = F.normalize(given.flatten(first), dim=-1) - F.normalize(
        wanted.flatten(first), dim=-1
    )
    return difference.square().flatten(1).mean(dim=1)


def _energy_map(tap: TapOutput) -> torch.Tensor:
    """[N, 1, t, h, w]."""
    return tap.features.square().mean(dim=1, keepdim=True)


class Hint(TermLoss[HintTerm]):
    """`hint` with a projection that is learned with the student."""

    def build(self, generator: torch.Generator) -> None:
        """The projection."""
        student, teacher = self.shapes(self.term.tap_pairs[0])
        self.projection = ChannelProjection(
            student.channels, teacher.channels, generator=generator, norm=self.term.norm
        )

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        return hint(*outputs.pair(self.term.tap_pairs[0]), projection=self.projection)


class AttentionTransfer(TermLoss[AttentionTransferTerm]):
    """The mean of `attention_transfer` over the pairs of taps."""

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        layers = [
            attention_transfer(*outputs.pair(pair), over=self.term.over) for pair in self.term.pairs
        ]
        return torch.stack(layers).mean(dim=0)


LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {
    HintTerm: Hint,
    AttentionTransferTerm: AttentionTransfer,
}
