"""Settings of the terms on time: when a network is active, and how what it sees changes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from videokd.distill.terms.base import Reads, TapPair, WeightedTerm
from videokd.distill.terms.features import OnePairTerm


class TemporalAttentionTerm(WeightedTerm):
    """KL from the teacher's attention over time to the student's, aligned by seconds."""

    kind: Literal["temporal_attention"] = "temporal_attention"
    source: Literal["map", "weights"] = "map"
    """`map`: attention is read off the energy of a tap's features. `weights`: the attention
    weights of the two networks' own temporal modules, where both have them."""
    student_tap: str | None = None
    """Name of a tap of the student, for `source: map`."""
    teacher_tap: str | None = None
    """Name of a tap of the teacher, for `source: map`."""
    tau: float = Field(default=1.0, gt=0)
    """Softness of both attentions. For `map`, in units of the clip's mean energy: at 1, a step
    with twice the mean energy weighs e times a step of mean energy. For `weights`, the exponent is
    1/tau: 1 leaves them as they are."""

    @model_validator(mode="after")
    def _taps_fit_the_source(self) -> TemporalAttentionTerm:
        taps = (self.student_tap, self.teacher_tap)
        if self.source == "map" and None in taps:
            raise ValueError("source 'map' needs student_tap and teacher_tap")
        if self.source == "weights" and taps != (None, None):
            raise ValueError("source 'weights' takes no student_tap and no teacher_tap")
        return self

    @property
    def reads(self) -> Reads:
        """A tap, or the weights of a temporal module."""
        return "taps" if self.source == "map" else "attention"

    @property
    def tap_pairs(self) -> tuple[TapPair, ...]:
        """The one pair for `map`, none for `weights`."""
        if self.student_tap is None or self.teacher_tap is None:
            return ()
        return (TapPair(student_tap=self.student_tap, teacher_tap=self.teacher_tap),)


class TemporalRelationTerm(OnePairTerm):
    """Which moments of a clip look alike: squared difference of cosine similarities of all steps.

    Nothing is learned: the taps may differ in everything.
    """

    kind: Literal["temporal_relation"] = "temporal_relation"
    descriptor: Literal["pooled", "cells"] = "pooled"
    """What describes a step: `pooled`, the mean over its cells (what is seen); `cells`, all of them
    side by side (what is seen where), on the coarser grid of the two."""


class TemporalDifferenceTerm(OnePairTerm):
    """How features change from step to step: the direction of all changes of a clip, a second."""

    kind: Literal["temporal_difference"] = "temporal_difference"
    descriptor: Literal["pooled", "cells"] = "cells"
    """What changes: `cells`, each cell by itself (what moves where); `pooled`, their mean."""


class TokenRelationTerm(OnePairTerm):
    """Which cells of a clip look alike, across space and time: cosine similarities of all pairs,
    pulled to the teacher's where they differ by more than a margin (VideoREPA).

    Nothing is learned: the taps may differ in everything.
    """

    kind: Literal["token_relation"] = "token_relation"
    pairs: Literal["all", "temporal", "spatial"] = "all"
    """Which pairs of cells: `all`; `temporal`, those of different steps; `spatial`, those of the
    same step."""
    margin: float = Field(default=0.1, ge=0, lt=2)
    """Similarities that differ by less cost nothing: a student need not copy the teacher's. They
    never differ by more than 2."""
    max_side_cells: int = Field(default=7, ge=1)
    """Finer grids are pooled until no side has more cells. Memory goes with the square of cells
    times steps: on 8 steps of 7x7 cells, 0.6 MB for each of a few tensors, a clip and network; on
    14x14 sixteen times that."""


TemporalTerm = (
    TemporalAttentionTerm | TemporalRelationTerm | TemporalDifferenceTerm | TokenRelationTerm
)
