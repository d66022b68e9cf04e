"""Benchmark run folders and networks of the catalogue, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videokd.bench.benchmark import Benchmarks, BenchPlan, Subject, benchmark_models
from videokd.bench.latency import settings_of
from videokd.bench.result import BenchmarkResult
from videokd.errors import UserError
from videokd.models.catalog import ModelEntry, entry
from videokd.models.zoo import create_video_model
from videokd.progress import show_progress
from videokd.recipe import (
    Device,
    Trained,
    flush_denormals,
    load_trained,
    use_device,
    without_pretraining,
)
from videokd.runs import bench_subject, keep_results


@dataclass(frozen=True)
class Named:
    """What the command line named: a network, and the run that it is of if it is of one."""

    subject: Subject
    trained: Trained | None


def named_network(name: str) -> Named:
    """The network of a run folder or checkpoint, or of the catalogue with random weights.

    Latency and complexity do not depend on trained weights. `NAME@224` is the network of that name
    on a crop of 224 px, whatever it was published with.

    Raises:
        UserError: neither a path nor a name of the catalogue, and a crop that is no size or not
            one that the network takes.
    """
    if Path(name).exists():
        trained = load_trained(Path(name))
        return Named(bench_subject(trained, argument=name), trained)
    known, at, crop = name.partition("@")
    if at and not (crop.isascii() and crop.isdecimal() and int(crop)):
        raise UserError(f"{name}: {crop!r} is not a crop in px; write for example {known}@224")
    try:
        found = entry(known)
    except UserError as error:
        if Path(name).name != name or Path(name).suffix:
            raise UserError(f"{name}: no such run folder or checkpoint") from None
        raise UserError(f"{error}; nor is there such a run folder") from None
    try:
        return Named(_catalogued(found, name, int(crop) if at else None), None)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def benchmark_runs(
    run_dirs: Sequence[Path], *, device: Device = "auto", quick: bool = False, quiet: bool = False
) -> list[BenchmarkResult]:
    """Single clips, fp32, eager: one result a run folder, timed against each other in rounds.

    With the accuracy of each one's `eval.json` if there is one.

    Raises:
        UserError: one of them cannot be measured.
    """
    where = use_device(device)
    plan = BenchPlan(settings=settings_of(device=where), device=where, quick=quick)
    networks = [named_network(str(run_dir)) for run_dir in run_dirs]
    found = run_benchmarks(networks, plan, quiet=quiet)
    if found.left_out:
        raise UserError(str(found.left_out[0]))
    return [rows[0] for rows in found.results]


def run_benchmarks(networks: Sequence[Named], plan: BenchPlan, *, quiet: bool) -> Benchmarks:
    """Measure networks in the same settings; those of run folders keep their rows in `bench.json`.

    Raises:
        UserError: nothing of it could be measured.
    """
    flush_denormals()
    with show_progress("benchmark", quiet=quiet) as report:
        subjects = [network.subject for network in networks]
        found = benchmark_models(subjects, plan, on_progress=report)
    kept: list[list[BenchmarkResult]] = []
    for network, results in zip(networks, found.results, strict=True):
        kept.append(results)
        if network.trained is not None and results:
            kept[-1] = keep_results(network.trained, results)
    return replace(found, results=kept)


def _catalogued(one: ModelEntry, name: str, crop_px: int | None) -> Subject:
    config = without_pretraining(one.config())
    if crop_px is not None:
        sizes = {"crop_px": crop_px, "short_side_px": max(crop_px, config.input.short_side_px)}
        config = config.model_copy(update={"input": config.input.model_copy(update=sizes)})
    model = create_video_model(config, num_classes=one.num_classes, taps=(), seed=0)
    return Subject(
        model=model.eval(),
        name=name,
        role=one.role,
        weights="random",
        num_views=_num_views(one),
        argument=name,
    )


def _num_views(one: ModelEntry) -> int:
    """Clips x crops of the published accuracy; 1 where nothing is published."""
    if one.published is None:
        return 1
    num_clips, _, num_crops = one.published.views.partition("x")
    return int(num_clips) * int(num_crops)
