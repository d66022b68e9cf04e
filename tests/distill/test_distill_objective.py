from __future__ import annotations

import distill_reference as reference
import numpy as np
import pytest
import torch
from torch import nn

from videokd.config import parse_config
from videokd.distill.losses.features import attention_transfer, hint
from videokd.distill.losses.logits import cross_entropy, hard_targets, soft_targets
from videokd.distill.losses.temporal import attention_weights, temporal_attention
from videokd.distill.objective import Networks, Objective, ObjectiveConfig
from videokd.errors import ConfigError
from videokd.types import ClipBatch, ModelOutput, TapOutput, TapShape

STUDENT_TAPS = {
    "s1": TapShape(2, 3, 4, 2),
    "s2": TapShape(3, 2, 2, 2),
    "still": TapShape(3, 1, 2, 2),
}
TEACHER_TAPS = {"t1": TapShape(4, 5, 3, 5), "t2": TapShape(5, 6, 1, 2)}
PAIR_1 = {"student_tap": "s1", "teacher_tap": "t1"}
PAIR_2 = {"student_tap": "s2", "teacher_tap": "t2"}
ALL_TERMS = {
    "labels": {"kind": "cross_entropy", "weight": 0.3, "label_smoothing": 0.1},
    "soft": {"kind": "soft_targets", "weight": 0.9, "temperature": 3},
    "hard": {"kind": "hard_targets", "weight": 0.5},
    "middle": {"kind": "hint", "weight": 7, **PAIR_1},
    "where": {"kind": "attention_transfer", "weight": 100, "pairs": [PAIR_1, PAIR_2]},
    "when": {"kind": "temporal_attention", "weight": 2, "tau": 0.5, **PAIR_2},
    "when_w": {"kind": "temporal_attention", "weight": 3, "source": "weights"},
}
LABELLED = [True, False, True, True, False, False]


def make_objective(
    terms: dict, *, seed: int = 0, teacher_taps: dict | None = TEACHER_TAPS
) -> Objective:
    config = parse_config(ObjectiveConfig, {"terms": terms}, source="test")
    networks = Networks(
        student_taps=STUDENT_TAPS,
        teacher_taps=teacher_taps,
        student_pooled_dim=7,
        teacher_pooled_dim=None if teacher_taps is None else 7,
        num_classes=5,
        num_videos=6,
    )
    return Objective(config, networks, seed=seed)


def make_batch(has_label: list[bool], *, num_classes: int = 5) -> ClipBatch:
    targets = torch.zeros(len(has_label), num_classes)
    for row, labelled in enumerate(has_label):
        targets[row, row % num_classes] = float(labelled)
    return ClipBatch(
        frames={},
        frame_seconds={},
        targets=targets,
        has_label=torch.tensor(has_label),
        video_ids=torch.arange(len(has_label)),
    )


def make_outputs(num_clips: int = 6) -> tuple[ModelOutput, ModelOutput]:
    return (
        reference.random_output(num_clips, 5, seed=0, **STUDENT_TAPS),
        reference.random_output(num_clips, 5, seed=50, **TEACHER_TAPS),
    )


def rows(output: ModelOutput, part: slice) -> ModelOutput:
    return ModelOutput(
        logits=output.logits[part],
        pooled=output.pooled[part],
        taps={n: TapOutput(*(side[part] for side in tap)) for n, tap in output.taps.items()},
        attention=output.attention[part],
        attention_seconds=output.attention_seconds[part],
    )


def leaves(output: ModelOutput) -> dict[str, torch.Tensor]:
    """Everything that a network would be trained through, made a leaf that keeps its gradient."""
    found = {"logits": output.logits, "attention": output.attention}
    found |= {name: tap.features for name, tap in output.taps.items()}
    return {name: tensor.requires_grad_() for name, tensor in found.items()}


def test_each_term_is_its_weighted_loss_over_the_clips_that_count():
    student, teacher = make_outputs()
    batch = make_batch(LABELLED)
    objective = make_objective(ALL_TERMS)

    terms = objective(student, teacher, batch, progress=0.0).terms

    s1, s2 = student.taps["s1"], student.taps["s2"]
    t1, t2 = teacher.taps["t1"], teacher.taps["t2"]
    kept = torch.tensor(LABELLED)
    projection = objective.losses["middle_loss"].projection
    wanted = {
        "labels": 0.3
        * cross_entropy(student.logits[kept], batch.targets[kept], label_smoothing=0.1).mean(),
        "soft": 0.9 * soft_targets(student.logits, teacher.logits, temperature=3).mean(),
        "hard": 0.5 * hard_targets(student.logits, teacher.logits).mean(),
        "middle": 7 * hint(s1, t1, projection=projection).mean(),
        "where": 100 * (attention_transfer(s1, t1) + attention_transfer(s2, t2)).mean() / 2,
        "when": 2 * temporal_attention(s2, t2, tau=0.5).mean(),
        "when_w": 3
        * attention_weights(
            student.attention,
            teacher.attention,
            student_seconds=student.attention_seconds,
            teacher_seconds=teacher.attention_seconds,
            tau=1,
        ).mean(),
    }
    assert list(terms) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value.detach(), msg=name)
        assert value > 1e-3, name


