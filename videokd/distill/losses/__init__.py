"""The losses: on logits, on features, on time. Each is a function of tensors, and beside it the
`TermLoss` that a recipe's term becomes."""

from __future__ import annotations

from typing import Any

from videokd.distill.losses import features, logits, temporal
from videokd.distill.losses.base import Gather, Networks, Outputs, TermLoss
from videokd.distill.terms.base import WeightedTerm

__all__ = ["LOSSES", "Gather", "Networks", "Outputs", "TermLoss"]

LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {
    **logits.LOSSES,
    **features.LOSSES,
    **temporal.LOSSES,
}
"""Settings of a term -> its loss."""
