"""`cache.json`: what a cache is of, what its rows hold, and how far it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from videokd.config import Config, parse_config
from videokd.errors import ConfigError, UserError
from videokd.files import read_text, write_text
from videokd.teacher_cache.contents import Contents
from videokd.types import InputSpec, TapShape

MANIFEST = "cache.json"
VERSION = 1
"""Raised when the meaning of a file changes; caches of another version are refused."""
Plain = dict[str, Any]


class TeacherSide(Config):
    """What a student's run has to know of the teacher without loading it."""

    inputs: dict[str, InputSpec]
    """Rendering -> what the teacher wants to see; draws depend on it."""
    tap_shapes: dict[str, TapShape]
    """Of all its taps, those too that are not kept."""
    pooled_dim: int
    precision: str
    """What it was computed in, and on what."""


class Manifest(Config):
    """The content of `cache.json`."""

    version: int = VERSION
    made_of: Plain
    """All that decides draws and teacher, as plain data; a run whose own differs is refused."""
    student_input: InputSpec
    """Of the draws: with it and `teacher.inputs` they can be rendered again."""
    index: str
    """Path of the index when the cache was made."""
    teacher: TeacherSide
    contents: Contents
    num_epochs: int = Field(ge=1)
    steps_per_epoch: int = Field(ge=1)
    steps_per_chunk: int = Field(ge=1)
    command: str
    """What to type for this cache."""

    @property
    def chunks_per_epoch(self) -> int:
        """The last one may be shorter."""
        return -(-self.steps_per_epoch // self.steps_per_chunk)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `cache.json`, whole or not at all."""
    write_text(folder / MANIFEST, json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """The `cache.json` of a folder.

    Raises:
        UserError: there is none, or one of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder}: no cache of a teacher (it has no {MANIFEST}); make one with `videokd cache`"
        )
    try:
        content = json.loads(read_text(path))
        version = content["version"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path}: not a cache of ours; choose another folder") from None
    if version != VERSION:
        raise UserError(
            f"{path}: version {version!r}, this one reads {VERSION}; make the cache again"
        )
    try:
        return parse_config(Manifest, content, source=str(path))
    except ConfigError as error:
        raise UserError(f"{error}; make the cache again") from None


def first_difference(mine: Any, theirs: Any, where: str = "") -> str:
    """Where plain data differ, in a clause; empty where they do not."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in dict.fromkeys([*mine, *theirs]):
            path = f"{where}.{key}" if where else str(key)
            if said := first_difference(mine.get(key), theirs.get(key), path):
                return said
        return ""
    if mine == theirs:
        return ""
    return f"{where} is {_short(mine)} here and {_short(theirs)} there"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
