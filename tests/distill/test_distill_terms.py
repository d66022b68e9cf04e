from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from videokd.config import Config, dump_yaml, parse_config
from videokd.distill import terms
from videokd.distill.terms import ObjectiveConfig
from videokd.errors import ConfigError


class Recipe(Config):
    """As a recipe holds the objective."""

    objective: ObjectiveConfig


def parse(text: str) -> ObjectiveConfig:
    data = {"objective": {"terms": yaml.safe_load(text)}}
    return parse_config(Recipe, data, source="r.yaml").objective


def test_the_yaml_of_the_docstring_is_an_objective():
    text = terms.__doc__.split("```yaml\n")[1].split("```")[0]

    config = parse_config(Recipe, yaml.safe_load(text), source="docstring").objective

    assert config.terms["soft"].temperature == 4
    assert config.terms["middle"].weight == 100
    assert "stage3" in config.student_taps


def test_settings_survive_being_written_out():
    text = terms.__doc__.split("```yaml\n")[1].split("```")[0]
    recipe = parse_config(Recipe, yaml.safe_load(text), source="docstring")

    assert parse_config(Recipe, yaml.safe_load(dump_yaml(recipe)), source="again") == recipe


def test_weights_terms_survive_being_written_out():
    config = parse("w: {kind: temporal_attention, source: weights}")

    again = parse_config(ObjectiveConfig, yaml.safe_load(dump_yaml(config)), source="again")

    assert again == config


def test_taps_are_named_once_and_only_by_active_terms():
    config = parse("""
        labels: {kind: cross_entropy}
        a: {kind: hint, student_tap: s2, teacher_tap: t2}
        b: {kind: temporal_attention, student_tap: s2, teacher_tap: t3}
        c: {kind: attention_transfer, pairs: [{student_tap: s1, teacher_tap: t3}]}
        unused: {kind: hint, weight: 0, student_tap: s9, teacher_tap: t9}
    """)

    assert config.student_taps == ("s2", "s1")
    assert config.teacher_taps == ("t2", "t3")
    assert list(config.active_terms) == ["labels", "a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("labels: {kind: cross_entropy}", False),
        ("{labels: {kind: cross_entropy}, soft: {kind: soft_targets, weight: 0}}", False),
        ("{labels: {kind: cross_entropy}, soft: {kind: soft_targets}}", True),
        ("hard: {kind: hard_targets}", True),
        ("when: {kind: temporal_attention, source: weights}", True),
    ],
)
def test_a_teacher_is_needed_by_active_terms_only(text, needed):
    assert parse(text).needs_teacher is needed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"objective\.terms: .*at least 1"),
        ("a: {kind: cross_entropy, weight: 0}", "every term has weight 0"),
        ("a: {kind: cross_entropy, weight: -1}", r"objective\.terms\.a\.weight: .*equal to 0"),
        ("a: {kind: cross_entropy, weight: .inf}", r"terms\.a\.weight: .*finite"),
        ("a: {kind: cross_entropy, label_smoothing: 1}", "label_smoothing: .*less than 1"),
        ("a: {kind: soft_targets, temperature: 0}", "temperature: .*greater than 0"),
        (
            "a: {kind: soft_targets, temprature: 4}",
            r"unknown key 'objective\.terms\.a\.temprature'; did you mean 'temperature'",
        ),
        ("a: {kind: softtargets}", r"terms\.a\.kind: 'softtargets' is not known; .*'soft_targets'"),
        ("a: {kind: hint, student_tap: s}", r"terms\.a\.teacher_tap: a value is required"),
        ("a: {kind: attention_transfer, pairs: []}", r"terms\.a\.pairs: .*at least 1"),
        ("a: {kind: temporal_attention}", "source 'map' needs student_tap and teacher_tap"),
        (
            "a: {kind: temporal_attention, source: weights, student_tap: s}",
            "source 'weights' takes no student_tap",
        ),
        ("a: {kind: temporal_attention, source: weights, tau: 0}", "tau: .*greater than 0"),
        ("total: {kind: cross_entropy}", "'total' cannot name a term"),
        ("step: {kind: cross_entropy}", "'step' cannot name a term"),
        ("a.b: {kind: cross_entropy}", r"'a\.b' cannot name a term"),
        ("a: {kind: dkd, alpha: 0, beta: 0}", r"terms\.a: alpha and beta are both 0"),
        ("a: {kind: dist, beta: 0, gamma: 0}", r"terms\.a: beta and gamma are both 0"),
        (
            "a: {kind: token_relation, student_tap: s, teacher_tap: t, margin: 2}",
            "margin: .*less than 2",
        ),
        (
            "a: {kind: soft_targets, schedule: {warmup: 1, decay: cosine}}",
            "decay cosine begins where the warmup of 1 ends, and that is stop 1",
        ),
        *(
            (
                f"{{a: {{kind: binary_cross_entropy}}, b: {{kind: {kind}}}}}",
                f"takes each class by itself and {kind} one class of all; .*binary_soft_targets",
            )
            for kind in ("cross_entropy", "soft_targets", "hard_targets", "dkd", "dist")
        ),
    ],
)
def test_settings_that_cannot_be_right_are_refused(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse(text)

    assert "\n" not in str(error.value)


def test_settings_are_checked_without_torch():
    code = "import sys, videokd.distill.terms; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
