"""torchvision's video networks: numbers, files and preprocessing of its `weights` enums.

It resamples videos to a frame rate of its own, hence samplings in seconds. Clips of a video lie
evenly over it, each seen through its centre crop; where the frame is not squeezed, a named
protocol shows the same views.
"""

from __future__ import annotations

from typing import Any

from videokd.models.catalog.inputs import IMAGENET, PYSLOWFAST, TORCHVISION_R3D, at_rate, spec
from videokd.models.catalog.nouns import ModelEntry, Published, PublishedFile

_DOCS = "https://docs.pytorch.org/vision/stable/models.html#video-classification"
_FILES = "https://download.pytorch.org/models"

_SQUEEZED = (
    "its authors resize all frames to {}, whatever their shape; here the shorter side becomes "
    "{} px and nothing is squeezed"
)
_R3D_NOTE = f"{_SQUEEZED.format('128x171', 128)}; torchvision_5x1 takes their frames"
_S3D_NOTE = (
    f"{_SQUEEZED.format('256x256', 256)}; the published operations are of 16 frames, the accuracy "
    "of 128"
)
_SWIN_NOTE = "the published operations are of 16 frames, the accuracy of 32"


def _entry(
    name: str,
    input: dict[str, Any],
    published: tuple[float, float, float, float],
    file: tuple[str, str],
    *,
    num_clips: int,
    protocol: str | None = None,
    note: str = "",
    weights_of: str | None = None,
) -> ModelEntry:
    """`published` is top-1, top-5, operations, parameters; `file` its stem and its digest."""
    top1, top5, operations, params = published
    stem, digest = file
    return ModelEntry(
        name=name,
        family="torchvision",
        role="teacher",
        settings={"kind": "torchvision", "name": weights_of or name, "input": input},
        num_classes=400,
        published=Published(
            dataset="kinetics400",
            top1_pct=top1,
            top5_pct=top5,
            views=f"{num_clips}x1",
            protocol=protocol,
            source=_DOCS,
            params_m=params,
            gmacs_per_view=operations,
            convention="mac",
        ),
        weights=PublishedFile(
            url=f"{_FILES}/{stem}-{digest}.pth", sha256_prefix=digest, layout="torchvision"
        ),
        note=note,
    )


# fmt: off
_R3D = spec(at_rate(16, 15), 128, 112, TORCHVISION_R3D)
_SWIN = spec(at_rate(32, 15), 256, 224, IMAGENET)
_MVIT = spec(at_rate(16, 7.5), 256, 224, PYSLOWFAST)

TORCHVISION: tuple[ModelEntry, ...] = (
    _entry("r3d_18", _R3D, (63.200, 83.479, 40.697, 33.371472), ("r3d_18", "b3b3357e"),
           num_clips=5, note=_R3D_NOTE),
    _entry("mc3_18", _R3D, (63.960, 84.130, 43.343, 11.695440), ("mc3_18", "a90a0ba3"),
           num_clips=5, note=_R3D_NOTE),
    _entry("r2plus1d_18", _R3D, (67.463, 86.175, 40.519, 31.505325), ("r2plus1d_18", "91a641e6"),
           num_clips=5, note=_R3D_NOTE),
    _entry("s3d", spec(at_rate(128, 15), 256, 224, TORCHVISION_R3D),
           (68.368, 88.050, 17.979, 8.320048), ("s3d", "d76dad2f"), num_clips=1, note=_S3D_NOTE),
    _entry("swin3d_t", _SWIN, (77.715, 93.519, 43.882, 28.158070), ("swin3d_t", "7615ae03"),
           num_clips=12, protocol="torchvision_12x1", note=_SWIN_NOTE),
    _entry("swin3d_s", _SWIN, (79.521, 94.158, 82.841, 49.816678), ("swin3d_s", "da41c237"),
           num_clips=12, protocol="torchvision_12x1", note=_SWIN_NOTE),
    _entry("swin3d_b", _SWIN, (79.427, 94.386, 140.667, 88.048984), ("swin3d_b_1k", "24f7c7c6"),
           num_clips=12, protocol="torchvision_12x1", note=_SWIN_NOTE),
    _entry("swin3d_b_22k", _SWIN, (81.643, 95.574, 140.667, 88.048984),
           ("swin3d_b_22k", "7c6ae6fa"), num_clips=12, protocol="torchvision_12x1",
           note=_SWIN_NOTE, weights_of="swin3d_b"),
    _entry("mvit_v1_b", _MVIT, (78.477, 93.582, 70.599, 36.610672), ("mvit_v1_b", "dbeb1030"),
           num_clips=5, protocol="torchvision_5x1"),
    _entry("mvit_v2_s", _MVIT, (80.757, 94.665, 64.224, 34.537744), ("mvit_v2_s", "ae3be167"),
           num_clips=5, protocol="torchvision_5x1"),
)
# fmt: on
"""`swin3d_b_22k` is the same network pre-trained on ImageNet-22k."""
