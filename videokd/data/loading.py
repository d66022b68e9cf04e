"""From rows of the index to `ClipBatch`es: draw, decode once, render for each consumer.

Letters: B videos in a batch, V views a video, T frames, S crop side (px), K classes. The rendering
for the student is named `student`, the teacher's `teacher`. What chance decides depends on (seed,
epoch, video id, repeat) and the order of videos on (seed, epoch), so a batch is the same whatever
the number of workers or ranks, and resuming is starting at a later step.

torch is imported inside functions: settings and errors are there without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from videokd.config import Config
from videokd.data.augment import AugmentConfig, draw_crop, flip_targets, swap_indices
from videokd.data.clips import (
    STUDENT,
    TEACHER,
    Clip,
    ReaderChoice,
    batch_of,
    check_views,
    chosen_reader,
    clip_tensor,
    eval_draw,
    read_clips,
    replay,
)
from videokd.data.index import Index
from videokd.data.sampling import (
    TeacherView,
    check_view,
    frame_ids,
    paired_frame_ids,
    refuses,
)
from videokd.errors import ConfigError, UnreadableVideo, UserError
from videokd.types import ClipBatch, Draw, InputSpec, VideoRecord

__all__ = ["DataConfig", "EvalLoader", "TrainLoader", "clip_tensor", "read_clips", "replay"]

# Not a video id: the generator of the order must not be one that draws a clip.
_ORDER_KEY = 0xFFFF_FFFF


class DataConfig(Config):
    """Which videos, and how they are loaded. Paths are relative to the current directory."""

    index: Path
    """The index CSV, made by `videokd data index`."""
    train_split: str = "train"
    """Value of the index's split column for the videos to train on."""
    val_split: str | None = "val"
    """The split that chooses among checkpoints and settings; null: the last weights are kept."""
    test_split: str = "test"
    """The split that is only reported."""
    augment: AugmentConfig = AugmentConfig()
    """What chance does to training clips."""
    num_workers: int = Field(default=2, ge=0)
    """Processes that decode and render; 0: in the training process."""
    max_unreadable_pct: float = Field(default=1.0, ge=0, le=100)
    """Training stops when more than this share of the videos asked for does not decode."""
    reader: ReaderChoice = "auto"
    """Reader of all files; auto: the one that the index says is exact for the file. decord is
    refused where it is not exact."""


class TrainLoader:
    """Batches of randomly drawn clips of a split, by global step.

    Step s belongs to epoch s // steps_per_epoch. In each epoch every video of the split comes at
    most once, in an order of its own; the last videos, too few for a global batch, are left out of
    that epoch.
    """

    def __init__(
        self,
        index: Index,
        config: DataConfig,
        *,
        student: InputSpec,
        teacher: InputSpec | None = None,
        teacher_view: TeacherView | None = None,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        require_label: bool = True,
    ) -> None:
        """Check everything that can be known before the first batch.

        Args:
            index: the videos.
            config: split, augmentation, workers, reader.
            student: what the student wants to see; it also sizes square crops.
            teacher: what the teacher wants to see; without it there is no such rendering.
            teacher_view: which moment the teacher sees; needed with `teacher`.
            batch_size: B of each process; the global batch is batch_size * world_size.
            seed: of the order of videos and of all draws, at least 0.
            rank: this process among the `world_size` that train together.
            world_size: processes that train together.
            require_label: refuse videos without exactly one label.

        Raises:
            UserError: no such split, fewer videos than a global batch, a video without exactly one
                label where that is required, a missing file, one that is too short where that is
                refused, `swaps` with an unknown class.
            ConfigError: samplings that the teacher view cannot bring together.
        """
        _check_ranks(batch_size, rank, world_size)
        if seed < 0:
            raise ConfigError(f"seed is {seed}; it must be at least 0")
        if (teacher is None) != (teacher_view is None):
            raise ConfigError("a teacher's input needs a teacher view, and a view a teacher")
        if teacher is not None and teacher_view is not None:
            check_view(student.sampling, teacher.sampling, teacher_view)
        ids = index.select(config.train_split)
        global_batch = batch_size * world_size
        if len(ids) < global_batch:
            raise UserError(
                f"{index.path}: split {config.train_split!r} has {len(ids)} videos, fewer than one "
                f"batch of {global_batch}; take a smaller batch size"
            )
        specs = {STUDENT: student} if teacher is None else {STUDENT: student, TEACHER: teacher}
        _check_videos(index, ids, specs.values(), config.reader, require_label=require_label)
        self.steps_per_epoch = len(ids) // global_batch
        """Batches an epoch, the same on every rank."""
        self.num_videos = len(ids)
        """Videos of the split."""
        self._num_workers = config.num_workers
        self._source = _TrainSource(
            source=_Source(index, specs, config.reader),
            ids=np.array(ids, dtype=np.int64),
            augment=config.augment,
            swaps=swap_indices(config.augment.flip.swaps, index.classes),
            teacher_view=teacher_view,
            seed=seed,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
        )

    def batches(self, start_step: int, stop_step: int) -> Iterator[ClipBatch]:
        """Batches of the global steps [start_step, stop_step).

        Videos that do not decode are named in `ClipBatch.unreadable`, and their batch is smaller.

        Raises:
            UnreadableVideo: none of a batch decodes; it is the first of them.
            UserError: a worker process died.
        """
        if not 0 <= start_step <= stop_step:
            raise ValueError(f"steps [{start_step}, {stop_step}) are no range from 0")
        return _iterate(self._source, range(start_step, stop_step), self._num_workers)


