"""A 2D network from timm, run on every frame, with a module that gives it time.

Letters: **N** clips, **T** frames, **S** crop side (px), **K** classes, **D** features a frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from videokd.models.students.backbone import classifier_of, create_backbone, stage_taps
from videokd.models.students.config import TimmVideoConfig
from videokd.models.students.placement import place_temporal
from videokd.models.temporal import GruPool, create_temporal_pool
from videokd.models.video_model import NetworkParts


class FrameNetwork(nn.Module):
    """A 2D network over the frames of a clip, pooled over time before its own classifier.

    Averaging features before the linear layer is the same as averaging the frames' logits
    (the consensus of TSN and TSM), and pays for one classification instead of T.
    """

    backbone: Any  # a module with timm's forward_features, forward_head and get_classifier

    def __init__(
        self, backbone: nn.Module, pool: nn.Module, *, classifier: str, dropout: float
    ) -> None:
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.pool = pool
        self.dropout = nn.Dropout(dropout)
        self._classifier = classifier

    def forward(self, clips: Tensor) -> Tensor:
        """Classify [N,3,T,S,S]: logits [N,K]."""
        num_clips = clips.shape[0]
        # Channels last, as decoded frames lie: no copy in the usual case, and the same order of
        # additions whatever the caller's layout.
        frames = clips.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps = self.backbone.forward_features(frames)
        features = self.backbone.forward_head(maps, pre_logits=True)
        pooled = self.pool(features.unflatten(0, (num_clips, -1)))
        return self.backbone.get_submodule(self._classifier)(self.dropout(pooled))


def create_timm_video(config: TimmVideoConfig, num_classes: int) -> NetworkParts:
    """The 2D network of `config` with its temporal module.

    Raises:
        ConfigError: for a backbone that timm does not know, arguments that it does not take, and a
            family in which the temporal module does not know where to go.
        UserError: where ImageNet weights are asked for and do not arrive.
    """
    backbone = create_backbone(config, num_classes)
    classifier = classifier_of(backbone, config.backbone)
    num_frames = config.input.num_frames
    place_temporal(backbone, config.temporal, num_frames=num_frames, name=config.backbone)
    dim = backbone.get_submodule(classifier).in_features
    assert isinstance(dim, int)
    pool = create_temporal_pool(config.temporal, dim, num_frames)
    if isinstance(pool, GruPool):
        backbone.set_submodule(classifier, nn.Linear(pool.hidden_dim, num_classes))
    return NetworkParts(
        network=FrameNetwork(backbone, pool, classifier=classifier, dropout=config.dropout),
        classifier=f"backbone.{classifier}",
        taps=stage_taps(backbone, num_frames),
        attention="pool.attention" if hasattr(pool, "attention") else None,
    )
