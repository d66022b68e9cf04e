"""One run of the ablation: trained, scored, and written down."""

from __future__ import annotations

import datetime
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videokd.checkpoint import BEST
from videokd.config import parse_config
from videokd.experiments.ablation.plan import CACHE, Job
from videokd.experiments.ablation.records import Record, Score, Videos, pack
from videokd.files import file_digest, read_text, write_text
from videokd.teacher_cache.manifest import MANIFEST

if TYPE_CHECKING:
    from videokd.metrics import Predictions
    from videokd.recipe import Device, RunConfig, Trained

JOB = "job.json"
"""In the run folder: what is to be done there."""
RECORD = "record.json"
"""In the run folder: what was found, until it stands among the results."""
_SPENT = "seconds.txt"
"""In the run folder of a cache: what all starts took."""


def run_job(job: Job, *, device: Device = "auto", jobs: int = 1, quiet: bool = False) -> None:
    """Train, evaluate and measure a run; the outcome goes to `record.json` of its folder.

    Goes on where an earlier call was interrupted. A loss that is no number is an outcome too.

    Raises:
        UserError: whatever else keeps the run from being done.
    """
    from videokd.engine.train import Diverged
    from videokd.recipe import RunConfig

    check_job(job)
    videos: list[Videos] = []
    started = time.monotonic()
    config = parse_config(RunConfig, dict(job.settings), source=str(job.key))
    make_room(job)
    try:
        if job.is_cache:
            record = _cached(job, config, device=device, quiet=quiet)
        else:
            record, videos = _trained_and_scored(job, config, device=device, quiet=quiet)
    except Diverged as error:
        record = _record(job, config, device=device, scores={}, failed=str(error))
    seconds = max(time.monotonic() - started, record.train_seconds)  # a resumed run began earlier
    plain = json.loads(record.to_line()) | {"wall_seconds": round(seconds, 2), "jobs": jobs}
    document = {"record": json.dumps(plain), "videos": [one.to_line() for one in videos]}
    write_text(job.run_dir / RECORD, json.dumps(document) + "\n")


def product_of(job: Job) -> Path:
    """What is there once it is done, and others read."""
    return job.run_dir / (Path(CACHE, MANIFEST) if job.is_cache else BEST)


def is_made(job: Job) -> bool:
    """Whether a run ended in its folder, so that others may read it there.

    Weights and a manifest lie there long before the end. For which stage it ended is all the same.
    """
    found = _left_in_folder(job)
    return found is not None and found[0].digest == job.digest and product_of(job).is_file()


def check_job(job: Job) -> None:
    """A run that settings are chosen by is scored on validation videos and on no others."""
    data = job.settings.get("data", {})
    test = data.get("test_split", "test")
    assert job.key.stage != "tune" or test not in job.splits, "tuning never sees a test video"


def read_outcome(job: Job) -> tuple[Record, list[Videos]] | None:
    """What `run_job` found with these settings; None where it has not."""
    found = _left_in_folder(job)
    if found is None or (found[0].key, found[0].digest) != (job.key, job.digest):
        return None
    record, lines = found
    videos = [json.loads(line) for line in lines]
    return record, [Videos(**{**one, "groups": tuple(one["groups"])}) for one in videos]


def _left_in_folder(job: Job) -> tuple[Record, list[str]] | None:
    """What the last run that ended in a job's folder found, whatever its settings, and the lines of
    its videos."""
    path = job.run_dir / RECORD
    if not path.is_file():
        return None
    document = json.loads(read_text(path))
    return Record.from_line(document["record"], where=str(path)), document["videos"]


def _trained_and_scored(
    job: Job, config: RunConfig, *, device: Device, quiet: bool
) -> tuple[Record, list[Videos]]:
    from videokd.recipe import load_trained
    from videokd.runs import train

    outcome = train(config, device=device, insist=job.insist, quiet=quiet)
    trained = load_trained(config.output_dir)
    scores: dict[str, Score] = {}
    videos = []
    for split in job.splits:
        scores[split], seen = _scored(job, trained, split, device=device, quiet=quiet)
        if job.is_compared:
            videos.append(seen)
    record = _record(
        job,
        config,
        device=device,
        scores=scores,
        train_seconds=round(outcome.seconds, 2),
        probe=_probed(job, trained, device=device, quiet=quiet),
        **_sizes(trained),
    )
    return record, videos


