"""Teachers that know less than they seem to: what is gained from one was not learned from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch

from videokd.engine.teaching import OnlineTeacher, Teaching
from videokd.types import ClipBatch, ModelOutput


class ShuffledWithinClass(Teaching):
    """Each clip is given what the teacher said of another clip of its class: of the one before it.

    What remains is what a teacher knows of classes (which are alike, how sure to be of each); what
    it knows of this very clip is gone. Clips of one class come from training in random order, so
    the one before is a random one. The first clip of each class, of the whole training, has nobody
    before it and keeps its own. Taps and pooled features are left as they are.

    A clip without a label is of the class that the teacher puts it in.

    Args:
        teaching: the true teacher.
        num_classes: K.
        device: where its outputs are.
    """

    def __init__(self, teaching: Teaching, *, num_classes: int, device: torch.device) -> None:
        self.teaching = teaching
        self.logits = torch.zeros(num_classes, num_classes, device=device)
        """float32 [K, K], by class: what was last said of one of its clips."""
        self.is_known = torch.zeros(num_classes, dtype=torch.bool)

    def output(
        self,
        batch: ClipBatch,
        part: ClipBatch,
        *,
        videos: range,
        step: int,
        clips: torch.Tensor,
    ) -> ModelOutput:
        """The teacher's output, with the logits of the clips before."""
        output = self.teaching.output(batch, part, videos=videos, step=step, clips=clips)
        own = output.logits.float()
        classes = torch.where(part.has_label, part.targets.argmax(1), own.argmax(1))
        given = own.clone()
        for row, index in enumerate(classes.tolist()):
            if self.is_known[index]:
                given[row] = self.logits[index]
            self.logits[index] = own[row]
            self.is_known[index] = True
        return replace(output, logits=given)

    def keep_taps(self, names: Collection[str]) -> None:
        """The true teacher's."""
        self.teaching.keep_taps(names)

    def after_step(self, step: int) -> None:
        """Nothing of its own."""
        self.teaching.after_step(step)

    def state_dict(self) -> dict[str, Any]:
        """What was said last, so that an interrupted run goes on with it."""
        return {
            "teaching": self.teaching.state_dict(),
            "logits": self.logits.cpu(),
            "is_known": self.is_known,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        self.teaching.load_state_dict(state["teaching"])
        self.logits = state["logits"].to(self.logits.device)
        self.is_known = state["is_known"]

    @property
    def online(self) -> Mapping[str, OnlineTeacher]:
        """The true teacher's."""
        return self.teaching.online
