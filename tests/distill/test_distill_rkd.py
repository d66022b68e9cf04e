from __future__ import annotations

import itertools

import distill_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.distill.losses import relations
from videokd.distill.losses.relations import rkd_angle, rkd_distance

BOTH = pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])


def points(num_clips: int = 5, dim: int = 3, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_clips, dim))


TEACHER = points(dim=4, seed=1)


def huber(difference: float) -> float:
    size = abs(difference)
    return size**2 / 2 if size < 1 else size - 0.5


def distance_by_hand(student: np.ndarray, teacher: np.ndarray = TEACHER) -> float:
    num_clips = len(student)

    def relative(rows: np.ndarray) -> dict[tuple[int, int], float]:
        apart = {
            (i, j): np.sqrt(((rows[i] - rows[j]) ** 2).sum())
            for i, j in itertools.permutations(range(num_clips), 2)
        }
        mean = sum(apart.values()) / len(apart)
        return {pair: distance / mean for pair, distance in apart.items()}

    given, wanted = relative(student), relative(teacher)
    return sum(huber(given[pair] - wanted[pair]) for pair in given) / num_clips**2


def angle_by_hand(student: np.ndarray, teacher: np.ndarray = TEACHER) -> float:
    num_clips = len(student)

    def cosine(rows: np.ndarray, i: int, j: int, k: int) -> float:
        left, right = rows[i] - rows[j], rows[k] - rows[j]
        return left @ right / np.sqrt(left @ left) / np.sqrt(right @ right)

    total = 0.0
    for i, j, k in itertools.permutations(range(num_clips), 3):
        total += huber(cosine(student, i, j, k) - cosine(teacher, i, j, k))
    return total / num_clips**3


@pytest.mark.parametrize(
    ("loss", "by_hand"), [(rkd_distance, distance_by_hand), (rkd_angle, angle_by_hand)]
)
@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_the_mean_over_clips_is_the_formula_in_value_and_gradient(loss, by_hand, spread):
    # With one clip far off, differences are above 1 too, where the loss is linear.
    at = points()
    at[0] *= spread

    values, gradient = reference.value_and_gradient(
        lambda rows: loss(rows, torch.tensor(TEACHER)) / len(at), at
    )

    assert values.shape == (5,)
    assert values.sum() == pytest.approx(by_hand(at), rel=1e-10)
    np.testing.assert_allclose(gradient, reference.numeric_gradient(by_hand, at), atol=1e-8)


@BOTH
def test_float32_agrees_with_float64(loss):
    exact, gradient = reference.value_and_gradient(
        lambda rows: loss(rows, torch.tensor(TEACHER)), points()
    )
    student = torch.tensor(points(), dtype=torch.float32, requires_grad=True)

    values = loss(student, torch.tensor(TEACHER).float())

    assert reference.relative_error(values, exact) < 1e-5
    (ours,) = reference.gradients(values.sum(), student)
    assert reference.relative_error(ours, gradient) < 1e-5


@pytest.mark.parametrize(("loss", "factors"), [(rkd_distance, (1, 0)), (rkd_angle, (0, 1))])
def test_torchdistill_agrees_in_value_and_gradient(loss, factors):
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    distance, angle = factors
    theirs = mid_level.RKDLoss("s", "t", distance, angle, "mean")
    # Its distances come from inner products, which float32 does not resolve to 1e-5.
    student = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, 7, dtype=torch.float64)
    wanted = theirs({"s": {"output": student}}, {"t": {"output": teacher}})
    (wanted_gradient,) = reference.gradients(wanted, student)

    rows = student.detach().float().requires_grad_()
    value = loss(rows, teacher.float()).mean()

    assert reference.relative_error(value, wanted) < 1e-5
    (gradient,) = reference.gradients(value, rows)
    assert reference.relative_error(gradient, wanted_gradient) < 1e-5


@BOTH
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), size=st.floats(-20, 20), shift=st.floats(-3, 3))
def test_scale_rotation_and_shift_do_not_matter(loss, seed, size, shift):
    student = torch.tensor(points(seed=seed))
    turn = torch.linalg.qr(torch.tensor(points(3, 3, seed=seed + 1)))[0]
    moved = 10**size * (student @ turn + shift)

    torch.testing.assert_close(
        loss(moved, torch.tensor(TEACHER)), loss(student, torch.tensor(TEACHER)), rtol=1e-6, atol=0
    )
    assert loss(moved, student).abs().max() < 1e-12


@BOTH
def test_a_student_equal_to_its_teacher_costs_nothing(loss):
    values, gradient = reference.value_and_gradient(
        lambda rows: loss(rows, torch.tensor(points())), points()
    )

    assert values.tolist() == [0] * 5
    assert not gradient.any()


@BOTH
@pytest.mark.parametrize("size", [0, 1e-30, 1e30])
def test_coinciding_points_and_extreme_sizes_have_finite_gradients(loss, size):
    rows = torch.tensor(points(), dtype=torch.float32)
    rows[1] = rows[0]
    rows[3] = 0
    student = (rows * size).requires_grad_()

    values = loss(student, torch.tensor(TEACHER).float())
    (gradient,) = reference.gradients(values.sum(), student)

    assert values.isfinite().all()
    assert gradient.isfinite().all()
    if size == 1e30:
        torch.testing.assert_close(values, loss(rows, torch.tensor(TEACHER).float()))
        assert gradient.any()
    if size == 0:
        assert not gradient.any()


@BOTH
@pytest.mark.parametrize("num_clips", [0, 1, 2])
def test_batches_with_nothing_to_compare_cost_what_the_formula_says(loss, num_clips):
    student = torch.tensor(points(num_clips), requires_grad=True)

    values = loss(student, torch.tensor(points(num_clips, 4, seed=1)))
    values.sum().backward()

    # Two clips are always one mean distance apart, and have no triangle.
    torch.testing.assert_close(values, torch.zeros(num_clips, dtype=torch.float64))
    assert student.grad.isfinite().all()


@BOTH
@pytest.mark.parametrize("split", [1, 3, 5])
def test_ranks_of_any_share_are_one_process_in_value_and_gradient(loss, split):
    student = torch.tensor(points(6), requires_grad=True)
    teacher = torch.tensor(points(6, 4, seed=2))
    alone = loss(student, teacher)
    (wanted,) = reference.gradients(alone.mean(), student)
    parts = [slice(0, split), slice(split, 6)]

    rows = torch.cat(
        reference.on_ranks(
            2,
            lambda rank, gather: loss(
                student[parts[rank]], teacher[parts[rank]], of_all_processes=gather
            ),
        )
    )

    torch.testing.assert_close(rows, alone)
    (gradient,) = reference.gradients(rows.mean(), student)
    torch.testing.assert_close(gradient, wanted)


def test_angles_in_parts_are_those_of_one_piece(monkeypatch):
    student = torch.tensor(points(6), requires_grad=True)
    whole = rkd_angle(student, torch.tensor(points(6, 4, seed=2)))
    (wanted,) = reference.gradients(whole.sum(), student)

    monkeypatch.setattr(relations, "MAX_ANGLE_ELEMENTS", 2 * 6 * 6)
    parts = rkd_angle(student, torch.tensor(points(6, 4, seed=2)))
    (gradient,) = reference.gradients(parts.sum(), student)

    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-15)
