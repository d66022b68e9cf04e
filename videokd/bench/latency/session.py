"""One network in one setting: prepared and checked once, then timed turn by turn."""

from __future__ import annotations

import gc
import itertools
import statistics
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from videokd.bench.complexity import count_traffic
from videokd.bench.latency.buffers import Buffers
from videokd.bench.latency.energy import Energy, energy_meter, energy_of_a_batch
from videokd.bench.latency.memory import peak_bytes
from videokd.bench.latency.prepare import (
    captured,
    check_logits,
    formed,
    frozen_copy,
    logits_on_cpu,
    plainly,
    runner,
)
from videokd.bench.latency.roofline import fixed_part_ms, measure_ceilings, roofline
from videokd.bench.latency.settings import DTYPES, BenchSetting, in_setting
from videokd.bench.latency.timing import Run, summarize, throughput_clips_s, time_once, warm_up
from videokd.bench.parts import Latency, Roofline

_NUM_CHECKED = 2
"""Batches whose logits are held against fp32: two, so that a network that returns its first
answer for ever is seen."""
_UNTIMED_A_TURN = 2
"""Runs at the start of each later turn: another network was in the caches."""


class Session:
    """A frozen copy of a network, ready to be timed; nothing of the original changes.

    Everything happens in `in_setting` and inference mode, which the caller holds open.

    Args:
        model: takes clips in [0, 1], returns logits or an object with `.logits`.
        setting: possible on the device.
        num_frames: T.
        crop_px: S.
        buffers: where input batches come from.

    Raises:
        UserError: a network that does not run in this setting, or whose logits are not those of
            fp32 eager.
    """

    def __init__(
        self,
        model: nn.Module,
        setting: BenchSetting,
        *,
        num_frames: int,
        crop_px: int,
        buffers: Buffers,
    ) -> None:
        self.setting, self.device = setting, buffers.device
        self.num_frames, self.crop_px = num_frames, crop_px
        self.times_ms: list[float] = []
        self._model, self._buffers = model, buffers
        self.batches = buffers.get(
            (setting.batch, 3, num_frames, crop_px, crop_px),
            DTYPES[setting.dtype],
            channels_last=setting.memory_format == "channels_last",
        )
        self._clips = itertools.cycle(self.batches)
        reference = frozen_copy(model, self.device)
        wanted = self._wanted(reference)
        self.net = formed(reference, setting)
        del reference
        gc.collect()
        self.num_graphs: str | None = None
        self.run: Run = self.net
        self.peak_mem_gib = plainly(self._prepare, self.batches[0], self._how)
        check_logits(self.run, setting, self.batches[:_NUM_CHECKED], wanted)

    def time(self, num_runs: int, *, num_warmup: int) -> None:
        """One turn: warm up, at the first turn until the times hold still, then time runs."""
        if self.times_ms:
            for _ in range(_UNTIMED_A_TURN if num_warmup else 0):
                self.run(next(self._clips))
        else:
            warm_up(self.run, self._clips, self.device, num_warmup)
        for _ in range(num_runs):
            self.times_ms.append(time_once(self.run, next(self._clips), self.device))

    @property
    def latency(self) -> Latency:
        """Of all turns."""
        return summarize(self.times_ms)

    @property
    def throughput_clips_s(self) -> float:
        """Clips per second of the synchronised batches of all turns."""
        return throughput_clips_s(self.times_ms, self.setting.batch)

    def energy(self, *, seconds: float) -> Energy | None:
        """Joules a batch; None where the device does not report its power."""
        meter = energy_meter(self.device)
        if meter is None:
            return None
        wait = partial(torch.cuda.synchronize, self.device) if self._on_gpu else _nothing
        return energy_of_a_batch(meter, self.run, self.batches, seconds=seconds, wait=wait)

    def roofline(self, gmacs_per_view: float, *, num_runs: int) -> Roofline:
        """The timed batch under the device's ceilings; `num_runs` of another batch, if need be."""
        setting = self.setting
        traffic = count_traffic(
            self.net,
            num_frames=self.num_frames,
            crop_px=self.crop_px,
            dtype=setting.dtype,
            batch=setting.batch,
        )
        return roofline(
            measure_ceilings(self.device, setting.dtype),
            gmacs=gmacs_per_view * setting.batch,
            traffic=traffic,
            p50_ms=self.latency.p50,
            fixed_ms=lambda: self._fixed_ms(num_runs),
        )

    def _fixed_ms(self, num_runs: int) -> float:
        """Of p50, by this batch and another one, timed in turn: the machine is the same to both."""
        batch = self.setting.batch
        other = Session(
            self._model,
            replace(self.setting, batch=2 if batch == 1 else batch // 2),
            num_frames=self.num_frames,
            crop_px=self.crop_px,
            buffers=self._buffers,
        )
        mine: list[float] = []
        for _ in range(num_runs):
            other.time(1, num_warmup=1)
            self.run(next(self._clips))
            mine.append(time_once(self.run, next(self._clips), self.device))
        now_ms = statistics.median(mine)
        fixed = fixed_part_ms(batch, now_ms, other.setting.batch, other.latency.p50)
        return fixed * self.latency.p50 / now_ms

    def _wanted(self, reference: nn.Module) -> list[torch.Tensor]:
        """Logits of the network itself in fp32 eager, on the batches that are checked."""
        with in_setting(replace(self.setting, dtype="fp32"), self.device):
            return [
                logits_on_cpu(reference, clips.float(), "fp32, eager")
                for clips in self.batches[:_NUM_CHECKED]
            ]

    def _prepare(self) -> float | None:
        """Compile, capture, run; GiB for weights, one batch and what the forward needs beside."""
        first = self.batches[0]
        ready, self.num_graphs = runner(self.net, self.setting, first)

        def capture_and_run() -> None:
            self.run = captured(ready, self.setting, first)

        raised = peak_bytes(capture_and_run, self.device)
        if raised is None:
            return None
        tensors = itertools.chain(self.net.parameters(), self.net.buffers())
        return (raised + first.nbytes + sum(tensor.nbytes for tensor in tensors)) / 2**30

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def _how(self) -> str:
        return f"{self.setting.dtype}, {self.setting.mode}"


def _nothing() -> None:
    pass
