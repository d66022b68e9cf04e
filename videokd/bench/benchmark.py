"""Networks in settings, measured whole: complexity, latency, roofline, and the machine's stamp."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from videokd.bench.complexity import Complexity, count_complexity
from videokd.bench.environment import environment, git_sha
from videokd.bench.latency import (
    BenchSetting,
    Progress,
    Session,
    in_rounds,
    in_setting,
    usable_device,
)
from videokd.bench.latency.buffers import Buffers
from videokd.bench.latency.path import Source, source_of, time_path
from videokd.bench.latency.settings import why_not
from videokd.bench.parts import Convention, Weights, WholePath
from videokd.bench.result import MIN_RUNS, MIN_RUNS_QUICK, BenchmarkResult
from videokd.data.scan import scan_video
from videokd.errors import UserError
from videokd.models.video_model import VideoModel

_ENERGY_SECONDS = 3.0
_ENERGY_SECONDS_QUICK = 0.5
_FIXED_RUNS = 10
_FIXED_RUNS_QUICK = 3
_PATH_RUNS = 20
_PATH_RUNS_QUICK = 5


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to measure, and what is said of it."""

    model: VideoModel
    name: str
    role: str
    """Its part in the study."""
    weights: Weights = "trained"
    num_views: int = 1
    """Clips x crops a video at evaluation, for the multiply-adds of a video."""
    num_frames: int | None = None
    """T; None takes what the model was made for."""
    argument: str = ""
    """How the command line names it."""

    @property
    def frames(self) -> int:
        """T."""
        return self.num_frames or self.model.spec.num_frames


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """What to measure of each subject."""

    settings: Sequence[BenchSetting] = (BenchSetting(),)
    device: torch.device | str = "cpu"
    quick: bool = False
    """10 timed runs where 100 are usual; the results say so."""
    convention: Convention = "mac"
    by_module: bool = False
    videos: Sequence[Path] = ()
    """Files for the whole path."""


class LeftOut(NamedTuple):
    """A setting in which a network was not measured."""

    name: str
    setting: BenchSetting
    reason: str

    def __str__(self) -> str:
        return f"{self.name}, {self.setting}: left out: {self.reason}"


@dataclass
class Benchmarks:
    """What was measured, by subject, then by setting."""

    results: list[list[BenchmarkResult]]
    """One list a subject, in the order of the plan's settings."""
    left_out: list[LeftOut] = field(default_factory=list)
    complexities: list[Complexity] = field(default_factory=list)
    """One a subject."""


