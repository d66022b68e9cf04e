from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_loaders import config, same, train_loader

from videokd.data.index import Index
from videokd.data.loading.kept_frames import KeptFrames
from videokd.errors import UnreadableVideo
from videokd.types import VideoRecord

NUM_STEPS = 9
"""Three epochs of the six training videos, two a batch."""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_the_same_to_the_bit(index: Index, num_workers: int) -> None:
    plain = list(train_loader(index).batches(0, NUM_STEPS))
    settings = config(keep_decoded_gib=0.5, num_workers=num_workers)
    kept = list(train_loader(index, settings).batches(0, NUM_STEPS))
    assert all(same(a, b) for a, b in zip(plain, kept, strict=True))


@pytest.mark.parametrize("megabytes", [100, 1])
def test_what_fits_is_opened_once(
    index: Index, opened: list[tuple[Path, str]], megabytes: int
) -> None:
    loader = train_loader(index, config(keep_decoded_gib=megabytes * 1e6 / 2**30))
    batches = list(loader.batches(0, NUM_STEPS))
    expected, left = {}, megabytes * 1e6
    for video_id in torch.cat([batch.video_ids for batch in batches[:3]]).tolist():
        record = index.records[video_id]
        num_bytes = record.num_frames * record.height * record.width * 3
        expected[record.path] = 1 if num_bytes <= left else 3
        left -= num_bytes if num_bytes <= left else 0
    assert Counter(path for path, _ in opened) == expected
    assert set(expected.values()) == ({1} if megabytes == 100 else {1, 3})


def test_frames_that_decode_are_read_from_a_video_that_does_not_to_its_end(
    records: tuple[VideoRecord, ...],
) -> None:
    record = replace(records[0], num_frames=5, height=2, width=2)
    asked: list[list[int]] = []

    def decode(ids: np.ndarray) -> np.ndarray:
        asked.append(ids.tolist())
        if ids.max() > 3:
            raise UnreadableVideo(record.path, "its last frame is damaged")
        return np.full((len(ids), 2, 2, 3), ids[:, None, None, None], np.uint8)

    kept = KeptFrames(2**20)
    for _ in range(2):
        frames, numbers = kept.read(record, np.array([1, 3]), decode)
        assert frames[:, 0, 0, 0].tolist() == numbers.tolist() == [1, 3]
    assert asked == [[0, 1, 2, 3, 4], [1, 3], [1, 3]]
    assert kept.num_bytes == 0
    with pytest.raises(UnreadableVideo, match="its last frame is damaged"):
        kept.read(record, np.array([4]), decode)


def test_all_frames_are_kept_at_once(records: tuple[VideoRecord, ...]) -> None:
    record = replace(records[0], num_frames=5, height=2, width=2)
    kept = KeptFrames(5 * 12)
    frames, numbers = kept.read(
        record, np.array([1, 3]), lambda ids: np.zeros((len(ids), 2, 2, 3), np.uint8)
    )
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    assert kept.num_bytes == frames.nbytes == 60
