"""Input batches that take turns, so that no run finds the last one's input in a cache."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from videokd.errors import UserError

_SYSTEM_CPUS = Path("/sys/devices/system/cpu")
_MEMORY_INFO = Path("/proc/meminfo")
_UNKNOWN_CACHE_BYTES = 64 * 2**20
_UNKNOWN_MEMORY_BYTES = 2 * 2**30
_MEMORY_PART = 0.25
"""Of the memory that is free, for the batches of one shape."""
LEAST_BUFFERS = 4


class Buffers:
    """Random clips in [0, 1] on a device, made once a shape and shared by all that ask for it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._made: dict[tuple[object, ...], list[torch.Tensor]] = {}

    def get(
        self, shape: tuple[int, ...], dtype: torch.dtype, *, channels_last: bool = False
    ) -> list[torch.Tensor]:
        """Batches [N,3,T,S,S], together larger than the last-level cache where memory allows.

        Raises:
            UserError: not even two of them fit.
        """
        key = (shape, dtype, channels_last)
        if key not in self._made:
            self._made[key] = self._make(shape, dtype, channels_last)
        return self._made[key]

    def num_bytes(self) -> int:
        """What all of them take."""
        return sum(clips.nbytes for batches in self._made.values() for clips in batches)

    def _make(
        self, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool
    ) -> list[torch.Tensor]:
        batch_bytes = math.prod(shape) * dtype.itemsize
        told = told_free_bytes(self.device)
        if told is not None and 2 * batch_bytes > told:
            raise UserError(
                f"two batches of clips {list(shape)} take {2 * batch_bytes / 2**30:.3g} GiB, "
                f"{told / 2**30:.3g} GiB of memory are free; give fewer clips or a smaller crop"
            )
        count = num_buffers(
            batch_bytes,
            cache_bytes=last_level_cache_bytes(self.device),
            memory_bytes=free_memory_bytes(self.device),
        )
        generator = torch.Generator().manual_seed(0)
        layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        return [
            torch.rand(shape, generator=generator).to(self.device, dtype, memory_format=layout)
            for _ in range(count)
        ]


def num_buffers(batch_bytes: int, *, cache_bytes: int, memory_bytes: int) -> int:
    """How many batches: twice the cache and at least four, in a quarter of the free memory.

    Never below two: one batch that is copied in turn with another is not found in the cache if it
    is larger, and if it is smaller the memory is enough for more.
    """
    wanted = max(LEAST_BUFFERS, math.ceil(2 * cache_bytes / batch_bytes))
    return max(2, min(wanted, int(_MEMORY_PART * memory_bytes / batch_bytes)))


def last_level_cache_bytes(device: torch.device) -> int:
    """L2 of a GPU; of a CPU all last-level caches that this process's cores reach.

    64 MiB where the system does not tell.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(1))
    caches = dict(cache for core in cores for cache in _caches_of(core))
    last = max((level for level, _ in caches), default=0)
    total = sum(size for (level, _), size in caches.items() if level == last)
    return total or _UNKNOWN_CACHE_BYTES


def free_memory_bytes(device: torch.device) -> int:
    """What can be allocated now; 2 GiB where the system does not tell."""
    told = told_free_bytes(device)
    return _UNKNOWN_MEMORY_BYTES if told is None else told


def told_free_bytes(device: torch.device) -> int | None:
    """What can be allocated now; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = _MEMORY_INFO.read_text(encoding="ascii").splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 2**10
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _caches_of(core: int) -> Iterable[tuple[tuple[int, str], int]]:
    """(level, cores that share it) -> bytes, for each cache of data of a core."""
    for folder in sorted((_SYSTEM_CPUS / f"cpu{core}" / "cache").glob("index*")):
        try:
            kind = (folder / "type").read_text(encoding="ascii").strip()
            level = int((folder / "level").read_text(encoding="ascii"))
            shared = (folder / "shared_cpu_list").read_text(encoding="ascii").strip()
            size = (folder / "size").read_text(encoding="ascii").strip()
            num_bytes = int(size.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(size[-1], 1)
        except (OSError, ValueError, IndexError):
            continue
        if kind in ("Data", "Unified"):
            yield (level, shared), num_bytes
