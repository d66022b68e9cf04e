"""What makes batches: a step or a position -> draws -> clips of one video after another.

Letters: B videos in a batch, V views a video, T frames. Sources are pure functions of their keys
and go to the worker processes as they are. torch is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from videokd.data.augment import (
    AugmentConfig,
    draw_crop,
    flip_targets,
    with_appearance,
    with_partners,
)
from videokd.data.index import Index
from videokd.data.loading.clips import (
    STUDENT,
    Clip,
    ReaderChoice,
    Rows,
    eval_draw,
    replay_all,
)
from videokd.data.loading.kept_frames import KeptFrames
from videokd.data.loading.supervised import Place
from videokd.data.sampling import TeacherView, frame_ids, teacher_frame_ids
from videokd.data.sampling.protocols import EvalProtocol
from videokd.errors import UnreadableVideo
from videokd.types import ClipBatch, Draw, InputSpec, VideoRecord

# Not a video id: the generator of the order must not be one that draws a clip.
_ORDER_KEY = 0xFFFF_FFFF


class TeacherInput(NamedTuple):
    """What a teacher wants to see, and of which moment of the student's video."""

    spec: InputSpec
    view: TeacherView


class CachedEpochs(NamedTuple):
    """What teachers said is on disk: their frames are drawn as ever, but not decoded."""

    num_epochs: int
    """Epoch e is drawn as epoch e % num_epochs."""
    unreadable: Mapping[int, Mapping[int, str]]
    """Drawn epoch -> videos that did not decode in it when the teachers saw them, and why. They are
    left out of it again, so that the others are mixed as they were."""


@dataclass(frozen=True)
class ClipSource:
    """Draws -> rendered clips, the same in training and evaluation. It goes to the workers."""

    index: Index
    specs: Mapping[str, InputSpec]
    reader: ReaderChoice
    hidden: frozenset[int] = frozenset()
    """Videos whose labels are not shown."""
    rendered: frozenset[str] | None = None
    """Renderings that are made; None: all that are drawn."""
    kept: KeptFrames | None = None
    """Memory of this process for decoded videos; after a fork each process has its own."""

    def clips(
        self,
        record: VideoRecord,
        draws: Sequence[Draw],
        place: Place,
        swaps: Sequence[tuple[int, int]] = (),
    ) -> list[Clip]:
        """Clips of one video, decoded together."""
        with place.decoding(draws[0].video_id):
            rendered = replay_all(record, draws, self._made, reader=self.reader, kept=self.kept)
        labels = () if draws[0].video_id in self.hidden else record.labels
        target = np.zeros(len(self.index.classes), dtype=np.float32)
        target[list(labels)] = 1
        mirrored = flip_targets(target, swaps)
        return [
            Clip(draw, frames, seconds, mirrored if draw.flip else target, bool(labels))
            for draw, (frames, seconds) in zip(draws, rendered, strict=True)
        ]

    def num_bytes(self, draw: Draw) -> int:
        """What the frames of such a clip take."""
        return sum(draw.frame_ids[n].size * s.crop_px**2 * 3 for n, s in self._made.items())

    @property
    def _made(self) -> Mapping[str, InputSpec]:
        wanted = self.specs if self.rendered is None else self.rendered
        return {name: spec for name, spec in self.specs.items() if name in wanted}


