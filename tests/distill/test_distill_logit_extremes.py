"""Every kind of term on logits, through the objective: extreme numbers, odd labels, settings."""

from __future__ import annotations

import pytest
import torch

from videokd.config import parse_config
from videokd.distill.losses.logits import soft_targets, standardise_logits
from videokd.distill.objective import Networks, Objective, ObjectiveConfig
from videokd.errors import ConfigError
from videokd.types import ClipBatch, ModelOutput

KINDS = {
    "hard": {"kind": "hard_targets"},
    "soft": {"kind": "soft_targets", "temperature": 0.5},
    "soft_z": {"kind": "soft_targets", "standardise": True, "temperature": 2, "weight": 9},
    "dkd": {"kind": "dkd"},
    "dkd_z": {"kind": "dkd", "standardise": True},
    "dist": {"kind": "dist"},
    "dist_z": {"kind": "dist", "standardise": True},
    "labels": {"kind": "cross_entropy", "label_smoothing": 0.1},
    "several": {"kind": "binary_cross_entropy"},
    "several_soft": {"kind": "binary_soft_targets", "temperature": 2},
}
TARGETS = torch.tensor(
    [
        [1.0, 0, 0, 0],
        [0, 0.25, 0, 0.75],
        [0, 0, 1, 0],  # without a label, see below
        [0, 1, 1, 0],
        [1, 1, 1, 1],
    ]
)
HAS_LABEL = torch.tensor([True, True, False, True, True])


def run(
    term: dict, student: torch.Tensor, teacher: torch.Tensor, *, device: str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The total and the gradient of the student's logits, under bf16 autocast."""
    config = parse_config(ObjectiveConfig, {"terms": {"it": term}}, source="test")
    networks = Networks(
        student_taps={},
        teacher_taps={},
        student_pooled_dim=3,
        teacher_pooled_dim=3,
        num_classes=4,
        num_videos=5,
    )
    batch = ClipBatch(
        frames={},
        frame_seconds={},
        targets=TARGETS,
        has_label=HAS_LABEL,
        video_ids=torch.arange(5),
    )
    student = student.to(device, copy=True).requires_grad_()
    pooled = torch.zeros(5, 3, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        loss = Objective(config, networks, seed=0)(
            ModelOutput(student, pooled),
            ModelOutput(teacher.to(device), pooled),
            batch.to(device),
            progress=0.5,
        )
    loss.total.backward()
    return loss.total.detach().cpu(), student.grad.cpu()


SIGNS = torch.tensor([[1.0, -1, 1, 1], [-1, -1, -1, -1], [1, 1, -1, 1], [-1, 1, -1, -1], [1] * 4])
EXTREMES = {
    "far apart": (SIGNS * 1e4, -SIGNS * 1e4),
    "student far out": (SIGNS * 1e4, torch.randn(5, 4, generator=torch.Generator().manual_seed(0))),
    "teacher far out": (torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), SIGNS * 1e4),
    "equal": (SIGNS * 1e4, SIGNS * 1e4),
    "all the same": (torch.zeros(5, 4), torch.zeros(5, 4)),
    "one class of ten thousand": (SIGNS * 1e-4, torch.eye(5)[:, :4] * 1e4),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("extreme", list(EXTREMES))
def test_value_and_gradient_are_finite(dtype, name, extreme):
    student, teacher = (side.to(dtype) for side in EXTREMES[extreme])

    total, gradient = run(KINDS[name], student, teacher)

    assert total.dtype == torch.float32
    assert total.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", list(KINDS))
def test_a_gpu_says_the_same(name):
    student, teacher = torch.randn(5, 4) * 3, torch.randn(5, 4) * 3

    here, there = (run(KINDS[name], student, teacher, device=d) for d in ("cpu", "cuda"))

    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-6)
    for far, near in EXTREMES.values():  # denormal numbers are not flushed there
        total, gradient = run(KINDS[name], far, near, device="cuda")
        assert total.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["soft", "soft_z", "dkd", "dkd_z", "dist", "several_soft"])
def test_a_student_that_is_the_teacher_costs_nothing(name):
    logits = torch.randn(5, 4) * 3

    total, gradient = run(KINDS[name], logits, logits)

    assert abs(total) < 1e-5
    assert gradient.abs().max() < 1e-5


@pytest.mark.parametrize("name", ["soft_z", "dkd_z", "dist_z"])
def test_standardised_terms_do_not_see_scale_and_shift(name):
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    scale, shift = torch.rand(2, 5, 1) * torch.tensor([20.0, 100.0])[:, None, None] + 0.1

    moved, _ = run(KINDS[name], student * scale + shift, teacher)

    torch.testing.assert_close(moved, run(KINDS[name], student, teacher)[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["labels", "dkd", "several"])
def test_clips_without_a_label_do_not_count(name):
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    other = student.clone()
    other[~HAS_LABEL] = 7

    (total, gradient), (again, _) = (run(KINDS[name], side, teacher) for side in (student, other))

    torch.testing.assert_close(total, again, rtol=0, atol=0)
    assert gradient[~HAS_LABEL].eq(0).all()
    assert gradient[HAS_LABEL].ne(0).any()


@pytest.mark.parametrize("name", ["hard", "soft", "dkd", "dist", "several_soft"])
def test_a_teacher_of_other_classes_is_refused(name):
    with pytest.raises(ConfigError, match=r"terms\.it: the teacher has 6 classes and the student"):
        run(KINDS[name], torch.zeros(5, 4), torch.zeros(5, 6))


def test_standardise_reaches_the_loss():
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)

    total, _ = run(KINDS["soft_z"], student, teacher)

    by_hand = soft_targets(standardise_logits(student), standardise_logits(teacher), temperature=2)
    torch.testing.assert_close(total, 9 * by_hand.mean())


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (["labels"], False),
        (["labels", "soft"], False),
        (["labels", "several_soft"], False),
        (["soft"], False),
        (["several"], True),
        (["several", "several_soft"], True),
        (["several_soft"], True),
    ],
)
def test_what_makes_a_recipe_multi_label(terms, expected):
    chosen = {"terms": {name: KINDS[name] for name in terms}}

    assert parse_config(ObjectiveConfig, chosen, source="test").is_multi_label is expected


@pytest.mark.parametrize("name", ["labels", "dkd"])
def test_labels_are_of_one_kind(name):
    chosen = {"terms": {name: KINDS[name], "several": KINDS["several"]}}

    with pytest.raises(ConfigError, match=r"binary_cross_entropy takes each class by itself") as e:
        parse_config(ObjectiveConfig, chosen, source="test")
    assert "\n" not in str(e.value)
    chosen["terms"]["several"] = KINDS["several"] | {"weight": 0}
    assert not parse_config(ObjectiveConfig, chosen, source="test").is_multi_label
