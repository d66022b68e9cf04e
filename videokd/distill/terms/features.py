"""Settings of the terms on spatial and pooled features."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from videokd.distill.terms.base import TapPair, WeightedTerm


class HintTerm(WeightedTerm):
    """Mean squared error of a projected student tap against a teacher tap (FitNets)."""

    kind: Literal["hint"] = "hint"
    student_tap: str
    """Name of a tap of the student."""
    teacher_tap: str
    """Name of a tap of the teacher."""
    norm: Literal["none", "batch"] = "none"
    """Batch norm after the projection. Its statistics are each process's own, so with `batch` a
    run on several processes is not the same as one process with the same global batch."""

    @property
    def tap_pairs(self) -> tuple[TapPair, ...]:
        """The one pair."""
        return (TapPair(student_tap=self.student_tap, teacher_tap=self.teacher_tap),)


class AttentionTransferTerm(WeightedTerm):
    """Squared difference of normalised activation maps, mean over the pairs of taps (AT, p = 2)."""

    kind: Literal["attention_transfer"] = "attention_transfer"
    pairs: tuple[TapPair, ...] = Field(min_length=1)
    """The taps to compare; the loss is the mean over them."""
    over: Literal["space", "space_time"] = "space"
    """What a map is normalised over: `space`, each step's map by itself (where to look, as in the
    paper on images, so that its weights carry over); `space_time`, the clip's whole map."""

    @property
    def tap_pairs(self) -> tuple[TapPair, ...]:
        """The pairs as given."""
        return self.pairs


FeatureTerm = HintTerm | AttentionTransferTerm
