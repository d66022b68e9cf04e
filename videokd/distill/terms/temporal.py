"""Settings of the terms on time: when a network is active, and how what it sees changes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from videokd.distill.terms.base import TapPair, WeightedTerm


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
    def tap_pairs(self) -> tuple[TapPair, ...]:
        """The one pair for `map`, none for `weights`."""
        if self.student_tap is None or self.teacher_tap is None:
            return ()
        return (TapPair(student_tap=self.student_tap, teacher_tap=self.teacher_tap),)


TemporalTerm = TemporalAttentionTerm
