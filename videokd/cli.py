"""The command line. Each command reads its options, calls one function, and prints what came out.

Exit status: 0 done; 1 the work failed (one plain line on stderr); 2 wrong usage. With `--json`,
stdout holds one JSON document and nothing else; progress always goes to stderr. torch is imported
only by the commands that need it.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from videokd import __version__
from videokd.errors import ConfigError, UserError
from videokd.progress import speaks_for_all

app = typer.Typer(
    name="videokd",
    help="Distil large video networks into small, fast students, and prove what was gained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make and index data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


class DeviceName(StrEnum):
    """Where to compute; auto takes a GPU when there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class DtypeName(StrEnum):
    """Number format of a latency measurement."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Preset(StrEnum):
    """Sizes of the embedded data set."""

    TINY = "tiny"
    DEMO = "demo"
    STUDY = "study"


INTERRUPTED = 130
# typer has click within it or beside it, depending on the version; this is its own in both.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DeviceOption = Annotated[DeviceName, typer.Option(help="Where to compute.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"videokd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and end.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Decides everything.")] = 0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A minute's walk through all steps; accuracy means nothing."),
    ] = False,
    device: DeviceOption = DeviceName.AUTO,
) -> None:
    """The whole story on embedded videos: teacher, control, distilled student, no-temporal."""
    from videokd.experiments.demo import run_demo

    run_demo(out, seed=seed, quick=quick, device=device.value)


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


@app.command("train")
def train_command(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, see configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.sub=value, laid over the recipe.")
    ] = None,
    device: DeviceOption = DeviceName.AUTO,
    quiet: QuietFlag = False,
) -> None:
    """Train a teacher, a control or a distilled student: the recipe says. Resumes by itself."""
    from videokd.recipe import load_recipe
    from videokd.runs import train

    outcome = train(load_recipe(recipe, overrides or []), device=device.value, quiet=quiet)
    if outcome.already_done:
        typer.echo(f"{outcome.run_dir}: already trained to the end ({outcome.steps} steps)")
        return
    text = f"{outcome.run_dir}: {outcome.steps} steps"
    if outcome.best is not None:
        text += f", best validation top-1 {outcome.best['top1_pct']:.2f} %"
    if outcome.num_unreadable:
        text += f", {outcome.num_unreadable} unreadable videos left out"
    typer.echo(text)


@app.command("eval")
def eval_command(
    run: Annotated[Path, typer.Argument(help="A run folder or checkpoint.")],
    split: Annotated[str | None, typer.Option(help="Default: the recipe's test split.")] = None,
    num_clips: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    num_crops: Annotated[int | None, typer.Option(help="1 or 3; default: the recipe's.")] = None,
    device: DeviceOption = DeviceName.AUTO,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Accuracy over videos: clips x crops views, top-1 with its interval, top-5, per class."""
    from videokd.config import parse_config
    from videokd.engine.evaluate import EvalConfig
    from videokd.recipe import load_trained
    from videokd.runs import evaluate

    trained = load_trained(run)
    views = trained.config.eval.model_dump()
    views |= {"num_clips": num_clips} if num_clips is not None else {}
    views |= {"num_crops": num_crops} if num_crops is not None else {}
    document = evaluate(
        trained,
        split=split,
        eval_config=parse_config(EvalConfig, views, source="eval"),
        device=device.value,
        quiet=quiet,
    )
    if as_json:
        _print_json(document)
        return
    low, high = document["interval_pct"]
    typer.echo(
        f"top-1 {document['top1_pct']:.2f} % [{low:.1f}, {high:.1f}], "
        f"top-5 {document['top5_pct']:.2f} %, mean class {document['mean_class_pct']:.2f} %, "
        f"{document['num_videos']} videos ({document['protocol']})"
    )


@app.command("bench")
def bench_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders or checkpoints.")],
    batch: Annotated[str, typer.Option(help="Clips at a time, for example 1,8.")] = "1",
    dtype: Annotated[DtypeName, typer.Option()] = DtypeName.FP32,
    quick: Annotated[
        bool, typer.Option("--quick", help="10 timed runs instead of 100; the result says so.")
    ] = False,
    device: DeviceOption = DeviceName.AUTO,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Parameters, multiply-adds, latency and throughput on the device at hand."""
    from videokd.bench.report import print_results
    from videokd.recipe import load_trained
    from videokd.runs import benchmark

    batches = [_positive_int(text, "--batch") for text in batch.split(",")]
    trained = [load_trained(run) for run in runs]
    results = [
        benchmark(
            one,
            batch=size,
            dtype=dtype.value,  # type: ignore[arg-type]
            device=device.value,  # type: ignore[arg-type]
            quick=quick,
            quiet=quiet,
        )
        for one in trained
        for size in batches
    ]
    if as_json:
        _print_json([result.to_dict() for result in results])
        return
    print_results(results)


@app.command("report")
def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, evaluated and benchmarked.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    title: Annotated[str, typer.Option()] = "Accuracy against cost",
    as_json: JsonFlag = False,
) -> None:
    """Tables and pictures of several runs: report.md, report.html, pareto.png, results.json."""
    from videokd.bench.report import print_results, write_report
    from videokd.runs import saved_results

    results = saved_results(runs)
    paths = write_report(results, out, title=title)
    if as_json:
        _print_json([result.to_dict() for result in results])
        return
    print_results(results)
    typer.echo(f"report: {paths.markdown}, {paths.html}, {paths.picture}, {paths.json}")


@app.command("predict")
def predict_command(
    run: Annotated[Path, typer.Argument(help="A run folder or checkpoint.")],
    videos: Annotated[list[Path], typer.Argument(help="Any video files.")],
    topk: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    device: DeviceOption = DeviceName.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """The most probable classes of video files, with probabilities."""
    from videokd.deploy.predict import predict
    from videokd.recipe import load_trained

    trained = load_trained(run)
    predictions = [predict(trained, video, topk=topk, device=device.value) for video in videos]
    if as_json:
        _print_json(predictions)
        return
    for prediction in predictions:
        typer.echo(prediction["path"])
        for row in prediction["topk"]:
            typer.echo(f"  {100 * row['score']:5.1f} %  {row['label']}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake ends with one line on stderr, never a traceback."""
    # Importing pytorchvideo compiles a function in a way that torch has deprecated; not our user's
    # to mend.
    warnings.filterwarnings("ignore", message="`torch.jit.script`", category=FutureWarning)
    if not speaks_for_all():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    try:
        status = app(args=arguments, standalone_mode=False)
        if status != INTERRUPTED:  # the others may not come to part
            _leave_process_group()
    except _UsageError as error:
        raise SystemExit(_tell_usage(error)) from None
    except UserError as error:
        print(f"videokd: {_one_line(str(error))}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"videokd: {place}{error.strerror or _one_line(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        print("videokd: interrupted", file=sys.stderr)
    raise SystemExit(status or 0)


def _leave_process_group() -> None:
    """Part from the other processes of a torchrun in order.

    A process that just ends kills the group's own threads in the middle, and now and then is
    aborted for it, after all its work was done.
    """
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _tell_usage(error: Any) -> int:
    """One line like all others; the whole help where a command was given nothing at all."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        command = error.ctx.command_path if error.ctx is not None else "videokd"
        help_hint = f"see `{command} --help`"
        print(f"videokd: {_one_line(error.format_message())} ({help_hint})", file=sys.stderr)
    return int(error.exit_code)


def _one_line(text: str) -> str:
    return " ".join(text.split())


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


def _positive_int(text: str, option: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigError(f"{option} {text!r} is not a whole number above 0")
    return int(text)


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=1))
