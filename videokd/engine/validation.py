"""What validation videos say of a network, by which the best weights are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Validation:
    """What validation videos say of the weights at one moment."""

    top1_pct: float
    cross_entropy: float
    """Mean negative log-likelihood of the true class; decides where the first is equal."""
    chosen_by: ClassVar[str] = "top1_pct"
    """What chooses among weights, as its field is called."""
    chosen_by_text: ClassVar[str] = "top-1"
    """The same for people."""

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better."""
        return (getattr(self, self.chosen_by), -self.cross_entropy)


@dataclass(frozen=True)
class MultiLabelValidation(Validation):
    """The same where a video may have several labels: any of them makes a top-1 right, and the
    cross entropy is that of every class's yes or no."""

    mean_average_precision_pct: float
    chosen_by: ClassVar[str] = "mean_average_precision_pct"
    chosen_by_text: ClassVar[str] = "mAP"
