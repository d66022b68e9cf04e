"""Teacher assistants: a chain of recipes, each the next one's teacher (TAKD, Mirzadeh et al.,
AAAI 2020; densely guided by all before, Son et al., ICCV 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from teacher_kinds import run
from tiny_recipes import recipe, student_settings

from videokd.checkpoint import load_checkpoint
from videokd.data.index import Index
from videokd.files import file_digest
from videokd.recipe import load_trained
from videokd.tracking import read_metrics


def step_of_chain(index: Index, out: Path, width: int, teachers: dict[str, Path]) -> dict[str, Any]:
    """A network of some width that learns from one or several run folders."""
    channels = [width, width, 2 * width, 2 * width]
    settings = recipe(index, out, role="student")
    settings["model"] = student_settings(
        backbone_kwargs={"channels": channels, "stem_width": 4}, dropout=0.0
    )
    settings["objective"]["terms"]["soft"] = {"kind": "soft_targets", "temperature": 2}
    settings["train"] = settings["train"] | {"epochs": 1}
    named = {name: {"checkpoint": str(path)} for name, path in teachers.items()}
    settings["teacher"] = (
        next(iter(named.values())) if len(named) == 1 else {"kind": "several", "teachers": named}
    )
    return settings


@pytest.fixture(scope="module")
def assistant(
    tiny_index: Index, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Between the teacher and the student in size."""
    out = tmp_path_factory.mktemp("chain") / "assistant"
    return run(step_of_chain(tiny_index, out, 16, {"teacher": tiny_teacher}))


def test_a_student_learns_from_an_assistant(
    tiny_index: Index, assistant: Path, tmp_path: Path
) -> None:
    out = run(step_of_chain(tiny_index, tmp_path / "student", 8, {"assistant": assistant}))
    sizes = [sum(p.numel() for p in load_trained(r).model.parameters()) for r in (assistant, out)]
    assert sizes[0] > 2 * sizes[1]
    assert load_checkpoint(out / "last.pt")["teacher"] == file_digest(assistant / "best.pt")
    assert all(row["soft"] > 0 for row in read_metrics(out / "metrics.jsonl") if "soft" in row)
    assert (out / "student.safetensors").is_file()


def test_a_student_learns_from_teacher_and_assistant_together(
    tiny_index: Index, tiny_teacher: Path, assistant: Path, tmp_path: Path
) -> None:
    teachers = {"teacher": tiny_teacher, "assistant": assistant}
    out = run(step_of_chain(tiny_index, tmp_path / "both", 8, teachers))
    assert load_checkpoint(out / "last.pt")["teacher"] == {
        name: file_digest(path / "best.pt") for name, path in teachers.items()
    }
    alone = run(step_of_chain(tiny_index, tmp_path / "alone", 8, {"assistant": assistant}))
    ours, theirs = (load_trained(path).model.state_dict() for path in (out, alone))
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
