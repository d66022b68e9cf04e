"""Evaluation: the mean softmax over views, every video exactly once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_recipes import as_config, recipe

from videokd import recipe as recipe_module
from videokd.data.index import Index
from videokd.data.loading import EvalLoader, clip_tensor
from videokd.engine.evaluate import EvalConfig, VideoScores, score_videos
from videokd.recipe import create_fabric, load_trained
from videokd.runs import evaluate


@pytest.mark.parametrize(
    ("num_clips", "num_crops", "batch_size"), [(1, 1, 5), (3, 1, 12), (2, 3, 1)]
)
def test_scores_are_the_mean_softmax_of_the_views(
    tiny_index: Index,
    tiny_control: Path,
    tmp_path: Path,
    num_clips: int,
    num_crops: int,
    batch_size: int,
) -> None:
    trained = load_trained(tiny_control)
    config = as_config(recipe(tiny_index, tmp_path)).data
    loader = EvalLoader(
        tiny_index, config, spec=trained.model.spec, split="test",
        num_clips=num_clips, num_crops=num_crops, batch_size=batch_size,
    )  # fmt: skip
    trained.model.train()
    scores = score_videos(create_fabric("cpu"), trained.model, loader)
    assert trained.model.training
    assert scores.video_ids.tolist() == tiny_index.select("test")
    trained.model.eval()
    by_hand = []
    for batch in loader:
        for video in range(batch.num_videos):
            views = batch.frames["student"][video : video + 1]
            assert views.shape[1] == num_clips * num_crops
            logits = [
                trained.model(clip_tensor(views[:, v : v + 1]), None).logits
                for v in range(views.shape[1])
            ]
            by_hand.append(torch.cat(logits).softmax(1).mean(0))
    torch.testing.assert_close(scores.probabilities, torch.stack(by_hand), rtol=1e-4, atol=1e-6)
    assert scores.labels.tolist() == [tiny_index.records[i].labels[0] for i in scores.video_ids]


def test_ranks_together_see_every_video_once(tiny_index: Index, tiny_control: Path) -> None:
    trained = load_trained(tiny_control)
    seen: list[int] = []
    for rank in range(5):
        loader = EvalLoader(
            tiny_index, trained.config.data, spec=trained.model.spec, split="test",
            num_clips=1, num_crops=1, batch_size=2, rank=rank, world_size=5,
        )  # fmt: skip
        seen += [i for batch in loader for i in batch.video_ids.tolist()]
    assert sorted(seen) == tiny_index.select("test")


def test_accuracy_and_cross_entropy_by_hand() -> None:
    scores = VideoScores(
        video_ids=torch.arange(4),
        probabilities=torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.5, 0.5], [0.1, 0.9]]),
        targets=torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]),
    )
    assert scores.top1_pct == 50.0
    logs = torch.tensor([0.7, 0.4, 0.5, 0.9], dtype=torch.float64).log()
    assert scores.cross_entropy == pytest.approx(-logs.mean().item(), rel=1e-6)


def test_the_document_says_its_protocol(tiny_control: Path) -> None:
    document = evaluate(
        tiny_control,
        split="val",
        eval_config=EvalConfig(num_clips=2, num_crops=3),
        device="cpu",
        quiet=True,
    )
    assert document["protocol"] == "val: 2 clips x 3 crops, dense 4x2, 32 px, best.pt"
    assert document["num_views"] == 6
    assert document["num_videos"] == 12
    assert sum(map(sum, document["confusion"])) == 12
    low, high = document["interval_pct"]
    assert low <= document["top1_pct"] <= high
    again = evaluate(tiny_control, device="cpu", quiet=True)
    assert json.loads((tiny_control / "eval.json").read_text(encoding="utf-8")) == again


def test_denormal_numbers_are_flushed_before_anything_is_computed() -> None:
    """A channel that all but died costs no time, and adds nothing that fp32 can still tell."""
    torch.set_flush_denormal(False)
    create_fabric("cpu")
    assert (torch.tensor([1e-39]) * 0.5).item() == 0.0


def test_threads_are_what_the_recipe_says_or_one_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_module, "_num_cores", lambda: 5)
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        for cpu_threads, expected in ((2, 2), (None, 3)):
            create_fabric("cpu", cpu_threads=cpu_threads)
            assert torch.get_num_threads() == expected
        monkeypatch.delenv("OMP_NUM_THREADS")
        create_fabric("cpu")
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)
