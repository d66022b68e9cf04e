"""Knowledge review: each level of the teacher reviewed by the student's level and all deeper ones.

Chen et al., CVPR 2021 (ReviewKD), for clips. Computes in the dtype of its inputs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from videokd.distill.losses.base import Outputs, TermLoss
from videokd.distill.projections import (
    BatchNorm,
    align_in_space,
    align_in_time,
    draw_weights,
    pool_in_space,
)
from videokd.distill.terms.base import TapPair, WeightedTerm
from videokd.distill.terms.features import ReviewTerm
from videokd.errors import ConfigError
from videokd.types import TapOutput

POOLED_CELLS = (4, 2, 1)
"""Cells per side at which the hierarchical context loss compares besides the full grid."""

MOST_COMMON_CHANNELS = 512
"""The channels in which levels are fused are the deepest student tap's, at most these."""


def hierarchical_context(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared error at several coarsenesses of the same map (HCL; Chen et al., 2021).

    `(mse + sum_l mse_l / 2^l) / (1 + sum_l 1 / 2^l)`, the l-th level average-pooled to 4, 2, 1
    cells per side; levels that are no coarser than the map are left out, as in the authors' code,
    where all of the weights come from. Each step is pooled by itself: what is right on average
    over time is not right, and there are few steps. A map of one step is the authors' image.

    Args:
        student: [N, C, t, h, w].
        teacher: the same shape.

    Returns:
        [N].
    """
    difference = student - teacher  # pooling is linear: pooled once instead of on both sides
    height, width = difference.shape[3:]
    total, weight, sum_of_weights = _mean_square(difference), 1.0, 1.0
    for cells in POOLED_CELLS:
        size = (min(cells, height), min(cells, width))
        if size == (height, width):
            continue
        weight /= 2
        total = total + weight * _mean_square(pool_in_space(difference, size))
        sum_of_weights += weight
    return total / sum_of_weights


def _mean_square(values: torch.Tensor) -> torch.Tensor:
    """[N, ...] to [N]."""
    return values.square().flatten(1).mean(dim=1)


class Fusion(nn.Module):
    """A level of the student, fused with what comes from the deeper ones (the paper's ABF).

    Both are weighed cell by cell by an attention that sees both. The deeper one is brought to this
    level's cells (nearest, as the authors do) and read at its seconds.

    Convolutions are over space: a kernel over time would mend in here what the student's own steps
    lack, and steps lie unevenly. First weights come from `generator` alone.

    Args:
        in_channels: of the student's tap.
        common_channels: in which levels are fused.
        out_channels: of the teacher's tap.
        is_deepest: there is nothing deeper to fuse with.
    """

    def __init__(
        self,
        in_channels: int,
        common_channels: int,
        out_channels: int,
        *,
        is_deepest: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.enter = _normed_conv(in_channels, common_channels, side=1, generator=generator)
        self.leave = _normed_conv(common_channels, out_channels, side=3, generator=generator)
        self.attention: nn.Conv3d | None = None
        if not is_deepest:
            self.attention = nn.utils.skip_init(nn.Conv3d, 2 * common_channels, 2, kernel_size=1)
            draw_weights(self.attention, generator)

    def fuse(self, level: TapOutput, deeper: TapOutput | None) -> TapOutput:
        """The student's tap [N, in_channels, t, h, w] and the level below it, fused, as
        [N, common_channels, t, h, w]; None for the deepest."""
        entered = self.enter(level.features)
        if self.attention is None:
            return level._replace(features=entered)
        assert deeper is not None
        read = align_in_time(deeper.features, deeper.step_seconds, level.step_seconds)
        read = F.interpolate(read, size=entered.shape[2:], mode="nearest")
        shares = self.attention(torch.cat([entered, read], dim=1)).sigmoid()
        return level._replace(features=entered * shares[:, :1] + read * shares[:, 1:])


def _normed_conv(
    in_channels: int, out_channels: int, *, side: int, generator: torch.Generator
) -> nn.Sequential:
    """A convolution over `side` x `side` cells of each step, and batch norm."""
    conv = nn.utils.skip_init(
        nn.Conv3d,
        in_channels,
        out_channels,
        kernel_size=(1, side, side),
        padding=(0, side // 2, side // 2),
        bias=False,
    )
    nn.init.kaiming_uniform_(conv.weight, a=1, generator=generator)  # the authors' a
    return nn.Sequential(conv, BatchNorm(out_channels))


class Review(TermLoss[ReviewTerm]):
    """The sum over levels of `hierarchical_context` of a fused level and the teacher's tap.

    The teacher is read at the student's seconds. Where the grids differ the finer is pooled to the
    coarser, and a deeper level is passed on with its own grid. (The authors' code stretches the
    student to the teacher's grid instead; on equal grids both are the same.)

    Batch norm inside takes its statistics from the clips of its own process, so a run on several
    processes is not quite that of one with the same global batch.
    """

    def build(self, generator: torch.Generator) -> None:
        """One `Fusion` a level."""
        shapes = [self.shapes(pair) for pair in self.term.pairs]
        self._check_order()
        common = min(MOST_COMMON_CHANNELS, shapes[-1][0].channels)
        self.levels = nn.ModuleList(
            Fusion(
                student.channels,
                common,
                teacher.channels,
                is_deepest=position == len(shapes) - 1,
                generator=generator,
            )
            for position, (student, teacher) in enumerate(shapes)
        )

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        total = torch.zeros_like(outputs.student.logits[:, 0])
        deeper: TapOutput | None = None
        for pair, level in reversed(list(zip(self.term.pairs, self.levels, strict=True))):
            assert isinstance(level, Fusion)
            student, teacher = outputs.pair(pair)
            deeper = level.fuse(student, deeper)
            wanted = align_in_time(teacher.features, teacher.step_seconds, student.step_seconds)
            given, wanted = align_in_space(deeper.features, wanted)
            total = total + hierarchical_context(level.leave(given), wanted)
        return total

    def _check_order(self) -> None:
        for shallow, deep in pairwise(self.term.pairs):
            of_sides = zip(
                _names(shallow), _names(deep), self.shapes(shallow), self.shapes(deep), strict=True
            )
            for before, name, larger, smaller in of_sides:
                few, many = (shape.h * shape.w for shape in (larger, smaller))
                if many > few:
                    raise ConfigError(
                        f"{self.where}.pairs: {name!r} has {many} cells a step and {before!r} "
                        f"before it {few}; list the pairs from shallow to deep"
                    )


def _names(pair: TapPair) -> tuple[str, str]:
    return pair.student_tap, pair.teacher_tap


LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {ReviewTerm: Review}
