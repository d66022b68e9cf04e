from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from videokd.bench.complexity import Traffic, count_complexity, count_traffic
from videokd.bench.latency import BenchSetting, Session, in_rounds, in_setting
from videokd.bench.latency import roofline as roofline_module
from videokd.bench.latency import session as session_module
from videokd.bench.latency.buffers import Buffers
from videokd.bench.latency.roofline import (
    Ceilings,
    fixed_part_ms,
    measure_ceilings,
    roofline,
)

CPU = torch.device("cpu")
CEILINGS = Ceilings(peak_gmacs_s=100.0, bandwidth_gib_s=10.0)
GIB = 2**30


def never() -> float:
    raise AssertionError("not needed")


@pytest.mark.parametrize(
    ("gmacs", "unfused_gib", "p50_ms", "fixed_ms", "limited_by"),
    [
        (1.0, 0.05, 15.0, None, "compute"),  # 10 ms of arithmetic, 5 of layers
        (1.0, 0.2, 25.0, None, "memory"),  # 20 ms of layers
        (1.0, 0.2, 15.0, None, "memory"),  # caches served it: faster than its layers
        (1.0, 0.05, 20.0, None, "compute"),  # just half
        (1.0, 0.05, 21.0, 10.5, "overhead"),
        (1.0, 0.05, 21.0, 10.4, "kernels"),
    ],
)
def test_what_limits_a_batch(gmacs, unfused_gib, p50_ms, fixed_ms, limited_by):
    found = roofline(
        CEILINGS,
        gmacs=gmacs,
        traffic=Traffic(unfused_bytes=int(unfused_gib * GIB), min_bytes=int(0.01 * GIB)),
        p50_ms=p50_ms,
        fixed_ms=never if fixed_ms is None else lambda: fixed_ms,
    )
    assert found.limited_by == limited_by
    assert found.fixed_ms == fixed_ms
    assert found.compute_ms == pytest.approx(10.0)
    assert found.memory_ms == pytest.approx(1.0, rel=1e-6)
    assert found.layers_ms == pytest.approx(100 * unfused_gib, rel=1e-6)
    assert found.floor_ms == found.compute_ms
    assert found.reached_part == pytest.approx(10.0 / p50_ms)


