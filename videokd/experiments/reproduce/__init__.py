"""Published numbers against ours: sizes counted, accuracies measured."""

from videokd.experiments.reproduce.accuracy import Given, reproduce_accuracy
from videokd.experiments.reproduce.complexity import reproduce_complexity
from videokd.experiments.reproduce.result import Outcome, Status, format_outcomes
from videokd.experiments.reproduce.tables import (
    Table,
    TableRow,
    all_tables,
    find_tables,
    load_table,
    tables_folder,
)

__all__ = [
    "Given",
    "Outcome",
    "Status",
    "Table",
    "TableRow",
    "all_tables",
    "find_tables",
    "format_outcomes",
    "load_table",
    "reproduce_accuracy",
    "reproduce_complexity",
    "tables_folder",
]
