from __future__ import annotations

import math
from itertools import pairwise

import distill_reference as reference
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_distill_objective import (
    ALL_TERMS,
    LABELLED,
    PAIR_1,
    leaves,
    make_batch,
    make_objective,
    make_outputs,
)
from test_distill_terms import parse

from videokd.config import parse_config
from videokd.distill import terms
from videokd.distill.terms import ObjectiveConfig, Schedule
from videokd.errors import ConfigError

DECAYS = ("none", "linear", "cosine")
PROGRESS = st.floats(0, 1)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any that is allowed."""
    start = draw(st.floats(0, 0.9))
    stop = draw(st.floats(start + 0.01, 1))
    decay = draw(st.sampled_from(DECAYS))
    share = draw(st.just(0) | st.floats(1e-3, 1 if decay == "none" else 0.99))
    return Schedule(
        start=start,
        stop=stop,
        warmup=share * (stop - start),
        decay=decay,
        final_fraction=0 if decay == "none" else draw(st.floats(0, 1)),
    )


@pytest.mark.parametrize(
    ("settings", "golden"),
    [
        ({}, {0: 1, 0.5: 1, 1: 1}),
        ({"warmup": 0.2}, {0: 0, 0.05: 0.25, 0.1: 0.5, 0.2: 1, 0.7: 1, 1: 1}),
        ({"start": 0.25}, {0: 0, 0.2499: 0, 0.25: 1, 1: 1}),
        ({"stop": 0.75}, {0: 1, 0.7499: 1, 0.75: 0, 1: 0}),
        ({"decay": "linear"}, {0: 1, 0.25: 0.75, 0.5: 0.5, 1: 0}),
        ({"decay": "linear", "final_fraction": 0.2}, {0: 1, 0.25: 0.8, 0.5: 0.6, 1: 0.2}),
        ({"decay": "cosine"}, {0: 1, 0.25: 0.853553390593, 0.5: 0.5, 0.75: 0.146446609407, 1: 0}),
        ({"decay": "cosine", "final_fraction": 0.5}, {0: 1, 0.5: 0.75, 1: 0.5}),
        (
            {"start": 0.2, "stop": 0.8, "warmup": 0.1, "decay": "linear", "final_fraction": 0.5},
            {0.1: 0, 0.2: 0, 0.25: 0.5, 0.3: 1, 0.55: 0.75, 0.7: 0.6, 0.8: 0, 0.9: 0},
        ),
        ({"start": 0.1, "warmup": 0.2, "stop": 0.3}, {0.1: 0, 0.2: 0.5, 0.299: 0.995, 0.3: 0}),
    ],
)
def test_golden_factors(settings, golden):
    schedule = Schedule(**settings)

    found = {progress: schedule.factor_at(progress) for progress in golden}

    assert found == pytest.approx(golden, abs=1e-9)


def test_the_warm_up_of_dkd():
    """20 of 240 epochs, as its authors train; what they multiply with is epoch / 20, at most 1."""
    schedule = Schedule(warmup=20 / 240)
    for epoch in range(240):
        assert schedule.factor_at(epoch / 240) == pytest.approx(min(epoch / 20, 1))


@given(schedules(), PROGRESS)
def test_a_factor_is_a_share_and_0_outside(schedule, progress):
    factor = schedule.factor_at(progress)

    assert 0 <= factor <= 1
    if progress < schedule.start or schedule.stop <= progress < 1:
        assert factor == 0
    if schedule.start + schedule.warmup <= progress < schedule.stop:
        assert factor >= schedule.final_fraction * (1 - 1e-12)


@given(schedules(), PROGRESS, st.floats(0, 1e-6))
def test_inside_a_factor_moves_no_faster_than_its_slopes(schedule, progress, step):
    """Continuous between start and stop: no jump where the warm-up ends or the decay begins."""
    later = progress + step
    if progress < schedule.start or later >= schedule.stop:
        return
    fall = schedule.stop - schedule.start - schedule.warmup
    steepest = max(
        1 / schedule.warmup if schedule.warmup else 0,
        math.pi / 2 / fall if schedule.decay != "none" and fall else 0,
    )
    moved = abs(schedule.factor_at(later) - schedule.factor_at(progress))
    assert moved <= steepest * step * (1 + 1e-6) + 1e-9


@given(schedules(), PROGRESS, PROGRESS)
def test_a_factor_rises_and_then_falls(schedule, one, other):
    earlier, later = sorted((one, other))
    warm = schedule.start + schedule.warmup
    if schedule.start <= earlier and later <= warm and later < schedule.stop:
        assert schedule.factor_at(earlier) <= schedule.factor_at(later)
    if warm <= earlier and later < schedule.stop:
        assert schedule.factor_at(earlier) >= schedule.factor_at(later)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{start: 0.5, stop: 0.5}", "start 0.5 must be below stop 0.5"),
        ("{start: 0.4, stop: 0.5, warmup: 0.2}", "warmup 0.2 lies beyond stop 0.5"),
        ("{final_fraction: 0.1}", "final_fraction is where a decay ends; set decay"),
        ("{decay: exponential}", r"schedule\.decay: .*'none', 'linear' or 'cosine'"),
        ("{start: -0.1}", r"schedule\.start: .*greater than or equal to 0"),
        ("{stop: 20}", r"schedule\.stop: .*less than or equal to 1"),
        ("{warm_up: 0.1}", r"unknown key '.*schedule\.warm_up'; did you mean 'warmup'"),
    ],
)
def test_schedules_that_cannot_be_right_are_refused(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse(f"a: {{kind: cross_entropy, schedule: {text}}}")

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("schedules", "gap"),
    [
        (["{start: 0.25}"], "from 0 to 0.25"),
        (["{stop: 0.5}"], "from 0.5 to 1"),
        (["{stop: 0.5}", "{start: 0.625}"], "from 0.5 to 0.625"),
        (["{stop: 0.5}", "{stop: 0.25}", "{start: 0.625}"], "from 0.5 to 0.625"),
    ],
)
def test_a_time_in_which_nothing_is_learned_is_refused(schedules, gap):
    text = "\n".join(
        f"t{i}: {{kind: cross_entropy, schedule: {s}}}" for i, s in enumerate(schedules)
    )
    with pytest.raises(ConfigError, match=rf"objective\.terms: .*no term is on {gap}"):
        parse(text + "\nunused: {kind: cross_entropy, weight: 0}")


def test_the_schedules_of_the_docstring_are_schedules():
    text = terms.__doc__.split("```yaml\n")[2].split("```")[0]

    config = parse(text + "\nlabels: {kind: cross_entropy}")

    assert config.weights_at(0.25) == {"soft": 0.9, "middle": pytest.approx(50), "labels": 1}


def test_terms_may_take_turns():
    config = parse(
        "{first: {kind: soft_targets, schedule: {stop: 0.5}}, "
        "second: {kind: cross_entropy, weight: 3, schedule: {start: 0.5}}}"
    )

    assert config.weights_at(0.25) == {"first": 1, "second": 0}
    assert config.weights_at(0.5) == {"first": 0, "second": 3}
    assert config.needs_teacher
    assert config.needs_teacher_at(0.49)
    assert not config.needs_teacher_at(0.5)


@pytest.mark.parametrize("name", ["total", "loss", "lr", "epoch", "grad_norm", "val_x", "weight_a"])
def test_a_term_is_not_called_like_another_curve(name):
    with pytest.raises(ConfigError, match=f"'{name}' cannot name a term"):
        parse(f"{name}: {{kind: cross_entropy}}")


def test_each_term_is_weighted_by_its_schedule():
    student, teacher = make_outputs()
    batch = make_batch(LABELLED)
    schedule = {"warmup": 0.25, "decay": "linear", "final_fraction": 0.5}
    scheduled = {n: {**t, "schedule": schedule} for n, t in ALL_TERMS.items() if n != "labels"}
    plain = make_objective(ALL_TERMS)(student, teacher, batch, progress=0).terms
    objective = make_objective({"labels": ALL_TERMS["labels"], **scheduled})

    for progress, factor in {0.125: 0.5, 0.25: 1, 0.625: 0.75, 1: 0.5}.items():
        found = objective(student, teacher, batch, progress=progress).terms
        assert found["labels"].item() == plain["labels"].item()
        for name in scheduled:
            torch.testing.assert_close(found[name], factor * plain[name], msg=name)
        weights = objective.scheduled_weights_at(progress)
        assert weights == {n: pytest.approx(factor * ALL_TERMS[n]["weight"]) for n in scheduled}


TURNS = {
    "labels": ALL_TERMS["labels"],
    "soft": {"kind": "soft_targets"},
    "middle": {**ALL_TERMS["middle"], "schedule": {"start": 0.25, "stop": 0.75}},
}


@pytest.mark.parametrize("progress", [0.0, 0.2, 0.75, 1.0])
def test_a_term_that_is_off_is_not_computed(progress):
    """Its taps are no numbers, so anything that looked at them would be none either."""
    student, teacher = make_outputs()
    student.taps["s1"].features.fill_(torch.nan)
    teacher.taps["t1"].features.fill_(torch.inf)
    inputs = leaves(student)
    objective = make_objective(TURNS)

    losses = objective(student, teacher, make_batch(LABELLED), progress=progress)
    losses.total.backward()

    assert losses.terms["middle"].item() == 0
    assert losses.total.isfinite()
    assert inputs["s1"].grad is None
    assert inputs["logits"].grad.isfinite().all()


def test_parameters_of_a_term_that_is_off_get_a_gradient_of_0():
    """DDP waits for a gradient of every parameter; what the parameters hold does not matter."""
    student, teacher = make_outputs()
    leaves(student)
    objective = make_objective(TURNS)
    projection = objective.losses["middle_loss"].projection.conv
    with torch.no_grad():
        projection.bias.fill_(torch.inf)

    losses = objective(student, teacher, make_batch(LABELLED), progress=0.9)
    losses.total.backward()

    assert losses.total.isfinite()
    for parameter in projection.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_logits_have_a_gradient_though_no_term_looks_at_them():
    student, teacher = make_outputs()
    inputs = leaves(student)

    objective = make_objective({"middle": {"kind": "hint", **PAIR_1}})
    objective(student, teacher, make_batch(LABELLED), progress=0).total.backward()

    assert torch.equal(inputs["logits"].grad, torch.zeros(6, 5))


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_what_a_term_has_learned_keeps_still_while_it_is_off(kind):
    """Neither weight decay nor momentum moves it, before its start and after its stop."""
    student, teacher = make_outputs()
    objective = make_objective(TURNS)
    optimiser = (
        torch.optim.AdamW(objective.parameters(), lr=0.1, weight_decay=0.5)
        if kind == "adamw"
        else torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5)
    )
    weight = objective.losses["middle_loss"].projection.conv.weight
    seen = [weight.detach().clone()]
    for step in range(8):
        losses = objective(student, teacher, make_batch(LABELLED), progress=step / 8)
        losses.total.backward()
        objective.drop_idle_gradients(step / 8)
        optimiser.step()
        optimiser.zero_grad()
        seen.append(weight.detach().clone())

    moved = [not torch.equal(before, after) for before, after in pairwise(seen)]
    assert moved == [False, False, True, True, True, True, False, False]


def test_a_teacher_is_asked_for_only_while_a_term_needs_it():
    student, teacher = make_outputs()
    objective = make_objective(
        {
            "labels": {"kind": "cross_entropy"},
            "soft": {"kind": "soft_targets", "schedule": {"stop": 0.5}},
        }
    )

    after = objective(student, None, make_batch(LABELLED), progress=0.5)

    assert after.terms["soft"].item() == 0
    assert after.terms["labels"].item() > 0
    assert objective(student, teacher, make_batch(LABELLED), progress=0.4).terms["soft"] > 0
    with pytest.raises(ValueError, match="need a teacher's output"):
        objective(student, None, make_batch(LABELLED), progress=0.4)


def test_a_schedule_that_changes_nothing_leaves_the_bits():
    student, teacher = make_outputs()
    batch = make_batch(LABELLED)
    same = {name: {**term, "schedule": {}} for name, term in ALL_TERMS.items()}

    one = make_objective(ALL_TERMS)(student, teacher, batch, progress=0.3)
    other = make_objective(same)(student, teacher, batch, progress=0.3)

    assert torch.equal(one.total, other.total)


def test_a_scheduled_term_counts_as_active():
    settings = {"terms": {"x": {"kind": "soft_targets", "schedule": {"warmup": 1}}}}
    config = parse_config(ObjectiveConfig, settings, source="test")

    assert config.needs_teacher
    assert list(config.active_terms) == ["x"]
    student, teacher = (reference.random_output(6, 5, seed=seed) for seed in (0, 1))
    inputs = leaves(student)
    loss = make_objective(settings["terms"])(student, teacher, make_batch(LABELLED), progress=0)
    loss.total.backward()
    assert loss.total.item() == 0
    assert not inputs["logits"].grad.any()
