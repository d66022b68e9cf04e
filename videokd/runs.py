"""Run folders: train into one, evaluate what lies in one, keep what was measured of it.

A run folder holds `recipe.yaml` (resolved), `metrics.jsonl`, `last.pt`, `best.pt`, `eval.json` with
the `predictions.csv` behind it, `bench.json`, and `student.safetensors`, which needs nothing else;
a distilled run's also `taps.txt`, what its terms compared.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videokd.bench.benchmark import Subject
from videokd.bench.result import BenchmarkResult, read_results, results_json
from videokd.checkpoint import BEST, LAST, load_checkpoint
from videokd.config import dump_yaml, paths_that_leave_weights
from videokd.distill.tap_report import on_first_batch
from videokd.engine.evaluate import EvalConfig, VideoScores, score_videos
from videokd.engine.train import Trainer
from videokd.engine.trust import check_teachers
from videokd.errors import UserError
from videokd.evaluation import eval_job
from videokd.files import check_place, lock_or_refuse, read_text, write_text, written_beside
from videokd.metrics import calibration, write_probabilities
from videokd.progress import hush, say, show_progress
from videokd.recipe import (
    Device,
    RunConfig,
    Trained,
    build,
    create_fabric,
    load_recipe,
    load_trained,
)
from videokd.tracking import METRICS_FILE, JsonLines, Sink, TensorBoard, WeightsAndBiases

RECIPE = "recipe.yaml"
EVAL = "eval.json"
PREDICTIONS = "predictions.csv"
PROBABILITIES = "probabilities.safetensors"
BENCH = "bench.json"
STUDENT = "student.safetensors"
TAPS = "taps.txt"


@dataclass(frozen=True)
class TrainOutcome:
    """What a training command ends with."""

    run_dir: Path
    steps: int
    seconds: float
    best: dict[str, float] | None
    """Step, top1_pct, cross_entropy and, of multi-label runs, mean_average_precision_pct on
    validation videos; none without a validation split."""
    num_unreadable: int
    already_done: bool
    """Nothing was left to train."""


def train(
    config: RunConfig, *, device: Device = "auto", insist: bool = False, quiet: bool = False
) -> TrainOutcome:
    """Train what a recipe says, from the beginning or from where its run folder stands.

    Before the first step each frozen teacher is scored on training clips; with `insist`, one at
    chance teaches all the same.

    Raises:
        UserError: a mistake in recipe or data, a run folder that belongs to another recipe, or a
            teacher whose accuracy cannot be told from chance.
    """
    run_dir = config.output_dir
    check_place(run_dir, is_folder=True)
    claims_folder(config)
    fabric = create_fabric(device, config.train.precision, cpu_threads=config.train.cpu_threads)
    quiet = quiet or not fabric.is_global_zero
    trainer = build(config, fabric, say=hush if quiet else say)
    if not fabric.is_global_zero:
        return _train(config, trainer, insist=insist, quiet=True)
    if not claims_folder(config):
        write_text(run_dir / RECIPE, dump_yaml(config))
    with _alone_in(run_dir):
        for part in run_dir.glob(".*.part"):
            part.unlink(missing_ok=True)  # a kill in the middle of a write left it
        return _train(config, trainer, insist=insist, quiet=quiet)


def _train(config: RunConfig, trainer: Trainer, *, insist: bool, quiet: bool) -> TrainOutcome:
    run_dir, fabric = config.output_dir, trainer.fabric
    # Without an epoch there is no step to do, but weights to keep.
    already_done = trainer.resume() and trainer.finished
    if not already_done:
        try:
            _check_teachers(trainer, insist=insist, quiet=quiet)
            _fit(config, trainer, quiet=quiet)
        except UserError:
            if fabric.is_global_zero and not (run_dir / LAST).exists():
                # Nothing was kept: the folder is free for the recipe that is mended.
                (run_dir / RECIPE).unlink(missing_ok=True)
            raise
    if fabric.is_global_zero and not (already_done and (run_dir / STUDENT).is_file()):
        write_student(load_trained(run_dir), run_dir / STUDENT)
    state = trainer.state
    return TrainOutcome(
        run_dir, state.step, state.seconds, state.best, len(state.unreadable), already_done
    )


def _fit(config: RunConfig, trainer: Trainer, *, quiet: bool) -> None:
    run_dir = config.output_dir
    sinks = []
    if trainer.fabric.is_global_zero:
        sinks = _sinks(config, from_step=trainer.state.step)
        _report_taps(trainer, run_dir, quiet=quiet)
    try:
        with show_progress(f"train {run_dir.name}", quiet=quiet) as report:
            trainer.fit(sinks, on_progress=report)
    finally:
        for sink in sinks:
            sink.close()


def _check_teachers(trainer: Trainer, *, insist: bool, quiet: bool) -> None:
    """Nobody begins to learn from a teacher at chance; a run that goes on began already."""
    if trainer.teaching is not None and trainer.state.step == 0 < trainer.total_steps:
        check_teachers(
            trainer.fabric,
            trainer.teaching.online,
            trainer.loader,
            batch_size=trainer.config.batch_size,
            num_parts=trainer.config.accumulate,
            insist=insist,
            say=hush if quiet else say,
        )


def _report_taps(trainer: Trainer, run_dir: Path, *, quiet: bool) -> None:
    """Have it told and kept what the distillation terms compare, when the first batch shows it."""

    def tell(text: str) -> None:
        write_text(run_dir / TAPS, text)
        if not quiet:
            say(text.rstrip())

    objective = trainer.learner.objective
    if objective.config.needs_teacher:
        on_first_batch(objective, tell)


@contextmanager
def _alone_in(run_dir: Path) -> Iterator[None]:
    """Hold the run folder's recipe locked."""
    with (run_dir / RECIPE).open("r+b") as file:
        lock_or_refuse(
            file,
            f"{run_dir}: another process trains into this folder; wait for it, or set another "
            "output_dir",
        )
        yield