def test_the_floor_is_the_larger_of_the_two():
    traffic = Traffic(unfused_bytes=GIB, min_bytes=GIB // 2)
    found = roofline(CEILINGS, gmacs=1.0, traffic=traffic, p50_ms=60.0, fixed_ms=never)
    assert (found.compute_ms, found.memory_ms) == (pytest.approx(10.0), pytest.approx(50.0))
    assert found.floor_ms == found.memory_ms
    assert found.reached_part == pytest.approx(50 / 60)
    assert found.limited_by == "memory"


@given(st.floats(0, 100), st.floats(0.001, 100), st.integers(1, 64), st.integers(1, 64))
def test_the_fixed_part_of_a_straight_line_is_where_it_meets_zero(fixed, slope, batch, other):
    assume(batch != other)
    found = fixed_part_ms(batch, fixed + slope * batch, other, fixed + slope * other)
    assert found == pytest.approx(fixed, abs=1e-6)


def test_the_fixed_part_is_no_more_than_all_and_no_less_than_nothing():
    assert fixed_part_ms(1, 10.0, 2, 9.0) == 10.0
    assert fixed_part_ms(1, 10.0, 2, 30.0) == 0.0


def test_ceilings_are_the_best_size_and_measured_once(monkeypatch):
    roofline_module._measured.cache_clear()
    asked: list[tuple[str, int]] = []

    def gmacs_s(side, device, dtype):
        asked.append(("matrix", side))
        return {512: 50.0, 1024: 80.0, 2048: 70.0}[side]

    def conv_gmacs_s(channels, device, dtype):
        asked.append(("conv", channels))
        return {128: 20.0, 256: 60.0, 512: 90.0}[channels]

    def gib_s(num_bytes, device):
        asked.append(("copy", num_bytes))
        return num_bytes / 2**26

    monkeypatch.setattr(roofline_module, "_gmacs_s", gmacs_s)
    monkeypatch.setattr(roofline_module, "_conv_gmacs_s", conv_gmacs_s)
    monkeypatch.setattr(roofline_module, "_gib_s", gib_s)
    monkeypatch.setattr(roofline_module, "last_level_cache_bytes", lambda device: 2**26)
    monkeypatch.setattr(roofline_module, "free_memory_bytes", lambda device: 2**40)
    try:
        assert measure_ceilings(CPU, "fp32") == Ceilings(90.0, 4.0)
        assert len(asked) == 8
        measure_ceilings(CPU, "fp32")
        assert len(asked) == 8
        measure_ceilings(CPU, "bf16")
        assert len(asked) == 16
        with in_setting(BenchSetting(threads=torch.get_num_threads() + 1), CPU):
            measure_ceilings(CPU, "bf16")
        assert len(asked) == 24
    finally:
        roofline_module._measured.cache_clear()


def test_rates_are_work_over_the_median_time(monkeypatch):
    times = iter([3.0, 1.0, 2.0, 9.0, 2.0, 1.0, 2.0] * 4)  # the median is 2 ms
    monkeypatch.setattr(roofline_module, "time_once", lambda run, given, device: next(times))
    assert roofline_module._gmacs_s(100, CPU, "fp32") == pytest.approx(1e6 / 1e9 / 0.002)
    assert roofline_module._conv_gmacs_s(10, CPU, "fp32") == pytest.approx(
        32 * 28 * 28 * 100 / 1e9 / 0.002
    )
    # In the same time the triad moves three arrays, the copy two.
    assert roofline_module._gib_s(4096, CPU) == pytest.approx(3 * 4096 / 2**30 / 0.002)


def test_the_measured_ceilings_of_this_machine_are_sane(monkeypatch):
    monkeypatch.setattr(roofline_module, "_MATRIX_SIDES", {"cpu": (256, 384)})
    monkeypatch.setattr(roofline_module, "_CONV_CHANNELS", {"cpu": (64,)})
    monkeypatch.setattr(roofline_module, "_copied_bytes", lambda device: [2**24])
    roofline_module._measured.cache_clear()
    try:
        found = measure_ceilings(CPU, "fp32")
    finally:
        roofline_module._measured.cache_clear()
    assert 0.1 < found.peak_gmacs_s < 1e6
    assert 0.1 < found.bandwidth_gib_s < 1e5


class Slow(nn.Module):
    """Some arithmetic, and a wait that the batch has no part in, or that grows with it."""

    def __init__(self, fixed_s: float, per_clip_s: float) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.fixed_s, self.per_clip_s = fixed_s, per_clip_s

    def forward(self, clips: Tensor) -> Tensor:
        import time

        if not clips.is_meta:
            time.sleep(self.fixed_s + self.per_clip_s * len(clips))
        return self.head(clips.mean((2, 3, 4)))


@pytest.mark.parametrize(
    ("fixed_s", "per_clip_s", "limited_by"), [(0.02, 0.0, "overhead"), (0.0, 0.02, "kernels")]
)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_wait_is_overhead_only_where_it_does_not_grow_with_the_batch(
    fixed_s, per_clip_s, limited_by, batch, monkeypatch
):
    monkeypatch.setattr(session_module, "measure_ceilings", lambda device, dtype: CEILINGS)
    monkeypatch.setattr("videokd.bench.latency.buffers.last_level_cache_bytes", lambda device: 1)
    model, setting = Slow(fixed_s, per_clip_s), BenchSetting(batch=batch, threads=1)
    with in_setting(setting, CPU), torch.inference_mode():
        session = Session(model, setting, num_frames=2, crop_px=8, buffers=Buffers(CPU))
        in_rounds([session], num_runs=6, num_warmup=0)
        found = session.roofline(6e-9, num_runs=3)
    assert found.limited_by == limited_by
    traffic = count_traffic(model, num_frames=2, crop_px=8, batch=batch)
    assert found.layers_ms == pytest.approx(traffic.unfused_bytes / (10 * GIB) * 1000)
    assert found.compute_ms == pytest.approx(1000 * batch * 6e-9 / 100)
    assert count_complexity(model, num_frames=2, crop_px=8).gmacs == pytest.approx(6e-9)
    assert found.reached_part == pytest.approx(found.floor_ms / session.latency.p50)
    assert math.isfinite(found.fixed_ms)
