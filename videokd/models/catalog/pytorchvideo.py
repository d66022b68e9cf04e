"""PyTorchVideo's zoo: names, inputs and numbers of its table, files of its hub.

The accuracies were measured with PySlowFast over PyTorchVideo's loader. Three crops take the
whole shorter side, so those networks see squares of the tested size; MViT's one crop is cut out of
256 px.
"""

from __future__ import annotations

from typing import Any

from videokd.models.catalog.inputs import PYSLOWFAST, dense, segments, spec
from videokd.models.catalog.nouns import Convention, ModelEntry, Published, PublishedFile, Role

_TABLE = "https://github.com/facebookresearch/pytorchvideo/blob/main/docs/source/model_zoo.md"
_FILES = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo"
_MVIT_NOTE = (
    "no named protocol takes the same clips; pyslowfast_offset_5x1 comes nearest: five clips, the "
    "centre crop"
)
_BGR_NOTE = (
    "its authors' loader gives it blue, green, red, ours gives red, green, blue: their file is not "
    "offered"
)
_R101 = [3, 4, 23, 3]
_50_50 = [3] * 6 + [1] * 17
"""First kernels of the third stage of SlowFast R101 16x8: six see time, seventeen do not."""


def _entry(
    name: str,
    clip: tuple[int, int],
    px: tuple[int, int],
    settings: dict[str, Any],
    published: tuple[float, float, float, float, Convention],
    file: str,
    *,
    views: str = "10x3",
    protocol: str | None = "pytorchvideo_10x3",
    role: Role = "teacher",
    note: str = "",
) -> ModelEntry:
    """A row of the table: `clip` is (T, stride), `px` (short side, crop), `published` top-1, top-5,
    operations, parameters, and how the operations were counted."""
    top1, top5, operations, params, convention = published
    family = name.split("_")[0]
    return ModelEntry(
        name=name,
        family=family,
        role=role,
        settings={"kind": family, "input": spec(dense(*clip), *px, PYSLOWFAST), **settings},
        num_classes=400,
        published=Published(
            dataset="kinetics400",
            top1_pct=top1,
            top5_pct=top5,
            views=views,
            protocol=protocol,
            source=_TABLE,
            params_m=params,
            gmacs_per_view=operations,
            convention=convention,
        ),
        weights=PublishedFile(
            url=f"{_FILES}/kinetics/{file}.pyth", sha256_prefix=None, layout="pytorchvideo"
        ),
        note=note,
    )


def _something(
    name: str,
    num_frames: int,
    settings: dict[str, Any],
    numbers: tuple[float, float, float, float],
    *,
    note: str = _BGR_NOTE,
) -> ModelEntry:
    """A row of the table for Something-Something v2: clips reach over the whole video."""
    top1, top5, operations, params = numbers
    family = name.split("_")[0]
    return ModelEntry(
        name=name,
        family=family,
        role="teacher",
        settings={
            "kind": family,
            "input": spec(segments(num_frames), 256, 256, PYSLOWFAST),
            **settings,
        },
        num_classes=174,
        published=Published(
            dataset="something_v2",
            top1_pct=top1,
            top5_pct=top5,
            views="1x3",
            protocol="pyslowfast_ssv2_1x3",
            source=_TABLE,
            params_m=params,
            gmacs_per_view=operations,
            convention="fvcore",
        ),
        note=note,
    )


# fmt: off
_HEAD = {"head_pool_px": 7}
_SLOWFAST_50_50 = {
    "alpha": 4, "fusion_frames": 5, "stage_depths": _R101,
    "slow_stage_frames": [1, 1, _50_50, 3], "fast_stage_frames": [3, 3, _50_50, 3], **_HEAD,
}

