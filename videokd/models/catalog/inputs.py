"""Input specs as plain data, for the tables of entries."""

from __future__ import annotations

from typing import Any

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
PYSLOWFAST = {"mean": [0.45, 0.45, 0.45], "std": [0.225, 0.225, 0.225]}
"""PySlowFast, PyTorchVideo, MViT, TimeSformer."""
TORCHVISION_R3D = {"mean": [0.43216, 0.394666, 0.37645], "std": [0.22803, 0.22145, 0.216989]}
"""torchvision's r3d_18, mc3_18, r2plus1d_18 and s3d."""
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
"""From -1 to 1: ViViT."""


def dense(num_frames: int, stride: int) -> dict[str, Any]:
    """T frames, `stride` apart."""
    return {"kind": "dense", "num_frames": num_frames, "stride": stride}


def segments(num_segments: int) -> dict[str, Any]:
    """One frame from each of T equal parts of the video."""
    return {"kind": "segment", "num_segments": num_segments}


def at_rate(num_frames: int, frames_per_second: float) -> dict[str, Any]:
    """T frames at a rate of their own, whatever the video's."""
    return {
        "kind": "seconds",
        "num_frames": num_frames,
        "span_seconds": num_frames / frames_per_second,
    }


def spec(
    sampling: dict[str, Any],
    short_side_px: int,
    crop_px: int,
    colours: dict[str, list[float]],
    *,
    resample: str = "bilinear",
) -> dict[str, Any]:
    """An `InputSpec` as plain data."""
    return {
        "sampling": sampling,
        "short_side_px": short_side_px,
        "crop_px": crop_px,
        "resample": resample,
        **colours,
    }
