"""What distilling costs a step: not at all, from a cache, and with the teacher online.

Three runs of one recipe on one machine take turns in rounds, on the same draws, through the real
training loop with its loader, so that what each costs is what a user pays. Videos are rendered here
and all weights are random: neither changes the time of a step.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from videokd.bench.environment import environment
from videokd.checkpoint import BEST, save_checkpoint
from videokd.config import parse_config
from videokd.data.index import Index
from videokd.data.indexing import index_synthetic
from videokd.engine.train import Trainer, TrainState
from videokd.errors import ConfigError
from videokd.experiments.caching import CacheOutcome, cache_teacher
from videokd.progress import Report, show_progress
from videokd.recipe import Device, RunConfig, build, create_fabric, create_model

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PLAIN, CACHED, ONLINE = "plain", "cached", "online"
MOST_CACHED_OVER_PLAIN = 1.1
LEAST_ONLINE_OVER_CACHED = 3.0
_NUM_CLASSES = 12
"""Of the rendered videos."""
_VIDEO_SETTINGS = ("size_px=256", "num_frames=80", "fps=25", "val_videos=12", "test_videos=12")
"""Long enough for 64 neighbouring frames with some chance left. No split may be empty."""


@dataclass(frozen=True, kw_only=True)
class CostPlan:
    """What is timed."""

    teacher: str = "slowfast_r50_8x8"
    """Name in the catalogue."""
    student: str = "tsm_mobilenetv2"
    """Name in the catalogue; it sees 8 frames, 8 apart, at 224 px."""
    batch_size: int = 8
    num_steps: int = 6
    """Timed in each turn."""
    num_rounds: int = 3
    num_workers: int = 1
    """Processes that decode."""
    hint: tuple[str, str] | None = None
    """Taps of student and teacher that a hint compares beside the logits; the cache holds the
    teacher's then."""

    @property
    def num_untimed(self) -> int:
        """First steps of a turn: what workers made ahead has to be used up."""
        return 2 * self.num_workers + 1

    @property
    def num_videos(self) -> int:
        """Enough that a turn ends before an epoch does; a multiple of the classes."""
        needed = (self.num_untimed + self.num_steps + 1) * self.batch_size
        return -(-needed // _NUM_CLASSES) * _NUM_CLASSES


class Spread(NamedTuple):
    """A number that each round has its own of."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class CacheCost:
    """Seconds a step, round by round, and what they come to."""

    plan: CostPlan
    seconds: dict[str, list[float]]
    """`plain`, `cached`, `online` -> median of the timed steps, one a round."""
    cache: CacheOutcome
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def cached_over_plain(self) -> Spread:
        """What reading costs, each round against itself."""
        return _ratio(self.seconds[CACHED], self.seconds[PLAIN])

    @property
    def online_over_cached(self) -> Spread:
        """What is saved."""
        return _ratio(self.seconds[ONLINE], self.seconds[CACHED])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the goals."""
        return {
            "plan": vars(self.plan),
            "seconds_per_step": self.seconds,
            "cached_over_plain": self.cached_over_plain._asdict(),
            "online_over_cached": self.online_over_cached._asdict(),
            "goals": {
                "cached_over_plain": MOST_CACHED_OVER_PLAIN,
                "online_over_cached": LEAST_ONLINE_OVER_CACHED,
            },
            "bytes_per_clip": self.cache.bytes_per_clip,
            "cache_seconds": self.cache.seconds,
            **self.environment,
        }


def measure_cost(
    folder: Path, plan: CostPlan, *, device: Device = "auto", quiet: bool = False
) -> CacheCost:
    """Render, cache, and time the three runs in turn; the folder can be removed afterwards.

    Raises:
        ConfigError: networks that are not in the catalogue, or do not go together.
    """
    if min(plan.batch_size, plan.num_steps, plan.num_rounds) < 1:
        raise ConfigError("steps, rounds and clips of a batch must be at least 1")
    with show_progress("render and index", quiet=quiet) as report:
        index = _rendered(folder / "videos", plan, report)
    fabric = create_fabric(device)
    teacher = _random_teacher(folder / "teacher", plan, index)
    configs = {name: _config(name, plan, folder, index, teacher) for name in (PLAIN, ONLINE)}
    cache = cache_teacher(
        configs[ONLINE], folder / "cache", num_epochs=1, device=device, insist=True, quiet=quiet
    )
    configs[CACHED] = _config(CACHED, plan, folder, index, teacher)
    trainers = {name: build(configs[name], fabric) for name in (PLAIN, CACHED, ONLINE)}
    with show_progress("time steps", quiet=quiet) as report:
        seconds = _in_rounds(trainers, plan, fabric, report)
    return CacheCost(plan, seconds, cache, environment(fabric.device))


def _rendered(folder: Path, plan: CostPlan, report: Report) -> Index:
    settings = [*_VIDEO_SETTINGS, f"train_videos={plan.num_videos}"]
    return index_synthetic(folder, preset="study", seed=0, settings=settings, on_progress=report)


def _random_teacher(folder: Path, plan: CostPlan, index: Index) -> Path:
    """A checkpoint of the teacher as a run would leave it, untrained."""
    config = _parsed(
        _settings(plan, index) | {"model": {"preset": plan.teacher}, "output_dir": str(folder)}
    )
    model, _ = create_model(config, index.classes)
    content = {
        "recipe": config.model_dump(mode="json"),
        "class_names": list(index.classes),
        "model": model.state_dict(),
        "state": vars(TrainState()),
    }
    save_checkpoint(folder / BEST, content)
    return folder


def _config(name: str, plan: CostPlan, folder: Path, index: Index, teacher: Path) -> RunConfig:
    settings = _settings(plan, index) | {"output_dir": str(folder / name)}
    if name != PLAIN:
        settings["role"] = "student"
        settings["teacher"] = {"checkpoint": str(teacher)}
        settings["objective"] = {"terms": _terms(plan)}
    if name == CACHED:
        settings["teacher"]["cache"] = str(folder / "cache")
    return _parsed(settings)


def _terms(plan: CostPlan) -> dict[str, Any]:
    terms: dict[str, Any] = {
        "labels": {"kind": "cross_entropy", "weight": 0.1},
        "soft": {"kind": "soft_targets", "weight": 0.9, "temperature": 4},
    }
    if plan.hint is not None:
        student_tap, teacher_tap = plan.hint
        terms["hint"] = {"kind": "hint", "student_tap": student_tap, "teacher_tap": teacher_tap}
    return terms


def _settings(plan: CostPlan, index: Index) -> dict[str, Any]:
    return {
        "role": "control",
        "data": {
            "index": str(index.path),
            "val_split": None,
            "num_workers": plan.num_workers,
            "augment": {
                "crop": {"kind": "random_resized", "scale": [0.3, 1.0]},
                "flip": {"probability": 0.5},
            },
        },
        "model": {
            "preset": plan.student,
            "pretrained": False,
            "input": {"sampling": {"kind": "dense", "num_frames": 8, "stride": 8}, "crop_px": 224},
        },
        "objective": {"terms": {"labels": {"kind": "cross_entropy"}}},
        "train": {
            "epochs": 1,
            "batch_size": plan.batch_size,
            "optim": {"kind": "sgd", "lr": 0.01},
            "log_every_steps": 1000,
            "tensorboard": False,
        },
    }


def _parsed(settings: dict[str, Any]) -> RunConfig:
    return parse_config(RunConfig, settings, source="cost of a cache")


class _TurnOverError(Exception):
    """The others' turn."""


def _in_rounds(
    trainers: dict[str, Trainer], plan: CostPlan, fabric: Fabric, report: Report
) -> dict[str, list[float]]:
    """Each in each round; who begins changes, so that no one always follows the same."""
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    names = list(trainers)
    total = plan.num_rounds * len(names)
    for number in range(total):
        turn, place = divmod(number, len(names))
        name = names[(turn + place) % len(names)]
        report(number, total, name)
        seconds[name].append(statistics.median(_timed_steps(trainers[name], plan, fabric)))
    report(total, total, "")
    return seconds


def _timed_steps(trainer: Trainer, plan: CostPlan, fabric: Fabric) -> Sequence[float]:
    """Seconds of each timed step of a turn, from the first draw on."""
    ends: list[float] = []
    trainer.state = TrainState()
    with contextlib.suppress(_TurnOverError):
        trainer.fit([], on_progress=_stopwatch(ends, plan, fabric))
    steps = [later - earlier for earlier, later in pairwise(ends)]
    return steps[-plan.num_steps :]


def _stopwatch(
    ends: list[float], plan: CostPlan, fabric: Fabric
) -> Callable[[int, int, str], None]:
    def note(_done: int, _total: int, _note: str) -> None:
        if fabric.device.type == "cuda":
            torch.cuda.synchronize(fabric.device)
        ends.append(time.perf_counter())
        if len(ends) == plan.num_untimed + plan.num_steps:
            raise _TurnOverError

    return note


def _ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return Spread(statistics.median(ratios), min(ratios), max(ratios))