def _cached(job: Job, config: RunConfig, *, device: Device, quiet: bool) -> Record:
    """Each start of an interrupted one counts: it is paid for like training."""
    from videokd.experiments.caching import cache_teacher

    spent = job.run_dir / _SPENT
    earlier = float(read_text(spent)) if spent.is_file() else 0.0
    started = time.monotonic()
    try:
        cache_teacher(config, job.run_dir / CACHE, device=device, insist=job.insist, quiet=quiet)
    finally:
        seconds = earlier + time.monotonic() - started
        write_text(spent, f"{seconds:.2f}\n")
    return _record(job, config, device=device, scores={}, train_seconds=round(seconds, 2))


def make_room(job: Job) -> None:
    """A folder that other settings were trained into is moved aside: it may still be wanted."""
    path = job.run_dir / JOB
    if path.is_file() and json.loads(read_text(path))["digest"] != job.digest:
        number = 1
        while (aside := job.run_dir.with_name(f"{job.run_dir.name}.stale{number}")).exists():
            number += 1
        job.run_dir.rename(aside)
    write_text(path, json.dumps(_plain(job), indent=1) + "\n")


def _plain(job: Job) -> dict[str, Any]:
    return {
        "key": asdict(job.key),
        "settings": dict(job.settings),
        "run_dir": str(job.run_dir),
        "splits": list(job.splits),
        "digest": job.digest,
        "probe": job.probe,
        "insist": job.insist,
        "kind": job.kind,
    }


def _scored(
    job: Job, trained: Trained, split: str, *, device: Device, quiet: bool
) -> tuple[Score, Videos]:
    from videokd.metrics import read_predictions
    from videokd.runs import PREDICTIONS, evaluate

    document = evaluate(trained, split=split, device=device, quiet=quiet)
    is_test = split == trained.config.data.test_split
    name = PREDICTIONS if is_test else f"predictions.{Path(BEST).stem}.{split}.csv"
    predictions = read_predictions(trained.path.parent / name)
    number = {name: index for index, name in enumerate(trained.classes)}
    score = Score(
        num_videos=document["num_videos"],
        top1_pct=document["top1_pct"],
        nll=document["negative_log_likelihood"],
        ece_pct=document["calibration_error_pct"],
        predicted=pack([number[one] for one in predictions.predicted]),
    )
    return score, _videos(job, trained, split, predictions)


def _videos(job: Job, trained: Trained, split: str, predictions: Predictions) -> Videos:
    number = {name: index for index, name in enumerate(trained.classes)}
    return Videos(
        study=job.key.study,
        fold=job.key.fold if job.key.stage == "run" else None,
        split=split,
        index_digest=file_digest(trained.config.data.index),
        labels=pack([number[one] for one in predictions.labels]),
        groups=predictions.groups,
    )


def _probed(job: Job, trained: Trained, *, device: Device, quiet: bool) -> dict[str, float] | None:
    if not job.probe:
        return None
    from videokd.experiments.probe import probe_time

    document = probe_time(trained.path.parent, split=job.splits[-1], device=device, quiet=quiet)
    return {name: found["top1_pct"] for name, found in document["conditions"].items()}


def _sizes(trained: Trained) -> dict[str, Any]:
    from videokd.bench.complexity import count_complexity

    spec = trained.model.spec
    counted = count_complexity(
        trained.model.without_taps(), num_frames=spec.num_frames, crop_px=spec.crop_px
    )
    views = trained.config.eval.num_views
    return {
        "gmacs_per_video": round(counted.gmacs * views, 6),
        "params_m": round(counted.params_m, 6),
    }


def _record(job: Job, config: RunConfig, *, device: Device, **found: Any) -> Record:
    from videokd.bench.environment import environment
    from videokd.recipe import use_device

    stamp = environment(use_device(device, cpu_threads=config.train.cpu_threads))
    teacher = job.settings.get("teacher") or {}
    weights = Path(str(teacher.get("checkpoint", ""))) / BEST
    return Record(
        key=job.key,
        digest=job.digest,
        index_digest=file_digest(config.data.index),
        epochs=config.train.epochs,
        teacher_digest=file_digest(weights) if weights.is_file() else None,
        environment={"device": stamp["device"], **stamp["versions"]},
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **found,
    )
