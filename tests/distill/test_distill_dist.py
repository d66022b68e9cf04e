from __future__ import annotations

import os
from pathlib import Path

import distill_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.config import parse_config
from videokd.distill.gather import gather_rows
from videokd.distill.losses.dist import dist
from videokd.distill.losses.standard import standardised
from videokd.distill.objective import Networks, Objective, ObjectiveConfig
from videokd.types import ClipBatch, ModelOutput


def random_logits(seed: int, *, num_clips: int = 6, num_classes: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1.5, (num_clips, num_classes))


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize(("temperature", "beta", "gamma"), [(1, 1, 1), (4, 1, 0), (2, 0, 3)])
def test_its_mean_is_the_formula_in_value_and_gradient(standardise, temperature, beta, gamma):
    student, teacher = random_logits(0), random_logits(1)

    def formula(z: np.ndarray) -> float:
        sides = (reference.standardise(z), reference.standardise(teacher))
        given, wanted = sides if standardise else (z, teacher)
        return reference.dist(given, wanted, temperature=temperature, beta=beta, gamma=gamma)

    reference.agrees_in_float32(
        lambda z: dist(
            z,
            torch.tensor(teacher, dtype=torch.float32),
            temperature=temperature,
            beta=beta,
            gamma=gamma,
            standardise=standardise,
        ),
        formula,
        student,
    )


@pytest.mark.parametrize("rarity", [32, 60])
def test_rare_classes_count_as_much_as_others(rarity):
    # torchdistill takes norms below 1e-8 as 1e-8, the authors add 1e-8 to the product of two; the
    # last class, of some 1e-14 (or 1e-26, whose square is no float32), would have a correlation
    # near 0 in both.
    student, teacher = random_logits(2), random_logits(3)
    student[:, -1] -= rarity
    teacher[:, -1] -= rarity

    reference.agrees_in_float32(
        lambda z: dist(z, torch.tensor(teacher, dtype=torch.float32), beta=0),
        lambda z: reference.dist(z, teacher, temperature=1, beta=0, gamma=1),
        student,
    )


@pytest.mark.parametrize("rarity", [80, 90, 95, 100, 105])
def test_probabilities_at_the_end_of_float32_leave_finite_gradients(rarity):
    student, teacher = (torch.tensor(random_logits(s), dtype=torch.float32) for s in (2, 3))
    student[:, -1] -= rarity
    student.requires_grad_()

    dist(student, teacher).mean().backward()

    assert student.grad.isfinite().all()


def test_of_itself_it_is_zero_with_zero_gradient():
    logits = random_logits(4)

    values, gradient = reference.value_and_gradient(lambda z: dist(z, torch.tensor(logits)), logits)

    assert abs(values.mean()) < 1e-13
    np.testing.assert_allclose(gradient, 0, atol=1e-13)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.05, 1), shift=st.floats(-50, 50))
def test_scale_and_shift_of_the_probabilities_do_not_matter(seed, share, shift):
    teacher = torch.tensor(random_logits(seed))
    softened = share * teacher.softmax(dim=1) + (1 - share) / teacher.shape[1]

    losses = dist(softened.log() + shift, teacher)

    assert abs(losses.mean()) < 1e-10


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
def test_standardised_values_do_not_see_scale_and_shift(seed, scale, shift):
    values = torch.tensor(random_logits(seed))

    for dim in (0, 1):
        unit = standardised(values, dim=dim)
        torch.testing.assert_close(
            standardised(values * scale + shift, dim=dim), unit, rtol=1e-6, atol=1e-6
        )
        torch.testing.assert_close(unit.mean(dim), torch.zeros_like(unit.mean(dim)))
        torch.testing.assert_close(unit.square().mean(dim), torch.ones_like(unit.mean(dim)))


