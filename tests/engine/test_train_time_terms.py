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

from videokd.config import dump_yaml
from videokd.data.index import Index

PAIR = {"student_tap": "stage3", "teacher_tap": "res3"}
TERMS = {
    "labels": {"kind": "cross_entropy"},
    "alike": {"kind": "temporal_relation", "weight": 10, **PAIR},
    "change": {"kind": "temporal_difference", **PAIR},
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
