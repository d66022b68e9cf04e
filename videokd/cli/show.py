"""`videokd data show`: a picture of what a recipe, or a protocol, takes of the videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videokd.cli.options import PROTOCOL_NAMES
from videokd.errors import ConfigError

if TYPE_CHECKING:
    from videokd.data.index import Index
    from videokd.data.loading import DataConfig, TeacherInput
    from videokd.data.sampling.protocols import EvalProtocol
    from videokd.data.show import Row
    from videokd.types import InputSpec


@dataclass(frozen=True)
class _Shown:
    """What is sampled, from a recipe or by default."""

    source: str
    data: DataConfig
    student: InputSpec
    batch_size: int
    seed: int
    name: str = "student"
    teachers: Mapping[str, TeacherInput] = field(default_factory=dict)


def show_command(
    index: Annotated[Path, typer.Argument(help="The index CSV.")],
    out: Annotated[Path, typer.Option(help="The PNG file to write.")],
    recipe: Annotated[
        Path | None,
        typer.Option(help="Whose sampling; default: dense and segment clips of 8 frames."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Default: the recipe's for training or testing.")
    ] = None,
    num_videos: Annotated[int, typer.Option("--videos", min=1, help="Rows of the sheet.")] = 4,
    seed: Annotated[int | None, typer.Option(min=0, help="Default: the recipe's, or 0.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help=f"Show an evaluation instead of training: {PROTOCOL_NAMES}."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the recipe."),
    ] = None,
) -> None:
    """Draw which frames and crops are taken of a few videos, with frame numbers and times."""
    from videokd.data.index import read_index
    from videokd.data.sampling.protocols import protocol_named
    from videokd.data.show import write_sheet
    from videokd.files import check_place

    if recipe is None and settings:
        raise ConfigError("--set changes a setting of a recipe; give one with --recipe")
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: the sheet is a PNG file; give it a name that ends in .png")
    check_place(out, is_folder=False)
    views = protocol_named(protocol) if protocol is not None else None
    videos = read_index(index)
    if recipe is None:
        shown = _defaults(index, videos, split, seed or 0, views)
    else:
        shown = [_of_recipe(recipe, settings or [], index, split, seed, views)]
    rows = _rows(videos, shown, views, num_videos)
    notes = [_note(one, views) for one in shown]
    title = "evaluation" if views is not None else "training, from step 0"
    write_sheet(rows, out, title=f"{shown[0].source}: {title}", notes=notes)
    typer.echo(f"{len(rows)} videos: {out}")


def _of_recipe(
    path: Path,
    settings: list[str],
    index: Path,
    split: str | None,
    seed: int | None,
    views: EvalProtocol | None,
) -> _Shown:
    from videokd.recipe import check_clip_length, load_recipe, teacher_inputs

    config = load_recipe(path, settings)
    if views is not None:
        check_clip_length(config.model, views)
    asked = split or (config.data.train_split if views is None else config.data.test_split)
    data = config.data.model_copy(update={"index": index, "train_split": asked})
    return _Shown(
        source=path.name,
        data=data,
        student=config.model.input,
        batch_size=config.train.batch_size,
        seed=config.seed if seed is None else seed,
        teachers=teacher_inputs(config) if views is None else {},
    )


def _defaults(
    path: Path, index: Index, split: str | None, seed: int, views: EvalProtocol | None
) -> list[_Shown]:
    """Dense and segment clips of 8 frames; of these, only what a protocol is for."""
    from videokd.data.loading import DataConfig
    from videokd.types import Dense, InputSpec, Segment

    samplings = (Dense(num_frames=8, stride=8), Segment(num_segments=8))
    if views is not None:
        samplings = tuple(one for one in samplings if one.kind in views.kinds)[:1]  # type: ignore[assignment]
    splits = sorted({record.split for record in index.records})
    usual = "train" if views is None else "test"
    asked = split or (usual if usual in splits else splits[0])
    return [
        _Shown(
            source=path.name,
            data=DataConfig(index=path, train_split=asked),
            student=InputSpec(sampling=sampling, short_side_px=256, crop_px=224),
            batch_size=1,
            seed=seed,
            name=sampling.kind,
        )
        for sampling in samplings
    ]


def _rows(
    index: Index, shown: list[_Shown], views: EvalProtocol | None, num_videos: int
) -> list[Row]:
    """A row a video; where there are several samplings, the strips of each stand below another."""
    from dataclasses import replace

    sheets = [_rows_of(index, one, views, num_videos) for one in shown]
    return [
        replace(rows[0], strips=tuple(strip for row in rows for strip in row.strips))
        for rows in zip(*sheets, strict=True)
    ]


def _rows_of(index: Index, shown: _Shown, views: EvalProtocol | None, num_videos: int) -> list[Row]:
    from videokd.data.loading import EvalLoader, TrainLoader
    from videokd.data.show import evaluation_rows, training_rows

    if views is not None:
        evaluation = EvalLoader(
            index,
            shown.data,
            spec=shown.student,
            split=shown.data.train_split,
            views=views,
            batch_size=1,
            require_label=False,
            several_labels=True,
        )
        return evaluation_rows(index, evaluation, views, num_videos=num_videos)
    training = TrainLoader(
        index,
        shown.data,
        student=shown.student,
        teachers=shown.teachers,
        batch_size=shown.batch_size,
        seed=shown.seed,
        require_label=False,
        several_labels=True,
    )
    return training_rows(index, training, num_videos=num_videos, student=shown.name)


def _note(shown: _Shown, views: EvalProtocol | None) -> str:
    parts = [f"split {shown.data.train_split}"]
    if views is not None:
        clips = f"{views.num_clips} x {views.num_crops} views"
        clips += f" of {views.num_frames} frames" if views.num_frames else ""
        parts += [f"{views.name} ({views.follows}), {clips}", _said(shown.student)]
        return "; ".join(parts)
    parts += [f"seed {shown.seed}", f"{shown.name}: {_said(shown.student)}"]
    for name, teacher in shown.teachers.items():
        parts.append(f"{name}: {_said(teacher.spec)}, view {teacher.view.kind}")
    flip = shown.data.augment.flip.probability
    parts.append(f"crop {shown.data.augment.crop.kind}, mirrored with probability {flip:g}")
    return "; ".join(parts)


def _said(spec: InputSpec) -> str:
    sampling = spec.sampling.model_dump()
    kind = sampling.pop("kind")
    rest = ", ".join(f"{name} {value}" for name, value in sampling.items())
    return f"{kind} ({rest}), {spec.crop_px} of {spec.short_side_px} px"
