"""The nouns refuse what they must."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from videokd.errors import UnreadableVideo, UserError
from videokd.types import ClassNames, ClipBatch, Dense, InputSpec, VideoRecord


def parts(num_videos: int = 4, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "frames": {
            "student": torch.arange(num_videos * 24, dtype=torch.uint8).reshape(
                num_videos, 1, 2, 2, 2, 3
            )
        },
        "frame_seconds": {"student": torch.zeros(num_videos, 1, 2)},
        "targets": torch.eye(5)[:num_videos],
        "has_label": torch.ones(num_videos, dtype=torch.bool),
        "video_ids": torch.arange(num_videos),
    }
    return content | changes


def test_dense_span_counts_first_and_last_frame() -> None:
    assert Dense(num_frames=3, stride=3).span == 7
    assert Dense(num_frames=1, stride=9).span == 1


def test_crop_must_fit() -> None:
    with pytest.raises(ValueError, match="crop_px 65 does not fit into short_side_px 64"):
        InputSpec(sampling=Dense(num_frames=1, stride=1), short_side_px=64, crop_px=65)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": {"student": torch.zeros(4, 1, 2, 2, 2, 3)}}, "must be uint8"),
        ({"frames": {"student": torch.zeros(4, 2, 2, 2, 3, dtype=torch.uint8)}}, "must be uint8"),
        ({"frame_seconds": {"student": torch.zeros(4, 1, 3)}}, r"must be \[4, 1, 2\]"),
        ({"frame_seconds": {}}, r"must be \[4, 1, 2\] as frames, not None"),
        ({"has_label": torch.ones(3, dtype=torch.bool)}, "one B"),
        ({"targets": torch.eye(5)[:3]}, "one B"),
        ({"targets": torch.eye(5, dtype=torch.float64)[:4]}, "targets must be float32"),
        ({"video_ids": torch.arange(4, dtype=torch.int32)}, "video_ids int64"),
    ],
)
def test_clip_batch_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipBatch(**parts(**change))


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 9])
def test_split_parts_make_the_batch_again(num_parts: int) -> None:
    batch = ClipBatch(**parts())
    pieces = batch.split(num_parts)
    sizes = [piece.num_videos for piece in pieces]
    assert sum(sizes) == 4
    assert max(sizes) - min(sizes) <= 1
    joined = torch.cat([piece.frames["student"] for piece in pieces])
    assert torch.equal(joined, batch.frames["student"])
    assert torch.equal(torch.cat([piece.targets for piece in pieces]), batch.targets)


def test_class_names_refuse_duplicates_and_guess() -> None:
    with pytest.raises(UserError, match="'run' stands twice"):
        ClassNames(["run", "walk", "run"])
    with pytest.raises(UserError, match="no class names"):
        ClassNames([])
    with pytest.raises(UserError, match="has no ';'"):
        ClassNames(["a;b"])
    with pytest.raises(UserError, match="'jmup' is not one of the 2 classes; did you mean 'jump'"):
        ClassNames(["jump", "run"]).index_of("jmup")


def test_video_record_refuses_no_frames() -> None:
    with pytest.raises(UserError, match="num_frames is 0"):
        VideoRecord(Path("a.mp4"), (0,), 0, 25.0, 4, 4, "decord")
    with pytest.raises(UserError, match="fps is 0"):
        VideoRecord(Path("a.mp4"), (0,), 1, 0.0, 4, 4, "decord")


def test_unreadable_video_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(UnreadableVideo("a.mp4", "broken")))
    assert (error.path, error.reason) == (Path("a.mp4"), "broken")
    assert str(error) == "a.mp4: cannot be read as a video: broken"
