"""The embedded data set; `dataset` says how it is made so that only motion tells classes apart."""

from videokd.data.synthetic.dataset import write_dataset
from videokd.data.synthetic.motion import (
    CLASS_NAMES,
    FLIP_SWAPS,
    PRESETS,
    SPLITS,
    Split,
    SyntheticConfig,
    Trajectory,
    label_of,
    preset_config,
    trajectory,
)
from videokd.data.synthetic.scenes import render_video

__all__ = [
    "CLASS_NAMES",
    "FLIP_SWAPS",
    "PRESETS",
    "SPLITS",
    "Split",
    "SyntheticConfig",
    "Trajectory",
    "label_of",
    "preset_config",
    "render_video",
    "trajectory",
    "write_dataset",
]
