"""Predict the classes of any video file with a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from videokd.data.loading import clip_tensor, read_clips
from videokd.errors import UserError
from videokd.recipe import Device, Trained, create_fabric


@torch.no_grad()
def predict(
    trained: Trained, path: Path, *, topk: int = 5, device: Device = "auto"
) -> dict[str, Any]:
    """`{"path", "topk": [{"label", "score"}]}`, most probable first; scores are probabilities.

    The views are those of the recipe's evaluation: the mean softmax over its clips and crops, or
    of a multi-label network, whose scores need not sum to 1, the mean sigmoid.

    Raises:
        UserError: no such file, `topk` below 1.
        UnreadableVideo: a file that does not decode.
    """
    if topk < 1:
        raise UserError(f"topk is {topk}; at least 1 is needed")
    fabric = create_fabric(device, trained.precision)
    batch = read_clips(path, trained.model.spec, views=trained.config.eval.views)
    model = trained.model.without_taps().to(fabric.device).eval()
    with fabric.autocast():
        output = model(
            clip_tensor(batch.frames["student"].to(fabric.device)),
            batch.frame_seconds["student"].flatten(0, 1).to(fabric.device),
        )
    logits = output.logits.float()
    is_multi_label = trained.config.objective.is_multi_label
    views = logits.sigmoid() if is_multi_label else logits.softmax(-1)
    probabilities = views.mean(0).cpu()
    scores, labels = probabilities.topk(min(topk, len(trained.classes)))
    return {
        "path": str(path),
        "topk": [
            {"label": trained.classes[label], "score": score}
            for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
        ],
    }
