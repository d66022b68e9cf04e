"""Settings of the terms on logits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from videokd.distill.terms.base import WeightedTerm


class CrossEntropyTerm(WeightedTerm):
    """Cross entropy with the labels; videos without a label do not count."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over all K classes."""

    @property
    def needs_teacher(self) -> bool:
        """Labels come from the index."""
        return False


class SoftTargetsTerm(WeightedTerm):
    """KL from the teacher's softened class probabilities to the student's, times temperature^2."""

    kind: Literal["soft_targets"] = "soft_targets"
    temperature: float = Field(default=4.0, gt=0)
    """Divides both sides' logits before the softmax."""


class HardTargetsTerm(WeightedTerm):
    """Cross entropy with the class that the teacher ranks first."""

    kind: Literal["hard_targets"] = "hard_targets"


LogitTerm = CrossEntropyTerm | SoftTargetsTerm | HardTargetsTerm
