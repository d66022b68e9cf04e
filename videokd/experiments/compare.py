"""Run folders against each other, on the videos that both were evaluated on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from videokd.bench.report.paired import Comparison
from videokd.bench.result import BenchmarkResult
from videokd.checkpoint import BEST
from videokd.errors import ConfigError, UserError
from videokd.files import file_digest
from videokd.metrics import Agreement, Predictions, agreement, paired_test, read_predictions
from videokd.recipe import load_recipe
from videokd.runs import PREDICTIONS, PROBABILITIES, RECIPE, saved_evaluation

Unit = Literal["auto", "video", "group"]


@dataclass(frozen=True)
class _Evaluated:
    """A run folder's evaluation and the predictions behind it."""

    run_dir: Path
    document: dict[str, Any]
    predictions: Predictions


def compare_runs(
    a: Sequence[Path], b: Sequence[Path], *, unit: Unit = "auto", seed: int = 0
) -> Comparison:
    """The paired comparison of one or several runs a side; see `paired_test`.

    Args:
        a: run folders, evaluated; several are several training seeds of one recipe.
        b: what they are compared with.
        unit: what is drawn; `auto` takes groups where every video of the index has one.
        seed: of the bootstrap.

    Raises:
        UserError: a run that is not evaluated, or not on the same videos, labels, split and views.
        ConfigError: a run twice on one side, or no groups where they are asked for.
    """
    for side in (a, b):
        if not side or len({run.resolve() for run in side}) < len(side):
            raise ConfigError(
                f"{','.join(map(str, side)) or 'nothing'}: a side of a comparison is one or more "
                "run folders, each once"
            )
    sides = ([_evaluated(run) for run in a], [_evaluated(run) for run in b])
    first = sides[0][0]
    for other in [*sides[0][1:], *sides[1]]:
        _check_same(first, other)
    groups = _groups(first.predictions, unit)
    correct = [np.stack([run.predictions.correct_top1 for run in side]) for side in sides]
    return Comparison(
        a=_side_name(a),
        b=_side_name(b),
        role_a=_role(a),
        role_b=_role(b),
        command=_command(a, b, unit=unit, seed=seed),
        test=paired_test(correct[0], correct[1], groups=groups, seed=seed),
        agreement=_agreement(*sides),
    )


def compare_reported(
    run_dirs: Sequence[Path], results: Sequence[BenchmarkResult]
) -> tuple[list[Comparison], list[str]]:
    """Each student against each other run, named as in `results`; all against the first without a
    student. With them, sentences on what could not be compared.

    Args:
        run_dirs: the runs of a report.
        results: one row a run, in their order (`saved_results`).

    Raises:
        ConfigError: a run that is given twice.
    """
    if len({run.resolve() for run in run_dirs}) < len(run_dirs):
        raise ConfigError("a run folder is given twice; a report shows each once")
    names = dict(zip(run_dirs, results, strict=True))
    students = [run for run, result in names.items() if result.role == "student"]
    pairs = [(run, other) for run in students for other in run_dirs if other not in students]
    if not students:
        pairs = [(run, run_dirs[0]) for run in run_dirs[1:]]
    found: list[Comparison] = []
    notes: list[str] = []
    for run, other in pairs:
        try:
            one = compare_runs([run], [other])
        except UserError as error:
            notes.append(f"Not compared: {error}.")
            continue
        found.append(
            Comparison(
                a=names[run].model,
                b=names[other].model,
                role_a=one.role_a,
                role_b=one.role_b,
                command=one.command,
                test=one.test,
                agreement=one.agreement,
            )
        )
    return found, notes


def _agreement(a: Sequence[_Evaluated], b: Sequence[_Evaluated]) -> Agreement | None:
    """Of a with b, where each is one run."""
    return agreement(a[0].predictions, b[0].predictions) if len(a) == len(b) == 1 else None


def _evaluated(run_dir: Path) -> _Evaluated:
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no run folder; give one that was trained and evaluated")
    again = f"run `videokd eval {run_dir}` again"
    if not (run_dir / "eval.json").is_file():
        raise UserError(f"{run_dir}: no eval.json yet; run `videokd eval {run_dir}` first")
    document = saved_evaluation(run_dir / BEST)
    path = run_dir / PREDICTIONS
    if not path.is_file() or not {"split", "views", "predictions_digest"} <= document.keys():
        raise UserError(f"{run_dir}: its evaluation has no {PREDICTIONS}; {again}")
    if file_digest(path) != document["predictions_digest"]:
        raise UserError(f"{path}: is not of the eval.json beside it; {again}")
    behind = run_dir / PROBABILITIES  # evaluations of earlier versions have none
    behind_it = behind if behind.is_file() else None
    return _Evaluated(run_dir, document, read_predictions(path, probabilities=behind_it))


def _check_same(one: _Evaluated, other: _Evaluated) -> None:
    """Refuse what makes a paired comparison one of two different things.

    Sampling and crop are a network's own (its `InputSpec`) and may differ; split and views may not.
    """
    names = f"{one.run_dir} and {other.run_dir}"
    for key in ("split", "views"):
        ours, theirs = one.document[key], other.document[key]
        if ours != theirs:
            raise UserError(
                f"{names}: evaluated with another {key} ({_plain(ours)}; {_plain(theirs)}); "
                "evaluate both alike"
            )
    mine, its = one.predictions, other.predictions
    if mine.paths != its.paths:
        only = sorted(set(mine.paths) ^ set(its.paths))
        detail = f"{only[0]} is in one only" if only else "in another order"
        raise UserError(
            f"{names}: evaluated on other videos ({len(mine.paths)} and {len(its.paths)}; "
            f"{detail}); evaluate both on one index"
        )
    for what, ours, theirs in (
        ("label", mine.labels, its.labels),
        ("group", mine.groups, its.groups),
    ):
        for path, own, their in zip(mine.paths, ours, theirs, strict=True):
            if own != their:
                raise UserError(
                    f"{names}: {path} has the {what} {own!r} in one and {their!r} in the other; "
                    "evaluate both on one index"
                )


def _groups(predictions: Predictions, unit: Unit) -> tuple[str, ...] | None:
    """The groups to draw, or None to draw videos."""
    known = all(predictions.groups) and len(set(predictions.groups)) > 1
    if unit == "group" and not known:
        raise ConfigError(
            "unit group: the index has no group for every video, or only one; fill its `group` "
            "column, or take unit video"
        )
    return predictions.groups if known and unit != "video" else None


def _plain(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    if value.get("protocol"):
        return str(value["protocol"])
    return f"{value.get('num_clips')} clips x {value.get('num_crops')} crops"


def _side_name(runs: Sequence[Path]) -> str:
    return ",".join(str(run) for run in runs)


def _role(runs: Sequence[Path]) -> str:
    """The role that all runs of a side have."""
    return "/".join(dict.fromkeys(load_recipe(run / RECIPE).role for run in runs))


def _command(a: Sequence[Path], b: Sequence[Path], *, unit: Unit, seed: int) -> str:
    words = ["videokd", "compare", _side_name(a), _side_name(b)]
    words += ["--unit", unit] if unit != "auto" else []
    words += ["--seed", str(seed)] if seed else []
    return shlex.join(words)
