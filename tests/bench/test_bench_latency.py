from __future__ import annotations

import contextlib
import itertools
import random
import statistics
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from videokd.bench.latency import BenchSetting, Session, in_rounds, in_setting, prepare, settings_of
from videokd.bench.latency import buffers as buffers_module
from videokd.bench.latency import timing as timing_module
from videokd.bench.latency.buffers import Buffers, last_level_cache_bytes, num_buffers
from videokd.bench.latency.graph import GraphRun
from videokd.bench.latency.measure import measure_latency
from videokd.bench.latency.memory import peak_bytes
from videokd.bench.latency.prepare import compiled_as_is, formed, relative_error
from videokd.bench.latency.settings import usable_cores, usable_device, why_not
from videokd.bench.latency.timing import (
    is_stable,
    median_interval,
    summarize,
    throughput_clips_s,
)
from videokd.errors import UserError
from videokd.models.deployed import Deployed
from videokd.types import Dense, InputSpec

SPEC = InputSpec(sampling=Dense(num_frames=4, stride=1), short_side_px=8, crop_px=8)
SIZES = {"num_frames": 4, "crop_px": 8, "batch": 2, "device": "cpu"}
CPU = torch.device("cpu")


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
                threads=torch.get_num_threads(),
                channels_last=clips.is_contiguous(memory_format=torch.channels_last_3d),
            )
        )
        features = self.norm(self.conv(clips)).mean((2, 3, 4))
        return SimpleNamespace(logits=self.head(features) * self.scale)


@pytest.fixture(autouse=True)
def four_buffers(monkeypatch):
    """A cache so small that four batches are enough."""
    monkeypatch.setattr(buffers_module, "last_level_cache_bytes", lambda device: 1)


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
    assert found.p50_interval is None


def test_the_interval_of_the_median_is_that_of_the_sign_test():
    from scipy.stats import binom

    for count in (6, 10, 17, 100):
        values = list(range(1, count + 1))
        low, high = median_interval(random.Random(0).sample(values, count))
        rank = int(low)
        assert high == count + 1 - rank
        assert 2 * binom.cdf(rank - 1, count, 0.5) <= 0.05 < 2 * binom.cdf(rank, count, 0.5)
    assert median_interval([1.0] * 5) is None


def test_the_interval_holds_the_median_as_often_as_it_says():
    generator = np.random.default_rng(0)
    draws = generator.lognormal(size=(2000, 20))  # the true median is 1
    held = [low <= 1 <= high for low, high in map(median_interval, draws.tolist())]
    assert 0.94 <= np.mean(held) <= 0.98


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
    found, *_ = measure_latency(net, **SIZES, dtype="fp32", num_runs=12, num_warmup=0)
    assert found.runs == 12
    reference, prepared, checked = Net.calls[:2], Net.calls[2:4], Net.calls[4:6]
    timed = Net.calls[6:]
    assert len(timed) == 12
    assert {call.shape for call in Net.calls} == {(2, 3, 4, 8, 8)}
    assert not any(call.training or call.grad for call in Net.calls)
    pointers = [call.ptr for call in timed]
    assert len(set(pointers[:4])) == 4
    assert pointers == pointers[:4] * 3
    assert [call.ptr for call in checked] == [call.ptr for call in reference] == pointers[:2]
    assert {call.ptr for call in prepared} == {pointers[0]}


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_copy_is_cast_and_the_model_left_as_it_was(net, dtype, expected):
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    rng_state, threads = torch.get_rng_state(), torch.get_num_threads()
    measure_latency(net, **SIZES, dtype=dtype, num_runs=2, num_warmup=0)
    assert {call.dtype for call in Net.calls[2:]} == {expected}
    assert {call.dtype for call in Net.calls[:2]} == {torch.float32}
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert torch.get_num_threads() == threads
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
    given_out: list[float] = []

    def tell(run, clips):
        given_out.append(next(told))
        return given_out[-1]

    monkeypatch.setattr(timing_module, "_time_on_cpu", tell)
    seen: list[tuple[int, int, str]] = []
    found, *_ = measure_latency(
        net, **SIZES, dtype="fp32", num_runs=5, num_warmup=3, on_progress=lambda *s: seen.append(s)
    )
    # After 12 runs the five before the last five are 30, 20, 10, 10, 10: their median is 10 too.
    assert len(given_out) == 12 + 5
    assert found == summarize([10.0] * 5)
    assert seen == [(n, 5, "10.0 ms") for n in (1, 2, 3, 4, 5)]


