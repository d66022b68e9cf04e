"""Videos with several labels: from the index to trained, distilled and evaluated networks."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipes import as_config, recipe, student_recipe, teacher_recipe
from typer.testing import CliRunner

from videokd.cli import app
from videokd.data.index import Index, read_index
from videokd.data.loading import EvalLoader
from videokd.deploy.predict import predict
from videokd.engine.time_probe import score_time_probe
from videokd.errors import ConfigError, UserError
from videokd.experiments.caching import cache_teacher
from videokd.experiments.compare import compare_runs
from videokd.experiments.folds import fold_configs
from videokd.experiments.probe import probe_time
from videokd.metrics import mean_average_precision_pct, read_predictions
from videokd.recipe import create_fabric, load_trained
from videokd.runs import evaluate, train

BINARY = {"terms": {"labels": {"kind": "binary_cross_entropy"}}}


@pytest.fixture(scope="module")
def several(tiny_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny index, every other video with the next class as a second label."""
    names = list(tiny_index.classes)
    out = tmp_path_factory.mktemp("several") / "videos.csv"
    with tiny_index.path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for position, row in enumerate(rows):
        row["path"] = str(tiny_index.path.parent / row["path"])
        if position % 2:
            second = names[(names.index(row["label"]) + 1) % len(names)]
            row["label"] = f"{row['label']};{second}"
    return write_index(rows, out, names)