def test_what_is_constant_has_no_direction_and_no_gradient():
    values = torch.tensor([[0.1, 0.1, 0.1], [1.0, 2.0, 4.0], [0.0, 0.0, 0.0]], requires_grad=True)

    unit = standardised(values, dim=1)
    (unit * torch.tensor([1.0, 2.0, 3.0])).sum().backward()

    assert unit[[0, 2]].eq(0).all()
    assert unit[1].std(correction=0).item() == pytest.approx(1)
    assert values.grad[[0, 2]].eq(0).all()
    assert values.grad[1].abs().sum() > 0.1


def test_a_student_that_says_the_same_of_all_gets_no_gradient_instead_of_a_huge_one():
    student = torch.zeros(6, 5, requires_grad=True)

    losses = dist(student, torch.tensor(random_logits(5), dtype=torch.float32))
    losses.mean().backward()

    torch.testing.assert_close(losses.mean().detach(), torch.tensor(2.0))
    assert student.grad.eq(0).all()


def test_two_uneven_processes_are_one_in_value_and_gradient():
    """Both in this process: to autograd, joining live tensors is what the real gather does."""
    logits, teacher = (torch.tensor(random_logits(seed)) for seed in (6, 7))
    whole = logits.clone().requires_grad_()
    dist(whole, teacher).mean().backward()
    parts = [logits[:2].clone().requires_grad_(), logits[2:].clone().requires_grad_()]
    theirs = [teacher[:2], teacher[2:]]

    def joined(rows: torch.Tensor) -> torch.Tensor:
        both = theirs if not rows.requires_grad else parts
        return torch.cat(list(both)).softmax(dim=1)

    losses = [
        dist(part, of, of_all_processes=joined) for part, of in zip(parts, theirs, strict=True)
    ]
    torch.cat(losses).mean().backward()

    torch.testing.assert_close(torch.cat(losses), dist(logits, teacher))
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), whole.grad)


TERMS = {"relation": {"kind": "dist", "weight": 2}, "labels": {"kind": "cross_entropy"}}
SHARES = (slice(0, 2), slice(2, 6))


def breakdown(rows: slice, *, gather) -> tuple[torch.Tensor, torch.Tensor]:
    """Total of the objective over these clips and the gradient of the student's logits."""
    logits, teacher = (torch.tensor(random_logits(s), dtype=torch.float32) for s in (8, 9))
    own = logits[rows].requires_grad_()
    labelled = torch.tensor([True, True, False, True, False, False])[rows]
    config = parse_config(ObjectiveConfig, {"terms": TERMS}, source="test")
    networks = Networks(
        student_taps={},
        teacher_taps={},
        student_pooled_dim=7,
        teacher_pooled_dim=7,
        num_classes=5,
        num_videos=6,
    )
    loss = Objective(config, networks, seed=0)(
        ModelOutput(own, torch.zeros(len(own), 7)),
        ModelOutput(teacher[rows], torch.zeros(len(own), 7)),
        ClipBatch(
            frames={},
            frame_seconds={},
            targets=torch.eye(5)[[0, 1, 2, 3, 4, 0]][rows],
            has_label=labelled,
            video_ids=torch.arange(6)[rows],
        ),
        progress=0.0,
        gather=gather,
    )
    loss.total.backward()
    return loss.total.detach(), own.grad


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    try:
        torch.save(breakdown(SHARES[rank], gather=gather_rows), f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_two_real_processes_of_two_and_four_clips_are_one_of_six(tmp_path: Path):
    torch.multiprocessing.spawn(one_of_two, (os.fspath(tmp_path),), nprocs=2)
    total, gradient = breakdown(slice(0, 6), gather=None)

    totals, gradients = zip(*(torch.load(tmp_path / f"{r}.pt") for r in (0, 1)), strict=True)

    # What DDP makes of it: the mean of both.
    torch.testing.assert_close(torch.stack(totals).mean(), total, rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.cat(gradients) / 2, gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (3,)])
def test_unequal_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"both must be \[N, K\], not \[3, 4\] and"):
        dist(torch.zeros(3, 4), torch.zeros(shape))
