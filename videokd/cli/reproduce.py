"""`videokd reproduce`: published numbers against ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videokd.cli.options import DeviceName, DeviceOption, JsonFlag, QuietFlag, print_json
from videokd.errors import ConfigError

if TYPE_CHECKING:
    from videokd.experiments.reproduce import Table

reproduce_app = typer.Typer()


@reproduce_app.command("reproduce")
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
