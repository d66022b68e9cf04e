"""YAML files and overrides as plain data, one laid over the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from videokd.config.checking import ConfigT, parse_config
from videokd.config.shape import default_kind, kinds_of, models_in, needed_by, types_at
from videokd.errors import ConfigError

BASE_KEY = "base"
"""A recipe may name other recipes under this key; its own keys are laid over theirs."""
_IDENTITIES = ("kind", "preset")
"""Keys that say what a mapping is of; the others mean something for that alone."""
_OVERRIDE_KEY = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[[^.\[\]]+\])*")
"""`a.b` or `a[b]`."""


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


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1e-3", "c=[1,2]"]` as nested plain data, each value read as YAML.

    Raises:
        ConfigError: for an item that is not of the form key=value, or interpolation.
    """
    data = _with_overrides({}, overrides)
    _refuse_interpolation(data, source="settings")
    return data


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
        merged[key] = _laid_over(merged[key], value, types_at(types, key)) if known else value
    return merged


def _is_another(below: dict[str, Any], above: dict[str, Any], types: Sequence[Any]) -> bool:
    """Whether the one above is of another kind or preset than the one below."""
    held, named = (
        {key: data[key] for key in _IDENTITIES if key in data} for data in (below, above)
    )
    default = default_kind(types)
    if default is not None:
        held = held or {"kind": default}
        models = models_in(types)
        needed = {
            name for model in models if default in kinds_of(model) for name in needed_by(model)
        }
        for model in models:
            if held.get("kind") in kinds_of(model):
                needed -= set(model.model_fields)
        if not named and needed & set(above):
            named = {"kind": default}
    return bool(held and named and held != named)


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


def _plain(loaded: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    data = OmegaConf.to_container(loaded, resolve=False)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


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