def test_terms_are_detached_and_sum_to_the_total():
    student, teacher = make_outputs()
    leaves(student)

    losses = make_objective(ALL_TERMS)(student, teacher, make_batch(LABELLED), progress=1.0)

    assert losses.total.requires_grad
    assert losses.total.dtype == torch.float32
    assert not any(term.requires_grad for term in losses.terms.values())
    assert sum(losses.terms.values()).item() == losses.total.item()


def test_no_gradient_reaches_the_teacher():
    student, teacher = make_outputs()
    student_leaves, teacher_leaves = leaves(student), leaves(teacher)

    objective = make_objective(ALL_TERMS)
    objective(student, teacher, make_batch(LABELLED), progress=0.0).total.backward()

    assert all(tensor.grad is None for tensor in teacher_leaves.values())
    assert all(student_leaves[n].grad.any() for n in ("logits", "attention", "s1", "s2"))
    assert all(parameter.grad.any() for parameter in objective.parameters())


@pytest.mark.parametrize("split", [1, 3, 5])
def test_two_ranks_are_one_process_in_value_and_gradient(split):
    # Uneven ranks, and for split 5 a second rank without any label.
    student, teacher = make_outputs()
    batch = make_batch(LABELLED)
    objective = make_objective(ALL_TERMS)
    inputs = leaves(student)
    alone = objective(student, teacher, batch, progress=0.0)
    alone.total.backward()
    wanted = {name: tensor.grad.clone() for name, tensor in inputs.items() if name != "still"}
    wanted_weight = objective.losses["middle_loss"].projection.conv.weight.grad.clone()
    for tensor in (*inputs.values(), *objective.parameters()):
        tensor.grad = None

    parts = [slice(0, split), slice(split, 6)]
    gathered: dict[int, torch.Tensor] = {}

    def run(rank: int, gather):
        part = parts[rank]
        return objective(
            rows(student, part),
            rows(teacher, part),
            make_part(batch, part),
            progress=0.0,
            gather=gather,
        )

    for rank in range(2):  # once to learn what each rank puts in, once with what both did
        run(rank, lambda t, rank=rank: gathered.setdefault(rank, t))
    losses = [run(rank, lambda t: torch.cat([gathered[0], gathered[1]])) for rank in range(2)]
    (sum(each.total for each in losses) / 2).backward()  # DDP: the mean over ranks

    torch.testing.assert_close(sum(each.total for each in losses) / 2, alone.total)
    for name, term in alone.terms.items():
        torch.testing.assert_close(sum(each.terms[name] for each in losses) / 2, term)
    for name, gradient in wanted.items():
        torch.testing.assert_close(inputs[name].grad, gradient, msg=name)
    torch.testing.assert_close(
        objective.losses["middle_loss"].projection.conv.weight.grad, wanted_weight
    )


def make_part(batch: ClipBatch, part: slice) -> ClipBatch:
    return ClipBatch(
        frames={},
        frame_seconds={},
        targets=batch.targets[part],
        has_label=batch.has_label[part],
        video_ids=batch.video_ids[part],
    )


def test_unlabelled_videos_count_for_distillation_only():
    student, teacher = make_outputs()
    objective = make_objective(ALL_TERMS)
    inputs = leaves(student)

    losses = objective(student, teacher, make_batch([False] * 6), progress=0.0)

    assert losses.terms["labels"].item() == 0
    assert losses.terms["soft"].item() > 0
    losses.total.backward()
    assert inputs["logits"].grad.isfinite().all()
    assert inputs["logits"].grad.any()


def test_no_label_at_all_is_a_zero_that_backpropagates():
    student, _ = make_outputs()
    inputs = leaves(student)
    objective = make_objective({"labels": {"kind": "cross_entropy"}}, teacher_taps=None)

    losses = objective(student, None, make_batch([False] * 6), progress=0.0)
    losses.total.backward()

    assert losses.total.item() == 0
    assert torch.equal(inputs["logits"].grad, torch.zeros(6, 5))


