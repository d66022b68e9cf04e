"""Evaluation: the mean softmax over the views of a video, every video exactly once.

Where a video may have several labels it is the mean sigmoid, each class a yes or no of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field, model_validator
from torch.nn import functional as F

from videokd.config import Config
from videokd.data.loading import EvalLoader, clip_tensor
from videokd.data.sampling.protocols import EvalProtocol, own_views, protocol_named
from videokd.errors import ConfigError
from videokd.models.video_model import VideoModel
from videokd.types import ClipBatch, NumCrops

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class EvalConfig(Config):
    """The views of a video: clips in time, and crops of each clip."""

    num_clips: int = Field(1, ge=1)
    """Clips a video, from its beginning to its end."""
    num_crops: NumCrops = 1
    """1: the centre; 3: left, centre, right (or top, centre, bottom); 5: the corners and the
    centre; 10: those five and their mirror images."""
    protocol: str | None = None
    """The views of another toolkit's test by name, such as `pyslowfast_10x3`; it brings its own
    clips and crops, so `num_clips` and `num_crops` stay as they are."""
    batch_size: int = Field(16, ge=1)
    """Videos decoded at a time, per process; the network sees as many clips at a time."""

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> EvalConfig:
        if self.protocol is None:
            return self
        try:
            views = protocol_named(self.protocol)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if (self.num_clips, self.num_crops) != (1, 1):
            raise ValueError(
                f"protocol {views.name} has {views.num_clips} clips x {views.num_crops} crops of "
                f"its own, num_clips {self.num_clips} and num_crops {self.num_crops} ask for "
                "others; give one of the two"
            )
        return self

    @property
    def views(self) -> EvalProtocol:
        """Clips and crops of a video."""
        if self.protocol is not None:
            return protocol_named(self.protocol)
        return own_views(self.num_clips, self.num_crops)

    @property
    def num_views(self) -> int:
        """V, views a video."""
        return self.views.num_views


@dataclass(frozen=True)
class VideoScores:
    """One row a video, in the order of the index."""

    video_ids: torch.Tensor
    """int64 [M]."""
    probabilities: torch.Tensor
    """float32 [M, K], the mean over views of softmax(logits), or of sigmoid(logits)."""
    targets: torch.Tensor
    """float32 [M, K]."""
    is_multi_label: bool = False
    """The probabilities are sigmoids, and a video may have several labels."""

    @property
    def labels(self) -> torch.Tensor:
        """int64 [M], the class of each video; of videos with one label each."""
        return self.targets.argmax(1)

    @property
    def top1_pct(self) -> float:
        """Share of videos whose most probable class is theirs, or one of theirs."""
        first = self.probabilities.argmax(1, keepdim=True)
        return 100 * float((self.targets.gather(1, first) > 0).double().mean())

    @property
    def cross_entropy(self) -> float:
        """Mean negative log-likelihood of the true class, or of every class's yes or no."""
        if self.is_multi_label:
            probabilities = self.probabilities.double().clamp(1e-12, 1 - 1e-12)
            return float(F.binary_cross_entropy(probabilities, self.targets.double()))
        logs = self.probabilities.double().clamp_min(1e-12).log()
        return float(F.nll_loss(logs, self.labels))


Rearrange = Callable[[ClipBatch], torch.Tensor]
"""The student's frames of a batch, uint8 [B, V, T, S, S, 3], in another order or with others in
their place. Their positions, and so their seconds, stay."""


def score_videos(
    fabric: Fabric,
    model: VideoModel,
    loader: EvalLoader,
    *,
    is_multi_label: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> VideoScores:
    """Run `model` over all videos of `loader`; under several processes each does its share.

    The model is put in eval mode and given back in the mode it was in. With `is_multi_label` the
    mean is of sigmoids.

    Raises:
        UnreadableVideo: a video that does not decode stops an evaluation.
    """
    orders: dict[str, Rearrange] = {"": lambda batch: batch.frames["student"]}
    return score_rearranged(
        fabric, model, loader, orders, is_multi_label=is_multi_label, on_progress=on_progress
    )[""]


@torch.no_grad()
def score_rearranged(
    fabric: Fabric,
    model: VideoModel,
    loader: EvalLoader,
    orders: Mapping[str, Rearrange],
    *,
    is_multi_label: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, VideoScores]:
    """The scores of `score_videos` for each of several orders of the frames.

    Every video is decoded once, and goes through the model once for each order.

    Raises:
        UnreadableVideo: a video that does not decode stops an evaluation.
    """
    was_training = model.training
    model.eval()
    rows: list[tuple[torch.Tensor, ...]] = []
    done = 0
    to_probabilities = torch.sigmoid if is_multi_label else partial(F.softmax, dim=-1)
    try:
        for batch in loader:
            seconds = batch.frame_seconds["student"]
            scores = [
                _mean_over_views(fabric, model, rearrange(batch), seconds, to_probabilities)
                for rearrange in orders.values()
            ]
            rows.append((batch.video_ids, batch.targets, *scores))
            done += batch.num_videos
            if on_progress is not None:
                on_progress(min(done * fabric.world_size, loader.num_videos), loader.num_videos, "")
    finally:
        model.train(was_training)
    video_ids, targets, *probabilities = _in_order(_from_all_processes(fabric, rows))
    return {
        name: VideoScores(video_ids, of_order, targets, is_multi_label)
        for name, of_order in zip(orders, probabilities, strict=True)
    }


def _mean_over_views(
    fabric: Fabric,
    model: VideoModel,
    frames: torch.Tensor,
    frame_seconds: torch.Tensor,
    to_probabilities: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """float32 [B, K]: the mean probabilities over each video's views, on the CPU.

    As many clips as there are videos go through the network at a time: thirty views of each at once
    would take thirty times the memory.
    """
    at_a_time = len(frames)
    parts = []
    for part, when in zip(
        frames.flatten(0, 1).split(at_a_time),
        frame_seconds.flatten(0, 1).split(at_a_time),
        strict=True,
    ):
        clips = clip_tensor(part.unsqueeze(1).to(fabric.device))
        with fabric.autocast():
            logits = model(clips, when.to(fabric.device)).logits
        parts.append(to_probabilities(logits.float()))
    return torch.cat(parts).unflatten(0, frames.shape[:2]).mean(1).cpu()


def _from_all_processes(
    fabric: Fabric, rows: list[tuple[torch.Tensor, ...]]
) -> list[tuple[torch.Tensor, ...]]:
    if fabric.world_size == 1:
        return rows
    gathered: list[list[tuple[torch.Tensor, ...]] | None] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, rows)
    return [row for part in gathered if part is not None for row in part]


def _in_order(rows: list[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
    """The columns of the rows, video ids first, in the order of the index."""
    columns = [torch.cat(column) for column in zip(*rows, strict=True)]
    order = columns[0].argsort()
    assert len(columns[0].unique()) == len(order), "a video was evaluated twice"
    return [column[order] for column in columns]
