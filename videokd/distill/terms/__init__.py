"""The settings of the objective: named, weighted terms. Checked without importing torch.

```yaml
objective:
  terms:
    labels: {kind: cross_entropy, weight: 0.1, label_smoothing: 0.1}
    soft: {kind: soft_targets, weight: 0.9, temperature: 4}
    middle: {kind: hint, weight: 100, student_tap: stage3, teacher_tap: res4}
    where:
      kind: attention_transfer
      weight: 1000
      pairs:
        - {student_tap: stage2, teacher_tap: res3}
        - {student_tap: stage3, teacher_tap: res4}
    when: {kind: temporal_attention, weight: 10, student_tap: stage3, teacher_tap: res4, tau: 0.5}
```

A weight of 0 switches a term off: it builds nothing, needs no teacher and no tap, and is reported
as 0. So `objective.terms.soft.weight=0` turns a distilled run into its control.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from videokd.config import Config
from videokd.distill.terms.base import TapPair, WeightedTerm
from videokd.distill.terms.features import AttentionTransferTerm, FeatureTerm, HintTerm
from videokd.distill.terms.logits import (
    CrossEntropyTerm,
    HardTargetsTerm,
    LogitTerm,
    SoftTargetsTerm,
)
from videokd.distill.terms.temporal import TemporalAttentionTerm, TemporalTerm

__all__ = [
    "AttentionTransferTerm",
    "CrossEntropyTerm",
    "HardTargetsTerm",
    "HintTerm",
    "ObjectiveConfig",
    "SoftTargetsTerm",
    "TapPair",
    "TemporalAttentionTerm",
    "Term",
    "WeightedTerm",
]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Term = Annotated[LogitTerm | FeatureTerm | TemporalTerm, Field(discriminator="kind")]


class ObjectiveConfig(Config):
    """What is minimised: the sum of named, weighted terms."""

    terms: dict[str, Term] = Field(min_length=1)
    """Name -> term. The names are those of the loss curves."""

    @field_validator("terms")
    @classmethod
    def _names_and_weights(cls, terms: dict[str, Term]) -> dict[str, Term]:
        for name in terms:
            if not _NAME.fullmatch(name) or name == "total":
                raise ValueError(
                    f"{name!r} cannot name a term: use letters, digits and '_', not 'total'"
                )
        if not any(term.weight > 0 for term in terms.values()):
            raise ValueError("every term has weight 0, so there is nothing to learn from")
        return terms

    @property
    def active_terms(self) -> dict[str, Term]:
        """The terms with a weight above 0, in their order."""
        return {name: term for name, term in self.terms.items() if term.weight > 0}

    @property
    def needs_teacher(self) -> bool:
        """Whether any active term compares with a teacher."""
        return any(term.needs_teacher for term in self.active_terms.values())

    @property
    def student_taps(self) -> tuple[str, ...]:
        """The student's taps that the active terms use, each once."""
        return self._taps("student_tap")

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's taps that the active terms use, each once."""
        return self._taps("teacher_tap")

    def _taps(self, side: Literal["student_tap", "teacher_tap"]) -> tuple[str, ...]:
        pairs = [pair for term in self.active_terms.values() for pair in term.tap_pairs]
        return tuple(dict.fromkeys(getattr(pair, side) for pair in pairs))