def test_warm_up_ends_on_a_machine_that_never_settles(net, monkeypatch):
    told = itertools.count(1.0)
    monkeypatch.setattr(timing_module, "_time_on_cpu", lambda run, clips: 2.0 ** next(told))
    monkeypatch.setattr(timing_module, "MAX_WARMUP_SECONDS", 0.0)
    found, *_ = measure_latency(net, **SIZES, dtype="fp32", num_runs=1, num_warmup=3)
    assert found.p50 == 2.0**4


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"device": "tpu"}, "device 'tpu' is not known; allowed: cpu, cuda"),
        ({"device": "meta"}, "device 'meta' cannot be timed"),
        ({"device": "cuda:99"}, "device 'cuda:99': this machine has"),
        ({"batch": 0}, "batch 0, 10 runs"),
        ({"crop_px": 2}, "the network does not run in fp32, eager"),
        ({"dtype": "tf32"}, "dtype tf32 is for a CUDA device, this is a CPU; use fp32"),
        ({"mode": "graph"}, "mode graph is for a CUDA device, this is a CPU; use eager or compile"),
    ],
)
def test_settings_that_cannot_be_are_refused(net, changes, match):
    with pytest.raises(UserError, match=match):
        measure_latency(net, **{"dtype": "fp32", **SIZES, **changes}, num_runs=10)


def test_old_gpus_have_neither_tf32_nor_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    gpu = torch.device("cuda")
    assert "needs compute capability 8.0, this GPU has 7.5; use fp32" in why_not(
        BenchSetting(dtype="tf32"), gpu
    )
    assert "use fp16" in why_not(BenchSetting(dtype="bf16"), gpu)
    assert why_not(BenchSetting(dtype="fp16", mode="compile_graph"), gpu) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert why_not(BenchSetting(dtype="tf32"), gpu) is None


def test_settings_are_the_product_of_lists_each_once():
    found = settings_of(
        batches=(1, 8), dtypes=("fp32", "bf16"), modes=("eager", "compile"), threads=(1, 1, None)
    )
    cores = usable_cores()
    counts = {1, cores}
    assert len(found) == 8 * len(counts)
    assert len(set(found)) == len(found)
    assert [one.batch for one in found[:4]] == [1, 8, 1, 8]
    assert {one.threads for one in found} == counts
    on_gpu = settings_of(batches=(1, 8), threads=(1, None), device="cuda")
    assert [(one.batch, one.threads) for one in on_gpu] == [(1, None), (8, None)]
    with pytest.raises(UserError, match=r"batch 0, threads \d+: each is at least 1"):
        settings_of(batches=(0,))
    with pytest.raises(UserError, match="threads 100000: at most 1024"):
        settings_of(threads=(100_000,))


def test_threads_are_those_of_the_setting_and_given_back(net):
    before = torch.get_num_threads()
    for threads in (1, 2):
        Net.calls.clear()
        setting = BenchSetting(threads=threads)
        with in_setting(setting, CPU), torch.inference_mode():
            Session(net, setting, num_frames=4, crop_px=8, buffers=Buffers(CPU))
        assert {call.threads for call in Net.calls} == {threads}
        assert torch.get_num_threads() == before


