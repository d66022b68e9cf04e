"""The objective: named, weighted terms, summed. It sees outputs, never a network.

`terms` has all kinds with their settings, and an example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from videokd.distill.losses import LOSSES, Gather, Networks, Outputs, TermLoss
from videokd.distill.projections import term_generator
from videokd.distill.terms import ObjectiveConfig
from videokd.distill.views import merge_views
from videokd.types import ClipBatch, ModelOutput, TapOutput

__all__ = ["Gather", "LossBreakdown", "Networks", "Objective", "ObjectiveConfig", "merge_views"]


@dataclass(slots=True)
class LossBreakdown:
    """What one batch costs, and why."""

    total: torch.Tensor
    """float32 scalar; the tensor to backpropagate."""
    terms: dict[str, torch.Tensor]
    """Name -> detached weighted float32 scalar; they sum to `total`. A term that is off is 0."""


class _Share(NamedTuple):
    """Which local clips count for a term, and what each of them weighs in its mean."""

    counts: torch.Tensor
    """bool [N]."""
    factor: torch.Tensor
    """Scalar: processes / clips that count in all of them."""


class Objective(nn.Module):
    """The weighted sum of a recipe's terms, with what they learn and remember.

    A term's value is the mean over the clips that count for it in **all** processes: each process
    sums its own, times `processes / global count`. DDP's mean of the gradients is then exactly the
    gradient of one process with the whole batch, however unevenly labels are spread.

    A term whose schedule says 0 is not computed: it costs nothing, sees no batch (a memory bank
    stands still) and its parameters keep their values, see `drop_idle_gradients`.

    Args:
        config: the terms.
        networks: what is known of both sides.
        seed: of the first weights of projections. The global random state is not touched.

    Raises:
        ConfigError: for a tap that does not exist, a teacher that is needed and missing, a
            temporal term on a tap of a single step.
    """

    def __init__(self, config: ObjectiveConfig, networks: Networks, *, seed: int) -> None:
        super().__init__()
        self.config = config
        # A bare name could be one of ModuleDict's own attributes ("keys", "float").
        self.losses = nn.ModuleDict(
            {
                f"{name}_loss": LOSSES[type(term)](
                    name, term, networks, generator=term_generator(seed, name)
                )
                for name, term in config.active_terms.items()
            }
        )

    def forward(
        self,
        student: ModelOutput,
        teacher: ModelOutput | None,
        batch: ClipBatch,
        *,
        progress: float,
        gather: Gather | None = None,
        label_factor: torch.Tensor | None = None,
    ) -> LossBreakdown:
        """The loss of one batch; everything is computed in float32, under autocast too.

        Args:
            student: N = B clips.
            teacher: the same N clips, one output a video (`merge_views`, `combine_teachers`); no
                gradient reaches it. None where no term that is on needs it.
            batch: its `targets`, `has_label` and `video_ids` are read.
            progress: share of the training that is done, in [0, 1].
            gather: joins rows over processes; None for a single process.
            label_factor: for a part of a batch, whose loss will weigh its share of all clips: its
                share of the clips with a label over that, by which the terms on labels are
                multiplied. So their mean over the whole batch is over the clips with a label too,
                however these fall to the parts. None: this is the whole batch.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be in [0, 1], not {progress}")
        weights = self.config.weights_at(progress)
        needs_teacher = self.config.needs_teacher_at(progress)
        _check_outputs(student, teacher, batch, needs_teacher=needs_teacher)
        with torch.autocast(student.logits.device.type, enabled=False):
            outputs = Outputs(
                student=_as_float(student),
                teacher=None if teacher is None else _as_float(teacher, detach=True),
                # Masked before the loss: a 0 behind it would not stop a NaN in the gradient.
                targets=torch.where(batch.has_label[:, None], batch.targets.float(), 0),
                has_label=batch.has_label,
                video_ids=batch.video_ids,
                progress=progress,
                gather=gather,
            )
            labelled, everyone = _shares(batch.has_label, gather)
            if label_factor is not None:
                labelled = labelled._replace(factor=labelled.factor * label_factor)
            weighted: dict[str, torch.Tensor] = {}
            for loss in self.active_losses:
                if (weight := weights[loss.name]) > 0:
                    share = labelled if loss.labelled_only else everyone
                    kept = torch.where(share.counts, loss(outputs), 0)
                    weighted[loss.name] = weight * (kept.sum() * share.factor)
        # DDP waits for a gradient of every parameter: of the classifier too, where no term that is
        # on looks at the logits.
        total = sum(
            weighted.values(), start=_nothing_of([student.logits, *self._idle_parameters(progress)])
        )
        off = torch.zeros_like(total)
        terms = {name: weighted.get(name, off).detach() for name in self.config.terms}
        return LossBreakdown(total=total, terms=terms)

    def drop_idle_gradients(self, progress: float) -> None:
        """Call it between the backward pass and the optimiser's step.

        The parameters of terms that are off are then left alone: no weight decay, no momentum. In
        the graph they stay, with a gradient of 0: DDP waits for every parameter's.
        """
        for parameter in self._idle_parameters(progress):
            parameter.grad = None

    def scheduled_weights_at(self, progress: float) -> dict[str, float]:
        """The weights that change, for curves: a term's curve divided by its weight is its loss."""
        weights, terms = self.config.weights_at(progress), self.config.active_terms
        return {name: weights[name] for name, term in terms.items() if term.schedule is not None}

    @property
    def active_losses(self) -> Iterator[TermLoss[Any]]:
        """Those of terms with a weight above 0, whether their schedule has them on or off."""
        for loss in self.losses.values():
            assert isinstance(loss, TermLoss)
            yield loss

    def _idle_parameters(self, progress: float) -> Iterator[nn.Parameter]:
        weights = self.config.weights_at(progress)
        for loss in self.active_losses:
            if weights[loss.name] == 0:
                yield from loss.parameters()


def _nothing_of(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """A float32 scalar 0 with a gradient of 0 to each tensor, whatever numbers they hold."""
    return torch.stack([tensor.reshape(-1)[:0].float().sum() for tensor in tensors]).sum()


def _shares(has_label: torch.Tensor, gather: Gather | None) -> tuple[_Share, _Share]:
    """For terms that count labelled clips only, and for those that count all."""
    everyone = torch.ones_like(has_label)
    counts = torch.stack([has_label.sum(), everyone.sum()])[None].float()
    joined = counts if gather is None else gather(counts)
    # No clip at all: a mean of 0, with a gradient of 0, instead of a division by 0.
    factors = joined.shape[0] / joined.sum(dim=0).clamp(min=1)
    return _Share(has_label, factors[0]), _Share(everyone, factors[1])


def _as_float(output: ModelOutput, *, detach: bool = False) -> ModelOutput:
    """In float32; with `detach`, without a gradient. When steps happened never has one."""

    def given(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.detach() if detach else tensor).float()

    def seconds(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().float()

    attention, when = output.attention, output.attention_seconds
    return replace(
        output,
        logits=given(output.logits),
        pooled=given(output.pooled),
        taps={
            name: TapOutput(given(tap.features), seconds(tap.step_seconds))
            for name, tap in output.taps.items()
        },
        attention=None if attention is None else given(attention),
        attention_seconds=None if when is None else seconds(when),
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
