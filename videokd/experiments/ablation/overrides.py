"""Settings that are written as `dotted.path: value`, laid over plain recipes, and their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from videokd.config import laid_over, paths_that_leave_weights
from videokd.recipe.config import RunConfig

Overrides = Mapping[str, Any]
"""Dotted path -> plain value."""


def nested(overrides: Overrides) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`; a later key is laid over an earlier one."""
    found: dict[str, Any] = {}
    for path, value in overrides.items():
        for part in reversed(path.split(".")):
            value = {part: value}
        found = laid_over(found, value)
    return found


def with_overrides(settings: dict[str, Any], layers: Iterable[Overrides]) -> dict[str, Any]:
    """Plain settings with each layer laid over what is below it."""
    for layer in layers:
        settings = laid_over(settings, nested(layer))
    return settings


def value_at(settings: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path, None where nothing does."""
    found: Any = settings
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def settings_digest(settings: dict[str, Any], replaced: Overrides) -> str:
    """SHA-256 of what decides a run's weights, 16 hex digits.

    It is taken of what the files say and not of the settings after all defaults: a setting that is
    new in a later version does not make every finished run another one's.

    Args:
        settings: of a run.
        replaced: dotted path of what is read -> digest of what makes it, wherever it lies.
    """
    paths = {**dict.fromkeys(paths_that_leave_weights(RunConfig)), **replaced}
    said = with_overrides(settings, [{path: value} for path, value in paths.items()])
    return digest_of(said)


def digest_of(plain: Any) -> str:
    """SHA-256 of plain data, 16 hex digits; 1 and 1.0 are the same."""
    text = json.dumps(_canonical(plain), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
