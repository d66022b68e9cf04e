"""2D students: a timm network on each frame and a module for time, `<module>_<backbone>`.

Those whose weights somebody published have the input that was tested; the others see the middle
224 px of one frame from each of 8 segments.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from videokd.models.catalog.inputs import IMAGENET, dense, segments, spec
from videokd.models.catalog.nouns import Layout, ModelEntry, Published, PublishedFile

BACKBONES: Mapping[str, str] = MappingProxyType(
    {
        "mobilenetv2": "mobilenetv2_100",
        "mobilenetv3_large": "mobilenetv3_large_100",
        "mobilenetv3_small": "mobilenetv3_small_100",
        "mobilenetv4_small": "mobilenetv4_conv_small",
        "mobilenetv4_medium": "mobilenetv4_conv_medium",
        "efficientnet_lite0": "efficientnet_lite0",
        "lcnet": "lcnet_100",
        "r18": "resnet18",
        "r50": "resnet50",
    }
)
"""Name in the catalogue -> timm's."""
TEMPORAL: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tsn": {"kind": "none"},
        "tsm": {"kind": "shift"},
        "tanet": {"kind": "tam"},
        "depthwise": {"kind": "depthwise"},
        "attention": {"kind": "attention_pool"},
        "gru": {"kind": "gru"},
    }
)
"""Family -> the module that gives its networks time."""
_FOR_ALL = ("tsn", "tsm", "tanet")
_FOR_TWO = ("mobilenetv2", "r50")

_MMACTION2 = "https://github.com/open-mmlab/mmaction2/tree/main/configs/recognition"
_MMACTION2_FILES = "https://download.openmmlab.com/mmaction/v1.0/recognition"
_MIT = "https://github.com/mit-han-lab/temporal-shift-module"
_MIT_FILES = "https://hanlab18.mit.edu/projects/tsm/models"

_TANET = IMAGENET | {"mean": [0.485, 0.456, 103.5 / 255]}
"""As mmaction2 has it for TANet: 103.5 for blue, where others have 103.53."""
_CENTRE = (256, 224)
_WHOLE = (256, 256)
_MMACTION2_PARAMS = "the published 23.87 M parameters are of a network for 174 classes"
_TSN_NOTE = (
    "tested on 25 frames a video, which the protocol brings; the published operations are of 25"
)


def _settings(
    family: str,
    backbone: str,
    sampling: Mapping[str, Any],
    px: tuple[int, int],
    colours: dict[str, list[float]] = IMAGENET,
) -> dict[str, Any]:
    return {
        "kind": "timm",
        "backbone": BACKBONES[backbone],
        "temporal": dict(TEMPORAL[family]),
        "input": spec(dict(sampling), *px, colours),
    }


def _preset(family: str, backbone: str) -> ModelEntry:
    """One that nobody published."""
    return ModelEntry(
        name=f"{family}_{backbone}",
        family=family,
        role="student",
        settings=_settings(family, backbone, segments(8), _CENTRE),
        num_classes=400,
    )


def _published(
    name: str,
    sampling: Mapping[str, Any],
    px: tuple[int, int],
    accuracy: tuple[float, float | None, str, str | None],
    file: PublishedFile,
    *,
    cost: tuple[float, float] | None = None,
    dataset: str = "kinetics400",
    colours: dict[str, list[float]] = IMAGENET,
    note: str = "",
) -> ModelEntry:
    """`accuracy` is top-1, top-5, views, protocol; `cost` operations and parameters."""
    family, rest = name.split("_", 1)
    backbone = max((b for b in BACKBONES if rest.startswith(b)), key=len)
    top1, top5, views, protocol = accuracy
    is_mit = file.layout == "mit_tsm"
    return ModelEntry(
        name=name,
        family=family,
        role="student",
        settings=_settings(family, backbone, sampling, px, colours),
        num_classes=174 if dataset == "something_v2" else 400,
        published=Published(
            dataset=dataset,
            top1_pct=top1,
            top5_pct=top5,
            views=views,
            protocol=protocol,
            source=_MIT if is_mit else f"{_MMACTION2}/{family}",
            gmacs_per_view=cost[0] if cost else None,
            params_m=cost[1] if cost else None,
            convention="mmaction2" if cost else None,
        ),
        weights=file,
        note=note,
    )


def _mmaction2(config: str, date_and_digest: str) -> PublishedFile:
    folder = config.split("_")[0]
    return PublishedFile(
        url=f"{_MMACTION2_FILES}/{folder}/{config}/{config}_{date_and_digest}.pth",
        sha256_prefix=date_and_digest.split("-")[1],
        layout="mmaction2",
    )


def _mit(stem: str) -> PublishedFile:
    layout: Layout = "mit_tsm"
    return PublishedFile(url=f"{_MIT_FILES}/TSM_{stem}.pth", sha256_prefix=None, layout=layout)


_R50 = "imagenet-pretrained-r50_8xb"
_K400 = "kinetics400-rgb"

