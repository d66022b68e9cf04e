import shutil

import pytest
import torch
import torch._inductor.metrics as metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from videokd.config import parse_config
from videokd.errors import ConfigError
from videokd.models.temporal import (
    AttentionPool,
    AttentionPoolConfig,
    DepthwiseConfig,
    GruConfig,
    GruPool,
    MeanPool,
    NoTemporalConfig,
    ShiftConfig,
    TamConfig,
    TemporalAdaptive,
    TemporalDepthwise,
    TemporalShift,
    create_temporal_pool,
    filter_over_time,
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


@settings(deadline=None, max_examples=30)
@given(shapes)
def test_the_shifts_gradient_is_the_published_ones_bit_for_bit(shape):
    num_clips, num_frames, div, extra, side = shape
    generator = torch.Generator().manual_seed(sum(shape))
    size = (num_clips * num_frames, div + extra, side, side)
    frames = torch.randn(size, generator=generator, requires_grad=True)
    weights = torch.randn(size, generator=generator)
    shift = TemporalShift(num_frames, div)
    gradients = [
        torch.autograd.grad((shifted * weights).sum(), frames)[0]
        for shifted in (shift(frames), published_shift(frames, num_frames, div))
    ]
    assert torch.equal(*gradients)
    with torch.no_grad():
        assert torch.equal(shift(frames), shift(frames.clone().requires_grad_()).detach())


def test_the_shift_is_differentiable_twice():
    frames = torch.randn(6, 5, 2, 1, dtype=torch.float64, requires_grad=True)
    shift = TemporalShift(3, shift_div=2)
    assert torch.autograd.gradgradcheck(lambda x: shift(x).sin(), (frames,))


def test_what_is_shifted_away_leaves_no_trace():
    # No product with zero stands for "no neighbour": a number that is none stays where it is.
    frames = torch.full((3, 4, 1, 1), float("nan"))
    shifted = TemporalShift(3, shift_div=4)(frames).flatten(1)
    assert shifted[2, 0] == 0
    assert shifted[0, 1] == 0
    assert int(shifted.isnan().sum()) == 10


@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch.compile on a CPU needs a C++ compiler",
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_compiled_shift_is_one_kernel_with_the_same_bits(memory_format):
    torch._dynamo.reset()
    metrics.reset()
    frames = torch.randn(8, 19, 3, 3).contiguous(memory_format=memory_format)
    shift = TemporalShift(4)

    def entrance(x):
        return shift(torch.relu(x))

    with torch.no_grad():
        shifted = torch.compile(entrance, fullgraph=True, dynamic=False)(frames)
        assert torch.equal(shifted, entrance(frames))
    assert metrics.generated_kernel_count == 1
    torch._dynamo.reset()


def test_the_shift_in_a_graph_has_the_same_bits_and_gradient():
    torch._dynamo.reset()
    frames = torch.randn(8, 19, 3, 3, requires_grad=True)
    weights = torch.randn(8, 19, 3, 3)
    shift = TemporalShift(4)
    graph = torch.compile(shift, fullgraph=True, dynamic=False, backend="aot_eager")
    assert torch.equal(graph(frames), shift(frames))
    gradients = [
        torch.autograd.grad((run(frames) * weights).sum(), frames)[0] for run in (graph, shift)
    ]
    assert torch.equal(*gradients)
    torch._dynamo.reset()


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


def test_which_settings_pool_how():
    for config in (NoTemporalConfig(), ShiftConfig(), DepthwiseConfig(), TamConfig()):
        assert isinstance(create_temporal_pool(config, 8, 5), MeanPool)
    assert isinstance(create_temporal_pool(AttentionPoolConfig(), 8, 5), AttentionPool)
    assert isinstance(create_temporal_pool(GruConfig(), 8, 5), GruPool)


def test_less_than_two_parts_cannot_be_shifted():
    with pytest.raises(ConfigError, match=r"shift_div: .* greater than or equal to 2"):
        parse_config(ShiftConfig, {"shift_div": 1}, source="recipe")


@settings(deadline=None, max_examples=40)
@given(shapes, st.booleans(), st.booleans())
def test_a_filter_over_time_is_the_grouped_convolution(shape, has_own_kernels, is_scaled):
    num_clips, num_frames, _, extra, side = shape
    channels = 1 + extra
    generator = torch.Generator().manual_seed(sum(shape))
    frames = torch.randn(num_clips * num_frames, channels, side, side, generator=generator)
    size = (num_clips, channels, 3) if has_own_kernels else (channels, 3)
    kernels = torch.randn(size, generator=generator)
    scales = torch.rand(num_clips, num_frames, channels, generator=generator) if is_scaled else None
    filtered = filter_over_time(frames, kernels, num_frames, scales=scales)
    for clip in range(num_clips):
        # [C,T,h*w]: a convolution over T with a filter a channel.
        rows = frames.unflatten(0, (num_clips, num_frames))[clip].transpose(0, 1).flatten(2)
        if scales is not None:
            rows = rows * scales[clip].T[..., None]
        own = kernels[clip] if has_own_kernels else kernels
        expected = nn.functional.conv2d(
            rows[None], own[:, None, :, None], padding=(1, 0), groups=channels
        )
        given_back = filtered.unflatten(0, (num_clips, num_frames))[clip]
        torch.testing.assert_close(
            given_back.transpose(0, 1).flatten(2), expected[0], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_filter_over_time_keeps_layout_and_dtype_and_is_differentiable(memory_format):
    frames = torch.randn(6, 4, 3, 3).contiguous(memory_format=memory_format)
    module = TemporalDepthwise(4, num_frames=3, shift_div=2)
    assert module(frames).is_contiguous(memory_format=memory_format)
    assert module(frames.bfloat16()).dtype == torch.bfloat16
    kernels = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    scales = torch.rand(2, 3, 4, dtype=torch.float64, requires_grad=True)
    inputs = (frames.double().requires_grad_(), kernels, scales)
    assert torch.autograd.gradcheck(
        lambda frames, kernels, scales: filter_over_time(frames, kernels, 3, scales=scales), inputs
    )


@pytest.mark.parametrize("has_own_kernels", [True, False])
def test_multiply_adds_of_a_filter_over_time_are_counted_on_meta(has_own_kernels):
    kernels = torch.zeros((2, 4, 3) if has_own_kernels else (4, 3), device="meta")
    scales = torch.zeros(2, 5, 4, device="meta")
    frames = torch.zeros(2 * 5, 4, 6, 7, device="meta")
    with FlopCounterMode(display=False) as counter:
        filtered = filter_over_time(frames, kernels, 5, scales=scales)
    assert filtered.shape == frames.shape
    assert counter.get_total_flops() == 2 * 3 * frames.numel()


@settings(deadline=None)
@given(shapes)
def test_depthwise_filters_start_as_the_shift_bit_for_bit(shape):
    num_clips, num_frames, div, extra, side = shape
    generator = torch.Generator().manual_seed(sum(shape))
    frames = torch.randn(num_clips * num_frames, div + extra, side, side, generator=generator)
    filtered = TemporalDepthwise(div + extra, num_frames, div)(frames)
    assert torch.equal(filtered, published_shift(frames, num_frames, div))


def published_tam(frames, tam, num_frames):
    """TAM as its paper draws it, by pooling, two branches and a convolution with N*C groups."""
    clips = frames.unflatten(0, (-1, num_frames)).transpose(1, 2)  # [N,C,T,h,w]
    num_clips, channels, _, height, width = clips.shape
    means = clips.mean((3, 4))
    kernels = tam.kernel(means.reshape(-1, num_frames)).softmax(1)
    importance = torch.sigmoid(tam.importance(means))
    rows = (clips * importance[..., None, None]).reshape(1, -1, num_frames, height * width)
    filtered = nn.functional.conv2d(
        rows, kernels.view(-1, 1, 3, 1), padding=(1, 0), groups=num_clips * channels
    )
    return filtered.view(clips.shape).transpose(1, 2).flatten(0, 1)


@pytest.fixture
def tam():
    torch.manual_seed(0)
    tam = TemporalAdaptive(channels=8, num_frames=5)
    for parameter in tam.parameters():
        nn.init.normal_(parameter, std=0.7)
    return tam


@pytest.mark.parametrize("training", [True, False])
def test_tam_is_the_published_one(tam, training):
    frames = torch.randn(3 * 5, 8, 4, 4)
    tam.train(training)
    torch.testing.assert_close(tam(frames), published_tam(frames, tam, 5))


def test_tam_has_the_published_weights(tam):
    """Shapes by number as in the published checkpoints (`G` and `L` there), here of 8 channels."""
    shapes_of = {name: tuple(value.shape) for name, value in tam.named_parameters()}
    assert shapes_of == {
        "kernel.0.weight": (10, 5),
        "kernel.1.weight": (10,),
        "kernel.1.bias": (10,),
        "kernel.3.weight": (3, 10),
        "importance.0.weight": (2, 8, 3),
        "importance.1.weight": (2,),
        "importance.1.bias": (2,),
        "importance.3.weight": (8, 2, 1),
    }


def test_tam_works_under_autocast_in_the_frames_dtype(tam):
    frames = torch.randn(3 * 5, 8, 4, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        filtered = tam(frames)
    assert filtered.dtype == torch.bfloat16
    torch.testing.assert_close(filtered.float(), tam(frames.float()), rtol=0.05, atol=0.05)
    filtered.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in tam.parameters())


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: TemporalAdaptive(3, num_frames=4), "TAM works with a quarter .* has only 3; make"),
        (
            lambda: TemporalDepthwise(7, num_frames=4),
            "of one channel in 8, and .* has only 7; make",
        ),
    ],
)
def test_a_block_too_narrow_for_a_module_is_refused(create, message):
    with pytest.raises(ConfigError, match=message):
        create()


