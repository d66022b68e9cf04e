"""`videokd data ...`: make, index and look at data sets. None of these commands imports torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from videokd.errors import ConfigError

data_app = typer.Typer(help="Make and index data sets.", no_args_is_help=True)


class Preset(StrEnum):
    """Sizes of the embedded data set."""

    TINY = "tiny"
    DEMO = "demo"
    STUDY = "study"


@data_app.command("synth")
def synth_command(
    out: Annotated[Path, typer.Argument(help="Folder for videos and index.")],
    preset: Annotated[
        Preset, typer.Option(help="How many videos, how large, how hard.")
    ] = Preset.DEMO,
    seed: Annotated[int, typer.Option(min=0, help="Decides every pixel.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the preset."),
    ] = None,
    num_processes: Annotated[int | None, typer.Option(min=1, help="Default: one a core.")] = None,
) -> None:
    """Render the embedded motion videos (H.264 MP4) and index them."""
    from videokd.data.indexing import index_synthetic
    from videokd.progress import show_progress

    with show_progress("render and index") as report:
        index = index_synthetic(
            out,
            preset=preset.value,  # type: ignore[arg-type]
            seed=seed,
            settings=settings or [],
            num_processes=num_processes,
            on_progress=report,
        )
    typer.echo(f"{len(index)} videos, {len(index.classes)} classes: {index.path}")


@data_app.command("index")
def index_command(
    source: Annotated[Path, typer.Argument(help="Folder of videos, list file, or CSV.")],
    out: Annotated[Path, typer.Option(help="The index CSV to write.")],
    lists: Annotated[
        list[str] | None,
        typer.Option("--list", metavar="SPLIT=FILE", help="`path label` lines of one split."),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class names, `0 name` or `name` a line.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Where paths start; default: the list's folder.")
    ] = None,
    group_pattern: Annotated[
        str | None, typer.Option(help="Regular expression; its part in () is a file's group.")
    ] = None,
    ratio: Annotated[
        str | None, typer.Option(metavar="3:1:1", help="Deal to train, val and test.")
    ] = None,
    val_group: Annotated[
        list[str] | None, typer.Option(help="A group for validation; may be repeated.")
    ] = None,
    test_group: Annotated[
        list[str] | None, typer.Option(help="A group for testing; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of --ratio.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an index that is there.")] = False,
    num_processes: Annotated[int, typer.Option(min=1)] = 2,
    time_limit_seconds: Annotated[float, typer.Option(min=1, help="For one file.")] = 120.0,
) -> None:
    """Decode every video once, in a process of its own, and write the index CSV."""
    from videokd.data.indexing import IndexRequest, index_videos
    from videokd.progress import show_progress

    request = IndexRequest(
        source=source,
        lists=_pairs(lists or [], "--list"),
        classes=classes,
        root=root,
        group_pattern=group_pattern,
        ratio=_ratio(ratio) if ratio is not None else None,
        val_groups=tuple(val_group or ()),
        test_groups=tuple(test_group or ()),
        seed=seed,
    )
    with show_progress("scan videos") as report:
        index, failures = index_videos(
            request,
            out,
            num_processes=num_processes,
            time_limit_seconds=time_limit_seconds,
            replace_existing=force,
            on_progress=report,
        )
    for failure in failures[:5]:
        typer.echo(f"left out: {failure.path}: {failure.reason}", err=True)
    typer.echo(f"{len(index)} videos, {len(index.classes)} classes: {index.path}")
    if failures:
        typer.echo(f"{len(failures)} left out: {out.with_suffix('.failed.csv')}")


def _pairs(texts: list[str], option: str) -> dict[str, Path]:
    pairs = [_pair(text, option) for text in texts]
    for name, _ in pairs:
        if sum(name == other for other, _ in pairs) > 1:
            raise ConfigError(f"{option} {name}=... is given twice; put the lines into one file")
    return dict(pairs)


def _pair(text: str, option: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise ConfigError(f"{option} {text!r} is not of the form SPLIT=FILE, as train=list.txt")
    return name, Path(path)


def _ratio(text: str) -> tuple[float, float, float]:
    parts = text.split(":")
    if len(parts) != 3 or not all(part.replace(".", "", 1).isdecimal() for part in parts):
        raise ConfigError(f"--ratio {text!r} is not of the form 3:1:1 (train:val:test)")
    train, val, test = (float(part) for part in parts)
    return train, val, test