# fmt: off
_PUBLISHED = (
    _published("tsn_r50", segments(8), _CENTRE, (74.12, 91.34, "25x10", "mmaction2_tsn_25x10"),
               _mmaction2(f"tsn_{_R50}32-1x1x8-100e_{_K400}", "20220906-2692d16c"),
               cost=(102.7, 24.33), note=_TSN_NOTE),
    _published("tsm_mobilenetv2", segments(8), _WHOLE, (68.71, 88.32, "1x3", "mmaction2_tsm_1x3"),
               _mmaction2(f"tsm_imagenet-pretrained-mobilenetv2_8xb16-1x1x8-100e_{_K400}",
                          "20230414-401127fd"),
               cost=(3.269, 2.736)),
    _published("tsm_r50", segments(8), _CENTRE, (73.18, 90.56, "1x10", "mmaction2_tsm_1x10"),
               _mmaction2(f"tsm_{_R50}16-1x1x8-50e_{_K400}", "20220831-64d69186"),
               cost=(32.88, 23.87), note=_MMACTION2_PARAMS),
    _published("tsm_r50_16f", segments(16), _CENTRE, (75.12, 91.55, "1x10", "mmaction2_tsm_1x10"),
               _mmaction2(f"tsm_{_R50}16-1x1x16-50e_{_K400}", "20220831-042b1748"),
               cost=(65.75, 23.87), note=_MMACTION2_PARAMS),
    _published("tsm_r50_dense", dense(8, 8), _CENTRE,
               (73.38, 90.78, "10x10", "mmaction2_tsm_dense_10x10"),
               _mmaction2(f"tsm_{_R50}16-dense-1x1x8-50e_{_K400}", "20220831-f55d3c2b"),
               cost=(32.88, 23.87), note=_MMACTION2_PARAMS),
    _published("tsm_r50_ssv2", segments(8), _WHOLE,
               (62.72, 87.70, "2x3", "mmaction2_tsm_twice_2x3"),
               _mmaction2(f"tsm_{_R50}16-1x1x8-50e_sthv2-rgb", "20230317-be0fc26e"),
               cost=(32.88, 23.87), dataset="something_v2",
               note="tested at 256 px, the published operations are at 224"),
    _published("tsm_r50_16f_ssv2", segments(16), _WHOLE,
               (64.16, 88.61, "2x3", "mmaction2_tsm_twice_2x3"),
               _mmaction2(f"tsm_{_R50}16-1x1x16-50e_sthv2-rgb", "20230317-ec6696ad"),
               cost=(65.75, 23.87), dataset="something_v2",
               note="tested at 256 px, the published operations are at 224"),
    _published("tanet_r50", dense(8, 8), _WHOLE,
               (76.25, 92.41, "10x3", "mmaction2_tsm_dense_10x3"),
               _mmaction2(f"tanet_{_R50}8-dense-1x1x8-100e_{_K400}", "20220919-a34346bc"),
               cost=(43.0, 25.6), colours=_TANET),
    _published("tsn_r50_mit", segments(8), _CENTRE, (68.8, None, "1x1", "tsm_uniform_1x1"),
               _mit("kinetics_RGB_resnet50_avg_segment5_e50"), note="trained on 5 segments"),
    _published("tsm_r50_mit", segments(8), _CENTRE, (71.2, None, "1x1", "tsm_uniform_1x1"),
               _mit("kinetics_RGB_resnet50_shift8_blockres_avg_segment8_e50")),
    _published("tsm_r50_dense_mit", dense(8, 8), _WHOLE, (74.1, None, "10x3", "tsm_dense_10x3"),
               _mit("kinetics_RGB_resnet50_shift8_blockres_avg_segment8_e100_dense")),
    _published("tsm_mobilenetv2_dense_mit", dense(8, 8), _WHOLE,
               (69.5, None, "10x3", "tsm_dense_10x3"),
               _mit("kinetics_RGB_mobilenetv2_shift8_blockres_avg_segment8_e100_dense")),
    _published("tsm_r50_ssv2_mit", segments(8), _WHOLE, (61.2, None, "2x3", "tsm_twice_2x3"),
               _mit("somethingv2_RGB_resnet50_shift8_blockres_avg_segment8_e45"),
               dataset="something_v2"),
)
# fmt: on


def _all() -> tuple[ModelEntry, ...]:
    """By family: the presets, then what was published beyond them."""
    published = {entry.name: entry for entry in _PUBLISHED}
    entries: dict[str, ModelEntry] = {}
    for family in TEMPORAL:
        for backbone in BACKBONES if family in _FOR_ALL else _FOR_TWO:
            name = f"{family}_{backbone}"
            entries[name] = published.get(name) or _preset(family, backbone)
        entries |= {name: entry for name, entry in published.items() if entry.family == family}
    return tuple(entries.values())


STUDENTS: tuple[ModelEntry, ...] = _all()
"""tsn, tsm and tanet on every backbone; the other modules on `mobilenetv2` and `r50`."""
