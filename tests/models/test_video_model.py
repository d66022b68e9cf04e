import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from videokd.config import parse_config
from videokd.errors import ConfigError
from videokd.models.video_model import Frozen, Tap, VideoModel, step_seconds
from videokd.types import TapShape

STEM = Tap(name="maps", module="relu")


@pytest.fixture
def build(tiny_net, spec_of):
    """A VideoModel of the tiny network on 6 frames of 8 px: taps are 4 channels, 3x4x4."""

    def make(*taps, **kwargs):
        settings = {"spec": spec_of(6, 8), "num_classes": 5, "classifier": "head", "taps": taps}
        return VideoModel(tiny_net, **(settings | kwargs)).eval()

    return make


def test_normalises_its_own_input(build, tiny_net, spec_of):
    spec = spec_of(6, 8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
    model = build(spec=spec)
    clips = torch.rand(2, 3, 6, 8, 8)
    normalised = clips.clone()
    for channel in range(3):
        normalised[:, channel] = (clips[:, channel] - spec.mean[channel]) / spec.std[channel]
    torch.testing.assert_close(model(clips).logits, tiny_net(normalised))


def test_state_dict_is_the_networks_under_a_prefix(build, tiny_net):
    model = build(STEM)
    assert list(model.state_dict()) == [f"network.{key}" for key in tiny_net.state_dict()]


def test_taps_are_what_the_modules_gave(build, tiny_net):
    tokens = Tap(name="tokens", module="tokens", layout="NLC", grid=(3, 4, 4))
    second = Tap(name="first", module="pair", output=0)
    model = build(STEM, tokens, second)
    clips = torch.rand(3, 3, 6, 8, 8)
    out = model(clips)
    maps = tiny_net.bn(tiny_net.stem((clips - model.mean) / model.std)).relu()
    assert torch.equal(out.taps["maps"].features, maps)
    assert torch.equal(out.taps["first"].features, maps * 2)
    assert torch.equal(out.taps["tokens"].features, maps * 2)
    torch.testing.assert_close(out.pooled, (maps * 2).mean((2, 3, 4)))
    assert model.pooled_dim == 4
    assert model.tap_shapes == dict.fromkeys(("maps", "tokens", "first"), TapShape(4, 3, 4, 4))
    assert out.attention is None
    assert out.attention_seconds is None


def test_frames_as_batch_are_laid_out_by_clip():
    net = nn.Sequential(Frames(), nn.Flatten(), nn.Linear(3 * 4, 2), Consensus(num_frames=3))
    tap = Tap(name="frames", module="0", layout="NTCHW_flat")
    model = VideoModel(net, spec=_spec(3, 2), num_classes=2, classifier="2", taps=[tap])
    clips = torch.rand(2, 3, 3, 2, 2)
    out = model(clips)
    assert torch.equal(out.taps["frames"].features, (clips - model.mean) / model.std)
    # Seen a frame at a time by the classifier, so the pooled features are the frames' mean.
    frames = ((clips - model.mean) / model.std).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out.pooled, frames.mean(1))


def test_channels_last_are_moved_to_the_front():
    net = nn.Sequential(ChannelsLast(), nn.Flatten(), nn.Linear(3 * 12, 2))
    tap = Tap(name="maps", module="0", layout="NTHWC")
    model = VideoModel(net, spec=_spec(3, 2), num_classes=2, classifier="2", taps=[tap])
    clips = torch.rand(2, 3, 3, 2, 2)
    assert torch.equal(model(clips).taps["maps"].features, (clips - model.mean) / model.std)
    assert model.tap_shapes == {"maps": TapShape(3, 3, 2, 2)}


def test_a_pointwise_convolution_may_classify(spec_of):
    net = nn.Sequential(nn.AvgPool3d((1, 2, 2)), nn.Conv3d(3, 5, 1), Mean())
    model = VideoModel(net, spec=spec_of(2, 4), num_classes=5, classifier="1")
    clips = torch.rand(2, 3, 2, 4, 4)
    out = model(clips)
    torch.testing.assert_close(out.pooled, ((clips - model.mean) / model.std).mean((2, 3, 4)))
    weight, bias = model.classifier_parameters()
    torch.testing.assert_close(out.logits, out.pooled @ weight.flatten(1).T + bias)
    assert model.pooled_dim == 3


