"""The report of several runs, and the comparison of two."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videokd.cli.options import JsonFlag, print_json

if TYPE_CHECKING:
    from videokd.bench.report.paired import Comparison

report_app = typer.Typer()


class UnitName(StrEnum):
    """What is independent of one another."""

    AUTO = "auto"
    VIDEO = "video"
    GROUP = "group"


@report_app.command("report")
def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, evaluated and benchmarked.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    title: Annotated[str, typer.Option()] = "Accuracy against cost",
    as_json: JsonFlag = False,
) -> None:
    """Accuracy against cost of several runs: Markdown, HTML page, picture, CSV and JSON.

    Students are compared with the other runs on the same videos, so that a gain inside the noise
    is called that.
    """
    from videokd.bench.report import print_results, write_report
    from videokd.experiments.compare import compare_reported
    from videokd.runs import saved_results

    saved = saved_results(runs)
    results = [result for of_run in saved for result in of_run]
    comparisons, notes = compare_reported(runs, [of_run[0] for of_run in saved])
    paths = write_report(results, out, title=title, notes=notes, comparisons=comparisons)
    if as_json:
        print_json([result.to_dict() for result in results])
        return
    print_results(results)
    for comparison in comparisons:
        typer.echo(f"{' against '.join(comparison.names)}: {comparison.test.text()}")
    typer.echo(f"report: {', '.join(str(path) for path in paths)}")


@report_app.command("compare")
def compare_command(
    a: Annotated[str, typer.Argument(help="A run folder, or several (seeds) with commas.")],
    b: Annotated[str, typer.Argument(help="What it is compared with, in the same way.")],
    unit: Annotated[
        UnitName,
        typer.Option(help="What is drawn; auto takes groups where every video has one."),
    ] = UnitName.AUTO,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Top-1 of two runs on the same videos: is it a gain, or is it noise?"""
    from videokd.experiments.compare import compare_runs

    sides = [[Path(text) for text in side.split(",") if text] for side in (a, b)]
    comparison = compare_runs(sides[0], sides[1], unit=unit.value, seed=seed)
    if as_json:
        print_json(comparison.to_dict())
        return
    for line in _lines(comparison):
        typer.echo(line)


def _lines(comparison: Comparison) -> list[str]:
    from videokd.bench.report.paired import runs_text, unit_text
    from videokd.metrics import p_text

    test = comparison.test
    lines = [
        f"a  {test.top1_a_pct:6.2f} %  {comparison.role_a}  {comparison.a}",
        f"b  {test.top1_b_pct:6.2f} %  {comparison.role_b}  {comparison.b}",
        f"a - b  {test.text()}",
        f"95 % bootstrap interval over {unit_text(test)}"
        + (f" ({test.num_videos} videos)" if test.unit == "group" else "")
        + f"; {runs_text(test)}",
        f"smallest difference it finds in four of five cases: {test.detectable_pct:.1f} points",
    ]
    if test.mcnemar_p is not None:
        lines.append(
            f"exact McNemar: only a right {test.num_only_a}, only b right {test.num_only_b}, "
            f"p {p_text(test.mcnemar_p)} (takes all videos as independent)"
        )
    if comparison.agreement is not None:
        lines.append(f"a as b: {comparison.agreement.text()}")
    return lines
