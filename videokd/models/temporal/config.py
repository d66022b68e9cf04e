"""Settings of the modules that give a 2D network time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from videokd.config import Config


class NoTemporalConfig(Config):
    """Frames do not see each other; their features are averaged (TSN, arXiv:1608.00859)."""

    kind: Literal["none"] = "none"


class ShiftConfig(Config):
    """Temporal shift (TSM, arXiv:1811.08383) in every residual branch, then the average."""

    kind: Literal["shift"] = "shift"
    shift_div: int = Field(default=8, ge=2)
    """One part in `shift_div` of the channels comes from the next frame, one from the last."""


class DepthwiseConfig(Config):
    """A learned filter over three frames for each channel, where the shift is, then the average."""

    kind: Literal["depthwise"] = "depthwise"
    shift_div: int = Field(default=8, ge=2)
    """The filters start as the shift of this `shift_div`, and learn from there."""


class TamConfig(Config):
    """Filters over time that each clip makes for itself (TAM, arXiv:2005.06803), then the average.

    As published: three frames, the local branch a quarter as wide, the global one twice as long.
    """

    kind: Literal["tam"] = "tam"


class AttentionPoolConfig(Config):
    """Self-attention over the T frame features, then a learned query that weighs the frames."""

    kind: Literal["attention_pool"] = "attention_pool"
    num_heads: int = Field(default=4, ge=1)
    """Heads of the self-attention; they divide the backbone's feature width."""
    shift_div: int | None = Field(default=None, ge=2)
    """With a number, the residual branches are shifted too, as by `kind: shift`."""


class GruConfig(Config):
    """A GRU over the T frame features, its states averaged (LRCN, arXiv:1411.4389)."""

    kind: Literal["gru"] = "gru"
    hidden_dim: int = Field(default=256, ge=1)
    """Width of the state, which the classifier then sees instead of the backbone's features."""


TemporalConfig = Annotated[
    NoTemporalConfig | ShiftConfig | DepthwiseConfig | TamConfig | AttentionPoolConfig | GruConfig,
    Field(discriminator="kind"),
]
