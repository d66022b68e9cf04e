"""From what a user has (a folder, lists, a CSV, a published data set) to an index, in one call.

Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from videokd.config import did_you_mean
from videokd.data.annotations import (
    MEMBERSHIP_SEPARATOR,
    Absent,
    Annotation,
    Annotations,
    ClassFile,
    read_class_file,
    read_csv,
    read_folder,
    read_hmdb51,
    read_kinetics,
    read_lists,
    read_mmaction2,
    read_something,
    read_something_lists,
    read_ucf101,
)
from videokd.data.annotations.splits import group_by_pattern, split_by_group, split_by_ratio
from videokd.data.index import Index, build_index, classes_path, read_index
from videokd.data.scan import ScanFailure
from videokd.data.synthetic import CLASS_NAMES, preset_config, write_dataset
from videokd.errors import ConfigError, UserError
from videokd.files import check_place, write_listing
from videokd.types import ClassNames

Progress = Callable[[int, int, str], None]
"""`on_progress(done, total, note)`."""

Format = Literal["folder", "csv", "list", "ucf101", "hmdb51", "kinetics", "something", "mmaction2"]
"""How a data set is annotated."""

_TAKES: Mapping[str, tuple[str, ...]] = {
    "folder": ("classes",),
    "csv": ("annotations", "root", "classes", "allow_absent"),
    "list": ("annotations", "lists", "root", "classes", "delimiter", "allow_absent"),
    "ucf101": ("annotations", "allow_absent"),
    "hmdb51": ("annotations", "allow_absent"),
    "kinetics": ("annotations", "classes"),
    "something": ("annotations", "lists", "classes", "allow_absent"),
    "mmaction2": (
        *("annotations", "lists", "root", "classes", "delimiter", "multi_label", "allow_absent"),
    ),
}
"""The options that mean something to a format; the others are refused, not ignored."""

_NEEDS_FILES = ("ucf101", "hmdb51", "kinetics", "something", "mmaction2")
"""Formats whose source is a folder of videos alone."""


@dataclass(frozen=True, kw_only=True)
class IndexRequest:
    """What to index, and which videos train, validate and test."""

    source: Path
    """A folder of videos. Without `format`, `lists` or `annotations` also a CSV or a list."""
    format: Format | None = None
    """How it is annotated; by default `list` where there are lists, `folder` for a folder, `csv`
    for a file of that ending, else `list`."""
    annotations: Path | None = None
    """What the authors publish: a folder of files, or one file."""
    lists: Mapping[str, Path] = field(default_factory=dict)
    """Split -> a list. Splits of several folds end in the fold's number: `train1`, `test1`."""
    classes: Path | None = None
    """Class names, `0 name` or `name` a line, or the JSON file of Something-Something."""
    root: Path | None = None
    """Where the paths of a list or CSV start; by default the folder of videos, or else the folder
    that the file lies in."""
    delimiter: str | None = None
    """Between the values of a list's line; by default white space."""
    multi_label: bool = False
    """Lines of mmaction2 lists may have several labels."""
    frames_fps: float | None = None
    """The videos are folders of pictures, so many a second."""
    keep_damaged: bool = False
    """Keep a damaged video as the intact frames at its start, with a note; else it is left out."""
    reader: str | None = None
    """Taken wherever it is exact, else PyAV; by default the faster of decord and PyAV."""
    allow_absent: bool = False
    """List annotated videos that are not there, and go on; Kinetics always does."""
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


@dataclass(frozen=True, slots=True)
class Miscounted:
    """A video with another number of frames than its list claims."""

    path: Path
    num_claimed: int
    num_frames: int


@dataclass(frozen=True, slots=True)
class Indexed:
    """What an index was made of, and what is not in it."""

    index: Index
    failures: list[ScanFailure]
    """Files that were left out, in `<index>.failed.csv`."""
    absent: tuple[Absent, ...]
    """Annotated videos that are not there, in `<index>.absent.csv`."""
    miscounted: list[Miscounted]


