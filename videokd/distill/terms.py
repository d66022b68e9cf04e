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

from pydantic import Field, field_validator, model_validator

from videokd.config import Config

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class TapPair(Config):
    """A point in the student and the point in the teacher that it is held against."""

    student_tap: str
    """Name of a tap of the student."""
    teacher_tap: str
    """Name of a tap of the teacher."""


class WeightedTerm(Config):
    """What every term has."""

    weight: float = Field(default=1.0, ge=0)
    """Factor of this term in the total; 0 switches it off."""

    @property
    def needs_teacher(self) -> bool:
        """Whether the term compares with a teacher."""
        return True

    @property
    def tap_pairs(self) -> tuple[TapPair, ...]:
        """The taps that the term compares."""
        return ()


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


Term = Annotated[
    CrossEntropyTerm
    | SoftTargetsTerm
    | HardTargetsTerm
    | HintTerm
    | AttentionTransferTerm
    | TemporalAttentionTerm,
    Field(discriminator="kind"),
]


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
