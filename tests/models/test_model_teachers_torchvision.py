"""torchvision's networks behind our interface: names, work, values, taps."""

import pytest
import torch
import torchvision.models.video as torchvision_zoo
from network_counts import multiply_adds, num_parameters, shapes_of
from torch import nn

from videokd.config import parse_config
from videokd.errors import ConfigError
from videokd.models.teachers import TorchvisionConfig
from videokd.models.zoo import create_network, create_video_model
from videokd.types import TapShape

# torchvision's own counts: parameters, and multiply-adds of 16 frames.
TORCHVISION = {
    "r3d_18": (112, 33_371_472, 40.697),
    "mc3_18": (112, 11_695_440, 43.343),
    "r2plus1d_18": (112, 31_505_325, 40.519),
    "s3d": (224, 8_320_048, 17.979),
    "swin3d_t": (224, 28_158_070, 43.882),
    "swin3d_s": (224, 49_816_678, 82.841),
    "swin3d_b": (224, 88_048_984, 140.667),
    "mvit_v1_b": (224, 36_610_672, 70.599),
    "mvit_v2_s": (224, 34_537_744, 64.224),
}


SLOW = ("swin3d_s", "swin3d_b", "r2plus1d_18")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in TORCHVISION]
)
def test_names_shapes_and_work_are_torchvisions(name, spec_of):
    px, num_params, published_g = TORCHVISION[name]
    drop_path = {"drop_path": 0.3} if name.startswith(("swin", "mvit")) else {}
    # Dropout and stochastic depth change no name.
    config = TorchvisionConfig(input=spec_of(16, px), name=name, dropout=0.5, **drop_path)
    with torch.device("meta"):
        theirs = getattr(torchvision_zoo, name)(weights=None)
        ours = create_network(config, 400).network
    assert shapes_of(ours) == shapes_of(theirs)
    assert num_parameters(ours) == num_params
    assert round(multiply_adds(ours.eval(), (16, px)) / 1e9, 3) == published_g


def test_the_defaults_of_each_torchvision_network_are_its_own(spec_of):
    with torch.device("meta"):
        for name in ("r3d_18", "s3d", "swin3d_t", "mvit_v2_s"):
            px = TORCHVISION[name][0]
            config = TorchvisionConfig(input=spec_of(16, px), name=name)
            ours = create_network(config, 400).network
            assert str(ours) == str(getattr(torchvision_zoo, name)(weights=None)), name


@pytest.mark.parametrize(
    ("name", "num_frames", "px", "steps", "channels"),
    [
        ("r3d_18", 16, 112, (16, 8, 4, 2), (64, 128, 256, 512)),
        ("mc3_18", 16, 112, (16, 16, 16, 16), (64, 128, 256, 512)),
        ("r2plus1d_18", 16, 112, (16, 8, 4, 2), (64, 128, 256, 512)),
        ("s3d", 32, 224, (16, 16, 8, 4), (192, 480, 832, 1024)),
        ("swin3d_t", 32, 224, (16, 16, 16, 16), (96, 192, 384, 768)),
        ("swin3d_b", 32, 224, (16, 16, 16, 16), (128, 256, 512, 1024)),
        ("mvit_v1_b", 16, 224, (8, 8, 8, 8), (192, 384, 768, 768)),
        ("mvit_v2_s", 16, 224, (8, 8, 8, 8), (96, 192, 384, 768)),
    ],
)
def test_stage_taps_of_torchvision(name, num_frames, px, steps, channels, spec_of):
    config = TorchvisionConfig(input=spec_of(num_frames, px), name=name)
    with torch.device("meta"):
        model = create_video_model(config, num_classes=7)
    is_resnet = px == 112
    names = [f"res{n}" for n in (2, 3, 4, 5)] if is_resnet else [f"stage{n}" for n in (1, 2, 3, 4)]
    sides = (56, 28, 14, 7)  # the ResNets' stems halve 112, without a pool
    expected = dict(zip(names, zip(channels, steps, sides, sides, strict=True), strict=True))
    assert model.tap_shapes == expected
    assert model.pooled_dim == channels[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "mvit_v1_b"}, "mvit_v1_b takes clips of 16 frames of 224 px, not 8 of 64 px"),
        ({"name": "r3d_18", "drop_path": 0.1}, "r3d_18 has no stochastic depth"),
        ({"name": "r3d"}, r"name: Input should be 'r3d_18', .* \(given 'r3d'\)"),
        ({}, "name: a value is required"),
    ],
)
def test_torchvision_settings_that_cannot_be(settings, message, spec_of):
    data = {"input": spec_of(8, 64).model_dump(mode="json"), **settings}
    with pytest.raises(ConfigError, match=message):
        parse_config(TorchvisionConfig, data, source="recipe")


