"""Settings of the terms on relations between clips: what is near what, and what is what's pair."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from videokd.distill.terms.base import Reads, WeightedTerm


class _RelationalTerm(WeightedTerm):
    source: Literal["pooled", "logits"] = "pooled"
    """The points: what the classifier sees, or what it says."""

    @property
    def reads(self) -> Reads:
        """The source."""
        return self.source


class RKDDistanceTerm(_RelationalTerm):
    """RKD: the distances between clips, relative to their mean over the global batch.

    Published weight: 25.
    """

    kind: Literal["rkd_distance"] = "rkd_distance"

    @property
    def min_clips(self) -> int:
        """One distance is its own mean."""
        return 3


class RKDAngleTerm(_RelationalTerm):
    """RKD: the angles of the triangles between clips of the global batch.

    Published weight: 50.
    """

    kind: Literal["rkd_angle"] = "rkd_angle"

    @property
    def min_clips(self) -> int:
        """A triangle."""
        return 3


class CRDTerm(WeightedTerm):
    """CRD: a clip's embedding is told from those of other videos by the other network's memory.

    Two embeddings of the pooled features are learned, and each video's are remembered. Published
    weight: 0.8.
    """

    kind: Literal["crd"] = "crd"
    num_negatives: int = Field(default=16384, ge=1)
    """Other videos that a clip is told from; fewer than there are videos to train on."""
    temperature: float = Field(default=0.07, gt=0)
    """Divides the cosine similarities."""
    momentum: float = Field(default=0.5, ge=0, lt=1)
    """Share of what was remembered of a video that stays when it is seen again."""
    embedding_dim: int = Field(default=128, ge=1)
    """Size of an embedding. The memory is twice this times the videos, 4 bytes each, on the device
    and in `last.pt`."""

    @property
    def reads(self) -> Reads:
        """What the classifier sees."""
        return "pooled"


RelationTerm = RKDDistanceTerm | RKDAngleTerm | CRDTerm
