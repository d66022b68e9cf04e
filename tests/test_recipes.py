"""Every recipe that is shipped loads, and says what it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from videokd.recipe import load_recipe
from videokd.recipe.teachers import CheckpointTeacher, EmaTeacherConfig, PeerTeacher

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(
    p
    for p in CONFIGS.rglob("*.yaml")
    if not p.name.startswith("_")
    and CONFIGS / "tables" not in p.parents
    and p not in (CONFIGS / "ablation" / "ladder.yaml", CONFIGS / "ablation" / "chosen.yaml")
)


def test_there_are_recipes() -> None:
    assert {path.parent.name for path in RECIPES} >= {"demo", "utd_mhad5"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_recipe_loads(path: Path) -> None:
    config = load_recipe(path)
    assert not config.output_dir.is_absolute()
    assert not config.data.index.is_absolute()


@pytest.mark.parametrize(
    "path",
    [p for p in RECIPES if p.name == "student.yaml" and CONFIGS / "ablation" not in p.parents],
    ids=lambda p: str(p.relative_to(CONFIGS)),
)
def test_a_shipped_student_takes_any_teacher(path: Path) -> None:
    peer, ema, other = (
        load_recipe(path, [override]).teacher
        for override in (
            "teacher.kind=peer",
            "teacher={kind: ema, decay: 0.9}",
            "teacher.checkpoint=runs/other",
        )
    )
    assert peer == PeerTeacher()
    assert ema == EmaTeacherConfig(decay=0.9)
    own = load_recipe(path).teacher
    assert isinstance(own, CheckpointTeacher)
    assert other == own.model_copy(update={"checkpoint": Path("runs/other")})


@pytest.mark.parametrize("folder", ["demo", "utd_mhad5"])
def test_comparisons_differ_only_in_what_they_compare(folder: str) -> None:
    """Control, student and no-temporal share data, schedule and first weights."""
    control, student, no_temporal = (
        load_recipe(CONFIGS / folder / f"{role}.yaml")
        for role in ("control", "student", "no_temporal")
    )
    for other in (student, no_temporal):
        assert other.train == control.train
        assert other.data == control.data
        assert other.eval == control.eval
        assert other.seed == control.seed
    assert student.model == control.model
    assert student.init == control.init
    assert no_temporal.model.temporal.kind == "none"
    assert control.model.temporal.kind != "none"
    assert no_temporal.model.backbone == control.model.backbone
    assert student.objective.needs_teacher
    assert not control.objective.needs_teacher
