"""Joules of a batch, where the device reports its power."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch

from videokd.bench.environment import gpu_uuid
from videokd.bench.latency.timing import Run

Source = Literal["nvml", "nvidia-smi", "rapl"]

_POWERCAP = Path("/sys/class/powercap")
_NVML = "libnvidia-ml.so.1"
_SAMPLE_MS = 50
_SECONDS_TO_ANSWER = 10.0


class Meter(Protocol):
    """Counts the joules that a device takes between `start` and `stop`."""

    source: Source

    def start(self) -> None:
        """Begin."""
        ...

    def stop(self) -> float:
        """Joules since `start`, idle power included."""
        ...


class Energy(NamedTuple):
    """What a batch took."""

    joules: float
    source: Source


def energy_meter(device: torch.device) -> Meter | None:
    """The most exact meter that answers here; None where there is none.

    A GPU: NVML's counter of millijoules, else nvidia-smi's watts over time. A CPU: RAPL's packages,
    where this process may read them (all that runs on them is in it, memory is not).
    """
    if device.type == "cpu":
        return RaplMeter.found(_POWERCAP)
    uuid = gpu_uuid(device)
    return NvmlMeter.found(uuid) or SmiMeter.found(uuid)


def energy_of_a_batch(
    meter: Meter,
    run: Run,
    batches: Sequence[torch.Tensor],
    *,
    seconds: float,
    wait: Callable[[], None] = lambda: None,
) -> Energy | None:
    """Joules a batch over a while of batches without pause; None where the meter fell silent.

    Args:
        meter: of the device that runs.
        run: the network.
        batches: take turns.
        seconds: the least time; counters move every tenth of a second or so.
        wait: returns when the device has done all that it was given.
    """
    clips, count = itertools.cycle(batches), 0
    wait()
    meter.start()
    started = time.monotonic()
    try:
        while time.monotonic() - started < seconds or not count:
            run(next(clips))
            count += 1
            if count % len(batches) == 0:
                wait()  # nobody queues launches for seconds
        wait()
    finally:
        joules = meter.stop()
    return Energy(joules / count, meter.source) if joules > 0 else None


class NvmlMeter:
    """NVML's total energy counter (Volta and newer), through the driver's own library."""

    source: Source = "nvml"

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self._library, self._handle, self._before = library, handle, 0

    @classmethod
    def found(cls, uuid: str, load: Callable[[str], Any] = ctypes.CDLL) -> NvmlMeter | None:
        """The counter of this GPU; None without library, GPU or counter."""
        handle = ctypes.c_void_p()
        try:
            library = load(_NVML)
            done = library.nvmlInit_v2() == 0 and (
                library.nvmlDeviceGetHandleByUUID(uuid.encode("ascii"), ctypes.byref(handle)) == 0
            )
        except (OSError, AttributeError):
            return None
        meter = cls(library, handle)
        return meter if done and meter._millijoules() is not None else None

    def start(self) -> None:
        """Read the counter."""
        self._before = self._millijoules() or 0

    def stop(self) -> float:
        """Joules since then."""
        return ((self._millijoules() or 0) - self._before) / 1000

    def _millijoules(self) -> int | None:
        total = ctypes.c_ulonglong()
        status = self._library.nvmlDeviceGetTotalEnergyConsumption(
            self._handle, ctypes.byref(total)
        )
        return int(total.value) if status == 0 else None


class SmiMeter:
    """nvidia-smi's power draw, read twenty times a second: mean watts times seconds."""

    source: Source = "nvidia-smi"

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._started = 0.0

    @classmethod
    def found(cls, uuid: str) -> SmiMeter | None:
        """One for this GPU; None without nvidia-smi or where it does not tell the power."""
        program = shutil.which("nvidia-smi")
        if program is None:
            return None
        query = ["--query-gpu=power.draw", "--format=csv,noheader,nounits"]
        command = [program, f"--id={uuid}", *query]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed list of arguments, no shell
                command, capture_output=True, text=True, timeout=_SECONDS_TO_ANSWER, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return cls(command) if _watts(done.stdout) else None

    def start(self) -> None:
        """Let it print watts from now on."""
        command = [*self._command, f"--loop-ms={_SAMPLE_MS}"]
        self._process = subprocess.Popen(  # noqa: S603 - a fixed list of arguments, no shell
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._started = time.monotonic()

    def stop(self) -> float:
        """Joules since then; 0 where it printed nothing."""
        assert self._process is not None
        seconds = time.monotonic() - self._started
        self._process.terminate()
        printed, _ = self._process.communicate()
        watts = _watts(printed)
        return statistics.fmean(watts) * seconds if watts else 0.0


class RaplMeter:
    """The processor packages' energy counters (Intel and AMD, Linux)."""

    source: Source = "rapl"

    def __init__(self, packages: Sequence[Path]) -> None:
        self._packages = packages
        self._before: list[int] = []

    @classmethod
    def found(cls, powercap: Path) -> RaplMeter | None:
        """All packages; None where there is none or one may not be read."""
        folders = sorted(powercap.glob("intel-rapl:*"))
        try:
            packages = [
                folder
                for folder in folders
                if (folder / "name").read_text(encoding="ascii").startswith("package")
            ]
            for folder in packages:
                _number(folder / "energy_uj")
        except (OSError, ValueError):
            return None
        return cls(packages) if packages else None

    def start(self) -> None:
        """Read the counters."""
        self._before = [_number(folder / "energy_uj") for folder in self._packages]

    def stop(self) -> float:
        """Joules since then; a counter that began anew meanwhile is understood."""
        total = 0
        for folder, before in zip(self._packages, self._before, strict=True):
            moved = _number(folder / "energy_uj") - before
            total += moved if moved >= 0 else moved + _number(folder / "max_energy_range_uj")
        return total / 1e6


def _watts(printed: str) -> list[float]:
    found = []
    for line in printed.splitlines():
        with contextlib.suppress(ValueError):  # "[N/A]", or a line cut off in the middle
            found.append(float(line))
    return found


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
