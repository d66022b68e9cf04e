"""Terms that come and go in a real run: what is logged, what is saved, what resuming gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipes import as_config, recipe, student_recipe

from videokd.checkpoint import load_checkpoint
from videokd.data.index import Index
from videokd.engine.teaching import OnlineTeacher
from videokd.engine.train import Trainer
from videokd.recipe import build, create_fabric
from videokd.runs import train
from videokd.tracking import read_metrics
from videokd.types import ClipBatch, ModelOutput


def scheduled(index: Index, out: Path, teacher: Path) -> dict[str, Any]:
    """Six steps: soft targets that warm up and end, a hint for two steps in the middle."""
    settings = student_recipe(index, out, teacher)
    terms = settings["objective"]["terms"]
    settings["objective"]["terms"] = {
        "labels": terms["labels"],
        "soft": terms["soft"] | {"schedule": {"warmup": 0.5, "stop": 0.7}},
        "hint": terms["hint"] | {"schedule": {"start": 0.3, "stop": 0.6}},
    }
    return settings


def hint_weight(path: Path) -> torch.Tensor:
    return load_checkpoint(path)["objective"]["losses.hint_loss.projection.conv.weight"]


@pytest.fixture(scope="module")
def whole(tiny_index: Index, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = scheduled(tiny_index, tmp_path_factory.mktemp("scheduled") / "run", tiny_teacher)
    return train(as_config(settings), device="cpu", insist=True, quiet=True).run_dir


def test_weights_that_change_have_curves(whole: Path) -> None:
    rows = [row for row in read_metrics(whole / "metrics.jsonl") if "loss" in row]
    soft = [row["weight_soft"] for row in rows]
    assert soft == pytest.approx([0, 0.3, 0.6, 0.9, 0.9, 0])
    assert [row["weight_hint"] for row in rows] == [0, 0, 1, 1, 0, 0]
    assert [row["hint"] > 0 for row in rows] == [False, False, True, True, False, False]
    assert all("weight_labels" not in row for row in rows)
    for row in rows:
        assert row["labels"] + row["soft"] + row["hint"] == pytest.approx(row["loss"], rel=1e-5)


def test_a_cut_run_goes_on_with_the_weights_of_its_step(
    tiny_index: Index,
    tiny_teacher: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut while the hint is on; what it learned stays as it is after its end, bit for bit."""
    settings = scheduled(tiny_index, tmp_path / "cut", tiny_teacher)
    settings["train"]["checkpoint_every_steps"] = 1
    original, at_step = Trainer._step, {}

    def step(self: Trainer, batch: ClipBatch, number: int) -> dict[str, torch.Tensor]:
        if number in (0, 1, 4, 5):
            at_step[number] = hint_weight_of(self)
        if number == 3 and not at_step.get("was_cut"):
            at_step["was_cut"] = True
            raise RuntimeError("power cut")
        return original(self, batch, number)

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(RuntimeError, match="power cut"):
        train(as_config(settings), device="cpu", insist=True, quiet=True)
    cut = train(as_config(settings), device="cpu", insist=True, quiet=True).run_dir

    mine, theirs = (load_checkpoint(path / "last.pt") for path in (cut, whole))
    for part in ("model", "objective"):
        assert all(torch.equal(mine[part][name], value) for name, value in theirs[part].items())
    assert torch.equal(at_step[0], at_step[1])
    assert not torch.equal(at_step[1], at_step[4])
    assert torch.equal(at_step[4], at_step[5])
    assert torch.equal(at_step[5], hint_weight(cut / "last.pt"))


def hint_weight_of(trainer: Trainer) -> torch.Tensor:
    loss = trainer.learner.objective.losses["hint_loss"]
    return loss.projection.conv.weight.detach().clone()  # type: ignore[union-attr]


def test_the_teacher_rests_when_no_term_needs_it(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = scheduled(tiny_index, tmp_path / "run", tiny_teacher)
    original, steps = OnlineTeacher.output, []

    def output(self: OnlineTeacher, *arguments: Any, **options: Any) -> ModelOutput:
        steps.append(options["step"])
        return original(self, *arguments, **options)

    monkeypatch.setattr(OnlineTeacher, "output", output)
    train(as_config(settings), device="cpu", insist=True, quiet=True)

    assert steps == [1, 2, 3, 4]  # of six: the warm-up begins at 0, and in the end all is over


def test_a_distilled_run_says_what_it_compares(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = scheduled(tiny_index, tmp_path / "run", tiny_teacher)
    train(as_config(settings), device="cpu", insist=True)

    told, kept = capsys.readouterr().err, (tmp_path / "run" / "taps.txt").read_text()
    assert kept in told
    assert told.index(kept) < told.index("6/6")
    lines = kept.splitlines()
    assert lines[:2] == [
        "labels: cross_entropy, weight 0.1",
        "soft: soft_targets, weight at most 0.9",
    ]
    assert lines[2].startswith("hint: hint, weight at most 1, projection 8 -> ")
    assert lines[3].startswith("  student  stage2  8 x 4 x ")
    assert "4 steps, 0." in lines[3]
    assert lines[4].startswith("  teacher  res2    ")
    assert "8 steps, 0." in lines[4]
    assert "read at 4 moments" in lines[4]


def test_a_schedule_between_two_steps_is_said(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    """Six steps, at 0, 1/6, 2/6 and so on of the training."""
    settings = scheduled(tiny_index, tmp_path / "run", tiny_teacher)
    hint = settings["objective"]["terms"]["hint"]
    hint["schedule"] = {"start": 0.34, "stop": 0.49}
    said: list[str] = []
    build(as_config(settings), create_fabric("cpu"), say=said.append)
    assert said == [
        "objective.terms.hint: none of the 6 steps lies in its schedule, so it is never on"
    ]
    hint["schedule"] = {"start": 0.34, "stop": 0.51}
    build(as_config(settings), create_fabric("cpu"), say=said.append)
    assert len(said) == 1


def test_plain_training_has_no_taps_to_report(tiny_index: Index, tmp_path: Path) -> None:
    train(as_config(recipe(tiny_index, tmp_path / "run")), device="cpu", quiet=True)

    assert not (tmp_path / "run" / "taps.txt").exists()
