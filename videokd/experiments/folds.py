"""A recipe over the folds of a data set: one run a fold, and the mean as papers report it.

UCF101 and HMDB51 come with three folds, and their published results are the mean over them. The
recipe has `{fold}` where a fold's number goes: in `data.train_split`, `data.test_split` and
`output_dir`, and where it distils, in the teacher's folder.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videokd.config import parse_config, read_yaml
from videokd.data.index import read_index
from videokd.errors import ConfigError, UserError
from videokd.files import check_place, read_text, write_text
from videokd.recipe import Device, RunConfig
from videokd.runs import evaluate, train

MARK = "{fold}"
FOLDS_FILE = "folds.json"
METRICS = ("top1_pct", "top5_pct", "mean_class_pct")

CONVENTION = (
    "mean: over folds, each counted once whatever its number of videos; std: of the folds around "
    "it, with n - 1; the folds share videos, so it is no standard error"
)


@dataclass(frozen=True, slots=True)
class FoldResult:
    """One fold's run, trained and evaluated on its test split."""

    fold: str
    run_dir: str
    protocol: str
    num_videos: int
    top1_pct: float
    top5_pct: float
    mean_class_pct: float


@dataclass(frozen=True, slots=True)
class FoldsResult:
    """The folds of one recipe and their mean; percentages."""

    output_dir: str
    """As the recipe has it, with `{fold}`."""
    folds: tuple[FoldResult, ...]
    mean: dict[str, float]
    """Of `top1_pct`, `top5_pct` and `mean_class_pct`."""
    std: dict[str, float | None]
    """The same; None with a single fold."""
    convention: str = CONVENTION

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def run_folds(
    recipe: Path | str,
    overrides: Sequence[str] = (),
    *,
    folds: Sequence[str] = ("1", "2", "3"),
    device: Device = "auto",
    quiet: bool = False,
) -> tuple[FoldsResult, Path]:
    """Train and evaluate a recipe fold by fold; what is trained already is kept.

    The result is also written, as `folds.json` into the folder that the run folders share.

    Raises:
        ConfigError: a recipe that is not one for folds; before anything is trained.
        UserError: as for `train` and `evaluate`, a fold that is not in the index, or a `folds.json`
            of another recipe.
    """
    template = read_yaml(recipe, overrides, RunConfig)
    configs = fold_configs(template, folds, source=str(recipe))
    path = folds_path([config.output_dir for config in configs.values()])
    check_place(path, is_folder=False)
    _refuse_others(path, str(template["output_dir"]))
    _check_splits(configs.values())
    found = [
        _run_fold(fold, config, device=device, quiet=quiet) for fold, config in configs.items()
    ]
    result = summarise(str(template["output_dir"]), found)
    write_text(path, json.dumps(result.to_dict(), indent=1) + "\n")
    return result, path


def fold_configs(
    template: dict[str, Any], folds: Sequence[str], *, source: str
) -> dict[str, RunConfig]:
    """Fold -> its recipe: `{fold}` in the template's strings is replaced, then all is checked.

    Raises:
        ConfigError: `{fold}` is missing where folds must differ, a fold is named twice or not at
            all, or two folds have one run folder.
    """
    if not folds or "" in folds or len(set(folds)) != len(folds):
        raise ConfigError(f"folds {','.join(folds)!r} must be one or more names, each once: 1,2,3")
    data = template.get("data")
    splits = data if isinstance(data, dict) else {}
    for key, value in (
        ("output_dir", template.get("output_dir")),
        ("data.train_split", splits.get("train_split")),
        ("data.test_split", splits.get("test_split")),
    ):
        if MARK not in str(value):
            raise ConfigError(
                f"{source}: {key} is {value!r}; over folds it needs {MARK} in it, such as "
                f"{_EXAMPLES[key]}"
            )
    configs = {
        fold: parse_config(RunConfig, with_fold(template, fold), source=f"{source}, fold {fold}")
        for fold in folds
    }
    taken: dict[str, str] = {}
    for fold, config in configs.items():
        if config.objective.is_multi_label:
            raise ConfigError(
                f"{source}: binary_cross_entropy is for several labels a video, and folds are "
                "averaged over accuracies of one; use `videokd train` and `videokd eval`"
            )
        folder = os.path.abspath(config.output_dir)  # noqa: PTH100
        if folder in taken:
            raise ConfigError(
                f"{source}: folds {taken[folder]} and {fold} have one output_dir, "
                f"{config.output_dir}"
            )
        taken[folder] = fold
    return configs


def folds_path(run_dirs: Sequence[Path]) -> Path:
    """`folds.json` in the folder that the run folders share; never inside of one."""
    common = Path(os.path.commonpath([os.path.abspath(run.parent) for run in run_dirs]))  # noqa: PTH100
    is_relative = not any(run.is_absolute() for run in run_dirs)
    return (Path(os.path.relpath(common)) if is_relative else common) / FOLDS_FILE


def summarise(output_dir: str, folds: Sequence[FoldResult]) -> FoldsResult:
    """Mean and sample standard deviation (n - 1) of each metric over the folds."""
    values = {name: [float(getattr(fold, name)) for fold in folds] for name in METRICS}
    return FoldsResult(
        output_dir=output_dir,
        folds=tuple(folds),
        mean={name: statistics.fmean(column) for name, column in values.items()},
        std={
            name: statistics.stdev(column) if len(column) > 1 else None
            for name, column in values.items()
        },
    )


_EXAMPLES = {
    "output_dir": "runs/ucf101/student/fold{fold}",
    "data.train_split": "train{fold}",
    "data.test_split": "test{fold}",
}


def _check_splits(configs: Iterable[RunConfig]) -> None:
    """Each fold is in its index, before the first is trained for hours."""
    data = [config.data for config in configs]
    indexes = {path: read_index(path) for path in {one.index for one in data}}
    for one in data:
        for split in (one.train_split, one.val_split, one.test_split):
            if split is not None:
                indexes[one.index].select(split)


def _run_fold(fold: str, config: RunConfig, *, device: Device, quiet: bool) -> FoldResult:
    train(config, device=device, quiet=quiet)
    document = evaluate(config.output_dir, device=device, quiet=quiet)
    return FoldResult(
        fold=fold,
        run_dir=str(config.output_dir),
        protocol=document["protocol"],
        num_videos=document["num_videos"],
        **{name: document[name] for name in METRICS},
    )


def with_fold(value: Any, fold: str) -> Any:
    """Plain data with `{fold}` replaced by a fold's name in all strings but keys."""
    if isinstance(value, str):
        return value.replace(MARK, fold)
    if isinstance(value, dict):
        return {key: with_fold(item, fold) for key, item in value.items()}
    if isinstance(value, list):
        return [with_fold(item, fold) for item in value]
    return value


def _refuse_others(path: Path, output_dir: str) -> None:
    """A teacher's and a student's result must not take turns in one file."""
    if not path.exists():
        return
    try:
        theirs = json.loads(read_text(path))["output_dir"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path}: not a result over folds of ours; move it away") from None
    if theirs != output_dir:
        raise UserError(
            f"{path}: is the result of {theirs}; give each recipe a folder of its own, such as "
            f"{_EXAMPLES['output_dir']}"
        )
