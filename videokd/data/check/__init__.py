"""The data set's doctor: what is wrong with an index and its files, and what they are made of.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from videokd.data.check.files import check_files
from videokd.data.check.findings import TITLES, CheckReport, Finding
from videokd.data.check.sides import find_imbalance, find_leaks
from videokd.data.check.statistics import statistics_of
from videokd.data.check.text import format_report
from videokd.data.index import read_index

__all__ = ["TITLES", "CheckReport", "Finding", "check_index", "format_report"]


def check_index(
    path: Path | str,
    *,
    num_processes: int = 1,
    quick: bool = False,
    time_limit_seconds: float = 120.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Look for everything that is wrong with an index and the files that it names.

    Args:
        path: the index CSV.
        num_processes: processes that decode; with `quick`, threads that read.
        quick: compare files by size and digest only. Copies in other containers, and files that
            did not decode when they were indexed as they do now, are not found.
        time_limit_seconds: how long one file may take to decode.
        on_progress: called with (files done, files in all).

    Raises:
        UserError: the index itself cannot be read.
    """
    index = read_index(path)
    records = list(index.records)
    files = check_files(
        records,
        num_processes=num_processes,
        quick=quick,
        time_limit_seconds=time_limit_seconds,
        on_progress=on_progress,
    )
    findings = [
        *files.findings,
        *find_leaks(records, files.digests, files.contents),
        *find_imbalance(records, index.classes),
    ]
    order = {kind: rank for rank, kind in enumerate(TITLES)}
    findings.sort(key=lambda finding: (finding.severity != "error", order[finding.kind]))
    return CheckReport(
        index=index.path,
        num_videos=len(index),
        quick=quick,
        findings=tuple(findings),
        statistics=statistics_of(records, index.classes),
    )
