"""The modules that give a 2D network time."""

from videokd.models.temporal.adaptive import TemporalAdaptive
from videokd.models.temporal.branch import BranchModule, filter_over_time
from videokd.models.temporal.config import (
    AttentionPoolConfig,
    DepthwiseConfig,
    GruConfig,
    NoTemporalConfig,
    ShiftConfig,
    TamConfig,
    TemporalConfig,
)
from videokd.models.temporal.depthwise import TemporalDepthwise
from videokd.models.temporal.pooling import (
    AttentionPool,
    FrameWeights,
    GruPool,
    MeanPool,
    create_temporal_pool,
)
from videokd.models.temporal.shift import TemporalShift

__all__ = [
    "AttentionPool",
    "AttentionPoolConfig",
    "BranchModule",
    "DepthwiseConfig",
    "FrameWeights",
    "GruConfig",
    "GruPool",
    "MeanPool",
    "NoTemporalConfig",
    "ShiftConfig",
    "TamConfig",
    "TemporalAdaptive",
    "TemporalConfig",
    "TemporalDepthwise",
    "TemporalShift",
    "create_temporal_pool",
    "filter_over_time",
]
