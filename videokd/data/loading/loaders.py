"""From rows of the index to `ClipBatch`es: settings, and the loaders of training and evaluation.

Letters: B videos in a batch, V views a video, T frames, S crop side (px), K classes. The rendering
for the student is named `student`, a teacher's `teacher`, or `teacher.NAME` where there are
several. What chance decides depends on (seed, epoch, video id, repeat) and the order of videos on
(seed, epoch), so a batch is the same whatever the number of workers or ranks, and resuming is
starting at a later step.

Rows of a global batch: the `repeats` clips of a video stand beside each other, and process r of R
takes the videos r, r + R, ... of the batch.

torch is imported inside functions: settings and errors are there without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from videokd.config import LEAVES_WEIGHTS, Config
from videokd.data.augment import AugmentConfig, check_mixing, swap_indices
from videokd.data.index import Index
from videokd.data.loading.clips import (
    STUDENT,
    TEACHER,
    ReaderChoice,
    clip_tensor,
    read_clips,
    replay,
)
from videokd.data.loading.kept_frames import KeptFrames
from videokd.data.loading.row_checks import check_videos
from videokd.data.loading.sources import (
    CachedEpochs,
    ClipSource,
    EvalSource,
    TeacherInput,
    TrainSource,
)
from videokd.data.loading.supervised import supervised
from videokd.data.sampling import check_view
from videokd.data.sampling.protocols import EvalProtocol
from videokd.errors import ConfigError, UserError
from videokd.types import ClipBatch, InputSpec

__all__ = [
    "CachedEpochs",
    "DataConfig",
    "EvalLoader",
    "TeacherInput",
    "TrainLoader",
    "clip_tensor",
    "read_clips",
    "replay",
]


class DataConfig(Config):
    """Which videos, and how they are loaded. Paths are relative to the current directory."""

    index: Path
    """The index CSV, made by `videokd data index`."""
    train_split: str = "train"
    """Value of the index's split column for the videos to train on."""
    unlabelled_split: str | None = None
    """Videos that are shown in training beside those of `train_split`, as often as they; labels
    that they have are hidden, so that only distillation terms count. A labelled clip that is mixed
    with one of them has no label either."""
    val_split: str | None = "val"
    """The split that chooses among checkpoints and settings; null: the last weights are kept."""
    test_split: str = "test"
    """The split that is only reported."""
    augment: AugmentConfig = AugmentConfig()
    """What chance does to training clips."""
    repeats: int = Field(default=1, ge=1)
    """Clips of each video in a batch, each with its own draw, decoded with one opening of the file
    (repeated augmentation). An epoch passes every video once and shows it so many times."""
    num_workers: Annotated[int, LEAVES_WEIGHTS] = Field(default=2, ge=0)
    """Processes that decode and render; 0: in the training process, where a decoder that hangs or
    crashes takes the run with it."""
    keep_decoded_gib: Annotated[float, LEAVES_WEIGHTS] = Field(default=0.0, ge=0)
    """Memory for decoded training videos: what fits is decoded once, the rest in every epoch. Each
    worker keeps its own in its share of it, so `num_workers: 0` keeps the most."""
    decode_time_limit_seconds: Annotated[float, LEAVES_WEIGHTS] = Field(default=60.0, gt=0)
    """A worker that is at one video for longer is cut off. In training the video counts as
    unreadable and is not opened again; evaluation stops there."""
    max_unreadable_pct: Annotated[float, LEAVES_WEIGHTS] = Field(default=1.0, ge=0, le=100)
    """Training stops when more than this share of the videos asked for does not decode."""
    reader: ReaderChoice = "auto"
    """Reader of all files; auto: the one that the index says is exact for the file. decord is
    refused where it is not exact."""

    @model_validator(mode="after")
    def _unlabelled_videos_are_others(self) -> DataConfig:
        split = self.unlabelled_split
        for name in ("train_split", "val_split", "test_split"):
            if split is not None and split == getattr(self, name):
                raise ValueError(
                    f"unlabelled_split and {name} are both {split!r}; the unlabelled videos are a "
                    "split of their own"
                )
        return self


