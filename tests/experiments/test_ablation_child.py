"""A run of the ablation in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_recipes import recipe

from videokd.data.index import Index
from videokd.experiments.ablation.child import IMPORTED_ONCE, in_processes
from videokd.experiments.ablation.plan import Job
from videokd.experiments.ablation.records import Key
from videokd.experiments.ablation.runner import Process
from videokd.experiments.ablation.work import RECORD, read_outcome


def job(index: Index | Path, folder: Path) -> Job:
    settings = recipe(index, folder, role="control")
    settings["train"] |= {"epochs": 1}
    return Job(
        key=Key("mine", "run", "cross_entropy", seed=3),
        settings=settings,
        run_dir=folder,
        splits=("val",),
        digest="0123",
        needs=(),
        probe=True,
        insist=False,
        kind="control",
    )


def waited(process: Process) -> str:
    deadline = time.monotonic() + 180
    while (said := process.outcome()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert said is not None
    return said


def tell_environment(file: Path) -> None:
    file.write_text(os.environ["OMP_NUM_THREADS"] + os.environ["PYTHONWARNINGS"][:7])


def in_python(code: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


_NEWLY_IMPORTED = """
import importlib, pickle, sys
job, *names = sys.argv[1:]
for name in names:
    importlib.import_module(name)
before = set(sys.modules)
from videokd.experiments.ablation.work import run_job
run_job(pickle.loads(bytes.fromhex(job)), device="cpu", quiet=True)
print(sorted(set(sys.modules) - before))
"""


@pytest.mark.slow
def test_a_run_imports_nothing_heavy_that_was_not_imported_once(
    tiny_index: Index, tmp_path: Path
) -> None:
    one = pickle.dumps(job(tiny_index, tmp_path / "run")).hex()
    found = in_python(_NEWLY_IMPORTED, one, *IMPORTED_ONCE).splitlines()[-1]
    names = json.loads(found.replace("'", '"'))
    heavy = {"lightning_fabric", "timm", "torchmetrics", "torchvision", "transformers"}
    assert [name for name in names if name.split(".")[0] in heavy or "_dynamo" in name] == []


_TOUCHES = """
import importlib, sys
import torch
asked = []
def watched(owner, name):
    there = getattr(owner, name)
    def ask(*args, **options):
        asked.append(name)
        return there(*args, **options)
    setattr(owner, name, ask)
for name in ("is_available", "device_count", "init", "_lazy_init"):
    watched(torch.cuda, name)
for name in ("_cuda_getDeviceCount", "_cuda_init"):
    if hasattr(torch._C, name):
        watched(torch._C, name)
torch.cuda.is_available()
assert asked[0] == "is_available"
asked.clear()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(asked)
"""


@pytest.mark.slow
def test_what_is_imported_once_leaves_the_gpu_to_the_runs() -> None:
    assert in_python(_TOUCHES, *IMPORTED_ONCE).splitlines()[-1] == "[]"


@pytest.mark.slow
def test_a_run_ends_well_or_says_why_or_is_stopped(
    tiny_index: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    warnings = os.environ.get("PYTHONWARNINGS")
    launch = in_processes("cpu", 2)
    good, bad = job(tiny_index, tmp_path / "good"), job(tmp_path / "none.csv", tmp_path / "bad")
    well, ill = launch(good), launch(bad)
    assert os.environ["OMP_NUM_THREADS"] == "2", "as it was"
    assert os.environ.get("PYTHONWARNINGS") == warnings
    context = multiprocessing.get_context("forkserver")
    told = context.Process(target=tell_environment, args=(tmp_path / "told",))
    told.start()
    told.join()
    assert (tmp_path / "told").read_text() == "1ignore:"
    log = tmp_path / "bad" / "job.log"
    said = waited(ill)
    assert said.startswith("exit status 1: "), said
    assert str(tmp_path / "none.csv") in said
    assert said.endswith(f"(see {log})")
    assert "Traceback" not in log.read_text()

    assert waited(well) == ""
    found = read_outcome(good)
    assert found is not None
    assert found[0].jobs == 2
    assert found[0].probe is not None

    long = job(tiny_index, tmp_path / "long")
    long = dataclasses.replace(long, settings=recipe(tiny_index, tmp_path / "long"))
    long.settings["train"]["epochs"] = 100_000  # type: ignore[index]
    stopped = launch(long)
    deadline = time.monotonic() + 60
    while not (tmp_path / "long" / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert stopped.outcome() is None
    stopped.stop()
    assert (stopped.outcome() or "").startswith("exit status ")
    assert not (tmp_path / "long" / RECORD).exists()
    assert capfd.readouterr() == ("", ""), "all is in the logs"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_runs_side_by_side_on_a_gpu(tiny_index: Index, tmp_path: Path) -> None:
    launch = in_processes("cuda", 2)
    jobs = [job(tiny_index, tmp_path / name) for name in ("one", "other")]
    running = [launch(one) for one in jobs]
    assert [waited(one) for one in running] == ["", ""]
    for one in jobs:
        found = read_outcome(one)
        assert found is not None
        assert not found[0].environment["device"].startswith("cpu")
