"""Which costs the picture shows accuracy against: as few panels as tell everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from videokd.bench.report.pareto import Point, cost_points, gmacs_points, latency_points
from videokd.bench.result import BenchmarkResult, Setting

_MAX_TIMED_POINTS = 10
"""Of several settings in one panel; beyond, only the setting that most networks share is drawn."""


class Panel(NamedTuple):
    """Accuracy against one cost."""

    points: list[Point]
    title: str


def panels_of(results: Sequence[BenchmarkResult]) -> list[Panel]:
    """Multiply-adds per video and latency; where there is more to tell, more panels.

    Per view where some network has several views; a panel each for CPU and GPU where both were
    measured; then parameters too.
    """
    work = [Panel(gmacs_points(results), "Multiply-adds per video, GMACs (log scale)")]
    if any(result.num_views > 1 for result in results):
        points = cost_points(results, lambda result: result.gmacs_per_view)
        work.append(Panel(points, "Multiply-adds per view, GMACs (log scale)"))
    kinds = list(dict.fromkeys(_device_kind(result) for result in results))
    latency = [_latency_panel(results, kind, alone=len(kinds) == 1) for kind in kinds]
    if len(work) + len(latency) == 2:
        return [*work, *latency]
    params = Panel(
        cost_points(results, lambda result: result.params_m), "Parameters, M (log scale)"
    )
    return [*work, params, *latency]


def _latency_panel(results: Sequence[BenchmarkResult], kind: str, *, alone: bool) -> Panel:
    of_kind = [result for result in results if _device_kind(result) == kind]
    title = "Latency" if alone else f"{_DEVICE_NAMES.get(kind, kind)} latency"
    detail = ""
    if len(of_kind) > _MAX_TIMED_POINTS and len({result.setting for result in of_kind}) > 1:
        setting = _most_shared(of_kind)
        of_kind = [result for result in of_kind if result.setting == setting]
        detail = ", " + str(setting).removeprefix(f"{setting.device}, ")
    return Panel(latency_points(of_kind), f"{title} p50, ms per batch{detail} (log scale)")


_DEVICE_NAMES = {"cpu": "CPU", "cuda": "GPU"}


def _device_kind(result: BenchmarkResult) -> str:
    """`cpu` or `cuda`."""
    return result.device.partition(":")[0]


def _most_shared(results: Sequence[BenchmarkResult]) -> Setting:
    """The setting of most rows; the first of them where several are."""
    counted = Counter(result.setting for result in results)
    return counted.most_common(1)[0][0]
