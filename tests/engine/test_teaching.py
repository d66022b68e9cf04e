"""Who teaches: one network, several, an average of the student, a peer; exactly, and resumable."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from power_cut import stop_after
from teacher_kinds import (
    assert_same_state,
    kind_recipe,
    run,
    state_of,
    teacher_of,
)
from tiny_recipes import as_config, student_settings, teacher_recipe

from videokd.data.augment.device import augmented_clips
from videokd.data.index import Index
from videokd.distill.ensemble import combine_teachers
from videokd.engine.optim import WeightAverage
from videokd.engine.teaching import CombinedTeaching, EmaTeacher, OnlineTeacher
from videokd.engine.train import Trainer
from videokd.errors import ConfigError, UserError
from videokd.models.video_model import VideoModel
from videokd.recipe import build, create_fabric, create_model, load_trained
from videokd.recipe.building import _SEED_OF_PEER
from videokd.tracking import read_metrics
from videokd.types import ClipBatch

KINDS = ["same_frames", "same_span", "whole_video", "several", "ema", "peer"]
CHANGING = ["several", "ema", "peer"]


@pytest.fixture(scope="module")
def other_teacher(tiny_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second teacher, of another seed."""
    out = tmp_path_factory.mktemp("other") / "other"
    return run(teacher_recipe(tiny_index, out, seed=5))


@pytest.fixture(scope="module")
def teacher(tiny_teacher: Path, other_teacher: Path) -> Callable[[str], dict[str, Any]]:
    return lambda kind: teacher_of(kind, tiny_teacher, other_teacher)


@pytest.fixture(scope="module")
def plain(tiny_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain training with the average of weights and mixing on."""
    return run(kind_recipe(tiny_index, tmp_path_factory.mktemp("plain") / "plain", None))


def trainer_of(settings: dict[str, Any]) -> Trainer:
    return build(as_config(settings), create_fabric("cpu"))


def first_batch(trainer: Trainer) -> ClipBatch:
    return next(trainer.loader.batches(0, 1))


# With the weights 0


@pytest.mark.parametrize("kind", ["whole_video", *CHANGING])
def test_with_weight_zero_the_teacher_stays_in_the_recipe_and_changes_nothing(
    tiny_index: Index,
    teacher: Callable[[str], dict[str, Any]],
    plain: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    zero = run(kind_recipe(tiny_index, tmp_path / "zero", teacher(kind), weight=0))
    assert_same_state(state_of(zero, "model", "average"), state_of(plain, "model", "average"))
    assert_same_state(state_of(zero, name="best.pt"), state_of(plain, name="best.pt"))


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_schedule_that_is_zero_throughout_likewise(
    tiny_index: Index,
    teacher: Callable[[str], dict[str, Any]],
    plain: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    """The teacher is loaded and its frames are; the projection of the hint is there. A peer is
    trained, by its labels alone."""
    off = {"schedule": {"start": 0.99}}  # the last of six steps is at 0.83
    zero = run(kind_recipe(tiny_index, tmp_path / "zero", teacher(kind), **off))
    assert_same_state(state_of(zero, "model", "average"), state_of(plain, "model", "average"))
    assert_same_state(state_of(zero, name="best.pt"), state_of(plain, name="best.pt"))
    if kind != "peer":
        return
    peer = state_of(zero, "peer")
    mine = state_of(plain, "model")
    assert all(
        not torch.equal(peer[f"peer.{name}"], value)
        for name, value in mine.items()
        if value.ndim > 1
    )


def test_a_peer_leaves_the_student_its_chance_in_every_part_of_a_step(
    tiny_index: Index, tmp_path: Path
) -> None:
    """A step begins with numbers of its own; its second part goes on where the first one ended."""
    states = []
    for name, teacher in (("plain", None), ("peer", {"kind": "peer"})):
        settings = kind_recipe(tiny_index, tmp_path / name, teacher, schedule={"start": 0.99})
        settings["train"] |= {"accumulate": 2, "epochs": 1}
        states.append(state_of(run(settings), "model", "average"))
    assert_same_state(*states)


def test_that_it_is_not_loaded_is_said(tiny_index: Index, tmp_path: Path) -> None:
    missing = {"checkpoint": str(tmp_path / "nothing")}
    said: list[str] = []
    settings = kind_recipe(tiny_index, tmp_path / "run", missing, weight=0)
    trainer = build(as_config(settings), create_fabric("cpu"), say=said.append)
    assert said == ["teacher: all distillation terms have weight 0, so it is not loaded"]
    assert trainer.teaching is None


# Resuming


@pytest.mark.parametrize("kind", [*CHANGING, "weighted"])
def test_a_cut_run_goes_on_to_the_same_bits(
    tiny_index: Index,
    teacher: Callable[[str], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Cut in the fourth step, of which nothing was saved; saved after the second and the third."""
    whole, cut = (
        kind_recipe(tiny_index, tmp_path / name, teacher(kind)) for name in ("whole", "cut")
    )
    for settings in (whole, cut):
        settings["train"] |= {"checkpoint_every_steps": 2, "accumulate": 2}
        if kind == "ema":
            settings["teacher"]["decay"] = 0.8
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(RuntimeError, match="power cut"):
            run(cut)
    assert_same_state(state_of(run(cut)), state_of(run(whole)))
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("cut", "whole")]
    assert [row.get("loss") for row in rows[0]] == [row.get("loss") for row in rows[1]]