def test_prefix_tokens_are_dropped():
    class WithClassToken(nn.Module):
        def forward(self, clips):
            tokens = clips.flatten(2).transpose(1, 2)
            return torch.cat([tokens.new_full((len(tokens), 1, 3), 9.0), tokens], 1)

    net = nn.Sequential(WithClassToken(), nn.Flatten(), nn.Linear(3 * 13, 2))
    tap = Tap(name="tokens", module="0", layout="NLC", grid=(3, 2, 2), num_prefix_tokens=1)
    model = VideoModel(net, spec=_spec(3, 2), num_classes=2, classifier="2", taps=[tap])
    clips = torch.rand(2, 3, 3, 2, 2)
    assert torch.equal(model(clips).taps["tokens"].features, (clips - model.mean) / model.std)


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ([Tap(name="a", module="stemm")], r"tap 'a'.*no module 'stemm'; did you mean 'stem'\?"),
        ([Tap(name="a", module="zzz")], r"no module 'zzz'; known: bn, drop, frames5d, head"),
        ([Tap(name="a", module="twice")], r"tap 'a' \(twice\) fires 2 times"),
        ([Tap(name="a", module="unused")], r"tap 'a' \(unused\) fires 0 times"),
        ([Tap(name="a", module="bn")], r"tap 'a' \(bn\) is overwritten in place"),
        ([Tap(name="a", module="pair")], r"gives a list of 2, not one tensor; say which"),
        ([Tap(name="a", module="pair", output=2)], r"has no output 2: a list of 2"),
        ([Tap(name="a", module="relu", output=0)], r"has no output 0: a tensor \[2, 4, 3, 4, 4\]"),
        ([Tap(name="a", module="pair", output=1)], r"gives \[2, 4, 3\] .* NCTHW has rank 5"),
        ([Tap(name="a", module="relu", layout="NTCHW_flat")], r"NTCHW_flat has rank 4"),
        ([Tap(name="a", module="tokens", layout="NTHWC")], r"for 2 clips; layout NTHWC has rank 5"),
        ([Tap(name="a", module="frames5d")], r"gives \[6, 4, 1, 4, 4\] for 2 clips; layout NCTHW"),
        ([STEM, STEM], r"2 taps are named 'maps'"),
        ([Tap(name="a", module="relu", pathway=0)], r"a TinyNet has no pathways"),
        (
            [Tap(name="a", module="tokens", layout="NLC", grid=(3, 4, 5))],
            r"has 48 tokens a clip after 0 prefix tokens; grid \[3, 4, 5\]",
        ),
    ],
)
def test_tap_faults_are_found_at_construction(build, taps, message):
    with pytest.raises(ConfigError, match=message):
        build(*taps)


