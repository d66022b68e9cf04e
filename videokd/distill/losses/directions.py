"""Directions of vectors, with gradients that are finite for every vector."""

from __future__ import annotations

import torch

SMALLEST = 1e-12
"""A vector without a larger entry has no direction."""


def unit_vectors(values: torch.Tensor) -> torch.Tensor:
    """Vectors along the last axis, divided by their Euclidean lengths; any shape [..., D].

    Where `F.normalize` overflows to 0 for vectors of 1e20 and multiplies the gradient of a zero
    vector by 1e12, this divides by the largest entry first, and a vector without an entry above
    1e-12 becomes 0 with a gradient of 0.
    """
    largest = values.detach().abs().amax(dim=-1, keepdim=True)
    has_none = largest <= SMALLEST
    # The direction does not depend on this factor, so leaving it out of the gradient is exact.
    scaled = values / torch.where(has_none, 1, largest)
    length = torch.where(has_none, 1, scaled.square().sum(dim=-1, keepdim=True)).sqrt()
    return torch.where(has_none, 0, scaled / length)


def cosine_similarities(values: torch.Tensor) -> torch.Tensor:
    """Of all pairs of vectors: [..., L, D] to [..., L, L]."""
    directions = unit_vectors(values)
    return directions @ directions.mT
