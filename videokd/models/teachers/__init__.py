"""Teachers: 3D networks as published, of any width and depth where their builders allow it."""

from videokd.models.teachers.mvit import MViTConfig, create_mvit
from videokd.models.teachers.separable import (
    CSNConfig,
    R2Plus1DConfig,
    create_csn,
    create_r2plus1d,
)
from videokd.models.teachers.slow import (
    C2DConfig,
    I3DConfig,
    SlowConfig,
    SlowFamilyConfig,
    create_slow,
)
from videokd.models.teachers.slowfast import SlowFastConfig, create_slowfast
from videokd.models.teachers.torchvision_nets import TorchvisionConfig, create_torchvision
from videokd.models.teachers.x3d import X3DConfig, create_x3d

__all__ = [
    "C2DConfig",
    "CSNConfig",
    "I3DConfig",
    "MViTConfig",
    "R2Plus1DConfig",
    "SlowConfig",
    "SlowFamilyConfig",
    "SlowFastConfig",
    "TorchvisionConfig",
    "X3DConfig",
    "create_csn",
    "create_mvit",
    "create_r2plus1d",
    "create_slow",
    "create_slowfast",
    "create_torchvision",
    "create_x3d",
]
