"""Parameters, multiply-adds, latency, and the whole path from a video file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from videokd.cli.options import (
    DeviceName,
    DeviceOption,
    JsonFlag,
    QuietFlag,
    positive_int,
    print_json,
)
from videokd.config import did_you_mean
from videokd.errors import ConfigError

if TYPE_CHECKING:
    from videokd.bench.benchmark import Benchmarks

bench_app = typer.Typer()


@bench_app.command("bench")
def bench_command(
    networks: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, checkpoints, or names of `videokd models`; NAME@224 crops so."
        ),
    ],
    batch: Annotated[str, typer.Option(help="Clips at a time, for example 1,8,64.")] = "1",
    dtype: Annotated[str, typer.Option(help="Of fp32, tf32, bf16, fp16.")] = "fp32",
    mode: Annotated[str, typer.Option(help="Of eager, compile, graph, compile_graph.")] = "eager",
    form: Annotated[str, typer.Option(help="Of trained, deployed.")] = "trained",
    memory_format: Annotated[
        str, typer.Option(help="Of contiguous, channels_last.")
    ] = "contiguous",
    threads: Annotated[str, typer.Option(help="CPU threads: numbers, or all.")] = "all",
    path: Annotated[
        list[str] | None,
        typer.Option(
            help="Time the whole path from this video too: a file, or long_gop, avi, 720p."
        ),
    ] = None,
    convention: Annotated[
        str, typer.Option(help="How to count operations: mac, flop, fvcore, mmaction2.")
    ] = "mac",
    by_module: Annotated[
        bool, typer.Option("--by-module", help="Also print what each module counts.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="10 timed runs instead of 100; the result says so.")
    ] = False,
    device: DeviceOption = DeviceName.AUTO,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Size and speed of networks, timed against each other in rounds.

    Lists like 1,8 make every combination; what cannot be on the device is left out and told.
    """
    asked = _settings_asked(
        batch=batch,
        dtype=dtype,
        mode=mode,
        form=form,
        memory_format=memory_format,
        threads=threads,
    )
    from videokd.bench.benchmark import BenchPlan
    from videokd.bench.complexity import convention_named, format_by_module
    from videokd.bench.latency import settings_of
    from videokd.bench.latency.path import video_file
    from videokd.experiments.benchmark import named_network, run_benchmarks
    from videokd.recipe import use_device

    where = use_device(device.value)
    plan = BenchPlan(
        settings=settings_of(device=where, **asked),
        device=where,
        quick=quick,
        convention=convention_named(convention),
        by_module=by_module,
        videos=[video_file(name) for name in path or ()],
    )
    found = run_benchmarks([named_network(name) for name in networks], plan, quiet=quiet)
    for left_out in found.left_out:
        print(f"videokd: {left_out}", file=sys.stderr)
    if as_json:
        print_json([one.to_dict() for results in found.results for one in results])
    else:
        _print_tables(found)
    for complexity in found.complexities if by_module else ():
        print(format_by_module(complexity), file=sys.stderr if as_json else sys.stdout)


def _settings_asked(**texts: str) -> dict[str, Any]:
    """What `settings_of` takes, from comma-separated lists."""
    from videokd.bench.parts import Dtype, Form, MemoryFormat, Mode

    return {
        "batches": [positive_int(text, "--batch") for text in texts["batch"].split(",")],
        "threads": [
            None if text.strip() == "all" else positive_int(text, "--threads")
            for text in texts["threads"].split(",")
        ],
        "dtypes": _words(texts["dtype"], "--dtype", get_args(Dtype)),
        "modes": _words(texts["mode"], "--mode", get_args(Mode)),
        "forms": _words(texts["form"], "--form", get_args(Form)),
        "memory_formats": _words(texts["memory_format"], "--memory-format", get_args(MemoryFormat)),
    }


def _words(text: str, option: str, allowed: Sequence[str]) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in allowed:
            raise ConfigError(
                f"{option} {word!r} is not known; {did_you_mean(word, list(allowed))}"
            )
    return words


def _print_tables(found: Benchmarks) -> None:
    from videokd.bench.latency.tables import print_limits
    from videokd.bench.report import print_results

    results = [one for rows in found.results for one in rows]
    print_results(results)
    print_limits(results)
