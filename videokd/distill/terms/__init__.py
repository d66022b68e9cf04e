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

Any term may have a `schedule`, in shares of the training (`terms.schedule.Schedule`):

```yaml
soft: {kind: soft_targets, weight: 0.9, schedule: {warmup: 0.083}}
middle:
  kind: hint
  weight: 100
  student_tap: stage3
  teacher_tap: res4
  schedule: {stop: 0.5, decay: cosine}
```
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from videokd.config import Config
from videokd.distill.terms.base import TapPair, WeightedTerm
from videokd.distill.terms.features import (
    AttentionTransferTerm,
    ChannelWiseTerm,
    FeatureTerm,
    HintTerm,
    PooledMseTerm,
    ReviewTerm,
    SimilarityPreservingTerm,
)
from videokd.distill.terms.logits import (
    BinaryCrossEntropyTerm,
    BinarySoftTargetsTerm,
    CrossEntropyTerm,
    DecoupledTerm,
    DistTerm,
    HardTargetsTerm,
    LogitTerm,
    SoftTargetsTerm,
)
from videokd.distill.terms.relations import (
    CRDTerm,
    RelationTerm,
    RKDAngleTerm,
    RKDDistanceTerm,
)
from videokd.distill.terms.schedule import Schedule
from videokd.distill.terms.temporal import (
    TemporalAttentionTerm,
    TemporalDifferenceTerm,
    TemporalRelationTerm,
    TemporalTerm,
    TokenRelationTerm,
)

__all__ = [
    "AttentionTransferTerm",
    "BinaryCrossEntropyTerm",
    "BinarySoftTargetsTerm",
    "CRDTerm",
    "ChannelWiseTerm",
    "CrossEntropyTerm",
    "DecoupledTerm",
    "DistTerm",
    "HardTargetsTerm",
    "HintTerm",
    "ObjectiveConfig",
    "PooledMseTerm",
    "RKDAngleTerm",
    "RKDDistanceTerm",
    "ReviewTerm",
    "Schedule",
    "SimilarityPreservingTerm",
    "SoftTargetsTerm",
    "TapPair",
    "TemporalAttentionTerm",
    "TemporalDifferenceTerm",
    "TemporalRelationTerm",
    "Term",
    "TokenRelationTerm",
    "WeightedTerm",
]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OTHER_CURVES = ("step", "total", "loss", "lr", "epoch", "grad_norm")
_OTHER_CURVES_BEGIN = ("val_", "weight_", "peer_")

_OF_ONE_LABEL = {"cross_entropy", "soft_targets", "hard_targets", "dkd", "dist"}
"""Kinds that take classes as the only answers to one question, through a softmax."""

Term = Annotated[LogitTerm | FeatureTerm | TemporalTerm | RelationTerm, Field(discriminator="kind")]


class ObjectiveConfig(Config):
    """What is minimised: the sum of named, weighted terms."""

    terms: dict[str, Term] = Field(min_length=1)
    """Name -> term. The names are those of the loss curves."""

    @field_validator("terms")
    @classmethod
    def _names_and_weights(cls, terms: dict[str, Term]) -> dict[str, Term]:
        for name in terms:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot name a term: use letters, digits and '_'")
            if name in _OTHER_CURVES or name.startswith(_OTHER_CURVES_BEGIN):
                raise ValueError(
                    f"{name!r} cannot name a term: another curve is called so; choose another name"
                )
        active = [term for term in terms.values() if term.weight > 0]
        if not active:
            raise ValueError("every term has weight 0, so there is nothing to learn from")
        kinds = {term.kind for term in active}
        of_one_label = sorted(kinds & _OF_ONE_LABEL)
        if "binary_cross_entropy" in kinds and of_one_label:
            raise ValueError(
                f"binary_cross_entropy takes each class by itself and {of_one_label[0]} one class "
                "of all; keep one of them; of a teacher, binary_soft_targets takes each by itself"
            )
        if (gap := _gap(active)) is not None:
            raise ValueError(
                f"no term is on from {gap[0]:g} to {gap[1]:g} of the training; let one run through"
            )
        return terms

    @property
    def active_terms(self) -> dict[str, Term]:
        """The terms with a weight above 0, in their order."""
        return {name: term for name, term in self.terms.items() if term.weight > 0}

    @property
    def needs_teacher(self) -> bool:
        """Whether any active term compares with a teacher."""
        return any(term.needs_teacher for term in self.active_terms.values())

    def weights_at(self, progress: float) -> dict[str, float]:
        """Each term's weight when this share of the training is done; exactly 0 while it is off."""
        return {name: term.weight_at(progress) for name, term in self.terms.items()}

    def needs_teacher_at(self, progress: float) -> bool:
        """Whether any term that is on at this share of the training compares with a teacher."""
        weights = self.weights_at(progress)
        return any(term.needs_teacher and weights[name] > 0 for name, term in self.terms.items())

    @property
    def is_multi_label(self) -> bool:
        """Whether a video may have several labels, each class being a yes or no of its own."""
        terms = self.active_terms.values()
        if any(isinstance(term, BinaryCrossEntropyTerm) for term in terms):
            return True
        one_label = any(isinstance(term, CrossEntropyTerm | DecoupledTerm) for term in terms)
        return not one_label and any(isinstance(term, BinarySoftTargetsTerm) for term in terms)

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


def _gap(terms: Sequence[WeightedTerm]) -> tuple[float, float] | None:
    """The first part of the training, [from, to), in which no term is on."""
    on = sorted((t.schedule.start, t.schedule.stop) if t.schedule else (0.0, 1.0) for t in terms)
    covered = 0.0
    for start, stop in on:
        if start > covered:
            return covered, start
        covered = max(covered, stop)
    return (covered, 1.0) if covered < 1 else None
