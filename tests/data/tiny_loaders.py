"""Loaders over the ten numbered videos, and whether two batches are the same to the last bit."""

from __future__ import annotations

import torch

from videokd.data.index import Index
from videokd.data.loading import DataConfig, TeacherInput, TrainLoader
from videokd.data.sampling import SameFrames
from videokd.types import ClipBatch, Dense, InputSpec

STUDENT = InputSpec(sampling=Dense(num_frames=4, stride=4), short_side_px=36, crop_px=32)
TEACHER = InputSpec(
    sampling=Dense(num_frames=8, stride=2), short_side_px=50, crop_px=48, resample="bicubic"
)


def config(**settings) -> DataConfig:
    augment = {"flip": {"probability": 0.5, "swaps": [["left", "right"]]}}
    return DataConfig(**{"index": "videos.csv", "num_workers": 0, "augment": augment, **settings})


def train_loader(index: Index, settings: DataConfig | None = None, **options) -> TrainLoader:
    """With one teacher; `teachers` replaces it, and `teachers=None` takes it away."""
    given = {
        "student": STUDENT,
        "teachers": {"teacher": TeacherInput(TEACHER, SameFrames())},
        "batch_size": 2,
        "seed": 7,
        **options,
    }
    return TrainLoader(index, settings or config(), **given)


def same(a: ClipBatch, b: ClipBatch) -> bool:
    """Pixels, draws and all else."""
    return same_clips(a, b) and a.unreadable == b.unreadable


def same_clips(a: ClipBatch, b: ClipBatch) -> bool:
    """All but the reasons for which videos are left out."""

    def parts(batch: ClipBatch) -> list:
        tensors = [*batch.frames.values(), *batch.frame_seconds.values()]
        return [*tensors, batch.targets, batch.has_label, batch.video_ids]

    draws = [draw.to_json() for draw in a.draws] == [draw.to_json() for draw in b.draws]
    equal = all(torch.equal(x, y) for x, y in zip(parts(a), parts(b), strict=True))
    left_out = [i for i, _ in a.unreadable] == [i for i, _ in b.unreadable]
    return draws and equal and left_out and a.frames.keys() == b.frames.keys()
