"""Run folders: train into one, evaluate and benchmark what lies in one.

A run folder holds `recipe.yaml` (resolved), `metrics.jsonl`, `last.pt`, `best.pt`, `eval.json`,
`bench.json`, and `student.safetensors`, which needs nothing else to be used.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from videokd.bench.benchmark import benchmark_model
from videokd.bench.result import BenchmarkResult, read_results, results_json
from videokd.checkpoint import load_checkpoint
from videokd.config import dump_yaml
from videokd.data.index import read_index
from videokd.engine.evaluate import EvalConfig, score_videos
from videokd.engine.train import BEST, LAST, Trainer
from videokd.errors import UserError
from videokd.files import check_place, read_text, write_text, written_beside
from videokd.metrics import accuracy_report
from videokd.progress import show_progress
from videokd.recipe import (
    Device,
    RunConfig,
    Trained,
    build,
    check_clip_length,
    create_fabric,
    eval_loader,
    load_recipe,
    load_trained,
)
from videokd.tracking import METRICS_FILE, JsonLines, Sink, TensorBoard, WeightsAndBiases

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RECIPE = "recipe.yaml"
EVAL = "eval.json"
BENCH = "bench.json"
STUDENT = "student.safetensors"


@dataclass(frozen=True)
class TrainOutcome:
    """What a training command ends with."""

    run_dir: Path
    steps: int
    seconds: float
    best: dict[str, float] | None
    """Step, top1_pct and cross_entropy on validation videos; none without a validation split."""
    num_unreadable: int
    already_done: bool
    """Nothing was left to train."""


def train(config: RunConfig, *, device: Device = "auto", quiet: bool = False) -> TrainOutcome:
    """Train what a recipe says, from the beginning or from where its run folder stands.

    Raises:
        UserError: a mistake in recipe or data, or a run folder that belongs to another recipe.
    """
    run_dir = config.output_dir
    check_place(run_dir, is_folder=True)
    claims_folder(config)
    fabric = create_fabric(device, config.train.precision, cpu_threads=config.train.cpu_threads)
    trainer = build(config, fabric, on_init=None if quiet else _say)
    if not fabric.is_global_zero:
        return _train(config, trainer, fabric, quiet=True)
    if not claims_folder(config):
        write_text(run_dir / RECIPE, dump_yaml(config))
    with _alone_in(run_dir):
        for part in run_dir.glob(".*.part"):
            part.unlink(missing_ok=True)  # a kill in the middle of a write left it
        return _train(config, trainer, fabric, quiet=quiet)


def _train(config: RunConfig, trainer: Trainer, fabric: Fabric, *, quiet: bool) -> TrainOutcome:
    run_dir = config.output_dir
    trainer.resume()
    already_done = trainer.finished
    if not already_done:
        sinks = _sinks(config, from_step=trainer.state.step) if fabric.is_global_zero else []
        try:
            with show_progress(f"train {run_dir.name}", quiet=quiet) as report:
                trainer.fit(sinks, on_progress=report)
        finally:
            for sink in sinks:
                sink.close()
    if fabric.is_global_zero and not (already_done and (run_dir / STUDENT).is_file()):
        write_student(load_trained(run_dir), run_dir / STUDENT)
    state = trainer.state
    return TrainOutcome(
        run_dir, state.step, state.seconds, state.best, len(state.unreadable), already_done
    )


@contextmanager
def _alone_in(run_dir: Path) -> Iterator[None]:
    """Hold the run folder's recipe locked; the lock goes with the process, however it ends.

    A record lock: unlike `flock`'s, it is not inherited by decoding workers, which outlive a killed
    process by seconds. Any close of the file in this process gives it up, so nobody else opens it.
    """
    with (run_dir / RECIPE).open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"{run_dir}: another process trains into this folder; wait for it, or set another "
                "output_dir"
            ) from None
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
    mine, theirs = _what_decides(config), _what_decides(load_recipe(path))
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
    the test split; otherwise under a name that says what it is of.
    """
    trained = run if isinstance(run, Trained) else load_trained(run)
    config = trained.config
    fabric = create_fabric(device, trained.precision, cpu_threads=config.train.cpu_threads)
    index = read_index(config.data.index)
    if index.classes != trained.classes:
        raise UserError(
            f"{config.data.index}: its {len(index.classes)} classes are not the "
            f"{len(trained.classes)} that {trained.path} was trained for"
        )
    split = split or config.data.test_split
    views = eval_config or config.eval
    check_clip_length(config.model, views.views)
    loader = eval_loader(config.data, views, index, trained.model.spec, split=split, fabric=fabric)
    model = trained.model.without_taps().to(fabric.device)
    with show_progress(f"evaluate {trained.name}", quiet=quiet) as report:
        scores = score_videos(fabric, model, loader, on_progress=report)
    groups = [index.records[video_id].group for video_id in scores.video_ids.tolist()]
    metrics = accuracy_report(
        scores.probabilities,
        scores.labels,
        trained.classes,
        groups=groups if all(groups) else None,
    )
    document = {
        "protocol": _protocol(trained, views, split),
        "checkpoint_step": trained.state["step"],
        "num_views": views.num_views,
        "num_frames": views.views.num_frames or trained.model.spec.num_frames,
        **metrics.to_dict(),
    }
    if fabric.is_global_zero:
        is_the_result = split == config.data.test_split and trained.path.name == BEST
        name = EVAL if is_the_result else f"eval.{trained.path.stem}.{split}.json"
        write_text(trained.path.parent / name, json.dumps(document, indent=1) + "\n")
    return document


