"""What is drawn for the device reaches both networks and the loss, whole or in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipes import as_config, recipe, student_recipe

from videokd.data.augment.device import augmented_clips, mixed_targets
from videokd.data.index import Index
from videokd.engine.learner import Learner
from videokd.errors import ConfigError
from videokd.models.video_model import Frozen
from videokd.recipe import build, create_fabric
from videokd.runs import train
from videokd.types import ClipBatch

AUGMENT = {
    "colour": {"brightness": 0.4, "hue": 0.1},
    "rand_augment": {"num_ops": 1, "magnitude": 9},
    "erase": {"probability": 0.5},
    "mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
}


class Seen:
    """Arguments of the networks in each forward pass of training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.student: list[torch.Tensor] = []
        self.teacher: list[torch.Tensor] = []
        self.targets: list[torch.Tensor] = []
        student, teacher = Learner.forward, Frozen.forward

        def learn(learner: Learner, clips: torch.Tensor, batch: ClipBatch, *rest: Any) -> Any:
            self.student.append(clips)
            self.targets.append(batch.targets)
            return student(learner, clips, batch, *rest)

        def look(frozen: Frozen, clips: torch.Tensor, *rest: Any) -> Any:
            self.teacher.append(clips)
            return teacher(frozen, clips, *rest)

        monkeypatch.setattr(Learner, "forward", learn)
        monkeypatch.setattr(Frozen, "forward", look)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_both_networks_and_the_loss_get_what_was_drawn(
    tiny_index: Index,
    tiny_teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accumulate: int,
) -> None:
    settings = student_recipe(tiny_index, tmp_path / "run", tiny_teacher)
    settings["data"]["augment"] |= AUGMENT
    settings["train"] |= {"epochs": 1, "accumulate": accumulate}
    config = as_config(settings)
    batches = list(build(config, create_fabric("cpu")).loader.batches(0, 3))
    assert any(draw.mix is not None for draw in batches[0].draws)
    assert any(draw.appearance for draw in batches[0].draws)
    seen = Seen(monkeypatch)
    build(config, create_fabric("cpu")).fit(on_progress=lambda *_: None)
    for clips, name in ((seen.student, "student"), (seen.teacher, "teacher")):
        expected = torch.cat([augmented_clips(batch, name) for batch in batches])
        assert torch.equal(torch.cat(clips), expected)
    targets = torch.cat([mixed_targets(batch)[0] for batch in batches])
    assert torch.equal(torch.cat(seen.targets), targets)
    assert not torch.equal(targets, torch.cat([batch.targets for batch in batches]))


def test_mixing_needs_pairs(tiny_index: Index, tmp_path: Path) -> None:
    settings = recipe(tiny_index, tmp_path / "run")
    settings["data"]["augment"] |= AUGMENT
    settings["train"]["batch_size"] = 5
    with pytest.raises(ConfigError, match=r"data\.augment\.mix: .* 5 videos .* even number"):
        train(as_config(settings), device="cpu", quiet=True)
