"""Networks timed against each other, in rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from videokd.bench.latency.buffers import Buffers
from videokd.bench.latency.session import Session
from videokd.bench.latency.settings import BenchSetting, in_setting, usable_device, why_not
from videokd.bench.latency.timing import Progress
from videokd.bench.parts import Dtype, Latency, Mode
from videokd.errors import UserError

ROUNDS = 5
"""In each round every network has its turn, in an order that turns around by round: what slows the
machine down for a while slows all of them."""


class Measurement(NamedTuple):
    """What `measure_latency` found."""

    latency: Latency
    """ms a batch."""
    throughput_clips_s: float
    """Clips per second of synchronised batches: batch / mean latency."""
    peak_mem_gib: float | None
    """GiB for weights, one input batch and what the forward needs; None where it is not known."""


def measure_latency(
    model: nn.Module,
    *,
    num_frames: int,
    crop_px: int,
    batch: int,
    device: torch.device | str,
    dtype: Dtype,
    mode: Mode = "eager",
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
        mode: compilation and capture fall before the warm-up.
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
    setting = BenchSetting(batch=batch, dtype=dtype, mode=mode, threads=torch.get_num_threads())
    if reason := why_not(setting, where):
        raise UserError(reason)
    with in_setting(setting, where), torch.inference_mode():
        session = Session(
            model, setting, num_frames=num_frames, crop_px=crop_px, buffers=Buffers(where)
        )
        in_rounds([session], num_runs=num_runs, num_warmup=num_warmup, on_progress=on_progress)
    return Measurement(session.latency, session.throughput_clips_s, session.peak_mem_gib)


def in_rounds(
    sessions: Sequence[Session],
    *,
    num_runs: int,
    num_warmup: int,
    on_progress: Progress | None = None,
) -> None:
    """Time `num_runs` of each session, all in the same setting, turn by turn."""
    rounds = min(ROUNDS, num_runs)
    done, total = 0, num_runs * len(sessions)
    for number in range(rounds):
        share = num_runs * (number + 1) // rounds - num_runs * number // rounds
        for session in sessions if number % 2 == 0 else list(reversed(sessions)):
            session.time(share, num_warmup=num_warmup)
            done += share
            if on_progress is not None:
                on_progress(done, total, f"{session.times_ms[-1]:.1f} ms")
