"""Where a step's teacher output comes from: frozen networks, an average of the student, a cache.

A `Teaching` is what the training loop asks once for each accumulated part of a batch. It draws
nothing from the global random state, so a student's own chance is the same with and without it.

Letters: **B** videos of a part, **V** views a video, **T** frames, **S** crop side (px).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from videokd.data.augment.device import augmented_clips
from videokd.data.loading.clips import STUDENT, TEACHER
from videokd.distill.ensemble import Combination, combine_teachers
from videokd.distill.views import merge_views
from videokd.engine.optim import float_state, move_towards
from videokd.models.video_model import Frozen, VideoModel
from videokd.types import ClipBatch, ModelOutput

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Claim:
    """What a checkpoint says of its own accuracy."""

    top1_pct: float
    split: str
    """Where it was measured."""


class Teaching:
    """Where a step's teacher output comes from; subclasses say how."""

    def output(
        self,
        batch: ClipBatch,
        part: ClipBatch,
        *,
        videos: range,
        step: int,
        clips: torch.Tensor,
    ) -> ModelOutput:
        """What the teacher says of a part of the batch: one output a video, without a gradient.

        Called on every process, in the order of steps and parts, before the student's forward pass,
        at the steps at which a term compares with a teacher.

        Args:
            batch: this process's whole share of the step, on the device, with its draws. Its
                targets are those of the mixed clips.
            part: videos [videos.start, videos.stop) of it.
            videos: where the part lies in `batch`; partners of mixed clips may lie outside.
            step: global step, from 0.
            clips: the student's clips of the part as it sees them, float32 [B,3,T,S,S] in [0, 1].
        """
        raise NotImplementedError

    def keep_taps(self, names: Collection[str]) -> None:
        """Let go of all taps but these; called once, before the first output."""

    def after_step(self, step: int) -> None:
        """The student has just moved: the step's optimiser is done. Nothing by default."""

    def state_dict(self) -> dict[str, Any]:
        """What changes from step to step, for `last.pt`: plain data and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave; nothing by default."""

    @property
    def online(self) -> Mapping[str, OnlineTeacher]:
        """The frozen networks that are run on each batch, by name; the only one is named ''."""
        return {}


class OnlineTeacher(Teaching):
    """One frozen network, run on every batch on a rendering of its own.

    Args:
        fabric: the network is moved to its device and runs in its precision.
        network: the teacher.
        rendering: which frames of a batch it sees.
        source: its checkpoint, as messages name it.
        claim: its accuracy as its checkpoint tells it, where it does.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: Frozen,
        *,
        rendering: str = TEACHER,
        source: str = "the teacher",
        claim: Claim | None = None,
    ) -> None:
        self.fabric = fabric
        self.network = network.to(fabric.device)
        self.rendering = rendering
        self.source = source
        self.claim = claim

    def output(
        self,
        batch: ClipBatch,
        part: ClipBatch,
        *,
        videos: range,
        step: int,  # noqa: ARG002 - it is the same at every step
        clips: torch.Tensor,  # noqa: ARG002 - it sees frames of its own
    ) -> ModelOutput:
        """The network's output, its views of a video merged."""
        return self.see(batch, part, videos)

    def see(self, batch: ClipBatch, part: ClipBatch, videos: range) -> ModelOutput:
        """Likewise, for whoever has no student's clips."""
        num_views = part.frames[self.rendering].shape[1]
        with self.fabric.autocast():
            output: ModelOutput = self.network(
                augmented_clips(batch, self.rendering, videos=videos),
                part.frame_seconds[self.rendering].flatten(0, 1),
            )
        return merge_views(output, num_views)

    def keep_taps(self, names: Collection[str]) -> None:
        """The network's."""
        self.network.model.keep_taps(names)

    @property
    def online(self) -> Mapping[str, OnlineTeacher]:
        """This one."""
        return {"": self}


