"""Every published file of the catalogue fits its network: all names, all shapes, the right layout.

On the meta device, from networks that their authors' code (pytorchvideo, torchvision) or its naming
rules (mmaction2, MIT) make; Hugging Face's are held against `transformers` with their networks.
"""

from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from published_networks import (
    MitMobileNetV2,
    MitTsn,
    MmactionMobileNetV2,
    MmactionResNet,
    Recognizer,
    mit_resnet,
)
from pytorchvideo.models import hub
from pytorchvideo.models.slowfast import create_slowfast
from torchvision.models import video

from videokd.models.catalog import CATALOG
from videokd.models.weights import load_weights
from videokd.models.zoo import create_network

pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")

PYTORCHVIDEO = {
    "SLOW_4x16_R50": hub.slow_r50,
    "SLOW_8x8_R50": hub.slow_r50,
    # In the zoo's table and not in the hub: its fusion kernels are 5 frames long.
    "SLOWFAST_4x16_R50": partial(
        create_slowfast,
        slowfast_fusion_conv_kernel_size=(5, 1, 1),
        slowfast_fusion_conv_stride=(8, 1, 1),
        slowfast_conv_channel_fusion_ratio=2,
        head_pool_kernel_sizes=((4, 7, 7), (32, 7, 7)),
    ),
    "SLOWFAST_8x8_R50": hub.slowfast_r50,
    "SLOWFAST_8x8_R101": hub.slowfast_r101,
    "SLOWFAST_16x8_R101_50_50": hub.slowfast_16x8_r101_50_50,
    "C2D_8x8_R50": hub.c2d_r50,
    "I3D_8x8_R50": hub.i3d_r50,
    "R2PLUS1D_16x4_R50": hub.r2plus1d_r50,
    "CSN_32x2_R101": hub.csn_r101,
    "X3D_XS": hub.x3d_xs,
    "X3D_S": hub.x3d_s,
    "X3D_M": hub.x3d_m,
    "X3D_L": hub.x3d_l,
    "MVIT_B_16x4": hub.mvit_base_16x4,
    "MVIT_B_32x3_f294077834": hub.mvit_base_32x3,
}
TORCHVISION = {"swin3d_b_1k": video.swin3d_b, "swin3d_b_22k": video.swin3d_b}


def published_by_pytorchvideo(entry):
    # Their MViT reads numbers while it is made, which the meta device has not.
    with torch.device("cpu" if entry.settings["kind"] == "mvit" else "meta"):
        return PYTORCHVIDEO[Path(entry.weights.url).stem]().state_dict()


def published_by_torchvision(entry):
    name = Path(entry.weights.url).stem.rpartition("-")[0]
    return TORCHVISION.get(name, getattr(video, name, None))(weights=None).state_dict()


def published_by_mmaction2(entry):
    num_frames = entry.config().input.num_frames
    if entry.settings["backbone"] == "mobilenetv2_100":
        network, dim = MmactionMobileNetV2(num_frames), 1280
    else:
        kind = entry.config().temporal.kind
        network, dim = MmactionResNet((3, 4, 6, 3), num_frames, kind), 2048
    return Recognizer(network, dim, entry.num_classes, num_frames).state_dict()


def published_by_mit(entry):
    num_frames = entry.config().input.num_frames
    if entry.settings["backbone"] == "mobilenetv2_100":
        network = MitTsn(MitMobileNetV2(num_frames), 1280, entry.num_classes, num_frames)
    else:
        every = int(entry.config().temporal.kind == "shift")
        build = torchvision.models.resnet50
        network = mit_resnet(build, 2048, entry.num_classes, num_frames, every)
    return {f"module.{key}": value for key, value in network.state_dict().items()}


PUBLISHED_BY = {
    "pytorchvideo": published_by_pytorchvideo,
    "torchvision": published_by_torchvision,
    "mmaction2": published_by_mmaction2,
    "mit_tsm": published_by_mit,
}
PAIRS = [
    ("tsn_r50", "slow_r50_8x8", "inflate"),
    ("tsn_r50_mit", "i3d_r50_8x8", "inflate_centre"),
    ("slow_r50_8x8", "tsm_r50", "deflate"),
    ("c2d_r50_8x8", "tanet_r50", "deflate"),
]
ENTRIES = [e for e in CATALOG.values() if e.weights and e.weights.layout in PUBLISHED_BY]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_published_file_fits(entry):
    with torch.device("meta"):
        parts = create_network(entry.config(), entry.num_classes)
        state = PUBLISHED_BY[entry.weights.layout](entry)
    for layout in (entry.weights.layout, "auto"):
        report = load_weights(
            parts.network,
            state,
            replace_head=False,
            classifier=parts.classifier,
            source=entry.weights.url,
            layout=layout,
        )
        assert set(report.matched) == set(parts.network.state_dict())
        assert (report.missing, report.unexpected, report.notes) == ((), (), ())
    assert len(ENTRIES) >= 35


@pytest.mark.parametrize(("source", "target", "convert"), PAIRS)
def test_published_files_of_one_dimension_fit_networks_of_the_other(source, target, convert):
    file = CATALOG[source].weights
    with torch.device("meta"):
        parts = create_network(CATALOG[target].config(), 400)
        state = PUBLISHED_BY[file.layout](CATALOG[source])
    report = load_weights(
        parts.network,
        state,
        replace_head=False,
        classifier=parts.classifier,
        source=file.url,
        layout="auto",
        convert=convert,
        allow_partial=target == "tanet_r50",
    )
    assert report.unexpected == ()
    assert all(".tam." in key for key in report.missing)
    assert len(report.matched) == 320
