"""`videokd models`: every network by name, with its input, its cost and what was published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from videokd.cli.options import JsonFlag, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from videokd.models.catalog import ModelEntry

models_app = typer.Typer()


@models_app.command("models")
def models_command(
    name: Annotated[
        str | None, typer.Argument(help="Say all of this one.", show_default=False)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the networks, with their input, cost and published accuracy; or say all of one."""
    from videokd.models.catalog import CATALOG, entry

    if name is not None:
        found = entry(name)
        if as_json:
            print_json([_row(found)])
        else:
            typer.echo(_in_full(found))
        return
    if as_json:
        print_json([_row(found) for found in CATALOG.values()])
        return
    typer.echo(_table(CATALOG.values()))


def _row(found: ModelEntry) -> dict[str, Any]:
    """What scripts rely on; `input` is an `InputSpec` as a recipe has it."""
    published = found.published
    return {
        "name": found.name,
        "family": found.family,
        "role": found.role,
        "params_m": found.cost.params_m,
        "gmacs_per_view": found.cost.gmacs_per_view,
        "input": found.settings["input"],
        "top1_pct": published.top1_pct if published else None,
        "source": published.source if published else None,
    }


def _size(found: ModelEntry) -> str:
    """`8x224`: frames, and the side of the square that a view shows."""
    spec = found.settings["input"]
    return f"{_num_frames(spec['sampling'])}x{spec['crop_px']}"


def _num_frames(sampling: Any) -> int:
    return int(sampling["num_segments" if sampling["kind"] == "segment" else "num_frames"])


def _sampling(found: ModelEntry) -> str:
    sampling = found.settings["input"]["sampling"]
    match sampling["kind"]:
        case "dense":
            return f"{sampling['num_frames']} frames, {sampling['stride']} apart"
        case "segment":
            return f"one frame from each of {sampling['num_segments']} equal parts of the video"
        case _:
            return f"{sampling['num_frames']} frames over {sampling['span_seconds']:.4g} s"


def _table(entries: Iterable[ModelEntry]) -> str:
    """One line a network, under a heading for each role and family."""
    header = (
        f"{'name':<28}{'params M':>9}{'GMACs':>10}  {'input':<9}{'top-1':>6}  {'data':<13}views"
    )
    lines = [header]
    heading = None
    for found in entries:
        if (found.role, found.family) != heading:
            heading = (found.role, found.family)
            lines += ["", f"{found.family} ({found.role}s)"]
        lines.append(_line(found))
    lines += [
        "",
        "params and GMACs (multiply-adds of one view) are counted; top-1 is what others published.",
        "videokd models NAME says all of one; a recipe takes it as model: {preset: NAME}.",
    ]
    return "\n".join(line.rstrip() for line in lines)


def _line(found: ModelEntry) -> str:
    cost, published = found.cost, found.published
    top1 = f"{published.top1_pct:.2f}" if published and published.top1_pct is not None else "-"
    data, views = (published.dataset, published.views) if published else ("", "")
    return (
        f"{found.name:<28}{cost.params_m:>9.2f}{cost.gmacs_per_view:>10.2f}  {_size(found):<9}"
        f"{top1:>6}  {data:<13}{views}"
    )


def _in_full(found: ModelEntry) -> str:
    """Everything that the catalogue knows of one network."""
    spec, cost = found.settings["input"], found.cost
    rows = [
        ("network", f"{found.family}, {found.role}, kind {found.settings['kind']}"),
        ("sampling", _sampling(found)),
        (
            "frames",
            f"shorter side {spec['short_side_px']} px, crop {spec['crop_px']} px, "
            f"{spec['resample']}, mean {_rgb(spec['mean'])}, std {_rgb(spec['std'])}",
        ),
        ("counted", f"{cost.params_m:.4g} M parameters, {cost.gmacs_per_view:.4g} GMACs a view"),
        *_published_rows(found),
        *([("note", found.note)] if found.note else []),
        ("in a recipe", f"model: {{preset: {found.name}}}"),
    ]
    if found.weights is not None:
        rows += [
            ("", f"init: {{weights: {found.name}}}  # the published weights"),
            ("", f"init: {{weights: {found.name}, replace_head: true}}  # for other classes"),
        ]
    return "\n".join([found.name, *(f"  {label:<13}{text}" for label, text in rows)])


def _published_rows(found: ModelEntry) -> list[tuple[str, str]]:
    published, weights = found.published, found.weights
    if published is None:
        return [("published", "nothing: train it")]
    accuracy = [
        f"{label} {value:.2f} %"
        for label, value in (("top-1", published.top1_pct), ("top-5", published.top5_pct))
        if value is not None
    ]
    rows = [("published", f"{', '.join(accuracy)} on {published.dataset}, {published.views} views")]
    if published.gmacs_per_view is not None and published.params_m is not None:
        rows.append(
            (
                "",
                f"{published.params_m:.4g} M parameters, {published.gmacs_per_view:.4g} G "
                f"operations a view, counted as {published.convention}",
            )
        )
    rows += [
        ("protocol", published.protocol or "none of ours by name"),
        ("source", published.source),
    ]
    if weights is None:
        return [*rows, ("weights", "none that load")]
    digest = f", SHA-256 {weights.sha256_prefix}..." if weights.sha256_prefix else ""
    return [*rows, ("weights", f"{weights.url} ({weights.layout}{digest})")]


def _rgb(values: Iterable[float]) -> str:
    return "/".join(f"{value:g}" for value in values)
