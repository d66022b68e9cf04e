"""The loop: exact resume, exact accumulation, terms that add up, and what stops a run."""

from __future__ import annotations

import copy
import dataclasses
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from power_cut import stop_after
from tiny_recipes import as_config, recipe, student_recipe, student_settings

from videokd.checkpoint import load_checkpoint
from videokd.config import dump_yaml
from videokd.data.index import Index, write_index
from videokd.data.readers import READERS
from videokd.engine.interruption import Interrupted
from videokd.engine.train import Trainer
from videokd.engine.validation import Validation
from videokd.errors import ConfigError, UnreadableVideo, UserError
from videokd.recipe import create_fabric, load_trained
from videokd.recipe.device import bf16_autocast
from videokd.runs import train
from videokd.tracking import read_metrics
from videokd.types import ClassNames, ClipBatch


def run(settings: dict[str, Any]) -> Path:
    return train(as_config(settings), device="cpu", insist=True, quiet=True).run_dir


def weights(run_dir: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    content = load_checkpoint(run_dir / name)
    flat = {f"model.{key}": value for key, value in content["model"].items()}
    for key, value in content.get("objective", {}).items():
        flat[f"objective.{key}"] = value
    for key, value in (content.get("average") or {}).items():
        flat[f"average.{key}"] = value
    return flat


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, different


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run_dir / "metrics.jsonl") if "loss" in row]


