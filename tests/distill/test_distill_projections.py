from __future__ import annotations

import distill_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.distill.projections import (
    ChannelProjection,
    align_in_space,
    align_in_time,
    align_steps,
    term_generator,
)


def test_projection_is_a_matrix_over_channels():
    projection = ChannelProjection(3, 5, generator=torch.Generator().manual_seed(0))
    features = torch.randn(2, 3, 4, 2, 3)

    projected = projection(features)

    weight = projection.conv.weight[:, :, 0, 0, 0]
    wanted = torch.einsum("oc,ncthw->nothw", weight, features)
    wanted = wanted + projection.conv.bias[None, :, None, None, None]
    torch.testing.assert_close(projected, wanted)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_initial_weights_come_from_the_generator_alone(norm):
    before = torch.get_rng_state()
    first = ChannelProjection(3, 5, generator=term_generator(7, "a"), norm=norm)
    torch.rand(10)
    again = ChannelProjection(3, 5, generator=term_generator(7, "a"), norm=norm)
    other = ChannelProjection(3, 5, generator=term_generator(8, "a"), norm=norm)
    torch.set_rng_state(before)
    named = ChannelProjection(3, 5, generator=term_generator(7, "b"), norm=norm)

    assert torch.equal(torch.get_rng_state(), before)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not torch.equal(first.conv.weight, other.conv.weight)
    assert not torch.equal(first.conv.weight, named.conv.weight)


def test_initial_weights_are_spread_as_torch_spreads_them():
    projection = ChannelProjection(64, 256, generator=torch.Generator().manual_seed(0))
    bound = 1 / 64**0.5

    for parameter in (projection.conv.weight, projection.conv.bias):
        assert parameter.abs().max() <= bound
        assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_batch_norm_of_the_projection_normalises_each_channel():
    projection = ChannelProjection(3, 5, generator=term_generator(0, "a"), norm="batch")

    projected = projection(torch.randn(6, 3, 4, 5, 5))

    torch.testing.assert_close(projected.mean(dim=(0, 2, 3, 4)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        projected.var(dim=(0, 2, 3, 4), unbiased=False), torch.ones(5), atol=1e-3, rtol=0
    )


def test_aligning_in_time_is_numpys_interpolation_in_value_and_gradient():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(2, 3, 5, 2, 2))
    known = np.sort(generator.uniform(0, 1, (2, 5)), axis=1)
    wanted = generator.uniform(-0.2, 1.2, (2, 7))  # beyond both ends, in no order
    weights = generator.normal(size=(2, 3, 7, 2, 2))

    def numpys(values: np.ndarray) -> np.ndarray:
        clips = [
            reference.interpolate(clip.swapaxes(0, 1), *seconds).swapaxes(0, 1)
            for clip, *seconds in zip(values, known, wanted, strict=True)
        ]
        return np.stack(clips)

    tensor = torch.tensor(features, requires_grad=True)
    read = align_in_time(tensor, torch.tensor(known), torch.tensor(wanted))
    (read * torch.tensor(weights)).sum().backward()

    np.testing.assert_allclose(read.detach().numpy(), numpys(features), rtol=1e-10)
    numeric = reference.numeric_gradient(lambda x: float((numpys(x) * weights).sum()), features)
    np.testing.assert_allclose(tensor.grad.numpy(), numeric, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), steps=st.integers(1, 9))
def test_equal_seconds_give_back_every_bit(seed, steps):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 2, steps, 2, 1, generator=generator)
    # Any order and repeated seconds: a looped clip, a clip that holds its last frame.
    seconds = torch.randint(0, 4, (3, steps), generator=generator).float() / 3

    assert torch.equal(align_in_time(features, seconds, seconds.clone()), features)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    known=st.integers(1, 12),
    wanted=st.integers(1, 12),
    slope=st.floats(-5, 5),
)
def test_linear_functions_of_time_are_reproduced(seed, known, wanted, slope):
    generator = torch.Generator().manual_seed(seed)
    from_seconds = torch.rand(2, known, generator=generator, dtype=torch.float64)  # unsorted
    to_seconds = torch.rand(2, wanted, generator=generator, dtype=torch.float64) * 2 - 0.5

    read = align_steps(3 + slope * from_seconds, from_seconds, to_seconds)

    low, high = from_seconds.amin(1, keepdim=True), from_seconds.amax(1, keepdim=True)
    held = to_seconds.clamp(min=low, max=high)
    torch.testing.assert_close(read, 3 + slope * held, atol=1e-12, rtol=1e-12)


def test_a_repeated_second_is_read_at_its_last_step():
    values = torch.tensor([[0.0, 10.0, 20.0, 30.0]])
    seconds = torch.tensor([[0.0, 1.0, 1.0, 1.0]])  # the last frame is held

    read = align_steps(values, seconds, torch.tensor([[0.0, 0.5, 1.0]]))

    # Towards the tie its first step is aimed at, on it the last one stands.
    assert read.tolist() == [[0.0, 5.0, 30.0]]


def test_each_clip_is_aligned_by_its_own_seconds():
    values = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    from_seconds = torch.tensor([[0.0, 1.0], [100.0, 104.0]])

    read = align_steps(values, from_seconds, torch.tensor([[0.25, 1.0], [101.0, 104.0]]))

    assert read.tolist() == [[0.25, 1.0], [0.25, 1.0]]


@pytest.mark.parametrize(
    ("from_shape", "to_shape"), [((2, 4), (2, 3)), ((1, 3), (2, 3)), ((2, 3), (1, 3))]
)
def test_seconds_that_do_not_fit_are_refused(from_shape, to_shape):
    with pytest.raises(ValueError, match=r"seconds do not fit values \[2, 3"):
        align_steps(torch.zeros(2, 3, 4), torch.zeros(from_shape), torch.zeros(to_shape))


def test_the_finer_grid_is_pooled_axis_by_axis():
    left, right = torch.randn(2, 3, 2, 7, 4).double(), torch.randn(2, 5, 2, 3, 6).double()

    pooled_left, pooled_right = align_in_space(left, right)

    assert pooled_left.shape == (2, 3, 2, 3, 4)
    assert pooled_right.shape == (2, 5, 2, 3, 4)
    for side, pooled in ((left, pooled_left), (right, pooled_right)):
        for n, c, t in np.ndindex(*side.shape[:3]):
            wanted = reference.pool(side[n, c, t].numpy(), (3, 4))
            np.testing.assert_allclose(pooled[n, c, t].numpy(), wanted, rtol=1e-12)


def test_equal_grids_are_left_alone():
    left, right = torch.randn(2, 3, 2, 4, 5), torch.randn(2, 6, 3, 4, 5)

    same_left, same_right = align_in_space(left, right)

    assert same_left is left
    assert same_right is right
