"""Every teacher and student by name, with what was published about it."""

from __future__ import annotations

from videokd.models.catalog.catalog import CATALOG, entry
from videokd.models.catalog.nouns import ModelEntry, Published, PublishedFile

__all__ = ["CATALOG", "ModelEntry", "Published", "PublishedFile", "entry"]
