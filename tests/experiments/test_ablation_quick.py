"""The whole ablation on tiny data: chosen, run, reported, resumed; real training all the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import call

from videokd.cli import main
from videokd.experiments.ablation.choices import Choices
from videokd.experiments.ablation.ladder import ladder_file, load_ladder
from videokd.experiments.ablation.records import Results
from videokd.experiments.ablation.study import QUICK

EMBEDDED = ("reproduce", "ablation", "--quick", "--device", "cpu", "--only", "embedded")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the quick form of the embedded study has been walked through."""
    place = tmp_path_factory.mktemp("ablation")
    before = Path.cwd()
    os.chdir(place)
    try:
        with pytest.raises(SystemExit) as end:
            main([*EMBEDDED, "--quiet"])
    finally:
        os.chdir(before)
    assert not end.value.code
    return place


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_every_row_is_tuned_run_and_reported() -> None:
    study = load_ladder(ladder_file()).studies["embedded"]
    records = Results(QUICK / "results").records
    for row in study.quick.rows:
        seeds = {key.seed for key in records if key.row == row and key.stage == "run"}
        assert seeds == ({0} if row in ("source_teacher", "teacher") else {0, 1}), row
        trials = {key.trial for key in records if key.row == row and key.trial is not None}
        assert trials == ({0, 1} if study.rows[row].tune else set()), row
    choices = Choices(QUICK / "chosen.yaml")
    assert choices.find("embedded", "all", None).trial in (0, 1)
    assert choices.find("embedded", "total_time", None).over["train.epochs"] > 1
    text = (QUICK / "ablation.md").read_text(encoding="utf-8")
    assert "no number here means anything" in text
    for row in study.quick.rows:
        if study.rows[row].is_prerequisite:
            continue
        assert f"\n| {study.rows[row].label} |" in text
    assert "Best control on validation: cross entropy" in text
    assert (QUICK / "images" / "ablation_embedded.png").is_file()


def test_first_weights_may_come_from_other_videos() -> None:
    results = Results(QUICK / "results")
    start = next(record for key, record in results.records.items() if key.row == "source_teacher")
    assert start.scores["val"].num_videos == 24
    assert len(results.videos["embedded", None, "val"].true_classes) == 12


def test_no_test_video_is_in_a_tuning_run() -> None:
    records = Results(QUICK / "results").records
    tuning = [record for key, record in records.items() if key.stage == "tune"]
    assert len(tuning) == 7, "two trials of two rows, and what one of them reads"
    assert {split for record in tuning for split in record.scores} == {"val"}
    for key in (record.key for record in tuning):
        run_dir = QUICK / "runs" / key.study / "tune" / key.row / f"trial{key.trial}"
        assert not list(run_dir.rglob("eval.json")), "that is what an evaluation on test leaves"


def test_control_and_students_start_alike_and_see_the_same_draws() -> None:
    from videokd.recipe import load_recipe

    runs = QUICK / "runs" / "embedded" / "run"
    control, student, without = (
        load_recipe(runs / row / "seed1" / "recipe.yaml")
        for row in ("cross_entropy", "all", "all_but_spatial")
    )
    for other in (student, without):
        assert other.model == control.model
        assert other.init == control.init
        assert other.data == control.data
        assert other.seed == control.seed == 1
        assert other.train.epochs == control.train.epochs
        assert other.train.batch_size == control.train.batch_size
    assert set(without.objective.active_terms) == set(student.objective.active_terms) - {"spatial"}


def gmacs_of(run_dir: Path) -> float:
    from videokd.bench.complexity import count_complexity
    from videokd.recipe import load_trained

    model = load_trained(run_dir).model.without_taps()
    return count_complexity(model, num_frames=8, crop_px=32).gmacs


def test_what_a_record_says_is_what_the_run_folder_says() -> None:
    records = Results(QUICK / "results").records
    videos = Results(QUICK / "results").videos["embedded", None, "test"]
    for key, record in records.items():
        if key.stage != "run" or key.row in ("source_teacher", "teacher", "cache"):
            continue
        run_dir = QUICK / "runs" / "embedded" / "run" / key.row / f"seed{key.seed}"
        document = json.loads((run_dir / "eval.json").read_text(encoding="utf-8"))
        score = record.scores["test"]
        assert score.top1_pct == document["top1_pct"]
        assert 100 * float((score.classes == videos.true_classes).mean()) == score.top1_pct
        assert record.gmacs_per_video == pytest.approx(gmacs_of(run_dir), abs=1e-6)
        assert (record.probe is None) == (key.row not in ("cross_entropy", "all"))


