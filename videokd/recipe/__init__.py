"""The recipe of a run, and `build()`: the one place where names in a recipe meet code.

Below this room every object takes plain arguments; above it, everything has a `RunConfig`.
"""

from videokd.recipe.building import (
    build,
    build_with_teacher,
    check_clip_length,
    create_model,
    eval_loader,
    share_of_batch,
)
from videokd.recipe.config import Device, Role, RunConfig, load_recipe
from videokd.recipe.device import create_fabric, flush_denormals, use_device, use_threads
from videokd.recipe.teachers import TeacherConfig
from videokd.recipe.teaching import TeacherParts, teacher_inputs
from videokd.recipe.trained import Trained, load_trained, without_pretraining

__all__ = [
    "Device",
    "Role",
    "RunConfig",
    "TeacherConfig",
    "TeacherParts",
    "Trained",
    "build",
    "build_with_teacher",
    "check_clip_length",
    "create_fabric",
    "create_model",
    "eval_loader",
    "flush_denormals",
    "load_recipe",
    "load_trained",
    "share_of_batch",
    "teacher_inputs",
    "use_device",
    "use_threads",
    "without_pretraining",
]
