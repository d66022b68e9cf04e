import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from videokd.config import parse_config
from videokd.errors import ConfigError
from videokd.models.temporal import (
    AttentionPool,
    AttentionPoolConfig,
    MeanPool,
    NoTemporalConfig,
    ShiftConfig,
    TemporalShift,
    create_temporal_pool,
    shift_div_of,
)


def published_shift(x, n_segment, fold_div):
    """`TemporalShift.shift` of the TSM paper's code, written from its definition, not in place."""
    nt, c, h, w = x.size()
    n_batch = nt // n_segment
    x = x.view(n_batch, n_segment, c, h, w)
    fold = c // fold_div
    out = torch.zeros_like(x)
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
    return out.view(nt, c, h, w)


shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 5), st.integers(2, 6), st.integers(0, 5), st.integers(1, 3)
)


@settings(deadline=None)
@given(shapes)
def test_shift_is_the_published_one_bit_for_bit(shape):
    num_clips, num_frames, div, extra, side = shape
    generator = torch.Generator().manual_seed(sum(shape))
    frames = torch.randn(num_clips * num_frames, div + extra, side, side, generator=generator)
    shifted = TemporalShift(num_frames, div)(frames)
    assert torch.equal(shifted, published_shift(frames, num_frames, div))


@settings(deadline=None)
@given(shapes)
def test_values_only_move_in_time(shape):
    num_clips, num_frames, div, extra, side = shape
    num_channels = div + extra
    size = (num_clips, num_frames, num_channels, side, side)
    given_frames = torch.arange(1, 1 + torch.Size(size).numel()).view(size)  # all differ
    shifted = TemporalShift(num_frames, div)(given_frames.flatten(0, 1)).view(size)
    moved = num_channels // div
    for clip, frame, channel in (
        (n, t, c) for n in range(num_clips) for t in range(num_frames) for c in range(num_channels)
    ):
        source = frame + (1 if channel < moved else -1 if channel < 2 * moved else 0)
        is_inside = 0 <= source < num_frames
        expected = given_frames[clip, source, channel] if is_inside else torch.zeros(side, side)
        assert torch.equal(shifted[clip, frame, channel], expected.to(torch.int64))


def test_borders_of_a_constant_are_zero():
    shifted = TemporalShift(num_frames=4)(torch.ones(8, 8, 2, 2)).view(2, 4, 8, 2, 2)
    zeros = (shifted == 0).nonzero()[:, 1:3].unique(dim=0)
    assert zeros.tolist() == [[0, 1], [3, 0]]  # (frame, channel)


def test_shift_is_differentiable_and_keeps_the_layout():
    frames = torch.randn(6, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(TemporalShift(num_frames=3), (frames,))
    channels_last = torch.randn(6, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    shifted = TemporalShift(num_frames=3)(channels_last)
    assert shifted.is_contiguous(memory_format=torch.channels_last)


def test_a_block_too_narrow_for_the_shift_is_refused():
    with pytest.raises(ConfigError, match=r"one channel in 8, and a block .* has only 7"):
        TemporalShift(num_frames=3)(torch.zeros(6, 7, 2, 2))


@pytest.fixture
def attention_pool():
    """One whose zero-initialised parts are drawn too, as after training."""
    torch.manual_seed(0)
    pool = AttentionPool(dim=8, num_frames=5, num_heads=2)
    for parameter in pool.parameters():
        nn.init.normal_(parameter, std=0.7)
    return pool


def test_untrained_attention_pool_is_the_average():
    pool = AttentionPool(dim=8, num_frames=5)
    features = torch.randn(3, 5, 8)
    torch.testing.assert_close(pool(features), MeanPool()(features))


def test_attention_pool_by_hand(attention_pool):
    features = torch.randn(3, 5, 8)
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": attention_pool.qkv.weight,
            "in_proj_bias": attention_pool.qkv.bias,
            "out_proj.weight": attention_pool.mix.weight,
            "out_proj.bias": attention_pool.mix.bias,
        }
    )
    tokens = attention_pool.norm(features) + attention_pool.position
    mixed = features + reference(tokens, tokens, tokens)[0]
    weights = (mixed @ attention_pool.attention.query.weight[0]).softmax(1)
    expected = torch.einsum("nt,ntd->nd", weights, mixed)
    torch.testing.assert_close(attention_pool(features), expected)


def test_attention_sums_to_one_in_float32_under_autocast(attention_pool):
    caught = []
    attention_pool.attention.register_forward_hook(lambda m, args, output: caught.append(output))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention_pool(torch.randn(3, 5, 8)).sum().backward()
    assert caught[0].shape == (3, 5)
    assert caught[0].dtype == torch.float32
    torch.testing.assert_close(caught[0].sum(1), torch.ones(3))
    assert caught[0].std() > 0.05  # it does weigh
    assert all(parameter.grad is not None for parameter in attention_pool.parameters())


def test_attention_pool_knows_the_order_of_the_frames(attention_pool):
    features = torch.randn(3, 5, 8)
    assert not torch.allclose(attention_pool(features), attention_pool(features.flip(1)), atol=1e-3)


def test_heads_must_divide_the_features():
    with pytest.raises(ConfigError, match="num_heads 3 does not divide the backbone's 8 features"):
        AttentionPool(dim=8, num_frames=5, num_heads=3)


def test_which_settings_shift_and_which_pool():
    assert shift_div_of(NoTemporalConfig()) is None
    assert shift_div_of(ShiftConfig()) == 8
    assert shift_div_of(AttentionPoolConfig()) is None
    assert shift_div_of(AttentionPoolConfig(shift_div=4)) == 4
    assert isinstance(create_temporal_pool(NoTemporalConfig(), 8, 5), MeanPool)
    assert isinstance(create_temporal_pool(ShiftConfig(), 8, 5), MeanPool)
    assert isinstance(create_temporal_pool(AttentionPoolConfig(), 8, 5), AttentionPool)


def test_less_than_two_parts_cannot_be_shifted():
    with pytest.raises(ConfigError, match=r"shift_div: .* greater than or equal to 2"):
        parse_config(ShiftConfig, {"shift_div": 1}, source="recipe")
