"""Placebos for a frozen teacher: what a student gains from one it did not learn from a teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from videokd.engine.placebo import ShuffledWithinClass
from videokd.engine.teaching import Teaching
from videokd.errors import ConfigError
from videokd.models.zoo import create_video_model
from videokd.recipe.trained import Trained, without_pretraining

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_SEED_OF_RANDOM_TEACHERS = 3
"""Sets their weights apart from other uses of the same seed."""


def with_random_weights(trained: Trained, *, seed: int) -> Trained:
    """The same network before any training; each seed of a recipe has weights of its own."""
    sequence = np.random.SeedSequence([seed, _SEED_OF_RANDOM_TEACHERS])
    model = create_video_model(
        without_pretraining(trained.config.model),
        num_classes=len(trained.classes),
        seed=int(sequence.generate_state(1)[0]),
    )
    nothing_learnt = {**trained.state, "step": 0, "best": None}
    return replace(trained, model=model.eval(), state=nothing_learnt)


def shuffled_within_class(teaching: Teaching, *, num_classes: int, fabric: Fabric) -> Teaching:
    """The same teacher, each clip with its words on another clip of the class.

    Raises:
        ConfigError: several processes; each would have a memory of its own, and one is kept.
    """
    if fabric.world_size > 1:
        raise ConfigError(
            "teacher.placebo shuffled_within_class is for one process; start it without torchrun"
        )
    return ShuffledWithinClass(teaching, num_classes=num_classes, device=fabric.device)