def claims_folder(config: RunConfig) -> bool:
    """Whether the run folder holds this recipe already; another one's is never touched.

    Recipes that differ only in what leaves the weights bit-identical, like the number of workers,
    are the same: an interrupted run goes on with the new ones.
    """
    path = config.output_dir / RECIPE
    if not path.exists():
        leftovers = [name for name in (LAST, BEST) if (config.output_dir / name).exists()]
        if leftovers:
            raise UserError(
                f"{config.output_dir}: holds {leftovers[0]} but no {RECIPE}; choose another "
                "output_dir or remove the folder"
            )
        return False
    unseen = paths_that_leave_weights(RunConfig)
    mine, theirs = (dump_yaml(one, without=unseen) for one in (config, load_recipe(path)))
    if mine != theirs:
        raise UserError(
            f"{config.output_dir}: holds a run of another recipe ({_first_difference(mine, theirs)}"
            "); set another output_dir, or remove the folder to train anew"
        )
    return True


def evaluate(
    run: Trained | Path,
    *,
    split: str | None = None,
    eval_config: EvalConfig | None = None,
    device: Device = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """Accuracy of a trained network on a split (the recipe's test split), as `eval --json` says it.

    The document is kept beside the checkpoint: as `eval.json`, which reports go by, for best.pt on
    the test split; otherwise under a name that says what it is of. What was said of each video goes
    beside it, as `predictions.csv`, by which runs are compared, and the probabilities behind it.
    """
    job = eval_job(run, split=split, eval_config=eval_config, device=device)
    with show_progress(f"evaluate {job.trained.name}", quiet=quiet) as report:
        scores = score_videos(
            job.fabric,
            job.model,
            job.loader,
            is_multi_label=job.is_multi_label,
            on_progress=report,
        )
    metrics, predictions = job.measured(scores)
    document = {
        **job.stamp(),
        "predictions_digest": predictions.digest,
        **metrics.to_dict(),
        **_calibration(scores),
    }
    if job.fabric.is_global_zero:
        # The document goes last: it names the predictions that it was made of by their digest.
        write_probabilities(predictions, job.place("probabilities", ".safetensors"))
        write_text(job.place("predictions", ".csv"), predictions.to_csv())
        write_text(job.place("eval", ".json"), json.dumps(document, indent=1) + "\n")
    return document


def _calibration(scores: VideoScores) -> dict[str, float]:
    """Of videos with one label each; a sigmoid's confidence is another question."""
    if scores.is_multi_label:
        return {}
    found = calibration(scores.probabilities, scores.labels)
    return {
        "calibration_error_pct": found.calibration_error_pct,
        "negative_log_likelihood": found.negative_log_likelihood,
    }


def bench_subject(trained: Trained, *, argument: str | None = None) -> Subject:
    """A run's network as the benchmark takes it; `argument` is how the command line named it."""
    config = trained.config
    return Subject(
        model=trained.model.without_taps(),
        name=describe_model(config),
        role=config.role,
        num_views=config.eval.num_views,
        num_frames=config.eval.views.num_frames,
        argument=argument or str(trained.path.parent),
    )


def keep_results(trained: Trained, results: Sequence[BenchmarkResult]) -> list[BenchmarkResult]:
    """Write what was measured into the run's `bench.json`, a row a setting, the newest first.

    Rows of other settings stay. The results come back with the accuracy of `eval.json` if it is of
    these weights.
    """
    path = trained.path.parent / BENCH
    new = {result.setting for result in results}
    old = [result for result in _saved_rows(path) if result.setting not in new]
    write_text(path, results_json([*results, *old]))
    if not (trained.path.parent / EVAL).is_file() or trained.path.name != BEST:
        return list(results)
    document = saved_evaluation(trained.path)
    return [_with_accuracy(result, document) for result in results]


def _saved_rows(path: Path) -> list[BenchmarkResult]:
    if not path.is_file():
        return []
    try:
        return read_results(path)
    except UserError as error:  # another version's rows cannot stand beside new ones
        say(f"{error}; its rows are replaced")
        return []


def saved_result(run_dir: Path) -> list[BenchmarkResult]:
    """What `benchmark` and `evaluate` last kept in a run folder, put together: a row a setting.

    Raises:
        UserError: one of the two has not been run; the message has the command.
    """
    for name, command in ((BENCH, "bench"), (EVAL, "eval")):
        if not (run_dir / name).is_file():
            raise UserError(f"{run_dir}: no {name} yet; run `videokd {command} {run_dir}` first")
    results = read_results(run_dir / BENCH)
    if not results:
        raise UserError(f"{run_dir / BENCH}: is empty; run `videokd bench {run_dir}` again")
    document = saved_evaluation(run_dir / BEST)
    return [_with_accuracy(result, document) for result in results]


def saved_evaluation(checkpoint: Path) -> dict[str, Any]:
    """The `eval.json` beside a checkpoint, refused where it is of other weights."""
    path = checkpoint.parent / EVAL
    again = f"run `videokd eval {checkpoint.parent}` again"
    try:
        document = json.loads(read_text(path))
        step = document["checkpoint_step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path}: not an evaluation of ours; {again}") from None
    if step != load_checkpoint(checkpoint)["state"]["step"]:
        raise UserError(f"{path}: is of weights that {checkpoint.name} no longer holds; {again}")
    return dict(document)


def saved_results(run_dirs: Sequence[Path]) -> list[list[BenchmarkResult]]:
    """What several run folders keep, a list a run with a row a setting.

    Equal networks in equal roles get their folder's name too.
    """
    saved = [saved_result(run_dir) for run_dir in run_dirs]
    known = Counter((results[0].model, results[0].role) for results in saved)
    folders = Counter(run_dir.name for run_dir in run_dirs)
    for run_dir, results in zip(run_dirs, saved, strict=True):
        if known[results[0].model, results[0].role] > 1:
            folder = run_dir.name if folders[run_dir.name] == 1 else str(run_dir)
            results[:] = [
                dataclasses.replace(result, model=f"{result.model}, {folder}") for result in results
            ]
    return saved


def _with_accuracy(result: BenchmarkResult, document: dict[str, Any]) -> BenchmarkResult:
    """An eval document's numbers in a benchmark result, with the views that made them."""
    low, high = document["interval_pct"]
    shown = document.get("num_frames", result.num_frames)
    if shown != result.num_frames:
        raise UserError(
            f"{result.model}: evaluated on clips of {shown} frames, benchmarked on clips of "
            f"{result.num_frames}; give both one eval.protocol, then run `videokd eval` and "
            "`videokd bench` again"
        )
    top5 = document.get("top5_interval_pct")  # evaluations of earlier versions have none
    commands = [document.get("command"), result.command]
    result = dataclasses.replace(
        result,
        num_views=document["num_views"],
        gmacs_per_video=result.gmacs_per_view * document["num_views"],
        protocol=document["protocol"],
        command=" && ".join(command for command in commands if command) or None,
    )
    return result.with_accuracy(
        top1_pct=document["top1_pct"],
        top1_interval_pct=(low, high),
        top5_pct=document["top5_pct"],
        top5_interval_pct=None if top5 is None else (top5[0], top5[1]),
        num_videos=document["num_videos"],
    )


def describe_model(config: RunConfig) -> str:
    """A short name for tables: the backbone and what gives it time."""
    model: Any = config.model
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return str(model.kind)
    return f"{backbone} + {model.temporal.kind}"


def write_student(trained: Trained, path: Path) -> None:
    """The network alone, with its settings, input and class names, as safetensors."""
    from safetensors.torch import save_file

    state = {name: value.contiguous() for name, value in trained.model.network.state_dict().items()}
    metadata = {
        "model": trained.config.model.model_dump_json(),
        "class_names": json.dumps(list(trained.classes)),
        "role": trained.config.role,
    }
    with written_beside(path) as part:
        save_file(state, part, metadata=metadata)


def _sinks(config: RunConfig, *, from_step: int) -> list[Sink]:
    run_dir = config.output_dir
    sinks: list[Sink] = [JsonLines(run_dir / METRICS_FILE, from_step=from_step)]
    if config.train.tensorboard:
        sinks.append(TensorBoard(run_dir / "tensorboard", from_step=from_step))
    if config.train.wandb:
        sinks.append(WeightsAndBiases(run_dir, name=run_dir.name))
    return sinks


def _first_difference(mine: str, theirs: str) -> str:
    for own, other in zip(mine.splitlines(), theirs.splitlines(), strict=False):
        if own != other:
            return f"this one says {own.strip()!r}, that one {other.strip()!r}"
    return "one is longer than the other"