def test_a_crop_below_the_window_of_s3d_is_refused_in_a_line(spec_of):
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match=r"does not take clips of 16x112x112 .* smaller than"),
    ):
        create_video_model(TorchvisionConfig(input=spec_of(16, 112), name="s3d"), num_classes=5)


@pytest.mark.parametrize("name", ["mc3_18", "swin3d_t"])
def test_torchvision_in_eval_is_torchvisions_whatever_is_dropped_in_training(name, spec_of):
    drop_path = {"drop_path": 0.4} if name == "swin3d_t" else {}
    config = TorchvisionConfig(input=spec_of(4, 32), name=name, dropout=0.5, **drop_path)
    ours = create_network(config, 5).network.eval()
    theirs = getattr(torchvision_zoo, name)(weights=None, num_classes=5).eval()
    theirs.load_state_dict(ours.state_dict())
    clips = torch.rand(2, 3, 4, 32, 32)
    assert torch.equal(ours(clips), theirs(clips))
    assert not torch.equal(ours.train()(clips), ours(clips))  # drawn anew each time


def test_stochastic_depth_of_torchvision_rises_from_block_to_block(spec_of):
    with torch.device("meta"):
        config = TorchvisionConfig(input=spec_of(16, 224), name="mvit_v2_s", drop_path=0.3)
        network = create_network(config, 5).network
    shares = [block.stochastic_depth.p for block in network.blocks]
    assert shares == pytest.approx([0.3 * n / 15 for n in range(16)])


def test_swin_taps_have_their_channels_first(spec_of):
    config = TorchvisionConfig(input=spec_of(4, 32), name="swin3d_t")
    model = create_video_model(config, num_classes=5, seed=0).eval()
    clips = torch.rand(2, 3, 4, 32, 32)
    out = model(clips)
    network = model.network
    maps = network.patch_embed((clips - model.mean) / model.std)
    for n, stage in enumerate(network.features):
        maps = stage(maps)  # [N,t,h,w,C]
        if n % 2 == 0:
            features = out.taps[f"stage{n // 2 + 1}"].features
            assert torch.equal(features, maps.movedim(-1, 1))
    torch.testing.assert_close(out.pooled, network.norm(maps).mean((1, 2, 3)))
    assert model.tap_shapes["stage2"] == TapShape(192, 2, 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_frames"), [("s3d", 16), ("mvit_v1_b", 16)])
def test_large_torchvision_taps_by_hand(name, num_frames, spec_of):
    config = TorchvisionConfig(input=spec_of(num_frames, 224), name=name)
    model = create_video_model(config, num_classes=5, seed=0).eval()
    clips = torch.rand(1, 3, num_frames, 224, 224)
    with torch.inference_mode():
        out = model(clips)
        normalised = (clips - model.mean) / model.std
        assert torch.equal(model.network(normalised), out.logits)
        if name == "s3d":
            maps = model.network.features(normalised)
            torch.testing.assert_close(out.taps["stage4"].features, maps)
            pooled = nn.functional.avg_pool3d(maps, (2, 7, 7), stride=1).mean((2, 3, 4))
        else:
            tokens = out.taps["stage4"].features.flatten(2).transpose(1, 2)
            assert tokens.shape == (1, 8 * 7 * 7, 768)
            caught = []
            model.network.norm.register_forward_hook(lambda _m, a, o: caught.append((a[0], o)))
            model.network(normalised)
            assert torch.equal(tokens, caught[0][0][:, 1:])
            pooled = caught[0][1][:, 0]
    torch.testing.assert_close(out.pooled, pooled)