def test_a_fault_that_shows_in_training_only_is_found(spec_of):
    # In eval mode a dropout in place touches nothing.
    net = nn.Sequential(
        nn.Conv3d(3, 2, 1), nn.Dropout3d(0.5, inplace=True), Mean(), nn.Linear(2, 2)
    )
    with pytest.raises(ConfigError, match="overwritten in place"):
        VideoModel(
            net,
            spec=spec_of(2, 4),
            num_classes=2,
            classifier="3",
            taps=[Tap(name="a", module="0")],
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"classifier": "hed"},
            r"classifier: the network has no module 'hed'; did you mean 'head'",
        ),
        ({"classifier": "stem"}, r"classifier 'stem' is a Conv3d; name the final nn\.Linear"),
        ({"num_classes": 6}, r"returns a tensor \[2, 5\] for 2 clips; logits of 6 classes"),
        ({"attention": "pair"}, r"attention \(pair\) gives a list of 2"),
        ({"attention": "tokens"}, r"attention \(tokens\) returns \[2, 48, 4\]; .* \[N,t\]"),
    ],
)
def test_other_faults_are_found_at_construction(build, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_a_clip_that_the_network_does_not_take(tiny_net, spec_of):
    tiny_net.stem = nn.Conv3d(3, 4, 9)
    with pytest.raises(ConfigError, match=r"does not take clips of 6x8x8 .*: .*[Kk]ernel size"):
        VideoModel(tiny_net, spec=spec_of(6, 8), num_classes=5, classifier="head")


def test_tokens_need_a_grid():
    with pytest.raises(ConfigError, match="tap 'a': layout NLC needs grid"):
        parse_config(Tap, {"name": "a", "module": "b", "layout": "NLC"}, source="recipe")


def test_construction_touches_no_weight_buffer_mode_or_random_state(tiny_net, spec_of):
    tiny_net.train()
    tiny_net.bn.eval()
    before = copy.deepcopy(tiny_net.state_dict())
    random_state = torch.get_rng_state()
    VideoModel(tiny_net, spec=spec_of(6, 8), num_classes=5, classifier="head", taps=[STEM])
    assert torch.equal(torch.get_rng_state(), random_state)
    for key, value in tiny_net.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert tiny_net.training
    assert not tiny_net.bn.training
    assert all(p.grad is None and p.device.type == "cpu" for p in tiny_net.parameters())


def test_it_can_be_made_on_the_meta_device(tiny_net, spec_of):
    with torch.device("meta"):
        model = VideoModel(
            tiny_net.to("meta"), spec=spec_of(6, 8), num_classes=5, classifier="head", taps=[STEM]
        )
        assert model(torch.rand(2, 3, 6, 8, 8)).taps["maps"].features.shape == (2, 4, 3, 4, 4)


@given(st.integers(1, 3), st.integers(1, 20), st.data())
def test_step_seconds_are_means_over_the_frames_behind_each_step(num_clips, num_frames, data):
    num_steps = data.draw(st.integers(1, num_frames))
    seed = data.draw(st.integers(0, 99))
    seconds = torch.rand(num_clips, num_frames, generator=torch.Generator().manual_seed(seed))
    expected = torch.empty(num_clips, num_steps)
    for step in range(num_steps):
        start = step * num_frames // num_steps
        stop = -(-(step + 1) * num_frames // num_steps)
        expected[:, step] = seconds[:, start:stop].mean(1)
    torch.testing.assert_close(step_seconds(seconds, num_steps), expected)


def test_seconds_of_the_steps(build):
    model = build(STEM)
    clips = torch.rand(2, 3, 6, 8, 8)
    seconds = torch.tensor([[0.0, 1, 2, 3, 4, 5], [9, 11, 12, 14, 20, 22]], dtype=torch.float64)
    taps = model(clips, seconds).taps
    assert taps["maps"].step_seconds.dtype == torch.float32
    assert taps["maps"].step_seconds.tolist() == [[0.5, 2.5, 4.5], [10.0, 13.0, 21.0]]
    assert model(clips).taps["maps"].step_seconds.tolist() == [[0.5, 2.5, 4.5]] * 2


@pytest.mark.parametrize(
    ("clips", "seconds", "message"),
    [
        (torch.zeros(2, 6, 8, 8, 3), None, r"clips must be float \[N,3,T,S,S\]"),
        (torch.zeros(2, 3, 6, 8, 8, dtype=torch.uint8), None, r"not torch\.uint8"),
        (torch.zeros(2, 3, 6, 8, 8), torch.zeros(2, 5), r"must be \[2, 6\] as the clips"),
    ],
)
def test_clips_and_seconds_are_checked_at_the_door(build, clips, seconds, message):
    model = build()
    with pytest.raises(ValueError, match=message):
        model(clips, seconds)


def test_backward_through_a_tap_stops_there(build, tiny_net):
    model = build(STEM).train()
    out = model(torch.rand(2, 3, 6, 8, 8))
    out.taps["maps"].features.square().sum().backward()
    assert tiny_net.stem.weight.grad.abs().sum() > 0
    assert tiny_net.head.weight.grad is None


def test_autocast_keeps_seconds_in_float32(build):
    model = build(STEM)
    seconds = torch.rand(2, 6) * 1000
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(torch.rand(2, 3, 6, 8, 8), seconds)
    assert out.logits.dtype == torch.bfloat16
    assert torch.equal(out.taps["maps"].step_seconds, step_seconds(seconds, 3))


def test_clips_follow_the_model_to_another_dtype(build):
    out = build(STEM).to(torch.bfloat16)(torch.rand(2, 3, 6, 8, 8))
    assert out.logits.dtype == out.taps["maps"].features.dtype == torch.bfloat16


def test_nothing_is_held_between_forwards(build):
    model = build(STEM)
    model(torch.rand(2, 3, 6, 8, 8))
    model.network(torch.rand(2, 3, 6, 8, 8))  # past the VideoModel: not caught either
    assert all(not catch._caught for catch in model._catches())
    with pytest.raises(RuntimeError, match="size"):
        model(torch.rand(2, 3, 6, 0, 8))
    assert all(not catch._caught for catch in model._catches())


def test_a_copy_catches_for_itself(build):
    model = build(STEM)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    clips = torch.rand(2, 3, 6, 8, 8)
    before, other, after = model(clips), twin(clips), model(clips)
    assert torch.equal(before.taps["maps"].features, after.taps["maps"].features)
    assert not torch.equal(before.taps["maps"].features, other.taps["maps"].features)


def test_without_taps_is_a_copy_that_keeps_none(build):
    model = build(STEM)
    bare = model.without_taps()
    clips = torch.rand(2, 3, 6, 8, 8)
    assert torch.equal(bare(clips).logits, model(clips).logits)
    assert bare(clips).taps == bare.tap_shapes == {}
    assert not any(m._forward_hooks for m in bare.network.modules())
    assert set(model(clips).taps) == {"maps"}
    assert bare.network.stem.weight is not model.network.stem.weight


def test_keep_taps_drops_the_others(build):
    model = build(STEM, Tap(name="pair", module="pair", output=0))
    shapes = model.tap_shapes
    model.keep_taps(["pair"])
    assert set(model(torch.rand(2, 3, 6, 8, 8)).taps) == set(model.tap_shapes) == {"pair"}
    assert set(shapes) == {"maps", "pair"}  # whoever holds the old dict keeps it
    with pytest.raises(ConfigError, match="no tap is named 'pairs'; did you mean 'pair'"):
        model.keep_taps(["pairs"])


def test_inference_mode_works(build):
    with torch.inference_mode():
        assert build(STEM)(torch.rand(2, 3, 6, 8, 8)).logits.shape == (2, 5)


def test_compiled_forward_returns_the_taps(build):
    model = build(STEM)
    clips, seconds = torch.rand(2, 3, 6, 8, 8), torch.rand(2, 6)
    compiled = torch.compile(model, backend="eager")(clips, seconds)
    plain = model(clips, seconds)
    torch.testing.assert_close(compiled.logits, plain.logits)
    torch.testing.assert_close(compiled.taps["maps"], plain.taps["maps"])
    torch._dynamo.reset()


def test_frozen_stays_in_eval_mode_without_gradients(build):
    frozen = Frozen(build(STEM).train())
    parent = nn.ModuleList([frozen]).train()
    parent.requires_grad_(False)
    before = copy.deepcopy(frozen.state_dict())
    clips = torch.rand(2, 3, 6, 8, 8)
    out = frozen(clips)
    assert not any(module.training for module in frozen.modules())
    assert all(torch.equal(frozen.state_dict()[key], before[key]) for key in before)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not out.logits.requires_grad
    assert not out.taps["maps"].features.requires_grad
    assert (frozen.pooled_dim, frozen.num_classes) == (4, 5)
    assert frozen.tap_shapes == {"maps": TapShape(4, 3, 4, 4)}
    assert frozen.spec.crop_px == 8


def test_a_hint_can_be_differentiated_against_a_frozen_model(build):
    target = Frozen(build(STEM))(torch.rand(2, 3, 6, 8, 8)).taps["maps"].features
    guess = torch.zeros_like(target, requires_grad=True)
    nn.functional.mse_loss(guess, target).backward()
    torch.testing.assert_close(guess.grad, -2 * target / target.numel())


class ChannelsLast(nn.Module):
    def forward(self, clips):
        return clips.movedim(1, -1).contiguous()


class Frames(nn.Module):
    """[N,C,T,h,w] -> [N*T,C,h,w]."""

    def forward(self, clips):
        return clips.transpose(1, 2).flatten(0, 1)


class Consensus(nn.Module):
    def __init__(self, num_frames):
        super().__init__()
        self.num_frames = num_frames

    def forward(self, logits):
        return logits.unflatten(0, (-1, self.num_frames)).mean(1)


class Mean(nn.Module):
    def forward(self, maps):
        return maps.mean((2, 3, 4))


def _spec(num_frames, side):
    from videokd.types import Dense, InputSpec

    sampling = Dense(num_frames=num_frames, stride=1)
    return InputSpec(sampling=sampling, short_side_px=side, crop_px=side)
