"""The parts of a `BenchmarkResult` that are nouns of their own: times, roofline, whole path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from videokd.errors import UserError

Dtype = Literal["fp32", "tf32", "bf16", "fp16"]
"""tf32: fp32 numbers whose products a GPU's tensor cores compute with ten bits of mantissa."""
Mode = Literal["eager", "compile", "graph", "compile_graph"]
"""graph: captured once as a CUDA graph and replayed; compile_graph: the compiled network so."""
Form = Literal["trained", "deployed"]
"""trained: the network as it was trained, without its taps; deployed: its fast form."""
MemoryFormat = Literal["contiguous", "channels_last"]
Weights = Literal["trained", "random"]
Convention = Literal["mac", "flop", "fvcore", "mmaction2"]
Limit = Literal["compute", "memory", "overhead", "kernels"]
Interval = tuple[float, float]

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
LIVE_FPS = 25.0
"""Frames per second of a live stream."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The distribution of the timed runs, in ms a batch; `spread` and `runs` have no unit."""

    p50: float
    p95: float
    p99: float
    mean: float
    spread: float
    """Interquartile range divided by the median, (p75 - p25) / p50: 0.02 is a quiet machine."""
    runs: int
    """How many runs were timed."""
    p50_interval: Interval | None = None
    """At least 95 % interval of p50, between two of the sorted runs."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 0 < self.p50 <= self.p95 <= self.p99 < math.inf:
            raise UserError(
                f"latency p50 {self.p50}, p95 {self.p95}, p99 {self.p99} ms: "
                "percentiles are above 0 and do not fall; measure again"
            )
        if not (0 < self.mean < math.inf and 0 <= self.spread < math.inf and self.runs >= 1):
            raise UserError(
                f"latency mean {self.mean} ms, spread {self.spread}, runs {self.runs}: mean and "
                "runs are above 0, spread is not negative; measure again"
            )
        low, high = self.p50_interval or (self.p50, self.p50)
        if not 0 < low <= self.p50 <= high < math.inf:
            raise UserError(
                f"latency p50 {self.p50} ms lies outside its interval {low} to {high}; measure "
                "again"
            )


@dataclass(frozen=True, slots=True)
class Roofline:
    """What one batch would take if the device reached its measured ceilings, and what it took."""

    peak_gmacs_s: float
    """1e9 multiply-adds per second of large matrix products or pointwise convolutions, as measured
    on this device."""
    bandwidth_gib_s: float
    """GiB per second, read and written, of large copies, as measured on this device."""
    compute_ms: float
    """Multiply-adds of the batch over the peak."""
    memory_ms: float
    """Bytes that convolutions, linear layers, products and attention read and write, all between
    them fused into them, over the bandwidth."""
    layers_ms: float
    """Bytes moved when each operation reads its inputs and writes its outputs, over the
    bandwidth: more than was measured where caches served them."""
    floor_ms: float
    """The larger of `compute_ms` and `memory_ms`: the roofline. Only a network whose tensors stay
    in the caches from one layer to the next can be faster."""
    reached_part: float
    """`floor_ms` / p50: 1 is the ceiling."""
    limited_by: Limit
    """compute or memory: that ceiling explains half of p50 or more (`compute_ms` against
    `layers_ms`). Otherwise overhead: half of p50 or more does not depend on the batch (launches,
    the framework, too little work to fill the device). Otherwise kernels: the time grows with the
    batch, but the operations run far below both ceilings."""
    fixed_ms: float | None
    """Time of a batch that does not grow with it; None where it was not needed for the verdict."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        amounts = (self.peak_gmacs_s, self.bandwidth_gib_s, self.floor_ms, self.reached_part)
        if not all(0 < value < math.inf for value in amounts):
            raise UserError(
                f"roofline of {self.peak_gmacs_s} GMAC/s and {self.bandwidth_gib_s} GiB/s, floor "
                f"{self.floor_ms} ms, reached {self.reached_part}: all are above 0; measure again"
            )


@dataclass(frozen=True, slots=True)
class WholePath:
    """From a video file to classes: ms a clip of each stage, medians."""

    file: str
    """The video's file name."""
    height: int
    """px"""
    width: int
    """px"""
    reader: str
    """What decoded it: the fastest reader that is exact for the file."""
    span_seconds: float
    """From the first frame of a clip to the end of its last one."""
    decode_ms: float
    """Open the file and decode a clip's frames to RGB."""
    preprocess_ms: float
    """Crop and resize, uint8."""
    copy_ms: float
    """To the device, uint8; on a CPU into the batch."""
    convert_ms: float
    """uint8 to the network's numbers in [0, 1], on the device."""
    model_ms: float
    post_ms: float
    """Softmax, mean over views, five best classes, back on the host."""
    frame_decode_ms: float
    """One frame when all are decoded in order, as a live stream must be, on one thread."""
    frame_rgb_ms: float
    """One decoded frame to RGB, of those that a clip takes from a live stream."""
    host_ms_per_second: float
    """Per second of a live 25 fps stream with one prediction a second: 25 frames decoded, one clip
    preprocessed; on a CPU everything else too."""
    device_ms_per_second: float
    """The same on a GPU: copy, convert, model, post; 0 on a CPU."""
    live_streams: float
    """25 fps streams with one prediction a second that one process sustains."""
    live_streams_back_to_back: float
    """The same with one prediction every `span_seconds`, so that each moment is seen once."""
    runs: int
    """How often each stage was timed."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def clip_ms(self) -> float:
        """The stages of one clip, one after the other."""
        return (
            self.decode_ms
            + self.preprocess_ms
            + self.copy_ms
            + self.convert_ms
            + self.model_ms
            + self.post_ms
        )

    @property
    def ms_per_video_second(self) -> float:
        """Work per second of a stored video that is seen once, clip after clip."""
        return self.clip_ms / self.span_seconds
