"""What a training step differentiates: a student with its objective, alone or with a peer.

Letters: **N** clips of a part of a batch, **T** frames, **S** crop side (px).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from videokd.data.loading.clips import STUDENT
from videokd.distill.objective import Gather, LossBreakdown, Objective
from videokd.models.video_model import VideoModel
from videokd.types import ClipBatch, ModelOutput


class Learner(nn.Module):
    """Student and objective as one module, so that projections train, sync and resume with it."""

    def __init__(self, student: VideoModel, objective: Objective) -> None:
        super().__init__()
        self.student = student
        self.objective = objective

    def forward(
        self,
        clips: torch.Tensor,
        batch: ClipBatch,
        teacher: ModelOutput | None,
        progress: float,
        gather: Gather | None,
        label_factor: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What to backpropagate, and the scalars to log: `loss` and its weighted terms.

        Args:
            clips: the student's, float32 [N,3,T,S,S] in [0, 1].
            batch: the videos of these clips.
            teacher: what they are compared with, where a term does.
            progress: share of the training that is done.
            gather: joins rows of all processes; None where this is the only one.
            label_factor: of a part of a step, see `Objective.forward`.
        """
        output = self.see(clips, batch)
        loss = self.objective(
            output, teacher, batch, progress=progress, gather=gather, label_factor=label_factor
        )
        return loss.total, _scalars(loss)

    def see(self, clips: torch.Tensor, batch: ClipBatch) -> ModelOutput:
        """The student's output."""
        output: ModelOutput = self.student(clips, batch.frame_seconds[STUDENT].flatten(0, 1))
        return output


class Peers(nn.Module):
    """Two learners that are each other's teacher (deep mutual learning, Zhang et al., CVPR 2018).

    Both see the same clips, and each is compared with what the other says before the step: the
    objective lets no gradient through to the teacher, so the gradient of the sum is each one's own.
    The peer takes its chance (dropout) from a generator that is split off the student's, which
    goes on as if there were no peer.
    """

    def __init__(self, learner: Learner, peer: Learner) -> None:
        super().__init__()
        self.learner = learner
        self.peer = peer

    def forward(
        self,
        clips: torch.Tensor,
        batch: ClipBatch,
        teacher: ModelOutput | None,  # noqa: ARG002 - they have each other
        progress: float,
        gather: Gather | None,
        label_factor: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """As `Learner.forward`, of the sum; `peer_loss` beside the student's own scalars."""
        mine = self.learner.see(clips, batch)
        with _chance_of_its_own(clips.device):
            theirs = self.peer.see(clips, batch)
        loss, other = (
            one.objective(
                own, others, batch, progress=progress, gather=gather, label_factor=label_factor
            )
            for one, own, others in ((self.learner, mine, theirs), (self.peer, theirs, mine))
        )
        return loss.total + other.total, {**_scalars(loss), "peer_loss": other.total.detach()}


def _scalars(loss: LossBreakdown) -> dict[str, torch.Tensor]:
    return {"loss": loss.total.detach(), **loss.terms}


@contextmanager
def _chance_of_its_own(device: torch.device) -> Iterator[None]:
    """Within the block the global generators draw other numbers, but as repeatably; afterwards
    they are where they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(torch.randint(2**62, ())))
        yield
