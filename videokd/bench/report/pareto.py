"""Accuracy against cost: the points, and the front of those that nothing beats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from videokd.bench.result import BenchmarkResult, Interval


@dataclass(frozen=True, slots=True)
class Point:
    """One network in one panel."""

    label: str
    role: str
    cost: float
    accuracy_pct: float
    interval_pct: Interval | None
    group: str
    """Only costs of one group can be compared; each has its own front."""


def pareto_front(points: Sequence[tuple[float, float]]) -> set[int]:
    """The indices of the points (cost, accuracy) that no other point beats.

    A point is beaten by one that costs no more and is at least as accurate, and is better in one of
    the two. Equal points stay together.
    """
    front: set[int] = set()
    best_accuracy = float("-inf")
    best_cost = float("inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        cost, accuracy = points[index]
        if accuracy > best_accuracy:
            best_cost, best_accuracy = cost, accuracy
            front.add(index)
        elif (cost, accuracy) == (best_cost, best_accuracy):
            front.add(index)
    return front


@dataclass(frozen=True)
class Network:
    """One network with all its latencies: one point, whatever it was timed in."""

    name: str
    results: tuple[BenchmarkResult, ...]
    """At least one; they differ in their settings only."""

    @property
    def first(self) -> BenchmarkResult:
        """For all that is the same in every setting."""
        return self.results[0]


def networks(results: Sequence[BenchmarkResult]) -> list[Network]:
    """The networks in the results, in the order of their first rows."""
    found: dict[tuple[object, ...], list[BenchmarkResult]] = {}
    names: dict[tuple[object, ...], str] = {}
    for result, name in zip(results, _names(results), strict=True):
        key = tuple(getattr(result, field) for field in _SAME_NETWORK)
        found.setdefault(key, []).append(result)
        names[key] = name
    return [Network(names[key], tuple(rows)) for key, rows in found.items()]


_SAME_NETWORK = (
    "model", "role", "gmacs_per_view", "num_views", "num_frames", "crop_px",
    "top1_pct", "top5_pct", "num_videos", "protocol",
)  # fmt: skip


def gmacs_points(results: Sequence[BenchmarkResult]) -> list[Point]:
    """Accuracy over GMACs a video: once a network, in however many settings it was timed."""
    return cost_points(results, lambda result: result.gmacs_per_video)


def cost_points(
    results: Sequence[BenchmarkResult], cost: Callable[[BenchmarkResult], float]
) -> list[Point]:
    """Accuracy over a cost that a network has in every setting, once a network."""
    return [
        _point(network.first, network.name, cost(network.first), group="")
        for network in networks(results)
        if network.first.top1_pct is not None
    ]


def latency_points(results: Sequence[BenchmarkResult]) -> list[Point]:
    """Accuracy over the p50 of a batch; settings that differ are groups, and named in the label."""
    points = []
    for result, name in zip(results, _names(results), strict=True):
        if result.top1_pct is not None:
            own = own_setting(result, results)
            label = f"{name}, {own}" if own else name
            points.append(_point(result, label, result.latency_ms.p50, group=str(result.setting)))
    return points


def _point(result: BenchmarkResult, label: str, cost: float, *, group: str) -> Point:
    assert result.top1_pct is not None
    return Point(label, result.role, cost, result.top1_pct, result.top1_interval_pct, group)


def _names(results: Sequence[BenchmarkResult]) -> list[str]:
    """The network's name, with its role before it where another role has the same network."""
    roles = {r.model: {other.role for other in results if other.model == r.model} for r in results}
    return [
        result.model
        if len(roles[result.model]) == 1 or result.role == result.model
        else f"{result.role.replace('_', ' ')}: {result.model}"
        for result in results
    ]


_SETTING_WORDS = {"batch": "batch {}", "threads": "threads {}"}


def own_setting(result: BenchmarkResult, results: Sequence[BenchmarkResult]) -> str:
    """Those parts of a result's setting that not all results share; "" where all are shared."""
    words = []
    for name, own in result.setting._asdict().items():
        if len({getattr(other.setting, name) for other in results}) > 1:
            words.append(_SETTING_WORDS.get(name, "{}").format("-" if own is None else own))
    return " ".join(words)
