"""Losses on features: hints, attention transfer, similarity preserving, channel-wise, pooled.

Each returns one value a clip, [N], and computes in the dtype of its inputs: call them in float32
or better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from videokd.distill.losses.base import Outputs, TermLoss
from videokd.distill.projections import (
    ChannelProjection,
    PooledProjection,
    align_in_space,
    align_in_time,
)
from videokd.distill.terms.base import TapPair, WeightedTerm
from videokd.distill.terms.features import (
    AttentionTransferTerm,
    ChannelWiseTerm,
    HintTerm,
    PooledMseTerm,
    SimilarityPreservingTerm,
)
from videokd.errors import ConfigError
from videokd.types import TapOutput

Over = Literal["space", "space_time"]
Map = Callable[[torch.Tensor], torch.Tensor]

SMALLEST = 1e-12
"""Of what is divided by: features that never exceed it, and rows that do not after the largest
feature was set to 1, are silent. They are compared as zeros, with a gradient of 0."""


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def hint(student: TapOutput, teacher: TapOutput, *, projection: Map) -> torch.Tensor:
    """`mean((projection(f_s) - f_t)^2)` over channels, steps and cells (Romero et al., 2015).

    The paper has half the sum of squares; the mean is what later code has, and its weight of 100
    with it. The teacher is read at the student's seconds; the finer grid is pooled to the coarser
    one before the projection, which saves work; a batch norm in it sees the pooled cells.

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
    student: TapOutput, teacher: TapOutput, *, over: Over = "space"
) -> torch.Tensor:
    """`mean((q_s - q_t)^2)`, q the L2-normalised `vec(mean_C f^2)` (Zagoruyko & Komodakis, 2017).

    The mean runs over the map's cells and steps. Channels are averaged first, so they may differ
    and nothing is learned. The maps of f^2 are then aligned: the teacher's read at the student's
    seconds, the finer grid pooled to the coarser.

    Paper and code differ: equation 2 has half the norm (p = 2) of the difference of a clip's maps,
    the authors' code, and torchdistill's `ATLoss` by default, its square over the number of cells.
    The code is followed: the weight of 1000 and the numbers that later work compares with belong to
    it. The gradient of a norm would keep its size as the maps come to agree, and is undefined where
    they do. Both square the activations; that the paper adds channels up and the code averages them
    is taken out again by the normalisation.

    Args:
        student: features [N, C_s, t_s, h_s, w_s].
        teacher: features [N, C_t, t_t, h_t, w_t].
        over: `space` normalises the map of each step, `space_time` that of the clip.

    Returns:
        [N]. A map without any activation is 0 everywhere and has no gradient.
    """
    wanted = align_in_time(_energy_map(teacher), teacher.step_seconds, student.step_seconds)
    given, wanted = align_in_space(_energy_map(student), wanted)
    first = _first_position(over)
    difference = _unit_rows(given.flatten(first)) - _unit_rows(wanted.flatten(first))
    return difference.square().flatten(1).mean(dim=1)


def similarity_preserving(
    student: torch.Tensor, teacher: torch.Tensor, *, of_all: Map = _as_it_is
) -> torch.Tensor:
    """Each clip's row of `|G_s - G_t|_F^2 / M^2`, times M (Tung & Mori, 2019).

    G is the Gram matrix of the batch, `F F^T` with F [M, C*t*h*w], its rows divided by their L2
    norms. Each side has its own, over whatever it saw: nothing has to be aligned or projected.
    (torchdistill 1.1.5 divides rows by their L1 norms; the paper and this by their L2 norms.)

    Args:
        student: [N, ...]; all further axes are flattened.
        teacher: [N, ...], of any other size.
        of_all: joins the rows of all processes, [N, ...] to [M, ...], see `Gather`.

    Returns:
        [N]; the mean over all M clips is the formula.
    """
    difference = _similarities(student, of_all) - _similarities(teacher, of_all)
    return difference.square().mean(dim=1)


def channel_wise(
    student: TapOutput,
    teacher: TapOutput,
    *,
    temperature: float,
    over: Over = "space",
    projection: Map = _as_it_is,
) -> torch.Tensor:
    """`T^2 * mean_C KL(phi(f_t) || phi(f_s))`, phi the softmax over positions (Shu et al., 2021).

    A position is a cell of a step's map, or with `space_time` of the whole clip's; with `space`
    the mean runs over the steps too, so a clip of one step is the paper's image. The teacher is
    read at the student's seconds; the finer grid is pooled to the coarser before the projection.

    Args:
        student: features [N, C_s, t_s, h_s, w_s].
        teacher: features [N, C_t, t_t, h_t, w_t].
        temperature: T, above 0.
        over: what the softmax runs over.
        projection: [N, C_s, t, h, w] to [N, C_t, t, h, w]. A constant that it adds to a channel is
            invisible here.

    Returns:
        [N], at least 0.
    """
    wanted = align_in_time(teacher.features, teacher.step_seconds, student.step_seconds)
    given, wanted = align_in_space(student.features, wanted)
    first = _first_position(over)
    log_given = F.log_softmax(projection(given).flatten(first) / temperature, dim=-1)
    log_wanted = F.log_softmax(wanted.flatten(first) / temperature, dim=-1)
    divergence = F.kl_div(log_given, log_wanted, reduction="none", log_target=True).sum(dim=-1)
    return divergence.flatten(1).mean(dim=1) * temperature**2


