"""Results that were never measured, for what only arranges them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from videokd.bench.result import BenchmarkResult, Latency


@pytest.fixture
def make_result() -> Callable[..., BenchmarkResult]:
    def make(model: str = "net", role: str = "student", **changes: Any) -> BenchmarkResult:
        p50 = changes.pop("p50", 10.0)
        runs = changes.pop("runs", 100)
        fields: dict[str, Any] = {
            "params_m": 0.7,
            "gmacs_per_view": 0.12,
            "num_views": 1,
            "batch": 1,
            "num_frames": 8,
            "crop_px": 56,
            "dtype": "fp32",
            "mode": "eager",
            "device": "cpu: Some Processor",
            "latency_ms": Latency(p50, 1.1 * p50, 1.2 * p50, p50, 0.02, runs),
            "throughput_clips_s": 100.0,
            "top1_pct": 90.0,
            "top5_pct": 99.0,
            "top1_interval_pct": (85.0, 93.5),
            "num_videos": 240,
            "clocks": {"cpu_mhz": 2000.0},
            "versions": {"torch": "2.11.0"},
            "git_sha": "0" * 40,
        }
        fields |= changes
        fields.setdefault("gmacs_per_video", fields["gmacs_per_view"] * fields["num_views"])
        return BenchmarkResult(model=model, role=role, **fields)

    return make


@pytest.fixture
def story(make_result: Callable[..., BenchmarkResult]) -> list[BenchmarkResult]:
    """A teacher, and one network trained three ways."""
    return [
        make_result("slow", "teacher", gmacs_per_view=1.8, p50=60.0, top1_pct=97.0,
                    top1_interval_pct=(94.0, 98.5)),
        make_result("shift net", "control", p50=11.0, top1_pct=86.0,
                    top1_interval_pct=(81.0, 90.0)),
        make_result("shift net", "student", p50=11.5, top1_pct=93.0,
                    top1_interval_pct=(89.0, 95.6)),
        make_result("flat net", "no_temporal", p50=10.8, top1_pct=12.0, top5_pct=40.0,
                    top1_interval_pct=(8.4, 16.8)),
    ]  # fmt: skip