def test_a_second_call_has_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (QUICK / "results").glob("*.jsonl")}
    status, out, _ = call(capsys, *EMBEDDED, "--stage", "run")
    assert (status, out) == (0, "0 runs done, 0 left\n")
    assert {path: path.read_bytes() for path in before} == before


def test_the_list_says_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, *EMBEDDED, "--list", "--json")
    assert status == 0
    rows = {row["row"]: row for row in json.loads(out)}
    assert (rows["all"]["num_tuned"], rows["all"]["num_to_tune"]) == (2, 2)
    assert (rows["all"]["num_done"], rows["all"]["num_to_do"], rows["all"]["note"]) == (2, 2, "")
    assert (rows["teacher"]["num_done"], rows["teacher"]["num_to_do"]) == (1, 1)
    _, out, _ = call(capsys, *EMBEDDED[:-1], "embedded/all", "--list")
    assert out.splitlines()[1].split() == ["embedded/all", "distilled", "2/2", "2/2"]


def test_without_time_nothing_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    line = (QUICK / "results" / "embedded.jsonl").read_text(encoding="utf-8")
    path = QUICK / "results" / "embedded.jsonl"
    path.write_text("".join(line.splitlines(keepends=True)[:-1]), encoding="utf-8")
    record = next((QUICK / "runs" / "embedded" / "run").rglob("all_but_spatial/seed1/record.json"))
    kept = record.read_bytes()
    record.unlink()
    try:
        status, out, _ = call(capsys, *EMBEDDED, "--stage", "run", "--minutes", "0.0001")
        assert status == 0
        assert out == ("0 runs done, 1 left (out of time); start the same command again to go on\n")
    finally:
        path.write_text(line, encoding="utf-8")
        record.write_bytes(kept)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--only", "logit"), 2, "no row, table or study is named 'logit'; did you mean 'logits'?"),
        (("--seeds", "a"), 2, "--seeds 'a': must be whole numbers with commas between: 0,1,2"),
    ],
)
def test_mistakes_are_one_plain_line(
    arguments: tuple[str, ...], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "reproduce", "ablation", *arguments) == (
        status,
        "",
        f"videokd: {message}\n",
    )


@pytest.mark.slow
def test_side_by_side_in_processes_of_their_own_the_numbers_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videokd.experiments.ablation.child import in_processes
    from videokd.experiments.ablation.study import Request, run_ablation

    whole = Results((Path.cwd() / QUICK / "results").resolve())
    monkeypatch.chdir(tmp_path)
    only = ("embedded/cross_entropy",)
    request = Request(quick=True, device="cpu", jobs=2, only=only, quiet=True)
    done = run_ablation(request, launch=in_processes("cpu", 2))
    assert (done.num_done, done.num_left, done.failed) == (4, 0, {})
    for key, record in Results(QUICK / "results").records.items():
        assert record.scores == whole.records[key].scores, key
        assert record.jobs == 2


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    """A process of its own for every run, killed with all of them."""
    whole = Results(QUICK / "results")
    words = [sys.executable, "-m", "videokd", *EMBEDDED[:-1], "embedded/cross_entropy", "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(
        words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    started = tmp_path / QUICK / "runs" / "embedded" / "tune" / "cross_entropy" / "trial1"
    deadline = time.monotonic() + 120
    while not (started / "seed1000" / "recipe.yaml").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert len(Results(tmp_path / QUICK / "results").records) == 1, "one trial was finished"
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = Results(tmp_path / QUICK / "results")
    assert len(again.records) == 4
    for key, record in again.records.items():
        assert record.scores == whole.records[key].scores, key
        assert record.digest == whole.records[key].digest


@pytest.mark.slow
def test_the_quick_form_walks_both_studies_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, "reproduce", "ablation", "--quick", "--device", "cpu")
    assert status == 0, err
    assert out.endswith(" runs done, 0 left\n")
    people = load_ladder(ladder_file()).studies["people"]
    every = Results(QUICK / "results").records
    records = {key: record for key, record in every.items() if key.study == "people"}
    for row in people.quick.rows:
        folds = {key.fold for key in records if key.row == row and key.stage == "run"}
        assert folds == ({"1", "2", "3"} if people.rows[row].folds else {None})
    inner = {key.fold for key in records if key.row == "all" and key.stage == "tune"}
    assert inner >= {"1-2", "1-3", "2-3"}
    held = {
        split
        for key, record in records.items()
        if key.stage == "tune" and key.fold
        for split in record.scores
    }
    assert held == {"held1", "held2", "held3"}
