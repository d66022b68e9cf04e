"""What the chart of the page is drawn from: points, roles, and the axes to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from videokd.bench.report.pareto import Network, networks
from videokd.bench.report.picture import role_styles
from videokd.bench.report.tables import number, percent_text
from videokd.bench.result import BenchmarkResult, Interval


class Axis(NamedTuple):
    """A cost that accuracy can be drawn against."""

    key: str
    group: str
    label: str
    """In the list, below the name of its group."""
    title: str
    """Under the chart."""
    detail: str
    """The setting (device, dtype, batch) that it was measured in; "" where there is none."""
    less_is_better: bool


_COST = "Size and work"
_FIXED = (
    Axis("gmacs_per_video", _COST, "multiply-adds per video",
         "Multiply-adds per video, GMACs", "", less_is_better=True),
    Axis("gmacs_per_view", _COST, "multiply-adds per view",
         "Multiply-adds per view, GMACs", "", less_is_better=True),
    Axis("params_m", _COST, "parameters", "Parameters, M", "", less_is_better=True),
)  # fmt: skip


def chart_data(
    results: Sequence[BenchmarkResult], *, chance_pct: float | None = None
) -> dict[str, Any] | None:
    """Plain data for JSON, one point a network; None where no accuracy was measured."""
    drawn = [network for network in networks(results) if network.first.top1_pct is not None]
    if not drawn:
        return None
    styles = role_styles([result.role for result in results])
    roles = dict.fromkeys(network.first.role for network in drawn)
    return {
        "axes": [axis._asdict() for axis in (*_FIXED, *_timed_axes(drawn))],
        "points": [_point(network) for network in drawn],
        "roles": {
            role: {"name": role.replace("_", " ")} | styles[role]._asdict() for role in roles
        },
        "chance_pct": chance_pct,
    }


def _timed_axes(drawn: Sequence[Network]) -> list[Axis]:
    settings = dict.fromkeys(str(row.setting) for network in drawn for row in network.results)
    latency = [
        Axis(f"latency: {text}", "Latency p50", f"latency, {text}",
             "Latency p50, ms per batch", text, less_is_better=True)
        for text in settings
    ]  # fmt: skip
    throughput = [
        Axis(f"throughput: {text}", "Throughput", f"throughput, {text}",
             "Throughput, clips/s", text, less_is_better=False)
        for text in settings
    ]  # fmt: skip
    return [*latency, *throughput]


def _point(network: Network) -> dict[str, Any]:
    first = network.first
    values: dict[str, Any] = {
        axis.key: {
            "value": getattr(first, axis.key),
            "text": number(getattr(first, axis.key)),
            "command": first.command,
        }
        for axis in _FIXED
    }
    for result in reversed(network.results):  # of two in one setting, the first counts
        quick = f", quick form ({result.latency_ms.runs} runs)" if result.quick else ""
        latency = f"{number(result.latency_ms.p50)} ms (p95 {number(result.latency_ms.p95)}){quick}"
        timed = {
            "latency": (result.latency_ms.p50, latency),
            "throughput": (result.throughput_clips_s, number(result.throughput_clips_s) + quick),
        }
        for kind, (value, text) in timed.items():
            values[f"{kind}: {result.setting}"] = {
                "value": value,
                "text": text,
                "command": result.command,
            }
    return {
        "name": network.name,
        "model": first.model,
        "role": first.role,
        "values": values,
        "top1": _accuracy(first.top1_pct, first.top1_interval_pct),
        "top5": _accuracy(first.top5_pct, first.top5_interval_pct),
        "facts": _facts(network),
        "protocol": first.protocol,
        "command": first.command,
    }


def _accuracy(value: float | None, interval: Interval | None) -> list[float] | None:
    """[value, low, high]."""
    if value is None:
        return None
    return [value, *(interval or (value, value))]


def _facts(network: Network) -> list[tuple[str, str]]:
    """What the tooltip says whatever the axis."""
    first = network.first
    facts = [("Top-1", f"{percent_text(first.top1_pct, first.top1_interval_pct)} %")]
    if first.top5_pct is not None:
        facts.append(("Top-5", f"{percent_text(first.top5_pct, first.top5_interval_pct)} %"))
    work = f"{number(first.gmacs_per_video)} GMACs per video"
    if first.num_views > 1:
        work += f" ({first.num_views} views of {number(first.gmacs_per_view)})"
    facts += [
        ("Videos", str(first.num_videos)),
        ("Work", work),
        ("Parameters", f"{number(first.params_m)} M"),
        ("Input", f"{first.num_frames} frames of {first.crop_px} px"),
    ]
    for kind, name in (("cpu", "CPU latency"), ("cuda", "GPU latency")):
        for row in network.results:
            if row.device.partition(":")[0] == kind:
                setting = str(row.setting).removeprefix(f"{row.device}, ")
                facts.append((name, f"{number(row.latency_ms.p50)} ms ({setting})"))
                break
    return facts
