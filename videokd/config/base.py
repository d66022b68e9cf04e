"""What settings are: `Config`, and the marks that a field or a union may have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


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
