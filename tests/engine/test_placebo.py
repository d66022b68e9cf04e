"""Teachers that know less than they seem to: whose words a clip is given, and resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from power_cut import stop_after
from teacher_kinds import assert_same_state, kind_recipe, run, state_of
from tiny_recipes import as_config

from videokd.data.index import Index
from videokd.engine.placebo import ShuffledWithinClass
from videokd.engine.teaching import Teaching
from videokd.errors import ConfigError, UserError
from videokd.recipe import build, create_fabric, load_trained
from videokd.types import ClipBatch, ModelOutput


class Says(Teaching):
    """A teacher with these words, whatever it is shown."""

    def __init__(self, *logits: list[list[float]]) -> None:
        self.logits = [torch.tensor(rows) for rows in logits]

    def output(self, *_: Any, step: int, **__: Any) -> ModelOutput:
        logits = self.logits[step]
        return ModelOutput(logits=logits, pooled=logits.clone())


def batch_of(
    classes: list[int], labelled: list[bool] | None = None, *, first: int = 0
) -> ClipBatch:
    num = len(classes)
    return ClipBatch(
        frames={"student": torch.zeros(num, 1, 1, 2, 2, 3, dtype=torch.uint8)},
        frame_seconds={"student": torch.zeros(num, 1, 1)},
        targets=torch.eye(3)[classes],
        has_label=torch.tensor(labelled or [True] * num),
        video_ids=torch.arange(first, first + num),
        draws=[],
    )


def told(teaching: Teaching, batch: ClipBatch, step: int) -> torch.Tensor:
    everybody = range(batch.num_videos)
    clips = torch.zeros(1)
    return teaching.output(batch, batch, videos=everybody, step=step, clips=clips).logits


FIRST = [[9.0, 1, 2], [8.0, 3, 4], [0.0, 7, 1]]
SECOND = [[6.0, 5, 1], [1.0, 6, 0]]


def test_each_clip_gets_the_words_on_the_clip_of_its_class_before_it() -> None:
    teaching = ShuffledWithinClass(Says(FIRST, SECOND), num_classes=3, device=torch.device("cpu"))
    first = told(teaching, batch_of([0, 0, 1]), 0)
    # The first clip of each class has nobody before it.
    assert first.tolist() == [FIRST[0], FIRST[0], FIRST[2]]
    assert told(teaching, batch_of([0, 1], first=3), 1).tolist() == [FIRST[1], FIRST[2]]


def test_no_clip_gets_the_words_on_another_clip_of_its_own_video() -> None:
    """Repeats stand beside each other; an epoch may begin with the video that ended the last."""
    teaching = ShuffledWithinClass(Says(FIRST, SECOND), num_classes=3, device=torch.device("cpu"))
    first = batch_of([0, 0, 0])
    first.video_ids[:] = torch.tensor([7, 8, 8])
    assert told(teaching, first, 0).tolist() == [FIRST[0], FIRST[0], FIRST[0]]
    second = batch_of([0, 0])
    second.video_ids[:] = torch.tensor([8, 7])
    assert told(teaching, second, 1).tolist() == [FIRST[0], SECOND[0]]


def test_pooled_features_stay_and_a_clip_without_a_label_is_of_the_teachers_class() -> None:
    teaching = ShuffledWithinClass(Says(FIRST, SECOND), num_classes=3, device=torch.device("cpu"))
    told(teaching, batch_of([0, 0, 1]), 0)
    batch = batch_of([2, 2], [False, False], first=3)
    output = teaching.output(batch, batch, videos=range(2), step=1, clips=torch.zeros(1))
    assert output.logits.tolist() == [FIRST[1], FIRST[2]]
    assert output.pooled.tolist() == SECOND


def test_what_was_said_last_is_kept_and_brought_back() -> None:
    cpu = torch.device("cpu")
    teaching = ShuffledWithinClass(Says(FIRST, SECOND), num_classes=3, device=cpu)
    told(teaching, batch_of([0, 0, 1]), 0)
    later = ShuffledWithinClass(Says(FIRST, SECOND), num_classes=3, device=cpu)
    later.load_state_dict(teaching.state_dict())
    assert told(later, batch_of([0, 1], first=3), 1).tolist() == [FIRST[1], FIRST[2]]


def settings(index: Index | Path, out: Path, teacher: Path, placebo: str | None) -> dict[str, Any]:
    """A student's recipe; of whole clips and with logit terms alone where these are shuffled."""
    found = kind_recipe(index, out, {"checkpoint": str(teacher), "placebo": placebo})
    if placebo != "random_weights":
        found["objective"]["terms"]["hint"]["weight"] = 0
        del found["data"]["augment"]["mix"]
    return found


