"""What heads do where they classify several windows of a clip (fully convolutional inference).

Letters: **N** clips, **K** classes, **t h w** windows in time and space.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from videokd.models.video_model import NetworkParts


class ProbabilityAverage(nn.Module):
    """Logits of windows to logits of the clip, whose softmax is the mean of the windows' softmax.

    PyTorchVideo's X3D and R(2+1)D take the softmax in their heads, window by window, and return the
    mean of that. Losses want logits: these give the same probabilities, and those of one window
    alone are left as they are.
    """

    def forward(self, logits: Tensor) -> Tensor:
        """[N,K,t,h,w] -> [N,K,1,1,1]."""
        windows = logits.flatten(2)
        num_windows = windows.shape[2]
        if num_windows == 1:
            return logits
        log_mean = windows.log_softmax(1).logsumexp(2, keepdim=True) - math.log(num_windows)
        # What the softmax takes away, so that a window seen twice counts as once.
        offset = windows.logsumexp(1, keepdim=True).mean(2, keepdim=True)
        return (log_mean + offset)[..., None, None]


def average_probabilities(parts: NetworkParts) -> None:
    """Let the head of pytorchvideo's network average its windows so."""
    head = parts.network.get_submodule(parts.classifier.rpartition(".")[0])
    head.output_pool = ProbabilityAverage()
