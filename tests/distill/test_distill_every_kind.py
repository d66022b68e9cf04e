"""What holds for each kind of term: precision, who counts, and that no kind is forgotten."""

from __future__ import annotations

import math
from dataclasses import replace

import distill_reference as reference
import pytest
import torch
from every_kind import (
    EVERY_KIND,
    NUM_CLASSES,
    NUM_VIDEOS,
    POOLED_DIM,
    STUDENT_TAPS,
    TEACHER_TAPS,
    term_of,
)
from test_distill_objective import leaves, make_batch

from videokd.config import parse_config
from videokd.distill.losses import LOSSES
from videokd.distill.objective import Networks, Objective, ObjectiveConfig
from videokd.types import ModelOutput, TapOutput

KINDS = sorted(settings.model_fields["kind"].default for settings in LOSSES)
NAN = math.nan
NEEDS_LABELS = {"cross_entropy", "binary_cross_entropy", "dkd"}


def objective_of(kind: str, **changes) -> Objective:
    return make_objective({"x": term_of(kind, **changes)})


def make_objective(terms: dict) -> Objective:
    config = parse_config(ObjectiveConfig, {"terms": terms}, source="test")
    networks = Networks(
        student_taps=STUDENT_TAPS,
        teacher_taps=TEACHER_TAPS,
        student_pooled_dim=POOLED_DIM,
        teacher_pooled_dim=POOLED_DIM,
        num_classes=NUM_CLASSES,
        num_videos=NUM_VIDEOS,
    )
    return Objective(config, networks, seed=0)


def outputs() -> tuple[ModelOutput, ModelOutput]:
    return (
        reference.random_output(6, NUM_CLASSES, seed=0, **STUDENT_TAPS),
        reference.random_output(6, NUM_CLASSES, seed=50, **TEACHER_TAPS),
    )


def in_bf16(output: ModelOutput, *, logits: float, features: float) -> ModelOutput:
    """As a network under autocast leaves it, its numbers as large as given."""
    return ModelOutput(
        logits=(output.logits.sign() * logits).bfloat16(),
        pooled=(output.pooled * features).bfloat16(),
        taps={n: TapOutput((f * features).bfloat16(), s) for n, (f, s) in output.taps.items()},
        attention=output.attention.bfloat16(),
        attention_seconds=output.attention_seconds,
    )


def differentiable(output: ModelOutput) -> dict[str, torch.Tensor]:
    return leaves(output) | {"pooled": output.pooled.requires_grad_()}


def test_every_kind_has_a_recipe_here():
    """A new kind comes with a line in `every_kind.py`, and so under all tests of this file."""
    assert sorted(EVERY_KIND) == KINDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("logits", "features"), [(1e4, 1e3), (1e30, 1e9), (0, 0)])
def test_extreme_bf16_outputs_stay_finite_under_autocast(kind, logits, features):
    student, teacher = (
        in_bf16(output, logits=sign * logits, features=features)
        for sign, output in zip((1, -1), outputs(), strict=True)
    )
    inputs = differentiable(student)
    objective = objective_of(kind)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = objective(student, teacher, make_batch([True] * 6), progress=0.5)
    losses.total.backward()

    assert losses.total.dtype == losses.terms["x"].dtype == torch.float32
    assert losses.total.isfinite()
    for name, tensor in inputs.items():
        assert tensor.grad is None or tensor.grad.isfinite().all(), name
    for name, parameter in objective.named_parameters():
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_no_bit(kind):
    student, teacher = outputs()
    batch = make_batch([True, False, True, True, False, True])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = objective_of(kind)(student, teacher, batch, progress=0.5).total

    assert torch.equal(under, objective_of(kind)(student, teacher, batch, progress=0.5).total)
    assert under > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_a_label_is_distilled_and_nothing_else(kind):
    student, teacher = outputs()
    inputs = differentiable(student)
    batch = make_batch([False] * 6)
    batch.targets.fill_(torch.nan)  # what stands behind a missing label is not looked at

    losses = objective_of(kind)(student, teacher, batch, progress=0.5)
    losses.total.backward()

    gradients = [tensor.grad for tensor in inputs.values() if tensor.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients) == (kind not in NEEDS_LABELS)
    assert (losses.total.item() > 0) == (kind not in NEEDS_LABELS)


