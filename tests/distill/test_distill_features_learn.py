"""The terms on features inside an objective: between real networks, over processes, at extremes."""

from __future__ import annotations

from itertools import product
from typing import Any

import distill_reference as reference
import pytest
import torch
import yaml
from torch import nn

from videokd.config import dump_yaml, parse_config
from videokd.distill.objective import Gather, LossBreakdown, Networks, Objective, ObjectiveConfig
from videokd.errors import ConfigError
from videokd.models.video_model import Frozen, Tap, VideoModel
from videokd.types import ClipBatch, InputSpec, ModelOutput, Seconds, TapOutput, TapShape

STUDENT_TAPS = {"s1": TapShape(2, 3, 4, 2), "s2": TapShape(3, 2, 2, 2), "dot": TapShape(3, 1, 1, 1)}
TEACHER_TAPS = {"t1": TapShape(4, 5, 3, 5), "t2": TapShape(5, 6, 1, 2), "dot": TapShape(4, 1, 2, 2)}
PAIR_1 = {"student_tap": "s1", "teacher_tap": "t1"}
PAIR_2 = {"student_tap": "s2", "teacher_tap": "t2"}
TERMS: dict[str, dict[str, Any]] = {
    "hint": {"kind": "hint", **PAIR_1},
    "where": {"kind": "attention_transfer", "pairs": [PAIR_1, PAIR_2]},
    "alike": {"kind": "similarity_preserving", **PAIR_1},
    "channels": {"kind": "channel_wise", **PAIR_1},
    "channels_in_time": {"kind": "channel_wise", "over": "space_time", **PAIR_2},
    "review": {"kind": "review", "pairs": [PAIR_1, PAIR_2]},
    "pooled": {"kind": "pooled_mse"},
}
SCALE_FREE = ("where", "alike")


def make_objective(
    terms: dict[str, dict[str, Any]],
    *,
    student_taps: dict[str, TapShape] = STUDENT_TAPS,
    teacher_taps: dict[str, TapShape] | None = TEACHER_TAPS,
    teacher_pooled_dim: int = 7,
) -> Objective:
    config = parse_config(ObjectiveConfig, {"terms": terms}, source="test")
    networks = Networks(
        student_taps=student_taps,
        teacher_taps=teacher_taps,
        student_pooled_dim=7,
        teacher_pooled_dim=None if teacher_taps is None else teacher_pooled_dim,
        num_classes=5,
        num_videos=6,
    )
    return Objective(config, networks, seed=0)


def make_batch(num_clips: int = 6, *, num_classes: int = 5) -> ClipBatch:
    return ClipBatch(
        frames={},
        frame_seconds={},
        targets=torch.eye(num_classes).repeat(2, 1)[:num_clips],
        has_label=torch.ones(num_clips, dtype=torch.bool),
        video_ids=torch.arange(num_clips),
    )


def make_outputs(num_clips: int = 6) -> tuple[ModelOutput, ModelOutput]:
    return (
        reference.random_output(num_clips, 5, seed=0, **STUDENT_TAPS),
        reference.random_output(num_clips, 5, seed=50, **TEACHER_TAPS),
    )


def features_of(output: ModelOutput) -> dict[str, torch.Tensor]:
    return {"pooled": output.pooled, **{n: tap.features for n, tap in output.taps.items()}}


def with_features(output: ModelOutput, features: dict[str, torch.Tensor]) -> ModelOutput:
    return ModelOutput(
        logits=output.logits,
        pooled=features["pooled"],
        taps={n: TapOutput(features[n], tap.step_seconds) for n, tap in output.taps.items()},
    )


def rows(output: ModelOutput, part: slice) -> ModelOutput:
    return ModelOutput(
        logits=output.logits[part],
        pooled=output.pooled[part],
        taps={n: TapOutput(*(side[part] for side in tap)) for n, tap in output.taps.items()},
    )


# --- between networks