# One and several


def ask(trainer: Trainer, batch: ClipBatch) -> Any:
    assert trainer.teaching is not None
    clips = augmented_clips(batch, "student")
    videos = range(batch.num_videos)
    return trainer.teaching.output(batch, batch, videos=videos, step=0, clips=clips)


def test_several_say_what_each_says_alone(
    tiny_index: Index,
    tiny_teacher: Path,
    other_teacher: Path,
    teacher: Callable[[str], dict[str, Any]],
    tmp_path: Path,
) -> None:
    settings = kind_recipe(tiny_index, tmp_path / "several", teacher("several"))
    settings["teacher"]["teachers"]["other"]["view"] = {"kind": "whole_video", "num_clips": 2}
    settings["objective"]["terms"]["hint"]["teacher_tap"] = "other.res2"
    together = trainer_of(settings)
    batch = first_batch(together)
    assert set(batch.frames) == {"student", "teacher.one", "teacher.other"}
    alone = {}
    for name, path, view in (
        ("one", tiny_teacher, "same_frames"),
        ("other", other_teacher, "whole_video"),
    ):
        single = trainer_of(kind_recipe(tiny_index, tmp_path / name, teacher_of(view, path, path)))
        one_batch = first_batch(single)
        assert torch.equal(one_batch.frames["student"], batch.frames["student"])
        assert torch.equal(one_batch.frames["teacher"], batch.frames[f"teacher.{name}"])
        alone[name] = ask(single, one_batch)
    said = ask(together, batch)
    expected = combine_teachers(
        alone, how="confidence", targets=batch.targets, has_label=batch.has_label
    )
    assert torch.equal(said.logits, expected.logits)
    assert set(said.taps) == {"other.res2"}  # of the other, nothing is kept
    assert torch.equal(said.taps["other.res2"].features, alone["other"].taps["res2"].features)


def test_the_loss_is_of_the_logits_weighted_as_given(
    tiny_index: Index,
    tiny_teacher: Path,
    other_teacher: Path,
    teacher: Callable[[str], dict[str, Any]],
    tmp_path: Path,
) -> None:
    """The first step of a run, by hand in float64, on clips of which some are mixed."""
    settings = kind_recipe(tiny_index, tmp_path / "run", teacher("weighted"))
    settings["model"] = student_settings(dropout=0.0)
    settings["train"] |= {"freeze_batch_norm": True, "epochs": 1}
    batch = first_batch(trainer := trainer_of(settings))
    assert any(draw.mix is not None for draw in batch.draws)
    seconds = {name: values.flatten(0, 1) for name, values in batch.frame_seconds.items()}
    student = trainer.learner.student.eval()
    teachers = {"one": tiny_teacher, "other": other_teacher}
    with torch.no_grad():
        logits = student(augmented_clips(batch, "student"), seconds["student"]).logits.double()
        one, other = (
            load_trained(path)
            .model.eval()(augmented_clips(batch, f"teacher.{name}"), seconds[f"teacher.{name}"])
            .logits.double()
            for name, path in teachers.items()
        )

    def soft(wanted: torch.Tensor) -> float:
        p, log_q = (wanted / 2).softmax(1), (logits / 2).log_softmax(1)
        return float(4 * (p * (p.log() - log_q)).sum(1).mean())

    row = read_metrics(run(settings) / "metrics.jsonl")[0]
    assert row["step"] == 0
    assert row["soft"] == pytest.approx(soft(0.2 * one + 0.8 * other), rel=1e-4)
    assert row["soft"] != pytest.approx(soft(0.5 * one + 0.5 * other), rel=1e-2)


