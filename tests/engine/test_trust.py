"""Before the first step: a teacher that knows nothing of these videos is not learned from."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scipy.stats  # noqa: F401 - its import would count as the time of an example
import torch
from hypothesis import given
from hypothesis import strategies as st
from power_cut import stop_after
from teacher_kinds import MIXED, assert_same_state, kind_recipe, state_of
from tiny_recipes import as_config, teacher_recipe

from videokd import runs
from videokd.cli import main
from videokd.config import dump_yaml
from videokd.data.index import Index, write_index
from videokd.engine.teaching import Claim, OnlineTeacher
from videokd.engine.trust import NUM_CLIPS, SIGNIFICANCE, Score, check_teachers
from videokd.errors import UserError
from videokd.recipe import build, create_fabric
from videokd.runs import train
from videokd.types import ClipBatch, ModelOutput


def knows(patch: pytest.MonkeyPatch, share: float, *, shift: int = 0) -> None:
    """Let every teacher name so many clips of a part rightly, or the class `shift` further on."""

    def see(_: OnlineTeacher, _batch: ClipBatch, part: ClipBatch, _videos: range) -> ModelOutput:
        assert all(draw.mix is None for draw in part.draws)
        told = part.targets.roll(shift, dims=1)
        num_right = math.floor(share * len(told) + 0.5)
        told[num_right:] = told[num_right:].roll(1, dims=1)
        return ModelOutput(logits=told, pooled=told)

    patch.setattr(OnlineTeacher, "see", see)


def check(
    settings: dict[str, Any],
    *,
    insist: bool = False,
    claim: Claim | None = None,
    num_parts: int = 1,
) -> tuple[list[str], dict[str, Score]]:
    trainer = build(as_config(settings), create_fabric("cpu"))
    assert trainer.teaching is not None
    for teacher in trainer.teaching.online.values():
        teacher.claim = claim
    said: list[str] = []
    scores = check_teachers(
        trainer.fabric,
        trainer.teaching.online,
        trainer.loader,
        batch_size=trainer.config.batch_size,
        num_parts=num_parts,
        insist=insist,
        say=said.append,
    )
    return said, scores


@pytest.fixture
def settings(tiny_index: Index, tiny_teacher: Path, tmp_path: Path) -> dict[str, Any]:
    """Half of the clips mirrored, with labels that swap, and half of them mixed."""
    return kind_recipe(tiny_index, tmp_path / "run", {"checkpoint": str(tiny_teacher)})


@given(st.integers(1, 40), st.integers(2, 400), st.data())
def test_the_test_is_the_binomials(num_clips: int, num_classes: int, data: st.DataObject) -> None:
    """Against sums of exact fractions."""
    num_right = data.draw(st.integers(0, num_clips))
    p = Fraction(1, num_classes)

    def probability(counts: range, q: Fraction) -> float:
        terms = (math.comb(num_clips, k) * q**k * (1 - q) ** (num_clips - k) for k in counts)
        return float(sum(terms))

    score = Score(num_right, num_clips, float(p))
    at_least = probability(range(num_right, num_clips + 1), p)
    if abs(at_least - SIGNIFICANCE) > 1e-9:
        assert score.is_chance == (at_least > SIGNIFICANCE)
    says = Fraction(data.draw(st.integers(0, 100)), 100)
    at_most = probability(range(num_right + 1), says)
    if abs(at_most - SIGNIFICANCE) > 1e-9:
        claim = Claim(100 * float(says), "val")
        assert score.is_below(claim) == (at_most <= SIGNIFICANCE)
    assert score.can_tell or Score(num_clips, num_clips, float(p)).is_chance


def test_a_teacher_is_scored_on_the_clips_as_they_are_shown_but_not_mixed(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(as_config(settings), create_fabric("cpu"))
    draws = [draw for batch in trainer.loader.batches(0, 3) for draw in batch.draws]
    assert settings["data"]["augment"]["mix"] == MIXED
    assert any(draw.mix is not None for draw in draws)
    assert any(draw.flip for draw in draws)
    knows(monkeypatch, 1.0)
    said, scores = check(settings, claim=Claim(96.5, "val"))
    assert said == ["teacher: 100.0 % of 24 training clips (its checkpoint: 96.5 % on val)"]
    assert scores == {"": Score(24, 24, pytest.approx(1 / 12))}  # an epoch has no more


def test_the_real_network_is_scored_whatever_the_parts(settings: dict[str, Any]) -> None:
    """As evaluation would: the share of clips whose first class is theirs."""
    trainer = build(as_config(settings), create_fabric("cpu"))
    teaching = trainer.teaching
    assert isinstance(teaching, OnlineTeacher)
    num_right = 0
    for batch in trainer.loader.batches(0, 3):
        batch.draws = []  # nothing but mixing is drawn here
        output = teaching.see(batch, batch, range(batch.num_videos))
        num_right += int((output.logits.argmax(1) == batch.targets.argmax(1)).sum())
    for num_parts in (1, 3):
        _, scores = check(settings, insist=True, num_parts=num_parts)
        assert scores[""].num_right == num_right


def test_a_teacher_at_chance_is_refused_unless_one_insists(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    knows(monkeypatch, 1.0, shift=1)  # it knows them all, by other numbers
    with pytest.raises(
        UserError,
        match=r"teacher: 0\.0 % of 24 training clips cannot be told from chance \(8\.3 %\): .*"
        r"classes in another order.*normalisation.*another data set.*--insist",
    ):
        check(settings)
    (line,) = check(settings, insist=True)[0]
    assert line.endswith("going on, as insisted")
    assert "\n" not in line


def test_of_several_labels_any_is_right_and_chance_is_greater() -> None:
    """The second of two labels, one of one, none of two; and a clip whose label is not known."""
    targets = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    batch = ClipBatch(
        frames={},
        frame_seconds={},
        targets=targets,
        has_label=torch.tensor([True, True, True, False]),
        video_ids=torch.arange(4),
    )
    logits = torch.tensor([[0.0, 2, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    teacher: Any = SimpleNamespace(
        see=lambda _, part, videos: ModelOutput(logits[videos.start : videos.stop], part.targets),
        network=SimpleNamespace(num_classes=4),
        source="",
        claim=None,
    )
    loader: Any = SimpleNamespace(
        steps_per_epoch=3, batches=lambda start, stop: (batch for _ in range(start, stop))
    )
    for num_parts, largest, chance in ((1, 0.25, 5 / 3 / 4), (2, 0.25, 5 / 3 / 4), (1, 0.8, 0.8)):
        loader.largest_class_share = largest
        scores = check_teachers(
            create_fabric("cpu"),
            {"": teacher},
            loader,
            batch_size=4,
            num_parts=num_parts,
            insist=True,
            say=lambda _: None,
        )
        assert scores == {"": Score(6, 9, pytest.approx(chance))}


def test_a_teacher_that_always_says_the_most_common_class_is_at_chance(
    settings: dict[str, Any], tiny_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of 24 training videos are of one class: as many right are nothing learnt."""
    common = set(tiny_index.select("train")[:14])
    records = [
        replace(record, labels=(0,)) if number in common else record
        for number, record in enumerate(tiny_index.records)
    ]
    write_index(tmp_path / "uneven.csv", records, tiny_index.classes)
    settings["data"] |= {"index": str(tmp_path / "uneven.csv"), "augment": {}}

    def see(_: OnlineTeacher, _batch: ClipBatch, part: ClipBatch, _videos: range) -> ModelOutput:
        return ModelOutput(torch.eye(12)[[0] * part.num_videos], part.targets)

    monkeypatch.setattr(OnlineTeacher, "see", see)
    with pytest.raises(UserError, match=r"([56]\d\.\d) % of 24 training .* from chance \(\1 %\)"):
        check(settings)


