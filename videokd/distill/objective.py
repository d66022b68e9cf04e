"""The objective: named, weighted terms, summed. It sees outputs, never a network.

`terms.py` has all kinds and their settings, and an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from videokd.config import did_you_mean
from videokd.distill.features import attention_transfer, hint
from videokd.distill.logits import cross_entropy, hard_targets, soft_targets
from videokd.distill.projections import ChannelProjection, projection_generator
from videokd.distill.temporal import attention_weights, temporal_attention
from videokd.distill.terms import (
    AttentionTransferTerm,
    CrossEntropyTerm,
    HardTargetsTerm,
    HintTerm,
    ObjectiveConfig,
    SoftTargetsTerm,
    TapPair,
    TemporalAttentionTerm,
    Term,
)
from videokd.distill.views import merge_views
from videokd.errors import ConfigError
from videokd.types import ClipBatch, ModelOutput, TapOutput, TapShape

__all__ = [
    "AttentionTransferTerm",
    "CrossEntropyTerm",
    "HardTargetsTerm",
    "HintTerm",
    "LossBreakdown",
    "Objective",
    "ObjectiveConfig",
    "SoftTargetsTerm",
    "TapPair",
    "TemporalAttentionTerm",
    "Term",
    "merge_views",
]

Gather = Callable[[torch.Tensor], torch.Tensor]
"""Concatenates a tensor over the processes along dim 0; the same result on each."""


@dataclass(slots=True)
class LossBreakdown:
    """What one batch costs, and why."""

    total: torch.Tensor
    """float32 scalar; the tensor to backpropagate."""
    terms: dict[str, torch.Tensor]
    """Name -> detached weighted float32 scalar; they sum to `total`."""


class _Share(NamedTuple):
    """Which local clips count for a term, and what each of them weighs in its mean."""

    counts: torch.Tensor
    """bool [N]."""
    factor: torch.Tensor
    """Scalar: processes / clips that count in all of them."""


class Objective(nn.Module):
    """The weighted sum of a recipe's terms, with the projections that they learn.

    A term's value is the mean over the clips that count for it in **all** processes: each process
    sums its own, times `processes / global count`. DDP's mean of the gradients is then exactly the
    gradient of one process with the whole batch, however unevenly labels are spread.

    Args:
        config: the terms.
        student_taps: name -> shape of each tap that the student has.
        teacher_taps: the same for the teacher, after `merge_views`; None without a teacher.
        seed: of the projections' initial weights. The global random state is not touched.

    Raises:
        ConfigError: for a tap that does not exist, a teacher that is needed and missing, a
            temporal term on a tap of a single step.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        *,
        student_taps: Mapping[str, TapShape],
        teacher_taps: Mapping[str, TapShape] | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.projections = nn.ModuleDict()
        for name, term in config.active_terms.items():
            _check_term(name, term, student_taps, teacher_taps)
            if isinstance(term, HintTerm) and teacher_taps is not None:
                self.projections[_projection_key(name)] = ChannelProjection(
                    student_taps[term.student_tap].channels,
                    teacher_taps[term.teacher_tap].channels,
                    generator=projection_generator(seed, name),
                    norm=term.norm,
                )

    def forward(
        self,
        student: ModelOutput,
        teacher: ModelOutput | None,
        batch: ClipBatch,
        *,
        progress: float,
        gather: Gather | None = None,
    ) -> LossBreakdown:
        """The loss of one batch; everything is computed in float32, under autocast too.

        Args:
            student: N = B clips.
            teacher: the same N clips, one output a video (`merge_views`); no gradient reaches it.
                None where no term needs it.
            batch: its `targets` and `has_label` are read.
            progress: share of the training that is done, in [0, 1].
            gather: joins a tensor over processes along dim 0; None for a single process.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be in [0, 1], not {progress}")
        _check_outputs(student, teacher, batch, needs_teacher=self.config.needs_teacher)
        with torch.autocast(student.logits.device.type, enabled=False):
            labelled, everyone = _shares(batch.has_label, gather)
            weighted: dict[str, torch.Tensor] = {}
            for name, term in self.config.active_terms.items():
                share = labelled if isinstance(term, CrossEntropyTerm) else everyone
                losses = self._losses(name, term, student, teacher, batch)
                kept = torch.where(share.counts, losses, 0)
                weighted[name] = term.weight * (kept.sum() * share.factor)
        off = torch.zeros((), device=student.logits.device)
        total = sum(weighted.values(), start=off)
        terms = {name: weighted.get(name, off).detach() for name in self.config.terms}
        return LossBreakdown(total=total, terms=terms)

    def _losses(
        self,
        name: str,
        term: Term,
        student: ModelOutput,
        teacher: ModelOutput | None,
        batch: ClipBatch,
    ) -> torch.Tensor:
        """[N], unweighted."""
        logits = student.logits.float()
        if isinstance(term, CrossEntropyTerm):
            # Masked before the loss: a 0 behind it would not stop a NaN in the gradient.
            targets = torch.where(batch.has_label[:, None], batch.targets.float(), 0)
            return cross_entropy(logits, targets, label_smoothing=term.label_smoothing)
        assert teacher is not None
        match term:
            case SoftTargetsTerm():
                return soft_targets(
                    logits, _same_classes(name, student, teacher), temperature=term.temperature
                )
            case HardTargetsTerm():
                return hard_targets(logits, _same_classes(name, student, teacher))
            case TemporalAttentionTerm(source="weights"):
                return _attention_weights(name, term, student, teacher)
        pairs = [
            (_tap(student, pair.student_tap), _tap(teacher, pair.teacher_tap, detach=True))
            for pair in term.tap_pairs
        ]
        match term:
            case HintTerm():
                projection = self.projections[_projection_key(name)]
                return hint(*pairs[0], projection=projection)
            case AttentionTransferTerm():
                layers = [attention_transfer(*pair, over=term.over) for pair in pairs]
                return torch.stack(layers).mean(dim=0)
            case TemporalAttentionTerm():
                return temporal_attention(*pairs[0], tau=term.tau)


def _projection_key(name: str) -> str:
    # A bare name could be one of ModuleDict's own attributes ("keys", "float").
    return f"{name}_projection"


def _shares(has_label: torch.Tensor, gather: Gather | None) -> tuple[_Share, _Share]:
    """For terms that count labelled clips only, and for those that count all."""
    everyone = torch.ones_like(has_label)
    counts = torch.stack([has_label.sum(), everyone.sum()])[None].float()
    joined = counts if gather is None else gather(counts)
    # No clip at all: a mean of 0, with a gradient of 0, instead of a division by 0.
    factors = joined.shape[0] / joined.sum(dim=0).clamp(min=1)
    return _Share(has_label, factors[0]), _Share(everyone, factors[1])


def _tap(output: ModelOutput, name: str, *, detach: bool = False) -> TapOutput:
    features, seconds = output.taps[name]
    features = features.detach() if detach else features
    return TapOutput(features.float(), seconds.detach().float())


def _attention_weights(
    name: str, term: TemporalAttentionTerm, student: ModelOutput, teacher: ModelOutput
) -> torch.Tensor:
    sides: list[tuple[torch.Tensor, torch.Tensor]] = []
    for role, output in (("student", student), ("teacher", teacher)):
        if output.attention is None or output.attention_seconds is None:
            raise ConfigError(
                f"objective.terms.{name}.source: the {role} has no temporal attention weights; "
                "use 'map', or a temporal module that has them"
            )
        sides.append((output.attention.float(), output.attention_seconds.detach().float()))
    (given, given_seconds), (wanted, wanted_seconds) = sides
    return attention_weights(
        given,
        wanted.detach(),
        student_seconds=given_seconds,
        teacher_seconds=wanted_seconds,
        tau=term.tau,
    )


def _check_outputs(
    student: ModelOutput, teacher: ModelOutput | None, batch: ClipBatch, *, needs_teacher: bool
) -> None:
    num_clips = student.logits.shape[0]
    if num_clips != batch.num_videos:
        raise ValueError(f"the student has {num_clips} outputs for {batch.num_videos} videos")
    if not needs_teacher:
        return
    if teacher is None:
        raise ValueError("the terms need a teacher's output and there is none")
    if teacher.logits.shape[0] != num_clips:
        raise ValueError(
            f"the teacher has {teacher.logits.shape[0]} outputs for {num_clips} videos; "
            "merge its views first"
        )


def _same_classes(name: str, student: ModelOutput, teacher: ModelOutput) -> torch.Tensor:
    """The teacher's logits, without a gradient."""
    given, wanted = student.logits.shape[1], teacher.logits.shape[1]
    if given != wanted:
        raise ConfigError(
            f"objective.terms.{name}: the teacher has {wanted} classes and the student {given}; "
            "distil logits from a teacher of the same classes, or features only"
        )
    return teacher.logits.detach().float()


def _check_term(
    name: str,
    term: Term,
    student_taps: Mapping[str, TapShape],
    teacher_taps: Mapping[str, TapShape] | None,
) -> None:
    where = f"objective.terms.{name}"
    if not term.needs_teacher:
        return
    if teacher_taps is None:
        raise ConfigError(
            f"{where}: {term.kind} needs a teacher and there is none; "
            "give the recipe a teacher or set the weight to 0"
        )
    for pair in term.tap_pairs:
        for role, tap, known in (
            ("student", pair.student_tap, student_taps),
            ("teacher", pair.teacher_tap, teacher_taps),
        ):
            if tap not in known:
                raise ConfigError(
                    f"{where}.{role}_tap: the {role} has no tap {tap!r}; "
                    f"{did_you_mean(tap, list(known))}"
                )
            if isinstance(term, TemporalAttentionTerm) and known[tap].t < 2:
                raise ConfigError(
                    f"{where}.{role}_tap: {tap!r} has one step in time, and attention over time "
                    "needs two; take a tap that keeps time"
                )