def test_what_an_unlabelled_video_has_as_target_does_not_matter():
    student, _ = make_outputs()
    objective = make_objective({"labels": {"kind": "cross_entropy"}}, teacher_taps=None)
    batch = make_batch(LABELLED)
    odd = make_batch(LABELLED)
    odd.targets[1] = torch.nan

    first = objective(student, None, batch, progress=0.0)
    inputs = leaves(student)
    second = objective(student, None, odd, progress=0.0)
    second.total.backward()

    assert torch.equal(first.total, second.total)
    assert torch.equal(inputs["logits"].grad[1], torch.zeros(5))
    assert inputs["logits"].grad.isfinite().all()


def test_terms_of_weight_0_leave_training_bit_identical():
    off = {name: {**term, "weight": 0} for name, term in ALL_TERMS.items() if name != "labels"}
    plain = {"labels": ALL_TERMS["labels"]}

    def train(terms: dict, teacher: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        torch.manual_seed(3)
        objective = make_objective(terms, teacher_taps=TEACHER_TAPS if teacher else None)
        net = nn.Linear(7, 5)  # drawn after the objective: from the same global state, or not
        optimiser = torch.optim.AdamW([*net.parameters(), *objective.parameters()], lr=0.1)
        for _ in range(5):
            student, teacher_output = make_outputs()
            student.logits = net(student.pooled)
            losses = objective(
                student, teacher_output if teacher else None, make_batch(LABELLED), progress=0.0
            )
            optimiser.zero_grad()
            losses.total.backward()
            optimiser.step()
        return net.weight.detach(), losses.terms

    weight, _ = train(plain, teacher=False)
    same, terms = train(plain | off, teacher=True)
    without_teacher, _ = train(plain | off, teacher=False)

    assert torch.equal(same, weight)
    assert torch.equal(without_teacher, weight)
    assert {name: terms[name].item() for name in off} == dict.fromkeys(off, 0.0)


def test_building_projections_leaves_the_global_random_state():
    before = torch.get_rng_state()

    objective = make_objective(ALL_TERMS)

    assert torch.equal(torch.get_rng_state(), before)
    assert len(list(objective.parameters())) == 2


def test_projections_depend_on_the_seed_and_their_name_only():
    alone = make_objective({"middle": ALL_TERMS["middle"]}, seed=1).state_dict()
    among = make_objective(
        {"other": {"kind": "hint", **PAIR_2}, "middle": ALL_TERMS["middle"]}, seed=1
    ).state_dict()
    other_seed = make_objective({"middle": ALL_TERMS["middle"]}, seed=2).state_dict()

    key = "losses.middle_loss.projection.conv.weight"
    assert torch.equal(alone[key], among[key])
    assert not torch.equal(alone[key], other_seed[key])


def test_a_term_may_be_called_like_a_method():
    make_objective({"float": ALL_TERMS["middle"], "keys": {"kind": "hint", **PAIR_2}})


def test_computation_is_in_float32_under_autocast():
    student, teacher = make_outputs()
    batch = make_batch(LABELLED)
    objective = make_objective(ALL_TERMS)

    plain = objective(student, teacher, batch, progress=0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = objective(student, teacher, batch, progress=0.0)

    assert torch.equal(plain.total, under.total)


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.bfloat16, 1e4), (torch.bfloat16, 1e30), (torch.float16, 6e4)]
)
def test_extreme_outputs_of_low_precision_stay_finite(dtype, size):
    student, teacher = make_outputs()
    student.logits = (student.logits.sign() * size).to(dtype)
    teacher.logits = (teacher.logits.sign() * -size).to(dtype)
    for output in (student, teacher):
        output.taps = {n: TapOutput(f.to(dtype), s) for n, (f, s) in output.taps.items()}
    inputs = leaves(student)

    losses = make_objective(ALL_TERMS)(student, teacher, make_batch(LABELLED), progress=0.0)
    losses.total.backward()

    assert all(term.dtype == torch.float32 for term in losses.terms.values())
    assert losses.total.isfinite()
    assert all(t.grad.isfinite().all() for n, t in inputs.items() if n != "still")


def test_a_student_with_its_teachers_outputs_pays_for_labels_only():
    student, _ = make_outputs()
    pair = {"student_tap": "s1", "teacher_tap": "s1"}
    objective = make_objective(
        {
            "soft": {"kind": "soft_targets"},
            "middle": {"kind": "hint", **pair},
            "where": {"kind": "attention_transfer", "pairs": [pair]},
            "when": {"kind": "temporal_attention", **pair},
            "when_w": {"kind": "temporal_attention", "source": "weights"},
        },
        teacher_taps=STUDENT_TAPS,
    )
    conv = objective.losses["middle_loss"].projection.conv
    with torch.no_grad():
        conv.weight.copy_(torch.eye(2)[:, :, None, None, None])
        conv.bias.zero_()

    losses = objective(student, student, make_batch(LABELLED), progress=0.5)

    for name, term in losses.terms.items():
        assert abs(term.item()) < 1e-6, name