WITH_SOURCES = [
    *((kind, {}) for kind in KINDS),
    ("rkd_distance", {"source": "logits"}),
    ("rkd_angle", {"source": "logits"}),
    ("temporal_attention", {"source": "weights", "student_tap": None, "teacher_tap": None}),
]


def said_anew(output: ModelOutput, *, but: str) -> ModelOutput:
    """No numbers in all that a term does not say it reads."""
    nothing = torch.full_like
    logits = output.logits if but in ("logits", "probabilities") else nothing(output.logits, NAN)
    taps = {
        name: TapOutput(features if but == "taps" else nothing(features, NAN), seconds)
        for name, (features, seconds) in output.taps.items()
    }
    return replace(
        output,
        logits=logits,
        pooled=output.pooled if but == "pooled" else nothing(output.pooled, NAN),
        attention=output.attention if but == "attention" else nothing(output.attention, NAN),
        taps=taps,
    )


@pytest.mark.parametrize(("kind", "changes"), WITH_SOURCES)
def test_a_term_reads_of_the_teacher_what_it_says_and_nothing_else(kind, changes):
    """By that a cache knows what to keep, and a placebo what it has to take away."""
    student, teacher = outputs()
    batch = make_batch([True] * 6)
    reads = objective_of(kind, **changes).config.terms["x"].reads

    def loss(said: ModelOutput) -> torch.Tensor:
        return objective_of(kind, **changes)(student, said, batch, progress=0.5).total

    assert torch.equal(loss(said_anew(teacher, but=reads)), loss(teacher))
    if reads != "nothing":
        assert not torch.equal(loss(said_anew(teacher, but="nothing")), loss(teacher))


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_reaches_the_teacher_of_any_kind(kind):
    student, teacher = outputs()
    differentiable(student)
    theirs = differentiable(teacher)

    objective_of(kind)(student, teacher, make_batch([True] * 6), progress=0.5).total.backward()

    assert all(tensor.grad is None for tensor in theirs.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_scheduled(kind):
    student, teacher = outputs()
    batch = make_batch([True] * 6)
    plain = objective_of(kind, weight=3)(student, teacher, batch, progress=0.25).total
    objective = objective_of(kind, weight=3, schedule={"warmup": 0.5})

    torch.testing.assert_close(objective(student, teacher, batch, progress=0.25).total, plain * 0.5)
    assert objective(student, teacher, batch, progress=0.0).total.item() == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_the_same_on_a_gpu(kind, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    found: dict[str, list[torch.Tensor]] = {}
    for device in ("cpu", "cuda"):
        student, teacher = (moved(output, device) for output in outputs())
        inputs = differentiable(student)
        objective = objective_of(kind).to(device)
        batch = make_batch([True, False, True, True, False, True]).to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            total = objective(student, teacher, batch, progress=0.5).total
        total.backward()
        gradients = [*inputs.values(), *objective.parameters()]
        found[device] = [total.detach(), *(g.grad for g in gradients if g.grad is not None)]

    assert len(found["cpu"]) == len(found["cuda"]) > 1
    for here, there in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-5)


def moved(output: ModelOutput, device: str) -> ModelOutput:
    return ModelOutput(
        logits=output.logits.to(device),
        pooled=output.pooled.to(device),
        taps={n: TapOutput(f.to(device), s.to(device)) for n, (f, s) in output.taps.items()},
        attention=output.attention.to(device),
        attention_seconds=output.attention_seconds.to(device),
    )