class SmallNet(nn.Module):
    """Three stages of 3D convolutions; each halves the grid, `frame_strides` the steps."""

    def __init__(self, widths: tuple[int, int, int], frame_strides: tuple[int, int, int]) -> None:
        super().__init__()
        ins = (3, *widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(ins[i], widths[i], 3, stride=(frame_strides[i], 2, 2), padding=1),
                nn.BatchNorm3d(widths[i]),
                nn.ReLU(),
            )
            for i in range(3)
        )
        self.head = nn.Linear(widths[-1], 5)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            clips = stage(clips)
        return self.head(clips.mean(dim=(2, 3, 4)))


def make_network(
    widths: tuple[int, int, int], strides: tuple[int, int, int], *, frames: int, px: int
) -> VideoModel:
    spec = InputSpec(
        sampling=Seconds(num_frames=frames, span_seconds=1), short_side_px=px, crop_px=px
    )
    return VideoModel(
        SmallNet(widths, strides),
        spec=spec,
        num_classes=5,
        classifier="head",
        taps=[Tap(name=f"stage{i}", module=f"stages.{i}") for i in range(3)],
    )


LEVELS = [{"student_tap": f"stage{i}", "teacher_tap": f"stage{i}"} for i in range(3)]
BETWEEN_NETWORKS: dict[str, dict[str, Any]] = {
    "hint": {"kind": "hint", **LEVELS[1]},
    "attention_transfer": {"kind": "attention_transfer", "weight": 100, "pairs": LEVELS[:2]},
    "similarity_preserving": {"kind": "similarity_preserving", "weight": 100, **LEVELS[2]},
    "channel_wise": {"kind": "channel_wise", "weight": 10, **LEVELS[1]},
    "channel_wise over space_time": {
        "kind": "channel_wise",
        "weight": 10,
        "over": "space_time",
        **LEVELS[1],
    },
    "review": {"kind": "review", "pairs": LEVELS},
    "pooled_mse": {"kind": "pooled_mse", "weight": 50},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", BETWEEN_NETWORKS)
def test_a_small_student_comes_closer_to_a_teacher_of_another_shape(name, precision):
    torch.manual_seed(0)
    # Student: 4 frames of 16 px; teacher: 8 of 24, wider, and other steps and grids at each stage.
    student = make_network((4, 6, 8), (1, 2, 1), frames=4, px=16)
    teacher = Frozen(make_network((5, 6, 12), (2, 1, 1), frames=8, px=24))
    config = parse_config(
        ObjectiveConfig, {"terms": {"term": BETWEEN_NETWORKS[name]}}, source="test"
    )
    networks = Networks(
        student_taps=student.tap_shapes,
        teacher_taps=teacher.model.tap_shapes,
        student_pooled_dim=student.pooled_dim,
        teacher_pooled_dim=teacher.model.pooled_dim,
        num_classes=5,
        num_videos=6,
    )
    objective = Objective(config, networks, seed=0)
    clips, longer = torch.rand(6, 3, 4, 16, 16), torch.rand(6, 3, 8, 24, 24)
    seconds = torch.arange(4).repeat(6, 1) / 4, torch.arange(8).repeat(6, 1) / 8
    wanted = teacher(longer, seconds[1])
    parameters = [*student.parameters(), *objective.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=3e-3)

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            output = student(clips, seconds[0])
            loss = objective(output, wanted, make_batch(), progress=0.0).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        assert loss.dtype == torch.float32
        return loss.item()

    first = step()

    assert all(parameter.grad.any() for parameter in objective.parameters())
    assert student.network.stages[0][0].weight.grad.any()
    for _ in range(25):
        last = step()
    assert last < 0.8 * first
    assert all(parameter.grad is None for parameter in teacher.parameters())


# --- over processes


def on_two_ranks(
    objective: Objective, student: ModelOutput, teacher: ModelOutput, split: int
) -> list[LossBreakdown]:
    parts = [slice(0, split), slice(split, 6)]
    batch = make_batch()

    def run(rank: int, gather: Gather) -> LossBreakdown:
        part = parts[rank]
        mine = ClipBatch(
            frames={},
            frame_seconds={},
            targets=batch.targets[part],
            has_label=batch.has_label[part],
            video_ids=batch.video_ids[part],
        )
        return objective(
            rows(student, part), rows(teacher, part), mine, progress=0.0, gather=gather
        )

    return reference.on_ranks(2, run)


@pytest.mark.parametrize("split", [1, 4])
def test_uneven_processes_are_one_in_value_and_gradient(split):
    # Not `review`: the batch norm inside has each process's own statistics.
    objective = make_objective({name: TERMS[name] for name in TERMS if name != "review"})
    student, teacher = make_outputs()
    leaves = {n: t.requires_grad_() for n, t in features_of(student).items() if n != "dot"}
    parameters = dict(objective.named_parameters())
    alone = objective(student, teacher, make_batch(), progress=0.0)
    wanted = reference.gradients(alone.total, *leaves.values(), *parameters.values())

    ranks = on_two_ranks(objective, student, teacher, split)

    mean = sum(rank.total for rank in ranks) / 2  # DDP: the mean over ranks
    for name, term in alone.terms.items():
        torch.testing.assert_close(sum(rank.terms[name] for rank in ranks) / 2, term, msg=name)
    gradients = reference.gradients(mean, *leaves.values(), *parameters.values())
    for name, ours, theirs in zip((*leaves, *parameters), gradients, wanted, strict=True):
        assert theirs.any(), name
        assert reference.relative_error(ours, theirs) < 1e-5, name


def test_a_batch_without_videos_costs_nothing():
    student, teacher = (rows(output, slice(0, 0)) for output in make_outputs())
    leaves = [tensor.requires_grad_() for tensor in features_of(student).values()]

    losses = make_objective(TERMS)(student, teacher, make_batch(0), progress=0.0)
    losses.total.backward()

    assert losses.total.item() == 0
    assert all(leaf.grad is None or leaf.grad.numel() == 0 for leaf in leaves)


# --- extremes


SIZES = (0.0, 1e-30, 1e4, 1e15)
# A squared error of 1e30 is itself beyond float32; what is normalised first goes further.
BEYOND = [(name, 1e30) for name in TERMS if name not in ("hint", "review", "pooled")]


@pytest.mark.parametrize(("name", "size"), [*product(TERMS, SIZES), *BEYOND])
def test_silent_and_extreme_features_in_bf16_stay_finite(name, size):
    student, teacher = make_outputs()
    both = [
        {n: (t * size).bfloat16() for n, t in features_of(output).items()}
        for output in (student, teacher)
    ]
    leaves = [tensor.requires_grad_() for tensor in both[0].values()]
    objective = make_objective({name: TERMS[name]})

    losses = objective(
        with_features(student, both[0]), with_features(teacher, both[1]), make_batch(), progress=0.0
    )
    losses.total.backward()

    assert losses.total.dtype == torch.float32
    assert losses.total.isfinite()
    grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
    grads += [parameter.grad for parameter in objective.parameters()]
    assert grads
    assert all(gradient.isfinite().all() for gradient in grads)


@pytest.mark.parametrize("name", SCALE_FREE)
def test_terms_without_a_scale_cost_the_same_at_any(name):
    student, teacher = make_outputs()
    objective = make_objective({name: TERMS[name]})

    def loss_at(size: float) -> torch.Tensor:
        features = {n: t * size for n, t in features_of(student).items()}
        return objective(
            with_features(student, features), teacher, make_batch(), progress=0.0
        ).total

    wanted = loss_at(1)
    assert wanted > 1e-3
    torch.testing.assert_close(loss_at(2.0**90), wanted)
    torch.testing.assert_close(loss_at(2.0**-20), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", TERMS)
def test_a_gpu_gives_the_cpus_value_and_gradient(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    objective = make_objective({name: TERMS[name]})
    results = []
    for device in ("cpu", "cuda"):
        student, teacher = (
            with_features(output, {n: t.to(device) for n, t in features_of(output).items()})
            for output in make_outputs()
        )
        for output in (student, teacher):
            output.logits = output.logits.to(device)
            output.taps = {n: TapOutput(f, s.to(device)) for n, (f, s) in output.taps.items()}
        leaves = {n: t.requires_grad_() for n, t in features_of(student).items()}
        total = objective.to(device)(student, teacher, make_batch().to(device), progress=0.0).total
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        results.append((total.cpu(), [g.cpu() for g in found if g is not None]))

    (wanted, gradients), (on_gpu, gradients_on_gpu) = results
    assert reference.relative_error(on_gpu, wanted) < 1e-5
    for ours, theirs in zip(gradients_on_gpu, gradients, strict=True):
        assert reference.relative_error(ours, theirs) < 1e-4


# --- projections and what is refused


def test_settings_survive_being_written_out():
    config = parse_config(ObjectiveConfig, {"terms": TERMS}, source="test")

    again = parse_config(ObjectiveConfig, yaml.safe_load(dump_yaml(config)), source="again")

    assert again == config


def test_projections_are_there_where_sizes_differ_and_only_there():
    terms = {name: TERMS[name] for name in ("channels", "pooled", "alike", "where")}
    equal = make_objective(terms, teacher_taps={"t1": STUDENT_TAPS["s1"], "t2": STUDENT_TAPS["s2"]})
    unequal = make_objective(terms, teacher_pooled_dim=9)

    assert list(equal.parameters()) == []
    assert {name: tuple(p.shape) for name, p in unequal.named_parameters()} == {
        "losses.channels_loss.projection.conv.weight": (4, 2, 1, 1, 1),
        "losses.pooled_loss.projection.linear.weight": (9, 7),
        "losses.pooled_loss.projection.linear.bias": (9,),
    }


def test_a_student_with_its_teachers_features_pays_nothing():
    student, _ = make_outputs()
    same = {"student_tap": "s1", "teacher_tap": "s1"}
    objective = make_objective(
        {
            "alike": {"kind": "similarity_preserving", **same},
            "channels": {"kind": "channel_wise", **same},
            "pooled": {"kind": "pooled_mse"},
        },
        teacher_taps=STUDENT_TAPS,
    )

    losses = objective(student, student, make_batch(), progress=0.0)

    for name, term in losses.terms.items():
        assert abs(term.item()) < 1e-6, name


def test_building_terms_leaves_the_global_random_state():
    before = torch.get_rng_state()

    make_objective(TERMS, teacher_pooled_dim=9)

    assert torch.equal(torch.get_rng_state(), before)


def test_review_is_warmed_up_by_its_schedule():
    student, teacher = make_outputs()
    plain = make_objective({"review": TERMS["review"]})
    warm = make_objective({"review": TERMS["review"] | {"schedule": {"warmup": 0.5}}})

    wanted = plain(student, teacher, make_batch(), progress=0.25).total

    assert wanted > 0.1
    half = warm(student, teacher, make_batch(), progress=0.25).total
    torch.testing.assert_close(half, wanted / 2)


DOTS = {"student_tap": "dot", "teacher_tap": "dot"}


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (
            {"kind": "channel_wise", **DOTS},
            r"terms\.x: channel_wise of 'dot' and 'dot' is over space, and there the two share one",
        ),
        (
            {"kind": "channel_wise", "over": "space_time", **DOTS},
            "is over space_time, and there the two share one position; take taps with a finer grid",
        ),
        ({"kind": "attention_transfer", "pairs": [PAIR_1, DOTS]}, "attention_transfer of 'dot'"),
        ({"kind": "review", "pairs": [PAIR_1]}, r"terms\.x\.pairs: .*at least 2"),
        ({"kind": "channel_wise", "temperature": 0, **PAIR_1}, "temperature: .*greater than 0"),
        ({"kind": "pooled_mse", "student_tap": "s1"}, r"unknown key '.*x\.student_tap'"),
    ],
)
def test_terms_that_cannot_work_are_refused(term, message):
    with pytest.raises(ConfigError, match=message) as error:
        make_objective({"x": term})

    assert "\n" not in str(error.value)


def test_pooled_features_need_a_teacher():
    with pytest.raises(ConfigError, match="pooled_mse needs a teacher and there is none"):
        make_objective({"x": {"kind": "pooled_mse"}}, teacher_taps=None)


@pytest.mark.parametrize(
    "term",
    [
        {"kind": "hint", "norm": "batch", **DOTS},
        {"kind": "review", "pairs": [PAIR_1, DOTS]},
    ],
)
def test_batch_norm_of_a_lone_value_is_refused_in_a_line(term):
    student, teacher = make_outputs(1)
    objective = make_objective({"x": term})

    with pytest.raises(ConfigError, match="batch norm of a term was given one clip of one step"):
        objective(student, teacher, make_batch(1), progress=0.0)
