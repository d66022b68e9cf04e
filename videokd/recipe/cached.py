"""What a recipe says of a cache of its teacher's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videokd.checkpoint import BEST
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
    rendering_of,
    trained_teachers,
)
from videokd.teacher_cache.identity import made_of
from videokd.teacher_cache.reading import TeacherCache
from videokd.teacher_cache.wanted import wanted_by


def cache_identity(config: RunConfig) -> dict[str, Any]:
    """All that decides what is in a cache for this recipe, as plain data; see `made_of`.

    Raises:
        ConfigError: a teacher that changes while the student learns.
        UserError: a checkpoint is not there any more.
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
        teacher_files={name: _known_by(name, one) for name, one in teachers.items()},
    )


def _known_by(rendering: str, teacher: TrainedTeacher) -> Path:
    """The file whose digest stands for a teacher; who trains from a cache may think that it is
    not needed any more."""
    path = teacher.checkpoint
    if path.is_file() or (path / BEST).is_file():
        return checkpoint_file(path)
    file = path if path.suffix == ".pt" else path / BEST
    name = rendering.removeprefix(rendering_of(""))
    where = "teacher.checkpoint" if name == rendering else f"teacher.teachers.{name}.checkpoint"
    raise UserError(
        f"{where}: {file} is not there, and a cache is known to be of this teacher by the digest "
        f"of that file; bring it back, or set {where} to a copy of it"
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