def benchmark(
    run: Trained | Path,
    *,
    batch: int = 1,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    device: Device = "auto",
    quick: bool = False,
    quiet: bool = False,
) -> BenchmarkResult:
    """Size and speed of a trained network, with the accuracy of its `eval.json` if there is one."""
    trained = run if isinstance(run, Trained) else load_trained(run)
    spec, config = trained.model.spec, trained.config
    with show_progress(f"benchmark {trained.name}, batch {batch}", quiet=quiet) as report:
        result = benchmark_model(
            trained.model.without_taps(),
            name=describe_model(config),
            role=config.role,
            num_frames=config.eval.views.num_frames or spec.num_frames,
            crop_px=spec.crop_px,
            num_views=config.eval.num_views,
            batch=batch,
            device=create_fabric(device, "fp32").device,
            dtype=dtype,
            quick=quick,
            on_progress=report,
        )
    folder = trained.path.parent
    if (folder / EVAL).is_file() and trained.path.name == BEST:
        result = _with_accuracy(result, _saved_evaluation(trained.path))
    write_text(folder / BENCH, results_json([result]))
    return result


def saved_result(run_dir: Path) -> BenchmarkResult:
    """What `benchmark` and `evaluate` last kept in a run folder, put together.

    Raises:
        UserError: one of the two has not been run; the message has the command.
    """
    for name, command in ((BENCH, "bench"), (EVAL, "eval")):
        if not (run_dir / name).is_file():
            raise UserError(f"{run_dir}: no {name} yet; run `videokd {command} {run_dir}` first")
    results = read_results(run_dir / BENCH)
    if not results:
        raise UserError(f"{run_dir / BENCH}: is empty; run `videokd bench {run_dir}` again")
    return _with_accuracy(results[0], _saved_evaluation(run_dir / BEST))


def _saved_evaluation(checkpoint: Path) -> dict[str, Any]:
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


def saved_results(run_dirs: Sequence[Path]) -> list[BenchmarkResult]:
    """What several run folders keep; equal networks in equal roles get their folder's name too."""
    results = [saved_result(run_dir) for run_dir in run_dirs]
    known = Counter((result.model, result.role) for result in results)
    return [
        dataclasses.replace(result, model=f"{result.model}, {run_dir.name}")
        if known[result.model, result.role] > 1
        else result
        for run_dir, result in zip(run_dirs, results, strict=True)
    ]


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
    result = dataclasses.replace(
        result,
        num_views=document["num_views"],
        gmacs_per_video=result.gmacs_per_view * document["num_views"],
    )
    return result.with_accuracy(
        top1_pct=document["top1_pct"],
        top1_interval_pct=(low, high),
        top5_pct=document["top5_pct"],
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


def _protocol(trained: Trained, views: EvalConfig, split: str) -> str:
    """What was looked at, in a line; a named protocol comes before its clips and crops."""
    spec, shown = trained.model.spec, views.views
    sampling = spec.sampling
    detail = f"x{sampling.stride}" if sampling.kind == "dense" else ""
    name = f"{views.protocol}, " if views.protocol is not None else ""
    return (
        f"{split}: {name}{shown.num_clips} clips x {shown.num_crops} crops, {sampling.kind} "
        f"{shown.num_frames or sampling.num_frames}{detail}, {spec.crop_px} px, {trained.path.name}"
    )


def _what_decides(config: RunConfig) -> str:
    """The recipe as YAML, without the settings that change nothing in the weights."""
    unseen_of_data = {
        "num_workers": 0,
        "max_unreadable_pct": 0.0,
        "decode_time_limit_seconds": 1.0,
    }
    data = config.data.model_copy(update=unseen_of_data)
    unseen: dict[str, Any] = {"log_every_steps": 1, "checkpoint_every_steps": None}
    train = config.train.model_copy(update={**unseen, "tensorboard": True, "wandb": False})
    return dump_yaml(config.model_copy(update={"data": data, "train": train}))


def _first_difference(mine: str, theirs: str) -> str:
    for own, other in zip(mine.splitlines(), theirs.splitlines(), strict=False):
        if own != other:
            return f"this one says {own.strip()!r}, that one {other.strip()!r}"
    return "one is longer than the other"


def _say(text: str) -> None:
    import sys

    print(text, file=sys.stderr, flush=True)
