"""The losses: on logits, on features, on time. Each is a function of tensors, and beside it the
`TermLoss` that a recipe's term becomes."""

from __future__ import annotations

from typing import Any

from videokd.distill.losses import (
    binary,
    contrast,
    decoupled,
    dist,
    features,
    logits,
    relations,
    review,
    temporal,
)
from videokd.distill.losses.base import Gather, Networks, Outputs, TermLoss
from videokd.distill.terms.base import WeightedTerm

__all__ = ["LOSSES", "Gather", "Networks", "Outputs", "TermLoss"]

LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {
    **logits.LOSSES,
    **decoupled.LOSSES,
    **dist.LOSSES,
    **binary.LOSSES,
    **features.LOSSES,
    **review.LOSSES,
    **temporal.LOSSES,
    **relations.LOSSES,
    **contrast.LOSSES,
}
"""Settings of a term -> its loss."""
