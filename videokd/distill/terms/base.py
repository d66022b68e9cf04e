"""What the settings of every term have. Nothing here imports torch."""

from __future__ import annotations

from pydantic import Field

from videokd.config import Config


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

    @property
    def needs_teacher(self) -> bool:
        """Whether the term compares with a teacher."""
        return True

    @property
    def tap_pairs(self) -> tuple[TapPair, ...]:
        """The taps that the term compares."""
        return ()
