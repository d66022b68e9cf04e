"""What stands where in settings, by the types of their fields: for merging, and for errors."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from videokd.config.base import DefaultKind


def types_at(types: Sequence[Any], piece: int | str) -> list[Any]:
    """Types of what stands under a key, or at a position of a list, in data of these types."""
    found: list[Any] = []
    for one in types:
        origin, args = get_origin(one), get_args(one)
        if isinstance(one, type) and issubclass(one, BaseModel):
            if piece in one.model_fields:
                found.append(one.model_fields[str(piece)].rebuild_annotation())
        elif origin in (Annotated, Union, UnionType):
            found += types_at(_members(one), piece)
        elif origin is dict:
            found.append(args[1])
        elif origin in (list, tuple) and isinstance(piece, int):
            found += [arg for arg in args if arg is not Ellipsis]
    return found


def models_in(types: Sequence[Any]) -> list[type[BaseModel]]:
    """The settings among these types, those of unions too."""
    found: list[type[BaseModel]] = []
    for one in types:
        if isinstance(one, type) and issubclass(one, BaseModel):
            found.append(one)
        else:
            found += models_in(_members(one))
    return found


def default_kind(types: Sequence[Any]) -> str | None:
    """The kind of a mapping of these types that names none."""
    for one in types:
        marks = get_args(one)[1:] if get_origin(one) is Annotated else ()
        named = [mark.kind for mark in marks if isinstance(mark, DefaultKind)]
        default = named[0] if named else default_kind(_members(one))
        if default is not None:
            return default
    return None


def needed_by(model: type[BaseModel]) -> list[str]:
    """Its fields without a default."""
    return [name for name, field in model.model_fields.items() if field.is_required()]


def kinds_of(model: type[BaseModel]) -> tuple[Any, ...]:
    """The values that its `kind` may have, by which a union knows it."""
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field is not None else ()


def _members(one: Any) -> Sequence[Any]:
    """What a union is of, or a type with its marks taken off."""
    if get_origin(one) is Annotated:
        return get_args(one)[:1]
    return get_args(one) if get_origin(one) in (Union, UnionType) else ()