class EvalLoader:
    """All views of every video of a split, nothing random; rank r takes videos r, r + ranks, ...

    Views are ordered by clip, then by crop: V = num_clips * num_crops. Every video comes exactly
    once over all ranks.
    """

    def __init__(
        self,
        index: Index,
        config: DataConfig,
        *,
        spec: InputSpec,
        split: str,
        num_clips: int,
        num_crops: Literal[1, 3],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        require_label: bool = True,
    ) -> None:
        """Check everything that can be known before the first batch.

        Raises:
            UserError: no such split, a video without exactly one label where that is required, a
                missing file, one that is too short where that is refused.
        """
        _check_ranks(batch_size, rank, world_size)
        check_views(num_clips, num_crops)
        ids = index.select(split)
        _check_videos(index, ids, [spec], config.reader, require_label=require_label)
        self.num_videos = len(ids)
        """Videos of the split, over all ranks."""
        self._num_workers = config.num_workers
        self._source = _EvalSource(
            source=_Source(index, {STUDENT: spec}, config.reader),
            ids=tuple(ids[rank::world_size]),
            num_clips=num_clips,
            num_crops=num_crops,
            batch_size=batch_size,
        )

    def __len__(self) -> int:
        """Batches of this rank."""
        return -(-len(self._source.ids) // self._source.batch_size)

    def __iter__(self) -> Iterator[ClipBatch]:
        """Batches in the order of the index.

        Raises:
            UnreadableVideo: a video does not decode; evaluation does not go on without it.
            UserError: a worker process died.
        """
        return _iterate(self._source, range(len(self)), self._num_workers)


@dataclass(frozen=True)
class _Source:
    """Draws -> rendered clips, the same in training and evaluation. It goes to the workers."""

    index: Index
    specs: Mapping[str, InputSpec]
    reader: ReaderChoice

    def clip(self, draw: Draw, swaps: Sequence[tuple[int, int]] = ()) -> Clip:
        record = self.index.records[draw.video_id]
        frames, seconds = replay(record, draw, self.specs, reader=self.reader)
        target = np.zeros(len(self.index.classes), dtype=np.float32)
        target[list(record.labels)] = 1
        if draw.flip:
            target = flip_targets(target, swaps)
        return Clip(draw, frames, seconds, target, bool(record.labels))


@dataclass(frozen=True)
class _TrainSource:
    """Global step -> this rank's batch, a pure function."""

    source: _Source
    ids: NDArray[np.int64]
    augment: AugmentConfig
    swaps: tuple[tuple[int, int], ...]
    teacher_view: TeacherView | None
    seed: int
    batch_size: int
    rank: int
    world_size: int

    def __getitem__(self, step: int) -> ClipBatch | UnreadableVideo:
        global_batch = self.batch_size * self.world_size
        epoch, position = divmod(step, len(self.ids) // global_batch)
        order = _epoch_order(self.seed, epoch, len(self.ids))
        chosen = order[position * global_batch : (position + 1) * global_batch]
        mine = self.ids[chosen[self.rank :: self.world_size]]
        clips: list[Clip] = []
        faults: list[tuple[int, UnreadableVideo]] = []
        for video_id in mine.tolist():
            try:
                clips.append(self.source.clip(self.draw(epoch, video_id), self.swaps))
            except UnreadableVideo as error:
                faults.append((video_id, error))
        if not clips:
            return faults[0][1]
        return batch_of(clips, [(video_id, fault.reason) for video_id, fault in faults])

    def draw(self, epoch: int, video_id: int, repeat: int = 0) -> Draw:
        """Everything that chance decides for one video of one epoch."""
        entropy = (self.seed, epoch, video_id, repeat)
        generator = np.random.default_rng(entropy)
        record = self.source.index.records[video_id]
        student = self.source.specs[STUDENT]
        # The crop last: the number of its tries varies. A teacher takes no chance of its own.
        flip = bool(generator.random() < self.augment.flip.probability)
        ids = self._frame_ids(record, generator)
        crop = draw_crop(
            self.augment.crop,
            height=record.height,
            width=record.width,
            short_side_px=student.short_side_px,
            crop_px=student.crop_px,
            generator=generator,
        )
        return Draw(video_id, entropy, ids, (crop,), flip)

    def _frame_ids(
        self, record: VideoRecord, generator: np.random.Generator
    ) -> dict[str, NDArray[np.int64]]:
        student = self.source.specs[STUDENT].sampling
        n, fps = record.num_frames, record.fps
        if self.teacher_view is None:
            ids = frame_ids(student, num_frames=n, fps=fps, start="random", generator=generator)
            return {STUDENT: ids}
        student_ids, teacher_ids = paired_frame_ids(
            student,
            self.source.specs[TEACHER].sampling,
            self.teacher_view,
            num_frames=n,
            fps=fps,
            generator=generator,
        )
        return {STUDENT: student_ids, TEACHER: teacher_ids}


@dataclass(frozen=True)
class _EvalSource:
    """Position -> batch of all views of the next videos."""

    source: _Source
    ids: tuple[int, ...]
    num_clips: int
    num_crops: Literal[1, 3]
    batch_size: int

    def __getitem__(self, position: int) -> ClipBatch | UnreadableVideo:
        start = position * self.batch_size
        spec = self.source.specs[STUDENT]
        try:
            clips = [
                self.source.clip(
                    eval_draw(i, self.source.index.records[i], spec, self.num_clips, self.num_crops)
                )
                for i in self.ids[start : start + self.batch_size]
            ]
        except UnreadableVideo as error:
            return error
        return batch_of(clips, [])


class _BatchSource(Protocol):
    def __getitem__(self, key: int, /) -> ClipBatch | UnreadableVideo: ...


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch, _ORDER_KEY]).permutation(count)