def write_index(rows: list[dict[str, str]], path: Path, names: list[str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    path.with_suffix(".classes.txt").write_text("\n".join(names) + "\n")
    return path


@pytest.fixture(scope="module")
def teacher(several: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("several") / "teacher"
    train(as_config(teacher_recipe(several, out, objective=BINARY)), device="cpu", quiet=True)
    return out


def test_the_index_has_two_labels_in_every_split(several: Path) -> None:
    index = read_index(several)
    for split in ("train", "val", "test"):
        counts = {len(index.records[i].labels) for i in index.select(split)}
        assert counts == {1, 2}, split


def test_training_chooses_by_average_precision_and_evaluation_reports_it(
    several: Path, teacher: Path
) -> None:
    best = load_trained(teacher).state["best"]
    assert {"step", "top1_pct", "cross_entropy", "mean_average_precision_pct"} == set(best)
    assert 0 < best["cross_entropy"] < 2

    document = evaluate(teacher, device="cpu", quiet=True)

    assert document == json.loads((teacher / "eval.json").read_text())
    index = read_index(several)
    scores = scored(teacher, index)
    assert document["mean_average_precision_pct"] == pytest.approx(
        mean_average_precision_pct(scores.probabilities, scores.targets)
    )
    assert document["top1_pct"] == pytest.approx(scores.top1_pct)
    assert document["num_videos"] == 12
    assert "mean_class_pct" not in document
    labels = read_predictions(teacher / "predictions.csv").labels
    assert labels == tuple(
        ";".join(index.classes[k] for k in sorted(index.records[i].labels))
        for i in index.select("test")
    )


def scored(run: Path, index: Index, *, order: str = "normal") -> Any:
    trained = load_trained(run)
    loader = EvalLoader(
        index,
        trained.config.data,
        spec=trained.model.spec,
        split="test",
        views=trained.config.eval.views,
        batch_size=5,
        several_labels=True,
    )
    return score_time_probe(
        create_fabric("cpu"), trained.model, loader, num_crops=1, is_multi_label=True
    )[order]


def test_the_probe_for_motion_counts_videos_whose_first_class_is_one_of_theirs(
    several: Path, teacher: Path
) -> None:
    run = evaluate(teacher, device="cpu", quiet=True)

    document = probe_time(teacher, device="cpu", quiet=True)

    normal = document["conditions"]["normal"]
    for key in ("top1_pct", "interval_pct", "predictions_digest"):
        assert normal[key] == run[key]
    index = read_index(several)
    scores = scored(teacher, index, order="frozen")
    hits = scores.targets.gather(1, scores.probabilities.argmax(1, keepdim=True)) > 0
    frozen = document["conditions"]["frozen"]
    assert frozen["top1_pct"] == pytest.approx(100 * hits.double().mean().item())
    difference = frozen["difference"]["difference_pct"]
    assert difference == pytest.approx(frozen["top1_pct"] - normal["top1_pct"])


def test_scores_are_sigmoids_and_their_cross_entropy_is_binary(
    several: Path, teacher: Path
) -> None:
    scores = scored(teacher, read_index(several))

    assert not torch.allclose(scores.probabilities.sum(1), torch.ones(()))
    assert set(scores.targets.sum(1).tolist()) == {1, 2}
    wanted = torch.nn.BCELoss()(scores.probabilities.double(), scores.targets.double())
    assert scores.cross_entropy == pytest.approx(float(wanted))
    first = scores.probabilities.argmax(1)
    hits = [bool(row[k]) for row, k in zip(scores.targets, first, strict=True)]
    assert scores.top1_pct == pytest.approx(100 * sum(hits) / len(hits))


def test_a_student_is_distilled_from_it(several: Path, teacher: Path, tmp_path: Path) -> None:
    terms = {
        **BINARY["terms"],
        "soft": {"kind": "binary_soft_targets", "weight": 2, "temperature": 2},
        "when": {"kind": "temporal_attention", "student_tap": "stage3", "teacher_tap": "res3"},
    }
    config = as_config(
        student_recipe(several, tmp_path / "student", teacher, objective={"terms": terms})
    )

    train(config, device="cpu", quiet=True, insist=True)  # three steps taught the teacher little

    lines = (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()
    curves = {name: value for line in lines for name, value in json.loads(line).items()}
    assert curves["soft"] > 0
    assert curves["labels"] > 0
    assert 0 < curves["val_mean_average_precision_pct"] <= 100


@pytest.mark.parametrize("taught", ["several labels", "one label"])
def test_a_teacher_of_the_other_kind_of_labels_has_no_logits_to_give(
    tiny_index: Index, tiny_teacher: Path, several: Path, teacher: Path, tmp_path: Path, taught: str
) -> None:
    if taught == "one label":
        index, its_teacher = several, tiny_teacher
        terms = {**BINARY["terms"], "soft": {"kind": "binary_soft_targets"}}
    else:
        index, its_teacher = tiny_index.path, teacher
        terms = {"labels": {"kind": "cross_entropy"}, "soft": {"kind": "soft_targets"}}
    out = tmp_path / "student"

    config = as_config(student_recipe(index, out, its_teacher, objective={"terms": terms}))
    message = rf"was trained for {taught} a video .* say nothing to objective\.terms\.soft"
    with pytest.raises(UserError, match=message) as error:
        train(config, device="cpu", insist=True, quiet=True)
    assert "\n" not in str(error.value)

    soft = terms["soft"]
    terms["soft"] = {"kind": "hint", "student_tap": "stage3", "teacher_tap": "res3"}
    config = as_config(student_recipe(index, out, its_teacher, objective={"terms": terms}))
    train(config, device="cpu", insist=True, quiet=True)  # its features are as good

    cache_teacher(config, tmp_path / "cache", device="cpu", insist=True, quiet=True)
    terms |= {"hint": terms["soft"], "soft": soft}
    settings = student_recipe(index, tmp_path / "cached", its_teacher, objective={"terms": terms})
    settings["teacher"] |= {"cache": str(tmp_path / "cache")}
    with pytest.raises(UserError, match=message):  # its logits lie there
        train(as_config(settings), device="cpu", quiet=True)


def test_the_command_line_says_it(several: Path, tmp_path: Path) -> None:
    from videokd.config import dump_yaml

    (tmp_path / "r.yaml").write_text(
        dump_yaml(as_config(recipe(several, tmp_path / "run", objective=BINARY)))
    )

    trained = CliRunner().invoke(
        app, ["train", str(tmp_path / "r.yaml"), "--device", "cpu", "--quiet"]
    )
    evaluated = CliRunner().invoke(
        app, ["eval", str(tmp_path / "run"), "--device", "cpu", "--quiet"]
    )

    assert trained.exit_code == 0, trained.output
    assert ", mAP " in trained.output
    assert ", mAP " in evaluated.output
    assert "mean class" not in evaluated.output


def test_predictions_of_one_video_are_the_evaluations(several: Path, teacher: Path) -> None:
    trained, index = load_trained(teacher), read_index(several)

    found = predict(trained, index.records[index.select("test")[0]].path, topk=12, device="cpu")

    wanted = scored(teacher, index).probabilities[0].sort(descending=True).values
    assert [row["score"] for row in found["topk"]] == pytest.approx(wanted.tolist(), rel=1e-4)


def test_runs_are_compared_by_it(teacher: Path, tmp_path: Path) -> None:
    evaluate(teacher, device="cpu", quiet=True)
    again = tmp_path / "again"
    shutil.copytree(teacher, again)

    found = compare_runs([teacher], [again])

    assert found.test.difference_pct == 0
    assert found.agreement is not None
    assert found.agreement.top1_pct == 100
    assert found.agreement.mean_kl is None


def test_cross_entropy_refuses_them_in_a_line(several: Path, tmp_path: Path) -> None:
    config = as_config(recipe(several, tmp_path / "run"))

    with pytest.raises(
        UserError, match=r"videos\.csv:\d+: .* has 2 labels; .* binary_cross_entropy, which takes"
    ) as error:
        train(config, device="cpu", quiet=True)

    assert "\n" not in str(error.value)


def test_a_video_without_a_label_is_refused_there_too(several: Path, tmp_path: Path) -> None:
    with several.open(newline="") as file:
        rows = list(csv.DictReader(file))
    line = next(i for i, row in enumerate(rows, start=2) if row["split"] == "train")
    rows[line - 2]["label"] = ""
    faulty = write_index(rows, tmp_path / "videos.csv", list(read_index(several).classes))

    with pytest.raises(UserError, match=rf"videos\.csv:{line}: .* has no label; give it one"):
        train(
            as_config(recipe(faulty, tmp_path / "run", objective=BINARY)), device="cpu", quiet=True
        )


def test_folds_are_of_one_label(several: Path, tmp_path: Path) -> None:
    settings = recipe(several, tmp_path / "fold{fold}", objective=BINARY)
    settings["data"] |= {"train_split": "train{fold}", "test_split": "test{fold}"}

    with pytest.raises(ConfigError, match="binary_cross_entropy is for several labels a video"):
        fold_configs(settings, ["1"], source="r.yaml")