class CombinedTeaching(Teaching):
    """Several teachers of the same classes as one; see `combine_teachers`."""

    def __init__(
        self,
        teachers: Mapping[str, Teaching],
        *,
        how: Combination,
        weights: Mapping[str, float] | None,
    ) -> None:
        self.teachers = dict(teachers)
        self.how = how
        self.weights = weights

    def output(
        self,
        batch: ClipBatch,
        part: ClipBatch,
        *,
        videos: range,
        step: int,
        clips: torch.Tensor,
    ) -> ModelOutput:
        """The teachers' outputs, combined; their taps are named `TEACHER.TAP`."""
        outputs = {
            name: teacher.output(batch, part, videos=videos, step=step, clips=clips)
            for name, teacher in self.teachers.items()
        }
        return combine_teachers(
            outputs,
            how=self.how,
            weights=self.weights,
            targets=part.targets,
            has_label=part.has_label,
        )

    def keep_taps(self, names: Collection[str]) -> None:
        """Each teacher's own: those that begin with its name."""
        for name, teacher in self.teachers.items():
            start = f"{name}."
            teacher.keep_taps([tap.removeprefix(start) for tap in names if tap.startswith(start)])

    @property
    def online(self) -> Mapping[str, OnlineTeacher]:
        """Those that are run on each batch."""
        return {
            name: found
            for name, teacher in self.teachers.items()
            for found in teacher.online.values()
        }


class EmaTeacher(Teaching):
    """The student's own weights, averaged over its steps, on the student's own clips.

    Mean Teacher (Tarvainen & Valpola, NeurIPS 2017). Before the first step the average is the
    student's first weights; after step s it moves by 1 - min(decay, (1 + s) / (10 + s)).

    Batch norm: the running statistics are averaged as the weights are, and the teacher is in eval
    mode with them, without dropout: it is the network that `train.ema_decay` keeps and validates.
    The authors' code has the teacher in training mode, with statistics of each batch.

    Args:
        fabric: processes that average one network.
        student: the network that is trained, with its first weights and all of its taps.
        decay: of the average, in (0, 1).
    """

    def __init__(self, fabric: Fabric, student: VideoModel, *, decay: float) -> None:
        average = copy.deepcopy(student)
        self.fabric = fabric
        self.student = student
        self.decay = decay
        self.network = Frozen(average).to(fabric.device)
        # The very tensors of the network: moving them moves it.
        self._state = dict(float_state(average))

    def output(
        self,
        batch: ClipBatch,  # noqa: ARG002 - the clips are given
        part: ClipBatch,
        *,
        videos: range,  # noqa: ARG002 - likewise
        step: int,  # noqa: ARG002 - the average knows what it is of
        clips: torch.Tensor,
    ) -> ModelOutput:
        """What the average says of the student's clips."""
        with self.fabric.autocast():
            output: ModelOutput = self.network(clips, part.frame_seconds[STUDENT].flatten(0, 1))
        return output

    def keep_taps(self, names: Collection[str]) -> None:
        """The average's; the student has its own."""
        self.network.model.keep_taps(names)

    def after_step(self, step: int) -> None:
        """Move the average towards the student's present weights."""
        move_towards(self._state, self.student, decay=self.decay, step=step)
        if self.fabric.world_size > 1:
            self._share_statistics()

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and statistics."""
        return dict(self._state)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        for name, value in self._state.items():
            value.copy_(state[name])

    def _share_statistics(self) -> None:
        """All processes teach the same: each has batch norm statistics of its own share.

        Those of the first process count, as in a checkpoint. Weights are equal already.
        """
        buffers = [
            self._state[name]
            for name, _ in self.network.model.named_buffers()
            if name in self._state
        ]
        if not buffers:
            return
        joined = torch.cat([buffer.flatten() for buffer in buffers])
        torch.distributed.broadcast(joined, src=0)
        parts = joined.split([buffer.numel() for buffer in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))
