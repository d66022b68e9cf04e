"""The stage tune: which trial was best on validation videos. Test videos have no part in it.

Over folds, the settings for fold f are chosen on the people of the other folds: a run that leaves
out f and g is scored on g, and over all g every person of f's training part has been validated on
once. The same run scored on f serves the choice for g.

Nothing here imports torch.
"""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

from videokd.experiments.ablation.choices import Choice
from videokd.experiments.ablation.overrides import digest_of, value_at
from videokd.experiments.ablation.plan import NotChosen, Plan, validation_split
from videokd.experiments.ablation.records import Key, Record, Results


class Scored(NamedTuple):
    """Validation of one setting; larger is better."""

    top1_pct: float
    minus_nll: float


FAILED = Scored(0.0, -math.inf)
"""A loss that was no number."""


def choose(plan: Plan, results: Results, study: str, row: str, fold: str | None) -> Choice | None:
    """The best trial of a row for a fold; None while runs are missing.

    Mean top-1 over the trial's runs decides, then the mean negative log-likelihood, then the order
    of the trials. A trial whose loss was no number is the worst.
    """
    one = plan.study(study)
    if one.rows[row].total_time_of is not None:
        return _long_enough(plan, results, study, row, fold)
    trials = one.trials(row)
    scored = [validated(plan, results, study, row, fold, trial) for trial in range(len(trials))]
    known = [score for score in scored if score is not None]
    if len(known) < len(trials):
        return None
    best = max(range(len(trials)), key=lambda trial: (known[trial], -trial))
    failed = known[best] == FAILED
    return Choice(
        over=dict(trials[best]),
        trial=best,
        top1_pct=None if failed else round(known[best].top1_pct, 4),
        nll=None if failed else round(-known[best].minus_nll, 6),
        digest=trials_digest(plan, study, row, fold),
    )


def trials_digest(plan: Plan, study: str, row: str, fold: str | None) -> str:
    """Of all runs that a choice is made from; it changes with any of their settings."""
    one = plan.study(study)
    if one.rows[row].total_time_of is not None:
        timed = [
            key
            for name in _timed_rows(plan, study, row)
            for key in _timed_runs(plan, study, name, fold)
        ]
        return digest_of([[str(key), plan.job(key).digest] for key in timed])
    keys = [
        key
        for trial in range(len(one.trials(row)))
        for key, _ in _runs(plan, study, row, fold, trial)
    ]
    return digest_of([plan.job(key).digest for key in keys])


def is_current(plan: Plan, study: str, row: str, fold: str | None) -> bool:
    """Whether there is a choice and it was made from the trials as the ladder has them now."""
    choice = plan.choices.find(study, row, fold)
    try:
        return choice is not None and choice.digest == trials_digest(plan, study, row, fold)
    except NotChosen:
        return False


def validated(
    plan: Plan, results: Results, study: str, row: str, fold: str | None, trial: int | None
) -> Scored | None:
    """Mean validation of a trial for a fold (None: of a choice that is only scored)."""
    found: list[Scored] = []
    for key, split in _runs(plan, study, row, fold, trial):
        record = finished(plan, results, key)
        if record is None:
            return None
        if record.failed is not None:
            return FAILED
        score = record.scores[split]
        found.append(Scored(score.top1_pct, -score.nll))
    if not found:
        return None
    return Scored(*(statistics.fmean(column) for column in zip(*found, strict=True)))


def finished(plan: Plan, results: Results, key: Key) -> Record | None:
    """The record of a run, if it was made with the settings that the ladder has now."""
    record = results.records.get(key)
    try:
        return record if record is not None and record.digest == plan.job(key).digest else None
    except NotChosen:
        return None


def _runs(
    plan: Plan, study: str, row: str, fold: str | None, trial: int | None
) -> list[tuple[Key, str]]:
    """The runs of a trial that say something for a fold, each with the split that says it."""
    found = []
    for key in plan.tune_keys(study, row):
        if key.trial != trial:
            continue
        if fold is None:
            found.append((key, plan.job(key).splits[0]))
            continue
        assert key.fold is not None
        first, second = key.fold.split("-")
        if first == fold:
            found.append((key, validation_split(second)))
        elif second == fold and trial is not None:
            found.append((key, validation_split(first)))
    return found


