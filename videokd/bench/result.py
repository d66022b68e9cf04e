"""What one benchmark measured: the noun that `results.json`, the tables and the picture share."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from videokd.bench.parts import (
    STRICT,
    Convention,
    Dtype,
    Form,
    Interval,
    Latency,
    MemoryFormat,
    Mode,
    Roofline,
    Weights,
    WholePath,
)
from videokd.config import did_you_mean
from videokd.errors import UserError

MIN_RUNS = 100
"""Timed runs below which a p95 is hearsay."""
MIN_RUNS_QUICK = 10
"""The same in the quick form, which a result then says of itself."""

__all__ = [
    "MIN_RUNS",
    "MIN_RUNS_QUICK",
    "BenchmarkResult",
    "Dtype",
    "Interval",
    "Latency",
    "Mode",
    "Roofline",
    "Setting",
    "WholePath",
    "read_results",
    "results_json",
]


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """One network, measured in one setting (batch, dtype, mode, device).

    Raises:
        UserError: for fewer than 100 timed runs (10 where `quick`), and for values that cannot be.
    """

    model: str
    role: str
    """`teacher`, `control`, `student`, `no_temporal`, or another word for its part in the study."""
    params_m: float
    """Parameters, 1e6."""
    gmacs_per_view: float
    """1e9 multiply-adds for one clip and one crop."""
    num_views: int
    """Clips x crops a video at evaluation."""
    gmacs_per_video: float
    """`gmacs_per_view` x `num_views`."""
    batch: int
    """Clips in one timed batch."""
    num_frames: int
    """T, frames per clip."""
    crop_px: int
    """S, side of the square crop."""
    dtype: Dtype
    mode: Mode
    device: str
    """`cpu` or `cuda`, a colon, and the name of the processor."""
    latency_ms: Latency
    throughput_clips_s: float
    """Clips per second of synchronised batches; decoding is not in it."""
    form: Form = "trained"
    memory_format: MemoryFormat = "contiguous"
    threads: int | None = None
    """CPU threads that computed it; None on a GPU."""
    weights: Weights = "trained"
    """random: a network of the catalog, timed and counted without its trained weights."""
    convention: Convention = "mac"
    """How `gops_per_view` was counted; `gmacs_per_view` always counts multiply-adds."""
    gops_per_view: float | None = None
    """1e9 operations for one clip and one crop as `convention` counts them; None under `mac`."""
    peak_mem_gib: float | None = None
    """GiB (2^30 bytes) for weights, one input batch and what the forward needs beside them: on a
    GPU as the allocator says, on a CPU by how far resident memory rose; None where not known."""
    energy_j: float | None = None
    """Joules a batch, idle power included; None where the device does not report it."""
    energy_source: str | None = None
    """What reported the energy: `nvml`, `nvidia-smi` or `rapl`."""
    roofline: Roofline | None = None
    """What the device's measured ceilings allow; None where it was not measured."""
    paths: tuple[WholePath, ...] = ()
    """From video files to classes in this setting, one a file; empty where it was not measured."""
    top1_pct: float | None = None
    """Accuracy over videos, percent; None where it was not measured."""
    top5_pct: float | None = None
    top1_interval_pct: Interval | None = None
    """95 % interval of `top1_pct`: (low, high)."""
    top5_interval_pct: Interval | None = None
    num_videos: int | None = None
    """Videos that the accuracy was measured on."""
    protocol: str | None = None
    """How the accuracy was measured: split, views, sampling and crop, in a line."""
    command: str | None = None
    """What to type to get this result again."""
    clocks: Mapping[str, float] | None = None
    """MHz, as read beside the timing; None where they cannot be read."""
    versions: Mapping[str, str] | None = None
    """What ran: videokd, Python, torch, CUDA, driver, threads."""
    git_sha: str | None = None
    """Commit of the code that ran, with `-dirty` where files differed from it."""
    quick: bool = False
    """Measured in the quick form: fewer than 100 timed runs were allowed."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        self._check_runs()
        self._check_sizes()
        self._check_accuracy()

    def _check_runs(self) -> None:
        needed = MIN_RUNS_QUICK if self.quick else MIN_RUNS
        if self.latency_ms.runs < needed:
            form = "the quick form" if self.quick else "a result"
            raise UserError(
                f"{self.model}: latency over {self.latency_ms.runs} timed runs; {form} needs at "
                f"least {needed}"
            )

    def _check_sizes(self) -> None:
        if not self.model.strip() or not self.role.strip():
            raise UserError(f"model {self.model!r}, role {self.role!r}: both need a name")
        counts = ("num_views", "batch", "num_frames", "crop_px", "num_videos", "threads")
        amounts = ("params_m", "peak_mem_gib", "energy_j", "gops_per_view")
        for names, least in ((counts, 1), (amounts, 0)):
            for name in names:
                value = getattr(self, name)
                if value is not None and not least <= value < math.inf:
                    raise UserError(f"{self.model}: {name} is {value}; it is at least {least}")
        if (self.convention == "mac") != (self.gops_per_view is None):
            raise UserError(
                f"{self.model}: convention {self.convention} with gops_per_view "
                f"{self.gops_per_view}; the count stands there where the convention is not mac"
            )
        for name in ("throughput_clips_s", "gmacs_per_view"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{self.model}: {name} is {getattr(self, name)}; it is above 0")
        expected = self.gmacs_per_view * self.num_views
        if not math.isclose(self.gmacs_per_video, expected, rel_tol=1e-6):
            raise UserError(
                f"{self.model}: gmacs_per_video is {self.gmacs_per_video}, but {self.num_views} "
                f"views of {self.gmacs_per_view} are {expected}"
            )

    def _check_accuracy(self) -> None:
        for name in ("top1", "top5"):
            value = getattr(self, f"{name}_pct")
            interval = getattr(self, f"{name}_interval_pct")
            if value is None:
                if interval is not None:
                    raise UserError(f"{self.model}: {name} has an interval but no value")
                continue
            low, high = (value, value) if interval is None else interval
            if not 0 <= low <= value <= high <= 100:
                raise UserError(
                    f"{self.model}: {name} {value} % in ({low}, {high}): percentages lie in 0 to "
                    "100, the value inside its interval"
                )
        if (self.top1_pct is None) != (self.num_videos is None):
            raise UserError(
                f"{self.model}: top1_pct {self.top1_pct} with num_videos {self.num_videos}: an "
                "accuracy and the number of videos behind it go together"
            )
        if self.top5_pct is not None and (self.top1_pct is None or self.top5_pct < self.top1_pct):
            raise UserError(
                f"{self.model}: top5_pct {self.top5_pct} with top1_pct {self.top1_pct}: top-5 is "
                "never below top-1 and never without it"
            )

    @property
    def setting(self) -> Setting:
        """What has to be equal before two latencies may be compared."""
        return Setting(
            self.device,
            self.dtype,
            self.mode,
            self.batch,
            self.threads,
            self.form,
            self.memory_format,
        )

    @property
    def energy_per_clip_j(self) -> float | None:
        """Joules a clip; None where it was not measured."""
        return None if self.energy_j is None else self.energy_j / self.batch

    def with_accuracy(
        self,
        *,
        top1_pct: float,
        num_videos: int,
        top1_interval_pct: Interval | None = None,
        top5_pct: float | None = None,
        top5_interval_pct: Interval | None = None,
    ) -> BenchmarkResult:
        """The same measurement with its accuracy beside it; all percentages over videos."""
        return replace(
            self,
            top1_pct=top1_pct,
            top1_interval_pct=top1_interval_pct,
            top5_pct=top5_pct,
            top5_interval_pct=top5_interval_pct,
            num_videos=num_videos,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, every field in it."""
        return {name: _as_lists(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "result") -> BenchmarkResult:
        """The result in `data`; every key must be known, present and of its type.

        Raises:
            UserError: naming `source` and the field.
        """
        known = {field.name for field in fields(cls)}
        unknown, missing = sorted(set(data) - known), sorted(known - set(data))
        if unknown:
            hint = did_you_mean(unknown[0], missing)
            raise UserError(f"{source}: unknown key {unknown[0]!r}; {hint}")
        if missing:
            raise UserError(f"{source}: {missing[0]} is missing; it was written by another version")
        try:
            # JSON mode: there a list is what a tuple is written as, and nothing else is coerced.
            return _adapter().validate_json(json.dumps(dict(data)))
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise UserError(f"{source}: {where}: {fault['msg']}") from None


class Setting(NamedTuple):
    """What has to be equal before two latencies may be compared."""

    device: str
    dtype: str
    mode: str
    batch: int
    threads: int | None = None
    form: str = "trained"
    memory_format: str = "contiguous"

    def __str__(self) -> str:
        words = [self.device, self.dtype, self.mode, f"batch {self.batch}"]
        if self.threads is not None:
            words.append(f"{self.threads} thread{'' if self.threads == 1 else 's'}")
        words += [self.form] if self.form != "trained" else []
        words += [self.memory_format] if self.memory_format != "contiguous" else []
        return ", ".join(words)


def results_json(results: Sequence[BenchmarkResult]) -> str:
    """The text of `results.json`: a list, in the given order."""
    data = [result.to_dict() for result in results]
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_results(path: Path | str) -> list[BenchmarkResult]:
    """The results that a report wrote to `results.json`.

    Raises:
        UserError: for a missing file, one that is not JSON, or a field that does not fit.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise UserError(f"{path}: a list of benchmark results is expected here")
    return [
        BenchmarkResult.from_dict(item, source=f"{path}: result {position}")
        for position, item in enumerate(data)
    ]


def _as_lists(value: Any) -> Any:
    """Plain data without tuples, as JSON would give it back."""
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


@functools.cache
def _adapter() -> TypeAdapter[BenchmarkResult]:
    return TypeAdapter(BenchmarkResult)
