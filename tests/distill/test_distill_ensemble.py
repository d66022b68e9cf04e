from __future__ import annotations

import math

import distill_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from videokd.distill.ensemble import combine_teachers, combined_tap_shapes, confidence_weights
from videokd.types import ModelOutput, TapShape

TARGETS = torch.eye(5)[:4]
LABELLED = torch.tensor([True, True, False, True])


def outputs(**seeds: int) -> dict[str, ModelOutput]:
    return {
        name: reference.random_output(4, 5, seed=seed, res4=(2, 3, 2, 2))
        for name, seed in seeds.items()
    }


def combine(teachers, how="mean", weights=None, targets=TARGETS, has_label=LABELLED):
    return combine_teachers(
        teachers, how=how, weights=weights, targets=targets, has_label=has_label
    )


def test_the_mean_is_of_logits():
    teachers = outputs(a=0, b=3, c=6)

    combined = combine(teachers)

    wanted = torch.stack([teacher.logits for teacher in teachers.values()]).mean(0)
    torch.testing.assert_close(combined.logits, wanted)


def test_a_mean_of_logits_is_no_mean_of_probabilities():
    """As the docstring says of You et al.: the two are different ensembles."""
    teachers = outputs(a=0, b=3)

    combined = combine(teachers).logits.softmax(1)

    probabilities = sum(teacher.logits.softmax(1) for teacher in teachers.values()) / 2
    assert (combined - probabilities).abs().max() > 0.01


@given(st.floats(0.1, 20))
def test_a_mean_commutes_with_a_temperature(temperature):
    teachers = outputs(a=0, b=3)
    softened = {n: ModelOutput(t.logits / temperature, t.pooled) for n, t in teachers.items()}
    torch.testing.assert_close(
        combine(softened).logits, combine(teachers).logits / temperature, atol=1e-6, rtol=1e-5
    )


def test_weights_are_normalised():
    teachers = outputs(a=0, b=3)

    combined = combine(teachers, "weighted", {"b": 6, "a": 2})

    wanted = 0.25 * teachers["a"].logits + 0.75 * teachers["b"].logits
    torch.testing.assert_close(combined.logits, wanted)


def test_a_weight_of_0_leaves_a_teacher_out():
    teachers = outputs(a=0, b=3)

    combined = combine(teachers, "weighted", {"a": 1, "b": 0})

    torch.testing.assert_close(combined.logits, teachers["a"].logits)


def test_confidence_is_the_published_formula():
    """CA-MKD's equation in float64 loops; without a label, entropy for cross entropy."""
    teachers = outputs(a=0, b=3, c=6)
    logits = np.stack([t.logits.double().numpy() for t in teachers.values()])

    combined = combine(teachers, "confidence")

    for clip in range(4):
        surprise = []
        for teacher in range(3):
            odds = reference.softmax(logits[teacher, clip])
            believed = TARGETS[clip].numpy() if LABELLED[clip] else odds
            surprise.append(-sum(y * math.log(p) for y, p in zip(believed, odds, strict=True)))
        total = sum(math.exp(value) for value in surprise)
        weights = [(1 - math.exp(value) / total) / 2 for value in surprise]
        assert sum(weights) == pytest.approx(1)
        wanted = sum(w * z for w, z in zip(weights, logits[:, clip], strict=True))
        np.testing.assert_allclose(combined.logits[clip].numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_the_teacher_that_knows_a_clip_decides_it():
    right, wrong = 30 * torch.eye(5)[:4], 30 * torch.eye(5)[1:5]
    weights = confidence_weights(torch.stack([right, wrong]), TARGETS, torch.ones(4) > 0)

    torch.testing.assert_close(weights, torch.tensor([[1.0] * 4, [0.0] * 4]))


def test_without_a_label_the_teacher_that_is_surer_weighs_more():
    sure, unsure = torch.tensor([[9.0, 0, 0]]), torch.tensor([[0.1, 0, 0]])
    no_target = torch.full((1, 3), torch.nan)

    weights = confidence_weights(torch.stack([sure, unsure]), no_target, torch.tensor([False]))

    assert weights[0, 0] > 0.7
    assert weights.sum() == pytest.approx(1)


def test_mixed_labels_count_by_their_share():
    logits = torch.randn(2, 1, 5)
    mixed = torch.tensor([[0.75, 0, 0.25, 0, 0]])
    log_odds = logits.log_softmax(2)[:, 0]
    surprise = -(0.75 * log_odds[:, 0] + 0.25 * log_odds[:, 2])

    weights = confidence_weights(logits, mixed, torch.tensor([True]))

    torch.testing.assert_close(weights[:, 0], 1 - surprise.softmax(0))
    again = confidence_weights(logits, 4 * mixed, torch.tensor([True]))
    torch.testing.assert_close(again, weights)


@given(
    hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(-(2.0**127), 2.0**127, width=32)),
    st.booleans(),
)
def test_confidence_weights_are_shares_whatever_the_logits(logits, labelled):
    has_label = torch.full((4,), labelled)

    weights = confidence_weights(torch.from_numpy(logits), TARGETS, has_label)

    assert ((weights >= 0) & (weights <= 0.5 + 1e-6)).all()
    torch.testing.assert_close(weights.sum(0), torch.ones(4))


