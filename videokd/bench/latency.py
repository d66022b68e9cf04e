"""How long a batch takes: warm-up until the times hold still, then single synchronised runs."""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from videokd.bench.complexity import first_line, logits_of, untapped
from videokd.bench.result import Dtype, Latency
from videokd.errors import UserError

Progress = Callable[[int, int, str], None]
"""`on_progress(done, total, note)`."""

DTYPES: dict[Dtype, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
TOLERANCE: dict[Dtype, float] = {"fp32": 1e-3, "bf16": 1e-1, "fp16": 2e-2}
"""How far logits may lie from those of fp32 eager, as a part of the largest fp32 logit: about
thirteen, eight and eleven bits of mantissa (TF32 and the order of sums included), times depth."""

NUM_BUFFERS = 4
"""Input batches that take turns, so that no run finds the last one's input in the cache."""
STABLE_WINDOW = 5
STABLE_WITHIN = 0.05
"""Warm: the median of the last five runs lies within 5 % of that of the five before."""
MAX_WARMUP_SECONDS = 5.0
"""Beyond `num_warmup` runs. A machine that does not settle is measured all the same, and `spread`
shows it."""


class Measurement(NamedTuple):
    """What `measure_latency` found."""

    latency: Latency
    """ms a batch."""
    throughput_clips_s: float
    """Clips per second of synchronised batches: batch / mean latency."""
    peak_mem_gib: float | None
    """GiB for weights, one input batch and activations on the GPU; None on the CPU."""


def measure_latency(
    model: nn.Module,
    *,
    num_frames: int,
    crop_px: int,
    batch: int,
    device: torch.device | str,
    dtype: Dtype,
    mode: Literal["eager", "compile"] = "eager",
    num_runs: int = 100,
    num_warmup: int = 10,
    on_progress: Progress | None = None,
) -> Measurement:
    """Time the forward pass on clips [batch, 3, T, S, S] that already lie on the device.

    A copy of the network is measured, in eval and inference mode, with its weights cast to `dtype`
    (no autocast). Before anything is timed, its logits are held against those of fp32 eager:
    finite, and no further away than `TOLERANCE`. At least `num_warmup` runs, and more until the
    times hold still, go untimed. Each timed run is synchronised: CUDA events on a GPU,
    `perf_counter` on a CPU. Nothing of `model` changes, its mode and the global random state
    included.

    Args:
        model: takes clips in [0, 1], returns logits or an object with `.logits`.
        num_frames: T.
        crop_px: S.
        batch: clips in a batch.
        device: where to measure.
        dtype: of weights and inputs.
        mode: `compile` times `torch.compile(model)`; compilation falls into the warm-up.
        num_runs: timed runs.
        num_warmup: the least number of untimed runs.
        on_progress: called as `(done, total, note)` while measuring.

    Raises:
        UserError: for a device that is not there, a network that does not run in this setting, and
            logits that are not those of fp32.
    """
    if min(batch, num_runs, num_frames, crop_px) < 1 or num_warmup < 0:
        raise UserError(
            f"batch {batch}, {num_runs} runs, {num_frames} frames of {crop_px} px, {num_warmup} "
            "runs of warm-up: each is at least 1, warm-up at least 0"
        )
    where = usable_device(device)
    held_bytes = _allocated_bytes(where)
    net = _frozen_copy(model, where)
    buffers = _input_buffers((batch, 3, num_frames, crop_px, crop_px), device=where)
    with torch.inference_mode():
        wanted = [_logits(net, clips, "fp32, eager") for clips in buffers]
        net = net.to(DTYPES[dtype])
        buffers = [clips.to(DTYPES[dtype]) for clips in buffers]
        run: Callable[[torch.Tensor], Any] = torch.compile(net) if mode == "compile" else net
        for clips, reference in zip(buffers, wanted, strict=True):
            _check_logits(_logits(run, clips, f"{dtype}, {mode}"), reference, dtype, mode)
        held_bytes += sum(clips.nbytes for clips in buffers[1:])  # a caller has one batch there
        if where.type == "cuda":
            torch.cuda.reset_peak_memory_stats(where)
        times_ms = _timed_runs(run, buffers, where, num_runs, num_warmup, on_progress)
    return Measurement(
        summarize(times_ms), throughput_clips_s(times_ms, batch), _peak_gib(where, held_bytes)
    )


def summarize(times_ms: Sequence[float]) -> Latency:
    """Percentiles (linear between the two nearest runs), mean and relative spread of run times."""
    p25, p50, p75, p95, p99 = (float(p) for p in np.percentile(times_ms, [25, 50, 75, 95, 99]))
    return Latency(
        p50=p50,
        p95=p95,
        p99=p99,
        mean=statistics.fmean(times_ms),
        spread=(p75 - p25) / p50,
        runs=len(times_ms),
    )


def throughput_clips_s(times_ms: Sequence[float], batch: int) -> float:
    """All clips of the timed runs over all the time they took, clips per second."""
    return 1000.0 * batch * len(times_ms) / sum(times_ms)


def is_stable(times_ms: Sequence[float]) -> bool:
    """Whether the last five times have about the median of the five before them."""
    if len(times_ms) < 2 * STABLE_WINDOW:
        return False
    last = statistics.median(times_ms[-STABLE_WINDOW:])
    before = statistics.median(times_ms[-2 * STABLE_WINDOW : -STABLE_WINDOW])
    return abs(last - before) <= STABLE_WITHIN * before


def usable_device(device: torch.device | str) -> torch.device:
    """The device, where this machine has it.

    Raises:
        UserError: for a name that torch does not know, a GPU that is not there, and other kinds.
    """
    try:
        where = torch.device(device)
    except RuntimeError:
        raise UserError(f"device {str(device)!r} is not known; allowed: cpu, cuda") from None
    if where.type not in ("cpu", "cuda"):
        raise UserError(f"device {str(device)!r} cannot be timed; allowed: cpu, cuda")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {str(device)!r}: this machine has {torch.cuda.device_count()} CUDA devices; "
            "use cpu"
        )
    return where