def index_videos(
    request: IndexRequest,
    out_csv: Path,
    *,
    num_processes: int,
    time_limit_seconds: float,
    replace_existing: bool = False,
    on_progress: Progress | None = None,
) -> Indexed:
    """Read the annotations, split them, decode every video once, write the index.

    Beside what `build_index` writes, `<stem>.absent.csv` lists the annotated videos that are not
    there (annotation, video, label, split, reason); it is absent where there are none.

    Raises:
        UserError: an index that is there already (without `replace_existing`), and every fault of
            the annotations, by file and line.
    """
    if out_csv.exists() and not replace_existing:
        raise UserError(f"{out_csv}: is there already; remove it, or say --force to replace it")
    check_place(out_csv, is_folder=False)
    _refuse_own_sources(request, out_csv)
    found = read_annotations(request)
    _refuse_folders_without_rate(found.videos, request)
    index, failures = build_index(
        found.videos,
        out_csv,
        classes=found.classes,
        num_processes=num_processes,
        time_limit_seconds=time_limit_seconds,
        frames_fps=request.frames_fps,
        keep_damaged=request.keep_damaged,
        readers=None if request.reader is None else (request.reader, "pyav"),
        on_progress=_two(on_progress, ""),
    )
    write_listing(
        out_csv.with_suffix(".absent.csv"),
        ("annotation", "video", "label", "split", "reason"),
        [(a.where, a.video, ";".join(a.label_names), a.split, a.reason) for a in found.absent],
    )
    return Indexed(index, failures, found.absent, _miscounted(found.videos, index))


def read_annotations(request: IndexRequest) -> Annotations:
    """The videos of a request with groups and splits filled, its classes, and what is absent.

    Raises:
        ConfigError: options that mean nothing to the format, or lack for it.
        UserError: every fault of the annotations, by file and line.
    """
    kind = request.format or _format_of(request)
    _check_options(kind, request)
    classes = read_class_file(request.classes) if request.classes is not None else None
    found = _read_source(kind, request, classes)
    if classes is not None:
        found = replace(found, classes=classes.names)
    videos = found.videos
    has_folds = any(MEMBERSHIP_SEPARATOR in annotation.split for annotation in videos)
    if has_folds and (request.ratio or request.val_groups or request.test_groups):
        raise ConfigError(
            "the data set has folds of its own; leave out --ratio, --val-group and --test-group"
        )
    if request.group_pattern is not None:
        videos = group_by_pattern(videos, request.group_pattern)
    if request.ratio is not None:
        videos = split_by_ratio(videos, request.ratio, seed=request.seed)
    if request.val_groups or request.test_groups:
        videos = _move_groups(videos, request)
    return replace(found, videos=videos)


def index_synthetic(
    out: Path,
    *,
    preset: str,
    seed: int,
    settings: list[str] | tuple[str, ...] = (),
    num_processes: int | None = None,
    on_progress: Progress | None = None,
) -> Index:
    """Render the embedded data set into `out` and index it as `out/index.csv`.

    An interrupted call goes on where it stopped; a finished one is only read.

    Args:
        out: folder of the videos.
        preset: a name in `PRESETS`.
        seed: of the videos.
        settings: `key=value`, laid over the preset.
        num_processes: that render and scan; by default one a core.
        on_progress: called for the rendering, then for the scan.
    """
    config = preset_config(preset, seed=seed, settings=settings)
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


def _format_of(request: IndexRequest) -> Format:
    if request.annotations is not None:
        raise ConfigError(f"--annotations needs --format; known: {', '.join(get_args(Format))}")
    if request.lists:
        return "list"
    if request.source.is_dir():
        return "folder"
    if not request.source.is_file():
        raise UserError(f"{request.source}: no such folder, list or CSV")
    return "csv" if request.source.suffix.lower() == ".csv" else "list"