PYTORCHVIDEO_TEACHERS: tuple[ModelEntry, ...] = (
    _entry("slow_r50_4x16", (4, 16), (256, 256), _HEAD,
           (72.40, 90.18, 27.55, 32.45, "fvcore"), "SLOW_4x16_R50"),
    _entry("slow_r50_8x8", (8, 8), (256, 256), _HEAD,
           (74.58, 91.63, 54.52, 32.45, "mac"), "SLOW_8x8_R50"),
    _something("slow_r50_8x8_ssv2", 8, _HEAD, (60.04, 85.19, 55.10, 31.96),
               note=f"{_BGR_NOTE}; the published parameters are of a network for 157 classes"),
    _entry("slowfast_r50_4x16", (32, 2), (256, 256), {"alpha": 8, "fusion_frames": 5, **_HEAD},
           (75.34, 91.89, 36.69, 34.48, "fvcore"), "SLOWFAST_4x16_R50"),
    _entry("slowfast_r50_8x8", (32, 2), (256, 256), {"alpha": 4, "fusion_frames": 7, **_HEAD},
           (76.94, 92.69, 65.71, 34.57, "mac"), "SLOWFAST_8x8_R50"),
    _entry("slowfast_r101_8x8", (32, 2), (256, 256),
           {"alpha": 4, "fusion_frames": 5, "stage_depths": _R101, **_HEAD},
           (77.90, 93.27, 127.20, 62.83, "fvcore"), "SLOWFAST_8x8_R101"),
    _entry("slowfast_r101_16x8", (64, 2), (256, 256), _SLOWFAST_50_50,
           (78.70, 93.61, 215.61, 53.77, "fvcore"), "SLOWFAST_16x8_R101_50_50"),
    _something("slowfast_r50_8x8_ssv2", 32, {"alpha": 4, "fusion_frames": 7, **_HEAD},
               (61.68, 86.92, 66.60, 34.04)),
    _entry("c2d_r50_8x8", (8, 8), (256, 256), _HEAD,
           (71.46, 89.68, 25.89, 24.33, "fvcore"), "C2D_8x8_R50"),
    _entry("i3d_r50_8x8", (8, 8), (256, 256), _HEAD,
           (73.27, 90.70, 37.53, 28.04, "fvcore"), "I3D_8x8_R50"),
    _entry("r2plus1d_r50_16x4", (16, 4), (256, 256), _HEAD,
           (76.01, 92.23, 76.45, 28.11, "fvcore"), "R2PLUS1D_16x4_R50"),
    _entry("csn_r101_32x2", (32, 2), (256, 256), {"stage_depths": _R101, **_HEAD},
           (77.00, 92.90, 75.62, 22.21, "fvcore"), "CSN_32x2_R101"),
    _entry("x3d_m", (16, 5), (256, 256), {"head_pool_px": 7},
           (75.94, 92.72, 6.72, 3.79, "fvcore"), "X3D_M"),
    _entry("x3d_l", (16, 5), (356, 356), {"head_pool_px": 10, "depth_factor": 5.0},
           (77.44, 93.31, 26.64, 6.15, "fvcore"), "X3D_L"),
    _entry("mvit_b_16x4", (16, 4), (256, 224), {"drop_path": 0.2},
           (78.85, 93.85, 70.80, 36.61, "fvcore"), "MVIT_B_16x4",
           views="5x1", protocol=None, note=_MVIT_NOTE),
    _entry("mvit_b_32x3", (32, 3), (256, 224), {"drop_path": 0.3},
           (80.30, 94.69, 170.37, 36.61, "fvcore"), "MVIT_B_32x3_f294077834",
           views="5x1", protocol=None, note=_MVIT_NOTE),
)
"""In the order of their families and sizes."""

PYTORCHVIDEO_STUDENTS: tuple[ModelEntry, ...] = (
    _entry("x3d_xs", (4, 12), (182, 182), {"head_pool_px": 5},
           (69.12, 88.63, 0.91, 3.79, "fvcore"), "X3D_XS", role="student"),
    _entry("x3d_s", (13, 6), (182, 182), {"head_pool_px": 5},
           (73.33, 91.27, 2.96, 3.79, "fvcore"), "X3D_S", role="student"),
)
"""Small enough for a phone's processor."""
# fmt: on