def relative_error(logits: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest distance between two tensors of logits, as a part of the largest wanted one."""
    scale = float(wanted.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
    return float((logits - wanted).abs().max()) / scale


def _frozen_copy(model: nn.Module, device: torch.device) -> nn.Module:
    try:
        net = copy.deepcopy(untapped(model))
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{type(model).__name__} cannot be copied: {first_line(error)}") from None
    return net.eval().requires_grad_(False).to(device=device, dtype=torch.float32)


def _input_buffers(shape: tuple[int, ...], device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(shape, generator=generator).to(device) for _ in range(NUM_BUFFERS)]


def _logits(run: Callable[[torch.Tensor], Any], clips: torch.Tensor, how: str) -> torch.Tensor:
    """Logits float32 [batch, K] on the CPU."""
    try:
        return logits_of(run(clips)).float().cpu()
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"the network does not run in {how} on clips {list(clips.shape)}: {first_line(error)}"
        ) from None


def _check_logits(logits: torch.Tensor, wanted: torch.Tensor, dtype: Dtype, mode: str) -> None:
    """Refuse to time a network that does not compute what it computes in fp32 eager."""
    if not bool(torch.isfinite(logits).all()):
        raise UserError(
            f"logits in {dtype}, {mode} are not finite; measure in another dtype or mode"
        )
    error_part = relative_error(logits, wanted)
    if error_part > TOLERANCE[dtype]:
        raise UserError(
            f"logits in {dtype}, {mode} lie {error_part:.2g} of the largest logit away from "
            f"fp32 eager; at most {TOLERANCE[dtype]:g} is allowed: measure in another dtype or mode"
        )


def _timed_runs(
    run: Callable[[torch.Tensor], Any],
    buffers: Sequence[torch.Tensor],
    device: torch.device,
    num_runs: int,
    num_warmup: int,
    on_progress: Progress | None,
) -> list[float]:
    """ms of each of `num_runs` runs, after the untimed ones."""
    clips = itertools.cycle(buffers)
    time_once = _time_on_cuda if device.type == "cuda" else _time_on_cpu
    total = num_warmup + num_runs
    warmup_ms: list[float] = []
    deadline = time.monotonic() + MAX_WARMUP_SECONDS
    while len(warmup_ms) < num_warmup or (
        num_warmup > 0 and not is_stable(warmup_ms) and time.monotonic() < deadline
    ):
        warmup_ms.append(time_once(run, next(clips)))
        if on_progress is not None:
            on_progress(min(len(warmup_ms), num_warmup), total, "warm-up")
    times_ms: list[float] = []
    while len(times_ms) < num_runs:
        times_ms.append(time_once(run, next(clips)))
        if on_progress is not None:
            on_progress(num_warmup + len(times_ms), total, f"{times_ms[-1]:.1f} ms")
    return times_ms


def _time_on_cpu(run: Callable[[torch.Tensor], Any], clips: torch.Tensor) -> float:
    started = time.perf_counter()
    run(clips)
    return 1000.0 * (time.perf_counter() - started)


def _time_on_cuda(run: Callable[[torch.Tensor], Any], clips: torch.Tensor) -> float:
    """The device is idle at the start, so the time holds the launches that a caller waits for."""
    stream = torch.cuda.current_stream(clips.device)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(clips.device)
    start.record(stream)
    run(clips)
    end.record(stream)
    torch.cuda.synchronize(clips.device)
    return float(start.elapsed_time(end))


def _allocated_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _peak_gib(device: torch.device, held_bytes: int) -> float | None:
    """GiB at the peak beyond `held_bytes`: the network's original, input batches in waiting."""
    if device.type != "cuda":
        return None
    return float(torch.cuda.max_memory_allocated(device) - held_bytes) / 2**30
