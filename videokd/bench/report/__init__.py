"""A study as its readers see it: tables, pictures, and one page of HTML; see `write_report`."""

from videokd.bench.report.pareto import pareto_front
from videokd.bench.report.tables import (
    Section,
    confusion_section,
    markdown_table,
    print_results,
    results_table,
)
from videokd.bench.report.writing import ReportPaths, write_report

__all__ = [
    "ReportPaths",
    "Section",
    "confusion_section",
    "markdown_table",
    "pareto_front",
    "print_results",
    "results_table",
    "write_report",
]
