"""One network in one setting, measured whole: complexity, latency, and the stamp of the machine."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from videokd.bench.complexity import Complexity, count_complexity
from videokd.bench.environment import environment, git_sha
from videokd.bench.latency import Progress, measure_latency
from videokd.bench.result import MIN_RUNS, MIN_RUNS_QUICK, BenchmarkResult, Dtype


def benchmark_model(
    model: nn.Module,
    *,
    name: str,
    role: str,
    num_frames: int,
    crop_px: int,
    num_views: int = 1,
    batch: int = 1,
    device: torch.device | str = "cpu",
    dtype: Dtype = "fp32",
    mode: Literal["eager", "compile"] = "eager",
    quick: bool = False,
    complexity: Complexity | None = None,
    on_progress: Progress | None = None,
) -> BenchmarkResult:
    """Count and time `model` on clips [batch, 3, T, S, S]; accuracy is added by `with_accuracy`.

    Args:
        model: takes clips in [0, 1], returns logits or an object with `.logits`.
        name: what to call it.
        role: its part in the study.
        num_frames: T.
        crop_px: S.
        num_views: clips x crops a video at evaluation, for the multiply-adds of a video.
        batch: clips in a timed batch.
        device: where to measure.
        dtype: of weights and inputs.
        mode: eager, or through `torch.compile`.
        quick: 10 timed runs where 100 are usual; the result says so.
        complexity: where it was counted before; its input must be the same.
        on_progress: called as `(done, total, note)` while timing.

    Raises:
        UserError: where the network cannot be counted or does not run in this setting.
    """
    counted = complexity or count_complexity(model, num_frames=num_frames, crop_px=crop_px)
    latency, throughput_clips_s, peak_mem_gib = measure_latency(
        model,
        num_frames=num_frames,
        crop_px=crop_px,
        batch=batch,
        device=device,
        dtype=dtype,
        mode=mode,
        num_runs=MIN_RUNS_QUICK if quick else MIN_RUNS,
        num_warmup=3 if quick else 10,
        on_progress=on_progress,
    )
    stamp = environment(device)
    return BenchmarkResult(
        model=name,
        role=role,
        params_m=counted.params_m,
        gmacs_per_view=counted.gmacs,
        num_views=num_views,
        gmacs_per_video=counted.gmacs * num_views,
        batch=batch,
        num_frames=num_frames,
        crop_px=crop_px,
        dtype=dtype,
        mode=mode,
        device=stamp["device"],
        latency_ms=latency,
        throughput_clips_s=throughput_clips_s,
        peak_mem_gib=peak_mem_gib,
        clocks=stamp["clocks"],
        versions=stamp["versions"],
        git_sha=git_sha(),
        quick=quick,
    )
