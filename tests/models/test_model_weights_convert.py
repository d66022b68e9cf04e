"""Weights between two dimensions: exact there and back, the same answers where nothing moves."""

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from published_networks import with_random_norms
from pytorchvideo.models.resnet import create_resnet

from videokd.errors import UserError
from videokd.models.students import TimmVideoConfig
from videokd.models.teachers import SlowConfig
from videokd.models.weights import deflate, inflate, load_weights
from videokd.models.weights.convert import common_names
from videokd.models.zoo import create_video_model

pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")

K, SIDE = 5, 32
DEPTHS = (1, 1, 1, 1)


@given(
    num_steps=st.integers(1, 33),
    seed=st.integers(0, 2**31),
    scale=st.floats(1e-20, 1e20),
    centre=st.booleans(),
)
def test_there_and_back_is_the_same_weight(num_steps, seed, scale, centre):
    weight = torch.randn(30, 20, 3, 3, generator=torch.Generator().manual_seed(seed)) * scale
    there = inflate(weight, num_steps, centre=centre)
    assert there.shape == (30, 20, num_steps, 3, 3)
    assert torch.equal(deflate(there), weight)


@pytest.mark.parametrize("num_steps", [2, 3, 5, 7])
def test_there_and_back_at_the_edges_of_the_numbers(num_steps):
    """Parts just below a power of two, where taking up the rest may cross it."""
    edges = torch.arange(-64, 65, dtype=torch.int32)
    ones = torch.tensor(1.0).view(torch.int32)
    weight = ((edges + ones).view(torch.float32) * num_steps).reshape(-1, 1, 1, 1)
    assert torch.equal(deflate(inflate(weight, num_steps)), weight)


def test_what_inflation_puts_where():
    weight = torch.tensor([3.0, 6.0]).reshape(1, 2, 1, 1)
    assert inflate(weight, 3).flatten().tolist() == [1, 1, 1, 2, 2, 2]
    assert inflate(weight, 3, centre=True).flatten().tolist() == [0, 3, 0, 0, 6, 0]
    assert deflate(torch.arange(6.0).reshape(1, 2, 3, 1, 1)).flatten().tolist() == [3, 12]


def slow(spec_of, num_frames=11, **settings):
    config = SlowConfig.model_validate(
        {
            "input": spec_of(num_frames, SIDE),
            "stage_depths": DEPTHS,
            "stem_frames": 3,
            "stage_frames": (3, 3, 3, 3),
            "dropout": 0,
        }
        | settings
    )
    return create_video_model(config, num_classes=K, seed=0).eval()


def frames_of_timm(spec_of, num_frames=11, backbone="resnet50", **settings):
    config = TimmVideoConfig.model_validate(
        {
            "input": spec_of(num_frames, SIDE),
            "backbone": backbone,
            "backbone_kwargs": {"layers": list(DEPTHS)},
        }
        | settings
    )
    return create_video_model(config, num_classes=K, seed=0).eval()


def load(model, state, convert, **kwargs):
    arguments = {"replace_head": False, "source": "w.pth", "layout": "auto"} | kwargs
    return load_weights(
        model.network, state, classifier=model.classifier, convert=convert, **arguments
    )


def clip_of_one_frame(num_frames):
    frame = torch.rand(1, 3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return frame.expand(-1, -1, num_frames, -1, -1)


@pytest.mark.parametrize("convert", ["inflate", "inflate_centre"])
@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ("resnet50", {}),
        ("resnet18", {"block": "basic", "expansion": 1, "stage_mid_frames": (1, 1, 1, 1)}),
    ],
)
def test_an_inflated_network_sees_the_same_where_nothing_moves(
    spec_of, backbone, settings, convert
):
    # The stem and four kernels, each three frames long: five frames from an end, all is interior.
    video, frames = slow(spec_of, **settings), frames_of_timm(spec_of, backbone=backbone)
    with_random_norms(frames.network)
    report = load(video, frames.network.state_dict(), convert)
    assert set(report.matched) == set(video.network.state_dict())
    assert report.notes == (f"converted by {convert}",)
    clips = clip_of_one_frame(11)
    with torch.no_grad():
        inflated, flat = video(clips).taps, frames(clips).taps
    for stage in range(1, 5):
        ours, theirs = inflated[f"res{stage + 1}"].features, flat[f"stage{stage}"].features
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours[:, :, 5], theirs[:, :, 5], rtol=1e-4, atol=1e-4)
    if convert == "inflate":  # padding is part of what a repeated kernel sees at the ends
        assert not torch.allclose(inflated["res5"].features[:, :, 0], theirs[:, :, 0], atol=1e-2)


