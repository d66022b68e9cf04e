"""Settings of the terms on logits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from videokd.distill.terms.base import Reads, WeightedTerm


class CrossEntropyTerm(WeightedTerm):
    """Cross entropy with the labels; videos without a label do not count."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over all K classes."""

    @property
    def reads(self) -> Reads:
        """Labels come from the index."""
        return "nothing"


class SoftTargetsTerm(WeightedTerm):
    """KL from the teacher's softened class probabilities to the student's, times temperature^2.

    Its form with logit standardisation is, as published, `standardise: true`, `temperature: 2`,
    `weight: 9`, beside labels of weight 0.1.
    """

    kind: Literal["soft_targets"] = "soft_targets"
    temperature: float = Field(default=4.0, gt=0)
    """Divides both sides' logits before the softmax."""
    standardise: bool = False
    """Both sides' logits are brought to zero mean and unit spread first, a clip at a time, so that
    the student need not reach the teacher's range. A temperature of 2 to 3 suits."""

    @property
    def reads(self) -> Reads:
        """The spread of logits, where they are brought to a common one."""
        return "logits" if self.standardise else "probabilities"


class HardTargetsTerm(WeightedTerm):
    """Cross entropy with the class that the teacher ranks first."""

    kind: Literal["hard_targets"] = "hard_targets"

    @property
    def reads(self) -> Reads:
        """The first class."""
        return "probabilities"


class DecoupledTerm(WeightedTerm):
    """DKD: soft targets in two parts, of the true class and of the others, weighed apart.

    Only clips with a label count; of a mixed clip both classes are true. As published, the weight
    rises from 0 over the first 20 epochs of 240: `schedule: {warmup: 0.083}`; of E epochs, 20 / E.
    """

    kind: Literal["dkd"] = "dkd"
    alpha: float = Field(default=1.0, ge=0)
    """Weight of the part on the true class: how hard the clip is."""
    beta: float = Field(default=8.0, ge=0)
    """Weight of the part among the other classes: what the clip is like, if not itself."""
    temperature: float = Field(default=4.0, gt=0)
    """Divides both sides' logits before the softmax."""
    standardise: bool = False
    """As for `soft_targets`."""

    @model_validator(mode="after")
    def _a_part_counts(self) -> DecoupledTerm:
        if self.alpha == self.beta == 0:
            raise ValueError("alpha and beta are both 0, so nothing is left of the term; raise one")
        return self

    @property
    def reads(self) -> Reads:
        """All but the label's, by themselves."""
        return "logits"


class DistTerm(WeightedTerm):
    """DIST: one minus the correlation with the teacher's class probabilities, in two directions."""

    kind: Literal["dist"] = "dist"
    temperature: float = Field(default=1.0, gt=0)
    """Divides both sides' logits before the softmax."""
    beta: float = Field(default=1.0, ge=0)
    """Weight of the part over the classes of a clip."""
    gamma: float = Field(default=1.0, ge=0)
    """Weight of the part over the clips of the global batch, a class at a time."""
    standardise: bool = False
    """As for `soft_targets`."""

    @model_validator(mode="after")
    def _a_part_counts(self) -> DistTerm:
        if self.beta == self.gamma == 0:
            raise ValueError("beta and gamma are both 0, so nothing is left of the term; raise one")
        return self

    @property
    def reads(self) -> Reads:
        """Each class over the clips."""
        return "logits"

    @property
    def min_clips(self) -> int:
        """The part over clips, where it is alone, correlates two or more."""
        return 1 if self.beta > 0 else 2


class BinaryCrossEntropyTerm(WeightedTerm):
    """Cross entropy of a yes or no a class, for videos with several labels; mean over classes.

    A recipe with it is multi-label: videos may have several labels, scores are sigmoids, and the
    mean average precision chooses the best weights. Videos without a label do not count.
    """

    kind: Literal["binary_cross_entropy"] = "binary_cross_entropy"

    @property
    def reads(self) -> Reads:
        """Labels come from the index."""
        return "nothing"


class BinarySoftTargetsTerm(WeightedTerm):
    """KL from the teacher's softened yes or no to the student's, a class at a time, mean over them,
    times temperature^2."""

    kind: Literal["binary_soft_targets"] = "binary_soft_targets"
    temperature: float = Field(default=1.0, gt=0)
    """Divides both sides' logits before the sigmoid."""

    @property
    def reads(self) -> Reads:
        """Each class alone."""
        return "logits"


LogitTerm = (
    CrossEntropyTerm
    | SoftTargetsTerm
    | HardTargetsTerm
    | DecoupledTerm
    | DistTerm
    | BinaryCrossEntropyTerm
    | BinarySoftTargetsTerm
)