@pytest.fixture(scope="module")
def whole_student(
    tiny_index: Index, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return run(student_recipe(tiny_index, tmp_path_factory.mktemp("s") / "whole", tiny_teacher))


def test_a_run_leaves_what_it_promises(whole_student: Path) -> None:
    names = {path.name for path in whole_student.iterdir()}
    kept = {"recipe.yaml", "metrics.jsonl", "last.pt", "best.pt", "student.safetensors"}
    assert names == kept | {"taps.txt"}
    rows = read_metrics(whole_student / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [0, 1, 2, 3, 4, 5]
    assert [row["step"] for row in rows if "val_top1_pct" in row] == [2, 5]


def test_terms_sum_to_the_loss(whole_student: Path) -> None:
    for row in read_metrics(whole_student / "metrics.jsonl"):
        if "loss" in row:
            terms = [row[name] for name in ("labels", "soft", "hint", "where", "when")]
            assert sum(terms) == pytest.approx(row["loss"], rel=1e-5)
            assert all(value > 0 for value in terms)


@pytest.mark.parametrize("num_steps", [1, 3, 5])
def test_a_cut_run_goes_on_to_the_same_bits(
    tiny_index: Index,
    tiny_teacher: Path,
    whole_student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_steps: int,
) -> None:
    settings = student_recipe(tiny_index, tmp_path / "cut", tiny_teacher)
    settings["train"]["checkpoint_every_steps"] = 2
    with monkeypatch.context() as patch:
        stop_after(patch, num_steps)
        with pytest.raises(RuntimeError, match="power cut"):
            run(settings)
    cut = run(settings)
    assert_same_weights(weights(cut), weights(whole_student))
    assert_same_weights(weights(cut, "best.pt"), weights(whole_student, "best.pt"))
    assert losses(cut) == losses(whole_student)


def test_the_number_of_workers_changes_nothing(
    tiny_index: Index, tiny_teacher: Path, whole_student: Path, tmp_path: Path
) -> None:
    settings = student_recipe(tiny_index, tmp_path / "two", tiny_teacher)
    settings["data"]["num_workers"] = 2
    assert_same_weights(weights(run(settings)), weights(whole_student))


def keep_draws(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[str]]]:
    """Step and draws of each batch that is trained on from now on."""
    seen: list[tuple[int, list[str]]] = []
    original = Trainer._step

    def step(self: Trainer, batch: ClipBatch, number: int) -> dict[str, torch.Tensor]:
        seen.append((number, [draw.to_json() for draw in batch.draws]))
        return original(self, batch, number)

    monkeypatch.setattr(Trainer, "_step", step)
    return seen


def test_a_run_cut_in_an_epoch_goes_on_with_the_very_next_batch(
    tiny_index: Index,
    tiny_teacher: Path,
    whole_student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three steps an epoch; cut after the fourth, while two workers have made others ahead."""
    whole = student_recipe(tiny_index, tmp_path / "whole", tiny_teacher)
    with monkeypatch.context() as patch:
        expected = keep_draws(patch)
        run(whole)
    settings = student_recipe(tiny_index, tmp_path / "cut", tiny_teacher)
    settings["train"]["checkpoint_every_steps"] = 1
    settings["data"]["num_workers"] = 2
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        first = keep_draws(patch)
        with pytest.raises(RuntimeError, match="power cut"):
            run(settings)
    settings["data"]["num_workers"] = 1
    with monkeypatch.context() as patch:
        second = keep_draws(patch)
        run(settings)
    assert first[:4] + second == expected
    assert [step for step, _ in second] == [4, 5]
    assert_same_weights(weights(tmp_path / "cut"), weights(whole_student))


def test_distillation_of_weight_zero_is_plain_training(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    plain = recipe(tiny_index, tmp_path / "plain")
    zero = student_recipe(tiny_index, tmp_path / "zero", tiny_teacher)
    zero["objective"] = {
        "terms": plain["objective"]["terms"]
        | {
            name: term | {"weight": 0}
            for name, term in zero["objective"]["terms"].items()
            if name != "labels"
        }
    }
    zero["train"] = plain["train"]
    zero.pop("teacher")
    assert_same_weights(weights(run(zero)), weights(run(plain)))


def test_a_finished_run_is_left_alone(whole_student: Path, tiny_index: Index) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole_student.iterdir()}
    content = load_checkpoint(whole_student / "last.pt")
    outcome = train(as_config(content["recipe"]), device="cpu", quiet=True)
    assert outcome.already_done
    assert outcome.steps == 6
    assert {path.name: path.stat().st_mtime_ns for path in whole_student.iterdir()} == before


def test_another_recipe_does_not_touch_the_folder(tiny_index: Index, tiny_control: Path) -> None:
    settings = recipe(tiny_index, tiny_control, seed=4)
    with pytest.raises(UserError, match=r"another recipe \(this one says 'seed: 4', that one 's"):
        run(settings)


def test_a_run_goes_on_with_settings_that_do_not_change_the_weights(
    whole_student: Path, tiny_index: Index
) -> None:
    settings = copy.deepcopy(load_checkpoint(whole_student / "last.pt")["recipe"])
    settings["data"] |= {
        "num_workers": 3,
        "max_unreadable_pct": 50,
        "decode_time_limit_seconds": 7,
    }
    settings["train"] |= {"log_every_steps": 7, "checkpoint_every_steps": 2}
    assert train(as_config(settings), device="cpu", quiet=True).already_done


def without_batch_statistics(
    index: Index | Path, out: Path, **train_changes: Any
) -> dict[str, Any]:
    """A recipe whose loss is a mean over videos: batch norm frozen, dropout off."""
    settings = recipe(index, out, model=student_settings(dropout=0.0))
    settings["train"] |= {"freeze_batch_norm": True, **train_changes}
    return settings


def test_accumulated_parts_make_the_same_step(tiny_index: Index, tmp_path: Path) -> None:
    whole = run(without_batch_statistics(tiny_index, tmp_path / "whole"))
    parts = run(without_batch_statistics(tiny_index, tmp_path / "parts", accumulate=4))
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    one, other = weights(whole), weights(parts)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


def test_frozen_batch_norm_keeps_its_statistics(tiny_index: Index, tmp_path: Path) -> None:
    run_dir = run(without_batch_statistics(tiny_index, tmp_path / "frozen"))
    state = weights(run_dir)
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    assert means
    assert all(torch.equal(mean, torch.zeros_like(mean)) for mean in means)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    tiny_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole = run(recipe(tiny_index, tmp_path / "whole"))
    settings = recipe(tiny_index, tmp_path / "run")
    original = Trainer._step

    def step(self: Trainer, batch: ClipBatch, at: int) -> dict[str, torch.Tensor]:
        if at == 1:
            os.kill(os.getpid(), number)
        return original(self, batch, at)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(Interrupted, match=r"stopped at step 2 of 6, .*start the same command"):
            run(settings)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["state"]["step"] == 2
    assert_same_weights(weights(run(settings)), weights(whole))


def test_the_signal_handlers_are_given_back(tiny_control: Path) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def broken_copy(index: Index, folder: Path, num_broken: int) -> Path:
    """An index whose first training videos were overwritten after the scan."""
    folder.mkdir()
    rows = index.path.read_text(encoding="utf-8").splitlines()
    for number in range(num_broken):
        record = index.records[index.select("train")[number]]
        bad = folder / f"bad{number}.mp4"
        bad.write_bytes(b"not a video any more")
        position = next(i for i, row in enumerate(rows) if row.startswith(_name(index, record)))
        rows[position] = rows[position].replace(_name(index, record), str(bad), 1)
    text = [
        row if number == 0 or row.startswith("/") else f"{index.path.parent}/{row}"
        for number, row in enumerate(rows)
    ]
    path = folder / "index.csv"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    classes = index.path.with_suffix(".classes.txt").read_text(encoding="utf-8")
    path.with_suffix(".classes.txt").write_text(classes, encoding="utf-8")
    return path


def _name(index: Index, record: Any) -> str:
    return str(record.path.relative_to(index.path.parent.resolve()))


def test_an_unreadable_video_is_dropped_and_counted(tiny_index: Index, tmp_path: Path) -> None:
    path = broken_copy(tiny_index, tmp_path / "data", 1)
    settings = recipe(path, tmp_path / "run")
    settings["data"]["max_unreadable_pct"] = 5
    outcome = train(as_config(settings), device="cpu", quiet=True)
    assert outcome.num_unreadable == 1
    assert outcome.steps == 6
    (reason,) = load_checkpoint(tmp_path / "run" / "last.pt")["state"]["unreadable"].values()
    assert "bad0.mp4" in reason


def with_reader(index: Index, folder: Path, reader: str) -> tuple[Path, Path]:
    """A copy of the index in which that reader is to open one training video, and the video."""
    folder.mkdir()
    video_id = index.select("train")[5]
    records = list(index.records)
    records[video_id] = dataclasses.replace(records[video_id], reader=reader)
    write_index(folder / "index.csv", records, index.classes)
    return folder / "index.csv", records[video_id].path


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda: time.sleep(1000), "hang: it was not decoded in 1.5 s"),
        (lambda: (faulthandler.disable(), os.abort()), "crash: the decoder ended by SIGABRT"),
    ],
)
def test_a_decoder_that_is_lost_costs_a_video_and_not_the_run(
    tiny_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, reason: str
) -> None:
    """The weights are those of a run whose reader refuses the file, also when it is cut between."""
    opened = tmp_path / "opened"

    def refuse() -> None:
        raise UnreadableVideo("video", "refused")

    def open_badly(*_args: Any, **_options: Any) -> None:
        with opened.open("ab") as file:
            file.write(b".")
        action()

    monkeypatch.setitem(READERS, "bad", open_badly)
    path, video = with_reader(tiny_index, tmp_path / "data", "bad")
    settings = {name: recipe(path, tmp_path / name) for name in ("refused", "lost")}
    for each in settings.values():
        each["data"] |= {"max_unreadable_pct": 5, "decode_time_limit_seconds": 1.5}
        each["train"]["checkpoint_every_steps"] = 1
    action = refuse
    run(settings["refused"])
    opened.unlink()
    action = fault
    settings["lost"]["data"]["num_workers"] = 1
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(RuntimeError, match="power cut"):
            run(settings["lost"])
    (kept,) = load_checkpoint(tmp_path / "lost" / "last.pt")["state"]["unreadable"].values()
    assert kept == f"{video}: {reason}"
    assert opened.read_bytes() == b"."
    outcome = train(as_config(settings["lost"]), device="cpu", quiet=True)
    assert opened.read_bytes() == b"."  # the second start did not try it again
    assert (outcome.steps, outcome.num_unreadable) == (6, 1)
    assert_same_weights(weights(tmp_path / "lost"), weights(tmp_path / "refused"))


def test_too_many_unreadable_videos_stop_the_run(tiny_index: Index, tmp_path: Path) -> None:
    path = broken_copy(tiny_index, tmp_path / "data", 3)
    settings = recipe(path, tmp_path / "run")
    settings["data"]["max_unreadable_pct"] = 5
    with pytest.raises(UserError, match=r"of 24 training videos cannot be read, .* limit"):
        run(settings)


def test_a_loss_that_is_no_number_stops_the_run(tiny_index: Index, tmp_path: Path) -> None:
    settings = recipe(tiny_index, tmp_path / "run")
    settings["train"]["optim"] = {"kind": "sgd", "lr": 1e30}
    with pytest.raises(UserError, match=r"the loss is no number at step \d \(.*lower train"):
        run(settings)
    # What it advises is taken in the same folder, and is the run that it would have been.
    settings["train"]["optim"]["lr"] = 1e-3
    run(settings)
    run(settings | {"output_dir": str(tmp_path / "other")})
    mended, fresh = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("run", "other"))
    curves = ("step", "total", "labels")
    assert [[row.get(one) for one in curves] for row in mended] == [
        [row.get(one) for one in curves] for row in fresh
    ]


def test_terms_between_clips_want_as_many_at_a_time(tiny_index: Index, tmp_path: Path) -> None:
    """With fewer they would be constant, and nobody would be told."""
    settings = student_recipe(tiny_index, tmp_path / "run", tmp_path / "teacher")
    for term, enough in (
        ({"kind": "rkd_distance"}, 3),
        ({"kind": "rkd_angle"}, 3),
        ({"kind": "similarity_preserving", "student_tap": "s", "teacher_tap": "t"}, 2),
        ({"kind": "dist", "beta": 0}, 2),
        ({"kind": "dist"}, 1),
    ):
        settings["objective"]["terms"]["far"] = term
        settings["train"] |= {"batch_size": 2 * enough, "accumulate": 2}
        as_config(settings)
        if enough > 1:
            settings["train"] |= {"batch_size": 2 * enough - 2}
            message = rf"terms\.far: .* at least {enough} clips .* in 2 parts has {enough - 1}"
            with pytest.raises(ConfigError, match=message):
                as_config(settings)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_weights_that_are_no_numbers_are_never_kept(
    tiny_index: Index, tmp_path: Path, clip: float | None
) -> None:
    """Also between log steps, and where clipping meets the numbers first."""
    settings = recipe(tiny_index, tmp_path / "run")
    settings["train"] |= {
        "optim": {"kind": "sgd", "lr": 1e30},
        "clip_grad_norm": clip,
        "log_every_steps": 1000,
    }
    with pytest.raises(UserError, match=r"loss is no number .*train\.clip_grad_norm"):
        run(settings)
    assert not list((tmp_path / "run").glob("*.pt"))


HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
if os.fork():
    print("held", flush=True)
    os.kill(os.getpid(), 9) if sys.stdin.readline() else None
else:
    sys.stdin.close()
    import time
    time.sleep(60)
"""


def test_two_processes_do_not_train_into_one_folder(tiny_index: Index, tmp_path: Path) -> None:
    """The lock goes with the process that trains, though a worker of its own outlives it."""
    settings = recipe(tiny_index, tmp_path / "run")
    run(settings)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run" / "recipe.yaml")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process trains into this folder"):
            run(settings)
        other.stdin.write("die\n")
        other.stdin.flush()
        assert other.wait(timeout=30) == -signal.SIGKILL
        assert train(as_config(settings), device="cpu", quiet=True).already_done
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.stdin.close()
        other.stdout.close()


def test_a_run_does_not_go_on_with_another_index(
    tiny_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "index.csv"
    header, *rows = tiny_index.path.read_text(encoding="utf-8").splitlines()
    rows = [f"{tiny_index.path.parent}/{row}" for row in rows]
    names = tiny_index.path.with_suffix(".classes.txt").read_text(encoding="utf-8")
    path.with_suffix(".classes.txt").write_text(names, encoding="utf-8")
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    settings = recipe(path, tmp_path / "run")
    settings["train"]["checkpoint_every_steps"] = 1
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(RuntimeError, match="power cut"):
            run(settings)
    path.write_text("\n".join([header, *reversed(rows)]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"last\.pt: was trained with another index than is there"):
        run(settings)


def test_a_best_is_no_last(tiny_index: Index, tmp_path: Path) -> None:
    settings = recipe(tiny_index, tmp_path / "run")
    run(settings)
    best = (tmp_path / "run" / "best.pt").read_bytes()
    (tmp_path / "run" / "last.pt").write_bytes(best)
    with pytest.raises(UserError, match=r"not a last\.pt; remove it"):
        run(settings)


def test_a_batch_must_be_shared_evenly(tiny_index: Index, tmp_path: Path) -> None:
    settings = recipe(tiny_index, tmp_path / "run")
    settings["train"]["accumulate"] = 3
    with pytest.raises(ConfigError, match=r"batch_size 8 cannot be shared .* multiple of 3"):
        run(settings)
    assert not (tmp_path / "run").exists()


def test_bfloat16_on_a_cpu_is_refused(tiny_index: Index, tmp_path: Path) -> None:
    settings = recipe(tiny_index, tmp_path / "run")
    settings["train"]["precision"] = "bf16"
    with pytest.raises(ConfigError, match=r"precision bf16 on a CPU: .* use auto"):
        run(settings)


def test_in_bfloat16_a_network_is_given_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames a tenth of a second apart would be at one time, 100 s into a video."""
    seen: list[torch.Tensor] = []

    class Network(torch.nn.Linear):
        def forward(self, seconds: torch.Tensor) -> torch.Tensor:
            seen.append(seconds)
            return super().forward(seconds)

    def on_cpu(**options: Any) -> Fabric:
        return Fabric(**options | {"accelerator": "cpu"})

    with monkeypatch.context() as patch:
        patch.setattr("lightning_fabric.Fabric", on_cpu)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        fabric = create_fabric("cuda", "bf16")
    seconds = torch.tensor([[100.0, 100.1, 100.2]])
    fabric.setup_module(Network(3, 2))(seconds)
    assert torch.equal(seen[0], seconds)
    assert fabric._precision.precision == "bf16-mixed"
    with bf16_autocast("cpu").forward_context():
        assert Network(3, 2)(seconds).dtype == torch.bfloat16


def test_the_average_is_what_is_kept(whole_student: Path) -> None:
    last, best = load_checkpoint(whole_student / "last.pt"), weights(whole_student, "best.pt")
    if last["state"]["best"]["step"] == 6:
        assert_same_weights(
            {name: best[f"model.{name}"] for name in last["average"]}, last["average"]
        )
    assert any(not torch.equal(last["model"][n], v) for n, v in last["average"].items())


def test_best_follows_validation(
    tiny_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs that validate at 10, 30, 20 %: best.pt is the second's."""
    from videokd.recipe import building

    results = iter([(10.0, 2.0), (30.0, 2.0), (20.0, 1.0)])
    monkeypatch.setattr(
        building,
        "_validation",
        lambda *_: lambda _model: Validation(*next(results)),
    )
    settings = recipe(tiny_index, tmp_path / "run")
    settings["train"]["epochs"] = 3
    outcome = train(as_config(settings), device="cpu", quiet=True)
    assert outcome.best == {"step": 6, "top1_pct": 30.0, "cross_entropy": 2.0}
    assert load_checkpoint(tmp_path / "run" / "best.pt")["state"]["step"] == 6


def test_equal_accuracy_is_decided_by_cross_entropy() -> None:
    one, other = Validation(50.0, 1.2), Validation(50.0, 1.1)
    assert other.rank > one.rank
    assert Validation(51.0, 9.0).rank > other.rank


def test_without_validation_videos_the_last_weights_are_best(
    tiny_index: Index, tmp_path: Path
) -> None:
    settings = recipe(tiny_index, tmp_path / "run")
    settings["data"]["val_split"] = None
    run_dir = run(settings)
    last, best = load_checkpoint(run_dir / "last.pt"), load_checkpoint(run_dir / "best.pt")
    assert_same_weights(best["model"], last["model"])


def test_control_and_student_start_equal(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    from videokd.recipe import create_model

    one, _ = create_model(as_config(recipe(tiny_index, tmp_path / "a")), tiny_index.classes)
    torch.rand(7)
    student = as_config(student_recipe(tiny_index, tmp_path / "b", tiny_teacher))
    other, _ = create_model(student, tiny_index.classes)
    assert_same_weights(one.state_dict(), other.state_dict())
    other_seed = as_config(recipe(tiny_index, tmp_path / "c", seed=4))
    third, _ = create_model(other_seed, tiny_index.classes)
    assert not torch.equal(next(iter(one.parameters())), next(iter(third.parameters())))


def test_a_student_can_start_from_another_run(
    tiny_index: Index, tiny_control: Path, tmp_path: Path
) -> None:
    from videokd.recipe import create_model

    settings = recipe(tiny_index, tmp_path / "run", init={"weights": str(tiny_control)})
    model, report = create_model(as_config(settings), tiny_index.classes)
    assert report is not None
    assert_same_weights(model.state_dict(), load_trained(tiny_control).model.state_dict())
    settings["init"]["replace_head"] = True
    fewer, _ = create_model(as_config(settings), ClassNames(list("abcde")))
    assert [p.shape[0] for p in fewer.classifier_parameters()] == [5, 5]


COMMAND = [sys.executable, "-m", "videokd", "train"]


def start(recipe_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, str(recipe_path), "--insist", "--device", "cpu", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        path = run_dir / "metrics.jsonl"
        if path.exists() and any(row["step"] >= step for row in read_metrics(path)):
            return
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


@pytest.mark.slow
def test_sigkill_anywhere_then_the_same_command_ends_in_the_same_bits(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    """The real thing: processes of their own, killed without warning at three places."""
    whole, cut = (
        student_recipe(tiny_index, tmp_path / name, tiny_teacher) for name in ("whole", "cut")
    )
    paths = []
    for settings in (whole, cut):
        settings["train"] |= {"epochs": 6, "checkpoint_every_steps": 4}
        settings["data"]["num_workers"] = 1
        path = Path(settings["output_dir"] + ".yaml")
        path.write_text(dump_yaml(as_config(settings)), encoding="utf-8")
        paths.append(path)
    process = start(paths[0])
    assert process.wait(timeout=240) == 0, process.communicate()
    for step in (2, 7, 13):
        process = start(paths[1])
        wait_for_step(tmp_path / "cut", step, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
    process = start(paths[1])
    assert process.wait(timeout=240) == 0, process.communicate()
    assert_same_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert_same_weights(
        weights(tmp_path / "cut", "best.pt"), weights(tmp_path / "whole", "best.pt")
    )
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert not [path for path in (tmp_path / "cut").iterdir() if path.suffix == ".part"]


@pytest.mark.slow
def test_two_processes_make_the_same_steps_as_one(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    """The same recipe under torchrun with gloo: same losses, same weights up to rounding."""
    runs = []
    for name in ("one", "two"):
        settings = student_recipe(tiny_index, tmp_path / name, tiny_teacher)
        settings["model"] = student_settings(dropout=0.0)
        settings["train"] |= {"freeze_batch_norm": True}
        path = tmp_path / f"{name}.yaml"
        path.write_text(dump_yaml(as_config(settings)), encoding="utf-8")
        runs.append(path)
    process = start(runs[0])
    assert process.wait(timeout=240) == 0, process.communicate()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, *COMMAND[1:], str(runs[1]), "--insist", "--device", "cpu", "--quiet"],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": "29517"},
    )
    assert done.returncode == 0, done.stderr
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for ours, theirs in zip(two, one, strict=True):
        if "val_top1_pct" in theirs:
            assert ours["val_top1_pct"] == theirs["val_top1_pct"]
            assert ours["val_cross_entropy"] == pytest.approx(theirs["val_cross_entropy"], rel=1e-4)
        else:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    alone, together = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_processes_that_lost_videos_do_not_wait_for_each_other(
    tiny_index: Index, tmp_path: Path
) -> None:
    """One unreadable video leaves one process with fewer accumulated parts than the other."""
    path = broken_copy(tiny_index, tmp_path / "data", 1)
    settings = without_batch_statistics(path, tmp_path / "run", accumulate=4)
    settings["data"]["max_unreadable_pct"] = 5
    recipe_path = tmp_path / "run.yaml"
    recipe_path.write_text(dump_yaml(as_config(settings)), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "videokd", "train", str(recipe_path), "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": "29518"},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1, done.stdout
    state = load_checkpoint(tmp_path / "run" / "last.pt")["state"]
    assert state["step"] == 6
    assert len(state["unreadable"]) == 1


ABORTS = """
import faulthandler, os
from videokd.cli import main
from videokd.data.readers import READERS

def open_badly(*_args, **_options):
    with open(OPENED, "ab") as file:
        file.write(b".")
    faulthandler.disable()
    os.abort()

READERS["bad"] = open_badly
main()
"""


@pytest.mark.slow
def test_a_crash_in_one_process_is_known_to_all(tiny_index: Index, tmp_path: Path) -> None:
    """Two processes; the other one does not open the file in the epochs that follow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(READERS, "bad", READERS["pyav"])
        path, video = with_reader(tiny_index, tmp_path / "data", "bad")
        settings = recipe(path, tmp_path / "run")
        settings["data"] |= {"max_unreadable_pct": 5, "num_workers": 1}
        settings["train"]["epochs"] = 6
        recipe_path = tmp_path / "run.yaml"
        recipe_path.write_text(dump_yaml(as_config(settings)), encoding="utf-8")
    script = tmp_path / "train.py"
    opened = tmp_path / "opened"
    script.write_text(ABORTS.replace("OPENED", repr(str(opened))), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, str(script), "train", str(recipe_path), "--device", "cpu", "--quiet"],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": "29519"},
    )
    assert done.returncode == 0, done.stderr
    state = load_checkpoint(tmp_path / "run" / "last.pt")["state"]
    assert state["step"] == 18
    assert list(state["unreadable"].values()) == [f"{video}: crash: the decoder ended by SIGABRT"]
    # Once in the first epoch; the other process may have been ahead in the second.
    assert 1 <= len(opened.read_bytes()) <= 2


def test_metrics_are_json_lines(tiny_control: Path) -> None:
    for line in (tiny_control / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        assert isinstance(json.loads(line)["step"], int)
