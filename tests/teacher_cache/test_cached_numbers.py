"""What a run learns from the numbers of a cache: from few of the logits, in another precision."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from tiny_recipes import as_config, student_recipe, student_settings

from videokd import runs
from videokd.checkpoint import load_checkpoint, save_checkpoint
from videokd.data.augment.device import augmented_clips
from videokd.data.index import Index
from videokd.engine.teaching import OnlineTeacher
from videokd.errors import UserError
from videokd.experiments import caching
from videokd.experiments.caching import cache_teacher
from videokd.recipe import build, create_fabric, load_trained
from videokd.recipe.device import bf16_autocast
from videokd.runs import train
from videokd.teacher_cache.reading import TeacherCache
from videokd.tracking import read_metrics
from videokd.types import ModelOutput

TEMPERATURE = 4


def louder(teacher: Path, path: Path) -> Path:
    """The same teacher with 50 times its logits: after three steps it prefers no class by much."""
    content = load_checkpoint(teacher / "best.pt")
    head = load_trained(teacher).model.classifier
    for parameter in ("weight", "bias"):
        content["model"][f"network.{head}.{parameter}"] *= 50
    save_checkpoint(path, content)
    return path


@pytest.fixture
def settings(tiny_index: Index, tiny_teacher: Path, tmp_path: Path) -> dict[str, Any]:
    """Labels and soft targets, on clips of which some are mixed."""
    teacher = louder(tiny_teacher, tmp_path / "louder.pt")
    settings = student_recipe(tiny_index, tmp_path / "online", teacher)
    terms = settings["objective"]["terms"]
    settings["objective"] = {"terms": {name: terms[name] for name in ("labels", "soft")}}
    settings["data"]["augment"] |= {"mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}}
    settings["data"] |= {"val_split": None}
    return settings


def cached(settings: dict[str, Any], folder: Path, **options: Any) -> Path:
    return cache_teacher(
        as_config(settings), folder, device="cpu", insist=True, quiet=True, **options
    ).folder


def run(settings: dict[str, Any], out: Path, **teacher: Any) -> Path:
    settings = copy.deepcopy(settings) | {"output_dir": str(out)}
    settings["teacher"] |= teacher
    return train(as_config(settings), device="cpu", insist=True, quiet=True).run_dir


# Few of the logits


def made_sparse(logits: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """The k largest of each clip; the others as one constant, of the same sum of exponentials."""
    sparse = np.empty_like(logits)
    for clip, row in enumerate(logits):
        kept = np.argsort(-row)[:k]
        others = np.delete(row, kept)
        sparse[clip] = np.log(np.exp(others).mean())
        sparse[clip, kept] = row[kept]
    return sparse


def soft_targets(wanted: NDArray[np.float64], given: NDArray[np.float64]) -> float:
    """T^2 KL(softmax(wanted / T), softmax(given / T)), the mean over clips."""
    p, q = (
        np.exp(z / TEMPERATURE) / np.exp(z / TEMPERATURE).sum(axis=1, keepdims=True)
        for z in (wanted, given)
    )
    return float(TEMPERATURE**2 * (p * np.log(p / q)).sum(axis=1).mean())


def test_soft_targets_of_few_logits_are_those_of_the_teacher_made_sparse(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Every step by hand in float64, of the student's first weights: they stand still."""
    settings["model"] = student_settings(dropout=0.0)
    settings["objective"]["terms"]["soft"] |= {"temperature": TEMPERATURE, "weight": 1}
    settings["train"] |= {"freeze_batch_norm": True, "optim": {"kind": "sgd", "lr": 1e-12}}
    folder = cached(settings, tmp_path / "cache", top_k=3)
    rows = read_metrics(run(settings, tmp_path / "read", cache=str(folder)) / "metrics.jsonl")
    trainer = build(as_config(settings), create_fabric("cpu"))
    student = trainer.learner.student.eval()
    teacher = load_trained(Path(settings["teacher"]["checkpoint"])).model.eval()

    with torch.no_grad():
        for row, batch in zip(rows, trainer.loader.batches(0, 6), strict=True):
            theirs, mine = (
                model(augmented_clips(batch, name), batch.frame_seconds[name].flatten(0, 1))
                .logits.double()
                .numpy()
                for name, model in (("teacher", teacher), ("student", student))
            )
            sparse = soft_targets(made_sparse(theirs, 3), mine)
            assert row["soft"] == pytest.approx(sparse, rel=1e-3)
            assert row["soft"] != pytest.approx(soft_targets(theirs, mine), rel=1e-2)


# Another precision


def fabric_in(precision: str) -> Fabric:
    """On a CPU recipes refuse bf16, whose gradients of 3D convolutions are wrong there; the tiny
    student has none."""
    create_fabric("cpu")
    plugins = [bf16_autocast("cpu")] if precision == "bf16" else None
    fabric = Fabric(accelerator="cpu", devices=1, plugins=plugins)
    fabric.launch()
    return fabric


@pytest.fixture
def compute_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From now on, caches and runs are made in a precision."""

    def use(precision: str) -> None:
        for module in (caching, runs):
            monkeypatch.setattr(module, "create_fabric", lambda *_, **__: fabric_in(precision))

    return use


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = load_checkpoint(run_dir / "last.pt")["model"]
    return model


@pytest.mark.parametrize(("of_cache", "of_run"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_run_in_another_precision_hears_the_teacher_in_that_of_the_cache(
    settings: dict[str, Any],
    tmp_path: Path,
    compute_in: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    of_cache: str,
    of_run: str,
) -> None:
    """The student's weights are those of a run with a teacher online, in a precision of its own."""
    compute_in(of_cache)
    folder = cached(settings, tmp_path / "cache")
    assert TeacherCache(folder).manifest.teacher.precision == f"{of_cache} on cpu"
    compute_in(of_run)
    read = weights(run(settings, tmp_path / "read", cache=str(folder)))
    same = weights(run(settings, tmp_path / "same"))
    original = OnlineTeacher.output

    def output(self: OnlineTeacher, *args: Any, **options: Any) -> ModelOutput:
        self.fabric = fabric_in(of_cache)
        said = original(self, *args, **options)
        return dataclasses.replace(said, logits=said.logits.half().float())

    monkeypatch.setattr(OnlineTeacher, "output", output)
    apart = weights(run(settings, tmp_path / "apart"))
    assert read.keys() == apart.keys()
    assert not [name for name in read if not torch.equal(read[name], apart[name])]
    assert [name for name in read if not torch.equal(read[name], same[name])]


def test_one_cache_is_of_one_precision(
    settings: dict[str, Any], tmp_path: Path, compute_in: Callable[[str], None]
) -> None:
    folder = cached(settings, tmp_path / "cache", num_epochs=1)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    compute_in("bf16")
    with pytest.raises(
        UserError,
        match=r"cache: was begun in fp32 on cpu, this is bf16 on cpu; go on where it was begun, or",
    ):
        cached(settings, folder, num_epochs=2)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
