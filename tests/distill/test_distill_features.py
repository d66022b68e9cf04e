from __future__ import annotations

from functools import partial

import distill_reference as reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.distill.losses.features import attention_transfer, hint, pooled_mse
from videokd.distill.projections import ChannelProjection, PooledProjection
from videokd.types import TapOutput

# They differ in everything: channels, steps, height (student finer), width (teacher finer).
STUDENT = reference.random_tap((2, 2, 3, 4, 2), seed=0)
TEACHER = reference.random_tap((2, 4, 5, 3, 5), seed=1)
WEIGHT = np.random.default_rng(2).normal(size=(4, 2))
NO_BIAS = np.zeros(4)


def project(features: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oc,ncthw->nothw", torch.tensor(WEIGHT), features)


def identity(features: torch.Tensor) -> torch.Tensor:
    return features


def clips(student: np.ndarray, teacher: TapOutput, *, energies: bool = False):
    """Both sides of each clip on one grid, [t, C, h, w]; `energies` squares and sums C first."""
    for n in range(len(student)):
        sides = student[n].swapaxes(0, 1), teacher.features[n].numpy().swapaxes(0, 1)
        if energies:
            sides = tuple((side**2).mean(axis=1, keepdims=True) for side in sides)
        yield reference.on_one_grid(
            *sides, STUDENT.step_seconds[n].numpy(), teacher.step_seconds[n].numpy()
        )


def in_float32(tap: TapOutput) -> TapOutput:
    return TapOutput(tap.features.float(), tap.step_seconds.float())


def hint_by_hand(
    student: np.ndarray, weight: np.ndarray = WEIGHT, bias: np.ndarray = NO_BIAS
) -> list[float]:
    losses = []
    for ours, wanted in clips(student, TEACHER):
        total = 0.0
        for t, o, y, x in np.ndindex(*wanted.shape):
            total += (weight[o] @ ours[t, :, y, x] + bias[o] - wanted[t, o, y, x]) ** 2
        losses.append(total / wanted.size)
    return losses


def pooled_mse_by_hand(
    student: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, teacher: np.ndarray
) -> list[float]:
    return [
        sum((weight[d] @ row + bias[d] - wanted[d]) ** 2 for d in range(len(wanted))) / len(wanted)
        for row, wanted in zip(student, teacher, strict=True)
    ]


def transfer_by_hand(student: np.ndarray, *, over: str) -> list[float]:
    losses = []
    for sides in clips(student, TEACHER, energies=True):
        maps = [side.reshape(len(side), -1) for side in sides]
        if over == "space_time":
            maps = [side.reshape(1, -1) for side in maps]
        ours, wanted = ([row / np.sqrt((row**2).sum()) for row in side] for side in maps)
        losses.append(float(np.mean([(g - w) ** 2 for g, w in zip(ours, wanted, strict=True)])))
    return losses


def test_hint_is_the_formula_in_value_and_gradient():
    values, gradient = reference.value_and_gradient(
        lambda f: hint(STUDENT._replace(features=f), TEACHER, projection=project),
        STUDENT.features.numpy(),
    )

    np.testing.assert_allclose(values, hint_by_hand(STUDENT.features.numpy()), rtol=1e-10)
    numeric = reference.numeric_gradient(lambda f: sum(hint_by_hand(f)), STUDENT.features.numpy())
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_hint_in_float32_is_the_formula_in_float64_by_map_and_projection():
    projection = ChannelProjection(2, 4, generator=torch.Generator().manual_seed(0))
    weight, bias = (parameter.detach().double().numpy() for parameter in projection.parameters())
    at = (STUDENT.features.numpy(), weight[:, :, 0, 0, 0], bias)
    student = in_float32(STUDENT)
    leaves = (student.features.requires_grad_(), *projection.parameters())

    values = hint(student, in_float32(TEACHER), projection=projection)

    assert reference.relative_error(values, np.array(hint_by_hand(*at))) < 1e-5
    for ours, wanted in zip(
        reference.gradients(values.sum(), *leaves),
        reference.numeric_gradients(hint_by_hand, *at),
        strict=True,
    ):
        assert reference.relative_error(ours.reshape(wanted.shape), wanted) < 1e-5


def test_mean_of_hints_on_equal_taps_is_torchs_mse():
    other = TapOutput(torch.randn_like(STUDENT.features), STUDENT.step_seconds)

    losses = hint(STUDENT, other, projection=identity)

    torch.testing.assert_close(
        losses.mean(), torch.nn.functional.mse_loss(STUDENT.features, other.features)
    )


@pytest.mark.parametrize("over", ["space", "space_time"])
def test_attention_transfer_is_the_formula_in_value_and_gradient(over):
    values, gradient = reference.value_and_gradient(
        lambda f: attention_transfer(STUDENT._replace(features=f), TEACHER, over=over),
        STUDENT.features.numpy(),
    )

    by_hand = transfer_by_hand(STUDENT.features.numpy(), over=over)
    np.testing.assert_allclose(values, by_hand, rtol=1e-10)
    numeric = reference.numeric_gradient(
        lambda f: sum(transfer_by_hand(f, over=over)), STUDENT.features.numpy()
    )
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_attention_transfer_of_an_image_by_the_authors_lines():
    # github.com/szagoruyko/attention-transfer: at(x) = F.normalize(x.pow(2).mean(1).view(N, -1)),
    # at_loss = (at(x) - at(y)).pow(2).mean()
    x, y = torch.randn(4, 3, 5, 6), torch.randn(4, 8, 5, 6)
    authors = torch.nn.functional.normalize(
        x.pow(2).mean(1).view(4, -1)
    ) - torch.nn.functional.normalize(y.pow(2).mean(1).view(4, -1))
    second = torch.zeros(4, 1)

    for over in ("space", "space_time"):
        ours = attention_transfer(
            TapOutput(x[:, :, None], second), TapOutput(y[:, :, None], second), over=over
        )
        torch.testing.assert_close(ours.mean(), authors.pow(2).mean())


LOSSES = {
    "hint": lambda s, t: hint(s, t, projection=identity),
    "attention_transfer": attention_transfer,
    "attention_transfer over space_time": lambda s, t: attention_transfer(s, t, over="space_time"),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_student_equal_to_its_teacher_costs_nothing(loss):
    values, gradient = reference.value_and_gradient(
        lambda f: loss(STUDENT._replace(features=f), STUDENT), STUDENT.features.numpy()
    )

    assert values.tolist() == [0, 0]
    assert not gradient.any()


@settings(max_examples=30, deadline=None)
@given(
    exponent=st.integers(-6, 6),
    seed=st.integers(0, 1000),
    over=st.sampled_from(["space", "space_time"]),
)
def test_attention_transfer_does_not_see_the_scale_of_features(exponent, seed, over):
    student = reference.random_tap((2, 3, 4, 3, 3), seed)
    teacher = reference.random_tap((2, 5, 4, 3, 3), seed + 1)
    scaled = student._replace(features=student.features * 2.0**exponent)

    torch.testing.assert_close(
        attention_transfer(scaled, teacher, over=over),
        attention_transfer(student, teacher, over=over),
    )


def test_over_space_does_not_see_when_the_energy_comes():
    # The same maps, one step a hundred times as strong: where to look is the same, when is not.
    louder = STUDENT.features.clone()
    louder[:, :, 1] *= 10
    louder_student = STUDENT._replace(features=louder)

    torch.testing.assert_close(
        attention_transfer(louder_student, STUDENT, over="space"), torch.zeros(2).double()
    )
    assert (attention_transfer(louder_student, STUDENT, over="space_time") > 1e-3).all()


def test_a_dead_tap_gives_finite_values_and_gradients():
    dead = np.zeros(STUDENT.features.shape)

    values, gradient = reference.value_and_gradient(
        lambda f: attention_transfer(STUDENT._replace(features=f), TEACHER), dead
    )

    assert np.isfinite(values).all()
    assert np.isfinite(gradient).all()


def test_hint_of_images_is_the_regressor_and_mse_of_the_published_code():
    # FitNets in RepDistiller, mdistiller and torchdistill: F.mse_loss(conv1x1(f_s), f_t)
    x, y = torch.randn(4, 3, 5, 6), torch.randn(4, 8, 5, 6)
    projection = ChannelProjection(3, 8, generator=torch.Generator().manual_seed(0))
    leaves = (x.requires_grad_(), *projection.parameters())
    theirs = F.mse_loss(F.conv2d(x, projection.conv.weight[:, :, 0], projection.conv.bias), y)

    ours = hint(reference.one_step(x), reference.one_step(y), projection=projection).mean()

    assert reference.relative_error(ours, theirs) < 1e-5
    for ours_by_x, theirs_by_x in zip(
        reference.gradients(ours, *leaves), reference.gradients(theirs, *leaves), strict=True
    ):
        assert reference.relative_error(ours_by_x, theirs_by_x) < 1e-5


def test_attention_transfer_of_images_is_torchdistills_in_value_and_gradient():
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    side = {"io": "output", "path": "layer"}
    loss = mid_level.ATLoss({"pair": {"teacher": side, "student": side}}, mode="code")
    x, y = torch.randn(4, 3, 5, 6, requires_grad=True), torch.randn(4, 8, 5, 6)
    theirs = loss({"layer": {"output": x}}, {"layer": {"output": y}})

    ours = attention_transfer(reference.one_step(x), reference.one_step(y)).mean()

    assert reference.relative_error(ours, theirs) < 1e-5
    (ours_by_x,), (theirs_by_x,) = reference.gradients(ours, x), reference.gradients(theirs, x)
    assert reference.relative_error(ours_by_x, theirs_by_x) < 1e-5


@pytest.mark.parametrize("over", ["space", "space_time"])
def test_attention_transfer_in_float32_is_the_formula_in_float64(over):
    exact, gradient = reference.value_and_gradient(
        lambda f: attention_transfer(STUDENT._replace(features=f), TEACHER, over=over),
        STUDENT.features.numpy(),
    )
    student = STUDENT.features.float().requires_grad_()

    values = attention_transfer(
        TapOutput(student, STUDENT.step_seconds),
        TEACHER._replace(features=TEACHER.features.float()),
        over=over,
    )

    assert reference.relative_error(values, exact) < 1e-5
    (ours,) = reference.gradients(values.sum(), student)
    assert reference.relative_error(ours, gradient) < 1e-5


def test_a_silent_step_of_a_loud_clip_has_no_gradient():
    quiet = STUDENT.features.numpy().copy()
    quiet[0, :, 1] = 0

    values, gradient = reference.value_and_gradient(
        lambda f: attention_transfer(STUDENT._replace(features=f), TEACHER), quiet
    )

    assert np.isfinite(values).all()
    assert not gradient[0, :, 1].any()
    assert gradient[0, :, 0].all()


@pytest.mark.parametrize("size", [1e-9, 1e15, 1e30])
def test_attention_transfer_of_features_of_any_size_is_that_of_ordinary_ones(size):
    student, teacher = (
        TapOutput(tap.features.float(), tap.step_seconds.float()) for tap in (STUDENT, TEACHER)
    )
    features = (student.features * size).requires_grad_()
    ordinary = student.features.clone().requires_grad_()

    values = attention_transfer(student._replace(features=features), teacher)
    wanted = attention_transfer(student._replace(features=ordinary), teacher)

    torch.testing.assert_close(values, wanted)
    (ours,) = reference.gradients(values.sum(), features)
    (gradient,) = reference.gradients(wanted.sum(), ordinary)
    torch.testing.assert_close(ours * size, gradient)


def test_pooled_mse_is_the_formula_in_value_and_gradient():
    generator = np.random.default_rng(5)
    student, teacher = generator.normal(size=(3, 4)), generator.normal(size=(3, 6))
    weight, bias = generator.normal(size=(6, 4)), generator.normal(size=6)
    by_hand = partial(pooled_mse_by_hand, weight=weight, bias=bias, teacher=teacher)

    def project(pooled: torch.Tensor) -> torch.Tensor:
        return F.linear(pooled, torch.tensor(weight), torch.tensor(bias))

    values, gradient = reference.value_and_gradient(
        lambda pooled: pooled_mse(pooled, torch.tensor(teacher), projection=project), student
    )

    np.testing.assert_allclose(values, by_hand(student), rtol=1e-10)
    numeric = reference.numeric_gradient(lambda pooled: sum(by_hand(pooled)), student)
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_pooled_mse_in_float32_is_the_formula_in_float64_by_features_and_projection():
    generator = np.random.default_rng(6)
    student, teacher = generator.normal(size=(3, 4)), generator.normal(size=(3, 6))
    projection = PooledProjection(4, 6, generator=torch.Generator().manual_seed(0))
    at = (student, *(side.detach().double().numpy() for side in projection.parameters()))
    by_hand = partial(pooled_mse_by_hand, teacher=teacher)
    pooled = torch.tensor(student).float().requires_grad_()

    values = pooled_mse(pooled, torch.tensor(teacher).float(), projection=projection)

    assert reference.relative_error(values, np.array(by_hand(*at))) < 1e-5
    for ours, wanted in zip(
        reference.gradients(values.sum(), pooled, *projection.parameters()),
        reference.numeric_gradients(by_hand, *at),
        strict=True,
    ):
        assert reference.relative_error(ours, wanted) < 1e-5


def test_mean_of_pooled_mse_is_the_mse_of_the_authors_code():
    # github.com/craston/MARS: nn.MSELoss() of both networks' features before the last layer
    x, y = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    ours, theirs = pooled_mse(x, y).mean(), torch.nn.MSELoss()(x, y)

    assert reference.relative_error(ours, theirs) < 1e-5
    (ours_by_x,), (theirs_by_x,) = reference.gradients(ours, x), reference.gradients(theirs, x)
    assert reference.relative_error(ours_by_x, theirs_by_x) < 1e-5
    assert pooled_mse(y, y).tolist() == [0, 0, 0, 0]
