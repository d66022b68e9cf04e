from __future__ import annotations

import itertools
import statistics
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from videokd.bench import latency as latency_module
from videokd.bench.benchmark import benchmark_model
from videokd.bench.latency import (
    is_stable,
    measure_latency,
    relative_error,
    summarize,
    throughput_clips_s,
)
from videokd.errors import UserError

SIZES = {"num_frames": 4, "crop_px": 8, "batch": 2, "device": "cpu"}


class Net(nn.Module):
    """A small 3D network that remembers, for all its copies, what it was called with."""

    calls: ClassVar[list[SimpleNamespace]] = []

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3)
        self.norm = nn.BatchNorm3d(4)
        self.head = nn.Linear(4, 5)
        self.scale = scale

    def forward(self, clips: Tensor) -> SimpleNamespace:
        Net.calls.append(
            SimpleNamespace(
                shape=tuple(clips.shape),
                dtype=clips.dtype,
                ptr=clips.data_ptr(),
                training=self.training,
                grad=torch.is_grad_enabled(),
            )
        )
        features = self.norm(self.conv(clips)).mean((2, 3, 4))
        return SimpleNamespace(logits=self.head(features) * self.scale)


@pytest.fixture
def net() -> Net:
    Net.calls.clear()
    torch.manual_seed(0)
    return Net()


times = st.lists(st.floats(0.01, 1e4), min_size=2, max_size=40)


@given(times)
def test_percentiles_are_those_of_the_standard_library(times_ms):
    found = summarize(times_ms)
    cuts = statistics.quantiles(times_ms, n=100, method="inclusive")
    assert found.p50 == pytest.approx(statistics.median(times_ms))
    assert found.p95 == pytest.approx(cuts[94])
    assert found.p99 == pytest.approx(cuts[98])
    assert found.mean == pytest.approx(statistics.fmean(times_ms))
    assert found.spread == pytest.approx((cuts[74] - cuts[24]) / cuts[49], abs=1e-9)
    assert found.runs == len(times_ms)


@given(times, st.integers(1, 64))
def test_throughput_is_batch_over_mean(times_ms, batch):
    expected = 1000 * batch / statistics.fmean(times_ms)
    assert throughput_clips_s(times_ms, batch) == pytest.approx(expected)


def test_the_summary_of_known_times():
    found = summarize([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.p50, found.mean, found.runs) == (3.0, 3.0, 5)
    assert found.p95 == pytest.approx(4.8)
    assert found.spread == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("times_ms", "stable"),
    [
        ([10.0] * 9, False),
        ([10.0] * 10, True),
        ([90.0, 50.0, 20.0] + [10.0] * 7, False),
        ([90.0] + [10.0] * 10, True),
        ([10.0] * 5 + [10.4] * 5, True),
        ([10.0] * 5 + [10.6] * 5, False),
        ([10.0] * 8 + [99.0, 99.0], True),
    ],
)
def test_warm_means_that_two_medians_agree(times_ms, stable):
    assert is_stable(times_ms) is stable


def test_runs_go_through_all_buffers_in_eval_and_inference_mode(net):
    found, _, peak_mem_gib = measure_latency(net, **SIZES, dtype="fp32", num_runs=12, num_warmup=0)
    assert found.runs == 12
    assert peak_mem_gib is None
    reference, check, timed = Net.calls[:4], Net.calls[4:8], Net.calls[8:]
    assert len(timed) == 12
    assert {call.shape for call in Net.calls} == {(2, 3, 4, 8, 8)}
    assert not any(call.training or call.grad for call in Net.calls)
    pointers = [call.ptr for call in timed]
    assert len(set(pointers[:4])) == 4
    assert pointers == pointers[:4] * 3
    assert [call.ptr for call in check] == [call.ptr for call in reference] == pointers[:4]


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_copy_is_cast_and_the_model_left_as_it_was(net, dtype, expected):
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    rng_state = torch.get_rng_state()
    measure_latency(net, **SIZES, dtype=dtype, num_runs=2, num_warmup=0)
    assert {call.dtype for call in Net.calls[4:]} == {expected}
    assert {call.dtype for call in Net.calls[:4]} == {torch.float32}
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert net.training
    assert net.norm.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == before[name].dtype


def test_throughput_and_latency_agree(net):
    found, clips_s, _ = measure_latency(net, **SIZES, dtype="fp32", num_runs=10, num_warmup=0)
    assert clips_s == pytest.approx(2 * 1000 / found.mean)


