"""What every loss of an objective is: a module from two networks' outputs to a value a clip.

Letters: **N** clips of this process, **M** clips of all processes, **C t h w** a tap's axes, **K**
classes, **D** pooled features.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeVar

import torch
from torch import nn

from videokd.config import did_you_mean
from videokd.distill.terms.base import TapPair, WeightedTerm
from videokd.errors import ConfigError
from videokd.types import ModelOutput, TapOutput, TapShape

Gather = Callable[[torch.Tensor], torch.Tensor]
"""Joins the rows of all processes, [N, ...] to [M, ...], in the order of ranks; the same on each.
N may differ between processes. A gradient of the result flows back to the rows of the process that
they came from, summed over the processes. Every process has to call it equally often and in the
same order, whatever its clips are (`videokd.distill.gather`)."""

T = TypeVar("T", bound=WeightedTerm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """What a loss may know of the two networks and the data before the first batch."""

    student_taps: Mapping[str, TapShape]
    """Name -> shape of each tap that the student has."""
    teacher_taps: Mapping[str, TapShape] | None
    """The same for the teacher, after its views are merged; None without a teacher."""
    student_pooled_dim: int
    """D of the student."""
    teacher_pooled_dim: int | None
    """D of the teacher; None without one."""
    num_classes: int
    """K."""
    num_videos: int
    """Rows of the index: every video id is below it."""
    train_video_ids: Sequence[int] | None = None
    """Those of the videos that are trained on, labelled or not; None: every row of the index."""
    student_attends: bool | None = None
    """Whether the student has temporal attention weights; None: the first batch will tell."""
    teacher_attends: bool | None = None
    """The same for the teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """One batch as a loss sees it: all float32; nothing of the teacher requires a gradient."""

    student: ModelOutput
    teacher: ModelOutput | None
    """One output a video, the student's clips; None where no term needs it."""
    targets: torch.Tensor
    """float32 [N, K]; rows without a label are 0."""
    has_label: torch.Tensor
    """bool [N]."""
    video_ids: torch.Tensor
    """int64 [N], rows of the index."""
    progress: float
    """Share of the training that is done, in [0, 1]."""
    gather: Gather | None = None
    """None: this process is the only one."""

    def of_all_processes(self, rows: torch.Tensor) -> torch.Tensor:
        """[N, ...] to [M, ...]: what a formula over the batch is over, see `Gather`."""
        return rows if self.gather is None else self.gather(rows)

    def pair(self, pair: TapPair) -> tuple[TapOutput, TapOutput]:
        """The student's and the teacher's tap of a pair."""
        return self.student.taps[pair.student_tap], self.wanted.taps[pair.teacher_tap]

    @property
    def wanted(self) -> ModelOutput:
        """The teacher, for a term that needs it."""
        assert self.teacher is not None, "checked before the first batch"
        return self.teacher


class TermLoss(nn.Module, Generic[T]):
    """The loss of one term, with what it learns and what it remembers.

    Subclasses compute `[N]`: one value a clip, so that the objective decides who counts and the
    mean over all processes is the formula. A formula over pairs or columns of the batch gives each
    clip its own row of it, with the rows of all processes on the other side
    (`outputs.of_all_processes`), scaled so that the **mean over the global batch** is the formula.
    Its gradient is then that of one process with the whole batch.

    Args:
        name: of the term in the recipe; errors and random numbers go by it.
        term: its settings.
        networks: what is known of both sides.
        generator: of first weights and of anything else that chance decides; the global random
            state is not touched.

    Raises:
        ConfigError: the term cannot be computed between these networks.
    """

    labelled_only: ClassVar[bool] = False
    """Only clips with a label count."""
    aligns_time: ClassVar[bool] = True
    """The teacher's tap is read at the student's seconds; what the tap report says of it."""
    aligns_space: bool = True
    """The finer of two taps' grids is pooled to the coarser; what the tap report says of it."""

    def __init__(
        self, name: str, term: T, networks: Networks, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.name = name
        self.term = term
        self.networks = networks
        self._check_taps()
        self.build(generator)

    def build(self, generator: torch.Generator) -> None:
        """Make projections and buffers, and refuse what cannot be computed; nothing by default."""

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N], unweighted; called outside autocast."""
        raise NotImplementedError

    @property
    def where(self) -> str:
        """The term as errors name it."""
        return f"objective.terms.{self.name}"

    def shapes(self, pair: TapPair) -> tuple[TapShape, TapShape]:
        """What the two taps of a pair look like."""
        assert self.networks.teacher_taps is not None
        return (
            self.networks.student_taps[pair.student_tap],
            self.networks.teacher_taps[pair.teacher_tap],
        )

    def _check_taps(self) -> None:
        if not self.term.needs_teacher:
            return
        if self.networks.teacher_taps is None:
            raise ConfigError(
                f"{self.where}: {self.term.kind} needs a teacher and there is none; "
                "give the recipe a teacher or set the weight to 0"
            )
        for pair in self.term.tap_pairs:
            check_tap(self.name, "student", pair.student_tap, self.networks.student_taps)
            check_tap(self.name, "teacher", pair.teacher_tap, self.networks.teacher_taps)

    def needs_time(self, pair: TapPair) -> None:
        """Refuse a pair of which one side has a single step.

        Raises:
            ConfigError: it has.
        """
        for role, tap, shape in zip(
            ("student", "teacher"),
            (pair.student_tap, pair.teacher_tap),
            self.shapes(pair),
            strict=True,
        ):
            if shape.t < 2:
                raise ConfigError(
                    f"{self.where}.{role}_tap: {tap!r} has one step in time, and {self.term.kind} "
                    "needs two; take a tap that keeps time"
                )


def check_tap(
    term: str, role: Literal["student", "teacher"], tap: str, known: Collection[str]
) -> None:
    """Refuse a tap that a network does not have.

    Raises:
        ConfigError: with the nearest name that it has.
    """
    if tap not in known:
        raise ConfigError(
            f"objective.terms.{term}.{role}_tap: the {role} has no tap {tap!r}; "
            f"{did_you_mean(tap, list(known))}"
        )
