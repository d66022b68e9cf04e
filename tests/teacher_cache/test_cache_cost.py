"""The benchmark of a cache: whose turn it is, what is timed, and the arithmetic of ratios."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_recipes import as_config, recipe, student_recipe

from videokd.data.index import Index
from videokd.engine.train import Trainer
from videokd.errors import ConfigError
from videokd.experiments import cache_cost
from videokd.experiments.cache_cost import CACHED, ONLINE, PLAIN, CacheCost, CostPlan, measure_cost
from videokd.recipe import RunConfig, build, create_fabric
from videokd.types import ClipBatch

PLAN = CostPlan(batch_size=8, num_steps=1, num_rounds=3, num_workers=0)


def test_videos_last_for_a_turn() -> None:
    assert CostPlan(batch_size=8, num_steps=6, num_workers=1).num_videos == 84  # 10 steps of 8
    assert PLAN.num_untimed == 1


def test_a_round_is_held_against_itself() -> None:
    seconds = {PLAIN: [1.0, 2.0, 4.0], CACHED: [1.1, 2.0, 6.0], ONLINE: [4.4, 10.0, 18.0]}
    cost = CacheCost(PLAN, seconds, cache=None)  # type: ignore[arg-type]
    assert cost.cached_over_plain == pytest.approx((1.1, 1.0, 1.5))
    assert cost.online_over_cached == pytest.approx((4.0, 3.0, 5.0))


def test_three_runs_take_turns_on_the_same_draws(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole benchmark, with tiny networks in place of those of the catalogue."""

    def config(name: str, _plan: CostPlan, folder: Path, *_: Any) -> RunConfig:
        settings = student_recipe(tiny_index, folder / name, tiny_teacher)
        if name == PLAIN:
            settings = recipe(tiny_index, folder / name)
        settings["data"]["val_split"] = None
        if name == CACHED:
            settings["teacher"]["cache"] = str(folder / "cache")
        settings["train"]["epochs"] = 1
        return as_config(settings)

    seen: list[tuple[str, int, list[int]]] = []
    original = Trainer._step

    def step(self: Trainer, batch: ClipBatch, number: int) -> Any:
        seen.append((self.run_dir.name, number, batch.video_ids.tolist()))
        return original(self, batch, number)

    monkeypatch.setattr(Trainer, "_step", step)
    monkeypatch.setattr(cache_cost, "_config", config)
    monkeypatch.setattr(cache_cost, "_rendered", lambda *_: tiny_index)
    monkeypatch.setattr(cache_cost, "_random_teacher", lambda *_: tiny_teacher)
    cost = measure_cost(tmp_path, PLAN, device="cpu", quiet=True)
    turns = [name for name, number, _ in seen if number == 0]
    assert turns == [PLAIN, CACHED, ONLINE, CACHED, ONLINE, PLAIN, ONLINE, PLAIN, CACHED]
    assert [number for _, number, _ in seen] == [0, 1] * 9
    assert len({tuple(videos) for _, number, videos in seen if number == 1}) == 1
    document = cost.to_dict()
    assert all(len(times) == 3 and min(times) > 0 for times in cost.seconds.values())
    assert document["goals"] == {"cached_over_plain": 1.1, "online_over_cached": 3.0}
    assert document["device"].startswith("cpu")


def test_nothing_to_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"steps, rounds and clips of a batch must be at least 1"):
        measure_cost(tmp_path, CostPlan(num_steps=0), device="cpu", quiet=True)


@pytest.mark.slow
def test_the_networks_of_the_benchmark_go_together(tiny_index: Index, tmp_path: Path) -> None:
    """The recipes of the catalogue's names are whole, and the teacher loads."""
    teacher = cache_cost._random_teacher(tmp_path / "teacher", CostPlan(), tiny_index)
    config = cache_cost._config(ONLINE, CostPlan(), tmp_path, tiny_index, teacher)
    assert config.model.input.num_frames == 8
    from videokd.recipe import load_trained

    trained = load_trained(teacher)
    assert trained.model.spec.num_frames == 32
    assert set(trained.model.tap_shapes)


@pytest.mark.slow
def test_a_hint_between_the_networks_of_the_benchmark(tiny_index: Index, tmp_path: Path) -> None:
    """What the command's help names exists in both networks, in maps of one size."""
    plan = CostPlan(hint=("stage4", "fast_res4"))
    teacher = cache_cost._random_teacher(tmp_path / "teacher", plan, tiny_index)
    config = cache_cost._config(ONLINE, plan, tmp_path, tiny_index, teacher)
    trainer = build(config, create_fabric("cpu"))
    assert set(trainer.learner.objective.losses) == {"labels_loss", "soft_loss", "hint_loss"}
