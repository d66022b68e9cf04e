"""Students: a 2D network from timm, run on every frame, and a module that gives it time."""

from videokd.models.students.config import TimmVideoConfig
from videokd.models.students.network import FrameNetwork, create_timm_video
from videokd.models.students.placement import place_temporal

__all__ = ["FrameNetwork", "TimmVideoConfig", "create_timm_video", "place_temporal"]
