"""Recipes for networks of some twenty thousand weights on the tiny embedded data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videokd.config import parse_config
from videokd.data.index import Index

SPEC = {
    "sampling": {"kind": "dense", "num_frames": 4, "stride": 2},
    "short_side_px": 32,
    "crop_px": 32,
}
"""What the tiny student sees of 12 frames of 32 px."""

TEACHER_SPEC = SPEC | {"sampling": {"kind": "dense", "num_frames": 8, "stride": 1}}


def student_settings(**changes: Any) -> dict[str, Any]:
    """A timm network of some 20 thousand weights with temporal shift and dropout."""
    return {
        "kind": "timm",
        "backbone": "resnet10t",
        "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 4},
        "temporal": {"kind": "shift"},
        "dropout": 0.2,
        "input": SPEC,
    } | changes


def teacher_settings() -> dict[str, Any]:
    """A 3D network from pytorchvideo's blocks, as small as they go."""
    return {
        "kind": "slow",
        "stage_depths": [1, 1],
        "width": 4,
        "stem_kernel_px": 3,
        "stem_pool": False,
        "stage_strides_px": [1, 2],
        "stage_frames": [1, 3],
        "stage_mid_frames": [1, 1],
        "stage_strides_frames": [1, 1],
        "dropout": 0.0,
        "input": TEACHER_SPEC,
    }


def recipe(index: Index | Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A control's recipe: two epochs of three steps."""
    return {
        "role": "control",
        "seed": 3,
        "data": {
            "index": str(index.path if isinstance(index, Index) else index),
            "num_workers": 0,
            "augment": {"flip": {"probability": 0.5, "swaps": FLIP_SWAPS}},
        },
        "model": student_settings(),
        "objective": {"terms": {"labels": {"kind": "cross_entropy", "label_smoothing": 0.1}}},
        "train": {
            "epochs": 2,
            "batch_size": 8,
            "optim": {"lr": 0.01, "warmup_epochs": 0.5},
            "log_every_steps": 1,
            "tensorboard": False,
        },
        "output_dir": str(out),
    } | changes


FLIP_SWAPS = [
    ["translate_left", "translate_right"],
    ["rotate_cw", "rotate_ccw"],
    ["orbit_cw", "orbit_ccw"],
]


def teacher_recipe(index: Index | Path, out: Path, **changes: Any) -> dict[str, Any]:
    """The teacher's: one epoch."""
    base = recipe(index, out, role="teacher", model=teacher_settings())
    base["train"] = base["train"] | {"epochs": 1}
    return base | changes


def student_recipe(index: Index | Path, out: Path, teacher: Path, **changes: Any) -> dict[str, Any]:
    """A distilled student's, with every kind of term."""
    terms = {
        "labels": {"kind": "cross_entropy", "weight": 0.1, "label_smoothing": 0.1},
        "soft": {"kind": "soft_targets", "weight": 0.9, "temperature": 4},
        "hint": {"kind": "hint", "weight": 1, "student_tap": "stage2", "teacher_tap": "res2"},
        "where": {
            "kind": "attention_transfer",
            "weight": 10,
            "pairs": [{"student_tap": "stage3", "teacher_tap": "res3"}],
        },
        "when": {
            "kind": "temporal_attention",
            "weight": 1,
            "student_tap": "stage3",
            "teacher_tap": "res3",
        },
    }
    base = recipe(index, out, role="student")
    base["objective"] = {"terms": terms}
    base["teacher"] = {"checkpoint": str(teacher)}
    base["train"] = base["train"] | {"ema_decay": 0.9, "clip_grad_norm": 1.0}
    return base | changes


def as_config(settings: dict[str, Any]) -> Any:
    """The `RunConfig` of such a recipe."""
    from videokd.recipe import RunConfig

    return parse_config(RunConfig, settings, source="test recipe")
