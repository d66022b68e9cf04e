"""The settings of `teacher:`: who teaches, one class a `kind`.

```yaml
teacher: {checkpoint: runs/teacher, view: {kind: same_frames}}            # kind: checkpoint
teacher:
  kind: several
  teachers: {big: {checkpoint: runs/teacher}, assistant: {checkpoint: runs/assistant}}
  combine: confidence
teacher: {kind: ema, decay: 0.999}
teacher: {kind: peer}
```
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from videokd.config import Config, DefaultKind
from videokd.data.loading.clips import TEACHER
from videokd.data.sampling import SameFrames, TeacherView
from videokd.distill.ensemble import Combination
from videokd.first_weights import InitConfig
from videokd.models.zoo import ModelConfig

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class TrainedTeacher(Config):
    """A trained network and what it sees."""

    checkpoint: Path
    """A run folder (its best.pt is taken) or a .pt file of ours."""
    view: TeacherView = Field(default_factory=SameFrames)
    """What the teacher sees of the student's video."""


class Cacheable(Config):
    """What a teacher has whose outputs do not depend on the student's training."""

    cache: Path | None = None
    """A folder that `videokd cache` made of this recipe: what the teacher says is read from there
    and the teacher is not run. null: it is run on each batch."""
    cache_reuse: bool = False
    """A cache of fewer epochs than `train.epochs` is used in turn: the draws of its epochs, order
    and mixing with them, come again."""

    @model_validator(mode="after")
    def _reuse_is_of_a_cache(self) -> Cacheable:
        if self.cache_reuse and self.cache is None:
            raise ValueError("cache_reuse is for a cache; give teacher.cache, or leave it out")
        return self


class CheckpointTeacher(TrainedTeacher, Cacheable):
    """One trained network, frozen: the usual case, and what a `teacher:` without `kind` is."""

    kind: Literal["checkpoint"] = "checkpoint"
    placebo: Literal["shuffled_within_class", "random_weights"] | None = None
    """For experiments, a teacher that should not help: `shuffled_within_class`, each clip has the
    logits of another clip of its class (taps stay); `random_weights`, the network untrained, which
    the check before the first step refuses without `videokd train --insist`."""

    @model_validator(mode="after")
    def _placebo_is_run(self) -> CheckpointTeacher:
        if self.placebo is not None and self.cache is not None:
            raise ValueError("a placebo is not cached; remove teacher.cache or teacher.placebo")
        return self


class SeveralTeachers(Cacheable):
    """Several trained networks of the same classes, frozen, whose logits are put together.

    Terms on taps name the teacher that they learn from: `teacher_tap: NAME.TAP`.
    """

    kind: Literal["several"] = "several"
    teachers: dict[str, TrainedTeacher]
    """Name -> teacher, at least two."""
    combine: Combination = "mean"
    """How their logits become one: `mean`; `weighted`, by `weights`; `confidence`, for each clip by
    how well each teacher knows its label (without one, by how sure each teacher is); not for
    multi-label."""
    weights: dict[str, float] | None = None
    """Name -> weight, at least 0, for `weighted`; they are divided by their sum."""

    @model_validator(mode="after")
    def _names_and_weights(self) -> SeveralTeachers:
        if len(self.teachers) < 2:
            raise ValueError("several are at least two; a single teacher is of kind: checkpoint")
        for name in self.teachers:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot name a teacher: use letters, digits and '_'")
        if (self.combine == "weighted") != (self.weights is not None):
            raise ValueError("weights are for combine: weighted, which needs them")
        if self.weights is None:
            return self
        if set(self.weights) != set(self.teachers):
            raise ValueError(
                f"weights are of {', '.join(self.weights)}, the teachers are "
                f"{', '.join(self.teachers)}; give each teacher a weight"
            )
        if min(self.weights.values()) < 0 or sum(self.weights.values()) <= 0:
            raise ValueError("weights must be at least 0, and one of them above")
        return self


class EmaTeacherConfig(Config):
    """The student teaches itself: an exponential moving average of its own weights, on its own
    clips, in eval mode (Mean Teacher, Tarvainen & Valpola, NeurIPS 2017)."""

    kind: Literal["ema"] = "ema"
    decay: float | None = Field(default=None, gt=0, lt=1)
    """Of the average that teaches; null: `train.ema_decay`."""


class PeerTeacher(Config):
    """A second network that is trained at the same time; each is the other's teacher.

    Deep mutual learning (Zhang et al., CVPR 2018). Both minimise the recipe's objective, on the
    same clips, and are updated at once, each from what the other said before the update; the
    paper's algorithm updates one, and the other from what that then says. The student is what is
    validated and kept.
    """

    kind: Literal["peer"] = "peer"
    model: ModelConfig | None = None
    """The other network; null: of the recipe's own settings."""
    init: InitConfig = Field(default_factory=InitConfig)
    """Where its first weights come from; without `weights` they are random, and others than the
    student's."""


def rendering_of(name: str) -> str:
    """What one of several teachers is shown."""
    return f"{TEACHER}.{name}"


def _cache_is_of_a_frozen_one(value: Any) -> Any:
    """Others have no such setting; this says why."""
    if not isinstance(value, dict):
        return value
    if value.get("kind") in ("ema", "peer") and value.get("cache") is not None:
        raise ValueError(
            f"a teacher of kind {value['kind']} changes with every step, so there is nothing to "
            "cache; remove teacher.cache"
        )
    return value


TeacherConfig = Annotated[
    CheckpointTeacher | SeveralTeachers | EmaTeacherConfig | PeerTeacher,
    Field(discriminator="kind"),
    DefaultKind("checkpoint"),
    BeforeValidator(_cache_is_of_a_frozen_one),
]


def trained_teachers(teacher: TeacherConfig | None) -> dict[str, TrainedTeacher]:
    """Rendering -> the teacher that it is for, of those that are trained before the student is."""
    match teacher:
        case CheckpointTeacher() as one:
            return {TEACHER: one}
        case SeveralTeachers(teachers=several):
            return {rendering_of(name): one for name, one in several.items()}
        case _:
            return {}
