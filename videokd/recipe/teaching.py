"""From a recipe's `teacher:` to what the loop asks: checkpoints loaded, inputs and taps known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videokd.data.index import Index
from videokd.data.loading import CachedEpochs, TeacherInput
from videokd.data.loading.clips import TEACHER
from videokd.data.sampling import TeacherView, WholeVideo
from videokd.distill.ensemble import combined_tap_shapes
from videokd.engine.teaching import Claim, CombinedTeaching, EmaTeacher, OnlineTeacher, Teaching
from videokd.errors import UserError
from videokd.files import file_digest, read_text
from videokd.models.video_model import Frozen, VideoModel
from videokd.recipe.cached import cached_teachers, open_cache, views_of
from videokd.recipe.config import RunConfig
from videokd.recipe.placebo import shuffled_within_class, with_random_weights
from videokd.recipe.teachers import (
    Cacheable,
    CheckpointTeacher,
    EmaTeacherConfig,
    SeveralTeachers,
    TrainedTeacher,
    rendering_of,
    trained_teachers,
)
from videokd.recipe.trained import Trained, load_trained, recipe_of
from videokd.teacher_cache.reading import CachedTeacher
from videokd.types import ClassNames, TapShape

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_EVAL = "eval.json"


@dataclass(frozen=True, kw_only=True)
class TeacherParts:
    """What objective, loader and loop have to know of who teaches; by default, nobody does."""

    teaching: Teaching | None = None
    tap_shapes: Mapping[str, TapShape] | None = None
    """Of all its taps, after its views are merged."""
    pooled_dim: int | None = None
    attends: bool | None = None
    """Whether it has temporal attention weights; None: its first words will tell."""
    inputs: Mapping[str, TeacherInput] = field(default_factory=dict)
    """Rendering -> what has to be loaded for it."""
    identity: str | dict[str, str] | None = None
    """Digests of the files that it comes from, kept in checkpoints."""
    cached: CachedEpochs | None = None
    """For teachers whose outputs are on disk: what the loader has to know of them."""


def load_teacher(
    config: RunConfig, index: Index, fabric: Fabric, *, student: VideoModel | None = None
) -> TeacherParts:
    """Whoever teaches, ready to be asked; nobody where no term is on, and for a peer.

    Args:
        config: the recipe.
        index: whose classes a teacher must know.
        fabric: the device.
        student: with its first weights and all its taps; an average of its weights starts there.
            Nobody else needs it.

    Raises:
        UserError: a checkpoint that is missing or is of other classes.
    """
    if not config.uses_teacher:
        return TeacherParts()
    match config.teacher:
        case Cacheable(cache=Path() as folder):
            return _cached(config, folder, fabric)
        case CheckpointTeacher() as one:
            trained = load_trained(one.checkpoint)
            if one.placebo == "random_weights":
                trained = with_random_weights(trained, seed=config.seed)
            parts = _one(trained, one.view, TEACHER, config, index, fabric)
            if one.placebo == "shuffled_within_class" and parts.teaching is not None:
                shuffled = shuffled_within_class(
                    parts.teaching, num_classes=len(index.classes), fabric=fabric
                )
                return replace(parts, teaching=shuffled)
            return parts
        case SeveralTeachers() as several:
            return _several(several, config, index, fabric)
        case EmaTeacherConfig() as ema:
            decay = ema.decay or config.train.ema_decay
            assert decay is not None, "checked with the recipe"
            assert student is not None
            return TeacherParts(
                teaching=EmaTeacher(fabric, student, decay=decay),
                tap_shapes=student.tap_shapes,
                pooled_dim=student.pooled_dim,
                attends=student.attention is not None,
            )
        case _:
            return TeacherParts()


def teacher_inputs(config: RunConfig) -> dict[str, TeacherInput]:
    """Rendering -> what a teacher of the recipe wants to see, read from the checkpoints."""
    if not config.uses_teacher:
        return {}
    return {
        rendering: TeacherInput(_load(one, rendering).model.spec, one.view)
        for rendering, one in trained_teachers(config.teacher).items()
    }


def _load(teacher: TrainedTeacher, rendering: str) -> Trained:
    try:
        return load_trained(teacher.checkpoint)
    except UserError as error:
        name = rendering.removeprefix(rendering_of(""))
        if name == rendering:
            raise
        raise UserError(f"teacher.teachers.{name}: {error}") from None


def _one(
    trained: Trained,
    view: TeacherView,
    rendering: str,
    config: RunConfig,
    index: Index,
    fabric: Fabric,
) -> TeacherParts:
    if trained.classes != index.classes:
        raise UserError(
            f"{trained.path}: the teacher knows {_some(trained.classes)}, but {config.data.index} "
            f"has {_some(index.classes)}; a teacher of the same classes in the same order is needed"
        )
    _check_kind_of_labels(trained.path, trained.config, config)
    # Its clips of a video are put together, one after the other in time.
    num_clips = view.num_clips if isinstance(view, WholeVideo) else 1
    shapes = trained.model.tap_shapes
    return TeacherParts(
        teaching=OnlineTeacher(
            fabric,
            Frozen(trained.model),
            rendering=rendering,
            source=str(trained.path),
            claim=_claim(trained),
        ),
        tap_shapes={name: shape._replace(t=shape.t * num_clips) for name, shape in shapes.items()},
        pooled_dim=trained.model.pooled_dim,
        attends=trained.model.attention is not None,
        inputs={rendering: TeacherInput(trained.model.spec, view)},
        identity=file_digest(trained.path),
    )


def _check_kind_of_labels(teacher: Path, trained_by: RunConfig, config: RunConfig) -> None:
    """Logits of a softmax say nothing a class at a time, and the other way round."""
    objective, theirs = config.objective, trained_by.objective
    name = next((name for name, term in objective.active_terms.items() if term.reads_logits), None)
    if name is None or theirs.is_multi_label == objective.is_multi_label:
        return
    one, several = "one label a video", "several labels a video"
    taught, wanted = (several, one) if theirs.is_multi_label else (one, several)
    raise UserError(
        f"{teacher}: the teacher was trained for {taught} and this recipe is for {wanted}, so "
        f"its logits say nothing to objective.terms.{name}; give the term weight 0 and learn from "
        "features, or train such a teacher"
    )


def _cached(config: RunConfig, folder: Path, fabric: Fabric) -> TeacherParts:
    """What teachers said when the cache was made; only their recipes are read."""
    cache = open_cache(config, folder)
    for one in cached_teachers(config).values():
        _check_kind_of_labels(one.checkpoint, recipe_of(one.checkpoint), config)
    teacher, views = cache.manifest.teacher, views_of(config)
    return TeacherParts(
        teaching=CachedTeacher(cache, device=fabric.device),
        tap_shapes=teacher.tap_shapes,
        pooled_dim=teacher.pooled_dim,
        inputs={name: TeacherInput(spec, views[name]) for name, spec in teacher.inputs.items()},
        identity={"cache": cache.digest(config.train.epochs)},
        cached=CachedEpochs(cache.manifest.num_epochs, cache.unreadable),
    )


def _several(
    settings: SeveralTeachers, config: RunConfig, index: Index, fabric: Fabric
) -> TeacherParts:
    parts = {
        name: _one(_load(one, rendering), one.view, rendering, config, index, fabric)
        for name, one in settings.teachers.items()
        for rendering in [rendering_of(name)]
    }
    return TeacherParts(
        teaching=CombinedTeaching(
            {name: part.teaching for name, part in parts.items() if part.teaching is not None},
            how=settings.combine,
            weights=settings.weights,
        ),
        tap_shapes=combined_tap_shapes(
            {name: part.tap_shapes or {} for name, part in parts.items()}
        ),
        # They stand one after the other: features of different networks have no common axes.
        pooled_dim=sum(part.pooled_dim or 0 for part in parts.values()),
        inputs={key: given for part in parts.values() for key, given in part.inputs.items()},
        identity={name: str(part.identity) for name, part in parts.items()},
    )


def _claim(trained: Trained) -> Claim | None:
    """What is known of these very weights: of the validation that chose them, or of `eval.json`."""
    best = trained.state.get("best")
    if best is not None and best["step"] == trained.state["step"]:
        return Claim(best["top1_pct"], trained.config.data.val_split or "validation")
    return _evaluated(trained.path.parent / _EVAL, step=trained.state["step"])


def _evaluated(path: Path, *, step: int) -> Claim | None:
    """An evaluation of ours of the weights at this step; anything else tells nothing of them."""
    if not path.is_file():
        return None
    try:
        document: Any = json.loads(read_text(path))
        if document["checkpoint_step"] != step:
            return None
        return Claim(float(document["top1_pct"]), str(document["split"]))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def _some(classes: ClassNames) -> str:
    shown = ", ".join(list(classes)[:3])
    return f"{len(classes)} classes ({shown}{', ...' if len(classes) > 3 else ''})"
