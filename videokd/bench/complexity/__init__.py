"""Parameters, multiply-adds and memory traffic of a network, counted on the `meta` device."""

from videokd.bench.complexity.conventions import (
    CONVENTIONS,
    DESCRIPTIONS,
    Convention,
    convention_named,
)
from videokd.bench.complexity.count import (
    Complexity,
    Count,
    ModuleRow,
    Traffic,
    count_complexity,
    count_operations,
    count_traffic,
    logits_of,
    untapped,
)
from videokd.bench.complexity.table import format_by_module, rows_to_depth

__all__ = [
    "CONVENTIONS",
    "DESCRIPTIONS",
    "Complexity",
    "Convention",
    "Count",
    "ModuleRow",
    "Traffic",
    "convention_named",
    "count_complexity",
    "count_operations",
    "count_traffic",
    "format_by_module",
    "logits_of",
    "rows_to_depth",
    "untapped",
]