def benchmark_models(
    subjects: Sequence[Subject],
    plan: BenchPlan,
    *,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Benchmarks:
    """Count and time each network in each setting; accuracy is added by `with_accuracy`.

    Setting by setting, all networks lie on the device together and are timed in rounds.

    Args:
        subjects: what to measure.
        plan: how.
        on_progress: called as `(done, total, note)` while timing.

    Raises:
        UserError: nothing of it could be measured, with the first reason; a video too short.
        UnreadableVideo: a video that does not decode.
    """
    where = usable_device(plan.device)
    complexities = [_counted(subject, plan) for subject in subjects]
    scanned = [scan_video(path) for path in plan.videos]
    sources = [[source_of(video, one.model.spec) for video in scanned] for one in subjects]
    measured: dict[tuple[int, BenchSetting], BenchmarkResult] = {}
    left_out: list[LeftOut] = []
    for number, setting in enumerate(plan.settings):
        if reason := why_not(setting, where):
            left_out += [LeftOut(subject.name, setting, reason) for subject in subjects]
            continue
        step = _Step(plan, setting, where, _part(on_progress, number, len(plan.settings)))
        found = step.measure(subjects, complexities, sources, left_out)
        measured |= {(position, setting): result for position, result in found.items()}
    if not measured:
        raise UserError(left_out[0].reason)
    rows = [
        [measured[i, setting] for setting in plan.settings if (i, setting) in measured]
        for i in range(len(subjects))
    ]
    return Benchmarks(rows, left_out, complexities)


def benchmark_model(
    model: VideoModel,
    *,
    name: str,
    role: str,
    num_views: int = 1,
    setting: BenchSetting | None = None,
    device: torch.device | str = "cpu",
    quick: bool = False,
) -> BenchmarkResult:
    """One network in one setting; see `benchmark_models`."""
    subject = Subject(model=model, name=name, role=role, num_views=num_views)
    settings = (setting or BenchSetting(threads=torch.get_num_threads()),)
    found = benchmark_models([subject], BenchPlan(settings=settings, device=device, quick=quick))
    return found.results[0][0]


@dataclass
class _Step:
    """All networks in one setting."""

    plan: BenchPlan
    setting: BenchSetting
    device: torch.device
    on_progress: Progress | None

    def measure(
        self,
        subjects: Sequence[Subject],
        complexities: Sequence[Complexity],
        sources: Sequence[Sequence[Source]],
        left_out: list[LeftOut],
    ) -> dict[int, BenchmarkResult]:
        """Position of the subject -> its result; those that fail are told to `left_out`."""
        quick = self.plan.quick
        with in_setting(self.setting, self.device), torch.inference_mode():
            sessions = self._prepared(subjects, left_out)
            in_rounds(
                list(sessions.values()),
                num_runs=MIN_RUNS_QUICK if quick else MIN_RUNS,
                num_warmup=3 if quick else 10,
                on_progress=self.on_progress,
            )
            stamp = environment(self.device) | {"git_sha": git_sha()}
            return {
                i: self._result(subjects[i], session, complexities[i], sources[i], stamp)
                for i, session in sessions.items()
            }

    def _prepared(self, subjects: Sequence[Subject], left_out: list[LeftOut]) -> dict[int, Session]:
        buffers = Buffers(self.device)
        sessions: dict[int, Session] = {}
        for position, subject in enumerate(subjects):
            if self.on_progress is not None:
                self.on_progress(0, 1, f"prepare {subject.name}")
            try:
                sessions[position] = Session(
                    subject.model,
                    self.setting,
                    num_frames=subject.frames,
                    crop_px=subject.model.spec.crop_px,
                    buffers=buffers,
                )
            except UserError as error:
                left_out.append(LeftOut(subject.name, self.setting, str(error)))
        return sessions

    def _result(
        self,
        subject: Subject,
        session: Session,
        complexity: Complexity,
        sources: Sequence[Source],
        stamp: dict[str, Any],
    ) -> BenchmarkResult:
        quick, setting = self.plan.quick, self.setting
        if self.on_progress is not None:
            self.on_progress(1, 1, f"roofline {subject.name}")
        energy = session.energy(seconds=_ENERGY_SECONDS_QUICK if quick else _ENERGY_SECONDS)
        versions = dict(stamp["versions"])
        if session.num_graphs is not None:
            versions["compiled_graphs"] = session.num_graphs
        return BenchmarkResult(
            model=subject.name,
            role=subject.role,
            params_m=complexity.params_m,
            gmacs_per_view=complexity.gmacs,
            num_views=subject.num_views,
            gmacs_per_video=complexity.gmacs * subject.num_views,
            batch=setting.batch,
            num_frames=subject.frames,
            crop_px=subject.model.spec.crop_px,
            dtype=setting.dtype,
            mode=setting.mode,
            device=stamp["device"],
            latency_ms=session.latency,
            throughput_clips_s=session.throughput_clips_s,
            form=setting.form,
            memory_format=setting.memory_format,
            threads=None if self.device.type == "cuda" else torch.get_num_threads(),
            weights=subject.weights,
            convention=complexity.convention,
            gops_per_view=None if complexity.convention == "mac" else complexity.gops,
            peak_mem_gib=session.peak_mem_gib,
            energy_j=energy.joules if energy is not None else None,
            energy_source=energy.source if energy is not None else None,
            roofline=session.roofline(
                complexity.gmacs, num_runs=_FIXED_RUNS_QUICK if quick else _FIXED_RUNS
            ),
            paths=tuple(self._path(session, source) for source in sources),
            clocks=stamp["clocks"],
            versions=versions,
            git_sha=stamp["git_sha"],
            quick=quick,
            command=command_of(subject, self.plan, setting),
        )

    def _path(self, session: Session, source: Source) -> WholePath:
        num_runs = _PATH_RUNS_QUICK if self.plan.quick else _PATH_RUNS
        return time_path(session, source, num_runs=num_runs)


def command_of(subject: Subject, plan: BenchPlan, setting: BenchSetting) -> str | None:
    """What to type to get this row again; None for a network that the command line cannot name."""
    if not subject.argument:
        return None
    device = torch.device(plan.device).type
    words = ["videokd", "bench", subject.argument, "--device", device]
    words += ["--batch", str(setting.batch), "--dtype", setting.dtype, "--mode", setting.mode]
    words += ["--form", setting.form, "--memory-format", setting.memory_format]
    words += ["--threads", str(setting.threads)] if device == "cpu" and setting.threads else []
    words += ["--convention", plan.convention] if plan.convention != "mac" else []
    words += [word for video in plan.videos for word in ("--path", str(video))]
    return shlex.join([*words, "--quick"] if plan.quick else words)


def _counted(subject: Subject, plan: BenchPlan) -> Complexity:
    return count_complexity(
        subject.model,
        num_frames=subject.frames,
        crop_px=subject.model.spec.crop_px,
        convention=plan.convention,
        by_module=plan.by_module,
    )


def _part(report: Progress | None, number: int, count: int) -> Progress | None:
    """Progress of one of `count` equal parts as progress of the whole."""
    if report is None:
        return None
    told = report

    def part(done: int, total: int, note: str) -> None:
        told(number * 1000 + done * 1000 // total, count * 1000, note)

    return part