def _iterate(source: _BatchSource, keys: range, num_workers: int) -> Iterator[ClipBatch]:
    """Batches in the order of `keys`; dropping the iterator ends its worker processes."""
    import torch
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        source,  # type: ignore[arg-type]  # __getitem__ is all that a map-style data set needs
        batch_size=None,  # an item is a batch already
        sampler=keys,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # without one, the global generator moves on
    )
    iterator = iter(loader)
    try:
        for item in iterator:
            if isinstance(item, UnreadableVideo):
                raise item
            yield item
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that decodes videos died ({' '.join(str(error).split())}); give it "
            "more memory or fewer workers; if a file crashes the decoder, indexing again finds it"
        ) from None
    finally:
        del iterator


def _as_it_is(item: Any) -> Any:
    return item


def _start_worker(_worker_id: int) -> None:
    import signal

    import torch

    torch.set_num_threads(1)  # workers are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends us


def _check_ranks(batch_size: int, rank: int, world_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is outside [0, {world_size})")


def _check_videos(
    index: Index,
    ids: Sequence[int],
    specs: Iterable[InputSpec],
    reader: ReaderChoice,
    *,
    require_label: bool,
) -> None:
    """Faults of single rows that would otherwise show hours into a run."""
    samplings = [spec.sampling for spec in specs]
    for i in ids:
        record = index.records[i]
        if require_label and len(record.labels) != 1:
            # A cross entropy over several labels would be a loss that nobody asked for.
            fault = "has no label" if not record.labels else f"has {len(record.labels)} labels"
            raise UserError(f"{index.where(i)}: {record.path} {fault}; give it one")
        if not record.path.is_file():
            raise UserError(f"{index.where(i)}: no such file: {record.path}")
        try:
            chosen_reader(record, reader)
        except UserError as error:
            raise UserError(f"{index.where(i)}: {error}") from None
        for sampling in samplings:
            if fault := refuses(sampling, num_frames=record.num_frames, fps=record.fps):
                raise UserError(f"{index.where(i)}: {record.path}: {fault}")