def test_shuffled_words_leave_nothing_of_the_teacher_to_learn_from(tmp_path: Path) -> None:
    """With its taps, a placebo would be the teacher itself."""
    good = settings(tmp_path / "v.csv", tmp_path, tmp_path / "teacher", "shuffled_within_class")
    as_config(good)
    for weight in (0, 1):
        relations = {"kind": "rkd_distance", "source": "logits", "weight": weight}
        good["objective"]["terms"]["far"] = relations
        as_config(good)
    hint = good["objective"]["terms"]["hint"]
    with pytest.raises(ConfigError, match="the term 'hint' goes by taps, which stay the teacher's"):
        as_config({**good, "objective": {"terms": {"hint": {**hint, "weight": 1}}}})
    mixed = {**good["data"], "augment": {**good["data"]["augment"], "mix": {"mixup_alpha": 0.4}}}
    with pytest.raises(ConfigError, match=r"data.augment.mix makes clips of two"):
        as_config({**good, "data": mixed})


def test_a_run_with_shuffled_words_resumes_bit_for_bit(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    """Cut in the second epoch, when the first clips of all classes have been seen."""
    whole = run(settings(tiny_index, tmp_path / "whole", tiny_teacher, "shuffled_within_class"))
    true = run(settings(tiny_index, tmp_path / "true", tiny_teacher, None))
    cut = settings(tiny_index, tmp_path / "cut", tiny_teacher, "shuffled_within_class")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(RuntimeError, match="power cut"):
            run(cut)
    again = run(cut)
    assert_same_state(state_of(again, "model"), state_of(whole, "model"))
    with pytest.raises(AssertionError):
        assert_same_state(state_of(true, "model"), state_of(whole, "model"))


def test_a_random_teacher_has_the_same_network_and_other_weights_for_each_seed(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    def weights(seed: int) -> torch.Tensor:
        recipe = settings(tiny_index, tmp_path / "x", tiny_teacher, "random_weights")
        trainer = build(as_config({**recipe, "seed": seed}), create_fabric("cpu"))
        assert trainer.teaching is not None
        (online,) = trainer.teaching.online.values()
        assert online.claim is None, "what the checkpoint says is of its own weights"
        return torch.cat([p.flatten() for p in online.network.model.network.parameters()])

    trained = load_trained(tiny_teacher).model.network.parameters()
    true = torch.cat([parameter.flatten() for parameter in trained])
    assert weights(3).shape == true.shape
    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
    assert not torch.equal(weights(3), true)


def test_a_placebo_is_not_read_from_a_cache(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    recipe = settings(tiny_index, tmp_path / "x", tiny_teacher, "random_weights")
    recipe["teacher"]["cache"] = str(tmp_path / "cache")
    with pytest.raises(ConfigError, match="a placebo is not cached"):
        as_config(recipe)


def test_each_process_would_have_a_memory_of_its_own(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path
) -> None:
    from videokd.recipe.placebo import shuffled_within_class

    class Two:
        world_size = 2
        device = torch.device("cpu")

    with pytest.raises(UserError, match="shuffled_within_class is for one process"):
        shuffled_within_class(Says(FIRST), num_classes=3, fabric=Two())  # type: ignore[arg-type]


def test_outputs_are_replaced_and_not_changed() -> None:
    output = ModelOutput(logits=torch.tensor(FIRST), pooled=torch.tensor(FIRST))
    same = replace(output)

    class Given(Teaching):
        def output(self, *_: Any, **__: Any) -> ModelOutput:
            return output

    teaching = ShuffledWithinClass(Given(), num_classes=3, device=torch.device("cpu"))
    told(teaching, batch_of([0, 0, 1]), 0)
    assert torch.equal(output.logits, same.logits)
