"""Typed settings: YAML loading, composition, overrides, and errors that name the dotted path.

This module knows no field of ours. Each room declares its own `Config`; `recipe.py` puts them
together. YAML here is plain data: no tags, no interpolation, no code.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from videokd.errors import ConfigError

BASE_KEY = "base"
"""A recipe may name other recipes under this key; its own keys are laid over theirs."""
_IDENTITIES = ("kind", "preset")
"""Keys that say what a mapping is of; the others mean something for that alone."""
_NOT_A_MAPPING = ("model_type", "model_attributes_type", "dict_type")
"""Faults of pydantic's for a plain value where a mapping belongs; its own words are of Python."""
_OVERRIDE_KEY = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[[^.\[\]]+\])*")
"""`a.b` or `a[b]`."""
_MAX_SHOWN = 32
"""Names in an error where none is near: more would no longer be one line to read."""

ConfigT = TypeVar("ConfigT", bound="Config")


@dataclass(frozen=True)
class LeavesWeights:
    """Marks a field, as `Annotated[int, LEAVES_WEIGHTS]`: whatever it says, the same run gets
    bit-identical weights. Runs that differ in nothing else are the same run."""


LEAVES_WEIGHTS = LeavesWeights()


@dataclass(frozen=True)
class DefaultKind:
    """Marks a union of settings, as `Annotated[..., DefaultKind("plain")]`: which of them a mapping
    without `kind` means, both when it is checked and when another is laid over it."""

    kind: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._named, handler(source))

    def _named(self, value: Any) -> Any:
        return {"kind": self.kind, **value} if isinstance(value, dict) else value


class Config(BaseModel):
    """Base of all settings: frozen, keyword-only, and it refuses keys that it does not know."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )


def load_config(
    config_type: type[ConfigT], path: Path | str, overrides: Sequence[str] = ()
) -> ConfigT:
    """Read a YAML recipe, lay `key.sub=value` overrides over it, and check every field.

    Raises:
        ConfigError: for a missing file, broken YAML, an unknown key (with the nearest known one),
            a wrong type or a value out of range; always with the dotted path of the field.
    """
    return parse_config(config_type, read_yaml(path, overrides, config_type), source=str(path))


def read_yaml(
    path: Path | str,
    overrides: Sequence[str] = (),
    config_type: type[BaseModel] | None = None,
) -> dict[str, Any]:
    """Read a YAML file as a plain dict, with its `base:` files below it and overrides above it.

    Mappings are merged key by key; anything else is replaced. A mapping of another `kind` or
    `preset` replaces the one below as a whole: the settings of one mean nothing to another.

    Args:
        path: of the file.
        overrides: `key.sub=value`. They are one change, whatever their order: a kind among them
            replaces what the file says, and nothing that another of them says. An inner key
            counts before the mapping around it, and of a key that is given twice the last.
        config_type: what the data is for, where kinds that it lets one leave out are to count.
    """
    data = _read_with_bases(Path(path), seen=(), config_type=config_type)
    data = _with_overrides(data, overrides, config_type)
    _refuse_interpolation(data, source=str(path))
    return data


def _with_overrides(
    data: dict[str, Any], overrides: Sequence[str], config_type: type[BaseModel] | None = None
) -> dict[str, Any]:
    """The overrides are put together first, outer keys before inner ones, then laid over `data`."""
    changes: dict[str, Any] = {}
    for path, value in sorted(map(_read_override, overrides), key=lambda one: len(one[0])):
        holder = changes
        for position, name in enumerate(path[:-1], start=1):
            if not isinstance(holder.get(name, {}), dict):
                # As in `terms=null terms.soft={...}`: what `data` has there goes.
                data = laid_over(data, _nested(path[:position], holder.pop(name)))
            holder = holder.setdefault(name, {})
        holder[path[-1]] = laid_over(holder.get(path[-1]), value)
    return dict(laid_over(data, changes, config_type))


def _read_override(override: str) -> tuple[list[str], Any]:
    """`a.b={c: 1}` as its path `[a, b]` and the value read as YAML."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    key, equals, _ = override.partition("=")
    if not equals or not key.strip() or not _OVERRIDE_KEY.fullmatch(key):
        raise ConfigError(
            f"override {override!r} is not of the form key=value, for example train.lr=1e-3"
        )
    try:
        value: Any = _plain(OmegaConf.from_dotlist([override]))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(
            f"override {override!r} cannot be applied: {_first_line(error)}"
        ) from None
    path: list[str] = []
    for _ in re.findall(r"[^.\[\]]+", key):
        [(name, value)] = value.items()
        path.append(name)
    return path, value


