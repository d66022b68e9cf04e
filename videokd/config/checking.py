"""Plain data checked against settings, and what is wrong with it in one line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from videokd.config.base import Config
from videokd.config.shape import default_kind, kinds_of, models_in, needed_by, types_at
from videokd.errors import ConfigError

_NOT_A_MAPPING = ("model_type", "model_attributes_type", "dict_type")
"""Faults of pydantic's for a plain value where a mapping belongs; its own words are of Python."""
_MAX_SHOWN = 32
"""Names in an error where none is near: more would no longer be one line to read."""
ConfigT = TypeVar("ConfigT", bound="Config")


def parse_config(config_type: type[ConfigT], data: Any, *, source: str) -> ConfigT:
    """Check plain data against a `Config`; `source` names it in errors."""
    try:
        return config_type.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, config_type, source)) from None


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A clause for an error: the nearest known name whatever its case, or the first of them all."""
    by_folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean {by_folded[near[0]]!r}?"
    if not known:
        return "nothing is allowed here"
    shown = ", ".join(sorted(known)[:_MAX_SHOWN])
    return f"known: {shown}" + (f", ... ({len(known)})" if len(known) > _MAX_SHOWN else "")


def _explain(error: ValidationError, config_type: type[Config], source: str) -> str:
    """One line for the first fault, and how many more there are."""
    faults = error.errors(include_url=False)
    # An unknown key first: it is often the cause of the others ("field required").
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    kind, value = fault["type"], fault.get("input")
    parts, types = _place(config_type, fault["loc"])
    if kind == "extra_forbidden":
        _, around = _place(config_type, fault["loc"][:-1])
        name = str(fault["loc"][-1])
        known = sorted({key for model in models_in(around) for key in model.model_fields})
        text = f"unknown key {'.'.join([*parts, name])!r}; {did_you_mean(name, known)}"
    elif kind == "missing":
        text = f"{'.'.join(parts)}: a value is required here and none is given"
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        context = fault.get("ctx", {})
        key = str(context.get("discriminator", "kind")).strip("'")
        tags = ", ".join(repr(tag) for model in models_in(types) for tag in kinds_of(model))
        given = f"{context['tag']!r} is not known" if "tag" in context else "it is missing"
        text = f"{'.'.join([*parts, key])}: {given}" + (f"; allowed: {tags}" if tags else "")
    else:
        message = fault["msg"].removeprefix("Value error, ")
        if kind in _NOT_A_MAPPING:
            message = f"Input should be a mapping {_form(types, value)}"
        elif kind == "path_type":
            message = "Input should be a path, written as text"
        # A check of several settings says itself which it means.
        shown = repr(value)
        given = f" (given {shown})" if len(shown) <= 80 and not isinstance(value, dict) else ""
        text = f"{'.'.join(parts)}: {message}{given}" if parts else f"{message}{given}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{source}: {text}{more}"


def _form(types: Sequence[Any], given: Any) -> str:
    """What the mapping that belongs here looks like, in an error about a plain value."""
    models = models_in(types)
    if not models:
        return "such as {name: ...}"
    kinds = [tag for model in models for tag in kinds_of(model)] if len(models) > 1 else []
    if given in kinds:
        return f"such as {{kind: {given}}}"
    default = default_kind(types)
    plain = [model for model in models if not kinds or default in kinds_of(model)]
    needed = [name for model in plain for name in needed_by(model)]
    if kinds:
        forms = ([_braces(needed)] if needed else []) + [_braces(["kind"])]
        return f"such as {' or '.join(forms)}; kinds: {', '.join(kinds)}"
    if needed:
        return f"such as {_braces(needed)}"
    return f"of settings; {did_you_mean(str(given), list(models[0].model_fields))}"


def _braces(names: Sequence[str]) -> str:
    return "{" + ", ".join(f"{name}: ..." for name in names) + "}"


def _place(config_type: type[BaseModel], loc: Sequence[int | str]) -> tuple[list[str], list[Any]]:
    """The path as the user wrote it, and the types of what belongs there.

    pydantic puts the tag or the name of a union's member into `loc`; a recipe has none there.
    """
    parts: list[str] = []
    types: list[Any] = [config_type]
    for piece in loc:
        models = models_in(types)
        tagged = [model for model in models if piece in kinds_of(model)]
        if len(models) > 1 and tagged:
            types = list(tagged)
        elif below := types_at(types, piece):
            parts.append(str(piece))
            types = below
    return parts, types
