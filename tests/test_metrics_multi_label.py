"""Average precision and what else is said of videos with several labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.errors import UserError
from videokd.metrics import (
    average_precisions,
    mean_average_precision_pct,
    multi_label_predictions,
    multi_label_report,
)
from videokd.types import ClassNames

CLASSES = ClassNames(["run", "jump", "wave", "fly"])
PROBABILITIES = torch.tensor(
    [
        [0.9, 0.8, 0.1, 0.3],
        [0.7, 0.2, 0.6, 0.2],
        [0.2, 0.6, 0.5, 0.1],
        [0.1, 0.4, 0.3, 0.9],
    ]
)
TARGETS = torch.tensor(
    [
        [1.0, 1, 0, 0],
        [0, 0, 1, 0],
        [1, 1, 1, 0],
        [0, 1, 0, 0],
    ]
)


def by_definition(scores: np.ndarray, truth: np.ndarray) -> float:
    """Sum over thresholds of the gain in recall times the precision there."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        said = scores >= threshold
        recall = (said & truth).sum() / truth.sum()
        total += (recall - before) * (said & truth).sum() / said.sum()
        before = recall
    return total


def test_average_precisions_by_hand():
    # run: right at 0.9, wrong at 0.7, right at 0.2; jump: right at the first two, then at 0.4;
    # wave: right at 0.6 and 0.5; nobody flies.
    assert average_precisions(PROBABILITIES, TARGETS) == pytest.approx(
        [(1 + 2 / 3) / 2, 1.0, 1.0, None]
    )
    assert mean_average_precision_pct(PROBABILITIES, TARGETS) == pytest.approx(
        100 * (5 / 6 + 1 + 1) / 3
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), num_levels=st.integers(1, 20))
def test_average_precisions_are_the_definition_with_ties(seed, num_levels):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, num_levels, (12, 3)) / 20
    truth = generator.random((12, 3)) < 0.4

    found = average_precisions(torch.tensor(scores), torch.tensor(truth).float())

    wanted = [
        by_definition(column, true) if true.any() else None
        for column, true in zip(scores.T, truth.T, strict=True)
    ]
    assert found == pytest.approx(wanted)


def test_the_report():
    report = multi_label_report(PROBABILITIES, TARGETS, CLASSES, groups=["a", "a", "b", "b"])

    assert report.num_videos == 4
    assert report.mean_average_precision_pct == pytest.approx(100 * 17 / 18)
    assert report.num_absent_classes == 1
    assert report.top1_pct == 50  # videos 0 and 2: their first class is one of theirs
    assert report.top5_pct == 100
    low, high = report.interval_pct
    assert low < 50 < high
    assert report.group_interval_pct is not None
    assert report.per_class[1] == {
        "class": "jump",
        "num_videos": 3,
        "average_precision": pytest.approx(1.0),
    }
    assert report.per_class[3]["average_precision"] is None
    assert report.to_dict()["interval_pct"] == [low, high]


def test_the_predictions():
    said = multi_label_predictions(
        PROBABILITIES, TARGETS, CLASSES, paths=["0", "1", "2", "3"], groups=[""] * 4
    )

    assert said.labels == ("run;jump", "wave", "run;jump;wave", "jump")
    assert said.predicted == ("run", "run", "jump", "fly")
    assert said.correct_top1.tolist() == [True, False, True, False]
    assert said.correct_top5.all()


def test_one_label_each_gives_the_accuracies_of_one_label():
    from videokd.metrics import accuracy_report

    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(30, 7, generator=generator)
    labels = torch.randint(0, 7, (30,), generator=generator)
    names = ClassNames([str(k) for k in range(7)])

    several = multi_label_report(probabilities, torch.eye(7)[labels], names)
    one = accuracy_report(probabilities, labels, names)

    for field in ("top1_pct", "top5_pct", "interval_pct", "top5_interval_pct", "num_videos"):
        assert getattr(several, field) == getattr(one, field), field


def test_a_video_without_a_label_is_refused():
    none = TARGETS.clone()
    none[2] = 0

    with pytest.raises(UserError, match=r"1 of 4 videos have no label .* row 2"):
        multi_label_report(PROBABILITIES, none, CLASSES)


def test_probabilities_that_are_no_numbers_are_refused():
    broken = PROBABILITIES.clone()
    broken[1, 2] = torch.nan

    with pytest.raises(UserError, match="the probabilities of 1 of 4 videos are not finite"):
        multi_label_report(broken, TARGETS, CLASSES)


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"targets must be \[4, 4\] as probabilities, not \[4\]"):
        multi_label_report(PROBABILITIES, TARGETS.argmax(1), CLASSES)