def test_inflating_and_deflating_a_network_changes_no_weight(spec_of):
    video, frames, back = slow(spec_of), frames_of_timm(spec_of), frames_of_timm(spec_of)
    with_random_norms(frames.network)
    load(video, frames.network.state_dict(), "inflate")
    load(back, video.network.state_dict(), "deflate")
    before, after = frames.network.state_dict(), back.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_deflated_network_sees_the_same_where_nothing_moves(spec_of):
    video = slow(spec_of)
    with_random_norms(video.network)
    frames = frames_of_timm(spec_of)
    load(frames, video.network.state_dict(), "deflate")
    clips = clip_of_one_frame(11)
    with torch.no_grad():
        ours, theirs = frames(clips).taps["stage4"].features, video(clips).taps["res5"].features
    torch.testing.assert_close(ours[:, :, 5], theirs[:, :, 5], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", [None, torch.nn.MaxPool3d])
def test_published_3d_resnets_share_their_names_with_timm(pool):
    """Slow has no pool between its stages; C2D and I3D have, and count it as a block."""
    with torch.device("meta"):
        video = create_resnet(model_depth=50, stage1_pool=pool, head_pool_kernel_size=(4, 7, 7))
        frames = timm.create_model("resnet50", num_classes=400)
    theirs, ours = common_names(video.state_dict()), common_names(frames.state_dict())
    assert set(theirs) == set(ours) == set(frames.state_dict())
    assert theirs["layer3.5.bn2.weight"] == (
        f"blocks.{3 if pool is None else 4}.res_blocks.5.branch2.norm_b.weight"
    )
    assert all(
        video.state_dict()[theirs[name]].shape[:2] == frames.state_dict()[name].shape[:2]
        for name in ours
    )


def test_published_weights_of_a_shifted_network_inflate(spec_of):
    """Layout and dimension together: mmaction2's names on one side, pytorchvideo's on the other."""
    from published_networks import MmactionResNet, Recognizer

    theirs = with_random_norms(Recognizer(MmactionResNet(DEPTHS, 8, None), 2048, K, 8))
    video = slow(spec_of)
    report = load(video, theirs.state_dict(), "inflate")
    assert (report.layout, report.missing, report.unexpected) == ("mmaction2", (), ())
    kernel = video.network.state_dict()["blocks.4.res_blocks.0.branch2.conv_a.weight"]
    assert torch.equal(deflate(kernel), theirs.state_dict()["backbone.layer4.0.conv1.conv.weight"])


def test_a_new_head_may_have_other_classes(spec_of):
    video, frames = slow(spec_of), frames_of_timm(spec_of)
    state = frames.network.state_dict() | {
        "backbone.fc.weight": torch.zeros(9, 2048),
        "backbone.fc.bias": torch.zeros(9),
    }
    with pytest.raises(
        UserError, match=r"inflate makes fc\.weight \[9, 2048\], the network has \[5"
    ):
        load(video, state, "inflate")
    report = load(video, state, "inflate", replace_head=True)
    assert report.head == ("blocks.5.proj.weight", "blocks.5.proj.bias")


def test_what_the_other_dimension_has_no_place_for_is_not_passed_over(spec_of):
    frames = frames_of_timm(spec_of, temporal={"kind": "tam"})
    with pytest.raises(
        UserError, match=r"does not fit: 56 unexpected, first 'backbone\.layer1\.0\.tam"
    ):
        load(slow(spec_of), frames.network.state_dict(), "inflate")


def test_a_temporal_module_has_no_weights_in_another_dimension(spec_of):
    video = slow(spec_of)
    frames = frames_of_timm(spec_of, temporal={"kind": "attention_pool"})
    with pytest.raises(UserError, match=r"does not fit: 8 missing, first 'pool\."):
        load(frames, video.network.state_dict(), "deflate")
    report = load(frames, video.network.state_dict(), "deflate", allow_partial=True)
    assert {key.partition(".")[0] for key in report.missing} == {"pool"}
    shifted = frames_of_timm(spec_of, temporal={"kind": "shift"})
    assert load(shifted, video.network.state_dict(), "deflate").missing == ()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"backbone_kwargs": {"layers": [1, 2, 1, 1]}},
            r"^w\.pth: convert inflate: layer2\.1\.conv1\.weight is in the checkpoint and not in "
            r"the network; the two must be ResNets of the same topology$",
        ),
        (
            {"backbone": "resnet18"},
            r"layer1\.0\.downsample\.0\.weight is in the network and not in the checkpoint",
        ),
        (
            {"backbone": "wide_resnet50_2"},
            r"inflate makes layer1\.0\.conv1\.weight \[128, 64, 3, 1, 1\], the network has "
            r"\[64, 64, 3, 1, 1\]",
        ),
        (
            {"backbone": "mobilenetv2_100", "backbone_kwargs": {}},
            r"inflate: conv1\.weight is in the network and not in the checkpoint",
        ),
    ],
)
def test_other_topologies_are_refused_with_the_first_difference(spec_of, source, message):
    with torch.device("meta"):
        video, frames = slow(spec_of), frames_of_timm(spec_of, **source)
    with pytest.raises(UserError, match=message):
        load(video, frames.network.state_dict(), "inflate")


def test_what_is_no_resnet_is_said(spec_of):
    with torch.device("meta"):
        video = slow(spec_of)
    with pytest.raises(UserError, match=r"convert deflate knows ResNets .* the checkpoint is none"):
        load(video, {"features.0.weight": torch.zeros(1)}, "deflate")
