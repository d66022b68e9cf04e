"""Losses on time and on relations, from a recipe's settings to a student that learns."""

from __future__ import annotations

import distill_reference as reference
import pytest
import torch
from every_kind import term_of
from test_distill_every_kind import make_objective, outputs
from test_distill_objective import make_batch, make_part, rows
from torch import nn

from videokd.config import parse_config
from videokd.distill.objective import Networks, Objective, ObjectiveConfig
from videokd.errors import ConfigError
from videokd.models.video_model import Tap, VideoModel
from videokd.types import ClipBatch, Dense, InputSpec, ModelOutput, TapOutput, TapShape

PAIR = {"student_tap": "maps", "teacher_tap": "maps"}
TERMS = {
    "temporal_relation": {**PAIR, "descriptor": "cells"},
    "temporal_difference": PAIR,
    "token_relation": {**PAIR, "margin": 0.0},
    "rkd_distance": {},
    "rkd_angle": {},
    "crd": {"num_negatives": 5, "embedding_dim": 8},
}
NUM_CLIPS, SIDE = 6, 16


class Small(nn.Module):
    """A 3D network with a tap of its own shape."""

    def __init__(self, channels: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.maps = nn.Conv3d(3, channels, 3, stride=stride, padding=1)
        self.head = nn.Linear(channels, 4)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(self.maps(clips).relu().mean(dim=(2, 3, 4)))


def create(
    channels: int, stride: tuple[int, int, int], num_frames: int, *, seed: int
) -> VideoModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Small(channels, stride)
    sampling = Dense(num_frames=num_frames, stride=1)
    return VideoModel(
        network,
        spec=InputSpec(sampling=sampling, short_side_px=SIDE, crop_px=SIDE),
        num_classes=4,
        classifier="head",
        taps=[Tap(name="maps", module="maps")],
    )


@pytest.mark.parametrize("kind", TERMS)
def test_a_student_learns_from_a_teacher_of_another_shape(kind):
    # 6 and 12 frames of one second: taps that differ in channels, steps and cells.
    student = create(5, (2, 2, 2), 6, seed=0)
    teacher = create(7, (1, 4, 4), 12, seed=1).eval()
    assert student.tap_shapes["maps"] == TapShape(5, 3, 8, 8)
    assert teacher.tap_shapes["maps"] == TapShape(7, 12, 4, 4)
    config = parse_config(
        ObjectiveConfig, {"terms": {"x": {"kind": kind, **TERMS[kind]}}}, source="test"
    )
    objective = Objective(
        config,
        Networks(
            student_taps=student.tap_shapes,
            teacher_taps=teacher.tap_shapes,
            student_pooled_dim=student.pooled_dim,
            teacher_pooled_dim=teacher.pooled_dim,
            num_classes=4,
            num_videos=NUM_CLIPS,
        ),
        seed=0,
    )
    fine = torch.rand(NUM_CLIPS, 3, 12, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    seconds = torch.linspace(0, 1, 12).expand(NUM_CLIPS, -1)
    batch = ClipBatch(
        frames={},
        frame_seconds={},
        targets=torch.zeros(NUM_CLIPS, 4),
        has_label=torch.zeros(NUM_CLIPS, dtype=torch.bool),
        video_ids=torch.arange(NUM_CLIPS),
    )
    with torch.no_grad():
        wanted = teacher(fine, seconds)
    optimiser = torch.optim.Adam([*student.parameters(), *objective.parameters()], lr=0.02)
    losses = []
    for _ in range(40):
        given = student(fine[:, :, ::2], seconds[:, ::2])
        loss = objective(given, wanted, batch, progress=0.5).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert min(losses[-5:]) < 0.8 * losses[0]
    # The classifier sees none of these terms; all else has been trained.
    trained = dict(student.network.maps.named_parameters()) | dict(objective.named_parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())


@pytest.mark.parametrize("kind", TERMS)
@pytest.mark.parametrize("split", [1, 4])
def test_two_ranks_are_one_process_in_value_and_gradient(kind, split):
    student, teacher = outputs()
    inputs = [student.pooled, *(tap.features for tap in student.taps.values())]
    for tensor in inputs:
        tensor.requires_grad_()
    batch = make_batch([True, False, True, True, False, False])
    alone = make_objective({"x": term_of(kind)})(student, teacher, batch, progress=0.5).total
    wanted = torch.autograd.grad(alone, inputs, materialize_grads=True)
    parts = [slice(0, split), slice(split, 6)]

    totals = reference.on_ranks(
        2,
        lambda rank, gather: (
            make_objective({"x": term_of(kind)})(
                rows(student, parts[rank]),
                rows(teacher, parts[rank]),
                make_part(batch, parts[rank]),
                progress=0.5,
                gather=gather,
            ).total
        ),
    )

    total = sum(totals) / 2  # DDP: the mean over ranks
    torch.testing.assert_close(total, alone)
    gradients = torch.autograd.grad(total, inputs, materialize_grads=True)
    for ours, truth in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("kind", TERMS)
def test_a_batch_without_videos_costs_nothing(kind):
    student, teacher = (rows(output, slice(0, 0)) for output in outputs())
    objective = make_objective({"x": term_of(kind)})
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}

    total = objective(student, teacher, make_part(make_batch([True]), slice(0, 0)), progress=0.5)

    assert total.total.item() == 0
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("kind", ["temporal_relation", "temporal_difference", "token_relation"])
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_the_size_of_bf16_features_does_not_matter(kind, size):
    student, teacher = outputs()
    wanted = make_objective({"x": term_of(kind)})(
        student, teacher, make_batch([True] * 6), progress=0.5
    ).total
    for output in (student, teacher):
        output.taps = {
            name: tap._replace(features=(tap.features * size).bfloat16().requires_grad_())
            for name, tap in output.taps.items()
        }

    total = make_objective({"x": term_of(kind)})(
        student, teacher, make_batch([True] * 6), progress=0.5
    ).total
    total.backward()

    tap = student.taps[term_of(kind)["student_tap"]]
    assert tap.features.grad.isfinite().all()
    if size > 1:
        torch.testing.assert_close(total, wanted, rtol=0.02, atol=0)
        assert tap.features.grad.any()
    else:  # below what counts as silent
        assert not tap.features.grad.any()


@pytest.mark.parametrize("source", ["pooled", "logits"])
def test_rkd_compares_what_its_source_says(source):
    student, teacher = outputs()
    setattr(teacher, source, getattr(student, source).clone())

    terms = make_objective(
        {
            "same": term_of("rkd_distance", source=source),
            "same_angles": term_of("rkd_angle", source=source),
            "other": term_of("rkd_angle", source="logits" if source == "pooled" else "pooled"),
        }
    )(student, teacher, make_batch([True] * 6), progress=0.5).terms

    assert terms["same"].item() == pytest.approx(0, abs=1e-12)
    assert terms["same_angles"].item() == pytest.approx(0, abs=1e-12)
    assert terms["other"] > 1e-3


def of_a_still_tap(term, teacher_shape):
    """An objective of one term between a student's tap of one step and a teacher's of a shape."""
    config = parse_config(
        ObjectiveConfig,
        {"terms": {"x": {**term, "student_tap": "still", "teacher_tap": "t"}}},
        source="test",
    )
    networks = Networks(
        student_taps={"still": TapShape(2, 1, 3, 3)},
        teacher_taps={"t": teacher_shape},
        student_pooled_dim=2,
        teacher_pooled_dim=2,
        num_classes=2,
        num_videos=3,
    )
    return Objective(config, networks, seed=0)


@pytest.mark.parametrize(
    "term",
    [
        {"kind": "temporal_relation"},
        {"kind": "temporal_difference"},
        {"kind": "token_relation"},
        {"kind": "token_relation", "pairs": "temporal"},
    ],
)
def test_a_tap_of_one_step_has_no_time(term):
    with pytest.raises(ConfigError, match=rf"'still' has one step in time, and {term['kind']}"):
        of_a_still_tap(term, TapShape(2, 4, 3, 3))


@pytest.mark.parametrize(("settings", "is_refused"), [({}, False), ({"max_side_cells": 1}, True)])
def test_cells_of_one_step_need_no_time_but_each_other(settings, is_refused):
    term = {"kind": "token_relation", "pairs": "spatial", **settings}
    if not is_refused:
        of_a_still_tap(term, TapShape(2, 4, 3, 1))
        return
    with pytest.raises(ConfigError, match=r"terms\.x\.pairs: 'spatial' .* there is one; take taps"):
        of_a_still_tap(term, TapShape(2, 4, 3, 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", TERMS)
def test_a_gpu_gives_the_cpus_values_and_gradients(kind, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    results = []
    for device in ("cpu", "cuda", "cuda"):
        objective = make_objective({"x": term_of(kind)}).to(device)
        found = []
        for _ in range(2):  # the second step reads what the first remembered
            student, teacher = (on(output, device) for output in outputs())
            inputs = [student.pooled, *(tap.features for tap in student.taps.values())]
            for tensor in inputs:
                tensor.requires_grad_()
            batch = make_batch([True] * 6).to(device)
            total = objective(student, teacher, batch, progress=0.5).total
            found.append(total.detach().cpu())
            found += [
                gradient.cpu()
                for gradient in torch.autograd.grad(total, inputs, materialize_grads=True)
            ]
        results.append(found)

    wanted, on_gpu, again = results
    for ours, truth in zip(on_gpu, wanted, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-7)
    assert all(map(torch.equal, on_gpu, again)), "not the same bits a second time"


def on(output: ModelOutput, device: str) -> ModelOutput:
    return ModelOutput(
        logits=output.logits.to(device),
        pooled=output.pooled.to(device),
        taps={
            name: TapOutput(*(side.to(device) for side in tap)) for name, tap in output.taps.items()
        },
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"kind": "temporal_relation", **PAIR, "descriptor": "cell"}, "descriptor: .*'pooled'"),
        ({"kind": "token_relation", **PAIR, "margin": -0.1}, "margin: .*equal to 0"),
        ({"kind": "token_relation", **PAIR, "max_side_cells": 0}, "max_side_cells: .*equal to 1"),
        ({"kind": "rkd_angle", "source": "taps"}, "source: .*'pooled'"),
        ({"kind": "crd", "temperature": 0}, "temperature: .*greater than 0"),
        ({"kind": "crd", "momentum": 1}, "momentum: .*less than 1"),
        ({"kind": "crd", "num_negatives": 0}, "num_negatives: .*equal to 1"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(ObjectiveConfig, {"terms": {"x": text}}, source="test")
