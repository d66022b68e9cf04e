"""Typed settings: YAML loading, composition, overrides, and errors that name the dotted path.

This module knows no field of ours. Each room declares its own `Config`; `recipe.py` puts them
together. YAML here is plain data: no tags, no interpolation, no code.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from videokd.errors import ConfigError

BASE_KEY = "base"
"""A recipe may name other recipes under this key; its own keys are laid over theirs."""
_IDENTITIES = ("kind", "preset")
"""Keys that say what a mapping is of; the others mean something for that alone."""
_MAX_SHOWN = 32
"""Names in an error where none is near: more would no longer be one line to read."""

ConfigT = TypeVar("ConfigT", bound="Config")


@dataclass(frozen=True)
class LeavesWeights:
    """Marks a field, as `Annotated[int, LEAVES_WEIGHTS]`: whatever it says, the same run gets
    bit-identical weights. Runs that differ in nothing else are the same run."""


LEAVES_WEIGHTS = LeavesWeights()


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
    return parse_config(config_type, read_yaml(path, overrides), source=str(path))


def read_yaml(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file as a plain dict, with its `base:` files below it and overrides above it.

    Mappings are merged key by key; anything else is replaced. A mapping of another `kind` or
    `preset` replaces the one below as a whole: the settings of one mean nothing to another.
    """
    data = _with_overrides(_read_with_bases(Path(path), seen=()), overrides)
    _refuse_interpolation(data, source=str(path))
    return data


def _with_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"override {override!r} is not of the form key=value, for example train.lr=1e-3"
            )
        try:
            data = laid_over(data, _plain(OmegaConf.from_dotlist([override])))
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
            raise ConfigError(
                f"override {override!r} cannot be applied: {_first_line(error)}"
            ) from None
    return data


def laid_over(below: Any, above: Any) -> Any:
    """Plain data over other plain data: mappings merged key by key, anything else replaced.

    A mapping that names another `kind` or `preset` than the one below replaces it.
    """
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    held, named = (
        {key: data[key] for key in _IDENTITIES if key in data} for data in (below, above)
    )
    if held and named and held != named:
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = laid_over(merged[key], value) if key in merged else value
    return merged


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
        raise ConfigError(_explain(error, config_type, data, source)) from None


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


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
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
        merged = laid_over(merged, _read_with_bases(path.parent / name, (*seen, resolved)))
    return dict(laid_over(merged, data))


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


def _explain(error: ValidationError, config_type: type[Config], data: Any, source: str) -> str:
    """One line for the first fault, and how many more there are."""
    faults = error.errors(include_url=False)
    # An unknown key first: it is often the cause of the others ("field required").
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    path = _dotted_path(fault["loc"], data, _all_tags(config_type), given=fault.get("input"))
    kind = fault["type"]
    if kind == "extra_forbidden":
        known = _known_keys(config_type, fault["loc"][:-1])
        text = f"unknown key {path!r}; {did_you_mean(str(fault['loc'][-1]), known)}"
    elif kind == "missing":
        text = f"{path}: a value is required here and none is given"
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        context = fault.get("ctx", {})
        key = str(context.get("discriminator", "kind")).strip("'")
        tags = str(context.get("expected_tags", ""))
        given = f"{context['tag']!r} is not known" if "tag" in context else "it is missing"
        text = f"{path}.{key}: {given}" + (f"; allowed: {tags}" if tags else "")
    else:
        message = fault["msg"].removeprefix("Value error, ")
        value, shown = fault.get("input"), repr(fault.get("input"))
        # A check of several settings says itself which it means.
        given = f" (given {shown})" if len(shown) <= 80 and not isinstance(value, dict) else ""
        text = f"{path}: {message}{given}" if path else f"{message}{given}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{source}: {text}{more}"


def _dotted_path(loc: Sequence[int | str], data: Any, tags: Collection[Any], *, given: Any) -> str:
    """The path as the user wrote it: pydantic puts union tags into `loc`, a recipe has none."""
    parts: list[str] = []
    after_tag = False
    for position, piece in enumerate(loc):
        is_last = position == len(loc) - 1
        after_tag = not after_tag and _is_tag(piece, data, tags, given, is_last=is_last)
        if after_tag:
            continue
        parts.append(str(piece))
        if isinstance(data, dict):
            data = data.get(piece)
        elif isinstance(data, list) and isinstance(piece, int) and piece < len(data):
            data = data[piece]
    return ".".join(parts)


def _is_tag(
    piece: int | str, data: Any, tags: Collection[Any], given: Any, *, is_last: bool
) -> bool:
    """Whether a piece of `loc` is the tag of a discriminated union, and not a key of `data`."""
    if not isinstance(data, dict):
        return False
    if piece not in data:
        return not is_last or piece in data.values()
    # A key of the same name, with a plain value: there is nothing below it, and a fault of its own
    # would be of that value, not of the settings around it.
    is_plain = not isinstance(data[piece], dict | list)
    return piece in tags and is_plain and (not is_last or isinstance(given, dict))


def _known_keys(config_type: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The keys that are allowed at `loc`, found by walking the types of the fields."""
    candidates: list[Any] = [config_type]
    for piece in loc:
        following: list[Any] = []
        for candidate in candidates:
            if piece in candidate.model_fields:
                following.extend(_models_in(candidate.model_fields[piece].annotation))
        if following:
            candidates = following
        else:  # a union tag or a list position: the models stay, those with another tag go
            tagged = [c for c in candidates if piece in _tags(c)]
            candidates = tagged or candidates
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _models_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType, list, tuple, dict):
        return [model for arg in get_args(annotation) for model in _models_in(arg)]
    return []


def _all_tags(config_type: type[BaseModel]) -> set[Any]:
    """Those of all models that stand anywhere below one."""
    waiting, found = [config_type], set()
    while waiting:
        model = waiting.pop()
        if model not in found:
            found.add(model)
            for field in model.model_fields.values():
                waiting += _models_in(field.annotation)
    return {tag for model in found for tag in _tags(model)}


def _tags(model: type[BaseModel]) -> set[Any]:
    field = model.model_fields.get("kind")
    return set(get_args(field.annotation)) if field is not None else set()
