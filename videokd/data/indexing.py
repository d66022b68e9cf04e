"""From what a user has (a folder, lists, a CSV, or nothing) to an index, in one call.

Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from videokd.config import parse_config, parse_overrides
from videokd.data.annotations import (
    Annotation,
    ClassFile,
    read_class_file,
    read_csv,
    read_folder,
    read_list,
)
from videokd.data.index import Index, build_index, read_index
from videokd.data.scan import ScanFailure
from videokd.data.splits import group_by_pattern, split_by_group, split_by_ratio
from videokd.data.synthetic import CLASS_NAMES, PRESETS, SyntheticConfig, write_dataset
from videokd.errors import ConfigError, UserError
from videokd.files import check_place
from videokd.types import ClassNames

Progress = Callable[[int, int, str], None]
"""`on_progress(done, total, note)`."""


@dataclass(frozen=True, kw_only=True)
class IndexRequest:
    """What to index, and which videos train, validate and test."""

    source: Path
    """A folder of class folders, a CSV, a list of `path label` lines, or with `lists` the folder
    where their paths start."""
    lists: Mapping[str, Path] = field(default_factory=dict)
    """Split -> a list of `path label` lines."""
    classes: Path | None = None
    """Class names, `0 name` or `name` a line."""
    root: Path | None = None
    """Where the paths of a list or CSV start; by default the folder that it lies in."""
    group_pattern: str | None = None
    """A regular expression; its first group, found in a file name, is the video's group."""
    ratio: tuple[float, float, float] | None = None
    """Deal the videos to train, validation and test in these proportions."""
    val_groups: tuple[str, ...] = ()
    """These groups are for validation, whatever split their videos had."""
    test_groups: tuple[str, ...] = ()
    """These groups are for testing, whatever split their videos had."""
    seed: int = 0
    """Decides how `ratio` deals."""


def index_videos(
    request: IndexRequest,
    out_csv: Path,
    *,
    num_processes: int,
    time_limit_seconds: float,
    replace_existing: bool = False,
    on_progress: Progress | None = None,
) -> tuple[Index, list[ScanFailure]]:
    """Read the annotations, split them, decode every video once, write the index.

    Raises:
        UserError: an index that is there already (without `replace_existing`), and every fault of
            the annotations, by file and line.
    """
    if out_csv.exists() and not replace_existing:
        raise UserError(f"{out_csv}: is there already; remove it, or say --force to replace it")
    check_place(out_csv, is_folder=False)
    annotations, classes = read_annotations(request)
    return build_index(
        annotations,
        out_csv,
        classes=classes,
        num_processes=num_processes,
        time_limit_seconds=time_limit_seconds,
        on_progress=_two(on_progress, ""),
    )


def read_annotations(request: IndexRequest) -> tuple[list[Annotation], ClassNames | None]:
    """The videos of a request with groups and splits filled, and the classes if they are given."""
    classes = read_class_file(request.classes) if request.classes is not None else None
    annotations = _read_source(request, classes)
    if request.group_pattern is not None:
        annotations = group_by_pattern(annotations, request.group_pattern)
    if request.ratio is not None:
        annotations = split_by_ratio(annotations, request.ratio, seed=request.seed)
    if request.val_groups or request.test_groups:
        annotations = _move_groups(annotations, request)
    return annotations, classes.names if classes is not None else None


def index_synthetic(
    out: Path,
    *,
    preset: Literal["tiny", "demo", "study"],
    seed: int,
    settings: list[str] | tuple[str, ...] = (),
    num_processes: int | None = None,
    on_progress: Progress | None = None,
) -> Index:
    """Render the embedded data set into `out` and index it as `out/index.csv`.

    An interrupted call goes on where it stopped; a finished one is only read.

    Args:
        out: folder of the videos.
        preset: name of a size.
        seed: of the videos.
        settings: `key=value`, laid over the preset.
        num_processes: that render and scan; by default one a core.
        on_progress: called for the rendering, then for the scan.
    """
    values = PRESETS[preset].model_dump() | {"seed": seed} | parse_overrides(settings)
    config = parse_config(SyntheticConfig, values, source=f"preset {preset}")
    num_processes = num_processes or os.cpu_count() or 1
    write_dataset(
        out, config, num_processes=num_processes, on_progress=_two(on_progress, "rendering")
    )
    annotations = read_folder(out, on_ignored=_not_a_video)  # synthetic.json, an earlier index
    path = out / "index.csv"
    if path.is_file():
        index = read_index(path)
        if len(index) == len(annotations):
            return index
    index, failures = build_index(
        annotations,
        path,
        classes=ClassNames(CLASS_NAMES),
        num_processes=num_processes,
        on_progress=_two(on_progress, "scanning"),
    )
    if failures:
        first = failures[0]
        raise UserError(
            f"{first.path}: was rendered, but does not decode ({first.reason}); remove {out} and "
            "start again"
        )
    return index


def _read_source(request: IndexRequest, classes: ClassFile | None) -> list[Annotation]:
    source = request.source
    if request.lists:
        root = request.root or source
        return [
            annotation
            for split, path in request.lists.items()
            for annotation in read_list(path, root, classes, split=split)
        ]
    if source.is_dir():
        return read_folder(source)
    if not source.is_file():
        raise UserError(f"{source}: no such folder, list or CSV")
    root = request.root or source.parent
    if source.suffix.lower() == ".csv":
        return read_csv(source, root)
    return read_list(source, root, classes)


def _move_groups(annotations: list[Annotation], request: IndexRequest) -> list[Annotation]:
    """Whole groups to validation and test; the rest keeps its split, or trains if it has none."""
    named = {"val": request.val_groups, "test": request.test_groups}
    if not any(annotation.group for annotation in annotations):
        raise ConfigError(
            "groups are named for validation or testing, but the videos have none; give "
            "--group-pattern or a CSV with a group column"
        )
    chosen = {group for groups in named.values() for group in groups}
    rest = [a for a in annotations if a.group not in chosen]
    moved = split_by_group([a for a in annotations if a.group in chosen], named)
    by_path = {a.path: a for a in [*moved, *(replace(a, split=a.split or "train") for a in rest)]}
    return [by_path[annotation.path] for annotation in annotations]


def _not_a_video(_path: Path, _why: str) -> None:
    pass


def _two(on_progress: Progress | None, note: str) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(done, total, note)
