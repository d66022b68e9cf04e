"""`videokd reproduce`: published numbers against ours."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from videokd.cli.options import DeviceName, DeviceOption, JsonFlag, QuietFlag, print_json
from videokd.errors import ConfigError

if TYPE_CHECKING:
    from videokd.experiments.reproduce import Table


class _TablesByName(TyperGroup):
    """`reproduce NAME ...` is `reproduce table NAME ...`, whatever the tables are called."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["table", *args]
        return super().parse_args(ctx, args)


reproduce_app = typer.Typer(cls=_TablesByName, no_args_is_help=True)


class StageName(StrEnum):
    """What to do of an ablation."""

    ALL = "all"
    TUNE = "tune"
    RUN = "run"
    REPORT = "report"


@reproduce_app.callback()
def _reproduce() -> None:
    """Published numbers against ours (`reproduce TABLE`, `reproduce zoo`), and the ablation."""


@reproduce_app.command("table")
def reproduce_command(
    table: Annotated[
        str,
        typer.Argument(help="zoo (all sizes of all tables), a table of configs/tables, or a YAML."),
    ],
    row: Annotated[list[str] | None, typer.Option(help="Only this row; may be repeated.")] = None,
    index: Annotated[
        Path | None, typer.Option(help="Index CSV of the data set, for accuracies.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="File, run folder, or folder of those named as rows; else downloaded."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Default: the data set's usual one.")] = None,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that decode.")] = 2,
    device: DeviceOption = DeviceName.AUTO,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """PASS, FAIL or SKIP for published parameters, operations and accuracies; exit 1 for a FAIL."""
    from videokd.experiments.reproduce import (
        Given,
        find_tables,
        format_outcomes,
        reproduce_accuracy,
        reproduce_complexity,
    )
    from videokd.progress import show_progress

    if table == "zoo" and (index or weights or split):
        raise ConfigError("zoo checks sizes only; name a table to check its accuracies")
    tables = _only(find_tables(table), row)
    with show_progress(f"reproduce {table}, networks counted", quiet=quiet) as report:
        outcomes = reproduce_complexity(tables, on_progress=report)
    if table != "zoo":
        given = Given(
            index=index,
            weights=weights,
            split=split,
            device=device.value,  # type: ignore[arg-type]
            num_workers=num_workers,
            quiet=quiet,
        )
        outcomes += reproduce_accuracy(tables, given)
    if as_json:
        print_json([outcome.to_dict() for outcome in outcomes])
    else:
        typer.echo(format_outcomes(outcomes))
    if any(outcome.status == "FAIL" for outcome in outcomes):
        raise typer.Exit(1)


@reproduce_app.command("ablation")
def ablation_command(
    stage: Annotated[
        StageName,
        typer.Option(help="tune: choose on validation videos; run: test; report: write tables."),
    ] = StageName.ALL,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this row, table or study; may be repeated.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Only these, as 0,1,2; default: the ladder's.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="End by then; what runs is stopped and goes on next time."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Single-threaded runs side by side.")] = 1,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A walk through all of it on tiny data; no number counts."),
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="Rows, and which are done.")] = False,
    device: DeviceOption = DeviceName.AUTO,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """The ladder of controls, placebos and distilled students; goes on where it stopped."""
    from videokd.experiments.ablation import Request, format_rows, list_rows, run_ablation

    request = Request(
        stage=stage.value,  # type: ignore[arg-type]
        only=tuple(only or ()),
        seeds=_seeds(seeds),
        minutes=minutes,
        jobs=jobs,
        device=device.value,  # type: ignore[arg-type]
        quick=quick,
        quiet=quiet,
    )
    if show:
        states = list_rows(request)
        if as_json:
            print_json([state.to_dict() for state in states])
        else:
            typer.echo(format_rows(states))
        return
    done = run_ablation(request)
    if as_json:
        print_json(done.to_dict())
    else:
        typer.echo(done.text())
    if done.failed:
        raise typer.Exit(1)


def _seeds(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise ConfigError(f"--seeds {text!r}: must be whole numbers with commas between: 0,1,2")
    return tuple(int(word) for word in words)


def _only(tables: dict[str, Table], names: list[str] | None) -> dict[str, Table]:
    """The tables with the rows of these names only; `ConfigError` for a name that none has."""
    if not names:
        return tables
    from videokd.config import did_you_mean

    known = [row.name for table in tables.values() for row in table.rows]
    for name in names:
        if name not in known:
            raise ConfigError(f"no row is named {name!r}; {did_you_mean(name, known)}")
    kept = {
        title: tuple(row for row in table.rows if row.name in names)
        for title, table in tables.items()
    }
    return {
        title: tables[title].model_copy(update={"rows": rows})
        for title, rows in kept.items()
        if rows
    }
