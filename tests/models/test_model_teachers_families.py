"""Tiny variants of each family, run: the same values as the published builders'."""

import pickle

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorchvideo.models import hub
from pytorchvideo.models.csn import create_csn
from pytorchvideo.models.r2plus1d import create_r2plus1d
from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers
from pytorchvideo.models.x3d import create_x3d
from torch import nn

from videokd.config import Config, dump_yaml, parse_config
from videokd.errors import ConfigError
from videokd.models.teachers import (
    C2DConfig,
    CSNConfig,
    I3DConfig,
    MViTConfig,
    R2Plus1DConfig,
    SlowConfig,
    SlowFastConfig,
    TorchvisionConfig,
    X3DConfig,
)
from videokd.models.teachers.heads import ProbabilityAverage
from videokd.models.zoo import ModelConfig, create_network, create_video_model

R50 = {"stage_depths": (3, 4, 6, 3), "width": 8, "head_pool_px": 1}
X3D = {"width_factor": 0.7, "depth_factor": 0.9, "head_width": 32, "head_pool_px": 1}
MVIT = {"stage_depths": (1, 2, 1), "width": 16, "kv_stride_px": 4}
MVIT_BUILDER = {
    "depth": 4,
    "patch_embed_dim": 16,
    "embed_dim_mul": [[1, 2.0], [3, 2.0]],
    "atten_head_mul": [[1, 2.0], [3, 2.0]],
    "pool_q_stride_size": [[1, 1, 2, 2], [3, 1, 2, 2]],
    "pool_kv_stride_adaptive": [1, 4, 4],
    "pool_kvq_kernel": [3, 3, 3],
}

# Ours, T, side, pytorchvideo's builder. All but MViT see 2x2 windows at the head, because the
# published nets are trained on smaller crops than they are tested with.
LOGITS = {
    "c2d": (
        (C2DConfig, R50),
        (4, 40),
        lambda: hub.c2d_r50(
            model_num_class=6, stem_dim_out=8, head_pool_kernel_size=(2, 1, 1), dropout_rate=0.3
        ),
    ),
    "i3d": (
        (I3DConfig, R50),
        (5, 40),
        lambda: hub.i3d_r50(model_num_class=6, stem_dim_out=8, head_pool_kernel_size=(2, 1, 1)),
    ),
    "csn": (
        (CSNConfig, R50),
        (9, 40),
        lambda: create_csn(
            model_depth=50,
            model_num_class=6,
            stem_dim_out=8,
            stem_pool=nn.MaxPool3d,
            head_pool_kernel_size=(2, 1, 1),
        ),
    ),
    "mvit": (
        (MViTConfig, MVIT),
        (4, 36),
        lambda: create_multiscale_vision_transformers(
            spatial_size=36, temporal_size=4, head_num_classes=6, **MVIT_BUILDER
        ),
    ),
}
# These return the mean of their windows' probabilities.
PROBABILITIES = {
    "r2plus1d": (
        (R2Plus1DConfig, R50),
        (5, 40),
        lambda **kwargs: create_r2plus1d(
            model_num_class=6, stem_dim_out=8, head_pool_kernel_size=(2, 1, 1), **kwargs
        ),
    ),
    "x3d": (
        (X3DConfig, X3D),
        (3, 40),
        # Trained on 32 px, where the last stage is one cell.
        lambda **kwargs: create_x3d(
            input_clip_length=3,
            input_crop_size=32,
            model_num_class=6,
            width_factor=0.7,
            depth_factor=0.9,
            head_dim_out=32,
            **kwargs,
        ),
    ),
}
TINY = {"stage_depths": (1, 1, 1, 1), "width": 8, "dropout": 0.0}
SMALL = {  # one of each kind, and T, side
    "slowfast": (SlowFastConfig, {**TINY, "beta": 4}, 8, 32),
    "slow": (SlowConfig, TINY, 3, 32),
    "c2d": (C2DConfig, TINY, 4, 32),
    "i3d": (I3DConfig, TINY, 4, 32),
    "csn": (CSNConfig, TINY, 8, 32),
    "r2plus1d": (R2Plus1DConfig, TINY, 4, 32),
    "x3d": (X3DConfig, {**X3D, "head_pool_px": None, "dropout": 0.0}, 3, 32),
    "mvit": (MViTConfig, {**MVIT, "dropout": 0.0, "drop_path": 0.0}, 4, 32),
    "mc3_18": (TorchvisionConfig, {"name": "mc3_18"}, 4, 32),
}


