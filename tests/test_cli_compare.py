"""`videokd compare` and `videokd report` on run folders as an evaluation leaves them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call

from videokd.bench.result import BenchmarkResult, Latency, results_json
from videokd.data.index import Index
from videokd.engine.evaluate import EvalConfig
from videokd.files import file_digest, write_text
from videokd.metrics import (
    Predictions,
    agreement,
    calibration,
    paired_test,
    read_predictions,
    write_probabilities,
)
from videokd.runs import evaluate


def refuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one plain line of a command that fails."""
    status, out, err = call(capsys, *arguments)
    assert status in (1, 2)
    assert out == ""
    (line,) = err.strip().splitlines()
    assert line.startswith("videokd: ")
    return line


@pytest.fixture
def make_run(tiny_control: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies of an evaluated run whose predictions are said."""

    def make(
        name: str,
        correct: list[int] | None = None,
        *,
        groups: list[str] | None = None,
        paths: list[str] | None = None,
        role: str = "control",
        **document: Any,
    ) -> Path:
        run = Path(shutil.copytree(tiny_control, tmp_path / name))
        numbers = run / "probabilities.safetensors"
        old = read_predictions(run / "predictions.csv", probabilities=numbers)
        right = old.correct_top1 if correct is None else np.array(correct, dtype=bool)
        predictions = Predictions(
            paths=tuple(paths or old.paths), labels=old.labels, predicted=old.predicted,
            correct_top1=right, correct_top5=right | old.correct_top5,
            groups=tuple(groups or old.groups), probabilities=old.probabilities,
            classes=old.classes,
        )  # fmt: skip
        write_text(run / "predictions.csv", predictions.to_csv())
        write_probabilities(predictions, numbers)
        saved = json.loads((run / "eval.json").read_text())
        saved |= {"predictions_digest": predictions.digest} | document
        (run / "eval.json").write_text(json.dumps(saved))
        recipe = (run / "recipe.yaml").read_text()
        (run / "recipe.yaml").write_text(recipe.replace("role: control", f"role: {role}"))
        return run

    return make


def test_an_evaluation_keeps_what_it_said_of_each_video(
    tiny_index: Index, tiny_control: Path
) -> None:
    document = json.loads((tiny_control / "eval.json").read_text())
    with (tiny_control / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    records = [tiny_index.records[i] for i in tiny_index.select("test")]
    folder = tiny_index.path.parent
    assert [folder / row["path"] for row in rows] == [record.path for record in records]
    assert not any(Path(row["path"]).is_absolute() for row in rows), "a moved data set is the same"
    names = list(tiny_index.classes)
    assert [row["label"] for row in rows] == [names[record.labels[0]] for record in records]
    for row in rows:
        assert row["correct_top1"] == str(int(row["label"] == row["predicted"]))
        assert row["correct_top1"] <= row["correct_top5"]
    confusion = np.zeros((len(names), len(names)), int)
    for row in rows:
        confusion[names.index(row["label"]), names.index(row["predicted"])] += 1
    assert confusion.tolist() == document["confusion"]
    for count, key in (("correct_top1", "top1_pct"), ("correct_top5", "top5_pct")):
        right = sum(int(row[count]) for row in rows)
        assert document[key] == pytest.approx(100 * right / len(rows))
    assert document["predictions_digest"] == file_digest(tiny_control / "predictions.csv")
    kept = read_predictions(
        tiny_control / "predictions.csv", probabilities=tiny_control / "probabilities.safetensors"
    )
    assert kept.classes == tuple(names)
    first = [names[index] for index in kept.probabilities.argmax(axis=1)]
    assert first == [row["predicted"] for row in rows]
    found = calibration(kept.probabilities, np.array([names.index(row["label"]) for row in rows]))
    assert document["calibration_error_pct"] == found.calibration_error_pct
    assert document["negative_log_likelihood"] == found.negative_log_likelihood
    assert (document["split"], document["views"]) == (
        "test", {"protocol": None, "num_clips": 1, "num_crops": 1},
    )  # fmt: skip


def test_predictions_of_another_evaluation_do_not_touch_the_first(
    tiny_control: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_control, tmp_path / "run 1"))
    before = (run / "predictions.csv").read_bytes()

    document = evaluate(
        run, split="val", eval_config=EvalConfig(num_clips=2, num_crops=3), device="cpu", quiet=True
    )

    assert (run / "predictions.csv").read_bytes() == before
    other = read_predictions(run / "predictions.best.val.csv")
    assert other.digest == document["predictions_digest"]
    assert document["command"] == (
        f"videokd eval '{run}' --split val --num-clips 2 --num-crops 3"
    )  # what the command line is given for it
    again = evaluate(run, device="cpu", quiet=True)
    assert (run / "predictions.csv").read_bytes() == before, "the same, to the last byte"
    assert again["command"] == f"videokd eval '{run}'"


@pytest.mark.slow
def test_two_processes_evaluate_like_one(tiny_control: Path, tmp_path: Path) -> None:
    """Seven and five of twelve videos, or all: every video once, and the same files."""
    run = Path(shutil.copytree(tiny_control, tmp_path / "run"))
    files = [run / "predictions.csv", run / "probabilities.safetensors", run / "eval.json"]
    evaluate(run, device="cpu", quiet=True)
    alone = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "videokd", "eval", str(run), "--device", "cpu", "--quiet"],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": "29531"},
    )
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in files] == alone
    assert not list(run.glob(".*.part"))


def test_any_text_comes_back_from_the_csv(tmp_path: Path) -> None:
    odd = Predictions(
        paths=('a,"b"\r\nc.mp4', "d\re", "ü"), labels=("x", "y", "z"), predicted=("x", "x", "z"),
        correct_top1=np.array([True, False, True]), correct_top5=np.array([True] * 3),
        groups=("", "p;1", "p,2"),
    )  # fmt: skip

    def fields(one: Predictions) -> list[Any]:
        return [one.paths, one.labels, one.predicted, one.groups,
                one.correct_top1.tolist(), one.correct_top5.tolist()]  # fmt: skip

    write_text(tmp_path / "odd.csv", odd.to_csv())
    back = read_predictions(tmp_path / "odd.csv")
    assert fields(back) == fields(odd)
    assert back.digest == odd.digest


RIGHT = [1] * 11 + [0]
HALF = [1, 0] * 6


def test_the_comparison_of_two_runs(make_run, capsys) -> None:
    a, b = make_run("student", RIGHT, role="student"), make_run("control", HALF)

    status, out, err = call(capsys, "compare", a, b, "--json")

    assert (status, err) == (0, "")
    document = json.loads(out)
    expected = paired_test(np.array(RIGHT, bool), np.array(HALF, bool)).to_dict()
    assert {key: document[key] for key in expected} == expected
    assert (document["role_a"], document["role_b"]) == ("student", "control")
    assert (document["num_only_a"], document["num_only_b"]) == (5, 0)
    assert document["verdict"] == "noise", "five videos, all one way, are p = 0.0625"
    assert document["command"] == f"videokd compare {a} {b}"
    status, out, _ = call(capsys, "compare", a, b)
    assert status == 0
    for words in (
        "91.67 %  student", "50.00 %  control", f"a - b  {expected['text']}",
        "interval over 12 videos; one training run a side: the noise of training is not in it",
        "only a right 5, only b right 0, p 0.062", "in four of five cases",
    ):  # fmt: skip
        assert words in out


def test_agreement_with_the_other_run_is_told(make_run, tiny_control, capsys) -> None:
    a, b = make_run("student", role="student"), make_run("teacher", role="teacher")
    again = read_predictions(b / "predictions.csv", probabilities=b / "probabilities.safetensors")
    other = replace(
        again, predicted=("nothing", *again.predicted[1:]), probabilities=again.probabilities[::-1]
    )
    write_text(b / "predictions.csv", other.to_csv())
    write_probabilities(other, b / "probabilities.safetensors")
    document = json.loads((b / "eval.json").read_text())
    write_text(b / "eval.json", json.dumps(document | {"predictions_digest": other.digest}))

    status, out, _ = call(capsys, "compare", a, b, "--json")

    assert status == 0
    found = json.loads(out)["agreement"]
    mine = read_predictions(a / "predictions.csv", probabilities=a / "probabilities.safetensors")
    assert found == agreement(mine, other).to_dict()
    assert found["top1_pct"] == pytest.approx(100 * 11 / 12)
    assert found["mean_kl"] > 0
    text = call(capsys, "compare", a, b)[1]
    assert f"a as b: {agreement(mine, other).text()}" in text
    (b / "probabilities.safetensors").unlink()
    assert json.loads(call(capsys, "compare", a, b, "--json")[1])["agreement"]["mean_kl"] is None
    assert "mean KL" not in call(capsys, "compare", a, b)[1]


def test_probabilities_of_another_evaluation_are_refused(make_run, capsys) -> None:
    a, b = make_run("a", RIGHT), make_run("b", HALF)
    shutil.copy(a / "probabilities.safetensors", b / "probabilities.safetensors")
    line = refuse(capsys, "compare", a, b)
    assert "probabilities.safetensors: is not of the predictions.csv beside it" in line


def test_people_are_the_unit_where_the_index_has_them(make_run, capsys) -> None:
    people = [f"person {n % 6}" for n in range(12)]
    a, b = make_run("a", RIGHT, groups=people), make_run("b", HALF, groups=people)

    def asked(*options: str) -> dict[str, Any]:
        status, out, _ = call(capsys, "compare", a, b, "--json", *options)
        assert status == 0
        return json.loads(out)

    by_people = asked()
    expected = paired_test(np.array(RIGHT, bool), np.array(HALF, bool), groups=people)
    assert by_people["interval_pct"] == list(expected.interval_pct)
    assert (by_people["unit"], by_people["num_units"]) == ("group", 6)
    assert asked("--unit", "group")["interval_pct"] == by_people["interval_pct"]
    assert (asked("--unit", "video")["unit"], asked("--unit", "video")["num_units"]) == (
        "video", 12,
    )  # fmt: skip
    assert "over 6 groups (12 videos)" in call(capsys, "compare", a, b)[1]


def test_several_seeds_a_side(make_run, capsys) -> None:
    a = [make_run(f"a{n}", row) for n, row in enumerate((RIGHT, HALF, [1] * 12))]
    b = [make_run(f"b{n}", row) for n, row in enumerate((HALF, [0] * 12))]

    status, out, _ = call(capsys, "compare", ",".join(map(str, a)), ",".join(map(str, b)), "--json")

    assert status == 0
    document = json.loads(out)
    expected = paired_test(
        np.array([RIGHT, HALF, [1] * 12], bool), np.array([HALF, [0] * 12], bool)
    )
    assert document["interval_pct"] == list(expected.interval_pct)
    assert (document["num_runs_a"], document["num_runs_b"], document["mcnemar_p"]) == (3, 2, None)
    assert document["difference_pct"] == pytest.approx(100 * (29 / 36 - 6 / 24))
    text = call(capsys, "compare", ",".join(map(str, a)), ",".join(map(str, b)))[1]
    assert "3 training runs against 2, drawn as well" in text
    assert document["agreement"] is None
    assert "a as b" not in text
    assert "McNemar" not in text


def test_runs_that_cannot_be_compared_are_refused(make_run, tmp_path, capsys) -> None:
    a = make_run("a")
    paths = list(read_predictions(a / "predictions.csv").paths)
    others = make_run("others", paths=[*paths[:-1], "a/new.mp4"])
    line = refuse(capsys, "compare", a, others)
    assert f"{a} and {others}: evaluated on other videos (12 and 12; " in line
    assert "a/new.mp4 is in one only" in line
    split = make_run("split", split="val")
    assert "evaluated with another split (test; val)" in refuse(capsys, "compare", a, split)
    views = make_run("views", views={"protocol": None, "num_clips": 10, "num_crops": 3})
    line = refuse(capsys, "compare", a, views)
    assert "another views (1 clips x 1 crops; 10 clips x 3 crops); evaluate both alike" in line
    grouped = make_run("grouped", groups=["p"] * 12)
    line = refuse(capsys, "compare", a, grouped)
    assert f"{paths[0]} has the group '' in one and 'p' in the other" in line
    assert "no run folder" in refuse(capsys, "compare", a, tmp_path / "nothing")
    assert "each once" in refuse(capsys, "compare", f"{a},{a}", a)
    assert "each once" in refuse(capsys, "compare", ",", a)
    line = refuse(capsys, "compare", a, a, "--unit", "group")
    assert "the index has no group for every video" in line


def test_predictions_that_are_not_of_the_evaluation_are_refused(make_run, capsys) -> None:
    a, b = make_run("a"), make_run("b")
    again = f"run `videokd eval {b}` again"
    text = (b / "predictions.csv").read_text()
    (b / "predictions.csv").write_text(text.replace(",0,", ",1,", 1))
    line = refuse(capsys, "compare", a, b)
    assert "predictions.csv: is not of the eval.json beside it" in line
    assert again in line
    (b / "predictions.csv").unlink()
    line = refuse(capsys, "compare", a, b)
    assert "its evaluation has no predictions.csv" in line
    assert again in line
    (b / "eval.json").unlink()
    assert f"no eval.json yet; run `videokd eval {b}` first" in refuse(capsys, "compare", a, b)


def test_a_file_that_is_no_predictions_is_refused(make_run, capsys) -> None:
    a, b = make_run("a"), make_run("b")
    for text, words in (
        ("path,label\n", "whose columns are path, label, predicted"),
        (Predictions((), (), (), np.zeros(0, bool), np.zeros(0, bool), ()).to_csv() + "x,y\n",
         "predictions.csv:2: not a row of predictions"),
    ):  # fmt: skip
        (b / "predictions.csv").write_text(text)
        document = json.loads((b / "eval.json").read_text())
        document["predictions_digest"] = file_digest(b / "predictions.csv")
        (b / "eval.json").write_text(json.dumps(document))
        assert words in refuse(capsys, "compare", a, b)


def benched(run: Path, role: str) -> Path:
    """With a benchmark that was never run: two settings."""
    rows = [
        BenchmarkResult(
            model="net", role=role, params_m=0.02, gmacs_per_view=0.001, num_views=1,
            gmacs_per_video=0.001, batch=batch, num_frames=4, crop_px=32, dtype="fp32",
            mode="eager", device="cpu: Some Processor",
            latency_ms=Latency(float(batch), batch + 0.1, batch + 0.2, float(batch), 0.02, 100),
            throughput_clips_s=1000.0, command=f"videokd bench {run.name} --batch 1,8",
        )
        for batch in (1, 8)
    ]  # fmt: skip
    write_text(run / "bench.json", results_json(rows))
    return run


def test_a_report_compares_students_with_the_others(make_run, tmp_path, capsys) -> None:
    student = benched(make_run("student", RIGHT, role="student", command="videokd eval s",
                               top1_pct=91.7, interval_pct=[60, 99], top5_pct=95.0,
                               top5_interval_pct=[70.0, 100.0]), "student")  # fmt: skip
    control = benched(make_run("control", HALF, command="videokd eval c"), "control")

    status, out, err = call(capsys, "report", student, control, "--out", tmp_path / "report")

    assert status == 0, err
    gain = paired_test(np.array(RIGHT, bool), np.array(HALF, bool)).text()
    assert f"student: net against control: net: {gain}" in out
    assert "inside the noise" in gain
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Paired comparisons" in text
    assert "inside the noise; the smallest difference" in text, "on the card of the gain"
    protocol = "test: 1 clips x 1 crops, dense 4x2, 32 px, best.pt"
    command = "videokd eval s && videokd bench student --batch 1,8"
    assert f"| net | student | {protocol} | {command} |" in text
    assert "| network | batch 1 | batch 8 |" in text
    with (tmp_path / "report" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["role"] for row in rows] == ["student", "student", "control", "control"]
    assert rows[0]["command"] == command
    assert (rows[0]["top5_interval_pct.0"], rows[0]["top1_pct"]) == ("70.0", "91.7")


def test_a_report_says_what_it_could_not_compare(make_run, tmp_path, capsys) -> None:
    student = benched(make_run("student", role="student"), "student")
    odd = benched(make_run("odd", split="val"), "control")
    status, _, err = call(capsys, "report", student, odd, "--out", tmp_path / "report")
    assert status == 0, err
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Not compared: " in text
    assert "evaluated with another split (test; val)" in text
    assert "## Paired comparisons" not in text
    assert "given twice" in refuse(capsys, "report", student, student, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_report_without_a_student_compares_with_the_first(make_run, tmp_path, capsys) -> None:
    runs = [benched(make_run(name, row), "control") for name, row in (("x", HALF), ("y", RIGHT))]
    status, out, err = call(capsys, "report", *runs, "--out", tmp_path / "report")
    assert status == 0, err
    assert "control: net, y against control: net, x: +41.7 points [" in out
