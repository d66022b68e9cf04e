"""What the settings of every term have. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from videokd.config import Config
from videokd.distill.terms.schedule import Schedule

Reads = Literal["nothing", "probabilities", "logits", "pooled", "attention", "taps"]
"""What of the teacher's output a term goes by. `probabilities` are those of the softmax over
classes, for which a teacher's largest logits will do; `logits` stands for what goes by their
spread, by each class alone or by all but the label's."""


class TapPair(Config):
    """A point in the student and the point in the teacher that it is held against."""

    student_tap: str
    """Name of a tap of the student."""
    teacher_tap: str
    """Name of a tap of the teacher."""


class WeightedTerm(Config):
    """What every term has."""

    kind: str
    """Which loss it is; each kind has its own settings."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of this term in the total; 0 switches it off."""
    schedule: Schedule | None = None
    """How the weight changes over the training; null: not at all."""

    def weight_at(self, progress: float) -> float:
        """The weight in force when this share of the training is done; exactly 0 while off."""
        return self.weight * (1.0 if self.schedule is None else self.schedule.factor_at(progress))

    @property
    def reads(self) -> Reads:
        """What of the teacher's output the term goes by."""
        raise NotImplementedError

    @property
    def needs_teacher(self) -> bool:
        """Whether the term compares with a teacher."""
        return self.reads != "nothing"

    @property
    def reads_logits(self) -> bool:
        """Whether it goes by what the teacher says of classes."""
        return self.reads in ("probabilities", "logits")

    @property
    def min_clips(self) -> int:
        """Clips that it compares with each other; with fewer it is constant."""
        return 1

    @property
    def tap_pairs(self) -> tuple[TapPair, ...]:
        """The taps that the term compares."""
        return ()