def _check_options(kind: Format, request: IndexRequest) -> None:
    if kind not in _TAKES:
        raise ConfigError(f"format {kind!r} is not known; {did_you_mean(kind, list(_TAKES))}")
    for name in sorted({name for names in _TAKES.values() for name in names}):
        if getattr(request, name) and name not in _TAKES[kind]:
            raise ConfigError(
                f"--{name.replace('lists', 'list').replace('_', '-')} means nothing to the format "
                f"{kind}; leave it out"
            )
    if request.frames_fps is not None and not 0 < request.frames_fps < float("inf"):
        raise ConfigError(f"--frames-fps is {request.frames_fps}; it must be above 0")
    if request.delimiter == "":
        raise ConfigError("--delimiter is empty; leave it out for white space")
    if kind == "something" and request.annotations and request.classes:
        raise ConfigError("--classes goes with --list; labels.json has the classes already")
    if request.lists and request.annotations:
        raise ConfigError("--annotations and --list are two ways to say the same; give one")
    if kind in _NEEDS_FILES and not request.annotations and not request.lists:
        option = "--list SPLIT=FILE" if kind == "mmaction2" else "--annotations"
        raise ConfigError(
            f"format {kind} needs {option} beside the folder of videos; see data/README.md"
        )


def _read_source(kind: Format, request: IndexRequest, classes: ClassFile | None) -> Annotations:
    source, published = request.source, request.annotations
    options = {"frames": request.frames_fps is not None, "allow_absent": request.allow_absent}
    match kind:
        case "folder":
            return Annotations(read_folder(source, frames=options["frames"]))
        case "csv":
            root = request.root or (source if published else source.parent)
            return read_csv(published or source, root, allow_absent=request.allow_absent)
        case "ucf101":
            return read_ucf101(source, _given(published), **options)
        case "hmdb51":
            return read_hmdb51(source, _given(published), **options)
        case "kinetics":
            return read_kinetics(source, _given(published), frames=options["frames"])
        case "something" if published is not None:
            return read_something(source, published, **options)
    return _read_lists(kind, request, classes, **options)


def _read_lists(
    kind: Format,
    request: IndexRequest,
    classes: ClassFile | None,
    *,
    frames: bool,
    allow_absent: bool,
) -> Annotations:
    source, lists = request.source, request.lists
    if kind == "something":
        return read_something_lists(
            source, lists, classes, frames=frames, allow_absent=allow_absent
        )
    given = request.annotations or source
    root = request.root or (source if lists or request.annotations else source.parent)
    lists = lists or {"": given}
    if kind == "mmaction2":
        return read_mmaction2(
            root,
            lists,
            classes,
            multi_label=request.multi_label,
            delimiter=request.delimiter,
            allow_absent=allow_absent,
        )
    return read_lists(lists, root, classes, delimiter=request.delimiter, allow_absent=allow_absent)


def _given(path: Path | None) -> Path:
    assert path is not None  # as _check_options has seen to
    return path


def _refuse_folders_without_rate(videos: Sequence[Annotation], request: IndexRequest) -> None:
    if request.frames_fps is not None:
        return
    for annotation in videos:
        if annotation.path.is_dir():
            raise ConfigError(
                f"{annotation.path}: a folder of frames, and nothing in it says how fast it was "
                "filmed; give --frames-fps"
            )


def _miscounted(videos: Sequence[Annotation], index: Index) -> list[Miscounted]:
    claims = {video.path: video.num_frames for video in videos if video.num_frames is not None}
    if not claims:
        return []
    return [
        Miscounted(record.path, claimed, record.num_frames)
        for record in index.records
        if (claimed := claims.get(record.path)) is not None and claimed != record.num_frames
    ]


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


def _refuse_own_sources(request: IndexRequest, out_csv: Path) -> None:
    """Nothing that is read is written over, nor do two indexes share their class names."""
    if out_csv.suffix.lower() != ".csv":
        raise ConfigError(f"--out {out_csv}: an index is a CSV; give it a name that ends in .csv")
    given = [request.source, request.annotations, *request.lists.values()]
    if out_csv.resolve() in {path.resolve() for path in given if path is not None}:
        raise UserError(f"{out_csv}: is what the index is made of; choose another file for --out")
    classes = request.classes
    if (
        classes is not None
        and classes.resolve() == classes_path(out_csv).resolve()
        and read_class_file(classes).first_index
    ):
        raise UserError(
            f"{classes}: the class names of {out_csv} are written there, counted from 0; choose "
            "another file for --out"
        )


def _two(on_progress: Progress | None, note: str) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(done, total, note)