@pytest.mark.parametrize("family", LOGITS)
def test_logits_are_the_published_ones(family, spec_of):
    (config_type, settings), (num_frames, px), build = LOGITS[family]
    theirs = _spread(build())
    ours = create_network(config_type(input=spec_of(num_frames, px), **settings), 6).network.eval()
    ours.load_state_dict(theirs.state_dict())
    clips = _clips(3, num_frames, px)
    expected = theirs(clips)
    assert expected.std() > 0.05  # the clips are told apart
    torch.testing.assert_close(ours(clips), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", PROBABILITIES)
def test_probabilities_of_several_windows_are_the_published_ones(family, spec_of):
    (config_type, settings), (num_frames, px), build = PROBABILITIES[family]
    theirs = _spread(build())
    ours = create_network(config_type(input=spec_of(num_frames, px), **settings), 6).network.eval()
    ours.load_state_dict(theirs.state_dict())
    clips = _clips(3, num_frames, px)
    expected = theirs(clips)
    torch.testing.assert_close(ours(clips).softmax(1), expected, rtol=1e-5, atol=1e-6)
    # Averaging the windows' logits instead would not do.
    logits = _spread(build(head_activation=None))(clips)
    assert (logits.softmax(1) - expected).abs().max() > 1e-4


@pytest.mark.parametrize("family", PROBABILITIES)
def test_logits_of_one_window_are_the_published_ones_without_their_softmax(family, spec_of):
    (config_type, settings), (num_frames, _), build = PROBABILITIES[family]
    theirs = _spread(build(head_activation=None))
    ours = create_network(config_type(input=spec_of(num_frames, 32), **settings), 6).network
    ours.load_state_dict(theirs.state_dict())
    clips = _clips(3, num_frames, 32)
    torch.testing.assert_close(ours.eval()(clips), theirs(clips), rtol=1e-5, atol=1e-6)


@given(
    st.integers(1, 3), st.integers(2, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99)
)
@settings(deadline=None)
def test_average_of_probabilities(num_clips, num_classes, num_steps, side, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (num_clips, num_classes, num_steps, side, side)
    windows = torch.randn(shape, generator=generator, dtype=torch.float64) * 5
    logits = ProbabilityAverage()(windows)
    assert logits.shape == (num_clips, num_classes, 1, 1, 1)
    expected = windows.softmax(1).mean((2, 3, 4))
    torch.testing.assert_close(logits.flatten(1).softmax(1), expected)
    # A window seen twice says no more than once.
    one = windows[:, :, :1, :1, :1]
    assert torch.equal(ProbabilityAverage()(one), one)
    torch.testing.assert_close(ProbabilityAverage()(one.expand(-1, -1, 2, 2, 2)), one)


@pytest.mark.parametrize("family", SMALL)
def test_logits_are_the_same_in_training_and_eval(family, spec_of):
    # Norms held, nothing dropped: what is left of the mode must not show.
    config_type, kwargs, num_frames, px = SMALL[family]
    network = create_network(config_type(input=spec_of(num_frames, px), **kwargs), 5).network
    clips = _clips(2, num_frames, px)
    in_eval = network.eval()(clips)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()
    torch.testing.assert_close(network(clips), in_eval, rtol=0, atol=1e-6)
    assert in_eval.shape == (2, 5)


@pytest.mark.parametrize("family", SMALL)
def test_taps_gradients_copies_and_layouts(family, spec_of):
    config_type, kwargs, num_frames, px = SMALL[family]
    config = config_type(input=spec_of(num_frames, px), **kwargs)
    model = create_video_model(config, num_classes=5, seed=0)
    _spread(model.network)
    clips = torch.rand(2, 3, num_frames, px, px)
    out = model.eval()(clips)
    num_stages = 3 if family == "mvit" else 4
    assert len(out.taps) == num_stages * (2 if family == "slowfast" else 1)
    for name, tap in out.taps.items():
        assert tap.features.shape == (2, *model.tap_shapes[name]), name
        assert tap.step_seconds.shape == (2, model.tap_shapes[name].t)
    assert out.pooled.shape == (2, model.pooled_dim)
    as_decoded = clips.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(model(as_decoded).logits, out.logits, rtol=0, atol=1e-6)
    copy = pickle.loads(pickle.dumps(model.bare_network()))
    assert torch.equal(copy((clips - model.mean) / model.std), out.logits)
    model.train()
    out = model(clips)
    loss = sum(tap.features.square().mean() for tap in out.taps.values())
    (loss + out.logits.square().sum()).backward()
    for name, parameter in model.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_x3d_taps_and_pooled_by_hand(spec_of):
    config = X3DConfig(input=spec_of(3, 64), **{**X3D, "head_pool_px": None})
    model = create_video_model(config, num_classes=5, seed=0).eval()
    _spread(model.network)
    clips = torch.rand(2, 3, 3, 64, 64)
    maps = (clips - model.mean) / model.std
    out = model(clips)
    blocks = model.network.blocks
    maps = blocks[0](maps)
    for n in range(1, 5):
        maps = blocks[n](maps)
        torch.testing.assert_close(out.taps[f"res{n + 1}"].features, maps, rtol=0, atol=1e-6)
    pool = blocks[5].pool
    maps = pool.pre_norm(pool.pre_conv(maps)).relu().mean((2, 3, 4), keepdim=True)
    pooled = pool.post_conv(maps).relu().flatten(1)  # after the projection
    torch.testing.assert_close(out.pooled, pooled)
    torch.testing.assert_close(out.logits, blocks[5].proj(pooled))


@pytest.mark.parametrize(
    ("config_type", "zero_init"), [(X3DConfig, True), (X3DConfig, False), (CSNConfig, False)]
)
def test_zero_init_of_the_other_families(config_type, zero_init, spec_of):
    kwargs = X3D if config_type is X3DConfig else TINY
    config = config_type(input=spec_of(4, 32), zero_init=zero_init, **kwargs)
    network = create_network(config, 3).network
    branches = [module.branch2 for module in network.modules() if hasattr(module, "branch2")]
    assert len(branches) > 3
    for branch in branches:
        assert branch.norm_c.weight.unique().tolist() == [0.0 if zero_init else 1.0]
        assert branch.norm_a.weight.unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("config_type", "change", "message"),
    [
        (I3DConfig, {"stage_frames": [3, [3, 2], 1, 1]}, "a kernel of 2 has no middle"),
        (I3DConfig, {"stage_frames": [3, [], 1, 1]}, r"stage_frames \[3, \(\), 1, 1\]: one number"),
        (SlowFastConfig, {"slow_stage_frames": [1, 1, 3]}, "the 4 stages of stage_depths"),
        (
            SlowFastConfig,
            {"block": "basic", "slow_stage_frames": [1, 1, [3, 1], 3]},
            "suit block: bottleneck; give one number a stage",
        ),
        (CSNConfig, {"block": "basic"}, "unknown key 'block'"),
        (R2Plus1DConfig, {"stage_mid_frames": [3, 3, 3, 4]}, "a kernel of 4 has no middle"),
        (X3DConfig, {"width_factor": 0}, "width_factor: Input should be greater than 0"),
    ],
)
def test_settings_that_cannot_be(config_type, change, message, spec_of):
    data = {"input": spec_of(8, 64).model_dump(mode="json"), **change}
    with pytest.raises(ConfigError, match=message):
        parse_config(config_type, data, source="recipe")


class Holder(Config):
    model: ModelConfig


@pytest.mark.parametrize("family", SMALL)
def test_settings_survive_a_recipe(family, spec_of):
    config_type, kwargs, num_frames, px = SMALL[family]
    holder = Holder(model=config_type(input=spec_of(num_frames, px), **kwargs))
    again = parse_config(Holder, yaml.safe_load(dump_yaml(holder)), source="recipe")
    assert again == holder
    assert type(again.model) is config_type


def test_kernels_of_a_stage_start_again_where_there_are_more_blocks(spec_of):
    config = I3DConfig(input=spec_of(4, 32), width=8, stage_depths=(1, 5, 2, 3))
    stages = create_network(config, 3).network.blocks
    lengths = [
        [block.branch2.conv_a.kernel_size[0] for block in stage.res_blocks]
        for stage in (stages[1], stages[3], stages[4], stages[5])
    ]
    assert lengths == [[3], [3, 1, 3, 1, 3], [3, 1], [1, 3, 1]]


def _clips(num_clips, num_frames, px):
    generator = torch.Generator().manual_seed(num_frames)
    return torch.randn(num_clips, 3, num_frames, px, px, generator=generator)


def _spread(network):
    """Weights that no zero hides and that make logits of some size; the same at each call."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            draw = torch.rand(parameter.shape, generator=generator)
            if is_norm:
                parameter.copy_(draw + 0.5)
            elif parameter.ndim == 1:
                parameter.copy_(draw - 0.5)
            else:
                fan_in = parameter[0].numel()
                parameter.copy_((draw - 0.5) * (12 / fan_in) ** 0.5)
    return network.eval()