def test_warm_up_goes_on_until_the_times_hold_still(net, monkeypatch):
    told = itertools.chain([90.0, 50.0, 30.0, 20.0], itertools.repeat(10.0))
    monkeypatch.setattr(latency_module, "_time_on_cpu", lambda run, clips: next(told))
    seen: list[tuple[int, int, str]] = []
    found, *_ = measure_latency(
        net, **SIZES, dtype="fp32", num_runs=5, num_warmup=3, on_progress=lambda *s: seen.append(s)
    )
    # After 12 runs the five before the last five are 30, 20, 10, 10, 10: their median is 10 too.
    assert sum(note == "warm-up" for _, _, note in seen) == 12
    assert found == summarize([10.0] * 5)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert {total for _, total, _ in seen} == {8}
    assert seen[-1] == (8, 8, "10.0 ms")


def test_warm_up_ends_on_a_machine_that_never_settles(net, monkeypatch):
    told = itertools.count(1.0)
    monkeypatch.setattr(latency_module, "_time_on_cpu", lambda run, clips: 2.0 ** next(told))
    monkeypatch.setattr(latency_module, "MAX_WARMUP_SECONDS", 0.0)
    found, *_ = measure_latency(net, **SIZES, dtype="fp32", num_runs=1, num_warmup=3)
    assert found.p50 == 2.0**4


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"device": "tpu"}, "device 'tpu' is not known; allowed: cpu, cuda"),
        ({"device": "meta"}, "device 'meta' cannot be timed"),
        ({"device": "cuda:99"}, "device 'cuda:99': this machine has"),
        ({"batch": 0}, "batch 0, 10 runs"),
        ({"crop_px": 2}, None),
    ],
)
def test_settings_that_cannot_be_are_refused(net, changes, match):
    match = match or "the network does not run"
    with pytest.raises(UserError, match=match):
        measure_latency(net, **SIZES | changes, dtype="fp32", num_runs=10)


def test_logits_that_overflow_are_not_timed():
    with pytest.raises(UserError, match="logits in fp16, eager are not finite"):
        measure_latency(Net(scale=1e6), **SIZES, dtype="fp16", num_runs=2)


def test_logits_that_differ_from_fp32_are_not_timed():
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 2))

        def forward(self, clips: Tensor) -> Tensor:
            logits = clips.mean((2, 3, 4)) @ self.weight
            return logits if clips.dtype == torch.float32 else 0.8 * logits

    with pytest.raises(
        UserError, match=r"logits in bf16, eager lie 0\.2 .*at most 0\.1 is allowed"
    ):
        measure_latency(Fickle(), **SIZES, dtype="bf16", num_runs=2)


def test_a_network_that_needs_fp32_says_so_in_one_line():
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, clips: Tensor) -> Tensor:
            return self.head(clips.float().mean((2, 3, 4)))

    with pytest.raises(UserError, match=r"does not run in bf16, eager on clips \[2, 3") as caught:
        measure_latency(Stubborn(), **SIZES, dtype="bf16", num_runs=2)
    assert "\n" not in str(caught.value)


def test_the_error_is_measured_against_the_largest_logit():
    wanted = torch.tensor([[1.0, -4.0]])
    assert relative_error(wanted + torch.tensor([[0.0, 0.1]]), wanted) == pytest.approx(0.025)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0


def test_a_benchmark_is_stamped_and_says_when_it_was_quick(net):
    result = benchmark_model(
        net, name="net", role="student", num_frames=4, crop_px=8, num_views=3, batch=2, quick=True
    )
    assert (result.quick, result.latency_ms.runs, result.num_views) == (True, 10, 3)
    # 2 x 6 x 6 places, 27 x 3 read, 4 written, and the head.
    assert round(result.gmacs_per_view * 1e9) == 72 * 27 * 3 * 4 + 4 * 5
    assert result.gmacs_per_video == 3 * result.gmacs_per_view
    assert result.device.startswith("cpu: ")
    assert result.versions is not None
    assert result.versions["torch"] == str(torch.__version__)
    assert result.peak_mem_gib is None
    assert result.top1_pct is None


def test_a_full_benchmark_times_a_hundred_runs(net):
    result = benchmark_model(net, name="net", role="student", num_frames=4, crop_px=8)
    assert (result.quick, result.latency_ms.runs) == (False, 100)


@pytest.mark.slow
def test_the_compiled_network_is_timed():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 8 * 8, 5))
    found, *_ = measure_latency(model, **SIZES, dtype="fp32", mode="compile", num_runs=10)
    assert found.runs == 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_the_peak_holds_weights_and_inputs(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 8 * 8, 4096, bias=False)).cuda()
    sizes = SIZES | {"device": "cuda"}
    found, clips_s, peak_mem_gib = measure_latency(model, **sizes, dtype=dtype, num_runs=10)
    width = 4 if dtype == "fp32" else 2
    least = width * (4096 + 2) * 3 * 4 * 8 * 8 / 2**30
    assert peak_mem_gib is not None
    assert least <= peak_mem_gib <= 3 * least + 0.1
    assert clips_s == pytest.approx(2 * 1000 / found.mean)
