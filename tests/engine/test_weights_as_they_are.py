"""`train.epochs: 0`: weights that are trained already become a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_recipes import as_config, recipe, student_recipe, teacher_recipe

from videokd.data.index import Index
from videokd.errors import ConfigError
from videokd.models.catalog import entry
from videokd.models.weights.download import place_of
from videokd.models.zoo import create_video_model
from videokd.recipe import load_trained
from videokd.runs import evaluate, train


def as_they_are(index: Index, out: Path, **changes: Any) -> dict[str, Any]:
    settings = teacher_recipe(index, out)
    return settings | {"train": settings["train"] | {"epochs": 0}} | changes


def weights_of(run: Path, file: str = "best.pt") -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = torch.load(run / file, weights_only=True)["model"]
    return model


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("val_split", ["val", None])
def test_the_run_is_the_loaded_weights_and_says_so(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path, val_split: str | None
) -> None:
    settings = as_they_are(tiny_index, tmp_path / "run", init={"weights": str(tiny_teacher)})
    settings["data"] = settings["data"] | {"val_split": val_split}
    outcome = train(as_config(settings), device="cpu", quiet=True)
    assert (outcome.steps, outcome.already_done) == (0, False)
    theirs = weights_of(tiny_teacher)
    for file in ("best.pt", "last.pt"):
        assert_same(weights_of(outcome.run_dir, file), theirs)
    assert (outcome.run_dir / "student.safetensors").is_file()
    assert load_trained(outcome.run_dir).state["step"] == 0
    lines = (outcome.run_dir / "metrics.jsonl").read_text().splitlines()
    if val_split is None:
        assert outcome.best is None
        assert lines == []
    else:
        (line,) = (json.loads(text) for text in lines)
        assert outcome.best is not None
        assert (line["step"], line["val_top1_pct"]) == (0, outcome.best["top1_pct"])
        assert not any(key.startswith("loss") for key in line), "nothing was trained"


def test_it_measures_as_the_run_that_it_came_from(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    settings = as_they_are(tiny_index, tmp_path / "run", init={"weights": str(tiny_teacher)})
    train(as_config(settings), device="cpu", quiet=True)
    mine = evaluate(tmp_path / "run", device="cpu", quiet=True)
    theirs = evaluate(load_trained(tiny_teacher), split="test", device="cpu", quiet=True)
    assert mine["predictions_digest"] == theirs["predictions_digest"]


def test_it_teaches(tiny_index: Index, tiny_teacher: Path, tmp_path: Path) -> None:
    """Its student is the student of the weights' own run, bit for bit."""
    settings = as_they_are(tiny_index, tmp_path / "teacher", init={"weights": str(tiny_teacher)})
    train(as_config(settings), device="cpu", quiet=True)
    for name, teacher in (("from_copy", tmp_path / "teacher"), ("from_own", tiny_teacher)):
        settings = student_recipe(tiny_index, tmp_path / name, teacher)
        settings["train"] = settings["train"] | {"epochs": 1}
        train(as_config(settings), device="cpu", insist=True, quiet=True)
    assert_same(weights_of(tmp_path / "from_copy"), weights_of(tmp_path / "from_own"))


def test_a_second_start_has_nothing_to_do(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    settings = as_they_are(tiny_index, tmp_path / "run", init={"weights": str(tiny_teacher)})
    train(as_config(settings), device="cpu", quiet=True)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    assert train(as_config(settings), device="cpu", quiet=True).already_done
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    assert after == before


def test_a_start_that_was_cut_off_before_the_last_file_is_done_again(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    settings = as_they_are(tiny_index, tmp_path / "run", init={"weights": str(tiny_teacher)})
    train(as_config(settings), device="cpu", quiet=True)
    (tmp_path / "run" / "last.pt").unlink()
    assert not train(as_config(settings), device="cpu", quiet=True).already_done
    assert_same(weights_of(tmp_path / "run", "last.pt"), weights_of(tiny_teacher))


@pytest.mark.parametrize("init", [{}, {"weights": "runs/x", "replace_head": True}])
def test_random_weights_are_not_taken_as_they_are(
    tiny_index: Index, tmp_path: Path, init: dict[str, Any]
) -> None:
    settings = recipe(tiny_index, tmp_path / "run", init=init)
    settings["train"] = settings["train"] | {"epochs": 0}
    with pytest.raises(ConfigError, match="epochs 0 takes the first weights as they are"):
        as_config(settings)


def test_preset_and_published_weights_are_fine_tuning_to_other_classes(
    tiny_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with the published names and shapes lies where it would have been downloaded to."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    found = entry("x3d_xs")
    assert found.weights is not None
    published = create_video_model(found.config(), num_classes=400, taps=(), seed=1).network
    file = place_of(found.weights)
    file.parent.mkdir(parents=True)
    torch.save({"model_state": published.state_dict()}, file)
    settings = recipe(
        tiny_index,
        tmp_path / "run",
        model={"preset": "x3d_xs", "head_pool_px": None, "input": {"short_side_px": 32}},
        init={"weights": "x3d_xs", "replace_head": True},
    )
    settings["model"]["input"] |= {"crop_px": 32, "sampling": {"stride": 2}}
    settings["train"] |= {"epochs": 1, "optim": {"lr": 1e-9, "weight_decay": 0.0}}
    config = as_config(settings)
    assert config.model.model_dump()["kind"] == "x3d"
    train(config, device="cpu", quiet=True)
    resolved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert "preset" not in resolved["model"], "what was run is written out"
    assert resolved["model"]["depth_factor"] == 2.2
    trained = load_trained(tmp_path / "run").model.network.state_dict()
    assert trained["blocks.5.proj.weight"].shape[0] == len(tiny_index.classes)
    stem = "blocks.0.conv.conv_t.weight"
    torch.testing.assert_close(trained[stem], published.state_dict()[stem], rtol=0, atol=1e-6)