def test_a_teacher_clearly_below_what_its_checkpoint_says_is_told(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    knows(monkeypatch, 0.75)
    said, _ = check(settings, claim=Claim(99.0, "val"))
    assert len(said) == 2
    assert said[1].startswith("teacher: clearly below what its checkpoint says")
    assert len(check(settings, claim=Claim(80.0, "val"))[0]) == 1


def test_each_of_several_teachers_is_checked(
    settings: dict[str, Any], tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"checkpoint": str(tiny_teacher)}
    settings["teacher"] = {"kind": "several", "teachers": {"big": one, "small": one}}
    settings["objective"]["terms"].pop("hint")
    knows(monkeypatch, 1.0)
    said, scores = check(settings)
    assert [line.partition(":")[0] for line in said] == ["teacher big", "teacher small"]
    assert list(scores) == ["big", "small"]


def test_where_there_is_nothing_to_check_by_it_is_said(
    settings: dict[str, Any], tiny_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No label at all; or one, which any teacher may guess."""
    knows(monkeypatch, 1.0)
    for num_labels in (0, 1):
        labelled = tiny_index.select("train")[:num_labels]
        records = [
            record if i in labelled or record.split != "train" else replace(record, labels=())
            for i, record in enumerate(tiny_index.records)
        ]
        path = tmp_path / f"{num_labels}.csv"
        write_index(path, records, tiny_index.classes)
        settings["data"]["index"] = str(path)
        (line,) = check(settings)[0]
        expected = {
            0: "teacher: not checked, because none of the first training clips has a label",
            1: "teacher: 100.0 % of 1 training clips; too few clips with a label to tell it from "
            "chance",
        }
        assert line == expected[num_labels]


def test_no_more_clips_are_looked_at_than_are_needed(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """128, in whole batches: of 8 videos, sixteen times."""
    knows(monkeypatch, 1.0)
    trainer = build(as_config(settings), create_fabric("cpu"))
    batch = next(trainer.loader.batches(0, 1))
    asked: list[tuple[int, int]] = []

    def batches(start: int, stop: int) -> Any:
        asked.append((start, stop))
        yield from (batch for _ in range(start, stop))

    trainer.loader.steps_per_epoch = 1000
    monkeypatch.setattr(trainer.loader, "batches", batches)
    assert trainer.teaching is not None
    scores = check_teachers(
        trainer.fabric, trainer.teaching.online, trainer.loader, batch_size=8, say=lambda _: None
    )
    assert asked == [(0, 16)]
    assert scores[""].num_clips == NUM_CLIPS


def test_the_check_changes_no_bit_of_the_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(as_config(settings), device="cpu", insist=True, quiet=True)
    monkeypatch.setattr(runs, "check_teachers", lambda *_, **__: {})
    other = settings | {"output_dir": str(tmp_path / "unchecked")}
    train(as_config(other), device="cpu", quiet=True)
    assert_same_state(state_of(tmp_path / "run"), state_of(tmp_path / "unchecked"))


def test_a_run_that_goes_on_is_not_checked_again(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["train"]["checkpoint_every_steps"] = 1
    asked: list[int] = []
    monkeypatch.setattr(runs, "check_teachers", lambda *_, **__: asked.append(1))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(RuntimeError, match="power cut"):
            train(as_config(settings), device="cpu", quiet=True)
    train(as_config(settings), device="cpu", quiet=True)
    assert asked == [1]


def test_the_command_refuses_and_insists(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny teacher has learnt next to nothing; its own checkpoint says so too."""
    settings["train"]["epochs"] = 1
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(as_config(settings)), encoding="utf-8")
    arguments = ["train", str(path), "--device", "cpu"]
    with pytest.raises(SystemExit, match="1"):
        main(arguments)
    err = capsys.readouterr().err
    assert "cannot be told from chance (8.3 %)" in err
    assert "(its checkpoint: 8.3 % on val)" in err
    assert not (tmp_path / "run" / "last.pt").exists()
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--insist"])
    assert "going on, as insisted" in capsys.readouterr().err
    assert (tmp_path / "run" / "last.pt").exists()


def test_the_claim_may_be_an_evaluation_of_the_same_weights(
    settings: dict[str, Any], tiny_index: Index, tmp_path: Path
) -> None:
    """A teacher that no validation chose: what `videokd eval` found, if it is of these weights."""
    teacher = teacher_recipe(tiny_index, tmp_path / "teacher")
    teacher["data"]["val_split"] = None
    settings["teacher"]["checkpoint"] = str(train(as_config(teacher), quiet=True).run_dir)

    def claim() -> Claim | None:
        teaching = build(as_config(settings), create_fabric("cpu")).teaching
        assert isinstance(teaching, OnlineTeacher)
        return teaching.claim

    assert claim() is None
    document = runs.evaluate(tmp_path / "teacher", device="cpu", quiet=True)
    assert claim() == Claim(document["top1_pct"], "test")
    path = tmp_path / "teacher" / "eval.json"
    for text in (json.dumps(document | {"checkpoint_step": 1}), "{}", "[", "3"):
        path.write_text(text, encoding="utf-8")
        assert claim() is None


def test_a_refused_teacher_leaves_the_folder_to_the_mended_recipe(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Nothing was trained there."""
    with pytest.raises(UserError, match="cannot be told from chance"):
        train(as_config(settings), device="cpu", quiet=True)
    assert not list((tmp_path / "run").iterdir())
    settings["teacher"]["view"] = {"kind": "same_span"}
    settings["train"]["epochs"] = 1
    train(as_config(settings), device="cpu", insist=True, quiet=True)
    assert (tmp_path / "run" / "recipe.yaml").is_file()
