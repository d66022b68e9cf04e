"""`videokd data ...`: make, index and look at data sets. None needs torch to start."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from videokd.cli.options import (
    DeviceName,
    DeviceOption,
    JsonFlag,
    NumProcesses,
    QuietFlag,
    TimeLimitSeconds,
    print_json,
)
from videokd.cli.show import show_command
from videokd.errors import ConfigError

data_app = typer.Typer(
    help="Make, index, check and prepare data sets, and look at them.", no_args_is_help=True
)
data_app.command("show")(show_command)


class CodecName(StrEnum):
    """Codecs that `prepare` encodes with."""

    MPEG4 = "mpeg4"
    H264 = "h264"


class ReaderName(StrEnum):
    """Readers of video files; folders of frames have their own."""

    DECORD = "decord"
    PYAV = "pyav"
    TORCHCODEC = "torchcodec"


class Preset(StrEnum):
    """Sizes of the embedded data set."""

    TINY = "tiny"
    DEMO = "demo"
    ABLATION = "ablation"
    STUDY = "study"


class FormatName(StrEnum):
    """How a data set is annotated."""

    FOLDER = "folder"
    CSV = "csv"
    LIST = "list"
    UCF101 = "ucf101"
    HMDB51 = "hmdb51"
    KINETICS = "kinetics"
    SOMETHING = "something"
    MMACTION2 = "mmaction2"


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
            preset=preset.value,
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
    kind: Annotated[
        FormatName | None,
        typer.Option("--format", help="How it is annotated; default: seen from SOURCE."),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="What its authors publish: a folder of files, or a file.")
    ] = None,
    lists: Annotated[
        list[str] | None,
        typer.Option("--list", metavar="SPLIT=FILE", help="The list of one split; repeat it."),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class names, `0 name` or `name` a line.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Where paths start; default: the list's folder.")
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="Between the values of a list; default: white space.")
    ] = None,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Lines of mmaction2 may have several labels.")
    ] = False,
    frames_fps: Annotated[
        float | None,
        typer.Option(help="The videos are folders of pictures, so many a second."),
    ] = None,
    keep_damaged: Annotated[
        bool, typer.Option("--keep-damaged", help="Keep the intact start of damaged videos.")
    ] = False,
    reader: Annotated[
        ReaderName | None,
        typer.Option(help="Taken wherever it is exact; default: the faster of decord and pyav."),
    ] = None,
    allow_absent: Annotated[
        bool, typer.Option("--allow-absent", help="List videos that are not there, and go on.")
    ] = False,
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
    num_processes: NumProcesses = 2,
    time_limit_seconds: TimeLimitSeconds = 120.0,
) -> None:
    """Decode every video once, in a process of its own, and write the index CSV."""
    from videokd.data.indexing import IndexRequest, index_videos
    from videokd.progress import show_progress

    request = IndexRequest(
        source=source,
        format=kind.value if kind is not None else None,  # type: ignore[arg-type]
        annotations=annotations,
        lists=_pairs(lists or [], "--list"),
        classes=classes,
        root=root,
        delimiter=delimiter,
        multi_label=multi_label,
        frames_fps=frames_fps,
        keep_damaged=keep_damaged,
        reader=reader.value if reader is not None else None,
        allow_absent=allow_absent,
        group_pattern=group_pattern,
        ratio=_ratio(ratio) if ratio is not None else None,
        val_groups=tuple(val_group or ()),
        test_groups=tuple(test_group or ()),
        seed=seed,
    )
    with show_progress("scan videos") as report:
        found = index_videos(
            request,
            out,
            num_processes=num_processes,
            time_limit_seconds=time_limit_seconds,
            replace_existing=force,
            on_progress=report,
        )
    for failure in found.failures[:5]:
        typer.echo(f"left out: {failure.path}: {failure.reason}", err=True)
    for video in found.miscounted[:1]:
        typer.echo(
            f"{len(found.miscounted)} videos have another number of frames than their list says, "
            f"the first: {video.path}: {video.num_frames}, not {video.num_claimed}",
            err=True,
        )
    index = found.index
    typer.echo(f"{len(index)} videos, {len(index.classes)} classes: {index.path}")
    if found.absent:
        typer.echo(f"{len(found.absent)} absent: {out.with_suffix('.absent.csv')}")
    if found.failures:
        typer.echo(f"{len(found.failures)} left out: {out.with_suffix('.failed.csv')}")


@data_app.command("check")
def check_command(
    index: Annotated[Path, typer.Argument(help="The index CSV.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare size and digest; decode nothing.")
    ] = False,
    as_json: JsonFlag = False,
    num_processes: NumProcesses = 2,
    time_limit_seconds: TimeLimitSeconds = 120.0,
) -> None:
    """Look for damaged, changed and double files, and for leaks between the sides of a split.

    Exit status: 0 without errors (there may be warnings), 1 with errors.
    """
    from videokd.data.check import check_index, format_report
    from videokd.progress import show_progress

    with show_progress("check videos") as report:
        found = check_index(
            index,
            num_processes=num_processes,
            quick=quick,
            time_limit_seconds=time_limit_seconds,
            on_progress=lambda done, total: report(done, total, ""),
        )
    if as_json:
        print_json(found.as_dict())
    else:
        typer.echo(format_report(found))
    if not found.is_ok:
        raise typer.Exit(1)


@data_app.command("prepare")
def prepare_command(
    index: Annotated[Path, typer.Argument(help="The index CSV of the sources.")],
    out: Annotated[Path, typer.Argument(help="Folder for the new videos and their index.")],
    short_side_px: Annotated[int, typer.Option(min=16, help="Smaller videos keep theirs.")] = 256,
    upscale: Annotated[bool, typer.Option("--upscale", help="Scale smaller videos up.")] = False,
    codec: Annotated[
        CodecName, typer.Option(help="mpeg4 decodes fastest; h264 keeps more at the same bytes.")
    ] = CodecName.MPEG4,
    gop: Annotated[int, typer.Option(min=1, help="Frames from key frame to key frame.")] = 1,
    quality: Annotated[
        int, typer.Option(min=1, help="Less is better. mpeg4: quantiser to 31; h264: CRF to 51.")
    ] = 5,
    as_json: JsonFlag = False,
    num_processes: NumProcesses = 2,
    time_limit_seconds: TimeLimitSeconds = 120.0,
) -> None:
    """Encode every video anew for training speed, verify it, and index the new files.

    An interrupted run goes on where it stopped. The sources stay as they are.
    """
    from videokd.config import parse_config
    from videokd.data.prepare import PrepareConfig, format_report, prepare_videos
    from videokd.progress import show_progress

    settings = {"short_side_px": short_side_px, "upscale": upscale, "codec": codec.value}
    config = parse_config(
        PrepareConfig, settings | {"gop": gop, "quality": quality}, source="options"
    )
    with show_progress("prepare videos") as report:
        made = prepare_videos(
            index,
            out,
            config=config,
            num_processes=num_processes,
            time_limit_seconds=time_limit_seconds,
            on_progress=lambda done, total: report(done, total, ""),
        )
    if as_json:
        print_json(made.as_dict())
    else:
        typer.echo(format_report(made))


@data_app.command("bench")
def bench_command(
    files: Annotated[
        list[Path] | None,
        typer.Option("--files", help="Index, folder or video to load from; may be repeated."),
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Measure other projects' data sets beside ours.")
    ] = False,
    workers: Annotated[str, typer.Option(help="Numbers of worker processes.")] = "0,1,2",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Medians are over these; default 7, --quick 3.")
    ] = None,
    num_clips: Annotated[
        int | None, typer.Option(min=1, help="Clips a round; default: about 3 s of them.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A look: 3 rounds, crops of 112 px, no 720p file.")
    ] = False,
    augment: Annotated[
        bool,
        typer.Option("--augment", help="Instead: augmentation beside a training step."),
    ] = False,
    soak: Annotated[
        int | None, typer.Option(min=1, help="Instead: memory over so many clips.")
    ] = None,
    device: DeviceOption = DeviceName.AUTO,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Clips a second from file to uint8 batch: ours, other data sets, bare decoding loops."""
    if augment and soak is not None:
        raise ConfigError("--augment and --soak are two different measurements; give one of them")
    counts = [_worker_count(text) for text in workers.split(",")]
    from videokd.bench.loading.clips import SpeedConfig
    from videokd.bench.loading.run import benchmark_loading, print_loading
    from videokd.config import parse_config

    settings = {
        "with_peers": peers,
        "workers": counts,
        "rounds": rounds or (3 if quick else 7),
        "crop_px": 112 if quick else 224,
        "num_clips": num_clips,
    }
    report = benchmark_loading(
        parse_config(SpeedConfig, settings, source="data bench"),
        sources=files or [],
        is_quick=quick,
        augment_device=device.value if augment else None,
        num_soak_clips=soak,
        quiet=quiet,
    )
    if as_json:
        print_json(report.to_json())
    else:
        print_loading(report)


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
    if ";" in name:
        raise ConfigError(f"{option} {text!r}: the name of a split has no ';'; give each a list")
    return name, Path(path)


def _ratio(text: str) -> tuple[float, float, float]:
    parts = text.split(":")
    if len(parts) != 3 or not all(part.replace(".", "", 1).isdecimal() for part in parts):
        raise ConfigError(f"--ratio {text!r} is not of the form 3:1:1 (train:val:test)")
    train, val, test = (float(part) for part in parts)
    return train, val, test


def _worker_count(text: str) -> int:
    if not text.strip().isdecimal():
        raise ConfigError(f"--workers: {text!r} is not a whole number; say for example 0,1,2")
    if len(text.strip()) > 3:
        raise ConfigError(f"--workers: {text.strip()} are more processes than 999; take fewer")
    return int(text)
