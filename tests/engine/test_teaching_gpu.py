"""Teachers that change, on a GPU: their tensors are where the student's are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from power_cut import stop_after
from teacher_kinds import kind_recipe, state_of, teacher_of
from tiny_recipes import as_config

from videokd.data.index import Index
from videokd.engine.teaching import EmaTeacher
from videokd.recipe import build, create_fabric
from videokd.runs import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("kind", ["several", "ema", "peer"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cut_run_goes_on(
    tiny_index: Index,
    tiny_teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    precision: str,
) -> None:
    """What was saved is what goes on; on a GPU the steps after it agree up to rounding."""
    names = ("whole", "cut")
    teacher = teacher_of(kind, tiny_teacher, tiny_teacher)
    whole, cut = (kind_recipe(tiny_index, tmp_path / name, teacher) for name in names)
    for settings in (whole, cut):
        settings["train"] |= {"checkpoint_every_steps": 2, "precision": precision}
    train(as_config(whole), device="cuda", insist=True, quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(RuntimeError, match="power cut"):
            train(as_config(cut), device="cuda", insist=True, quiet=True)
    train(as_config(cut), device="cuda", insist=True, quiet=True)
    one, other = state_of(tmp_path / "cut"), state_of(tmp_path / "whole")
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0.05, atol=0.02)


def test_an_average_moves_on_the_device(tiny_index: Index, tmp_path: Path) -> None:
    settings = kind_recipe(tiny_index, tmp_path / "run", {"kind": "ema", "decay": 0.5})
    trainer = build(as_config(settings), create_fabric("cuda"))
    teaching = trainer.teaching
    assert isinstance(teaching, EmaTeacher)
    before = {name: value.clone() for name, value in teaching.state_dict().items()}
    for step, batch in enumerate(trainer.loader.batches(0, 2)):
        trainer._step(batch, step)
    for name, value in teaching.network.model.state_dict().items():
        if value.is_floating_point():
            assert value.device.type == "cuda"
            assert torch.equal(value, teaching.state_dict()[name])
    assert any(not torch.equal(before[n], v) for n, v in teaching.state_dict().items())
