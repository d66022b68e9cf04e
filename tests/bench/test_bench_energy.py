from __future__ import annotations

import ctypes
import time
from types import SimpleNamespace

import pytest
import torch

from videokd.bench.latency import energy as energy_module
from videokd.bench.latency.energy import (
    NvmlMeter,
    RaplMeter,
    SmiMeter,
    energy_meter,
    energy_of_a_batch,
)

CPU = torch.device("cpu")


class FakeMeter:
    source = "rapl"

    def __init__(self, joules: float) -> None:
        self.joules = joules
        self.log: list[str] = []

    def start(self) -> None:
        self.log.append("start")

    def stop(self) -> float:
        self.log.append("stop")
        return self.joules


def test_joules_are_shared_among_the_batches_of_the_while():
    meter, seen = FakeMeter(12.0), []

    def run(clips):
        seen.append(int(clips))
        time.sleep(0.01)

    batches = [torch.tensor(n) for n in range(3)]
    found = energy_of_a_batch(
        meter, run, batches, seconds=0.1, wait=lambda: meter.log.append("wait")
    )
    assert found == (12.0 / len(seen), "rapl")
    assert seen == [n % 3 for n in range(len(seen))]
    assert 2 <= len(seen) <= 11
    assert meter.log[:2] == ["wait", "start"]
    assert meter.log[-2:] == ["wait", "stop"], "the meter stops when the device has done all"


def test_one_batch_at_least_and_a_silent_meter_is_no_energy():
    assert energy_of_a_batch(FakeMeter(3.0), len, [torch.ones(2)], seconds=0.0) == (3.0, "rapl")
    assert energy_of_a_batch(FakeMeter(0.0), len, [torch.ones(2)], seconds=0.0) is None


def test_the_meter_is_stopped_when_a_network_fails():
    meter = FakeMeter(1.0)

    def run(clips):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        energy_of_a_batch(meter, run, [torch.ones(1)], seconds=1.0)
    assert meter.log == ["start", "stop"]


def package(root, number: int, name: str, energy: int, most: int = 1_000_000):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_packages_are_added_up_and_may_begin_anew(tmp_path):
    first = package(tmp_path, 0, "package-0", 100_000)
    second = package(tmp_path, 1, "package-1", 900_000)
    package(tmp_path, 2, "psys", 5)
    package(tmp_path, 3, "dram", 5)
    meter = RaplMeter.found(tmp_path)
    assert meter is not None
    meter.start()
    (first / "energy_uj").write_text("600000\n")
    (second / "energy_uj").write_text("200000\n")
    assert meter.stop() == pytest.approx(0.5 + 0.3)
    meter.start()
    assert meter.stop() == 0


def test_without_readable_packages_there_is_no_meter(tmp_path, monkeypatch):
    assert RaplMeter.found(tmp_path / "no") is None
    package(tmp_path, 0, "psys", 1)
    assert RaplMeter.found(tmp_path) is None
    (package(tmp_path, 1, "package-0", 1) / "energy_uj").unlink()
    assert RaplMeter.found(tmp_path) is None
    monkeypatch.setattr(energy_module, "_POWERCAP", tmp_path)
    assert energy_meter(CPU) is None


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """A program of nvidia-smi's name that says what it is told to, once or in a loop."""

    def make(answer: str):
        program = tmp_path / "nvidia-smi"
        program.write_text(
            "#!/bin/sh\n"
            f'echo "$@" >> {tmp_path}/asked\n'
            f'case "$*" in *--loop-ms*) while :; do echo "{answer}"; sleep 0.02; done;; '
            f'*) echo "{answer}";; esac\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return SmiMeter.found("GPU-ab")

    return make


def test_watts_over_seconds_are_joules(smi, tmp_path):
    meter = smi("250.00")
    meter.start()
    started = time.monotonic()
    time.sleep(0.3)
    joules = meter.stop()
    seconds = time.monotonic() - started
    assert 250 * 0.3 <= joules <= 250 * seconds
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] == "--id=GPU-ab --query-gpu=power.draw --format=csv,noheader,nounits"
    assert asked[1] == f"{asked[0]} --loop-ms=50"


def test_a_gpu_that_does_not_tell_its_power_has_no_meter(smi, monkeypatch):
    assert smi("[N/A]") is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert SmiMeter.found("GPU-ab") is None


def test_half_a_line_is_no_watt():
    assert energy_module._watts("100.5\n[N/A]\n99.5\n1e") == [100.5, 99.5]


class FakeNvml:
    """The three functions of the driver's library, with a counter that moves on each reading."""

    def __init__(self, statuses: dict[str, int] | None = None) -> None:
        self.statuses, self.total = statuses or {}, 1_000
        self.asked: bytes | None = None

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return self.statuses.get("init", 0)

    def nvmlDeviceGetHandleByUUID(self, uuid, handle) -> int:  # noqa: N802
        self.asked = uuid
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p))[0] = 7
        return self.statuses.get("handle", 0)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, total) -> int:  # noqa: N802
        assert handle.value == 7
        self.total += 500
        ctypes.cast(total, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.total
        return self.statuses.get("total", 0)


def test_nvml_counts_millijoules():
    library = FakeNvml()
    meter = NvmlMeter.found("GPU-ab", load=lambda name: library)
    assert meter is not None
    assert library.asked == b"GPU-ab"
    meter.start()
    assert meter.stop() == 0.5


@pytest.mark.parametrize("failing", ["init", "handle", "total"])
def test_nvml_that_refuses_is_no_meter(failing):
    assert NvmlMeter.found("GPU-ab", load=lambda name: FakeNvml({failing: 3})) is None


def test_without_the_drivers_library_there_is_no_nvml():
    def missing(name):
        raise OSError(name)

    assert NvmlMeter.found("GPU-ab", load=missing) is None
    assert NvmlMeter.found("GPU-ab", load=lambda name: SimpleNamespace()) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_busy_gpu_takes_between_ten_and_two_thousand_watts():
    meter = energy_meter(torch.device("cuda"))
    if meter is None:
        pytest.skip("this GPU does not report its power")
    left = torch.rand(4096, 4096, device="cuda")
    meter.start()
    started = time.monotonic()
    while time.monotonic() - started < 2:
        left @ left
        torch.cuda.synchronize()
    assert 10 < meter.stop() / (time.monotonic() - started) < 2000