@pytest.mark.parametrize("num_frames", [1, 5])
def test_gru_pool_is_torchs_gru_averaged(num_frames):
    torch.manual_seed(0)
    pool, reference = GruPool(dim=6, hidden_dim=4), nn.GRU(6, 4, batch_first=True)
    reference.load_state_dict(
        {
            "weight_ih_l0": pool.inputs.weight,
            "weight_hh_l0": pool.states.weight,
            "bias_ih_l0": pool.inputs.bias,
            "bias_hh_l0": pool.states.bias,
        }
    )
    features = torch.randn(3, num_frames, 6)
    torch.testing.assert_close(pool(features), reference(features)[0].mean(1))


def test_gru_pool_under_autocast():
    torch.manual_seed(0)
    pool, features = GruPool(dim=6, hidden_dim=4), torch.randn(3, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pool(features)
    torch.testing.assert_close(pooled, pool(features), rtol=0.05, atol=0.02)
    assert pool.bfloat16()(features.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_the_compilers_form_of_a_filter_is_the_same(monkeypatch, num_frames):
    frames = torch.randn(2 * num_frames, 4, 3, 3)
    kernels, scales = torch.randn(2, 4, 3), torch.rand(2, num_frames, 4)
    eager = filter_over_time(frames, kernels, num_frames, scales=scales)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    compiled = filter_over_time(frames, kernels, num_frames, scales=scales)
    torch.testing.assert_close(compiled, eager)


@pytest.mark.slow
@pytest.mark.parametrize("create", [TemporalDepthwise, TemporalAdaptive])
def test_a_compiled_module_equals_eager(create):
    """Of 16 channels: from writes into slices and from padding inductor made wrong values there."""
    torch.manual_seed(0)
    module = create(16, num_frames=4).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    before, after = (nn.Conv2d(16, 16, 1).to(memory_format=torch.channels_last) for _ in range(2))

    def branch(frames):
        return before(frames) + after(module(before(frames)))

    torch._dynamo.reset()
    frames = torch.rand(8, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        compiled = torch.compile(branch, fullgraph=True)(frames)
        torch.testing.assert_close(compiled, branch(frames))