@pytest.mark.parametrize(("dtype", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_fp32_on_a_gpu_is_fp32_and_tf32_is_tf32(dtype, tf32):
    def flags():
        cudnn = torch.backends.cudnn
        return (torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)

    before = flags()
    with in_setting(BenchSetting(dtype=dtype), torch.device("cuda")):
        assert flags() == (tf32, tf32, True)
    assert flags() == before


def test_channels_last_is_how_weights_and_clips_lie(net):
    setting = BenchSetting(memory_format="channels_last", threads=1)
    with in_setting(setting, CPU), torch.inference_mode():
        session = Session(net, setting, num_frames=4, crop_px=8, buffers=Buffers(CPU))
    weight = session.net.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not weight.is_contiguous()
    assert torch.equal(weight, net.conv.weight)
    assert all(call.channels_last for call in Net.calls)


def test_networks_take_turns_in_rounds_that_turn_around(net):
    order: list[str] = []

    class Turn:
        def __init__(self, name: str) -> None:
            self.name, self.times_ms = name, [1.0]

        def time(self, num_runs: int, *, num_warmup: int) -> None:
            order.append(f"{self.name}{num_runs}")

    in_rounds([Turn("a"), Turn("b")], num_runs=13, num_warmup=1)
    assert order == ["a2", "b2", "b3", "a3", "a2", "b2", "b3", "a3", "a3", "b3"]


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


def test_a_network_that_answers_the_first_batch_for_ever_is_not_timed():
    class Stuck(nn.Module):
        stuck: ClassVar[dict[int, Tensor]] = {}

        def forward(self, clips: Tensor) -> Tensor:
            logits = clips.mean((2, 3, 4))
            if clips.dtype == torch.float32:
                return logits
            return self.stuck.setdefault(0, logits[:, [1, 0, 2]] * 0 + logits)[:] * 1.0

    Stuck.stuck[0] = torch.tensor([[9.0, 0.0, 0.0]] * 2).bfloat16()
    with pytest.raises(UserError, match="logits in bf16, eager lie"):
        measure_latency(Stuck(), **SIZES, dtype="bf16", num_runs=2)


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


def test_the_deployed_form_is_of_a_video_model_only(net):
    with pytest.raises(UserError, match="form deployed is made of a VideoModel, not of a Net"):
        formed(net, BenchSetting(form="deployed"))


def test_the_error_is_measured_against_the_largest_logit():
    wanted = torch.tensor([[1.0, -4.0]])
    assert relative_error(wanted + torch.tensor([[0.0, 0.1]]), wanted) == pytest.approx(0.025)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(1, 10**12))
def test_batches_fill_twice_the_cache_in_a_quarter_of_the_memory(batch, cache, memory):
    count = num_buffers(batch, cache_bytes=cache, memory_bytes=memory)
    assert count >= 2
    if count < max(4, 2 * cache / batch):
        assert count == 2 or (count + 1) * batch > memory / 4
    else:
        assert (count - 1) * batch < max(2 * cache, 4 * batch)
    if count > 2:
        assert count * batch <= memory / 4


def test_batches_are_shared_by_shape_and_differ_from_one_another():
    buffers = Buffers(CPU)
    first = buffers.get((1, 3, 2, 4, 4), torch.float32)
    assert buffers.get((1, 3, 2, 4, 4), torch.float32) is first
    assert len(first) == 4
    assert not torch.equal(first[0], first[1])
    assert all(float(clips.min()) >= 0 and float(clips.max()) <= 1 for clips in first)
    last = buffers.get((1, 3, 2, 4, 4), torch.bfloat16, channels_last=True)
    assert last[0].is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(last[0], first[0].bfloat16())
    assert Buffers(CPU).get((1, 3, 2, 4, 4), torch.float32)[1].equal(first[1])


def test_the_last_caches_of_all_cores_are_added_up(monkeypatch, tmp_path):
    def cache(core: int, number: int, level: int, kind: str, size: str, shared: str) -> None:
        folder = tmp_path / f"cpu{core}" / "cache" / f"index{number}"
        folder.mkdir(parents=True)
        for name, text in (
            ("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared),
        ):  # fmt: skip
            (folder / name).write_text(f"{text}\n")

    for core in range(4):
        cache(core, 0, 1, "Data", "32K", str(core))
        cache(core, 1, 1, "Instruction", "9999M", str(core))
        cache(core, 2, 3, "Unified", "16M", "0-1" if core < 2 else "2-3")
    monkeypatch.setattr(buffers_module, "_SYSTEM_CPUS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert last_level_cache_bytes(CPU) == 2 * 16 * 2**20
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1}, raising=False)
    assert last_level_cache_bytes(CPU) == 16 * 2**20
    monkeypatch.setattr(buffers_module, "_SYSTEM_CPUS", tmp_path / "no")
    assert last_level_cache_bytes(CPU) == 64 * 2**20


def test_free_memory_is_what_the_system_says(monkeypatch, tmp_path):
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 10 kB\nMemAvailable:     7 kB\n")
    monkeypatch.setattr(buffers_module, "_MEMORY_INFO", info)
    assert buffers_module.free_memory_bytes(CPU) == 7 * 1024
    info.write_text("nothing\n")
    assert buffers_module.free_memory_bytes(CPU) == 2 * 2**30


def test_batches_that_do_not_fit_are_refused_before_they_are_made(net, monkeypatch):
    with pytest.raises(
        UserError,
        match=r"two batches of clips \[2, 3, 4, 99999999, 99999999\] take .* GiB of memory",
    ):
        measure_latency(net, **SIZES | {"crop_px": 99_999_999}, dtype="fp32", num_runs=10)
    monkeypatch.setattr(buffers_module, "told_free_bytes", lambda device: 2 * 4 * 48 - 1)
    with pytest.raises(UserError, match="are free; give fewer clips or a smaller crop"):
        Buffers(CPU).get((1, 3, 1, 4, 4), torch.float32)
    monkeypatch.setattr(buffers_module, "told_free_bytes", lambda device: None)
    assert len(Buffers(CPU).get((1, 3, 1, 4, 4), torch.float32)) == 4


@pytest.mark.parametrize("size_mib", [64, 200])
def test_peak_memory_on_a_cpu_is_what_work_added(size_mib):
    found = peak_bytes(lambda: torch.ones(size_mib * 2**18), CPU)
    if found is None:
        pytest.skip("this system does not tell the peak of resident memory")
    assert size_mib - 2 <= found / 2**20 <= size_mib + 40  # the system counts in pages and lots


def test_a_system_that_does_not_tell_gives_no_peak(monkeypatch, tmp_path):
    from videokd.bench.latency import memory

    monkeypatch.setattr(memory, "_STATUS", tmp_path / "no")
    done = []
    assert peak_bytes(lambda: done.append(1), CPU) is None
    assert done == [1]


class FakeCuda:
    """Remembers what was asked of it; a replay runs what was captured again, in place."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.captured = None

    def current_stream(self, device):
        return SimpleNamespace(wait_stream=lambda other: self.log.append("current waits"))

    def Stream(self, device):  # noqa: N802
        return SimpleNamespace(wait_stream=lambda other: self.log.append("side waits"))

    @contextlib.contextmanager
    def stream(self, stream):
        self.log.append("on side")
        yield
        self.log.append("off side")

    def CUDAGraph(self):  # noqa: N802
        return SimpleNamespace(replay=lambda: self.captured())

    @contextlib.contextmanager
    def graph(self, graph):
        self.log.append("capture")
        yield
        self.log.append("captured")


def test_a_graph_is_captured_after_warm_up_beside_and_replayed_on_its_own_input():
    cuda, seen = FakeCuda(), []
    place = torch.empty(2, 3)

    def network(clips: Tensor) -> Tensor:
        cuda.log.append("run")
        seen.append(clips.data_ptr())
        cuda.captured = lambda: place.copy_(clips.mean((2, 3, 4)))
        cuda.captured()
        return place

    batches = [torch.rand(2, 3, 4, 5, 5) for _ in range(3)]
    before = [clips.clone() for clips in batches]
    run = GraphRun(network, batches[0], cuda=cuda)
    assert cuda.log == [
        "side waits", "on side", "run", "run", "run", "off side", "current waits",
        "capture", "run", "captured",
    ]  # fmt: skip
    assert set(seen).isdisjoint(clips.data_ptr() for clips in batches)
    for clips, own in zip(batches, before, strict=True):
        assert torch.equal(run(clips), own.mean((2, 3, 4)))
        assert torch.equal(clips, own)
    assert len(seen) == 4
    with pytest.raises(ValueError, match=r"recorded for torch.float32 \[2, 3, 4, 5, 5\], not"):
        run(torch.rand(1, 3, 4, 5, 5))


def test_each_network_is_compiled_as_a_function_of_its_own():
    count = torch._dynamo.config.recompile_limit + 2
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    clips = torch.rand(2, 6)
    original = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda run, **k: original(run, backend=backend, **k))
        with torch.inference_mode():
            for width in range(1, count + 1):
                layer = nn.Linear(6, width)
                found = compiled_as_is(layer, clips)
                assert found.num_graphs == "one"
                assert torch.equal(found.run(clips), layer(clips))
    assert len(graphs) == count, "torch went on uncompiled"


def test_the_deployed_form_is_compiled_as_it_is_shipped(net, monkeypatch):
    form, clips = Deployed(net, spec=SPEC, num_classes=4), torch.rand(2, 3, 4, 8, 8)
    asked = []
    monkeypatch.setattr(prepare, "compiled", lambda *given: asked.append(given) or net)
    setting = BenchSetting(form="deployed", mode="compile")
    assert prepare.runner(form, setting, clips) == (net, "one")
    assert asked == [(form, clips)]


def test_a_network_that_breaks_into_graphs_says_so():
    class Breaks(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            doubled = clips * 2
            torch._dynamo.graph_break()
            return doubled + 1

    original = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda run, **k: original(run, backend="eager", **k))
        found = compiled_as_is(Breaks(), torch.ones(2))
    assert found.num_graphs == "several"
    assert torch.equal(found.run(torch.ones(2)), torch.full((2,), 3.0))


@pytest.mark.slow
def test_the_compiled_network_is_timed():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 8 * 8, 5)).eval().requires_grad_(False)
    found, *_ = measure_latency(model, **SIZES, dtype="fp32", mode="compile", num_runs=10)
    assert found.runs == 10
    clips = torch.rand(2, 3, 4, 8, 8)
    with torch.inference_mode():
        run, num_graphs = compiled_as_is(model, clips)
        assert num_graphs == "one"
        assert relative_error(run(clips), model(clips)) < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["fp32", "tf32", "bf16", "fp16"])
def test_on_a_gpu_the_peak_holds_weights_and_inputs(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 8 * 8, 4096, bias=False)).cuda()
    sizes = SIZES | {"device": "cuda"}
    found, clips_s, peak_mem_gib = measure_latency(model, **sizes, dtype=dtype, num_runs=10)
    width = 4 if dtype in ("fp32", "tf32") else 2
    least = width * (4096 + 2) * 3 * 4 * 8 * 8 / 2**30
    assert peak_mem_gib is not None
    assert least <= peak_mem_gib <= 3 * least + 0.1
    assert clips_s == pytest.approx(2 * 1000 / found.mean)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["graph", "compile", "compile_graph"])
def test_on_a_gpu_a_graph_gives_the_eager_logits_of_every_batch(mode):
    torch.manual_seed(0)
    where = usable_device("cuda")
    net = nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 2 * 6 * 6, 5))
    setting = BenchSetting(mode=mode, batch=2)
    with in_setting(setting, where), torch.inference_mode():
        session = Session(net, setting, num_frames=4, crop_px=8, buffers=Buffers(where))
        for clips in session.batches[:8]:
            wanted = session.net(clips)
            got = session.run(clips)
            if mode == "graph":
                assert torch.equal(got, wanted)
            else:
                assert relative_error(got, wanted) < 1e-4
        session.time(12, num_warmup=3)
        other = Session(
            net, replace(setting, mode="eager"), num_frames=4, crop_px=8, buffers=Buffers(where)
        )
        other.time(12, num_warmup=3)
    if mode != "compile":
        assert session.latency.p50 < other.latency.p50
