"""Every entry of the catalogue is a network, costs what it says, and says whose numbers it has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import get_weight

from videokd.bench.complexity import count_complexity
from videokd.config import Config, parse_config, read_yaml
from videokd.data.sampling.protocols import protocol_named
from videokd.errors import ConfigError, UserError
from videokd.models.catalog import CATALOG, ModelEntry, entry
from videokd.models.catalog.costs import COSTS
from videokd.models.catalog.students import BACKBONES, TEMPORAL
from videokd.models.video_model import VideoModel
from videokd.models.zoo import ModelConfig, create_network, create_video_model

QUICK = ("slow_r50_4x16", "r3d_18", "mvit_v2_s", "x3d_xs", "tsm_lcnet", "tanet_r18", "gru_r50")
"""Multiply-adds counted in every run of the tests; the others take minutes together."""
SLOW = ("videomae_b", "videomae_b_ssv2", "videomae_l", "vjepa2_g_384_ssv2")
"""Their construction takes long: VideoMAE computes its positions number by number."""


class Recipe(Config):
    """As a recipe has it."""

    model: ModelConfig


def model_of(settings: object) -> ModelConfig:
    return parse_config(Recipe, {"model": settings}, source="recipe").model


def on_meta(found: ModelEntry) -> VideoModel:
    with torch.device("meta"):
        return create_video_model(found.config(), num_classes=found.num_classes, taps=()).eval()


def check_cost(found: ModelEntry) -> None:
    config = found.config()
    model = on_meta(found)
    counted = count_complexity(
        model, num_frames=config.input.num_frames, crop_px=config.input.crop_px
    )
    assert found.cost == pytest.approx((counted.params_m, counted.gmacs), abs=6e-5)


def test_the_networks_that_people_know_are_in() -> None:
    teachers = {
        "slowfast_r50_4x16 slowfast_r50_8x8 slowfast_r101_8x8 slowfast_r101_16x8 slow_r50_4x16",
        "slow_r50_8x8 c2d_r50_8x8 i3d_r50_8x8 r2plus1d_r50_16x4 csn_r101_32x2 x3d_m x3d_l",
        "mvit_b_16x4 mvit_b_32x3 r3d_18 mc3_18 r2plus1d_18 s3d swin3d_t swin3d_s swin3d_b",
        "mvit_v1_b mvit_v2_s videomae_b timesformer_b_8x32 vivit_b_16x2 vjepa2_l_ssv2",
    }
    for name in " ".join(teachers).split():
        assert entry(name).role == "teacher"
    for name in ("x3d_xs", "x3d_s"):
        assert entry(name).role == "student"
    for family in ("tsn", "tsm", "tanet"):
        for backbone in BACKBONES:
            assert entry(f"{family}_{backbone}").settings["backbone"] == BACKBONES[backbone]
    kinds = {
        found.settings["temporal"]["kind"]
        for found in CATALOG.values()
        if "_" in found.name and found.settings["kind"] == "timm"
    }
    assert kinds == {module["kind"] for module in TEMPORAL.values()}
    assert len(kinds) == 6


@pytest.mark.parametrize("name", CATALOG)
def test_entry_is_whole(name: str) -> None:
    found = entry(name)
    assert found.name == name
    assert name in COSTS
    config = found.config()
    assert config.kind == found.settings["kind"]
    # Plain data: what a recipe or JSON can hold, and nothing lost on the way.
    assert json.loads(json.dumps(dict(found.settings))) == dict(found.settings)
    published = found.published
    if published is None:
        assert found.weights is None
        return
    assert published.source.startswith("https://")
    assert re.fullmatch(r"\d+x\d+", published.views)
    assert (published.gmacs_per_view is None) == (published.convention is None)
    assert found.num_classes == {"kinetics400": 400, "something_v2": 174}[published.dataset]
    if published.protocol is None:
        assert found.note, "where no protocol is named, the entry says which comes nearest"
        return
    protocol = protocol_named(published.protocol)
    protocol.check(config.input.sampling)
    if published.views != "25x10":  # TSN's authors count each of the 25 frames as a clip
        assert published.views == f"{protocol.num_clips}x{protocol.num_crops}"
    if protocol.whole_short_side:
        assert config.input.crop_px == config.input.short_side_px


def test_costs_are_of_the_catalogue_alone() -> None:
    assert set(COSTS) == set(CATALOG)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CATALOG]
)
def test_entry_is_a_network_of_so_many_parameters(name: str) -> None:
    found = entry(name)
    with torch.device("meta"):
        parts = create_network(found.config(), found.num_classes)
    num_params = sum(parameter.numel() for parameter in parts.network.parameters())
    assert found.cost.params_m == pytest.approx(num_params / 1e6, abs=6e-5)
    classifier = parts.network.get_submodule(parts.classifier)
    assert classifier.weight.shape[0] == found.num_classes
    modules = dict(parts.network.named_modules())
    assert parts.taps, "every entry has features to distil from"
    assert all(tap.module in modules for tap in parts.taps)


@pytest.mark.parametrize("name", QUICK)
def test_cost_is_what_is_counted(name: str) -> None:
    check_cost(entry(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CATALOG) - set(QUICK)))
def test_every_other_cost_is_what_is_counted(name: str) -> None:
    check_cost(entry(name))


@pytest.mark.parametrize(
    "name",
    [name for name, found in CATALOG.items() if found.published and found.published.params_m],
)
def test_published_parameters_are_those_of_the_network(name: str) -> None:
    """Their count is rounded to two digits; the known errors are said in the notes."""
    found = entry(name)
    assert found.published is not None
    assert found.published.params_m is not None
    if "published" in found.note and "parameters are of a network for" in found.note:
        assert found.published.params_m != pytest.approx(found.cost.params_m, abs=0.01)
    elif name == "tanet_r50":  # 25.6 M in their table
        assert found.cost.params_m == pytest.approx(25.6, abs=0.05)
    else:
        assert found.published.params_m == pytest.approx(found.cost.params_m, abs=0.01)


@pytest.mark.parametrize(
    "name", [name for name, found in CATALOG.items() if found.family == "torchvision"]
)
def test_torchvision_entries_are_its_weight_enums(name: str) -> None:
    found = entry(name)
    network = {"swin3d_t": "Swin3D_T", "swin3d_s": "Swin3D_S", "swin3d_b": "Swin3D_B"} | {
        "r3d_18": "R3D_18",
        "mc3_18": "MC3_18",
        "r2plus1d_18": "R2Plus1D_18",
        "s3d": "S3D",
        "mvit_v1_b": "MViT_V1_B",
        "mvit_v2_s": "MViT_V2_S",
        "swin3d_b_22k": "Swin3D_B",
    }
    variant = "KINETICS400_IMAGENET22K_V1" if name.endswith("22k") else "KINETICS400_V1"
    theirs = get_weight(f"{network[name]}_Weights.{variant}")
    published, file = found.published, found.weights
    assert published is not None
    assert file is not None
    accuracy = theirs.meta["_metrics"]["Kinetics-400"]
    assert (published.top1_pct, published.top5_pct) == (accuracy["acc@1"], accuracy["acc@5"])
    assert published.gmacs_per_view == theirs.meta["_ops"]
    assert published.params_m == theirs.meta["num_params"] / 1e6
    assert file.url == theirs.url
    transform = theirs.transforms()
    spec = found.config().input
    assert spec.short_side_px == min(transform.resize_size)
    assert spec.crop_px == transform.crop_size[0]
    assert (list(spec.mean), list(spec.std)) == (list(transform.mean), list(transform.std))
    assert spec.resample == transform.interpolation.value
    text = theirs.meta["_docs"]
    assert f"clip_len={spec.num_frames}`" in text.replace("`clip_len=", "clip_len=")
    assert f"clips_per_video={published.views.split('x')[0]}`" in text
    rate = re.search(r"frame_rate=([\d.]+)", text)
    assert rate is not None
    assert spec.sampling.span_seconds == pytest.approx(spec.num_frames / float(rate[1]))


def test_digests_of_published_files_are_in_their_names() -> None:
    for found in CATALOG.values():
        file = found.weights
        if file is None or file.sha256_prefix is None:
            continue
        assert re.fullmatch(r"[0-9a-f]{8}", file.sha256_prefix)
        assert file.url.endswith(f"-{file.sha256_prefix}.pth")


def test_no_network_of_that_name() -> None:
    with pytest.raises(UserError, match=r"no network is named 'x3d_n'; did you mean 'x3d_[a-z]+'"):
        entry("x3d_n")


def test_the_catalogue_does_without_torch() -> None:
    code = (
        "import sys; from videokd.models.catalog import CATALOG; "
        "print(len(CATALOG), 'torch' in sys.modules)"
    )
    done = subprocess.run(  # the interpreter's own modules must not be there already
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(len(CATALOG)), "False"]


def test_preset_is_the_entry() -> None:
    assert model_of({"preset": "x3d_m"}) == entry("x3d_m").config()


def test_preset_with_changes_keeps_the_rest() -> None:
    config = model_of({"preset": "x3d_m", "input": {"crop_px": 160}, "dropout": 0.3})
    base = entry("x3d_m").config()
    assert config.dropout == 0.3
    assert config.input.crop_px == 160
    assert config.input == base.input.model_copy(update={"crop_px": 160})
    changed = {name for name in base.model_dump() if getattr(base, name) != getattr(config, name)}
    assert changed == {"dropout", "input"}


def test_sampling_of_another_kind_replaces_the_presets() -> None:
    sampling = {"kind": "dense", "num_frames": 8, "stride": 8}
    config = model_of({"preset": "tsm_r50", "input": {"sampling": sampling}})
    assert config.input.sampling.model_dump(exclude={"past_end"}) == sampling
    assert config.input.short_side_px == 256


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"preset": "x3d_mm"}, "model: preset: no network is named 'x3d_mm'; did you mean"),
        ({"preset": "x3d_m", "kind": "x3d"}, "give preset or kind, not both"),
        (
            {"preset": "x3d_m", "dropuot": 0.3},
            "unknown key 'model.dropuot'; did you mean 'dropout'",
        ),
        ({"preset": "x3d_m", "num_classes": 5}, "unknown key 'model.num_classes'"),
        ({"preset": 3}, "preset is the name of a network"),
        ({"preset": "x3d_m", "input": {"crop_px": 300}}, "crop_px 300 does not fit"),
    ],
)
def test_faults_of_a_preset_are_one_line(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)) as caught:
        model_of(settings)
    assert "\n" not in str(caught.value)


def test_another_preset_or_kind_replaces_the_base_recipes(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: {preset: x3d_m, dropout: 0.3}\n")
    for own, expected in (
        ("{preset: tsm_r50}", {"preset": "tsm_r50"}),
        ("{kind: timm, backbone: resnet18}", {"kind": "timm", "backbone": "resnet18"}),
        ("{dropout: 0.1}", {"preset": "x3d_m", "dropout": 0.1}),
        ("{preset: x3d_m, taps: []}", {"preset": "x3d_m", "dropout": 0.3, "taps": []}),
    ):
        path = tmp_path / "own.yaml"
        path.write_text(f"base: base.yaml\nmodel: {own}\n")
        assert read_yaml(path) == {"model": expected}
    assert read_yaml(path, ["model.preset=r3d_18"]) == {"model": {"preset": "r3d_18"}}
