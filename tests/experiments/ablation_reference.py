"""A ladder of four rows on eight videos, and results of it made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from videokd.experiments.ablation.choices import Choices
from videokd.experiments.ablation.ladder import load_ladder
from videokd.experiments.ablation.plan import Places, Plan
from videokd.experiments.ablation.records import Key, Record, Results, Score, Videos, pack

RECIPE = {
    "role": "control",
    "data": {"index": "half.csv"},
    "objective": {"terms": {"labels": {"kind": "cross_entropy"}}},
    "train": {"epochs": 10, "batch_size": 4, "optim": {"lr": 0.01}},
    "output_dir": "runs/x",
}
"""No network: nothing of it is built."""

LR = [{"train.optim.lr": 0.01}, {"train.optim.lr": 0.02}]

LONG = {"like": "plain", "label": "long", "choice_of": "plain", "total_time_of": "logits"}
"""A row to add: the control for the total time of `logits`."""


def study(**changes: Any) -> dict[str, Any]:
    """Two tuned controls, a tuned student, its placebo."""
    return {
        "title": "By hand",
        "data": {"kind": "synthetic", "preset": "tiny", "folder": "videos", "index": "half.csv"},
        "seeds": [0, 1],
        "teacher": "teacher",
        "tuning": {"num_trials": 2},
        "axes": {"lr": LR},
        "groups": {"ladder": {"title": "The ladder"}},
        "rows": {
            "teacher": {
                "label": "teacher",
                "kind": "teacher",
                "recipe": "recipe.yaml",
                "seeds": [0],
            },
            "plain": {
                "label": "plain",
                "kind": "control",
                "group": "ladder",
                "recipe": "recipe.yaml",
                "tune": ["lr"],
            },
            "smooth": {
                "like": "plain",
                "label": "smooth",
                "over": {"objective.terms.labels.label_smoothing": 0.1},
                "tune": ["lr"],
            },
            "logits": {
                "like": "plain",
                "label": "logits",
                "kind": "distilled",
                "over": {"objective.terms.soft": {"kind": "soft_targets"}},
                "uses": {"teacher.checkpoint": "teacher"},
                "tune": ["lr"],
            },
            "shuffled": {
                "like": "logits",
                "label": "shuffled",
                "kind": "placebo",
                "choice_of": "logits",
                "over": {"teacher.placebo": "shuffled_within_class"},
            },
        },
        "quick": {"rows": ["teacher", "plain"], "seeds": [0]},
    } | changes


def people(**changes: Any) -> dict[str, Any]:
    """The same over three folds of one person each."""
    folds = {"1": ["a"], "2": ["b"], "3": ["c"]}
    data = {"kind": "people", "source": "index.csv", "index": "half.csv", "folds": folds}
    rows = study()["rows"]
    return study(data=data, rows=rows, quick={"rows": ["teacher"], "seeds": [0]}) | changes


def written(folder: Path, *, recipe: dict[str, Any] | None = None, **studies: Any) -> Places:
    """A ladder on disk, and where its things would lie."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = recipe or RECIPE
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    (folder / "ladder.yaml").write_text(
        yaml.safe_dump({"studies": studies}, sort_keys=False), encoding="utf-8"
    )
    return Places(
        ladder=folder / "ladder.yaml",
        chosen=folder / "chosen.yaml",
        results=folder / "results",
        runs=folder / "runs",
        report=folder / "ablation.md",
    )


def plan_of(places: Places) -> Plan:
    """The plan under what is chosen by now."""
    return Plan(load_ladder(places.ladder), places, Choices(places.chosen))


def record(plan: Plan, key: Key, top1_pct: dict[str, float], **changes: Any) -> Record:
    """A finished run with these accuracies and no predictions."""
    scores = {
        split: Score(num_videos=8, top1_pct=value, nll=1.0, ece_pct=2.0, predicted=pack([0] * 8))
        for split, value in top1_pct.items()
    }
    values: dict[str, Any] = {"epochs": 10, "train_seconds": 60.0, "wall_seconds": 70.0}
    return Record(
        key=key,
        digest=plan.job(key).digest,
        index_digest="index",
        scores=scores,
        **{**values, **changes},
    )


def predicting(plan: Plan, key: Key, wrong: int, *, labels: np.ndarray, split: str) -> Record:
    """A finished run that has the first `wrong` videos wrong, validated as it is tested."""
    predicted = labels.copy()
    predicted[:wrong] = (labels[:wrong] + 1) % 3
    score = Score(
        num_videos=len(labels),
        top1_pct=100 * float((predicted == labels).mean()),
        nll=0.5,
        ece_pct=3.0,
        predicted=pack(predicted),
    )
    scores = {split: score} if key.fold else {"val": score, split: score}
    return Record(
        key=key,
        digest=plan.job(key).digest,
        index_digest="index",
        scores=scores,
        epochs=10,
        train_seconds=120.0,
        wall_seconds=130.0,
        gmacs_per_video=0.01,
        params_m=0.25,
    )


def videos(study_name: str, labels: np.ndarray, *, split: str = "test") -> Videos:
    return Videos(study_name, None, split, "index", pack(labels), ("",) * len(labels))


def tuned(places: Places, study_name: str, val_pct: dict[str, tuple[float, float]]) -> Results:
    """Results of all trials of rows: row -> validation of its two trials."""
    plan = plan_of(places)
    results = Results(places.results)
    for row, values in val_pct.items():
        for key in plan.tune_keys(study_name, row):
            assert key.trial is not None
            scores = dict.fromkeys(plan.job(key).splits, values[key.trial])
            results.add(record(plan, key, scores), [])
    return results
