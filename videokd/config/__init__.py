"""Typed settings: YAML loading, composition, overrides, and errors that name the dotted path.

This room knows no field of ours. Each other room declares its own `Config`; `recipe` puts them
together. YAML here is plain data: no tags, no interpolation, no code.
"""

from videokd.config.base import (
    LEAVES_WEIGHTS,
    Config,
    DefaultKind,
    LeavesWeights,
    dump_yaml,
    paths_that_leave_weights,
)
from videokd.config.checking import did_you_mean, parse_config
from videokd.config.reading import BASE_KEY, laid_over, load_config, parse_overrides, read_yaml

__all__ = [
    "BASE_KEY",
    "LEAVES_WEIGHTS",
    "Config",
    "DefaultKind",
    "LeavesWeights",
    "did_you_mean",
    "dump_yaml",
    "laid_over",
    "load_config",
    "parse_config",
    "parse_overrides",
    "paths_that_leave_weights",
    "read_yaml",
]