def _long_enough(
    plan: Plan, results: Results, study: str, row: str, fold: str | None
) -> Choice | None:
    """As many epochs as fit into the time of another row and of all that it reads.

    Both are timed on the trials that were chosen. What both read (the same first weights) is in
    neither's favour.
    """
    shape, *paid_for = _timed_rows(plan, study, row)
    own = _seconds(plan, results, study, shape, fold)
    theirs = [_seconds(plan, results, study, name, fold) for name in paid_for]
    known = [seconds for seconds in theirs if seconds is not None]
    if own is None or len(known) < len(theirs):
        return None
    epochs = _epochs(plan, study, shape, fold)
    longer = max(epochs, round(epochs * sum(known) / own))
    return Choice(
        over={"train.epochs": longer},
        trial=None,
        top1_pct=None,
        nll=None,
        digest=trials_digest(plan, study, row, fold),
    )


def _timed_rows(plan: Plan, study: str, row: str) -> list[str]:
    """The row that is trained for longer, then those whose time it is given."""
    one = plan.study(study)
    target, shape = one.rows[row].total_time_of, one.rows[row].choice_of
    assert target is not None, "asked of such rows alone"
    assert shape is not None, "checked when the ladder was read"
    own = plan.read_by(study, shape)
    also = plan.read_by(study, target) - own
    if any(one.rows[name].kind == "start" for name in own):
        # Whoever starts from other videos itself is not given time for the teacher's start.
        also = {name for name in also if one.rows[name].kind != "start"}
    return [shape, target, *sorted(also)]


def _timed_runs(plan: Plan, study: str, row: str, fold: str | None) -> list[Key]:
    """The tuning runs of a row as it was chosen for a fold."""
    one = plan.study(study)
    if one.rows[row].is_prerequisite:
        is_over_folds = fold is not None and one.rows[row].folds
        inner = [pair for pair in one.inner_folds if fold in pair.split("-")]
        seed = one.seeds_of(row)[0]
        return [Key(study, "tune", row, seed, f) for f in (inner if is_over_folds else (None,))]
    choice = plan.choices.find(study, row, fold)
    if choice is None or choice.trial is None:
        return []
    return [key for key, _ in _runs(plan, study, row, fold, choice.trial)]


def _seconds(plan: Plan, results: Results, study: str, row: str, fold: str | None) -> float | None:
    """Mean seconds of training of one run of a row; None while there is none."""
    records = [finished(plan, results, key) for key in _timed_runs(plan, study, row, fold)]
    known = [record.train_seconds for record in records if record is not None]
    return statistics.fmean(known) if known and len(known) == len(records) else None


def _epochs(plan: Plan, study: str, row: str, fold: str | None) -> int:
    return int(value_at(plan.job(_timed_runs(plan, study, row, fold)[0]).settings, "train.epochs"))


def choose_all(plan: Plan, results: Results, study: str, rows: list[str]) -> list[str]:
    """Choose what can be chosen now and is not; sentences on what was."""
    said = []
    one = plan.study(study)
    for row in rows:
        if not one.trials(row) and one.rows[row].total_time_of is None:
            continue
        for fold in one.folds or (None,):
            if is_current(plan, study, row, fold):
                continue
            try:
                choice = choose(plan, results, study, row, fold)
            except NotChosen:  # it reads a row that is still to be tuned
                continue
            if choice is None:
                continue
            there = plan.choices.find(study, row, fold)
            plan.choices.add(study, row, fold, choice)
            where = f"{study}/{row}" + (f", fold {fold}" if fold else "")
            values = ", ".join(f"{path} {value}" for path, value in choice.over.items())
            again = " again, its trials have changed" if there is not None else ""
            said.append(f"{where}: chosen{again}: {values}")
    return said
