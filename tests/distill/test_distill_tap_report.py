from __future__ import annotations

import pytest
import torch
from every_kind import EVERY_KIND, term_of
from test_distill_every_kind import make_objective, objective_of, outputs
from test_distill_objective import make_batch

from videokd.distill import tap_report as module
from videokd.distill.tap_report import WIDTH, on_first_batch, tap_report
from videokd.types import ModelOutput, TapOutput

PAIR = {"student_tap": "s1", "teacher_tap": "t1"}


def clip_of(tap: str, seconds: list[float], shape: tuple[int, int, int]) -> ModelOutput:
    """One clip with channels and cells as given, a step at each of the seconds."""
    channels, height, width = shape
    features = torch.zeros(1, channels, len(seconds), height, width)
    return ModelOutput(
        logits=torch.zeros(1, 5),
        pooled=torch.zeros(1, 7),
        taps={tap: TapOutput(features, torch.tensor([seconds]))},
    )


def test_a_report_to_the_letter():
    student = clip_of("s1", [0.0, 0.4, 0.8, 1.2], (2, 4, 3))
    teacher = clip_of("t1", [0.1, 0.3, 0.5, 0.7, 0.9], (4, 3, 5))
    objective = make_objective(
        {
            "labels": {"kind": "cross_entropy", "weight": 0.1},
            "middle": {"kind": "hint", "weight": 100, "schedule": {"stop": 0.5}, **PAIR},
            "off": {"kind": "hint", "weight": 0, **PAIR},
            "alike": {"kind": "similarity_preserving", "weight": 3000, **PAIR},
        }
    )

    assert tap_report(objective, student, teacher) == (
        "labels: cross_entropy, weight 0.1\n"
        "middle: hint, weight at most 100, projection 2 -> 4 channels of 12 parameters\n"
        "  student  s1  2 x 4 x 4 x 3  4 steps, 0.00 to 1.20 s  pooled to 3 x 3\n"
        "  teacher  t1  4 x 5 x 3 x 5  5 steps, 0.10 to 0.90 s  read at 4 moments, "
        "pooled to 3 x 3\n"
        "alike: similarity_preserving, weight 3000\n"
        "  student  s1  2 x 4 x 4 x 3  4 steps, 0.00 to 1.20 s  as it is\n"
        "  teacher  t1  4 x 5 x 3 x 5  5 steps, 0.10 to 0.90 s  as it is\n"
    )


def test_equal_seconds_and_cells_are_left_alone():
    student = clip_of("s1", [0.0, 0.5], (2, 3, 3))
    teacher = clip_of("t1", [0.0, 0.5], (4, 3, 3))

    report = tap_report(make_objective({"x": {"kind": "hint", **PAIR}}), student, teacher)

    assert report.count("as it is") == 2
    assert "read at" not in report


def test_attention_weights_have_their_moments():
    student, teacher = (
        ModelOutput(
            logits=torch.zeros(1, 5),
            pooled=torch.zeros(1, 7),
            attention=torch.full((1, len(seconds)), 1 / len(seconds)),
            attention_seconds=torch.tensor([seconds]),
        )
        for seconds in ([0.0, 0.4], [0.0, 0.2, 0.4])
    )
    objective = make_objective({"when": {"kind": "temporal_attention", "source": "weights"}})

    assert tap_report(objective, student, teacher) == (
        "when: temporal_attention, weight 1\n"
        "  student  attention  weights  2 steps, 0.00 to 0.40 s  as it is\n"
        "  teacher  attention  weights  3 steps, 0.00 to 0.40 s  read at 2 moments\n"
    )


def test_every_projection_is_told():
    student, teacher = outputs()

    report = tap_report(objective_of("crd"), student, teacher)

    assert report == "x: crd, weight 1, 96 parameters, projections 7 -> 6, 7 -> 6\n"


def test_a_single_step_and_a_clip_that_starts_over():
    student = clip_of("s1", [0.25], (2, 3, 3))
    teacher = clip_of("t1", [0.6, 0.9, 0.0, 0.3], (4, 3, 3))

    report = tap_report(make_objective({"x": {"kind": "hint", **PAIR}}), student, teacher)

    assert "1 step, 0.25 s" in report
    assert "4 steps, 0.00 to 0.90 s" in report


@pytest.mark.parametrize("kind", sorted(EVERY_KIND))
def test_every_kind_has_a_report(kind):
    student, teacher = outputs()
    objective = objective_of(kind)

    lines = tap_report(objective, student, teacher).splitlines()

    assert lines[0].startswith(f"x: {kind}, weight 1")
    num_learned = sum(parameter.numel() for parameter in objective.parameters())
    assert (f"{num_learned:,} parameters" in lines[0]) == (num_learned > 0)
    pairs = objective.config.terms["x"].tap_pairs
    assert len(lines) == 1 + 2 * len(pairs)
    for pair, student_line, teacher_line in zip(pairs, lines[1::2], lines[2::2], strict=True):
        assert student_line.split()[:2] == ["student", pair.student_tap]
        assert teacher_line.split()[:2] == ["teacher", pair.teacher_tap]
        assert "2 x 4 x 4 x 3" in student_line or "3 x 3 x 2 x 2" in student_line


def test_columns_line_up_and_no_line_is_too_wide(monkeypatch):
    student, teacher = outputs()
    objective = make_objective({kind: term_of(kind) for kind in ("hint", "attention_transfer")})
    report = tap_report(objective, student, teacher)
    rows = [line for line in report.splitlines() if line.startswith("  ")]

    assert len(rows) == 6
    assert len({row.index(" steps,") for row in rows}) == 1
    assert all(len(line) <= WIDTH for line in report.splitlines())
    monkeypatch.setattr(module, "WIDTH", 40)
    narrow = tap_report(objective, student, teacher).splitlines()
    assert max(map(len, narrow)) == 40
    assert all(line.endswith("...") for line in narrow if len(line) == 40)


def test_it_is_told_once_with_the_first_batch():
    student, teacher = outputs()
    objective = objective_of("hint")
    told: list[str] = []

    on_first_batch(objective, told.append)
    for progress in (0.0, 0.5):
        objective(student, teacher, make_batch([True] * 6), progress=progress)

    assert told == [tap_report(objective, student, teacher)]


def test_it_waits_for_a_teacher_that_is_needed_later():
    student, teacher = outputs()
    objective = make_objective(
        {"labels": term_of("cross_entropy"), "late": term_of("hint", schedule={"start": 0.5})}
    )
    told: list[str] = []

    on_first_batch(objective, told.append)
    objective(student, None, make_batch([True] * 6), progress=0.0)
    assert not told
    objective(student, teacher, make_batch([True] * 6), progress=0.5)
    assert len(told) == 1
