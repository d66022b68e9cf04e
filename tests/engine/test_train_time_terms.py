"""Terms on time and on relations in whole runs: exact resume, and several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from power_cut import stop_after
from test_train import assert_same_weights, losses, run, weights
from tiny_recipes import as_config, student_recipe, student_settings
from tiny_recipes import recipe as control

from videokd.config import dump_yaml
from videokd.data.index import Index
from videokd.errors import ConfigError
from videokd.tracking import read_metrics

PAIR = {"student_tap": "stage3", "teacher_tap": "res3"}
TERMS = {
    "labels": {"kind": "cross_entropy"},
    "alike": {"kind": "temporal_relation", "weight": 10, **PAIR},
    "change": {"kind": "temporal_difference", **PAIR},
    "moments": {"kind": "temporal_attention", **PAIR},
    "tokens": {"kind": "token_relation", "margin": 0.01, **PAIR},
    "distance": {"kind": "rkd_distance", "weight": 25},
    "angle": {"kind": "rkd_angle", "weight": 50},
    "contrast": {"kind": "crd", "weight": 0.8, "num_negatives": 10, "embedding_dim": 16},
}


def recipe(index: Index, out: Path, teacher: Path, **train) -> dict:
    settings = student_recipe(index, out, teacher, objective={"terms": TERMS})
    settings["model"] = student_settings(dropout=0.0)
    settings["train"] |= train
    return settings


def test_a_cut_run_goes_on_to_the_same_bits(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(recipe(tiny_index, tmp_path / "whole", tiny_teacher))
    settings = recipe(tiny_index, tmp_path / "cut", tiny_teacher, checkpoint_every_steps=2)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(RuntimeError, match="power cut"):
            run(settings)
    cut = run(settings)

    assert_same_weights(weights(cut), weights(whole))
    assert losses(cut) == losses(whole)
    kept = weights(cut)
    memory = kept["objective.losses.contrast_loss.student_memory"]
    assert memory.shape == (24, 16)  # the training videos of the 48 in the index
    assert kept["objective.losses.contrast_loss.num_draws"] == 6


ATTENDS = {"kind": "attention_pool", "num_heads": 4, "shift_div": 8}
WEIGHTS = {
    "labels": {"kind": "cross_entropy"},
    "moments": {
        "kind": "temporal_attention",
        "source": "weights",
        "weight": 5,
        "schedule": {"start": 0.5},
    },
}


def test_attention_weights_of_a_real_network_are_learned_from_another(
    tiny_index: Index, tmp_path: Path
) -> None:
    """Both pool over time by attention, eight frames and four; the term starts half way."""
    wide = {"sampling": {"kind": "dense", "num_frames": 8, "stride": 1}}
    model = student_settings(temporal=ATTENDS, dropout=0.0)
    teacher = control(
        tiny_index, tmp_path / "teacher", model=model | {"input": model["input"] | wide}
    )
    teacher_dir = run(teacher)
    settings = student_recipe(
        tiny_index, tmp_path / "student", teacher_dir, objective={"terms": WEIGHTS}, model=model
    )
    terms = [
        row["moments"] for row in read_metrics(run(settings) / "metrics.jsonl") if "loss" in row
    ]
    assert terms[:3] == [0, 0, 0]
    assert all(0 < value < 5 for value in terms[3:])


def test_networks_without_attention_are_refused_before_the_first_step(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    """Not half way, when the term's schedule asks for them."""
    for who, temporal in (("student", {"kind": "shift"}), ("teacher", ATTENDS)):
        settings = student_recipe(
            tiny_index, tmp_path / "student", tiny_teacher, objective={"terms": WEIGHTS}
        )
        settings["model"] = student_settings(temporal=temporal)
        with pytest.raises(
            ConfigError, match=rf"moments\.source: the {who} has no temporal attention weights"
        ):
            run(settings)
        assert not (tmp_path / "student" / "last.pt").exists()


@pytest.mark.slow
def test_two_processes_make_the_same_steps_as_one(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    one = run(recipe(tiny_index, tmp_path / "one", tiny_teacher, freeze_batch_norm=True))
    settings = recipe(tiny_index, tmp_path / "two", tiny_teacher, freeze_batch_norm=True)
    path = tmp_path / "two.yaml"
    path.write_text(dump_yaml(as_config(settings)), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "videokd", "train", str(path), "--insist", "--device", "cpu", "--quiet"],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": "29527"},
    )
    assert done.returncode == 0, done.stderr

    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-4)
    alone, together = weights(one), weights(tmp_path / "two")
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=1e-4)
