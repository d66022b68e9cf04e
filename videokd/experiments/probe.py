"""Does a trained network see motion? Its accuracy with the frames of each clip shuffled, reversed
and frozen, beside the accuracy with the frames as they are, on the same videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from videokd.engine.evaluate import EvalConfig
from videokd.engine.time_probe import NORMAL, score_time_probe
from videokd.errors import UserError
from videokd.evaluation import EvalJob, eval_job
from videokd.files import write_text
from videokd.metrics import PairedTest, Predictions, paired_test
from videokd.progress import show_progress
from videokd.recipe import Device, Trained

NOTHING_PCT = 1.0
"""Points: a cost of which the whole interval is smaller counts as none."""
TOO_FEW_PCT = 25.0
"""Points: where more could hide behind answers that are all the same, there are too few videos."""

_WORDS = {
    "shuffled": ("order matters", "no order is used"),
    "reversed": ("the direction of time matters", "no direction of time is used"),
    "frozen": ("more than one frame is used", "no motion is used"),
}
"""What a cost says, and what its absence says. A frozen clip has lost its motion, but also what its
other frames show: only shuffling and reversing take nothing but the order."""


def probe_time(
    run: Trained | Path,
    *,
    split: str | None = None,
    eval_config: EvalConfig | None = None,
    device: Device = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """The probe's document, as `eval --probe time --json` says it.

    It is kept beside the checkpoint: as `probe.json` for best.pt on the test split, otherwise under
    a name that says what it is of. Every video is decoded once and seen four times. Groups are
    drawn in the bootstrap of a difference where every video has one, else videos.

    Raises:
        UserError: what an evaluation refuses, and fewer than two videos.
    """
    job = eval_job(run, split=split, eval_config=eval_config, device=device)
    if job.loader.num_videos < 2:
        raise UserError(f"split {job.split!r} has one video; a paired comparison needs two or more")
    with show_progress(f"probe {job.trained.name}", quiet=quiet) as report:
        scores = score_time_probe(
            job.fabric,
            job.model,
            job.loader,
            num_crops=job.views.views.num_crops,
            is_multi_label=job.is_multi_label,
            on_progress=report,
        )
    measured = {name: job.measured(of_order) for name, of_order in scores.items()}
    normal = measured[NORMAL][1]
    others = {name: seen for name, (_, seen) in measured.items() if name != NORMAL}
    tests = {name: _against_normal(predictions, normal) for name, predictions in others.items()}
    said = [
        sentence(name, test, is_same_answer=others[name].predicted == normal.predicted)
        for name, test in tests.items()
    ]
    document = {
        **job.stamp("--probe", "time"),
        "num_videos": len(normal.paths),
        "conditions": {
            name: {
                "top1_pct": metrics.top1_pct,
                "interval_pct": list(metrics.interval_pct),
                "predictions_digest": predictions.digest,
                "difference": tests[name].to_dict() if name in tests else None,
            }
            for name, (metrics, predictions) in measured.items()
        },
        "verdict": said,
    }
    _keep(job, document)
    return document


def sentence(condition: str, test: PairedTest, *, is_same_answer: bool) -> str:
    """What a difference from the normal order says, in plain words.

    Something is said of the network only where the interval is clear of zero; or, that there is no
    cost, where all of it is smaller than a point or every video is put in the same class as before.
    "At most" is then not below the 95 % bound of a share that was seen in none of M videos (the
    "rule of three"); of so few videos that it is above `TOO_FEW_PCT`, nothing is said.

    Args:
        condition: `shuffled`, `reversed` or `frozen`.
        test: its accuracy against the normal order's.
        is_same_answer: whether each video's first class is the same as in the normal order.
    """
    matters, does_not = _WORDS[condition]
    low, high = test.interval_pct
    at_most_pct = max(-low, high, 100 * (1 - 0.05 ** (1 / test.num_videos)))
    points = f"{test.difference_pct:+z.1f} points {condition}"
    if test.verdict == "loss":
        return f"{matters}: {points}"
    if test.verdict == "gain":
        return f"better without its order: {points}; look at what the network is shown"
    nothing_pct = TOO_FEW_PCT if is_same_answer else NOTHING_PCT
    if test.verdict == "noise" and at_most_pct < nothing_pct:
        return f"{does_not}: {condition} costs nothing (at most {at_most_pct:.1f} points)"
    return f"not to be told: {test.text()} ({condition})"


def _against_normal(predictions: Predictions, normal: Predictions) -> PairedTest:
    groups = normal.groups
    known = all(groups) and len(set(groups)) > 1
    return paired_test(
        np.asarray(predictions.correct_top1),
        np.asarray(normal.correct_top1),
        groups=groups if known else None,
    )


def _keep(job: EvalJob, document: dict[str, Any]) -> None:
    if job.fabric.is_global_zero:
        write_text(job.place("probe", ".json"), json.dumps(document, indent=1) + "\n")