@dataclass(frozen=True)
class TrainSource:
    """Global step -> this rank's batch, a pure function."""

    source: ClipSource
    ids: NDArray[np.int64]
    augment: AugmentConfig
    swaps: tuple[tuple[int, int], ...]
    views: Mapping[str, TeacherView]
    """Rendering of a teacher -> the moment that it sees."""
    seed: int
    batch_size: int
    repeats: int
    rank: int
    world_size: int
    quarantine: dict[int, str] = field(default_factory=dict)
    cached: CachedEpochs | None = None

    @property
    def num_bytes(self) -> int:
        """What the frames of a batch take."""
        video_id = int(self.ids[0])
        draw = self.draw(0, video_id, self.source.index.records[video_id])
        return self.batch_size * self.source.num_bytes(draw)

    def load(self, step: int, place: Place) -> ClipBatch:
        """This rank's batch of a step.

        Raises:
            UnreadableVideo: none of it decodes.
        """
        epoch, video_ids = self.videos(step)
        rows = Rows(self.batch_size, place.empty)
        faults: list[tuple[int, str]] = []
        left_out = self._left_out(epoch)
        for video_id in video_ids:
            if video_id in left_out:
                faults.append((video_id, left_out[video_id]))
                continue
            record = self.source.index.records[video_id]
            draws = [self.draw(epoch, video_id, record, repeat) for repeat in range(self.repeats)]
            try:
                clips = self.source.clips(record, draws, place, self.swaps)
            except UnreadableVideo as error:
                faults.append((video_id, f"{error.path}: {error.reason}"))
            else:
                for clip in clips:
                    rows.add(clip)
        if not rows:
            path = self.source.index.records[faults[0][0]].path
            raise UnreadableVideo(path, faults[0][1].removeprefix(f"{path}: "))
        batch = rows.batch(faults)
        batch.draws = self._paired(batch.draws, video_ids)
        return batch

    def _paired(self, draws: list[Draw], video_ids: list[int]) -> list[Draw]:
        """The draws with what each takes over from its partner in the batch, if mixing is on."""
        crop_px = self.source.specs[STUDENT].crop_px
        return with_partners(draws, video_ids, self.augment.mix, crop_px=crop_px)

    def videos(self, step: int) -> tuple[int, list[int]]:
        """The epoch that a step is drawn as, and its videos of this rank."""
        videos_per_step = self.batch_size * self.world_size // self.repeats
        epoch, position = divmod(step, len(self.ids) // videos_per_step)
        if self.cached is not None:
            epoch %= self.cached.num_epochs
        order = _epoch_order(self.seed, epoch, len(self.ids))
        chosen = order[position * videos_per_step : (position + 1) * videos_per_step]
        return epoch, self.ids[chosen[self.rank :: self.world_size]].tolist()

    def _left_out(self, epoch: int) -> Mapping[int, str]:
        """Videos that are not opened, and why."""
        before = self.cached.unreadable.get(epoch, {}) if self.cached is not None else {}
        return {**before, **self.quarantine}

    @property
    def left_out_by_teachers(self) -> frozenset[int]:
        """Videos that teachers on disk did not see in some epoch."""
        of_each = self.cached.unreadable.values() if self.cached is not None else ()
        return frozenset(video_id for reasons in of_each for video_id in reasons)

    def lose(self, video_id: int, reason: str) -> None:
        """Leave a video out from now on."""
        self.quarantine[video_id] = f"{self.source.index.records[video_id].path}: {reason}"

    def draw(self, epoch: int, video_id: int, record: VideoRecord, repeat: int = 0) -> Draw:
        """Everything that chance decides for one clip of a video in one epoch."""
        entropy = (self.seed, epoch, video_id, repeat)
        generator = np.random.default_rng(entropy)
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
        return with_appearance(Draw(video_id, entropy, ids, (crop,), flip), self.augment)

    def _frame_ids(
        self, record: VideoRecord, generator: np.random.Generator
    ) -> dict[str, NDArray[np.int64]]:
        specs = self.source.specs
        student = specs[STUDENT].sampling
        n, fps = record.num_frames, record.fps
        # The student's first: it does not depend on who teaches.
        ids = frame_ids(student, num_frames=n, fps=fps, start="random", generator=generator)
        seen = {
            name: teacher_frame_ids(ids, student, specs[name].sampling, view, num_frames=n, fps=fps)
            for name, view in self.views.items()
        }
        return {STUDENT: ids, **seen}


@dataclass(frozen=True)
class EvalSource:
    """Position -> batch of all views of the next videos."""

    source: ClipSource
    ids: tuple[int, ...]
    views: EvalProtocol
    batch_size: int

    @property
    def quarantine(self) -> Mapping[int, str]:
        """Nothing is left out of an evaluation."""
        return {}

    @property
    def num_bytes(self) -> int:
        """What the frames of a batch take."""
        record = self.source.index.records[self.ids[0]]
        return self.batch_size * self.source.num_bytes(self.draw(self.ids[0], record))

    def load(self, position: int, place: Place) -> ClipBatch:
        """All views of the videos of a batch.

        Raises:
            UnreadableVideo: one of them does not decode.
        """
        start = position * self.batch_size
        mine = self.ids[start : start + self.batch_size]
        rows = Rows(len(mine), place.empty)
        for video_id in mine:
            record = self.source.index.records[video_id]
            (clip,) = self.source.clips(record, [self.draw(video_id, record)], place)
            rows.add(clip)
        return rows.batch([])

    def draw(self, video_id: int, record: VideoRecord) -> Draw:
        """The views of a video."""
        return eval_draw(video_id, record, self.source.specs[STUDENT], self.views)

    def lose(self, video_id: int, reason: str) -> None:
        """Stop."""
        raise UnreadableVideo(self.source.index.records[video_id].path, reason)


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch, _ORDER_KEY]).permutation(count)
