"""Calibration and agreement: by loops in float64, by torch, and kept on disk."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from videokd.errors import UserError
from videokd.files import write_text
from videokd.metrics import (
    Predictions,
    agreement,
    calibration,
    read_predictions,
    wilson_interval_pct,
    write_probabilities,
)
from videokd.types import ClassNames

CLASSES = ClassNames(["clap", "throw", "wave"])


def probabilities_of(seed: int, videos: int = 40, sharpness: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(videos, 3, generator=generator)).softmax(1)


def predictions_of(seed: int, videos: int = 40, **changes: object) -> Predictions:
    truth = torch.arange(videos) % 3
    paths = [f"v{index}.mp4" for index in range(videos)]
    made = Predictions.from_scores(
        probabilities_of(seed, videos), truth, CLASSES, paths=paths, groups=[""] * videos
    )
    return Predictions(**({name: getattr(made, name) for name in FIELDS} | changes))  # type: ignore[arg-type]


FIELDS = (
    "paths", "labels", "predicted", "correct_top1", "correct_top5", "groups", "probabilities",
    "classes",
)  # fmt: skip


def expected_error(probabilities: np.ndarray, truth: list[int], num_bins: int) -> float:
    """Equation 3 of Guo et al., a bin at a time."""
    total = 0.0
    for number in range(num_bins):
        low, high = number / num_bins, (number + 1) / num_bins
        inside = [i for i, row in enumerate(probabilities) if low < max(row) <= high]
        if inside:
            right = sum(int(np.argmax(probabilities[i])) == truth[i] for i in inside)
            confidence = sum(max(probabilities[i]) for i in inside)
            total += abs(right - confidence)
    return total / len(truth)


@given(seed=st.integers(0, 1000), videos=st.integers(1, 30), num_bins=st.integers(1, 20))
def test_calibration_error_bin_by_bin(seed, videos, num_bins):
    probabilities = probabilities_of(seed, videos).double()
    truth = torch.arange(videos) % 3

    found = calibration(probabilities, truth, num_bins=num_bins)

    expected = expected_error(probabilities.numpy(), truth.tolist(), num_bins)
    assert found.calibration_error_pct == pytest.approx(100 * expected, abs=1e-9)
    assert found.num_videos == videos
    assert 0 <= found.calibration_error_pct <= 100


def test_calibration_error_and_likelihood_as_others_compute_them():
    probabilities, truth = probabilities_of(3, 500), torch.arange(500) % 3

    found = calibration(probabilities, truth)

    error = multiclass_calibration_error(probabilities, truth, num_classes=3, n_bins=15, norm="l1")
    assert found.calibration_error_pct == pytest.approx(100 * float(error), rel=1e-5)
    loss = torch.nn.functional.nll_loss(probabilities.double().log(), truth)
    assert found.negative_log_likelihood == pytest.approx(float(loss), rel=1e-12)
    assert calibration(probabilities.numpy(), truth.numpy()) == found


def test_bins_are_closed_above():
    """Confidence 0.6 ends the bin (0.4, 0.6]; were it in the next, it would meet the 0.7."""
    probabilities = np.array([[0.6, 0.4, 0.0], [0.7, 0.3, 0.0]])
    found = calibration(probabilities, np.array([1, 0]), num_bins=5)
    assert found.calibration_error_pct == pytest.approx(100 * (0.6 + 0.3) / 2)


@pytest.mark.parametrize(("truth", "error", "likelihood"), [(0, 0, 0), (1, 100, math.log(1e12))])
def test_certainty(truth, error, likelihood):
    """Right it costs nothing; wrong it costs as much as a probability of 1e-12."""
    found = calibration(np.array([[1.0, 0, 0]] * 4), np.full(4, truth))
    assert found.calibration_error_pct == error
    assert found.negative_log_likelihood == pytest.approx(likelihood)
    assert math.copysign(1, found.negative_log_likelihood) == 1


def test_one_in_four_right_at_a_quarter_of_confidence_is_calibrated():
    found = calibration(np.full((4, 4), 0.25), np.arange(4))
    assert found.calibration_error_pct == pytest.approx(0)
    assert found.negative_log_likelihood == pytest.approx(math.log(4))


def test_what_is_no_probability_is_refused():
    truth = np.array([0, 1])
    with pytest.raises(ValueError, match=r"row 1 is no row of probabilities: it sums to 1\.2"):
        calibration(np.array([[0.5, 0.5], [0.6, 0.6]]), truth)
    with pytest.raises(ValueError, match=r"its smallest is -0\.5"):
        calibration(np.array([[1.5, -0.5], [0.5, 0.5]]), truth)
    with pytest.raises(ValueError, match="num_bins is 0"):
        calibration(np.array([[0.5, 0.5], [0.5, 0.5]]), truth, num_bins=0)
    with pytest.raises(UserError, match="not finite"):
        calibration(np.array([[math.nan, 0.5], [0.5, 0.5]]), truth)


def test_agreement_by_hand():
    student, teacher = predictions_of(1), predictions_of(2)

    found = agreement(student, teacher)

    pairs = list(zip(student.predicted, teacher.predicted, strict=True))
    same = sum(one == other for one, other in pairs)
    assert 0 < same < 40
    assert found.top1_pct == pytest.approx(100 * same / 40)
    assert found.interval_pct == wilson_interval_pct(same, 40)
    logs = probabilities_of(1).double().log()
    kl = torch.nn.functional.kl_div(logs, probabilities_of(2).double(), reduction="batchmean")
    assert found.mean_kl == pytest.approx(float(kl), rel=1e-6)
    assert found.num_videos == 40
    low, high = found.interval_pct
    share = f"{found.top1_pct:.1f} % [{low:.1f}, {high:.1f}]"
    kl_text = f"mean KL {found.mean_kl:.3f}"
    assert found.text() == f"the same class on {share} of 40 videos, {kl_text}"
    assert found.to_dict()["interval_pct"] == [low, high]


def test_videos_are_matched_by_their_path():
    student, teacher = predictions_of(1), predictions_of(2)
    order = np.random.default_rng(0).permutation(40)
    shuffled = Predictions(
        *(tuple(np.array(getattr(teacher, name), object)[order]) for name in FIELDS[:3]),  # type: ignore[arg-type]
        teacher.correct_top1[order],
        teacher.correct_top5[order],
        teacher.groups,
        teacher.probabilities[order],
        teacher.classes,
    )
    one, other = agreement(student, teacher), agreement(student, shuffled)
    assert (one.top1_pct, one.mean_kl) == (other.top1_pct, pytest.approx(other.mean_kl))


def test_a_network_agrees_with_itself():
    one = predictions_of(1)
    found = agreement(one, one)
    assert (found.top1_pct, found.mean_kl) == (100, pytest.approx(0, abs=1e-12))


def test_a_teacher_without_doubt_and_a_student_that_excludes_it():
    sure = np.tile(np.array([[1, 0, 0]], dtype=np.float32), (40, 1))
    other = np.tile(np.array([[0, 1, 0]], dtype=np.float32), (40, 1))
    teacher = predictions_of(1, probabilities=sure)
    assert agreement(predictions_of(1, probabilities=sure), teacher).mean_kl == 0
    kl = agreement(predictions_of(1, probabilities=other), teacher).mean_kl
    assert kl == pytest.approx(math.log(1e12))


def test_there_is_no_divergence_without_both_distributions():
    full, bare = predictions_of(1), predictions_of(2, probabilities=None)
    sigmoids = predictions_of(2, probabilities=np.full((40, 3), 0.9, dtype=np.float32))
    for other in (bare, sigmoids):
        assert agreement(full, other).mean_kl is agreement(other, full).mean_kl is None
        assert agreement(full, other).top1_pct > 0


def test_other_videos_labels_or_classes_are_refused():
    one = predictions_of(1)
    with pytest.raises(UserError, match=r"other videos \(40 and 39; v39.mp4 is in one only\)"):
        agreement(one, predictions_of(2, 39))
    empty = Predictions((), (), (), np.zeros(0, bool), np.zeros(0, bool), ())
    with pytest.raises(UserError, match=r"other videos \(0 and 0"):
        agreement(empty, empty)
    labels = ("wave", *one.labels[1:])
    with pytest.raises(UserError, match="has the label 'clap' for the student and 'wave'"):
        agreement(one, predictions_of(2, labels=labels))
    with pytest.raises(UserError, match="classes are not the teacher's"):
        agreement(one, predictions_of(2, classes=("throw", "clap", "wave")))


def test_probabilities_are_kept_beside_the_rows(tmp_path: Path):
    made = predictions_of(1)
    rows, numbers = tmp_path / "predictions.csv", tmp_path / "probabilities.safetensors"
    write_text(rows, made.to_csv())
    write_probabilities(made, numbers)
    before = numbers.read_bytes()

    back = read_predictions(rows, probabilities=numbers)

    assert back.probabilities.dtype == np.float32
    assert (back.probabilities == made.probabilities).all()
    assert back.classes == tuple(CLASSES)
    assert back.digest == made.digest
    assert read_predictions(rows).probabilities is None
    write_probabilities(made, numbers)
    assert numbers.read_bytes() == before, "the same, to the last byte"
    with pytest.raises(ValueError, match="no probabilities to write"):
        write_probabilities(read_predictions(rows), numbers)


def test_probabilities_of_other_rows_are_refused(tmp_path: Path):
    rows, numbers = tmp_path / "predictions.csv", tmp_path / "probabilities.safetensors"
    write_text(rows, predictions_of(1).to_csv())
    write_probabilities(predictions_of(2), numbers)
    with pytest.raises(UserError, match=r"is not of the predictions.csv beside it; run `videokd"):
        read_predictions(rows, probabilities=numbers)
    for content in (b"", b"not safetensors at all", b"\xff" * 64):
        numbers.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read as probabilities of ours: .+; run"):
            read_predictions(rows, probabilities=numbers)
    with pytest.raises(UserError, match="cannot be read as probabilities"):
        read_predictions(rows, probabilities=tmp_path / "nothing")


def test_somebody_elses_safetensors_are_no_probabilities(tmp_path: Path):
    from safetensors.numpy import save_file

    write_text(tmp_path / "predictions.csv", predictions_of(1).to_csv())
    for metadata in (None, {"videokd": "{}"}, {"videokd": "no JSON"}, {"videokd": "[1]"}):
        path = tmp_path / "other.safetensors"
        save_file({"weights": np.zeros(3, np.float32)}, path, metadata=metadata)
        with pytest.raises(UserError, match="cannot be read as probabilities of ours"):
            read_predictions(tmp_path / "predictions.csv", probabilities=path)