def test_a_batch_without_videos_costs_nothing():
    student, teacher = make_outputs()
    student, teacher = rows(student, slice(0, 0)), rows(teacher, slice(0, 0))
    inputs = leaves(student)

    losses = make_objective(ALL_TERMS)(student, teacher, make_batch_of_none(), progress=0.0)
    losses.total.backward()

    assert losses.total.item() == 0
    assert inputs["logits"].grad.shape == (0, 5)


def make_batch_of_none() -> ClipBatch:
    return make_part(make_batch(LABELLED), slice(0, 0))


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (
            {"kind": "hint", "student_tap": "s11", "teacher_tap": "t1"},
            r"objective\.terms\.x\.student_tap: the student has no tap 's11'; did you mean 's1'\?",
        ),
        (
            {"kind": "hint", "student_tap": "s1", "teacher_tap": "res5"},
            r"objective\.terms\.x\.teacher_tap: the teacher has no tap 'res5'; known: t1, t2",
        ),
        (
            {
                "kind": "attention_transfer",
                "pairs": [PAIR_1, {"student_tap": "s1", "teacher_tap": "t9"}],
            },
            "the teacher has no tap 't9'",
        ),
        (
            {"kind": "temporal_attention", "student_tap": "still", "teacher_tap": "t1"},
            "'still' has one step in time",
        ),
    ],
)
def test_taps_that_do_not_fit_are_refused(term, message):
    with pytest.raises(ConfigError, match=message):
        make_objective({"x": term})


@pytest.mark.parametrize("name", [name for name in ALL_TERMS if name != "labels"])
def test_a_term_without_the_teacher_that_it_needs_is_refused(name):
    with pytest.raises(ConfigError, match=rf"terms\.{name}: \w+ needs a teacher"):
        make_objective({name: ALL_TERMS[name]}, teacher_taps=None)


@pytest.mark.parametrize("kind", ["soft_targets", "hard_targets"])
def test_logits_of_other_classes_are_refused(kind):
    student, teacher = make_outputs()
    teacher.logits = torch.zeros(6, 400)

    with pytest.raises(ConfigError, match="the teacher has 400 classes and the student 5"):
        make_objective({"x": {"kind": kind}})(student, teacher, make_batch(LABELLED), progress=0)


def test_features_of_a_teacher_of_other_classes_are_welcome():
    student, teacher = make_outputs()
    teacher.logits = torch.zeros(6, 400)

    losses = make_objective({"middle": ALL_TERMS["middle"]})(
        student, teacher, make_batch(LABELLED), progress=0
    )

    assert losses.total > 0


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_missing_attention_weights_are_named(role):
    student, teacher = make_outputs()
    lacking = student if role == "student" else teacher
    lacking.attention = None

    with pytest.raises(ConfigError, match=rf"when_w\.source: the {role} has no temporal attention"):
        make_objective({"when_w": ALL_TERMS["when_w"]})(
            student, teacher, make_batch(LABELLED), progress=0
        )


def test_outputs_that_are_not_one_a_video_are_refused():
    student, teacher = make_outputs()
    objective = make_objective(ALL_TERMS)

    with pytest.raises(ValueError, match="the student has 6 outputs for 4 videos"):
        objective(student, teacher, make_batch([True] * 4), progress=0)
    with pytest.raises(ValueError, match="the teacher has 3 outputs for 6 videos"):
        objective(student, rows(teacher, slice(0, 3)), make_batch(LABELLED), progress=0)
    with pytest.raises(ValueError, match="need a teacher's output"):
        objective(student, None, make_batch(LABELLED), progress=0)
    with pytest.raises(ValueError, match=r"progress must be in \[0, 1\], not 1.5"):
        objective(student, teacher, make_batch(LABELLED), progress=1.5)


def test_a_projection_learns_a_teacher_that_is_linear_in_the_student():
    torch.manual_seed(0)
    objective = make_objective({"middle": {"kind": "hint", **PAIR_1}})
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.05)
    mixing = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 2))).float()
    student, teacher = make_outputs()
    features, seconds = student.taps["s1"]
    teacher.taps["t1"] = TapOutput(torch.einsum("oc,ncthw->nothw", mixing, features), seconds)

    for _ in range(300):
        loss = objective(student, teacher, make_batch(LABELLED), progress=0.0).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    assert loss.item() < 1e-6
    learnt = objective.losses["middle_loss"].projection.conv.weight[:, :, 0, 0, 0]
    torch.testing.assert_close(learnt, mixing, atol=1e-2, rtol=0)
