"""Train, evaluate, benchmark, predict, runs over folds, and the demo."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from videokd.cli.options import (
    PROTOCOL_NAMES,
    DeviceName,
    DeviceOption,
    JsonFlag,
    QuietFlag,
    print_json,
)

runs_app = typer.Typer()


class ProbeName(StrEnum):
    """What is looked for beside the accuracy."""

    TIME = "time"


@runs_app.command("demo")
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


@runs_app.command("train")
def train_command(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, see configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.sub=value, laid over the recipe.")
    ] = None,
    insist: Annotated[
        bool, typer.Option("--insist", help="Learn from a teacher even if it is at chance.")
    ] = False,
    device: DeviceOption = DeviceName.AUTO,
    quiet: QuietFlag = False,
) -> None:
    """Train a teacher, a control or a distilled student: the recipe says. Resumes by itself."""
    from videokd.recipe import load_recipe
    from videokd.runs import train

    outcome = train(
        load_recipe(recipe, overrides or []), device=device.value, insist=insist, quiet=quiet
    )
    if outcome.already_done:
        typer.echo(f"{outcome.run_dir}: already trained to the end ({outcome.steps} steps)")
        return
    text = f"{outcome.run_dir}: {outcome.steps} steps"
    if outcome.best is not None:
        text += f", best validation top-1 {outcome.best['top1_pct']:.2f} %"
        if (precision := outcome.best.get("mean_average_precision_pct")) is not None:
            text += f", mAP {precision:.2f} %"
    if outcome.num_unreadable:
        text += f", {outcome.num_unreadable} unreadable videos left out"
    typer.echo(text)


@runs_app.command("eval")
def eval_command(
    run: Annotated[Path, typer.Argument(help="A run folder or checkpoint.")],
    split: Annotated[str | None, typer.Option(help="Default: the recipe's test split.")] = None,
    num_clips: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    num_crops: Annotated[
        int | None, typer.Option(help="1, 3, 5 or 10; default: the recipe's.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help=f"Another toolkit's views instead: {PROTOCOL_NAMES}.")
    ] = None,
    probe: Annotated[
        ProbeName | None,
        typer.Option(help="time: is motion seen? Frames shuffled, reversed, frozen."),
    ] = None,
    device: DeviceOption = DeviceName.AUTO,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Accuracy over videos: clips x crops views, top-1 with its interval, top-5, per class."""
    from videokd.config import parse_config
    from videokd.engine.evaluate import EvalConfig
    from videokd.experiments.probe import probe_time
    from videokd.recipe import load_trained
    from videokd.runs import evaluate

    trained = load_trained(run)
    views = trained.config.eval.model_dump()
    asked = {"num_clips": num_clips, "num_crops": num_crops, "protocol": protocol}
    asked = {name: value for name, value in asked.items() if value is not None}
    if protocol is not None:  # instead of the recipe's clips and crops
        views |= {"num_clips": 1, "num_crops": 1}
    elif asked:  # instead of the recipe's protocol
        views["protocol"] = None
    views |= asked
    look = evaluate if probe is None else probe_time
    document = look(
        trained,
        split=split,
        eval_config=parse_config(EvalConfig, views, source="eval"),
        device=device.value,
        quiet=quiet,
    )
    if as_json:
        print_json(document)
    elif probe is None:
        _echo_accuracy(document)
    else:
        _echo_probe(document)


def _echo_accuracy(document: dict[str, Any]) -> None:
    from videokd.metrics import interval_text

    if "mean_average_precision_pct" in document:
        per_class = f"mAP {document['mean_average_precision_pct']:.2f} %"
    else:
        per_class = f"mean class {document['mean_class_pct']:.2f} %"
    typer.echo(
        f"top-1 {document['top1_pct']:.2f} % {interval_text(document['interval_pct'])}, "
        f"top-5 {document['top5_pct']:.2f} %, {per_class}, "
        f"{document['num_videos']} videos ({document['protocol']})"
    )


def _echo_probe(document: dict[str, Any]) -> None:
    """A row a condition, then what they say."""
    from videokd.metrics import interval_text

    typer.echo(f"{'frames':<9}  {'top-1 %':>7}  {'95 % interval':<14}  against normal")
    for name, row in document["conditions"].items():
        test = row["difference"]
        interval = interval_text(row["interval_pct"])
        against = "" if test is None else test["text"]
        typer.echo(f"{name:<9}  {row['top1_pct']:7.2f}  {interval:<14}  {against}".rstrip())
    for line in document["verdict"]:
        typer.echo(line)
    typer.echo(f"{document['num_videos']} videos ({document['protocol']})")


@runs_app.command("folds")
def folds_command(
    recipe: Annotated[Path, typer.Argument(help="A YAML file with {fold} in splits and folder.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.sub=value, laid over the recipe.")
    ] = None,
    folds: Annotated[str, typer.Option(help="What to put for {fold}, one run each.")] = "1,2,3",
    device: DeviceOption = DeviceName.AUTO,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train and evaluate over the folds of a data set (UCF101, HMDB51), and print the mean."""
    from videokd.experiments.folds import run_folds

    names = [name.strip() for name in folds.split(",")]
    result, path = run_folds(recipe, overrides or [], folds=names, device=device.value, quiet=quiet)
    if as_json:
        print_json(result.to_dict())
        return
    typer.echo("fold    top-1 %  top-5 %  mean class %  videos")
    for fold in result.folds:
        typer.echo(
            f"{fold.fold:<6}  {fold.top1_pct:7.2f}  {fold.top5_pct:7.2f}  "
            f"{fold.mean_class_pct:12.2f}  {fold.num_videos:6d}"
        )
    for name, values in (("mean", result.mean), ("std", result.std)):
        top1, top5, mean_class = (
            "-" if value is None else f"{value:.2f}" for value in values.values()
        )
        typer.echo(f"{name:<6}  {top1:>7}  {top5:>7}  {mean_class:>12}")
    typer.echo(f"{result.convention}: {path}")


@runs_app.command("predict")
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
        print_json(predictions)
        return
    for prediction in predictions:
        typer.echo(prediction["path"])
        for row in prediction["topk"]:
            typer.echo(f"  {100 * row['score']:5.1f} %  {row['label']}")
