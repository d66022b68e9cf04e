"""From rows of the index to batches: `loaders` says what, `supervised` survives what decoders do.

A batch is a pure function of the step (`sources`); one video's clips are drawn, decoded once and
rendered for each consumer (`clips`).
"""

from videokd.data.loading.clips import clip_tensor, read_clips, replay
from videokd.data.loading.loaders import (
    CachedEpochs,
    DataConfig,
    EvalLoader,
    TeacherInput,
    TrainLoader,
)

__all__ = [
    "CachedEpochs",
    "DataConfig",
    "EvalLoader",
    "TeacherInput",
    "TrainLoader",
    "clip_tensor",
    "read_clips",
    "replay",
]