@pytest.mark.parametrize("how", ["mean", "confidence"])
def test_one_teacher_is_itself(how):
    teachers = outputs(only=0)

    combined = combine(teachers, how)

    assert torch.equal(combined.logits, teachers["only"].logits)
    torch.testing.assert_close(combined.attention, teachers["only"].attention)


def test_equal_teachers_are_one():
    teachers = outputs(a=0, b=0)

    combined = combine(teachers, "confidence")

    torch.testing.assert_close(combined.logits, teachers["a"].logits)
    torch.testing.assert_close(combined.attention, teachers["a"].attention)


def test_features_keep_to_their_teacher():
    teachers = outputs(a=0, b=3)

    combined = combine(teachers, "weighted", {"a": 1, "b": 9})

    assert list(combined.taps) == ["a.res4", "b.res4"]
    assert combined.taps["b.res4"] is teachers["b"].taps["res4"]
    assert torch.equal(
        combined.pooled, torch.cat([teachers["a"].pooled, teachers["b"].pooled], dim=1)
    )
    shapes = {name: {"res4": TapShape(2, 3, 2, 2)} for name in teachers}
    assert combined_tap_shapes(shapes) == {
        name: TapShape(*tap.features.shape[1:]) for name, tap in combined.taps.items()
    }


def test_attention_is_read_at_the_first_teachers_seconds():
    teachers = outputs(a=0, b=1)  # 4 and 5 steps, both from 0 to 1 s

    combined = combine(teachers, "weighted", {"a": 1, "b": 3})

    a, b = (teacher.attention.double().numpy() for teacher in teachers.values())
    for clip in range(4):
        read = np.interp(np.linspace(0, 1, 4), np.linspace(0, 1, 5), b[clip])
        wanted = 0.25 * a[clip] + 0.75 * read / read.sum()
        np.testing.assert_allclose(combined.attention[clip].numpy(), wanted, rtol=1e-5)
    torch.testing.assert_close(combined.attention.sum(1), torch.ones(4))
    assert combined.attention_seconds is teachers["a"].attention_seconds


@pytest.mark.parametrize("lacking", ["a", "b"])
def test_attention_that_one_teacher_lacks_is_none(lacking):
    teachers = outputs(a=0, b=1)
    teachers[lacking].attention = teachers[lacking].attention_seconds = None

    assert combine(teachers).attention is None
    assert combine(teachers).attention_seconds is None


def test_outputs_of_low_precision_are_combined_in_float32():
    teachers = outputs(a=0, b=3)
    for teacher in teachers.values():
        teacher.logits, teacher.pooled = teacher.logits.bfloat16(), teacher.pooled.bfloat16()

    combined = combine(teachers, "confidence")

    assert combined.logits.dtype == combined.pooled.dtype == torch.float32


@pytest.mark.parametrize(
    ("names", "how", "weights", "message"),
    [
        ((), "mean", None, "there is no teacher"),
        (("a", "b"), "weighted", None, "'weighted' needs them"),
        (("a", "b"), "mean", {"a": 1, "b": 1}, "weights are for 'weighted'"),
        (("a", "b"), "weighted", {"a": 1, "c": 1}, r"weights are of \['a', 'c'\], the teachers"),
        (("a", "b"), "weighted", {"a": 1, "b": -1}, "at least 0 and not all 0"),
        (("a", "b"), "weighted", {"a": 0, "b": 0}, "at least 0 and not all 0"),
    ],
)
def test_what_does_not_fit_is_refused(names, how, weights, message):
    with pytest.raises(ValueError, match=message):
        combine(outputs(**dict.fromkeys(names, 0)), how, weights)


def test_teachers_of_other_classes_are_refused():
    teachers = outputs(a=0) | {"b": reference.random_output(4, 7, seed=1)}

    with pytest.raises(ValueError, match=r"one shape \[N, K\], not .*'b': \(4, 7\)"):
        combine(teachers)
