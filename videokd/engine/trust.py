"""Whether a teacher knows what it is about to teach: its accuracy on the first training clips.

A teacher with classes in another order, another normalisation or another data set teaches nonsense
without any error. So before the first step it is scored on what it is going to be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from videokd.data.loading import TrainLoader
from videokd.engine.teaching import Claim, OnlineTeacher
from videokd.errors import UserError
from videokd.types import ClipBatch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

NUM_CLIPS = 128
"""Clips that are looked at, over all processes and rounded up to whole batches; fewer where an
epoch has fewer."""
SIGNIFICANCE = 0.01
"""An accuracy that chance alone reaches with a greater probability cannot be told from it."""


@dataclass(frozen=True)
class Score:
    """How many training clips a teacher names rightly."""

    num_right: int
    num_clips: int
    """With a label, over all processes."""
    chance: float
    """Probability that a teacher that has learnt nothing is right: of a class drawn at random (1/K
    where each clip has one label), or always the most common one."""

    @property
    def right_pct(self) -> float:
        """Of the clips with a label."""
        return 100 * self.num_right / self.num_clips

    @property
    def can_tell(self) -> bool:
        """Whether a teacher that is always right could be told from chance by so few clips."""
        return self.chance**self.num_clips <= SIGNIFICANCE

    @property
    def is_chance(self) -> bool:
        """Whether chance reaches as much: one-sided exact binomial test."""
        from scipy.stats import binom

        p = binom.sf(self.num_right - 1, self.num_clips, self.chance)
        return bool(p > SIGNIFICANCE)

    def is_below(self, claim: Claim) -> bool:
        """Whether a teacher as good as it says would hardly do as badly: the same test."""
        from scipy.stats import binom

        p = binom.cdf(self.num_right, self.num_clips, claim.top1_pct / 100)
        return bool(p <= SIGNIFICANCE)


def check_teachers(
    fabric: Fabric,
    teachers: Mapping[str, OnlineTeacher],
    loader: TrainLoader,
    *,
    batch_size: int,
    num_parts: int = 1,
    insist: bool = False,
    say: Callable[[str], None],
) -> dict[str, Score]:
    """Score each teacher on the first training clips, say it, and refuse one that is at chance.

    Each sees its own rendering of the clips, with everything that training does to them but mixing;
    right is the label of the clip as it is shown. Nothing is drawn: the run that follows is the
    same, bit for bit, with and without it. All processes call it together.

    Args:
        fabric: processes that share the clips.
        teachers: name -> teacher; the only one is named ''.
        loader: of the training clips.
        batch_size: clips of a step, over all processes.
        num_parts: parts that a process's share of a step is computed in.
        insist: go on with a teacher at chance.
        say: is told each teacher's accuracy, and what is doubtful.

    Returns:
        Name -> its score; none where no clip has a label.

    Raises:
        UserError: a teacher that cannot be told from chance.
    """
    if not teachers:
        return {}
    num_steps = min(loader.steps_per_epoch, -(-NUM_CLIPS // batch_size))
    counts = torch.zeros(len(teachers) + 2, dtype=torch.float64)
    with closing(loader.batches(0, num_steps)) as batches:  # type: ignore[type-var]
        for batch in batches:
            counts += _counts(fabric, teachers, batch, num_parts)
    joined = fabric.all_reduce(counts.to(fabric.device, torch.float32), reduce_op="sum")
    *right, num_clips, num_labels = torch.as_tensor(joined).tolist()
    if not num_clips:
        say("teacher: not checked, because none of the first training clips has a label")
        return {}
    drawn = num_labels / num_clips / next(iter(teachers.values())).network.num_classes
    chance = max(drawn, loader.largest_class_share)
    scores = {
        name: Score(int(num_right), int(num_clips), chance)
        for name, num_right in zip(teachers, right, strict=True)
    }
    for name, score in scores.items():
        _judge(name, teachers[name], score, insist=insist, say=say)
    return scores


@torch.no_grad()
def _counts(
    fabric: Fabric, teachers: Mapping[str, OnlineTeacher], batch: ClipBatch, num_parts: int
) -> torch.Tensor:
    """float64: clips that each teacher is right about, clips with a label, and labels of these."""
    batch = replace(batch, draws=[replace(draw, mix=None) for draw in batch.draws])
    batch = batch.to(fabric.device, non_blocking=True)
    counts = torch.zeros(len(teachers) + 2, dtype=torch.float64)
    first = 0
    for part in batch.split(min(num_parts, batch.num_videos)):
        videos = range(first, first + part.num_videos)
        first = videos.stop
        has_label = part.has_label
        right = [
            _is_right(teacher.see(batch, part, videos).logits, part.targets) & has_label
            for teacher in teachers.values()
        ]
        labels = part.targets.sum(1) * has_label
        rows = torch.stack([*right, has_label, labels])
        counts += rows.sum(1).cpu().double()
    return counts


def _is_right(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """bool [B]: the class that is ranked first is one of the clip's."""
    return targets.gather(1, logits.argmax(1, keepdim=True))[:, 0] > 0


def _judge(
    name: str, teacher: OnlineTeacher, score: Score, *, insist: bool, say: Callable[[str], None]
) -> None:
    who, claim = f"teacher {name}".rstrip(), teacher.claim
    found = f"{who}: {score.right_pct:.1f} % of {score.num_clips} training clips"
    said = f" (its checkpoint: {claim.top1_pct:.1f} % on {claim.split})" if claim else ""
    if not score.can_tell:
        say(f"{found}{said}; too few clips with a label to tell it from chance")
        return
    if score.is_chance:
        text = (
            f"{found}{said} cannot be told from chance ({100 * score.chance:.1f} %): "
            f"{teacher.source} may have its classes in another order, be made for another "
            "normalisation or sampling, or be of another data set"
        )
        if not insist:
            raise UserError(f"{text}; mend that, or insist with --insist")
        say(f"{text}; going on, as insisted")
        return
    say(f"{found}{said}")
    if claim is not None and score.is_below(claim):
        say(
            f"{who}: clearly below what its checkpoint says; strong augmentation, another "
            "preparation of the videos or another view of them may be why"
        )
