"""What a recipe says of a cache of its teacher's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videokd.data.sampling import TeacherView
from videokd.errors import ConfigError, UserError
from videokd.first_weights import checkpoint_file
from videokd.recipe.config import RunConfig
from videokd.recipe.teachers import (
    Cacheable,
    CheckpointTeacher,
    EmaTeacherConfig,
    PeerTeacher,
    TrainedTeacher,
    trained_teachers,
)
from videokd.teacher_cache.identity import made_of
from videokd.teacher_cache.reading import TeacherCache
from videokd.teacher_cache.wanted import wanted_by


def cache_identity(config: RunConfig) -> dict[str, Any]:
    """All that decides what is in a cache for this recipe, as plain data; see `made_of`.

    Raises:
        ConfigError: a teacher that changes while the student learns.
        UserError: no such checkpoint.
    """
    teachers = cached_teachers(config)
    assert config.teacher is not None
    paths = {"cache", "cache_reuse", "checkpoint"}
    settings = config.teacher.model_dump(mode="json", exclude=paths)
    for one in settings.get("teachers", {}).values():
        one.pop("checkpoint")  # its digest stands beside it
    return made_of(
        seed=config.seed,
        data=config.data,
        batch_size=config.train.batch_size,
        student=config.model.input,
        teacher=settings,
        teacher_files={name: checkpoint_file(one.checkpoint) for name, one in teachers.items()},
    )


def open_cache(config: RunConfig, folder: Path) -> TeacherCache:
    """The cache that a recipe names, refused where it does not serve the recipe.

    Raises:
        UserError: it was made with another recipe, teacher or index, does not hold what the terms
            read, or has too few epochs.
    """
    cache = TeacherCache(folder)
    cache.check(cache_identity(config), wanted_by(config.objective))
    assert isinstance(config.teacher, Cacheable)
    have, need = cache.manifest.num_epochs, config.train.epochs
    if have < need and not config.teacher.cache_reuse:
        raise UserError(
            f"{folder}: holds {have} epochs and train.epochs is {need}; make the others with "
            f"`videokd cache --epochs {need}`, which keeps what is there, or set "
            "teacher.cache_reuse to go through them in turn"
        )
    return cache


def cached_teachers(config: RunConfig) -> dict[str, TrainedTeacher]:
    """Rendering -> teacher that is run on it to make a cache.

    Raises:
        ConfigError: the recipe has none that could be run before the student is trained.
    """
    match config.teacher:
        case CheckpointTeacher(placebo=str() as placebo):
            raise ConfigError(f"teacher.placebo {placebo} is not cached; take the teacher itself")
        case None:
            raise ConfigError("there is nothing to cache: the recipe has no teacher")
        case EmaTeacherConfig() | PeerTeacher() as other:
            raise ConfigError(
                f"teacher.kind {other.kind} changes while the student learns, so nothing can be "
                "cached; cache a trained teacher (kind checkpoint or several)"
            )
        case trained:
            return trained_teachers(trained)


def views_of(config: RunConfig) -> dict[str, TeacherView]:
    """Rendering -> the moment that its teacher sees."""
    return {name: one.view for name, one in cached_teachers(config).items()}
