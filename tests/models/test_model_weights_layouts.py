"""Published checkpoints in our networks: the same logits as a reference written beside them."""

import pytest
import timm
import torch
import torchvision
from published_networks import (
    MitMobileNetV2,
    MitTsn,
    MmactionMobileNetV2,
    MmactionResNet,
    Recognizer,
    mit_resnet,
    with_random_norms,
)

from videokd.errors import UserError
from videokd.models.students import TimmVideoConfig
from videokd.models.weights import load_weights
from videokd.models.zoo import create_video_model

# On the meta device names and shapes are compared, and there is nothing to copy.
pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")

T, K, SIDE = 4, 6, 64
R50 = (3, 4, 6, 3)


@pytest.fixture
def student(spec_of):
    def make(backbone, num_classes=K, side=SIDE, **temporal):
        settings = {"backbone": backbone, "input": spec_of(T, side)}
        if temporal:
            settings["temporal"] = temporal
        config = TimmVideoConfig.model_validate(settings)
        return create_video_model(config, num_classes=num_classes, seed=0).eval()

    return make


def load(model, state, **kwargs):
    given = {"replace_head": False, "layout": "auto"} | kwargs
    return load_weights(
        model.network, state, classifier=model.classifier, source="published.pth", **given
    )


def assert_same_logits(model, reference):
    clips = torch.randn(2, 3, T, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    frames = clips.transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        ours, theirs = model.network(clips), reference(frames)
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def mit_r50():
    return mit_resnet(torchvision.models.resnet50, 2048, K, T)


def mit_r18_unshifted():
    return mit_resnet(torchvision.models.resnet18, 512, K, T, every=0)


def mit_mobilenet():
    return MitTsn(MitMobileNetV2(T), 1280, K, T)


def mm_r50(temporal):
    return Recognizer(MmactionResNet(R50, T, temporal), 2048, K, T)


def mm_mobilenet():
    return Recognizer(MmactionMobileNetV2(T), 1280, K, T)


@pytest.mark.parametrize(
    ("reference", "layout", "prefix", "backbone", "temporal"),
    [
        (mit_r50, "mit_tsm", "module.", "resnet50", {"kind": "shift"}),
        (mit_r18_unshifted, "mit_tsm", "module.", "resnet18", {}),
        (mit_mobilenet, "mit_tsm", "module.", "mobilenetv2_100", {"kind": "shift"}),
        (lambda: mm_r50("shift"), "mmaction2", "", "resnet50", {"kind": "shift"}),
        (lambda: mm_r50(None), "mmaction2", "", "resnet50", {}),
        (lambda: mm_r50("tam"), "mmaction2", "", "resnet50", {"kind": "tam"}),
        (mm_mobilenet, "mmaction2", "", "mobilenetv2_100", {"kind": "shift"}),
    ],
    ids=[
        "mit-tsm-r50",
        "mit-tsn-r18",
        "mit-tsm-mobilenet",
        "mm-tsm-r50",
        "mm-tsn-r50",
        "mm-tanet-r50",
        "mm-tsm-mobilenet",
    ],
)
def test_published_weights_give_the_published_logits(
    student, reference, layout, prefix, backbone, temporal
):
    torch.manual_seed(1)
    theirs = with_random_norms(reference())
    state = {f"{prefix}{key}": value for key, value in theirs.state_dict().items()}
    model = student(backbone, **temporal)
    report = load(model, state)
    assert set(report.matched) == set(model.network.state_dict())
    assert (report.missing, report.unexpected, report.notes) == ((), (), ())
    assert report.layout == layout
    assert report.summary() == f"published.pth: {len(state)} tensors loaded, named by {layout}"
    assert_same_logits(model, theirs)


def test_names_as_they_are_published():
    """A few keys of each, read off the published code, so that the references cannot drift."""
    with torch.device("meta"):
        nets = [mit_r50(), mit_mobilenet(), mm_r50("shift"), mm_r50("tam"), mm_mobilenet()]
    keys = [set(net.state_dict()) for net in nets]
    assert keys[0] >= {"base_model.layer3.5.conv1.net.weight", "base_model.bn1.weight"}
    assert keys[0] >= {"base_model.layer1.0.downsample.1.running_var", "new_fc.bias"}
    assert keys[1] >= {"base_model.features.0.0.weight", "base_model.features.18.1.bias"}
    assert keys[1] >= {
        "base_model.features.3.conv.0.net.weight",
        "base_model.features.1.conv.4.bias",
    }
    assert keys[2] >= {"backbone.conv1.conv.weight", "backbone.layer1.0.conv1.conv.net.weight"}
    assert keys[2] >= {"backbone.layer4.0.downsample.bn.weight", "cls_head.fc_cls.weight"}
    assert keys[3] >= {
        "backbone.layer2.1.block.conv1.conv.weight",
        "backbone.layer2.1.tam.G.3.weight",
    }
    assert keys[3] >= {
        "backbone.layer2.0.block.downsample.conv.weight",
        "backbone.layer1.0.tam.L.1.bias",
    }
    assert keys[4] >= {
        "backbone.layer2.1.conv.0.net.bn.weight",
        "backbone.layer1.0.conv.1.conv.weight",
    }
    assert keys[4] >= {"backbone.layer7.0.conv.2.bn.weight", "backbone.conv2.conv.weight"}


@pytest.mark.parametrize("layout", ["mit_tsm", "mmaction2"])
def test_a_resnet_101_is_shifted_in_every_second_block(student, layout):
    depths = (3, 4, 23, 3)
    with torch.device("meta"):
        if layout == "mit_tsm":
            theirs = mit_resnet(torchvision.models.resnet101, 2048, K, T, every=2)
        else:
            theirs = Recognizer(MmactionResNet(depths, T, "shift", every=2), 2048, K, T)
        model = student("resnet101", kind="shift")
    assert load(model, theirs.state_dict()).notes == ()
    with torch.device("meta"):
        every = mit_resnet(torchvision.models.resnet101, 2048, K, T, every=1)
    with pytest.raises(
        UserError,
        match=r"published\.pth: was trained with temporal shift in 33 blocks, this network has it "
        r"in 18, first difference 'backbone\.layer1\.1'; set model\.temporal",
    ):
        load(model, every.state_dict())


def test_weights_that_never_knew_a_shift_may_start_a_network_that_does(student):
    with torch.device("meta"):
        model, theirs = student("resnet50", kind="shift"), mm_r50(None)
        unshifted = student("resnet50")
    notes = load(model, theirs.state_dict()).notes
    assert len(notes) == 1
    assert notes[0].startswith(
        "was trained with temporal shift in 0 blocks, this network has it in 16"
    )
    with torch.device("meta"):
        shifted = mm_r50("shift")
    with pytest.raises(UserError, match=r"shift in 16 blocks, this network has it in 0, first"):
        load(unshifted, shifted.state_dict())
    assert len(load(unshifted, shifted.state_dict(), allow_partial=True).notes) == 1


def classifier_of(dim):
    return {"cls_head.fc_cls.weight": torch.zeros(K, dim), "cls_head.fc_cls.bias": torch.zeros(K)}


def test_swin_of_an_older_timm(student):
    """timm 0.6 counted a stage's downsampling to the one before, and kept its index tables."""
    with torch.device("meta"):
        model = student("swin_tiny_patch4_window7_224", side=224)
    body = {k: v for k, v in model.network.backbone.state_dict().items() if "head" not in k}
    old = {}
    for key, value in body.items():
        for stage in (1, 2, 3):
            key = key.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample")
        old[f"backbone.{key}"] = value
    assert "backbone.layers.0.downsample.reduction.weight" in old
    old["backbone.layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    old["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    report = load(model, old | classifier_of(768))
    assert len(report.matched) == len(body) + 2
    assert report.notes == (
        "no weights, left out: 2 (backbone.layers.0.blocks.1.attn_mask, "
        "backbone.layers.0.blocks.0.attn.relative_position_index)",
    )


def test_a_backbone_of_torchvision_in_mmaction2(student):
    with torch.device("meta"):
        body = torchvision.models.resnext101_32x8d(weights=None).state_dict()
        model = student("resnext101_32x8d")
    state = {f"backbone.{k}": v for k, v in body.items() if not k.startswith("fc.")}
    report = load(model, state | classifier_of(2048))
    assert (len(report.matched), report.layout) == (len(body), "mmaction2")


@pytest.mark.parametrize("layout", ["timm", "auto"])
def test_a_2d_network_of_timm(student, layout):
    theirs = with_random_norms(timm.create_model("resnet18", num_classes=K))
    model = student("resnet18")
    report = load(model, theirs.state_dict(), layout=layout)
    assert len(report.matched) == len(theirs.state_dict())
    assert_same_logits(model, lambda frames: theirs(frames).unflatten(0, (-1, T)).mean(1))


def test_checkpoints_older_than_the_counters_of_batch_norm(student):
    with torch.device("meta"):
        model, theirs = student("resnet50", kind="shift"), mit_r50()
    state = {k: v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    report = load(model, state)
    assert (report.missing, len(report.matched)) == ((), len(state))


def test_one_new_head_is_all_that_other_classes_need(student):
    with torch.device("meta"):
        model, theirs = student("resnet50", num_classes=11, kind="shift"), mm_r50("shift")
    with pytest.raises(UserError, match=r"'backbone\.fc\.weight' is \[6, 2048\] in the ch"):
        load(model, theirs.state_dict())
    report = load(model, theirs.state_dict(), replace_head=True)
    assert report.head == ("backbone.fc.weight", "backbone.fc.bias")
    assert report.missing == report.unexpected == ()


@pytest.mark.parametrize(
    ("layout", "state", "message"),
    [
        (
            "mit_tsm",
            {"backbone.conv1.conv.weight": torch.zeros(1), "b": torch.zeros(1)},
            r"^published\.pth: no checkpoint of layout mit_tsm: its keys are "
            r"2 \(backbone\.conv1\.conv\.weight, b\); set layout: auto",
        ),
        (
            "auto",
            {f"layers.{n}.w": torch.zeros(1) for n in range(5)},
            r"of another network: 0 of 122 .*; its keys are 5 \(layers\.0\.w, layers\.1\.w, "
            r"layers\.2\.w, \.\.\.\)$",
        ),
    ],
)
def test_a_layout_that_is_not_known_is_refused_with_its_keys(student, layout, state, message):
    with torch.device("meta"):
        model = student("resnet18")
    with pytest.raises(UserError, match=message):
        load(model, state, layout=layout)


@pytest.mark.parametrize("extra", ["layer2.1.nl.theta.weight", "layer2.0.net.conv1.weight"])
def test_what_no_network_here_has_is_refused(student, extra):
    """Non-local blocks, and a shift of whole blocks instead of their branches."""
    with torch.device("meta"):
        model, theirs = student("resnet50", kind="shift"), mit_r50()
    state = theirs.state_dict() | {f"module.base_model.{extra}": torch.zeros(1)}
    with pytest.raises(UserError, match=r"1 unexpected, first 'module\.base_model\.layer2"):
        load(model, state)
