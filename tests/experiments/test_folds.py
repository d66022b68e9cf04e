"""A recipe over folds: what is substituted, what is refused, and the mean of real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_recipes import recipe, student_recipe, teacher_recipe

from videokd.cli import main
from videokd.config import read_yaml
from videokd.data.index import Index
from videokd.errors import ConfigError, UserError
from videokd.experiments.folds import (
    FoldResult,
    fold_configs,
    folds_path,
    run_folds,
    summarise,
)


@pytest.fixture(scope="module")
def fold_index(tiny_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set with two folds: test videos of one train in the other."""
    rows = tiny_index.path.read_text(encoding="utf-8").splitlines()
    ids = {"train": "train1;train2", "val": "train1;test2", "test": "test1;train2"}
    header, *videos = rows
    column = header.split(",").index("split")
    path = tmp_path_factory.mktemp("folds") / "index.csv"
    lines = [header]
    for row in videos:
        values = row.split(",")
        values[0] = str((tiny_index.path.parent / values[0]).resolve())
        values[column] = ids[values[column]]
        lines.append(",".join(values))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    classes = tiny_index.path.with_suffix(".classes.txt").read_text(encoding="utf-8")
    path.with_suffix(".classes.txt").write_text(classes, encoding="utf-8")
    return path


def template(index: Path | Index, out: Path, **changes: Any) -> dict[str, Any]:
    """A control over folds, one epoch each."""
    settings = recipe(index, out / "fold{fold}", **changes)
    settings["data"] |= {
        "train_split": "train{fold}",
        "val_split": None,
        "test_split": "test{fold}",
    }
    settings["train"] |= {"epochs": 1}
    return settings


def written(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def test_two_folds_are_trained_evaluated_and_averaged(
    fold_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "r.yaml", template(fold_index, tmp_path / "control"))
    arguments = ["folds", str(path), "--folds", "1,2", "--device", "cpu", "--quiet"]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "control" / "folds.json").read_text())
    top1 = []
    for fold in ("1", "2"):
        evaluated = json.loads((tmp_path / "control" / f"fold{fold}" / "eval.json").read_text())
        assert evaluated["protocol"].startswith(f"test{fold}: ")
        assert evaluated["num_videos"] == 12
        top1.append(evaluated["top1_pct"])
        kept = yaml.safe_load((tmp_path / "control" / f"fold{fold}" / "recipe.yaml").read_text())
        assert kept["data"]["train_split"] == f"train{fold}"
    assert [fold["top1_pct"] for fold in document["folds"]] == top1
    assert document["mean"]["top1_pct"] == pytest.approx(sum(top1) / 2)
    assert document["std"]["top1_pct"] == pytest.approx(abs(top1[0] - top1[1]) / 2**0.5)
    assert "n - 1" in document["convention"]
    # Again: nothing is trained, and the table says the same.
    before = (tmp_path / "control" / "fold1" / "last.pt").stat().st_mtime_ns
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert (tmp_path / "control" / "fold1" / "last.pt").stat().st_mtime_ns == before
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["1", f"{top1[0]:.2f}"],
        ["2", f"{top1[1]:.2f}"],
        ["mean", f"{document['mean']['top1_pct']:.2f}"],
        ["std", f"{document['std']['top1_pct']:.2f}"],
    ]
    assert lines[5].endswith("folds.json")


def test_a_student_learns_from_the_teacher_of_its_own_fold(
    fold_index: Path, tmp_path: Path
) -> None:
    settings = student_recipe(
        fold_index, tmp_path / "student" / "fold{fold}", tmp_path / "teacher" / "fold{fold}"
    )
    settings["data"] |= {"train_split": "train{fold}", "test_split": "test{fold}"}
    configs = fold_configs(settings, ("1", "02"), source="r.yaml")
    assert [str(c.teacher.checkpoint) for c in configs.values() if c.teacher] == [
        f"{tmp_path}/teacher/fold1",
        f"{tmp_path}/teacher/fold02",
    ]
    assert configs["02"].data.test_split == "test02"


