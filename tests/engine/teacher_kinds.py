"""Recipes of the tiny student with each kind of teacher, and how their runs are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_recipes import as_config, recipe

from videokd.checkpoint import load_checkpoint
from videokd.data.index import Index
from videokd.runs import train

MIXED = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "probability": 0.5}


def teacher_of(kind: str, one: Path, other: Path) -> dict[str, Any]:
    """The `teacher:` of a kind, of another combination, or of a view of the usual kind."""
    if kind in ("several", "weighted"):
        teachers = {"one": {"checkpoint": str(one)}, "other": {"checkpoint": str(other)}}
        if kind == "weighted":
            weights = {"one": 1, "other": 4}
            return {
                "kind": "several",
                "teachers": teachers,
                "combine": "weighted",
                "weights": weights,
            }
        return {"kind": "several", "teachers": teachers, "combine": "confidence"}
    if kind in ("ema", "peer"):
        return {"kind": kind}
    view = {"kind": kind} | ({"num_clips": 2} if kind == "whole_video" else {})
    return {"checkpoint": str(one), "view": view}


def kind_recipe(
    index: Index | Path, out: Path, teacher: dict[str, Any] | None, **term: Any
) -> dict[str, Any]:
    """A student's recipe with soft targets and a hint, both changed by `term`; None: without."""
    settings = recipe(index, out, role="student")
    taps = {"several": "one.res2", "ema": "stage2", "peer": "stage2"}
    settings["data"]["augment"] |= {"mix": MIXED}
    settings["train"] |= {"ema_decay": 0.9, "clip_grad_norm": 1.0}
    if teacher is not None:
        tap = taps.get(teacher.get("kind", ""), "res2")
        settings["teacher"] = teacher
        settings["objective"]["terms"] |= {
            "soft": {"kind": "soft_targets", "temperature": 2} | term,
            "hint": {"kind": "hint", "student_tap": "stage2", "teacher_tap": tap} | term,
        }
    return settings


def run(settings: dict[str, Any]) -> Path:
    return train(as_config(settings), device="cpu", insist=True, quiet=True).run_dir


def state_of(run_dir: Path, *keys: str, name: str = "last.pt") -> dict[str, torch.Tensor]:
    """All tensors below some entries of a checkpoint, or below all of them, by their path."""
    content = load_checkpoint(run_dir / name)
    content.pop("recipe")
    found: dict[str, torch.Tensor] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, torch.Tensor):
            found[path] = value
        elif isinstance(value, dict):
            for key, below in value.items():
                walk(below, f"{path}.{key}")

    for key in keys or content:
        walk(content[key], key)
    assert found
    return found


def assert_same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]
