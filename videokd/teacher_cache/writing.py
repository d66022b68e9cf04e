"""Writing a cache: every step of every epoch once, a shard at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from videokd.data.augment.device import mixed_targets
from videokd.data.loading import TrainLoader
from videokd.engine.teaching import Teaching
from videokd.errors import UserError
from videokd.files import lock_or_refuse
from videokd.teacher_cache.contents import Contents
from videokd.teacher_cache.manifest import Manifest
from videokd.teacher_cache.rows import rows_of
from videokd.teacher_cache.shards import Chunk, Shard, write_shard
from videokd.types import ClipBatch, Draw, ModelOutput

Teach = Callable[[ClipBatch, int], Iterable[tuple[list[Draw], ModelOutput]]]
"""A batch as the loader gave it, and its step -> what the teacher says, a few clips at a time."""

_LOCK = ".lock"
_MAX_SHARD_BYTES = 64 * 2**20
_MAX_CHUNK_STEPS = 50
"""What an interruption may cost, at most."""


class Part(NamedTuple):
    """One process of those that write together."""

    rank: int
    world_size: int


def steps_per_chunk(contents: Contents, *, clips_per_step: int, steps_per_epoch: int) -> int:
    """Steps of a chunk, so that one process's shard of it stays small; at least 1."""
    bytes_per_step = contents.bytes_per_clip * clips_per_step
    return max(1, min(_MAX_CHUNK_STEPS, steps_per_epoch, _MAX_SHARD_BYTES // bytes_per_step))


def all_chunks(manifest: Manifest) -> list[Chunk]:
    """The chunks that a whole cache has, in order."""
    starts = range(0, manifest.steps_per_epoch, manifest.steps_per_chunk)
    return [Chunk(epoch, start) for epoch in range(manifest.num_epochs) for start in starts]


def steps_of(chunk: Chunk, manifest: Manifest) -> range:
    """The global steps of a chunk."""
    first = chunk.epoch * manifest.steps_per_epoch
    stop = min(chunk.start + manifest.steps_per_chunk, manifest.steps_per_epoch)
    return range(first + chunk.start, first + stop)


def teach_with(teaching: Teaching, *, num_parts: int, device: torch.device) -> Teach:
    """What the training loop would ask `teaching`, in the parts that it would ask it in."""

    def teach(batch: ClipBatch, step: int) -> Iterator[tuple[list[Draw], ModelOutput]]:
        batch = batch.to(device, non_blocking=True)
        targets, has_label = mixed_targets(batch)
        batch = dataclasses.replace(batch, targets=targets, has_label=has_label)
        no_clips = torch.empty(0, device=device)  # the student's; who teaches from a file has none
        first = 0
        for part in batch.split(min(num_parts, batch.num_videos)):
            videos = range(first, first + part.num_videos)
            first = videos.stop
            output = teaching.output(batch, part, videos=videos, step=step, clips=no_clips)
            yield batch.draws[videos.start : videos.stop], output

    return teach


def write_chunks(
    folder: Path,
    manifest: Manifest,
    missing: list[Chunk],
    *,
    loader: TrainLoader,
    teach: Teach,
    part: Part,
    max_unreadable_pct: float,
    on_step: Callable[[int], None],
) -> dict[int, str]:
    """Write this process's shards of the chunks that are missing, in their order.

    Args:
        folder: of the cache.
        manifest: what is written.
        missing: chunks to write.
        loader: of this process; it renders what the teacher sees.
        teach: the teacher.
        part: which of the processes this is.
        max_unreadable_pct: stop when more of the videos do not decode.
        on_step: called after each step with the number of clips.

    Returns:
        Videos that did not decode, and why.

    Raises:
        UserError: too many unreadable videos, or outputs that float16 does not hold.
    """
    unreadable: dict[int, str] = {}
    for run in _neighbours(missing, manifest):
        steps = [steps_of(chunk, manifest) for chunk in run]
        batches = loader.batches(steps[0].start, steps[-1].stop)
        for chunk, span in zip(run, steps, strict=True):
            shard = _Shard(manifest.contents)
            for step in span:
                batch = next(batches)
                shard.add(batch, teach(batch, step))
                unreadable |= shard.unreadable
                _check_unreadable(unreadable, loader.num_videos, max_unreadable_pct)
                on_step(batch.num_videos)
            shard.write(folder, Shard(chunk, *part))
    return unreadable


class _Shard:
    """The rows of a chunk as they come."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._rows: list[NDArray[np.void]] = []
        self._draws: list[Draw] = []
        self.unreadable: dict[int, str] = {}

    def add(self, batch: ClipBatch, said: Iterable[tuple[list[Draw], ModelOutput]]) -> None:
        """The clips of a step."""
        for draws, output in said:
            self._rows.append(rows_of(output, draws, self._contents))
            self._draws += draws
        self.unreadable |= dict(batch.unreadable)

    def write(self, folder: Path, shard: Shard) -> None:
        """Put it on the disk."""
        rows = np.concatenate(self._rows)
        write_shard(folder, shard, rows=rows, draws=self._draws, unreadable=self.unreadable)


def _neighbours(chunks: list[Chunk], manifest: Manifest) -> Iterator[list[Chunk]]:
    """Cut where steps lie between: loading goes on through chunks that follow each other."""
    run: list[Chunk] = []
    for chunk in chunks:
        if run and steps_of(run[-1], manifest).stop != steps_of(chunk, manifest).start:
            yield run
            run = []
        run.append(chunk)
    if run:
        yield run


def _check_unreadable(unreadable: dict[int, str], num_videos: int, limit_pct: float) -> None:
    if 100 * len(unreadable) / num_videos > limit_pct:
        raise UserError(
            f"{len(unreadable)} of {num_videos} training videos cannot be read, more than "
            f"data.max_unreadable_pct {limit_pct:g}; the first: {next(iter(unreadable.values()))}; "
            "index the videos again, or raise the limit"
        )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the cache's lock: one command writes at a time."""
    with (folder / _LOCK).open("a+b") as file:
        lock_or_refuse(
            file, f"{folder}: another process writes this cache; wait for it, or give another --out"
        )
        yield
