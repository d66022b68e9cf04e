"""Similarity preserving: over the batch, so over processes too."""

from __future__ import annotations

import distill_reference as reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.distill.losses.features import similarity_preserving

GENERATOR = np.random.default_rng(3)
# 5 clips; the sides differ in channels, steps and cells.
STUDENT = GENERATOR.normal(size=(5, 2, 3, 2, 2))
TEACHER = GENERATOR.normal(size=(5, 4, 3, 3, 1))


def similarities(features: np.ndarray) -> np.ndarray:
    """As the paper has it: rows of the Gram matrix over their L2 norms."""
    flat = [clip.reshape(-1) for clip in features]
    gram = np.array([[left @ right for right in flat] for left in flat])
    return np.stack([row / np.sqrt((row**2).sum()) for row in gram])


def by_hand(student: np.ndarray) -> float:
    ours, wanted = similarities(student), similarities(TEACHER)
    num_clips = len(student)
    total = sum((ours[i, j] - wanted[i, j]) ** 2 for i, j in np.ndindex(num_clips, num_clips))
    return total / num_clips**2


def test_the_mean_over_clips_is_the_papers_formula_in_value_and_gradient():
    values, gradient = reference.value_and_gradient(
        lambda f: similarity_preserving(f, torch.tensor(TEACHER)).mean(dim=0, keepdim=True), STUDENT
    )

    np.testing.assert_allclose(values, [by_hand(STUDENT)], rtol=1e-10)
    numeric = reference.numeric_gradient(by_hand, STUDENT)
    np.testing.assert_allclose(gradient, numeric, atol=1e-9)


def test_float32_is_as_good_as_the_formula_in_float64():
    student = torch.tensor(STUDENT, dtype=torch.float32, requires_grad=True)

    loss = similarity_preserving(student, torch.tensor(TEACHER).float()).mean()

    assert reference.relative_error(loss, np.array(by_hand(STUDENT))) < 1e-5
    (gradient,) = reference.gradients(loss, student)
    _, exact = reference.value_and_gradient(
        lambda f: similarity_preserving(f, torch.tensor(TEACHER)).mean(dim=0, keepdim=True), STUDENT
    )
    assert reference.relative_error(gradient, exact) < 1e-5


def test_torchdistills_loss_with_the_papers_norm_is_ours(monkeypatch):
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    x, y = torch.randn(6, 3, 4, 4, requires_grad=True), torch.randn(6, 5, 2, 2)
    loss = mid_level.SPKDLoss("layer", "layer", reduction="batchmean")
    outputs = {"layer": {"output": x}}, {"layer": {"output": y}}
    as_it_is = loss(*outputs)
    monkeypatch.setattr(mid_level, "normalize", lambda rows, _power: F.normalize(rows))
    theirs = loss(*outputs)

    ours = similarity_preserving(x, y).mean()

    assert reference.relative_error(ours, theirs) < 1e-5
    (our_gradient,), (wanted,) = reference.gradients(ours, x), reference.gradients(theirs, x)
    assert reference.relative_error(our_gradient, wanted) < 1e-5
    # Why the norm is replaced: theirs divides rows by the sum of magnitudes.
    assert reference.relative_error(as_it_is, theirs) > 0.1


@pytest.mark.parametrize("split", [1, 3, 5])
def test_uneven_processes_are_one_in_value_and_gradient(split):
    student = torch.tensor(STUDENT, requires_grad=True)
    teacher = torch.tensor(TEACHER)
    alone = similarity_preserving(student, teacher)
    (wanted,) = reference.gradients(alone.mean(), student)

    def of_all(rows: torch.Tensor) -> torch.Tensor:
        both = student.flatten(1), teacher.flatten(1)
        return next(side for side in both if side.shape[1] == rows.shape[1])

    ranks = [
        similarity_preserving(student[part], teacher[part], of_all=of_all)
        for part in (slice(0, split), slice(split, 5))
    ]

    torch.testing.assert_close(torch.cat(ranks), alone)
    # Each process sums its clips over the global count; DDP's sum of the gradients is this one.
    (gradient,) = reference.gradients(sum(rank.sum() for rank in ranks) / 5, student)
    torch.testing.assert_close(gradient, wanted)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_only_angles_and_relative_lengths_of_clips_matter(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(4, 3, 2, 2, 2, generator=generator, dtype=torch.float64)
    teacher = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    turned = torch.einsum("oc,ncthw->nothw", turn, student)

    loss = similarity_preserving(student, teacher)

    torch.testing.assert_close(similarity_preserving(turned * scale, teacher), loss)
    torch.testing.assert_close(similarity_preserving(student, teacher * scale), loss)
    # A student that is the teacher turned and scaled costs nothing.
    nothing = similarity_preserving(turned * scale, student)
    torch.testing.assert_close(nothing, torch.zeros(4).double(), atol=1e-12, rtol=0)


def test_a_student_equal_to_its_teacher_costs_nothing():
    values, gradient = reference.value_and_gradient(
        lambda f: similarity_preserving(f, torch.tensor(STUDENT)), STUDENT
    )

    assert values.tolist() == [0] * 5
    assert not gradient.any()


@pytest.mark.parametrize("silent", [slice(0, 5), slice(1, 2)], ids=["all clips", "one clip"])
def test_silent_clips_give_moderate_values_and_gradients(silent):
    quiet = STUDENT.copy()
    quiet[silent] = 0

    values, gradient = reference.value_and_gradient(
        lambda f: similarity_preserving(f, torch.tensor(TEACHER)), quiet
    )

    assert np.isfinite(values).all()
    assert np.abs(gradient).max() < 10


@pytest.mark.parametrize("size", [1e-9, 1e15, 1e30])
def test_features_of_any_size_cost_what_ordinary_ones_do(size):
    student, teacher = torch.tensor(STUDENT).float(), torch.tensor(TEACHER).float()
    features = (student * size).requires_grad_()

    loss = similarity_preserving(features, teacher)

    torch.testing.assert_close(loss, similarity_preserving(student, teacher))
    (gradient,) = reference.gradients(loss.sum(), features)
    ordinary = student.clone().requires_grad_()
    (wanted,) = reference.gradients(similarity_preserving(ordinary, teacher).sum(), ordinary)
    torch.testing.assert_close(gradient * size, wanted)
