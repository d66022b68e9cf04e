"""What the device could do at best, measured, and how far a network is from it.

The roofline model: a program takes at least its arithmetic over the peak of arithmetic, and at
least its traffic over the bandwidth (Williams, Waterman, Patterson, CACM 2009).
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from videokd.bench.complexity import Traffic
from videokd.bench.latency.buffers import free_memory_bytes, last_level_cache_bytes
from videokd.bench.latency.settings import DTYPES
from videokd.bench.latency.timing import time_once
from videokd.bench.parts import Dtype, Limit, Roofline

_MATRIX_SIDES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
_CONV_CHANNELS = {"cpu": (128, 256, 512), "cuda": (512, 1024, 2048)}
_CONV_SHAPE = (32, 28, 28)
"""Images and px of the pointwise convolutions: with 16 images or more every CPU build of torch
takes oneDNN for them."""
_CACHES_COPIED = (2, 4)
"""Sizes of the arrays that are copied, in last-level caches."""
_LEAST_COPIED_BYTES = 64 * 2**20
_NUM_RUNS = 7
_EXPLAINED = 0.5
"""A ceiling that explains this part of a time is what limits it."""


class Ceilings(NamedTuple):
    """What a device reaches on work made to be easy for it."""

    peak_gmacs_s: float
    """1e9 multiply-adds per second, large matrix products and pointwise convolutions."""
    bandwidth_gib_s: float
    """GiB per second, read plus written, copies and sums of arrays larger than the caches."""


def measure_ceilings(device: torch.device, dtype: Dtype) -> Ceilings:
    """Peak and bandwidth, with the threads and TF32 that are set now; once a process and setting.

    For each of several sizes the median of seven runs; the best size counts.
    """
    matmul = torch.backends.cuda.matmul
    return _measured(device, dtype, torch.get_num_threads(), matmul.allow_tf32)


def roofline(
    ceilings: Ceilings,
    *,
    gmacs: float,
    traffic: Traffic,
    p50_ms: float,
    fixed_ms: Callable[[], float],
) -> Roofline:
    """One batch under its ceilings.

    Args:
        ceilings: of the device, in the dtype that was timed.
        gmacs: 1e9 multiply-adds of the batch.
        traffic: bytes of the batch.
        p50_ms: what it took.
        fixed_ms: measures how much of that does not grow with the batch; called where neither
            ceiling explains half of p50.
    """
    bytes_per_ms = ceilings.bandwidth_gib_s * 2**30 / 1000
    compute_ms = 1000 * gmacs / ceilings.peak_gmacs_s
    memory_ms = traffic.min_bytes / bytes_per_ms
    layers_ms = traffic.unfused_bytes / bytes_per_ms
    limited_by: Limit = "compute" if compute_ms >= layers_ms else "memory"
    fixed: float | None = None
    if max(compute_ms, layers_ms) < _EXPLAINED * p50_ms:
        fixed = fixed_ms()
        limited_by = "overhead" if fixed >= _EXPLAINED * p50_ms else "kernels"
    floor_ms = max(compute_ms, memory_ms)
    return Roofline(
        peak_gmacs_s=ceilings.peak_gmacs_s,
        bandwidth_gib_s=ceilings.bandwidth_gib_s,
        compute_ms=compute_ms,
        memory_ms=memory_ms,
        layers_ms=layers_ms,
        floor_ms=floor_ms,
        reached_part=floor_ms / p50_ms,
        limited_by=limited_by,
        fixed_ms=fixed,
    )


def fixed_part_ms(batch: int, p50_ms: float, other_batch: int, other_p50_ms: float) -> float:
    """Where the line through two batches' times meets batch 0, between 0 and `p50_ms`."""
    slope = (other_p50_ms - p50_ms) / (other_batch - batch)
    return min(p50_ms, max(0.0, p50_ms - slope * batch))


@functools.cache
def _measured(device: torch.device, dtype: Dtype, _threads: int, _tf32: bool) -> Ceilings:
    with torch.inference_mode():
        # Matrix products and convolutions go to different libraries, and the better one counts.
        products = [_gmacs_s(side, device, dtype) for side in _MATRIX_SIDES[device.type]]
        convolved = [_conv_gmacs_s(number, device, dtype) for number in _CONV_CHANNELS[device.type]]
        peak = max(*products, *convolved)
        bandwidth = max(_gib_s(num_bytes, device) for num_bytes in _copied_bytes(device))
    return Ceilings(peak, bandwidth)


def _gmacs_s(side: int, device: torch.device, dtype: Dtype) -> float:
    left, right = (torch.rand(side, side, device=device).to(DTYPES[dtype]) for _ in range(2))
    out = torch.empty_like(left)
    return side**3 / 1e9 / (_median_ms(lambda a: torch.mm(a, right, out=out), left) / 1000)


def _conv_gmacs_s(channels: int, device: torch.device, dtype: Dtype) -> float:
    count, height, width = _CONV_SHAPE
    frames = torch.rand(count, channels, height, width, device=device).to(DTYPES[dtype])
    frames = frames.contiguous(memory_format=torch.channels_last)
    weight = torch.rand(channels, channels, 1, 1, device=device).to(DTYPES[dtype])
    gmacs = count * height * width * channels**2 / 1e9
    return gmacs / (_median_ms(lambda x: F.conv2d(x, weight), frames) / 1000)


def _gib_s(num_bytes: int, device: torch.device) -> float:
    """The better of a copy (two arrays) and a triad a + s * b (three)."""
    first, second, out = (torch.zeros(num_bytes // 4, device=device) for _ in range(3))
    copied = 2 * num_bytes / _median_ms(out.copy_, first)
    added = 3 * num_bytes / _median_ms(lambda a: torch.add(a, second, alpha=2, out=out), first)
    return max(copied, added) * 1000 / 2**30


def _median_ms(run: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor) -> float:
    run(given)
    return statistics.median(time_once(run, given, given.device) for _ in range(_NUM_RUNS))


def _copied_bytes(device: torch.device) -> list[int]:
    cache_bytes = last_level_cache_bytes(device)
    most = free_memory_bytes(device) // 8
    return [min(most, max(_LEAST_COPIED_BYTES, n * cache_bytes)) // 4 * 4 for n in _CACHES_COPIED]
