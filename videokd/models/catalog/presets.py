"""`model: {preset: NAME, ...}` in a recipe: an entry's settings, with the other keys over them."""

from __future__ import annotations

from typing import Any

from videokd.config import laid_over
from videokd.errors import UserError
from videokd.models.catalog.catalog import entry

PRESET_KEY = "preset"


def with_preset(settings: Any) -> Any:
    """The plain settings of a model with its preset, if it names one, written out.

    `{preset: x3d_s, input: {crop_px: 160}}` is the entry x3d_s with another crop: mappings are
    merged key by key, other values replaced, and a mapping of another `kind` is replaced whole.

    Raises:
        ValueError: no entry of that name, or a `kind` beside it.
    """
    if not isinstance(settings, dict) or PRESET_KEY not in settings:
        return settings
    changes = {key: value for key, value in settings.items() if key != PRESET_KEY}
    name = settings[PRESET_KEY]
    if not isinstance(name, str):
        raise ValueError(f"preset is the name of a network, see `videokd models`, not {name!r}")
    try:
        found = entry(name)
    except UserError as error:
        raise ValueError(f"preset: {error}") from None
    if "kind" in changes:
        raise ValueError(
            f"preset {name!r} is of kind {found.settings['kind']!r} and says all of it; give "
            "preset or kind, not both"
        )
    return laid_over(dict(found.settings), changes)
