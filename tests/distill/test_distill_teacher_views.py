"""Each of the teacher's views through an objective: what is compared happened at the same seconds.

Both networks here see nothing but time: a step's features are a straight line in its seconds, and
interpolation is exact on a straight line. So a student that is its teacher costs nothing, whatever
the samplings, unless somewhere seconds went wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_distill_objective import make_batch

from videokd.config import parse_config
from videokd.data.sampling import SameFrames, SameSpan, TeacherView, WholeVideo
from videokd.data.sampling.frames import check_view, frame_ids, teacher_frame_ids
from videokd.distill.ensemble import combine_teachers
from videokd.distill.objective import Networks, Objective, ObjectiveConfig
from videokd.distill.views import merge_views
from videokd.models.video_model import step_seconds
from videokd.types import Dense, ModelOutput, Sampling, Segment, TapOutput, TapShape

STUDENT, TEACHER = Dense(num_frames=4, stride=4), Dense(num_frames=16, stride=1)
CASES: dict[str, tuple[Sampling, Sampling, TeacherView]] = {
    "same_frames": (STUDENT, TEACHER, SameFrames()),
    "same_frames, segments": (
        Segment(num_segments=4),
        Segment(num_segments=8),
        SameFrames(),
    ),
    "same_span": (STUDENT, TEACHER, SameSpan()),
    "same_span, segments": (Segment(num_segments=4), Dense(num_frames=8, stride=3), SameSpan()),
    "whole_video, 1 clip": (
        Dense(num_frames=4, stride=2),
        Segment(num_segments=16),
        WholeVideo(num_clips=1),
    ),
    "whole_video, 3 clips": (
        Dense(num_frames=4, stride=2),
        Dense(num_frames=8, stride=2),
        WholeVideo(num_clips=3),
    ),
}
TERMS = {
    "attention": {"kind": "temporal_attention", "student_tap": "s", "teacher_tap": "t"},
    "relation": {"kind": "temporal_relation", "student_tap": "s", "teacher_tap": "t"},
    "difference": {"kind": "temporal_difference", "student_tap": "s", "teacher_tap": "t"},
    "tokens": {"kind": "token_relation", "student_tap": "s", "teacher_tap": "t", "margin": 0},
    "hint": {"kind": "hint", "student_tap": "s", "teacher_tap": "t"},
}
LINEAR = ("relation", "difference", "tokens", "hint")
"""The energy of temporal attention is a square, so it is not exact between steps."""


def objective_of(num_student_steps: int, num_teacher_steps: int) -> Objective:
    config = parse_config(ObjectiveConfig, {"terms": TERMS}, source="test")
    networks = Networks(
        student_taps={"s": TapShape(2, num_student_steps, 2, 2)},
        teacher_taps={"t": TapShape(2, num_teacher_steps, 2, 2)},
        student_pooled_dim=3,
        teacher_pooled_dim=3,
        num_classes=5,
        num_videos=1,
    )
    objective = Objective(config, networks, seed=0)
    return with_identity_projections(objective)


def with_identity_projections(objective: Objective) -> Objective:
    """As if they had been learned: both networks see the same."""
    with torch.no_grad():
        for parameter in objective.parameters():
            is_weight = parameter.ndim > 1
            parameter.copy_(torch.eye(2)[:, :, None, None, None] if is_weight else torch.zeros(2))
    return objective


def output_of(ids: np.ndarray, fps: float, *, tap: str, num_frames_a_step: int) -> ModelOutput:
    """What a network that sees time alone says of clips with these frames, [V, T]."""
    seconds = torch.from_numpy(ids / fps).float()
    steps = step_seconds(seconds, ids.shape[1] // num_frames_a_step)
    slope = torch.tensor([[1.0, -0.5], [2.0, 0.25]])
    line = 1 + slope * steps[:, None, :, None, None]
    return ModelOutput(
        logits=torch.zeros(len(ids), 5),
        pooled=torch.zeros(len(ids), 3),
        taps={tap: TapOutput(torch.stack([line[:, 0], 3 - line[:, 0]], dim=1), steps)},
    )


def pair_of(
    case: str, num_frames: int, fps: float, seed: int
) -> tuple[ModelOutput, ModelOutput, int]:
    student, teacher, view = CASES[case]
    check_view(student, teacher, view)
    length: dict[str, Any] = {"num_frames": num_frames, "fps": fps}
    mine = frame_ids(student, **length, start="random", generator=np.random.default_rng(seed))
    theirs = teacher_frame_ids(mine, student, teacher, view, **length)
    given = output_of(mine, fps, tap="s", num_frames_a_step=1)
    wanted = merge_views(output_of(theirs, fps, tap="t", num_frames_a_step=1), len(theirs))
    return given, wanted, len(theirs)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=25)
@given(
    num_frames=st.integers(48, 90), fps=st.sampled_from([10.0, 24.0, 29.97]), seed=st.integers(0)
)
def test_a_student_that_sees_what_its_teacher_sees_costs_nothing(case, num_frames, fps, seed):
    student, teacher, _ = pair_of(case, num_frames, fps, seed % 2**32)
    first, last = teacher.taps["t"].step_seconds.aminmax()
    seen = student.taps["s"].step_seconds
    # Beyond the teacher's first and last step its features are held; a line is not.
    if not (first <= seen).all() or not (seen <= last).all():
        assert case in ("whole_video, 1 clip", "same_frames, segments")
        return
    objective = objective_of(seen.shape[1], teacher.taps["t"].step_seconds.shape[1])

    terms = objective(student, teacher, make_batch([True]), progress=0).terms

    assert {name: terms[name].item() for name in LINEAR} == pytest.approx(
        dict.fromkeys(LINEAR, 0), abs=1e-4
    )
    assert terms["attention"] < 0.01


@pytest.mark.parametrize("case", CASES)
def test_a_teacher_a_fifth_of_a_second_late_is_noticed(case):
    """The test above can fail: the same features, with seconds that are not theirs."""
    student, teacher, _ = pair_of(case, 60, 10.0, 0)
    features, seconds = teacher.taps["t"]
    teacher.taps["t"] = TapOutput(features, seconds + 0.2)
    objective = objective_of(student.taps["s"].step_seconds.shape[1], seconds.shape[1])

    terms = objective(student, teacher, make_batch([True]), progress=0).terms

    assert terms["hint"] > 5e-3


def test_whole_video_is_read_over_all_its_clips():
    student, teacher, num_clips = pair_of("whole_video, 3 clips", 60, 10.0, 4)

    tap = teacher.taps["t"]

    assert num_clips == 3
    assert tap.features.shape == (1, 2, 24, 2, 2)
    assert (tap.step_seconds.diff() >= 0).all()
    assert tap.step_seconds[0, 0] == 0
    assert tap.step_seconds[0, -1] == pytest.approx(5.9, abs=0.11)
    assert student.taps["s"].step_seconds.shape == (1, 4)


def test_teachers_of_different_views_teach_together():
    """Each teacher's taps keep their own seconds under `TEACHER.TAP`."""
    student, dense, _ = pair_of("same_frames", 60, 10.0, 1)
    _, whole, _ = pair_of("whole_video, 3 clips", 60, 10.0, 1)
    batch = make_batch([True])
    both = combine_teachers(
        {"dense": dense, "whole": whole},
        how="confidence",
        targets=batch.targets,
        has_label=batch.has_label,
    )
    terms = {
        name: {"kind": "hint", "student_tap": "s", "teacher_tap": f"{name}.t"}
        for name in ("dense", "whole")
    }
    shapes = {name: TapShape(*tap.features.shape[1:]) for name, tap in both.taps.items()}
    objective = Objective(
        parse_config(ObjectiveConfig, {"terms": terms}, source="test"),
        Networks(
            student_taps={"s": TapShape(2, 4, 2, 2)},
            teacher_taps=shapes,
            student_pooled_dim=3,
            teacher_pooled_dim=6,
            num_classes=5,
            num_videos=1,
        ),
        seed=0,
    )

    found = with_identity_projections(objective)(student, both, batch, progress=0).terms

    assert found["dense"].item() == pytest.approx(0, abs=1e-6)
    assert found["whole"].item() == pytest.approx(0, abs=1e-6)
