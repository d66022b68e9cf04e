"""Runs in processes of their own, single-threaded, side by side.

A small run takes a minute, and importing PyTorch and Lightning with all that they import a fifth of
that. So each is forked from a process that has imported everything and does nothing else
(`multiprocessing`'s fork server).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from videokd.errors import UserError
from videokd.experiments.ablation.work import make_room, run_job

if TYPE_CHECKING:
    from videokd.experiments.ablation.plan import Job
    from videokd.experiments.ablation.runner import Launch
    from videokd.recipe import Device

IMPORTED_ONCE = (
    "torch._dynamo",  # an optimiser's first step imports it
    "lightning_fabric",
    "videokd.bench.complexity",
    "videokd.bench.environment",
    "videokd.engine.train",
    "videokd.evaluation",
    "videokd.experiments.ablation.child",
    "videokd.experiments.caching",
    "videokd.experiments.probe",
    "videokd.recipe",
    "videokd.runs",
)
"""What a run imports. Nothing of it may touch a GPU on import: a forked process could not use one
then."""

_LOG = "job.log"


def in_processes(device: Device, jobs: int) -> Launch:
    """Each run is a process; what it says goes to `job.log` of its folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED_ONCE))

    def launch(job: Job) -> _Child:
        make_room(job)
        log = job.run_dir / _LOG
        process = context.Process(target=_run, args=(job, log, device, jobs))
        with _environment():
            process.start()
        return _Child(process, log)

    return launch


class _Child:
    """A run in a process of its own."""

    def __init__(self, process: multiprocessing.process.BaseProcess, log: Path) -> None:
        self._process = process
        self._log = log

    def outcome(self) -> str | None:
        status = self._process.exitcode
        if status is None:
            return None
        if status == 0:
            return ""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = lines[-1].removeprefix("videokd: ") if lines else "it said nothing"
        return f"exit status {status}: {said} (see {self._log})"

    def stop(self) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()


@contextmanager
def _environment() -> Iterator[None]:
    """Of the process that all others are forked from: OpenMP and warnings read theirs once."""
    ignored = "ignore:`torch.jit.script`:FutureWarning"  # as the command line does
    given = os.environ.get("PYTHONWARNINGS")
    wanted = {
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": f"{given},{ignored}" if given else ignored,
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(job: Job, log: Path, device: Device, jobs: int) -> None:
    """One plain line on stderr for what kept the run from being done."""
    os.setsid()  # Ctrl-C is passed on once, by whoever started it
    nothing = os.open(os.devnull, os.O_RDONLY)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for ours, standard in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(ours, standard)
    os.close(nothing)
    os.close(said)
    try:
        run_job(job, device=device, jobs=jobs, quiet=True)
    except UserError as error:
        print(f"videokd: {error}", file=sys.stderr)
        raise SystemExit(1) from None
