"""Which rows there are, and how far each one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from videokd.experiments.ablation.choices import Choices
from videokd.experiments.ablation.plan import NotChosen, Plan
from videokd.experiments.ablation.records import Key, Results
from videokd.experiments.ablation.study import (
    Request,
    places_of,
    read_ladder,
    selected,
    unavailable,
    waits_for,
)
from videokd.experiments.ablation.tuning import finished


@dataclass(frozen=True)
class RowState:
    """How far a row is."""

    study: str
    row: str
    kind: str
    label: str
    num_tuned: int
    num_to_tune: int
    num_done: int
    num_to_do: int
    note: str
    """What keeps it from being run, and runs that other settings made."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def list_rows(request: Request) -> list[RowState]:
    """Every row that is asked for, in the ladder's order."""
    ladder, places = read_ladder(request, places_of(request))
    plan = Plan(ladder, places, Choices(places.chosen))
    results = Results(places.results)
    return [
        _state(plan, results, study, row)
        for study, rows in selected(ladder, request.only).items()
        for row in rows
    ]


def format_rows(states: Sequence[RowState]) -> str:
    """A line a row."""
    lines = [f"{'row':<40} {'kind':<10} {'trials':>9} {'runs':>9}  note"]
    for one in states:
        trials = f"{one.num_tuned}/{one.num_to_tune}" if one.num_to_tune else "-"
        lines.append(
            f"{f'{one.study}/{one.row}':<40} {one.kind:<10} {trials:>9} "
            f"{f'{one.num_done}/{one.num_to_do}':>9}  {one.note}".rstrip()
        )
    return "\n".join(lines)


def _state(plan: Plan, results: Results, study: str, row: str) -> RowState:
    one = plan.study(study).rows[row]
    tune, run = plan.tune_keys(study, row), plan.run_keys(study, row)
    if one.is_prerequisite:
        tune = []
    reason = unavailable(plan, study, row)
    notes = [f"not available: {reason}"] if reason is not None else []
    waiting = waits_for(plan, study, row)
    notes += [waiting] if waiting is not None else []
    num_stale = sum(_is_stale(plan, results, key) for key in (*tune, *run))
    notes += [f"stale: {num_stale} made by other settings than the ladder's"] if num_stale else []
    return RowState(
        study=study,
        row=row,
        kind=one.kind,
        label=one.label,
        num_tuned=sum(finished(plan, results, key) is not None for key in tune),
        num_to_tune=len(tune),
        num_done=sum(finished(plan, results, key) is not None for key in run),
        num_to_do=len(run),
        note="; ".join(notes),
    )


def _is_stale(plan: Plan, results: Results, key: Key) -> bool:
    record = results.records.get(key)
    try:
        return record is not None and record.digest != plan.job(key).digest
    except NotChosen:
        return record is not None
