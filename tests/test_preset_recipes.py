"""The presets: each recipe's networks can be built, and what their comments say is counted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from videokd.bench.complexity import count_complexity
from videokd.config import read_yaml
from videokd.data.sampling.frames import check_view
from videokd.models.catalog import CATALOG
from videokd.models.video_model import VideoModel
from videokd.models.zoo import create_video_model
from videokd.recipe import RunConfig, load_recipe, without_pretraining

PRESETS = Path(__file__).parents[1] / "configs" / "presets"
FOLDERS = sorted(path.name for path in PRESETS.iterdir() if path.is_dir())
NUM_CLASSES = {"kinetics400": 400, "something": 174, "ucf101": 101, "hmdb51": 51}


def recipe(folder: str, role: str) -> RunConfig:
    return load_recipe(PRESETS / folder / f"{role}.yaml")


def on_meta(folder: str, config: RunConfig) -> VideoModel:
    with torch.device("meta"):
        return create_video_model(
            without_pretraining(config.model),
            num_classes=NUM_CLASSES[folder.split("_")[0]],
            taps=(),
        ).eval()


def comments(folder: str, name: str) -> str:
    """The comments of a recipe as running text."""
    lines = (PRESETS / folder / name).read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def test_every_preset_is_there() -> None:
    assert FOLDERS == [
        "hmdb51",
        "kinetics400_cpu",
        "kinetics400_edge",
        "kinetics400_server",
        "kinetics400_x3d",
        "something_v2",
        "ucf101",
    ]
    for folder in FOLDERS:
        names = {path.name for path in (PRESETS / folder).glob("[!_]*.yaml")}
        assert names == {"teacher.yaml", "control.yaml", "student.yaml"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_control_and_student_differ_in_the_teacher_alone(folder: str) -> None:
    control, student = recipe(folder, "control"), recipe(folder, "student")
    for part in ("data", "model", "init", "train", "eval", "seed"):
        assert getattr(control, part) == getattr(student, part), part
    assert (control.role, student.role) == ("control", "student")
    assert student.objective.needs_teacher
    assert not control.objective.needs_teacher
    assert control.output_dir != student.output_dir


@pytest.mark.parametrize("folder", FOLDERS)
def test_student_finds_its_teacher_and_sees_what_it_sees(folder: str) -> None:
    teacher, student = recipe(folder, "teacher"), recipe(folder, "student")
    assert teacher.role == "teacher"
    assert student.teacher is not None
    assert student.teacher.checkpoint == teacher.output_dir
    assert student.data.index == teacher.data.index
    check_view(student.model.input.sampling, teacher.model.input.sampling, student.teacher.view)
    for config in (teacher, student):
        config.eval.views.check(config.model.input.sampling)


@pytest.mark.parametrize("folder", FOLDERS)
def test_weights_are_published_ones_of_the_same_network(folder: str) -> None:
    for role in ("teacher", "student"):
        config = recipe(folder, role)
        if config.init.weights is None:
            assert config.model.pretrained, "ImageNet's, or published ones"
            continue
        found = CATALOG[str(config.init.weights)]
        assert found.weights is not None
        settings = read_yaml(PRESETS / folder / f"{role}.yaml")["model"]
        assert settings["preset"] == found.name
        other_classes = NUM_CLASSES[folder.split("_")[0]] != found.num_classes
        assert config.init.replace_head == other_classes


@pytest.mark.parametrize("folder", [name for name in FOLDERS if name.startswith("kinetics400")])
def test_kinetics_teachers_are_taken_as_they_are(folder: str) -> None:
    config = recipe(folder, "teacher")
    assert config.train.epochs == 0
    assert config.init.weights is not None


@pytest.mark.parametrize("folder", FOLDERS)
def test_networks_cost_what_the_comments_say(folder: str) -> None:
    config = recipe(folder, "student")
    model = on_meta(folder, config)
    counted = count_complexity(
        model, num_frames=config.model.input.num_frames, crop_px=config.model.input.crop_px
    )
    said = comments(folder, "_student.yaml")
    cost = re.search(r"([\d.]+) M parameters \(([\d.]+) MB in fp32\), ([\d.]+) GMACs a view", said)
    assert cost is not None
    assert float(cost[1]) == pytest.approx(counted.params_m, abs=0.0051)
    assert float(cost[2]) == pytest.approx(counted.params_m * 4, abs=0.051)
    assert float(cost[3]) == pytest.approx(counted.gmacs, abs=0.0051)
    total = re.search(r"([\d.]+)(?: and [\d.]+)? a video of (\d+)x(\d+) views", said)
    assert total is not None
    views = config.eval.views
    assert (int(total[2]), int(total[3])) == (views.num_clips, views.num_crops)
    assert float(total[1]) == pytest.approx(counted.gmacs * views.num_views, rel=0.002)


@pytest.mark.parametrize("name", ["_mvit_v2_s.yaml", "something_v2", "ucf101", "hmdb51"])
def test_teachers_cost_what_the_comments_say(name: str) -> None:
    is_shared = name.startswith("_")
    folder = "kinetics400_edge" if is_shared else name
    said = comments(".", name) if is_shared else comments(name, "teacher.yaml")
    cost = re.search(r"([\d.]+) M parameters \((\d+) MB\), ([\d.]+) GMACs a view", said)
    assert cost is not None
    config = recipe(folder, "teacher")
    model = on_meta(folder, config)
    counted = count_complexity(
        model, num_frames=config.model.input.num_frames, crop_px=config.model.input.crop_px
    )
    assert float(cost[1]) == pytest.approx(counted.params_m, abs=0.0051)
    assert float(cost[2]) == pytest.approx(counted.params_m * 4, abs=0.51)
    assert float(cost[3]) == pytest.approx(counted.gmacs, abs=0.0051)


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("kinetics400_edge", ["tsm_mobilenetv2", "tsm_mobilenetv2_dense_mit"]),
        ("kinetics400_server", ["tsm_r50_dense", "tsm_r50_dense_mit", "videomae_b"]),
        ("kinetics400_x3d", ["x3d_s"]),
        ("something_v2", ["tsm_r50_ssv2", "tsm_r50_ssv2_mit"]),
    ],
)
def test_targets_are_the_catalogues(folder: str, names: list[str]) -> None:
    said = comments(folder, "_student.yaml")
    assert "targets, not results of these files" in said
    for name in names:
        published = CATALOG[name].published
        assert published is not None
        assert re.search(rf"(^|\s){published.top1_pct:g}\s", said), name


def test_something_v2_mirrors_each_pair_of_sides() -> None:
    swaps = recipe("something_v2", "student").data.augment.flip.swaps
    assert len(swaps) == 3
    other = {"left": "right", "right": "left"}
    for first, second in swaps:
        mirrored = re.sub(r"\b(left|right)\b", lambda side: other[side[0]], first)
        assert mirrored == second
        assert first != second
