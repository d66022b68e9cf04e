"""How much memory a forward needs at its peak."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Written to `clear_refs`, this sets the peak of resident memory back to what is resident now."""


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """How far `work` raises memory above what is held before it; None where it is not known.

    On a GPU by torch's allocator. On a CPU (Linux) by resident memory: what the process had freed
    is given back to the system first, so that it is not used again unseen.
    """
    return _peak_on_cuda(work, device) if device.type == "cuda" else _peak_on_cpu(work)


def _peak_on_cuda(work: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before)


def _peak_on_cpu(work: Callable[[], object]) -> int | None:
    trimmed = _give_back_freed()
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        before = _status_bytes("VmRSS")
    except (OSError, LookupError):
        work()
        return None
    work()
    return max(0, _status_bytes("VmHWM") - before) if trimmed else None


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return int(found[1]) * 2**10


def _give_back_freed() -> bool:
    """Ask glibc to return what was freed; whether there is a glibc to ask."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return False
    return True
