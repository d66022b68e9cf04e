"""Evaluation: the mean softmax over views, every video exactly once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_recipes import SPEC, as_config, recipe, student_settings

from videokd.config import parse_config
from videokd.data.index import Index
from videokd.data.loading import EvalLoader, clip_tensor
from videokd.data.sampling.protocols import own_views
from videokd.engine.evaluate import EvalConfig, VideoScores, score_videos
from videokd.errors import ConfigError, UserError
from videokd.models.zoo import create_video_model
from videokd.recipe import Trained, build, create_fabric, load_trained, use_device
from videokd.recipe import device as recipe_device
from videokd.runs import _with_accuracy, evaluate
from videokd.types import NumCrops


@pytest.mark.parametrize(
    ("num_clips", "num_crops", "batch_size"), [(1, 1, 5), (3, 1, 12), (2, 3, 1)]
)
def test_scores_are_the_mean_softmax_of_the_views(
    tiny_index: Index,
    tiny_control: Path,
    tmp_path: Path,
    num_clips: int,
    num_crops: NumCrops,
    batch_size: int,
) -> None:
    trained = load_trained(tiny_control)
    config = as_config(recipe(tiny_index, tmp_path)).data
    loader = EvalLoader(
        tiny_index, config, spec=trained.model.spec, split="test",
        views=own_views(num_clips, num_crops), batch_size=batch_size,
    )  # fmt: skip
    trained.model.train()
    at_a_time: list[int] = []
    hook = trained.model.register_forward_pre_hook(lambda _, given: at_a_time.append(len(given[0])))
    scores = score_videos(create_fabric("cpu"), trained.model, loader)
    hook.remove()
    assert trained.model.training
    assert max(at_a_time) <= batch_size
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
            views=own_views(), batch_size=2, rank=rank, world_size=5,
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


def untrained(index: Index, out: Path, *, temporal: str) -> Trained:
    """A network on 8 segments, as `load_trained` would give it."""
    model = student_settings(
        temporal={"kind": temporal},
        input=SPEC | {"sampling": {"kind": "segment", "num_segments": 8}, "crop_px": 28},
    )
    config = as_config(recipe(index, out, model=model))
    network = create_video_model(config.model, num_classes=len(index.classes), seed=0)
    return Trained(network.eval(), index.classes, config, out / "best.pt", {"step": 0})


def test_a_named_protocol_is_in_the_document(tiny_index: Index, tmp_path: Path) -> None:
    trained = untrained(tiny_index, tmp_path, temporal="shift")
    views = EvalConfig(protocol="tsm_twice_2x3", batch_size=4)
    document = evaluate(trained, eval_config=views, device="cpu", quiet=True)
    assert document["protocol"] == (
        "test: tsm_twice_2x3, 2 clips x 3 crops, segment 8, 28 px, best.pt"
    )
    assert (document["num_views"], document["num_frames"]) == (6, 8)


def test_tsn_is_shown_25_segments_where_frames_do_not_see_each_other(
    tiny_index: Index, tmp_path: Path
) -> None:
    views = EvalConfig(protocol="mmaction2_tsn_25x10", batch_size=4)
    trained = untrained(tiny_index, tmp_path, temporal="none")
    document = evaluate(trained, eval_config=views, device="cpu", quiet=True)
    assert (document["num_views"], document["num_frames"]) == (10, 25)
    assert "10 crops, segment 25, 28 px" in document["protocol"]
    shifted = untrained(tiny_index, tmp_path, temporal="shift")
    with pytest.raises(ConfigError, match="shows clips of 25 frames, this network is made for 8"):
        evaluate(shifted, eval_config=views, device="cpu", quiet=True)


def test_an_accuracy_of_other_clips_is_not_put_beside_a_benchmark() -> None:
    result = SimpleNamespace(model="tsn", num_frames=8)
    with pytest.raises(UserError, match="evaluated on clips of 25 frames, benchmarked on clips of"):
        _with_accuracy(result, {"num_frames": 25, "interval_pct": [1, 2]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "pyslowfast_10x4"}, r"did you mean 'pyslowfast_10x3'\?$"),
        ({"protocol": "pyslowfast_10x3", "num_clips": 4}, "10 clips x 3 crops of its own"),
        ({"protocol": "pyslowfast_10x3", "num_crops": 5}, "give one of the two"),
        ({"num_crops": 4}, "num_crops"),
    ],
)
def test_views_are_said_in_one_way(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(EvalConfig, settings, source="test")


def test_training_refuses_a_protocol_that_does_not_fit_before_the_first_step(
    tiny_index: Index, tmp_path: Path
) -> None:
    settings = recipe(tiny_index, tmp_path, eval={"protocol": "tsm_uniform_1x1"})
    with pytest.raises(ConfigError, match="tsm_uniform_1x1 is for segment sampling"):
        build(as_config(settings), create_fabric("cpu"))


def test_denormal_numbers_are_flushed_before_anything_is_computed() -> None:
    """A channel that all but died costs no time, and adds nothing that fp32 can still tell."""
    torch.set_flush_denormal(False)
    create_fabric("cpu")
    assert (torch.tensor([1e-39]) * 0.5).item() == 0.0


def test_a_gpu_is_taken_where_there_is_one_and_asked_for_in_vain_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for there, auto in ((True, torch.device("cuda", 0)), (False, torch.device("cpu"))):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert use_device("auto") == auto
        assert use_device("cpu") == torch.device("cpu")
    for ask in (use_device, create_fabric):
        with pytest.raises(ConfigError, match=r"^device cuda: PyTorch sees no CUDA device here; "):
            ask("cuda")


def test_threads_are_what_the_recipe_says_or_one_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_device, "_num_cores", lambda: 5)
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
