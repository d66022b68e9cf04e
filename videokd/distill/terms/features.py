"""Settings of the terms on spatial and pooled features."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from videokd.distill.terms.base import Reads, TapPair, WeightedTerm


class TapTerm(WeightedTerm):
    """What a term between taps has."""

    @property
    def reads(self) -> Reads:
        """The taps of its pairs."""
        return "taps"


class OnePairTerm(TapTerm):
    """What a term between one tap of each side has."""

    student_tap: str
    """Name of a tap of the student."""
    teacher_tap: str
    """Name of a tap of the teacher."""

    @property
    def tap_pairs(self) -> tuple[TapPair, ...]:
        """The one pair."""
        return (TapPair(student_tap=self.student_tap, teacher_tap=self.teacher_tap),)


class HintTerm(OnePairTerm):
    """Mean squared error of a projected student tap against a teacher tap (FitNets).

    Published weight: 100.
    """

    kind: Literal["hint"] = "hint"
    norm: Literal["none", "batch"] = "none"
    """Batch norm after the projection. Its statistics are each process's own, so with `batch` a
    run on several processes is not the same as one process with the same global batch."""


class AttentionTransferTerm(TapTerm):
    """Squared difference of normalised activation maps, mean over the pairs of taps (AT, p = 2).

    Published weight: 1000, for the sum over pairs.
    """

    kind: Literal["attention_transfer"] = "attention_transfer"
    pairs: tuple[TapPair, ...] = Field(min_length=1)
    """The taps to compare; the loss is the mean over them."""
    over: Literal["space", "space_time"] = "space"
    """What a map is normalised over: `space`, each step's map by itself (where to look, as in the
    paper on images, so that its weights carry over); `space_time`, the clip's whole map."""

    @property
    def tap_pairs(self) -> tuple[TapPair, ...]:
        """The pairs as given."""
        return self.pairs


class SimilarityPreservingTerm(OnePairTerm):
    """Which clips of the batch look alike, to the teacher and to the student (SP).

    Nothing is learned and nothing aligned: the taps may differ in everything. Published weight:
    3000.
    """

    kind: Literal["similarity_preserving"] = "similarity_preserving"

    @property
    def min_clips(self) -> int:
        """A clip is always like itself."""
        return 2


class ChannelWiseTerm(OnePairTerm):
    """KL, a channel at a time, between the softmaxes over positions, times temperature^2 (CWD).

    Published: weight 3 at temperature 4 (of the maps before a softmax over classes).
    """

    kind: Literal["channel_wise"] = "channel_wise"
    temperature: float = Field(default=4.0, gt=0)
    """Divides both sides' activations before the softmax."""
    over: Literal["space", "space_time"] = "space"
    """What a channel's softmax runs over: `space`, the cells of each step (where it fires, as in
    the paper on images); `space_time`, all cells of all steps (where and when)."""


class ReviewTerm(TapTerm):
    """The student's levels, each fused with the deeper ones, against the teacher's (ReviewKD).

    Published weight: 0.6 to 8, with a linear warm-up of 20 epochs of 240: see `schedule`.
    """

    kind: Literal["review"] = "review"
    pairs: tuple[TapPair, ...] = Field(min_length=2)
    """The taps to compare, from shallow to deep; the loss is the sum over them."""

    @property
    def tap_pairs(self) -> tuple[TapPair, ...]:
        """The pairs as given."""
        return self.pairs


class PooledMseTerm(WeightedTerm):
    """Mean squared error of what the two classifiers see (MARS).

    Published weight: 50.
    """

    kind: Literal["pooled_mse"] = "pooled_mse"

    @property
    def reads(self) -> Reads:
        """What the classifier sees."""
        return "pooled"


FeatureTerm = (
    HintTerm
    | AttentionTransferTerm
    | SimilarityPreservingTerm
    | ChannelWiseTerm
    | ReviewTerm
    | PooledMseTerm
)
