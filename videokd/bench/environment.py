"""What the numbers were measured on and with: a number without its machine is hearsay."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

import torch

import videokd

_CPU_INFO = Path("/proc/cpuinfo")
_CPU_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_GPU_FIELDS = (
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "persistence_mode",
)
_SECONDS = 10.0
"""After which a tool that does not answer counts as absent."""


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The stamp of a measurement on `device`: `device`, `versions`, `clocks`.

    Returns:
        `device`: "cpu: NAME" or "cuda: NAME"; `versions`: name -> text (videokd, python, torch,
        platform, threads; of a CPU its cores and what governs its clock, where told; of a GPU
        cuda, cudnn, driver, compute capability, tf32, power limit and persistence mode);
        `clocks`: name -> MHz, as read now and the highest, or None where the machine does not tell.
    """
    where = torch.device(device)
    gpu = _gpu_facts(where) if where.type == "cuda" else {}
    versions = {
        "videokd": videokd.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
    }
    if where.type == "cuda":
        versions["cuda"] = str(torch.version.cuda)
        versions["cudnn"] = str(torch.backends.cudnn.version())
        versions["driver"] = gpu.get("driver_version", "not readable")
        versions["compute_capability"] = "{}.{}".format(*torch.cuda.get_device_capability(where))
        versions["tf32"] = str(torch.backends.cuda.matmul.allow_tf32)
        versions["power_limit_w"] = gpu.get("power.limit", "not readable")
        versions["persistence_mode"] = gpu.get("persistence_mode", "not readable")
    else:
        versions |= _cpu_facts()
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else cpu_name()
    clocks = _gpu_clocks_mhz(gpu) if where.type == "cuda" else _cpu_clocks_mhz()
    return {"device": f"{where.type}: {name}", "versions": versions, "clocks": clocks or None}


def git_sha() -> str | None:
    """The commit of the code that runs, `-dirty` behind it where tracked files differ from it.

    None where the package does not lie in a repository that tracks it (installed from a wheel).
    """
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    sha = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".")
    if not sha:
        return None
    return f"{sha}-dirty" if changes else sha


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    for line in _cpu_info_lines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def gpu_uuid(device: torch.device) -> str:
    """The GPU's name for the driver's tools.

    Indices differ between torch and them under CUDA_VISIBLE_DEVICES; this does not.
    """
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _cpu_facts() -> dict[str, str]:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    facts = {"cores": str(len(cores) or os.cpu_count())}
    with contextlib.suppress(OSError):  # virtual machines seldom tell
        facts["cpu_governor"] = (
            (_CPU_FREQUENCY / "scaling_governor").read_text(encoding="ascii").strip()
        )
    return facts


def _git(*arguments: str) -> str | None:
    """What git prints in the package's folder; None where git or the repository is not there."""
    program = shutil.which("git")
    if program is None:
        return None
    # Inside a git hook these variables point to another repository.
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return _printed_by([program, *arguments], cwd=Path(videokd.__file__).parent, env=env)


def _gpu_facts(device: torch.device) -> dict[str, str]:
    """Field -> text, as nvidia-smi knows this very GPU; empty where it cannot be asked."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = f"--query-gpu={','.join(_GPU_FIELDS)}"
    printed = _printed_by(
        [program, f"--id={gpu_uuid(device)}", query, "--format=csv,noheader,nounits"]
    )
    if printed is None:
        return {}
    values = [value.strip() for value in printed.split(",")]
    return dict(zip(_GPU_FIELDS, values, strict=True)) if len(values) == len(_GPU_FIELDS) else {}


def _gpu_clocks_mhz(gpu: dict[str, str]) -> dict[str, float]:
    named = {
        "gpu_sm_mhz": gpu.get("clocks.sm", ""),
        "gpu_mem_mhz": gpu.get("clocks.mem", ""),
        "gpu_sm_max_mhz": gpu.get("clocks.max.sm", ""),
        "gpu_mem_max_mhz": gpu.get("clocks.max.mem", ""),
    }
    return {name: float(text) for name, text in named.items() if text.isdecimal()}


def _cpu_clocks_mhz() -> dict[str, float]:
    clocks = {}
    now = [
        float(line.partition(":")[2]) for line in _cpu_info_lines() if line.startswith("cpu MHz")
    ]
    if now:
        clocks["cpu_mhz"] = statistics.median(now)
    with contextlib.suppress(OSError, ValueError):  # virtual machines seldom tell
        clocks["cpu_max_mhz"] = (
            int((_CPU_FREQUENCY / "cpuinfo_max_freq").read_text(encoding="ascii")) / 1000
        )
    return clocks


def _cpu_info_lines() -> list[str]:
    try:
        return _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _printed_by(
    command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed list of arguments, no shell
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