class TrainLoader:
    """Batches of randomly drawn clips of a split, by global step.

    Step s belongs to epoch s // steps_per_epoch. In each epoch every video of the split comes at
    most once, in an order of its own; the last videos, too few for a global batch, are left out of
    that epoch. With `repeats` above 1, B clips are B / repeats videos: an epoch still passes every
    video once, in so many times more steps (Hoffer et al., CVPR 2020, who keep the number of videos
    a batch instead, as PySlowFast's `AUG.NUM_SAMPLE` does, and let the batch grow).
    """

    def __init__(
        self,
        index: Index,
        config: DataConfig,
        *,
        student: InputSpec,
        teachers: Mapping[str, TeacherInput] | None = None,
        cached: CachedEpochs | None = None,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        require_label: bool = True,
        several_labels: bool = False,
    ) -> None:
        """Check everything that can be known before the first batch.

        Args:
            index: the videos.
            config: split, augmentation, workers, reader.
            student: what the student wants to see; it also sizes square crops.
            teachers: rendering -> what that teacher wants to see, and of which moment.
            cached: teachers whose outputs are on disk: frames are drawn for them and not loaded.
            batch_size: B of each process, in clips; the global batch is batch_size * world_size.
            seed: of the order of videos and of all draws, at least 0.
            rank: this process among the `world_size` that train together.
            world_size: processes that train together.
            require_label: refuse videos of `train_split` without a label.
            several_labels: let videos have more than one.

        Raises:
            UserError: no such split, one that shares videos with the unlabelled one, fewer videos
                than a global batch, a video with another number of labels than is allowed, a
                missing file, one that is too short where that is refused, `swaps` with an unknown
                class.
            ConfigError: samplings that a teacher's view cannot bring together; a batch size that
                `repeats` does not divide; mixing in a batch of an odd number of videos.
        """
        _check_ranks(batch_size, rank, world_size)
        if batch_size % config.repeats:
            raise ConfigError(
                f"data.repeats {config.repeats} does not divide the {batch_size} clips of a batch; "
                f"choose a batch size of a multiple of {config.repeats} for each process"
            )
        check_mixing(config.augment.mix, num_videos=batch_size // config.repeats)
        if seed < 0:
            raise ConfigError(f"seed is {seed}; it must be at least 0")
        teachers = teachers or {}
        for name, teacher in teachers.items():
            _check_teacher(name, student, teacher)
        ids = index.select(config.train_split)
        specs = {STUDENT: student, **{name: teacher.spec for name, teacher in teachers.items()}}
        check_videos(
            index,
            ids,
            specs.values(),
            config.reader,
            require_label=require_label,
            several_labels=several_labels,
        )
        self.num_unlabelled = int((index.num_labels[ids] == 0).sum())
        """Videos of `train_split` without a label."""
        num_labelled = max(1, len(ids) - self.num_unlabelled)
        self.largest_class_share = float(index.class_counts(ids).max() / num_labelled)
        """Of the labelled videos of `train_split`, those of the most common class, in [0, 1]."""
        hidden = _hidden(index, config, ids, specs)
        self.num_hidden = len(hidden)
        """Videos of `unlabelled_split`."""
        ids = [*ids, *hidden]
        videos_per_step = batch_size * world_size // config.repeats
        if len(ids) < videos_per_step:
            raise UserError(
                f"{index.path}: split {config.train_split!r} has {len(ids)} videos, fewer than one "
                f"batch of {videos_per_step}; take a smaller batch size"
            )
        self.steps_per_epoch = len(ids) // videos_per_step
        """Batches an epoch, the same on every rank."""
        self.num_videos = len(ids)
        """Videos of an epoch, labelled or not."""
        self._config = config
        self._source = TrainSource(
            source=ClipSource(
                index,
                specs,
                config.reader,
                hidden=frozenset(hidden),
                rendered=None if cached is None else frozenset({STUDENT}),
                kept=_memory(config),
            ),
            ids=np.array(ids, dtype=np.int64),
            augment=config.augment,
            swaps=swap_indices(config.augment.flip.swaps, index.classes),
            views={name: teacher.view for name, teacher in teachers.items()},
            seed=seed,
            batch_size=batch_size,
            repeats=config.repeats,
            rank=rank,
            world_size=world_size,
            cached=cached,
        )

    def quarantine(self, videos: Mapping[int, str]) -> None:
        """Never open these again (video id -> why): every batch names them as unreadable.

        A video at which a worker hung or crashed is put here by the loader itself. A run that goes
        on hands over what it found out before. With teachers on disk, videos that they did not see
        in some epochs stay out of these alone: in the others, clips are mixed with them.
        """
        left_out = self._source.left_out_by_teachers
        new = {video_id: why for video_id, why in videos.items() if video_id not in left_out}
        self._source.quarantine.update(new)

    def batches(self, start_step: int, stop_step: int) -> Iterator[ClipBatch]:
        """Batches of the global steps [start_step, stop_step).

        Videos that do not decode are named in `ClipBatch.unreadable`, and their batch is smaller.
        So are those at which a worker hangs or crashes: it is replaced, and the batch made again.

        Raises:
            UnreadableVideo: none of a batch decodes; it is the first of them.
            UserError: a worker process was killed twice at the same batch.
        """
        if not 0 <= start_step <= stop_step:
            raise ValueError(f"steps [{start_step}, {stop_step}) are no range from 0")
        return supervised(
            self._source,
            range(start_step, stop_step),
            num_workers=self._config.num_workers,
            time_limit_seconds=self._config.decode_time_limit_seconds,
        )


class EvalLoader:
    """All views of every video of a split, nothing random; rank r takes videos r, r + ranks, ...

    Views are ordered by clip, then by crop: V = clips * crops. Every video comes exactly once over
    all ranks.
    """

    def __init__(
        self,
        index: Index,
        config: DataConfig,
        *,
        spec: InputSpec,
        split: str,
        views: EvalProtocol,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        require_label: bool = True,
        several_labels: bool = False,
    ) -> None:
        """Check everything that can be known before the first batch.

        Raises:
            UserError: no such split, a video with another number of labels than is allowed, a
                missing file, one that is too short where that is refused.
            ConfigError: the views are not for this sampling.
        """
        _check_ranks(batch_size, rank, world_size)
        views.check(spec.sampling)
        ids = index.select(split)
        check_videos(
            index,
            ids,
            [spec],
            config.reader,
            require_label=require_label,
            several_labels=several_labels,
        )
        self.num_videos = len(ids)
        """Videos of the split, over all ranks."""
        self._config = config
        self._source = EvalSource(
            source=ClipSource(index, {STUDENT: spec}, config.reader),
            ids=tuple(ids[rank::world_size]),
            views=views,
            batch_size=batch_size,
        )

    def __len__(self) -> int:
        """Batches of this rank."""
        return -(-len(self._source.ids) // self._source.batch_size)

    def __iter__(self) -> Iterator[ClipBatch]:
        """All batches, see `batches`."""
        return self.batches(0, len(self))

    def batches(self, start: int, stop: int) -> Iterator[ClipBatch]:
        """Batches [start, stop) in the order of the index.

        Raises:
            UnreadableVideo: a video does not decode, hangs or crashes a worker; evaluation does
                not go on without it.
            UserError: a worker process was killed twice at the same batch.
        """
        return supervised(
            self._source,
            range(start, stop),
            num_workers=self._config.num_workers,
            time_limit_seconds=self._config.decode_time_limit_seconds,
        )


def _memory(config: DataConfig) -> KeptFrames | None:
    share_bytes = int(config.keep_decoded_gib * 2**30 / max(1, config.num_workers))
    return KeptFrames(share_bytes) if share_bytes else None


def _check_ranks(batch_size: int, rank: int, world_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is outside [0, {world_size})")


def _check_teacher(name: str, student: InputSpec, teacher: TeacherInput) -> None:
    try:
        check_view(student.sampling, teacher.spec.sampling, teacher.view)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}" if name != TEACHER else str(error)) from None


def _hidden(
    index: Index, config: DataConfig, ids: list[int], specs: Mapping[str, InputSpec]
) -> list[int]:
    """The videos of the unlabelled split; a row may be in several splits, but not in both."""
    split = config.unlabelled_split
    if split is None:
        return []
    hidden = index.select(split)
    if both := sorted(set(ids) & set(hidden)):
        raise UserError(
            f"{index.where(both[0])}: {index.records[both[0]].path} is in split "
            f"{config.train_split!r} and in the unlabelled split {split!r}; it cannot have its "
            "label and have it hidden"
        )
    check_videos(
        index, hidden, specs.values(), config.reader, require_label=False, several_labels=True
    )
    return hidden
