from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from videokd.distill.losses.directions import cosine_similarities, unit_vectors


def weighted(vectors: torch.Tensor) -> torch.Tensor:
    """A scalar whose gradient has no symmetry."""
    return (vectors * torch.arange(vectors.numel()).reshape(vectors.shape).sin()).sum()


@pytest.mark.parametrize("size", [1e-11, 1.0, 1e30])
def test_directions_are_those_of_double_precision_in_value_and_gradient(size):
    exact = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    wanted = F.normalize(exact, dim=-1)
    weighted(wanted).backward()
    rows = (exact.detach() * size).float().requires_grad_()

    directions = unit_vectors(rows)
    weighted(directions).backward()

    torch.testing.assert_close(directions, wanted.float())
    torch.testing.assert_close(rows.grad * size, exact.grad.float())


def test_a_vector_without_size_has_no_direction_and_no_gradient():
    rows = torch.tensor([[0.0, 0.0], [1e-13, 0.0], [3.0, 4.0]], requires_grad=True)

    directions = unit_vectors(rows)
    weighted(directions).backward()

    assert directions.tolist() == [[0, 0], [0, 0], [pytest.approx(0.6), pytest.approx(0.8)]]
    assert not rows.grad[:2].any()
    assert rows.grad[2].any()


def test_cosine_similarities_are_those_of_torch():
    rows = torch.randn(2, 5, 3, dtype=torch.float64)

    similarities = cosine_similarities(rows)

    wanted = F.cosine_similarity(rows[:, :, None], rows[:, None], dim=-1)
    torch.testing.assert_close(similarities, wanted)
