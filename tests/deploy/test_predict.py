"""Prediction on a file is evaluation of that file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from videokd.data.index import Index
from videokd.data.loading import EvalLoader
from videokd.data.sampling.protocols import own_views
from videokd.deploy.predict import predict
from videokd.engine.evaluate import score_videos
from videokd.errors import UserError
from videokd.recipe import create_fabric, load_trained


def test_scores_equal_those_of_evaluation(tiny_control: Path, tiny_index: Index) -> None:
    trained = load_trained(tiny_control)
    loader = EvalLoader(
        tiny_index, trained.config.data, spec=trained.model.spec, split="test",
        views=own_views(), batch_size=1,
    )  # fmt: skip
    scores = score_videos(create_fabric("cpu"), trained.model, loader)
    video_id = tiny_index.select("test")[3]
    row = scores.probabilities[scores.video_ids.tolist().index(video_id)]
    answer = predict(trained, tiny_index.records[video_id].path, topk=12, device="cpu")
    by_label = {item["label"]: item["score"] for item in answer["topk"]}
    expected = {name: float(row[k]) for k, name in enumerate(tiny_index.classes)}
    assert by_label == pytest.approx(expected, rel=1e-4)
    assert answer["topk"][0]["label"] == tiny_index.classes[int(torch.argmax(row))]


def test_at_least_one_class_is_asked_for(tiny_control: Path, tiny_index: Index) -> None:
    with pytest.raises(UserError, match="topk is 0; at least 1"):
        predict(load_trained(tiny_control), tiny_index.records[0].path, topk=0)
