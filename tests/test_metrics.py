from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.errors import UserError
from videokd.metrics import accuracy_report, wilson_interval_pct
from videokd.types import ClassNames

CLASSES = ClassNames(["clap", "throw", "wave"])

# True class, class ranked first: clap 2 of 3 right, throw 0 of 1, wave never there.
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.5, 0.1, 0.4], [0.1, 0.3, 0.6], [0.6, 0.3, 0.1]])
TARGETS = np.array([0, 0, 0, 1])


def random_scores(num_videos: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return (
        generator.dirichlet(np.ones(num_classes), size=num_videos),
        generator.integers(0, num_classes, num_videos),
    )


def names(num_classes: int) -> ClassNames:
    return ClassNames([f"class {index}" for index in range(num_classes)])


def test_four_videos_by_hand():
    report = accuracy_report(PROBABILITIES, TARGETS, CLASSES)

    assert report.num_videos == 4
    assert report.top1_pct == 50
    assert report.top5_pct == 100  # all three classes are among the first five
    assert report.mean_class_pct == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert report.num_absent_classes == 1
    assert report.confusion == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert report.per_class == [
        {"class": "clap", "num_videos": 3, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3},
        {"class": "throw", "num_videos": 1, "precision": None, "recall": 0.0, "f1": 0.0},
        {"class": "wave", "num_videos": 0, "precision": 0.0, "recall": None, "f1": 0.0},
    ]
    assert report.group_interval_pct is None


def test_a_class_that_is_neither_there_nor_claimed_has_no_numbers():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])

    report = accuracy_report(probabilities, np.array([0, 1]), CLASSES)

    assert report.per_class[2] == {
        "class": "wave",
        "num_videos": 0,
        "precision": None,
        "recall": None,
        "f1": None,
    }
    assert report.mean_class_pct == 100


