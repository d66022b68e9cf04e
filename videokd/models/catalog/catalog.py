"""All entries in one mapping."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from videokd.config import did_you_mean
from videokd.errors import UserError
from videokd.models.catalog.huggingface import HUGGINGFACE
from videokd.models.catalog.nouns import ModelEntry
from videokd.models.catalog.pytorchvideo import PYTORCHVIDEO_STUDENTS, PYTORCHVIDEO_TEACHERS
from videokd.models.catalog.students import STUDENTS
from videokd.models.catalog.torchvision import TORCHVISION

CATALOG: Mapping[str, ModelEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            *PYTORCHVIDEO_TEACHERS,
            *TORCHVISION,
            *HUGGINGFACE,
            *PYTORCHVIDEO_STUDENTS,
            *STUDENTS,
        )
    }
)
"""Name -> entry: teachers first, students after them."""


def entry(name: str) -> ModelEntry:
    """The entry of that name.

    Raises:
        UserError: there is none; with the nearest name.
    """
    if name not in CATALOG:
        raise UserError(f"no network is named {name!r}; {did_you_mean(name, list(CATALOG))}")
    return CATALOG[name]