def test_the_mean_counts_each_fold_once_and_the_deviation_has_n_minus_1() -> None:
    folds = [
        FoldResult(str(n), f"f{n}", "p", num_videos, top1, top1 + 1, top1 - 1)
        for n, num_videos, top1 in ((1, 10, 80.0), (2, 1000, 86.0), (3, 10, 89.0))
    ]
    result = summarise("f{fold}", folds)
    assert result.mean == {"top1_pct": 85.0, "top5_pct": 86.0, "mean_class_pct": 84.0}
    assert result.std["top1_pct"] == pytest.approx(21**0.5)  # (25 + 1 + 16) / 2
    assert summarise("f{fold}", folds[:1]).std == dict.fromkeys(result.mean)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("output_dir=runs/x", r"output_dir is 'runs/x'; over folds it needs \{fold\} in it, such"),
        ("data.test_split=test", r"data\.test_split is 'test'; over folds it needs \{fold\}"),
        ("data.train_split=train", r"data\.train_split is 'train'; over folds it needs"),
        ("train.epochs=0", r"r\.yaml, fold 1: train\.epochs 0 takes the first weights"),
    ],
)
def test_a_recipe_without_folds_is_refused(
    tiny_index: Index, tmp_path: Path, override: str, why: str
) -> None:
    path = written(tmp_path / "r.yaml", template(tiny_index, tmp_path / "control"))
    with pytest.raises(ConfigError, match=why):
        run_folds(path, [override], device="cpu")
    assert not (tmp_path / "control").exists()


def test_a_fold_that_the_index_lacks_is_told_before_any_is_trained(
    fold_index: Path, tmp_path: Path
) -> None:
    path = written(tmp_path / "r.yaml", template(fold_index, tmp_path / "control"))
    with pytest.raises(UserError, match=r"no video is in split 'train3'; videos by split: test1"):
        run_folds(path, folds=("1", "2", "3"), device="cpu")
    assert not (tmp_path / "control").exists()


def test_folds_are_named_once_and_have_folders_of_their_own(
    tiny_index: Index, tmp_path: Path
) -> None:
    settings = template(tiny_index, tmp_path)
    for folds in ((), ("1", "1"), ("1", "")):
        with pytest.raises(ConfigError, match="must be one or more names, each once"):
            fold_configs(settings, folds, source="r.yaml")
    settings["output_dir"] = f"{tmp_path}/a/{{fold}}"
    with pytest.raises(ConfigError, match=r"folds 1 and \./1 have one output_dir"):
        fold_configs(settings, ("1", "./1"), source="r.yaml")
    del settings["data"]["train_split"]
    with pytest.raises(ConfigError, match=r"data\.train_split is None"):
        fold_configs(settings, ("1",), source="r.yaml")


def test_the_result_lies_in_the_folder_that_the_runs_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert folds_path([Path("runs/s/fold1"), Path("runs/s/fold2")]) == Path("runs/s/folds.json")
    assert folds_path([Path("runs/fold1/s"), Path("runs/fold2/s")]) == Path("runs/folds.json")
    assert folds_path([Path("runs/s/fold1")]) == Path("runs/s/folds.json")
    assert folds_path([tmp_path / "s/1", Path("s/2")]) == tmp_path / "s/folds.json"


def test_another_recipes_result_is_not_overwritten(tiny_index: Index, tmp_path: Path) -> None:
    """A teacher in fold1/teacher and a student in fold1/student would share `folds.json`."""
    settings = teacher_recipe(tiny_index, tmp_path / "fold{fold}" / "teacher")
    settings["data"] |= {"train_split": "train{fold}", "test_split": "test{fold}"}
    path = written(tmp_path / "r.yaml", settings)
    other = tmp_path / "folds.json"
    for text, why in (
        ('{"output_dir": "fold{fold}/student"}', r"is the result of fold\{fold\}/student; give"),
        ("[]", "not a result over folds of ours"),
    ):
        other.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=why):
            run_folds(path, device="cpu")
        assert other.read_text(encoding="utf-8") == text
    assert "{fold}" in read_yaml(path)["output_dir"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folds.json", "r.yaml"]
