"""An average and a peer on two processes: the steps of one, and a cut that leaves no trace; and
the check of a frozen teacher, whose figures are those of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from teacher_kinds import MIXED, assert_same_state, kind_recipe, state_of
from tiny_recipes import as_config, student_settings

from videokd.config import dump_yaml
from videokd.data.index import Index, write_index
from videokd.engine.teaching import OnlineTeacher
from videokd.recipe import build, create_fabric
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

CHECK = """
import dataclasses
import json
import sys
from pathlib import Path
from torch import distributed
from videokd import runs
from videokd.recipe import load_recipe

original = runs.check_teachers

def check(fabric, *args, **options):
    scores = original(fabric, *args, **options)
    told = {name: dataclasses.asdict(score) for name, score in scores.items()}
    name = f"{Path(sys.argv[1]).stem}.{fabric.global_rank}.json"
    Path(sys.argv[1]).with_name(name).write_text(json.dumps(told))
    return scores

runs.check_teachers = check
runs.train(load_recipe(sys.argv[1]), device="cpu", insist=True)
if distributed.is_initialized():
    distributed.destroy_process_group()
"""
"""What each process knows of the teacher before the first step, beside the recipe."""

REMEMBER = """
import sys
from pathlib import Path
import torch
from torch import distributed
from videokd.engine.train import Trainer
from videokd.recipe import load_recipe
from videokd.runs import train

fit, share_statistics = Trainer.fit, Trainer._share_statistics

def fit_from_other_statistics(trainer, *args, **options):
    for name, buffer in trainer.learner.student.named_buffers():
        if name.endswith("running_mean"):
            buffer += 1000 * trainer.fabric.global_rank
    return fit(trainer, *args, **options)

def save_and_share(trainer):
    name = f"{Path(sys.argv[1]).stem}.{trainer.fabric.global_rank}.pt"
    torch.save(trainer.learner.state_dict(), Path(sys.argv[1]).with_name(name))
    share_statistics(trainer)

Trainer.fit, Trainer._share_statistics = fit_from_other_statistics, save_and_share
train(load_recipe(sys.argv[1]), device="cpu", insist=True)
if distributed.is_initialized():
    distributed.destroy_process_group()
"""
"""What each process holds at the end of an epoch, before they take the first one's statistics;
those of the second began a thousand higher, which a step does not read."""


def launch(
    settings: dict[str, Any],
    folder: Path,
    *,
    ranks: int,
    port: int,
    stop: str = "",
    code: str = SCRIPT,
) -> str:
    """Train in so many processes; what they wrote on stderr."""
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
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
    return done.stderr


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


def taken_for(settings: dict[str, Any]) -> dict[int, int]:
    """Video -> class that the teacher ranks first for its clip of the first epoch, unmixed."""
    trainer = build(as_config(settings), create_fabric("cpu"))
    assert isinstance(trainer.teaching, OnlineTeacher)
    found: dict[int, int] = {}
    for batch in trainer.loader.batches(0, 3):
        batch.draws = []  # nothing but mixing is drawn here
        said = trainer.teaching.see(batch, batch, range(batch.num_videos)).logits.argmax(1)
        found |= dict(zip(batch.video_ids.tolist(), said.tolist(), strict=True))
    return found


@pytest.mark.slow
def test_the_check_of_a_teacher_counts_the_clips_of_all_processes(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    """17 of 24 clips have a label, so the processes do not have as many each; 11 are labelled as
    the teacher would, six as the class after it."""

    def settings(index: Path, name: str) -> dict[str, Any]:
        made = kind_recipe(index, tmp_path / name, {"checkpoint": str(tiny_teacher)})
        made["data"] |= {"augment": {"mix": MIXED}, "val_split": None}
        made["train"] |= {"epochs": 1}
        return made

    known = taken_for(settings(tiny_index.path, "asked"))
    ids = tiny_index.select("train")
    labels: dict[int, tuple[int, ...]] = dict.fromkeys(ids[:7], ())
    labels |= {i: (known[i],) for i in ids[7:18]}
    labels |= {i: ((known[i] + 1) % len(tiny_index.classes),) for i in ids[18:]}
    records = [
        replace(record, labels=labels.get(i, record.labels))
        for i, record in enumerate(tiny_index.records)
    ]
    index = tmp_path / "relabelled.csv"
    write_index(index, records, tiny_index.classes)
    scores, lines = [], []
    for ranks, name in ((1, "one"), (2, "two")):
        err = launch(settings(index, name), tmp_path, ranks=ranks, port=29535, code=CHECK)
        lines.append([line for line in err.splitlines() if line.startswith("teacher: ")])
        scores += [json.loads((tmp_path / f"{name}.{r}.json").read_text()) for r in range(ranks)]
    assert (scores[0][""]["num_right"], scores[0][""]["num_clips"]) == (11, 17)
    assert scores[1] == scores[2] == scores[0]
    (line,) = lines[0]
    assert line.startswith("teacher: 64.7 % of 17 training clips")
    assert lines[1] == lines[0], "said once, by the first of the two"


@pytest.mark.slow
def test_steps_send_gradients_and_no_buffers(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    """A memory of all videos is made alike by each process; sending it every step would take
    longer than the step. The statistics tell that nothing is sent."""
    settings = kind_recipe(tiny_index, tmp_path / "run", {"checkpoint": str(tiny_teacher)})
    settings["objective"]["terms"]["crd"] = {"kind": "crd", "num_negatives": 8}
    settings["train"]["epochs"] = 1
    launch(settings, tmp_path, ranks=2, port=29537, code=REMEMBER)
    first, second = (torch.load(tmp_path / f"run.{r}.pt", weights_only=True) for r in range(2))
    assert "objective.losses.crd_loss.student_memory" in first, sorted(first)
    means = {name for name in first if name.endswith("running_mean")}
    assert means
    assert all((second[name] - first[name]).min() > 100 for name in means)
    others = {name for name in first if not name.endswith(("running_mean", "running_var"))}
    assert not [name for name in others if not torch.equal(first[name], second[name])]
