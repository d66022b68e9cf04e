"""Videos without a label: shown beside the others, and only distillation terms count there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from power_cut import stop_after
from teacher_kinds import (
    assert_same_state,
    kind_recipe,
    run,
    state_of,
)
from tiny_recipes import FLIP_SWAPS, SPEC, as_config, recipe, student_settings

from videokd.config import dump_yaml
from videokd.data.index import Index, read_index, write_index
from videokd.data.loading import DataConfig, TrainLoader
from videokd.data.show import training_rows
from videokd.errors import ConfigError, UserError
from videokd.recipe import build, create_fabric, load_recipe
from videokd.types import ClipBatch, InputSpec, VideoRecord

HALF = 12


def halved(index: Index, path: Path, **changes: Any) -> Path:
    """The same videos, every second training video in split `extra`, those changed by `changes`."""
    seen, records = 0, []
    for record in index.records:
        if record.split == "train":
            seen += 1
            if seen % 2:
                record = replace(record, split="extra", **changes)
        records.append(record)
    write_index(path, records, index.classes)
    return path


@pytest.fixture
def index(tiny_index: Index, tmp_path: Path) -> Path:
    return halved(tiny_index, tmp_path / "halved.csv")


def distilled(index: Path, out: Path, teacher: Path, **data: Any) -> dict[str, Any]:
    settings = kind_recipe(index, out, {"checkpoint": str(teacher)})
    settings["data"] |= {"unlabelled_split": "extra"} | data
    return settings


def loader(index: Path, *, ranks: int = 1, rank: int = 0, **data: Any) -> TrainLoader:
    given: dict[str, Any] = {
        "index": index,
        "num_workers": 0,
        "unlabelled_split": "extra",
        "augment": {"flip": {"probability": 0.5, "swaps": FLIP_SWAPS}},
    } | data
    return TrainLoader(
        read_index(index),
        DataConfig(**given),
        student=InputSpec(**SPEC),
        batch_size=8 // ranks,
        seed=3,
        rank=rank,
        world_size=ranks,
        require_label=False,
    )


def of_split(index: Path, split: str) -> set[int]:
    return set(read_index(index).select(split))


# What a batch holds


def test_an_epoch_shows_both_splits_and_hides_the_labels_of_one(index: Path) -> None:
    batches = list(loader(index).batches(0, 3))
    ids = torch.cat([batch.video_ids for batch in batches]).tolist()
    labelled, hidden = of_split(index, "train"), of_split(index, "extra")
    assert (len(labelled), len(hidden)) == (HALF, HALF)
    assert sorted(ids) == sorted(labelled | hidden)
    for batch in batches:
        for row, video_id in enumerate(batch.video_ids.tolist()):
            assert bool(batch.has_label[row]) == (video_id in labelled)
            assert batch.targets[row].sum() == (1 if video_id in labelled else 0)


def test_the_clips_are_those_of_the_videos_whatever_is_hidden(
    tiny_index: Index, index: Path
) -> None:
    """A video's draw depends on its row alone: hiding labels moves no pixel."""
    shown = by_video(loader(index))
    for video_id, row in by_video(loader(tiny_index.path, unlabelled_split=None)).items():
        assert torch.equal(row, shown[video_id])


def by_video(from_loader: TrainLoader) -> dict[int, torch.Tensor]:
    return {
        video_id: batch.frames["student"][row]
        for batch in from_loader.batches(0, 3)
        for row, video_id in enumerate(batch.video_ids.tolist())
    }


def test_a_sheet_says_whose_label_is_hidden(index: Path) -> None:
    labelled, videos = of_split(index, "train"), read_index(index)
    rows = training_rows(videos, loader(index), num_videos=8)
    for row, video_id in zip(
        rows, next(loader(index).batches(0, 1)).video_ids.tolist(), strict=True
    ):
        assert row.record == videos.records[video_id]
        assert row.labels.endswith(", hidden") == (video_id not in labelled)


def test_ranks_and_a_later_start_see_the_same(index: Path) -> None:
    whole = list(loader(index).batches(0, 6))
    for rank in range(2):
        for step, batch in enumerate(loader(index, ranks=2, rank=rank).batches(2, 6), start=2):
            one = whole[step]
            assert batch.video_ids.tolist() == one.video_ids[rank::2].tolist()
            assert torch.equal(batch.has_label, one.has_label[rank::2])
            assert torch.equal(batch.targets, one.targets[rank::2])
            assert torch.equal(batch.frames["student"], one.frames["student"][rank::2])


# What is learnt


