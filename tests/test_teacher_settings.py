"""The settings of `teacher:`: each kind, what earlier recipes say, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_recipes import as_config, recipe, student_recipe

from videokd.config import dump_yaml, parse_overrides, read_yaml
from videokd.errors import ConfigError
from videokd.recipe import load_recipe
from videokd.recipe.teachers import CheckpointTeacher, PeerTeacher

TWO = {"a": {"checkpoint": "a"}, "b": {"checkpoint": "b"}}


def with_teacher(teacher: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    settings = student_recipe(Path("index.csv"), Path("run"), Path("teacher"))
    settings["train"].pop("ema_decay")
    settings.pop("teacher")
    return settings | ({} if teacher is None else {"teacher": teacher}) | changes


def test_a_teacher_without_a_kind_is_a_checkpoint() -> None:
    """As recipes, and the checkpoints that hold them, have it since the first version."""
    view = {"kind": "whole_video", "num_clips": 3}
    earlier = as_config(with_teacher({"checkpoint": "runs/t", "view": view}))
    assert isinstance(earlier.teacher, CheckpointTeacher)
    assert earlier.teacher.checkpoint == Path("runs/t")
    named = {"kind": "checkpoint", "checkpoint": "runs/t", "view": view}
    assert as_config(with_teacher(named)) == earlier


@pytest.mark.parametrize(
    "teacher",
    [
        {"checkpoint": "t"},
        {"kind": "several", "teachers": TWO},
        {"kind": "several", "teachers": TWO, "combine": "weighted", "weights": {"a": 0, "b": 2}},
        {"kind": "ema", "decay": 0.99},
        {"kind": "peer"},
    ],
)
def test_a_resolved_recipe_says_the_same(teacher: dict[str, Any], tmp_path: Path) -> None:
    config = as_config(with_teacher(teacher))
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert load_recipe(path) == config


def test_another_kind_replaces_the_teacher_of_a_base(tmp_path: Path) -> None:
    base = with_teacher({"kind": "checkpoint", "checkpoint": "t"})
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    (tmp_path / "peer.yaml").write_text("{base: base.yaml, teacher: {kind: peer}}")
    assert read_yaml(tmp_path / "peer.yaml")["teacher"] == {"kind": "peer"}
    assert isinstance(load_recipe(tmp_path / "peer.yaml").teacher, PeerTeacher)


OVERRIDES = {
    "ema": ["teacher={kind: ema, decay: 0.9}"],
    "peer": ["teacher.kind=peer"],
    "several": ["teacher={kind: several, teachers: {a: {checkpoint: a}, b: {checkpoint: b}}}"],
    "checkpoint": ["teacher.view.kind=same_span", "teacher.checkpoint=runs/x"],
}


LAID_UNDER = {
    "checkpoint": {"checkpoint": "t", "view": {"kind": "whole_video"}, "cache": "c"},
    "several": {"kind": "several", "teachers": TWO, "combine": "confidence", "cache": "c"},
    "ema": {"kind": "ema", "decay": 0.99},
    "peer": {"kind": "peer", "model": {"preset": "x3d_s"}},
}


@pytest.mark.parametrize(
    ("below", "kind"),
    [(below, kind) for below in LAID_UNDER for kind in OVERRIDES if kind != below],
)
def test_another_kind_replaces_the_teacher_also_where_one_is_not_named(
    below: str, kind: str, tmp_path: Path
) -> None:
    """Neither of the two of kind `checkpoint` says so."""
    base = with_teacher(LAID_UNDER[below])
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    other = parse_overrides(OVERRIDES[kind])
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"base": "base.yaml", **other}))
    expected = as_config(with_teacher(other["teacher"]))
    assert load_recipe(tmp_path / "own.yaml") == expected
    assert load_recipe(tmp_path / "base.yaml", OVERRIDES[kind]) == expected
    assert load_recipe(tmp_path / "base.yaml", OVERRIDES[kind][::-1]) == expected


@pytest.mark.parametrize(
    ("below", "override"),
    [
        ({"kind": "several", "teachers": TWO}, {"combine": "confidence"}),
        ({"kind": "several", "teachers": TWO}, {"cache": "c"}),
        ({"kind": "ema", "decay": 0.99}, {"decay": 0.9}),
        ({"checkpoint": "t", "cache": "c"}, {"checkpoint": "u"}),
        ({"checkpoint": "t", "cache": "c"}, {"kind": "checkpoint", "cache_reuse": True}),
    ],
)
def test_a_setting_of_the_same_kind_is_laid_over_the_teacher(
    below: dict[str, Any], override: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(with_teacher(below)), encoding="utf-8")
    words = [f"teacher.{key}={value}" for key, value in override.items()]
    assert load_recipe(path, words) == as_config(with_teacher(below | override))


def test_a_terms_kind_and_weight_are_overridden_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(with_teacher({"checkpoint": "t"})), encoding="utf-8")
    words = ["objective.terms.soft.weight=0.9", "objective.terms.soft.kind=dkd"]
    for ordered in (words, words[::-1]):
        term = load_recipe(path, ordered).objective.terms["soft"]
        assert (term.kind, term.weight) == ("dkd", 0.9)
        assert "temperature" not in term.model_fields_set, "that was the recipe's other kind's"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "teacher.checkpoint=[a,b]",
            r"teacher\.checkpoint: Input should be a path, written as text ",
        ),
        (
            "teacher=runs/teacher",
            r"teacher: Input should be a mapping such as {checkpoint: \.\.\.} or "
            r"{kind: \.\.\.}; kinds: checkpoint, several, ema, peer \(given 'runs/teacher'\)$",
        ),
        (
            "teacher.view=same_span",
            r"teacher\.view: Input should be a mapping such as {kind: same_span} \(given 'same",
        ),
        (
            "objective.terms.h={weight: 2}",
            r"objective\.terms\.h\.kind: it is missing; allowed: 'cross_entropy', 'soft_targets', ",
        ),
    ],
)
def test_an_override_of_another_form_is_told_the_form(
    override: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(with_teacher({"checkpoint": "t"})), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: {message}") as caught:
        load_recipe(path, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("teacher", "why"),
    [
        (None, "objective has distillation terms, but there is no teacher; give teacher.checkpo"),
        ({"checkpoint": "t", "vieww": 1}, "unknown key 'teacher.vieww'; did you mean 'view'"),
        ({"view": {"kind": "same_span"}}, "teacher.checkpoint: a value is required here"),
        ({"kind": "checkpoint"}, "teacher.checkpoint: a value is required here"),
        ({"checkpoint": 3}, r"teacher.checkpoint: Input should be a path, .*given 3"),
        ({"checkpoint": "t", "view": {"kind": "x"}}, "teacher.view.kind: 'x' is not known; allow"),
        ({"kind": "elder"}, "teacher.kind: 'elder' is not known; allowed: 'checkpoint', 'several'"),
        ({"kind": "peer", "cache": "c"}, "kind peer changes with every step, so there is nothing"),
        ({"kind": "ema", "cache": "c", "decay": 0.9}, "a teacher of kind ema changes with every"),
        ({"kind": "ema"}, "teacher kind ema needs to know how slowly it follows the student; give"),
        ({"kind": "several", "teachers": {"a": {"checkpoint": "a"}}}, "several are at least two"),
        ({"kind": "several", "teachers": TWO | {"c.d": {"checkpoint": "c"}}}, "'c.d' cannot name"),
        ({"kind": "several", "teachers": TWO, "weights": {"a": 1, "b": 1}}, "weights are for com"),
        ({"kind": "several", "teachers": TWO, "combine": "weighted"}, "weights are for combine: w"),
        (
            {"kind": "several", "teachers": TWO, "combine": "weighted", "weights": {"a": 1}},
            "teacher: weights are of a, the teachers are a, b; give each teacher a weight",
        ),
        (
            {
                "kind": "several",
                "teachers": TWO,
                "combine": "weighted",
                "weights": {"a": 0, "b": 0},
            },
            "teacher: weights must be at least 0, and one of them above",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(teacher: dict[str, Any] | None, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        as_config(with_teacher(teacher))
    assert "\n" not in str(caught.value)


def test_a_teacher_that_no_term_is_for_is_refused() -> None:
    settings = recipe(Path("index.csv"), Path("run"), teacher={"kind": "peer"})
    with pytest.raises(ConfigError, match="a teacher is given, but no term of objective uses it"):
        as_config(settings)


def test_a_peer_needs_other_first_weights() -> None:
    same = {"weights": "runs/start"}
    settings = with_teacher({"kind": "peer", "init": same}, init=same)
    with pytest.raises(ConfigError, match=r"teacher\.init gives the peer the student's own first"):
        as_config(settings)
    for init in ({"weights": "runs/other"}, {}, same | {"replace_head": True}):
        as_config(with_teacher({"kind": "peer", "init": init}, init=same))
    heads = same | {"replace_head": True}
    as_config(with_teacher({"kind": "peer", "init": heads}, init=heads))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"cache_reuse": True}, r": teacher: cache_reuse is for a cache"),
        ({"cache": "c", "placebo": "random_weights"}, r": teacher: a placebo is not cached"),
        ({"checkpoint": 3}, r": teacher\.checkpoint: Input should be a path"),
    ],
)
def test_a_fault_between_settings_is_not_laid_on_the_checkpoint(
    setting: dict[str, Any], message: str
) -> None:
    """The kind `checkpoint` has a setting of that name."""
    with pytest.raises(ConfigError, match=message):
        as_config(with_teacher({"checkpoint": "t", **setting}))


def test_confidence_is_for_one_label() -> None:
    several = {"kind": "several", "teachers": TWO, "combine": "confidence"}
    terms = {
        "labels": {"kind": "binary_cross_entropy"},
        "soft": {"kind": "binary_soft_targets"},
    }
    with pytest.raises(
        ConfigError, match=r"teacher\.combine confidence goes by .* mean or weighted"
    ):
        as_config(with_teacher(several, objective={"terms": terms}))
    as_config(with_teacher(several | {"combine": "mean"}, objective={"terms": terms}))