def test_each_of_several_can_be_checked(
    tiny_index: Index, teacher: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    trainer = trainer_of(kind_recipe(tiny_index, tmp_path / "run", teacher("several")))
    assert isinstance(trainer.teaching, CombinedTeaching)
    assert list(trainer.teaching.online) == ["one", "other"]
    assert all(isinstance(one, OnlineTeacher) for one in trainer.teaching.online.values())


# An average of the student


def ema_trainer(index: Index, out: Path, **teacher: Any) -> Trainer:
    settings = kind_recipe(index, out, {"kind": "ema", **teacher})
    return trainer_of(settings)


def steps(trainer: Trainer, count: int) -> None:
    for step, batch in enumerate(trainer.loader.batches(0, count)):
        trainer._step(batch, step)


def test_the_average_is_of_the_students_weights(tiny_index: Index, tmp_path: Path) -> None:
    """Against float64: a step of 1 - min(decay, (1 + s) / (10 + s)) towards the new weights."""
    trainer = ema_trainer(tiny_index, tmp_path / "run", decay=0.15)
    teaching = trainer.teaching
    assert isinstance(teaching, EmaTeacher)
    student = trainer.learner.student
    names = [name for name, value in student.state_dict().items() if value.is_floating_point()]
    expected = {name: student.state_dict()[name].double() for name in names}
    for step, batch in enumerate(trainer.loader.batches(0, 3)):
        trainer._step(batch, step)
        decay = min(0.15, (1 + step) / (10 + step))
        for name in names:
            now = student.state_dict()[name].double()
            expected[name] = decay * expected[name] + (1 - decay) * now
    said = teaching.network.model.state_dict()
    for name in names:
        torch.testing.assert_close(said[name].double(), expected[name], rtol=1e-5, atol=1e-7)
    assert any("running_var" in name for name in names)


def test_it_teaches_as_the_network_that_is_kept(tiny_index: Index, tmp_path: Path) -> None:
    """With the decay of `train.ema_decay` it is that average, in eval mode, on the student's clips;
    the student is left as it is."""
    trainer = ema_trainer(tiny_index, tmp_path / "run")
    steps(trainer, 2)
    assert isinstance(trainer.teaching, EmaTeacher)
    assert isinstance(trainer.average, WeightAverage)
    assert trainer.average.state.keys() == trainer.teaching.state_dict().keys()
    for name, value in trainer.teaching.state_dict().items():
        assert torch.equal(value, trainer.average.state[name])
    batch = first_batch(trainer)
    before = torch.get_rng_state()
    said = ask(trainer, batch)
    assert torch.equal(torch.get_rng_state(), before)
    student = trainer.learner.student
    assert student.training
    with trainer.average.applied_to(student), torch.no_grad():
        kept = student.eval()(
            augmented_clips(batch, "student"), batch.frame_seconds["student"].flatten(0, 1)
        )
    assert torch.equal(said.logits, kept.logits)
    assert torch.equal(said.taps["stage2"].features, kept.taps["stage2"].features)
    assert not said.logits.requires_grad


# A peer


def peer_settings(index: Index, out: Path, **teacher: Any) -> dict[str, Any]:
    """Plain SGD, no dropout, and batch norms as they are: a step that can be done by hand."""
    settings = kind_recipe(index, out, {"kind": "peer", **teacher})
    settings["model"] = student_settings(dropout=0.0)
    settings["data"]["augment"].pop("mix")
    settings["objective"]["terms"].pop("hint")
    settings["train"] = settings["train"] | {
        "optim": {"kind": "sgd", "lr": 0.1, "momentum": 0, "weight_decay": 0},
        "freeze_batch_norm": True,
    }
    settings["train"] |= {"clip_grad_norm": None, "ema_decay": None}
    return settings


def stepped_by_hand(
    model: VideoModel, batch: ClipBatch, wanted: torch.Tensor, lr: float
) -> dict[str, torch.Tensor]:
    """Weights after a step on `CE + T^2 KL(wanted / T || own / T)`, T = 2, smoothing 0.1."""
    own = copy.deepcopy(model)
    clips = augmented_clips(batch, "student")
    logits = own(clips, batch.frame_seconds["student"].flatten(0, 1)).logits
    targets = 0.9 * batch.targets + 0.1 / batch.targets.shape[1]
    cross_entropy = -(targets * logits.log_softmax(1)).sum(1).mean()
    p, log_q = (wanted / 2).softmax(1), (logits / 2).log_softmax(1)
    divergence = 4 * (p * (p.log() - log_q)).sum(1).mean()
    (cross_entropy + divergence).backward()
    return {
        name: value.detach() - lr * value.grad
        for name, value in own.named_parameters()
        if value.grad is not None
    }


def test_peers_teach_each_other_from_what_they_said_before_the_step(
    tiny_index: Index, tmp_path: Path
) -> None:
    trainer = trainer_of(peer_settings(tiny_index, tmp_path / "run"))
    mine, theirs = (one.student for one in trainer.learners.values())
    batch = first_batch(trainer)
    mine.eval()
    theirs.eval()
    with torch.no_grad():
        said = {
            who: model(
                augmented_clips(batch, "student"), batch.frame_seconds["student"].flatten(0, 1)
            ).logits
            for who, model in (("mine", mine), ("theirs", theirs))
        }
    expected = {
        "mine": stepped_by_hand(mine, batch, said["theirs"], lr=0.1),
        "theirs": stepped_by_hand(theirs, batch, said["mine"], lr=0.1),
    }
    trainer._step(batch, 0)
    for who, model in (("mine", mine), ("theirs", theirs)):
        for name, value in model.named_parameters():
            if name in expected[who]:
                torch.testing.assert_close(value, expected[who][name], rtol=1e-5, atol=1e-6)


def test_a_peer_starts_otherwise_and_the_student_as_ever(tiny_index: Index, tmp_path: Path) -> None:
    settings = peer_settings(tiny_index, tmp_path / "run")
    trainer = trainer_of(settings)
    config = as_config(settings)
    plain, _ = create_model(config, tiny_index.classes)
    other, _ = create_model(config, tiny_index.classes, use=_SEED_OF_PEER)
    for fresh, learner in zip((plain, other), trainer.learners.values(), strict=True):
        for name, value in fresh.state_dict().items():
            assert torch.equal(value, learner.student.state_dict()[name])
    pairs = zip(*(one.student.parameters() for one in trainer.learners.values()), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)


def test_a_peer_may_be_another_network(tiny_index: Index, tmp_path: Path) -> None:
    other = student_settings(
        dropout=0.0, backbone_kwargs={"channels": [16, 16, 32, 32], "stem_width": 8}
    )
    settings = kind_recipe(tiny_index, tmp_path / "run", {"kind": "peer", "model": other})
    run(settings)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    losses = [row for row in rows if "loss" in row]
    for row in losses:
        terms = [row[name] for name in ("labels", "soft", "hint")]
        assert sum(terms) == pytest.approx(row["loss"], rel=1e-5)
        assert row["peer_loss"] > 0
        assert row["peer_grad_norm"] > 0
    peer = state_of(tmp_path / "run", "peer")
    mine = state_of(tmp_path / "run", "model")
    name = "network.backbone.conv1.0.weight"
    assert peer[f"peer.model.{name}"].shape[0] == 2 * mine[f"model.{name}"].shape[0]
    assert all("peer" not in name for name in state_of(tmp_path / "run", name="best.pt"))


# What is refused


def test_teachers_that_cannot_teach_are_refused(
    tiny_index: Index,
    tiny_control: Path,
    teacher: Callable[[str], dict[str, Any]],
    tmp_path: Path,
) -> None:
    several = teacher("several")
    several["teachers"]["other"]["checkpoint"] = str(tmp_path / "gone.pt")
    with pytest.raises(UserError, match=r"^teacher\.teachers\.other: .*gone\.pt: no such check"):
        trainer_of(kind_recipe(tiny_index, tmp_path / "a", several))
    settings = kind_recipe(tiny_index, tmp_path / "b", teacher("several"))
    settings["objective"]["terms"]["hint"]["teacher_tap"] = "res2"
    with pytest.raises(
        ConfigError, match=r"the teacher has no tap 'res2'; did you mean 'one\.res2"
    ):
        trainer_of(settings)
    other = student_settings()
    other["input"] = other["input"] | {"crop_px": 24}
    with pytest.raises(ConfigError, match=r"teacher\.model\.input: a peer sees the student's own"):
        trainer_of(kind_recipe(tiny_index, tmp_path / "c", {"kind": "peer", "model": other}))