def _nested(path: Sequence[str], value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def laid_over(below: Any, above: Any, config_type: type[BaseModel] | None = None) -> Any:
    """Plain data over other plain data: mappings merged key by key, anything else replaced.

    A mapping that names another `kind` or `preset` than the one below replaces it. With the type
    that the data is for, one that has a `DefaultKind` and names none is of that kind: below,
    always; above, where it gives what that kind needs and the kind below does not know, and
    otherwise it is a change of what is below.
    """
    return _laid_over(below, above, [] if config_type is None else [config_type])


def _laid_over(below: Any, above: Any, types: Sequence[Any]) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if _is_another(below, above, types):
        return above
    merged = dict(below)
    for key, value in above.items():
        known = key in merged
        merged[key] = _laid_over(merged[key], value, _types_at(types, key)) if known else value
    return merged


def _is_another(below: dict[str, Any], above: dict[str, Any], types: Sequence[Any]) -> bool:
    """Whether the one above is of another kind or preset than the one below."""
    held, named = (
        {key: data[key] for key in _IDENTITIES if key in data} for data in (below, above)
    )
    default = _default_kind(types)
    if default is not None:
        held = held or {"kind": default}
        models = _models_in(types)
        needed = {name for model in models if default in _tags(model) for name in _needed(model)}
        for model in models:
            if held.get("kind") in _tags(model):
                needed -= set(model.model_fields)
        if not named and needed & set(above):
            named = {"kind": default}
    return bool(held and named and held != named)


def _plain(loaded: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    data = OmegaConf.to_container(loaded, resolve=False)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


def parse_config(config_type: type[ConfigT], data: Any, *, source: str) -> ConfigT:
    """Check plain data against a `Config`; `source` names it in errors."""
    try:
        return config_type.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, config_type, source)) from None


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1e-3", "c=[1,2]"]` as nested plain data, each value read as YAML.

    Raises:
        ConfigError: for an item that is not of the form key=value, or interpolation.
    """
    data = _with_overrides({}, overrides)
    _refuse_interpolation(data, source="settings")
    return data


def dump_yaml(config: Config, *, without: Collection[str] = ()) -> str:
    """The settings as YAML, every field written out, so that nothing depends on later defaults.

    Args:
        config: the settings.
        without: dotted paths of fields that are left out.
    """
    data = config.model_dump(mode="json")
    for path in without:
        *above, name = path.split(".")
        holder = data
        for part in above:
            holder = holder[part]
        del holder[name]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def paths_that_leave_weights(config_type: type[BaseModel]) -> list[str]:
    """Dotted paths of the fields marked `LEAVES_WEIGHTS`, those of nested settings too."""
    paths = []
    for name, field in config_type.model_fields.items():
        if LEAVES_WEIGHTS in field.metadata:
            paths.append(name)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            paths += [f"{name}.{path}" for path in paths_that_leave_weights(field.annotation)]
    return paths


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


def _read_with_bases(
    path: Path, seen: tuple[Path, ...], config_type: type[BaseModel] | None
) -> dict[str, Any]:
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(str(p) for p in (*seen, resolved))
        raise ConfigError(f"{path}: recipes name each other as `{BASE_KEY}` in a circle: {chain}")
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe file; give the path of a YAML file")
    try:
        own = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not readable as YAML: {_first_line(error)}") from None
    if not isinstance(own, DictConfig):
        raise ConfigError(f"{path}: a recipe is a mapping of settings, not a list")
    data = _plain(own)
    bases = data.pop(BASE_KEY, [])
    names = [bases] if isinstance(bases, str) else bases
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: {BASE_KEY} is a path or a list of paths, not {bases!r}")
    merged: dict[str, Any] = {}
    for name in names:
        base = _read_with_bases(path.parent / name, (*seen, resolved), config_type)
        merged = laid_over(merged, base, config_type)
    return dict(laid_over(merged, data, config_type))


def _refuse_interpolation(value: Any, source: str, where: str = "") -> None:
    if isinstance(value, str) and "${" in value:
        raise ConfigError(
            f"{source}: {where}: {value!r} looks like interpolation, which recipes do not have; "
            "write the value itself"
        )
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    for key, item in items:
        _refuse_interpolation(item, source, f"{where}.{key}" if where else str(key))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:2]) or type(error).__name__


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
        known = sorted({key for model in _models_in(around) for key in model.model_fields})
        text = f"unknown key {'.'.join([*parts, name])!r}; {did_you_mean(name, known)}"
    elif kind == "missing":
        text = f"{'.'.join(parts)}: a value is required here and none is given"
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        context = fault.get("ctx", {})
        key = str(context.get("discriminator", "kind")).strip("'")
        tags = ", ".join(repr(tag) for model in _models_in(types) for tag in _tags(model))
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
    models = _models_in(types)
    if not models:
        return "such as {name: ...}"
    kinds = [tag for model in models for tag in _tags(model)] if len(models) > 1 else []
    if given in kinds:
        return f"such as {{kind: {given}}}"
    default = _default_kind(types)
    plain = [model for model in models if not kinds or default in _tags(model)]
    needed = [name for model in plain for name in _needed(model)]
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
        models = _models_in(types)
        tagged = [model for model in models if piece in _tags(model)]
        if len(models) > 1 and tagged:
            types = list(tagged)
        elif below := _types_at(types, piece):
            parts.append(str(piece))
            types = below
    return parts, types


def _types_at(types: Sequence[Any], piece: int | str) -> list[Any]:
    """Types of what stands under a key, or at a position of a list, in data of these types."""
    found: list[Any] = []
    for one in types:
        origin, args = get_origin(one), get_args(one)
        if isinstance(one, type) and issubclass(one, BaseModel):
            if piece in one.model_fields:
                found.append(one.model_fields[str(piece)].rebuild_annotation())
        elif origin in (Annotated, Union, UnionType):
            found += _types_at(_members(one), piece)
        elif origin is dict:
            found.append(args[1])
        elif origin in (list, tuple) and isinstance(piece, int):
            found += [arg for arg in args if arg is not Ellipsis]
    return found


def _models_in(types: Sequence[Any]) -> list[type[BaseModel]]:
    """The settings among these types, those of unions too."""
    found: list[type[BaseModel]] = []
    for one in types:
        if isinstance(one, type) and issubclass(one, BaseModel):
            found.append(one)
        else:
            found += _models_in(_members(one))
    return found


def _default_kind(types: Sequence[Any]) -> str | None:
    """The kind of a mapping of these types that names none."""
    for one in types:
        marks = get_args(one)[1:] if get_origin(one) is Annotated else ()
        named = [mark.kind for mark in marks if isinstance(mark, DefaultKind)]
        default = named[0] if named else _default_kind(_members(one))
        if default is not None:
            return default
    return None


def _members(one: Any) -> Sequence[Any]:
    """What a union is of, or a type with its marks taken off."""
    if get_origin(one) is Annotated:
        return get_args(one)[:1]
    return get_args(one) if get_origin(one) in (Union, UnionType) else ()


def _needed(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field is not None else ()
