"""An average and a peer on two processes: the steps of one, and a cut that leaves no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from teacher_kinds import assert_same_state, kind_recipe, state_of
from tiny_recipes import as_config, student_settings

from videokd.config import dump_yaml
from videokd.data.index import Index
from videokd.tracking import read_metrics

SCRIPT = """
import sys
import pytest
from power_cut import stop_after
from torch import distributed
from videokd.recipe import load_recipe
from videokd.runs import train

with pytest.MonkeyPatch.context() as patch:
    if len(sys.argv) > 2:
        stop_after(patch, int(sys.argv[2]))
    try:
        train(load_recipe(sys.argv[1]), device="cpu", insist=True, quiet=True)
    except RuntimeError as error:
        assert str(error) == "power cut"
if distributed.is_initialized():
    distributed.destroy_process_group()  # as the command line does: gloo's threads may abort else
"""


def launch(
    settings: dict[str, Any], folder: Path, *, ranks: int, port: int, stop: str = ""
) -> None:
    script = folder / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    path = Path(settings["output_dir"] + ".yaml")
    path.write_text(dump_yaml(as_config(settings)), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    here = Path(__file__).parent
    done = subprocess.run(
        [*(launcher if ranks > 1 else [sys.executable]), str(script), str(path), *stop.split()],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "MASTER_PORT": str(port),
            "PYTHONPATH": f"{here}:{here.parent}",
        },
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ema", "peer"])
def test_two_processes_make_the_same_steps_as_one(
    tiny_index: Index, tmp_path: Path, kind: str
) -> None:
    """Batch norms as they are: their statistics are each process's own otherwise."""
    for ranks, name in ((1, "one"), (2, "two")):
        settings = kind_recipe(tiny_index, tmp_path / name, {"kind": kind})
        settings["model"] = student_settings(dropout=0.0)
        settings["train"] |= {"freeze_batch_norm": True}
        launch(settings, tmp_path, ranks=ranks, port=29531)
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for one, two in zip(*rows, strict=True):
        for name in {"loss", "soft", "hint", "peer_loss"} & one.keys():
            # An average is so near its student that their divergence is all rounding at first.
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6)
    keys = ("teaching",) if kind == "ema" else ("peer",)
    one_state, two_state = (state_of(tmp_path / name, *keys) for name in ("one", "two"))
    for name, value in one_state.items():
        torch.testing.assert_close(two_state[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ema", "peer"])
def test_a_cut_run_goes_on_to_the_same_bits(tiny_index: Index, tmp_path: Path, kind: str) -> None:
    """With batch norms that learn: the processes have statistics of their own, and one teacher."""
    whole, cut = (
        kind_recipe(tiny_index, tmp_path / name, {"kind": kind}) for name in ("whole", "cut")
    )
    for settings in (whole, cut):
        settings["train"] |= {"checkpoint_every_steps": 2}
    launch(whole, tmp_path, ranks=2, port=29533)
    launch(cut, tmp_path, ranks=2, port=29533, stop="3")
    assert not (tmp_path / "cut" / "student.safetensors").exists()
    launch(cut, tmp_path, ranks=2, port=29533)
    assert_same_state(state_of(tmp_path / "cut"), state_of(tmp_path / "whole"))