def test_hidden_labels_teach_nothing(
    tiny_index: Index, index: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    """With other labels, with several, or with none, the student is the same, bit for bit."""
    states = []
    for number, labels in enumerate([None, (3,), (1, 2), ()]):
        path = index
        if labels is not None:
            path = halved(tiny_index, tmp_path / f"{number}.csv", labels=labels)
        settings = distilled(path, tmp_path / f"run{number}", tiny_teacher)
        settings["train"] |= {"epochs": 1}
        states.append(state_of(run(settings), "model", "average"))
    for state in states[1:]:
        assert_same_state(state, states[0])


def test_a_cut_run_goes_on_to_the_same_bits(
    index: Path, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = (distilled(index, tmp_path / name, tiny_teacher) for name in ("whole", "cut"))
    cut["train"]["checkpoint_every_steps"] = 1
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(RuntimeError, match="power cut"):
            run(cut)
    assert_same_state(state_of(run(cut)), state_of(run(whole)))


def test_a_batch_without_any_label_is_learnt_from(
    index: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    trainer = build(
        as_config(distilled(index, tmp_path / "run", tiny_teacher)), create_fabric("cpu")
    )
    batch = next(trainer.loader.batches(0, 1))
    batch.has_label[:] = False
    terms = trainer._step(batch, 0)
    assert terms["labels"] == 0
    assert min(terms["soft"], terms["hint"]) > 0


@pytest.mark.parametrize("kind", ["checkpoint", "peer"])
def test_accumulated_parts_make_the_same_step_however_labels_fall(
    index: Path, tiny_teacher: Path, tmp_path: Path, kind: str
) -> None:
    """Parts of one or two clips, some without any label: labels weigh what they weigh at once."""
    steps, states = [], []
    for parts in (1, 5):
        settings = distilled(index, tmp_path / f"{kind}{parts}", tiny_teacher)
        if kind == "peer":
            settings["teacher"] = {"kind": "peer"}
            settings["objective"]["terms"]["hint"]["teacher_tap"] = "stage2"
        settings["model"] = student_settings(dropout=0.0)
        settings["train"] |= {"freeze_batch_norm": True, "accumulate": parts, "batch_size": 10}
        settings["train"] |= {"optim": {"kind": "sgd", "lr": 0.01}, "ema_decay": None}
        trainer = build(as_config(settings), create_fabric("cpu"))
        batch = next(trainer.loader.batches(0, 1))
        assert 0 < int(batch.has_label.sum()) < 10
        steps.append({name: float(value) for name, value in trainer._step(batch, 0).items()})
        states.append(trainer.learner.student.state_dict())
    assert steps[1] == pytest.approx(steps[0], rel=1e-5)
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-7)


# Labels that are missing in the training split


def test_rows_without_a_label_are_for_distillation_only(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    path = tmp_path / "some.csv"
    first, second, *_ = tiny_index.select("train")
    records: list[VideoRecord] = list(tiny_index.records)
    for i in (first, second):
        records[i] = replace(records[i], labels=())
    write_index(path, records, tiny_index.classes)
    with pytest.raises(UserError, match=r"some\.csv:14: .* has no label; give it one"):
        build(as_config(recipe(path, tmp_path / "a")), create_fabric("cpu"))
    said: list[str] = []
    settings = kind_recipe(path, tmp_path / "b", {"checkpoint": str(tiny_teacher)})
    trainer = build(as_config(settings), create_fabric("cpu"), say=said.append)
    assert said == [
        "data: 2 videos of split 'train' have no label; only distillation terms count there"
    ]
    batches: list[ClipBatch] = list(trainer.loader.batches(0, 3))
    without = torch.cat([b.video_ids[~b.has_label] for b in batches]).tolist()
    assert sorted(without) == sorted([first, second])
    records[first] = replace(records[first], labels=(0, 1))
    write_index(path, records, tiny_index.classes)
    with pytest.raises(UserError, match=r"some\.csv:14: .* has 2 labels; give it one, or train"):
        build(as_config(settings), create_fabric("cpu"))


# What is refused, and what is said


def test_what_is_shown_without_labels_is_said(
    index: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    settings = distilled(index, tmp_path / "run", tiny_teacher)
    build(as_config(settings), create_fabric("cpu"), say=said.append)
    assert said == ["data: 12 videos of split 'extra' are shown without their labels"]


def test_unlabelled_videos_need_somebody_who_teaches(index: Path, tmp_path: Path) -> None:
    settings = recipe(index, tmp_path / "run")
    settings["data"] |= {"unlabelled_split": "extra"}
    with pytest.raises(
        ConfigError, match=r"data\.unlabelled_split shows videos without labels, an"
    ):
        as_config(settings)


def test_a_teacher_whose_terms_all_weigh_nothing_is_nobody(
    index: Path, tiny_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control of a recipe with unlabelled videos: refused while the settings are read."""
    settings = distilled(index, tmp_path / "run", tiny_teacher)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(as_config(settings)), encoding="utf-8")
    weights = [f"objective.terms.{name}.weight=0" for name in ("soft", "hint")]
    load_recipe(path, weights[:1])  # one term is enough
    with pytest.raises(
        ConfigError, match=r"data\.unlabelled_split .*; give a distillation term a weight above 0"
    ):
        load_recipe(path, weights)
    status, out, err = call(capsys, "train", path, *weights, "--device", "cpu")
    assert (status, out) == (2, "")
    assert err == (
        f"videokd: {path}: data.unlabelled_split shows videos without labels, and no term of "
        "objective learns from them; give a distillation term a weight above 0, or remove the "
        "split\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_unlabelled_split_is_no_other(index: Path, tmp_path: Path, split: str) -> None:
    settings = distilled(index, tmp_path / "run", tmp_path, unlabelled_split=split)
    with pytest.raises(ConfigError, match=f"unlabelled_split and {split}_split are both '{split}'"):
        as_config(settings)


def test_no_video_has_its_label_and_has_it_hidden(tiny_index: Index, tmp_path: Path) -> None:
    path = tmp_path / "both.csv"
    first = tiny_index.select("train")[0]
    records = list(tiny_index.records)
    records[first] = replace(records[first], split="train;extra")
    write_index(path, records, tiny_index.classes)
    with pytest.raises(UserError, match=r"both\.csv:14: .* in split 'train' and in the unlabelled"):
        loader(path)
    with pytest.raises(UserError, match="no video is in split 'nothing'; videos by split"):
        loader(path, unlabelled_split="nothing")