def pooled_mse(
    student: torch.Tensor, teacher: torch.Tensor, *, projection: Map = _as_it_is
) -> torch.Tensor:
    """`mean((projection(p_s) - p_t)^2)`, p what the classifier sees (MARS, Crasto et al., 2019).

    The mean over D is the authors' code's, and its weight of 50 with it. There both networks are of
    equal size; a projection is for those that are not.

    Args:
        student: [N, D_s].
        teacher: [N, D_t].
        projection: [N, D_s] to [N, D_t].

    Returns:
        [N].
    """
    return (projection(student) - teacher).square().mean(dim=1)


def _first_position(over: Over) -> int:
    """The axis of [N, C, t, h, w] from which on positions are flattened."""
    return 3 if over == "space" else 2


def _energy_map(tap: TapOutput) -> torch.Tensor:
    """mean_C f^2, [N, 1, t, h, w], of a clip's features divided by their largest.

    Who normalises the map does not see the factor, and the square of its square stays finite.
    """
    largest = tap.features.detach().abs().amax(dim=(1, 2, 3, 4), keepdim=True)
    features = tap.features / largest.clamp(min=SMALLEST)
    return features.square().mean(dim=1, keepdim=True)


def _similarities(features: torch.Tensor, of_all: Map) -> torch.Tensor:
    """Rows of the Gram matrix of all clips, [N, M], each divided by its norm."""
    mine = features.flatten(1)
    everyone = of_all(mine)
    # One factor for all clips, which the norm of a row takes out again: products stay finite.
    largest = everyone.detach().abs().amax(dim=1)
    factor = torch.cat([largest, largest.new_full((1,), SMALLEST)]).amax()
    return _unit_rows((mine / factor) @ (everyone / factor).T)


def _unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """[..., positions], each row divided by its L2 norm; a silent row is 0, without a gradient."""
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    is_silent = norm <= SMALLEST
    return torch.where(is_silent, 0, rows / torch.where(is_silent, 1, norm))


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

    def build(self, generator: torch.Generator) -> None:  # noqa: ARG002 - nothing to learn
        """Maps of more than one position."""
        for pair in self.term.pairs:
            _needs_positions(self, pair, over=self.term.over)

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        layers = [
            attention_transfer(*outputs.pair(pair), over=self.term.over) for pair in self.term.pairs
        ]
        return torch.stack(layers).mean(dim=0)


class SimilarityPreserving(TermLoss[SimilarityPreservingTerm]):
    """`similarity_preserving` of a pair of taps, over the clips of all processes."""

    aligns_time = False
    aligns_space = False

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        student, teacher = outputs.pair(self.term.tap_pairs[0])
        return similarity_preserving(
            student.features, teacher.features, of_all=outputs.of_all_processes
        )


class ChannelWise(TermLoss[ChannelWiseTerm]):
    """`channel_wise` with a projection where the channels differ."""

    def build(self, generator: torch.Generator) -> None:
        """The projection, and maps of more than one position."""
        pair = self.term.tap_pairs[0]
        _needs_positions(self, pair, over=self.term.over)
        given, wanted = (shape.channels for shape in self.shapes(pair))
        self.projection: nn.Module = nn.Identity()
        if given != wanted:  # no bias: the loss could not see it
            self.projection = ChannelProjection(given, wanted, generator=generator, bias=False)

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        return channel_wise(
            *outputs.pair(self.term.tap_pairs[0]),
            temperature=self.term.temperature,
            over=self.term.over,
            projection=self.projection,
        )


class PooledMse(TermLoss[PooledMseTerm]):
    """`pooled_mse` with a projection where D differs."""

    def build(self, generator: torch.Generator) -> None:
        """The projection."""
        given, wanted = self.networks.student_pooled_dim, self.networks.teacher_pooled_dim
        assert wanted is not None, "checked before"
        self.projection: nn.Module = nn.Identity()
        if given != wanted:
            self.projection = PooledProjection(given, wanted, generator=generator)

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]."""
        given, wanted = outputs.student.pooled, outputs.wanted.pooled
        return pooled_mse(given, wanted, projection=self.projection)


def _needs_positions(loss: TermLoss[Any], pair: TapPair, *, over: Over) -> None:
    """Refuse a pair whose common map is a single position: normalised, it is always 1.

    Raises:
        ConfigError: it is.
    """
    student, teacher = loss.shapes(pair)
    positions = min(student.h, teacher.h) * min(student.w, teacher.w)
    if over == "space_time":
        positions *= student.t
    if positions < 2:
        raise ConfigError(
            f"{loss.where}: {loss.term.kind} of {pair.student_tap!r} and {pair.teacher_tap!r} is "
            f"over {over}, and there the two share one position; take taps with a finer grid"
        )


LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {
    HintTerm: Hint,
    AttentionTransferTerm: AttentionTransfer,
    SimilarityPreservingTerm: SimilarityPreserving,
    ChannelWiseTerm: ChannelWise,
    PooledMseTerm: PooledMse,
}
