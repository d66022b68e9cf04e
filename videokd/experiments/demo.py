"""The whole story in minutes: embedded videos, a teacher, and one student trained three ways.

Everything goes through the same recipes, loader, engine and benchmark as a real data set does.
An interrupted demo goes on where it stopped when the same command is started again.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videokd.bench.report import ReportPaths, Section, print_results, write_report
from videokd.bench.result import BenchmarkResult
from videokd.data.indexing import index_synthetic
from videokd.errors import UserError
from videokd.experiments.benchmark import benchmark_runs
from videokd.experiments.compare import compare_reported
from videokd.files import read_text, write_text
from videokd.progress import duration, say, show_progress
from videokd.recipe import Device, RunConfig, load_recipe
from videokd.runs import evaluate, train

ROLES = ("teacher", "control", "student", "no_temporal")
"""In the order of training: the student needs the teacher."""

QUICK = ("train.epochs=1", "train.optim.warmup_epochs=0", "train.batch_size=8")
"""Laid over every recipe by `--quick`: all steps are walked, and accuracies mean nothing."""


@dataclass(frozen=True)
class DemoOutcome:
    """What the demo ends with."""

    results: list[BenchmarkResult]
    report: ReportPaths
    seconds: float


def run_demo(
    out: Path, *, seed: int = 0, quick: bool = False, device: Device = "auto"
) -> DemoOutcome:
    """Render, train, evaluate, benchmark, report; prints the table and where everything lies."""
    started = time.monotonic()
    clock = _Clock(out / "seconds.json")
    recipes = {role: demo_recipe(role, out, seed=seed, quick=quick) for role in ROLES}
    with clock.measure("data"), show_progress("1/7 render and index videos") as report:
        index = index_synthetic(
            out / "data",
            preset="tiny" if quick else "demo",
            seed=seed,
            on_progress=report,
        )
    accuracy: dict[str, dict[str, Any]] = {}
    for number, role in enumerate(ROLES, start=2):
        say(f"{number}/7 {role}")
        with clock.measure(role):
            # Nothing has learnt anything in the quick form.
            train(recipes[role], device=device, insist=quick)
            accuracy[role] = evaluate(out / role, device=device)
    say("6/7 benchmark")
    with clock.measure("benchmark"):
        results = benchmark_runs([out / role for role in ROLES], device=device, quick=quick)
    say("7/7 report")
    comparisons, not_compared = compare_reported([out / role for role in ROLES], results)
    seconds = clock.total()
    paths = write_report(
        results,
        out,
        title="videokd demo: one student, three ways" + (" (quick)" if quick else ""),
        notes=[*_notes(len(index), results, seconds, quick=quick), *not_compared],
        commands=[_command(out, seed=seed, quick=quick)],
        sections=[_per_class(accuracy), _seconds_table(clock)],
        comparisons=comparisons,
        chance_pct=100 / len(index.classes),
    )
    _print_outcome(results, paths, time.monotonic() - started)
    return DemoOutcome(results, paths, seconds)


def demo_recipe(role: str, out: Path, *, seed: int, quick: bool) -> RunConfig:
    """The recipe `configs/demo/<role>.yaml` with this demo's folders and seed."""
    overrides = [f"data.index={out}/data/index.csv", f"output_dir={out}/{role}", f"seed={seed}"]
    if role == "student":
        overrides.append(f"teacher.checkpoint={out}/teacher")
    return load_recipe(recipes_dir() / f"{role}.yaml", [*overrides, *(QUICK if quick else ())])


def recipes_dir() -> Path:
    """`configs/demo`, in the clone that this package is installed from."""
    folder = Path(__file__).resolve().parents[2] / "configs" / "demo"
    if not folder.is_dir():
        raise UserError(
            f"{folder}: the demo's recipes are not here; run it from a clone installed with "
            "pip install -e ."
        )
    return folder


class _Clock:
    """Seconds a stage took, kept in a file so that a resumed demo knows its whole time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = {}
        if path.is_file():
            with suppress(json.JSONDecodeError):  # only a note of time
                self.seconds = dict(json.loads(read_text(path)))
        self._stage = ""
        self._started = 0.0

    def measure(self, stage: str) -> _Clock:
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        spent = self.seconds.get(self._stage, 0.0) + time.monotonic() - self._started
        self.seconds[self._stage] = round(spent, 1)
        write_text(self._path, json.dumps(self.seconds, indent=1) + "\n")

    def total(self) -> float:
        return sum(self.seconds.values())


def _command(out: Path, *, seed: int, quick: bool) -> str:
    text = "videokd demo"
    text += f" --out {out}" if out != Path("runs/demo") else ""
    text += f" --seed {seed}" if seed else ""
    return text + (" --quick" if quick else "")


def _notes(
    num_videos: int, results: list[BenchmarkResult], seconds: float, *, quick: bool
) -> list[str]:
    by_role = {result.role: result for result in results}
    teacher, student = by_role["teacher"], by_role["student"]
    notes = [
        f"{num_videos} embedded videos whose classes differ by motion alone; {student.num_videos} "
        "test videos; the intervals (95 %) are the sampling noise of those, one training seed.",
        f"The student needs {teacher.gmacs_per_video / student.gmacs_per_video:.1f} times fewer "
        "multiply-adds than the teacher.",
        f"Everything together took {duration(seconds)} (minutes:seconds) on {student.device}.",
    ]
    if quick:
        notes.insert(0, "Quick form: trained for one epoch; the accuracies mean nothing.")
    return notes


def _per_class(accuracy: dict[str, dict[str, Any]]) -> Section:
    header = ["class", *(f"{role} recall %" for role in accuracy)]
    names = [row["class"] for row in next(iter(accuracy.values()))["per_class"]]
    rows = [
        [name, *(_percent(document["per_class"][k]["recall"]) for document in accuracy.values())]
        for k, name in enumerate(names)
    ]
    return Section("Per class", header, rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _seconds_table(clock: _Clock) -> Section:
    rows = [[stage, f"{seconds:.0f}"] for stage, seconds in clock.seconds.items()]
    return Section("Time", ["stage", "seconds"], rows)


def _print_outcome(results: list[BenchmarkResult], paths: ReportPaths, seconds: float) -> None:
    print_results(results)
    print(f"report:  {paths.markdown}")
    print(f"page:    {paths.html}")
    print(f"picture: {paths.picture}")
    print(f"results: {paths.json}, {paths.csv}")
    print(f"runs:    {paths.markdown.parent}/{{{','.join(ROLES)}}}")
    print(f"done in {duration(seconds)}")
