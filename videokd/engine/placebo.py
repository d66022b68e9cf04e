"""Teachers that know less than they seem to: what is gained from one was not learned from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch

from videokd.engine.teaching import OnlineTeacher, Teaching
from videokd.types import ClipBatch, ModelOutput

_NOBODY = -1


class ShuffledWithinClass(Teaching):
    """Each clip is given what the teacher said of another video of its class: of the one before it.

    What remains is what a teacher knows of classes (which are alike, how sure to be of each); what
    it knows of this very video is gone. Videos of one class come from training in random order, so
    the one before is a random one; with `data.repeats`, the clips of a video stand beside each
    other and are passed over. The clips of the first video of each class, of the whole training,
    have nobody before them and keep their own. Taps and pooled features are left as they are.

    A clip without a label is of the class that the teacher puts it in.

    Args:
        teaching: the true teacher.
        num_classes: K.
        device: where its outputs are.
    """

    def __init__(self, teaching: Teaching, *, num_classes: int, device: torch.device) -> None:
        self.teaching = teaching
        self.logits = torch.zeros(2, num_classes, num_classes, device=device)
        """float32 [2, K, K], by class: what was last said of one of its clips, and what was last
        said before that of a clip of another video."""
        self.video_ids = torch.full((2, num_classes), _NOBODY)
        """int64 [2, K]: of which videos."""

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
        videos_of_rows = part.video_ids.tolist()
        for row, (index, video_id) in enumerate(zip(classes.tolist(), videos_of_rows, strict=True)):
            if self.video_ids[0, index] != video_id:
                self.video_ids[1, index] = self.video_ids[0, index]
                self.logits[1, index] = self.logits[0, index]
            if self.video_ids[1, index] != _NOBODY:
                given[row] = self.logits[1, index]
            self.video_ids[0, index] = video_id
            self.logits[0, index] = own[row]
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
            "video_ids": self.video_ids,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        self.teaching.load_state_dict(state["teaching"])
        self.logits = state["logits"].to(self.logits.device)
        self.video_ids = state["video_ids"]

    @property
    def online(self) -> Mapping[str, OnlineTeacher]:
        """The true teacher's."""
        return self.teaching.online