@settings(max_examples=25, deadline=None)
@given(num_videos=st.integers(1, 40), num_classes=st.integers(2, 9), seed=st.integers(0, 10_000))
def test_random_videos_by_loops(num_videos, num_classes, seed):
    probabilities, targets = random_scores(num_videos, num_classes, seed)

    report = accuracy_report(probabilities, targets, names(num_classes))

    confusion = [[0] * num_classes for _ in range(num_classes)]
    in_first_five = 0
    for row, true in zip(probabilities.tolist(), targets.tolist(), strict=True):
        confusion[true][row.index(max(row))] += 1
        in_first_five += sum(other > row[true] for other in row) < 5
    assert report.confusion == confusion
    assert report.top5_pct == pytest.approx(100 * in_first_five / num_videos)
    right = sum(confusion[k][k] for k in range(num_classes))
    assert report.top1_pct == pytest.approx(100 * right / num_videos)
    recalls = []
    for k, entry in enumerate(report.per_class):
        actual, claimed = sum(confusion[k]), sum(line[k] for line in confusion)
        precision = confusion[k][k] / claimed if claimed else None
        recall = confusion[k][k] / actual if actual else None
        assert entry["num_videos"] == actual
        assert entry["precision"] == precision
        assert entry["recall"] == recall
        if precision and recall:
            assert entry["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
        if recall is not None:
            recalls.append(recall)
    assert report.mean_class_pct == pytest.approx(100 * sum(recalls) / len(recalls))


def test_torchmetrics_agrees():
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    scores, truth = random_scores(200, 8, seed=0)
    probabilities, targets = torch.tensor(scores), torch.tensor(truth)

    report = accuracy_report(probabilities, targets, names(8))

    top5 = multiclass_accuracy(probabilities, targets, 8, top_k=5, average="micro")
    macro = multiclass_accuracy(probabilities, targets, 8, average="macro")
    f1 = multiclass_f1_score(probabilities, targets, 8, average="none")
    assert report.top5_pct == pytest.approx(100 * top5.item(), rel=1e-5)
    assert report.mean_class_pct == pytest.approx(100 * macro.item(), rel=1e-5)
    assert [entry["f1"] for entry in report.per_class] == pytest.approx(f1.tolist(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_equal_probabilities_rank_by_class_index(dtype):
    # Seven classes, all equal: the first five are 0 to 4 and the first is 0, on any machine.
    probabilities = torch.full((7, 7), 1 / 7, dtype=dtype)

    report = accuracy_report(probabilities, torch.arange(7), names(7))

    assert report.top1_pct == pytest.approx(100 / 7)
    assert report.top5_pct == pytest.approx(500 / 7)
    assert [line[0] for line in report.confusion] == [1] * 7


def test_a_tie_behind_the_fifth_place_goes_to_the_lower_index():
    row = [0.1, 0.2, 0.1, 0.2, 0.2, 0.2]  # 1, 3, 4, 5, then 0 before 2

    fifth = accuracy_report(np.array([row]), np.array([0]), names(6))
    sixth = accuracy_report(np.array([row]), np.array([2]), names(6))

    assert (fifth.top5_pct, sixth.top5_pct) == (100, 0)


@pytest.mark.parametrize(("right", "total"), [(0, 10), (72, 80), (80, 80), (15_000, 20_000)])
def test_wilson_interval_by_its_formula(right, total):
    z, share = 1.959963984540054, right / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))

    low, high = wilson_interval_pct(right, total)

    assert low == pytest.approx(100 * (centre - half), abs=1e-9)
    assert high == pytest.approx(100 * (centre + half), abs=1e-9)


def test_the_reports_interval_is_that_of_its_top_1():
    report = accuracy_report(PROBABILITIES, TARGETS, CLASSES)

    assert report.interval_pct == wilson_interval_pct(2, 4)
    assert report.top5_interval_pct == wilson_interval_pct(4, 4)


def ten_people(right_each: list[int], videos_each: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Everything is class 0; the first `right_each[i]` videos of person i are told rightly."""
    told = np.concatenate([np.arange(videos_each) < right for right in right_each])
    probabilities = np.where(told[:, None], [0.9, 0.1, 0.0], [0.1, 0.9, 0.0])
    people = [f"person {i}" for i in range(len(right_each)) for _ in range(videos_each)]
    return probabilities, np.zeros(len(people), dtype=np.int64), people


def test_group_interval_is_wide_where_people_differ():
    # Half of the people always right, half never: ten independent units, not 200 videos.
    probabilities, targets, people = ten_people([20] * 5 + [0] * 5, 20)

    report = accuracy_report(probabilities, targets, CLASSES, groups=people)

    # The mean of ten draws of 0 or 1 is binomial(10, 1/2)'s. Ten people are few: the percentiles
    # are those beyond sqrt(10 / 9) x 2.262 standard deviations, 0.86 % on either side.
    assert report.group_interval_pct == pytest.approx((10, 90))
    assert report.interval_pct[1] - report.interval_pct[0] < 15


def test_group_interval_is_nothing_where_people_are_alike():
    probabilities, targets, people = ten_people([15] * 10, 20)

    report = accuracy_report(probabilities, targets, CLASSES, groups=people)

    assert report.group_interval_pct == pytest.approx((75, 75))


def test_groups_count_by_their_videos():
    # One person of 90 videos, all right, one of 10, all wrong: draws are (a, a), (a, b), (b, b).
    probabilities, targets, _ = ten_people([90, 0], 90)
    keep = np.r_[0:90, 90:100]

    report = accuracy_report(
        probabilities[keep], targets[keep], CLASSES, groups=["a"] * 90 + ["b"] * 10
    )

    assert report.top1_pct == 90
    assert report.group_interval_pct == (0, 100)


def test_group_interval_is_reproducible_and_seeded():
    generator = np.random.default_rng(0)
    probabilities, targets, people = ten_people(generator.integers(0, 31, 10).tolist(), 30)

    def interval(seed: int):
        report = accuracy_report(probabilities, targets, CLASSES, groups=people, seed=seed)
        return report.group_interval_pct

    assert interval(0) == interval(0)
    assert interval(0) != interval(1)
    assert interval(0) == pytest.approx(interval(1), abs=2)


@pytest.mark.parametrize("groups", [["a"] * 4, ["a", "b", "", "c"], [""] * 4])
def test_without_two_known_groups_there_is_no_group_interval(groups):
    assert (
        accuracy_report(PROBABILITIES, TARGETS, CLASSES, groups=groups).group_interval_pct is None
    )


def test_the_report_as_json():
    report = accuracy_report(PROBABILITIES, TARGETS, CLASSES, groups=["a", "a", "b", "b"])

    read = json.loads(json.dumps(report.to_dict()))

    assert list(read) == [
        "num_videos",
        "top1_pct",
        "top5_pct",
        "mean_class_pct",
        "num_absent_classes",
        "interval_pct",
        "top5_interval_pct",
        "group_interval_pct",
        "per_class",
        "confusion",
    ]
    assert read["interval_pct"] == list(report.interval_pct)
    assert read["group_interval_pct"] == list(report.group_interval_pct)
    assert read["per_class"] == report.per_class


@pytest.mark.parametrize(
    ("probabilities", "targets", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, dtype=np.int64), "no video to evaluate"),
        (PROBABILITIES, np.array([0, 1, 3, 0]), "target 3 is outside the 3 classes, 0 to 2"),
        (PROBABILITIES, np.array([0, -1, 0, 0]), "target -1 is outside"),
        (
            np.where(np.arange(4)[:, None] == 2, np.nan, PROBABILITIES),
            TARGETS,
            r"of 1 of 4 videos are not finite \(the first is row 2\)",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused(probabilities, targets, message):
    with pytest.raises(UserError, match=message):
        accuracy_report(probabilities, targets, CLASSES)


def test_a_single_class_is_refused():
    with pytest.raises(UserError, match="at least two classes"):
        accuracy_report(np.ones((2, 1)), np.array([0, 0]), ClassNames(["only"]))


@pytest.mark.parametrize(
    ("probabilities", "targets", "groups", "message"),
    [
        (PROBABILITIES[:, :2], TARGETS, None, r"must be float \[M, 3\], not .* \[4, 2\]"),
        (PROBABILITIES.astype(int), TARGETS, None, r"must be float \[M, 3\], not torch.int64"),
        (PROBABILITIES, TARGETS[:3], None, r"must be int64 \[4\], not torch.int64 \[3\]"),
        (PROBABILITIES, TARGETS.astype(float), None, "not torch.float64"),
        (PROBABILITIES, TARGETS, ["a", "b"], "2 groups for 4 videos"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(probabilities, targets, groups, message):
    with pytest.raises(ValueError, match=message):
        accuracy_report(probabilities, targets, CLASSES, groups=groups)
